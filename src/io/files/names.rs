//! Names from strangers, names of our own, and how paths and failures are told to a person.

use nix::errno::Errno;

use crate::base::fileop::FileFault;
use crate::base::id::hex;
use crate::crypto::hash::blake3;
use crate::limits::NAME_MAX;

/// Names one entry of a job for its journal: a hash over the names on the way to it.
pub type PathHash = [u8; 16];

/// What the names of unfinished files end with, before the job's eight digits.
const PART: &str = ".tornet-part-";

/// Says why a name from a directory cannot be one path component here.
pub fn refuse(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("an empty name"),
        b"." | b".." => Some("a name that leads out of its directory"),
        _ if name.len() > NAME_MAX => Some("a name longer than 255 bytes"),
        _ if name.contains(&b'/') => Some("a name with a slash"),
        _ if name.contains(&0) => Some("a name with a NUL"),
        _ => None,
    }
}

/// How this job's unfinished files end; the same when the job is started again.
pub fn part_suffix(journal: &[u8; 16]) -> String {
    let [a, b, c, d, ..] = journal;
    format!("{PART}{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// The longest name that is part of its temporary name, bytes: some file systems have names of 143 bytes only.
const PART_SHOWN_MAX: usize = 64;

/// The name of the temporary file that becomes `name`: hidden, beside it, and not too long. It holds a hash of
/// the exact name: to a file system that folds case, `README` and `readme` are one name and may not share a
/// temporary file.
pub fn part_name(name: &[u8], suffix: &str) -> Vec<u8> {
    let mut part = vec![b'.'];
    if name.len() <= PART_SHOWN_MAX {
        part.extend(name);
        part.push(b'.');
    }
    part.extend(hex(&blake3(&[name])[..16]).as_bytes());
    part.extend(suffix.as_bytes());
    part
}

/// Whether content may not use `name`, because a temporary file may have it, in whatever case.
pub fn is_part(name: &[u8], suffix: &str) -> bool {
    let end = name.len().checked_sub(suffix.len()).map(|start| &name[start..]);
    end.is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
}

/// The hash of an entry, from its directory's.
pub fn path_hash(parent: &PathHash, name: &[u8]) -> PathHash {
    blake3(&[parent, name])[..16].try_into().expect("16 of 32 bytes")
}

/// A name as a terminal may show it: what would move the cursor or is no text is escaped.
pub fn show(name: &[u8]) -> String {
    let mut out = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// A failure of ours or of the content's, which trying again does not change.
pub fn refused(path: &str, why: &str) -> FileFault {
    FileFault { message: format!("{path}: {why}"), retryable: false }
}

/// The operating system's error about a path, with what to do about it.
pub fn failed(path: &str, errno: Errno) -> FileFault {
    let (why, retryable) = match errno {
        Errno::ENOSPC => ("the disk is full; free space and run the same get again".into(), true),
        Errno::EDQUOT => ("the disk quota is used up; free space and run the same get again".into(), true),
        Errno::EFBIG => ("larger than a file can be here; choose another file system".into(), false),
        Errno::EMFILE | Errno::ENFILE => {
            ("too many open files; raise the limit and run the same get again".into(), true)
        }
        Errno::EIO => ("the disk failed; run the same get again once it is well".into(), true),
        Errno::EACCES | Errno::EPERM => {
            ("permission denied; choose another place with -o or change its permissions".into(), false)
        }
        Errno::EROFS => ("the file system is read-only; choose another place with -o".into(), false),
        Errno::EEXIST => {
            ("exists already; move it away, choose another place with -o, or use --force".into(), false)
        }
        Errno::ELOOP => ("a symlink is in the way and is not followed; move it away".into(), false),
        Errno::ENOTDIR => ("not a directory; move it away".into(), false),
        Errno::EISDIR | Errno::ENOTEMPTY => ("a directory is in the way; move it away".into(), false),
        Errno::ENOENT => {
            ("no longer there; was it moved while being written? run the same get again".into(), true)
        }
        Errno::ENAMETOOLONG => ("the name is too long for this file system".into(), false),
        other => (std::io::Error::from(other).to_string(), false),
    };
    FileFault { message: format!("{path}: {why}"), retryable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn accepted_names_are_one_component(name in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(0), any::<u8>()], 0..300)) {
            if refuse(&name).is_none() {
                let text: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&name[..]);
                let components: Vec<_> = std::path::Path::new(text).components().collect();
                prop_assert!(matches!(components[..], [std::path::Component::Normal(one)] if one == text));
                let part = part_name(&name, &part_suffix(&[7; 16]));
                prop_assert!(refuse(&part).is_none() && part != name);
            }
            prop_assert!(!show(&name).chars().any(char::is_control));
        }
    }

    /// Where case is folded, `readme` truncated what waited complete as `README`.
    #[test]
    fn names_that_differ_in_case_only_have_parts_that_differ_in_more() {
        let suffix = part_suffix(&[7; 16]);
        for (one, two) in [("README", "readme"), (&"A".repeat(100)[..], &"a".repeat(100)[..])] {
            let (one, two) = (part_name(one.as_bytes(), &suffix), part_name(two.as_bytes(), &suffix));
            assert!(!one.eq_ignore_ascii_case(&two));
        }
        assert!(is_part(b".x.TORNET-part-07070707", &suffix) && !is_part(b"x", &suffix));
    }

    #[test]
    fn long_names_have_short_parts_of_their_own() {
        let suffix = part_suffix(&[0xab; 16]);
        let part = format!(".a.txt.{}.tornet-part-abababab", hex(&blake3(&[b"a.txt"])[..16]));
        assert_eq!(part_name(b"a.txt", &suffix), part.as_bytes());
        let (one, two) = (part_name(&[b'x'; 255], &suffix), part_name(&[b'y'; 255], &suffix));
        assert!(one != two && one.len() <= NAME_MAX);
        assert_ne!(path_hash(&[0; 16], b"ab"), path_hash(&path_hash(&[0; 16], b"a"), b"b"));
    }
}

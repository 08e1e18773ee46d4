//! What one `get` has written so far: appended to as it goes, read when the same `get` is started again.
//!
//! ```text
//! 0             16          32        then, for each record:  0       16       24    40      44
//! | "tornet get 1\n…" | journal id |                          | entry | record | tag | check |
//! ```
//!
//! `entry` is the hash of the entry's path, `record` the record's number (little-endian) or `FINISHED`, `check`
//! the first bytes of a BLAKE3 over the rest. The first record that is not whole ends the journal: it was being
//! written when the machine or the process stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::names::PathHash;
use crate::base::UnixMs;
use crate::base::fileop::{FileTime, JournalRecord};
use crate::base::id::hex;
use crate::crypto::hash::blake3;
use crate::limits::{JOURNAL_RECORDS_MAX, JOURNALS_PRUNED_MAX};

/// First bytes of a journal.
pub const MAGIC: &[u8; 16] = b"tornet get 1\n\0\0\0";
/// Length of the head, bytes.
pub const HEAD: usize = 32;
/// Length of one entry, bytes.
pub const RECORD: usize = 44;
/// Length of an entry without its check, bytes.
pub const BODY: usize = 40;

/// The record number that says: complete, and about to be renamed; its tag is a [`stamp`].
pub const FINISHED: u64 = u64::MAX;

/// One line of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Which file.
    pub path: PathHash,
    /// Which record of it.
    pub record: u64,
    /// The record's authentication tag.
    pub tag: [u8; 16],
}

/// An open journal, locked against a second job of the same name.
pub struct Journal {
    file: Flock<File>,
    path: PathBuf,
    len: u64,
    old: Vec<Entry>,
    /// Whether its name is on the disk.
    is_named: bool,
}

/// What a finished file looks like from outside: tells whether somebody changed it since.
pub fn stamp(size: u64, mtime: FileTime) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&mtime.seconds.to_le_bytes());
    out[8..12].copy_from_slice(&mtime.nanos.to_le_bytes());
    out[12..].copy_from_slice(&(size as u32).to_le_bytes());
    out
}

impl Journal {
    /// Opens or creates the journal of that name; `Err(None)` when another job has it.
    pub fn open(dir: &Path, id: &[u8; 16]) -> Result<Self, Option<io::Error>> {
        let path = dir.join(hex(id));
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(Some)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == nix::errno::Errno::EWOULDBLOCK { None } else { Some(errno.into()) }
        })?;
        let (old, mut len) = read(&file, id).map_err(Some)?;
        file.set_len(len).map_err(Some)?;
        if len == 0 {
            file.write_all(&[&MAGIC[..], id].concat()).map_err(Some)?;
            len = HEAD as u64;
        }
        Ok(Self { file, path, len, old, is_named: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an earlier run wrote anything.
    pub fn resumed(&self) -> bool {
        !self.old.is_empty()
    }

    /// What an earlier run wrote of one file, and the stamp of the finished file if it was finished.
    pub fn of(&self, path: &PathHash) -> (Vec<JournalRecord>, Option<[u8; 16]>) {
        let start = self.old.partition_point(|entry| entry.path < *path);
        let (mut records, mut finished) = (Vec::new(), None);
        for entry in self.old[start..].iter().take_while(|entry| entry.path == *path) {
            if entry.record == FINISHED {
                finished = Some(entry.tag);
            } else {
                records.push(JournalRecord { record: entry.record, tag: entry.tag });
            }
        }
        (records, finished)
    }

    /// Appends entries in one write.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(entries.len() * RECORD);
        for entry in entries {
            let start = bytes.len();
            bytes.extend(entry.path);
            bytes.extend(entry.record.to_le_bytes());
            bytes.extend(entry.tag);
            let check = check(&bytes[start..]);
            bytes.extend(check);
        }
        if let Err(error) = self.file.write_all(&bytes) {
            // A torn record would hide every later one. If this fails too, the next run fetches more again.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Returns when everything that was appended is on the disk. Until then nobody needs it to be: records that
    /// a journal does not know are fetched again, and those that it knows are checked by their tags.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.is_named {
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            self.is_named = true;
        }
        Ok(())
    }

    /// From now on its folder cannot be synced.
    #[cfg(test)]
    pub(super) fn lose_folder(&mut self) {
        self.path = PathBuf::from("/proc/self/nowhere/journal");
        self.is_named = false;
    }

    /// Deletes it: the job is complete.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Removes the journals that nobody appended to since `before`, but for those in use. Looks at
/// [`JOURNALS_PRUNED_MAX`] names at most; the others are looked at another time. Returns how many it removed, and how
/// many it could not.
pub(super) fn prune(dir: &Path, before: UnixMs) -> io::Result<(u64, u64)> {
    let (mut removed, mut failed) = (0, 0);
    for entry in std::fs::read_dir(dir)?.take(JOURNALS_PRUNED_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if name.len() != 32 || !name.as_encoded_bytes().iter().all(hex) {
            continue;
        }
        // Of the name itself: a link is none of ours.
        let Ok(meta) = entry.metadata() else { continue };
        let written = u64::try_from(meta.mtime()).unwrap_or(0).saturating_mul(1000);
        if !meta.is_file() || written >= before.0 {
            continue;
        }
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(entry.path());
        match opened.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Err((_, nix::errno::Errno::EWOULDBLOCK))) => {}
            Ok(Ok(_lock)) if std::fs::remove_file(entry.path()).is_ok() => removed += 1,
            _ => failed += 1,
        }
    }
    Ok((removed, failed))
}

pub(super) fn check(body: &[u8]) -> [u8; 4] {
    blake3(&[body])[..4].try_into().expect("four of 32 bytes")
}

/// All whole records, sorted, the last of each kept; and where the journal ends. 0: it is not one of this name.
pub(super) fn read(file: &File, id: &[u8; 16]) -> io::Result<(Vec<Entry>, u64)> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut head = [0; HEAD];
    if !fill(&mut reader, &mut head)? || head[..16] != MAGIC[..] || head[16..] != id[..] {
        return Ok((Vec::new(), 0));
    }
    let (mut entries, mut good, mut bytes) = (Vec::new(), HEAD as u64, [0; RECORD]);
    while fill(&mut reader, &mut bytes)? && check(&bytes[..BODY]) == bytes[BODY..] {
        good += RECORD as u64;
        if entries.len() < JOURNAL_RECORDS_MAX {
            entries.push(Entry {
                path: bytes[..16].try_into().expect("16 bytes"),
                record: u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
                tag: bytes[24..BODY].try_into().expect("16 bytes"),
            });
        }
    }
    // Stable, so that of several entries for one record the latest comes last.
    entries.sort_by_key(|entry| (entry.path, entry.record));
    entries.reverse();
    entries.dedup_by_key(|entry| (entry.path, entry.record));
    entries.reverse();
    Ok((entries, good))
}

fn fill(reader: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(dir: &Path) -> Journal {
        Journal::open(dir, &[5; 16]).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn entry(path: u8, record: u64, tag: u8) -> Entry {
        Entry { path: [path; 16], record, tag: [tag; 16] }
    }

    #[test]
    fn remembers_the_latest_of_each_record() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut journal = open(dir.path());
        assert!(!journal.resumed());
        journal.append(&[entry(2, 0, 1), entry(1, 7, 2)]).expect("append");
        journal.append(&[entry(2, 0, 3), entry(2, FINISHED, 4)]).expect("append");
        assert!(matches!(Journal::open(dir.path(), &[5; 16]), Err(None)), "one job at a time");
        drop(journal);
        let journal = open(dir.path());
        assert!(journal.resumed());
        assert_eq!(journal.of(&[2; 16]), (vec![JournalRecord { record: 0, tag: [3; 16] }], Some([4; 16])));
        assert_eq!(journal.of(&[1; 16]), (vec![JournalRecord { record: 7, tag: [2; 16] }], None));
        assert_eq!(journal.of(&[3; 16]), (vec![], None));
        journal.remove().expect("remove");
        assert!(!open(dir.path()).resumed());
    }

    /// Found by review: a `get` that nobody went on with left its journal for ever.
    #[test]
    fn journals_that_nobody_goes_on_with_are_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (old, now) = (UnixMs(1_000_000_000_000), UnixMs(1_000_000_001_000));
        let age = |name: &str, at: UnixMs| {
            let file = File::options().append(true).create(true).open(dir.path().join(name)).expect("made");
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.0);
            file.set_modified(at).expect("aged");
            file
        };
        let name = |n: u8| hex(&[n; 16]);
        age(&name(1), old);
        age(&name(2), now);
        age("something else", old);
        let in_use = Flock::lock(age(&name(3), old), FlockArg::LockExclusiveNonblock).expect("locked");
        std::os::unix::fs::symlink("/dev/null", dir.path().join(name(4))).expect("linked");
        assert_eq!(prune(dir.path(), now).expect("pruned"), (1, 0));
        let left = |n: u8| dir.path().join(name(n)).symlink_metadata().is_ok();
        assert_eq!((1..=4).map(left).collect::<Vec<_>>(), [false, true, true, true]);
        assert!(dir.path().join("something else").exists());
        drop(in_use);
        assert_eq!(prune(dir.path(), now).expect("pruned"), (1, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_torn_tail_costs_only_itself(count in 0usize..12, keep in 0usize..600, flip in any::<bool>()) {
            let dir = tempfile::tempdir().expect("temporary directory");
            let mut journal = open(dir.path());
            for n in 0..count {
                journal.append(&[entry(1, n as u64, n as u8)]).expect("append");
            }
            let path = journal.path().to_owned();
            drop(journal);
            let mut bytes = std::fs::read(&path).expect("read");
            bytes.truncate(keep.max(1));
            if flip {
                *bytes.last_mut().expect("one byte") ^= 0x10;
            }
            std::fs::write(&path, &bytes).expect("write");
            let undamaged = bytes.len() - usize::from(flip && bytes.len() < HEAD + count * RECORD + 1);
            let whole = undamaged.checked_sub(HEAD).map_or(0, |rest| rest / RECORD);
            let mut journal = open(dir.path());
            prop_assert_eq!(journal.of(&[1; 16]).0.len(), whole);
            journal.append(&[entry(1, 99, 9)]).expect("append");
            drop(journal);
            let (records, _) = open(dir.path()).of(&[1; 16]);
            prop_assert_eq!(records.len(), whole + 1, "what comes after the tear is found");
            prop_assert_eq!(records.last().map(|last| last.record), Some(99));
        }
    }
}

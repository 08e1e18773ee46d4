//! `identity.key` and `salt.key`: secrets in small text files that only their owner may read.
//!
//! ```text
//! tornet identity v1
//! seed 64 hexadecimal digits
//! place-nonce 16 hexadecimal digits
//! rank-nonce 16 hexadecimal digits
//! ```
//!
//! Under systemd the identity may come as the credential `tornet.identity` instead; systemd guards
//! that file itself.

use std::env;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ConfigError, atomic};
use crate::base::id::{NotHex, parse_hex};
use crate::crypto::rank::PLACE_FLOOR_BITS;
use crate::crypto::{Identity, Secret};
use crate::limits::KEY_FILE_SIZE_MAX;

const IDENTITY_MAGIC: &str = "tornet identity v1";
const SALT_MAGIC: &str = "tornet salt v1";
/// Name of the systemd credential that holds an identity file.
pub const CREDENTIAL: &str = "tornet.identity";

/// Where the identity comes from: the systemd credential when there is one, else `file`.
pub fn identity_source(file: &Path) -> (PathBuf, bool) {
    let credential = env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
    match credential {
        Some(path) if path.exists() => (path, true),
        _ => (file.to_owned(), false),
    }
}

/// Reads an identity file. `credential`: systemd answers for its permissions.
pub fn load_identity(path: &Path, credential: bool) -> Result<Identity, ConfigError> {
    parse_identity(path, &read_private(path, credential)?)
}

/// As [`load_identity`], from text; `path` is for errors.
pub fn parse_identity(path: &Path, text: &str) -> Result<Identity, ConfigError> {
    let [seed, place, rank] = fields(path, text, IDENTITY_MAGIC, ["seed", "place-nonce", "rank-nonce"])?;
    let nonce = |text: &str| parse_hex::<8>(text).map(u64::from_be_bytes);
    let bad = |error: NotHex| damaged(path, &format!("expected {} hexadecimal digits", error.expected));
    let seed = secret(seed).map_err(bad)?;
    let identity = Identity::new(seed, nonce(place).map_err(bad)?, nonce(rank).map_err(bad)?);
    identity.card().check(PLACE_FLOOR_BITS).map_err(|error| damaged(path, &error.to_string()))?;
    Ok(identity)
}

/// Creates an identity file; never overwrites one.
pub fn create_identity(path: &Path, identity: &Identity) -> Result<(), ConfigError> {
    atomic::create(path, identity_text(identity).as_bytes(), 0o600).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ConfigError::Conflict(format!(
            "{} exists and is never overwritten: move it away if the old identity is to be given up",
            path.display()
        )),
        _ => ConfigError::io("create", path, error),
    })
}

/// Replaces an identity file by one with the same key and other nonces.
pub fn replace_identity(path: &Path, identity: &Identity) -> Result<(), ConfigError> {
    atomic::replace(path, identity_text(identity).as_bytes(), 0o600)
        .map_err(|e| ConfigError::io("write", path, e))
}

/// The private salt of `put --salt`: read, or created from `fresh` when there is none yet.
pub fn load_or_create_salt(path: &Path, fresh: impl FnOnce() -> Secret) -> Result<Secret, ConfigError> {
    if !path.exists() {
        let salt = fresh();
        let mut text = Zeroizing::new(format!("{SALT_MAGIC}\n"));
        push_field(&mut text, "salt", salt.as_bytes());
        match atomic::create(path, text.as_bytes(), 0o600) {
            Ok(()) => return Ok(salt),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ConfigError::io("create", path, error)),
        }
    }
    let text = read_private(path, false)?;
    let [salt] = fields(path, &text, SALT_MAGIC, ["salt"])?;
    secret(salt).map_err(|_| damaged(path, "expected 64 hexadecimal digits"))
}

fn secret(text: &str) -> Result<Secret, NotHex> {
    // The error is made anew: it would carry the secret's digits.
    let bytes = parse_hex::<32>(text).map(Zeroizing::new);
    bytes.map(|bytes| Secret::from_bytes(*bytes)).map_err(|_| NotHex { expected: 64, got: String::new() })
}

fn identity_text(identity: &Identity) -> Zeroizing<String> {
    // Reserved whole, so that no reallocation leaves a copy of the seed behind.
    let mut text = Zeroizing::new(String::with_capacity(256));
    text.push_str(IDENTITY_MAGIC);
    text.push('\n');
    push_field(&mut text, "seed", identity.seed().as_bytes());
    push_field(&mut text, "place-nonce", &identity.card().place_nonce.to_be_bytes());
    push_field(&mut text, "rank-nonce", &identity.card().rank_nonce.to_be_bytes());
    text
}

fn push_field(text: &mut String, name: &str, bytes: &[u8]) {
    text.reserve(name.len() + 2 * bytes.len() + 2);
    text.push_str(name);
    text.push(' ');
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}

fn damaged(path: &Path, why: &str) -> ConfigError {
    ConfigError::Invalid(format!("{} is damaged ({why}): restore it from a backup", path.display()))
}

/// The values of the fields, in their fixed order, below the first line.
fn fields<'a, const N: usize>(
    path: &Path,
    text: &'a str,
    magic: &str,
    names: [&str; N],
) -> Result<[&'a str; N], ConfigError> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().unwrap_or_default();
    if first != magic {
        let known = magic.trim_end_matches(|c: char| c != ' ');
        return Err(match first.starts_with(known) {
            true => ConfigError::Invalid(format!(
                "{} was written by a newer tornet (it does not begin with {magic:?}): update tornet",
                path.display()
            )),
            false => damaged(path, &format!("it does not begin with {magic:?}")),
        });
    }
    let mut out = [""; N];
    for (value, name) in out.iter_mut().zip(names) {
        let line = lines.next().ok_or_else(|| damaged(path, &format!("{name} is missing")))?;
        *value = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with(' '))
            .map(str::trim)
            .ok_or_else(|| damaged(path, &format!("{name} is missing")))?;
    }
    if lines.next().is_some() {
        return Err(damaged(path, "it goes on after its last field"));
    }
    Ok(out)
}

/// Opens and judges the same file, so that it cannot be exchanged in between.
fn read_private(path: &Path, credential: bool) -> Result<Zeroizing<String>, ConfigError> {
    let shown = path.display();
    let open = |path: &Path| -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
    };
    let file = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ConfigError::Missing(format!("{shown} does not exist: run `tornet init` first"))
        }
        io::ErrorKind::PermissionDenied => ConfigError::Invalid(format!(
            "{shown} cannot be read by this user: run tornet as the file's owner, or `chown` it"
        )),
        _ => ConfigError::io("open", path, error),
    })?;
    let meta = file.metadata().map_err(|e| ConfigError::io("open", path, e))?;
    if !meta.is_file() {
        return Err(ConfigError::Invalid(format!("{shown} is not a regular file: put the key file there")));
    }
    judge(path, meta.uid(), meta.mode(), nix::unistd::geteuid().as_raw(), credential)?;
    if meta.len() > KEY_FILE_SIZE_MAX {
        return Err(damaged(path, "it is too large"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_SIZE_MAX as usize + 1));
    file.take(KEY_FILE_SIZE_MAX).read_to_end(&mut bytes).map_err(|e| ConfigError::io("read", path, e))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(damaged(path, "it is not text")),
    }
}

/// Whether a key file of this owner and mode may be used by user `me`.
fn judge(path: &Path, owner: u32, mode: u32, me: u32, credential: bool) -> Result<(), ConfigError> {
    let shown = path.display();
    if !credential && owner != me && me != 0 {
        return Err(ConfigError::Invalid(format!(
            "{shown} belongs to another user (uid {owner}): `chown` it to the user that runs tornet"
        )));
    }
    // systemd opens credentials to the service's user through an access list, which shows as the group's
    // bits.
    let (forbidden, who) = if credential { (0o007, "everyone") } else { (0o077, "other users") };
    if mode & forbidden != 0 {
        return Err(ConfigError::Invalid(format!(
            "{shown} is open to {who} (mode {:04o}): run `chmod 600 {shown}`, and make a new identity if \
             someone may have read it",
            mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn identity() -> Identity {
        let identity = Identity::passing(Secret::from_bytes([9; 32]), 0, PLACE_FLOOR_BITS);
        identity.with_nonces(identity.card().place_nonce, 77)
    }

    fn refusal(path: &Path) -> String {
        let error = load_identity(path, false).err().expect("refused").to_string();
        assert!(!error.contains('\n') && error.contains("identity.key"), "{error}");
        error
    }

    #[test]
    fn an_identity_round_trips_and_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("identity.key");
        let made = identity();
        create_identity(&path, &made).expect("created");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let read = load_identity(&path, false).expect("read");
        assert_eq!((read.card(), read.seed().as_bytes()), (made.card(), made.seed().as_bytes()));
        assert!(matches!(create_identity(&path, &made), Err(ConfigError::Conflict(_))));
        replace_identity(&path, &made.with_nonces(made.card().place_nonce, 78)).expect("replaced");
        assert_eq!(load_identity(&path, false).expect("read").card().rank_nonce, 78);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn keys_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("identity.key");
        create_identity(&path, &identity()).expect("created");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            assert!(refusal(&path).contains("chmod 600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
        assert!(load_identity(&path, false).is_ok(), "read-only is fine");
    }

    #[test]
    fn another_users_key_is_refused_except_by_root() {
        let path = Path::new("identity.key");
        assert!(judge(path, 1000, 0o100_600, 1000, false).is_ok());
        assert!(judge(path, 1000, 0o100_600, 0, false).is_ok());
        let error = judge(path, 0, 0o100_600, 1000, false).expect_err("foreign").to_string();
        assert!(error.contains("uid 0") && error.contains("chown"), "{error}");
        assert!(judge(path, 0, 0o100_440, 1000, true).is_ok(), "a credential");
        assert!(judge(path, 0, 0o100_444, 1000, true).is_err(), "a credential open to everyone");
    }

    #[test]
    fn missing_foreign_and_damaged_keys_each_get_their_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("identity.key");
        assert!(refusal(&path).contains("tornet init"));
        create_identity(&path, &identity()).expect("created");
        let good = fs::read_to_string(&path).expect("read");
        let nonce = format!("{:016x}", identity().card().place_nonce);
        for (bad, wanted) in [
            (String::new(), "damaged"),
            ("\u{0}\u{1}".to_owned(), "damaged"),
            (good.replace("v1", "v2"), "newer tornet"),
            (good.replace("seed ", "sead "), "seed is missing"),
            (good.replace("seed 09", "seed "), "64 hexadecimal digits"),
            (good.lines().take(3).map(|line| format!("{line}\n")).collect(), "rank-nonce is missing"),
            (format!("{good}more\n"), "goes on"),
            (good.replace(&nonce, "0000000000000000"), "bits of work"),
            (good.repeat(100), "too large"),
        ] {
            fs::write(&path, &bad).expect("written");
            let error = refusal(&path);
            assert!(error.contains(wanted), "{wanted}: {error}");
            assert!(!error.contains("0909"), "the seed is not told: {error}");
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(refusal(&path).contains("not a regular file"));
    }

    #[test]
    fn a_comment_and_blank_lines_are_no_damage() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("identity.key");
        create_identity(&path, &identity()).expect("created");
        let good = fs::read_to_string(&path).expect("read");
        fs::write(&path, format!("# the node in the cellar\n\n{good}")).expect("written");
        assert!(load_identity(&path, false).is_ok());
    }

    #[test]
    fn the_salt_is_made_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("salt.key");
        let first = load_or_create_salt(&path, || Secret::from_bytes([3; 32])).expect("made");
        let again = load_or_create_salt(&path, || Secret::from_bytes([4; 32])).expect("read");
        assert_eq!((first.as_bytes(), again.as_bytes()), (&[3; 32], &[3; 32]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(load_or_create_salt(&path, || Secret::from_bytes([4; 32])).is_err());
    }
}

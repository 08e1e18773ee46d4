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
    let text = read_private(path, credential)?;
    let [seed, place, rank] = fields(path, &text, IDENTITY_MAGIC, ["seed", "place-nonce", "rank-nonce"])?;
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
    atomic::replace(path, identity_text(identity).as_bytes(), 0o600).map_err(|e| ConfigError::io("write", path, e))
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
        io::ErrorKind::NotFound => ConfigError::Missing(format!("{shown} does not exist: run `tornet init` first")),
        io::ErrorKind::PermissionDenied => ConfigError::Invalid(format!(
            "{shown} cannot be read by this user: run tornet as the file's owner, or `chown` it"
        )),
        _ => ConfigError::io("open", path, error),
    })?;
    let meta = file.metadata().map_err(|e| ConfigError::io("open", path, e))?;
    if !meta.is_file() {
        return Err(ConfigError::Invalid(format!("{shown} is not a regular file: put the key file there")));
    }
    let me = nix::unistd::geteuid().as_raw();
    if !credential && meta.uid() != me && me != 0 {
        return Err(ConfigError::Invalid(format!(
            "{shown} belongs to another user (uid {}): `chown` it to the user that runs tornet",
            meta.uid()
        )));
    }
    let (forbidden, who) = if credential { (0o007, "everyone") } else { (0o077, "other users") };
    if meta.mode() & forbidden != 0 {
        return Err(ConfigError::Invalid(format!(
            "{shown} is open to {who} (mode {:04o}): run `chmod 600 {shown}`, and make a new identity if someone may have read it",
            meta.mode() & 0o7777
        )));
    }
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

//! A node's folder: what lies where in it, whose it is, and who works in it now.
//!
//! | file | what |
//! |---|---|
//! | `tornet.toml` | settings and friends |
//! | `identity.key`, `salt.key` | secrets |
//! | `tornet.lock` | held by the running daemon; its process id |
//! | `tornet.sock` | the API |
//! | `usage` | what was sent this month |
//! | `store/` | LMDB |

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{ConfigError, ConfigFile, atomic, keyfile};
use crate::crypto::{Identity, Secret};

/// Where a node keeps everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDir(PathBuf);

/// The right to work in a folder, until dropped.
pub struct Lock {
    _file: File,
}

impl NodeDir {
    /// The folder that `--dir` names, or the default one for this user.
    pub fn choose(given: Option<&Path>) -> Result<Self, ConfigError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_dir(env::var_os, nix::unistd::geteuid().is_root())?,
        };
        std::path::absolute(&path).map(Self).map_err(|error| ConfigError::io("find", &path, error))
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("tornet.toml")
    }
    /// The identity.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity.key")
    }
    /// The private salt.
    pub fn salt(&self) -> PathBuf {
        self.0.join("salt.key")
    }
    /// The peers that were met.
    pub fn peers(&self) -> PathBuf {
        self.0.join("peers")
    }
    /// What was sent this month.
    pub fn usage(&self) -> PathBuf {
        self.0.join("usage")
    }
    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("tornet.sock")
    }
    /// The socket's path for `bind` and `connect`, which take at most 107 bytes: a longer one is reached
    /// through this folder's descriptor, which must stay open meanwhile.
    pub fn socket_address(&self) -> io::Result<(PathBuf, Option<File>)> {
        let path = self.socket();
        if path.as_os_str().len() < 108 {
            return Ok((path, None));
        }
        let folder = File::open(&self.0)?;
        let short = format!("/proc/self/fd/{}/tornet.sock", folder.as_raw_fd());
        Ok((short.into(), Some(folder)))
    }
    /// The databases' folder.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    fn lock_file(&self) -> PathBuf {
        self.0.join("tornet.lock")
    }

    /// Refuses a folder that `init` must not touch: one that holds a node, or someone else's files.
    pub fn check_vacant(&self) -> Result<(), ConfigError> {
        let shown = self.0.display();
        if self.identity().exists() {
            return Err(ConfigError::Conflict(format!(
                "{shown} already holds a node: use it, or choose another --dir (an identity is never overwritten)"
            )));
        }
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| ConfigError::io("open", &self.0, error))?,
        };
        // What an interrupted `init` leaves, or an operator prepares, is ours.
        let ours = ["tornet.toml", "tornet.toml.new", "tornet.lock", "lost+found"];
        for entry in entries {
            let name = entry.map_err(|error| ConfigError::io("read", &self.0, error))?.file_name();
            if !ours.iter().any(|known| name == *known) {
                return Err(ConfigError::Conflict(format!(
                    "{shown} is not empty and not a node's folder (it holds {}): choose an empty --dir",
                    name.to_string_lossy()
                )));
            }
        }
        Ok(())
    }

    /// Makes the folder, private to this user, and those above it; all of them are on disk afterwards.
    pub fn create(&self) -> Result<(), ConfigError> {
        let new: Vec<&Path> = self.0.ancestors().take_while(|path| !path.exists()).collect();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.and_then(|()| new.iter().try_for_each(|path| atomic::sync_parent(path)))
            .map_err(|error| ConfigError::io("create", &self.0, error))
    }

    /// The settings of an initialized folder.
    pub fn load_config(&self) -> Result<ConfigFile, ConfigError> {
        self.check_initialized()?;
        ConfigFile::load(&self.config())
    }

    /// The identity: from systemd when given, else from the folder.
    pub fn load_identity(&self) -> Result<Identity, ConfigError> {
        self.check_initialized()?;
        let (path, credential) = keyfile::identity_source(&self.identity());
        keyfile::load_identity(&path, credential)
    }

    /// The salt of `put --salt`, made at its first use.
    pub fn load_salt(&self, fresh: impl FnOnce() -> Secret) -> Result<Secret, ConfigError> {
        keyfile::load_or_create_salt(&self.salt(), fresh)
    }

    fn check_initialized(&self) -> Result<(), ConfigError> {
        let shown = self.0.display();
        let (source, credential) = keyfile::identity_source(&self.identity());
        // A file that may not be looked at is judged, and explained, by whoever opens it.
        if matches!(source.try_exists(), Ok(false)) {
            return Err(ConfigError::Missing(format!(
                "there is no node in {shown}: run `tornet --dir {shown} init` first"
            )));
        }
        if matches!(self.config().try_exists(), Ok(false)) {
            let hint = if credential { "write one, it may be empty" } else { "restore it, it may be empty" };
            return Err(ConfigError::Missing(format!("{} does not exist: {hint}", self.config().display())));
        }
        Ok(())
    }

    /// Takes the folder's lock. The error says which process holds it.
    pub fn lock(&self) -> Result<Lock, ConfigError> {
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| ConfigError::io("open", &path, error))?;
        atomic::own_like(&file, &self.0).map_err(|error| ConfigError::io("own", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(ConfigError::io("lock", &path, error)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.take(16).read_to_string(&mut pid);
                return Err(ConfigError::Conflict(format!(
                    "tornet is already running in {} (pid {})",
                    self.0.display(),
                    pid.trim()
                )));
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| ConfigError::io("write", &path, error))?;
        Ok(Lock { _file: file })
    }
}

/// As a service the state directory, for root `/var/lib/tornet`, for a user below their home.
fn default_dir(
    variable: impl Fn(&'static str) -> Option<std::ffi::OsString>,
    root: bool,
) -> Result<PathBuf, ConfigError> {
    if let Some(list) = variable("STATE_DIRECTORY") {
        // Several directories are separated by colons; ours is the first.
        let first = list.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
        return Ok(PathBuf::from(first));
    }
    if root {
        return Ok(PathBuf::from("/var/lib/tornet"));
    }
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("tornet"))
        .ok_or_else(|| ConfigError::Invalid("HOME is not set: name the node's folder with --dir".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_folder_follows_who_runs() {
        let with = |pairs: &'static [(&'static str, &'static str)], root| {
            let variable = move |name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into());
            default_dir(variable, root).ok()
        };
        assert_eq!(with(&[("STATE_DIRECTORY", "/s:/t")], false), Some("/s".into()));
        assert_eq!(with(&[("HOME", "/root")], true), Some("/var/lib/tornet".into()));
        assert_eq!(with(&[("HOME", "/home/a")], false), Some("/home/a/.local/share/tornet".into()));
        assert_eq!(with(&[("HOME", "/home/a"), ("XDG_DATA_HOME", "/d")], false), Some("/d/tornet".into()));
        assert_eq!(with(&[], false), None);
    }

    #[test]
    fn foreign_folders_and_nodes_are_not_vacant() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = NodeDir(temporary.path().join("node"));
        assert!(dir.check_vacant().is_ok());
        dir.create().expect("created");
        assert!(dir.check_vacant().is_ok());
        fs::write(dir.config(), "").expect("written");
        assert!(dir.check_vacant().is_ok(), "a prepared tornet.toml is welcome");
        fs::write(dir.path().join("thesis.tex"), "").expect("written");
        let error = dir.check_vacant().expect_err("foreign").to_string();
        assert!(error.contains("thesis.tex") && error.contains("--dir"), "{error}");
        fs::write(dir.identity(), "").expect("written");
        assert!(dir.check_vacant().expect_err("a node").to_string().contains("already holds a node"));
    }

    #[test]
    fn a_second_daemon_is_told_which_process_runs() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = NodeDir(temporary.path().to_owned());
        let lock = dir.lock().expect("free");
        let error = dir.lock().err().expect("taken").to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(lock);
        assert!(dir.lock().is_ok());
        assert!(dir.load_config().err().expect("empty").to_string().contains("init"));
    }
}

//! One daemon per folder: an advisory lock on `DIR/lock`, held as long as the process runs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

/// The right to use a daemon's folder. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    _file: Flock<File>,
}

impl DirLock {
    /// Takes the lock of an existing folder, or says who has it.
    pub fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| StoreError::io(&path, &error))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                // What cannot be read is unknown, not an error of its own.
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                return Err(StoreError::InUse { path: dir.into(), pid: text.trim().parse().unwrap_or(0) });
            }
            Err((_, errno)) => return Err(StoreError::io(&path, &errno.into())),
        };
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(text.as_bytes()))
            .map_err(|error| StoreError::io(&path, &error))?;
        Ok(Self { dir: dir.into(), _file: file })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_told_who() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = DirLock::acquire(dir.path()).expect("free");
        let error = DirLock::acquire(dir.path()).expect_err("taken");
        assert_eq!(error, StoreError::InUse { path: dir.path().into(), pid: std::process::id() });
        assert!(error.to_string().starts_with(&format!("another tornet (pid {})", std::process::id())));
        drop(first);
        DirLock::acquire(dir.path()).expect("free again");
    }
}

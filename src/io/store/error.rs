//! What can go wrong with the store, in words that say what to do.

use std::path::{Path, PathBuf};

/// Why the store could not do something. Copied to every asker whose write it concerns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file system is full (or a quota is used up). Nothing acknowledged is lost.
    #[error("{}: the disk is full; free space and try again", .path.display())]
    DiskFull {
        /// The database's folder.
        path: PathBuf,
    },
    /// The store's own limit is reached.
    #[error("{}: the store holds its limit of {limit_bytes} bytes; raise the limit or delete content", .path.display())]
    LimitReached {
        /// The database's folder.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The operating system refused.
    #[error("{}: {message}", .path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// Its words.
        message: String,
    },
    /// A file that tornet did not write.
    #[error("{}: not a tornet store ({why}); choose another --dir or move it away", .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// How one sees it.
        why: &'static str,
    },
    /// A store shorter than it says.
    #[error("{}: truncated: {found} bytes of at least {expected}; restore it from a backup or move it away", .path.display())]
    Truncated {
        /// Which.
        path: PathBuf,
        /// Bytes that its own header names.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A store whose tables cannot be what they say.
    #[error("{}: damaged at page {page} ({why}); restore this folder from a copy, or move it away and put its content again", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where in the file, in its pages.
        page: u64,
        /// How one sees it.
        why: &'static str,
    },
    /// A store of a later tornet.
    #[error("{}: written by a newer tornet (store format {found}, known up to {known}); upgrade tornet", .path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another chunk with the same SHA-1 address is stored; the first one stays.
    #[error("a different chunk with the same id is already stored")]
    Collision,
    /// A chunk, key or value whose parts do not fit each other or the format.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// LMDB refused for another reason.
    #[error("{}: database: {source}", .path.display())]
    Database {
        /// The database's folder.
        path: PathBuf,
        /// Its words.
        source: lmdb::Error,
    },
    /// The writer has ended; nothing more is stored.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// An operating system's error about `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), message: error.to_string() },
        }
    }

    /// LMDB's error about the environment in `path`.
    pub fn lmdb(path: &Path, error: lmdb::Error) -> Self {
        match error {
            lmdb::Error::Other(code) => Self::io(path, &std::io::Error::from_raw_os_error(code)),
            lmdb::Error::Corrupted | lmdb::Error::PageNotFound => {
                Self::Damaged { path: path.to_owned(), page: 0, why: "LMDB met an impossible page" }
            }
            lmdb::Error::Invalid => Self::Foreign { path: path.to_owned(), why: "LMDB does not know it" },
            source => Self::Database { path: path.to_owned(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_that() {
        let path = Path::new("/x");
        for code in [libc::ENOSPC, libc::EDQUOT] {
            let error = StoreError::lmdb(path, lmdb::Error::Other(code));
            assert_eq!(error, StoreError::DiskFull { path: path.into() });
            assert!(error.to_string().contains("free space"));
        }
        let other = StoreError::lmdb(path, lmdb::Error::Other(libc::EACCES));
        assert!(other.to_string().contains("ermission"), "{other}");
    }
}

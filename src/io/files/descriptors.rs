//! Opening below a directory, and the few descriptors that are kept open of the many that a job names.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::base::fileop::JobId;
use crate::limits::FILES_OPEN_MAX;

/// Opens one component of `parent`. Neither a symlink nor any trick of the name leads elsewhere.
pub fn open_in(parent: impl AsFd, name: &[u8], flags: OFlag, mode: u32) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    loop {
        match openat2(parent.as_fd(), name, how) {
            // Something was renamed at the same time; the kernel could not be sure and asks to try again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Which descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// A directory of a job.
    Directory(u32),
    /// A file of a job.
    File(u32),
}

/// Open descriptors, the least recently used closed first.
#[derive(Default)]
pub struct Descriptors {
    open: BTreeMap<(JobId, Number), (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl Descriptors {
    /// The descriptor, if it is still open.
    pub fn get(&mut self, job: JobId, number: Number) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let (fd, used) = self.open.get_mut(&(job, number))?;
        *used = self.uses;
        Some(Arc::clone(fd))
    }

    /// Keeps one, closing another if there are too many.
    pub fn keep(&mut self, job: JobId, number: Number, fd: OwnedFd) -> Arc<OwnedFd> {
        if self.open.len() >= FILES_OPEN_MAX
            && let Some((&oldest, _)) = self.open.iter().min_by_key(|(_, (_, used))| *used)
        {
            self.open.remove(&oldest);
        }
        self.uses += 1;
        let fd = Arc::new(fd);
        self.open.insert((job, number), (Arc::clone(&fd), self.uses));
        fd
    }

    /// Closes one.
    pub fn close(&mut self, job: JobId, number: Number) {
        self.open.remove(&(job, number));
    }

    /// Closes all of a job's.
    pub fn close_job(&mut self, job: JobId) {
        self.open.retain(|(owner, _), _| *owner != job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_least_recently_used_is_closed() {
        let mut descriptors = Descriptors::default();
        let null = || File::open("/dev/null").expect("open").into();
        for n in 0..FILES_OPEN_MAX as u32 {
            descriptors.keep(JobId(1), Number::File(n), null());
        }
        assert!(descriptors.get(JobId(1), Number::File(0)).is_some());
        descriptors.keep(JobId(1), Number::Directory(0), null());
        assert!(descriptors.get(JobId(1), Number::File(0)).is_some());
        assert!(descriptors.get(JobId(1), Number::File(1)).is_none());
        descriptors.close_job(JobId(1));
        assert!(descriptors.open.is_empty());
    }

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("symlink");
        let parent: OwnedFd = File::open(dir.path()).expect("open").into();
        for name in [&b"link"[..], b"link/passwd", b"..", b"../..", b"/etc/passwd"] {
            assert!(open_in(&parent, name, OFlag::O_RDONLY, 0).is_err(), "{}", String::from_utf8_lossy(name));
        }
    }
}

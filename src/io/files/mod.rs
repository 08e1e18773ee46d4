//! Does what a pure `get` asks of the file system ([`crate::base::fileop`]): one [`Files`] on one thread.
//!
//! Every path is walked from the job's output directory one component at a time, through open directories, and
//! no component may be a symlink; so whatever a hostile directory says, and whatever was planted beforehand,
//! nothing outside the output is touched. A file is written under a temporary name beside its place and
//! renamed when it is complete and on the disk; the job's journal says what is in it, so that the same `get` can
//! go on later. A job that ended as complete survives a loss of power.

mod descriptors;
#[cfg(any(test, feature = "sim"))]
pub(super) mod fuzzing;
mod journal;
mod names;
mod part;
mod place;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, readlinkat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::base::UnixMs;
use crate::base::fileop::{FileAct, FileDone, FileFault, FileOp, FileOutcome, FileTime, JobId};
use crate::limits::{DIRECTORY_DEPTH_MAX, JOURNAL_DAYS_MAX, SYMLINK_MAX};
use descriptors::{Descriptors, Number, open_in};
use journal::Journal;
use names::{PathHash, failed, refused};
use part::Part;
use place::Unsynced;

type Fault<T> = Result<T, FileFault>;

/// The executor: owns the descriptors and journals of all running jobs.
pub struct Files {
    journals: PathBuf,
    jobs: BTreeMap<JobId, Job>,
    descriptors: Descriptors,
}

struct Job {
    root: Arc<OwnedFd>,
    path: String,
    overwrite: bool,
    suffix: String,
    journal: Journal,
    dirs: BTreeMap<u32, Dir>,
    files: BTreeMap<u32, Part>,
    unsynced: Unsynced,
    /// Unfinished files that could not be removed after a failed sync.
    undiscarded: u64,
}

/// A directory below the output.
struct Dir {
    parent: u32,
    name: Vec<u8>,
    hash: PathHash,
    depth: usize,
}

impl Files {
    /// An executor that keeps its journals in `journals`, which is made if it is missing.
    pub fn new(journals: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&journals)?;
        Ok(Self { journals, jobs: BTreeMap::new(), descriptors: Descriptors::default() })
    }

    /// Removes what is left of `get`s that nobody went on with for [`JOURNAL_DAYS_MAX`] days: their journals. Their
    /// unfinished files lie in people's folders and stay; the same `get` uses them again, from their beginning.
    pub fn prune(&self, wall: UnixMs) {
        let before = UnixMs(wall.0.saturating_sub(JOURNAL_DAYS_MAX * 24 * 60 * 60 * 1000));
        match journal::prune(&self.journals, before) {
            Ok((0, 0)) => {}
            Ok((removed, 0)) => tracing::info!("{removed} journals of abandoned gets were removed"),
            Ok((removed, failed)) => tracing::warn!(
                "{removed} journals of abandoned gets were removed and {failed} could not be: see {}",
                self.journals.display()
            ),
            Err(error) => tracing::warn!(%error, "{} could not be read", self.journals.display()),
        }
    }

    /// Does one operation. Blocks on the disk.
    pub fn execute(&mut self, op: FileOp) -> FileDone {
        let FileOp { job, act } = op;
        let result = match act {
            FileAct::Begin { root, journal, overwrite } => self.begin(job, &root, &journal, overwrite),
            FileAct::End { complete } => self.end(job, complete),
            act => match self.jobs.get_mut(&job) {
                Some(state) => Work { id: job, job: state, descriptors: &mut self.descriptors }.act(act),
                None => Err(refused(&format!("job {}", job.0), "was not begun")),
            },
        };
        FileDone { job, result }
    }

    fn begin(&mut self, id: JobId, root: &str, journal: &[u8; 16], overwrite: bool) -> Fault<FileOutcome> {
        if self.jobs.contains_key(&id) {
            return Err(refused(root, "the job was begun already"));
        }
        if !Path::new(root).is_absolute() {
            return Err(refused(root, "not an absolute path"));
        }
        match DirBuilder::new().create(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused(root, "the directory above it does not exist; make it first"));
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(root, errno(&error)));
            }
            _ => {}
        }
        // The person chose this path, so its own symlinks are followed.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(root, flags, Mode::empty()).map_err(|errno| failed(root, errno))?;
        let opened = Journal::open(&self.journals, journal).map_err(|error| match error {
            None => refused(root, "the same get is already running"),
            Some(error) => failed(&self.journals.display().to_string(), errno(&error)),
        })?;
        let resumed = opened.resumed();
        let mut unsynced = Unsynced::default();
        let fd = Arc::new(fd);
        // Also when they were there: an earlier run may have made them, or what is in them, and been killed.
        unsynced.changed(&fd);
        match Path::new(root).parent().map(|above| open(above, flags, Mode::empty())) {
            Some(Ok(above)) => unsynced.changed(&Arc::new(above)),
            Some(Err(_)) => unsynced.changed_unseen(),
            None => {}
        }
        let job = Job {
            root: fd,
            path: names::show(root.trim_end_matches('/').as_bytes()),
            overwrite,
            suffix: names::part_suffix(journal),
            journal: opened,
            dirs: BTreeMap::from([(0, Dir { parent: 0, name: Vec::new(), hash: [0; 16], depth: 0 })]),
            files: BTreeMap::new(),
            unsynced,
            undiscarded: 0,
        };
        self.jobs.insert(id, job);
        Ok(FileOutcome::Began { resumed })
    }

    fn end(&mut self, id: JobId, complete: bool) -> Fault<FileOutcome> {
        let Some(mut job) = self.jobs.remove(&id) else {
            return Err(refused(&format!("job {}", id.0), "was not begun"));
        };
        let mut work = Work { id, job: &mut job, descriptors: &mut self.descriptors };
        // What failed is told already; files that are complete need not wait for the next run.
        let settled = if complete { work.settle() } else { work.place().or(Ok(())) };
        self.descriptors.close_job(id);
        settled?;
        if complete {
            let path = job.journal.path().display().to_string();
            job.journal.remove().map_err(|error| failed(&path, errno(&error)))?;
        }
        Ok(FileOutcome::Done)
    }
}

/// One operation on one job.
struct Work<'a> {
    id: JobId,
    job: &'a mut Job,
    descriptors: &'a mut Descriptors,
}

impl Work<'_> {
    fn act(&mut self, act: FileAct) -> Fault<FileOutcome> {
        match act {
            FileAct::Directory { dir, parent, name } => self.directory(dir, parent, name),
            FileAct::Open { file, parent, name, size } => self.open(file, parent, name, size),
            FileAct::ReadBack { file, offset, into, len, record } => {
                self.read_back(file, offset, into, len, record)
            }
            FileAct::Write { file, offset, data, start, len, record, tag } => {
                let data = part::slice(&data, start, len)?;
                self.write(file, offset, data, record, tag)?;
                Ok(FileOutcome::Written { len })
            }
            FileAct::Finish { file, mode, mtime } => {
                self.finish(file, mode, mtime)?;
                self.place_if_full()?;
                Ok(FileOutcome::Done)
            }
            FileAct::Whole { parent, name, data, start, len, tag, mode, mtime } => {
                let data = match &data {
                    Some(data) => part::slice(data, start, len)?,
                    None if len == 0 => &[],
                    None => return Err(refused(&self.path_of(parent, &name), "content without bytes")),
                };
                self.whole(parent, &name, data, tag, mode, mtime)?;
                self.place_if_full()?;
                Ok(FileOutcome::Written { len })
            }
            FileAct::Symlink { parent, name, target, mtime } => self.symlink(parent, &name, &target, mtime),
            FileAct::FinishDirectory { dir, mode, mtime } => self.finish_directory(dir, mode, mtime),
            FileAct::Begin { .. } | FileAct::End { .. } => unreachable!("done by Files::execute"),
        }
    }

    /// A directory's descriptor, reopened from the nearest one that is open if need be.
    fn dir(&mut self, number: u32) -> Fault<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let (mut at, mut fd) = (number, Arc::clone(&self.job.root));
        while at != 0 {
            if let Some(open) = self.descriptors.get(self.id, Number::Directory(at)) {
                fd = open;
                break;
            }
            missing.push(at);
            at = self.known(at)?.parent;
        }
        for at in missing.into_iter().rev() {
            let dir = self.known(at)?;
            let opened = open_in(&*fd, &dir.name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
                .map_err(|errno| failed(&self.path_of(dir.parent, &dir.name), errno))?;
            fd = self.descriptors.keep(self.id, Number::Directory(at), opened);
        }
        Ok(fd)
    }

    fn known(&self, dir: u32) -> Fault<&Dir> {
        self.job
            .dirs
            .get(&dir)
            .ok_or_else(|| refused(&self.job.path, "a directory was used before it was made"))
    }

    /// A path for messages.
    fn path_of(&self, parent: u32, name: &[u8]) -> String {
        let mut names = vec![names::show(name)];
        let mut at = parent;
        while at != 0
            && let Some(dir) = self.job.dirs.get(&at)
        {
            names.push(names::show(&dir.name));
            at = dir.parent;
        }
        names.push(self.job.path.clone());
        names.reverse();
        names.join("/")
    }

    fn check_name(&self, parent: u32, name: &[u8]) -> Fault<()> {
        let why = names::refuse(name)
            .or_else(|| names::is_part(name, &self.job.suffix).then_some("the name of an unfinished file"));
        match why {
            Some(why) => Err(refused(&self.path_of(parent, name), &format!("{why}; refused"))),
            None => Ok(()),
        }
    }

    fn directory(&mut self, number: u32, parent: u32, name: Vec<u8>) -> Fault<FileOutcome> {
        self.check_name(parent, &name)?;
        let (above, path) = (self.dir(parent)?, self.path_of(parent, &name));
        let Dir { hash, depth, .. } = self.known(parent)?;
        let dir = Dir { parent, hash: names::path_hash(hash, &name), depth: depth + 1, name };
        if dir.depth > DIRECTORY_DEPTH_MAX {
            return Err(refused(&path, "nested too deeply"));
        }
        if self.job.dirs.contains_key(&number) {
            return Err(refused(&path, "its number is in use"));
        }
        match mkdirat(&*above, &dir.name[..], Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) => enter(&above, &dir.name).map_err(|errno| failed(&path, errno))?,
            Err(errno) => return Err(failed(&path, errno)),
        }
        self.job.unsynced.changed(&above);
        self.job.dirs.insert(number, dir);
        Ok(FileOutcome::Done)
    }

    fn finish_directory(&mut self, number: u32, mode: u32, mtime: FileTime) -> Fault<FileOutcome> {
        // A file that comes later would change the time again.
        self.place()?;
        let fd = self.dir(number)?;
        let dir = self.known(number)?;
        let path = self.path_of(dir.parent, &dir.name);
        // Set-id bits would give rights that nobody here granted; sticky only takes some away.
        fchmod(&*fd, Mode::from_bits_truncate(mode & 0o1777))
            .and_then(|()| futimens(&*fd, &TimeSpec::UTIME_OMIT, &time(mtime)))
            .and_then(|()| fstat(&*fd))
            .map(|stat| self.job.unsynced.on(&stat, &fd))
            .map_err(|errno| failed(&path, errno))?;
        self.job.unsynced.changed(&fd);
        if number != 0 {
            self.job.dirs.remove(&number);
            self.descriptors.close(self.id, Number::Directory(number));
        }
        Ok(FileOutcome::Done)
    }

    fn symlink(&mut self, parent: u32, name: &[u8], target: &[u8], mtime: FileTime) -> Fault<FileOutcome> {
        self.check_name(parent, name)?;
        let (above, path) = (self.dir(parent)?, self.path_of(parent, name));
        if target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0) {
            return Err(refused(&path, "a symlink to nowhere; refused"));
        }
        let same = |fd: &OwnedFd| readlinkat(fd, name).is_ok_and(|old| old.as_encoded_bytes() == target);
        let made = match symlinkat(target, &*above, name) {
            Err(Errno::EEXIST) if same(&above) => Ok(()),
            Err(Errno::EEXIST) if self.job.overwrite => self.replace_by_symlink(&above, name, target),
            made => made,
        };
        made.and_then(|()| {
            let flag = UtimensatFlags::NoFollowSymlink;
            utimensat(&*above, name, &TimeSpec::UTIME_OMIT, &time(mtime), flag)
        })
        .map_err(|errno| failed(&path, errno))?;
        self.job.unsynced.changed_unseen();
        Ok(FileOutcome::Done)
    }

    /// Puts a symlink in the place of a file or another symlink, in one step.
    fn replace_by_symlink(&self, above: &OwnedFd, name: &[u8], target: &[u8]) -> Result<(), Errno> {
        let part = names::part_name(name, &self.job.suffix);
        match unlinkat(above, &part[..], UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        symlinkat(target, above, &part[..])?;
        renameat2(above, &part[..], above, name, RenameFlags::empty()).inspect_err(|_| {
            // The error that stopped the rename is the one to tell.
            let _ = unlinkat(above, &part[..], UnlinkatFlags::NoRemoveDir);
        })
    }
}

/// Makes sure that something that exists is a directory, and one that can be filled: an earlier run may have
/// given it its final, read-only mode already.
fn enter(above: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let stat = fstatat(above, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {}
        libc::S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::ENOTDIR),
    }
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    if !mode.contains(Mode::S_IRWXU) && stat.st_uid == nix::unistd::geteuid().as_raw() {
        fchmodat(above, name, mode | Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
    }
    let fd = open_in(above, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
    fstat(fd.as_fd()).map(|_| ())
}

fn time(time: FileTime) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanos.min(999_999_999)))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

//! Files on their way: under a temporary name until they are complete and `place` gives them theirs.
//!
//! A file that an earlier run completed is not copied: it is opened where it is, read-only, so that its records
//! can be read back and checked; only if one of them must be written again does it become a temporary file.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{UnlinkatFlags, ftruncate, geteuid, unlinkat};

use super::descriptors::{Number, open_in};
use super::journal::{Entry, FINISHED, stamp};
use super::names::{self, PathHash, failed, refused};
use super::{Fault, Work, errno, time};
use crate::base::SliceBuf;
use crate::base::fileop::{FileOutcome, FileTime, JournalRecord};

/// A file that was opened and not yet finished.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) parent: u32,
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    hash: PathHash,
    state: State,
}

impl Part {
    /// Whether its bytes lie under its temporary name.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self.state, State::Temporary { .. })
    }

    /// Whether what lies in its place was put there by an earlier run of the same job.
    pub(super) fn replaces(&self) -> bool {
        self.state == State::Temporary { replace: true }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Under its temporary name; `replace` what an earlier run put in place.
    Temporary { replace: bool },
    /// In place since an earlier run; nobody `changed` it since.
    InPlace { changed: bool },
}

/// Bytes of a leased buffer, if it has them.
pub(super) fn slice(data: &SliceBuf, start: u32, len: u32) -> Fault<&[u8]> {
    let (start, len) = (start as usize, len as usize);
    data.get(start..start + len).ok_or_else(|| refused("write", "content larger than its buffer"))
}

impl Work<'_> {
    pub(super) fn open(&mut self, file: u32, parent: u32, name: Vec<u8>, size: u64) -> Fault<FileOutcome> {
        if self.job.files.contains_key(&file) {
            return Err(refused(&self.path_of(parent, &name), "its number is in use"));
        }
        if i64::try_from(size).is_err() {
            return Err(failed(&self.path_of(parent, &name), Errno::EFBIG));
        }
        let (part, fd, journal) = self.start(parent, name, size)?;
        self.descriptors.keep(self.id, Number::File(file), fd);
        self.job.files.insert(file, part);
        Ok(FileOutcome::Opened { file, journal })
    }

    /// Opens the temporary file, or the finished one of an earlier run.
    fn start(&mut self, parent: u32, name: Vec<u8>, size: u64) -> Fault<(Part, OwnedFd, Vec<JournalRecord>)> {
        self.check_name(parent, &name)?;
        let (above, path) = (self.dir(parent)?, self.path_of(parent, &name));
        let fault = |errno| failed(&path, errno);
        let hash = names::path_hash(&self.known(parent)?.hash, &name);
        let mut part = Part { parent, name, size, hash, state: State::Temporary { replace: false } };
        let temporary = names::part_name(&part.name, &self.job.suffix);
        let (records, finished) = self.job.journal.of(&hash);
        match reopen(&above, &temporary) {
            Ok(fd) if is_ours(&fstat(&fd).map_err(fault)?) => {
                if records.is_empty() {
                    ftruncate(&fd, 0).map_err(fault)?;
                }
                // Stopped while replacing what it had itself put in place.
                let replace = finished.is_some() && finished == place(&above, &part.name);
                part.state = State::Temporary { replace };
                return Ok((part, fd, records));
            }
            // Not the file that an earlier run made, so nothing of the earlier run is lost with it.
            Ok(_) | Err(Errno::ELOOP | Errno::EACCES | Errno::ENXIO | Errno::EISDIR) => {
                unlinkat(&*above, &temporary[..], UnlinkatFlags::NoRemoveDir).map_err(fault)?;
            }
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(fault(errno)),
        }
        if let Some(finished) = finished
            && let Ok(fd) = open_in(&*above, &part.name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)
        {
            let stat = fstat(&fd).map_err(fault)?;
            if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
                part.state = State::InPlace { changed: stamp_of(&stat) != finished };
                return Ok((part, fd, records));
            }
        }
        match fstatat(&*above, &part.name[..], AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(fault(errno)),
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => return Err(fault(Errno::EISDIR)),
            Ok(_) if !self.job.overwrite => return Err(fault(Errno::EEXIST)),
            Ok(_) => {}
        }
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let fd = open_in(&*above, &temporary, flags, 0o600).map_err(fault)?;
        Ok((part, fd, Vec::new()))
    }

    fn part(&self, file: u32) -> Fault<Part> {
        let missing = || refused(&self.job.path, "a file was used before it was opened");
        self.job.files.get(&file).cloned().ok_or_else(missing)
    }

    /// The file's descriptor, reopened if it was closed meanwhile.
    fn descriptor(&mut self, file: u32, part: &Part) -> Fault<Arc<OwnedFd>> {
        if let Some(fd) = self.descriptors.get(self.id, Number::File(file)) {
            return Ok(fd);
        }
        let above = self.dir(part.parent)?;
        let opened = match part.state {
            State::Temporary { .. } => reopen(&above, &names::part_name(&part.name, &self.job.suffix)),
            State::InPlace { .. } => open_in(&*above, &part.name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0),
        };
        let fd = opened.map_err(|errno| failed(&self.path_of(part.parent, &part.name), errno))?;
        Ok(self.descriptors.keep(self.id, Number::File(file), fd))
    }

    pub(super) fn read_back(
        &mut self,
        file: u32,
        offset: u64,
        mut into: SliceBuf,
        len: u32,
        record: u64,
    ) -> Fault<FileOutcome> {
        let part = self.part(file)?;
        let fd = self.descriptor(file, &part)?;
        let wanted = (len as usize).min(into.len());
        let mut got = 0;
        while got < wanted {
            let Some(at) = position(offset, got) else { break };
            match pread(&*fd, &mut into[got..wanted], at) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(&self.path_of(part.parent, &part.name), errno)),
            }
        }
        Ok(FileOutcome::Read { file, record, data: into, len: got as u32 })
    }

    /// Writes a record. A file that lacks one is closed: its `Finish` may be on its way already.
    pub(super) fn write(
        &mut self,
        file: u32,
        offset: u64,
        data: &[u8],
        record: u64,
        tag: [u8; 16],
    ) -> Fault<()> {
        let written = self.write_record(file, offset, data, record, tag);
        if written.is_err() {
            self.job.files.remove(&file);
            self.descriptors.close(self.id, Number::File(file));
        }
        written
    }

    fn write_record(&mut self, file: u32, offset: u64, data: &[u8], record: u64, tag: [u8; 16]) -> Fault<()> {
        let part = self.part(file)?;
        let path = self.path_of(part.parent, &part.name);
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > part.size) || record == FINISHED {
            return Err(refused(&path, "a record beyond the end of the file"));
        }
        let mut fd = self.descriptor(file, &part)?;
        if let State::InPlace { changed } = part.state {
            let copy = self.move_out(&part, &fd, changed)?;
            fd = self.descriptors.keep(self.id, Number::File(file), copy);
            let state = State::Temporary { replace: true };
            self.job.files.insert(file, Part { state, ..part.clone() });
        }
        write_all(&fd, data, offset).map_err(|errno| failed(&path, errno))?;
        self.enter(&[Entry { path: part.hash, record, tag }])
    }

    /// Copies a finished file to its temporary name, to be written again.
    fn move_out(&mut self, part: &Part, from: &OwnedFd, changed: bool) -> Fault<OwnedFd> {
        let (above, path) = (self.dir(part.parent)?, self.path_of(part.parent, &part.name));
        if changed && !self.job.overwrite {
            let why =
                "changed since it was restored; move it away or use --force, then run the same get again";
            return Err(refused(&path, why));
        }
        let temporary = names::part_name(&part.name, &self.job.suffix);
        let copy = || {
            let to = open_in(&*above, &temporary, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
            let (mut buffer, mut at) = (vec![0; 1 << 16], 0);
            while at < part.size {
                match pread(from, &mut buffer, at as i64) {
                    Ok(0) => break,
                    Ok(count) => {
                        write_all(&to, &buffer[..count], at)?;
                        at += count as u64;
                    }
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(to)
        };
        copy().map_err(|errno| {
            // The next run would take half a copy for what there is, and not look at the file in place.
            let _ = unlinkat(&*above, &temporary[..], UnlinkatFlags::NoRemoveDir);
            failed(&path, errno)
        })
    }

    pub(super) fn finish(&mut self, file: u32, mode: u32, mtime: FileTime) -> Fault<FileOutcome> {
        let mut part = self.part(file)?;
        let mut fd = self.descriptor(file, &part)?;
        let path = self.path_of(part.parent, &part.name);
        let size = fstat(&*fd).map_err(|errno| failed(&path, errno))?.st_size as u64;
        if let State::InPlace { changed } = part.state
            && size != part.size
        {
            let copy = self.move_out(&part, &fd, changed)?;
            fd = self.descriptors.keep(self.id, Number::File(file), copy);
            part.state = State::Temporary { replace: true };
            self.job.files.insert(file, part.clone());
        }
        self.complete(&part, &fd, size, &[], mode, mtime)?;
        self.job.files.remove(&file);
        self.descriptors.close(self.id, Number::File(file));
        Ok(FileOutcome::Done)
    }

    /// Gives a file its size, mode and time; its place comes with the next batch. `entries` go into the journal
    /// with its end.
    fn complete(
        &mut self,
        part: &Part,
        fd: &Arc<OwnedFd>,
        size: u64,
        entries: &[Entry],
        mode: u32,
        mtime: FileTime,
    ) -> Fault<()> {
        let (above, path) = (self.dir(part.parent)?, self.path_of(part.parent, &part.name));
        let fault = |errno| failed(&path, errno);
        if size != part.size {
            ftruncate(fd, part.size as i64).map_err(fault)?;
        }
        fchmod(fd, Mode::from_bits_truncate(mode & 0o777)).map_err(fault)?;
        futimens(fd, &TimeSpec::UTIME_OMIT, &time(mtime)).map_err(fault)?;
        // What the file system made of it: some keep whole seconds only.
        let kept = fstat(fd).map_err(fault)?;
        let end = Entry { path: part.hash, record: FINISHED, tag: stamp_of(&kept) };
        // Before the rename: a journal that says so too early finds the temporary file, and no harm is done.
        self.enter(&[entries, &[end]].concat())?;
        self.job.unsynced.on(&kept, &above);
        match part.state {
            State::Temporary { .. } => self.job.unsynced.wait(part, fd),
            State::InPlace { .. } => self.job.unsynced.changed(fd),
        }
        Ok(())
    }

    pub(super) fn whole(
        &mut self,
        parent: u32,
        name: &[u8],
        data: &[u8],
        tag: [u8; 16],
        mode: u32,
        mtime: FileTime,
    ) -> Fault<()> {
        let (mut part, mut fd, _) = self.start(parent, name.to_vec(), data.len() as u64)?;
        if let State::InPlace { changed } = part.state {
            fd = self.move_out(&part, &fd, changed)?;
            part.state = State::Temporary { replace: true };
        }
        let fd = Arc::new(fd);
        let path = self.path_of(parent, name);
        let entry = Entry { path: part.hash, record: 0, tag };
        let entries = if data.is_empty() { &[][..] } else { &[entry][..] };
        let done = write_all(&fd, data, 0)
            .and_then(|()| fstat(&fd))
            .map_err(|errno| failed(&path, errno))
            .and_then(|stat| self.complete(&part, &fd, stat.st_size as u64, entries, mode, mtime));
        if done.is_err() {
            // One record is not worth keeping; a failure to remove it changes nothing.
            let above = self.dir(parent)?;
            let _ =
                unlinkat(&*above, &names::part_name(name, &self.job.suffix)[..], UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    fn enter(&mut self, entries: &[Entry]) -> Fault<()> {
        let written = self.job.journal.append(entries);
        written.map_err(|error| failed(&self.job.journal.path().display().to_string(), errno(&error)))
    }
}

/// Opens a temporary file of an earlier run, or of this one. It may have been complete, and read-only.
fn reopen(above: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let open = || open_in(above, name, OFlag::O_RDWR | OFlag::O_NONBLOCK, 0);
    match open() {
        Err(Errno::EACCES) if is_ours(&fstatat(above, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) => {
            fchmodat(above, name, Mode::S_IRUSR | Mode::S_IWUSR, FchmodatFlags::NoFollowSymlink)?;
            open()
        }
        opened => opened,
    }
}

/// A regular file of this user that has no other name: what an earlier run would have made.
fn is_ours(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_nlink == 1 && stat.st_uid == geteuid().as_raw()
}

fn stamp_of(stat: &FileStat) -> [u8; 16] {
    stamp(stat.st_size as u64, FileTime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 })
}

/// The stamp of what is in place, if it is a file.
fn place(above: &OwnedFd, name: &[u8]) -> Option<[u8; 16]> {
    let stat = fstatat(above, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then(|| stamp_of(&stat))
}

fn position(offset: u64, done: usize) -> Option<i64> {
    offset.checked_add(done as u64).and_then(|at| i64::try_from(at).ok())
}

fn write_all(fd: &OwnedFd, data: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        let at = position(offset, done).ok_or(Errno::EFBIG)?;
        match pwrite(fd, &data[done..], at) {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

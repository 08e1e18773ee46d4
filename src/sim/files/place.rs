//! Files on their way to their places, as `io::files::part` and `io::files::place` bring them there.

use super::disk::{self, Full, Inode, Kind};
use super::{FINISHED, Fault, Job, Part, SimFiles, State, exists, full, refused, stamp};
use crate::base::fileop::{FileOutcome, FileTime, JournalRecord};
use crate::limits::{PLACE_BATCH_BYTES, PLACE_BATCH_FILES, SYNC_EACH_MAX};

/// What a job has written and not made durable.
#[derive(Default)]
pub(super) struct Unsynced {
    waiting: Vec<Part>,
    waiting_bytes: u64,
    /// Directories whose entries or attributes changed, and files in place.
    changed: Vec<Vec<u8>>,
    in_place: Vec<Inode>,
    /// Symlinks were made, which cannot be synced by themselves.
    pub(super) needs_all: bool,
}

impl Unsynced {
    pub(super) fn changed(&mut self, directory: &[u8]) {
        if self.changed.len() <= SYNC_EACH_MAX && !self.changed.iter().any(|known| known == directory) {
            self.changed.push(directory.to_vec());
        }
    }
}

impl SimFiles {
    /// Opens the temporary file, or the finished one of an earlier run.
    pub(super) fn start(
        &mut self,
        job: &Job,
        parent: u32,
        name: &[u8],
        size: usize,
    ) -> Fault<(Part, Vec<JournalRecord>)> {
        let (path, hash) = job.child(parent, name);
        let temporary = job.temporary(&path);
        let (records, finished) = job.journal.of(&hash);
        let place = self.disk.find(&path);
        let stamp_of = |inode| match self.disk.stat(inode) {
            (Kind::File(bytes), _, mtime) => Some(stamp(bytes.len(), mtime)),
            _ => None,
        };
        if let Some(inode) = self.disk.find(&temporary) {
            let replace = finished.is_some() && finished == place.and_then(stamp_of);
            if records.is_empty() {
                self.disk.resize(inode, 0);
            }
            return Ok((Part { path, size, hash, inode, state: State::Temporary { replace } }, records));
        }
        if let (Some(finished), Some(inode)) = (finished, place)
            && let Some(found) = stamp_of(inode)
        {
            let state = State::InPlace { changed: found != finished };
            return Ok((Part { path, size, hash, inode, state }, records));
        }
        match place {
            Some(inode) if *self.disk.stat(inode).0 == Kind::Directory => {
                return Err(refused(&path, "a directory is in the way; move it away"));
            }
            Some(_) if !job.overwrite => return Err(exists(&path)),
            _ => {}
        }
        let inode = self.disk.create(&temporary, Kind::File(Vec::new()), 0o600);
        Ok((Part { path, size, hash, inode, state: State::Temporary { replace: false } }, Vec::new()))
    }

    pub(super) fn write(
        &mut self,
        job: &mut Job,
        file: u32,
        offset: usize,
        plain: &[u8],
        record: u64,
        tag: [u8; 16],
    ) -> Fault<()> {
        let written = self.write_record(job, file, offset, plain, record, tag);
        if written.is_err() && !self.slips.finish_after_failure {
            job.files.remove(&file);
        }
        written
    }

    fn write_record(
        &mut self,
        job: &mut Job,
        file: u32,
        offset: usize,
        plain: &[u8],
        record: u64,
        tag: [u8; 16],
    ) -> Fault<()> {
        let mut part = job.part(file)?;
        if let State::InPlace { changed } = part.state {
            self.move_out(job, &mut part, changed)?;
            job.files.insert(file, part.clone());
        }
        let path = part.path.clone();
        self.put(part.inode, offset, plain).map_err(|Full| full(&path))?;
        self.enter(job, &part, record, tag)
    }

    /// Copies a finished file to its temporary name, to be written again.
    fn move_out(&mut self, job: &Job, part: &mut Part, changed: bool) -> Fault<()> {
        if changed && !job.overwrite {
            let why =
                "changed since it was restored; move it away or use --force, then run the same get again";
            return Err(refused(&part.path, why));
        }
        let bytes = self.disk.bytes(part.inode);
        let bytes = bytes[..bytes.len().min(part.size)].to_vec();
        let temporary = job.temporary(&part.path);
        let copy = self.disk.create(&temporary, Kind::File(Vec::new()), 0o600);
        if let Err(Full) = self.disk.write(copy, 0, &bytes) {
            self.disk.unlink(&temporary);
            return Err(full(&part.path));
        }
        (part.inode, part.state) = (copy, State::Temporary { replace: true });
        Ok(())
    }

    pub(super) fn finish(&mut self, job: &mut Job, file: u32, mode: u32, mtime: FileTime) -> Fault<()> {
        let mut part = job.part(file)?;
        if let State::InPlace { changed } = part.state
            && self.disk.bytes(part.inode).len() != part.size
        {
            self.move_out(job, &mut part, changed)?;
            job.files.insert(file, part.clone());
        }
        self.complete(job, &part, mode, mtime)?;
        job.files.remove(&file);
        Ok(())
    }

    pub(super) fn whole(
        &mut self,
        job: &mut Job,
        parent: u32,
        name: &[u8],
        plain: &[u8],
        tag: [u8; 16],
        (mode, mtime): (u32, FileTime),
    ) -> Fault<FileOutcome> {
        let (mut part, _) = self.start(job, parent, name, plain.len())?;
        if let State::InPlace { changed } = part.state {
            self.move_out(job, &mut part, changed)?;
        }
        let mut done = self.put(part.inode, 0, plain).map_err(|Full| full(&part.path));
        if done.is_ok() && !plain.is_empty() {
            done = self.enter(job, &part, 0, tag);
        }
        if let Err(fault) = done.and_then(|()| self.complete(job, &part, mode, mtime)) {
            self.disk.unlink(&job.temporary(&part.path));
            self.known.remove(&(job.id, part.hash, 0));
            return Err(fault);
        }
        Ok(FileOutcome::Done)
    }

    fn put(&mut self, inode: Inode, offset: usize, plain: &[u8]) -> Result<(), Full> {
        self.bytes_written += plain.len() as u64;
        if self.slips.change_a_byte && plain.len() > 1000 {
            let mut wrong = plain.to_vec();
            wrong[999] ^= 1;
            return self.disk.write(inode, offset, &wrong);
        }
        self.disk.write(inode, offset, plain)
    }

    fn enter(&mut self, job: &mut Job, part: &Part, record: u64, tag: [u8; 16]) -> Fault<()> {
        let entered = job.journal.append(&mut self.disk, &part.hash, record, &tag);
        entered.map_err(|Full| full(&part.path))?;
        if record != FINISHED && !self.known.insert((job.id, part.hash, record)) {
            self.rewritten += 1;
        }
        Ok(())
    }

    /// Gives a file its size, mode and time; its place comes with the next batch.
    fn complete(&mut self, job: &mut Job, part: &Part, mode: u32, mtime: FileTime) -> Fault<()> {
        self.disk.resize(part.inode, part.size);
        self.disk.set_times(part.inode, Some(mode & 0o777), Some(mtime));
        self.enter(job, part, FINISHED, stamp(part.size, mtime))?;
        match part.state {
            State::Temporary { .. } => {
                job.unsynced.waiting_bytes += part.size as u64;
                job.unsynced.waiting.push(part.clone());
            }
            State::InPlace { .. } => job.unsynced.in_place.push(part.inode),
        }
        Ok(())
    }

    pub(super) fn place_if_full(&mut self, job: &mut Job) -> Fault<()> {
        let Unsynced { waiting, waiting_bytes, .. } = &job.unsynced;
        let is_full = waiting.len() >= PLACE_BATCH_FILES || *waiting_bytes >= PLACE_BATCH_BYTES;
        if is_full || self.slips.rename_before_sync { self.place(job) } else { Ok(()) }
    }

    /// Gives all waiting files their places, once their bytes are on the disk.
    pub(super) fn place(&mut self, job: &mut Job) -> Fault<()> {
        let waiting = std::mem::take(&mut job.unsynced.waiting);
        job.unsynced.waiting_bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        if !self.slips.rename_before_sync {
            if waiting.len() <= SYNC_EACH_MAX {
                waiting.iter().for_each(|part| self.disk.sync(part.inode));
            } else {
                self.disk.sync_all();
            }
            job.journal.sync(&mut self.disk);
        }
        for part in waiting {
            let replaces = job.overwrite || part.state == State::Temporary { replace: true };
            match self.disk.find(&part.path) {
                Some(_) if !replaces => return Err(exists(&part.path)),
                Some(inode) if *self.disk.stat(inode).0 == Kind::Directory => {
                    return Err(refused(&part.path, "a directory is in the way; move it away"));
                }
                _ => {}
            }
            self.disk.rename(&job.temporary(&part.path), &part.path);
            job.unsynced.changed(disk::parent(&part.path));
        }
        Ok(())
    }

    /// Makes everything durable that the job did, names and times included.
    pub(super) fn settle(&mut self, job: &mut Job) -> Fault<()> {
        self.place(job)?;
        if self.slips.rename_before_sync {
            return Ok(());
        }
        let Unsynced { changed, in_place, needs_all, .. } = &job.unsynced;
        if *needs_all || changed.len() + in_place.len() > SYNC_EACH_MAX {
            self.disk.sync_all();
            return Ok(());
        }
        in_place.iter().for_each(|inode| self.disk.sync(*inode));
        for path in changed {
            match self.disk.find(path) {
                Some(inode) => self.disk.sync(inode),
                None => self.disk.sync_names(path),
            }
        }
        Ok(())
    }
}

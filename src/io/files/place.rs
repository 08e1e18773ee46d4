//! The last step of files: from their temporary names to their places, durably (docs/decisions/0010).
//!
//! A file system may put a rename on the disk before the bytes of the file that was renamed. So complete files
//! wait under their temporary names until there are enough of them: then their bytes are made durable, the
//! journal that knows them too, and only then do they get their names. What makes names durable comes once, when
//! the job ends, before anybody is told that it is complete.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, syncfs, unlinkat};

use super::descriptors::Number;
use super::names::{self, failed};
use super::part::Part;
use super::{Fault, Work, errno};
use crate::limits::{PLACE_BATCH_BYTES, PLACE_BATCH_FILES, SYNC_EACH_MAX};

/// What a job has written and not made durable.
#[derive(Default)]
pub(super) struct Unsynced {
    /// Complete files under temporary names, whose bytes may not be on the disk.
    pub(super) waiting: Vec<(Part, Option<Arc<OwnedFd>>)>,
    waiting_bytes: u64,
    /// Directories (and files in place) whose entries, modes and times may not be; the first few.
    changed: Vec<Arc<OwnedFd>>,
    changed_count: usize,
    /// Something changed that cannot be synced by itself.
    needs_all: bool,
    /// One descriptor for each file system that something was written to, by device number.
    devices: BTreeMap<u64, Arc<OwnedFd>>,
}

impl Unsynced {
    /// Notes that the entries or attributes of what `fd` names changed.
    pub(super) fn changed(&mut self, fd: &Arc<OwnedFd>) {
        if self.changed.iter().any(|known| Arc::ptr_eq(known, fd)) {
            return;
        }
        self.changed_count += 1;
        if self.changed.len() < SYNC_EACH_MAX {
            self.changed.push(Arc::clone(fd));
        }
    }

    /// Notes a change of something that no descriptor can be had of: a symlink, a directory that may not be read.
    pub(super) fn changed_unseen(&mut self) {
        self.needs_all = true;
    }

    /// Notes the file system that `stat` is of, and a descriptor on it.
    pub(super) fn on(&mut self, stat: &FileStat, fd: &Arc<OwnedFd>) {
        self.devices.entry(stat.st_dev).or_insert_with(|| Arc::clone(fd));
    }

    /// A file is complete under its temporary name.
    pub(super) fn wait(&mut self, part: &Part, fd: &Arc<OwnedFd>) {
        self.waiting_bytes += part.size;
        // Opened again it could not be: its final mode may forbid that.
        let fd = (self.waiting.len() < SYNC_EACH_MAX).then(|| Arc::clone(fd));
        self.waiting.push((part.clone(), fd));
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= PLACE_BATCH_FILES || self.waiting_bytes >= PLACE_BATCH_BYTES
    }

    /// One by one what is little; else everything at once, whatever else lies on the file systems.
    fn sync(&self, few: &[&Arc<OwnedFd>], is_all_of_it: bool) -> Result<(), Errno> {
        if is_all_of_it {
            return few.iter().try_for_each(fsync);
        }
        self.devices.values().try_for_each(syncfs)
    }
}

impl Work<'_> {
    /// Gives waiting files their places if there are enough of them.
    pub(super) fn place_if_full(&mut self) -> Fault<()> {
        if self.job.unsynced.is_full() { self.place() } else { Ok(()) }
    }

    /// Gives all waiting files their places, once their bytes are on the disk.
    pub(super) fn place(&mut self) -> Fault<()> {
        let waiting = std::mem::take(&mut self.job.unsynced.waiting);
        self.job.unsynced.waiting_bytes = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let few: Vec<_> = waiting.iter().filter_map(|(_, fd)| fd.as_ref()).collect();
        let synced = self.job.unsynced.sync(&few, few.len() == waiting.len());
        if let Err(errno) = synced {
            self.discard(waiting);
            return Err(failed(&self.job.path, errno));
        }
        // Else a power loss could leave files in place that no journal knows: strangers' files, to the next run.
        if let Err(error) = self.job.journal.sync() {
            // It would be believed the next time, as a failed file would.
            self.discard(waiting);
            return Err(failed(&self.job.journal.path().display().to_string(), errno(&error)));
        }
        waiting.iter().try_for_each(|(part, _)| self.rename(part))
    }

    /// Throws away what may not have reached the disk, and what is being written, since nobody says which file a
    /// failed sync is about. Linux marks pages that it could not write as clean: the next run would read them
    /// back from the cache, find their tags right, and its own sync would succeed. Of a file that is not there
    /// no record counts, so they are fetched again.
    fn discard(&mut self, waiting: Vec<(Part, Option<Arc<OwnedFd>>)>) {
        let (open, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.job.files).into_iter().partition(|(_, part)| part.is_temporary());
        self.job.files = kept;
        open.keys().for_each(|file| self.descriptors.close(self.id, Number::File(*file)));
        let (mut kept, mut first) = (0u64, None);
        for part in open.into_values().chain(waiting.into_iter().map(|(part, _)| part)) {
            let temporary = names::part_name(&part.name, &self.job.suffix);
            let removed = self.dir(part.parent).and_then(|above| {
                match unlinkat(&*above, &temporary[..], UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => Ok(()),
                    Err(errno) => Err(failed(&self.path_of(part.parent, &temporary), errno)),
                }
            });
            if let Err(fault) = removed {
                kept += 1;
                first.get_or_insert(fault.message);
            }
        }
        // The sync's failure is the one to answer with. What stays would be taken for sound by the next run.
        if let Some(first) = first {
            tracing::error!(
                "{kept} unfinished files could not be removed after a failed sync; delete them before the same get \
                 is run again: the first is {first}"
            );
        }
        self.job.undiscarded += kept;
    }

    fn rename(&mut self, part: &Part) -> Fault<()> {
        let above = self.dir(part.parent)?;
        let temporary = names::part_name(&part.name, &self.job.suffix);
        let flags = match part.replaces() || self.job.overwrite {
            true => RenameFlags::empty(),
            false => RenameFlags::RENAME_NOREPLACE,
        };
        let renamed = match renameat2(&*above, &temporary[..], &*above, &part.name[..], flags) {
            // Some file systems cannot promise it in one step.
            Err(Errno::EINVAL) if !flags.is_empty() => {
                match fstatat(&*above, &part.name[..], AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Err(Errno::ENOENT) => {
                        renameat2(&*above, &temporary[..], &*above, &part.name[..], RenameFlags::empty())
                    }
                    Ok(_) => Err(Errno::EEXIST),
                    Err(errno) => Err(errno),
                }
            }
            renamed => renamed,
        };
        renamed.map_err(|errno| failed(&self.path_of(part.parent, &part.name), errno))?;
        self.job.unsynced.changed(&above);
        Ok(())
    }

    /// Makes everything durable that the job did, names and times included.
    pub(super) fn settle(&mut self) -> Fault<()> {
        self.place()?;
        let root = Arc::clone(&self.job.root);
        let stat = fstat(&*root).map_err(|errno| failed(&self.job.path, errno))?;
        let unsynced = &mut self.job.unsynced;
        unsynced.on(&stat, &root);
        let changed: Vec<_> = unsynced.changed.iter().collect();
        let synced = unsynced.sync(&changed, !unsynced.needs_all && changed.len() == unsynced.changed_count);
        synced.map_err(|errno| failed(&self.job.path, errno))
    }
}

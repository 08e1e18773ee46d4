//! What `io::files` does, on a simulated disk: the same steps in the same order, with the same syncs, so that a
//! crash finds the files as it would find a daemon's (docs/decisions/0010).

pub mod disk;
mod journal;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Rng;
use crate::base::fileop::{FileAct, FileDone, FileFault, FileOp, FileOutcome, FileTime, JobId};
use crate::base::id::hex;
use crate::crypto::hash::blake3;
use crate::sim::Crash;

pub use disk::Disk;
use disk::{Full, Inode, Kind};
use journal::{FINISHED, Journal, PathHash};
use place::Unsynced;

type Fault<T> = Result<T, FileFault>;

/// An entry as a person finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file: its content, mode and time.
    File(Vec<u8>, u32, FileTime),
    /// A symlink, its target and time.
    Link(Vec<u8>, FileTime),
    /// A directory: mode and time.
    Dir(u32, FileTime),
}

/// Mistakes of an executor that the simulator can be told to make (docs/testing/simulator.md).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slips {
    /// Files get their names without anything being synced, ever.
    pub rename_before_sync: bool,
    /// A file with a record that could not be written is finished all the same.
    pub finish_after_failure: bool,
    /// One byte of a record is changed on its way to the disk.
    pub change_a_byte: bool,
}

/// The executor's state for one job.
struct Job {
    overwrite: bool,
    id: [u8; 16],
    suffix: Vec<u8>,
    journal: Journal,
    dirs: BTreeMap<u32, (Vec<u8>, PathHash)>,
    files: BTreeMap<u32, Part>,
    unsynced: Unsynced,
}

/// A file on its way.
#[derive(Debug, Clone)]
struct Part {
    path: Vec<u8>,
    size: usize,
    hash: PathHash,
    inode: Inode,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Temporary { replace: bool },
    InPlace { changed: bool },
}

/// The files of one simulated node, and the thread that works on them.
#[derive(Default)]
pub struct SimFiles {
    /// The disk that they lie on.
    pub disk: Disk,
    /// Plaintext bytes written, also repeatedly.
    pub bytes_written: u64,
    /// Records that were written though an earlier run had them, since the power last failed.
    pub rewritten: u64,
    /// Mistakes to make.
    pub slips: Slips,
    jobs: BTreeMap<JobId, Job>,
    /// Records written by jobs that are not complete: journal, path and number.
    known: BTreeSet<([u8; 16], PathHash, u64)>,
}

impl SimFiles {
    /// The process or the machine stops; open jobs are forgotten.
    pub fn crash(&mut self, crash: Crash, rng: &mut Rng) {
        self.jobs.clear();
        if crash == Crash::Power {
            self.disk.lose_power(rng);
            self.known.clear();
        }
    }

    /// The entry at a path.
    pub fn entry(&self, path: &str) -> Option<Node> {
        self.at(path.as_bytes())
    }

    /// The same, of a path that need not be text.
    pub fn at(&self, path: &[u8]) -> Option<Node> {
        self.disk.find(path).map(|inode| self.node(inode))
    }

    /// Everything below a directory but unfinished files, by path.
    pub fn below<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Node)> {
        self.disk
            .below(directory)
            .filter(|(path, _)| !is_unfinished(path))
            .map(|(path, inode)| (path, self.node(inode)))
    }

    /// Unfinished files and journals: what a complete `get` leaves none of.
    pub fn leftovers(&self) -> usize {
        self.disk.below(b"").filter(|(path, _)| is_unfinished(path) || path.starts_with(disk::OLD)).count()
    }

    /// Makes a file of somebody else's.
    pub fn plant(&mut self, path: impl AsRef<[u8]>, bytes: &[u8]) {
        let inode = self.disk.create(path.as_ref(), Kind::File(Vec::new()), 0o644);
        let room = self.disk.room.take();
        self.disk.write(inode, 0, bytes).expect("there is room");
        self.disk.room = room;
        self.disk.sync_all();
    }

    fn node(&self, inode: Inode) -> Node {
        let (kind, mode, mtime) = self.disk.stat(inode);
        match kind {
            Kind::File(bytes) => Node::File(bytes.clone(), mode, mtime),
            Kind::Link(target) => Node::Link(target.clone(), mtime),
            Kind::Directory => Node::Dir(mode, mtime),
        }
    }

    /// Executes one operation.
    pub fn execute(&mut self, op: FileOp) -> FileDone {
        let FileOp { job: id, act } = op;
        let result = match act {
            FileAct::Begin { root, journal, overwrite } => self.begin(id, root, journal, overwrite),
            FileAct::End { complete } => self.end(id, complete),
            act => match self.jobs.remove(&id) {
                Some(mut job) => {
                    let result = self.act(&mut job, act);
                    self.jobs.insert(id, job);
                    result
                }
                None => Err(refused(b"job", "was not begun")),
            },
        };
        FileDone { job: id, result }
    }

    fn begin(&mut self, id: JobId, root: String, journal: [u8; 16], overwrite: bool) -> Fault<FileOutcome> {
        let root = root.trim_end_matches('/').as_bytes().to_vec();
        if self.jobs.values().any(|job| job.id == journal) {
            return Err(refused(&root, "the same get is already running"));
        }
        let mut unsynced = Unsynced::default();
        match self.disk.find(&root) {
            None => {
                self.disk.create(&root, Kind::Directory, 0o755);
            }
            Some(inode) if *self.disk.stat(inode).0 == Kind::Directory => {}
            Some(_) => return Err(refused(&root, "not a directory; move it away")),
        }
        unsynced.changed(&root);
        unsynced.changed(disk::parent(&root));
        let opened = Journal::open(&mut self.disk, &journal).map_err(|Full| full(&root))?;
        let resumed = opened.resumed();
        let suffix = [b".tornet-part-", hex(&journal[..4]).as_bytes()].concat();
        let dirs = BTreeMap::from([(0, (root.clone(), [0; 16]))]);
        let files = BTreeMap::new();
        self.jobs.insert(id, Job { overwrite, id: journal, suffix, journal: opened, dirs, files, unsynced });
        Ok(FileOutcome::Began { resumed })
    }

    fn end(&mut self, id: JobId, complete: bool) -> Fault<FileOutcome> {
        let Some(mut job) = self.jobs.remove(&id) else { return Err(refused(b"job", "was not begun")) };
        if !complete {
            // What failed is told already; files that are complete need not wait for the next run.
            let _ = self.place(&mut job);
            return Ok(FileOutcome::Done);
        }
        self.settle(&mut job)?;
        self.known.retain(|(journal, ..)| *journal != job.id);
        job.journal.remove(&mut self.disk);
        Ok(FileOutcome::Done)
    }

    fn act(&mut self, job: &mut Job, act: FileAct) -> Fault<FileOutcome> {
        match act {
            FileAct::Begin { .. } | FileAct::End { .. } => unreachable!("done by execute"),
            FileAct::Directory { dir, parent, name } => {
                let (path, hash) = job.child(parent, &name);
                match self.disk.find(&path) {
                    None => {
                        self.disk.create(&path, Kind::Directory, 0o700);
                    }
                    Some(inode) => match self.disk.stat(inode) {
                        (Kind::Directory, mode, _) => self.disk.set_times(inode, Some(mode | 0o700), None),
                        _ => return Err(refused(&path, "not a directory; move it away")),
                    },
                }
                job.unsynced.changed(disk::parent(&path));
                job.dirs.insert(dir, (path, hash));
                Ok(FileOutcome::Done)
            }
            FileAct::Open { file, parent, name, size } => {
                let (part, journal) = self.start(job, parent, &name, size as usize)?;
                job.files.insert(file, part);
                Ok(FileOutcome::Opened { file, journal })
            }
            FileAct::ReadBack { file, offset, mut into, len, record } => {
                let bytes = self.disk.bytes(job.part(file)?.inode);
                let from = (offset as usize).min(bytes.len());
                let to = (from + len as usize).min(bytes.len());
                into[..to - from].copy_from_slice(&bytes[from..to]);
                Ok(FileOutcome::Read { file, record, data: into, len: (to - from) as u32 })
            }
            FileAct::Write { file, offset, data, start, len, record, tag } => {
                let plain = &data[start as usize..(start + len) as usize];
                self.write(job, file, offset as usize, plain, record, tag)?;
                Ok(FileOutcome::Written { len })
            }
            FileAct::Finish { file, mode, mtime } => {
                self.finish(job, file, mode, mtime)?;
                self.place_if_full(job)?;
                Ok(FileOutcome::Done)
            }
            FileAct::Whole { parent, name, data, start, len, tag, mode, mtime } => {
                let plain =
                    data.as_ref().map_or(&[][..], |data| &data[start as usize..(start + len) as usize]);
                self.whole(job, parent, &name, plain, tag, (mode, mtime))?;
                self.place_if_full(job)?;
                Ok(FileOutcome::Written { len })
            }
            FileAct::Symlink { parent, name, target, mtime } => {
                let (path, _) = job.child(parent, &name);
                let found = self.disk.find(&path);
                let same = found.is_some_and(|inode| *self.disk.stat(inode).0 == Kind::Link(target.clone()));
                let inode = match found {
                    Some(inode) if same => inode,
                    None => self.disk.create(&path, Kind::Link(target), 0o777),
                    Some(inode) if *self.disk.stat(inode).0 == Kind::Directory => {
                        // What was begun of a file of that name is gone by the time the rename fails.
                        if job.overwrite {
                            let temporary = job.temporary(&path);
                            self.disk.unlink(&temporary);
                        }
                        return Err(refused(&path, "a directory is in the way; move it away"));
                    }
                    Some(_) if job.overwrite => {
                        let temporary = job.temporary(&path);
                        self.disk.unlink(&temporary);
                        let inode = self.disk.create(&temporary, Kind::Link(target), 0o777);
                        self.disk.rename(&temporary, &path);
                        inode
                    }
                    Some(_) => return Err(exists(&path)),
                };
                self.disk.set_times(inode, None, Some(mtime));
                job.unsynced.needs_all = true;
                Ok(FileOutcome::Done)
            }
            FileAct::FinishDirectory { dir, mode, mtime } => {
                self.place(job)?;
                let path = job.dirs[&dir].0.clone();
                let inode = self.disk.find(&path).ok_or_else(|| refused(&path, "no longer there"))?;
                self.disk.set_times(inode, Some(mode & 0o1777), Some(mtime));
                job.unsynced.changed(&path);
                Ok(FileOutcome::Done)
            }
        }
    }
}

impl Job {
    fn part(&self, file: u32) -> Fault<Part> {
        let missing = || refused(b"file", "was used before it was opened");
        self.files.get(&file).cloned().ok_or_else(missing)
    }

    /// The path of an entry, and what the journal calls it.
    fn child(&self, parent: u32, name: &[u8]) -> (Vec<u8>, PathHash) {
        let (above, hash) = &self.dirs[&parent];
        let hash = blake3(&[hash, name])[..16].try_into().expect("16 of 32 bytes");
        ([above, &b"/"[..], name].concat(), hash)
    }

    fn temporary(&self, path: &[u8]) -> Vec<u8> {
        let above = disk::parent(path);
        let name = &path[above.len() + 1..];
        let shown = if name.len() <= 64 { [name, b"."].concat() } else { Vec::new() };
        let hash = hex(&blake3(&[name])[..16]);
        [above, b"/.", &shown, hash.as_bytes(), &self.suffix].concat()
    }
}

/// Whether a path is that of an unfinished file.
fn is_unfinished(path: &[u8]) -> bool {
    path.windows(13).any(|part| part == b".tornet-part-")
}

fn stamp(size: usize, mtime: FileTime) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&mtime.seconds.to_le_bytes());
    out[8..12].copy_from_slice(&mtime.nanos.to_le_bytes());
    out[12..].copy_from_slice(&(size as u32).to_le_bytes());
    out
}

fn refused(path: &[u8], why: &str) -> FileFault {
    FileFault { message: format!("{}: {why}", path.escape_ascii()), retryable: false }
}

fn exists(path: &[u8]) -> FileFault {
    refused(path, "exists already; move it away, choose another place with -o, or use --force")
}

fn full(path: &[u8]) -> FileFault {
    let path = path.escape_ascii();
    let message = format!("{path}: the disk is full; free space and run the same get again");
    FileFault { message, retryable: true }
}

//! One `get`: find the entry, plan the tree, restore the files, end.
//!
//! ```text
//! Begin ─► Find (a path inside) ─► Plan (directories) ─► Restore (files) ─► Tidy (links, times) ─► End
//! ```
//! Any failure goes straight to `End { complete: false }`, which keeps the journal.

mod files;
mod plan;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::assemble::{Assembler, CutError, Opened, TaskId};
use super::find::Find;
use super::read::BlobRead;
use super::restore::{Active, Piece};
use super::tree::Tree;
use super::{GetProgress, GetRequest};
use crate::base::fileop::{FileAct, FileDone, FileOutcome};
use crate::base::{ChunkId, NodeId, SliceBuf, SlicePool};
use crate::limits::{FILE_OPS_PER_JOB_MAX, GET_AHEAD_BYTES, RECORD_PLAIN, SOURCES_SHOWN_MAX};
use crate::service::fetch::Target;
use crate::wire::reference::Blob;

/// What the records of a task are for.
enum Purpose {
    /// A blob that is read whole.
    Read(ReadId),
    /// Part of a directory that is searched; its piece begins at this offset.
    Find(u64),
    /// All of a file: it is written in one operation.
    Whole(u32),
    /// Part of a file: which file, and the piece.
    File(u32, Piece),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ReadId(u64);

/// What a read blob is for.
enum ReadFor {
    /// The reference's root directory (or the directory that a path led to).
    Root,
    /// A directory of the tree.
    Dir(u32),
    /// The extent list of the directory that is searched.
    FindList(Blob),
    /// An extent list of a file: which file, the list's blob, its offset in the file.
    FileList(u32, Blob, u64),
}

/// Files of one chunk that go on together: a slice that several of them share is then fetched once.
#[derive(Default)]
struct Opening {
    /// Opens that are not answered.
    unanswered: usize,
    /// Those that are.
    files: Vec<u32>,
}

enum Phase {
    Find(Box<Find>),
    Plan,
    /// Making directories: the next to make.
    Dirs(u32),
    /// Restoring files: position in the order.
    Files(usize),
    /// Making symlinks.
    Links(usize),
    /// Setting directories' modes and times, last first.
    Times(u32),
    Ending,
    Ended,
}

/// One `get`.
pub(super) struct Job {
    request: GetRequest,
    phase: Phase,
    tree: Tree,
    order: Vec<u32>,
    assembler: Assembler,
    pool: SlicePool,
    purposes: BTreeMap<TaskId, Purpose>,
    reads: BTreeMap<ReadId, (BlobRead, ReadFor)>,
    next_read: u64,
    /// Directories found and not yet being read.
    unread: VecDeque<(u32, Blob)>,
    reading_bytes: u64,
    /// Files that are restored record by record.
    active: BTreeMap<u32, Active>,
    /// Files of a resumed job whose journals are being read, by the chunk where their content begins.
    opening: BTreeMap<ChunkId, Opening>,
    /// Those of the active ones that may be able to go on.
    attention: BTreeSet<u32>,
    /// Files that wait for their only record.
    wholes: usize,
    /// What the extent lists of active files come to in memory, bytes.
    lists: u64,
    begun: bool,
    resumed: bool,
    ops: VecDeque<FileAct>,
    ops_waiting: usize,
    /// Whether the operation that ends the job went out: none may follow it.
    end_sent: bool,
    /// Slices that wait for room among the file operations or for a buffer.
    held: VecDeque<(Target, u32, SliceBuf, usize)>,
    wants: VecDeque<(Target, u16)>,
    /// Plaintext bytes wanted and not yet written.
    ahead: u64,
    pub(super) progress: GetProgress,
    outcome: Option<Result<(), String>>,
    abandoned: Vec<Target>,
}

impl Job {
    pub(super) fn new(request: GetRequest, pool: SlicePool) -> Self {
        let mut job = Self {
            phase: Phase::Plan,
            tree: Tree::default(),
            order: Vec::new(),
            assembler: Assembler::new(pool.clone()),
            pool,
            purposes: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            unread: VecDeque::new(),
            reading_bytes: 0,
            active: BTreeMap::new(),
            opening: BTreeMap::new(),
            attention: BTreeSet::new(),
            wholes: 0,
            lists: 0,
            begun: false,
            resumed: false,
            ops: VecDeque::new(),
            ops_waiting: 0,
            end_sent: false,
            held: VecDeque::new(),
            wants: VecDeque::new(),
            ahead: 0,
            progress: GetProgress::default(),
            outcome: None,
            abandoned: Vec::new(),
            request,
        };
        let root = job.request.reference.root.clone();
        let inside = job.request.inside.clone();
        if inside.is_empty() {
            job.read_directory(root, ReadFor::Root);
        } else if root.size == 0 {
            job.fail("the reference is empty: nothing is at that path");
        } else {
            job.phase = Phase::Find(Box::new(Find::new(root, inside)));
        }
        job.advance();
        job
    }

    // ---- what the manager calls -----------------------------------------------------------------

    /// Whether slices of this chunk are of use.
    pub(super) fn wants_chunk(&self, chunk: &Target) -> bool {
        self.assembler.wants(chunk)
    }

    /// Chunks that were wanted when the job gave up.
    pub(super) fn poll_abandoned(&mut self) -> Option<Target> {
        self.abandoned.pop()
    }

    /// Whether it could go on, were there buffers.
    pub(super) fn is_starved(&self) -> bool {
        let expands = !self.attention.is_empty() && self.ahead < GET_AHEAD_BYTES as u64;
        self.room() && (!self.held.is_empty() || expands)
    }

    /// Goes on, when there may be buffers again.
    pub(super) fn go_on(&mut self) {
        self.advance();
    }

    /// Slices come from this node.
    pub(super) fn came_from(&mut self, node: NodeId) {
        if !self.progress.sources.contains(&node) && self.progress.sources.len() < SOURCES_SHOWN_MAX {
            self.progress.sources.push(node);
        }
    }

    /// A verified slice of a chunk that the job wants.
    pub(super) fn slice(&mut self, chunk: Target, index: u32, data: SliceBuf, len: usize) {
        self.progress.bytes_fetched += len as u64;
        self.held.push_back((chunk, index, data, len));
        self.advance();
    }

    /// A slice came and could not be taken: asks for it again.
    pub(super) fn want_again(&mut self, chunk: &Target, index: u32) {
        if self.assembler.wants(chunk) {
            self.wants.push_back((*chunk, 1 << index));
        }
    }

    /// Nobody has the chunk of those who are connected, and so many friends are not.
    pub(super) fn unavailable(&mut self, chunk: &Target, away: usize, network: bool) {
        let others = match away {
            0 => String::new(),
            1 => ", and 1 friend could not be reached".to_owned(),
            away => format!(", and {away} friends could not be reached"),
        };
        let others = match network {
            true => format!(" and the network names nobody else who answers and has it{others}"),
            false => others,
        };
        self.fail(&format!(
            "none of the connected peers has chunk {}{others}; connect a friend that has it and run the same \
             get again to resume",
            chunk.id
        ));
        self.advance();
    }

    /// Gives up, keeping what is there. What is complete, but for hearing so, ends as it would.
    pub(super) fn cancel(&mut self, why: &str) {
        if !self.end_sent {
            self.fail(why);
        }
        self.advance();
    }

    /// The next file operation.
    pub(super) fn poll_op(&mut self) -> Option<FileAct> {
        let op = self.ops.pop_front()?;
        self.ops_waiting += 1;
        self.end_sent |= matches!(op, FileAct::End { .. });
        Some(op)
    }

    /// The next slices to fetch.
    pub(super) fn poll_want(&mut self) -> Option<(Target, u16)> {
        self.wants.pop_front()
    }

    /// How it ended, once everything is answered.
    pub(super) fn ended(&mut self) -> Option<Result<(), String>> {
        matches!(self.phase, Phase::Ended).then(|| self.outcome.take().unwrap_or(Ok(())))
    }

    /// An operation was done.
    pub(super) fn file_done(&mut self, done: FileDone) {
        self.ops_waiting = self.ops_waiting.saturating_sub(1);
        match done.result {
            // Also of the end itself: what is not known to be durable is no success. `advance` ends it then.
            Err(fault) => self.fail(&fault.message),
            Ok(outcome) => self.outcome_of(outcome),
        }
        self.advance();
    }

    fn outcome_of(&mut self, outcome: FileOutcome) {
        match outcome {
            FileOutcome::Began { resumed } => {
                self.begun = true;
                self.resumed = resumed;
            }
            FileOutcome::Opened { file, journal } => {
                if let Some(active) = self.active.get_mut(&file) {
                    active.opened(journal);
                    let chunk = self.tree.files[file as usize].blob.top.as_ref().map(|top| top.chunk);
                    match chunk.and_then(|chunk| self.opening.get_mut(&chunk)) {
                        Some(opening) => {
                            opening.unanswered -= 1;
                            opening.files.push(file);
                        }
                        None => drop(self.attention.insert(file)),
                    }
                }
            }
            FileOutcome::Read { file, record, mut data, len } => self.checked(file, record, &mut data, len),
            FileOutcome::Written { len } => {
                self.ahead = self.ahead.saturating_sub(u64::from(len));
                self.progress.bytes_done += u64::from(len);
            }
            FileOutcome::Done => {}
        }
    }

    fn fail(&mut self, why: &str) {
        if self.outcome.is_none() && !matches!(self.phase, Phase::Ended) {
            self.outcome = Some(Err(why.to_string()));
            self.abandoned = self.assembler.chunks().copied().collect();
            self.assembler = Assembler::new(self.pool.clone());
            self.purposes.clear();
            self.reads.clear();
            self.unread.clear();
            self.active.clear();
            self.opening.clear();
            self.attention.clear();
            self.held.clear();
            self.wants.clear();
            self.ops.clear();
            self.phase = Phase::Ending;
            if self.end_sent {
                // Its answer ends the job.
            } else if self.begun || self.ops_waiting > 0 {
                self.ops.push_back(FileAct::End { complete: false });
            } else {
                self.phase = Phase::Ended;
            }
        }
    }

    /// Whether more file operations may be made now.
    fn room(&self) -> bool {
        self.ops.len() + self.ops_waiting < FILE_OPS_PER_JOB_MAX
    }

    /// Does all that can be done now.
    fn advance(&mut self) {
        loop {
            self.cut();
            let went_on = match &mut self.phase {
                Phase::Find(_) => self.find(),
                Phase::Plan => self.plan(),
                Phase::Dirs(next) => {
                    let next = *next;
                    self.make_dir(next)
                }
                Phase::Files(position) => {
                    let position = *position;
                    self.restore(position)
                }
                Phase::Links(next) => {
                    let next = *next;
                    self.make_link(next)
                }
                Phase::Times(left) => {
                    let left = *left;
                    self.finish_dir(left)
                }
                Phase::Ending => {
                    if self.ops.is_empty() && self.ops_waiting == 0 {
                        self.phase = Phase::Ended;
                    }
                    false
                }
                Phase::Ended => false,
            };
            if !went_on {
                return;
            }
        }
    }

    // ---- slices to records ----------------------------------------------------------------------

    fn cut(&mut self) {
        while self.room() {
            let Some((chunk, index, data, len)) = self.held.pop_front() else { return };
            let mut opened = Vec::new();
            let result = self.assembler.slice(&chunk, index, data, len, &mut opened);
            // One slice may complete several records of a task: it is over only after all of them.
            let tasks: Vec<_> = opened.iter().map(|record| record.task).collect();
            for record in opened {
                self.record(record);
            }
            for task in tasks.into_iter().filter(|task| !self.assembler.has(*task)) {
                self.purposes.remove(&task);
            }
            match result {
                Ok(()) => {}
                Err((CutError::NoBuffer, data)) => {
                    self.held.push_front((chunk, index, data, len));
                    return;
                }
                Err((CutError::Forged, _)) => {
                    return self
                        .fail("the content does not open with this reference: it is damaged or hostile");
                }
            }
        }
    }

    fn record(&mut self, opened: Opened) {
        let Opened { task, record, data, start, len, tag } = opened;
        let plain = start..start + len;
        match self.purposes.get(&task) {
            None => {}
            Some(Purpose::Find(offset)) => {
                if let Phase::Find(find) = &mut self.phase {
                    find.record(*offset, record, &data[plain]);
                }
            }
            Some(Purpose::Read(id)) => {
                let Some((read, _)) = self.reads.get_mut(id) else { return };
                if read.record(task, record, &data[plain]).is_err() {
                    self.fail("a directory of this reference is malformed: it is damaged or hostile");
                }
            }
            Some(&Purpose::Whole(file)) => {
                let entry = &self.tree.files[file as usize];
                self.ops.push_back(FileAct::Whole {
                    parent: entry.parent,
                    name: entry.name.clone(),
                    data: Some(data),
                    start: start as u32,
                    len: len as u32,
                    tag,
                    mode: entry.mode,
                    mtime: entry.mtime,
                });
                self.wholes -= 1;
                self.progress.files_done += 1;
            }
            Some(Purpose::File(file, piece)) => {
                let file = *file;
                let number = piece.first_record() + u64::from(record);
                let offset = piece.offset + u64::from(record) * RECORD_PLAIN as u64;
                let (start, len) = (start as u32, len as u32);
                self.ops.push_back(FileAct::Write { file, offset, data, start, len, record: number, tag });
                self.record_settled(file);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn lists_read(&self) -> usize {
        self.reads.values().filter(|(_, what)| matches!(what, ReadFor::FileList(..))).count()
    }

    #[cfg(test)]
    pub(super) fn purposes(&self) -> usize {
        self.purposes.len()
    }

    /// Starts fetching records of a piece.
    fn start(&mut self, blob: &Blob, records: u16, purpose: Purpose) -> Option<TaskId> {
        let top = blob.top.as_ref()?;
        let (task, target, mask) = self.assembler.add(top, records);
        self.purposes.insert(task, purpose);
        self.wants.push_back((target, mask));
        Some(task)
    }
}

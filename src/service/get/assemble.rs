//! From slices of chunks to opened records of pieces.
//!
//! A [`Task`] is one piece of which some records are wanted. A verified slice is cut along the records of
//! every task in its chunk. Where a slice holds just one wanted record, and all of it, the record is
//! opened where it lies and leaves in the same buffer: the way of all large files. Otherwise each record
//! is gathered in a buffer of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{SliceBuf, SlicePool};
use crate::chunk::seal::PieceKey;
use crate::crypto::Forged;
use crate::limits::{SLICE_SIZE, TAG_SIZE};
use crate::service::fetch::Target;
use crate::wire::locator::Locator;

/// What a task is for: the caller's number, handed back with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(pub u64);

/// One record, opened: `data[start..start + len]` is plaintext.
pub(super) struct Opened {
    pub task: TaskId,
    pub record: u32,
    pub data: SliceBuf,
    pub start: usize,
    pub len: usize,
    pub tag: [u8; TAG_SIZE],
}

struct Task {
    locator: Locator,
    key: Option<PieceKey>,
    /// Bit i: record i is wanted and not opened yet.
    wanted: u16,
}

/// Part of a record that lies across two slices.
struct Partial {
    /// Its own memory, as large as the record: a buffer of the pool that waits for another slice could be the
    /// one that this slice's buffers wait for.
    data: Vec<u8>,
    got: usize,
    /// Bit i: slice i has given its part.
    from: u16,
}

/// Why a slice could not be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CutError {
    /// No record buffer is free; hand the slice in again later.
    NoBuffer,
    /// The slice is what the network agreed on, but the locator's key does not open it.
    Forged,
}

/// The tasks of one job.
pub(super) struct Assembler {
    pool: SlicePool,
    tasks: BTreeMap<TaskId, Task>,
    by_chunk: BTreeMap<Target, BTreeSet<TaskId>>,
    partials: BTreeMap<(TaskId, u32), Partial>,
    next: u64,
}

impl Assembler {
    /// `pool` gives the buffers of records that cannot stay in their slice.
    pub(super) fn new(pool: SlicePool) -> Self {
        Self { pool, tasks: BTreeMap::new(), by_chunk: BTreeMap::new(), partials: BTreeMap::new(), next: 0 }
    }

    /// Wants records of a piece (bit i = record i). Returns the task, and the slices to fetch.
    pub(super) fn add(&mut self, locator: &Locator, records: u16) -> (TaskId, Target, u16) {
        let id = TaskId(self.next);
        self.next += 1;
        let target = target_of(locator);
        let mut mask = 0u16;
        for record in (0..locator.records()).filter(|r| records >> r & 1 == 1) {
            for slice in slices_of(locator, record) {
                mask |= 1 << slice;
            }
        }
        self.by_chunk.entry(target).or_default().insert(id);
        self.tasks.insert(id, Task { locator: locator.clone(), key: None, wanted: records });
        (id, target, mask)
    }

    /// Whether a task still wants something.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Whether any task wants something of this chunk.
    pub(super) fn wants(&self, chunk: &Target) -> bool {
        self.by_chunk.contains_key(chunk)
    }

    /// The chunks that tasks still want something of.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &Target> {
        self.by_chunk.keys()
    }

    /// Cuts a verified slice. Opened records are appended to `out`. With [`CutError::NoBuffer`] the slice
    /// comes back unharmed; handed in again, what was already cut from it is not cut twice.
    pub(super) fn slice(
        &mut self,
        chunk: &Target,
        index: u32,
        mut data: SliceBuf,
        len: usize,
        out: &mut Vec<Opened>,
    ) -> Result<(), (CutError, SliceBuf)> {
        let begin = index as usize * SLICE_SIZE;
        let span = begin..begin + len;
        let mut hits = Vec::new();
        for &id in self.by_chunk.get(chunk).into_iter().flatten() {
            let Some(task) = self.tasks.get(&id) else { continue };
            for record in (0..task.locator.records()).filter(|r| task.wanted >> r & 1 == 1) {
                let place = task.locator.record(record);
                if place.start < span.end && span.start < place.end {
                    hits.push((id, record));
                }
            }
        }
        if let [(id, record)] = hits[..] {
            let task = self.tasks.get_mut(&id).expect("hits name present tasks");
            let place = task.locator.record(record);
            if place.start >= span.start && place.end <= span.end {
                let sealed = place.start - begin..place.end - begin;
                let tag = tag_of(&data[sealed.clone()]);
                return match open(task, record, &mut data[sealed.clone()]) {
                    Ok(len) => {
                        self.done(id, record);
                        out.push(Opened { task: id, record, data, start: sealed.start, len, tag });
                        Ok(())
                    }
                    Err(Forged) => Err((CutError::Forged, data)),
                };
            }
        }
        for (id, record) in hits {
            if let Err(error) = self.gather(id, record, index, &span, &data, out) {
                return Err((error, data));
            }
        }
        Ok(())
    }

    /// Copies the overlap of a record with a slice into the record's own buffer; opens it when complete.
    fn gather(
        &mut self,
        id: TaskId,
        record: u32,
        index: u32,
        span: &std::ops::Range<usize>,
        slice: &[u8],
        out: &mut Vec<Opened>,
    ) -> Result<(), CutError> {
        let Some(task) = self.tasks.get(&id) else { return Ok(()) };
        let place = task.locator.record(record);
        let overlap = place.start.max(span.start)..place.end.min(span.end);
        let to = overlap.start - place.start..overlap.end - place.start;
        let from = overlap.start - span.start..overlap.end - span.start;
        if overlap == place {
            let mut data = self.pool.lease().ok_or(CutError::NoBuffer)?;
            data[to].copy_from_slice(&slice[from]);
            return self.complete(id, record, data, place.len(), out);
        }
        let mut partial = match self.partials.remove(&(id, record)) {
            Some(partial) => partial,
            None => Partial { data: vec![0; place.len()], got: 0, from: 0 },
        };
        if partial.from >> index & 1 == 0 {
            partial.data[to].copy_from_slice(&slice[from]);
            partial.got += overlap.len();
            partial.from |= 1 << index;
        }
        if partial.got < place.len() {
            self.partials.insert((id, record), partial);
            return Ok(());
        }
        let Some(mut data) = self.pool.lease() else {
            self.partials.insert((id, record), partial);
            return Err(CutError::NoBuffer);
        };
        data[..place.len()].copy_from_slice(&partial.data);
        self.complete(id, record, data, place.len(), out)
    }

    /// Opens a record that is whole in a buffer of its own.
    fn complete(
        &mut self,
        id: TaskId,
        record: u32,
        mut data: SliceBuf,
        sealed: usize,
        out: &mut Vec<Opened>,
    ) -> Result<(), CutError> {
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        let tag = tag_of(&data[..sealed]);
        let len = open(task, record, &mut data[..sealed]).map_err(|Forged| CutError::Forged)?;
        self.done(id, record);
        out.push(Opened { task: id, record, data, start: 0, len, tag });
        Ok(())
    }

    fn done(&mut self, id: TaskId, record: u32) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.wanted &= !(1 << record);
        if task.wanted != 0 {
            return;
        }
        let chunk = target_of(&task.locator);
        self.tasks.remove(&id);
        if let Some(tasks) = self.by_chunk.get_mut(&chunk) {
            tasks.remove(&id);
            if tasks.is_empty() {
                self.by_chunk.remove(&chunk);
            }
        }
    }
}

fn target_of(locator: &Locator) -> Target {
    Target { id: locator.chunk, root: locator.root, len: locator.chunk_len }
}

fn slices_of(locator: &Locator, record: u32) -> std::ops::Range<usize> {
    let place = locator.record(record);
    place.start / SLICE_SIZE..place.end.div_ceil(SLICE_SIZE)
}

fn tag_of(sealed: &[u8]) -> [u8; TAG_SIZE] {
    sealed[sealed.len() - TAG_SIZE..].try_into().expect("a record ends with its tag")
}

fn open(task: &mut Task, record: u32, sealed: &mut [u8]) -> Result<usize, Forged> {
    let key = task.key.get_or_insert_with(|| PieceKey::new(&task.locator.key));
    key.open_record(record, sealed)
}

//! Reading chunks from the map, for one thread: what the cores see as [`ChunkRead`].
//!
//! A packet's path: `read` finds the slice among those looked up since the last commit and copies from the map. The
//! first use of a slice after a commit costs three B-tree lookups; the first use since the daemon's start, a hash.
//! A handle is the chunk's sequence number and which environment it lies in, so handles need no table and
//! never name another chunk; what the reader keeps per handle can be forgotten at any time.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::damage::UNKNOWN;
use super::database::{Database, Kind};
use super::record::{self, Record, Shape, TAIL};
use super::{Ack, NewChunk, Shared, StoreError, Table};
use crate::base::{ChunkId, ChunkRead, ReadFault, StoredChunk};
use crate::crypto::hash::slice_cv;
use crate::limits::{SLICE_SIZE, STORE_COLD_MAX, STORE_HANDLES_MAX, STORE_RECENT_MAX, STORE_RUN};
use crate::sys::lmdb::{Mapped, Reader};
use crate::sys::{hint, memory};
use crate::wire::locator::Locator;

/// Pages to be faulted in off the shard: `madvise(address, len, MADV_POPULATE_READ)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdRange {
    /// First page.
    pub address: usize,
    /// Bytes, whole pages.
    pub len: usize,
    /// Which chunk.
    pub handle: u64,
    /// Which slice.
    pub slice: u32,
}

/// One thread's way to read. The pages of every [`ColdRange`] stay mapped as long as the reader lives.
pub struct StoreReader {
    local: Reader,
    cache: Reader,
    shared: Arc<Shared>,
    known: Vec<Option<Known>>,
    recent: Vec<Option<Recent>>,
    cold: Vec<ColdRange>,
    warming: usize,
    scratch: Vec<u8>,
}

/// What is remembered of a chunk: one bit per slice.
#[derive(Clone, Copy)]
struct Known {
    handle: u64,
    id: ChunkId,
    good: u16,
    bad: u16,
    warming: u16,
    /// Could not be faulted in just now; whoever asks next is told so, once.
    failed: u16,
}

/// A slice that was looked up, good until the next commit.
#[derive(Clone, Copy)]
struct Recent {
    handle: u64,
    slice: u32,
    /// The run's used part, or the inline slice.
    main: Mapped,
    tail: [u8; TAIL],
    tail_len: usize,
    cv: [u8; 32],
    only: bool,
}

impl StoreReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            local: Reader::new(Arc::clone(&shared.local.database.env)),
            cache: Reader::new(Arc::clone(&shared.cache.database.env)),
            known: vec![None; STORE_HANDLES_MAX],
            recent: vec![None; STORE_RECENT_MAX],
            cold: Vec::new(),
            warming: 0,
            scratch: Vec::with_capacity(SLICE_SIZE),
            shared,
        }
    }

    /// Stores a copy of another's chunk without waiting, or gives back whom to tell when the writer has too much to do.
    pub fn try_put_cache(&self, chunk: NewChunk, ack: Ack) -> Result<(), Ack> {
        self.shared.cache.reports.queue.try_put(chunk, ack).map_err(|(_, ack)| ack)
    }

    /// Ends the snapshots: to be called once per turn of the loop, and before anything that waits. The next
    /// use takes new ones, which see everything committed by then.
    pub fn park(&mut self) {
        self.local.park();
        self.cache.park();
    }

    /// The slices that [`ChunkRead::warm`] said `Ok(false)` of since the last call. Each must be answered by
    /// [`Self::warmed`], then by `Input::Warmed`.
    pub fn take_cold(&mut self) -> Vec<ColdRange> {
        std::mem::take(&mut self.cold)
    }

    /// Says that a cold range was faulted in, or why not: what the disk cannot read counts as damaged; for anything
    /// else whoever asks next is refused, and may ask again.
    pub fn warmed(&mut self, handle: u64, slice: u32, populated: Result<(), ReadFault>) {
        self.warming = self.warming.saturating_sub(1);
        if let Some(known) = self.known_mut(handle) {
            let bit = bit(slice);
            known.warming &= !bit;
            match populated {
                Ok(()) => {}
                Err(ReadFault::Damaged) => {
                    known.bad |= bit;
                    let id = known.id;
                    self.tell(handle, id, "the disk cannot read it");
                }
                Err(_) => known.failed |= bit,
            }
        }
    }

    /// Where a piece with this hash lies, when its chunk is still stored here.
    pub fn publication(&mut self, hash: &[u8; 32]) -> Result<Option<Locator>, StoreError> {
        let database = Arc::clone(&self.shared.local.database);
        let wrong = |error| database.wrong(error);
        let Some(found) = self.local.get(database.publications, hash).map_err(wrong)? else {
            return Ok(None);
        };
        let bytes = self.local.bytes(found).ok_or(StoreError::Malformed("snapshot"))?;
        let locator = Locator::parse(bytes).map_err(|_| StoreError::Malformed("publication"))?;
        let Some(stored) = self.local.get(database.index, &locator.chunk.0).map_err(wrong)? else {
            return Ok(None);
        };
        // What is damaged is as good as not there: whoever asks puts it again.
        let record = Record::parse(self.local.bytes(stored).ok_or(StoreError::Malformed("snapshot"))?);
        let sound = |record: &Record<'_>| !database.damage.has(&locator.chunk, record.sequence());
        Ok(record.ok().filter(sound).map(|_| locator))
    }

    /// A small value.
    pub fn value(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let database = Arc::clone(&self.shared.local.database);
        if key.is_empty() || key[0] == 0 {
            return Err(StoreError::Malformed("key"));
        }
        let found = self.local.get(table.dbi(&database), key).map_err(|error| database.wrong(error))?;
        Ok(found.and_then(|found| self.local.bytes(found)).map(<[u8]>::to_vec))
    }

    fn side(&mut self, handle: u64) -> (&mut Reader, &Database) {
        match kind_of(handle) {
            Kind::Local => (&mut self.local, &self.shared.local.database),
            Kind::Cache => (&mut self.cache, &self.shared.cache.database),
        }
    }

    fn bytes(&self, handle: u64, value: Mapped) -> Result<&[u8], ReadFault> {
        let reader = match kind_of(handle) {
            Kind::Local => &self.local,
            Kind::Cache => &self.cache,
        };
        reader.bytes(value).ok_or(ReadFault::Store)
    }

    /// Tells that a chunk is damaged.
    fn tell(&self, handle: u64, id: ChunkId, what: &str) {
        let kind = kind_of(handle);
        if self.shared.side(kind).reports.tell(kind, id, handle >> 1, what) {
            self.shared.reads.damaged.fetch_add(1, Relaxed);
        }
    }

    fn find_in(&mut self, kind: Kind, id: &ChunkId) -> Option<StoredChunk> {
        let value = self.get(kind as u64, |database| database.index, &id.0).ok()?;
        let record = Record::parse(self.bytes(kind as u64, value).ok()?);
        let Some((sequence, len, root, whole)) = record
            .ok()
            .map(|record| (record.sequence(), record.shape().len, record.root(), record.is_whole()))
        else {
            self.tell(UNKNOWN << 1 | kind as u64, *id, "its record");
            self.shared.side(kind).reports.pass_on(*id, UNKNOWN);
            return None;
        };
        let handle = sequence << 1 | kind as u64;
        let side = self.shared.side(kind);
        if side.database.damage.has(id, sequence) {
            side.reports.pass_on(*id, sequence);
            return None;
        }
        // A record that names another chunk's bodies would bring that chunk's, all in order but not asked for.
        let owned = match self.know(handle) {
            Ok(known) => known.id == *id,
            Err(ReadFault::Gone) => false,
            Err(_) => return None,
        };
        if !owned || !whole {
            self.tell(handle, *id, if whole { "its place" } else { "its list of hashes" });
            return None;
        }
        Some(StoredChunk { handle, len, root })
    }

    fn known_mut(&mut self, handle: u64) -> Option<&mut Known> {
        self.known[slot(handle)].as_mut().filter(|known| known.handle == handle)
    }

    fn get(
        &mut self,
        handle: u64,
        pick: fn(&Database) -> lmdb::Database,
        key: &[u8],
    ) -> Result<Mapped, ReadFault> {
        let (reader, database) = self.side(handle);
        match reader.get(pick(database), key) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(ReadFault::Gone),
            Err(error) => Err(unreadable(database, error)),
        }
    }

    /// Takes a snapshot for this turn, where there is none yet.
    fn renew(&mut self, handle: u64) -> Result<(), ReadFault> {
        let (reader, database) = self.side(handle);
        reader.renew().map_err(|error| unreadable(database, error))
    }

    /// What is remembered of a chunk, looked up if nothing is.
    fn know(&mut self, handle: u64) -> Result<Known, ReadFault> {
        if let Some(known) = self.known_mut(handle) {
            return Ok(*known);
        }
        let id = self.get(handle, |database| database.order, &(handle >> 1).to_be_bytes())?;
        let id = ChunkId::from_slice(self.bytes(handle, id)?).ok_or(ReadFault::Store)?;
        let known = Known { handle, id, good: 0, bad: 0, warming: 0, failed: 0 };
        self.known[slot(handle)] = Some(known);
        Ok(known)
    }

    /// The chunk's record, if it is still the one that the handle was given for.
    fn record(&mut self, handle: u64) -> Result<(Mapped, Shape), ReadFault> {
        let known = self.know(handle)?;
        let value = self.get(handle, |database| database.index, &known.id.0)?;
        let record = Record::parse(self.bytes(handle, value)?).map_err(|_| ReadFault::Damaged)?;
        if record.sequence() != handle >> 1 { Err(ReadFault::Gone) } else { Ok((value, record.shape())) }
    }

    /// Finds a slice in the current snapshot.
    fn locate(&mut self, handle: u64, slice: u32) -> Result<Recent, ReadFault> {
        let place = place(handle, slice);
        if let Some(recent) = self.recent[place]
            && recent.handle == handle
            && recent.slice == slice
        {
            self.renew(handle)?;
            if self.bytes(handle, recent.main).is_ok() {
                return Ok(recent);
            }
        }
        let (value, shape) = self.record(handle)?;
        if slice >= shape.slices {
            return Err(ReadFault::Store);
        }
        let len = shape.slice_len(slice);
        let record = self.bytes(handle, value)?;
        let list = shape.list().start + 32 * slice as usize;
        let cv = record[list..list + 32].try_into().map_err(|_| ReadFault::Damaged)?;
        let mut recent = Recent {
            handle,
            slice,
            main: value,
            tail: [0; TAIL],
            tail_len: len.saturating_sub(STORE_RUN),
            cv,
            only: shape.slices == 1,
        };
        if slice < shape.runs {
            recent.tail.copy_from_slice(&record[shape.tail(slice)]);
            let run = self.get(handle, |database| database.bodies, &record::run_key(handle >> 1, slice))?;
            if run.len() != STORE_RUN {
                return Err(ReadFault::Damaged);
            }
            recent.main = run.part(0..len.min(STORE_RUN)).ok_or(ReadFault::Damaged)?;
        } else {
            recent.main = value.part(shape.inline()).ok_or(ReadFault::Damaged)?;
        }
        self.recent[place] = Some(recent);
        Ok(recent)
    }

    /// Puts a cold slice among those to be faulted in.
    fn ask(&mut self, at: &Recent) -> Result<(), ReadFault> {
        let (address, len) = memory::pages_of(self.bytes(at.handle, at.main)?);
        self.shared.reads.cold.fetch_add(1, Relaxed);
        self.warming += 1;
        self.cold.push(ColdRange { address, len, handle: at.handle, slice: at.slice });
        if let Some(known) = self.known_mut(at.handle) {
            known.warming |= bit(at.slice);
            // It comes from the disk again, and is checked again.
            known.good &= !bit(at.slice);
        }
        Ok(())
    }

    /// Makes sure that the slice's bytes are what they were when they were stored; reads them, once.
    fn check(&mut self, at: &Recent) -> Result<(), ReadFault> {
        let known = self.know(at.handle)?;
        let bit = bit(at.slice);
        if known.bad & bit != 0 {
            return Err(ReadFault::Damaged);
        }
        if known.good & bit != 0 {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(self.bytes(at.handle, at.main)?);
        scratch.extend_from_slice(&at.tail[..at.tail_len]);
        let good = slice_cv(at.slice, &scratch, at.only) == at.cv;
        self.scratch = scratch;
        self.shared.reads.checked.fetch_add(1, Relaxed);
        if !good {
            self.tell(at.handle, known.id, &format!("slice {}", at.slice));
        }
        if let Some(known) = self.known_mut(at.handle) {
            if good { known.good |= bit } else { known.bad |= bit }
        }
        if good { Ok(()) } else { Err(ReadFault::Damaged) }
    }
}

impl ChunkRead for StoreReader {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        let found = self.peek(id)?;
        if kind_of(found.handle) == Kind::Cache {
            self.shared.touched.touch(found.handle >> 1);
        }
        Some(found)
    }

    fn peek(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.find_in(Kind::Local, id).or_else(|| self.find_in(Kind::Cache, id))
    }

    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        let (value, shape) = self.record(handle)?;
        let bytes = self.bytes(handle, value)?;
        if !Record::parse(bytes).is_ok_and(|record| record.is_whole()) {
            let known = self.know(handle)?;
            self.tell(handle, known.id, "its list of hashes");
            return Err(ReadFault::Damaged);
        }
        into.extend_from_slice(&bytes[shape.list()]);
        Ok(())
    }

    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        let at = self.locate(handle, slice)?;
        let known = self.know(handle)?;
        if known.bad & bit(slice) != 0 {
            return Err(ReadFault::Damaged);
        }
        if known.warming & bit(slice) != 0 {
            return Ok(false);
        }
        if known.failed & bit(slice) != 0 {
            self.known_mut(handle).into_iter().for_each(|known| known.failed &= !bit(slice));
            return Err(ReadFault::Store);
        }
        let bytes = self.bytes(handle, at.main)?;
        // Where the kernel does not say, reading waits for the disk at worst.
        if memory::is_resident(bytes).unwrap_or(true) {
            self.shared.reads.resident.fetch_add(1, Relaxed);
            return self.check(&at).map(|()| true);
        }
        if self.warming >= STORE_COLD_MAX {
            return Err(ReadFault::Busy);
        }
        self.ask(&at).map(|()| false)
    }

    fn prefetch(&mut self, handle: u64, slice: u32) {
        // The other half is for what is wanted now.
        if self.warming >= STORE_COLD_MAX / 2 {
            return;
        }
        let (Ok(at), Ok(known)) = (self.locate(handle, slice), self.know(handle)) else { return };
        let cold = |bytes| !memory::is_resident(bytes).unwrap_or(true);
        if (known.bad | known.warming | known.failed) & bit(slice) == 0
            && self.bytes(handle, at.main).is_ok_and(cold)
        {
            // What is wrong is met when it is wanted.
            let _ = self.ask(&at);
        }
    }

    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        let mut offset = offset as usize;
        let mut into = into;
        while !into.is_empty() {
            let slice = u32::try_from(offset / SLICE_SIZE).map_err(|_| ReadFault::Store)?;
            let start = offset % SLICE_SIZE;
            let at = self.locate(handle, slice)?;
            self.check(&at)?;
            let main = self.bytes(handle, at.main)?;
            let len = main.len() + at.tail_len;
            if start >= len {
                return Err(ReadFault::Store);
            }
            let count = into.len().min(len - start);
            let (now, later) = into.split_at_mut(count);
            if start + count <= main.len() {
                now.copy_from_slice(&main[start..start + count]);
                // The next packet's bytes come from memory while this one is being sealed.
                hint::prefetch(&main[start + count..main.len().min(start + 2 * count)]);
            } else {
                let from_main = main.len().saturating_sub(start);
                now[..from_main].copy_from_slice(&main[main.len() - from_main..]);
                let tail = start.saturating_sub(main.len());
                now[from_main..].copy_from_slice(&at.tail[tail..tail + count - from_main]);
            }
            offset += count;
            into = later;
        }
        Ok(())
    }
}

fn unreadable(database: &Database, error: lmdb::Error) -> ReadFault {
    tracing::warn!(%error, path = %database.path.display(), "the store could not be read");
    ReadFault::Store
}

/// Where a slice is remembered. Multiplying by a large odd number (Knuth's, TAOCP 6.4) spreads what lies in sequence.
fn place(handle: u64, slice: u32) -> usize {
    let mixed = (handle << 4 ^ u64::from(slice)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - STORE_RECENT_MAX.trailing_zeros())) as usize
}

/// The lowest bit of a handle says where the chunk lies.
fn kind_of(handle: u64) -> Kind {
    if handle & 1 == Kind::Cache as u64 { Kind::Cache } else { Kind::Local }
}

/// Neighbours in sequence, such as the chunks of one file, do not displace each other.
fn slot(handle: u64) -> usize {
    handle as usize % STORE_HANDLES_MAX
}

fn bit(slice: u32) -> u16 {
    1u16.checked_shl(slice).unwrap_or(0)
}

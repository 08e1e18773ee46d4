//! One simulated node's chunks: what `io::store` promises, with the faults that a disk has.
//!
//! Writes wait for a group commit; what was committed is durable, is seen by readers, and is only then
//! acknowledged. A crash loses what was not committed, and a power loss the whole cache.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::{ChunkId, ChunkRead, Kept, ReadFault, Rng, StoredChunk, Time};
use crate::chunk::slices::SliceList;

use crate::limits::{COMMIT_BYTES_MAX, COMMIT_DELAY_MS, SLICE_SIZE};
use crate::sim::Crash;
use crate::sim::effects::{Effect, Effects};
use crate::wire::locator::Locator;

/// Which database; the lowest bit of a handle, as in `io::store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What this node published.
    Local,
    /// Copies, which may be lost.
    Cache,
}

/// Something to write.
pub enum Write {
    /// A chunk.
    Chunk(ChunkId, Vec<u8>),
    /// Where pieces lie.
    Publish(Vec<([u8; 32], Locator)>),
}

impl Write {
    fn weight(&self) -> u64 {
        match self {
            Self::Chunk(_, bytes) => bytes.len() as u64,
            Self::Publish(pieces) => pieces.len() as u64 * 160,
        }
    }
}

/// What came of a write: done, or one clear line.
pub type Acknowledgement = (u64, Result<(), String>);

struct Body {
    stored: StoredChunk,
    bytes: Vec<u8>,
    list: SliceList,
    /// The bytes are not what they were.
    is_damaged: bool,
    /// They are served without being checked: the node lies.
    is_lie: bool,
    /// Where bits were flipped.
    flips: Vec<usize>,
    /// It was found damaged: nobody finds it any more, until it is put again.
    is_marked: bool,
}

/// Chunks in memory, with the faults that a disk can have.
#[derive(Default)]
pub struct MapStore {
    chunks: BTreeMap<ChunkId, u64>,
    bodies: BTreeMap<u64, Body>,
    publications: BTreeMap<[u8; 32], Locator>,
    next: u64,
    waiting: VecDeque<(Kind, Write, u64)>,
    weight: u64,
    commit_at: Option<Time>,
    acknowledged: Vec<Acknowledgement>,
    /// Whether slices must be faulted in before they are read.
    pub cold: bool,
    warm: BTreeSet<(u64, u32)>,
    faulting: Vec<(u64, u32)>,
    /// What checking a slice against its chaining value gave, since the process started.
    checked: BTreeMap<(u64, u32), bool>,
    /// Bytes of chunk bodies that were read.
    pub bytes_read: u64,
    /// Bytes that local chunks may come to; `None`: as many as one likes.
    pub limit: Option<u64>,
    /// Bytes that copies may come to; `None`: as many as come.
    pub cache_limit: Option<u64>,
    /// Bytes that the disk still has room for.
    pub room: Option<u64>,
    /// So many reads fail from now on.
    pub failing_reads: u32,
    /// What faults did.
    pub effects: Effects,
    /// Mistake: writes are acknowledged when they are taken, not when they are committed.
    pub acknowledges_early: bool,
}

impl MapStore {
    /// Stores a chunk at once, committed.
    pub fn insert(&mut self, id: ChunkId, bytes: Vec<u8>) {
        self.keep(Kind::Local, id, bytes);
    }

    /// Hands a write in; what comes of it is told with the same number after the commit.
    pub fn write(&mut self, now: Time, kind: Kind, write: Write, number: u64, rng: &mut Rng) {
        self.weight += write.weight();
        if self.acknowledges_early {
            self.acknowledged.push((number, Ok(())));
        }
        self.waiting.push_back((kind, write, number));
        let disk = Duration::from_micros(200 + rng.below(30_000));
        let due = *self.commit_at.get_or_insert(now + Duration::from_millis(COMMIT_DELAY_MS) + disk);
        if self.weight >= COMMIT_BYTES_MAX as u64 {
            self.commit_at = Some(due.min(now + disk));
        }
    }

    /// When the next commit is over.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.commit_at
    }

    /// Commits what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.commit_at.is_none_or(|at| at > now) {
            return;
        }
        (self.commit_at, self.weight) = (None, 0);
        for (kind, write, number) in std::mem::take(&mut self.waiting) {
            let result = self.commit(kind, write);
            if !self.acknowledges_early {
                self.acknowledged.push((number, result));
            }
        }
    }

    /// What was acknowledged since the last call.
    pub fn take_acknowledged(&mut self) -> Vec<Acknowledgement> {
        std::mem::take(&mut self.acknowledged)
    }

    /// One write by itself: when a transaction cannot be committed, its writes are tried one by one.
    fn commit(&mut self, kind: Kind, write: Write) -> Result<(), String> {
        let need = write.weight();
        if let Write::Chunk(id, _) = &write
            && let Some(body) = self.body_mut(id)
        {
            if !body.is_marked {
                return Ok(());
            }
            // What is damaged is replaced; as in the daemon, once there is room for the new one.
            let (old, handle) = (body.bytes.len() as u64, body.stored.handle);
            if self.room.is_some_and(|room| room < need) {
                self.effects.add(Effect::StoreFull, 1);
                return Err("store: the disk is full; free space and try again".into());
            }
            self.room = self.room.map(|room| room + old);
            self.chunks.remove(id);
            self.bodies.remove(&handle);
            self.effects.add(Effect::Repaired, 1);
        }
        if let Some(limit) = self.limit
            && kind == Kind::Local
            && matches!(write, Write::Chunk(..))
            && self.bytes_of(Kind::Local) + need > limit
        {
            self.effects.add(Effect::StoreLimit, 1);
            return Err(format!(
                "store: the store holds its limit of {limit} bytes; raise the limit or delete content"
            ));
        }
        if let Some(room) = &mut self.room {
            let Some(left) = room.checked_sub(need) else {
                self.effects.add(Effect::StoreFull, 1);
                return Err("store: the disk is full; free space and try again".into());
            };
            *room = left;
        }
        match write {
            Write::Chunk(id, bytes) => self.keep(kind, id, bytes),
            Write::Publish(pieces) => self.publications.extend(pieces),
        }
        Ok(())
    }

    fn keep(&mut self, kind: Kind, id: ChunkId, bytes: Vec<u8>) {
        if self.chunks.contains_key(&id) {
            return;
        }
        let list = SliceList::from_chunk(&bytes);
        self.next += 1;
        let handle = self.next << 1 | kind as u64;
        let stored = StoredChunk { handle, len: bytes.len() as u32, root: *list.root() };
        self.chunks.insert(id, handle);
        self.bodies.insert(
            handle,
            Body {
                stored,
                bytes,
                list,
                is_damaged: false,
                is_lie: false,
                flips: Vec::new(),
                is_marked: false,
            },
        );
    }

    /// Stores a copy of another's chunk at once; those that came first make room. None is larger than the cache.
    pub fn keep_copy(&mut self, id: ChunkId, bytes: Vec<u8>) -> Kept {
        let most = self.cache_limit.unwrap_or(u64::MAX);
        if bytes.len() as u64 > most {
            return Kept::Failed;
        }
        while self.bytes_of(Kind::Cache) + bytes.len() as u64 > most {
            let oldest = self.bodies.keys().find(|handle| **handle & 1 == Kind::Cache as u64).copied();
            let Some(oldest) = oldest else { break };
            self.bodies.remove(&oldest);
            self.chunks.retain(|_, handle| *handle != oldest);
        }
        self.keep(Kind::Cache, id, bytes);
        Kept::Done
    }

    fn bytes_of(&self, kind: Kind) -> u64 {
        let own = self.bodies.iter().filter(|(handle, _)| *handle & 1 == kind as u64);
        own.map(|(_, body)| body.bytes.len() as u64).sum()
    }

    /// Where a piece with this hash lies, when its chunk is still stored.
    pub fn publication(&self, hash: &[u8; 32]) -> Option<Locator> {
        let is_there = |locator: &&Locator| self.body_of(&locator.chunk).is_some_and(|body| !body.is_marked);
        self.publications.get(hash).filter(is_there).cloned()
    }

    /// The process or the machine stops: what was not committed is lost, after a power loss the cache too.
    pub fn crash(&mut self, crash: Crash) {
        self.waiting.clear();
        (self.commit_at, self.weight) = (None, 0);
        self.acknowledged.clear();
        self.warm.clear();
        self.faulting.clear();
        self.checked.clear();
        if crash == Crash::Power {
            self.bodies.retain(|handle, _| handle & 1 == Kind::Local as u64);
            self.chunks.retain(|_, handle| self.bodies.contains_key(handle));
        }
    }

    fn body_of(&self, id: &ChunkId) -> Option<&Body> {
        self.chunks.get(id).and_then(|handle| self.bodies.get(handle))
    }

    fn body_mut(&mut self, id: &ChunkId) -> Option<&mut Body> {
        self.chunks.get(id).and_then(|handle| self.bodies.get_mut(handle))
    }

    /// Flips one bit of a stored chunk, behind the store's back. The slice list stays, and nothing is checked
    /// before it is served: a server that lies.
    pub fn damage(&mut self, id: &ChunkId, byte: usize) {
        self.rot(id, byte);
        if let Some(body) = self.body_mut(id) {
            body.is_lie = true;
        }
    }

    /// Flips one bit of a stored chunk on the disk. A slice that was checked before stays in memory as it was;
    /// any other is found damaged when it is read.
    pub fn rot(&mut self, id: &ChunkId, byte: usize) {
        let Some(handle) = self.chunks.get(id).copied() else { return };
        let Some(body) = self.bodies.get_mut(&handle) else { return };
        let at = byte % body.bytes.len();
        if self.checked.contains_key(&(handle, (at / SLICE_SIZE) as u32)) {
            return;
        }
        body.bytes[at] ^= 1;
        body.flips.push(at);
        body.is_damaged = true;
    }

    /// The ids of all chunks.
    pub fn ids(&self) -> Vec<ChunkId> {
        self.chunks.keys().copied().collect()
    }

    /// The bytes of a chunk.
    pub fn get(&self, id: &ChunkId) -> Option<&[u8]> {
        self.body_of(id).map(|body| &body.bytes[..])
    }

    /// Whether a chunk is stored, and as it was.
    pub fn is_sound(&self, id: &ChunkId) -> bool {
        self.body_of(id).is_some_and(|body| !body.is_damaged)
    }

    /// Whether a chunk is stored and was found damaged.
    pub fn is_marked(&self, id: &ChunkId) -> bool {
        self.body_of(id).is_some_and(|body| body.is_marked)
    }

    /// Slices that were asked to be faulted in; they are resident from now on.
    pub fn take_faulted(&mut self) -> Vec<(u64, u32)> {
        self.warm.extend(self.faulting.iter().copied());
        std::mem::take(&mut self.faulting)
    }

    fn body(&mut self, handle: u64) -> Result<&Body, ReadFault> {
        if self.failing_reads > 0 {
            self.failing_reads -= 1;
            self.effects.add(Effect::Unreadable, 1);
            return Err(ReadFault::Store);
        }
        self.bodies.get(&handle).ok_or(ReadFault::Gone)
    }

    /// Marked at once, and for good: the daemon's mark is durable a commit later, and one that a crash takes is made
    /// again by the next reader.
    fn found_damaged(&mut self, handle: u64) -> ReadFault {
        self.effects.add(Effect::Damaged, 1);
        if let Some(body) = self.bodies.get_mut(&handle) {
            body.is_marked = true;
        }
        ReadFault::Damaged
    }

    /// Makes sure, once per process and slice, that the bytes are what they were when they were stored.
    fn check(&mut self, handle: u64, slice: u32) -> Result<(), ReadFault> {
        let body = self.bodies.get(&handle).ok_or(ReadFault::Gone)?;
        let good = self.checked.entry((handle, slice)).or_insert_with(|| {
            let start = slice as usize * SLICE_SIZE;
            let end = (start + SLICE_SIZE).min(body.bytes.len());
            let good = |bytes: &[u8]| body.list.verify(slice, bytes).is_ok();
            !body.is_damaged || body.is_lie || body.bytes.get(start..end).is_some_and(good)
        });
        if *good { Ok(()) } else { Err(self.found_damaged(handle)) }
    }
}

impl ChunkRead for MapStore {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        let body = self.body_of(id);
        body.filter(|body| !body.is_marked).map(|body| body.stored)
    }

    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        into.extend_from_slice(self.body(handle)?.list.as_bytes());
        Ok(())
    }

    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        self.body(handle)?;
        if self.checked.get(&(handle, slice)) == Some(&false) {
            return Err(self.found_damaged(handle));
        }
        let resident = !self.cold || self.warm.contains(&(handle, slice));
        if !resident {
            self.faulting.push((handle, slice));
            return Ok(false);
        }
        self.check(handle, slice).map(|()| true)
    }

    fn prefetch(&mut self, handle: u64, slice: u32) {
        let _ = self.warm(handle, slice);
    }

    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.body(handle)?;
        let (first, end) = (offset / SLICE_SIZE as u32, offset as usize + into.len());
        assert!(
            !self.cold || self.warm.contains(&(handle, first)),
            "a cold slice is never read on the shard"
        );
        for slice in first..end.div_ceil(SLICE_SIZE) as u32 {
            self.check(handle, slice)?;
        }
        let body = self.body(handle)?;
        let lies = body.is_lie && body.flips.iter().any(|at| (offset as usize..end).contains(at));
        let bytes = &body.bytes;
        into.copy_from_slice(bytes.get(offset as usize..end).ok_or(ReadFault::Gone)?);
        self.bytes_read += into.len() as u64;
        self.effects.add(Effect::Lie, lies.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u8) -> (ChunkId, Write) {
        let id = ChunkId([n; 20]);
        (id, Write::Chunk(id, vec![n; 100_000]))
    }

    #[test]
    fn what_was_acknowledged_survives_and_the_rest_does_not() {
        for crash in [Crash::Process, Crash::Power] {
            let (mut store, mut rng, now) = (MapStore::default(), Rng::from_number(1), Time::from_millis(5));
            let (one, write) = chunk(1);
            store.write(now, Kind::Local, write, 1, &mut rng);
            assert!(store.find(&one).is_none() && store.take_acknowledged().is_empty());
            let at = store.poll_timeout().unwrap();
            store.handle_timeout(at);
            assert_eq!(store.take_acknowledged(), [(1, Ok(()))]);
            let ((two, write), (three, copy)) = (chunk(2), chunk(3));
            store.write(at, Kind::Cache, copy, 3, &mut rng);
            store.handle_timeout(store.poll_timeout().unwrap());
            store.write(at, Kind::Local, write, 2, &mut rng);
            store.crash(crash);
            assert_eq!((store.poll_timeout(), store.find(&two).is_some()), (None, false));
            assert!(store.is_sound(&one));
            assert_eq!(store.find(&three).is_some(), crash == Crash::Process, "a cache may be lost");
        }
    }

    #[test]
    fn a_full_disk_and_a_full_store_fail_what_does_not_fit_and_keep_the_rest() {
        for full in ["the disk is full", "its limit"] {
            let (mut store, mut rng) = (MapStore::default(), Rng::from_number(1));
            let room = Some(150_000);
            if full == "its limit" {
                store.limit = room
            } else {
                store.room = room
            }
            for n in [1, 2] {
                store.write(Time::from_millis(5), Kind::Local, chunk(n).1, n.into(), &mut rng);
            }
            store.handle_timeout(store.poll_timeout().unwrap());
            let told = store.take_acknowledged();
            assert_eq!(told[0], (1, Ok(())));
            assert!(told[1].1.as_ref().is_err_and(|why| why.contains(full)), "{told:?}");
            assert!(store.is_sound(&chunk(1).0) && store.find(&chunk(2).0).is_none());
        }
    }

    #[test]
    fn damage_is_found_before_it_is_served_unless_the_slice_is_in_memory_or_the_node_lies() {
        let (mut store, mut into) = (MapStore::default(), [0; 10]);
        for n in [1, 2, 3] {
            store.insert(ChunkId([n; 20]), vec![n; 100_000]);
        }
        let handles = [1, 2, 3].map(|n| store.find(&ChunkId([n; 20])).unwrap().handle);
        store.read(handles[0], 70_000, &mut into).unwrap();
        store.rot(&ChunkId([1; 20]), 70_001);
        store.rot(&ChunkId([2; 20]), 70_001);
        store.damage(&ChunkId([3; 20]), 70_001);
        assert_eq!(store.read(handles[0], 70_000, &mut into), Ok(()));
        assert_eq!(into, [1; 10]);
        assert_eq!(store.read(handles[1], 0, &mut into), Ok(()), "only the damaged slice is refused");
        assert_eq!(store.read(handles[1], 70_000, &mut into), Err(ReadFault::Damaged));
        assert_eq!(store.warm(handles[1], 1), Err(ReadFault::Damaged));
        assert_eq!(store.find(&ChunkId([2; 20])), None, "what is damaged is not found again");
        let (mut rng, write) = (Rng::from_number(1), Write::Chunk(ChunkId([2; 20]), vec![2; 100_000]));
        store.write(Time::from_millis(5), Kind::Local, write, 1, &mut rng);
        store.handle_timeout(store.poll_timeout().unwrap());
        assert!(
            store.is_sound(&ChunkId([2; 20])) && store.find(&ChunkId([2; 20])).is_some(),
            "but put again"
        );
        assert_eq!(store.read(handles[2], 70_000, &mut into), Ok(()));
        assert_ne!(into, [3; 10]);
    }
}

//! What one write does inside a transaction: storing, deleting and evicting chunks, and the small tables.

use std::sync::atomic::{AtomicU8, Ordering};

use lmdb::{Cursor, RwTransaction, Transaction, WriteFlags};

use super::damage::UNKNOWN;
use super::database::{self, Database, Kind, Totals};
use super::record::{self, Record, Shape};
use super::{NewChunk, StoreError, Stored, Table};
use crate::base::ChunkId;
use crate::limits::{CHUNK_SLICES_MAX, SLICE_SIZE, STORE_KEY_MAX, STORE_RUN, STORE_VALUE_MAX};
use crate::sys::lmdb::RunHead;
use crate::wire::locator;

/// Something for the writer to do.
pub enum Op {
    /// Stores a chunk.
    Put(NewChunk),
    /// Removes a chunk.
    Delete(ChunkId),
    /// Removes a copy that was found damaged from the cache, marks it in the local store.
    Damaged(ChunkId, u64),
    /// Remembers where pieces lie.
    Publish(Vec<([u8; 32], [u8; locator::LEN])>),
    /// Sets or, with `None`, removes a small value.
    Set(Table, Vec<u8>, Option<Vec<u8>>),
    /// Nothing: is acknowledged when everything before it is durable.
    Sync,
    /// The last operation: the writer ends after it.
    Stop,
}

impl Op {
    /// Bytes that it adds to a commit, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Put(chunk) => chunk.bytes.len(),
            Self::Publish(pieces) => pieces.len() * (32 + locator::LEN),
            Self::Set(_, key, value) => key.len() + value.as_ref().map_or(0, Vec::len),
            Self::Delete(_) | Self::Damaged(..) | Self::Sync | Self::Stop => 0,
        }
    }
}

/// How often the chunks of a cache were looked at since the evicting hand passed, up to 3: a counter for each
/// sequence number, shared where two are equal modulo the table's size. Readers count up, the writer down;
/// a count that is lost between them does no harm.
pub struct Touched(Box<[AtomicU8]>);

impl Touched {
    const LEN: usize = 1 << 20;
    const MOST: u8 = 3;

    /// Nothing was touched.
    pub fn new() -> Self {
        Self((0..Self::LEN).map(|_| AtomicU8::new(0)).collect())
    }

    fn counter(&self, sequence: u64) -> &AtomicU8 {
        &self.0[sequence as usize % Self::LEN]
    }

    /// Notes a use.
    pub fn touch(&self, sequence: u64) {
        let counter = self.counter(sequence);
        let count = counter.load(Ordering::Relaxed);
        if count < Self::MOST {
            counter.store(count + 1, Ordering::Relaxed);
        }
    }

    /// Takes one use away; false when there is none.
    fn take(&self, sequence: u64) -> bool {
        let counter = self.counter(sequence);
        let count = counter.load(Ordering::Relaxed);
        if count > 0 {
            counter.store(count - 1, Ordering::Relaxed);
        }
        count > 0
    }
}

/// Why an operation was not done.
pub enum Refusal {
    /// The transaction is as it was before; only this asker fails.
    Asker(StoreError),
    /// The transaction can no longer be committed.
    Transaction(lmdb::Error),
}

impl From<lmdb::Error> for Refusal {
    fn from(error: lmdb::Error) -> Self {
        Self::Transaction(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Asker(error)
    }
}

/// What the index says of a chunk.
enum Found {
    Nothing,
    Record(Stays),
    /// Something that is no record.
    Malformed,
}

struct Stays {
    sequence: u64,
    root: [u8; 32],
    shape: Shape,
    /// Its list belongs to its root.
    whole: bool,
}

/// A transaction in the making, with what the totals will be.
pub struct Batch<'a> {
    database: &'a Database,
    touched: &'a Touched,
    /// Where the evicting hand stands: the sequence number to look at next.
    hand: &'a mut u64,
    txn: RwTransaction<'a>,
    /// Marks of damage that are void once this is committed, and not before: an operation that is tried again must
    /// find them.
    cleared: Vec<(ChunkId, u64)>,
    /// What the environment holds once this is committed.
    pub totals: Totals,
}

impl<'a> Batch<'a> {
    /// Begins a transaction.
    pub fn begin(
        database: &'a Database,
        touched: &'a Touched,
        hand: &'a mut u64,
        totals: Totals,
    ) -> Result<Self, lmdb::Error> {
        let txn = database.env.begin_rw_txn()?;
        Ok(Self { database, touched, hand, txn, cleared: Vec::new(), totals })
    }

    /// Does one operation.
    pub fn apply(&mut self, op: &Op) -> Result<Stored, Refusal> {
        match op {
            Op::Put(chunk) => self.put(chunk),
            Op::Delete(id) => {
                let removed = self.delete(id)?;
                Ok(if removed { Stored::Done } else { Stored::Absent })
            }
            Op::Damaged(id, sequence) => self.damaged(id, *sequence),
            Op::Publish(pieces) => {
                for (hash, locator) in pieces {
                    self.txn.put(self.database.publications, hash, locator, WriteFlags::empty())?;
                }
                Ok(Stored::Done)
            }
            Op::Set(table, key, value) => self.set(*table, key, value.as_deref()),
            Op::Sync | Op::Stop => Ok(Stored::Done),
        }
    }

    /// Commits; on an error nothing of the batch is stored.
    pub fn commit(mut self) -> Result<Totals, lmdb::Error> {
        self.database.put_totals(&mut self.txn, &self.totals)?;
        self.txn.commit()?;
        self.cleared.iter().for_each(|(id, sequence)| self.database.damage.clear(id, *sequence));
        Ok(self.totals)
    }

    fn put(&mut self, chunk: &NewChunk) -> Result<Stored, Refusal> {
        let malformed = Refusal::Asker(StoreError::Malformed("chunk"));
        let Some(shape) = Shape::of(chunk.bytes.len()) else { return Err(malformed) };
        if chunk.list.len() != shape.list().len() {
            return Err(malformed);
        }
        match self.lookup(&chunk.id)? {
            Found::Nothing => {}
            Found::Record(found) if found.whole && !self.database.damage.has(&chunk.id, found.sequence) => {
                let same = found.root == chunk.root;
                return if same { Ok(Stored::AlreadyThere) } else { Err(StoreError::Collision.into()) };
            }
            // A damaged one: the new one takes its place, unless there is no room for it even then.
            Found::Record(found) => {
                self.check_room(shape.footprint(), found.shape.footprint())?;
                self.discard(&chunk.id, found.sequence)?;
            }
            Found::Malformed => {
                self.check_room(shape.footprint(), 0)?;
                self.discard(&chunk.id, UNKNOWN)?;
            }
        }
        self.make_room(shape.footprint())?;
        let sequence = self.totals.next_sequence;
        for slice in 0..shape.runs {
            let bytes = record::run_bytes(&chunk.bytes, slice);
            let key = record::run_key(sequence, slice);
            let run = self.txn.reserve(self.database.bodies, &key, STORE_RUN, WriteFlags::APPEND)?;
            run[..bytes.len()].copy_from_slice(bytes);
            run[bytes.len()..].fill(0);
        }
        let record = record::emit(shape, sequence, &chunk.root, &chunk.list, &chunk.bytes);
        self.txn.put(self.database.index, &chunk.id.0, &record, WriteFlags::empty())?;
        self.txn.put(self.database.order, &sequence.to_be_bytes(), &chunk.id.0, WriteFlags::APPEND)?;
        self.totals.next_sequence += 1;
        self.totals.chunks += 1;
        self.totals.bytes += u64::from(shape.len);
        self.totals.footprint += shape.footprint();
        Ok(Stored::Done)
    }

    /// What is said of a stored chunk.
    fn lookup(&self, id: &ChunkId) -> Result<Found, Refusal> {
        match self.txn.get(self.database.index, &id.0) {
            Ok(bytes) => Ok(Record::parse(bytes).map_or(Found::Malformed, |record| {
                let (sequence, root, shape) = (record.sequence(), record.root(), record.shape());
                Found::Record(Stays { sequence, root, shape, whole: record.is_whole() })
            })),
            Err(lmdb::Error::NotFound) => Ok(Found::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    fn delete(&mut self, id: &ChunkId) -> Result<bool, Refusal> {
        match self.lookup(id)? {
            Found::Nothing => Ok(false),
            Found::Record(found) => self.discard(id, found.sequence).map(|()| true),
            Found::Malformed => self.discard(id, UNKNOWN).map(|()| true),
        }
    }

    /// What was found damaged leaves the cache; in the local store it is marked, unless it is gone or replaced.
    fn damaged(&mut self, id: &ChunkId, sequence: u64) -> Result<Stored, Refusal> {
        let there = match self.lookup(id)? {
            Found::Nothing => false,
            Found::Record(found) => found.sequence == sequence,
            Found::Malformed => sequence == UNKNOWN,
        };
        match (there, self.database.kind) {
            (false, _) => {
                self.cleared.push((*id, sequence));
                return Ok(Stored::Absent);
            }
            (true, Kind::Cache) => self.discard(id, sequence)?,
            (true, Kind::Local) => {
                let (key, value) = (database::damaged_key(id), sequence.to_le_bytes());
                self.txn.put(self.database.meta, &key, &value, WriteFlags::empty())?;
            }
        }
        Ok(Stored::Done)
    }

    /// Removes the chunk `id` that has, or is said to have, this sequence number. Believes neither of its two records
    /// alone, since either may be damaged: bodies go only where `order` says that they are this chunk's.
    fn discard(&mut self, id: &ChunkId, sequence: u64) -> Result<(), Refusal> {
        let mut footprint = 0;
        let ordered = self.txn.get(self.database.order, &sequence.to_be_bytes());
        if matches!(ordered, Ok(owner) if owner == id.0) {
            for slice in 0..CHUNK_SLICES_MAX as u32 {
                footprint += self.remove_run(&record::run_key(sequence, slice))?;
            }
            absent_is_fine(self.txn.del(self.database.order, &sequence.to_be_bytes(), None))?;
        }
        let (there, len) = match self.lookup(id)? {
            Found::Nothing => (false, 0),
            Found::Record(found) => {
                footprint = footprint.max(found.shape.footprint());
                (found.sequence == sequence, found.shape.len)
            }
            Found::Malformed => (true, 0),
        };
        if there {
            self.txn.del(self.database.index, &id.0, None)?;
            absent_is_fine(self.txn.del(self.database.meta, &database::damaged_key(id), None))?;
            self.cleared.extend(self.database.damage.of(id).map(|marked| (*id, marked)));
            self.totals.chunks = self.totals.chunks.saturating_sub(1);
            self.totals.bytes = self.totals.bytes.saturating_sub(u64::from(len));
            self.totals.footprint = self.totals.footprint.saturating_sub(footprint);
        }
        Ok(())
    }

    /// Removes a run, if there is one; its share of the footprint. LMDB frees the pages that the run's own head names;
    /// a run whose head is damaged stays, since other pages would be freed in its place.
    fn remove_run(&mut self, key: &[u8]) -> Result<u64, Refusal> {
        let Some(head) = RunHead::of(&self.txn, self.database.bodies, key)? else { return Ok(0) };
        if self.database.is_sound(&head) {
            absent_is_fine(self.txn.del(self.database.bodies, &key, None))?;
        } else {
            tracing::error!(store = self.database.kind.name(), "a damaged run of pages is left where it is");
        }
        Ok(SLICE_SIZE as u64)
    }

    /// Refuses what will have no room, before anything is changed for it: the batch that a refused operation belongs to
    /// is committed. `freed` is what it will give back first.
    fn check_room(&self, need: u64, freed: u64) -> Result<(), Refusal> {
        let limit = self.database.limit;
        let kept = self.totals.footprint.saturating_sub(freed);
        if need > limit || self.database.kind == Kind::Local && kept + need > limit {
            let path = self.database.path.clone();
            return Err(StoreError::LimitReached { path, limit_bytes: limit }.into());
        }
        Ok(())
    }

    fn make_room(&mut self, need: u64) -> Result<(), Refusal> {
        self.check_room(need, 0)?;
        let limit = self.database.limit;
        if self.totals.footprint + need <= limit { Ok(()) } else { self.evict(limit - need) }
    }

    /// Removes chunks until the footprint is at most `target`: the least recently used ones, about. The hand
    /// goes round the chunks in the order in which they came, and passes over as many times as a chunk was used
    /// since it came by (the clock algorithm with counters).
    pub fn evict(&mut self, target: u64) -> Result<(), Refusal> {
        // Readers may go on counting up meanwhile: the rounds must end.
        let mut mercy = self.totals.chunks * u64::from(Touched::MOST);
        while self.totals.footprint > target {
            let Some((sequence, id)) = self.next_in_order(*self.hand)? else {
                if *self.hand == 0 {
                    // Nothing is left to remove, so the totals were wrong: an empty store has none.
                    self.totals = Totals { next_sequence: self.totals.next_sequence, ..Totals::default() };
                    return Ok(());
                }
                *self.hand = 0;
                continue;
            };
            *self.hand = sequence + 1;
            if self.touched.take(sequence) && mercy > 0 {
                mercy -= 1;
            } else {
                self.discard(&id, sequence)?;
            }
        }
        Ok(())
    }

    fn next_in_order(&self, from: u64) -> Result<Option<(u64, ChunkId)>, Refusal> {
        let cursor = self.txn.open_ro_cursor(self.database.order)?;
        match cursor.get(Some(&from.to_be_bytes()), None, lmdb_sys::MDB_SET_RANGE) {
            Ok((key, id)) => {
                // The cursor hands no key back when it found exactly the one that was asked for.
                let key = key.map_or(Some(from), |key| key.try_into().ok().map(u64::from_be_bytes));
                let found = key.zip(ChunkId::from_slice(id));
                found.map(Some).ok_or(Refusal::Asker(StoreError::Malformed("order of chunks")))
            }
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<Stored, Refusal> {
        check_value(key, value)?;
        let dbi = table.dbi(self.database);
        match value {
            Some(value) => self.txn.put(dbi, &key, &value, WriteFlags::empty())?,
            None => match self.txn.del(dbi, &key, None) {
                Err(lmdb::Error::NotFound) => return Ok(Stored::Absent),
                done => done?,
            },
        }
        Ok(Stored::Done)
    }
}

/// Keys that begin with NUL are the store's own.
fn check_value(key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > STORE_KEY_MAX || key[0] == 0 {
        return Err(StoreError::Malformed("key"));
    }
    if value.is_some_and(|value| value.len() > STORE_VALUE_MAX) {
        return Err(StoreError::Malformed("value"));
    }
    Ok(())
}

fn absent_is_fine(result: lmdb::Result<()>) -> lmdb::Result<()> {
    match result {
        Err(lmdb::Error::NotFound) => Ok(()),
        other => other,
    }
}

//! Chunks that were found damaged: logged once, treated as not there from then on, and told to the environment's
//! writer, again with each look at them until it took the report and did what it says. The cache removes them. In the local
//! store they stay, marked durably, until the same content is put again and takes their place: a mark names the
//! chunk's sequence number too, and the new copy has another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::apply::Op;
use super::database::Kind;
use super::handle::{Ack, Queue};
use super::record::SEQUENCE_MAX;
use crate::base::ChunkId;
use crate::limits::STORE_DAMAGED_MAX;

/// A sequence number that no chunk has: of a record that does not tell it.
pub const UNKNOWN: u64 = SEQUENCE_MAX;

type Marks = BTreeMap<ChunkId, Mark>;

/// Which copy of a chunk is damaged.
struct Mark {
    sequence: u64,
    /// Whether the writer was told, and has not failed to act on it.
    told: bool,
}

/// The damaged chunks of one environment, by id, with their sequence numbers.
#[derive(Default)]
pub struct Damage {
    marks: Mutex<Marks>,
    /// How many there are, for those who look often and find none.
    count: AtomicU64,
}

impl Damage {
    /// Starts with what was marked before, durably: sequence numbers by chunk.
    pub fn new(marks: BTreeMap<ChunkId, u64>) -> Self {
        let marks: Marks =
            marks.into_iter().map(|(id, sequence)| (id, Mark { sequence, told: true })).collect();
        let count = AtomicU64::new(marks.len() as u64);
        Self { marks: Mutex::new(marks), count }
    }

    /// Whether this copy of the chunk is damaged.
    pub fn has(&self, id: &ChunkId, sequence: u64) -> bool {
        self.count.load(Relaxed) > 0 && self.of(id) == Some(sequence)
    }

    /// Chunks marked now.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Marks it; false when it was, or when there are too many (it is still never served: its bytes are checked).
    fn mark(&self, id: ChunkId, sequence: u64) -> bool {
        let mut marks = self.marks();
        if marks.get(&id).is_some_and(|mark| mark.sequence == sequence) || marks.len() >= STORE_DAMAGED_MAX {
            return false;
        }
        marks.insert(id, Mark { sequence, told: false });
        self.count.store(marks.len() as u64, Relaxed);
        true
    }

    /// The sequence number of the copy of this chunk that is marked.
    pub fn of(&self, id: &ChunkId) -> Option<u64> {
        if self.count.load(Relaxed) == 0 { None } else { self.marks().get(id).map(|mark| mark.sequence) }
    }

    /// Forgets this copy of the chunk: it was replaced or removed. What is said of a newer one stays.
    pub fn clear(&self, id: &ChunkId, sequence: u64) {
        let mut marks = self.marks();
        if marks.get(id).is_some_and(|mark| mark.sequence == sequence) {
            marks.remove(id);
        }
        self.count.store(marks.len() as u64, Relaxed);
    }

    /// Notes whether the writer knows of this copy; what was noted before.
    fn note(&self, id: &ChunkId, sequence: u64, told: bool) -> Option<bool> {
        let mut marks = self.marks();
        let mark = marks.get_mut(id).filter(|mark| mark.sequence == sequence)?;
        Some(std::mem::replace(&mut mark.told, told))
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a reader tells of damage: to the log, to all other readers, and to the environment's writer.
pub struct Reports {
    /// What is marked.
    pub damage: Arc<Damage>,
    /// The way to the writer.
    pub queue: Queue,
}

impl Reports {
    /// Tells of a chunk, once; what was wrong, in words. Returns whether it was news.
    pub fn tell(&self, kind: Kind, id: ChunkId, sequence: u64, what: &str) -> bool {
        if !self.damage.mark(id, sequence) {
            return false;
        }
        let then = match kind {
            Kind::Local => "it is not served; put the same content again to replace it",
            Kind::Cache => "it is removed",
        };
        tracing::error!(chunk = %id, store = kind.name(), "a stored chunk is damaged ({what}): {then}");
        self.pass_on(id, sequence);
        true
    }

    /// Tells the writer of a marked chunk, if it does not know. Never waits: what its queue has no room for, or what
    /// it could not do, is told again by whoever finds the chunk next.
    pub fn pass_on(&self, id: ChunkId, sequence: u64) {
        if self.damage.note(&id, sequence, true) != Some(false) {
            return;
        }
        let damage = Arc::clone(&self.damage);
        let ack = Ack::new(move |done| {
            if let Err(error) = done {
                tracing::warn!(%error, chunk = %id, "a damaged chunk could not be marked or removed");
                damage.note(&id, sequence, false);
            }
        });
        if !self.queue.offer(Op::Damaged(id, sequence), ack) {
            self.damage.note(&id, sequence, false);
        }
    }
}

//! Chunks that were found damaged: told once, treated as not there from then on. The cache removes them. In the local
//! store they stay, marked durably, until the same content is put again and takes their place: a mark names the
//! chunk's sequence number too, and the new copy has another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::apply::Op;
use super::database::Kind;
use super::handle::Queue;
use super::record::SEQUENCE_MAX;
use crate::base::ChunkId;
use crate::limits::STORE_DAMAGED_MAX;

/// A sequence number that no chunk has: of a record that does not tell it.
pub const UNKNOWN: u64 = SEQUENCE_MAX;

type Marks = BTreeMap<ChunkId, u64>;

/// The damaged chunks of one environment, by id, with their sequence numbers.
#[derive(Default)]
pub struct Damage {
    marks: Mutex<Marks>,
    /// How many there are, for those who look often and find none.
    count: AtomicU64,
}

impl Damage {
    /// Starts with what was marked before.
    pub fn new(marks: Marks) -> Self {
        let count = AtomicU64::new(marks.len() as u64);
        Self { marks: Mutex::new(marks), count }
    }

    /// Whether this copy of the chunk is damaged.
    pub fn has(&self, id: &ChunkId, sequence: u64) -> bool {
        self.count.load(Relaxed) > 0 && self.marks().get(id) == Some(&sequence)
    }

    /// Chunks marked now.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Marks it; false when it was, or when there are too many (it is still never served: its bytes are checked).
    fn mark(&self, id: ChunkId, sequence: u64) -> bool {
        let mut marks = self.marks();
        if marks.get(&id) == Some(&sequence) || marks.len() >= STORE_DAMAGED_MAX {
            return false;
        }
        marks.insert(id, sequence);
        self.count.store(marks.len() as u64, Relaxed);
        true
    }

    /// The sequence number of the copy of this chunk that is marked.
    pub fn of(&self, id: &ChunkId) -> Option<u64> {
        if self.count.load(Relaxed) == 0 { None } else { self.marks().get(id).copied() }
    }

    /// Forgets this copy of the chunk: it was replaced or removed. What is said of a newer one stays.
    pub fn clear(&self, id: &ChunkId, sequence: u64) {
        let mut marks = self.marks();
        if marks.get(id) == Some(&sequence) {
            marks.remove(id);
        }
        self.count.store(marks.len() as u64, Relaxed);
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
        // Never waits: when the queue is full, only the durable part is left out, until it is found again.
        self.queue.offer(Op::Damaged(id, sequence));
        true
    }
}

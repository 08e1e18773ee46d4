//! Chunks on disk: two LMDB environments below `DIR/store`, `local` for what this node published and `cache`
//! for copies that may be lost (docs/protocol/store.md). Each has one writer thread; readers read from the map.
//!
//! [`Store::open`] → a [`StoreHandle`] for each thread that writes and a [`StoreReader`] for each that reads.

mod apply;
mod damage;
mod database;
mod error;
#[cfg(any(test, feature = "sim"))]
pub(super) mod fuzzing;
mod handle;
mod header;
mod listing;
mod reader;
mod record;
mod stats;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use crossbeam::channel::bounded;
use lmdb::{Cursor, Transaction};

use crate::limits::STORE_QUEUE_MAX;
use apply::{Op, Touched};
use damage::Reports;
use database::{Database, Kind};
use handle::Queue;
use stats::{Counters, ReadCounters};
use writer::Writer;

pub use crate::base::NewChunk;
pub use error::StoreError;
pub use handle::{Ack, StoreHandle};
pub use reader::{ColdRange, StoreReader};
pub use stats::{DatabaseStats, StoreStats};

/// How large the store may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// What this node published may occupy at most, bytes; further `put`s fail.
    pub local_limit: u64,
    /// What copies of others' chunks may occupy at most, bytes; older ones make room.
    pub cache_limit: u64,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was done.
    Done,
    /// The chunk was there already and nothing was written.
    AlreadyThere,
    /// There was nothing to remove.
    Absent,
}

/// The small tables of the local environment, for other modules' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// What is remembered of peers.
    Peers,
    /// What the node remembers of itself. No key begins with NUL.
    Meta,
}

impl Table {
    fn dbi(self, database: &Database) -> lmdb::Database {
        match self {
            Self::Peers => database.peers,
            Self::Meta => database.meta,
        }
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The open store. Dropping it waits until everything handed in before is written, and closes the databases;
/// later writes are told [`StoreError::Closed`].
pub struct Store {
    shared: Arc<Shared>,
    queues: [Queue; 2],
    writers: Vec<JoinHandle<()>>,
}

/// What readers and the store's owner look at together.
struct Shared {
    local: Side,
    cache: Side,
    reads: ReadCounters,
    touched: Arc<Touched>,
}

impl Shared {
    fn side(&self, kind: Kind) -> &Side {
        match kind {
            Kind::Local => &self.local,
            Kind::Cache => &self.cache,
        }
    }
}

/// One environment with its writer running.
struct Started {
    queue: Queue,
    side: Side,
    thread: JoinHandle<()>,
}

struct Side {
    database: Arc<Database>,
    counters: Arc<Counters>,
    reports: Reports,
}

impl Store {
    /// Opens or creates the store below a node's folder and starts its writers. The caller holds the
    /// folder's lock (`config::NodeDir::lock`) for as long as the store is open: LMDB allows one opening.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        let maps = [config.local_limit, config.cache_limit].map(database::map_size);
        Self::open_mapped(dir, config, maps)
    }

    fn open_mapped(dir: &Path, config: StoreConfig, maps: [u64; 2]) -> Result<Self, StoreError> {
        let path = dir.join("store");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| StoreError::io(&path, &error))?;
        let touched = Arc::new(Touched::new());
        let local = Arc::new(Database::open(&path, Kind::Local, config.local_limit, maps[0])?);
        let cache = Arc::new(Database::open(&path, Kind::Cache, config.cache_limit, maps[1])?);
        // A commit makes a file's bytes durable and not its name: a machine that stopped might find no `local`.
        for folder in [&local.path, &path, dir] {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| StoreError::io(folder, &error))?;
        }
        let local = start(local, &touched)?;
        let cache = start(cache, &touched)?;
        Ok(Self {
            queues: [local.queue, cache.queue],
            writers: vec![local.thread, cache.thread],
            shared: Arc::new(Shared {
                local: local.side,
                cache: cache.side,
                reads: ReadCounters::default(),
                touched,
            }),
        })
    }

    /// A way to write, for any thread.
    pub fn handle(&self) -> StoreHandle {
        let [local, cache] = self.queues.clone();
        StoreHandle::new(local, cache)
    }

    /// What [`StoreReader`]s are made of: can be sent to the thread that will read.
    pub fn readers(&self) -> Readers {
        Readers(Arc::clone(&self.shared))
    }

    /// All keys and values of a small table, by key; the store's own are left out.
    pub fn values(&self, table: Table) -> Result<Vec<Entry>, StoreError> {
        let database = &self.shared.local.database;
        let wrong = |error| database.wrong(error);
        let txn = database.env.begin_ro_txn().map_err(wrong)?;
        let mut cursor = txn.open_ro_cursor(table.dbi(database)).map_err(wrong)?;
        let mut values = Vec::new();
        for entry in cursor.iter() {
            let (key, value) = entry.map_err(wrong)?;
            if key.first() != Some(&0) {
                values.push((key.to_vec(), value.to_vec()));
            }
        }
        Ok(values)
    }

    /// The numbers now.
    pub fn stats(&self) -> StoreStats {
        self.readers().stats()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queues.iter().for_each(|queue| queue.send(Op::Stop, Ack::none()));
        for writer in self.writers.drain(..) {
            if writer.join().is_err() {
                tracing::error!("a store writer ended by a panic");
            }
        }
    }
}

/// Makes readers, on the threads where they stay; also the way to the store's numbers.
#[derive(Clone)]
pub struct Readers(Arc<Shared>);

impl Readers {
    /// A reader for the calling thread.
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(Arc::clone(&self.0))
    }

    /// The numbers now.
    pub fn stats(&self) -> StoreStats {
        let Shared { local, cache, reads, .. } = &*self.0;
        let side = |side: &Side| side.counters.snapshot(side.database.limit);
        StoreStats {
            local: side(local),
            cache: side(cache),
            resident: reads.resident.load(Relaxed),
            cold: reads.cold.load(Relaxed),
            checked: reads.checked.load(Relaxed),
            damaged: reads.damaged.load(Relaxed),
            damaged_local: local.database.damage.count(),
        }
    }
}

/// Starts an environment's writer.
fn start(database: Arc<Database>, touched: &Arc<Touched>) -> Result<Started, StoreError> {
    let (jobs, receiver) = bounded(STORE_QUEUE_MAX);
    let counters = Arc::new(Counters::default());
    let writer = Writer::new(Arc::clone(&database), Arc::clone(touched), Arc::clone(&counters), receiver)?;
    let thread = std::thread::Builder::new()
        .name(format!("store-{}", database.kind.name()))
        .spawn(move || writer.run())
        .map_err(|error| StoreError::io(&database.path, &error))?;
    let queue = Queue { jobs, counters: Arc::clone(&counters) };
    let reports = Reports { damage: Arc::clone(&database.damage), queue: queue.clone() };
    Ok(Started { queue, side: Side { database, counters, reports }, thread })
}

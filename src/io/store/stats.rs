//! Numbers about the store, for metrics and status.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::database::Totals;

/// One environment's numbers, written by its writer.
#[derive(Default)]
pub struct Counters {
    chunks: AtomicU64,
    bytes: AtomicU64,
    footprint: AtomicU64,
    queued: AtomicI64,
    commits: AtomicU64,
    commit_ns: AtomicU64,
    commit_ns_max: AtomicU64,
}

/// What readers did, over all of them.
#[derive(Default)]
pub struct ReadCounters {
    /// Slices that were resident when asked for.
    pub resident: AtomicU64,
    /// Slices that had to be faulted in.
    pub cold: AtomicU64,
    /// Slices whose hash was checked.
    pub checked: AtomicU64,
    /// Chunks that were found damaged.
    pub damaged: AtomicU64,
}

/// A snapshot of one environment's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Chunks stored.
    pub chunks: u64,
    /// Their ciphertext, bytes.
    pub bytes: u64,
    /// Their share of the file, bytes: what the limit counts.
    pub footprint: u64,
    /// The limit, bytes.
    pub limit: u64,
    /// Operations that wait for the writer.
    pub queued: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Time spent committing, nanoseconds.
    pub commit_ns: u64,
    /// The slowest commit, nanoseconds.
    pub commit_ns_max: u64,
}

/// A snapshot of the store's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What this node published.
    pub local: DatabaseStats,
    /// Copies of others' chunks.
    pub cache: DatabaseStats,
    /// Slices that were resident when asked for.
    pub resident: u64,
    /// Slices that had to be faulted in.
    pub cold: u64,
    /// Slices whose hash was checked.
    pub checked: u64,
    /// Chunks that were found damaged.
    pub damaged: u64,
    /// Chunks of the local store that are damaged and not replaced.
    pub damaged_local: u64,
}

impl Counters {
    /// Notes what the environment holds.
    pub fn holds(&self, totals: &Totals) {
        self.chunks.store(totals.chunks, Relaxed);
        self.bytes.store(totals.bytes, Relaxed);
        self.footprint.store(totals.footprint, Relaxed);
    }

    /// Notes operations that came into the queue, or left it.
    pub fn queued(&self, change: i64) {
        self.queued.fetch_add(change, Relaxed);
    }

    /// Notes a commit.
    pub fn committed(&self, took: Duration, totals: &Totals) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Relaxed);
        self.commit_ns.fetch_add(ns, Relaxed);
        self.commit_ns_max.fetch_max(ns, Relaxed);
        self.holds(totals);
    }

    /// The numbers now.
    pub fn snapshot(&self, limit: u64) -> DatabaseStats {
        DatabaseStats {
            chunks: self.chunks.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            footprint: self.footprint.load(Relaxed),
            limit,
            queued: u64::try_from(self.queued.load(Relaxed)).unwrap_or(0),
            commits: self.commits.load(Relaxed),
            commit_ns: self.commit_ns.load(Relaxed),
            commit_ns_max: self.commit_ns_max.load(Relaxed),
        }
    }
}

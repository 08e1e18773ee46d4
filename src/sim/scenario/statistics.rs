//! What many seeds came to.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Outcome;
use crate::crypto::hash::blake3;

/// No run is longer, milliseconds of virtual time.
const LONGEST_MS: u64 = 24 * 3600 * 1000;

/// Totals over seeds, in any order.
pub struct Statistics {
    /// Seeds that were run.
    pub seeds: u64,
    /// Gets that had to be complete.
    pub wanted: u64,
    /// Gets that were.
    pub complete: u64,
    /// Gets that nobody could serve.
    pub refused: u64,
    /// Events.
    pub events: u64,
    /// Virtual time.
    pub time: Duration,
    /// Seeds with failures, and the failures.
    pub failed: Vec<(u64, Vec<String>)>,
    get_ms: Histogram<u64>,
    hash: [u8; 32],
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            seeds: 0,
            wanted: 0,
            complete: 0,
            refused: 0,
            events: 0,
            time: Duration::ZERO,
            failed: Vec::new(),
            get_ms: Histogram::new_with_bounds(1, LONGEST_MS, 3).expect("the bounds are in order"),
            hash: [0; 32],
        }
    }
}

impl Statistics {
    /// One seed more.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.wanted += outcome.wanted;
        self.complete += outcome.complete;
        self.refused += outcome.refused;
        self.events += outcome.events;
        self.time += outcome.time;
        outcome.get_ms.iter().for_each(|ms| self.get_ms.saturating_record(*ms));
        if !outcome.failures.is_empty() {
            self.failed.push((outcome.seed, outcome.failures.clone()));
        }
        // Seeds end in any order: the sum does not care.
        let hash = blake3(&[&outcome.seed.to_le_bytes(), outcome.hash.as_bytes()]);
        self.hash.iter_mut().zip(hash).for_each(|(sum, byte)| *sum = sum.wrapping_add(byte));
    }

    /// The time below which this share of the complete gets stayed, in the middle of all faults.
    pub fn get_time(&self, share: f64) -> Duration {
        Duration::from_millis(self.get_ms.value_at_quantile(share))
    }

    /// A hash over all seeds' hashes, the same in whatever order they were run.
    pub fn hash(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

//! What many seeds came to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Excuse, Outcome};
use crate::crypto::hash::blake3;
use crate::sim::effects::{Effect, Effects};

/// No run is longer, milliseconds of virtual time.
const LONGEST_MS: u64 = 24 * 3600 * 1000;

/// Totals over seeds, in any order.
pub struct Statistics {
    /// Seeds that were run.
    pub seeds: u64,
    /// Gets that were asked for.
    pub attempted: u64,
    /// Gets that are complete.
    pub complete: u64,
    /// Gets to which no path led, and that said so, by reason.
    pub excused: BTreeMap<Excuse, u64>,
    /// Gets that ended neither way.
    pub unfinished: u64,
    /// Complete gets that could not be run again for want of a path.
    pub kept: u64,
    /// How many gets were started how often after the healing.
    pub starts: BTreeMap<u64, u64>,
    /// How long after the healing a get was started that failed though a path led there, at the latest.
    pub late: Duration,
    /// Damaged references and hostile trees.
    pub lures: u64,
    /// What faults did.
    pub effects: Effects,
    /// The most things that happened at one virtual instant of any seed.
    pub busiest: u64,
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
            attempted: 0,
            complete: 0,
            excused: BTreeMap::new(),
            unfinished: 0,
            kept: 0,
            starts: BTreeMap::new(),
            late: Duration::ZERO,
            lures: 0,
            effects: Effects::default(),
            busiest: 0,
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
        self.attempted += outcome.attempted;
        self.complete += outcome.complete;
        outcome.excused.iter().for_each(|(why, count)| *self.excused.entry(*why).or_default() += count);
        self.unfinished += outcome.failed;
        self.kept += outcome.kept;
        outcome.starts.iter().for_each(|starts| *self.starts.entry(*starts).or_default() += 1);
        let late = outcome.late_ms.iter().max().copied().map_or(Duration::ZERO, Duration::from_millis);
        self.late = self.late.max(late);
        self.lures += outcome.lures;
        self.effects.add_all(&outcome.effects);
        self.busiest = self.busiest.max(outcome.busiest);
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

    /// What many seeds must have come to for their word to count, and have not: every kind of fault had an effect,
    /// and few gets were let off. Says nothing of fewer than [`SEEDS_MIN`].
    pub fn hollow(&self) -> Vec<String> {
        if self.seeds < SEEDS_MIN {
            return Vec::new();
        }
        let silent = Effect::ALL.iter().filter(|(effect, _)| self.effects.of(*effect) == 0);
        let mut found: Vec<_> = silent.map(|(_, what)| format!("no fault had this effect: {what}")).collect();
        let share = |count: u64| count as f64 / self.attempted.max(1) as f64;
        for (excuse, what) in Excuse::ALL {
            let count = self.excused.get(&excuse).copied().unwrap_or(0);
            let most = excuse.share_max();
            if share(count) > most {
                let attempted = self.attempted;
                found.push(format!("{count} of {attempted} gets are excused ({what}): more than {most}"));
            }
        }
        let kept = share(self.kept);
        if kept > KEPT_MAX {
            found.push(format!("{} complete gets could not be run again: more than {KEPT_MAX}", self.kept));
        }
        for (quantile, most) in GET_TIMES {
            let time = self.get_time(quantile);
            if time > most {
                found.push(format!("{quantile} of the complete gets took {time:?}, not {most:?}"));
            }
        }
        found
    }
}

/// Of all gets, complete ones that could not be run again, at most.
const KEPT_MAX: f64 = 0.01;
/// Below these times, from the first asking on, stay such shares of the complete gets, all faults included: faults last
/// for 25 s, in which a get may be asked for at any time, and users wait longer each time. A thousand seeds showed 9.8, 55.5 and
/// 105.5 s.
const GET_TIMES: [(f64, Duration); 3] =
    [(0.5, Duration::from_secs(15)), (0.9, Duration::from_secs(75)), (0.99, Duration::from_secs(140))];

/// So many seeds are enough for every fault to have its effects.
pub const SEEDS_MIN: u64 = 200;

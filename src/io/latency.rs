//! How long things take, as histograms that one thread records and others read: a copy is left for them now and
//! then, which costs the recorder one attempt at a lock and never a wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::limits::{LATENCY_NS_MAX, LATENCY_NS_MIN};

/// Upper ends of the buckets that metrics show, seconds.
const BOUNDS: &[f64] = &[
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0,
];

/// One distribution of durations, true to one percent (and 64 ns).
#[derive(Debug, Clone)]
pub struct Latency {
    counts: Histogram<u64>,
    sum_ns: u64,
}

impl Latency {
    fn new() -> Self {
        let counts = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 2).expect("constant bounds");
        Self { counts, sum_ns: 0 }
    }

    /// Enters a duration that stands for `weight` of them.
    pub fn record(&mut self, time: Duration, weight: u64) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(LATENCY_NS_MAX);
        self.counts.saturating_record_n(ns, weight);
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(weight));
    }

    fn set_to(&mut self, other: &Self) {
        self.counts.set_to(&other.counts).expect("equal bounds");
        self.sum_ns = other.sum_ns;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// All of them together, seconds.
    pub fn sum(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// What a share of them (0 to 1) did not exceed, microseconds; 0 when there are none.
    pub fn quantile_us(&self, share: f64) -> f64 {
        if self.counts.is_empty() { 0.0 } else { self.counts.value_at_quantile(share) as f64 / 1e3 }
    }

    /// How many are in each bucket of a Prometheus histogram: its upper end, seconds, and its own count.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let mut from = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len() + 1);
        for bound in BOUNDS {
            let to = (bound * 1e9) as u64;
            buckets.push((*bound, self.counts.count_between(from, to)));
            from = self.counts.next_non_equivalent(to);
        }
        let shown: u64 = buckets.iter().map(|(_, count)| count).sum();
        buckets.push((f64::INFINITY, self.count() - shown));
        buckets
    }
}

/// What a shard measures.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// From the system call that brought a train to its turn: how long it waited for others.
    pub queueing: Latency,
    /// How long the core took to handle a train.
    pub processing: Latency,
    /// From a packet to its acknowledgement, as the peer's sessions measure it.
    pub round_trip: Latency,
}

impl Latencies {
    /// Name without prefix and suffix, and help, in the order of [`Self::all`].
    pub const ABOUT: [(&'static str, &'static str); 3] = [
        ("queueing", "Time that a received train waited for others of the same turn"),
        ("processing", "Time that handling a received train took"),
        ("round_trip", "Round trips that acknowledgements showed"),
    ];

    fn new() -> Self {
        Self { queueing: Latency::new(), processing: Latency::new(), round_trip: Latency::new() }
    }

    /// Each.
    pub fn all(&self) -> [&Latency; 3] {
        [&self.queueing, &self.processing, &self.round_trip]
    }
}

/// The recorder's end.
pub struct Recorder {
    /// What was recorded so far.
    pub own: Latencies,
    dirty: bool,
}

impl Recorder {
    /// Nothing yet.
    #[allow(clippy::new_without_default, reason = "a recorder is made once per shard, on purpose")]
    pub fn new() -> Self {
        Self { own: Latencies::new(), dirty: false }
    }

    /// Something was recorded.
    pub fn touch(&mut self) {
        self.dirty = true;
    }

    /// Leaves a copy for readers, unless nothing is new or one of them reads right now.
    pub fn publish(&mut self, board: &Board) {
        if !self.dirty {
            return;
        }
        if let Ok(mut shown) = board.0.try_lock() {
            shown.queueing.set_to(&self.own.queueing);
            shown.processing.set_to(&self.own.processing);
            shown.round_trip.set_to(&self.own.round_trip);
            self.dirty = false;
        }
    }
}

/// The readers' end.
#[derive(Debug)]
pub struct Board(Mutex<Latencies>);

impl Board {
    /// Nothing yet.
    #[allow(clippy::new_without_default, reason = "as for Recorder")]
    pub fn new() -> Self {
        Self(Mutex::new(Latencies::new()))
    }

    /// What was left last.
    pub fn read(&self) -> Latencies {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_what_was_published_and_never_hold_the_recorder_up() {
        let (mut recorder, board) = (Recorder::new(), Board::new());
        recorder.own.queueing.record(Duration::from_micros(3), 5);
        recorder.own.queueing.record(Duration::from_secs(1000), 1);
        recorder.publish(&board);
        assert_eq!(board.read().queueing.count(), 0, "nobody said that there is something new");
        recorder.touch();
        let reading = board.0.lock().expect("nobody panicked");
        recorder.publish(&board);
        drop(reading);
        assert_eq!(board.read().queueing.count(), 0, "a reader was there");
        recorder.publish(&board);
        let shown = board.read().queueing;
        assert_eq!(shown.count(), 6);
        let limit = Duration::from_nanos(LATENCY_NS_MAX).as_secs_f64();
        assert!((shown.sum() - limit - 15e-6).abs() < 1e-6, "{}", shown.sum());
        assert!((shown.quantile_us(0.5) - 3.0).abs() < 0.1, "{}", shown.quantile_us(0.5));
    }

    #[test]
    fn every_duration_is_in_one_bucket() {
        let mut latency = Latency::new();
        for ns in (0..200).map(|step| 100u64 << (step / 8)).chain([1, 999, 1000, 1001, 1_000_000_000]) {
            latency.record(Duration::from_nanos(ns), 2);
        }
        let buckets = latency.buckets();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), latency.count());
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0) && buckets.last().is_some_and(|b| b.0.is_infinite()));
        let mut one = Latency::new();
        one.record(Duration::from_micros(150), 1);
        let at = one.buckets().into_iter().find(|(_, count)| *count == 1);
        assert_eq!(at.map(|(bound, _)| bound), Some(2e-4));
    }
}

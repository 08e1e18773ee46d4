//! What a fetch knows of one peer: how much it was asked for, and how it answers.

use std::time::Duration;

use crate::base::Time;
use crate::limits::{REQUESTS_PER_SESSION_MAX, SLICE_SIZE, SLICES_AHEAD_PER_PEER};

/// Misses beyond this say nothing more about a peer.
pub(super) const MISSES_COUNTED_MAX: u32 = 8;

/// How often the rate is measured.
const MEASURE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Peer {
    /// Slices asked for and not arrived.
    pub(super) outstanding: usize,
    /// Streams open to it.
    pub(super) streams: usize,
    /// Bytes per second, smoothed; 0 until measured.
    rate: f64,
    /// Bytes that arrived since `measured_at`.
    arrived: u64,
    pub(super) measured_at: Time,
    pub(super) lied: bool,
    /// Chunks that it did not have since it last brought a slice: it is asked after the others.
    pub(super) misses: u32,
    /// Nothing more may be asked until it is connected.
    pub(super) held: bool,
    /// It gives no more streams until one ends.
    pub(super) stuck: bool,
    /// It said that it is busy, until then.
    pub(super) busy_until: Option<Time>,
}

impl Peer {
    /// What comes from it, bytes per second.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// How many slices may be outstanding: half a second's worth, so that a slow peer does not hold what
    /// a fast one could bring.
    pub(super) fn ahead(&self) -> usize {
        let half_second = (self.rate * 0.5 / SLICE_SIZE as f64) as usize;
        half_second.clamp(SLICES_AHEAD_PER_PEER / 8, SLICES_AHEAD_PER_PEER)
    }

    /// Whether it can be asked for `slices` more, all at once: a request for a whole chunk waits until there
    /// is room for it, instead of becoming many small ones.
    pub(super) fn can_take(&self, slices: usize) -> bool {
        let free = !self.lied && !self.held && !self.stuck && self.streams < REQUESTS_PER_SESSION_MAX;
        free && self.busy_until.is_none() && slices <= self.room()
    }

    /// How many slices more may be outstanding.
    pub(super) fn room(&self) -> usize {
        self.ahead().saturating_sub(self.outstanding)
    }

    /// Whether [`Self::took`] measures its rate now.
    pub(super) fn is_measured_at(&self, now: Time) -> bool {
        now.since(self.measured_at) >= MEASURE
    }

    /// Counts bytes that arrived, and measures the rate ten times per second.
    pub(super) fn took(&mut self, now: Time, bytes: u64) {
        self.arrived += bytes;
        if self.is_measured_at(now) {
            let elapsed = now.since(self.measured_at).as_secs_f64();
            let rate = self.arrived as f64 / elapsed;
            self.rate = if self.rate == 0.0 { rate } else { 0.7 * self.rate + 0.3 * rate };
            self.arrived = 0;
            self.measured_at = now;
        }
    }
}

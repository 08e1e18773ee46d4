//! What the bridges count, for everybody to read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Name, help and value of a counter.
pub type Count = (&'static str, &'static str, u64);

/// Written by the bridges' thread.
#[derive(Debug, Default)]
pub struct Stats {
    /// Guests now.
    pub guests: AtomicU64,
    /// Bridges to friends that are connected now.
    pub lines: AtomicU64,
    /// Guests that came.
    pub came: AtomicU64,
    /// Connections to bridges of friends that were made.
    pub connected: AtomicU64,
    /// Those that could not be.
    pub failed: AtomicU64,
    /// Datagrams to the far side.
    pub sent_datagrams: AtomicU64,
    /// Datagrams from there.
    pub received_datagrams: AtomicU64,
    /// Bytes of datagrams to the far side.
    pub sent_bytes: AtomicU64,
    /// Bytes of datagrams from there.
    pub received_bytes: AtomicU64,
    /// Datagrams that found no room, or waited too long.
    pub dropped_datagrams: AtomicU64,
    /// Bytes of datagrams that wait now.
    pub waiting_bytes: AtomicU64,
    /// Questions that were answered with nothing.
    pub strangers: AtomicU64,
    /// Connections for which there was no room.
    pub refused: AtomicU64,
}

/// Counts somebody as there for as long as it lives.
pub(super) struct Present<'a>(&'a AtomicU64);

impl<'a> Present<'a> {
    pub(super) fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stats {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// All that only grow.
    pub fn counters(&self) -> [Count; 10] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("bridge_guests_came", "Guests that came by this node's bridge", of(&self.came)),
            ("bridge_connected", "Connections made to bridges of friends", of(&self.connected)),
            ("bridge_failed", "Connections to bridges of friends that came to nothing", of(&self.failed)),
            ("bridge_sent_datagrams", "Datagrams sent by bridges", of(&self.sent_datagrams)),
            ("bridge_received_datagrams", "Datagrams received by bridges", of(&self.received_datagrams)),
            ("bridge_sent_bytes", "Bytes of datagrams sent by bridges", of(&self.sent_bytes)),
            ("bridge_received_bytes", "Bytes of datagrams received by bridges", of(&self.received_bytes)),
            (
                "bridge_dropped_datagrams",
                "Datagrams that found no room in a bridge, or waited too long",
                of(&self.dropped_datagrams),
            ),
            (
                "bridge_strangers",
                "Questions to the bridge that were answered with nothing",
                of(&self.strangers),
            ),
            ("bridge_refused", "Connections to the bridge for which there was no room", of(&self.refused)),
        ]
    }
}

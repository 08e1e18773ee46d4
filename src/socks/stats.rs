//! What the proxy counts, for everybody to read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Name, help and value of a counter.
pub type Count = (&'static str, &'static str, u64);

/// Written by the proxy's thread.
#[derive(Debug, Default)]
pub struct Stats {
    /// Applications connected now, those with an association among them.
    pub clients: AtomicU64,
    /// Associations now.
    pub associations: AtomicU64,
    /// Connections that were made.
    pub connected: AtomicU64,
    /// Requests that came to nothing.
    pub refused: AtomicU64,
    /// Of applications that did not speak the protocol.
    pub strangers: AtomicU64,
    /// Bytes of connections, to the far side.
    pub sent_bytes: AtomicU64,
    /// Bytes of connections, from there.
    pub received_bytes: AtomicU64,
    /// Datagrams to the far side.
    pub sent_datagrams: AtomicU64,
    /// Datagrams from there.
    pub received_datagrams: AtomicU64,
    /// Datagrams that led nowhere.
    pub dropped_datagrams: AtomicU64,
    /// Questions to resolvers.
    pub questions: AtomicU64,
    /// Names without an address.
    pub unnamed: AtomicU64,
    /// Connections that were reset by the far side, or in which nothing moved for too long.
    pub broken: AtomicU64,
    /// Packets from the circuit that were nobody's, or found no room.
    pub strays: AtomicU64,
}

impl Stats {
    /// One more.
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// All that only grow.
    pub fn counters(&self) -> [Count; 12] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("socks_connected", "Connections made for applications", of(&self.connected)),
            ("socks_refused", "Requests of applications that came to nothing", of(&self.refused)),
            ("socks_strangers", "Applications that do not speak SOCKS5", of(&self.strangers)),
            ("socks_sent_bytes", "Bytes of connections to the far side", of(&self.sent_bytes)),
            ("socks_received_bytes", "Bytes of connections from the far side", of(&self.received_bytes)),
            ("socks_sent_datagrams", "Datagrams to the far side", of(&self.sent_datagrams)),
            ("socks_received_datagrams", "Datagrams from the far side", of(&self.received_datagrams)),
            (
                "socks_dropped_datagrams",
                "Datagrams of applications that led nowhere",
                of(&self.dropped_datagrams),
            ),
            ("socks_questions", "Questions to resolvers, through the circuit", of(&self.questions)),
            ("socks_unnamed", "Names without an address", of(&self.unnamed)),
            ("socks_broken", "Connections that the far side or time broke", of(&self.broken)),
            (
                "socks_strays",
                "Packets from the circuit that were nobody's or found no room",
                of(&self.strays),
            ),
        ]
    }
}

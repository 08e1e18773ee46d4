//! What the shaper is told and what it tells.

use std::time::Duration;

use super::histogram::Histogram;
use crate::limits::WEIGHT_USUAL;

/// What traffic is for, most urgent first (docs/shaping.md §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Handshakes, acknowledgements, keepalives: before everything, and a small share of the node's rate at most.
    Control = 0,
    /// What a reservation was admitted for, by deadline; what exceeds it counts as the peer's other traffic.
    Realtime = 1,
    /// Friends' traffic.
    Friend = 2,
    /// Everybody else's, by weight.
    Market = 3,
    /// What can wait.
    Background = 4,
}

/// How many there are.
pub const CLASSES: usize = 5;

impl Class {
    /// All, most urgent first.
    pub const ALL: [Self; CLASSES] =
        [Self::Control, Self::Realtime, Self::Friend, Self::Market, Self::Background];

    /// Its name in metrics and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Realtime => "realtime",
            Self::Friend => "friend",
            Self::Market => "market",
            Self::Background => "background",
        }
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A peer of the shaper, by its place in the table. Dead once it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// Its number, for tables beside the shaper's.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one peer may and is owed. Rates are bits per second on the wire: the IP length of every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Never more than this.
    pub cap: Option<u64>,
    /// At least this, when it has something to send.
    pub floor: Option<u64>,
    /// Bytes that may leave at once after a pause; `None` is some milliseconds of the cap.
    pub burst: Option<u64>,
    /// Share among the peers of a class: 1 to [`crate::limits::WEIGHT_MAX`].
    pub weight: u16,
    /// The class of what is none of the others: [`Class::Friend`], [`Class::Market`] or [`Class::Background`].
    pub base: Class,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cap: None, floor: None, burst: None, weight: WEIGHT_USUAL, base: Class::Market }
    }
}

/// A promise of bandwidth: at least `rate` once `burst` is spent, each packet on the wire at most `delay` after it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Bits per second.
    pub rate: u64,
    /// Bytes.
    pub burst: u64,
    /// At most.
    pub delay: Duration,
}

/// Leave to send, to be answered by [`super::Shaper::settle`] before anything else is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a grant must be settled"]
pub struct Grant {
    /// Who.
    pub peer: Slot,
    /// What.
    pub class: Class,
    /// How much at most, bytes on the wire; a whole packet at least, but for [`Class::Control`].
    pub bytes: u64,
    pub(super) by: By,
}

/// On what grounds something leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Control,
    Reservation,
    Floor,
    Share,
}

/// Figures of one class.
#[derive(Debug, Clone, Default)]
pub struct ClassStats {
    /// Bytes on the wire.
    pub sent_bytes: u64,
    /// Grants that were used.
    pub grants: u64,
    /// Time from having something to send to the first grant for it.
    pub delay: Histogram,
    /// Packets of tunnels and circuits that were dropped where they waited.
    pub dropped: u64,
    /// Of those that waited, packets that were marked as having met congestion.
    pub marked: u64,
}

impl ClassStats {
    /// Adds another shard's.
    pub fn merge(&mut self, other: &Self) {
        self.sent_bytes += other.sent_bytes;
        self.grants += other.grants;
        self.delay.merge(&other.delay);
        self.dropped += other.dropped;
        self.marked += other.marked;
    }
}

/// Figures of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerStats {
    /// Bytes on the wire, all classes.
    pub sent_bytes: u64,
    /// Of those, bytes above the reservation in its class.
    pub overuse_bytes: u64,
    /// Whether it has something to send and may not.
    pub waiting: bool,
    /// For how long it has waited for the first leave to send what it has; nothing once it got that.
    pub delay: Duration,
}

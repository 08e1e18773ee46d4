//! What the shards of a node say to one another about the rate that they share (docs/shaping.md §5, §6).

use std::time::Duration;

/// What a shard would send, told to the owner of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Bytes wanted for control; more than that is asked for later.
    pub control: u64,
    /// Bytes wanted for reservations and floors.
    pub urgent: u64,
    /// Weights of those who wait as friends, in the market and in the background; zero where nobody does.
    pub weights: [u32; 3],
    /// Tokens that it had and gives back, bytes.
    pub returned: u64,
}

impl Demand {
    /// Whether nothing is wanted.
    pub fn is_nothing(&self) -> bool {
        self.control == 0 && self.urgent == 0 && self.weights.iter().all(|weight| *weight == 0)
    }
}

/// Tokens for one shard, bytes by class: control, reservations and floors, friends, market, background.
pub type Tokens = [u64; 5];

/// What a lane has run out of, of what its peer's first lane has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Short {
    /// Of what the peer may be sent.
    pub cap: bool,
    /// Of its floor.
    pub floor: bool,
    /// Of what was promised to it.
    pub reserve: bool,
}

impl Short {
    /// Of what either has.
    pub fn or(self, other: Self) -> Self {
        Self {
            cap: self.cap || other.cap,
            floor: self.floor || other.floor,
            reserve: self.reserve || other.reserve,
        }
    }

    /// Whether of anything.
    pub fn is_any(self) -> bool {
        self.cap || self.floor || self.reserve
    }
}

/// What a peer's first lane lends another one, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loan {
    /// Of what the peer may be sent.
    pub cap: u64,
    /// Of its floor.
    pub floor: u64,
    /// Of what was promised to it.
    pub reserve: u64,
}

/// What happened to what was sent since the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Bytes on the wire that were sent.
    pub sent: u64,
    /// Bytes that are known to have arrived.
    pub arrived: u64,
    /// Bytes that were sent and will be acknowledged, at most `sent`.
    pub streams: u64,
    /// What the round trip is above its smallest, of that peer of whom it is least: a queue near us delays all of them.
    /// `None` when nobody was sent anything that was acknowledged.
    pub wait: Option<Duration>,
}

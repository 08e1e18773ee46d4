//! What the shards of a node say to one another about the rate that they share (docs/shaping.md §5).

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

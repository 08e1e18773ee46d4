//! What nodes mean to do, as the control thread says and hears it.

/// What friends may have a node do, and what it asks of them by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntentRules {
    /// How much longer than it means to they may have it stay, all together, seconds; 0: never.
    pub grant_max_s: u32,
    /// The least trust of who may.
    pub grant_trust: u8,
    /// How much longer than it means to a friend is asked to stay for a `get`, seconds; 0: never.
    pub ask_max_s: u32,
}

/// A node that leaves, to be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeavingSnapshot {
    /// In how long, milliseconds.
    pub in_ms: u64,
    /// Peers that have not answered that they heard it.
    pub untold: u64,
    /// Whether anybody is served, or anything is fetched.
    pub busy: bool,
    /// What it gives away.
    pub handover: HandoverSnapshot,
}

impl LeavingSnapshot {
    /// Of two shards: the later time counts.
    pub(super) fn add(&self, other: &Self) -> Self {
        let (own, theirs) = (&self.handover, &other.handover);
        Self {
            in_ms: self.in_ms.max(other.in_ms),
            untold: self.untold + other.untold,
            busy: self.busy || other.busy,
            handover: HandoverSnapshot {
                given: own.given + theirs.given,
                given_bytes: own.given_bytes + theirs.given_bytes,
                short: own.short + theirs.short,
                left: own.left + theirs.left,
            },
        }
    }
}

/// What a leaving node gives away, in chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandoverSnapshot {
    /// Those that others have by now.
    pub given: u64,
    /// Their bytes.
    pub given_bytes: u64,
    /// Those for which too few keepers were found.
    pub short: u64,
    /// Those that are still to be given.
    pub left: u64,
}

/// What a peer means to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IntentSnapshot {
    /// In how long it leaves, seconds.
    pub leaves_in_s: Option<u64>,
    /// For how long it means to stay, seconds.
    pub stays_s: Option<u64>,
    /// What it was asked.
    pub asked: Option<AskedToStay>,
}

/// That a peer was asked to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedToStay {
    /// For how long from now, seconds.
    pub left_s: u64,
    /// What it said.
    pub said: SaidToStay,
    /// For how long it would be there, seconds, if it said so.
    pub stays_s: Option<u64>,
}

/// What came of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidToStay {
    /// No answer yet.
    Nothing,
    /// No answer at all.
    Silence,
    /// Yes.
    Granted,
    /// Not for so long.
    Less,
    /// No.
    Refused,
}

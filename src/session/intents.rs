//! Messages between the shards of a node about what peers, and the node itself, mean to do (docs/protocol/intents.md §5). Sessions
//! carry them and look at none: the composer answers.

use crate::base::{PublicKey, Time};
use crate::crypto::IdentityCard;

/// One message. Losing one is like losing a datagram.
pub enum IntentCross {
    /// From a peer's home: it leaves then, or does not leave.
    Leaves {
        /// Who.
        peer: IdentityCard,
        /// When.
        at: Option<Time>,
    },
    /// From a friend's home: this node leaves then, since it granted that. Said again and again.
    Moved(Time),
    /// To a peer's home: ask it to be there until then.
    Ask {
        /// Whom.
        peer: PublicKey,
        /// Until when.
        until: Time,
    },
}

impl IntentCross {
    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leaves { .. } => "peer leaves",
            Self::Moved(_) => "leaving moved",
            Self::Ask { .. } => "ask to stay",
        }
    }
}

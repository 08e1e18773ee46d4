//! Messages between the shards of a node about introductions (docs/protocol/introductions.md). Sessions carry them and look at
//! none: the composer answers. Each shard knows what all friends told, and tells those whose home it is.

use std::net::SocketAddr;

use crate::base::PublicKey;
use crate::wire::introduction::Told;

/// One message. Losing one is like losing a datagram: it is said again in time.
pub enum IntroduceCross {
    /// All that a friend tells, whose home is the sender; its signatures were checked.
    Heard {
        /// Who tells.
        friend: PublicKey,
        /// What; at most [`crate::limits::INTRODUCTIONS_TOLD_MAX`].
        told: Vec<Told>,
    },
    /// An acquaintance whose home is the sender does not answer.
    Vain(PublicKey),
    /// Where the first shard knows this node to be reached: what the operator or the host says, and what two networks agree on.
    Places(Vec<SocketAddr>),
}

impl IntroduceCross {
    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Heard { .. } => "introduced",
            Self::Vain(_) => "called in vain",
            Self::Places(_) => "where this node is",
        }
    }
}

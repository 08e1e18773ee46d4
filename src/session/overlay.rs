//! Messages between the shards of a node in matters of the overlay (docs/architecture.md). Sessions carry them and look at
//! none: the composer answers.
//!
//! The first shard, the *keeper*, has the overlay's core. A peer's home has the session with it, and so sends what the core
//! says to it. A shard that runs a `get` asks the core for providers, and their homes for sessions.

use std::net::SocketAddr;

use crate::base::{ChunkId, NodeId, PublicKey};
use crate::crypto::IdentityCard;
use crate::wire::overlay::Contact;

/// One message. Losing one is like losing a datagram: whoever waits for it gives up in time.
pub enum OverlayCross {
    /// From the keeper: send this to a peer whose home is the receiver.
    Send {
        /// To whom, and where it may be reached.
        to: Contact,
        /// A message of the overlay.
        bytes: Vec<u8>,
        /// Whether a session is worth opening for it.
        question: bool,
    },
    /// To the keeper: a peer said this.
    Message {
        /// Who, authenticated.
        from: IdentityCard,
        /// Where its packets come from, once a packet of the session's came from there: anybody can send a first flight in
        /// another's name.
        seen: Option<SocketAddr>,
        /// A message of the overlay.
        bytes: Vec<u8>,
    },
    /// To the keeper: there is a session with a peer that takes part.
    Up {
        /// Who.
        peer: IdentityCard,
        /// Where.
        at: SocketAddr,
    },
    /// To the keeper: a session ended in good order.
    Down(NodeId),
    /// To the keeper: a session did not come about, or broke.
    Failed {
        /// Whose.
        peer: NodeId,
        /// Addresses that were tried in vain; at most [`crate::limits::ADDRESSES_PER_PEER_MAX`].
        tried: Vec<SocketAddr>,
    },
    /// To the keeper: a question was not sent, for want of room; no fault of the peer's.
    Untried(NodeId),
    /// To a peer's home: have a session with it.
    Call {
        /// Who.
        card: IdentityCard,
        /// Where it may be reached; at most [`crate::limits::ADDRESSES_PER_PEER_MAX`].
        addresses: Vec<SocketAddr>,
        /// Whether the caller waits to hear of it.
        answer: bool,
    },
    /// From a peer's home: there is one, or there will be none.
    Called {
        /// Who.
        peer: PublicKey,
        /// Whether there is.
        up: bool,
    },
    /// To the keeper: a peer gave so many verified bytes of chunks, since this was said last.
    Gave {
        /// Who.
        peer: NodeId,
        /// Bytes.
        bytes: u64,
    },
    /// To the keeper: who has this chunk?
    Find(ChunkId),
    /// To the keeper: that is not wanted any more.
    Stop(ChunkId),
    /// From the keeper: these say that they have it.
    Found {
        /// What.
        chunk: ChunkId,
        /// Who; none twice in one message.
        providers: Vec<Contact>,
    },
    /// From the keeper: the lookup is over.
    Ended(ChunkId),
    /// To the keeper: this chunk is kept for somebody from now on, and to be provided.
    Kept(ChunkId),
    /// To the keeper: who is near this chunk?
    Near(ChunkId),
    /// From the keeper: these are, nearest first; none when that is not to be had.
    Nearest {
        /// To what.
        chunk: ChunkId,
        /// Who; none twice.
        nodes: Vec<Contact>,
    },
}

impl OverlayCross {
    /// Whether it carries a message of the overlay, of which anybody can cause many.
    pub fn is_packet(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::Message { .. })
    }

    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "overlay send",
            Self::Message { .. } => "overlay message",
            Self::Up { .. } => "overlay up",
            Self::Down(_) => "overlay down",
            Self::Failed { .. } => "overlay failed",
            Self::Untried(_) => "overlay untried",
            Self::Call { .. } => "overlay call",
            Self::Called { .. } => "overlay called",
            Self::Gave { .. } => "overlay gave",
            Self::Find(_) => "find",
            Self::Stop(_) => "stop finding",
            Self::Found { .. } => "found",
            Self::Ended(_) => "finding ended",
            Self::Kept(_) => "kept",
            Self::Near(_) => "near",
            Self::Nearest { .. } => "nearest",
        }
    }
}

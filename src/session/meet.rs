//! Messages between the shards of a node about ways to peers through other peers (docs/protocol/nat.md). Sessions carry them
//! and look at none: the composer answers.
//!
//! A way belongs to the shard that has the session with the relay, a handshake to its peer's home; and at a relay the two
//! that it carries for may have two homes.

use std::net::SocketAddr;

use crate::base::{NodeId, PublicKey};
use crate::crypto::IdentityCard;
use crate::wire::overlay::Contact;
use crate::wire::punch::{Part, Verdict};

/// One message. Losing one is like losing a datagram.
pub enum MeetCross {
    /// A way to this node is wanted: ask whom you have a session with.
    Wanted {
        /// To whom.
        card: IdentityCard,
        /// Whether strangers are asked, too.
        strangers: bool,
    },
    /// To a peer's home: ask it for a way.
    Ask {
        /// Whom.
        relay: Contact,
        /// To whom.
        target: IdentityCard,
    },
    /// To a peer's home: have a session with it, and have it keep that.
    Hold(Contact),
    /// To a peer's home: here is a way to it.
    Way {
        /// To whom.
        peer: PublicKey,
        /// The address that stands for it ([`crate::base::Way`]).
        way: SocketAddr,
    },
    /// These ways lead nowhere any more.
    Lost(Vec<SocketAddr>),
    /// At a relay, to a node's home: would both be carried for?
    Call {
        /// The asker, and whether it is a friend.
        asker: IdentityCard,
        /// Whether it is a friend.
        is_friend: bool,
        /// The question's.
        number: u32,
        /// To whom it wants a way.
        target: PublicKey,
    },
    /// At a relay, to the asker's home.
    Answer {
        /// The asker.
        asker: PublicKey,
        /// The question's.
        number: u32,
        /// Whether.
        verdict: Verdict,
        /// To whom, if it is there, and whether one of both is a friend.
        target: Option<(IdentityCard, bool)>,
    },
    /// At a relay, to the home of whom it is for.
    Carry {
        /// For whom.
        to: PublicKey,
        /// Its place.
        node: NodeId,
        /// Whose.
        from: IdentityCard,
        /// Which part.
        part: Part,
        /// Of which datagram.
        id: u16,
        /// What.
        bytes: Box<[u8]>,
    },
    /// At a relay, to a peer's home: nothing is carried from it to this node any more.
    Gone {
        /// Whom to tell.
        peer: PublicKey,
        /// Who is gone.
        node: NodeId,
    },
}

impl MeetCross {
    /// Whether it carries a datagram, which anybody can cause to be passed on.
    pub fn is_packet(&self) -> bool {
        matches!(self, Self::Carry { .. })
    }

    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Wanted { .. } => "way wanted",
            Self::Ask { .. } => "ask for a way",
            Self::Hold(_) => "hold",
            Self::Way { .. } => "way",
            Self::Lost(_) => "ways lost",
            Self::Call { .. } => "call",
            Self::Answer { .. } => "answer",
            Self::Carry { .. } => "carry",
            Self::Gone { .. } => "gone",
        }
    }
}

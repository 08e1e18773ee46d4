//! Messages between the shards of a node in matters of circuits (docs/protocol/onion.md §11). Sessions carry them and look
//! at none: the composer answers.
//!
//! One shard, the first, has what there is once: the onion keys with the memory of what was built under them, the book of
//! an exit's addresses, and the node's own circuit. Circuits of others lie on the shards to which their neighbours' packets
//! come.

use std::net::SocketAddr;

use crate::base::{Offload, PublicKey};
use crate::crypto::{IdentityCard, Secret};
use crate::wire::build::{OnionKey, REQUEST_SIZE};
use crate::wire::ip::Addresses;
use crate::wire::relay::RelayCard;

/// One message. Losing one is like losing a cell: whoever waits for it gives up in time.
pub enum CircuitCross {
    /// From the keeper of the onion keys: what to publish.
    Key(OnionKey),
    /// To it: open this request.
    Open {
        /// The sender's circuit.
        circuit: u64,
        /// As it came.
        request: Box<[u8; REQUEST_SIZE]>,
    },
    /// From it: what opens the request, and the public half of the onion key that it was made for.
    Opened {
        /// The receiver's circuit.
        circuit: u64,
        /// The shared secret.
        secret: Result<(Secret, [u8; 32]), NotOpened>,
    },
    /// To a peer's home: have a session with it, for a lane of the sender's.
    Call {
        /// Who.
        card: IdentityCard,
        /// Where, when it is no friend.
        address: Option<SocketAddr>,
    },
    /// From a peer's home: there is one, or there will be none.
    Called {
        /// Who.
        peer: PublicKey,
        /// Whether there is.
        up: bool,
    },
    /// From a friend's home: what it says of relays, itself first; nothing when it is gone.
    Heard {
        /// Who.
        peer: IdentityCard,
        /// What.
        relays: Vec<RelayCard>,
    },
    /// A packet of the device for the node's own circuit.
    Packet {
        /// What is left to be done with it.
        offload: Offload,
        /// The packet.
        bytes: Box<[u8]>,
    },
    /// To the book of an exit's addresses: a circuit ends at the sender.
    Lease {
        /// The sender's circuit.
        circuit: u64,
        /// The neighbour by which it comes.
        neighbour: PublicKey,
        /// What it is known by.
        resume: [u8; 32],
    },
    /// From the book: the circuit's addresses; none when all are taken, or all that its neighbour may have.
    Leased {
        /// The receiver's circuit.
        circuit: u64,
        /// Which.
        addresses: Option<Addresses>,
    },
    /// To the book: packets to these addresses are the sender's from now on.
    Claim(Addresses),
    /// From the book: they are another shard's now.
    Unclaim(Addresses),
    /// To the book: the circuits with these addresses are over, one each.
    Release(Vec<Addresses>),
    /// A packet that came back to an exit, for a circuit of another shard.
    Return {
        /// What is left to be done with it.
        offload: Offload,
        /// The packet.
        bytes: Box<[u8]>,
    },
}

/// Why a request was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOpened {
    /// It was built before, on whatever shard.
    Seen,
    /// It was not made for this relay's keys.
    Foreign,
    /// No more are remembered.
    Busy,
}

impl CircuitCross {
    /// Whether it carries a packet, of which there may be many.
    pub fn is_packet(&self) -> bool {
        matches!(self, Self::Packet { .. } | Self::Return { .. })
    }

    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "onion key",
            Self::Open { .. } => "open request",
            Self::Opened { .. } => "opened request",
            Self::Call { .. } => "call",
            Self::Called { .. } => "called",
            Self::Heard { .. } => "relays",
            Self::Packet { .. } => "packet for the circuit",
            Self::Lease { .. } => "lease",
            Self::Leased { .. } => "leased",
            Self::Claim(_) => "claim",
            Self::Unclaim(_) => "unclaim",
            Self::Release(_) => "release",
            Self::Return { .. } => "return",
        }
    }
}

//! What a node is told of the overlay and of translators, and what it shows.

use std::net::SocketAddr;

use crate::crypto::IdentityCard;

/// What a node does for and in the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRules {
    /// Whether it takes part.
    pub enabled: bool,
    /// The network's name: those of other names are not understood.
    pub network: String,
    /// Where others reach this node, best first.
    pub addresses: Vec<SocketAddr>,
    /// By whom the network may be entered; at most [`crate::limits::BOOTSTRAP_MAX`].
    pub bootstrap: Vec<(IdentityCard, Vec<SocketAddr>)>,
    /// Whether chunks are looked for from far (cheap, and copies spread) instead of near (fast).
    pub far: bool,
    /// Whether those who are no friends are served chunks.
    pub serve_strangers: bool,
    /// The size of the cache in which chunks are kept for others, bytes; `None`: none are.
    pub keep: Option<u64>,
}

/// What is known and wanted of whatever translates a node's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatRules {
    /// Servers of STUN to be asked; at most [`crate::limits::STUN_SERVERS_MAX`].
    pub stun: Vec<SocketAddr>,
    /// Whether this node answers such questions of strangers.
    pub answers: bool,
    /// Where this shard's port was mapped to, by request.
    pub mapped: Vec<SocketAddr>,
}

/// A node's part in the overlay, to be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OverlaySnapshot {
    /// Contacts in its table.
    pub contacts: u64,
    /// Nodes of the network, as far as can be told.
    pub nodes: u64,
    /// Peers that it remembers.
    pub peers: u64,
    /// Lookups under way, for whatever purpose.
    pub lookups: u64,
    /// Records that it keeps for others.
    pub records: u64,
    /// Chunks that it provides.
    pub provided: u64,
    /// Of those, the ones that others keep a record of, as the last check said.
    pub announced: u64,
}

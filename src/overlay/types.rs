//! The words of the overlay's core: what its caller says and is told.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{ChunkId, NodeId, Time, UnixMs};
use crate::crypto::rank::place_work;
use crate::limits::{HOSTS_WANTED_USUAL, PEERS_REMEMBERED_MAX};
use crate::wire::overlay::{Contact, Record};

use super::place::Key;

/// What both clocks say when something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic: what is waited for.
    pub now: Time,
    /// Wall: what records say.
    pub wall: UnixMs,
}

impl Moment {
    /// Seconds since the Unix epoch.
    pub fn unix_s(&self) -> u32 {
        u32::try_from(self.wall.0 / 1000).unwrap_or(u32::MAX)
    }
}

/// A node that is not this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its place, computed once.
    pub id: NodeId,
    /// Who it is and where.
    pub contact: Contact,
}

impl Peer {
    /// Of a contact as it came.
    pub fn of(contact: Contact) -> Self {
        Self { id: contact.node_id(), contact }
    }

    /// The same node where its session's path leads, and nowhere else.
    pub fn reached_at(&self, seen: Option<SocketAddr>) -> Self {
        Self { id: self.id, contact: Contact::new(self.contact.card, seen) }
    }

    /// The same, and besides where it was known to be by the other family of addresses.
    pub fn also_at(&self, before: &Contact) -> Self {
        let family = self.contact.addresses().next().map(|address| address.is_ipv4());
        let other = before.addresses().filter(|address| Some(address.is_ipv4()) != family);
        Self { id: self.id, contact: Contact::new(self.contact.card, self.contact.addresses().chain(other)) }
    }

    /// Whether its place shows so many bits of work. The key is checked by the handshake that reaches it.
    pub fn shows(&self, floor: u32) -> bool {
        place_work(&self.contact.card.key, &self.id) >= floor
    }
}

/// What a peer is to this node, as the accounts say: the first two of the seeds' criteria, and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Verified bytes that it gave.
    pub contributed: u64,
    /// What it paid, msat.
    pub paid: u64,
    /// Its bandwidth as seen, bits per second.
    pub bandwidth: u64,
}

/// What the operator decides, and what tests change.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bits of work that every place must show (`crypto::rank::PLACE_FLOOR_BITS`).
    pub place_floor: u32,
    /// Contacts, announcers and askers whose counts count have this rank at least.
    pub rank_floor: u32,
    /// Peers asked at once in one lookup (Kademlia's α).
    pub parallel: usize,
    /// Disjoint paths of a lookup.
    pub paths: usize,
    /// Whether nobody hears of this node from itself: it asks, and is in no table.
    pub client: bool,
    /// Peers remembered at most; at most [`PEERS_REMEMBERED_MAX`].
    pub remembered: usize,
    /// Hosts that each published chunk is to have.
    pub hosts: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            place_floor: crate::crypto::rank::PLACE_FLOOR_BITS,
            rank_floor: 1,
            parallel: 3,
            paths: 3,
            client: false,
            remembered: PEERS_REMEMBERED_MAX,
            hosts: HOSTS_WANTED_USUAL,
        }
    }
}

/// The number of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u64);

/// From where a key is approached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// From the nearest node that is known: dear, fast.
    Near,
    /// From far, at least so many bits nearer with each step: cheap, and copies spread along the way. 1 is the seeds'
    /// binary search.
    Far {
        /// Bits, at least 1.
        stride: u8,
    },
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The nodes nearest to a place.
    Nodes,
    /// Who has a chunk: so many providers, named on two paths, after which the lookup ends by itself. Providers may be
    /// invented; who can see whether the content is there asks for [`u8::MAX`] and stops the lookup.
    Providers(u8),
}

/// A lookup that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The place.
    pub key: Key,
    /// What is looked for.
    pub goal: Goal,
    /// From where.
    pub manner: Manner,
    /// A check, not a wish: nobody counts it as demand.
    pub quiet: bool,
}

/// What a lookup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Records found, verified, not expired; none twice.
    pub records: Vec<Record>,
    /// The nodes of the key's region that answered, nearest first.
    pub nearest: Vec<Peer>,
    /// Peers asked.
    pub asked: u32,
    /// Peers that did not answer.
    pub failed: u32,
    /// Steps from this node to whoever first told of a provider, or to the nearest node.
    pub hops: u32,
    /// Vain searches lately: the median of what the region's nodes count.
    pub not_found: u16,
    /// Queries lately, likewise: the key's popularity where it is kept.
    pub queries: u16,
    /// Whether it ended before its region was asked: stopped, out of time, or the key was believed to be nowhere.
    pub cut_short: bool,
}

/// What the caller is to do or may want to know. Nothing else leaves the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a message to a peer, on its session or on one to be opened at the addresses of `to` and at no others. When
    /// that fails, say so with [`super::Overlay::handle_failed`], with the addresses that were tried. Questions may be sent as early data: all but [`announcements`](crate::wire::overlay::Body::Announce)
    /// change nothing.
    Send {
        /// To whom.
        to: Peer,
        /// [`crate::wire::overlay::Message`].
        bytes: Vec<u8>,
        /// Whether it is a question; answers go on the session that asked, or nowhere.
        question: bool,
    },
    /// Providers that a lookup had not told of before. It goes on until it has all, or [`super::Overlay::stop`].
    Found {
        /// Which lookup.
        lookup: LookupId,
        /// The providers, verified.
        records: Vec<Record>,
    },
    /// A lookup ended.
    Done {
        /// Which.
        lookup: LookupId,
        /// With what.
        outcome: Outcome,
    },
    /// A published chunk was looked after.
    Checked {
        /// Which.
        chunk: ChunkId,
        /// Other hosts that have it.
        hosts: u8,
        /// Nodes that keep this node's record now.
        kept: u8,
        /// Queries of its key lately, where it is kept.
        queries: u16,
    },
    /// A peer says where it sees this node.
    Seen {
        /// Who says so.
        by: NodeId,
        /// The address.
        address: SocketAddr,
    },
}

/// For waiting: milliseconds of the limits.
pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

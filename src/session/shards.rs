//! What the shards of one node have to do with one another in matters of sessions: whose session a connection id
//! names, which shard is a peer's home, and the messages between them (docs/protocol/session.md §8,
//! docs/decisions/0012-shards-and-lanes.md).
//!
//! A peer's *home* is drawn from its key, so that all that must be decided about a peer in one place (which of two
//! handshakes at once goes on, which session counts) is decided on one shard, without asking another.

use super::circuits::CircuitCross;
use super::home::Wanted;
use super::intents::IntentCross;
use super::introduce::IntroduceCross;
use super::lanes::Seat;
use super::meet::MeetCross;
use super::noise::Offered;
use super::overlay::OverlayCross;
use super::sessions::Sessions;
use super::types::SessionKey;
use crate::base::budget::{Demand, Loan, Round, Short, Tokens};
use crate::base::{Offload, Path, PublicKey, Time, UnixMs};
use crate::crypto::{Identity, MaskKey, Secret, hash, kdf};
use crate::limits::{CROSSINGS_MAX, HANDSHAKE_QUEUE_MAX, SHARDS_MAX};

/// A message from one shard's sessions to another's. Losing one is like losing a datagram: whoever waits for it
/// asks again or gives up in time.
pub enum Cross {
    /// A first flight of a peer whose home is the receiver, judged and not answered.
    Offer(Box<Offer>),
    /// A handshake's answer, to be sent from the socket that its question came to.
    Reply {
        /// From and to.
        path: Path,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// A datagram for a session of the receiver's that came to the sender's port: its peer reaches no other.
    Datagram {
        /// Between which addresses.
        path: Path,
        /// ECN code point.
        ecn: u8,
        /// Its bytes, sealed.
        bytes: Box<[u8]>,
    },
    /// Datagrams of the sender's to a peer that reaches only the receiver's port.
    Send {
        /// From and to.
        path: Path,
        /// Size of each datagram but the last.
        segment: u32,
        /// ECN code point.
        ecn: u8,
        /// Their bytes, sealed.
        bytes: Box<[u8]>,
    },
    /// The sender wants a lane to a peer whose home is the receiver.
    LaneWanted {
        /// Who.
        peer: PublicKey,
        /// What the sender knows the lane by.
        awaited: SessionKey,
        /// The connection id that the sender will have on it.
        cid: u64,
        /// The sender's port.
        port: u16,
    },
    /// An IP packet of a tunnel that the sender's device read, for a peer whose home is the receiver.
    Packet {
        /// Who.
        peer: PublicKey,
        /// What is left to be done with it.
        offload: Offload,
        /// The packet.
        bytes: Box<[u8]>,
    },
    /// There is no such lane now.
    LaneAway {
        /// What the receiver knows it by.
        awaited: SessionKey,
    },
    /// A lane for the receiver to use.
    LaneSeat(Box<Seat>),
    /// What became of a lane that the peer asked for.
    LaneSeated {
        /// The receiver's session.
        home: SessionKey,
        /// Which of its lanes.
        lane: u16,
        /// Its key and connection id at the sender, and the sender's port; `None` when it has no room.
        seat: Option<(SessionKey, u64, u16)>,
    },
    /// What the sender would send, and what it would ask others for, told to the owner of the node's rates.
    Demand {
        /// To send.
        up: Demand,
        /// To be asked for.
        down: Demand,
    },
    /// What the receiver may send and ask for.
    Tokens {
        /// To send.
        up: Tokens,
        /// To be asked for.
        down: Tokens,
    },
    /// What arrived of what the sender sent, told to the owner of the node's rates, which measures the line.
    Line(Round),
    /// What the line carries, bits per second, as the owner of the node's rates knows.
    LineRate(Option<u64>),
    /// A lane of the sender's has run out of what its peer may and is owed, which the receiver, the peer's home, has.
    Borrow {
        /// Whose.
        peer: PublicKey,
        /// What the sender knows the lane by.
        lane: u64,
        /// Of what.
        short: Short,
        /// Bytes that it has asked its peer for beyond what it might.
        down: u64,
    },
    /// Of what a lane asked for.
    Lent {
        /// What the receiver knows the lane by.
        lane: u64,
        /// To be sent.
        loan: Loan,
        /// To be asked for, bytes.
        down: u64,
    },
    /// In matters of circuits.
    Circuit(Box<CircuitCross>),
    /// In matters of the overlay.
    Overlay(Box<OverlayCross>),
    /// About ways to peers through others.
    Meet(Box<MeetCross>),
    /// About nodes that friends introduced.
    Introduce(Box<IntroduceCross>),
    /// About what peers, and this node, mean to do.
    Intent(Box<IntentCross>),
    /// A lane has ended.
    LaneOver {
        /// The receiver's session.
        home: SessionKey,
        /// Which of its lanes.
        lane: u16,
    },
    /// The session has ended: end its lane.
    LaneClose {
        /// The receiver's.
        session: SessionKey,
    },
}

impl Cross {
    /// Whether it carries datagrams, which anybody can cause to be passed on.
    pub fn is_datagrams(&self) -> bool {
        match self {
            Self::Datagram { .. } | Self::Send { .. } | Self::Packet { .. } => true,
            Self::Circuit(message) => message.is_packet(),
            Self::Overlay(message) => message.is_packet(),
            Self::Meet(message) => message.is_packet(),
            _ => false,
        }
    }

    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "offer",
            Self::Reply { .. } => "reply",
            Self::Datagram { .. } => "datagram",
            Self::Send { .. } => "send",
            Self::Packet { .. } => "packet",
            Self::Circuit(message) => message.name(),
            Self::Overlay(message) => message.name(),
            Self::Meet(message) => message.name(),
            Self::Introduce(message) => message.name(),
            Self::Intent(message) => message.name(),
            Self::LaneWanted { .. } => "lane wanted",
            Self::LaneAway { .. } => "lane away",
            Self::LaneSeat(_) => "lane",
            Self::LaneSeated { .. } => "lane seated",
            Self::Demand { .. } => "demand",
            Self::Tokens { .. } => "tokens",
            Self::Line(_) => "line",
            Self::LineRate(_) => "line rate",
            Self::Borrow { .. } => "borrow",
            Self::Lent { .. } => "lent",
            Self::LaneOver { .. } => "lane over",
            Self::LaneClose { .. } => "lane close",
        }
    }
}

impl std::fmt::Debug for Cross {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a first flight came from, and what that proves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) path: Path,
    /// To which shard's port.
    pub(super) from: u8,
    /// Whether it echoed a cookie.
    pub(super) proven: bool,
    /// Its key's first half, by which it is known again.
    pub(super) ephemeral: [u8; 16],
    /// Its length, bytes.
    pub(super) len: usize,
}

/// A first flight that the home of its sender answers.
pub struct Offer {
    pub(super) flight: Flight,
    pub(super) offered: Offered,
    pub(super) payload: Box<[u8]>,
}

/// Which shard is whose home. Keyed, so that nobody chooses a key for the shard that it loads.
pub struct Homes {
    secret: Secret,
    count: u8,
}

impl Homes {
    /// Of a node with so many shards.
    pub fn new(identity: &Identity, count: u8) -> Self {
        Self {
            secret: kdf::expand(identity.seed(), "tornet home shard", b""),
            count: count.clamp(1, SHARDS_MAX),
        }
    }

    /// The home of a peer.
    pub fn of(&self, peer: &PublicKey) -> u8 {
        if self.count == 1 {
            return 0;
        }
        let [first, second, ..] = hash::mac(&self.secret, &[&peer.0]);
        (u16::from_le_bytes([first, second]) % u16::from(self.count)) as u8
    }
}

/// One shard's knowledge of the others.
pub(super) struct Shards {
    pub(super) index: u8,
    pub(super) count: u8,
    check: MaskKey,
    homes: Homes,
    /// The others' ports as far as they were told; 0 is not known.
    ports: Vec<u16>,
}

/// Bits of a connection id that name the shard.
const SHARD_MASK: u32 = SHARDS_MAX as u32 - 1;

impl Shards {
    pub(super) fn new(index: u8, count: u8, identity: &Identity) -> Self {
        let count = count.clamp(1, SHARDS_MAX);
        assert!(index < count, "a shard has a number below their count");
        Self {
            index,
            count,
            check: MaskKey::derive(identity.seed(), "tornet connection id check"),
            homes: Homes::new(identity, count),
            ports: vec![0; usize::from(count)],
        }
    }

    /// The home of a peer.
    pub(super) fn home(&self, peer: &PublicKey) -> u8 {
        self.homes.of(peer)
    }

    /// A connection id of ours from 64 random bits: the shard, 26 random bits, and a check, without which three of
    /// four datagrams of strangers would be passed on between four shards.
    pub(super) fn cid(&self, random: u64) -> u64 {
        let low = (random as u32 & !SHARD_MASK) | u32::from(self.index);
        u64::from(low) | u64::from(self.check_of(low)) << 32
    }

    fn check_of(&self, low: u32) -> u32 {
        let mut sample = [0; 16];
        sample[..4].copy_from_slice(&low.to_le_bytes());
        let [a, b, c, d, ..] = self.check.mask(&sample);
        u32::from_le_bytes([a, b, c, d])
    }

    /// The other shard that made this connection id, if one did.
    pub(super) fn owner(&self, cid: u64) -> Option<u8> {
        let low = cid as u32;
        let shard = (low & SHARD_MASK) as u8;
        let other = self.count > 1 && shard < self.count && shard != self.index;
        (other && self.check_of(low) == (cid >> 32) as u32).then_some(shard)
    }

    /// Another shard's port, as it shows from what it passed on.
    pub(super) fn learn(&mut self, shard: u8, port: u16) {
        if let Some(known) = self.ports.get_mut(usize::from(shard)) {
            *known = port;
        }
    }

    /// The other shard from whose socket this path leaves.
    pub(super) fn via(&self, path: &Path, own_port: u16) -> Option<u8> {
        if self.count == 1 || is_own(path, own_port) {
            return None;
        }
        self.ports.iter().position(|known| *known == path.local.port()).map(|shard| shard as u8)
    }
}

/// Whether a path leaves from this shard's own socket; port 0 leaves that to the kernel.
pub(super) fn is_own(path: &Path, own_port: u16) -> bool {
    path.local.port() == 0 || path.local.port() == own_port
}

impl Sessions {
    /// The next message to another shard.
    pub fn poll_cross(&mut self) -> Option<(u8, Cross)> {
        self.crossings.pop_front()
    }

    /// Whether this shard is a peer's home.
    pub fn is_home(&self, peer: &PublicKey) -> bool {
        self.shards.home(peer) == self.shards.index
    }

    /// The port of this shard's socket; 0 when that is not known.
    pub fn own_port(&self) -> u16 {
        self.config.home_port
    }

    /// The home of a peer, when it is another shard.
    pub fn elsewhere(&self, peer: &PublicKey) -> Option<u8> {
        Some(self.shards.home(peer)).filter(|home| *home != self.shards.index)
    }

    /// The other shard from whose socket datagrams of this path leave, when it is not our own.
    pub fn via(&self, path: &Path) -> Option<u8> {
        self.shards.via(path, self.config.home_port)
    }

    /// Leaves a message for another shard, or obeys it at once when it is for this one.
    pub(super) fn cross(&mut self, now: Time, to: u8, cross: Cross) {
        if to == self.shards.index {
            self.obey(now, to, cross);
        } else if self.crossings.len() < CROSSINGS_MAX {
            self.crossings.push_back((to, cross));
        } else {
            self.counters.crossings_lost += 1;
        }
    }

    /// Takes a message of shard `from`. Returns the request that a first flight brought, with its session; see
    /// [`super::Received::Early`]. Messages that carry datagrams are for the caller, not for this.
    pub fn handle_cross(
        &mut self,
        now: Time,
        wall: UnixMs,
        from: u8,
        cross: Cross,
    ) -> Option<(SessionKey, Vec<u8>)> {
        match cross {
            Cross::Offer(offer) => {
                self.shards.learn(from, offer.flight.path.local.port());
                return self.on_offer(now, wall, *offer).unwrap_or_else(|cause| {
                    self.counters.drop(cause);
                    None
                });
            }
            Cross::Reply { path, datagram } if self.replies.len() < HANDSHAKE_QUEUE_MAX => {
                self.replies.push_back((path, datagram));
            }
            Cross::Reply { .. } => self.counters.full += 1,
            other => self.obey(now, from, other),
        }
        None
    }

    fn obey(&mut self, now: Time, from: u8, cross: Cross) {
        match cross {
            Cross::LaneWanted { peer, awaited, cid, port } => {
                self.lane_wanted(now, from, peer, Wanted { awaited, cid, port });
            }
            Cross::LaneAway { awaited } => self.lane_away(awaited),
            Cross::LaneSeat(seat) => self.lane_seat(now, *seat),
            Cross::LaneSeated { home, lane, seat } => self.lane_seated(now, from, home, lane, seat),
            Cross::LaneOver { home, lane } => self.lane_over(home, lane),
            Cross::LaneClose { session } => self.lane_close(now, session),
            // The caller's.
            Cross::Datagram { .. }
            | Cross::Send { .. }
            | Cross::Packet { .. }
            | Cross::Circuit(_)
            | Cross::Overlay(_)
            | Cross::Meet(_)
            | Cross::Introduce(_)
            | Cross::Intent(_)
            | Cross::Demand { .. }
            | Cross::Tokens { .. }
            | Cross::Line(_)
            | Cross::LineRate(_)
            | Cross::Borrow { .. }
            | Cross::Lent { .. } => {}
            Cross::Offer(_) | Cross::Reply { .. } => {}
        }
    }

    /// A datagram came to another shard's port: where that is.
    pub fn learn_port(&mut self, shard: u8, port: u16) {
        self.shards.learn(shard, port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use proptest::prelude::*;

    fn shards(index: u8, count: u8) -> Shards {
        Shards::new(index, count, &Identity::new(Secret::from_bytes([1; 32]), 0, 0))
    }

    proptest! {
        #[test]
        fn a_connection_id_names_its_shard_to_all_others_and_strangers_name_none(
            random: u64, stranger: u64, index in 0u8..7, other in 0u8..7,
        ) {
            let (ours, theirs) = (shards(index, 7), shards(other, 7));
            let cid = ours.cid(random);
            prop_assert_eq!(theirs.owner(cid), (index != other).then_some(index));
            prop_assert_eq!(theirs.owner(stranger), None);
            prop_assert_eq!(shards(0, 1).owner(cid), None);
        }
    }

    #[test]
    fn homes_are_spread_and_all_shards_agree() {
        let mut count = [0u32; 4];
        for n in 0..4000u32 {
            let mut key = PublicKey([0; 32]);
            key.0[..4].copy_from_slice(&n.to_le_bytes());
            let home = shards(0, 4).home(&key);
            assert_eq!(home, shards(3, 4).home(&key));
            count[usize::from(home)] += 1;
        }
        assert!(count.iter().all(|count| (850..1150).contains(count)), "{count:?}");
    }
}

//! Ways to peers through other peers, and off them: what a shard knows of it (docs/protocol/nat.md).
//!
//! A *way* is an address that stands for a peer of this shard, the relay, and a node behind it. Whatever leaves for such
//! an address is handed to the relay as datagrams of channel 6, and what the relay brings comes from it; sessions know no
//! more of it than of any other address. [`super::punch_meet`] finds ways, and has both ends try to get off them;
//! [`super::punch_relay`] is what this node does when it is the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::punch_relay::Pair;
use super::{Clock, MEET_CHANNEL, Node, Output, Train, World};
use crate::base::{Budget, NodeId, Path, PublicKey, Time, Way};
use crate::crypto::IdentityCard;
use crate::limits::{
    CARRIED_BURST, CARRIED_PER_SECOND, DATAGRAM_MIN, MEETING_BURST, MEETING_PER_SECOND, WAY_IDLE_MS,
    WAYS_MAX, WAYS_PER_RELAY_MAX,
};
use crate::service::PeerId;
use crate::session::{Cross, MeetCross};
use crate::wire::overlay::Endpoint;
use crate::wire::punch::{Carry, Message, Part};

/// A shard's part.
#[derive(Default)]
pub(super) struct Punch {
    /// At most [`WAYS_MAX`].
    ways: BTreeMap<u32, Known>,
    ends: BTreeMap<(PeerId, NodeId), u32>,
    next_way: u32,
    /// The last datagram that was sent in halves.
    halved: u16,
    /// Ways that sessions may still be on, and that lead nowhere any more.
    pub(super) dead: BTreeSet<SocketAddr>,
    /// Nodes to which a way is wanted, whose home this is; at most [`crate::limits::WANTED_WAYS_MAX`].
    pub(super) wanted: BTreeMap<PublicKey, Wanted>,
    /// Peers that were asked for a way; at most [`crate::limits::WAY_QUESTIONS_MAX`].
    pub(super) questions: BTreeMap<u32, Question>,
    /// What peers are to be asked for as soon as there is a session; as many.
    pub(super) asks: BTreeMap<(PublicKey, PublicKey), (IdentityCard, Time)>,
    /// Peers on relayed paths, and when the next round begins with each.
    pub(super) meetings: BTreeMap<PeerId, Meeting>,
    /// For whom this node carries: from whom, to whom; at most [`crate::limits::PAIRS_MAX`].
    pub(super) pairs: BTreeMap<(PublicKey, NodeId), Pair>,
    /// What all strangers together may have carried.
    pub(super) strangers: Budget,
    /// Where this host has addresses, as the operator or the host says.
    pub(super) own: Vec<SocketAddr>,
    /// Where a translator was asked to let packets through.
    pub(super) mapped: Vec<SocketAddr>,
    /// Where peers see this shard's socket.
    pub(super) seen: BTreeMap<Teller, (SocketAddr, Time)>,
    /// When those that hold sessions are told that this node is there.
    pub(super) hold_at: Option<Time>,
    /// How often what is new of where this shard is seen is told to those that it meets.
    pub(super) telling: Budget,
    /// Rounds that strangers may have it begin.
    pub(super) strangers_rounds: Budget,
    pub(super) counters: Counters,
}

/// Who says where this shard's socket is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Teller {
    Peer(PublicKey),
    /// Of STUN.
    Server(SocketAddr),
}

/// A way of this shard.
struct Known {
    relay: PeerId,
    node: NodeId,
    /// Of the relay's network, some bits: what is bounded by prefix is bounded for each network with relays.
    network: u8,
    used: Time,
    /// The half of a datagram whose other half did not come yet.
    half: Option<(u16, Part, Vec<u8>)>,
}

/// A node to which a way is wanted.
pub(super) struct Wanted {
    pub(super) card: IdentityCard,
    pub(super) next_at: Time,
    pub(super) tries: u32,
}

/// A peer was asked for a way.
pub(super) struct Question {
    pub(super) relay: PeerId,
    pub(super) target: IdentityCard,
    pub(super) at: Time,
}

/// A session on a relayed path.
pub(super) struct Meeting {
    pub(super) next_at: Time,
    pub(super) rounds: usize,
    pub(super) since: Time,
    /// Whether the peer is of this node's own network, as far as both addresses say.
    pub(super) is_near: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    /// Peers asked for a way, and how often one said yes.
    pub(super) asked: u64,
    pub(super) found: u64,
    /// Rounds that began.
    pub(super) rounds: u64,
    /// Datagrams of this node's that went by a relay, and came by one.
    pub(super) relayed_out: u64,
    pub(super) relayed_in: u64,
    /// Of those, the ones that found no room or no way.
    pub(super) relayed_lost: u64,
    /// What was carried for others: datagrams, bytes, and datagrams that were too many.
    pub(super) carried: u64,
    pub(super) carried_bytes: u64,
    pub(super) carried_lost: u64,
    /// Messages of peers that say too much.
    pub(super) flooded: u64,
}

impl Punch {
    /// The number of the way to a node by a relay. `None` for want of room.
    fn number(&mut self, now: Time, (relay, network): (PeerId, u8), node: NodeId) -> Option<u32> {
        if let Some(number) = self.ends.get(&(relay, node)) {
            return Some(*number);
        }
        let of_relay = self.ends.range((relay, NodeId([0; 20]))..=(relay, NodeId([0xff; 20])));
        let crowded = of_relay.clone().count() >= WAYS_PER_RELAY_MAX;
        if crowded || self.ways.len() >= WAYS_MAX {
            // Of a crowded relay its own make room, and otherwise anybody's.
            let own: Vec<u32> = of_relay.map(|(_, number)| *number).collect();
            let numbers = if crowded { own } else { self.ways.keys().copied().collect() };
            let oldest = numbers.into_iter().min_by_key(|number| self.ways[number].used)?;
            if now.since(self.ways[&oldest].used) < Duration::from_millis(WAY_IDLE_MS) {
                return None;
            }
            self.forget(oldest);
        }
        let number = self.next_way;
        self.next_way = self.next_way.wrapping_add(1);
        self.ways.insert(number, Known { relay, node, network, used: now, half: None });
        self.ends.insert((relay, node), number);
        Some(number)
    }

    fn way(&self, shard: u8, number: u32) -> Option<Way> {
        let known = self.ways.get(&number)?;
        Some(Way { relay: known.network, shard, number })
    }

    fn forget(&mut self, number: u32) {
        if let Some(way) = self.ways.remove(&number) {
            self.ends.remove(&(way.relay, way.node));
        }
    }

    /// Takes a part of a datagram that came by a way; the datagram, when it is whole.
    fn join(&mut self, number: u32, carry: &Carry<'_>) -> Option<Vec<u8>> {
        let way = self.ways.get_mut(&number)?;
        if carry.part == Part::Whole {
            return Some(carry.bytes.to_vec());
        }
        match way.half.take() {
            Some((id, part, half)) if id == carry.id && part != carry.part => {
                let halves =
                    if part == Part::First { [&half[..], carry.bytes] } else { [carry.bytes, &half[..]] };
                Some(halves.concat())
            }
            _ => {
                way.half = Some((carry.id, carry.part, carry.bytes.to_vec()));
                None
            }
        }
    }

    /// How many ways are known.
    pub(super) fn len(&self) -> usize {
        self.ways.len()
    }

    /// Which of a node's peers a way leads through.
    pub(super) fn relay_of(&self, way: Way) -> Option<PeerId> {
        self.ways.get(&way.number).map(|known| known.relay)
    }

    /// The ways that lead through a peer.
    pub(super) fn ways_by(&self, shard: u8, relay: PeerId) -> Vec<SocketAddr> {
        let of = self.ways.iter().filter(|(_, way)| way.relay == relay);
        of.filter_map(|(number, _)| self.way(shard, *number)).map(Way::address).collect()
    }

    /// Forgets the ways that lead through a peer, or that by it to one node. Their addresses.
    pub(super) fn lose(&mut self, shard: u8, relay: PeerId, node: Option<NodeId>) -> Vec<SocketAddr> {
        let of = |(_, way): &(&u32, &Known)| way.relay == relay && node.is_none_or(|node| node == way.node);
        let lost: Vec<u32> = self.ways.iter().filter(of).map(|(number, _)| *number).collect();
        let addresses = lost.iter().filter_map(|number| self.way(shard, *number)).map(Way::address).collect();
        lost.into_iter().for_each(|number| self.forget(number));
        addresses
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let wanted = self.wanted.values().map(|wanted| wanted.next_at);
        let meetings = self.meetings.values().map(|meeting| meeting.next_at);
        wanted.chain(meetings).chain(self.hold_at).min()
    }
}

impl Node {
    fn own_shard(&self) -> u8 {
        self.overlay.shard.0
    }

    /// Some bits of a peer's network: an IPv4 /16 or IPv6 /32.
    fn network_bits(&self, id: PeerId) -> u8 {
        let path = self.peers.get(&id).and_then(|peer| self.sessions.path(peer.session));
        match path.map(|path| path.remote.ip().to_canonical()) {
            Some(IpAddr::V4(ip)) => ip.octets()[..2].iter().fold(0, |all, byte| all ^ byte),
            Some(IpAddr::V6(ip)) => ip.octets()[..4].iter().fold(0, |all, byte| all ^ byte),
            None => 0,
        }
    }

    /// A path to a node by a peer, if there is room for one.
    pub(super) fn way_by(&mut self, now: Time, relay: PeerId, node: NodeId) -> Option<Path> {
        let number = self.punch.number(now, (relay, self.network_bits(relay)), node)?;
        self.punch.way(self.own_shard(), number).map(Way::path)
    }

    /// Says something on channel 6.
    pub(super) fn say_meet(&mut self, now: Time, id: PeerId, message: &Message<'_>) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let said = peer.connection.datagram(MEET_CHANNEL, &message.emit()).is_ok();
        self.queue(now, id);
        said
    }

    /// Asks a peer to keep its session with this node, and where it sees it.
    pub(super) fn say_hold(&mut self, now: Time, id: PeerId) {
        let number = self.rng.next_u64() as u32;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.hold_asked = Some(number);
            self.say_meet(now, id, &Message::Hold { number });
        }
    }

    /// Hands a datagram, or a half of one, to a peer: to be carried, or as what was; in halves where it does not fit and
    /// every path carries such a one. Whether there was room.
    pub(super) fn say_carry(&mut self, now: Time, id: PeerId, carry: Carry<'_>, is_brought: bool) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let room = peer.connection.datagram_max().saturating_sub(Carry::OVERHEAD);
        let len = carry.bytes.len();
        if len <= room {
            let message = if is_brought { Message::Bring(carry) } else { Message::Carry(carry) };
            return self.say_meet(now, id, &message);
        }
        if carry.part != Part::Whole || len > DATAGRAM_MIN {
            return false;
        }
        self.punch.halved = self.punch.halved.wrapping_add(1).max(1);
        let (id_of, (first, second)) = (self.punch.halved, carry.bytes.split_at(len.div_ceil(2)));
        let half = |part, bytes| Carry { part, id: id_of, bytes, ..carry };
        self.say_carry(now, id, half(Part::First, first), is_brought)
            && self.say_carry(now, id, half(Part::Second, second), is_brought)
    }

    /// Datagrams that are to leave by a way go to its relay; those of another shard's to that shard.
    pub(super) fn send_by_way(
        &mut self,
        clock: Clock,
        train: Train,
        to: Way,
        world: &mut impl World,
    ) -> Option<Output> {
        let bytes: Box<[u8]> = Box::from(world.bytes(train.place));
        world.free(train.place.buf);
        if to.shard != self.own_shard() {
            let Train { path, segment, ecn, .. } = train;
            if to.shard >= self.overlay.shard.1 {
                return None;
            }
            self.counters.crossings_out += 1;
            return Some(Output::Cross(to.shard, Cross::Send { path, segment, ecn, bytes }));
        }
        let known = self.punch.ways.get_mut(&to.number).map(|known| {
            known.used = clock.now;
            (known.relay, known.node)
        });
        for datagram in bytes.chunks(train.segment.max(1) as usize) {
            let carry = |node| Carry { part: Part::Whole, id: 0, node, bytes: datagram };
            let sent =
                known.is_some_and(|(relay, node)| self.say_carry(clock.now, relay, carry(node), false));
            self.punch.counters.relayed_out += 1;
            self.punch.counters.relayed_lost += u64::from(!sent);
        }
        None
    }

    /// A message of channel 6 came.
    pub(super) fn meet_datagram(&mut self, clock: Clock, id: PeerId, bytes: &[u8], world: &mut impl World) {
        let now = clock.now;
        let message = Message::parse(bytes);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let fits = match &message {
            Ok(Message::Carry(_) | Message::Bring(_)) => {
                peer.carried_budget.take(1, CARRIED_PER_SECOND, CARRIED_BURST, now)
            }
            _ => peer.meeting_budget.take(1, MEETING_PER_SECOND, MEETING_BURST, now),
        };
        if !fits {
            self.punch.counters.flooded += 1;
            return;
        }
        let (session, key, is_session) = (peer.session, peer.card.key, peer.lane == 0);
        let message = match message {
            Ok(message) => message,
            Err(why) => return self.malformed(now, session, why),
        };
        let is_on_way = self.sessions.is_on_way(session);
        if let Message::Meet { ask, candidates } = message {
            return self.hear_meet(clock, id, ask, &candidates);
        }
        // Whoever is reached through a relay is none. Where a bridge brings it from, nobody is.
        let seen = self.sessions.path(session).filter(|_| !is_on_way && is_session);
        let bridged = seen.filter(|path| path.is_bridged()).map(|_| Endpoint::NOWHERE);
        let Some(seen) = bridged.or(seen.and_then(|path| Endpoint::new(path.remote))) else { return };
        match message {
            // Of whom nobody is to hear is nobody's relay.
            Message::Call { .. } | Message::Carry(_) if self.overlay.hidden => {}
            Message::Call { number, key } => self.hear_call(clock, id, number, key, seen),
            Message::Answer { number, verdict, seen } => self.hear_way(clock, id, number, verdict, seen),
            Message::Gone(node) => self.ways_lost(clock, id, Some(node)),
            Message::Hold { number } => {
                if self.overlay.is_on() {
                    self.overlay.links.heard(now, id, key);
                }
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.held_at = Some(now);
                }
                self.say_meet(now, id, &Message::Here { number, seen });
            }
            // What nobody asked for says nothing.
            Message::Here { number, seen } => {
                let asked =
                    self.peers.get_mut(&id).and_then(|peer| peer.hold_asked.take_if(|own| *own == number));
                if asked.is_some() {
                    self.note_seen(clock, id, seen);
                }
            }
            Message::Carry(carry) => self.hear_carry(clock, id, carry),
            Message::Bring(carry) => self.carried_here(clock, id, carry, world),
            Message::Meet { .. } => {}
        }
    }

    /// Something came for this node by a relay.
    fn carried_here(&mut self, clock: Clock, relay: PeerId, carry: Carry<'_>, world: &mut impl World) {
        let is_new = !self.punch.ends.contains_key(&(relay, carry.node));
        let network = self.network_bits(relay);
        let Some(number) = self.punch.number(clock.now, (relay, network), carry.node) else {
            self.punch.counters.relayed_lost += 1;
            return;
        };
        if is_new {
            // By what address this node may be met is soon worth knowing.
            self.say_hold(clock.now, relay);
        }
        let Some(mut bytes) = self.punch.join(number, &carry) else { return };
        self.punch.counters.relayed_in += 1;
        let Some(path) = self.punch.way(self.own_shard(), number).map(Way::path) else { return };
        // It counts as used when something leaves by it: what nobody answers to keeps no way.
        self.handle_relayed(clock, path, &mut bytes, world);
    }

    /// A relay, or one node behind it, is gone.
    pub(super) fn ways_lost(&mut self, clock: Clock, relay: PeerId, node: Option<NodeId>) {
        let lost = self.punch.lose(self.own_shard(), relay, node);
        if !lost.is_empty() {
            self.tell_shards(clock, || MeetCross::Lost(lost.clone()));
        }
    }

    /// Says something to all shards, this one too.
    pub(super) fn tell_shards(&mut self, clock: Clock, message: impl Fn() -> MeetCross) {
        for shard in 0..self.overlay.shard.1.max(1) {
            self.meet_cross(clock, shard, message());
        }
    }

    /// Says something to a shard, which may be this one.
    pub(super) fn meet_cross(&mut self, clock: Clock, shard: u8, message: MeetCross) {
        if shard == self.own_shard() {
            self.handle_meet_cross(clock, message);
        } else {
            self.pass(shard, Cross::Meet(Box::new(message)));
        }
    }

    /// The home of a peer.
    pub(super) fn home_of(&self, peer: &PublicKey) -> u8 {
        self.sessions.elsewhere(peer).unwrap_or(self.own_shard())
    }

    /// Obeys a shard.
    pub(super) fn handle_meet_cross(&mut self, clock: Clock, message: MeetCross) {
        match message {
            MeetCross::Wanted { card, strangers } => self.look_for_way(clock, &card, strangers),
            MeetCross::Ask { relay, target } => self.ask_by_contact(clock, &relay, &target),
            MeetCross::Hold(holder) => self.hold_with(clock, &holder),
            MeetCross::Way { peer, way } => self.take_way(&peer, way),
            MeetCross::Lost(ways) => self.leave_ways(clock, &ways),
            MeetCross::Call { asker, is_friend, number, target } => {
                self.judge_call(clock, &asker, is_friend, number, &target);
            }
            MeetCross::Answer { asker, number, verdict, target } => {
                self.answer_call(clock, &asker, number, verdict, target);
            }
            MeetCross::Carry { to, node, from, part, id, bytes } => {
                let carry = Carry { part, id, node: from.node_id(), bytes: &bytes };
                self.deliver(clock, (&to, node), &from, carry);
            }
            MeetCross::Gone { peer, node } => self.tell_carry_gone(clock, &peer, node),
        }
    }
}

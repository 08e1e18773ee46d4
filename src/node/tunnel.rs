//! Tunnels: packets of the TUN device become trains of sealed datagrams, and what such datagrams bring becomes packets
//! for the device (docs/protocol/tunnel.md). What is routed where, cut and joined is [`crate::tunnel`]'s.
//!
//! Nothing of it is acknowledged or sent again: what finds no room is dropped and counted, as in any router, and the
//! applications' own transport deals with that.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::command::{TunnelPeer, TunnelSnapshot};
use super::trains::OpenTrain;
use super::waiting::{Datagram, must_wait, wait};
use super::{Clock, Cross, Node, Train, World};
use crate::base::{Memory, Offload, Path, Place, PublicKey, Segmentation, Time, TunPacket};
use crate::limits::{
    DATAGRAM_MAX, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE, TUNNEL_TRAINS_MAX, TUNNEL_WAIT_MS_MAX,
    TUNNEL_WAITING_MAX, TUNNEL_WAITING_SIZE_MAX, TUNNELS_MAX,
};
use crate::service::PeerId;
use crate::session::{PacketKind, SessionKey};
use crate::tunnel::quoted::{is_proxys, ports};
use crate::tunnel::{Coalescer, Cut, Routes};
use crate::wire::ip::{self, Ip};

/// Answers to packets that are too long, which wait to be written to the device, at most.
const ANSWERS_MAX: usize = 8;
/// "Congestion experienced" on the outer packet.
pub(super) const MARKED: u8 = 3;

/// The tunnels of a node, as one shard knows them.
#[derive(Default)]
pub(super) struct Tunnels {
    pub(super) routes: Routes,
    /// By number, as [`Routes`] names them.
    list: Vec<Tunnel>,
    by_key: BTreeMap<PublicKey, u32>,
    /// Trains that take further packets, at most one for each session and ECN code point.
    open: Vec<OpenTrain>,
    pub(super) trains: VecDeque<(SessionKey, Train)>,
    answers: VecDeque<TunPacket>,
    pub(super) coalescer: Coalescer,
    /// The same of packets for the SOCKS proxy.
    pub(super) proxied: Coalescer,
    /// Packets that the train at hand brought.
    arrived: Vec<Arrived>,
    /// Friends with a session, for whom packets may have waited.
    revived: Vec<PublicKey>,
    pub(super) counters: Counters,
}

/// One friend's.
struct Tunnel {
    peer: PublicKey,
    waiting: VecDeque<Waiting>,
    traffic: Traffic,
}

/// A packet for a friend who is being called.
struct Waiting {
    since: Time,
    bytes: Box<[u8]>,
    offload: Offload,
}

/// Packets and bytes of IP.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    sent_packets: u64,
    sent_bytes: u64,
    received_packets: u64,
    received_bytes: u64,
}

/// An opened packet in the train at hand.
pub(super) struct Arrived {
    pub peer: PeerId,
    /// Where it lies in the train.
    pub range: Range<usize>,
    /// Whether its checksum is left to us.
    pub is_open: bool,
    pub ecn: u8,
}

/// What happened to packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    /// Read from the device, superpackets counted once.
    pub reads: u64,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub writes: u64,
    pub waited: u64,
    /// Dropped, by reason.
    pub no_tunnel: u64,
    pub malformed: u64,
    pub unfit: u64,
    pub away: u64,
    pub too_big: u64,
    pub no_budget: u64,
    pub no_buffer: u64,
    pub not_allowed: u64,
    pub unmarkable: u64,
}

impl Node {
    /// Replaces the set of tunnels. What waits, and what was counted, stays with those that stay.
    pub(super) fn set_tunnels(&mut self, tunnels: Vec<TunnelPeer>) {
        let own = &mut self.tunnels;
        let mut before: BTreeMap<PublicKey, Tunnel> =
            own.list.drain(..).map(|tunnel| (tunnel.peer, tunnel)).collect();
        (own.routes, own.by_key) = (Routes::default(), BTreeMap::new());
        for TunnelPeer { peer, allowed } in tunnels.into_iter().take(TUNNELS_MAX) {
            let number = own.list.len() as u32;
            for prefix in allowed {
                // Checked where the operator wrote it; here the first one keeps it.
                let _ = own.routes.insert(prefix, number);
            }
            let fresh = || Tunnel { peer, waiting: VecDeque::new(), traffic: Traffic::default() };
            own.list.push(before.remove(&peer).unwrap_or_else(fresh));
            own.by_key.insert(peer, number);
        }
    }

    /// A packet of the device: to whom, and on its way.
    pub(super) fn handle_tun(&mut self, clock: Clock, packet: TunPacket, world: &mut impl World) {
        let own = &mut self.tunnels;
        own.counters.reads += 1;
        let bytes = world.bytes(packet.place);
        let Ok(header) = Ip::parse(bytes) else {
            own.counters.malformed += 1;
            return;
        };
        if self.circuits.is_guest(header.destination) {
            return self.return_packet(clock, packet, &header, false, world);
        }
        let Some(number) = own.routes.owner(header.destination) else {
            if self.circuits.takes(header.destination) {
                // What comes back for such a port would be handed to the proxy.
                let from = ports(bytes, &header).map(|(from, _)| from);
                if self.circuits.proxied && from.is_some_and(is_proxys) {
                    own.counters.not_allowed += 1;
                    return;
                }
                return self.circuit_packet(clock, packet, &header, world);
            }
            own.counters.no_tunnel += 1;
            return;
        };
        let peer = own.list[number as usize].peer;
        match self.sessions.elsewhere(&peer) {
            None => self.send_packet(clock, number, packet, &header, world),
            Some(home) => {
                let bytes = Box::from(bytes);
                self.pass(home, Cross::Packet { peer, offload: packet.offload, bytes });
            }
        }
    }

    /// A packet that another shard read, for a friend whose home this is.
    pub(super) fn handle_crossed_packet(
        &mut self,
        clock: Clock,
        peer: &PublicKey,
        offload: Offload,
        bytes: &[u8],
        world: &mut impl World,
    ) {
        let Some(number) = self.tunnels.by_key.get(peer).copied() else {
            self.tunnels.counters.no_tunnel += 1;
            return;
        };
        self.send_copy(clock, number, offload, bytes, world);
    }

    /// Sends bytes that lie in no buffer.
    fn send_copy(
        &mut self,
        clock: Clock,
        number: u32,
        offload: Offload,
        bytes: &[u8],
        world: &mut impl World,
    ) {
        self.with_copy(bytes, offload, world, |node, packet, header, world| {
            node.send_packet(clock, number, packet, header, world);
        });
    }

    fn send_packet(
        &mut self,
        clock: Clock,
        number: u32,
        packet: TunPacket,
        header: &Ip,
        world: &mut impl World,
    ) {
        let own = &mut self.tunnels;
        let tunnel = &mut own.list[number as usize];
        let bytes = world.bytes(packet.place);
        let Some(peer) = self.friends.here(&tunnel.peer).and_then(|id| self.peers.get_mut(&id)) else {
            self.friends.hurry_one(clock.now, &tunnel.peer);
            own.counters.away += tunnel.forget_old(clock.now);
            if tunnel.wait(clock.now, bytes, packet.offload) {
                own.counters.waited += 1;
            } else {
                own.counters.away += 1;
            }
            return;
        };
        let Ok(cut) = Cut::new(bytes, header, &packet.offload) else {
            own.counters.unfit += 1;
            return;
        };
        let connection = &peer.connection;
        let datagram = if connection.is_mtu_settled() { connection.packet_size() } else { DATAGRAM_MAX };
        let mtu = datagram - PACKET_OVERHEAD;
        if cut.size_max() > mtu {
            own.counters.too_big += 1;
            return own.answer_too_big(packet.place, header, mtu as u32, world);
        }
        let session = peer.session;
        let Some(path) = self.sessions.path(session) else { return };
        let kind = if cut.is_open() { PacketKind::Unsummed } else { PacketKind::Datagram };
        let waits = must_wait(&self.shaping, &self.waiting, peer.slot)
            .then(|| self.waiting.flow_of_packet(world.bytes(packet.place), header));
        for index in 0..cut.count() {
            let (size, left) = (cut.size(index) + PACKET_OVERHEAD, (cut.count() - index) as u64);
            if self.sessions.budget(session) < size as u64 {
                own.counters.no_budget += left;
                return;
            }
            if let Some(flow) = waits {
                let mut payload = vec![0; size - PACKET_OVERHEAD].into_boxed_slice();
                cut.write(world.bytes(packet.place), index, &mut payload);
                let datagram = Datagram { kind, payload, ecn: header.ecn, came: clock.now };
                wait(&mut self.shaping, &mut self.waiting, peer.slot, flow, datagram, path.header());
            } else {
                let Some(place) = own.place_for(session, path, header.ecn, size, world) else {
                    own.counters.no_buffer += left;
                    return;
                };
                let (from, sealed) = world.pair(packet.place, place);
                cut.write(from, index, &mut sealed[HEADER_SIZE + 1..size - TAG_SIZE]);
                if self.sessions.seal(clock.now, session, kind, sealed).is_err() {
                    return;
                }
                own.placed(session, header.ecn, size);
            }
            peer.sent_bytes += size as u64;
            own.count_sent(number, (size - PACKET_OVERHEAD) as u64);
        }
    }

    /// Sends what waited for friends who have a session now.
    pub(super) fn send_waiting(&mut self, clock: Clock, world: &mut impl World) {
        while let Some(peer) = self.tunnels.revived.pop() {
            let Some(number) = self.tunnels.by_key.get(&peer).copied() else { continue };
            for waiting in std::mem::take(&mut self.tunnels.list[number as usize].waiting) {
                if waiting.is_old(clock.now) {
                    self.tunnels.counters.away += 1;
                } else {
                    self.send_copy(clock, number, waiting.offload, &waiting.bytes, world);
                }
            }
        }
    }

    /// Looks at the packets that a train brought, whose bytes lie at `place`.
    pub(super) fn take_arrived(&mut self, place: Place, world: &mut impl World) {
        let mut arrived = std::mem::take(&mut self.tunnels.arrived);
        for packet in arrived.drain(..) {
            let Some(peer) = self.peers.get(&packet.peer) else { continue };
            self.tunnels.receive(&peer.card.key, place, &packet, world);
        }
        self.tunnels.arrived = arrived;
    }

    /// The same of a datagram that lies in no buffer, as another shard passed it on.
    pub(super) fn take_crossed(&mut self, bytes: &[u8], world: &mut impl World) {
        let Some(buf) = world.alloc() else {
            self.tunnels.counters.no_buffer += self.tunnels.arrived.drain(..).count() as u64;
            return;
        };
        let place = Place { len: bytes.len() as u32, ..Place::room(buf) };
        world.bytes_mut(place).copy_from_slice(bytes);
        self.take_arrived(place, world);
        world.free(buf);
    }
}

impl Tunnels {
    /// A packet of the train at hand is one of a tunnel.
    pub(super) fn note(&mut self, arrived: Arrived) {
        self.arrived.push(arrived);
    }

    /// Whether packets came that were not looked at.
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn count_sent(&mut self, number: u32, bytes: u64) {
        let of = &mut self.list[number as usize].traffic;
        (of.sent_packets, of.sent_bytes) = (of.sent_packets + 1, of.sent_bytes + bytes);
        let all = &mut self.counters;
        (all.sent_packets, all.sent_bytes) = (all.sent_packets + 1, all.sent_bytes + bytes);
    }

    /// A friend has a session.
    pub(super) fn revive(&mut self, peer: &PublicKey) {
        let number = self.by_key.get(peer);
        if number.is_some_and(|number| !self.list[*number as usize].waiting.is_empty()) {
            self.revived.push(*peer);
        }
    }

    /// Cryptokey routing's other half: a packet is believed from the friend whose address it names, and from no other.
    fn receive(&mut self, from: &PublicKey, train: Place, packet: &Arrived, world: &mut impl Memory) {
        let counters = &mut self.counters;
        let (start, len) = (packet.range.start as u32, packet.range.len() as u32);
        let Some(number) = self.by_key.get(from) else {
            counters.no_tunnel += 1;
            return;
        };
        let place = train.part(start, len).expect("inside its train");
        let Ok(header) = Ip::parse(world.bytes(place)) else {
            counters.malformed += 1;
            return;
        };
        if self.routes.owner(header.source) != Some(*number) {
            counters.not_allowed += 1;
            return;
        }
        // RFC 6040 §4.2.
        if packet.ecn == MARKED
            && header.ecn != MARKED
            && !ip::mark_congestion(world.bytes_mut(place), &header)
        {
            counters.unmarkable += 1;
            return;
        }
        if !self.coalescer.push(place, &header, packet.is_open, world) {
            counters.malformed += 1;
            return;
        }
        let traffic = &mut self.list[*number as usize].traffic;
        traffic.received_packets += 1;
        traffic.received_bytes += u64::from(len);
        counters.received_packets += 1;
        counters.received_bytes += u64::from(len);
    }

    /// Room for a packet of `size` in the train of a session; the packet counts once [`Self::placed`] says so.
    pub(super) fn place_for(
        &mut self,
        session: SessionKey,
        path: Path,
        ecn: u8,
        size: usize,
        world: &mut impl Memory,
    ) -> Option<Place> {
        let at = self.train_for(session, path, ecn, size, world)?;
        let train = &self.open[at];
        let offset = Place::room(train.buf).offset + train.len as u32;
        Some(Place { buf: train.buf, offset, len: size as u32 })
    }

    /// The packet that [`Self::place_for`] made room for lies there, sealed.
    pub(super) fn placed(&mut self, session: SessionKey, ecn: u8, size: usize) {
        let of = |train: &&mut OpenTrain| (train.session, train.ecn) == (session, ecn);
        let train = self.open.iter_mut().find(of).expect("room was made in it");
        train.len += size;
        train.count += 1;
    }

    /// A train with room for a packet of `size`, which may be its last.
    fn train_for(
        &mut self,
        session: SessionKey,
        path: Path,
        ecn: u8,
        size: usize,
        world: &mut impl Memory,
    ) -> Option<usize> {
        let of = |train: &OpenTrain| (train.session, train.ecn) == (session, ecn);
        if let Some(at) = self.open.iter().position(of) {
            if self.open[at].takes(size) {
                return Some(at);
            }
            let full = self.open.swap_remove(at);
            self.trains.push_back((session, full.closed()));
        }
        if self.trains.len() >= TUNNEL_TRAINS_MAX {
            return None;
        }
        let buf = world.alloc()?;
        self.open.push(OpenTrain { session, path, ecn, buf, len: 0, segment: size, count: 0 });
        Some(self.open.len() - 1)
    }

    /// The next train, once everything that the device had was handed in.
    pub(super) fn poll_train(&mut self, world: &mut impl Memory) -> Option<(SessionKey, Train)> {
        if self.trains.is_empty() {
            for train in self.open.drain(..) {
                if train.len == 0 {
                    world.free(train.buf);
                } else {
                    self.trains.push_back((train.session, train.closed()));
                }
            }
        }
        self.trains.pop_front()
    }

    /// The next packet for the device, once everything that the sockets had was handed in.
    pub(super) fn poll_packet(&mut self, world: &mut impl Memory) -> Option<TunPacket> {
        let packet = self.answers.pop_front().or_else(|| self.coalescer.poll(world))?;
        self.counters.writes += 1;
        Some(packet)
    }

    pub(super) fn answer_too_big(&mut self, place: Place, header: &Ip, mtu: u32, world: &mut impl Memory) {
        if self.answers.len() >= ANSWERS_MAX {
            return;
        }
        let Some(buf) = world.alloc() else { return };
        let (packet, out) = world.pair(place, Place::room(buf));
        match ip::too_big(packet, header, mtu, out) {
            Some(len) => {
                let place = Place { len: len as u32, ..Place::room(buf) };
                self.answers.push_back(TunPacket { place, offload: Offload::default() });
            }
            None => world.free(buf),
        }
    }

    /// What was counted: of the joining too.
    pub(super) fn joined(&self) -> crate::tunnel::coalesce::Counters {
        self.coalescer.counters
    }

    /// Of each tunnel.
    pub(super) fn snapshot(&self) -> Vec<TunnelSnapshot> {
        let one = |tunnel: &Tunnel| TunnelSnapshot {
            peer: tunnel.peer,
            sent_packets: tunnel.traffic.sent_packets,
            sent_bytes: tunnel.traffic.sent_bytes,
            received_packets: tunnel.traffic.received_packets,
            received_bytes: tunnel.traffic.received_bytes,
        };
        self.list.iter().map(one).collect()
    }
}

impl Tunnel {
    /// Drops what has waited for too long; how many.
    fn forget_old(&mut self, now: Time) -> u64 {
        let old = self.waiting.iter().take_while(|waiting| waiting.is_old(now)).count();
        self.waiting.drain(..old);
        old as u64
    }

    /// Keeps a packet until there is a session; false when it is not kept.
    fn wait(&mut self, now: Time, bytes: &[u8], offload: Offload) -> bool {
        if bytes.len() > TUNNEL_WAITING_SIZE_MAX || offload.kind != Segmentation::None {
            return false;
        }
        let room = self.waiting.len() < TUNNEL_WAITING_MAX;
        if room {
            self.waiting.push_back(Waiting { since: now, bytes: Box::from(bytes), offload });
        }
        room
    }
}

impl Waiting {
    fn is_old(&self, now: Time) -> bool {
        now.since(self.since) > Duration::from_millis(TUNNEL_WAIT_MS_MAX)
    }
}

//! IP packets in circuits (docs/protocol/onion.md §8): those of the device become cells, cut where the kernel would have
//! cut them, each written into the train of the first neighbour and sealed there, and what comes goes to the device.

use super::circuits::{Circuits, FIRST};
use super::purposes::{Purpose, PurposeId};
use super::spreading::End;
use super::tunnel::Tunnels;
use super::waiting::{Datagram, must_wait, wait};
use super::{Clock, Node, World};
use crate::base::{Memory, Offload, Place, TunPacket};
use crate::limits::{CELL_INNER_LARGE, HEADER_SIZE, PACKET_OVERHEAD, SEQUENCE_SIZE, TAG_SIZE};
use crate::onion::exit::CLIENT;
use crate::onion::{CircuitKey, Onion};
use crate::service::PeerId;
use crate::session::{CircuitCross, PacketKind};
use crate::tunnel::Cut;
use crate::tunnel::quoted::{is_for_proxy, is_proxys, ports};
use crate::tunnel::readdress::{Side, complete, readdress};
use crate::wire::cell::{CONTENT_AT, Class, Inner};
use crate::wire::ip::Ip;
use std::net::IpAddr;
use std::ops::Range;

/// A packet on its way into circuits.
pub(super) struct Outgoing<'a> {
    pub place: Place,
    pub header: &'a Ip,
    pub cut: Cut,
    /// Its destination, where that is to be another.
    pub to: Option<IpAddr>,
}

impl Circuits {
    /// Whether packets for an address go through our circuit.
    pub(super) fn takes(&self, address: IpAddr) -> bool {
        self.routes.iter().any(|route| route.contains(address))
    }
}

impl Tunnels {
    /// Whether an address is a friend's in a tunnel.
    pub(super) fn is_friends(&self, address: IpAddr) -> bool {
        self.routes.owner(address).is_some()
    }

    /// A whole packet for the device that came through a circuit.
    pub(super) fn deliver(&mut self, place: Place, header: &Ip, world: &mut impl Memory) {
        if !self.coalescer.push(place, header, false, world) {
            self.counters.malformed += 1;
        }
    }
}

impl Tunnels {
    /// The same for the SOCKS proxy.
    fn deliver_proxied(&mut self, place: Place, header: &Ip, world: &mut impl Memory) {
        if !self.proxied.push(place, header, false, world) {
            self.counters.malformed += 1;
        }
    }
}

impl Node {
    /// A packet of the device that goes through our circuit, which is the first shard's.
    pub(super) fn circuit_packet(
        &mut self,
        clock: Clock,
        packet: TunPacket,
        header: &Ip,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        // An application may bind to another address: the exit must not learn it.
        if Some(header.source) != CLIENT.like(header.source) {
            self.tunnels.counters.not_allowed += 1;
            return;
        }
        if own.shard.0 != FIRST {
            let bytes = Box::from(world.bytes(packet.place));
            return self.circuit_cross(FIRST, CircuitCross::Packet { offload: packet.offload, bytes });
        }
        self.purpose_packet(clock, PurposeId::Tunnel, packet, header, world);
    }

    /// A packet for the other end of a purpose's circuit, on the first shard.
    pub(super) fn purpose_packet(
        &mut self,
        clock: Clock,
        id: PurposeId,
        packet: TunPacket,
        header: &Ip,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        if own.purposes.get(id).is_some_and(Purpose::spreads) {
            return self.send_spread(clock, End::Own(id), packet, header, None, world);
        }
        let Some(circuit) = own.purposes.circuit_for(clock.now, id, packet, header, world) else {
            own.counters.no_circuit += 1;
            return;
        };
        let before = own.counters.sent_packets;
        self.send_on_circuit(clock, circuit, packet, header, None, world);
        let own = &mut self.circuits;
        let sent = own.counters.sent_packets - before;
        if sent > 0 {
            own.counters.sent_bytes += u64::from(packet.place.len);
        }
        if let Some(purpose) = own.purposes.get_mut(id).filter(|_| sent > 0) {
            purpose.count_sent(circuit, sent, packet.place.len.into());
        }
    }

    /// A packet of the SOCKS proxy, on the first shard.
    pub(super) fn handle_proxied(
        &mut self,
        clock: Clock,
        offload: Offload,
        bytes: &[u8],
        world: &mut impl World,
    ) {
        self.with_copy(bytes, offload, world, |node, packet, header, world| {
            let bytes = world.bytes(packet.place);
            let own = ports(bytes, header).is_some_and(|(from, _)| is_proxys(from));
            // What comes from a friend's address in a tunnel is believed from the friend alone: nothing would come back.
            let friends = node.tunnels.is_friends(header.destination);
            if !own || friends || bytes.len() > CELL_INNER_LARGE || !node.circuits.proxied {
                node.tunnels.counters.not_allowed += 1;
                return;
            }
            node.circuit_packet(clock, packet, header, world);
        });
    }

    /// Puts a packet into a circuit, cut and with its checksum in place, for `to` when that is another address.
    pub(super) fn send_on_circuit(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        packet: TunPacket,
        header: &Ip,
        to: Option<IpAddr>,
        world: &mut impl World,
    ) {
        if let Some(cut) = self.cut_for_circuit(packet, header, CELL_INNER_LARGE, world) {
            let out = Outgoing { place: packet.place, header, cut, to };
            let all = 0..out.cut.count();
            self.send_parts(clock, circuit, &out, all, None, world);
        }
    }

    /// How a packet is cut for circuits whose contents are so long at most; what is longer is answered.
    pub(super) fn cut_for_circuit(
        &mut self,
        packet: TunPacket,
        header: &Ip,
        mtu: usize,
        world: &mut impl World,
    ) -> Option<Cut> {
        let Ok(cut) = Cut::new(world.bytes(packet.place), header, &packet.offload) else {
            self.tunnels.counters.unfit += 1;
            return None;
        };
        if cut.size_max() > mtu {
            self.tunnels.counters.too_big += 1;
            self.tunnels.answer_too_big(packet.place, header, mtu as u32, world);
            return None;
        }
        Some(cut)
    }

    /// Puts some of a packet's parts into a circuit, behind a sequence if there is one; false when one did not go.
    pub(super) fn send_parts(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        out: &Outgoing<'_>,
        parts: Range<usize>,
        sequence: Option<u32>,
        world: &mut impl World,
    ) -> bool {
        let Outgoing { place: packet, header, cut, to } = out;
        let own = &mut self.circuits;
        let peer = own.onion.link_of(circuit).and_then(|link| self.peers.get_mut(&PeerId(link.0)));
        let Some(peer) = peer else {
            own.counters.no_session += 1;
            return false;
        };
        let session = peer.session;
        let Some(path) = self.sessions.path(session) else { return false };
        let waits = must_wait(&self.shaping, &self.waiting, peer.slot);
        let front = if sequence.is_some() { SEQUENCE_SIZE } else { 0 };
        for index in parts {
            let len = front + cut.size(index);
            let class = Class::for_content(len).expect("the longest fits");
            let size = class.size() + PACKET_OVERHEAD;
            if self.sessions.budget(session) < size as u64 {
                own.counters.no_budget += 1;
                return false;
            }
            let write = |onion: &mut Onion, from: &[u8], cell: &mut [u8]| {
                let content = &mut cell[CONTENT_AT..CONTENT_AT + len];
                let mut inner = Inner::Packet;
                if let Some(sequence) = sequence {
                    content[..SEQUENCE_SIZE].copy_from_slice(&sequence.to_le_bytes());
                    inner = Inner::Spread;
                }
                let content = &mut content[front..];
                cut.write(from, index, content);
                if cut.is_open() {
                    complete(content, header);
                }
                if let Some(to) = to {
                    readdress(content, header, Side::Destination, *to);
                }
                onion.seal(clock.now, circuit, inner, len, cell).is_ok()
            };
            let kind = PacketKind::Cell;
            let sealed = if waits {
                let mut payload = vec![0; class.size()].into_boxed_slice();
                let sealed = write(&mut own.onion, world.bytes(*packet), &mut payload);
                if sealed {
                    let flow = self.waiting.flow_of_cell(&payload);
                    let datagram = Datagram { kind, payload, ecn: 0, came: clock.now };
                    wait(&mut self.shaping, &mut self.waiting, peer.slot, flow, datagram, path.header());
                }
                sealed
            } else {
                let Some(place) = self.tunnels.place_for(session, path, 0, size, world) else {
                    own.counters.no_buffer += 1;
                    return false;
                };
                let (from, datagram) = world.pair(*packet, place);
                let sealed = write(&mut own.onion, from, &mut datagram[HEADER_SIZE + 1..size - TAG_SIZE])
                    && self.sessions.seal(clock.now, session, kind, datagram).is_ok();
                if sealed {
                    self.tunnels.placed(session, 0, size);
                }
                sealed
            };
            if !sealed {
                own.counters.no_session += 1;
                return false;
            }
            peer.sent_bytes += size as u64;
            own.counters.sent += 1;
            own.counters.sent_packets += u64::from(circuit.is_own());
        }
        true
    }

    /// A packet that came through a circuit of ours.
    pub(super) fn circuit_packet_came(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        place: Place,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        let (Some(id), Ok(header)) = (own.purposes.of(circuit), Ip::parse(world.bytes(place))) else {
            own.counters.unwanted += 1;
            return;
        };
        // The exit is believed to be anybody but our friends in their tunnels, and speaks to nobody but us.
        let to_us = Some(header.destination) == CLIENT.like(header.destination);
        if !to_us || (id == PurposeId::Tunnel && self.tunnels.is_friends(header.source)) {
            self.tunnels.counters.not_allowed += 1;
            return;
        }
        own.counters.received_packets += 1;
        own.counters.received_bytes += u64::from(place.len);
        if let Some(purpose) = own.purposes.get_mut(id) {
            purpose.count_received(circuit, place.len.into());
        }
        if let PurposeId::Job(job) = id {
            return self.anonymous_came(clock, job, place, &header, world);
        }
        if self.circuits.proxied && is_for_proxy(world.bytes(place), &header) {
            return self.tunnels.deliver_proxied(place, &header, world);
        }
        self.tunnels.deliver(place, &header, world);
    }

    /// Does something with a packet that lies in no buffer.
    pub(super) fn with_copy<W: World>(
        &mut self,
        bytes: &[u8],
        offload: Offload,
        world: &mut W,
        act: impl FnOnce(&mut Self, TunPacket, &Ip, &mut W),
    ) {
        let Ok(header) = Ip::parse(bytes) else {
            self.tunnels.counters.malformed += 1;
            return;
        };
        let Some(buf) = world.alloc() else {
            self.tunnels.counters.no_buffer += 1;
            return;
        };
        let place = Place { len: bytes.len() as u32, ..Place::room(buf) };
        world.bytes_mut(place).copy_from_slice(bytes);
        act(self, TunPacket { place, offload }, &header, world);
        world.free(buf);
    }
}

//! Packets that came, joined into the superpackets that they were cut from: one write to the TUN device, and one way
//! through the kernel, for tens of packets.
//!
//! What is joined is what the kernel's own GRO would join and [`super::segment`] would cut again into the same bytes
//! (net/ipv4/af_inet.c, tcp_offload.c, udp_offload.c): consecutive packets of one flow with the same headers, a
//! checksum that is right or left open, and no flag that asks for attention. Packets of one flow are never reordered;
//! whatever does not fit behind those before it makes them leave first.

use std::collections::VecDeque;

use super::segment::{checksum_offset, transport_end};
use crate::base::{BufId, Memory, Offload, Place, Segmentation, TunPacket};
use crate::limits::{COALESCING_MAX, SUPERPACKET_SEGMENTS_MAX, TUNNEL_WRITES_MAX};
use crate::wire::ip::{self, Ip, TCP, UDP, half, put_half, tcp, udp, word};

/// Joins packets of few flows at once.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// In the order in which they began.
    open: Vec<Open>,
    ready: VecDeque<TunPacket>,
    /// Copies of packets for which there was no buffer; later ones wait behind them.
    waiting: VecDeque<(Box<[u8]>, Offload)>,
    /// What was counted so far.
    pub counters: Counters,
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that were joined to one before them.
    pub joined: u64,
    /// Superpackets.
    pub superpackets: u64,
    /// Packets that found no buffer and no room to wait in.
    pub no_buffer: u64,
}

/// A packet that others may be joined to.
#[derive(Debug)]
struct Open {
    flow: Flow,
    place: Place,
    /// IP and transport headers, bytes.
    headers: usize,
    transport: usize,
    /// Payload of each packet but the last, bytes.
    segment: usize,
    packets: usize,
    /// The TCP sequence number of what would follow.
    next: u32,
    /// Whether the transport checksum is known to be right, or is open.
    sound: bool,
    is_open: bool,
}

/// Which packets must not overtake one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    source: std::net::IpAddr,
    destination: std::net::IpAddr,
    protocol: u8,
    ports: u32,
}

/// A packet that could be a part of a superpacket.
struct Piece {
    headers: usize,
    transport: usize,
    payload: usize,
    sequence: u32,
    flags: u8,
}

impl Coalescer {
    /// Takes a packet that lies at `place`, in a buffer that is not written, with its header ([`Ip::parse`]). `is_open`:
    /// its TCP or UDP checksum is left to the reader. False when it was open and cannot be: it is dropped.
    pub fn push(&mut self, place: Place, header: &Ip, is_open: bool, memory: &mut impl Memory) -> bool {
        let bytes = memory.bytes(place);
        let end = transport_end(bytes, header);
        if is_open && end.is_none() {
            return false;
        }
        let offload = if is_open { partial(header) } else { Offload::default() };
        let Some(end) = end else {
            // No flow, or a fragment, which may be of any.
            if header.fragment {
                self.close_all(memory);
            }
            self.single(place, offload, memory);
            return true;
        };
        let flow = Flow {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            ports: word(bytes, header.header),
        };
        let piece = piece(bytes, header, end, is_open);
        if let Some(at) = self.open.iter().position(|open| open.flow == flow) {
            if let Some(piece) = &piece
                && self.join(at, place, piece, is_open, memory)
            {
                return true;
            }
            self.close(at, memory);
        }
        match piece {
            Some(piece) => self.begin(flow, place, &piece, is_open, memory),
            None => self.single(place, offload, memory),
        }
        true
    }

    /// Appends the packet to the open one at `at`, when the kernel would.
    fn join(
        &mut self,
        at: usize,
        place: Place,
        piece: &Piece,
        is_open: bool,
        memory: &mut impl Memory,
    ) -> bool {
        let open = &mut self.open[at];
        let len = open.place.len as usize;
        let grown = Place { len: (len + piece.payload) as u32, ..open.place };
        if piece.payload > open.segment
            || grown.len as usize > ip::PACKET_MAX
            || open.packets >= SUPERPACKET_SEGMENTS_MAX
            || (open.headers, open.transport) != (piece.headers, piece.transport)
        {
            return false;
        }
        let (bytes, into) = memory.pair(place, grown);
        if !follows(&into[..len], bytes, open, piece) {
            return false;
        }
        // What is wrong must stay wrong: joined, it would get a new checksum.
        if !open.sound && !is_sound(&into[..len], open.transport) {
            return false;
        }
        open.sound = true;
        if !is_open && !is_sound(bytes, piece.transport) {
            return false;
        }
        into[len..].copy_from_slice(&bytes[piece.headers..]);
        if open.flow.protocol == TCP {
            into[open.transport + tcp::FLAGS] |= piece.flags & (tcp::PSH | tcp::FIN);
        }
        open.place = grown;
        open.packets += 1;
        open.next = open.next.wrapping_add(piece.payload as u32);
        self.counters.joined += 1;
        if piece.payload < open.segment || piece.flags & (tcp::PSH | tcp::FIN) != 0 {
            self.close(at, memory);
        }
        true
    }

    fn begin(&mut self, flow: Flow, place: Place, piece: &Piece, is_open: bool, memory: &mut impl Memory) {
        if self.open.len() == COALESCING_MAX {
            self.close(0, memory);
        }
        let offload = if is_open { partial_of(piece.transport, flow.protocol) } else { Offload::default() };
        let ends = piece.flags & (tcp::PSH | tcp::FIN) != 0;
        if ends || !self.waiting.is_empty() {
            return self.single(place, offload, memory);
        }
        let Some(buf) = memory.alloc() else { return self.single(place, offload, memory) };
        let copied = copy(place, buf, memory);
        self.open.push(Open {
            flow,
            place: copied,
            headers: piece.headers,
            transport: piece.transport,
            segment: piece.payload,
            packets: 1,
            next: piece.sequence.wrapping_add(piece.payload as u32),
            sound: is_open,
            is_open,
        });
    }

    /// A packet for itself.
    fn single(&mut self, place: Place, offload: Offload, memory: &mut impl Memory) {
        if self.waiting.is_empty()
            && let Some(buf) = memory.alloc()
        {
            let place = copy(place, buf, memory);
            self.ready.push_back(TunPacket { place, offload });
        } else if self.waiting.len() < TUNNEL_WRITES_MAX {
            // Behind what is being put together, which may be of its flow.
            self.close_all(memory);
            self.waiting.push_back((Box::from(memory.bytes(place)), offload));
        } else {
            self.counters.no_buffer += 1;
        }
    }

    /// An open packet takes no more.
    fn close(&mut self, at: usize, memory: &mut impl Memory) {
        let open = self.open.remove(at);
        let offload = if open.packets > 1 {
            self.counters.superpackets += 1;
            finish(&open, memory.bytes_mut(open.place))
        } else if open.is_open {
            partial_of(open.transport, open.flow.protocol)
        } else {
            Offload::default()
        };
        self.ready.push_back(TunPacket { place: open.place, offload });
    }

    fn close_all(&mut self, memory: &mut impl Memory) {
        while !self.open.is_empty() {
            self.close(0, memory);
        }
    }

    /// The next packet to write to the device. Ask when everything that came was handed in: what is still being put
    /// together is then given out as it is.
    pub fn poll(&mut self, memory: &mut impl Memory) -> Option<TunPacket> {
        if self.ready.is_empty() {
            self.close_all(memory);
        }
        if let Some(packet) = self.ready.pop_front() {
            return Some(packet);
        }
        let (bytes, offload) = self.waiting.front()?;
        let place = Place { len: bytes.len() as u32, ..Place::room(memory.alloc()?) };
        memory.bytes_mut(place).copy_from_slice(bytes);
        let packet = TunPacket { place, offload: *offload };
        self.waiting.pop_front();
        Some(packet)
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty() && self.waiting.is_empty()
    }
}

fn copy(place: Place, buf: BufId, memory: &mut impl Memory) -> Place {
    let copied = Place { len: place.len, ..Place::room(buf) };
    let (from, to) = memory.pair(place, copied);
    to.copy_from_slice(from);
    copied
}

/// What is left to do with a packet whose checksum is open.
fn partial(header: &Ip) -> Offload {
    partial_of(header.header, header.protocol)
}

fn partial_of(transport: usize, protocol: u8) -> Offload {
    Offload {
        needs_checksum: true,
        checksum_start: transport as u16,
        checksum_offset: checksum_offset(protocol) as u16,
        ..Offload::default()
    }
}

/// What a packet is as a part of a superpacket, if it can be one: payload, no options of IP, a right header checksum,
/// and no flags but those that every packet of a flow may have.
fn piece(packet: &[u8], header: &Ip, end: usize, is_open: bool) -> Option<Piece> {
    let payload = packet.len() - end;
    let plain = if header.is_v6() {
        true
    } else {
        header.header == ip::V4_HEADER && ip::Sum::of(&packet[..ip::V4_HEADER]).fold() == 0xffff
    };
    if payload == 0 || !plain {
        return None;
    }
    let transport = &packet[header.header..];
    let (sequence, flags) = match header.protocol {
        TCP => (word(transport, tcp::SEQUENCE), transport[tcp::FLAGS]),
        _ => (0, tcp::ACK),
    };
    let usual = match header.protocol {
        TCP => flags & tcp::ACK != 0 && flags & (tcp::SYN | tcp::RST | tcp::URG) == 0,
        _ => {
            let summed = is_open || half(transport, udp::CHECKSUM) != 0;
            usize::from(half(transport, udp::LENGTH)) == transport.len() && summed
        }
    };
    usual.then_some(Piece { headers: end, transport: header.header, payload, sequence, flags })
}

/// Whether `packet` is what follows in the flow of `first`, which may have been joined to already, and says the same in
/// every field that all packets of a superpacket share.
fn follows(first: &[u8], packet: &[u8], open: &Open, piece: &Piece) -> bool {
    let (is_v6, at) = (open.flow.source.is_ipv6(), open.transport);
    let same = |range: std::ops::Range<usize>| first[range.clone()] == packet[range];
    let network = if is_v6 {
        same(0..ip::v6::PAYLOAD) && same(ip::v6::NEXT..ip::v6::ADDRESSES)
    } else {
        let id = half(first, ip::v4::ID).wrapping_add(open.packets as u16);
        same(0..ip::v4::TOTAL) && same(ip::v4::FRAGMENT..ip::v4::CHECKSUM) && half(packet, ip::v4::ID) == id
    };
    if open.flow.protocol == UDP {
        return network;
    }
    // The first may have CWR, and those that were joined had neither PSH nor FIN, or it would be closed.
    let shared = !(tcp::PSH | tcp::FIN | tcp::CWR);
    network
        && piece.sequence == open.next
        && piece.flags & tcp::CWR == 0
        && (first[at + tcp::FLAGS] ^ packet[at + tcp::FLAGS]) & shared == 0
        && same(at + tcp::ACKNOWLEDGEMENT..at + tcp::FLAGS)
        && same(at + tcp::FLAGS + 1..at + tcp::CHECKSUM)
        && same(at + tcp::CHECKSUM + 2..open.headers)
}

/// Whether a transport checksum is right.
fn is_sound(packet: &[u8], transport: usize) -> bool {
    let is_v6 = transport == ip::V6_HEADER;
    let protocol = packet[if is_v6 { ip::v6::NEXT } else { ip::v4::PROTOCOL }];
    let segment = &packet[transport..];
    ip::pseudo(packet, is_v6, protocol, segment.len()).and(segment).fold() == 0xffff
}

/// Writes the lengths and sums of a superpacket.
fn finish(open: &Open, packet: &mut [u8]) -> Offload {
    let (is_v6, protocol) = (open.flow.source.is_ipv6(), open.flow.protocol);
    let segment_len = packet.len() - open.transport;
    if is_v6 {
        put_half(packet, ip::v6::PAYLOAD, segment_len as u16);
    } else {
        let len = packet.len() as u16;
        put_half(packet, ip::v4::TOTAL, len);
        ip::sum_v4(&mut packet[..open.transport]);
    }
    let sum = ip::pseudo(packet, is_v6, protocol, segment_len).fold();
    let header = &mut packet[open.transport..];
    put_half(header, checksum_offset(protocol), sum);
    if protocol == UDP {
        put_half(header, udp::LENGTH, segment_len as u16);
    }
    let kind = match (protocol, is_v6) {
        (UDP, _) => Segmentation::Udp,
        (_, false) => Segmentation::Tcp4,
        (_, true) => Segmentation::Tcp6,
    };
    Offload {
        kind,
        header_len: open.headers as u16,
        segment: open.segment as u16,
        ..partial_of(open.transport, protocol)
    }
}

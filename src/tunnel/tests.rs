//! What goes in at one side comes out at the other: superpackets are cut, some packets are lost or moved, the rest is
//! joined, and what was joined is cut again.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::base::{BufId, Memory, Offload, Place, Segmentation};
use crate::limits::BUFFER_SIZE;
use crate::wire::ip::{self, Ip, Sum, TCP, UDP, put_half, put_word, tcp, udp};
use proptest::prelude::*;

/// Buffers without end; those in use are counted.
#[derive(Default)]
struct Heap {
    buffers: Vec<Option<Vec<u8>>>,
    room: usize,
}

impl Heap {
    fn new(room: usize) -> Self {
        Self { buffers: vec![Some(vec![0; BUFFER_SIZE])], room }
    }

    fn in_use(&self) -> usize {
        self.buffers.iter().flatten().count() - 1
    }

    /// Lays a packet where received ones lie.
    fn lay(&mut self, packet: &[u8]) -> Place {
        let place = Place { len: packet.len() as u32, ..Place::room(BufId(0)) };
        self.bytes_mut(place).copy_from_slice(packet);
        place
    }
}

fn range(place: Place) -> std::ops::Range<usize> {
    place.offset as usize..(place.offset + place.len) as usize
}

impl Memory for Heap {
    fn bytes(&self, place: Place) -> &[u8] {
        &self.buffers[place.buf.0 as usize].as_ref().expect("in use")[range(place)]
    }
    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.buffers[place.buf.0 as usize].as_mut().expect("in use")[range(place)]
    }
    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        let [from_buf, to_buf] =
            self.buffers.get_disjoint_mut([from.buf.0 as usize, to.buf.0 as usize]).expect("two buffers");
        let from = &from_buf.as_ref().expect("in use")[range(from)];
        (from, &mut to_buf.as_mut().expect("in use")[range(to)])
    }
    fn alloc(&mut self) -> Option<BufId> {
        if self.in_use() >= self.room {
            return None;
        }
        self.buffers.push(Some(vec![0xee; BUFFER_SIZE]));
        Some(BufId(self.buffers.len() as u32 - 1))
    }
    fn free(&mut self, buf: BufId) {
        assert!(self.buffers[buf.0 as usize].take().is_some(), "freed once");
    }
}

/// One flow's packet, by its fields: written from nothing, so that it says what cutting must come to.
#[derive(Debug, Clone)]
struct Fields {
    v6: bool,
    protocol: u8,
    host: u8,
    id: u16,
    sequence: u32,
    flags: u8,
    options: usize,
    payload: Vec<u8>,
}

impl Fields {
    fn headers(&self) -> usize {
        let transport = if self.protocol == UDP { ip::UDP_HEADER } else { ip::TCP_HEADER + self.options };
        (if self.v6 { ip::V6_HEADER } else { ip::V4_HEADER }) + transport
    }

    fn packet(&self, summed: bool) -> Vec<u8> {
        let (source, destination) = if self.v6 {
            (Ipv6Addr::from([self.host; 16]).into(), Ipv6Addr::LOCALHOST.into())
        } else {
            (Ipv4Addr::from([10, 0, 0, self.host]).into(), Ipv4Addr::LOCALHOST.into())
        };
        let header = if self.v6 { ip::V6_HEADER } else { ip::V4_HEADER };
        let answer = Ip {
            source,
            destination,
            protocol: self.protocol,
            header,
            ecn: 1,
            fragment: false,
            divisible: false,
        };
        let mut packet = vec![0; self.headers() + self.payload.len()];
        let len = packet.len() - header;
        answer.emit(len, &mut packet).expect("fits");
        if !self.v6 {
            put_half(&mut packet, ip::v4::ID, self.id);
            ip::sum_v4(&mut packet[..header]);
        }
        let at = self.headers();
        packet[at..].copy_from_slice(&self.payload);
        let checksum = if self.protocol == UDP {
            put_half(&mut packet, header, 4000);
            put_half(&mut packet, header + 2, 53);
            put_half(&mut packet, header + udp::LENGTH, len as u16);
            header + udp::CHECKSUM
        } else {
            put_half(&mut packet, header, 5000);
            put_half(&mut packet, header + 2, 80);
            put_word(&mut packet, header + tcp::SEQUENCE, self.sequence);
            put_word(&mut packet, header + tcp::ACKNOWLEDGEMENT, 77);
            packet[header + tcp::OFFSET] = ((ip::TCP_HEADER + self.options) as u8 / 4) << 4;
            packet[header + tcp::FLAGS] = self.flags;
            put_half(&mut packet, header + 14, 1000);
            packet[header + ip::TCP_HEADER..at].fill(1);
            header + tcp::CHECKSUM
        };
        let pseudo = ip::pseudo(&packet, self.v6, self.protocol, len);
        let sum = if summed {
            let sum = pseudo.and(&packet[header..]).complement();
            if sum == 0 { 0xffff } else { sum }
        } else {
            pseudo.fold()
        };
        put_half(&mut packet, checksum, sum);
        packet
    }

    fn offload(&self, segment: usize) -> Offload {
        let kind = match (self.protocol, self.v6) {
            (UDP, _) => Segmentation::Udp,
            (_, false) => Segmentation::Tcp4,
            (_, true) => Segmentation::Tcp6,
        };
        Offload {
            kind,
            header_len: 0,
            segment: segment as u16,
            needs_checksum: true,
            checksum_start: if self.v6 { 40 } else { 20 },
            checksum_offset: if self.protocol == UDP { 6 } else { 16 },
        }
    }

    /// The packets that a superpacket of these fields is cut into.
    fn parts(&self, segment: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(segment);
        let part = |index: usize| {
            let (first, last) = (index == 0, index + 1 == count);
            let start = index * segment;
            let mut flags = self.flags;
            if !last {
                flags &= !(tcp::PSH | tcp::FIN);
            }
            if !first {
                flags &= !tcp::CWR;
            }
            let payload = self.payload[start..(start + segment).min(self.payload.len())].to_vec();
            let fields = Self {
                id: self.id.wrapping_add(index as u16),
                sequence: self.sequence.wrapping_add(start as u32),
                flags,
                payload,
                ..self.clone()
            };
            fields.packet(false)
        };
        (0..count).map(part).collect()
    }
}

fn fields() -> impl Strategy<Value = (Fields, usize)> {
    let flags = prop_oneof![
        Just(tcp::ACK),
        Just(tcp::ACK | tcp::PSH),
        Just(tcp::ACK | tcp::ECE | tcp::CWR),
        Just(tcp::ACK | tcp::FIN | tcp::PSH)
    ];
    (
        any::<bool>(),
        any::<bool>(),
        0u8..3,
        any::<u16>(),
        any::<u32>(),
        flags,
        0usize..4,
        1usize..9000,
        100usize..1400,
    )
        .prop_map(|(v6, tcp, host, id, sequence, flags, options, len, segment)| {
            let payload = (0..len).map(|n| (n as u32).wrapping_mul(sequence | 1) as u8).collect();
            let protocol = if tcp { TCP } else { UDP };
            (Fields { v6, protocol, host, id, sequence, flags, options: 4 * options, payload }, segment)
        })
}

fn cut(packet: &[u8], offload: &Offload) -> Vec<(Vec<u8>, bool)> {
    let header = Ip::parse(packet).expect("a packet");
    let cut = Cut::new(packet, &header, offload).expect("can be cut");
    let part = |index| {
        let mut out = vec![0xee; cut.size(index)];
        assert!(out.len() <= cut.size_max());
        cut.write(packet, index, &mut out);
        (out, cut.is_open())
    };
    (0..cut.count()).map(part).collect()
}

fn drain(coalescer: &mut Coalescer, heap: &mut Heap, out: &mut Vec<(Vec<u8>, bool)>) -> usize {
    let mut writes = 0;
    while let Some(packet) = coalescer.poll(heap) {
        let bytes = heap.bytes(packet.place).to_vec();
        heap.free(packet.place.buf);
        out.extend(cut(&bytes, &packet.offload));
        writes += 1;
    }
    writes
}

fn flow_of(packet: &[u8]) -> Vec<u8> {
    let header = Ip::parse(packet).expect("a packet");
    let addresses = if header.is_v6() { 8..40 } else { 12..20 };
    [&packet[addresses], &[header.protocol], &packet[header.header..header.header + 4]].concat()
}

proptest! {
    #[test]
    fn a_superpacket_is_cut_as_if_its_packets_had_been_written_one_by_one((fields, segment) in fields()) {
        let parts: Vec<_> = cut(&fields.packet(false), &fields.offload(segment)).into_iter().map(|(bytes, open)| {
            assert!(open);
            bytes
        }).collect();
        prop_assert_eq!(parts, fields.parts(segment));
    }

    #[test]
    fn what_is_joined_is_cut_again_into_the_same_packets_in_the_same_order(
        sources in prop::collection::vec(fields(), 1..5), seed: u64, room in 0usize..12, summed: bool, flip in 0usize..40,
    ) {
        // Packets of some superpackets, in each one's order, mixed, some lost, some summed, one perhaps wrong.
        let mut queues: Vec<std::collections::VecDeque<Vec<u8>>> =
            sources.iter().map(|(fields, segment)| fields.parts(*segment).into()).collect();
        let (mut sent, mut random) = (Vec::new(), seed | 1);
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 33) as usize % below
        };
        while queues.iter().any(|queue| !queue.is_empty()) {
            let from = next(queues.len());
            for _ in 0..next(12) {
                let Some(mut packet) = queues[from].pop_front() else { break };
                if next(20) == 0 {
                    continue;
                }
                let open = !(summed && next(3) > 0);
                if !open {
                    let header = Ip::parse(&packet).expect("a packet");
                    let (at, start) = (header.header + if header.protocol == UDP { 6 } else { 16 }, header.header);
                    let sum = Sum::of(&packet[start..]).complement();
                    put_half(&mut packet, at, if sum == 0 { 0xffff } else { sum });
                    prop_assert!(ip::is_summed(&packet, &header));
                    if sent.len() == flip {
                        let last = packet.len() - 1;
                        packet[last] ^= 1;
                    }
                }
                sent.push((packet, open));
            }
        }
        let (mut heap, mut coalescer, mut got) = (Heap::new(room), Coalescer::default(), Vec::new());
        for (packet, open) in &sent {
            let place = heap.lay(packet);
            let header = Ip::parse(packet).expect("a packet");
            prop_assert!(coalescer.push(place, &header, *open, &mut heap));
            if next(40) == 0 {
                drain(&mut coalescer, &mut heap, &mut got);
            }
        }
        drain(&mut coalescer, &mut heap, &mut got);
        if room > 0 {
            prop_assert!(coalescer.is_empty());
            prop_assert_eq!(heap.in_use(), 0, "no buffer is left behind");
        }
        if room == 0 {
            prop_assert_eq!((heap.in_use(), coalescer.is_empty()), (0, sent.is_empty()));
            return Ok(());
        }
        prop_assert_eq!(got.len(), sent.len());
        // What was summed and was joined comes out open; what was wrong is still wrong.
        let finished = |(mut packet, open): (Vec<u8>, bool)| {
            if open {
                let header = Ip::parse(&packet).expect("a packet");
                let (at, start) = (header.header + if header.protocol == UDP { 6 } else { 16 }, header.header);
                let sum = Sum::of(&packet[start..]).complement();
                put_half(&mut packet, at, if sum == 0 { 0xffff } else { sum });
            }
            packet
        };
        let by_flow = |list: Vec<(Vec<u8>, bool)>| {
            let mut flows: std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> = Default::default();
            list.into_iter().map(finished).for_each(|packet| flows.entry(flow_of(&packet)).or_default().push(packet));
            flows
        };
        prop_assert_eq!(by_flow(got), by_flow(sent));
    }
}

#[test]
fn a_train_of_one_flow_is_one_write_and_a_push_or_a_short_one_ends_it() {
    let fields = Fields {
        v6: false,
        protocol: TCP,
        host: 1,
        id: 65_530,
        sequence: u32::MAX - 3000,
        flags: tcp::ACK | tcp::PSH,
        options: 12,
        payload: (0..40 * 1368 + 7).map(|n: u32| n as u8).collect(),
    };
    let (mut heap, mut coalescer, mut got) = (Heap::new(9), Coalescer::default(), Vec::new());
    let parts = fields.parts(1368);
    for part in &parts {
        let place = heap.lay(part);
        let header = Ip::parse(part).unwrap();
        assert!(coalescer.push(place, &header, true, &mut heap));
    }
    let packet = coalescer.poll(&mut heap).unwrap();
    assert_eq!(heap.bytes(packet.place), fields.packet(false), "the very superpacket");
    assert_eq!((packet.offload.segment, packet.offload.header_len), (1368, 52));
    heap.free(packet.place.buf);
    let next =
        Fields { sequence: fields.sequence.wrapping_add(fields.payload.len() as u32), ..fields.clone() };
    for part in parts.iter().chain(&next.parts(1368)) {
        let place = heap.lay(part);
        let header = Ip::parse(part).unwrap();
        coalescer.push(place, &header, true, &mut heap);
    }
    assert_eq!(drain(&mut coalescer, &mut heap, &mut got), 2, "joined on both sides of the push");
    assert_eq!(coalescer.counters.superpackets, 3);
}

#[test]
fn what_asks_for_attention_is_never_joined_and_never_overtakes() {
    let data = Fields {
        v6: true,
        protocol: TCP,
        host: 2,
        id: 0,
        sequence: 1000,
        flags: tcp::ACK,
        options: 0,
        payload: vec![1; 500],
    };
    let after = |fields: &Fields| Fields { sequence: fields.sequence + 500, ..fields.clone() };
    for odd in [
        Fields { flags: tcp::ACK | tcp::RST, ..after(&data) },
        Fields { flags: tcp::ACK | tcp::URG, ..after(&data) },
        Fields { flags: tcp::ACK | tcp::CWR, ..after(&data) },
        Fields { flags: tcp::ACK | tcp::ECE, ..after(&data) },
        Fields { options: 4, ..after(&data) },
        Fields { payload: Vec::new(), ..after(&data) },
        Fields { payload: vec![2; 501], ..after(&data) },
        Fields { sequence: 1499, ..data.clone() },
    ] {
        let (mut heap, mut coalescer, mut got) = (Heap::new(9), Coalescer::default(), Vec::new());
        for fields in [&data, &odd] {
            let packet = fields.packet(true);
            let place = heap.lay(&packet);
            coalescer.push(place, &Ip::parse(&packet).unwrap(), false, &mut heap);
        }
        assert_eq!(drain(&mut coalescer, &mut heap, &mut got), 2, "{odd:?}");
        assert_eq!(got, [(data.packet(true), false), (odd.packet(true), false)], "{odd:?}");
    }
}

#[test]
fn an_open_checksum_that_no_header_explains_is_refused_and_one_of_the_device_is_completed() {
    let mut heap = Heap::new(9);
    let source = Ipv4Addr::new(10, 0, 0, 1).into();
    let header = Ip {
        source,
        destination: source,
        protocol: 47,
        header: 20,
        ecn: 0,
        fragment: false,
        divisible: true,
    };
    let mut packet = vec![3; 61];
    header.emit(41, &mut packet).unwrap();
    let place = heap.lay(&packet);
    assert!(!Coalescer::default().push(place, &header, true, &mut heap));
    let offload =
        Offload { needs_checksum: true, checksum_start: 24, checksum_offset: 2, ..Offload::default() };
    let [(out, open)] = &cut(&packet, &offload)[..] else { panic!("one") };
    assert!(!open && Sum::of(&out[24..]).fold() != 0xffff, "the old field counts as the pseudo header's sum");
    put_half(&mut packet, 26, 0);
    let [(out, _)] = &cut(&packet, &offload)[..] else { panic!("one") };
    assert_eq!(Sum::of(&out[24..]).fold(), 0xffff);
    for bad in [
        Offload { checksum_start: 60, ..offload },
        Offload { checksum_start: 10, ..offload },
        Offload { kind: Segmentation::Tcp4, segment: 10, ..offload },
    ] {
        assert!(Cut::new(&packet, &header, &bad).is_err(), "{bad:?}");
    }
}

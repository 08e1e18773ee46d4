//! IP packets: what a friend's tunnel brings, and what a TUN device hands over.

use std::net::SocketAddr;

use super::Input;
use crate::base::{Memory, Offload, Place, Segmentation};
use crate::limits::{BUFFER_HEAD_ROOM, SEND_BUFFERS};
use crate::sim::buffers::RECEIVE_BUFFER;
use crate::sim::world::SimWorld;
use crate::tunnel::quoted::quoted;
use crate::tunnel::{Coalescer, Cut, datagrams};
use crate::wire::ip::{self, Ip, TCP, UDP, put_half, tcp, udp};

/// A header that is read lies inside its packet, and written again it reads the same; an answer to it is a packet. What a
/// circuit brings for a node in it is a datagram inside its packet, and wrapped anew it reads the same.
pub fn ip(bytes: &[u8]) {
    let Ok(header) = Ip::parse(bytes) else { return };
    assert!(header.header <= bytes.len() && header.source.is_ipv4() == header.destination.is_ipv4());
    ip::is_summed(bytes, &header);
    let _ = quoted(bytes, &header);
    if let Some(datagram) = datagrams::unwrap(bytes, &header) {
        let payload = &bytes[datagram.payload];
        let to = SocketAddr::new(header.destination, datagram.to);
        let mut packet = vec![0xee; datagrams::headers(to)];
        packet.extend_from_slice(payload);
        let (again, offload) =
            datagrams::wrap(&mut packet, payload.len(), datagram.from, to).expect("no longer than it was");
        assert_eq!((Ip::parse(&packet), offload.kind), (Ok(again), Segmentation::None));
        let back = datagrams::unwrap(&packet, &again).expect("it is one");
        assert_eq!((back.from, back.to, &packet[back.payload]), (datagram.from, datagram.to, payload));
    }
    let mut out = vec![0xff; bytes.len() + ip::V6_HEADER];
    let payload = bytes.len() - header.header;
    let len = header.emit(payload, &mut out).expect("no longer than it was");
    let plain = Ip { header: len, fragment: false, ..header };
    assert_eq!(Ip::parse(&out[..len + payload]), Ok(plain));
    let mut marked = bytes.to_vec();
    if ip::mark_congestion(&mut marked, &header) {
        assert_eq!(Ip::parse(&marked), Ok(Ip { ecn: 3, ..header }));
    }
    let mut answer = vec![0; 700];
    if let Some(len) = ip::too_big(bytes, &header, 1300, &mut answer) {
        let answered = Ip::parse(&answer[..len]).expect("an answer is a packet");
        assert_eq!((answered.source, answered.destination), (header.destination, header.source));
        assert_eq!(ip::too_big(&answer[..len], &answered, 1300, &mut vec![0; 700]), None);
    }
}

/// Any packets of a friend, joined; any packets of a device, cut. No byte is lost or made up, no buffer is kept, what is
/// cut is as long as it said, and what was joined is cut again into as many packets.
pub fn tunnel(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut world, mut coalescer) = (SimWorld::default(), Coalescer::default());
    let (mut handed, mut taken) = (0, 0);
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let packet = match (&last, input.byte() % 4) {
            (Some(last), 0) => following(last),
            (Some(last), 1) => {
                let mut other = following(last);
                input.mutate(&mut other);
                other
            }
            _ => fresh(&mut input),
        };
        cut(&packet, &offload(&mut input));
        if let Ok(header) = Ip::parse(&packet) {
            world.buffers.begin_receive();
            let len = packet.len() as u32;
            let place = Place { buf: RECEIVE_BUFFER, offset: BUFFER_HEAD_ROOM as u32, len };
            world.bytes_mut(place).copy_from_slice(&packet);
            handed += usize::from(coalescer.push(place, &header, input.flag(), &mut world));
            world.buffers.end_receive();
            last = Some(packet);
        }
        if input.one_in(8) {
            taken += drain(&mut coalescer, &mut world);
        }
    }
    taken += drain(&mut coalescer, &mut world);
    assert_eq!(taken, handed, "packets that went in and came out");
    assert_eq!(world.free_buffers(), SEND_BUFFERS);
}

/// How many packets what is given out is cut into.
fn drain(coalescer: &mut Coalescer, world: &mut SimWorld) -> usize {
    let mut count = 0;
    while let Some(packet) = coalescer.poll(world) {
        let bytes = world.bytes(packet.place).to_vec();
        world.free(packet.place.buf);
        let header = Ip::parse(&bytes).expect("what is written to the device is a packet");
        count += Cut::new(&bytes, &header, &packet.offload).expect("and says the truth of itself").count();
    }
    count
}

fn cut(packet: &[u8], offload: &Offload) {
    let Ok(header) = Ip::parse(packet) else { return };
    let Ok(cut) = Cut::new(packet, &header, offload) else { return };
    let mut payload = 0;
    for index in 0..cut.count() {
        let mut out = vec![0; cut.size(index)];
        assert!(out.len() <= cut.size_max());
        cut.write(packet, index, &mut out);
        let again = Ip::parse(&out).expect("a part is a packet");
        assert_eq!((again.source, again.destination), (header.source, header.destination));
        payload += out.len();
    }
    let headers = (payload - packet.len()).checked_div(cut.count() - 1).unwrap_or(0);
    assert_eq!(payload - packet.len(), headers * (cut.count() - 1), "each part has the same headers");
}

fn offload(input: &mut Input<'_>) -> Offload {
    let kinds = [Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp];
    Offload {
        kind: *input.pick(&kinds),
        header_len: input.half(),
        segment: input.half() % 64,
        needs_checksum: input.flag(),
        checksum_start: *input.pick(&[20, 40, 24, 0, 65_535]),
        checksum_offset: *input.pick(&[16, 6, 0, 65_535]),
    }
}

/// A packet of one of few flows, with any flags.
fn fresh(input: &mut Input<'_>) -> Vec<u8> {
    let is_tcp = input.flag();
    let (protocol, transport) = if is_tcp { (TCP, ip::TCP_HEADER) } else { (UDP, ip::UDP_HEADER) };
    let host = input.byte() % 2;
    let (source, destination): (std::net::IpAddr, std::net::IpAddr) = if input.flag() {
        ([10, 0, 0, host].into(), [10, 0, 0, 9].into())
    } else {
        (std::net::Ipv6Addr::from([host; 16]).into(), std::net::Ipv6Addr::LOCALHOST.into())
    };
    let body = input.bytes(90).to_vec();
    let ip =
        Ip { source, destination, protocol, header: 0, ecn: 1, fragment: false, divisible: input.flag() };
    let mut packet = vec![0; ip::V6_HEADER + transport + body.len()];
    let header = ip.emit(transport + body.len(), &mut packet).expect("short");
    packet.truncate(header + transport + body.len());
    packet[header + transport..].copy_from_slice(&body);
    if is_tcp {
        packet[header + tcp::OFFSET] = 5 << 4;
        packet[header + tcp::FLAGS] = if input.flag() { tcp::ACK } else { input.byte() };
    } else {
        put_half(&mut packet, header + udp::LENGTH, (transport + body.len()) as u16);
    }
    sum(&mut packet, header, protocol);
    packet
}

fn sum(packet: &mut [u8], header: usize, protocol: u8) {
    let at = header + if protocol == TCP { tcp::CHECKSUM } else { udp::CHECKSUM };
    put_half(packet, at, 0);
    let len = packet.len() - header;
    let sum = ip::pseudo(packet, header == ip::V6_HEADER, protocol, len).and(&packet[header..]).complement();
    put_half(packet, at, if sum == 0 { 0xffff } else { sum });
}

/// What could be joined to this packet, when it is of the usual kind.
fn following(packet: &[u8]) -> Vec<u8> {
    let mut next = packet.to_vec();
    let Ok(header) = Ip::parse(packet) else { return next };
    let usual = matches!(header.protocol, TCP | UDP) && !header.fragment;
    if !usual || packet.len() < header.header + ip::TCP_HEADER {
        return next;
    }
    if !header.is_v6() {
        let id = ip::half(packet, ip::v4::ID).wrapping_add(1);
        put_half(&mut next, ip::v4::ID, id);
        ip::sum_v4(&mut next[..header.header]);
    }
    if header.protocol == TCP {
        let at = header.header + tcp::SEQUENCE;
        let body = (packet.len() - header.header - ip::TCP_HEADER) as u32;
        ip::put_word(&mut next, at, ip::word(packet, at).wrapping_add(body));
    }
    sum(&mut next, header.header, header.protocol);
    next
}

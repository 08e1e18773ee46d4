//! What applications say to the SOCKS proxy, and what a hostile exit may send to the host behind it.

use std::net::SocketAddr;
use std::time::Duration;

use super::Input;
use crate::base::{Offload, Rng, Segmentation, Time};
use crate::limits::{CELL_INNER_LARGE, SOCKS_NAME_ADDRESSES_MAX, SOCKS_NAME_MAX, SOCKS_NAME_S_MAX};
use crate::onion::exit::CLIENT;
use crate::service::proxy::stack::{Heard, Stack};
use crate::wire::dns::{self, Answer, Family};
use crate::wire::ip::{self, Ip, TCP, UDP, half, put_half, put_word, tcp, udp, word};
use crate::wire::socks::{self, GREETING_MAX, Host, Place, REQUEST_MAX};

/// A request is read once it is whole and not before; its place, written again, is the same; a name is one.
pub fn socks(bytes: &[u8]) {
    if let Ok(Some((_, used))) = socks::greeting(bytes) {
        assert!(used <= bytes.len() && used <= GREETING_MAX);
        assert_eq!(socks::greeting(&bytes[..used - 1]), Ok(None));
    }
    match socks::request(bytes) {
        Ok(Some((request, used))) => {
            assert!(used <= bytes.len() && used <= REQUEST_MAX);
            assert_eq!(socks::request(&bytes[..used - 1]), Ok(None));
            same(&request.place);
        }
        Ok(None) => assert!(bytes.len() < REQUEST_MAX),
        Err(_) => {}
    }
    if let Ok((place, at)) = socks::datagram(bytes) {
        assert!(at <= bytes.len() && bytes[2] == 0);
        same(&place);
    }
}

fn same(place: &Place) {
    if let Host::Name(name) = &place.host {
        assert!(
            !name.is_empty() && name.len() <= SOCKS_NAME_MAX && name.parse::<std::net::IpAddr>().is_err()
        );
        assert!(dns::question(1, name, Family::V4).is_some(), "a name that cannot be asked for");
    }
    let mut written = vec![5, 1, 0];
    place.emit(&mut written);
    let (read, used) = socks::request(&written).expect("a request").expect("whole");
    assert_eq!((&read.place, used), (place, written.len()));
}

/// An answer's addresses are of the family that was asked for, and few.
pub fn dns(bytes: &[u8]) {
    for (family, is_v4) in [(Family::V4, true), (Family::V6, false)] {
        let id = if bytes.len() < 2 { 0 } else { half(bytes, 0) };
        let Some(Answer::Is(addresses, seconds)) = dns::answer(bytes, id, "web.test", family) else {
            continue;
        };
        assert!(addresses.len() <= SOCKS_NAME_ADDRESSES_MAX && seconds <= SOCKS_NAME_S_MAX);
        assert!(addresses.iter().all(|address| address.is_ipv4() == is_v4));
    }
}

/// What the far side of the one connection knows.
struct Far {
    at: SocketAddr,
    port: u16,
    sequence: u32,
    acknowledged: u32,
}

/// Any packets of a hostile exit, some of them nearly right, between an application's calls: what leaves is a packet that a
/// circuit carries, the application gets no more bytes than were sent, and time ends everything.
pub fn stack(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = Time::from_millis(1000);
    let mut stack = Stack::new(now, Rng::from_number(7));
    let at: SocketAddr = if input.flag() { "192.0.2.1:80" } else { "[2001:db8::1]:80" }.parse().expect("one");
    let (handle, port) = stack.connect(at).expect("a port");
    let mut far = Far { at, port, sequence: input.word(), acknowledged: 0 };
    let (mut offered, mut got) = (0u64, 0u64);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => stack.take(offload(&mut input), input.bytes(100).into()),
            1..=3 => {
                let (packet, payload) = segment(&mut input, &mut far);
                offered += payload;
                let offload = Offload { needs_checksum: input.flag(), ..Offload::default() };
                stack.take(offload, packet.into());
            }
            4 => {
                let socket = stack.socket(handle);
                let len = input.below(3000);
                let _ = socket.send_slice(&vec![7; len]);
                if input.one_in(8) {
                    socket.close();
                } else if input.one_in(16) {
                    socket.abort();
                }
            }
            5 => {
                let most = 1 + input.below(5000);
                let socket = stack.socket(handle);
                while let Ok(len @ 1..) = socket.recv(|bytes| (bytes.len().min(most), bytes.len().min(most)))
                {
                    got += len as u64;
                }
            }
            6 => {
                let payload = input.bytes(40);
                let _ = stack.send_datagram(input.half(), at, payload);
            }
            _ => now += Duration::from_millis(input.half().into()),
        }
        stack.poll(now, 64);
        drain(&mut stack, &mut far);
        while let Some(heard) = stack.poll_heard() {
            if let Heard::Datagram { payload, .. } = heard {
                assert!(payload.len() <= ip::PACKET_MAX);
            }
        }
    }
    assert!(got <= offered, "{got} bytes of {offered}");
    stack.socket(handle).abort();
    stack.end(now, handle, port);
    now += Duration::from_secs(120);
    stack.poll(now, 64);
    drain(&mut stack, &mut far);
    assert_eq!(stack.poll_timeout(now), None, "nothing is left to do");
}

fn drain(stack: &mut Stack, far: &mut Far) {
    while let Some(packet) = stack.poll_packet() {
        let header = Ip::parse(&packet).expect("a packet");
        assert!(packet.len() <= CELL_INNER_LARGE && Some(header.source) == CLIENT.like(header.destination));
        if matches!(header.protocol, TCP | UDP) {
            assert!(ip::is_summed(&packet, &header));
        }
        let transport = &packet[header.header..];
        if header.protocol == TCP && half(transport, 0) == far.port {
            let syn = u32::from(transport[tcp::FLAGS] & tcp::SYN != 0);
            far.acknowledged = word(transport, tcp::SEQUENCE).wrapping_add(syn);
        }
    }
}

fn offload(input: &mut Input) -> Offload {
    let kind = *input.pick(&[Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp]);
    Offload { kind, segment: input.half(), needs_checksum: input.flag(), ..Offload::default() }
}

/// A packet of the far side's; how many bytes of payload it has.
fn segment(input: &mut Input, far: &mut Far) -> (Vec<u8>, u64) {
    let is_udp = input.one_in(8);
    let most = if input.one_in(8) { 30_000 } else { 600 };
    let payload = input.below(most);
    let transport = if is_udp { ip::UDP_HEADER } else { ip::TCP_HEADER };
    let source = far.at.ip();
    let header = if source.is_ipv4() { ip::V4_HEADER } else { ip::V6_HEADER };
    let destination = CLIENT.like(source).expect("of both");
    let protocol = if is_udp { UDP } else { TCP };
    let ip = Ip { source, destination, protocol, header, ecn: 0, fragment: false, divisible: false };
    let len = transport + payload;
    let mut packet = vec![0; header + len];
    ip.emit(len, &mut packet).expect("room");
    let bytes = &mut packet[header..];
    put_half(bytes, 0, far.at.port());
    put_half(bytes, 2, far.port);
    if is_udp {
        put_half(bytes, udp::LENGTH, len as u16);
    } else {
        let flags =
            *input.pick(&[tcp::ACK, tcp::SYN | tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::SYN, 0xff]);
        let off = if input.one_in(4) { u32::from(input.half()).wrapping_sub(3000) } else { 0 };
        put_word(bytes, tcp::SEQUENCE, far.sequence.wrapping_add(off));
        let back = if input.one_in(4) { input.word() % 100 } else { 0 };
        put_word(bytes, 8, far.acknowledged.wrapping_sub(back));
        (bytes[tcp::OFFSET], bytes[tcp::FLAGS]) = (5 << 4, flags);
        put_half(bytes, 14, if input.one_in(4) { input.half() } else { 0xffff });
        if off == 0 {
            let control = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
            far.sequence = far.sequence.wrapping_add(payload as u32 + control);
        }
    }
    let at = header + if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    let sum = ip::pseudo(&packet, ip.is_v6(), protocol, len).and(&packet[header..]).complement();
    put_half(&mut packet, at, sum);
    if input.one_in(8) {
        input.mutate(&mut packet);
    }
    (packet, payload as u64)
}

//! IP packets, as far as a tunnel reads and writes them: IPv4 (RFC 791) and IPv6 (RFC 8200) headers, those of TCP
//! (RFC 9293) and UDP (RFC 768), and the Internet checksum (RFC 1071). Integers are big-endian.
//!
//! ```text
//! IPv4   0 version, length | 1 TOS | 2 total | 4 id | 6 flags, fragment | 8 TTL | 9 protocol | 10 checksum | 12, 16 addresses
//! IPv6   0 version, class, flow | 4 payload | 6 next header | 7 hop limit | 8, 24 addresses
//! TCP    0, 2 ports | 4 sequence | 8 acknowledgement | 12 offset | 13 flags | 14 window | 16 checksum | 18 urgent
//! UDP    0, 2 ports | 4 length | 6 checksum
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Malformed;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMP6: u8 = 58;

/// An IPv4 header without options, bytes.
pub const V4_HEADER: usize = 20;
/// An IPv6 header, bytes.
pub const V6_HEADER: usize = 40;
/// A TCP header without options, bytes.
pub const TCP_HEADER: usize = 20;
/// A UDP header, bytes.
pub const UDP_HEADER: usize = 8;
/// The longest IPv4 packet, bytes; an IPv6 packet may have a header more.
pub const PACKET_MAX: usize = 65_535;

/// Where fields lie in an IPv4 header.
pub mod v4 {
    #![allow(missing_docs, reason = "the drawing above")]
    pub const TOS: usize = 1;
    pub const TOTAL: usize = 2;
    pub const ID: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const ADDRESSES: usize = 12;
    pub const DONT_FRAGMENT: u16 = 0x4000;
}

/// Where fields lie in an IPv6 header.
pub mod v6 {
    #![allow(missing_docs, reason = "the drawing above")]
    pub const PAYLOAD: usize = 4;
    pub const NEXT: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const ADDRESSES: usize = 8;
}

/// Where fields lie in a TCP header, and its flags.
pub mod tcp {
    #![allow(missing_docs, reason = "the drawing above")]
    pub const SEQUENCE: usize = 4;
    pub const ACKNOWLEDGEMENT: usize = 8;
    pub const OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Where fields lie in a UDP header.
pub mod udp {
    #![allow(missing_docs, reason = "the drawing above")]
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// One address of each family, as far as there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// That of the family of another.
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// All that there are.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What an IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// What follows the header: for IPv6 an extension header perhaps.
    pub protocol: u8,
    /// The header with its options (IPv4) and without extension headers (IPv6), bytes.
    pub header: usize,
    /// ECN code point.
    pub ecn: u8,
    /// Whether it is a part of a packet (IPv4).
    pub fragment: bool,
    /// Whether routers may cut it (IPv4).
    pub divisible: bool,
}

impl Ip {
    /// Reads the header of a packet whose length is exactly what its header says.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(Malformed("IP version")),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; V4_HEADER] = packet.first_chunk().ok_or(Malformed("IPv4 header"))?;
        let header = usize::from(bytes[0] & 15) * 4;
        if header < V4_HEADER || header > packet.len() || half(bytes, v4::TOTAL) as usize != packet.len() {
            return Err(Malformed("IPv4 length"));
        }
        let address = |at: usize| Ipv4Addr::from_bits(word(bytes, at)).into();
        let fragment = half(bytes, v4::FRAGMENT);
        Ok(Self {
            source: address(v4::ADDRESSES),
            destination: address(v4::ADDRESSES + 4),
            protocol: bytes[v4::PROTOCOL],
            header,
            ecn: bytes[v4::TOS] & 3,
            fragment: fragment & 0x3fff != 0,
            divisible: fragment & v4::DONT_FRAGMENT == 0,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; V6_HEADER] = packet.first_chunk().ok_or(Malformed("IPv6 header"))?;
        if V6_HEADER + half(bytes, v6::PAYLOAD) as usize != packet.len() {
            return Err(Malformed("IPv6 length"));
        }
        let address = |at: usize| {
            let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
            Ipv6Addr::from(octets).into()
        };
        Ok(Self {
            source: address(v6::ADDRESSES),
            destination: address(v6::ADDRESSES + 16),
            protocol: bytes[v6::NEXT],
            header: V6_HEADER,
            ecn: bytes[1] >> 4 & 3,
            fragment: false,
            divisible: false,
        })
    }

    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Writes a header for `payload` bytes behind it: no options, no fragment, a hop limit of 64. Returns its length;
    /// `None` when there is no room, or the packet would be too long.
    pub fn emit(&self, payload: usize, out: &mut [u8]) -> Option<usize> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header: &mut [u8; V4_HEADER] = out.first_chunk_mut()?;
                let total = u16::try_from(V4_HEADER + payload).ok()?;
                *header = [0; V4_HEADER];
                header[0] = 0x45;
                header[v4::TOS] = self.ecn & 3;
                put_half(header, v4::TOTAL, total);
                put_half(header, v4::FRAGMENT, if self.divisible { 0 } else { v4::DONT_FRAGMENT });
                header[v4::TTL] = 64;
                header[v4::PROTOCOL] = self.protocol;
                header[v4::ADDRESSES..][..4].copy_from_slice(&source.octets());
                header[v4::ADDRESSES + 4..][..4].copy_from_slice(&destination.octets());
                sum_v4(header);
                Some(V4_HEADER)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header: &mut [u8; V6_HEADER] = out.first_chunk_mut()?;
                let len = u16::try_from(payload).ok()?;
                *header = [0; V6_HEADER];
                header[0] = 0x60;
                header[1] = (self.ecn & 3) << 4;
                put_half(header, v6::PAYLOAD, len);
                header[v6::NEXT] = self.protocol;
                header[v6::HOP_LIMIT] = 64;
                header[v6::ADDRESSES..][..16].copy_from_slice(&source.octets());
                header[v6::ADDRESSES + 16..][..16].copy_from_slice(&destination.octets());
                Some(V6_HEADER)
            }
            _ => None,
        }
    }
}

/// Marks a packet that [`Ip::parse`] accepted as having met congestion; false when it is not ECN-capable.
pub fn mark_congestion(packet: &mut [u8], ip: &Ip) -> bool {
    if ip.ecn == 0 {
        return false;
    }
    if ip.is_v6() {
        packet[1] |= 0x30;
    } else {
        packet[v4::TOS] |= 3;
        sum_v4(&mut packet[..ip.header]);
    }
    true
}

/// Writes the checksum of an IPv4 header.
pub fn sum_v4(header: &mut [u8]) {
    put_half(header, v4::CHECKSUM, 0);
    let sum = Sum::of(header).complement();
    put_half(header, v4::CHECKSUM, sum);
}

/// The big-endian 16-bit number at `at`.
#[inline]
pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit number at `at`.
#[inline]
pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a 16-bit number.
#[inline]
pub fn put_half(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes a 32-bit number.
#[inline]
pub fn put_word(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The Internet checksum's sum (RFC 1071). It does not depend on the order of bytes in a word, so it is added up in
/// the CPU's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Of these bytes; those of a part but the last of what is summed up must be even in number.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().and(bytes)
    }

    /// Adds bytes.
    #[inline]
    pub fn and(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        // No packet has so many words that this overflows.
        Self(self.0 + sum)
    }

    /// Adds a number.
    #[inline]
    pub fn and_number(self, value: u32) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// Sixteen bits of it: what a partial checksum's field holds.
    #[inline]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum.
    #[inline]
    pub fn complement(self) -> u16 {
        !self.fold()
    }
}

/// The sum of the pseudo header of a packet's transport segment of `len` bytes (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline]
pub fn pseudo(packet: &[u8], is_v6: bool, protocol: u8, len: usize) -> Sum {
    let addresses = if is_v6 { &packet[v6::ADDRESSES..V6_HEADER] } else { &packet[v4::ADDRESSES..V4_HEADER] };
    Sum::of(addresses).and_number(u32::from(protocol)).and_number(len as u32)
}

/// Whether the TCP or UDP checksum of a packet is right.
pub fn is_summed(packet: &[u8], ip: &Ip) -> bool {
    let segment = &packet[ip.header..];
    pseudo(packet, ip.is_v6(), ip.protocol, segment.len()).and(segment).fold() == 0xffff
}

/// The largest first bytes of a packet that answer to it quotes: RFC 792's are few, RFC 4443's fill the least MTU.
const QUOTE_MAX: usize = 548;
const V6_MTU_MIN: u32 = 1280;

/// Writes the answer to a packet that is too long for its way, whose source will make its packets no longer than `mtu`
/// then (RFC 1191 §4, RFC 4443 §3.2). It comes from where the packet was going. `None` for what is never answered
/// (RFC 1122 §3.2.2): errors, fragments, what was not sent by or to one host, and for packets that may be cut.
pub fn too_big(packet: &[u8], ip: &Ip, mtu: u32, out: &mut [u8]) -> Option<usize> {
    if ip.divisible {
        return None;
    }
    let rest = if ip.is_v6() { mtu.max(V6_MTU_MIN) } else { u16::try_from(mtu).unwrap_or(u16::MAX).into() };
    error(packet, ip, if ip.is_v6() { (2, 0) } else { (3, 4) }, rest, out)
}

/// Writes the answer to a packet that a rule forbids (RFC 1812 §5.2.7.1, RFC 4443 §3.1), as [`too_big`] does.
pub fn prohibited(packet: &[u8], ip: &Ip, out: &mut [u8]) -> Option<usize> {
    error(packet, ip, if ip.is_v6() { (1, 1) } else { (3, 13) }, 0, out)
}

/// An error of ICMP: type and code, and the four bytes behind the checksum.
fn error(packet: &[u8], ip: &Ip, (kind, code): (u8, u8), rest: u32, out: &mut [u8]) -> Option<usize> {
    let first = packet.get(ip.header).copied();
    let (protocol, is_error) = if ip.is_v6() {
        (ICMP6, ip.protocol == ICMP6 && first.is_none_or(|kind| kind < 128))
    } else {
        (ICMP, ip.protocol == ICMP && first.is_none_or(|kind| !matches!(kind, 0 | 8 | 13 | 14)))
    };
    let hosts = [ip.source, ip.destination];
    let many = hosts.iter().any(|host| host.is_multicast() || host.is_unspecified());
    let broadcast = ip.destination == IpAddr::V4(Ipv4Addr::BROADCAST);
    if is_error || ip.fragment || many || broadcast {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_MAX)];
    let answer = Ip {
        source: ip.destination,
        destination: ip.source,
        protocol,
        ecn: 0,
        fragment: false,
        divisible: false,
        ..*ip
    };
    let at = answer.emit(8 + quote.len(), out)?;
    let (headers, message) = out.get_mut(..at + 8 + quote.len())?.split_at_mut(at);
    message[..8].fill(0);
    message[8..].copy_from_slice(quote);
    (message[0], message[1]) = (kind, code);
    put_word(message, 4, rest);
    let sum =
        if ip.is_v6() { pseudo(headers, true, ICMP6, message.len()).and(message) } else { Sum::of(message) };
    put_half(message, 2, sum.complement());
    Some(at + message.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn address() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<(u32, u32)>().prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into())),
            any::<(u128, u128)>().prop_map(|(a, b)| (Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into())),
        ]
    }

    /// RFC 1071's sum as it is written there.
    pub(crate) fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn headers_round_trip((source, destination) in address(), protocol: u8, ecn in 0u8..4, divisible: bool, len in 0usize..200) {
            let divisible = divisible && source.is_ipv4();
            let header = if source.is_ipv4() { V4_HEADER } else { V6_HEADER };
            let ip = Ip { source, destination, protocol, header, ecn, fragment: false, divisible };
            let mut packet = vec![0; header + len];
            prop_assert_eq!(ip.emit(len, &mut packet), Some(header));
            prop_assert_eq!(Ip::parse(&packet), Ok(ip));
            prop_assert!(Ip::parse(&packet[..packet.len() - 1]).is_err());
            if source.is_ipv4() {
                prop_assert_eq!(slow(&packet[..header]), 0xffff);
            }
            prop_assert_eq!(mark_congestion(&mut packet, &ip), ecn != 0);
            let marked = Ip { ecn: if ecn == 0 { 0 } else { 3 }, ..ip };
            prop_assert_eq!(Ip::parse(&packet), Ok(marked));
            if source.is_ipv4() {
                prop_assert_eq!(slow(&packet[..header]), 0xffff);
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 15;
            }
            if let Ok(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.header <= bytes.len());
                is_summed(&bytes, &ip);
                too_big(&bytes, &ip, 1200, &mut [0; 700]);
                prohibited(&bytes, &ip, &mut [0; 700]);
            }
        }

        #[test]
        fn sums_are_the_rfc_s(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            prop_assert_eq!(Sum::of(&bytes).fold() % 0xffff, slow(&bytes) % 0xffff);
            let (head, tail) = bytes.split_at((2 * cut).min(bytes.len() / 2 * 2));
            prop_assert_eq!(Sum::of(head).and(tail).fold(), Sum::of(&bytes).fold());
        }
    }

    #[test]
    fn a_long_packet_is_answered_from_where_it_was_going() {
        for (source, destination, header) in
            [("10.0.0.1", "10.0.0.2", V4_HEADER), ("fd00::1", "fd00::2", V6_HEADER)]
        {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let ip =
                Ip { source, destination, protocol: TCP, header, ecn: 0, fragment: false, divisible: false };
            let mut packet = vec![7; header + 1400];
            ip.emit(1400, &mut packet).unwrap();
            let mut out = [0; 700];
            let len = too_big(&packet, &ip, 1300, &mut out).unwrap();
            let answer = Ip::parse(&out[..len]).unwrap();
            assert_eq!((answer.source, answer.destination), (destination, source));
            let message = &out[header..len];
            assert_eq!(message[8..], packet[..QUOTE_MAX]);
            if source.is_ipv4() {
                assert_eq!((message[0], message[1], half(message, 6), answer.protocol), (3, 4, 1300, ICMP));
                assert_eq!(Sum::of(message).fold(), 0xffff);
            } else {
                assert_eq!((message[0], word(message, 4), answer.protocol), (2, 1300, ICMP6));
                assert!(is_summed(&out[..len], &answer));
            }
            let error = out[..len].to_vec();
            assert_eq!(too_big(&error, &answer, 1300, &mut [0; 700]), None, "an error is never answered");
            let divisible = Ip { divisible: true, ..ip };
            assert_eq!(too_big(&packet, &divisible, 1300, &mut out), None);
            assert_eq!(too_big(&packet, &ip, 1300, &mut [0; 500]), None, "no room");
        }
    }
}

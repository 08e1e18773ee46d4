//! Other addresses in IP packets, with every checksum kept as right or wrong as it was (RFC 1624), and checksums that were
//! left open completed.

use std::net::IpAddr;

use crate::wire::ip::{
    ICMP, ICMP6, Ip, Sum, TCP, UDP, V4_HEADER, V6_HEADER, half, put_half, tcp, udp, v4, v6,
};

/// Which of a packet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From.
    Source,
    /// To.
    Destination,
}

/// The TCP or UDP checksum that was left open is completed: its field holds the pseudo header's sum.
pub fn complete(packet: &mut [u8], ip: &Ip) {
    let Some(at) = checksum_at(packet, ip) else { return };
    let sum = Sum::of(&packet[ip.header..]).complement();
    put_half(packet, at, if sum == 0 { 0xffff } else { sum });
}

/// Where the transport checksum over the pseudo header lies in a packet, if it has one.
fn checksum_at(packet: &[u8], ip: &Ip) -> Option<usize> {
    let (mut protocol, mut transport) = (ip.protocol, ip.header);
    if ip.fragment && half(packet, v4::FRAGMENT) & 0x1fff != 0 {
        return None;
    }
    const FRAGMENT6: u8 = 44;
    if ip.is_v6() && protocol == FRAGMENT6 {
        let header = packet.get(transport..transport + 8)?;
        if half(header, 2) & !7 != 0 {
            return None;
        }
        (protocol, transport) = (header[0], transport + 8);
    }
    let offset = match protocol {
        TCP => tcp::CHECKSUM,
        UDP => udp::CHECKSUM,
        ICMP6 if ip.is_v6() => 2,
        _ => return None,
    };
    (transport + offset + 2 <= packet.len()).then_some(transport + offset)
}

/// The checksum of what held `old` and holds `new` now (RFC 1624 eqn. 3); both are even in number.
fn adjust(packet: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let before = half(packet, at);
    let sum = u32::from(!before) + u32::from(!Sum::of(old).fold()) + u32::from(Sum::of(new).fold());
    let sum = (sum & 0xffff) + (sum >> 16);
    put_half(packet, at, !(((sum & 0xffff) + (sum >> 16)) as u16));
}

/// Puts another address of the same family into a packet that [`Ip::parse`] accepted; every checksum stays as right or
/// wrong as it was. An error of ICMP (RFC 792, RFC 4443) that goes to the address quotes a packet that came from it: it is
/// changed there, too. False when the families differ.
pub fn readdress(packet: &mut [u8], ip: &Ip, side: Side, to: IpAddr) -> bool {
    let (mut old, mut new) = ([0; 16], [0; 16]);
    let (first, len) = match (ip.is_v6(), to) {
        (false, IpAddr::V4(v4)) => {
            new[..4].copy_from_slice(&v4.octets());
            (v4::ADDRESSES, 4)
        }
        (true, IpAddr::V6(v6)) => {
            new = v6.octets();
            (v6::ADDRESSES, 16)
        }
        _ => return false,
    };
    let at = if side == Side::Source { first } else { first + len };
    old[..len].copy_from_slice(&packet[at..at + len]);
    let (old, new) = (&old[..len], &new[..len]);
    packet[at..at + len].copy_from_slice(new);
    if !ip.is_v6() {
        adjust(packet, v4::CHECKSUM, old, new);
    }
    if let Some(field) = checksum_at(packet, ip) {
        let is_udp = field == ip.header + udp::CHECKSUM && ip.protocol == UDP;
        // RFC 768: zero is no checksum.
        if !(is_udp && half(packet, field) == 0) {
            adjust(packet, field, old, new);
            if is_udp && half(packet, field) == 0 {
                put_half(packet, field, 0xffff);
            }
        }
    }
    if side == Side::Destination {
        readdress_quoted(packet, ip, old, new);
    }
    true
}

/// In the packet that an error quotes, the source.
fn readdress_quoted(packet: &mut [u8], ip: &Ip, old: &[u8], new: &[u8]) {
    let quote = ip.header + 8;
    let kind = packet.get(ip.header).copied().unwrap_or(0);
    let (header, at) = match ip.protocol {
        ICMP if !ip.is_v6() && !ip.fragment && matches!(kind, 3 | 11 | 12) => {
            (V4_HEADER, quote + v4::ADDRESSES)
        }
        ICMP6 if ip.is_v6() && (1..=4).contains(&kind) => (V6_HEADER, quote + v6::ADDRESSES),
        _ => return,
    };
    if packet.len() < quote + header || packet[at..at + old.len()] != *old {
        return;
    }
    packet[at..at + new.len()].copy_from_slice(new);
    if ip.is_v6() {
        adjust(packet, ip.header + 2, old, new);
    } else {
        // A header's sum does not change with its checksum in it, so the error's own does not.
        adjust(packet, quote + v4::CHECKSUM, old, new);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::wire::ip::tests::{address, slow};
    use crate::wire::ip::{is_summed, prohibited, pseudo};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_changed_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..120), version in prop::sample::select(vec![4u8, 6]), protocol in prop::sample::select(vec![1u8, 6, 17, 44, 58])) {
            let mut bytes = bytes;
            // Lengths that fit, so that most are packets.
            let len = bytes.len() as u16;
            if version == 4 && bytes.len() >= V4_HEADER {
                bytes[0] = 0x40 | (bytes[0] & 15).clamp(5, 6);
                put_half(&mut bytes, v4::TOTAL, len);
                bytes[v4::PROTOCOL] = protocol;
            } else if bytes.len() >= V6_HEADER {
                bytes[0] = 0x60;
                put_half(&mut bytes, v6::PAYLOAD, len - V6_HEADER as u16);
                bytes[v6::NEXT] = protocol;
            }
            if let Ok(ip) = Ip::parse(&bytes) {
                for side in [Side::Source, Side::Destination] {
                    prop_assert!(readdress(&mut bytes, &ip, side, ip.destination));
                    prop_assert!(Ip::parse(&bytes).is_ok());
                }
                complete(&mut bytes, &ip);
            }
        }
    }

    /// Changed addresses leave every checksum right, and a wrong one wrong; changed back, every byte is as it was.
    fn assert_readdressed(bytes: &[u8], side: Side, to: IpAddr) {
        let ip = Ip::parse(bytes).unwrap();
        let mut changed = bytes.to_vec();
        assert!(readdress(&mut changed, &ip, side, to));
        let now = Ip::parse(&changed).unwrap();
        let back = if side == Side::Source { ip.source } else { ip.destination };
        assert_eq!(if side == Side::Source { now.source } else { now.destination }, to);
        if !ip.is_v6() {
            assert_eq!(slow(&changed[..ip.header]), 0xffff);
        }
        if ip.protocol != ICMP {
            assert_eq!(is_summed(&changed, &now), is_summed(bytes, &ip));
        }
        assert!(readdress(&mut changed, &now, side, back));
        // Zero has two forms in this arithmetic.
        let at = checksum_at(bytes, &ip);
        for (n, (a, b)) in changed.iter().zip(bytes).enumerate() {
            let field = at.is_some_and(|at| n / 2 == at / 2) && matches!(half(&changed, n & !1), 0 | 0xffff);
            assert!(a == b || field, "byte {n}");
        }
    }

    proptest! {
        #[test]
        fn addresses_change_and_checksums_stay_right((source, destination) in address(), (other, _) in address(), protocol in prop::sample::select(vec![TCP, UDP, ICMP, ICMP6, 50]), payload in prop::collection::vec(any::<u8>(), 20..90), right: bool) {
            let other = match (source, other) {
                (IpAddr::V4(_), IpAddr::V6(v6)) => IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32)),
                (IpAddr::V6(_), IpAddr::V4(v4)) => IpAddr::V6(Ipv6Addr::from_bits(v4.to_bits().into())),
                (_, other) => other,
            };
            let header = if source.is_ipv4() { V4_HEADER } else { V6_HEADER };
            let ip = Ip { source, destination, protocol, header, ecn: 0, fragment: false, divisible: false };
            let mut packet = vec![0; header + payload.len()];
            ip.emit(payload.len(), &mut packet).unwrap();
            packet[header..].copy_from_slice(&payload);
            if right && let Some(at) = checksum_at(&packet, &ip) {
                put_half(&mut packet, at, 0);
                let sum = pseudo(&packet, ip.is_v6(), protocol, payload.len()).and(&packet[header..]).complement();
                put_half(&mut packet, at, if sum == 0 { 0xffff } else { sum });
            }
            assert_readdressed(&packet, Side::Source, other);
            assert_readdressed(&packet, Side::Destination, other);
        }
    }

    #[test]
    fn an_error_names_the_address_that_its_receiver_has() {
        for (client, pool, far, header) in [
            ("10.116.1.1", "10.117.0.9", "9.9.9.9", V4_HEADER),
            ("fd74::1", "fd75::9", "2620:fe::fe", V6_HEADER),
        ] {
            let [client, pool, far]: [IpAddr; 3] = [client, pool, far].map(|text| text.parse().unwrap());
            let ip = Ip {
                source: pool,
                destination: far,
                protocol: UDP,
                header,
                ecn: 0,
                fragment: false,
                divisible: false,
            };
            let mut packet = vec![7; header + 100];
            ip.emit(100, &mut packet).unwrap();
            let mut out = [0; 700];
            let len = prohibited(&packet, &ip, &mut out).unwrap();
            let error = Ip::parse(&out[..len]).unwrap();
            assert_eq!((error.source, error.destination), (far, pool));
            assert!(readdress(&mut out[..len], &error, Side::Destination, client));
            let quoted = &out[header + 8..len];
            let at = if client.is_ipv4() { v4::ADDRESSES } else { v6::ADDRESSES };
            match client {
                IpAddr::V4(v4) => {
                    assert_eq!(quoted[at..at + 4], v4.octets());
                    assert_eq!(
                        (slow(&quoted[..V4_HEADER]), Sum::of(&out[header..len]).fold()),
                        (0xffff, 0xffff)
                    );
                }
                IpAddr::V6(v6) => {
                    assert_eq!(quoted[at..at + 16], v6.octets());
                    assert!(is_summed(&out[..len], &Ip::parse(&out[..len]).unwrap()));
                }
            }
        }
    }
}

//! Whose a packet is that came through the node's circuit: the kernel and the SOCKS proxy share it, each with local ports
//! of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::{SOCKS_PORT_FIRST, SOCKS_PORT_LAST};
use crate::wire::ip::{ICMP, ICMP6, Ip, TCP, UDP, V4_HEADER, V6_HEADER, half, v4, v6};

/// What an error of ICMP says of a packet that was sent from here (RFC 792, RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// The error's type and code.
    pub error: (u8, u8),
    /// The packet's protocol: TCP or UDP.
    pub protocol: u8,
    /// The port that it was sent from.
    pub port: u16,
    /// Where it was to go.
    pub to: SocketAddr,
}

/// Whether a local port is the proxy's.
pub fn is_proxys(port: u16) -> bool {
    (SOCKS_PORT_FIRST..=SOCKS_PORT_LAST).contains(&port)
}

/// The ports of a TCP or UDP packet, from and to. None for others, and for parts of packets.
pub fn ports(packet: &[u8], ip: &Ip) -> Option<(u16, u16)> {
    let known = !ip.fragment && matches!(ip.protocol, TCP | UDP) && packet.len() >= ip.header + 4;
    known.then(|| (half(packet, ip.header), half(packet, ip.header + 2)))
}

/// What an error quotes, if the packet is one and says enough.
pub fn quoted(packet: &[u8], ip: &Ip) -> Option<Quoted> {
    let message = packet.get(ip.header..)?;
    let (error, quote) = ((*message.first()?, *message.get(1)?), message.get(8..)?);
    let (protocol, header, to): (u8, usize, IpAddr) = match ip.protocol {
        ICMP if !ip.is_v6() && !ip.fragment && matches!(error.0, 3 | 11 | 12) => {
            let fixed: &[u8; V4_HEADER] = quote.first_chunk()?;
            let header = usize::from(fixed[0] & 15) * 4;
            if fixed[0] >> 4 != 4 || header < V4_HEADER || half(fixed, v4::FRAGMENT) & 0x1fff != 0 {
                return None;
            }
            let to: [u8; 4] = *fixed[v4::ADDRESSES + 4..].first_chunk()?;
            (fixed[v4::PROTOCOL], header, Ipv4Addr::from(to).into())
        }
        ICMP6 if ip.is_v6() && (1..=4).contains(&error.0) => {
            let fixed: &[u8; V6_HEADER] = quote.first_chunk()?;
            let to: [u8; 16] = *fixed[v6::ADDRESSES + 16..].first_chunk()?;
            (fixed[v6::NEXT], V6_HEADER, Ipv6Addr::from(to).into())
        }
        _ => return None,
    };
    let known = matches!(protocol, TCP | UDP) && quote.len() >= header + 4;
    known.then(|| Quoted {
        error,
        protocol,
        port: half(quote, header),
        to: SocketAddr::new(to, half(quote, header + 2)),
    })
}

/// Whether a packet that came is for the proxy and not for the device.
pub fn is_for_proxy(packet: &[u8], ip: &Ip) -> bool {
    ports(packet, ip)
        .map(|(_, to)| to)
        .or_else(|| quoted(packet, ip).map(|quoted| quoted.port))
        .is_some_and(is_proxys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::{prohibited, put_half};
    use proptest::prelude::*;

    fn packet(source: IpAddr, destination: IpAddr, protocol: u8, ports: (u16, u16)) -> (Vec<u8>, Ip) {
        let header = if source.is_ipv4() { V4_HEADER } else { V6_HEADER };
        let ip = Ip { source, destination, protocol, header, ecn: 0, fragment: false, divisible: false };
        let mut bytes = vec![0; header + 20];
        ip.emit(20, &mut bytes).expect("room");
        put_half(&mut bytes, header, ports.0);
        put_half(&mut bytes, header + 2, ports.1);
        (bytes, ip)
    }

    proptest! {
        #[test]
        fn answers_find_who_sent_what_they_answer((source, destination) in crate::wire::ip::tests::address(), is_udp: bool, from: u16, to: u16) {
            prop_assume!([source, destination].iter().all(|one| !one.is_multicast() && !one.is_unspecified()));
            prop_assume!(destination != IpAddr::V4(Ipv4Addr::BROADCAST));
            let protocol = if is_udp { UDP } else { TCP };
            let (sent, ip) = packet(source, destination, protocol, (from, to));
            prop_assert_eq!(is_for_proxy(&sent, &ip), is_proxys(to));
            prop_assert_eq!(quoted(&sent, &ip), None);
            let mut answer = vec![0; 200];
            let len = prohibited(&sent, &ip, &mut answer).expect("an answer");
            answer.truncate(len);
            let header = Ip::parse(&answer).expect("a packet");
            let error = if source.is_ipv4() { (3, 13) } else { (1, 1) };
            let wanted = Quoted { error, protocol, port: from, to: SocketAddr::new(destination, to) };
            prop_assert_eq!(quoted(&answer, &header), Some(wanted));
            prop_assert_eq!(is_for_proxy(&answer, &header), is_proxys(from));
            // Cut anywhere, it says less and does no harm.
            for cut in 0..len {
                let _ = quoted(&answer[..cut], &header);
            }
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(header) = Ip::parse(&bytes) {
                let _ = is_for_proxy(&bytes, &header);
            }
        }
    }
}

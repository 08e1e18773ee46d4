//! UDP datagrams as IP packets: what a node that has no socket sends and gets through a circuit (docs/protocol/onion.md
//! §12). A train becomes one superpacket, which [`super::Cut`] cuts where the train's datagrams end.

use std::net::SocketAddr;
use std::ops::Range;

use crate::base::{Offload, Segmentation};
use crate::wire::ip::{self, Ip, UDP, half, put_half, udp};

/// What stands before a UDP payload to an address, bytes.
pub fn headers(to: SocketAddr) -> usize {
    ip::UDP_HEADER + if to.is_ipv4() { ip::V4_HEADER } else { ip::V6_HEADER }
}

/// Writes the headers of datagrams of `segment` bytes each, the last of which may be shorter, before their bytes: these lie
/// in `packet` behind [`headers`]. Returns the IP header and what is left to be done; `None` when the families differ, or it
/// would be too long for a packet.
pub fn wrap(
    packet: &mut [u8],
    segment: usize,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<(Ip, Offload)> {
    let payload = packet.len().checked_sub(headers(destination))?;
    let header = headers(destination) - ip::UDP_HEADER;
    let (source_ip, destination_ip) = (source.ip(), destination.ip());
    let ip = Ip {
        source: source_ip,
        destination: destination_ip,
        protocol: UDP,
        header,
        ecn: 0,
        fragment: false,
        divisible: false,
    };
    let len = ip::UDP_HEADER + payload;
    ip.emit(len, packet)?;
    let transport = &mut packet[header..];
    put_half(transport, 0, source.port());
    put_half(transport, 2, destination.port());
    put_half(transport, udp::LENGTH, len as u16);
    let sum = ip::pseudo(packet, ip.is_v6(), UDP, len).fold();
    put_half(packet, header + udp::CHECKSUM, sum);
    let many = segment > 0 && payload > segment;
    let offload = Offload {
        kind: if many { Segmentation::Udp } else { Segmentation::None },
        header_len: (header + ip::UDP_HEADER) as u16,
        segment: if many { u16::try_from(segment).ok()? } else { 0 },
        needs_checksum: true,
        checksum_start: header as u16,
        checksum_offset: udp::CHECKSUM as u16,
    };
    Some((ip, offload))
}

/// A UDP datagram that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, as its header says.
    pub from: SocketAddr,
    /// The port that it is for.
    pub to: u16,
    /// Where its payload lies in the packet; not empty.
    pub payload: Range<usize>,
}

/// Reads a UDP datagram whose IP header was read. `None` of anything else: parts of packets, extension headers, a length
/// that is not the packet's, and what holds nothing. Its checksum is not looked at: whoever it is for authenticates it.
pub fn unwrap(packet: &[u8], ip: &Ip) -> Option<Datagram> {
    let transport = packet.get(ip.header..)?;
    if ip.fragment || ip.protocol != UDP || transport.len() <= ip::UDP_HEADER {
        return None;
    }
    if usize::from(half(transport, udp::LENGTH)) != transport.len() {
        return None;
    }
    let payload = ip.header + ip::UDP_HEADER..packet.len();
    Some(Datagram { from: SocketAddr::new(ip.source, half(transport, 0)), to: half(transport, 2), payload })
}

#[cfg(test)]
mod tests {
    use super::super::{Cut, readdress};
    use super::*;
    use crate::limits::TRAIN_SEGMENTS_MAX;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_train_goes_through_packets_and_comes_out_as_it_was(
            (source, destination) in crate::wire::ip::tests::address(),
            ports: (u16, u16),
            segment in 1usize..1300,
            count in 1usize..TRAIN_SEGMENTS_MAX,
            last in 1usize..1300,
        ) {
            let payload: Vec<u8> =
                (0..(count - 1) * segment + last.min(segment)).map(|n| (n / 7 + n) as u8).collect();
            prop_assume!(payload.len() <= crate::limits::TRAIN_SIZE_MAX);
            let (from, to) = (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1));
            let mut packet = vec![0xee; headers(to)];
            packet.extend(&payload);
            let (header, offload) = wrap(&mut packet, segment, from, to).expect("one family, and it fits");
            prop_assert_eq!(Ip::parse(&packet), Ok(header));
            let cut = Cut::new(&packet, &header, &offload).expect("it can be cut");
            prop_assert_eq!(cut.count(), count);
            let mut came = Vec::new();
            for index in 0..cut.count() {
                let mut one = vec![0; cut.size(index)];
                cut.write(&packet, index, &mut one);
                prop_assert!(cut.is_open());
                readdress::complete(&mut one, &header);
                let ip = Ip::parse(&one).expect("a packet");
                prop_assert!(ip::is_summed(&one, &ip));
                let datagram = unwrap(&one, &ip).expect("a datagram");
                prop_assert_eq!((datagram.from, datagram.to), (from, to.port()));
                prop_assert!(index + 1 == count || datagram.payload.len() == segment);
                came.extend_from_slice(&one[datagram.payload]);
            }
            prop_assert_eq!(came, payload);
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(ip) = Ip::parse(&bytes)
                && let Some(datagram) = unwrap(&bytes, &ip)
            {
                prop_assert!(!datagram.payload.is_empty() && datagram.payload.end == bytes.len());
            }
        }
    }

    #[test]
    fn what_cannot_be_a_packet_is_refused() {
        let (v4, v6): (SocketAddr, SocketAddr) = ("1.2.3.4:5".parse().unwrap(), "[::1]:5".parse().unwrap());
        assert!(wrap(&mut [0; 100], 10, v4, v6).is_none(), "two families");
        assert!(wrap(&mut [0; 10], 10, v4, v4).is_none(), "no room");
        assert!(wrap(&mut vec![0; 65_536], 1000, v4, v4).is_none(), "too long");
        let mut short = vec![0; 40];
        let (ip, _) = wrap(&mut short, 100, v4, v4).expect("it fits");
        put_half(&mut short, 20 + udp::LENGTH, 19);
        assert!(unwrap(&short, &ip).is_none(), "a length of its own");
    }
}

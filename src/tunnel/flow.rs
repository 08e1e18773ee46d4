//! Which flow a packet is of: its addresses, protocol and ports, as a number that nobody outside can foresee, so that
//! nobody can have a flow of theirs taken for another's.

use crate::base::Rng;
use crate::crypto::hash::mac;
use crate::crypto::kdf::Secret;
use crate::wire::ip::Ip;
use std::net::IpAddr;

use super::quoted::ports;

/// Numbers flows, with a secret of this node's.
#[derive(Clone)]
pub struct Flows {
    secret: Secret,
}

impl Flows {
    /// With a secret that is drawn.
    pub fn new(rng: &mut Rng) -> Self {
        Self { secret: Secret::from_bytes(rng.bytes()) }
    }

    /// The flow of a packet in this direction. Parts of a packet are all of one flow, with those of their hosts that have
    /// no ports.
    pub fn of(&self, packet: &[u8], ip: &Ip) -> u64 {
        let (from, to) = ports(packet, ip).unwrap_or_default();
        self.number((ip.source, from), (ip.destination, to), ip.protocol)
    }

    /// The same number for what comes back: the flow of the answers to such a packet.
    pub fn of_answers(&self, packet: &[u8], ip: &Ip) -> u64 {
        let (from, to) = ports(packet, ip).unwrap_or_default();
        self.number((ip.destination, to), (ip.source, from), ip.protocol)
    }

    fn number(&self, from: (IpAddr, u16), to: (IpAddr, u16), protocol: u8) -> u64 {
        let mut name = [0; 37];
        for (at, (address, port)) in [from, to].into_iter().enumerate() {
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            name[18 * at..][..16].copy_from_slice(&address.octets());
            name[18 * at + 16..][..2].copy_from_slice(&port.to_be_bytes());
        }
        name[36] = protocol;
        let tag = mac(&self.secret, &[&name]);
        u64::from_le_bytes(*tag.first_chunk().expect("16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::wire::ip::{ICMP, TCP, UDP, V4_HEADER};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn packet(from: u8, to: u8, protocol: u8, ports: [u8; 4]) -> (Vec<u8>, Ip) {
        let address = |last| Ipv4Addr::new(10, 0, 0, last).into();
        let (source, destination) = (address(from), address(to));
        let ip = Ip {
            source,
            destination,
            protocol,
            header: V4_HEADER,
            ecn: 0,
            fragment: false,
            divisible: false,
        };
        let mut bytes = vec![0; V4_HEADER + 8];
        bytes[V4_HEADER..][..4].copy_from_slice(&ports);
        (bytes, ip)
    }

    proptest! {
        #[test]
        fn a_flow_is_known_in_both_directions_and_by_all_of_its_name(
            a in (0u8..4, 0u8..4, prop::sample::select(vec![TCP, UDP, ICMP]), any::<[bool; 2]>()),
            b in (0u8..4, 0u8..4, prop::sample::select(vec![TCP, UDP, ICMP]), any::<[bool; 2]>()),
            seed in any::<u64>(),
        ) {
            let flows = Flows::new(&mut Rng::from_number(seed));
            let one = |(from, to, protocol, ports): (u8, u8, u8, [bool; 2]), back: bool| match back {
                false => packet(from, to, protocol, [0, ports[0].into(), 1, ports[1].into()]),
                true => packet(to, from, protocol, [1, ports[1].into(), 0, ports[0].into()]),
            };
            let number = |packet: (Vec<u8>, Ip)| flows.of(&packet.0, &packet.1);
            let answer = one(a, true);
            prop_assert_eq!(number(one(a, false)), flows.of_answers(&answer.0, &answer.1));
            // What has no ports is told apart by its addresses.
            let same = (a.0, a.1, a.2) == (b.0, b.1, b.2) && (a.3 == b.3 || a.2 == ICMP);
            prop_assert_eq!(number(one(a, false)) == number(one(b, false)), same);
            let other = Flows::new(&mut Rng::from_number(seed ^ 1));
            let (bytes, ip) = one(a, false);
            prop_assert_ne!(flows.of(&bytes, &ip), other.of(&bytes, &ip));
        }
    }
}

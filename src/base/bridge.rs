//! Addresses of those who are reached by a bridge (docs/protocol/bridge.md §3).
//!
//! A bridge's thread hands datagrams to the shards from addresses of this machine's own loopback network, 127.64.0.0/10: for
//! whoever keeps paths they are addresses like any other, and packets to and from them are what the kernel carries. Only what is
//! told to others, and what counts by network, must know that nobody is there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Of 127.0.0.0/8, a quarter: the first /16 for bridges that this node uses, the others for guests of its own.
const FIRST: u8 = 64;
const LAST: u8 = 127;
/// Networks of guests that are told apart.
const NETWORKS: u32 = (LAST - FIRST) as u32 * 256;

/// Whether an address stands for somebody who is reached by a bridge.
pub fn is_bridged(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            first == 127 && (FIRST..=LAST).contains(&second)
        }
        IpAddr::V6(_) => false,
    }
}

/// From where what comes by this node's bridges to others is handed to the shards; each has a port there.
pub const OWN: Ipv4Addr = Ipv4Addr::new(127, FIRST, 0, 1);

/// On whose account guests are together, where each network has one: a bridge is cheap to come by from many.
pub const GUESTS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, FIRST + 1, 0, 0)), 1);

/// From where what guests of a network send is handed to the shards: a /24 for each `network`, a number drawn from it, so that what
/// is bounded by prefix is bounded for each of them.
pub fn guests_of(network: u64) -> Ipv4Addr {
    let number = (network % u64::from(NETWORKS)) as u32;
    Ipv4Addr::new(127, FIRST + 1 + (number >> 8) as u8, number as u8, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Path;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn guests_are_bridged_and_apart_from_this_nodes_own(network: u64, port: u16) {
            let address = SocketAddr::new(guests_of(network).into(), port);
            prop_assert!(is_bridged(&address));
            prop_assert!(address.ip() != IpAddr::V4(OWN) && guests_of(network).octets()[1] > FIRST);
            prop_assert_eq!(guests_of(network + u64::from(NETWORKS) * (network >> 33 & 1)), guests_of(network));
        }
    }

    #[test]
    fn loopback_itself_and_the_world_are_not() {
        for text in
            ["127.0.0.1:1", "127.63.255.255:1", "127.128.0.0:1", "128.64.0.1:1", "[::1]:1", "10.64.0.1:1"]
        {
            assert!(!is_bridged(&text.parse().unwrap()), "{text}");
        }
        for text in ["127.64.0.1:1", "127.127.255.254:9", "[::ffff:127.64.0.1]:1"] {
            let remote: SocketAddr = text.parse().unwrap();
            let path = Path { local: "127.0.0.1:4600".parse().unwrap(), remote };
            assert!(path.is_bridged() && path.is_relayed() && !path.is_way(), "{text}");
        }
        assert!(is_bridged(&SocketAddr::new(OWN.into(), 5)) && is_bridged(&GUESTS));
        let networks: std::collections::BTreeSet<_> = (0..NETWORKS).map(|n| guests_of(n.into())).collect();
        assert_eq!(networks.len(), NETWORKS as usize);
    }
}

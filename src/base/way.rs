//! Addresses of paths that lead through a peer instead of straight to the other end (docs/protocol/nat.md §4).
//!
//! Such a path is an address like any other for whoever keeps paths: sessions know where their packets come from and go to,
//! and need not know more. Only a node's sending and receiving take it for what it is. The addresses are of a private prefix
//! that no socket of ours is given and none is believed from: `fd74:6f72:6e77::/48`, unique local (RFC 4193).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Path;

const PREFIX: [u8; 6] = [0xfd, 0x74, 0x6f, 0x72, 0x6e, 0x77];
/// No port has a meaning there.
const PORT: u16 = 1;

/// What such an address stands for, in the node that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Of the relay's network: a few bits, so that what is bounded by prefix is bounded for each of them.
    pub relay: u8,
    /// The shard that has the session with the relay.
    pub shard: u8,
    /// Of that shard's ways.
    pub number: u32,
}

impl Way {
    /// One that no node makes: what is sent there goes nowhere. For a handshake that waits for a way.
    pub const NOWHERE: Self = Self { relay: u8::MAX, shard: u8::MAX, number: u32::MAX };

    /// The address that stands for it.
    pub fn address(self) -> SocketAddr {
        let mut ip = [0; 16];
        ip[..6].copy_from_slice(&PREFIX);
        (ip[6], ip[7]) = (self.relay, self.shard);
        ip[12..].copy_from_slice(&self.number.to_be_bytes());
        SocketAddr::new(Ipv6Addr::from(ip).into(), PORT)
    }

    /// What an address stands for, if it is one of these.
    pub fn of(address: &SocketAddr) -> Option<Self> {
        let IpAddr::V6(ip) = address.ip() else { return None };
        let ip = ip.octets();
        let number = ip.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
        ip.starts_with(&PREFIX).then_some(Self { relay: ip[6], shard: ip[7], number })
    }

    /// The path that leads there.
    pub fn path(self) -> Path {
        Path { local: (Ipv6Addr::UNSPECIFIED, 0).into(), remote: self.address() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_stands_for_one_way(relay: u8, shard: u8, number: u32, other: [u8; 16]) {
            let way = Way { relay, shard, number };
            prop_assert_eq!(Way::of(&way.address()), Some(way));
            prop_assert!(way.path().is_relayed());
            let other = SocketAddr::new(Ipv6Addr::from(other).into(), 4600);
            prop_assert_eq!(Way::of(&other).is_some(), other.to_string().starts_with("[fd74:6f72:6e77:"));
        }
    }

    #[test]
    fn other_addresses_are_none() {
        for text in ["10.0.0.1:1", "[fd74:6f72:6e65:7400::1]:1", "[::1]:1", "[::ffff:253.116.111.114]:1"] {
            assert_eq!(Way::of(&text.parse().unwrap()), None, "{text}");
        }
    }
}

//! Cryptokey routing: each prefix belongs to one friend. What goes to an address goes to the friend with the longest
//! prefix around it, and what comes from an address is believed from that friend alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::base::Prefix;
use crate::limits::TUNNEL_PREFIXES_MAX;

/// Why a prefix was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// It belongs to somebody already.
    #[error("{0} is allowed for another tunnel already")]
    By(Prefix),
    /// [`TUNNEL_PREFIXES_MAX`] is reached.
    #[error("more than {TUNNEL_PREFIXES_MAX} allowed networks")]
    Full,
}

/// Prefixes and their owners, by number.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    prefixes: BTreeMap<Prefix, u32>,
    /// The lengths that occur, longest first: IPv6's and IPv4's.
    lengths: [Vec<u8>; 2],
}

impl Routes {
    /// Enters a prefix. One that lies inside another's, or around it, is fine: the longer counts.
    pub fn insert(&mut self, prefix: Prefix, owner: u32) -> Result<(), Taken> {
        let prefix = prefix.network();
        match self.prefixes.get(&prefix) {
            Some(other) if *other != owner => return Err(Taken::By(prefix)),
            Some(_) => return Ok(()),
            None if self.prefixes.len() >= TUNNEL_PREFIXES_MAX => return Err(Taken::Full),
            None => {}
        }
        self.prefixes.insert(prefix, owner);
        let lengths = &mut self.lengths[usize::from(prefix.is_ipv4())];
        if let Err(at) = lengths.binary_search_by(|len| prefix.len().cmp(len)) {
            lengths.insert(at, prefix.len());
        }
        Ok(())
    }

    /// Whose an address is.
    pub fn owner(&self, address: IpAddr) -> Option<u32> {
        let lengths = &self.lengths[usize::from(address.is_ipv4())];
        lengths.iter().find_map(|len| self.prefixes.get(&Prefix::new(address, *len)?.network())).copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn prefixes() -> impl Strategy<Value = Vec<(Prefix, u32)>> {
        // Few networks, so that they lie in one another.
        let one = (0u32..8, 0u8..=32, any::<bool>(), 0u32..4).prop_map(|(bits, len, v6, owner)| {
            let address: IpAddr = if v6 {
                Ipv6Addr::from_bits(u128::from(bits) << 125).into()
            } else {
                Ipv4Addr::from_bits(bits << 29).into()
            };
            (Prefix::new(address, len).expect("fits").network(), owner)
        });
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn the_longest_prefix_around_an_address_counts(list in prefixes(), bits in 0u32..8, v6: bool) {
            let (mut routes, mut entered) = (Routes::default(), Vec::new());
            for (prefix, owner) in list {
                let other = entered.iter().find(|(known, _)| *known == prefix).map(|(_, owner)| *owner);
                let taken = routes.insert(prefix, owner);
                match other {
                    Some(other) if other != owner => prop_assert_eq!(taken, Err(Taken::By(prefix))),
                    _ => {
                        prop_assert_eq!(taken, Ok(()));
                        entered.push((prefix, owner));
                    }
                }
            }
            let address: IpAddr = if v6 {
                Ipv6Addr::from_bits(u128::from(bits) << 125).into()
            } else {
                Ipv4Addr::from_bits(bits << 29).into()
            };
            let around = entered.iter().filter(|(prefix, _)| prefix.contains(address));
            let longest = around.max_by_key(|(prefix, _)| prefix.len()).map(|(_, owner)| *owner);
            prop_assert_eq!(routes.owner(address), longest);
        }
    }

    #[test]
    fn refuses_past_its_bound() {
        let mut routes = Routes::default();
        for n in 0..TUNNEL_PREFIXES_MAX as u32 {
            routes.insert(Prefix::host(Ipv4Addr::from_bits(n).into()), 1).expect("room");
        }
        assert_eq!(routes.insert(Prefix::host(Ipv4Addr::BROADCAST.into()), 1), Err(Taken::Full));
        assert_eq!(routes.insert(Prefix::host(Ipv4Addr::from_bits(3).into()), 1), Ok(()));
    }
}

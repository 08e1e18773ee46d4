//! Attempts to reach whoever others say is at some address, so that nobody aims this node, and with it all others, at a
//! third party: each word costs an address that stays silent a handshake or two, and not again for minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::site::is_global;
use super::types::ms;
use crate::base::{NodeId, Time};
use crate::limits::{AIM_MS, AIMS_MAX, AIMS_PER_ADDRESS_MAX, AIMS_PER_SITE_MAX, AIMS_PER_TELLER_MAX};

/// An IPv4 address or an IPv6 /64, whatever the port; in a lab, where one machine is many nodes, the port too.
type Target = ([u8; 16], u16);

fn target(address: SocketAddr) -> Target {
    let mut bytes = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let is_global = is_global(address);
    if is_global && address.ip().to_canonical().is_ipv6() {
        bytes[8..].fill(0);
    }
    (bytes, if is_global { 0 } else { address.port() })
}

/// The /24 or /48 around a target: everything between both.
fn site((bytes, _): Target) -> (Target, Target) {
    let len = if bytes[..10] == [0; 10] { 15 } else { 6 };
    let (mut from, mut to) = (bytes, bytes);
    from[len..].fill(0);
    to[len..].fill(0xff);
    ((from, 0), (to, u16::MAX))
}

const FIRST: NodeId = NodeId([0; 20]);
const LAST: NodeId = NodeId([0xff; 20]);

/// Attempts that were not answered, the last ones; about 120 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Aims {
    tries: BTreeMap<(Target, NodeId), (usize, Time)>,
    by_time: BTreeSet<(Time, Target, NodeId)>,
}

impl Aims {
    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.tries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.tries.is_empty()
    }

    /// Whether an address may be tried by a peer's word; it then counts as tried.
    pub fn take(&mut self, teller: &NodeId, address: SocketAddr, now: Time) -> bool {
        self.expire(now);
        let target = target(address);
        let sum = |from: Target, to: Target| {
            self.tries.range((from, FIRST)..=(to, LAST)).map(|(_, (count, _))| *count).sum::<usize>()
        };
        let own = self.tries.get(&(target, *teller)).map_or(0, |(count, _)| *count);
        let (from, to) = site(target);
        if own >= AIMS_PER_TELLER_MAX
            || sum(target, target) >= AIMS_PER_ADDRESS_MAX
            || is_global(address) && sum(from, to) >= AIMS_PER_SITE_MAX
        {
            return false;
        }
        if own == 0 && self.tries.len() >= AIMS_MAX {
            self.forget_oldest();
        }
        let (count, since) = self.tries.entry((target, *teller)).or_insert((0, now));
        *count += 1;
        self.by_time.insert((*since, target, *teller));
        true
    }

    /// Somebody answered there: it is no third party's.
    pub fn answered(&mut self, address: SocketAddr) {
        let target = target(address);
        let those = self.tries.range((target, FIRST)..=(target, LAST));
        let those: Vec<_> = those.map(|(key, (_, since))| (*key, *since)).collect();
        for ((target, teller), since) in those {
            self.tries.remove(&(target, teller));
            self.by_time.remove(&(since, target, teller));
        }
    }

    fn expire(&mut self, now: Time) {
        while self.by_time.first().is_some_and(|(since, ..)| now >= *since + ms(AIM_MS)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, target, teller)) = self.by_time.pop_first() {
            self.tries.remove(&(target, teller));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> NodeId {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn no_crowd_of_tellers_aims_many_handshakes_at_one_address_or_site() {
        let (mut aims, now) = (Aims::default(), Time::from_millis(5));
        let one =
            (0..100).filter(|port| aims.take(&id(1), SocketAddr::new(at("192.0.2.1:1").ip(), 1 + port), now));
        assert_eq!(one.count(), AIMS_PER_TELLER_MAX, "whatever the port");
        let all = (2..1000).filter(|teller| aims.take(&id(*teller), at("192.0.2.1:7"), now)).count();
        assert_eq!(all, AIMS_PER_ADDRESS_MAX - AIMS_PER_TELLER_MAX);
        let site = (0..255u8).filter(|n| aims.take(&id(5000), SocketAddr::from(([192, 0, 2, *n], 7)), now));
        assert_eq!(site.count(), AIMS_PER_SITE_MAX - AIMS_PER_ADDRESS_MAX);
        assert!(aims.take(&id(1), at("192.0.3.1:7"), now), "its neighbour is another");
        let later = now + ms(AIM_MS);
        assert!(aims.take(&id(1), at("192.0.2.1:7"), later), "time makes room");
        let six = (0..500).filter(|n| aims.take(&id(9), at(&format!("[2001:db8:7::{n:x}]:7")), later));
        assert_eq!(six.count(), AIMS_PER_TELLER_MAX, "a /64 is one host's");
    }

    #[test]
    fn who_answers_is_no_victim_and_the_memory_is_bounded() {
        let (mut aims, now) = (Aims::default(), Time::ZERO);
        for _ in 0..100 {
            assert!(aims.take(&id(1), at("192.0.2.1:7"), now));
            aims.answered(at("192.0.2.1:7"));
        }
        assert!(aims.is_empty() && aims.by_time.is_empty());
        let lab = (1..200).filter(|port| aims.take(&id(1), SocketAddr::from(([127, 0, 0, 1], *port)), now));
        assert_eq!(lab.count(), 199, "one machine is many nodes there");
        for n in 0..2 * AIMS_MAX as u32 {
            aims.take(&id(n.into()), SocketAddr::from((std::net::Ipv4Addr::from_bits(n << 8), 7)), now);
        }
        assert!(aims.len() <= AIMS_MAX && aims.by_time.len() == aims.len());
    }
}

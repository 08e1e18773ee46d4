//! How many connections a bridge has, and from where: so many in all, and of one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{BRIDGE_CONNECTIONS_MAX, BRIDGE_CONNECTIONS_PER_ADDRESS_MAX};

/// Counts by address; an IPv6 /64 is one.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A place in it, for as long as it lives.
pub(super) struct Place {
    crowd: Crowd,
    of: IpAddr,
}

/// What one operator has at least.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(ip.to_bits() >> 64 << 64).into(),
    }
}

impl Crowd {
    /// A place for somebody, if there is one.
    pub(super) fn enter(&self, ip: IpAddr) -> Option<Place> {
        self.enter_within(ip, BRIDGE_CONNECTIONS_MAX, BRIDGE_CONNECTIONS_PER_ADDRESS_MAX)
    }

    /// A place for a connection that may be anybody's: a web server of this host brings everybody, and those that it names are
    /// counted as guests.
    pub(super) fn admit(&self, ip: IpAddr) -> Option<Place> {
        let anybody = ip.to_canonical().is_loopback();
        let of_one = if anybody { BRIDGE_CONNECTIONS_MAX } else { BRIDGE_CONNECTIONS_PER_ADDRESS_MAX };
        self.enter_within(ip, BRIDGE_CONNECTIONS_MAX, of_one)
    }

    fn enter_within(&self, ip: IpAddr, most: usize, of_one: usize) -> Option<Place> {
        let of = source(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= most || counts.get(&of).is_some_and(|count| *count >= of_one) {
            return None;
        }
        *counts.entry(of).or_default() += 1;
        Some(Place { crowd: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_gives_it_back() {
        let crowd = Crowd::default();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let enter = |text: &str| crowd.enter_within(ip(text), 5, 2);
        let first = enter("2001:db8::1").expect("room");
        let second = enter("2001:db8::2").expect("room");
        assert!(enter("2001:db8::3").is_none(), "one /64");
        let others = [enter("2001:db8:0:1::1"), enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(others.iter().all(Option::is_some));
        assert!(enter("192.0.2.9").is_none(), "all of it is taken");
        drop(first);
        let back = enter("2001:db8::3").expect("given back");
        drop((second, others, back));
        assert!(crowd.0.lock().expect("unpoisoned").is_empty());
    }
}

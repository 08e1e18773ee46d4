//! Where others see this node: what a hello's path shows them, and what is believed of it.
//!
//! A word is one *network's*, an IPv4 /16 or IPv6 /32, however many identities speak from it: identities cost nothing, and
//! with two of one machine anybody could lead this node's callers astray. Words age.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{NodeId, Time};
use crate::limits::{OVERLAY_SEEN_MAX, OVERLAY_SEEN_MS_MAX, OVERLAY_WITNESSES_MIN};
use crate::overlay::site::{Site, is_global, may_tell};
use crate::wire::overlay::Endpoint;

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Voter {
    Network(Site),
    /// Of a network without global addresses, where neighbours are no attack.
    Near(NodeId),
}

impl Voter {
    fn of(by: NodeId, path: SocketAddr) -> Self {
        let site = Endpoint::new(path).and_then(|endpoint| Site::of(&endpoint, false));
        site.map_or(Self::Near(by), |site| Self::Network(site.network()))
    }
}

/// The last word of each network on each family, at most [`OVERLAY_SEEN_MAX`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    words: BTreeMap<(bool, Voter), (SocketAddr, Time)>,
}

impl Seen {
    /// A peer at the end of `path` says where it sees this node.
    pub(super) fn note(&mut self, now: Time, by: NodeId, path: SocketAddr, address: SocketAddr) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        // Whoever is near knows nothing of how the world sees this node, nor the world of what is near.
        let fits = is_global(path) == is_global(address) && may_tell(Some(path), address);
        if !fits || address.port() == 0 || address.ip().is_multicast() {
            return;
        }
        let key = (address.is_ipv4(), Voter::of(by, path));
        if !self.words.contains_key(&key) && self.words.len() >= OVERLAY_SEEN_MAX {
            let oldest = self.words.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.map(|oldest| self.words.remove(&oldest));
        }
        self.words.insert(key, (address, now));
    }

    /// The address of a family that most networks named lately, the last named of several; `None` with too few. Where each
    /// named another port, as before a translator that gives one to each remote end, those that agree on the machine do:
    /// nobody reaches it at that port, but by it records name the machine that their provider speaks from.
    fn best(&self, now: Time, v4: bool) -> Option<SocketAddr> {
        self.most_named(now, v4, |address| address)
            .or_else(|| self.most_named(now, v4, |address| SocketAddr::new(address.ip(), 0)))
    }

    /// The last word among those that most networks share, as far as `what` of it says.
    fn most_named(&self, now: Time, v4: bool, what: fn(SocketAddr) -> SocketAddr) -> Option<SocketAddr> {
        let age = Duration::from_millis(OVERLAY_SEEN_MS_MAX);
        let mut counts: BTreeMap<SocketAddr, (usize, Time, SocketAddr)> = BTreeMap::new();
        let lately = self.words.iter().filter(|((family, _), (_, at))| *family == v4 && now.since(*at) < age);
        for (_, (address, at)) in lately {
            let (count, last, named) = counts.entry(what(*address)).or_insert((0, *at, *address));
            *count += 1;
            if *at >= *last {
                (*last, *named) = (*at, *address);
            }
        }
        counts.retain(|_, (count, ..)| *count >= OVERLAY_WITNESSES_MIN);
        counts.into_values().max_by_key(|(count, last, _)| (*count, *last)).map(|(.., named)| named)
    }

    /// Where this node is reached, one of each family: what its operator or host says, if that is global, else what
    /// others see. What is not global is named only where there is nothing else.
    pub(super) fn addresses(&self, now: Time, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let first = own.first().is_none_or(SocketAddr::is_ipv4);
        let of = |v4: bool| {
            let own = own.iter().find(|address| address.is_ipv4() == v4).copied();
            match own {
                Some(address) if is_global(address) => Some(address),
                Some(_) => self.best(now, v4).filter(|seen| is_global(*seen)).or(own),
                None => self.best(now, v4),
            }
        };
        let mut all: Vec<SocketAddr> = [of(first), of(!first)].into_iter().flatten().collect();
        if all.iter().any(|address| is_global(*address)) {
            all.retain(|address| is_global(*address));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn note(seen: &mut Seen, second: u64, by: u8, path: &str, named: &str) {
        seen.note(Time::from_millis(1000 * second), NodeId([by; 20]), address(path), address(named));
    }

    /// Found by review: two identities of anybody set the advertised address, for good.
    #[test]
    fn identities_of_one_network_have_one_word_and_words_age() {
        let mut seen = Seen::default();
        let now = Time::from_millis(9_000);
        for by in 0..40 {
            note(&mut seen, 1, by, &format!("6.6.{by}.6:1"), "1.1.1.1:9");
        }
        assert_eq!(seen.addresses(now, &[]), [], "one /16");
        note(&mut seen, 2, 50, "7.7.7.7:1", "203.0.113.5:4600");
        note(&mut seen, 2, 51, "8.8.8.8:1", "203.0.113.5:4600");
        assert_eq!(seen.addresses(now, &[]), [address("203.0.113.5:4600")]);
        note(&mut seen, 3, 60, "9.9.9.9:1", "1.1.1.1:9");
        note(&mut seen, 3, 52, "11.8.8.8:1", "203.0.113.5:4600");
        assert_eq!(seen.addresses(now, &[]), [address("203.0.113.5:4600")], "most networks, not the lowest");
        // The node has another address since: whoever sees it says so, and then says nothing of the old one.
        for (by, path) in [(50, "7.7.7.7:1"), (51, "8.8.8.8:1"), (52, "11.8.8.8:1")] {
            note(&mut seen, 5, by, path, "198.51.100.7:4600");
        }
        assert_eq!(seen.addresses(now, &[]), [address("198.51.100.7:4600")]);
        let later = Time::from_millis(5_000 + OVERLAY_SEEN_MS_MAX);
        assert_eq!(seen.addresses(later, &[]), [], "nobody has said so lately");
        for by in 0..250 {
            note(&mut seen, 6, by, &format!("{}.{by}.1.1:1", 20 + by / 8), &format!("1.2.3.{by}:1"));
        }
        assert!(seen.words.len() <= OVERLAY_SEEN_MAX);
    }

    /// Regression: what such a node provided was announced by nobody, since it named the address of its host.
    #[test]
    fn before_a_translator_that_gives_each_another_port_the_machine_is_named() {
        let (mut seen, own) = (Seen::default(), [address("192.168.1.2:4600")]);
        note(&mut seen, 1, 1, "7.7.7.7:1", "203.0.113.5:1111");
        assert_eq!(seen.addresses(Time::from_millis(2_000), &own), own, "one word is none");
        note(&mut seen, 2, 2, "8.8.8.8:1", "203.0.113.5:2222");
        note(&mut seen, 1, 3, "9.9.9.9:1", "1.1.1.1:3");
        let now = Time::from_millis(3_000);
        assert_eq!(seen.addresses(now, &own), [address("203.0.113.5:2222")]);
        // A port that two agree on is better.
        note(&mut seen, 1, 4, "11.9.9.9:1", "203.0.113.5:1111");
        assert_eq!(seen.addresses(now, &own), [address("203.0.113.5:1111")]);
    }

    /// Found by review: such a node named its private IPv4 address, and never its public one.
    #[test]
    fn a_home_node_with_both_families_names_its_public_addresses() {
        let mut seen = Seen::default();
        let own = [address("[2001:db8::1]:4600"), address("192.168.1.2:4600")];
        assert_eq!(seen.addresses(Time::ZERO, &own), own[..1], "a private one is nobody's business");
        note(&mut seen, 1, 1, "7.7.7.7:1", "203.0.113.5:4600");
        note(&mut seen, 1, 2, "8.8.8.8:1", "203.0.113.5:4600");
        note(&mut seen, 1, 1, "[2001:db8:7::7]:1", "[2001:db8::bad]:1");
        note(&mut seen, 1, 2, "[2a00::8]:1", "[2001:db8::bad]:1");
        let now = Time::from_millis(2_000);
        assert_eq!(seen.addresses(now, &own), [own[0], address("203.0.113.5:4600")]);
        assert_eq!(
            seen.addresses(now, &own[1..]),
            [address("203.0.113.5:4600"), address("[2001:db8::bad]:1")]
        );
        assert_eq!(Seen::default().addresses(now, &own[1..]), own[1..], "a network of its own");
        // From afar nobody sees a private address, and from nearby nobody a public one.
        let mut seen = Seen::default();
        for by in 1..4 {
            note(&mut seen, 1, by, &format!("{by}.7.7.7:1"), "10.0.0.1:1");
            note(&mut seen, 1, by, &format!("10.7.7.{by}:1"), "1.1.1.1:1");
            note(&mut seen, 1, by, &format!("10.7.7.{by}:1"), "0.0.0.0:1");
        }
        assert_eq!(seen.addresses(now, &[]), []);
        note(&mut seen, 1, 1, "10.7.7.1:1", "10.9.9.9:1");
        note(&mut seen, 1, 2, "10.7.7.2:1", "10.9.9.9:1");
        assert_eq!(seen.addresses(now, &[]), [address("10.9.9.9:1")]);
    }
}

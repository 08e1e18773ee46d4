//! An address translator in front of nodes, in the terms of RFC 4787.
//!
//! What it translates is a mapping from an internal address to a port of its own. Which datagrams share a mapping
//! (*mapping* behaviour) and which ones from outside pass it (*filtering* behaviour) depends, or not, on the
//! address and the port of the remote end. Mappings end when nothing was sent for their lifetime, and all at once
//! when the translator is restarted or the line gets another address: [`Nat::rebind`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::base::{Rng, Time};

/// What of the remote end a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependence {
    /// Nothing: endpoint-independent.
    Endpoint,
    /// Its IP address: address-dependent.
    Address,
    /// Its IP address and port: address and port-dependent.
    AddressAndPort,
}

impl Dependence {
    /// What matters of `remote`; the rest is blanked.
    fn part(self, remote: SocketAddr) -> SocketAddr {
        match self {
            Self::Endpoint => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            Self::Address => SocketAddr::new(remote.ip(), 0),
            Self::AddressAndPort => remote,
        }
    }
}

/// How the translator chooses the port of a new mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The internal one when it is free, any other otherwise.
    Preserve,
    /// Any free one.
    Random,
}

/// How a translator behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NatConfig {
    /// What datagrams to different remote ends share.
    pub mapping: Dependence,
    /// Who may send to a mapping: those that something was sent to, as far as this looks.
    pub filtering: Dependence,
    /// How a mapping's port is chosen.
    pub ports: Ports,
    /// A mapping ends so long after the last datagram that refreshed it.
    pub lifetime: Duration,
    /// Whether datagrams from outside refresh it too.
    pub inbound_refreshes: bool,
    /// Whether nodes behind it reach one another by its external addresses.
    pub hairpins: bool,
    /// Mappings at most; when all are alive, a new flow does not pass.
    pub mappings_max: usize,
    /// Remote ends that one mapping lets in, at most; the oldest gives way.
    pub remotes_max: usize,
}

impl NatConfig {
    /// A home router of the better kind: one mapping for all remote ends, and only those that something was sent
    /// to may answer. Two minutes, RFC 4787's least.
    pub fn cone() -> Self {
        Self {
            mapping: Dependence::Endpoint,
            filtering: Dependence::AddressAndPort,
            ports: Ports::Preserve,
            lifetime: Duration::from_secs(120),
            inbound_refreshes: true,
            hairpins: false,
            mappings_max: 4096,
            remotes_max: 1024,
        }
    }

    /// A translator of the worst kind: a mapping for each remote end, on any port, for half a minute.
    pub fn symmetric() -> Self {
        Self {
            mapping: Dependence::AddressAndPort,
            ports: Ports::Random,
            lifetime: Duration::from_secs(30),
            inbound_refreshes: false,
            ..Self::cone()
        }
    }
}

/// Why a translator did not let a datagram pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blocked {
    /// From outside, to a port without a mapping.
    Unmapped,
    /// From outside, from somebody to whom nothing was sent.
    Filtered,
    /// From inside: every mapping, or every port, is taken.
    Full,
    /// From inside to its own outside, and it does not turn datagrams round.
    Hairpin,
}

/// Ports that mappings get: not the well-known ones.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;
/// Random ports tried before the next free one in order is taken.
const RANDOM_TRIES: usize = 16;

struct Mapping {
    /// From which internal address, to which part of the remote end.
    flow: (SocketAddr, SocketAddr),
    refreshed: Time,
    /// Who may send to it, and when something was last sent there.
    remotes: BTreeMap<SocketAddr, Time>,
}

/// A translator with one external address.
pub struct Nat {
    config: NatConfig,
    external: IpAddr,
    mappings: BTreeMap<u16, Mapping>,
    flows: BTreeMap<(SocketAddr, SocketAddr), u16>,
    /// Ports of before the last rebinding, which are not given again.
    dropped: BTreeSet<u16>,
    /// Until then no mapping ends.
    next_end: Time,
    rng: Rng,
}

impl Nat {
    /// Without mappings.
    pub fn new(external: IpAddr, config: NatConfig, rng: Rng) -> Self {
        Self {
            config,
            external,
            mappings: BTreeMap::new(),
            flows: BTreeMap::new(),
            dropped: BTreeSet::new(),
            next_end: Time::ZERO,
            rng,
        }
    }

    /// Its address outside.
    pub fn external(&self) -> IpAddr {
        self.external
    }

    /// How it behaves.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Mappings in the table, also those that have ended and were not looked at since.
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// A datagram goes out: where it seems to come from.
    pub fn outbound(
        &mut self,
        now: Time,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Blocked> {
        let flow = (internal, self.config.mapping.part(remote));
        let port = match self.flows.get(&flow) {
            Some(&port) if !self.is_over(now, port) => port,
            Some(&port) => {
                // RFC 4787 leaves open whether a flow gets its old port again; this one may.
                self.remove(port);
                self.map(now, flow)?
            }
            None => self.map(now, flow)?,
        };
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.refreshed = now;
            mapping.remotes.insert(self.config.filtering.part(remote), now);
            if mapping.remotes.len() > self.config.remotes_max
                && let Some((&oldest, _)) = mapping.remotes.iter().min_by_key(|(_, at)| **at)
            {
                mapping.remotes.remove(&oldest);
            }
        }
        Ok(SocketAddr::new(self.external, port))
    }

    /// A datagram comes in: for which internal address it is.
    pub fn inbound(&mut self, now: Time, port: u16, remote: SocketAddr) -> Result<SocketAddr, Blocked> {
        if self.is_over(now, port) {
            return Err(Blocked::Unmapped);
        }
        let (lifetime, filtering) = (self.config.lifetime, self.config.filtering);
        let mapping = self.mappings.get_mut(&port).ok_or(Blocked::Unmapped)?;
        let sent = mapping.remotes.get_mut(&filtering.part(remote)).ok_or(Blocked::Filtered)?;
        if now.since(*sent) >= lifetime {
            return Err(Blocked::Filtered);
        }
        if self.config.inbound_refreshes {
            (mapping.refreshed, *sent) = (now, now);
        }
        Ok(mapping.flow.0)
    }

    /// Who has a mapping on this port, whether it lets anybody in or not.
    pub fn owner(&self, now: Time, port: u16) -> Option<SocketAddr> {
        self.mappings.get(&port).filter(|_| !self.is_over(now, port)).map(|mapping| mapping.flow.0)
    }

    /// All mappings are gone, and the flows will get other ports. How many there were.
    pub fn rebind(&mut self) -> usize {
        self.dropped = self.mappings.keys().copied().collect();
        let count = self.mappings.len();
        self.mappings.clear();
        self.flows.clear();
        count
    }

    fn is_over(&self, now: Time, port: u16) -> bool {
        self.mappings.get(&port).is_none_or(|mapping| now.since(mapping.refreshed) >= self.config.lifetime)
    }

    fn remove(&mut self, port: u16) {
        if let Some(mapping) = self.mappings.remove(&port) {
            self.flows.remove(&mapping.flow);
        }
    }

    fn map(&mut self, now: Time, flow: (SocketAddr, SocketAddr)) -> Result<u16, Blocked> {
        if self.mappings.len() >= self.config.mappings_max {
            self.sweep(now);
        }
        if self.mappings.len() >= self.config.mappings_max {
            return Err(Blocked::Full);
        }
        let port = self.choose(flow.0.port()).ok_or(Blocked::Full)?;
        self.flows.insert(flow, port);
        self.mappings.insert(port, Mapping { flow, refreshed: now, remotes: BTreeMap::new() });
        Ok(port)
    }

    /// Removes mappings that have ended; looks only when one can have.
    fn sweep(&mut self, now: Time) {
        if now < self.next_end {
            return;
        }
        let over: Vec<u16> = self.mappings.keys().copied().filter(|port| self.is_over(now, *port)).collect();
        over.into_iter().for_each(|port| self.remove(port));
        // Refreshing only makes them last longer, and new ones last their whole lifetime.
        let oldest = self.mappings.values().map(|mapping| mapping.refreshed).min();
        self.next_end = oldest.unwrap_or(now) + self.config.lifetime;
    }

    fn choose(&mut self, internal: u16) -> Option<u16> {
        let is_free = |port: &u16| {
            PORTS.contains(port) && !self.mappings.contains_key(port) && !self.dropped.contains(port)
        };
        if self.config.ports == Ports::Preserve && is_free(&internal) {
            return Some(internal);
        }
        let mut tried = *PORTS.start();
        for _ in 0..RANDOM_TRIES {
            tried = PORTS.start() + self.rng.below(PORTS.len() as u64) as u16;
            if is_free(&tried) {
                return Some(tried);
            }
        }
        (tried..=*PORTS.end()).chain(*PORTS.start()..tried).find(is_free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dependence::{Address, AddressAndPort, Endpoint};

    const INSIDE: &str = "192.168.0.2:4600";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(change: impl FnOnce(&mut NatConfig)) -> Nat {
        let mut config = NatConfig::cone();
        change(&mut config);
        Nat::new("203.0.113.1".parse().unwrap(), config, Rng::from_number(3))
    }

    #[test]
    fn mapping_depends_on_what_it_says() {
        for (mapping, [same_host, other_host]) in
            [(Endpoint, [true, true]), (Address, [true, false]), (AddressAndPort, [false, false])]
        {
            let mut nat = nat(|config| (config.mapping, config.ports) = (mapping, Ports::Random));
            let mut out = |remote| nat.outbound(Time::ZERO, at(INSIDE), at(remote)).unwrap();
            let first = out("1.1.1.1:1");
            assert_eq!(out("1.1.1.1:1"), first, "{mapping:?}");
            assert_eq!(out("1.1.1.1:2") == first, same_host, "{mapping:?}");
            assert_eq!(out("2.2.2.2:1") == first, other_host, "{mapping:?}");
        }
    }

    #[test]
    fn filtering_depends_on_what_it_says() {
        for (filtering, [same_host, other_host]) in
            [(Endpoint, [true, true]), (Address, [true, false]), (AddressAndPort, [false, false])]
        {
            let mut nat = nat(|config| config.filtering = filtering);
            let port = nat.outbound(Time::ZERO, at(INSIDE), at("1.1.1.1:1")).unwrap().port();
            let mut enters = |remote| match nat.inbound(Time::ZERO, port, at(remote)) {
                Ok(internal) => internal == at(INSIDE),
                Err(why) => {
                    assert_eq!(why, Blocked::Filtered);
                    false
                }
            };
            assert!(enters("1.1.1.1:1"));
            assert_eq!(enters("1.1.1.1:2"), same_host, "{filtering:?}");
            assert_eq!(enters("2.2.2.2:1"), other_host, "{filtering:?}");
        }
        assert_eq!(nat(|_| ()).inbound(Time::ZERO, 4600, at("1.1.1.1:1")), Err(Blocked::Unmapped));
    }

    #[test]
    fn a_mapping_ends_when_nothing_refreshes_it() {
        let second = |n: u64| Time::from_millis(1000 * n);
        for inbound in [false, true] {
            let mut nat = nat(|config| {
                config.lifetime = Duration::from_secs(30);
                config.inbound_refreshes = inbound;
            });
            let remote = at("1.1.1.1:1");
            nat.outbound(second(0), at(INSIDE), remote).unwrap();
            nat.outbound(second(20), at(INSIDE), remote).unwrap();
            assert_eq!(nat.inbound(second(49), 4600, remote), Ok(at(INSIDE)));
            assert_eq!(nat.inbound(second(50), 4600, remote).is_ok(), inbound);
            assert_eq!(nat.owner(second(50), 4600).is_some(), inbound);
            assert_eq!(nat.inbound(second(80), 4600, remote), Err(Blocked::Unmapped));
        }
    }

    #[test]
    fn ports_are_kept_when_they_can_be() {
        let mut nat = nat(|_| ());
        let remote = at("1.1.1.1:1");
        assert_eq!(nat.outbound(Time::ZERO, at(INSIDE), remote), Ok(at("203.0.113.1:4600")));
        let second = nat.outbound(Time::ZERO, at("192.168.0.3:4600"), remote).unwrap();
        assert_ne!(second.port(), 4600, "that one is taken");
        assert_eq!(nat.inbound(Time::ZERO, second.port(), remote), Ok(at("192.168.0.3:4600")));
        assert!(nat.outbound(Time::ZERO, at("192.168.0.3:80"), remote).unwrap().port() >= 1024);
    }

    #[test]
    fn rebinding_gives_every_flow_another_port() {
        let mut nat = nat(|_| ());
        let remote = at("1.1.1.1:1");
        nat.outbound(Time::ZERO, at(INSIDE), remote).unwrap();
        nat.rebind();
        assert_eq!(nat.inbound(Time::ZERO, 4600, remote), Err(Blocked::Unmapped));
        let again = nat.outbound(Time::ZERO, at(INSIDE), remote).unwrap();
        assert_ne!(again.port(), 4600);
        assert_eq!(nat.inbound(Time::ZERO, again.port(), remote), Ok(at(INSIDE)));
    }

    #[test]
    fn tables_have_an_end_and_what_is_over_makes_room() {
        let mut nat = nat(|config| {
            config.mapping = AddressAndPort;
            config.mappings_max = 100;
            config.remotes_max = 2;
        });
        let remote = |n: u16| SocketAddr::from(([1, 1, 1, 1], n));
        for n in 0..100 {
            nat.outbound(Time(u64::from(n)), at(INSIDE), remote(n)).unwrap();
        }
        assert_eq!(nat.outbound(Time(100), at(INSIDE), remote(100)), Err(Blocked::Full));
        let later = Time(50) + NatConfig::cone().lifetime;
        assert!(nat.outbound(later, at(INSIDE), remote(100)).is_ok());
        assert_eq!(nat.len(), 100 - 51 + 1);
        nat.config.mapping = Endpoint;
        for n in 0..5 {
            nat.outbound(later + Duration::from_nanos(n), at("192.168.0.9:9999"), remote(n as u16)).unwrap();
        }
        assert_eq!(nat.inbound(later, 9999, remote(2)), Err(Blocked::Filtered), "the oldest gave way");
        assert!(nat.inbound(later, 9999, remote(3)).is_ok() && nat.inbound(later, 9999, remote(4)).is_ok());
    }

    #[test]
    fn the_last_free_port_is_found() {
        let mut nat = nat(|config| {
            config.mapping = AddressAndPort;
            config.mappings_max = usize::MAX;
        });
        let all = PORTS.len() as u32;
        let remote = |n: u32| SocketAddr::from((Ipv4Addr::from(n), 1));
        for n in 0..all {
            nat.outbound(Time::ZERO, at(INSIDE), remote(n)).unwrap();
        }
        assert_eq!(nat.len(), all as usize);
        assert_eq!(nat.outbound(Time::ZERO, at(INSIDE), remote(all)), Err(Blocked::Full));
    }
}

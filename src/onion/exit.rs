//! The addresses of an exit (docs/protocol/onion.md §9). Each circuit has its own, so that nobody gets what was meant for
//! another; whoever comes back with the same secret has the same one again.
//!
//! The [`Book`] is kept once for all shards of a node: it gives addresses out and knows on which shard each is in use.
//! [`Guests`] are the circuits that end at one shard.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::CircuitKey;
use crate::base::{Prefix, Rng, Time};
use crate::limits::{CIRCUIT_MS_MAX, EXIT_LEASE_MS, EXIT_LEASES_MAX, EXIT_TRIES_MAX, HELD_AFTER_MS};
use crate::wire::ip::Addresses;

/// The address of everybody who uses a circuit, at its own end: the exit puts the circuit's in its place, and so learns
/// nothing from it.
pub const CLIENT: Addresses = Addresses {
    v4: Some(Ipv4Addr::new(10, 116, 111, 114)),
    v6: Some(Ipv6Addr::new(0xfd74, 0x6f72, 0x6e65, 0x7400, 0, 0, 0, 1)),
};

/// Which addresses are whose.
#[derive(Default)]
pub struct Book {
    pools: Vec<Prefix>,
    leases: BTreeMap<[u8; 32], Lease>,
    by_address: BTreeMap<IpAddr, [u8; 32]>,
}

struct Lease {
    addresses: Addresses,
    /// Circuits that have it now.
    holders: u32,
    /// The shard to which packets for it go.
    shard: Option<u8>,
    /// When it may be somebody else's.
    until: Time,
}

impl Book {
    /// Gives addresses out of these networks from now on. What was given out of others is forgotten.
    pub fn set_pools(&mut self, pools: &[Prefix]) {
        if self.pools != pools {
            *self = Self { pools: pools.to_vec(), ..Self::default() };
        }
    }

    /// The addresses of a new circuit: those that its secret had before, or fresh ones. `None` when all are taken.
    pub fn lease(&mut self, now: Time, rng: &mut Rng, resume: &[u8; 32]) -> Option<Addresses> {
        // No circuit lasts longer: also a lease of which the end was not heard does not last for ever.
        let until = now + Duration::from_millis(CIRCUIT_MS_MAX + EXIT_LEASE_MS);
        if let Some(lease) = self.leases.get_mut(resume) {
            lease.holders += 1;
            lease.until = until;
            return Some(lease.addresses);
        }
        if self.leases.len() >= EXIT_LEASES_MAX {
            self.sweep(now);
        }
        if self.leases.len() >= EXIT_LEASES_MAX || self.pools.is_empty() {
            return None;
        }
        let mut addresses = Addresses::default();
        for pool in self.pools.clone() {
            let free = self.free(rng, pool).or_else(|| {
                self.sweep(now);
                self.free(rng, pool)
            });
            match free? {
                IpAddr::V4(v4) => _ = addresses.v4.get_or_insert(v4),
                IpAddr::V6(v6) => _ = addresses.v6.get_or_insert(v6),
            }
        }
        addresses.iter().for_each(|address| _ = self.by_address.insert(address, *resume));
        self.leases.insert(*resume, Lease { addresses, holders: 1, shard: None, until });
        Some(addresses)
    }

    /// An address that nobody has, at random: not the network's, not the device's (its first), not the last.
    fn free(&self, rng: &mut Rng, pool: Prefix) -> Option<IpAddr> {
        let draw = |rng: &mut Rng| match pool.network().address() {
            IpAddr::V4(v4) => {
                let count = (1u64 << (32 - pool.len())).checked_sub(3).filter(|count| *count > 0)?;
                Some(IpAddr::V4((v4.to_bits() + 2 + rng.below(count) as u32).into()))
            }
            IpAddr::V6(v6) => {
                let bits = 128 - u32::from(pool.len());
                let count =
                    1u64.checked_shl(bits).unwrap_or(u64::MAX).checked_sub(3).filter(|count| *count > 0)?;
                Some(IpAddr::V6((v6.to_bits() + 2 + u128::from(rng.below(count))).into()))
            }
        };
        (0..EXIT_TRIES_MAX).find_map(|_| draw(rng).filter(|address| !self.by_address.contains_key(address)))
    }

    fn sweep(&mut self, now: Time) {
        let by_address = &mut self.by_address;
        self.leases.retain(|_, lease| {
            let kept = lease.until > now;
            if !kept {
                lease.addresses.iter().for_each(|address| _ = by_address.remove(&address));
            }
            kept
        });
    }

    fn at(&mut self, addresses: &Addresses) -> Option<&mut Lease> {
        let resume = addresses.iter().find_map(|address| self.by_address.get(&address))?;
        self.leases.get_mut(resume)
    }

    /// Packets for these addresses go to this shard now; the one that has to hear that they are no longer its own.
    pub fn claim(&mut self, addresses: &Addresses, shard: u8) -> Option<u8> {
        let lease = self.at(addresses)?;
        lease.shard.replace(shard).filter(|before| *before != shard)
    }

    /// A circuit is over. Its addresses wait for its origin for [`EXIT_LEASE_MS`].
    pub fn release(&mut self, now: Time, addresses: &Addresses) {
        if let Some(lease) = self.at(addresses) {
            lease.holders = lease.holders.saturating_sub(1);
            if lease.holders == 0 {
                (lease.until, lease.shard) = (now + Duration::from_millis(EXIT_LEASE_MS), None);
            }
        }
    }

    /// To which shard packets for an address go.
    pub fn owner(&self, address: IpAddr) -> Option<u8> {
        self.leases.get(self.by_address.get(&address)?)?.shard
    }

    /// How many are given out.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

/// The circuits that end at this shard.
#[derive(Default)]
pub struct Guests {
    by_circuit: BTreeMap<CircuitKey, Guest>,
    by_address: BTreeMap<IpAddr, CircuitKey>,
}

struct Guest {
    addresses: Addresses,
    /// When its origin was last heard on it. Before that nothing goes there: an answer that was lost leads nobody here.
    heard: Option<Time>,
}

impl Guests {
    /// A circuit has addresses.
    pub fn enter(&mut self, circuit: CircuitKey, addresses: Addresses) {
        self.by_circuit.insert(circuit, Guest { addresses, heard: None });
    }

    /// Something came on a circuit. With its first cell, what comes for its addresses goes to it and no more to the one
    /// before: those addresses then.
    pub fn heard(&mut self, now: Time, circuit: CircuitKey) -> Option<Addresses> {
        let guest = self.by_circuit.get_mut(&circuit)?;
        if guest.heard.replace(now).is_some() {
            return None;
        }
        let addresses = guest.addresses;
        addresses.iter().for_each(|address| _ = self.by_address.insert(address, circuit));
        Some(addresses)
    }

    /// A circuit's addresses.
    pub fn addresses(&self, circuit: CircuitKey) -> Option<Addresses> {
        Some(self.by_circuit.get(&circuit)?.addresses)
    }

    /// Whether nothing came on a circuit for so long that it may be dead.
    pub fn is_silent(&self, now: Time, circuit: CircuitKey) -> bool {
        let heard = self.by_circuit.get(&circuit).and_then(|guest| guest.heard);
        heard.is_none_or(|at| now.since(at) >= Duration::from_millis(HELD_AFTER_MS))
    }

    /// The circuit of an address.
    pub fn circuit(&self, address: IpAddr) -> Option<CircuitKey> {
        self.by_address.get(&address).copied()
    }

    /// Addresses are another shard's now.
    pub fn unclaim(&mut self, addresses: &Addresses) {
        addresses.iter().for_each(|address| _ = self.by_address.remove(&address));
    }

    /// A circuit is over; the addresses that it had.
    pub fn leave(&mut self, circuit: CircuitKey) -> Option<Addresses> {
        let guest = self.by_circuit.remove(&circuit)?;
        for address in guest.addresses.iter() {
            if self.by_address.get(&address) == Some(&circuit) {
                self.by_address.remove(&address);
            }
        }
        Some(guest.addresses)
    }

    /// All circuits.
    pub fn circuits(&self) -> Vec<CircuitKey> {
        self.by_circuit.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(pools: &[&str]) -> (Book, Rng) {
        let mut book = Book::default();
        book.set_pools(&pools.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        (book, Rng::from_number(7))
    }

    #[test]
    fn a_secret_finds_its_address_again_and_no_two_share_one() {
        let (mut book, mut rng) = book(&["10.117.0.0/24", "fd00::/64"]);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..150u8 {
            let leased = book.lease(Time::ZERO, &mut rng, &[n; 32]).expect("room");
            assert!(leased.v4.is_some_and(|v4| !matches!(v4.octets()[3], 0 | 1 | 255)));
            assert!(seen.insert(leased.v4) && seen.len() == usize::from(n) + 1 && leased.v6.is_some());
            assert_eq!(book.lease(Time::ZERO, &mut rng, &[n; 32]), Some(leased));
        }
    }

    #[test]
    fn a_full_pool_refuses_and_what_is_over_is_given_again() {
        let (mut book, mut rng) = book(&["10.117.0.0/29"]);
        let all: Vec<_> =
            (0..5u8).map(|n| book.lease(Time::ZERO, &mut rng, &[n; 32]).expect("room")).collect();
        assert_eq!(book.lease(Time::ZERO, &mut rng, &[9; 32]), None);
        book.release(Time::ZERO, &all[2]);
        let later = Time::from_millis(EXIT_LEASE_MS - 1);
        assert_eq!(book.lease(later, &mut rng, &[9; 32]), None, "its origin may come back");
        assert_eq!(book.lease(later, &mut rng, &[2; 32]), Some(all[2]));
        book.release(later, &all[2]);
        let later = later + Duration::from_millis(EXIT_LEASE_MS);
        assert_eq!(book.lease(later, &mut rng, &[9; 32]), Some(all[2]));
        let (mut closed, mut rng) = self::book(&[]);
        assert_eq!(closed.lease(later, &mut rng, &[9; 32]), None);
    }

    #[test]
    fn an_address_follows_the_circuit_that_was_heard_last() {
        let (mut guests, mut book) = (Guests::default(), book(&["10.117.0.0/24"]));
        let addresses = book.0.lease(Time::ZERO, &mut book.1, &[1; 32]).unwrap();
        let address = addresses.iter().next().unwrap();
        let [first, second] = [1, 2].map(CircuitKey::from_number);
        guests.enter(first, addresses);
        assert_eq!(guests.circuit(address), None, "nobody was heard");
        assert_eq!(guests.heard(Time::ZERO, first), Some(addresses));
        assert_eq!((book.0.claim(&addresses, 3), book.0.owner(address)), (None, Some(3)));
        guests.enter(second, addresses);
        assert_eq!((guests.heard(Time::ZERO, first), guests.circuit(address)), (None, Some(first)));
        assert_eq!(
            (guests.heard(Time::ZERO, second), guests.circuit(address)),
            (Some(addresses), Some(second))
        );
        assert_eq!(book.0.claim(&addresses, 1), Some(3));
        assert_eq!(guests.heard(Time::ZERO, first), None, "what comes late on the old one changes nothing");
        guests.leave(first);
        assert_eq!(guests.circuit(address), Some(second));
        assert_eq!((guests.leave(second), guests.circuit(address)), (Some(addresses), None));
    }
}

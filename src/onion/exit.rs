//! [`Guests`]: the circuits that end at one shard of an exit (docs/protocol/onion.md §9), and which of them an address leads
//! to. Their addresses come from the [`super::book`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::CircuitKey;
use crate::base::Time;
use crate::limits::HELD_AFTER_MS;
use crate::wire::ip::Addresses;

/// The address of everybody who uses a circuit, at its own end: the exit puts the circuit's in its place, and so learns
/// nothing from it.
pub const CLIENT: Addresses = Addresses {
    v4: Some(Ipv4Addr::new(10, 116, 111, 114)),
    v6: Some(Ipv6Addr::new(0xfd74, 0x6f72, 0x6e65, 0x7400, 0, 0, 0, 1)),
};

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
    use super::super::book::Book;
    use super::*;
    use crate::base::{PublicKey, Rng};

    #[test]
    fn an_address_follows_the_circuit_that_was_heard_last() {
        let (mut guests, mut book, mut rng) = (Guests::default(), Book::default(), Rng::from_number(7));
        book.set_pools(&["10.117.0.0/24".parse().unwrap()]);
        let addresses = book.lease(Time::ZERO, &mut rng, &PublicKey([1; 32]), &[1; 32]).unwrap();
        let address = addresses.iter().next().unwrap();
        let [first, second] = [1, 2].map(CircuitKey::from_number);
        guests.enter(first, addresses);
        assert_eq!(guests.circuit(address), None, "nobody was heard");
        assert_eq!(guests.heard(Time::ZERO, first), Some(addresses));
        assert_eq!((book.claim(&addresses, 3), book.owner(address)), (None, Some(3)));
        guests.enter(second, addresses);
        assert_eq!((guests.heard(Time::ZERO, first), guests.circuit(address)), (None, Some(first)));
        assert_eq!(
            (guests.heard(Time::ZERO, second), guests.circuit(address)),
            (Some(addresses), Some(second))
        );
        assert_eq!(book.claim(&addresses, 1), Some(3));
        assert_eq!(guests.heard(Time::ZERO, first), None, "what comes late on the old one changes nothing");
        guests.leave(first);
        assert_eq!(guests.circuit(address), Some(second));
        assert_eq!((guests.leave(second), guests.circuit(address)), (Some(addresses), None));
    }
}

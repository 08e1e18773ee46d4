//! [`Guests`]: the circuits that end at one shard of an exit (docs/protocol/onion.md §9), and which of them an address leads
//! to. Their addresses come from the [`super::book`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::CircuitKey;
use super::set::Set;
use super::several::Several;
use crate::base::{Rng, Time};
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
    /// Those of each guest that were heard.
    sets: BTreeMap<Addresses, Set>,
    /// Addresses for which this shard sends.
    by_address: BTreeMap<IpAddr, Addresses>,
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

    /// Something came on a circuit. With its first cell it is one of its guest's set, and what comes for its addresses is
    /// this shard's: those addresses then.
    pub fn heard(&mut self, now: Time, circuit: CircuitKey) -> Option<Addresses> {
        let guest = self.by_circuit.get_mut(&circuit)?;
        let addresses = guest.addresses;
        self.sets.entry(addresses).or_default().heard(now, circuit);
        if guest.heard.replace(now).is_some() {
            return None;
        }
        addresses.iter().for_each(|address| _ = self.by_address.insert(address, addresses));
        Some(addresses)
    }

    /// The guest of a circuit, if all of its circuits were silent and this one is heard again before the one that was
    /// heard last: what was sent there meanwhile may not have arrived. Asked before [`Self::heard`].
    pub fn moves(&self, now: Time, circuit: CircuitKey) -> Option<Addresses> {
        let addresses = self.by_circuit.get(&circuit)?.addresses;
        self.sets.get(&addresses)?.moves(now, circuit).then_some(addresses)
    }

    /// A packet of a flow came on a circuit; asks for the flow's number where it matters.
    pub fn flow_heard(&mut self, now: Time, circuit: CircuitKey, flow: impl FnOnce() -> u64) {
        let guest = self.by_circuit.get(&circuit);
        let set = guest.and_then(|guest| self.sets.get_mut(&guest.addresses));
        if let Some(set) = set.filter(|set| set.is_several()) {
            set.flow_heard(now, circuit, flow());
        }
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

    /// The circuit for what comes back of a flow, for an address that is this shard's.
    pub fn way(&self, now: Time, address: IpAddr, flow: impl FnOnce() -> u64) -> Option<CircuitKey> {
        self.sets.get(self.by_address.get(&address)?)?.way(now, flow)
    }

    /// The guest of an address that is this shard's, if it spreads its packets one by one.
    pub fn spreads(&self, address: IpAddr) -> Option<Addresses> {
        let addresses = self.by_address.get(&address)?;
        self.sets.get(addresses)?.several.as_ref().map(|_| *addresses)
    }

    /// Its guest spreads packets one by one from now on.
    pub fn spread(&mut self, circuit: CircuitKey, rng: &mut Rng) -> Option<Addresses> {
        let addresses = self.by_circuit.get(&circuit)?.addresses;
        self.sets.get_mut(&addresses)?.several.get_or_insert_with(|| Box::new(Several::new(rng)));
        Some(addresses)
    }

    /// Packets of a guest that wait for others.
    pub fn waiting(&self, guest: &Addresses) -> Option<usize> {
        self.sets.get(guest)?.several.as_deref().map(Several::waiting)
    }

    /// What is known of a guest's packets that are spread.
    pub fn several(&mut self, guest: &Addresses) -> Option<&mut Several> {
        self.sets.get_mut(guest)?.several.as_deref_mut()
    }

    /// The circuit by which the next packet for such a guest goes, and its sequence.
    pub fn next_spread(&mut self, now: Time, guest: &Addresses, bytes: usize) -> Option<(CircuitKey, u32)> {
        self.sets.get_mut(guest)?.next_spread(now, bytes)
    }

    /// When a guest's packets have waited long enough for those before them.
    pub fn early_at(&self, guest: &Addresses) -> Option<Time> {
        self.sets.get(guest)?.several.as_ref()?.poll_timeout()
    }

    /// Addresses are another shard's now.
    pub fn unclaim(&mut self, addresses: &Addresses) {
        addresses.iter().for_each(|address| _ = self.by_address.remove(&address));
    }

    /// A circuit is over; the addresses that it had.
    pub fn leave(&mut self, circuit: CircuitKey) -> Option<Addresses> {
        let guest = self.by_circuit.remove(&circuit)?;
        if self.sets.get_mut(&guest.addresses).is_some_and(|set| set.leave(circuit)) {
            self.sets.remove(&guest.addresses);
            self.unclaim(&guest.addresses);
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
    use crate::base::PublicKey;

    #[test]
    fn an_address_follows_the_circuit_that_was_heard_last() {
        let (mut guests, mut book, mut rng) = (Guests::default(), Book::default(), Rng::from_number(7));
        book.set_pools(&["10.117.0.0/24".parse().unwrap()]);
        let addresses = book.lease(Time::ZERO, &mut rng, &PublicKey([1; 32]), &[1; 32]).unwrap();
        let address = addresses.iter().next().unwrap();
        let [first, second] = [1, 2].map(CircuitKey::from_number);
        guests.enter(first, addresses);
        let way = |guests: &Guests, ms| guests.way(Time::from_millis(ms), address, || 7);
        assert_eq!(way(&guests, 0), None, "nobody was heard");
        assert_eq!(guests.heard(Time::ZERO, first), Some(addresses));
        assert_eq!((book.claim(&addresses, 3), book.owner(address)), (None, Some(3)));
        guests.enter(second, addresses);
        assert_eq!((guests.heard(Time::ZERO, first), way(&guests, 0)), (None, Some(first)));
        assert_eq!(guests.heard(Time::from_millis(500), second), Some(addresses));
        assert_eq!(way(&guests, 501), Some(second));
        assert_eq!(book.claim(&addresses, 1), Some(3));
        assert_eq!(guests.heard(Time::ZERO, first), None, "what comes late on the old one changes nothing");
        guests.leave(first);
        assert_eq!(way(&guests, 502), Some(second));
        assert_eq!((guests.leave(second), way(&guests, 503)), (Some(addresses), None));
    }
}

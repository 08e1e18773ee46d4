//! An exit (docs/protocol/onion.md §9): what circuits that end here bring goes to the device under an address of the
//! circuit's own, and what comes back for that address goes into the circuit.

use std::net::IpAddr;
use std::time::Duration;

use super::circuits::{Circuits, FIRST};
use super::command::ExitRules;
use super::spreading::End;
use super::{Clock, Node, World};
use crate::base::{Offload, Place, PublicKey, Time, TunPacket};
use crate::limits::{CIRCUITS_MAX, EXIT_BURST_MIN};
use crate::onion::CircuitKey;
use crate::onion::book::Book;
use crate::onion::exit::{CLIENT, Guests};
use crate::onion::held::Held;
use crate::service::PeerId;
use crate::session::CircuitCross;
use crate::tunnel::readdress::{Side, readdress};
use crate::wire::build::Status;
use crate::wire::ip::{self, Addresses, Ip};

/// What a shard of an exit knows.
#[derive(Default)]
pub(super) struct Exit {
    pub(super) rules: ExitRules,
    rate: Rate,
    /// Of the first shard alone.
    pub(super) book: Book,
    pub(super) guests: Guests,
    /// Addresses of circuits that are over, of which the book is to hear: in one message, since a neighbour that is lost
    /// ends thousands at once. At most [`CIRCUITS_MAX`].
    gone: Vec<Addresses>,
    held: Held,
}

/// So many bytes per second.
#[derive(Default)]
struct Rate {
    per_second: Option<u64>,
    left: u64,
    at: Time,
}

impl Rate {
    fn new(now: Time, per_second: Option<u64>) -> Self {
        let mut rate = Self { per_second, left: 0, at: now };
        rate.left = rate.burst();
        rate
    }

    /// What may go at once: a tenth of a second's.
    fn burst(&self) -> u64 {
        self.per_second.map_or(0, |bytes| (bytes / 10).max(EXIT_BURST_MIN))
    }

    fn take(&mut self, now: Time, bytes: u64) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let fresh = u128::from(per_second) * now.since(self.at).min(Duration::from_secs(1)).as_nanos()
            / 1_000_000_000;
        if fresh > 0 {
            self.left = self.left.saturating_add(fresh as u64).min(self.burst());
            self.at = now;
        }
        let granted = self.left >= bytes;
        if granted {
            self.left -= bytes;
        }
        granted
    }
}

impl Circuits {
    /// Whether an address is one that this exit gives out.
    pub(super) fn is_guest(&self, address: IpAddr) -> bool {
        self.exit.rules.pools.iter().any(|pool| pool.contains(address))
    }
}

impl Node {
    /// What leaves through this node for others, from now on.
    pub(super) fn set_exit(&mut self, now: Time, rules: ExitRules) {
        let own = &mut self.circuits;
        // Shards do not tell one another what they sent: each has its part.
        let part = rules.rate.map(|rate| (rate / u64::from(own.shard.1)).max(1));
        own.exit.rate = Rate::new(now, part);
        own.exit.book.set_pools(&rules.pools);
        if own.exit.rules.pools != rules.pools {
            // Their addresses are gone.
            let all = own.exit.guests.circuits();
            for circuit in all {
                own.exit.guests.leave(circuit);
                own.onion.close(circuit);
            }
        }
        own.exit.rules = rules;
    }

    /// A circuit shall end here: it needs addresses.
    pub(super) fn lease(&mut self, clock: Clock, circuit: CircuitKey, resume: [u8; 32]) {
        let asker = self.circuits.onion.asker(circuit).and_then(|link| self.peers.get(&PeerId(link.0)));
        let Some(neighbour) = asker.map(|peer| peer.card.key) else {
            return self.circuits.onion.refuse(clock.now, circuit, Status::Busy);
        };
        if self.circuits.shard.0 == FIRST {
            let addresses = self.lease_from_book(clock.now, &neighbour, &resume);
            return self.leased(clock, circuit, addresses);
        }
        let circuit = circuit.to_number();
        self.circuit_cross(FIRST, CircuitCross::Lease { circuit, neighbour, resume });
    }

    pub(super) fn lease_from_book(
        &mut self,
        now: Time,
        neighbour: &PublicKey,
        resume: &[u8; 32],
    ) -> Option<Addresses> {
        let own = &mut self.circuits;
        own.exit.book.lease(now, &mut own.rng, neighbour, resume)
    }

    pub(super) fn leased(&mut self, clock: Clock, circuit: CircuitKey, addresses: Option<Addresses>) {
        let own = &mut self.circuits;
        let Some(addresses) = addresses else { return own.onion.refuse(clock.now, circuit, Status::Busy) };
        own.onion.accept(clock.now, circuit);
        if own.onion.link_of(circuit).is_some() {
            own.exit.guests.enter(circuit, addresses);
        } else {
            // It ended meanwhile.
            self.release(clock.now, addresses);
        }
    }

    fn release(&mut self, now: Time, addresses: Addresses) {
        let exit = &mut self.circuits.exit;
        if self.circuits.shard.0 == FIRST {
            exit.book.release(now, &addresses);
        } else if exit.gone.len() < CIRCUITS_MAX {
            exit.gone.push(addresses);
        }
    }

    /// Tells the book which circuits are over. What finds no room now does so later.
    pub(super) fn tell_gone(&mut self) {
        if !self.circuits.exit.gone.is_empty() && self.passing.has_room() {
            let gone = std::mem::take(&mut self.circuits.exit.gone);
            self.circuit_cross(FIRST, CircuitCross::Release(gone));
        }
    }

    /// A circuit that ended here is over.
    pub(super) fn guest_gone(&mut self, now: Time, circuit: CircuitKey) {
        if let Some(addresses) = self.circuits.exit.guests.leave(circuit) {
            self.release(now, addresses);
        }
    }

    /// Something came on a circuit that ends here: with the first of it, what comes for its addresses is this shard's.
    pub(super) fn guest_heard(&mut self, clock: Clock, circuit: CircuitKey, world: &mut impl World) {
        let moved = self.circuits.exit.guests.moves(clock.now, circuit);
        let first = self.circuits.exit.guests.heard(clock.now, circuit);
        let Some(addresses) = first.or(moved) else { return };
        // What the one before may not have delivered.
        let held = self.circuits.exit.held.take(clock.now, |to| addresses.like(to) == Some(to));
        for (offload, bytes) in held {
            self.with_copy(&bytes, offload, world, |node, packet, header, world| {
                let client = CLIENT.like(header.destination);
                node.send_on_circuit(clock, circuit, packet, header, client, world);
            });
        }
        let shard = self.circuits.shard.0;
        if first.is_none() {
            return;
        }
        if shard == FIRST {
            self.claim(&addresses, shard);
        } else {
            self.circuit_cross(FIRST, CircuitCross::Claim(addresses));
        }
    }

    /// At the book: what comes for these addresses is a shard's.
    pub(super) fn claim(&mut self, addresses: &Addresses, shard: u8) {
        match self.circuits.exit.book.claim(addresses, shard) {
            Some(FIRST) => self.circuits.exit.guests.unclaim(addresses),
            Some(before) => self.circuit_cross(before, CircuitCross::Unclaim(*addresses)),
            None => {}
        }
    }

    /// A packet of a circuit that ends here, where it was opened.
    pub(super) fn guest_packet(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        place: Place,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        let bytes = world.bytes(place);
        let header = Ip::parse(bytes).ok().filter(|header| Some(header.source) == CLIENT.like(header.source));
        let (Some(header), Some(addresses)) = (header, own.exit.guests.addresses(circuit)) else {
            own.counters.unwanted += 1;
            return;
        };
        let flows = &own.flows;
        own.exit.guests.flow_heard(clock.now, circuit, || flows.of(bytes, &header));
        let allowed = own.rules.exit && own.exit.rules.policy.allows(bytes, &header);
        let Some(source) = addresses.like(header.source).filter(|_| allowed) else {
            own.counters.exit_refused += 1;
            return self.refuse_packet(clock, circuit, place, &header, world);
        };
        if !own.exit.rate.take(clock.now, u64::from(place.len)) {
            own.counters.exit_over_rate += 1;
            return;
        }
        readdress(world.bytes_mut(place), &header, Side::Source, source);
        own.counters.exit_out += 1;
        self.tunnels.deliver(place, &Ip { source, ..header }, world);
    }

    /// Says through the circuit that a packet is not let out, so that its application need not wait.
    fn refuse_packet(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        place: Place,
        header: &Ip,
        world: &mut impl World,
    ) {
        let Some(buf) = world.alloc() else { return };
        let room = Place::room(buf);
        let (packet, out) = world.pair(place, room);
        if let Some(len) = ip::prohibited(packet, header, out) {
            let answer = TunPacket { place: Place { len: len as u32, ..room }, offload: Offload::default() };
            if let Ok(header) = Ip::parse(world.bytes(answer.place)) {
                self.send_on_circuit(clock, circuit, answer, &header, None, world);
            }
        }
        world.free(buf);
    }

    /// A packet of the device for an address that this exit gave out.
    pub(super) fn return_packet(
        &mut self,
        clock: Clock,
        packet: TunPacket,
        header: &Ip,
        from_book: bool,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        let client = CLIENT.like(header.destination);
        if let Some(guest) = own.exit.guests.spreads(header.destination) {
            if !own.exit.rate.take(clock.now, u64::from(packet.place.len)) {
                own.counters.exit_over_rate += 1;
                return;
            }
            own.counters.exit_back += 1;
            return self.send_spread(clock, End::Guest(guest), packet, header, client, world);
        }
        let (flows, bytes) = (&own.flows, world.bytes(packet.place));
        let flow = || {
            let destination = client.unwrap_or(header.destination);
            flows.of_answers(bytes, &Ip { destination, ..*header })
        };
        if let Some(circuit) = own.exit.guests.way(clock.now, header.destination, flow) {
            if !own.exit.rate.take(clock.now, u64::from(packet.place.len)) {
                own.counters.exit_over_rate += 1;
                return;
            }
            own.counters.exit_back += 1;
            if own.exit.guests.is_silent(clock.now, circuit) {
                own.exit.held.keep(clock.now, header, packet.offload, world.bytes(packet.place));
            }
            return self.send_on_circuit(clock, circuit, packet, header, client, world);
        }
        // The book knows whose it is.
        let shard = match own.shard.0 {
            FIRST => own.exit.book.owner(header.destination).filter(|shard| *shard != FIRST),
            // The book's word is older than what became of the circuit.
            _ => (!from_book).then_some(FIRST),
        };
        let Some(shard) = shard else {
            own.counters.exit_strays += 1;
            return;
        };
        let bytes = Box::from(world.bytes(packet.place));
        self.circuit_cross(shard, CircuitCross::Return { offload: packet.offload, bytes });
    }
}

#[cfg(test)]
impl Node {
    /// What a hostile exit can do: a packet goes as it is into every circuit that ends here.
    pub(crate) fn inject(&mut self, clock: Clock, bytes: &[u8], world: &mut impl World) {
        for circuit in self.circuits.exit.guests.circuits() {
            self.with_copy(bytes, Offload::default(), world, |node, packet, header, world| {
                node.send_on_circuit(clock, circuit, packet, header, None, world);
            });
        }
    }
}

//! Packets that are spread over the circuits of a set one by one (docs/protocol/onion.md §13), at both ends: which circuit the
//! next one goes by, and in which order those that came go on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::circuit_packets::Outgoing;
use super::circuits::Circuits;
use super::purposes::PurposeId;
use super::{Clock, Node, World};
use crate::base::{Offload, Place, Time, TunPacket};
use crate::limits::{REORDER_ALL_MAX, SEQUENCE_SIZE, SEVERAL_SIZE, SPREAD_INNER_MAX};
use crate::onion::CircuitKey;
use crate::onion::reorder::Came;
use crate::onion::several::Several;
use crate::wire::ip::{Addresses, Ip};

/// Whose packets they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// This node's own.
    Own(PurposeId),
    /// A guest's, at its exit.
    Guest(Addresses),
}

/// Of one shard.
#[derive(Default)]
pub(super) struct Spreading {
    /// Guests of whom packets wait for those before them.
    early: BTreeSet<Addresses>,
    /// How many do.
    waiting: usize,
}

impl Circuits {
    fn several(&mut self, end: End) -> Option<&mut Several> {
        match end {
            End::Own(id) => self.purposes.get_mut(id)?.several.as_mut(),
            End::Guest(addresses) => self.exit.guests.several(&addresses),
        }
    }

    /// Whose a circuit is by which such a packet came. A guest says so by sending one.
    fn end_of(&mut self, circuit: CircuitKey) -> Option<End> {
        if circuit.is_own() {
            return self.purposes.of(circuit).map(End::Own);
        }
        self.exit.guests.spread(circuit, &mut self.rng).map(End::Guest)
    }

    /// The circuit by which the next packet goes, and its sequence.
    fn next_spread(&mut self, now: Time, end: End, bytes: usize) -> Option<(CircuitKey, u32)> {
        match end {
            End::Own(id) => self.purposes.get_mut(id)?.next_spread(now, bytes),
            End::Guest(addresses) => self.exit.guests.next_spread(now, &addresses, bytes),
        }
    }

    /// The other end said what came by a circuit.
    pub(super) fn reported(&mut self, now: Time, circuit: CircuitKey, report: &[u8; SEVERAL_SIZE]) {
        let end = match circuit.is_own() {
            true => self.purposes.of(circuit).map(End::Own),
            false => self.exit.guests.addresses(circuit).map(End::Guest),
        };
        match end.and_then(|end| self.several(end)) {
            Some(several) => several.reported(now, circuit, report),
            None => self.counters.unwanted += 1,
        }
    }

    /// When packets that wait for others have waited long enough.
    pub(super) fn early_at(&self) -> Option<Time> {
        let guests = self.spreading.early.iter().filter_map(|guest| self.exit.guests.early_at(guest));
        guests.chain(self.purposes.early_at()).min()
    }
}

impl Node {
    /// Sends a packet, each of its parts by the circuit by which it arrives soonest.
    pub(super) fn send_spread(
        &mut self,
        clock: Clock,
        end: End,
        packet: TunPacket,
        header: &Ip,
        to: Option<IpAddr>,
        world: &mut impl World,
    ) {
        let Some(cut) = self.cut_for_circuit(packet, header, SPREAD_INNER_MAX, world) else { return };
        let out = Outgoing { place: packet.place, header, cut, to };
        for index in 0..out.cut.count() {
            let bytes = out.cut.size(index);
            let Some((circuit, sequence)) = self.circuits.next_spread(clock.now, end, bytes) else {
                self.circuits.counters.no_circuit += 1;
                return;
            };
            if !self.send_parts(clock, circuit, &out, index..index + 1, Some(sequence), world) {
                return;
            }
            if let End::Own(id) = end
                && let Some(purpose) = self.circuits.purposes.get_mut(id)
            {
                purpose.count_sent(circuit, 1, bytes as u64);
                self.circuits.counters.sent_bytes += bytes as u64;
            }
        }
    }

    /// A packet with a sequence came by a circuit that ends here.
    pub(super) fn spread_came(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        place: Place,
        world: &mut impl World,
    ) {
        let own = &mut self.circuits;
        let full = own.spreading.waiting >= REORDER_ALL_MAX;
        let end = own.end_of(circuit);
        let content = world.bytes(place);
        let several = end.and_then(|end| own.several(end));
        let (Some(end), Some(several)) = (end, several) else {
            own.counters.unwanted += 1;
            return;
        };
        let before = several.waiting();
        let came = several.came(clock.now, circuit, content);
        let report = several.report(clock.now, circuit);
        let passes = match came {
            Some((Came::Pass, _)) => true,
            Some((Came::Wait, sequence)) if full => {
                several.passed(sequence);
                true
            }
            Some((Came::Wait, sequence)) => {
                several.keep(clock.now, sequence, (circuit, Box::from(&content[SEQUENCE_SIZE..])));
                false
            }
            Some((Came::Again, _)) => false,
            None => false,
        };
        let waiting = several.waiting();
        own.counters.unwanted += u64::from(came.is_none());
        own.spreading.waiting = (own.spreading.waiting + waiting).saturating_sub(before);
        if let End::Guest(addresses) = end
            && waiting > 0
        {
            own.spreading.early.insert(addresses);
        }
        if let Some(report) = report {
            self.send_report(clock, circuit, &report, world);
        }
        if passes {
            let size = SEQUENCE_SIZE as u32;
            let packet = place.part(size, place.len - size).expect("inside its content");
            self.spread_passes(clock, circuit, packet, world);
        }
        if waiting > 0 {
            self.take_early(clock, end, world);
        }
    }

    fn spread_passes(&mut self, clock: Clock, circuit: CircuitKey, place: Place, world: &mut impl World) {
        match circuit.is_own() {
            true => self.circuit_packet_came(clock, circuit, place, world),
            false => self.guest_packet(clock, circuit, place, world),
        }
    }

    /// Those whose turn it is by now.
    fn take_early(&mut self, clock: Clock, end: End, world: &mut impl World) {
        let own = &mut self.circuits;
        let Some(several) = own.several(end) else { return };
        let mut ready = Vec::new();
        ready.extend(std::iter::from_fn(|| several.poll(clock.now)));
        let left = several.waiting();
        own.spreading.waiting = own.spreading.waiting.saturating_sub(ready.len());
        if let End::Guest(addresses) = end
            && left == 0
        {
            own.spreading.early.remove(&addresses);
        }
        for (circuit, bytes) in ready {
            self.with_copy(&bytes, Offload::default(), world, |node, packet, _, world| {
                node.spread_passes(clock, circuit, packet.place, world);
            });
        }
    }

    /// What waited for packets that do not come goes on without them.
    pub(super) fn watch_spreading(&mut self, clock: Clock, world: &mut impl World) {
        let guests: Vec<Addresses> = self.circuits.spreading.early.iter().copied().collect();
        for guest in guests {
            if self.circuits.exit.guests.several(&guest).is_none() {
                // It is gone, with what waited.
                self.circuits.spreading.early.remove(&guest);
            }
            self.take_early(clock, End::Guest(guest), world);
        }
        for id in self.circuits.purposes.spread_ids() {
            self.take_early(clock, End::Own(id), world);
        }
        // Guests may have ended with what waited for them.
        let own = &mut self.circuits;
        let early = own.spreading.early.iter();
        let waiting = early.filter_map(|guest| own.exit.guests.waiting(guest)).sum::<usize>();
        own.spreading.waiting = waiting + own.purposes.early();
    }
}

//! The circuits of one guest of an exit: those that have the same addresses (docs/protocol/onion.md §9). What comes back goes
//! by the circuit on which its flow was heard last; what is unknown, and what would go into silence, by another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::CircuitKey;
use super::several::Several;
use super::spread::by_flow;
use crate::base::Time;
use crate::limits::{HELD_AFTER_MS, SET_CIRCUITS_MAX, SET_FLOW_MS, SET_FLOWS_MAX};

/// What was heard so long ago may be dead.
const SILENT: Duration = Duration::from_millis(HELD_AFTER_MS);

/// The circuits on which a guest was heard.
#[derive(Debug, Default)]
pub struct Set {
    /// Each with when it was heard last, in the order in which they were first; at most [`SET_CIRCUITS_MAX`].
    circuits: Vec<(CircuitKey, Time)>,
    /// Where flows were heard last, and when; none while there is one circuit.
    flows: BTreeMap<u64, (CircuitKey, Time)>,
    swept: Time,
    /// While the guest spreads its packets one by one: what comes back is spread, too.
    pub several: Option<Box<Several>>,
}

impl Set {
    /// Something came on a circuit; true when it is the first. Of too many, who was heard first is forgotten.
    pub fn heard(&mut self, now: Time, circuit: CircuitKey) -> bool {
        if let Some((_, heard)) = self.circuits.iter_mut().find(|(key, _)| *key == circuit) {
            *heard = now;
            return false;
        }
        if self.circuits.len() >= SET_CIRCUITS_MAX {
            self.circuits.remove(0);
        }
        self.circuits.push((circuit, now));
        true
    }

    /// Whether all are silent, and what was sent meanwhile went by another than this one.
    pub fn moves(&self, now: Time, circuit: CircuitKey) -> bool {
        let last = self.circuits.iter().max_by_key(|(_, heard)| *heard);
        last.is_some_and(|(key, heard)| *key != circuit && now.since(*heard) >= SILENT)
    }

    /// Whether there are several.
    pub fn is_several(&self) -> bool {
        self.circuits.len() > 1
    }

    /// A packet of a flow came on a circuit.
    pub fn flow_heard(&mut self, now: Time, circuit: CircuitKey, flow: u64) {
        if let Some(known) = self.flows.get_mut(&flow) {
            *known = (circuit, now);
            return;
        }
        if self.flows.len() >= SET_FLOWS_MAX && now.since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            self.flows.retain(|_, (_, heard)| now.since(*heard) < Duration::from_millis(SET_FLOW_MS));
        }
        if self.flows.len() < SET_FLOWS_MAX {
            self.flows.insert(flow, (circuit, now));
        }
    }

    /// The circuits that may be used: those that are not silent, or the one that was heard last.
    pub fn good(&self, now: Time) -> impl Iterator<Item = CircuitKey> {
        let latest = self.circuits.iter().map(|(_, heard)| *heard).max().unwrap_or(now);
        let all_silent = now.since(latest) >= SILENT;
        let good = move |heard: Time| match all_silent {
            true => heard == latest,
            false => now.since(heard) < SILENT,
        };
        self.circuits.iter().filter(move |(_, heard)| good(*heard)).map(|(key, _)| *key)
    }

    /// The circuit for what comes back of a flow.
    pub fn way(&self, now: Time, flow: impl FnOnce() -> u64) -> Option<CircuitKey> {
        if let [(only, _)] = self.circuits[..] {
            return Some(only);
        }
        let flow = flow();
        let known = self.flows.get(&flow).map(|(circuit, _)| *circuit);
        let known = known.filter(|known| self.good(now).any(|good| good == *known));
        known.or_else(|| by_flow(flow, self.good(now).map(|key| (key, key.to_number(), true))))
    }

    /// The circuit by which the next packet comes back, of those that are spread one by one, and its sequence.
    pub fn next_spread(&mut self, now: Time, bytes: usize) -> Option<(CircuitKey, u32)> {
        let several = self.several.as_ref()?;
        let circuit = several.choose(now, self.good(now), bytes)?;
        Some((circuit, self.several.as_mut()?.sent(now, circuit, bytes)))
    }

    /// A circuit is over; whether it was the last.
    pub fn leave(&mut self, circuit: CircuitKey) -> bool {
        self.circuits.retain(|(key, _)| *key != circuit);
        if self.circuits.len() <= 1 {
            self.flows.clear();
        } else {
            self.flows.retain(|_, (key, _)| *key != circuit);
        }
        self.circuits.is_empty()
    }

    /// All.
    pub fn circuits(&self) -> impl Iterator<Item = CircuitKey> {
        self.circuits.iter().map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> CircuitKey {
        CircuitKey::from_number(n)
    }

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_flow_comes_back_where_it_was_heard_and_elsewhere_when_that_is_silent() {
        let mut set = Set::default();
        assert!(set.heard(ms(0), key(1)) && set.heard(ms(0), key(2)) && !set.heard(ms(0), key(1)));
        set.flow_heard(ms(0), key(1), 11);
        set.flow_heard(ms(0), key(2), 22);
        assert_eq!((set.way(ms(1), || 11), set.way(ms(1), || 22)), (Some(key(1)), Some(key(2))));
        set.flow_heard(ms(2), key(2), 11);
        assert_eq!(set.way(ms(3), || 11), Some(key(2)), "it moved");
        set.flow_heard(ms(4), key(1), 11);
        set.heard(ms(400), key(2));
        assert_eq!(set.way(ms(401), || 11), Some(key(2)), "nothing was heard on its own for long");
        set.heard(ms(401), key(1));
        assert_eq!(set.way(ms(402), || 11), Some(key(1)), "it is there again");
        assert_eq!(set.way(ms(90_000), || 22), Some(key(1)), "all are silent: the one that was heard last");
        let spread = (0..100).filter(|flow| set.way(ms(402), || *flow << 7) == Some(key(1))).count();
        assert!((20..80).contains(&spread), "{spread} of what is unknown");
        assert!(!set.leave(key(1)));
        assert_eq!(set.way(ms(402), || unreachable!()), Some(key(2)));
        assert!(set.leave(key(2)) && set.way(ms(402), || 1).is_none());
    }

    #[test]
    fn a_guest_has_so_many_circuits_and_flows() {
        let mut set = Set::default();
        for n in 0..100 {
            assert!(set.heard(ms(n), key(n)));
        }
        assert_eq!(set.circuits().count(), SET_CIRCUITS_MAX);
        for n in 0..3 * SET_FLOWS_MAX as u64 {
            set.flow_heard(ms(1000 + n), key(99), n);
            assert!(set.flows.len() <= SET_FLOWS_MAX);
        }
        let later = ms(2000 + SET_FLOW_MS + 2 * SET_FLOWS_MAX as u64);
        set.flow_heard(later, key(99), 1 << 40);
        assert!(set.flows.contains_key(&(1 << 40)) && set.flows.len() < SET_FLOWS_MAX, "old ones make room");
    }
}

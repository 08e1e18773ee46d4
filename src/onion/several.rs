//! Packets that are spread over the circuits of a set one by one (docs/protocol/onion.md §13): as one end sees it, which sends
//! some and gets others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::CircuitKey;
use super::reorder::{Came, Reorder};
use super::spread::Way;
use crate::base::{Rng, Time};
use crate::limits::{CIRCUIT_DRAIN_MS, SET_CIRCUITS_MAX, SEVERAL_SIZE, SPREAD_REPORT_MS};

/// A packet that waits for those before it, and the circuit by which it came.
pub type Early = (CircuitKey, Box<[u8]>);

/// One end's.
#[derive(Debug)]
pub struct Several {
    /// The next sequence that is sent.
    next: u32,
    ways: BTreeMap<CircuitKey, Way>,
    got: BTreeMap<CircuitKey, Got>,
    reorder: Reorder<Early>,
}

/// What came by one circuit.
#[derive(Debug, Clone, Copy)]
struct Got {
    bytes: u32,
    last: u32,
    said: Time,
}

impl Several {
    /// It begins anywhere: the other end may remember another.
    pub fn new(rng: &mut Rng) -> Self {
        let next = rng.next_u64() as u32;
        Self { next, ways: BTreeMap::new(), got: BTreeMap::new(), reorder: Reorder::default() }
    }

    /// The circuit by which a packet of so many bytes arrives soonest, of those that may be used.
    pub fn choose(
        &self,
        now: Time,
        circuits: impl Iterator<Item = CircuitKey>,
        bytes: usize,
    ) -> Option<CircuitKey> {
        let estimate =
            |key: &CircuitKey| self.ways.get(key).map_or(Duration::ZERO, |way| way.estimate(now, bytes));
        circuits.min_by_key(estimate)
    }

    /// A packet goes out; its sequence.
    pub fn sent(&mut self, now: Time, circuit: CircuitKey, bytes: usize) -> u32 {
        let sequence = self.next;
        self.next = sequence.wrapping_add(1);
        if self.ways.len() > SET_CIRCUITS_MAX {
            let old = Duration::from_millis(CIRCUIT_DRAIN_MS);
            self.ways.retain(|key, way| *key == circuit || now.since(way.used()) < old);
        }
        self.ways.entry(circuit).or_insert_with(|| Way::new(now)).sent(now, sequence, bytes);
        sequence
    }

    /// Content of a circuit that came: sequence and packet. What to do with the packet; `None` when it is no content.
    pub fn came(&mut self, now: Time, circuit: CircuitKey, content: &[u8]) -> Option<(Came, u32)> {
        let sequence = u32::from_le_bytes(*content.first_chunk()?);
        let bytes = content.len() as u32;
        if self.got.len() > SET_CIRCUITS_MAX {
            let old = Duration::from_millis(CIRCUIT_DRAIN_MS);
            self.got.retain(|key, got| *key == circuit || now.since(got.said) < old);
        }
        let got = self.got.entry(circuit).or_insert(Got { bytes: 0, last: sequence, said: now });
        got.bytes = got.bytes.wrapping_add(bytes);
        got.last = sequence;
        Some((self.reorder.came(now, sequence), sequence))
    }

    /// Keeps one that is to wait.
    pub fn keep(&mut self, now: Time, sequence: u32, early: Early) {
        self.reorder.keep(now, sequence, early);
    }

    /// One that was to wait passed instead, for want of room.
    pub fn passed(&mut self, sequence: u32) {
        self.reorder.passed(sequence);
    }

    /// The next one whose turn it is.
    pub fn poll(&mut self, now: Time) -> Option<Early> {
        self.reorder.poll(now)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.reorder.len()
    }

    /// When [`Self::poll`] has more.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.reorder.poll_timeout()
    }

    /// What the other end is to be told of a circuit by which something came, if it is time.
    pub fn report(&mut self, now: Time, circuit: CircuitKey) -> Option<[u8; SEVERAL_SIZE]> {
        let got = self.got.get_mut(&circuit)?;
        if now.since(got.said) < Duration::from_millis(SPREAD_REPORT_MS) {
            return None;
        }
        got.said = now;
        let mut report = [0; SEVERAL_SIZE];
        report[..4].copy_from_slice(&got.last.to_le_bytes());
        report[4..].copy_from_slice(&got.bytes.to_le_bytes());
        Some(report)
    }

    /// The other end said what came by a circuit.
    pub fn reported(&mut self, now: Time, circuit: CircuitKey, report: &[u8; SEVERAL_SIZE]) {
        let number =
            |at: usize| u32::from_le_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
        if let Some(way) = self.ways.get_mut(&circuit) {
            way.reported(now, number(0), number(4));
        }
    }

    /// Bytes per second that a circuit seems to carry; 0 while that is not known.
    pub fn rate(&self, circuit: CircuitKey) -> u64 {
        self.ways.get(&circuit).map_or(0, Way::rate)
    }
}

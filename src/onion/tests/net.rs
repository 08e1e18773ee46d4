//! A line of nodes, each with a session to the next: node 0 is the origin, the others are hops. Cells wait in one queue,
//! which the test may look at, change, drop, repeat and reorder.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use crate::crypto::IdentityCard;
use crate::wire::build::{NextHop, Status};
use crate::wire::cell::CONTENT_AT;

/// Between neighbours, one way.
pub(super) const DELAY: Duration = Duration::from_millis(10);

/// A cell on its way.
#[derive(Debug, Clone)]
pub(super) struct Flying {
    pub at: Time,
    pub from: usize,
    pub to: usize,
    pub cell: Vec<u8>,
}

/// What arrived at an end of a circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    pub node: usize,
    pub kind: Inner,
    pub bytes: Vec<u8>,
}

pub(super) struct Net {
    pub now: Time,
    pub rng: Rng,
    pub nodes: Vec<Onion>,
    pub flying: Vec<Flying>,
    pub arrived: Vec<Arrived>,
    pub events: Vec<(usize, Event)>,
    pub drops: Vec<(usize, DropCause)>,
    /// The onion keys of nodes that have none themselves.
    pub keys: BTreeMap<usize, Onion>,
    /// What nodes answer to those who ask for more than cells on.
    pub refusing: BTreeMap<usize, Status>,
    /// Circuits that end at a node, latest last.
    pub ends: Vec<(usize, CircuitKey)>,
}

pub(super) fn key(node: usize) -> PublicKey {
    PublicKey([node as u8 + 1; 32])
}

fn link(to: usize) -> LinkId {
    LinkId(to as u64)
}

impl Net {
    /// An origin and so many hops behind it.
    pub(super) fn new(seed: u64, hops: usize) -> Self {
        let mut rng = Rng::from_number(seed);
        let suite = |n: usize| if n % 3 == 2 { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm };
        let nodes = (0..=hops).map(|n| Onion::new(key(n), suite(n), rng.fork(), Time::ZERO)).collect();
        let mut net = Self {
            now: Time::ZERO,
            rng,
            nodes,
            flying: Vec::new(),
            arrived: Vec::new(),
            events: Vec::new(),
            drops: Vec::new(),
            keys: BTreeMap::new(),
            refusing: BTreeMap::new(),
            ends: Vec::new(),
        };
        (0..hops).for_each(|n| net.connect(n, n + 1));
        net
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        self.nodes[a].link_up(self.now, link(b), true);
        self.nodes[b].link_up(self.now, link(a), false);
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        self.nodes[a].link_down(link(b));
        self.nodes[b].link_down(link(a));
        self.flying.retain(|f| (f.from, f.to) != (a, b) && (f.from, f.to) != (b, a));
        self.settle(a);
        self.settle(b);
    }

    pub(super) fn route(&self, imaginary: u8) -> Route {
        let hop = |n: usize| HopInfo {
            hop: NextHop {
                card: IdentityCard { key: key(n), place_nonce: n as u64, rank_nonce: 0 },
                address: None,
            },
            onion: self.nodes[n].onion_key().expect("each has keys of its own"),
        };
        let hops = (1..self.nodes.len()).map(hop).collect();
        Route { link: link(1), hops, imaginary, resume: [7; 32] }
    }

    pub(super) fn build(&mut self, imaginary: u8) -> CircuitKey {
        let route = self.route(imaginary);
        let circuit = self.nodes[0].build(self.now, &route).expect("a path");
        self.settle(0);
        circuit
    }

    /// A circuit that is open at both ends, with nothing on its way.
    pub(super) fn open(&mut self, imaginary: u8) -> CircuitKey {
        let circuit = self.build(imaginary);
        self.run();
        assert!(self.nodes[0].is_open(circuit), "{:?}", self.events);
        circuit
    }

    /// The circuit's other end.
    pub(super) fn end(&self) -> (usize, CircuitKey) {
        *self.ends.last().expect("an open circuit")
    }

    /// Answers a node's events and takes its messages.
    pub(super) fn settle(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].poll_event() {
            let now = self.now;
            if let Event::Open { circuit, request } = event {
                // The keys are another shard's, which is at hand.
                let agreed =
                    self.keys.get_mut(&node).expect("it has left its keys to somebody").agree(&request);
                self.nodes[node].agreed(now, circuit, agreed);
                continue;
            }
            match (&event, self.refusing.get(&node)) {
                (Event::Relay { circuit, .. } | Event::End { circuit, .. }, Some(status)) => {
                    self.nodes[node].refuse(now, *circuit, *status);
                }
                (Event::Relay { circuit, next }, None) => {
                    let next = (0..self.nodes.len()).find(|n| key(*n) == next.card.key).expect("a node");
                    self.nodes[node].extend(now, *circuit, link(next));
                }
                (Event::End { circuit, .. }, None) => {
                    self.ends.push((node, *circuit));
                    self.nodes[node].accept(now, *circuit);
                }
                _ => {}
            }
            self.events.push((node, event));
        }
        let mut room = [0; Class::Large.size()];
        while let Some((to, len)) = self.nodes[node].poll_transmit(&mut room) {
            self.fly(node, to, room[..len].to_vec());
        }
    }

    pub(super) fn fly(&mut self, from: usize, to: LinkId, cell: Vec<u8>) {
        let to = to.0 as usize;
        assert!(Class::of_size(cell.len()).is_some(), "{} bytes are no cell", cell.len());
        self.flying.push(Flying { at: self.now + DELAY, from, to, cell });
    }

    /// Shows a node a cell as if it came from a neighbour.
    pub(super) fn show(&mut self, from: usize, to: usize, mut cell: Vec<u8>) -> Verdict {
        let verdict =
            self.nodes[to].handle_cell(self.now, link(from), &mut cell).expect("an honest neighbour");
        match &verdict {
            Verdict::Forward { link } => self.fly(to, *link, cell),
            Verdict::Content { kind, content, .. } => {
                let bytes = cell[content.clone()].to_vec();
                self.arrived.push(Arrived { node: to, kind: *kind, bytes });
            }
            Verdict::Dropped(cause) => self.drops.push((to, *cause)),
            Verdict::Handled => {}
        }
        self.settle(to);
        verdict
    }

    /// Delivers the cell that is due next; false when none is on its way.
    pub(super) fn step(&mut self) -> bool {
        let Some(first) = (0..self.flying.len()).min_by_key(|n| self.flying[*n].at) else { return false };
        let Flying { at, from, to, cell } = self.flying.remove(first);
        self.now = self.now.max(at);
        self.show(from, to, cell);
        true
    }

    /// Until nothing is on its way. Timers stand still.
    pub(super) fn run(&mut self) {
        while self.step() {}
    }

    /// Until this time, with timers.
    pub(super) fn run_until(&mut self, until: Time) {
        loop {
            let timers =
                self.nodes.iter().enumerate().filter_map(|(n, node)| Some((node.poll_timeout()?, n)));
            let timer = timers.min().filter(|(at, _)| *at <= until);
            let cell = self.flying.iter().map(|flying| flying.at).min().filter(|at| *at <= until);
            match (timer, cell) {
                (Some((at, node)), cell) if cell.is_none_or(|cell| at <= cell) => {
                    self.now = self.now.max(at);
                    self.nodes[node].handle_timeout(self.now);
                    let next = self.nodes[node].poll_timeout();
                    assert!(next.is_none_or(|next| next > self.now), "a timer that fired lies in the future");
                    self.settle(node);
                }
                (_, Some(_)) => {
                    self.step();
                }
                _ => break,
            }
        }
        self.now = until;
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// A sealed cell of content, not yet on its way.
    pub(super) fn seal(
        &mut self,
        node: usize,
        circuit: CircuitKey,
        class: Class,
        bytes: &[u8],
    ) -> (LinkId, Vec<u8>) {
        let mut cell = vec![0xee; class.size()];
        cell[CONTENT_AT..CONTENT_AT + bytes.len()].copy_from_slice(bytes);
        let sealed = self.nodes[node].seal(self.now, circuit, Inner::Packet, bytes.len(), &mut cell);
        (sealed.expect("an open circuit"), cell)
    }

    pub(super) fn send(&mut self, node: usize, circuit: CircuitKey, class: Class, bytes: &[u8]) {
        let (to, cell) = self.seal(node, circuit, class, bytes);
        self.fly(node, to, cell);
    }

    pub(super) fn take_arrived(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.arrived).into_iter().map(|arrived| arrived.bytes).collect()
    }

    /// Nothing of any circuit is left anywhere.
    pub(super) fn assert_empty(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            assert!(node.is_empty(), "node {n}: {:?}", node.len());
            assert_eq!((node.links.legs(), node.building), (0, 0), "node {n}");
            assert!(node.timers.is_empty(), "node {n}");
        }
    }
}

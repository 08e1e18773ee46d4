//! Circuits: their messages, and a line of origin, relay and end of which one leg is hostile.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Input;
use crate::base::{PublicKey, Rng, Time};
use crate::crypto::{IdentityCard, Suite};
use crate::limits::{CELL_INNER_SMALL, CIRCUIT_MS_MAX, LAYERS_MAX};
use crate::onion::{CircuitKey, Event, HopInfo, LinkId, Onion, Route, Verdict};
use crate::wire::build::{ANSWER_BODY, Answer, NextHop, REQUEST_BODY, Request, Role, Status};
use crate::wire::cell::{AREA_AT, CONTENT_AT, Class, Head, Inner};
use crate::wire::relay::RelayCard;

/// Heads and contents of cells.
pub fn cell(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let class = if input.flag() { Class::Large } else { Class::Small };
    let mut whole = input.rest().to_vec();
    if let Ok(head) = Head::parse(&whole) {
        assert_eq!(Some(head.class()), Class::of_size(whole.len()));
    }
    whole.resize(class.size(), 0);
    if let Ok(head) = Head::parse(&whole) {
        assert_eq!(head.class(), class);
        let before = whole.clone();
        head.emit(&mut whole);
        assert_eq!(whole, before);
    }
    let body = &whole[AREA_AT..AREA_AT + class.record(LAYERS_MAX as u8 - 1)];
    if let Ok((kind, content)) = Inner::parse(body) {
        assert!(content.end <= body.len());
        let mut again = body.to_vec();
        kind.emit(&mut again, content.len());
        assert_eq!(Inner::parse(&again), Ok((kind, content.clone())));
        assert_eq!(again[..content.end], body[..content.end]);
    }
}

/// What hops are told and what they answer.
pub fn build(bytes: &[u8]) {
    let mut body = [0; REQUEST_BODY];
    let len = bytes.len().min(REQUEST_BODY);
    body[..len].copy_from_slice(&bytes[..len]);
    if let Ok(request) = Request::parse(&body) {
        assert!((1..=LAYERS_MAX as u8).contains(&request.layers));
        assert!(request.layers > 1 || matches!(request.role, Role::End { .. }));
        assert_eq!(Request::parse(&request.emit()), Ok(request));
    }
    if let Ok(answer) = Answer::parse(body.first_chunk::<ANSWER_BODY>().expect("shorter than a request's")) {
        assert_eq!(Answer::parse(&answer.emit()), Ok(answer));
    }
}

/// What introductions say of relays.
pub fn card(bytes: &[u8]) {
    let Ok(relay) = RelayCard::parse(bytes) else { return };
    assert!(bytes.len() == RelayCard::LEN && relay.trust <= 100);
    assert_eq!(RelayCard::parse(&relay.emit()), Ok(relay));
}

/// A relay whose neighbour, the origin, sends what it likes; behind the relay all are honest.
pub fn relay(bytes: &[u8]) {
    Line::new(ORIGIN).run(Input::new(bytes));
}

/// An origin whose first hop sends what it likes.
pub fn origin(bytes: &[u8]) {
    Line::new(RELAY).run(Input::new(bytes));
}

const ORIGIN: usize = 0;
const RELAY: usize = 1;
const END: usize = 2;
/// Cells that are kept to be sent again.
const KEPT_MAX: usize = 32;

struct Flying {
    from: usize,
    to: usize,
    cell: Vec<u8>,
}

/// Origin, relay, end. What `hostile` sends to its neighbour on the first leg is the script's.
struct Line {
    now: Time,
    nodes: Vec<Onion>,
    up: [bool; 2],
    flying: Vec<Flying>,
    kept: Vec<Flying>,
    hostile: usize,
    /// Circuits at both ends: whose, and which.
    circuits: Vec<(usize, CircuitKey)>,
    /// Contents on their way, by who shall hear them.
    sent: BTreeMap<(usize, Vec<u8>), usize>,
    serial: u32,
}

fn key(node: usize) -> PublicKey {
    PublicKey([node as u8 + 1; 32])
}

impl Line {
    fn new(hostile: usize) -> Self {
        let mut rng = Rng::from_number(hostile as u64);
        let nodes =
            (0..3).map(|n| Onion::new(key(n), Suite::ChaCha20Poly1305, rng.fork(), Time::ZERO)).collect();
        let mut line = Self {
            now: Time::ZERO,
            nodes,
            up: [false; 2],
            flying: Vec::new(),
            kept: Vec::new(),
            hostile,
            circuits: Vec::new(),
            sent: BTreeMap::new(),
            serial: 0,
        };
        line.toggle(0);
        line.toggle(1);
        line
    }

    /// Ends or begins the session between a node and the next.
    fn toggle(&mut self, leg: usize) {
        let (a, b) = (leg, leg + 1);
        self.up[leg] = !self.up[leg];
        if self.up[leg] {
            self.nodes[a].link_up(self.now, LinkId(b as u64), true);
            self.nodes[b].link_up(self.now, LinkId(a as u64), false);
        } else {
            self.nodes[a].link_down(LinkId(b as u64));
            self.nodes[b].link_down(LinkId(a as u64));
            self.flying.retain(|f| f.from.min(f.to) != leg);
        }
    }

    fn run(mut self, mut input: Input<'_>) {
        for _ in 0..200 {
            if input.is_empty() {
                break;
            }
            self.step(&mut input);
            self.settle(&mut input);
            for node in &self.nodes {
                assert!(node.poll_timeout().is_none_or(|at| at > self.now), "a timer that was due has fired");
            }
        }
        // Whatever happened, time ends all of it.
        self.flying.clear();
        for _ in 0..4 {
            self.wait(Duration::from_millis(CIRCUIT_MS_MAX / 2));
            self.settle(&mut input);
            self.flying.clear();
        }
        let own: Vec<_> = std::mem::take(&mut self.circuits);
        own.into_iter().for_each(|(node, circuit)| self.nodes[node].close(circuit));
        assert!(self.nodes.iter().all(Onion::is_empty));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0 => {
                let hops = 1 + input.below(2);
                let hop = |n: usize| {
                    let card = IdentityCard { key: key(n), place_nonce: 0, rank_nonce: 0 };
                    HopInfo {
                        hop: NextHop { card, address: None },
                        onion: self.nodes[n].onion_key().expect("each has its own"),
                    }
                };
                let hops = (RELAY..=hops).map(hop).collect();
                let route = Route { link: LinkId(RELAY as u64), hops, imaginary: 1, resume: [7; 32] };
                if let Ok(circuit) = self.nodes[ORIGIN].build(self.now, &route) {
                    self.circuits.push((ORIGIN, circuit));
                }
            }
            1 | 2 => self.send(input),
            3..=5 => {
                let at = input.below(self.flying.len());
                if at < self.flying.len() {
                    let one = self.flying.remove(at);
                    self.show(one);
                }
            }
            6 => {
                // What the hostile one has at hand, changed.
                let victim = 1 - self.hostile;
                let own: Vec<&Flying> = self.kept.iter().filter(|one| one.to == victim).collect();
                if !own.is_empty() {
                    let mut cell = input.pick(&own).cell.clone();
                    if !input.one_in(4) {
                        input.mutate(&mut cell);
                    }
                    self.show(Flying { from: self.hostile, to: victim, cell });
                }
            }
            7 => {
                let class = if input.flag() { Class::Large } else { Class::Small };
                let mut cell = vec![0; class.size()];
                let raw = input.bytes(64);
                cell[..raw.len()].copy_from_slice(raw);
                self.show(Flying { from: self.hostile, to: 1 - self.hostile, cell });
            }
            8 => self.wait(Duration::from_millis(u64::from(input.half()) * 20)),
            _ => self.toggle(input.below(2)),
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let at = input.below(self.circuits.len());
        let Some(&(node, circuit)) = self.circuits.get(at) else { return };
        let class = if input.flag() { Class::Large } else { Class::Small };
        let mut cell = vec![0xee; class.size()];
        self.serial += 1;
        let len = 4 + input.below(CELL_INNER_SMALL - 3);
        cell[CONTENT_AT..CONTENT_AT + 4].copy_from_slice(&self.serial.to_le_bytes());
        let content = cell[CONTENT_AT..CONTENT_AT + len].to_vec();
        if let Ok(link) = self.nodes[node].seal(self.now, circuit, Inner::Packet, len, &mut cell) {
            // To the other end of that circuit, whichever that is.
            let ends: &[usize] = if node == ORIGIN { &[RELAY, END] } else { &[ORIGIN] };
            ends.iter().for_each(|end| *self.sent.entry((*end, content.clone())).or_default() += 1);
            self.fly(node, link, cell);
        }
    }

    fn fly(&mut self, from: usize, link: LinkId, cell: Vec<u8>) {
        assert!(Class::of_size(cell.len()).is_some());
        let to = link.0 as usize;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(Flying { from, to, cell: cell.clone() });
        }
        self.flying.push(Flying { from, to, cell });
    }

    fn show(&mut self, Flying { from, to, mut cell }: Flying) {
        if !self.up[from.min(to)] {
            return;
        }
        let honest = from != self.hostile || from.max(to) == END;
        match self.nodes[to].handle_cell(self.now, LinkId(from as u64), &mut cell) {
            Ok(Verdict::Forward { link }) => self.fly(to, link, cell),
            Ok(Verdict::Content { content, kind, .. }) => {
                assert_eq!(kind, Inner::Packet);
                let left =
                    self.sent.get_mut(&(to, cell[content].to_vec())).expect("only what was sent arrives");
                *left = left.checked_sub(1).expect("and no more often than that");
            }
            Ok(Verdict::Handled | Verdict::Dropped(_)) => {}
            Err(fault) => assert!(!honest, "{fault} from an honest neighbour"),
        }
    }

    /// Answers events, as the script has it, and takes messages.
    fn settle(&mut self, input: &mut Input<'_>) {
        for n in 0..3 {
            while let Some(event) = self.nodes[n].poll_event() {
                match event {
                    Event::Open { .. } => unreachable!("each has keys of its own"),
                    Event::Relay { circuit, next } if !input.one_in(8) => {
                        let to = (0..3).find(|n| key(*n) == next.card.key).unwrap_or(7);
                        self.nodes[n].extend(self.now, circuit, LinkId(to as u64));
                    }
                    Event::End { circuit, .. } if !input.one_in(8) => {
                        self.nodes[n].accept(self.now, circuit);
                        self.circuits.push((n, circuit));
                    }
                    Event::Relay { circuit, .. } | Event::End { circuit, .. } => {
                        self.nodes[n].refuse(self.now, circuit, Status::Busy);
                    }
                    Event::Ended { circuit, .. } => self.circuits.retain(|one| *one != (n, circuit)),
                    Event::Opened { .. } | Event::Aging { .. } => {}
                }
            }
            let mut room = [0; Class::Large.size()];
            while let Some((link, len)) = self.nodes[n].poll_transmit(&mut room) {
                self.fly(n, link, room[..len].to_vec());
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for node in &mut self.nodes {
            node.handle_timeout(self.now);
        }
    }
}

//! Thousands of [`Overlay`]s, the real ones, without what is below them: sessions are a round trip and some bytes, links
//! a latency and a loss (docs/overlay.md). Everything random comes from one seed.

pub mod attacks;
mod flood;
pub mod hostile;
pub mod link;
pub mod measure;
pub mod million;
pub mod scenarios;
mod users;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ChunkId, NodeId, Rng, Time, UnixMs};
use crate::crypto::{Identity, kdf::Secret};
use crate::limits::SESSION_IDLE_MS_MAX;
use crate::overlay::place::Key;
use crate::overlay::site;
use crate::overlay::{Config, Effect, Moment, Overlay, Peer};
use crate::wire::overlay::{Contact, Message};

use hostile::Role;
use link::Links;
use measure::{Probe, Tally};

/// The wall clock when virtual time begins.
const WALL_MS: u64 = 1_800_000_000_000;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver { to: u32, from: u32, bytes: Vec<u8> },
    Timer(u32),
}

struct Node {
    /// `None` once it is dead.
    core: Option<Box<Overlay>>,
    peer: Peer,
    role: Role,
    /// What its wall clock is ahead, ms.
    skew_ms: i64,
    /// Messages between different sides are lost while the network is parted.
    side: u8,
    timer: Time,
    /// When something was said last, by peer.
    sessions: BTreeMap<u32, Time>,
    /// Lookups of its that are measured.
    probes: Vec<usize>,
    /// Questions for records that it was asked.
    asked: u64,
}

/// What a world is like.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Everything random.
    pub seed: u64,
    /// The cores' configuration. Floors of work are left out: a simulated identity costs nothing.
    pub config: Config,
    /// Median round trip.
    pub rtt: Duration,
    /// Share of packets lost.
    pub loss: f64,
    /// Wall clocks are wrong by so much at most, ahead or behind.
    pub skew: Duration,
    /// Whether questions go with the first flight of a handshake; without, a handshake costs a round trip more.
    pub early: bool,
}

impl Settings {
    /// 80 ms, 1 %, early data, good clocks.
    pub fn new(seed: u64) -> Self {
        let config = Config { place_floor: 0, remembered: 256, ..Config::default() };
        Self { seed, config, rtt: Duration::from_millis(80), loss: 0.01, skew: Duration::ZERO, early: true }
    }
}

/// A network of overlays under a virtual clock.
pub struct World {
    settings: Settings,
    rng: Rng,
    links: Links,
    now: Time,
    number: u64,
    heap: BinaryHeap<Reverse<(Time, u64, Event)>>,
    nodes: Vec<Node>,
    alive: Vec<u32>,
    by_id: BTreeMap<NodeId, u32>,
    holders: BTreeMap<ChunkId, Vec<u32>>,
    hostile: Vec<(Key, Contact)>,
    probes: Vec<Probe>,
    is_parted: bool,
    /// What attackers send others to.
    victim: Option<SocketAddr>,
    /// What was measured.
    pub tally: Tally,
}

impl World {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        let mut rng = Rng::from_number(settings.seed);
        let links = Links::new(settings.rtt, 0.6, settings.loss, &mut rng);
        Self {
            settings,
            links,
            rng,
            now: Time::ZERO,
            number: 0,
            heap: BinaryHeap::new(),
            nodes: Vec::new(),
            alive: Vec::new(),
            by_id: BTreeMap::new(),
            holders: BTreeMap::new(),
            hostile: Vec::new(),
            probes: Vec::new(),
            is_parted: false,
            victim: None,
            tally: Tally::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// What a node's clocks say.
    fn moment(&self, node: u32) -> Moment {
        let wall = WALL_MS + self.now.0 / 1_000_000;
        let skew = self.nodes.get(node as usize).map_or(0, |own| own.skew_ms);
        Moment { now: self.now, wall: UnixMs(wall.saturating_add_signed(skew)) }
    }

    /// Nodes that live.
    pub fn alive(&self) -> &[u32] {
        &self.alive
    }

    /// A living node by chance.
    pub fn any(&mut self) -> u32 {
        let at = self.rng.below(self.alive.len() as u64) as usize;
        self.alive[at]
    }

    /// A living node by chance that is not hostile.
    pub fn any_honest(&mut self) -> u32 {
        loop {
            let node = self.any();
            if self.nodes[node as usize].role == Role::Honest {
                return node;
            }
        }
    }

    /// A core that lives.
    pub fn core(&self, node: u32) -> Option<&Overlay> {
        self.nodes.get(node as usize)?.core.as_deref()
    }

    /// A new node that knows some others. `place` says which of the places that a key can have will do.
    pub fn join(&mut self, entries: &[u32], role: Role, place: impl Fn(&NodeId) -> bool) -> u32 {
        let ip = self.any_address();
        self.join_at(entries, role, ip, place)
    }

    /// An address of somebody's.
    fn any_address(&mut self) -> std::net::Ipv4Addr {
        loop {
            let ip = std::net::Ipv4Addr::from_bits(self.rng.next_u64() as u32);
            if ip.octets()[0] < 224 && site::is_global((ip, 1).into()) {
                return ip;
            }
        }
    }

    /// The same at an address.
    pub fn join_at(
        &mut self,
        entries: &[u32],
        role: Role,
        ip: std::net::Ipv4Addr,
        place: impl Fn(&NodeId) -> bool,
    ) -> u32 {
        let secret = Secret::from_bytes(self.rng.bytes());
        let first = Identity::new(secret, 0, 0);
        let mut nonce = 0u64;
        let key = first.card().key;
        while !place(&crate::crypto::rank::place(&key, nonce)) {
            nonce += 1;
        }
        let identity = Arc::new(if nonce == 0 { first } else { first.with_nonces(nonce, 0) });
        let node = self.nodes.len() as u32;
        let address = SocketAddr::from((ip, 4600));
        let skew = self.settings.skew.as_millis() as u64;
        let skew_ms = self.rng.below(2 * skew + 1) as i64 - skew as i64;
        let rng = self.rng.fork();
        let core = Overlay::new(self.settings.config, identity, [address], self.now, rng);
        let peer = *core.own();
        let timer = core.poll_timeout();
        if role != Role::Honest {
            self.hostile.push((peer.id.0, peer.contact));
        }
        self.nodes.push(Node {
            core: Some(Box::new(core)),
            peer,
            role,
            skew_ms,
            side: 0,
            timer,
            sessions: BTreeMap::new(),
            probes: Vec::new(),
            asked: 0,
        });
        self.by_id.insert(peer.id, node);
        self.alive.push(node);
        self.push(timer, Event::Timer(node));
        for entry in entries {
            let peer = self.nodes[*entry as usize].peer;
            let at = self.moment(node);
            if let Some(core) = &mut self.nodes[node as usize].core {
                core.handle_up(at, &peer, peer.contact.addresses().next());
            }
        }
        self.drain(node);
        node
    }

    /// A node is gone, without a word.
    pub fn kill(&mut self, node: u32) {
        let own = &mut self.nodes[node as usize];
        if own.core.take().is_some() {
            own.sessions.clear();
            self.alive.retain(|other| *other != node);
            let id = own.peer.id;
            self.by_id.remove(&id);
        }
    }

    fn push(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.heap.push(Reverse((at, self.number, event)));
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until: Time) {
        while let Some(Reverse((at, ..))) = self.heap.peek()
            && *at <= until
        {
            let Some(Reverse((at, _, event))) = self.heap.pop() else { break };
            self.now = at;
            match event {
                Event::Deliver { to, from, bytes } => self.deliver(to, from, bytes),
                Event::Timer(node) => self.fire(node),
            }
        }
        self.now = until;
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn fire(&mut self, node: u32) {
        let at = self.moment(node);
        let own = &mut self.nodes[node as usize];
        let Some(core) = &mut own.core else { return };
        if own.timer <= self.now {
            core.handle_timeout(at);
            own.timer = Time(u64::MAX);
        }
        self.drain(node);
    }

    fn deliver(&mut self, to: u32, from: u32, bytes: Vec<u8>) {
        let at = self.moment(to);
        let sender = self.nodes[from as usize].peer;
        let is_apart = self.is_parted && self.nodes[to as usize].side != self.nodes[from as usize].side;
        let own = &mut self.nodes[to as usize];
        if is_apart || own.core.is_none() {
            return;
        }
        let is_find = bytes.first() == Some(&1);
        own.asked += u64::from(is_find && bytes.get(5).is_some_and(|flags| flags & 1 == 1));
        self.note_answer(to, from, &bytes);
        if self.nodes[to as usize].role != Role::Honest && self.deceive(to, from, &bytes) {
            return;
        }
        let address = sender.contact.addresses().next();
        if let Some(core) = &mut self.nodes[to as usize].core {
            let heard = core.handle_message(at, &sender, address, &bytes);
            debug_assert_eq!(heard, Ok(()), "simulated nodes speak the protocol");
        }
        self.drain(to);
    }

    /// Carries out what a node wants.
    fn drain(&mut self, node: u32) {
        loop {
            let Some(core) = &mut self.nodes[node as usize].core else { return };
            let Some(effect) = core.poll_effect() else { break };
            match effect {
                Effect::Send { to, bytes, .. } => self.send(node, &to, bytes),
                Effect::Found { lookup, records } => self.note_found(node, lookup, &records),
                Effect::Done { lookup, outcome } => self.note_done(node, lookup, &outcome),
                Effect::Checked { hosts, kept, .. } => self.tally.note_check(hosts, kept),
                Effect::Seen { .. } => {}
            }
        }
        let own = &mut self.nodes[node as usize];
        let Some(core) = &own.core else { return };
        let next = core.poll_timeout();
        if next < own.timer {
            own.timer = next;
            self.push(next, Event::Timer(node));
        }
    }

    /// Puts a message on its way.
    fn send(&mut self, from: u32, to: &Peer, bytes: Vec<u8>) {
        let idle = Duration::from_millis(SESSION_IDLE_MS_MAX);
        let is_answer = !matches!(bytes.first(), Some(1..=4));
        let mut size = self.links.bytes(bytes.len(), is_answer);
        let Some(&target) = self.by_id.get(&to.id) else {
            self.lose_in_the_void(from, to, &bytes, size);
            return;
        };
        let said = self.nodes[from as usize].sessions.get(&target);
        let is_new = !is_answer && said.is_none_or(|last| self.now >= *last + idle);
        let is_there =
            |address| self.nodes[target as usize].peer.contact.addresses().any(|own| own == address);
        if is_new && !to.contact.addresses().any(is_there) {
            // Somebody else is there, or nobody.
            self.tally.misled += 1;
            self.lose_in_the_void(from, to, &bytes, size);
            return;
        }
        if is_new {
            size += link::HANDSHAKE_BYTES;
            self.tally.handshakes += 1;
        }
        for (a, b) in [(from, target), (target, from)] {
            let sessions = &mut self.nodes[a as usize].sessions;
            sessions.insert(b, self.now);
            if sessions.len() > 512 {
                let now = self.now;
                sessions.retain(|_, last| now < *last + idle);
            }
        }
        self.tally.messages += 1;
        self.tally.bytes += size;
        let is_new = is_new && !self.note_question(from, target, &bytes, size);
        let mut delay = self.links.delivery(from, target, is_new, &mut self.rng);
        if is_new && !self.settings.early {
            delay += 2 * self.links.one_way(from, target);
        }
        self.push(self.now + delay, Event::Deliver { to: target, from, bytes });
    }

    /// A first flight that nobody answers.
    fn lose_in_the_void(&mut self, from: u32, to: &Peer, bytes: &[u8], size: u64) {
        let size = size + link::HANDSHAKE_BYTES / 2;
        self.tally.bytes += size;
        self.note_aimed(to.contact.addresses());
        self.note_question(from, u32::MAX, bytes, size);
    }

    /// Somebody is tried somewhere.
    fn note_aimed(&mut self, addresses: impl Iterator<Item = SocketAddr>) {
        let victim = self.victim;
        self.tally.aimed += u64::from(addresses.into_iter().any(|address| Some(address) == victim));
    }

    /// Gives every node a side, by chance. Nothing is parted yet.
    pub fn part(&mut self) {
        for node in &mut self.nodes {
            node.side = (self.rng.next_u64() & 1) as u8;
        }
    }

    /// A message as a node would write it.
    fn emit(message: Message) -> Vec<u8> {
        message.emit()
    }
}

//! Circuits of a node (docs/protocol/onion.md): which neighbours there are, which relays are known, and cells that come
//! and go.
//!
//! A cell is opened or sealed by one layer where it lies in the receive buffer. What goes on is copied once, into the train
//! of the next neighbour, and sealed there. Nobody acknowledges cells; they pass by the session's congestion control, as
//! packets of tunnels do.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::command::{CircuitRules, CircuitWant};
use super::{Clock, Node, Report, World};
use crate::base::{Place, PublicKey, Rng, Time};
use crate::crypto::Suite;
use crate::limits::{
    CIRCUIT_CALLS_MAX, CIRCUIT_SWEEP_MS, HEADER_SIZE, PACKET_OVERHEAD, RELAYS_TELL_MS, TAG_SIZE,
};
use crate::onion::keep::{Keeper, Kept};
use crate::onion::path::{Relays, Want};
use crate::onion::{CircuitKey, Event, LinkId, Onion, Verdict};
use crate::service::PeerId;
use crate::session::{CloseCode, ConnectError, PacketKind, SessionKey};
use crate::wire::build::{NextHop, Status};
use crate::wire::cell::{CONTENT_AT, Class, Inner};
use crate::wire::relay::RelayCard;

/// A message between the ends of a circuit: are you there? With 8 bytes that come back.
const PING: u8 = 0;
/// The answer.
const PONG: u8 = 1;
/// Length of either.
const PING_SIZE: usize = 9;

/// What a node has to do with circuits.
pub(super) struct Circuits {
    pub(super) onion: Onion,
    pub(super) relays: Relays,
    pub(super) rules: CircuitRules,
    /// What friends said of themselves.
    pub(super) heard: BTreeMap<PublicKey, RelayCard>,
    /// The session to use with each neighbour.
    by_key: BTreeMap<PublicKey, PeerId>,
    /// Circuits that wait for a session with their next hop; at most [`CIRCUIT_CALLS_MAX`].
    calling: BTreeMap<SessionKey, Vec<CircuitKey>>,
    /// Sessions with others than friends that are kept for circuits.
    called: BTreeSet<PeerId>,
    sweep_at: Option<Time>,
    /// When friends are told what changed.
    tell_at: Option<Time>,
    /// Whether anybody knows our onion key.
    pub(super) published: bool,
    pub(super) keeper: Option<Keeper>,
    rng: Rng,
    arrived: Vec<Arrived>,
    pinged: Option<([u8; 8], Time)>,
    pub(super) counters: Counters,
}

/// A cell in the train at hand.
struct Arrived {
    peer: PeerId,
    range: Range<usize>,
}

/// What happened to cells, beside what [`Onion`] counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub received: u64,
    pub sent: u64,
    /// Dropped, by reason.
    pub no_session: u64,
    pub no_budget: u64,
    pub no_buffer: u64,
    /// Content at an end that is for nobody yet.
    pub unwanted: u64,
    pub pings: u64,
    pub pongs: u64,
    /// The last round trip over a circuit of ours, microseconds.
    pub rtt_us: u64,
}

/// A session as circuits name it.
pub(super) fn link(peer: PeerId) -> LinkId {
    LinkId(peer.0)
}

impl Circuits {
    pub(super) fn new(identity: PublicKey, suite: Suite, mut rng: Rng, now: Time) -> Self {
        Self {
            onion: Onion::new(identity, suite, rng.fork(), now),
            relays: Relays::default(),
            rules: CircuitRules::default(),
            heard: BTreeMap::new(),
            by_key: BTreeMap::new(),
            calling: BTreeMap::new(),
            called: BTreeSet::new(),
            sweep_at: None,
            tell_at: None,
            published: false,
            keeper: None,
            rng,
            arrived: Vec::new(),
            pinged: None,
            counters: Counters::default(),
        }
    }

    /// A packet of the train at hand is a cell.
    pub(super) fn note(&mut self, peer: PeerId, range: Range<usize>) {
        self.arrived.push(Arrived { peer, range });
    }

    /// Whether cells came that were not looked at.
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let keys = (self.published || !self.onion.is_empty()).then(|| self.onion.poll_timeout()).flatten();
        let keeper = self.keeper.as_ref().and_then(Keeper::poll_timeout);
        [keys, keeper, self.sweep_at, self.tell_at].into_iter().flatten().min()
    }

    /// Friends are to hear of what changed.
    pub(super) fn news(&mut self, now: Time) {
        self.tell_at.get_or_insert(now + Duration::from_millis(RELAYS_TELL_MS));
    }

    fn call_count(&self) -> usize {
        self.calling.values().map(Vec::len).sum()
    }
}

impl Node {
    /// What this node does for others' circuits, from now on.
    pub(super) fn set_circuit_rules(&mut self, now: Time, rules: CircuitRules) {
        if rules != self.circuits.rules {
            self.circuits.rules = rules;
            self.circuits.news(now);
        }
    }

    /// Keeps a circuit open, or none any more.
    pub(super) fn want_circuit(&mut self, clock: Clock, want: Option<CircuitWant>) {
        let own = &mut self.circuits;
        if let Some(before) = own.keeper.take() {
            before.close(&mut own.onion);
        }
        own.keeper = want.map(|want| {
            let resume = own.rng.bytes();
            Keeper::new(clock.now, Want { hops: want.hops, exit: want.exit, force: want.force, resume })
        });
    }

    /// A session is there.
    pub(super) fn circuits_up(&mut self, clock: Clock, id: PeerId, initiator: bool) {
        self.circuits.onion.link_up(clock.now, link(id), initiator);
        if initiator {
            self.circuits_usable(clock, id);
        }
    }

    /// Both sides of a session are known to have it: circuits may go through it.
    pub(super) fn circuits_usable(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (key, session) = (peer.card.key, peer.session);
        self.circuits.by_key.insert(key, id);
        let waiting = self.circuits.calling.remove(&session).unwrap_or_default();
        if !waiting.is_empty() {
            self.circuits.called.insert(id);
            self.circuits.sweep_at.get_or_insert(clock.now + Duration::from_millis(CIRCUIT_SWEEP_MS));
            self.sessions.set_keepalive(session, true);
        }
        for circuit in waiting {
            self.circuits.onion.extend(clock.now, circuit, link(id));
        }
    }

    /// A session is over.
    pub(super) fn circuits_down(&mut self, clock: Clock, id: PeerId, key: &PublicKey) {
        let own = &mut self.circuits;
        own.onion.link_down(link(id));
        own.called.remove(&id);
        if own.by_key.get(key) == Some(&id) {
            own.by_key.remove(key);
            if own.heard.remove(key).is_some() {
                own.relays.forget(key);
                own.news(clock.now);
            }
        }
    }

    /// A session that circuits waited for will not be.
    pub(super) fn circuits_failed(&mut self, clock: Clock, session: SessionKey) {
        for circuit in self.circuits.calling.remove(&session).unwrap_or_default() {
            self.circuits.onion.refuse(clock.now, circuit, Status::Unreachable);
        }
    }

    /// Another session took the place of one that circuits waited for.
    pub(super) fn circuits_moved(&mut self, from: SessionKey, to: SessionKey) {
        if let Some(waiting) = self.circuits.calling.remove(&from) {
            self.circuits.calling.entry(to).or_default().extend(waiting);
        }
    }

    /// Looks at the cells that a train brought, whose bytes lie at `place`.
    pub(super) fn take_cells(&mut self, clock: Clock, train: Place, world: &mut impl World) {
        let mut arrived = std::mem::take(&mut self.circuits.arrived);
        for Arrived { peer, range } in arrived.drain(..) {
            self.circuits.counters.received += 1;
            let place = train.part(range.start as u32, range.len() as u32).expect("inside its train");
            let cell = world.bytes_mut(place);
            match self.circuits.onion.handle_cell(clock.now, link(peer), cell) {
                Ok(Verdict::Forward { link }) => {
                    self.send_cell(clock, PeerId(link.0), Cell::At(place), world)
                }
                Ok(Verdict::Content { circuit, kind, content }) => {
                    let content = cell[content].to_vec();
                    self.circuit_content(clock, circuit, kind, &content, world);
                }
                Ok(Verdict::Handled) => self.keep_link(clock, peer),
                Ok(Verdict::Dropped(_)) => {}
                Err(malformed) => {
                    self.counters.violations += 1;
                    if let Some(peer) = self.peers.get(&peer) {
                        self.sessions.close(clock.now, peer.session, CloseCode::MALFORMED, malformed.0);
                    }
                }
            }
        }
        self.circuits.arrived = arrived;
        self.settle_circuits(clock, world);
    }

    /// A session over which circuits go is kept by both sides: nobody acknowledges cells, and a circuit may be used one way
    /// alone. Friends' are kept anyway.
    fn keep_link(&mut self, clock: Clock, id: PeerId) {
        let own = &mut self.circuits;
        let Some(peer) = self.peers.get(&id) else { return };
        if peer.trust.is_some() || own.called.contains(&id) || !own.onion.uses(link(id)) {
            return;
        }
        own.called.insert(id);
        own.sweep_at.get_or_insert(clock.now + Duration::from_millis(CIRCUIT_SWEEP_MS));
        self.sessions.set_keepalive(peer.session, true);
    }

    /// The same of a datagram that lies in no buffer, as another shard passed it on.
    pub(super) fn take_crossed_cells(&mut self, clock: Clock, bytes: &[u8], world: &mut impl World) {
        let Some(buf) = world.alloc() else {
            self.circuits.counters.no_buffer += self.circuits.arrived.drain(..).count() as u64;
            return;
        };
        let place = Place { len: bytes.len() as u32, ..Place::room(buf) };
        world.bytes_mut(place).copy_from_slice(bytes);
        self.take_cells(clock, place, world);
        world.free(buf);
    }

    /// What a circuit brought that ends here.
    fn circuit_content(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        kind: Inner,
        content: &[u8],
        world: &mut impl World,
    ) {
        match (kind, content) {
            (Inner::Message, [PING, token @ ..]) if token.len() == PING_SIZE - 1 => {
                self.circuits.counters.pings += 1;
                self.send_message(clock, circuit, PONG, token, world);
            }
            (Inner::Message, [PONG, token @ ..]) => {
                let own = &mut self.circuits;
                if let Some((_, since)) = own.pinged.take_if(|(sent, _)| &sent[..] == token) {
                    own.counters.pongs += 1;
                    own.counters.rtt_us = clock.now.since(since).as_micros() as u64;
                }
            }
            _ => self.circuits.counters.unwanted += 1,
        }
    }

    fn send_message(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        what: u8,
        token: &[u8],
        world: &mut impl World,
    ) {
        let mut cell = [0; Class::Small.size()];
        cell[CONTENT_AT] = what;
        cell[CONTENT_AT + 1..CONTENT_AT + PING_SIZE].copy_from_slice(token);
        if let Ok(link) = self.circuits.onion.seal(clock.now, circuit, Inner::Message, PING_SIZE, &mut cell) {
            self.send_cell(clock, PeerId(link.0), Cell::Bytes(&cell), world);
        }
    }

    /// Puts a cell into the train of its neighbour, sealed.
    fn send_cell(&mut self, clock: Clock, to: PeerId, cell: Cell<'_>, world: &mut impl World) {
        let own = &mut self.circuits.counters;
        let Some(peer) = self.peers.get_mut(&to) else {
            own.no_session += 1;
            return;
        };
        let len = match cell {
            Cell::At(place) => place.len as usize,
            Cell::Bytes(bytes) => bytes.len(),
        };
        let size = len + PACKET_OVERHEAD;
        let Some(path) = self.sessions.path(peer.session) else {
            own.no_session += 1;
            return;
        };
        if self.sessions.budget(peer.session) < size as u64 {
            own.no_budget += 1;
            return;
        }
        let Some(place) = self.tunnels.place_for(peer.session, path, 0, size, world) else {
            own.no_buffer += 1;
            return;
        };
        let payload = HEADER_SIZE + 1..size - TAG_SIZE;
        let packet = match cell {
            Cell::At(from) => {
                let (from, packet) = world.pair(from, place);
                packet[payload].copy_from_slice(from);
                packet
            }
            Cell::Bytes(bytes) => {
                let packet = world.bytes_mut(place);
                packet[payload].copy_from_slice(bytes);
                packet
            }
        };
        if self.sessions.seal(clock.now, peer.session, PacketKind::Cell, packet).is_err() {
            own.no_session += 1;
            return;
        }
        self.tunnels.placed(peer.session, 0, size);
        peer.sent_bytes += size as u64;
        own.sent += 1;
    }

    /// Answers what the circuits say, and takes their messages, until nothing moves.
    pub(super) fn settle_circuits(&mut self, clock: Clock, world: &mut impl World) {
        while let Some(event) = self.circuits.onion.poll_event() {
            match event {
                Event::Relay { circuit, next } => self.lead_on(clock, circuit, &next),
                Event::End { circuit, .. } if self.circuits.rules.exit => {
                    self.circuits.onion.accept(clock.now, circuit);
                }
                Event::End { circuit, .. } => {
                    self.circuits.onion.refuse(clock.now, circuit, Status::Unwilling);
                }
                Event::Opened { .. } | Event::Aging { .. } | Event::Ended { .. } => {
                    let own = &mut self.circuits;
                    if let Some(keeper) = &mut own.keeper {
                        keeper.handle_event(clock.now, &event, &mut own.onion, &mut own.relays);
                    }
                }
            }
        }
        while let Some(kept) = self.circuits.keeper.as_mut().and_then(Keeper::poll_event) {
            match kept {
                Kept::Ready(circuit) => {
                    let token = self.circuits.rng.bytes();
                    self.circuits.pinged = Some((token, clock.now));
                    self.send_message(clock, circuit, PING, &token, world);
                }
                Kept::Down(why) => {
                    self.reports.push_back(Report::Warning(format!("the circuit ended: {why}")))
                }
                Kept::Stuck(why) => self.reports.push_back(Report::Warning(format!("no circuit: {why}"))),
            }
        }
        let mut room = [0; Class::Large.size()];
        while let Some((to, len)) = self.circuits.onion.poll_transmit(&mut room) {
            self.send_cell(clock, PeerId(to.0), Cell::Bytes(&room[..len]), world);
        }
    }

    /// Leads a circuit on: over the session with its next hop, or a new one.
    fn lead_on(&mut self, clock: Clock, circuit: CircuitKey, next: &NextHop) {
        let own = &mut self.circuits;
        let key = next.card.key;
        if !own.rules.relay {
            return own.onion.refuse(clock.now, circuit, Status::Unwilling);
        }
        if let Some(id) = own.by_key.get(&key) {
            return own.onion.extend(clock.now, circuit, link(*id));
        }
        if own.call_count() >= CIRCUIT_CALLS_MAX {
            return own.onion.refuse(clock.now, circuit, Status::Busy);
        }
        let call = if self.sessions.is_home(&key) {
            // The address is the origin's word; whoever is there must be the one that it named.
            let addresses: Vec<_> = next.address.into_iter().collect();
            self.sessions.connect(clock.now, clock.wall, &next.card, &addresses, b"")
        } else {
            self.sessions.open_lane(clock.now, &next.card)
        };
        match call {
            Ok(session) | Err(ConnectError::Connecting(session)) => {
                own.calling.entry(session).or_default().push(circuit);
            }
            Err(_) => own.onion.refuse(clock.now, circuit, Status::Unreachable),
        }
    }

    /// What is due.
    pub(super) fn circuits_timeout(&mut self, clock: Clock, world: &mut impl World) {
        let now = clock.now;
        if self.circuits.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let own = &mut self.circuits;
        if own.onion.handle_timeout(now) {
            own.news(now);
        }
        if let Some(keeper) = &mut own.keeper {
            keeper.handle_timeout(now, &mut own.onion, &own.relays, &mut own.rng);
        }
        if own.sweep_at.take_if(|at| *at <= now).is_some() {
            let idle: Vec<PeerId> =
                own.called.iter().copied().filter(|id| !own.onion.uses(link(*id))).collect();
            for id in idle {
                own.called.remove(&id);
                if let Some(peer) = self.peers.get(&id)
                    && peer.trust.is_none()
                {
                    self.sessions.set_keepalive(peer.session, false);
                }
            }
            own.sweep_at = (!own.called.is_empty()).then(|| now + Duration::from_millis(CIRCUIT_SWEEP_MS));
        }
        if own.tell_at.take_if(|at| *at <= now).is_some() {
            let friends: Vec<PeerId> = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.trust.is_some() && peer.lane == 0)
                .map(|(id, _)| *id)
                .collect();
            for id in friends {
                self.say_hello(id);
                self.touch(id);
            }
        }
        self.settle_circuits(clock, world);
    }
}

/// Where a cell is that shall be sent.
#[derive(Clone, Copy)]
enum Cell<'a> {
    /// In a received train.
    At(Place),
    /// Somewhere else.
    Bytes(&'a [u8]),
}

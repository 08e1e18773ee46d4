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
use super::exits::Exit;
use super::purposes::{PurposeId, Purposes};
use super::relay_words::Words;
use super::spreading::Spreading;
use super::waiting::{Datagram, must_wait, wait};
use super::{Clock, Node, World};
use crate::base::{Place, Prefix, PublicKey, Rng, Time};
use crate::crypto::{IdentityCard, Suite};
use crate::limits::{HEADER_SIZE, PACKET_OVERHEAD, RELAYS_TELL_MS, SEVERAL_SIZE, TAG_SIZE};
use crate::onion::path::{Relay, Relays};
use crate::onion::{CircuitKey, Event, LinkId, Onion, Verdict};
use crate::service::PeerId;
use crate::session::{CircuitCross, CloseCode, PacketKind, SessionKey};
use crate::tunnel::flow::Flows;
use crate::wire::build::Status;
use crate::wire::cell::{CONTENT_AT, Class, Inner};
use crate::wire::relay::RelayCard;

/// The shard that has what there is once: onion keys, an exit's addresses, the node's own circuit.
pub(super) const FIRST: u8 = 0;
/// A message between the ends of a circuit: are you there? With 8 bytes that come back.
const PING: u8 = 0;
/// The answer.
const PONG: u8 = 1;
/// What came by the circuit of packets that are spread one by one: the last sequence, and bytes.
const REPORT: u8 = 2;
/// Length of each.
const PING_SIZE: usize = 9;

/// What a node has to do with circuits.
pub(super) struct Circuits {
    pub(super) onion: Onion,
    pub(super) relays: Relays,
    pub(super) rules: CircuitRules,
    /// This node leaves soon: nothing new goes through it.
    pub(super) leaving: bool,
    /// What friends said of themselves.
    pub(super) heard: BTreeMap<PublicKey, RelayCard>,
    /// What friends said of theirs.
    pub(super) words: Words,
    /// What acquaintances said of themselves, trusted as far as they are; at most [`crate::limits::ACQUAINTANCES_MAX`].
    pub(super) acquainted: BTreeMap<PublicKey, Relay>,
    /// The session to use with each neighbour.
    pub(super) by_key: BTreeMap<PublicKey, PeerId>,
    /// Circuits that wait for a session with their next hop; at most [`crate::limits::CIRCUIT_CALLS_MAX`].
    pub(super) calling: BTreeMap<SessionKey, Vec<CircuitKey>>,
    /// Those whose next hop's home is another shard, which calls it.
    pub(super) asking: BTreeMap<PublicKey, Asking>,
    /// The lanes among those that they wait for.
    pub(super) lanes: BTreeMap<PublicKey, SessionKey>,
    /// Shards that wait for a session with a peer whose home this is.
    pub(super) calling_for: BTreeMap<SessionKey, BTreeSet<(u8, PublicKey)>>,
    /// Which shard this is, of how many.
    pub(super) shard: (u8, u8),
    /// Sessions with others than friends that are kept for circuits.
    pub(super) called: BTreeSet<PeerId>,
    pub(super) sweep_at: Option<Time>,
    /// When the other shards are told again what they may have missed, and friends get lanes to this one.
    pub(super) share_at: Option<Time>,
    /// When friends are told what changed.
    tell_at: Option<Time>,
    /// Whether anybody knows our onion key.
    pub(super) published: bool,
    /// What circuits of our own are for.
    pub(super) purposes: Purposes,
    pub(super) rng: Rng,
    arrived: Vec<Arrived>,
    /// What of the device's packets goes through the tunnel's circuit.
    pub(super) routes: Vec<Prefix>,
    /// Whether the SOCKS proxy's packets do, too.
    pub(super) proxied: bool,
    pub(super) exit: Exit,
    /// What waits of packets that are spread one by one.
    pub(super) spreading: Spreading,
    /// Numbers the flows of guests.
    pub(super) flows: Flows,
    pub(super) counters: Counters,
}

/// Circuits whose next hop another shard calls.
pub(super) struct Asking {
    pub since: Time,
    pub card: IdentityCard,
    pub circuits: Vec<CircuitKey>,
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
    /// Content at an end that is for nobody.
    pub unwanted: u64,
    /// IP packets through our own circuit, and their bytes.
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// Of the device, while no circuit was open.
    pub no_circuit: u64,
    /// Circuits of ours that fell silent.
    pub dead: u64,
    /// At an exit: what left and came back for others, and what did not.
    pub exit_out: u64,
    pub exit_back: u64,
    pub exit_refused: u64,
    pub exit_over_rate: u64,
    pub exit_strays: u64,
    pub pings: u64,
    pub pongs: u64,
}

/// A session as circuits name it.
pub(super) fn link(peer: PeerId) -> LinkId {
    LinkId(peer.0)
}

impl Circuits {
    pub(super) fn new(identity: PublicKey, suite: Suite, shard: (u8, u8), mut rng: Rng, now: Time) -> Self {
        let mut onion = Onion::new(identity, suite, rng.fork(), now);
        if shard.0 != FIRST {
            onion.leave_keys();
        }
        Self {
            onion,
            relays: Relays::default(),
            rules: CircuitRules::default(),
            leaving: false,
            heard: BTreeMap::new(),
            words: Words::default(),
            acquainted: BTreeMap::new(),
            by_key: BTreeMap::new(),
            calling: BTreeMap::new(),
            asking: BTreeMap::new(),
            lanes: BTreeMap::new(),
            calling_for: BTreeMap::new(),
            shard,
            called: BTreeSet::new(),
            sweep_at: None,
            share_at: (shard.1 > 1).then_some(now),
            tell_at: None,
            // Other shards publish the key of this one.
            published: shard.1 > 1,
            purposes: Purposes::default(),
            flows: Flows::new(&mut rng),
            spreading: Spreading::default(),
            rng,
            arrived: Vec::new(),
            routes: Vec::new(),
            proxied: false,
            exit: Exit::default(),
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
        let purposes = self.purposes.poll_timeout();
        let early = self.early_at();
        [keys, purposes, early, self.sweep_at, self.share_at, self.tell_at].into_iter().flatten().min()
    }

    /// Friends are to hear of what changed.
    pub(super) fn news(&mut self, now: Time) {
        self.tell_at.get_or_insert(now + Duration::from_millis(RELAYS_TELL_MS));
    }

    pub(super) fn call_count(&self) -> usize {
        let asking = self.asking.values().map(|asking| asking.circuits.len());
        self.calling.values().map(Vec::len).chain(asking).sum()
    }

    /// Whether a friend is one of those that circuits of our own may begin with.
    pub(super) fn is_entry(&self, key: &PublicKey) -> bool {
        !self.purposes.is_empty() && self.heard.contains_key(key)
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

    /// Keeps a circuit open for the tunnel, or none any more.
    pub(super) fn want_circuit(&mut self, clock: Clock, want: Option<CircuitWant>) {
        let own = &mut self.circuits;
        own.routes = want.as_ref().map_or(Vec::new(), |want| want.routes.clone());
        own.proxied = want.as_ref().is_some_and(|want| want.proxied);
        if own.shard.0 == FIRST {
            own.set_purpose(clock.now, PurposeId::Tunnel, want.as_ref());
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
                    let content =
                        place.part(content.start as u32, content.len() as u32).expect("inside its cell");
                    self.circuit_content(clock, circuit, kind, content, world);
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
        place: Place,
        world: &mut impl World,
    ) {
        match circuit.is_own() {
            true => self.circuits.own_heard(clock.now, circuit, kind != Inner::Message),
            false => self.guest_heard(clock, circuit, world),
        }
        if kind == Inner::Packet {
            return match circuit.is_own() {
                true => self.circuit_packet_came(clock, circuit, place, world),
                false => self.guest_packet(clock, circuit, place, world),
            };
        }
        if kind == Inner::Spread {
            return self.spread_came(clock, circuit, place, world);
        }
        let mut message = [0; PING_SIZE];
        let content = world.bytes(place);
        if content.len() != PING_SIZE {
            self.circuits.counters.unwanted += 1;
            return;
        }
        message.copy_from_slice(content);
        let [what, token @ ..] = message;
        match what {
            PING => {
                self.circuits.counters.pings += 1;
                self.send_message(clock, circuit, PONG, &token, world);
            }
            PONG => self.circuits.pong_came(clock.now, circuit, token),
            REPORT => self.circuits.reported(clock.now, circuit, &token),
            _ => self.circuits.counters.unwanted += 1,
        }
    }

    /// A question whose answer comes back with the same token.
    pub(super) fn send_ping(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        token: &[u8; 8],
        world: &mut impl World,
    ) {
        self.send_message(clock, circuit, PING, token, world);
    }

    /// Says what came by a circuit.
    pub(super) fn send_report(
        &mut self,
        clock: Clock,
        circuit: CircuitKey,
        report: &[u8; SEVERAL_SIZE],
        world: &mut impl World,
    ) {
        self.send_message(clock, circuit, REPORT, report, world);
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
        let kind = PacketKind::Cell;
        if must_wait(&self.shaping, &self.waiting, peer.slot) {
            let payload: Box<[u8]> = match cell {
                Cell::At(from) => Box::from(world.bytes(from)),
                Cell::Bytes(bytes) => Box::from(bytes),
            };
            let flow = self.waiting.flow_of_cell(&payload);
            let datagram = Datagram { kind, payload, ecn: 0, came: clock.now };
            wait(&mut self.shaping, &mut self.waiting, peer.slot, flow, datagram, path.header());
        } else {
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
            if self.sessions.seal(clock.now, peer.session, kind, packet).is_err() {
                own.no_session += 1;
                return;
            }
            self.tunnels.placed(peer.session, 0, size);
        }
        peer.sent_bytes += size as u64;
        own.sent += 1;
    }

    /// Answers what the circuits say, and takes their messages, until nothing moves.
    pub(super) fn settle_circuits(&mut self, clock: Clock, world: &mut impl World) {
        while let Some(event) = self.circuits.onion.poll_event() {
            match event {
                Event::Open { circuit, request } => {
                    let circuit = circuit.to_number();
                    self.circuit_cross(FIRST, CircuitCross::Open { circuit, request });
                }
                Event::Relay { circuit, next } => self.lead_on(clock, circuit, &next),
                Event::End { circuit, resume } if self.circuits.rules.exit && !self.circuits.leaving => {
                    self.lease(clock, circuit, resume);
                }
                Event::End { circuit, .. } => {
                    self.circuits.onion.refuse(clock.now, circuit, Status::Unwilling);
                }
                Event::Ended { circuit, .. } if !circuit.is_own() => self.guest_gone(clock.now, circuit),
                Event::Opened { .. } | Event::Aging { .. } | Event::Ended { .. } => {
                    let own = &mut self.circuits;
                    own.purposes.handle_event(clock.now, &event, &mut own.onion, &mut own.relays);
                }
            }
        }
        self.tell_gone();
        self.settle_purposes(clock, world);
        let mut room = [0; Class::Large.size()];
        while let Some((to, len)) = self.circuits.onion.poll_transmit(&mut room) {
            self.send_cell(clock, PeerId(to.0), Cell::Bytes(&room[..len]), world);
        }
        self.settle_anonymous(clock, world);
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
        self.watch_purposes(clock, world);
        self.watch_spreading(clock, world);
        let own = &mut self.circuits;
        own.purposes.handle_timeout(now, &mut own.onion, &mut own.relays, &mut own.rng);
        self.sweep_links(now);
        let own = &mut self.circuits;
        if own.share_at.take_if(|at| *at <= now).is_some() {
            self.share_again(clock);
        }
        let own = &mut self.circuits;
        if own.tell_at.take_if(|at| *at <= now).is_some() {
            let friends: Vec<PeerId> = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.trust.is_some() && peer.lane == 0)
                .map(|(id, _)| *id)
                .collect();
            for id in friends {
                self.say_hello(clock, id);
                // Whoever was touched is looked at before this: in quiet times nothing else would send it.
                self.queue(now, id);
            }
            self.tell_introduced(clock);
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

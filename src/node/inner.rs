//! A node within the node (docs/protocol/onion.md §12): it has an identity of its own, made for one job, and no socket. What
//! it sends becomes IP packets for the job's circuit, and what comes through that circuit is all that it ever hears. So
//! whoever it meets meets the exit's address and a key that nobody has seen before.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::circuits::FIRST;
use super::command::{CircuitRules, OverlayRules};
use super::{Clock, Command, Config, Input, Node, Output, Train, World};
use crate::base::fileop::JobId;
use crate::base::{
    BufId, ChunkId, ChunkRead, Memory, NoChunks, Path, Place, PublicKey, ReadFault, Rng, StoredChunk, Time,
    TunPacket, UnixMs,
};
use crate::crypto::{Identity, IdentityCard, Suite};
use crate::limits::{ANONYMOUS_DATAGRAM_MAX, ANONYMOUS_SKEW_MS_MAX};
use crate::onion::exit::CLIENT;
use crate::tunnel::datagrams;
use crate::tunnel::quoted::quoted;
use crate::wire::ip::{Ip, UDP};

/// The ports that hosts take at random (RFC 6056 §3.2): this one is nobody's in particular.
const PORT_FIRST: u16 = 32_768;
const PORTS: u64 = 28_000;
/// Addresses that the exit does not let it go to, as far as they are remembered.
const PROHIBITED_MAX: usize = 256;

/// What every identity of this node needs to know of its network.
#[derive(Clone)]
pub(super) struct Template {
    network: Vec<u8>,
    place_floor_bits: u32,
    suite: Suite,
}

impl Template {
    pub(super) fn of(config: &Config) -> Self {
        let network = config.network.clone();
        Self { network, place_floor_bits: config.place_floor_bits, suite: config.suite }
    }
}

/// The buffers of the node around it, and nothing of its store: what is stored here would tell whose it is.
struct Around<'a> {
    memory: &'a mut (dyn Memory + 'a),
    store: NoChunks,
}

impl Memory for Around<'_> {
    fn bytes(&self, place: Place) -> &[u8] {
        self.memory.bytes(place)
    }
    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        self.memory.bytes_mut(place)
    }
    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        self.memory.pair(from, to)
    }
    fn alloc(&mut self) -> Option<BufId> {
        self.memory.alloc()
    }
    fn free(&mut self, buf: BufId) {
        self.memory.free(buf);
    }
}

impl ChunkRead for Around<'_> {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.store.find(id)
    }
    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        self.store.slice_list(handle, into)
    }
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        self.store.warm(handle, slice)
    }
    fn prefetch(&mut self, handle: u64, slice: u32) {
        self.store.prefetch(handle, slice);
    }
    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.store.read(handle, offset, into)
    }
}

impl World for Around<'_> {
    type Store = NoChunks;

    fn split(&mut self, place: Place) -> (&mut [u8], &mut NoChunks) {
        (self.memory.bytes_mut(place), &mut self.store)
    }
}

/// A node that lives in circuits.
pub(super) struct Inner {
    node: Box<Node>,
    port: u16,
    /// How far the clock that it shows is ahead of ours, milliseconds: how far ours is from everybody's may tell whose
    /// it is.
    skew_ms: i64,
    /// Whether something came that it has not settled.
    dirty: bool,
    /// Datagrams for it that were acceptable.
    pub(super) heard: u64,
    /// Where the exit did not let it go, as the exit said; at most [`PROHIBITED_MAX`].
    prohibited: BTreeSet<SocketAddr>,
}

/// What came of a packet for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It was for it.
    Taken,
    /// It was not.
    Unwanted,
}

impl Inner {
    /// A node with this identity, in the network of these rules, of which nobody hears but whom it asks.
    pub(super) fn new(
        template: &Template,
        identity: Arc<Identity>,
        rules: OverlayRules,
        skew_ms: i64,
        clock: Clock,
        rng: &mut Rng,
    ) -> Self {
        let config = Config {
            identity,
            network: template.network.clone(),
            place_floor_bits: template.place_floor_bits,
            suite: template.suite,
            home_port: 0,
            // It takes no requests with first flights: nobody knows where it is.
            only_friends: false,
            refuse_early_until: UnixMs(u64::MAX),
            shard: (FIRST, 1),
        };
        let mut node = Box::new(Node::new(config, rng.fork(), clock.now));
        node.datagram_max = ANONYMOUS_DATAGRAM_MAX;
        node.overlay.hidden = true;
        node.circuits.rules = CircuitRules { relay: false, exit: false, named: false };
        let port = PORT_FIRST + rng.below(PORTS) as u16;
        let mut inner = Self { node, port, skew_ms, dirty: true, heard: 0, prohibited: BTreeSet::new() };
        let rules = OverlayRules { addresses: Vec::new(), serve_strangers: false, enabled: true, ..rules };
        let command = Command::Overlay(Box::new(rules));
        inner.node.handle_command(inner.clock(clock), command);
        inner
    }

    /// A clock of its own for a job: one, since several would tell more of ours.
    pub(super) fn draw_skew(rng: &mut Rng) -> i64 {
        rng.below(2 * ANONYMOUS_SKEW_MS_MAX + 1) as i64 - ANONYMOUS_SKEW_MS_MAX as i64
    }

    fn clock(&self, clock: Clock) -> Clock {
        Clock { wall: UnixMs(clock.wall.0.saturating_add_signed(self.skew_ms)), ..clock }
    }

    /// The node itself, to be looked at.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Contacts that answered it.
    pub(super) fn contacts(&self) -> usize {
        self.node.overlay.keeper.as_ref().map_or(0, |keeper| keeper.core.table().len())
    }

    /// To how many addresses the exit did not let it go.
    pub(super) fn prohibited(&self) -> usize {
        self.prohibited.len()
    }

    /// Whether the exit lets it go to none of these.
    pub(super) fn is_shut_in(&self, entries: &[(IdentityCard, Vec<SocketAddr>)]) -> bool {
        entries.iter().all(|(_, addresses)| addresses.iter().any(|at| self.prohibited.contains(at)))
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if self.dirty { Some(Time::ZERO) } else { self.node.poll_timeout() }
    }

    /// Gives its get up.
    pub(super) fn cancel(&mut self, job: JobId, why: &str) {
        self.node.get.cancel(job, why);
        self.dirty = true;
    }

    /// Has it give nothing to that node.
    pub(super) fn avoid(&mut self, key: PublicKey) {
        self.node.push.avoid(key);
    }

    /// Something happens to it.
    pub(super) fn handle(&mut self, clock: Clock, input: Input, memory: &mut impl Memory) {
        let clock = self.clock(clock);
        self.dirty = false;
        self.node.handle(clock, input, &mut Around { memory, store: NoChunks });
    }

    /// Lets it react to what came, and to the time.
    pub(super) fn settle(&mut self, clock: Clock, memory: &mut impl Memory) {
        let due = self.node.poll_timeout().is_some_and(|at| at <= clock.now);
        if due || self.dirty {
            self.handle(clock, Input::Tick, memory);
        }
    }

    /// What it wants done.
    pub(super) fn poll(&mut self, clock: Clock, memory: &mut impl Memory) -> Option<Output> {
        let clock = self.clock(clock);
        self.node.poll(clock, &mut Around { memory, store: NoChunks })
    }

    /// A packet for [`CLIENT`] came through its circuit. Its datagram is opened where it lies.
    pub(super) fn came(&mut self, clock: Clock, place: Place, ip: &Ip, memory: &mut impl Memory) -> Came {
        let packet = memory.bytes(place);
        let Some(datagram) = datagrams::unwrap(packet, ip).filter(|datagram| datagram.to == self.port) else {
            let error =
                quoted(packet, ip).filter(|quoted| (quoted.protocol, quoted.port) == (UDP, self.port));
            let Some(error) = error else { return Came::Unwanted };
            // "Administratively prohibited" of either family.
            let prohibits = [(3, 13), (3, 10), (3, 9), (1, 1)].contains(&error.error);
            if prohibits && self.prohibited.len() < PROHIBITED_MAX {
                self.prohibited.insert(error.to);
            }
            return Came::Taken;
        };
        let (start, len) = (datagram.payload.start as u32, datagram.payload.len() as u32);
        let place = place.part(start, len).expect("inside its packet");
        let path = Path { local: SocketAddr::new(ip.destination, self.port), remote: datagram.from };
        let clock = self.clock(clock);
        let train = Train { path, place, segment: len, ecn: 0 };
        if self.node.handle_train(clock, train, &mut Around { memory, store: NoChunks }) {
            self.heard += 1;
            self.dirty = true;
        }
        Came::Taken
    }

    /// Makes a packet of a train, before which there is room for headers. `None` where the train goes to nobody.
    pub(super) fn packet(&self, train: &Train, memory: &mut impl Memory) -> Option<(TunPacket, Ip)> {
        let to = SocketAddr::new(train.path.remote.ip().to_canonical(), train.path.remote.port());
        let source = SocketAddr::new(CLIENT.like(to.ip())?, self.port);
        let headers = datagrams::headers(to) as u32;
        let place = Place {
            offset: train.place.offset.checked_sub(headers)?,
            len: train.place.len + headers,
            ..train.place
        };
        let (ip, offload) = datagrams::wrap(memory.bytes_mut(place), train.segment as usize, source, to)?;
        Some((TunPacket { place, offload }, ip))
    }
}

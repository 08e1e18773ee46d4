//! The only composer: sessions, streams, chunks and services behind one [`Input`] and one [`Output`].
//!
//! After every [`Node::handle`], call [`Node::poll`] until it returns `None`, then wait for the next input
//! or for [`Node::poll_timeout`].

mod acquaintances;
mod anonymous;
mod budget;
mod channels;
mod circuit_links;
mod circuit_packets;
mod circuit_shards;
mod circuits;
pub mod command;
mod exits;
mod fetching;
mod friends;
mod hello;
mod inner;
mod intents;
mod introductions;
mod keeping;
mod leaving;
mod line;
mod loans;
mod messages;
mod overlay;
mod overlay_finding;
mod overlay_keeper;
mod overlay_links;
mod overlay_seen;
mod passing;
mod paths;
mod peer;
mod peers;
mod promises;
mod punch;
mod punch_meet;
mod punch_relay;
mod purposes;
mod pushing;
mod receive;
mod relay_words;
mod relays;
mod send;
mod shaping;
mod snapshot;
mod spreading;
mod streams;
mod stun;
mod timers;
mod trains;
mod tunnel;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::fileop::{FileDone, FileOp};
use crate::base::{
    ChunkRead, Kept, Memory, NewChunk, Offload, Path, Place, PublicKey, Rng, SlicePool, StreamId, Time,
    TunPacket, UnixMs,
};
use crate::limits::{
    DATAGRAM_MAX, GET_NETWORK_MS_MAX, GET_OTHERS_MS_MAX, LIAR_MS, RECORD_BUFFERS, SLICE_BUFFERS,
};
use crate::service::PeerId;
use crate::service::fetch::Fetch;
use crate::service::get::Get;
use crate::service::keep::{self, Keep};
use crate::service::push::Push;
use crate::service::serve::{Act, Serve};
use crate::session::{CloseCode, SessionKey, Sessions};
use crate::stream::Connection;

pub use crate::session::{Config, Cross};
use anonymous::Inners;
pub use channels::*;
use circuits::Circuits;
pub use command::{Command, Report};
use friends::Friends;
use inner::Template;
use intents::Meanings;
use introductions::Introducing;
use loans::Loans;
use overlay::Overlays;
#[cfg(any(test, feature = "sim"))]
pub use overlay::tag as overlay_tag;
use passing::Passing;
use peer::Peer;
use punch::Punch;
use shaping::Shaping;
use snapshot::Counters;
use streams::{NOT_WANTED, TOO_SLOW};
use stun::Stun;
use tunnel::Tunnels;
use waiting::Waiting;

/// ECN-capable transport, code point ECT(0).
const ECT0: u8 = 2;

/// Both clocks, read once per turn of the shard's loop.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Monotonic.
    pub now: Time,
    /// Wall.
    pub wall: UnixMs,
}

/// One or more datagrams of equal size (the last may be shorter) that lie one after another: what GRO
/// delivers and GSO sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train {
    /// Between which addresses.
    pub path: Path,
    /// All the datagrams' bytes.
    pub place: Place,
    /// Size of each datagram but the last, bytes; equals `place.len` for a single one.
    pub segment: u32,
    /// ECN code point, 0 to 3.
    pub ecn: u8,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// Datagrams came. The driver owns the buffer again when the call returns.
    Train(Train),
    /// A packet came from the TUN device. The driver owns the buffer again when the call returns.
    Tun(TunPacket),
    /// A packet came from the SOCKS proxy, for the node's own circuit.
    Proxied {
        /// What is left to be done with it.
        offload: Offload,
        /// The IP packet.
        bytes: Box<[u8]>,
    },
    /// The control thread asks.
    Command(Command),
    /// A file operation is done.
    FileDone(FileDone),
    /// A slice that [`ChunkRead::warm`] was asked for is resident.
    Warmed {
        /// Which chunk.
        handle: u64,
        /// Which slice.
        slice: u32,
    },
    /// The store has done [`Output::Keep`], or will not.
    Kept {
        /// The number that it had.
        number: u64,
        /// What came of it.
        kept: Kept,
    },
    /// Another shard of this node says something.
    Cross {
        /// Which shard.
        from: u8,
        /// What.
        cross: Cross,
    },
    /// The time that `poll_timeout` named has come (or a send buffer came back).
    Tick,
}

/// What a node wants done.
#[derive(Debug)]
pub enum Output {
    /// Send these datagrams; the buffer is the driver's until they are sent, then free.
    Train(Train),
    /// Write this packet to the TUN device; the buffer is the driver's until that is done, then free.
    Tun(TunPacket),
    /// Hand this packet to the SOCKS proxy; the buffer is the driver's to free.
    Proxied(TunPacket),
    /// Do this to a file; answer with [`Input::FileDone`].
    File(FileOp),
    /// Store this copy of another's chunk in the cache; answer with [`Input::Kept`] and the same number. There are never more
    /// without an answer than [`crate::limits::KEEP_BODIES_MAX`].
    Keep(u64, NewChunk),
    /// Tell the control thread.
    Report(Report),
    /// Tell another shard of this node; it may be lost where there is no room.
    Cross(u8, Cross),
}

/// What a node looks at: packet buffers and stored chunks, owned by the driver.
pub trait World: Memory + ChunkRead {
    /// The store alone.
    type Store: ChunkRead;

    /// The bytes of a place and the store, side by side: stored bytes are copied straight into packets.
    fn split(&mut self, place: Place) -> (&mut [u8], &mut Self::Store);
}

/// One shard's node.
pub struct Node {
    rng: Rng,
    sessions: Sessions,
    peers: BTreeMap<PeerId, Peer>,
    by_session: BTreeMap<SessionKey, PeerId>,
    next_peer: u64,
    friends: Friends,
    introducing: Introducing,
    serve: Serve,
    keep: Keep,
    push: Push,
    fetch: Fetch,
    get: Get,
    /// Since when a running job sees no friend connected.
    lonely_since: Option<Time>,
    /// Friends that sent wrong bytes, and when: they may connect again, but are not asked.
    liars: BTreeMap<PublicKey, Time>,
    /// How many slices had come when that number last changed, or nothing was wanted, and when that was.
    fed: (u64, Time),
    next_progress: Option<Time>,
    /// Who may send how much now.
    shaping: Shaping,
    /// What lanes of one peer lend one another of that.
    loans: Loans,
    timers: BTreeSet<(Time, PeerId)>,
    /// By when introductions that began must be whole.
    meetings: BTreeSet<(Time, PeerId, StreamId)>,
    reports: VecDeque<Report>,
    acts: Vec<Act>,
    keep_acts: Vec<keep::Act>,
    /// Peers to which something happened and that were not looked at since.
    touched: Vec<PeerId>,
    /// Scratch: stream bytes that the packet at hand brought.
    taken: Vec<(StreamId, u64)>,
    /// Bytes of answers that came so far.
    answered: u64,
    /// Requests that went out with a first flight whose handshake is not finished.
    early: BTreeMap<SessionKey, Early>,
    passing: Passing,
    /// Whether the last output was passed on: others take turns with that.
    passed: bool,
    /// Datagrams of other shards, to be sent from our socket; at most [`crate::limits::PASSING_MAX`].
    foreign: VecDeque<Foreign>,
    tunnels: Tunnels,
    waiting: Waiting,
    circuits: Circuits,
    overlay: Overlays,
    /// What nodes within this one are made by, and the jobs that have one.
    template: Template,
    inners: Inners,
    /// UDP payload of a session's datagram at most, bytes.
    datagram_max: usize,
    punch: Punch,
    stun: Stun,
    meanings: Meanings,
    counters: Counters,
    /// The last round trip that a peer's acknowledgement showed, until it is asked for.
    round_trip: Option<Duration>,
}

/// Datagrams of another shard.
struct Foreign {
    path: Path,
    segment: u32,
    ecn: u8,
    bytes: Box<[u8]>,
}

/// A first flight that carries a request: the peer to be.
struct Early {
    peer: PeerId,
    connection: Connection,
    /// Whether it asks for chunks.
    fetching: bool,
}

/// For how long a friend that sent wrong bytes is not asked: longer than any `get` waits for others.
const LIAR_TIME: Duration = Duration::from_millis(LIAR_MS);

fn is_liar(liars: &BTreeMap<PublicKey, Time>, now: Time, key: &PublicKey) -> bool {
    liars.get(key).is_some_and(|since| now.since(*since) < LIAR_TIME)
}

impl Node {
    /// A node without peers.
    pub fn new(config: Config, mut rng: Rng, now: Time) -> Self {
        let shard = config.shard;
        let overlay = Overlays::new(shard, Arc::clone(&config.identity), config.place_floor_bits);
        let own = config.identity.card().key;
        let introducing = Introducing::new(own, config.place_floor_bits, config.only_friends);
        let circuits = Circuits::new(config.identity.card().key, config.suite, shard, rng.fork(), now);
        let template = Template::of(&config);
        let sessions = Sessions::new(config, rng.fork(), now);
        let waiting = Waiting::new(&mut rng.fork());
        Self {
            rng,
            sessions,
            peers: BTreeMap::new(),
            by_session: BTreeMap::new(),
            next_peer: 0,
            friends: Friends::default(),
            introducing,
            serve: Serve::default(),
            keep: Keep::default(),
            push: Push::default(),
            fetch: Fetch::new(SlicePool::new(SLICE_BUFFERS)),
            get: Get::new(SlicePool::new(RECORD_BUFFERS)),
            lonely_since: None,
            liars: BTreeMap::new(),
            fed: (0, now),
            next_progress: None,
            shaping: Shaping::new(shard, now),
            loans: Loans::default(),
            timers: BTreeSet::new(),
            meetings: BTreeSet::new(),
            reports: VecDeque::new(),
            acts: Vec::new(),
            keep_acts: Vec::new(),
            touched: Vec::new(),
            taken: Vec::new(),
            answered: 0,
            early: BTreeMap::new(),
            passing: Passing::default(),
            passed: false,
            foreign: VecDeque::new(),
            tunnels: Tunnels::default(),
            waiting,
            circuits,
            overlay,
            template,
            inners: Inners::default(),
            datagram_max: DATAGRAM_MAX,
            punch: Punch::default(),
            stun: Stun::default(),
            meanings: Meanings::default(),
            counters: Counters::default(),
            round_trip: None,
        }
    }

    /// A round trip that was measured since this was last asked.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    /// Whether it has friends away and no handshake to any of them under way.
    pub fn is_calling_nobody(&self) -> bool {
        self.friends.len() > 0 && self.friends.all_away()
    }

    /// How many friends are connected.
    pub fn friends_connected(&self) -> usize {
        self.friends.connected_len()
    }

    /// Tells the node what happened.
    pub fn handle(&mut self, clock: Clock, input: Input, world: &mut impl World) {
        match input {
            Input::Train(train) => {
                // A flood of what concerns nobody costs no more than finding that out.
                if !self.handle_train(clock, train, world) {
                    return;
                }
            }
            // Nothing follows from it but trains; whoever is called for it is so at the next tick.
            Input::Tun(packet) => return self.handle_tun(clock, packet, world),
            Input::Proxied { offload, bytes } => return self.handle_proxied(clock, offload, &bytes, world),
            Input::Command(command) => self.handle_command(clock, command),
            Input::FileDone(done) => {
                let own = self.anonymous_file_done(clock, done, world);
                own.into_iter().for_each(|done| self.get.file_done(done));
            }
            Input::Warmed { handle, slice } => self.warmed(handle, slice, world),
            Input::Kept { number, kept } => {
                self.keep.stored(clock.now, number, kept, &mut self.keep_acts);
            }
            Input::Cross { from, cross } => {
                if !self.handle_cross(clock, from, cross, world) {
                    return;
                }
            }
            Input::Tick => {}
        }
        self.handle_timeout(clock);
        self.settle(clock, world);
    }

    fn handle_command(&mut self, clock: Clock, command: Command) {
        match command {
            Command::Friends(friends) => self.set_friends(clock, friends),
            Command::Introductions(rules) => self.set_introductions(clock, *rules),
            Command::Tunnels(tunnels) => self.set_tunnels(tunnels),
            Command::Relay(rules) => self.set_circuit_rules(clock.now, rules),
            Command::Exit(rules) => self.set_exit(clock.now, *rules),
            Command::Circuit(want) => self.want_circuit(clock, want),
            Command::Get(request) => self.start_get(clock, request),
            Command::Anonymous(anonymous) => self.start_anonymous(clock, *anonymous),
            Command::Limits(limits) => self.set_limits(clock, *limits),
            Command::Overlay(rules) => self.set_overlay(clock, *rules),
            Command::Nat(rules) => self.set_nat(clock, rules),
            Command::Intents(rules) => self.set_intents(rules),
            Command::Leave(in_ms) => self.set_leaving(clock, in_ms),
            Command::Online(for_s) => self.set_online(clock, for_s),
            Command::AskStay { peer, more_s } => self.ask_to_stay(clock, &peer, more_s),
            Command::Provide(chunks) => self.tell_keeper(clock, |keeper, at| keeper.provide(at, chunks)),
            Command::Restore(known) => self.tell_keeper(clock, |keeper, at| keeper.restore(at.now, known)),
            Command::Peers { after } => self.tell_peers(after),
            Command::Push { job, chunk, anonymous } => self.give_away(clock, job, chunk, anonymous),
            Command::Cancel(job) if self.cancel_anonymous(clock, job) => {}
            Command::Cancel(job) => {
                self.push.cancel(job);
                self.get.cancel(job, "cancelled; the same get resumes");
            }
            Command::Status { token } => {
                self.reports.push_back(Report::Status(token, Box::new(self.snapshot(clock))));
            }
            Command::Shutdown => {
                let sessions: Vec<_> = self.peers.values().map(|peer| peer.session).collect();
                for session in sessions {
                    self.sessions.close(clock.now, session, CloseCode::SHUTDOWN, "shutting down");
                }
            }
        }
    }

    /// Lets every part react to what the others did, until nothing moves.
    fn settle(&mut self, clock: Clock, world: &mut impl World) {
        self.session_events(clock);
        let network = self.overlay.is_on();
        let others = network || self.friends_away(clock.now) > 0;
        let most = if network { GET_NETWORK_MS_MAX } else { GET_OTHERS_MS_MAX };
        self.fetch.expect_others(others.then(|| clock.now + Duration::from_millis(most)));
        while let Some(id) = self.touched.pop() {
            self.stream_events(clock, id, world);
            self.apply_acts();
            self.queue(clock.now, id);
        }
        self.apply_acts();
        self.settle_keeping(clock);
        self.go_on_handing_over(clock, world);
        loop {
            let moved = self.go_on_pushing(clock);
            self.settle_overlay(clock, world);
            if !moved {
                break;
            }
        }
        while let Some(id) = self.touched.pop() {
            self.queue(clock.now, id);
        }
        loop {
            let mut moved = false;
            while let Some((job, target, mask)) = self.get.poll_want() {
                self.fetch.want(job, target, mask);
                moved = true;
            }
            while let Some(chunk) = self.get.poll_abandoned() {
                if !self.get.wants_chunk(&chunk) {
                    self.fetch.forget(&chunk);
                }
                moved = true;
            }
            while let Some(event) = self.fetch.poll_event() {
                self.fetch_event(clock, event);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        while let Some(ended) = self.get.poll_ended() {
            match ended.result {
                Ok(()) => {
                    self.counters.gets_done += 1;
                    self.reports.push_back(Report::Done(ended.job, ended.progress));
                }
                Err(why) => self.fail_get(ended.job, why),
            }
        }
        if self.fetch.is_short() {
            self.friends.hurry(clock.now);
        }
        self.call_friends(clock);
        self.settle_introductions(clock);
        self.settle_intents(clock);
        self.settle_punch(clock);
        self.settle_stun(clock);
        self.send_requests(clock);
        self.send_waiting(clock, world);
        self.circuits_timeout(clock, world);
        self.settle_circuits(clock, world);
    }

    /// Notes that something happened to a peer.
    fn touch(&mut self, id: PeerId) {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
    }
}

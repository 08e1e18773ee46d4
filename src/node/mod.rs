//! The only composer: sessions, streams, chunks and services behind one [`Input`] and one [`Output`].
//!
//! After every [`Node::handle`], call [`Node::poll`] until it returns `None`, then wait for the next input
//! or for [`Node::poll_timeout`].

pub mod command;
mod friends;
mod peer;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::fileop::{FileDone, FileOp, JobId};
use crate::base::{ChannelId, ChunkRead, Memory, Path, Place, Rng, SlicePool, StreamId, Time, UnixMs};
use crate::crypto::{Identity, IdentityCard, Suite};
use crate::limits::{
    DATAGRAM_MAX, EARLY_DATA_MAX, GET_LONELY_MS_MAX, HANDSHAKES_OUT_MAX, HEADER_SIZE, MESSAGE_SIZE_MAX,
    PACKET_OVERHEAD, PROGRESS_MS, RECORD_BUFFERS, SLICE_BUFFERS, TAG_SIZE, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX,
};
use crate::service::PeerId;
use crate::service::fetch::{self, Fetch};
use crate::service::get::{Get, GetRequest};
use crate::service::serve::{Act, Serve};
use crate::session::{
    CloseCode, ConnectError, Event as SessionEvent, FailedWhy, PacketKind, Received, SessionKey, Sessions,
};
use crate::stream::{
    self, Connection, Event as StreamEvent, PacketMeta, ReadState, RecvMode, SourceFault, SourceId, SourceRead,
};

pub use command::{Command, Report};
use friends::{Friends, Standing};
use peer::{FromStore, Peer, Role, ToFetch};

/// The channel of the chunk service (docs/protocol/channels.md).
pub const CHUNK_CHANNEL: ChannelId = ChannelId(1);

/// Stream error: no service has this channel (docs/protocol/channels.md).
const NO_SUCH_SERVICE: u64 = 1;
/// Stream error: the answer is not wanted any more.
const NOT_WANTED: u64 = 2;
/// Stream error: the stored bytes could not be read.
const UNREADABLE: u64 = 3;
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
    /// The time that `poll_timeout` named has come (or a send buffer came back).
    Tick,
}

/// What a node wants done.
#[derive(Debug)]
pub enum Output {
    /// Send these datagrams; the buffer is the driver's until they are sent, then free.
    Train(Train),
    /// Do this to a file; answer with [`Input::FileDone`].
    File(FileOp),
    /// Tell the control thread.
    Report(Report),
}

/// What a node looks at: packet buffers and stored chunks, owned by the driver.
pub trait World: Memory + ChunkRead {
    /// The store alone.
    type Store: ChunkRead;

    /// The bytes of a place and the store, side by side: stored bytes are copied straight into packets.
    fn split(&mut self, place: Place) -> (&mut [u8], &mut Self::Store);
}

/// What a node is made from.
pub struct Config {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Nodes of different networks never talk.
    pub network: Vec<u8>,
    /// Work that every place must show, zero bits.
    pub place_floor_bits: u32,
    /// What it likes to encrypt with.
    pub suite: Suite,
    /// The UDP port of this shard.
    pub home_port: u16,
    /// Until when no first-flight requests are accepted (after an unclean start).
    pub refuse_early_until: UnixMs,
}

/// Totals of a node that no part of it counts itself.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    trains_in: u64,
    datagrams_in: u64,
    bytes_in: u64,
    trains_out: u64,
    datagrams_out: u64,
    bytes_out: u64,
    violations: u64,
    gets_done: u64,
    gets_failed: u64,
}

/// One shard's node.
pub struct Node {
    identity: Arc<Identity>,
    rng: Rng,
    sessions: Sessions,
    peers: BTreeMap<PeerId, Peer>,
    by_session: BTreeMap<SessionKey, PeerId>,
    next_peer: u64,
    friends: Friends,
    serve: Serve,
    fetch: Fetch,
    get: Get,
    /// Since when a running job sees no friend connected.
    lonely_since: Option<Time>,
    next_progress: Option<Time>,
    /// Peers that may have something to send, in turn.
    ready: VecDeque<PeerId>,
    timers: BTreeSet<(Time, PeerId)>,
    reports: VecDeque<Report>,
    acts: Vec<Act>,
    /// Peers to which something happened and that were not looked at since.
    touched: Vec<PeerId>,
    /// Scratch: stream bytes that the packet at hand brought.
    taken: Vec<(StreamId, u64)>,
    /// Requests that went out with a first flight whose handshake is not finished.
    early: BTreeMap<SessionKey, Early>,
    counters: Counters,
}

/// A first flight that carries a request: the peer to be.
struct Early {
    peer: PeerId,
    connection: Connection,
}

impl Node {
    /// A node without peers.
    pub fn new(config: Config, mut rng: Rng, now: Time) -> Self {
        let sessions = Sessions::new(
            crate::session::Config {
                identity: Arc::clone(&config.identity),
                network: config.network,
                place_floor_bits: config.place_floor_bits,
                suite: config.suite,
                home_port: config.home_port,
                refuse_early_until: config.refuse_early_until,
            },
            rng.fork(),
            now,
        );
        Self {
            identity: config.identity,
            rng,
            sessions,
            peers: BTreeMap::new(),
            by_session: BTreeMap::new(),
            next_peer: 0,
            friends: Friends::default(),
            serve: Serve::default(),
            fetch: Fetch::new(SlicePool::new(SLICE_BUFFERS)),
            get: Get::new(SlicePool::new(RECORD_BUFFERS)),
            lonely_since: None,
            next_progress: None,
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            reports: VecDeque::new(),
            acts: Vec::new(),
            touched: Vec::new(),
            taken: Vec::new(),
            early: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Tells the node what happened.
    pub fn handle(&mut self, clock: Clock, input: Input, world: &mut impl World) {
        match input {
            Input::Train(train) => self.handle_train(clock, train, world),
            Input::Command(command) => self.handle_command(clock, command),
            Input::FileDone(done) => self.get.file_done(done),
            Input::Warmed { handle, slice } => self.serve.warmed(handle, slice, world, &mut self.acts),
            Input::Tick => {}
        }
        self.handle_timeout(clock);
        self.settle(clock, world);
    }

    fn handle_command(&mut self, clock: Clock, command: Command) {
        match command {
            Command::Friends(friends) => {
                for gone in self.friends.replace(clock.now, friends) {
                    let session = match gone {
                        Standing::Here(peer) => self.peers.get(&peer).map(|peer| peer.session),
                        Standing::Calling(session) => Some(session),
                        Standing::Away { .. } => None,
                    };
                    if let Some(session) = session {
                        self.sessions.close(clock.now, session, CloseCode::Goodbye, "no longer a friend");
                    }
                }
                self.befriend_connected(clock);
            }
            Command::Get(request) => self.start_get(clock, request),
            Command::Cancel(job) => self.get.cancel(job, "cancelled; the same get resumes"),
            Command::Status { token } => {
                let snapshot = self.snapshot();
                self.reports.push_back(Report::Status(token, Box::new(snapshot)));
            }
            Command::Shutdown => {
                let sessions: Vec<_> = self.peers.values().map(|peer| peer.session).collect();
                for session in sessions {
                    self.sessions.close(clock.now, session, CloseCode::Goodbye, "shutting down");
                }
            }
        }
    }

    /// Peers that connected before they became friends can be asked from now on.
    fn befriend_connected(&mut self, clock: Clock) {
        for (id, peer) in &mut self.peers {
            let trust = self.friends.get(&peer.card.key).map(|friend| friend.trust);
            if trust.is_some() && peer.trust.is_none() && self.friends.connected(&peer.card.key, *id) {
                self.sessions.set_keepalive(peer.session, true);
                self.fetch.peer_up(clock.now, *id);
            }
            if trust.is_none() && peer.trust.is_some() {
                self.fetch.peer_down(*id);
            }
            peer.trust = trust;
        }
    }

    fn start_get(&mut self, clock: Clock, request: GetRequest) {
        let job = request.job;
        if self.friends.len() == 0 {
            let why = "this node has no friends to get it from; add one: tornet friend add tornet:node:…";
            return self.fail_get(job, why.to_string());
        }
        if let Err(why) = self.get.start(request) {
            return self.fail_get(job, why);
        }
        self.friends.hurry(clock.now);
        self.lonely_since.get_or_insert(clock.now);
        self.next_progress.get_or_insert(clock.now + Duration::from_millis(PROGRESS_MS));
    }

    fn fail_get(&mut self, job: JobId, why: String) {
        self.counters.gets_failed += 1;
        self.reports.push_back(Report::Failed(job, why));
    }

    // ---- datagrams in ---------------------------------------------------------------------------

    fn handle_train(&mut self, clock: Clock, train: Train, world: &mut impl World) {
        self.counters.trains_in += 1;
        self.counters.bytes_in += u64::from(train.place.len);
        let segment = (train.segment as usize).max(1);
        let mut touched: Option<PeerId> = None;
        for datagram in world.bytes_mut(train.place).chunks_mut(segment) {
            self.counters.datagrams_in += 1;
            let received = self.sessions.handle_datagram(clock.now, clock.wall, train.path, datagram);
            match received {
                Received::Packet { session, number, kind, payload } => {
                    let Some(id) = self.peer_of(clock, session) else { continue };
                    if touched != Some(id) {
                        if let Some(previous) = touched.replace(id) {
                            self.end_of_batch(clock, previous);
                        }
                    }
                    self.handle_packet(clock, id, number, kind, train.ecn, &datagram[payload]);
                }
                Received::Early { session, payload } => {
                    let Some(id) = self.peer_of(clock, session) else { continue };
                    // The first flight's request is packet number 0 of the session.
                    self.handle_packet(clock, id, 0, PacketKind::Stream, train.ecn, &datagram[payload]);
                    self.end_of_batch(clock, id);
                }
                Received::Handled | Received::Dropped(_) => {}
            }
        }
        if let Some(id) = touched {
            self.end_of_batch(clock, id);
        }
    }

    fn handle_packet(
        &mut self,
        clock: Clock,
        id: PeerId,
        number: u64,
        kind: PacketKind,
        ecn: u8,
        payload: &[u8],
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.received_bytes += (payload.len() + PACKET_OVERHEAD) as u64;
        if kind != PacketKind::Stream {
            peer.connection.on_other_packet_received(clock.now, number);
            return;
        }
        let mut sink = ToFetch { fetch: &mut self.fetch, peer: id, now: clock.now, taken: &mut self.taken };
        let handled = peer.connection.handle_payload(clock.now, number, ecn, payload, &mut sink);
        for (stream, bytes) in self.taken.drain(..) {
            peer.connection.consumed(stream, bytes);
        }
        if let Err(violation) = handled {
            self.counters.violations += 1;
            let session = peer.session;
            self.sessions.close(clock.now, session, CloseCode::PROTOCOL, &violation.to_string());
        }
    }

    fn end_of_batch(&mut self, clock: Clock, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connection.end_of_batch(clock.now);
        }
        self.touch(id);
    }

    /// The peer of a session. Sessions become peers with their `Established` event, which is queued before
    /// the first packet of the session is handed out.
    fn peer_of(&mut self, clock: Clock, session: SessionKey) -> Option<PeerId> {
        if let Some(id) = self.by_session.get(&session) {
            return Some(*id);
        }
        self.session_events(clock);
        self.by_session.get(&session).copied()
    }

    // ---- sessions and peers ---------------------------------------------------------------------

    fn session_events(&mut self, clock: Clock) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Established { session, initiator, card } => {
                    self.peer_up(clock, session, initiator, card);
                }
                SessionEvent::Confirmed { .. } => {}
                SessionEvent::EarlyRefused { session } => {
                    if let Some(peer) = self.by_session.get(&session).and_then(|id| self.peers.get_mut(id)) {
                        peer.connection.early_refused(clock.now);
                    }
                }
                SessionEvent::Failed { session, why } => {
                    if let Some(early) = self.early.remove(&session) {
                        self.fetch.peer_down(early.peer);
                    }
                    if !matches!(why, FailedWhy::Superseded(_)) {
                        self.friends.failed(clock.now, session, &mut self.rng);
                    }
                }
                SessionEvent::Closed { session, .. } => self.peer_down(clock, session),
                SessionEvent::Moved { session, .. } => {
                    if let Some(peer) = self.by_session.get(&session).and_then(|id| self.peers.get_mut(id)) {
                        peer.connection.path_changed(clock.now);
                    }
                }
            }
        }
    }

    fn peer_up(&mut self, clock: Clock, session: SessionKey, initiator: bool, card: IdentityCard) {
        let (id, connection) = match self.early.remove(&session) {
            Some(early) => (early.peer, early.connection),
            None => (self.next_peer_id(), self.connection(clock.now, initiator)),
        };
        let trust = self.friends.get(&card.key).map(|friend| friend.trust);
        let streams = BTreeMap::new();
        let mut peer = Peer {
            session,
            card,
            connection,
            trust,
            streams,
            queued: false,
            timer: None,
            sent_bytes: 0,
            received_bytes: 0,
        };
        peer.streams.extend(self.fetch.streams_of(id).map(|stream| (stream, Role::Fetching)));
        self.peers.insert(id, peer);
        self.by_session.insert(session, id);
        if self.friends.connected(&card.key, id) {
            self.sessions.set_keepalive(session, true);
            self.fetch.peer_up(clock.now, id);
        }
        self.touch(id);
    }

    fn peer_down(&mut self, clock: Clock, session: SessionKey) {
        let Some(id) = self.by_session.remove(&session) else { return };
        self.friends.gone(clock.now, id);
        self.fetch.peer_down(id);
        self.serve.peer_down(id);
        if let Some(at) = self.peers.remove(&id).and_then(|peer| peer.timer) {
            self.timers.remove(&(at, id));
        }
    }

    fn next_peer_id(&mut self) -> PeerId {
        self.next_peer += 1;
        PeerId(self.next_peer)
    }

    fn connection(&mut self, now: Time, initiator: bool) -> Connection {
        Connection::new(now, stream::Config::new(initiator, self.rng.next_u64()))
    }

    fn call_friends(&mut self, clock: Clock) {
        while self.sessions.connecting() < HANDSHAKES_OUT_MAX
            && let Some(friend) = self.friends.due(clock.now)
        {
            let early = self.early_request(clock);
            let bytes = early.as_ref().map_or(&[][..], |(_, bytes)| bytes);
            let started = self.sessions.connect(clock.now, clock.wall, &friend.card, &friend.addresses, bytes);
            let session = match started {
                Ok(session) | Err(ConnectError::Connecting(session)) => Some(session),
                Err(_) => None,
            };
            match (early, started) {
                (Some((early, _)), Ok(session)) => {
                    self.early.insert(session, early);
                }
                (Some((early, _)), Err(_)) => self.fetch.peer_down(early.peer),
                (None, _) => {}
            }
            self.friends.calling(clock.now, &friend.card.key, session);
        }
    }

    /// When content is wanted and nobody is connected, the first flight asks for it already: the request is
    /// packet number 0 of the session to be.
    fn early_request(&mut self, clock: Clock) -> Option<(Early, Vec<u8>)> {
        if !self.fetch.is_waiting() || !self.early.is_empty() {
            return None;
        }
        let peer = self.next_peer_id();
        let mut connection = self.connection(clock.now, true);
        self.fetch.peer_up(clock.now, peer);
        let outgoing = self.fetch.poll_request(clock.now)?;
        if send_request(&mut connection, clock.now, &mut self.fetch, outgoing).is_none() {
            self.fetch.peer_down(peer);
            return None;
        }
        self.fetch.hold(peer);
        let mut room = [0; EARLY_DATA_MAX];
        let meta = connection.poll_payload(clock.now, 0, &mut room, &mut NoSources)?;
        Some((Early { peer, connection }, room[..meta.len].to_vec()))
    }

    // ---- streams --------------------------------------------------------------------------------

    fn stream_events(&mut self, clock: Clock, id: PeerId, world: &mut impl World) {
        let mut text = Vec::new();
        while let Some(event) = self.peers.get_mut(&id).and_then(|peer| peer.connection.poll_event()) {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            match event {
                StreamEvent::Opened { stream, channel } if channel == CHUNK_CHANNEL => {
                    peer.connection.accept(stream, RecvMode::Ordered);
                    peer.streams.insert(stream, Role::Serving);
                    self.serve.opened(id, stream, &mut self.acts);
                }
                StreamEvent::Opened { stream, .. } => {
                    peer.connection.stop(stream, NO_SUCH_SERVICE);
                    peer.connection.reset(stream, NO_SUCH_SERVICE);
                }
                StreamEvent::Readable(stream) => {
                    if peer.streams.get(&stream) == Some(&Role::Serving) {
                        text.clear();
                        let state = peer.connection.read(stream, &mut text, MESSAGE_SIZE_MAX);
                        let finished = state == ReadState::Finished;
                        self.serve.data(id, stream, &text, finished, world, &mut self.acts);
                    }
                }
                StreamEvent::Finished { stream, .. } | StreamEvent::Reset { stream, .. } => {
                    match peer.streams.get(&stream) {
                        Some(Role::Fetching) => {
                            peer.streams.remove(&stream);
                            self.fetch.finished(id, stream);
                        }
                        Some(Role::Serving) | None => {}
                    }
                }
                StreamEvent::Stopped { stream, code } => {
                    if peer.streams.get(&stream) == Some(&Role::Serving) {
                        self.serve.ended(id, stream);
                        peer.connection.reset(stream, code);
                    }
                }
                StreamEvent::Closed(stream) => {
                    peer.streams.remove(&stream);
                }
                _ => {}
            }
        }
    }

    fn apply_acts(&mut self) {
        for act in std::mem::take(&mut self.acts) {
            let (Act::Write(id, ..) | Act::Attach(id, ..) | Act::Finish(id, _) | Act::Reset(id, _)) = act;
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let connection = &mut peer.connection;
            let done = match act {
                Act::Write(_, stream, bytes) => {
                    connection.write(stream, &bytes).is_ok_and(|written| written == bytes.len())
                }
                Act::Attach(_, stream, source, len) => connection.attach(stream, SourceId(source.0), len).is_ok(),
                Act::Finish(_, stream) => {
                    connection.finish(stream);
                    true
                }
                Act::Reset(_, stream) => {
                    connection.reset(stream, UNREADABLE);
                    true
                }
            };
            if !done && let Act::Write(_, stream, _) | Act::Attach(_, stream, ..) = act {
                // The peer reset the stream meanwhile.
                self.serve.ended(id, stream);
            }
            self.touch(id);
        }
    }

    // ---- going on -------------------------------------------------------------------------------

    /// Lets every part react to what the others did, until nothing moves.
    fn settle(&mut self, clock: Clock, world: &mut impl World) {
        self.session_events(clock);
        while let Some(id) = self.touched.pop() {
            self.stream_events(clock, id, world);
            self.apply_acts();
            self.queue(id);
        }
        self.apply_acts();
        while let Some(id) = self.touched.pop() {
            self.queue(id);
        }
        loop {
            let mut moved = false;
            while let Some((target, mask)) = self.get.poll_want() {
                self.fetch.want(target, mask);
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
        self.call_friends(clock);
        self.send_requests(clock);
    }

    fn fetch_event(&mut self, clock: Clock, event: fetch::Event) {
        match event {
            fetch::Event::Slice { chunk, index, data, len, from } => {
                if let Some(node) = self.peers.get(&from).map(|peer| peer.card.node_id()) {
                    self.get.slice(chunk, index, data, len, node);
                }
            }
            fetch::Event::Unavailable { chunk } => self.get.unavailable(&chunk),
            fetch::Event::Liar { peer, chunk } => {
                let Some(liar) = self.peers.get(&peer) else { return };
                let (session, node) = (liar.session, liar.card.node_id());
                let warning = format!("node {node} sent wrong bytes for chunk {chunk} and was dropped");
                self.reports.push_back(Report::Warning(warning));
                self.sessions.close(clock.now, session, CloseCode::PROTOCOL, "wrong bytes for a chunk");
            }
            fetch::Event::Stop { peer, stream } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.streams.remove(&stream);
                    peer.connection.stop(stream, NOT_WANTED);
                }
                self.queue(peer);
            }
        }
    }

    fn send_requests(&mut self, clock: Clock) {
        while let Some(outgoing) = self.fetch.poll_request(clock.now) {
            let id = outgoing.peer;
            let Some(peer) = self.peers.get_mut(&id) else {
                self.fetch.no_stream(outgoing);
                self.fetch.peer_down(id);
                continue;
            };
            match send_request(&mut peer.connection, clock.now, &mut self.fetch, outgoing) {
                Some(stream) => {
                    peer.streams.insert(stream, Role::Fetching);
                }
                // No stream to be had from this peer now: it can be asked again when one closes.
                None => return self.queue(id),
            }
            self.queue(id);
        }
    }

    /// Notes that something happened to a peer.
    fn touch(&mut self, id: PeerId) {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
    }

    /// Puts a peer in the queue of those that may send.
    fn queue(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.queued
        {
            peer.queued = true;
            self.ready.push_back(id);
        }
    }

    // ---- what to do next ------------------------------------------------------------------------

    /// The next thing to do.
    pub fn poll(&mut self, clock: Clock, world: &mut impl World) -> Option<Output> {
        if let Some(report) = self.reports.pop_front() {
            return Some(Output::Report(report));
        }
        if let Some(op) = self.get.poll_op() {
            return Some(Output::File(op));
        }
        if let Some(train) = self.poll_session_train(clock, world) {
            return Some(Output::Train(train));
        }
        while let Some(id) = self.ready.pop_front() {
            let buf = match world.alloc() {
                Some(buf) => buf,
                None => {
                    self.ready.push_front(id);
                    return None;
                }
            };
            let train = self.poll_peer_train(clock, id, buf, world);
            match train {
                Some(train) => {
                    // It may have more; others come first.
                    self.ready.push_back(id);
                    return Some(Output::Train(train));
                }
                None => {
                    world.free(buf);
                    self.rest(id);
                }
            }
        }
        None
    }

    /// Handshakes, cookies and control packets, one datagram each.
    fn poll_session_train(&mut self, clock: Clock, world: &mut impl World) -> Option<Train> {
        if !self.sessions.wants_to_transmit(clock.now) {
            return None;
        }
        let buf = world.alloc()?;
        let place = Place { len: DATAGRAM_MAX as u32, ..Place::room(buf) };
        let Some((path, len)) = self.sessions.poll_transmit(clock.now, clock.wall, world.bytes_mut(place)) else {
            world.free(buf);
            return None;
        };
        let train = Train { path, place: Place { len: len as u32, ..place }, segment: len as u32, ecn: 0 };
        self.count_out(&train);
        Some(train)
    }

    fn count_out(&mut self, train: &Train) {
        self.counters.trains_out += 1;
        self.counters.datagrams_out += u64::from(train.place.len.div_ceil(train.segment.max(1)));
        self.counters.bytes_out += u64::from(train.place.len);
    }

    /// As many packets of one peer as one train carries, sealed where they lie.
    fn poll_peer_train(
        &mut self,
        clock: Clock,
        id: PeerId,
        buf: crate::base::BufId,
        world: &mut impl World,
    ) -> Option<Train> {
        let peer = self.peers.get_mut(&id)?;
        let path = self.sessions.path(peer.session)?;
        let mut budget = self.sessions.budget(peer.session);
        let room = Place::room(buf);
        let mut segment = peer.connection.packet_size();
        let mut len = 0usize;
        for index in 0..TRAIN_SEGMENTS_MAX {
            // Only the first packet may be an MTU probe, larger than the others; it travels alone.
            let size_max = if index == 0 { DATAGRAM_MAX } else { segment };
            let size_max = size_max.min(TRAIN_SIZE_MAX - len).min(usize::try_from(budget).unwrap_or(usize::MAX));
            if size_max < segment {
                break;
            }
            let Some(number) = self.sessions.next_number(peer.session) else { break };
            let Some(place) = room.part(len as u32, size_max as u32) else { break };
            let Some(meta) = self.write_payload(clock, id, number, place, world) else { break };
            let size = meta.len + PACKET_OVERHEAD;
            let peer = self.peers.get_mut(&id)?;
            let packet = &mut world.bytes_mut(place)[..size];
            if self.sessions.seal(clock.now, peer.session, PacketKind::Stream, packet).is_err() {
                // The session ended under way; loss recovery does not matter any more.
                break;
            }
            peer.sent_bytes += size as u64;
            budget = budget.saturating_sub(size as u64);
            len += size;
            if index == 0 && size > segment {
                segment = size;
                break;
            }
            if size < segment {
                break;
            }
        }
        if len == 0 {
            return None;
        }
        let place = Place { len: len as u32, ..room };
        let train = Train { path, place, segment: (segment as u32).min(len as u32), ecn: ECT0 };
        self.count_out(&train);
        Some(train)
    }

    /// The payload of one packet, written where it will be sealed.
    fn write_payload<W: World>(
        &mut self,
        clock: Clock,
        id: PeerId,
        number: u64,
        place: Place,
        world: &mut W,
    ) -> Option<PacketMeta> {
        let peer = self.peers.get_mut(&id)?;
        let (bytes, store) = world.split(place);
        let end = bytes.len() - TAG_SIZE;
        let payload = &mut bytes[HEADER_SIZE + 1..end];
        peer.connection.poll_payload(clock.now, number, payload, &mut FromStore(store))
    }

    /// A peer has nothing to send for now: its timer says when to look again.
    fn rest(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.queued = false;
        let wanted = peer.connection.poll_timeout();
        if wanted != peer.timer {
            if let Some(old) = peer.timer {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = wanted {
                self.timers.insert((new, id));
            }
            peer.timer = wanted;
        }
    }

    /// When [`Input::Tick`] is wanted.
    pub fn poll_timeout(&self) -> Option<Time> {
        let lonely = self.lonely_since.map(|since| since + Duration::from_millis(GET_LONELY_MS_MAX));
        let first = self.timers.first().map(|(at, _)| *at);
        let others = [
            self.sessions.poll_timeout(),
            self.friends.poll_timeout(),
            self.fetch.poll_timeout(),
            self.next_progress,
            lonely,
        ];
        others.into_iter().flatten().chain(first).min()
    }

    fn handle_timeout(&mut self, clock: Clock) {
        let now = clock.now;
        if self.sessions.poll_timeout().is_some_and(|at| at <= now) {
            self.sessions.handle_timeout(now, clock.wall);
        }
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, id));
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.timer = None;
                peer.connection.handle_timeout(now);
            }
            self.touch(id);
        }
        self.fetch.handle_timeout(now);
        self.watch_gets(now);
    }

    /// Reports progress, and gives up jobs that find nobody to ask.
    fn watch_gets(&mut self, now: Time) {
        if self.get.is_idle() {
            (self.lonely_since, self.next_progress) = (None, None);
            return;
        }
        if self.next_progress.is_some_and(|at| at <= now) {
            self.next_progress = Some(now + Duration::from_millis(PROGRESS_MS));
            let progress = self.get.progress().map(|(id, progress)| Report::Progress(id, progress.clone()));
            self.reports.extend(progress);
        }
        if self.fetch.peers() > 0 {
            self.lonely_since = None;
            return;
        }
        let since = *self.lonely_since.get_or_insert(now);
        if now.since(since) >= Duration::from_millis(GET_LONELY_MS_MAX) {
            let why = format!(
                "none of this node's {} friends answers; check that they run and can be reached \
                 (tornet status), then run the same get again to resume",
                self.friends.len()
            );
            let jobs: Vec<JobId> = self.get.progress().map(|(id, _)| id).collect();
            jobs.into_iter().for_each(|job| self.get.cancel(job, &why));
            self.lonely_since = None;
        }
    }
}

/// For packets that carry no source's bytes.
struct NoSources;

impl SourceRead for NoSources {
    fn read(&mut self, _: SourceId, _: u64, _: &mut [u8]) -> Result<(), SourceFault> {
        Err(SourceFault)
    }
}

/// Opens a stream for a request and writes it; `None` (and the request is taken back) when the peer gives no
/// stream now.
fn send_request(
    connection: &mut Connection,
    now: Time,
    fetch: &mut Fetch,
    outgoing: fetch::Outgoing,
) -> Option<StreamId> {
    let stream = match connection.open(now, CHUNK_CHANNEL, RecvMode::Sink) {
        Ok(stream) => stream,
        Err(_) => {
            fetch.no_stream(outgoing);
            return None;
        }
    };
    let request = outgoing.request.emit();
    connection.set_window(stream, outgoing.reply_len);
    let written = connection.write(stream, &request);
    debug_assert!(written == Ok(request.len()), "a new stream takes a request");
    connection.finish(stream);
    fetch.started(outgoing, stream);
    Some(stream)
}

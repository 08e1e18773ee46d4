//! The connection's state and what services ask of it. Received payloads are in `intake`, sending in
//! `transmit`, acknowledgements and timers in `recovery`.

use std::collections::VecDeque;
use std::time::Duration;

use super::controller::Controller;
use super::cubic::Cubic;
use super::ecn::Ecn;
use super::mtu::Discovery;
use super::pacer::Pacer;
use super::received::Received;
use super::recovery::Recovery;
use super::recv::Change;
use super::rtt::Rtt;
use super::sent::SentPackets;
use super::table::{Queue, Table};
use super::{
    Config, DatagramError, Event, OpenError, ReadState, RecvMode, Sink, SourceId, Stats, WriteError,
};
use crate::base::{Bounded, ChannelId, RangeSet, StreamId, Time};
use crate::limits::{CONNECTION_EVENTS_MAX, DATAGRAM_QUEUE_MAX, STREAM_QUANTUM, STREAMS_PER_SESSION_MAX};
use crate::wire::frame::Writer;

/// What this side may send on all streams together, and how many it may open.
#[derive(Debug)]
pub(super) struct Allowed {
    /// Stream bytes sent for the first time.
    pub sent: u64,
    /// The peer's MAX_DATA.
    pub max: u64,
    /// Streams opened.
    pub opened: u64,
    /// The peer's MAX_STREAMS.
    pub streams: u64,
    /// `OpenError::Limit` was given and no event since.
    pub refused: bool,
}

/// What the peer may send on all streams together, and how many it may open.
#[derive(Debug)]
pub(super) struct Granted {
    /// Stream bytes received, by highest offsets.
    pub received: u64,
    /// Of those, bytes that the services are done with.
    pub consumed: u64,
    /// The MAX_DATA that was sent.
    pub max: u64,
    /// MAX_DATA must go out.
    pub max_due: bool,
    /// Indexes of streams that the peer opened; bounded since credit is.
    pub seen: RangeSet,
    /// Streams of the peer that are over.
    pub closed: u64,
    /// The MAX_STREAMS that was sent.
    pub streams: u64,
    /// MAX_STREAMS must go out.
    pub streams_due: bool,
}

/// Streams and datagrams of one session. See the module for how to drive it.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Config,
    pub(super) streams: Table,
    pub(super) allowed: Allowed,
    pub(super) granted: Granted,
    events: VecDeque<Event>,
    pub(super) datagrams: Bounded<(ChannelId, Vec<u8>)>,
    pub(super) received: Received,
    pub(super) sent: SentPackets,
    pub(super) rtt: Rtt,
    pub(super) controller: Box<dyn Controller>,
    pub(super) pacer: Pacer,
    pub(super) mtu: Discovery,
    pub(super) recovery: Recovery,
    pub(super) ecn: Ecn,
    pub(super) ping_due: bool,
    /// Set while only the pacer keeps packets back: when it lets go.
    pub(super) paced_until: Option<Time>,
    /// The session's limit (or an empty stream queue) keeps all fresh bytes back until something changes.
    pub(super) fresh_blocked: bool,
    /// Bytes that the front stream may send before the next has its turn.
    pub(super) turn: u64,
    pub(super) stats: Stats,
    /// The last sample, until it is asked for.
    pub(super) round_trip: Option<Duration>,
}

/// New streams and datagrams are put off while so many events wait; what is left is room for the events
/// of streams that exist.
const EVENTS_CROWDED: usize = CONNECTION_EVENTS_MAX / 4;
const _: () = assert!(EVENTS_CROWDED + 6 * 2 * STREAMS_PER_SESSION_MAX as usize <= CONNECTION_EVENTS_MAX);

impl Connection {
    /// A connection with CUBIC.
    pub fn new(now: Time, config: Config) -> Self {
        let controller = Box::new(Cubic::new(u64::from(config.mtu_min)));
        Self::with_controller(now, config, controller)
    }

    /// A connection with a controller of the caller's choice.
    pub fn with_controller(now: Time, config: Config, controller: Box<dyn Controller>) -> Self {
        let mut connection = Self {
            streams: Table::default(),
            allowed: Allowed {
                sent: 0,
                max: config.session_window,
                opened: 0,
                streams: STREAMS_PER_SESSION_MAX,
                refused: false,
            },
            granted: Granted {
                received: 0,
                consumed: 0,
                max: config.session_window,
                max_due: false,
                seen: RangeSet::new(),
                closed: 0,
                streams: STREAMS_PER_SESSION_MAX,
                streams_due: false,
            },
            events: VecDeque::new(),
            datagrams: Bounded::new(DATAGRAM_QUEUE_MAX),
            received: Received::new(),
            sent: SentPackets::default(),
            rtt: Rtt::new(config.rtt_hint),
            pacer: Pacer::new(now, u64::from(config.mtu_min)),
            mtu: Discovery::new(config.mtu_min, config.mtu_max),
            recovery: Recovery::new(now),
            ecn: Ecn::new(),
            ping_due: false,
            paced_until: None,
            fresh_blocked: false,
            turn: STREAM_QUANTUM,
            stats: Stats::default(),
            round_trip: None,
            controller,
            config,
        };
        connection.apply_rate(now);
        connection
    }

    // ---- streams ----

    /// Opens a stream to a service of the peer. `mode` is how this side receives.
    pub fn open(&mut self, channel: ChannelId, mode: RecvMode) -> Result<StreamId, OpenError> {
        if self.allowed.opened >= self.allowed.streams {
            self.allowed.refused = true;
            return Err(OpenError::Limit);
        }
        let id = StreamId(2 * self.allowed.opened + u64::from(!self.config.initiator));
        self.allowed.opened += 1;
        self.streams.insert(id, channel, mode, false);
        self.wake(id.0);
        Ok(id)
    }

    /// Whether [`Self::open`] would succeed.
    pub fn can_open(&self) -> bool {
        self.allowed.opened < self.allowed.streams
    }

    /// Chooses how a stream that the peer opened is received, before anything was read from it. What came
    /// until now goes to `sink` at once when the mode asks for it.
    pub fn accept(&mut self, stream: StreamId, mode: RecvMode, sink: &mut impl Sink) {
        if let Some(found) = self.streams.get(stream.0) {
            let change = found.recv.accept(stream, mode, sink);
            self.settle(stream, change);
        }
    }

    /// Serves a stream before all that are not urgent.
    pub fn prioritise(&mut self, stream: StreamId) {
        self.streams.prioritise(stream.0);
    }

    /// The service of a stream.
    pub fn channel(&mut self, stream: StreamId) -> Option<ChannelId> {
        self.streams.get(stream.0).map(|found| found.channel)
    }

    /// Copies bytes to be sent. Takes fewer than given, down to none, when the buffer is full;
    /// [`Event::Writable`] tells when to go on.
    pub fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        let found = self.streams.get(stream.0).ok_or(WriteError::Gone)?;
        if !found.send.is_open() {
            return Err(WriteError::Closed);
        }
        let taken = found.send.write(bytes);
        found.writable_told = false;
        self.wake(stream.0);
        Ok(taken)
    }

    /// Appends `len` bytes that are read from `source` (0 to `len`) when packets are made.
    pub fn attach(&mut self, stream: StreamId, source: SourceId, len: u64) -> Result<(), WriteError> {
        let found = self.streams.get(stream.0).ok_or(WriteError::Gone)?;
        if !found.send.is_open() {
            return Err(WriteError::Closed);
        }
        if !found.send.attach(source, len) {
            found.send.want_room();
            found.writable_told = false;
            return Err(WriteError::Full);
        }
        self.wake(stream.0);
        Ok(())
    }

    /// Ends the sending half: what was given is delivered, then the end.
    pub fn finish(&mut self, stream: StreamId) {
        if let Some(found) = self.streams.get(stream.0) {
            found.send.finish();
            self.wake(stream.0);
        }
    }

    /// Gives the sending half up: what was not delivered may never be.
    pub fn reset(&mut self, stream: StreamId, code: u64) {
        if let Some(found) = self.streams.get(stream.0)
            && found.send.reset(code)
        {
            found.reset_due = true;
            self.streams.enqueue(Queue::Control, stream.0);
        }
    }

    /// Asks the peer to send no more; nothing of the stream is delivered any more.
    pub fn stop(&mut self, stream: StreamId, code: u64) {
        let Some(found) = self.streams.get(stream.0) else { return };
        let (change, tell) = found.recv.stop();
        if tell {
            (found.stop, found.stop_due) = (Some(code), true);
            self.streams.enqueue(Queue::Control, stream.0);
        }
        self.settle(stream, change);
    }

    /// Takes up to `max` bytes of an ordered stream, appending them to `into`.
    pub fn read(&mut self, stream: StreamId, into: &mut Vec<u8>, max: usize) -> ReadState {
        let Some(found) = self.streams.get(stream.0) else { return ReadState::Gone };
        let (state, change) = found.recv.read(into, max);
        found.readable_told = state == ReadState::More && found.readable_told;
        self.settle(stream, change);
        state
    }

    /// Sink mode: the service is done with `bytes` more, in whatever order. What is not reported when a
    /// stream finishes is then taken as done.
    pub fn consumed(&mut self, stream: StreamId, bytes: u64) {
        if let Some(found) = self.streams.get(stream.0) {
            let credited = found.recv.consume(bytes);
            self.settle(stream, Change { credited, ..Change::default() });
        }
    }

    /// Lets the peer send up to `bytes` ahead of what was consumed on this stream; at least the usual
    /// window, at most the session's.
    pub fn set_window(&mut self, stream: StreamId, bytes: u64) {
        if let Some(found) = self.streams.get(stream.0) {
            found.recv.grow_window(bytes);
            self.settle(stream, Change::default());
        }
    }

    // ---- datagrams and pings ----

    /// Queues an unreliable message; it leaves once or never.
    pub fn datagram(&mut self, channel: ChannelId, bytes: &[u8]) -> Result<(), DatagramError> {
        if bytes.len() > self.datagram_max() {
            return Err(DatagramError::TooLarge);
        }
        self.datagrams.push((channel, bytes.to_vec())).map_err(|_| DatagramError::Full)
    }

    /// Bytes of the largest datagram that fits in a packet now.
    pub fn datagram_max(&self) -> usize {
        let header = Writer::datagram_size(ChannelId(u16::MAX), self.packet_size());
        self.payload_max() + self.packet_size() - header
    }

    /// Asks for a sign of life: something that is acknowledged leaves soon.
    pub fn ping(&mut self) {
        self.ping_due = true;
    }

    /// No packet will have this number, which is the one before the next that [`Self::poll_payload`] is given
    /// (or near it): an acknowledgement of it ends the session.
    pub fn on_number_skipped(&mut self, number: u64) {
        self.sent.skip(number);
    }

    // ---- events and figures ----

    /// The next event; drain it after every call that hands something in.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether packets shall leave as ECN-capable, ECT(0): until the path turns out to mistreat them.
    pub fn is_ecn_capable(&self) -> bool {
        self.ecn.is_capable()
    }

    /// UDP payload of full packets, bytes.
    pub fn packet_size(&self) -> usize {
        self.mtu.current() as usize
    }

    /// Whether the path's MTU is known: until then it may be larger than [`Self::packet_size`].
    pub fn is_mtu_settled(&self) -> bool {
        self.mtu.is_settled()
    }

    /// Whether nothing is under way: no stream, nothing to send, nothing unacknowledged.
    pub fn is_idle(&self) -> bool {
        self.streams.len() == 0 && self.datagrams.is_empty() && self.sent.eliciting() == 0
    }

    /// The round-trip estimator.
    pub fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// The last round trip that was measured since this was last asked.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        Stats {
            rtt: self.rtt.smoothed(),
            rtt_latest: self.rtt.latest(),
            rtt_min: self.rtt.min(),
            window: self.controller.window(),
            in_flight: self.sent.in_flight(),
            mtu: self.mtu.current(),
            pacing_rate: self.pacer.rate().unwrap_or(0),
            streams: self.streams.len(),
            ..self.stats
        }
    }

    // ---- shared by the other halves ----

    pub(super) fn payload_max(&self) -> usize {
        self.packet_size() - self.config.overhead as usize
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Whether new streams and datagrams must wait for the services.
    pub(super) fn is_crowded(&self) -> bool {
        self.events.len() >= EVENTS_CROWDED
    }

    /// A stream may have bytes to send.
    pub(super) fn wake(&mut self, id: u64) {
        if self.streams.get(id).is_some_and(|found| found.has_pending()) {
            self.fresh_blocked = false;
            self.streams.enqueue(Queue::Fresh, id);
        }
    }

    /// Applies what a receiving half reported: windows, events, and the end of the stream.
    pub(super) fn settle(&mut self, stream: StreamId, change: Change) {
        self.granted.received += change.counted;
        self.granted.consumed += change.credited;
        let window = self.config.session_window;
        if self.granted.consumed + window >= self.granted.max + window / 4 {
            self.granted.max_due = true;
        }
        let Some(found) = self.streams.get(stream.0) else { return };
        if change.readable && !std::mem::replace(&mut found.readable_told, true) {
            self.events.push_back(Event::Readable(stream));
        }
        if change.finished
            && let Some(final_size) = found.recv.final_size()
        {
            self.events.push_back(Event::Finished { stream, final_size });
        }
        if found.recv.better_limit().is_some() {
            found.window_due = true;
            self.streams.enqueue(Queue::Control, stream.0);
        }
        self.close_if_done(stream);
    }

    /// Forgets a stream that is over in both directions, and lets the peer open another.
    pub(super) fn close_if_done(&mut self, stream: StreamId) {
        if !self.streams.get(stream.0).is_some_and(|found| found.is_done()) {
            return;
        }
        self.streams.remove(stream.0);
        if stream.by_initiator() == self.config.initiator {
            return;
        }
        self.granted.closed += 1;
        let limit = self.granted.closed + STREAMS_PER_SESSION_MAX;
        let opened = self.granted.seen.max().map_or(0, |index| index + 1);
        let scarce = self.granted.streams.saturating_sub(opened) < STREAMS_PER_SESSION_MAX / 4;
        if scarce || limit - self.granted.streams >= STREAMS_PER_SESSION_MAX / 4 {
            self.granted.streams_due = true;
        }
    }
}

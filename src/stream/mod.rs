//! The stream core: reliable streams and unreliable datagrams, multiplexed on one session.
//!
//! One [`Connection`] per session does what happens between opened payloads: acknowledgements, loss
//! recovery (RFC 9002), congestion control behind a trait, pacing, flow control, path-MTU discovery and
//! ECN. It never encrypts and never owns packet bytes: it writes frames into room that the caller gives,
//! under a packet number that the caller names, and reads frames from a payload that the caller opened.
//! The wire is described in `docs/protocol/stream.md`.
//!
//! # A packet's path
//! In: `intake` walks the frames → `recv` hands stream bytes to a [`Sink`] or keeps them for
//! [`Connection::read`] → `received` notes the number; acknowledgements go to `recovery`, which settles
//! entries of `sent` and tells [`controller`].
//! Out: `transmit` asks window (`controller`) and `pacer`, then fills the payload: acknowledgement, control
//! frames, datagrams, bytes to send again, fresh bytes read from where they lie ([`SourceRead`]).
//!
//! # How to drive it
//! ```text
//! for each received packet: handle_payload      then once: end_of_batch
//! handle_timeout when poll_timeout's time has come
//! poll_payload until it returns None            (a probe travels alone; a short packet ends a train)
//! poll_event until it returns None
//! poll_timeout
//! ```

pub mod connection;
pub mod controller;
pub mod cubic;
mod ecn;
mod intake;
mod mtu;
mod pacer;
mod received;
mod recovery;
mod recv;
mod rtt;
mod send;
mod sent;
mod table;
#[cfg(test)]
mod tests;
mod transmit;

use std::time::Duration;

use crate::base::{ChannelId, StreamId};
use crate::limits::{DATAGRAM_MAX, DATAGRAM_MIN, PACKET_OVERHEAD, SESSION_WINDOW, STREAM_WINDOW};
use crate::wire::Malformed;

pub use connection::Connection;
pub use rtt::Rtt;
pub use transmit::Wants;

/// What both ends agreed on, and what this end knows of the path.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether this side started the session: it opens even stream ids.
    pub initiator: bool,
    /// UDP payload that the path surely carries, bytes.
    pub mtu_min: u32,
    /// UDP payload up to which the path is searched, bytes.
    pub mtu_max: u32,
    /// UDP payload that is not frames, bytes per packet.
    pub overhead: u32,
    /// A round trip that was already seen, such as the handshake's.
    pub rtt_hint: Option<Duration>,
    /// Bytes that an ordered stream of the peer may lie ahead of what was read from it; what is further ahead is
    /// put off. Below the stream's window where services take short messages only, since the peer's first byte
    /// may be the last one of the window.
    pub unread_max: u64,
    /// Bytes of all streams that may be under way before some were consumed, in both directions: the protocol's
    /// [`SESSION_WINDOW`], and less in tests, which would send too little to meet it.
    pub session_window: u64,
}

impl Config {
    /// The usual sizes.
    pub fn new(initiator: bool) -> Self {
        Self {
            initiator,
            mtu_min: DATAGRAM_MIN as u32,
            mtu_max: DATAGRAM_MAX as u32,
            overhead: PACKET_OVERHEAD as u32,
            rtt_hint: None,
            unread_max: STREAM_WINDOW,
            session_window: SESSION_WINDOW,
        }
    }
}

/// How this side receives a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvMode {
    /// Bytes wait in order until [`Connection::read`] takes them.
    Ordered,
    /// Bytes go to the [`Sink`] as they come, in any order; [`Connection::consumed`] opens the window.
    Sink,
}

/// Where the bytes of [`RecvMode::Sink`] streams go.
pub trait Sink {
    /// New bytes of a stream, in any order, never the same byte twice.
    fn data(&mut self, stream: StreamId, offset: u64, bytes: &[u8]);
}

/// For who has no sink streams.
impl Sink for () {
    fn data(&mut self, _: StreamId, _: u64, _: &[u8]) {}
}

/// Names bytes that lie elsewhere and are read when a packet is made; the number means something to the
/// [`SourceRead`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

/// A source can no longer be read: its stream is reset with [`SOURCE_FAULT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source of a stream can no longer be read")]
pub struct SourceFault;

/// The code of a RESET that a [`SourceFault`] caused; the same on every channel.
pub const SOURCE_FAULT: u64 = (1 << 62) - 1;

/// Where the bytes of attached sources come from.
pub trait SourceRead {
    /// Fills `into` from `offset` of the source. Must give the same bytes each time, until everything was
    /// acknowledged or the stream was reset.
    fn read(&mut self, source: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault>;
}

/// For who attaches nothing.
impl SourceRead for () {
    fn read(&mut self, _: SourceId, _: u64, _: &mut [u8]) -> Result<(), SourceFault> {
        Err(SourceFault)
    }
}

/// A rule that the peer broke: the session ends with this code (docs/protocol/session.md §7) and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Violation {
    /// The code that the peer is told.
    pub code: u64,
    /// What was broken, for the log and the peer.
    pub text: &'static str,
}

const MALFORMED: u64 = 2;
const VIOLATION: u64 = 3;
const LIMIT: u64 = 4;

impl Violation {
    /// More than a stream's limit.
    pub const STREAM_LIMIT: Self = Self { code: LIMIT, text: "more bytes than the stream's limit" };
    /// More than the session's limit.
    pub const SESSION_LIMIT: Self = Self { code: LIMIT, text: "more bytes than the session's limit" };
    /// More streams than allowed.
    pub const STREAMS_LIMIT: Self = Self { code: LIMIT, text: "more streams than the limit" };
    /// The end of a stream moved, or bytes lie behind it.
    pub const FINAL_SIZE: Self = Self { code: VIOLATION, text: "the final size of a stream changed" };
    /// A frame about a stream that cannot exist.
    pub const STREAM_STATE: Self =
        Self { code: VIOLATION, text: "a frame about a stream that was not opened" };

    /// An acknowledgement of a packet number that was left out on purpose.
    pub const NEVER_SENT: Self =
        Self { code: VIOLATION, text: "a packet was acknowledged that was never sent" };

    /// Bytes that are no frames.
    pub const fn malformed(Malformed(what): Malformed) -> Self {
        Self { code: MALFORMED, text: what }
    }
}

/// Why no stream was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer allows no more now; try again after [`Event::StreamsAvailable`].
    #[error("the peer allows no more streams now")]
    Limit,
}

/// Why bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No such stream (any more).
    #[error("no such stream")]
    Gone,
    /// The sending half was finished, reset, or stopped by the peer.
    #[error("the stream takes no more bytes")]
    Closed,
    /// Too many pieces wait; try again after [`Event::Writable`].
    #[error("too many pieces wait on the stream")]
    Full,
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Too many wait.
    #[error("too many datagrams wait")]
    Full,
    /// It does not fit in a packet; see [`Connection::datagram_max`].
    #[error("the datagram does not fit in a packet")]
    TooLarge,
}

/// What [`Connection::read`] leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadState {
    /// More can be read now.
    More,
    /// More will come; [`Event::Readable`] tells.
    Blocked,
    /// That was all.
    Finished,
    /// The peer gave up, with this code.
    Reset(u64),
    /// No such stream (any more), or not one to be read from.
    Gone,
}

/// What happened, for the services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream. It is [`RecvMode::Ordered`] unless accepted otherwise.
    Opened {
        /// Its id.
        stream: StreamId,
        /// The service that it is for.
        channel: ChannelId,
    },
    /// Ordered bytes, or the end, can be read.
    Readable(StreamId),
    /// Everything that the peer sends on a stream is here.
    Finished {
        /// Which.
        stream: StreamId,
        /// How much it was, bytes.
        final_size: u64,
    },
    /// The peer gave up sending on a stream.
    Reset {
        /// Which.
        stream: StreamId,
        /// Why.
        code: u64,
    },
    /// The peer wants no more bytes on a stream; sending was given up with the same code.
    Stopped {
        /// Which.
        stream: StreamId,
        /// Why.
        code: u64,
    },
    /// All bytes sent on a stream, and its end, have arrived: its sources are needed no more.
    Acked(StreamId),
    /// A source could not be read; sending was given up with [`SOURCE_FAULT`].
    SourceFailed(StreamId),
    /// A stream that refused bytes takes them again.
    Writable(StreamId),
    /// Streams can be opened again after [`OpenError::Limit`].
    StreamsAvailable,
    /// An unreliable message came.
    Datagram {
        /// For which service.
        channel: ChannelId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Full packets have another size now: UDP payload, bytes.
    MtuChanged(u32),
}

/// What was written for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMeta {
    /// Bytes of payload.
    pub len: usize,
    /// Whether it probes the path MTU: larger than the others, to be sent alone.
    pub probe: bool,
    /// Whether the peer will acknowledge it.
    pub ack_eliciting: bool,
}

/// Figures of one connection. Bytes are UDP payload of data packets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// The last round trip.
    pub rtt_latest: Duration,
    /// Smallest round trip on this path.
    pub rtt_min: Duration,
    /// Congestion window, bytes.
    pub window: u64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Full packets' UDP payload, bytes.
    pub mtu: u32,
    /// Pacing rate, bytes per second; 0 when not pacing.
    pub pacing_rate: u64,
    /// Streams that exist.
    pub streams: usize,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Packets presumed lost, probes of the path MTU excepted.
    pub lost_packets: u64,
    /// Their bytes.
    pub lost_bytes: u64,
    /// Packets that were presumed lost and arrived.
    pub spurious_losses: u64,
    /// Stream bytes sent again.
    pub resent_bytes: u64,
    /// Times that the network was found congested.
    pub congestion_events: u64,
    /// Probe timeouts.
    pub timeouts: u64,
    /// Datagrams dropped on this side, either direction.
    pub dropped_datagrams: u64,
    /// Falls back to the smallest packets because larger ones vanished.
    pub black_holes: u64,
}

impl Stats {
    /// Bytes that arrived, as far as is known: sent, and neither under way nor presumed lost.
    pub fn arrived_bytes(&self) -> u64 {
        self.sent_bytes.saturating_sub(self.in_flight + self.lost_bytes)
    }
}

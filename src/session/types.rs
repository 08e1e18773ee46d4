//! What the session core is told and what it tells.

use std::ops::Range;
use std::sync::Arc;

use crate::base::{Path, PublicKey, UnixMs};
use crate::crypto::{Identity, IdentityCard, Suite};
use crate::limits::CLOCK_SKEW_MS_MAX;
use crate::wire::control::CloseCode;
use crate::wire::packet::PacketKind;

/// What a shard's sessions need to know about their node.
pub struct Config {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// The network's id: nodes of different networks cannot shake hands.
    pub network: Vec<u8>,
    /// Bits of work that a peer's place must show.
    pub place_floor_bits: u32,
    /// The AEAD that this CPU prefers; AES-256-GCM is used only where both sides prefer it.
    pub suite: Suite,
    /// UDP port of the lane that peers shall continue on; 0 is the port that they wrote to.
    pub home_port: u16,
    /// Early data whose first flight was made before this is refused: after an unclean start it could be
    /// one that was already answered.
    pub refuse_early_until: UnixMs,
    /// Which shard this is, and of how many: below it, and at most [`crate::limits::SHARDS_MAX`].
    pub shard: (u8, u8),
    /// Whether nobody is heard until it is said who may be ([`super::Sessions::set_door`]).
    pub only_friends: bool,
}

impl Config {
    /// The defaults: this CPU's suite, the network's floor, any port, one shard, and early data refused for the 30 s
    /// after `started` in which a first flight from before could still be fresh.
    pub fn new(identity: Arc<Identity>, network: &[u8], started: UnixMs) -> Self {
        Self {
            identity,
            network: network.to_vec(),
            place_floor_bits: crate::crypto::rank::PLACE_FLOOR_BITS,
            suite: Suite::preferred(),
            home_port: 0,
            refuse_early_until: UnixMs(started.0.saturating_add(CLOCK_SKEW_MS_MAX)),
            shard: (0, 1),
            only_friends: false,
        }
    }
}

/// Names a session (or one being set up) of one shard: slab index in the low bits, generation above.
/// Never means another session after its own ended, until 2¹⁴ others have used its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

/// What came of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A packet for the caller. It confirms the session if it was not confirmed.
    Packet {
        /// Whose.
        session: SessionKey,
        /// Its number; never the same twice in a session among packets of its [`crate::wire::packet::Series`].
        number: u64,
        /// What it holds; never [`PacketKind::Control`].
        kind: PacketKind,
        /// Where the payload lies within the datagram, opened.
        payload: Range<usize>,
    },
    /// A first flight brought a request. It must be idempotent: the same request may come again with
    /// another first flight (never with the same one). Answer within [`super::Sessions::budget`].
    Early {
        /// The new, unconfirmed session.
        session: SessionKey,
        /// Where the request lies within the datagram.
        payload: Range<usize>,
    },
    /// A packet of the session's own, dealt with; there may be events and datagrams to send. Its number is told
    /// since acknowledgements cover packets of every kind.
    Control {
        /// Whose; it may be over by now.
        session: SessionKey,
        /// Its number.
        number: u64,
    },
    /// Dealt with inside; there may be events and datagrams to send.
    Handled,
    /// For a session of another shard, whose connection id it names: pass it on as it is.
    Foreign {
        /// Which shard.
        shard: u8,
    },
    /// Not for us, or not acceptable. Nothing is sent in answer.
    Dropped(DropCause),
}

/// What the caller should know. Every key that [`super::Sessions::connect`] returned or `Established` named
/// ends with exactly one `Failed` or `Closed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Packets may be sent. As a responder: not confirmed yet, see [`super::Sessions::budget`].
    Established {
        /// Which; the key that `connect` returned when `initiator`.
        session: SessionKey,
        /// Whether we started it.
        initiator: bool,
        /// The peer, authenticated.
        card: IdentityCard,
        /// Which lane of the session with the peer: 0 is the session itself.
        lane: u16,
    },
    /// Another shard wants a lane to a peer whose home this is, and there is no session.
    Wanted {
        /// Who.
        peer: PublicKey,
    },
    /// The peer's first packet came: it has the session too. From here on this is the peer's one session;
    /// an older one is closed.
    Confirmed {
        /// Which.
        session: SessionKey,
    },
    /// The peer proved its path: what waited for the path's budget can be sent.
    Validated {
        /// Which.
        session: SessionKey,
    },
    /// The peer did not take the early data; send it again as ordinary data.
    EarlyRefused {
        /// Which.
        session: SessionKey,
    },
    /// A handshake of ours came to nothing.
    Failed {
        /// The key that `connect` returned.
        session: SessionKey,
        /// Why.
        why: FailedWhy,
    },
    /// A session is over. The key is dead.
    Closed {
        /// Which.
        session: SessionKey,
        /// Why.
        why: ClosedWhy,
    },
    /// Something was said by a bridge and nothing heard for a while: the peer may have forgotten the session, and be unable to
    /// call.
    Silent {
        /// Which.
        session: SessionKey,
    },
    /// The peer's packets come from another address now (or the new one failed and the old one is used
    /// again).
    Moved {
        /// Which.
        session: SessionKey,
        /// Where packets go from now on.
        path: Path,
    },
}

/// Why a handshake of ours came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailedWhy {
    /// None of the peer's addresses answered.
    #[error("no answer from any address")]
    NoAnswer,
    /// The peer's own handshake to us was faster; use this session.
    #[error("the peer connected to us first")]
    Superseded(SessionKey),
    /// The caller closed it.
    #[error("given up")]
    Cancelled,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosedWhy {
    /// The caller closed it.
    #[error("closed here")]
    Local,
    /// The peer closed it.
    #[error("closed by the peer ({code}): {reason:?}")]
    Peer {
        /// Its code.
        code: CloseCode,
        /// Its words, untrusted.
        reason: String,
    },
    /// Nothing authentic came for too long.
    #[error("silent for too long")]
    Idle,
    /// A newer session with the same peer took its place.
    #[error("replaced by a newer session")]
    Replaced,
    /// Nothing came from the peer in the new session.
    #[error("never confirmed")]
    Unconfirmed,
    /// The peer broke the protocol; it was told so.
    #[error("the peer sent something {0}")]
    Fault(CloseCode),
}

/// Why no handshake was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// One is under way already, or its session is not confirmed yet.
    #[error("already connecting")]
    Connecting(SessionKey),
    /// No address.
    #[error("no address to try")]
    NoAddress,
    /// The card's key is unusable, or it is our own.
    #[error("the peer's key is unusable")]
    BadKey,
    /// Sessions are had with friends alone, and it is none.
    #[error("only friends are called")]
    Uninvited,
    /// Early data is longer than [`crate::limits::EARLY_DATA_MAX`].
    #[error("early data too long")]
    EarlyTooLong,
    /// [`crate::limits::HANDSHAKES_OUT_MAX`] or [`crate::limits::SESSIONS_MAX`] is reached.
    #[error("too many sessions")]
    Full,
}

/// Why a packet was not sealed. Its bytes are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No such established session (ended, closed, or still shaking hands).
    #[error("no such session")]
    Unknown,
    /// The path is not validated and has no budget for this many bytes yet.
    #[error("over the unvalidated path's budget")]
    Budget,
    /// Shorter than [`crate::limits::PACKET_OVERHEAD`].
    #[error("shorter than a packet")]
    Short,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// Names no session and is no handshake made with our identity.
    Stranger,
    /// Named one of our connection ids (or our disguise) and failed authentication.
    Forged,
    /// Was here before, or is too old to tell.
    Replayed,
    /// Authentic, and not what it should be.
    Malformed,
    /// Its first flight's clock is too far from ours.
    Skewed,
    /// Its sender's card is not acceptable here.
    Refused,
    /// Its sender is none of those with whom sessions are had.
    Uninvited,
    /// Too many handshakes, in all or from its prefix.
    RateLimited,
    /// A table is full.
    Full,
    /// For a handshake that is over, or one that gives way to the other side's.
    Late,
}

/// What happened so far, each a monotonic count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that named no session and were no handshake.
    pub strangers: u64,
    /// Datagrams that failed authentication under a key that they named.
    pub forged: u64,
    /// Packets and first flights seen before.
    pub replayed: u64,
    /// Authentic messages that were not what they should be.
    pub malformed: u64,
    /// First flights with a clock too far from ours.
    pub skewed: u64,
    /// First flights whose card was refused.
    pub refused: u64,
    /// First flights of others than those with whom sessions are had.
    pub uninvited: u64,
    /// First flights above a rate limit.
    pub rate_limited: u64,
    /// First flights, or answers to be sent, that found a table full.
    pub full: u64,
    /// Handshake datagrams that came too late, or gave way in a simultaneous open.
    pub late: u64,
    /// Cookies sent to initiators under load.
    pub cookies_sent: u64,
    /// Cookies received.
    pub cookies_received: u64,
    /// Handshakes started.
    pub handshakes_started: u64,
    /// First flights sent, retries included.
    pub inits_sent: u64,
    /// Handshakes that we completed as initiator.
    pub handshakes_out: u64,
    /// First flights that we answered as responder.
    pub handshakes_in: u64,
    /// Sessions, begun by either side, in which the other side was heard.
    pub confirmed: u64,
    /// Handshakes of ours that failed.
    pub handshakes_failed: u64,
    /// Requests taken from first flights.
    pub early_accepted: u64,
    /// Requests in first flights refused.
    pub early_refused: u64,
    /// Key epochs begun for sending.
    pub rekeys_sent: u64,
    /// Key epochs of peers followed.
    pub rekeys_received: u64,
    /// Changes of a peer's address followed.
    pub roams: u64,
    /// New paths that were validated.
    pub paths_validated: u64,
    /// New paths that were given up.
    pub paths_failed: u64,
    /// Sessions that got off a relayed path.
    pub punched: u64,
    /// Sessions that went back to one, their peers being silent.
    pub relayed_again: u64,
    /// Sessions closed for any reason.
    pub closed: u64,
    /// Further lanes that we asked for and got.
    pub lanes_opened: u64,
    /// Further lanes that peers asked for and got.
    pub lanes_accepted: u64,
    /// Messages to other shards that found no room.
    pub crossings_lost: u64,
}

impl Counters {
    pub(super) fn drop(&mut self, cause: DropCause) {
        *match cause {
            DropCause::Stranger => &mut self.strangers,
            DropCause::Forged => &mut self.forged,
            DropCause::Replayed => &mut self.replayed,
            DropCause::Malformed => &mut self.malformed,
            DropCause::Skewed => &mut self.skewed,
            DropCause::Refused => &mut self.refused,
            DropCause::Uninvited => &mut self.uninvited,
            DropCause::RateLimited => &mut self.rate_limited,
            DropCause::Full => &mut self.full,
            DropCause::Late => &mut self.late,
        } += 1;
    }
}

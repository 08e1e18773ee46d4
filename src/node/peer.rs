//! One connected peer: its session's key, its stream connection, and what each stream is for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::introductions::WasTold;
use super::promises::Asking;
use crate::base::{Budget, ChunkRead, NodeId, StreamId, Time};
use crate::crypto::IdentityCard;
use crate::service::PeerId;
use crate::service::fetch::Fetch;
use crate::service::keep::Keep;
use crate::service::push::Push;
use crate::service::serve::SliceSource;
use crate::session::SessionKey;
use crate::shape::{Bucket, Slot};
use crate::stream::{Connection, Sink, SourceFault, SourceId, SourceRead};
use crate::wire::hello::Hello;
use crate::wire::relay::RelayCard;

/// What a stream is for, on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// We asked for slices; its bytes go to the fetch.
    Fetching,
    /// The peer asks for slices.
    Serving,
    /// The peer offers a chunk to be kept, and sends it.
    Keeping,
    /// We offered a chunk.
    Giving,
    /// Our introduction.
    Introducing,
    /// The peer's introduction, which must be whole by then.
    Meeting(Time),
    /// What we tell a friend of other nodes.
    Telling,
    /// A friend tells of other nodes, which must be whole by then.
    Told(Time),
    /// We asked for a promise.
    Asking,
    /// The peer asks for a promise; the request must be whole by then.
    Asked(Time),
}

/// A peer's introduction.
pub(super) enum Meeting {
    /// Its bytes so far.
    Listening(Vec<u8>),
    /// All of it.
    Met(Hello),
}

/// One connected peer.
pub(super) struct Peer {
    pub session: SessionKey,
    pub card: IdentityCard,
    /// Of its card: a hash, so it is kept.
    pub node: NodeId,
    /// Which lane of the session with it: 0 is the session itself.
    pub lane: u16,
    pub connection: Connection,
    pub trust: Option<u8>,
    /// What it said of itself: the bytes so far, then the message.
    pub hello: Meeting,
    pub streams: BTreeMap<StreamId, Role>,
    /// Its place in the shaper.
    pub slot: Slot,
    /// What it may be asked for; a request is a debt of its answer.
    pub down: Bucket,
    /// It lent of that last, and has asked for nothing since.
    pub lent: bool,
    /// What this node asked it to promise.
    pub asking: Option<Asking>,
    /// What it asks for: the bytes so far, and where they come.
    pub request: Option<(StreamId, Vec<u8>)>,
    /// What it tells of other nodes, as a friend: the bytes so far, and where they come.
    pub telling: Option<(StreamId, Vec<u8>)>,
    /// How often it may.
    pub telling_budget: Budget,
    /// What it was told of other nodes, and whether it did not take that.
    pub was_told: Option<WasTold>,
    pub tells_in_vain: bool,
    /// What its last hello from this node said of this node as a relay.
    pub relay_told: Option<RelayCard>,
    /// How often it is told of other nodes.
    pub told_budget: Budget,
    /// The deadline under which it stands in the node's timers.
    pub timer: Option<Time>,
    /// Whether what waits in its queue is next, or its streams.
    pub queue_turn: bool,
    /// Bytes known to have arrived when that was last looked at.
    pub arrived: u64,
    /// Bytes that its streams had sent then.
    pub sent_seen: u64,
    /// Whether it asked for chunks, being no friend.
    pub asks: bool,
    /// Verified bytes of chunks that it gave, and that the overlay's keeper was not told of.
    pub given: u64,
    /// Whether the overlay's keeper was told that it takes part.
    pub overlay_told: bool,
    /// What it may say to the overlay.
    pub overlay_budget: Budget,
    /// What it may say on channel 6, and what it may bring there.
    pub meeting_budget: Budget,
    /// How often it may have this node try where it may be.
    pub rounds_budget: Budget,
    /// When it last asked this node to keep the session.
    pub held_at: Option<Time>,
    /// What it was asked likewise, and has not answered.
    pub hold_asked: Option<u32>,
    pub carried_budget: Budget,
    /// How long it took to get off a path through another, the last time.
    pub straight_after: Option<Duration>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Peer {
    /// When it can lend another lane of what it may be asked for: in turn with itself, or when it holds more than it needs.
    pub fn lends_at(&mut self, now: Time) -> Option<Time> {
        self.down.fill(now);
        let least = if self.lent { self.down.quantum() } else { 1 };
        self.down.rate().and_then(|_| self.down.holds_at(least))
    }
}

/// Hands stream bytes to the fetch, or to what is kept for others, as they come, and remembers how many.
pub(super) struct ToServices<'a> {
    pub fetch: &'a mut Fetch,
    pub keep: &'a mut Keep,
    pub peer: PeerId,
    pub now: Time,
    /// What each stream took in this packet, to open its windows again.
    pub taken: &'a mut Vec<(StreamId, u64)>,
    /// Bytes among them that this node did not ask for.
    pub unasked: u64,
}

impl Sink for ToServices<'_> {
    fn data(&mut self, stream: StreamId, offset: u64, bytes: &[u8]) {
        if self.keep.takes(self.peer, stream) {
            self.keep.body(self.peer, stream, offset, bytes);
            self.unasked += bytes.len() as u64;
        } else {
            self.fetch.data(self.now, self.peer, stream, offset, bytes);
        }
        match self.taken.last_mut() {
            Some((last, count)) if *last == stream => *count += bytes.len() as u64,
            _ => self.taken.push((stream, bytes.len() as u64)),
        }
    }
}

/// Reads the sources of streams: from the store what is served, and what is given away from where it waits.
pub(super) struct FromStore<'a, S>(pub &'a mut S, pub &'a Push);

impl<S: ChunkRead> SourceRead for FromStore<'_, S> {
    fn read(&mut self, source: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        if Push::is_source(source.0) {
            let Some(handle) = self.1.stored(source.0) else { return self.1.read(source.0, offset, into) };
            let offset = u32::try_from(offset).map_err(|_| SourceFault)?;
            return self.0.read(handle, offset, into).map_err(|_| SourceFault);
        }
        SliceSource(source.0).read(self.0, offset, into).map_err(|_| SourceFault)
    }
}

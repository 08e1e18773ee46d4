//! Keeping chunks for others (docs/protocol/keep.md): an offer is judged, the chunk is taken as it comes, in bounded memory
//! and time, checked against what the offer says of it, and handed out to be stored.
//!
//! After every call drain [`Keep::poll_store`] and [`Keep::poll_kept`]; what a [`Act`] asks is done on the peer's stream.

pub mod guests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::PeerId;
use crate::base::{ChunkId, ChunkRead, Kept, NewChunk, StreamId, Time};
use crate::chunk::Incoming;
use crate::limits::{
    KEEP_BODIES_MAX, KEEP_BODIES_PER_GUEST_MAX, KEEP_BODIES_PER_SESSION_MAX, KEEP_BODIES_STRANGERS,
    KEEP_BODY_MS_MAX, KEEP_OFFERS_MAX, KEEP_OFFERS_PER_SESSION_MAX, KEEP_RETRY_MS, REQUEST_MS_MAX,
};
use crate::wire::keep::{Answer, Offer};
use guests::{Allowance, Guest, Guests};

/// The stream operations that keeping needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Say this.
    Answer(PeerId, StreamId, Answer),
    /// Say *go on*, and hand what comes to [`Keep::body`]; the stream brings so many bytes in all.
    Accept(PeerId, StreamId, u64),
    /// Then nothing more; what still comes is not wanted.
    End(PeerId, StreamId),
    /// Give it up in both directions: it did not come in time, or too much came.
    Abandon(PeerId, StreamId),
}

/// Totals since the start, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Chunks kept.
    pub kept: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Offers of what was here already.
    pub here: u64,
    /// Offers told to come again later.
    pub busy: u64,
    /// Offers refused.
    pub refused: u64,
    /// Chunks that were not what their offer said.
    pub wrong: u64,
    /// Requests that did not come in time, or brought too much.
    pub late: u64,
    /// Requests that were none.
    pub malformed: u64,
}

/// An offer that is not whole.
struct Asking {
    guest: Guest,
    until: Time,
    text: Vec<u8>,
}

enum State {
    /// It was accepted, and is to be whole by then.
    Coming(Box<Incoming>, Time),
    /// The store has it.
    Storing(u64),
}

/// A chunk that was accepted.
struct Body {
    guest: Guest,
    offer: Offer,
    state: State,
    /// More came than was offered.
    is_over: bool,
}

/// What the store was given and has not answered.
struct Storing {
    at: Option<(PeerId, StreamId)>,
    guest: Guest,
    chunk: ChunkId,
    len: u32,
}

/// All keeping of one shard.
#[derive(Default)]
pub struct Keep {
    /// What guests may give; `None`: nothing is kept for anybody.
    allowed: Option<Allowance>,
    /// Nothing more is taken for now.
    paused: bool,
    shards: u8,
    asking: BTreeMap<(PeerId, StreamId), Asking>,
    /// Chunks in memory; at most [`KEEP_BODIES_MAX`], with those of `storing` whose giver is gone.
    bodies: BTreeMap<(PeerId, StreamId), Body>,
    deadlines: BTreeSet<(Time, PeerId, StreamId)>,
    /// Requests whose chunk is whole or broke a bound since they were last looked at.
    news: Vec<(PeerId, StreamId)>,
    guests: Guests,
    stores: VecDeque<(u64, NewChunk)>,
    storing: BTreeMap<u64, Storing>,
    next: u64,
    kept: VecDeque<ChunkId>,
    counters: Counters,
}

impl Keep {
    /// Keeps chunks in a cache of so many bytes from now on, for `None` none. `shards`: those that share the node's bounds.
    pub fn allow(&mut self, cache_bytes: Option<u64>, shards: u8) {
        self.shards = shards.max(1);
        self.allowed = cache_bytes.filter(|bytes| *bytes > 0).map(|bytes| Allowance::new(bytes, shards));
    }

    /// Whether anything is kept for anybody.
    pub fn is_on(&self) -> bool {
        self.allowed.is_some() && !self.paused
    }

    /// Takes nothing more for now, or does again. What is coming is kept.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Chunks in memory: coming, or being stored.
    pub fn bodies(&self) -> usize {
        self.bodies.len() + self.orphans()
    }

    /// What is being stored for those who have gone.
    fn orphans(&self) -> usize {
        self.storing.values().filter(|one| one.at.is_none()).count()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// Gives up what did not come in time.
    pub fn handle_timeout(&mut self, now: Time, acts: &mut Vec<Act>) {
        while let Some(&(at, peer, stream)) = self.deadlines.first()
            && at <= now
        {
            self.forget(peer, stream);
            self.counters.late += 1;
            acts.push(Act::Abandon(peer, stream));
        }
    }

    /// A peer opened a stream on the channel. `guest`: on whose account; `None` while its address is not proven.
    pub fn opened(
        &mut self,
        now: Time,
        peer: PeerId,
        stream: StreamId,
        guest: Option<Guest>,
        acts: &mut Vec<Act>,
    ) {
        let open = of_session(&self.asking, peer).count() + of_session(&self.bodies, peer).count();
        let room = open < KEEP_OFFERS_PER_SESSION_MAX && self.asking.len() < KEEP_OFFERS_MAX;
        match guest {
            _ if !self.is_on() => self.refuse(peer, stream, Answer::Refused, acts),
            Some(guest) if room => {
                let until = now + Duration::from_millis(REQUEST_MS_MAX);
                self.deadlines.insert((until, peer, stream));
                self.asking.insert((peer, stream), Asking { guest, until, text: Vec::new() });
            }
            _ => self.refuse(peer, stream, Answer::Busy(KEEP_RETRY_MS), acts),
        }
    }

    /// Bytes of an offer, in order.
    pub fn offer(
        &mut self,
        now: Time,
        (peer, stream): (PeerId, StreamId),
        bytes: &[u8],
        finished: bool,
        store: &mut impl ChunkRead,
        acts: &mut Vec<Act>,
    ) {
        let Some(Asking { guest, text, .. }) = self.asking.get_mut(&(peer, stream)) else { return };
        let guest = *guest;
        let room = (Offer::LEN + 1).saturating_sub(text.len());
        text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match Offer::parse(text) {
            Ok(None) if !finished => {}
            Ok(Some(offer)) if !finished => {
                let answer = self.judge(now, peer, guest, &offer, store);
                if answer == Answer::GoOn {
                    self.accept(now, (peer, stream), guest, offer, acts);
                } else {
                    self.refuse(peer, stream, answer, acts);
                }
            }
            // An offer whose stream ends is none: there is nothing behind it.
            Ok(_) | Err(_) => self.refuse(peer, stream, Answer::Bad, acts),
        }
    }

    fn judge(
        &mut self,
        now: Time,
        peer: PeerId,
        guest: Guest,
        offer: &Offer,
        store: &mut impl ChunkRead,
    ) -> Answer {
        let Some(allowed) = self.allowed else { return Answer::Refused };
        if let Some(stored) = store.peek(&offer.chunk) {
            // A second chunk of the same address would be an attack on SHA-1.
            return if stored.root == offer.root { Answer::Here } else { Answer::Refused };
        }
        let comes = self.bodies.values().any(|body| body.offer.chunk == offer.chunk)
            || self.storing.values().any(|one| one.chunk == offer.chunk);
        if comes || !self.has_room(peer, guest) || !self.guests.take(guest, offer.len, &allowed, now) {
            return Answer::Busy(KEEP_RETRY_MS);
        }
        Answer::GoOn
    }

    /// Whether there is memory for another chunk.
    fn has_room(&self, peer: PeerId, guest: Guest) -> bool {
        let part = |all: usize| (all / usize::from(self.shards.max(1))).max(2);
        let strangers = self.bodies.values().filter(|body| body.guest.is_stranger()).count();
        let own = self.bodies.values().filter(|body| body.guest == guest).count();
        let orphans = self.orphans();
        of_session(&self.bodies, peer).count() < KEEP_BODIES_PER_SESSION_MAX
            && own < KEEP_BODIES_PER_GUEST_MAX
            && self.bodies.len() + orphans < part(KEEP_BODIES_MAX)
            && (!guest.is_stranger() || strangers + orphans < part(KEEP_BODIES_STRANGERS))
    }

    fn accept(
        &mut self,
        now: Time,
        (peer, stream): (PeerId, StreamId),
        guest: Guest,
        offer: Offer,
        acts: &mut Vec<Act>,
    ) {
        self.forget(peer, stream);
        let until = now + Duration::from_millis(KEEP_BODY_MS_MAX);
        self.deadlines.insert((until, peer, stream));
        let state = State::Coming(Box::new(Incoming::new(offer.len)), until);
        self.bodies.insert((peer, stream), Body { guest, offer, state, is_over: false });
        acts.push(Act::Accept(peer, stream, offer.total()));
    }

    /// Whether what comes on a stream is for [`Self::body`].
    pub fn takes(&self, peer: PeerId, stream: StreamId) -> bool {
        !self.bodies.is_empty() && self.bodies.contains_key(&(peer, stream))
    }

    /// Bytes of a chunk, in any order, `offset` counted from the stream's begin. Call [`Self::look`] then.
    pub fn body(&mut self, peer: PeerId, stream: StreamId, offset: u64, bytes: &[u8]) {
        let Some(body) = self.bodies.get_mut(&(peer, stream)) else { return };
        let at = offset.checked_sub(Offer::LEN as u64);
        let State::Coming(incoming, _) = &mut body.state else {
            // All of it is here; more is too much, and is not taken.
            return;
        };
        body.is_over = body.is_over || !at.is_some_and(|at| incoming.take(at, bytes));
        if body.is_over || incoming.is_whole() {
            self.news.push((peer, stream));
        }
    }

    /// The peer sends nothing more on a stream: what is not whole will not be.
    pub fn finished(&mut self, peer: PeerId, stream: StreamId) {
        if let Some(body) = self.bodies.get_mut(&(peer, stream))
            && matches!(body.state, State::Coming(..))
        {
            self.news.push((peer, stream));
        }
    }

    /// Judges what came since the last call.
    pub fn look(&mut self, acts: &mut Vec<Act>) {
        for (peer, stream) in std::mem::take(&mut self.news) {
            if !self.bodies.get(&(peer, stream)).is_some_and(|body| matches!(body.state, State::Coming(..))) {
                continue;
            }
            let Some(Body { guest, offer, state: State::Coming(incoming, _), is_over }) =
                self.forget(peer, stream)
            else {
                continue;
            };
            let Some(chunk) = incoming.finish().filter(|_| !is_over) else {
                self.counters.late += 1;
                acts.push(Act::Abandon(peer, stream));
                continue;
            };
            if chunk.id != offer.chunk || chunk.root != offer.root {
                self.counters.wrong += 1;
                end(peer, stream, Answer::Wrong, acts);
                continue;
            }
            self.next += 1;
            let storing = Storing { at: Some((peer, stream)), guest, chunk: chunk.id, len: offer.len };
            self.storing.insert(self.next, storing);
            let state = State::Storing(self.next);
            self.bodies.insert((peer, stream), Body { guest, offer, state, is_over });
            self.stores.push_back((self.next, chunk));
        }
    }

    /// A chunk for the store; what came of it is [`Self::stored`], with its number.
    pub fn poll_store(&mut self) -> Option<(u64, NewChunk)> {
        self.stores.pop_front()
    }

    /// A chunk that is kept since the last call: to be provided.
    pub fn poll_kept(&mut self) -> Option<ChunkId> {
        self.kept.pop_front()
    }

    /// The store has done what it was asked for.
    pub fn stored(&mut self, now: Time, number: u64, kept: Kept, acts: &mut Vec<Act>) {
        let Some(Storing { at, guest, chunk, len }) = self.storing.remove(&number) else { return };
        if kept == Kept::Done {
            self.counters.kept += 1;
            self.counters.bytes += u64::from(len);
            self.kept.push_back(chunk);
            if let Some(allowed) = &self.allowed {
                self.guests.came(guest, len, allowed, now);
            }
        }
        let Some((peer, stream)) = at else { return };
        self.bodies.remove(&(peer, stream));
        match kept {
            Kept::Done => end(peer, stream, Answer::Kept, acts),
            Kept::Busy => self.refuse(peer, stream, Answer::Busy(KEEP_RETRY_MS), acts),
            Kept::Failed => self.refuse(peer, stream, Answer::Refused, acts),
        }
    }

    fn forget(&mut self, peer: PeerId, stream: StreamId) -> Option<Body> {
        if let Some(asking) = self.asking.remove(&(peer, stream)) {
            self.deadlines.remove(&(asking.until, peer, stream));
        }
        let body = self.bodies.remove(&(peer, stream))?;
        match body.state {
            State::Coming(_, until) => _ = self.deadlines.remove(&(until, peer, stream)),
            // It is kept all the same; there is nobody to tell.
            State::Storing(number) => {
                self.storing.get_mut(&number).into_iter().for_each(|storing| storing.at = None);
            }
        }
        Some(body)
    }

    /// The stream was reset or stopped by the peer.
    pub fn ended(&mut self, peer: PeerId, stream: StreamId) {
        self.forget(peer, stream);
    }

    /// The peer is gone.
    pub fn peer_down(&mut self, peer: PeerId) {
        let asking = of_session(&self.asking, peer).map(|(at, _)| *at);
        let own: Vec<_> = asking.chain(of_session(&self.bodies, peer).map(|(at, _)| *at)).collect();
        for (peer, stream) in own {
            self.forget(peer, stream);
        }
    }

    fn refuse(&mut self, peer: PeerId, stream: StreamId, answer: Answer, acts: &mut Vec<Act>) {
        self.forget(peer, stream);
        let counters = &mut self.counters;
        *match answer {
            Answer::Here => &mut counters.here,
            Answer::Busy(_) => &mut counters.busy,
            Answer::Bad => &mut counters.malformed,
            _ => &mut counters.refused,
        } += 1;
        end(peer, stream, answer, acts);
    }
}

fn of_session<T>(
    all: &BTreeMap<(PeerId, StreamId), T>,
    peer: PeerId,
) -> impl Iterator<Item = (&(PeerId, StreamId), &T)> {
    all.range((peer, StreamId(0))..=(peer, StreamId(u64::MAX)))
}

fn end(peer: PeerId, stream: StreamId, answer: Answer, acts: &mut Vec<Act>) {
    acts.push(Act::Answer(peer, stream, answer));
    acts.push(Act::End(peer, stream));
}

#[cfg(test)]
mod tests;

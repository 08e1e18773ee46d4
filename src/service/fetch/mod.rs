//! Getting slices of chunks from peers: who is asked for what, checking, and asking another.
//!
//! A caller [`Fetch::want`]s slices of a chunk. The fetch asks peers that may have it, several at once,
//! keeps no more in flight than it holds slice buffers for, checks each slice against the chunk's root,
//! and hands it out as [`Event::Slice`]. A peer that serves a wrong slice is named in
//! [`Event::Liar`] and asked for nothing any more.
//!
//! Drain in this order after every call: [`Fetch::poll_event`] until `None`, then
//! [`Fetch::poll_request`] until `None`.

mod bound;
mod others;
mod peer;
mod roster;
mod transfer;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::PeerId;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, SlicePool, StreamId, Time};
use crate::chunk::slices::SliceList;
use crate::limits::{CHUNK_SLICES_MAX, FETCH_STALL_MS};
use crate::wire::chunkmsg::{SliceRequest, Status};
use roster::Roster;
use transfer::Transfer;

pub use types::{Counters, Event, Target};

/// A request to send: open a stream on the chunk channel to `peer`, write `request`, finish, and tell
/// [`Fetch::started`].
pub struct Outgoing {
    /// Whom to ask.
    pub peer: PeerId,
    /// What to ask.
    pub request: SliceRequest,
    /// Length of the whole answer, bytes: the stream's receive window.
    pub reply_len: u64,
    transfer: Transfer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SliceState {
    Unwanted,
    Missing,
    Asked,
}

struct Chunk {
    target: Target,
    order: u64,
    list: Option<SliceList>,
    slices: [SliceState; CHUNK_SLICES_MAX],
    /// The jobs that wanted it.
    jobs: BTreeSet<JobId>,
    /// Peers that said they do not have it, and sources of other jobs: none that lied, and none that is gone.
    without: BTreeSet<PeerId>,
    /// When it is given up, once nobody who is there had it.
    given_up_at: Option<Time>,
}

impl Chunk {
    fn count(&self, state: SliceState) -> usize {
        self.slices.iter().filter(|s| **s == state).count()
    }
}

/// All fetching of one shard.
pub struct Fetch {
    pool: SlicePool,
    /// By all that a locator says: a hostile one may give a chunk's id a root or a length of its own, which
    /// must not come between the chunk and those who want it.
    chunks: BTreeMap<Target, Chunk>,
    /// Chunks that have missing slices, oldest want first.
    open: BTreeSet<(u64, Target)>,
    peers: Roster,
    /// Peers that may be asked only for what these jobs want; none that lied.
    sources: BTreeMap<PeerId, BTreeSet<JobId>>,
    /// Until when others are waited for that may have what the peers do not have.
    others_until: Option<Time>,
    /// Chunks that no peer has and that wait for others, by the time at which they are given up.
    hopeless: BTreeSet<(Time, Target)>,
    /// A chunk began to wait for others.
    short: bool,
    /// Peers came or went since it was last looked at what nobody has.
    changed: bool,
    transfers: BTreeMap<(PeerId, StreamId), Transfer>,
    events: VecDeque<Event>,
    /// Slices that one request asks for at most.
    slices_per_request: usize,
    next_order: u64,
    next_check: Option<Time>,
    counters: Counters,
}

impl Fetch {
    /// A fetch that leases its buffers from `pool`.
    pub fn new(pool: SlicePool) -> Self {
        Self {
            pool,
            chunks: BTreeMap::new(),
            open: BTreeSet::new(),
            peers: Roster::default(),
            sources: BTreeMap::new(),
            others_until: None,
            hopeless: BTreeSet::new(),
            short: false,
            changed: false,
            transfers: BTreeMap::new(),
            events: VecDeque::new(),
            slices_per_request: CHUNK_SLICES_MAX,
            next_order: 0,
            next_check: None,
            counters: Counters::default(),
        }
    }

    /// Forgets what was wanted of a chunk and stops what is under way.
    pub fn forget(&mut self, id: &Target) {
        if !self.remove(id) {
            return;
        }
        let doomed: Vec<_> =
            self.transfers.iter().filter(|(_, t)| t.chunk() == *id).map(|(key, _)| *key).collect();
        for key in doomed {
            self.end_transfer(key);
            self.events.push_back(Event::Stop { peer: key.0, stream: key.1 });
        }
    }

    fn remove(&mut self, id: &Target) -> bool {
        let Some(chunk) = self.chunks.remove(id) else { return false };
        self.open.remove(&(chunk.order, *id));
        if let Some(at) = chunk.given_up_at {
            self.hopeless.remove(&(at, *id));
        }
        true
    }

    /// A peer can be asked from now on, for everything.
    pub fn peer_up(&mut self, now: Time, peer: PeerId) {
        if self.sources.remove(&peer).is_some() {
            self.no_longer_without(peer);
        }
        self.peer_counts(now, peer);
    }

    fn peer_counts(&mut self, now: Time, peer: PeerId) {
        self.peers.add(peer);
        self.peers.update(peer, |state| {
            state.measured_at = now;
            state.held = false;
        });
        // It may have them. What it has not waits no longer than it would have.
        self.hopeless.clear();
        self.changed = true;
    }

    /// A peer is gone; what it was asked for is asked of others.
    pub fn peer_down(&mut self, peer: PeerId) {
        self.peers.remove(peer);
        self.sources.remove(&peer);
        self.changed = true;
        let keys: Vec<_> = self.streams_of(peer).map(|stream| (peer, stream)).collect();
        for key in keys {
            self.end_transfer(key);
        }
        self.no_longer_without(peer);
    }

    /// What is said of chunks is said by those who are there and have not lied.
    fn no_longer_without(&mut self, peer: PeerId) {
        for chunk in self.chunks.values_mut() {
            chunk.without.remove(&peer);
        }
    }

    /// No request asks for more slices than this: a caller that limits what comes does not want a burst of it.
    pub fn set_slices_per_request(&mut self, slices: usize) {
        self.slices_per_request = slices.clamp(1, CHUNK_SLICES_MAX);
    }

    /// A peer is asked for nothing more before `until`, or from now on again.
    pub fn pause(&mut self, peer: PeerId, until: Option<Time>) {
        self.peers.update(peer, |state| state.busy_until = until);
        if let Some(until) = until {
            self.next_check = Some(self.next_check.map_or(until, |at| at.min(until)));
        }
    }

    /// A peer that is not connected yet: what was asked went with the first flight, and nothing more is asked
    /// until [`Self::peer_up`] is called again.
    pub fn hold(&mut self, peer: PeerId) {
        self.peers.update(peer, |state| state.held = true);
    }

    /// The streams on which a peer was asked.
    pub fn streams_of(&self, peer: PeerId) -> impl Iterator<Item = StreamId> {
        self.transfers.range((peer, StreamId(0))..=(peer, StreamId(u64::MAX))).map(|((_, stream), _)| *stream)
    }

    /// Whether slices are wanted that nobody was asked for.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether something of a chunk is wanted.
    pub fn wants(&self, id: &ChunkId) -> bool {
        self.named(id).next().is_some()
    }

    /// What is wanted of a chunk, under whatever root and length.
    fn named(&self, id: &ChunkId) -> impl Iterator<Item = (&Target, &Chunk)> {
        let (id, first) = (*id, Target { id: *id, root: [0; 32], len: 0 });
        self.chunks.range(first..).take_while(move |(target, _)| target.id == id)
    }

    /// Whether nothing is wanted.
    pub fn is_idle(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many peers can be asked.
    pub fn peers(&self) -> usize {
        self.peers.askable()
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many more slices could be asked for now, were there peers: the caller's hint for how much to
    /// want ahead.
    pub fn slack(&self) -> usize {
        self.pool.available()
    }

    /// The next request to send, if a peer has room and a buffer is free.
    pub fn poll_request(&mut self, now: Time) -> Option<Outgoing> {
        self.peers.wake(now);
        if !self.peers.has_ready() {
            return None;
        }
        let mut room = usize::MAX;
        // The oldest wanted chunk that somebody with room may have, from the least busy such peer.
        for &(order, id) in &self.open {
            let chunk = self.chunks.get(&id)?;
            let sharers = self.peers.honest().saturating_sub(chunk.without.len());
            // With several sources a chunk is split between them.
            let share =
                if sharers > 1 { CHUNK_SLICES_MAX.div_ceil(2 * sharers).max(2) } else { CHUNK_SLICES_MAX };
            let mut share = share.min(chunk.count(SliceState::Missing)).min(self.slices_per_request);
            if self.pool.available() < share {
                // Wait for buffers rather than ask slice by slice, if any are on their way back.
                if !self.transfers.is_empty() {
                    return None;
                }
                share = self.pool.available();
            }
            if share > room {
                continue;
            }
            match self.peers.pick(share, &chunk.without) {
                Some(peer) => return self.request(now, peer, id, order, share),
                // The one peer there is may have the oldest chunk, and has no room for it: nothing overtakes that one.
                None if sharers == 1 && self.peers.honest() == 1 => return None,
                // Looked at once: with many chunks wanted and all peers nearly full, most need no search.
                None if room == usize::MAX => room = self.peers.most_room(),
                None => {}
            }
        }
        None
    }

    fn request(&mut self, now: Time, peer: PeerId, id: Target, order: u64, share: usize) -> Option<Outgoing> {
        let chunk = self.chunks.get_mut(&id)?;
        let mut mask = 0u16;
        let mut buffers = Vec::new();
        for index in 0..chunk.target.slices() as usize {
            if buffers.len() >= share {
                break;
            }
            if chunk.slices[index] == SliceState::Missing {
                let Some(buffer) = self.pool.lease() else { break };
                buffers.push((index as u32, buffer));
                mask |= 1 << index;
            }
        }
        if buffers.is_empty() {
            return None;
        }
        for (index, _) in &buffers {
            chunk.slices[*index as usize] = SliceState::Asked;
        }
        self.peers.update(peer, |state| {
            state.outstanding += buffers.len();
            state.streams += 1;
        });
        if chunk.count(SliceState::Missing) == 0 {
            self.open.remove(&(order, id));
        }
        let request = SliceRequest { chunk: id.id, list: chunk.list.is_none(), mask };
        let transfer = Transfer::new(now, chunk.target, &request, buffers);
        self.counters.requests += 1;
        self.next_check.get_or_insert(now + Duration::from_millis(FETCH_STALL_MS));
        Some(Outgoing { peer, request, reply_len: transfer.reply_len(), transfer })
    }

    /// The request went out on `stream`.
    pub fn started(&mut self, outgoing: Outgoing, stream: StreamId) {
        self.transfers.insert((outgoing.peer, stream), outgoing.transfer);
    }

    /// The request could not be sent, since the peer gives no stream now: its slices are missing again, and
    /// the peer is asked for nothing before [`Self::more_streams`].
    pub fn no_stream(&mut self, outgoing: Outgoing) {
        self.peers.update(outgoing.peer, |state| state.stuck = true);
        self.release(outgoing.peer, outgoing.transfer);
    }

    /// Bytes of an answer, each exactly once, in any order.
    pub fn data(&mut self, now: Time, peer: PeerId, stream: StreamId, offset: u64, bytes: &[u8]) {
        let Some(transfer) = self.transfers.get_mut(&(peer, stream)) else { return };
        transfer.data(now, offset, bytes);
        self.peers.took(peer, now, bytes.len() as u64);
        if transfer.wants_attention() {
            self.advance(peer, stream);
        }
    }

    /// The answer's stream is complete (all its bytes were handed in) or was reset.
    pub fn finished(&mut self, peer: PeerId, stream: StreamId) {
        self.advance(peer, stream);
        // Whoever ends an answer early would do so again.
        if let Some(transfer) = self.transfers.get(&(peer, stream)) {
            let (id, cut) = (transfer.chunk(), transfer.is_unfinished());
            self.end_transfer((peer, stream));
            if cut {
                self.has_not(peer, id);
            }
        }
    }

    /// A peer gives streams again.
    pub fn more_streams(&mut self, peer: PeerId) {
        self.peers.update(peer, |state| state.stuck = false);
    }

    /// Checks what has become complete in one transfer.
    fn advance(&mut self, peer: PeerId, stream: StreamId) {
        let Some(transfer) = self.transfers.get_mut(&(peer, stream)) else { return };
        let id = transfer.chunk();
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        match transfer.status() {
            None => return,
            Some(Ok(Status::Ok)) => {}
            Some(Ok(Status::Busy)) => {
                let until = transfer.last_progress() + transfer.retry_after();
                self.peers.update(peer, |state| state.busy_until = Some(until));
                self.next_check = Some(self.next_check.map_or(until, |at| at.min(until)));
                return self.end_transfer((peer, stream));
            }
            Some(Ok(_)) => {
                self.end_transfer((peer, stream));
                return self.has_not(peer, id);
            }
            Some(Err(_)) => return self.caught_lying(peer, id),
        }
        if transfer.is_of_another_chunk() {
            return self.contradicted(peer, stream, id);
        }
        if chunk.list.is_none() {
            let Some(bytes) = transfer.take_list() else { return };
            match SliceList::parse(chunk.target.len, &bytes, &chunk.target.root) {
                Ok(list) => chunk.list = Some(list),
                Err(_) => return self.contradicted(peer, stream, id),
            }
        }
        let Some(list) = &chunk.list else { return };
        while let Some((index, data)) = transfer.take_slice() {
            let len = chunk.target.slice_len(index);
            if list.verify(index, &data[..len]).is_err() {
                transfer.put_back(index, data);
                return self.caught_lying(peer, id);
            }
            chunk.slices[index as usize] = SliceState::Unwanted;
            self.peers.update(peer, |state| {
                state.outstanding = state.outstanding.saturating_sub(1);
                state.misses = 0;
            });
            self.counters.slices += 1;
            self.counters.bytes += len as u64;
            self.events.push_back(Event::Slice { target: id, index, data, len, from: peer });
        }
        if chunk.slices.iter().all(|s| *s == SliceState::Unwanted) {
            self.remove(&id);
        }
    }

    /// A peer's chunk of that id has another length or another root. Either the peer lies or the locator does,
    /// and a hostile reference must not cost a friend: the peer just does not have what is wanted.
    fn contradicted(&mut self, peer: PeerId, stream: StreamId, id: Target) {
        self.end_transfer((peer, stream));
        self.events.push_back(Event::Stop { peer, stream });
        self.has_not(peer, id);
    }

    /// A peer does not have a chunk, or does not give it.
    fn has_not(&mut self, peer: PeerId, id: Target) {
        self.counters.not_found += 1;
        self.peers.update(peer, |state| state.misses += 1);
        if self.peers.is_honest(peer)
            && let Some(chunk) = self.chunks.get_mut(&id)
        {
            chunk.without.insert(peer);
        }
        self.give_up_if_nobody_has(id);
    }

    fn caught_lying(&mut self, peer: PeerId, chunk: Target) {
        self.counters.liars += 1;
        self.peers.update(peer, |state| state.lied = true);
        self.sources.remove(&peer);
        self.no_longer_without(peer);
        self.events.push_back(Event::Liar { peer, chunk: chunk.id });
        let keys: Vec<_> = self.streams_of(peer).map(|stream| (peer, stream)).collect();
        for key in keys {
            self.end_transfer(key);
        }
        self.give_up_what_nobody_has();
    }

    /// Ends a transfer; slices that did not arrive are missing again.
    fn end_transfer(&mut self, key: (PeerId, StreamId)) {
        if let Some(transfer) = self.transfers.remove(&key) {
            self.release(key.0, transfer);
        }
    }

    fn release(&mut self, peer: PeerId, transfer: Transfer) {
        let id = transfer.chunk();
        let left = transfer.into_unfinished();
        self.peers.update(peer, |state| {
            state.outstanding = state.outstanding.saturating_sub(left.len());
            state.streams = state.streams.saturating_sub(1);
        });
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        for index in left {
            if chunk.slices[index as usize] == SliceState::Asked {
                chunk.slices[index as usize] = SliceState::Missing;
            }
        }
        if chunk.count(SliceState::Missing) > 0 {
            self.open.insert((chunk.order, id));
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.next_check
    }

    /// Gives up on requests that bring nothing; their slices are asked of others (or again).
    pub fn handle_timeout(&mut self, now: Time) {
        if self.next_check.is_none_or(|at| at > now) {
            return;
        }
        let stalled: Vec<_> =
            self.transfers.iter().filter(|(_, t)| t.stalls_at() <= now).map(|(key, _)| *key).collect();
        for key in stalled {
            self.counters.stalled += 1;
            self.peers.update(key.0, |state| state.misses += 1);
            self.end_transfer(key);
            self.events.push_back(Event::Stop { peer: key.0, stream: key.1 });
        }
        self.give_up_overdue(now);
        self.peers.wake(now);
        let others = [self.peers.wakes_at(), self.hopeless.first().map(|(at, _)| *at)];
        let stalls = self.transfers.values().map(Transfer::stalls_at);
        self.next_check = stalls.chain(others.into_iter().flatten()).min();
    }
}

#[cfg(test)]
mod tests;

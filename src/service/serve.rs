//! Answering chunk requests: finds the chunk, writes the head and the slice list, and names the slices
//! as sources that the stream reads from the store when it makes packets. Slices that are not resident
//! are faulted in elsewhere first, in order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PeerId;
use crate::base::{ChunkRead, ReadFault, StreamId, Time};
use crate::limits::{
    BUSY_RETRY_MS, CHUNK_SLICES_MAX, REQUEST_MS_MAX, REQUESTS_PER_SESSION_MAX, REQUESTS_PER_STRANGER_MAX,
    SLICE_SIZE, STRANGER_COLD_MAX, STRANGER_REQUESTS_MAX,
};
use crate::wire::chunkmsg::{ReplyHead, SliceRequest, Status, mask_of};

/// Where the bytes of a served slice are read: the chunk's handle and the slice, in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSource(pub u64);

impl SliceSource {
    fn new(handle: u64, slice: u32) -> Self {
        Self(handle * CHUNK_SLICES_MAX as u64 + u64::from(slice))
    }

    /// Copies bytes from `offset` of the slice.
    pub fn read(self, store: &mut impl ChunkRead, offset: u64, into: &mut [u8]) -> Result<(), ReadFault> {
        let (handle, slice) = (self.0 / CHUNK_SLICES_MAX as u64, self.0 % CHUNK_SLICES_MAX as u64);
        let offset = slice * SLICE_SIZE as u64 + offset;
        store.read(handle, u32::try_from(offset).map_err(|_| ReadFault::Gone)?, into)
    }
}

/// The stream operations that serving needs; the node applies them to the peer's connection.
#[derive(Debug)]
pub enum Act {
    /// Send these bytes.
    Write(PeerId, StreamId, Vec<u8>),
    /// Then the bytes of a slice.
    Attach(PeerId, StreamId, SliceSource, u64),
    /// Then nothing more.
    Finish(PeerId, StreamId),
    /// Give the stream up.
    Reset(PeerId, StreamId),
    /// Give it up in both directions: the request did not come in time.
    Abandon(PeerId, StreamId),
}

/// Totals since the start, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Requests answered with data (or with "have it").
    pub served: u64,
    /// Slices named as sources.
    pub slices: u64,
    /// Ciphertext bytes in them.
    pub bytes: u64,
    /// Requests for chunks that are not here.
    pub not_found: u64,
    /// Requests turned away because the peer, or strangers in all, have too many open.
    pub busy: u64,
    /// Requests of strangers where they are not served.
    pub refused: u64,
    /// Requests of strangers taken.
    pub strangers: u64,
    /// Requests that were no requests.
    pub malformed: u64,
    /// Requests that met damaged or unreadable storage.
    pub damaged: u64,
    /// Slices that had to be faulted in first.
    pub cold: u64,
    /// Requests that did not come in time.
    pub late: u64,
}

enum State {
    /// The request's bytes so far, and when all of them must be here.
    Asking(Vec<u8>, Time),
    /// Slices still to be named, ascending.
    Sending { handle: u64, chunk_len: u32, rest: u16, wait: Option<Wait> },
}

/// What keeps a request from going on.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// This slice of its chunk is being faulted in.
    Slice(u32),
    /// Too many slices are: its place among those that wait for room, strangers behind all friends.
    Room((bool, u64)),
}

/// All serving of one shard.
#[derive(Default)]
pub struct Serve {
    requests: BTreeMap<(PeerId, StreamId), State>,
    /// Requests that wait for a slice to become resident.
    cold: BTreeMap<(u64, u32), BTreeSet<(PeerId, StreamId)>>,
    /// Requests whose slice is not even being faulted in, since too many are: friends first, then first come, first
    /// served. While there are any, slices are on their way, and each that arrives calls them.
    starved: BTreeMap<(bool, u64), (PeerId, StreamId)>,
    /// Slices that are being faulted in for strangers; at most [`STRANGER_COLD_MAX`].
    cold_of_strangers: BTreeSet<(u64, u32)>,
    next_ticket: u64,
    /// Requests under way of each peer that is no friend.
    strangers: BTreeMap<PeerId, BTreeSet<StreamId>>,
    /// How many those are.
    stranger_requests: usize,
    /// Whether they are served at all.
    refuses_strangers: bool,
    /// One entry per request that is not whole.
    deadlines: BTreeSet<(Time, PeerId, StreamId)>,
    counters: Counters,
}

impl Serve {
    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// Gives up requests that did not come in time: each holds a place that the peer could use well.
    pub fn handle_timeout(&mut self, now: Time, acts: &mut Vec<Act>) {
        while let Some(&(at, peer, stream)) = self.deadlines.first()
            && at <= now
        {
            self.forget(peer, stream);
            self.counters.late += 1;
            acts.push(Act::Abandon(peer, stream));
        }
    }

    fn forget(&mut self, peer: PeerId, stream: StreamId) {
        self.count_out(peer, stream);
        match self.requests.remove(&(peer, stream)) {
            Some(State::Asking(_, until)) => {
                self.deadlines.remove(&(until, peer, stream));
            }
            Some(State::Sending { wait: Some(Wait::Room(ticket)), .. }) => {
                self.starved.remove(&ticket);
            }
            Some(State::Sending { handle, wait: Some(Wait::Slice(slice)), .. }) => {
                if let Entry::Occupied(mut waiting) = self.cold.entry((handle, slice)) {
                    waiting.get_mut().remove(&(peer, stream));
                    if waiting.get().is_empty() {
                        waiting.remove();
                    }
                }
            }
            Some(State::Sending { wait: None, .. }) | None => {}
        }
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Requests under way.
    pub fn active(&self) -> usize {
        self.requests.len()
    }

    /// Whether peers that are no friends are served from now on. What is under way goes on.
    pub fn serve_strangers(&mut self, serve: bool) {
        self.refuses_strangers = !serve;
    }

    /// A peer opened a stream on the chunk channel.
    pub fn opened(&mut self, now: Time, peer: PeerId, stream: StreamId, stranger: bool, acts: &mut Vec<Act>) {
        if stranger && self.refuses_strangers {
            self.counters.refused += 1;
            answer(peer, stream, Status::Refused, acts);
            return;
        }
        let open = self.requests.range((peer, StreamId(0))..=(peer, StreamId(u64::MAX))).count();
        let most = if stranger { REQUESTS_PER_STRANGER_MAX } else { REQUESTS_PER_SESSION_MAX };
        if open >= most || (stranger && self.stranger_requests >= STRANGER_REQUESTS_MAX) {
            self.counters.busy += 1;
            answer(peer, stream, Status::Busy, acts);
            return;
        }
        if stranger {
            self.counters.strangers += 1;
            self.stranger_requests += 1;
            self.strangers.entry(peer).or_default().insert(stream);
        }
        let until = now + Duration::from_millis(REQUEST_MS_MAX);
        self.deadlines.insert((until, peer, stream));
        self.requests.insert((peer, stream), State::Asking(Vec::with_capacity(SliceRequest::LEN), until));
    }

    /// Bytes of a request, in order.
    pub fn data(
        &mut self,
        peer: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
        store: &mut impl ChunkRead,
        acts: &mut Vec<Act>,
    ) {
        let Some(State::Asking(text, _)) = self.requests.get_mut(&(peer, stream)) else { return };
        let room = (SliceRequest::LEN + 1).saturating_sub(text.len());
        text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match SliceRequest::parse(text) {
            Ok(None) if !finished => {}
            Ok(Some(request)) => self.answer(peer, stream, &request, store, acts),
            Ok(None) | Err(_) => {
                self.counters.malformed += 1;
                self.refuse(peer, stream, Status::BadRequest, acts);
            }
        }
    }

    fn answer(
        &mut self,
        peer: PeerId,
        stream: StreamId,
        request: &SliceRequest,
        store: &mut impl ChunkRead,
        acts: &mut Vec<Act>,
    ) {
        let Some(chunk) = store.find(&request.chunk) else {
            self.counters.not_found += 1;
            return self.refuse(peer, stream, Status::NotFound, acts);
        };
        if request.mask & !mask_of(chunk.len) != 0 {
            self.counters.malformed += 1;
            return self.refuse(peer, stream, Status::BadRequest, acts);
        }
        let (list, mask) = (request.list, request.mask);
        let head = ReplyHead { status: Status::Ok, list, mask, chunk_len: chunk.len, retry_ms: 0 };
        let mut bytes = head.emit().to_vec();
        if request.list && store.slice_list(chunk.handle, &mut bytes).is_err() {
            self.counters.damaged += 1;
            return self.refuse(peer, stream, Status::Damaged, acts);
        }
        self.counters.served += 1;
        acts.push(Act::Write(peer, stream, bytes));
        let state =
            State::Sending { handle: chunk.handle, chunk_len: chunk.len, rest: request.mask, wait: None };
        self.end_asking(peer, stream);
        self.requests.insert((peer, stream), state);
        self.go_on(peer, stream, store, acts);
    }

    /// Names slices as sources as far as they are resident.
    fn go_on(&mut self, peer: PeerId, stream: StreamId, store: &mut impl ChunkRead, acts: &mut Vec<Act>) {
        let stranger = self.strangers.get(&peer).is_some_and(|own| own.contains(&stream));
        let Some(State::Sending { handle, chunk_len, rest, wait }) = self.requests.get_mut(&(peer, stream))
        else {
            return;
        };
        while *rest != 0 {
            let slice = rest.trailing_zeros();
            // Slices of strangers are on their way then, and the next that arrives calls this request.
            let too_many = stranger && self.cold_of_strangers.len() >= STRANGER_COLD_MAX;
            match if too_many { Err(ReadFault::Busy) } else { store.warm(*handle, slice) } {
                Ok(true) => {
                    let len = (*chunk_len as usize - slice as usize * SLICE_SIZE).min(SLICE_SIZE) as u64;
                    acts.push(Act::Attach(peer, stream, SliceSource::new(*handle, slice), len));
                    self.counters.slices += 1;
                    self.counters.bytes += len;
                    *rest &= *rest - 1;
                }
                Ok(false) => {
                    self.counters.cold += 1;
                    // The others are asked for as well, so that the disk reads them side by side: in a store that
                    // has been full for long they lie apart. What is wrong with one is met in its turn.
                    // Strangers have what is needed, one by one.
                    let mut later = if stranger { 0 } else { *rest & (*rest - 1) };
                    while later != 0 {
                        store.prefetch(*handle, later.trailing_zeros());
                        later &= later - 1;
                    }
                    if stranger {
                        self.cold_of_strangers.insert((*handle, slice));
                    }
                    *wait = Some(Wait::Slice(slice));
                    self.cold.entry((*handle, slice)).or_default().insert((peer, stream));
                    return;
                }
                Err(ReadFault::Busy) => {
                    let ticket = match *wait {
                        Some(Wait::Room(ticket)) => ticket,
                        _ => (stranger, self.next_ticket),
                    };
                    self.next_ticket = self.next_ticket.max(ticket.1 + 1);
                    *wait = Some(Wait::Room(ticket));
                    self.starved.insert(ticket, (peer, stream));
                    return;
                }
                Err(_) => {
                    self.counters.damaged += 1;
                    acts.push(Act::Reset(peer, stream));
                    self.requests.remove(&(peer, stream));
                    self.count_out(peer, stream);
                    return;
                }
            }
        }
        acts.push(Act::Finish(peer, stream));
        self.requests.remove(&(peer, stream));
        self.count_out(peer, stream);
    }

    /// The request is whole.
    fn end_asking(&mut self, peer: PeerId, stream: StreamId) {
        if let Some(State::Asking(_, until)) = self.requests.remove(&(peer, stream)) {
            self.deadlines.remove(&(until, peer, stream));
        }
    }

    /// A request is over; if a stranger's, it makes room.
    fn count_out(&mut self, peer: PeerId, stream: StreamId) {
        let Entry::Occupied(mut own) = self.strangers.entry(peer) else { return };
        self.stranger_requests -= usize::from(own.get_mut().remove(&stream));
        if own.get().is_empty() {
            own.remove();
        }
    }

    /// A slice became resident.
    pub fn warmed(&mut self, handle: u64, slice: u32, store: &mut impl ChunkRead, acts: &mut Vec<Act>) {
        self.cold_of_strangers.remove(&(handle, slice));
        for (peer, stream) in self.cold.remove(&(handle, slice)).unwrap_or_default() {
            self.go_on(peer, stream, store, acts);
        }
        // What arrived left room. Whoever finds none again keeps its place, and so do those behind.
        while let Some((&ticket, &(peer, stream))) = self.starved.first_key_value() {
            self.starved.remove(&ticket);
            self.go_on(peer, stream, store, acts);
            if self.starved.contains_key(&ticket) {
                break;
            }
        }
    }

    /// The stream was reset or stopped by the peer.
    pub fn ended(&mut self, peer: PeerId, stream: StreamId) {
        self.forget(peer, stream);
    }

    /// The peer is gone.
    pub fn peer_down(&mut self, peer: PeerId) {
        let keys: Vec<_> =
            self.requests.range((peer, StreamId(0))..=(peer, StreamId(u64::MAX))).map(|(k, _)| *k).collect();
        for (peer, stream) in keys {
            self.forget(peer, stream);
        }
    }

    fn refuse(&mut self, peer: PeerId, stream: StreamId, status: Status, acts: &mut Vec<Act>) {
        self.forget(peer, stream);
        answer(peer, stream, status, acts);
    }
}

fn answer(peer: PeerId, stream: StreamId, status: Status, acts: &mut Vec<Act>) {
    let retry_ms = if status == Status::Busy { BUSY_RETRY_MS } else { 0 };
    let head = ReplyHead::failed(status, retry_ms);
    acts.push(Act::Write(peer, stream, head.emit().to_vec()));
    acts.push(Act::Finish(peer, stream));
}

#[cfg(test)]
mod tests;

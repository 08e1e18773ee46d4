//! Giving chunks to keepers (docs/protocol/keep.md §4): for each, nodes near its address are looked up, called, and offered
//! it, a few at once, those of different networks first, until enough of them keep it.
//!
//! Drain [`Push::poll_action`] after every call, until it gives nothing; then [`Push::poll_placed`].

mod placing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::PeerId;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, NewChunk, PublicKey, StoredChunk, StreamId, Time};
use crate::limits::{
    PUSH_ANSWER_MS_MAX, PUSH_BYTES_MAX, PUSH_CALL_MS_MAX, PUSH_CHUNK_MS_MAX, PUSH_CHUNKS_MAX, PUSH_COPIES,
    PUSH_KEEPERS_MAX, PUSH_LOOKUPS_OPEN_MAX,
};
use crate::stream::SourceFault;
use crate::wire::keep::{Answer, Offer};
use crate::wire::overlay::Contact;
use placing::{Body, Given, Next, Placing, Standing};

/// Set in the number of a source whose bytes are a chunk's that is given away; none of a stored slice has it.
const GIVEN: u64 = 1 << 63;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look up the nodes near a chunk; tell [`Push::found`].
    Find(ChunkId),
    /// Have a session with a node; tell [`Push::called`].
    Call(Contact),
    /// Open a stream to a peer, write the offer, leave it open, and tell [`Push::offered`].
    Offer {
        /// To whom.
        peer: PeerId,
        /// The chunk's number.
        number: u64,
        /// What to write.
        offer: Offer,
    },
    /// Send the chunk behind its offer, from this source and of this length, and end the stream.
    Send(PeerId, StreamId, u64, u64),
    /// Take an offer back.
    Withdraw(PeerId, StreamId),
}

/// What came of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Whose it was.
    pub job: JobId,
    /// Which.
    pub chunk: ChunkId,
    /// How many nodes say that they keep it.
    pub keepers: u8,
}

/// Totals since the start, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Chunks given to as many as they should be, or as there are.
    pub placed: u64,
    /// Chunks that nobody keeps.
    pub vain: u64,
    /// Offers made.
    pub offers: u64,
    /// Of those, accepted and kept.
    pub kept: u64,
    /// Bytes of chunks sent.
    pub bytes: u64,
}

/// What is known of a node that may keep something.
#[derive(Debug, Clone, Copy)]
enum Link {
    Calling(Time),
    Up(PeerId),
    /// It could not be reached, then.
    Down(Time),
}

/// An offer that was made.
struct Made {
    number: u64,
    key: PublicKey,
    until: Time,
    /// Bytes of the answer that is coming.
    text: Vec<u8>,
    is_sent: bool,
}

/// All giving of one node.
#[derive(Default)]
pub struct Push {
    chunks: BTreeMap<u64, Placing>,
    /// Bytes of all chunks.
    bytes: usize,
    links: BTreeMap<PublicKey, Link>,
    /// Who is not to keep anything, beside this node itself.
    avoided: Option<PublicKey>,
    made: BTreeMap<(PeerId, StreamId), Made>,
    actions: VecDeque<Action>,
    placed: VecDeque<Placed>,
    next: u64,
    counters: Counters,
}

/// For how long a node that could not be reached is not called again.
const AWAY: Duration = Duration::from_millis(4 * PUSH_CALL_MS_MAX);
const PATIENCE: Duration = Duration::from_millis(PUSH_CALL_MS_MAX);

impl Push {
    /// Takes a chunk to give away, or gives it back: at most [`PUSH_CHUNKS_MAX`] and [`PUSH_BYTES_MAX`] bytes wait, and one
    /// more chunk. Each is answered by a [`Placed`].
    pub fn push(&mut self, now: Time, job: JobId, chunk: NewChunk) -> Result<(), NewChunk> {
        if self.chunks.len() >= PUSH_CHUNKS_MAX || self.bytes >= PUSH_BYTES_MAX {
            return Err(chunk);
        }
        let len = chunk.bytes.len() as u32;
        let given = Given { id: chunk.id, len, root: chunk.root, body: Body::Here(chunk.bytes) };
        self.give(now, job, given, PUSH_COPIES);
        Ok(())
    }

    /// Takes a chunk of the store, which is read as it is sent; false when [`PUSH_CHUNKS_MAX`] wait. So many nodes are to keep it.
    pub fn push_stored(
        &mut self,
        now: Time,
        job: JobId,
        id: ChunkId,
        stored: &StoredChunk,
        copies: usize,
    ) -> bool {
        let has_room = self.chunks.len() < PUSH_CHUNKS_MAX;
        if has_room {
            let body = Body::Stored(stored.handle);
            self.give(now, job, Given { id, len: stored.len, root: stored.root, body }, copies);
        }
        has_room
    }

    fn give(&mut self, now: Time, job: JobId, given: Given, copies: usize) {
        self.bytes += given.bytes();
        self.next += 1;
        self.chunks.insert(self.next, Placing::new(now, job, given, copies.clamp(1, PUSH_COPIES)));
    }

    /// Gives up what a job has left; nothing is told of it.
    pub fn cancel(&mut self, job: JobId) {
        let own = self.chunks.iter().filter(|(_, one)| one.job == job);
        for number in own.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.remove(number);
        }
    }

    /// Has a node keep nothing: the one that this one is a part of, whose chunks nobody shall find there.
    pub fn avoid(&mut self, key: PublicKey) {
        self.avoided = Some(key);
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether there is nothing to give.
    pub fn is_idle(&self) -> bool {
        self.chunks.is_empty() && self.made.is_empty()
    }

    /// When [`Self::poll_action`] has something to do although nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        let chunks = self.chunks.values().map(|one| one.due());
        let calls = self.links.values().filter_map(|link| match link {
            Link::Calling(since) => Some(*since + PATIENCE),
            Link::Up(_) | Link::Down(_) => None,
        });
        let made = self.made.values().map(|made| made.until);
        chunks.chain(calls).chain(made).min()
    }

    /// Nodes near a chunk, nearest first; none when there are none, or the lookup failed. `own` is this node.
    pub fn found(&mut self, now: Time, chunk: &ChunkId, nodes: &[Contact], own: &PublicKey) {
        let may = |node: &&Contact| node.card.key != *own && Some(node.card.key) != self.avoided;
        for one in self.chunks.values_mut().filter(|one| one.chunk.id == *chunk) {
            one.found(now, nodes.iter().filter(may));
        }
    }

    /// There is a session with a node that was called, or there will be none.
    pub fn called(&mut self, now: Time, key: &PublicKey, peer: Option<PeerId>) {
        if let Some(link) = self.links.get_mut(key)
            && matches!(link, Link::Calling(_))
        {
            *link = peer.map_or(Link::Down(now), Link::Up);
        }
    }

    /// A session is over.
    pub fn peer_down(&mut self, now: Time, peer: PeerId) {
        self.links.retain(|_, link| !matches!(link, Link::Up(up) if *up == peer));
        let own = self.made.range((peer, StreamId(0))..=(peer, StreamId(u64::MAX)));
        for at in own.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.settle(now, at, Answer::Busy(0));
        }
    }

    /// The stream of an offer, or `None` when the peer gives none now.
    pub fn offered(&mut self, now: Time, peer: PeerId, number: u64, stream: Option<StreamId>) {
        let Some(key) = self.key_of(peer) else { return };
        let Some(one) = self.chunks.get_mut(&number) else {
            return stream
                .into_iter()
                .for_each(|stream| self.actions.push_back(Action::Withdraw(peer, stream)));
        };
        let Some(stream) = stream else { return one.answered(now, &key, Answer::Busy(0)) };
        self.counters.offers += 1;
        let until = now + Duration::from_millis(PUSH_ANSWER_MS_MAX);
        self.made.insert((peer, stream), Made { number, key, until, text: Vec::new(), is_sent: false });
    }

    fn key_of(&self, peer: PeerId) -> Option<PublicKey> {
        self.links.iter().find(|(_, link)| matches!(link, Link::Up(up) if *up == peer)).map(|(key, _)| *key)
    }

    /// Bytes of an answer, in order.
    pub fn answer(&mut self, now: Time, peer: PeerId, stream: StreamId, bytes: &[u8], finished: bool) {
        let Some(made) = self.made.get_mut(&(peer, stream)) else { return };
        let room = (2 * Answer::LEN + 1).saturating_sub(made.text.len());
        made.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        while let Some(first) = made.text.first_chunk::<{ Answer::LEN }>() {
            let answer = Answer::parse(first).unwrap_or(Answer::Bad);
            made.text.drain(..Answer::LEN);
            if answer != Answer::GoOn || made.is_sent {
                return self.settle(now, (peer, stream), answer);
            }
            made.is_sent = true;
            let Some(one) = self.chunks.get(&made.number) else { return };
            // A slow path may need all of the time that the keeper gives.
            made.until = one.until();
            let len = u64::from(one.chunk.len);
            self.counters.bytes += len;
            self.actions.push_back(Action::Send(peer, stream, GIVEN | made.number, len));
        }
        if finished {
            self.settle(now, (peer, stream), Answer::Bad);
        }
    }

    /// The peer gave the stream up.
    pub fn ended(&mut self, now: Time, peer: PeerId, stream: StreamId) {
        self.settle(now, (peer, stream), Answer::Refused);
    }

    /// An offer is over.
    fn settle(&mut self, now: Time, at: (PeerId, StreamId), answer: Answer) {
        let Some(made) = self.made.remove(&at) else { return };
        // *Go on* twice is no answer.
        let answer = if answer == Answer::GoOn { Answer::Bad } else { answer };
        self.counters.kept += u64::from(answer == Answer::Kept);
        if let Some(one) = self.chunks.get_mut(&made.number) {
            one.answered(now, &made.key, answer);
        }
    }

    /// Whether a stream is one of an offer that is open.
    pub fn has(&self, peer: PeerId, stream: StreamId) -> bool {
        self.made.contains_key(&(peer, stream))
    }

    /// What is to be done next.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        self.expire(now);
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let mut over = Vec::new();
        let mut action = None;
        let looking = self.chunks.values().filter(|one| one.is_looking()).count();
        for (number, one) in &mut self.chunks {
            let next = loop {
                match one.next(now, looking < PUSH_LOOKUPS_OPEN_MAX) {
                    Next::Try(contact) => match self.links.get(&contact.card.key) {
                        Some(Link::Up(peer)) => {
                            one.stands(&contact.card.key, Standing::Asked);
                            break Next::Offer(*peer);
                        }
                        Some(Link::Down(at)) if now.since(*at) < AWAY => {
                            one.stands(&contact.card.key, Standing::Gone);
                        }
                        Some(Link::Calling(_)) => one.stands(&contact.card.key, Standing::Called),
                        Some(Link::Down(_)) | None => {
                            one.stands(&contact.card.key, Standing::Called);
                            break Next::Try(contact);
                        }
                    },
                    Next::Called(key) => match self.links.get(&key) {
                        Some(Link::Up(peer)) => {
                            one.stands(&key, Standing::Asked);
                            break Next::Offer(*peer);
                        }
                        Some(Link::Calling(_)) => break Next::Wait,
                        Some(Link::Down(_)) | None => one.stands(&key, Standing::Gone),
                    },
                    other => break other,
                }
            };
            match next {
                Next::Over => over.push(*number),
                Next::Find => action = Some(Action::Find(one.chunk.id)),
                Next::Try(contact) => action = Some(Action::Call(contact)),
                Next::Offer(peer) => {
                    let Given { id: chunk, len, root, .. } = one.chunk;
                    let offer = Offer { chunk, len, root };
                    action = Some(Action::Offer { peer, number: *number, offer });
                }
                Next::Called(_) | Next::Wait => {}
            }
            if action.is_some() {
                break;
            }
        }
        for number in over {
            self.end(number);
        }
        if let Some(Action::Call(contact)) = &action {
            self.note_call(now, contact.card.key);
        }
        action.or_else(|| self.actions.pop_front())
    }

    fn note_call(&mut self, now: Time, key: PublicKey) {
        if self.links.len() >= PUSH_KEEPERS_MAX {
            self.links.retain(|_, link| !matches!(link, Link::Down(_)));
        }
        self.links.insert(key, Link::Calling(now));
    }

    /// Notes what took too long.
    fn expire(&mut self, now: Time) {
        for link in self.links.values_mut() {
            if matches!(link, Link::Calling(since) if now.since(*since) >= PATIENCE) {
                *link = Link::Down(now);
            }
        }
        let late = self.made.iter().filter(|(_, made)| made.until <= now);
        for (peer, stream) in late.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.settle(now, (peer, stream), Answer::Refused);
            self.actions.push_back(Action::Withdraw(peer, stream));
        }
    }

    /// A chunk has found its keepers, or all that it will find.
    fn end(&mut self, number: u64) {
        let Some(one) = self.remove(number) else { return };
        let keepers = one.keepers();
        *(if keepers > 0 { &mut self.counters.placed } else { &mut self.counters.vain }) += 1;
        self.placed.push_back(Placed { job: one.job, chunk: one.chunk.id, keepers });
    }

    fn remove(&mut self, number: u64) -> Option<Placing> {
        let one = self.chunks.remove(&number)?;
        self.bytes -= one.chunk.bytes();
        let open = self.made.iter().filter(|(_, made)| made.number == number);
        for (peer, stream) in open.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.made.remove(&(peer, stream));
            self.actions.push_back(Action::Withdraw(peer, stream));
        }
        if self.chunks.is_empty() {
            self.links.clear();
        }
        Some(one)
    }

    /// What came of a chunk since the last call.
    pub fn poll_placed(&mut self) -> Option<Placed> {
        self.placed.pop_front()
    }

    /// Whether a source of a stream is a chunk that is given away.
    pub fn is_source(source: u64) -> bool {
        source & GIVEN != 0
    }

    /// The handle of a chunk that is given away out of the store.
    pub fn stored(&self, source: u64) -> Option<u64> {
        match self.chunks.get(&(source & !GIVEN))?.chunk.body {
            Body::Stored(handle) => Some(handle),
            Body::Here(_) => None,
        }
    }

    /// Copies bytes from `offset` of a chunk that is given away out of memory.
    pub fn read(&self, source: u64, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        let given = &self.chunks.get(&(source & !GIVEN)).ok_or(SourceFault)?.chunk;
        let Body::Here(bytes) = &given.body else { return Err(SourceFault) };
        let start = usize::try_from(offset).map_err(|_| SourceFault)?;
        into.copy_from_slice(bytes.get(start..).and_then(|rest| rest.get(..into.len())).ok_or(SourceFault)?);
        Ok(())
    }
}

/// One chunk may take so long.
const CHUNK_TIME: Duration = Duration::from_millis(PUSH_CHUNK_MS_MAX);

#[cfg(test)]
mod tests;

//! Fetching from hostile peers: whatever they answer, only verified slices are handed out, buffers come back,
//! and nothing is asked for ever without pause.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Input;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, RangeSet, SlicePool, StreamId, Time};
use crate::chunk::SliceList;
use crate::limits::SLICE_SIZE;
use crate::service::PeerId;
use crate::service::fetch::{Event, Fetch, Target};
use crate::wire::chunkmsg::{ReplyHead, SliceRequest, Status, mask_of};

/// Slice buffers: few, so that they run out.
const BUFFERS: usize = 12;
const LENGTHS: [usize; 3] = [700, SLICE_SIZE + 5, 4 * SLICE_SIZE];

struct Chunk {
    target: Target,
    bytes: Vec<u8>,
    list: SliceList,
}

fn chunks() -> Vec<Chunk> {
    let make = |(index, len): (usize, usize)| {
        let bytes = vec![index as u8 + 1; len];
        let list = SliceList::from_chunk(&bytes);
        let target = Target { id: ChunkId([index as u8; 20]), root: *list.root(), len: len as u32 };
        Chunk { target, bytes, list }
    };
    LENGTHS.into_iter().enumerate().map(make).collect()
}

/// What an honest peer answers.
fn honest(chunk: &Chunk, request: &SliceRequest) -> Vec<u8> {
    let (list, mask) = (request.list, request.mask);
    if mask & !mask_of(chunk.target.len) != 0 {
        return ReplyHead::failed(Status::BadRequest, 0).emit().to_vec();
    }
    let head = ReplyHead { status: Status::Ok, list, mask, chunk_len: chunk.target.len, retry_ms: 0 };
    let mut out = head.emit().to_vec();
    if list {
        out.extend_from_slice(chunk.list.as_bytes());
    }
    let slices = chunk.bytes.chunks(SLICE_SIZE).enumerate();
    slices.filter(|(index, _)| mask >> index & 1 == 1).for_each(|(_, slice)| out.extend_from_slice(slice));
    out
}

/// A request under way: what its peer will answer, and which bytes of it came.
struct Stream {
    chunk: ChunkId,
    answer: Vec<u8>,
    came: RangeSet,
}

/// The model around the fetch.
struct Model {
    fetch: Fetch,
    chunks: Vec<Chunk>,
    streams: BTreeMap<(PeerId, StreamId), Stream>,
    /// Slices that were wanted and not handed out yet: bit per slice.
    wanted: BTreeMap<Target, u16>,
    /// Peers that can be asked, as far as they do not lie.
    up: BTreeSet<PeerId>,
    lied: BTreeSet<PeerId>,
    /// Whom was asked for anything of a chunk.
    asked: BTreeSet<(PeerId, ChunkId)>,
    /// Who answered a request for a chunk otherwise than an honest owner of it, or not to the end.
    denied: BTreeSet<(PeerId, ChunkId)>,
    next: u64,
    now: Time,
}

impl Model {
    fn events(&mut self) {
        while let Some(event) = self.fetch.poll_event() {
            match event {
                Event::Slice { target, index, data, len, .. } => {
                    let chunk = self.chunks.iter().find(|chunk| chunk.target == target);
                    let chunk = chunk.expect("nothing verifies against a false root");
                    let place = index as usize * SLICE_SIZE..index as usize * SLICE_SIZE + len;
                    assert_eq!(chunk.bytes.get(place), Some(&data[..len]), "verified");
                    let wanted = self.wanted.get_mut(&target).expect("wanted");
                    assert!(*wanted >> index & 1 == 1, "each once");
                    *wanted &= !(1 << index);
                }
                Event::Unavailable { target } => self.unavailable(target),
                Event::Stop { peer, stream } => _ = self.streams.remove(&(peer, stream)),
                Event::Liar { peer, .. } => {
                    self.up.remove(&peer);
                    self.lied.insert(peer);
                    self.streams.retain(|(who, _), _| *who != peer);
                }
            }
        }
    }

    /// Nobody has a chunk: then somebody could be asked, and everybody who could was, and denied it. An honest
    /// answer denies only what was asked for under a false root or length.
    fn unavailable(&mut self, target: Target) {
        let is_true = self.chunks.iter().any(|chunk| chunk.target == target);
        let denials = if is_true { &self.denied } else { &self.asked };
        assert!(!self.up.is_empty(), "nobody was there to deny it");
        let trusted = self.up.iter().find(|peer| !denials.contains(&(**peer, target.id)));
        assert_eq!(trusted, None, "it was given up while this peer may have it");
        self.wanted.insert(target, 0);
    }

    fn up(&mut self, peer: PeerId) {
        self.fetch.peer_up(self.now, peer);
        // Who lied lies until he is gone.
        if !self.lied.contains(&peer) {
            self.up.insert(peer);
        }
    }

    fn down(&mut self, peer: PeerId) {
        self.fetch.peer_down(peer);
        self.up.remove(&peer);
        self.lied.remove(&peer);
        self.asked.retain(|(who, _)| *who != peer);
        self.denied.retain(|(who, _)| *who != peer);
        self.streams.retain(|(who, _), _| *who != peer);
    }

    fn requests(&mut self, input: &mut Input<'_>) {
        for asked in 0.. {
            assert!(asked < 200, "the same is asked over and over");
            let Some(outgoing) = self.fetch.poll_request(self.now) else { return };
            let (peer, request) = (outgoing.peer, outgoing.request);
            if input.byte() % 16 == 15 {
                self.fetch.no_stream(outgoing);
                continue;
            }
            assert!(request.mask != 0);
            let stream = StreamId(4 * self.next);
            self.next += 1;
            self.fetch.started(outgoing, stream);
            let chunk = &self.chunks[usize::from(request.chunk.0[0]) % self.chunks.len()];
            let mut answer = match input.byte() % 8 {
                0 => ReplyHead::failed(Status::NotFound, 0).emit().to_vec(),
                1 => ReplyHead::failed(Status::Busy, input.word()).emit().to_vec(),
                2 => input.bytes(60).to_vec(),
                _ => honest(chunk, &request),
            };
            if input.one_in(4) {
                input.mutate(&mut answer);
            }
            self.asked.insert((peer, request.chunk));
            if answer != honest(chunk, &request) {
                self.denied.insert((peer, request.chunk));
            }
            let came = RangeSet::new();
            self.streams.insert((peer, stream), Stream { chunk: request.chunk, answer, came });
        }
    }

    /// Hands in bytes of an answer that did not come yet, as a stream does.
    fn arrive(&mut self, key: (PeerId, StreamId), from: u64, len: u64) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let end = (stream.answer.len() as u64).min(from.saturating_add(len));
        let fresh: Vec<_> = stream.came.gaps(from.min(end)..end).collect();
        stream.came.insert(from.min(end)..end);
        let pieces: Vec<_> = fresh
            .into_iter()
            .map(|r| (r.start, stream.answer[r.start as usize..r.end as usize].to_vec()))
            .collect();
        for (offset, bytes) in pieces {
            self.fetch.data(self.now, key.0, key.1, offset, &bytes);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let peer = PeerId(u64::from(input.byte() % 4));
        let at = input.below(self.streams.len().max(1));
        let key = self.streams.keys().nth(at).copied();
        match input.below(10) {
            0 => self.up(peer),
            1 => self.down(peer),
            2 | 3 => {
                let mut target = self.chunks[input.below(self.chunks.len())].target;
                match input.byte() % 8 {
                    0 => target.root[0] ^= 1,
                    1 => target.len = 1 + input.word() % (1 << 20),
                    _ => {}
                }
                let mask = input.half() & ((1u32 << target.slices()) - 1) as u16;
                if mask != 0 {
                    self.fetch.want(JobId(0), target, mask);
                    *self.wanted.entry(target).or_default() |= mask;
                }
            }
            4 | 5 => {
                if let Some(key) = key {
                    let (from, len) = (u64::from(input.word() % 300_000), u64::from(input.half()) * 8);
                    self.arrive(key, if input.flag() { 0 } else { from }, len);
                }
            }
            6 => {
                if let Some(key) = key {
                    self.arrive(key, 0, u64::MAX);
                    self.events();
                    if self.streams.remove(&key).is_some() {
                        self.fetch.finished(key.0, key.1);
                    }
                }
            }
            7 => {
                if let Some(key) = key {
                    if let Some(stream) = self.streams.remove(&key) {
                        self.denied.insert((key.0, stream.chunk));
                    }
                    self.fetch.finished(key.0, key.1);
                }
            }
            8 => {
                self.now += Duration::from_millis(input.half().into());
                self.fetch.handle_timeout(self.now);
                let next = self.fetch.poll_timeout();
                assert!(next.is_none_or(|at| at > self.now), "it comes back later: {next:?}");
            }
            _ => match input.byte() % 3 {
                0 => self.fetch.more_streams(peer),
                1 => self.fetch.hold(peer),
                _ => {
                    let target = self.chunks[input.below(self.chunks.len())].target;
                    self.fetch.forget(&target);
                    self.wanted.remove(&target);
                }
            },
        }
    }
}

/// See the module.
pub fn fetch(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut model = Model {
        fetch: Fetch::new(SlicePool::new(BUFFERS)),
        chunks: chunks(),
        streams: BTreeMap::new(),
        wanted: BTreeMap::new(),
        up: BTreeSet::new(),
        lied: BTreeSet::new(),
        asked: BTreeSet::new(),
        denied: BTreeSet::new(),
        next: 0,
        now: Time::from_millis(1),
    };
    for peer in 0..1 + input.byte() % 3 {
        model.up(PeerId(peer.into()));
    }
    while !input.is_empty() {
        model.step(&mut input);
        model.events();
        model.requests(&mut input);
        model.events();
        assert!(model.fetch.slack() <= BUFFERS);
        for peer in 0..4 {
            for stream in model.fetch.streams_of(PeerId(peer)) {
                assert!(model.streams.contains_key(&(PeerId(peer), stream)), "a stream that is over");
            }
        }
    }
    // An honest newcomer serves what is still wanted, and then all buffers are free.
    (0..4).for_each(|peer| model.down(PeerId(peer)));
    let honest_peer = PeerId(9);
    model.up(honest_peer);
    for _ in 0..200 {
        model.events();
        let Some(outgoing) = model.fetch.poll_request(model.now) else { break };
        let (request, stream) = (outgoing.request, StreamId(4 * model.next));
        model.next += 1;
        model.fetch.started(outgoing, stream);
        let chunk = &model.chunks[usize::from(request.chunk.0[0]) % model.chunks.len()];
        let answer = honest(chunk, &request);
        model.asked.insert((honest_peer, request.chunk));
        let came = RangeSet::new();
        model.streams.insert((honest_peer, stream), Stream { chunk: request.chunk, answer, came });
        model.arrive((honest_peer, stream), 0, u64::MAX);
        model.fetch.finished(honest_peer, stream);
    }
    model.events();
    assert_eq!(model.fetch.slack(), BUFFERS, "all buffers came back");
    let left: Vec<_> = model.chunks.iter().filter_map(|chunk| model.wanted.get(&chunk.target)).collect();
    assert!(left.iter().all(|mask| **mask == 0), "an honest peer is enough: {left:?}");
    assert!(!model.fetch.is_waiting(), "what nobody has is given up");
    assert!(model.fetch.is_idle(), "what came is forgotten");
}

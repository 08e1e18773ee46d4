//! The serving side: what peers ask on their streams, whatever it is and however the store fails.

use std::collections::{BTreeMap, BTreeSet};

use super::Input;
use crate::base::{ChunkId, ChunkRead, ReadFault, StoredChunk, StreamId, Time};
use crate::limits::{CHUNK_SLICES_MAX, REQUESTS_PER_SESSION_MAX, SLICE_SIZE};
use crate::service::PeerId;
use crate::service::serve::{Act, Serve, SliceSource};
use crate::sim::store::MapStore;
use crate::wire::chunkmsg::{ReplyHead, ReplyLayout, SliceRequest, Status, mask_of};

/// Lengths of the stored chunks: chunk i has the id `[i; 20]`.
const CHUNKS: [usize; 3] = [100, SLICE_SIZE + 1, 3 * SLICE_SIZE];

/// No chunk has this slice: masks with it are taken as they are, others are of slices that are there. So requests meet
/// at the same cold slice, which a mask of any sixteen bits hardly ever does.
const ANY_MASK: u16 = 1 << 15;

/// A store that fails when the script says so.
struct Failing {
    store: MapStore,
    fault: Option<ReadFault>,
}

impl Failing {
    fn fails(&self) -> Result<(), ReadFault> {
        self.fault.map_or(Ok(()), Err)
    }
}

impl ChunkRead for Failing {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.store.find(id)
    }
    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        self.fails().and_then(|()| self.store.slice_list(handle, into))
    }
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        self.fails().and_then(|()| self.store.warm(handle, slice))
    }
    fn prefetch(&mut self, handle: u64, slice: u32) {
        if self.fault.is_none() {
            self.store.prefetch(handle, slice);
        }
    }
    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.fails().and_then(|()| self.store.read(handle, offset, into))
    }
}

/// What a stream has seen so far.
#[derive(Default)]
struct Answer {
    asked: Vec<u8>,
    bytes: Vec<u8>,
    over: bool,
}

type Answers = BTreeMap<(PeerId, StreamId), Answer>;

/// Applies what the service wants, as the node does, and checks the order of it.
fn apply(acts: &mut Vec<Act>, store: &mut Failing, answers: &mut Answers, gone: &BTreeSet<PeerId>) {
    for act in acts.drain(..) {
        let (Act::Write(peer, stream, _) | Act::Attach(peer, stream, ..)) = &act else {
            let (Act::Finish(peer, stream) | Act::Reset(peer, stream)) = act else { continue };
            let answer = answers.get_mut(&(peer, stream)).expect("a stream that was opened");
            assert!(!answer.over, "one end");
            answer.over = true;
            if matches!(act, Act::Finish(..)) {
                check(answer);
            }
            continue;
        };
        assert!(!gone.contains(peer), "nothing for who is gone");
        let answer = answers.get_mut(&(*peer, *stream)).expect("a stream that was opened");
        assert!(!answer.over, "nothing behind the end");
        match act {
            Act::Write(_, _, bytes) => answer.bytes.extend(bytes),
            Act::Attach(_, _, source, len) => attach(source, len, store, &mut answer.bytes),
            _ => {}
        }
    }
}

fn attach(source: SliceSource, len: u64, store: &mut Failing, into: &mut Vec<u8>) {
    assert!((1..=SLICE_SIZE as u64).contains(&len));
    let at = into.len();
    into.resize(at + len as usize, 0);
    let fault = store.fault.take();
    source.read(store, 0, &mut into[at..]).expect("what is attached is resident");
    store.fault = fault;
}

/// A finished answer is what the request's arithmetic says, and its slices are the chunk's.
fn check(answer: &Answer) {
    let head = ReplyHead::parse(&answer.bytes).expect("a head");
    if head.status != Status::Ok {
        return assert_eq!(answer.bytes.len(), ReplyHead::LEN);
    }
    let request = SliceRequest::parse(&answer.asked).ok().flatten().expect("only requests are answered");
    assert_eq!((head.list, head.mask), (request.list, request.mask));
    let chunk = usize::from(request.chunk.0[0]);
    assert_eq!(head.chunk_len as usize, CHUNKS[chunk]);
    let layout = ReplyLayout::new(head.chunk_len, head.mask, head.list);
    assert_eq!(answer.bytes.len() as u64, layout.total());
    if head.mask != 0 {
        assert_eq!(answer.bytes.last(), Some(&(chunk as u8 + 1)), "the chunk's own bytes");
    }
}

/// See the module.
pub fn serve(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut store = Failing { store: MapStore::default(), fault: None };
    store.store.cold = input.flag();
    for (index, len) in CHUNKS.into_iter().enumerate() {
        store.store.insert(ChunkId([index as u8; 20]), vec![index as u8 + 1; len]);
    }
    let (mut serve, mut acts) = (Serve::default(), Vec::new());
    let (mut answers, mut gone, mut next) = (Answers::new(), BTreeSet::new(), 0u64);
    let mut last = (PeerId(0), StreamId(0));
    while !input.is_empty() {
        match input.below(8) {
            0 | 1 => {
                let peer = PeerId(u64::from(input.byte() % 3));
                if gone.contains(&peer) {
                    continue;
                }
                last = (peer, StreamId(2 * next));
                next += 1;
                answers.insert(last, Answer::default());
                serve.opened(Time::ZERO, last.0, last.1, false, &mut acts);
            }
            2 | 3 if !answers.is_empty() => {
                // A request in one go, or some bytes.
                let (chunk, mut mask) = (input.byte() % 4, input.half());
                if let Some(len) = CHUNKS.get(usize::from(chunk))
                    && mask & ANY_MASK == 0
                {
                    mask &= mask_of(*len as u32);
                }
                let request = SliceRequest { chunk: ChunkId([chunk; 20]), mask, list: input.flag() };
                let whole = request.emit();
                let text = if input.flag() { &whole[..] } else { input.bytes(40) };
                let finished = input.flag();
                if let Some(answer) = answers.get_mut(&last).filter(|answer| !answer.over) {
                    // What follows a request is not looked at.
                    if matches!(SliceRequest::parse(&answer.asked), Ok(None)) {
                        answer.asked.extend(text);
                    }
                    serve.data(last.0, last.1, text, finished, &mut store, &mut acts);
                }
            }
            4 => {
                for (handle, slice) in store.store.take_faulted() {
                    serve.warmed(handle, slice, &mut store, &mut acts);
                }
            }
            5 => {
                let at = input.below(answers.len().max(1));
                if let Some((key, answer)) = answers.iter_mut().nth(at) {
                    last = *key;
                    answer.over = true;
                    serve.ended(key.0, key.1);
                }
            }
            6 => {
                store.fault = match input.below(4) {
                    0 => Some(ReadFault::Gone),
                    1 => Some(ReadFault::Damaged),
                    _ => None,
                }
            }
            _ => {
                let peer = PeerId(u64::from(input.byte() % 3));
                gone.insert(peer);
                serve.peer_down(peer);
                answers
                    .iter_mut()
                    .filter(|(key, _)| key.0 == peer)
                    .for_each(|(_, answer)| answer.over = true);
            }
        }
        apply(&mut acts, &mut store, &mut answers, &gone);
        assert!(serve.active() <= 3 * REQUESTS_PER_SESSION_MAX);
        let open = answers.values().filter(|answer| !answer.over).count();
        assert!(serve.active() <= open, "{} requests on {open} streams", serve.active());
    }
    // A store that answers again lets every request end that was whole.
    store.fault = None;
    for _ in 0..=CHUNK_SLICES_MAX * CHUNKS.len() {
        for (handle, slice) in store.store.take_faulted() {
            serve.warmed(handle, slice, &mut store, &mut acts);
        }
        apply(&mut acts, &mut store, &mut answers, &gone);
    }
    let asking = answers
        .values()
        .filter(|answer| !answer.over)
        .all(|answer| matches!(SliceRequest::parse(&answer.asked), Ok(None)));
    assert!(asking, "a whole request is answered");
}

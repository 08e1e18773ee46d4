//! The chunk service's messages, on streams of channel 1 (docs/protocol/fetch.md). One request per stream;
//! its first byte says which.
//!
//! ```text
//! slices  | 1 | flags 1 | mask 2 | chunk id 20 |                                     little-endian
//! answer  | status 1 | flags 1 | mask 2 | chunk len 4 | retry ms 4 | zero 4 | list | slice | slice | …
//! have    | 2 | length 2 | HaveRequest |        answer  | length 2 | HaveReply |
//! ```
//!
//! All of a good answer's bytes have places that the asker can compute beforehand ([`ReplyLayout`]), so that
//! it may take them out of order, straight to where they belong.

use std::ops::Range;

use prost::Message;

use super::Malformed;
use crate::base::ChunkId;
use crate::limits::{CHUNK_SIZE_MAX, CHUNK_SLICES_MAX, HAVE_CHUNKS_MAX, MESSAGE_SIZE_MAX, SLICE_SIZE};

/// First byte of a [`SliceRequest`].
pub const KIND_SLICES: u8 = 1;
/// First byte of a [`Have`] query.
pub const KIND_HAVE: u8 = 2;

const FLAG_LIST: u8 = 1;
const VALUE_SIZE: u32 = 32;
const LENGTH_SIZE: usize = 2;

const _: () = assert!(CHUNK_SLICES_MAX == 16, "a mask of 16 bits names every slice");
const _: () = assert!(HAVE_CHUNKS_MAX * ChunkId::LEN + 16 <= MESSAGE_SIZE_MAX && MESSAGE_SIZE_MAX <= 65_536);

/// Bits for the slices of a chunk of `chunk_len` bytes.
pub const fn mask_of(chunk_len: u32) -> u16 {
    let slices = chunk_len.div_ceil(SLICE_SIZE as u32);
    if slices >= 16 { u16::MAX } else { (1 << slices) - 1 }
}

/// Asks for slices of one chunk, or only (mask 0) whether the chunk is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceRequest {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Bit i: slice i is wanted.
    pub mask: u16,
    /// Whether the slice list is wanted, ahead of the slices.
    pub list: bool,
}

impl SliceRequest {
    /// Encoded length, bytes.
    pub const LEN: usize = 4 + ChunkId::LEN;

    /// Writes the request.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = KIND_SLICES;
        out[1] = if self.list { FLAG_LIST } else { 0 };
        out[2..4].copy_from_slice(&self.mask.to_le_bytes());
        out[4..].copy_from_slice(&self.chunk.0);
        out
    }
}

/// What a stream of channel 1 begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Slices of one chunk.
    Slices(SliceRequest),
    /// Which of many chunks are there.
    Have(Have),
}

impl Request {
    /// Reads a request from the start of a stream; `Ok(None)` while there are too few bytes. Bytes behind
    /// the request are malformed: a stream carries one.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        match bytes.first() {
            None => Ok(None),
            Some(&KIND_SLICES) => {
                let Some(request) = bytes.get(..SliceRequest::LEN) else { return Ok(None) };
                if bytes.len() > SliceRequest::LEN || request[1] & !FLAG_LIST != 0 {
                    return Err(Malformed("slice request"));
                }
                Ok(Some(Self::Slices(SliceRequest {
                    chunk: ChunkId::from_slice(&request[4..]).expect("20 bytes"),
                    mask: u16::from_le_bytes([request[2], request[3]]),
                    list: request[1] & FLAG_LIST != 0,
                })))
            }
            Some(&KIND_HAVE) => {
                let Some(message) = delimited(&bytes[1..], Have::LEN_MAX)? else { return Ok(None) };
                let message = HaveRequest::decode(message).map_err(|_| Malformed("have request"))?;
                let (ids, rest) = message.chunks.as_chunks::<{ ChunkId::LEN }>();
                if !rest.is_empty() || ids.len() > HAVE_CHUNKS_MAX {
                    return Err(Malformed("have request: chunk ids"));
                }
                Ok(Some(Self::Have(Have { chunks: ids.iter().copied().map(ChunkId).collect() })))
            }
            Some(_) => Err(Malformed("chunk request: kind")),
        }
    }
}

/// How a request for slices ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// What was asked for follows.
    Ok = 0,
    /// The chunk is not here.
    NotFound = 1,
    /// Try again after [`ReplyHead::retry_ms`].
    Busy = 2,
    /// We do not serve this peer.
    Refused = 3,
    /// The chunk is here, but the disk damaged it.
    Damaged = 4,
    /// The request named slices that the chunk does not have.
    BadRequest = 5,
}

impl Status {
    fn from_byte(byte: u8) -> Option<Self> {
        use Status::{BadRequest, Busy, Damaged, NotFound, Ok, Refused};
        [Ok, NotFound, Busy, Refused, Damaged, BadRequest].into_iter().find(|&status| status as u8 == byte)
    }
}

/// The first bytes of an answer to a [`SliceRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHead {
    /// How it went.
    pub status: Status,
    /// Whether the slice list follows.
    pub list: bool,
    /// The slices that follow.
    pub mask: u16,
    /// Length of the chunk, bytes; 0 unless the status is [`Status::Ok`].
    pub chunk_len: u32,
    /// When to ask again, milliseconds from now; 0 unless the status is [`Status::Busy`].
    pub retry_ms: u32,
}

impl ReplyHead {
    /// Encoded length, bytes.
    pub const LEN: usize = 16;

    /// An answer without content.
    pub fn failed(status: Status, retry_ms: u32) -> Self {
        Self { status, list: false, mask: 0, chunk_len: 0, retry_ms }
    }

    /// Writes the head.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.status as u8;
        out[1] = if self.list { FLAG_LIST } else { 0 };
        out[2..4].copy_from_slice(&self.mask.to_le_bytes());
        out[4..8].copy_from_slice(&self.chunk_len.to_le_bytes());
        out[8..12].copy_from_slice(&self.retry_ms.to_le_bytes());
        out
    }

    /// Reads and checks [`Self::LEN`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::LEN] =
            bytes.get(..Self::LEN).and_then(|b| b.try_into().ok()).ok_or(Malformed("chunk reply: length"))?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let head = Self {
            status: Status::from_byte(bytes[0]).ok_or(Malformed("chunk reply: status"))?,
            list: bytes[1] & FLAG_LIST != 0,
            mask: u16::from_le_bytes([bytes[2], bytes[3]]),
            chunk_len: word(4),
            retry_ms: word(8),
        };
        let is_ok = head.status == Status::Ok;
        let content = if is_ok {
            (1..=CHUNK_SIZE_MAX as u32).contains(&head.chunk_len) && head.mask & !mask_of(head.chunk_len) == 0
        } else {
            !head.list && head.mask == 0 && head.chunk_len == 0
        };
        let retry = head.status == Status::Busy || head.retry_ms == 0;
        if bytes[1] & !FLAG_LIST != 0 || word(12) != 0 || !content || !retry {
            return Err(Malformed("chunk reply: head"));
        }
        Ok(head)
    }
}

/// One part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The head.
    Head,
    /// The slice list.
    List,
    /// Slice i.
    Slice(u8),
}

/// Where a byte of an answer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The part that it belongs to.
    pub part: Part,
    /// Where in the part, bytes.
    pub offset: u32,
    /// How many bytes of the part follow, this one included.
    pub rest: u32,
}

/// The places of all parts of a good answer, known from the request and the chunk's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyLayout {
    chunk_len: u32,
    mask: u16,
    list: bool,
}

impl ReplyLayout {
    /// For a chunk of `chunk_len` bytes, at most [`CHUNK_SIZE_MAX`]; slices that it does not have are left
    /// out.
    pub fn new(chunk_len: u32, mask: u16, list: bool) -> Self {
        let chunk_len = chunk_len.min(CHUNK_SIZE_MAX as u32);
        Self { chunk_len, mask: mask & mask_of(chunk_len), list }
    }

    /// The head that such an answer has; any other head means that something else follows.
    pub fn head(&self) -> ReplyHead {
        ReplyHead {
            status: Status::Ok,
            list: self.list,
            mask: self.mask,
            chunk_len: self.chunk_len,
            retry_ms: 0,
        }
    }

    /// Length of the whole answer, bytes.
    pub fn total(&self) -> u64 {
        self.slices_before(16).end
    }

    /// The bytes of the answer that hold a part, if it is in it.
    pub fn range(&self, part: Part) -> Option<Range<u64>> {
        match part {
            Part::Head => Some(0..ReplyHead::LEN as u64),
            Part::List => self.list.then(|| ReplyHead::LEN as u64..self.slices_start()),
            Part::Slice(index) => {
                (index < 16 && self.mask >> index & 1 == 1).then(|| self.slices_before(u32::from(index) + 1))
            }
        }
    }

    /// What byte `offset` of the answer is; `None` behind its end.
    pub fn locate(&self, offset: u64) -> Option<Spot> {
        let head = ReplyHead::LEN as u64;
        let part = if offset < head {
            Part::Head
        } else if offset < self.slices_start() {
            Part::List
        } else {
            let nth = (offset - self.slices_start()) / SLICE_SIZE as u64;
            Part::Slice(
                (0..16u8).filter(|index| self.mask >> index & 1 == 1).nth(usize::try_from(nth).ok()?)?,
            )
        };
        let range = self.range(part).filter(|range| range.contains(&offset))?;
        Some(Spot { part, offset: (offset - range.start) as u32, rest: (range.end - offset) as u32 })
    }

    fn slices_start(&self) -> u64 {
        let list = if self.list { VALUE_SIZE * self.chunk_len.div_ceil(SLICE_SIZE as u32) } else { 0 };
        ReplyHead::LEN as u64 + u64::from(list)
    }

    /// The range of the last slice below `end` that is in the answer, or where it would be: slices before it
    /// are all full, since only a chunk's last slice may be short.
    fn slices_before(&self, end: u32) -> Range<u64> {
        let below = self.mask & (((1u32 << end) - 1) as u16);
        let Some(last) = below.checked_ilog2() else { return self.slices_start()..self.slices_start() };
        let start = self.slices_start() + u64::from(below.count_ones() - 1) * SLICE_SIZE as u64;
        start..start + u64::from((self.chunk_len - last * SLICE_SIZE as u32).min(SLICE_SIZE as u32))
    }
}

/// Asks which of up to [`HAVE_CHUNKS_MAX`] chunks a peer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// The chunks; the answer has one bit for each, in this order.
    pub chunks: Vec<ChunkId>,
}

#[derive(Clone, PartialEq, Message)]
struct HaveRequest {
    /// Chunk ids, 20 bytes each, one after another.
    #[prost(bytes = "vec", tag = "1")]
    chunks: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HaveReply {
    /// Bit i % 8 of byte i / 8: chunk i is here.
    #[prost(bytes = "vec", tag = "1")]
    bitmap: Vec<u8>,
}

impl Have {
    /// Length of the longest encoded message, bytes.
    const LEN_MAX: usize = HAVE_CHUNKS_MAX * ChunkId::LEN + 16;

    /// Writes the query; chunks beyond the limit are left out.
    pub fn emit(&self) -> Vec<u8> {
        let ids = self.chunks.iter().take(HAVE_CHUNKS_MAX).flat_map(|id| id.0).collect();
        let mut out = vec![KIND_HAVE];
        delimit(&mut out, &HaveRequest { chunks: ids });
        out
    }

    /// Writes an answer: one flag per chunk of the query.
    pub fn emit_reply(found: &[bool]) -> Vec<u8> {
        let found = &found[..found.len().min(HAVE_CHUNKS_MAX)];
        let bits = |flags: &[bool]| flags.iter().rev().fold(0, |byte, &flag| byte << 1 | u8::from(flag));
        let mut out = Vec::new();
        delimit(&mut out, &HaveReply { bitmap: found.chunks(8).map(bits).collect() });
        out
    }

    /// Reads the answer to this query; `Ok(None)` while there are too few bytes.
    pub fn parse_reply(&self, bytes: &[u8]) -> Result<Option<Vec<bool>>, Malformed> {
        let Some(message) = delimited(bytes, Self::LEN_MAX)? else { return Ok(None) };
        let reply = HaveReply::decode(message).map_err(|_| Malformed("have reply"))?;
        let asked = self.chunks.len().min(HAVE_CHUNKS_MAX);
        if reply.bitmap.len() != asked.div_ceil(8) {
            return Err(Malformed("have reply: bitmap"));
        }
        Ok(Some((0..asked).map(|index| reply.bitmap[index / 8] >> (index % 8) & 1 == 1).collect()))
    }
}

fn delimit(out: &mut Vec<u8>, message: &impl Message) {
    out.extend_from_slice(&(message.encoded_len() as u16).to_le_bytes());
    out.extend_from_slice(&message.encode_to_vec());
}

fn delimited(bytes: &[u8], len_max: usize) -> Result<Option<&[u8]>, Malformed> {
    let Some((len, rest)) = bytes.split_first_chunk::<LENGTH_SIZE>() else { return Ok(None) };
    let len = usize::from(u16::from_le_bytes(*len));
    if len > len_max {
        return Err(Malformed("message length"));
    }
    if rest.len() > len {
        return Err(Malformed("bytes behind a message"));
    }
    Ok((rest.len() == len).then_some(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(count: usize) -> Vec<ChunkId> {
        (0..count).map(|index| ChunkId([index as u8; 20])).collect()
    }

    proptest! {
        #[test]
        fn slice_requests_round_trip(chunk in any::<[u8; 20]>(), mask in any::<u16>(), list in any::<bool>(), cut in 0..SliceRequest::LEN) {
            let request = SliceRequest { chunk: ChunkId(chunk), mask, list };
            let bytes = request.emit();
            prop_assert_eq!(Request::parse(&bytes), Ok(Some(Request::Slices(request))));
            prop_assert_eq!(Request::parse(&bytes[..cut]), Ok(None));
            prop_assert!(Request::parse(&[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn have_round_trips(found in prop::collection::vec(any::<bool>(), 0..=HAVE_CHUNKS_MAX), cut in any::<prop::sample::Index>()) {
            let have = Have { chunks: ids(found.len()) };
            let bytes = have.emit();
            prop_assert_eq!(Request::parse(&bytes), Ok(Some(Request::Have(have.clone()))));
            prop_assert_eq!(Request::parse(&bytes[..cut.index(bytes.len())]), Ok(None));
            let reply = Have::emit_reply(&found);
            prop_assert_eq!(have.parse_reply(&reply[..cut.index(reply.len())]), Ok(None));
            prop_assert_eq!(have.parse_reply(&reply), Ok(Some(found)));
            let other = Have { chunks: ids(have.chunks.len() + 8) };
            prop_assert!(have.chunks.len() + 8 > HAVE_CHUNKS_MAX || other.parse_reply(&reply).is_err());
        }

        #[test]
        fn parsers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..4) {
            let _ = Request::parse(&bytes);
            let _ = Request::parse(&[&[kind, 30, 0], &bytes[..]].concat());
            let _ = Have { chunks: ids(3) }.parse_reply(&bytes);
            if let Ok(head) = ReplyHead::parse(&bytes) {
                prop_assert_eq!(&head.emit()[..], &bytes[..ReplyHead::LEN]);
            }
        }

        #[test]
        fn every_byte_of_a_reply_has_one_place(
            chunk_len in 1..=CHUNK_SIZE_MAX as u32, mask in any::<u16>(), list in any::<bool>(), at in any::<prop::sample::Index>(),
        ) {
            let layout = ReplyLayout::new(chunk_len, mask, list);
            let head = layout.head();
            prop_assert_eq!(ReplyHead::parse(&head.emit()), Ok(head));
            let parts = [Part::Head, Part::List].into_iter().chain((0..16).map(Part::Slice));
            let mut end = 0;
            for (part, range) in parts.filter_map(|part| Some((part, layout.range(part)?))) {
                prop_assert_eq!(range.start, end);
                end = range.end;
                let len = (range.end - range.start) as u32;
                prop_assert_eq!(layout.locate(range.start), Some(Spot { part, offset: 0, rest: len }));
                prop_assert_eq!(layout.locate(range.end - 1), Some(Spot { part, offset: len - 1, rest: 1 }));
                let inside = at.index(len as usize) as u32;
                let spot = Spot { part, offset: inside, rest: len - inside };
                prop_assert_eq!(layout.locate(range.start + u64::from(inside)), Some(spot));
            }
            prop_assert_eq!((layout.total(), layout.locate(end)), (end, None));
            prop_assert_eq!(layout.locate(u64::MAX), None);
            if mask == u16::MAX {
                let list = if list { 32 * u64::from(chunk_len.div_ceil(65_536)) } else { 0 };
                prop_assert_eq!(layout.total(), 16 + list + u64::from(chunk_len));
            }
        }
    }

    #[test]
    fn heads_that_promise_what_cannot_be_are_refused() {
        let good = ReplyLayout::new(100_000, 0b11, true).head();
        assert_eq!(ReplyHead::parse(&good.emit()), Ok(good));
        let wrong = [
            ReplyHead { chunk_len: 0, ..good },
            ReplyHead { chunk_len: CHUNK_SIZE_MAX as u32 + 1, ..good },
            ReplyHead { mask: 0b100, ..good },
            ReplyHead { status: Status::NotFound, ..good },
            ReplyHead { retry_ms: 1, ..good },
        ];
        for head in wrong {
            assert!(ReplyHead::parse(&head.emit()).is_err(), "{head:?}");
        }
        let busy = ReplyHead::failed(Status::Busy, 250);
        assert_eq!(ReplyHead::parse(&busy.emit()), Ok(busy));
        assert!(ReplyHead::parse(&[6; 16]).is_err());
    }
}

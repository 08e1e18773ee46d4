//! Puts sealed pieces into chunks (docs/protocol/content.md §5).
//!
//! A full piece is a chunk alone. Smaller ones share: a few chunks stay open, each piece goes into the
//! oldest that has room, so that what is added together lies together. A record that crosses a slice border
//! costs its reader two slices and a copy, so pieces are placed not to cross one; the gaps that this leaves
//! are filled by later, smaller pieces, and when too much of a chunk is gaps, a piece may cross after all.
//!
//! A piece's locator is known when its chunk is closed **and hashed**. Hashing is the cost (SHA-1 above
//! all), so it may happen on another thread: [`Packer::poll_closed`], [`ClosedChunk::hash`] there, and
//! [`Packer::hashed`] here, in any order. One packer serves one salt domain.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::seal::SealedPiece;
use super::slices::SliceList;
use crate::base::ChunkId;
use crate::crypto::hash::sha1;
use crate::limits::{CHUNK_SIZE_MAX, PACK_GAPS_MAX, PACK_OPEN_MAX, SLICE_SIZE};
use crate::wire::locator::Locator;

/// From this length on a sealed piece is a chunk alone: less than one slice would be left over.
const ALONE: usize = CHUNK_SIZE_MAX - SLICE_SIZE + 1;
/// An open chunk with less room than this is closed, bytes.
const ROOM_MIN: usize = 256;

/// A chunk that takes no more pieces, not hashed yet.
pub struct ClosedChunk {
    number: u64,
    bytes: Vec<u8>,
}

/// A chunk for the store.
pub struct NewChunk {
    number: u64,
    /// SHA-1 of the ciphertext.
    pub id: ChunkId,
    /// The slices' chaining values, and their root.
    pub slices: SliceList,
    /// The ciphertext.
    pub bytes: Vec<u8>,
}

impl ClosedChunk {
    /// Hashes the chunk: its address by SHA-1, its integrity by BLAKE3. The expensive step; any thread.
    pub fn hash(self) -> NewChunk {
        let slices = SliceList::from_chunk(&self.bytes);
        NewChunk { number: self.number, id: ChunkId(sha1(&[&self.bytes])), slices, bytes: self.bytes }
    }
}

struct Placed {
    tag: u64,
    key: [u8; 32],
    offset: u32,
    plain_len: u32,
}

#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    gaps: Vec<Range<usize>>,
    placed: Vec<Placed>,
}

impl Open {
    /// Where `len` sealed bytes go, if anywhere.
    fn room(&self, len: usize) -> Option<Room> {
        let fitting = self.gaps.iter().enumerate().filter(|(_, gap)| gap.len() >= len);
        if let Some((index, gap)) = fitting.min_by_key(|(_, gap)| gap.len()) {
            return Some(Room::Gap { index, offset: gap.start });
        }
        let end = self.bytes.len();
        let crosses = end % SLICE_SIZE + len > SLICE_SIZE && !end.is_multiple_of(SLICE_SIZE);
        let aligned = if crosses { end.next_multiple_of(SLICE_SIZE) } else { end };
        let gaps: usize = self.gaps.iter().map(ExactSizeIterator::len).sum();
        if gaps + (aligned - end) <= PACK_GAPS_MAX && aligned + len <= CHUNK_SIZE_MAX {
            return Some(Room::End { offset: aligned });
        }
        (end + len <= CHUNK_SIZE_MAX).then_some(Room::End { offset: end })
    }

    fn place(&mut self, room: Room, tag: u64, piece: SealedPiece) {
        let len = piece.sealed.len();
        let offset = match room {
            Room::Gap { index, offset } => {
                self.bytes[offset..offset + len].copy_from_slice(&piece.sealed);
                self.gaps[index].start += len;
                if self.gaps[index].is_empty() {
                    self.gaps.remove(index);
                }
                offset
            }
            Room::End { offset } => {
                let end = self.bytes.len();
                if offset > end {
                    self.gaps.push(end..offset);
                    self.bytes.resize(offset, 0);
                }
                self.bytes.extend_from_slice(&piece.sealed);
                offset
            }
        };
        self.placed.push(Placed { tag, key: piece.key, offset: offset as u32, plain_len: piece.plain_len });
    }

    fn is_full(&self) -> bool {
        self.bytes.len() + ROOM_MIN > CHUNK_SIZE_MAX && self.gaps.iter().all(|gap| gap.len() < ROOM_MIN)
    }
}

#[derive(Clone, Copy)]
enum Room {
    Gap { index: usize, offset: usize },
    End { offset: usize },
}

/// See the module. Drain [`Self::poll_closed`] (or [`Self::poll_chunk`]) and [`Self::poll_resolved`] after
/// every call; at most [`PACK_OPEN_MAX`] chunks are kept open.
#[derive(Default)]
pub struct Packer {
    open: VecDeque<Open>,
    closed: VecDeque<ClosedChunk>,
    unhashed: BTreeMap<u64, Vec<Placed>>,
    resolved: VecDeque<(u64, Locator)>,
    next_number: u64,
}

impl Packer {
    /// An empty packer, for one salt domain.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece; `tag` comes back with its locator.
    pub fn add(&mut self, tag: u64, mut piece: SealedPiece) {
        let len = piece.sealed.len();
        if len >= ALONE {
            let bytes = std::mem::take(&mut piece.sealed);
            let placed = Placed { tag, key: piece.key, offset: 0, plain_len: piece.plain_len };
            return self.close(Open { bytes, placed: vec![placed], ..Open::default() });
        }
        let found = self.open.iter().enumerate().find_map(|(at, open)| Some((at, open.room(len)?)));
        let (at, room) = found.unwrap_or_else(|| {
            if self.open.len() == PACK_OPEN_MAX {
                let fullest = (0..self.open.len()).rev().max_by_key(|&at| self.open[at].bytes.len());
                if let Some(fullest) = fullest.and_then(|at| self.open.remove(at)) {
                    self.close(fullest);
                }
            }
            self.open.push_back(Open::default());
            (self.open.len() - 1, Room::End { offset: 0 })
        });
        self.open[at].place(room, tag, piece);
        if self.open[at].is_full()
            && let Some(full) = self.open.remove(at)
        {
            self.close(full);
        }
    }

    /// Closes every open chunk.
    pub fn flush(&mut self) {
        while let Some(open) = self.open.pop_front() {
            self.close(open);
        }
    }

    fn close(&mut self, mut open: Open) {
        let number = self.next_number;
        self.next_number += 1;
        open.bytes.shrink_to_fit();
        self.unhashed.insert(number, open.placed);
        self.closed.push_back(ClosedChunk { number, bytes: open.bytes });
    }

    /// Whether chunks are open that [`Self::flush`] would close.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next closed chunk, to be hashed and handed back through [`Self::hashed`].
    pub fn poll_closed(&mut self) -> Option<ClosedChunk> {
        self.closed.pop_front()
    }

    /// Whether [`Self::poll_closed`] would give one.
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// A closed chunk was hashed: its pieces' locators are known.
    pub fn hashed(&mut self, chunk: &NewChunk) {
        let chunk_len = chunk.slices.chunk_len();
        for placed in self.unhashed.remove(&chunk.number).unwrap_or_default() {
            let locator = Locator {
                chunk: chunk.id,
                root: *chunk.slices.root(),
                chunk_len,
                offset: placed.offset,
                plain_len: placed.plain_len,
                key: placed.key,
            };
            self.resolved.push_back((placed.tag, locator));
        }
    }

    /// The next chunk, hashed on the spot: for callers without worker threads.
    pub fn poll_chunk(&mut self) -> Option<NewChunk> {
        let chunk = self.poll_closed()?.hash();
        self.hashed(&chunk);
        Some(chunk)
    }

    /// The next piece whose locator is known.
    pub fn poll_resolved(&mut self) -> Option<(u64, Locator)> {
        self.resolved.pop_front()
    }

    /// Whether every piece has its locator (and [`Self::poll_resolved`] has handed it out).
    pub fn is_settled(&self) -> bool {
        self.open.is_empty() && self.unhashed.is_empty() && self.resolved.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::{Domain, Piece, PieceKey};
    use super::*;
    use crate::limits::PIECE_PLAIN_MAX;
    use proptest::prelude::*;

    fn plain(index: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![index as u8; len];
        let word = (index as u32).to_le_bytes();
        let n = len.min(4);
        bytes[..n].copy_from_slice(&word[..n]);
        bytes
    }

    fn pack(lens: &[usize]) -> (Vec<NewChunk>, BTreeMap<u64, Locator>) {
        let (mut packer, domain) = (Packer::new(), Domain::new(None));
        let (mut chunks, mut found) = (Vec::new(), BTreeMap::new());
        for (index, &len) in lens.iter().enumerate() {
            packer.add(index as u64, Piece::new(&plain(index, len), &domain).seal());
            assert!(packer.open.len() <= PACK_OPEN_MAX);
            chunks.extend(std::iter::from_fn(|| packer.poll_chunk()));
        }
        packer.flush();
        chunks.extend(std::iter::from_fn(|| packer.poll_chunk()));
        found.extend(std::iter::from_fn(|| packer.poll_resolved()));
        assert!(packer.is_settled());
        (chunks, found)
    }

    fn read(chunks: &[NewChunk], locator: &Locator) -> Vec<u8> {
        let chunk = chunks.iter().find(|chunk| chunk.id == locator.chunk).expect("the chunk");
        assert_eq!(*chunk.slices.root(), locator.root);
        let key = PieceKey::new(&locator.key);
        let mut out = Vec::new();
        for index in 0..locator.records() {
            let mut record = chunk.bytes[locator.record(index)].to_vec();
            let len = key.open_record(index, &mut record).expect("opens");
            out.extend_from_slice(&record[..len]);
        }
        out
    }

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 1usize..9000, 3 => 9000usize..140_000, 1 => 140_000..=PIECE_PLAIN_MAX]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_piece_is_found_again(lens in prop::collection::vec(sizes(), 0..80)) {
            let (chunks, found) = pack(&lens);
            prop_assert_eq!(found.len(), lens.len());
            for (index, &len) in lens.iter().enumerate() {
                let locator = &found[&(index as u64)];
                prop_assert!(Locator::parse(&locator.emit()).is_ok());
                prop_assert_eq!(read(&chunks, locator), plain(index, len));
            }
            let sealed: usize = found.values().map(Locator::sealed_len).sum();
            let stored: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
            prop_assert!(stored <= sealed + chunks.len() * PACK_GAPS_MAX);
        }
    }

    #[test]
    fn full_pieces_are_chunks_alone_and_small_ones_share() {
        let mut lens = vec![PIECE_PLAIN_MAX, PIECE_PLAIN_MAX];
        lens.extend([5000; 400]);
        let (chunks, found) = pack(&lens);
        assert_eq!(chunks.len(), 4);
        assert!(chunks[..2].iter().all(|chunk| chunk.bytes.len() == CHUNK_SIZE_MAX));
        assert!(found[&0].offset == 0 && found[&0].chunk != found[&1].chunk);
        let small = || (2..402u64).map(|tag| &found[&tag]);
        let crossing = small().filter(|locator| locator.slices().len() > 1).count();
        assert!(crossing <= 16, "{crossing} small pieces cross a slice border");
        let first = &found[&2].chunk;
        assert!(small().take(150).filter(|locator| locator.chunk == *first).count() >= 145);
    }

    #[test]
    fn awkward_sizes_do_not_waste_a_chunk() {
        let (chunks, _) = pack(&[33_000; 200]);
        let stored: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        assert!(stored < 200 * 33_016 * 108 / 100, "{stored}");
    }

    #[test]
    fn chunks_may_be_hashed_elsewhere_and_in_any_order() {
        let (mut packer, domain) = (Packer::new(), Domain::new(None));
        for tag in 0..3 {
            packer.add(tag, Piece::new(&plain(tag as usize, PIECE_PLAIN_MAX), &domain).seal());
        }
        let mut closed: Vec<_> = std::iter::from_fn(|| packer.poll_closed()).collect();
        assert!(packer.poll_resolved().is_none() && !packer.is_settled());
        while let Some(chunk) = closed.pop() {
            packer.hashed(&chunk.hash());
        }
        let tags: Vec<_> = std::iter::from_fn(|| packer.poll_resolved()).map(|(tag, _)| tag).collect();
        assert_eq!(tags, [2, 1, 0]);
        assert!(packer.is_settled());
    }
}

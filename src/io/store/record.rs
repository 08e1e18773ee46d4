//! The index record of a chunk (docs/protocol/store.md §3).
//!
//! ```text
//! 0         1        2            4     8          16     48          48+32n         48+32n+16r
//! | version | slices | inline len | len | sequence | root | list      | tails        | inline |
//! |       1 |      n |            |     |          |      | n × 32    | r × 16       |        |
//! ```
//!
//! `r` slices have a run of pages: all of them, or all but the last when that one is inline.

use std::ops::Range;

use super::StoreError;
use crate::crypto::hash::merge_slices;
use crate::limits::{CHUNK_SIZE_MAX, INDEX_RECORD_MAX, SLICE_SIZE, STORE_RUN};

/// Version of the layout.
pub const VERSION: u8 = 1;
/// Bytes of a slice that do not fit in its run.
pub const TAIL: usize = SLICE_SIZE - STORE_RUN;
/// Sequence numbers are less than this: handles are made of them, with room for a slice and a side.
pub const SEQUENCE_MAX: u64 = 1 << 56;
const HEAD: usize = 48;
const LIST_ENTRY: usize = 32;

/// A checked record: no accessor can fail.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

/// What follows from a chunk's length: how its bytes are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The chunk's length, bytes.
    pub len: u32,
    /// Its slices.
    pub slices: u32,
    /// Slices that have a run of pages.
    pub runs: u32,
    /// Length of the last slice when it lies in the record, else 0.
    pub inline: u32,
}

impl Shape {
    /// The shape of a chunk of `len` bytes; `None` when no chunk has that length.
    pub fn of(len: usize) -> Option<Self> {
        if len == 0 || len > CHUNK_SIZE_MAX {
            return None;
        }
        let slices = len.div_ceil(SLICE_SIZE);
        let last = len - (slices - 1) * SLICE_SIZE;
        let inlined = HEAD + slices * LIST_ENTRY + (slices - 1) * TAIL + last <= INDEX_RECORD_MAX;
        let (runs, inline) = if inlined { (slices - 1, last) } else { (slices, 0) };
        Some(Self { len: len as u32, slices: slices as u32, runs: runs as u32, inline: inline as u32 })
    }

    /// Length of the record, bytes.
    pub fn record_len(&self) -> usize {
        HEAD + self.slices as usize * LIST_ENTRY + self.runs as usize * TAIL + self.inline as usize
    }

    /// Length of one slice, bytes.
    pub fn slice_len(&self, slice: u32) -> usize {
        (self.len as usize - slice as usize * SLICE_SIZE).min(SLICE_SIZE)
    }

    /// Where the chunk's list lies in the record.
    pub fn list(&self) -> Range<usize> {
        HEAD..HEAD + self.slices as usize * LIST_ENTRY
    }

    /// Where the 16 tail bytes of a slice with a run lie in the record.
    pub fn tail(&self, slice: u32) -> Range<usize> {
        let start = self.list().end + slice as usize * TAIL;
        start..start + TAIL
    }

    /// Where the inline slice lies in the record.
    pub fn inline(&self) -> Range<usize> {
        let start = self.list().end + self.runs as usize * TAIL;
        start..start + self.inline as usize
    }

    /// Bytes of database file that the chunk occupies, B-tree overhead estimated: what limits count.
    pub fn footprint(&self) -> u64 {
        self.runs as u64 * SLICE_SIZE as u64 + 2 * self.record_len() as u64
    }
}

impl<'a> Record<'a> {
    /// Checks bytes that the database gave.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StoreError> {
        let wrong = StoreError::Malformed("index record");
        let head: &[u8; HEAD] =
            bytes.get(..HEAD).and_then(|head| head.try_into().ok()).ok_or(wrong.clone())?;
        let len = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
        let shape = Shape::of(len as usize).ok_or(wrong.clone())?;
        let inline = u32::from(u16::from_le_bytes([head[2], head[3]]));
        let fits = head[0] == VERSION
            && u32::from(head[1]) == shape.slices
            && inline == shape.inline
            && u64::from_le_bytes(head[8..16].try_into().expect("eight bytes")) < SEQUENCE_MAX
            && bytes.len() == shape.record_len();
        if fits { Ok(Self { bytes, shape }) } else { Err(wrong) }
    }

    /// How the chunk is divided.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The chunk's sequence number.
    pub fn sequence(&self) -> u64 {
        u64::from_le_bytes(self.bytes[8..16].try_into().expect("eight bytes"))
    }

    /// Whether the list of slices belongs to the root: then both are what they were.
    pub fn is_whole(&self) -> bool {
        merge_slices(&self.bytes[self.shape.list()]) == self.root()
    }

    /// BLAKE3 root of the chunk.
    pub fn root(&self) -> [u8; 32] {
        self.bytes[16..48].try_into().expect("32 bytes")
    }
}

/// Writes the record of the chunk `bytes`, whose list has been checked to have `shape.slices` entries.
pub fn emit(shape: Shape, sequence: u64, root: &[u8; 32], list: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(shape.record_len());
    out.extend([VERSION, shape.slices as u8]);
    out.extend((shape.inline as u16).to_le_bytes());
    out.extend(shape.len.to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend(root);
    out.extend(list);
    for slice in 0..shape.runs {
        let start = slice as usize * SLICE_SIZE;
        let tail = &bytes[(start + STORE_RUN).min(bytes.len())..(start + SLICE_SIZE).min(bytes.len())];
        out.extend(tail);
        out.resize(shape.tail(slice).end, 0);
    }
    out.extend(&bytes[bytes.len() - shape.inline as usize..]);
    out
}

/// The bytes of a slice that go into its run; the rest of the run is zero.
pub fn run_bytes(bytes: &[u8], slice: u32) -> &[u8] {
    let start = slice as usize * SLICE_SIZE;
    &bytes[start..(start + STORE_RUN).min(bytes.len())]
}

/// Key of a slice's run: sequence, then slice, so that a new chunk's runs are appended.
pub fn run_key(sequence: u64, slice: u32) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&sequence.to_be_bytes());
    key[8] = slice as u8;
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_last_slices_are_inline_and_runs_are_equal() {
        assert_eq!(Shape::of(0), None);
        assert_eq!(Shape::of(CHUNK_SIZE_MAX + 1), None);
        let full = Shape::of(CHUNK_SIZE_MAX).expect("a chunk");
        assert_eq!((full.slices, full.runs, full.inline), (16, 16, 0));
        let small = Shape::of(1900).expect("a chunk");
        assert_eq!((small.slices, small.runs, small.inline), (1, 0, 1900));
        let larger = Shape::of(2000).expect("a chunk");
        assert_eq!((larger.slices, larger.runs, larger.inline), (1, 1, 0));
        for len in 1..CHUNK_SIZE_MAX {
            assert!(Shape::of(len).expect("a chunk").record_len() <= INDEX_RECORD_MAX);
        }
    }

    proptest! {
        #[test]
        fn a_chunk_can_be_put_together_again(len in 1usize..=300_000, seed in any::<u8>(), sequence in 0..SEQUENCE_MAX) {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect();
            let shape = Shape::of(len).expect("a chunk");
            let list: Vec<u8> = (0..shape.slices * 32).map(|i| i as u8).collect();
            let emitted = emit(shape, sequence, &[7; 32], &list, &bytes);
            let record = Record::parse(&emitted).expect("just emitted");
            prop_assert_eq!(record.shape(), shape);
            prop_assert_eq!((record.sequence(), record.root()), (sequence, [7; 32]));
            prop_assert_eq!(&emitted[shape.list()], &list[..]);
            let mut again: Vec<u8> = Vec::new();
            for slice in 0..shape.slices {
                let from = again.len();
                if slice < shape.runs {
                    again.extend(run_bytes(&bytes, slice));
                    again.extend(&emitted[shape.tail(slice)]);
                    again.truncate(from + shape.slice_len(slice));
                } else {
                    again.extend(&emitted[shape.inline()]);
                }
            }
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2100)) {
            if let Ok(record) = Record::parse(&bytes) {
                prop_assert_eq!(record.shape().record_len(), bytes.len());
            }
        }
    }
}

//! The slice list: what lets a fetcher verify each 64 KiB of a chunk alone (docs/protocol/content.md §3).
//!
//! A slice is a whole subtree of the chunk's BLAKE3 tree, so the list of the slices' chaining values merges
//! to the very hash that `blake3(ciphertext)` gives. Whoever has checked a list against the root in a
//! locator can verify slices in any order, from anybody, hashing each byte once.

use blake3::hazmat::ChainingValue;

use crate::crypto::hash::{merge_slices, slice_cv};
use crate::limits::{CHUNK_SIZE_MAX, SLICE_SIZE};

/// Bytes of one chaining value.
pub const VALUE_SIZE: usize = 32;

/// A slice list that does not belong to the chunk that it was sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// No chunk has this length.
    #[error("no chunk is {0} bytes long")]
    ChunkLength(u32),
    /// Not one chaining value per slice.
    #[error("a slice list of {got} bytes where {wanted} are due")]
    Length {
        /// Bytes given.
        got: usize,
        /// Bytes due.
        wanted: usize,
    },
    /// The values do not merge to the root.
    #[error("the slice list does not match the chunk's root")]
    Root,
}

/// A slice that is not what the list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slice {0} does not match its hash")]
pub struct BadSlice(pub u32);

/// Number of slices of a chunk of `chunk_len` bytes.
pub const fn slice_count(chunk_len: u32) -> u32 {
    chunk_len.div_ceil(SLICE_SIZE as u32)
}

/// Length of slice `index`, bytes; 0 when the chunk has no such slice.
pub const fn slice_len(chunk_len: u32, index: u32) -> u32 {
    let rest = (chunk_len as u64).saturating_sub(index as u64 * SLICE_SIZE as u64);
    if rest < SLICE_SIZE as u64 { rest as u32 } else { SLICE_SIZE as u32 }
}

/// The chaining values of a chunk's slices, known to merge to the chunk's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceList {
    chunk_len: u32,
    root: [u8; 32],
    bytes: Box<[u8]>,
}

impl SliceList {
    /// Hashes a whole chunk, once. Chunks have 1 to [`CHUNK_SIZE_MAX`] bytes.
    pub fn from_chunk(chunk: &[u8]) -> Self {
        debug_assert!(!chunk.is_empty() && chunk.len() <= CHUNK_SIZE_MAX);
        let chunk_len = chunk.len() as u32;
        let count = slice_count(chunk_len).max(1);
        if count == 1 {
            let root = *blake3::hash(chunk).as_bytes();
            return Self { chunk_len, root, bytes: root.into() };
        }
        let mut bytes = Vec::with_capacity(count as usize * VALUE_SIZE);
        for (index, slice) in chunk.chunks(SLICE_SIZE).enumerate() {
            bytes.extend_from_slice(&value_of(index as u32, count, slice));
        }
        Self { chunk_len, root: merge_slices(&bytes), bytes: bytes.into() }
    }

    /// Takes a list that someone sent; afterwards it is as good as one made from the chunk itself.
    pub fn parse(chunk_len: u32, bytes: &[u8], root: &[u8; 32]) -> Result<Self, BadList> {
        if chunk_len == 0 || chunk_len as usize > CHUNK_SIZE_MAX {
            return Err(BadList::ChunkLength(chunk_len));
        }
        let wanted = slice_count(chunk_len) as usize * VALUE_SIZE;
        if bytes.len() != wanted {
            return Err(BadList::Length { got: bytes.len(), wanted });
        }
        if merge_slices(bytes) != *root {
            return Err(BadList::Root);
        }
        Ok(Self { chunk_len, root: *root, bytes: bytes.into() })
    }

    /// BLAKE3 of the chunk's ciphertext.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Length of the chunk, bytes.
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }

    /// Number of slices.
    pub fn count(&self) -> u32 {
        (self.bytes.len() / VALUE_SIZE) as u32
    }

    /// The list as it is stored and sent: 32 bytes per slice, in order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Verifies one whole slice.
    pub fn verify(&self, index: u32, slice: &[u8]) -> Result<(), BadSlice> {
        let count = self.count();
        let right = index < count
            && slice.len() == slice_len(self.chunk_len, index) as usize
            && value_of(index, count, slice) == value_at(&self.bytes, index as usize);
        if right { Ok(()) } else { Err(BadSlice(index)) }
    }
}

/// The chaining value of slice `index` of a chunk of `count` slices. The only slice of a chunk is the
/// root of its tree, and so its value is the plain hash.
fn value_of(index: u32, count: u32, slice: &[u8]) -> ChainingValue {
    slice_cv(index, slice, count == 1 || slice.is_empty())
}

fn value_at(bytes: &[u8], index: usize) -> ChainingValue {
    bytes[index * VALUE_SIZE..][..VALUE_SIZE].try_into().expect("a list is whole values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use proptest::prelude::*;

    fn chunk(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Rng::from_seed([3; 32]).fill(&mut bytes);
        bytes
    }

    fn lengths() -> impl Strategy<Value = usize> {
        let near = (1usize..=16, -2i64..3)
            .prop_map(|(n, d)| (n as i64 * SLICE_SIZE as i64 + d).clamp(1, CHUNK_SIZE_MAX as i64) as usize);
        prop_oneof![1..=CHUNK_SIZE_MAX, 1usize..3000, near]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn merges_to_plain_blake3_and_verifies_each_slice_alone(len in lengths(), flip in any::<prop::sample::Index>()) {
            let mut bytes = chunk(len);
            let made = SliceList::from_chunk(&bytes);
            let whole = blake3::hash(&bytes);
            prop_assert_eq!(made.root(), whole.as_bytes());
            let list = SliceList::parse(len as u32, made.as_bytes(), made.root());
            prop_assert_eq!(list.as_ref(), Ok(&made));
            for (index, slice) in bytes.chunks(SLICE_SIZE).enumerate() {
                prop_assert_eq!(made.verify(index as u32, slice), Ok(()));
                prop_assert!(made.verify(index as u32, &slice[1..]).is_err());
                prop_assert!(made.verify(index as u32 + 1, slice).is_err());
            }
            let at = flip.index(len);
            bytes[at] ^= 1;
            for (index, slice) in bytes.chunks(SLICE_SIZE).enumerate() {
                prop_assert_eq!(made.verify(index as u32, slice).is_err(), index == at / SLICE_SIZE);
            }
            let mut forged = made.as_bytes().to_vec();
            let at = flip.index(forged.len());
            forged[at] ^= 1;
            prop_assert_eq!(SliceList::parse(len as u32, &forged, made.root()), Err(BadList::Root));
        }

        #[test]
        fn parse_never_panics(len in any::<u32>(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(SliceList::parse(len, &bytes, &[0; 32]).is_err());
        }
    }

    #[test]
    fn lengths_of_slices() {
        assert_eq!((slice_count(1), slice_count(65_536), slice_count(65_537)), (1, 1, 2));
        assert_eq!((slice_len(65_537, 0), slice_len(65_537, 1), slice_len(65_537, 2)), (65_536, 1, 0));
        assert_eq!(slice_len(10, u32::MAX), 0);
    }
}

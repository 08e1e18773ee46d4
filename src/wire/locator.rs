//! Where a piece of content lies and how to open it (docs/protocol/content.md §4).
//!
//! ```text
//! 0        20       52          56       60          64      96
//! | chunk  | root   | chunk len | offset | plain len | key    |
//! ```

use std::ops::Range;

use super::Malformed;
use crate::base::ChunkId;
use crate::limits::{CHUNK_SIZE_MAX, PIECE_PLAIN_MAX, RECORD_PLAIN, SLICE_SIZE, TAG_SIZE};

/// Encoded length, bytes.
pub const LEN: usize = 96;

/// One piece: up to [`PIECE_PLAIN_MAX`] bytes of plaintext, sealed in records of [`RECORD_PLAIN`] under
/// a key of its own, somewhere in a chunk. Whoever holds it can find, check and open the piece, and
/// nothing else in the chunk. Has no `Debug`: it is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Locator {
    /// Which chunk.
    pub chunk: ChunkId,
    /// BLAKE3 root of the chunk's ciphertext.
    pub root: [u8; 32],
    /// Length of the chunk's ciphertext, bytes.
    pub chunk_len: u32,
    /// Where in the chunk the sealed piece begins, bytes.
    pub offset: u32,
    /// Length of the plaintext, bytes; at least 1.
    pub plain_len: u32,
    /// The content key.
    pub key: [u8; 32],
}

/// Length of `plain` bytes once sealed.
pub const fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(RECORD_PLAIN) * TAG_SIZE
}

impl Locator {
    /// Reads and checks: afterwards the piece lies inside its chunk and the chunk inside its limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; LEN] =
            bytes.get(..LEN).and_then(|b| b.try_into().ok()).ok_or(Malformed("locator length"))?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let locator = Self {
            chunk: ChunkId::from_slice(bytes).expect("20 bytes"),
            root: bytes[20..52].try_into().expect("32 bytes"),
            chunk_len: word(52),
            offset: word(56),
            plain_len: word(60),
            key: bytes[64..].try_into().expect("32 bytes"),
        };
        if locator.chunk_len as usize > CHUNK_SIZE_MAX {
            return Err(Malformed("locator: chunk length"));
        }
        if locator.plain_len == 0 || locator.plain_len as usize > PIECE_PLAIN_MAX {
            return Err(Malformed("locator: piece length"));
        }
        if locator.offset as usize + locator.sealed_len() > locator.chunk_len as usize {
            return Err(Malformed("locator: piece outside its chunk"));
        }
        Ok(locator)
    }

    /// Writes the 96 bytes.
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..20].copy_from_slice(&self.chunk.0);
        out[20..52].copy_from_slice(&self.root);
        out[52..56].copy_from_slice(&self.chunk_len.to_le_bytes());
        out[56..60].copy_from_slice(&self.offset.to_le_bytes());
        out[60..64].copy_from_slice(&self.plain_len.to_le_bytes());
        out[64..].copy_from_slice(&self.key);
        out
    }

    /// Length of the sealed piece, bytes.
    pub fn sealed_len(&self) -> usize {
        sealed_len(self.plain_len as usize)
    }

    /// Number of sealed records.
    pub fn records(&self) -> u32 {
        (self.plain_len as usize).div_ceil(RECORD_PLAIN) as u32
    }

    /// The sealed bytes of one record, as a range of the chunk.
    pub fn record(&self, index: u32) -> Range<usize> {
        let start = self.offset as usize + index as usize * SLICE_SIZE;
        let end = (start + SLICE_SIZE).min(self.offset as usize + self.sealed_len());
        start..end
    }

    /// The slices of the chunk that the piece touches.
    pub fn slices(&self) -> Range<u32> {
        let end = self.offset as usize + self.sealed_len();
        (self.offset as usize / SLICE_SIZE) as u32..end.div_ceil(SLICE_SIZE) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips_and_stays_inside(offset in 0u32..1_000_000, plain_len in 1u32..1_048_320, slack in 0u32..1000) {
            let chunk_len = offset + sealed_len(plain_len as usize) as u32 + slack;
            let locator = Locator { chunk: ChunkId([1; 20]), root: [2; 32], chunk_len, offset, plain_len, key: [3; 32] };
            let parsed = Locator::parse(&locator.emit());
            if chunk_len as usize > CHUNK_SIZE_MAX {
                prop_assert!(parsed.is_err());
            } else {
                prop_assert!(parsed.is_ok_and(|parsed| parsed == locator));
                let total: usize = (0..locator.records()).map(|i| locator.record(i).len() - TAG_SIZE).sum();
                prop_assert_eq!(total, plain_len as usize);
                prop_assert!(locator.slices().end as usize <= CHUNK_SIZE_MAX / SLICE_SIZE);
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(locator) = Locator::parse(&bytes) {
                prop_assert!(locator.slices().end <= 16);
            }
        }
    }
}

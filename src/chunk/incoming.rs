//! A chunk that comes as a whole, in any order, from somebody who is not believed: it is hashed as it comes, each slice once
//! all before it are here, so that no long piece of work is left for the end.

use super::slices::{slice_count, slice_len};
use crate::base::{ChunkId, NewChunk, RangeSet};
use crate::crypto::hash::{Sha1Stream, merge_slices, slice_cv};
use crate::limits::{CHUNK_SIZE_MAX, SLICE_SIZE};

/// A chunk on its way.
pub struct Incoming {
    bytes: Vec<u8>,
    have: RangeSet,
    /// Slices hashed so far.
    hashed: u32,
    sha1: Sha1Stream,
    list: Vec<u8>,
}

impl Incoming {
    /// Room for a chunk of 1 to [`CHUNK_SIZE_MAX`] bytes.
    ///
    /// # Panics
    /// For any other length.
    pub fn new(len: u32) -> Self {
        assert!((1..=CHUNK_SIZE_MAX as u32).contains(&len), "no chunk is {len} bytes long");
        // The kernel gives zero pages as they are touched: who offers and sends nothing takes next to nothing.
        let bytes = vec![0; len as usize];
        Self { bytes, have: RangeSet::new(), hashed: 0, sha1: Sha1Stream::default(), list: Vec::new() }
    }

    /// Takes some of it; false when that lies behind its end.
    pub fn take(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len() as u64) else { return false };
        if end > self.bytes.len() as u64 {
            return false;
        }
        self.bytes[offset as usize..end as usize].copy_from_slice(bytes);
        self.have.insert(offset..end);
        self.hash();
        true
    }

    fn hash(&mut self) {
        let len = self.bytes.len() as u32;
        let ahead = self.have.iter().next().filter(|first| first.start == 0).map_or(0, |first| first.end);
        while self.hashed < slice_count(len) {
            let start = self.hashed as usize * SLICE_SIZE;
            let end = start + slice_len(len, self.hashed) as usize;
            if ahead < end as u64 {
                return;
            }
            let slice = &self.bytes[start..end];
            self.sha1.update(slice);
            self.list.extend_from_slice(&slice_cv(self.hashed, slice, slice_count(len) == 1));
            self.hashed += 1;
        }
    }

    /// Whether all of it is here.
    pub fn is_whole(&self) -> bool {
        self.hashed == slice_count(self.bytes.len() as u32)
    }

    /// The chunk, named by what its bytes hash to; `None` until it is whole.
    pub fn finish(self) -> Option<NewChunk> {
        if !self.is_whole() {
            return None;
        }
        let root = merge_slices(&self.list);
        Some(NewChunk { id: ChunkId(self.sha1.finish()), root, bytes: self.bytes, list: self.list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::chunk::SliceList;
    use crate::crypto::hash::sha1;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_the_order_the_chunk_is_what_it_is_at_once(len in 1..=CHUNK_SIZE_MAX, seed in any::<u64>(), step in 1usize..40_000) {
            let mut rng = Rng::from_number(seed);
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes);
            let mut pieces: Vec<usize> = (0..len.div_ceil(step)).collect();
            for at in (1..pieces.len()).rev() {
                pieces.swap(at, rng.below(at as u64 + 1) as usize);
            }
            let mut incoming = Incoming::new(len as u32);
            for piece in pieces {
                prop_assert!(!incoming.is_whole());
                let start = piece * step;
                prop_assert!(incoming.take(start as u64, &bytes[start..(start + step).min(len)]));
            }
            let chunk = incoming.finish().expect("whole");
            let list = SliceList::from_chunk(&bytes);
            prop_assert_eq!(chunk.id, ChunkId(sha1(&[&bytes])));
            prop_assert_eq!((&chunk.root, &chunk.list[..]), (list.root(), list.as_bytes()));
            prop_assert!(chunk.bytes == bytes);
        }
    }

    #[test]
    fn what_lies_behind_the_end_is_refused_and_half_a_chunk_is_none() {
        let mut incoming = Incoming::new(100);
        assert!(incoming.take(0, &[1; 60]) && incoming.take(60, &[]));
        assert!(!incoming.take(60, &[1; 41]) && !incoming.take(101, &[]) && !incoming.take(u64::MAX, &[1]));
        assert!(!incoming.is_whole() && incoming.finish().is_none());
    }
}

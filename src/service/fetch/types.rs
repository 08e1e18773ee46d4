//! What a fetch is asked for, and what it has to say.

use crate::base::{ChunkId, SliceBuf, StreamId};
use crate::chunk::slices::{slice_count, slice_len};
use crate::service::PeerId;

/// Which chunk, and what it must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its address.
    pub id: ChunkId,
    /// BLAKE3 root of its ciphertext.
    pub root: [u8; 32],
    /// Length of its ciphertext, bytes; 1 to 1 MiB.
    pub len: u32,
}

impl Target {
    /// Number of slices.
    pub fn slices(&self) -> u32 {
        slice_count(self.len)
    }

    /// Length of one slice, bytes.
    pub fn slice_len(&self, index: u32) -> usize {
        slice_len(self.len, index) as usize
    }
}

/// What a fetch has to say.
#[derive(Debug)]
pub enum Event {
    /// A verified slice: `data[..len]` is ciphertext.
    Slice {
        /// Which chunk.
        target: Target,
        /// Which slice.
        index: u32,
        /// The bytes.
        data: SliceBuf,
        /// How many.
        len: usize,
        /// Who sent them.
        from: PeerId,
    },
    /// Every connected peer said that it does not have the chunk, and no other came in time that has it. Its wants are
    /// forgotten.
    Unavailable {
        /// Which chunk.
        target: Target,
    },
    /// A peer sent bytes that do not match the chunk's root.
    Liar {
        /// Who.
        peer: PeerId,
        /// Of which chunk.
        chunk: ChunkId,
    },
    /// Tell the peer to stop sending on this stream.
    Stop {
        /// Who.
        peer: PeerId,
        /// Which stream.
        stream: StreamId,
    },
}

/// Totals since the start, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Slices received and verified.
    pub slices: u64,
    /// Ciphertext bytes in them.
    pub bytes: u64,
    /// Requests sent.
    pub requests: u64,
    /// Answers that said *not found*.
    pub not_found: u64,
    /// Slices or lists that failed verification.
    pub liars: u64,
    /// Requests given up because nothing came for [`crate::limits::FETCH_STALL_MS`].
    pub stalled: u64,
}

//! How cores read stored chunks, whoever stores them: LMDB in a daemon, a map in the simulator.

use super::ChunkId;

/// A chunk that is stored here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk {
    /// Names the chunk to [`ChunkRead`]; stable while the daemon runs.
    pub handle: u64,
    /// Ciphertext length, bytes.
    pub len: u32,
    /// BLAKE3 root of the ciphertext.
    pub root: [u8; 32],
}

/// A chunk to store. Whoever made it has checked that `id`, `root` and `list` are those of `bytes`.
#[derive(Clone)]
pub struct NewChunk {
    /// SHA-1 of `bytes`.
    pub id: ChunkId,
    /// BLAKE3 root of `bytes`.
    pub root: [u8; 32],
    /// The ciphertext.
    pub bytes: Vec<u8>,
    /// The chaining values of the slices, 32 bytes each; of a single slice the root.
    pub list: Vec<u8>,
}

impl std::fmt::Debug for NewChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chunk {}, {} bytes", self.id, self.bytes.len())
    }
}

/// What came of storing another's chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is here, and was before perhaps.
    Done,
    /// The store has too much to do now.
    Busy,
    /// The store cannot take it; the log says why.
    Failed,
}

/// Why stored bytes cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// The chunk was removed since its handle was given.
    #[error("the chunk is no longer stored")]
    Gone,
    /// The stored bytes do not match their hash: the disk is damaged. Never served.
    #[error("the stored chunk is damaged")]
    Damaged,
    /// The database refused.
    #[error("the store could not be read")]
    Store,
    /// As many slices are being faulted in as may be: to be asked again when one of them was
    /// ([`crate::node::Input::Warmed`]).
    #[error("too many slices are being read")]
    Busy,
}

/// Read access to the chunks stored here.
pub trait ChunkRead {
    /// Looks a chunk up.
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk>;

    /// Looks a chunk up for nobody who wants it: it makes room as if it had not been looked for.
    fn peek(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.find(id)
    }

    /// The chaining values of the chunk's slices, 32 bytes each, in order (the slice list that
    /// `docs/protocol/content.md` describes), appended to `into`.
    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault>;

    /// Asks that a slice be resident and checked against its chaining value. `Ok(true)`: it is, and
    /// [`Self::read`] will not block. `Ok(false)`: being faulted in elsewhere; the driver will hand in
    /// [`crate::node::Input::Warmed`]. Never waits for the disk: [`ReadFault::Busy`] when there is no room.
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault>;

    /// Asks that a slice be faulted in that will be wanted soon, if there is ample room. What is wrong with it is
    /// told when it is wanted.
    fn prefetch(&mut self, handle: u64, slice: u32);

    /// Copies ciphertext bytes from `offset` of the chunk into `into`, all of it.
    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault>;
}

/// A store without chunks, for a node that only fetches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChunks;

impl ChunkRead for NoChunks {
    fn find(&mut self, _: &ChunkId) -> Option<StoredChunk> {
        None
    }
    fn slice_list(&mut self, _: u64, _: &mut Vec<u8>) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
    fn warm(&mut self, _: u64, _: u32) -> Result<bool, ReadFault> {
        Err(ReadFault::Gone)
    }
    fn prefetch(&mut self, _: u64, _: u32) {}
    fn read(&mut self, _: u64, _: u32, _: &mut [u8]) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
}

//! One simulated node's packet buffers, beside its chunk store.

use super::store::MapStore;
use crate::base::{BufId, ChunkId, ChunkRead, Memory, Place, ReadFault, StoredChunk};
use crate::limits::{BUFFER_SIZE, SEND_BUFFERS};
use crate::node::World;

/// Packet buffers and store of one node.
pub struct SimWorld {
    buffers: Vec<Box<[u8]>>,
    free: Vec<BufId>,
    /// The chunks stored here.
    pub store: MapStore,
}

/// The buffer that received datagrams are handed in with.
pub const RECEIVE_BUFFER: BufId = BufId(0);

impl SimWorld {
    /// As many send buffers as a shard has, and one for receiving.
    pub fn new() -> Self {
        let buffers = (0..=SEND_BUFFERS).map(|_| vec![0; BUFFER_SIZE].into_boxed_slice()).collect();
        let free = (1..=SEND_BUFFERS as u32).map(BufId).collect();
        Self { buffers, free, store: MapStore::default() }
    }

    /// How many send buffers are free: all of them, when nothing leaks.
    pub fn free_buffers(&self) -> usize {
        self.free.len()
    }
}

impl Default for SimWorld {
    fn default() -> Self {
        Self::new()
    }
}

fn range(place: Place) -> std::ops::Range<usize> {
    place.offset as usize..(place.offset + place.len) as usize
}

impl Memory for SimWorld {
    fn bytes(&self, place: Place) -> &[u8] {
        &self.buffers[place.buf.0 as usize][range(place)]
    }

    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.buffers[place.buf.0 as usize][range(place)]
    }

    fn alloc(&mut self) -> Option<BufId> {
        self.free.pop()
    }

    fn free(&mut self, buf: BufId) {
        assert!(!self.free.contains(&buf), "a buffer is given back once");
        self.free.push(buf);
    }
}

impl ChunkRead for SimWorld {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.store.find(id)
    }

    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        self.store.slice_list(handle, into)
    }

    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        self.store.warm(handle, slice)
    }

    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.store.read(handle, offset, into)
    }
}

impl World for SimWorld {
    type Store = MapStore;

    fn split(&mut self, place: Place) -> (&mut [u8], &mut MapStore) {
        (&mut self.buffers[place.buf.0 as usize][range(place)], &mut self.store)
    }
}

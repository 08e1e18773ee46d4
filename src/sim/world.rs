//! One simulated node's packet buffers, beside its chunk store.

use super::buffers::Buffers;
use super::store::MapStore;
use crate::base::{BufId, ChunkId, ChunkRead, Memory, Place, ReadFault, StoredChunk};
use crate::node::World;

/// Packet buffers and store of one node.
#[derive(Default)]
pub struct SimWorld {
    /// The packet buffers.
    pub buffers: Buffers,
    /// The chunks stored here.
    pub store: MapStore,
}

impl SimWorld {
    /// How many send buffers are free: all of them, when nothing leaks.
    pub fn free_buffers(&self) -> usize {
        self.buffers.free_count()
    }
}

impl Memory for SimWorld {
    fn bytes(&self, place: Place) -> &[u8] {
        self.buffers.bytes(place)
    }

    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        self.buffers.bytes_mut(place)
    }

    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        self.buffers.pair(from, to)
    }

    fn alloc(&mut self) -> Option<BufId> {
        self.buffers.alloc()
    }

    fn free(&mut self, buf: BufId) {
        self.buffers.free(buf);
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

    fn prefetch(&mut self, handle: u64, slice: u32) {
        self.store.prefetch(handle, slice);
    }

    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.store.read(handle, offset, into)
    }
}

impl World for SimWorld {
    type Store = MapStore;

    fn split(&mut self, place: Place) -> (&mut [u8], &mut MapStore) {
        (self.buffers.bytes_mut(place), &mut self.store)
    }
}

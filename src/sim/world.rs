//! One simulated node's packet buffers and chunk store.

use std::collections::{BTreeMap, BTreeSet};

use super::buffers::Buffers;
use crate::base::{BufId, ChunkId, ChunkRead, Memory, Place, ReadFault, StoredChunk};
use crate::chunk::slices::SliceList;
use crate::limits::SLICE_SIZE;
use crate::node::World;

/// Chunks in memory, with the faults that a disk can have.
#[derive(Default)]
pub struct MapStore {
    chunks: BTreeMap<ChunkId, u64>,
    bodies: BTreeMap<u64, (StoredChunk, Vec<u8>, SliceList)>,
    next: u64,
    /// Whether slices must be faulted in before they are read.
    pub cold: bool,
    warm: BTreeSet<(u64, u32)>,
    faulting: Vec<(u64, u32)>,
    /// Bytes of chunk bodies that were read.
    pub bytes_read: u64,
}

impl MapStore {
    /// Stores a chunk.
    pub fn insert(&mut self, id: ChunkId, bytes: Vec<u8>) {
        let list = SliceList::from_chunk(&bytes);
        if self.chunks.contains_key(&id) {
            return;
        }
        self.next += 1;
        let stored = StoredChunk { handle: self.next, len: bytes.len() as u32, root: *list.root() };
        self.chunks.insert(id, stored.handle);
        self.bodies.insert(stored.handle, (stored, bytes, list));
    }

    /// Flips one bit of a stored chunk, behind the store's back. The slice list stays: a server that lies.
    pub fn damage(&mut self, id: &ChunkId, byte: usize) {
        if let Some((_, bytes, _)) = self.chunks.get(id).and_then(|handle| self.bodies.get_mut(handle)) {
            let at = byte % bytes.len();
            bytes[at] ^= 1;
        }
    }

    /// The ids of all chunks.
    pub fn ids(&self) -> Vec<ChunkId> {
        self.chunks.keys().copied().collect()
    }

    /// The bytes of a chunk.
    pub fn get(&self, id: &ChunkId) -> Option<&[u8]> {
        self.chunks.get(id).and_then(|handle| self.bodies.get(handle)).map(|(_, bytes, _)| &bytes[..])
    }

    /// Slices that were asked to be faulted in; they are resident from now on.
    pub fn take_faulted(&mut self) -> Vec<(u64, u32)> {
        self.warm.extend(self.faulting.iter().copied());
        std::mem::take(&mut self.faulting)
    }
}

impl ChunkRead for MapStore {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.chunks.get(id).and_then(|handle| self.bodies.get(handle)).map(|(stored, ..)| *stored)
    }

    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        let (.., list) = self.bodies.get(&handle).ok_or(ReadFault::Gone)?;
        into.extend_from_slice(list.as_bytes());
        Ok(())
    }

    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        if !self.bodies.contains_key(&handle) {
            return Err(ReadFault::Gone);
        }
        let resident = !self.cold || self.warm.contains(&(handle, slice));
        if !resident {
            self.faulting.push((handle, slice));
        }
        Ok(resident)
    }

    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        let (_, bytes, _) = self.bodies.get(&handle).ok_or(ReadFault::Gone)?;
        let slice = offset / SLICE_SIZE as u32;
        assert!(
            !self.cold || self.warm.contains(&(handle, slice)),
            "a cold slice is never read on the shard"
        );
        let end = offset as usize + into.len();
        into.copy_from_slice(bytes.get(offset as usize..end).ok_or(ReadFault::Gone)?);
        self.bytes_read += into.len() as u64;
        Ok(())
    }
}

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

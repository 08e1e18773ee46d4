//! Leased 64 KiB buffers for content on its way to or from a file: a bounded pool, moved between
//! threads by pointer, never copied.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::limits::SLICE_SIZE;

/// A pool of at most a fixed number of [`SliceBuf`]s. Cloning shares the pool.
#[derive(Clone)]
pub struct SlicePool(Arc<Shared>);

struct Shared {
    free: ArrayQueue<Box<[u8]>>,
    unmade: ArrayQueue<()>,
}

/// One leased buffer of [`SLICE_SIZE`] bytes; goes back to its pool when dropped.
pub struct SliceBuf {
    bytes: Box<[u8]>,
    home: Arc<Shared>,
}

impl SlicePool {
    /// A pool of `count` buffers, each made at its first lease.
    pub fn new(count: usize) -> Self {
        let unmade = ArrayQueue::new(count.max(1));
        (0..count).for_each(|_| unmade.push(()).expect("as many places as buffers"));
        Self(Arc::new(Shared { free: ArrayQueue::new(count.max(1)), unmade }))
    }

    /// A buffer with unspecified content, or `None` when all are leased: back-pressure, not an error.
    pub fn lease(&self) -> Option<SliceBuf> {
        let bytes = self
            .0
            .free
            .pop()
            .or_else(|| self.0.unmade.pop().map(|()| vec![0; SLICE_SIZE].into_boxed_slice()))?;
        Some(SliceBuf { bytes, home: Arc::clone(&self.0) })
    }

    /// How many buffers could be leased now.
    pub fn available(&self) -> usize {
        self.0.free.len() + self.0.unmade.len()
    }
}

impl Deref for SliceBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for SliceBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl std::fmt::Debug for SliceBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SliceBuf")
    }
}

impl Drop for SliceBuf {
    fn drop(&mut self) {
        // The queue has a place for every buffer that was made, so this cannot be refused.
        let _ = self.home.free.push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_runs_dry_and_recovers() {
        let pool = SlicePool::new(2);
        let (a, b) = (pool.lease(), pool.lease());
        assert!(a.is_some() && b.is_some() && pool.lease().is_none());
        drop(a);
        assert_eq!(pool.available(), 1);
        assert!(pool.lease().is_some());
    }
}

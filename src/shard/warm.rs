//! Cold slices on their way into memory: a bounded number at a time, through the ring's own `MADVISE`, so
//! that a page fault never stalls the core.

use std::collections::VecDeque;

use super::{ChunkStoreDriver, Cold};
use crate::limits::WARM_IN_FLIGHT_MAX;
use crate::sys::ring::Ring;

pub(super) struct Warmer {
    waiting: VecDeque<Cold>,
    in_flight: Vec<Option<Cold>>,
    free: Vec<u16>,
}

impl Warmer {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: vec![None; WARM_IN_FLIGHT_MAX],
            free: (0..WARM_IN_FLIGHT_MAX as u16).rev().collect(),
        }
    }

    /// Submits what the store found cold, as far as the bound allows; how many. The store is asked for
    /// more only when nothing waits here, so that what waits is bounded by what cores have asked for.
    pub(super) fn submit(&mut self, store: &mut impl ChunkStoreDriver, ring: &mut Ring) -> u64 {
        if self.waiting.is_empty() {
            self.waiting.extend(store.take_cold());
        }
        let mut submitted = 0;
        while let (Some(tag), Some(cold)) = (self.free.last().copied(), self.waiting.front().copied()) {
            self.free.pop();
            self.waiting.pop_front();
            ring.populate(cold.addr, cold.len, tag);
            self.in_flight[usize::from(tag)] = Some(cold);
            submitted += 1;
        }
        submitted
    }

    /// The slice that a completion was for.
    pub(super) fn done(&mut self, tag: u16) -> Cold {
        self.free.push(tag);
        self.in_flight[usize::from(tag)].take().expect("each request completes once")
    }
}

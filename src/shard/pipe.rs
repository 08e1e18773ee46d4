//! Whole IP packets between a shard and a thread that is a host of its own: two bounded queues, and an eventfd that is
//! signalled only while that thread sleeps (as [`super::handle`] has it the other way). What finds no room is dropped and
//! counted, as in any router: the transports on both sides deal with that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crossbeam::queue::ArrayQueue;

use super::Handle;
use crate::base::Offload;
use crate::limits::{PIPE_BYTES_MAX, PIPE_PACKETS_MAX};
use crate::sys::eventfd::EventFd;

/// One IP packet, or superpacket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// What is left to be done with it.
    pub offload: Offload,
    /// Its bytes.
    pub bytes: Box<[u8]>,
}

/// The queues between the first shard and one thread.
pub struct Pipe {
    shard: Handle,
    out: Queue,
    back: Queue,
    parked: AtomicBool,
    event: EventFd,
    dropped: AtomicU64,
}

struct Queue {
    parcels: ArrayQueue<Parcel>,
    bytes: AtomicUsize,
}

impl Queue {
    fn new() -> Self {
        Self { parcels: ArrayQueue::new(PIPE_PACKETS_MAX), bytes: AtomicUsize::new(0) }
    }

    fn push(&self, parcel: Parcel) -> bool {
        let len = parcel.bytes.len();
        // One side pushes, so the bound is exact.
        if self.bytes.load(Ordering::Relaxed) + len > PIPE_BYTES_MAX {
            return false;
        }
        self.bytes.fetch_add(len, Ordering::Relaxed);
        let pushed = self.parcels.push(parcel).is_ok();
        if !pushed {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
        }
        pushed
    }

    fn pop(&self) -> Option<Parcel> {
        let parcel = self.parcels.pop()?;
        self.bytes.fetch_sub(parcel.bytes.len(), Ordering::Relaxed);
        Some(parcel)
    }
}

impl Pipe {
    /// To this shard, which is to be told of it ([`Handle::pipe`]).
    pub fn new(shard: Handle) -> io::Result<Self> {
        Ok(Self {
            shard,
            out: Queue::new(),
            back: Queue::new(),
            parked: AtomicBool::new(false),
            event: EventFd::new()?,
            dropped: AtomicU64::new(0),
        })
    }

    /// Leaves a packet for the shard; [`Self::left_for_shard`] is to follow. False when there is no room.
    pub fn send(&self, parcel: Parcel) -> bool {
        self.out.push(parcel)
    }

    /// How many more packets [`Self::send`] would take, if they are not long.
    pub fn room(&self) -> usize {
        PIPE_PACKETS_MAX - self.out.parcels.len()
    }

    /// Has the shard look.
    pub fn left_for_shard(&self) {
        self.shard.wake();
    }

    /// The next packet that the shard left.
    pub fn receive(&self) -> Option<Parcel> {
        self.back.pop()
    }

    /// Announces sleep; false when there is something to receive, and the thread must not sleep.
    pub fn park(&self) -> bool {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let nothing = self.back.parcels.is_empty();
        if !nothing {
            self.unpark();
        }
        nothing
    }

    /// The thread is awake.
    pub fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// Becomes readable, each time, when the thread is to wake up. It is never read: wait for its edges.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        self.event.signal();
    }

    /// Packets of the shard's that found no room, since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        if self.dropped.load(Ordering::Relaxed) == 0 { 0 } else { self.dropped.swap(0, Ordering::Relaxed) }
    }

    /// On the shard: the next packet that the thread left.
    pub(super) fn next_out(&self) -> Option<Parcel> {
        self.out.pop()
    }

    /// On the shard: whether there is one.
    pub(super) fn has_out(&self) -> bool {
        !self.out.parcels.is_empty()
    }

    /// On the shard: leaves a packet for the thread.
    pub(super) fn give(&self, parcel: Parcel) {
        if !self.back.push(parcel) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// On the shard, once a turn: has the thread look at what was given.
    pub(super) fn given(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel) {
            self.event.signal();
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").field("out", &self.out.parcels.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(len: usize) -> Parcel {
        Parcel { offload: Offload::default(), bytes: vec![7; len].into() }
    }

    #[test]
    fn packets_and_their_bytes_are_bounded() {
        let pipe = Pipe::new(Handle::new().expect("an eventfd")).expect("an eventfd");
        for _ in 0..PIPE_PACKETS_MAX {
            assert!(pipe.send(parcel(100)));
        }
        assert!(!pipe.send(parcel(1)) && pipe.room() == 0);
        let out: Vec<Parcel> = std::iter::from_fn(|| pipe.next_out()).collect();
        assert_eq!(out.len(), PIPE_PACKETS_MAX);
        let long = PIPE_BYTES_MAX / 60_000;
        for _ in 0..long + 5 {
            pipe.give(parcel(60_000));
        }
        assert_eq!(pipe.take_dropped(), 5);
        assert_eq!(std::iter::from_fn(|| pipe.receive()).count(), long);
        pipe.give(parcel(60_000));
        assert!(pipe.receive().is_some(), "what was taken makes room");
    }

    #[test]
    fn nobody_sleeps_on_a_packet() {
        let pipe = Pipe::new(Handle::new().expect("an eventfd")).expect("an eventfd");
        assert!(pipe.park());
        pipe.give(parcel(1));
        pipe.given();
        assert!(!pipe.parked.load(Ordering::Relaxed), "whoever gives takes the flag down and signals");
        assert!(!pipe.park());
        assert!(pipe.receive().is_some() && pipe.park());
        // And the shard hears of what is left for it.
        assert!(pipe.shard.shared().park(false));
        assert!(pipe.send(parcel(1)));
        pipe.left_for_shard();
        assert!(!pipe.shard.is_parked() && pipe.has_out());
    }
}

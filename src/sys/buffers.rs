//! The packet buffers of one shard: one mapping, cut into receive buffers, which take turns between us
//! and the kernel's provided-buffer ring, and send buffers, which the kernel reads while a send is in
//! flight. A state per buffer says whose it is; bytes are handed out only of buffers that are ours.
//!
//! ```text
//! receive:  Spare ──lend──▶ Lent ──completion──▶ Held ──release──▶ Spare
//! send:     Free ──alloc──▶ Held ──send──▶ Sending ──completion──▶ Free      (Held ──free──▶ Free)
//! ```
//!
//! The kernel takes lent buffers first in, first out; we lend the one that came back last. As long as
//! few are lent, few are in use, and their bytes stay in the core's cache.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::region::Region;
use crate::base::{BufId, Memory, Place};
use crate::limits::{
    BUFFER_HEAD_ROOM, BUFFER_SIZE, BUFFER_TAIL_ROOM, RECEIVE_BUFFERS, RECEIVE_LENT_MIN, SEND_BUFFERS,
};

/// Bytes of `recvmsg`'s own at the start of a lent buffer: header, sender's address, control messages.
pub const RECEIVE_HEADER: usize = 16 + crate::limits::RECEIVE_NAME_SIZE + crate::limits::RECEIVE_CONTROL_SIZE;
/// Where a lent buffer starts, so that the datagram starts at [`BUFFER_HEAD_ROOM`].
const LENT_OFFSET: usize = BUFFER_HEAD_ROOM - RECEIVE_HEADER;
const LENT_SIZE: usize = BUFFER_SIZE - LENT_OFFSET - BUFFER_TAIL_ROOM;
const COUNT: usize = RECEIVE_BUFFERS + SEND_BUFFERS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A receive buffer that nobody uses.
    Spare,
    /// In the kernel's ring: it may be written at any time.
    Lent,
    /// Ours: a received train, or a send buffer being filled.
    Held,
    /// A send buffer that nobody uses.
    Free,
    /// The kernel reads it until the send completes.
    Sending,
}

/// All packet buffers of one shard. Buffers `0..RECEIVE_BUFFERS` receive, the others send.
pub struct Buffers {
    arena: Region,
    entries: Region,
    states: [State; COUNT],
    spare: Vec<u16>,
    free: Vec<u16>,
    tail: u16,
    lent: usize,
    lent_target: usize,
    refused: u64,
}

impl Buffers {
    pub(super) fn new() -> io::Result<Self> {
        let mut states = [State::Spare; COUNT];
        states[RECEIVE_BUFFERS..].fill(State::Free);
        Ok(Self {
            arena: Region::new(COUNT * BUFFER_SIZE)?,
            entries: Region::new(RECEIVE_BUFFERS * size_of::<BufRingEntry>())?,
            states,
            spare: (0..RECEIVE_BUFFERS as u16).rev().collect(),
            free: (RECEIVE_BUFFERS as u16..COUNT as u16).rev().collect(),
            tail: 0,
            lent: 0,
            lent_target: RECEIVE_LENT_MIN,
            refused: 0,
        })
    }

    /// The address of the provided-buffer ring.
    pub(super) fn entries_address(&self) -> u64 {
        self.entries.start().as_ptr() as u64
    }

    /// Lends buffers to the kernel until the target is met; true when at least one is lent.
    pub fn lend(&mut self) -> bool {
        let base = self.entries.start().as_ptr().cast::<BufRingEntry>();
        let before = self.tail;
        while self.lent < self.lent_target {
            let Some(id) = self.spare.pop() else { break };
            assert_eq!(self.states[usize::from(id)], State::Spare);
            let address = self.address(usize::from(id) * BUFFER_SIZE + LENT_OFFSET);
            // SAFETY: the index is below the number of entries, and the kernel does not look at an entry
            // beyond the tail, which is moved below. The bytes that the entry names are `Lent` from here
            // on: no reference into them is made until the kernel hands the buffer back.
            unsafe {
                let entry = &mut *base.add(usize::from(self.tail) & (RECEIVE_BUFFERS - 1));
                entry.set_addr(address as u64);
                entry.set_len(LENT_SIZE as u32);
                entry.set_bid(id);
            }
            self.states[usize::from(id)] = State::Lent;
            self.tail = self.tail.wrapping_add(1);
            self.lent += 1;
        }
        if self.tail != before {
            // SAFETY: `base` is the start of the ring, whose tail lies in the first entry's reserved field,
            // aligned to two bytes, and which lives as long as `self`; only we write it.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
        self.lent > 0
    }

    /// The kernel handed a buffer back, filled.
    pub(super) fn filled(&mut self, id: u16) -> BufId {
        let state = &mut self.states[usize::from(id)];
        assert_eq!(*state, State::Lent, "the kernel hands back what it was lent");
        *state = State::Held;
        self.lent -= 1;
        BufId(u32::from(id))
    }

    /// Gives a received buffer up.
    pub fn release(&mut self, buf: BufId) {
        let state = &mut self.states[buf.0 as usize];
        assert!(*state == State::Held && (buf.0 as usize) < RECEIVE_BUFFERS, "not a held receive buffer");
        *state = State::Spare;
        self.spare.push(buf.0 as u16);
    }

    /// The kernel ran out of lent buffers: lend more from now on.
    pub fn lend_more(&mut self) {
        self.lent_target = (2 * self.lent_target).min(RECEIVE_BUFFERS);
    }

    /// How many buffers are lent at most, now.
    pub fn lent_target(&self) -> usize {
        self.lent_target
    }

    /// What `recvmsg` wrote before the datagram: header, address, control messages.
    pub fn receive_header(&self, buf: BufId) -> &[u8] {
        self.bytes(Place { buf, offset: LENT_OFFSET as u32, len: RECEIVE_HEADER as u32 })
    }

    /// Checks that a place lies in a send buffer that is ours, and marks the buffer as being sent.
    pub fn sending(&mut self, place: Place) {
        let _ = self.range(place);
        assert!(place.buf.0 as usize >= RECEIVE_BUFFERS, "trains are sent from send buffers");
        self.states[place.buf.0 as usize] = State::Sending;
    }

    /// All of a buffer's sends are complete.
    pub fn sent(&mut self, buf: BufId) {
        let state = &mut self.states[buf.0 as usize];
        assert_eq!(*state, State::Sending, "a buffer completes once");
        *state = State::Free;
        self.free.push(buf.0 as u16);
    }

    /// The address of bytes that are being sent.
    pub(super) fn sending_address(&self, place: Place) -> *mut u8 {
        assert_eq!(self.states[place.buf.0 as usize], State::Sending);
        let end = u64::from(place.offset) + u64::from(place.len);
        assert!(end <= BUFFER_SIZE as u64, "a place lies inside its buffer");
        self.address(place.buf.0 as usize * BUFFER_SIZE + place.offset as usize)
    }

    /// Send buffers that nobody uses.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// How often [`Memory::alloc`] had nothing to give.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn address(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.arena.len());
        self.arena.start().as_ptr().wrapping_add(offset)
    }

    /// Where a place that the caller holds lies in the arena. Anything else is our bug.
    fn range(&self, place: Place) -> *mut u8 {
        assert_eq!(self.states[place.buf.0 as usize], State::Held, "bytes of a buffer that is not held");
        let end = u64::from(place.offset) + u64::from(place.len);
        assert!(end <= BUFFER_SIZE as u64, "a place lies inside its buffer");
        self.address(place.buf.0 as usize * BUFFER_SIZE + place.offset as usize)
    }
}

impl Memory for Buffers {
    fn bytes(&self, place: Place) -> &[u8] {
        let start = self.range(place);
        // SAFETY: the range lies inside the arena, which is initialized and lives as long as `self`. The
        // buffer is `Held`, so the kernel neither reads nor writes it, and its state cannot change while
        // `self` is borrowed.
        unsafe { std::slice::from_raw_parts(start, place.len as usize) }
    }

    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        let start = self.range(place);
        // SAFETY: as for `bytes`; `self` is borrowed exclusively, so this is the only slice.
        unsafe { std::slice::from_raw_parts_mut(start, place.len as usize) }
    }

    fn alloc(&mut self) -> Option<BufId> {
        let Some(id) = self.free.pop() else {
            self.refused += 1;
            return None;
        };
        assert_eq!(self.states[usize::from(id)], State::Free);
        self.states[usize::from(id)] = State::Held;
        Some(BufId(u32::from(id)))
    }

    fn free(&mut self, buf: BufId) {
        let state = &mut self.states[buf.0 as usize];
        assert!(*state == State::Held && buf.0 as usize >= RECEIVE_BUFFERS, "not a held send buffer");
        *state = State::Free;
        self.free.push(buf.0 as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(buf: BufId) -> Place {
        Place { buf, offset: BUFFER_HEAD_ROOM as u32, len: 100 }
    }

    #[test]
    fn send_buffers_run_dry_and_come_back() {
        let mut buffers = Buffers::new().expect("memory");
        let all: Vec<BufId> = std::iter::from_fn(|| buffers.alloc()).collect();
        assert_eq!((all.len(), buffers.refused()), (SEND_BUFFERS, 1));
        buffers.bytes_mut(place(all[0])).fill(7);
        buffers.sending(place(all[0]));
        assert_eq!(buffers.alloc(), None);
        buffers.sent(all[0]);
        assert_eq!(buffers.alloc(), Some(all[0]));
        assert!(buffers.bytes(place(all[0])).iter().all(|b| *b == 7));
        all.into_iter().for_each(|buf| buffers.free(buf));
        assert_eq!(buffers.free_count(), SEND_BUFFERS);
    }

    #[test]
    fn lends_few_at_first_and_all_when_pressed() {
        let mut buffers = Buffers::new().expect("memory");
        assert!(buffers.lend());
        assert_eq!(buffers.lent, RECEIVE_LENT_MIN);
        let got = buffers.filled(0);
        buffers.bytes_mut(place(got)).fill(1);
        buffers.release(got);
        (0..20).for_each(|_| buffers.lend_more());
        buffers.lend();
        assert_eq!((buffers.lent, buffers.lent_target()), (RECEIVE_BUFFERS, RECEIVE_BUFFERS));
    }

    #[test]
    #[should_panic(expected = "not held")]
    fn bytes_of_a_lent_buffer_are_never_handed_out() {
        let mut buffers = Buffers::new().expect("memory");
        buffers.lend();
        buffers.bytes(place(BufId(0)));
    }

    #[test]
    #[should_panic(expected = "not held")]
    fn bytes_being_sent_are_never_handed_out() {
        let mut buffers = Buffers::new().expect("memory");
        let buf = buffers.alloc().expect("a buffer");
        buffers.sending(place(buf));
        buffers.bytes_mut(place(buf));
    }

    #[test]
    #[should_panic(expected = "inside its buffer")]
    fn a_place_never_reaches_into_the_next_buffer() {
        let mut buffers = Buffers::new().expect("memory");
        let buf = buffers.alloc().expect("a buffer");
        buffers.bytes(Place { buf, offset: BUFFER_SIZE as u32, len: 1 });
    }
}

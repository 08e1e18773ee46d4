//! The packet buffers of one shard: one mapping, cut into receive buffers, which take turns between us
//! and the kernel's provided-buffer rings (one for UDP, one for TUN devices, so that neither starves the
//! other), and send buffers, which the kernel reads while a send is in flight. A state per buffer says
//! whose it is; bytes are handed out only of buffers that are ours.
//!
//! ```text
//! receive:  Spare ──lend──▶ Lent ──completion──▶ Held ──release──▶ Spare
//! send:     Free ──alloc──▶ Held ──send──▶ Sending ──completion──▶ Free      (Held ──free──▶ Free)
//! write:    Held ──writing, any number of times; release──▶ Sending ──last completion──▶ Spare
//! ```
//!
//! What is written to a TUN device may lie in the receive buffer that it came in, several packets in one: what
//! [`Buffers::writing`] names is read by the kernel when the ring is next entered, before which a shard has
//! released the buffer. A released buffer is spare when its last write is done.
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
    TUN_BUFFERS, TUN_HEADER_SIZE, TUN_LENT_MIN,
};

/// Bytes of `recvmsg`'s own at the start of a lent buffer: header, sender's address, control messages.
pub const RECEIVE_HEADER: usize = 16 + crate::limits::RECEIVE_NAME_SIZE + crate::limits::RECEIVE_CONTROL_SIZE;
/// Where a buffer lent to UDP starts, so that the datagram starts at [`BUFFER_HEAD_ROOM`].
const LENT_OFFSET: usize = BUFFER_HEAD_ROOM - RECEIVE_HEADER;
/// Where a buffer lent to a TUN device starts, so that the IP packet starts at [`BUFFER_HEAD_ROOM`].
const TUN_OFFSET: usize = BUFFER_HEAD_ROOM - TUN_HEADER_SIZE;
/// The first buffer for TUN devices; before it lie the receive buffers, then the send buffers.
const TUN_FIRST: usize = RECEIVE_BUFFERS + SEND_BUFFERS;
const COUNT: usize = TUN_FIRST + TUN_BUFFERS;

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
    /// The kernel reads it until the send completes, or all writes.
    Sending,
}

/// Whom receive buffers are lent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lender {
    /// All UDP sockets of the ring.
    Udp,
    /// All TUN queues of the ring.
    Tun,
}

/// Receive buffers of one kind, and the provided-buffer ring that they are lent through.
struct Pool {
    entries: Region,
    count: u16,
    /// Where in a buffer the kernel's part starts.
    offset: usize,
    spare: Vec<u16>,
    tail: u16,
    lent: usize,
    lent_target: usize,
}

impl Pool {
    fn new(first: usize, count: usize, offset: usize, lent_target: usize) -> io::Result<Self> {
        Ok(Self {
            entries: Region::new(count * size_of::<BufRingEntry>())?,
            count: count as u16,
            offset,
            spare: (first as u16..(first + count) as u16).rev().collect(),
            tail: 0,
            lent: 0,
            lent_target,
        })
    }
}

/// All packet buffers of one shard. Buffers `0..RECEIVE_BUFFERS` receive datagrams, the next send, the last receive
/// from TUN devices.
pub struct Buffers {
    arena: Region,
    states: [State; COUNT],
    /// Writes of each buffer that are not done.
    writes: [u16; COUNT],
    udp: Pool,
    tun: Pool,
    free: Vec<u16>,
    refused: u64,
}

impl Buffers {
    pub(super) fn new() -> io::Result<Self> {
        let mut states = [State::Spare; COUNT];
        states[RECEIVE_BUFFERS..TUN_FIRST].fill(State::Free);
        Ok(Self {
            arena: Region::new(COUNT * BUFFER_SIZE)?,
            states,
            writes: [0; COUNT],
            udp: Pool::new(0, RECEIVE_BUFFERS, LENT_OFFSET, RECEIVE_LENT_MIN)?,
            tun: Pool::new(TUN_FIRST, TUN_BUFFERS, TUN_OFFSET, TUN_LENT_MIN)?,
            free: (RECEIVE_BUFFERS as u16..TUN_FIRST as u16).rev().collect(),
            refused: 0,
        })
    }

    fn pool(&mut self, lender: Lender) -> &mut Pool {
        match lender {
            Lender::Udp => &mut self.udp,
            Lender::Tun => &mut self.tun,
        }
    }

    /// The address of a provided-buffer ring and how many entries it has.
    pub(super) fn entries(&mut self, lender: Lender) -> (u64, u16) {
        let pool = self.pool(lender);
        (pool.entries.start().as_ptr() as u64, pool.count)
    }

    /// Lends buffers to the kernel until the target is met; true when at least one is lent.
    pub fn lend(&mut self, lender: Lender) -> bool {
        let arena = self.arena.start().as_ptr();
        let pool = match lender {
            Lender::Udp => &mut self.udp,
            Lender::Tun => &mut self.tun,
        };
        let base = pool.entries.start().as_ptr().cast::<BufRingEntry>();
        let before = pool.tail;
        while pool.lent < pool.lent_target {
            let Some(id) = pool.spare.pop() else { break };
            assert_eq!(self.states[usize::from(id)], State::Spare);
            let address = arena.wrapping_add(usize::from(id) * BUFFER_SIZE + pool.offset);
            // SAFETY: the index is below the number of entries, and the kernel does not look at an entry
            // beyond the tail, which is moved below. The bytes that the entry names are `Lent` from here
            // on: no reference into them is made until the kernel hands the buffer back.
            unsafe {
                let entry = &mut *base.add(usize::from(pool.tail & (pool.count - 1)));
                entry.set_addr(address as u64);
                entry.set_len((BUFFER_SIZE - pool.offset - BUFFER_TAIL_ROOM) as u32);
                entry.set_bid(id);
            }
            self.states[usize::from(id)] = State::Lent;
            pool.tail = pool.tail.wrapping_add(1);
            pool.lent += 1;
        }
        if pool.tail != before {
            // SAFETY: `base` is the start of the ring, whose tail lies in the first entry's reserved field,
            // aligned to two bytes, and which lives as long as `self`; only we write it.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
            tail.store(pool.tail, Ordering::Release);
        }
        pool.lent > 0
    }

    /// The kernel handed a buffer back, filled.
    pub(super) fn filled(&mut self, lender: Lender, id: u16) -> BufId {
        let state = &mut self.states[usize::from(id)];
        assert_eq!(*state, State::Lent, "the kernel hands back what it was lent");
        *state = State::Held;
        self.pool(lender).lent -= 1;
        BufId(u32::from(id))
    }

    /// Gives a received buffer up; it is spare once what is written from it has been written.
    pub fn release(&mut self, buf: BufId) {
        let at = buf.0 as usize;
        assert!(self.states[at] == State::Held && !is_send_buffer(at), "not a held receive buffer");
        if self.writes[at] > 0 {
            self.states[at] = State::Sending;
        } else {
            self.spare(at);
        }
    }

    fn spare(&mut self, at: usize) {
        self.states[at] = State::Spare;
        let pool = if at < RECEIVE_BUFFERS { &mut self.udp } else { &mut self.tun };
        pool.spare.push(at as u16);
    }

    /// The kernel ran out of lent buffers: lend more from now on.
    pub fn lend_more(&mut self, lender: Lender) {
        let pool = self.pool(lender);
        pool.lent_target = (2 * pool.lent_target).min(usize::from(pool.count));
    }

    /// How many buffers are lent at most, now.
    pub fn lent_target(&self, lender: Lender) -> usize {
        match lender {
            Lender::Udp => self.udp.lent_target,
            Lender::Tun => self.tun.lent_target,
        }
    }

    /// What `recvmsg` wrote before the datagram: header, address, control messages.
    pub fn receive_header(&self, buf: BufId) -> &[u8] {
        self.bytes(Place { buf, offset: LENT_OFFSET as u32, len: RECEIVE_HEADER as u32 })
    }

    /// Checks that a place lies in a send buffer that is ours, and marks the buffer as being sent.
    pub fn sending(&mut self, place: Place) {
        let _ = self.range(place);
        assert!(is_send_buffer(place.buf.0 as usize), "trains are sent from send buffers");
        self.states[place.buf.0 as usize] = State::Sending;
    }

    /// All of a buffer's sends are complete.
    pub fn sent(&mut self, buf: BufId) {
        let state = &mut self.states[buf.0 as usize];
        assert_eq!(*state, State::Sending, "a buffer completes once");
        *state = State::Free;
        self.free.push(buf.0 as u16);
    }

    /// Checks that a place lies in a buffer that is ours, and counts one more write that the kernel does from it. A
    /// send buffer is taken over with it; a receive buffer stays with its holder, who releases it before the ring is
    /// entered.
    pub fn writing(&mut self, place: Place) {
        let _ = self.range(place);
        let at = place.buf.0 as usize;
        self.writes[at] += 1;
        if is_send_buffer(at) {
            self.states[at] = State::Sending;
        }
    }

    /// One write from a buffer is done. True when a send buffer became free.
    pub fn written(&mut self, buf: BufId) -> bool {
        let at = buf.0 as usize;
        assert!(self.writes[at] > 0, "a write completes once");
        self.writes[at] -= 1;
        if self.writes[at] > 0 || self.states[at] != State::Sending {
            return false;
        }
        if is_send_buffer(at) {
            self.sent(buf);
            return true;
        }
        self.spare(at);
        false
    }

    /// The address of bytes that are being sent, or written.
    pub(super) fn sending_address(&self, place: Place) -> *mut u8 {
        let at = place.buf.0 as usize;
        assert!(self.states[at] == State::Sending || self.writes[at] > 0);
        let end = u64::from(place.offset) + u64::from(place.len);
        assert!(end <= BUFFER_SIZE as u64, "a place lies inside its buffer");
        self.address(at * BUFFER_SIZE + place.offset as usize)
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

    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        assert_ne!(from.buf, to.buf, "places of different buffers");
        let (from_start, to_start) = (self.range(from), self.range(to));
        // SAFETY: as for `bytes` and `bytes_mut`. The two slices do not overlap, since buffers do not and each lies
        // inside its own; `self` is borrowed exclusively, so there are no others.
        unsafe {
            (
                std::slice::from_raw_parts(from_start, from.len as usize),
                std::slice::from_raw_parts_mut(to_start, to.len as usize),
            )
        }
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
        assert!(*state == State::Held && is_send_buffer(buf.0 as usize), "not a held send buffer");
        *state = State::Free;
        self.free.push(buf.0 as u16);
    }
}

fn is_send_buffer(at: usize) -> bool {
    (RECEIVE_BUFFERS..TUN_FIRST).contains(&at)
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
        assert!(buffers.lend(Lender::Udp));
        assert_eq!(buffers.udp.lent, RECEIVE_LENT_MIN);
        let got = buffers.filled(Lender::Udp, 0);
        buffers.bytes_mut(place(got)).fill(1);
        buffers.release(got);
        (0..20).for_each(|_| buffers.lend_more(Lender::Udp));
        buffers.lend(Lender::Udp);
        assert_eq!((buffers.udp.lent, buffers.lent_target(Lender::Udp)), (RECEIVE_BUFFERS, RECEIVE_BUFFERS));
    }

    #[test]
    #[should_panic(expected = "different buffers")]
    fn one_buffer_is_never_read_and_changed_at_once() {
        let mut buffers = Buffers::new().expect("memory");
        let (one, other) = (buffers.alloc().expect("a buffer"), buffers.alloc().expect("another"));
        buffers.bytes_mut(place(one)).fill(3);
        let (from, to) = buffers.pair(place(one), place(other));
        to.copy_from_slice(from);
        assert!(buffers.bytes(place(other)).iter().all(|byte| *byte == 3));
        buffers.pair(place(one), place(one));
    }

    #[test]
    #[should_panic(expected = "not held")]
    fn bytes_of_a_lent_buffer_are_never_handed_out() {
        let mut buffers = Buffers::new().expect("memory");
        buffers.lend(Lender::Udp);
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

    #[test]
    fn a_received_buffer_that_is_written_from_is_spare_after_its_last_write() {
        let mut buffers = Buffers::new().expect("memory");
        buffers.lend(Lender::Udp);
        let spare = buffers.udp.spare.len();
        let got = buffers.filled(Lender::Udp, 0);
        buffers.writing(place(got));
        buffers.writing(place(got));
        buffers.bytes_mut(place(got)).fill(1); // Ours until the release.
        assert!(!buffers.written(got));
        buffers.release(got);
        assert_eq!(buffers.udp.spare.len(), spare, "one write is not done");
        assert!(!buffers.written(got), "no send buffer");
        assert_eq!(buffers.udp.spare.len(), spare + 1);
    }

    #[test]
    fn a_send_buffer_that_is_written_is_taken_over_and_comes_back() {
        let mut buffers = Buffers::new().expect("memory");
        let buf = buffers.alloc().expect("a buffer");
        buffers.writing(place(buf));
        assert!(buffers.written(buf));
        assert_eq!(buffers.free_count(), SEND_BUFFERS);
    }

    #[test]
    fn each_kind_of_receive_buffer_goes_back_where_it_came_from() {
        let mut buffers = Buffers::new().expect("memory");
        assert!(buffers.lend(Lender::Tun));
        assert_eq!((buffers.tun.lent, buffers.udp.lent), (TUN_LENT_MIN, 0));
        let got = buffers.filled(Lender::Tun, TUN_FIRST as u16);
        assert_eq!(got, BufId(TUN_FIRST as u32));
        buffers.release(got);
        assert_eq!(buffers.tun.spare.len(), TUN_BUFFERS - TUN_LENT_MIN + 1);
        assert_eq!(buffers.udp.spare.len(), RECEIVE_BUFFERS);
    }

    #[test]
    #[should_panic(expected = "not held")]
    fn bytes_of_a_released_buffer_are_not_handed_out_while_they_are_written() {
        let mut buffers = Buffers::new().expect("memory");
        buffers.lend(Lender::Udp);
        let got = buffers.filled(Lender::Udp, 0);
        buffers.writing(place(got));
        buffers.release(got);
        buffers.bytes(place(got));
    }
}

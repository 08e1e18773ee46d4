//! Reads and writes of TUN queues.

use std::os::fd::AsRawFd;

use io_uring::opcode;
use io_uring::types::Fd;

use super::{Kind, Ring, TUN_GROUP};
use crate::base::Place;
use crate::limits::{SHARD_TUNS_MAX, TUN_WRITES_MAX};
use crate::sys::tun::Queue;

impl Ring {
    /// Starts a multishot read of a TUN queue: it completes once per packet until it ends without `more`.
    pub fn tun_read(&mut self, queue: &Queue, number: u16) {
        assert!(usize::from(number) < SHARD_TUNS_MAX);
        let entry = opcode::ReadMulti::new(Fd(queue.as_raw_fd()), 0, TUN_GROUP).build();
        self.push(entry, Kind::TunRead, number);
    }

    /// Writes a packet with its header to a TUN queue. The place, of which [`crate::sys::buffers::Buffers::writing`] was told, is the
    /// kernel's until [`super::Completion::TunWritten`].
    pub fn tun_write(&mut self, queue: &Queue, number: u16, slot: u16, place: Place) {
        assert!(usize::from(number) < SHARD_TUNS_MAX && usize::from(slot) < TUN_WRITES_MAX);
        let start = self.buffers.sending_address(place);
        // Never waiting, since later ones would overtake it.
        let entry = opcode::Write::new(Fd(queue.as_raw_fd()), start.cast_const(), place.len)
            .rw_flags(libc::RWF_NOWAIT)
            .build();
        self.push(entry, Kind::TunWritten, number * TUN_WRITES_MAX as u16 + slot);
    }

    /// Ends the multishot read of a TUN queue: one last [`super::Completion::TunRead`] without `more` comes, if one was running.
    pub fn cancel_tun(&mut self, number: u16) {
        let read = (Kind::TunRead as u64) << 16 | u64::from(number);
        let entry = opcode::AsyncCancel::new(read).build();
        self.push(entry, Kind::Advised, 0);
        self.in_flight -= 1; // Told to nobody, whatever becomes of it.
    }

    /// Completes once when a TUN queue takes packets again.
    pub fn poll_tun(&mut self, queue: &Queue, number: u16) {
        let entry = opcode::PollAdd::new(Fd(queue.as_raw_fd()), libc::POLLOUT as u32).build();
        self.push(entry, Kind::TunWritable, number);
    }
}

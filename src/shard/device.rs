//! A shard's queue of the tunnels' network device. It comes and goes while the shard runs: a queue that is given up is
//! read to its end before it is closed, since the ring still holds a read of it.

use std::collections::VecDeque;

use crate::base::{BufId, Memory, Time, TunPacket};
use crate::io::tun::{Queue, Tun, TunCounters};
use crate::limits::{SHARD_TUNS_MAX, TUN_SEND_RESERVE};
use crate::sys::ring::Ring;

/// The queue, and those before it that are not closed yet.
#[derive(Default)]
pub(super) struct Device {
    tuns: [Option<Tun>; SHARD_TUNS_MAX],
    current: Option<usize>,
    /// Packets that were read while few send buffers were free: what a device holds back, nobody has to drop.
    held: VecDeque<TunPacket>,
    /// What queues counted that are closed.
    past: TunCounters,
}

impl Device {
    /// Takes a queue instead of the one that there was, or none.
    pub(super) fn change(&mut self, queue: Option<Queue>, ring: &mut Ring) {
        if let Some(old) = self.current.take().and_then(|index| self.tuns[index].as_mut()) {
            old.stop(ring);
        }
        self.close_idle();
        let free = self.tuns.iter().position(Option::is_none);
        if let (Some(queue), Some(index)) = (queue, free) {
            self.tuns[index] = Some(Tun::new(queue, index as u16));
            self.current = Some(index);
        }
    }

    /// Closes queues that are given up and idle.
    fn close_idle(&mut self) {
        for tun in &mut self.tuns {
            if let Some(closed) = tun.take_if(|tun| tun.is_gone() && tun.is_idle() && !tun.is_reading()) {
                self.past.add(&closed.counters);
            }
        }
        if self.current.is_some_and(|index| self.tuns[index].is_none()) {
            self.current = None;
        }
    }

    /// How many queues are open.
    pub(super) fn open(&self) -> usize {
        self.tuns.iter().flatten().count()
    }

    /// A read is complete, or has ended.
    pub(super) fn read(
        &mut self,
        ring: &mut Ring,
        tun: u16,
        result: Result<u32, i32>,
        buffer: Option<BufId>,
        more: bool,
        now: Time,
    ) {
        let Some(tun) = self.tuns[usize::from(tun)].as_mut() else { return };
        if let Some(packet) = tun.received(ring, result, buffer, more, now) {
            self.held.push_back(packet);
        }
    }

    /// The next packet to handle; none while it would find no send buffer. Its buffer is to be released.
    pub(super) fn next(&mut self, ring: &mut Ring) -> Option<TunPacket> {
        if ring.buffers().free_count() < TUN_SEND_RESERVE {
            return None;
        }
        self.held.pop_front()
    }

    /// Whether [`Self::next`] has something.
    pub(super) fn has_next(&self, ring: &mut Ring) -> bool {
        !self.held.is_empty() && ring.buffers().free_count() >= TUN_SEND_RESERVE
    }

    /// Writes a packet, or drops it where there is no device.
    pub(super) fn write(&mut self, ring: &mut Ring, packet: TunPacket) {
        match self.current.and_then(|index| self.tuns[index].as_mut()) {
            Some(tun) => tun.write(ring, packet),
            None => ring.buffers().free(packet.place.buf),
        }
    }

    /// A write is complete.
    pub(super) fn written(&mut self, ring: &mut Ring, tun: u16, slot: u16, result: Result<u32, i32>) {
        if let Some(tun) = self.tuns[usize::from(tun)].as_mut() {
            tun.written(ring, slot, result);
        }
    }

    /// A queue takes packets again.
    pub(super) fn writable(&mut self, tun: u16) {
        if let Some(tun) = self.tuns[usize::from(tun)].as_mut() {
            tun.writable();
        }
    }

    /// Submits writes. Once per turn, before the ring is entered.
    pub(super) fn flush(&mut self, ring: &mut Ring) {
        self.tuns.iter_mut().flatten().for_each(|tun| tun.flush(ring));
    }

    /// Starts the read that is not running. Once per turn. When it wants to be called again, if it must wait.
    pub(super) fn rearm(&mut self, ring: &mut Ring, now: Time) -> Option<Time> {
        if self.open() == 0 {
            return None;
        }
        self.close_idle();
        self.current.and_then(|index| self.tuns[index].as_mut())?.rearm(ring, now)
    }

    /// What all queues counted.
    pub(super) fn counters(&self) -> TunCounters {
        let mut sum = self.past.clone();
        self.tuns.iter().flatten().for_each(|tun| sum.add(&tun.counters));
        sum
    }
}

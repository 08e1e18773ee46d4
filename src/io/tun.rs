//! TUN queues through io_uring: packets in by multishot `READ`, packets out by `WRITE`, uncut where the kernel can.
//!
//! ```text
//! in:   completion ─▶ Tun::received ─▶ TunPacket (held buffer) ─▶ the caller ─▶ Buffers::release
//!       a read that ended ─▶ Tun::rearm, once per turn, after buffers were lent
//! out:  Tun::write ─▶ the queue ─▶ Tun::flush (SQEs, in order) ─▶ completion ─▶ Tun::written
//! ```
//!
//! Packets that nobody takes in time stay in the device's own queue (`txqueuelen`), where the kernel drops what comes
//! beyond: a caller that cannot go on holds its buffers, and needs no queue of its own.
//!
//! Writes run where they are submitted, so packets enter the host in order. The kernel counts a packet as received and
//! may still drop it for its content; that is the host's to count.

pub mod header;
mod open;

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::tun::{Segmentation, TunPacket};
use crate::base::{BufId, Memory, Place, Time};
use crate::io::tally::counters;
use crate::limits::{
    BUFFER_HEAD_ROOM, RECEIVE_PAUSE_MS, SHARD_TUNS_MAX, TUN_HEADER_SIZE, TUN_WRITE_QUEUE_MAX, TUN_WRITES_MAX,
};
use crate::sys::buffers::Lender;
use crate::sys::ring::Ring;
pub use crate::sys::tun::{Queue, is_device_name};
pub use open::{OpenError, open};

counters! {
    /// What passed the TUN queues of a shard, and what went wrong.
    pub struct TunCounters {
        tun_read_bytes: "bytes of IP packets read from TUN devices",
        tun_read_packets: "packets and superpackets read from TUN devices",
        tun_read_superpackets: "superpackets (TSO, USO) among them",
        tun_read_unreadable: "reads dropped because the virtio-net header contradicted the packet",
        tun_read_ended_no_buffers: "multishot reads that ended for want of buffers (ENOBUFS)",
        tun_read_ended_overflow: "multishot reads that ended without an error, as on an overflowing completion queue",
        tun_read_ended_error: "multishot reads that ended with any other error",
        tun_read_armed: "multishot reads started",
        tun_written_bytes: "bytes of IP packets written to TUN devices",
        tun_written_packets: "packets and superpackets written to TUN devices",
        tun_written_superpackets: "superpackets (TSO, USO) among them",
        tun_write_blocked: "writes put back because the device took none (EAGAIN)",
        tun_write_down: "packets dropped because the device was down (EIO)",
        tun_write_refused: "packets dropped because the kernel found their header wrong (EINVAL)",
        tun_write_failed: "packets dropped because of any other error",
        tun_write_queue_full: "packets dropped because too many waited to be written",
        tun_write_gone: "packets dropped because the device was gone",
        tun_gone: "TUN queues whose device was deleted while they were open",
    }
}

/// A packet on its way out, in the slot or queue entry that it has.
#[derive(Clone, Copy)]
struct Write {
    /// With the header.
    place: Place,
    superpacket: bool,
    order: u64,
}

/// One TUN queue of one shard.
pub struct Tun {
    queue: Queue,
    number: u16,
    armed: bool,
    /// Reads that failed in a row, and when to try again.
    failures: u32,
    rearm_at: Time,
    gone: bool,
    /// Whether a `poll_tun` is out.
    blocked: bool,
    waiting: VecDeque<Write>,
    flights: Vec<Option<Write>>,
    slots: Vec<u16>,
    order: u64,
    /// What was counted so far.
    pub counters: TunCounters,
}

impl Tun {
    /// Drives a queue; `number` tells it from the other devices of the shard in the ring's completions.
    pub fn new(queue: Queue, number: u16) -> Self {
        assert!(usize::from(number) < SHARD_TUNS_MAX);
        Self {
            queue,
            number,
            armed: false,
            failures: 0,
            rearm_at: Time::ZERO,
            gone: false,
            blocked: false,
            waiting: VecDeque::new(),
            flights: vec![None; TUN_WRITES_MAX],
            slots: (0..TUN_WRITES_MAX as u16).rev().collect(),
            order: 0,
            counters: TunCounters::default(),
        }
    }

    /// Whether the device was deleted, or [`Tun::stop`] was called. Nothing is read or written any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether UDP superpackets may be written.
    pub fn udp_segmentation(&self) -> bool {
        self.queue.udp_segmentation()
    }

    /// Lends buffers and starts a read if none is running. Once per turn. The time at which it wants to be called
    /// again, when it must wait.
    pub fn rearm(&mut self, ring: &mut Ring, now: Time) -> Option<Time> {
        if self.gone {
            return None;
        }
        // Without one to lend, packets that are handled in later turns hold them all: one is coming.
        if !ring.buffers().lend(Lender::Tun) || self.armed {
            return None;
        }
        if self.rearm_at > now {
            return Some(self.rearm_at);
        }
        ring.tun_read(&self.queue, self.number);
        self.armed = true;
        self.counters.tun_read_armed += 1;
        None
    }

    /// Takes a read completion. `Some`: a packet in a held buffer, which the caller releases.
    pub fn received(
        &mut self,
        ring: &mut Ring,
        result: Result<u32, i32>,
        buffer: Option<BufId>,
        more: bool,
        now: Time,
    ) -> Option<TunPacket> {
        let packet = match (result, buffer) {
            (Ok(len), Some(buf)) => self.read(ring, buf, len),
            _ => None,
        };
        if !more {
            self.armed = false;
            match result {
                Err(libc::ENOBUFS) => {
                    self.counters.tun_read_ended_no_buffers += 1;
                    ring.buffers().lend_more(Lender::Tun);
                }
                Err(libc::ECANCELED) => {}
                Err(errno) if is_gone(errno) => self.lose(ring),
                Err(_) => {
                    self.counters.tun_read_ended_error += 1;
                    self.failures += 1;
                    if self.failures > 1 {
                        self.rearm_at = now + Duration::from_millis(RECEIVE_PAUSE_MS);
                    }
                }
                Ok(_) => self.counters.tun_read_ended_overflow += 1,
            }
        }
        if result.is_ok() {
            self.failures = 0;
        }
        if packet.is_none()
            && let Some(buf) = buffer
        {
            ring.buffers().release(buf);
        }
        packet
    }

    fn read(&mut self, ring: &mut Ring, buf: BufId, len: u32) -> Option<TunPacket> {
        let head = TUN_HEADER_SIZE as u32;
        let place = Place { buf, offset: BUFFER_HEAD_ROOM as u32, len: len.saturating_sub(head) };
        let whole = Place { buf, offset: place.offset - head, len: place.len + head };
        let (header, packet) =
            ring.buffers().bytes(whole).split_first_chunk().expect("the header's own length is added");
        let Some(offload) = header::parse(header, packet).filter(|_| len > head) else {
            self.counters.tun_read_unreadable += 1;
            return None;
        };
        let counters = &mut self.counters;
        counters.tun_read_bytes += u64::from(place.len);
        counters.tun_read_packets += 1;
        counters.tun_read_superpackets += u64::from(offload.kind != Segmentation::None);
        Some(TunPacket { place, offload })
    }

    /// Takes a packet over that lies in a send buffer, which is free again when it has been written or could not be; or
    /// in a receive buffer, which its holder releases as always before the ring is entered. The bytes right before the
    /// packet become its header.
    pub fn write(&mut self, ring: &mut Ring, packet: TunPacket) {
        let head = TUN_HEADER_SIZE as u32;
        let offset =
            packet.place.offset.checked_sub(head).expect("a packet has room for its header before it");
        let place = Place { buf: packet.place.buf, offset, len: packet.place.len + head };
        let header = place.part(0, head).expect("it begins with the header");
        let bytes = ring.buffers().bytes_mut(header).try_into().expect("as long as a header");
        header::emit(&packet.offload, bytes);
        ring.buffers().writing(place);
        if self.gone || self.waiting.len() >= TUN_WRITE_QUEUE_MAX {
            let dropped = if self.gone {
                &mut self.counters.tun_write_gone
            } else {
                &mut self.counters.tun_write_queue_full
            };
            *dropped += 1;
            ring.buffers().written(place.buf);
            return;
        }
        let superpacket = packet.offload.kind != Segmentation::None;
        self.waiting.push_back(Write { place, superpacket, order: self.order });
        self.order += 1;
    }

    /// Submits what waits, in order, as far as there are slots. Once per turn, before the ring is entered.
    pub fn flush(&mut self, ring: &mut Ring) {
        while !self.blocked && !self.waiting.is_empty() {
            let Some(slot) = self.slots.pop() else { return };
            let write = self.waiting.pop_front().expect("not empty");
            ring.tun_write(&self.queue, self.number, slot, write.place);
            self.flights[usize::from(slot)] = Some(write);
        }
    }

    /// Takes a write completion. True when a send buffer became free.
    pub fn written(&mut self, ring: &mut Ring, slot: u16, result: Result<u32, i32>) -> bool {
        self.slots.push(slot);
        let write = self.flights[usize::from(slot)].take().expect("a write in flight is there");
        let counters = &mut self.counters;
        match result {
            Ok(_) => {
                counters.tun_written_bytes += u64::from(write.place.len) - TUN_HEADER_SIZE as u64;
                counters.tun_written_packets += 1;
                counters.tun_written_superpackets += u64::from(write.superpacket);
            }
            Err(libc::EAGAIN) if !self.gone => {
                counters.tun_write_blocked += 1;
                if !self.blocked {
                    self.blocked = true;
                    ring.poll_tun(&self.queue, self.number);
                }
                let at = self.waiting.partition_point(|other| other.order < write.order);
                self.waiting.insert(at, write);
                return false;
            }
            Err(errno) if is_gone(errno) => {
                counters.tun_write_gone += 1;
                self.lose(ring);
            }
            Err(libc::EIO) => counters.tun_write_down += 1,
            Err(libc::EINVAL) => counters.tun_write_refused += 1,
            Err(_) => counters.tun_write_failed += 1,
        }
        ring.buffers().written(write.place.buf)
    }

    /// The queue takes packets again.
    pub fn writable(&mut self) {
        self.blocked = false;
    }

    /// Asks for the read to end, so that the queue can be closed while the ring goes on: when [`Tun::is_idle`] and not
    /// [`Tun::is_reading`].
    pub fn stop(&mut self, ring: &mut Ring) {
        self.gone = true;
        if self.armed {
            ring.cancel_tun(self.number);
        }
    }

    /// Whether a read is running.
    pub fn is_reading(&self) -> bool {
        self.armed
    }

    /// Whether every packet has been written.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.len() == TUN_WRITES_MAX
    }

    /// The device was deleted.
    fn lose(&mut self, ring: &mut Ring) {
        if !self.gone {
            self.counters.tun_gone += 1;
            tracing::warn!("the tunnels' device was deleted: `tornet tunnel up` makes another");
        }
        self.gone = true;
        for write in self.waiting.drain(..) {
            self.counters.tun_write_gone += 1;
            ring.buffers().written(write.place.buf);
        }
    }
}

/// Errors of a queue whose device was deleted: EFAULT from a read that was waiting, EBADFD from any later call.
fn is_gone(errno: i32) -> bool {
    matches!(errno, libc::EBADFD | libc::EFAULT | libc::ENODEV | libc::ENXIO)
}

#[cfg(test)]
mod tests;

//! UDP through io_uring: trains in by multishot `RECVMSG` and GRO, trains out by `SENDMSG` and GSO.
//!
//! ```text
//! in:   completion ─▶ Udp::received ─▶ Datagrams (held buffer) ─▶ the caller ─▶ Buffers::release
//!       a receive that ended ─▶ Udp::rearm, once per turn, after buffers were lent
//! out:  Udp::send ─▶ the socket's queue ─▶ Udp::flush (SQEs, in order) ─▶ completion ─▶ Udp::sent
//! ```
//!
//! Sends are submitted in order and run where they are submitted, so trains leave in order. When the
//! socket's buffer is full a train is refused (`EAGAIN`) instead of waiting in the kernel, where later
//! ones could overtake it: it goes back to its place in the queue until the socket is writable again.
//! `docs/decisions/0004-io-uring-receive.md` holds the reasons and measurements.

mod zero_copy;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use self::zero_copy::Judge;
use crate::base::{BufId, Path, Place, Time};
use crate::io::tally::counters;
use crate::limits::{
    BUFFER_HEAD_ROOM, RECEIVE_BUFFERS, RECEIVE_PAUSE_MS, SEND_BUFFERS, SEND_SLOTS, SHARD_SOCKETS_MAX,
    TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX,
};
use crate::sys::buffers::{Lender, RECEIVE_HEADER};
use crate::sys::message::{Control, Envelope};
use crate::sys::ring::{Message, Ring};
use crate::sys::socket::{Socket, SocketError};

counters! {
    /// What passed the sockets of a shard, and what went wrong.
    pub struct UdpCounters {
        udp_received_bytes: "UDP payload bytes received",
        udp_received_trains: "receive completions with datagrams",
        udp_received_segments: "datagrams received",
        udp_received_gro_trains: "receive completions that held more than one datagram",
        udp_received_truncated: "trains dropped because they did not fit a receive buffer",
        udp_received_unreadable: "receive completions dropped because they named no sender",
        udp_receive_ended_no_buffers: "multishot receives that ended for want of buffers (ENOBUFS)",
        udp_receive_ended_empty_datagram: "multishot receives that ended on a zero-length datagram",
        udp_receive_ended_overflow: "multishot receives that ended on an overflowing completion queue",
        udp_receive_ended_error: "multishot receives that ended with any other error",
        udp_receive_armed: "multishot receives started",
        udp_sent_bytes: "UDP payload bytes sent",
        udp_sent_wire_bytes: "bytes sent, IP headers included",
        udp_sent_trains: "trains handed to the kernel whole, or the last of their datagrams",
        udp_sent_segments: "datagrams handed to the kernel",
        udp_sent_gso_trains: "trains of more than one datagram handed to the kernel in one send",
        udp_send_blocked: "sends put back because the socket's buffer was full (EAGAIN)",
        udp_send_singly: "trains sent datagram by datagram because segmentation was refused",
        udp_send_gso_refused: "trains that the kernel refused to segment (EIO, EINVAL)",
        udp_send_too_big: "sends larger than the path takes (EMSGSIZE; probes of the path MTU do this)",
        udp_send_unreachable: "sends without a route (ENETUNREACH, EHOSTUNREACH, ENETDOWN, EADDRNOTAVAIL)",
        udp_send_forbidden: "sends that a firewall forbade (EPERM, EACCES)",
        udp_send_no_memory: "sends for which the kernel had no memory (ENOBUFS, ENOMEM)",
        udp_send_failed: "sends that failed with any other error",
        udp_zero_copy_avoided: "trains that the device read where they lay",
        udp_zero_copy_copied: "trains that were to be sent without a copy and were copied after all",
        udp_zero_copy_ended: "sockets that stopped trying to send without a copy, since the kernel copies there",
        udp_send_no_socket: "trains dropped because no socket of theirs is bound",
    }
}

/// One or more datagrams of one size that lie one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams {
    /// Between which addresses.
    pub path: Path,
    /// All their bytes.
    pub place: Place,
    /// Size of each but the last, bytes.
    pub segment: u32,
    /// ECN code point.
    pub ecn: u8,
}

struct Bound {
    socket: Socket,
    armed: bool,
    /// Receives that failed in a row, and when to try again.
    failures: u32,
    rearm_at: Time,
    /// Whether the kernel segments trains for this socket.
    segments: bool,
    /// Whether trains are sent without a copy.
    zero_copy: Judge,
    /// Whether a `poll_writable` is out.
    blocked: bool,
    /// Send buffers to submit, in the order of their numbers in `Job::order`.
    queue: VecDeque<u16>,
}

/// A train in a send buffer.
#[derive(Clone, Copy)]
struct Job {
    train: Datagrams,
    socket: u16,
    order: u64,
    /// Going out datagram by datagram.
    singly: bool,
    /// Bytes submitted so far, when `singly`.
    submitted: u32,
    in_flight: u16,
    /// Sends that are done while the kernel still reads the buffer.
    held: u16,
}

#[derive(Clone, Copy, Default)]
struct Flight {
    job: u16,
    len: u32,
    zero_copy: bool,
}

/// The UDP sockets of one shard.
pub struct Udp {
    sockets: Vec<Bound>,
    jobs: Vec<Option<Job>>,
    flights: [Flight; SEND_SLOTS],
    slots: Vec<u16>,
    order: u64,
    /// What was counted so far.
    pub counters: UdpCounters,
}

impl Udp {
    /// Binds one socket per address. With `report_local` a train that came to a wildcard address names
    /// the address of ours that it came to, and answers leave from there.
    pub fn bind(addresses: &[SocketAddr], report_local: bool) -> Result<Self, SocketError> {
        assert!(addresses.len() <= SHARD_SOCKETS_MAX, "checked by the configuration");
        let mut sockets = Vec::with_capacity(addresses.len());
        for address in addresses {
            let report = report_local && address.ip().is_unspecified();
            let socket = Socket::bind(*address, report)?;
            sockets.push(Bound {
                socket,
                armed: false,
                failures: 0,
                rearm_at: Time::ZERO,
                segments: true,
                zero_copy: Judge::default(),
                blocked: false,
                queue: VecDeque::with_capacity(SEND_BUFFERS),
            });
        }
        Ok(Self {
            sockets,
            jobs: vec![None; SEND_BUFFERS],
            flights: [Flight::default(); SEND_SLOTS],
            slots: (0..SEND_SLOTS as u16).rev().collect(),
            order: 0,
            counters: UdpCounters::default(),
        })
    }

    /// The bound addresses, in the order given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|b| b.socket.local()).collect()
    }

    /// The smallest kernel receive buffer among the sockets, bytes, by the kernel's account.
    pub fn receive_buffer(&self) -> usize {
        self.sockets.iter().map(|b| b.socket.receive_buffer()).min().unwrap_or(0)
    }

    /// Lends receive buffers and starts receives that are not running. Once per turn, when the trains of
    /// the turn have been released. The time at which it wants to be called again, when it must wait.
    pub fn rearm(&mut self, ring: &mut Ring, now: Time) -> Option<Time> {
        let lent = ring.buffers().lend(Lender::Udp);
        let mut wait = None;
        for (number, bound) in self.sockets.iter_mut().enumerate().filter(|(_, b)| !b.armed) {
            if !lent {
                break; // Only trains that are handled in later turns hold buffers: one is coming.
            }
            if bound.rearm_at > now {
                wait = Some(wait.map_or(bound.rearm_at, |at: Time| at.min(bound.rearm_at)));
                continue;
            }
            ring.receive(&bound.socket, number as u16);
            bound.armed = true;
            self.counters.udp_receive_armed += 1;
        }
        wait
    }

    /// Takes a receive completion. `Some`: a train in a held buffer, which the caller releases.
    pub fn received(
        &mut self,
        ring: &mut Ring,
        number: u16,
        result: Result<u32, i32>,
        buffer: Option<BufId>,
        more: bool,
        now: Time,
    ) -> Option<Datagrams> {
        let train = match (result, buffer) {
            (Ok(_), Some(buf)) => self.read(ring, number, buf),
            _ => Err(buffer),
        };
        let bound = &mut self.sockets[usize::from(number)];
        if !more {
            bound.armed = false;
            let counters = &mut self.counters;
            match result {
                Err(libc::ENOBUFS) => {
                    counters.udp_receive_ended_no_buffers += 1;
                    ring.buffers().lend_more(Lender::Udp);
                }
                Err(libc::ECANCELED) => {}
                Err(_) => {
                    counters.udp_receive_ended_error += 1;
                    bound.failures += 1;
                    if bound.failures > 1 {
                        bound.rearm_at = now + Duration::from_millis(RECEIVE_PAUSE_MS);
                    }
                }
                Ok(len) if len as usize <= RECEIVE_HEADER => counters.udp_receive_ended_empty_datagram += 1,
                Ok(_) => counters.udp_receive_ended_overflow += 1,
            }
        }
        if result.is_ok() {
            bound.failures = 0;
        }
        match train {
            Ok(train) => Some(train),
            Err(buffer) => {
                if let Some(buf) = buffer {
                    ring.buffers().release(buf);
                }
                None
            }
        }
    }

    fn read(&mut self, ring: &mut Ring, number: u16, buf: BufId) -> Result<Datagrams, Option<BufId>> {
        let Some(envelope) = Envelope::read(ring.buffers().receive_header(buf)) else {
            self.counters.udp_received_unreadable += 1;
            return Err(Some(buf));
        };
        if envelope.truncated || envelope.len as usize > TRAIN_SIZE_MAX + 20 {
            self.counters.udp_received_truncated += 1;
            return Err(Some(buf));
        }
        if envelope.len == 0 {
            return Err(Some(buf));
        }
        let mut local = self.sockets[usize::from(number)].socket.local();
        if let Some(ip) = envelope.control.source {
            local.set_ip(ip);
            if let SocketAddr::V6(v6) = &mut local
                && v6.ip().is_unicast_link_local()
            {
                v6.set_scope_id(envelope.control.scope);
            }
        }
        let segment = envelope.control.segment.map_or(envelope.len, u32::from).min(envelope.len);
        let segments = u64::from(envelope.len.div_ceil(segment));
        let counters = &mut self.counters;
        counters.udp_received_bytes += u64::from(envelope.len);
        counters.udp_received_trains += 1;
        counters.udp_received_segments += segments;
        counters.udp_received_gro_trains += u64::from(segments > 1);
        Ok(Datagrams {
            path: Path { local, remote: envelope.remote },
            place: Place { buf, offset: BUFFER_HEAD_ROOM as u32, len: envelope.len },
            segment,
            ecn: envelope.control.ecn,
        })
    }

    /// Takes a train over; its buffer is free again when it has been sent, or could not be.
    pub fn send(&mut self, ring: &mut Ring, train: Datagrams) {
        assert!(train.segment > 0 && train.place.len > 0, "a train carries bytes");
        let segments = train.place.len.div_ceil(train.segment);
        assert!(train.place.len as usize <= TRAIN_SIZE_MAX && segments as usize <= TRAIN_SEGMENTS_MAX);
        ring.buffers().sending(train.place);
        let Some(number) = self.socket_for(&train.path) else {
            self.counters.udp_send_no_socket += 1;
            ring.buffers().sent(train.place.buf);
            return;
        };
        let bound = &mut self.sockets[usize::from(number)];
        let singly = segments > 1 && !bound.segments;
        self.counters.udp_send_singly += u64::from(singly);
        let index = job_of(train.place.buf);
        self.jobs[usize::from(index)] = Some(Job {
            train,
            socket: number,
            order: self.order,
            singly,
            submitted: 0,
            in_flight: 0,
            held: 0,
        });
        self.order += 1;
        bound.queue.push_back(index);
    }

    /// The socket bound to the local address, else to any address of its family with its port, else the
    /// family's first.
    fn socket_for(&self, path: &Path) -> Option<u16> {
        let rank = |bound: &Bound| {
            let local = bound.socket.local();
            (local.is_ipv4() == path.remote.is_ipv4()).then(|| {
                let same_ip = local.ip() == path.local.ip();
                let same_port = local.port() == path.local.port();
                (same_ip && same_port, local.ip().is_unspecified() && same_port, same_ip)
            })
        };
        if self.sockets.len() == 1 {
            return rank(&self.sockets[0]).map(|_| 0);
        }
        let ranked = self.sockets.iter().enumerate().filter_map(|(n, b)| rank(b).map(|r| (r, n)));
        // The first of equals: `max_by_key` would give the last.
        ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, number)| number as u16)
    }

    /// Submits what waits, in order, as far as there are slots. Once per turn, before the ring is entered.
    pub fn flush(&mut self, ring: &mut Ring) {
        for number in 0..self.sockets.len() {
            while let Some(&index) = self.sockets[number].queue.front() {
                if self.sockets[number].blocked || self.slots.is_empty() || !self.submit(ring, index) {
                    break;
                }
                self.sockets[number].queue.pop_front();
            }
        }
    }

    /// Submits a job; false when slots ran out before its end.
    fn submit(&mut self, ring: &mut Ring, index: u16) -> bool {
        let job = self.jobs[usize::from(index)].as_mut().expect("a queued job is there");
        let bound = &self.sockets[usize::from(job.socket)];
        let train = job.train;
        let local = train.path.local;
        let source = (!local.ip().is_unspecified() && bound.socket.local().ip().is_unspecified())
            .then(|| local.ip())
            .filter(|ip| ip.is_ipv4() == train.path.remote.is_ipv4());
        let scope = if let SocketAddr::V6(v6) = local { v6.scope_id() } else { 0 };
        let mut control = Control { segment: None, ecn: train.ecn, source, scope };
        if !job.singly && train.segment < train.place.len {
            control.segment = Some(u16::try_from(train.segment).expect("shorter than a train"));
        }
        loop {
            let Some(slot) = self.slots.pop() else { return false };
            let place = if job.singly {
                let len = train.segment.min(train.place.len - job.submitted);
                train.place.part(job.submitted, len).expect("inside the train")
            } else {
                train.place
            };
            // Datagrams of a train that is sent singly may wait in the kernel: putting a part of a train
            // back is not worth the trouble.
            let zero_copy = !job.singly && bound.zero_copy.wants(place.len);
            let message =
                Message { to: train.path.remote, place, control, now_or_never: !job.singly, zero_copy };
            ring.send(&bound.socket, slot, &message);
            self.flights[usize::from(slot)] = Flight { job: index, len: place.len, zero_copy };
            job.in_flight += 1;
            job.submitted += place.len;
            if job.submitted == train.place.len {
                return true;
            }
        }
    }

    /// Takes a send completion; `held` when the kernel goes on reading until [`Self::released`]. True when a send
    /// buffer became free.
    pub fn sent(&mut self, ring: &mut Ring, slot: u16, result: Result<u32, i32>, held: bool) -> bool {
        if !held {
            self.slots.push(slot);
        }
        let Flight { job: index, len, zero_copy } = self.flights[usize::from(slot)];
        let job = self.jobs[usize::from(index)].as_mut().expect("a job in flight is there");
        let number = job.socket;
        let bound = &mut self.sockets[usize::from(number)];
        let counters = &mut self.counters;
        job.in_flight -= 1;
        job.held += u16::from(held);
        let train = job.train;
        let is_train = train.segment < train.place.len;
        match result {
            Ok(_) => {
                let segments = u64::from(len.div_ceil(train.segment));
                counters.udp_sent_bytes += u64::from(len);
                counters.udp_sent_wire_bytes += u64::from(len) + segments * train.path.header();
                counters.udp_sent_segments += segments;
                counters.udp_sent_gso_trains += u64::from(segments > 1);
                if job.singly && bound.segments {
                    // The same bytes went out singly: it was the segmentation that was refused.
                    bound.segments = false;
                    let address = bound.socket.local();
                    tracing::warn!(%address, "the device refuses segmentation offload (GSO): datagrams are sent one by one from now on");
                }
            }
            Err(libc::EAGAIN) if !job.singly => {
                counters.udp_send_blocked += 1;
                job.submitted = 0;
                if !bound.blocked {
                    bound.blocked = true;
                    ring.poll_writable(&bound.socket, number);
                }
                self.requeue(index);
                return false;
            }
            // It may not pin so much memory (RLIMIT_MEMLOCK), or cannot do it at all.
            Err(libc::ENOMEM | libc::ENOBUFS | libc::EOPNOTSUPP) if zero_copy => {
                bound.zero_copy.refuse();
                counters.udp_zero_copy_ended += 1;
                job.submitted = 0;
                self.requeue(index);
                return false;
            }
            Err(libc::EIO | libc::EINVAL) if is_train && !job.singly => {
                counters.udp_send_gso_refused += 1;
                counters.udp_send_singly += 1;
                job.singly = true;
                job.submitted = 0;
                self.requeue(index);
                return false;
            }
            Err(errno) => *cause(counters, errno) += 1,
        }
        self.finish(ring, index)
    }

    /// The kernel has read what it was left; `copied` when it had made a copy instead. True when a send buffer became
    /// free.
    pub fn released(&mut self, ring: &mut Ring, slot: u16, copied: bool) -> bool {
        self.slots.push(slot);
        let index = self.flights[usize::from(slot)].job;
        let job = self.jobs[usize::from(index)].as_mut().expect("a job whose buffer is read is there");
        job.held -= 1;
        let (bound, counters) = (&mut self.sockets[usize::from(job.socket)], &mut self.counters);
        *(if copied { &mut counters.udp_zero_copy_copied } else { &mut counters.udp_zero_copy_avoided }) += 1;
        if bound.zero_copy.report(copied) {
            counters.udp_zero_copy_ended += 1;
            let address = bound.socket.local();
            tracing::debug!(%address, "the kernel copies what it was to send in place: not tried any more");
        }
        self.finish(ring, index)
    }

    /// Gives a job's buffer back, if all of it was sent and nobody reads it any more.
    fn finish(&mut self, ring: &mut Ring, index: u16) -> bool {
        let Some(job) = &self.jobs[usize::from(index)] else { return false };
        let train = job.train;
        if job.in_flight > 0 || job.held > 0 || job.submitted < train.place.len {
            return false;
        }
        self.counters.udp_sent_trains += 1;
        self.jobs[usize::from(index)] = None;
        ring.buffers().sent(train.place.buf);
        true
    }

    /// Puts a job back where it was in its socket's queue.
    fn requeue(&mut self, index: u16) {
        let order_of = |jobs: &[Option<Job>], index: u16| jobs[usize::from(index)].map_or(0, |job| job.order);
        let job = self.jobs[usize::from(index)].as_ref().expect("a job that is put back is there");
        let queue = &mut self.sockets[usize::from(job.socket)].queue;
        let at = queue.partition_point(|other| order_of(&self.jobs, *other) < job.order);
        queue.insert(at, index);
    }

    /// A socket has room again.
    pub fn writable(&mut self, number: u16) {
        self.sockets[usize::from(number)].blocked = false;
    }

    /// Whether every train has been sent.
    pub fn is_idle(&self) -> bool {
        self.jobs.iter().all(Option::is_none)
    }
}

fn job_of(buf: BufId) -> u16 {
    (buf.0 as usize - RECEIVE_BUFFERS) as u16
}

fn cause(counters: &mut UdpCounters, errno: i32) -> &mut u64 {
    match errno {
        libc::EMSGSIZE => &mut counters.udp_send_too_big,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL => {
            &mut counters.udp_send_unreachable
        }
        libc::EPERM | libc::EACCES => &mut counters.udp_send_forbidden,
        libc::ENOBUFS | libc::ENOMEM => &mut counters.udp_send_no_memory,
        _ => &mut counters.udp_send_failed,
    }
}

#[cfg(test)]
mod tests;

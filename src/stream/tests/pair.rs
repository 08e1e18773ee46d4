//! The `Pair`: a bottleneck with rate, queue, delay, loss, reordering, duplication and MTU each way. One
//! seed decides everything; a failing test prints what it was.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::base::{Rng, StreamId, Time};
use crate::limits::{PACKET_OVERHEAD, SENT_PACKETS_MAX, TRAIN_SEGMENTS_MAX};
use crate::stream::{Config, Connection, Event, Sink, SourceFault, SourceId, SourceRead};

/// One direction of the path.
#[derive(Debug, Clone)]
pub struct Link {
    /// Bits per second.
    pub rate: u64,
    /// One way.
    pub delay: Duration,
    /// Bytes that wait at most.
    pub queue: u64,
    pub loss: f64,
    pub reorder: f64,
    pub duplicate: f64,
    /// UDP payload at most.
    pub mtu: usize,
    /// Marks packets instead of dropping once so many bytes wait.
    pub mark: Option<u64>,
}

impl Link {
    pub fn new(megabits: u64, rtt_ms: u64) -> Self {
        let rate = megabits * 1_000_000;
        let delay = Duration::from_millis(rtt_ms) / 2;
        let queue = (rate / 8 * rtt_ms / 1000).max(32_000);
        Self { rate, delay, queue, loss: 0.0, reorder: 0.0, duplicate: 0.0, mtu: 1472, mark: None }
    }

    pub fn loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }
}

/// The byte of any test content.
pub fn content(source: u64, offset: u64) -> u8 {
    ((offset ^ (offset >> 8) ^ source.wrapping_mul(0x9e37)).wrapping_mul(0x2545_f491) >> 13) as u8
}

/// Sources made of [`content`]; those in `broken` fail from that offset on.
#[derive(Debug, Default)]
pub struct Sources {
    pub broken: BTreeMap<u64, u64>,
}

impl SourceRead for Sources {
    fn read(&mut self, source: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        if self.broken.get(&source.0).is_some_and(|from| offset + into.len() as u64 > *from) {
            return Err(SourceFault);
        }
        into.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = content(source.0, at));
        Ok(())
    }
}

/// Checks what a sink gets against [`content`] of the source that the test expects there.
#[derive(Debug, Default)]
pub struct Checked {
    pub expect: BTreeMap<StreamId, u64>,
    pub got: BTreeMap<StreamId, u64>,
    /// Reported as consumed at once when true.
    pub consume: bool,
    fresh: Vec<(StreamId, u64)>,
}

impl Sink for Checked {
    fn data(&mut self, stream: StreamId, offset: u64, bytes: &[u8]) {
        let source = self.expect[&stream];
        let wrong = bytes.iter().zip(offset..).find(|(byte, at)| **byte != content(source, *at));
        assert_eq!(wrong, None, "stream {stream:?} from {offset}");
        *self.got.entry(stream).or_default() += bytes.len() as u64;
        self.fresh.push((stream, bytes.len() as u64));
    }
}

/// One packet in so many, on average, leaves a number out before it.
const LEFT_OUT_EVERY: f64 = 64.0;

/// One end.
#[derive(Debug)]
pub struct End {
    pub conn: Connection,
    pub sources: Sources,
    pub sink: Checked,
    pub events: Vec<Event>,
    pub number: u64,
    /// Every so many packets the number skips one, as for another kind of packet.
    pub skip: u64,
    /// Most packets that were remembered at once.
    pub remembered: usize,
    skips: Rng,
    /// Link that it sends on, and when that link is free again.
    pub link: Link,
    busy: Time,
    /// A packet left since a number was last left out or might have been.
    fresh_number: bool,
    /// Packets that the queue or chance dropped; packets that were too large.
    pub dropped: u64,
    pub oversized: u64,
    /// Lengths of trains' packets of the last turn.
    pub turn: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Time,
    order: u64,
    to: usize,
    number: u64,
    ecn: u8,
    payload: Vec<u8>,
}

/// Two ends and what is between them.
pub struct Pair {
    pub now: Time,
    pub ends: [End; 2],
    air: BinaryHeap<Reverse<Flight>>,
    rng: Rng,
    order: u64,
    /// When the driver looks at timers again, at the earliest: its granularity.
    pub tick: Duration,
}

impl Pair {
    pub fn new(link: Link, seed: u64) -> Self {
        let now = Time::from_millis(1000);
        let end = |initiator: bool| End {
            conn: Connection::new(now, Config::new(initiator)),
            sources: Sources::default(),
            sink: Checked { consume: true, ..Checked::default() },
            events: Vec::new(),
            number: 0,
            skip: 0,
            remembered: 0,
            skips: Rng::from_number(seed ^ (1 + u64::from(initiator)) << 32),
            link: link.clone(),
            busy: now,
            fresh_number: false,
            dropped: 0,
            oversized: 0,
            turn: Vec::new(),
        };
        let ends = [end(true), end(false)];
        let (rng, tick) = (Rng::from_number(seed), Duration::from_micros(50));
        Self { now, ends, air: BinaryHeap::new(), rng, order: 0, tick }
    }

    pub fn a(&mut self) -> &mut Connection {
        &mut self.ends[0].conn
    }

    pub fn b(&mut self) -> &mut Connection {
        &mut self.ends[1].conn
    }

    fn launch(&mut self, from: usize, number: u64, payload: &[u8]) {
        let end = &mut self.ends[from];
        let link = &end.link;
        let size = (payload.len() + PACKET_OVERHEAD) as u64;
        if size as usize > link.mtu {
            end.oversized += 1;
            return;
        }
        let waiting = end.busy.since(self.now).as_nanos() as u64 * (link.rate / 8) / 1_000_000_000;
        if waiting + size > link.queue || self.rng.chance(link.loss) {
            end.dropped += 1;
            return;
        }
        let ecn = if link.mark.is_some_and(|mark| waiting > mark) { 3 } else { 2 };
        end.busy = end.busy.max(self.now) + Duration::from_nanos(size * 8 * 1_000_000_000 / link.rate);
        let mut at = end.busy + link.delay;
        if self.rng.chance(link.reorder) {
            at += link.delay / 4 + Duration::from_nanos(self.rng.below(link.delay.as_nanos() as u64 / 2 + 1));
        }
        for _ in 0..1 + u32::from(self.rng.chance(link.duplicate)) {
            self.order += 1;
            let (order, to) = (self.order, 1 - from);
            self.air.push(Reverse(Flight { at, order, to, number, ecn, payload: payload.to_vec() }));
        }
    }

    /// Lets both ends send what they may.
    pub fn drive(&mut self) {
        for side in 0..2 {
            let mut room = [0; 1500 - PACKET_OVERHEAD];
            self.ends[side].turn.clear();
            for polled in 0.. {
                assert!(polled < 100_000, "poll_payload does not end");
                let end = &mut self.ends[side];
                if end.skip > 0 && end.number % end.skip == end.skip - 1 {
                    end.number += 1;
                }
                // As a session does: between two packets, and told before the next one.
                if end.fresh_number && end.skips.chance(1.0 / LEFT_OUT_EVERY) {
                    end.conn.on_number_skipped(end.number);
                    end.number += 1;
                }
                end.fresh_number = false;
                let Some(meta) = end.conn.poll_payload(self.now, end.number, &mut room, &mut end.sources)
                else {
                    break;
                };
                assert!(meta.len > 0);
                assert!(meta.probe || meta.len + PACKET_OVERHEAD <= end.conn.packet_size());
                if !meta.probe {
                    end.turn.push(meta.len);
                }
                let number = end.number;
                (end.number, end.fresh_number) = (end.number + 1, true);
                end.remembered = end.remembered.max(end.conn.sent.len());
                assert!(end.conn.sent.len() <= 2 * SENT_PACKETS_MAX);
                self.launch(side, number, &room[..meta.len]);
            }
            let end = &mut self.ends[side];
            while let Some(event) = end.conn.poll_event() {
                end.events.push(event);
            }
        }
    }

    /// One turn: what arrived, what timed out, what may be sent. False when nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        self.drive();
        assert!(self.air.len() < 100_000, "too much in the air");
        for end in &self.ends {
            assert!(end.events.len() < 100_000, "too many events: {:?}", &end.events[90_000..90_010]);
        }
        let arrival = self.air.peek().map(|Reverse(flight)| flight.at);
        let timers = self.ends.iter().filter_map(|end| end.conn.poll_timeout()).min();
        let timers = timers.map(|at| at.max(self.now + self.tick));
        let Some(next) = arrival.into_iter().chain(timers).min() else { return false };
        self.now = next.max(self.now);
        let mut seen = [false; 2];
        let mut trains = 0;
        while let Some(Reverse(flight)) = self.air.peek()
            && flight.at <= self.now
            && trains < TRAIN_SEGMENTS_MAX
        {
            let Some(Reverse(flight)) = self.air.pop() else { break };
            let end = &mut self.ends[flight.to];
            let taken =
                end.conn.handle_payload(self.now, flight.number, flight.ecn, &flight.payload, &mut end.sink);
            assert_eq!(taken, Ok(()));
            seen[flight.to] = true;
            trains += 1;
        }
        for (end, seen) in self.ends.iter_mut().zip(seen) {
            if seen {
                end.conn.end_of_batch(self.now);
            }
            if end.sink.consume {
                for (stream, bytes) in end.sink.fresh.drain(..) {
                    end.conn.consumed(stream, bytes);
                }
            }
            if end.conn.poll_timeout().is_some_and(|at| at <= self.now) {
                end.conn.handle_timeout(self.now);
            }
            while let Some(event) = end.conn.poll_event() {
                end.events.push(event);
            }
        }
        true
    }

    /// Steps until `done` or for `limit` of virtual time; says how long it took, or `None`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Pair) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        for _ in 0..20_000_000u64 {
            if done(self) {
                return Some(self.now.since(begin));
            }
            if self.now.since(begin) > limit {
                return None;
            }
            // What `done` did may be what goes on.
            if !self.step() {
                if done(self) {
                    return Some(self.now.since(begin));
                }
                if !self.step() {
                    return None;
                }
            }
        }
        panic!("the pair spins");
    }

    /// Runs for so long.
    pub fn run(&mut self, limit: Duration) {
        self.run_until(limit, |_| false);
    }

    /// A sends `len` bytes of source `source` on a new stream; B takes them as a sink.
    pub fn offer(&mut self, source: u64, len: u64) -> StreamId {
        let stream = self.a().open(crate::base::ChannelId(3), crate::stream::RecvMode::Ordered).unwrap();
        self.a().attach(stream, SourceId(source), len).unwrap();
        self.a().finish(stream);
        self.ends[1].sink.expect.insert(stream, source);
        stream
    }

    /// B accepts as sinks what was opened since.
    pub fn accept_all(&mut self) {
        let end = &mut self.ends[1];
        while let Some(event) = end.conn.poll_event() {
            end.events.push(event);
        }
        for event in &end.events {
            if let Event::Opened { stream, .. } = event
                && end.sink.expect.contains_key(stream)
            {
                end.conn.accept(*stream, crate::stream::RecvMode::Sink, &mut end.sink);
            }
        }
    }

    pub fn got(&self, stream: StreamId) -> u64 {
        self.ends[1].sink.got.get(&stream).copied().unwrap_or(0)
    }

    /// Transfers `len` bytes from A to B; the goodput, bits per second.
    pub fn transfer(&mut self, len: u64, limit: Duration) -> f64 {
        let stream = self.offer(7, len);
        let took = self
            .run_until(limit, |pair| {
                pair.accept_all();
                pair.ends[0].events.contains(&Event::Acked(stream))
            })
            .unwrap_or_else(|| panic!("{} of {len} bytes: {:#?}", self.got(stream), self.ends[0].conn));
        assert_eq!(self.got(stream), len);
        assert!(self.ends[1].events.contains(&Event::Finished { stream, final_size: len }));
        len as f64 * 8.0 / took.as_secs_f64()
    }
}

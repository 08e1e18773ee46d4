//! Acknowledgements, loss and timeouts (RFC 9002), and what they mean for streams, windows and sizes.

use std::time::Duration;

use super::connection::Connection;
use super::controller::{Acked, Signal};
use super::mtu::Discovery;
use super::pacer::Pacer;
use super::rtt::{GRANULARITY, Rtt};
use super::sent::{FrameRef, Sent, State};
use super::table::Queue;
use super::{Event, Violation};
use crate::base::{StreamId, Time};
use crate::limits::{REORDER_PACKETS_MAX, SENT_QUIET_MAX};
use crate::wire::frame::Ack;

/// RFC 9002 kPacketThreshold, to begin with.
const REORDER_PACKETS: u64 = 3;
/// RFC 9002 kTimeThreshold, in eighths of the round trip, to begin with and at most.
const REORDER_EIGHTHS: u32 = 9;
const REORDER_EIGHTHS_MAX: u32 = 16;
/// Congestion events without a spurious loss after which reordering is forgotten (RFC 8985 §6.2).
const REORDER_PERSISTS: u32 = 16;
/// RFC 9002 kPersistentCongestionThreshold.
const PERSISTENT: u32 = 3;
/// Probe timeouts grow up to this.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Probe timeouts in a row after which packets have the smallest size, lest a black hole eats them.
const SMALL_AFTER: u32 = 2;

/// What loss recovery remembers beside the packets themselves.
#[derive(Debug)]
pub(super) struct Recovery {
    largest_acked: Option<u64>,
    reorder_packets: u64,
    reorder_eighths: u32,
    events_since_spurious: u32,
    loss_at: Option<Time>,
    timeouts: u32,
    /// Packets that may leave whatever the window says.
    pub probes: u32,
    /// When the last packet left that elicits an acknowledgement.
    pub last_eliciting: Time,
    /// Acknowledgements that left alone in a row.
    pub quiet_run: u32,
    limited_at: Option<Time>,
    /// Packets below this number belong to an earlier path.
    path_start: u64,
    first_sample: Option<Time>,
    /// The last congestion event: its first lost packet, and lost packets that may yet arrive.
    event_start: u64,
    event_open: u64,
    fresh: Vec<std::ops::Range<u64>>,
}

impl Recovery {
    pub fn new(now: Time) -> Self {
        Self {
            largest_acked: None,
            reorder_packets: REORDER_PACKETS,
            reorder_eighths: REORDER_EIGHTHS,
            events_since_spurious: 0,
            loss_at: None,
            timeouts: 0,
            probes: 0,
            last_eliciting: now,
            quiet_run: 0,
            limited_at: None,
            path_start: 0,
            first_sample: None,
            event_start: 0,
            event_open: 0,
            fresh: Vec::new(),
        }
    }

    /// Whether full packets seem to vanish.
    pub fn suspects_black_hole(&self) -> bool {
        self.timeouts >= SMALL_AFTER
    }

    /// `limited`: the window keeps bytes back.
    pub fn note_limit(&mut self, now: Time, limited: bool) {
        if limited {
            self.limited_at = Some(now);
        }
    }

    fn was_limited(&self, now: Time, rtt: &Rtt) -> bool {
        self.limited_at.is_some_and(|at| now.since(at) <= rtt.smoothed().max(rtt.latest()) + GRANULARITY)
    }

    fn loss_delay(&self, rtt: &Rtt) -> Duration {
        (rtt.latest().max(rtt.smoothed()) * self.reorder_eighths / 8).max(GRANULARITY)
    }
}

/// Neighbouring bytes of one stream, acknowledged by many packets, settled at once.
#[derive(Debug, Default)]
struct Run {
    id: u64,
    start: u64,
    end: u64,
    fin: bool,
}

impl Connection {
    /// When [`Self::handle_timeout`] or [`Self::poll_payload`] wants to be called, if nothing comes before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = self.recovery.loss_at.or_else(|| self.probe_timeout_at());
        [due, self.paced_until, self.received.timeout(), self.mtu.timeout()].into_iter().flatten().min()
    }

    fn probe_timeout_at(&self) -> Option<Time> {
        if self.sent.eliciting() == 0 {
            return None;
        }
        let backoff = 1u32 << self.recovery.timeouts.min(16);
        let wait = self.rtt.probe_timeout().saturating_mul(backoff);
        Some(self.recovery.last_eliciting + wait.min(PROBE_TIMEOUT_MAX.max(self.rtt.probe_timeout())))
    }

    /// The time that [`Self::poll_timeout`] named has come (calling early does no harm).
    pub fn handle_timeout(&mut self, now: Time) {
        self.mtu.on_timeout(now);
        self.paced_until = self.paced_until.filter(|at| *at > now);
        if self.recovery.loss_at.is_some() {
            if self.recovery.loss_at.is_some_and(|at| at <= now) {
                self.find_losses(now);
            }
        } else if self.probe_timeout_at().is_some_and(|at| at <= now) {
            self.on_probe_timeout();
        }
    }

    /// Two packets leave whatever the window says; what the oldest ones carried goes first, since the
    /// peer most likely lacks it.
    fn on_probe_timeout(&mut self) {
        self.recovery.timeouts += 1;
        self.ecn.on_timeout(self.recovery.timeouts);
        self.recovery.probes = 2;
        self.stats.timeouts += 1;
        self.sent.first_in_flight();
        let mut oldest = [None; 2];
        oldest.iter_mut().zip(self.sent.in_flight_numbers()).for_each(|(slot, number)| *slot = Some(number));
        for number in oldest.into_iter().flatten() {
            if let Some(packet) = self.sent.get(number).copied() {
                self.requeue(&packet);
            }
        }
    }

    // ---- acknowledgements ----

    pub(super) fn on_ack(&mut self, now: Time, ack: &Ack<'_>) -> Result<(), Violation> {
        let mut fresh = std::mem::take(&mut self.recovery.fresh);
        self.sent.fresh(ack.ranges(), &mut fresh);
        if fresh.iter().any(|range| self.sent.has_skipped(range)) {
            return Err(Violation::NEVER_SENT);
        }
        if let Some(largest) = fresh.first().map(|range| range.end - 1) {
            self.on_news(now, ack, largest, &fresh);
        }
        fresh.clear();
        self.recovery.fresh = fresh;
        Ok(())
    }

    fn on_news(&mut self, now: Time, ack: &Ack<'_>, largest: u64, fresh: &[std::ops::Range<u64>]) {
        let in_flight = self.sent.in_flight();
        let (mut bytes, mut eliciting, mut arrived) = (0, false, 0);
        let mut newest: Option<(u64, Sent)> = None;
        let mut run = Run::default();
        let known = self.recovery.largest_acked.map_or(largest, |old| old.max(largest));
        self.recovery.largest_acked = Some(known);
        for range in fresh {
            for number in range.clone() {
                let Some(packet) = self.sent.acknowledge(number) else { continue };
                match packet.state {
                    State::Foreign | State::Skipped | State::Acked => continue,
                    State::InFlight => {
                        eliciting = true;
                        bytes += u64::from(packet.size);
                        if packet.probe {
                            if self.mtu.on_probe_acked(now, number) {
                                self.apply_packet_size(now);
                            }
                        } else {
                            self.mtu.on_acked(number, packet.size);
                        }
                    }
                    State::Lost => self.on_spurious(number, ack.largest),
                    State::Quiet => {}
                }
                arrived += 1;
                if newest.is_none_or(|(old, _)| number > old) {
                    newest = Some((number, packet));
                }
                let mut index = 0;
                while let Some(frame) = self.sent.frame(&packet, index) {
                    self.on_frame_acked(frame, &mut run);
                    index += 1;
                }
            }
        }
        self.settle_run(&mut run);
        let Some((largest, packet)) = newest else { return };
        let current = largest >= self.recovery.path_start;
        let mut sample = None;
        if largest == ack.largest && eliciting && current && packet.state != State::Lost {
            let measured = now.since(packet.time);
            self.rtt.update(measured, Duration::from_micros(ack.delay_us));
            self.recovery.first_sample.get_or_insert(now);
            sample = Some(measured);
            self.round_trip = sample;
        }
        if eliciting {
            self.recovery.timeouts = 0;
        }
        // Of an earlier path nothing is learned about this one.
        if !current {
            self.ecn.on_earlier_acked(ack.ce);
        } else if self.ecn.on_acked(arrived, ack.ce, self.stats.sent_packets)
            && self.controller.on_congestion(now, packet.time, Signal::Marked)
        {
            self.stats.congestion_events += 1;
        }
        self.find_losses(now);
        if eliciting && current {
            let limited = self.recovery.was_limited(now, &self.rtt)
                || (self.controller.in_slow_start() && 2 * in_flight > self.controller.window());
            self.controller.on_acked(&Acked {
                now,
                bytes,
                largest,
                sent: packet.time,
                next: self.sent.next(),
                limited,
                sample,
                rtt: &self.rtt,
                in_flight,
            });
        }
        self.apply_rate(now);
        self.sent.trim(now, 2 * self.rtt.probe_timeout());
    }

    #[inline]
    fn on_frame_acked(&mut self, frame: FrameRef, run: &mut Run) {
        match frame {
            FrameRef::Stream { id, start, len, fin, open } => {
                let end = start + u64::from(len);
                if open && let Some(stream) = self.streams.get(id) {
                    stream.known = true;
                }
                if run.id == id && run.end == start && run.end > run.start {
                    run.end = end;
                    run.fin |= fin;
                } else {
                    self.settle_run(run);
                    *run = Run { id, start, end, fin };
                }
            }
            FrameRef::Ack { largest } => self.received.on_told(largest),
            FrameRef::Reset { id } => {
                if let Some(stream) = self.streams.get(id) {
                    stream.send.on_reset_acked();
                    self.close_if_done(StreamId(id));
                }
            }
            FrameRef::Stop { id } => {
                if let Some(stream) = self.streams.get(id) {
                    stream.stop = None;
                }
            }
            FrameRef::StreamWindow { .. } | FrameRef::SessionWindow | FrameRef::StreamCredit => {}
        }
    }

    fn settle_run(&mut self, run: &mut Run) {
        let Run { id, start, end, fin } = std::mem::take(run);
        if start == end && !fin {
            return;
        }
        let Some(stream) = self.streams.get(id) else { return };
        let was_done = stream.send.is_done();
        stream.send.on_acked(start..end, fin);
        let done = stream.send.is_done() && !was_done;
        let writable = !stream.writable_told && stream.send.takes_again();
        stream.writable_told |= writable;
        if writable {
            self.event(Event::Writable(StreamId(id)));
        }
        if done {
            self.event(Event::Acked(StreamId(id)));
            self.close_if_done(StreamId(id));
        }
    }

    // ---- loss ----

    /// A packet that was presumed lost arrived: the network reorders more than was thought.
    fn on_spurious(&mut self, number: u64, largest: u64) {
        self.stats.spurious_losses += 1;
        let recovery = &mut self.recovery;
        let distance = largest.saturating_sub(number) + 1;
        recovery.reorder_packets = recovery.reorder_packets.max(distance.min(REORDER_PACKETS_MAX));
        recovery.reorder_eighths = (recovery.reorder_eighths + 1).min(REORDER_EIGHTHS_MAX);
        recovery.events_since_spurious = 0;
        if number >= recovery.event_start && recovery.event_open > 0 {
            recovery.event_open -= 1;
            if recovery.event_open == 0 {
                self.controller.on_spurious();
            }
        }
    }

    fn find_losses(&mut self, now: Time) {
        self.recovery.loss_at = None;
        let Some(largest) = self.recovery.largest_acked else { return };
        let delay = self.recovery.loss_delay(&self.rtt);
        let (mut lost, mut first, mut last_sent) = (0u64, None, Time::ZERO);
        // RFC 9002 §7.6: the longest time in which nothing arrived.
        let (mut span_start, mut span, mut previous) = (None, Duration::ZERO, None);
        while let Some(number) = self.sent.first_in_flight().filter(|number| *number <= largest) {
            let Some(packet) = self.sent.get(number).copied() else { break };
            if largest - number < self.recovery.reorder_packets && packet.time + delay > now {
                self.recovery.loss_at = Some(packet.time + delay);
                break;
            }
            self.sent.lose(number);
            self.requeue(&packet);
            if packet.probe {
                self.mtu.on_probe_lost(now, number);
                continue;
            }
            self.stats.lost_packets += 1;
            self.stats.lost_bytes += u64::from(packet.size);
            if number < self.recovery.path_start {
                continue;
            }
            self.mtu.on_lost(number, packet.size, packet.time);
            self.ecn.on_lost();
            lost += 1;
            first.get_or_insert(number);
            last_sent = packet.time;
            if self.recovery.first_sample.is_some_and(|sample| packet.time > sample) {
                if previous.is_some_and(|previous| !self.sent.none_arrived(previous + 1..number)) {
                    span_start = None;
                }
                let begin = *span_start.get_or_insert(packet.time);
                span = span.max(packet.time.since(begin));
                previous = Some(number);
            }
        }
        let Some(first) = first else { return };
        if self.controller.on_congestion(now, last_sent, Signal::Loss) {
            self.stats.congestion_events += 1;
            (self.recovery.event_start, self.recovery.event_open) = (first, 0);
            self.recovery.events_since_spurious += 1;
            if self.recovery.events_since_spurious > REORDER_PERSISTS {
                self.recovery.reorder_packets = REORDER_PACKETS;
                self.recovery.reorder_eighths = REORDER_EIGHTHS;
            }
        }
        self.recovery.event_open += lost;
        if span > self.rtt.probe_timeout() * PERSISTENT {
            self.controller.on_congestion(now, last_sent, Signal::Persistent);
            self.recovery.event_open = 0;
            self.recovery.event_start = u64::MAX;
        }
        if self.mtu.black_hole(now, self.rtt.probe_timeout()) {
            self.stats.black_holes += 1;
            self.apply_packet_size(now);
        }
        self.apply_rate(now);
    }

    /// A peer that acknowledges no acknowledgement cannot make this side remember all of them: the older half
    /// is forgotten. What is in flight before them is so old that it counts as lost.
    pub(super) fn forget_quiet(&mut self, now: Time) {
        while self.sent.quiet() > SENT_QUIET_MAX / 2
            && let Some((number, packet)) = self.sent.oldest()
        {
            if packet.state == State::InFlight {
                self.sent.lose(number);
                self.requeue(&packet);
                if packet.probe {
                    self.mtu.on_probe_lost(now, number);
                } else {
                    self.stats.lost_packets += 1;
                    self.stats.lost_bytes += u64::from(packet.size);
                }
            }
            self.sent.forget_oldest();
        }
    }

    /// What a packet carried goes out again, as far as it still matters.
    fn requeue(&mut self, packet: &Sent) {
        let mut index = 0;
        while let Some(frame) = self.sent.frame(packet, index) {
            index += 1;
            match frame {
                FrameRef::Stream { id, start, len, fin, open } => {
                    let Some(stream) = self.streams.get(id) else { continue };
                    stream.announce |= open && !stream.known;
                    let again = stream.send.on_lost(start..start + u64::from(len), fin);
                    if again && stream.send.has_lost() {
                        self.streams.enqueue(Queue::Again, id);
                    }
                    self.wake(id);
                }
                FrameRef::Reset { id } => {
                    if let Some(stream) = self.streams.get(id) {
                        stream.reset_due = stream.send.unsettled_reset().is_some();
                        self.streams.enqueue(Queue::Control, id);
                    }
                }
                FrameRef::Stop { id } => {
                    if let Some(stream) = self.streams.get(id) {
                        stream.stop_due = stream.stop.is_some();
                        self.streams.enqueue(Queue::Control, id);
                    }
                }
                FrameRef::StreamWindow { id } => {
                    if let Some(stream) = self.streams.get(id) {
                        stream.window_due = true;
                        self.streams.enqueue(Queue::Control, id);
                    }
                }
                FrameRef::SessionWindow => self.granted.max_due = true,
                FrameRef::StreamCredit => self.granted.streams_due = true,
                FrameRef::Ack { .. } => {}
            }
        }
    }

    // ---- the path ----

    fn apply_packet_size(&mut self, now: Time) {
        let size = self.mtu.current();
        self.controller.on_packet_size(u64::from(size));
        self.pacer.set_packet(u64::from(size));
        self.event(Event::MtuChanged(size));
        self.apply_rate(now);
    }

    pub(super) fn apply_rate(&mut self, now: Time) {
        if self.rtt.sampled() || self.config.rtt_hint.is_some() {
            let (window, slow_start) = (self.controller.window(), self.controller.in_slow_start());
            let wanted = self.controller.pacing_rate();
            self.pacer.update(now, window, self.rtt.smoothed(), slow_start, wanted);
        }
    }

    /// The session moved to another path: window, round trip and packet size begin anew.
    pub fn path_changed(&mut self, now: Time) {
        let before = self.mtu.current();
        self.sent.discount();
        self.controller = self.controller.fresh();
        // The old round trip is the best guess, unless it was unusually good.
        let (least, most) = (Duration::from_millis(100), Duration::from_millis(333));
        self.rtt = Rtt::new(Some(self.rtt.smoothed().clamp(least, most)));
        self.config.rtt_hint = None;
        self.mtu = Discovery::new(self.config.mtu_min, self.config.mtu_max);
        self.ecn = self.ecn.fresh();
        self.controller.on_packet_size(u64::from(self.mtu.current()));
        self.pacer = Pacer::new(now, u64::from(self.mtu.current()));
        let recovery = &mut self.recovery;
        recovery.path_start = self.sent.next();
        (recovery.reorder_packets, recovery.reorder_eighths) = (REORDER_PACKETS, REORDER_EIGHTHS);
        // One packet leaves at once, to learn of the new path.
        (recovery.timeouts, recovery.probes, recovery.event_open) = (0, 1, 0);
        (recovery.first_sample, recovery.limited_at, recovery.loss_at) = (None, None, None);
        if before != self.mtu.current() {
            self.event(Event::MtuChanged(self.mtu.current()));
        }
        self.find_losses(now);
    }
}

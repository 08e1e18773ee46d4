//! Which packet numbers arrived, and when to say so (RFC 9000 §13.2).
//!
//! The first packets are acknowledged two by two. A flow is acknowledged about sixteen times per round
//! trip and at least every 32 packets; a gap, a late packet or an ECN mark at once. The driver calls
//! [`super::Connection::end_of_batch`], so one batch of received packets causes one acknowledgement at most.

use std::time::Duration;

use crate::base::{RangeSet, Time};
use crate::limits::{ACK_DELAY_US_MAX, ACK_RANGES_MAX};
use crate::wire::frame::Writer;

const EVERY_MIN: u32 = 2;
const EVERY_MAX: u32 = 32;
/// Acknowledgements per round trip of a steady flow.
const PER_ROUND: u32 = 16;
/// An acknowledgement costs both sides about as much as the packet does: where packets come singly, two shall share one.
const DELAY_MIN: Duration = Duration::from_millis(2);
const DELAY_MAX: Duration = Duration::from_micros(ACK_DELAY_US_MAX);

/// The receive side's packet numbers.
#[derive(Debug, Clone)]
pub struct Received {
    numbers: RangeSet,
    largest: Option<u64>,
    largest_at: Time,
    ce: u64,
    /// Ack-eliciting packets that no acknowledgement has told of.
    pending: u32,
    /// Packets of any kind that no acknowledgement has told of.
    untold: bool,
    at_once: bool,
    deadline: Option<Time>,
    every: u32,
    /// Ack-eliciting packets in the current measurement of about a round trip.
    round: u32,
    round_end: Time,
}

impl Received {
    /// Nothing arrived yet.
    pub fn new() -> Self {
        Self {
            numbers: RangeSet::new(),
            largest: None,
            largest_at: Time::ZERO,
            ce: 0,
            pending: 0,
            untold: false,
            at_once: false,
            deadline: None,
            every: EVERY_MIN,
            round: 0,
            round_end: Time::ZERO,
        }
    }

    /// Whether `number` is known to have arrived before.
    #[inline]
    pub fn contains(&self, number: u64) -> bool {
        self.largest.is_some_and(|largest| number <= largest) && self.numbers.contains(number)
    }

    /// A packet arrived. `eliciting`: it wants to be acknowledged. `ce`: it carried an ECN mark.
    #[inline]
    pub fn on_packet(&mut self, now: Time, number: u64, eliciting: bool, ce: bool, rtt: Option<Duration>) {
        let in_order = self.largest.is_none_or(|largest| number == largest + 1);
        self.numbers.insert(number..number + 1);
        if self.numbers.len() > ACK_RANGES_MAX {
            self.numbers.pop_first();
        }
        if self.largest.is_none_or(|largest| number > largest) {
            (self.largest, self.largest_at) = (Some(number), now);
        }
        self.untold = true;
        self.ce += u64::from(ce);
        if eliciting {
            self.pending += 1;
            self.round += 1;
            self.at_once |= !in_order || ce;
            if self.deadline.is_none() {
                let delay = rtt.map_or(DELAY_MAX, |rtt| (rtt / 8).clamp(DELAY_MIN, DELAY_MAX));
                self.deadline = Some(now + delay);
            }
        }
    }

    /// Adapts how many packets one acknowledgement covers.
    pub fn end_of_batch(&mut self, now: Time, rtt: Option<Duration>) {
        if now >= self.round_end {
            let steady = (self.round / PER_ROUND).clamp(EVERY_MIN, EVERY_MAX);
            // Grows step by step, so that a slow start is heard of often; shrinks at once.
            self.every = steady.min(2 * self.every);
            self.round = 0;
            self.round_end = now + rtt.unwrap_or(Duration::from_millis(25));
        }
    }

    /// Whether an acknowledgement should leave even alone.
    #[inline]
    pub fn due(&self, now: Time) -> bool {
        self.pending > 0
            && (self.at_once || self.pending >= self.every || self.deadline.is_some_and(|at| at <= now))
    }

    /// Whether an acknowledgement would tell anything new.
    #[inline]
    pub fn untold(&self) -> bool {
        self.untold
    }

    /// When [`Self::due`] becomes true by itself.
    pub fn timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// Writes an ACK; returns the largest number in it.
    pub fn write(&self, now: Time, out: &mut Writer<'_>) -> Option<u64> {
        let largest = self.largest?;
        let delay = now.since(self.largest_at).as_micros().min(u128::from(u32::MAX)) as u64;
        out.ack(delay, self.ce, &self.numbers)?;
        Some(largest)
    }

    /// The ACK that was written leaves.
    pub fn on_sent(&mut self) {
        (self.pending, self.untold, self.at_once, self.deadline) = (0, false, false, None);
    }

    /// The peer knows of everything up to `largest`: forget it, except for the largest of all.
    pub fn on_told(&mut self, largest: u64) {
        let keep = self.largest.unwrap_or(0);
        self.numbers.remove(0..(largest + 1).min(keep));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frame, frames};

    fn ack(received: &Received, now: Time) -> Vec<std::ops::Range<u64>> {
        let mut out = [0; 600];
        let mut writer = Writer::new(&mut out);
        received.write(now, &mut writer).unwrap();
        let len = writer.written();
        let Some(Ok(Frame::Ack(ack))) = frames(&out[..len]).next() else { panic!("no ACK") };
        ack.ranges().collect()
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn every_second_packet_then_fewer_and_at_once_when_something_is_odd() {
        let ms = Time::from_millis;
        let mut received = Received::new();
        received.on_packet(ms(0), 0, true, false, None);
        assert!(!received.due(ms(0)) && received.due(ms(10)));
        received.on_packet(ms(0), 1, true, false, None);
        assert!(received.due(ms(0)));
        received.on_sent();
        let mut number = 2;
        let rtt = Some(Duration::from_millis(20));
        for turn in 1..20 {
            for _ in 0..600 {
                received.on_packet(ms(20 * turn), number, true, false, rtt);
                number += 1;
            }
            received.end_of_batch(ms(20 * turn), rtt);
            received.on_sent();
        }
        for _ in 0..31 {
            received.on_packet(ms(400), number, true, false, rtt);
            number += 1;
        }
        assert!(!received.due(ms(400)));
        received.on_packet(ms(400), number, true, false, rtt);
        assert!(received.due(ms(400)));
        received.on_sent();
        received.on_packet(ms(400), number + 2, true, false, rtt);
        assert!(received.due(ms(400)), "a gap");
        assert_eq!(ack(&received, ms(400)), [number + 2..number + 3, 0..number + 1]);
        received.on_sent();
        received.on_packet(ms(400), number + 3, false, false, rtt);
        assert!(!received.due(ms(500)) && received.untold(), "an ACK elicits no ACK");
        received.on_packet(ms(400), number + 4, true, true, rtt);
        assert!(received.due(ms(400)), "an ECN mark");
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn forgets_what_the_peer_knows_and_stays_bounded() {
        let mut received = Received::new();
        (0..10_000).step_by(3).for_each(|n| received.on_packet(Time::ZERO, n, true, false, None));
        assert!(received.numbers.len() <= ACK_RANGES_MAX);
        received.on_told(9_990);
        assert_eq!(ack(&received, Time::ZERO), [9_999..10_000, 9_996..9_997, 9_993..9_994]);
        received.on_told(u64::MAX - 1);
        assert_eq!(ack(&received, Time::ZERO), [9_999..10_000]);
        assert!(received.contains(9_999) && !received.contains(9_998));
    }
}

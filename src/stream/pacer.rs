//! Spreads packets over the round trip: a token bucket whose burst is a whole train.
//!
//! Below a millisecond of round trip timers are too coarse to pace with, and the window is small enough
//! for any queue: there the bucket is always full.

use std::time::Duration;

use crate::base::Time;
use crate::limits::TRAIN_SIZE_MAX;

/// Round trips below this are not paced.
const RTT_MIN: Duration = Duration::from_millis(1);
/// A burst is at least so many packets.
const BURST_PACKETS: u64 = 10;
/// A burst is at least what the rate gives in this time.
const BURST_TIME_NS: u64 = 2_000_000;
/// Once empty, sending waits until the rate has given this much time: wake-ups stay below 1000 per second.
const QUANTUM_NS: u64 = 1_000_000;

/// The pacer of one path.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Bytes per second; `None` when not pacing.
    rate: Option<u64>,
    packet: u64,
    /// Bytes that may leave; below zero after a burst that was not limited by it.
    tokens: i64,
    last: Time,
    /// Whether it ran empty: nothing leaves before a quantum is there.
    empty: bool,
}

impl Pacer {
    /// A full bucket.
    pub fn new(now: Time, packet: u64) -> Self {
        let mut pacer = Self { rate: None, packet, tokens: 0, last: now, empty: false };
        pacer.tokens = pacer.burst() as i64;
        pacer
    }

    /// Sets the rate from the window: 5/4 of it per round trip, twice it in slow start. `wanted`, bytes
    /// per second, goes before that.
    pub fn update(&mut self, now: Time, window: u64, rtt: Duration, slow_start: bool, wanted: Option<u64>) {
        self.refill(now);
        let gain = if slow_start { 200 } else { 125 };
        self.rate = (rtt >= RTT_MIN).then(|| {
            let per_rtt = u128::from(window) * gain / 100 * 1_000_000_000;
            let derived = u64::try_from(per_rtt / rtt.as_nanos()).unwrap_or(u64::MAX);
            wanted.unwrap_or(derived).clamp(self.packet, 1 << 36)
        });
    }

    /// Full packets have this size now.
    pub fn set_packet(&mut self, bytes: u64) {
        self.packet = bytes;
    }

    /// Bytes that may leave at once, at most.
    fn burst(&self) -> u64 {
        let timed = self.rate.map_or(0, |rate| rate / (1_000_000_000 / BURST_TIME_NS));
        timed.max(BURST_PACKETS * self.packet)
    }

    fn quantum(&self) -> i64 {
        let timed = self.rate.map_or(0, |rate| rate / (1_000_000_000 / QUANTUM_NS));
        timed.clamp(self.packet, (TRAIN_SIZE_MAX as u64).max(timed / 2)).min(self.burst()) as i64
    }

    /// Tokens that must be there before anything leaves; never more than the bucket holds.
    fn threshold(&self) -> i64 {
        if self.empty { self.quantum() } else { 1 }
    }

    fn tokens_at(&self, now: Time) -> i64 {
        let elapsed = now.0.saturating_sub(self.last.0);
        match self.rate {
            Some(rate) => {
                // However long it takes: on a slow path a debt of a few packets is seconds.
                let new = u128::from(rate) * u128::from(elapsed) / 1_000_000_000;
                let new = i64::try_from(new).unwrap_or(i64::MAX);
                self.tokens.saturating_add(new).min(self.burst() as i64)
            }
            None => self.burst() as i64,
        }
    }

    fn refill(&mut self, now: Time) {
        if now > self.last || self.rate.is_none() {
            self.tokens = self.tokens_at(now);
            self.last = now.max(self.last);
        }
    }

    /// Bytes that may leave now; `u64::MAX` when not pacing.
    pub fn allowance(&self, now: Time) -> u64 {
        if self.rate.is_none() {
            return u64::MAX;
        }
        let tokens = self.tokens_at(now);
        if tokens >= self.threshold() { tokens as u64 } else { 0 }
    }

    /// `bytes` leave now.
    pub fn on_sent(&mut self, now: Time, bytes: u64) {
        self.refill(now);
        self.tokens -= bytes as i64;
        self.empty = self.tokens <= 0;
    }

    /// When something may leave again; `None` when it may now.
    pub fn next(&self, now: Time) -> Option<Time> {
        let rate = self.rate?;
        let missing = self.threshold() - self.tokens_at(now);
        if missing <= 0 {
            return None;
        }
        let wait = (missing as u128 * 1_000_000_000).div_ceil(u128::from(rate));
        Some(now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// Bytes per second; `None` when not pacing.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pacer: &mut Pacer, now: Time, packet: u64) -> u64 {
        let mut sent = 0;
        while pacer.allowance(now) > 0 && sent < 1 << 30 {
            pacer.on_sent(now, packet);
            sent += packet;
        }
        sent
    }

    #[test]
    fn keeps_the_rate_in_bursts_of_a_quantum() {
        let mut now = Time::from_millis(5);
        let mut pacer = Pacer::new(now, 1400);
        pacer.update(now, 1_250_000, Duration::from_millis(100), false, None);
        assert_eq!(pacer.rate(), Some(15_625_000));
        let burst = drain(&mut pacer, now, 1400);
        assert!((14_000..=34_000).contains(&burst), "{burst}");
        let (begin, mut sent, mut wakes) = (now, 0, 0);
        while now.since(begin) < Duration::from_secs(1) {
            now = pacer.next(now).expect("empty");
            let burst = drain(&mut pacer, now, 1400);
            assert!(burst > 0, "a wake-up sends");
            sent += burst;
            wakes += 1;
        }
        assert!((15_000_000..16_000_000).contains(&sent), "{sent}");
        assert!(wakes <= 1001, "{wakes}");
    }

    /// Found by the model: what had to be there before sending was fixed at the old rate, and the bucket
    /// of the new one never held it.
    #[test]
    fn an_empty_bucket_fills_at_whatever_rate_comes() {
        for (before, after) in [(100_000_000, 20_000), (20_000, 100_000_000)] {
            let mut now = Time::from_millis(5);
            let mut pacer = Pacer::new(now, 1400);
            pacer.update(now, before, Duration::from_millis(50), true, None);
            drain(&mut pacer, now, 1400);
            pacer.update(now, after, Duration::from_millis(50), false, None);
            now = pacer.next(now).expect("empty");
            assert!(pacer.allowance(now) > 0 && pacer.next(now).is_none());
        }
    }

    #[test]
    fn trains_are_whole_at_high_rates_and_small_round_trips_are_not_paced() {
        let now = Time::from_millis(5);
        let mut pacer = Pacer::new(now, 1400);
        pacer.update(now, 25_000_000, Duration::from_millis(20), false, None);
        drain(&mut pacer, now, 1400);
        let next = pacer.next(now).expect("empty");
        assert!(drain(&mut pacer, next, 1400) >= 64 * 1400);
        pacer.update(now, 100_000, Duration::from_micros(100), true, None);
        assert_eq!((pacer.allowance(now), pacer.next(now)), (u64::MAX, None));
    }

    /// Probes leave whatever the pacer says. Their debt was once more than any wait refilled, and nothing was
    /// ever sent again.
    #[test]
    fn a_debt_on_a_slow_path_is_paid_by_waiting() {
        let mut pacer = Pacer::new(Time::ZERO, 1472);
        pacer.update(Time::ZERO, 2944, Duration::from_secs(2), false, None);
        drain(&mut pacer, Time::ZERO, 1472);
        (0..2).for_each(|_| pacer.on_sent(Time::ZERO, 1472));
        let at = pacer.next(Time::ZERO).expect("in debt");
        assert!(at < Time::from_millis(4_000), "{at:?}");
        assert_eq!((pacer.next(at), pacer.allowance(at) > 0), (None, true));
        assert_eq!(pacer.allowance(Time(u64::MAX)), pacer.burst());
    }
}

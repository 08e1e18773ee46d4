//! A token bucket without rounding: its level is counted in bit-nanoseconds, so that what a rate gives in a time is
//! an exact product, and nothing is won or lost however often it is looked at.

use std::time::Duration;

use crate::base::Time;
use crate::limits::{
    BURST_BYTES_MAX, RATE_BITS_MAX, RATE_BITS_MIN, SHAPE_BURST_US, SHAPE_CAP_BURST_US, SHAPE_CAP_QUANTUM_US,
    SHAPE_NODE_QUANTUM_US, SHAPE_TURN_US, WIRE_PACKET_MAX, WIRE_TRAIN_MAX,
};

/// Level of one byte: 8 bits × 10⁹ ns.
const BYTE: i64 = 8_000_000_000;
/// A debt at most, so that no level overflows.
const DEBT_MAX: i64 = BURST_BYTES_MAX as i64 * BYTE;
/// The rate of a bucket that never runs empty.
const UNLIMITED: u64 = u64::MAX;

/// When a bucket that holds what it is given, and nothing that time gives, was filled last.
const FED: Time = Time(u64::MAX);

/// What a rate gives in so many microseconds, bytes.
fn given(rate: u64, us: u64) -> u64 {
    (u128::from(rate) * u128::from(us) / 8_000_000) as u64
}

/// A rate with what it has saved up: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bits per second.
    rate: u64,
    /// Bit-nanoseconds; below zero in debt.
    level: i64,
    last: Time,
    /// Bytes saved up at most.
    burst: u32,
    /// Bytes that must be there once it has run empty.
    quantum: u32,
}

impl Bucket {
    /// One that never runs empty.
    pub const UNLIMITED: Self = Self { rate: UNLIMITED, level: 0, last: Time::ZERO, burst: 0, quantum: 0 };
    /// One that never holds anything.
    pub const NOTHING: Self = Self { rate: 0, level: 0, last: Time::ZERO, burst: 0, quantum: 0 };

    /// A full bucket. `burst` is in bytes; `None` is what the rate gives in [`SHAPE_BURST_US`]. It is never less than one
    /// and a half quanta and two packets, and a quantum never less than a packet.
    pub fn new(now: Time, rate: u64, burst: Option<u64>, quantum_us: u64) -> Self {
        let mut bucket = Self { level: i64::MAX, last: now, ..Self::NOTHING };
        bucket.set(rate, burst, quantum_us);
        bucket
    }

    fn set(&mut self, rate: u64, burst: Option<u64>, quantum_us: u64) {
        self.rate = rate.clamp(RATE_BITS_MIN, RATE_BITS_MAX);
        let given = |us| given(self.rate, us);
        let quantum = given(quantum_us).clamp(WIRE_PACKET_MAX, WIRE_TRAIN_MAX);
        let burst = burst.unwrap_or_else(|| given(SHAPE_BURST_US));
        self.quantum = quantum as u32;
        self.burst = burst.clamp((quantum * 3 / 2).max(2 * WIRE_PACKET_MAX), BURST_BYTES_MAX) as u32;
        self.level = self.level.min(self.depth());
    }

    /// Changes the rate now. What was saved up at the old rate stays, as far as the new burst holds it; a bucket that had
    /// no rate starts empty.
    pub fn change(&mut self, now: Time, rate: Option<u64>, burst: Option<u64>, quantum_us: u64) {
        self.fill(now);
        match rate {
            None => *self = Self { last: now, ..Self::UNLIMITED },
            Some(rate) => {
                if self.is_unlimited() {
                    self.level = 0;
                }
                if !self.is_fed() {
                    self.last = now;
                }
                self.set(rate, burst, quantum_us);
            }
        }
    }

    /// As [`Self::change`] for what a node may send in all: a turn's worth is kept of the burst.
    pub fn change_node(&mut self, now: Time, rate: Option<u64>, burst: Option<u64>) {
        let burst = rate.map(|rate| {
            let whole = burst.unwrap_or_else(|| given(rate, SHAPE_BURST_US));
            whole.saturating_sub(given(rate, SHAPE_TURN_US))
        });
        self.change(now, rate, burst, SHAPE_NODE_QUANTUM_US);
    }

    /// As [`Self::change`] for what a peer may be sent.
    pub fn change_cap(&mut self, now: Time, rate: Option<u64>, burst: Option<u64>) {
        let burst = burst.or_else(|| rate.map(|rate| given(rate, SHAPE_CAP_BURST_US)));
        self.change(now, rate, burst, SHAPE_CAP_QUANTUM_US);
    }

    /// Has it hold what [`Self::give_back`] gives and nothing that time gives; or what time gives again. It begins with
    /// nothing, and keeps its debts. A bucket without a rate has nothing to be given.
    pub fn set_fed(&mut self, now: Time, fed: bool) {
        if fed == self.is_fed() || self.is_unlimited() || self.is_nothing() {
            return;
        }
        self.fill(now);
        self.level = self.level.min(0);
        self.last = if fed { FED } else { now };
    }

    #[inline]
    fn is_fed(&self) -> bool {
        self.last == FED
    }

    /// Whether it never runs empty.
    #[inline]
    pub fn is_unlimited(&self) -> bool {
        self.rate == UNLIMITED
    }

    /// Whether it never holds anything.
    #[inline]
    pub fn is_nothing(&self) -> bool {
        self.rate == 0
    }

    /// Bits per second; `None` without a limit.
    pub fn rate(&self) -> Option<u64> {
        (!self.is_unlimited()).then_some(self.rate)
    }

    /// Bytes that are missing before it holds one; zero when it does.
    pub fn debt(&self) -> u64 {
        if self.is_unlimited() || self.level >= BYTE {
            0
        } else {
            ((BYTE - self.level) as u64).div_ceil(BYTE as u64)
        }
    }

    /// How long its rate takes for a quantum.
    pub(super) fn turn_time(&self) -> Duration {
        Duration::from_nanos((u64::from(self.quantum) * BYTE as u64).checked_div(self.rate).unwrap_or(0))
    }

    /// Bytes that must be there once it has run empty.
    pub fn quantum(&self) -> u64 {
        u64::from(self.quantum)
    }

    /// Bytes saved up at most.
    pub fn burst(&self) -> u64 {
        u64::from(self.burst)
    }

    #[inline]
    fn depth(&self) -> i64 {
        i64::from(self.burst) * BYTE
    }

    /// Adds what the time since the last call gave.
    #[inline]
    pub fn fill(&mut self, now: Time) {
        let elapsed = now.0.saturating_sub(self.last.0);
        if elapsed == 0 || self.is_unlimited() {
            return;
        }
        self.last = now;
        let room = (self.depth() - self.level) as u64;
        let gained = elapsed.saturating_mul(self.rate);
        self.level = if gained >= room { self.depth() } else { self.level + gained as i64 };
    }

    /// Whole bytes that may leave, as of the last [`Self::fill`].
    #[inline]
    pub fn available(&self) -> u64 {
        if self.is_unlimited() { u64::MAX } else { (self.level.max(0) / BYTE) as u64 }
    }

    /// Whether `bytes` may leave, as of the last [`Self::fill`].
    #[inline]
    pub fn holds(&self, bytes: u64) -> bool {
        self.is_unlimited() || self.level >= bytes as i64 * BYTE
    }

    /// Whether a packet may leave; after having run empty (`dry`), whether a quantum may.
    #[inline]
    pub fn is_ready(&self, dry: bool) -> bool {
        self.holds(if dry { u64::from(self.quantum) } else { WIRE_PACKET_MAX })
    }

    /// `bytes` left. What was not there becomes a debt.
    #[inline]
    pub fn take(&mut self, now: Time, bytes: u64) {
        // What came while it was full is lost, whatever leaves now.
        self.fill(now);
        if !self.is_unlimited() {
            let taken = bytes.min(BURST_BYTES_MAX) as i64 * BYTE;
            self.level = (self.level - taken).max(-DEBT_MAX);
        }
    }

    /// `bytes` left on other grounds: they count here too, without a debt.
    #[inline]
    pub fn take_what_is_there(&mut self, now: Time, bytes: u64) {
        self.fill(now);
        if !self.is_unlimited() {
            let taken = bytes.min(BURST_BYTES_MAX) as i64 * BYTE;
            self.level = if self.level <= 0 { self.level } else { (self.level - taken).max(0) };
        }
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, bytes: u64) {
        if !self.is_unlimited() {
            let given = bytes.min(BURST_BYTES_MAX) as i64 * BYTE;
            let depth = if self.is_fed() {
                self.depth().max(2 * i64::from(self.quantum) * BYTE)
            } else {
                self.depth()
            };
            self.level = self.level.saturating_add(given).min(depth);
        }
    }

    /// When it holds `bytes`, if nothing leaves; `None` when it never does. As of the last [`Self::fill`].
    #[inline]
    pub fn holds_at(&self, bytes: u64) -> Option<Time> {
        let bytes = bytes.min(u64::from(self.burst));
        let missing = if self.is_unlimited() { 0 } else { bytes as i64 * BYTE - self.level };
        if missing <= 0 {
            return Some(if self.is_fed() { Time::ZERO } else { self.last });
        }
        (self.rate > 0 && !self.is_fed())
            .then(|| self.last + Duration::from_nanos((missing as u64).div_ceil(self.rate)))
    }

    /// When it is ready again after having run empty.
    #[inline]
    pub fn ready_at(&self) -> Option<Time> {
        self.holds_at(u64::from(self.quantum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However it is looked at: never more than rate × time + burst, and exactly that when always drained.
        #[test]
        fn gives_exactly_its_rate(
            rate in RATE_BITS_MIN..=10_000_000_000u64,
            burst in prop::option::of(0u64..1 << 22),
            steps in prop::collection::vec((1u64..3_000_000, 0u64..100_000, any::<bool>()), 1..200),
        ) {
            let mut bucket = Bucket::new(Time::ZERO, rate, burst, 2_000);
            let (mut now, mut sent, mut full) = (Time::ZERO, 0u64, false);
            for (wait, wanted, looks) in steps {
                now += Duration::from_nanos(wait);
                if looks {
                    bucket.fill(now);
                }
                full |= bucket.available() == bucket.burst();
                let take = wanted.min(bucket.available());
                bucket.take(now, take);
                sent += take;
                let given = u128::from(rate) * u128::from(now.0);
                prop_assert!(u128::from(sent) * 8_000_000_000 <= given + u128::from(bucket.burst()) * 8_000_000_000);
            }
            if !full {
                let total = u128::from(bucket.available() + sent) * 8_000_000_000;
                let given = u128::from(rate) * u128::from(now.0) + u128::from(bucket.burst()) * 8_000_000_000;
                prop_assert!(given - total < 8_000_000_000, "less than a byte is lost");
            }
        }

        #[test]
        fn says_when_it_is_ready(rate in RATE_BITS_MIN..=RATE_BITS_MAX, taken in 0u64..1 << 20) {
            let mut bucket = Bucket::new(Time(5), rate, None, 2_000);
            bucket.take(Time(5), taken);
            let at = bucket.ready_at().expect("it has a rate");
            let mut before = bucket;
            before.fill(Time(at.0 - 1));
            prop_assert!(at <= Time(5) || !before.is_ready(true));
            bucket.fill(at);
            prop_assert!(bucket.is_ready(true));
        }
    }

    #[test]
    fn a_change_gives_no_credit() {
        let mut bucket = Bucket::new(Time::ZERO, 8_000_000, None, 2_000);
        bucket.take(Time::ZERO, bucket.available());
        bucket.change(Time::ZERO, Some(80_000_000), None, 2_000);
        assert_eq!(bucket.available(), 0);
        bucket.fill(Time::from_millis(1));
        assert_eq!(bucket.available(), 10_000);
        bucket.change(Time::from_millis(1), Some(8_000), None, 2_000);
        assert_eq!(bucket.available(), 2 * WIRE_PACKET_MAX, "no more than the new burst");
        bucket.change(Time::from_millis(1), None, None, 2_000);
        assert_eq!(bucket.available(), u64::MAX);
        bucket.change(Time::from_millis(1), Some(8_000), None, 2_000);
        assert_eq!(bucket.available(), 0);
    }

    #[test]
    fn one_without_a_rate_never_holds_anything() {
        let mut bucket = Bucket::NOTHING;
        bucket.fill(Time::from_millis(1_000));
        assert_eq!((bucket.available(), bucket.ready_at()), (0, Some(Time::from_millis(1_000))));
    }
}

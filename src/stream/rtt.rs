//! The round-trip estimator of RFC 9002 §5.

use std::time::Duration;

use crate::limits::ACK_DELAY_US_MAX;

/// What timers are rounded up to: kernels and event loops are not finer (RFC 9002 kGranularity).
pub const GRANULARITY: Duration = Duration::from_millis(1);
/// Assumed before the first sample (RFC 9002 kInitialRtt).
const INITIAL: Duration = Duration::from_millis(333);

/// Smoothed round-trip time of one path.
#[derive(Debug, Clone)]
pub struct Rtt {
    latest: Duration,
    smoothed: Duration,
    variance: Duration,
    min: Duration,
    sampled: bool,
}

impl Rtt {
    /// A new path; `hint` is a round trip that was seen elsewhere, such as the handshake's.
    pub fn new(hint: Option<Duration>) -> Self {
        let initial = hint.unwrap_or(INITIAL);
        Self { latest: initial, smoothed: initial, variance: initial / 2, min: initial, sampled: false }
    }

    /// Takes a sample; `ack_delay` is what the peer says that it held the acknowledgement back.
    pub fn update(&mut self, sample: Duration, ack_delay: Duration) {
        let sample = sample.max(Duration::from_nanos(1));
        self.latest = sample;
        if !self.sampled {
            self.sampled = true;
            (self.smoothed, self.variance, self.min) = (sample, sample / 2, sample);
            return;
        }
        self.min = self.min.min(sample);
        let delay = ack_delay.min(Duration::from_micros(ACK_DELAY_US_MAX));
        let adjusted = if sample >= self.min + delay { sample - delay } else { sample };
        self.variance = (3 * self.variance + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (7 * self.smoothed + adjusted) / 8;
    }

    /// The last sample.
    pub fn latest(&self) -> Duration {
        self.latest
    }

    /// The smoothed round trip.
    pub fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// The smallest sample of this path.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// Whether there was a sample at all.
    pub fn sampled(&self) -> bool {
        self.sampled
    }

    /// Time after which silence asks for a probe (RFC 9002 §6.2.1), without backoff.
    pub fn probe_timeout(&self) -> Duration {
        self.smoothed + (4 * self.variance).max(GRANULARITY) + Duration::from_micros(ACK_DELAY_US_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_rfc_9002() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::new(None);
        assert_eq!((rtt.smoothed(), rtt.sampled()), (ms(333), false));
        rtt.update(ms(100), ms(50));
        assert_eq!((rtt.smoothed(), rtt.min(), rtt.variance), (ms(100), ms(100), ms(50)));
        rtt.update(ms(124), ms(8));
        assert_eq!((rtt.latest(), rtt.smoothed(), rtt.min()), (ms(124), ms(102), ms(100)));
        rtt.update(ms(104), ms(8));
        assert_eq!(rtt.smoothed(), Duration::from_micros(102_250), "no delay below the minimum is believed");
        rtt.update(ms(80), ms(8));
        assert_eq!(rtt.min(), ms(80));
    }
}

//! Round trips: how long an answer is waited for before another peer is asked beside (RFC 6298's estimator, of each
//! peer and of all together).

use std::time::Duration;

use super::types::ms;
use crate::limits::{ANSWER_MS_MAX, ANSWER_MS_MIN, ANSWER_MS_USUAL};

/// Smoothed round trip and its variation, microseconds; 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rtt {
    smoothed: u32,
    variation: u32,
}

impl Rtt {
    /// Takes a sample.
    pub fn update(&mut self, sample: Duration) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX / 8).clamp(1, u32::MAX / 8);
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (sample, sample / 2);
            return;
        }
        self.variation = (3 * self.variation + self.smoothed.abs_diff(sample)) / 4;
        self.smoothed = (7 * self.smoothed + sample) / 8;
    }

    /// `None` before the first sample.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.smoothed > 0).then(|| Duration::from_micros(self.smoothed.into()))
    }

    /// How long to wait for an answer; of who was never heard, as long as of others.
    pub fn patience(&self, others: &Self) -> Duration {
        let own = if self.smoothed > 0 { self } else { others };
        if own.smoothed == 0 {
            return ms(ANSWER_MS_USUAL);
        }
        // Twice the variation keeps one wait in twenty too short: that costs a question more, not an answer.
        let wait = Duration::from_micros(u64::from(own.smoothed) + 2 * u64::from(own.variation));
        wait.clamp(ms(ANSWER_MS_MIN), ms(ANSWER_MS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_was_seen() {
        let mut all = Rtt::default();
        let mut one = Rtt::default();
        assert_eq!(one.patience(&all), ms(ANSWER_MS_USUAL));
        (0..50).for_each(|_| all.update(ms(80)));
        let stranger = one.patience(&all);
        assert!(stranger >= ms(78) && stranger < ms(100), "{stranger:?}");
        (0..50).for_each(|turn| one.update(ms(if turn % 2 == 0 { 200 } else { 300 })));
        assert!(one.patience(&all) > ms(300));
        one.update(Duration::MAX);
        assert!(one.patience(&all) <= ms(ANSWER_MS_MAX), "bounded whatever comes");
    }
}

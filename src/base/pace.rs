//! How much of something may be taken, over time and at once.

use std::time::Duration;

use super::Time;

/// So much of something per second, and so much at once. What was taken counts, so that a new one is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    taken: u32,
    since: Time,
}

impl Budget {
    /// One of which so much is taken.
    pub fn new(now: Time, taken: u32) -> Self {
        Self { taken, since: now }
    }

    /// When it last filled up by what time gives.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Takes so much, if there is so much: `per_second`, 1 to a billion, over time, and `burst` at once.
    pub fn take(&mut self, cost: u32, per_second: u32, burst: u32, now: Time) -> bool {
        let step = 1_000_000_000 / u64::from(per_second);
        let steps = now.0.saturating_sub(self.since.0) / step;
        self.taken = self.taken.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
        self.since = Time(self.since.0 + steps * step);
        let may = self.taken.saturating_add(cost) <= burst;
        self.taken += if may { cost } else { 0 };
        may
    }

    /// Whether nothing of it is taken by now.
    pub fn is_full(&self, per_second: u32, now: Time) -> bool {
        let step = 1_000_000_000 / u64::from(per_second);
        now.0.saturating_sub(self.since.0) / step >= u64::from(self.taken)
    }

    /// How long it is from the last [`Self::take`] until there is so much, at most.
    pub fn wait(&self, cost: u32, per_second: u32, burst: u32) -> Duration {
        let missing = self.taken.saturating_add(cost).saturating_sub(burst);
        Duration::from_nanos(u64::from(missing) * (1_000_000_000 / u64::from(per_second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_budget_is_full_at_first_and_again_in_time() {
        let (mut budget, start) = (Budget::default(), Time::ZERO + millis(3_600_000));
        assert_eq!((0..100).filter(|_| budget.take(1, 10, 20, start)).count(), 20);
        assert_eq!((0..100).filter(|_| budget.take(1, 10, 20, start + millis(500))).count(), 5);
        let wait = budget.wait(3, 10, 20);
        let mut waited = budget;
        assert!(
            !waited.take(3, 10, 20, start + millis(500))
                && waited.take(3, 10, 20, start + millis(500) + wait)
        );
        assert_eq!((wait, Budget::default().wait(20, 10, 20)), (millis(300), millis(0)));
        let later = start + millis(600_000);
        assert!(!budget.is_full(10, start + millis(500)) && budget.is_full(10, later));
        assert!(!budget.take(21, 10, 20, later) && budget.take(20, 10, 20, later));
        assert!(
            budget.take(1, 10, 21, later) && !budget.take(1, 10, 20, later),
            "whoever has a larger share"
        );
    }
}

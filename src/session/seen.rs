//! First flights that were accepted: each is accepted once (docs/protocol/session.md §5).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::Time;
use crate::limits::{CLOCK_SKEW_MS_MAX, EPHEMERALS_MAX};

/// The first half of a first flight's ephemeral public key; whoever repeats it only harms itself.
pub(super) type Ephemeral = [u8; 16];

/// Ephemeral keys of the last minute or two, in two generations. A first flight is fresh for at most
/// twice the clock skew (stamped as far ahead as allowed, repeated as late as allowed), so that is how
/// long a generation takes.
pub(super) struct Seen {
    began: Time,
    current: BTreeSet<Ephemeral>,
    before: BTreeSet<Ephemeral>,
}

impl Seen {
    pub(super) fn new(now: Time) -> Self {
        Self { began: now, current: BTreeSet::new(), before: BTreeSet::new() }
    }

    pub(super) fn contains(&self, ephemeral: &Ephemeral) -> bool {
        self.current.contains(ephemeral) || self.before.contains(ephemeral)
    }

    /// Remembers an authenticated first flight; false when there is no room to, and then it must not be
    /// accepted.
    pub(super) fn insert(&mut self, now: Time, ephemeral: Ephemeral) -> bool {
        let period = Duration::from_millis(2 * CLOCK_SKEW_MS_MAX);
        if now.since(self.began) > period {
            self.before = std::mem::take(&mut self.current);
            self.began = now;
        }
        self.current.len() < EPHEMERALS_MAX && self.current.insert(ephemeral)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: u32) -> Ephemeral {
        let mut out = [0; 16];
        out[..4].copy_from_slice(&n.to_le_bytes());
        out
    }

    #[test]
    fn remembers_for_as_long_as_a_flight_is_fresh() {
        let mut seen = Seen::new(Time::ZERO);
        let first = Time::from_millis(2 * CLOCK_SKEW_MS_MAX - 1);
        assert!(seen.insert(first, numbered(1)));
        for n in 0..=60u32 {
            let now = first + Duration::from_millis(u64::from(n) * 2 * CLOCK_SKEW_MS_MAX / 60);
            assert!(seen.contains(&numbered(1)), "{n}");
            assert!(seen.insert(now, numbered(100 + n)));
        }
        let much_later = Time::from_millis(20 * CLOCK_SKEW_MS_MAX);
        assert!(seen.insert(much_later, numbered(2)));
        assert!(seen.insert(much_later + Duration::from_millis(3 * CLOCK_SKEW_MS_MAX), numbered(3)));
        assert!(!seen.contains(&numbered(1)));
    }

    #[test]
    fn refuses_rather_than_forgets() {
        let mut seen = Seen::new(Time::ZERO);
        assert!((0..EPHEMERALS_MAX as u32).all(|n| seen.insert(Time::ZERO, numbered(n))));
        assert!(!seen.insert(Time::ZERO, numbered(u32::MAX)));
        assert!(seen.contains(&numbered(0)));
    }
}

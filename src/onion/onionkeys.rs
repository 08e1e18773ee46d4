//! A relay's onion keys, which change by time, and the requests that were built under each: none is built twice.

use std::collections::HashSet;
use std::time::Duration;

use super::keys::{OnionKey, ephemeral};
use crate::base::{Rng, Time};
use crate::crypto::dh::DhSecret;
use crate::limits::{BUILDS_REMEMBERED_MAX, ONION_KEY_MS};

/// Why a request is not built, though it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNew {
    /// It was built before.
    Replayed,
    /// No more are remembered under this key.
    Full,
}

/// The key that is published, and the one before for those who have not heard yet.
pub(super) struct OnionKeys {
    current: Owned,
    previous: Option<Owned>,
    rotate_at: Time,
}

/// One key pair.
pub(super) struct Owned {
    pub secret: DhSecret,
    pub public: OnionKey,
    built: HashSet<[u8; 16]>,
}

impl Owned {
    fn new(rng: &mut Rng, number: u8) -> Self {
        let (secret, key) = ephemeral(rng);
        Self { secret, public: OnionKey { number, key }, built: HashSet::new() }
    }

    /// Remembers a request by the name that its keys give it.
    pub(super) fn remember(&mut self, replay: [u8; 16]) -> Result<(), NotNew> {
        if self.built.len() >= BUILDS_REMEMBERED_MAX {
            return Err(NotNew::Full);
        }
        if self.built.insert(replay) { Ok(()) } else { Err(NotNew::Replayed) }
    }
}

impl OnionKeys {
    pub(super) fn new(rng: &mut Rng, now: Time) -> Self {
        // At random, so that what was made for a key of before a restart is not tried against the new one.
        let [number] = rng.bytes();
        let rotate_at = now + Duration::from_millis(ONION_KEY_MS);
        Self { current: Owned::new(rng, number), previous: None, rotate_at }
    }

    /// What others shall use from now on.
    pub(super) fn public(&self) -> OnionKey {
        self.current.public
    }

    /// The key that a request names.
    pub(super) fn find(&mut self, number: u8) -> Option<&mut Owned> {
        let all = std::iter::once(&mut self.current).chain(&mut self.previous);
        all.into_iter().find(|owned| owned.public.number == number)
    }

    /// When [`Self::rotate`] has something to do.
    pub(super) fn rotate_at(&self) -> Time {
        self.rotate_at
    }

    /// Begins a new key if it is time, and erases the last but one with all that was remembered of it.
    pub(super) fn rotate(&mut self, rng: &mut Rng, now: Time) -> bool {
        if now < self.rotate_at {
            return false;
        }
        let next = Owned::new(rng, self.current.public.number.wrapping_add(1));
        let before = std::mem::replace(&mut self.current, next);
        // After a pause of two periods nobody can mean the key of before.
        let fresh = now.since(self.rotate_at) < Duration::from_millis(ONION_KEY_MS);
        self.previous = fresh.then_some(before);
        self.rotate_at = now + Duration::from_millis(ONION_KEY_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_two_periods_and_remembers_as_long() {
        let mut rng = Rng::from_number(1);
        let period = Duration::from_millis(ONION_KEY_MS);
        let mut keys = OnionKeys::new(&mut rng, Time::ZERO);
        let first = keys.public();
        assert_eq!(keys.find(first.number).unwrap().remember([1; 16]), Ok(()));
        assert!(!keys.rotate(&mut rng, Time::ZERO + period - Duration::from_nanos(1)));
        assert!(keys.rotate(&mut rng, Time::ZERO + period));
        assert_ne!(keys.public(), first);
        assert_eq!(keys.find(first.number).unwrap().remember([1; 16]), Err(NotNew::Replayed));
        assert_eq!(
            keys.find(keys.public().number).unwrap().remember([1; 16]),
            Ok(()),
            "another key, another request"
        );
        assert!(keys.rotate(&mut rng, keys.rotate_at()));
        assert!(keys.find(first.number).is_none());
    }

    #[test]
    fn a_long_sleep_leaves_no_old_key() {
        let mut rng = Rng::from_number(1);
        let mut keys = OnionKeys::new(&mut rng, Time::ZERO);
        let first = keys.public();
        assert!(keys.rotate(&mut rng, Time::from_millis(10 * ONION_KEY_MS)));
        assert!(keys.find(first.number).is_none() && keys.find(first.number.wrapping_add(1)).is_some());
    }
}

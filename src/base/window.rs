//! Which packet numbers were seen: a ring of bits behind the highest one.

use crate::limits::REPLAY_WINDOW;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// A replay window of [`REPLAY_WINDOW`] numbers: one per lane and direction of a session, and per hop, direction and
/// epoch of a circuit. Moved only by numbers whose packets were authenticated.
#[derive(Debug, Clone)]
pub struct Window {
    /// One more than the highest number seen.
    next: u64,
    bits: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self { next: 0, bits: [0; WORDS] }
    }

    /// One more than the highest number seen; what truncated numbers are expanded around.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether a packet of this number may still be accepted.
    pub fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let (word, bit) = slot(number);
        self.next - number <= REPLAY_WINDOW && self.bits[word] & bit == 0
    }

    /// Marks a number that [`Self::is_new`] accepted; true when it is the highest so far.
    pub fn insert(&mut self, number: u64) -> bool {
        let highest = number >= self.next;
        if highest {
            let skipped = number - self.next;
            if skipped >= REPLAY_WINDOW {
                self.bits = [0; WORDS];
            } else {
                // Mostly empty; and below 2048 steps for the largest gap.
                (self.next..number).for_each(|n| {
                    let (word, bit) = slot(n);
                    self.bits[word] &= !bit;
                });
            }
            // The last number of all is accepted once and then never distinguished: 2⁶⁴ packets away.
            self.next = number.saturating_add(1);
        }
        let (word, bit) = slot(number);
        self.bits[word] |= bit;
        highest
    }
}

fn slot(number: u64) -> (usize, u64) {
    ((number / 64) as usize % WORDS, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_with_a_horizon(steps in prop::collection::vec((any::<bool>(), 0u64..5000), 1..400)) {
            let (mut window, mut seen, mut at) = (Window::new(), BTreeSet::new(), 0u64);
            for (forward, step) in steps {
                let number = if forward { at + step } else { at.saturating_sub(step) };
                let next = seen.last().map_or(0, |highest| highest + 1);
                prop_assert_eq!(window.next(), next);
                let acceptable = number >= next || (next - number <= REPLAY_WINDOW && !seen.contains(&number));
                prop_assert_eq!(window.is_new(number), acceptable);
                if acceptable {
                    prop_assert_eq!(window.insert(number), number >= next);
                    seen.insert(number);
                    at = at.max(number);
                }
            }
        }
    }

    #[test]
    fn the_end_of_all_numbers_is_no_panic() {
        let mut window = Window::new();
        assert!(window.insert(u64::MAX));
        assert!(!window.is_new(u64::MAX - REPLAY_WINDOW));
        assert!(window.is_new(u64::MAX - 1));
    }
}

//! Packets that came by several circuits, in the order in which they were sent (docs/protocol/onion.md §13).
//!
//! What comes in order passes. What came too soon waits for those before it: not longer than the ways seem to differ, and never
//! longer than [`REORDER_MS_MAX`], since one that is missing may be lost. One that comes after it was given up still passes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Time, Window};
use crate::limits::{REORDER_AHEAD_MAX, REORDER_HELD_MAX, REORDER_MS_MAX, REORDER_MS_MIN};

const LEAST: Duration = Duration::from_millis(REORDER_MS_MIN);
const MOST: Duration = Duration::from_millis(REORDER_MS_MAX);

/// What to do with a packet that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It passes, and so do those that [`Reorder::poll`] gives.
    Pass,
    /// It waits: [`Reorder::keep`] it.
    Wait,
    /// It came before.
    Again,
}

/// One direction of one set of circuits.
#[derive(Debug)]
pub struct Reorder<T> {
    /// The next one in order, counted without end.
    next: u64,
    /// What waits, and since when.
    held: BTreeMap<u64, (Time, T)>,
    seen: Window,
    /// For how long one that is missing is waited for.
    wait: Duration,
    /// When the last was given up that was missing, and so came late if it comes.
    given_up: Option<(u64, Time)>,
    is_begun: bool,
}

impl<T> Default for Reorder<T> {
    fn default() -> Self {
        Self {
            next: 0,
            held: BTreeMap::new(),
            seen: Window::new(),
            wait: MOST / 2,
            given_up: None,
            is_begun: false,
        }
    }
}

impl<T> Reorder<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// For how long one that is missing is waited for.
    pub fn patience(&self) -> Duration {
        self.wait
    }

    /// The whole number of a sequence, of which 32 bits are sent.
    fn whole(&self, sequence: u32) -> u64 {
        let ahead = sequence.wrapping_sub(self.next as u32) as i32;
        self.next.wrapping_add_signed(i64::from(ahead))
    }

    /// A packet with this sequence came.
    pub fn came(&mut self, now: Time, sequence: u32) -> Came {
        if !self.is_begun {
            // So that what is a little before the first is no negative number.
            self.restart(sequence);
            self.is_begun = true;
        }
        let mut number = self.whole(sequence);
        if number.abs_diff(self.next) > REORDER_AHEAD_MAX {
            // The other end began anew; what waits is of before and passes with the next look.
            self.restart(sequence);
            number = self.next;
        }
        if !self.seen.is_new(number) {
            return Came::Again;
        }
        self.seen.insert(number);
        if number > self.next {
            return Came::Wait;
        }
        if number == self.next {
            if let Some((since, _)) = self.held.values().next() {
                self.late_by(now.since(*since));
            }
            self.next += 1;
        } else if let Some((from, at)) = self.given_up
            && number >= from
        {
            self.late_by(self.wait + now.since(at));
        }
        Came::Pass
    }

    fn restart(&mut self, sequence: u32) {
        // Far from both ends of the numbers, however often it happens.
        let next = (1 << 32) + u64::from(sequence);
        (self.next, self.seen, self.given_up) = (next, Window::new(), None);
    }

    /// One was that late beside those that overtook it: the next is given as much, and somewhat more.
    fn late_by(&mut self, late: Duration) {
        let wanted = late + late / 4 + LEAST;
        let slow = self.wait - self.wait / 64;
        self.wait = wanted.max(slow).clamp(LEAST, MOST);
    }

    /// Keeps one that came too soon. When there are too many, the first passes with the next look.
    pub fn keep(&mut self, now: Time, sequence: u32, item: T) {
        let number = self.whole(sequence);
        self.held.insert(number, (now, item));
    }

    /// One that was to wait passed instead, for want of room: nothing before it is waited for.
    pub fn passed(&mut self, sequence: u32) {
        let number = self.whole(sequence);
        if number >= self.next {
            self.next = number + 1;
        }
    }

    /// When one has waited long enough.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.oldest().map(|since| since + self.wait)
    }

    fn oldest(&self) -> Option<Time> {
        self.held.values().map(|(since, _)| *since).min()
    }

    /// The next one whose turn it is.
    pub fn poll(&mut self, now: Time) -> Option<T> {
        let first = *self.held.first_key_value()?.0;
        if first > self.next && first <= self.next + REORDER_AHEAD_MAX {
            let full = self.held.len() > REORDER_HELD_MAX;
            let due = self.oldest().is_some_and(|since| now.since(since) >= self.wait);
            if !full && !due {
                return None;
            }
            self.given_up = Some((self.next, now));
            self.next = first;
        }
        let (_, item) = self.held.remove(&first)?;
        if first == self.next {
            self.next += 1;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Found by review: some jumps back led below zero, and the next sum beyond the last number.
    #[test]
    fn whoever_begins_anew_again_and_again_leads_nowhere() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        let mut sequence = 5u32;
        for turn in 0..1000u64 {
            take(&mut reorder, Time::from_millis(turn), sequence, &mut out);
            take(&mut reorder, Time::from_millis(turn), sequence.wrapping_add(2), &mut out);
            sequence = sequence.wrapping_sub(1 << 31);
        }
        assert!(reorder.next >= 1 << 32 && reorder.next < 3 << 32, "{}", reorder.next);
        assert!(out.len() >= 1000 && reorder.len() <= 1);
    }

    /// What passes at a time.
    fn take(reorder: &mut Reorder<u32>, now: Time, sequence: u32, out: &mut Vec<(Time, u32)>) {
        match reorder.came(now, sequence) {
            Came::Pass => out.push((now, sequence)),
            Came::Wait => reorder.keep(now, sequence, sequence),
            Came::Again => {}
        }
        out.extend(std::iter::from_fn(|| reorder.poll(now)).map(|item| (now, item)));
    }

    proptest! {
        /// Whatever is lost, repeated and late, over whatever end of the numbers: nothing passes twice, nothing that came is
        /// lost, nothing waits longer than allowed, and no more wait than allowed.
        #[test]
        fn nothing_passes_twice_or_waits_for_long(
            first in any::<u32>(),
            ways in prop::collection::vec((0u64..250, 0u8..10, any::<bool>()), 1..400),
        ) {
            let mut arrivals: Vec<(u64, u32)> = Vec::new();
            for (n, (delay, luck, twice)) in ways.iter().enumerate() {
                let (at, number) = (n as u64 + delay, first.wrapping_add(n as u32));
                if *luck > 0 {
                    arrivals.push((at, number));
                }
                if *twice {
                    arrivals.push((at + 3, number));
                }
            }
            arrivals.sort_unstable_by_key(|(at, number)| (*at, number.wrapping_sub(first)));
            let (mut reorder, mut out) = (Reorder::default(), Vec::new());
            let mut when = BTreeMap::new();
            let last = arrivals.last().map_or(0, |(at, _)| *at) + 200;
            let mut arrivals = arrivals.into_iter().peekable();
            for ms in 0..=last {
                let now = Time::from_millis(ms);
                while let Some((_, number)) = arrivals.next_if(|(at, _)| *at == ms) {
                    when.entry(number).or_insert(now);
                    take(&mut reorder, now, number, &mut out);
                }
                if reorder.poll_timeout().is_some_and(|at| at <= now) {
                    out.extend(std::iter::from_fn(|| reorder.poll(now)).map(|item| (now, item)));
                    prop_assert!(reorder.poll_timeout().is_none_or(|at| at > now), "no spinning");
                }
                prop_assert!(reorder.len() <= REORDER_HELD_MAX);
            }
            prop_assert!(reorder.is_empty());
            let mut numbers: Vec<u32> = out.iter().map(|(_, number)| *number).collect();
            for (at, number) in &out {
                prop_assert!(at.since(when[number]) <= MOST, "{number} waited");
            }
            numbers.sort_unstable();
            prop_assert_eq!(numbers, when.keys().copied().collect::<Vec<_>>());
        }

        /// Two ways that differ by less than the longest wait, without losses: the order is the sender's, once it is known how
        /// much they differ.
        #[test]
        fn order_is_restored(first in any::<u32>(), near in 0u64..50, apart in 0u64..45, which in prop::collection::vec(any::<bool>(), 400)) {
            let delay = |far: bool| near + if far { apart } else { 0 };
            let mut arrivals: Vec<(u64, u32)> =
                which.iter().enumerate().map(|(n, far)| (n as u64 + delay(*far), n as u32)).collect();
            arrivals.sort_unstable();
            let (mut reorder, mut out) = (Reorder::default(), Vec::new());
            for (at, n) in arrivals {
                let now = Time::from_millis(at);
                if reorder.poll_timeout().is_some_and(|at| at <= now) {
                    out.extend(std::iter::from_fn(|| reorder.poll(now)).map(|item| (now, item)));
                }
                take(&mut reorder, now, first.wrapping_add(n), &mut out);
            }
            out.extend(std::iter::from_fn(|| reorder.poll(Time::from_millis(10_000))).map(|item| (Time::ZERO, item)));
            let numbers: Vec<u32> = out.iter().map(|(_, number)| number.wrapping_sub(first)).collect();
            // The first to come begins the count: those before it come late.
            let begun = numbers.iter().position(|n| *n == 0).unwrap_or(0) + 1;
            let later: Vec<u32> = numbers.into_iter().skip(begun.max(100)).collect();
            prop_assert!(later.is_sorted(), "{later:?}");
        }
    }

    #[test]
    fn what_is_lost_costs_as_much_as_the_ways_differ() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        for n in 0..2000u32 {
            // Every other one is 8 ms late.
            let now = Time::from_millis(u64::from(n) * 10);
            if n % 2 == 0 {
                take(&mut reorder, now, n + 1, &mut out);
                take(&mut reorder, now + Duration::from_millis(8), n, &mut out);
            }
        }
        let patience = reorder.patience();
        assert!(patience > Duration::from_millis(8) && patience < Duration::from_millis(20), "{patience:?}");
    }

    #[test]
    fn another_beginning_is_followed_at_once() {
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        (100..110).for_each(|n| take(&mut reorder, Time::ZERO, n, &mut out));
        take(&mut reorder, Time::ZERO, 112, &mut out);
        (3_000_000..3_000_010).for_each(|n| take(&mut reorder, Time::ZERO, n, &mut out));
        assert_eq!(out.len(), 21, "{out:?}");
    }
}

//! Which of the circuits of a set a packet goes by (docs/protocol/onion.md §13): flows stay where they are while their
//! circuit is there; or each packet goes where it is there soonest.
//!
//! How soon that is, is computed and not asked: a path is a queue that drains at a rate. The other end says from time to time
//! which packet it saw last there and how many bytes came; so how much is under way is known whatever was lost, and the
//! rate is what arrives.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Time;
use crate::limits::{SPREAD_MARK_PACKETS, SPREAD_MARKS_MAX, SPREAD_RATE_MS, SPREAD_RATE_USUAL};

/// The place of a circuit in its set for a flow: by rendezvous, so that a place that goes takes only its own flows along, and
/// they return with it. Of `places`, with the name of each and whether it may be used; if none may, all are.
pub fn by_flow<P>(flow: u64, places: impl Iterator<Item = (P, u64, bool)>) -> Option<P> {
    places.max_by_key(|(_, name, good)| (*good, score(flow, *name))).map(|(place, ..)| place)
}

/// SplitMix64's last step: flows are numbered unforeseeably already, so that it only has to mix.
fn score(flow: u64, place: u64) -> u64 {
    let mut mixed = flow ^ place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What is known of one circuit's way, for packets that are spread one by one.
#[derive(Debug, Clone)]
pub struct Way {
    /// Every few of the packets that were not reported yet, oldest first: sequence, bytes sent up to it, when.
    under_way: VecDeque<(u32, u64, Time)>,
    /// Packets since the last of them.
    unmarked: u32,
    sent: u64,
    used: Time,
    /// Of what was sent, how much had left the queue when that was said, and when that was.
    reported: u64,
    at: Time,
    /// Bytes per second; 0 while nobody said.
    rate: u64,
    /// Since when, and from how many bytes on, the rate is measured.
    since: Option<(Time, u32)>,
    /// From sending a packet to hearing that it came, at least.
    least: Duration,
}

impl Way {
    /// When it was used last.
    pub fn used(&self) -> Time {
        self.used
    }

    /// Nothing is known.
    pub fn new(now: Time) -> Self {
        Self {
            used: now,
            under_way: VecDeque::new(),
            unmarked: 0,
            sent: 0,
            reported: 0,
            at: now,
            rate: 0,
            since: None,
            least: Duration::ZERO,
        }
    }

    /// A packet goes by it.
    pub fn sent(&mut self, now: Time, sequence: u32, bytes: usize) {
        self.sent += bytes as u64;
        self.used = now;
        self.unmarked += 1;
        let old = |last: &(u32, u64, Time)| now.since(last.2) >= Duration::from_millis(SPREAD_RATE_MS / 20);
        if self.unmarked < SPREAD_MARK_PACKETS && !self.under_way.back().is_none_or(old) {
            return;
        }
        self.unmarked = 0;
        if self.under_way.len() >= SPREAD_MARKS_MAX {
            self.under_way.pop_front();
        }
        self.under_way.push_back((sequence, self.sent, now));
    }

    /// The other end saw this packet last, and so many bytes in all (modulo 2³²).
    pub fn reported(&mut self, now: Time, sequence: u32, bytes: u32) {
        let is_seen = |(number, ..): &(u32, u64, Time)| sequence.wrapping_sub(*number) as i32 >= 0;
        let Some(at) = self.under_way.iter().rposition(is_seen) else { return };
        let (_, up_to, then) = self.under_way.drain(..=at).next_back().expect("it is there");
        let way = now.since(then);
        self.least = if self.least.is_zero() { way } else { self.least.min(way) };
        (self.reported, self.at) = (up_to, now);
        let Some((since, from)) = self.since else {
            self.since = Some((now, bytes));
            return;
        };
        let time = now.since(since);
        if time < Duration::from_millis(SPREAD_RATE_MS) {
            return;
        }
        let arrived = u128::from(bytes.wrapping_sub(from)) * 1_000_000 / time.as_micros().max(1);
        let arrived = arrived as u64;
        // What waited on the way says what the way carries; where nothing waited, it carries more than what was sent.
        let waited = way > self.least + self.least / 4 + Duration::from_millis(SPREAD_RATE_MS / 4);
        self.rate = match (self.rate, waited) {
            (0, _) => arrived.max(1),
            (rate, true) => ((3 * rate + arrived) / 4).max(1),
            (rate, false) => rate.max(arrived + arrived / 4),
        };
        self.since = Some((now, bytes));
    }

    /// How long a packet of so many bytes will be under way, about.
    pub fn estimate(&self, now: Time, bytes: usize) -> Duration {
        let rate = if self.rate == 0 { SPREAD_RATE_USUAL } else { self.rate };
        let drained = u128::from(rate) * now.since(self.at).as_micros() / 1_000_000;
        let left = u128::from(self.sent - self.reported).saturating_sub(drained) + bytes as u128;
        let queue =
            Duration::from_micros((left * 1_000_000 / u128::from(rate)).min(u128::from(u32::MAX)) as u64);
        // What leaves the queue takes as long as the empty way: both count, the longer of them in full.
        queue.max(self.least / 2)
    }

    /// Bytes per second that it seems to carry; 0 while that is not known.
    pub fn rate(&self) -> u64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn flows_stay_while_their_place_does(
            flows in prop::collection::vec(any::<u64>(), 1..100),
            good in any::<[bool; 4]>(),
            gone in 0usize..4,
        ) {
            let places = |good: [bool; 4]| good.into_iter().enumerate().map(|(n, good)| (n, n as u64, good));
            let mut without = good;
            without[gone] = false;
            for flow in flows {
                let before = by_flow(flow, places(good)).expect("there are four");
                let after = by_flow(flow, places(without)).expect("there are four");
                if good.contains(&true) {
                    prop_assert!(good[before]);
                }
                if before != gone && without.contains(&true) {
                    prop_assert_eq!(before, after, "only its own flows go along");
                }
                // What is left of a set has the others' numbers still.
                let left = by_flow(flow, places(good).filter(|(place, ..)| *place != gone));
                prop_assert!(before == gone || left == Some(before));
            }
        }
    }

    #[test]
    fn flows_are_spread_evenly() {
        let mut counts = [0u32; 4];
        for flow in 0..40_000u64 {
            let place = by_flow(
                flow.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                (0..4).map(|place| (place, place as u64, true)),
            );
            counts[place.expect("one of four")] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(by_flow(1, std::iter::empty::<(u8, u64, bool)>()), None);
    }

    /// Queues that drain at these rates (bytes/s), with these delays (ms); a sender of `offered` bytes/s; what each carried.
    fn run(rates: [u64; 2], delays: [u64; 2], offered: u64, seconds: u64) -> ([u64; 2], [Duration; 2]) {
        const SIZE: u64 = 1300;
        let mut ways = [Way::new(Time::ZERO), Way::new(Time::ZERO)];
        let (mut free, mut carried, mut worst) = ([Time::ZERO; 2], [0u64; 2], [Duration::ZERO; 2]);
        let mut reports: std::collections::BTreeMap<(Time, usize), (u32, u32)> = Default::default();
        let (mut sequence, mut credit, mut said) = (0u32, 0u64, [Time::ZERO; 2]);
        for step in 0..seconds * 2000 {
            let now = Time(step * 500_000);
            while let Some(first) = reports.first_entry().filter(|first| first.key().0 <= now) {
                let ((_, place), (number, bytes)) = first.remove_entry();
                ways[place].reported(now, number, bytes);
            }
            credit += offered / 2000;
            while credit >= SIZE {
                credit -= SIZE;
                sequence += 1;
                let place = (0..2).min_by_key(|place| ways[*place].estimate(now, 1300)).expect("two");
                ways[place].sent(now, sequence, 1300);
                let left = free[place].max(now) + Duration::from_micros(SIZE * 1_000_000 / rates[place]);
                // Whoever limits it drops what would wait for long.
                if left.since(now) > Duration::from_millis(200) {
                    continue;
                }
                free[place] = left;
                carried[place] += SIZE;
                if step > seconds * 1000 {
                    worst[place] = worst[place].max(left.since(now) + Duration::from_millis(delays[place]));
                }
                let came = left + Duration::from_millis(delays[place]);
                if came.since(said[place]) >= Duration::from_millis(20) {
                    said[place] = came;
                    let back = came + Duration::from_millis(delays[place]);
                    reports.insert((back, place), (sequence, carried[place] as u32));
                }
            }
        }
        (carried, worst)
    }

    #[test]
    fn each_way_carries_what_it_can() {
        for (rates, delays) in [
            ([2_500_000, 2_500_000], [20, 20]),
            ([2_500_000, 625_000], [20, 20]),
            ([1_000_000, 3_000_000], [10, 60]),
        ] {
            let whole: u64 = rates.iter().sum();
            let (carried, _) = run(rates, delays, whole * 9 / 10, 10);
            let share = carried.iter().sum::<u64>() as f64 / (whole as f64 * 9.0);
            assert!(share > 0.9, "{rates:?} {delays:?}: {carried:?} are {share}");
        }
    }

    #[test]
    fn a_way_that_is_near_is_taken_while_it_has_room() {
        let (carried, worst) = run([10_000_000, 10_000_000], [5, 80], 1_000_000, 10);
        assert!(carried[0] > 5 * carried[1], "{carried:?} {worst:?}");
    }
}

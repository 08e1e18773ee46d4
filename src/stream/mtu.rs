//! Packetization-layer path-MTU discovery (RFC 8899): full packets start at the size that every path
//! carries and grow when a padded PING of a larger size is acknowledged.
//!
//! Candidates are the sizes that real paths have. The largest is tried first, since it mostly works;
//! after that the search halves. All sizes are UDP payload, bytes.

use std::time::Duration;

use crate::base::Time;

/// 1280 (IPv6 minimum), 1420 (WireGuard), 1440, 1460, 1500 with IPv6 and 1500 with IPv4, less headers.
const KNOWN: [u32; 6] = [1232, 1372, 1392, 1412, 1452, 1472];
/// A size is given up after so many lost probes.
const TRIES: u8 = 3;
/// RFC 8899 PMTU_RAISE_TIMER.
const RAISE: Duration = Duration::from_secs(600);
/// After a black hole: soon, since the path may only have been congested.
const RETRY: Duration = Duration::from_secs(30);
/// Lost packets larger than the minimum, while small ones arrive, that make a black hole.
const HOLE_PACKETS: u32 = 6;

/// The search on one path.
#[derive(Debug, Clone)]
pub struct Discovery {
    min: u32,
    /// Ascending sizes above `min`; `sizes[..low]` work, `sizes[high..]` do not.
    sizes: Vec<u32>,
    low: usize,
    high: usize,
    /// Whether the largest was not tried yet.
    eager: bool,
    probe: Option<(u64, usize)>,
    tries: u8,
    again: Option<Time>,
    /// Newest acknowledged packet larger than `min`, and larger ones lost since.
    large_acked: Option<u64>,
    large_lost: u32,
    /// When the first and the last of those left.
    lost_between: (Time, Time),
}

impl Discovery {
    /// Starts a search between `min` and `max`.
    pub fn new(min: u32, max: u32) -> Self {
        let mut sizes: Vec<u32> = KNOWN.into_iter().filter(|size| (min + 1..=max).contains(size)).collect();
        if max > min && sizes.last() != Some(&max) {
            sizes.push(max);
        }
        let high = sizes.len();
        Self {
            min,
            sizes,
            low: 0,
            high,
            eager: true,
            probe: None,
            tries: 0,
            again: None,
            large_acked: None,
            large_lost: 0,
            lost_between: (Time::ZERO, Time::ZERO),
        }
    }

    /// What full packets have now.
    pub fn current(&self) -> u32 {
        if self.low == 0 { self.min } else { self.sizes[self.low - 1] }
    }

    /// Whether the search is over, for now.
    pub fn is_settled(&self) -> bool {
        self.probe.is_none() && self.low >= self.high
    }

    /// What every path carries.
    pub fn min(&self) -> u32 {
        self.min
    }

    /// The size to probe now, if any.
    pub fn wanted(&self) -> Option<u32> {
        (self.probe.is_none() && self.low < self.high).then(|| self.sizes[self.target()])
    }

    fn target(&self) -> usize {
        if self.eager { self.high - 1 } else { (self.low + self.high) / 2 }
    }

    /// A probe of the wanted size left.
    pub fn on_probe(&mut self, number: u64) {
        self.probe = Some((number, self.target()));
    }

    /// A probe arrived. True when full packets grew.
    pub fn on_probe_acked(&mut self, now: Time, number: u64) -> bool {
        let Some((_, index)) = self.probe.take_if(|(probe, _)| *probe == number) else { return false };
        self.low = index + 1;
        self.large_acked = Some(self.large_acked.map_or(number, |old| old.max(number)));
        self.next_step(now);
        true
    }

    /// A probe was lost.
    pub fn on_probe_lost(&mut self, now: Time, number: u64) {
        let Some((_, index)) = self.probe.take_if(|(probe, _)| *probe == number) else { return };
        self.tries += 1;
        if self.tries >= TRIES {
            self.high = index;
            self.next_step(now);
        }
    }

    fn next_step(&mut self, now: Time) {
        (self.tries, self.eager) = (0, false);
        if self.low >= self.high && !self.sizes.is_empty() {
            self.again = (self.low < self.sizes.len()).then(|| now + RAISE);
        }
    }

    /// An ordinary packet arrived.
    pub fn on_acked(&mut self, number: u64, size: u32) {
        if size > self.min && self.large_acked.is_none_or(|old| number > old) {
            self.large_acked = Some(number);
            self.large_lost = 0;
        }
    }

    /// An ordinary packet was lost that left at `sent`.
    pub fn on_lost(&mut self, number: u64, size: u32, sent: Time) {
        if size > self.min && self.large_acked.is_none_or(|acked| number > acked) {
            self.large_lost += 1;
            if self.large_lost == 1 {
                self.lost_between.0 = sent;
            }
            self.lost_between.1 = sent;
        }
    }

    /// Asked after losses were found: true when large packets vanish and full packets fell back. That they
    /// vanish for at least `span` tells a black hole from a queue that only small packets still fit in.
    pub fn black_hole(&mut self, now: Time, span: Duration) -> bool {
        let (first, last) = self.lost_between;
        if self.low == 0 || self.large_lost < HOLE_PACKETS || last.since(first) < span {
            return false;
        }
        (self.low, self.high, self.large_lost, self.tries) = (0, 0, 0, 0);
        self.probe = None;
        self.again = Some(now + RETRY);
        true
    }

    /// When [`Self::on_timeout`] wants to be called.
    pub fn timeout(&self) -> Option<Time> {
        self.again
    }

    /// Searches again upward when it is time.
    pub fn on_timeout(&mut self, now: Time) {
        if self.again.take_if(|again| *again <= now).is_some() {
            (self.high, self.eager, self.tries) = (self.sizes.len(), true, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(path: u32, discovery: &mut Discovery, from: u64) -> u64 {
        let mut number = from;
        while let Some(size) = discovery.wanted() {
            discovery.on_probe(number);
            if size <= path {
                assert!(discovery.on_probe_acked(Time::ZERO, number));
            } else {
                discovery.on_probe_lost(Time::ZERO, number);
            }
            number += 1;
            assert!(number < from + 30, "the search ends");
        }
        number - from
    }

    proptest! {
        #[test]
        fn finds_the_largest_candidate_that_fits(path in 1232u32..1600) {
            let mut discovery = Discovery::new(1232, 1472);
            search(path, &mut discovery, 0);
            let best = KNOWN.into_iter().filter(|size| *size <= path).max().unwrap();
            prop_assert_eq!(discovery.current(), best);
            prop_assert_eq!(discovery.timeout().is_some(), best < 1472);
        }
    }

    #[test]
    fn one_probe_does_on_ethernet() {
        let mut discovery = Discovery::new(1232, 1472);
        assert_eq!(search(1500, &mut discovery, 0), 1);
        let mut jumbo = Discovery::new(1232, 8972);
        search(9000, &mut jumbo, 0);
        assert_eq!(jumbo.current(), 8972);
        assert!(jumbo.is_settled() && !Discovery::new(1232, 1472).is_settled());
        assert_eq!(Discovery::new(1232, 1232).wanted(), None);
    }

    #[test]
    fn falls_back_in_a_black_hole_and_tries_again() {
        let mut discovery = Discovery::new(1232, 1472);
        search(1500, &mut discovery, 0);
        let ms = Time::from_millis;
        let span = Duration::from_millis(10);
        (1..6).for_each(|number| discovery.on_lost(number, 1472, ms(number * 10)));
        assert!(!discovery.black_hole(Time::ZERO, span));
        discovery.on_acked(6, 1472);
        (1..6).for_each(|number| discovery.on_lost(number, 1472, ms(number * 10)));
        (7..12).for_each(|number| discovery.on_lost(number, 1472, ms(100)));
        assert!(!discovery.black_hole(Time::ZERO, span), "losses before an arrival do not count");
        discovery.on_lost(12, 1472, ms(109));
        assert!(!discovery.black_hole(Time::ZERO, span), "a burst is no black hole");
        discovery.on_lost(13, 1472, ms(110));
        assert!(discovery.black_hole(Time::ZERO, span));
        assert_eq!((discovery.current(), discovery.wanted()), (1232, None));
        let again = discovery.timeout().unwrap();
        discovery.on_timeout(again);
        assert_eq!(discovery.wanted(), Some(1472));
    }
}

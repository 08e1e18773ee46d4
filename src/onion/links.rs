//! The neighbours: which circuit a number on a link means, how much each neighbour may ask for, and the messages that
//! wait for them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::types::{DropCause, LinkId};
use crate::base::{Rng, Time};
use crate::limits::{
    BUILDS_PER_LINK_BURST, BUILDS_PER_LINK_PER_SECOND, CIRCUIT_MESSAGES_MAX, CIRCUITS_PER_LINK_MAX,
    ENDS_PER_LINK_PER_SECOND,
};
use crate::wire::Malformed;
use crate::wire::cell::{EndWhy, Head};

/// A number on a link.
pub(super) type Leg = (LinkId, u32);

/// What a leg belongs to, by its index in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The neighbour is nearer to the origin, or the origin.
    From(u32),
    /// The neighbour is the next hop.
    To(u32),
    /// The neighbour is the first hop of a circuit of our own.
    Own(u32),
}

/// So many at once, and so many per second over time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    /// When the bucket will be full again.
    full_at: Time,
}

impl Bucket {
    pub(super) fn new(now: Time) -> Self {
        Self { full_at: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Time, per_second: u64, burst: u64) -> bool {
        let each = 1_000_000_000 / per_second;
        let full_at = self.full_at.max(now).0.saturating_add(each);
        let granted = full_at - now.0 <= each * burst;
        if granted {
            self.full_at = Time(full_at);
        }
        granted
    }
}

struct Link {
    /// The lowest bit of the numbers that we choose.
    ours: u32,
    /// Circuits that it asked for.
    circuits: usize,
    builds: Bucket,
    ends: Bucket,
}

/// All neighbours.
#[derive(Default)]
pub(super) struct Links {
    legs: HashMap<Leg, Use>,
    links: BTreeMap<LinkId, Link>,
    messages: VecDeque<(LinkId, Box<[u8]>)>,
    /// Messages that found no room.
    pub(super) lost: u64,
}

impl Links {
    pub(super) fn up(&mut self, now: Time, link: LinkId, initiator: bool) {
        let (builds, ends) = (Bucket::new(now), Bucket::new(now));
        self.links.insert(link, Link { ours: u32::from(!initiator), circuits: 0, builds, ends });
    }

    pub(super) fn down(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.messages.retain(|(to, _)| *to != link);
    }

    pub(super) fn is_up(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    pub(super) fn find(&self, leg: Leg) -> Option<Use> {
        self.legs.get(&leg).copied()
    }

    /// A number of ours on a link; `None` when the link is gone.
    pub(super) fn choose(&mut self, rng: &mut Rng, link: LinkId, used: Use) -> Option<u32> {
        let ours = self.links.get(&link)?.ours;
        // With at most 2¹⁵ of 2³¹ taken, the first draw is free but for one time in 65,000.
        loop {
            let number = (rng.next_u64() as u32 & !1) | ours;
            if number != 0 && !self.legs.contains_key(&(link, number)) {
                self.legs.insert((link, number), used);
                return Some(number);
            }
        }
    }

    /// Whether the neighbour may have one more circuit, under a number that is its to choose.
    pub(super) fn admit(&mut self, now: Time, leg: Leg) -> Result<Result<(), DropCause>, Malformed> {
        let Some(link) = self.links.get_mut(&leg.0) else { return Ok(Err(DropCause::Unknown)) };
        if leg.1 & 1 == link.ours {
            return Err(Malformed("build: a circuit number of the other side"));
        }
        let free = !self.legs.contains_key(&leg);
        let cause = if !free {
            Err(DropCause::Duplicate)
        } else if link.circuits >= CIRCUITS_PER_LINK_MAX
            || !link.builds.take(now, BUILDS_PER_LINK_PER_SECOND, BUILDS_PER_LINK_BURST)
        {
            Err(DropCause::Busy)
        } else {
            Ok(())
        };
        Ok(cause)
    }

    /// A circuit that the neighbour asked for begins.
    pub(super) fn enter(&mut self, leg: Leg, index: u32) {
        self.legs.insert(leg, Use::From(index));
        if let Some(link) = self.links.get_mut(&leg.0) {
            link.circuits += 1;
        }
    }

    /// A leg is over.
    pub(super) fn leave(&mut self, leg: Leg) {
        if let Some(Use::From(_)) = self.legs.remove(&leg)
            && let Some(link) = self.links.get_mut(&leg.0)
        {
            link.circuits -= 1;
        }
    }

    /// A message to a neighbour, of the length of its class. `fill` writes what follows the head; the rest is random.
    pub(super) fn send(&mut self, rng: &mut Rng, link: LinkId, head: Head, fill: impl FnOnce(&mut [u8])) {
        let mut cell = vec![0; head.class().size()].into_boxed_slice();
        rng.fill(&mut cell);
        head.emit(&mut cell);
        fill(&mut cell);
        self.send_cell(link, cell);
    }

    /// A whole cell to a neighbour.
    pub(super) fn send_cell(&mut self, link: LinkId, cell: Box<[u8]>) {
        if self.messages.len() >= CIRCUIT_MESSAGES_MAX || !self.is_up(link) {
            self.lost += 1;
            return;
        }
        self.messages.push_back((link, cell));
    }

    pub(super) fn end(&mut self, rng: &mut Rng, (link, circuit): Leg, why: EndWhy) {
        self.send(rng, link, Head::End { circuit, why }, |_| {});
    }

    /// Tells a neighbour that a circuit is not known here, if it was not told too often.
    pub(super) fn deny(&mut self, now: Time, rng: &mut Rng, leg: Leg, why: EndWhy) {
        let Some(link) = self.links.get_mut(&leg.0) else { return };
        if link.ends.take(now, ENDS_PER_LINK_PER_SECOND, ENDS_PER_LINK_PER_SECOND) {
            self.end(rng, leg, why);
        }
    }

    /// Writes the next message to `into`, which has room for a large cell: for whom, and how long it is.
    pub(super) fn poll(&mut self, into: &mut [u8]) -> Option<(LinkId, usize)> {
        let (link, cell) = self.messages.pop_front()?;
        into[..cell.len()].copy_from_slice(&cell);
        Some((link, cell.len()))
    }

    /// Legs in use.
    #[cfg(test)]
    pub(super) fn legs(&self) -> usize {
        self.legs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Time::ZERO);
        let mut taken = |ms: u64, tries: usize| {
            (0..tries).filter(|_| bucket.take(Time::from_millis(ms), 20, 100)).count()
        };
        assert_eq!(taken(0, 500), 100);
        assert_eq!(taken(49, 500), 0);
        assert_eq!(taken(1049, 500), 20);
        assert_eq!(taken(3_600_000, 500), 100);
        let mut never = Bucket::new(Time(u64::MAX - 1));
        assert!(never.take(Time::ZERO + Duration::MAX, 20, 100), "the end of time is no panic");
    }

    #[test]
    fn each_side_has_numbers_of_its_own() {
        let (mut rng, link) = (Rng::from_number(1), LinkId(7));
        for initiator in [true, false] {
            let mut links = Links::default();
            links.up(Time::ZERO, link, initiator);
            let ours = links.choose(&mut rng, link, Use::Own(0)).unwrap();
            assert_eq!(ours & 1, u32::from(!initiator));
            assert!(links.admit(Time::ZERO, (link, ours)).is_err(), "the neighbour may not choose it");
            let theirs = (ours ^ 1).max(2 | (ours & 1 ^ 1));
            assert_eq!(links.admit(Time::ZERO, (link, theirs)), Ok(Ok(())));
            links.enter((link, theirs), 0);
            assert_eq!(links.admit(Time::ZERO, (link, theirs)), Ok(Err(DropCause::Duplicate)));
            assert_eq!(links.choose(&mut rng, LinkId(8), Use::Own(0)), None);
        }
    }

    #[test]
    fn a_flood_of_builds_is_refused_and_messages_are_bounded() {
        let (mut rng, link) = (Rng::from_number(1), LinkId(7));
        let mut links = Links::default();
        links.up(Time::ZERO, link, true);
        let admitted = (0..1000).filter(|n| links.admit(Time::ZERO, (link, 2 * n + 1)) == Ok(Ok(()))).count();
        assert_eq!(admitted as u64, BUILDS_PER_LINK_BURST);
        for _ in 0..CIRCUIT_MESSAGES_MAX + 5 {
            links.end(&mut rng, (link, 1), EndWhy::Done);
        }
        let mut room = [0; 1500];
        let sent = std::iter::from_fn(|| links.poll(&mut room)).count();
        assert_eq!((sent, links.lost), (CIRCUIT_MESSAGES_MAX, 5));
    }
}

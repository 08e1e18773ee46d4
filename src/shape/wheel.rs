//! When which peer is to be looked at again: a hierarchical timing wheel with one node per peer, whatever it has queued,
//! and a bitmap per level, so that the next occupied slot is one find-first-set away.
//!
//! Level *l* has 64 slots of 64ˡ ticks each. A peer waits on the coarsest level whose slot tells its tick from the
//! present one, and moves down when its slot begins: at most once per level.

use super::links::{Links, Ring};
use crate::base::Time;

/// A tick is 2¹⁶ ns: 65.5 µs, about what a timer of the kernel is late anyway. Rates do not suffer from it, since tokens
/// are counted to the nanosecond.
const TICK_BITS: u32 = 16;
const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Ticks ahead at most, so that the coarsest level never laps itself: 18 minutes. What is later is looked at then.
const HORIZON: u64 = ((SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1))) - 1;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Everything before this tick has been handed out.
    tick: u64,
    slots: [[Ring; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    links: Links,
    /// The tick at which each peer is due.
    due: Vec<u64>,
}

impl Wheel {
    pub(super) fn new(now: Time) -> Self {
        Self {
            tick: now.0 >> TICK_BITS,
            slots: [[Ring::EMPTY; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            links: Links::default(),
            due: Vec::new(),
        }
    }

    pub(super) fn grow(&mut self, peers: usize) {
        self.links.grow(peers);
        self.due.resize(peers, 0);
    }

    fn place(&self, due: u64) -> (usize, usize) {
        let differing = (self.tick ^ due) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        (level, (due >> (SLOT_BITS * level as u32)) as usize % SLOTS)
    }

    #[inline]
    fn insert(&mut self, peer: u32, due: u64) {
        let (level, slot) = self.place(due);
        self.due[peer as usize] = due;
        self.links.push(&mut self.slots[level][slot], peer);
        self.occupied[level] |= 1 << slot;
    }

    /// Sets or moves a peer's time. It is never handed out before it, and at most a tick after it.
    #[inline]
    pub(super) fn set(&mut self, peer: u32, at: Time) {
        let due = at.0.div_ceil(1 << TICK_BITS).clamp(self.tick, self.tick + HORIZON);
        if self.links.linked(peer) {
            if self.due[peer as usize] == due {
                return;
            }
            self.cancel(peer);
        }
        self.insert(peer, due);
    }

    /// Forgets a peer's time.
    #[inline]
    pub(super) fn cancel(&mut self, peer: u32) {
        if !self.links.linked(peer) {
            return;
        }
        let (level, slot) = self.place(self.due[peer as usize]);
        let ring = &mut self.slots[level][slot];
        self.links.remove(ring, peer);
        if ring.is_empty() {
            self.occupied[level] &= !(1 << slot);
        }
    }

    /// The first occupied slot: its level, its number and its first tick. Lower levels come first, since a level holds
    /// nothing before the end of the slot that the level above is in.
    fn first(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find(|level| self.occupied[*level] != 0).map(|level| {
            let shift = SLOT_BITS * level as u32;
            let here = (self.tick >> shift) as u32 % SLOTS as u32;
            let ahead = self.occupied[level].rotate_right(here).trailing_zeros();
            let slot = (here + ahead) as usize % SLOTS;
            let begin = ((self.tick >> shift) + u64::from(ahead)) << shift;
            (level, slot, begin.max(self.tick))
        })
    }

    /// Takes a peer that is due.
    #[inline]
    pub(super) fn pop(&mut self, now: Time) -> Option<u32> {
        let until = now.0 >> TICK_BITS;
        loop {
            let Some((level, slot, begin)) = self.first() else {
                self.tick = self.tick.max(until);
                return None;
            };
            if begin > until {
                self.tick = self.tick.max(until);
                return None;
            }
            if level == 0 {
                self.tick = begin;
                let ring = &mut self.slots[0][slot];
                let peer = self.links.pop(ring);
                if ring.is_empty() {
                    self.occupied[0] &= !(1 << slot);
                }
                return peer;
            }
            // The slot begins: its peers move to the levels below.
            self.tick = begin;
            let mut ring = std::mem::replace(&mut self.slots[level][slot], Ring::EMPTY);
            self.occupied[level] &= !(1 << slot);
            while let Some(peer) = self.links.pop(&mut ring) {
                self.insert(peer, self.due[peer as usize].max(begin));
            }
        }
    }

    /// When [`Self::pop`] should be called: exact for what is near, and for what is far the time at which it comes nearer.
    pub(super) fn next(&self) -> Option<Time> {
        self.first().map(|(.., begin)| Time(begin << TICK_BITS))
    }

    #[cfg(test)]
    fn is_set(&self, peer: u32) -> bool {
        self.links.linked(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    proptest! {
        /// Against a sorted map: never early, never more than a tick late, nobody lost.
        #[test]
        fn hands_out_what_is_due(
            start in 0u64..1 << 50,
            steps in prop::collection::vec((0u8..4, 0u32..16, 0u32..39, any::<u64>()), 1..300),
        ) {
            let mut now = Time(start);
            let mut wheel = Wheel::new(now);
            wheel.grow(16);
            let mut model = BTreeMap::new();
            for (what, peer, bits, number) in steps {
                let span = Duration::from_nanos(number & ((1 << bits) - 1));
                match what {
                    0 | 1 => {
                        wheel.set(peer, now + span);
                        model.insert(peer, now + span);
                    }
                    2 => {
                        wheel.cancel(peer);
                        model.remove(&peer);
                    }
                    _ => {
                        now += span;
                        while let Some(peer) = wheel.pop(now) {
                            let at = model.remove(&peer);
                            prop_assert!(at.is_some_and(|at| at <= now), "{peer} at {at:?}, now {now:?}");
                        }
                        let late = Time(now.0.saturating_sub(1 << TICK_BITS));
                        prop_assert!(model.values().all(|at| *at > late), "{model:?} {now:?}");
                    }
                }
                prop_assert!((0..16).all(|peer| wheel.is_set(peer) == model.contains_key(&peer)));
                let first = model.values().min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                let tick = Time(1 << TICK_BITS).0;
                prop_assert!(first.is_none_or(|at| wheel.next().is_some_and(|next| next.0 <= at.0.max(now.0) + tick)));
            }
        }
    }

    #[test]
    fn what_lies_beyond_the_horizon_is_looked_at_at_it() {
        let mut wheel = Wheel::new(Time::ZERO);
        wheel.grow(1);
        wheel.set(0, Time(u64::MAX));
        let mut wakes = 0;
        let found = loop {
            let now = wheel.next().expect("set");
            wakes += 1;
            if wheel.pop(now).is_some() {
                break now;
            }
        };
        assert!(found > Time::from_millis(1_000_000) && wakes <= 8, "{found:?} {wakes}");
    }
}

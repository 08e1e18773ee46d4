//! A node that is new in a region collects what its neighbours keep there, and hands on what it keeps (docs/protocol/overlay.md §4):
//! otherwise a chunk whose keepers were all replaced, or started anew, would be found by nobody until its provider
//! comes round again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Overlay;
use super::announce::Cell;
use super::density;
use super::exchange::Purpose;
use super::place::{distance, leading};
use super::types::{Moment, Peer, ms};
use crate::base::{ChunkId, NodeId, Time};
use crate::limits::{
    ANNOUNCE_ANEW_MS, ANNOUNCED_ANEW_MAX, COLLECT_PAUSE_MS, COLLECTED_FROM, COLLECTED_IN_VAIN_MAX,
    COLLECTED_MAX, EXCHANGE_MS_MAX, REGION_NODES, REPUBLISH_MS,
};
use crate::wire::overlay::{Body, Handed};

/// Peers whose sessions broke that are remembered at most.
const BROKEN_MAX: usize = 2 * REGION_NODES;
/// A keeper hands on what lies in a region of up to four times its own, since the newcomer may think the network smaller.
const WIDER_BITS: u32 = 2;

/// What is being collected.
#[derive(Debug, Clone)]
pub(super) struct Collecting {
    /// At most [`COLLECTED_FROM`].
    pub(super) from: BTreeMap<NodeId, Collected>,
    /// Who was asked, at most [`COLLECTED_FROM`] and as many more as failed.
    asked: BTreeSet<NodeId>,
    /// Of those, who did not answer to the end; at most [`COLLECTED_IN_VAIN_MAX`].
    vain: usize,
    /// Records that may yet be looked at.
    left: usize,
    /// Peers whose sessions broke, and that have not come back; at most [`BROKEN_MAX`], in a small network all.
    broken: BTreeSet<NodeId>,
    /// When all that is provided may be announced anew, and whether it is to be then.
    anew_at: Time,
    anew: bool,
    /// The pause after the next time, which doubles while it happens again and again.
    anew_pause: Duration,
}

/// One neighbour, and how far it has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Collected {
    pub(super) peer: Peer,
    pub(super) next: ChunkId,
    /// When it is asked (again); none while it is.
    at: Option<Time>,
}

impl Default for Collecting {
    fn default() -> Self {
        Self {
            from: BTreeMap::new(),
            asked: BTreeSet::new(),
            vain: 0,
            left: COLLECTED_MAX,
            broken: BTreeSet::new(),
            anew_at: Time::ZERO,
            anew: false,
            anew_pause: ms(ANNOUNCE_ANEW_MS),
        }
    }
}

impl Collecting {
    /// When somebody is to be asked, or told.
    pub(super) fn next(&self) -> Option<Time> {
        let anew = self.anew.then_some(self.anew_at);
        self.from.values().filter_map(|one| one.at).chain(anew).min()
    }

    /// A peer's session broke: perhaps its node did, with all that it kept.
    pub(super) fn broke(&mut self, id: &NodeId) {
        self.broken.insert(*id);
        if self.broken.len() > BROKEN_MAX {
            self.broken.pop_first();
        }
    }

    /// How many more are to be asked.
    fn wanted(&self) -> usize {
        let most = COLLECTED_FROM + self.vain.min(COLLECTED_IN_VAIN_MAX);
        if self.left == 0 { 0 } else { most.saturating_sub(self.asked.len()) }
    }

    /// Whether nothing is to be collected any more.
    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.wanted() == 0 && self.from.is_empty()
    }
}

impl Overlay {
    /// Neighbours are known, or others than before: what the nearest keep is collected, from each once. Clients keep nothing.
    pub(super) fn begin_collecting(&mut self, at: Moment) {
        let wanted = self.collecting.wanted();
        if wanted == 0 || self.config.client {
            return;
        }
        let own = ChunkId(self.own.id.0);
        let next = Cell::of(&own, density::region(self.network_size())).from;
        let most = COLLECTED_FROM + COLLECTED_IN_VAIN_MAX;
        let mut nearest = self.nearest_staying(&own.0, most, at.now);
        nearest.retain(|peer| !self.collecting.asked.contains(&peer.id));
        for peer in nearest.into_iter().take(wanted) {
            self.collecting.asked.insert(peer.id);
            self.collecting.from.insert(peer.id, Collected { peer, next, at: Some(at.now) });
        }
        self.collect(at);
    }

    /// Asks whom it is time to ask, and has told what it is time to tell.
    pub(super) fn collect(&mut self, at: Moment) {
        self.announce_anew(at);
        let due = |one: &Collected| one.at.is_some_and(|time| time <= at.now);
        let due: Vec<_> = self.collecting.from.values().filter(|one| due(one)).copied().collect();
        let bits = density::region(self.network_size()).leading_zeros() as u8;
        for Collected { peer, next, .. } in due {
            let question = Body::Collect { bits, from: next };
            if self.exchanges.has_room() && self.ask(at, peer, None, Purpose::Collect, question) {
                self.collect_later(&peer.id, next, None);
            } else {
                self.collect_later(&peer.id, next, Some(at.now + ms(EXCHANGE_MS_MAX)));
            }
        }
    }

    fn collect_later(&mut self, id: &NodeId, next: ChunkId, at: Option<Time>) {
        if let Some(one) = self.collecting.from.get_mut(id) {
            (one.next, one.at) = (next, at);
        }
    }

    /// A neighbour hands on a part of what it keeps.
    pub(super) fn collected(&mut self, at: Moment, from: &Peer, handed: &Handed) {
        let Some(asked) = self.collecting.from.get(&from.id).map(|one| one.next) else { return };
        // Around this node's place, with as much room for other opinions as who hands on has.
        let reach = density::region(self.network_size()).saturating_mul(1 << WIDER_BITS);
        for (chunk, record) in handed.records() {
            let near = leading(&distance(&chunk.0, &self.own.id.0)) <= reach;
            if *chunk < asked || !near || self.collecting.left == 0 {
                return self.not_collected(at, &from.id, false);
            }
            self.collecting.left -= 1;
            let is_own = record.provider.card.key == self.own.contact.card.key;
            if !is_own && !self.records.holds(chunk, record) {
                self.hear_record(at, from, *chunk, record);
            }
        }
        let next = handed.records().last().and_then(|(chunk, _)| behind(chunk));
        match next.filter(|_| handed.more) {
            Some(next) => self.collect_later(&from.id, next, Some(at.now + ms(COLLECT_PAUSE_MS))),
            None => _ = self.collecting.from.remove(&from.id),
        }
    }

    /// A neighbour did not answer; `untried` where it was not asked. Another may have what it has.
    pub(super) fn not_collected(&mut self, at: Moment, id: &NodeId, untried: bool) {
        let Some(one) = self.collecting.from.get_mut(id) else { return };
        if untried {
            one.at = Some(at.now + ms(EXCHANGE_MS_MAX));
            return;
        }
        self.collecting.from.remove(id);
        self.collecting.vain += 1;
        self.begin_collecting(at);
    }

    /// A peer has a session again, in the place of one that had not ended in good order, or is one of those that are known, as it was not before:
    /// it may have begun anew. In a network smaller than a region every keeper counts, and what this node provides is
    /// announced again: once a minute at most, and more seldom while that goes on.
    pub(super) fn perhaps_anew(&mut self, at: Moment, id: &NodeId, is_news: bool) {
        let broken = self.collecting.broken.remove(id);
        // In a large network somebody comes all the time, and nothing has to wake up for it.
        let is_small = self.network_size() <= REGION_NODES as u64;
        if (broken || is_news) && is_small && !self.collecting.anew {
            self.collecting.anew = true;
            self.collecting.anew_at = self.collecting.anew_at.max(at.now + ms(COLLECT_PAUSE_MS));
        }
    }

    fn announce_anew(&mut self, at: Moment) {
        if !self.collecting.anew || at.now < self.collecting.anew_at {
            return;
        }
        self.collecting.anew = false;
        if !self.published.is_empty() && self.published.len() <= ANNOUNCED_ANEW_MAX {
            let own = &mut self.collecting;
            let rested = at.now.since(own.anew_at) >= 10 * ms(ANNOUNCE_ANEW_MS);
            let pause = if rested { ms(ANNOUNCE_ANEW_MS) } else { own.anew_pause };
            own.anew_at = at.now + pause;
            own.anew_pause = (2 * pause).min(ms(REPUBLISH_MS / 4));
            self.published.hurry(at.now);
        }
    }

    /// What this node keeps around the place of one who is new there.
    pub(super) fn hand_on(&mut self, at: Moment, to: &NodeId, bits: u8, from: ChunkId) -> Handed {
        let least = density::region(self.network_size()).leading_zeros().saturating_sub(WIDER_BITS);
        let region = u64::MAX.checked_shr(u32::from(bits).max(least)).unwrap_or(0);
        let cell = Cell::of(&ChunkId(to.0), region);
        let from = from.max(cell.from);
        if from > cell.to {
            return Handed::default();
        }
        self.records.expire(at.unix_s());
        let left = |id: &NodeId| self.leaving.has_left(id, at.now);
        Handed::first(self.records.between(from..=cell.to, left))
    }
}

/// The next place.
fn behind(chunk: &ChunkId) -> Option<ChunkId> {
    let mut next = chunk.0;
    for byte in next.iter_mut().rev() {
        let carry;
        (*byte, carry) = byte.overflowing_add(1);
        if !carry {
            return Some(ChunkId(next));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_between_a_place_and_the_next(place: [u8; 20], tail in 0usize..=20) {
            let mut place = ChunkId(place);
            place.0[20 - tail..].fill(0xff);
            match behind(&place) {
                None => prop_assert_eq!(place.0, [0xff; 20]),
                Some(next) => {
                    prop_assert!(next > place);
                    let halves = |place: &ChunkId| {
                        let (high, low) = place.0.split_at(4);
                        (u32::from_be_bytes(high.try_into().unwrap()), u128::from_be_bytes(low.try_into().unwrap()))
                    };
                    let ((high, low), (next_high, next_low)) = (halves(&place), halves(&next));
                    let (sum, carry) = low.overflowing_add(1);
                    prop_assert_eq!((next_high, next_low), (high + u32::from(carry), sum));
                }
            }
        }
    }
}

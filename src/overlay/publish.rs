//! Chunks that this node provides: looked after once an hour, so that enough hosts have them and enough nodes know it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::types::ms;
use crate::base::{ChunkId, Rng, Time};
use crate::limits::{DUE_LOOKED_MAX, PUBLISHED_MAX, REPUBLISH_MS, REPUBLISH_TOGETHER_MS};

/// How a published chunk fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Other hosts at the last check: the median of what its keepers know.
    pub hosts: u8,
    /// Nodes that kept this node's record.
    pub kept: u8,
    /// Nodes that it was offered to and that have not answered.
    pub waiting: u16,
    /// Queries lately, as those say that keep it.
    pub queries: u16,
}

#[derive(Debug, Clone, Copy)]
struct Published {
    due: Time,
    health: Health,
}

/// What is published, and when each is due; about 100 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Publications {
    chunks: BTreeMap<ChunkId, Published>,
    due: BTreeSet<(Time, ChunkId)>,
}

impl Publications {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Provides a chunk from now on; false when there are too many.
    pub fn add(&mut self, chunk: ChunkId, at: Time) -> bool {
        if self.chunks.contains_key(&chunk) {
            return true;
        }
        if self.chunks.len() >= PUBLISHED_MAX {
            return false;
        }
        self.chunks.insert(chunk, Published { due: at, health: Health::default() });
        self.due.insert((at, chunk));
        true
    }

    /// Provides it no more.
    pub fn remove(&mut self, chunk: &ChunkId) {
        if let Some(own) = self.chunks.remove(chunk) {
            self.due.remove(&(own.due, *chunk));
        }
    }

    /// All are looked after now.
    pub fn hurry(&mut self, now: Time) {
        self.chunks.values_mut().for_each(|own| own.due = now);
        self.due = self.chunks.keys().map(|chunk| (now, *chunk)).collect();
    }

    /// Those that fewer than so many other hosts had at the last check: the most asked for first, at most so many.
    pub fn poor(&self, hosts: u8, most: usize) -> Vec<ChunkId> {
        let few = self.chunks.iter().filter(|(_, own)| own.health.hosts < hosts);
        let mut few: Vec<_> = few
            .map(|(chunk, own)| (std::cmp::Reverse(own.health.queries), own.health.hosts, *chunk))
            .collect();
        if few.len() > most {
            few.select_nth_unstable(most);
            few.truncate(most);
        }
        few.sort_unstable();
        few.into_iter().map(|(.., chunk)| chunk).collect()
    }

    /// How one fares.
    pub fn health(&self, chunk: &ChunkId) -> Option<Health> {
        self.chunks.get(chunk).map(|own| own.health)
    }

    /// The same, to be changed.
    pub fn health_mut(&mut self, chunk: &ChunkId) -> Option<&mut Health> {
        self.chunks.get_mut(chunk).map(|own| &mut own.health)
    }

    /// When the next is due.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that are due, first the ones that wait longest.
    pub fn due(&self, now: Time) -> impl Iterator<Item = ChunkId> + '_ {
        self.due.iter().take_while(move |(at, _)| *at <= now).map(|(_, chunk)| *chunk)
    }

    /// Takes the next few of a range of places that are due soon, and where to go on. They are due again within the
    /// hour, all at one time.
    pub fn take(
        &mut self,
        now: Time,
        range: RangeInclusive<ChunkId>,
        count: usize,
        rng: &mut Rng,
    ) -> (Vec<ChunkId>, Option<ChunkId>) {
        let soon = now + ms(REPUBLISH_TOGETHER_MS);
        let (mut taken, mut next) = (Vec::new(), None);
        for (looked, (chunk, own)) in self.chunks.range(range).enumerate() {
            if taken.len() >= count || looked >= DUE_LOOKED_MAX {
                next = Some(*chunk);
                break;
            }
            if own.due <= soon {
                taken.push(*chunk);
            }
        }
        let due = now + ms(REPUBLISH_MS - rng.below(REPUBLISH_MS / 8));
        taken.iter().for_each(|chunk| self.again(chunk, due));
        (taken, next)
    }

    /// It is looked after again at another time.
    pub fn again(&mut self, chunk: &ChunkId, at: Time) {
        if let Some(own) = self.chunks.get_mut(chunk) {
            self.due.remove(&(own.due, *chunk));
            own.due = at;
            self.due.insert((at, *chunk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_too_few_have_is_listed_by_how_much_it_is_asked_for() {
        let mut own = Publications::default();
        let chunk = |n: u8| ChunkId([n; 20]);
        for (n, hosts, queries) in [(1, 0, 5), (2, 3, 90), (3, 2, 50), (4, 0, 50), (5, 1, 0)] {
            assert!(own.add(chunk(n), Time::from_millis(1_000_000)));
            *own.health_mut(&chunk(n)).expect("provided") = Health { hosts, queries, ..Health::default() };
        }
        assert_eq!(own.poor(3, 9), [4, 3, 1, 5].map(chunk));
        assert_eq!(own.poor(3, 2), [4, 3].map(chunk), "those that matter most");
        assert_eq!(own.poor(1, 9), [4, 1].map(chunk));
        own.hurry(Time::ZERO);
        assert_eq!(own.due(Time::ZERO).count(), 5);
    }
}

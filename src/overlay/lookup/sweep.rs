//! The sweep of a key's region: who is asked there, and how far around it.

use super::{Asked, Candidate, Lookup, NEAREST_MIN, distance, leading};
use crate::limits::{REGION_NODES, REGION_NODES_MAX};
use crate::overlay::path::State;
use crate::overlay::types::Goal;

/// A region of so few nodes is suspicious: one in a hundred has fewer than half of the average by chance.
const SPARSE_PROVIDERS: usize = REGION_NODES / 2;
/// The same where only the nearest are asked.
const SPARSE_NODES: usize = 6;
/// So many are asked because of it at most.
const SPARSE_ASKED_MAX: usize = 48;
/// Nodes around the region that are asked, too, where all of it is: whoever crowds into it names only accomplices, and so would
/// hide the others from whoever met no others.
const AROUND: usize = 8;
/// They are drawn from those up to so many times as far as the region reaches.
const AROUND_REGIONS: u64 = 8;
/// Nodes outside of it that are tried at most: those that are not there cost time.
const AROUND_TRIED_MAX: usize = 3 * AROUND;

impl Lookup {
    /// Whom to ask next there.
    pub(super) fn next_in_region(&self) -> Option<(usize, Candidate)> {
        let in_flight = self.asked.values().filter(|asked| asked.state == State::Asked).count();
        // What waits here keeps nobody waiting but this lookup: twice as many at once.
        if in_flight >= 2 * self.style.parallel {
            return None;
        }
        let (at, next) = self.nearest_waiting()?;
        let nearer = self.asked.values().filter(|asked| {
            asked.state != State::Gone && distance(&self.wanted.key, &asked.peer.id.0) < next.distance
        });
        let nearer = nearer.count();
        // Fewer in the region than chance allows: those who answered do not say whom they know. Whoever is next, however
        // far, may.
        let is_whole = self.wanted.goal != Goal::Nodes || self.style.whole;
        let least = if is_whole { SPARSE_PROVIDERS } else { SPARSE_NODES };
        if nearer < SPARSE_ASKED_MAX && self.inside() < least {
            return Some((at, next));
        }
        let outside = leading(&next.distance) > self.style.region;
        if is_whole && outside && nearer < REGION_NODES_MAX && self.around() < AROUND {
            return Some(self.waiting_around().unwrap_or((at, next)));
        }
        let enough = nearer >= NEAREST_MIN && (!is_whole || outside) || nearer >= REGION_NODES_MAX;
        (!enough).then_some((at, next))
    }

    /// Nodes of the region that were asked and are there.
    fn inside(&self) -> usize {
        self.there().filter(|leading| *leading <= self.style.region).count()
    }

    /// Those outside of it; as many as are wanted where too many were tried.
    fn around(&self) -> usize {
        let far = |asked: &&Asked| leading(&distance(&self.wanted.key, &asked.peer.id.0)) > self.style.region;
        let tried = self.asked.values().filter(far).count();
        let there = self.there().filter(|leading| *leading > self.style.region).count();
        if tried >= AROUND_TRIED_MAX { AROUND } else { there }
    }

    /// The middle one of those around who were not asked: the nearest may be accomplices, too, for little.
    fn waiting_around(&self) -> Option<(usize, Candidate)> {
        let mut all: Vec<(usize, Candidate)> = Vec::new();
        for (at, path) in self.paths.iter().enumerate() {
            let far = self.style.region.saturating_mul(AROUND_REGIONS);
            let around = path
                .list()
                .iter()
                .filter(|one| (self.style.region.saturating_add(1)..=far).contains(&leading(&one.distance)));
            all.extend(around.filter(|one| self.may_ask(one)).map(|one| (at, *one)));
        }
        all.sort_unstable_by_key(|(_, one)| one.distance);
        all.get(all.len() / 2).copied()
    }

    fn may_ask(&self, one: &Candidate) -> bool {
        let asked = self.asked.get(&one.peer.id);
        one.state == State::Waiting && asked.is_none_or(|asked| asked.may_try(&one.peer))
    }

    /// How far those are that were asked and are there.
    fn there(&self) -> impl Iterator<Item = u64> {
        let there = self.asked.values().filter(|asked| asked.state != State::Gone);
        there.map(|asked| leading(&distance(&self.wanted.key, &asked.peer.id.0)))
    }

    fn nearest_waiting(&self) -> Option<(usize, Candidate)> {
        let firsts = self.paths.iter().enumerate().filter_map(|(at, path)| {
            let next = path.list().iter().find(|one| self.may_ask(one))?;
            Some((at, *next))
        });
        firsts.min_by_key(|(_, one)| one.distance)
    }
}

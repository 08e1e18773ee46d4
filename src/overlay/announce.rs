//! Looking after what this node publishes: region by region, so that one lookup and few messages do for all chunks of a
//! region (docs/protocol/overlay.md §6).

use std::collections::{BTreeMap, BTreeSet};

use super::density;
use super::exchange::Purpose;
use super::gathered::median;
use super::lookup::Style;
use super::place::{distance, leading};
use super::types::{Effect, Goal, Manner, Moment, Peer, Wanted, ms};
use super::{For, Overlay};
use crate::base::{ChunkId, NodeId, Time};
use crate::limits::{
    ANNOUNCE_TURN_MS, ANNOUNCED_CHUNKS_MAX, ANNOUNCEMENTS_BURST, ANNOUNCEMENTS_OPEN_MAX,
    ANNOUNCEMENTS_PER_SECOND, CHECK_MS_MAX, CHECKS_MAX, DUE_LOOKED_MAX, REFUSED_RETRY_MS, REGION_NODES,
    REGION_NODES_MAX, REPUBLISH_RETRY_MS,
};
use crate::wire::overlay::{Announcement, Body, Keeping, Record, Verdict};

/// All places that share the bits of a region with one: whoever is near one of them is near all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) from: ChunkId,
    pub(super) to: ChunkId,
}

impl Cell {
    /// Around a place, for a region that reaches so far.
    pub(super) fn of(chunk: &ChunkId, region: u64) -> Self {
        let inside = u64::MAX.checked_shr(region.leading_zeros()).unwrap_or(0);
        let first = leading(&chunk.0);
        let end = |leading: u64, fill: u8| {
            let mut place = [fill; 20];
            place[..8].copy_from_slice(&leading.to_be_bytes());
            ChunkId(place)
        };
        Self { from: end(first & !inside, 0), to: end(first | inside, 0xff) }
    }

    /// The leading distance that reaches over all of it.
    fn reach(&self) -> u64 {
        leading(&self.from.0) ^ leading(&self.to.0)
    }
}

/// A cell that is being looked after.
#[derive(Debug, Clone)]
struct Job {
    cell: Cell,
    /// Where to go on; `None` once all chunks were offered.
    next: Option<ChunkId>,
    /// The nodes of the cell, once they are known.
    keepers: Option<Vec<Peer>>,
    ends: Time,
}

/// Chunks that are announced together.
#[derive(Debug, Clone)]
struct Group {
    job: u32,
    chunks: Vec<ChunkId>,
    kept: Vec<u8>,
    /// What keepers know of each: other hosts, and queries.
    told: Vec<Vec<(u8, u16)>>,
    waiting: usize,
}

/// What is under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Publishing {
    jobs: BTreeMap<u32, Job>,
    groups: BTreeMap<u32, Group>,
    next: u32,
    open: usize,
    /// Announcements that may be sent now; below zero what the last group took ahead.
    tokens: i64,
    refilled: Time,
    /// Which job is served next.
    turn: u32,
    at: Time,
}

impl Publishing {
    /// When more is to be done.
    pub(super) fn next(&self, due: Option<Time>) -> Option<Time> {
        if self.jobs.is_empty() { due.map(|due| due.max(self.at)) } else { Some(self.at) }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn refill(&mut self, now: Time) {
        let millis = now.since(self.refilled).as_millis().min(60_000) as u64;
        let more = millis * ANNOUNCEMENTS_PER_SECOND / 1000;
        if more > 0 {
            self.tokens = (self.tokens + more as i64).min(ANNOUNCEMENTS_BURST as i64);
            self.refilled = now;
        }
    }
}

impl Overlay {
    /// Looks after published chunks that are due, as far as the budget of messages allows.
    pub(super) fn publish(&mut self, at: Moment) {
        let is_due = self.published.next_due().is_some_and(|due| due <= at.now);
        if at.now < self.publishing.at || self.publishing.jobs.is_empty() && !is_due {
            return;
        }
        self.publishing.at = at.now + ms(ANNOUNCE_TURN_MS);
        self.publishing.refill(at.now);
        if self.table.is_empty() {
            // Nobody is known yet.
            self.publishing.at = at.now + ms(REPUBLISH_RETRY_MS);
            return;
        }
        self.publishing.jobs.retain(|_, job| job.ends > at.now);
        self.begin_checks(at);
        let after = self.publishing.turn;
        let jobs = &self.publishing.jobs;
        let order: Vec<u32> = jobs.range(after..).chain(jobs.range(..after)).map(|(job, _)| *job).collect();
        for job in order {
            while self.may_announce() && self.announce_next(at, job) {}
            self.publishing.turn = job.wrapping_add(1);
            if !self.may_announce() {
                break;
            }
        }
        self.publishing.jobs.retain(|_, job| job.next.is_some());
    }

    fn may_announce(&self) -> bool {
        self.publishing.tokens > 0
            && self.publishing.open < ANNOUNCEMENTS_OPEN_MAX
            && self.exchanges.has_room()
    }

    /// Looks for the nodes of regions whose chunks are due.
    fn begin_checks(&mut self, at: Moment) {
        let region = density::region(self.network_size());
        let mut taken: BTreeSet<ChunkId> = self.publishing.jobs.values().map(|job| job.cell.from).collect();
        let mut cells = Vec::new();
        for chunk in self.published.due(at.now).take(DUE_LOOKED_MAX) {
            let cell = Cell::of(&chunk, region);
            if taken.len() >= CHECKS_MAX {
                break;
            }
            if taken.insert(cell.from) {
                cells.push((chunk, cell));
            }
        }
        for (chunk, cell) in cells {
            let goal = Goal::Nodes;
            let wanted = Wanted { key: chunk.0, goal, manner: Manner::Near, quiet: true };
            let reach = cell.reach();
            let number = self.publishing.number();
            let ends = at.now + ms(CHECK_MS_MAX);
            self.publishing.jobs.insert(number, Job { cell, next: Some(cell.from), keepers: None, ends });
            let style = Style { whole: true, ..self.style(reach) };
            if self.begin(at, wanted, For::Check(number), style).is_none() {
                self.publishing.jobs.remove(&number);
                break;
            }
        }
    }

    /// A lookup found who is around some published chunks.
    pub(super) fn checked(&mut self, at: Moment, job: u32, nearest: Vec<Peer>) {
        if nearest.is_empty() {
            // Nobody is there; its chunks are due all the same.
            self.publishing.jobs.remove(&job);
            self.publishing.at = at.now + ms(REPUBLISH_RETRY_MS);
        }
        if let Some(job) = self.publishing.jobs.get_mut(&job) {
            job.keepers = Some(nearest);
        }
    }

    /// Gives the nodes of a region this node's records of the next few chunks there. Whether there may be more.
    fn announce_next(&mut self, at: Moment, number: u32) -> bool {
        let Some(job) = self.publishing.jobs.get(&number) else { return false };
        let (Some(next), Some(keepers)) = (job.next, &job.keepers) else { return false };
        let (keepers, to) = (keepers.clone(), job.cell.to);
        if keepers.is_empty() {
            self.publishing.jobs.remove(&number);
            return false;
        }
        let (chunks, next) = self.published.take(at.now, next..=to, ANNOUNCED_CHUNKS_MAX, &mut self.rng);
        if let Some(job) = self.publishing.jobs.get_mut(&number) {
            job.next = next;
        }
        // Where few are due among many, the rest is looked through in the next turns.
        !chunks.is_empty() && {
            self.announce(at, number, chunks, &keepers);
            next.is_some()
        }
    }

    pub(super) fn announce(&mut self, at: Moment, job: u32, chunks: Vec<ChunkId>, keepers: &[Peer]) {
        let region = density::region(self.network_size());
        let records: Vec<(ChunkId, Record)> =
            chunks.iter().map(|chunk| (*chunk, self.own_record(at, chunk))).collect();
        let mut offers: BTreeMap<NodeId, (Peer, u16)> = BTreeMap::new();
        for (index, (chunk, record)) in records.iter().enumerate() {
            let near = |id: &NodeId| leading(&distance(&chunk.0, &id.0));
            // This node is of the region itself, if it is.
            if near(&self.own.id) <= region {
                self.keep(at, *chunk, record, &self.own.clone(), true);
            }
            let mut nearest: Vec<&Peer> = keepers.iter().collect();
            nearest.sort_unstable_by_key(|peer| distance(&chunk.0, &peer.id.0));
            let inside = nearest.iter().filter(|peer| near(&peer.id) <= region).count();
            nearest.truncate(inside.clamp(REGION_NODES / 2, REGION_NODES_MAX));
            if let Some(health) = self.published.health_mut(chunk) {
                (health.kept, health.waiting) = (0, nearest.len() as u16);
            }
            if nearest.is_empty() {
                self.published.again(chunk, at.now + ms(REPUBLISH_RETRY_MS));
            }
            for peer in nearest {
                offers.entry(peer.id).or_insert((*peer, 0)).1 |= 1 << index;
            }
        }
        let group = self.publishing.number();
        let (kept, told) = (vec![0; chunks.len()], vec![Vec::new(); chunks.len()]);
        let waiting = offers.len();
        if waiting == 0 {
            return;
        }
        self.publishing.tokens = self.publishing.tokens.saturating_sub(waiting as i64);
        self.publishing.groups.insert(group, Group { job, chunks, kept, told, waiting });
        self.publishing.open += waiting;
        for (peer, chunks) in offers.into_values() {
            let own = records.iter().enumerate().filter(|(index, _)| chunks & 1 << index != 0);
            let announcement = Announcement::of(own.map(|(_, record)| record));
            let purpose = Purpose::Announce { group, chunks };
            let asked = announcement
                .is_some_and(|announcement| self.ask(at, peer, None, purpose, Body::Announce(announcement)));
            if !asked {
                self.announced(at, &peer.id, group, chunks, None);
            }
        }
    }

    /// What became of one announcement; `None` when it was not answered as it should be.
    pub(super) fn announced(
        &mut self,
        at: Moment,
        keeper: &NodeId,
        number: u32,
        chunks: u16,
        said: Option<&[Keeping]>,
    ) {
        let Some(group) = self.publishing.groups.get_mut(&number) else {
            return self.unannounced(at, number);
        };
        let indices = (0..group.chunks.len()).filter(|index| chunks & 1 << index != 0);
        let said = said.filter(|said| said.len() == chunks.count_ones() as usize);
        for (index, said) in indices.zip(said.unwrap_or_default()) {
            let kept = &mut group.kept[index];
            *kept = kept.saturating_add(u8::from(said.verdict == Verdict::Kept));
            group.told[index].push((said.hosts, said.queries));
        }
        if said.is_none()
            && let Some(keepers) =
                self.publishing.jobs.get_mut(&group.job).and_then(|job| job.keepers.as_mut())
        {
            // Its next chunks are not worth the wait.
            keepers.retain(|peer| peer.id != *keeper);
        }
        self.unannounced(at, number);
    }

    /// One announcement less is waited for. By itself: it was not sent, and its keeper is offered the next chunks.
    pub(super) fn unannounced(&mut self, at: Moment, number: u32) {
        self.publishing.open = self.publishing.open.saturating_sub(1);
        let Some(group) = self.publishing.groups.get_mut(&number) else { return };
        group.waiting = group.waiting.saturating_sub(1);
        if group.waiting == 0
            && let Some(group) = self.publishing.groups.remove(&number)
        {
            self.end_group(at, group);
        }
    }

    fn end_group(&mut self, at: Moment, group: Group) {
        for ((chunk, kept), told) in group.chunks.into_iter().zip(group.kept).zip(group.told) {
            let Some(health) = self.published.health_mut(&chunk) else { continue };
            let hosts = median(told.iter().map(|(hosts, _)| *hosts));
            let queries = median(told.iter().map(|(_, queries)| *queries));
            *health = super::publish::Health { hosts, kept, waiting: 0, queries };
            if kept == 0 {
                self.published.again(&chunk, at.now + ms(REFUSED_RETRY_MS));
            }
            self.emit(Effect::Checked { chunk, hosts, kept, queries });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cell_holds_the_regions_of_all_its_chunks(chunk: [u8; 20], other: [u8; 20], region: u64) {
            let cell = Cell::of(&ChunkId(chunk), region);
            prop_assert!((cell.from..=cell.to).contains(&ChunkId(chunk)));
            // Whatever is of the region of a chunk of the cell is within its reach from any other chunk of it.
            let inside = ChunkId(std::array::from_fn(|at| cell.from.0[at] | other[at] & (cell.from.0[at] ^ cell.to.0[at])));
            prop_assert!((cell.from..=cell.to).contains(&inside));
            let mut near = inside.0;
            let moved = (leading(&near) ^ region).to_be_bytes();
            near[..8].copy_from_slice(&moved);
            prop_assert!(leading(&distance(&near, &chunk)) <= cell.reach());
        }
    }
}

//! Who may be asked for what: friends for everything, a *source* only for the chunks of the jobs for which it was found.
//! Whoever provides one chunk of what everybody reads would else learn what a node gets beside it.
//!
//! A source is among those that do not have a chunk, where it may not be asked for it.

use std::collections::BTreeSet;

use super::{CHUNK_SLICES_MAX, Chunk, Fetch, SliceState, Target};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, Time};
use crate::service::PeerId;

impl Fetch {
    /// Asks for slices of a chunk for a job (bit i of `mask` = slice i). Slices already asked for are not asked
    /// twice; each is handed out once.
    pub fn want(&mut self, job: JobId, target: Target, mask: u16) {
        let order = self.next_order;
        let chunk = self.chunks.entry(target).or_insert_with(|| {
            self.next_order += 1;
            Chunk {
                target,
                order,
                list: None,
                slices: [SliceState::Unwanted; CHUNK_SLICES_MAX],
                jobs: BTreeSet::new(),
                without: self.sources.keys().copied().collect(),
                given_up_at: None,
            }
        });
        if chunk.jobs.insert(job) {
            // Those that were free to be asked before this job have said what they have.
            let free =
                |jobs: &BTreeSet<JobId>| jobs.contains(&job) && jobs.intersection(&chunk.jobs).count() == 1;
            for (peer, _) in self.sources.iter().filter(|(_, jobs)| free(jobs)) {
                if chunk.without.remove(peer) {
                    self.hopeless.retain(|(_, one)| *one != target);
                }
            }
        }
        for index in 0..chunk.target.slices() as usize {
            if mask >> index & 1 == 1 && chunk.slices[index] == SliceState::Unwanted {
                chunk.slices[index] = SliceState::Missing;
            }
        }
        if chunk.count(SliceState::Missing) > 0 {
            self.open.insert((chunk.order, target));
        }
        self.give_up_if_nobody_has(target);
    }

    /// The jobs that want something of a chunk.
    pub fn jobs_of(&self, id: &ChunkId) -> BTreeSet<JobId> {
        self.named(id).flat_map(|(_, chunk)| chunk.jobs.iter().copied()).collect()
    }

    /// A peer can be asked from now on, for chunks of these jobs, beside those for which it could be before. A peer that
    /// can be asked for everything stays one.
    pub fn source_up(&mut self, now: Time, peer: PeerId, jobs: &BTreeSet<JobId>) {
        let is_new = !self.peers.is_known(peer);
        if !is_new && !self.sources.contains_key(&peer) {
            return;
        }
        self.peer_counts(now, peer);
        let before = self.sources.entry(peer).or_default();
        for chunk in self.chunks.values_mut() {
            let was_free = !before.is_disjoint(&chunk.jobs);
            let is_free = was_free || !jobs.is_disjoint(&chunk.jobs);
            if is_new && !is_free {
                chunk.without.insert(peer);
            } else if is_free && !was_free {
                chunk.without.remove(&peer);
            }
        }
        before.extend(jobs);
    }
}

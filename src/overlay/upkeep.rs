//! What a node does by itself: probes, looks around, tries who was lost, looks after what it publishes.

use super::exchange::Overdue;
use super::place::sharing;
use super::types::{Goal, Manner, Moment, Wanted, ms};
use super::{For, Overlay};
use crate::limits::{HASTE_TURN_MS, LOST_TURN_MS, NEIGHBOURS_MS, PROBE_TURN_MS, PROBES_MAX};

impl Overlay {
    /// Questions whose time has come.
    pub(super) fn overdue(&mut self, at: Moment) {
        while let Some(overdue) = self.exchanges.overdue(at.now) {
            match overdue {
                Overdue::Late(open) => self.late(at, &open),
                Overdue::Failed(open) => self.failed(at, &open),
            }
        }
    }

    /// One turn of what is done from time to time.
    pub(super) fn turn(&mut self, at: Moment) {
        let hasty = at.now < self.hasty_until;
        let pause = if hasty { HASTE_TURN_MS } else { PROBE_TURN_MS };
        self.turn_at = at.now + ms(pause + self.rng.below(pause / 8));
        self.records.expire(at.unix_s());
        self.probe_some(at, hasty);
        if at.now >= self.lost_at {
            self.lost_at = at.now + ms(LOST_TURN_MS + self.rng.below(LOST_TURN_MS / 4));
            self.peers.age(at.unix_s());
            let table = &self.table;
            if let Some(lost) = self.peers.draw(&mut self.rng, |id| table.get(id).is_some()) {
                self.probe(at, lost);
            }
        }
        self.look_around(at);
        self.check_published(at);
    }

    fn probe_some(&mut self, at: Moment, hasty: bool) {
        let mut under_way = self.exchanges.probes();
        let per_turn = if hasty { PROBES_MAX } else { 2 };
        for _ in 0..per_turn {
            if under_way >= PROBES_MAX || !self.exchanges.has_room() {
                break;
            }
            let candidate = self.candidates.take(&mut self.rng);
            let Some(peer) = candidate.filter(|peer| self.table.wants(peer)) else { break };
            self.probe(at, peer);
            under_way += 1;
        }
        let stalest = self.table.stalest(at.now).map(|entry| entry.peer);
        if let Some(peer) = stalest.filter(|_| under_way < PROBES_MAX && self.exchanges.has_room()) {
            self.probe(at, peer);
        }
    }

    fn look_around(&mut self, at: Moment) {
        if self.table.is_empty() || !self.has_room_for_lookup() {
            return;
        }
        let wanted = |key| Wanted { key, goal: Goal::Nodes, manner: Manner::Near, quiet: true };
        if at.now >= self.neighbours_at {
            // Whoever entered with many others hears of them in the first minutes; later, neighbours change slowly.
            let pause = self.neighbours_pause_ms;
            self.neighbours_pause_ms = (2 * pause).min(NEIGHBOURS_MS);
            self.neighbours_at = at.now + ms(pause + self.rng.below(pause / 4));
            self.begin(at, wanted(self.own.id.0), For::Table);
        } else if let Some(bits) = self.table.unlooked(at.now) {
            let random = self.rng.bytes();
            self.begin(at, wanted(sharing(&self.own.id.0, bits, random)), For::Table);
        }
    }
}

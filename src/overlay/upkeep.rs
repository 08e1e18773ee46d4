//! What a node does by itself: probes, looks around, tries who was lost, looks after what it publishes.

use super::exchange::Overdue;
use super::place::sharing;
use super::types::{Goal, Manner, Moment, Wanted, ms};
use super::{For, Overlay};
use crate::limits::{
    HASTE_TURN_MS, LOST_TURN_MS, NEIGHBOURS_MS, PROBE_TURN_MS, PROBES_MAX, SURVEY_HASTE_MS, SURVEY_MS,
};

/// Buckets so near the top hold most of all places.
const SURVEYED_BITS: u32 = 3;

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
                self.probe(at, lost, None);
            }
        }
        self.look_around(at);
    }

    fn probe_some(&mut self, at: Moment, hasty: bool) {
        let mut under_way = self.exchanges.probes();
        let per_turn = if hasty { PROBES_MAX } else { 2 };
        // Those that are not wanted any more, or may not be tried, take nobody's turn.
        let until = under_way + per_turn;
        while under_way < until {
            if under_way >= PROBES_MAX || !self.exchanges.has_room() {
                break;
            }
            let Some((peer, teller)) = self.candidates.take(&mut self.rng) else { break };
            if self.table.wants(&peer) {
                // Of itself it says where its session came from.
                let teller = Some(teller).filter(|teller| *teller != peer.id);
                under_way += usize::from(self.probe(at, peer, teller));
            }
        }
        let stalest = self.table.stalest(at.now).map(|entry| entry.peer);
        if let Some(peer) = stalest.filter(|_| under_way < PROBES_MAX && self.exchanges.has_room()) {
            self.probe(at, peer, None);
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
            self.begin_usual(at, wanted(self.own.id.0), For::Table);
        } else if at.now >= self.survey_at {
            let pause = if self.density.is_known() { SURVEY_MS } else { SURVEY_HASTE_MS };
            self.survey_at = at.now + ms(pause + self.rng.below(pause / 4));
            let anywhere = self.rng.bytes();
            self.begin_usual(at, wanted(anywhere), For::Survey);
        } else if let Some(bits) = self.table.unlooked(at.now) {
            let random = self.rng.bytes();
            // Whoever crowds around this node is near it; the places far from it are drawn from most of all.
            let purpose = if bits < SURVEYED_BITS { For::Survey } else { For::Table };
            self.begin_usual(at, wanted(sharing(&self.own.id.0, bits, random)), purpose);
        }
    }
}

//! The line's rate, measured where the operator does not say it (docs/shaping.md §6).

use super::Node;
use crate::base::Time;
use crate::shape::Round;

impl Node {
    /// Looks at what arrived, and how long it took.
    pub(super) fn measure_line(&mut self, now: Time) {
        if self.shaping.line_at().is_none_or(|at| at > now) {
            return;
        }
        let mut round = Round::default();
        for peer in self.peers.values_mut() {
            let stats = peer.connection.stats();
            let gone = stats.in_flight + stats.lost_bytes;
            let arrived = stats.sent_bytes.saturating_sub(gone);
            let new = arrived.saturating_sub(std::mem::replace(&mut peer.arrived, arrived));
            round.arrived += new;
            round.streams +=
                stats.sent_bytes.saturating_sub(std::mem::replace(&mut peer.sent_seen, stats.sent_bytes));
            if new > 0 && stats.in_flight > 0 {
                let wait = stats.rtt.min(stats.rtt_latest).saturating_sub(stats.rtt_min);
                round.wait = Some(round.wait.map_or(wait, |least| least.min(wait)));
            }
        }
        if self.shaping.line_round(now, round) {
            // What was promised may be more than it carries now.
            let promises = &self.shaping.promises;
            let has = self.peers.iter().filter(|(_, peer)| promises.has(&peer.card.node_id()));
            let those: Vec<_> = has.map(|(id, _)| *id).collect();
            those.into_iter().for_each(|id| self.know(now, id));
        }
    }
}

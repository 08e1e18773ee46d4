//! What none of the peers has: given up, or kept for a while when others are expected that may have it.

use super::{Event, Fetch, Target};
use crate::base::{ChunkId, Time};
use crate::service::PeerId;

impl Fetch {
    /// Says whether others may come that have what the peers do not have, and until when that is waited for at most;
    /// `None`: what nobody has is given up at once, as at the start. To be called when others, or peers, come or go.
    pub fn expect_others(&mut self, until: Option<Time>) {
        let news = until.is_some() != self.others_until.is_some();
        self.others_until = until;
        if std::mem::take(&mut self.changed) || news {
            self.hopeless.clear();
            self.give_up_what_nobody_has();
        }
    }

    /// Whether a chunk began to wait for others since the last question.
    pub fn is_short(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    /// Whether a peer was asked for something that has not come.
    pub fn is_asked(&self, peer: PeerId) -> bool {
        self.peers.is_asked(peer)
    }

    /// Bytes that come per second, from all peers that were asked for something, as far as that was measured.
    pub fn rate(&self) -> f64 {
        self.peers.rate()
    }

    /// Chunks that are wanted and that no peer has, the first to be given up in front, at most `most`; without any peer,
    /// those wanted longest.
    pub fn lacking(&self, most: usize) -> Vec<ChunkId> {
        if self.peers.honest() == 0 {
            return self.open.iter().take(most).map(|(_, target)| target.id).collect();
        }
        self.hopeless.iter().take(most).map(|(_, target)| target.id).collect()
    }

    /// Gives up what nobody has, although others are waited for.
    pub fn give_up_lacking(&mut self, id: &ChunkId) {
        let alone = self.peers.honest() == 0;
        let of = |target: &&Target| target.id == *id;
        let those: Vec<Target> = match alone {
            true => self.open.iter().map(|(_, target)| target).filter(of).copied().collect(),
            false => self.hopeless.iter().map(|(_, target)| target).filter(of).copied().collect(),
        };
        for target in those {
            self.hopeless.retain(|(_, one)| *one != target);
            self.give_up(target);
        }
    }

    /// When every peer that could be asked has said no, the caller is told, or others are waited for.
    pub(super) fn give_up_if_nobody_has(&mut self, id: Target) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        if self.peers.honest() == 0 || chunk.without.len() < self.peers.honest() {
            return;
        }
        let Some(until) = self.others_until else { return self.give_up(id) };
        self.short |= chunk.given_up_at.is_none();
        let until = *chunk.given_up_at.get_or_insert(until);
        self.hopeless.insert((until, id));
        self.next_check = Some(self.next_check.map_or(until, |at| at.min(until)));
    }

    pub(super) fn give_up_what_nobody_has(&mut self) {
        let ids: Vec<_> = self.chunks.keys().copied().collect();
        ids.into_iter().for_each(|id| self.give_up_if_nobody_has(id));
    }

    fn give_up(&mut self, id: Target) {
        self.forget(&id);
        self.events.push_back(Event::Unavailable { target: id });
    }

    /// Gives up what has waited for others for long enough.
    pub(super) fn give_up_overdue(&mut self, now: Time) {
        while let Some(&(at, id)) = self.hopeless.first()
            && at <= now
        {
            self.hopeless.pop_first();
            self.give_up(id);
        }
    }
}

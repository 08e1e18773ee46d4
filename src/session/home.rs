//! What a session's home knows of its further lanes: which there are, which were asked for, what is to be said
//! (docs/protocol/session.md §8). [`super::lanes`] acts on it.

use std::time::Duration;

use super::moves::Moves;
use super::punch::Relayed;
use super::types::SessionKey;
use crate::base::Time;
use crate::crypto::{Secret, Suite};
use crate::limits::{LANE_RETRY_MS, LANE_RETRY_MS_MAX, LANE_SEAT_MS, LANE_TRIES_MAX};
use crate::wire::control::Control;

/// Refusals that wait to be said at most; the asker asks again.
const REFUSALS_MAX: usize = 4;

/// What a session's home knows of its further lanes.
pub(super) struct Lanes {
    pub(super) secret: Secret,
    pub(super) suite: Suite,
    /// Numbers of ours that were used, and the highest of the peer's. Never again: a number means keys.
    used: u16,
    pub(super) highest_theirs: u16,
    pub(super) list: Vec<Entry>,
    refusals: Vec<u16>,
    /// What the peer opens is used here and on no other shard.
    pub(super) stay: bool,
    /// While the session's path leads through a peer, and after that.
    pub(super) relayed: Option<Box<Relayed>>,
    /// None before the session first moved.
    pub(super) moves: Option<Box<Moves>>,
}

pub(super) struct Entry {
    pub(super) number: u16,
    pub(super) shard: u8,
    pub(super) state: State,
    /// Whether the peer is to be told.
    pub(super) say: bool,
}

pub(super) enum State {
    /// We asked the peer for it.
    Asked { wanted: Wanted, since: Time, again_at: Time, tries: u8 },
    /// The peer asked for it, and its shard has not answered.
    Seating { since: Time },
    /// In use.
    Seated { key: SessionKey, cid: u64, port: u16 },
}

/// What a shard wants a lane for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// What it knows it by.
    pub(super) awaited: SessionKey,
    /// The connection id that it will have on it.
    pub(super) cid: u64,
    /// Its port.
    pub(super) port: u16,
}

impl Lanes {
    pub(super) fn new(secret: Secret, suite: Suite) -> Self {
        Self {
            secret,
            suite,
            used: 0,
            highest_theirs: 0,
            list: Vec::new(),
            refusals: Vec::new(),
            stay: false,
            relayed: None,
            moves: None,
        }
    }

    /// The next number of ours: even for the initiator, odd for the responder, from 2 on.
    pub(super) fn next_number(&mut self, initiator: bool) -> Option<u16> {
        self.used = self.used.checked_add(1)?;
        self.used.checked_mul(2)?.checked_add(u16::from(!initiator))
    }

    pub(super) fn count(&self, initiator: bool, ours: bool) -> usize {
        let parity = u16::from(initiator != ours);
        self.list.iter().filter(|entry| entry.number % 2 == parity).count()
    }

    /// Takes our lanes of a shard.
    pub(super) fn take_ours(&mut self, initiator: bool, shard: u8) -> Vec<Entry> {
        let parity = u16::from(!initiator);
        self.list.extract_if(.., |entry| entry.shard == shard && entry.number % 2 == parity).collect()
    }

    /// Takes lanes that the peer opened and another shard than this has.
    pub(super) fn take_theirs(&mut self, initiator: bool, here: u8) -> Vec<Entry> {
        let parity = u16::from(initiator);
        self.list.extract_if(.., |entry| entry.shard != here && entry.number % 2 == parity).collect()
    }

    /// Whether the peer is being asked for a lane that a shard wants.
    pub(super) fn is_asked(&self, shard: u8, wants: SessionKey) -> bool {
        self.list.iter().any(|entry| {
            entry.shard == shard
                && matches!(entry.state, State::Asked { wanted, .. } if wanted.awaited == wants)
        })
    }

    /// The peer is told that it does not get a lane, unless there is much of that to be told already.
    pub(super) fn refuse(&mut self, number: u16) {
        if self.refusals.len() < REFUSALS_MAX && !self.refusals.contains(&number) {
            self.refusals.push(number);
        }
    }

    pub(super) fn find(&mut self, number: u16) -> Option<&mut Entry> {
        self.list.iter_mut().find(|entry| entry.number == number)
    }

    pub(super) fn take(&mut self, number: u16) -> Option<Entry> {
        let at = self.list.iter().position(|entry| entry.number == number)?;
        Some(self.list.swap_remove(at))
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let asked = self.list.iter().filter_map(|entry| match entry.state {
            State::Asked { again_at, .. } => Some(again_at),
            State::Seating { since } => Some(since + Duration::from_millis(LANE_SEAT_MS)),
            State::Seated { .. } => None,
        });
        asked.min()
    }

    /// Hands `put` what is to be said, until it has no room; false when something is left.
    pub(super) fn say(&mut self, mut put: impl FnMut(&Control<'_>) -> bool) -> bool {
        while let Some(&lane) = self.refusals.last() {
            if !put(&Control::LaneRefused { lane }) {
                return false;
            }
            self.refusals.pop();
        }
        for entry in self.list.iter_mut().filter(|entry| entry.say) {
            let lane = entry.number;
            let control = match entry.state {
                State::Asked { wanted: Wanted { cid, port, .. }, .. } => {
                    Control::LaneOpen { lane, cid, port }
                }
                State::Seated { cid, port, .. } => Control::LaneReady { lane, cid, port },
                State::Seating { .. } => continue,
            };
            if !put(&control) {
                return false;
            }
            entry.say = false;
        }
        true
    }

    /// Gives up what a shard does not seat, and asks again for what the peer did not answer; returns those who waited for too long, and since when.
    pub(super) fn due(&mut self, now: Time) -> Vec<(u8, SessionKey, Time)> {
        let mut over = Vec::new();
        let mut unseated = Vec::new();
        self.list.retain_mut(|entry| {
            if let State::Seating { since } = entry.state
                && now.since(since) >= Duration::from_millis(LANE_SEAT_MS)
            {
                // The message to its shard, or the answer, was lost.
                unseated.push(entry.number);
                return false;
            }
            let State::Asked { wanted, since, again_at, tries } = &mut entry.state else { return true };
            if *again_at > now {
                return true;
            }
            *tries += 1;
            if *tries == LANE_TRIES_MAX {
                over.push((entry.shard, wanted.awaited, *since));
                return false;
            }
            let wait = (LANE_RETRY_MS << *tries).min(LANE_RETRY_MS_MAX);
            *again_at = now + Duration::from_millis(wait);
            entry.say = true;
            true
        });
        unseated.into_iter().for_each(|number| self.refuse(number));
        over
    }

    /// Whether there is anything to say.
    pub(super) fn has_news(&self) -> bool {
        !self.refusals.is_empty() || self.list.iter().any(|entry| entry.say)
    }
}

//! Nodes that leave, this one among them (docs/protocol/intents.md §4): nobody is led to one that goes in a moment, and what is
//! said under this node's name does not outlive its being there.

use std::collections::BTreeMap;

use super::Overlay;
use super::place::Key;
use super::types::{Moment, Outcome, Peer, ms};
use crate::base::{ChunkId, NodeId, Time};
use crate::limits::{
    EXCHANGE_MS_MAX, GRANT_S_MIN, HANDOVER_ANNOUNCED_MAX, LEAVERS_MAX, LEAVING_SOON_MS, LEFT_MS,
};

/// Peers that said when they leave; at most [`LEAVERS_MAX`], about 40 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Leaving {
    by: BTreeMap<NodeId, Word>,
}

/// What one of them said.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// When it leaves.
    at: Time,
    /// When it said so.
    said: Time,
    /// Since when it has had a session that it did not say it on: it tells everybody whom it talks to.
    silent: Option<Time>,
}

impl Leaving {
    /// A peer leaves then, or does not. It is its own word, and to its own disadvantage.
    pub fn set(&mut self, now: Time, id: NodeId, at: Option<Time>) {
        let Some(at) = at else {
            self.by.remove(&id);
            return;
        };
        if self.by.len() >= LEAVERS_MAX && !self.by.contains_key(&id) {
            // Who left long ago is in nobody's table any more.
            self.by.retain(|_, word| now.since(word.at) < ms(LEAVING_SOON_MS));
        }
        // Else whoever leaves last does: it is no matter of now, and nobody fills this with those who leave in a month.
        if self.by.len() >= LEAVERS_MAX && !self.by.contains_key(&id) {
            let last = self.by.iter().max_by_key(|(_, word)| word.at).map(|(id, word)| (*id, word.at));
            match last.filter(|(_, last)| *last > at) {
                Some((last, _)) => self.by.remove(&last),
                None => return,
            };
        }
        self.by.insert(id, Word { at, said: now, silent: None });
    }

    /// Whether it has left, or leaves so soon that nobody is to be led to it.
    pub fn is_soon(&self, id: &NodeId, now: Time) -> bool {
        self.by.get(id).is_some_and(|word| word.at <= now + ms(LEAVING_SOON_MS))
    }

    /// Whether its time has come.
    pub fn has_left(&self, id: &NodeId, now: Time) -> bool {
        self.by.get(id).is_some_and(|word| word.at <= now)
    }

    /// A peer has a (new) session, on which it has said nothing.
    pub fn came(&mut self, id: &NodeId, now: Time) {
        if let Some(word) = self.by.get_mut(id).filter(|word| now.since(word.said) >= ms(EXCHANGE_MS_MAX)) {
            word.silent.get_or_insert(now);
        }
    }

    /// A peer is there: its time is long past, or it went before that and says nothing of leaving now, and so it came back.
    pub fn is_here(&mut self, id: &NodeId, now: Time) {
        let long = |since: Time| now.since(since) >= ms(LEFT_MS);
        if self.by.get(id).is_some_and(|word| long(word.at) || word.silent.is_some_and(long)) {
            self.by.remove(id);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }
}

impl Overlay {
    /// A peer says that it leaves then, or that it does not.
    pub fn set_leaving(&mut self, at: Moment, id: &NodeId, leaves: Option<Time>) {
        self.leaving.set(at.now, *id, leaves);
    }

    /// Whether a peer leaves soon, or has left.
    pub fn leaves_soon(&self, id: &NodeId, now: Time) -> bool {
        self.leaving.is_soon(id, now)
    }

    /// This node leaves then (seconds since the Unix epoch), or does not leave. What it provides is announced anew, so that no record
    /// of it leads here afterwards; what comes to about the same as before is none of its business.
    pub fn leave(&mut self, at: Moment, leaves_s: Option<u32>) {
        let is_same = match (self.leaves_s, leaves_s) {
            (Some(old), Some(new)) => {
                (old.saturating_sub(2)..old.saturating_add(GRANT_S_MIN as u32)).contains(&new)
            }
            (old, new) => old == new,
        };
        if is_same {
            return;
        }
        self.leaves_s = leaves_s;
        if self.published.len() <= HANDOVER_ANNOUNCED_MAX {
            self.published.hurry(at.now);
        }
    }

    /// Published chunks that fewer than so many other hosts have, as far as it is known: the most asked for first, at most so many.
    pub fn poor(&self, hosts: u8, most: usize) -> Vec<ChunkId> {
        self.published.poor(hosts, most)
    }

    /// The contacts nearest to a place that stay, at most `count`.
    pub fn nearest_staying(&self, key: &Key, count: usize, now: Time) -> Vec<Peer> {
        let nearest = self.table.nearest(key, count + count.min(8)).into_iter().map(|entry| entry.peer);
        nearest.filter(|peer| !self.leaving.is_soon(&peer.id, now)).take(count).collect()
    }

    /// Nobody who leaves soon is one of a region.
    pub(super) fn without_leavers(&self, now: Time, outcome: Outcome) -> Outcome {
        let Outcome { mut nearest, .. } = outcome;
        nearest.retain(|peer| !self.leaving.is_soon(&peer.id, now));
        Outcome { nearest, ..outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeId {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        NodeId(id)
    }

    #[test]
    fn who_leaves_is_remembered_within_bounds_and_may_take_it_back() {
        let (mut leaving, now) = (Leaving::default(), Time::from_millis(1_000_000));
        let later = now + ms(2 * LEAVING_SOON_MS);
        leaving.set(now, node(1), Some(later));
        assert!(!leaving.is_soon(&node(1), now) && leaving.is_soon(&node(1), now + ms(LEAVING_SOON_MS)));
        assert!(!leaving.has_left(&node(1), now) && leaving.has_left(&node(1), later));
        leaving.set(now, node(1), None);
        assert!(!leaving.is_soon(&node(1), later) && leaving.is_empty());
        leaving.set(now, node(1), Some(now));
        leaving.is_here(&node(1), now + ms(LEFT_MS - 1));
        assert!(leaving.has_left(&node(1), now), "its goodbye may be what was heard");
        leaving.is_here(&node(1), now + ms(LEFT_MS));
        assert!(!leaving.has_left(&node(1), now + ms(LEFT_MS)), "it came back");
        // Found by review: who went and came again before the time that it had named was led to by nobody until then.
        let (again, long) = (now + ms(60_000), now + ms(60_000 + LEFT_MS));
        leaving.set(now, node(1), Some(later));
        leaving.came(&node(1), now + ms(100));
        leaving.is_here(&node(1), long);
        assert!(!leaving.is_empty(), "on the session that it said so on");
        leaving.came(&node(1), again);
        leaving.set(again, node(1), Some(later));
        leaving.is_here(&node(1), long);
        assert!(!leaving.is_empty(), "it says so again");
        leaving.came(&node(1), long);
        leaving.is_here(&node(1), long + ms(LEFT_MS - 1));
        assert!(!leaving.is_empty());
        leaving.is_here(&node(1), long + ms(LEFT_MS));
        assert!(leaving.is_empty(), "it says nothing of it any more");
        for n in 0..2 * LEAVERS_MAX as u32 {
            leaving.set(now, node(n), Some(later));
        }
        assert_eq!(leaving.len(), LEAVERS_MAX);
        // Found by review: those who leave in a month kept everybody else out.
        let (next, month) = (node(u32::MAX - 1), later + ms(30 * 86_400_000));
        leaving.set(now, next, Some(month));
        assert!(!leaving.has_left(&next, month));
        leaving.set(now, next, Some(now + ms(1)));
        assert!(leaving.has_left(&next, now + ms(1)) && leaving.len() == LEAVERS_MAX);
        let much_later = later + ms(2 * LEAVING_SOON_MS);
        leaving.set(much_later, node(u32::MAX), Some(much_later));
        assert_eq!(leaving.len(), 1, "who left long ago makes room");
    }
}

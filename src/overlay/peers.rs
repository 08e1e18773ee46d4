//! Everybody that was ever met: the seeds' account of a node, as far as finding it is concerned. What is here survives
//! a restart once the caller stores it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::rtt::Rtt;
use super::types::Peer;
use crate::base::{NodeId, Rng};
use crate::limits::{PEER_AGE_S_MAX, PEERS_REMEMBERED_MAX};
use crate::wire::overlay::Contact;

/// What is remembered of a peer; about 170 bytes with its place in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its card (key and rank) and last endpoints.
    pub contact: Contact,
    /// When it was met first, seconds since the Unix epoch.
    pub first_s: u32,
    /// When it was heard last.
    pub last_s: u32,
    /// Questions that it answered.
    pub answered: u32,
    /// Questions that it did not, and sessions that did not come about.
    pub errors: u32,
    /// Of those, the ones since it answered last.
    pub errors_since: u16,
    /// Its round trips.
    pub rtt: Rtt,
    /// Bandwidth as seen, bits per second.
    pub bandwidth: u64,
}

impl Known {
    /// Share of questions that it answered, thousandths.
    pub fn availability_milli(&self) -> u32 {
        let all = u64::from(self.answered) + u64::from(self.errors);
        (u64::from(self.answered) * 1000 / all.max(1)) as u32
    }
}

/// The peer database in memory, bounded.
#[derive(Debug, Clone)]
pub struct Peers {
    map: BTreeMap<NodeId, Known>,
    max: usize,
}

impl Peers {
    /// At most `max` of them.
    pub fn new(max: usize) -> Self {
        Self { map: BTreeMap::new(), max: max.clamp(1, PEERS_REMEMBERED_MAX) }
    }

    /// One of them.
    pub fn get(&self, id: &NodeId) -> Option<&Known> {
        self.map.get(id)
    }

    /// All of them, for the store.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.map.iter()
    }

    /// Those behind a place, in order of their places; all of them behind none.
    pub fn behind(&self, place: Option<NodeId>) -> impl Iterator<Item = &Known> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range((from, Bound::Unbounded)).map(|(_, known)| known)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nobody was met.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Brings back what was stored; what does not fit is left out.
    pub fn restore(&mut self, known: impl IntoIterator<Item = Known>) {
        for known in known {
            if self.map.len() < self.max {
                self.map.insert(known.contact.node_id(), known);
            }
        }
    }

    /// A peer answered.
    pub fn met(&mut self, peer: &Peer, unix_s: u32, sample: Option<Duration>, rng: &mut Rng) {
        if !self.map.contains_key(&peer.id) {
            if self.map.len() >= self.max {
                self.forget_one(unix_s, rng);
            }
            let known = Known {
                contact: peer.contact,
                first_s: unix_s,
                last_s: unix_s,
                answered: 0,
                errors: 0,
                errors_since: 0,
                rtt: Rtt::default(),
                bandwidth: 0,
            };
            self.map.insert(peer.id, known);
        }
        if let Some(known) = self.map.get_mut(&peer.id) {
            known.contact = peer.contact;
            known.last_s = known.last_s.max(unix_s);
            known.answered = known.answered.saturating_add(1);
            known.errors_since = 0;
            sample.into_iter().for_each(|sample| known.rtt.update(sample));
        }
    }

    /// A peer that was met did not answer.
    pub fn missed(&mut self, id: &NodeId) {
        if let Some(known) = self.map.get_mut(id) {
            known.errors = known.errors.saturating_add(1);
            known.errors_since = known.errors_since.saturating_add(1);
        }
    }

    /// What the caller measured.
    pub fn set_bandwidth(&mut self, id: &NodeId, bandwidth: u64) {
        if let Some(known) = self.map.get_mut(id) {
            known.bandwidth = bandwidth;
        }
    }

    /// Takes out those of which nothing was heard for too long.
    pub fn age(&mut self, unix_s: u32) {
        self.map.retain(|_, known| known.last_s.saturating_add(PEER_AGE_S_MAX) >= unix_s);
    }

    /// Somebody to try again, not one that `skip` names: of a few drawn, who failed least since it was heard.
    pub fn draw(&self, rng: &mut Rng, skip: impl Fn(&NodeId) -> bool) -> Option<Peer> {
        let drawn = self.sample(rng).filter(|(id, _)| !skip(id));
        let best = drawn.min_by_key(|(_, known)| (known.errors_since, u32::MAX - known.last_s));
        best.map(|(id, known)| Peer { id: *id, contact: known.contact })
    }

    fn sample(&self, rng: &mut Rng) -> impl Iterator<Item = (&NodeId, &Known)> {
        let from = NodeId(rng.bytes());
        self.map.range(from..).chain(self.map.range(..from)).take(8)
    }

    /// Makes room: of a few drawn, who is least worth remembering.
    fn forget_one(&mut self, unix_s: u32, rng: &mut Rng) {
        let worth = |known: &Known| {
            // An hour of silence weighs as much as a failure.
            let silence = unix_s.saturating_sub(known.last_s) / 3600;
            u32::from(known.errors_since) + silence
        };
        let worst = self.sample(rng).max_by_key(|(_, known)| (worth(known), u32::MAX - known.answered));
        if let Some(id) = worst.map(|(id, _)| *id) {
            self.map.remove(&id);
        }
    }
}

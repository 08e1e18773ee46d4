//! One bucket: peers at one distance, the better ones before the others.

use std::cmp::Reverse;
use std::time::Duration;

use super::rtt::Rtt;
use super::site::crowd;
use super::types::{Peer, Standing, ms};
use crate::base::{NodeId, Time};
use crate::limits::{
    BUCKET_CONTACTS_MAX, BUCKET_OLDEST_KEPT, BUCKET_PER_NETWORK_MAX, BUCKET_PER_SITE_MAX, BUCKET_SPARES_MAX,
};

/// A peer that answered a question of ours.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Who.
    pub peer: Peer,
    /// Work bound to its identity.
    pub rank: u8,
    /// Questions in a row that it left unanswered.
    pub failures: u8,
    /// When it answered first.
    pub since: Time,
    /// When it was last heard.
    pub heard: Time,
    /// Its round trips.
    pub rtt: Rtt,
    /// What the accounts say of it.
    pub standing: Standing,
}

/// How good a contact is; more is better. The seeds' order: contribution, payment, rank, age, latency, bandwidth. All
/// but the rank in powers of two, so that what is about equal leaves the word to what comes next.
pub type Worth = (u32, u32, u8, u32, Reverse<u32>, u32);

impl Entry {
    /// A peer that has just answered.
    pub fn new(peer: Peer, now: Time) -> Self {
        let rank = u8::try_from(peer.contact.card.rank()).unwrap_or(u8::MAX);
        let standing = Standing::default();
        Self { peer, rank, failures: 0, since: now, heard: now, rtt: Rtt::default(), standing }
    }

    /// Its place in the order.
    pub fn worth(&self, now: Time) -> Worth {
        let size = |n: u64| u64::BITS - n.leading_zeros();
        let minutes = now.since(self.since).as_secs() / 60;
        let latency = self.rtt.smoothed().unwrap_or(Duration::from_secs(1)).as_millis();
        let latency = size(u64::try_from(latency).unwrap_or(u64::MAX));
        let own = &self.standing;
        let (contributed, paid) = (size(own.contributed), size(own.paid));
        (contributed, paid, self.rank, size(minutes), Reverse(latency), size(own.bandwidth))
    }
}

/// What became of a peer that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It was there.
    Known,
    /// It is new in the table.
    Added,
    /// It waits for a place.
    Spare,
    /// Its network has all the places that one may have.
    Crowded,
    /// Its rank or its place's work is below the floor, or it is this node itself.
    Unfit,
    /// The bucket has better ones.
    Full,
}

/// Whether one network has all the places among these that it may have.
fn is_crowded(entry: &Entry, others: &[Entry], open: bool) -> bool {
    let others = others.iter().filter(|other| other.peer.id != entry.peer.id);
    let (site, network) = crowd(&entry.peer.contact, others.map(|other| &other.peer.contact), open);
    site >= BUCKET_PER_SITE_MAX || network >= BUCKET_PER_NETWORK_MAX
}

/// Peers at one distance.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    entries: Vec<Entry>,
    spares: Vec<Entry>,
    /// When a place in it was looked up last.
    pub looked: Option<Time>,
}

impl Bucket {
    /// Those in use.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those that wait.
    pub fn spares(&self) -> &[Entry] {
        &self.spares
    }

    /// One of either.
    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut Entry> {
        self.entries.iter_mut().chain(&mut self.spares).find(|entry| entry.peer.id == *id)
    }

    /// Whether another is of this one's network more often than may be.
    pub fn is_crowded_by(&self, entry: &Entry, open: bool) -> bool {
        is_crowded(entry, &self.entries, open)
    }

    /// Whether a peer of this rank would find a place, or one to wait at.
    pub fn wants(&self, rank: u8) -> bool {
        self.entries.len() < BUCKET_CONTACTS_MAX
            || self.spares.len() < BUCKET_SPARES_MAX
            || self.entries.iter().any(|entry| entry.rank < rank || entry.failures > 0)
    }

    /// Takes in a peer that is new, where there is a place. `open` as in [`super::site::Site::of`].
    pub fn admit(&mut self, entry: Entry, now: Time, open: bool) -> Admission {
        if is_crowded(&entry, &self.entries, open) {
            return Admission::Crowded;
        }
        if self.entries.len() < BUCKET_CONTACTS_MAX {
            self.entries.push(entry);
            return Admission::Added;
        }
        let Some(worst) = self.displaceable(now) else { return self.wait(entry, now, open) };
        let other = &self.entries[worst];
        if (other.failures > 0, other.failures) > (entry.failures > 0, entry.failures)
            || entry.worth(now) > other.worth(now)
        {
            let displaced = std::mem::replace(&mut self.entries[worst], entry);
            self.wait(displaced, now, open);
            return Admission::Added;
        }
        self.wait(entry, now, open)
    }

    /// The least of those that are not among the oldest: whoever mines rank displaces half of a bucket at most.
    fn displaceable(&self, now: Time) -> Option<usize> {
        let mut by_age: Vec<usize> = (0..self.entries.len()).collect();
        by_age.sort_by_key(|at| (self.entries[*at].failures > 0, self.entries[*at].since));
        let young = by_age.into_iter().skip(BUCKET_OLDEST_KEPT);
        young.min_by_key(|at| (Reverse(self.entries[*at].failures), self.entries[*at].worth(now)))
    }

    fn wait(&mut self, entry: Entry, now: Time, open: bool) -> Admission {
        if is_crowded(&entry, &self.spares, open) {
            return Admission::Crowded;
        }
        if self.spares.len() < BUCKET_SPARES_MAX {
            self.spares.push(entry);
            return Admission::Spare;
        }
        // The longest unheard goes: who waits must still be there when its turn comes.
        match self.spares.iter_mut().min_by_key(|spare| spare.heard) {
            Some(spare) if entry.heard > spare.heard + ms(60_000) || entry.worth(now) > spare.worth(now) => {
                *spare = entry;
                Admission::Spare
            }
            _ => Admission::Full,
        }
    }

    /// Takes a peer out; the best of those that wait takes its place, if it `may`.
    pub fn remove(
        &mut self,
        id: &NodeId,
        now: Time,
        open: bool,
        may: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        if let Some(at) = self.spares.iter().position(|entry| entry.peer.id == *id) {
            return Some(self.spares.swap_remove(at));
        }
        let at = self.entries.iter().position(|entry| entry.peer.id == *id)?;
        let gone = self.entries.remove(at);
        let mut waiting: Vec<Entry> = std::mem::take(&mut self.spares);
        waiting.sort_by_key(|spare| spare.worth(now));
        while let Some(next) = waiting.pop() {
            if may(&next) && !is_crowded(&next, &self.entries, open) {
                self.entries.push(next);
                break;
            }
            // It comes from a crowded place: it would only wait in the way.
        }
        self.spares = waiting;
        Some(gone)
    }
}

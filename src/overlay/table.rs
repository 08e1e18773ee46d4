//! The routing table: buckets of peers by the bits that they share with this node (Kademlia §2.4).

use super::bucket::{Admission, Bucket, Entry};
use super::place::{Key, distance, shared_bits};
use super::site::{crowd, is_global};
use super::types::{Peer, Standing, ms};
use crate::base::{NodeId, Time};
use crate::limits::{
    BUCKET_REFRESH_MS, CONTACT_FAILURES_MAX, CONTACT_QUIET_MS, TABLE_PER_NETWORK_MAX, TABLE_PER_SITE_MAX,
};

/// A node's table. Memory: about 200 bytes per contact, at most 24 contacts for each bit of the network's size.
#[derive(Debug, Clone)]
pub struct Table {
    own: NodeId,
    rank_floor: u32,
    place_floor: u32,
    /// By shared bits.
    buckets: Vec<Bucket>,
    len: usize,
    /// Whether somebody is at a global address, so that those who are not are counted, too.
    open: bool,
}

impl Table {
    /// An empty one. Peers below a floor do not come in.
    pub fn new(own: NodeId, place_floor: u32, rank_floor: u32) -> Self {
        Self { own, rank_floor, place_floor, buckets: Vec::new(), len: 0, open: false }
    }

    /// Whether the network reaches beyond one lab or home.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// It does from now on: private addresses are one site, which has as many places as any other.
    pub fn open(&mut self, now: Time) {
        if self.open {
            return;
        }
        self.open = true;
        let local = |entry: &&Entry| !entry.peer.contact.addresses().any(is_global);
        let surplus: Vec<NodeId> =
            self.entries().filter(local).map(|entry| entry.peer.id).skip(TABLE_PER_SITE_MAX).collect();
        for id in &surplus {
            self.remove(id, now);
        }
    }

    /// Contacts in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Buckets up to the deepest that was ever used.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// All contacts in use.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.buckets.iter().flat_map(Bucket::entries)
    }

    fn index(&self, id: &NodeId) -> usize {
        shared_bits(&self.own.0, &id.0) as usize
    }

    fn bucket_mut(&mut self, id: &NodeId) -> Option<&mut Bucket> {
        let index = self.index(id);
        self.buckets.get_mut(index)
    }

    /// A contact, or one that waits to be.
    pub fn get(&self, id: &NodeId) -> Option<&Entry> {
        let bucket = self.buckets.get(self.index(id))?;
        bucket.entries().iter().chain(bucket.spares()).find(|entry| entry.peer.id == *id)
    }

    fn is_fit(&self, peer: &Peer) -> bool {
        peer.id != self.own && peer.shows(self.place_floor) && peer.contact.card.rank() >= self.rank_floor
    }

    /// Whether a peer that is only heard of is worth a probe.
    pub fn wants(&self, peer: &Peer) -> bool {
        if self.get(&peer.id).is_some() {
            return false;
        }
        let rank = || u8::try_from(peer.contact.card.rank()).unwrap_or(u8::MAX);
        let has_room = self.buckets.get(self.index(&peer.id)).is_none_or(|bucket| bucket.wants(rank()));
        has_room && self.is_fit(peer)
    }

    /// A peer answered a question that this node asked it: the only way into the table.
    pub fn admit(&mut self, peer: Peer, now: Time) -> Admission {
        if let Some(known) = self.bucket_mut(&peer.id).and_then(|bucket| bucket.get_mut(&peer.id)) {
            // Where it is now is known best by who speaks with it.
            if known.peer.contact.card != peer.contact.card {
                known.rank = u8::try_from(peer.contact.card.rank()).unwrap_or(u8::MAX);
            }
            let moved = known.peer.contact != peer.contact;
            known.peer.contact = peer.contact;
            known.heard = now;
            known.failures = 0;
            // Whoever moves into a crowd is one too many there.
            if moved && self.is_crowded(&peer.id) {
                self.remove(&peer.id, now);
                return Admission::Crowded;
            }
            return Admission::Known;
        }
        if !self.is_fit(&peer) {
            return Admission::Unfit;
        }
        if self.has_crowd(&peer) {
            return Admission::Crowded;
        }
        let open = self.open;
        let index = self.index(&peer.id).min(159);
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        let bucket = &mut self.buckets[index];
        let before = bucket.entries().len();
        let admission = bucket.admit(Entry::new(peer, now), now, open);
        self.len = self.len + bucket.entries().len() - before;
        admission
    }

    fn has_crowd(&self, peer: &Peer) -> bool {
        let others = self.entries().filter(|other| other.peer.id != peer.id);
        let (site, network) = crowd(&peer.contact, others.map(|other| &other.peer.contact), self.open);
        site >= TABLE_PER_SITE_MAX || network >= TABLE_PER_NETWORK_MAX
    }

    fn is_crowded(&self, id: &NodeId) -> bool {
        let bucket = self.buckets.get(self.index(id));
        bucket.zip(self.get(id)).is_some_and(|(bucket, entry)| {
            self.has_crowd(&entry.peer) || bucket.is_crowded_by(entry, self.open)
        })
    }

    /// How long a contact's answer took.
    pub fn sample(&mut self, id: &NodeId, sample: std::time::Duration) {
        if let Some(entry) = self.bucket_mut(id).and_then(|bucket| bucket.get_mut(id)) {
            entry.rtt.update(sample);
        }
    }

    /// What the accounts say of a contact.
    pub fn set_standing(&mut self, id: &NodeId, standing: Standing) {
        if let Some(entry) = self.bucket_mut(id).and_then(|bucket| bucket.get_mut(id)) {
            entry.standing = standing;
        }
    }

    /// A contact left a question unanswered; whom the table lost by it.
    pub fn fail(&mut self, id: &NodeId, now: Time) -> Option<Entry> {
        let entry = self.bucket_mut(id)?.get_mut(id)?;
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < CONTACT_FAILURES_MAX { None } else { self.remove(id, now) }
    }

    /// Takes a contact out.
    pub fn remove(&mut self, id: &NodeId, now: Time) -> Option<Entry> {
        let (index, open) = (self.index(id), self.open);
        // Out of its place while the others are counted: who takes it may be of its network.
        let mut bucket = std::mem::take(self.buckets.get_mut(index)?);
        let before = bucket.entries().len();
        let rest: Vec<Entry> =
            bucket.entries().iter().filter(|entry| entry.peer.id != *id).cloned().collect();
        let may = |next: &Entry| {
            let others = self.entries().chain(&rest).map(|other| &other.peer.contact);
            let (site, network) = crowd(&next.peer.contact, others, open);
            site < TABLE_PER_SITE_MAX && network < TABLE_PER_NETWORK_MAX
        };
        let gone = bucket.remove(id, now, open, may);
        let after = bucket.entries().len();
        self.buckets[index] = bucket;
        self.len = self.len + after - before;
        gone
    }

    /// The `count` contacts nearest to a place, nearest first.
    pub fn nearest(&self, key: &Key, count: usize) -> Vec<&Entry> {
        let mut found: Vec<(Key, &Entry)> = Vec::new();
        let own = shared_bits(&self.own.0, key) as usize;
        // Those of the key's own bucket share more bits with it than all others do; those of deeper buckets share as
        // many as this node does; and each bucket before holds those that share one bit less than the next.
        if let Some(bucket) = self.buckets.get(own) {
            found.extend(bucket.entries().iter().map(|entry| (distance(key, &entry.peer.id.0), entry)));
        }
        if found.len() < count {
            let deeper = self.buckets.iter().skip(own + 1).flat_map(Bucket::entries);
            found.extend(deeper.map(|entry| (distance(key, &entry.peer.id.0), entry)));
        }
        for bucket in self.buckets.iter().take(own).rev() {
            if found.len() >= count {
                break;
            }
            found.extend(bucket.entries().iter().map(|entry| (distance(key, &entry.peer.id.0), entry)));
        }
        found.sort_unstable_by_key(|(distance, _)| *distance);
        found.truncate(count);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Contacts that share at least `reach` bits with a place, the farthest first, at most `per_level` for each number
    /// of bits and `count` in all. `turn` says where in a bucket to begin, so that all of it is used.
    pub fn farthest(
        &self,
        key: &Key,
        reach: u32,
        per_level: usize,
        count: usize,
        turn: usize,
    ) -> Vec<&Entry> {
        let own = shared_bits(&self.own.0, key) as usize;
        let mut found: Vec<&Entry> = Vec::new();
        let before = (reach as usize).min(own)..own.min(self.buckets.len());
        for bucket in self.buckets.get(before).unwrap_or_default() {
            found.extend(rotated(bucket.entries(), turn).take(per_level));
            if found.len() >= count {
                break;
            }
        }
        if found.len() < count && reach as usize <= own {
            found.extend(self.buckets.iter().skip(own + 1).flat_map(Bucket::entries).take(per_level));
        }
        if found.len() < count
            && let Some(bucket) = self.buckets.get(own)
        {
            let shared = |entry: &&Entry| shared_bits(&entry.peer.id.0, key);
            let mut inner: Vec<&Entry> =
                rotated(bucket.entries(), turn).filter(|entry| shared(entry) >= reach).collect();
            inner.sort_by_key(shared);
            let mut level = (0, 0);
            inner.retain(|entry| {
                let bits = shared(entry);
                level = if level.0 == bits { (bits, level.1 + 1) } else { (bits, 1) };
                level.1 <= per_level
            });
            found.extend(inner);
        }
        found.truncate(count);
        found
    }

    /// The contact that was silent longest, if that is too long.
    pub fn stalest(&self, now: Time) -> Option<&Entry> {
        let stalest = self.entries().min_by_key(|entry| (entry.failures == 0, entry.heard))?;
        let doubtful = stalest.failures > 0 && now >= stalest.heard + ms(5_000);
        (doubtful || now >= stalest.heard + ms(CONTACT_QUIET_MS)).then_some(stalest)
    }

    /// A bucket that should be looked at, from far to near, and how many bits its places share with this node. Buckets
    /// beyond those in which there is anybody are left out.
    pub fn unlooked(&mut self, now: Time) -> Option<u32> {
        let deepest = self.buckets.iter().rposition(|bucket| !bucket.entries().is_empty())?;
        let quiet = |bucket: &Bucket| bucket.looked.is_none_or(|at| now >= at + ms(BUCKET_REFRESH_MS));
        let index = self.buckets.iter().take(deepest + 1).position(quiet)?;
        self.buckets[index].looked = Some(now);
        Some(index as u32)
    }
}

fn rotated(entries: &[Entry], turn: usize) -> impl Iterator<Item = &Entry> {
    let (before, from) = entries.split_at(turn.checked_rem(entries.len()).unwrap_or(0));
    from.iter().chain(before)
}

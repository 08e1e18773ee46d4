//! What others provide, as they said: kept for a time, bounded per key, per provider and in all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::site::Site;
use crate::base::{ChunkId, NodeId, Rng};
use crate::limits::{
    ANNOUNCED_PER_MINUTE_MAX, ANSWER_RECORDS_MAX, CLOCK_GRACE_S, HANDED_LOOKED_MAX, RECORD_S_MAX,
    RECORDS_FIRST_KEPT, RECORDS_MAX, RECORDS_PER_KEY_MAX, RECORDS_PER_KEY_NETWORK_MAX,
    RECORDS_PER_KEY_SITE_MAX, RECORDS_PER_PROVIDER_MAX, RECORDS_RENEWED_KEPT,
};
use crate::wire::overlay::{Record, Verdict};

/// A provider that comes again after so long has renewed its record, seconds.
const RENEWED_S_MIN: u32 = 1_200;

/// Who brings a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bringer {
    /// Where its session's path leads: what the caps count. `None` where nobody is counted.
    pub site: Option<Site>,
    /// Whether it is the provider itself.
    pub is_provider: bool,
}

#[derive(Debug, Clone)]
struct Kept {
    record: Record,
    provider: NodeId,
    rank: u32,
    site: Option<Site>,
    until_s: u32,
    since_s: u32,
    /// Whether its provider came again: nobody else takes its place.
    renewed: bool,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    kept: Vec<Kept>,
    /// Brought by others in the minute that began then.
    minute_s: u32,
    brought: u32,
}

/// The record store; about 280 bytes for each record.
#[derive(Debug, Clone, Default)]
pub struct Records {
    chunks: BTreeMap<ChunkId, Chunk>,
    /// Everything kept, by when it ends.
    ends: BTreeSet<(u32, ChunkId, NodeId)>,
    per_provider: BTreeMap<NodeId, u32>,
    per_site: BTreeMap<Site, u32>,
}

impl Chunk {
    /// Whether others than providers bring so much of it that it belongs one step farther away, too (Coral's β).
    fn is_hot(&mut self, now_s: u32) -> bool {
        if now_s >= self.minute_s.saturating_add(60) {
            (self.minute_s, self.brought) = (now_s, 0);
        }
        self.brought = self.brought.saturating_add(1);
        self.brought > ANNOUNCED_PER_MINUTE_MAX
    }

    /// How many are of a site and of its network.
    fn crowd(&self, site: Option<Site>) -> (usize, usize) {
        let Some(own) = site else { return (0, 0) };
        let sites = self.kept.iter().filter_map(|kept| kept.site);
        let network = sites.clone().filter(|site| site.same_network(own)).count();
        (sites.filter(|site| *site == own).count(), network)
    }

    /// Who makes room for a newcomer where all places are taken: of those that were renewed as many as may stay do. Of the
    /// others, one whose network has more places than the newcomer's would have; or else one of lower rank, but none of
    /// those that were here first, nor one whose network has fewer: rank is cheap by the dozen, and networks are not.
    fn displaceable(&self, site: Option<Site>, rank: u32) -> Option<NodeId> {
        let mut by_age: Vec<&Kept> = self.kept.iter().collect();
        by_age.sort_by_key(|kept| (kept.since_s, kept.provider));
        let renewed = by_age.iter().filter(|kept| kept.renewed).take(RECORDS_RENEWED_KEPT);
        let safe: Vec<NodeId> = renewed.map(|kept| kept.provider).collect();
        let own = self.crowd(site).1 + 1;
        let others = by_age.iter().enumerate().filter(|(_, kept)| !safe.contains(&kept.provider));
        let crowd = |kept: &Kept| self.crowd(kept.site).1;
        let crowded = others.clone().filter(|(_, kept)| crowd(kept) > own);
        if let Some((_, most)) = crowded.max_by_key(|(_, kept)| (crowd(kept), Reverse(kept.rank))) {
            return Some(most.provider);
        }
        // Where nobody is counted, rank alone decides.
        let fewer = |kept: &Kept| site.is_some() && kept.site.is_some() && crowd(kept) < own;
        let late =
            others.filter(|(age, kept)| *age >= RECORDS_FIRST_KEPT && kept.rank < rank && !fewer(kept));
        late.min_by_key(|(_, kept)| kept.rank).map(|(_, least)| least.provider)
    }
}

impl Records {
    /// Records kept.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a record's time does, by a clock that may be wrong by [`CLOCK_GRACE_S`].
    pub fn is_timely(record: &Record, now_s: u32) -> bool {
        let latest = now_s.saturating_add(RECORD_S_MAX + CLOCK_GRACE_S);
        record.expires > now_s && record.expires <= latest
    }

    /// Keeps a record whose signature was checked, for at most `keep_s`. One of the same provider takes the place of
    /// the one before if it holds longer.
    pub fn keep(
        &mut self,
        chunk: ChunkId,
        record: &Record,
        bringer: Bringer,
        keep_s: u32,
        now_s: u32,
        rng: &mut Rng,
    ) -> Verdict {
        self.expire(now_s);
        if !Self::is_timely(record, now_s) {
            return Verdict::Unfit;
        }
        let new = Kept {
            record: *record,
            provider: record.provider.node_id(),
            rank: record.provider.card.rank(),
            site: bringer.site,
            until_s: record.expires.min(now_s.saturating_add(keep_s)),
            since_s: now_s,
            renewed: false,
        };
        let verdict = self.try_keep(chunk, new, bringer.is_provider, now_s, rng);
        if self.chunks.get(&chunk).is_some_and(|own| own.kept.is_empty()) {
            self.chunks.remove(&chunk);
        }
        verdict
    }

    fn try_keep(
        &mut self,
        chunk: ChunkId,
        new: Kept,
        by_provider: bool,
        now_s: u32,
        rng: &mut Rng,
    ) -> Verdict {
        let own = self.chunks.entry(chunk).or_default();
        if own.kept.iter().any(|kept| kept.provider == new.provider) {
            self.renew(chunk, &new, by_provider, now_s);
            return Verdict::Kept;
        }
        if !by_provider && own.is_hot(now_s) {
            return Verdict::Full;
        }
        let (site, network) = own.crowd(new.site);
        if site >= RECORDS_PER_KEY_SITE_MAX
            || network >= RECORDS_PER_KEY_NETWORK_MAX
            || self.per_provider.get(&new.provider).is_some_and(|n| *n as usize >= RECORDS_PER_PROVIDER_MAX)
        {
            return Verdict::Full;
        }
        if own.kept.len() >= RECORDS_PER_KEY_MAX {
            match own.displaceable(new.site, new.rank) {
                Some(other) => self.remove(&chunk, &other),
                None => return Verdict::Full,
            }
        }
        if self.ends.len() >= RECORDS_MAX && !self.make_room(&new, rng) {
            return Verdict::Full;
        }
        self.ends.insert((new.until_s, chunk, new.provider));
        *self.per_provider.entry(new.provider).or_default() += 1;
        self.join_site(new.site);
        self.chunks.entry(chunk).or_default().kept.push(new);
        Verdict::Kept
    }

    /// The same provider again. What others bring of it changes nothing but its time; it alone makes that shorter.
    fn renew(&mut self, chunk: ChunkId, new: &Kept, by_provider: bool, now_s: u32) {
        let kept = self
            .chunks
            .get_mut(&chunk)
            .and_then(|own| own.kept.iter_mut().find(|kept| kept.provider == new.provider));
        let later = |kept: &Kept| new.record.expires >= kept.record.expires;
        let Some(kept) = kept.filter(|kept| by_provider || later(kept)) else { return };
        self.ends.remove(&(kept.until_s, chunk, kept.provider));
        kept.until_s = if later(kept) { kept.until_s.max(new.until_s) } else { new.until_s };
        kept.record = new.record;
        kept.renewed |= by_provider && now_s >= kept.since_s.saturating_add(RENEWED_S_MIN);
        self.ends.insert((kept.until_s, chunk, kept.provider));
        // It counts where its provider is, whoever brought it first.
        if by_provider && kept.site != new.site {
            let before = std::mem::replace(&mut kept.site, new.site);
            self.leave_site(before);
            self.join_site(new.site);
        }
    }

    /// How many providers of a chunk are known beside one, those aside that `leave`.
    pub fn others(&self, chunk: &ChunkId, than: &NodeId, leave: impl Fn(&NodeId) -> bool) -> u8 {
        let kept = self.chunks.get(chunk).map(|own| own.kept.as_slice()).unwrap_or_default();
        kept.iter().filter(|kept| kept.provider != *than && !leave(&kept.provider)).count().min(255) as u8
    }

    /// Whether there is a record of a chunk.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        self.chunks.contains_key(chunk)
    }

    /// Some of a chunk's records, others each time. Floods begin when somebody looks for a chunk, and so behind whoever provides
    /// it: half of them are from those that were renewed, and the eldest is always told. Nobody is told of whom `left` says so.
    pub fn of(
        &mut self,
        chunk: &ChunkId,
        now_s: u32,
        rng: &mut Rng,
        left: impl Fn(&NodeId) -> bool,
    ) -> Vec<Record> {
        self.expire(now_s);
        let Some(own) = self.chunks.get(chunk) else { return Vec::new() };
        let from = rng.below(own.kept.len() as u64) as usize;
        let there = |kept: &&Kept| !left(&kept.provider);
        let turned = own.kept[from..].iter().chain(&own.kept[..from]).filter(there);
        let first = turned.clone().filter(|kept| kept.renewed).take(ANSWER_RECORDS_MAX / 2);
        let mut told: Vec<&Kept> = first.collect();
        let eldest = own.kept.iter().filter(there).min_by_key(|kept| (kept.since_s, kept.provider));
        for kept in eldest.into_iter().chain(turned) {
            if told.len() < ANSWER_RECORDS_MAX && told.iter().all(|other| other.provider != kept.provider) {
                told.push(kept);
            }
        }
        told.into_iter().map(|kept| kept.record).collect()
    }

    /// Whether this record is here, or one of the same provider that holds as long.
    pub fn holds(&self, chunk: &ChunkId, record: &Record) -> bool {
        let provider = record.provider.node_id();
        let kept = self.chunks.get(chunk).map(|own| own.kept.as_slice()).unwrap_or_default();
        kept.iter().any(|kept| kept.provider == provider && kept.record.expires >= record.expires)
    }

    /// Whether a further record of a chunk would displace nobody.
    pub fn has_room(&self, chunk: &ChunkId) -> bool {
        let kept = self.chunks.get(chunk).map_or(0, |own| own.kept.len());
        kept < RECORDS_PER_KEY_MAX && self.ends.len() < RECORDS_MAX
    }

    /// What is kept of the chunks of a range, in their order: of each the renewed first, and the eldest, as many as an answer tells.
    /// Nothing of whom `left` says so. At most [`HANDED_LOOKED_MAX`] chunks are looked at.
    pub fn between(
        &self,
        range: RangeInclusive<ChunkId>,
        left: impl Fn(&NodeId) -> bool,
    ) -> impl Iterator<Item = (ChunkId, Vec<Record>)> {
        self.chunks.range(range).take(HANDED_LOOKED_MAX).filter_map(move |(chunk, own)| {
            let mut kept: Vec<&Kept> = own.kept.iter().filter(|kept| !left(&kept.provider)).collect();
            kept.sort_by_key(|kept| (!kept.renewed, kept.since_s, kept.provider));
            kept.truncate(ANSWER_RECORDS_MAX);
            let records: Vec<Record> = kept.into_iter().map(|kept| kept.record).collect();
            (!records.is_empty()).then_some((*chunk, records))
        })
    }

    /// Takes out what has ended.
    pub fn expire(&mut self, now_s: u32) {
        while let Some((until, chunk, provider)) = self.ends.first().copied()
            && until <= now_s
        {
            self.remove(&chunk, &provider);
        }
    }

    /// Makes room in a full store: of a few drawn, one of the site that has the most of it, if that has more than the
    /// newcomer's; or else one of lower rank that was not renewed.
    fn make_room(&mut self, new: &Kept, rng: &mut Rng) -> bool {
        let share = |site: Option<Site>| site.and_then(|site| self.per_site.get(&site)).copied().unwrap_or(0);
        let from = ChunkId(rng.bytes());
        let drawn = self.chunks.range(from..).chain(self.chunks.range(..from)).take(8);
        let drawn = drawn.flat_map(|(chunk, own)| own.kept.iter().map(move |kept| (chunk, kept)));
        let own = share(new.site).saturating_add(1);
        let worst = drawn.max_by_key(|(_, kept)| {
            let share = share(kept.site);
            (if share > own { share } else { 0 }, !kept.renewed, Reverse(kept.rank))
        });
        let gives = |kept: &Kept| share(kept.site) > own || !kept.renewed && kept.rank < new.rank;
        let worst = worst.filter(|(_, kept)| gives(kept)).map(|(chunk, kept)| (*chunk, kept.provider));
        worst.is_some_and(|(chunk, provider)| {
            self.remove(&chunk, &provider);
            true
        })
    }

    fn join_site(&mut self, site: Option<Site>) {
        if let Some(site) = site {
            *self.per_site.entry(site).or_default() += 1;
        }
    }

    fn leave_site(&mut self, site: Option<Site>) {
        if let Some(site) = site
            && let Some(count) = self.per_site.get_mut(&site)
        {
            *count -= 1;
            if *count == 0 {
                self.per_site.remove(&site);
            }
        }
    }

    fn remove(&mut self, chunk: &ChunkId, provider: &NodeId) {
        let Some(own) = self.chunks.get_mut(chunk) else { return };
        let Some(at) = own.kept.iter().position(|kept| kept.provider == *provider) else { return };
        let gone = own.kept.swap_remove(at);
        if own.kept.is_empty() {
            self.chunks.remove(chunk);
        }
        self.ends.remove(&(gone.until_s, *chunk, *provider));
        self.leave_site(gone.site);
        if let Some(count) = self.per_provider.get_mut(provider) {
            *count -= 1;
            if *count == 0 {
                self.per_provider.remove(provider);
            }
        }
    }
}

//! What others provide, as they said: kept for a time, bounded per key, per provider and in all.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ChunkId, NodeId, Rng};
use crate::limits::{
    ANNOUNCED_PER_MINUTE_MAX, ANSWER_RECORDS_MAX, RECORD_S_MAX, RECORDS_MAX, RECORDS_PER_KEY_MAX,
    RECORDS_PER_PROVIDER_MAX,
};
use crate::wire::overlay::{Record, Verdict};

#[derive(Debug, Clone)]
struct Kept {
    record: Record,
    provider: NodeId,
    until_s: u32,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    kept: Vec<Kept>,
    /// Announcements in the minute that began then.
    minute_s: u32,
    announced: u32,
}

/// The record store; about 260 bytes for each record.
#[derive(Debug, Clone, Default)]
pub struct Records {
    chunks: BTreeMap<ChunkId, Chunk>,
    /// Everything kept, by when it ends.
    ends: BTreeSet<(u32, ChunkId, NodeId)>,
    per_provider: BTreeMap<NodeId, u32>,
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

    /// Keeps a record whose signature was checked, for at most `keep_s`. One of the same provider takes the place of
    /// the one before if it holds longer.
    pub fn keep(
        &mut self,
        chunk: ChunkId,
        record: &Record,
        keep_s: u32,
        now_s: u32,
        rng: &mut Rng,
    ) -> Verdict {
        self.expire(now_s);
        let verdict = self.try_keep(chunk, record, keep_s, now_s, rng);
        if self.chunks.get(&chunk).is_some_and(|own| own.kept.is_empty()) {
            self.chunks.remove(&chunk);
        }
        verdict
    }

    fn try_keep(
        &mut self,
        chunk: ChunkId,
        record: &Record,
        keep_s: u32,
        now_s: u32,
        rng: &mut Rng,
    ) -> Verdict {
        if record.expires <= now_s || record.expires > now_s.saturating_add(RECORD_S_MAX) {
            return Verdict::Unfit;
        }
        let until_s = record.expires.min(now_s.saturating_add(keep_s));
        let provider = record.provider.node_id();
        let own = self.chunks.entry(chunk).or_default();
        if now_s >= own.minute_s.saturating_add(60) {
            (own.minute_s, own.announced) = (now_s, 0);
        }
        own.announced = own.announced.saturating_add(1);
        let hot = own.announced > ANNOUNCED_PER_MINUTE_MAX;
        if let Some(kept) = own.kept.iter_mut().find(|kept| kept.provider == provider) {
            if record.expires >= kept.record.expires {
                let until_s = until_s.max(kept.until_s);
                self.ends.remove(&(kept.until_s, chunk, provider));
                self.ends.insert((until_s, chunk, provider));
                *kept = Kept { record: *record, provider, until_s };
            }
            return Verdict::Kept;
        }
        if self.per_provider.get(&provider).is_some_and(|n| *n as usize >= RECORDS_PER_PROVIDER_MAX) {
            return Verdict::Full;
        }
        if own.kept.len() >= RECORDS_PER_KEY_MAX {
            // Full, and hot: Coral's sign that more belongs one step farther away.
            let first =
                own.kept.iter().min_by_key(|kept| kept.until_s).map(|kept| (kept.until_s, kept.provider));
            match first.filter(|(until, _)| !hot && *until < until_s) {
                Some((_, ends_first)) => self.remove(&chunk, &ends_first),
                None => return Verdict::Full,
            }
        }
        if self.ends.len() >= RECORDS_MAX && !self.make_room(record, rng) {
            return Verdict::Full;
        }
        let own = self.chunks.entry(chunk).or_default();
        own.kept.push(Kept { record: *record, provider, until_s });
        self.ends.insert((until_s, chunk, provider));
        *self.per_provider.entry(provider).or_default() += 1;
        Verdict::Kept
    }

    /// Whether there is a record of a chunk.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        self.chunks.contains_key(chunk)
    }

    /// Some of a chunk's records, others each time.
    pub fn of(&mut self, chunk: &ChunkId, now_s: u32, rng: &mut Rng) -> Vec<Record> {
        self.expire(now_s);
        let Some(own) = self.chunks.get(chunk) else { return Vec::new() };
        let from = rng.below(own.kept.len() as u64) as usize;
        let turned = own.kept[from..].iter().chain(&own.kept[..from]);
        turned.take(ANSWER_RECORDS_MAX).map(|kept| kept.record).collect()
    }

    /// Takes out what has ended.
    pub fn expire(&mut self, now_s: u32) {
        while let Some((until, chunk, provider)) = self.ends.first().copied()
            && until <= now_s
        {
            self.remove(&chunk, &provider);
        }
    }

    /// Of a few drawn, the record of the provider with the least rank goes, if this one's is higher.
    fn make_room(&mut self, record: &Record, rng: &mut Rng) -> bool {
        let from = ChunkId(rng.bytes());
        let drawn = self.chunks.range(from..).chain(self.chunks.range(..from)).take(8);
        let drawn = drawn.flat_map(|(chunk, own)| own.kept.iter().map(move |kept| (chunk, kept)));
        let least =
            drawn.map(|(chunk, kept)| (kept.record.provider.card.rank(), *chunk, kept.provider)).min();
        let Some((_, chunk, provider)) = least.filter(|(rank, ..)| *rank < record.provider.card.rank())
        else {
            return false;
        };
        self.remove(&chunk, &provider);
        true
    }

    fn remove(&mut self, chunk: &ChunkId, provider: &NodeId) {
        let Some(own) = self.chunks.get_mut(chunk) else { return };
        let Some(at) = own.kept.iter().position(|kept| kept.provider == *provider) else { return };
        let gone = own.kept.swap_remove(at);
        if own.kept.is_empty() {
            self.chunks.remove(chunk);
        }
        self.ends.remove(&(gone.until_s, *chunk, *provider));
        if let Some(count) = self.per_provider.get_mut(provider) {
            *count -= 1;
            if *count == 0 {
                self.per_provider.remove(provider);
            }
        }
    }
}

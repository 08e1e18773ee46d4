//! What a lookup was told of its key: records, in fair shares, and counts that no single liar decides.

use std::collections::BTreeSet;

use crate::base::PublicKey;
use crate::limits::{LOOKUP_RECORDS_MAX, NOT_FOUND_COUNT_MIN, NOT_FOUND_VOTES_MIN};
use crate::wire::overlay::{Answer, Record};

/// Records and counts, bounded: a record of each who answers, and [`LOOKUP_RECORDS_MAX`] more.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    records: Vec<Record>,
    providers: BTreeSet<PublicKey>,
    /// Paths that told of a provider.
    witnesses: BTreeSet<usize>,
    /// Providers beyond the first of an answer, by path.
    told: Vec<usize>,
    /// Vain searches and queries, of the region and of the others.
    inside: Vec<(u16, u16)>,
    outside: Vec<(u16, u16)>,
}

impl Gathered {
    /// For so many paths.
    pub fn new(paths: usize) -> Self {
        Self { told: vec![0; paths], ..Self::default() }
    }

    /// What is known so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// All of it.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Whether so many providers came, by so many paths.
    pub fn suffices(&self, providers: usize, witnesses: usize) -> bool {
        self.providers.len() >= providers && self.witnesses.len() >= witnesses
    }

    /// Takes the counts of an answer, from a node of the region or from another.
    pub fn count(&mut self, answer: &Answer, is_inside: bool) {
        let counts = if is_inside { &mut self.inside } else { &mut self.outside };
        counts.push((answer.not_found, answer.queries));
    }

    /// Takes an answer's records, verified; returns those that are new. The first of each answer always finds room, so that
    /// those who invent providers, however many they are on a path, leave room for the others.
    pub fn take(&mut self, path: usize, records: Vec<Record>) -> Vec<Record> {
        if !records.is_empty() {
            self.witnesses.insert(path);
        }
        let share = LOOKUP_RECORDS_MAX / self.told.len().max(1);
        let mut new = records;
        let mut is_first = true;
        new.retain(|record| {
            let key = record.provider.card.key;
            if self.providers.contains(&key) || !is_first && self.told[path] >= share {
                return false;
            }
            self.told[path] += usize::from(!is_first);
            is_first = false;
            self.providers.insert(key)
        });
        self.records.extend_from_slice(&new);
        new
    }

    /// Whether the region says that the key was looked for in vain: enough of it, and most of those who answered.
    pub fn is_vain(&self) -> bool {
        let vain = self.inside.iter().filter(|(vain, _)| *vain >= NOT_FOUND_COUNT_MIN).count();
        self.records.is_empty() && vain >= NOT_FOUND_VOTES_MIN && 3 * vain >= 2 * self.inside.len()
    }

    /// Vain searches and queries: the median of the region's word, or of everybody's where none of it answered.
    pub fn counts(&self) -> (u16, u16) {
        let counts = if self.inside.is_empty() { &self.outside } else { &self.inside };
        (median(counts.iter().map(|(vain, _)| *vain)), median(counts.iter().map(|(_, queries)| *queries)))
    }
}

/// The middle one, the upper of two; the least of nothing.
pub fn median<T: Ord + Copy + Default>(all: impl Iterator<Item = T>) -> T {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ChunkId;
    use crate::crypto::{Identity, kdf::Secret};
    use crate::wire::overlay::Contact;

    fn record(seed: u32) -> Record {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&seed.to_le_bytes());
        let identity = Identity::new(Secret::from_bytes(secret), 0, 0);
        Record::sign(&identity, &ChunkId([0; 20]), Contact::new(*identity.card(), []), 1)
    }

    #[test]
    fn liars_who_fill_a_path_leave_room_for_who_has_it() {
        let mut gathered = Gathered::new(3);
        for liar in 0..40u32 {
            gathered.take(0, (0..4).map(|n| record(4 * liar + n)).collect());
        }
        assert!(gathered.records().len() <= 40 + LOOKUP_RECORDS_MAX / 3);
        assert_eq!(gathered.take(0, vec![record(5_000)]).len(), 1, "an honest one on the same path");
        assert_eq!(gathered.take(1, vec![record(5_000)]).len(), 0, "none twice");
        assert!(gathered.suffices(41, 2) && !gathered.suffices(1, 3));
    }

    #[test]
    fn counts_are_the_regions_and_no_single_liar_sets_them() {
        let mut gathered = Gathered::new(1);
        let answer = |not_found, queries| Answer { not_found, queries, ..Answer::default() };
        (0..9).for_each(|_| gathered.count(&answer(u16::MAX, u16::MAX), false));
        assert!(!gathered.is_vain(), "those outside say nothing of it");
        (0..15).for_each(|n| gathered.count(&answer(2, 100 + n), true));
        (0..4).for_each(|_| gathered.count(&answer(u16::MAX, u16::MAX), true));
        let (vain, queries) = gathered.counts();
        assert!(vain == 2 && (100..115).contains(&queries), "{vain} {queries}");
        assert!(!gathered.is_vain());
        (0..40).for_each(|_| gathered.count(&answer(3, 100), true));
        assert!(gathered.is_vain(), "most of the region");
        gathered.take(0, vec![record(1)]);
        assert!(!gathered.is_vain(), "what was found is somewhere");
    }
}

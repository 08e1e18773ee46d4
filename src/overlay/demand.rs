//! How often keys are asked for, and how often in vain: popularity, and the seeds' not-found counts. Bounded: what is
//! asked for least makes room, so that inventions push out inventions.

use std::collections::BTreeMap;

use super::place::Key;
use crate::base::Rng;
use crate::limits::{COUNT_HALF_LIFE_S, COUNTED_KEYS_MAX};

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    queries: f32,
    vain: f32,
    at_s: u32,
}

impl Count {
    fn faded(self, now_s: u32) -> Self {
        let age = f64::from(now_s.saturating_sub(self.at_s)) / COUNT_HALF_LIFE_S as f64;
        let left = 2f64.powf(-age) as f32;
        Self { queries: self.queries * left, vain: self.vain * left, at_s: now_s.max(self.at_s) }
    }
}

/// Counts by key, each of which halves every [`COUNT_HALF_LIFE_S`]; about 40 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    counts: BTreeMap<Key, Count>,
}

impl Demand {
    /// Counts a query, and whether it was in vain.
    pub fn count(&mut self, key: &Key, found: bool, now_s: u32, rng: &mut Rng) {
        if !self.counts.contains_key(key) && self.counts.len() >= COUNTED_KEYS_MAX {
            let from: Key = rng.bytes();
            let drawn = self.counts.range(from..).chain(self.counts.range(..from)).take(8);
            let least =
                drawn.min_by(|(_, a), (_, b)| a.faded(now_s).queries.total_cmp(&b.faded(now_s).queries));
            if let Some(least) = least.map(|(key, _)| *key) {
                self.counts.remove(&least);
            }
        }
        let count = self.counts.entry(*key).or_default();
        *count = count.faded(now_s);
        count.queries += 1.0;
        // What was found is not nowhere: the seeds reset the count.
        count.vain = if found { 0.0 } else { count.vain + 1.0 };
    }

    /// Queries lately, and those in vain since one was not.
    pub fn of(&self, key: &Key, now_s: u32) -> (u16, u16) {
        let count = self.counts.get(key).copied().unwrap_or_default().faded(now_s);
        let round = |value: f32| value.round().min(f32::from(u16::MAX)) as u16;
        (round(count.queries), round(count.vain))
    }

    /// Keys that are counted.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade_and_inventions_do_not_push_out_what_is_wanted() {
        let (mut demand, mut rng) = (Demand::default(), Rng::from_number(1));
        let wanted = [7; 20];
        (0..1000).for_each(|_| demand.count(&wanted, true, 0, &mut rng));
        for _ in 0..10 * COUNTED_KEYS_MAX {
            let invented = rng.bytes();
            demand.count(&invented, false, 0, &mut rng);
        }
        assert_eq!(demand.len(), COUNTED_KEYS_MAX);
        assert_eq!(demand.of(&wanted, 0), (1000, 0));
        assert_eq!(demand.of(&wanted, COUNT_HALF_LIFE_S as u32), (500, 0));
        demand.count(&wanted, false, 0, &mut rng);
        assert_eq!(demand.of(&wanted, 0).1, 1);
        demand.count(&wanted, true, 0, &mut rng);
        assert_eq!(demand.of(&wanted, 0).1, 0);
    }
}

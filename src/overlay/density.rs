//! How many nodes there are, judged by how densely they lie around places that this node drew itself; and so, how wide
//! the region of a key is that has [`REGION_NODES`] of them. What others want looked up says nothing: they choose where.

use super::place::{Key, distance, leading};
use crate::limits::REGION_NODES;

const SAMPLES: usize = 15;

/// Samples that do for a first estimate.
const FIRST: usize = 5;

/// Estimates of the network's size, the last few.
#[derive(Debug, Clone, Default)]
pub struct Density {
    samples: [f32; SAMPLES],
    count: usize,
}

/// The size that the nodes nearest to a place speak of; `None` of fewer than four.
pub fn sample(key: &Key, nearest: impl Iterator<Item = Key>) -> Option<f32> {
    let mut distances: Vec<u64> = nearest.map(|place| leading(&distance(key, &place))).collect();
    distances.sort_unstable();
    let farthest = *distances.last().filter(|_| distances.len() >= 4)?;
    // The r-th nearest of n lies at about r/n of all distances.
    Some(distances.len() as f32 / ((farthest.max(1) as f64 / 2f64.powi(64)) as f32))
}

impl Density {
    /// Whether there is an estimate that does.
    pub fn is_known(&self) -> bool {
        self.count >= FIRST
    }

    /// Takes the nearest nodes of a finished lookup of a place that was drawn.
    pub fn learn(&mut self, sample: Option<f32>) {
        if let Some(sample) = sample {
            self.samples[self.count % SAMPLES] = sample;
            self.count += 1;
        }
    }

    /// Nodes of the network: the upper quartile of what lookups said, since whoever hides nodes makes it look smaller, and
    /// to make it look larger takes work around every place that is looked up. Until there was a lookup, `known` and this
    /// one.
    pub fn nodes(&self, known: usize) -> u64 {
        let mut samples: Vec<f32> = self.samples[..self.count.min(SAMPLES)].to_vec();
        samples.sort_unstable_by(f32::total_cmp);
        let least = known as u64 + 1;
        samples.get(samples.len() * 3 / 4).map_or(least, |quartile| (*quartile as u64).max(least))
    }
}

/// The leading distance within which a network of so many nodes has a key's region.
pub fn region(nodes: u64) -> u64 {
    let share = REGION_NODES as f64 / nodes.max(1) as f64;
    if share >= 1.0 { u64::MAX } else { (share * 2f64.powi(64)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn the_size_is_met_within_a_factor_of_two() {
        let mut rng = Rng::from_number(1);
        let places: Vec<Key> = (0..4096).map(|_| rng.bytes()).collect();
        let mut density = Density::default();
        assert_eq!(density.nodes(7), 8);
        for _ in 0..20 {
            let key: Key = rng.bytes();
            let mut by_distance: Vec<Key> = places.clone();
            by_distance.sort_by_key(|place| distance(&key, place));
            density.learn(sample(&key, by_distance.into_iter().take(16)));
        }
        let nodes = density.nodes(7);
        assert!((2048..8192).contains(&nodes), "{nodes}");
        assert!(region(nodes) > region(2 * nodes) && region(10) == u64::MAX);
    }
}

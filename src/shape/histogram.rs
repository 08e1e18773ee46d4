//! Delays, counted in buckets of a quarter of an octave: quantiles within 19 %, in half a kilobyte.

use std::time::Duration;

/// Buckets per octave, as a power of two.
const FINE_BITS: u32 = 2;
/// Octaves above a microsecond.
const OCTAVES: u32 = 32;
const BUCKETS: usize = (OCTAVES << FINE_BITS) as usize;

/// A histogram of durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one.
    #[inline]
    pub fn add(&mut self, delay: Duration) {
        let ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
        // 4 to 7 units are the first octave's quarters.
        let units = (ns >> 8) | 1 << FINE_BITS;
        let octave = 63 - units.leading_zeros();
        let fine = (units >> (octave - FINE_BITS)) as u32 & ((1 << FINE_BITS) - 1);
        let bucket = (((octave - FINE_BITS) << FINE_BITS) | fine) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// What `share` of them (0 to 1) did not exceed: the upper end of its bucket.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (octave, fine) = (bucket as u32 >> FINE_BITS, bucket as u64 & ((1 << FINE_BITS) - 1));
                let units = ((1 << FINE_BITS) + fine + 1) << octave;
                return Duration::from_nanos((units << 8).min(self.max_ns));
            }
        }
        Duration::ZERO
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(own, new)| *own += new);
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_near(mut delays in prop::collection::vec(1_000u64..10_000_000_000, 1..200), share in 0.01f64..1.0) {
            let mut histogram = Histogram::default();
            delays.iter().for_each(|ns| histogram.add(Duration::from_nanos(*ns)));
            delays.sort_unstable();
            let exact = delays[((delays.len() as f64 * share).ceil() as usize - 1).min(delays.len() - 1)];
            let shown = histogram.quantile(share).as_nanos() as u64;
            prop_assert!(shown + 512 >= exact && shown <= exact + exact / 4 + 2048, "{shown} for {exact}");
            prop_assert_eq!(histogram.max().as_nanos() as u64, delays[delays.len() - 1]);
        }
    }
}

//! Seeded randomness: the same seed makes the same content and asks for the same crashes.

/// SplitMix64: small, and good enough to choose with.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// For one purpose (`what`, a round's number, …) of one seed.
    pub fn new(seed: u64, what: &str, number: u64) -> Rng {
        let mut rng = Rng(seed);
        for byte in what.bytes() {
            rng.0 = rng.next().wrapping_add(u64::from(byte));
        }
        rng.0 = rng.next().wrapping_add(number);
        rng
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A fraction, at least 0 and below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Bytes that do not compress and do not repeat.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_purposes_differ() {
        let take = |what, number| Rng::new(7, what, number).bytes(33);
        assert_eq!(take("kill", 1), take("kill", 1));
        assert_ne!(take("kill", 1), take("kill", 2));
        assert_ne!(take("kill", 1), take("power", 1));
        assert!((0..1000).all(|n| Rng::new(n, "", 0).fraction() < 1.0));
    }
}

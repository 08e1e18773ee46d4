//! Randomness from the kernel, once per generator.

use ring::rand::{SecureRandom, SystemRandom};

use crate::base::Rng;

/// The kernel gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gives no randomness (getrandom failed)")]
pub struct NoEntropy;

/// A generator seeded by the kernel.
pub fn rng() -> Result<Rng, NoEntropy> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| NoEntropy)?;
    Ok(Rng::from_seed(seed))
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_generators_differ() {
        let mut one = super::rng().expect("entropy");
        assert_ne!(one.next_u64(), super::rng().expect("entropy").next_u64());
    }
}

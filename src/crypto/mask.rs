//! Header masks: one AES-128 block over a sample of ciphertext (the idea of RFC 9001 §5.4).

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::kdf::{self, Secret};

/// A key that turns 16 bytes of ciphertext into a mask.
#[derive(Clone)]
pub struct MaskKey(Aes128Enc);

impl MaskKey {
    /// Derived from a secret, for one purpose.
    pub fn derive(secret: &Secret, label: &str) -> Self {
        let mut key = [0; 16];
        kdf::expand_into(secret, label, b"", &mut key);
        Self(Aes128Enc::new(&key.into()))
    }

    /// The mask for a sample.
    pub fn mask(&self, sample: &[u8; 16]) -> [u8; 16] {
        let mut block = (*sample).into();
        self.0.encrypt_block(&mut block);
        block.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_depends_on_key_and_sample() {
        let secret = Secret::from_bytes([1; 32]);
        let (a, b) = (MaskKey::derive(&secret, "a"), MaskKey::derive(&secret, "b"));
        assert_ne!(a.mask(&[0; 16]), b.mask(&[0; 16]));
        assert_ne!(a.mask(&[0; 16]), a.mask(&[1; 16]));
    }
}

//! Authenticated encryption in place, by `ring`.

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::kdf::Secret;
use crate::limits::TAG_SIZE;

/// An authenticated ciphertext that is not what its key sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct Forged;

/// The AEADs that sessions choose from. Content is always sealed with AES-256-GCM, since equal
/// plaintexts must give equal chunks on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM: where both CPUs have AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305: elsewhere.
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite this CPU is fast at.
    pub fn preferred() -> Self {
        #[cfg(target_arch = "x86_64")]
        let fast =
            std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let fast = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let fast = false;
        if fast { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
    }
}

/// An expanded key. Callers own the nonce discipline: never the same nonce twice for different bytes.
pub struct AeadKey(LessSafeKey);

impl AeadKey {
    /// Expands a raw key.
    pub fn new(suite: Suite, key: &Secret) -> Self {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key.as_bytes()).expect("both suites take 32-byte keys");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `body` where it lies and returns the tag.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; TAG_SIZE] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body)
            .expect("bodies are far below the AEAD's length limit");
        tag.as_ref().try_into().expect("both suites have 16-byte tags")
    }

    /// Decrypts `body_and_tag` where it lies and returns the body. On failure the bytes are garbage.
    pub fn open<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        body_and_tag: &'a mut [u8],
    ) -> Result<&'a mut [u8], Forged> {
        self.0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body_and_tag)
            .map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let key = AeadKey::new(suite, &Secret::from_bytes([7; 32]));
            let mut bytes = b"hello".to_vec();
            let tag = key.seal([1; 12], b"aad", &mut bytes);
            bytes.extend_from_slice(&tag);
            let mut forged = bytes.clone();
            forged[0] ^= 1;
            assert_eq!(key.open([1; 12], b"aad", &mut forged), Err(Forged));
            assert_eq!(key.open([1; 12], b"other", &mut bytes.clone()), Err(Forged));
            assert_eq!(key.open([1; 12], b"aad", &mut [0; 3]), Err(Forged));
            assert_eq!(key.open([1; 12], b"aad", &mut bytes).map(|b| b.to_vec()), Ok(b"hello".to_vec()));
        }
    }
}

//! Key derivation: HKDF-SHA256 (RFC 5869) with labels.

use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes: zeroized when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Extract: a secret from input key material that need not be uniform.
pub fn extract(salt: &[u8], material: &[u8]) -> Secret {
    let prk = Salt::new(HKDF_SHA256, salt).extract(material);
    let mut out = [0; 32];
    fill(&prk, &[b"tornet extract"], &mut out);
    Secret(out)
}

/// HKDF-Expand: 32 bytes for one purpose. `label` is a constant of the program (`"tornet …"`);
/// `context` tells instances of it apart.
pub fn expand(secret: &Secret, label: &str, context: &[u8]) -> Secret {
    let mut out = [0; 32];
    expand_into(secret, label, context, &mut out);
    Secret(out)
}

/// As [`expand`], for any length up to 8160 bytes.
pub fn expand_into(secret: &Secret, label: &str, context: &[u8], out: &mut [u8]) {
    let prk = Prk::new_less_safe(HKDF_SHA256, &secret.0);
    // The label's length keeps (label, context) pairs apart.
    fill(&prk, &[&[label.len() as u8], label.as_bytes(), context], out);
}

fn fill(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    prk.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("lengths are constants below 255 hash blocks");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_contexts_do_not_run_together() {
        let secret = extract(b"salt", b"material");
        let a = expand(&secret, "ab", b"c");
        let b = expand(&secret, "a", b"bc");
        assert_ne!(a.as_bytes(), b.as_bytes());
        assert_eq!(a.as_bytes(), expand(&secret, "ab", b"c").as_bytes());
    }
}

//! Hashes: SHA-1 for 160-bit addresses, BLAKE3 for integrity, SHA-512 for Ed25519's own expansion.

use sha1::{Digest, Sha1};

/// SHA-1 of the concatenated parts. An address, not a proof of integrity.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// BLAKE3 of the concatenated parts.
pub fn blake3(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            crate::base::ChunkId(sha1(&[b"a", b"bc"])).to_string(),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(blake3(&[b"a", b"bc"]), *blake3::hash(b"abc").as_bytes());
    }
}

//! Hashes: SHA-1 for 160-bit addresses, BLAKE3 for integrity, SHA-512 for Ed25519's own expansion.

use blake3::OUT_LEN;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use sha1::{Digest, Sha1};

use super::kdf::Secret;
use crate::limits::SLICE_SIZE;

/// SHA-1 of the concatenated parts. An address, not a proof of integrity.
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// SHA-1 of bytes that come one after another.
#[derive(Clone, Default)]
pub struct Sha1Stream(Sha1);

impl Sha1Stream {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came.
    pub fn finish(self) -> [u8; 20] {
        self.0.finalize().into()
    }
}

/// BLAKE3 of the concatenated parts.
pub fn blake3(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// A 16-byte authenticator of the concatenated parts: keyed BLAKE3, cut.
pub fn mac(key: &Secret, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// Whether [`mac`] made `tag`, in constant time.
pub fn verify_mac(key: &Secret, parts: &[&[u8]], tag: &[u8; 16]) -> bool {
    let widen = |half: &[u8; 16]| {
        let mut whole = [0; 32];
        whole[..16].copy_from_slice(half);
        // `blake3::Hash` compares in constant time.
        blake3::Hash::from_bytes(whole)
    };
    widen(&mac(key, parts)) == widen(tag)
}

/// What a chunk's slice list says of slice `index`: the BLAKE3 chaining value of the subtree that the
/// slice's bytes are in their chunk; of an only slice, the chunk's root itself. `bytes` is not empty.
pub fn slice_cv(index: u32, bytes: &[u8], only_slice: bool) -> [u8; 32] {
    if only_slice {
        return blake3(&[bytes]);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(u64::from(index) * SLICE_SIZE as u64);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// What the slices' values merge to: their chunk's root. `list` is one or more whole values of 32 bytes.
pub fn merge_slices(list: &[u8]) -> [u8; 32] {
    if let Ok(only) = list.try_into() {
        return only;
    }
    let (left, right) = split(list);
    *merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
}

/// BLAKE3's shape: the left subtree is the largest power of two of leaves that leaves something right.
fn split(list: &[u8]) -> (&[u8], &[u8]) {
    let count = list.len() / OUT_LEN;
    list.split_at(count.div_ceil(2).next_power_of_two() * OUT_LEN)
}

fn merge(list: &[u8]) -> [u8; 32] {
    if let Ok(one) = list.try_into() {
        return one;
    }
    let (left, right) = split(list);
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
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

    #[test]
    fn a_mac_depends_on_key_and_message() {
        let key = Secret::from_bytes([1; 32]);
        let tag = mac(&key, &[b"a", b"bc"]);
        assert!(verify_mac(&key, &[b"ab", b"c"], &tag));
        assert!(!verify_mac(&key, &[b"abd"], &tag));
        assert!(!verify_mac(&Secret::from_bytes([2; 32]), &[b"abc"], &tag));
    }

    #[test]
    fn slice_values_join_to_the_root() {
        use blake3::hazmat::{Mode, merge_subtrees_root};
        let bytes: Vec<u8> = (0..SLICE_SIZE + 777).map(|i| (i % 251) as u8).collect();
        let (left, right) = bytes.split_at(SLICE_SIZE);
        let (left, right) = (slice_cv(0, left, false), slice_cv(1, right, false));
        assert_eq!(merge_subtrees_root(&left, &right, Mode::Hash), blake3::hash(&bytes));
        assert_eq!(slice_cv(0, b"abc", true), *blake3::hash(b"abc").as_bytes());
    }
}

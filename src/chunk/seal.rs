//! Sealing and opening pieces of content (docs/protocol/content.md §1 and §2).
//!
//! A piece's key comes from the hash of its plaintext, so equal pieces give equal ciphertext everywhere,
//! and the record index is nonce enough: one key never seals two different plaintexts. [`Piece`] holds the
//! bytes that it hashed, and seals those, so that no caller can break this by handing in others.

use zeroize::Zeroizing;

use crate::crypto::{AeadKey, Forged, Secret, Suite, kdf};
use crate::limits::{PIECE_PLAIN_MAX, RECORD_PLAIN, SLICE_SIZE, TAG_SIZE};
use crate::wire::locator::sealed_len;

/// Within which content is recognised as equal. Without a salt that is the whole world; with one it is
/// whoever holds the salt. Pieces of different domains never share a key or a chunk.
pub struct Domain {
    hash_key: Option<Zeroizing<[u8; 32]>>,
}

impl Domain {
    /// The domain of a salt, or the common one.
    pub fn new(salt: Option<&Secret>) -> Self {
        let key = |salt| Zeroizing::new(*kdf::expand(salt, "tornet salt domain v1", b"").as_bytes());
        Self { hash_key: salt.map(key) }
    }
}

/// What a piece is recognised by within its domain, and what its key is derived from: as secret as the
/// piece itself, so it has no `Debug`. For the publisher's own database only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceHash(pub [u8; 32]);

impl PieceHash {
    fn key(&self) -> Secret {
        kdf::expand(&Secret::from_bytes(self.0), "tornet piece key v1", b"")
    }
}

/// One piece of plaintext with its hash.
pub struct Piece<'a> {
    plain: &'a [u8],
    hash: PieceHash,
}

/// A piece as it goes into a chunk.
pub struct SealedPiece {
    /// What it is recognised by.
    pub hash: PieceHash,
    /// The key that opens it.
    pub key: [u8; 32],
    /// Plaintext length, bytes.
    pub plain_len: u32,
    /// The sealed records, one after another.
    pub sealed: Vec<u8>,
}

impl<'a> Piece<'a> {
    /// Hashes 1 to [`PIECE_PLAIN_MAX`] bytes.
    ///
    /// # Panics
    /// When there are none or more: the caller cuts pieces.
    pub fn new(plain: &'a [u8], domain: &Domain) -> Self {
        assert!(!plain.is_empty() && plain.len() <= PIECE_PLAIN_MAX, "a piece of {} bytes", plain.len());
        let hash = match &domain.hash_key {
            None => blake3::hash(plain),
            Some(key) => blake3::keyed_hash(key, plain),
        };
        Self { plain, hash: PieceHash(*hash.as_bytes()) }
    }

    /// What the piece is recognised by.
    pub fn hash(&self) -> &PieceHash {
        &self.hash
    }

    /// Plaintext length, bytes.
    pub fn plain_len(&self) -> u32 {
        self.plain.len() as u32
    }

    /// Seals the piece.
    pub fn seal(&self) -> SealedPiece {
        let mut sealed = Vec::with_capacity(sealed_len(self.plain.len()));
        let secret = self.hash.key();
        let key = PieceKey::new(secret.as_bytes());
        for (index, record) in self.plain.chunks(RECORD_PLAIN).enumerate() {
            let start = sealed.len();
            sealed.extend_from_slice(record);
            let tag = key.seal(index as u32, &mut sealed[start..]);
            sealed.extend_from_slice(&tag);
        }
        SealedPiece { hash: self.hash, key: *secret.as_bytes(), plain_len: self.plain_len(), sealed }
    }
}

/// The expanded key of one piece: make it once for all its records (an expansion costs as much as a few
/// hundred bytes of AES).
pub struct PieceKey(AeadKey);

impl PieceKey {
    /// Expands the key of a locator.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(AeadKey::new(Suite::Aes256Gcm, &Secret::from_bytes(*key)))
    }

    fn seal(&self, index: u32, record: &mut [u8]) -> [u8; TAG_SIZE] {
        self.0.seal(nonce(index), b"", record)
    }

    /// Opens record `index` of the piece where it lies; `sealed` is its ciphertext and tag. Returns the
    /// length of the plaintext, which begins at `sealed[0]`. On failure the bytes are garbage.
    pub fn open_record(&self, index: u32, sealed: &mut [u8]) -> Result<usize, Forged> {
        if sealed.len() <= TAG_SIZE || sealed.len() > SLICE_SIZE {
            return Err(Forged);
        }
        self.0.open(nonce(index), b"", sealed).map(|plain| plain.len())
    }

    /// The tag that sealing `record` as record `index` gives: equal to a remembered one exactly when the
    /// plaintext is the same, so what an interrupted `get` wrote need not be fetched again. **Afterwards
    /// `record` is ciphertext**; it was read from a file and is read again if it is wanted.
    pub fn reseal_tag(&self, index: u32, record: &mut [u8]) -> [u8; TAG_SIZE] {
        self.seal(index, record)
    }
}

fn nonce(index: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&index.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open_all(sealed: &SealedPiece) -> Result<Vec<u8>, Forged> {
        let key = PieceKey::new(&sealed.key);
        let mut out = Vec::new();
        for (index, record) in sealed.sealed.chunks(SLICE_SIZE).enumerate() {
            let mut record = record.to_vec();
            let len = key.open_record(index as u32, &mut record)?;
            out.extend_from_slice(&record[..len]);
        }
        Ok(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn opens_what_it_sealed_and_nothing_else(
            len in prop_oneof![1usize..200, 65_500usize..65_560, Just(PIECE_PLAIN_MAX)],
            byte in any::<u8>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let plain = vec![byte; len];
            let mut sealed = Piece::new(&plain, &Domain::new(None)).seal();
            prop_assert_eq!(sealed.sealed.len(), sealed_len(len));
            prop_assert_eq!(open_all(&sealed), Ok(plain.clone()));
            for (index, record) in plain.chunks(RECORD_PLAIN).enumerate() {
                let end = (index * SLICE_SIZE + SLICE_SIZE).min(sealed.sealed.len());
                let mut again = record.to_vec();
                let tag = PieceKey::new(&sealed.key).reseal_tag(index as u32, &mut again);
                prop_assert_eq!(&tag[..], &sealed.sealed[end - TAG_SIZE..end]);
            }
            let at = flip.index(sealed.sealed.len());
            sealed.sealed[at] ^= 1;
            prop_assert_eq!(open_all(&sealed), Err(Forged));
        }
    }

    #[test]
    fn records_cannot_change_places_and_odd_lengths_are_refused() {
        let sealed = Piece::new(&[7; 2 * RECORD_PLAIN], &Domain::new(None)).seal();
        let key = PieceKey::new(&sealed.key);
        assert_eq!(key.open_record(1, &mut sealed.sealed[..SLICE_SIZE].to_vec()), Err(Forged));
        for len in [0, 1, TAG_SIZE, SLICE_SIZE + 1] {
            assert_eq!(key.open_record(0, &mut vec![0; len]), Err(Forged), "{len}");
        }
    }

    #[test]
    fn a_salt_changes_hash_key_and_ciphertext() {
        let salts = [Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32])];
        let domains = [Domain::new(None), Domain::new(Some(&salts[0])), Domain::new(Some(&salts[1]))];
        let sealed: Vec<_> = domains.iter().map(|d| Piece::new(b"the same", d).seal()).collect();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(sealed[a].hash != sealed[b].hash && sealed[a].key != sealed[b].key);
            assert_ne!(sealed[a].sealed, sealed[b].sealed);
        }
        let again = Piece::new(b"the same", &Domain::new(Some(&salts[0]))).seal();
        assert!(again.hash == sealed[1].hash && again.sealed == sealed[1].sealed);
        assert!(sealed[0].key != sealed[0].hash.0);
    }
}

//! The outer form of handshake datagrams (docs/protocol/packet.md §4): without the receiver's identity
//! nobody can tell one from random bytes, or make one.
//!
//! ```text
//! 0        8        12       20                    n-16  n
//! | marker | nonce 0…3 | nonce 4…11 | sealed body … | tag |      INIT and REPLY
//!   masked                clear
//!
//! 0       12                                n-16  n
//! | nonce | sealed: cookie 16, padding 0–63 | tag |              COOKIE
//! ```

use std::ops::Range;

use crate::base::{PublicKey, Rng};
use crate::crypto::identity::{header_mask, outer_secret};
use crate::crypto::{AeadKey, MaskKey, Secret, Suite, kdf};
use crate::limits::{CID_SIZE, HEADER_SIZE, TAG_SIZE};
use crate::wire::packet::{split_sample, toggle_mask};

/// Where the sealed body begins.
pub(super) const BODY_AT: usize = HEADER_SIZE + 8;
/// What the disguise adds to a body, bytes.
pub(super) const OVERHEAD: usize = BODY_AT + TAG_SIZE;
/// Bytes of the time at the head of an INIT's body.
pub(super) const STAMP_SIZE: usize = 8;
/// Bytes of a cookie.
pub(super) const COOKIE_SIZE: usize = 16;
/// A COOKIE datagram at most, bytes.
pub(super) const COOKIE_DATAGRAM_MAX: usize = COOKIE_DATAGRAM_MIN + COOKIE_PADDING_MAX;

const COOKIE_DATAGRAM_MIN: usize = HEADER_SIZE + COOKIE_SIZE + TAG_SIZE;
const COOKIE_PADDING_MAX: usize = 63;
// ChaCha20-Poly1305 is quick on every CPU, and a handshake's cost is its Diffie-Hellman anyway.
const SUITE: Suite = Suite::ChaCha20Poly1305;

/// What one first flight's cookie is bound to.
pub(super) type OuterNonce = [u8; 12];

/// The disguise of everything sent to one node.
pub(super) struct Disguise {
    key: AeadKey,
    pub(super) mask: MaskKey,
    secret: Secret,
}

impl Disguise {
    pub(super) fn of(key: &PublicKey) -> Self {
        let secret = outer_secret(key);
        let handshake = kdf::expand(&secret, "tornet outer handshake", b"");
        Self { key: AeadKey::new(SUITE, &handshake), mask: header_mask(key), secret }
    }

    /// Seals the body that lies at [`BODY_AT`]; the last 16 bytes are for the tag.
    pub(super) fn seal(&self, marker: u64, rng: &mut Rng, datagram: &mut [u8]) -> OuterNonce {
        let nonce: OuterNonce = rng.bytes();
        let mut header = [0; HEADER_SIZE];
        header[..CID_SIZE].copy_from_slice(&marker.to_le_bytes());
        header[CID_SIZE..].copy_from_slice(&nonce[..4]);
        datagram[HEADER_SIZE..BODY_AT].copy_from_slice(&nonce[4..]);
        let end = datagram.len() - TAG_SIZE;
        let tag = self.key.seal(nonce, &header, &mut datagram[BODY_AT..end]);
        datagram[end..].copy_from_slice(&tag);
        toggle_mask(&mut header, &self.mask.mask(&tag));
        datagram[..HEADER_SIZE].copy_from_slice(&header);
        nonce
    }

    /// Opens the body where it lies. `header` is unmasked and has the marker that the caller wants.
    pub(super) fn open(
        &self,
        header: &[u8; HEADER_SIZE],
        datagram: &mut [u8],
    ) -> Option<(OuterNonce, Range<usize>)> {
        let mut nonce: OuterNonce = [0; 12];
        nonce[..4].copy_from_slice(&header[CID_SIZE..]);
        nonce[4..].copy_from_slice(datagram.get(HEADER_SIZE..BODY_AT)?);
        let body = self.key.open(nonce, header, datagram.get_mut(BODY_AT..)?).ok()?;
        let len = body.len();
        Some((nonce, BODY_AT..BODY_AT + len))
    }

    /// The header of a datagram sent to this node, unmasked; the datagram stays as it is.
    pub(super) fn header(&self, datagram: &[u8]) -> Option<[u8; HEADER_SIZE]> {
        let (mut header, sample) = split_sample(datagram)?;
        toggle_mask(&mut header, &self.mask.mask(sample));
        Some(header)
    }

    /// The key that the answer to one first flight is disguised with when it is a cookie: the responder
    /// does not know yet who asks.
    pub(super) fn cookie_key(&self, init: &OuterNonce) -> Secret {
        kdf::expand(&self.secret, "tornet cookie", init)
    }
}

/// Makes a COOKIE datagram.
pub(super) fn write_cookie(key: &Secret, cookie: &[u8; COOKIE_SIZE], rng: &mut Rng) -> Vec<u8> {
    let padding = rng.below(COOKIE_PADDING_MAX as u64 + 1) as usize;
    let nonce: OuterNonce = rng.bytes();
    let mut out = vec![0; COOKIE_DATAGRAM_MIN + padding];
    out[..HEADER_SIZE].copy_from_slice(&nonce);
    out[HEADER_SIZE..HEADER_SIZE + COOKIE_SIZE].copy_from_slice(cookie);
    let end = out.len() - TAG_SIZE;
    let tag = AeadKey::new(SUITE, key).seal(nonce, b"", &mut out[HEADER_SIZE..end]);
    out[end..].copy_from_slice(&tag);
    out
}

/// Reads a COOKIE datagram, which stays as it is.
pub(super) fn read_cookie(key: &Secret, datagram: &[u8]) -> Option<[u8; COOKIE_SIZE]> {
    if !may_be_cookie(datagram) {
        return None;
    }
    let nonce = *datagram.first_chunk()?;
    let mut scratch = [0; COOKIE_DATAGRAM_MAX];
    let body = &mut scratch[..datagram.len() - HEADER_SIZE];
    body.copy_from_slice(&datagram[HEADER_SIZE..]);
    AeadKey::new(SUITE, key).open(nonce, b"", body).ok()?.first_chunk().copied()
}

/// Whether a datagram has the size of a COOKIE.
pub(super) fn may_be_cookie(datagram: &[u8]) -> bool {
    (COOKIE_DATAGRAM_MIN..=COOKIE_DATAGRAM_MAX).contains(&datagram.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;

    fn key(seed: u8) -> PublicKey {
        Identity::new(Secret::from_bytes([seed; 32]), 0, 0).card().key
    }

    #[test]
    fn only_the_receivers_identity_opens_it() {
        let (disguise, other, mut rng) = (Disguise::of(&key(1)), Disguise::of(&key(2)), Rng::from_number(1));
        let mut datagram = [7; OVERHEAD + 10];
        let nonce = disguise.seal(0x1234, &mut rng, &mut datagram);
        let header = disguise.header(&datagram).unwrap();
        assert_eq!(header[..8], 0x1234u64.to_le_bytes());
        assert_ne!(other.header(&datagram).unwrap()[..8], 0x1234u64.to_le_bytes());
        assert_eq!(other.open(&header, &mut datagram.clone()), None);
        for at in HEADER_SIZE..datagram.len() {
            let mut forged = datagram;
            forged[at] ^= 1;
            assert_eq!(disguise.open(&header, &mut forged), None);
        }
        assert_eq!(disguise.open(&header, &mut datagram), Some((nonce, BODY_AT..BODY_AT + 10)));
        assert_eq!(datagram[BODY_AT..BODY_AT + 10], [7; 10]);
    }

    #[test]
    fn a_cookie_belongs_to_one_first_flight() {
        let (disguise, mut rng) = (Disguise::of(&key(1)), Rng::from_number(1));
        let (mine, other) = (disguise.cookie_key(&[1; 12]), disguise.cookie_key(&[2; 12]));
        for _ in 0..50 {
            let datagram = write_cookie(&mine, &[9; 16], &mut rng);
            assert!(datagram.len() <= COOKIE_DATAGRAM_MAX);
            assert_eq!(read_cookie(&mine, &datagram), Some([9; 16]));
            assert_eq!(read_cookie(&other, &datagram), None);
            assert_eq!(read_cookie(&mine, &datagram[1..]), None);
        }
    }
}

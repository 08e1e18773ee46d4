//! Who a node is: an Ed25519 key, the place nonce and the rank nonce.

use ring::digest::{SHA512, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::kdf::{self, Secret};
use super::mask::MaskKey;
use super::{dh, rank};
use crate::base::{NodeId, PublicKey};

/// The public half: what invitations and handshakes carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityCard {
    /// Ed25519 public key.
    pub key: PublicKey,
    /// Chooses the place, `NodeId = SHA-1(key ‖ place nonce)`.
    pub place_nonce: u64,
    /// Chooses the rank.
    pub rank_nonce: u64,
}

/// Why a card is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCard {
    /// The key is no usable curve point.
    #[error("its public key is not a valid Ed25519 key")]
    Key,
    /// The place does not show the network's floor of work.
    #[error("its place shows {found} bits of work where the network asks for {floor}")]
    Floor {
        /// Bits found.
        found: u32,
        /// Bits wanted.
        floor: u32,
    },
}

impl IdentityCard {
    /// Encoded length, bytes.
    pub const LEN: usize = 48;

    /// The node's 160-bit place.
    pub fn node_id(&self) -> NodeId {
        rank::place(&self.key, self.place_nonce)
    }

    /// The node's rank, 1 to 161.
    pub fn rank(&self) -> u32 {
        rank::rank(&self.key, &self.node_id(), self.rank_nonce)
    }

    /// Checks the key and that the place shows `floor` bits of work.
    pub fn check(&self, floor: u32) -> Result<(), BadCard> {
        dh::montgomery(&self.key).ok_or(BadCard::Key)?;
        let found = rank::place_work(&self.key, &self.node_id());
        if found < floor { Err(BadCard::Floor { found, floor }) } else { Ok(()) }
    }

    /// `key 32 | place nonce 8 | rank nonce 8`, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..32].copy_from_slice(&self.key.0);
        out[32..40].copy_from_slice(&self.place_nonce.to_le_bytes());
        out[40..].copy_from_slice(&self.rank_nonce.to_le_bytes());
        out
    }

    /// Reads what [`Self::to_bytes`] wrote. Says nothing about validity: see [`Self::check`].
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self {
            key: PublicKey(bytes[..32].try_into().expect("32 bytes")),
            place_nonce: word(32),
            rank_nonce: word(40),
        }
    }

    /// Checks a signature made by [`Identity::sign`]. A key of small order, with which nobody can speak, has signed
    /// nothing: RFC 8032 §8.9 lets verifiers accept for it what nobody made.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8]) -> bool {
        if dh::montgomery(&self.key).is_none() {
            return false;
        }
        UnparsedPublicKey::new(&ED25519, &self.key.0).verify(&signed(context, message), signature).is_ok()
    }
}

/// The secret that everything sent *to* a node is disguised with: known to whoever knows its identity,
/// to nobody else (docs/protocol/packet.md §3).
pub fn outer_secret(key: &PublicKey) -> Secret {
    kdf::extract(b"tornet outer v1", &key.0)
}

/// The mask for the headers of packets sent to the node with this key.
pub fn header_mask(key: &PublicKey) -> MaskKey {
    MaskKey::derive(&outer_secret(key), "tornet header mask")
}

/// A node's identity with its private key. Not `Clone`, no `Debug`: share it behind an `Arc`.
pub struct Identity {
    card: IdentityCard,
    pair: Ed25519KeyPair,
    seed: Secret,
    dh_secret: Zeroizing<[u8; 32]>,
    dh_public: [u8; 32],
}

impl Identity {
    /// From the 32-byte Ed25519 seed and the two nonces.
    pub fn new(seed: Secret, place_nonce: u64, rank_nonce: u64) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).expect("any 32 bytes are a seed");
        let key = PublicKey(pair.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes"));
        // Made once: a handshake would spend a sixth of its time on them.
        let mut dh_secret = Zeroizing::new([0; 32]);
        dh_secret.copy_from_slice(&digest(&SHA512, seed.as_bytes()).as_ref()[..32]);
        let dh_public = dh::public_of(&dh_secret);
        Self { card: IdentityCard { key, place_nonce, rank_nonce }, pair, seed, dh_secret, dh_public }
    }

    /// One that shows no more than the network's floor of work, for a purpose that nobody is to know us by; `start` is
    /// random. Takes as long as [`rank::mine_place`].
    pub fn passing(seed: Secret, start: u64, floor: u32) -> Self {
        let identity = Self::new(seed, 0, start);
        let place_nonce = rank::mine_place(&identity.card.key, start, floor);
        identity.with_nonces(place_nonce, start)
    }

    /// The public half.
    pub fn card(&self) -> &IdentityCard {
        &self.card
    }

    /// The same key with other nonces.
    pub fn with_nonces(&self, place_nonce: u64, rank_nonce: u64) -> Self {
        Self::new(self.seed.clone(), place_nonce, rank_nonce)
    }

    /// The seed, for the key file only.
    pub fn seed(&self) -> &Secret {
        &self.seed
    }

    /// The X25519 private key of the same point (RFC 8032 §5.1.5 expansion; clamped where it is used).
    pub fn dh_secret(&self) -> &[u8; 32] {
        &self.dh_secret
    }

    /// The X25519 public key of [`Self::dh_secret`].
    pub fn dh_public(&self) -> &[u8; 32] {
        &self.dh_public
    }

    /// Signs `message` for one purpose.
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; 64] {
        self.pair
            .sign(&signed(context, message))
            .as_ref()
            .try_into()
            .expect("Ed25519 signatures have 64 bytes")
    }
}

fn signed(context: &str, message: &[u8]) -> Vec<u8> {
    [b"tornet signature v1\0".as_slice(), context.as_bytes(), b"\0", message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_montgomery_key_belongs_to_the_dh_secret() {
        let identity = Identity::new(Secret::from_bytes([9; 32]), 0, 0);
        let secret = x25519_dalek::StaticSecret::from(*identity.dh_secret());
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        assert_eq!(dh::montgomery(&identity.card().key), Some(public));
        assert_eq!(*identity.dh_public(), public);
    }

    /// Found by a fuzzer: with a key of small order, 64 zeros are a signature of every eighth message, or of all.
    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // y = 0 (order 4), the neutral element, y = -1 (order 2).
        let minus_one = std::array::from_fn(|at| {
            if at == 0 {
                0xec
            } else if at == 31 {
                0x7f
            } else {
                0xff
            }
        });
        let neutral = std::array::from_fn(|at| u8::from(at == 0));
        for key in [[0; 32], neutral, minus_one] {
            let card = IdentityCard { key: PublicKey(key), place_nonce: 0, rank_nonce: 0 };
            for (first, message) in (0..64u8).flat_map(|message| [(0, message), (1, message)]) {
                let mut signature = [0; 64];
                signature[0] = first;
                assert!(!card.verify("a", &[message], &signature), "{key:?} {message}");
            }
        }
    }

    #[test]
    fn signatures_are_bound_to_their_context() {
        let identity = Identity::new(Secret::from_bytes([9; 32]), 0, 0);
        let signature = identity.sign("a", b"message");
        assert!(identity.card().verify("a", b"message", &signature));
        assert!(!identity.card().verify("b", b"message", &signature));
        assert!(!identity.card().verify("a", b"massage", &signature));
    }

    #[test]
    fn a_card_round_trips_and_small_order_keys_are_refused() {
        let card = IdentityCard { key: PublicKey([5; 32]), place_nonce: 1 << 40, rank_nonce: 7 };
        assert_eq!(IdentityCard::from_bytes(&card.to_bytes()), card);
        let mut one = [0; 32];
        one[0] = 1;
        let neutral = IdentityCard { key: PublicKey(one), ..card };
        assert_eq!(neutral.check(0), Err(BadCard::Key));
    }
}

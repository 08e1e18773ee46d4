//! Work bound to an identity: the place's floor and the rank (DESIGN "Session and cryptography").
//!
//! * **place**: `NodeId = SHA-1(public key ‖ place nonce)`; the place is admitted when
//!   `SHA-1("tornet place" ‖ NodeId ‖ public key)` begins with [`PLACE_FLOOR_BITS`] zero bits, so every
//!   new place near a popular chunk costs work again.
//! * **rank** `= 161 − bits(SHA-1(rank nonce ‖ NodeId ‖ public key))`, `bits` being the number of
//!   significant bits. It can be mined higher at any time without moving.

use super::hash::sha1;
use crate::base::{NodeId, PublicKey};

/// Zero bits that the floor of every place must show: about 65,000 hashes, 20 ms.
pub const PLACE_FLOOR_BITS: u32 = 16;

/// The place that a nonce gives to a key.
pub fn place(key: &PublicKey, nonce: u64) -> NodeId {
    NodeId(sha1(&[&key.0, &nonce.to_le_bytes()]))
}

/// Leading zero bits of the place's work.
pub fn place_work(key: &PublicKey, node: &NodeId) -> u32 {
    leading_zeros(&sha1(&[b"tornet place", &node.0, &key.0]))
}

/// The first nonce, from `start`, whose place shows `floor` bits of work. With [`PLACE_FLOOR_BITS`], not worth a second
/// core.
pub fn mine_place(key: &PublicKey, start: u64, floor: u32) -> u64 {
    let mut nonce = start;
    while place_work(key, &place(key, nonce)) < floor {
        nonce = nonce.wrapping_add(1);
    }
    nonce
}

/// The rank that a nonce gives: 1 (no work) to 161.
pub fn rank(key: &PublicKey, node: &NodeId, nonce: u64) -> u32 {
    1 + leading_zeros(&sha1(&[&nonce.to_le_bytes(), &node.0, &key.0]))
}

/// Hashes that mining `rank` takes on average: 2^(rank − 1).
pub fn expected_hashes(rank: u32) -> f64 {
    2f64.powi(rank.saturating_sub(1).min(1023) as i32)
}

fn leading_zeros(hash: &[u8; 20]) -> u32 {
    NodeId(*hash).distance(&[0; 20]).abs_diff(160)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_is_161_less_the_significant_bits() {
        assert_eq!(leading_zeros(&[0; 20]), 160);
        let mut hash = [0; 20];
        hash[1] = 0x10;
        assert_eq!(leading_zeros(&hash), 11);
        hash[0] = 0xff;
        assert_eq!(leading_zeros(&hash), 0);
        let key = PublicKey([3; 32]);
        let node = place(&key, 1);
        let best = (0..4096).map(|nonce| rank(&key, &node, nonce)).max();
        assert!(best.is_some_and(|best| (9..40).contains(&best)));
        assert_eq!(expected_hashes(1), 1.0);
        assert_eq!(expected_hashes(11), 1024.0);
    }
}

//! Distances between places (Kademlia §2): XOR, read as a number.

/// A place in the network: a node's or a chunk's 160 bits.
pub type Key = [u8; 20];

/// The XOR distance.
pub fn distance(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// How many first bits two places share: 0 to 160. The seeds' distance is 160 less this.
pub fn shared_bits(a: &Key, b: &Key) -> u32 {
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        if a != b {
            return at as u32 * 8 + (a ^ b).leading_zeros();
        }
    }
    160
}

/// The first 64 bits of a distance: enough to measure with, in networks of up to 2⁴⁰ nodes.
pub fn leading(distance: &Key) -> u64 {
    u64::from_be_bytes(*distance.first_chunk().expect("20 bytes"))
}

/// A place drawn among those that share exactly `bits` first bits with `own`.
pub fn sharing(own: &Key, bits: u32, mut random: Key) -> Key {
    for bit in 0..=bits.min(159) {
        let (at, mask) = (bit as usize / 8, 0x80 >> (bit % 8));
        let wanted = if bit == bits { !own[at] } else { own[at] };
        random[at] = random[at] & !mask | wanted & mask;
    }
    random
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn drawn_places_share_what_they_should(own: [u8; 20], random: [u8; 20], bits in 0u32..160) {
            let place = sharing(&own, bits, random);
            prop_assert_eq!(shared_bits(&own, &place), bits);
            prop_assert_eq!(shared_bits(&own, &own), 160);
            prop_assert_eq!(leading(&distance(&own, &place)).leading_zeros(), bits.min(64));
        }
    }
}

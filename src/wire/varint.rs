//! Variable-length integers: RFC 9000 §16, the length in the two highest bits of the first byte,
//! big-endian (the one exception to little-endian here), 1, 2, 4 or 8 bytes, up to 2⁶² − 1.

/// The largest number that fits.
pub const MAX: u64 = (1 << 62) - 1;

/// Bytes that `value` takes.
pub const fn size(value: u64) -> usize {
    match value {
        0..=63 => 1,
        64..=16_383 => 2,
        16_384..=1_073_741_823 => 4,
        _ => 8,
    }
}

/// Writes `value` (at most [`MAX`], or it is cut) at the start of `into`; returns the bytes used, or
/// `None` when there is no room.
pub fn put(into: &mut [u8], value: u64) -> Option<usize> {
    let len = size(value);
    let out = into.get_mut(..len)?;
    let tagged = (value & MAX) | ((len.trailing_zeros() as u64) << (8 * len - 2));
    out.copy_from_slice(&tagged.to_be_bytes()[8 - len..]);
    Some(len)
}

/// Reads a number from the start of `from`; returns it and the bytes used.
pub fn get(from: &[u8]) -> Option<(u64, usize)> {
    let len = 1usize << (from.first()? >> 6);
    let mut bytes = [0; 8];
    bytes[8 - len..].copy_from_slice(from.get(..len)?);
    let mask = u64::MAX >> (64 - 8 * len + 2);
    Some((u64::from_be_bytes(bytes) & mask, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(value in prop_oneof![0..=MAX, 0..70u64, 16_000..17_000u64, (1u64 << 30) - 5..(1 << 30) + 5]) {
            let mut bytes = [0; 8];
            let len = put(&mut bytes, value).unwrap();
            prop_assert_eq!(len, size(value));
            prop_assert_eq!(get(&bytes[..len]), Some((value, len)));
            prop_assert_eq!(get(&bytes[..len - 1]), None);
            prop_assert_eq!(put(&mut bytes[..len - 1], value), None);
        }
    }
}

//! The names of things: nodes, chunks, keys, channels and streams.

use std::fmt;
use std::str::FromStr;

/// A text that should have been so many hexadecimal digits and was not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got {got:?}")]
pub struct NotHex {
    /// How many digits were wanted.
    pub expected: usize,
    /// What was given, cut to 64 characters.
    pub got: String,
}

/// Writes `bytes` as lower-case hexadecimal.
pub fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// `bytes` as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    struct Hex<'a>(&'a [u8]);
    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_hex(f, self.0)
        }
    }
    Hex(bytes).to_string()
}

/// Reads exactly `N` bytes of hexadecimal, either case.
pub fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let wrong = || NotHex { expected: 2 * N, got: text.chars().take(64).collect() };
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(wrong());
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16).ok_or_else(wrong)?;
        let low = (pair[1] as char).to_digit(16).ok_or_else(wrong)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(out)
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes the first bytes of `bytes`; `None` when there are too few.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.get(..$len)?.try_into().ok().map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotHex;
            fn from_str(text: &str) -> Result<Self, NotHex> {
                parse_hex::<$len>(text).map(Self)
            }
        }
    };
}

byte_id!(
    /// The 160-bit place of a node in the network: `SHA-1(public key ‖ place nonce)`.
    NodeId, 20
);
byte_id!(
    /// The 160-bit address of a chunk: `SHA-1(ciphertext)`. Integrity rests on the BLAKE3 root that
    /// travels in references, never on this.
    ChunkId, 20
);
byte_id!(
    /// An Ed25519 public key. Friends and accounts are keyed by it.
    PublicKey, 32
);

impl NodeId {
    /// `log2` of the XOR distance to a 160-bit address: the number of significant bits, 0 (same) to
    /// 160 (the first bit differs). The seeds' distance.
    pub fn distance(&self, other: &[u8; 20]) -> u32 {
        for (index, (a, b)) in self.0.iter().zip(other).enumerate() {
            let differing = a ^ b;
            if differing != 0 {
                return 160 - (index as u32 * 8 + differing.leading_zeros());
            }
        }
        0
    }
}

/// The number of a service multiplexed in a session. Assigned in `docs/protocol/channels.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u16);

/// A stream of one session. The lowest bit names the side that opened it: 0 the initiator of the
/// session, 1 the responder. All streams are bidirectional.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Whether the session's initiator opened this stream.
    pub fn by_initiator(self) -> bool {
        self.0 & 1 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_significant_bits() {
        let zero = NodeId([0; 20]);
        assert_eq!(zero.distance(&[0; 20]), 0);
        let mut one = [0; 20];
        one[19] = 1;
        assert_eq!(zero.distance(&one), 1);
        one[0] = 0x80;
        assert_eq!(zero.distance(&one), 160);
    }

    #[test]
    fn hex_round_trips_and_refuses_what_is_not_hex() {
        let id = ChunkId([0xab; 20]);
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        for bad in ["", "zz", &"é".repeat(20), &"g".repeat(40)] {
            assert!(bad.parse::<ChunkId>().is_err());
        }
    }
}

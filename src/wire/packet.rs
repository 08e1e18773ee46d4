//! Data packets: header, numbers and kinds (docs/protocol/packet.md §1).
//!
//! ```text
//! 0     8        12     13           n-16  n
//! | cid | number | type | payload …  | tag |
//!   masked         sealed
//! ```

use crate::limits::{CID_SIZE, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE};

/// Where the type byte lies.
pub const KIND_AT: usize = HEADER_SIZE;
/// Where the payload begins.
pub const PAYLOAD_AT: usize = HEADER_SIZE + 1;
/// Bits of the packet number that travel.
pub const NUMBER_BITS: u32 = 29;

const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;
const EPOCH_SHIFT: u32 = 30;

/// Which of a lane's two series of packet numbers a packet is numbered in. Packets that nobody acknowledges have
/// one of their own: their millions would leave gaps in what is acknowledged, and the losses among them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Series {
    /// Packets that are acknowledged, and control packets.
    Stream = 0,
    /// Packets that leave once or never.
    Datagram = 1,
}

/// What a packet's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketKind {
    /// Frames of streams and channels (`docs/protocol/stream.md`).
    Stream = 0,
    /// Messages of the session itself ([`super::control`]); callers never see one.
    Control = 1,
    /// One IP packet of a tunnel, whole (`docs/protocol/tunnel.md`).
    Datagram = 2,
    /// A cell of a circuit ([`super::cell`]).
    Cell = 3,
    /// One IP packet of a tunnel whose TCP or UDP checksum is left to the receiver.
    Unsummed = 4,
}

impl PacketKind {
    /// From the type byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stream),
            1 => Some(Self::Control),
            2 => Some(Self::Datagram),
            3 => Some(Self::Cell),
            4 => Some(Self::Unsummed),
            _ => None,
        }
    }

    /// What its packets are numbered in.
    pub fn series(self) -> Series {
        match self {
            Self::Stream | Self::Control => Series::Stream,
            Self::Datagram | Self::Cell | Self::Unsummed => Series::Datagram,
        }
    }
}

/// An unmasked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The receiver's connection id.
    pub cid: u64,
    /// The key's epoch, modulo 4.
    pub epoch: u8,
    /// What the packet is numbered in.
    pub series: Series,
    /// The packet number's low [`NUMBER_BITS`] bits.
    pub number: u32,
}

impl Header {
    /// Cuts epoch and number to what travels.
    pub fn new(cid: u64, epoch: u64, series: Series, number: u64) -> Self {
        Self { cid, epoch: (epoch & 3) as u8, series, number: number as u32 & NUMBER_MASK }
    }

    /// Reads the 12 bytes; any 12 bytes are a header.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Self {
        let cid = u64::from_le_bytes(bytes[..CID_SIZE].try_into().expect("eight bytes"));
        let field = u32::from_le_bytes(bytes[CID_SIZE..].try_into().expect("four bytes"));
        let series = if field >> NUMBER_BITS & 1 == 0 { Series::Stream } else { Series::Datagram };
        Self { cid, epoch: (field >> EPOCH_SHIFT) as u8, series, number: field & NUMBER_MASK }
    }

    /// Writes the 12 bytes.
    pub fn emit(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[..CID_SIZE].copy_from_slice(&self.cid.to_le_bytes());
        let series = (self.series as u32) << NUMBER_BITS;
        let field = u32::from(self.epoch) << EPOCH_SHIFT | series | self.number & NUMBER_MASK;
        out[CID_SIZE..].copy_from_slice(&field.to_le_bytes());
        out
    }
}

/// The full packet number: the one nearest to `expected` (highest authenticated + 1) whose low bits are
/// `truncated` (RFC 9000 §A.3).
pub fn expand_number(expected: u64, truncated: u32) -> u64 {
    const WINDOW: u64 = 1 << NUMBER_BITS;
    const HALF: u64 = WINDOW / 2;
    let candidate = expected & !(WINDOW - 1) | u64::from(truncated & NUMBER_MASK);
    if candidate.saturating_add(HALF) <= expected {
        candidate.saturating_add(WINDOW)
    } else if candidate > expected.saturating_add(HALF) && candidate >= WINDOW {
        candidate - WINDOW
    } else {
        candidate
    }
}

/// The AEAD nonce of a packet: its full number, little-endian, and its series, padded to 96 bits.
pub fn nonce(series: Series, number: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&number.to_le_bytes());
    out[8] = series as u8;
    out
}

/// The header (still masked) and the sample that its mask is made from: the first 12 and the last 16
/// bytes. `None` for what is shorter than any packet.
pub fn split_sample(datagram: &[u8]) -> Option<([u8; HEADER_SIZE], &[u8; TAG_SIZE])> {
    if datagram.len() < PACKET_OVERHEAD {
        return None;
    }
    Some((*datagram.first_chunk()?, datagram.last_chunk()?))
}

/// Masks or unmasks a header.
pub fn toggle_mask(header: &mut [u8; HEADER_SIZE], mask: &[u8; 16]) {
    header.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(cid: u64, epoch: u64, datagram: bool, number: u64) {
            let series = if datagram { Series::Datagram } else { Series::Stream };
            let header = Header::new(cid, epoch, series, number);
            prop_assert_eq!(Header::parse(&header.emit()), header);
        }

        #[test]
        fn any_bytes_are_a_header(bytes: [u8; HEADER_SIZE]) {
            prop_assert_eq!(Header::parse(&bytes).emit(), bytes);
        }

        #[test]
        fn numbers_near_the_expected_one_survive(expected in prop_oneof![0u64..1 << 40, 0u64..5000, (1u64 << 29) - 9..(1 << 29) + 9], delta in -(1i64 << 28) + 1..1 << 28) {
            let Some(number) = expected.checked_add_signed(delta) else { return Ok(()) };
            let truncated = Header::new(0, 0, Series::Stream, number).number;
            prop_assert_eq!(expand_number(expected, truncated), number);
        }

        #[test]
        fn expanding_never_overflows(expected: u64, truncated: u32) {
            expand_number(expected, truncated);
        }
    }

    #[test]
    fn too_short_for_a_packet() {
        assert!(split_sample(&[0; PACKET_OVERHEAD - 1]).is_none());
        assert!(split_sample(&[0; PACKET_OVERHEAD]).is_some());
        assert_ne!(nonce(Series::Stream, 7), nonce(Series::Datagram, 7), "one key seals both series");
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|b| PacketKind::from_byte(b).map(|k| k as u8)),
            [Some(0), Some(1), Some(2), Some(3), Some(4), None]
        );
    }
}

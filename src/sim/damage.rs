//! Damage that arrives: a bit flipped in what a UDP datagram of an IP packet carries, with the checksum set
//! right again.
//!
//! The kernel drops a datagram whose checksum is wrong, so that a flip on the wire would be one more loss.
//! What is worth testing is the rare flip that gets through: in memory of a router, or one that the 16-bit
//! sum does not show.

use crate::sim::link::UDP_OVERHEAD;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;

/// What an IP packet holds beside the smallest headers of UDP over IPv4: the length that the link model
/// counts in.
pub fn payload_length(packet: usize) -> usize {
    packet.saturating_sub(UDP_OVERHEAD)
}

/// Flips one bit of the UDP payload in an IP packet: bit number `bit`, counted from the payload's first byte's
/// lowest and around its end. `false`, and nothing changed, where there is no such payload: other
/// protocols, fragments after the first, IPv6 with further headers.
pub fn flip(packet: &mut [u8], bit: usize) -> bool {
    let Some(udp) = udp_offset(packet) else { return false };
    let payload = udp + UDP_HEADER;
    let end = packet.len();
    if payload >= end {
        return false;
    }
    let bit = bit % (8 * (end - payload));
    let at = payload + bit / 8;
    // The sum runs over pairs of bytes from the UDP header on; that header is of even length.
    let first = at - (at - payload) % 2;
    let word =
        |packet: &[u8]| u16::from_be_bytes([packet[first], packet.get(first + 1).copied().unwrap_or(0)]);
    let before = word(packet);
    packet[at] ^= 1 << (bit % 8);
    let after = word(packet);
    let sum = u16::from_be_bytes([packet[udp + 6], packet[udp + 7]]);
    // Zero says that there is none.
    if sum != 0 {
        packet[udp + 6..payload].copy_from_slice(&updated(sum, before, after).to_be_bytes());
    }
    true
}

/// Marks an IP packet "congestion experienced" (RFC 3168 §5). `false`, and nothing changed, when its sender does
/// not take the hint.
pub fn mark(packet: &mut [u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 && matches!(packet[1] & 3, 1 | 2) => {
            let before = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] |= 3;
            let after = u16::from_be_bytes([packet[0], packet[1]]);
            let sum = u16::from_be_bytes([packet[10], packet[11]]);
            packet[10..12].copy_from_slice(&updated(sum, before, after).to_be_bytes());
            true
        }
        // The field lies across the second byte, and nothing sums up an IPv6 header.
        Some(6) if packet.len() >= IPV6_HEADER && matches!(packet[1] >> 4 & 3, 1 | 2) => {
            packet[1] |= 0x30;
            true
        }
        _ => false,
    }
}

/// Where the UDP header lies.
fn udp_offset(packet: &[u8]) -> Option<usize> {
    let offset = match packet.first()? >> 4 {
        4 => {
            let offset = usize::from(packet[0] & 0xf) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            (offset >= 20 && fragment == 0 && *packet.get(9)? == UDP).then_some(offset)?
        }
        6 => (*packet.get(6)? == UDP).then_some(IPV6_HEADER)?,
        _ => return None,
    };
    (packet.len() >= offset + UDP_HEADER).then_some(offset)
}

/// RFC 1624, equation 3. A sum that comes out as zero is written as its other zero.
fn updated(sum: u16, before: u16, after: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!before) + u32::from(after);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    match !(total as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A UDP datagram over IPv4 with its checksum, from RFC 768 rather than from the code above.
    fn datagram(payload: &[u8]) -> Vec<u8> {
        let length = (UDP_HEADER + payload.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + length).to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, UDP, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
        packet.extend(4001u16.to_be_bytes());
        packet.extend(4002u16.to_be_bytes());
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let sum = match !sum(&packet) {
            0 => 0xffff,
            sum => sum,
        };
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// One's complement sum over the pseudo header and the datagram: 0xffff where the checksum is right.
    fn sum(packet: &[u8]) -> u16 {
        let mut bytes = packet[12..20].to_vec();
        bytes.extend([0, UDP]);
        bytes.extend(((packet.len() - 20) as u16).to_be_bytes());
        bytes.extend(&packet[20..]);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let total: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let total = (total & 0xffff) + (total >> 16);
        ((total & 0xffff) + (total >> 16)) as u16
    }

    proptest! {
        #[test]
        fn one_bit_differs_and_the_checksum_is_right(
            payload in prop::collection::vec(any::<u8>(), 1..64), bit in 0..4096usize,
        ) {
            let before = datagram(&payload);
            prop_assert_eq!(sum(&before), 0xffff);
            let mut after = before.clone();
            prop_assert!(flip(&mut after, bit));
            let bits: u32 = before[28..].iter().zip(&after[28..]).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(bits, 1);
            prop_assert_eq!(&before[..26], &after[..26]);
            prop_assert_eq!(sum(&after), 0xffff);
            prop_assert_ne!(&after[26..28], &[0, 0]);
        }

        #[test]
        fn no_packet_panics(mut packet in prop::collection::vec(any::<u8>(), 0..80), bit in any::<usize>()) {
            let before = packet.clone();
            if !flip(&mut packet, bit) {
                prop_assert_eq!(packet, before);
            }
        }
    }

    #[test]
    fn only_a_sender_that_takes_the_hint_is_marked() {
        let sum = |header: &[u8]| {
            let total: u32 =
                header[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            (total & 0xffff) + (total >> 16)
        };
        let mut packet = datagram(b"content");
        let own = !(sum(&packet) as u16);
        packet[10..12].copy_from_slice(&own.to_be_bytes());
        assert!(!mark(&mut packet) && packet[1] & 3 == 0);
        packet[1] |= 2;
        packet[10..12].fill(0);
        let own = !(sum(&packet) as u16);
        packet[10..12].copy_from_slice(&own.to_be_bytes());
        assert!(mark(&mut packet) && packet[1] & 3 == 3);
        assert_eq!(sum(&packet), 0xffff, "the header's checksum is right");
        assert!(!mark(&mut packet), "once is enough");
        let mut six = [0u8; 40];
        (six[0], six[1]) = (0x60, 0x10);
        assert!(mark(&mut six) && six[1] == 0x30);
        assert!(!mark(&mut [0x45]) && !mark(&mut []));
    }

    #[test]
    fn what_has_no_checksum_gets_none_and_what_is_not_udp_stays() {
        let mut bare = datagram(b"abc");
        bare[26..28].fill(0);
        assert!(flip(&mut bare, 0));
        assert_eq!(bare[26..29], [0, 0, b'a' ^ 1]);
        assert!(!flip(&mut datagram(b""), 0));
        for (at, byte) in [(9, 6), (7, 1), (0, 0x44), (0, 0x75)] {
            let mut other = datagram(b"abc");
            other[at] = byte;
            let before = other.clone();
            assert!(!flip(&mut other, 0), "byte {at} as {byte}");
            assert_eq!(other, before);
        }
    }
}

//! virtio-net's header as TUN queues have it (linux/virtio_net.h, `struct virtio_net_hdr`), in the machine's own byte
//! order.
//!
//! ```text
//! 0      1         2        4         6           8            10
//! | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset |
//! ```

use crate::base::tun::{Offload, Segmentation};
use crate::limits::TUN_HEADER_SIZE;

const FLAGS: usize = 0;
const KIND: usize = 1;
const HEADER_LEN: usize = 2;
const SEGMENT: usize = 4;
const CHECKSUM_START: usize = 6;
const CHECKSUM_OFFSET: usize = 8;

const NEEDS_CHECKSUM: u8 = 1;
/// The kernel has verified the checksum; it is in place, so that there is nothing to do.
const CHECKSUM_VALID: u8 = 2;

const IPV4_HEADER_MIN: usize = 20;
const IPV6_HEADER: usize = 40;

const fn kind_number(kind: Segmentation) -> u8 {
    match kind {
        Segmentation::None => 0,
        Segmentation::Tcp4 => 1,
        Segmentation::Tcp6 => 4,
        Segmentation::Udp => 5,
    }
}

/// Reads the header before an IP packet, and checks it against the packet; `None` when they contradict each other.
pub fn parse(header: &[u8; TUN_HEADER_SIZE], packet: &[u8]) -> Option<Offload> {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let version = packet.first()? >> 4;
    let least = match version {
        4 => IPV4_HEADER_MIN,
        6 => IPV6_HEADER,
        _ => return None,
    };
    let kinds = [Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp];
    let kind = kinds.into_iter().find(|kind| kind_number(*kind) == header[KIND])?;
    let flags = header[FLAGS];
    if packet.len() < least || flags & !(NEEDS_CHECKSUM | CHECKSUM_VALID) != 0 {
        return None;
    }
    let mut offload = Offload { kind, ..Offload::default() };
    if flags & NEEDS_CHECKSUM != 0 {
        let (start, offset) = (word(CHECKSUM_START), word(CHECKSUM_OFFSET));
        let end = usize::from(start) + usize::from(offset) + 2;
        if usize::from(start) < least || end > packet.len() {
            return None;
        }
        offload.needs_checksum = true;
        (offload.checksum_start, offload.checksum_offset) = (start, offset);
    }
    match (kind, version) {
        (Segmentation::None, _) => return Some(offload),
        (Segmentation::Tcp4, 4) | (Segmentation::Tcp6, 6) | (Segmentation::Udp, _) => {}
        _ => return None,
    }
    (offload.header_len, offload.segment) = (word(HEADER_LEN), word(SEGMENT));
    let fits = usize::from(offload.checksum_start) < packet.len();
    (offload.segment > 0 && offload.needs_checksum && fits).then_some(offload)
}

/// Writes the header of a packet.
pub fn emit(offload: &Offload, header: &mut [u8; TUN_HEADER_SIZE]) {
    header[FLAGS] = if offload.needs_checksum { NEEDS_CHECKSUM } else { 0 };
    header[KIND] = kind_number(offload.kind);
    let fields = [
        (HEADER_LEN, offload.header_len),
        (SEGMENT, offload.segment),
        (CHECKSUM_START, offload.checksum_start),
        (CHECKSUM_OFFSET, offload.checksum_offset),
    ];
    for (at, value) in fields {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(version: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = version << 4 | 5;
        packet
    }

    fn tcp4() -> Offload {
        Offload {
            kind: Segmentation::Tcp4,
            header_len: 52,
            segment: 1300,
            needs_checksum: true,
            checksum_start: 20,
            checksum_offset: 16,
        }
    }

    fn header(offload: &Offload) -> [u8; TUN_HEADER_SIZE] {
        let mut header = [0xff; TUN_HEADER_SIZE];
        emit(offload, &mut header);
        header
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&header(&tcp4()), &packet(4, 9000)), Some(tcp4()));
        assert_eq!(parse(&header(&Offload::default()), &packet(6, 40)), Some(Offload::default()));
        let mut verified = header(&Offload::default());
        verified[FLAGS] = CHECKSUM_VALID;
        assert_eq!(parse(&verified, &packet(4, 20)), Some(Offload::default()));
    }

    #[test]
    fn a_header_that_contradicts_its_packet_is_refused() {
        let lies: [(&str, Offload, Vec<u8>); 8] = [
            ("no packet", Offload::default(), vec![]),
            ("no IP", Offload::default(), packet(5, 100)),
            ("half a header", Offload::default(), packet(6, 39)),
            ("TCP4 in IPv6", tcp4(), packet(6, 9000)),
            ("checksum outside", Offload { checksum_start: 8984, ..tcp4() }, packet(4, 9000)),
            ("checksum in the IP header", Offload { checksum_start: 10, ..tcp4() }, packet(4, 9000)),
            ("no segment size", Offload { segment: 0, ..tcp4() }, packet(4, 9000)),
            ("cut without checksums", Offload { needs_checksum: false, ..tcp4() }, packet(4, 9000)),
        ];
        for (what, offload, packet) in lies {
            assert_eq!(parse(&header(&offload), &packet), None, "{what}");
        }
        for (at, value) in [(KIND, 3), (KIND, 0x81), (FLAGS, 4)] {
            let mut unknown = header(&tcp4());
            unknown[at] = value;
            assert_eq!(parse(&unknown, &packet(4, 9000)), None, "{at}: {value}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_lies_inside_its_packet(
            header: [u8; TUN_HEADER_SIZE],
            kind in 0u8..6,
            flags in 0u8..4,
            version in prop::sample::select(vec![4u8, 6]),
            len in 1usize..2000,
        ) {
            let mut header = header;
            (header[KIND], header[FLAGS]) = (kind, flags);
            if let Some(offload) = parse(&header, &packet(version, len)) {
                let end = usize::from(offload.checksum_start) + usize::from(offload.checksum_offset) + 2;
                prop_assert!(!offload.needs_checksum || end <= len);
                prop_assert_eq!(offload.segment > 0, offload.kind != Segmentation::None);
                let mut again = [0; TUN_HEADER_SIZE];
                emit(&offload, &mut again);
                prop_assert_eq!(parse(&again, &packet(version, len)), Some(offload));
            }
        }
    }
}

//! What a TUN device hands over, as packets that each fit in a datagram: a superpacket is cut where the kernel would
//! have cut it (RFC 9293, RFC 768; net/ipv4/tcp_offload.c, udp_offload.c say what changes from segment to segment).
//!
//! A checksum that the kernel left to the device stays open: the session's AEAD protects the packet on its way, and
//! whoever reads it from the other device completes it or believes it, as the kernel does between virtual machines.

use crate::base::{Offload, Segmentation};
use crate::limits::SUPERPACKET_SEGMENTS_MAX;
use crate::wire::ip::{self, Ip, Sum, TCP, UDP, half, put_half, put_word, tcp, udp, word};

/// Why a packet of the device cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its virtio-net header contradicts it.
    #[error("contradicts its virtio-net header")]
    Contradiction,
    /// A superpacket of a kind that is not cut here: with IPv6 extension headers.
    #[error("cannot be cut")]
    Indivisible,
}

/// How a packet becomes datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    is_v6: bool,
    /// [`TCP`] or [`UDP`]; anything when it is not cut.
    protocol: u8,
    /// Where the transport header begins, and where it ends.
    transport: usize,
    headers: usize,
    /// Payload of each segment but the last; all of it when it is not cut.
    segment: usize,
    payload: usize,
    checksum: Checksum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    /// It is right.
    Done,
    /// Left to the receiver, who finds it by the headers.
    Open,
    /// To be completed here, as the receiver would not find it: of the bytes from `start` on, at `at`.
    Complete { start: usize, at: usize },
}

impl Cut {
    /// Of a packet with this header ([`Ip::parse`]).
    pub fn new(packet: &[u8], header: &Ip, offload: &Offload) -> Result<Self, Unfit> {
        if offload.kind == Segmentation::None {
            return Self::whole(packet, header, offload);
        }
        let protocol = match offload.kind {
            Segmentation::Tcp4 if !header.is_v6() => TCP,
            Segmentation::Tcp6 if header.is_v6() => TCP,
            Segmentation::Udp => UDP,
            _ => return Err(Unfit::Contradiction),
        };
        if header.protocol != protocol || header.fragment {
            return Err(if header.is_v6() { Unfit::Indivisible } else { Unfit::Contradiction });
        }
        let headers = transport_end(packet, header).ok_or(Unfit::Contradiction)?;
        let (payload, segment) = (packet.len() - headers, usize::from(offload.segment));
        let open = offload.needs_checksum && usize::from(offload.checksum_start) == header.header;
        if segment == 0 || !open || payload.div_ceil(segment) > SUPERPACKET_SEGMENTS_MAX {
            return Err(Unfit::Contradiction);
        }
        Ok(Self {
            is_v6: header.is_v6(),
            protocol,
            transport: header.header,
            headers,
            segment,
            payload,
            checksum: Checksum::Open,
        })
    }

    fn whole(packet: &[u8], header: &Ip, offload: &Offload) -> Result<Self, Unfit> {
        let start = usize::from(offload.checksum_start);
        let at = start + usize::from(offload.checksum_offset);
        let checksum = if !offload.needs_checksum {
            Checksum::Done
        } else if at + 2 > packet.len() || start < header.header {
            return Err(Unfit::Contradiction);
        } else if transport_end(packet, header).is_some()
            && (start, at - start) == (header.header, checksum_offset(header.protocol))
        {
            Checksum::Open
        } else {
            Checksum::Complete { start, at }
        };
        Ok(Self {
            is_v6: header.is_v6(),
            protocol: header.protocol,
            transport: header.header,
            headers: 0,
            segment: packet.len(),
            payload: packet.len(),
            checksum,
        })
    }

    /// How many packets it becomes.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.segment).max(1)
    }

    /// Whether the receiver is to complete their checksums.
    pub fn is_open(&self) -> bool {
        self.checksum == Checksum::Open
    }

    /// The length of one of them, bytes.
    pub fn size(&self, index: usize) -> usize {
        self.headers + self.part(index).len()
    }

    /// The length of the longest, bytes.
    pub fn size_max(&self) -> usize {
        self.headers + self.segment.min(self.payload)
    }

    fn part(&self, index: usize) -> std::ops::Range<usize> {
        let start = (index * self.segment).min(self.payload);
        start..(start + self.segment).min(self.payload)
    }

    /// Writes packet `index` of `packet`, which it was made from, to `out`, which has its [`Self::size`].
    pub fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) {
        if self.headers == 0 {
            out.copy_from_slice(packet);
            if let Checksum::Complete { start, at } = self.checksum {
                let sum = Sum::of(&out[start..]).complement();
                // RFC 768: a sum of zero is sent as its other form; to TCP both are the same.
                put_half(out, at, if sum == 0 { 0xffff } else { sum });
            }
            return;
        }
        let part = self.part(index);
        let is_last = part.end == self.payload;
        let (head, body) = out.split_at_mut(self.headers);
        head.copy_from_slice(&packet[..self.headers]);
        body.copy_from_slice(&packet[self.headers + part.start..self.headers + part.end]);
        let segment_len = self.headers - self.transport + body.len();
        if self.is_v6 {
            put_half(head, ip::v6::PAYLOAD, (self.headers - ip::V6_HEADER + body.len()) as u16);
        } else {
            put_half(head, ip::v4::TOTAL, (self.headers + body.len()) as u16);
            put_half(head, ip::v4::ID, half(packet, ip::v4::ID).wrapping_add(index as u16));
            ip::sum_v4(&mut head[..self.transport]);
        }
        let sum = ip::pseudo(head, self.is_v6, self.protocol, segment_len).fold();
        let header = &mut head[self.transport..];
        put_half(header, checksum_offset(self.protocol), sum);
        if self.protocol == UDP {
            put_half(header, udp::LENGTH, segment_len as u16);
            return;
        }
        let sequence = word(header, tcp::SEQUENCE).wrapping_add(part.start as u32);
        put_word(header, tcp::SEQUENCE, sequence);
        if !is_last {
            header[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
        }
        if index > 0 {
            header[tcp::FLAGS] &= !tcp::CWR;
        }
    }
}

/// Where the checksum lies in a transport header.
pub(super) fn checksum_offset(protocol: u8) -> usize {
    if protocol == UDP { udp::CHECKSUM } else { tcp::CHECKSUM }
}

/// Where the payload begins of a packet that is TCP or UDP, right behind its IP header, and no fragment.
pub(super) fn transport_end(packet: &[u8], header: &Ip) -> Option<usize> {
    if header.fragment {
        return None;
    }
    let transport = &packet[header.header..];
    let len = match header.protocol {
        TCP if transport.len() >= ip::TCP_HEADER => usize::from(transport[tcp::OFFSET] >> 4) * 4,
        UDP if transport.len() >= ip::UDP_HEADER => ip::UDP_HEADER,
        _ => return None,
    };
    let fits = len <= transport.len() && (header.protocol == UDP || len >= ip::TCP_HEADER);
    fits.then_some(header.header + len)
}

//! IP packets on their way from and to a TUN device, with what virtio-net's header says of them: which of the
//! work on them is left to whoever reads them next (linux/virtio_net.h; include/uapi/linux/if_tun.h).

use super::place::Place;

/// How a superpacket is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segmentation {
    /// Not at all: it is one packet.
    #[default]
    None,
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// UDP over either, one datagram per segment (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// What virtio-net's header says of one packet. Sizes and offsets are bytes from the IP header's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// How it is to be cut.
    pub kind: Segmentation,
    /// IP and transport headers of a superpacket; a hint from the kernel, which nobody must trust.
    pub header_len: u16,
    /// Payload of each segment but the last (`gso_size`); 0 for a single packet.
    pub segment: u16,
    /// Whether the transport checksum is left to the reader: its field holds the sum of the pseudo header.
    pub needs_checksum: bool,
    /// Where what the checksum covers begins: the transport header.
    pub checksum_start: u16,
    /// Where in that header the checksum lies.
    pub checksum_offset: u16,
}

/// One IP packet, or superpacket, read from or to be written to a TUN queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunPacket {
    /// The IP packet alone; there is head room before it for virtio-net's header.
    pub place: Place,
    /// What is left to be done with it.
    pub offload: Offload,
}

//! The bytes around a datagram: socket addresses and control messages, written for `sendmsg` and read
//! from `recvmsg`. Byte by byte, so that alignment is nobody's worry.
//!
//! ```text
//! control message: length 8 (with this header) | level 4 | type 4 | data | padding to 8
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::limits::{RECEIVE_CONTROL_SIZE, RECEIVE_NAME_SIZE};

/// A socket address at most, bytes (`sockaddr_in6`).
pub const NAME_SIZE: usize = 28;
/// Control messages of a send at most, bytes: segment size, traffic class, IPv6 source.
pub const CONTROL_SIZE: usize = 24 + 24 + 40;

const CONTROL_HEADER: usize = 16;
const _: () = assert!(size_of::<usize>() == 8, "control messages are laid out for 64-bit Linux");
const _: () = assert!(RECEIVE_NAME_SIZE >= NAME_SIZE && RECEIVE_CONTROL_SIZE >= CONTROL_SIZE + 16);

/// Writes an address as the kernel wants it; the number of bytes.
pub fn write_address(address: SocketAddr, into: &mut [u8; NAME_SIZE]) -> usize {
    into.fill(0);
    into[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            into[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            into[4..8].copy_from_slice(&v4.ip().octets());
            16
        }
        SocketAddr::V6(v6) => {
            into[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            into[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            into[8..24].copy_from_slice(&v6.ip().octets());
            into[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_SIZE
        }
    }
}

/// Reads an address that the kernel wrote. The flow label is left out: it does not tell peers apart.
pub fn read_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match family {
        libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(array::<4>(bytes, 4)?), port))),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let scope = u32::from_ne_bytes(array(bytes, 24)?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// What goes with a train beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// The size at which the kernel cuts the train; `None` sends one datagram.
    pub segment: Option<u16>,
    /// ECN code point, 0 to 3.
    pub ecn: u8,
    /// The address to send from, when the socket leaves it open.
    pub source: Option<IpAddr>,
    /// Scope of a link-local IPv6 source.
    pub scope: u32,
}

impl Control {
    /// Writes the control messages for a socket of this family; the number of bytes.
    pub fn write(&self, v6: bool, into: &mut [u8; CONTROL_SIZE]) -> usize {
        let mut at = 0;
        if let Some(segment) = self.segment {
            put(into, &mut at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if self.ecn != 0 {
            let class = i32::from(self.ecn & 3).to_ne_bytes();
            let (level, kind) =
                if v6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
            put(into, &mut at, level, kind, &class);
        }
        match self.source {
            Some(IpAddr::V4(ip)) if !v6 => {
                let mut info = [0; 12]; // interface 4 | source 4 | destination 4
                info[4..8].copy_from_slice(&ip.octets());
                put(into, &mut at, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) if v6 => {
                let mut info = [0; 20]; // address 16 | interface 4
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&self.scope.to_ne_bytes());
                put(into, &mut at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        at
    }

    /// Reads what came with a train. What is unknown or cut off is left out.
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut out = Self::default();
        while let Some((len, level, kind)) = header(bytes) {
            let Some(data) = bytes.get(CONTROL_HEADER..len) else { break };
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    out.segment = array(data, 0)
                        .map(i32::from_ne_bytes)
                        .and_then(|size| u16::try_from(size).ok())
                        .filter(|size| *size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => out.ecn = data.first().map_or(0, |tos| tos & 3),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    out.ecn = array(data, 0).map_or(0, |class| (i32::from_ne_bytes(class) & 3) as u8);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    out.source = array::<4>(data, 4).map(|ip| IpAddr::V4(ip.into()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    out.source = array::<16>(data, 0).map(|ip| IpAddr::V6(ip.into()));
                    out.scope = array(data, 16).map_or(0, u32::from_ne_bytes);
                }
                _ => {}
            }
            let Some(rest) = bytes.get(len.next_multiple_of(8)..) else { break };
            bytes = rest;
        }
        out
    }
}

/// What `recvmsg` says about a received train, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Who sent it.
    pub remote: SocketAddr,
    /// What came with it.
    pub control: Control,
    /// Payload bytes.
    pub len: u32,
    /// Whether the payload was longer than the buffer, and cut.
    pub truncated: bool,
}

impl Envelope {
    /// Reads the header that a multishot `recvmsg` wrote: name length 4 | control length 4 | payload
    /// length 4 | flags 4 | name | control. `None` when there is no sender's address.
    pub fn read(header: &[u8]) -> Option<Self> {
        let word = |at| array(header, at).map(u32::from_ne_bytes);
        let (name_len, control_len, len, flags) = (word(0)?, word(4)?, word(8)?, word(12)?);
        let name = header.get(16..16 + RECEIVE_NAME_SIZE)?;
        let control = header.get(16 + RECEIVE_NAME_SIZE..)?;
        let remote = read_address(name.get(..name_len as usize)?)?;
        let control = Control::read(&control[..control.len().min(control_len as usize)]);
        Some(Self { remote, control, len, truncated: flags & libc::MSG_TRUNC as u32 != 0 })
    }
}

fn put(into: &mut [u8; CONTROL_SIZE], at: &mut usize, level: i32, kind: i32, data: &[u8]) {
    let len = CONTROL_HEADER + data.len();
    let end = *at + len.next_multiple_of(8);
    let message = &mut into[*at..end];
    message.fill(0);
    message[..8].copy_from_slice(&len.to_ne_bytes());
    message[8..12].copy_from_slice(&level.to_ne_bytes());
    message[12..16].copy_from_slice(&kind.to_ne_bytes());
    message[16..16 + data.len()].copy_from_slice(data);
    *at = end;
}

fn header(bytes: &[u8]) -> Option<(usize, i32, i32)> {
    let len = usize::from_ne_bytes(array(bytes, 0)?);
    let (level, kind) = (i32::from_ne_bytes(array(bytes, 8)?), i32::from_ne_bytes(array(bytes, 12)?));
    (CONTROL_HEADER..=bytes.len()).contains(&len).then_some((len, level, kind))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            (any::<[u8; 16]>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| {
                SocketAddr::V6(SocketAddrV6::new(ip.into(), port, 0, scope))
            }),
        ]
    }

    proptest! {
        #[test]
        fn addresses_come_back(address in addresses()) {
            let mut bytes = [0xff; NAME_SIZE];
            let len = write_address(address, &mut bytes);
            prop_assert_eq!(read_address(&bytes[..len]), Some(address));
            prop_assert_eq!(read_address(&bytes[..len - 1]).is_some(), address.is_ipv4());
        }

        #[test]
        fn class_and_source_come_back(ecn in 0u8..4, address in addresses(), source: bool, segment in any::<Option<u16>>()) {
            let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
            let source = source.then_some(address.ip());
            let control = Control { segment, ecn, source, scope: if source.is_some() { scope } else { 0 } };
            let mut bytes = [0xff; CONTROL_SIZE];
            let len = control.write(address.is_ipv6(), &mut bytes);
            let read = Control::read(&bytes[..len]);
            // On v4 the address that a datagram came to lies behind the one that a send names.
            prop_assert_eq!(read, Control { segment: None, ..control });
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Control::read(&bytes);
            let _ = Envelope::read(&bytes);
            let _ = read_address(&bytes);
        }

        #[test]
        fn lengths_that_lie_are_survived(len in any::<usize>(), tail in prop::collection::vec(any::<u8>(), 8..120)) {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend(tail);
            let _ = Control::read(&bytes);
        }
    }

    #[test]
    fn a_segment_size_is_read_from_the_kernels_word() {
        let mut bytes = [0; CONTROL_SIZE];
        let mut at = 0;
        put(&mut bytes, &mut at, libc::SOL_UDP, libc::UDP_GRO, &1452i32.to_ne_bytes());
        assert_eq!(Control::read(&bytes[..at]).segment, Some(1452));
        let mut at = 0;
        put(&mut bytes, &mut at, libc::SOL_UDP, libc::UDP_GRO, &0i32.to_ne_bytes());
        assert_eq!(Control::read(&bytes[..at]).segment, None);
    }
}

//! Where packet bytes are. Cores never own packet bytes: they are told a [`Place`], look at it through
//! a [`Memory`] that the driver (or the simulator) owns, and answer with places.

use std::net::SocketAddr;

use crate::limits::{BUFFER_HEAD_ROOM, BUFFER_SIZE};

/// The number of a fixed-size packet buffer in a [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufId(pub u32);

/// A run of bytes inside one packet buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which buffer.
    pub buf: BufId,
    /// First byte, counted from the start of the buffer.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

/// The packet buffers of one shard: [`BUFFER_SIZE`] bytes each, in a fixed number. Received bytes lie
/// at [`BUFFER_HEAD_ROOM`] or later and leave [`crate::limits::BUFFER_TAIL_ROOM`] behind them, so that
/// a packet can grow in place at either end.
pub trait Memory {
    /// The bytes of a place that the caller holds.
    fn bytes(&self, place: Place) -> &[u8];

    /// The bytes of a place that the caller holds, to change.
    fn bytes_mut(&mut self, place: Place) -> &mut [u8];

    /// The bytes of one place to read and of another to change, which lie in different buffers that the caller holds.
    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]);

    /// A free buffer for sending, or `None` when all are in flight: stop, and go on when the driver
    /// says that one came back.
    fn alloc(&mut self) -> Option<BufId>;

    /// Gives back a buffer that was allocated and not sent.
    fn free(&mut self, buf: BufId);
}

impl Place {
    /// The whole usable room of an allocated buffer, after the head room.
    pub fn room(buf: BufId) -> Self {
        Self { buf, offset: BUFFER_HEAD_ROOM as u32, len: (BUFFER_SIZE - BUFFER_HEAD_ROOM) as u32 }
    }

    /// A part of this place; `None` when it does not lie inside.
    pub fn part(self, offset: u32, len: u32) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(Self { buf: self.buf, offset: self.offset + offset, len })
    }
}

/// A pair of addresses between which datagrams pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Ours: the address the datagram came to or leaves from. The unspecified address lets the kernel
    /// choose.
    pub local: SocketAddr,
    /// Theirs.
    pub remote: SocketAddr,
}

impl Path {
    /// What IP and UDP add to each datagram, bytes.
    pub fn header(&self) -> u64 {
        if self.remote.is_ipv4() { 28 } else { 48 }
    }

    /// Whether it does not lead straight to the other end: through a peer, or by a bridge.
    pub fn is_relayed(&self) -> bool {
        self.is_way() || self.is_bridged()
    }

    /// Whether it leads through a peer ([`super::Way`]).
    pub fn is_way(&self) -> bool {
        super::Way::of(&self.remote).is_some()
    }

    /// Whether it leads by a bridge ([`super::bridge`]).
    pub fn is_bridged(&self) -> bool {
        super::bridge::is_bridged(&self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_never_reaches_outside() {
        let place = Place { buf: BufId(3), offset: 64, len: 10 };
        assert_eq!(place.part(2, 8), Some(Place { buf: BufId(3), offset: 66, len: 8 }));
        assert_eq!(place.part(3, 8), None);
        assert_eq!(place.part(u32::MAX, 2), None);
    }
}

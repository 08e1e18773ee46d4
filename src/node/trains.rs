//! Trains that are being filled with sealed packets of tunnels and cells of circuits.

use super::Train;
use crate::base::{BufId, Path, Place};
use crate::limits::{TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use crate::session::SessionKey;

/// A train that is being filled: sealed packets of one size.
pub(super) struct OpenTrain {
    pub session: SessionKey,
    pub path: Path,
    pub ecn: u8,
    pub buf: BufId,
    pub len: usize,
    pub segment: usize,
    pub count: usize,
}

impl OpenTrain {
    /// Whether it has room for a packet of this size.
    pub fn takes(&self, size: usize) -> bool {
        let whole = self.len == self.count * self.segment;
        whole && size <= self.segment && self.count < TRAIN_SEGMENTS_MAX && self.len + size <= TRAIN_SIZE_MAX
    }

    /// It takes no further packets.
    pub fn closed(self) -> Train {
        let place = Place { len: self.len as u32, ..Place::room(self.buf) };
        Train { path: self.path, place, segment: self.segment.min(self.len) as u32, ecn: self.ecn }
    }
}

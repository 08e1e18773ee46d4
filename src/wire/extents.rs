//! Extent lists: how content longer than one piece is found (docs/protocol/content.md §6).
//!
//! ```text
//! 0       4         6       7      8       16                                        little-endian
//! | magic | version | depth | zero | size  | locator 0 | locator 1 | …   96 bytes each
//! ```
//!
//! A list of depth 1 locates pieces; one of depth d locates lists of depth d − 1, each one piece. Every
//! extent but the last is full, so all sizes follow from the total and nothing has to be summed up: a byte's
//! extent is a division away, and a list that disagrees with the arithmetic is refused.

use std::ops::Range;

use super::Malformed;
use super::locator::{self, Locator};
use super::reference::Blob;
use crate::limits::{EXTENT_DEPTH_MAX, PIECE_PLAIN_MAX};

/// First bytes of a list.
pub const MAGIC: [u8; 4] = *b"tnex";
/// Version of the layout.
pub const VERSION: u16 = 1;
/// Header length, bytes.
pub const HEADER_LEN: usize = 16;
/// Extents of a full list.
pub const FANOUT: usize = (PIECE_PLAIN_MAX - HEADER_LEN) / locator::LEN;
/// The longest content that can be described, bytes.
pub const SIZE_MAX: u64 = capacity(EXTENT_DEPTH_MAX);

const _: () = assert!(SIZE_MAX > 1 << 60);

/// The most bytes that a blob of `depth` holds.
pub const fn capacity(depth: u8) -> u64 {
    let mut size = PIECE_PLAIN_MAX as u64;
    let mut level = 0;
    while level < depth && level < EXTENT_DEPTH_MAX {
        size *= FANOUT as u64;
        level += 1;
    }
    size
}

/// Levels of lists that `size` bytes take, or `None` when they are too many.
pub fn depth_of(size: u64) -> Option<u8> {
    (0..=EXTENT_DEPTH_MAX).find(|&depth| size <= capacity(depth))
}

/// Extents in a list of `depth` (1 or more) over `size` bytes.
pub const fn count(size: u64, depth: u8) -> u64 {
    size.div_ceil(capacity(depth.saturating_sub(1)))
}

/// Length of a list of `count` extents, bytes.
pub const fn list_len(count: u64) -> u64 {
    (HEADER_LEN as u64).saturating_add(count.saturating_mul(locator::LEN as u64))
}

/// Plaintext length of the topmost piece of a blob: the content itself at depth 0, else a list.
pub const fn top_len(size: u64, depth: u8) -> u64 {
    if depth == 0 { size } else { list_len(count(size, depth)) }
}

/// Where byte `offset` of the content lies: the extent of the topmost list, and the offset in it.
pub fn locate(depth: u8, offset: u64) -> (u64, u64) {
    let unit = capacity(depth.saturating_sub(1));
    (offset / unit, offset % unit)
}

/// The bytes of a list that hold extent `index`: all that must be read to follow it.
pub const fn extent_range(index: u64) -> Range<u64> {
    list_len(index)..list_len(index.saturating_add(1))
}

/// Reads extent `index` of `list`'s topmost list from the bytes that [`extent_range`] names. `list` must
/// be of depth 1 or more.
pub fn parse_extent(list: &Blob, index: u64, bytes: &[u8]) -> Result<Blob, Malformed> {
    if list.depth == 0 || index >= count(list.size, list.depth) {
        return Err(Malformed("extent list: no such extent"));
    }
    let unit = capacity(list.depth - 1);
    let size = unit.min(list.size - index * unit);
    // The last extent may be short, yet it lies as deep as its neighbours.
    let blob = Blob { size, depth: list.depth - 1, top: Some(Locator::parse(bytes)?) };
    let fits = blob.top.as_ref().is_some_and(|top| u64::from(top.plain_len) == top_len(size, blob.depth));
    if fits { Ok(blob) } else { Err(Malformed("extent list: length of an extent")) }
}

/// Writes the list of `depth` over `size` bytes. `extents` must be as many as [`count`] says.
pub fn emit<'a>(size: u64, depth: u8, extents: impl IntoIterator<Item = &'a Locator>) -> Vec<u8> {
    let mut out = Vec::with_capacity(list_len(count(size, depth)) as usize);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[depth, 0]);
    out.extend_from_slice(&size.to_le_bytes());
    extents.into_iter().for_each(|extent| out.extend_from_slice(&extent.emit()));
    debug_assert_eq!(out.len() as u64, list_len(count(size, depth)));
    out
}

/// A whole list, checked.
#[derive(Clone, Copy)]
pub struct ExtentList<'a> {
    bytes: &'a [u8],
    size: u64,
    depth: u8,
}

impl<'a> ExtentList<'a> {
    /// Checks the bytes that `blob` (of depth 1 or more) describes.
    pub fn new_checked(bytes: &'a [u8], blob: &Blob) -> Result<Self, Malformed> {
        check_header(bytes, blob)?;
        if bytes.len() as u64 != top_len(blob.size, blob.depth) {
            return Err(Malformed("extent list: length"));
        }
        let list = Self { bytes, size: blob.size, depth: blob.depth };
        (0..list.len()).try_for_each(|index| list.extent(index).map(drop))?;
        Ok(list)
    }

    /// Number of extents.
    pub fn len(&self) -> u64 {
        count(self.size, self.depth)
    }

    /// Never: content that needs a list has extents.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One extent; `None` beyond the last.
    pub fn get(&self, index: u64) -> Option<Blob> {
        self.extent(index).ok()
    }

    /// All extents, in order.
    pub fn iter(&self) -> impl Iterator<Item = Blob> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn extent(&self, index: u64) -> Result<Blob, Malformed> {
        let list = Blob { size: self.size, depth: self.depth, top: None };
        let range = extent_range(index.min(self.len()));
        let bytes = self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
        parse_extent(&list, index, bytes)
    }
}

/// Checks the first [`HEADER_LEN`] bytes of the list that `blob` describes.
pub fn check_header(bytes: &[u8], blob: &Blob) -> Result<(), Malformed> {
    let header = bytes.get(..HEADER_LEN).ok_or(Malformed("extent list: header"))?;
    if header[..4] != MAGIC {
        return Err(Malformed("extent list: magic"));
    }
    if header[4..6] != VERSION.to_le_bytes() {
        return Err(Malformed("extent list: version"));
    }
    if blob.depth == 0 || header[6..8] != [blob.depth, 0] {
        return Err(Malformed("extent list: depth"));
    }
    if header[8..] != blob.size.to_le_bytes() {
        return Err(Malformed("extent list: size"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ChunkId;
    use crate::limits::CHUNK_SIZE_MAX;
    use proptest::prelude::*;

    fn locator(plain_len: u64, seed: u64) -> Locator {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Locator {
            chunk: ChunkId([1; 20]),
            root: [2; 32],
            chunk_len: CHUNK_SIZE_MAX as u32,
            offset: 0,
            plain_len: plain_len as u32,
            key,
        }
    }

    /// The topmost list over `size` bytes, and its blob.
    fn list(size: u64, depth: u8) -> (Blob, Vec<u8>) {
        let unit = capacity(depth - 1);
        let extents: Vec<_> = (0..count(size, depth))
            .map(|index| locator(top_len(unit.min(size - index * unit), depth - 1), index))
            .collect();
        let bytes = emit(size, depth, &extents);
        (Blob { size, depth, top: Some(locator(bytes.len() as u64, 9)) }, bytes)
    }

    fn sizes() -> impl Strategy<Value = (u64, u8)> {
        let near = (1u64..50, -2i64..3, 1u8..=3).prop_map(|(n, by, depth)| {
            let size = (n * capacity(depth - 1)).saturating_add_signed(by);
            (size, depth)
        });
        near.prop_filter("needs this depth", |&(size, depth)| depth_of(size) == Some(depth))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_byte_has_its_extent((size, depth) in sizes(), at in any::<prop::sample::Index>()) {
            let (blob, bytes) = list(size, depth);
            let view = ExtentList::new_checked(&bytes, &blob).unwrap();
            prop_assert_eq!(view.iter().map(|extent| extent.size).sum::<u64>(), size);
            let offset = (at.index(1 << 30) as u64 * (size >> 30).max(1)).min(size - 1);
            let (index, inside) = locate(depth, offset);
            let before: u64 = view.iter().take(index as usize).map(|extent| extent.size).sum();
            prop_assert_eq!(before + inside, offset);
            let range = extent_range(index);
            let part = &bytes[range.start as usize..range.end as usize];
            prop_assert!(parse_extent(&blob, index, part).unwrap() == view.get(index).unwrap());
            prop_assert!(view.get(view.len()).is_none());
        }

        #[test]
        fn hostile_lists_are_refused((size, depth) in sizes(), cut in 1usize..200, flip in 0usize..16) {
            let (blob, bytes) = list(size, depth);
            let cut = bytes.len().saturating_sub(cut);
            prop_assert!(ExtentList::new_checked(&bytes[..cut], &blob).is_err());
            let mut forged = bytes.clone();
            forged[flip] ^= 1;
            prop_assert!(ExtentList::new_checked(&forged, &blob).is_err());
            let mut forged = bytes.clone();
            forged[HEADER_LEN + 60] ^= 1; // the first extent's length
            prop_assert!(ExtentList::new_checked(&forged, &blob).is_err());
            let flat = Blob { depth: 0, ..blob };
            prop_assert!(ExtentList::new_checked(&bytes, &flat).is_err());
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), size in any::<u64>(), depth in any::<u8>(), index in any::<u64>()) {
            let blob = Blob { size, depth, top: None };
            prop_assert!(ExtentList::new_checked(&bytes, &blob).is_err());
            let _ = parse_extent(&blob, index, &bytes);
        }
    }

    #[test]
    fn depths() {
        assert_eq!((depth_of(0), depth_of(PIECE_PLAIN_MAX as u64)), (Some(0), Some(0)));
        assert_eq!(depth_of(PIECE_PLAIN_MAX as u64 + 1), Some(1));
        assert_eq!((depth_of(SIZE_MAX), depth_of(SIZE_MAX + 1)), (Some(3), None));
        assert!(list_len(FANOUT as u64) <= PIECE_PLAIN_MAX as u64);
    }
}

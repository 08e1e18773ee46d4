//! Directories: fixed-width, sorted by the names' hashes, searched where they lie
//! (docs/protocol/directory.md).
//!
//! ```text
//! header      0       4         6      8       12      16                             little-endian
//!             | magic | version | zero | count | names |
//! entry       0           16     24        32      36     40     42     44     46       47      48      144
//!             | name hash | size | seconds | nanos | name | name | target | mode | kind | depth | locator |
//!                                                    pos    len    len
//! names       name, target, name, target, … in the order of the entries, without gaps
//! ```
//!
//! Equal entries give equal bytes: sorted, no slack, no second spelling. That, and the hash being the
//! name's own, also makes names unique. [`DirectoryView`] checks a whole directory; a reader that wants one
//! entry of a large one reads [`Header`], a few [`RawEntry`]s and one name instead (`chunk::lookup`).

mod writer;

use std::borrow::Cow;
use std::ops::Range;

use super::Malformed;
use super::locator;
use super::reference::Blob;
use crate::base::fileop::FileTime;
use crate::crypto::hash::blake3;
use crate::limits::{DIRECTORY_ENTRIES_MAX, NAME_MAX, SYMLINK_MAX};

pub use writer::{BadDirectory, DirectoryWriter};

/// First bytes of a directory.
pub const MAGIC: [u8; 4] = *b"tndr";
/// Version of the layout.
pub const VERSION: u16 = 1;
/// Header length, bytes.
pub const HEADER_LEN: usize = 16;
/// Length of one entry's fixed part, bytes.
pub const ENTRY_LEN: usize = 48 + locator::LEN;
/// Bits of a mode that are kept.
pub const MODE_MAX: u16 = 0o7777;

const KIND_FILE: u8 = 1;
const KIND_DIRECTORY: u8 = 2;
const KIND_SYMLINK: u8 = 3;
const NANOS_MAX: u32 = 999_999_999;

const _: () = assert!(NAME_MAX + SYMLINK_MAX <= u16::MAX as usize);

/// What a directory is sorted by: the first 16 bytes of BLAKE3 of the name.
pub type NameHash = [u8; 16];

/// The hash of a name.
pub fn name_hash(name: &[u8]) -> NameHash {
    let hash = blake3(&[name]);
    std::array::from_fn(|index| hash[index])
}

/// Whether `name` may stand in a directory: one path component that cannot lead anywhere else.
pub fn name_is_valid(name: &[u8]) -> bool {
    let harmless = !name.iter().any(|&byte| byte == b'/' || byte == 0);
    (1..=NAME_MAX).contains(&name.len()) && name != b"." && name != b".." && harmless
}

/// Whether `target` may be a symlink's.
pub fn target_is_valid(target: &[u8]) -> bool {
    (1..=SYMLINK_MAX).contains(&target.len()) && !target.contains(&0)
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name, one path component.
    pub name: Cow<'a, [u8]>,
    /// Permission bits, at most [`MODE_MAX`]; 0 for symlinks.
    pub mode: u16,
    /// Modification time.
    pub mtime: FileTime,
    /// What it is.
    pub node: Node<'a>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<'a> {
    /// A file with this content.
    File(Blob),
    /// A directory with this content, never empty.
    Directory(Blob),
    /// A symlink with this target.
    Symlink(Cow<'a, [u8]>),
}

impl Entry<'_> {
    /// The same, owning its bytes.
    pub fn into_owned(self) -> Entry<'static> {
        let node = match self.node {
            Node::File(blob) => Node::File(blob),
            Node::Directory(blob) => Node::Directory(blob),
            Node::Symlink(target) => Node::Symlink(Cow::Owned(target.into_owned())),
        };
        Entry { name: Cow::Owned(self.name.into_owned()), mode: self.mode, mtime: self.mtime, node }
    }
}

/// The header: enough to compute where everything else lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of entries.
    pub count: u32,
    /// Length of the names, bytes.
    pub names_len: u32,
}

impl Header {
    /// Reads the first [`HEADER_LEN`] bytes of a directory of `size` bytes.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self, Malformed> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(Malformed("directory: header"))?;
        if bytes[..4] != MAGIC {
            return Err(Malformed("directory: magic"));
        }
        if bytes[4..6] != VERSION.to_le_bytes() || bytes[6..8] != [0; 2] {
            return Err(Malformed("directory: version"));
        }
        let header = Self { count: word(bytes, 8), names_len: word(bytes, 12) };
        if header.count as usize > DIRECTORY_ENTRIES_MAX {
            return Err(Malformed("directory: count"));
        }
        if header.size() != size {
            return Err(Malformed("directory: size"));
        }
        Ok(header)
    }

    /// Writes the header.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.names_len.to_le_bytes());
        out
    }

    /// Length of the whole directory, bytes.
    pub fn size(&self) -> u64 {
        self.names_start() + u64::from(self.names_len)
    }

    /// The bytes of the directory that hold entry `index`.
    pub fn entry_range(&self, index: u32) -> Range<u64> {
        let start = (HEADER_LEN + index as usize * ENTRY_LEN) as u64;
        start..start + ENTRY_LEN as u64
    }

    /// The bytes of the directory that hold an entry's name, followed by its target.
    pub fn name_range(&self, entry: &RawEntry) -> Range<u64> {
        let start = self.names_start() + u64::from(entry.name_pos);
        start..start + u64::from(entry.name_len) + u64::from(entry.target_len)
    }

    fn names_start(&self) -> u64 {
        (HEADER_LEN + self.count as usize * ENTRY_LEN) as u64
    }
}

/// Where among `count` entries, whose hashes lie between `low` and `high`, one with `hash` would be if they
/// were spread evenly, as hashes are. Always below `count`, unless that is 0.
pub fn guess(hash: &NameHash, low: u64, high: u64, count: u32) -> u32 {
    let span = u128::from(high.saturating_sub(low)) + 1;
    let above = u128::from(leading(hash).saturating_sub(low));
    ((above * u128::from(count) / span) as u32).min(count.saturating_sub(1))
}

/// The number that interpolation works with: a hash's first eight bytes.
pub fn leading(hash: &NameHash) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| hash[index]))
}

/// The fixed part of an entry, checked as far as it can be without its name.
#[derive(Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// What the directory is sorted by.
    pub hash: NameHash,
    kind: u8,
    mode: u16,
    mtime: FileTime,
    blob: Blob,
    name_pos: u32,
    name_len: u16,
    target_len: u16,
}

impl RawEntry {
    /// Reads [`ENTRY_LEN`] bytes of a directory with this header.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self, Malformed> {
        let bytes: &[u8; ENTRY_LEN] =
            bytes.get(..ENTRY_LEN).and_then(|b| b.try_into().ok()).ok_or(Malformed("directory: entry"))?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let entry = Self {
            hash: hash_of(bytes),
            kind: bytes[46],
            mode: half(44),
            mtime: FileTime {
                seconds: i64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes")),
                nanos: word(bytes, 32),
            },
            blob: Blob::from_parts(
                u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
                bytes[47],
                &bytes[48..],
            )?,
            name_pos: word(bytes, 36),
            name_len: half(40),
            target_len: half(42),
        };
        entry.check(header).map(|()| entry)
    }

    fn check(&self, header: &Header) -> Result<(), Malformed> {
        let target_len = usize::from(self.target_len);
        let right = match self.kind {
            KIND_FILE => target_len == 0,
            KIND_DIRECTORY => target_len == 0 && self.blob.size >= HEADER_LEN as u64,
            KIND_SYMLINK => (1..=SYMLINK_MAX).contains(&target_len) && self.blob.size == 0 && self.mode == 0,
            _ => return Err(Malformed("directory: kind")),
        };
        if !right || self.mode > MODE_MAX || self.mtime.nanos > NANOS_MAX {
            return Err(Malformed("directory: entry"));
        }
        if self.name_len == 0
            || usize::from(self.name_len) > NAME_MAX
            || header.name_range(self).end > header.size()
        {
            return Err(Malformed("directory: name position"));
        }
        Ok(())
    }

    /// Completes the entry with the bytes that [`Header::name_range`] names: name, then target.
    pub fn with_name<'a>(&self, bytes: &'a [u8]) -> Result<Entry<'a>, Malformed> {
        let name_len = usize::from(self.name_len);
        if bytes.len() != name_len + usize::from(self.target_len) {
            return Err(Malformed("directory: name length"));
        }
        let (name, target) = bytes.split_at(name_len);
        if !name_is_valid(name) || name_hash(name) != self.hash {
            return Err(Malformed("directory: name"));
        }
        let node = match self.kind {
            KIND_FILE => Node::File(self.blob.clone()),
            KIND_DIRECTORY => Node::Directory(self.blob.clone()),
            _ if target_is_valid(target) => Node::Symlink(Cow::Borrowed(target)),
            _ => return Err(Malformed("directory: symlink target")),
        };
        Ok(Entry { name: Cow::Borrowed(name), mode: self.mode, mtime: self.mtime, node })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn hash_of(entry: &[u8]) -> NameHash {
    entry[..16].try_into().expect("16 bytes")
}

/// A whole directory, checked: no accessor can fail.
#[derive(Clone, Copy)]
pub struct DirectoryView<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> DirectoryView<'a> {
    /// Checks everything.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = Header::parse(bytes, bytes.len() as u64)?;
        let view = Self { bytes, header };
        let mut name_pos = 0u64;
        let mut last: Option<NameHash> = None;
        for index in 0..header.count {
            let raw = RawEntry::parse(view.fixed(index), &header)?;
            if last.is_some_and(|last| last >= raw.hash) {
                return Err(Malformed("directory: order"));
            }
            if u64::from(raw.name_pos) != name_pos {
                return Err(Malformed("directory: name position"));
            }
            raw.with_name(view.slice(header.name_range(&raw)))?;
            name_pos += u64::from(raw.name_len) + u64::from(raw.target_len);
            last = Some(raw.hash);
        }
        if name_pos != u64::from(header.names_len) {
            return Err(Malformed("directory: names"));
        }
        Ok(view)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Entry `index` in the order of hashes; `None` beyond the last.
    pub fn get(&self, index: usize) -> Option<Entry<'a>> {
        let index = u32::try_from(index).ok().filter(|&index| index < self.header.count)?;
        let raw = RawEntry::parse(self.fixed(index), &self.header).ok()?;
        raw.with_name(self.slice(self.header.name_range(&raw))).ok()
    }

    /// All entries, in the order of their names' hashes.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + 'a {
        let view = *self;
        (0..self.len()).filter_map(move |index| view.get(index))
    }

    /// The entry with this name.
    pub fn find(&self, name: &[u8]) -> Option<Entry<'a>> {
        let hash = name_hash(name);
        let (mut low, mut high) = (0, self.header.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match hash_of(self.fixed(middle)).cmp(&hash) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return self.get(middle as usize).filter(|entry| *entry.name == *name);
                }
            }
        }
        None
    }

    fn fixed(&self, index: u32) -> &'a [u8] {
        self.slice(self.header.entry_range(index))
    }

    fn slice(&self, range: Range<u64>) -> &'a [u8] {
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests;

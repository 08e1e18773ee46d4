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

use std::borrow::Cow;
use std::ops::Range;

use super::Malformed;
use super::locator;
use super::reference::Blob;
use crate::base::fileop::FileTime;
use crate::crypto::hash::blake3;
use crate::limits::{DIRECTORY_ENTRIES_MAX, NAME_MAX, SYMLINK_MAX};

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

const _: () = assert!(NAME_MAX <= u16::MAX as usize && SYMLINK_MAX <= u16::MAX as usize);

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

/// Why a directory cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDirectory {
    /// Two entries of one name.
    #[error("two entries are named {0:?}")]
    SameName(String),
    /// No name of a directory entry.
    #[error("{0:?} cannot be the name of a directory entry")]
    Name(String),
    /// A target that no symlink can have.
    #[error("the symlink {0:?} has no target, or one that is too long")]
    Target(String),
    /// Too much for one directory.
    #[error("a directory has more than {DIRECTORY_ENTRIES_MAX} entries or 4 GiB of names")]
    TooLarge,
}

/// Builds a directory; the order of [`Self::push`] does not matter.
#[derive(Default)]
pub struct DirectoryWriter {
    entries: Vec<[u8; ENTRY_LEN]>,
    names: Vec<u8>,
}

impl DirectoryWriter {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Bits that cannot be represented (of a mode, of nanoseconds) are brought into range.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), BadDirectory> {
        let shown = || String::from_utf8_lossy(&entry.name).into_owned();
        if !name_is_valid(&entry.name) {
            return Err(BadDirectory::Name(shown()));
        }
        let (kind, blob, target) = match &entry.node {
            Node::File(blob) => (KIND_FILE, blob, &[][..]),
            Node::Directory(blob) => (KIND_DIRECTORY, blob, &[][..]),
            Node::Symlink(target) if target_is_valid(target) => (KIND_SYMLINK, &Blob::EMPTY, &**target),
            Node::Symlink(_) => return Err(BadDirectory::Target(shown())),
        };
        let pos = u32::try_from(self.names.len()).map_err(|_| BadDirectory::TooLarge)?;
        if self.entries.len() == DIRECTORY_ENTRIES_MAX {
            return Err(BadDirectory::TooLarge);
        }
        let mode = if kind == KIND_SYMLINK { 0 } else { entry.mode & MODE_MAX };
        let mut out = [0; ENTRY_LEN];
        out[..16].copy_from_slice(&name_hash(&entry.name));
        out[16..24].copy_from_slice(&blob.size.to_le_bytes());
        out[24..32].copy_from_slice(&entry.mtime.seconds.to_le_bytes());
        out[32..36].copy_from_slice(&entry.mtime.nanos.min(NANOS_MAX).to_le_bytes());
        out[36..40].copy_from_slice(&pos.to_le_bytes());
        out[40..42].copy_from_slice(&(entry.name.len() as u16).to_le_bytes());
        out[42..44].copy_from_slice(&(target.len() as u16).to_le_bytes());
        out[44..46].copy_from_slice(&mode.to_le_bytes());
        out[46] = kind;
        out[47] = blob.depth;
        out[48..].copy_from_slice(&blob.top_bytes());
        self.entries.push(out);
        self.names.extend_from_slice(&entry.name);
        self.names.extend_from_slice(target);
        Ok(())
    }

    /// The directory's bytes.
    pub fn finish(mut self) -> Result<Vec<u8>, BadDirectory> {
        let names_len = u32::try_from(self.names.len()).map_err(|_| BadDirectory::TooLarge)?;
        self.entries.sort_unstable_by_key(|entry| hash_of(entry));
        if let Some(pair) = self.entries.windows(2).find(|pair| hash_of(&pair[0]) == hash_of(&pair[1])) {
            let (name, _) = self.name_and_target(&pair[0]);
            return Err(BadDirectory::SameName(String::from_utf8_lossy(name).into_owned()));
        }
        let header = Header { count: self.entries.len() as u32, names_len };
        let mut out = Vec::with_capacity(header.size() as usize);
        out.extend_from_slice(&header.emit());
        let mut pos = 0u32;
        for entry in &self.entries {
            let (name, target) = self.name_and_target(entry);
            out.extend_from_slice(&entry[..36]);
            out.extend_from_slice(&pos.to_le_bytes());
            out.extend_from_slice(&entry[40..]);
            pos += (name.len() + target.len()) as u32;
        }
        for entry in &self.entries {
            let (name, target) = self.name_and_target(entry);
            out.extend_from_slice(name);
            out.extend_from_slice(target);
        }
        Ok(out)
    }

    fn name_and_target(&self, entry: &[u8; ENTRY_LEN]) -> (&[u8], &[u8]) {
        let half = |at: usize| usize::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
        let both = &self.names[word(entry, 36) as usize..][..half(40) + half(42)];
        both.split_at(half(40))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::reference::tests::blobs;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn nodes() -> impl Strategy<Value = Node<'static>> {
        let target = prop::collection::vec(1u8.., 1..40);
        prop_oneof![
            blobs().prop_map(Node::File),
            blobs().prop_filter("not empty", |blob| blob.size >= 16).prop_map(Node::Directory),
            target.prop_map(|target| Node::Symlink(Cow::Owned(target))),
        ]
    }

    pub(crate) fn entries(max: usize) -> impl Strategy<Value = Vec<Entry<'static>>> {
        let name = prop::collection::vec(1u8.., 1..20).prop_filter("valid", |name| name_is_valid(name));
        let rest = (0..=MODE_MAX, any::<i64>(), 0..=NANOS_MAX, nodes());
        prop::collection::btree_map(name, rest, 0..max).prop_map(|map: BTreeMap<_, _>| {
            map.into_iter()
                .map(|(name, (mode, seconds, nanos, node))| Entry {
                    name: Cow::Owned(name),
                    mode: if matches!(node, Node::Symlink(_)) { 0 } else { mode },
                    mtime: FileTime { seconds, nanos },
                    node,
                })
                .collect()
        })
    }

    pub(crate) fn write<'a>(entries: impl IntoIterator<Item = &'a Entry<'a>>) -> Vec<u8> {
        let mut writer = DirectoryWriter::new();
        entries.into_iter().for_each(|entry| writer.push(entry).expect("a valid entry"));
        writer.finish().expect("a valid directory")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn round_trips_in_any_order(entries in entries(40), missing in "[a-z]{25}") {
            let bytes = write(&entries);
            prop_assert_eq!(&bytes, &write(entries.iter().rev()));
            let view = DirectoryView::new_checked(&bytes).unwrap();
            prop_assert_eq!(view.len(), entries.len());
            for entry in &entries {
                prop_assert!(view.find(&entry.name).is_some_and(|found| found == *entry));
            }
            prop_assert!(view.find(missing.as_bytes()).is_none());
            prop_assert!(view.get(entries.len()).is_none());
            let listed: Vec<_> = view.iter().map(Entry::into_owned).collect();
            prop_assert!(write(&listed) == bytes);
        }

        #[test]
        fn altered_directories_are_refused_or_are_other_directories(
            entries in entries(12), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 1usize..300,
        ) {
            let bytes = write(&entries);
            prop_assert!(DirectoryView::new_checked(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
            prop_assert!(DirectoryView::new_checked(&[&bytes[..], &[0]].concat()).is_err());
            let mut altered = bytes.clone();
            altered[at.index(bytes.len())] = to;
            if let Ok(view) = DirectoryView::new_checked(&altered) {
                // What is accepted has one spelling: writing it again gives the same bytes.
                let again: Vec<_> = view.iter().collect();
                prop_assert_eq!(again.len(), entries.len());
                prop_assert!(write(&again) == altered);
            }
        }

        #[test]
        fn never_panics(count in 0u32..5, names in 0u32..99, body in prop::collection::vec(any::<u8>(), 0..900)) {
            let bytes = [&Header { count, names_len: names }.emit()[..], &body].concat();
            if let Ok(view) = DirectoryView::new_checked(&bytes) {
                prop_assert_eq!(view.iter().count(), view.len());
            }
            let _ = DirectoryView::new_checked(&body);
        }

        #[test]
        fn a_guess_is_inside(hash in any::<NameHash>(), low in any::<u64>(), high in any::<u64>(), count in 1u32..) {
            prop_assert!(guess(&hash, low, high, count) < count);
        }
    }

    fn file(name: &[u8]) -> Entry<'_> {
        Entry {
            name: Cow::Borrowed(name),
            mode: 0o644,
            mtime: FileTime::default(),
            node: Node::File(Blob::EMPTY),
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_neither_written_nor_read() {
        let good = write([&file(b"ab")]);
        for bad in [&b".."[..], b".", b"", b"a/", b"/", b"a\0", &[b'x'; 256]] {
            let refused = DirectoryWriter::new().push(&file(bad));
            assert!(matches!(refused, Err(BadDirectory::Name(_))), "{bad:?}");
            if bad.len() == 2 {
                let mut forged = good.clone();
                forged[16..32].copy_from_slice(&name_hash(bad));
                let at = forged.len() - 2;
                forged[at..].copy_from_slice(bad);
                assert_eq!(DirectoryView::new_checked(&forged).err(), Some(Malformed("directory: name")));
            }
        }
        let target =
            |target: &'static [u8]| Entry { node: Node::Symlink(Cow::Borrowed(target)), ..file(b"link") };
        for bad in [&b""[..], b"a\0b", &[b'x'; 4096]] {
            assert!(matches!(DirectoryWriter::new().push(&target(bad)), Err(BadDirectory::Target(_))));
        }
    }

    #[test]
    fn one_name_twice_is_refused() {
        let mut writer = DirectoryWriter::new();
        writer.push(&file(b"same")).expect("the first");
        writer.push(&file(b"other")).expect("another");
        writer.push(&file(b"same")).expect("noticed later");
        assert_eq!(writer.finish(), Err(BadDirectory::SameName("same".into())));
    }

    #[test]
    fn an_empty_directory_is_its_header() {
        let bytes = write([]);
        assert_eq!(bytes.len(), HEADER_LEN);
        assert!(DirectoryView::new_checked(&bytes).is_ok_and(|view| view.is_empty()));
    }
}

//! Hostile trees: content that a stranger made by hand, sealed and addressed as it must be, whose directories lie.
//! Beside the lie each has an honest file; no `get` of one may ever be told complete, and nothing but the honest
//! file may come of it.

use std::collections::BTreeMap;

use super::files::Node;
use super::trees::Tree;
use crate::base::fileop::FileTime;
use crate::base::{ChunkId, Rng};
use crate::chunk::{Domain, Piece, SliceList};
use crate::crypto::hash::sha1;
use crate::limits::{CHUNK_SIZE_MAX, DIRECTORY_DEPTH_MAX, NAME_MAX, PIECE_PLAIN_MAX};
use crate::wire::directory::{HEADER_LEN, MAGIC, VERSION, name_hash};
use crate::wire::extents;
use crate::wire::locator::Locator;
use crate::wire::reference::{Blob, Reference};

/// What a hostile tree lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// An entry has a name that leads elsewhere, says nothing, or is too long.
    Name,
    /// Two entries have one name: a symlink that leads outside, and a directory to be filled through it.
    Twice,
    /// Directories in directories, deeper than any may be.
    Deep,
    /// A file is said to be longer than its sealed piece.
    Longer,
    /// A large file's list of extents is not one.
    List,
    /// A directory's content is none.
    NoDirectory,
    /// A directory says that it has more entries than it has.
    Count,
    /// The key of a file is another's.
    Key,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::Twice,
        Self::Deep,
        Self::Longer,
        Self::List,
        Self::NoDirectory,
        Self::Count,
        Self::Key,
    ];
}

/// A hostile tree.
pub struct Trap {
    /// What finds it.
    pub reference: Reference,
    /// What it consists of.
    pub chunks: BTreeMap<ChunkId, Vec<u8>>,
    /// What may come of it at most.
    pub honest: Tree,
}

const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const TIME: FileTime = FileTime { seconds: 1_700_000_000, nanos: 5 };

/// An entry of a directory, whatever it says.
struct Entry {
    name: Vec<u8>,
    target: Vec<u8>,
    kind: u8,
    blob: Blob,
}

impl Entry {
    fn new(name: &[u8], kind: u8, blob: Blob) -> Self {
        Self { name: name.to_vec(), target: Vec::new(), kind, blob }
    }
}

/// Writes a directory as docs/protocol/directory.md has it, of entries that may be nothing of the sort.
fn directory(mut entries: Vec<Entry>) -> Vec<u8> {
    entries.sort_by_key(|entry| name_hash(&entry.name));
    let names: Vec<u8> = entries.iter().flat_map(|entry| [&entry.name[..], &entry.target].concat()).collect();
    let mut out = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 2]].concat();
    out.extend((entries.len() as u32).to_le_bytes());
    out.extend((names.len() as u32).to_le_bytes());
    let mut position = 0u32;
    for Entry { name, target, kind, blob } in &entries {
        out.extend(name_hash(name));
        out.extend(blob.size.to_le_bytes());
        out.extend(TIME.seconds.to_le_bytes());
        out.extend(TIME.nanos.to_le_bytes());
        out.extend(position.to_le_bytes());
        out.extend((name.len() as u16).to_le_bytes());
        out.extend((target.len() as u16).to_le_bytes());
        out.extend(if *kind == SYMLINK { 0u16 } else { 0o644 }.to_le_bytes());
        out.extend([*kind, blob.depth]);
        out.extend(blob.top_bytes());
        position += (name.len() + target.len()) as u32;
    }
    out.extend(names);
    out
}

impl Trap {
    /// A tree that lies, honest otherwise.
    pub fn new(lie: Lie, rng: &mut Rng) -> Self {
        let reference = Reference { root: Blob::EMPTY };
        let mut trap = Self { reference, chunks: BTreeMap::new(), honest: Tree::default() };
        let mut good = vec![0; 1 + rng.below(3000) as usize];
        rng.fill(&mut good);
        let mut entries = vec![Entry::new(b"good", FILE, trap.blob(&good, 0))];
        trap.honest.entries.insert(b"good".to_vec(), Node::File(good, 0o644, TIME));
        let child = |trap: &mut Self| {
            let blob = trap.blob(b"planted", 0);
            trap.blob(&directory(vec![Entry::new(b"child", FILE, blob)]), 0)
        };
        match lie {
            Lie::Name => {
                let long = vec![b'x'; NAME_MAX + 1];
                let names: [&[u8]; 8] = [b".", b"..", b"", b"../up", b"a/b", b"/etc", b"nul\0", &long];
                let name = names[rng.below(names.len() as u64) as usize];
                let blob = if rng.chance(0.5) { child(&mut trap) } else { trap.blob(b"planted", 0) };
                entries.push(Entry::new(name, 1 + rng.below(2) as u8, blob));
            }
            Lie::Twice => {
                let mut link = Entry::new(b"way", SYMLINK, Blob::EMPTY);
                link.target = b"/".to_vec();
                entries.push(Entry::new(b"way", DIRECTORY, child(&mut trap)));
                entries.insert(rng.below(3) as usize, link);
            }
            Lie::Deep => {
                let mut blob = child(&mut trap);
                for _ in 0..DIRECTORY_DEPTH_MAX + 1 {
                    blob = trap.blob(&directory(vec![Entry::new(b"d", DIRECTORY, blob)]), 0);
                }
                entries.push(Entry::new(b"d", DIRECTORY, blob));
            }
            Lie::Longer => {
                let more = 1 + rng.below(70_000);
                let mut blob = trap.blob(b"short", more as usize + 100);
                blob.size += more;
                if let Some(top) = &mut blob.top {
                    top.plain_len += more as u32;
                }
                entries.push(Entry::new(b"long", FILE, blob));
            }
            Lie::List => {
                let size = PIECE_PLAIN_MAX as u64 + 1 + rng.below(3 << 20);
                let depth = extents::depth_of(size).expect("not above the most");
                let mut list = vec![0; extents::top_len(size, depth) as usize];
                rng.fill(&mut list);
                let top = trap.blob(&list, 0).top;
                entries.push(Entry::new(b"large", FILE, Blob { size, depth, top }));
            }
            Lie::NoDirectory => {
                let mut bytes = vec![0; HEADER_LEN + rng.below(500) as usize];
                rng.fill(&mut bytes);
                entries.push(Entry::new(b"sub", DIRECTORY, trap.blob(&bytes, 0)));
            }
            Lie::Count => {
                let blob = trap.blob(b"planted", 0);
                let mut bytes = directory(vec![Entry::new(b"child", FILE, blob)]);
                bytes[8] += 1 + rng.below(200) as u8;
                entries.push(Entry::new(b"sub", DIRECTORY, trap.blob(&bytes, 0)));
            }
            Lie::Key => {
                let mut blob = trap.blob(&[7; 70_000], 0);
                if let Some(top) = &mut blob.top {
                    top.key[rng.below(32) as usize] ^= 1;
                }
                entries.push(Entry::new(b"locked", FILE, blob));
            }
        }
        trap.reference.root = trap.blob(&directory(entries), 0);
        trap
    }

    /// A piece in a chunk of its own, with so many zeros behind it.
    fn blob(&mut self, plain: &[u8], behind: usize) -> Blob {
        let sealed = Piece::new(plain, &Domain::new(None)).seal();
        let behind = behind.min(CHUNK_SIZE_MAX - sealed.sealed.len());
        let chunk = [&sealed.sealed[..], &vec![0; behind]].concat();
        let id = ChunkId(sha1(&[&chunk]));
        let top = Locator {
            chunk: id,
            root: *SliceList::from_chunk(&chunk).root(),
            chunk_len: chunk.len() as u32,
            offset: 0,
            plain_len: sealed.plain_len,
            key: sealed.key,
        };
        self.chunks.insert(id, chunk);
        Blob { size: plain.len() as u64, depth: 0, top: Some(top) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::directory::DirectoryView;

    #[test]
    fn what_is_written_by_hand_is_a_directory_but_for_the_lie() {
        let mut trap = Trap::new(Lie::Deep, &mut Rng::from_number(1));
        let honest = directory(vec![Entry::new(b"a", FILE, trap.blob(b"x", 0))]);
        assert_eq!(DirectoryView::new_checked(&honest).expect("well made").len(), 1);
        for name in [&b".."[..], b"a/b", &[b'x'; NAME_MAX + 1]] {
            let hostile = directory(vec![Entry::new(name, FILE, trap.blob(b"x", 0))]);
            assert!(DirectoryView::new_checked(&hostile).is_err(), "{}", name.escape_ascii());
        }
        for lie in Lie::ALL {
            let text = Trap::new(lie, &mut Rng::from_number(2)).reference.to_string();
            assert!(text.parse::<Reference>().is_ok(), "{lie:?}: only its content lies");
        }
    }
}

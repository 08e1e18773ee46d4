//! What a `get` will restore: the tree below the reference, read from its directories.

use crate::base::fileop::FileTime;
use crate::wire::reference::Blob;

/// A directory to make. Number 0 is the output root, which exists.
pub(super) struct Dir {
    pub parent: u32,
    pub name: Vec<u8>,
    pub mode: u32,
    pub mtime: FileTime,
    pub depth: u16,
}

/// A file to restore.
pub(super) struct File {
    pub parent: u32,
    pub name: Vec<u8>,
    pub mode: u32,
    pub mtime: FileTime,
    pub blob: Blob,
}

/// A symlink to make.
pub(super) struct Link {
    pub parent: u32,
    pub name: Vec<u8>,
    pub target: Vec<u8>,
    pub mtime: FileTime,
}

/// Everything that was found.
#[derive(Default)]
pub(super) struct Tree {
    pub dirs: Vec<Dir>,
    pub files: Vec<File>,
    pub links: Vec<Link>,
}

impl Tree {
    /// Number of entries of all kinds.
    pub(super) fn entries(&self) -> usize {
        self.dirs.len() + self.files.len() + self.links.len()
    }

    /// The order in which to restore files: files whose content shares a chunk come together, at the place
    /// of the first of them, so that each slice of a packed chunk is fetched once.
    pub(super) fn order(&self) -> Vec<u32> {
        let mut first = std::collections::BTreeMap::new();
        let mut keys: Vec<(u32, u32, u32)> = Vec::with_capacity(self.files.len());
        for (index, file) in self.files.iter().enumerate() {
            let index = index as u32;
            let key = match &file.blob.top {
                Some(top) if file.blob.depth == 0 => {
                    (*first.entry(top.chunk).or_insert(index), top.offset, index)
                }
                _ => (index, 0, index),
            };
            keys.push(key);
        }
        keys.sort_unstable();
        keys.into_iter().map(|(_, _, index)| index).collect()
    }
}

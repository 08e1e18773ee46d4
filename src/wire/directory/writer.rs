//! Builds a directory's bytes.

use super::{
    ENTRY_LEN, Entry, Header, KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, MODE_MAX, NANOS_MAX, Node, hash_of,
    name_hash, name_is_valid, target_is_valid, word,
};
use crate::limits::DIRECTORY_ENTRIES_MAX;
use crate::wire::reference::Blob;

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

//! A tree of files becomes chunks and a reference (docs/protocol/content.md §5, directory.md).
//!
//! The way of a file: the walker reads a piece (at most [`PIECE_PLAIN_MAX`]
//! bytes) → [`prepare`] hashes it, asks the publisher's database, and seals it if it is new: the costly part,
//! and free of state, so any thread may do it → [`Put::prepared`] packs it. Closed chunks are hashed, again on
//! any thread, and go to the store; then their pieces' locators are known. Once the tree is walked,
//! [`Put::finish`] writes extent lists and directories, the deepest first, each level after the chunks of the
//! level below are closed, since a locator names its chunk by the hash of it.
//!
//! Directories are content like any other: one that did not change has the same bytes, is known, and makes no
//! chunk. So after one file was edited, only that file and the directories above it make new ones.
//!
//! Memory is bounded by entries and pieces, not by bytes: about 100 bytes per entry and its name, 200 per
//! piece, the few chunks that the packer keeps open, and one directory's bytes.

mod pieces;

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::base::fileop::FileTime;
use crate::chunk::{ClosedChunk, Domain, NewChunk, PieceHash};
use crate::crypto::Secret;
use crate::limits::{DIRECTORY_DEPTH_MAX, DIRECTORY_ENTRIES_MAX, PIECE_PLAIN_MAX};
use crate::wire::directory::{self, BadDirectory, DirectoryWriter, Entry, Node};
use crate::wire::extents;
use crate::wire::locator::Locator;
use crate::wire::reference::{Blob, Reference};

pub use pieces::{Known, Prepared, prepare};
use pieces::{Pieces, index};

/// Why a tree cannot be put: one line for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// A name or a number of entries that no directory can hold.
    #[error("{0}")]
    Directory(#[from] BadDirectory),
    /// Directories within directories, too many times.
    #[error("directories are nested more than {DIRECTORY_DEPTH_MAX} deep")]
    TooDeep,
    /// No reference can describe it.
    #[error("{0:?} is too large")]
    TooLarge(String),
    /// Only a file's last piece may be shorter than the others.
    #[error("{0:?} was cut at the wrong place")]
    Cut(String),
}

/// What a put did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutStats {
    /// Files taken.
    pub files: u64,
    /// Directories taken.
    pub directories: u64,
    /// Symlinks taken.
    pub symlinks: u64,
    /// Plaintext bytes of files.
    pub bytes: u64,
    /// Pieces sealed, those of directories and extent lists included.
    pub pieces_new: u64,
    /// Pieces that were known, or that came twice.
    pub pieces_known: u64,
    /// Chunks made.
    pub chunks_new: u64,
    /// Ciphertext bytes of those.
    pub bytes_new: u64,
}

/// Content of an entry, by index into the tables of [`Put`].
#[derive(Clone, Copy)]
enum Body {
    Empty,
    Piece(u32),
    Large(u32),
    Directory(u32),
    Symlink,
}

/// Content of more than one piece. `rows` are blobs of `depth`; raising replaces them by the extent lists
/// above them, until one is left.
struct Large {
    size: u64,
    depth: u8,
    rows: Vec<u32>,
    raised: Vec<u32>,
    /// How many of `rows` are in `raised`'s lists.
    done: usize,
}

struct Record {
    name_pos: u32,
    name_len: u16,
    target_len: u16,
    mode: u16,
    mtime: FileTime,
    size: u64,
    body: Body,
}

struct Directory {
    level: usize,
    records: Vec<Record>,
    names: Vec<u8>,
    /// Once written.
    size: u64,
    body: Body,
}

impl Directory {
    fn new(level: usize) -> Self {
        Self { level, records: Vec::new(), names: Vec::new(), size: 0, body: Body::Empty }
    }
}

struct OpenFile {
    name: Vec<u8>,
    mode: u16,
    mtime: FileTime,
    size: u64,
    pieces: Vec<u32>,
    is_cut: bool,
}

enum Phase {
    /// The tree is being walked.
    Tree,
    /// Everything added so far must lie in closed and hashed chunks.
    Settle,
    /// Extent lists above content of several pieces.
    Raise(usize),
    /// The directories of one level.
    Level(usize),
    Done,
}

/// One put. Walk: `begin_directory`, `begin_file`, `piece`…, `end_file`, `symlink`, `end_directory`. After
/// every call drain [`Self::poll_chunk`] (or [`Self::poll_closed`]) and [`Self::poll_publication`]. At the end
/// call [`Self::finish`], draining in between, until it gives the reference.
pub struct Put {
    pieces: Pieces,
    large: Vec<Large>,
    unraised: Vec<u32>,
    directories: Vec<Directory>,
    /// Directories not yet written, the deepest last.
    unwritten: Vec<u32>,
    stack: Vec<u32>,
    root_names: BTreeSet<Vec<u8>>,
    file: Option<OpenFile>,
    phase: Phase,
    stats: PutStats,
}

impl Put {
    /// An empty tree, in the domain of a salt or in the common one.
    pub fn new(salt: Option<&Secret>) -> Self {
        Self {
            pieces: Pieces::new(salt),
            large: Vec::new(),
            unraised: Vec::new(),
            directories: vec![Directory::new(0)],
            unwritten: Vec::new(),
            stack: vec![0],
            root_names: BTreeSet::new(),
            file: None,
            phase: Phase::Tree,
            stats: PutStats::default(),
        }
    }

    /// The salt domain that workers [`prepare`] pieces for.
    pub fn domain(&self) -> &Domain {
        &self.pieces.domain
    }

    /// Enters a new directory below the current one, or below the root: a `PATH` given to `put`.
    pub fn begin_directory(&mut self, name: &[u8], mode: u16, mtime: FileTime) -> Result<(), PutError> {
        if self.stack.len() > DIRECTORY_DEPTH_MAX {
            return Err(PutError::TooDeep);
        }
        let child = index(self.directories.len());
        self.record(name, &[], mode, mtime, 0, Body::Directory(child))?;
        self.directories.push(Directory::new(self.stack.len()));
        self.stack.push(child);
        self.stats.directories += 1;
        Ok(())
    }

    /// Leaves the current directory.
    ///
    /// # Panics
    /// Without a [`Self::begin_directory`].
    pub fn end_directory(&mut self) {
        assert!(self.stack.len() > 1 && self.file.is_none(), "no directory to end");
        self.stack.pop();
    }

    /// Begins a file of the current directory.
    ///
    /// # Panics
    /// Within another file.
    pub fn begin_file(&mut self, name: &[u8], mode: u16, mtime: FileTime) -> Result<(), PutError> {
        assert!(self.file.is_none(), "a file within a file");
        self.check_name(name)?;
        let (name, pieces) = (name.to_vec(), Vec::new());
        self.file = Some(OpenFile { name, mode, mtime, size: 0, pieces, is_cut: false });
        Ok(())
    }

    /// The next `PIECE_PLAIN_MAX` bytes of the file, or its last: 1 byte or more.
    pub fn piece(&mut self, plain: &[u8], known: &mut impl Known) -> Result<(), PutError> {
        let slot = self.pieces.slot(plain, known);
        self.append(slot, plain.len() as u64)
    }

    /// The same, of a piece that a worker [`prepare`]d.
    pub fn prepared(&mut self, piece: Prepared) -> Result<(), PutError> {
        let len = match &piece {
            Prepared::Known(_, locator) => locator.plain_len,
            Prepared::Sealed(sealed) => sealed.plain_len,
        };
        let slot = self.pieces.intern(piece);
        self.append(slot, len.into())
    }

    fn append(&mut self, slot: u32, len: u64) -> Result<(), PutError> {
        let file = self.file.as_mut().expect("a piece belongs to a file");
        if file.is_cut {
            return Err(PutError::Cut(shown(&file.name)));
        }
        file.is_cut = len < PIECE_PLAIN_MAX as u64;
        file.size += len;
        file.pieces.push(slot);
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Panics
    /// Without a [`Self::begin_file`].
    pub fn end_file(&mut self) -> Result<(), PutError> {
        let file = self.file.take().expect("no file to end");
        if extents::depth_of(file.size).is_none() {
            return Err(PutError::TooLarge(shown(&file.name)));
        }
        let body = self.body(file.size, file.pieces);
        self.record(&file.name, &[], file.mode, file.mtime, file.size, body)?;
        self.stats.files += 1;
        self.stats.bytes += file.size;
        Ok(())
    }

    /// Forgets the file that was begun (it vanished, or cannot be read). Its pieces stay in their chunks.
    pub fn abandon_file(&mut self) {
        self.file = None;
    }

    /// A symlink of the current directory.
    pub fn symlink(&mut self, name: &[u8], target: &[u8], mtime: FileTime) -> Result<(), PutError> {
        if !directory::target_is_valid(target) {
            return Err(BadDirectory::Target(shown(name)).into());
        }
        self.record(name, target, 0, mtime, 0, Body::Symlink)?;
        self.stats.symlinks += 1;
        Ok(())
    }

    /// The next closed chunk, to be hashed on a worker and handed back through [`Self::hashed`].
    pub fn poll_closed(&mut self) -> Option<ClosedChunk> {
        self.pieces.packer.poll_closed()
    }

    /// A chunk was hashed. It is the caller's to store.
    pub fn hashed(&mut self, chunk: &NewChunk) {
        self.pieces.hashed(chunk);
        self.stats.chunks_new += 1;
        self.stats.bytes_new += chunk.bytes.len() as u64;
    }

    /// The next chunk for the store, hashed on the spot.
    pub fn poll_chunk(&mut self) -> Option<NewChunk> {
        let chunk = self.poll_closed()?.hash();
        self.hashed(&chunk);
        Some(chunk)
    }

    /// The next piece that the publisher's database should know, **once its chunk is stored**.
    pub fn poll_publication(&mut self) -> Option<(PieceHash, Locator)> {
        self.pieces.publications.pop_front()
    }

    /// What was done so far.
    pub fn stats(&self) -> PutStats {
        PutStats { pieces_new: self.pieces.new, pieces_known: self.pieces.known, ..self.stats }
    }

    /// After the walk: works until a chunk is closed, or everything is done. `Ok(None)`: drain chunks and
    /// publications (all closed chunks must come back through [`Self::hashed`]), then call again.
    ///
    /// # Panics
    /// Within a file or a directory.
    pub fn finish(&mut self, known: &mut impl Known) -> Result<Option<Reference>, PutError> {
        assert!(self.stack.len() == 1 && self.file.is_none(), "the walk is not over");
        while !self.pieces.packer.has_closed() {
            match self.phase {
                Phase::Tree => {
                    self.root_names.clear();
                    self.unwritten = (0..index(self.directories.len())).collect();
                    self.unwritten.sort_by_key(|&at| self.directories[at as usize].level);
                    self.phase = Phase::Settle;
                }
                Phase::Settle if self.pieces.packer.is_settled() => self.phase = Phase::Raise(0),
                Phase::Settle if self.pieces.packer.has_open() => self.pieces.packer.flush(),
                Phase::Settle => return Ok(None),
                Phase::Raise(at) => self.raise(at, known),
                Phase::Level(level) => self.write_next(level, known)?,
                Phase::Done => return Ok(Some(Reference { root: self.blob_of_directory(0) })),
            }
        }
        Ok(None)
    }

    /// Writes one extent list of `unraised[at]`, or goes on to what comes next.
    fn raise(&mut self, at: usize, known: &mut impl Known) {
        let Some(&number) = self.unraised.get(at) else {
            let large = &self.large;
            self.unraised.retain(|&number| large[number as usize].rows.len() > 1);
            // A list that was just sealed must lie in a closed chunk before anything can name it.
            self.phase = if at > 0 { Phase::Settle } else { self.next_level() };
            return;
        };
        let large = &self.large[number as usize];
        let (start, depth) = (large.done, large.depth + 1);
        let end = (start + extents::FANOUT).min(large.rows.len());
        let covered = start as u64 * extents::capacity(large.depth);
        let size = (large.size - covered).min(extents::capacity(depth));
        let list =
            extents::emit(size, depth, large.rows[start..end].iter().map(|&row| self.pieces.locator(row)));
        let slot = self.pieces.slot(&list, known);
        let large = &mut self.large[number as usize];
        large.raised.push(slot);
        large.done = end;
        if end == large.rows.len() {
            (large.rows, large.done, large.depth) = (std::mem::take(&mut large.raised), 0, depth);
            self.phase = Phase::Raise(at + 1);
        }
    }

    fn next_level(&self) -> Phase {
        let last = self.unwritten.last();
        last.map_or(Phase::Done, |&at| Phase::Level(self.directories[at as usize].level))
    }

    /// Writes one directory of `level`, whose children all lie in closed chunks.
    fn write_next(&mut self, level: usize, known: &mut impl Known) -> Result<(), PutError> {
        let next = self.unwritten.pop_if(|at| self.directories[*at as usize].level == level);
        let Some(at) = next else {
            self.phase = Phase::Settle;
            return Ok(());
        };
        let records = std::mem::take(&mut self.directories[at as usize].records);
        let names = std::mem::take(&mut self.directories[at as usize].names);
        let mut writer = DirectoryWriter::new();
        for record in &records {
            let both = &names[record.name_pos as usize..][..usize::from(record.name_len + record.target_len)];
            let (name, target) = both.split_at(record.name_len.into());
            let node = match record.body {
                Body::Symlink => Node::Symlink(Cow::Borrowed(target)),
                Body::Directory(child) => Node::Directory(self.blob_of_directory(child)),
                body => Node::File(self.blob(record.size, body)),
            };
            writer.push(&Entry {
                name: Cow::Borrowed(name),
                mode: record.mode,
                mtime: record.mtime,
                node,
            })?;
        }
        let bytes = writer.finish()?;
        let pieces = bytes.chunks(PIECE_PLAIN_MAX).map(|piece| self.pieces.slot(piece, known)).collect();
        let body = self.body(bytes.len() as u64, pieces);
        let directory = &mut self.directories[at as usize];
        (directory.size, directory.body) = (bytes.len() as u64, body);
        Ok(())
    }

    fn body(&mut self, size: u64, pieces: Vec<u32>) -> Body {
        match pieces[..] {
            [] => Body::Empty,
            [slot] => Body::Piece(slot),
            _ => {
                let number = index(self.large.len());
                let raised = Vec::new();
                self.large.push(Large { size, depth: 0, rows: pieces, raised, done: 0 });
                self.unraised.push(number);
                Body::Large(number)
            }
        }
    }

    fn blob_of_directory(&self, at: u32) -> Blob {
        let directory = &self.directories[at as usize];
        self.blob(directory.size, directory.body)
    }

    /// The blob of content all of whose pieces and lists are resolved.
    fn blob(&self, size: u64, body: Body) -> Blob {
        let (depth, slot) = match body {
            Body::Piece(slot) => (0, slot),
            Body::Large(number) => (self.large[number as usize].depth, self.large[number as usize].rows[0]),
            Body::Empty | Body::Directory(_) | Body::Symlink => return Blob::EMPTY,
        };
        Blob { size, depth, top: Some(self.pieces.locator(slot).clone()) }
    }

    fn check_name(&self, name: &[u8]) -> Result<(), PutError> {
        if !directory::name_is_valid(name) {
            return Err(BadDirectory::Name(shown(name)).into());
        }
        if self.stack.len() == 1 && self.root_names.contains(name) {
            return Err(BadDirectory::SameName(shown(name)).into());
        }
        Ok(())
    }

    fn record(
        &mut self,
        name: &[u8],
        target: &[u8],
        mode: u16,
        mtime: FileTime,
        size: u64,
        body: Body,
    ) -> Result<(), PutError> {
        assert!(matches!(self.phase, Phase::Tree) && self.file.is_none(), "not within a walk");
        self.check_name(name)?;
        if self.stack.len() == 1 {
            self.root_names.insert(name.to_vec());
        }
        let current = self.stack.last().map_or(0, |&at| at as usize);
        let directory = &mut self.directories[current];
        let name_pos = u32::try_from(directory.names.len()).map_err(|_| BadDirectory::TooLarge)?;
        if directory.records.len() == DIRECTORY_ENTRIES_MAX {
            return Err(BadDirectory::TooLarge.into());
        }
        directory.names.extend_from_slice(name);
        directory.names.extend_from_slice(target);
        directory.records.push(Record {
            name_pos,
            name_len: name.len() as u16,
            target_len: target.len() as u16,
            mode,
            mtime,
            size,
            body,
        });
        Ok(())
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests;

//! Restoring one file: its extents one after another, its records as they come, what an earlier run left.

use std::collections::{BTreeMap, VecDeque};

use crate::base::fileop::JournalRecord;
use crate::chunk::seal::PieceKey;
use crate::limits::{CHUNK_SLICES_MAX, PIECE_PLAIN_MAX, RECORD_PLAIN};
use crate::wire::locator::Locator;
use crate::wire::reference::Blob;

/// A file being restored.
pub(super) struct Active {
    /// Blobs not yet expanded, in file order: (blob, offset in the file).
    pub queue: VecDeque<(Blob, u64)>,
    /// What its extent lists may come to, bytes.
    pub lists: u64,
    /// Records not yet handed to the file thread (or found there).
    pub records_left: u64,
    /// Whether the file may be written to: its `Open` was answered, or need not be waited for.
    pub open: bool,
    /// An extent list of this file is being read: nothing more can be expanded before.
    pub reading_list: bool,
    /// What an earlier run wrote, unchecked: record number → tag.
    pub journal: BTreeMap<u64, [u8; 16]>,
    /// Pieces of which records are being read back: first record → piece.
    pub checking: BTreeMap<u64, Checking>,
}

/// A piece whose earlier records are being checked.
pub(super) struct Checking {
    pub locator: Locator,
    pub key: PieceKey,
    /// Offset of its plaintext in the file.
    pub offset: u64,
    /// Read-backs not yet answered.
    pub waiting: u32,
    /// Bit i: record i must be fetched.
    pub missing: u16,
}

/// One piece of a file, ready to be fetched or checked.
pub(super) struct Piece {
    pub locator: Locator,
    /// Offset of its plaintext in the file.
    pub offset: u64,
}

impl Piece {
    /// The number of its first record within the file: pieces of a file are full but for the last, so
    /// records are numbered through.
    pub(super) fn first_record(&self) -> u64 {
        self.offset / PIECE_PLAIN_MAX as u64 * CHUNK_SLICES_MAX as u64
    }

    /// All its records.
    pub(super) fn all(&self) -> u16 {
        ((1u32 << self.locator.records()) - 1) as u16
    }

    /// Plaintext length of one record.
    pub(super) fn record_len(&self, record: u32) -> u32 {
        (self.locator.plain_len - record * RECORD_PLAIN as u32).min(RECORD_PLAIN as u32)
    }
}

impl Active {
    pub(super) fn new(blob: &Blob, open: bool) -> Self {
        Self {
            queue: VecDeque::from([(blob.clone(), 0)]),
            lists: lists_of(blob),
            records_left: blob.size.div_ceil(RECORD_PLAIN as u64),
            open,
            reading_list: false,
            journal: BTreeMap::new(),
            checking: BTreeMap::new(),
        }
    }

    pub(super) fn opened(&mut self, journal: Vec<JournalRecord>) {
        self.open = true;
        self.journal = journal.into_iter().map(|r| (r.record, r.tag)).collect();
    }

    /// Which records of a piece an earlier run wrote (bit i = record i).
    pub(super) fn journaled(&self, piece: &Piece) -> u16 {
        let first = piece.first_record();
        self.journal
            .range(first..first + u64::from(piece.locator.records()))
            .fold(0, |mask, (record, _)| mask | 1 << (record - first))
    }
}

/// What the extent lists of a file come to while it is restored: the topmost one, and a full one for each level
/// below it. A small one costs something, too.
fn lists_of(blob: &Blob) -> u64 {
    let top = blob.top.as_ref().map_or(0, |top| u64::from(top.plain_len)).max(RECORD_PLAIN as u64);
    match u64::from(blob.depth) {
        0 => 0,
        depth => top + (depth - 1) * PIECE_PLAIN_MAX as u64,
    }
}

//! One simulated `put`: the steps of `shard::import` in their order, a few at a time, so that a crash can come
//! between any two. What it gives to the store it gives in the same order: a chunk when it is closed,
//! publications in batches behind the chunks that they name; and it tells its reference when all is acknowledged.

use std::collections::VecDeque;

use super::store::{Kind, MapStore, Write};
use super::trees::{Step, Tree};
use crate::base::{ChunkId, Rng, Time};
use crate::chunk::PieceHash;
use crate::crypto::Secret;
use crate::limits::{PIECE_PLAIN_MAX, PUBLISH_BATCH};
use crate::service::put::{Known, Put};
use crate::wire::locator::Locator;
use crate::wire::reference::Reference;

/// How an import ended.
pub type Ended = Result<Imported, String>;

/// What an import that ended well has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The reference.
    pub reference: Reference,
    /// The chunks that it needs, those that were there before included.
    pub chunks: Vec<ChunkId>,
}

/// The publisher's database as it is now, and the chunks that it named.
struct Publications<'a> {
    store: &'a MapStore,
    used: &'a mut Vec<ChunkId>,
}

impl Known for Publications<'_> {
    fn find(&mut self, piece: &PieceHash) -> Option<Locator> {
        let found = self.store.publication(&piece.0)?;
        if !self.used.contains(&found.chunk) {
            self.used.push(found.chunk);
        }
        Some(found)
    }
}

/// An import under way.
pub struct Import {
    put: Put,
    steps: VecDeque<Step>,
    publications: Vec<([u8; 32], Locator)>,
    chunks: Vec<ChunkId>,
    made: Vec<(ChunkId, Vec<u8>)>,
    numbers: std::ops::RangeFrom<u64>,
    unacknowledged: u64,
    reference: Option<Reference>,
    failed: Option<String>,
}

impl Import {
    /// An import of a tree; `first` numbers its writes, from there on.
    pub fn new(tree: &Tree, salt: Option<&Secret>, first: u64) -> Self {
        Self {
            put: Put::new(salt),
            steps: tree.steps().into(),
            publications: Vec::new(),
            chunks: Vec::new(),
            made: Vec::new(),
            numbers: first..,
            unacknowledged: 0,
            reference: None,
            failed: None,
        }
    }

    /// Does the next step; what came of the whole, once everything is acknowledged.
    pub fn step(&mut self, now: Time, store: &mut MapStore, rng: &mut Rng) -> Option<Ended> {
        if let Some(why) = self.failed.take() {
            // What is stored by now is remembered, however it ended.
            self.publish(now, store, rng);
            return Some(Err(why));
        }
        if let Some(reference) = &self.reference {
            let imported = || Imported { reference: reference.clone(), chunks: self.chunks.clone() };
            return (self.unacknowledged == 0).then(|| Ok(imported()));
        }
        let mut known = Publications { store, used: &mut self.chunks };
        let done = match self.steps.pop_front() {
            Some(Step::BeginDirectory(name, mode, mtime)) => self.put.begin_directory(&name, mode, mtime),
            Some(Step::EndDirectory) => {
                self.put.end_directory();
                Ok(())
            }
            Some(Step::File(name, mode, mtime, bytes)) => {
                self.put.begin_file(&name, mode, mtime).and_then(|()| {
                    bytes
                        .chunks(PIECE_PLAIN_MAX)
                        .try_for_each(|piece| self.put.piece(piece, &mut known))
                        .and_then(|()| self.put.end_file())
                })
            }
            Some(Step::Symlink(name, target, mtime)) => self.put.symlink(&name, &target, mtime),
            None => self.put.finish(&mut known).map(|reference| self.reference = reference),
        };
        self.failed = done.err().map(|error| error.to_string());
        self.move_on(now, store, rng);
        if self.reference.is_some() {
            self.publish(now, store, rng);
        }
        None
    }

    /// The chunks that it made since the last call, as they are before any disk has them.
    pub fn take_made(&mut self) -> Vec<(ChunkId, Vec<u8>)> {
        std::mem::take(&mut self.made)
    }

    /// A write that this import made was done, or not.
    pub fn acknowledged(&mut self, result: Result<(), String>) {
        self.unacknowledged -= 1;
        if let Err(why) = result {
            self.failed.get_or_insert(why);
        }
    }

    fn move_on(&mut self, now: Time, store: &mut MapStore, rng: &mut Rng) {
        while let Some(chunk) = self.put.poll_chunk() {
            self.chunks.push(chunk.id);
            self.made.push((chunk.id, chunk.bytes.clone()));
            self.give(now, store, Write::Chunk(chunk.id, chunk.bytes), rng);
        }
        while let Some((hash, locator)) = self.put.poll_publication() {
            self.publications.push((hash.0, locator));
        }
        if self.publications.len() >= PUBLISH_BATCH {
            self.publish(now, store, rng);
        }
    }

    fn publish(&mut self, now: Time, store: &mut MapStore, rng: &mut Rng) {
        if !self.publications.is_empty() {
            let pieces = std::mem::take(&mut self.publications);
            self.give(now, store, Write::Publish(pieces), rng);
        }
    }

    fn give(&mut self, now: Time, store: &mut MapStore, write: Write, rng: &mut Rng) {
        self.unacknowledged += 1;
        let number = self.numbers.next().expect("numbers do not end");
        store.write(now, Kind::Local, write, number, rng);
    }
}

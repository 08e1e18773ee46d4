//! The pieces of one put: which are known, which are sealed and packed, where they lie.

use std::collections::{BTreeMap, VecDeque};

use crate::chunk::{Domain, NewChunk, Packer, Piece, PieceHash, SealedPiece};
use crate::crypto::Secret;
use crate::wire::locator::Locator;

/// The publisher's database: which pieces lie in chunks that are still stored.
pub trait Known {
    /// Where a piece lies. Hashes of different salt domains differ, so one database serves them all.
    fn find(&mut self, piece: &PieceHash) -> Option<Locator>;
}

/// A piece that was hashed and, if it is new, sealed.
pub enum Prepared {
    /// It lies in a chunk already.
    Known(PieceHash, Locator),
    /// It is new.
    Sealed(SealedPiece),
}

/// Hashes 1 to `PIECE_PLAIN_MAX` bytes, looks them up and seals them if they are new. Needs no state of
/// [`Put`](super::Put): workers call it side by side, and hand the results over in the order of the walk.
pub fn prepare(plain: &[u8], domain: &Domain, known: &mut impl Known) -> Prepared {
    prepare_piece(&Piece::new(plain, domain), known)
}

fn prepare_piece(piece: &Piece<'_>, known: &mut impl Known) -> Prepared {
    let fits = |locator: &Locator| locator.plain_len == piece.plain_len();
    match known.find(piece.hash()).filter(fits) {
        Some(locator) => Prepared::Known(*piece.hash(), locator),
        None => Prepared::Sealed(piece.seal()),
    }
}

enum Slot {
    Pending(PieceHash),
    Resolved(Locator),
}

/// Pieces by number. A number is given when a piece is first seen, its locator follows when its chunk is
/// hashed.
pub(super) struct Pieces {
    pub(super) domain: Domain,
    pub(super) packer: Packer,
    pub(super) publications: VecDeque<(PieceHash, Locator)>,
    /// Pieces that were sealed, and that were known or came again.
    pub(super) new: u64,
    pub(super) known: u64,
    slots: Vec<Slot>,
    by_hash: BTreeMap<PieceHash, u32>,
}

impl Pieces {
    pub(super) fn new(salt: Option<&Secret>) -> Self {
        Self {
            domain: Domain::new(salt),
            packer: Packer::new(),
            publications: VecDeque::new(),
            new: 0,
            known: 0,
            slots: Vec::new(),
            by_hash: BTreeMap::new(),
        }
    }

    /// The number of a piece, sealed if it is new.
    pub(super) fn slot(&mut self, plain: &[u8], known: &mut impl Known) -> u32 {
        let piece = Piece::new(plain, &self.domain);
        match self.by_hash.get(piece.hash()) {
            Some(&slot) => {
                self.known += 1;
                slot
            }
            None => self.intern(prepare_piece(&piece, known)),
        }
    }

    /// The number of a prepared piece.
    pub(super) fn intern(&mut self, piece: Prepared) -> u32 {
        let hash = match &piece {
            Prepared::Known(hash, _) => *hash,
            Prepared::Sealed(sealed) => sealed.hash,
        };
        if let Some(&slot) = self.by_hash.get(&hash) {
            self.known += 1;
            return slot;
        }
        let slot = index(self.slots.len());
        self.by_hash.insert(hash, slot);
        match piece {
            Prepared::Known(_, locator) => {
                self.known += 1;
                self.slots.push(Slot::Resolved(locator));
            }
            Prepared::Sealed(sealed) => {
                self.new += 1;
                self.slots.push(Slot::Pending(hash));
                self.packer.add(slot.into(), sealed);
            }
        }
        slot
    }

    /// A chunk was hashed: its pieces may be published.
    pub(super) fn hashed(&mut self, chunk: &NewChunk) {
        self.packer.hashed(chunk);
        while let Some((tag, locator)) = self.packer.poll_resolved() {
            let slot = &mut self.slots[tag as usize];
            if let Slot::Pending(hash) = *slot {
                self.publications.push_back((hash, locator.clone()));
            }
            *slot = Slot::Resolved(locator);
        }
    }

    /// Where a piece lies whose chunk was hashed.
    pub(super) fn locator(&self, slot: u32) -> &Locator {
        match &self.slots[slot as usize] {
            Slot::Resolved(locator) => locator,
            Slot::Pending(_) => unreachable!("a level is written when all below it is settled"),
        }
    }
}

/// Pieces and directories are counted in 32 bits.
pub(super) fn index(len: usize) -> u32 {
    u32::try_from(len).expect("four thousand million pieces or directories do not fit in memory")
}

//! Content as a pure core: sealing pieces, packing them into chunks, verifying slices, and finding one
//! name in a directory that lies elsewhere. Layouts are in `docs/protocol/content.md` and
//! `docs/protocol/directory.md`.
//!
//! The way in: [`seal::Piece`] hashes and seals plaintext, [`pack::Packer`] puts sealed pieces into
//! chunks, [`pack::ClosedChunk::hash`] gives a chunk its address and its [`slices::SliceList`]. The way
//! out: [`slices::SliceList`] verifies each slice alone, [`seal::PieceKey`] opens the records in place,
//! [`lookup::Lookup`] says which bytes of a directory must be read to find one entry. A chunk that somebody sends as a
//! whole is an [`incoming::Incoming`] until all of it is here.

pub mod incoming;
pub mod lookup;
pub mod pack;
pub mod seal;
pub mod slices;

pub use incoming::Incoming;
pub use lookup::{Lookup, Step};
pub use pack::{ClosedChunk, NewChunk, Packer};
pub use seal::{Domain, Piece, PieceHash, PieceKey, SealedPiece};
pub use slices::{BadList, BadSlice, SliceList};

//! `tornet:…`: the secret that finds, checks and opens content. (to be completed)

use super::locator::Locator;

/// Content of any length: at depth 0 `top` is the content itself (one piece); at depth d > 0 it is an
/// extent list whose extents are blobs of depth d − 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob {
    /// Plaintext length in all, bytes; 0 means empty, and then there is no `top`.
    pub size: u64,
    /// Levels of extent lists.
    pub depth: u8,
    /// The topmost piece.
    pub top: Option<Locator>,
}

/// What `put` prints: the root directory's blob. One entry per `PATH` that was put.
#[derive(Clone, PartialEq, Eq)]
pub struct Reference {
    /// The root directory.
    pub root: Blob,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reference(secret)")
    }
}

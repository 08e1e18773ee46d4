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

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tornet:")?;
        crate::base::id::write_hex(f, &self.root.size.to_le_bytes())?;
        crate::base::id::write_hex(f, &[self.root.depth])?;
        let top = self.root.top.as_ref().map_or([0; super::locator::LEN], Locator::emit);
        crate::base::id::write_hex(f, &top)
    }
}

/// Reads `tornet:REF` or `tornet:REF/path/below/the/root`.
pub fn parse_with_path(text: &str) -> Result<(Reference, Vec<Vec<u8>>), super::Malformed> {
    use super::Malformed;
    let rest = text.strip_prefix("tornet:").ok_or(Malformed("reference"))?;
    let (hex, path) = rest.split_once('/').unwrap_or((rest, ""));
    let bytes = crate::base::id::parse_hex::<105>(hex).map_err(|_| Malformed("reference"))?;
    let size = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let top = if size == 0 { None } else { Some(Locator::parse(&bytes[9..])?) };
    let inside =
        path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect();
    Ok((Reference { root: Blob { size, depth: bytes[8], top } }, inside))
}

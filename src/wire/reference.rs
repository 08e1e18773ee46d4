//! `tornet:…`: the secret that finds, checks and opens content (docs/protocol/reference.md).
//!
//! ```text
//! 0         1      9       10        106        110                                  little-endian
//! | version | size | depth | locator | checksum |      in base32 without padding: 176 digits
//! ```

use std::fmt;
use std::str::FromStr;

use super::Malformed;
use super::base32::{self, NotBase32};
use super::directory;
use super::extents;
use super::invite;
use super::locator::{self, Locator};
use crate::crypto::hash::blake3;
use crate::limits::DIRECTORY_DEPTH_MAX;

/// What every reference begins with.
pub const PREFIX: &str = "tornet:";
/// Version of the layout.
pub const VERSION: u8 = 1;
/// Decoded length, bytes.
pub const LEN: usize = 1 + Blob::LEN + CHECKSUM_LEN;
/// Bytes of BLAKE3 that tell a typing error.
pub const CHECKSUM_LEN: usize = 4;

/// Content of any length: at depth 0 `top` is the content itself (one piece); at depth d > 0 it is an
/// extent list whose extents are blobs of depth d − 1. Its `Debug` leaves the secret out.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob {
    /// Plaintext length in all, bytes; 0 means empty, and then there is no `top`.
    pub size: u64,
    /// Levels of extent lists.
    pub depth: u8,
    /// The topmost piece.
    pub top: Option<Locator>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes, depth {})", self.size, self.depth)
    }
}

impl Blob {
    /// Encoded length, bytes.
    pub const LEN: usize = 8 + 1 + locator::LEN;

    /// No content.
    pub const EMPTY: Blob = Blob { size: 0, depth: 0, top: None };

    /// Puts a blob together from its encoded parts and checks it: as deep as its size asks for, the topmost
    /// piece as long as it must be, no locator (zeros) exactly when it is empty.
    pub fn from_parts(size: u64, depth: u8, top: &[u8]) -> Result<Self, Malformed> {
        if size == 0 {
            let empty = depth == 0 && top.len() == locator::LEN && top.iter().all(|&byte| byte == 0);
            return if empty { Ok(Self::EMPTY) } else { Err(Malformed("blob: empty with content")) };
        }
        if extents::depth_of(size) != Some(depth) {
            return Err(Malformed("blob: depth"));
        }
        let top = Locator::parse(top)?;
        if u64::from(top.plain_len) != extents::top_len(size, depth) {
            return Err(Malformed("blob: length of its topmost piece"));
        }
        Ok(Self { size, depth, top: Some(top) })
    }

    /// Reads `size 8 | depth 1 | locator 96`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..Self::LEN).ok_or(Malformed("blob: length"))?;
        let size = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        Self::from_parts(size, bytes[8], &bytes[9..])
    }

    /// Writes what [`Self::parse`] reads.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.size.to_le_bytes());
        out[8] = self.depth;
        out[9..].copy_from_slice(&self.top_bytes());
        out
    }

    /// The locator's bytes, zeros when there is none.
    pub fn top_bytes(&self) -> [u8; locator::LEN] {
        self.top.as_ref().map_or([0; locator::LEN], Locator::emit)
    }
}

/// What `put` prints: the root directory's blob. One entry per `PATH` that was put.
#[derive(Clone, PartialEq, Eq)]
pub struct Reference {
    /// The root directory.
    pub root: Blob,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reference(secret)")
    }
}

/// Why a text is no reference: one line for the person who gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// It does not begin with `tornet:`.
    #[error("not a reference: references begin with \"tornet:\", as `put` prints them")]
    NotAReference,
    /// It is a node's invitation.
    #[error("this is a node's invitation, not a reference to content; give it to `friend add`")]
    Invitation,
    /// A character that no reference has.
    #[error("the reference has a {0:?} in it, which no reference has; copy it again")]
    Character(char),
    /// It ends too early.
    #[error("the reference is cut short ({got} of {wanted} characters after \"tornet:\"); copy all of it")]
    Truncated {
        /// Characters given.
        got: usize,
        /// Characters due.
        wanted: usize,
    },
    /// The checksum fails.
    #[error("the reference has a typing error in it (its checksum does not match); copy it again")]
    Checksum,
    /// Made by a newer program.
    #[error("the reference has version {0}, this program knows version {VERSION}; use a newer tornet")]
    Version(u8),
    /// Its checksum is right, its content is not.
    #[error("the reference is damaged: malformed {0}")]
    Malformed(&'static str),
    /// The path behind it is no path.
    #[error("{0:?} is no path inside a reference: give names separated by '/', without \".\" and \"..\"")]
    Path(String),
}

/// Digits of an encoded reference.
const DIGITS: usize = (LEN * 8).div_ceil(5);

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3(&[b"tornet reference checksum v1\0", body]);
    std::array::from_fn(|index| hash[index])
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.root.emit());
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", base32::encode(&bytes))
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let text = text.trim();
        let digits = strip_prefix(text, PREFIX).ok_or(BadReference::NotAReference)?;
        if strip_prefix(text, invite::PREFIX).is_some() {
            return Err(BadReference::Invitation);
        }
        let short = BadReference::Truncated { got: digits.chars().count(), wanted: DIGITS };
        // Longer than any reference of any version: do not even decode it.
        if digits.len() > 4 * DIGITS {
            return Err(BadReference::Checksum);
        }
        let bytes = match base32::decode(digits) {
            Ok(bytes) => bytes,
            Err(NotBase32::Character(c)) => return Err(BadReference::Character(c)),
            Err(NotBase32::Length) if digits.len() < DIGITS => return Err(short),
            Err(NotBase32::Length) => return Err(BadReference::Checksum),
        };
        let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else { return Err(short) };
        if *sum != checksum(body) {
            return Err(if bytes.len() < LEN { short } else { BadReference::Checksum });
        }
        let (&version, blob) = body.split_first().ok_or(short)?;
        if version != VERSION {
            return Err(BadReference::Version(version));
        }
        if blob.len() != Blob::LEN {
            return Err(BadReference::Malformed("length"));
        }
        let root = Blob::parse(blob).map_err(|Malformed(part)| BadReference::Malformed(part))?;
        if root.top.is_none() {
            return Err(BadReference::Malformed("root directory"));
        }
        Ok(Self { root })
    }
}

/// Reads `tornet:…/a/b`: a reference and the path of one entry below its root (empty: all of it).
pub fn parse_with_path(text: &str) -> Result<(Reference, Vec<Vec<u8>>), BadReference> {
    let text = text.trim_start();
    let (reference, path) = text.split_once('/').unwrap_or((text, ""));
    let reference: Reference = reference.parse()?;
    let names: Vec<Vec<u8>> =
        path.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect();
    let valid =
        names.len() <= DIRECTORY_DEPTH_MAX + 1 && names.iter().all(|name| directory::name_is_valid(name));
    if valid { Ok((reference, names)) } else { Err(BadReference::Path(path.chars().take(64).collect())) }
}

/// Removes an ASCII prefix written in either case.
pub(super) fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::ChunkId;
    use crate::limits::CHUNK_SIZE_MAX;
    use proptest::prelude::*;

    pub(crate) fn blobs() -> impl Strategy<Value = Blob> {
        let size = prop_oneof![Just(0u64), 1u64..3_000_000, 1..=extents::SIZE_MAX];
        (size, any::<[u8; 32]>(), any::<[u8; 20]>()).prop_map(|(size, key, chunk)| {
            let depth = extents::depth_of(size).unwrap();
            let top = (size > 0).then(|| Locator {
                chunk: ChunkId(chunk),
                root: key,
                chunk_len: CHUNK_SIZE_MAX as u32,
                offset: 0,
                plain_len: extents::top_len(size, depth) as u32,
                key,
            });
            Blob { size, depth, top }
        })
    }

    fn one() -> Reference {
        let top = Locator {
            chunk: ChunkId([1; 20]),
            root: [2; 32],
            chunk_len: 1000,
            offset: 0,
            plain_len: 160,
            key: [0xab; 32],
        };
        Reference { root: Blob { size: 160, depth: 0, top: Some(top) } }
    }

    proptest! {
        #[test]
        fn blobs_round_trip(blob in blobs()) {
            prop_assert!(Blob::parse(&blob.emit()).unwrap() == blob);
        }

        #[test]
        fn references_round_trip(root in blobs().prop_filter("not empty", |blob| blob.size > 0)) {
            let reference = Reference { root };
            let text = reference.to_string();
            prop_assert_eq!(text.len(), PREFIX.len() + DIGITS);
            prop_assert_eq!(text.parse(), Ok(reference.clone()));
            prop_assert_eq!(format!(" {}\n", text.to_uppercase()).parse(), Ok(reference));
        }

        #[test]
        fn every_typing_error_is_told(at in any::<prop::sample::Index>(), digit in "[a-z2-7]") {
            let text = one().to_string();
            let at = PREFIX.len() + at.index(DIGITS);
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &digit);
            if wrong != text {
                prop_assert_eq!(wrong.parse::<Reference>(), Err(BadReference::Checksum));
            }
            let cut = text[..at].parse::<Reference>();
            let truncated = matches!(cut, Err(BadReference::Truncated { .. }));
            prop_assert!(truncated, "{:?}", cut);
        }

        #[test]
        fn never_panics(text in "(tornet:)?(node:)?\\PC{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            prop_assert!(text.parse::<Reference>().is_err());
            let mut bytes = bytes;
            bytes.extend_from_slice(&checksum(&bytes));
            let text = format!("{PREFIX}{}", base32::encode(&bytes));
            prop_assert!(text.parse::<Reference>().is_err());
            let _ = Blob::parse(&bytes);
        }
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        let text = one().to_string();
        let fail = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(fail("hello"), BadReference::NotAReference);
        assert_eq!(fail(""), BadReference::NotAReference);
        assert_eq!(fail("tornet:node:abc"), BadReference::Invitation);
        assert_eq!(fail("tornet:"), BadReference::Truncated { got: 0, wanted: DIGITS });
        assert_eq!(fail("tornet:a b"), BadReference::Character(' '));
        assert_eq!(fail(&format!("{text}a")), BadReference::Checksum);
        assert_eq!(fail(&format!("{text}aa")), BadReference::Checksum);
        assert_eq!(fail(&format!("tornet:{}", "a".repeat(100_000))), BadReference::Checksum);
        let mut newer = vec![2, 1, 2, 3];
        newer.extend_from_slice(&checksum(&newer));
        assert_eq!(fail(&format!("tornet:{}", base32::encode(&newer))), BadReference::Version(2));
        let empty = Reference { root: Blob::EMPTY };
        assert_eq!(fail(&empty.to_string()), BadReference::Malformed("root directory"));
    }

    #[test]
    fn paths_behind_a_reference() {
        let text = one().to_string();
        assert_eq!(parse_with_path(&text), Ok((one(), vec![])));
        assert_eq!(
            parse_with_path(&format!("{text}/a//bé/")),
            Ok((one(), vec![b"a".to_vec(), "bé".as_bytes().to_vec()]))
        );
        for path in ["..", "a/../b", ".", &"x".repeat(256), "a\0b", &"a/".repeat(130)] {
            assert!(
                matches!(parse_with_path(&format!("{text}/{path}")), Err(BadReference::Path(_))),
                "{path}"
            );
        }
        assert_eq!(parse_with_path("tornet:node:x/y"), Err(BadReference::Invitation));
    }

    #[test]
    fn the_secret_is_not_in_debug() {
        assert_eq!(format!("{:?}", one()), "Reference(secret)");
        assert_eq!(format!("{:?}", one().root), "Blob(160 bytes, depth 0)");
    }
}

//! Corpora as they are kept: one file per target, so that thousands of small inputs are a few dozen files.
//!
//! ```text
//! | length 4 | bytes … | length 4 | bytes … |          little-endian; shortest first, then by their bytes
//! ```
//!
//! `tests/corpus.rs` reads them, too.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Writes each input of a pack to a file of its own; a pack that does not exist has none.
pub fn unpack(pack: &Path, into: &Path) -> Result<usize> {
    if !pack.exists() {
        return Ok(0);
    }
    let bytes = std::fs::read(pack).with_context(|| pack.display().to_string())?;
    let inputs = split(&bytes).with_context(|| pack.display().to_string())?;
    for (number, input) in inputs.iter().enumerate() {
        std::fs::write(into.join(format!("kept-{number}")), input)?;
    }
    Ok(inputs.len())
}

/// Packs the files of a folder, at most `count_max` and `bytes_max`: a quarter of the places and half of the bytes
/// are for the longest inputs, what is left for the shortest. Returns how many, and how many bytes.
pub fn pack(folder: &Path, pack: &Path, count_max: usize, bytes_max: usize) -> Result<(usize, usize)> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    let (count, bytes) = join(inputs, count_max, bytes_max);
    std::fs::write(pack, &bytes).with_context(|| pack.display().to_string())?;
    Ok((count, bytes.len()))
}

fn join(mut inputs: Vec<Vec<u8>>, count_max: usize, bytes_max: usize) -> (usize, Vec<u8>) {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    // Long inputs reach furthest, so the longest have places of their own; of these, too, the shortest come first,
    // since more of them fit.
    let reserved = inputs.len().saturating_sub(count_max / 4);
    let deep = inputs.split_off(reserved);
    let (mut kept, mut size) = (Vec::new(), 0);
    for (part, share) in [(deep, bytes_max / 2), (inputs, bytes_max)] {
        for input in part {
            if kept.len() < count_max && size + 4 + input.len() <= share {
                size += 4 + input.len();
                kept.push(input);
            }
        }
    }
    kept.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let bytes = kept.iter().flat_map(|input| [&(input.len() as u32).to_le_bytes()[..], input].concat());
    (kept.len(), bytes.collect())
}

fn split(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut inputs = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (input, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).context("a cut pack")?;
        inputs.push(input);
        bytes = rest;
    }
    ensure!(bytes.is_empty(), "a cut pack");
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_round_trip_sorted_and_bounded() {
        let inputs = vec![b"abc".to_vec(), b"".to_vec(), b"b".to_vec(), b"a".to_vec(), b"a".to_vec()];
        let (count, bytes) = join(inputs.clone(), 8, 1000);
        assert_eq!((count, split(&bytes).unwrap()), (4, vec![&b""[..], b"a", b"b", b"abc"]));
        assert_eq!(join(inputs.clone(), 2, 1000).0, 2);
        let (count, bytes) = join(inputs, 8, 14);
        assert!(count < 4 && bytes.len() <= 14);
        assert!(split(&bytes[..bytes.len() - 1]).is_err());
    }
}

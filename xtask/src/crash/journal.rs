//! How much a `get` had verified and written when it was cut off, by its journal (docs/protocol/store.md §8).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

const HEAD: usize = 32;
const RECORD: usize = 44;
/// Plaintext of all but the last record of a file, bytes.
const RECORD_PLAIN: u64 = 65_520;
const FINISHED: u64 = u64::MAX;

/// Bytes that the journals in `gets` vouch for at least, of files that are not finished. Of a file's records
/// one may be its short last one, so one of each file is left out.
pub fn unfinished_bytes(gets: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(gets).into_iter().flatten() {
        bytes += count(&std::fs::read(entry?.path())?);
    }
    Ok(bytes)
}

fn count(journal: &[u8]) -> u64 {
    let mut files: BTreeMap<&[u8], (u64, bool)> = BTreeMap::new();
    for record in journal.get(HEAD..).unwrap_or_default().chunks_exact(RECORD) {
        let number = u64::from_le_bytes(record[16..24].try_into().expect("eight bytes"));
        let file = files.entry(&record[..16]).or_default();
        if number == FINISHED { file.1 = true } else { file.0 += 1 }
    }
    let open = files.values().filter(|(_, finished)| !finished);
    open.map(|(records, _)| records.saturating_sub(1) * RECORD_PLAIN).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_full_records_of_open_files() {
        let mut journal = vec![0; HEAD];
        for (file, number) in [(1u8, 0u64), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1), (3, FINISHED)] {
            journal.extend([file; 16]);
            journal.extend(number.to_le_bytes());
            journal.extend([0; 20]);
        }
        assert_eq!(count(&journal), 2 * RECORD_PLAIN);
        journal.truncate(journal.len() - 1);
        assert_eq!(count(&journal), 3 * RECORD_PLAIN, "a torn end does not finish a file");
        assert_eq!(count(&[]), 0);
    }
}

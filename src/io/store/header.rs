//! Looks at a database file by plain reads before LMDB maps it. LMDB trusts its file: a foreign, truncated or
//! half-copied one could end the process by a signal, and no error could be told. Then its trees are walked
//! (`walk`).
//!
//! ```text
//! each of the first two pages, for 4 KiB pages (LMDB 0.9, 64-bit, native byte order):
//! 0       10        16      20        24        32         40          ...  136         144
//! | page  | flags   | magic | version | address | map size | page size ...  | last page | transaction |
//! | number| 8: meta |       |         |         |          |                |           |             |
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::StoreError;
use super::walk::{self, Fault, TREE_LEN};

const META_LEN: usize = 152;
const FLAGS_AT: usize = 10;
const MAGIC_AT: usize = 16;
const VERSION_AT: usize = 20;
const PAGE_SIZE_AT: usize = 40;
const FREE_AT: usize = 40;
const MAIN_AT: usize = FREE_AT + TREE_LEN;
const LAST_PAGE_AT: usize = 136;
const TRANSACTION_AT: usize = 144;

const FLAG_META: u16 = 0x08;
const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;

/// Checks `path`, a file named `data.mdb`. `Ok(false)`: there is none, or an empty one; LMDB makes it.
pub fn check(path: &Path) -> Result<bool, StoreError> {
    let failed = |error: io::Error| StoreError::io(path, &error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let foreign = |why| Err(StoreError::Foreign { path: path.into(), why });
    if !metadata.is_file() {
        return foreign("not a regular file");
    }
    let found = metadata.len();
    if found == 0 {
        return Ok(false);
    }
    let truncated = |expected| Err(StoreError::Truncated { path: path.into(), expected, found });
    if found < META_LEN as u64 {
        return foreign("too short");
    }
    let mut page = [0u8; META_LEN];
    file.read_exact_at(&mut page, 0).map_err(failed)?;
    let first = Meta::parse(&page);
    if first.magic != MAGIC || first.flags & FLAG_META == 0 {
        return foreign("no LMDB header");
    }
    if first.version != VERSION {
        return foreign("another version of LMDB's format");
    }
    let page_size = u64::from(first.page_size);
    if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
        return foreign("an impossible page size");
    }
    if found < 2 * page_size {
        return truncated(2 * page_size);
    }
    file.read_exact_at(&mut page, page_size).map_err(failed)?;
    let second = Meta::parse(&page);
    let damaged = |page, why| Err(StoreError::Damaged { path: path.into(), page, why });
    if second.magic != MAGIC || second.version != VERSION || second.page_size != first.page_size {
        return damaged(1, "a meta page");
    }
    // They take turns, so the numbers of the last two transactions are neighbours; both are 0 at first.
    let turns = [&first, &second].into_iter().enumerate().all(|(n, meta)| meta.transaction % 2 == n as u64);
    let neighbours = first.transaction.abs_diff(second.transaction) == 1 && turns;
    if !neighbours && (first.transaction, second.transaction) != (0, 0) {
        return damaged(0, "the transactions of the meta pages");
    }
    let newest = if second.transaction > first.transaction { second } else { first };
    let expected = newest.last_page.saturating_add(1).saturating_mul(page_size);
    if found < expected {
        return truncated(expected);
    }
    if !found.is_multiple_of(page_size) {
        return truncated(found.next_multiple_of(page_size));
    }
    match walk::check(&file, page_size as usize, newest.last_page, &newest.free, &newest.main) {
        Ok(()) => Ok(true),
        Err(Fault::Damaged { page, why }) => damaged(page, why),
        Err(Fault::Io(error)) => Err(failed(error)),
    }
}

struct Meta {
    flags: u16,
    magic: u32,
    version: u32,
    page_size: u32,
    free: [u8; TREE_LEN],
    main: [u8; TREE_LEN],
    last_page: u64,
    transaction: u64,
}

impl Meta {
    fn parse(page: &[u8; META_LEN]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(page[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_ne_bytes(page[at..at + 8].try_into().expect("eight bytes"));
        Self {
            flags: u16::from_ne_bytes([page[FLAGS_AT], page[FLAGS_AT + 1]]),
            magic: word(MAGIC_AT),
            version: word(VERSION_AT),
            page_size: word(PAGE_SIZE_AT),
            free: page[FREE_AT..MAIN_AT].try_into().expect("48 bytes"),
            main: page[MAIN_AT..LAST_PAGE_AT].try_into().expect("48 bytes"),
            last_page: long(LAST_PAGE_AT),
            transaction: long(TRANSACTION_AT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lmdb::{DatabaseFlags, Environment, Transaction, WriteFlags};

    /// A real file of the LMDB that is linked in: pins the offsets above.
    fn real() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let env = Environment::new().set_map_size(4 << 20).open(dir.path()).expect("environment");
        let database = env.create_db(None, DatabaseFlags::empty()).expect("database");
        for n in 0..20u8 {
            let mut txn = env.begin_rw_txn().expect("transaction");
            txn.put(database, &[n], &[n; 5000], WriteFlags::empty()).expect("put");
            txn.commit().expect("commit");
        }
        let path = dir.path().join("data.mdb");
        (dir, path)
    }

    #[test]
    fn a_real_file_passes_and_every_cut_of_it_is_refused() {
        let (dir, path) = real();
        assert_eq!(check(&path), Ok(true));
        let whole = std::fs::read(&path).expect("read");
        let cut = dir.path().join("cut.mdb");
        for len in [100, 4096, 8191, 8192, 12_288, whole.len() - 4096, whole.len() - 1] {
            std::fs::write(&cut, &whole[..len]).expect("write");
            let error = check(&cut).expect_err("cut");
            assert!(
                matches!(error, StoreError::Truncated { .. } | StoreError::Foreign { .. }),
                "{len}: {error}"
            );
        }
        std::fs::write(&cut, []).expect("write");
        assert_eq!(check(&cut), Ok(false));
        assert_eq!(check(&dir.path().join("none.mdb")), Ok(false));
    }

    #[test]
    fn foreign_files_are_refused() {
        let (dir, path) = real();
        let whole = std::fs::read(&path).expect("read");
        let other = dir.path().join("other.mdb");
        for (at, value) in [(MAGIC_AT, 0), (VERSION_AT, 2), (PAGE_SIZE_AT + 1, 0x33)] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            std::fs::write(&other, bytes).expect("write");
            assert!(matches!(check(&other), Err(StoreError::Foreign { .. })), "byte {at}");
        }
        let mut bytes = whole.clone();
        bytes[4096 + MAGIC_AT] = 0;
        std::fs::write(&other, bytes).expect("write");
        assert!(matches!(check(&other), Err(StoreError::Damaged { page: 1, .. })));
        std::fs::write(&other, "a letter to somebody, long enough to hold a header. ".repeat(40))
            .expect("write");
        assert!(matches!(check(&other), Err(StoreError::Foreign { .. })));
        assert!(matches!(check(dir.path()), Err(StoreError::Foreign { .. })), "a directory");
    }
}

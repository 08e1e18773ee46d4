//! Fuzz target of a journal that an earlier run left.

use super::journal::{HEAD, RECORD, read};
use crate::io::fuzzing::file_of;

/// A journal: entries are sorted, each record once, and what is kept of the file holds no more than them.
pub fn journal(bytes: &[u8]) {
    let (id, rest) = bytes.split_at(bytes.len().min(16));
    let mut name = [0; 16];
    name[..id.len()].copy_from_slice(id);
    let (file, _path) = file_of(rest);
    let (entries, len) = read(&file, &name).expect("memory can be read");
    assert!(len == 0 || len as usize >= HEAD && len as usize <= rest.len());
    assert!(entries.len() <= (len as usize).saturating_sub(HEAD) / RECORD);
    assert!(entries.is_sorted_by(|a, b| (a.path, a.record) < (b.path, b.record)));
}

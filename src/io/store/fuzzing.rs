//! Fuzz targets of the database's file and of its records.

use super::record::{self, Record, Shape};
use super::{StoreError, header};
use crate::io::fuzzing::file_of;
use crate::limits::INDEX_RECORD_MAX;

/// An index record: what is accepted is divided as its length says, and nothing reaches outside.
pub fn record(bytes: &[u8]) {
    let Ok(found) = Record::parse(bytes) else { return };
    let shape = found.shape();
    assert!(bytes.len() <= INDEX_RECORD_MAX && shape.record_len() == bytes.len());
    assert_eq!(Shape::of(shape.len as usize), Some(shape));
    let mut end = shape.list().end;
    assert_eq!(shape.list().len(), shape.slices as usize * 32);
    for slice in 0..shape.runs {
        assert_eq!((shape.tail(slice).start, shape.tail(slice).len()), (end, record::TAIL));
        end = shape.tail(slice).end;
    }
    assert_eq!((shape.inline().start, shape.inline().end), (end, bytes.len()));
    let total: usize = (0..shape.slices).map(|slice| shape.slice_len(slice)).sum();
    assert_eq!(total, shape.len as usize);
    let _ = (found.sequence(), found.root());
}

/// A database file before LMDB maps it: accepted only when it is long enough for what its header names.
pub fn header(bytes: &[u8]) {
    // Two headers a page apart: the script gives their first bytes.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut file = first.to_vec();
    if bytes.first().is_some_and(|byte| byte & 1 == 1) {
        file.resize(4096, 0);
        file.extend_from_slice(second);
        file.resize(file.len().next_multiple_of(4096), 0);
    }
    let (_open, path) = file_of(&file);
    match header::check(&path) {
        Ok(there) => {
            assert_eq!(there, !file.is_empty());
            assert!(file.is_empty() || file.len() >= 2 * 512);
        }
        Err(StoreError::Truncated { expected, found, .. }) => {
            assert!(found == file.len() as u64 && expected > found);
        }
        Err(StoreError::Foreign { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

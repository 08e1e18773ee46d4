//! Fuzz targets of the database's file and of its records.

use super::record::{self, Record, Shape};
use super::{StoreError, header};
use crate::io::fuzzing::file_of;
use crate::limits::{CHUNK_SIZE_MAX, INDEX_RECORD_MAX};

/// An index record: what is accepted is divided as its length says, and nothing reaches outside.
pub fn record(bytes: &[u8]) {
    check_record(bytes);
    // A right one of the length that the script gives, changed in one place.
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return };
    let Some(shape) = Shape::of(1 + u32::from_le_bytes(*len) as usize % CHUNK_SIZE_MAX) else { return };
    let mut made = made(shape);
    check_record(&made);
    if let [at_low, at_high, new, ..] = rest {
        let at = usize::from(u16::from_le_bytes([*at_low, *at_high])) % made.len();
        made[at] = *new;
        check_record(&made);
    }
}

fn made(shape: Shape) -> Vec<u8> {
    let chunk = vec![7; shape.len as usize];
    record::emit(shape, 9, &[3; 32], &vec![5; shape.list().len()], &chunk)
}

/// Records of a short and of a long chunk.
pub fn record_seeds() -> Vec<Vec<u8>> {
    [100, 65_536, 70_000].into_iter().filter_map(Shape::of).map(made).collect()
}

/// A header that is nearly LMDB's.
pub fn header_seeds() -> Vec<Vec<u8>> {
    let mut page = vec![0; 152];
    page[10] = 8;
    page[16..20].copy_from_slice(&0xBEEF_C0DE_u32.to_ne_bytes());
    page[20] = 1;
    page[40..44].copy_from_slice(&4096u32.to_ne_bytes());
    page[136] = 1;
    let mut two = [&page[..], &page[..]].concat();
    two[0] = 1;
    vec![page, two]
}

fn check_record(bytes: &[u8]) {
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
        Err(StoreError::Foreign { .. } | StoreError::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

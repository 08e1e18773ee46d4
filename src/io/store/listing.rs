//! What this node publishes, and what it keeps for others, in the order in which it was stored.

use lmdb::{Cursor, Transaction};

use super::database::Database;
use super::{Readers, StoreError};
use crate::base::ChunkId;

impl Readers {
    /// Published chunks from a place in their order on, at most `most`, each with its place; what is known to be damaged is
    /// left out. Chunks that are stored later have later places.
    pub fn local_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, StoreError> {
        listed(&self.0.local.database, from, most)
    }

    /// The same of the copies of others' chunks, of which older ones make room for new ones.
    pub fn kept_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, StoreError> {
        listed(&self.0.cache.database, from, most)
    }
}

fn listed(database: &Database, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, StoreError> {
    let wrong = |error| database.wrong(error);
    let txn = database.env.begin_ro_txn().map_err(wrong)?;
    let cursor = txn.open_ro_cursor(database.order).map_err(wrong)?;
    let mut found = Vec::new();
    let mut next = cursor.get(Some(&from.to_be_bytes()), None, lmdb_sys::MDB_SET_RANGE);
    while found.len() < most {
        let (key, id) = match next {
            Ok(entry) => entry,
            Err(lmdb::Error::NotFound) => break,
            Err(error) => return Err(wrong(error)),
        };
        // The cursor hands no key back when it found exactly the one that was asked for.
        let place = key.map_or(Some(from), |key| key.try_into().ok().map(u64::from_be_bytes));
        let (Some(place), Some(id)) = (place, ChunkId::from_slice(id)) else {
            return Err(StoreError::Malformed("order of chunks"));
        };
        if !database.damage.has(&id, place) {
            found.push((place, id));
        }
        next = cursor.get(None, None, lmdb_sys::MDB_NEXT);
    }
    Ok(found)
}

//! Reading LMDB through snapshots that are renewed rather than made, and pointing into its map.
//!
//! Two things of LMDB cannot be said in safe Rust with the `lmdb` crate: a read transaction that lives
//! beside the environment that it belongs to, and a value that was looked up once and is used again later
//! in the same snapshot. Both are here, behind an interface that cannot be misused.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lmdb::{Database, Environment, Error, InactiveTransaction, RoTransaction, RwTransaction, Transaction};

/// Tells snapshots apart, over all readers of the process. Zero is no snapshot's.
static SNAPSHOTS: AtomicU64 = AtomicU64::new(1);

/// A place in the map where a value lies, good for the snapshot that it was found in.
#[derive(Debug, Clone, Copy)]
pub struct Mapped {
    address: *const u8,
    len: usize,
    snapshot: u64,
}

impl Mapped {
    /// Length of the value, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the value; `None` when it does not lie inside.
    pub fn part(self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.len;
        // Only a number until `Reader::bytes` has checked the snapshot.
        inside.then(|| Self {
            address: self.address.wrapping_add(range.start),
            len: range.end - range.start,
            snapshot: self.snapshot,
        })
    }
}

/// One reader of one environment. Holds a snapshot from the first [`Reader::get`] until [`Reader::park`];
/// a held snapshot keeps LMDB from reusing freed pages, so it must not outlive a turn of the caller's loop.
///
/// Snapshots of one commit are one: where nothing was written between `park` and the next `get`, each [`Mapped`] is good again.
pub struct Reader {
    // Before `env`: fields are dropped in this order, and a transaction must end before its environment.
    state: State,
    /// Of the snapshot that is held; 0 while none is.
    snapshot: u64,
    /// The last snapshot, and the commit that it shows.
    last: (u64, usize),
    env: Arc<Environment>,
}

enum State {
    Active(RoTransaction<'static>),
    Parked(InactiveTransaction<'static>),
    New,
}

impl Reader {
    /// A reader without a snapshot. The environment must have been opened with `NO_TLS`, so that a thread
    /// can have several.
    pub fn new(env: Arc<Environment>) -> Self {
        Self { state: State::New, snapshot: 0, last: (0, 0), env }
    }

    /// Ends the snapshot; every [`Mapped`] of it is void until a `get` has taken another one of the same commit.
    pub fn park(&mut self) {
        self.snapshot = 0;
        self.state = match std::mem::replace(&mut self.state, State::New) {
            State::Active(txn) => State::Parked(txn.reset()),
            other => other,
        };
    }

    /// Looks a value up, in a new snapshot if none is held.
    pub fn get(&mut self, database: Database, key: &[u8]) -> Result<Option<Mapped>, Error> {
        let snapshot = self.hold()?;
        let State::Active(txn) = &self.state else { return Err(Error::BadTxn) };
        match txn.get(database, &key) {
            Ok(value) => Ok(Some(Mapped { address: value.as_ptr(), len: value.len(), snapshot })),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The value's bytes; `None` when the snapshot that they were found in has ended.
    pub fn bytes(&self, value: Mapped) -> Option<&[u8]> {
        if value.snapshot == 0 || value.snapshot != self.snapshot {
            return None;
        }
        // SAFETY: LMDB gave this range for the commit whose snapshot `self.state` holds (numbers are unique in
        // the process, one for each commit that a reader sees, and 0 while none is held). LMDB changes no page of a held snapshot, and the borrow of
        // `self` keeps `park` and drop away while the slice lives.
        Some(unsafe { std::slice::from_raw_parts(value.address, value.len) })
    }

    /// Where the map begins, told from the page that a small value lies in: it holds its own number. Whoever
    /// asks has made sure that this page is sound.
    pub fn map_start(&self, value: Mapped) -> Option<usize> {
        let bytes = self.bytes(value)?;
        let page_size = self.env.stat().ok()?.page_size() as usize;
        let page = bytes.as_ptr() as usize & !(page_size - 1);
        // SAFETY: the value lies in the map of the snapshot that is held (`bytes` has checked it), a map is whole
        // pages, and a page begins with eight bytes: its number.
        let number = unsafe { std::ptr::read_unaligned(page as *const u64) };
        page.checked_sub(usize::try_from(number).ok()?.checked_mul(page_size)?)
    }

    /// The environment.
    pub fn environment(&self) -> &Arc<Environment> {
        &self.env
    }

    /// Takes a snapshot if none is held: what was found before is good again if nothing was committed since.
    pub fn renew(&mut self) -> Result<(), Error> {
        self.hold().map(|_| ())
    }

    /// The snapshot held, taking one if there is none.
    fn hold(&mut self) -> Result<u64, Error> {
        if self.snapshot != 0 {
            return Ok(self.snapshot);
        }
        let renewed = match std::mem::replace(&mut self.state, State::New) {
            State::Parked(parked) => parked.renew().ok(),
            State::Active(txn) => Some(txn),
            State::New => None,
        };
        let txn = match renewed {
            Some(txn) => txn,
            None => {
                let txn = self.env.begin_ro_txn()?;
                // SAFETY: the lifetime only says that the environment outlives the transaction. `self.env`
                // keeps the environment alive (at a fixed address, behind the Arc) and is dropped after
                // `self.state`; the transaction never leaves `self`.
                unsafe { std::mem::transmute::<RoTransaction<'_>, RoTransaction<'static>>(txn) }
            }
        };
        // SAFETY: the pointer is that of the live transaction, and only its number is read.
        let commit = unsafe { lmdb_sys::mdb_txn_id(txn.txn()) };
        self.state = State::Active(txn);
        // The pages of a commit are overwritten by none but later ones, so that what was found in it lies there still.
        if self.last.0 == 0 || self.last.1 != commit {
            self.last = (SNAPSHOTS.fetch_add(1, Ordering::Relaxed), commit);
        }
        self.snapshot = self.last.0;
        Ok(self.snapshot)
    }
}

/// What the head of a value's first page says, for values that have pages of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunHead {
    /// Where that page is.
    pub address: usize,
    /// The page's number.
    pub number: u64,
    /// What kind of page it is.
    pub flags: u16,
    /// Pages of the value.
    pub pages: u32,
}

impl RunHead {
    const LEN: usize = 16;
    /// A page that holds a large value.
    pub const OVERFLOW: u16 = 0x04;
    /// It was written by a transaction that is not committed yet.
    pub const DIRTY: u16 = 0x10;

    /// Reads the head of a value; `None` where there is no such value. LMDB frees as many pages as this head says,
    /// beginning with the number that it says, so it should be looked at before the value is deleted.
    pub fn of(txn: &RwTransaction<'_>, database: Database, key: &[u8]) -> Result<Option<Self>, Error> {
        let value = match txn.get(database, &key) {
            Ok(value) if value.len() > 4096 => value,
            Ok(_) => return Err(Error::Corrupted),
            Err(Error::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let address = (value.as_ptr() as usize).wrapping_sub(Self::LEN);
        // SAFETY: LMDB gives a value of this length from pages of its own, behind a head of 16 bytes, in the map or
        // in a buffer. If a damaged node says that so long a value lies in the node itself, there are a page's head of
        // 16 bytes and the node's before it. The transaction keeps either in place.
        let head = unsafe { std::ptr::read_unaligned(address as *const [u8; Self::LEN]) };
        let number = u64::from_ne_bytes(head[..8].try_into().expect("eight bytes"));
        let flags = u16::from_ne_bytes([head[10], head[11]]);
        let pages = u32::from_ne_bytes(head[12..].try_into().expect("four bytes"));
        Ok(Some(Self { address, number, flags, pages }))
    }
}

/// Frees the reader slots of processes that died with a snapshot; says how many there were.
pub fn clear_dead_readers(env: &Environment) -> Result<u32, Error> {
    let mut dead = 0;
    // SAFETY: the pointer is the environment's own and valid while `env` is borrowed; LMDB writes one int.
    let code = unsafe { lmdb_sys::mdb_reader_check(env.env(), &mut dead) };
    if code == lmdb_sys::MDB_SUCCESS { Ok(dead.max(0) as u32) } else { Err(Error::from_err_code(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lmdb::{DatabaseFlags, EnvironmentFlags, WriteFlags};

    fn environment() -> (tempfile::TempDir, Arc<Environment>, Database) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let env = Environment::new()
            .set_flags(EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_SYNC)
            .open(dir.path())
            .expect("environment");
        let database = env.create_db(None, DatabaseFlags::empty()).expect("database");
        (dir, Arc::new(env), database)
    }

    fn put(env: &Environment, database: Database, value: &[u8]) {
        let mut txn = env.begin_rw_txn().expect("transaction");
        txn.put(database, b"key", &value, WriteFlags::empty()).expect("put");
        txn.commit().expect("commit");
    }

    #[test]
    fn a_snapshot_stays_until_it_is_parked() {
        let (_dir, env, database) = environment();
        put(&env, database, b"old");
        let mut reader = Reader::new(Arc::clone(&env));
        let old = reader.get(database, b"key").expect("read").expect("there");
        put(&env, database, b"new");
        assert_eq!(reader.bytes(old), Some(&b"old"[..]));
        assert_eq!(reader.bytes(old.part(1..3).expect("inside")), Some(&b"ld"[..]));
        assert!(old.part(2..4).is_none());
        reader.park();
        assert!(reader.bytes(old).is_none(), "the snapshot has ended");
        reader.renew().expect("snapshot");
        assert!(reader.bytes(old).is_none(), "another commit's value");
        let new = reader.get(database, b"key").expect("read").expect("there");
        assert!(reader.bytes(old).is_none(), "another snapshot's value");
        assert_eq!(reader.bytes(new), Some(&b"new"[..]));
    }

    #[test]
    fn what_was_found_is_good_again_while_nothing_is_committed() {
        let (_dir, env, database) = environment();
        put(&env, database, b"value");
        let mut reader = Reader::new(Arc::clone(&env));
        let value = reader.get(database, b"key").expect("read").expect("there");
        for _ in 0..3 {
            reader.park();
            // A transaction that is given up commits nothing.
            let mut txn = env.begin_rw_txn().expect("transaction");
            txn.put(database, b"key", b"other", WriteFlags::empty()).expect("put");
            txn.abort();
            assert!(reader.bytes(value).is_none(), "nothing is held");
            reader.renew().expect("snapshot");
            assert_eq!(reader.bytes(value), Some(&b"value"[..]));
        }
        reader.park();
        put(&env, database, b"newer");
        reader.renew().expect("snapshot");
        assert!(reader.bytes(value).is_none(), "something was committed");
    }

    #[test]
    fn readers_do_not_take_each_others_values() {
        let (_dir, env, database) = environment();
        put(&env, database, b"value");
        let (mut one, mut two) = (Reader::new(Arc::clone(&env)), Reader::new(env));
        let value = one.get(database, b"key").expect("read").expect("there");
        two.get(database, b"key").expect("read");
        assert!(two.bytes(value).is_none());
    }

    #[test]
    fn no_reader_of_a_fresh_environment_is_dead() {
        let (_dir, env, _) = environment();
        assert_eq!(clear_dead_readers(&env), Ok(0));
    }
}

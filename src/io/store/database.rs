//! One LMDB environment: opening it safely, its named databases, its totals.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lmdb::{
    Cursor, Database as Dbi, DatabaseFlags, Environment, EnvironmentFlags, RwTransaction, Transaction,
    WriteFlags,
};

use super::damage::Damage;
use super::{StoreError, header};
use crate::base::ChunkId;
use crate::limits::{STORE_DAMAGED_MAX, STORE_READERS_MAX, STORE_RUN};
use crate::sys::fault;
use crate::sys::lmdb::{Reader, RunHead, clear_dead_readers};

/// Version of everything below `DIR/store`.
pub const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"\0format";
const FORMAT_MAGIC: &[u8; 12] = b"tornet store";
const TOTALS_KEY: &[u8] = b"\0totals";
/// Before the ids of damaged chunks.
const DAMAGED_KEY: &[u8] = b"\0damaged";
const DATABASES_MAX: u32 = 8;
/// Pages of a run.
const RUN_PAGES: u64 = 16;
/// Where a new `local` is made, beside its place.
const ASIDE: &str = "local.new";
/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which of the two environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What this node published: every commit is on the disk before it is acknowledged.
    Local,
    /// Copies of others' chunks: may be lost, evicted, or deleted as a whole.
    Cache,
}

impl Kind {
    /// Its folder below `DIR/store`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cache => "cache",
        }
    }
}

/// What an environment holds, kept with its content in each transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Their ciphertext, bytes.
    pub bytes: u64,
    /// Their share of the file, bytes (`record::Shape::footprint`).
    pub footprint: u64,
    /// Sequence number of the next new chunk.
    pub next_sequence: u64,
}

/// An open environment. Closed when the last user drops it.
pub struct Database {
    /// The environment.
    pub env: Arc<Environment>,
    /// Its folder.
    pub path: PathBuf,
    /// Which one.
    pub kind: Kind,
    /// Footprint that it may reach, bytes.
    pub limit: u64,
    /// Its chunks that are known to be damaged.
    pub damage: Arc<Damage>,
    /// Where the map begins, and its length, bytes.
    map: (usize, u64),
    /// Chunk id → record.
    pub index: Dbi,
    /// Sequence and slice → run.
    pub bodies: Dbi,
    /// Sequence → chunk id.
    pub order: Dbi,
    /// Format, totals, and small values.
    pub meta: Dbi,
    /// Peers' small values (local only, empty in the cache).
    pub peers: Dbi,
    /// Piece hash → locator (local only, empty in the cache).
    pub publications: Dbi,
}

/// Size of the map for a limit: freed pages wait for two commits and for the slowest reader, and runs of 16
/// pages do not fit into every gap, so the file may become larger than its content. Address space, not disk.
pub fn map_size(limit: u64) -> u64 {
    limit.saturating_add(limit / 4).saturating_add(512 << 20) & !((1 << 20) - 1)
}

impl Database {
    /// Opens or creates the environment in `parent`; `map` in bytes, a multiple of the page size. A cache that is
    /// damaged is put aside and made anew.
    pub fn open(parent: &Path, kind: Kind, limit: u64, map: u64) -> Result<Self, StoreError> {
        let path = parent.join(kind.name());
        let failed = |error| StoreError::io(parent, &error);
        if kind == Kind::Local && !header::check(&path.join("data.mdb"))? {
            make_whole(parent, &path, limit, map)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        if kind == Kind::Local {
            return Self::open_checked(path, kind, limit, map);
        }
        if lost_power(&path)? {
            tracing::warn!(path = %path.display(), "the cache did not survive the last stop and starts empty");
            forget(&path)?;
        }
        match Self::open_checked(path.clone(), kind, limit, map) {
            Err(why @ (StoreError::Truncated { .. } | StoreError::Damaged { .. })) => {
                let aside = put_aside(parent, &path)?;
                // It occupies what the cache may occupy. More than half of that is not worth a look at it.
                let mut kept = occupied(&aside).map_err(failed)?;
                if kept > limit / 2 {
                    tracing::warn!("the cache starts empty; the old one was too large to be kept: {why}");
                    fs::remove_dir_all(&aside).map_err(failed)?;
                    kept = 0;
                } else {
                    tracing::warn!(
                        "the cache starts empty; the old one is in {} and takes {kept} bytes of the new one's limit \
                         until the next start: {why}",
                        aside.display()
                    );
                }
                Self::open_checked(path, kind, limit - kept, map)
            }
            Ok(opened) => {
                // What was put aside was there to be looked at until now.
                match fs::remove_dir_all(aside(parent)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                    _ => Ok(opened),
                }
            }
            refused => refused,
        }
    }

    fn open_checked(path: PathBuf, kind: Kind, limit: u64, map: u64) -> Result<Self, StoreError> {
        let file = path.join("data.mdb");
        header::check(&file)?;
        let wrong = |error| StoreError::lmdb(&path, error);
        let mut flags = EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_READAHEAD;
        if kind == Kind::Cache {
            flags |= EnvironmentFlags::NO_SYNC | EnvironmentFlags::NO_META_SYNC;
            mark_running(&path)?;
        }
        fault::explain_sigbus();
        let env = Environment::new()
            .set_flags(flags)
            .set_max_dbs(DATABASES_MAX)
            .set_max_readers(STORE_READERS_MAX)
            .set_map_size(usize::try_from(map).map_err(|_| StoreError::Malformed("store limit"))?)
            .open_with_permissions(&path, 0o600)
            .map_err(wrong)?;
        fault::explain_assertions(&env);
        clear_dead_readers(&env).map_err(wrong)?;
        check_format(&env, &path)?;
        let open = |name| env.create_db(Some(name), DatabaseFlags::empty()).map_err(wrong);
        let mut database = Self {
            kind,
            limit,
            meta: open("meta")?,
            index: open("index")?,
            bodies: open("bodies")?,
            order: open("order")?,
            peers: open("peers")?,
            publications: open("publications")?,
            env: Arc::new(env),
            path,
            damage: Arc::default(),
            map: (0, map),
        };
        database.write_format()?;
        database.map.0 = database.map_start()?;
        database.damage = Arc::new(Damage::new(database.damaged()?));
        // From here on the file is as long as the map, sparse: a shorter one has been cut, for certain.
        let length = OpenOptions::new().write(true).open(&file).and_then(|file| {
            let len = file.metadata()?.len();
            if len < map { file.set_len(map) } else { Ok(()) }
        });
        length.map_err(|error| StoreError::io(&file, &error))?;
        Ok(database)
    }

    fn map_start(&self) -> Result<usize, StoreError> {
        let mut reader = Reader::new(Arc::clone(&self.env));
        let format = reader.get(self.meta, FORMAT_KEY).map_err(|error| self.wrong(error))?;
        format.and_then(|format| reader.map_start(format)).ok_or(StoreError::Malformed("store format"))
    }

    /// Whether LMDB would free a run's own pages if it was deleted.
    pub fn is_sound(&self, head: &RunHead) -> bool {
        let (start, len) = self.map;
        let page_size = (STORE_RUN + 16) as u64 / RUN_PAGES;
        let kept = match head.address.checked_sub(start) {
            Some(offset) if (offset as u64) < len => {
                head.flags == RunHead::OVERFLOW && head.number.checked_mul(page_size) == Some(offset as u64)
            }
            // Written by this very transaction, so it lies in a buffer still.
            _ => head.flags & !RunHead::DIRTY == RunHead::OVERFLOW,
        };
        kept && u64::from(head.pages) == RUN_PAGES
    }

    /// The chunks that were marked as damaged.
    fn damaged(&self) -> Result<BTreeMap<ChunkId, u64>, StoreError> {
        let wrong = |error| self.wrong(error);
        let txn = self.env.begin_ro_txn().map_err(wrong)?;
        let mut cursor = txn.open_ro_cursor(self.meta).map_err(wrong)?;
        let mut damaged = BTreeMap::new();
        for entry in cursor.iter_from(DAMAGED_KEY) {
            let (key, value) = entry.map_err(wrong)?;
            let Some(id) = key.strip_prefix(DAMAGED_KEY) else { break };
            let sequence = value.try_into().map(u64::from_le_bytes).ok();
            damaged.extend(ChunkId::from_slice(id).zip(sequence));
            if damaged.len() >= STORE_DAMAGED_MAX {
                break;
            }
        }
        Ok(damaged)
    }

    /// LMDB's error with this environment's place.
    pub fn wrong(&self, error: lmdb::Error) -> StoreError {
        StoreError::lmdb(&self.path, error)
    }

    /// Reads the totals.
    pub fn totals(&self) -> Result<Totals, StoreError> {
        let txn = self.env.begin_ro_txn().map_err(|error| self.wrong(error))?;
        match txn.get(self.meta, &TOTALS_KEY) {
            Ok(bytes) => Totals::parse(bytes),
            Err(lmdb::Error::NotFound) => Ok(Totals::default()),
            Err(error) => Err(self.wrong(error)),
        }
    }

    /// Writes the totals as part of a transaction.
    pub fn put_totals(&self, txn: &mut RwTransaction<'_>, totals: &Totals) -> lmdb::Result<()> {
        txn.put(self.meta, &TOTALS_KEY, &totals.emit(), WriteFlags::empty())
    }

    /// Makes everything durable and says that this was a clean stop.
    pub fn close(&self) -> Result<(), StoreError> {
        self.env.sync(true).map_err(|error| self.wrong(error))?;
        if self.kind == Kind::Cache {
            fs::remove_file(running(&self.path)).map_err(|error| StoreError::io(&self.path, &error))?;
        }
        Ok(())
    }

    fn write_format(&self) -> Result<(), StoreError> {
        let mut value = FORMAT_MAGIC.to_vec();
        value.extend(FORMAT.to_le_bytes());
        let mut txn = self.env.begin_rw_txn().map_err(|error| self.wrong(error))?;
        match txn.put(self.meta, &FORMAT_KEY, &value, WriteFlags::NO_OVERWRITE) {
            Ok(()) => txn.commit().map_err(|error| self.wrong(error)),
            Err(lmdb::Error::KeyExist) => Ok(()),
            Err(error) => Err(self.wrong(error)),
        }
    }
}

impl Totals {
    fn emit(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let words = [self.chunks, self.bytes, self.footprint, self.next_sequence];
        out.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.len() != 32 {
            return Err(StoreError::Malformed("store totals"));
        }
        let word = |n: usize| u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().expect("eight bytes"));
        Ok(Self { chunks: word(0), bytes: word(1), footprint: word(2), next_sequence: word(3) })
    }
}

/// Refuses an LMDB file that is another program's, or a later tornet's.
fn check_format(env: &Environment, path: &Path) -> Result<(), StoreError> {
    let wrong = |error| StoreError::lmdb(path, error);
    if env.stat().map_err(wrong)?.entries() == 0 {
        return Ok(());
    }
    let foreign = StoreError::Foreign { path: path.into(), why: "another program's LMDB file" };
    let meta = match env.open_db(Some("meta")) {
        Ok(meta) => meta,
        Err(lmdb::Error::NotFound | lmdb::Error::Incompatible) => return Err(foreign),
        Err(error) => return Err(wrong(error)),
    };
    let txn = env.begin_ro_txn().map_err(wrong)?;
    let value = match txn.get(meta, &FORMAT_KEY) {
        Ok(value) => value,
        // Between creating `meta` and writing the format into it a first start can be killed.
        Err(lmdb::Error::NotFound) if txn.stat(meta).map_err(wrong)?.entries() == 0 => return Ok(()),
        Err(lmdb::Error::NotFound) => return Err(foreign),
        Err(error) => return Err(wrong(error)),
    };
    match value.strip_prefix(FORMAT_MAGIC).and_then(|version| version.try_into().ok()).map(u32::from_le_bytes)
    {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(StoreError::Newer { path: path.into(), found, known: FORMAT }),
        _ => Err(foreign),
    }
}

/// The file that exists while a cache is open. It holds the boot's id: a process that was killed leaves its
/// writes to the kernel, but a machine that stopped may have kept any part of an unsynced file.
fn running(path: &Path) -> PathBuf {
    path.join("running")
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

fn lost_power(path: &Path) -> Result<bool, StoreError> {
    match fs::read_to_string(running(path)) {
        Ok(boot) => Ok(boot.is_empty() || boot != boot_id()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io(path, &error)),
    }
}

fn mark_running(path: &Path) -> Result<(), StoreError> {
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(running(path))?;
        file.write_all(boot_id().as_bytes())?;
        file.sync_all()?;
        File::open(path)?.sync_all()
    };
    write().map_err(|error| StoreError::io(path, &error))
}

/// Where a damaged cache is kept until the next start that finds the cache sound.
fn aside(parent: &Path) -> PathBuf {
    parent.join("cache.damaged")
}

/// Bytes of the disk that the files of a folder take; a database's file is sparse.
fn occupied(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += 512 * entry?.metadata()?.blocks();
    }
    Ok(bytes)
}

/// Moves a damaged cache away, in the place of an earlier one.
fn put_aside(parent: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    let aside = aside(parent);
    let moved = || {
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(path, &aside)?;
        DirBuilder::new().mode(0o700).create(path)
    };
    moved().map_err(|error| StoreError::io(&aside, &error))?;
    Ok(aside)
}

/// The key of the mark of a damaged chunk, in `meta`.
pub fn damaged_key(id: &ChunkId) -> Vec<u8> {
    [DAMAGED_KEY, &id.0].concat()
}

/// Makes a new database aside and moves it to its place once it is on the disk: power that is lost while LMDB
/// writes the first pages would leave a file that is refused.
fn make_whole(parent: &Path, path: &Path, limit: u64, map: u64) -> Result<(), StoreError> {
    let aside = parent.join(ASIDE);
    let failed = |error: std::io::Error| StoreError::io(&aside, &error);
    // Left by a first start that was cut off.
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&aside).map_err(failed)?;
    let made = Database::open_checked(aside.clone(), Kind::Local, limit, map)?;
    made.close()?;
    drop(made);
    // At most an empty file and a lock are in its place.
    forget(path)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io(path, &error));
        }
        _ => {}
    }
    File::open(&aside).and_then(|folder| folder.sync_all()).map_err(failed)?;
    fs::rename(&aside, path).map_err(failed)
}

fn forget(path: &Path) -> Result<(), StoreError> {
    for name in ["data.mdb", "lock.mdb"] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

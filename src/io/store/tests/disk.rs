//! What disks and people do to files.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn data(dir: &Path, side: &str) -> std::path::PathBuf {
    dir.join("store").join(side).join("data.mdb")
}

/// Where `needle` lies in a file.
fn position(path: &Path, needle: &[u8]) -> usize {
    let whole = fs::read(path).expect("read");
    whole.windows(needle.len()).position(|window| window == needle).expect("the needle is there")
}

#[test]
fn a_damaged_slice_is_never_served() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let chunk = chunk(300_000, 1);
    put(&open(dir.path()), &chunk).expect("stored");
    let path = data(dir.path(), "local");
    let at = position(&path, &chunk.bytes[SLICE_SIZE + 500..SLICE_SIZE + 600]) + 50;
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at as u64).expect("write");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    let handle = reader.find(&chunk.id).expect("stored").handle;
    let mut out = [0; 100];
    assert_eq!(
        reader.read(handle, SLICE_SIZE as u32, &mut out),
        Err(ReadFault::Damaged),
        "without being warmed"
    );
    assert_eq!(reader.warm(handle, 1), Err(ReadFault::Damaged));
    assert_eq!(reader.warm(handle, 1), Err(ReadFault::Damaged), "and again");
    assert_eq!(reader.warm(handle, 2), Ok(true));
    reader.read(handle, 2 * SLICE_SIZE as u32 + 7, &mut out).expect("the others are fine");
    assert_eq!(out, chunk.bytes[2 * SLICE_SIZE + 7..2 * SLICE_SIZE + 107]);
    assert_eq!(
        reader.read(handle, SLICE_SIZE as u32 - 50, &mut out),
        Err(ReadFault::Damaged),
        "across a border"
    );
    assert_eq!((store.stats().damaged, store.stats().damaged_local), (1, 1));
    assert!(reader.find(&chunk.id).is_none(), "not there for whoever asks from now on");
    drop((reader, store));
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    assert!(reader.find(&chunk.id).is_none() && store.stats().damaged_local == 1, "nor after a restart");
    assert_eq!(put(&store, &chunk), Ok(Stored::Done), "the same content takes its place");
    reader.park();
    assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes));
    let stats = store.stats();
    assert_eq!((stats.local.chunks, stats.damaged_local), (1, 0));
    drop((reader, store));
    let store = open(dir.path());
    assert!(read_all(&mut store.readers().reader(), &chunk.id).as_ref() == Some(&chunk.bytes), "for good");
    assert_eq!(put(&store, &chunk), Ok(Stored::AlreadyThere));
}

/// Found by review: the mark was taken back inside the transaction, and when that was not committed, the second
/// attempt took the damaged copy for a sound one and acknowledged a chunk that was not stored.
#[test]
fn a_replacement_that_cannot_be_committed_is_not_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = || Store::open_mapped(dir.path(), CONFIG, [6 << 20, 6 << 20]).expect("a store");
    let spoiled = chunk(300_000, 1);
    put(&open(), &spoiled).expect("stored");
    let path = data(dir.path(), "local");
    let at = position(&path, &spoiled.bytes[500..600]) as u64;
    fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.write_all_at(&[0; 8], at)).expect("write");
    let store = open();
    let mut fillers = Vec::new();
    for (len, seed) in [(CHUNK_SIZE_MAX, 100), (60_000, 200)] {
        let more = (seed..).map(|seed| chunk(len, seed)).take_while(|chunk| put(&store, chunk).is_ok());
        fillers.extend(more.map(|chunk| chunk.id));
    }
    let mut reader = store.readers().reader();
    let handle = reader.find(&spoiled.id).expect("its record is sound").handle;
    assert_eq!(reader.warm(handle, 0), Err(ReadFault::Damaged));
    reader.park();
    for _ in 0..3 {
        let result = put(&store, &spoiled);
        assert!(matches!(result, Err(StoreError::LimitReached { .. })), "the map is full: {result:?}");
        assert!(reader.find(&spoiled.id).is_none() && store.stats().damaged_local == 1);
        reader.park();
    }
    for id in fillers {
        // Freed pages can be used two commits later.
        let _ = delete(&store, id);
    }
    store.handle().set(Table::Meta, b"a".to_vec(), Some(vec![1]), Ack::none());
    store.handle().sync().expect("durable");
    assert_eq!(put(&store, &spoiled), Ok(Stored::Done), "there is room");
    assert!(read_all(&mut reader, &spoiled.id).as_ref() == Some(&spoiled.bytes));
    assert_eq!(store.stats().damaged_local, 0);
}

/// Found by review: a put that was refused for want of room had removed the damaged copy by then, and the batch was
/// committed.
#[test]
fn a_replacement_that_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let chunks: Vec<_> = (0..8).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let store = open(dir.path());
    chunks.iter().for_each(|chunk| assert_eq!(put(&store, chunk), Ok(Stored::Done)));
    drop(store);
    let path = data(dir.path(), "local");
    let at = position(&path, &chunks[0].bytes[..64]) as u64;
    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&[chunks[0].bytes[0] ^ 1], at).expect("write");
    let store = try_open(dir.path(), StoreConfig { local_limit: 4 << 20, ..CONFIG }).expect("a store");
    let mut reader = store.readers().reader();
    let handle = reader.find(&chunks[0].id).expect("stored").handle;
    assert_eq!(reader.warm(handle, 0), Err(ReadFault::Damaged));
    store.handle().sync().expect("marked");
    let before = store.stats().local;
    let refused = put(&store, &chunks[0]).expect_err("the limit was lowered");
    assert!(matches!(refused, StoreError::LimitReached { .. }), "{refused}");
    let after = store.stats();
    assert_eq!((after.local.chunks, after.local.footprint), (before.chunks, before.footprint));
    assert_eq!(after.damaged_local, 1, "the mark is still about what is there");
    drop((reader, store));
    let store = open(dir.path());
    assert_eq!((store.stats().local.chunks, store.stats().damaged_local), (8, 1));
    assert_eq!(put(&store, &chunks[0]), Ok(Stored::Done));
}

#[test]
fn a_damaged_copy_leaves_the_cache() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let chunk = chunk(300_000, 1);
    put_cache(&open(dir.path()), &chunk).expect("stored");
    let path = data(dir.path(), "cache");
    let at = position(&path, &chunk.bytes[500..600]) as u64;
    fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.write_all_at(&[0; 8], at)).expect("write");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    let handle = reader.find(&chunk.id).expect("its record is sound").handle;
    assert_eq!(reader.warm(handle, 0), Err(ReadFault::Damaged));
    store.handle().flush_cache().expect("written");
    reader.park();
    let stats = store.stats();
    assert_eq!((stats.cache.chunks, stats.cache.bytes, stats.cache.footprint, stats.damaged), (0, 0, 0, 1));
    assert!(reader.find(&chunk.id).is_none());
    assert_eq!(put_cache(&store, &chunk), Ok(Stored::Done));
    reader.park();
    assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes));
}

/// Found by review: a report that found the writer's queue full was lost, and with it the durable mark.
#[test]
fn a_report_of_damage_that_finds_the_queue_full_is_made_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let chunk = chunk(100_000, 1);
    put(&open(dir.path()), &chunk).expect("stored");
    let path = data(dir.path(), "local");
    let at = position(&path, &chunk.bytes[..64]) as u64;
    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&[chunk.bytes[0] ^ 1], at).expect("write");
    let store = open(dir.path());
    let handle = store.handle();
    // The writer waits in an acknowledgement, and its queue is full.
    let (busy, is_busy) = crossbeam::channel::bounded(1);
    let (go_on, may_go_on) = crossbeam::channel::bounded::<()>(1);
    let wait = Ack::new(move |_| {
        busy.send(()).expect("the test waits");
        let _ = may_go_on.recv();
    });
    handle.set(Table::Meta, b"key".to_vec(), None, wait);
    is_busy.recv().expect("the writer comes");
    for _ in 0..crate::limits::STORE_QUEUE_MAX {
        handle.set(Table::Meta, b"key".to_vec(), None, Ack::none());
    }
    let mut reader = store.readers().reader();
    let found = reader.find(&chunk.id).expect("not yet known to be damaged").handle;
    assert_eq!(reader.warm(found, 0), Err(ReadFault::Damaged));
    assert!(reader.find(&chunk.id).is_none(), "and the queue is still full");
    go_on.send(()).expect("the writer waits");
    handle.sync().expect("written");
    let mark = crate::io::store::database::damaged_key(&chunk.id);
    let is_marked = |store: &Store| {
        let database = &store.shared.local.database;
        let txn = database.env.begin_ro_txn().expect("a snapshot");
        txn.get(database.meta, &mark).is_ok()
    };
    assert!(!is_marked(&store), "the report had no room");
    assert!(reader.find(&chunk.id).is_none());
    handle.sync().expect("written");
    assert!(is_marked(&store), "whoever looks next tells again");
    assert_eq!((store.stats().damaged, store.stats().damaged_local), (1, 1), "counted once");
}

#[test]
fn a_record_that_names_another_chunk_brings_neither() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (one, two) = (chunk(200_000, 1), chunk(200_000, 2));
    let store = open(dir.path());
    put(&store, &one).expect("stored");
    put(&store, &two).expect("stored");
    drop(store);
    let path = data(dir.path(), "local");
    // The sequence number of the second, 1, lies before its root.
    let at = position(&path, &[&1u64.to_le_bytes()[..], &two.root].concat()) as u64;
    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&[0], at).expect("write");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    assert!(reader.find(&two.id).is_none(), "not the first one's bodies");
    assert!(read_all(&mut reader, &one.id).as_ref() == Some(&one.bytes));
    assert_eq!(put(&store, &two), Ok(Stored::Done));
    reader.park();
    assert!(read_all(&mut reader, &two.id).as_ref() == Some(&two.bytes));
    assert!(read_all(&mut reader, &one.id).as_ref() == Some(&one.bytes), "was not removed in its place");
}

#[test]
fn a_run_whose_head_is_damaged_is_not_freed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let chunks: Vec<_> = (0..3).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let store = open(dir.path());
    chunks.iter().for_each(|chunk| drop(put_cache(&store, chunk)));
    drop(store);
    let path = data(dir.path(), "cache");
    // The head says 240 pages of a run of 16.
    let at = position(&path, &chunks[0].bytes[..64]) as u64 - 4;
    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&[240], at).expect("write");
    let store = open(dir.path());
    for seed in 10..60 {
        assert_eq!(put_cache(&store, &chunk(CHUNK_SIZE_MAX, seed)), Ok(Stored::Done));
    }
    let mut reader = store.readers().reader();
    assert!(reader.find(&chunks[0].id).is_none(), "it was evicted");
    for seed in 56..60 {
        let chunk = chunk(CHUNK_SIZE_MAX, seed);
        assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes), "{seed}");
    }
    drop((reader, store));
    let aside = dir.path().join("store/cache.damaged");
    drop(open(dir.path()));
    assert!(!aside.exists(), "its tables are sound");
}

#[test]
fn runs_that_come_and_go_in_one_transaction_are_freed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open_mapped(dir.path(), CONFIG, [12 << 20, 12 << 20]).expect("a store");
    let handle = store.handle();
    for seed in 0..60 {
        let new = chunk(CHUNK_SIZE_MAX, seed);
        let id = new.id;
        let (ack, stored) = Ack::channel();
        handle.put_local(new, ack);
        let (ack, removed) = Ack::channel();
        // Within the time that the transaction waits for company.
        handle.delete_local(id, ack);
        assert_eq!((stored.recv(), removed.recv()), (Ok(Ok(Stored::Done)), Ok(Ok(Stored::Done))), "{seed}");
    }
    assert_eq!((store.stats().local.chunks, store.stats().local.footprint), (0, 0));
    drop(store);
    let whole = fs::read(data(dir.path(), "local")).expect("read");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("not empty");
    assert!(used < 8 << 20, "{used} bytes are used after 60 MiB came and went");
}

#[test]
fn a_cache_with_damaged_tables_is_put_aside_and_a_local_store_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ours, copy) = (chunk(80_000, 1), chunk(80_000, 2));
    let store = open(dir.path());
    put(&store, &ours).expect("stored");
    put_cache(&store, &copy).expect("stored");
    drop(store);
    let spoil = |side: &str, id: &ChunkId| {
        let path = data(dir.path(), side);
        let at = (position(&path, &id.0) & !4095) as u64;
        let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
        // The page's kind.
        file.write_all_at(&[7], at + 10).expect("write");
    };
    spoil("cache", &copy.id);
    let aside = dir.path().join("store/cache.damaged");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    assert!(reader.find(&copy.id).is_none() && read_all(&mut reader, &ours.id).as_ref() == Some(&ours.bytes));
    let files =
        fs::read_dir(&aside).expect("kept").map(|file| file.expect("read").metadata().expect("there"));
    let kept: u64 = files.map(|file| file.blocks() * 512).sum();
    assert!(kept > 80_000, "{kept}");
    assert_eq!(store.stats().cache.limit, CONFIG.cache_limit - kept, "what is kept is counted");
    put_cache(&store, &copy).expect("stored");
    drop((reader, store));
    let store = open(dir.path());
    assert!(!aside.exists(), "not kept for ever");
    assert_eq!(store.stats().cache.limit, CONFIG.cache_limit);
    drop(store);
    spoil("cache", &copy.id);
    let small = StoreConfig { cache_limit: 2 * 80_000, ..CONFIG };
    drop(try_open(dir.path(), small).expect("a store"));
    assert!(!aside.exists(), "too large to be kept");
    spoil("local", &ours.id);
    let error = try_open(dir.path(), CONFIG).map(|_| ()).expect_err("refused");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore"), "{error}");
}

/// Found by review: any refusal of LMDB's put the cache aside, in the place of one that was kept to be looked at.
#[test]
fn a_cache_that_lmdb_refuses_for_another_reason_is_not_put_aside() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let kept = dir.path().join("store/cache.damaged/kept");
    fs::create_dir_all(kept.parent().expect("a folder")).expect("made");
    fs::write(&kept, "an earlier one").expect("written");
    let error =
        Store::open_mapped(dir.path(), CONFIG, [12 << 20, 4 * 4096]).map(|_| ()).expect_err("no room");
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    assert!(kept.exists());
}

#[test]
fn a_cold_slice_is_faulted_in_elsewhere() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // Enough neighbours that the kernel's read-ahead from the index does not reach the middle one.
    let chunks: Vec<_> = (0..41).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let store = open(dir.path());
    chunks.iter().for_each(|chunk| store.handle().put_local(chunk.clone(), Ack::none()));
    drop(store);
    let chunk = &chunks[20];
    let file = fs::File::open(data(dir.path(), "local")).expect("open");
    file.sync_all().expect("sync");
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .expect("advice");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    let handle = reader.find(&chunk.id).expect("stored").handle;
    if reader.warm(handle, 9) == Ok(true) {
        eprintln!("SKIPPED: this file system keeps its pages in memory");
        return;
    }
    assert_eq!(reader.warm(handle, 9), Ok(false), "asked again");
    let cold = reader.take_cold();
    assert_eq!(cold.iter().map(|cold| (cold.handle, cold.slice)).collect::<Vec<_>>(), [(handle, 9)], "once");
    assert!(cold[0].len == SLICE_SIZE && cold[0].address.is_multiple_of(4096));
    reader.park();
    memory::populate(cold[0].address, cold[0].len).expect("the map stays while the reader lives");
    reader.warmed(handle, 9, Ok(()));
    assert_eq!(reader.warm(handle, 9), Ok(true));
    assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes));
    reader.warmed(handle, 3, Err(ReadFault::Store));
    assert_eq!(reader.warm(handle, 3), Err(ReadFault::Store), "not now");
    assert_eq!((store.stats().damaged, store.stats().damaged_local), (0, 0), "which is no damage");
    assert!(reader.find(&chunk.id).is_some());
    reader.warmed(handle, 3, Err(ReadFault::Damaged));
    assert_eq!(reader.warm(handle, 3), Err(ReadFault::Damaged), "what the disk cannot read is not served");
    assert_eq!(store.stats().cold, 1);
}

/// Found by `cargo xtask crash power-put`: power lost during the very first start left a database whose first
/// pages were missing, and every later start refused it.
#[test]
fn a_first_start_that_was_cut_off_is_done_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = dir.path().join("store");
    fs::create_dir_all(store.join("local")).expect("made");
    fs::create_dir_all(store.join("local.new")).expect("made");
    fs::write(store.join("local.new/data.mdb"), [0; 3 * 4096]).expect("written");
    fs::write(store.join("local/data.mdb"), []).expect("written");
    let chunk = chunk(100_000, 1);
    put(&open(dir.path()), &chunk).expect("stored");
    assert!(!store.join("local.new").exists(), "what was half made is gone");
    let mut reader = open(dir.path()).readers().reader();
    assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes));
}

#[test]
fn truncated_foreign_and_newer_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    put(&open(dir.path()), &chunk(CHUNK_SIZE_MAX, 1)).expect("stored");
    let path = data(dir.path(), "local");
    let whole = fs::read(&path).expect("read");
    let refused = |content: &[u8]| {
        fs::write(&path, content).expect("write");
        let error = try_open(dir.path(), CONFIG).map(|_| ()).expect_err("refused");
        assert_eq!(fs::metadata(&path).expect("there").len(), content.len() as u64, "left alone");
        error
    };
    assert!(matches!(refused(&whole[..1 << 20]), StoreError::Truncated { .. }));
    assert!(matches!(refused(&whole[..9000]), StoreError::Truncated { .. }));
    assert!(matches!(refused(b"#!/bin/sh\n"), StoreError::Foreign { .. }));
    let other = tempfile::tempdir().expect("temporary directory");
    let set = |version: Option<u32>| {
        let env = lmdb::Environment::new().set_max_dbs(4).open(other.path()).expect("environment");
        let name = if version.is_some() { "meta" } else { "mail" };
        let dbi = env.create_db(Some(name), lmdb::DatabaseFlags::empty()).expect("database");
        let mut txn = env.begin_rw_txn().expect("transaction");
        let value = [&b"tornet store"[..], &version.unwrap_or(0).to_le_bytes()].concat();
        txn.put(dbi, b"\0format", &value, lmdb::WriteFlags::empty()).expect("put");
        txn.commit().expect("commit");
        drop(env);
        fs::read(other.path().join("data.mdb")).expect("read")
    };
    let error = refused(&set(None));
    assert!(matches!(error, StoreError::Foreign { why: "another program's LMDB file", .. }), "{error}");
    let error = refused(&set(Some(2)));
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    fs::write(&path, &whole).expect("write");
    assert!(read_all(&mut open(dir.path()).readers().reader(), &chunk(CHUNK_SIZE_MAX, 1).id).is_some());
}

#[test]
fn a_cache_that_lost_power_or_was_cut_starts_anew_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (ours, copy) = (chunk(80_000, 1), chunk(80_000, 2));
    let fill = || {
        let store = open(dir.path());
        put(&store, &ours).expect("stored");
        put_cache(&store, &copy).expect("stored");
    };
    let has_copy = || {
        let store = open(dir.path());
        let mut reader = store.readers().reader();
        assert!(reader.find(&ours.id).is_some(), "local content is never given up");
        reader.find(&copy.id).is_some()
    };
    let running = dir.path().join("store/cache/running");
    fill();
    assert!(!running.exists(), "closed cleanly");
    assert!(has_copy());
    fs::copy("/proc/sys/kernel/random/boot_id", &running).expect("copy");
    assert!(has_copy(), "killed, but the machine went on");
    fs::write(&running, "another boot").expect("write");
    assert!(!has_copy(), "the machine stopped");
    fill();
    fs::File::options()
        .write(true)
        .open(data(dir.path(), "cache"))
        .and_then(|f| f.set_len(8192))
        .expect("cut");
    assert!(!has_copy());
    fill();
    fs::write(data(dir.path(), "cache"), "somebody's notes, which are not a database. ".repeat(9))
        .expect("write");
    assert!(matches!(try_open(dir.path(), CONFIG).map(|_| ()), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_map_that_is_too_small_is_told_and_survived() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open_mapped(dir.path(), CONFIG, [6 << 20, 6 << 20]).expect("a store");
    let chunks: Vec<_> = (0..12).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let acks: Vec<_> = chunks
        .iter()
        .map(|chunk| {
            let (ack, done) = Ack::channel();
            store.handle().put_local(chunk.clone(), ack);
            done
        })
        .collect();
    let results: Vec<_> = acks.iter().map(|done| done.recv().expect("answered")).collect();
    let mut reader = store.readers().reader();
    for (chunk, result) in chunks.iter().zip(&results) {
        assert_eq!(read_all(&mut reader, &chunk.id).is_some(), result.is_ok(), "{result:?}");
    }
    let stored = results.iter().filter(|result| result.is_ok()).count();
    assert!((3..=6).contains(&stored), "{results:?}");
    assert!(matches!(results[11], Err(StoreError::LimitReached { .. })), "{:?}", results[11]);
    reader.park();
    for (seed, _) in chunks.iter().enumerate() {
        assert_eq!(
            put_cache(&store, &chunk(CHUNK_SIZE_MAX, 100 + seed as u64)),
            Ok(Stored::Done),
            "a cache evicts"
        );
    }
}

/// A file system of a few MiB, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let options = format!("size={mib}m,nr_inodes=1000");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                eprintln!("SKIPPED: mounting a small file system needs root");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let Some(disk) = Small::mount(10) else { return };
    let dir = disk.0.path();
    let chunks: Vec<_> = (0..14).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let store = open(dir);
    let results: Vec<_> = chunks.iter().map(|chunk| put(&store, chunk)).collect();
    let error = results[13].as_ref().expect_err("the disk is full");
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    let mut reader = store.readers().reader();
    let check = |reader: &mut StoreReader| {
        for (chunk, result) in chunks.iter().zip(&results) {
            let expected = result.is_ok().then_some(&chunk.bytes);
            assert!(read_all(reader, &chunk.id).as_ref() == expected);
        }
    };
    check(&mut reader);
    drop((reader, store));
    let store = open(dir);
    check(&mut store.readers().reader());
    assert_eq!(delete(&store, chunks[0].id), Ok(Stored::Done), "room can be made");
    assert_eq!(delete(&store, chunks[1].id), Ok(Stored::Done));
    assert_eq!(delete(&store, chunks[2].id), Ok(Stored::Done));
    assert_eq!(put(&store, &chunk(500_000, 99)), Ok(Stored::Done), "and is used");
}

#[test]
fn a_full_disk_that_gets_room_is_used_again_without_a_restart() {
    let Some(disk) = Small::mount(12) else { return };
    let dir = disk.0.path();
    let store = open(dir);
    let (ours, copy) = (chunk(CHUNK_SIZE_MAX, 1), chunk(CHUNK_SIZE_MAX, 2));
    assert_eq!((put(&store, &ours), put_cache(&store, &copy)), (Ok(Stored::Done), Ok(Stored::Done)));
    let filler = dir.join("filler");
    let mut reader = store.readers().reader();
    for round in 0..3 {
        // Fails where the disk ends, which is what it is for.
        drop(fs::write(&filler, vec![1; 12 << 20]));
        for seed in 0..3 {
            let new = chunk(CHUNK_SIZE_MAX, 10 + 10 * round + seed);
            for result in [put(&store, &new), put_cache(&store, &new)] {
                assert!(matches!(result, Err(StoreError::DiskFull { .. })), "{result:?}");
            }
            reader.park();
            assert!(reader.find(&new.id).is_none());
        }
        assert!(read_all(&mut reader, &ours.id).as_ref() == Some(&ours.bytes));
        assert!(read_all(&mut reader, &copy.id).as_ref() == Some(&copy.bytes));
        reader.park();
        fs::remove_file(&filler).expect("removed");
        let new = chunk(CHUNK_SIZE_MAX, 100 + round);
        assert_eq!((put(&store, &new), put_cache(&store, &new)), (Ok(Stored::Done), Ok(Stored::Done)));
        assert!(read_all(&mut reader, &new.id).as_ref() == Some(&new.bytes));
    }
}

/// Not a test: the process that the next one kills.
#[test]
#[ignore = "runs as the child of `killed_between_commits_keeps_what_it_acknowledged`"]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os("TORNET_TEST_STORE") else { return };
    let store = open(Path::new(&dir));
    for seed in 0.. {
        let chunk = chunk(200_000, seed);
        let handle = store.handle();
        handle.put_local(chunk, Ack::new(move |result| println!("acknowledged {seed} {}", result.is_ok())));
        if seed % 7 == 0 {
            handle.sync().expect("durable");
        }
    }
}

#[test]
fn killed_between_commits_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let name = "io::store::tests::disk::child_that_writes_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("TORNET_TEST_STORE", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let acknowledged: Vec<u64> = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.strip_suffix(" true")?.parse().ok())
        .take(40)
        .collect();
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(acknowledged.len(), 40);
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    for seed in acknowledged {
        let chunk = chunk(200_000, seed);
        assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes), "chunk {seed}");
    }
    assert_eq!(put(&store, &chunk(200_000, 1 << 40)), Ok(Stored::Done));
}

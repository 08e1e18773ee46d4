//! The store as a whole: what is acknowledged is there, what is there is what was stored, and every way in
//! which a disk fails is told and survived.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::base::{ChunkId, ChunkRead, ReadFault};
use crate::crypto::hash;
use crate::limits::{CHUNK_SIZE_MAX, SLICE_SIZE};
use crate::sys::memory;
use crate::wire::locator::Locator;

mod damage;
mod disk;
mod speed;

const CONFIG: StoreConfig = StoreConfig { local_limit: 64 << 20, cache_limit: 8 << 20 };

fn open(dir: &Path) -> Store {
    try_open(dir, CONFIG).expect("a store")
}

fn try_open(dir: &Path, config: StoreConfig) -> Result<Store, StoreError> {
    Store::open(dir, config)
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = crate::base::Rng::from_number(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

fn chunk(len: usize, seed: u64) -> NewChunk {
    of_bytes(bytes(len, seed))
}

fn of_bytes(bytes: Vec<u8>) -> NewChunk {
    let only = bytes.len() <= SLICE_SIZE;
    let slices = bytes.chunks(SLICE_SIZE).enumerate();
    let list = slices.flat_map(|(n, slice)| hash::slice_cv(n as u32, slice, only)).collect();
    NewChunk { id: ChunkId(hash::sha1(&[&bytes])), root: hash::blake3(&[&bytes]), bytes, list }
}

fn put(store: &Store, chunk: &NewChunk) -> Result<Stored, StoreError> {
    let (ack, done) = Ack::channel();
    store.handle().put_local(chunk.clone(), ack);
    done.recv().expect("every write is answered")
}

fn put_cache(store: &Store, chunk: &NewChunk) -> Result<Stored, StoreError> {
    let (ack, done) = Ack::channel();
    store.handle().put_cache(chunk.clone(), ack);
    done.recv().expect("every write is answered")
}

fn delete(store: &Store, id: ChunkId) -> Result<Stored, StoreError> {
    let (ack, done) = Ack::channel();
    store.handle().delete_local(id, ack);
    done.recv().expect("every write is answered")
}

fn read_all(reader: &mut StoreReader, id: &ChunkId) -> Option<Vec<u8>> {
    let found = reader.find(id)?;
    let mut out = vec![0; found.len as usize];
    reader.read(found.handle, 0, &mut out).expect("stored");
    Some(out)
}

#[test]
fn chunks_of_every_shape_come_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let lens = [
        1,
        16,
        1903,
        1904,
        1905,
        65_519,
        65_520,
        65_521,
        65_535,
        65_536,
        65_537,
        67_000,
        131_072,
        CHUNK_SIZE_MAX,
    ];
    let chunks: Vec<_> = lens.iter().map(|&len| chunk(len, len as u64)).collect();
    for chunk in &chunks {
        assert_eq!(put(&store, chunk), Ok(Stored::Done));
    }
    let mut reader = store.readers().reader();
    for chunk in &chunks {
        let found = reader.find(&chunk.id).expect("stored");
        assert_eq!((found.len as usize, found.root), (chunk.bytes.len(), chunk.root));
        let mut list = Vec::new();
        reader.slice_list(found.handle, &mut list).expect("stored");
        assert_eq!(list, chunk.list);
        for slice in 0..chunk.list.len() as u32 / 32 {
            assert_eq!(reader.warm(found.handle, slice), Ok(true), "just written, so resident");
        }
        assert!(read_all(&mut reader, &chunk.id).as_ref() == Some(&chunk.bytes));
        let len = chunk.bytes.len();
        for (start, count) in
            [(0, 1), (len - 1, 1), (len / 2, len / 3), (65_510.min(len - 1), 40), (65_530.min(len), 3)]
        {
            let count = count.min(len - start);
            let mut part = vec![0; count];
            reader.read(found.handle, start as u32, &mut part).expect("inside");
            assert_eq!(part, chunk.bytes[start..start + count], "{start}+{count} of {len}");
        }
        assert_eq!(reader.read(found.handle, len as u32, &mut [0]), Err(ReadFault::Store), "beyond the end");
        assert!(reader.warm(found.handle, 99).is_err());
    }
    assert!(reader.find(&ChunkId([9; 20])).is_none());
}

#[test]
fn an_acknowledgement_comes_after_the_commit() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let (sender, seen) = crossbeam::channel::unbounded();
    for seed in 0..50 {
        let (chunk, readers, sender) = (chunk(30_000, seed), store.readers(), sender.clone());
        let id = chunk.id;
        let ack = Ack::new(move |result| {
            // On the writer's thread, before it does anything else.
            sender.send(result.is_ok() && readers.reader().find(&id).is_some()).expect("the test waits");
        });
        store.handle().put_local(chunk, ack);
    }
    store.handle().sync().expect("durable");
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [true; 50], "all before the sync, all committed");
    let stats = store.stats();
    assert_eq!((stats.local.chunks, stats.local.queued), (50, 0));
    assert!(stats.local.commits < 50 && stats.local.commit_ns > 0, "commits are shared: {stats:?}");
}

#[test]
fn the_same_chunk_is_stored_once_and_a_colliding_one_never() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let chunk = chunk(100_000, 1);
    assert_eq!(put(&store, &chunk), Ok(Stored::Done));
    let before = store.stats().local;
    assert_eq!(put(&store, &chunk), Ok(Stored::AlreadyThere));
    let collision = NewChunk { root: [0; 32], ..chunk.clone() };
    assert_eq!(put(&store, &collision), Err(StoreError::Collision));
    let malformed = NewChunk { list: vec![], ..chunk };
    assert_eq!(put(&store, &malformed), Err(StoreError::Malformed("chunk")));
    let after = store.stats().local;
    assert_eq!((before.chunks, before.footprint), (after.chunks, after.footprint));
}

#[test]
fn a_full_local_store_refuses_and_goes_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = try_open(dir.path(), StoreConfig { local_limit: 3 << 20, cache_limit: 0 }).expect("a store");
    let chunks: Vec<_> = (0..4).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    assert_eq!(put(&store, &chunks[0]), Ok(Stored::Done));
    assert_eq!(put(&store, &chunks[1]), Ok(Stored::Done));
    let error = put(&store, &chunks[2]).expect_err("the limit");
    assert!(
        matches!(error, StoreError::LimitReached { limit_bytes, .. } if limit_bytes == 3 << 20),
        "{error}"
    );
    assert_eq!(put(&store, &chunk(50_000, 9)), Ok(Stored::Done), "a small one still fits");
    let mut reader = store.readers().reader();
    assert!(read_all(&mut reader, &chunks[0].id).as_ref() == Some(&chunks[0].bytes));
    assert_eq!(delete(&store, chunks[0].id), Ok(Stored::Done));
    assert_eq!(delete(&store, chunks[0].id), Ok(Stored::Absent));
    assert_eq!(put(&store, &chunks[2]), Ok(Stored::Done));
    assert!(matches!(put_cache(&store, &chunks[3]), Err(StoreError::LimitReached { .. })), "no cache at all");
}

#[test]
fn a_deleted_chunk_is_gone_and_its_handle_never_names_another() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    for len in [1000, 200_000] {
        let chunk = chunk(len, 1);
        put(&store, &chunk).expect("stored");
        let mut reader = store.readers().reader();
        let old = reader.find(&chunk.id).expect("stored").handle;
        reader.read(old, 0, &mut [0; 10]).expect("stored");
        delete(&store, chunk.id).expect("removed");
        reader.read(old, 0, &mut [0; 10]).expect("this turn's snapshot still has it");
        reader.park();
        assert_eq!(reader.read(old, 0, &mut [0; 10]), Err(ReadFault::Gone));
        assert_eq!(reader.warm(old, 0), Err(ReadFault::Gone));
        assert_eq!(reader.slice_list(old, &mut Vec::new()), Err(ReadFault::Gone));
        assert_eq!(
            store.readers().reader().read(old, 0, &mut [0]),
            Err(ReadFault::Gone),
            "nor for a new reader"
        );
        put(&store, &chunk).expect("stored again");
        reader.park();
        assert_eq!(reader.read(old, 0, &mut [0; 10]), Err(ReadFault::Gone));
        assert_ne!(reader.find(&chunk.id).expect("stored").handle, old);
        delete(&store, chunk.id).expect("removed");
    }
}

#[test]
fn a_full_cache_gives_up_what_is_used_least() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    let loved = chunk(CHUNK_SIZE_MAX, 1000);
    put_cache(&store, &loved).expect("stored");
    let first = chunk(CHUNK_SIZE_MAX, 0);
    put_cache(&store, &first).expect("stored");
    let handle = reader.find(&first.id).expect("stored").handle;
    for seed in 1..200 {
        reader.park();
        assert!(read_all(&mut reader, &loved.id) == Some(loved.bytes.clone()), "used in each round: {seed}");
        let new = chunk(CHUNK_SIZE_MAX, seed);
        reader.park();
        assert_eq!(put_cache(&store, &new), Ok(Stored::Done));
        assert!(reader.find(&new.id).is_some(), "the newest is there");
    }
    reader.park();
    assert_eq!(reader.read(handle, 0, &mut [0; 4]), Err(ReadFault::Gone));
    let stats = store.stats().cache;
    assert!(stats.footprint <= CONFIG.cache_limit && stats.chunks == 7, "{stats:?}");
    let file = fs::metadata(dir.path().join("store/cache/data.mdb")).expect("the file");
    let used = file.blocks() * 512;
    assert!(used < 2 * CONFIG.cache_limit, "freed runs are used again: {used} bytes after 200 MiB");
}

#[test]
fn what_is_only_looked_after_makes_room_before_what_somebody_asked_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let mut reader = store.readers().reader();
    let kept: Vec<_> = (0..7).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    for chunk in &kept {
        put_cache(&store, chunk).expect("stored");
    }
    let listed = store.readers().kept_chunks(0, 100).expect("listed");
    assert!(listed.iter().map(|(_, id)| *id).eq(kept.iter().map(|chunk| chunk.id)));
    reader.park();
    for _ in 0..10 {
        assert!(kept.iter().all(|chunk| reader.peek(&chunk.id).is_some()));
    }
    assert!(reader.find(&kept[1].id).is_some());
    for seed in 100..106 {
        put_cache(&store, &chunk(CHUNK_SIZE_MAX, seed)).expect("stored");
    }
    let left: Vec<_> =
        store.readers().kept_chunks(0, 100).expect("listed").into_iter().map(|(_, id)| id).collect();
    assert_eq!((left.len(), left[0]), (7, kept[1].id), "the one that was asked for");
    assert_eq!(store.readers().local_chunks(0, 100), Ok(Vec::new()));
}

#[test]
fn small_values_and_publications_are_kept() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let (handle, mut reader) = (store.handle(), store.readers().reader());
    let stored = chunk(70_000, 1);
    let locator = |chunk: &NewChunk| Locator {
        chunk: chunk.id,
        root: chunk.root,
        chunk_len: chunk.bytes.len() as u32,
        offset: 100,
        plain_len: 5,
        key: [7; 32],
    };
    put(&store, &stored).expect("stored");
    let dangling = locator(&chunk(70_000, 2));
    handle.publish(vec![([1; 32], locator(&stored)), ([2; 32], dangling)], Ack::none());
    for (table, key, value) in [(Table::Peers, "b", "2"), (Table::Peers, "a", "1"), (Table::Meta, "c", "3")] {
        handle.set(table, key.into(), Some(value.into()), Ack::none());
    }
    let (ack, done) = Ack::channel();
    handle.set(Table::Meta, b"\0format".to_vec(), Some(vec![]), ack);
    assert_eq!(done.recv(), Ok(Err(StoreError::Malformed("key"))), "the store's own keys are its own");
    handle.sync().expect("durable");
    assert!(reader.publication(&[1; 32]).expect("read") == Some(locator(&stored)));
    assert!(reader.publication(&[2; 32]).expect("read").is_none(), "its chunk is not stored");
    assert!(reader.publication(&[3; 32]).expect("read").is_none());
    assert_eq!(reader.value(Table::Peers, b"a"), Ok(Some(b"1".to_vec())));
    assert_eq!(
        store.values(Table::Peers),
        Ok(vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())])
    );
    assert_eq!(store.values(Table::Meta), Ok(vec![(b"c".to_vec(), b"3".to_vec())]));
    handle.set(Table::Peers, b"a".to_vec(), None, Ack::none());
    handle.sync().expect("durable");
    reader.park();
    assert_eq!(reader.value(Table::Peers, b"a"), Ok(None));
}

#[test]
fn a_closed_store_tells_every_asker() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open(dir.path());
    let handle = store.handle();
    let (before, done) = Ack::channel();
    handle.put_local(chunk(1000, 1), before);
    drop(store);
    assert_eq!(done.recv(), Ok(Ok(Stored::Done)), "handed in before the end");
    assert_eq!(handle.sync(), Err(StoreError::Closed));
    let (ack, done) = Ack::channel();
    let refused = handle.try_put_cache(chunk(1000, 2), ack);
    drop(refused);
    assert_eq!(done.recv(), Ok(Err(StoreError::Closed)));
    open(dir.path());
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Delete(u8),
    Publish(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..12).prop_map(Step::Put),
        3 => (0u8..12).prop_map(Step::Delete),
        1 => (0u8..12).prop_map(Step::Publish),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut store = open(dir.path());
        let chunks: Vec<_> = (0..12).map(|n| chunk(1 + n * n * 1500, n as u64)).collect();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(n) => {
                    let chunk = &chunks[usize::from(n)];
                    let new = model.insert(n, chunk.bytes.clone()).is_none();
                    let expected = if new { Stored::Done } else { Stored::AlreadyThere };
                    prop_assert_eq!(put(&store, chunk), Ok(expected));
                }
                Step::Delete(n) => {
                    let expected = if model.remove(&n).is_some() { Stored::Done } else { Stored::Absent };
                    prop_assert_eq!(delete(&store, chunks[usize::from(n)].id), Ok(expected));
                }
                Step::Publish(n) => {
                    store.handle().set(Table::Meta, vec![1, n], Some(vec![n]), Ack::none());
                }
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
            let mut reader = store.readers().reader();
            for (n, chunk) in chunks.iter().enumerate() {
                prop_assert!(read_all(&mut reader, &chunk.id).as_ref() == model.get(&(n as u8)), "chunk {n}");
            }
            let stats = store.stats().local;
            prop_assert_eq!(stats.chunks as usize, model.len());
            prop_assert_eq!(stats.bytes as usize, model.values().map(Vec::len).sum::<usize>());
        }
    }
}

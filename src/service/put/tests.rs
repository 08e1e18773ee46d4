//! Trees put into a map of chunks, and read back by a plain reader that knows the formats and nothing of
//! [`Put`].

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::{ChunkId, Rng};
use crate::chunk::{Piece, PieceKey, SliceList};
use crate::limits::{CHUNK_SIZE_MAX, SLICE_SIZE};
use crate::wire::directory::DirectoryView;
use crate::wire::extents::ExtentList;

/// A tree as the tests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    File(u16, Vec<u8>),
    Directory(u16, BTreeMap<Vec<u8>, Tree>),
    Symlink(Vec<u8>),
}

#[derive(Default)]
struct Store {
    chunks: BTreeMap<ChunkId, (SliceList, Vec<u8>)>,
    known: BTreeMap<PieceHash, Locator>,
}

impl Known for Store {
    fn find(&mut self, piece: &PieceHash) -> Option<Locator> {
        self.known.get(piece).cloned()
    }
}

impl Store {
    fn drain(&mut self, put: &mut Put) {
        while let Some(chunk) = put.poll_chunk() {
            assert!(chunk.bytes.len() <= CHUNK_SIZE_MAX);
            let before = self.chunks.insert(chunk.id, (chunk.slices, chunk.bytes));
            assert!(before.is_none(), "the same chunk twice");
        }
        while let Some((hash, locator)) = put.poll_publication() {
            assert!(self.chunks.contains_key(&locator.chunk), "published before it was stored");
            assert!(self.known.insert(hash, locator).is_none(), "published twice");
        }
    }

    fn put(&mut self, root: &BTreeMap<Vec<u8>, Tree>, salt: Option<&Secret>) -> (Reference, PutStats) {
        let mut put = Put::new(salt);
        root.iter().for_each(|(name, tree)| self.walk(&mut put, name, tree));
        let reference = self.finish(&mut put);
        (reference, put.stats())
    }

    fn finish(&mut self, put: &mut Put) -> Reference {
        loop {
            let reference = put.finish(self).expect("a valid tree");
            self.drain(put);
            if let Some(reference) = reference {
                return reference;
            }
        }
    }

    fn walk(&mut self, put: &mut Put, name: &[u8], tree: &Tree) {
        match tree {
            Tree::File(mode, bytes) => {
                put.begin_file(name, *mode, time(bytes.len())).expect("begins");
                for piece in bytes.chunks(PIECE_PLAIN_MAX) {
                    put.piece(piece, self).expect("takes a piece");
                    self.drain(put);
                }
                put.end_file().expect("ends");
            }
            Tree::Directory(mode, entries) => {
                put.begin_directory(name, *mode, time(entries.len())).expect("begins");
                entries.iter().for_each(|(name, tree)| self.walk(put, name, tree));
                put.end_directory();
            }
            Tree::Symlink(target) => put.symlink(name, target, time(target.len())).expect("a symlink"),
        }
        self.drain(put);
    }

    fn piece(&self, locator: &Locator) -> Vec<u8> {
        let locator = Locator::parse(&locator.emit()).expect("a valid locator");
        let (slices, bytes) = &self.chunks[&locator.chunk];
        let list = SliceList::parse(locator.chunk_len, slices.as_bytes(), &locator.root).expect("its list");
        for index in locator.slices() {
            let slice = bytes.chunks(SLICE_SIZE).nth(index as usize).expect("a slice");
            list.verify(index, slice).expect("a good slice");
        }
        let key = PieceKey::new(&locator.key);
        let mut out = Vec::new();
        for index in 0..locator.records() {
            let mut record = bytes[locator.record(index)].to_vec();
            let len = key.open_record(index, &mut record).expect("opens");
            out.extend_from_slice(&record[..len]);
        }
        out
    }

    fn blob(&self, blob: &Blob) -> Vec<u8> {
        let Some(top) = &blob.top else { return Vec::new() };
        let top = self.piece(top);
        let bytes = match blob.depth {
            0 => top,
            _ => {
                let list = ExtentList::new_checked(&top, blob).expect("a valid list");
                list.iter().flat_map(|extent| self.blob(&extent)).collect()
            }
        };
        assert_eq!(bytes.len() as u64, blob.size);
        bytes
    }

    fn directory(&self, blob: &Blob) -> BTreeMap<Vec<u8>, Tree> {
        let bytes = self.blob(blob);
        let view = DirectoryView::new_checked(&bytes).expect("a valid directory");
        let read = |entry: Entry<'_>| {
            let (tree, size) = match &entry.node {
                Node::File(blob) => {
                    let bytes = self.blob(blob);
                    let size = bytes.len();
                    (Tree::File(entry.mode, bytes), size)
                }
                Node::Directory(blob) => {
                    let entries = self.directory(blob);
                    let size = entries.len();
                    (Tree::Directory(entry.mode, entries), size)
                }
                Node::Symlink(target) => (Tree::Symlink(target.to_vec()), target.len()),
            };
            assert_eq!(entry.mtime, time(size));
            (entry.name.into_owned(), tree)
        };
        view.iter().map(read).collect()
    }
}

fn time(number: usize) -> FileTime {
    FileTime { seconds: number as i64 - 10, nanos: number as u32 }
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::from_number(seed).fill(&mut bytes);
    bytes
}

fn trees() -> impl Strategy<Value = Tree> {
    let size = prop_oneof![
        8 => 0usize..3000, 2 => 60_000usize..140_000, 1 => (PIECE_PLAIN_MAX - 2)..(PIECE_PLAIN_MAX + 3),
    ];
    let file =
        (0u16..0o7777, any::<u64>(), size).prop_map(|(mode, seed, len)| Tree::File(mode, random(seed, len)));
    let symlink = prop::collection::vec(1u8.., 1..30).prop_map(Tree::Symlink);
    prop_oneof![6 => file, 1 => symlink].prop_recursive(4, 40, 8, |inner| {
        (0u16..0o7777, prop::collection::btree_map(names(), inner, 0..8))
            .prop_map(|(mode, entries)| Tree::Directory(mode, entries))
    })
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8.., 1..12).prop_filter("valid", |name| directory::name_is_valid(name))
}

fn roots() -> impl Strategy<Value = BTreeMap<Vec<u8>, Tree>> {
    prop::collection::btree_map(names(), trees(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_put_is_read_back(root in roots(), salted in any::<bool>()) {
        let salt = salted.then(|| Secret::from_bytes([5; 32]));
        let mut store = Store::default();
        let (reference, stats) = store.put(&root, salt.as_ref());
        let reference: Reference = reference.to_string().parse().expect("as printed");
        prop_assert!(store.directory(&reference.root) == root);
        prop_assert_eq!(stats.chunks_new, store.chunks.len() as u64);
        prop_assert_eq!(stats.pieces_new, store.known.len() as u64);
        // The same tree again: the same reference, and nothing new.
        let (again, stats) = store.put(&root, salt.as_ref());
        prop_assert!(again == reference);
        prop_assert_eq!((stats.chunks_new, stats.pieces_new), (0, 0));
    }

    #[test]
    fn salted_content_shares_nothing(root in roots()) {
        let mut store = Store::default();
        let salts = [Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32])];
        let mut total = 0;
        for salt in [None, Some(&salts[0]), Some(&salts[1])] {
            let (_, stats) = store.put(&root, salt);
            total += stats.chunks_new;
            prop_assert_eq!(store.chunks.len() as u64, total);
        }
    }

    #[test]
    fn two_publishers_make_the_same_chunks(root in roots()) {
        let (mut a, mut b) = (Store::default(), Store::default());
        prop_assert!(a.put(&root, None).0 == b.put(&root, None).0);
        prop_assert!(a.chunks.keys().eq(b.chunks.keys()));
    }
}

fn file(seed: u64, len: usize) -> Tree {
    Tree::File(0o644, random(seed, len))
}

fn folder(entries: impl IntoIterator<Item = (String, Tree)>) -> Tree {
    Tree::Directory(0o755, entries.into_iter().map(|(name, tree)| (name.into_bytes(), tree)).collect())
}

/// 20 directories of 30 files, below a directory below the root, and one large file.
fn project(edited: bool) -> BTreeMap<Vec<u8>, Tree> {
    let inner = |d: u64| {
        folder((0..30).map(|f| {
            let seed = if edited && (d, f) == (7, 9) { 1_000_000 } else { d * 100 + f };
            (format!("file {f}"), file(seed, 3000 + 97 * f as usize))
        }))
    };
    let mut entries: Vec<_> = (0..20).map(|d| (format!("directory {d}"), inner(d))).collect();
    entries.push(("large".into(), file(9, 5 * PIECE_PLAIN_MAX + 17)));
    BTreeMap::from([(b"project".to_vec(), folder(entries))])
}

#[test]
fn an_edited_file_makes_chunks_for_itself_and_the_directories_above() {
    let mut store = Store::default();
    let (_, first) = store.put(&project(false), None);
    assert_eq!((first.files, first.directories), (601, 21));
    assert!(first.chunks_new > 8 && first.bytes_new > first.bytes);
    let (reference, second) = store.put(&project(true), None);
    // The file, its directory, `project`, and the root: each names the chunk of the one below.
    assert_eq!((second.pieces_new, second.chunks_new), (4, 4));
    assert!(second.bytes_new < 20_000, "{}", second.bytes_new);
    assert!(store.directory(&reference.root) == project(true));
}

#[test]
fn a_large_file_that_changes_in_one_place_keeps_its_other_pieces() {
    let mut store = Store::default();
    let len = 6 * PIECE_PLAIN_MAX + 1234;
    let mut bytes = random(1, len);
    let root = |bytes: &Vec<u8>| BTreeMap::from([(b"disk".to_vec(), Tree::File(0o600, bytes.clone()))]);
    let (_, first) = store.put(&root(&bytes), None);
    assert_eq!((first.pieces_new, first.bytes), (9, len as u64));
    bytes[3 * PIECE_PLAIN_MAX] ^= 1;
    let (reference, second) = store.put(&root(&bytes), None);
    assert_eq!((second.pieces_new, second.pieces_known), (3, 6));
    assert!(store.directory(&reference.root) == root(&bytes));
}

#[test]
fn equal_files_are_stored_once() {
    let mut store = Store::default();
    let copies = (0..50).map(|index| (format!("copy {index}"), file(1, 70_000)));
    let root = BTreeMap::from([(b"copies".to_vec(), folder(copies))]);
    let (reference, stats) = store.put(&root, None);
    assert_eq!(stats.pieces_new, 3);
    assert!(store.directory(&reference.root) == root);
}

#[test]
fn a_directory_larger_than_a_piece_is_read_back() {
    let mut store = Store::default();
    let entries = (0..8000u64).map(|index| (format!("entry {index}"), file(index % 5, 10)));
    let root = BTreeMap::from([(b"many".to_vec(), folder(entries))]);
    let (reference, _) = store.put(&root, None);
    assert!(store.directory(&reference.root) == root);
    let top = store.blob(&reference.root);
    let many = DirectoryView::new_checked(&top).expect("valid").find(b"many").expect("there");
    assert!(matches!(many.node, Node::Directory(blob) if blob.depth == 1));
}

/// A file whose extent lists need a list above them: its pieces are known, so none has to be read.
#[test]
fn a_file_of_more_than_one_extent_list() {
    let mut store = Store::default();
    let mut put = Put::new(None);
    let full = random(3, PIECE_PLAIN_MAX);
    put.begin_file(b"huge", 0o600, time(0)).expect("begins");
    put.piece(&full, &mut store).expect("takes a piece");
    store.drain(&mut put);
    let hash = *Piece::new(&full, put.domain()).hash();
    let locator = store.find(&hash).expect("published");
    for _ in 0..extents::FANOUT {
        put.prepared(Prepared::Known(hash, locator.clone())).expect("takes a piece");
    }
    put.piece(b"the end", &mut store).expect("takes a piece");
    put.end_file().expect("ends");
    let reference = store.finish(&mut put);
    let root = store.blob(&reference.root);
    let huge = DirectoryView::new_checked(&root).expect("valid").find(b"huge").expect("there");
    let Node::File(blob) = huge.node else { panic!("a file") };
    assert_eq!((blob.depth, blob.size), (2, (extents::FANOUT as u64 + 1) * PIECE_PLAIN_MAX as u64 + 7));
    let top = store.piece(blob.top.as_ref().expect("content"));
    let lists: Vec<_> = ExtentList::new_checked(&top, &blob).expect("valid").iter().collect();
    assert_eq!(lists.len(), 2);
    let last = store.piece(lists[1].top.as_ref().expect("content"));
    let last = ExtentList::new_checked(&last, &lists[1]).expect("valid");
    assert_eq!(last.len(), 2);
    assert_eq!(store.blob(&last.get(1).expect("the last piece")), b"the end");
}

#[test]
fn workers_may_seal_and_hash_elsewhere() {
    let mut store = Store::default();
    let (reference, _) = store.put(&BTreeMap::from([(b"f".to_vec(), file(4, 3 * PIECE_PLAIN_MAX))]), None);
    let (mut put, mut other) = (Put::new(None), Store::default());
    let bytes = random(4, 3 * PIECE_PLAIN_MAX);
    put.begin_file(b"f", 0o644, time(bytes.len())).expect("begins");
    let domain = Domain::new(None);
    let pieces: Vec<_> =
        bytes.chunks(PIECE_PLAIN_MAX).map(|plain| prepare(plain, &domain, &mut other)).collect();
    pieces.into_iter().for_each(|piece| put.prepared(piece).expect("takes a piece"));
    put.end_file().expect("ends");
    let mut held: Vec<ClosedChunk> = Vec::new();
    let again = loop {
        if let Some(reference) = put.finish(&mut other).expect("valid") {
            break reference;
        }
        held.extend(std::iter::from_fn(|| put.poll_closed()));
        // Nothing above can be written while chunks are away.
        assert!(put.finish(&mut other).expect("valid").is_none() && put.poll_closed().is_none());
        held.drain(..).rev().for_each(|closed| put.hashed(&closed.hash()));
    };
    assert!(again == reference);
}

#[test]
fn mistakes_are_told_in_time() {
    let mut store = Store::default();
    let mut put = Put::new(None);
    put.begin_directory(b"a", 0o755, time(0)).expect("begins");
    put.end_directory();
    let same = BadDirectory::SameName("a".into());
    assert_eq!(put.begin_directory(b"a", 0o755, time(0)), Err(same.clone().into()));
    assert_eq!(put.begin_file(b"a", 0o644, time(0)), Err(same.into()));
    assert!(put.begin_file(b"..", 0o644, time(0)).is_err());
    assert!(put.symlink(b"s", b"", time(0)).is_err());
    put.begin_file(b"b", 0o644, time(0)).expect("begins");
    put.piece(b"short", &mut store).expect("takes a piece");
    assert_eq!(put.piece(b"more", &mut store), Err(PutError::Cut("b".into())));
    put.abandon_file();
    for _ in 0..DIRECTORY_DEPTH_MAX {
        put.begin_directory(b"d", 0o755, time(0)).expect("begins");
    }
    assert_eq!(put.begin_directory(b"d", 0o755, time(0)), Err(PutError::TooDeep));
    (0..DIRECTORY_DEPTH_MAX).for_each(|_| put.end_directory());
    let reference = store.finish(&mut put);
    let root = store.blob(&reference.root);
    assert_eq!(DirectoryView::new_checked(&root).map(|view| view.len()), Ok(2));
}

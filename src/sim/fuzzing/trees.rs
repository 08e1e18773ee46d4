//! Trees that a script makes: honest ones through [`Put`], and hostile ones piece by piece.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Input;
use crate::base::ChunkId;
use crate::base::fileop::FileTime;
use crate::chunk::{Domain, Piece, PieceHash, SliceList};
use crate::crypto::hash::sha1;
use crate::limits::{CHUNK_SIZE_MAX, PIECE_PLAIN_MAX};
use crate::service::put::{Known, Put};
use crate::wire::directory::{DirectoryWriter, Entry, Node};
use crate::wire::extents;
use crate::wire::locator::Locator;
use crate::wire::reference::{Blob, Reference};

/// Chunks by address.
pub(super) type Chunks = BTreeMap<ChunkId, Vec<u8>>;
/// Files by path, without the root.
pub(super) type Files = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) struct Nothing;

impl Known for Nothing {
    fn find(&mut self, _: &PieceHash) -> Option<Locator> {
        None
    }
}

/// The bytes of a file: `seed` repeated with its offset.
pub(super) fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed ^ at as u8 ^ (at >> 8) as u8).collect()
}

/// Puts `files` (of names without `/`) below the directory `top`.
pub(super) fn put(files: &Files) -> (Reference, Chunks) {
    let mut put = Put::new(None);
    put.begin_directory(b"top", 0o755, FileTime::default()).expect("a name");
    for (name, bytes) in files {
        put.begin_file(name, 0o644, FileTime::default()).expect("a name");
        for piece in bytes.chunks(PIECE_PLAIN_MAX) {
            put.piece(piece, &mut Nothing).expect("cut where it must be");
        }
        put.end_file().expect("a file");
    }
    put.end_directory();
    let mut chunks = Chunks::new();
    loop {
        let done = put.finish(&mut Nothing).expect("a tree");
        while let Some(chunk) = put.poll_chunk() {
            chunks.insert(chunk.id, chunk.bytes);
        }
        while put.poll_publication().is_some() {}
        if let Some(reference) = done {
            return (reference, chunks);
        }
    }
}

/// Makes hostile content: whatever plaintext, sealed and addressed as it must be.
#[derive(Default)]
pub(super) struct Forge {
    pub(super) chunks: Chunks,
    blobs: Vec<Blob>,
}

impl Forge {
    /// A piece in a chunk of its own, behind `gap` bytes.
    fn piece(&mut self, plain: &[u8], gap: usize) -> Locator {
        let sealed = Piece::new(plain, &Domain::new(None)).seal();
        let gap = gap.min(CHUNK_SIZE_MAX - sealed.sealed.len());
        let chunk = [&vec![0; gap][..], &sealed.sealed].concat();
        let id = ChunkId(sha1(&[&chunk]));
        let (root, chunk_len) = (*SliceList::from_chunk(&chunk).root(), chunk.len() as u32);
        self.chunks.insert(id, chunk);
        Locator {
            chunk: id,
            root,
            chunk_len,
            offset: gap as u32,
            plain_len: sealed.plain_len,
            key: sealed.key,
        }
    }

    /// A blob with this topmost plaintext that says it is of `size` bytes: as deep as it must be, since any
    /// other is refused when it is read.
    fn blob(&mut self, plain: &[u8], size: u64, gap: usize, input: &mut Input<'_>) -> Option<Blob> {
        let depth = extents::depth_of(size)?;
        let mut top = self.piece(plain, gap);
        match input.byte() % 32 {
            0 => top.key[0] ^= 1,
            1 => top.root[0] ^= 1,
            2 => top.chunk.0[0] ^= 1,
            3 => top.offset = input.word() % (top.offset + 1),
            _ => {}
        }
        top.plain_len = extents::top_len(size, depth).min(PIECE_PLAIN_MAX as u64) as u32;
        let blob = Blob { size, depth, top: Some(top) };
        Blob::parse(&blob.emit()).ok()
    }

    /// The next blob of the script; later ones may hold earlier ones.
    fn next(&mut self, input: &mut Input<'_>) -> Option<Blob> {
        let gap = match input.byte() % 4 {
            0 => usize::from(input.half()),
            1 => 65_000 + usize::from(input.half()) % 1000,
            _ => 0,
        };
        match input.below(5) {
            // A file.
            0 => {
                let most = if input.one_in(8) { 200_000 } else { 400 };
                let len = 1 + input.below(most);
                let bytes = content(input.byte(), len);
                self.blob(&bytes, len as u64, gap, input)
            }
            // Whatever.
            1 => {
                let bytes = input.bytes(300);
                let plain = if bytes.is_empty() { &[0][..] } else { bytes };
                self.blob(plain, plain.len() as u64, gap, input)
            }
            // A list over what there is, repeated; or one that lies.
            2 => {
                let extents: Vec<Locator> = self.blobs.iter().filter_map(|blob| blob.top.clone()).collect();
                let size = PIECE_PLAIN_MAX as u64 + u64::from(input.word() % (3 << 20));
                let count = extents::count(size, 1) as usize;
                if extents.is_empty() {
                    return None;
                }
                let chosen: Vec<_> = (0..count).map(|_| &extents[input.below(extents.len())]).collect();
                let mut list = extents::emit(size, 1, chosen);
                if input.flag() {
                    input.mutate(&mut list);
                    list.resize(extents::list_len(count as u64) as usize, 0);
                }
                self.blob(&list, size, gap, input)
            }
            // A directory of what there is.
            _ => {
                let mut directory = self.directory(input);
                if input.one_in(4) {
                    input.mutate(&mut directory);
                }
                let plain = if directory.is_empty() { &[0][..] } else { &directory[..] };
                self.blob(plain, plain.len() as u64, gap, input)
            }
        }
    }

    fn directory(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let mut writer = DirectoryWriter::new();
        for number in 0..input.below(12) as u8 {
            let name = [&[b'a' + number][..], input.bytes(3)].concat();
            let node = match input.below(8) {
                0 => Node::Symlink(Cow::Borrowed(b"../../etc/passwd")),
                1 => Node::File(Blob::EMPTY),
                2 => {
                    // A size out of all proportion.
                    let size = input.number().clamp(1, extents::SIZE_MAX);
                    let depth = extents::depth_of(size).expect("not above the most");
                    let any = self.blobs.first().and_then(|blob| blob.top.clone());
                    let Some(mut top) = any else { continue };
                    (top.plain_len, top.offset) = (extents::top_len(size, depth) as u32, 0);
                    top.chunk_len = CHUNK_SIZE_MAX as u32;
                    Node::File(Blob { size, depth, top: Some(top) })
                }
                kind => {
                    let at = input.below(self.blobs.len().max(1));
                    let Some(blob) = self.blobs.get(at) else { continue };
                    if kind < 5 { Node::File(blob.clone()) } else { Node::Directory(blob.clone()) }
                }
            };
            let (mode, mtime) = (input.half(), FileTime { seconds: input.long() as i64, nanos: 5 });
            let _ = writer.push(&Entry { name: Cow::Owned(name), mode, mtime, node });
        }
        writer.finish().expect("names differ in their first letter")
    }

    /// A tree, the last blob being its root.
    pub(super) fn tree(&mut self, input: &mut Input<'_>) -> Option<Reference> {
        for _ in 0..1 + input.below(8) {
            if let Some(blob) = self.next(input) {
                self.blobs.push(blob);
            }
        }
        let root = self.blobs.pop()?;
        let text = Reference { root }.to_string();
        text.parse().ok()
    }
}

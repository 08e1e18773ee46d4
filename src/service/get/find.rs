//! Finding one entry of a directory without reading the rest: the lookup says which bytes it needs, and
//! only the records that hold them are fetched.

use std::ops::Range;

use crate::chunk::lookup::{Lookup, Step};
use crate::limits::RECORD_PLAIN;
use crate::wire::directory::{Entry, Node};
use crate::wire::reference::Blob;

/// Following path components down from a directory.
pub(super) struct Find {
    components: Vec<Vec<u8>>,
    at: usize,
    directory: Blob,
    /// The directory's pieces, once known: itself, or its extents.
    pieces: Option<Vec<(Blob, u64)>>,
    lookup: Lookup,
    /// Bytes being gathered for the lookup: where they begin, the bytes, and how many are missing.
    gather: Option<(u64, Vec<u8>, usize)>,
}

/// What to do next.
pub(super) enum Next {
    /// Read this piece whole (it is an extent list) and hand it to [`Find::list`].
    ReadList(Blob),
    /// Fetch these records of these pieces; hand each to [`Find::record`] with the piece's offset.
    Fetch(Vec<(Blob, u64, u16)>),
    /// Wait for what was asked.
    Wait,
    /// Here it is.
    Found(Box<Entry<'static>>),
    /// There is no such entry.
    Absent(Vec<u8>),
    /// The directory contradicts itself.
    Broken(&'static str),
}

impl Find {
    /// `components` is not empty.
    pub(super) fn new(directory: Blob, components: Vec<Vec<u8>>) -> Self {
        let lookup = Lookup::new(&components[0], directory.size);
        let pieces = (directory.depth == 0).then(|| vec![(directory.clone(), 0)]);
        Self { components, at: 0, directory, pieces, lookup, gather: None }
    }

    /// The extents of the directory.
    pub(super) fn list(&mut self, children: Vec<Blob>) {
        let mut offset = 0;
        let place = |child: Blob| {
            let at = offset;
            offset += child.size;
            (child, at)
        };
        self.pieces = Some(children.into_iter().map(place).collect());
    }

    /// A fetched record: `piece` is the offset of its piece in the directory.
    pub(super) fn record(&mut self, piece: u64, record: u32, plain: &[u8]) {
        let Some((start, bytes, missing)) = &mut self.gather else { return };
        let begin = piece + u64::from(record) * RECORD_PLAIN as u64;
        let end = begin + plain.len() as u64;
        let from = begin.max(*start);
        let to = end.min(*start + bytes.len() as u64);
        if from >= to {
            return;
        }
        let part = &plain[(from - begin) as usize..(to - begin) as usize];
        bytes[(from - *start) as usize..(to - *start) as usize].copy_from_slice(part);
        *missing -= part.len();
        if *missing == 0
            && let Some((start, bytes, _)) = self.gather.take()
        {
            self.lookup.feed(start, &bytes);
        }
    }

    /// Goes on as far as possible.
    pub(super) fn next(&mut self) -> Next {
        if self.gather.is_some() {
            return Next::Wait;
        }
        let Some(pieces) = &self.pieces else {
            return match self.directory.depth {
                1 => Next::ReadList(self.directory.clone()),
                _ => Next::Broken("a directory is never that large"),
            };
        };
        match self.lookup.poll() {
            Step::Need(range) if range.end <= self.directory.size && range.start < range.end => {
                let wanted = records_of(pieces, &range);
                let len = (range.end - range.start) as usize;
                self.gather = Some((range.start, vec![0; len], len));
                Next::Fetch(wanted)
            }
            Step::Need(_) => Next::Broken("a directory's header points outside of it"),
            Step::Malformed(malformed) => Next::Broken(malformed.0),
            Step::Absent => Next::Absent(self.components[..=self.at].join(&b'/')),
            Step::Found(entry) => {
                self.at += 1;
                let Some(name) = self.components.get(self.at) else { return Next::Found(Box::new(entry)) };
                let Node::Directory(blob) = entry.node else {
                    return Next::Absent(self.components[..=self.at].join(&b'/'));
                };
                let (at, lookup) = (self.at, Lookup::new(name, blob.size));
                let components = std::mem::take(&mut self.components);
                *self = Self { lookup, at, ..Self::new(blob, components) };
                self.next()
            }
        }
    }
}

/// The records that hold `range`, piece by piece: (piece, its offset, bit i = record i).
fn records_of(pieces: &[(Blob, u64)], range: &Range<u64>) -> Vec<(Blob, u64, u16)> {
    let mut wanted = Vec::new();
    for (blob, offset) in pieces {
        let from = range.start.max(*offset);
        let to = range.end.min(offset + blob.size);
        if from < to {
            let first = (from - offset) / RECORD_PLAIN as u64;
            let last = (to - 1 - offset) / RECORD_PLAIN as u64;
            let mask = (first..=last).fold(0u16, |mask, record| mask | 1 << record);
            wanted.push((blob.clone(), *offset, mask));
        }
    }
    wanted
}

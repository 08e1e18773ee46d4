//! Reading a whole blob into memory: directories and extent lists.

use std::collections::BTreeMap;

use super::assemble::TaskId;
use crate::limits::RECORD_PLAIN;
use crate::wire::Malformed;
use crate::wire::extents::ExtentList;
use crate::wire::reference::Blob;

/// One blob being read. Its owner starts a task for every piece that [`BlobRead::poll_piece`] names and
/// hands in the records.
pub(super) struct BlobRead {
    out: Vec<u8>,
    /// Blobs to be fetched: (blob, offset of its plaintext in `out`).
    queue: Vec<(Blob, usize)>,
    pieces: BTreeMap<TaskId, PieceRead>,
}

struct PieceRead {
    depth: u8,
    blob: Blob,
    offset: usize,
    bytes: Vec<u8>,
    left: u32,
}

impl BlobRead {
    /// Will read all of `blob`. The caller has checked that its size is one it wants to hold.
    pub(super) fn new(blob: &Blob) -> Self {
        let queue = if blob.size == 0 { Vec::new() } else { vec![(blob.clone(), 0)] };
        Self { out: vec![0; blob.size as usize], queue, pieces: BTreeMap::new() }
    }

    /// The next piece to start: all its records are wanted.
    pub(super) fn poll_piece(&mut self) -> Option<(Blob, usize)> {
        self.queue.pop()
    }

    /// The task for a piece was started.
    pub(super) fn started(&mut self, task: TaskId, blob: Blob, offset: usize) {
        let (len, left) = blob.top.as_ref().map_or((0, 0), |top| (top.plain_len as usize, top.records()));
        self.pieces.insert(task, PieceRead { depth: blob.depth, blob, offset, bytes: vec![0; len], left });
    }

    /// A record of one of the pieces.
    pub(super) fn record(&mut self, task: TaskId, record: u32, plain: &[u8]) -> Result<(), Malformed> {
        let Some(piece) = self.pieces.get_mut(&task) else { return Ok(()) };
        let at = record as usize * RECORD_PLAIN;
        piece.bytes[at..at + plain.len()].copy_from_slice(plain);
        piece.left -= 1;
        if piece.left > 0 {
            return Ok(());
        }
        let piece = self.pieces.remove(&task).expect("found above");
        if piece.depth == 0 {
            let end = piece.offset + piece.bytes.len();
            let place = self.out.get_mut(piece.offset..end).ok_or(Malformed("blob: longer than it says"))?;
            place.copy_from_slice(&piece.bytes);
            return Ok(());
        }
        let list = ExtentList::new_checked(&piece.bytes, &piece.blob)?;
        let mut offset = piece.offset;
        for child in list.iter() {
            let size = child.size as usize;
            self.queue.push((child, offset));
            offset += size;
        }
        Ok(())
    }

    /// The plaintext, once all of it is here.
    pub(super) fn finished(&mut self) -> Option<Vec<u8>> {
        (self.queue.is_empty() && self.pieces.is_empty()).then(|| std::mem::take(&mut self.out))
    }
}

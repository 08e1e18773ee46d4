//! Restoring files: in the order of their chunks, checking what an earlier run left, then the times.

use super::super::restore::{Active, Checking, Piece};
use super::super::tree::Link;
use super::{Job, Phase, Purpose, ReadFor};
use crate::base::SliceBuf;
use crate::base::fileop::FileAct;
use crate::chunk::seal::PieceKey;
use crate::limits::{FILES_PER_JOB_MAX, GET_AHEAD_BYTES, GET_LISTS_BYTES, RECORD_PLAIN};
use crate::wire::extents::ExtentList;
use crate::wire::reference::Blob;

impl Job {
    pub(super) fn make_dir(&mut self, next: u32) -> bool {
        if !self.room() {
            return false;
        }
        match self.tree.dirs.get(next as usize) {
            Some(dir) => {
                self.ops.push_back(FileAct::Directory {
                    dir: next,
                    parent: dir.parent,
                    name: dir.name.clone(),
                });
                self.phase = Phase::Dirs(next + 1);
            }
            None => self.phase = Phase::Files(0),
        }
        true
    }

    pub(super) fn restore(&mut self, position: usize) -> bool {
        let mut went_on = self.finished_lists();
        self.release(position);
        for file in std::mem::take(&mut self.attention) {
            went_on |= self.go_on_restoring(file);
        }
        match self.order.get(position) {
            Some(&file) if self.room() && !self.full() => {
                self.phase = Phase::Files(position + 1);
                self.start_file(file);
                true
            }
            None if self.active.is_empty()
                && self.wholes == 0
                && self.ahead == 0
                && self.outcome.is_none() =>
            {
                self.phase = Phase::Links(0);
                true
            }
            _ => went_on,
        }
    }

    /// Whether what is under way must come to an end before another file is begun.
    fn full(&self) -> bool {
        self.ahead >= GET_AHEAD_BYTES as u64
            || self.lists >= GET_LISTS_BYTES
            || self.wholes + self.active.len() >= FILES_PER_JOB_MAX
    }

    /// Lets files go on whose chunk has no file that is still to be opened, or whose fellows must wait anyhow.
    fn release(&mut self, position: usize) {
        let next = self.order.get(position).filter(|_| !self.full());
        let next =
            next.and_then(|file| self.tree.files[*file as usize].blob.top.as_ref()).map(|top| top.chunk);
        let attention = &mut self.attention;
        self.opening.retain(|chunk, opening| {
            let wait = opening.unanswered > 0 || Some(*chunk) == next;
            if !wait {
                attention.extend(opening.files.drain(..));
            }
            wait
        });
    }

    /// One record of a file needs nothing more; the last one finishes the file.
    pub(super) fn record_settled(&mut self, file: u32) {
        let Some(active) = self.active.get_mut(&file) else { return };
        active.records_left = active.records_left.saturating_sub(1);
        if active.records_left == 0 {
            self.lists = self.lists.saturating_sub(active.lists);
            self.active.remove(&file);
            let entry = &self.tree.files[file as usize];
            self.ops.push_back(FileAct::Finish { file, mode: entry.mode, mtime: entry.mtime });
            self.progress.files_done += 1;
        }
    }

    fn start_file(&mut self, file: u32) {
        let entry = &self.tree.files[file as usize];
        let (parent, name, blob) = (entry.parent, entry.name.clone(), entry.blob.clone());
        if blob.size == 0 {
            let (mode, mtime) = (entry.mode, entry.mtime);
            let tag = [0; 16];
            self.ops.push_back(FileAct::Whole {
                parent,
                name,
                data: None,
                start: 0,
                len: 0,
                tag,
                mode,
                mtime,
            });
            self.progress.files_done += 1;
        } else if !self.resumed && blob.size <= RECORD_PLAIN as u64 && blob.depth == 0 {
            self.wholes += 1;
            self.ahead += blob.size;
            self.start(&blob, 1, Purpose::Whole(file));
        } else {
            self.ops.push_back(FileAct::Open { file, parent, name, size: blob.size });
            // Operations are done in order, so only a journal is worth waiting for.
            let open = !self.resumed;
            let active = Active::new(&blob, open);
            self.lists += active.lists;
            self.active.insert(file, active);
            match blob.top {
                Some(top) if !open => self.opening.entry(top.chunk).or_default().unanswered += 1,
                _ => drop(self.attention.insert(file)),
            }
        }
    }

    /// Expands a file's blobs while there is room.
    fn go_on_restoring(&mut self, file: u32) -> bool {
        let mut went_on = false;
        while let Some(active) = self.active.get_mut(&file) {
            if !active.open || active.reading_list || active.queue.is_empty() {
                break;
            }
            if !self.room() || self.ahead >= GET_AHEAD_BYTES as u64 {
                self.attention.insert(file);
                break;
            }
            let Some(active) = self.active.get_mut(&file) else { break };
            let Some((blob, offset)) = active.queue.pop_front() else { break };
            went_on = true;
            if blob.depth > 0 {
                active.reading_list = true;
                let size = blob.top.as_ref().map_or(0, |top| u64::from(top.plain_len));
                let list = Blob { size, depth: 0, top: blob.top.clone() };
                self.read(list, ReadFor::FileList(file, blob, offset));
                break;
            }
            let Some(top) = blob.top.clone() else { continue };
            let piece = Piece { locator: top, offset };
            let journaled = active.journaled(&piece);
            if journaled == 0 {
                self.fetch_piece(file, &blob, offset, u16::MAX);
            } else if !self.check_piece(file, piece, journaled) {
                if let Some(active) = self.active.get_mut(&file) {
                    active.queue.push_front((blob, offset));
                }
                self.attention.insert(file);
                break;
            }
        }
        went_on
    }

    fn fetch_piece(&mut self, file: u32, blob: &Blob, offset: u64, records: u16) {
        let Some(locator) = blob.top.clone() else { return };
        let piece = Piece { locator, offset };
        let records = records & piece.all();
        if records == 0 {
            return;
        }
        for record in (0..piece.locator.records()).filter(|r| records >> r & 1 == 1) {
            self.ahead += u64::from(piece.record_len(record));
        }
        self.start(blob, records, Purpose::File(file, piece));
    }

    fn finished_lists(&mut self) -> bool {
        let mut went_on = false;
        for (bytes, purpose) in self.finished_reads() {
            let ReadFor::FileList(file, blob, offset) = purpose else { continue };
            let Ok(list) = ExtentList::new_checked(&bytes, &blob) else {
                self.fail("an extent list of this reference is malformed: it is damaged or hostile");
                return true;
            };
            let Some(active) = self.active.get_mut(&file) else { continue };
            let mut at = offset;
            let mut children = Vec::new();
            for child in list.iter() {
                let size = child.size;
                children.push((child, at));
                at += size;
            }
            children.into_iter().rev().for_each(|child| active.queue.push_front(child));
            active.reading_list = false;
            self.attention.insert(file);
            went_on = true;
        }
        went_on
    }

    // ---- resuming ---------------------------------------------------------------------------------

    /// Reads back what an earlier run wrote of a piece. False when no buffers are free just now.
    fn check_piece(&mut self, file: u32, piece: Piece, journaled: u16) -> bool {
        if self.pool.available() < journaled.count_ones() as usize {
            return false;
        }
        let first = piece.first_record();
        let mut waiting = 0;
        for record in (0..piece.locator.records()).filter(|r| journaled >> r & 1 == 1) {
            let Some(into) = self.pool.lease() else { return false };
            let offset = piece.offset + u64::from(record) * RECORD_PLAIN as u64;
            let len = piece.record_len(record);
            self.ahead += u64::from(len);
            self.ops.push_back(FileAct::ReadBack {
                file,
                offset,
                into,
                len,
                record: first + u64::from(record),
            });
            waiting += 1;
        }
        let missing = piece.all() & !journaled;
        let key = PieceKey::new(&piece.locator.key);
        let checking = Checking { locator: piece.locator, key, offset: piece.offset, waiting, missing };
        if let Some(active) = self.active.get_mut(&file) {
            active.checking.insert(first, checking);
        }
        true
    }

    /// A record was read back: it counts when sealing it again gives the tag that it was verified by.
    pub(super) fn checked(&mut self, file: u32, number: u64, data: &mut SliceBuf, len: u32) {
        let Some(active) = self.active.get_mut(&file) else { return };
        let Some((&first, checking)) = active.checking.range_mut(..=number).next_back() else { return };
        let record = (number - first) as u32;
        let piece = Piece { locator: checking.locator.clone(), offset: checking.offset };
        let wanted = piece.record_len(record);
        self.ahead = self.ahead.saturating_sub(u64::from(wanted));
        let tag = active.journal.get(&number).copied();
        let same = len == wanted
            && tag == Some(checking.key.reseal_tag(record, &mut data[..len as usize]))
            && checking.waiting > 0;
        checking.waiting -= 1;
        if !same {
            checking.missing |= 1 << record;
        }
        let done = checking.waiting == 0;
        let missing = checking.missing;
        if done {
            active.checking.remove(&first);
        }
        if same {
            self.progress.bytes_done += u64::from(len);
            self.progress.bytes_resumed += u64::from(len);
            self.record_settled(file);
        }
        if done && missing != 0 {
            let blob = Blob { size: u64::from(piece.locator.plain_len), depth: 0, top: Some(piece.locator) };
            self.fetch_piece(file, &blob, piece.offset, missing);
        }
    }

    // ---- tidying ----------------------------------------------------------------------------------

    pub(super) fn make_link(&mut self, next: usize) -> bool {
        if !self.room() {
            return false;
        }
        match self.tree.links.get(next) {
            Some(link) => {
                let Link { parent, name, target, mtime } = link;
                let (name, target) = (name.clone(), target.clone());
                self.ops.push_back(FileAct::Symlink { parent: *parent, name, target, mtime: *mtime });
                self.phase = Phase::Links(next + 1);
            }
            None => self.phase = Phase::Times(self.tree.dirs.len() as u32),
        }
        true
    }

    pub(super) fn finish_dir(&mut self, left: u32) -> bool {
        if !self.room() {
            return false;
        }
        if left <= 1 {
            // The journal is needed until all else is known to have gone well.
            if !self.ops.is_empty() || self.ops_waiting > 0 {
                return false;
            }
            self.ops.push_back(FileAct::End { complete: true });
            self.phase = Phase::Ending;
            return true;
        }
        let dir = left - 1;
        let entry = &self.tree.dirs[dir as usize];
        self.ops.push_back(FileAct::FinishDirectory { dir, mode: entry.mode, mtime: entry.mtime });
        self.phase = Phase::Times(dir);
        true
    }
}

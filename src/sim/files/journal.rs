//! A job's journal on the simulated disk: the bytes and the rules of `io::files::journal`.

use std::collections::BTreeMap;

use super::disk::{Disk, Full, Inode, Kind, OLD};
use crate::base::fileop::JournalRecord;
use crate::crypto::hash::blake3;

const HEAD: usize = 32;
const RECORD: usize = 44;
const BODY: usize = 40;
const MAGIC: &[u8; 16] = b"tornet get 1\n\0\0\0";

/// The record number of a complete file; its tag is a stamp.
pub const FINISHED: u64 = u64::MAX;

/// Names an entry within a job.
pub type PathHash = [u8; 16];

/// An open journal.
pub struct Journal {
    path: Vec<u8>,
    inode: Inode,
    old: BTreeMap<(PathHash, u64), [u8; 16]>,
    is_named: bool,
}

impl Journal {
    /// The file that a journal of this name lies in.
    pub fn path(id: &[u8; 16]) -> Vec<u8> {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        [OLD, b"/", hex.as_bytes()].concat()
    }

    /// Opens or creates the journal of that name.
    pub fn open(disk: &mut Disk, id: &[u8; 16]) -> Result<Self, Full> {
        let path = Self::path(id);
        let found = disk.find(&path);
        let inode = found.unwrap_or_else(|| disk.create(&path, Kind::File(Vec::new()), 0o600));
        let (old, len) = read(disk.bytes(inode), id);
        disk.resize(inode, len);
        if len == 0 {
            disk.write(inode, 0, &[&MAGIC[..], id].concat())?;
        }
        Ok(Self { path, inode, old, is_named: false })
    }

    /// Whether an earlier run wrote anything.
    pub fn resumed(&self) -> bool {
        !self.old.is_empty()
    }

    /// What an earlier run wrote of one file, and the stamp of the finished file if it was finished.
    pub fn of(&self, path: &PathHash) -> (Vec<JournalRecord>, Option<[u8; 16]>) {
        let entries = self.old.range((*path, 0)..=(*path, FINISHED));
        let mut records: Vec<_> =
            entries.map(|((_, record), tag)| JournalRecord { record: *record, tag: *tag }).collect();
        let finished = records.pop_if(|last| last.record == FINISHED).map(|last| last.tag);
        (records, finished)
    }

    /// Appends one entry.
    pub fn append(
        &mut self,
        disk: &mut Disk,
        path: &PathHash,
        record: u64,
        tag: &[u8; 16],
    ) -> Result<(), Full> {
        let mut bytes = [&path[..], &record.to_le_bytes(), tag].concat();
        bytes.extend(&blake3(&[&bytes])[..RECORD - BODY]);
        let end = disk.bytes(self.inode).len();
        disk.write(self.inode, end, &bytes)
    }

    /// Returns when everything that was appended is on the disk.
    pub fn sync(&mut self, disk: &mut Disk) {
        disk.sync(self.inode);
        if !self.is_named {
            disk.sync_names(OLD);
            self.is_named = true;
        }
    }

    /// Deletes it: the job is complete.
    pub fn remove(self, disk: &mut Disk) {
        disk.unlink(&self.path);
    }
}

/// All whole records, the last of each, and where the journal ends. 0: it is not one of this name.
fn read(bytes: &[u8], id: &[u8; 16]) -> (BTreeMap<(PathHash, u64), [u8; 16]>, usize) {
    let mut entries = BTreeMap::new();
    if bytes.len() < HEAD || bytes[..16] != MAGIC[..] || bytes[16..HEAD] != id[..] {
        return (entries, 0);
    }
    let mut good = HEAD;
    for record in bytes[HEAD..].chunks_exact(RECORD) {
        if blake3(&[&record[..BODY]])[..RECORD - BODY] != record[BODY..] {
            break;
        }
        let path = record[..16].try_into().expect("16 bytes");
        let number = u64::from_le_bytes(record[16..24].try_into().expect("eight bytes"));
        entries.insert((path, number), record[24..BODY].try_into().expect("16 bytes"));
        good += RECORD;
    }
    (entries, good)
}

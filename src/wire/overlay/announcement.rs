//! Records of several chunks in one message, and what becomes of each.

use super::{Contact, Record, SIGNATURE_SIZE, Verdict};
use crate::base::ChunkId;
use crate::limits::ANNOUNCED_CHUNKS_MAX;

/// A provider's records of several chunks, which share their time and contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Until when they hold, seconds since the Unix epoch.
    pub expires: u32,
    /// The provider.
    pub provider: Contact,
    /// Chunks and signatures, 1 to [`ANNOUNCED_CHUNKS_MAX`].
    pub(super) signed: Vec<(ChunkId, [u8; SIGNATURE_SIZE])>,
}

impl Announcement {
    /// Of one chunk.
    pub fn one(chunk: ChunkId, record: &Record) -> Self {
        let signed = vec![(chunk, record.signature)];
        Self { expires: record.expires, provider: record.provider, signed }
    }

    /// Of several; `None` of none, of too many, or where times or contacts differ.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a (ChunkId, Record)>) -> Option<Self> {
        let mut records = records.into_iter();
        let (chunk, first) = records.next()?;
        let mut all = Self::one(*chunk, first);
        for (chunk, record) in records {
            let alike = record.expires == all.expires && record.provider == all.provider;
            if !alike || all.signed.len() >= ANNOUNCED_CHUNKS_MAX {
                return None;
            }
            all.signed.push((*chunk, record.signature));
        }
        Some(all)
    }

    /// The record of each chunk, as it would come alone.
    pub fn records(&self) -> impl Iterator<Item = (ChunkId, Record)> + '_ {
        let record = |signature| Record { expires: self.expires, provider: self.provider, signature };
        self.signed.iter().map(move |(chunk, signature)| (*chunk, record(*signature)))
    }

    /// Chunks.
    pub fn count(&self) -> usize {
        self.signed.len()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.expires.to_le_bytes());
        self.provider.put(out);
        out.push(self.signed.len() as u8);
        for (chunk, signature) in &self.signed {
            out.extend_from_slice(&chunk.0);
            out.extend_from_slice(signature);
        }
    }
}

/// What a keeper says of one announced chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Whether it keeps the record.
    pub verdict: Verdict,
    /// Other providers of the chunk that it knows.
    pub hosts: u8,
    /// How often the chunk was asked for here lately.
    pub queries: u16,
}

//! Records that one keeper hands another, who is new in the region.

use super::{Reader, Record};
use crate::base::ChunkId;
use crate::limits::{ANSWER_RECORDS_MAX, HANDED_RECORDS_MAX, OVERLAY_MESSAGE_MAX};
use crate::wire::Malformed;

/// Bytes of a message around its records: kind, number, more, count.
const AROUND: usize = 1 + 4 + 1 + 1;

/// A part of what a keeper keeps, in the order of the chunks. All that it hands on of a chunk is in one part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handed {
    /// Whether there are further chunks behind these.
    pub more: bool,
    /// At most [`HANDED_RECORDS_MAX`].
    records: Vec<(ChunkId, Record)>,
}

impl Handed {
    /// Takes the first chunks, as many as fit. Chunks must come in their order, with [`crate::limits::ANSWER_RECORDS_MAX`] records each at most.
    pub fn first(chunks: impl IntoIterator<Item = (ChunkId, Vec<Record>)>) -> Self {
        let (mut out, mut size) = (Self::default(), AROUND);
        for (chunk, records) in chunks {
            debug_assert!(out.records.last().is_none_or(|(before, _)| *before < chunk));
            let more: usize = records.iter().map(|record| 20 + record.size()).sum();
            let fits =
                size + more <= OVERLAY_MESSAGE_MAX && out.records.len() + records.len() <= HANDED_RECORDS_MAX;
            if !fits {
                out.more = true;
                break;
            }
            size += more;
            out.records.extend(records.into_iter().map(|record| (chunk, record)));
        }
        out
    }

    /// Chunks and records, in the order of the chunks.
    pub fn records(&self) -> &[(ChunkId, Record)] {
        &self.records
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[u8::from(self.more), self.records.len() as u8]);
        for (chunk, record) in &self.records {
            out.extend_from_slice(&chunk.0);
            record.put(out);
        }
    }
}

impl Reader<'_> {
    pub(super) fn handed(&mut self) -> Result<Handed, Malformed> {
        let [more, count] = self.take()?;
        // Of nothing there is no more.
        if more > 1 || usize::from(count) > HANDED_RECORDS_MAX || (more, count) == (1, 0) {
            return Err(Malformed("overlay: handed"));
        }
        let mut records: Vec<(ChunkId, Record)> = Vec::with_capacity(count.into());
        for _ in 0..count {
            let chunk = ChunkId(self.take()?);
            let same = records.iter().rev().take_while(|(before, _)| *before == chunk).count();
            if records.last().is_some_and(|(before, _)| *before > chunk) || same >= ANSWER_RECORDS_MAX {
                return Err(Malformed("overlay: order"));
            }
            records.push((chunk, self.record()?));
        }
        Ok(Handed { more: more == 1, records })
    }
}

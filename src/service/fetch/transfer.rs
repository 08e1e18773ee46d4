//! One request under way: where the bytes of its answer go.

use super::Target;
use crate::base::{ChunkId, SliceBuf, Time};
use crate::limits::SLICE_SIZE;
use crate::wire::Malformed;
use crate::wire::chunkmsg::{REPLY_HEAD_LEN, ReplyHead, Request, Status};

/// An answer in the making. Its layout is known from the request: head, slice list when asked for,
/// slices in ascending order; so bytes are placed whatever the order in which they come.
pub(super) struct Transfer {
    target: Target,
    mask: u16,
    head: [u8; REPLY_HEAD_LEN],
    head_got: usize,
    status: Option<Status>,
    malformed: bool,
    list: Vec<u8>,
    list_got: usize,
    slices: Vec<Slice>,
    /// Slices complete and not yet taken.
    ready: Vec<usize>,
    attention: bool,
    last_progress: Time,
}

struct Slice {
    index: u32,
    len: usize,
    got: usize,
    data: Option<SliceBuf>,
}

impl Transfer {
    pub(super) fn new(now: Time, target: Target, request: &Request, buffers: Vec<(u32, SliceBuf)>) -> Self {
        let list = if request.want_list { vec![0; 32 * target.slices() as usize] } else { Vec::new() };
        let slices = buffers
            .into_iter()
            .map(|(index, data)| Slice { index, len: target.slice_len(index), got: 0, data: Some(data) })
            .collect();
        Self {
            target,
            mask: request.mask,
            head: [0; REPLY_HEAD_LEN],
            head_got: 0,
            status: None,
            malformed: false,
            list,
            list_got: 0,
            slices,
            ready: Vec::new(),
            attention: false,
            last_progress: now,
        }
    }

    pub(super) fn chunk(&self) -> ChunkId {
        self.target.id
    }

    pub(super) fn last_progress(&self) -> Time {
        self.last_progress
    }

    pub(super) fn reply_len(&self) -> u64 {
        (REPLY_HEAD_LEN + self.list.len() + self.slices.iter().map(|s| s.len).sum::<usize>()) as u64
    }

    /// Places bytes of the answer; anything past its end is a malformed answer.
    pub(super) fn data(&mut self, now: Time, offset: u64, mut bytes: &[u8]) {
        self.last_progress = now;
        let Ok(mut at) = usize::try_from(offset) else {
            self.malformed = true;
            self.attention = true;
            return;
        };
        if at < REPLY_HEAD_LEN {
            let n = bytes.len().min(REPLY_HEAD_LEN - at);
            self.head[at..at + n].copy_from_slice(&bytes[..n]);
            self.head_got += n;
            if self.head_got == REPLY_HEAD_LEN {
                self.read_head();
            }
            bytes = &bytes[n..];
            at += n;
        }
        if bytes.is_empty() {
            return;
        }
        let list_at = at - REPLY_HEAD_LEN;
        if list_at < self.list.len() {
            let n = bytes.len().min(self.list.len() - list_at);
            self.list[list_at..list_at + n].copy_from_slice(&bytes[..n]);
            self.list_got += n;
            self.attention |= self.list_got == self.list.len();
            bytes = &bytes[n..];
            at += n;
        }
        let mut at = at - REPLY_HEAD_LEN - self.list.len().min(at - REPLY_HEAD_LEN);
        while !bytes.is_empty() {
            // Every slice but the last of the chunk, which comes last, is of full size.
            let position = at / SLICE_SIZE;
            let within = at % SLICE_SIZE;
            let Some(slice) = self.slices.get_mut(position).filter(|slice| within < slice.len) else {
                self.malformed = true;
                self.attention = true;
                return;
            };
            let n = bytes.len().min(slice.len - within);
            if let Some(data) = &mut slice.data {
                data[within..within + n].copy_from_slice(&bytes[..n]);
            }
            slice.got += n;
            if slice.got == slice.len {
                self.ready.push(position);
                self.attention = true;
            }
            bytes = &bytes[n..];
            at += n;
        }
    }

    fn read_head(&mut self) {
        self.attention = true;
        match ReplyHead::parse(&self.head) {
            Ok(head) => {
                let honest = head.status != Status::Ok || (head.chunk_len == self.target.len && head.mask == self.mask);
                self.malformed |= !honest;
                self.status = Some(head.status);
            }
            Err(_) => self.malformed = true,
        }
    }

    /// Whether something became complete since the last question.
    pub(super) fn wants_attention(&mut self) -> bool {
        std::mem::take(&mut self.attention)
    }

    /// What the answer's head says, once it is here.
    pub(super) fn status(&self) -> Option<Result<Status, Malformed>> {
        if self.malformed { Some(Err(Malformed("chunk reply"))) } else { self.status.map(Ok) }
    }

    /// The slice list, once complete; `None` before, and when none was asked for.
    pub(super) fn take_list(&mut self) -> Option<Vec<u8>> {
        (!self.list.is_empty() && self.list_got == self.list.len()).then(|| self.list.clone())
    }

    /// A complete slice, each once.
    pub(super) fn take_slice(&mut self) -> Option<(u32, SliceBuf)> {
        let position = self.ready.pop()?;
        let slice = self.slices.get_mut(position)?;
        slice.data.take().map(|data| (slice.index, data))
    }

    /// Gives a slice back that failed its check.
    pub(super) fn put_back(&mut self, index: u32, data: SliceBuf) {
        if let Some(slice) = self.slices.iter_mut().find(|slice| slice.index == index) {
            slice.data = Some(data);
        }
    }

    /// The slices that never came.
    pub(super) fn into_unfinished(self) -> Vec<u32> {
        self.slices.into_iter().filter(|slice| slice.data.is_some()).map(|slice| slice.index).collect()
    }
}

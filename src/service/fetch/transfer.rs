//! One request under way: where the bytes of its answer go.

use std::time::Duration;

use super::Target;
use crate::base::{SliceBuf, Time};
use crate::limits::{FETCH_SLICE_MS_MAX, FETCH_STALL_MS};
use crate::wire::Malformed;
use crate::wire::chunkmsg::{Part, ReplyHead, ReplyLayout, SliceRequest, Status};

/// An answer in the making. Its layout is known from the request: head, slice list when asked for,
/// slices in ascending order; so bytes are placed whatever the order in which they come.
pub(super) struct Transfer {
    target: Target,
    layout: ReplyLayout,
    head: [u8; ReplyHead::LEN],
    head_got: usize,
    status: Option<Status>,
    malformed: bool,
    /// The head speaks of a chunk of another length.
    of_another: bool,
    /// Bytes came from behind the end of the answer.
    too_long: bool,
    retry_ms: u32,
    list: Vec<u8>,
    list_got: usize,
    slices: Vec<Slice>,
    /// Slices complete and not yet taken.
    ready: Vec<usize>,
    attention: bool,
    last_progress: Time,
    /// When the last whole slice came.
    last_slice: Time,
}

struct Slice {
    index: u32,
    len: usize,
    got: usize,
    data: Option<SliceBuf>,
}

impl Transfer {
    pub(super) fn new(
        now: Time,
        target: Target,
        request: &SliceRequest,
        buffers: Vec<(u32, SliceBuf)>,
    ) -> Self {
        let layout = ReplyLayout::new(target.len, request.mask, request.list);
        let list = layout.range(Part::List).map_or(0, |range| range.end - range.start);
        let slices = buffers
            .into_iter()
            .map(|(index, data)| Slice { index, len: target.slice_len(index), got: 0, data: Some(data) })
            .collect();
        Self {
            target,
            layout,
            head: [0; ReplyHead::LEN],
            head_got: 0,
            status: None,
            malformed: false,
            of_another: false,
            too_long: false,
            retry_ms: 0,
            list: vec![0; list as usize],
            list_got: 0,
            slices,
            ready: Vec::new(),
            attention: false,
            last_progress: now,
            last_slice: now,
        }
    }

    pub(super) fn chunk(&self) -> Target {
        self.target
    }

    pub(super) fn last_progress(&self) -> Time {
        self.last_progress
    }

    /// When it has brought nothing, or no whole slice, for too long.
    pub(super) fn stalls_at(&self) -> Time {
        let silent = self.last_progress + Duration::from_millis(FETCH_STALL_MS);
        silent.min(self.last_slice + Duration::from_millis(FETCH_SLICE_MS_MAX))
    }

    /// When a peer that is busy may be asked again: not at once, and not later than a silent one.
    pub(super) fn retry_after(&self) -> Duration {
        Duration::from_millis(u64::from(self.retry_ms).clamp(10, FETCH_STALL_MS))
    }

    /// Whether the head speaks of a chunk of another length.
    pub(super) fn is_of_another_chunk(&self) -> bool {
        self.of_another
    }

    /// Whether slices are still to come.
    pub(super) fn is_unfinished(&self) -> bool {
        self.slices.iter().any(|slice| slice.data.is_some())
    }

    pub(super) fn reply_len(&self) -> u64 {
        self.layout.total()
    }

    /// Places bytes of the answer; anything past its end is a malformed answer, unless the head tells, sooner or
    /// later, that it is the answer for a longer chunk.
    pub(super) fn data(&mut self, now: Time, mut offset: u64, mut bytes: &[u8]) {
        self.last_progress = now;
        while !bytes.is_empty() {
            let Some(spot) = self.layout.locate(offset) else {
                self.too_long = true;
                self.attention = true;
                return;
            };
            let n = bytes.len().min(spot.rest as usize);
            let (part, rest) = bytes.split_at(n);
            let at = spot.offset as usize..spot.offset as usize + n;
            match spot.part {
                Part::Head => {
                    self.head[at].copy_from_slice(part);
                    self.head_got += n;
                    if self.head_got == ReplyHead::LEN {
                        self.read_head();
                    }
                }
                Part::List => {
                    self.list[at].copy_from_slice(part);
                    self.list_got += n;
                    self.attention |= self.list_got == self.list.len();
                }
                Part::Slice(index) => self.place(now, u32::from(index), at, part),
            }
            bytes = rest;
            offset += n as u64;
        }
    }

    fn place(&mut self, now: Time, index: u32, at: std::ops::Range<usize>, bytes: &[u8]) {
        let Some(position) = self.slices.iter().position(|slice| slice.index == index) else { return };
        let slice = &mut self.slices[position];
        if let Some(data) = &mut slice.data {
            data[at].copy_from_slice(bytes);
        }
        slice.got += bytes.len();
        if slice.got == slice.len {
            self.ready.push(position);
            self.last_slice = now;
            self.attention = true;
        }
    }

    fn read_head(&mut self) {
        self.attention = true;
        match ReplyHead::parse(&self.head) {
            Ok(head) => {
                let wanted = self.layout.head();
                let honest =
                    head.status != Status::Ok || head == ReplyHead { chunk_len: head.chunk_len, ..wanted };
                self.malformed |= !honest;
                self.of_another = head.status == Status::Ok && head.chunk_len != wanted.chunk_len;
                self.retry_ms = head.retry_ms;
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
        let too_long = self.too_long && self.status.is_some() && !self.of_another;
        if self.malformed || too_long { Some(Err(Malformed("chunk reply"))) } else { self.status.map(Ok) }
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

//! The sending half of a stream: runs of buffered bytes and sources one behind another, what of them was
//! sent, arrived, or must be sent again.

use std::collections::VecDeque;
use std::ops::Range;

use super::{SourceFault, SourceId, SourceRead};
use crate::base::RangeSet;
use crate::limits::{STREAM_SEGMENTS_MAX, STREAM_SEND_BUFFER, STREAM_WINDOW};

/// Buffered bytes are kept, and freed, in runs of this size.
const RUN: usize = 16 << 10;

#[derive(Debug)]
struct Segment {
    start: u64,
    len: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Source(SourceId),
}

/// Where the end of the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fin {
    /// More may be written.
    Open,
    /// Ended by the application; the peer must be told (again).
    Wanted,
    /// Told.
    Sent,
    /// Known to the peer.
    Acked,
}

/// What to put into one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the stream.
    pub range: Range<u64>,
    /// Whether the stream ends there.
    pub fin: bool,
    /// Whether they were sent before.
    pub again: bool,
}

/// See the module.
#[derive(Debug)]
pub struct SendHalf {
    segments: VecDeque<Segment>,
    buffered: usize,
    /// Bytes that the application gave so far.
    end: u64,
    /// First byte never sent.
    next: u64,
    /// First byte not known to have arrived.
    floor: u64,
    acked: RangeSet,
    lost: RangeSet,
    /// The peer's limit.
    max: u64,
    fin: Fin,
    /// Code and whether the peer knows.
    reset: Option<(u64, bool)>,
    wants_room: bool,
    /// The segment that was read last: the next packet mostly goes on there.
    reading: usize,
}

impl SendHalf {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self {
            segments: VecDeque::new(),
            buffered: 0,
            end: 0,
            next: 0,
            floor: 0,
            acked: RangeSet::new(),
            lost: RangeSet::new(),
            max: STREAM_WINDOW,
            fin: Fin::Open,
            reset: None,
            wants_room: false,
            reading: 0,
        }
    }

    /// Whether the application may still add bytes.
    pub fn is_open(&self) -> bool {
        self.fin == Fin::Open && self.reset.is_none()
    }

    /// Whether everything is settled with the peer.
    pub fn is_done(&self) -> bool {
        match self.reset {
            Some((_, known)) => known,
            None => self.fin == Fin::Acked && self.floor == self.end,
        }
    }

    /// Takes as many bytes as the buffer has room for; says how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let room =
            if self.segments.len() < STREAM_SEGMENTS_MAX { STREAM_SEND_BUFFER - self.buffered } else { 0 };
        let take = bytes.len().min(room);
        self.wants_room = take < bytes.len();
        let mut rest = &bytes[..take];
        while !rest.is_empty() {
            let run = match self.segments.back_mut() {
                Some(Segment { content: Content::Bytes(run), len, .. }) if run.len() < RUN => {
                    let fits = rest.len().min(RUN - run.len());
                    *len += fits as u64;
                    run.extend_from_slice(&rest[..fits]);
                    fits
                }
                _ => {
                    let fits = rest.len().min(RUN);
                    let content = Content::Bytes(rest[..fits].to_vec());
                    self.segments.push_back(Segment { start: self.end, len: fits as u64, content });
                    fits
                }
            };
            self.end += run as u64;
            rest = &rest[run..];
        }
        self.buffered += take;
        take
    }

    /// Appends all of a source. False when too many pieces wait already.
    pub fn attach(&mut self, source: SourceId, len: u64) -> bool {
        if self.segments.len() >= STREAM_SEGMENTS_MAX {
            return false;
        }
        if len > 0 {
            self.segments.push_back(Segment { start: self.end, len, content: Content::Source(source) });
            self.end += len;
        }
        true
    }

    /// No more bytes come.
    pub fn finish(&mut self) {
        if self.fin == Fin::Open {
            self.fin = Fin::Wanted;
        }
    }

    /// Gives up; false when that was done before or all is settled.
    pub fn reset(&mut self, code: u64) -> bool {
        if self.reset.is_some() || self.is_done() {
            return false;
        }
        self.reset = Some((code, false));
        self.segments.clear();
        self.buffered = 0;
        self.lost.clear();
        self.acked.clear();
        true
    }

    /// Code and final size of a RESET that the peer does not know of.
    pub fn unsettled_reset(&self) -> Option<(u64, u64)> {
        self.reset.filter(|(_, known)| !known).map(|(code, _)| (code, self.next))
    }

    /// The peer knows of the reset.
    pub fn on_reset_acked(&mut self) {
        if let Some((_, known)) = &mut self.reset {
            *known = true;
        }
    }

    /// The peer's limit; true when it opens something.
    pub fn on_max(&mut self, max: u64) -> bool {
        let opens = max > self.max && self.next < self.end;
        self.max = self.max.max(max);
        opens
    }

    /// Whether bytes must be sent again.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Whether there is anything that the peer's stream limit lets through.
    pub fn has_pending(&self) -> bool {
        self.reset.is_none() && (self.has_lost() || self.fin_only() || self.next < self.end.min(self.max))
    }

    fn fin_only(&self) -> bool {
        self.fin == Fin::Wanted && self.next == self.end
    }

    /// Where the next piece will begin.
    pub fn next_offset(&self) -> u64 {
        self.lost.iter().next().map_or(self.next, |lost| lost.start)
    }

    /// A piece without bytes, to make the stream known.
    pub fn nothing(&self) -> Piece {
        Piece { range: 0..0, fin: false, again: true }
    }

    /// What to send next: at most `room` bytes, at most `credit` that the session never sent before.
    pub fn piece(&self, room: usize, credit: u64) -> Option<Piece> {
        if self.reset.is_some() {
            return None;
        }
        let (range, again) = match self.lost.iter().next() {
            Some(lost) => (lost.start..lost.end.min(lost.start + room as u64), true),
            None => {
                let end = self.end.min(self.max).min(self.next.saturating_add(credit.min(room as u64)));
                (self.next..end.max(self.next), false)
            }
        };
        let fin = self.fin != Fin::Open && range.end == self.end;
        let empty = range.start == range.end;
        if empty && !(fin && self.fin == Fin::Wanted) {
            return None;
        }
        Some(Piece { range, fin, again })
    }

    /// A piece leaves; returns bytes that were never sent before.
    pub fn on_sent(&mut self, piece: &Piece) -> u64 {
        let new = piece.range.end.saturating_sub(self.next);
        if piece.again {
            self.lost.remove(piece.range.clone());
        } else {
            self.next = self.next.max(piece.range.end);
        }
        if piece.fin && self.fin == Fin::Wanted {
            self.fin = Fin::Sent;
        }
        new
    }

    /// Copies bytes of the stream.
    pub fn read(
        &mut self,
        range: Range<u64>,
        mut into: &mut [u8],
        sources: &mut impl SourceRead,
    ) -> Result<(), SourceFault> {
        let mut at = range.start;
        let holds = |segment: &Segment| segment.start <= at && at < segment.start + segment.len;
        let mut index = match self.segments.get(self.reading) {
            Some(segment) if holds(segment) => self.reading,
            _ => self.segments.partition_point(|segment| segment.start + segment.len <= at),
        };
        while !into.is_empty() {
            let segment = self.segments.get(index).ok_or(SourceFault)?;
            let skip = at - segment.start;
            let len = usize::try_from(segment.len - skip).unwrap_or(usize::MAX).min(into.len());
            let (head, rest) = into.split_at_mut(len);
            match &segment.content {
                Content::Bytes(run) => head.copy_from_slice(&run[skip as usize..skip as usize + len]),
                Content::Source(source) => sources.read(*source, skip, head)?,
            }
            self.reading = index;
            (into, at, index) = (rest, at + len as u64, index + 1);
        }
        Ok(())
    }

    /// Bytes arrived.
    pub fn on_acked(&mut self, range: Range<u64>, fin: bool) {
        if self.reset.is_some() {
            return;
        }
        if fin {
            self.fin = Fin::Acked;
        }
        if !self.lost.is_empty() {
            self.lost.remove(range.clone());
        }
        if range.start > self.floor {
            self.acked.insert(range);
            return;
        }
        self.floor = self.floor.max(range.end);
        loop {
            match self.acked.iter().next() {
                Some(first) if first.start <= self.floor => self.floor = self.floor.max(first.end),
                _ => break,
            }
            self.acked.pop_first();
        }
        while let Some(front) = self.segments.front() {
            if front.start + front.len > self.floor {
                break;
            }
            if let Content::Bytes(run) = &front.content {
                self.buffered -= run.len();
            }
            self.segments.pop_front();
            self.reading = self.reading.saturating_sub(1);
        }
    }

    /// Bytes were lost; true when something must be sent again.
    pub fn on_lost(&mut self, range: Range<u64>, fin: bool) -> bool {
        if self.reset.is_some() {
            return false;
        }
        if fin && self.fin == Fin::Sent {
            self.fin = Fin::Wanted;
        }
        let range = range.start.max(self.floor)..range.end;
        if self.acked.is_empty() {
            self.lost.insert(range);
        } else {
            for gap in self.acked.gaps(range) {
                self.lost.insert(gap);
            }
        }
        self.has_lost() || self.fin_only()
    }

    /// Whether a writer that was refused can go on; says so once.
    pub fn takes_again(&mut self) -> bool {
        let room = self.buffered <= STREAM_SEND_BUFFER / 2 && self.segments.len() <= STREAM_SEGMENTS_MAX / 2;
        self.is_open() && room && std::mem::take(&mut self.wants_room)
    }

    /// Asks for [`Self::takes_again`].
    pub fn want_room(&mut self) {
        self.wants_room = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Counting;
    impl SourceRead for Counting {
        fn read(&mut self, source: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
            into.iter_mut().enumerate().for_each(|(i, byte)| *byte = (source.0 + offset + i as u64) as u8);
            Ok(())
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Write(u16),
        Attach(u16),
        Send(u16),
        Ack(prop::sample::Index),
        Lose(prop::sample::Index),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1u16..40_000).prop_map(Op::Write),
            (1u16..5_000).prop_map(Op::Attach),
            (1u16..3_000).prop_map(Op::Send),
            any::<prop::sample::Index>().prop_map(Op::Ack),
            any::<prop::sample::Index>().prop_map(Op::Lose),
        ]
    }

    proptest! {
        /// Whatever is lost, every byte arrives in the end, as it was written, and buffers are freed.
        #[test]
        fn every_byte_arrives(ops in prop::collection::vec(op(), 1..120)) {
            let mut half = SendHalf::new();
            let mut model: Vec<u8> = Vec::new();
            let mut flight: Vec<Piece> = Vec::new();
            let mut arrived: Vec<Option<u8>> = Vec::new();
            let mut send = |half: &mut SendHalf, flight: &mut Vec<Piece>, room: usize| {
                let Some(piece) = half.piece(room, u64::MAX) else { return false };
                let mut bytes = vec![0; (piece.range.end - piece.range.start) as usize];
                half.read(piece.range.clone(), &mut bytes, &mut Counting).unwrap();
                arrived.resize(arrived.len().max(piece.range.end as usize), None);
                for (at, byte) in (piece.range.start as usize..).zip(bytes) {
                    assert!(arrived[at].is_none_or(|old| old == byte), "read twice, differently");
                    arrived[at] = Some(byte);
                }
                half.on_sent(&piece);
                flight.push(piece);
                true
            };
            for (turn, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Write(len) => {
                        let bytes: Vec<u8> = (0..len).map(|i| (i as usize * 7 + turn) as u8).collect();
                        let taken = half.write(&bytes);
                        model.extend_from_slice(&bytes[..taken]);
                    }
                    Op::Attach(len) => {
                        prop_assert!(half.attach(SourceId(turn as u64), u64::from(len)));
                        model.extend((0..u64::from(len)).map(|i| (turn as u64 + i) as u8));
                    }
                    Op::Send(room) => { send(&mut half, &mut flight, room.into()); }
                    Op::Ack(index) if !flight.is_empty() => {
                        let piece = flight.swap_remove(index.index(flight.len()));
                        half.on_acked(piece.range, piece.fin);
                    }
                    Op::Lose(index) if !flight.is_empty() => {
                        let piece = flight.swap_remove(index.index(flight.len()));
                        half.on_lost(piece.range, piece.fin);
                    }
                    _ => {}
                }
                prop_assert!(half.buffered <= STREAM_SEND_BUFFER);
            }
            half.finish();
            half.on_max(u64::MAX);
            while send(&mut half, &mut flight, 1400) {}
            prop_assert!(!half.is_done());
            for piece in flight.drain(..) {
                half.on_acked(piece.range, piece.fin);
            }
            prop_assert!(half.is_done() && half.buffered == 0 && half.segments.is_empty());
            let arrived: Vec<u8> = arrived.into_iter().map(|byte| byte.expect("sent")).collect();
            prop_assert_eq!(arrived, model);
        }
    }

    #[test]
    fn keeps_to_both_limits_and_repeats_the_end_until_it_is_known() {
        let mut half = SendHalf::new();
        half.attach(SourceId(0), STREAM_WINDOW + 100);
        half.finish();
        assert_eq!(half.piece(1000, 10).unwrap().range, 0..10);
        let whole = half.piece(usize::MAX >> 1, u64::MAX >> 1).unwrap();
        assert_eq!((whole.range.clone(), whole.fin), (0..STREAM_WINDOW, false));
        half.on_sent(&whole);
        assert_eq!((half.piece(1000, 1000), half.has_pending()), (None, false));
        assert!(half.on_max(STREAM_WINDOW + 100));
        let last = half.piece(1000, 1000).unwrap();
        assert!(last.fin);
        half.on_sent(&last);
        assert!(half.on_lost(last.range.clone(), true) && half.has_lost());
        half.on_acked(last.range.clone(), false);
        let fin = half.piece(1000, 0).expect("the end alone");
        assert_eq!((fin.range.is_empty(), fin.fin), (true, true));
        half.on_sent(&fin);
        half.on_acked(fin.range, true);
        half.on_acked(whole.range, false);
        assert!(half.is_done() && !half.reset(1));
    }
}

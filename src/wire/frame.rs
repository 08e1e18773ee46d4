//! Frames: what an opened packet of type *data* consists of (docs/protocol/stream.md §2).
//!
//! [`frames`] is the checked view: it walks a payload and yields each frame or says which part is
//! malformed; [`Writer`] emits. Numbers are varints ([`super::varint`]); PADDING is skipped.

use std::ops::Range;

use super::{Malformed, varint};
use crate::base::{ChannelId, RangeSet, StreamId};
use crate::limits::ACK_RANGES_MAX;

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_CE: u8 = 0x03;
const RESET: u8 = 0x04;
const STOP: u8 = 0x05;
const MAX_DATA: u8 = 0x06;
const MAX_STREAM_DATA: u8 = 0x07;
const MAX_STREAMS: u8 = 0x08;
const DATAGRAM: u8 = 0x09;
const DATAGRAM_REST: u8 = 0x0a;
/// STREAM takes 0x10 to 0x1f; these bits say which fields follow.
const STREAM: u8 = 0x10;
const STREAM_FIN: u8 = 0x01;
const STREAM_LEN: u8 = 0x02;
const STREAM_OFFSET: u8 = 0x04;
const STREAM_OPEN: u8 = 0x08;

/// One frame of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Asks for an acknowledgement, nothing else.
    Ping,
    /// Says which packets arrived.
    Ack(Ack<'a>),
    /// Bytes of a stream.
    Stream(Stream<'a>),
    /// The sender gives up sending on a stream.
    Reset {
        /// Which stream.
        stream: StreamId,
        /// Why; the channel's own code.
        code: u64,
        /// Bytes of the stream that were sent at most, all of them counted by flow control.
        final_size: u64,
    },
    /// The receiver asks the other side to give up sending on a stream.
    Stop {
        /// Which stream.
        stream: StreamId,
        /// Why; the channel's own code.
        code: u64,
    },
    /// Bytes that may be sent on all streams together since the session began.
    MaxData(u64),
    /// Bytes that may be sent on one stream since it began.
    MaxStreamData {
        /// Which stream.
        stream: StreamId,
        /// Bytes.
        max: u64,
    },
    /// Streams that may be opened since the session began.
    MaxStreams(u64),
    /// An unreliable message.
    Datagram {
        /// For which service.
        channel: ChannelId,
        /// The message.
        bytes: &'a [u8],
    },
}

impl Frame<'_> {
    /// Whether the packet that it lies in must be acknowledged.
    pub fn is_ack_eliciting(&self) -> bool {
        !matches!(self, Frame::Ack(_))
    }
}

/// Bytes of a stream at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Which stream.
    pub stream: StreamId,
    /// The service, on every frame until the opener knows that one of them arrived.
    pub channel: Option<ChannelId>,
    /// Where in the stream, bytes; `offset + bytes.len()` is at most [`varint::MAX`].
    pub offset: u64,
    /// Whether the stream ends behind these bytes.
    pub fin: bool,
    /// The bytes, possibly none.
    pub bytes: &'a [u8],
}

/// An acknowledgement whose ranges were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The largest packet number that arrived.
    pub largest: u64,
    /// How long ago that was when this left, microseconds.
    pub delay_us: u64,
    /// Packets that arrived with ECN's *congestion experienced* so far; 0 when none was ever seen.
    pub ce: u64,
    first: u64,
    rest: &'a [u8],
}

impl Ack<'_> {
    /// The numbers that arrived, as half-open ranges, highest first; 1 to [`ACK_RANGES_MAX`] of them.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut start = self.largest - self.first;
        let mut rest = self.rest;
        let first = start..self.largest + 1;
        std::iter::once(first).chain(std::iter::from_fn(move || {
            let (gap, used) = varint::get(rest)?;
            let (len, more) = varint::get(&rest[used..])?;
            rest = &rest[used + more..];
            let end = start - gap - 1;
            start = end - len - 1;
            Some(start..end)
        }))
    }
}

/// Walks a payload. After the first error nothing more is yielded.
pub fn frames(payload: &[u8]) -> Frames<'_> {
    Frames { rest: payload }
}

/// See [`frames`].
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, rest) = self.rest.split_first()?;
            self.rest = rest;
            if kind != PADDING {
                let frame = self.frame(kind);
                if frame.is_err() {
                    self.rest = &[];
                }
                return Some(frame);
            }
        }
    }
}

impl<'a> Frames<'a> {
    #[inline]
    fn number(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let (value, used) = varint::get(self.rest).ok_or(Malformed(what))?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    fn channel(&mut self) -> Result<ChannelId, Malformed> {
        let number = self.number("frame: channel")?;
        u16::try_from(number).map(ChannelId).map_err(|_| Malformed("frame: channel"))
    }

    fn stream_id(&mut self) -> Result<StreamId, Malformed> {
        self.number("frame: stream").map(StreamId)
    }

    fn bytes(&mut self, explicit: bool) -> Result<&'a [u8], Malformed> {
        let len = if explicit { self.number("frame: length")? as usize } else { self.rest.len() };
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed("frame: length"))?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn frame(&mut self, kind: u8) -> Result<Frame<'a>, Malformed> {
        Ok(match kind {
            0x10..=0x1f => return self.stream(kind),
            PING => Frame::Ping,
            ACK | ACK_CE => return self.ack(kind == ACK_CE),
            RESET => Frame::Reset {
                stream: self.stream_id()?,
                code: self.number("frame: code")?,
                final_size: self.number("frame: final size")?,
            },
            STOP => Frame::Stop { stream: self.stream_id()?, code: self.number("frame: code")? },
            MAX_DATA => Frame::MaxData(self.number("frame: limit")?),
            MAX_STREAM_DATA => {
                Frame::MaxStreamData { stream: self.stream_id()?, max: self.number("frame: limit")? }
            }
            MAX_STREAMS => Frame::MaxStreams(self.number("frame: limit")?),
            DATAGRAM | DATAGRAM_REST => {
                Frame::Datagram { channel: self.channel()?, bytes: self.bytes(kind == DATAGRAM)? }
            }
            _ => return Err(Malformed("frame: kind")),
        })
    }

    #[inline]
    fn stream(&mut self, kind: u8) -> Result<Frame<'a>, Malformed> {
        let stream = self.stream_id()?;
        let channel = if kind & STREAM_OPEN != 0 { Some(self.channel()?) } else { None };
        let offset = if kind & STREAM_OFFSET != 0 { self.number("frame: offset")? } else { 0 };
        let bytes = self.bytes(kind & STREAM_LEN != 0)?;
        if offset + bytes.len() as u64 > varint::MAX {
            return Err(Malformed("frame: offset"));
        }
        Ok(Frame::Stream(Stream { stream, channel, offset, fin: kind & STREAM_FIN != 0, bytes }))
    }

    fn ack(&mut self, with_ce: bool) -> Result<Frame<'a>, Malformed> {
        const RANGES: Malformed = Malformed("frame: acknowledged ranges");
        let largest = self.number("frame: largest")?;
        let delay_us = self.number("frame: delay")?;
        let ce = if with_ce { self.number("frame: ECN count")? } else { 0 };
        let more = self.number("frame: acknowledged ranges")?;
        if more >= ACK_RANGES_MAX as u64 {
            return Err(RANGES);
        }
        let first = self.number("frame: acknowledged ranges")?;
        let mut start = largest.checked_sub(first).ok_or(RANGES)?;
        let body = self.rest;
        for _ in 0..more {
            let gap = self.number("frame: acknowledged ranges")?;
            let len = self.number("frame: acknowledged ranges")?;
            start = start.checked_sub(gap + len + 2).ok_or(RANGES)?;
        }
        let rest = &body[..body.len() - self.rest.len()];
        Ok(Frame::Ack(Ack { largest, delay_us, ce, first, rest }))
    }
}

/// The fields of a STREAM frame before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// Which stream.
    pub stream: StreamId,
    /// The service, while the peer may not know the stream.
    pub channel: Option<ChannelId>,
    /// Where in the stream, bytes.
    pub offset: u64,
    /// Whether the stream ends behind the bytes.
    pub fin: bool,
}

impl StreamHeader {
    /// Bytes that the header takes; `len` is the explicit length, if it gets one.
    pub fn size(&self, len: Option<usize>) -> usize {
        1 + varint::size(self.stream.0)
            + self.channel.map_or(0, |channel| varint::size(u64::from(channel.0)))
            + if self.offset > 0 { varint::size(self.offset) } else { 0 }
            + len.map_or(0, |len| varint::size(len as u64))
    }
}

/// Writes frames one behind another. Every method returns `None`, having written nothing, when the frame
/// does not fit.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Writes at the start of `out`, up to its end.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn room(&self) -> usize {
        self.out.len() - self.at
    }

    /// Takes back what was written behind the first `len` bytes.
    pub fn rewind(&mut self, len: usize) {
        self.at = self.at.min(len);
    }

    /// Takes `len` bytes behind what was written, to be filled by the caller.
    pub fn take(&mut self, len: usize) -> Option<&mut [u8]> {
        let out = self.out.get_mut(self.at..self.at + len)?;
        self.at += len;
        Some(out)
    }

    fn put(&mut self, kind: u8, numbers: &[u64]) -> Option<()> {
        let before = self.at;
        let whole = (|| {
            *self.out.get_mut(self.at)? = kind;
            self.at += 1;
            for number in numbers {
                self.number(*number)?;
            }
            Some(())
        })();
        if whole.is_none() {
            self.at = before;
        }
        whole
    }

    #[inline]
    fn number(&mut self, number: u64) -> Option<()> {
        self.at += varint::put(&mut self.out[self.at..], number)?;
        Some(())
    }

    /// `len` bytes of PADDING.
    pub fn padding(&mut self, len: usize) -> Option<()> {
        self.take(len)?.fill(PADDING);
        Some(())
    }

    /// A PING.
    pub fn ping(&mut self) -> Option<()> {
        self.put(PING, &[])
    }

    /// A RESET.
    pub fn reset(&mut self, stream: StreamId, code: u64, final_size: u64) -> Option<()> {
        self.put(RESET, &[stream.0, code, final_size])
    }

    /// A STOP.
    pub fn stop(&mut self, stream: StreamId, code: u64) -> Option<()> {
        self.put(STOP, &[stream.0, code])
    }

    /// A MAX_DATA.
    pub fn max_data(&mut self, max: u64) -> Option<()> {
        self.put(MAX_DATA, &[max])
    }

    /// A MAX_STREAM_DATA.
    pub fn max_stream_data(&mut self, stream: StreamId, max: u64) -> Option<()> {
        self.put(MAX_STREAM_DATA, &[stream.0, max])
    }

    /// A MAX_STREAMS.
    pub fn max_streams(&mut self, max: u64) -> Option<()> {
        self.put(MAX_STREAMS, &[max])
    }

    /// Bytes that a datagram takes, its length included.
    pub fn datagram_size(channel: ChannelId, len: usize) -> usize {
        1 + varint::size(u64::from(channel.0)) + varint::size(len as u64) + len
    }

    /// A DATAGRAM with an explicit length.
    pub fn datagram(&mut self, channel: ChannelId, bytes: &[u8]) -> Option<()> {
        if self.room() < Self::datagram_size(channel, bytes.len()) {
            return None;
        }
        self.put(DATAGRAM, &[u64::from(channel.0), bytes.len() as u64])?;
        self.take(bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    /// The header of a STREAM frame. With `len` that many bytes must follow; without, the bytes are the
    /// rest of the packet.
    #[inline]
    pub fn stream(&mut self, header: &StreamHeader, len: Option<usize>) -> Option<()> {
        if self.room() < header.size(len) {
            return None;
        }
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        self.out[self.at] = STREAM
            | bit(header.fin, STREAM_FIN)
            | bit(len.is_some(), STREAM_LEN)
            | bit(header.offset > 0, STREAM_OFFSET)
            | bit(header.channel.is_some(), STREAM_OPEN);
        self.at += 1;
        self.number(header.stream.0)?;
        if let Some(channel) = header.channel {
            self.number(u64::from(channel.0))?;
        }
        if header.offset > 0 {
            self.number(header.offset)?;
        }
        if let Some(len) = len {
            self.number(len as u64)?;
        }
        Some(())
    }

    /// An ACK of the newest of `numbers`: ranges past [`ACK_RANGES_MAX`] or past the room are left out.
    /// `None` without numbers or without room for one range.
    pub fn ack(&mut self, delay_us: u64, ce: u64, numbers: &RangeSet) -> Option<()> {
        let newest = numbers.iter().next_back()?;
        let (largest, len) = (newest.end - 1, newest.end - 1 - newest.start);
        let ce_size = if ce > 0 { varint::size(ce) } else { 0 };
        let head = 2 + varint::size(largest) + varint::size(delay_us) + ce_size + varint::size(len);
        let mut room = self.room().checked_sub(head)?;
        let pairs = || {
            let (above, below) = (numbers.iter().rev(), numbers.iter().rev().skip(1));
            above.zip(below).map(|(above, below)| (above.start - below.end - 1, below.end - below.start - 1))
        };
        let mut more = 0;
        for (gap, len) in pairs().take(ACK_RANGES_MAX - 1) {
            match room.checked_sub(varint::size(gap) + varint::size(len)) {
                Some(left) => room = left,
                None => break,
            }
            more += 1;
        }
        match ce {
            0 => self.put(ACK, &[largest, delay_us, more as u64, len])?,
            _ => self.put(ACK_CE, &[largest, delay_us, ce, more as u64, len])?,
        }
        for (gap, len) in pairs().take(more) {
            self.number(gap)?;
            self.number(len)?;
        }
        Some(())
    }
}

const _: () = assert!(ACK_RANGES_MAX <= 63, "the count of ranges is one byte");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(bytes: &[u8]) -> Frame<'_> {
        let mut all = frames(bytes);
        let frame = all.next().expect("one frame").expect("well-formed");
        assert_eq!(all.next(), None);
        frame
    }

    fn id() -> impl Strategy<Value = u64> {
        prop_oneof![0..70u64, 16_000..17_000u64, 0..=varint::MAX]
    }

    proptest! {
        #[test]
        fn control_frames_round_trip(a in id(), b in id(), c in id(), room in 0usize..30) {
            let stream = StreamId(a);
            type Emit = fn(&mut Writer<'_>, u64, u64, u64) -> Option<()>;
            let cases: [(Emit, Frame<'_>); 6] = [
                (|w, a, b, c| w.reset(StreamId(a), b, c), Frame::Reset { stream, code: b, final_size: c }),
                (|w, a, b, _| w.stop(StreamId(a), b), Frame::Stop { stream, code: b }),
                (|w, a, _, _| w.max_data(a), Frame::MaxData(a)),
                (|w, a, b, _| w.max_stream_data(StreamId(a), b), Frame::MaxStreamData { stream, max: b }),
                (|w, a, _, _| w.max_streams(a), Frame::MaxStreams(a)),
                (|w, _, _, _| w.ping(), Frame::Ping),
            ];
            for (emit, frame) in cases {
                let mut out = [0xffu8; 32];
                let mut writer = Writer::new(&mut out);
                emit(&mut writer, a, b, c).unwrap();
                let len = writer.written();
                prop_assert_eq!(one(&out[..len]), frame);
                let mut small = vec![0u8; room];
                let mut writer = Writer::new(&mut small);
                prop_assert_eq!(emit(&mut writer, a, b, c).is_some(), room >= len);
                prop_assert_eq!(writer.written(), if room >= len { len } else { 0 });
            }
        }

        #[test]
        fn stream_and_datagram_round_trip(
            stream in id(), channel in any::<u16>(), with_channel: bool, offset in 0..=varint::MAX - 64,
            fin: bool, explicit: bool, bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let channel = ChannelId(channel);
            let header = StreamHeader { stream: StreamId(stream), channel: with_channel.then_some(channel), offset, fin };
            let mut out = [0; 200];
            let mut writer = Writer::new(&mut out);
            writer.datagram(channel, &bytes).unwrap();
            let datagram = writer.written();
            prop_assert_eq!(datagram, Writer::datagram_size(channel, bytes.len()));
            writer.padding(3).unwrap();
            let len = explicit.then_some(bytes.len());
            writer.stream(&header, len).unwrap();
            prop_assert_eq!(writer.written(), datagram + 3 + header.size(len));
            writer.take(bytes.len()).unwrap().copy_from_slice(&bytes);
            let end = writer.written();
            let all: Vec<_> = frames(&out[..end]).map(|frame| frame.unwrap()).collect();
            let frame = Stream { stream: StreamId(stream), channel: header.channel, offset, fin, bytes: &bytes };
            prop_assert_eq!(all, vec![Frame::Datagram { channel, bytes: &bytes }, Frame::Stream(frame)]);
        }

        #[test]
        fn acks_round_trip_newest_first(
            spans in prop::collection::vec((0u64..5_000, 1u64..300), 1..60), base in id(),
            delay in 0u64..1 << 40, ce in 0u64..3, room in 0usize..400,
        ) {
            let mut set = RangeSet::new();
            for (start, len) in spans {
                let start = (base + start).min(varint::MAX - 300);
                set.insert(start..start + len);
            }
            let mut out = vec![0; room];
            let mut writer = Writer::new(&mut out);
            let Some(()) = writer.ack(delay, ce, &set) else {
                prop_assert!(room < 40 && writer.written() == 0);
                return Ok(());
            };
            let end = writer.written();
            let Frame::Ack(ack) = one(&out[..end]) else { panic!("not an ACK") };
            prop_assert_eq!((ack.largest, ack.delay_us, ack.ce), (set.max().unwrap(), delay, ce));
            let got: Vec<_> = ack.ranges().collect();
            let want: Vec<_> = set.iter().rev().take(ACK_RANGES_MAX).cloned().collect();
            prop_assert!(want.starts_with(&got));
            prop_assert!(got.len() == want.len() || room - end < 16, "a range that would fit is missing");
        }

        #[test]
        fn never_panics_and_ends(bytes in prop::collection::vec(prop_oneof![0u8..0x20, any::<u8>()], 0..120)) {
            let mut failed = false;
            for frame in frames(&bytes) {
                prop_assert!(!failed, "nothing follows an error");
                match frame {
                    Ok(Frame::Ack(ack)) => {
                        let mut above = u64::MAX;
                        for range in ack.ranges() {
                            prop_assert!(range.start < range.end && range.end < above);
                            above = range.start;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => failed = true,
                }
            }
        }
    }

    #[test]
    fn says_what_is_malformed() {
        let bad: [(&[u8], &str); 6] = [
            (&[0x0b], "frame: kind"),
            (&[0x12, 0x00, 0x05, 1, 2], "frame: length"),
            (&[0x02, 0x05, 0x00, 0x00, 0x06], "frame: acknowledged ranges"),
            (&[0x02, 0x05, 0x00, 0x20, 0x00], "frame: acknowledged ranges"),
            (&[0x02, 0x05, 0x00, 0x01, 0x02, 0x01, 0x01], "frame: acknowledged ranges"),
            (&[0x0a, 0xc0, 0, 0, 0, 0, 1, 0, 0], "frame: channel"),
        ];
        for (bytes, what) in bad {
            assert_eq!(frames(bytes).last(), Some(Err(Malformed(what))));
        }
    }
}

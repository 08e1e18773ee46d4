//! What a data packet's payload consists of.

use super::Input;
use crate::base::RangeSet;
use crate::limits::ACK_RANGES_MAX;
use crate::wire::frame::{Ack, Frame, StreamHeader, Writer, frames};
use crate::wire::varint;

/// Whatever can be read can be written again, never longer.
pub fn varint(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((value, used)) = varint::get(rest) {
        assert!(value <= varint::MAX && matches!(used, 1 | 2 | 4 | 8) && varint::size(value) <= used);
        let mut out = [0xff; 8];
        let written = varint::put(&mut out, value).expect("eight bytes are room");
        assert_eq!((written, varint::get(&out[..written])), (varint::size(value), Some((value, written))));
        assert_eq!(varint::get(&out[..written - 1]), None, "a cut number is none");
        assert_eq!(varint::put(&mut out[..written - 1], value), None);
        rest = &rest[used..];
    }
    let value = Input::new(bytes).long();
    let mut out = [0; 8];
    let written = varint::put(&mut out, value).expect("eight bytes are room");
    if value <= varint::MAX {
        assert_eq!(varint::get(&out[..written]), Some((value, written)));
    }
}

/// Every frame of a payload, written again, is the same frame.
pub fn frame(payload: &[u8]) {
    let mut failed = false;
    let mut count = 0;
    for frame in frames(payload) {
        assert!(!failed, "nothing follows an error");
        count += 1;
        match frame {
            Ok(frame) => write_again(&frame, payload.len()),
            Err(_) => failed = true,
        }
    }
    assert!(count <= payload.len());
}

fn write_again(frame: &Frame<'_>, len: usize) {
    // Explicit lengths where there were none, and shorter numbers where they were long.
    let mut room = vec![0; len + 16];
    let mut out = Writer::new(&mut room);
    let written = match frame {
        Frame::Ping => out.ping(),
        Frame::Ack(ack) => out.ack(ack.delay_us, ack.ce, &numbers(ack)),
        Frame::Stream(stream) => {
            let header = StreamHeader {
                stream: stream.stream,
                channel: stream.channel,
                offset: stream.offset,
                fin: stream.fin,
            };
            assert!(stream.offset + stream.bytes.len() as u64 <= varint::MAX);
            out.stream(&header, Some(stream.bytes.len()))
                .and_then(|()| out.take(stream.bytes.len()).map(|room| room.copy_from_slice(stream.bytes)))
        }
        Frame::Reset { stream, code, final_size } => out.reset(*stream, *code, *final_size),
        Frame::Stop { stream, code } => out.stop(*stream, *code),
        Frame::MaxData(max) => out.max_data(*max),
        Frame::MaxStreamData { stream, max } => out.max_stream_data(*stream, *max),
        Frame::MaxStreams(max) => out.max_streams(*max),
        Frame::Datagram { channel, bytes } => out.datagram(*channel, bytes),
    };
    assert_eq!(written, Some(()), "no longer than it was");
    let end = out.written();
    let mut again = frames(&room[..end]);
    match (again.next(), frame) {
        (Some(Ok(Frame::Ack(again))), Frame::Ack(ack)) => {
            assert_eq!((again.largest, again.delay_us, again.ce), (ack.largest, ack.delay_us, ack.ce));
            assert!(again.ranges().eq(ack.ranges()), "{ack:?}");
        }
        (Some(Ok(again)), frame) => assert_eq!(again, *frame),
        (other, frame) => panic!("{frame:?} became {other:?}"),
    }
    assert_eq!(again.next(), None);
}

fn numbers(ack: &Ack<'_>) -> RangeSet {
    let mut numbers = RangeSet::new();
    let mut above = u64::MAX;
    for range in ack.ranges() {
        assert!(range.start < range.end && range.end < above, "descending, apart");
        above = range.start;
        numbers.insert(range);
    }
    assert!((1..=ACK_RANGES_MAX).contains(&numbers.len()));
    assert_eq!(numbers.max(), Some(ack.largest));
    numbers
}

//! What a peer that means harm can send.

use crate::base::{ChannelId, StreamId, Time};
use crate::limits::{STREAM_UNREAD_MAX, STREAM_WINDOW};
use crate::stream::{Config, Connection, ReadState};
use crate::wire::frame::{StreamHeader, Writer};

fn payload(frames: impl Iterator<Item = (u64, u64, usize)>) -> Vec<u8> {
    let mut room = [0; 1400];
    let mut out = Writer::new(&mut room);
    for (index, offset, len) in frames {
        let header =
            StreamHeader { stream: StreamId(2 * index), channel: Some(ChannelId(1)), offset, fin: false };
        out.stream(&header, Some(len)).unwrap();
        out.take(len).unwrap().fill(7);
    }
    let len = out.written();
    room[..len].to_vec()
}

#[test]
fn the_last_byte_of_windows_that_nobody_reads_costs_no_memory() {
    let config = Config { unread_max: STREAM_UNREAD_MAX, ..Config::new(false) };
    let mut conn = Connection::new(Time::ZERO, config);
    for index in 0..16 {
        let bytes = payload(std::iter::once((index, STREAM_WINDOW - 1, 1)));
        conn.handle_payload(Time::ZERO, index, 0, &bytes, &mut ()).unwrap();
        assert!(!conn.received.contains(index), "what was not taken is not acknowledged");
    }
    let held: usize = (0..16).filter_map(|index| Some(conn.streams.get(2 * index)?.recv.buffered())).sum();
    assert!(held <= 16 * STREAM_UNREAD_MAX as usize, "{held} bytes for 16");
    let bytes = payload((0..16).map(|index| (index, 0, 24)));
    conn.handle_payload(Time::ZERO, 16, 0, &bytes, &mut ()).unwrap();
    let mut request = Vec::new();
    assert_eq!(conn.read(StreamId(0), &mut request, 100), ReadState::Blocked);
    assert_eq!(request, [7; 24]);
}

//! What a peer that means harm can send.
#![allow(clippy::single_range_in_vec_init, reason = "acknowledgements are lists of ranges, often of one")]

use crate::base::{ChannelId, RangeSet, StreamId, Time};
use crate::limits::{SENT_QUIET_MAX, STREAM_UNREAD_MAX, STREAM_WINDOW};
use crate::stream::{Config, Connection, ReadState, RecvMode, Violation};
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

fn ack(numbers: &[std::ops::Range<u64>]) -> Vec<u8> {
    let mut set = RangeSet::new();
    for range in numbers {
        set.insert(range.clone());
    }
    let mut room = [0; 200];
    let mut out = Writer::new(&mut room);
    out.ack(0, 0, &set).unwrap();
    let len = out.written();
    room[..len].to_vec()
}

/// A connection that has sent something in the packets 0, 1 and 3, and left 2 out.
fn with_a_gap() -> Connection {
    let mut conn = Connection::new(Time::ZERO, Config::new(true));
    let stream = conn.open(ChannelId(1), RecvMode::Ordered).unwrap();
    for number in [0, 1, 3] {
        conn.write(stream, &[7; 100]).unwrap();
        if number == 3 {
            conn.on_number_skipped(2);
        }
        assert!(conn.poll_payload(Time::ZERO, number, &mut [0; 1200], &mut ()).is_some());
    }
    conn
}

#[test]
fn who_acknowledges_a_number_that_was_left_out_is_found_out() {
    let now = Time::from_millis(20);
    for honest in [&[0..2, 3..4][..], &[3..4], &[0..2]] {
        let mut conn = with_a_gap();
        assert_eq!(conn.handle_payload(now, 0, 0, &ack(honest), &mut ()), Ok(()), "{honest:?}");
    }
    for lie in [&[0..4][..], &[0..3], &[2..3], &[0..1, 2..4], &[0..100]] {
        let mut conn = with_a_gap();
        let taken = conn.handle_payload(now, 0, 0, &ack(lie), &mut ());
        assert_eq!(taken, Err(Violation::NEVER_SENT), "{lie:?}");
    }
    // Also when everything before the gap is settled, and when nothing is in flight at all.
    let mut conn = with_a_gap();
    conn.handle_payload(now, 0, 0, &ack(&[0..2]), &mut ()).unwrap();
    assert_eq!(conn.handle_payload(now, 1, 0, &ack(&[0..4]), &mut ()), Err(Violation::NEVER_SENT));
    let mut conn = with_a_gap();
    conn.handle_payload(now, 0, 0, &ack(&[0..2, 3..4]), &mut ()).unwrap();
    conn.ping();
    conn.on_number_skipped(4);
    assert!(conn.poll_payload(now, 5, &mut [0; 1200], &mut ()).is_some());
    assert_eq!(conn.handle_payload(now, 1, 0, &ack(&[4..6]), &mut ()), Err(Violation::NEVER_SENT));
}

#[test]
fn a_peer_that_acknowledges_no_acknowledgement_is_not_remembered_for_ever() {
    let mut conn = Connection::new(Time::ZERO, Config::new(true));
    let stream = conn.open(ChannelId(1), RecvMode::Ordered).unwrap();
    conn.write(stream, b"never acknowledged").unwrap();
    let (mut now, mut number, mut most, mut again) = (Time::ZERO, 0, 0, 0);
    for turn in 0..20 * SENT_QUIET_MAX as u64 {
        now = Time(now.0 + 1_000_000);
        // Two PINGs, which ask for an acknowledgement.
        for n in [2 * turn, 2 * turn + 1] {
            conn.handle_payload(now, n, 0, &[1], &mut ()).unwrap();
        }
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
        while let Some(meta) = conn.poll_payload(now, number, &mut [0; 1200], &mut ()) {
            again += u64::from(meta.len > 18);
            number += 1;
        }
        most = most.max(conn.sent.len());
    }
    assert!(most <= 2 * SENT_QUIET_MAX, "{most} packets are remembered");
    assert!(again > 1, "what the peer lacks is still sent");
    assert!(conn.sent.in_flight() < 1 << 20, "{} bytes count in flight", conn.sent.in_flight());
}

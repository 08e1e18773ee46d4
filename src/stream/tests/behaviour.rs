//! One promise of the interface per test.

use std::time::Duration;

use super::pair::{Link, Pair, content};
use crate::base::{ChannelId, StreamId};
use crate::limits::{
    DATAGRAM_QUEUE_MAX, SESSION_WINDOW, STREAM_SEND_BUFFER, STREAM_WINDOW, STREAMS_PER_SESSION_MAX,
};
use crate::stream::{
    DatagramError, Event, OpenError, ReadState, RecvMode, SOURCE_FAULT, Violation, WriteError,
};
use crate::wire::frame::{StreamHeader, Writer};

const SECOND: Duration = Duration::from_secs(1);
const CHANNEL: ChannelId = ChannelId(3);

fn pair() -> Pair {
    Pair::new(Link::new(100, 20), 1)
}

fn lossy(seed: u64) -> Pair {
    Pair::new(Link::new(100, 20).loss(0.3), seed)
}

#[test]
fn a_request_and_its_answer_take_one_round_trip() {
    let mut pair = pair();
    let begin = pair.now;
    let stream = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
    assert_eq!(pair.a().write(stream, b"question"), Ok(8));
    pair.a().finish(stream);
    let opened = Event::Opened { stream, channel: CHANNEL };
    pair.run_until(SECOND, |pair| pair.ends[1].events.contains(&opened)).expect("arrives");
    let mut got = Vec::new();
    assert_eq!(pair.b().read(stream, &mut got, 100), ReadState::Finished);
    assert_eq!(got, b"question");
    pair.b().write(stream, b"answer").unwrap();
    pair.b().finish(stream);
    pair.run_until(SECOND, |pair| pair.ends[0].events.contains(&Event::Readable(stream))).expect("arrives");
    assert!(pair.now.since(begin) < Duration::from_millis(21), "{:?}", pair.now.since(begin));
    got.clear();
    assert_eq!(pair.a().read(stream, &mut got, 100), ReadState::Finished);
    assert_eq!(got, b"answer");
    pair.run(SECOND);
    for end in &mut pair.ends {
        assert!(end.conn.is_idle(), "{:?}", end.conn);
        assert_eq!(end.conn.read(stream, &mut got, 1), ReadState::Gone);
        assert_eq!(end.conn.write(stream, b"x"), Err(WriteError::Gone));
        assert!(end.events.contains(&Event::Acked(stream)));
    }
}

#[test]
fn the_side_that_did_not_open_may_speak_first() {
    for seed in 0..10 {
        let mut pair = lossy(seed);
        let stream = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
        let opened = Event::Opened { stream, channel: CHANNEL };
        pair.run_until(20 * SECOND, |pair| pair.ends[1].events.contains(&opened)).expect("heard of");
        pair.b().write(stream, b"hello").unwrap();
        let readable = Event::Readable(stream);
        pair.run_until(20 * SECOND, |pair| pair.ends[0].events.contains(&readable)).expect("arrives");
    }
}

#[test]
fn a_silent_reader_stops_the_writer_at_the_window_and_starts_it_again() {
    let mut pair = pair();
    let len = 2 * STREAM_WINDOW + 12_345;
    pair.ends[1].sink.consume = false;
    let stream = pair.offer(1, len);
    pair.run_until(3 * SECOND, |pair| {
        pair.accept_all();
        false
    });
    assert_eq!(pair.got(stream), STREAM_WINDOW);
    pair.b().consumed(stream, STREAM_WINDOW / 2);
    pair.run(3 * SECOND);
    assert_eq!(pair.got(stream), STREAM_WINDOW + STREAM_WINDOW / 2);
    pair.b().set_window(stream, len);
    pair.run(3 * SECOND);
    assert_eq!(pair.got(stream), len);
}

#[test]
fn the_session_window_holds_all_streams_together() {
    let mut pair = Pair::new(Link::new(2_000, 2), 1);
    pair.ends[1].sink.consume = false;
    let streams: Vec<StreamId> = (0..20).map(|source| pair.offer(source, 2 * STREAM_WINDOW)).collect();
    for stream in &streams {
        pair.run(Duration::from_millis(1));
        pair.accept_all();
        pair.b().set_window(*stream, 4 * STREAM_WINDOW);
    }
    pair.run(2 * SECOND);
    let total: u64 = streams.iter().map(|stream| pair.got(*stream)).sum();
    // Streams that are complete gave their credit back.
    let complete = streams.iter().filter(|stream| pair.got(**stream) == 2 * STREAM_WINDOW).count() as u64;
    let bound = SESSION_WINDOW + complete * 2 * STREAM_WINDOW;
    assert!(total <= bound && total > 20 * STREAM_WINDOW / 2, "{total} of {bound}");
    for stream in &streams {
        pair.b().consumed(*stream, u64::MAX);
    }
    pair.ends[1].sink.consume = true;
    pair.run(3 * SECOND);
    assert!(streams.iter().all(|stream| pair.got(*stream) == 2 * STREAM_WINDOW));
}

#[test]
fn ordered_writes_are_buffered_to_the_bound_and_go_on_when_writable() {
    let mut pair = Pair::new(Link::new(50, 20).loss(0.01), 4);
    let stream = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
    let bytes: Vec<u8> = (0..1_000_000).map(|at| content(9, at)).collect();
    assert_eq!(pair.a().write(stream, &bytes), Ok(STREAM_SEND_BUFFER));
    let (mut written, mut got) = (STREAM_SEND_BUFFER, Vec::new());
    let mut finished = false;
    pair.run_until(60 * SECOND, |pair| {
        if pair.ends[0].events.contains(&Event::Writable(stream)) {
            pair.ends[0].events.clear();
            written += pair.a().write(stream, &bytes[written..]).unwrap();
            if written == bytes.len() {
                pair.a().finish(stream);
            }
        }
        loop {
            match pair.b().read(stream, &mut got, 5_000) {
                ReadState::More => {}
                state => break finished |= state == ReadState::Finished,
            }
        }
        finished
    })
    .expect("all arrives");
    assert!(got == bytes);
}

#[test]
fn streams_share_in_turns_and_urgent_ones_go_first() {
    let mut pair = pair();
    let streams: Vec<StreamId> = (0..4).map(|source| pair.offer(source, 1_500_000)).collect();
    let total = |pair: &Pair| streams.iter().map(|stream| pair.got(*stream)).sum::<u64>();
    pair.run_until(SECOND, |pair| {
        pair.accept_all();
        total(pair) > 3_000_000
    })
    .expect("half arrives");
    let got: Vec<u64> = streams.iter().map(|stream| pair.got(*stream)).collect();
    assert!(got.iter().all(|got| (600_000..900_000).contains(got)), "{got:?} {:?}", pair.a().stats());
    let begin = pair.now;
    let stream = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
    pair.a().prioritise(stream);
    pair.a().write(stream, b"now").unwrap();
    pair.run_until(SECOND, |pair| pair.ends[1].events.contains(&Event::Readable(stream))).expect("arrives");
    assert!(pair.now.since(begin) < Duration::from_millis(60), "{:?}", pair.now.since(begin));
    assert!(total(&pair) < 6_000_000);
}

#[test]
fn packets_of_a_train_have_equal_sizes() {
    let mut pair = pair();
    (0..40).for_each(|source| _ = pair.offer(source, 30_000 + 777 * source));
    let mut full_turns = 0;
    pair.run_until(5 * SECOND, |pair| {
        pair.accept_all();
        let end = &pair.ends[0];
        let full = end.conn.packet_size() - crate::limits::PACKET_OVERHEAD;
        if let Some((_, before)) = end.turn.split_last()
            && end.turn.len() > 3
        {
            full_turns += 1;
            let odd: Vec<_> = before.iter().filter(|len| **len != full).collect();
            assert!(odd.len() <= 1, "{odd:?} of {full}: only the last with data is short");
        }
        end.conn.is_idle()
    });
    assert!(full_turns > 10);
}

#[test]
fn the_path_mtu_is_found_with_few_probes() {
    for (mtu, found) in [(1472, 1472), (1452, 1452), (1400, 1392), (1232, 1232)] {
        let mut link = Link::new(100, 20);
        (link.mtu, link.queue) = (mtu, 8_000_000);
        let mut pair = Pair::new(link, 1);
        pair.transfer(4_000_000, 20 * SECOND);
        pair.run(5 * SECOND);
        let end = &pair.ends[0];
        assert_eq!(end.conn.packet_size(), found, "on {mtu}: {:?}", end.conn.stats());
        assert!(end.oversized <= 12, "{}", end.oversized);
        assert_eq!((end.conn.stats().lost_packets, end.conn.stats().black_holes), (0, 0));
        assert_eq!(end.events.contains(&Event::MtuChanged(found as u32)), found > 1232);
    }
}

#[test]
fn a_black_hole_is_left() {
    let mut pair = pair();
    let stream = pair.offer(7, 8_000_000);
    pair.run_until(SECOND / 4, |pair| {
        pair.accept_all();
        false
    });
    assert_eq!(pair.a().packet_size(), 1472);
    pair.ends[0].link.mtu = 1300;
    let took = pair.run_until(20 * SECOND, |pair| pair.got(stream) == 8_000_000).expect("goes on");
    assert!(took < 4 * SECOND, "{took:?} {:?}", pair.a().stats());
    assert_eq!((pair.a().packet_size(), pair.a().stats().black_holes), (1232, 1));
}

#[test]
fn reset_and_stop_reach_the_other_side_whatever_is_lost() {
    for seed in 0..20 {
        let mut pair = lossy(seed);
        let given_up = pair.offer(1, 5_000_000);
        let unwanted = pair.offer(2, 5_000_000);
        let unsaid = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
        pair.a().reset(unsaid, 40);
        pair.a().stop(unsaid, 41);
        pair.run_until(20 * SECOND, |pair| {
            pair.accept_all();
            pair.got(given_up) > 0 && pair.got(unwanted) > 0
        })
        .expect("known");
        pair.a().reset(given_up, 10);
        pair.b().stop(unwanted, 20);
        pair.run_until(60 * SECOND, |pair| {
            pair.accept_all();
            let (a, b) = (&pair.ends[0].events, &pair.ends[1].events);
            let gone = Event::Reset { stream: given_up, code: 10 };
            let never = Event::Reset { stream: unsaid, code: 40 };
            let stopped = Event::Stopped { stream: unwanted, code: 20 };
            let both = Event::Stopped { stream: unsaid, code: 41 };
            b.contains(&gone) && a.contains(&stopped) && b.contains(&never) && b.contains(&both)
        })
        .expect("told");
        assert_eq!(pair.a().write(unwanted, b"x"), Err(WriteError::Closed));
        for stream in [given_up, unwanted] {
            pair.b().finish(stream);
        }
        pair.run_until(60 * SECOND, |pair| {
            for stream in [given_up, unwanted] {
                pair.a().read(stream, &mut Vec::new(), 1);
            }
            pair.ends.iter().all(|end| end.conn.is_idle())
        })
        .expect("forgotten");
        let opened = &pair.ends[1].events;
        assert_eq!(opened.iter().filter(|event| matches!(event, Event::Opened { .. })).count(), 3);
    }
}

#[test]
fn a_broken_source_resets_its_stream_only() {
    let mut pair = pair();
    pair.ends[0].sources.broken.insert(1, 50_000);
    let (broken, whole) = (pair.offer(1, 200_000), pair.offer(2, 200_000));
    pair.run_until(SECOND, |pair| {
        pair.accept_all();
        false
    });
    assert!(pair.ends[0].events.contains(&Event::SourceFailed(broken)));
    assert!(pair.ends[1].events.contains(&Event::Reset { stream: broken, code: SOURCE_FAULT }));
    assert_eq!(pair.got(whole), 200_000);
    assert!(pair.got(broken) <= 50_000);
}

#[test]
fn thousands_of_streams_follow_one_another() {
    let mut pair = Pair::new(Link::new(100, 10).loss(0.02), 1);
    let mut opened = 0;
    for _ in 0..STREAMS_PER_SESSION_MAX {
        pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
    }
    assert_eq!(pair.a().open(CHANNEL, RecvMode::Ordered), Err(OpenError::Limit));
    (0..STREAMS_PER_SESSION_MAX).for_each(|index| pair.a().finish(StreamId(2 * index)));
    let mut answered = 0;
    pair.run_until(60 * SECOND, |pair| {
        for event in std::mem::take(&mut pair.ends[1].events) {
            if let Event::Readable(stream) = event {
                assert_eq!(pair.b().read(stream, &mut Vec::new(), 10), ReadState::Finished);
                pair.b().finish(stream);
                answered += 1;
            }
        }
        for event in std::mem::take(&mut pair.ends[0].events) {
            if let Event::Readable(stream) = event {
                assert_eq!(pair.a().read(stream, &mut Vec::new(), 10), ReadState::Finished);
            }
        }
        while opened < 3000 && pair.a().can_open() {
            let stream = pair.a().open(CHANNEL, RecvMode::Ordered).unwrap();
            pair.a().finish(stream);
            opened += 1;
        }
        let idle = pair.ends.iter().all(|end| end.conn.is_idle());
        opened == 3000 && idle
    })
    .unwrap_or_else(|| panic!("{opened} opened, {answered} answered"));
    assert_eq!(answered, 3000 + STREAMS_PER_SESSION_MAX);
}

#[test]
fn datagrams_arrive_or_do_not_and_are_bounded() {
    let mut pair = pair();
    let max = pair.a().datagram_max();
    assert_eq!(pair.a().datagram(CHANNEL, &vec![1; max + 1]), Err(DatagramError::TooLarge));
    for index in 0..DATAGRAM_QUEUE_MAX {
        assert_eq!(
            pair.a().datagram(CHANNEL, &vec![index as u8; if index % 2 == 0 { max } else { 5 }]),
            Ok(())
        );
    }
    assert_eq!(pair.a().datagram(CHANNEL, b"x"), Err(DatagramError::Full));
    pair.run(SECOND);
    let got: Vec<_> = pair.ends[1]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Datagram { channel, bytes } => Some((*channel, bytes[0], bytes.len())),
            _ => None,
        })
        .collect();
    let want: Vec<_> =
        (0..DATAGRAM_QUEUE_MAX).map(|i| (CHANNEL, i as u8, if i % 2 == 0 { max } else { 5 })).collect();
    assert_eq!(got, want);
    assert_eq!(pair.a().stats().resent_bytes, 0);
}

#[test]
fn roaming_begins_anew_and_goes_on() {
    let mut pair = pair();
    let stream = pair.offer(7, 6_000_000);
    pair.run_until(SECOND / 4, |pair| {
        pair.accept_all();
        false
    });
    let slow = Link { mtu: 1300, ..Link::new(20, 80) };
    let now = pair.now;
    for end in &mut pair.ends {
        end.link = slow.clone();
        end.conn.path_changed(now);
        assert_eq!(end.conn.packet_size(), 1232);
    }
    assert!(pair.a().stats().window <= 14_720 && pair.a().stats().in_flight == 0);
    pair.run_until(20 * SECOND, |pair| pair.got(stream) == 6_000_000).expect("goes on");
    assert!(pair.a().stats().rtt_min >= Duration::from_millis(80));
}

#[test]
fn a_receiver_forgets_acknowledged_ranges_and_silence_stays_silent() {
    let mut pair = Pair::new(Link::new(100, 20).loss(0.02), 8);
    pair.transfer(3_000_000, 30 * SECOND);
    pair.a().ping();
    pair.run(30 * SECOND);
    let before = [pair.a().stats().sent_packets, pair.b().stats().sent_packets];
    pair.run(60 * SECOND);
    let after = [pair.a().stats().sent_packets, pair.b().stats().sent_packets];
    assert!(after[0] - before[0] < 5 && after[1] - before[1] < 5, "{before:?} {after:?}");
}

#[test]
fn what_a_peer_may_not_do_is_named() {
    let frame = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut out = vec![0; 1200];
        let mut writer = Writer::new(&mut out);
        write(&mut writer);
        let len = writer.written();
        out.truncate(len);
        out
    };
    let stream = |id: u64, channel: bool, offset: u64| {
        frame(&move |writer: &mut Writer<'_>| {
            let channel = channel.then_some(CHANNEL);
            writer.stream(&StreamHeader { stream: StreamId(id), channel, offset, fin: false }, None).unwrap();
            writer.take(1).unwrap().fill(1);
        })
    };
    let cases = [
        (stream(0, false, 0), Some(Violation::STREAM_STATE)),
        (stream(1, true, 0), Some(Violation::STREAM_STATE)),
        (stream(2 * STREAMS_PER_SESSION_MAX, true, 0), Some(Violation::STREAMS_LIMIT)),
        (stream(2 * STREAMS_PER_SESSION_MAX - 2, true, 0), None),
        (stream(0, true, STREAM_WINDOW), Some(Violation::STREAM_LIMIT)),
        (frame(&|w| w.reset(StreamId(4), 0, 0).unwrap()), Some(Violation::STREAM_STATE)),
        (frame(&|w| w.max_stream_data(StreamId(1), 9).unwrap()), Some(Violation::STREAM_STATE)),
        (vec![0x33], Some(Violation::malformed(crate::wire::Malformed("frame: kind")))),
    ];
    for (payload, violation) in cases {
        let mut pair = pair();
        let now = pair.now;
        assert_eq!(pair.b().handle_payload(now, 0, 0, &payload, &mut ()).err(), violation, "{payload:?}");
    }
}

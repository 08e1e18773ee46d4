//! Random services on random links against the simplest model: a stream is a string.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Link, Pair, content};
use crate::base::{ChannelId, StreamId, Time};
use crate::stream::{Config, Connection, ReadState, RecvMode, SourceId};

#[derive(Debug, Clone)]
enum Op {
    Open(bool),
    Write(bool, prop::sample::Index, u16),
    Attach(bool, prop::sample::Index, u32),
    Finish(bool, prop::sample::Index),
    Reset(bool, prop::sample::Index),
    Stop(bool, prop::sample::Index),
    Run(u8),
    Roam,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => any::<bool>().prop_map(Op::Open),
        6 => (any::<bool>(), index(), any::<u16>()).prop_map(|(side, at, len)| Op::Write(side, at, len)),
        6 => (any::<bool>(), index(), 0u32..200_000).prop_map(|(side, at, len)| Op::Attach(side, at, len)),
        3 => (any::<bool>(), index()).prop_map(|(side, at)| Op::Finish(side, at)),
        1 => (any::<bool>(), index()).prop_map(|(side, at)| Op::Reset(side, at)),
        1 => (any::<bool>(), index()).prop_map(|(side, at)| Op::Stop(side, at)),
        8 => any::<u8>().prop_map(Op::Run),
        1 => Just(Op::Roam),
    ]
}

/// One direction of one stream as it should be.
#[derive(Debug, Default)]
struct Direction {
    given: Vec<u8>,
    got: Vec<u8>,
    ended: bool,
    given_up: bool,
    complete: bool,
}

/// Reads everything readable at both ends and compares.
fn read_all(pair: &mut Pair, model: &mut BTreeMap<(StreamId, usize), Direction>) {
    for ((stream, from), direction) in model.iter_mut() {
        if direction.complete {
            continue;
        }
        let before = direction.got.len();
        let state = pair.ends[1 - from].conn.read(*stream, &mut direction.got, usize::MAX);
        assert_eq!(direction.got[before..], direction.given[before..direction.got.len()], "content");
        match state {
            ReadState::Finished => {
                assert!(direction.ended && direction.got.len() == direction.given.len(), "{direction:?}");
                direction.complete = true;
            }
            ReadState::Reset(_) => {
                assert!(direction.given_up);
                direction.complete = true;
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_string_arrives(
        ops in prop::collection::vec(op(), 1..60), seed in any::<u64>(), loss in 0usize..4,
        rtt in 1u64..100, reorder in 0u32..3, skip in 0u64..9,
    ) {
        let mut link = Link::new(50, rtt).loss([0.0, 0.01, 0.1, 0.25][loss]);
        (link.reorder, link.duplicate) = (f64::from(reorder) * 0.05, f64::from(reorder) * 0.02);
        let mut pair = Pair::new(link, seed);
        (pair.ends[0].skip, pair.ends[1].skip) = (skip, if skip > 4 { 0 } else { 3 * skip });
        let mut model: BTreeMap<(StreamId, usize), Direction> = BTreeMap::new();
        let mut streams: Vec<StreamId> = Vec::new();
        for (turn, op) in ops.into_iter().enumerate() {
            let mut pick = |side: bool, index: prop::sample::Index| {
                let stream = *streams.get(index.index(streams.len().max(1)))?;
                let from = usize::from(side);
                // The side that did not open a stream first has to hear of it.
                pair.ends[from].conn.channel(stream)?;
                Some((stream, from))
            };
            match op {
                Op::Open(side) if streams.len() < 20 => {
                    let from = usize::from(side);
                    let stream = pair.ends[from].conn.open(ChannelId(turn as u16), RecvMode::Ordered).unwrap();
                    streams.push(stream);
                    model.insert((stream, 0), Direction::default());
                    model.insert((stream, 1), Direction::default());
                }
                Op::Write(side, index, len) => if let Some((stream, from)) = pick(side, index) {
                    let bytes: Vec<u8> = (0..u64::from(len)).map(|at| content(turn as u64, at)).collect();
                    if let Ok(taken) = pair.ends[from].conn.write(stream, &bytes) {
                        model.get_mut(&(stream, from)).unwrap().given.extend_from_slice(&bytes[..taken]);
                    }
                }
                Op::Attach(side, index, len) => if let Some((stream, from)) = pick(side, index) {
                    let attached = pair.ends[from].conn.attach(stream, SourceId(turn as u64), len.into());
                    if attached.is_ok() {
                        let bytes = (0..u64::from(len)).map(|at| content(turn as u64, at));
                        model.get_mut(&(stream, from)).unwrap().given.extend(bytes);
                    }
                }
                Op::Finish(side, index) => if let Some((stream, from)) = pick(side, index) {
                    pair.ends[from].conn.finish(stream);
                    model.get_mut(&(stream, from)).unwrap().ended = true;
                }
                Op::Reset(side, index) => if let Some((stream, from)) = pick(side, index) {
                    pair.ends[from].conn.reset(stream, 5);
                    model.get_mut(&(stream, from)).unwrap().given_up = true;
                }
                Op::Stop(side, index) => if let Some((stream, from)) = pick(side, index) {
                    pair.ends[from].conn.stop(stream, 6);
                    let direction = model.get_mut(&(stream, 1 - from)).unwrap();
                    (direction.given_up, direction.complete) = (true, true);
                }
                Op::Run(ms) => {
                    pair.run(Duration::from_millis(ms.into()));
                    read_all(&mut pair, &mut model);
                }
                Op::Roam => {
                    let now = pair.now;
                    pair.ends.iter_mut().for_each(|end| end.conn.path_changed(now));
                }
                Op::Open(_) => {}
            }
        }
        // Both ends finish what is open; then everything arrives and is forgotten.
        let done = pair.run_until(Duration::from_secs(600), |pair| {
            for ((stream, from), direction) in &mut model {
                if pair.ends[*from].conn.channel(*stream).is_some() && !direction.ended {
                    pair.ends[*from].conn.finish(*stream);
                    direction.ended = true;
                }
            }
            read_all(pair, &mut model);
            let gone = |conn: &mut Connection, stream| conn.channel(stream).is_none();
            model.iter().all(|((stream, from), direction)| {
                direction.complete || (direction.given_up && gone(&mut pair.ends[1 - from].conn, *stream))
            }) && pair.ends.iter().all(|end| end.conn.is_idle())
        });
        prop_assert!(done.is_some(), "unfinished: {:?}", pair.ends.iter().map(|end| end.conn.stats()).collect::<Vec<_>>());
        for direction in model.values().filter(|direction| !direction.given_up) {
            prop_assert!(direction.got == direction.given);
        }
        for end in &pair.ends {
            prop_assert_eq!(end.conn.stats().in_flight, 0);
        }
    }

    /// Whatever bytes come: an answer or a violation, no panic, and still something sendable.
    #[test]
    fn no_payload_panics(
        payloads in prop::collection::vec(prop::collection::vec(prop_oneof![0u8..0x20, any::<u8>()], 0..60), 1..20),
        initiator: bool,
    ) {
        let now = Time::from_millis(5);
        let mut conn = Connection::new(now, Config::new(initiator));
        let mut room = [0; 1443];
        let stream = conn.open(ChannelId(1), RecvMode::Sink).unwrap();
        conn.write(stream, &[7; 5000]).unwrap();
        for (number, payload) in (0u64..).zip(&payloads) {
            let now = now + Duration::from_millis(number * 7);
            let _ = conn.handle_payload(now, number, (number % 4) as u8, payload, &mut ());
            conn.handle_timeout(now);
            conn.poll_payload(now, number, &mut room, &mut ());
            while conn.poll_event().is_some() {}
        }
    }
}

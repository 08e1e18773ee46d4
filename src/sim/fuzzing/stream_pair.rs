//! Two honest connections and a network in the script's hands, against the simplest model: a stream is a string.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Input;
use super::stream_peer::ROOM;
use crate::base::{ChannelId, RangeSet, StreamId, Time};
use crate::limits::CONNECTION_EVENTS_MAX;
use crate::stream::{
    Config, Connection, Event, ReadState, RecvMode, Sink, SourceFault, SourceId, SourceRead,
};

const STEPS_MAX: usize = 200;
const STREAMS_MAX: usize = 16;
/// Bytes that one input gives to be sent: a script is short, and so shall be what it costs.
const BYTES_MAX: usize = 400_000;
const FLYING_MAX: usize = 2000;

/// The byte of any stream's content.
fn content(seed: u64, at: u64) -> u8 {
    (seed.wrapping_mul(0x9e37) ^ at ^ (at >> 8)) as u8
}

struct Sources;

impl SourceRead for Sources {
    fn read(&mut self, source: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        into.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = content(source.0, at));
        Ok(())
    }
}

/// One direction of one stream.
#[derive(Debug, Default)]
struct Direction {
    given: Vec<u8>,
    ended: bool,
    /// Reset by the sender or stopped by the receiver: nothing is promised any more.
    given_up: bool,
    /// Taken by `read`, in order.
    read: usize,
    /// Taken as a sink.
    sink: Option<RangeSet>,
    complete: bool,
}

/// By stream and sending side.
type Strings = BTreeMap<(StreamId, usize), Direction>;

/// Checks what arrives at side `to` as it comes.
struct Check<'a> {
    strings: &'a mut Strings,
    to: usize,
    taken: Vec<(StreamId, u64)>,
}

impl Sink for Check<'_> {
    fn data(&mut self, stream: StreamId, offset: u64, bytes: &[u8]) {
        let direction = self.strings.get_mut(&(stream, 1 - self.to)).expect("a stream that exists");
        let end = offset + bytes.len() as u64;
        assert_eq!(direction.given.get(offset as usize..end as usize), Some(bytes), "{stream:?} at {offset}");
        let seen = direction.sink.as_mut().expect("received as a sink");
        assert_eq!(seen.insert(offset..end), bytes.len() as u64, "each byte once");
        self.taken.push((stream, bytes.len() as u64));
    }
}

struct Flight {
    to: usize,
    number: u64,
    ecn: u8,
    payload: Vec<u8>,
}

struct Pair {
    conns: [Connection; 2],
    numbers: [u64; 2],
    /// Numbers that a side heard: the session hands in each once.
    heard: [RangeSet; 2],
    strings: Strings,
    streams: Vec<StreamId>,
    flying: Vec<Flight>,
    now: Time,
    given: usize,
}

impl Pair {
    fn poll(&mut self, side: usize, most: usize) {
        let mut room = [0; ROOM];
        for _ in 0..most {
            if self.flying.len() >= FLYING_MAX {
                return;
            }
            let number = self.numbers[side];
            let Some(meta) = self.conns[side].poll_payload(self.now, number, &mut room, &mut Sources) else {
                return;
            };
            self.numbers[side] += 1;
            self.flying.push(Flight { to: 1 - side, number, ecn: 2, payload: room[..meta.len].to_vec() });
        }
    }

    fn deliver(&mut self, flight: &Flight) {
        let to = flight.to;
        if self.heard[to].insert(flight.number..flight.number + 1) == 0 {
            return;
        }
        let mut check = Check { strings: &mut self.strings, to, taken: Vec::new() };
        let handled =
            self.conns[to].handle_payload(self.now, flight.number, flight.ecn, &flight.payload, &mut check);
        assert_eq!(handled, Ok(()), "an honest peer breaks no rule");
        for (stream, bytes) in check.taken {
            self.conns[to].consumed(stream, bytes);
        }
        self.conns[to].end_of_batch(self.now);
        self.events(to);
    }

    fn events(&mut self, side: usize) {
        let mut count = 0;
        while let Some(event) = self.conns[side].poll_event() {
            count += 1;
            assert!(count <= CONNECTION_EVENTS_MAX);
            match event {
                Event::Opened { stream, .. } => assert!(self.streams.contains(&stream), "somebody opened it"),
                Event::Finished { stream, final_size } => {
                    let direction = &self.strings[&(stream, 1 - side)];
                    assert!(direction.ended && direction.given.len() as u64 == final_size);
                    if let Some(seen) = &direction.sink {
                        assert!(seen.covers(0..final_size));
                        self.strings.get_mut(&(stream, 1 - side)).expect("there").complete = true;
                    }
                }
                Event::Acked(stream) => {
                    // The other side has it all, whether or not it was read.
                    assert!(self.strings[&(stream, side)].ended || self.strings[&(stream, side)].given_up);
                }
                Event::SourceFailed(_) => panic!("sources do not fail"),
                _ => {}
            }
        }
    }

    /// Reads everything that can be read at both ends.
    fn read(&mut self, most: usize) {
        for ((stream, from), direction) in &mut self.strings {
            if direction.complete || direction.sink.is_some() {
                continue;
            }
            let mut got = Vec::new();
            let state = self.conns[1 - from].read(*stream, &mut got, most);
            let end = direction.read + got.len();
            assert_eq!(direction.given.get(direction.read..end), Some(&got[..]), "{stream:?}");
            direction.read = end;
            match state {
                ReadState::Finished => {
                    assert!(direction.ended && end == direction.given.len());
                    direction.complete = true;
                }
                ReadState::Reset(_) => {
                    assert!(direction.given_up);
                    direction.complete = true;
                }
                ReadState::More | ReadState::Blocked | ReadState::Gone => {}
            }
        }
    }

    fn local(&mut self, input: &mut Input<'_>) {
        let side = usize::from(input.flag());
        let at = input.below(self.streams.len().max(1));
        let known =
            self.streams.get(at).copied().filter(|stream| self.conns[side].channel(*stream).is_some());
        match (input.below(8), known) {
            (0, _) | (_, None) => {
                if self.streams.len() >= STREAMS_MAX {
                    return;
                }
                let sink = input.flag();
                let mode = if sink { RecvMode::Sink } else { RecvMode::Ordered };
                let stream = self.conns[side].open(ChannelId(3), mode).expect("few streams");
                self.streams.push(stream);
                self.strings.insert((stream, side), Direction::default());
                let back = Direction { sink: sink.then(RangeSet::new), ..Direction::default() };
                self.strings.insert((stream, 1 - side), back);
            }
            (1 | 2, Some(stream)) => {
                let len = usize::from(input.half()).min(BYTES_MAX - self.given);
                let seed = u64::from(input.byte());
                let bytes: Vec<u8> = (0..len as u64).map(|at| content(seed, at)).collect();
                let taken = self.conns[side].write(stream, &bytes).unwrap_or(0);
                self.give(stream, side, &bytes[..taken]);
            }
            (3 | 4, Some(stream)) => {
                let len = (input.word() as usize % 100_000).min(BYTES_MAX - self.given);
                let seed = u64::from(input.byte());
                if self.conns[side].attach(stream, SourceId(seed), len as u64).is_ok() {
                    let bytes: Vec<u8> = (0..len as u64).map(|at| content(seed, at)).collect();
                    self.give(stream, side, &bytes);
                }
            }
            (5, Some(stream)) => self.finish(stream, side),
            (6, Some(stream)) => {
                if input.flag() {
                    self.conns[side].reset(stream, 5);
                    self.strings.get_mut(&(stream, side)).expect("there").given_up = true;
                } else {
                    self.conns[side].stop(stream, 6);
                    let back = self.strings.get_mut(&(stream, 1 - side)).expect("there");
                    (back.given_up, back.complete) = (true, true);
                }
            }
            (_, Some(stream)) => match input.byte() % 4 {
                0 => self.conns[side].path_changed(self.now),
                1 => self.conns[side].prioritise(stream),
                2 => self.conns[side].set_window(stream, input.number()),
                _ => self.conns[side].ping(),
            },
        }
        self.events(side);
    }

    fn give(&mut self, stream: StreamId, side: usize, bytes: &[u8]) {
        self.given += bytes.len();
        self.strings.get_mut(&(stream, side)).expect("there").given.extend_from_slice(bytes);
    }

    fn finish(&mut self, stream: StreamId, side: usize) {
        self.conns[side].finish(stream);
        self.strings.get_mut(&(stream, side)).expect("there").ended = true;
    }

    fn timers(&mut self) {
        for side in 0..2 {
            if self.conns[side].poll_timeout().is_some_and(|at| at <= self.now) {
                self.conns[side].handle_timeout(self.now);
                self.events(side);
            }
        }
    }

    /// A network that loses nothing: everything that was promised arrives, and nothing stays under way.
    fn finish_all(&mut self) {
        for _ in 0..8_000 {
            for (stream, from) in self.strings.keys().copied().collect::<Vec<_>>() {
                let open = self.conns[from].channel(stream).is_some();
                if open && !self.strings[&(stream, from)].ended {
                    self.finish(stream, from);
                }
            }
            (0..2).for_each(|side| self.poll(side, 64));
            if self.flying.is_empty() {
                let timer = self.conns.iter().filter_map(Connection::poll_timeout).min();
                match timer {
                    Some(at) => self.now = self.now.max(at),
                    None if self.is_over() => return,
                    None => panic!("nobody waits for anything: {:#?}", self.strings.keys()),
                }
            } else {
                self.now += Duration::from_millis(2);
                for flight in std::mem::take(&mut self.flying) {
                    self.deliver(&flight);
                }
            }
            self.timers();
            self.read(usize::MAX);
            if self.is_over() {
                return;
            }
        }
        let timers: Vec<_> = self.conns.iter().map(Connection::poll_timeout).collect();
        let state: Vec<_> = self.conns.iter().map(Connection::stats).collect();
        panic!("unfinished at {:?}, timers {timers:?}: {state:#?}", self.now);
    }

    fn is_over(&mut self) -> bool {
        let conns = &mut self.conns;
        let done = self.strings.iter().all(|((stream, from), direction)| {
            direction.complete || direction.given_up && conns[1 - from].channel(*stream).is_none()
        });
        done && self.flying.is_empty() && self.conns.iter().all(Connection::is_idle)
    }
}

/// See the module.
pub fn pair(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = Time::from_millis(1000);
    let last = bytes.last().copied().unwrap_or(0);
    let conn = |initiator| {
        let mut config = Config::new(initiator);
        if last & 1 == 1 {
            // A script gives too little for the protocol's.
            config.session_window = 4096 << (last >> 1 & 7);
        }
        Connection::new(now, config)
    };
    let mut pair = Pair {
        conns: [conn(true), conn(false)],
        numbers: [0; 2],
        heard: [RangeSet::new(), RangeSet::new()],
        strings: Strings::new(),
        streams: Vec::new(),
        flying: Vec::new(),
        now,
        given: 0,
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.below(10) {
            0..=2 => pair.local(&mut input),
            3 | 4 => {
                let (side, most) = (usize::from(input.flag()), 1 + input.below(40));
                pair.poll(side, most);
            }
            5 | 6 => {
                // Some of what flies arrives, from anywhere in it; some of it again later.
                for _ in 0..1 + input.below(8) {
                    if pair.flying.is_empty() {
                        break;
                    }
                    let at = input.below(pair.flying.len());
                    let mut flight = pair.flying.remove(at);
                    match input.byte() % 8 {
                        0 => continue,
                        1 => flight.ecn = 3,
                        2 => pair.flying.push(Flight { payload: flight.payload.clone(), ..flight }),
                        _ => {}
                    }
                    pair.deliver(&flight);
                }
            }
            7 => pair.read(input.half().into()),
            8 => pair.flying.truncate(usize::from(input.byte())),
            _ => {
                pair.now += Duration::from_micros(u64::from(input.half()) * 8);
                pair.timers();
            }
        }
    }
    pair.finish_all();
    for direction in pair.strings.values().filter(|direction| !direction.given_up) {
        let whole = direction.sink.as_ref().is_some_and(|seen| seen.covers(0..direction.given.len() as u64));
        assert!(whole || direction.read == direction.given.len(), "all of it arrived");
    }
}

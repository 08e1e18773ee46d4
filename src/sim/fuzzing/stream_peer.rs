//! A stream connection whose peer is authenticated and hostile: any frames, between any local calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Input;
use crate::base::{ChannelId, RangeSet, StreamId, Time};
use crate::limits::{CONNECTION_EVENTS_MAX, STREAM_UNREAD_MAX, STREAMS_PER_SESSION_MAX};
use crate::stream::{
    Config, Connection, Event, ReadState, RecvMode, Sink, SourceFault, SourceId, SourceRead,
};
use crate::wire::frame::{StreamHeader, Writer};

/// Payload of the largest packet.
pub(super) const ROOM: usize = 1443;
const STEPS_MAX: usize = 400;
/// Packets that one connection may have to say at one instant: a whole window of small ones is far fewer.
const PACKETS_MAX: usize = 4000;

/// A payload of a few frames. `known` are streams that the victim knows, `sent` the next number that it uses.
pub(super) fn frames(input: &mut Input<'_>, known: u64, sent: u64) -> Vec<u8> {
    let mut room = [0; ROOM];
    let mut out = Writer::new(&mut room);
    for _ in 0..1 + input.below(4) {
        frame(input, &mut out, known, sent);
    }
    let len = out.written();
    let mut payload = room[..len].to_vec();
    if input.one_in(16) {
        input.mutate(&mut payload);
        payload.truncate(ROOM);
    }
    payload
}

fn frame(input: &mut Input<'_>, out: &mut Writer<'_>, known: u64, sent: u64) {
    let stream = StreamId(match input.byte() % 16 {
        0 => input.number(),
        id => u64::from(id) % known.max(1),
    });
    let _ = match input.below(12) {
        0..=3 => {
            let channel = match input.byte() % 8 {
                0 => None,
                7 => Some(ChannelId(input.half())),
                number => Some(ChannelId(1 + u16::from(number) % 2)),
            };
            let offset = if input.flag() { 0 } else { input.number() };
            let header =
                StreamHeader { stream, channel, offset: offset.min((1 << 62) - 2000), fin: input.one_in(4) };
            let bytes = input.bytes(200);
            if out.room() > header.size(Some(bytes.len())) + bytes.len() {
                let _ = out.stream(&header, Some(bytes.len()));
                if let Some(room) = out.take(bytes.len()) {
                    room.copy_from_slice(bytes);
                }
            }
            Some(())
        }
        4 | 5 => {
            // Mostly of packets that were sent.
            let mut numbers = RangeSet::new();
            for _ in 0..1 + input.below(3) {
                let start =
                    if input.one_in(16) { input.number() } else { u64::from(input.half()) % (sent + 2) };
                let start = start.min((1 << 62) - 300);
                numbers.insert(start..start + 1 + u64::from(input.byte()));
            }
            out.ack(input.number(), u64::from(input.byte() % 4), &numbers)
        }
        6 => out.reset(stream, input.number(), if input.flag() { 0 } else { input.number() }),
        7 => out.stop(stream, input.number()),
        8 => match input.byte() % 3 {
            0 => out.max_data(input.number()),
            1 => out.max_stream_data(stream, input.number()),
            _ => out.max_streams(input.number()),
        },
        9 => out.datagram(ChannelId(input.half()), input.bytes(100)),
        10 => out.ping(),
        _ => {
            let raw = input.bytes(20);
            out.take(raw.len()).map(|room| room.copy_from_slice(raw))
        }
    };
}

/// Source bytes that fail when they are told to.
struct Sources(bool);

impl SourceRead for Sources {
    fn read(&mut self, _: SourceId, _: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        into.fill(7);
        if self.0 { Err(SourceFault) } else { Ok(()) }
    }
}

/// Streams received as they come: never the same byte twice.
#[derive(Default)]
struct Seen(BTreeMap<StreamId, RangeSet>);

impl Sink for Seen {
    fn data(&mut self, stream: StreamId, offset: u64, bytes: &[u8]) {
        let range = offset..offset + bytes.len() as u64;
        let fresh = self.0.entry(stream).or_default().insert(range);
        assert_eq!(fresh, bytes.len() as u64, "a byte of {stream:?} twice");
    }
}

struct Model {
    conn: Connection,
    now: Time,
    /// The next number of the victim and of the peer.
    sent: u64,
    number: u64,
    sources: Sources,
    sink: Seen,
    /// Bytes read from the streams in order.
    read: BTreeMap<StreamId, u64>,
    consumed: BTreeMap<StreamId, u64>,
    streams: BTreeSet<StreamId>,
    opened: BTreeSet<StreamId>,
}

impl Model {
    fn events(&mut self) {
        let mut count = 0;
        while let Some(event) = self.conn.poll_event() {
            count += 1;
            assert!(count <= CONNECTION_EVENTS_MAX, "events are bounded");
            match event {
                Event::Opened { stream, .. } => {
                    assert!(self.opened.insert(stream), "a stream opens once");
                    self.streams.insert(stream);
                }
                Event::Finished { stream, final_size } => {
                    if let Some(seen) = self.sink.0.get(&stream) {
                        // What was read before the sink was chosen does not come again.
                        let read = self.read.get(&stream).copied().unwrap_or(0);
                        assert!(seen.covers(read..final_size), "all of it is here");
                    }
                }
                _ => {}
            }
        }
    }

    fn poll(&mut self, most: usize) {
        let mut room = [0; ROOM];
        for _ in 0..most {
            let Some(meta) = self.conn.poll_payload(self.now, self.sent, &mut room, &mut self.sources) else {
                return;
            };
            assert!((1..=ROOM).contains(&meta.len));
            self.sent += 1;
        }
        assert!(most < PACKETS_MAX, "poll_payload does not end");
    }

    /// All that is due is done, and then time must pass.
    fn settle(&mut self) {
        for _ in 0..16 {
            self.poll(PACKETS_MAX);
            self.events();
            if self.conn.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.conn.handle_timeout(self.now);
        }
        panic!("a timer that does not move: {:?} at {:?}", self.conn.poll_timeout(), self.now);
    }

    fn local(&mut self, input: &mut Input<'_>) {
        let at = input.below(self.streams.len().max(1));
        let any = self.streams.iter().nth(at).copied();
        let Some(stream) = any.filter(|_| !input.one_in(4)) else {
            let mode = if input.flag() { RecvMode::Sink } else { RecvMode::Ordered };
            if let Ok(stream) = self.conn.open(ChannelId(3), mode) {
                assert!(self.streams.insert(stream));
            }
            return;
        };
        match input.below(11) {
            0 | 1 => _ = self.conn.write(stream, &vec![1; input.half().into()]),
            2 => _ = self.conn.attach(stream, SourceId(9), u64::from(input.word() % 100_000)),
            3 => self.conn.finish(stream),
            4 => self.conn.reset(stream, 1),
            5 => self.conn.stop(stream, 2),
            6 => {
                let mut into = Vec::new();
                let state = self.conn.read(stream, &mut into, input.half().into());
                assert!(state != ReadState::Gone || into.is_empty());
                *self.read.entry(stream).or_default() += into.len() as u64;
            }
            7 => {
                // Never more than came.
                let came =
                    self.sink.0.get(&stream).map_or(0, |seen| seen.iter().map(|r| r.end - r.start).sum());
                let done = self.consumed.entry(stream).or_default();
                let more = (came - *done).min(u64::from(input.half()));
                *done += more;
                self.conn.consumed(stream, more);
            }
            8 => self.conn.accept(stream, RecvMode::Sink, &mut self.sink),
            9 => self.conn.set_window(stream, input.number()),
            _ => match input.byte() % 4 {
                0 => self.conn.ping(),
                1 => self.conn.path_changed(self.now),
                2 => self.conn.prioritise(stream),
                _ => _ = self.conn.datagram(ChannelId(1), input.bytes(300)),
            },
        }
    }
}

/// See the module.
pub fn peer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let initiator = input.flag();
    let strict = input.flag();
    let mut config = Config::new(initiator);
    if strict {
        config.unread_max = STREAM_UNREAD_MAX;
    }
    let now = Time::from_millis(5);
    let mut model = Model {
        conn: Connection::new(now, config),
        now,
        sent: 0,
        number: 0,
        sources: Sources(false),
        sink: Seen::default(),
        read: BTreeMap::new(),
        consumed: BTreeMap::new(),
        streams: BTreeSet::new(),
        opened: BTreeSet::new(),
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..=3 => {
                let payload = if input.one_in(16) {
                    input.bytes(ROOM).to_vec()
                } else {
                    frames(&mut input, 12, model.sent)
                };
                // Numbers of a session never come twice, and may be skipped.
                model.number += 1 + u64::from(input.byte() / 250);
                let ecn = input.byte() % 4;
                let taken =
                    model.conn.handle_payload(model.now, model.number, ecn, &payload, &mut model.sink);
                model.events();
                if taken.is_err() {
                    return;
                }
                if input.flag() {
                    model.conn.end_of_batch(model.now);
                }
            }
            4 | 5 => model.local(&mut input),
            6 => {
                let most = input.byte().into();
                model.sources.0 = input.byte() == 0xff;
                model.poll(most);
            }
            _ => {
                model.now = match input.byte() % 4 {
                    0 => model.conn.poll_timeout().map_or(model.now, |at| model.now.max(at)),
                    1 => model.now + Duration::from_secs(input.byte().into()),
                    _ => model.now + Duration::from_micros(u64::from(input.half()) * 16),
                };
                model.conn.handle_timeout(model.now);
                model.settle();
            }
        }
        model.events();
        let stats = model.conn.stats();
        let ours = model.streams.len() - model.opened.len();
        assert!(stats.streams <= ours + STREAMS_PER_SESSION_MAX as usize, "{} streams", stats.streams);
        assert!(stats.in_flight <= stats.sent_bytes);
    }
    model.settle();
}

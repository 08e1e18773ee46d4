//! One stream from memory to memory: what a node does for a transfer, without store, verification and files.

use tornet::base::{ChannelId, Place, StreamId, Time};
use tornet::limits::{
    DATAGRAM_MAX, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX,
};
use tornet::node::{Clock, Input, Output, Train, World};
use tornet::session::{PacketKind, Received};
use tornet::shard::Core;
use tornet::stream::{Config, Connection, Event, RecvMode, Sink, SourceFault, SourceId, SourceRead};

use super::link::{self, Link};
use super::meter::{self, Moved};
use super::{End, Fallible, Plan};

/// The bytes that are sent again and again, as in quinn's bulk test.
const MEMORY: usize = 1 << 20;
const CHANNEL: ChannelId = ChannelId(77);

pub fn run(end: End, plan: &Plan) -> Fallible<()> {
    let moved = Moved::default();
    let counted = moved.clone();
    let running = link::run(end, plan, move |clock, rng| Streamer {
        link: Link::new(end, clock, rng),
        sends: matches!(end, End::To(_)),
        connection: None,
        memory: Memory(vec![0xab; MEMORY]),
        taken: Taken(0),
        last: None,
        moved: counted,
    })?;
    meter::measure("stream", plan.seconds, &moved, Some(&running.handle))
}

struct Memory(Vec<u8>);

impl SourceRead for Memory {
    fn read(&mut self, _: SourceId, offset: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        let at = offset as usize % MEMORY;
        let first = into.len().min(MEMORY - at);
        let (head, tail) = into.split_at_mut(first);
        head.copy_from_slice(&self.0[at..at + first]);
        tail.copy_from_slice(&self.0[..tail.len()]);
        Ok(())
    }
}

struct Taken(u64);

impl Sink for Taken {
    fn data(&mut self, _: StreamId, _: u64, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

struct Streamer {
    link: Link,
    sends: bool,
    connection: Option<Connection>,
    memory: Memory,
    taken: Taken,
    /// The stream that comes in.
    last: Option<StreamId>,
    moved: Moved,
}

impl Streamer {
    fn connect(&mut self, clock: Clock) -> Option<()> {
        if self.connection.is_none() && self.link.key.is_some() {
            let mut connection = Connection::new(clock.now, Config::new(self.sends));
            if self.sends {
                let stream = connection.open(CHANNEL, RecvMode::Ordered).ok()?;
                connection.attach(stream, SourceId(0), 1 << 60).ok()?;
            }
            self.connection = Some(connection);
        }
        self.connection.as_ref().map(drop)
    }

    fn settle(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some(event) = connection.poll_event() {
            if let Event::Opened { stream, .. } = event {
                connection.accept(stream, RecvMode::Sink, &mut self.taken);
                self.last = Some(stream);
            }
        }
        let bytes = std::mem::take(&mut self.taken.0);
        if let Some(stream) = self.last
            && bytes > 0
        {
            connection.consumed(stream, bytes);
            self.moved.add(bytes, 0);
        }
    }
}

impl Core for Streamer {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        if let Input::Train(train) = input {
            let bytes = world.bytes_mut(train.place);
            for datagram in bytes.chunks_mut(train.segment as usize) {
                let sessions = &mut self.link.sessions;
                match sessions.handle_datagram(clock.now, clock.wall, train.path, datagram) {
                    Received::Packet { number, payload, .. } => {
                        if self.link.key.is_none() {
                            // Told in an event that was not asked for yet.
                            self.link.hear();
                        }
                        if self.connect(clock).is_some()
                            && let Some(connection) = &mut self.connection
                        {
                            let payload = &datagram[payload];
                            let taken = &mut self.taken;
                            connection
                                .handle_payload(clock.now, number, train.ecn, payload, taken)
                                .expect("our own peer keeps the rules");
                        }
                    }
                    Received::Control { number, .. } => {
                        if let Some(connection) = &mut self.connection {
                            connection.on_other_packet_received(clock.now, number);
                        }
                    }
                    _ => {}
                }
            }
            if let Some(connection) = &mut self.connection {
                connection.end_of_batch(clock.now);
            }
        }
        if let Some(connection) = &mut self.connection
            && connection.poll_timeout().is_some_and(|at| at <= clock.now)
        {
            connection.handle_timeout(clock.now);
        }
        self.settle();
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        if let Some(output) = self.link.poll(clock, world) {
            return Some(output);
        }
        self.connect(clock)?;
        let (key, connection) = (self.link.key?, self.connection.as_mut()?);
        let path = self.link.sessions.path(key)?;
        let buf = world.alloc()?;
        let room = Place::room(buf);
        // As `node::send` does it.
        let (mut segment, mut len, mut fresh) = (connection.packet_size(), 0, 0);
        for index in 0..TRAIN_SEGMENTS_MAX {
            let size_max = (if index == 0 { DATAGRAM_MAX } else { segment }).min(TRAIN_SIZE_MAX - len);
            if size_max < segment {
                break;
            }
            if let Some(skipped) = self.link.sessions.take_skipped(key) {
                connection.on_number_skipped(skipped);
            }
            let number = self.link.sessions.next_number(key)?;
            let packet = world.bytes_mut(room.part(len as u32, size_max as u32)?);
            let payload = &mut packet[HEADER_SIZE + 1..size_max - TAG_SIZE];
            let written = connection.poll_payload(clock.now, number, payload, &mut self.memory);
            let Some(meta) = written else { break };
            let size = meta.len + PACKET_OVERHEAD;
            self.link.sessions.seal(clock.now, key, PacketKind::Stream, &mut packet[..size]).ok()?;
            len += size;
            fresh += 1;
            if size != segment {
                segment = segment.max(size);
                break;
            }
        }
        if len == 0 {
            world.free(buf);
            return None;
        }
        if self.sends {
            self.moved.add(len as u64, fresh);
        }
        let place = Place { len: len as u32, ..room };
        let ecn = if connection.is_ecn_capable() { 2 } else { 0 };
        Some(Output::Train(Train { path, place, segment: segment.min(len) as u32, ecn }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        let connection = self.connection.as_ref().and_then(Connection::poll_timeout);
        [self.link.sessions.poll_timeout(), connection].into_iter().flatten().min()
    }
}

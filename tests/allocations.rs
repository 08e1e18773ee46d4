//! The packet path asks for no memory: sessions and streams, each side of them, once they run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tornet::base::{ChannelId, Path, Rng, StreamId, Time, UnixMs};
use tornet::crypto::{Identity, Secret};
use tornet::limits::{DATAGRAM_MAX, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE};
use tornet::session::{Config, Event, PacketKind, Received, SessionKey, Sessions};
use tornet::stream::{self, Connection, RecvMode, Sink, SourceFault, SourceId, SourceRead};
use tornet::sys::allocations::{Counted, own_allocations};

#[global_allocator]
static ALLOCATOR: Counted<std::alloc::System> = Counted(std::alloc::System);

const WALL: UnixMs = UnixMs(1_700_000_000_000);
const TRAIN: usize = 44;

fn path(from: u16, to: u16) -> Path {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Path { local: at(from), remote: at(to) }
}

/// One end: its sessions, and the one to the other end.
struct End {
    sessions: Sessions,
    key: Option<SessionKey>,
}

/// A confirmed session between two ends, made in memory.
fn connected(now: Time) -> [End; 2] {
    let identities = [1, 2].map(|seed| Arc::new(Identity::new(Secret::from_bytes([seed; 32]), 0, 0)));
    let mut rng = Rng::from_number(7);
    let mut ends = identities.each_ref().map(|identity| {
        let config = Config { place_floor_bits: 0, ..Config::new(Arc::clone(identity), b"test", UnixMs(0)) };
        End { sessions: Sessions::new(config, rng.fork(), now), key: None }
    });
    ends[0].sessions.connect(now, WALL, identities[1].card(), &[path(1, 2).remote], b"").expect("started");
    let mut buf = [0; DATAGRAM_MAX];
    for _ in 0..8 {
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some((_, len)) = ends[from].sessions.poll_transmit(now, WALL, &mut buf) {
                let towards = if to == 1 { path(2, 1) } else { path(1, 2) };
                ends[to].sessions.handle_datagram(now, WALL, towards, &mut buf[..len]);
            }
            while let Some(event) = ends[to].sessions.poll_event() {
                if let Event::Established { session, .. } = event {
                    ends[to].key = Some(session);
                }
            }
        }
    }
    ends
}

/// Allocations of this thread while `act` runs.
fn counted(act: impl FnOnce()) -> u64 {
    let before = own_allocations();
    act();
    own_allocations() - before
}

#[test]
fn datagrams_of_a_session_are_sealed_and_opened_without_one() {
    let mut now = Time::from_millis(1000);
    let mut ends = connected(now);
    let keys = ends.each_ref().map(|end| end.key.expect("established"));
    let mut packet = [5; 1350];
    let mut turn = |count: usize| {
        for _ in 0..count {
            now += Duration::from_micros(1);
            ends[0].sessions.seal(now, keys[0], PacketKind::Datagram, &mut packet).expect("sealed");
            let received = ends[1].sessions.handle_datagram(now, WALL, path(2, 1), &mut packet);
            assert!(
                matches!(received, Received::Packet { session, .. } if session == keys[1]),
                "{received:?}"
            );
        }
    };
    turn(100);
    assert_eq!(counted(|| turn(20_000)), 0);
    assert!(counted(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "an allocation would be seen");
}

struct Zeros;

impl SourceRead for Zeros {
    fn read(&mut self, _: SourceId, _: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        into.fill(0);
        Ok(())
    }
}

#[derive(Default)]
struct Taken(u64);

impl Sink for Taken {
    fn data(&mut self, _: StreamId, _: u64, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

/// Tables and queues grow to the largest flight at first; from then on they stay.
#[test]
fn a_stream_sends_receives_and_acknowledges_without_one() {
    let mut now = Time::from_millis(1000);
    let mut ends = [true, false].map(|initiator| Connection::new(now, stream::Config::new(initiator)));
    let stream = ends[0].open(ChannelId(3), RecvMode::Ordered).expect("allowed");
    ends[0].attach(stream, SourceId(1), 1 << 50).expect("open");
    let (mut numbers, mut taken, mut moved) = ([0u64; 2], Taken::default(), 0u64);
    let mut room = [0; DATAGRAM_MAX];
    let mut turn = |count: usize| {
        for _ in 0..count {
            now += Duration::from_micros(50);
            for (from, to) in [(0, 1), (1, 0)] {
                for _ in 0..TRAIN {
                    let payload = &mut room[HEADER_SIZE + 1..DATAGRAM_MAX - TAG_SIZE];
                    let written = ends[from].poll_payload(now, numbers[from], payload, &mut Zeros);
                    let Some(meta) = written else { break };
                    let payload = &payload[..meta.len];
                    ends[to].handle_payload(now, numbers[from], 0, payload, &mut taken).expect("fine");
                    numbers[from] += 1;
                }
                ends[to].end_of_batch(now);
                while let Some(event) = ends[to].poll_event() {
                    if let stream::Event::Opened { stream, .. } = event {
                        ends[to].accept(stream, RecvMode::Sink, &mut taken);
                    }
                }
            }
            moved += taken.0;
            ends[1].consumed(stream, std::mem::take(&mut taken.0));
        }
        moved
    };
    let warm = turn(5_000);
    let packet = (DATAGRAM_MAX - PACKET_OVERHEAD) as u64;
    assert!(warm > 5_000 * TRAIN as u64 * packet / 2, "whole trains go");
    assert_eq!(counted(|| _ = turn(2_000)), 0);
}

//! What one packet costs in the stream core, apart from encryption and system calls: two connections in
//! one thread, whole trains, nothing lost. `send` is making packets and taking acknowledgements, `receive`
//! is taking packets into a buffer and making acknowledgements.

#![allow(clippy::disallowed_methods, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tornet::base::{ChannelId, StreamId, Time};
use tornet::stream::{Config, Connection, Event, RecvMode, Sink, SourceFault, SourceId, SourceRead};

const TRAIN: usize = 44;
const ROOM: usize = 1443;

struct Zeros;
impl SourceRead for Zeros {
    fn read(&mut self, _: SourceId, _: u64, into: &mut [u8]) -> Result<(), SourceFault> {
        into.fill(0);
        Ok(())
    }
}

/// Copies like a slice buffer does.
struct Slices(Vec<u8>, u64);
impl Sink for Slices {
    fn data(&mut self, _: StreamId, offset: u64, bytes: &[u8]) {
        let at = offset as usize % (self.0.len() - bytes.len());
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self.1 += bytes.len() as u64;
    }
}

struct World {
    now: Time,
    ends: [Connection; 2],
    numbers: [u64; 2],
    stream: StreamId,
    slices: Slices,
    train: Vec<u8>,
    lens: Vec<usize>,
    sent: Duration,
    received: Duration,
}

impl World {
    fn new() -> Self {
        let now = Time::from_millis(1);
        let mut ends = [true, false].map(|initiator| Connection::new(now, Config::new(initiator)));
        let stream = ends[0].open(ChannelId(3), RecvMode::Ordered).expect("allowed");
        ends[0].attach(stream, SourceId(1), 1 << 50).expect("open");
        let slices = Slices(vec![0; 1 << 20], 0);
        let (train, lens) = (vec![0; TRAIN * ROOM], Vec::with_capacity(TRAIN));
        let (sent, received) = (Duration::ZERO, Duration::ZERO);
        let mut world = Self { now, ends, numbers: [0; 2], stream, slices, train, lens, sent, received };
        (0..10_000).for_each(|_| _ = world.turn());
        assert_eq!(world.ends[0].stats().lost_packets, 0);
        world
    }

    /// One train there and its acknowledgement back; the number of packets in the train.
    fn turn(&mut self) -> u64 {
        self.now += Duration::from_micros(50);
        let begin = Instant::now();
        self.lens.clear();
        for slot in self.train.chunks_exact_mut(ROOM) {
            match self.ends[0].poll_payload(self.now, self.numbers[0], slot, &mut Zeros) {
                Some(meta) => self.lens.push(meta.len),
                None => break,
            }
            self.numbers[0] += 1;
        }
        self.sent += begin.elapsed();
        self.now += Duration::from_micros(50);
        let begin = Instant::now();
        let first = self.numbers[0] - self.lens.len() as u64;
        let packets = self.train.chunks_exact(ROOM).zip(&self.lens);
        for (number, (slot, len)) in (first..).zip(packets) {
            self.ends[1].handle_payload(self.now, number, 0, &slot[..*len], &mut self.slices).expect("fine");
        }
        self.ends[1].end_of_batch(self.now);
        while let Some(event) = self.ends[1].poll_event() {
            if let Event::Opened { stream, .. } = event {
                self.ends[1].accept(stream, RecvMode::Sink, &mut self.slices);
            }
        }
        self.ends[1].consumed(self.stream, std::mem::take(&mut self.slices.1));
        let mut room = [0; ROOM];
        let answer = self.ends[1].poll_payload(self.now, self.numbers[1], &mut room, &mut Zeros);
        self.received += begin.elapsed();
        if let Some(meta) = answer {
            let begin = Instant::now();
            let payload = black_box(&room[..meta.len]);
            self.ends[0].handle_payload(self.now, self.numbers[1], 0, payload, &mut ()).expect("fine");
            self.numbers[1] += 1;
            while self.ends[0].poll_event().is_some() {}
            self.sent += begin.elapsed();
        }
        self.lens.len() as u64
    }

    fn measure(&mut self, packets: u64) {
        (self.sent, self.received) = (Duration::ZERO, Duration::ZERO);
        let mut done = 0;
        while done < packets {
            done += self.turn();
        }
        let scale = packets as f64 / done as f64;
        self.sent = self.sent.mul_f64(scale);
        self.received = self.received.mul_f64(scale);
    }
}

fn packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Elements(1));
    let mut world = World::new();
    group.bench_function("send", |b| {
        b.iter_custom(|packets| {
            world.measure(packets);
            world.sent
        })
    });
    group.bench_function("receive", |b| {
        b.iter_custom(|packets| {
            world.measure(packets);
            world.received
        })
    });
    group.finish();
}

criterion_group!(benches, packets);
criterion_main!(benches);

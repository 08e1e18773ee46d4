//! Datagrams of a session, whole trains of them, sealed and opened where they lie. The receiver answers with how
//! many came, so that the sender does not outrun it.

use std::time::Duration;

use tornet::base::{Path, Place, Time};
use tornet::limits::{HEADER_SIZE, PACKET_OVERHEAD, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use tornet::node::{Clock, Input, Output, Train, World};
use tornet::session::{PacketKind, Received};
use tornet::shard::Core;

use super::link::{self, Link};
use super::meter::{self, Moved};
use super::{End, Fallible, Plan};

/// Trains ahead of the receiver's word.
const WINDOW: u64 = 48;
/// An answer: a packet with one number.
const ANSWER: usize = PACKET_OVERHEAD + 8;

pub fn run(end: End, plan: &Plan) -> Fallible<()> {
    let moved = Moved::default();
    let (counted, size) = (moved.clone(), plan.size);
    match end {
        End::At(_) => {
            let running = link::run(end, plan, move |clock, rng| Sink {
                link: Link::new(end, clock, rng),
                heard: 0,
                told: 0,
                moved: counted,
            })?;
            meter::measure("datagrams", plan.seconds, &moved, Some(&running.handle))
        }
        End::To(_) => {
            let per_train = (TRAIN_SIZE_MAX / size).min(TRAIN_SEGMENTS_MAX);
            let running = link::run(end, plan, move |clock, rng| Source {
                link: Link::new(end, clock, rng),
                size,
                per_train,
                sent: 0,
                heard: 0,
                resume_at: None,
                moved: counted,
            })?;
            meter::measure("datagrams", plan.seconds, &moved, Some(&running.handle))
        }
    }
}

struct Source {
    link: Link,
    size: usize,
    per_train: usize,
    sent: u64,
    heard: u64,
    /// Answers may be lost: go on after a pause.
    resume_at: Option<Time>,
    moved: Moved,
}

impl Core for Source {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        if let Input::Train(train) = input {
            let bytes = world.bytes_mut(train.place);
            for datagram in bytes.chunks_mut(train.segment as usize) {
                let received =
                    self.link.sessions.handle_datagram(clock.now, clock.wall, train.path, datagram);
                if let Received::Packet { payload, .. } = received
                    && let Some(count) = datagram[payload].first_chunk()
                {
                    self.heard = self.heard.max(u64::from_le_bytes(*count));
                    self.resume_at = Some(clock.now + Duration::from_millis(20));
                }
            }
        }
        if self.resume_at.is_some_and(|at| at <= clock.now) {
            self.sent = self.heard;
            self.resume_at = Some(clock.now + Duration::from_millis(20));
        }
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        if let Some(output) = self.link.poll(clock, world) {
            return Some(output);
        }
        let key = self.link.key?;
        if self.sent >= self.heard + WINDOW * self.per_train as u64 {
            return None;
        }
        let path = self.link.sessions.path(key)?;
        let room = Place::room(world.alloc()?);
        let len = (self.size * self.per_train) as u32;
        let place = room.part(0, len)?;
        for packet in world.bytes_mut(place).chunks_exact_mut(self.size) {
            self.link.sessions.seal(clock.now, key, PacketKind::Datagram, packet).ok()?;
        }
        self.resume_at.get_or_insert(clock.now + Duration::from_millis(20));
        self.sent += self.per_train as u64;
        self.moved.add(u64::from(len), self.per_train as u64);
        Some(Output::Train(Train { path, place, segment: self.size as u32, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        [self.link.sessions.poll_timeout(), self.resume_at].into_iter().flatten().min()
    }
}

struct Sink {
    link: Link,
    heard: u64,
    told: u64,
    moved: Moved,
}

impl Core for Sink {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        let Input::Train(train) = input else { return };
        let bytes = world.bytes_mut(train.place);
        let mut opened = 0;
        for datagram in bytes.chunks_mut(train.segment as usize) {
            let received = self.link.sessions.handle_datagram(clock.now, clock.wall, train.path, datagram);
            opened += u64::from(matches!(received, Received::Packet { .. }));
        }
        self.heard += opened;
        if opened > 0 {
            self.moved.add(u64::from(train.place.len), opened);
        }
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        if let Some(output) = self.link.poll(clock, world) {
            return Some(output);
        }
        if self.told == self.heard {
            return None;
        }
        let key = self.link.key?;
        let path: Path = self.link.sessions.path(key)?;
        let place = Place::room(world.alloc()?).part(0, ANSWER as u32)?;
        let packet = world.bytes_mut(place);
        packet[HEADER_SIZE + 1..][..8].copy_from_slice(&self.heard.to_le_bytes());
        self.link.sessions.seal(clock.now, key, PacketKind::Datagram, packet).ok()?;
        self.told = self.heard;
        Some(Output::Train(Train { path, place, segment: ANSWER as u32, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.link.sessions.poll_timeout()
    }
}

//! The same trains through the shards' loop, not encrypted: what the loop adds to bare sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tornet::base::{Path, Place, Time};
use tornet::limits::{TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use tornet::node::{Clock, Input, Output, Train, World};
use tornet::shard::Core;

use super::link;
use super::meter::{self, Moved};
use super::{End, Fallible, Plan};

/// Trains ahead of the receiver's word.
const WINDOW: u64 = 48;

pub fn run(end: End, plan: &Plan) -> Fallible<()> {
    let moved = Moved::default();
    let counted = moved.clone();
    match end {
        End::At(_) => {
            let running =
                link::run(end, plan, move |_, _| Sink { path: None, heard: 0, told: 0, moved: counted })?;
            meter::measure("loop", plan.seconds, &moved, Some(&running.handle))
        }
        End::To(remote) => {
            let size = plan.size;
            let per_train = (TRAIN_SIZE_MAX / size).min(TRAIN_SEGMENTS_MAX);
            let running = link::run(end, plan, move |clock, _| Source {
                remote,
                size,
                per_train,
                sent: 0,
                heard: 0,
                resume_at: clock.now,
                moved: counted,
            })?;
            meter::measure("loop", plan.seconds, &moved, Some(&running.handle))
        }
    }
}

struct Source {
    remote: SocketAddr,
    size: usize,
    per_train: usize,
    sent: u64,
    heard: u64,
    resume_at: Time,
    moved: Moved,
}

impl Core for Source {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        if let Input::Train(train) = input
            && let Some(count) = world.bytes(train.place).first_chunk()
        {
            self.heard = self.heard.max(u64::from_le_bytes(*count));
            self.resume_at = clock.now + Duration::from_millis(20);
        }
        if self.resume_at <= clock.now {
            self.sent = self.heard;
            self.resume_at = clock.now + Duration::from_millis(20);
        }
    }

    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        if self.sent >= self.heard + WINDOW * self.per_train as u64 {
            return None;
        }
        let len = (self.size * self.per_train) as u32;
        let place = Place::room(world.alloc()?).part(0, len)?;
        self.sent += self.per_train as u64;
        self.moved.add(u64::from(len), self.per_train as u64);
        let path = Path { local: SocketAddr::from(([0, 0, 0, 0], 0)), remote: self.remote };
        Some(Output::Train(Train { path, place, segment: self.size as u32, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        Some(self.resume_at)
    }
}

struct Sink {
    path: Option<Path>,
    heard: u64,
    told: u64,
    moved: Moved,
}

impl Core for Sink {
    fn handle<W: World>(&mut self, _: Clock, input: Input, _: &mut W) {
        let Input::Train(train) = input else { return };
        let packets = u64::from(train.place.len.div_ceil(train.segment));
        self.path = Some(train.path);
        self.heard += packets;
        self.moved.add(u64::from(train.place.len), packets);
    }

    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        if self.told == self.heard {
            return None;
        }
        let path = self.path?;
        let place = Place::room(world.alloc()?).part(0, 8)?;
        world.bytes_mut(place).copy_from_slice(&self.heard.to_le_bytes());
        self.told = self.heard;
        Some(Output::Train(Train { path, place, segment: 8, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

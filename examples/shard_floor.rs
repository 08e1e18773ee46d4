//! What the shard's loop costs by itself: two shards on two cores, raw trains from one to the other over
//! loopback, each train acknowledged by a small datagram, a window of trains ahead. No cryptography, no
//! copies of ours (with `touch`: the sender writes each byte and the receiver reads it).
//!
//! ```text
//! cargo run --release --example shard_floor [seconds] [segment bytes] [window KiB] [touch] [to ADDRESS | at ADDRESS]
//! ```
//! `at` runs the receiver alone and `to` the sender alone, for two network namespaces.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use crossbeam::channel::bounded;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tornet::base::{Path, Place, Time};
use tornet::io::clock::Clocks;
use tornet::limits::{TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use tornet::node::{Clock, Command, Input, Output, Train, World};
use tornet::shard::{Core, Handle, NoChunks, Running, Settings, start};

struct Sender {
    to: Option<SocketAddr>,
    segment: u32,
    train: u32,
    window: u64,
    ahead: u64,
    touch: bool,
    /// Written into each train, so that the receiver sees them overtake one another.
    number: u64,
    /// Acknowledgements may be lost over a real path: start again after a pause.
    resume_at: Option<Time>,
}

impl Core for Sender {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, _: &mut W) {
        match input {
            Input::Train(train) => {
                self.ahead = self.ahead.saturating_sub(u64::from(train.place.len.div_ceil(train.segment)));
            }
            Input::Command(Command::Shutdown) => self.to = None,
            Input::Tick if self.resume_at.is_some_and(|at| at <= clock.now) => self.ahead = 0,
            _ => {}
        }
        self.resume_at = self.to.map(|_| clock.now + Duration::from_millis(20));
    }

    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        let remote = self.to.filter(|_| self.ahead < self.window)?;
        let buf = world.alloc()?;
        let place = Place::room(buf).part(0, self.train)?;
        if self.touch {
            world.bytes_mut(place).fill(self.ahead as u8);
        }
        self.ahead += 1;
        self.number += 1;
        world.bytes_mut(place.part(0, 8)?).copy_from_slice(&self.number.to_ne_bytes());
        let local = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().ok()?;
        Some(Output::Train(Train { path: Path { local, remote }, place, segment: self.segment, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.resume_at
    }
}

#[derive(Default)]
struct Sink {
    acks: Vec<Path>,
    touch: bool,
    sum: u64,
    highest: u64,
    overtaken: u64,
}

impl Core for Sink {
    fn handle<W: World>(&mut self, _: Clock, input: Input, world: &mut W) {
        if let Input::Train(train) = input {
            self.acks.push(train.path);
            let bytes = world.bytes(train.place);
            let number = bytes.first_chunk().map_or(0, |number| u64::from_ne_bytes(*number));
            self.overtaken += u64::from(number > 0 && number < self.highest);
            self.highest = self.highest.max(number);
            if self.touch {
                let words = world.bytes(train.place).chunks_exact(8);
                self.sum ^=
                    words.fold(0, |sum, word| sum ^ u64::from_ne_bytes(word.try_into().expect("eight")));
            }
        }
    }

    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        // One train tells of all: its number of datagrams is the number of trains that came.
        let path = *self.acks.last()?;
        let count = self.acks.len().min(TRAIN_SEGMENTS_MAX) as u32;
        let place = Place::room(world.alloc()?).part(0, 16 * count)?;
        self.acks.truncate(self.acks.len() - count as usize);
        Some(Output::Train(Train { path, place, segment: 16, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn run<C: Core + Send + 'static>(core: usize, address: &str, make: C) -> Running<C> {
    let settings = Settings {
        index: core,
        core: Some(core),
        addresses: vec![address.parse().expect("an address")],
        report_local: false,
        busy_poll: std::time::Duration::ZERO,
        clocks: Clocks::start(),
        shards: Vec::new(),
    };
    let (files, _) = bounded(1);
    start(settings, files, Box::new(drop), |_, _| (make, NoChunks)).unwrap_or_else(|e| panic!("{e}"))
}

fn counter(handle: &Handle, name: &str) -> u64 {
    handle.counters().into_iter().find(|c| c.0 == name).expect("a counter").2
}

fn show(name: &str, handle: &Handle) {
    let shown: Vec<String> =
        handle.counters().into_iter().filter(|c| c.2 > 0).map(|c| format!("{}={}", c.0, c.2)).collect();
    println!("{name}: {}", shown.join(" "));
}

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(default);
    let after = |word: &str| words.iter().position(|w| w == word).and_then(|at| words.get(at + 1)).cloned();
    let (seconds, segment, window) = (number(0, 5), number(1, 1452) as u32, number(2, 2048) << 10);
    let touch = words.iter().any(|w| w == "touch");
    let train = (TRAIN_SIZE_MAX as u32 / segment).min(TRAIN_SEGMENTS_MAX as u32) * segment;

    let sink = after("to").is_none().then(|| {
        let at = after("at").unwrap_or_else(|| "127.0.0.1:0".to_owned());
        run(1, &at, Sink { touch, ..Sink::default() })
    });
    let to = after("to").map(|a| a.parse().expect("an address"));
    let to = to.or_else(|| sink.as_ref().map(|s| s.addresses[0]));
    let sender = after("at").is_none().then(|| {
        let window = window / u64::from(train);
        let sender = Sender { to, segment, train, window, ahead: 0, touch, number: 0, resume_at: None };
        run(0, if after("to").is_some() { "0.0.0.0:0" } else { "127.0.0.1:0" }, sender)
    });
    if let Some(sender) = &sender {
        sender.handle.command(Command::Status { token: 0 }).expect("room");
    }
    let (_never, wait) = channel::<()>();
    let clocks = Clocks::start();
    let _ = wait.recv_timeout(Duration::from_secs(seconds));
    let time = clocks.now().since(Time::from_millis(1000)).as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let cpu = |t: nix::sys::time::TimeVal| t.num_microseconds() as f64 / 1e6;
    let (user, system) = (cpu(usage.user_time()), cpu(usage.system_time()));
    for (name, handle, counted) in [
        ("sender", sender.as_ref().map(|s| &s.handle), "udp_sent_bytes"),
        ("sink", sink.as_ref().map(|s| &s.handle), "udp_received_bytes"),
    ] {
        let Some(handle) = handle else { continue };
        let gbit = counter(handle, counted) as f64 * 8.0 / 1e9;
        println!(
            "{name}: {:.2} Gbit/s; this process {:.4} CPU-seconds per Gbit ({user:.2} user, {system:.2} system, {time:.1} s)",
            gbit / time,
            (user + system) / gbit,
        );
        show(name, handle);
        handle.stop();
    }
    if let Some(sink) = sink {
        let sink = sink.thread.join().expect("no panic").expect("no fault");
        println!("sink: {} trains were overtaken by later ones", sink.overtaken);
    }
}

//! Shards on real rings, over loopback. Where io_uring is not permitted they say so and pass.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crossbeam::channel::bounded;

use super::*;
use crate::base::fileop::{FileAct, FileDone, FileOp, FileOutcome, JobId};
use crate::base::{Path, Place};
use crate::io::clock::Clocks;
use crate::limits::{FILE_OPS_MAX, RECEIVE_LENT_MIN, WARM_IN_FLIGHT_MAX};
use crate::node::{Command, Report, Train};
use crate::sys::kernel::KernelError;

mod effects;
mod waiting;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(index: usize, address: &str) -> Settings {
    let addresses = vec![address.parse().expect("an address")];
    let clocks = Clocks::start();
    let (shards, busy_poll) = (Vec::new(), Duration::ZERO);
    Settings { index, core: None, addresses, report_local: true, busy_poll, clocks, shards }
}

/// Starts a shard, or says why it cannot run here.
fn run<C, S>(
    address: &str,
    reports: Sender<Report>,
    make: impl FnOnce() -> (C, S) + Send + 'static,
) -> Option<(Running<C>, crossbeam::channel::Receiver<FileOp>)>
where
    C: Core + Send + 'static,
    S: ChunkStoreDriver + Send + 'static,
{
    let (files, operations) = bounded(FILE_OPS_MAX);
    let reports = Box::new(move |report| drop(reports.send(report)));
    match start(settings(0, address), files, reports, |_, _| make()) {
        Ok(running) => Some((running, operations)),
        Err(StartError::Kernel(error @ KernelError::Refused(_))) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(StartError::Socket(error)) if address.starts_with('[') => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn stop<C>(running: Running<C>) -> (C, impl Fn(&str) -> u64) {
    running.handle.stop();
    let core = running.thread.join().expect("no panic").expect("no fault");
    let counters = running.handle.counters();
    let find = move |name: &str| {
        counters.iter().find(|c| c.0 == name).unwrap_or_else(|| panic!("no counter {name}")).2
    };
    (core, find)
}

/// A train waiting to be copied into a send buffer.
struct Outgoing {
    path: Path,
    bytes: Vec<u8>,
    segment: u32,
    ecn: u8,
}

fn emit<W: World>(queue: &mut VecDeque<Outgoing>, world: &mut W) -> Option<Output> {
    queue.front()?;
    let buf = world.alloc()?;
    let out = queue.pop_front()?;
    let place = Place::room(buf).part(0, out.bytes.len() as u32).expect("room");
    world.bytes_mut(place).copy_from_slice(&out.bytes);
    Some(Output::Train(Train { path: out.path, place, segment: out.segment, ecn: out.ecn }))
}

/// Sends back what comes, as it came.
#[derive(Default)]
struct Echo {
    queue: VecDeque<Outgoing>,
    locals: Vec<SocketAddr>,
    ecn: u8,
}

impl Core for Echo {
    fn handle<W: World>(&mut self, _: Clock, input: Input, world: &mut W) {
        if let Input::Train(train) = input {
            self.locals.push(train.path.local);
            self.ecn |= train.ecn;
            let bytes = world.bytes(train.place).to_vec();
            self.queue.push_back(Outgoing {
                path: train.path,
                bytes,
                segment: train.segment,
                ecn: train.ecn,
            });
        }
    }
    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        emit(&mut self.queue, world)
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

/// Sends numbered trains, a window of them ahead, and counts the bytes that come back.
struct Source {
    to: SocketAddr,
    queue: VecDeque<Outgoing>,
    sent: u32,
    total: u32,
    window: u64,
    sent_bytes: u64,
    back_bytes: u64,
    /// Sum of all payload bytes that came back, which the echo cannot guess.
    back_sum: u64,
    sent_sum: u64,
    wrong: u64,
    done: Sender<()>,
}

const SEGMENT: usize = 1200;
const SEGMENTS: usize = 20;

impl Source {
    fn more(&mut self) {
        while self.sent < self.total && self.sent_bytes - self.back_bytes < self.window {
            // The last datagram is a byte shorter than the others.
            let bytes: Vec<u8> =
                (0..SEGMENT * SEGMENTS - 1).map(|i| (i / SEGMENT) as u8 ^ self.sent as u8).collect();
            self.sent_sum += bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
            self.sent_bytes += bytes.len() as u64;
            let any = if self.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let path = Path { local: any.parse().expect("an address"), remote: self.to };
            self.queue.push_back(Outgoing { path, bytes, segment: SEGMENT as u32, ecn: 1 });
            self.sent += 1;
        }
    }
}

impl Core for Source {
    fn handle<W: World>(&mut self, _: Clock, input: Input, world: &mut W) {
        match input {
            Input::Command(Command::Status { .. }) => self.more(),
            Input::Train(train) => {
                for segment in world.bytes(train.place).chunks(train.segment as usize) {
                    self.wrong += u64::from(segment.iter().any(|b| *b != segment[0]));
                    self.back_sum += segment.iter().map(|b| u64::from(*b)).sum::<u64>();
                }
                self.back_bytes += u64::from(train.place.len);
                self.more();
                if self.sent == self.total && self.back_bytes == self.sent_bytes {
                    let _ = self.done.send(());
                }
            }
            _ => {}
        }
    }
    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        emit(&mut self.queue, world)
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn echo_of_trains(any: &str, ip: &str) {
    let (reports, _) = channel();
    let Some((echo, _files)) = run(any, reports.clone(), || (Echo::default(), NoChunks)) else { return };
    let to = SocketAddr::new(ip.parse().expect("an ip"), echo.addresses[0].port());
    let (done, is_done) = channel();
    let make = move || {
        // More trains ahead than there are send buffers.
        let window = (100 * SEGMENT * SEGMENTS) as u64;
        let queue = VecDeque::new();
        let source = Source {
            to,
            queue,
            sent: 0,
            total: 500,
            window,
            sent_bytes: 0,
            back_bytes: 0,
            back_sum: 0,
            sent_sum: 0,
            wrong: 0,
            done,
        };
        (source, NoChunks)
    };
    let Some((source, _files)) = run(any, reports, make) else { return };
    source.handle.command(Command::Status { token: 0 }).expect("room");
    is_done.recv_timeout(PATIENCE).expect("every train came back");
    let (source, sent) = stop(source);
    let (echo, echoed) = stop(echo);
    assert_eq!((source.back_sum, source.wrong), (source.sent_sum, 0));
    assert_eq!(sent("udp_sent_segments"), 500 * SEGMENTS as u64);
    assert_eq!(sent("udp_sent_trains"), 500);
    assert_eq!(sent("udp_sent_gso_trains"), 500);
    assert!(sent("shard_send_buffers_refused") > 0, "the core asked for more buffers than there are");
    assert_eq!(echoed("udp_received_segments"), 500 * SEGMENTS as u64);
    assert!(echoed("udp_received_gro_trains") > 0);
    assert_eq!(echoed("udp_received_bytes"), source.back_bytes);
    assert_eq!(echo.ecn, 1, "ECN crosses in both directions");
    assert!(echo.locals.iter().all(|local| *local == to), "the address of ours is known");
}

#[test]
fn echoes_trains_over_v4() {
    echo_of_trains("0.0.0.0:0", "127.0.0.1");
}

#[test]
fn echoes_trains_over_v6() {
    echo_of_trains("[::]:0", "::1");
}

/// Reports what it hears; can be made to hold the loop up, and has a deadline when asked.
struct Listener {
    heard: Sender<u32>,
    gate: Option<Receiver<()>>,
    reports: VecDeque<Report>,
    farewell: VecDeque<Outgoing>,
    farewell_to: Option<SocketAddr>,
    deadline: Option<Time>,
    ticks: u32,
}

impl Listener {
    fn new(heard: Sender<u32>) -> Self {
        let (reports, farewell) = (VecDeque::new(), VecDeque::new());
        Self { heard, gate: None, reports, farewell, farewell_to: None, deadline: None, ticks: 0 }
    }
}

impl Core for Listener {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, _: &mut W) {
        match input {
            Input::Train(train) => {
                let _ = self.heard.send(train.place.len);
                if let Some(gate) = self.gate.take() {
                    gate.recv_timeout(PATIENCE).expect("the gate opens");
                }
            }
            Input::Command(Command::Status { token }) => {
                self.reports.push_back(Report::Status(token, Box::default()));
                self.deadline = Some(clock.now + Duration::from_millis(token));
            }
            Input::Command(Command::Shutdown) => {
                if let Some(remote) = self.farewell_to {
                    let path = Path { local: "0.0.0.0:0".parse().expect("any"), remote };
                    self.farewell.push_back(Outgoing { path, bytes: b"bye".to_vec(), segment: 3, ecn: 0 });
                }
            }
            // The deadline is left standing: the loop must not spin on it.
            Input::Tick if self.deadline.is_some_and(|at| at <= clock.now) => {
                self.ticks += 1;
                let _ = self.heard.send(self.ticks);
            }
            _ => {}
        }
    }
    fn poll<W: World>(&mut self, _: Clock, world: &mut W) -> Option<Output> {
        self.reports.pop_front().map(Output::Report).or_else(|| emit(&mut self.farewell, world))
    }
    fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }
}

fn until_parked(handle: &Handle) {
    while !handle.is_parked() {
        std::thread::yield_now();
    }
}

#[test]
fn a_sleeping_shard_is_woken_by_commands_and_by_name() {
    let (reports, reported) = channel();
    let (heard, _hearing) = channel();
    let Some((shard, _files)) = run("127.0.0.1:0", reports, || (Listener::new(heard), NoChunks)) else {
        return;
    };
    for token in 1_000_000..1_000_010 {
        until_parked(&shard.handle);
        shard.handle.command(Command::Status { token }).expect("room");
        let report = reported.recv_timeout(PATIENCE).expect("an answer");
        assert!(matches!(report, Report::Status(t, _) if t == token), "{report:?}");
    }
    until_parked(&shard.handle);
    shard.handle.wake();
    let (_, counter) = stop(shard);
    assert_eq!((counter("shard_commands"), counter("shard_reports")), (10, 10));
    assert!(counter("shard_wakes") >= 10, "one for each sleep that was ended");
}

#[test]
fn a_deadline_is_reported_and_one_that_stays_is_not_spun_on() {
    let (reports, _reported) = channel();
    let (heard, hearing) = channel();
    let Some((shard, _files)) = run("127.0.0.1:0", reports, || (Listener::new(heard), NoChunks)) else {
        return;
    };
    shard.handle.command(Command::Status { token: 3 }).expect("room");
    for tick in 1..=5 {
        assert_eq!(hearing.recv_timeout(PATIENCE), Ok(tick));
    }
    let (core, counter) = stop(shard);
    assert!(core.ticks >= 5 && counter("shard_ticks") >= 5);
    assert!(counter("shard_overdue") >= 4, "each further report came after a pause");
}

/// A shard that stands still at the first datagram until `open` is told.
struct Gated {
    shard: Running<Listener>,
    hearing: Receiver<u32>,
    open: Sender<()>,
}

fn gated() -> Option<Gated> {
    let (reports, _reported) = channel();
    let (heard, hearing) = channel();
    let (open, gate) = channel();
    let make = move || {
        let mut listener = Listener::new(heard);
        listener.gate = Some(gate);
        (listener, NoChunks)
    };
    let (shard, _) = run("127.0.0.1:0", reports, make)?;
    Some(Gated { shard, hearing, open })
}

#[test]
fn a_flood_while_the_core_is_busy_is_survived() {
    let Some(Gated { shard, hearing, open }) = gated() else { return };
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    peer.connect(shard.addresses[0]).expect("connected");
    peer.send(&[0]).expect("sent");
    assert_eq!(hearing.recv_timeout(PATIENCE), Ok(1));
    // The loop stands still now, with nothing received meanwhile.
    let flood = 8 * RECEIVE_LENT_MIN as u32;
    for len in 2..2 + flood {
        peer.send(&vec![1; len as usize]).expect("sent");
        if len % 100 == 0 {
            peer.send(&[]).expect("sent");
        }
    }
    open.send(()).expect("the shard waits");
    for len in 2..2 + flood {
        assert_eq!(hearing.recv_timeout(PATIENCE), Ok(len), "in order, none lost");
    }
    let (_, counter) = stop(shard);
    assert_eq!(counter("udp_received_trains"), u64::from(flood) + 1);
    assert_eq!(counter("udp_receive_ended_empty_datagram"), u64::from(flood / 100));
    let ended = counter("udp_receive_ended_empty_datagram")
        + counter("udp_receive_ended_no_buffers")
        + counter("udp_receive_ended_overflow")
        + counter("udp_receive_ended_error");
    assert_eq!(counter("udp_receive_armed"), 1 + ended, "each receive that ended was started again");
}

#[test]
fn a_shard_that_stops_says_goodbye() {
    let (reports, _reported) = channel();
    let (heard, _hearing) = channel();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    let address = peer.local_addr().expect("an address");
    let make = move || {
        let mut listener = Listener::new(heard);
        listener.farewell_to = Some(address);
        (listener, NoChunks)
    };
    let Some((shard, _files)) = run("0.0.0.0:0", reports, make) else { return };
    let (_, counter) = stop(shard);
    let mut bytes = [0; 8];
    assert_eq!(peer.recv(&mut bytes).expect("a goodbye"), 3);
    assert_eq!((&bytes[..3], counter("udp_sent_trains")), (&b"bye"[..], 1));
}

#[test]
fn a_busy_port_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    let (files, _operations) = bounded(1);
    let make = |_: Surroundings<'_>, _| (Echo::default(), NoChunks);
    match start(settings(3, &address.to_string()), files, Box::new(drop), make) {
        Err(StartError::Kernel(error @ KernelError::Refused(_))) => eprintln!("SKIPPED: {error}"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(&format!("UDP port {} is taken", address.port())), "{text}");
        }
        Ok(_) => panic!("two sockets on one port"),
    }
}

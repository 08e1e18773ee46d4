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

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(index: usize, address: &str) -> Settings {
    let addresses = vec![address.parse().expect("an address")];
    Settings { index, core: None, addresses, report_local: true, clocks: Clocks::start() }
}

/// Starts a shard, or says why it cannot run here.
fn run<C, S>(
    address: &str,
    reports: Sender<Report>,
    make: impl FnOnce() -> (C, S) + Send + 'static,
) -> Option<(Running<C, S>, crossbeam::channel::Receiver<FileOp>)>
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

fn stop<C, S>(running: Running<C, S>) -> (C, S, impl Fn(&str) -> u64) {
    running.handle.stop();
    let (core, store) = running.thread.join().expect("no panic").expect("no fault");
    let counters = running.handle.counters();
    let find = move |name: &str| {
        counters.iter().find(|c| c.0 == name).unwrap_or_else(|| panic!("no counter {name}")).2
    };
    (core, store, find)
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
    let (source, _, sent) = stop(source);
    let (echo, _, echoed) = stop(echo);
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
            Input::Tick => {
                // Tells of each deadline once, and then leaves it standing: the loop must not spin on it.
                if self.deadline.is_some_and(|at| at <= clock.now) {
                    self.ticks += 1;
                    let _ = self.heard.send(self.ticks);
                }
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
    let (_, _, counter) = stop(shard);
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
    let (core, _, counter) = stop(shard);
    assert!(core.ticks >= 5 && counter("shard_ticks") >= 5);
    assert!(counter("shard_overdue") >= 4, "each further report came after a pause");
}

#[test]
fn a_flood_while_the_core_is_busy_is_survived() {
    let (reports, _reported) = channel();
    let (heard, hearing) = channel();
    let (open, gate) = channel();
    let make = move || {
        let mut listener = Listener::new(heard);
        listener.gate = Some(gate);
        (listener, NoChunks)
    };
    let Some((shard, _files)) = run("127.0.0.1:0", reports, make) else { return };
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
    let (_, _, counter) = stop(shard);
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
    let (_, _, counter) = stop(shard);
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

/// Wants a number of file operations done, and remembers the answers.
struct Writer {
    wanted: u64,
    answered: Vec<u64>,
    failed: u64,
    total: u64,
    done: Sender<()>,
}

impl Core for Writer {
    fn handle<W: World>(&mut self, _: Clock, input: Input, _: &mut W) {
        if let Input::FileDone(done) = input {
            self.answered.push(done.job.0);
            self.failed += u64::from(done.result.is_err());
            if self.answered.len() as u64 == self.total {
                let _ = self.done.send(());
            }
        }
    }
    fn poll<W: World>(&mut self, _: Clock, _: &mut W) -> Option<Output> {
        (self.wanted < self.total).then(|| {
            self.wanted += 1;
            Output::File(FileOp { job: JobId(self.wanted), act: FileAct::End { complete: true } })
        })
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn writer(total: u64) -> (Writer, Receiver<()>) {
    let (done, is_done) = channel();
    (Writer { wanted: 0, answered: Vec::new(), failed: 0, total, done }, is_done)
}

#[test]
fn no_file_operation_is_lost_when_the_files_thread_is_slow() {
    let total = 3 * FILE_OPS_MAX as u64 + 7;
    let (core, is_done) = writer(total);
    let (reports, _reported) = channel();
    let Some((shard, operations)) = run("127.0.0.1:0", reports, || (core, NoChunks)) else { return };
    // The thread starts when the shard has given it all that it may: only then must it wait.
    while operations.len() < FILE_OPS_MAX {
        std::thread::yield_now();
    }
    let handle = shard.handle.clone();
    let files = std::thread::spawn(move || {
        let done = |op: FileOp| FileDone { job: op.job, result: Ok(FileOutcome::Done) };
        files_thread(&operations, &handle, done);
    });
    is_done.recv_timeout(PATIENCE).expect("every operation was answered");
    let (core, _, counter) = stop(shard);
    files.join().expect("the files thread ends with its shard");
    assert_eq!(core.answered, (1..=total).collect::<Vec<_>>());
    assert_eq!((counter("shard_file_ops"), counter("shard_file_answers")), (total, total));
    assert!(counter("shard_file_waits") > 0 && core.failed == 0);
}

#[test]
fn file_operations_fail_when_the_files_thread_is_gone() {
    let (core, is_done) = writer(5);
    let (reports, _reported) = channel();
    let (files, operations) = bounded(FILE_OPS_MAX);
    drop(operations);
    let reports = Box::new(move |report| drop(reports.send(report)));
    let make = move |_: Surroundings<'_>, _| (core, NoChunks);
    let shard = match start(settings(0, "127.0.0.1:0"), files, reports, make) {
        Ok(shard) => shard,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    is_done.recv_timeout(PATIENCE).expect("every operation was answered");
    assert_eq!(stop(shard).0.failed, 5);
}

/// A store whose slices are all cold, and one of them lost.
struct ColdStore {
    bytes: Vec<u8>,
    cold: Vec<Cold>,
    failed: Vec<u32>,
    turns: u64,
    parks: u64,
}

impl ChunkRead for ColdStore {
    fn find(&mut self, _: &ChunkId) -> Option<StoredChunk> {
        None
    }
    fn slice_list(&mut self, _: u64, _: &mut Vec<u8>) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        let addr = if slice == 3 { 4096 } else { self.bytes.as_ptr() as usize };
        self.cold.push(Cold { addr, len: self.bytes.len(), handle, slice });
        Ok(false)
    }
    fn read(&mut self, _: u64, _: u32, _: &mut [u8]) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
}

impl ChunkStoreDriver for ColdStore {
    fn turn(&mut self) {
        self.turns += 1;
    }
    fn park(&mut self) {
        self.parks += 1;
    }
    fn take_cold(&mut self) -> Vec<Cold> {
        std::mem::take(&mut self.cold)
    }
    fn warm_failed(&mut self, cold: Cold, errno: i32) {
        assert_eq!(errno, libc::ENOMEM);
        self.failed.push(cold.slice);
    }
}

/// Wants slices warm, and reports each that is.
struct Reader {
    warmed: Vec<u32>,
    total: u32,
    done: Sender<()>,
}

impl Core for Reader {
    fn handle<W: World>(&mut self, _: Clock, input: Input, world: &mut W) {
        match input {
            Input::Command(Command::Status { .. }) => {
                (0..self.total).for_each(|slice| assert_eq!(world.warm(9, slice), Ok(false)));
            }
            Input::Warmed { handle: 9, slice } => {
                self.warmed.push(slice);
                if self.warmed.len() as u32 == self.total {
                    let _ = self.done.send(());
                }
            }
            _ => {}
        }
    }
    fn poll<W: World>(&mut self, _: Clock, _: &mut W) -> Option<Output> {
        None
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

#[test]
fn cold_slices_are_faulted_in_off_the_shard_a_bounded_number_at_a_time() {
    let (done, is_done) = channel();
    let (reports, _reported) = channel();
    let total = 3 * WARM_IN_FLIGHT_MAX as u32;
    let make = move || {
        let store =
            ColdStore { bytes: vec![1; 1 << 16], cold: Vec::new(), failed: Vec::new(), turns: 0, parks: 0 };
        (Reader { warmed: Vec::new(), total, done }, store)
    };
    let Some((shard, _files)) = run("127.0.0.1:0", reports, make) else { return };
    shard.handle.command(Command::Status { token: 0 }).expect("room");
    is_done.recv_timeout(PATIENCE).expect("every slice was answered");
    let (mut core, store, counter) = stop(shard);
    core.warmed.sort_unstable();
    assert_eq!(core.warmed, (0..total).collect::<Vec<_>>());
    assert_eq!(store.failed, vec![3], "what cannot be faulted in is said before it is answered");
    assert_eq!((counter("shard_warm_requests"), counter("shard_warm_failures")), (u64::from(total), 1));
    assert!(store.turns >= counter("shard_turns") && store.parks > 0);
}

//! The loop. One turn:
//!
//! ```text
//! completions ─▶ commands, answers ─▶ tick ─▶ poll the core ─▶ lend buffers, re-arm, submit ─▶ enter
//! ```
//!
//! Each step is bounded, so that a flood of one kind leaves room for the others: acknowledgements go out
//! between batches of received trains, and commands are heard while both go on. The kernel is entered
//! once per turn; nothing is allocated per packet. The loop sleeps only when no step left work behind.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError};

use super::device::Device;
use super::warm::Warmer;
use super::{ChunkStoreDriver, Core, Handle, LoopCounters, Parcel, Pipe};
use crate::base::fileop::{FileDone, FileFault, FileOp};
use crate::base::{BufId, ChunkId, ChunkRead, Memory, Place, ReadFault, StoredChunk, Time, TunPacket};
use crate::io::clock::Clocks;
use crate::io::latency::Recorder;
use crate::io::udp::{Datagrams, Udp};
use crate::limits::{
    COMPLETIONS_PER_TURN, EXPECTED_MAX, FILE_OPS_MAX, INBOX_PER_TURN, LATENCY_SAMPLE, LATENCY_SHOWN_MS,
    OUTPUTS_PER_TURN, OVERDUE_PAUSE_US, PIPE_PACKETS_PER_TURN, SHARD_LAST_MS, SHARD_STOP_MS,
    TUN_SEND_RESERVE,
};
use crate::node::{Clock, Command, Input, Output, Report, Train, World};
use crate::sys::buffers::{Buffers, Lender};
use crate::sys::memory;
use crate::sys::ring::{Completion, Ring};

/// Where reports go. Called on the shard's thread: it must not block.
pub type Reports = Box<dyn FnMut(Report) + Send>;

/// Why a shard ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("io_uring failed: {0}")]
pub struct Fault(#[from] io::Error);

/// A core with its ring, sockets and store. Lives on one thread.
pub struct Shard<C, S> {
    pub(super) ring: Ring,
    pub(super) udp: Udp,
    pub(super) device: Device,
    /// To the SOCKS proxy, while there is one.
    pub(super) pipe: Option<Arc<Pipe>>,
    pub(super) core: C,
    pub(super) store: S,
    pub(super) clocks: Clocks,
    pub(super) handle: Handle,
    /// Which shard this is of those in `shards`; those are empty when it is alone.
    pub(super) index: u8,
    pub(super) shards: Vec<Handle>,
    pub(super) files: Sender<FileOp>,
    pub(super) reports: Reports,
    pub(super) warmer: Warmer,
    pub(super) counters: LoopCounters,
    pub(super) latencies: Recorder,
    /// Trains that came and were not handled yet; at most [`EXPECTED_MAX`], and none between turns.
    pub(super) trains: Vec<Datagrams>,
    /// For how long to go on looking when there is nothing left to do, and until when now.
    pub(super) busy_poll: Duration,
    pub(super) busy_until: Time,
    /// Whether the last turn left completions, and since when what is in their queue has been there.
    pub(super) left: bool,
    pub(super) fresh_at: Time,
    /// When a copy of the latencies was left for readers.
    pub(super) shown_at: Time,
    /// File operations without an answer; at most [`FILE_OPS_MAX`], so that the answers' queue never overflows.
    pub(super) files_out: usize,
    /// The operation that had no room; nothing is polled while there is one.
    pub(super) held: Option<FileOp>,
    /// The deadline that the last tick was for.
    pub(super) ticked: Option<Time>,
}

/// What a core sees of the shard.
struct Ground<'a, S> {
    buffers: &'a mut Buffers,
    store: &'a mut S,
}

impl<S> Memory for Ground<'_, S> {
    fn bytes(&self, place: Place) -> &[u8] {
        self.buffers.bytes(place)
    }
    fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        self.buffers.bytes_mut(place)
    }
    fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        self.buffers.pair(from, to)
    }
    fn alloc(&mut self) -> Option<BufId> {
        self.buffers.alloc()
    }
    fn free(&mut self, buf: BufId) {
        self.buffers.free(buf);
    }
}

impl<S: ChunkRead> ChunkRead for Ground<'_, S> {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.store.find(id)
    }
    fn peek(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        self.store.peek(id)
    }
    fn slice_list(&mut self, handle: u64, into: &mut Vec<u8>) -> Result<(), ReadFault> {
        self.store.slice_list(handle, into)
    }
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        self.store.warm(handle, slice)
    }
    fn prefetch(&mut self, handle: u64, slice: u32) {
        self.store.prefetch(handle, slice);
    }
    fn read(&mut self, handle: u64, offset: u32, into: &mut [u8]) -> Result<(), ReadFault> {
        self.store.read(handle, offset, into)
    }
}

impl<S: ChunkRead> World for Ground<'_, S> {
    type Store = S;

    fn split(&mut self, place: Place) -> (&mut [u8], &mut S) {
        (self.buffers.bytes_mut(place), self.store)
    }
}

impl<C: Core, S: ChunkStoreDriver> Shard<C, S> {
    /// Runs until [`Handle::stop`]; gives core and store back.
    pub fn run(mut self) -> Result<(C, S), Fault> {
        self.ring.wait_event(&self.handle.shared().event);
        let (mut leave_at, mut stay_until) = (None, Time::ZERO);
        loop {
            let clock = self.clock();
            if leave_at.is_none() && self.handle.shared().is_stopping() {
                // Another shard's goodbyes may have to leave from this one's socket.
                let least = if self.shards.len() < 2 { 0 } else { SHARD_LAST_MS };
                stay_until = clock.now + Duration::from_millis(least);
                leave_at = Some(clock.now + Duration::from_millis(SHARD_STOP_MS));
                self.store.turn();
                self.input(clock, Input::Command(Command::Shutdown));
            }
            let work_left = self.turn(clock);
            let rearm_at = self.udp.rearm(&mut self.ring, clock.now);
            let device_at = self.device.rearm(&mut self.ring, clock.now);
            self.handle.shared().tell_devices(self.device.open());
            if let Some(at) = leave_at {
                let finished =
                    clock.now >= stay_until && !work_left && self.held.is_none() && self.udp.is_idle();
                if finished || clock.now >= at {
                    self.fold(clock);
                    return Ok((self.core, self.store));
                }
            }
            let wait = if work_left {
                None
            } else {
                self.wait(
                    clock,
                    [
                        rearm_at.into_iter().chain(device_at).min(),
                        leave_at.map(|at: Time| if clock.now < stay_until { stay_until } else { at }),
                    ],
                )
            };
            self.enter(wait, leave_at.is_some())?;
        }
    }

    fn clock(&self) -> Clock {
        Clock { now: self.clocks.now(), wall: self.clocks.wall() }
    }

    /// One turn up to the system call; whether work is left for another at once.
    fn turn(&mut self, clock: Clock) -> bool {
        self.store.turn();
        self.counters.shard_turns += 1;
        let before = self.counters.shard_completions + self.counters.shard_commands;
        self.device_packets(clock);
        let mut work_left = self.completions(clock);
        work_left |= self.messages(clock);
        if self.counters.shard_completions + self.counters.shard_commands != before {
            self.busy_until = clock.now + self.busy_poll;
        }
        self.tick(clock);
        work_left |= self.outputs(clock);
        if let Some(pipe) = &self.pipe {
            pipe.given();
        }
        self.counters.shard_turns_cut += u64::from(work_left);
        self.counters.shard_warm_requests += self.warmer.submit(&mut self.store, &mut self.ring);
        self.udp.flush(&mut self.ring);
        self.device.flush(&mut self.ring);
        self.fold(clock);
        work_left | self.device.has_next(&mut self.ring)
    }

    fn completions(&mut self, clock: Clock) -> bool {
        // What the last turn left has been there since then.
        if !std::mem::take(&mut self.left) {
            self.fresh_at = clock.now;
        }
        let (mut seen, mut handled) = (0, 0);
        loop {
            let completion = if seen < COMPLETIONS_PER_TURN { self.ring.completion() } else { None };
            let ended = completion.is_none();
            if let Some(completion) = completion {
                seen += 1;
                self.completion(clock, completion);
            }
            if ended || self.trains.len() == EXPECTED_MAX {
                handled = self.handle_trains(clock, handled);
            }
            if ended {
                break;
            }
        }
        self.counters.shard_completions += seen as u64;
        self.left = seen == COMPLETIONS_PER_TURN && self.ring.has_completions();
        self.left
    }

    fn completion(&mut self, clock: Clock, completion: Completion) {
        match completion {
            Completion::Received { socket, result, buffer, more } => {
                let train = self.udp.received(&mut self.ring, socket, result, buffer, more, clock.now);
                self.trains.extend(train);
            }
            Completion::Sent { slot, result, held } => {
                self.udp.sent(&mut self.ring, slot, result, held);
            }
            Completion::Released { slot, copied } => {
                self.udp.released(&mut self.ring, slot, copied);
            }
            Completion::Writable { socket } => self.udp.writable(socket),
            Completion::Woken => {
                self.counters.shard_wakes += 1;
                self.ring.wait_event(&self.handle.shared().event);
            }
            Completion::TunRead { tun, result, buffer, more } => {
                self.device.read(&mut self.ring, tun, result, buffer, more, clock.now);
                self.device_packets(clock);
            }
            Completion::TunWritten { tun, slot, result } => {
                self.device.written(&mut self.ring, tun, slot, result);
            }
            Completion::TunWritable { tun } => self.device.writable(tun),
            Completion::Populated { tag, result } => {
                let cold = self.warmer.done(tag);
                self.counters.shard_warm_failures += u64::from(result.is_err());
                let lost = |code| if memory::is_lost(code) { ReadFault::Damaged } else { ReadFault::Store };
                self.store.warmed(cold, result.map_err(lost));
                self.input(clock, Input::Warmed { handle: cold.handle, slice: cold.slice });
            }
        }
    }

    /// Hands the trains that were taken to the core, which is told of all of them before. `before` were handled in this turn;
    /// how many it are now.
    fn handle_trains(&mut self, clock: Clock, before: usize) -> usize {
        let mut trains = std::mem::take(&mut self.trains);
        if trains.len() > 1 {
            let buffers: &Buffers = self.ring.buffers();
            let first = |train: &Datagrams| Place { len: train.segment.min(train.place.len), ..train.place };
            self.core.expect(trains.iter().map(|train| buffers.bytes(first(train))));
        }
        let handled = before + trains.len();
        for (train, index) in trains.drain(..).zip(before as u64..) {
            self.train(clock, train, index);
        }
        self.trains = trains;
        handled
    }

    /// Hands a train to the core, and times the first of a turn and some of the others.
    fn train(&mut self, clock: Clock, train: Datagrams, before: u64) {
        let weight = if before == 0 { 1 } else { LATENCY_SAMPLE };
        let timed = before.is_multiple_of(LATENCY_SAMPLE).then(|| self.clocks.now());
        self.input(clock, Input::Train(to_node(train)));
        self.ring.buffers().release(train.place.buf);
        if let Some(began) = timed {
            let recorded = &mut self.latencies.own;
            recorded.queueing.record(began.since(self.fresh_at), weight);
            recorded.processing.record(self.clocks.now().since(began), weight);
            self.latencies.touch();
        }
        if let Some(time) = self.core.take_round_trip() {
            self.latencies.own.round_trip.record(time, 1);
            self.latencies.touch();
        }
    }

    /// Packets of the device, as far as there are send buffers for them.
    fn device_packets(&mut self, clock: Clock) {
        while let Some(packet) = self.device.next(&mut self.ring) {
            self.input(clock, Input::Tun(packet));
            self.ring.buffers().release(packet.place.buf);
        }
    }

    fn messages(&mut self, clock: Clock) -> bool {
        self.handle.shared().take_nudge();
        while let Some(queue) = self.handle.shared().next_device() {
            self.device.change(queue, &mut self.ring);
        }
        while let Some(pipe) = self.handle.shared().next_pipe() {
            self.pipe = pipe;
        }
        let more = self.piped(clock);
        for _ in 0..INBOX_PER_TURN {
            let Some(done) = self.handle.shared().next_answer() else { break };
            self.files_out -= 1;
            self.counters.shard_file_answers += 1;
            self.input(clock, Input::FileDone(done));
        }
        while let Some((number, kept)) = self.handle.shared().next_kept() {
            self.input(clock, Input::Kept { number, kept });
        }
        for _ in 0..INBOX_PER_TURN {
            let Some(command) = self.handle.shared().next_command() else { break };
            self.counters.shard_commands += 1;
            // Whoever asks for the state looks at this too.
            self.latencies.publish(&self.handle.shared().latencies);
            self.input(clock, Input::Command(command));
        }
        for _ in 0..INBOX_PER_TURN {
            let Some((from, cross)) = self.handle.shared().next_crossing() else { break };
            self.counters.shard_crossings_in += 1;
            self.input(clock, Input::Cross { from, cross });
        }
        more | self.handle.shared().has_messages()
    }

    /// Packets of the SOCKS proxy, as far as there are send buffers for them; whether there are more.
    fn piped(&mut self, clock: Clock) -> bool {
        let Some(pipe) = self.pipe.clone() else { return false };
        for _ in 0..PIPE_PACKETS_PER_TURN {
            // A buffer that comes back ends the loop's sleep.
            if self.ring.buffers().free_count() < TUN_SEND_RESERVE {
                return false;
            }
            let Some(Parcel { offload, bytes }) = pipe.next_out() else { return false };
            self.input(clock, Input::Proxied { offload, bytes });
        }
        pipe.has_out()
    }

    fn give(&mut self, packet: TunPacket) {
        if let Some(pipe) = &self.pipe {
            let bytes = Box::from(self.ring.buffers().bytes(packet.place));
            pipe.give(Parcel { offload: packet.offload, bytes });
        }
        self.ring.buffers().free(packet.place.buf);
    }

    fn tick(&mut self, clock: Clock) {
        self.ticked = self.core.poll_timeout().filter(|at| *at <= clock.now);
        if self.ticked.is_some() {
            self.counters.shard_ticks += 1;
            self.input(clock, Input::Tick);
        }
    }

    fn input(&mut self, clock: Clock, input: Input) {
        let mut ground = Ground { buffers: self.ring.buffers(), store: &mut self.store };
        self.core.handle(clock, input, &mut ground);
    }

    /// Carries out what the core wants, up to the bound; whether it may want more.
    fn outputs(&mut self, clock: Clock) -> bool {
        if let Some(held) = self.held.take() {
            self.file(clock, held);
        }
        for _ in 0..OUTPUTS_PER_TURN {
            if self.held.is_some() {
                // An answer will come, and wakes the loop.
                self.counters.shard_file_waits += 1;
                return false;
            }
            let mut ground = Ground { buffers: self.ring.buffers(), store: &mut self.store };
            match self.core.poll(clock, &mut ground) {
                None => return false,
                Some(Output::Train(train)) => self.udp.send(&mut self.ring, from_node(train)),
                Some(Output::Tun(packet)) => self.device.write(&mut self.ring, packet),
                Some(Output::Proxied(packet)) => self.give(packet),
                Some(Output::File(operation)) => self.file(clock, operation),
                Some(Output::Keep(number, chunk)) => self.store.keep(number, chunk, self.handle.clone()),
                Some(Output::Cross(to, cross)) => {
                    let there = self.shards.get(usize::from(to));
                    let taken = there.is_some_and(|shard| shard.cross(self.index, cross));
                    self.counters.shard_crossings_out += u64::from(taken);
                    self.counters.shard_crossings_lost += u64::from(!taken);
                }
                Some(Output::Report(report)) => {
                    self.counters.shard_reports += 1;
                    (self.reports)(report);
                }
            }
        }
        true
    }

    fn file(&mut self, clock: Clock, operation: FileOp) {
        if self.files_out == FILE_OPS_MAX {
            self.held = Some(operation);
            return;
        }
        match self.files.try_send(operation) {
            Ok(()) => {
                self.files_out += 1;
                self.counters.shard_file_ops += 1;
            }
            Err(TrySendError::Full(operation)) => self.held = Some(operation),
            Err(TrySendError::Disconnected(operation)) => {
                let message = "the files thread has ended; restart the daemon and see its log".to_owned();
                let result = Err(FileFault { message, retryable: true });
                self.input(clock, Input::FileDone(FileDone { job: operation.job, result }));
            }
        }
    }

    /// How long the loop may sleep; `None` when a deadline has come.
    fn wait(&mut self, clock: Clock, others: [Option<Time>; 2]) -> Option<Duration> {
        let deadline = self.core.poll_timeout().map(|at| {
            if self.ticked.is_some_and(|ticked| at <= ticked) {
                // Reported and still there: the core waits for something else, a send buffer perhaps,
                // whose completion ends the sleep. Never spin on it.
                self.counters.shard_overdue += 1;
                clock.now + Duration::from_micros(OVERDUE_PAUSE_US)
            } else {
                at
            }
        });
        let at = others.into_iter().chain([deadline]).flatten().min();
        let wait = at.map_or(Duration::MAX, |at| at.since(self.clocks.now()));
        (wait > Duration::ZERO).then_some(wait)
    }

    /// Enters the kernel: submits, runs completions, and sleeps when there is time to.
    fn enter(&mut self, wait: Option<Duration>, stopping: bool) -> Result<(), Fault> {
        // Without sleeping: the ring is looked at, and so are the queues of other threads in the next turn.
        let polls = wait.is_some() && !stopping && self.clocks.now() < self.busy_until;
        if polls {
            self.counters.shard_polls += 1;
        }
        let wait = if polls { None } else { wait.filter(|_| self.handle.shared().park(stopping)) };
        if wait.is_some() {
            self.counters.shard_parks += 1;
            self.store.park();
        }
        let entered = if polls { self.ring.look() } else { self.ring.enter(wait) };
        if wait.is_some() {
            self.handle.shared().unpark();
        }
        let entered = entered?;
        self.counters.shard_enters += u64::from(entered.called);
        self.counters.shard_completion_overflows += u64::from(entered.overflowed);
        Ok(())
    }

    fn fold(&mut self, clock: Clock) {
        self.counters.shard_send_buffers_refused = self.ring.buffers().refused();
        self.counters.shard_receive_buffers_lent = self.ring.buffers().lent_target(Lender::Udp) as u64;
        if clock.now.since(self.shown_at) >= Duration::from_millis(LATENCY_SHOWN_MS) {
            self.shown_at = clock.now;
            self.latencies.publish(&self.handle.shared().latencies);
        }
        let counters = self.counters.values().chain(self.udp.counters.values());
        self.handle.shared().tally.store(counters.chain(self.device.counters().values()));
    }
}

fn to_node(train: Datagrams) -> Train {
    Train { path: train.path, place: train.place, segment: train.segment, ecn: train.ecn }
}

fn from_node(train: Train) -> Datagrams {
    Datagrams { path: train.path, place: train.place, segment: train.segment, ecn: train.ecn }
}

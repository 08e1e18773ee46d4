//! How other threads reach a shard: bounded queues, and an eventfd that is signalled only while the
//! shard sleeps.
//!
//! Whoever leaves something pushes it, then looks at `parked`; the shard sets `parked`, then looks at the
//! queues. A sequentially consistent fence between the two steps on either side means that at least one
//! of them sees the other, so nothing is left lying while the shard sleeps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam::queue::ArrayQueue;

use super::{LoopCounters, Pipe};
use crate::base::Kept;
use crate::base::fileop::FileDone;
use crate::io::latency::{Board, Latencies};
use crate::io::tally::Tally;
use crate::io::tun::{Queue, TunCounters};
use crate::io::udp::UdpCounters;
use crate::limits::{
    CROSSINGS_MAX, DEVICE_CHANGES_MAX, FILE_OPS_MAX, KEEP_BODIES_MAX, PASSING_MAX, SHARD_INBOX_MAX,
};
use crate::node::{Command, Cross};
use crate::sys::eventfd::EventFd;

/// Too many commands already wait for the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is busy: {SHARD_INBOX_MAX} requests already wait; try again")]
pub struct Full;

/// Speaks to one shard from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

pub(super) struct Shared {
    inbox: ArrayQueue<Command>,
    answers: ArrayQueue<FileDone>,
    /// What came of chunks that were to be kept, by their numbers.
    kept: ArrayQueue<(u64, Kept)>,
    /// From other shards: which, and what. Datagrams apart, since anybody can send those.
    crossings: ArrayQueue<(u8, Cross)>,
    passing: ArrayQueue<(u8, Cross)>,
    /// Queues of the tunnels' device to take, `None` for none any more; and how many the shard has open.
    devices: ArrayQueue<Option<Queue>>,
    devices_open: AtomicUsize,
    /// The pipe to use from now on, or none.
    pipes: ArrayQueue<Option<Arc<Pipe>>>,
    /// Something without a message of its own happened.
    nudged: AtomicBool,
    stopping: AtomicBool,
    parked: AtomicBool,
    pub(super) event: EventFd,
    pub(super) tally: Tally,
    pub(super) latencies: Board,
}

impl Handle {
    /// For a shard that is not started yet; see [`super::Settings::shards`].
    pub fn new() -> io::Result<Self> {
        let about = LoopCounters::ABOUT.iter().chain(UdpCounters::ABOUT).chain(TunCounters::ABOUT).copied();
        Ok(Self(Arc::new(Shared {
            inbox: ArrayQueue::new(SHARD_INBOX_MAX),
            answers: ArrayQueue::new(FILE_OPS_MAX),
            kept: ArrayQueue::new(KEEP_BODIES_MAX),
            crossings: ArrayQueue::new(CROSSINGS_MAX),
            passing: ArrayQueue::new(PASSING_MAX),
            devices: ArrayQueue::new(DEVICE_CHANGES_MAX),
            devices_open: AtomicUsize::new(0),
            pipes: ArrayQueue::new(DEVICE_CHANGES_MAX),
            nudged: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            event: EventFd::new()?,
            tally: Tally::new(about),
            latencies: Board::new(),
        })))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Asks the shard for something.
    pub fn command(&self, command: Command) -> Result<(), Full> {
        self.0.inbox.push(command).map_err(|_| Full)?;
        self.0.left_something();
        Ok(())
    }

    /// Answers a file operation.
    ///
    /// # Panics
    /// When there are more answers than operations: the shard never has more than [`FILE_OPS_MAX`] out.
    pub fn file_done(&self, done: FileDone) {
        assert!(self.0.answers.push(done).is_ok(), "more answers than file operations");
        self.0.left_something();
    }

    /// Says what came of a chunk that the shard wanted to be kept.
    ///
    /// # Panics
    /// When there are more answers than such chunks: the shard never has more than [`KEEP_BODIES_MAX`] out.
    pub fn kept(&self, number: u64, kept: Kept) {
        assert!(self.0.kept.push((number, kept)).is_ok(), "more answers than chunks to be kept");
        self.0.left_something();
    }

    /// Says something in the name of shard `from`; false when there was no room and it is lost.
    pub(super) fn cross(&self, from: u8, cross: Cross) -> bool {
        let queue = if cross.is_datagrams() { &self.0.passing } else { &self.0.crossings };
        let taken = queue.push((from, cross)).is_ok();
        self.0.left_something();
        taken
    }

    /// Gives the shard a queue of the tunnels' device instead of the one that it has, or takes that away.
    pub fn device(&self, queue: Option<Queue>) -> Result<(), Full> {
        self.0.devices.push(queue).map_err(|_| Full)?;
        self.0.left_something();
        Ok(())
    }

    /// Gives the shard a pipe instead of the one that it has, or takes that away.
    pub fn pipe(&self, pipe: Option<Arc<Pipe>>) -> Result<(), Full> {
        self.0.pipes.push(pipe).map_err(|_| Full)?;
        self.0.left_something();
        Ok(())
    }

    /// How many queues of devices the shard has open, or was given.
    pub fn devices_open(&self) -> usize {
        self.0.devices_open.load(Ordering::Acquire) + self.0.devices.len()
    }

    /// Has the shard take a turn: something that it looks at has changed.
    pub fn wake(&self) {
        self.0.nudged.store(true, Ordering::Release);
        self.0.left_something();
    }

    /// Asks the shard to say goodbye and end. It hands [`Command::Shutdown`] to its core and leaves when
    /// what that brings has been sent, or after [`crate::limits::SHARD_STOP_MS`].
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.left_something();
    }

    /// Name, help and value of each counter, as of the shard's last turn.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.0.tally.read()
    }

    /// How long things took in the shard so far; at most [`crate::limits::LATENCY_SHOWN_MS`] old while it works.
    pub fn latencies(&self) -> Latencies {
        self.0.latencies.read()
    }

    /// Whether the shard sleeps, or is about to.
    pub fn is_parked(&self) -> bool {
        self.0.parked.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("parked", &self.is_parked()).finish_non_exhaustive()
    }
}

impl Shared {
    fn left_something(&self) {
        fence(Ordering::SeqCst);
        // Read before it is written, so that a busy shard's flag stays in both caches.
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel) {
            self.event.signal();
        }
    }

    /// Announces sleep; false when something was left, and the shard must not sleep. One that already
    /// knows that it is `stopping` may.
    pub(super) fn park(&self, stopping: bool) -> bool {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let nothing = self.inbox.is_empty()
            && self.answers.is_empty()
            && self.kept.is_empty()
            && self.crossings.is_empty()
            && self.passing.is_empty()
            && self.devices.is_empty()
            && self.pipes.is_empty()
            && !self.nudged.load(Ordering::Acquire)
            && (stopping || !self.stopping.load(Ordering::Acquire));
        if !nothing {
            self.unpark();
        }
        nothing
    }

    pub(super) fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    pub(super) fn take_nudge(&self) {
        // Only written when set: the flag's cache line stays shared in quiet times.
        if self.nudged.load(Ordering::Relaxed) {
            self.nudged.swap(false, Ordering::AcqRel);
        }
    }

    pub(super) fn next_command(&self) -> Option<Command> {
        self.inbox.pop()
    }

    pub(super) fn next_device(&self) -> Option<Option<Queue>> {
        self.devices.pop()
    }

    pub(super) fn next_pipe(&self) -> Option<Option<Arc<Pipe>>> {
        self.pipes.pop()
    }

    /// Says how many queues are open.
    pub(super) fn tell_devices(&self, open: usize) {
        // Only written when it changes, as the nudge is.
        if self.devices_open.load(Ordering::Relaxed) != open {
            self.devices_open.store(open, Ordering::Release);
        }
    }

    pub(super) fn next_answer(&self) -> Option<FileDone> {
        self.answers.pop()
    }

    pub(super) fn next_kept(&self) -> Option<(u64, Kept)> {
        self.kept.pop()
    }

    pub(super) fn next_crossing(&self) -> Option<(u8, Cross)> {
        self.crossings.pop().or_else(|| self.passing.pop())
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn has_messages(&self) -> bool {
        !(self.inbox.is_empty()
            && self.answers.is_empty()
            && self.kept.is_empty()
            && self.crossings.is_empty()
            && self.passing.is_empty()
            && self.devices.is_empty()
            && self.pipes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_commands_past_the_bound() {
        let handle = Handle::new().expect("an eventfd");
        let fill = (0..).take_while(|token| handle.command(Command::Status { token: *token }).is_ok());
        assert_eq!(fill.count(), SHARD_INBOX_MAX);
        assert_eq!(handle.command(Command::Shutdown), Err(Full));
    }

    #[test]
    fn nobody_sleeps_on_a_message() {
        let handle = Handle::new().expect("an eventfd");
        assert!(handle.shared().park(false) && handle.is_parked());
        handle.wake();
        assert!(!handle.is_parked(), "whoever leaves something takes the flag down and signals");
        assert!(!handle.shared().park(false));
        handle.shared().take_nudge();
        assert!(handle.shared().park(false));
        handle.shared().unpark();
        handle.command(Command::Shutdown).expect("room");
        assert!(!handle.shared().park(false));
        assert!(handle.shared().next_command().is_some() && handle.shared().park(false));
        handle.stop();
        assert!(!handle.shared().park(false) && handle.shared().park(true));
    }
}

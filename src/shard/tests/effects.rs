//! File operations and cold slices: what a shard has others do.

use std::sync::{Arc, Mutex};

use super::*;
use crate::base::{ChunkId, StoredChunk};

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
    let (core, counter) = stop(shard);
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
    seen: Arc<Mutex<Seen>>,
}

/// What was asked of it: stores stay on their shard's thread, so the test looks from outside.
#[derive(Default)]
struct Seen {
    failed: Vec<u32>,
    turns: u64,
    parks: u64,
}

impl ColdStore {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("unpoisoned")
    }
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
    fn prefetch(&mut self, _: u64, _: u32) {}
    fn read(&mut self, _: u64, _: u32, _: &mut [u8]) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
}

impl ChunkStoreDriver for ColdStore {
    fn turn(&mut self) {
        self.seen().turns += 1;
    }
    fn park(&mut self) {
        self.seen().parks += 1;
    }
    fn take_cold(&mut self) -> Vec<Cold> {
        std::mem::take(&mut self.cold)
    }
    fn warmed(&mut self, cold: Cold, populated: Result<(), ReadFault>) {
        if populated.is_err() {
            self.seen().failed.push(cold.slice);
        }
    }
    fn keep(&mut self, number: u64, _: crate::base::NewChunk, shard: Handle) {
        shard.kept(number, crate::base::Kept::Failed);
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
    let seen = Arc::new(Mutex::new(Seen::default()));
    let for_store = Arc::clone(&seen);
    let make = move || {
        let store = ColdStore { bytes: vec![1; 1 << 16], cold: Vec::new(), seen: for_store };
        (Reader { warmed: Vec::new(), total, done }, store)
    };
    let Some((shard, _files)) = run("127.0.0.1:0", reports, make) else { return };
    shard.handle.command(Command::Status { token: 0 }).expect("room");
    is_done.recv_timeout(PATIENCE).expect("every slice was answered");
    let (mut core, counter) = stop(shard);
    let seen = seen.lock().expect("unpoisoned");
    core.warmed.sort_unstable();
    assert_eq!(core.warmed, (0..total).collect::<Vec<_>>());
    assert_eq!(seen.failed, vec![3], "what cannot be faulted in is said before it is answered");
    assert_eq!((counter("shard_warm_requests"), counter("shard_warm_failures")), (u64::from(total), 1));
    assert!(seen.turns >= counter("shard_turns") && seen.parks > 0);
}

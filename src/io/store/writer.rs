//! The thread that writes: takes operations from a bounded queue, gathers them in a transaction, commits, and
//! only then acknowledges each.
//!
//! A transaction is committed when it has `COMMIT_BYTES_MAX`, or `COMMIT_DELAY_MS` after its first operation,
//! or at once when somebody waits in `sync` and the queue is empty. When a transaction cannot be committed,
//! its operations are tried again one by one, so that only those fail that cannot be done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use super::apply::{Batch, Op, Refusal, Touched};
use super::database::{Database, Kind, Totals};
use super::stats::Counters;
use super::{Ack, StoreError, Stored};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_DELAY_MS};

/// An operation and whom to tell.
pub struct Job {
    /// What to do.
    pub op: Op,
    /// Told once, after the commit.
    pub ack: Ack,
}

/// The state of one environment's writer.
pub struct Writer {
    database: Arc<Database>,
    touched: Arc<Touched>,
    counters: Arc<Counters>,
    jobs: Receiver<Job>,
    totals: Totals,
    hand: u64,
    stopping: bool,
}

type Outcome = Result<Stored, StoreError>;

impl Writer {
    /// A writer that has read what the environment holds.
    pub fn new(
        database: Arc<Database>,
        touched: Arc<Touched>,
        counters: Arc<Counters>,
        jobs: Receiver<Job>,
    ) -> Result<Self, StoreError> {
        let totals = database.totals()?;
        counters.holds(&totals);
        Ok(Self { database, touched, counters, jobs, totals, hand: 0, stopping: false })
    }

    /// Works until it is told to stop, then closes the environment.
    pub fn run(mut self) {
        while !self.stopping
            && let Ok(job) = self.jobs.recv()
        {
            self.turn(job);
        }
        if let Err(error) = self.database.close() {
            tracing::warn!(%error, "the store could not be closed cleanly");
        }
    }

    /// One transaction.
    fn turn(&mut self, first: Job) {
        let mut batch = Vec::new();
        let gathered = self.gather(first, &mut batch);
        self.counters.queued(-(batch.len() as i64));
        self.stopping = batch.iter().any(|job| matches!(job.op, Op::Stop));
        match gathered {
            Ok(outcomes) => batch.into_iter().zip(outcomes).for_each(|(job, outcome)| job.ack.tell(outcome)),
            Err(_) => {
                for job in batch {
                    let outcome = self.alone(&job.op);
                    job.ack.tell(outcome);
                }
            }
        }
    }

    /// Gathers and commits. On an error nothing was stored, and `batch` has all that was taken.
    fn gather(&mut self, first: Job, batch: &mut Vec<Job>) -> Result<Vec<Outcome>, lmdb::Error> {
        let deadline = Instant::now() + Duration::from_millis(COMMIT_DELAY_MS);
        batch.push(first);
        let mut outcomes = Vec::new();
        let (mut weight, mut urgent) = (0, self.database.kind == Kind::Cache);
        let mut txn = Batch::begin(&self.database, &self.touched, &mut self.hand, self.totals)?;
        loop {
            let op = &batch[outcomes.len()].op;
            outcomes.push(match txn.apply(op) {
                Ok(stored) => Ok(stored),
                Err(Refusal::Asker(error)) => Err(error),
                Err(Refusal::Transaction(error)) => return Err(error),
            });
            weight += op.weight();
            urgent |= matches!(op, Op::Sync);
            if weight >= COMMIT_BYTES_MAX || matches!(op, Op::Stop) || Instant::now() >= deadline {
                break;
            }
            let next = match urgent {
                true => self.jobs.try_recv().ok(),
                false => self.jobs.recv_deadline(deadline).ok(),
            };
            let Some(next) = next else { break };
            batch.push(next);
        }
        let started = Instant::now();
        self.totals = txn.commit()?;
        self.counters.committed(started.elapsed(), &self.totals);
        Ok(outcomes)
    }

    /// A transaction of one operation; in a full cache, once more after making room.
    fn alone(&mut self, op: &Op) -> Outcome {
        let error = match self.attempt(op) {
            Ok(outcome) => return outcome,
            Err(error) => error,
        };
        if self.database.kind == Kind::Cache && error == lmdb::Error::MapFull && self.shrink().is_ok() {
            return self.attempt(op).unwrap_or_else(|error| Err(self.explain(error)));
        }
        Err(self.explain(error))
    }

    fn attempt(&mut self, op: &Op) -> Result<Outcome, lmdb::Error> {
        let mut txn = Batch::begin(&self.database, &self.touched, &mut self.hand, self.totals)?;
        let outcome = match txn.apply(op) {
            Ok(stored) => Ok(stored),
            Err(Refusal::Asker(error)) => return Ok(Err(error)),
            Err(Refusal::Transaction(error)) => return Err(error),
        };
        let started = Instant::now();
        self.totals = txn.commit()?;
        self.counters.committed(started.elapsed(), &self.totals);
        Ok(outcome)
    }

    /// Gives an eighth of a cache back. Pages freed in one commit can be used two commits later.
    fn shrink(&mut self) -> Result<(), lmdb::Error> {
        let target = self.totals.footprint - self.totals.footprint / 8;
        for _ in 0..3 {
            let mut txn = Batch::begin(&self.database, &self.touched, &mut self.hand, self.totals)?;
            if let Err(Refusal::Transaction(error)) = txn.evict(target) {
                return Err(error);
            }
            self.totals = txn.commit()?;
        }
        Ok(())
    }

    /// LMDB's error in words. It reports a write that was cut short by a full disk as an I/O error.
    fn explain(&self, error: lmdb::Error) -> StoreError {
        let path = self.database.path.clone();
        match error {
            lmdb::Error::MapFull => StoreError::LimitReached { path, limit_bytes: self.database.limit },
            lmdb::Error::Other(libc::EIO) if is_full(&path) => StoreError::DiskFull { path },
            other => self.database.wrong(other),
        }
    }
}

/// Whether the file system has less room than one commit may need.
fn is_full(path: &std::path::Path) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|fs| fs.blocks_available() * fs.fragment_size() < COMMIT_BYTES_MAX as u64)
}

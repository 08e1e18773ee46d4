//! Handing writes to the writer threads, and hearing when they are done.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::apply::Op;
use super::stats::Counters;
use super::writer::Job;
use super::{NewChunk, StoreError, Stored, Table};
use crate::base::ChunkId;
use crate::wire::locator::Locator;

type Tell = Box<dyn FnOnce(Result<Stored, StoreError>) + Send>;

/// Whom to tell what came of a write: called exactly once, on the writer's thread, after the commit that made
/// it durable (or, in the cache, visible). When the store ends first, it is told [`StoreError::Closed`].
pub struct Ack(Option<Tell>);

impl Ack {
    /// Calls a closure, which must not block.
    pub fn new(tell: impl FnOnce(Result<Stored, StoreError>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Tells nobody; a failure is logged.
    pub fn none() -> Self {
        Self::new(|result| {
            if let Err(error) = result {
                tracing::warn!(%error, "a write to the store failed");
            }
        })
    }

    /// Sends the result to a channel of its own.
    pub fn channel() -> (Self, Receiver<Result<Stored, StoreError>>) {
        let (sender, receiver) = bounded(1);
        let tell = move |result| {
            // Nobody waits any more: nobody wants to know.
            let _ = sender.send(result);
        };
        (Self::new(tell), receiver)
    }

    /// Nobody is told.
    pub fn forget(mut self) {
        self.0 = None;
    }

    pub(super) fn tell(mut self, result: Result<Stored, StoreError>) {
        if let Some(tell) = self.0.take() {
            tell(result);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Err(StoreError::Closed));
        }
    }
}

/// A way to write to the store. Operations of one handle on one environment are done in their order.
#[derive(Clone)]
pub struct StoreHandle {
    local: Queue,
    cache: Queue,
}

/// The way to one writer.
#[derive(Clone)]
pub(super) struct Queue {
    /// Its jobs.
    pub jobs: Sender<Job>,
    /// Where their number is kept.
    pub counters: Arc<Counters>,
}

impl Queue {
    /// Waits for room. When the writer has ended, dropping the job tells its asker so.
    pub fn send(&self, op: Op, ack: Ack) {
        self.counters.queued(1);
        if self.jobs.send(Job { op, ack }).is_err() {
            self.counters.queued(-1);
        }
    }

    /// Does not wait; false when there is no room: it is not done, and `ack` hears nothing.
    pub fn offer(&self, op: Op, ack: Ack) -> bool {
        self.counters.queued(1);
        let Err(refused) = self.jobs.try_send(Job { op, ack }) else { return true };
        refused.into_inner().ack.forget();
        self.counters.queued(-1);
        false
    }

    /// Hands a chunk in, or gives it back at once when the queue is full or closed.
    pub fn try_put(&self, chunk: NewChunk, ack: Ack) -> Result<(), (NewChunk, Ack)> {
        self.counters.queued(1);
        match self.jobs.try_send(Job { op: Op::Put(chunk), ack }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.counters.queued(-1);
                match job.op {
                    Op::Put(chunk) => Err((chunk, job.ack)),
                    _ => unreachable!("a refused job is the one that was sent"),
                }
            }
        }
    }

    fn wait(&self) -> Result<(), StoreError> {
        let (ack, done) = Ack::channel();
        self.send(Op::Sync, ack);
        done.recv().unwrap_or(Err(StoreError::Closed)).map(|_| ())
    }
}

impl StoreHandle {
    pub(super) fn new(local: Queue, cache: Queue) -> Self {
        Self { local, cache }
    }

    /// Stores what this node publishes; waits while the queue is full. A chunk that is there already is
    /// acknowledged and not written; one that is there damaged is replaced. A refused put changes nothing.
    pub fn put_local(&self, chunk: NewChunk, ack: Ack) {
        self.local.send(Op::Put(chunk), ack);
    }

    /// Stores a copy of another's chunk; waits while the queue is full. Copies that made room stay removed, also when it
    /// is refused after all.
    pub fn put_cache(&self, chunk: NewChunk, ack: Ack) {
        self.cache.send(Op::Put(chunk), ack);
    }

    /// Stores a copy of another's chunk, or gives it back at once when the queue is full or closed.
    pub fn try_put_cache(&self, chunk: NewChunk, ack: Ack) -> Result<(), (NewChunk, Ack)> {
        self.cache.try_put(chunk, ack)
    }

    /// Remembers where pieces lie, by their hashes: the publisher's database.
    pub fn publish(&self, pieces: Vec<([u8; 32], Locator)>, ack: Ack) {
        let pieces = pieces.into_iter().map(|(hash, locator)| (hash, locator.emit())).collect();
        self.local.send(Op::Publish(pieces), ack);
    }

    /// Removes a published chunk.
    pub fn delete_local(&self, id: ChunkId, ack: Ack) {
        self.local.send(Op::Delete(id), ack);
    }

    /// Removes a copy.
    pub fn delete_cache(&self, id: ChunkId, ack: Ack) {
        self.cache.send(Op::Delete(id), ack);
    }

    /// Sets a small value durably, or removes it with `None`.
    pub fn set(&self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>, ack: Ack) {
        self.local.send(Op::Set(table, key, value), ack);
    }

    /// Returns when everything that was handed to the local environment before is durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.local.wait()
    }

    /// Returns when every copy that was handed in before can be read.
    pub fn flush_cache(&self) -> Result<(), StoreError> {
        self.cache.wait()
    }
}

//! The core-pinned loop and the threads beside it: completions become inputs of a [`Core`], its outputs
//! become submissions.
//!
//! ```text
//!             ┌──────────────── shard thread (driver.rs) ─────────────────┐
//!  kernel ──▶ │ completions ─▶ Input ─▶ Core ─▶ Output ─▶ submissions     │ ──▶ kernel
//!             └──────▲───────────────────────────┬──────────────┬─────────┘
//!   Handle: commands, answers, stop (handle.rs)  │ File         │ Report
//!                    └──────── files thread ◀────┘              └─▶ control thread
//! ```
#![allow(clippy::disallowed_methods, reason = "the edge: threads are started here")]

mod counters;
pub mod daemon;
mod device;
mod driver;
mod files;
pub mod give;
mod group;
mod handle;
pub mod import;
pub mod pipe;
mod start;
#[cfg(test)]
mod tests;
mod warm;

use std::time::Duration;

use crate::base::{ChunkRead, Kept, NewChunk, ReadFault, Time};
use crate::node::{Clock, Input, Output, World};

pub use crate::base::NoChunks;
pub use counters::LoopCounters;
pub use driver::{Fault, Shard};
pub use files::files_thread;
pub use handle::{Full, Handle};
pub use pipe::{Parcel, Pipe};
pub use start::{Running, Settings, StartError, Surroundings, start};

/// A pure state machine that a shard runs: [`crate::node::Node`], or a small one in tests.
pub trait Core {
    /// Tells it what happened.
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W);
    /// The first datagrams of trains that [`Self::handle`] will be told of next: what handling them needs may be fetched
    /// into the caches meanwhile.
    fn expect<'a>(&self, _datagrams: impl Iterator<Item = &'a [u8]>) {}
    /// Asks what it wants done; called until it wants nothing.
    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output>;
    /// When it wants [`Input::Tick`].
    fn poll_timeout(&self) -> Option<Time>;
    /// A round trip that was measured since this was last asked.
    fn take_round_trip(&mut self) -> Option<Duration> {
        None
    }
}

/// A stored slice whose pages are not resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cold {
    /// Where its bytes are mapped.
    pub addr: usize,
    /// How many bytes.
    pub len: usize,
    /// Which chunk: handed back in [`Input::Warmed`].
    pub handle: u64,
    /// Which slice: handed back in [`Input::Warmed`].
    pub slice: u32,
}

/// Stored chunks as a shard reads them.
pub trait ChunkStoreDriver: ChunkRead {
    /// A turn begins: look at the newest committed state.
    fn turn(&mut self);
    /// The shard is about to sleep: hold nothing that would stop others, such as a read transaction.
    fn park(&mut self);
    /// Slices that [`ChunkRead::warm`] found cold since the last call. The shard has them faulted in,
    /// [`crate::limits::WARM_IN_FLIGHT_MAX`] at a time, and does not ask again before they are under way.
    fn take_cold(&mut self) -> Vec<Cold>;
    /// A cold slice was faulted in, or could not be: [`ReadFault::Damaged`] when the disk failed or its pages are
    /// gone, so that reading it through the map would kill the process, [`ReadFault::Store`] when the kernel could
    /// not do it now. [`Input::Warmed`] follows, and with it another [`ChunkRead::warm`], which must then fail.
    fn warmed(&mut self, cold: Cold, populated: Result<(), ReadFault>);
    /// Stores a copy of another's chunk without waiting, and tells the shard what came of it ([`Handle::kept`]).
    fn keep(&mut self, number: u64, chunk: NewChunk, shard: Handle);
}

impl ChunkStoreDriver for NoChunks {
    fn turn(&mut self) {}
    fn park(&mut self) {}
    fn take_cold(&mut self) -> Vec<Cold> {
        Vec::new()
    }
    fn warmed(&mut self, _: Cold, _: Result<(), ReadFault>) {}
    fn keep(&mut self, number: u64, _: NewChunk, shard: Handle) {
        shard.kept(number, Kept::Failed);
    }
}

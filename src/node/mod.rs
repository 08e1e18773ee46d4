//! The only composer: sessions, streams, chunks and services behind one [`Input`] and one [`Output`].

pub mod command;

use crate::base::fileop::{FileDone, FileOp};
use crate::base::{ChunkRead, Memory, Path, Place, Time, UnixMs};

pub use command::{Command, Report};

/// Both clocks, read once per turn of the shard's loop.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Monotonic.
    pub now: Time,
    /// Wall.
    pub wall: UnixMs,
}

/// One or more datagrams of equal size (the last may be shorter) that lie one after another: what GRO
/// delivers and GSO sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train {
    /// Between which addresses.
    pub path: Path,
    /// All the datagrams' bytes.
    pub place: Place,
    /// Size of each datagram but the last, bytes; equals `place.len` for a single one.
    pub segment: u32,
    /// ECN code point, 0 to 3.
    pub ecn: u8,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// Datagrams came. The driver owns the buffer again when the call returns.
    Train(Train),
    /// The control thread asks.
    Command(Command),
    /// A file operation is done.
    FileDone(FileDone),
    /// A slice that [`ChunkRead::warm`] was asked for is resident.
    Warmed {
        /// Which chunk.
        handle: u64,
        /// Which slice.
        slice: u32,
    },
    /// The time that `poll_timeout` named has come (or a send buffer came back).
    Tick,
}

/// What a node wants done.
#[derive(Debug)]
pub enum Output {
    /// Send these datagrams; the buffer is the driver's until they are sent, then free.
    Train(Train),
    /// Do this to a file; answer with [`Input::FileDone`].
    File(FileOp),
    /// Tell the control thread.
    Report(Report),
}

/// What a node looks at: packet buffers and stored chunks, owned by the driver.
pub trait World: Memory + ChunkRead {}
impl<T: Memory + ChunkRead> World for T {}

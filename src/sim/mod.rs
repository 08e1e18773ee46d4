//! The simulated world around the same `node/` code that runs in a daemon: packet buffers, stored chunks,
//! files, links and address translators are models; time is a number; everything random comes from one seed.
//!
//! [`net::Net`] runs nodes, from two to thousands, and [`trace::Trace`] tells what they did. The tests below are
//! the second ring of `docs/testing.md`. [`emulator::Emulator`] puts the same link model between real processes.

pub mod buffers;
pub mod damage;
pub mod effects;
pub mod emulator;
pub mod files;
pub mod fuzzing;
pub mod import;
pub mod link;
pub mod link_text;
pub mod nat;
pub mod net;
pub mod nonces;
pub mod overlay;
pub mod scenario;
pub mod store;
pub mod trace;
pub mod traps;
pub mod trees;
pub mod wheel;
pub mod world;

#[cfg(test)]
mod tests;

/// How a node ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crash {
    /// The process dies: what it gave to the kernel stays.
    Process,
    /// The power fails: only what was made durable stays.
    Power,
}

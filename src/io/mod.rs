//! Safe drivers of what lies outside the process.
#![allow(clippy::disallowed_methods, reason = "the edge: clocks, files and threads are met here")]

pub mod clock;
pub mod entropy;
pub mod files;
#[cfg(any(test, feature = "sim"))]
pub mod fuzzing;
pub mod latency;
pub mod netconf;
pub mod store;
pub mod tally;
pub mod tree;
pub mod tun;
pub mod udp;

//! Safe drivers of what lies outside the process.
#![allow(clippy::disallowed_methods, reason = "the edge: clocks and threads are met here")]

pub mod clock;
pub mod entropy;
pub mod tally;
pub mod udp;

//! Services: requests in, effects out, pure like the cores below them.
//!
//! `put` turns a tree into chunks and a reference.

pub mod put;

//! (to be written)

// The edge: the store's writer is a thread of its own and waits by the clock.
#![allow(clippy::disallowed_methods)]

pub mod files;
pub mod store;
pub mod tree;

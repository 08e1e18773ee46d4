//! (to be written)

pub mod lmdb;
pub mod memory;

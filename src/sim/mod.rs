//! The simulated world around the same `node/` code that runs in a daemon: packet buffers, stored chunks,
//! files and links are models; time is a number; everything random comes from one seed.
//!
//! [`pair::Net`] holds a few nodes on one link model; the tests below it are the second ring of
//! `docs/testing.md`.

pub mod files;
pub mod fuzzing;
pub mod link;
pub mod pair;
pub mod world;

#[cfg(test)]
mod tests;

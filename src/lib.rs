//! **tornet**: one Linux daemon that moves files between friends, encrypted, verified and resumable. It grows
//! into a network in which everyone is paid for the bandwidth and storage that they give.
//!
//! The map of the code, and the rules that hold it together, are in `docs/architecture.md`.
//! The short form: every module imports only from modules above it in this list, the pure cores
//! (everything above [`sys`]) take `now` and a seed as arguments and name no clock, socket, file,
//! thread or async, and `unsafe` lives in [`sys`] alone. `cargo xtask tidy` enforces all three.

pub mod limits;

pub mod base;
pub mod crypto;
pub mod wire;

pub mod chunk;
pub mod onion;
pub mod overlay;
pub mod session;
pub mod shape;
pub mod stream;
pub mod trust;
pub mod tunnel;

pub mod service;

pub mod node;

#[allow(unsafe_code)]
pub mod sys;

pub mod io;

pub mod shard;

pub mod bridge;
pub mod socks;

pub mod api;
pub mod cli;
pub mod config;

#[cfg(any(test, feature = "sim"))]
pub mod sim;

//! The only `unsafe` of the program: memory that the kernel reads and writes while we run, io_uring's
//! queues, and the options of sockets and devices that no safe crate knows. What is public here is safe to call.

pub mod affinity;
pub mod allocations;
pub mod buffers;
pub mod eventfd;
pub mod fault;
pub mod hint;
pub mod kernel;
pub mod lmdb;
pub mod memory;
pub mod message;
mod region;
pub mod ring;
pub mod socket;
pub mod tun;

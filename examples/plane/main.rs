//! The parts of `cargo xtask bench floor`: what moves bytes from one process to another, from bare sockets up to
//! streams, and what encrypts them, each alone, so that one can be held against the sum of others.
//!
//! ```text
//! plane aead             CORE SECONDS SIZE    seals and opens SIZE-byte datagrams, train by train
//! plane read             CORE SECONDS SIZE    copies them out of memory that no cache holds
//! plane sessions         CORE COUNT SIZE      COUNT sessions of one node, and their packets
//! plane raw       END    CORE SECONDS SIZE    plain sendmsg and recvmsg with GSO and GRO
//! plane loop      END    CORE SECONDS SIZE    the same bytes through shards, not encrypted
//! plane datagrams END    CORE SECONDS SIZE    datagrams of a session, sealed and opened where they lie
//! plane stream    END    CORE SECONDS SIZE    one stream from memory to memory
//! plane echo-bare END    CORE SECONDS SIZE    a datagram there and back, answered by a ring and a socket
//! plane echo[-polling] END CORE SECONDS SIZE  the same in a session, answered by a shard that sleeps, or polls
//! ```
//! END is `at ADDRESS` to receive, which prints `ready`, or `to ADDRESS` to send. Each measures for SECONDS after a
//! while of running, prints one line of JSON and ends. SIZE is the UDP payload of a datagram, bytes (a stream finds
//! its own).
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and waits")]

mod aead;
mod bare;
mod datagrams;
mod echo;
mod link;
mod meter;
mod raw;
mod read;
mod sessions;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use tornet::sys::allocations::Counted;

#[global_allocator]
static ALLOCATOR: Counted<mimalloc::MiMalloc> = Counted(mimalloc::MiMalloc);

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Which end of a connection a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Receives there.
    At(SocketAddr),
    /// Sends there.
    To(SocketAddr),
}

/// How a part is to run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    core: usize,
    seconds: u64,
    /// UDP payload of one datagram, bytes.
    size: usize,
}

fn main() -> Fallible<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let plan = |core: &str, seconds: &str, size: &str| -> Fallible<Plan> {
        Ok(Plan { core: core.parse()?, seconds: seconds.parse()?, size: size.parse()? })
    };
    match words.as_slice() {
        ["aead", core, seconds, size] => aead::run(&plan(core, seconds, size)?),
        ["read", core, seconds, size] => read::run(&plan(core, seconds, size)?),
        ["sessions", core, count, size] => sessions::run(&plan(core, count, size)?),
        [part, end, address, core, seconds, size] => {
            let end = match *end {
                "at" => End::At(address.parse()?),
                "to" => End::To(address.parse()?),
                other => return Err(format!("{other}: `at` or `to`").into()),
            };
            let plan = plan(core, seconds, size)?;
            match *part {
                "raw" => raw::run(end, &plan),
                "loop" => bare::run(end, &plan),
                "datagrams" => datagrams::run(end, &plan),
                "stream" => stream::run(end, &plan),
                "echo-bare" => echo::run(echo::Kind::Bare, end, &plan),
                "echo" => echo::run(echo::Kind::Shard(Duration::ZERO), end, &plan),
                "echo-polling" => echo::run(echo::Kind::Shard(Duration::from_millis(5)), end, &plan),
                other => Err(format!("no part {other}").into()),
            }
        }
        _ => Err("see the head of examples/plane/main.rs".into()),
    }
}

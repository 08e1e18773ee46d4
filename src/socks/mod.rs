//! A SOCKS5 proxy (RFC 1928) for applications of this host, whose connections go through the node's own circuit
//! (docs/protocol/onion.md §8, docs/operating.md §8). It needs no device and no rights: the circuit carries IP packets, and
//! [`stack`](crate::service::proxy::stack) is the host that they come from and go to.
//!
//! ```text
//! application ─ loopback ─▶ client (what it asks) ─▶ stack (TCP, UDP) ─▶ shard::Pipe ─▶ the first shard ─▶ circuit
//!                                  └─▶ names (questions to a resolver) ─▶┘
//! ```
//!
//! One thread does it all ([`worker`]). What needs no socket is [`crate::service::proxy`]'s.
#![allow(clippy::disallowed_methods, reason = "the edge: a thread and sockets are its purpose")]

mod association;
mod client;
mod owner;
mod relay;
pub mod stats;
mod worker;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crate::base::Rng;
use crate::io::clock::Clocks;
use crate::shard::Pipe;
use stats::Stats;
use worker::Worker;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where applications connect.
    pub listen: SocketAddr,
    /// Who is asked for names, through the circuit.
    pub resolvers: Vec<IpAddr>,
}

/// A running proxy.
pub struct Proxy {
    plan: Plan,
    pipe: Arc<Pipe>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Takes the address; an error is one line.
pub fn bind(listen: SocketAddr) -> Result<TcpListener, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the SOCKS proxy's {listen} is in use by another program: choose another port")
        }
        _ => format!("the SOCKS proxy cannot listen on {listen}: {error}"),
    };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

impl Proxy {
    /// Begins to serve the applications that come to `listener`, and counts in `stats`.
    pub fn start(
        plan: Plan,
        listener: TcpListener,
        pipe: Arc<Pipe>,
        clocks: Clocks,
        rng: Rng,
        stats: &Arc<Stats>,
    ) -> Result<Self, String> {
        let stopping = Arc::new(AtomicBool::new(false));
        let cannot = |error: io::Error| format!("cannot start the SOCKS proxy: {error}");
        let worker = Worker::new(&plan, listener, pipe.clone(), clocks, rng, stats.clone(), stopping.clone())
            .map_err(cannot)?;
        let stopped = stopping.clone();
        let work = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
            if ended.is_err() || !stopped.load(Ordering::Acquire) {
                tracing::error!("the SOCKS proxy ended by itself: `tornet tunnel up` begins another");
            }
        };
        let thread = Builder::new().name("socks".into()).spawn(work).map_err(cannot)?;
        Ok(Self { plan, pipe, stopping, thread: Some(thread) })
    }

    /// Whether it has not ended by itself.
    pub fn runs(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What it was asked to be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Drop for Proxy {
    /// Ends the listener and every connection.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.pipe.wake();
        if let Some(thread) = self.thread.take() {
            // How it ended it has said itself.
            let _ = thread.join();
        }
    }
}

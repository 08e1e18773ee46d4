//! Bridges: datagrams carried by WebSocket over TCP, for networks that block UDP (docs/protocol/bridge.md, decision 26).
//!
//! ```text
//! shard ─ UDP, loopback ─▶ line ─▶ pump ═ wss:// ═▶ server ─▶ pump ─▶ guest ─ UDP, loopback ─▶ shard
//!        127.64.0.1:port (this node's)                              127.65–127.*.*.1:port (a guest's)
//! ```
//!
//! One thread with a runtime of its own does it all: TLS would stall the control thread, whose answers the watchdog waits for.
//! The shards see peers at addresses of loopback, and do what they do on UDP; sessions, keys and masks are theirs alone. Nothing
//! is reached through a bridge but the node's own first port.
#![allow(clippy::disallowed_methods, reason = "the edge: a thread and sockets are its purpose")]

mod answer;
mod crowd;
mod line;
mod pump;
mod queue;
mod server;
pub mod stats;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::base::Rng;
use crate::base::bridge::OWN;
use crate::wire::bridge::BridgeUrl;
use line::Line;
use server::Server;
use stats::Stats;

/// After an error that may come again at once, and before the end.
const PAUSE: Duration = Duration::from_millis(50);

/// The node whose datagrams they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its addresses, without ports.
    pub listen: Vec<IpAddr>,
    /// The UDP port of its first shard, and how many there are from there on.
    pub port: u16,
    /// See `port`.
    pub shards: u16,
}

impl Host {
    /// Where a guest's datagrams are handed to it.
    fn door(&self) -> Option<SocketAddr> {
        let v4 = |ip: &IpAddr| matches!(ip, IpAddr::V4(_));
        let local = |ip: &IpAddr| v4(ip) && (ip.is_unspecified() || ip.is_loopback());
        let ip = self.listen.iter().find(|ip| local(ip)).or(self.listen.iter().find(|ip| v4(ip)))?;
        let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { *ip };
        Some(SocketAddr::new(ip, self.port))
    }

    /// Whether an address is one from which its shards send to loopback. Another user of this host may have the same port at
    /// another address.
    fn has(&self, from: SocketAddr) -> bool {
        let own = |ip: &IpAddr| match ip.is_unspecified() {
            // What the kernel takes where the socket says nothing.
            true => from.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => from.ip() == *ip,
        };
        from.port().checked_sub(self.port).is_some_and(|shard| shard < self.shards)
            && self.listen.iter().filter(|ip| ip.is_ipv4()).any(own)
    }
}

/// A bridge of this node's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Where guests come.
    pub listen: SocketAddr,
    /// What they ask for.
    pub path: String,
    /// Certificates and key, if it speaks TLS itself.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// The lines that are wanted: by URL, with the sockets from which their datagrams come.
type Lines = BTreeMap<BridgeUrl, Arc<UdpSocket>>;

/// The running thread.
pub struct Bridges {
    host: Host,
    serving: Option<SocketAddr>,
    stats: Arc<Stats>,
    lines: Mutex<Lines>,
    /// Taken when it ends.
    wanted: Option<watch::Sender<Lines>>,
    thread: Option<JoinHandle<()>>,
}

impl Bridges {
    /// Starts the thread, with the node's own bridge if it is to have one. An error is one line.
    pub fn start(host: Host, serving: Option<Serving>, mut rng: Rng) -> Result<Self, String> {
        let stats: Arc<Stats> = Arc::default();
        let server = serving.map(|serving| Server::bind(serving, &host, &stats, rng.bytes())).transpose()?;
        let serving = server.as_ref().map(Server::listen);
        let (wanted, changes) = watch::channel(Lines::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the bridges' thread: {error}"))?;
        let (of, counted) = (host.clone(), stats.clone());
        let work = move || {
            runtime.block_on(run(of, server, changes, counted, rng));
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        };
        let thread = Builder::new().name("bridge".into()).spawn(work);
        let thread = thread.map_err(|error| format!("cannot start the bridges' thread: {error}"))?;
        let lines = Mutex::default();
        Ok(Self { host, serving, stats, lines, wanted: Some(wanted), thread: Some(thread) })
    }

    /// Has these bridges and no others; where each takes datagrams. One that stays keeps its address.
    pub fn set(&self, urls: &[Option<BridgeUrl>]) -> Vec<Option<SocketAddr>> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Lines::new();
        for url in urls.iter().flatten() {
            let socket = match lines.get(url).or(next.get(url)) {
                Some(socket) => socket.clone(),
                None => match self.socket() {
                    Ok(socket) => Arc::new(socket),
                    Err(error) => {
                        tracing::warn!("the bridge {} cannot be used: {error}", url.place());
                        continue;
                    }
                },
            };
            next.insert(url.clone(), socket);
        }
        let address = |url: &BridgeUrl| next.get(url).and_then(|socket| socket.local_addr().ok());
        let addresses = urls.iter().map(|url| url.as_ref().and_then(address)).collect();
        if let Some(wanted) = self.wanted.as_ref().filter(|_| !lines.keys().eq(next.keys())) {
            wanted.send_replace(next.clone());
        }
        *lines = next;
        addresses
    }

    fn socket(&self) -> io::Result<UdpSocket> {
        if self.host.door().is_none() {
            return Err(io::Error::other("it needs an IPv4 address among `listen`"));
        }
        let socket = UdpSocket::bind((OWN, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Where guests come, if they may.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.serving
    }

    /// What it counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Bridges {
    /// Ends every connection.
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's life: until nobody is left who could want anything.
async fn run(
    host: Host,
    server: Option<Server>,
    mut wanted: watch::Receiver<Lines>,
    stats: Arc<Stats>,
    rng: Rng,
) {
    if let Some(server) = server {
        tokio::spawn(server.run());
    }
    let mut running: BTreeMap<BridgeUrl, (Arc<UdpSocket>, AbortHandle)> = BTreeMap::new();
    let tls = Arc::new(tls::Client::new());
    let rng = Arc::new(Mutex::new(rng));
    while wanted.changed().await.is_ok() {
        let lines = wanted.borrow_and_update().clone();
        running.retain(|url, (socket, task)| {
            let stays = lines.get(url).is_some_and(|wanted| Arc::ptr_eq(wanted, socket));
            if !stays {
                task.abort();
            }
            stays
        });
        for (url, socket) in lines {
            let line = || Line {
                url: url.clone(),
                host: host.clone(),
                tls: tls.clone(),
                stats: stats.clone(),
                rng: rng.clone(),
            };
            let begin = || (socket.clone(), tokio::spawn(line().run(socket.clone())).abort_handle());
            running.entry(url.clone()).or_insert_with(begin);
        }
    }
    // What the node said at last may be on its way.
    tokio::time::sleep(PAUSE).await;
}

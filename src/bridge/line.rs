//! A bridge to a friend: it is called when the node sends something there, again when it broke, and left when nothing passes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};
use tokio_tungstenite::tungstenite::http::header;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::pump::{End, limits, pump};
use super::queue::{Queue, Waits};
use super::stats::{Present, Stats};
use super::tls::{self, Stream};
use super::{Host, PAUSE};
use crate::base::Rng;
use crate::limits::{
    BRIDGE_ADDRESSES_MAX, BRIDGE_CONNECT_MS_MAX, BRIDGE_IDLE_MS_MAX, BRIDGE_RETRY_MS_MAX,
    BRIDGE_RETRY_MS_MIN, BRIDGE_UNSENT_BYTES, DATAGRAM_MAX,
};
use crate::sys::socket::MARK;
use crate::wire::bridge::BridgeUrl;

/// What a browser says of itself, as most of them do: who stands before the bridge sees an ordinary question.
const BROWSER: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";

/// One friend's bridge.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) url: BridgeUrl,
    pub(super) host: Host,
    pub(super) tls: Arc<tls::Client>,
    pub(super) stats: Arc<Stats>,
    pub(super) rng: Arc<Mutex<Rng>>,
}

/// What every connection of ours is told of how to send: nothing waits to be put together, little waits unsent.
pub(super) fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(BRIDGE_UNSENT_BYTES);
}

impl Line {
    /// Takes what the node's shards send to the socket. Each shard's port has a connection of its own, as it has a path of its own
    /// on UDP: so what comes back comes to the shard that sent.
    pub(super) async fn run(self, socket: Arc<std::net::UdpSocket>) {
        let socket = socket.try_clone().and_then(UdpSocket::from_std);
        let Ok(socket) = socket.map(Arc::new) else { return };
        let mut carriers: BTreeMap<SocketAddr, Queue> = BTreeMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        // A byte more than any has, so that what is cut off is known.
        let mut buffer = [0; DATAGRAM_MAX + 1];
        loop {
            // An error is of what was sent before, to a port that is closed: a daemon that ends.
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
                sleep(PAUSE).await;
                continue;
            };
            // Others of this host have nothing to say here.
            if !self.host.has(from) || len > DATAGRAM_MAX {
                continue;
            }
            let queue = carriers.entry(from).or_insert_with(|| {
                let (queue, waits) = Queue::new(&self.stats);
                tasks.spawn(self.clone().carry(waits, socket.clone(), from));
                queue
            });
            queue.push(&buffer[..len]);
        }
    }

    /// Carries for one shard: connects when something waits, and when a connection broke that was in use.
    async fn carry(self, mut waits: Waits, socket: Arc<UdpSocket>, shard: SocketAddr) {
        let deliver = |bytes: &[u8]| _ = socket.try_send_to(bytes, shard);
        let least = Duration::from_millis(BRIDGE_RETRY_MS_MIN);
        let (mut pause, mut said, mut known) = (least, String::new(), Vec::new());
        loop {
            // What wakes it stays in the queue: it is what the connection is for.
            if !waits.any().await {
                return;
            }
            let limit = Duration::from_millis(BRIDGE_CONNECT_MS_MAX);
            let late = || Err("it does not answer".to_owned());
            match timeout(limit, self.connect(&mut known)).await.unwrap_or_else(|_| late()) {
                Ok(stream) => {
                    Stats::add(&self.stats.connected, 1);
                    let here = Present::new(&self.stats.lines);
                    tracing::info!("the bridge {} is connected", self.url.place());
                    said.clear();
                    let idle = Duration::from_millis(BRIDGE_IDLE_MS_MAX);
                    let end = pump(stream, &mut waits, deliver, idle, &self.stats).await;
                    drop(here);
                    tracing::info!("the bridge {} has ended: {}", self.url.place(), reason(&end));
                    pause = least;
                }
                Err(why) => {
                    Stats::add(&self.stats.failed, 1);
                    // Each reason once, until something else happens.
                    if said != why {
                        tracing::warn!("the bridge {} cannot be used: {why}", self.url.place());
                        said = why;
                    }
                }
            }
            self.rest(pause, &mut waits).await;
            pause = (pause * 2).min(Duration::from_millis(BRIDGE_RETRY_MS_MAX));
        }
    }

    /// A while in which what is sent is lost, as where no link is.
    async fn rest(&self, pause: Duration, waits: &mut Waits) {
        let jitter =
            self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(pause.as_millis() as u64 / 4 + 1);
        let until = sleep(pause + Duration::from_millis(jitter));
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                lost = waits.lose() => match lost {
                    true => Stats::add(&self.stats.dropped_datagrams, 1),
                    false => return,
                },
            }
        }
    }

    /// TCP, TLS and WebSocket. An error is what a person can do something about.
    async fn connect(&self, known: &mut Vec<SocketAddr>) -> Result<WebSocketStream<Box<dyn Stream>>, String> {
        let url = &self.url;
        match tokio::net::lookup_host((url.host(), url.port())).await {
            Ok(found) => *known = found.take(BRIDGE_ADDRESSES_MAX).collect(),
            // Where it was before: names may be looked up through a tunnel that this bridge is to carry.
            Err(error) if known.is_empty() => return Err(format!("its name has no address: {error}")),
            Err(_) => {}
        }
        let mut last = "its name has no address".to_owned();
        for address in known.iter().copied() {
            match reach(address).await {
                Ok(tcp) => {
                    let stream = match url.is_tls() {
                        true => self.tls.wrap(url, tcp).await?,
                        false => Box::new(tcp),
                    };
                    return self.ask(stream).await;
                }
                Err(error) => last = format!("{address} is not reached: {error}"),
            }
        }
        Err(last)
    }

    /// Asks for the path as a browser would.
    async fn ask(&self, stream: Box<dyn Stream>) -> Result<WebSocketStream<Box<dyn Stream>>, String> {
        let url = &self.url;
        let (authority, scheme) = (url.authority(), if url.is_tls() { "https" } else { "http" });
        let request = Request::builder()
            .uri(format!("{}{}", url.place(), url.path()))
            .header(header::HOST, &authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::PRAGMA, "no-cache")
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::USER_AGENT, BROWSER)
            .header(header::UPGRADE, "websocket")
            .header(header::ORIGIN, format!("{scheme}://{authority}"))
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::ACCEPT_ENCODING, "gzip, deflate, br, zstd")
            .header(header::ACCEPT_LANGUAGE, "en-US,en;q=0.9")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .body(())
            .map_err(|error| error.to_string())?;
        let asked = client_async_with_config(request, stream, Some(limits())).await;
        asked.map(|(socket, _)| socket).map_err(|error| match error {
            tokio_tungstenite::tungstenite::Error::Http(answer) => {
                format!("there is no bridge at this path (HTTP {})", answer.status().as_u16())
            }
            other => other.to_string(),
        })
    }
}

/// TCP alone; tunnels of this node do not take it in.
async fn reach(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Permitted with CAP_NET_ADMIN alone, without which there are no routes of ours either.
    let _ = SockRef::from(&socket).set_mark(MARK);
    let stream = timeout(Duration::from_millis(BRIDGE_CONNECT_MS_MAX / 2), socket.connect(address));
    let stream = stream.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    tune(&stream);
    Ok(stream)
}

fn reason(end: &End) -> &'static str {
    match end {
        End::Closed => "it was closed",
        End::Silent => "nothing was heard for a while",
        End::Idle => "nothing passed for a while",
        End::Over => "it is not wanted any more",
    }
}

//! This node's own bridge: a web server that has one secret page, and behind that the node's UDP port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::answer::{Answer, Secret, asker, is_before, nothing, welcome};
use super::crowd::{Crowd, Pace, Stranger, Strangers};
use super::line::tune;
use super::pump::{limits, pump};
use super::queue::Queue;
use super::stats::{Present, Stats};
use super::tls::Served;
use super::{Host, PAUSE, Serving};
use crate::base::Time;
use crate::base::bridge::guests_of;
use crate::base::units::plain;
use crate::crypto::hash::blake3;
use crate::limits::{
    BRIDGE_GREETING_MS_MAX, BRIDGE_GUEST_IDLE_MS_MAX, BRIDGE_QUESTIONS_MAX, BRIDGE_REQUEST_MAX,
    BRIDGE_STRANGERS_MAX, DATAGRAM_MAX,
};
use crate::sys::socket::MARK;

/// Where guests come, before anybody does.
pub(super) struct Server {
    listener: std::net::TcpListener,
    listen: SocketAddr,
    shared: Arc<Shared>,
}

/// What every connection needs.
struct Shared {
    tls: Option<Served>,
    secret: Secret,
    /// The node's first port.
    door: SocketAddr,
    stats: Arc<Stats>,
    /// Connections, whatever they want, and guests.
    crowd: Crowd,
    guests: Crowd,
    /// Those that are no guests yet.
    strangers: Strangers,
    /// By which networks of guests are told apart, drawn at the start.
    salt: [u8; 32],
}

impl Server {
    /// Takes the address and reads the certificate; an error is one line.
    pub(super) fn bind(
        serving: Serving,
        host: &Host,
        stats: &Arc<Stats>,
        salt: [u8; 32],
    ) -> Result<Self, String> {
        let Serving { listen, path, tls } = serving;
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("bridge.listen = \"{listen}\" is in use by another program: choose another port")
            }
            std::io::ErrorKind::PermissionDenied => format!(
                "bridge.listen = \"{listen}\" may not be bound by this user: choose a port above 1023, or see docs/operating.md"
            ),
            _ => format!("cannot listen on bridge.listen = \"{listen}\": {}", plain(&error)),
        };
        let door = host.door().ok_or("a bridge needs an IPv4 address among `listen`")?;
        let tls = tls.map(|(certificate, key)| Served::new(&certificate, &key)).transpose();
        let tls = tls.map_err(|why| format!("the bridge: {why}"))?;
        let listener = std::net::TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // Connections that come have it, too: no tunnel of this node takes them in.
        let _ = SockRef::from(&listener).set_mark(MARK);
        let listen = listener.local_addr().map_err(failed)?;
        match &tls {
            Some((_, pin)) => tracing::info!("a bridge is at {listen}, with the certificate sha256={pin}"),
            None => tracing::info!("a bridge is at {listen}, without TLS of its own"),
        }
        let (crowd, guests, strangers) = (Crowd::default(), Crowd::default(), Strangers::default());
        let (tls, secret) = (tls.map(|(served, _)| served), Secret::new(&path));
        let shared = Shared { tls, secret, door, stats: stats.clone(), crowd, guests, strangers, salt };
        Ok(Self { listener, listen, shared: Arc::new(shared) })
    }

    /// Where it is.
    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Takes connections for as long as it is polled.
    pub(super) async fn run(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the bridge at {} ends: {error}", self.listen),
        };
        let (began, mut pace) = (Instant::now(), Pace::default());
        loop {
            let Ok((tcp, from)) = listener.accept().await else {
                // Descriptors are short: whoever has some gives them back.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let peer = from.ip().to_canonical();
            let shared = self.shared.clone();
            // A web server of this host brings everybody, and has done the handshakes.
            let before = is_before(peer, shared.tls.is_some());
            let place = match before {
                true => shared.crowd.enter_as_anybody(peer),
                false => shared.crowd.enter(peer),
            };
            let place = place.filter(|_| before || pace.admit(Time(began.elapsed().as_nanos() as u64), peer));
            let Some(place) = place else {
                Stats::add(&shared.stats.refused, 1);
                continue;
            };
            tune(&tcp);
            let stranger = shared.strangers.enter();
            let number = stranger.number();
            let task = tokio::spawn(async move {
                attend(shared, tcp, peer, stranger).await;
                drop(place);
            });
            let ended = self.shared.strangers.begin(number, task.abort_handle(), BRIDGE_STRANGERS_MAX);
            Stats::add(&self.shared.stats.refused, ended);
        }
    }
}

/// One connection, until it is a guest's or has ended.
async fn attend(shared: Arc<Shared>, tcp: TcpStream, peer: IpAddr, stranger: Stranger) {
    let limit = Duration::from_millis(BRIDGE_GREETING_MS_MAX);
    // TLS and the question together, whatever is done meanwhile.
    let Ok(Some((stream, asker))) = timeout(limit, greet(&shared, tcp, peer)).await else { return };
    // From here on it makes room for nobody.
    drop(stranger);
    entertain(&shared, TokioIo::new(stream), asker).await;
}

async fn greet(shared: &Arc<Shared>, tcp: TcpStream, peer: IpAddr) -> Option<(Upgraded, IpAddr)> {
    match shared.tls.as_ref().map(Served::acceptor) {
        Some(acceptor) => {
            let stream = acceptor.accept(tcp).await.ok()?;
            listen(shared, TokioIo::new(stream), peer).await
        }
        None => listen(shared, TokioIo::new(tcp), peer).await,
    }
}

/// Whoever asks for so many pages has asked enough: it is not the only one whom this thread has.
#[derive(Debug, thiserror::Error)]
#[error("so many questions")]
struct Enough;

/// Answers until somebody is a guest.
async fn listen<S>(shared: &Arc<Shared>, stream: S, peer: IpAddr) -> Option<(Upgraded, IpAddr)>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let (guest, mut came) = tokio::sync::mpsc::channel(1);
    let before = is_before(peer, shared.tls.is_some());
    let asked = AtomicUsize::new(0);
    let service = service_fn(|request| {
        let many = !before && asked.fetch_add(1, Ordering::Relaxed) >= BRIDGE_QUESTIONS_MAX;
        let answer = (!many).then(|| answer(shared, request, peer, &guest));
        async move { answer.ok_or(Enough) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(BRIDGE_GREETING_MS_MAX))
        .max_buf_size(BRIDGE_REQUEST_MAX)
        .serve_connection(stream, service)
        .with_upgrades();
    let _ = connection.await;
    let (upgrade, asker) = came.try_recv().ok()?;
    Some((upgrade.await.ok()?, asker))
}

type Guest = (OnUpgrade, IpAddr);

fn answer(
    shared: &Shared,
    mut request: Request<Incoming>,
    peer: IpAddr,
    guest: &tokio::sync::mpsc::Sender<Guest>,
) -> Answer {
    let asker = asker(peer, is_before(peer, shared.tls.is_some()), request.headers());
    match welcome(&request, &shared.secret) {
        Some(welcome) if guest.try_send((hyper::upgrade::on(&mut request), asker)).is_ok() => welcome,
        _ => {
            Stats::add(&shared.stats.strangers, 1);
            nothing()
        }
    }
}

/// A guest: a UDP socket of its own, connected to the node's first port, at an address of its network.
async fn entertain(shared: &Shared, stream: TokioIo<Upgraded>, asker: IpAddr) {
    let Some(_place) = shared.guests.enter(asker) else {
        return Stats::add(&shared.stats.refused, 1);
    };
    let at = guests_of(network(&shared.salt, asker));
    let socket = async {
        let socket = UdpSocket::bind((at, 0)).await?;
        socket.connect(shared.door).await.map(|()| socket)
    };
    let socket = match socket.await {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!("a guest finds no room: {}", plain(&error)),
    };
    Stats::add(&shared.stats.came, 1);
    let here = Present::new(&shared.stats.guests);
    tracing::debug!("a guest came, and is at {at}");
    let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits())).await;
    let (queue, mut waits) = Queue::new(&shared.stats);
    let deliver = |bytes: &[u8]| _ = socket.try_send(bytes);
    let idle = Duration::from_millis(BRIDGE_GUEST_IDLE_MS_MAX);
    let from_node = async {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            // An error says that the node's port was closed for a moment, or is for good: then all of this ends.
            match socket.recv(&mut buffer).await {
                Ok(len) if queue.push(&buffer[..len]) => {}
                Ok(_) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        end = pump(stream, &mut waits, deliver, idle, &shared.stats) => tracing::debug!("a guest left: {end:?}"),
        () = from_node => {}
    }
    drop(here);
}

/// A number of an address' network, an IPv4 /24 or an IPv6 /56: what bounds by prefix takes for one.
fn network(salt: &[u8; 32], ip: IpAddr) -> u64 {
    let prefix = match ip.to_canonical() {
        IpAddr::V4(ip) => [&[4][..], &ip.octets()[..3]].concat(),
        IpAddr::V6(ip) => [&[6][..], &ip.octets()[..7]].concat(),
    };
    let hash = blake3(&[b"tornet bridge network\0", salt, &prefix]);
    u64::from_le_bytes(std::array::from_fn(|at| hash[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_network_and_others_another() {
        let of = |text: &str| network(&[7; 32], text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.99"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:fe::1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:100::1"));
        assert_ne!(network(&[8; 32], [192, 0, 2, 1].into()), network(&[7; 32], [192, 0, 2, 1].into()));
    }
}

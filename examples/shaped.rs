//! Many real sessions in one process, each of which asks a daemon for more than its limit gives, and notes what it gets:
//! the load of `cargo xtask bench limits`.
//!
//! ```text
//! shaped content FILE                 writes what the daemon is to publish: one chunk
//! shaped nodes COUNT                  prints the node ids of the sessions to be, one per line
//! shaped invitations NETWORK COUNT    prints invitations of the first of them, without addresses
//! shaped load INVITATION NETWORK COUNT SECONDS PROBES ALTERNATE LOG
//! ```
//! Session `n` has the port `FIRST_PORT + n`. `load` begins when all sessions had some seconds, and writes into `LOG` when
//! each datagram came, by the kernel's clock at the device: nanoseconds from the begin, 8 bytes, session, 4, bytes on the
//! wire (IPv4), 4, little-endian. It begins `PROBES` further sessions per second and prints how long each handshake took,
//! microseconds, on a line `probes`, behind a line `ports`: the daemon's port for each session. With `ALTERNATE` the
//! sessions of even ports ask in one tenth of a second, those of odd ports in the next.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and waits")]

use std::io::{IoSliceMut, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use tornet::base::fileop::FileTime;
use tornet::base::{ChunkId, Path, Rng, StreamId, Time};
use tornet::crypto::rank::{PLACE_FLOOR_BITS, place, place_work};
use tornet::crypto::{Identity, Secret};
use tornet::io::clock::Clocks;
use tornet::limits::{
    CHUNK_SLICES_MAX, DATAGRAM_MAX, HEADER_SIZE, PACKET_OVERHEAD, PIECE_PLAIN_MAX, TAG_SIZE,
};
use tornet::node::CHUNK_CHANNEL;
use tornet::service::put::{Known, Put};
use tornet::session::{Config, Event as SessionEvent, PacketKind, Received, SessionKey, Sessions};
use tornet::stream::{self, Connection, Event as StreamEvent, RecvMode, Sink};
use tornet::wire::chunkmsg::SliceRequest;
use tornet::wire::invite::{Invite, network_hash};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What IP and UDP add, bytes.
const IP_HEADER: u64 = 28;
/// The first session's port.
const FIRST_PORT: u16 = 20_000;
/// Requests that each session has under way: there is always something to send to it.
const REQUESTS: usize = 2;
/// Sessions begin one after the other: the daemon takes 50 per second from one prefix.
const BEGIN_EVERY_NS: u64 = 25_000_000;
/// Time between the last session's begin and the first measurement.
const SETTLE_NS: u64 = 15_000_000_000;
/// For how long one half asks and the other does not.
const ALTERNATE_NS: u64 = 100_000_000;

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["content", file] => Ok(std::fs::write(file, content())?),
        ["nodes", count] => {
            (0..count.parse()?).for_each(|number| println!("{}", identity(number).card().node_id()));
            Ok(())
        }
        ["invitations", network, count] => {
            for number in 0..count.parse()? {
                let (network, identity) = (network_hash(network), identity(number));
                println!(
                    "{}",
                    Invite { network, card: *identity.card(), addresses: Vec::new(), bridge: None }
                );
            }
            Ok(())
        }
        ["load", invitation, network, count, seconds, probes, alternate, log] => {
            let invite: Invite = invitation.parse().map_err(|bad| format!("{bad:?}"))?;
            let remote = *invite.addresses.iter().find(|one| one.is_ipv4()).ok_or("no IPv4 address")?;
            let (count, seconds) = (count.parse()?, seconds.parse::<u64>()?);
            let what = Load {
                invite,
                remote,
                network: network.as_bytes().to_vec(),
                count,
                length_ns: seconds * 1_000_000_000,
                probes: probes.parse::<u64>()?,
                alternate: *alternate == "alternate",
            };
            what.run(log)
        }
        _ => Err("see the head of examples/shaped.rs".into()),
    }
}

fn content() -> Vec<u8> {
    let mut bytes = vec![0; PIECE_PLAIN_MAX];
    Rng::from_number(4600).fill(&mut bytes);
    bytes
}

/// The chunk that the content is sealed in: keys come from the content, so that it is the daemon's.
fn chunk() -> Fallible<ChunkId> {
    struct Nothing;
    impl Known for Nothing {
        fn find(&mut self, _: &tornet::chunk::PieceHash) -> Option<tornet::wire::locator::Locator> {
            None
        }
    }
    let mut put = Put::new(None);
    put.begin_directory(b"top", 0o755, FileTime::default())?;
    put.begin_file(b"file", 0o644, FileTime::default())?;
    put.piece(&content(), &mut Nothing)?;
    put.end_file()?;
    put.end_directory();
    let mut largest = None;
    loop {
        let done = put.finish(&mut Nothing)?;
        while let Some(chunk) = put.poll_chunk() {
            if largest.as_ref().is_none_or(|(_, len)| chunk.bytes.len() > *len) {
                largest = Some((chunk.id, chunk.bytes.len()));
            }
        }
        while put.poll_publication().is_some() {}
        if done.is_some() {
            return Ok(largest.ok_or("no chunk")?.0);
        }
    }
}

fn identity(number: u64) -> Identity {
    let identity = Identity::new(Secret::from_bytes(Rng::from_number(1_000_000 + number).bytes()), 0, 0);
    let key = identity.card().key;
    let nonce = (0..).find(|nonce| place_work(&key, &place(&key, *nonce)) >= PLACE_FLOOR_BITS);
    identity.with_nonces(nonce.unwrap_or(0), 0)
}

struct Client {
    number: u32,
    socket: UdpSocket,
    local: SocketAddr,
    sessions: Sessions,
    connection: Option<(SessionKey, Connection)>,
    /// Whether it asks, and how many of its requests are not answered whole.
    asks: bool,
    under_way: usize,
    begun: Time,
    /// When its handshake was done, by the kernel's clock.
    answered: Option<u64>,
    timer: Time,
}

/// Counts nothing: windows are opened again by what came.
#[derive(Default)]
struct Taken(Vec<(StreamId, u64)>);

impl Sink for Taken {
    fn data(&mut self, stream: StreamId, _: u64, bytes: &[u8]) {
        self.0.push((stream, bytes.len() as u64));
    }
}

/// What is to be done.
struct Load {
    invite: Invite,
    remote: SocketAddr,
    network: Vec<u8>,
    count: u64,
    length_ns: u64,
    probes: u64,
    alternate: bool,
}

fn wall_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Load {
    fn client(&self, clocks: &Clocks, epoll: &Epoll, number: u64) -> Fallible<Client> {
        let mut config = Config::new(Arc::new(identity(number)), &self.network, clocks.wall());
        config.refuse_early_until = clocks.wall();
        let socket = UdpSocket::bind(("0.0.0.0", FIRST_PORT + u16::try_from(number)?))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        Ok(Client {
            number: number as u32,
            local: socket.local_addr()?,
            socket,
            sessions: Sessions::new(config, Rng::from_number(number), clocks.now()),
            connection: None,
            asks: number < self.count,
            under_way: 0,
            begun: Time(u64::MAX),
            answered: None,
            timer: Time(u64::MAX),
        })
    }

    fn run(&self, log: &str) -> Fallible<()> {
        let (clocks, epoll) = (Clocks::start(), Epoll::new(EpollCreateFlags::empty())?);
        let slices = if self.alternate { 1 } else { CHUNK_SLICES_MAX };
        let request = SliceRequest { chunk: chunk()?, mask: u16::MAX >> (16 - slices), list: false };
        let probes = self.probes * self.length_ns / 1_000_000_000;
        let mut clients: Vec<Client> = (0..self.count + probes)
            .map(|number| self.client(&clocks, &epoll, number))
            .collect::<Fallible<_>>()?;
        let begin = clocks.now();
        let start = Time(begin.0 + self.count * BEGIN_EVERY_NS + SETTLE_NS);
        let wall_start = wall_ns() + (start.0 - clocks.now().0);
        let end = Time(start.0 + self.length_ns);
        let begins = |number: u64| match number.checked_sub(self.count) {
            None => begin.0 + number * BEGIN_EVERY_NS,
            Some(probe) => start.0 + probe * 1_000_000_000 / self.probes.max(1),
        };
        let mut records: Vec<u8> = Vec::with_capacity(64 << 20);
        let (mut begun, mut events, mut bytes) = (0u64, vec![EpollEvent::empty(); 512], vec![0u8; 65_536]);
        let (mut swept, mut phase, mut told) = (begin, u64::MAX, false);
        let mut control = nix::cmsg_space!(TimeSpec);
        while clocks.now() < end {
            let now = clocks.now();
            if now >= start && !std::mem::replace(&mut told, true) {
                println!("begin");
            }
            while begun < self.count + probes && now.0 >= begins(begun) {
                let client = &mut clients[begun as usize];
                client.begun = Time(wall_ns());
                client.sessions.connect(now, clocks.wall(), &self.invite.card, &[self.remote], &[])?;
                client.drive(&clocks, &request, &mut bytes)?;
                begun += 1;
            }
            if self.alternate && now >= start && phase != (now.0 - start.0) / ALTERNATE_NS {
                phase = (now.0 - start.0) / ALTERNATE_NS;
                for client in &mut clients[..self.count as usize] {
                    client.asks = u64::from(client.port() % 2) == phase % 2;
                    client.drive(&clocks, &request, &mut bytes)?;
                }
            }
            let ready = epoll.wait(&mut events, EpollTimeout::from(1u8))?;
            for event in &events[..ready] {
                let client = &mut clients[event.data() as usize];
                // What else there is makes the socket ready again: to ask for it costs as much as to be told.
                if let Some((from, len, at)) = client.receive(&mut bytes, &mut control) {
                    if let Some(at) = at.checked_sub(wall_start).filter(|at| *at < self.length_ns) {
                        records.extend_from_slice(&at.to_le_bytes());
                        records.extend_from_slice(&client.number.to_le_bytes());
                        records.extend_from_slice(&(len as u32 + IP_HEADER as u32).to_le_bytes());
                    }
                    client.take(&clocks, from, &mut bytes[..len], at);
                }
                client.drive(&clocks, &request, &mut bytes)?;
            }
            let now = clocks.now();
            if now.0 - swept.0 > 2_000_000 {
                swept = now;
                for client in clients.iter_mut().filter(|client| client.timer <= now) {
                    client.drive(&clocks, &request, &mut bytes)?;
                }
            }
        }
        std::fs::write(log, records)?;
        let mut out = std::io::stdout().lock();
        let (asking, probing) = clients.split_at(self.count as usize);
        let words = |all: Vec<String>| all.join(" ");
        writeln!(out, "ports {}", words(asking.iter().map(|client| client.port().to_string()).collect()))?;
        let took = |client: &Client| {
            let ns = client.answered?.saturating_sub(client.begun.0);
            Some(Duration::from_nanos(ns).as_micros().to_string())
        };
        // What began in the last moment had no time to be answered.
        let due = probing.iter().filter(|client| client.begun.0 < wall_start + self.length_ns - 100_000_000);
        let all = words(due.map(|client| took(client).unwrap_or("lost".into())).collect());
        writeln!(out, "probes {all}")?;
        Ok(())
    }
}

impl Client {
    /// The next datagram: its length, and when it came to the device.
    fn receive(&self, bytes: &mut [u8], control: &mut [u8]) -> Option<(SocketAddr, usize, u64)> {
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let got = recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut parts, Some(control), flags).ok()?;
        let stamp = got.cmsgs().ok()?.find_map(|one| match one {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        })?;
        let from = std::net::SocketAddrV4::from(got.address?);
        Some((from.into(), got.bytes, stamp.tv_sec() as u64 * 1_000_000_000 + stamp.tv_nsec() as u64))
    }

    /// The daemon's port: which of its shards is this session's home.
    fn port(&self) -> u16 {
        let path = self.connection.as_ref().and_then(|(session, _)| self.sessions.path(*session));
        path.map_or(0, |path| path.remote.port())
    }

    fn take(&mut self, clocks: &Clocks, remote: SocketAddr, datagram: &mut [u8], at: u64) {
        let path = Path { local: self.local, remote };
        let now = clocks.now();
        if self.connection.is_none() {
            self.answered = Some(at);
        }
        let received = self.sessions.handle_datagram(now, clocks.wall(), path, datagram);
        // At once: the next datagram may be the session's first packet.
        self.follow(now);
        match received {
            Received::Packet { number, kind, payload, .. } => {
                let Some((_, connection)) = &mut self.connection else { return };
                if kind != PacketKind::Stream {
                    return connection.on_other_packet_received(now, number);
                }
                let mut taken = Taken::default();
                let _ = connection.handle_payload(now, number, 0, &datagram[payload], &mut taken);
                taken.0.into_iter().for_each(|(stream, bytes)| connection.consumed(stream, bytes));
            }
            Received::Control { number, .. } => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.on_other_packet_received(now, number);
                }
            }
            _ => {}
        }
    }

    /// Sessions begin and end.
    fn follow(&mut self, now: Time) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Established { session, .. } => {
                    self.sessions.set_keepalive(session, true);
                    let connection = Connection::new(now, stream::Config::new(true));
                    self.under_way = 0;
                    self.connection = Some((session, connection));
                }
                SessionEvent::Closed { .. } | SessionEvent::Failed { .. } => self.connection = None,
                _ => {}
            }
        }
    }

    /// Everything that follows from what happened.
    fn drive(&mut self, clocks: &Clocks, request: &SliceRequest, bytes: &mut [u8]) -> Fallible<()> {
        let now = clocks.now();
        self.sessions.handle_timeout(now, clocks.wall());
        self.follow(now);
        while let Some((path, len)) =
            self.sessions.poll_transmit(now, clocks.wall(), &mut bytes[..DATAGRAM_MAX])
        {
            let _ = self.socket.send_to(&bytes[..len], path.remote);
        }
        let mut wake = self.sessions.poll_timeout();
        if let Some((session, connection)) = &mut self.connection {
            connection.end_of_batch(now);
            connection.handle_timeout(now);
            while let Some(event) = connection.poll_event() {
                if let StreamEvent::Finished { .. } | StreamEvent::Reset { .. } = event {
                    self.under_way = self.under_way.saturating_sub(1);
                }
            }
            while self.asks && self.under_way < REQUESTS && ask(connection, request) {
                self.under_way += 1;
            }
            while let Some(path) = self.sessions.path(*session) {
                if let Some(skipped) = self.sessions.take_skipped(*session) {
                    connection.on_number_skipped(skipped);
                }
                let Some(number) = self.sessions.next_number(*session) else { break };
                let size = connection.packet_size();
                let room = &mut bytes[HEADER_SIZE + 1..size - TAG_SIZE];
                let Some(meta) = connection.poll_payload(now, number, room, &mut ()) else { break };
                let packet = &mut bytes[..meta.len + PACKET_OVERHEAD];
                if self.sessions.seal(now, *session, PacketKind::Stream, packet).is_err() {
                    break;
                }
                let _ = self.socket.send_to(packet, path.remote);
            }
            wake = [wake, connection.poll_timeout()].into_iter().flatten().min();
        }
        self.timer = wake.unwrap_or(Time(u64::MAX));
        Ok(())
    }
}

/// Asks once more, if there may be another stream.
fn ask(connection: &mut Connection, request: &SliceRequest) -> bool {
    let Ok(stream) = connection.open(CHUNK_CHANNEL, RecvMode::Sink) else { return false };
    let _ = connection.write(stream, &request.emit());
    connection.finish(stream);
    true
}

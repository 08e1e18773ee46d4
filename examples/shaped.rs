//! Many real sessions in one process, each of which asks a daemon for more than its limit gives, and measures what it
//! gets. No benchmark runs it yet (docs/shaping.md §8); by hand it tells how exact limits are on real sockets.
//!
//! ```text
//! shaped content FILE                 writes what the daemon is to publish: one chunk
//! shaped nodes COUNT                  prints the node ids of the sessions to be, one per line
//! shaped load INVITATION NETWORK COUNT SECONDS
//! ```
//! `load` prints, for each node id, the bytes on the wire (IPv4) in each window of 100 ms, once all sessions had some
//! seconds to begin: `NODEID W W W …`. Then `all` and what all had together in each window of 10 ms.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and waits")]

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
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
use tornet::wire::invite::Invite;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What IP and UDP add, bytes.
const IP_HEADER: u64 = 28;
/// Window of a peer's measurement, and of that of all, nanoseconds.
const WINDOW_NS: u64 = 100_000_000;
const WINDOW_ALL_NS: u64 = 10_000_000;
/// Requests that each session has under way: there is always something to send to it.
const REQUESTS: usize = 2;
/// Sessions begin one after the other: the daemon takes 50 per second from one prefix.
const BEGIN_EVERY_NS: u64 = 25_000_000;
/// Time between the last session's begin and the first measurement.
const SETTLE_NS: u64 = 5_000_000_000;

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["content", file] => Ok(std::fs::write(file, content())?),
        ["nodes", count] => {
            (0..count.parse()?).for_each(|number| println!("{}", identity(number).card().node_id()));
            Ok(())
        }
        ["load", invitation, network, count, seconds] => {
            let invite: Invite = invitation.parse().map_err(|bad| format!("{bad:?}"))?;
            load(&invite, network.as_bytes(), count.parse()?, seconds.parse()?)
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
    node: String,
    socket: UdpSocket,
    local: SocketAddr,
    sessions: Sessions,
    connection: Option<(SessionKey, Connection)>,
    windows: Vec<u64>,
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

fn load(invite: &Invite, network: &[u8], count: u64, seconds: u64) -> Fallible<()> {
    let (clocks, epoll) = (Clocks::start(), Epoll::new(EpollCreateFlags::empty())?);
    let remote = *invite.addresses.iter().find(|address| address.is_ipv4()).ok_or("no IPv4 address")?;
    let request = SliceRequest { chunk: chunk()?, mask: u16::MAX >> (16 - CHUNK_SLICES_MAX), list: false };
    let mut clients = Vec::new();
    for number in 0..count {
        let identity = Arc::new(identity(number));
        let node = identity.card().node_id().to_string();
        let mut config = Config::new(identity, network, clocks.wall());
        config.refuse_early_until = clocks.wall();
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        let local = socket.local_addr()?;
        let sessions = Sessions::new(config, Rng::from_number(number), clocks.now());
        clients.push(Client {
            node,
            socket,
            local,
            sessions,
            connection: None,
            windows: Vec::new(),
            timer: Time(u64::MAX),
        });
    }
    let begin = clocks.now();
    let start = Time(begin.0 + count * BEGIN_EVERY_NS + SETTLE_NS);
    let end = Time(start.0 + seconds * 1_000_000_000);
    let mut all = vec![0u64; (seconds * 1_000_000_000 / WINDOW_ALL_NS) as usize];
    for client in &mut clients {
        client.windows = vec![0; (seconds * 1_000_000_000 / WINDOW_NS) as usize];
    }
    let (mut begun, mut events, mut bytes) = (0u64, vec![EpollEvent::empty(); 512], vec![0u8; 65_536]);
    let mut swept = begin;
    while clocks.now() < end {
        let now = clocks.now();
        while begun < count && now.0 >= begin.0 + begun * BEGIN_EVERY_NS {
            let client = &mut clients[begun as usize];
            client.sessions.connect(now, clocks.wall(), &invite.card, &[remote], &[])?;
            client.drive(&clocks, &request, &mut bytes)?;
            begun += 1;
        }
        let ready = epoll.wait(&mut events, EpollTimeout::from(1u8))?;
        for event in &events[..ready] {
            let client = &mut clients[event.data() as usize];
            for _ in 0..64 {
                let Ok(len) = client.socket.recv(&mut bytes) else { break };
                let now = clocks.now();
                if now >= start && now < end {
                    let (at, wire) = (now.0 - start.0, len as u64 + IP_HEADER);
                    client.windows[(at / WINDOW_NS) as usize] += wire;
                    all[(at / WINDOW_ALL_NS) as usize] += wire;
                }
                client.take(&clocks, remote, &mut bytes[..len]);
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
    let mut out = std::io::stdout().lock();
    for client in &clients {
        let windows: Vec<String> = client.windows.iter().map(u64::to_string).collect();
        writeln!(out, "{} {}", client.node, windows.join(" "))?;
    }
    let all: Vec<String> = all.iter().map(u64::to_string).collect();
    writeln!(out, "all {}", all.join(" "))?;
    Ok(())
}

impl Client {
    fn take(&mut self, clocks: &Clocks, remote: SocketAddr, datagram: &mut [u8]) {
        let path = Path { local: self.local, remote };
        let now = clocks.now();
        match self.sessions.handle_datagram(now, clocks.wall(), path, datagram) {
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

    /// Everything that follows from what happened.
    fn drive(&mut self, clocks: &Clocks, request: &SliceRequest, bytes: &mut [u8]) -> Fallible<()> {
        let now = clocks.now();
        self.sessions.handle_timeout(now, clocks.wall());
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Established { session, .. } => {
                    self.sessions.set_keepalive(session, true);
                    let mut connection = Connection::new(now, stream::Config::new(true));
                    (0..REQUESTS).for_each(|_| ask(&mut connection, request));
                    self.connection = Some((session, connection));
                }
                SessionEvent::Closed { .. } | SessionEvent::Failed { .. } => self.connection = None,
                _ => {}
            }
        }
        while let Some((_, len)) = self.sessions.poll_transmit(now, clocks.wall(), &mut bytes[..DATAGRAM_MAX])
        {
            let _ = self.socket.send(&bytes[..len]);
        }
        let mut wake = self.sessions.poll_timeout();
        if let Some((session, connection)) = &mut self.connection {
            connection.end_of_batch(now);
            connection.handle_timeout(now);
            while let Some(event) = connection.poll_event() {
                if let StreamEvent::Finished { .. } | StreamEvent::Reset { .. } = event {
                    ask(connection, request);
                }
            }
            loop {
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
                let _ = self.socket.send(packet);
            }
            wake = [wake, connection.poll_timeout()].into_iter().flatten().min();
        }
        self.timer = wake.unwrap_or(Time(u64::MAX));
        Ok(())
    }
}

fn ask(connection: &mut Connection, request: &SliceRequest) {
    let Ok(stream) = connection.open(CHUNK_CHANNEL, RecvMode::Sink) else { return };
    let _ = connection.write(stream, &request.emit());
    connection.finish(stream);
}

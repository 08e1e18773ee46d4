//! One neighbour of the relay: a session, circuits, and as much of a node as the relay wants to hear.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tornet::base::{Path, Rng, StreamId};
use tornet::crypto::rank::PLACE_FLOOR_BITS;
use tornet::crypto::{Identity, IdentityCard, Secret, Suite};
use tornet::io::clock::Clocks;
use tornet::limits::{DATAGRAM_MAX, HEADER_SIZE, HELLO_SIZE_MAX, PACKET_OVERHEAD, TAG_SIZE};
use tornet::node::HELLO_CHANNEL;
use tornet::onion::{CircuitKey, Event as Circuit, LinkId, Onion, Verdict};
use tornet::session::{Config, Event, PacketKind, Received, SealError, SessionKey, Sessions};
use tornet::stream::{self, Connection, RecvMode, Sink};
use tornet::wire::cell::{CONTENT_AT, Class, Inner};
use tornet::wire::hello::Hello;
use tornet::wire::invite::Invite;
use tornet::wire::relay::RelayCard;

use super::Fallible;

/// The one link of each: to the relay.
pub const RELAY: LinkId = LinkId(1);
/// What honest cells say.
const MARK: [u8; 16] = *b"an honest cell's";
/// What a socket holds, bytes.
const ROOM: usize = 16 << 20;
/// Datagrams that one turn takes from a socket.
const AT_ONCE: usize = 256;

/// One neighbour.
pub struct Neighbour {
    identity: Arc<Identity>,
    sessions: Sessions,
    pub onion: Onion,
    socket: UdpSocket,
    own: SocketAddr,
    pub session: Option<SessionKey>,
    connection: Option<Connection>,
    hello: Vec<u8>,
    relay: Option<RelayCard>,
    /// Circuits of its own that are open, and that are not yet.
    pub open: BTreeSet<CircuitKey>,
    pub building: BTreeSet<CircuitKey>,
    next_build: Instant,
    /// Cells that came out here with the honest content, and with any other.
    pub marked: u64,
    pub unmarked: u64,
}

/// No service wants stream bytes as they come.
struct Nobody;

impl Sink for Nobody {
    fn data(&mut self, _: StreamId, _: u64, _: &[u8]) {}
}

/// An identity whose place shows the network's floor of work.
fn mine(rng: &mut Rng) -> Identity {
    Identity::passing(Secret::from_bytes(rng.bytes()), 0, PLACE_FLOOR_BITS)
}

impl Neighbour {
    /// Its socket is on the host's address from which the relay is reached.
    pub fn new(network: &[u8], relay: SocketAddr, rng: &mut Rng, clocks: Clocks) -> Fallible<Self> {
        let identity = Arc::new(mine(rng));
        let way = UdpSocket::bind(if relay.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        way.connect(relay)?;
        let socket = UdpSocket::bind((way.local_addr()?.ip(), 0))?;
        socket.set_nonblocking(true)?;
        // What is measured is the relay, and not this program's pauses.
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        let own = socket.local_addr()?;
        let now = clocks.now();
        let suite = Suite::preferred();
        let config = Config::new(Arc::clone(&identity), network, clocks.wall());
        Ok(Self {
            sessions: Sessions::new(config, rng.fork(), now),
            onion: Onion::new(identity.card().key, suite, rng.fork(), now),
            identity,
            socket,
            own,
            session: None,
            connection: None,
            hello: Vec::new(),
            relay: None,
            open: BTreeSet::new(),
            building: BTreeSet::new(),
            next_build: Instant::now(),
            marked: 0,
            unmarked: 0,
        })
    }

    /// Who it is.
    pub fn card(&self) -> IdentityCard {
        *self.identity.card()
    }

    /// Where it is.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.own]
    }

    /// What the relay said of itself.
    pub fn relay(&self) -> Option<RelayCard> {
        self.relay
    }

    /// Whether its rate has room for another circuit; it is used up then.
    pub fn may_build(&mut self, per_second: u32) -> bool {
        let may = Instant::now() >= self.next_build;
        if may {
            self.next_build = Instant::now() + Duration::from_secs(1) / per_second;
        }
        may
    }

    /// Begins a session with the relay.
    pub fn call(&mut self, clocks: Clocks, relay: &Invite) -> Fallible<()> {
        self.sessions.connect(clocks.now(), clocks.wall(), &relay.card, &relay.addresses, b"")?;
        Ok(())
    }

    /// Takes what came, and sends what there is to send; whether anything came.
    pub fn turn(&mut self, clocks: Clocks) -> Fallible<bool> {
        let mut buf = [0; DATAGRAM_MAX];
        let mut came = false;
        for _ in 0..AT_ONCE {
            match self.socket.recv_from(&mut buf) {
                Ok((len, from)) => {
                    came = true;
                    self.take(clocks, Path { local: self.own, remote: from }, &mut buf[..len])?;
                }
                Err(none) if none.kind() == ErrorKind::WouldBlock => break,
                // An ICMP message about what was sent before.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
        let now = clocks.now();
        if self.sessions.poll_timeout().is_some_and(|at| at <= now) {
            self.sessions.handle_timeout(now, clocks.wall());
        }
        if self.onion.poll_timeout().is_some_and(|at| at <= now) {
            self.onion.handle_timeout(now);
        }
        self.settle(clocks)?;
        Ok(came)
    }

    fn take(&mut self, clocks: Clocks, path: Path, datagram: &mut [u8]) -> Fallible<()> {
        let received = self.sessions.handle_datagram(clocks.now(), clocks.wall(), path, datagram);
        self.hear(clocks);
        match received {
            Received::Packet { kind: PacketKind::Cell, payload, .. } => {
                match self.onion.handle_cell(clocks.now(), RELAY, &mut datagram[payload.clone()]) {
                    Ok(Verdict::Content { content, .. }) => {
                        let content = &datagram[payload][content];
                        let honest = content.starts_with(&MARK);
                        self.marked += u64::from(honest);
                        self.unmarked += u64::from(!honest);
                    }
                    Ok(_) => {}
                    Err(malformed) => {
                        return Err(format!("the relay sent a malformed {}", malformed.0).into());
                    }
                }
            }
            Received::Packet { kind: PacketKind::Stream, number, payload, .. } => {
                if let Some(connection) = &mut self.connection {
                    connection
                        .handle_payload(clocks.now(), number, 0, &datagram[payload], &mut Nobody)
                        .map_err(|why| format!("the relay's stream: {why:?}"))?;
                    connection.end_of_batch(clocks.now());
                }
            }
            Received::Control { number, .. } => {
                if let Some(connection) = &mut self.connection {
                    connection.on_other_packet_received(clocks.now(), number);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What happened to the session.
    fn hear(&mut self, clocks: Clocks) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                Event::Established { session, initiator, .. } => {
                    self.session = Some(session);
                    self.connection = None;
                    self.sessions.set_keepalive(session, true);
                    self.onion.link_down(RELAY);
                    self.onion.link_up(clocks.now(), RELAY, initiator);
                }
                Event::Closed { session, why } if self.session == Some(session) => {
                    eprintln!("circuits: a session ended: {why}");
                    self.session = None;
                    self.onion.link_down(RELAY);
                    self.open.clear();
                }
                _ => {}
            }
        }
    }

    fn settle(&mut self, clocks: Clocks) -> Fallible<()> {
        let now = clocks.now();
        self.hear(clocks);
        while let Some(event) = self.onion.poll_event() {
            match event {
                Circuit::End { circuit, .. } => self.onion.accept(now, circuit),
                Circuit::Relay { circuit, .. } => {
                    self.onion.refuse(now, circuit, tornet::wire::build::Status::Unwilling);
                }
                Circuit::Opened { circuit } => {
                    self.building.remove(&circuit);
                    self.open.insert(circuit);
                }
                Circuit::Ended { circuit, .. } => {
                    self.building.remove(&circuit);
                    self.open.remove(&circuit);
                }
                Circuit::Open { .. } | Circuit::Aging { .. } => {}
            }
        }
        let mut cell = [0; Class::Large.size()];
        while let Some((link, len)) = self.onion.poll_transmit(&mut cell) {
            self.send_cell(clocks, link, &cell[..len])?;
        }
        self.listen(clocks)?;
        let mut buf = [0; DATAGRAM_MAX];
        while let Some((path, len)) = self.sessions.poll_transmit(now, clocks.wall(), &mut buf) {
            self.send(path.remote, &buf[..len])?;
        }
        Ok(())
    }

    /// Streams: the relay's introduction, and acknowledgements.
    fn listen(&mut self, clocks: Clocks) -> Fallible<()> {
        let (now, Some(session)) = (clocks.now(), self.session) else { return Ok(()) };
        if self.connection.is_none() {
            let initiator = self.sessions.is_initiator(session);
            self.connection = Some(Connection::new(now, stream::Config::new(initiator)));
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_event() {
            match event {
                stream::Event::Opened { stream, channel } => {
                    connection.accept(stream, RecvMode::Ordered, &mut Nobody);
                    if channel != HELLO_CHANNEL {
                        connection.stop(stream, 0);
                        connection.finish(stream);
                    }
                }
                stream::Event::Readable(stream) => {
                    while let stream::ReadState::More =
                        connection.read(stream, &mut self.hello, HELLO_SIZE_MAX)
                    {}
                    if let Ok(hello) = Hello::parse(&self.hello)
                        && let Some(relay) = hello.relays.first()
                    {
                        self.relay = Some(*relay);
                        self.hello.clear();
                    }
                    connection.finish(stream);
                }
                _ => {}
            }
        }
        let mut packets = Vec::new();
        loop {
            let mut packet = [0; DATAGRAM_MAX];
            if self.sessions.budget(session) < DATAGRAM_MAX as u64 {
                break;
            }
            if let Some(skipped) = self.sessions.take_skipped(session) {
                connection.on_number_skipped(skipped);
            }
            let Some(number) = self.sessions.next_number(session) else { break };
            let room = &mut packet[HEADER_SIZE + 1..DATAGRAM_MAX - TAG_SIZE];
            let Some(meta) = connection.poll_payload(now, number, room, &mut ()) else { break };
            let size = meta.len + PACKET_OVERHEAD;
            self.sessions.seal(now, session, PacketKind::Stream, &mut packet[..size])?;
            packets.push(packet[..size].to_vec());
        }
        let to = self.sessions.path(session).map(|path| path.remote);
        to.map_or(Ok(()), |to| packets.iter().try_for_each(|packet| self.send(to, packet)))
    }

    /// Sends an honest cell.
    pub fn send_marked(&mut self, clocks: Clocks, circuit: CircuitKey) -> Fallible<()> {
        let mut cell = vec![0; Class::Large.size()];
        cell[CONTENT_AT..][..MARK.len()].copy_from_slice(&MARK);
        let link = self.onion.seal(clocks.now(), circuit, Inner::Packet, 1000, &mut cell)?;
        self.send_cell(clocks, link, &cell)
    }

    /// Sends a cell as it is.
    pub fn send_cell(&mut self, clocks: Clocks, _: LinkId, cell: &[u8]) -> Fallible<()> {
        let Some(session) = self.session else { return Ok(()) };
        let mut packet = vec![0; cell.len() + PACKET_OVERHEAD];
        packet[HEADER_SIZE + 1..HEADER_SIZE + 1 + cell.len()].copy_from_slice(cell);
        if let Some(connection) = &mut self.connection
            && let Some(skipped) = self.sessions.take_skipped(session)
        {
            connection.on_number_skipped(skipped);
        }
        match self.sessions.seal(clocks.now(), session, PacketKind::Cell, &mut packet) {
            // Before the relay has shown that it is where it is; nobody repeats cells.
            Err(SealError::Budget) => return Ok(()),
            sealed => _ = sealed?,
        }
        let Some(path) = self.sessions.path(session) else { return Ok(()) };
        self.send(path.remote, &packet)
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) -> Fallible<()> {
        match self.socket.send_to(bytes, to) {
            Ok(_) => Ok(()),
            // As a network loses it.
            Err(full) if matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

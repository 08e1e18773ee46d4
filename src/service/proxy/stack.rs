//! A TCP/IP host without a kernel: `smoltcp`'s TCP, and what of UDP and ICMP a proxy needs, over packets that come from a
//! circuit and go into it. Everybody's addresses are its own ([`CLIENT`]). It opens no socket and reads no clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use super::ports::Ports;
use crate::base::{Offload, Rng, Segmentation, Time};
use crate::limits::{
    CELL_INNER_LARGE, PIPE_PACKETS_MAX, SOCKS_BUFFER_SHARE, SOCKS_BUFFERS_MAX, SOCKS_CLIENTS_MAX,
    SOCKS_LINGER_MS, SOCKS_LINGERING_MAX, SOCKS_RECEIVE_MAX, SOCKS_RECEIVE_MIN, SOCKS_SEND_SHARE,
};
use crate::onion::exit::CLIENT;
use crate::tunnel::quoted::{Quoted, ports, quoted};
use crate::wire::ip::{self, Ip, TCP, UDP, UDP_HEADER, V4_HEADER, V6_HEADER, half, put_half, udp};

/// What came and is not TCP's.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A datagram.
    Datagram {
        /// To which local port.
        port: u16,
        /// From where.
        from: SocketAddr,
        /// What it says.
        payload: Vec<u8>,
    },
    /// An answer to something that was sent.
    Error(Quoted),
}

/// The host.
pub struct Stack {
    iface: Interface,
    sockets: SocketSet<'static>,
    device: Queues,
    heard: VecDeque<Heard>,
    /// Local ports.
    pub ports: Ports,
    /// Bytes of buffers of each connection.
    granted: BTreeMap<SocketHandle, usize>,
    /// Connections that ended and still answer, with the time until which.
    lingering: VecDeque<(Time, SocketHandle, u16)>,
    /// Packets that were nothing to it.
    pub strays: u64,
}

/// Packets that wait for TCP, and those that wait to leave.
struct Queues {
    inbox: VecDeque<Box<[u8]>>,
    outbox: VecDeque<Box<[u8]>>,
    /// How many may wait to leave.
    room: usize,
}

struct Received(Box<[u8]>);
struct Room<'a>(&'a mut VecDeque<Box<[u8]>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len].into_boxed_slice();
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Room<'_>)> {
        // An answer has room.
        if self.outbox.len() >= self.room {
            return None;
        }
        Some((Received(self.inbox.pop_front()?), Room(&mut self.outbox)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Room<'_>> {
        (self.outbox.len() < self.room).then_some(Room(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ip;
        all.max_transmission_unit = CELL_INNER_LARGE;
        // What comes was looked at ([`Stack::take`]): superpackets have no checksum of their own.
        let mut checksums = ChecksumCapabilities::default();
        checksums.tcp = Checksum::Tx;
        all.checksum = checksums;
        all
    }
}

fn moment(now: Time) -> Moment {
    Moment::from_micros(now.since(Time::ZERO).as_micros() as i64)
}

impl Stack {
    /// Without connections.
    pub fn new(now: Time, mut rng: Rng) -> Self {
        let mut device = Queues { inbox: VecDeque::new(), outbox: VecDeque::new(), room: 0 };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = rng.next_u64();
        let mut iface = Interface::new(config, &mut device, moment(now));
        iface.update_ip_addrs(|addresses| {
            for own in CLIENT.iter() {
                let whole = if own.is_ipv4() { 32 } else { 128 };
                // There is room for two.
                let _ = addresses.push(IpCidr::new(own.into(), whole));
            }
        });
        // Everything goes the one way that there is.
        if let (Some(v4), Some(v6)) = (CLIENT.v4, CLIENT.v6) {
            let _ = iface.routes_mut().add_default_ipv4_route(v4);
            let _ = iface.routes_mut().add_default_ipv6_route(v6);
        }
        Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            device,
            heard: VecDeque::new(),
            ports: Ports::new(rng),
            granted: BTreeMap::new(),
            lingering: VecDeque::new(),
            strays: 0,
        }
    }

    /// A packet came.
    pub fn take(&mut self, offload: Offload, packet: Box<[u8]>) {
        let Ok(header) = Ip::parse(&packet) else {
            self.strays += 1;
            return;
        };
        if Some(header.destination) != CLIENT.like(header.destination) {
            self.strays += 1;
            return;
        }
        match (header.protocol, ports(&packet, &header)) {
            (TCP, Some(_)) if offload.needs_checksum || ip::is_summed(&packet, &header) => {
                self.device.inbox.push_back(packet);
            }
            (UDP, Some((from, port))) => {
                let from = SocketAddr::new(header.source, from);
                let segment =
                    if offload.kind == Segmentation::Udp { usize::from(offload.segment) } else { 0 };
                match datagram(&packet, &header, offload.needs_checksum) {
                    Some(payload) => {
                        let size = if segment == 0 { payload.len().max(1) } else { segment };
                        let one = |payload: &[u8]| Heard::Datagram { port, from, payload: payload.to_vec() };
                        if payload.is_empty() {
                            self.heard.push_back(one(payload));
                        }
                        self.heard.extend(payload.chunks(size).map(one));
                    }
                    None => self.strays += 1,
                }
            }
            _ => match quoted(&packet, &header) {
                Some(quoted) => self.heard.push_back(Heard::Error(quoted)),
                None => self.strays += 1,
            },
        }
    }

    /// What came and is not TCP's.
    pub fn poll_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// Has TCP see what came and say what it has to, in at most so many packets.
    pub fn poll(&mut self, now: Time, room: usize) {
        self.device.room = room;
        self.iface.poll(moment(now), &mut self.device, &mut self.sockets);
        while self.lingering.front().is_some_and(|(until, ..)| *until <= now)
            || self.lingering.len() > SOCKS_LINGERING_MAX
        {
            let (_, handle, port) = self.lingering.pop_front().expect("there is one");
            self.drop_socket(handle, port);
        }
    }

    /// A packet to send: from an address of everybody's, and no longer than a circuit carries. Answers to some hostile
    /// packets are neither (found by the fuzz target `proxy_stack`); those are dropped here, as the node would.
    pub fn poll_packet(&mut self) -> Option<Box<[u8]>> {
        loop {
            let packet = self.device.outbox.pop_front()?;
            let own = |header: Ip| Some(header.source) == CLIENT.like(header.source);
            if packet.len() <= CELL_INNER_LARGE && Ip::parse(&packet).is_ok_and(own) {
                return Some(packet);
            }
            self.strays += 1;
        }
    }

    /// Puts back what could not be sent.
    pub fn unsent(&mut self, packet: Box<[u8]>) {
        self.device.outbox.push_front(packet);
    }

    /// Whether more may come: what came before was looked at.
    pub fn takes_more(&self) -> bool {
        self.device.inbox.len() < PIPE_PACKETS_MAX
    }

    /// Whether packets wait to be sent.
    pub fn has_packets(&self) -> bool {
        !self.device.outbox.is_empty()
    }

    /// When [`Self::poll`] is due.
    pub fn poll_timeout(&mut self, now: Time) -> Option<Time> {
        let wait = self.iface.poll_delay(moment(now), &self.sockets);
        let tcp = wait.map(|wait| now + Duration::from_micros(wait.total_micros()));
        tcp.into_iter().chain(self.lingering.front().map(|(until, ..)| *until)).min()
    }

    /// Begins a connection; its local port is the other one. None when there is no port.
    pub fn connect(&mut self, to: SocketAddr) -> Option<(SocketHandle, u16)> {
        let from = CLIENT.like(to.ip())?;
        let port = self.ports.take()?;
        let receive = self.grant();
        let send = receive / SOCKS_SEND_SHARE;
        let buffer = |len: usize| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(receive), buffer(send));
        // A superpacket is many segments: it is answered at once. So is what comes alone: round trips are long here.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Cubic);
        let begun = socket.connect(
            self.iface.context(),
            IpEndpoint::new(to.ip().into(), to.port()),
            IpEndpoint::new(from.into(), port),
        );
        if begun.is_err() {
            self.ports.give(port);
            return None;
        }
        let handle = self.sockets.add(socket);
        self.granted.insert(handle, receive + send);
        Some((handle, port))
    }

    /// How many bytes a new connection can hold of what comes: the more, the fewer there are. Everybody who may come
    /// later has the least.
    fn grant(&self) -> usize {
        let least = SOCKS_RECEIVE_MIN + SOCKS_RECEIVE_MIN / SOCKS_SEND_SHARE;
        let given: usize = self.granted.values().sum();
        let above = given.saturating_sub(self.granted.len() * least);
        let left =
            SOCKS_BUFFERS_MAX.saturating_sub((SOCKS_CLIENTS_MAX + SOCKS_LINGERING_MAX) * least + above);
        let more = left / SOCKS_BUFFER_SHARE;
        let receive = more - more / (SOCKS_SEND_SHARE + 1);
        // Whole pages.
        ((SOCKS_RECEIVE_MIN + receive).min(SOCKS_RECEIVE_MAX)) & !0xfff
    }

    /// A connection.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Nobody uses a connection any more; it answers for a moment, or says that it is no more.
    pub fn end(&mut self, now: Time, handle: SocketHandle, port: u16) {
        self.lingering.push_back((now + Duration::from_millis(SOCKS_LINGER_MS), handle, port));
    }

    fn drop_socket(&mut self, handle: SocketHandle, port: u16) {
        self.sockets.remove(handle);
        self.granted.remove(&handle);
        self.ports.give(port);
    }

    /// Sends a datagram; false when it is too long for a circuit, the address of no family that there is, or too much waits.
    pub fn send_datagram(&mut self, port: u16, to: SocketAddr, payload: &[u8]) -> bool {
        let Some(source) = CLIENT.like(to.ip()) else { return false };
        let header = if source.is_ipv4() { V4_HEADER } else { V6_HEADER };
        let len = UDP_HEADER + payload.len();
        if header + len > CELL_INNER_LARGE || self.device.outbox.len() >= PIPE_PACKETS_MAX {
            return false;
        }
        let ip = Ip {
            source,
            destination: to.ip(),
            protocol: UDP,
            header,
            ecn: 0,
            fragment: false,
            divisible: false,
        };
        let mut packet = vec![0; header + len].into_boxed_slice();
        if ip.emit(len, &mut packet).is_none() {
            return false;
        }
        let transport = &mut packet[header..];
        put_half(transport, 0, port);
        put_half(transport, 2, to.port());
        put_half(transport, udp::LENGTH, len as u16);
        transport[UDP_HEADER..].copy_from_slice(payload);
        let sum = ip::pseudo(&packet, ip.is_v6(), UDP, len).and(&packet[header..]).complement();
        put_half(&mut packet, header + udp::CHECKSUM, if sum == 0 { 0xffff } else { sum });
        self.device.outbox.push_back(packet);
        true
    }
}

/// The payload of a UDP packet whose lengths and checksum are right.
fn datagram<'a>(packet: &'a [u8], header: &Ip, open: bool) -> Option<&'a [u8]> {
    let transport = &packet[header.header..];
    let payload = transport.get(UDP_HEADER..)?;
    let unsummed = !header.is_v6() && half(transport, udp::CHECKSUM) == 0;
    let whole = usize::from(half(transport, udp::LENGTH)) == transport.len();
    (whole && (open || unsummed || ip::is_summed(packet, header))).then_some(payload)
}

/// Whether a circuit can lead there: not to this host, nobody, or many at once.
pub fn is_elsewhere(to: SocketAddr) -> bool {
    let nowhere = match to.ip() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_multicast(),
    };
    !nowhere && to.port() != 0 && CLIENT.like(to.ip()) != Some(to.ip())
}

#[cfg(test)]
mod tests;

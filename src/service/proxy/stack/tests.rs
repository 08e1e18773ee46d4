//! The stack against another one, over a line that loses and joins packets, under a clock of its own.

use super::*;
use smoltcp::socket::tcp::State;
use std::net::Ipv4Addr;

const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 80;

/// The far side: one listening socket.
struct Server {
    iface: Interface,
    sockets: SocketSet<'static>,
    device: Queues,
    handle: SocketHandle,
}

impl Server {
    fn new(now: Time) -> Self {
        let mut device = Queues { inbox: VecDeque::new(), outbox: VecDeque::new(), room: 64 };
        let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, moment(now));
        iface.update_ip_addrs(|all| all.push(IpCidr::new(FAR.into(), 32)).expect("room"));
        iface.routes_mut().add_default_ipv4_route(FAR).expect("room");
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; 1 << 18]), SocketBuffer::new(vec![0; 1 << 18]));
        socket.listen(PORT).expect("a port");
        let handle = sockets.add(socket);
        Self { iface, sockets, device, handle }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

struct World {
    now: Time,
    stack: Stack,
    server: Server,
    rng: Rng,
    loss: f64,
}

impl World {
    fn new(loss: f64) -> Self {
        let now = Time::from_millis(1000);
        let stack = Stack::new(now, Rng::from_number(3));
        Self { now, stack, server: Server::new(now), rng: Rng::from_number(4), loss }
    }

    /// Five milliseconds, with what is on the line.
    fn step(&mut self) {
        self.now += Duration::from_millis(5);
        self.stack.poll(self.now, 64);
        while let Some(packet) = self.stack.poll_packet() {
            assert!(packet.len() <= CELL_INNER_LARGE);
            let header = Ip::parse(&packet).expect("a packet");
            assert!(ip::is_summed(&packet, &header), "whole, as a circuit carries them");
            if !self.rng.chance(self.loss) {
                self.server.device.inbox.push_back(packet);
            }
        }
        let Server { iface, sockets, device, .. } = &mut self.server;
        iface.poll(moment(self.now), device, sockets);
        while let Some(packet) = device.outbox.pop_front() {
            if !self.rng.chance(self.loss) {
                self.stack.take(Offload::default(), packet);
            }
        }
    }

    fn opened(&mut self) -> (SocketHandle, u16) {
        let (handle, port) = self.stack.connect((FAR, PORT).into()).expect("a port");
        for _ in 0..2000 {
            self.step();
            if self.stack.socket(handle).state() == State::Established {
                return (handle, port);
            }
        }
        panic!("no connection: {}", self.stack.socket(handle).state());
    }
}

fn byte(at: usize) -> u8 {
    (at / 7 % 251) as u8
}

#[test]
fn bytes_arrive_both_ways_over_a_bad_line_and_halves_close() {
    for loss in [0.0, 0.03] {
        let mut world = World::new(loss);
        let (handle, _) = world.opened();
        let total = 600_000;
        let (mut up, mut down, mut heard, mut got) = (0, 0, 0, 0);
        for _ in 0..60_000 {
            world.step();
            let socket = world.stack.socket(handle);
            up += socket
                .send(|room| {
                    let len = room.len().min(total - up);
                    room[..len].iter_mut().zip(up..).for_each(|(out, at)| *out = byte(at));
                    (len, len)
                })
                .unwrap_or(0);
            if up == total {
                socket.close();
            }
            while socket.can_recv() {
                got += socket
                    .recv(|bytes| {
                        assert!(bytes.iter().zip(got..).all(|(one, at)| *one == byte(at)));
                        (bytes.len(), bytes.len())
                    })
                    .expect("there is something");
            }
            let far = world.server.socket();
            while far.can_recv() {
                heard += far
                    .recv(|bytes| {
                        assert!(bytes.iter().zip(heard..).all(|(one, at)| *one == byte(at)));
                        (bytes.len(), bytes.len())
                    })
                    .expect("there is something");
            }
            // It answers only when it has heard the last.
            if heard == total && !far.may_recv() {
                down += far
                    .send(|room| {
                        let len = room.len().min(total - down);
                        room[..len].iter_mut().zip(down..).for_each(|(out, at)| *out = byte(at));
                        (len, len)
                    })
                    .unwrap_or(0);
                if down == total {
                    far.close();
                }
            }
            if world.stack.socket(handle).state() == State::TimeWait && got == total {
                break;
            }
        }
        assert_eq!((heard, got), (total, total), "loss {loss}");
        assert!(matches!(world.stack.socket(handle).peek(1), Err(smoltcp::socket::tcp::RecvError::Finished)));
    }
}

#[test]
fn who_does_not_read_stops_who_writes() {
    let mut world = World::new(0.0);
    let (handle, _) = world.opened();
    let room = world.stack.socket(handle).recv_capacity();
    let mut sent = 0;
    for _ in 0..4000 {
        sent += world.server.socket().send(|room| (room.len(), room.len())).expect("open");
        world.step();
    }
    assert_eq!(world.stack.socket(handle).recv_queue(), room, "all that it can hold");
    assert!(sent <= room + (1 << 18), "{sent} bytes left the application");
    let before = sent;
    for _ in 0..200 {
        let socket = world.stack.socket(handle);
        let _ = socket.recv(|bytes| (bytes.len(), ()));
        world.step();
        sent += world.server.socket().send(|room| (room.len(), room.len())).expect("open");
    }
    assert!(sent > before + room, "it goes on when there is room");
}

#[test]
fn a_closed_port_and_a_reset_are_told_from_an_end() {
    let mut world = World::new(0.0);
    let (closed, _) = world.stack.connect((FAR, PORT + 1).into()).expect("a port");
    (0..10).for_each(|_| world.step());
    assert_eq!(world.stack.socket(closed).state(), State::Closed);
    let (handle, port) = world.opened();
    world.server.socket().abort();
    (0..10).for_each(|_| world.step());
    let socket = world.stack.socket(handle);
    assert_eq!(socket.state(), State::Closed);
    assert!(matches!(socket.peek(1), Err(smoltcp::socket::tcp::RecvError::InvalidState)), "no end");
    let now = world.now;
    world.stack.end(now, handle, port);
    world.now = now + Duration::from_millis(SOCKS_LINGER_MS);
    world.step();
    assert_eq!(world.stack.granted.len(), 1, "what ended is given back");
}

/// A packet as if it came: its addresses change places, and no sum does.
fn returned(packet: &[u8]) -> Box<[u8]> {
    let mut packet: Box<[u8]> = packet.into();
    let (at, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (source, destination) = packet[at..at + 2 * len].split_at_mut(len);
    source.swap_with_slice(destination);
    packet
}

#[test]
fn datagrams_errors_and_what_is_wrong() {
    let mut world = World::new(0.0);
    let stack = &mut world.stack;
    for (to, len) in [("192.0.2.9:53", 1268), ("[2001:db8::9]:53", 1248), ("192.0.2.9:1", 0)] {
        let to: SocketAddr = to.parse().expect("an address");
        assert!(stack.send_datagram(20_000, to, &vec![7; len]));
        assert!(len == 0 || !stack.send_datagram(20_000, to, &vec![7; len + 1]), "too long for a cell");
        let packet = stack.poll_packet().expect("sent");
        let header = Ip::parse(&packet).expect("a packet");
        assert!(ip::is_summed(&packet, &header) && header.destination == to.ip());
        assert_eq!(Some(header.source), CLIENT.like(to.ip()));
        // The same, as if it came.
        let back = returned(&packet);
        stack.take(Offload::default(), back.clone());
        let from = SocketAddr::new(to.ip(), 20_000);
        let same = Heard::Datagram { port: to.port(), from, payload: vec![7; len] };
        assert_eq!(stack.poll_heard(), Some(same));
        // An exit that may not let it out.
        let mut answer = vec![0; 600];
        let size = ip::prohibited(&packet, &header, &mut answer).expect("an answer");
        stack.take(Offload::default(), answer[..size].into());
        let Some(Heard::Error(quoted)) = stack.poll_heard() else { panic!("an error") };
        assert_eq!((quoted.port, quoted.to, quoted.protocol), (20_000, to, UDP));
        stack.take(Offload::default(), packet);
        assert_eq!((stack.poll_heard(), std::mem::take(&mut stack.strays)), (None, 1), "for somebody else");
        let mut wrong = back;
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        stack.take(Offload::default(), wrong);
        assert_eq!((stack.poll_heard(), std::mem::take(&mut stack.strays)), (None, 1));
    }
    // Joined on the way: one datagram per segment.
    let to = SocketAddr::from((FAR, 9));
    assert!(stack.send_datagram(20_001, to, &[1, 2, 3, 4, 5]));
    let packet = stack.poll_packet().expect("sent");
    let offload = Offload { kind: Segmentation::Udp, segment: 2, needs_checksum: true, ..Offload::default() };
    stack.take(offload, returned(&packet));
    let payloads: Vec<Vec<u8>> = std::iter::from_fn(|| stack.poll_heard())
        .map(|heard| if let Heard::Datagram { payload, .. } = heard { payload } else { Vec::new() })
        .collect();
    assert_eq!(payloads, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn everybody_has_the_least_and_the_first_more() {
    let mut world = World::new(0.0);
    let mut all = 0;
    let mut last = usize::MAX;
    for n in 0..SOCKS_CLIENTS_MAX + SOCKS_LINGERING_MAX {
        let receive = world.stack.grant();
        assert!((SOCKS_RECEIVE_MIN..=SOCKS_RECEIVE_MAX).contains(&receive) && receive <= last, "{n}");
        last = receive;
        all += receive + receive / SOCKS_SEND_SHARE;
        assert!(all <= SOCKS_BUFFERS_MAX, "{n}: {all}");
        world.stack.connect((FAR, PORT).into()).expect("a port");
    }
}

#[test]
fn a_circuit_leads_elsewhere_only() {
    for here in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "[::]:80",
        "[::1]:80",
        "224.0.0.1:80",
        "10.116.111.114:80",
        "9.9.9.9:0",
    ] {
        assert!(!is_elsewhere(here.parse().expect("an address")), "{here}");
    }
    assert!(is_elsewhere("10.0.0.1:80".parse().expect("one")), "the exit's rules decide");
}

//! One ring and a real device, in a network namespace of the test's own: what the kernel does is real.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::*;
use crate::base::Offload;
use crate::io::netconf::namespace::in_namespace;
use crate::io::netconf::{self, Plan};
use crate::limits::{SEND_BUFFERS, TUN_BUFFERS, TUN_LENT_MIN};
use crate::sys::ring::Completion;
use crate::sys::ring::tests::ring_or_skip;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "tornet-test";

fn plan(name: &str) -> Plan {
    Plan {
        exit: Vec::new(),
        sources: Vec::new(),
        quiet: Vec::new(),
        device: name.to_owned(),
        mtu: 1400,
        addresses: vec!["10.99.0.1/24".parse().expect("a prefix")],
        routes: Vec::new(),
        dns: Vec::new(),
        ports: Vec::new(),
        kill_switch: false,
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip runs");
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Bench {
    ring: Ring,
    tun: Tun,
}

impl Bench {
    /// A device that is up, with a route to 10.99.0.0/24.
    fn new() -> Option<Self> {
        let ring = ring_or_skip()?;
        let queue = open(NAME, 1).expect("opened").pop().expect("one queue");
        let _ = netconf::apply(&plan(NAME)).expect("configured");
        Some(Self { ring, tun: Tun::new(queue, 2) })
    }

    /// One turn of a loop around the ring: hands every packet that came to `act`, and waits at most `wait`.
    fn turn(&mut self, wait: Duration, act: &mut dyn FnMut(&mut Ring, &mut Tun, TunPacket)) {
        while let Some(completion) = self.ring.completion() {
            match completion {
                Completion::TunRead { tun: 2, result, buffer, more } => {
                    if let Some(packet) = self.tun.received(&mut self.ring, result, buffer, more, Time::ZERO)
                    {
                        act(&mut self.ring, &mut self.tun, packet);
                    }
                }
                Completion::TunWritten { tun: 2, slot, result } => {
                    self.tun.written(&mut self.ring, slot, result);
                }
                Completion::TunWritable { tun: 2 } => self.tun.writable(),
                other => panic!("{other:?}"),
            }
        }
        self.tun.rearm(&mut self.ring, Time::ZERO);
        self.tun.flush(&mut self.ring);
        self.ring.enter(Some(wait)).expect("entered");
    }

    /// Turns until `done`; one that waits in vain fails.
    fn until(
        &mut self,
        mut done: impl FnMut(&Tun) -> bool,
        mut act: impl FnMut(&mut Ring, &mut Tun, TunPacket),
    ) {
        for _ in 0..10_000 {
            if done(&self.tun) {
                return;
            }
            self.turn(SECOND, &mut act);
        }
        panic!("it never came: {:?}", self.tun.counters);
    }
}

/// Sends a packet back to where it came from: who sent it to 10.99.0.2 hears 10.99.0.2. Both checksums add the addresses
/// up, so that they stay right.
fn reflect(ring: &mut Ring, tun: &mut Tun, packet: TunPacket) {
    let bytes = ring.buffers().bytes_mut(packet.place);
    let (from, to) = bytes[12..20].split_at_mut(4);
    from.swap_with_slice(to);
    tun.write(ring, packet);
    ring.buffers().release(packet.place.buf);
}

#[test]
fn tcp_crosses_uncut_in_both_directions() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let listener = TcpListener::bind("10.99.0.1:5000").expect("bound");
        let sent: Vec<u8> = (0..8 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (expected, answer) = (sent.clone(), sent.clone());
        let server = in_this_namespace(move || {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut got = vec![0; expected.len()];
            stream.read_exact(&mut got).expect("read");
            assert!(got == expected, "other bytes arrived");
            stream.write_all(&answer).expect("written");
        });
        let client = in_this_namespace(move || {
            let mut stream = TcpStream::connect("10.99.0.2:5000").expect("connected");
            stream.write_all(&sent).expect("written");
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).expect("read");
            assert!(got == sent, "other bytes came back");
        });
        bench.until(|_| server.is_finished() && client.is_finished(), reflect);
        server.join().expect("the server is content");
        client.join().expect("the client is content");
        let counters = &bench.tun.counters;
        assert!(counters.tun_read_superpackets > 100, "TSO in: {counters:?}");
        assert!(counters.tun_written_superpackets > 100, "TSO out: {counters:?}");
        assert_eq!(counters.tun_read_unreadable + counters.tun_write_refused, 0);
        assert!(counters.tun_read_bytes > 16 << 20);
    });
}

#[test]
fn udp_crosses_uncut_where_the_kernel_can() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let socket = UdpSocket::bind("10.99.0.1:6000").expect("bound");
        socket.set_read_timeout(Some(10 * SECOND)).expect("set");
        setsockopt(&socket, UdpGsoSegment, &1000).expect("UDP_SEGMENT");
        let sent: Vec<u8> = (0..9500u32).map(|i| (i / 1000) as u8).collect();
        socket.send_to(&sent, "10.99.0.2:6000").expect("sent");
        let mut seen = Vec::new();
        bench.until(
            |tun| tun.counters.tun_written_bytes >= 9500,
            |ring, tun, packet| {
                seen.push(packet.offload);
                reflect(ring, tun, packet);
            },
        );
        let mut bytes = [0; 2000];
        for i in 0..10u8 {
            let (len, from) = socket.recv_from(&mut bytes).expect("a datagram");
            assert_eq!((len, bytes[0], from.port()), (if i == 9 { 500 } else { 1000 }, i, 6000));
        }
        if bench.tun.udp_segmentation() {
            assert_eq!((seen[0].kind, seen[0].segment, seen.len()), (Segmentation::Udp, 1000, 1));
        } else {
            assert_eq!(seen.len(), 10);
        }
    });
}

#[test]
fn what_nobody_takes_waits_in_the_device_and_nothing_is_lost() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let socket = UdpSocket::bind("10.99.0.1:0").expect("bound");
        let count = 3 * TUN_BUFFERS;
        let mut held = Vec::new();
        bench.turn(Duration::ZERO, &mut |_, _, _| {});
        for i in 0..count {
            socket.send_to(&vec![1; i + 1], "10.99.0.2:7000").expect("sent");
        }
        for _ in 0..2 * TUN_BUFFERS {
            bench.turn(Duration::ZERO, &mut |_, _, packet| held.push(packet));
        }
        assert_eq!(held.len(), TUN_BUFFERS, "all buffers are held");
        assert!(bench.tun.counters.tun_read_ended_no_buffers > 0);
        assert!(bench.ring.buffers().lent_target(Lender::Tun) > TUN_LENT_MIN);
        let mut lengths: Vec<u32> = held.iter().map(|packet| packet.place.len - 28).collect();
        held.into_iter().for_each(|packet| bench.ring.buffers().release(packet.place.buf));
        bench.until(
            |tun| tun.counters.tun_read_packets == count as u64,
            |ring, _, packet| {
                lengths.push(packet.place.len - 28);
                ring.buffers().release(packet.place.buf);
            },
        );
        assert_eq!(lengths, (1..=count as u32).collect::<Vec<_>>(), "in order");
    });
}

#[test]
fn several_packets_are_written_from_the_buffer_that_they_lie_in() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let socket = UdpSocket::bind("10.99.0.1:6000").expect("bound");
        socket.set_read_timeout(Some(10 * SECOND)).expect("set");
        socket.send_to(&[7; 100], "10.99.0.2:6000").expect("sent");
        bench.until(
            |tun| tun.counters.tun_written_packets == 3,
            |ring, tun, packet| {
                // Twice more behind it, as the packets of a train lie, and each goes home.
                let len = packet.place.len;
                let bytes = ring.buffers().bytes_mut(packet.place).to_vec();
                for i in 1..3 {
                    let offset = packet.place.offset + i * (len + TUN_HEADER_SIZE as u32);
                    let place = Place { offset, ..packet.place };
                    ring.buffers().bytes_mut(place).copy_from_slice(&bytes);
                }
                for i in 0..3 {
                    let offset = packet.place.offset + i * (len + TUN_HEADER_SIZE as u32);
                    let place = Place { offset, ..packet.place };
                    let (from, to) = ring.buffers().bytes_mut(place)[12..20].split_at_mut(4);
                    from.swap_with_slice(to);
                    tun.write(ring, TunPacket { place, ..packet });
                }
                ring.buffers().release(packet.place.buf);
            },
        );
        let mut bytes = [0; 200];
        for _ in 0..3 {
            assert_eq!(socket.recv(&mut bytes).expect("a datagram"), 100);
            assert_eq!(bytes[..100], [7; 100]);
        }
        assert!(bench.tun.is_idle());
    });
}

fn packet_in_a_send_buffer(bench: &mut Bench, first: u8) -> TunPacket {
    let buf = bench.ring.buffers().alloc().expect("a buffer");
    let place = Place::room(buf).part(0, 40).expect("room");
    bench.ring.buffers().bytes_mut(place).fill(0);
    bench.ring.buffers().bytes_mut(place)[0] = first;
    TunPacket { place, offload: Offload::default() }
}

#[test]
fn a_device_that_is_down_or_a_lying_header_costs_its_packet_only() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let mut wrong = packet_in_a_send_buffer(&mut bench, 0x45);
        wrong.offload = Offload { kind: Segmentation::Tcp4, needs_checksum: true, ..Offload::default() };
        (wrong.offload.checksum_start, wrong.offload.checksum_offset) = (9000, 16);
        bench.tun.write(&mut bench.ring, wrong);
        bench.until(|tun| tun.counters.tun_write_refused == 1, reflect);
        ip(&["link", "set", NAME, "down"]);
        let good = packet_in_a_send_buffer(&mut bench, 0x45);
        bench.tun.write(&mut bench.ring, good);
        bench.until(|tun| tun.counters.tun_write_down == 1, reflect);
        assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS, "both buffers are back");
        assert!(!bench.tun.is_gone());
        ip(&["link", "set", NAME, "up"]);
        let good = packet_in_a_send_buffer(&mut bench, 0x45);
        bench.tun.write(&mut bench.ring, good);
        bench.until(|tun| tun.counters.tun_written_packets == 1, reflect);
    });
}

#[test]
fn a_deleted_device_is_noticed_and_takes_nothing_along() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        bench.turn(Duration::ZERO, &mut reflect);
        ip(&["link", "delete", NAME]);
        bench.until(Tun::is_gone, reflect);
        let late = packet_in_a_send_buffer(&mut bench, 0x45);
        bench.tun.write(&mut bench.ring, late);
        assert_eq!(bench.tun.rearm(&mut bench.ring, Time::ZERO), None);
        assert_eq!(bench.ring.in_flight(), 0, "nothing is asked of it any more");
        assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS);
        let counters = &bench.tun.counters;
        assert_eq!((counters.tun_gone, counters.tun_write_gone), (1, 1));
    });
}

#[test]
fn a_queue_is_closed_while_the_ring_goes_on() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        bench.turn(Duration::ZERO, &mut reflect);
        assert!(bench.tun.is_reading());
        bench.tun.stop(&mut bench.ring);
        bench.until(|tun| !tun.is_reading(), reflect);
        let Bench { mut ring, tun } = bench;
        assert!(tun.is_idle());
        assert_eq!((ring.in_flight(), tun.counters.tun_gone), (0, 0));
        drop(tun);
        ring.enter(Some(Duration::ZERO)).expect("entered");
        drop(open(NAME, 1).expect("the kernel has let go of it"));
    });
}

#[test]
fn what_waits_is_bounded() {
    in_namespace(|| {
        let Some(mut bench) = Bench::new() else { return };
        let packet = packet_in_a_send_buffer(&mut bench, 0x45);
        bench
            .tun
            .waiting
            .resize(TUN_WRITE_QUEUE_MAX, Write { place: packet.place, superpacket: false, order: 0 });
        bench.tun.write(&mut bench.ring, packet);
        assert_eq!(bench.tun.counters.tun_write_queue_full, 1);
        assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS, "its buffer is free at once");
        bench.tun.waiting.clear();
    });
}

#[test]
fn a_device_is_opened_by_one_daemon_at_a_time() {
    in_namespace(|| {
        let first = open(NAME, 2).expect("opened");
        assert_eq!(first.len(), 2);
        let again = open(NAME, 1).err().expect("it is taken");
        assert!(matches!(again, OpenError::Taken(_)), "{again}");
        drop(first);
        drop(open(NAME, 3).expect("free again"));
        assert!(matches!(open("lo", 1), Err(OpenError::NotTun(_))));
    });
}

#[test]
fn a_device_that_was_made_for_us_is_attached_to_and_stays() {
    in_namespace(|| {
        ip(&["tuntap", "add", "dev", NAME, "mode", "tun", "multi_queue"]);
        drop(open(NAME, 2).expect("attached"));
        drop(open(NAME, 1).expect("attached again"));
        ip(&["link", "delete", NAME]);
        ip(&["tuntap", "add", "dev", NAME, "mode", "tun"]);
        let error = open(NAME, 2).err().expect("it has one queue").to_string();
        assert!(error.contains("MultiQueue=yes"), "{error}");
    });
}

/// Runs in a process of its own, as nobody: see below.
#[test]
fn attaching_as_nobody() {
    if std::env::var_os("TORNET_TEST_AS_NOBODY").is_none() {
        return;
    }
    let queues = open(NAME, 1).expect("attached to the own device");
    assert_eq!(queues.len(), 1);
    let _ = netconf::apply(&plan(NAME)).expect("all is as it should be");
    let error = netconf::apply(&Plan { mtu: 1401, ..plan(NAME) }).expect_err("not permitted").to_string();
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
    let error = open("another", 1).err().expect("not permitted").to_string();
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
    println!("attached as nobody");
}

#[test]
fn an_unprivileged_daemon_takes_what_was_prepared_for_it() {
    use std::os::unix::fs::PermissionsExt;
    in_namespace(|| {
        let mode = std::fs::metadata("/dev/net/tun").expect("it is there").permissions().mode();
        if mode & 0o006 != 0o006 {
            eprintln!("SKIPPED: only root may open /dev/net/tun here; udev lets everybody");
            return;
        }
        ip(&["tuntap", "add", "dev", NAME, "mode", "tun", "multi_queue", "user", "65534"]);
        ip(&["address", "add", "10.99.0.1/24", "dev", NAME]);
        ip(&["link", "set", NAME, "mtu", "1400", "up"]);
        let exe = std::env::current_exe().expect("a path");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(exe);
        command.args(["--exact", "io::tun::tests::attaching_as_nobody", "--nocapture"]);
        match command.env("TORNET_TEST_AS_NOBODY", "1").output() {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                if said.contains("failed to execute") {
                    eprintln!("SKIPPED: nobody may not run the test program: {said}");
                } else {
                    assert!(output.status.success() && said.contains("attached as nobody"), "{said}");
                }
            }
            Err(error) => eprintln!("SKIPPED: setpriv: {error}"),
        }
    });
}

/// A thread of the same namespace as the calling one.
fn in_this_namespace<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    // A new thread inherits its parent's namespaces.
    std::thread::Builder::new().spawn(act).expect("a thread")
}

/// So that the addresses above are what the kernel says they are.
#[test]
fn the_plan_gives_the_device_its_address() {
    in_namespace(|| {
        let _queue = open(NAME, 1).expect("opened");
        let applied = netconf::apply(&plan(NAME)).expect("configured");
        UdpSocket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 0)).expect("it is ours");
        applied.undo().expect("undone");
        assert!(UdpSocket::bind("10.99.0.1:0").is_err(), "it is not ours any more");
    });
}

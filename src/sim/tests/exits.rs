//! Packets of a device through circuits of simulated nodes: out at the exit under an address of the circuit's own, back to
//! the origin, around relays that die, and on through circuits that are replaced.

mod leases;
mod leaving;
mod multipath;
mod proxied;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::circuits::{counts, exit, sharded, want, warnings};
use super::*;
use crate::base::{Offload, Segmentation, Time};
use crate::limits::{CIRCUIT_REBUILD_MS_JITTER, CIRCUIT_REBUILD_MS_MIN, SEND_BUFFERS};
use crate::node::command::TunnelPeer;
use crate::onion::exit::CLIENT;
use crate::sim::Crash;
use crate::wire::ip::{self, Ip, TCP, UDP, put_half, put_word, tcp, udp};

const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 9))];

fn client(like: IpAddr) -> IpAddr {
    CLIENT.like(like).expect("of both families")
}

/// A UDP datagram with its checksum.
fn datagram(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    datagram_from(4000, source, destination, payload)
}

/// The same from another port.
fn datagram_from(port: u16, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let header = if source.is_ipv4() { ip::V4_HEADER } else { ip::V6_HEADER };
    let ip = Ip { source, destination, protocol: UDP, header, ecn: 0, fragment: false, divisible: false };
    let len = ip::UDP_HEADER + payload.len();
    let mut bytes = vec![0; header + len];
    ip.emit(len, &mut bytes).expect("fits");
    let transport = &mut bytes[header..];
    put_half(transport, 0, port);
    put_half(transport, 2, 53);
    put_half(transport, udp::LENGTH, len as u16);
    transport[ip::UDP_HEADER..].copy_from_slice(payload);
    let sum = ip::pseudo(&bytes, ip.is_v6(), UDP, len).and(&bytes[header..]).complement();
    put_half(&mut bytes, header + udp::CHECKSUM, if sum == 0 { 0xffff } else { sum });
    bytes
}

fn payload(packet: &[u8]) -> &[u8] {
    &packet[Ip::parse(packet).expect("a packet").header + ip::UDP_HEADER..]
}

fn send(net: &mut Net, node: usize, shard: u8, packet: &[u8]) {
    net.tun_read(node, shard, packet, Offload::default());
}

fn written(net: &mut Net, node: usize) -> Vec<Vec<u8>> {
    std::mem::take(&mut net.nodes[node].tun_written).into_iter().map(|(bytes, _)| bytes).collect()
}

/// Node 0 with an open circuit of three hops, whose exit is node 4.
fn opened(seed: u64, shards: &[u8], link: LinkConfig) -> Net {
    let mut net = sharded(seed, shards, link);
    want(&mut net, 3, true);
    net.run_for(Duration::from_secs(8));
    if counts(&mut net, "circuit_pongs")[0] == 0 {
        // Friends' lanes to the first shard were not there yet: the next try is after half a minute.
        net.run_for(Duration::from_secs(40));
    }
    assert_eq!(counts(&mut net, "circuit_pongs")[0].min(1), 1, "seed {seed}: {:?}", warnings(&net, 0));
    net
}

#[test]
fn packets_leave_under_an_address_of_the_circuit_and_answers_find_back() {
    for (seed, shards) in [(30, [1; 5]), (31, [3, 2, 2, 2, 4]), (32, [2, 3, 3, 3, 3])] {
        let mut net = opened(seed, &shards, LinkConfig::clean(millis(10)));
        let mut rng = Rng::from_number(seed);
        let mut addresses = std::collections::BTreeSet::new();
        for turn in 0..60u8 {
            for far in FAR {
                let said = vec![turn; 1 + rng.below(1200) as usize];
                let shard = rng.below(u64::from(shards[0])) as u8;
                send(&mut net, 0, shard, &datagram(client(far), far, &said));
                net.run_for(Duration::from_millis(100));
                let out = written(&mut net, 4);
                let [packet] = &out[..] else { panic!("seed {seed}: {} packets at the exit", out.len()) };
                let header = Ip::parse(packet).expect("a packet");
                assert!(ip::is_summed(packet, &header) && payload(packet) == said, "seed {seed}");
                assert_eq!(header.destination, far);
                assert_ne!(header.source, client(far), "the client's own address is nobody's");
                addresses.insert(header.source);
                let shard = rng.below(u64::from(shards[4])) as u8;
                send(&mut net, 4, shard, &datagram(far, header.source, &said));
                net.run_for(Duration::from_millis(100));
                let back = written(&mut net, 0);
                let [packet] = &back[..] else { panic!("seed {seed}: {} packets back", back.len()) };
                let header = Ip::parse(packet).expect("a packet");
                assert_eq!((header.source, header.destination), (far, client(far)));
                assert!(ip::is_summed(packet, &header) && payload(packet) == said, "seed {seed}");
            }
        }
        assert_eq!(addresses.len(), 2, "one address of each family: {addresses:?}");
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), SEND_BUFFERS, "seed {seed}");
        }
    }
}

#[test]
fn a_superpacket_goes_through_as_its_segments() {
    let mut net = opened(33, &[1; 5], LinkConfig::clean(millis(10)));
    let (source, destination) = (client(FAR[0]), FAR[0]);
    let ip = Ip { source, destination, protocol: TCP, header: 20, ecn: 0, fragment: false, divisible: false };
    let mut bytes = vec![0; 40 + 30 * 1256 + 77];
    let len = bytes.len() - 20;
    ip.emit(len, &mut bytes).expect("fits");
    bytes[40..].iter_mut().zip(0u32..).for_each(|(byte, n)| *byte = (n / 5) as u8);
    put_half(&mut bytes, 22, 443);
    put_word(&mut bytes, 20 + tcp::SEQUENCE, 7);
    (bytes[20 + tcp::OFFSET], bytes[20 + tcp::FLAGS]) = (5 << 4, tcp::ACK);
    let sum = ip::pseudo(&bytes, false, TCP, len).fold();
    put_half(&mut bytes, 20 + tcp::CHECKSUM, sum);
    let offload = Offload {
        kind: Segmentation::Tcp4,
        header_len: 40,
        segment: 1256,
        needs_checksum: true,
        checksum_start: 20,
        checksum_offset: 16,
    };
    net.nodes[4].coalesce = Some(Duration::from_micros(200));
    net.tun_read(0, 0, &bytes, offload);
    net.run_for(Duration::from_secs(1));
    let out = written(&mut net, 4);
    let text: Vec<u8> = out.iter().flat_map(|packet| packet[40..].to_vec()).collect();
    assert!(text == bytes[40..], "{} of {} bytes", text.len(), bytes.len() - 40);
    assert!(out.len() < 31, "joined again at the exit");
}

#[test]
fn what_is_not_let_out_is_answered_and_what_is_nobodys_is_dropped() {
    let mut net = opened(34, &[1; 5], LinkConfig::clean(millis(10)));
    exit(&mut net, 4, &["9.9.9.0/24 53"]);
    for (far, port) in [("9.9.9.9", 80u16), ("8.8.8.8", 53), ("192.168.1.1", 53), ("10.77.0.1", 53)] {
        let far: IpAddr = far.parse().expect("an address");
        let mut packet = datagram(client(far), far, b"hello");
        put_half(&mut packet, 22, port);
        send(&mut net, 0, 0, &packet);
        net.run_for(Duration::from_millis(200));
        assert!(written(&mut net, 4).is_empty(), "{far} {port}");
        let answers = written(&mut net, 0);
        let [answer] = &answers[..] else { panic!("{far} {port}: {} answers", answers.len()) };
        assert_eq!((answer[20], answer[21]), (3, 13), "administratively prohibited");
    }
    assert_eq!(counts(&mut net, "exit_refused")[4], 4);
    // An application that bound to another address; a stranger's packet to an address that nobody has.
    send(&mut net, 0, 0, &datagram("10.0.0.7".parse().unwrap(), FAR[0], b"mine"));
    send(&mut net, 4, 0, &datagram(FAR[0], "10.117.255.250".parse().unwrap(), b"guess"));
    net.run_for(Duration::from_secs(1));
    assert!(written(&mut net, 4).is_empty() && written(&mut net, 0).is_empty());
    assert_eq!(counts(&mut net, "exit_strays")[4], 1);
}

#[test]
fn what_a_hostile_exit_sends_is_for_the_client_from_no_friend_or_dropped() {
    let mut net = opened(35, &[1; 5], LinkConfig::clean(millis(10)));
    let friends =
        TunnelPeer { peer: net.card(1).key, allowed: vec!["10.9.0.0/24".parse().expect("a network")] };
    net.command(0, Command::Tunnels(vec![friends]));
    let [own, own6] = FAR.map(client);
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    for (source, destination, comes) in [
        (FAR[0], own, true),
        (FAR[1], own6, true),
        // Hosts behind the origin, its other addresses, and all hosts at once.
        (FAR[0], address("192.168.1.5"), false),
        (FAR[0], address("10.9.0.1"), false),
        (FAR[0], address("127.0.0.1"), false),
        (FAR[0], address("224.0.0.1"), false),
        (FAR[1], address("fe80::1"), false),
        (FAR[1], address("ff02::1"), false),
        // In the name of a friend.
        (address("10.9.0.2"), own, false),
    ] {
        net.inject_as_exit(4, 0, &datagram(source, destination, b"unasked"));
        net.run_for(Duration::from_millis(200));
        assert_eq!(written(&mut net, 0).len(), usize::from(comes), "{source} to {destination}");
    }
    assert_eq!(counter(&mut net, 0, "tunnel_dropped_not_allowed"), 7);
}

/// The relay that has circuits and is neither end, latest.
fn relay_in_use(net: &mut Net) -> usize {
    let before = counts(net, "circuit_cells_forward");
    send(net, 0, 0, &datagram(client(FAR[0]), FAR[0], b"which"));
    net.run_for(Duration::from_millis(200));
    let after = counts(net, "circuit_cells_forward");
    (1..4).find(|node| after[*node] > before[*node]).expect("a relay passes it on")
}

/// Where nothing comes for longest among the times at which something came, from `from` on.
fn longest_gap(times: &[Time], from: Time, until: Time) -> Duration {
    let inside: Vec<Time> = times.iter().copied().filter(|at| *at >= from).collect();
    let starts = std::iter::once(from).chain(inside.iter().copied());
    let ends = inside.iter().copied().chain([until]);
    starts.zip(ends).map(|(a, b)| b.since(a)).max().unwrap_or_default()
}

/// Five nodes and another relay: whichever dies, there is a path.
fn six(seed: u64) -> Net {
    let mut net = Net::new(seed, 6, LinkConfig::clean(millis(15)));
    let friends: [&[usize]; 6] =
        [&[1, 2, 3], &[0, 2, 3, 4, 5], &[0, 1, 3, 4, 5], &[0, 1, 2, 4, 5], &[1, 2, 3], &[1, 2, 3]];
    exit(&mut net, 4, &["0.0.0.0/0"]);
    for (node, friends) in friends.iter().enumerate() {
        net.befriend(node, friends);
    }
    net.run_for(Duration::from_secs(15));
    want(&mut net, 3, true);
    net.run_for(Duration::from_secs(5));
    net
}

#[test]
fn a_relay_dies_and_traffic_goes_on_within_seconds_under_the_same_address() {
    let mut gaps = Vec::new();
    for seed in 40..64 {
        let mut net = six(seed);
        let victim = relay_in_use(&mut net);
        written(&mut net, 4);
        let up = seed % 2 == 0;
        let (mut times, mut sources) = (Vec::new(), std::collections::BTreeSet::new());
        send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], b"first"));
        net.run_for(Duration::from_millis(200));
        let source = Ip::parse(&written(&mut net, 4)[0]).expect("a packet").source;
        sources.insert(source);
        let crash = net.now;
        net.crash(victim, Crash::Process);
        for _ in 0..400 {
            // Up: the origin sends. Down: only the exit does, and the origin waits.
            let (at, packet) = if up {
                (0, datagram(client(FAR[0]), FAR[0], b"up"))
            } else {
                (4, datagram(FAR[0], source, b"down"))
            };
            send(&mut net, at, 0, &packet);
            net.run_for(Duration::from_millis(20));
            let came = written(&mut net, if up { 4 } else { 0 });
            times.extend(came.iter().map(|_| net.now));
            if up {
                sources.extend(came.iter().map(|packet| Ip::parse(packet).expect("a packet").source));
            }
        }
        let warned = warnings(&net, 0);
        assert!(times.len() > 100, "seed {seed}, without {victim}: {} came; {warned:?}", times.len());
        assert_eq!(sources.len(), 1, "seed {seed}: the address changed: {sources:?}");
        let gap = longest_gap(&times, crash, net.now);
        assert!(gap < Duration::from_secs(3), "seed {seed}: nothing for {gap:?}; {:?}", warnings(&net, 0));
        gaps.push(gap);
    }
    gaps.sort();
    let at = |share: usize| gaps[(gaps.len() - 1) * share / 100].as_millis();
    assert!(at(50) < 1_500 && at(90) < 2_500, "median {} ms, 90 % {} ms: {gaps:?}", at(50), at(90));
}

/// A packet of the origin's goes out at the exit and is sent back there, in half a second: under which address it came out, if it
/// did, and whether it came back.
fn echoed(net: &mut Net, said: [u8; 4]) -> (Option<IpAddr>, bool) {
    let is_it = |packet: &Vec<u8>| payload(packet) == said;
    send(net, 0, 0, &datagram(client(FAR[0]), FAR[0], &said));
    net.run_for(Duration::from_millis(250));
    let out = written(net, 4);
    let Some(packet) = out.first().filter(|packet| is_it(packet)) else { return (None, false) };
    let source = Ip::parse(packet).expect("a packet").source;
    send(net, 4, 0, &datagram(FAR[0], source, &said));
    net.run_for(Duration::from_millis(250));
    (Some(source), written(net, 0).first().is_some_and(is_it))
}

#[test]
fn circuits_are_replaced_without_a_packet_lost() {
    let mut net = six(70);
    let (mut sources, mut lost) = (std::collections::BTreeSet::new(), 0);
    let turns = 2 * (CIRCUIT_REBUILD_MS_MIN + CIRCUIT_REBUILD_MS_JITTER) / 500;
    for turn in 0..turns {
        let (source, came_back) = echoed(&mut net, (turn as u32).to_be_bytes());
        sources.extend(source);
        lost += u32::from(!came_back);
    }
    assert!(counts(&mut net, "circuits_opened")[0] >= 2, "{:?}", warnings(&net, 0));
    assert_eq!((lost, sources.len()), (0, 1), "{sources:?}");
    assert_eq!(counts(&mut net, "circuit_silent"), [0; 6]);
}

#[test]
fn an_exit_with_a_rate_lets_no_more_through() {
    let mut net = opened(71, &[1; 5], LinkConfig::clean(millis(10)));
    let policy = crate::onion::policy::Policy(vec!["0.0.0.0/0".parse().expect("a rule")]);
    let pools = vec!["10.117.0.0/16".parse().unwrap(), "fd75::/64".parse().unwrap()];
    let rules = crate::node::command::ExitRules { policy, pools, rate: Some(100_000) };
    net.command(4, Command::Exit(Box::new(rules)));
    for _ in 0..1000 {
        send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], &[1; 972]));
        net.run_for(Duration::from_millis(4));
    }
    let bytes: usize = written(&mut net, 4).iter().map(Vec::len).sum();
    // Four seconds, and what may go at once.
    assert!((380_000..480_000).contains(&bytes), "{bytes}");
}

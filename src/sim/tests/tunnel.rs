//! Tunnels between simulated friends: what one host's kernel hands over is what the other's gets.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::base::{Offload, Prefix, Segmentation};
use crate::limits::PACKET_OVERHEAD;
use crate::node::command::{NodeLimits, PeerLimits, TunnelPeer};
use crate::tunnel::Cut;
use crate::wire::ip::{self, Ip, TCP, UDP, put_half, put_word, tcp, udp};

/// A node's address inside the tunnel.
fn inside(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, 1 + node as u8).into()
}

/// Nodes that are all friends, with a tunnel between each two.
pub(super) fn tunnels(seed: u64, shards: &[u8], link: LinkConfig) -> Net {
    let mut net = Net::with_shards(seed, shards, link);
    let all = 0..shards.len();
    for node in all.clone() {
        let others: Vec<usize> = all.clone().filter(|other| *other != node).collect();
        net.befriend(node, &others);
        let tunnel = |other: &usize| TunnelPeer {
            peer: net.card(*other).key,
            allowed: vec![Prefix::host(inside(*other))],
        };
        let list = others.iter().map(tunnel).collect();
        net.command(node, Command::Tunnels(list));
    }
    net.run_for(Duration::from_secs(3));
    net
}

fn packet(from: usize, to: usize, protocol: u8, transport: usize, payload: usize) -> Vec<u8> {
    let header = ip::V4_HEADER;
    let ip = Ip {
        source: inside(from),
        destination: inside(to),
        protocol,
        header,
        ecn: 0,
        fragment: false,
        divisible: false,
    };
    let mut bytes = vec![0; header + transport + payload];
    ip.emit(transport + payload, &mut bytes).expect("fits");
    bytes[header + transport..].iter_mut().zip(0u32..).for_each(|(byte, n)| *byte = (n / 7) as u8);
    bytes
}

/// A UDP datagram whose checksum is left to the device.
pub(super) fn datagram(from: usize, to: usize, payload: usize) -> (Vec<u8>, Offload) {
    let mut bytes = packet(from, to, UDP, ip::UDP_HEADER, payload);
    let len = bytes.len() - ip::V4_HEADER;
    put_half(&mut bytes, ip::V4_HEADER + udp::LENGTH, len as u16);
    let sum = ip::pseudo(&bytes, false, UDP, len).fold();
    put_half(&mut bytes, ip::V4_HEADER + udp::CHECKSUM, sum);
    let offload =
        Offload { needs_checksum: true, checksum_start: 20, checksum_offset: 6, ..Offload::default() };
    (bytes, offload)
}

/// A TCP superpacket as the kernel hands it over.
fn superpacket(from: usize, to: usize, sequence: u32, payload: usize) -> (Vec<u8>, Offload) {
    let mut bytes = packet(from, to, TCP, ip::TCP_HEADER, payload);
    let len = bytes.len() - ip::V4_HEADER;
    let header = &mut bytes[ip::V4_HEADER..];
    put_word(header, tcp::SEQUENCE, sequence);
    header[tcp::OFFSET] = 5 << 4;
    header[tcp::FLAGS] = tcp::ACK | tcp::PSH;
    let sum = ip::pseudo(&bytes, false, TCP, len).fold();
    put_half(&mut bytes, ip::V4_HEADER + tcp::CHECKSUM, sum);
    let offload = Offload {
        kind: Segmentation::Tcp4,
        header_len: 40,
        segment: 1380,
        needs_checksum: true,
        checksum_start: 20,
        checksum_offset: 16,
    };
    (bytes, offload)
}

fn written(net: &mut Net, node: usize) -> Vec<(Vec<u8>, Offload)> {
    std::mem::take(&mut net.nodes[node].tun_written)
}

fn packets(list: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    let cut = |(bytes, offload): &(Vec<u8>, Offload)| {
        let cut = Cut::new(bytes, &Ip::parse(bytes).expect("a packet"), offload).expect("fits");
        let part = |index| {
            let mut out = vec![0; cut.size(index)];
            cut.write(bytes, index, &mut out);
            out
        };
        (0..cut.count()).map(part).collect::<Vec<_>>()
    };
    list.iter().flat_map(cut).collect()
}

fn assert_nothing_leaks(net: &Net) {
    for node in &net.nodes {
        assert_eq!(node.world.free_buffers(), crate::limits::SEND_BUFFERS, "seed {}", net.seed);
    }
}

#[test]
fn a_superpacket_arrives_as_one_when_its_train_does() {
    let mut net = tunnels(1, &[1, 1], LinkConfig::clean(millis(5)));
    net.nodes[1].coalesce = Some(Duration::from_micros(100));
    let (bytes, offload) = superpacket(0, 1, u32::MAX - 5000, 30 * 1380 + 17);
    net.tun_read(0, 0, &bytes, offload);
    net.run_for(Duration::from_secs(1));
    let got = written(&mut net, 1);
    assert_eq!(packets(&got), packets(&[(bytes.clone(), offload)]));
    assert_eq!(got.iter().map(|(bytes, _)| bytes.len()).sum::<usize>() - bytes.len(), (got.len() - 1) * 40);
    assert!(got.len() <= 2, "{} writes", got.len());
    assert_eq!(counter(&mut net, 0, "tunnel_sent_packets"), 31);
    assert_eq!(counter(&mut net, 1, "tunnel_received_packets"), 31);
    assert_nothing_leaks(&net);
}

#[test]
fn packets_of_all_sizes_come_out_as_they_went_in_whatever_shards_they_meet() {
    for (seed, shards) in [(2, [1, 1]), (3, [3, 2]), (4, [4, 4])] {
        let mut net = tunnels(seed, &shards, LinkConfig::clean(millis(5)));
        net.nodes[1].coalesce = Some(Duration::from_micros(50));
        let mut rng = Rng::from_number(seed);
        let mut sent = Vec::new();
        for turn in 0..200 {
            let shard = rng.below(u64::from(shards[0])) as u8;
            let one = if turn % 5 == 0 {
                superpacket(0, 1, turn * 100_000, 1 + rng.below(60_000) as usize)
            } else {
                datagram(0, 1, rng.below(1300) as usize)
            };
            net.tun_read(0, shard, &one.0, one.1);
            sent.push(one);
            net.run_for(Duration::from_millis(2));
        }
        net.run_for(Duration::from_secs(1));
        // Different queues of a device keep no order between them.
        let sorted = |list: &[(Vec<u8>, Offload)]| {
            let mut all = packets(list);
            all.sort();
            all
        };
        let got = written(&mut net, 1);
        assert!(
            sorted(&got) == sorted(&sent),
            "seed {seed}: {} of {}",
            packets(&got).len(),
            packets(&sent).len()
        );
        assert_nothing_leaks(&net);
    }
}

#[test]
fn what_comes_from_an_address_of_somebody_else_is_dropped_and_counted() {
    let mut net = tunnels(5, &[1, 1, 1], LinkConfig::clean(millis(5)));
    let (forged, offload) = datagram(2, 1, 100);
    net.tun_read(0, 0, &forged, offload);
    let (stray, offload) = datagram(0, 99, 100);
    net.tun_read(0, 0, &stray, offload);
    net.tun_read(0, 0, b"no packet", Offload::default());
    let (good, offload) = datagram(0, 1, 100);
    net.tun_read(0, 0, &good, offload);
    net.run_for(Duration::from_secs(1));
    assert_eq!(packets(&written(&mut net, 1)), [good]);
    assert_eq!(counter(&mut net, 1, "tunnel_dropped_not_allowed"), 1);
    assert_eq!(counter(&mut net, 0, "tunnel_dropped_no_tunnel"), 1);
    assert_eq!(counter(&mut net, 0, "tunnel_dropped_malformed"), 1);
    assert_nothing_leaks(&net);
}

#[test]
fn a_packet_for_a_friend_who_is_being_called_waits_and_a_late_one_does_not() {
    let mut net = tunnels(6, &[1, 1], LinkConfig::clean(millis(5)));
    net.crash(1, crate::sim::Crash::Process);
    net.run_for(Duration::from_secs(70));
    let (old, offload) = datagram(0, 1, 10);
    net.tun_read(0, 0, &old, offload);
    net.run_for(Duration::from_secs(20));
    let (bytes, offload) = datagram(0, 1, 100);
    net.tun_read(0, 0, &bytes, offload);
    net.start(1);
    net.run_for(Duration::from_secs(10));
    assert_eq!(packets(&written(&mut net, 1)), [bytes]);
    assert_eq!(counter(&mut net, 0, "tunnel_dropped_away"), 1);
    assert_nothing_leaks(&net);
}

#[test]
fn what_the_path_does_not_carry_is_answered_with_its_mtu() {
    let link = LinkConfig { mtu: 1400, ..LinkConfig::clean(millis(5)) };
    let mut net = tunnels(7, &[1, 1], link);
    net.run_for(Duration::from_secs(60));
    let (bytes, offload) = datagram(0, 1, 1380);
    net.tun_read(0, 0, &bytes, offload);
    net.run_for(Duration::from_secs(1));
    let [(answer, _)] = &written(&mut net, 0)[..] else { panic!("one answer") };
    let header = Ip::parse(answer).expect("a packet");
    assert_eq!((header.source, header.destination, header.protocol), (inside(1), inside(0), ip::ICMP));
    let mtu = usize::from(ip::half(answer, 26));
    assert_eq!(mtu + PACKET_OVERHEAD, 1392, "the largest that is tried below the path's");
    let (fits, offload) = datagram(0, 1, mtu - 28);
    net.tun_read(0, 0, &fits, offload);
    net.run_for(Duration::from_secs(1));
    assert_eq!(packets(&written(&mut net, 1)), [fits]);
    assert_eq!(counter(&mut net, 0, "tunnel_dropped_too_big"), 1);
}

#[test]
fn a_get_and_a_tunnel_share_a_session() {
    let mut net = tunnels(8, &[1, 1], LinkConfig::clean(millis(5)));
    let tree = tree(8);
    let reference = put(&mut net, &[0], &tree);
    get(&mut net, 1, 1, &reference, &[]);
    let mut sent = Vec::new();
    for turn in 0..400 {
        let one = datagram(0, 1, 200 + turn);
        net.tun_read(0, 0, &one.0, one.1);
        sent.push(one);
        net.run_for(Duration::from_millis(5));
    }
    finish(&mut net, 1, 1, 60).expect("the get is done");
    assert_eq!(packets(&written(&mut net, 1)).len(), sent.len());
}

/// Under the node's rate, a flood to one friend fills its own queue: another's few packets all arrive, and soon.
#[test]
fn a_flood_waits_in_its_own_queue_and_keeps_the_nodes_rate() {
    let mut net = tunnels(11, &[1, 1, 1], LinkConfig::clean(millis(5)));
    let rate = 4_000_000;
    super::limits::limit(&mut net, 0, NodeLimits { up: Some(rate), ..NodeLimits::default() });
    net.run_for(millis(100));
    let before = super::limits::wire(&mut net, 0, "sent");
    let (mut flood, mut few, mut late) = (0u64, 0, 0);
    for step in 0..4000u64 {
        let (bytes, offload) = datagram(0, 1, 1200);
        net.tun_read(0, 0, &bytes, offload);
        if step % 20 == 0 {
            let (bytes, offload) = datagram(0, 2, 500);
            net.tun_read(0, 0, &bytes, offload);
        }
        net.run_for(millis(1));
        flood += packets(&written(&mut net, 1)).len() as u64;
        let came = packets(&written(&mut net, 2)).len();
        few += came;
        if step % 20 == 15 {
            // Within 15 ms of being read, 5 of them on the way.
            late += usize::from((step / 20 + 1) as usize > few);
        }
    }
    let sent = (super::limits::wire(&mut net, 0, "sent") - before) as f64 * 8.0 / 4.0;
    assert!((0.97..1.01).contains(&(sent / rate as f64)), "{sent} of {rate}");
    assert_eq!((few, late), (200, 0), "the quiet one lost nothing and waited for nobody");
    let got = flood as f64 * (1200.0 + 28.0 + 28.0 + PACKET_OVERHEAD as f64) * 8.0 / 4.0;
    assert!(got > 0.85 * rate as f64, "{got}: the rest is the flood's");
    let dropped = counter(&mut net, 0, "queue_late") + counter(&mut net, 0, "queue_full");
    assert!(dropped > 500, "{dropped} of the flood were dropped");
}

/// A friend's cap holds for its tunnel, and is shared with what is served to it.
#[test]
fn a_cap_holds_for_a_tunnel_beside_a_transfer() {
    let mut net = tunnels(12, &[1, 1], LinkConfig::clean(millis(5)));
    let tree = tree(12);
    let reference = put(&mut net, &[0], &tree);
    let (rate, node) = (3_000_000, net.card(1).node_id());
    let peers = vec![(node, PeerLimits { up: Some(rate), ..PeerLimits::default() })];
    super::limits::limit(&mut net, 0, NodeLimits { peers, ..NodeLimits::default() });
    get(&mut net, 1, 1, &reference, &[]);
    net.run_for(millis(500));
    let (before, mut tunnel) = (super::limits::wire(&mut net, 0, "sent"), 0);
    for _ in 0..2000 {
        let (bytes, offload) = datagram(0, 1, 1200);
        net.tun_read(0, 0, &bytes, offload);
        net.run_for(millis(1));
        tunnel += packets(&written(&mut net, 1)).len();
    }
    let sent = (super::limits::wire(&mut net, 0, "sent") - before) as f64 * 8.0 / 2.0;
    assert!((0.97..1.02).contains(&(sent / rate as f64)), "{sent} of {rate}");
    let share = tunnel as f64 * 1290.0 * 8.0 / 2.0 / rate as f64;
    assert!((0.3..0.7).contains(&share), "{share}: packets and streams take turns");
    super::limits::limit(&mut net, 0, NodeLimits::default());
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    net.run_for(Duration::from_secs(1));
    assert_nothing_leaks(&net);
}

/// What can say that it met congestion is marked where it would be dropped, and arrives so; the figures say it.
#[test]
fn a_queue_marks_what_listens_and_drops_what_does_not() {
    for capable in [true, false] {
        let mut net = tunnels(13, &[1, 1], LinkConfig::clean(millis(5)));
        let (rate, node) = (4_000_000, net.card(1).node_id());
        let peers = vec![(node, PeerLimits { up: Some(rate), ..PeerLimits::default() })];
        super::limits::limit(&mut net, 0, NodeLimits { peers, ..NodeLimits::default() });
        net.run_for(millis(100));
        let (mut sent, mut came, mut marked) = (0, 0, 0);
        // A tenth more than the cap lets through: for so short that marks are no lost cause yet, or for longer.
        for step in 0..if capable { 700 } else { 2500u64 } {
            if step % 23 < 10 {
                let (mut bytes, offload) = datagram(0, 1, 1200);
                bytes[1] |= u8::from(capable);
                ip::sum_v4(&mut bytes[..ip::V4_HEADER]);
                net.tun_read(0, 0, &bytes, offload);
                sent += 1;
            }
            net.run_for(millis(1));
            for packet in packets(&written(&mut net, 1)) {
                came += 1;
                marked += u64::from(packet[1] & 3 == 3);
            }
        }
        let snapshot = status(&mut net, 0);
        let peer = snapshot.peers.iter().find(|peer| peer.node == node).expect("connected").shaped;
        let class = snapshot.classes.iter().find(|(class, _)| Some(*class) == peer.class).expect("a class");
        assert_eq!((class.1.marked, class.1.dropped), (peer.queue_marked, peer.queue_dropped));
        assert!(peer.queued_bytes > 0 && peer.delay_us > 5_000, "it stands: {peer:?}");
        if capable {
            assert!(
                marked > 4 && peer.queue_marked >= marked && peer.queue_dropped == 0,
                "{marked} {peer:?}"
            );
        } else {
            assert!(peer.queue_dropped > 10 && (peer.queue_marked, marked) == (0, 0), "{peer:?}");
        }
        let waiting = peer.queued_bytes / 1290;
        assert!(sent - came - peer.queue_dropped <= waiting + 10, "{sent} {came} {peer:?}");
    }
}

/// Found by a user: what came through a tunnel was not counted, so that a `get` beside it went on at the whole rate.
#[test]
fn what_a_tunnel_brings_is_asked_for_less() {
    for shards in [1, 2] {
        let mut net = tunnels(14, &[1, shards], LinkConfig::clean(millis(5)));
        let tree = tree(14);
        let reference = put(&mut net, &[0], &tree);
        let rate = 4_000_000;
        super::limits::limit(&mut net, 1, NodeLimits { down: Some(rate), ..NodeLimits::default() });
        get(&mut net, 1, 1, &reference, &[]);
        net.run_for(millis(500));
        let before = super::limits::wire(&mut net, 0, "sent");
        for step in 0..2000u64 {
            if step % 5 == 0 {
                let (bytes, offload) = datagram(0, 1, 1200);
                net.tun_read(0, 0, &bytes, offload);
            }
            net.run_for(millis(1));
        }
        let came = (super::limits::wire(&mut net, 0, "sent") - before) as f64 * 8.0 / 2.0;
        assert!(outcome(&net, 1, 1).is_none(), "it goes on");
        assert!((0.9..1.1).contains(&(came / rate as f64)), "{came} of {rate}, {shards} shards");
    }
}

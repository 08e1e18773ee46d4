//! Several circuits at once for one tunnel: flows are spread over them, share nothing but the exit, and go on when a relay
//! dies.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::base::PublicKey;
use crate::node::command::{CircuitSnapshot, CircuitWant, Report};

const EXIT: usize = 7;

/// An origin with three friends, three relays behind them, and an exit.
fn eight(seed: u64, paths: u8) -> Net {
    let mut net = Net::new(seed, 8, LinkConfig::clean(millis(15)));
    let behind: &[usize] = &[1, 2, 3, 7];
    let friends: [&[usize]; 8] = [
        &[1, 2, 3],
        &[0, 4, 5, 6, 7],
        &[0, 4, 5, 6, 7],
        &[0, 4, 5, 6, 7],
        behind,
        behind,
        behind,
        &[1, 2, 3, 4, 5, 6],
    ];
    exit(&mut net, EXIT, &["0.0.0.0/0"]);
    for (node, friends) in friends.iter().enumerate() {
        net.befriend(node, friends);
    }
    net.run_for(Duration::from_secs(15));
    want_paths(&mut net, paths);
    net.run_for(Duration::from_secs(8));
    net
}

fn want_paths(net: &mut Net, paths: u8) {
    let routes = vec!["0.0.0.0/0".parse().expect("a network")];
    let want = CircuitWant { hops: 3, force: true, routes, paths, ..CircuitWant::default() };
    net.command(0, Command::Circuit(Some(want)));
}

fn circuit(net: &mut Net) -> CircuitSnapshot {
    net.nodes[0].reports.clear();
    net.command(0, Command::Status { token: 9 });
    let found = net.nodes[0].reports.iter().find_map(|report| match report {
        Report::Status(9, snapshot) => snapshot.circuit.clone(),
        _ => None,
    });
    found.expect("one is wanted")
}

/// The relays of each open path, without the exit, by node.
fn relays(net: &mut Net) -> Vec<Vec<usize>> {
    let keys: Vec<_> = (0..net.nodes.len()).map(|node| net.card(node).key).collect();
    let place = |key: &PublicKey| keys.iter().position(|other| other == key).expect("one of the nodes");
    let open = circuit(net).paths.into_iter().filter(|path| !path.path.is_empty());
    open.map(|path| {
        let hops: Vec<usize> = path.path.iter().map(place).collect();
        assert_eq!(hops[2], EXIT);
        hops[..2].to_vec()
    })
    .collect()
}

fn port_of(packet: &[u8], at: usize) -> u16 {
    let transport = Ip::parse(packet).expect("a packet").header + 2 * at;
    u16::from_be_bytes([packet[transport], packet[transport + 1]])
}

#[test]
fn flows_are_spread_over_circuits_that_share_only_the_exit() {
    for seed in 200..206 {
        let mut net = eight(seed, 2);
        let paths = relays(&mut net);
        assert_eq!(paths.len(), 2, "seed {seed}: {:?}", warnings(&net, 0));
        let all: BTreeSet<usize> = paths.iter().flatten().copied().collect();
        assert_eq!(all.len(), 4, "seed {seed}: a relay is on both: {paths:?}");
        let before = circuit(&mut net);
        let (mut out, mut sources) = (0, BTreeSet::new());
        for port in 1000..1040u16 {
            send(&mut net, 0, 0, &datagram_from(port, client(FAR[0]), FAR[0], b"out"));
            net.run_for(Duration::from_millis(5));
        }
        net.run_for(Duration::from_millis(200));
        let came = written(&mut net, EXIT);
        out += came.len();
        for packet in came {
            let header = Ip::parse(&packet).expect("a packet");
            sources.insert(header.source);
            let port = port_of(&packet, 0);
            let mut answer = datagram_from(53, FAR[0], header.source, b"back");
            put_half(&mut answer, 22, port);
            put_half(&mut answer, 26, 0);
            send(&mut net, EXIT, 0, &answer);
        }
        net.run_for(Duration::from_millis(300));
        let ports: BTreeSet<u16> = written(&mut net, 0).iter().map(|packet| port_of(packet, 1)).collect();
        assert_eq!((out, sources.len(), ports.len()), (40, 1, 40), "seed {seed}");
        let after = circuit(&mut net);
        for (before, after) in before.paths.iter().zip(&after.paths) {
            let (sent, got) =
                (after.sent_packets - before.sent_packets, after.received_packets - before.received_packets);
            assert!((5..=35).contains(&sent), "seed {seed}: {sent} of 40 flows by one path");
            assert_eq!(sent, got, "seed {seed}: what comes back of a flow comes where it went");
        }
    }
}

/// Both ways, beside one another: flows on the path that dies move to the other within half a second or so, and those on the
/// other do not notice.
#[test]
fn a_relay_dies_and_its_flows_go_on_by_the_other_circuit() {
    for seed in 210..222 {
        let mut net = eight(seed, 2);
        let paths = relays(&mut net);
        assert_eq!(paths.len(), 2, "seed {seed}: {:?}", warnings(&net, 0));
        let up = seed % 2 == 0;
        let ports = 2000..2012u16;
        for port in ports.clone() {
            send(&mut net, 0, 0, &datagram_from(port, client(FAR[0]), FAR[0], b"begin"));
        }
        net.run_for(Duration::from_millis(300));
        let source = Ip::parse(&written(&mut net, EXIT)[0]).expect("a packet").source;
        let mut came: BTreeMap<u16, Vec<Time>> = BTreeMap::new();
        let mut crash = None;
        for turn in 0..150 {
            if turn == 25 {
                written(&mut net, 0);
                written(&mut net, EXIT);
                net.crash(paths[0][usize::from(seed % 3 == 0)], Crash::Process);
                crash = Some(net.now);
            }
            for port in ports.clone() {
                if up {
                    send(&mut net, 0, 0, &datagram_from(port, client(FAR[0]), FAR[0], b"up"));
                } else {
                    let mut packet = datagram_from(53, FAR[0], source, b"down");
                    put_half(&mut packet, 22, port);
                    put_half(&mut packet, 26, 0);
                    send(&mut net, EXIT, 0, &packet);
                }
            }
            net.run_for(Duration::from_millis(20));
            for packet in written(&mut net, if up { EXIT } else { 0 }) {
                came.entry(port_of(&packet, usize::from(!up))).or_default().push(net.now);
            }
        }
        let crash = crash.expect("it died");
        let gaps: Vec<u128> =
            ports.map(|port| longest_gap(&came[&port], crash, net.now).as_millis()).collect();
        let hit = gaps.iter().filter(|gap| **gap > 100).count();
        assert!(gaps.iter().all(|gap| *gap < 700), "seed {seed}, up {up}: {gaps:?} {:?}", warnings(&net, 0));
        assert!(hit < gaps.len(), "seed {seed}, up {up}: all noticed: {gaps:?}");
    }
}

#[test]
fn what_cannot_be_disjoint_is_not_built_and_said() {
    let mut net = six(230);
    want_paths(&mut net, 4);
    net.run_for(Duration::from_secs(40));
    let seen = circuit(&mut net);
    let (open, not): (Vec<_>, Vec<_>) = seen.paths.iter().partition(|path| !path.path.is_empty());
    assert!((1..=2).contains(&open.len()), "{seen:?}");
    assert!(
        not.iter().all(|path| path.why.as_ref().is_some_and(|why| why.contains("no further path"))),
        "{seen:?}"
    );
    send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], b"still"));
    net.run_for(Duration::from_millis(200));
    assert_eq!(written(&mut net, 4).len(), 1);
}

/// Each packet where it is there soonest: both circuits carry one flow, and it comes in order, both ways, though one of them takes
/// longer.
#[test]
fn packets_are_spread_one_by_one_and_come_in_order() {
    for seed in 240..244 {
        let mut net = eight(seed, 1);
        let routes = vec!["0.0.0.0/0".parse().expect("a network")];
        let want = CircuitWant {
            hops: 3,
            force: true,
            routes,
            paths: 2,
            spread_packets: true,
            ..CircuitWant::default()
        };
        net.command(0, Command::Circuit(Some(want)));
        net.run_for(Duration::from_secs(8));
        let paths = relays(&mut net);
        assert_eq!(paths.len(), 2, "seed {seed}: {:?}", warnings(&net, 0));
        // Neither carries it alone, and one takes longer.
        for (path, delay) in paths.iter().zip([15, 35]) {
            net.change_both(path[0], path[1], |link| {
                (link.rate, link.queue, link.delay) =
                    (Some(10_000_000), 128 * 1024, Duration::from_millis(delay));
            });
        }
        let number = |packet: &[u8]| u32::from_be_bytes(payload(packet)[..4].try_into().expect("four"));
        let payload_of = |n: u32| {
            let mut bytes = vec![7; 1200];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        let before = circuit(&mut net);
        send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], &payload_of(0)));
        net.run_for(Duration::from_millis(300));
        let source = Ip::parse(&written(&mut net, EXIT)[0]).expect("a packet").source;
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for n in 1..2000 {
            send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], &payload_of(n)));
            send(&mut net, EXIT, 0, &datagram(FAR[0], source, &payload_of(n)));
            net.run_for(Duration::from_millis(1));
            out.extend(written(&mut net, EXIT).iter().map(|packet| number(packet)));
            back.extend(written(&mut net, 0).iter().map(|packet| number(packet)));
        }
        net.run_for(Duration::from_millis(500));
        out.extend(written(&mut net, EXIT).iter().map(|packet| number(packet)));
        back.extend(written(&mut net, 0).iter().map(|packet| number(packet)));
        for (way, came) in [("out", out), ("back", back)] {
            let distinct: BTreeSet<u32> = came.iter().copied().collect();
            assert_eq!(came.len(), distinct.len(), "seed {seed} {way}: something came twice");
            assert!(came.len() > 1900, "seed {seed} {way}: {} of 1999", came.len());
            let wrong = came.windows(2).filter(|pair| pair[0] > pair[1]).count();
            assert!(wrong < 20, "seed {seed} {way}: {wrong} out of order");
        }
        let after = circuit(&mut net);
        for (before, after) in before.paths.iter().zip(&after.paths) {
            assert!(after.sent_packets - before.sent_packets > 100, "seed {seed}: {after:?}");
            assert!(after.received_packets - before.received_packets > 100, "seed {seed}: {after:?}");
        }
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), SEND_BUFFERS, "seed {seed}");
        }
    }
}

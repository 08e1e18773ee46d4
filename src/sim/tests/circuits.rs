//! Circuits through simulated nodes: opened over friends and friends' friends, used, lost and found again.

use super::*;
use crate::limits::{CIRCUIT_IDLE_MS_MAX, SEND_BUFFERS};
use crate::node::command::{CircuitRules, CircuitWant, ExitRules};
use crate::onion::policy::Policy;
use crate::sim::net::Net;

/// Node 0 has the friends 1 and 2; each of these has 3 and 4. Node 4 is an exit.
fn neighbours(seed: u64, link: LinkConfig) -> Net {
    sharded(seed, &[1; 5], link)
}

/// The same of nodes with so many shards each.
pub(super) fn sharded(seed: u64, shards: &[u8], link: LinkConfig) -> Net {
    let mut net = Net::with_shards(seed, shards, link);
    let friends: [&[usize]; 5] = [&[1, 2], &[0, 3, 4], &[0, 3, 4], &[1, 2], &[1, 2]];
    exit(&mut net, 4, &["0.0.0.0/0", "2000::/3"]);
    for (node, friends) in friends.iter().enumerate() {
        net.befriend(node, friends);
    }
    // Introductions, and what they bring of friends' friends.
    net.run_for(Duration::from_secs(15));
    net
}

/// Makes a node an exit.
pub(super) fn exit(net: &mut Net, node: usize, rules: &[&str]) {
    let policy = Policy(rules.iter().map(|rule| rule.parse().expect("a rule")).collect());
    let pools = vec!["10.117.0.0/16".parse().expect("a network"), "fd75::/64".parse().expect("a network")];
    net.command(node, Command::Exit(Box::new(ExitRules { policy, pools, rate: None })));
    net.command(node, Command::Relay(CircuitRules { exit: true, ..CircuitRules::default() }));
}

pub(super) fn want(net: &mut Net, hops: u8, force: bool) {
    let routes = vec!["0.0.0.0/0".parse().expect("a network"), "::/0".parse().expect("a network")];
    net.command(
        0,
        Command::Circuit(Some(CircuitWant {
            hops,
            exit: None,
            force,
            routes,
            proxied: false,
            paths: 1,
            spread_packets: false,
        })),
    );
}

pub(super) fn counts(net: &mut Net, name: &str) -> Vec<u64> {
    (0..net.nodes.len()).map(|node| counter(net, node, name)).collect()
}

fn connected(net: &mut Net, node: usize) -> Vec<usize> {
    net.nodes[node].reports.clear();
    net.command(node, Command::Status { token: 1 });
    let keys: Vec<_> = (0..net.nodes.len()).map(|n| net.card(n).key).collect();
    let snapshot = net.nodes[node].reports.iter().find_map(|report| match report {
        Report::Status(1, snapshot) => Some(snapshot),
        _ => None,
    });
    let peers = &snapshot.expect("answered").peers;
    let here = peers.iter().filter(|peer| peer.connected);
    here.filter_map(|peer| keys.iter().position(|key| *key == peer.key)).collect()
}

pub(super) fn warnings(net: &Net, node: usize) -> Vec<&str> {
    let reports = net.nodes[node].reports.iter();
    reports
        .filter_map(|report| if let Report::Warning(text) = report { Some(text.as_str()) } else { None })
        .collect()
}

#[test]
fn a_circuit_over_three_hops_answers_and_its_ends_never_meet() {
    for seed in 0..6 {
        let mut net = neighbours(seed, LinkConfig::clean(millis(10)));
        want(&mut net, 3, false);
        net.run_for(Duration::from_secs(5));
        assert_eq!(
            counts(&mut net, "circuits_opened"),
            [1, 0, 0, 0, 0],
            "seed {seed}: {:?}",
            warnings(&net, 0)
        );
        assert!(counts(&mut net, "circuit_pongs")[0] >= 1, "seed {seed}");
        assert!(counts(&mut net, "circuit_pings")[4] >= 1, "seed {seed}: the exit heard it");
        assert_eq!(counts(&mut net, "circuits_relayed").iter().sum::<u64>(), 2, "seed {seed}");
        assert_eq!(counts(&mut net, "circuit_cells_forged"), [0; 5]);
        let met = connected(&mut net, 0);
        assert!(met.iter().all(|peer| [1, 2].contains(peer)), "seed {seed}: the origin met {met:?}");
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), SEND_BUFFERS, "seed {seed}");
        }
    }
}

#[test]
fn nodes_of_several_shards_relay_for_one_another() {
    for seed in 20..28 {
        let shards = [[1, 3, 3, 2, 4], [4, 1, 2, 3, 1], [3, 4, 4, 4, 4]][seed as usize % 3];
        let mut net = sharded(seed, &shards, LinkConfig::clean(millis(10)));
        want(&mut net, 3, false);
        // The origin's lanes to friends of other shards may take a second attempt, and its keeper a pause.
        let mut seconds = 0;
        while counter(&mut net, 0, "circuit_pongs") == 0 && seconds < 60 {
            net.run_for(Duration::from_secs(1));
            seconds += 1;
        }
        assert_eq!(
            (counts(&mut net, "circuits_opened"), counts(&mut net, "circuit_builds_foreign")),
            (vec![1, 0, 0, 0, 0], vec![0; 5]),
            "seed {seed}: {:?}",
            warnings(&net, 0)
        );
        assert!(counts(&mut net, "circuit_pongs")[0] >= 1, "seed {seed}");
        assert!(counts(&mut net, "circuit_pings")[4] >= 1, "seed {seed}: the exit heard it");
        // Lanes and sessions on the way are kept for as long as the circuit goes over them.
        net.run_for(Duration::from_secs(300));
        assert!(
            !warnings(&net, 0).iter().any(|text| text.contains("circuit ended")),
            "{:?}",
            warnings(&net, 0)
        );
        assert_eq!(counts(&mut net, "circuits_opened")[0], 1, "seed {seed}: {:?}", warnings(&net, 0));
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), SEND_BUFFERS, "seed {seed}");
        }
    }
}

#[test]
fn a_lost_relay_is_gone_around() {
    let mut net = neighbours(3, LinkConfig::clean(millis(10)));
    // With one of two friends gone, the other is the only first hop: aloud.
    want(&mut net, 2, true);
    net.run_for(Duration::from_secs(3));
    let relayed = counts(&mut net, "circuits_relayed");
    let first = (1..3).find(|node| relayed[*node] == 1).expect("a first hop");
    net.part(&[first], &[0, 3 - first, 3, 4]);
    let again = |net: &mut Net| counter(net, 0, "circuits_opened");
    let mut seconds = 0;
    while again(&mut net) < 2 && seconds < 180 {
        net.run_for(Duration::from_secs(1));
        seconds += 1;
    }
    assert!(seconds <= CIRCUIT_IDLE_MS_MAX / 1000 + 10, "{:?}", warnings(&net, 0));
    assert!(warnings(&net, 0).iter().any(|text| text.contains("circuit ended")));
}

#[test]
fn rules_are_kept_and_refusals_are_said() {
    let mut net = neighbours(4, LinkConfig::clean(millis(10)));
    // One friend is too few.
    net.befriend(0, &[1]);
    want(&mut net, 3, false);
    net.run_for(Duration::from_secs(3));
    assert!(warnings(&net, 0).iter().any(|text| text.contains("--force")), "{:?}", warnings(&net, 0));
    // No exit any more.
    net.command(0, Command::Circuit(None));
    net.befriend(0, &[1, 2]);
    net.command(4, Command::Relay(CircuitRules::default()));
    net.run_for(Duration::from_secs(10));
    want(&mut net, 3, false);
    net.run_for(Duration::from_secs(3));
    assert!(warnings(&net, 0).iter().any(|text| text.contains("exit")), "{:?}", warnings(&net, 0));
    // Whoever does not relay is not asked.
    net.command(0, Command::Circuit(None));
    exit(&mut net, 4, &["0.0.0.0/0"]);
    for node in [1, 2] {
        net.command(node, Command::Relay(CircuitRules { relay: false, ..CircuitRules::default() }));
    }
    net.run_for(Duration::from_secs(10));
    want(&mut net, 3, true);
    net.run_for(Duration::from_secs(3));
    assert_eq!(counts(&mut net, "circuits_relayed"), [0; 5]);
}

#[test]
fn a_bad_network_delays_and_ends_nothing() {
    let mut ended = Vec::new();
    for seed in 5..11 {
        let mut net = neighbours(seed, LinkConfig::clean(millis(20)));
        want(&mut net, 3, false);
        net.run_for(Duration::from_secs(3));
        net.change_all(|link| link.noise = Noise::Independent(0.05));
        // Longer than a session lasts in which one side says nothing.
        net.run_for(Duration::from_secs(400));
        assert_eq!(counts(&mut net, "circuit_cells_forged"), [0; 5]);
        let opened = counts(&mut net, "circuits_opened")[0];
        let said = warnings(&net, 0);
        if opened > 2 || said.iter().any(|text| text.contains("circuit ended")) {
            ended.push((seed, opened, said.join("; ")));
        }
    }
    // Of four pings to and fro over three hops all are lost once in two hundred times: one of six may be given up.
    assert!(ended.len() <= 1, "{ended:?}");
}

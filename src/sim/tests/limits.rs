//! Nodes with limits: what leaves and what is asked for, on the wire, in any window.

use super::*;
use crate::base::Time;
use crate::node::command::{NodeLimits, PeerLimits};

pub(super) fn limit(net: &mut Net, node: usize, limits: NodeLimits) {
    net.command(node, Command::Limits(Box::new(limits)));
}

/// Bytes on the wire (IPv4) that a node sent, or received.
pub(super) fn wire(net: &mut Net, node: usize, way: &str) -> u64 {
    let snapshot = status(net, node);
    let of = |name: &str| {
        let full = format!("node_{name}_{way}");
        snapshot.counters.iter().find(|(known, ..)| *known == full).map_or(0, |(.., value)| *value)
    };
    of("bytes") + 28 * of("datagrams")
}

/// Runs until a job is done, and checks each window of `step` against the rate: at most that and a burst.
fn watch(
    net: &mut Net,
    node: usize,
    way: &str,
    rate: u64,
    burst: u64,
    step: Duration,
    job: u64,
) -> (Duration, u64) {
    let (begin, before) = (net.now, wire(net, node, way));
    let mut last = before;
    while outcome(net, 1, job).is_none() {
        net.run_for(step);
        let now = wire(net, node, way);
        let most = rate as f64 / 8.0 * step.as_secs_f64() + burst as f64;
        assert!((now - last) as f64 <= most, "{} bytes in {step:?}, {most} are allowed", now - last);
        last = now;
        assert!(net.now < Time::from_millis(600_000), "it ends");
    }
    (net.now.since(begin), last - before)
}

fn pair(seed: u64) -> (Net, Tree, Reference) {
    let mut net = Net::new(seed, 2, LinkConfig::clean(millis(5)));
    let tree = tree(seed);
    let reference = put(&mut net, &[0], &tree);
    (net, tree, reference)
}

/// The rate that a transfer had must be the limit, within two in a hundred and what a beginning costs.
fn assert_full(took: Duration, bytes: u64, rate: u64) {
    let got = bytes as f64 * 8.0 / (took.as_secs_f64() - 0.15);
    assert!((0.98..1.12).contains(&(got / rate as f64)), "{got} of {rate} in {took:?}");
}

#[test]
fn what_leaves_keeps_the_nodes_rate_in_every_window() {
    let (mut net, tree, reference) = pair(401);
    let rate = 8_000_000;
    limit(&mut net, 0, NodeLimits { up: Some(rate), ..NodeLimits::default() });
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    let (took, bytes) = watch(&mut net, 0, "sent", rate, 5_000, millis(10), 1);
    assert_full(took, bytes, rate);
    assert_eq!(outcome(&net, 1, 1), Some(Ok(())));
    assert_restored(&net, 1, &tree);
}

#[test]
fn a_peers_cap_holds_and_changes_at_once() {
    let (mut net, _, reference) = pair(402);
    let node = net.card(1).node_id();
    let capped = |up: u64| NodeLimits {
        peers: vec![(node, PeerLimits { up: Some(up), ..PeerLimits::default() })],
        ..NodeLimits::default()
    };
    limit(&mut net, 0, capped(2_000_000));
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    net.run_for(Duration::from_secs(1));
    for rate in [2_000_000, 16_000_000, 400_000] {
        limit(&mut net, 0, capped(rate));
        let before = wire(&mut net, 0, "sent");
        net.run_for(Duration::from_millis(500));
        let got = (wire(&mut net, 0, "sent") - before) as f64 * 16.0;
        // 500 ms, and a packet or two at the edges.
        assert!((got - rate as f64).abs() < rate as f64 * 0.02 + 3_040.0 * 16.0, "{got} at {rate}");
    }
    let peer = &status(&mut net, 0).peers[0];
    assert_eq!((peer.shaped.cap, peer.shaped.waiting), (Some(400_000), true));
    limit(&mut net, 0, NodeLimits::default());
    assert_eq!(finish(&mut net, 1, 1, 10), Ok(()));
}

#[test]
fn what_comes_is_limited_by_what_is_asked_for() {
    for (per_peer, rate) in [(false, 8_000_000), (true, 8_000_000), (false, 1_000_000)] {
        let (mut net, tree, reference) = pair(403);
        let node = net.card(0).node_id();
        let peers = vec![(node, PeerLimits { down: Some(rate), ..PeerLimits::default() })];
        let limits = if per_peer {
            NodeLimits { peers, ..NodeLimits::default() }
        } else {
            NodeLimits { down: Some(rate), ..NodeLimits::default() }
        };
        limit(&mut net, 1, limits);
        net.befriend(1, &[0]);
        get(&mut net, 1, 1, &reference, &[]);
        // An answer is a burst: of a slice, and of another that was asked for when the first had just left.
        let (took, bytes) = watch(&mut net, 1, "received", rate, 3 * 68_000, millis(100), 1);
        assert_full(took, bytes, rate);
        assert_restored(&net, 1, &tree);
    }
}

#[test]
fn acknowledgements_are_not_held_up_by_what_is_served() {
    let (mut net, _, reference) = pair(404);
    let other = put(&mut net, &[1], &tree(405));
    // Both serve each other; the first may send little, and still gets what it asks for at full speed.
    limit(&mut net, 0, NodeLimits { up: Some(2_000_000), ..NodeLimits::default() });
    net.befriend(1, &[0]);
    net.befriend(0, &[1]);
    net.run_for(Duration::from_secs(2));
    get(&mut net, 1, 1, &reference, &[]);
    net.run_for(Duration::from_secs(1));
    let (begin, request) = (net.now, 2);
    get(&mut net, 0, request, &other, &[]);
    assert_eq!(finish(&mut net, 0, request, 60), Ok(()));
    let took = net.now.since(begin);
    // At the rate of the upload it would be 13 s. Requests are data, and wait for their stream's turn.
    assert!(took < Duration::from_secs(6), "3.3 MB took {took:?} beside an upload at its limit");
    let classes = status(&mut net, 0).classes;
    let control = &classes.iter().find(|(class, _)| class.name() == "control").expect("there").1;
    assert!(control.sent_bytes > 0, "they leave by themselves");
}

/// Three shards serve at once, and ask at once: their rates are the node's.
#[test]
fn the_shards_of_a_node_keep_its_rate_together() {
    let mut net = Net::new(406, 0, LinkConfig::clean(millis(5)));
    for _ in 0..2 {
        let node = net.add_node();
        net.set_shards(node, 3);
    }
    let tree = tree(406);
    let reference = put(&mut net, &[0], &tree);
    (0..2).for_each(|node| net.start(node));
    let rate = 12_000_000;
    limit(&mut net, 0, NodeLimits { up: Some(rate), ..NodeLimits::default() });
    limit(&mut net, 1, NodeLimits { down: Some(40_000_000), ..NodeLimits::default() });
    net.befriend(1, &[0]);
    for job in 0..3 {
        get_apart(&mut net, job, &reference);
    }
    // Long enough to be under way on all shards, and short enough that none is done.
    net.run_for(Duration::from_secs(1));
    let mut before = wire(&mut net, 0, "sent");
    let (begin, mut total) = (net.now, 0);
    for _ in 0..30 {
        net.run_for(millis(100));
        let now = wire(&mut net, 0, "sent");
        let most = rate as f64 / 8.0 * 0.1 + 2.0 * 6_080.0;
        assert!((now - before) as f64 <= most, "{} bytes in 100 ms, {most} are allowed", now - before);
        total += now - before;
        before = now;
    }
    let got = total as f64 * 8.0 / net.now.since(begin).as_secs_f64();
    assert!((0.97..1.01).contains(&(got / rate as f64)), "{got} of {rate}");
    (0..3).for_each(|job| assert_eq!(finish(&mut net, 1, job, 60), Ok(()), "job {job}"));
}

//! Limits of a single peer when both nodes have several shards: its lanes keep to them together, and one alone has all.

use super::limits::{limit, wire};
use super::*;
use crate::node::command::{NodeLimits, PeerLimits};
use crate::shape::Reservation;

/// Two friends of so many shards; the first has the content.
fn friends(seed: u64, shards: [u8; 2]) -> (Net, Reference) {
    let mut net = Net::new(seed, 0, LinkConfig::clean(millis(5)));
    for count in shards {
        let node = net.add_node();
        net.set_shards(node, count);
    }
    let reference = put(&mut net, &[0], &tree(seed));
    (0..2).for_each(|node| net.start(node));
    (net, reference)
}

fn of_peer(net: &Net, peer: usize, limits: PeerLimits) -> NodeLimits {
    NodeLimits { peers: vec![(net.card(peer).node_id(), limits)], ..NodeLimits::default() }
}

/// What a node's bytes on the wire came to in so many tenths of a second, each of which is checked: bits per second.
fn rate_of(net: &mut Net, node: usize, way: &str, tenths: u64, most: u64, burst: u64) -> f64 {
    let (mut before, mut total) = (wire(net, node, way), 0);
    for _ in 0..tenths {
        net.run_for(millis(100));
        let now = wire(net, node, way);
        let allowed = most / 80 + burst;
        assert!(now - before <= allowed, "seed {}: {} bytes in 100 ms of {allowed}", net.seed, now - before);
        total += now - before;
        before = now;
    }
    total as f64 * 80.0 / tenths as f64
}

#[test]
fn lanes_of_a_peer_keep_its_cap_together_and_one_alone_has_all_of_it() {
    for (seed, shards) in [(701, [2, 3]), (702, [3, 1]), (703, [4, 4]), (704, [1, 3])] {
        let (mut net, reference) = friends(seed, shards);
        let cap = 8_000_000;
        let capped = of_peer(&net, 1, PeerLimits { up: Some(cap), ..PeerLimits::default() });
        limit(&mut net, 0, capped);
        net.befriend(1, &[0]);
        let jobs = u64::from(shards[1]);
        for all in [1, jobs] {
            for job in 0..all {
                get_apart(&mut net, 10 * all + job, &reference);
            }
            net.run_for(millis(1000));
            // What a lane was lent and a burst of it.
            let burst = 10_000 * jobs;
            let got = rate_of(&mut net, 0, "sent", 15, cap, burst) / cap as f64;
            assert!((0.97..1.02).contains(&got), "seed {seed}, {all} lanes: {got} of the cap");
            for job in 0..all {
                assert_eq!(finish(&mut net, 1, 10 * all + job, 60), Ok(()), "seed {seed}, job {job}");
            }
        }
    }
}

/// A cap that comes while all lanes are at full speed holds at once, on all of them, and nothing fails.
#[test]
fn a_cap_that_comes_in_mid_transfer_holds_on_all_lanes() {
    let (mut net, reference) = friends(711, [3, 3]);
    let capped = of_peer(&net, 1, PeerLimits { up: Some(4_000_000), ..PeerLimits::default() });
    limit(&mut net, 0, NodeLimits { up: Some(30_000_000), ..NodeLimits::default() });
    net.befriend(1, &[0]);
    (0..3).for_each(|job| get_apart(&mut net, job, &reference));
    net.run_for(millis(700));
    limit(&mut net, 0, capped);
    net.run_for(millis(300));
    let got = rate_of(&mut net, 0, "sent", 20, 4_000_000, 30_000) / 4e6;
    assert!((0.97..1.02).contains(&got), "{got} of the cap");
    limit(&mut net, 0, NodeLimits::default());
    (0..3).for_each(|job| assert_eq!(finish(&mut net, 1, job, 60), Ok(()), "job {job}"));
}

#[test]
fn what_a_peer_is_asked_for_by_all_shards_is_its_limit() {
    for (seed, jobs) in [(721, 1), (722, 3)] {
        let (mut net, reference) = friends(seed, [2, 3]);
        let down = 8_000_000;
        let limited = of_peer(&net, 0, PeerLimits { down: Some(down), ..PeerLimits::default() });
        limit(&mut net, 1, limited);
        net.befriend(1, &[0]);
        (0..jobs).for_each(|job| get_apart(&mut net, job, &reference));
        net.run_for(millis(900));
        // Answers are bursts of a slice; each shard may have one under way.
        let got = rate_of(&mut net, 1, "received", 20, down, 4 * 70_000) / down as f64;
        assert!((0.93..1.05).contains(&got), "seed {seed}, {jobs} shards ask: {got}");
        (0..jobs).for_each(|job| assert_eq!(finish(&mut net, 1, job, 60), Ok(()), "job {job}"));
    }
}

/// Whichever shard a friend's lane came to before, what is promised to the friend is kept to on it.
#[test]
fn a_floor_holds_for_a_peer_whose_lane_was_elsewhere() {
    let mut net = Net::new(731, 0, LinkConfig::clean(millis(5)));
    for count in [3, 3, 1] {
        let node = net.add_node();
        net.set_shards(node, count);
    }
    let reference = put(&mut net, &[0], &tree(731));
    (0..3).for_each(|node| net.start(node));
    let line = NodeLimits { up: Some(10_000_000), ..NodeLimits::default() };
    limit(&mut net, 0, line.clone());
    net.befriend(1, &[0]);
    net.befriend(2, &[0]);
    let received = |net: &mut Net, node: usize| wire(net, node, "received");
    get_apart(&mut net, 1, &reference);
    get(&mut net, 2, 2, &reference, &[]);
    net.run_for(millis(600));
    // The first is worth next to nothing, but for its floor.
    let floor = PeerLimits { floor: Some(6_000_000), weight: Some(1), ..PeerLimits::default() };
    let heavy = PeerLimits { weight: Some(100), ..PeerLimits::default() };
    let peers = vec![(net.card(1).node_id(), floor), (net.card(2).node_id(), heavy)];
    limit(&mut net, 0, NodeLimits { peers, ..line });
    net.run_for(millis(400));
    let before = received(&mut net, 1);
    net.run_for(Duration::from_secs(2));
    let got = (received(&mut net, 1) - before) as f64 * 4.0 / 6e6;
    assert!((0.97..1.2).contains(&got), "{got} of its floor");
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_eq!(outcome(&net, 2, 2).or_else(|| Some(finish(&mut net, 2, 2, 60))), Some(Ok(())));
}

/// Found by a reader: of two lanes that asked for what there is at the same time, the same one was always first.
#[test]
fn no_lane_of_a_peer_waits_while_others_have_its_cap() {
    let (mut net, reference) = friends(741, [1, 3]);
    let cap = 8_000_000;
    let capped = of_peer(&net, 1, PeerLimits { up: Some(cap), ..PeerLimits::default() });
    limit(&mut net, 0, capped);
    net.befriend(1, &[0]);
    (0..3).for_each(|job| get_apart(&mut net, job, &reference));
    net.run_for(Duration::from_secs(3));
    let fetched: Vec<u64> = net.nodes[1].progress.values().map(|one| one.bytes_fetched).collect();
    let all: u64 = fetched.iter().sum();
    assert!(fetched.len() == 3 && fetched.iter().all(|own| *own > all / 6), "{fetched:?}");
    (0..3).for_each(|job| assert_eq!(finish(&mut net, 1, job, 60), Ok(()), "job {job}"));
}

/// A cap, a floor and a promise on a lane that borrows all three.
#[test]
fn a_peer_with_a_cap_a_floor_and_a_promise_gets_its_cap_on_any_lane() {
    let (mut net, reference) = friends(751, [2, 3]);
    let cap = 4_000_000;
    let reservation = Reservation { rate: 1_000_000, burst: 6_000, delay: millis(20) };
    let own = PeerLimits {
        up: Some(cap),
        floor: Some(2_000_000),
        reserved: Some(reservation),
        ..PeerLimits::default()
    };
    let limits = NodeLimits { up: Some(20_000_000), ..of_peer(&net, 1, own) };
    limit(&mut net, 0, limits);
    net.befriend(1, &[0]);
    (0..3).for_each(|job| get_apart(&mut net, job, &reference));
    net.run_for(millis(1000));
    let got = rate_of(&mut net, 0, "sent", 20, cap, 40_000) / cap as f64;
    assert!((0.97..1.02).contains(&got), "{got} of the cap");
}

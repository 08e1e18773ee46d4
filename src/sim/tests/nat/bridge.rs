//! Nodes in networks that block UDP, and bridges to their friends.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{assert_restored, finish, get, put, tree};
use crate::base::bridge::{OWN, is_bridged};
use crate::node::Command;
use crate::node::command::Friend;
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;

const SEEDS: u64 = 5;
const DELAY: Duration = Duration::from_millis(10);
/// A handshake that is not answered, and one that is.
const CONNECTED: Duration = Duration::from_secs(4);
/// What a session may take to find that UDP gets through again, or does not any more.
const MOVED: Duration = Duration::from_secs(130);

/// Node 1 knows node 0 as a friend that has a bridge.
fn pair(seed: u64) -> Net {
    let mut net = Net::new(seed, 2, LinkConfig::clean(DELAY));
    befriend(&mut net, true);
    net
}

fn befriend(net: &mut Net, by_udp: bool) {
    let bridge = Some(net.bridge(1, 0, 1));
    let mut friend = friend(net, 0, bridge);
    friend.addresses.retain(|_| by_udp);
    net.command(1, Command::Friends(vec![friend]));
    net.befriend(0, &[1]);
}

/// A node as others know it, with a bridge or without.
fn friend(net: &Net, node: usize, bridge: Option<SocketAddr>) -> Friend {
    let addresses = vec![net.nodes[node].address()];
    Friend { card: net.card(node), addresses, bridge, trust: 50, introduce: true }
}

fn node(net: &Net, index: usize) -> &crate::node::Node {
    net.nodes[index].node().expect("it runs")
}

fn are_connected(net: &Net) -> bool {
    [0, 1].iter().all(|index| node(net, *index).friends_connected() == 1)
}

fn are_bridged(net: &Net, bridged: bool) -> bool {
    are_connected(net) && [0, 1].iter().all(|index| (node(net, *index).relayed() > 0) == bridged)
}

fn assert_linked(net: &mut Net, bridged: bool) {
    let seed = net.seed;
    assert!(net.run_until(CONNECTED, |net| are_bridged(net, bridged)), "seed {seed}: no session");
}

/// The session goes to the bridge, or off it, and does not end on the way.
fn assert_moves(net: &mut Net, bridged: bool) {
    let mut stays = true;
    let moved = net.run_until(MOVED, |net| {
        stays &= are_connected(net);
        are_bridged(net, bridged)
    });
    assert!(moved && stays, "seed {}, bridged {bridged}: {moved}, {stays}", net.seed);
}

/// Content passes between two.
fn assert_usable(net: &mut Net, from: usize, to: usize, job: u64) {
    let tree = tree(net.seed + job);
    let reference = put(net, &[from], &tree);
    get(net, to, job, &reference, &[]);
    assert_eq!(finish(net, to, job, 120), Ok(()), "seed {}", net.seed);
    assert_restored(net, to, &tree);
}

#[test]
fn a_bridge_carries_while_udp_is_blocked_and_udp_does_when_it_is_not() {
    for seed in 1..=SEEDS {
        let mut net = pair(seed);
        net.block(1, true);
        assert_linked(&mut net, true);
        assert_usable(&mut net, 0, 1, 1);
        net.block(1, false);
        assert_moves(&mut net, false);
        net.block(1, true);
        assert_moves(&mut net, true);
        assert_usable(&mut net, 1, 0, 2);
    }
}

#[test]
fn a_session_that_began_by_udp_goes_on_by_the_bridge() {
    for seed in 1..=SEEDS {
        let mut net = pair(seed);
        assert_linked(&mut net, false);
        assert_usable(&mut net, 0, 1, 1);
        net.block(1, true);
        assert_moves(&mut net, true);
        assert_usable(&mut net, 0, 1, 2);
    }
}

#[test]
fn a_bridge_is_not_used_where_udp_gets_through() {
    let mut net = pair(1);
    net.wire = Some(Default::default());
    assert_linked(&mut net, false);
    assert_usable(&mut net, 0, 1, 1);
    net.run_for(Duration::from_secs(120));
    let wire = net.wire.take().expect("kept");
    assert!(!wire.keys().any(|(source, _)| is_bridged(source)), "{:?}", wire.keys());
}

#[test]
fn a_friend_may_have_nothing_but_a_bridge() {
    let mut net = Net::new(1, 2, LinkConfig::clean(DELAY));
    net.block(1, true);
    befriend(&mut net, false);
    assert_linked(&mut net, true);
    assert_usable(&mut net, 0, 1, 1);
}

#[test]
fn a_guest_that_comes_anew_is_followed() {
    for seed in 1..=SEEDS {
        let mut net = pair(seed);
        net.block(1, true);
        assert_linked(&mut net, true);
        for number in 2..5 {
            net.bridge(1, 0, number);
            assert_usable(&mut net, 0, 1, number.into());
            assert!(are_bridged(&net, true), "seed {seed}");
        }
    }
}

/// Found by the end-to-end case: who has the bridge cannot call, and its guest waited for the old session's end.
#[test]
fn who_has_the_bridge_and_begins_anew_is_called_soon() {
    for seed in 1..=SEEDS {
        let mut net = pair(seed);
        net.block(1, true);
        assert_linked(&mut net, true);
        net.restart(0);
        assert!(!are_connected(&net));
        let keepalive = Duration::from_millis(crate::limits::KEEPALIVE_MS);
        let soon = keepalive + Duration::from_millis(2 * crate::limits::DIRECT_SILENT_MS) + CONNECTED;
        assert!(soon < Duration::from_millis(crate::limits::SESSION_IDLE_MS_MAX));
        assert!(net.run_until(soon, |net| are_bridged(net, true)), "seed {seed}: not called");
        assert_usable(&mut net, 1, 0, 1);
    }
}

/// Node 0 as a friend of node 1, by UDP and by a bridge at such a port, or by none.
fn know(net: &mut Net, port: Option<u16>) {
    let friend = friend(net, 0, port.map(|port| (OWN, port).into()));
    net.command(1, Command::Friends(vec![friend]));
}

/// The first bridge that a session knew stayed its spare path, whatever the operator said later.
#[test]
fn another_bridge_takes_the_place_of_a_friends_first_one() {
    for (seed, bridged) in (1..=SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut net = Net::new(seed, 2, LinkConfig::clean(DELAY));
        let second = net.bridge(1, 0, 1).port();
        know(&mut net, if bridged { Some(second) } else { Some(second + 1000) });
        net.befriend(0, &[1]);
        net.block(1, bridged);
        assert_linked(&mut net, bridged);
        if bridged {
            // What carries the session now leads nowhere, and another does.
            net.end_bridge(1, (OWN, second).into());
            let third = net.bridge_at(1, 0, 2, second + 500);
            know(&mut net, Some(third.port()));
        } else {
            know(&mut net, Some(second));
            net.block(1, true);
        }
        assert_moves(&mut net, true);
        assert_usable(&mut net, 0, 1, 1);
    }
}

#[test]
fn a_bridge_that_was_taken_away_is_not_used() {
    for seed in 1..=SEEDS {
        let mut net = pair(seed);
        assert_linked(&mut net, false);
        know(&mut net, None);
        net.wire = Some(Default::default());
        net.block(1, true);
        net.run_for(MOVED);
        let wire = net.wire.take().expect("kept");
        assert!(!wire.keys().any(|(source, to)| is_bridged(source) || is_bridged(to)), "seed {seed}");
    }
}

#[test]
fn a_guest_reaches_its_friends_friend_through_that_friend() {
    for seed in 1..=SEEDS {
        let mut net = Net::new(seed, 3, LinkConfig::clean(DELAY));
        net.block(1, true);
        let bridge = Some(net.bridge(1, 0, 1));
        let friends = vec![friend(&net, 0, bridge), friend(&net, 2, None)];
        net.command(1, Command::Friends(friends));
        net.befriend(0, &[1, 2]);
        net.befriend(2, &[0, 1]);
        let met = |net: &Net| [0, 1, 2].iter().all(|index| node(net, *index).friends_connected() == 2);
        assert!(net.run_until(MOVED, met), "seed {seed}: no session");
        assert_eq!((node(&net, 2).relayed(), node(&net, 1).relayed()), (1, 2), "seed {seed}");
        assert_usable(&mut net, 2, 1, 1);
    }
}

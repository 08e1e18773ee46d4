//! The network: what is put on one node is got on another that is no friend of it.

use std::time::Duration;

use super::{assert_restored, finish, get, lossy, millis, put, tree};
use crate::limits::PROVIDE_BATCH;
use crate::node::Command;
use crate::node::command::{OverlayRules, Report, Snapshot};
use crate::sim::Crash;
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;
use crate::wire::reference::Reference;

/// What a node of the network is told that may enter by others.
pub(super) fn rules(net: &Net, node: usize, entries: &[usize]) -> OverlayRules {
    let entry = |&index: &usize| (net.card(index), vec![net.nodes[index].address()]);
    OverlayRules {
        enabled: true,
        network: "test".into(),
        addresses: vec![net.nodes[node].address()],
        bootstrap: entries.iter().map(entry).collect(),
        far: false,
        serve_strangers: true,
        keep: Some(1 << 30),
    }
}

pub(super) fn join(net: &mut Net, node: usize, entries: &[usize]) {
    let rules = rules(net, node, entries);
    net.command(node, Command::Overlay(Box::new(rules)));
}

/// Time passes.
pub(super) fn rest(net: &mut Net, time: Duration) {
    net.run_until(time, |_| false);
}

/// Nodes that all enter by one or two that came before.
pub(super) fn network(seed: u64, shards: &[u8], link: LinkConfig) -> Net {
    let mut net = Net::with_shards(seed, shards, link);
    for node in 0..shards.len() {
        let entries: Vec<usize> = [node / 2, node / 3].into_iter().filter(|entry| *entry < node).collect();
        join(&mut net, node, &entries);
    }
    rest(&mut net, Duration::from_secs(20));
    net
}

/// Puts on a node, which provides it.
pub(super) fn provide(net: &mut Net, node: usize, number: u64) -> (super::Tree, Reference) {
    let tree = tree(number);
    let reference = put(net, &[node], &tree);
    for batch in net.nodes[node].world.store.ids().chunks(PROVIDE_BATCH) {
        net.command(node, Command::Provide(batch.to_vec()));
    }
    (tree, reference)
}

pub(super) fn status(net: &mut Net, node: usize, token: u64) -> Snapshot {
    net.command(node, Command::Status { token });
    rest(net, millis(1));
    let mut all = Snapshot::default();
    let reports = std::mem::take(&mut net.nodes[node].reports);
    for report in reports {
        match report {
            Report::Status(of, snapshot) if of == token => all.add(*snapshot),
            other => net.nodes[node].reports.push(other),
        }
    }
    all
}

pub(super) fn counter(snapshot: &Snapshot, name: &str) -> u64 {
    snapshot.counters.iter().find(|(one, ..)| *one == name).map_or(0, |(.., value)| *value)
}

#[test]
fn what_a_stranger_put_is_found_and_got() {
    let mut net = Net::new(70, 2, LinkConfig::clean(millis(5)));
    join(&mut net, 0, &[]);
    join(&mut net, 1, &[0]);
    let (tree, reference) = provide(&mut net, 0, 70);
    rest(&mut net, Duration::from_secs(10));
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    let shown = status(&mut net, 0, 9).overlay.expect("it takes part");
    assert!(shown.contacts == 1 && shown.provided > 2 && shown.announced == shown.provided, "{shown:?}");
}

#[test]
fn any_node_of_a_network_gets_what_any_other_put() {
    let mut net = network(71, &[1; 24], lossy(0.01));
    let (tree, reference) = provide(&mut net, 7, 71);
    rest(&mut net, Duration::from_secs(30));
    for node in [0, 3, 12, 23] {
        get(&mut net, node, 1, &reference, &[]);
        assert_eq!(finish(&mut net, node, 1, 120), Ok(()), "node {node}");
        assert_restored(&net, node, &tree);
    }
    let shown = status(&mut net, 23, 9);
    assert!(counter(&shown, "overlay_lookups_found") > 0 && counter(&shown, "gets_done") == 1);
}

#[test]
fn shards_do_not_stand_in_the_way() {
    let mut net = network(72, &[3, 1, 2, 4, 2, 1, 3, 2], LinkConfig::clean(millis(5)));
    let (tree, reference) = provide(&mut net, 3, 72);
    rest(&mut net, Duration::from_secs(20));
    for node in [0, 2, 4, 6] {
        // Shards take turns with jobs.
        for job in 1..3 {
            super::get_into(&mut net, node, job, &reference, &[], format!("/out{job}"));
            assert_eq!(finish(&mut net, node, job, 120), Ok(()), "node {node}, job {job}");
        }
        get(&mut net, node, 3, &reference, &[]);
        assert_eq!(finish(&mut net, node, 3, 120), Ok(()));
        assert_restored(&net, node, &tree);
    }
}

#[test]
fn what_nobody_provides_ends_the_get_in_time() {
    let mut net = network(73, &[1; 6], LinkConfig::clean(millis(5)));
    let reference = {
        let mut elsewhere = Net::new(1, 1, LinkConfig::clean(millis(1)));
        put(&mut elsewhere, &[0], &tree(73))
    };
    get(&mut net, 5, 1, &reference, &[]);
    let why = finish(&mut net, 5, 1, 60).unwrap_err();
    assert!(why.contains("the network names nobody"), "{why}");
}

#[test]
fn nodes_of_other_networks_understand_nothing_and_friends_stay_friends() {
    let mut net = Net::new(74, 3, LinkConfig::clean(millis(5)));
    join(&mut net, 0, &[]);
    for node in [1, 2] {
        let mut other = rules(&net, node, &[0]);
        other.network = "other".into();
        net.command(node, Command::Overlay(Box::new(other)));
    }
    net.befriend(1, &[0]);
    net.befriend(0, &[1]);
    let (tree, reference) = provide(&mut net, 0, 74);
    rest(&mut net, Duration::from_secs(10));
    let shown = status(&mut net, 0, 9);
    assert_eq!((shown.overlay.expect("on").contacts, counter(&shown, "overlay_served")), (0, 0));
    assert!(counter(&shown, "overlay_foreign") > 0);
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()), "friends are served");
    assert_restored(&net, 1, &tree);
    get(&mut net, 2, 1, &reference, &[]);
    let why = finish(&mut net, 2, 1, 120).unwrap_err();
    assert!(why.contains("the network names nobody"), "{why}");
}

#[test]
fn a_node_that_does_not_serve_strangers_serves_friends_alone() {
    let mut net = Net::new(75, 3, LinkConfig::clean(millis(5)));
    let closed = OverlayRules { serve_strangers: false, ..rules(&net, 0, &[]) };
    net.command(0, Command::Overlay(Box::new(closed)));
    join(&mut net, 1, &[0]);
    join(&mut net, 2, &[0]);
    net.befriend(0, &[1]);
    net.befriend(1, &[0]);
    let (tree, reference) = provide(&mut net, 0, 75);
    rest(&mut net, Duration::from_secs(10));
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    // Found by review: it announced to everybody what it refuses to everybody.
    assert_eq!(status(&mut net, 0, 9).overlay.expect("it takes part").provided, 0);
    get(&mut net, 2, 1, &reference, &[]);
    let why = finish(&mut net, 2, 1, 120).unwrap_err();
    assert!(why.contains("the network names nobody"), "{why}");
    // What it served to all is withdrawn when it serves all no more.
    net.command(0, Command::Overlay(Box::new(rules(&net, 0, &[]))));
    for batch in net.nodes[0].world.store.ids().chunks(PROVIDE_BATCH) {
        net.command(0, Command::Provide(batch.to_vec()));
    }
    rest(&mut net, Duration::from_secs(10));
    assert!(status(&mut net, 0, 9).overlay.expect("it takes part").provided > 0);
    let closed = OverlayRules { serve_strangers: false, ..rules(&net, 0, &[]) };
    net.command(0, Command::Overlay(Box::new(closed)));
    rest(&mut net, Duration::from_secs(1));
    assert_eq!(status(&mut net, 0, 9).overlay.expect("it takes part").provided, 0);
    get(&mut net, 2, 2, &reference, &[]);
    assert!(finish(&mut net, 2, 2, 120).is_err());
    assert!(
        counter(&status(&mut net, 0, 9), "serve_refused") > 0,
        "records that others keep still lead here"
    );
}

#[test]
fn a_provider_that_lies_is_found_out_and_another_asked() {
    let mut net = network(76, &[1; 8], LinkConfig::clean(millis(5)));
    let tree = tree(76);
    let reference = put(&mut net, &[2, 5], &tree);
    for id in net.nodes[2].world.store.ids() {
        net.nodes[2].world.store.damage(&id, 100);
    }
    for node in [2, 5] {
        let ids = net.nodes[node].world.store.ids();
        net.command(node, Command::Provide(ids));
    }
    rest(&mut net, Duration::from_secs(20));
    get(&mut net, 7, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 7, 1, 120), Ok(()));
    assert_restored(&net, 7, &tree);
}

#[test]
fn a_network_of_which_half_goes_still_finds_what_is_there() {
    let mut net = network(77, &[1; 30], lossy(0.005));
    let (tree, reference) = provide(&mut net, 4, 77);
    rest(&mut net, Duration::from_secs(30));
    for node in (1..30).filter(|node| node % 2 == 1) {
        net.crash(node, Crash::Process);
    }
    for node in [0, 10, 28] {
        get(&mut net, node, 1, &reference, &[]);
        assert_eq!(finish(&mut net, node, 1, 180), Ok(()), "node {node}");
        assert_restored(&net, node, &tree);
    }
    // Those that come again enter by themselves, and provide what their disks have.
    net.crash(4, Crash::Process);
    for node in [1, 3, 5, 4] {
        net.start(node);
    }
    rest(&mut net, Duration::from_secs(60));
    get(&mut net, 5, 2, &reference, &[]);
    assert_eq!(finish(&mut net, 5, 2, 180), Ok(()));
}

#[test]
fn peers_that_were_met_are_told_and_bring_a_node_back() {
    let mut net = network(78, &[1; 12], LinkConfig::clean(millis(5)));
    rest(&mut net, Duration::from_secs(60));
    net.command(11, Command::Peers { after: None });
    rest(&mut net, millis(10));
    let told = net.nodes[11].reports.iter().rev().find_map(|report| match report {
        Report::Peers(known) => Some(known.clone()),
        _ => None,
    });
    let told = told.expect("an answer");
    assert!(told.len() > 5, "{}", told.len());
    let (_, reference) = provide(&mut net, 6, 78);
    rest(&mut net, Duration::from_secs(10));
    net.crash(11, Crash::Process);
    // As it would start with nothing but its saved peers: its entries are forgotten.
    join(&mut net, 11, &[]);
    net.start(11);
    net.command(11, Command::Restore(told));
    rest(&mut net, Duration::from_secs(10));
    get(&mut net, 11, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 11, 1, 120), Ok(()));
}

#[test]
fn sessions_that_nobody_needs_are_closed_and_friends_stay() {
    let mut net = network(79, &[1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1], LinkConfig::clean(millis(5)));
    net.befriend(3, &[4]);
    net.befriend(4, &[3]);
    rest(&mut net, Duration::from_secs(240));
    for node in [3, 8] {
        let shown = status(&mut net, node, 9);
        assert!(counter(&shown, "overlay_sessions_closed") > 0, "node {node}");
        let strangers = shown.peers.iter().filter(|peer| peer.connected && peer.trust.is_none()).count();
        let contacts = shown.overlay.expect("it takes part").contacts;
        assert!(contacts >= 8 && strangers < 6, "node {node}: {strangers} sessions, {contacts} contacts");
    }
    assert_eq!(net.nodes[3].nodes().map(crate::node::Node::friends_connected).sum::<usize>(), 1);
}

#[test]
fn a_friend_that_is_away_is_waited_for_as_long_as_without_the_network() {
    let mut net = network(80, &[1; 6], LinkConfig::clean(millis(5)));
    let reference = {
        let mut elsewhere = Net::new(1, 1, LinkConfig::clean(millis(1)));
        put(&mut elsewhere, &[0], &tree(80))
    };
    net.crash(4, Crash::Process);
    // Until the session that the overlay had with it has ended: a friend that seems to be there is no friend away.
    rest(&mut net, Duration::from_secs(90));
    net.befriend(5, &[4]);
    get(&mut net, 5, 1, &reference, &[]);
    let began = net.now;
    let why = finish(&mut net, 5, 1, 60).unwrap_err();
    assert!(why.contains("the network names nobody"), "{why}");
    assert!(net.now.since(began) < Duration::from_secs(40), "{:?}", net.now.since(began));
}

#[test]
fn chunks_are_found_from_far_too() {
    let mut net = network(81, &[1; 16], LinkConfig::clean(millis(5)));
    let far = OverlayRules { far: true, ..rules(&net, 15, &[0]) };
    net.command(15, Command::Overlay(Box::new(far)));
    let (tree, reference) = provide(&mut net, 9, 81);
    rest(&mut net, Duration::from_secs(20));
    get(&mut net, 15, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 15, 1, 120), Ok(()));
    assert_restored(&net, 15, &tree);
}

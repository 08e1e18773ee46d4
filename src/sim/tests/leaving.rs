//! Nodes that leave: what they publish is handed over, friends that need them have them stay, and others make do without them
//! before they are gone.

use std::time::Duration;

use super::limits::limit;
use super::overlay::{counter, join, network, provide, rest, rules, status};
use super::{assert_restored, finish, get, lossy, millis, outcome, put, tree};
use crate::limits::{HANDOVER_OPEN_MAX, LEAVING_SOON_MS, RECORD_S_MAX};
use crate::node::Command;
use crate::node::command::{
    HandoverSnapshot, IntentRules, IntentSnapshot, NodeLimits, OverlayRules, SaidToStay,
};
use crate::sim::Crash;
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;

const MINUTE: u64 = 60_000;

fn leave(net: &mut Net, node: usize, in_ms: u64) {
    net.command(node, Command::Leave(Some(in_ms)));
}

/// In how long a node leaves, milliseconds, and what it has handed over.
fn leaving(net: &mut Net, node: usize) -> (u64, HandoverSnapshot) {
    let leaving = status(net, node, 91).leaving.expect("it leaves");
    (leaving.in_ms, leaving.handover)
}

/// Runs until a node's time to leave has come, and ends it, as the daemon does.
fn until_it_leaves(net: &mut Net, node: usize) -> HandoverSnapshot {
    for _ in 0..100_000 {
        let (in_ms, handover) = leaving(net, node);
        if in_ms == 0 {
            net.stop(node);
            return handover;
        }
        rest(net, millis(in_ms.min(5_000)));
    }
    panic!("seed {}: it never goes", net.seed);
}

/// What `node` knows of what `peer` means to do.
fn intent(net: &mut Net, node: usize, peer: usize) -> IntentSnapshot {
    let key = net.card(peer).key;
    let snapshot = status(net, node, 92);
    let intents = snapshot.peers.iter().filter(|one| one.key == key && one.lane == 0).map(|one| one.intent);
    intents
        .max_by_key(|intent| (intent.leaves_in_s, intent.stays_s, intent.asked.is_some()))
        .unwrap_or_default()
}

/// Two friends, connected.
fn pair(seed: u64, link: LinkConfig) -> Net {
    let mut net = Net::new(seed, 2, link);
    net.befriend(0, &[1]);
    net.befriend(1, &[0]);
    rest(&mut net, Duration::from_secs(5));
    net
}

#[test]
fn what_a_node_publishes_outlives_it_when_it_leaves_and_not_when_it_is_killed() {
    for seed in 400..403 {
        for hands_over in [true, false] {
            let mut net = network(seed, &[1; 10], lossy(0.01));
            let (tree, reference) = provide(&mut net, 4, seed);
            let chunks = net.nodes[4].world.store.ids().len() as u64;
            net.nodes[4].world.store.cold = true;
            rest(&mut net, Duration::from_secs(20));
            if hands_over {
                leave(&mut net, 4, 2 * MINUTE);
                let handed = until_it_leaves(&mut net, 4);
                assert_eq!((handed.given, handed.short, handed.left), (chunks, 0, 0), "seed {seed}");
                assert!(handed.given_bytes > 3 << 20, "seed {seed}");
            } else {
                rest(&mut net, millis(2 * MINUTE));
                net.crash(4, Crash::Process);
            }
            rest(&mut net, Duration::from_secs(30));
            get(&mut net, 8, 1, &reference, &[]);
            let got = finish(&mut net, 8, 1, 240);
            assert_eq!(got.is_ok(), hands_over, "seed {seed}: {got:?}");
            if hands_over {
                assert_restored(&net, 8, &tree);
            }
        }
    }
}

#[test]
fn a_node_of_several_shards_hands_over_too() {
    let mut net = network(410, &[1, 2, 3, 1, 3, 2, 1, 2, 1, 3], LinkConfig::clean(millis(5)));
    let (tree, reference) = provide(&mut net, 4, 410);
    rest(&mut net, Duration::from_secs(20));
    leave(&mut net, 4, 3 * MINUTE);
    let handed = until_it_leaves(&mut net, 4);
    assert_eq!((handed.short, handed.left), (0, 0), "{handed:?}");
    rest(&mut net, Duration::from_secs(30));
    get(&mut net, 9, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 9, 1, 240), Ok(()));
    assert_restored(&net, 9, &tree);
}

#[test]
fn what_has_hosts_enough_is_not_handed_over_and_what_is_handed_over_waits_within_bounds() {
    let mut net = network(420, &[1; 8], LinkConfig::clean(millis(10)));
    let tree = tree(420);
    let holders = [2, 3, 5, 7];
    put(&mut net, &holders, &tree);
    for node in holders {
        let ids = net.nodes[node].world.store.ids();
        net.command(node, Command::Provide(ids));
    }
    let (_, _) = provide(&mut net, 2, 421);
    let all = net.nodes[2].world.store.ids().len() as u64;
    let own = all - net.nodes[3].world.store.ids().len() as u64;
    // They are looked after again within the hour, and then each knows of the others.
    rest(&mut net, Duration::from_secs(3_700));
    leave(&mut net, 2, 2 * MINUTE);
    let mut most = 0;
    for _ in 0..400 {
        rest(&mut net, millis(5));
        let open = net.nodes[2].node().expect("up").handing_over();
        most = most.max(open);
    }
    assert!((1..=HANDOVER_OPEN_MAX).contains(&most), "{most} at once");
    let handed = until_it_leaves(&mut net, 2);
    assert_eq!((handed.given, handed.short, handed.left), (own, 0, 0), "of {all}");
}

#[test]
fn what_there_is_no_time_for_is_told() {
    let mut net = network(430, &[1; 6], LinkConfig::clean(millis(10)));
    provide(&mut net, 1, 430);
    rest(&mut net, Duration::from_secs(10));
    limit(&mut net, 1, NodeLimits { up: Some(400_000), ..NodeLimits::default() });
    leave(&mut net, 1, 10_000);
    let handed = until_it_leaves(&mut net, 1);
    assert!(handed.left > 0, "{handed:?}");
}

#[test]
fn what_only_friends_are_given_is_handed_to_nobody() {
    let mut net = network(440, &[1; 6], LinkConfig::clean(millis(10)));
    let closed = OverlayRules { serve_strangers: false, ..rules(&net, 1, &[0]) };
    net.command(1, Command::Overlay(Box::new(closed)));
    provide(&mut net, 1, 440);
    rest(&mut net, Duration::from_secs(10));
    leave(&mut net, 1, 20_000);
    assert_eq!(until_it_leaves(&mut net, 1), HandoverSnapshot::default());
    assert!((0..6).filter(|node| *node != 1).all(|node| net.nodes[node].world.store.ids().is_empty()));
}

#[test]
fn a_node_that_stays_after_all_gives_nothing_more_away_and_keeps_again() {
    let mut net = network(450, &[1; 6], LinkConfig::clean(millis(10)));
    net.befriend(1, &[0]);
    net.befriend(0, &[1]);
    rest(&mut net, Duration::from_secs(5));
    leave(&mut net, 1, 2 * MINUTE);
    rest(&mut net, Duration::from_secs(3));
    assert!(intent(&mut net, 0, 1).leaves_in_s.is_some_and(|left| (110..=120).contains(&left)));
    net.command(1, Command::Leave(None));
    rest(&mut net, Duration::from_secs(3));
    assert_eq!(intent(&mut net, 0, 1).leaves_in_s, None);
    assert!(status(&mut net, 1, 9).leaving.is_none());
    // It is a node as any other again.
    let (tree, reference) = provide(&mut net, 0, 450);
    rest(&mut net, Duration::from_secs(10));
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
}

#[test]
fn friends_hear_how_long_a_node_stays_and_when_it_leaves_whatever_is_lost() {
    for seed in 460..464 {
        let mut net = pair(seed, LinkConfig::clean(millis(20)));
        net.change_all(|link| link.noise = crate::sim::link::Noise::Independent(0.3));
        net.command(0, Command::Online(Some(8 * 3600)));
        rest(&mut net, Duration::from_secs(40));
        let stays = intent(&mut net, 1, 0).stays_s.unwrap_or(0);
        assert!((8 * 3600 - 60..=8 * 3600).contains(&stays), "seed {seed}: {stays}");
        leave(&mut net, 0, 10 * MINUTE);
        rest(&mut net, Duration::from_secs(40));
        let left = intent(&mut net, 1, 0).leaves_in_s.unwrap_or(0);
        assert!((540..=562).contains(&left), "seed {seed}: {left}");
        // Ten more minutes, please.
        let peer = net.card(0).key;
        net.command(1, Command::AskStay { peer, more_s: 600 });
        rest(&mut net, Duration::from_secs(40));
        let asked = intent(&mut net, 1, 0).asked.expect("asked");
        assert_eq!(asked.said, SaidToStay::Granted, "seed {seed}");
        let (in_ms, _) = leaving(&mut net, 0);
        assert!((1_110_000..=1_130_000).contains(&in_ms), "seed {seed}: {in_ms}");
        let left = intent(&mut net, 1, 0).leaves_in_s.unwrap_or(0);
        assert!(left.abs_diff(in_ms / 1000) <= 2, "seed {seed}: {left}");
        // And no more.
        net.command(1, Command::AskStay { peer, more_s: 60 });
        rest(&mut net, Duration::from_secs(40));
        let asked = intent(&mut net, 1, 0).asked.expect("asked");
        assert_eq!(asked.said, SaidToStay::Less, "seed {seed}");
        assert!(asked.stays_s.is_some_and(|stays| stays <= 1_100), "seed {seed}: {asked:?}");
    }
}

#[test]
fn a_grant_holds_on_all_shards() {
    for seed in 470..474 {
        let mut net = Net::with_shards(seed, &[3, 2], LinkConfig::clean(millis(5)));
        net.befriend(0, &[1]);
        net.befriend(1, &[0]);
        rest(&mut net, Duration::from_secs(5));
        leave(&mut net, 0, 2 * MINUTE);
        rest(&mut net, Duration::from_secs(2));
        net.lose_crossings = 0.5;
        let peer = net.card(0).key;
        net.command(1, Command::AskStay { peer, more_s: 300 });
        rest(&mut net, Duration::from_secs(60));
        for shard in net.nodes[0].nodes() {
            let at = shard.leaves_at().expect("it leaves");
            assert!(at.since(net.now) > Duration::from_secs(350), "seed {seed}");
        }
    }
}

#[test]
fn a_get_has_the_friend_stay_that_it_gets_from_once_and_no_longer_than_it_may() {
    for (ask_max_s, done) in [(600, true), (0, false)] {
        let mut net = pair(480, LinkConfig::clean(millis(10)));
        net.command(1, Command::Intents(IntentRules { grant_max_s: 600, grant_trust: 50, ask_max_s }));
        limit(&mut net, 0, NodeLimits { up: Some(1_000_000), ..NodeLimits::default() });
        let tree = tree(480);
        let reference = put(&mut net, &[0], &tree);
        get(&mut net, 1, 1, &reference, &[]);
        rest(&mut net, Duration::from_secs(5));
        leave(&mut net, 0, 10_000);
        until_it_leaves(&mut net, 0);
        assert_eq!(outcome(&net, 1, 1), done.then_some(Ok(())), "asked for {ask_max_s} s");
        assert_eq!(counter(&status(&mut net, 1, 9), "intents_asked"), u64::from(done));
        if done {
            assert_restored(&net, 1, &tree);
        }
    }
}

#[test]
fn nobody_is_led_to_a_node_that_leaves_soon() {
    let mut net = network(490, &[1; 12], LinkConfig::clean(millis(5)));
    rest(&mut net, Duration::from_secs(60));
    let knows = |net: &Net, node: usize, leaver: usize| {
        let id = net.card(leaver).node_id();
        net.nodes[node].node().is_some_and(|node| node.overlay_leads_to(net.now, &id))
    };
    let before = (0..12).filter(|node| *node != 3 && knows(&net, *node, 3)).count();
    assert!(before >= 6, "{before}");
    // Who leaves in an hour is here for now.
    leave(&mut net, 3, 3_600_000);
    rest(&mut net, Duration::from_secs(60));
    assert!((0..12).filter(|node| *node != 3 && knows(&net, *node, 3)).count() >= 6);
    leave(&mut net, 3, LEAVING_SOON_MS);
    rest(&mut net, Duration::from_secs(20));
    for node in (0..12).filter(|node| *node != 3) {
        assert!(!knows(&net, node, 3), "node {node} would lead others to it");
    }
    net.command(3, Command::Leave(None));
    rest(&mut net, Duration::from_secs(20));
    assert!((0..12).filter(|node| *node != 3 && knows(&net, *node, 3)).count() >= 6, "it stays after all");
}

#[test]
fn records_of_a_node_that_leaves_end_with_it() {
    let mut net = network(500, &[1; 8], LinkConfig::clean(millis(5)));
    let (_, reference) = provide(&mut net, 2, 500);
    rest(&mut net, Duration::from_secs(20));
    let kept = |net: &mut Net, node: usize| status(net, node, 9).overlay.expect("on").records;
    assert!(kept(&mut net, 5) > 0);
    // Nobody keeps anything, so that nobody else provides it.
    for node in 0..8 {
        let closed = OverlayRules { keep: None, ..rules(&net, node, &[0]) };
        net.command(node, Command::Overlay(Box::new(closed)));
    }
    leave(&mut net, 2, 2 * MINUTE);
    until_it_leaves(&mut net, 2);
    rest(&mut net, Duration::from_secs(30));
    let left: u64 = [0, 1, 3, 4, 5, 6, 7].into_iter().map(|node| kept(&mut net, node)).sum();
    assert_eq!(left, 0, "they held for {RECORD_S_MAX} s without that");
    get(&mut net, 6, 1, &reference, &[]);
    let why = finish(&mut net, 6, 1, 60).unwrap_err();
    assert!(why.contains("the network names nobody"), "{why}");
}

#[test]
fn whoever_is_reached_by_way_of_a_leaver_is_reached_by_another_before_it_goes() {
    for seed in 1..=5 {
        let mut net = Net::new(seed, 4, LinkConfig::clean(millis(10)));
        net.put_behind_nat(&[0], crate::sim::nat::NatConfig::symmetric());
        net.put_behind_nat(&[1], crate::sim::nat::NatConfig::symmetric());
        net.befriend(0, &[1, 2, 3]);
        net.befriend(1, &[0, 2, 3]);
        net.befriend(2, &[0, 1]);
        net.befriend(3, &[0, 1]);
        let all = |net: &Net| {
            (0..2).all(|index| net.nodes[index].node().is_some_and(|node| node.friends_connected() == 3))
        };
        assert!(net.run_until(Duration::from_secs(8), all), "seed {seed}");
        rest(&mut net, Duration::from_secs(2));
        let relay = if net.nodes[2].bytes_received > net.nodes[3].bytes_received { 2 } else { 3 };
        let key = net.card(1).key;
        let by = |net: &mut Net| {
            let snapshot = status(net, 0, 9);
            let peer =
                snapshot.peers.iter().find(|peer| peer.key == key && peer.connected).expect("connected");
            peer.relayed_by
        };
        let (first, other) = (net.card(relay).node_id(), net.card(5 - relay).node_id());
        assert_eq!(by(&mut net), Some(first), "seed {seed}");
        leave(&mut net, relay, 30_000);
        rest(&mut net, Duration::from_secs(15));
        assert_eq!(by(&mut net), Some(other), "seed {seed}: another before it goes");
        until_it_leaves(&mut net, relay);
        rest(&mut net, Duration::from_secs(5));
        assert_eq!(by(&mut net), Some(other), "seed {seed}");
    }
}

#[test]
fn nothing_is_promised_beyond_the_time_of_leaving() {
    use crate::node::command::{Asked, PeerLimits, Verdict};
    let mut net = pair(510, LinkConfig::clean(millis(5)));
    limit(&mut net, 0, NodeLimits { up: Some(8_000_000), ..NodeLimits::default() });
    leave(&mut net, 0, 2 * MINUTE);
    let node = net.card(0).node_id();
    let until_s = net.nodes[1].clock(net.now).wall.0 / 1000 + 600;
    let reservation = crate::shape::Reservation { rate: 500_000, burst: 3_040, delay: millis(20) };
    let peers =
        vec![(node, PeerLimits { asked: Some(Asked { reservation, until_s }), ..PeerLimits::default() })];
    limit(&mut net, 1, NodeLimits { peers, ..NodeLimits::default() });
    rest(&mut net, millis(300));
    let snapshot = status(&mut net, 1, 9);
    let asked = snapshot.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.shaped.asked);
    let asked = asked.expect("asked");
    assert_eq!(asked.verdict, Some(Verdict::Promised));
    assert!((110..=120).contains(&asked.left_s), "{asked:?}");
}

#[test]
fn a_stranger_is_believed_of_itself_alone_and_asks_in_vain() {
    let mut net = Net::new(520, 2, LinkConfig::clean(millis(5)));
    join(&mut net, 0, &[]);
    join(&mut net, 1, &[0]);
    rest(&mut net, Duration::from_secs(10));
    leave(&mut net, 0, MINUTE);
    rest(&mut net, Duration::from_secs(5));
    assert!(intent(&mut net, 1, 0).leaves_in_s.is_some(), "soon: strangers hear it");
    let peer = net.card(0).key;
    net.command(1, Command::AskStay { peer, more_s: 60 });
    rest(&mut net, Duration::from_secs(40));
    assert_eq!(intent(&mut net, 1, 0).asked.map(|asked| asked.said), Some(SaidToStay::Silence));
    let (in_ms, _) = leaving(&mut net, 0);
    assert!(in_ms < 20_000, "{in_ms}");
    assert_eq!(counter(&status(&mut net, 0, 9), "intents_granted"), 0);
}

//! Friends introduce each other: how far it goes, what it is worth, what is made of it; and nodes that nobody but friends
//! hears of.

use super::overlay::{counter, rest, status};
use super::*;
use crate::crypto::{Identity, Secret};
use crate::limits::{INTRODUCTION_S, INTRODUCTIONS_TOLD_MAX};
use crate::node::command::{CircuitRules, Friend, IntroductionRules, NatRules, OfferSnapshot, PeerSnapshot};
use crate::onion::path::Leaving;
use crate::sim::Crash;
use crate::sim::nat::NatConfig;
use crate::sim::net::{EPOCH, Net};
use crate::trust::derived;
use crate::wire::introduction::{Introduction, Introductions, Told};
use crate::wire::overlay::Contact;

const SOON: Duration = Duration::from_secs(15);

fn rules(net: &mut Net, node: usize, hands: u8, adopt: usize) {
    let addresses = vec![net.nodes[node].address()];
    let rules = IntroductionRules { only: false, hands, adopt, addresses };
    net.command(node, Command::Introductions(Box::new(rules)));
}

fn only_friends(net: &mut Net, node: usize, only: bool) {
    let rules = IntroductionRules { only, hands: 2, adopt: 4, addresses: Vec::new() };
    net.command(node, Command::Introductions(Box::new(rules)));
}

/// Each is a friend of the one before and of the one behind it.
fn chain(seed: u64, shards: &[u8], link: LinkConfig) -> Net {
    let mut net = Net::with_shards(seed, shards, link);
    for node in 0..shards.len() {
        rules(&mut net, node, 2, 0);
        let friends = [node.wrapping_sub(1), node + 1].into_iter().filter(|one| *one < shards.len());
        net.befriend(node, &friends.collect::<Vec<_>>());
    }
    rest(&mut net, SOON);
    net
}

fn offers(net: &mut Net, node: usize) -> Vec<OfferSnapshot> {
    status(net, node, 77).introductions.expect("the first shard says").offers
}

/// Which nodes are offered, at which hand, and with which trust.
fn offered(net: &mut Net, node: usize) -> Vec<(usize, u8, u8)> {
    let keys: Vec<_> = (0..net.nodes.len()).map(|n| net.card(n).key).collect();
    let offers = offers(net, node);
    let of = |offer: &OfferSnapshot| keys.iter().position(|key| *key == offer.card.key).unwrap_or(usize::MAX);
    offers.iter().map(|offer| (of(offer), offer.hand, offer.trust)).collect()
}

fn peer(net: &mut Net, node: usize, other: usize) -> Option<PeerSnapshot> {
    let key = net.card(other).key;
    let mut all = status(net, node, 78);
    all.join_lanes();
    all.peers.into_iter().find(|peer| peer.key == key && peer.connected)
}

fn bytes_between(net: &Net, from: usize, to: usize) -> u64 {
    let (from, to) = (net.nodes[from].address().ip(), net.nodes[to].address().ip());
    let wire = net.wire.as_ref().expect("it is watched");
    wire.iter().filter(|((a, b), _)| a.ip() == from && b.ip() == to).map(|(_, bytes)| *bytes).sum()
}

#[test]
fn a_friends_friends_are_heard_of_and_theirs_and_nobody_farther() {
    for (seed, shards) in [(1, [1; 5]), (2, [1, 3, 2, 1, 2]), (3, [3, 1, 1, 4, 1])] {
        let mut net = chain(seed, &shards, LinkConfig::clean(millis(5)));
        let once = derived(50, 50, 1);
        let twice = derived(50, once, 2);
        assert_eq!(offered(&mut net, 0), [(2, 1, once), (3, 2, twice)], "seed {seed}");
        let mut middle = offered(&mut net, 2);
        middle.sort_unstable();
        assert_eq!(middle, [(0, 1, once), (4, 1, once)], "seed {seed}");
        let all = offers(&mut net, 0);
        assert!(all.iter().all(|offer| offer.by == [net.card(1).key]), "seed {seed}");
        assert_eq!(all[0].addresses.first(), Some(&net.nodes[2].address()), "seed {seed}");
        assert!(peer(&mut net, 0, 2).is_none(), "seed {seed}: nobody is called unasked");
    }
}

#[test]
fn lossy_links_lose_no_introduction() {
    for seed in 10..14 {
        let mut net = chain(seed, &[1, 2, 1, 1], lossy(0.05));
        rest(&mut net, Duration::from_secs(30));
        assert_eq!(offered(&mut net, 0).len(), 2, "seed {seed}");
        assert_eq!(offered(&mut net, 3).len(), 2, "seed {seed}");
    }
}

#[test]
fn agreement_is_the_introduced_nodes() {
    let mut net = chain(20, &[1; 5], LinkConfig::clean(millis(5)));
    // So much changed that friends are told once a minute by now.
    let soon = Duration::from_secs(75);
    // To friends' friends alone: those of the hand behind forget it.
    rules(&mut net, 3, 1, 0);
    rest(&mut net, soon);
    assert_eq!(offered(&mut net, 0).iter().map(|one| one.0).collect::<Vec<_>>(), [2]);
    assert!(offered(&mut net, 1).iter().any(|one| one.0 == 3));
    // To nobody.
    rules(&mut net, 3, 0, 0);
    rest(&mut net, soon);
    assert!(!offered(&mut net, 1).iter().any(|one| one.0 == 3));
    // One friend is told nothing, and others nothing of it.
    let friend = |net: &Net, of: usize, introduce| Friend {
        card: net.card(of),
        addresses: vec![net.nodes[of].address()],
        trust: 50,
        introduce,
        bridge: None,
    };
    rules(&mut net, 3, 2, 0);
    let friends = vec![friend(&net, 0, true), friend(&net, 2, false)];
    net.command(1, Command::Friends(friends));
    rest(&mut net, soon);
    assert_eq!(offered(&mut net, 0), []);
    assert!(!offered(&mut net, 2).iter().any(|one| one.0 == 0), "it heard nothing of the others");
}

#[test]
fn who_withdraws_is_forgotten_in_time_whoever_is_away() {
    let mut net = chain(30, &[1; 4], LinkConfig::clean(millis(5)));
    assert_eq!(offered(&mut net, 0).len(), 2);
    // The one that would say so is gone.
    net.crash(2, Crash::Process);
    rules(&mut net, 3, 0, 0);
    let life = Duration::from_secs(u64::from(INTRODUCTION_S));
    rest(&mut net, life / 3);
    assert_eq!(offered(&mut net, 0).len(), 2, "their words hold");
    rest(&mut net, life);
    assert_eq!(offered(&mut net, 0), []);
}

#[test]
fn introductions_are_renewed_for_as_long_as_they_are_agreed_to() {
    let mut net = chain(31, &[1, 2, 1, 1], LinkConfig::clean(millis(5)));
    let before = counter(&status(&mut net, 0, 1), "introductions_received");
    for _ in 0..4 {
        rest(&mut net, Duration::from_secs(u64::from(INTRODUCTION_S) / 2));
        assert_eq!(offered(&mut net, 0).len(), 2);
    }
    let told = counter(&status(&mut net, 0, 2), "introductions_received") - before;
    // Twelve hours: a few for each time that one of three signs anew, and none without a reason.
    assert!((2..=4 * 3 * 3).contains(&told), "{told} messages");
}

#[test]
fn adopted_nodes_are_called_and_stay_when_their_introducer_goes() {
    for (seed, shards) in [(40, [1; 4]), (41, [3, 1, 2, 3])] {
        let mut net = chain(seed, &shards, LinkConfig::clean(millis(5)));
        rules(&mut net, 0, 2, 2);
        rest(&mut net, SOON);
        for (other, trust) in [(2, derived(50, 50, 1)), (3, derived(50, derived(50, 50, 1), 2))] {
            let known =
                peer(&mut net, 0, other).unwrap_or_else(|| panic!("seed {seed}: no session with {other}"));
            assert_eq!((known.trust, known.introduced), (None, Some(trust)), "seed {seed}: {other}");
        }
        net.crash(1, Crash::Process);
        rest(&mut net, Duration::from_secs(300));
        assert!(peer(&mut net, 0, 2).is_some() && peer(&mut net, 0, 3).is_some(), "seed {seed}");
        // The one that it reaches still is called again after it was away.
        net.restart(2);
        rest(&mut net, Duration::from_secs(120));
        assert!(peer(&mut net, 0, 2).is_some(), "seed {seed}: not called again");
        // And let go when the operator says so.
        rules(&mut net, 0, 2, 0);
        rest(&mut net, SOON);
        assert!(peer(&mut net, 0, 2).is_none() && peer(&mut net, 0, 3).is_none(), "seed {seed}");
    }
}

#[test]
fn where_the_best_does_not_answer_the_next_is_called() {
    let mut net = chain(45, &[1; 4], LinkConfig::clean(millis(5)));
    net.crash(2, Crash::Process);
    rules(&mut net, 0, 2, 1);
    rest(&mut net, Duration::from_secs(60));
    assert!(peer(&mut net, 0, 3).is_some(), "the second best is here");
}

#[test]
fn translators_stand_in_no_acquaintances_way() {
    let mut net = Net::new(46, 3, LinkConfig::clean(millis(5)));
    net.put_behind_nat(&[0], NatConfig::symmetric());
    net.put_behind_nat(&[2], NatConfig::symmetric());
    for node in 0..3 {
        rules(&mut net, node, 1, usize::from(node == 0));
    }
    net.befriend(0, &[1]);
    net.befriend(2, &[1]);
    net.befriend(1, &[0, 2]);
    rest(&mut net, Duration::from_secs(60));
    let known = peer(&mut net, 0, 2).expect("their friend carries for them");
    assert!(known.relayed && known.introduced.is_some());
}

fn told_addresses(net: &mut Net, node: usize, of: usize) -> Vec<std::net::SocketAddr> {
    let key = net.card(of).key;
    let offer = offers(net, node).into_iter().find(|offer| offer.card.key == key);
    offer.expect("it is offered").addresses
}

/// Found by review: homes' addresses were signed for all, and called by all.
#[test]
fn a_homes_addresses_are_told_to_nobody_far_and_called_by_nobody_far() {
    let mut net = chain(47, &[1, 1, 3], LinkConfig::clean(millis(5)));
    let (home, own) = (net.nodes[2].address(), net.nodes[0].address());
    assert_eq!(told_addresses(&mut net, 0, 2), [home], "a lab");
    let rules = |hands, addresses| {
        Command::Introductions(Box::new(IntroductionRules { only: false, hands, adopt: 1, addresses }))
    };
    // The one that calls is of the world itself: what others have at home is nothing for it.
    let public = "203.0.113.5:4600".parse().expect("an address");
    net.command(0, rules(1, vec![public, own]));
    rest(&mut net, SOON);
    assert_eq!(told_addresses(&mut net, 0, 2), []);
    assert_eq!(told_addresses(&mut net, 2, 0), [public], "nor does it tell its own");
}

/// Found by review: what a single peer said of where this node is was signed, and told to everybody.
#[test]
fn a_peers_word_of_where_this_node_is_is_not_signed() {
    let mut net = chain(48, &[1, 1, 3], LinkConfig::clean(millis(5)));
    let victim = "[2000::1]:1".parse().expect("an address");
    for n in 1..4u8 {
        net.seen_by(2, crate::base::PublicKey([n; 32]), victim);
    }
    // It says something else of itself, and so signs anew.
    rules(&mut net, 2, 1, 0);
    rest(&mut net, SOON);
    let home = net.nodes[2].address();
    assert_eq!(told_addresses(&mut net, 0, 2), [home]);
}

/// Found by review: a friend that changed all the time had all others told every 2 s.
#[test]
fn one_that_changes_all_the_time_has_others_told_at_a_bounded_rate() {
    let mut net = chain(49, &[1; 3], LinkConfig::clean(millis(5)));
    let received = |net: &mut Net| counter(&status(net, 0, 1), "introductions_received");
    let before = received(&mut net);
    for round in 0..200u16 {
        let told = made_up(&net, 1 + round * 2, 2);
        net.tell_raw(2, &Introductions(told).emit());
        rest(&mut net, Duration::from_secs(3));
    }
    let told = received(&mut net) - before;
    assert!((8..=15).contains(&told), "{told} messages in ten minutes");
    // And what is so in the end is told.
    rest(&mut net, Duration::from_secs(70));
    let last = made_up(&net, 1 + 199 * 2, 2)[0].introduction.contact.card.key;
    assert!(offers(&mut net, 0).iter().any(|offer| offer.card.key == last));
}

/// Found by review: an acquaintance heard of a relay once, and never what became of it; nor was it ever forgotten.
#[test]
fn what_an_acquaintance_says_of_itself_as_a_relay_is_kept_up_and_forgotten() {
    for (seed, shards) in [(52, [1; 4]), (53, [3, 1, 2, 3])] {
        let mut net = chain(seed, &shards, LinkConfig::clean(millis(5)));
        rules(&mut net, 0, 2, 2);
        rest(&mut net, SOON);
        let third = net.card(3).key;
        let known = |net: &Net| {
            let all: Vec<_> = net.nodes[0].nodes().map(|node| node.relay_known(&third)).collect();
            assert!(all.iter().all(|one| *one == all[0]), "seed {seed}: {all:?}");
            all[0]
        };
        let twice = |friend| derived(friend, derived(50, 50, 1), 2);
        let first = known(&net).expect("an acquaintance that relays");
        assert_eq!((first.trust, first.entry), (twice(50), None), "seed {seed}");
        // Its keys turn by the hour.
        rest(&mut net, Duration::from_secs(3 * 3600));
        let now = known(&net).expect("it relays still");
        assert_eq!(Some(now.hop.onion), net.nodes[3].node().and_then(|node| node.onion_key()), "seed {seed}");
        assert_ne!(now.hop.onion, first.hop.onion, "seed {seed}");
        for (in_ms, leaving) in [(Some(250_000), Leaving::Said), (None, Leaving::No)] {
            net.command(3, Command::Leave(in_ms));
            rest(&mut net, SOON);
            assert_eq!(known(&net).map(|one| one.leaving), Some(leaving), "seed {seed}");
        }
        // It is worth less when who told of it is.
        let card = net.card(1);
        let addresses = vec![net.nodes[1].address()];
        let friend = Friend { card, addresses, trust: 10, introduce: true, bridge: None };
        net.command(0, Command::Friends(vec![friend]));
        rest(&mut net, SOON);
        assert_eq!(known(&net).map(|one| one.trust), Some(twice(10)), "seed {seed}");
        for relay in [false, true] {
            net.command(3, Command::Relay(CircuitRules { relay, ..CircuitRules::default() }));
            rest(&mut net, SOON);
            assert_eq!(known(&net).is_some(), relay, "seed {seed}: it relays: {relay}");
        }
        net.crash(3, Crash::Process);
        rest(&mut net, Duration::from_secs(300));
        assert_eq!(known(&net), None, "seed {seed}: it is gone");
        net.start(3);
        rest(&mut net, Duration::from_secs(300));
        assert!(known(&net).is_some(), "seed {seed}: it is here again");
        rules(&mut net, 0, 2, 0);
        rest(&mut net, SOON);
        assert_eq!(known(&net), None, "seed {seed}: it is none any more");
    }
}

#[test]
fn made_up_nodes_always_others_are_not_all_called() {
    let mut net = chain(54, &[1; 2], LinkConfig::clean(millis(5)));
    rules(&mut net, 0, 2, 64);
    for round in 0..60u16 {
        let told = made_up(&net, round * 60, 60);
        net.tell_raw(1, &Introductions(told).emit());
        rest(&mut net, Duration::from_secs(2));
    }
    let calls = counter(&status(&mut net, 0, 1), "introductions_calls");
    assert!((64..=64 + 130).contains(&calls), "{calls} calls in two minutes");
}

/// Friends of the first hand alone count where a circuit begins, and as many of them as before.
#[test]
fn an_acquaintance_relays_and_is_no_first_hop() {
    let mut net = chain(50, &[1; 4], LinkConfig::clean(millis(5)));
    super::circuits::exit(&mut net, 3, &["0.0.0.0/0"]);
    rules(&mut net, 0, 2, 2);
    rest(&mut net, SOON);
    let (friend, third) = (net.card(1).key, net.card(3).key);
    let node = net.nodes[0].node().expect("it runs");
    assert!(matches!(node.knows_relay(&friend), Some((50, true))));
    // It is known by its own word alone: the friend tells of relays of the first hand.
    let trust = derived(50, derived(50, 50, 1), 2);
    assert_eq!(node.knows_relay(&third), Some((trust, false)));
    super::circuits::want(&mut net, 2, false);
    rest(&mut net, SOON);
    let circuit = status(&mut net, 0, 1).circuit.expect("it is wanted");
    assert!(circuit.path.is_empty(), "{circuit:?}");
    assert!(
        circuit.why.as_ref().is_some_and(|why| why.starts_with("1 connected friends relay")),
        "{circuit:?}"
    );
    super::circuits::want(&mut net, 2, true);
    rest(&mut net, SOON);
    let circuit = status(&mut net, 0, 2).circuit.expect("it is wanted");
    assert_eq!(circuit.path, [friend, third], "by the friend to the acquaintance: {circuit:?}");
}

/// Nodes that a liar makes up.
fn made_up(net: &Net, from: u16, count: u16) -> Vec<Told> {
    let one = |n: u16| {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        let identity = Identity::new(Secret::from_bytes(seed), 0, 0);
        let contact = Contact::new(*identity.card(), [([10, 9, (n >> 8) as u8, n as u8], 4600).into()]);
        let now_s = ((EPOCH.0 + net.now.0 / 1_000_000) / 1000) as u32;
        let introduction = Introduction::sign(&identity, contact, 2, now_s + 3600);
        Told { hand: 1, trust: 100, introduction }
    };
    (from..from + count).map(one).collect()
}

#[test]
fn a_friend_that_floods_is_bounded_and_hurts_nobody_else() {
    let mut net = Net::new(60, 4, LinkConfig::clean(millis(5)));
    for node in 0..4 {
        rules(&mut net, node, 2, 0);
    }
    // Node 1 lies to 0, whose other friend 2 has a friend 3.
    net.befriend(0, &[1, 2]);
    net.befriend(1, &[0]);
    net.befriend(2, &[0, 3]);
    net.befriend(3, &[2]);
    rest(&mut net, SOON);
    for round in 0..200u16 {
        let told = made_up(&net, round * 60, 60);
        net.tell_raw(1, &Introductions(told).emit());
        rest(&mut net, millis(50));
    }
    let shown = status(&mut net, 0, 1);
    let heard = counter(&shown, "introductions_received");
    assert!(counter(&shown, "introductions_flooded") > 150 && heard < 30, "{heard} were heard");
    let own = shown.introductions.expect("the first shard says");
    assert!(own.once as usize <= INTRODUCTIONS_TOLD_MAX + 1, "{}", own.once);
    let third = net.card(3).key;
    assert!(own.offers.iter().any(|offer| offer.card.key == third), "the honest friend's word counts");
    assert!(own.offers.iter().all(|offer| offer.trust <= derived(50, 100, 1)));
    assert!(peer(&mut net, 0, 1).is_some(), "too many are no fault");
    let to_others = offered(&mut net, 3).len();
    assert!(to_others <= INTRODUCTIONS_TOLD_MAX, "{to_others}");
}

#[test]
fn what_nobody_signed_is_ignored_and_what_is_no_message_closes() {
    let mut net = chain(61, &[1; 3], LinkConfig::clean(millis(5)));
    let mut told = made_up(&net, 0, 3);
    for one in &mut told {
        let card = one.introduction.contact.card;
        one.introduction = one.introduction.altered(Contact::new(card, [([10, 1, 1, 1], 1).into()]), 2);
    }
    told.extend(made_up(&net, 9, 1));
    net.tell_raw(1, &Introductions(told).emit());
    rest(&mut net, SOON);
    let shown = status(&mut net, 0, 1);
    assert_eq!(counter(&shown, "introductions_forged"), 3);
    assert_eq!(shown.introductions.expect("the first shard says").once, 1, "the one that is true");
    assert!(peer(&mut net, 0, 1).is_some());
    let violations = |net: &mut Net| counter(&status(net, 0, 2), "stream_violations");
    assert_eq!(violations(&mut net), 0);
    net.tell_raw(1, b"\x01\x01 is no message");
    rest(&mut net, millis(100));
    assert_eq!(violations(&mut net), 1);
}

/// A stranger that has the invitation of a node that wants friends alone.
#[test]
fn a_stranger_hears_not_a_byte_where_only_friends_are_wanted() {
    for (seed, shards) in [(70, 1), (71, 3)] {
        let mut net = Net::with_shards(seed, &[shards, 1, shards], LinkConfig::clean(millis(5)));
        net.wire = Some(Default::default());
        only_friends(&mut net, 0, true);
        net.command(0, Command::Nat(NatRules { answers: true, ..NatRules::default() }));
        net.befriend(0, &[1]);
        net.befriend(1, &[0]);
        rest(&mut net, SOON);
        assert!(peer(&mut net, 0, 1).is_some(), "seed {seed}: friends are heard");
        // The stranger calls, and asks with its first flight.
        let tree = tree(seed);
        let reference = put(&mut net, &[0], &tree);
        net.befriend(2, &[0]);
        let stun = vec![net.nodes[0].address()];
        net.command(2, Command::Nat(NatRules { stun, ..NatRules::default() }));
        get(&mut net, 2, 1, &reference, &[]);
        rest(&mut net, Duration::from_secs(90));
        assert!(bytes_between(&net, 2, 0) > 10_000, "seed {seed}: it was asked");
        assert_eq!(bytes_between(&net, 0, 2), 0, "seed {seed}");
        let shown = status(&mut net, 0, 1);
        assert!(counter(&shown, "session_uninvited") > 0 && counter(&shown, "stun_given") == 0);
        get(&mut net, 1, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 1, 1, 60), Ok(()), "seed {seed}");
        assert_restored(&net, 1, &tree);
    }
}

#[test]
fn the_door_is_closed_and_opened_without_a_restart_and_closed_from_the_start() {
    let mut net = Net::new(72, 3, LinkConfig::clean(millis(5)));
    net.befriend(0, &[1]);
    net.befriend(1, &[0]);
    net.befriend(2, &[0]);
    rest(&mut net, SOON);
    assert!(peer(&mut net, 0, 2).is_some(), "a stranger's session");
    only_friends(&mut net, 0, true);
    rest(&mut net, SOON);
    assert!(peer(&mut net, 0, 2).is_none() && peer(&mut net, 0, 1).is_some());
    net.wire = Some(Default::default());
    rest(&mut net, Duration::from_secs(120));
    assert_eq!(bytes_between(&net, 0, 2), 0);
    net.restart(0);
    rest(&mut net, Duration::from_secs(120));
    assert_eq!(bytes_between(&net, 0, 2), 0, "nor while it starts");
    assert!(peer(&mut net, 0, 1).is_some());
    // A stranger that is made a friend is one.
    net.befriend(0, &[1, 2]);
    rest(&mut net, Duration::from_secs(90));
    assert!(peer(&mut net, 0, 2).is_some());
    net.befriend(0, &[1]);
    rest(&mut net, SOON);
    assert!(peer(&mut net, 0, 2).is_none());
    only_friends(&mut net, 0, false);
    rest(&mut net, Duration::from_secs(90));
    assert!(peer(&mut net, 0, 2).is_some(), "anybody may come again");
}

#[test]
fn friends_tell_nobody_of_one_that_wants_friends_alone() {
    let mut net = chain(73, &[1; 3], LinkConfig::clean(millis(5)));
    let hidden = net.card(0).key;
    let knows = |net: &Net| net.nodes[2].node().expect("it runs").knows_relay(&hidden).is_some();
    assert!(knows(&net) && offered(&mut net, 2).iter().any(|one| one.0 == 0));
    only_friends(&mut net, 0, true);
    // What was said of relays is kept by who heard it, and not by who comes anew.
    rest(&mut net, SOON);
    net.restart(2);
    rest(&mut net, Duration::from_secs(60));
    assert!(!knows(&net) && !offered(&mut net, 2).iter().any(|one| one.0 == 0));
    // It hears of others, and calls none of them.
    assert_eq!(offered(&mut net, 0).len(), 1);
    assert!(peer(&mut net, 0, 2).is_none());
    // Nor does it lead circuits on to strangers.
    net.wire = Some(Default::default());
    net.command(0, Command::Relay(CircuitRules::default()));
    rest(&mut net, SOON);
    assert_eq!(bytes_between(&net, 0, 2), 0);
}

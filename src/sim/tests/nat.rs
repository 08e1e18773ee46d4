//! Two nodes behind translators of every kind, and a friend of both.

mod bridge;

use std::time::Duration;

use super::{Tree, assert_restored, finish, get, millis, put, tree};
use crate::limits::{CARRY_STRANGER_PER_SECOND, PROVIDE_BATCH};
use crate::node::Command;
use crate::node::command::OverlayRules;
use crate::sim::link::LinkConfig;
use crate::sim::nat::{Dependence, NatConfig, Ports};
use crate::sim::net::Net;

const SEEDS: u64 = 5;
/// One way, between every two.
const DELAY: Duration = Duration::from_millis(10);
/// How long the two may take to have a session, one way or another.
const CONNECTED: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No translator.
    Open,
    FullCone,
    Restricted,
    PortRestricted,
    Symmetric,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Open, Self::FullCone, Self::Restricted, Self::PortRestricted, Self::Symmetric];

    fn config(self) -> Option<NatConfig> {
        let cone = |filtering| NatConfig { filtering, ports: Ports::Random, ..NatConfig::cone() };
        match self {
            Self::Open => None,
            Self::FullCone => Some(cone(Dependence::Endpoint)),
            Self::Restricted => Some(cone(Dependence::Address)),
            Self::PortRestricted => Some(cone(Dependence::AddressAndPort)),
            Self::Symmetric => Some(NatConfig::symmetric()),
        }
    }

    /// Whether two such can meet: where the port that one sends from is not known before, the other must let in who
    /// comes from another.
    fn meets(self, other: Self) -> bool {
        let blind =
            |one, other| one == Self::Symmetric && matches!(other, Self::Symmetric | Self::PortRestricted);
        !blind(self, other) && !blind(other, self)
    }
}

/// Nodes 0 and 1 behind translators, and 2 that both have as a friend; the two know nothing of where the other is.
fn between(seed: u64, one: Kind, other: Kind) -> Net {
    let mut net = Net::new(seed, 3, LinkConfig::clean(DELAY));
    for (node, kind) in [(0, one), (1, other)] {
        if let Some(config) = kind.config() {
            net.put_behind_nat(&[node], config);
        }
    }
    net.befriend(0, &[2]);
    net.befriend(1, &[2]);
    net.befriend(2, &[0, 1]);
    net.run_for(Duration::from_secs(2));
    net.befriend(0, &[1, 2]);
    net.befriend(1, &[0, 2]);
    net
}

fn node(net: &Net, index: usize) -> &crate::node::Node {
    net.nodes[index].node().expect("it runs")
}

fn are_connected(net: &Net) -> bool {
    [0, 1].iter().all(|index| node(net, *index).friends_connected() == 2)
}

fn are_direct(net: &Net) -> bool {
    are_connected(net) && [0, 1].iter().all(|index| node(net, *index).relayed() == 0)
}

/// Content passes between the two, whichever way.
fn assert_usable(net: &mut Net, job: u64) {
    let tree = tree(net.seed);
    let reference = put(net, &[0], &tree);
    get(net, 1, job, &reference, &[]);
    assert_eq!(finish(net, 1, job, 120), Ok(()), "seed {}", net.seed);
    assert_restored(net, 1, &tree);
}

#[test]
fn any_two_connect_straight_where_that_can_be_and_through_their_friend_where_not() {
    for one in Kind::ALL {
        for other in Kind::ALL {
            for seed in 1..=SEEDS {
                let cell = format!("seed {seed}: {one:?} and {other:?}");
                let mut net = between(seed, one, other);
                let known = |net: &Net| node(net, 0).ways() > 0 || node(net, 1).ways() > 0 || are_direct(net);
                assert!(net.run_until(CONNECTED, known), "{cell}: nobody knows a way");
                let begun = net.now;
                assert!(net.run_until(CONNECTED, are_connected), "{cell}: no session");
                if one.meets(other) {
                    assert!(net.run_until(CONNECTED, are_direct), "{cell}: not straight");
                    // Through the friend a round trip has four hops.
                    let took = net.now.since(begun);
                    assert!(took <= 3 * 4 * DELAY + millis(1), "{cell}: straight after {took:?}");
                }
                net.run_for(Duration::from_secs(5));
                assert_eq!(are_direct(&net), one.meets(other), "{cell}");
                assert!(are_connected(&net), "{cell}");
                if seed == 1 {
                    assert_usable(&mut net, 1);
                }
            }
        }
    }
}

#[test]
fn what_a_translator_forgets_is_met_anew() {
    for (one, other) in [
        (Kind::PortRestricted, Kind::PortRestricted),
        (Kind::Symmetric, Kind::Restricted),
        (Kind::Symmetric, Kind::Symmetric),
    ] {
        for seed in 1..=SEEDS {
            let cell = format!("seed {seed}: {one:?} and {other:?}");
            let mut net = between(seed, one, other);
            net.run_for(Duration::from_secs(8));
            assert_eq!(are_direct(&net), one.meets(other), "{cell}");
            net.rebind(0);
            net.rebind(1);
            net.run_for(Duration::from_secs(1));
            assert_usable(&mut net, 1);
            assert!(are_connected(&net), "{cell}");
            let again = |net: &Net| are_direct(net) == one.meets(other);
            assert!(net.run_until(Duration::from_secs(60), again), "{cell}: not as before");
        }
    }
}

#[test]
fn where_the_relay_dies_another_takes_its_place() {
    for seed in 1..=SEEDS {
        let mut net = Net::new(seed, 4, LinkConfig::clean(DELAY));
        net.put_behind_nat(&[0], NatConfig::symmetric());
        net.put_behind_nat(&[1], NatConfig::symmetric());
        net.befriend(0, &[1, 2, 3]);
        net.befriend(1, &[0, 2, 3]);
        net.befriend(2, &[0, 1]);
        net.befriend(3, &[0, 1]);
        let all = |net: &Net| (0..2).all(|index| node(net, index).friends_connected() == 3);
        assert!(net.run_until(Duration::from_secs(8), all), "seed {seed}");
        let relay = if net.nodes[2].bytes_received > net.nodes[3].bytes_received { 2 } else { 3 };
        net.crash(relay, crate::sim::Crash::Process);
        let tree = tree(seed);
        let reference = put(&mut net, &[0], &tree);
        get(&mut net, 1, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 1, 1, 150), Ok(()), "seed {seed}");
        assert_restored(&net, 1, &tree);
    }
}

/// Found by a reader, of bridges: an acknowledgement was the last word, nothing answers that, and so the peer seemed silent.
#[test]
fn who_rests_stays_straight() {
    for seed in 1..=SEEDS {
        let mut net = between(seed, Kind::PortRestricted, Kind::PortRestricted);
        assert!(net.run_until(Duration::from_secs(8), are_direct), "seed {seed}");
        let tree = tree(seed);
        let reference = put(&mut net, &[0], &tree);
        get(&mut net, 1, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 1, 1, 120), Ok(()), "seed {seed}");
        net.run_for(Duration::from_secs(120));
        for node in [0, 1] {
            let shown = super::overlay::status(&mut net, node, 7);
            let back = super::overlay::counter(&shown, "nat_relayed_again");
            assert_eq!(back, 0, "seed {seed}, node {node}");
        }
        assert!(are_direct(&net), "seed {seed}");
    }
}

/// A session that began by a way, since the friend was not reached just then, does not stay there.
#[test]
fn a_friend_that_was_cut_off_is_reached_straight_again() {
    for seed in 1..=SEEDS {
        let mut net = Net::with_shards(seed, &[3, 2, 3], LinkConfig::clean(DELAY));
        net.put_behind_nat(&[1], Kind::Symmetric.config().expect("a translator"));
        net.cut(0, 1);
        net.cut(1, 0);
        net.befriend(0, &[1, 2]);
        net.befriend(1, &[0, 2]);
        net.befriend(2, &[0, 1]);
        let relayed = |net: &Net| net.nodes[1].nodes().map(crate::node::Node::relayed).sum::<usize>() == 1;
        assert!(net.run_until(Duration::from_secs(10), relayed), "seed {seed}: no way");
        net.heal(0, 1);
        net.heal(1, 0);
        assert!(net.run_until(Duration::from_secs(120), |net| !relayed(net)), "seed {seed}: not straight");
    }
}

/// Strangers: nobody is a friend of anybody. 0 and 1 are behind translators that keep them apart, the others are open and
/// each of a network of its own, so that their words count apart.
fn strangers(seed: u64, provider: Kind) -> Net {
    const OTHERS: usize = 10;
    let mut net = Net::new(seed, 2 + OTHERS, LinkConfig::clean(DELAY));
    for index in 2..2 + OTHERS {
        net.move_to(index, ([20 + index as u8, index as u8, 0, 1], 4600).into());
    }
    net.put_behind_nat(&[0], provider.config().expect("a translator"));
    // Those that let each other in meet by chance, since both look for each other.
    net.put_behind_nat(&[1], Kind::Symmetric.config().expect("a translator"));
    for index in (2..2 + OTHERS).chain(0..2) {
        let entries: &[usize] = if index == 2 { &[] } else { &[2] };
        let bootstrap = entries.iter().map(|&entry| (net.card(entry), vec![net.nodes[entry].address()]));
        let rules = OverlayRules {
            enabled: true,
            network: "test".into(),
            addresses: vec![net.nodes[index].address()],
            bootstrap: bootstrap.collect(),
            far: false,
            serve_strangers: true,
            keep: None,
        };
        net.command(index, Command::Overlay(Box::new(rules)));
    }
    net.run_for(Duration::from_secs(30));
    net
}

/// What 0 puts is got by 1, by a way that a stranger gives: how long it takes.
fn got_from_behind(net: &mut Net, tree: &Tree) -> Duration {
    let reference = put(net, &[0], tree);
    for batch in net.nodes[0].world.store.ids().chunks(PROVIDE_BATCH) {
        net.command(0, Command::Provide(batch.to_vec()));
    }
    net.run_for(Duration::from_secs(60));
    assert_eq!(node(net, 1).ways(), 0, "seed {}: nobody has looked for one", net.seed);
    let begun = net.now;
    get(net, 1, 1, &reference, &[]);
    assert_eq!(finish(net, 1, 1, 240), Ok(()), "seed {}", net.seed);
    assert_restored(net, 1, tree);
    assert!(node(net, 1).ways() > 0, "seed {}: it was reached otherwise", net.seed);
    net.now.since(begun)
}

/// Whoever is near to the provider in the network knows a way, which carries about as fast as it may.
#[test]
fn a_provider_behind_a_translator_is_got_from_by_a_stranger_behind_another() {
    for (seed, provider) in [(1, Kind::PortRestricted), (2, Kind::PortRestricted), (3, Kind::Symmetric)] {
        let mut net = strangers(seed, provider);
        let tree = tree(seed);
        let bytes: usize = tree.values().map(Vec::len).sum();
        let allowed = bytes as f64 / f64::from(CARRY_STRANGER_PER_SECOND);
        let took = got_from_behind(&mut net, &tree).as_secs_f64();
        assert!(took < 2.0 * allowed, "seed {seed}: {took:.1} s, where the rate allows {allowed:.1}");
    }
}

/// Ways, handshakes and what is carried cross between shards.
#[test]
fn nodes_of_several_shards_are_never_stuck() {
    for seed in 1..=SEEDS {
        let mut net = Net::with_shards(seed, &[3, 2, 3], LinkConfig::clean(DELAY));
        net.put_behind_nat(&[0], Kind::PortRestricted.config().expect("a translator"));
        net.put_behind_nat(&[1], Kind::Symmetric.config().expect("a translator"));
        net.befriend(0, &[1, 2]);
        net.befriend(1, &[0, 2]);
        net.befriend(2, &[0, 1]);
        let connected = |net: &Net| {
            [0, 1].iter().all(|index| {
                let shards = net.nodes[*index].nodes();
                shards.map(|shard| shard.friends_connected()).sum::<usize>() >= 2
            })
        };
        assert!(net.run_until(Duration::from_secs(10), connected), "seed {seed}: no session");
        assert_usable(&mut net, 1);
    }
}

//! Addresses of a simulated exit whose pool is small: who gets one, and from whom.

use super::super::*;
use super::{counts, sharded, warnings};
use crate::limits::{EXIT_SHARE_MIN, PATH_RETRY_MS};
use crate::node::command::{CircuitRules, CircuitWant, ExitRules};
use crate::onion::policy::Policy;

/// Makes a node an exit with these addresses.
fn exit(net: &mut Net, node: usize, pool: &str) {
    let policy = Policy(vec!["0.0.0.0/0".parse().expect("a rule")]);
    let pools = vec![pool.parse().expect("a network")];
    net.command(node, Command::Exit(Box::new(ExitRules { policy, pools, rate: None })));
    net.command(node, Command::Relay(CircuitRules { exit: true, ..CircuitRules::default() }));
}

/// Each time another secret.
fn want(net: &mut Net, node: usize, hops: u8) {
    let routes = vec!["0.0.0.0/0".parse().expect("a network")];
    net.command(
        node,
        Command::Circuit(Some(CircuitWant {
            hops,
            exit: None,
            force: true,
            routes,
            proxied: false,
            paths: 1,
            spread_packets: false,
        })),
    );
}

/// Regression: each secret that ever had a circuit kept its address for ten minutes, and the fourteenth was refused.
#[test]
fn ever_new_secrets_use_up_no_addresses() {
    for (seed, shards) in [(90, 1), (91, 3)] {
        let mut net = sharded(seed, &[1, 1, 1, 1, shards], LinkConfig::clean(millis(10)));
        exit(&mut net, 4, "10.117.0.0/28");
        for turn in 1..=30 {
            want(&mut net, 0, 3);
            net.run_for(Duration::from_secs(4));
            let opened = counts(&mut net, "circuits_opened")[0];
            assert_eq!(opened, turn, "seed {seed}: {:?}", warnings(&net, 0));
        }
        assert_eq!(counts(&mut net, "node_crossings_lost"), [0; 5]);
    }
}

/// Twenty origins behind one relay, one behind another.
#[test]
fn what_is_behind_one_neighbour_leaves_addresses_for_others() {
    const BUSY: usize = 0;
    const IDLE: usize = 1;
    const EXIT: usize = 2;
    for (seed, shards) in [(92, 1), (93, 3)] {
        let mut counts_of_shards = [1; 24];
        counts_of_shards[EXIT] = shards;
        let mut net = Net::with_shards(seed, &counts_of_shards, LinkConfig::clean(millis(10)));
        // 29 addresses, of which 16 for each.
        exit(&mut net, EXIT, "10.117.0.0/27");
        let origins: Vec<usize> = (3..23).collect();
        net.befriend(BUSY, &[&[EXIT], &origins[..]].concat());
        net.befriend(IDLE, &[EXIT, 23]);
        net.befriend(EXIT, &[BUSY, IDLE]);
        origins.iter().for_each(|origin| net.befriend(*origin, &[BUSY]));
        net.befriend(23, &[IDLE]);
        // A relay tells of so many others at most: of the exit, then.
        let no_relay = CircuitRules { relay: false, ..CircuitRules::default() };
        origins.iter().for_each(|origin| _ = net.command(*origin, Command::Relay(no_relay)));
        net.run_for(Duration::from_secs(15));
        origins.iter().for_each(|origin| want(&mut net, *origin, 2));
        net.run_for(Duration::from_secs(20));
        let open = |net: &mut Net| {
            let opened = counts(net, "circuits_opened");
            origins.iter().copied().filter(|origin| opened[*origin] > 0).collect::<Vec<_>>()
        };
        let first = open(&mut net);
        assert_eq!(first.len(), EXIT_SHARE_MIN, "seed {seed}: {first:?}");
        assert!(counts(&mut net, "circuit_builds_refused")[EXIT] > 0);
        want(&mut net, 23, 2);
        net.run_for(Duration::from_secs(5));
        assert_eq!(counts(&mut net, "circuits_opened")[23], 1, "seed {seed}: {:?}", warnings(&net, 23));
        // One goes: its address waits for it, and gives way to the next that asks.
        net.command(first[0], Command::Circuit(None));
        net.run_for(2 * Duration::from_millis(PATH_RETRY_MS << 7));
        assert_eq!(open(&mut net).len(), EXIT_SHARE_MIN + 1, "seed {seed}");
    }
}

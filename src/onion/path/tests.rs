use super::*;
use crate::crypto::IdentityCard;
use crate::onion::OnionKey;
use crate::wire::build::NextHop;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

fn relay(n: u8, address: &str, entry: bool, exit: bool) -> Relay {
    let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
    let address = Some(address.parse().unwrap());
    let hop = HopInfo { hop: NextHop { card, address }, onion: OnionKey { number: 0, key: [n; 32] } };
    Relay { hop, trust: 50, exit, entry: entry.then_some(LinkId(n.into())), leaving: Leaving::No }
}

fn relays(all: &[Relay]) -> Relays {
    let mut relays = Relays::default();
    all.iter().for_each(|relay| assert!(relays.learn(*relay)));
    relays
}

fn want(hops: u8) -> Want {
    Want { hops, exit: None, force: false, resume: [0; 32], several: false }
}

fn global(n: u8) -> String {
    format!("{}.{}.0.1:4600", 20 + n / 100, n)
}

/// Found by a user: of two friends the first path took both, and there was no second.
#[test]
fn a_path_that_others_are_to_stand_beside_leaves_them_friends_to_begin_with() {
    let all: Vec<Relay> = (0..6).map(|n| relay(n, &global(n), n < 2, n == 5)).collect();
    let known = relays(&all);
    for seed in 0..200 {
        let want = Want { several: true, ..want(3) };
        let route = known.choose(Time::ZERO, &mut Rng::from_number(seed), &want).expect("a path");
        let friends = route.hops.iter().filter(|hop| hop.hop.card.key.0[0] < 2).count();
        assert_eq!(friends, 1, "seed {seed}");
        let beside: Vec<PublicKey> = route.hops[..2].iter().map(|hop| hop.hop.card.key).collect();
        let second = known.choose_beside(Time::ZERO, &mut Rng::from_number(seed), &want, &beside);
        assert!(second.is_ok(), "seed {seed}: {second:?}");
    }
    // Where there is nobody else, friends will do.
    let few = relays(&[all[0], all[1], all[5]]);
    let want = Want { several: true, ..want(3) };
    assert!(few.choose(Time::ZERO, &mut Rng::from_number(1), &want).is_ok());
}

#[test]
fn the_refusals_say_what_to_do() {
    let mut rng = Rng::from_number(1);
    let mut choose = |all: &[Relay], want: Want| relays(all).choose(Time::ZERO, &mut rng, &want).map(|_| ());
    let all: Vec<Relay> = (0..4).map(|n| relay(n, &global(n), n < 2, n == 3)).collect();
    assert_eq!(choose(&all, want(3)), Ok(()));
    assert_eq!(choose(&all, want(0)), Err(NoPath::Hops));
    assert_eq!(choose(&all, want(6)), Err(NoPath::Hops));
    assert_eq!(choose(&all[1..], want(3)), Err(NoPath::Entries(1)));
    assert_eq!(choose(&all[1..], Want { force: true, ..want(3) }), Ok(()));
    assert_eq!(choose(&all[2..], Want { force: true, ..want(1) }), Err(NoPath::Entries(0)));
    assert_eq!(choose(&all[..3], want(3)), Err(NoPath::Exit));
    assert_eq!(choose(&all, want(5)), Err(NoPath::Relays(4)));
    assert_eq!(choose(&all, Want { exit: Some(PublicKey([2; 32])), ..want(2) }), Ok(()), "named aloud");
    assert_eq!(choose(&all, Want { exit: Some(PublicKey([9; 32])), ..want(2) }), Err(NoPath::Exit));
}

#[test]
fn one_operators_network_gives_one_hop() {
    let mut rng = Rng::from_number(1);
    for (addresses, hops) in [
        (["20.1.0.1:1", "20.1.255.1:1", "20.2.0.1:1"], 2),
        (["[2001:db8:1::1]:1", "[2001:db8:2::1]:1", "[2001:db9::1]:1"], 2),
        (["20.1.0.1:1", "[::ffff:20.1.9.9]:1", "20.2.0.1:1"], 2),
        (["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], 3),
        (["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"], 3),
        (["100.64.0.1:1", "100.64.0.2:1", "[fe80::1]:1"], 3),
    ] {
        let all: Vec<Relay> = (0..3).map(|n| relay(n, addresses[usize::from(n)], true, true)).collect();
        let relays = relays(&all);
        let longest = (1..=3).rev().find(|n| relays.choose(Time::ZERO, &mut rng, &want(*n)).is_ok());
        assert_eq!(longest, Some(hops), "{addresses:?}");
    }
}

#[test]
fn trust_raises_and_failures_lower_the_chances_and_fade() {
    let mut all: Vec<Relay> = (0..3).map(|n| relay(n, &global(n), true, true)).collect();
    all[0].trust = 100;
    all[1].trust = 10;
    let mut relays = relays(&all);
    let firsts = |relays: &Relays, now: Time| {
        let mut rng = Rng::from_number(7);
        let mut counts = [0u32; 3];
        for _ in 0..3000 {
            let route = relays.choose(now, &mut rng, &want(1)).unwrap();
            counts[usize::from(route.hops[0].hop.card.key.0[0])] += 1;
        }
        counts
    };
    let fair = firsts(&relays, Time::ZERO);
    let ranks: Vec<u32> = all.iter().map(|relay| relay.hop.hop.card.rank()).collect();
    let share = |n: usize| f64::from(5 + all[n].trust) * f64::from(ranks[n]);
    let expected = 3000.0 * share(0) / (share(0) + share(1) + share(2));
    assert!((f64::from(fair[0]) - expected).abs() < 150.0, "{fair:?}, {expected}");
    relays.blame(Time::ZERO, PublicKey([0; 32]), 4.0);
    let blamed = firsts(&relays, Time::ZERO);
    assert!(blamed[0] * 4 < fair[0], "{fair:?} {blamed:?}");
    let later = Time::from_millis(10 * BLAME_HALF_LIFE_MS);
    assert!(firsts(&relays, later)[0].abs_diff(fair[0]) < 150, "it fades");
    relays.praise(Time::ZERO, &PublicKey([0; 32]));
    assert_eq!(relays.score(Time::ZERO, &PublicKey([0; 32])), 2.0);
}

#[test]
fn tables_are_bounded_and_friends_come_first() {
    let mut relays = Relays::default();
    let numbered = |n: u32, entry| {
        let mut relay = relay(1, &global(1), entry, false);
        relay.hop.hop.card.key.0[..4].copy_from_slice(&n.to_le_bytes());
        relay
    };
    assert!((0..RELAYS_KNOWN_MAX as u32).all(|n| relays.learn(numbered(n, false))));
    assert!(!relays.learn(numbered(1 << 20, false)));
    assert!(relays.learn(numbered(1 << 20, true)), "a friend takes a stranger's place");
    assert_eq!(relays.len(), RELAYS_KNOWN_MAX);
    (0..2 * BLAMED_MAX as u32)
        .for_each(|n| relays.blame(Time::ZERO, numbered(n, false).hop.hop.card.key, f64::from(n)));
    assert_eq!(relays.blamed.len(), BLAMED_MAX);
    assert!(relays.score(Time::ZERO, &numbered(2 * BLAMED_MAX as u32 - 1, false).hop.hop.card.key) > 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_path_keeps_the_rules(seed in any::<u64>(), hops in 1u8..=5, specs in prop::collection::vec((0u8..12, any::<bool>(), any::<bool>()), 1..14)) {
        let all: Vec<Relay> = specs.iter().enumerate().map(|(n, (net, entry, exit))| relay(n as u8, &global(*net), *entry, *exit)).collect();
        let relays = relays(&all);
        let entries = all.iter().filter(|relay| relay.entry.is_some()).count();
        let mut rng = Rng::from_number(seed);
        match relays.choose(Time::ZERO, &mut rng, &want(hops)) {
            Ok(route) => {
                prop_assert!(entries >= ENTRIES_MIN && route.hops.len() == usize::from(hops));
                prop_assert!(route.hops.len() + usize::from(route.imaginary) <= LAYERS_MAX);
                let found: Vec<&Relay> = route.keys().map(|key| relays.get(&key).unwrap()).collect();
                prop_assert!(found[0].entry == Some(route.link) && found.last().unwrap().exit);
                for (n, one) in found.iter().enumerate() {
                    prop_assert!(found[..n].iter().all(|other| !are_near(other, one)));
                }
            }
            Err(NoPath::Entries(count)) => prop_assert!(count == entries && entries < ENTRIES_MIN),
            Err(NoPath::Exit) => prop_assert!(all.iter().all(|relay| !relay.exit)),
            Err(NoPath::Relays(_)) => {
                // With both ends in networks of their own, any relay of each further network will do.
                let ends = specs.iter().filter(|(.., exit)| *exit);
                let both = ends.clone().any(|(net, ..)| specs.iter().any(|(first, entry, _)| *entry && first != net));
                let nets: std::collections::BTreeSet<u8> = specs.iter().map(|(net, ..)| *net).collect();
                let possible = match hops {
                    1 => ends.clone().any(|(_, entry, _)| *entry),
                    _ => both && nets.len() >= usize::from(hops),
                };
                prop_assert!(!possible, "there is a path of {hops}");
            }
            Err(NoPath::Hops | NoPath::Disjoint) => prop_assert!(false),
        }
    }

    /// As many paths as there are, to one exit: no relay but that on two of them, no network on two of them.
    #[test]
    fn paths_beside_one_another_share_nothing_but_the_exit(
        seed in any::<u64>(),
        hops in 2u8..=4,
        specs in prop::collection::vec((0u8..30, any::<bool>(), any::<bool>()), 6..40),
    ) {
        let all: Vec<Relay> = specs.iter().enumerate().map(|(n, (net, entry, exit))| relay(n as u8, &global(*net), *entry, *exit)).collect();
        let (relays, mut rng) = (relays(&all), Rng::from_number(seed));
        let Ok(first) = relays.choose(Time::ZERO, &mut rng, &want(hops)) else { return Ok(()) };
        let exit = first.keys().last();
        let mut avoid: Vec<PublicKey> = first.keys().take(usize::from(hops) - 1).collect();
        for _ in 1..4 {
            match relays.choose_beside(Time::ZERO, &mut rng, &Want { exit, ..want(hops) }, &avoid) {
                Ok(route) => {
                    let keys: Vec<PublicKey> = route.keys().collect();
                    prop_assert!(keys.last().copied() == exit);
                    for key in &keys[..keys.len() - 1] {
                        let one = relays.get(key).unwrap();
                        prop_assert!(avoid.iter().all(|other| !are_near(one, relays.get(other).unwrap())));
                    }
                    avoid.extend(&keys[..keys.len() - 1]);
                }
                Err(why) => {
                    prop_assert!(why == NoPath::Disjoint);
                    // With two hops any friend in a network of its own would do.
                    let free = |relay: &Relay| {
                        let exit = relays.get(&exit.unwrap()).unwrap();
                        let near = |other: &PublicKey| are_near(relay, relays.get(other).unwrap());
                        relay.entry.is_some() && !are_near(relay, exit) && !avoid.iter().any(near)
                    };
                    prop_assert!(hops > 2 || !all.iter().any(free), "there is one more");
                    break;
                }
            }
        }
    }
}

#[test]
fn what_others_say_of_leaving_is_gone_around_where_that_can_be_and_takes_no_exit() {
    let all: Vec<Relay> = (0..6).map(|n| relay(n, &global(n), n < 2, n > 3)).collect();
    let mut known = relays(&all);
    let mut leave = |n: usize, leaving| known.learn(Relay { leaving, ..all[n] });
    leave(2, Leaving::Told);
    leave(4, Leaving::Told);
    let uses = |known: &Relays, n: u8, want: Want| {
        let path = |seed| known.choose(Time::ZERO, &mut Rng::from_number(seed), &want);
        let mut paths = (0..200).filter_map(|seed| path(seed).ok()).peekable();
        assert!(paths.peek().is_some(), "a path");
        paths.any(|route| route.hops.iter().any(|hop| hop.hop.card.key.0[0] == n))
    };
    assert!(!uses(&known, 2, want(3)) && !uses(&known, 4, want(3)));
    let pinned = Want { exit: Some(PublicKey([4; 32])), ..want(3) };
    assert!(uses(&known, 4, pinned), "who has an exit keeps it");
    // Where there is no path else, it is no more than others' word.
    (2..6).for_each(|n| assert!(known.learn(Relay { leaving: Leaving::Told, ..all[n] })));
    assert!(uses(&known, 2, want(3)) && uses(&known, 4, want(3)));
    (4..6).for_each(|n| assert!(known.learn(Relay { leaving: Leaving::Said, ..all[n] })));
    let refused = known.choose(Time::ZERO, &mut Rng::from_number(1), &want(3));
    assert_eq!(refused.map(|_| ()), Err(NoPath::Exit), "its own word");
}

//! The relays that are known, what was held against each, and the choice of a path (docs/protocol/onion.md §7).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::search::Search;
use super::{HopInfo, LinkId, Route};
use crate::base::{PublicKey, Rng, Time};
use crate::limits::{
    BLAME_HALF_LIFE_MS, BLAMED_MAX, ENTRIES_MIN, IMAGINARY_LAYERS_MAX, LAYERS_MAX, RELAYS_KNOWN_MAX,
};

/// A relay as it is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Who, where, and its onion key.
    pub hop: HopInfo,
    /// How far it is trusted, 0 to 100: a friend as its operator said, others as their friends did, less for each hand.
    pub trust: u8,
    /// Whether it lets circuits end there.
    pub exit: bool,
    /// The session with it, if it is a connected friend: a possible first hop.
    pub entry: Option<LinkId>,
    /// Whether it leaves soon: no path begins to lead through it.
    pub leaving: bool,
}

/// What path is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Hops, the exit among them: 1 to [`LAYERS_MAX`].
    pub hops: u8,
    /// The exit, if it must be this one.
    pub exit: Option<PublicKey>,
    /// Whether fewer than [`ENTRIES_MIN`] possible first hops will do: the operator said so.
    pub force: bool,
    /// What the exit knows an address by.
    pub resume: [u8; 32],
    /// Whether further paths are to share nothing with it: friends are left for their first hops.
    pub several: bool,
}

/// Why there is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// More or fewer hops than a path has.
    #[error("a path has 1 to {LAYERS_MAX} hops")]
    Hops,
    /// Too few friends to hide among.
    #[error(
        "{0} connected friends relay, and at least {ENTRIES_MIN} must be possible first hops; connect more, or add --force"
    )]
    Entries(usize),
    /// No exit, or not the one that is wanted.
    #[error("no known relay may be the exit; a friend has to allow it: tornet config set exit.allow …")]
    Exit,
    /// No combination keeps the rules.
    #[error(
        "the {0} known relays give no path of so many hops in different networks; add friends, or take fewer hops"
    )]
    Relays(usize),
    /// None that shares nothing with the circuits beside it.
    #[error(
        "no further path shares no relay, and no network of one, with those that are open; add friends, or take fewer --paths"
    )]
    Disjoint,
}

/// What failed, and when; it fades.
#[derive(Debug, Clone, Copy)]
struct Blame {
    score: f64,
    at: Time,
}

/// All relays that are known.
#[derive(Default)]
pub struct Relays {
    known: BTreeMap<PublicKey, Relay>,
    blamed: BTreeMap<PublicKey, Blame>,
}

impl Relays {
    /// Learns of a relay, or news of one. False when no more are kept; friends always are.
    pub fn learn(&mut self, relay: Relay) -> bool {
        let key = relay.hop.hop.card.key;
        let room = self.known.len() < RELAYS_KNOWN_MAX || self.known.contains_key(&key);
        if !room && relay.entry.is_none() {
            return false;
        }
        if !room {
            let stranger = self.known.iter().find(|(_, known)| known.entry.is_none()).map(|(key, _)| *key);
            let Some(stranger) = stranger else { return false };
            self.known.remove(&stranger);
        }
        self.known.insert(key, relay);
        true
    }

    /// What is known of one.
    pub fn get(&self, key: &PublicKey) -> Option<&Relay> {
        self.known.get(key)
    }

    /// The session with a friend that relays, as far as there is one for circuits to begin on; false when it is not known.
    pub fn set_entry(&mut self, key: &PublicKey, entry: Option<LinkId>) -> bool {
        let known = self.known.get_mut(key);
        known.is_some_and(|relay| {
            relay.entry = entry;
            true
        })
    }

    /// It relays no more, or is gone.
    pub fn forget(&mut self, key: &PublicKey) {
        self.known.remove(key);
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Holds a failure against a relay. Its half-life is [`BLAME_HALF_LIFE_MS`]; one point halves its chances.
    pub fn blame(&mut self, now: Time, key: PublicKey, score: f64) {
        let before = self.score(now, &key);
        if self.blamed.len() >= BLAMED_MAX && !self.blamed.contains_key(&key) {
            let least = self.blamed.keys().min_by(|a, b| self.score(now, a).total_cmp(&self.score(now, b)));
            let Some(least) = least.copied() else { return };
            self.blamed.remove(&least);
        }
        self.blamed.insert(key, Blame { score: before + score, at: now });
    }

    /// It was part of a path that works: half of what was held against it is forgotten.
    pub fn praise(&mut self, now: Time, key: &PublicKey) {
        let score = self.score(now, key) / 2.0;
        if score < 0.1 {
            self.blamed.remove(key);
        } else if let Some(blame) = self.blamed.get_mut(key) {
            *blame = Blame { score, at: now };
        }
    }

    /// What is held against a relay by now.
    pub fn score(&self, now: Time, key: &PublicKey) -> f64 {
        let Some(blame) = self.blamed.get(key) else { return 0.0 };
        let age = now.since(blame.at).as_secs_f64();
        let half_life = Duration::from_millis(BLAME_HALF_LIFE_MS).as_secs_f64();
        blame.score * 0.5f64.powf(age / half_life)
    }

    /// Chooses a path at random: a relay's chances grow with its trust and rank and halve with each failure. The first
    /// hop is a connected friend, and no two hops lie in one prefix of the global network.
    pub fn choose(&self, now: Time, rng: &mut Rng, want: &Want) -> Result<Route, NoPath> {
        self.choose_beside(now, rng, want, &[])
    }

    /// A path that shares no relay but the exit with others: none of `avoid`, and none in a network of theirs.
    pub fn choose_beside(
        &self,
        now: Time,
        rng: &mut Rng,
        want: &Want,
        avoid: &[PublicKey],
    ) -> Result<Route, NoPath> {
        let hops = usize::from(want.hops);
        if !(1..=LAYERS_MAX).contains(&hops) {
            return Err(NoPath::Hops);
        }
        let staying = || self.known.values().filter(|relay| !relay.leaving);
        let entries = staying().filter(|relay| relay.entry.is_some()).count();
        if entries == 0 || (entries < ENTRIES_MIN && !want.force) {
            return Err(NoPath::Entries(entries));
        }
        let may_end = |relay: &Relay| match want.exit {
            Some(key) => relay.hop.hop.card.key == key,
            None => relay.exit,
        };
        if !staying().any(may_end) {
            return Err(NoPath::Exit);
        }
        let order = self.shuffled(now, rng);
        let mut search = Search { order, chosen: vec![None; hops], steps: 0 };
        // The exit first, then the first hop: there are fewest of them.
        let places: Vec<usize> = match hops {
            1 => vec![0],
            _ => [hops - 1, 0].into_iter().chain(1..hops - 1).collect(),
        };
        let is_avoided = |relay: &Relay| {
            let near = |key: &PublicKey| {
                *key == relay.hop.hop.card.key
                    || self.known.get(key).is_some_and(|other| are_near(other, relay))
            };
            avoid.iter().any(near)
        };
        let fits = |place: usize, relay: &Relay| {
            let is_end = place == hops - 1;
            (place != 0 || relay.entry.is_some()) && if is_end { may_end(relay) } else { !is_avoided(relay) }
        };
        let spares = |place: usize, relay: &Relay| {
            let is_middle = place != 0 && place != hops - 1;
            fits(place, relay) && !(is_middle && relay.entry.is_some())
        };
        // As far as others will do.
        let spared = want.several && search.fill(&places, &spares);
        search.steps = 0;
        if !spared && !search.fill(&places, &fits) {
            return Err(if avoid.is_empty() { NoPath::Relays(self.known.len()) } else { NoPath::Disjoint });
        }
        let chosen: Vec<&Relay> = search.chosen.into_iter().flatten().collect();
        let link = chosen[0].entry.expect("the first hop is connected");
        let imaginary = rng.below(IMAGINARY_LAYERS_MAX.min(LAYERS_MAX - hops) as u64 + 1) as u8;
        let hops = chosen.into_iter().map(|relay| relay.hop).collect();
        Ok(Route { link, hops, imaginary, resume: want.resume })
    }

    /// An exit that is none of these, drawn as for a path.
    pub fn another_exit(&self, now: Time, rng: &mut Rng, not: &[PublicKey]) -> Option<PublicKey> {
        let fits = |relay: &&Relay| relay.exit && !not.contains(&relay.hop.hop.card.key);
        self.shuffled(now, rng).into_iter().find(fits).map(|relay| relay.hop.hop.card.key)
    }

    /// All relays in an order of chance: each is first as often as its weight among all weights.
    fn shuffled(&self, now: Time, rng: &mut Rng) -> Vec<&Relay> {
        let mut order: Vec<(f64, &Relay)> = self
            .known
            .iter()
            .filter(|(_, relay)| !relay.leaving)
            .map(|(key, relay)| {
                let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                let weight = weight(relay) * 0.5f64.powf(self.score(now, key));
                (-(1.0 - uniform).ln() / weight, relay)
            })
            .collect();
        order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        order.into_iter().map(|(_, relay)| relay).collect()
    }
}

/// Trust and work, neither of which alone is cheap for one who wants to be chosen everywhere.
fn weight(relay: &Relay) -> f64 {
    f64::from(5 + relay.trust) * f64::from(relay.hop.hop.card.rank())
}

/// Whether two may not be hops of one path: the same, or in one prefix of the global network.
pub(super) fn are_near(a: &Relay, b: &Relay) -> bool {
    let prefix_of = |relay: &Relay| relay.hop.hop.address.and_then(|address| global_prefix(address.ip()));
    a.hop.hop.card.key == b.hop.hop.card.key
        || prefix_of(a).is_some_and(|prefix| prefix_of(b) == Some(prefix))
}

/// The /16 or /32 of a global address: what one operator has. `None` for private, loopback and link-local ones.
fn global_prefix(ip: IpAddr) -> Option<(bool, u32)> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let local =
                ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared;
            (!local).then(|| (false, u32::from(ip) >> 16))
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            let local = ip.is_loopback()
                || ip.is_unspecified()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80;
            (!local).then(|| (true, u32::from(first) << 16 | u32::from(ip.segments()[1])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::IdentityCard;
    use crate::onion::OnionKey;
    use crate::wire::build::NextHop;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    fn relay(n: u8, address: &str, entry: bool, exit: bool) -> Relay {
        let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
        let address = Some(address.parse().unwrap());
        let hop = HopInfo { hop: NextHop { card, address }, onion: OnionKey { number: 0, key: [n; 32] } };
        Relay { hop, trust: 50, exit, entry: entry.then_some(LinkId(n.into())), leaving: false }
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
        let mut choose =
            |all: &[Relay], want: Want| relays(all).choose(Time::ZERO, &mut rng, &want).map(|_| ());
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
}

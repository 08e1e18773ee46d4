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
    pub leaving: Leaving,
}

/// Whether a relay leaves soon, and whose word that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    #[default]
    No,
    /// Others say that it leaves: new paths take others if there are any.
    Told,
    /// It says so itself.
    Said,
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
        let path = self.choose_among(now, rng, want, avoid, false);
        // What is said of others leaves nobody without a path.
        let told = |relay: &Relay| relay.leaving == Leaving::Told;
        if path.is_ok() || !self.known.values().any(told) {
            return path;
        }
        self.choose_among(now, rng, want, avoid, true)
    }

    fn choose_among(
        &self,
        now: Time,
        rng: &mut Rng,
        want: &Want,
        avoid: &[PublicKey],
        doubted: bool,
    ) -> Result<Route, NoPath> {
        let hops = usize::from(want.hops);
        if !(1..=LAYERS_MAX).contains(&hops) {
            return Err(NoPath::Hops);
        }
        let stays = |relay: &Relay| match relay.leaving {
            Leaving::No => true,
            Leaving::Told => doubted || want.exit == Some(relay.hop.hop.card.key),
            Leaving::Said => false,
        };
        let staying = || self.known.values().filter(|relay| stays(relay));
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
        let order = self.shuffled(now, rng, stays);
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
        let stays = |relay: &Relay| relay.leaving == Leaving::No;
        self.shuffled(now, rng, stays).into_iter().find(fits).map(|relay| relay.hop.hop.card.key)
    }

    /// All relays in an order of chance: each is first as often as its weight among all weights.
    fn shuffled(&self, now: Time, rng: &mut Rng, stays: impl Fn(&Relay) -> bool) -> Vec<&Relay> {
        let mut order: Vec<(f64, &Relay)> = self
            .known
            .iter()
            .filter(|(_, relay)| stays(relay))
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
mod tests;

//! Who has chunks kept here, and how much of the cache each may fill: so much per minute, and so much of the whole in a day.
//! So no stranger turns the cache over for everybody (docs/protocol/keep.md §3).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::{Budget, PublicKey, Time};
use crate::limits::{
    KEEP_FRIEND_TIMES, KEEP_GUESTS_MAX, KEEP_NETWORK_KIB_BURST, KEEP_NETWORK_KIB_PER_SECOND,
    KEEP_NETWORK_SHARE, KEEP_STRANGERS_KIB_BURST, KEEP_STRANGERS_KIB_PER_SECOND, KEEP_STRANGERS_SHARE,
};
use crate::overlay::site::Site;
use crate::wire::overlay::Endpoint;

const DAY_S: u64 = 24 * 3600;

/// On whose account something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// A friend's.
    Friend(PublicKey),
    /// Strangers' of one IPv4 /16 or IPv6 /32.
    Network(Site),
    /// A stranger's with an address that is not global: whoever has one of those is near, and no crowd.
    Address(IpAddr),
}

impl Guest {
    /// Whoever is at an address, or a friend wherever it is.
    pub fn of(friend: Option<PublicKey>, address: SocketAddr) -> Self {
        let site = Endpoint::new(address).and_then(|endpoint| Site::of(&endpoint, false));
        match (friend, site) {
            (Some(key), _) => Self::Friend(key),
            (None, Some(site)) => Self::Network(site.network()),
            (None, None) => Self::Address(address.ip().to_canonical()),
        }
    }

    /// Whether it is no friend.
    pub fn is_stranger(&self) -> bool {
        !matches!(self, Self::Friend(_))
    }
}

/// So much per second over time and at once, KiB.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// Of a part of the cache in a day.
    fn daily(bytes: u64) -> Self {
        let whole = |kib: u64| u32::try_from(kib.max(1)).unwrap_or(u32::MAX);
        Self { per_second: whole(bytes / 1024 / DAY_S).min(1_000_000_000), burst: whole(bytes / 1024) }
    }

    fn part(self, of: u32) -> Self {
        Self { per_second: (self.per_second / of).max(1), burst: (self.burst / of).max(1024) }
    }

    fn times(self, factor: u32) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(factor).min(1_000_000_000),
            burst: self.burst.saturating_mul(factor),
        }
    }
}

/// What somebody gave lately.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    lately: Budget,
    today: Budget,
    at: Time,
}

impl Given {
    /// Takes so much from both budgets, or from none.
    fn take(&mut self, kib: u32, rates: &[Rate; 2], now: Time) -> bool {
        let before = *self;
        let [lately, today] = rates;
        self.at = now;
        let may = self.lately.take(kib, lately.per_second, lately.burst, now)
            && self.today.take(kib, today.per_second, today.burst, now);
        if !may {
            *self = Self { at: now, ..before };
        }
        may
    }

    fn may(mut self, kib: u32, rates: &[Rate; 2], now: Time) -> bool {
        self.take(kib, rates, now)
    }
}

/// All guests of one shard.
#[derive(Debug, Default)]
pub struct Guests {
    given: BTreeMap<Guest, Given>,
    strangers: Given,
}

/// What they may give, by the cache's size.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    network: [Rate; 2],
    friend: [Rate; 2],
    strangers: [Rate; 2],
}

impl Allowance {
    /// Of a node with `shards` shards, which have equal parts, and a cache of so many bytes.
    pub fn new(cache_bytes: u64, shards: u8) -> Self {
        let of = u32::from(shards.max(1));
        let lately = Rate { per_second: KEEP_NETWORK_KIB_PER_SECOND, burst: KEEP_NETWORK_KIB_BURST };
        let all = Rate { per_second: KEEP_STRANGERS_KIB_PER_SECOND, burst: KEEP_STRANGERS_KIB_BURST };
        let network = [lately, Rate::daily(cache_bytes / KEEP_NETWORK_SHARE)].map(|rate| rate.part(of));
        Self {
            network,
            friend: network.map(|rate| rate.times(KEEP_FRIEND_TIMES)),
            strangers: [all, Rate::daily(cache_bytes / KEEP_STRANGERS_SHARE)].map(|rate| rate.part(of)),
        }
    }

    fn of(&self, guest: &Guest) -> &[Rate; 2] {
        if guest.is_stranger() { &self.network } else { &self.friend }
    }
}

fn kib(bytes: u32) -> u32 {
    bytes.div_ceil(1024)
}

impl Guests {
    /// Whether a guest may give so many bytes now. They are on its account from then on, whatever comes of them; on that of
    /// all strangers only once they came ([`Self::came`]), since offering costs nothing.
    pub fn take(&mut self, guest: Guest, bytes: u32, allowed: &Allowance, now: Time) -> bool {
        if guest.is_stranger() && !self.strangers.may(kib(bytes), &allowed.strangers, now) {
            return false;
        }
        if !self.given.contains_key(&guest) && self.given.len() >= KEEP_GUESTS_MAX {
            self.forget(now);
        }
        self.given.entry(guest).or_default().take(kib(bytes), allowed.of(&guest), now)
    }

    /// So many bytes of a guest are kept.
    pub fn came(&mut self, guest: Guest, bytes: u32, allowed: &Allowance, now: Time) {
        if guest.is_stranger() {
            // What is under way is beyond it at most.
            self.strangers.take(kib(bytes), &allowed.strangers, now);
        }
    }

    /// Makes room: for those of more than a day ago, or for whoever was silent longest.
    fn forget(&mut self, now: Time) {
        self.given.retain(|_, given| now.since(given.at) < Duration::from_secs(DAY_S));
        if self.given.len() >= KEEP_GUESTS_MAX {
            let oldest = self.given.iter().min_by_key(|(_, given)| given.at).map(|(guest, _)| *guest);
            oldest.and_then(|oldest| self.given.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn stranger(a: u8, b: u8, c: u8) -> Guest {
        Guest::of(None, ([a, b, c, 1], 4600).into())
    }

    #[test]
    fn strangers_of_one_network_are_one_guest_and_a_friend_is_itself_everywhere() {
        assert_eq!(stranger(20, 1, 1), stranger(20, 1, 200));
        assert_ne!(stranger(20, 1, 1), stranger(20, 2, 1));
        assert_ne!(stranger(10, 0, 1), stranger(10, 0, 2), "neighbours are no crowd");
        let friend = Some(PublicKey([1; 32]));
        let at = |ip: [u8; 4]| Guest::of(friend, (ip, 1).into());
        assert!(at([20, 1, 1, 1]) == at([99, 1, 1, 1]) && !at([20, 1, 1, 1]).is_stranger());
    }

    fn fill(guests: &mut Guests, guest: Guest, allowed: &Allowance, now: Time) -> u32 {
        let mut count = 0;
        while guests.take(guest, MIB, allowed, now) {
            guests.came(guest, MIB, allowed, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_network_has_its_part_and_all_of_them_have_theirs() {
        let (mut guests, allowed) = (Guests::default(), Allowance::new(16 << 30, 1));
        let now = Time::from_millis(1000);
        let burst = KEEP_NETWORK_KIB_BURST / 1024;
        assert_eq!(fill(&mut guests, stranger(20, 1, 1), &allowed, now), burst);
        assert_eq!(fill(&mut guests, stranger(20, 1, 7), &allowed, now), 0, "whoever of it asks");
        let others: u32 = (2..200).map(|b| fill(&mut guests, stranger(20, b, 1), &allowed, now)).sum();
        assert_eq!(burst + others, KEEP_STRANGERS_KIB_BURST / 1024, "all together");
        let friend = Guest::Friend(PublicKey([1; 32]));
        assert_eq!(fill(&mut guests, friend, &allowed, now), burst * KEEP_FRIEND_TIMES, "friends apart");
        let later = now + Duration::from_secs(60);
        let per_minute = KEEP_NETWORK_KIB_PER_SECOND * 60 / 1024;
        assert_eq!(fill(&mut guests, stranger(20, 1, 1), &allowed, later), per_minute);
    }

    /// However many networks somebody has, and however patient it is: of a cache, what was there a day ago is half there.
    #[test]
    fn a_day_of_giving_does_not_turn_the_cache_over() {
        let cache = 2 << 30;
        let (mut guests, allowed) = (Guests::default(), Allowance::new(cache, 1));
        let mut one = 0;
        let mut all = 0;
        for minute in 0..24 * 60 {
            let now = Time::from_millis(1000 + minute * 60_000);
            one += fill(&mut guests, stranger(20, 1, 1), &allowed, now);
            all += (2..60).map(|b| fill(&mut guests, stranger(20, b, 1), &allowed, now)).sum::<u32>();
        }
        // A full budget and what a day adds to it.
        let most = |share: u64| 2 * (cache / share / u64::from(MIB)) as u32 + 1;
        assert!(one <= most(KEEP_NETWORK_SHARE), "{one}");
        assert!(one + all <= most(KEEP_STRANGERS_SHARE), "{}", one + all);
        assert!(one + all >= most(KEEP_STRANGERS_SHARE) / 2, "{}", one + all);
    }

    #[test]
    fn guests_are_bounded() {
        let (mut guests, allowed) = (Guests::default(), Allowance::new(16 << 30, 4));
        for n in 0..KEEP_GUESTS_MAX as u32 + 100 {
            let [_, a, b, c] = n.to_be_bytes();
            guests.take(Guest::Address([10, a, b, c].into()), 1024, &allowed, Time::from_millis(n.into()));
        }
        assert_eq!(guests.given.len(), KEEP_GUESTS_MAX);
        assert!(!guests.given.contains_key(&Guest::Address([10, 0, 0, 0].into())));
    }
}

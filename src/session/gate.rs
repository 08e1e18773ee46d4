//! Who may cost us a Diffie-Hellman: load, cookies and prefixes (docs/protocol/session.md §4).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::disguise::COOKIE_SIZE;
use crate::base::{Rng, Time};
use crate::crypto::{Secret, hash};
use crate::limits::{
    COOKIE_ASKERS, COOKIE_BUCKETS, COOKIE_ROTATION_MS, COOKIE_WINDOW_MS, COOKIES_FREE_PER_SECOND,
    COOKIES_PER_SECOND, HANDSHAKES_FREE_PER_SECOND, HANDSHAKES_PER_PREFIX_PER_SECOND,
    HANDSHAKES_PROVEN_PER_SECOND, PREFIXES_MAX,
};

const SECOND: Duration = Duration::from_secs(1);

/// What to do with a first flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Go on.
    Admit {
        /// Whether its cookie proves the address.
        proven: bool,
    },
    /// Answer with this cookie, and nothing else.
    Cookie([u8; COOKIE_SIZE]),
    /// Drop it.
    Refuse,
}

/// The state of a shard's door.
pub(super) struct Gate {
    second: Time,
    /// Of this second: admitted at all, admitted with a cookie.
    admitted: u32,
    admitted_proven: u32,
    // Apart, so that forged addresses cannot use up what proven ones need.
    unproven: Buckets,
    proven: Buckets,
    asked: SharedBuckets,
    lottery: Lottery,
    cookies: Cookies,
    /// Since when so many came from other shards: without a cookie, and with one.
    offers: (Time, u32, u32),
}

impl Gate {
    pub(super) fn new(now: Time, rng: &mut Rng) -> Self {
        Self {
            second: now,
            admitted: 0,
            admitted_proven: 0,
            unproven: Buckets::new(now),
            proven: Buckets::new(now),
            asked: SharedBuckets::new(rng),
            lottery: Lottery::new(now),
            cookies: Cookies::new(now, rng),
            offers: (now, 0, 0),
        }
    }

    /// Judges a first flight by its address and the cookie that it echoes (zeros for none).
    pub(super) fn admit(
        &mut self,
        now: Time,
        remote: SocketAddr,
        echoed: &[u8; COOKIE_SIZE],
        rng: &mut Rng,
    ) -> Admission {
        if now.since(self.second) >= SECOND {
            (self.second, self.admitted, self.admitted_proven) = (now, 0, 0);
        }
        self.cookies.roll(now, rng);
        let proven = *echoed != [0; COOKIE_SIZE] && self.cookies.verify(remote, echoed);
        let prefix = Prefix::of(remote.ip());
        let admitted = if proven {
            self.admitted_proven < HANDSHAKES_PROVEN_PER_SECOND && self.proven.take(prefix, now)
        } else {
            self.admitted < HANDSHAKES_FREE_PER_SECOND && self.unproven.take(prefix, now)
        };
        match (admitted, proven) {
            (true, _) => {
                self.admitted += 1;
                self.admitted_proven += u32::from(proven);
                Admission::Admit { proven }
            }
            // A cookie costs a datagram, so these are bounded too: of a flood from few prefixes each has its share,
            // and the others do not notice; of one from everywhere chance picks.
            (false, false) if self.asked.take(prefix, now) && self.lottery.draw(now, rng) => {
                Admission::Cookie(self.cookies.make(remote))
            }
            (false, _) => Admission::Refuse,
        }
    }

    /// Judges a first flight that another shard has admitted: all shards together bring a home no more than comes to
    /// one of them.
    pub(super) fn admit_offer(&mut self, now: Time, proven: bool) -> bool {
        if now.since(self.offers.0) >= SECOND {
            self.offers = (now, 0, 0);
        }
        let (_, unproven_so_far, proven_so_far) = &mut self.offers;
        let (count, most) = if proven {
            (proven_so_far, HANDSHAKES_PROVEN_PER_SECOND)
        } else {
            (unproven_so_far, HANDSHAKES_FREE_PER_SECOND)
        };
        *count += 1;
        *count <= most
    }
}

/// What one operator is likely to hold: a /24 of IPv4, a /56 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    V4(u32),
    V6(u64),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits() >> 8),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 72) as u64),
        }
    }
}

/// Token buckets in two generations of one second: a bucket that is in neither is full.
struct Buckets {
    began: Time,
    /// The time at which the bucket will be full again.
    current: BTreeMap<Prefix, Time>,
    before: BTreeMap<Prefix, Time>,
}

impl Buckets {
    fn new(now: Time) -> Self {
        Self { began: now, current: BTreeMap::new(), before: BTreeMap::new() }
    }

    fn take(&mut self, prefix: Prefix, now: Time) -> bool {
        let age = now.since(self.began);
        if age >= SECOND {
            self.before = std::mem::take(&mut self.current);
            if age >= 2 * SECOND {
                self.before.clear();
            }
            self.began = now;
        }
        let known = self.current.get(&prefix);
        if known.is_none() && self.current.len() >= PREFIXES_MAX {
            return false;
        }
        let full_at = known.or_else(|| self.before.get(&prefix)).map_or(now, |full_at| now.max(*full_at))
            + SECOND / HANDSHAKES_PER_PREFIX_PER_SECOND;
        let room = full_at.since(now) <= SECOND;
        if room {
            self.current.insert(prefix, full_at);
        }
        room
    }
}

/// Token buckets that prefixes share at random: for those whose addresses may all be forged, so that no table of them
/// can be filled. Who shares a bucket is drawn at the start and told to nobody.
struct SharedBuckets {
    /// Multiplier and summand of the hash: multiply-shift, 2-universal.
    hash: (u128, u128),
    /// The time at which each bucket will be full again.
    full_at: Box<[Time]>,
}

impl SharedBuckets {
    fn new(rng: &mut Rng) -> Self {
        let mut draw = || u128::from_le_bytes(rng.bytes());
        Self { hash: (draw(), draw()), full_at: vec![Time::ZERO; COOKIE_BUCKETS].into() }
    }

    fn take(&mut self, prefix: Prefix, now: Time) -> bool {
        let number = match prefix {
            Prefix::V4(high) => 1 << 63 | u64::from(high),
            Prefix::V6(high) => high,
        };
        let mixed = self.hash.0.wrapping_mul(number.into()).wrapping_add(self.hash.1);
        let slot = &mut self.full_at[(mixed >> (128 - COOKIE_BUCKETS.ilog2())) as usize];
        let full_at = now.max(*slot) + SECOND / HANDSHAKES_PER_PREFIX_PER_SECOND;
        let room = full_at.since(now) <= SECOND;
        if room {
            *slot = full_at;
        }
        room
    }
}

/// Who gets a cookie when more ask than get one. Were it the first that ask, a flood would leave nothing to anybody
/// else; as it is, whoever asks again gets one in the end. A cookie costs a few microseconds, most of them for
/// sending it, so one for each that asks would cost more than to receive the flood: one for every eighth does not.
struct Lottery {
    began: Time,
    /// Who asked in this window, and in the one before.
    asked: u64,
    before: u64,
    given: u64,
}

impl Lottery {
    /// Askers of one window who all get one.
    const FREE: u64 = COOKIES_FREE_PER_SECOND * COOKIE_WINDOW_MS / 1000;
    /// Cookies of one window at most.
    const MOST: u64 = COOKIES_PER_SECOND * COOKIE_WINDOW_MS / 1000;

    fn new(now: Time) -> Self {
        Self { began: now, asked: 0, before: 0, given: 0 }
    }

    fn draw(&mut self, now: Time, rng: &mut Rng) -> bool {
        let (age, window) = (now.since(self.began), Duration::from_millis(COOKIE_WINDOW_MS));
        if age >= window {
            self.before = if age < 2 * window { self.asked } else { 0 };
            (self.began, self.asked, self.given) = (now, 0, 0);
        }
        self.asked += 1;
        let load = self.asked.max(self.before);
        let share = (load / COOKIE_ASKERS).clamp(Self::FREE, Self::MOST);
        // How large a flood is shows only once it is there: its first window may get twice as much, and no more.
        let won = self.given < 2 * Self::MOST && (load <= share || rng.below(load) < share);
        self.given += u64::from(won);
        won
    }
}

/// Cookies: proofs that an address receives what we send to it, without state per address.
struct Cookies {
    secret: Secret,
    before: Secret,
    began: Time,
}

impl Cookies {
    fn new(now: Time, rng: &mut Rng) -> Self {
        Self { secret: Secret::from_bytes(rng.bytes()), before: Secret::from_bytes(rng.bytes()), began: now }
    }

    fn roll(&mut self, now: Time, rng: &mut Rng) {
        let age = now.since(self.began);
        let rotation = Duration::from_millis(COOKIE_ROTATION_MS);
        if age >= rotation {
            let fresh = Secret::from_bytes(rng.bytes());
            self.before = std::mem::replace(&mut self.secret, fresh);
            if age >= 2 * rotation {
                self.before = Secret::from_bytes(rng.bytes());
            }
            self.began = now;
        }
    }

    fn make(&self, remote: SocketAddr) -> [u8; COOKIE_SIZE] {
        hash::mac(&self.secret, &[&address_bytes(remote)])
    }

    fn verify(&self, remote: SocketAddr, cookie: &[u8; COOKIE_SIZE]) -> bool {
        let address = address_bytes(remote);
        [&self.secret, &self.before].iter().any(|secret| hash::verify_mac(secret, &[&address], cookie))
    }
}

fn address_bytes(remote: SocketAddr) -> [u8; 18] {
    let mut out = [0; 18];
    out[..16].copy_from_slice(&ip_bytes(remote.ip()));
    out[16..].copy_from_slice(&remote.port().to_le_bytes());
    out
}

/// An address as 16 bytes, the same whether the socket wrote it as IPv4 or as mapped IPv6.
pub(super) fn ip_bytes(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u8; 16] = [0; 16];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn gate() -> (Gate, Rng) {
        let mut rng = Rng::from_number(1);
        (Gate::new(Time::ZERO, &mut rng), rng)
    }

    #[test]
    fn load_asks_for_cookies_and_a_cookie_admits_its_address_only() {
        let (mut gate, mut rng) = gate();
        for n in 0..HANDSHAKES_FREE_PER_SECOND {
            let from = SocketAddr::from(([10, (n / 40) as u8, 7, 1], 5));
            assert_eq!(gate.admit(Time::ZERO, from, &NONE, &mut rng), Admission::Admit { proven: false });
        }
        let (here, there) = (at("192.0.2.1:7"), at("192.0.2.1:8"));
        let Admission::Cookie(cookie) = gate.admit(Time::ZERO, here, &NONE, &mut rng) else { panic!() };
        assert!(matches!(gate.admit(Time::ZERO, there, &cookie, &mut rng), Admission::Cookie(_)));
        assert_eq!(gate.admit(Time::ZERO, here, &cookie, &mut rng), Admission::Admit { proven: true });
        let next = Time::from_millis(1000);
        assert_eq!(gate.admit(next, there, &NONE, &mut rng), Admission::Admit { proven: false });
    }

    #[test]
    fn cookies_age_by_rotation() {
        let (mut gate, mut rng) = gate();
        let from = at("192.0.2.1:7");
        let cookie = gate.cookies.make(from);
        let rotation = Time::from_millis(COOKIE_ROTATION_MS);
        assert_eq!(gate.admit(rotation, from, &cookie, &mut rng), Admission::Admit { proven: true });
        let old = Time::from_millis(2 * COOKIE_ROTATION_MS);
        assert_eq!(gate.admit(old, from, &cookie, &mut rng), Admission::Admit { proven: false });
    }

    #[test]
    fn a_prefix_has_its_share_and_no_more() {
        let (mut gate, mut rng) = gate();
        let burst = HANDSHAKES_PER_PREFIX_PER_SECOND;
        let mut admitted = 0;
        for n in 0..burst + 30 {
            let from = SocketAddr::from(([192, 0, 2, n as u8], 1));
            admitted += u32::from(
                gate.admit(Time::ZERO, from, &NONE, &mut rng) == Admission::Admit { proven: false },
            );
        }
        assert_eq!(admitted, burst);
        let other = at("192.0.3.1:1");
        assert_eq!(gate.admit(Time::ZERO, other, &NONE, &mut rng), Admission::Admit { proven: false });
        // Half a second later half the bucket is there again, whatever the generation.
        for n in 0..burst / 2 {
            let from = SocketAddr::from(([192, 0, 2, n as u8], 1));
            assert!(matches!(
                gate.admit(Time::from_millis(500), from, &NONE, &mut rng),
                Admission::Admit { .. }
            ));
        }
        assert!(matches!(
            gate.admit(Time::from_millis(500), at("192.0.2.9:1"), &NONE, &mut rng),
            Admission::Cookie(_)
        ));
    }

    #[test]
    fn a_proven_flood_from_one_prefix_is_refused() {
        let (mut gate, mut rng) = gate();
        let from = at("[2001:db8:0:1::1]:9");
        let cookie = gate.cookies.make(from);
        let results: Vec<_> = (0..HANDSHAKES_PER_PREFIX_PER_SECOND + 1)
            .map(|_| gate.admit(Time::ZERO, from, &cookie, &mut rng))
            .collect();
        assert_eq!(results.last(), Some(&Admission::Refuse));
        assert!(results.iter().rev().skip(1).all(|one| *one == Admission::Admit { proven: true }));
    }

    #[test]
    fn the_table_of_prefixes_is_bounded() {
        let mut buckets = Buckets::new(Time::ZERO);
        let taken = (0..PREFIXES_MAX as u32 + 9).filter(|n| buckets.take(Prefix::V4(*n), Time::ZERO)).count();
        assert_eq!((taken, buckets.current.len()), (PREFIXES_MAX, PREFIXES_MAX));
        assert!(buckets.take(Prefix::V4(u32::MAX), Time::from_millis(1000)));
    }

    /// Found by review: the first 2,000 of a second got all cookies, so that a flood with forged addresses left none to
    /// anybody else.
    #[test]
    fn a_newcomer_gets_in_beside_a_flood_from_everywhere() {
        const FLOOD_PER_MS: u32 = 100;
        let (mut gate, mut rng) = gate();
        // First flights as an initiator sends them: three handshakes of 20 s each.
        let tries = [0, 500, 1500, 3500, 7500, 15_500];
        let calls = [2000, 22_500, 43_500];
        let tries: Vec<u64> = calls.iter().flat_map(|call| tries.map(|ms| call + ms)).collect();
        let newcomers: Vec<SocketAddr> = (0..100).map(|n| ([192, 0, n, 1], 7).into()).collect();
        let mut told = vec![false; newcomers.len()];
        let (mut cookies, mut most, mut admitted) = (0u32, 0u32, 0);
        for ms in 0..=60_000 {
            // What nobody asks in is left out: the flood begins a good while before each try.
            let near = tries.iter().any(|at| (*at).abs_diff(ms) <= 250);
            let now = Time::from_millis(ms);
            if ms % 1000 == 0 {
                (most, cookies) = (most.max(cookies), 0);
            }
            for _ in 0..if near { FLOOD_PER_MS } else { 0 } {
                let from = SocketAddr::from((rng.bytes::<4>(), 9));
                cookies += u32::from(matches!(gate.admit(now, from, &NONE, &mut rng), Admission::Cookie(_)));
            }
            if tries.contains(&ms) {
                for (from, told) in newcomers.iter().zip(&mut told).filter(|(_, told)| !**told) {
                    match gate.admit(now, *from, &NONE, &mut rng) {
                        Admission::Cookie(cookie) => {
                            *told = true;
                            let proven = gate.admit(now, *from, &cookie, &mut rng);
                            admitted += u32::from(proven == Admission::Admit { proven: true });
                        }
                        Admission::Admit { .. } => panic!("there is no flood"),
                        Admission::Refuse => {}
                    }
                }
            }
        }
        // One try of eight wins: of six 55 in 100 do, of eighteen 91.
        let got = told.iter().filter(|told| **told).count();
        assert!(got >= 80, "{got} of {} got a cookie", newcomers.len());
        assert_eq!(admitted as usize, got, "and with it they are in");
        assert!(u64::from(most) <= COOKIES_PER_SECOND, "{most} cookies in one second");
    }

    #[test]
    fn a_flood_gets_its_share_of_cookies_and_no_more() {
        let mut rng = Rng::from_number(3);
        let mut lottery = Lottery::new(Time::ZERO);
        let (free, most) = (Lottery::FREE, Lottery::MOST);
        let mut window = |ms: u64, asks: u64| {
            (0..asks).filter(|_| lottery.draw(Time::from_millis(ms), &mut rng)).count() as u64
        };
        assert_eq!(window(0, free), free, "nobody who asks with few others is left out");
        assert_eq!(window(100, 100 * most), 2 * most, "a flood's first window");
        for n in 2..8 {
            let won = window(100 * n, 100 * most);
            assert!(won.abs_diff(most) < most / 8, "{won} in window {n}");
        }
        assert!(window(800, 100) < 20, "what comes right behind a flood counts as part of it");
        assert_eq!(window(1200, free), free);
        let eighth = window(1300, 5000) + window(1400, 5000) + window(1500, 5000);
        assert!((1800..2800).contains(&eighth), "{eighth} of 15,000");
    }

    #[test]
    fn a_prefix_has_its_share_of_cookies_and_takes_nobody_elses() {
        let mut rng = Rng::from_number(4);
        let mut buckets = SharedBuckets::new(&mut rng);
        let taken = (0..1000).filter(|_| buckets.take(Prefix::V4(7), Time::ZERO)).count();
        assert_eq!(taken, HANDSHAKES_PER_PREFIX_PER_SECOND as usize);
        let others = (0..1000).filter(|n| buckets.take(Prefix::V6(*n), Time::ZERO)).count();
        assert!(others > 990, "{others}");
        assert!(buckets.take(Prefix::V4(7), Time::from_millis(20)));
    }

    #[test]
    fn mapped_addresses_are_the_same() {
        assert_eq!(
            Prefix::of("::ffff:192.0.2.1".parse().unwrap()),
            Prefix::of("192.0.2.99".parse().unwrap())
        );
        assert_eq!(
            Prefix::of("2001:db8:0:1::1".parse().unwrap()),
            Prefix::of("2001:db8:0:fe::".parse().unwrap())
        );
        assert_ne!(
            Prefix::of("2001:db8:0:1::1".parse().unwrap()),
            Prefix::of("2001:db8:0:100::".parse().unwrap())
        );
        assert_eq!(address_bytes(at("[::ffff:192.0.2.1]:7")), address_bytes(at("192.0.2.1:7")));
    }
}

//! A handshake of ours that is not answered yet (docs/protocol/session.md §2).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::disguise::{COOKIE_SIZE, Disguise, OuterNonce};
use super::initiate::unspecified;
use super::noise::Initiated;
use crate::base::{Path, Rng, Time};
use crate::crypto::IdentityCard;
use crate::limits::{
    ADDRESSES_PER_PEER_MAX, HANDSHAKE_ADDRESS_STEP_MS, HANDSHAKE_ATTEMPTS_KEPT, HANDSHAKE_MS_MAX,
    HANDSHAKE_RETRY_MS, HANDSHAKE_RETRY_MS_MAX, WAYS_PER_CALL_MAX,
};

/// One first flight that was sent and may still be answered. Each has an ephemeral key, a time stamp and a
/// connection id of its own.
pub(super) struct Attempt {
    pub(super) cid: u64,
    pub(super) nonce: OuterNonce,
    pub(super) noise: Initiated,
    pub(super) remote: SocketAddr,
    /// Whether it echoed a cookie: then another cookie is no reason to hurry.
    pub(super) proven: bool,
}

/// A peer that we want a session with.
pub(super) struct Pending {
    pub(super) card: IdentityCard,
    pub(super) disguise: Disguise,
    pub(super) early: Vec<u8>,
    /// Newest last; at most [`HANDSHAKE_ATTEMPTS_KEPT`].
    pub(super) attempts: VecDeque<Attempt>,
    /// Where the timer set holds this handshake.
    pub(super) armed: Option<Time>,
    /// Whether it is in line for sending.
    pub(super) queued: bool,
    addresses: Vec<SocketAddr>,
    /// Where the peer was heard meanwhile, and from which socket of ours it lets an answer in.
    heard: Vec<Path>,
    sent: usize,
    next_at: Time,
    give_up_at: Time,
    /// The address that the next first flight goes to out of turn.
    urgent: Option<SocketAddr>,
    cookie: Option<(SocketAddr, [u8; COOKIE_SIZE])>,
}

impl Pending {
    pub(super) fn new(card: IdentityCard, addresses: &[SocketAddr], early: &[u8], now: Time) -> Self {
        Self {
            card,
            disguise: Disguise::of(&card.key),
            early: early.to_vec(),
            attempts: VecDeque::new(),
            armed: None,
            queued: false,
            addresses: addresses.iter().copied().take(ADDRESSES_PER_PEER_MAX).collect(),
            heard: Vec::new(),
            sent: 0,
            next_at: now,
            give_up_at: now + Duration::from_millis(HANDSHAKE_MS_MAX),
            urgent: None,
            cookie: None,
        }
    }

    /// When [`Self::is_due`] or [`Self::is_over`] becomes true.
    pub(super) fn deadline(&self) -> Time {
        self.next_at.min(self.give_up_at)
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.urgent.is_some() || self.next_at <= now
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.give_up_at <= now
    }

    /// The address for the first flight that is due, with the cookie to echo; sets the time of the next.
    /// Addresses take turns, a short step apart; between rounds the wait doubles.
    pub(super) fn next_address(
        &mut self,
        now: Time,
        rng: &mut Rng,
    ) -> (SocketAddr, Option<[u8; COOKIE_SIZE]>) {
        let remote = match self.urgent.take() {
            Some(urgent) => urgent,
            None => {
                let remote = self.addresses[self.sent % self.addresses.len()];
                self.sent += 1;
                let rounds = self.sent / self.addresses.len();
                let wait = if self.sent.is_multiple_of(self.addresses.len()) {
                    (HANDSHAKE_RETRY_MS << (rounds - 1).min(16)).min(HANDSHAKE_RETRY_MS_MAX)
                } else {
                    HANDSHAKE_ADDRESS_STEP_MS
                };
                self.next_at = now + Duration::from_millis(wait + rng.below(wait / 4 + 1));
                remote
            }
        };
        (remote, self.cookie.filter(|(of, _)| *of == remote).map(|(_, cookie)| cookie))
    }

    /// Enters what was sent; returns the connection id of an attempt that is no longer waited for.
    pub(super) fn sent(&mut self, attempt: Attempt) -> Option<u64> {
        self.attempts.push_back(attempt);
        if self.attempts.len() > HANDSHAKE_ATTEMPTS_KEPT {
            return self.attempts.pop_front().map(|attempt| attempt.cid);
        }
        None
    }

    /// The hosts that attempts can have gone to.
    pub(super) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let heard = self.heard.iter().map(|path| &path.remote);
        self.addresses.iter().chain(heard).map(|address| address.ip().to_canonical())
    }

    /// A cookie came for an attempt: the address is tried again at once, unless a cookie was echoed
    /// already.
    pub(super) fn got_cookie(&mut self, remote: SocketAddr, proven: bool, cookie: [u8; COOKIE_SIZE]) {
        self.cookie = Some((remote, cookie));
        if !proven {
            self.urgent = Some(remote);
        }
    }

    /// The peer was heard at this address: it is tried at once. False when that happened at too many.
    pub(super) fn hurry(&mut self, path: Path) -> bool {
        match self.heard.iter().position(|heard| heard.remote == path.remote) {
            Some(at) => self.heard[at] = path,
            None if self.heard.len() >= ADDRESSES_PER_PEER_MAX => return false,
            None => self.heard.push(path),
        }
        self.urgent = Some(path.remote);
        true
    }

    /// The peer may be reached at this address as well: it is tried at once, unless it was among the last that were,
    /// and in turn with the others.
    pub(super) fn also_at(&mut self, remote: SocketAddr) -> bool {
        let room = self.addresses.len() < ADDRESSES_PER_PEER_MAX + WAYS_PER_CALL_MAX;
        let known = self.addresses.contains(&remote);
        if !known && room {
            self.addresses.push(remote);
        }
        if (known || room) && !self.attempts.iter().any(|attempt| attempt.remote == remote) {
            self.urgent = Some(remote);
        }
        known || room
    }

    /// The way to an address: that on which the peer was heard, if it was.
    pub(super) fn path_to(&self, remote: SocketAddr) -> Path {
        let heard = self.heard.iter().find(|heard| heard.remote == remote);
        heard.copied().unwrap_or(Path { local: unspecified(remote), remote })
    }

    /// Gives way to the peer's own handshake until `until`. The attempts made so far are void; returns
    /// their connection ids.
    pub(super) fn pause(&mut self, until: Time) -> impl Iterator<Item = u64> + use<> {
        self.next_at = until;
        self.urgent = None;
        std::mem::take(&mut self.attempts).into_iter().map(|attempt| attempt.cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use crate::crypto::{Identity, Secret};
    use crate::session::noise::{FIRST_OVERHEAD, initiate};

    fn pending(addresses: usize) -> Pending {
        let card = *Identity::new(Secret::from_bytes([1; 32]), 0, 0).card();
        let addresses: Vec<SocketAddr> =
            (0..addresses as u16).map(|n| ([192, 0, 2, 1], n + 1).into()).collect();
        assert_ne!(card.key, PublicKey([0; 32]));
        Pending::new(card, &addresses, b"", Time::ZERO)
    }

    fn schedule(addresses: usize) -> Vec<(u64, u16)> {
        let (mut pending, mut rng, mut now) = (pending(addresses), Rng::from_number(1), Time::ZERO);
        let mut out = Vec::new();
        while !pending.is_over(now) {
            assert!(pending.is_due(now));
            out.push((now.0 / 1_000_000, pending.next_address(now, &mut rng).0.port()));
            assert!(!pending.is_due(now));
            now = pending.deadline();
        }
        out
    }

    #[test]
    fn waits_double_up_to_the_limit_and_end() {
        let one = schedule(1);
        let gaps: Vec<_> = one.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        for (gap, base) in gaps.iter().zip([500, 1000, 2000, 4000, 8000]) {
            assert!((base..=base * 5 / 4 + 1).contains(gap), "{gaps:?}");
        }
        assert!((5..=6).contains(&one.len()), "{one:?}");
    }

    #[test]
    fn a_way_that_is_known_is_not_tried_again_at_once() {
        let (mut pending, mut rng) = (pending(1), Rng::from_number(1));
        pending.next_address(Time::ZERO, &mut rng);
        let way = SocketAddr::from(([192, 0, 2, 9], 1));
        assert!(pending.also_at(way) && pending.is_due(Time::ZERO));
        let (remote, _) = pending.next_address(Time::ZERO, &mut rng);
        assert_eq!(remote, way);
        let ours = Identity::new(Secret::from_bytes([2; 32]), 0, 0);
        let (peer, payload) = (pending.card.key, [0; 100]);
        let mut message = [0; 100 + FIRST_OVERHEAD];
        let noise = initiate(&ours, &peer, b"test", &mut rng, &payload, &mut message);
        let noise = noise.expect("a good key");
        pending.sent(Attempt { cid: 1, nonce: Default::default(), noise, remote, proven: false });
        assert!(pending.also_at(way) && !pending.is_due(Time::ZERO), "in its turn");
    }

    #[test]
    fn addresses_take_turns() {
        let three = schedule(3);
        assert!(three.len() >= 12, "{three:?}");
        assert!(three.iter().enumerate().all(|(n, (_, port))| usize::from(*port) == n % 3 + 1));
        assert!(three[2].0 < 1000, "the last address does not wait for long");
    }

    #[test]
    fn a_cookie_hurries_once() {
        let (mut pending, mut rng) = (pending(2), Rng::from_number(1));
        let (first, cookie) = pending.next_address(Time::ZERO, &mut rng);
        assert_eq!(cookie, None);
        pending.got_cookie(first, false, [5; 16]);
        assert!(pending.is_due(Time::ZERO));
        assert_eq!(pending.next_address(Time::ZERO, &mut rng), (first, Some([5; 16])));
        pending.got_cookie(first, true, [6; 16]);
        assert!(!pending.is_due(Time::ZERO));
        let second = pending.next_address(pending.next_at, &mut rng);
        assert!(second.0 != first && second.1.is_none(), "a cookie is for one address");
    }
}

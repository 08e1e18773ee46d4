//! Address tokens: what a node gives a peer so that the peer's address counts as proven next time
//! (docs/protocol/session.md §4). Opaque to the peer:
//!
//! ```text
//! 0        8     24
//! | issued | mac |        mac over the peer's key, its address (without port) and the time of issue
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use std::time::Duration;

use super::gate::ip_bytes;
use crate::base::{PublicKey, Time, UnixMs};
use crate::crypto::{Identity, Secret, hash, kdf};
use crate::limits::{
    ADDRESS_TOKEN_ADDRESSES_MAX, ADDRESS_TOKEN_AGE_MS_MAX, ADDRESS_TOKEN_BYTES_MAX,
    ADDRESS_TOKEN_BYTES_PER_PERIOD, ADDRESS_TOKEN_PERIOD_MS, ADDRESS_TOKEN_SIZE_MAX, ADDRESS_TOKENS_MAX,
    CLOCK_SKEW_MS_MAX,
};

/// Bytes of a token that we issue.
pub(super) const TOKEN_SIZE: usize = 24;
const _: () = assert!(TOKEN_SIZE <= ADDRESS_TOKEN_SIZE_MAX);

/// Issues and checks our tokens, keeps those of peers.
pub(super) struct Tokens {
    secret: Secret,
    kept: BTreeMap<PublicKey, Vec<u8>>,
    order: VecDeque<PublicKey>,
    credits: Credits,
}

/// What tokens were good for lately, by address: a token says that its holder *was* there, and may be shown in
/// another's name as often as its holder likes.
struct Credits {
    began: Time,
    given: BTreeMap<[u8; 16], u64>,
}

impl Credits {
    fn take(&mut self, address: IpAddr, now: Time) -> u64 {
        if now.since(self.began) >= Duration::from_millis(ADDRESS_TOKEN_PERIOD_MS) {
            self.began = now;
            self.given.clear();
        }
        let address = ip_bytes(address);
        if !self.given.contains_key(&address) && self.given.len() >= ADDRESS_TOKEN_ADDRESSES_MAX {
            return 0;
        }
        let given = self.given.entry(address).or_default();
        let credit = ADDRESS_TOKEN_BYTES_MAX.min(ADDRESS_TOKEN_BYTES_PER_PERIOD - *given);
        *given += credit;
        credit
    }
}

impl Tokens {
    /// The secret comes from the identity, so that tokens outlive the daemon and hold on every shard.
    pub(super) fn new(identity: &Identity, now: Time) -> Self {
        let secret = kdf::expand(identity.seed(), "tornet address token", b"");
        let credits = Credits { began: now, given: BTreeMap::new() };
        Self { secret, kept: BTreeMap::new(), order: VecDeque::new(), credits }
    }

    /// Bytes that may be sent to an address on the strength of a token that [`Self::verify`] accepted, before
    /// anything more comes from there. They are taken from what the address has for a period.
    pub(super) fn credit(&mut self, address: IpAddr, now: Time) -> u64 {
        self.credits.take(address, now)
    }

    /// A token for a peer that was seen at an address that it proved.
    pub(super) fn issue(&self, peer: &PublicKey, address: IpAddr, wall: UnixMs) -> [u8; TOKEN_SIZE] {
        let mut out = [0; TOKEN_SIZE];
        let issued = wall.0.to_le_bytes();
        out[..8].copy_from_slice(&issued);
        out[8..].copy_from_slice(&hash::mac(&self.secret, &[&issued, &peer.0, &ip_bytes(address)]));
        out
    }

    /// Whether we issued this token to this peer at this address, not too long ago.
    pub(super) fn verify(&self, peer: &PublicKey, address: IpAddr, wall: UnixMs, token: &[u8]) -> bool {
        let Some((issued, tag)) = token.split_first_chunk::<8>() else { return false };
        let Ok(tag) = tag.try_into() else { return false };
        let at = u64::from_le_bytes(*issued);
        at <= wall.0.saturating_add(CLOCK_SKEW_MS_MAX)
            && wall.0.saturating_sub(at) <= ADDRESS_TOKEN_AGE_MS_MAX
            && hash::verify_mac(&self.secret, &[issued, &peer.0, &ip_bytes(address)], tag)
    }

    /// Keeps what a peer issued to us, instead of what it issued before.
    pub(super) fn keep(&mut self, peer: PublicKey, token: &[u8]) {
        if token.is_empty() || token.len() > ADDRESS_TOKEN_SIZE_MAX {
            return;
        }
        if self.kept.insert(peer, token.to_vec()).is_none() {
            self.order.push_back(peer);
            if self.order.len() > ADDRESS_TOKENS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.kept.remove(&oldest);
            }
        }
    }

    /// What to show this peer; may be empty.
    pub(super) fn of(&self, peer: &PublicKey) -> &[u8] {
        self.kept.get(peer).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(&Identity::new(Secret::from_bytes([3; 32]), 0, 0), Time::ZERO)
    }

    #[test]
    fn what_tokens_are_good_for_is_bounded_by_address_and_time() {
        let (mut tokens, here) = (tokens(), IpAddr::from([192, 0, 2, 1]));
        let given: u64 = (0..100).map(|_| tokens.credit(here, Time::ZERO)).sum();
        assert_eq!(given, ADDRESS_TOKEN_BYTES_PER_PERIOD);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(tokens.credit(mapped, Time::ZERO), 0, "the same address");
        assert_eq!(tokens.credit([192, 0, 2, 2].into(), Time::ZERO), ADDRESS_TOKEN_BYTES_MAX);
        let later = Time::from_millis(ADDRESS_TOKEN_PERIOD_MS);
        assert_eq!(tokens.credit(here, later), ADDRESS_TOKEN_BYTES_MAX);
        for n in 0..ADDRESS_TOKEN_ADDRESSES_MAX as u32 + 9 {
            tokens.credit(n.to_be_bytes().into(), later);
        }
        assert_eq!(tokens.credits.given.len(), ADDRESS_TOKEN_ADDRESSES_MAX);
    }

    #[test]
    fn a_token_is_bound_to_peer_address_and_time() {
        let (tokens, peer, now) = (tokens(), PublicKey([1; 32]), UnixMs(1 << 40));
        let (here, there) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let token = tokens.issue(&peer, here, now);
        assert!(tokens.verify(&peer, here, now, &token));
        assert!(tokens.verify(&peer, here, UnixMs(now.0 + ADDRESS_TOKEN_AGE_MS_MAX), &token));
        assert!(!tokens.verify(&peer, here, UnixMs(now.0 + ADDRESS_TOKEN_AGE_MS_MAX + 1), &token));
        assert!(!tokens.verify(&peer, here, UnixMs(now.0 - CLOCK_SKEW_MS_MAX - 1), &token));
        assert!(!tokens.verify(&peer, there, now, &token));
        assert!(!tokens.verify(&PublicKey([2; 32]), here, now, &token));
        assert!(!tokens.verify(&peer, here, now, &token[..23]));
        assert!(!tokens.verify(&peer, here, now, &[]));
    }

    #[test]
    fn keeps_the_newest_and_stays_bounded() {
        let mut tokens = tokens();
        for n in 0..ADDRESS_TOKENS_MAX as u32 + 5 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            tokens.keep(PublicKey(key), &[1]);
            tokens.keep(PublicKey(key), &[2]);
        }
        assert_eq!((tokens.kept.len(), tokens.order.len()), (ADDRESS_TOKENS_MAX, ADDRESS_TOKENS_MAX));
        assert_eq!(tokens.of(&PublicKey([0; 32])), b"");
        let mut last = [0; 32];
        last[..4].copy_from_slice(&(ADDRESS_TOKENS_MAX as u32 + 4).to_le_bytes());
        assert_eq!(tokens.of(&PublicKey(last)), [2]);
    }
}

//! What friends say of relays that are friends of theirs: the word of each by itself, so that no friend's replaces what another
//! says who is trusted more.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::PublicKey;
use crate::limits::{RELAY_WORDS_MAX, RELAYS_KNOWN_MAX, RELAYS_TOLD_MAX};
use crate::onion::path::{Leaving, Relay};

/// One friend's word of one relay.
struct Word {
    by: PublicKey,
    relay: Relay,
}

/// All of them.
#[derive(Default)]
pub(super) struct Words {
    /// Of each relay at most [`RELAY_WORDS_MAX`], those first that are worth most, and of these the latest.
    of: BTreeMap<PublicKey, Vec<Word>>,
}

impl Words {
    /// All that a friend says from now on. Returns of which relays it says something, or nothing any more.
    pub(super) fn replace(&mut self, by: PublicKey, told: Vec<Relay>) -> BTreeSet<PublicKey> {
        let mut news = BTreeSet::new();
        self.of.retain(|key, words| {
            let before = words.len();
            words.retain(|word| word.by != by);
            if words.len() != before {
                news.insert(*key);
            }
            !words.is_empty()
        });
        for relay in told.into_iter().take(RELAYS_TOLD_MAX) {
            let key = relay.hop.hop.card.key;
            if self.of.len() >= RELAYS_KNOWN_MAX && !self.of.contains_key(&key) {
                continue;
            }
            let words = self.of.entry(key).or_default();
            // Of what one says twice the first counts.
            if !words.iter().any(|word| word.by == by) {
                words.insert(0, Word { by, relay });
                words.sort_by_key(|word| 100 - word.relay.trust.min(100));
                words.truncate(RELAY_WORDS_MAX);
            }
            news.insert(key);
        }
        news
    }

    /// What is believed of a relay: what those say whose word is worth most. Where these differ, it stays, and is an exit.
    pub(super) fn best(&self, relay: &PublicKey) -> Option<Relay> {
        let words = self.of.get(relay)?;
        let first = words.first()?.relay;
        let mut best = words.iter().map(|word| word.relay).take_while(|word| word.trust == first.trust);
        let all_leave = best.clone().all(|word| word.leaving != Leaving::No);
        let leaving = if all_leave { Leaving::Told } else { Leaving::No };
        Some(Relay { exit: best.any(|word| word.exit), leaving, ..first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::IdentityCard;
    use crate::onion::{HopInfo, OnionKey};
    use crate::wire::build::NextHop;

    fn relay(n: u16, trust: u8, leaving: Leaving) -> Relay {
        let mut key = [1; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        let card = IdentityCard { key: PublicKey(key), place_nonce: 0, rank_nonce: 0 };
        let onion = OnionKey { number: trust, key: [0; 32] };
        let hop = HopInfo { hop: NextHop { card, address: None }, onion };
        Relay { hop, trust, exit: leaving == Leaving::No, entry: None, leaving }
    }

    fn by(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    /// Found by review: the last friend's word of a relay was all that was known of it.
    #[test]
    fn a_friend_that_is_trusted_less_contradicts_nobody() {
        let mut words = Words::default();
        let key = relay(1, 0, Leaving::No).hop.hop.card.key;
        words.replace(by(1), vec![relay(1, 40, Leaving::No)]);
        words.replace(by(2), vec![relay(1, 39, Leaving::Told)]);
        assert_eq!(words.best(&key), Some(relay(1, 40, Leaving::No)), "with its onion key");
        words.replace(by(3), vec![relay(1, 40, Leaving::Told)]);
        let best = words.best(&key).expect("known");
        assert_eq!((best.leaving, best.exit), (Leaving::No, true), "one of two that are worth the same");
        words.replace(by(1), vec![relay(1, 40, Leaving::Told)]);
        assert_eq!(words.best(&key).map(|best| best.leaving), Some(Leaving::Told), "both");
        // Whoever says nothing any more has no word.
        words.replace(by(1), Vec::new());
        assert_eq!(words.replace(by(3), Vec::new()), BTreeSet::from([key]));
        assert_eq!(words.best(&key).map(|best| best.trust), Some(39));
        words.replace(by(2), Vec::new());
        assert_eq!(words.best(&key), None);
    }

    #[test]
    fn words_are_bounded() {
        let mut words = Words::default();
        for n in 0..400u16 {
            let others = (n * 20 + 1..n * 20 + 20).map(|n| relay(n, 7, Leaving::No));
            let friend = relay(n, 0, Leaving::No).hop.hop.card.key;
            words.replace(
                friend,
                std::iter::once(relay(0, (n % 90) as u8, Leaving::No)).chain(others).collect(),
            );
        }
        assert_eq!(words.of.len(), RELAYS_KNOWN_MAX);
        let best = words.best(&relay(0, 0, Leaving::No).hop.hop.card.key);
        assert_eq!(best.map(|best| best.trust), Some(89));
        assert!(words.of.values().all(|words| words.len() <= RELAY_WORDS_MAX));
    }
}

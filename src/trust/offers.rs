//! Whom to offer to the operator: everybody of whom friends told, and who is none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Introduced, derived};
use crate::base::{PublicKey, UnixMs};
use crate::wire::introduction::Introduction;
use crate::wire::overlay::Contact;

/// A node that friends introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who, and where, in its own latest word.
    pub contact: Contact,
    /// 1: a friend's friend; 2: one hand farther.
    pub hand: u8,
    /// What the best word of a friend is worth.
    pub trust: u8,
    /// Which friends told of it, those first whose word is worth most.
    pub by: Vec<PublicKey>,
}

impl Introduced {
    /// Everybody who was introduced, those first that are worth most.
    pub fn offers(&self, wall: UnixMs) -> Vec<Offer> {
        struct Words {
            latest: Introduction,
            hand: u8,
            by: Vec<(u8, PublicKey)>,
        }
        let mut all: BTreeMap<PublicKey, Words> = BTreeMap::new();
        for (friend, said) in &self.said {
            for told in &said.told {
                let key = told.introduction.contact.card.key;
                if told.hand == 0 || self.said.contains_key(&key) || told.introduction.is_over(wall) {
                    continue;
                }
                let worth = derived(said.friend.trust, told.trust, told.hand);
                let latest = told.introduction;
                let words = all.entry(key).or_insert(Words { latest, hand: told.hand, by: Vec::new() });
                words.hand = words.hand.min(told.hand);
                words.by.push((worth, *friend));
                if latest.expires > words.latest.expires {
                    words.latest = latest;
                }
            }
        }
        let offer = |words: Words| {
            let mut by = words.by;
            by.sort_by_key(|(worth, friend)| (100 - worth, *friend));
            // The best word counts: a sum would let one bad friend's many voices be worth more than the friend.
            let trust = by.first().map_or(0, |(worth, _)| *worth);
            let by = by.into_iter().map(|(_, friend)| friend).collect();
            Offer { contact: words.latest.contact, hand: words.hand, trust, by }
        };
        let mut offers: Vec<Offer> = all.into_values().map(offer).collect();
        offers.sort_by_key(|offer| (100 - offer.trust, offer.hand, offer.contact.card.key));
        offers
    }

    /// Everybody that was introduced, and is no friend.
    pub fn introduced(&self, wall: UnixMs) -> BTreeSet<PublicKey> {
        let told = self.said.values().flat_map(|said| &said.told);
        let told = told.filter(|told| told.hand > 0 && !told.introduction.is_over(wall));
        let keys = told.map(|told| told.introduction.contact.card.key);
        keys.filter(|key| !self.said.contains_key(key)).collect()
    }

    /// What a node that was introduced, and is no friend, is worth.
    pub fn worth(&self, wall: UnixMs, key: &PublicKey) -> Option<u8> {
        if self.said.contains_key(key) {
            return None;
        }
        let words = self.said.values().flat_map(|said| {
            let own = said.told.iter().filter(|told| told.introduction.contact.card.key == *key);
            own.filter(|told| told.hand > 0 && !told.introduction.is_over(wall))
                .map(|told| derived(said.friend.trust, told.trust, told.hand))
        });
        words.max()
    }
}

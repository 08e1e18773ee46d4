//! What there is to be told to friends: computed once for all of them, since there may be thousands.

use std::collections::{BTreeMap, BTreeSet};

use super::{Introduced, derived};
use crate::base::{PublicKey, UnixMs};
use crate::limits::INTRODUCTIONS_TOLD_MAX;
use crate::wire::introduction::{Introduction, Told};

/// So many of the best are looked at for one friend: as many as are told, and as many as it can have told itself, which are
/// worth less to it.
const LOOKED_AT: usize = 2 * INTRODUCTIONS_TOLD_MAX;

/// A node that may be told of.
struct Candidate {
    hand: u8,
    introduction: Introduction,
    /// The best word and the second best, of different friends: of what a friend told, it is not told.
    words: [Option<(u8, PublicKey)>; 2],
}

impl Candidate {
    fn add(&mut self, trust: u8, by: PublicKey) {
        let word = Some((trust, by));
        if self.words[0].is_none_or(|(best, _)| trust > best) {
            self.words = [word, self.words[0]];
        } else if self.words[1].is_none_or(|(second, _)| trust > second) {
            self.words[1] = word;
        }
    }

    fn told_to(&self, to: &PublicKey) -> Option<Told> {
        let (trust, _) = self.words.iter().flatten().find(|(_, by)| by != to)?;
        let is_about_it = self.introduction.contact.card.key == *to;
        (!is_about_it).then_some(Told { hand: self.hand, trust: *trust, introduction: self.introduction })
    }
}

/// What there is to be told.
pub struct Tellings {
    /// Friends that are told anything.
    to: BTreeSet<PublicKey>,
    /// In the order in which they are told.
    all: Vec<Candidate>,
}

impl Introduced {
    /// What there is to be told now.
    pub fn tellings(&self, wall: UnixMs) -> Tellings {
        let told = || {
            let all =
                self.said.iter().flat_map(|(by, said)| said.told.iter().map(move |told| (by, said, told)));
            all.filter(|(_, _, told)| !told.introduction.is_over(wall))
        };
        // What a node said last is what it agreed to.
        let mut latest: BTreeMap<PublicKey, Introduction> = BTreeMap::new();
        for (_, _, told) in told() {
            let one = latest.entry(told.introduction.contact.card.key).or_insert(told.introduction);
            if told.introduction.expires > one.expires {
                *one = told.introduction;
            }
        }
        let mut all: BTreeMap<PublicKey, Candidate> = BTreeMap::new();
        for (by, said, told) in told() {
            let key = told.introduction.contact.card.key;
            let (hand, trust) = match told.hand {
                0 => (1, said.friend.trust),
                1 if !self.said.contains_key(&key) => (2, derived(said.friend.trust, told.trust, 1)),
                _ => continue,
            };
            let introduction = latest.get(&key).copied().unwrap_or(told.introduction);
            if hand <= introduction.hands {
                let fresh = Candidate { hand, introduction, words: [None; 2] };
                all.entry(key).or_insert(fresh).add(trust, *by);
            }
        }
        let mut all: Vec<Candidate> = all.into_values().collect();
        let best = |one: &Candidate| one.words[0].map_or(0, |(trust, _)| trust);
        all.sort_by_key(|one| (one.hand, 100 - best(one), one.introduction.contact.card.key));
        let to = self.said.iter().filter(|(_, said)| said.friend.introduce).map(|(key, _)| *key);
        Tellings { to: to.collect(), all }
    }
}

impl Tellings {
    /// What a friend is told behind what this node says of itself: friends that agreed, then their friends that agreed to go
    /// that far, those first that are trusted most.
    pub fn to(&self, friend: &PublicKey) -> Vec<Told> {
        if !self.to.contains(friend) {
            return Vec::new();
        }
        let all = self.all.iter().filter_map(|one| one.told_to(friend));
        let mut told: Vec<Told> = all.take(LOOKED_AT).collect();
        told.sort_by_key(|told| (told.hand, 100 - told.trust, told.introduction.contact.card.key));
        told.truncate(INTRODUCTIONS_TOLD_MAX);
        told
    }
}

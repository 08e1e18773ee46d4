//! Who was introduced by whom, at which hand, and how far that is worth trusting (docs/protocol/introductions.md).
//!
//! What friends tell goes in; what is told to a friend, and whom to offer to the operator, come out. Trust begins with what
//! the operator said of friends, and is less at each further hand: many voices behind one bad friend are worth no more than
//! that friend.

mod offers;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::base::{PublicKey, UnixMs};
use crate::limits::{
    INTRODUCTION_S, INTRODUCTION_SKEW_S, INTRODUCTIONS_KNOWN_MAX, INTRODUCTIONS_TOLD_MAX, TRUST_PER_HAND,
};
use crate::wire::introduction::{Introduction, Introductions, Told};

pub use offers::Offer;
pub use tell::Tellings;

/// What a friend's word of a node is worth: the product of both trusts, less for the hand. At the second hand the friend
/// tells what it derived itself in this way, so that more than this leaves of 100 is cut.
pub fn derived(friend: u8, asserted: u8, hand: u8) -> u8 {
    let most = (1..hand).fold(100, |most, _| most * u32::from(TRUST_PER_HAND) / 100);
    let asserted = u32::from(asserted).min(most);
    (u32::from(friend.min(100)) * asserted * u32::from(TRUST_PER_HAND) / 10_000) as u8
}

/// A friend, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Friend {
    /// What the operator said, 0 to 100.
    pub trust: u8,
    /// Whether it is told of others, and others of it.
    pub introduce: bool,
}

/// What a friend told last.
struct Said {
    friend: Friend,
    /// At most [`INTRODUCTIONS_TOLD_MAX`], each node once.
    told: Vec<Told>,
}

/// What came of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether anything of it is new, but for dates.
    pub news: bool,
    /// Entries that are nobody's word: their signature, their date or their place is wrong.
    pub forged: u64,
    /// Entries for which there was no room.
    pub lost: u64,
}

/// All that friends told.
pub struct Introduced {
    own: PublicKey,
    place_floor: u32,
    said: BTreeMap<PublicKey, Said>,
}

impl Introduced {
    /// Nobody told anything yet.
    pub fn new(own: PublicKey, place_floor: u32) -> Self {
        Self { own, place_floor, said: BTreeMap::new() }
    }

    /// Replaces the set of friends: what those said who are none any more is forgotten.
    pub fn set_friends(&mut self, friends: impl IntoIterator<Item = (PublicKey, Friend)>) {
        let mut old = std::mem::take(&mut self.said);
        for (key, friend) in friends {
            let told = old.remove(&key).map_or(Vec::new(), |said| said.told);
            let told = if friend.introduce { told } else { Vec::new() };
            self.said.insert(key, Said { friend, told });
        }
        let share = self.share();
        self.said.values_mut().for_each(|said| said.told.truncate(share));
    }

    /// What is kept of each friend: all have the same room, whatever the others tell.
    fn share(&self) -> usize {
        (INTRODUCTIONS_KNOWN_MAX / self.said.len().max(1)).min(INTRODUCTIONS_TOLD_MAX)
    }

    /// All that a friend tells from now on. Signatures are checked of what is new, unless `checked`: another shard of this
    /// node did.
    pub fn hear(&mut self, wall: UnixMs, from: &PublicKey, told: &[Told], checked: bool) -> Heard {
        let mut heard = Heard::default();
        let room = self.share();
        let Some(said) = self.said.get_mut(from).filter(|said| said.friend.introduce) else { return heard };
        let before = std::mem::take(&mut said.told);
        for one in told.iter().take(INTRODUCTIONS_TOLD_MAX) {
            let key = one.introduction.contact.card.key;
            let is_known = before.iter().any(|known| known.introduction == one.introduction);
            let is_theirs = (one.hand == 0) == (key == *from);
            let is_sound = is_theirs
                && is_timely(&one.introduction, wall)
                && (checked || is_known || is_signed(&one.introduction, self.place_floor));
            if !is_sound {
                heard.forged += 1;
            } else if said.told.len() >= room {
                heard.lost += 1;
            } else if key != self.own
                && !said.told.iter().any(|other| other.introduction.contact.card.key == key)
            {
                said.told.push(*one);
            }
        }
        heard.news = Introductions::substance(&before) != Introductions::substance(&said.told);
        heard
    }

    /// Forgets what holds no more; whether anything did not.
    pub fn expire(&mut self, wall: UnixMs) -> bool {
        let before = self.len();
        for said in self.said.values_mut() {
            said.told.retain(|told| !told.introduction.is_over(wall));
        }
        self.len() != before
    }

    /// Introductions that are kept.
    pub fn len(&self) -> usize {
        self.said.values().map(|said| said.told.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the first of them holds no more.
    pub fn next_expiry(&self) -> Option<UnixMs> {
        let told = self.said.values().flat_map(|said| &said.told);
        told.map(|told| UnixMs(u64::from(told.introduction.expires) * 1000)).min()
    }

    /// Friends, and all that each told.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &[Told])> {
        self.said.iter().map(|(friend, said)| (friend, &said.told[..]))
    }

    /// All that a friend told.
    pub fn told_by(&self, friend: &PublicKey) -> &[Told] {
        self.said.get(friend).map_or(&[], |said| &said.told)
    }
}

/// Whether it holds now, and for no longer than it may.
fn is_timely(introduction: &Introduction, wall: UnixMs) -> bool {
    let latest = wall.0 / 1000 + u64::from(INTRODUCTION_S + INTRODUCTION_SKEW_S);
    !introduction.is_over(wall) && u64::from(introduction.expires) <= latest
}

fn is_signed(introduction: &Introduction, place_floor: u32) -> bool {
    introduction.contact.card.check(place_floor).is_ok() && introduction.verify()
}

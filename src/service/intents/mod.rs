//! What nodes mean to do, and say to each other (docs/protocol/intents.md): until when they stay, when they leave, and whether
//! one that leaves would stay for longer.
//!
//! What is said is repeated until it is answered, a bounded number of times. Drain [`Intents::poll_say`] and
//! [`Intents::poll_event`] after every call.

mod own;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::PeerId;
use crate::base::{Budget, PublicKey, Time};
use crate::limits::{INTENT_AGAIN_MS, INTENTS_BURST, INTENTS_PER_SECOND, INTENTS_SAID_MAX, LEAVERS_MAX};
use crate::wire::Malformed;
use crate::wire::intent::{Message, Verdict, What};

pub use own::{Own, Rules};

/// What happened that others than the peer at hand care for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A peer leaves then, or does not leave.
    Leaves {
        /// Whose session said so.
        peer: PeerId,
        /// Who.
        key: PublicKey,
        /// When.
        at: Option<Time>,
    },
    /// This node leaves then, later than it said: somebody asked for that.
    Moved(Time),
}

/// What is known of a question to a peer that it stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Until when it is to be there.
    pub until: Time,
    /// What it said, and until when it would be there, if it means to go at all.
    pub said: Said,
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It has not answered yet.
    Nothing,
    /// It has not answered however often it was asked, or has gone.
    Silence,
    /// It will be there; until then, if it means to go.
    Granted(Option<Time>),
    /// Not for so long; until then it would.
    Less(Time),
    /// It will not.
    Refused,
}

/// What a peer means to do.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    peer: PeerId,
    is_friend: bool,
    /// When it leaves.
    pub leaves_at: Option<Time>,
    /// Until when it means to stay.
    pub stays_until: Option<Time>,
    /// What it was asked.
    pub asked: Option<Asked>,
}

/// Totals since the start, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages sent, repetitions among them.
    pub said: u64,
    /// What peers said that was looked at.
    pub heard: u64,
    /// Messages that were too many.
    pub flooded: u64,
    /// Questions of friends to stay that were granted.
    pub granted: u64,
    /// And those that were not.
    pub refused: u64,
    /// What was said and never answered.
    pub silent: u64,
}

/// A session on which intents are heard.
struct Talk {
    key: PublicKey,
    trust: Option<u8>,
    /// Whether it listens to them.
    offers: bool,
    /// The number of what it said last of itself.
    heard: Option<u32>,
    budget: Budget,
    /// Whether it was told that this node leaves.
    told: bool,
}

/// What is said until it is answered.
#[derive(Debug, Clone, Copy)]
struct Saying {
    what: What,
    number: u32,
    /// For how long, or in how long; `None` is 0.
    until: Option<Time>,
    tries: usize,
    next_at: Time,
}

/// Which of the two things that are said to a peer at once: of this node itself, or a question.
type Slot = (PeerId, bool);

/// All intents of one shard.
#[derive(Default)]
pub struct Intents {
    own: Own,
    talks: BTreeMap<PeerId, Talk>,
    /// By key, so that a friend that is away is known too; strangers at most [`LEAVERS_MAX`].
    known: BTreeMap<PublicKey, Known>,
    saying: BTreeMap<Slot, Saying>,
    /// The same by time.
    due: BTreeSet<(Time, Slot)>,
    says: VecDeque<(PeerId, Message)>,
    events: VecDeque<Event>,
    next: u32,
    /// Whether strangers hear that this node leaves.
    tells_strangers: bool,
    counters: Counters,
}

/// Two times of leaving that differ by less are one: seconds are what is said, and they take a while to come.
const ABOUT: Duration = Duration::from_secs(2);

fn seconds(now: Time, until: Option<Time>) -> u32 {
    // Rather a little later than too early: whoever counts on it is not let down.
    let left = until.map_or(Duration::ZERO, |until| until.since(now)) + Duration::from_millis(999);
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX).min(crate::limits::INTENT_S_MAX)
}

impl Intents {
    /// Totals.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What this node means to do.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// What a peer means to do, as far as it said.
    pub fn known(&self, key: &PublicKey) -> Option<&Known> {
        self.known.get(key)
    }

    /// When a peer leaves, if it said so and is not gone yet.
    pub fn leaves_at(&self, now: Time, key: &PublicKey) -> Option<Time> {
        self.known.get(key)?.leaves_at.filter(|at| *at > now)
    }

    /// All that leave, by when.
    pub fn leavers(&self) -> impl Iterator<Item = (&PublicKey, Time)> {
        self.known.iter().filter_map(|(key, known)| Some((key, known.leaves_at?)))
    }

    /// Peers that were told something, or asked, and have not answered.
    pub fn open(&self) -> usize {
        self.saying.len()
    }

    /// A peer has introduced itself, or its trust is another: it hears what this node means to do, if it listens.
    pub fn met(&mut self, now: Time, peer: PeerId, key: PublicKey, trust: Option<u8>, offers: bool) {
        let talk = self.talk(peer, key, trust);
        let before = talk.offers;
        let befriended = talk.trust.is_none() && trust.is_some();
        (talk.offers, talk.trust) = (offers, trust);
        // Whoever comes anew says itself what it means to do.
        if self.known.get(&key).is_some_and(|known| known.peer != peer) {
            self.forget(&key, peer);
        }
        if let Some(known) = self.known.get_mut(&key) {
            known.is_friend = trust.is_some();
        }
        if offers && (!before || befriended) {
            self.tell(now, peer);
        }
    }

    fn talk(&mut self, peer: PeerId, key: PublicKey, trust: Option<u8>) -> &mut Talk {
        self.talks.entry(peer).or_insert_with(|| Talk {
            key,
            trust,
            offers: false,
            heard: None,
            budget: Budget::default(),
            told: false,
        })
    }

    fn forget(&mut self, key: &PublicKey, peer: PeerId) {
        if self.known.remove(key).is_some_and(|known| known.leaves_at.is_some()) {
            self.events.push_back(Event::Leaves { peer, key: *key, at: None });
        }
    }

    /// A session is over. What a friend said stays said until its time comes.
    pub fn down(&mut self, peer: PeerId) {
        for slot in [(peer, false), (peer, true)] {
            self.stop(slot);
        }
        let Some(talk) = self.talks.remove(&peer) else { return };
        if let Some(known) = self.known.get_mut(&talk.key).filter(|known| known.peer == peer) {
            if let Some(asked) = known.asked.as_mut().filter(|asked| asked.said == Said::Nothing) {
                asked.said = Said::Silence;
            }
            if !known.is_friend {
                self.known.remove(&talk.key);
            }
        }
    }

    /// Asks a peer to be there until then. False when there is no session on which it listens.
    pub fn ask(&mut self, now: Time, key: &PublicKey, until: Time) -> bool {
        let talk = self.talks.iter().find(|(_, talk)| talk.key == *key && talk.offers);
        let Some((peer, is_friend)) = talk.map(|(peer, talk)| (*peer, talk.trust.is_some())) else {
            return false;
        };
        let known = self.entry(peer, *key, is_friend);
        known.asked = Some(Asked { until, said: Said::Nothing });
        self.say(now, (peer, true), What::Stay, Some(until));
        true
    }

    fn entry(&mut self, peer: PeerId, key: PublicKey, is_friend: bool) -> &mut Known {
        let fresh = Known { peer, is_friend, leaves_at: None, stays_until: None, asked: None };
        let known = self.known.entry(key).or_insert(fresh);
        (known.peer, known.is_friend) = (peer, is_friend);
        known
    }

    /// A peer says something, on a session that both sides have. An error closes the session.
    pub fn hear(
        &mut self,
        now: Time,
        peer: PeerId,
        key: PublicKey,
        trust: Option<u8>,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let talk = self.talk(peer, key, trust);
        talk.trust = trust;
        if !talk.budget.take(1, INTENTS_PER_SECOND, INTENTS_BURST, now) {
            self.counters.flooded += 1;
            return Ok(());
        }
        let message = Message::parse(bytes)?;
        self.counters.heard += 1;
        match message {
            Message::Say { what: What::Stay, number, seconds } => {
                let until = now + Duration::from_secs(seconds.into());
                self.hear_stay(now, peer, trust, number, until);
            }
            Message::Say { what, number, seconds } => {
                let talk = self.talk(peer, key, trust);
                // Datagrams have no order: of two words the later counts, and the same again changes nothing.
                let news = talk.heard.is_none_or(|last| number.wrapping_sub(last) as i32 > 0);
                if news {
                    talk.heard = Some(number);
                    let at = now + Duration::from_secs(seconds.into());
                    self.hear_intent(now, peer, key, trust.is_some(), what, (seconds > 0, at));
                }
                self.answer(peer, number, Verdict::Heard, 0);
            }
            Message::Answer { number, verdict, seconds } => {
                self.hear_answer(now, peer, key, number, verdict, seconds);
            }
        }
        Ok(())
    }

    fn hear_intent(
        &mut self,
        now: Time,
        peer: PeerId,
        key: PublicKey,
        is_friend: bool,
        what: What,
        (some, at): (bool, Time),
    ) {
        let strangers = || self.known.values().filter(|known| !known.is_friend).count();
        if !is_friend
            && !self.known.contains_key(&key)
            && (what == What::Online || strangers() >= LEAVERS_MAX)
        {
            return;
        }
        let known = self.entry(peer, key, is_friend);
        let before = known.leaves_at.filter(|at| *at > now);
        // Of a stranger nothing is believed but what is to its own disadvantage.
        known.stays_until = (what == What::Online && some && is_friend).then_some(at);
        known.leaves_at = (what == What::Leaving).then_some(at);
        let after = known.leaves_at;
        let same = match (before, after) {
            (Some(before), Some(after)) => before.since(after).max(after.since(before)) < ABOUT,
            (before, after) => before == after,
        };
        if !same {
            self.events.push_back(Event::Leaves { peer, key, at: after });
        }
        if !is_friend && after.is_none() {
            self.known.remove(&key);
        }
    }

    /// A peer asks this node to be there until then. Strangers are not answered; friends may know where they stand.
    fn hear_stay(&mut self, now: Time, peer: PeerId, trust: Option<u8>, number: u32, until: Time) {
        let Some(trust) = trust else { return };
        let (verdict, until) = self.own.judge(now, trust, until);
        match verdict {
            Verdict::Granted => self.counters.granted += 1,
            _ => self.counters.refused += 1,
        }
        self.answer(peer, number, verdict, seconds(now, until));
        if let Some(at) = self.own.take_moved() {
            if self.own.is_leaving() {
                self.events.push_back(Event::Moved(at));
                self.tells_strangers = self.own.leaves_soon(now);
            }
            self.tell_all(now);
        }
    }

    fn answer(&mut self, peer: PeerId, number: u32, verdict: Verdict, seconds: u32) {
        // What finds no room is asked again.
        if self.says.len() < 4 * INTENTS_SAID_MAX {
            self.counters.said += 1;
            self.says.push_back((peer, Message::Answer { number, verdict, seconds }));
        }
    }

    fn hear_answer(
        &mut self,
        now: Time,
        peer: PeerId,
        key: PublicKey,
        number: u32,
        verdict: Verdict,
        seconds: u32,
    ) {
        let slot = (peer, verdict != Verdict::Heard);
        if self.saying.get(&slot).is_none_or(|saying| saying.number != number) {
            return;
        }
        self.stop(slot);
        let Some(known) = self.known.get_mut(&key).filter(|_| slot.1) else { return };
        let at = (seconds > 0).then(|| now + Duration::from_secs(seconds.into()));
        let Some(asked) = &mut known.asked else { return };
        asked.said = match (verdict, at) {
            (Verdict::Granted, at) => Said::Granted(at),
            (Verdict::Less, Some(at)) => Said::Less(at),
            _ => Said::Refused,
        };
        // It says so itself, too; but that may come later.
        if let (Verdict::Granted, Some(at), Some(before)) = (verdict, at, known.leaves_at)
            && at > before
        {
            known.leaves_at = Some(at);
            self.events.push_back(Event::Leaves { peer, key, at: Some(at) });
        }
    }

    // ---- what is said until it is answered ----

    fn say(&mut self, now: Time, slot: Slot, what: What, until: Option<Time>) {
        self.stop(slot);
        self.next = self.next.wrapping_add(1);
        let saying = Saying { what, number: self.next, until, tries: 0, next_at: now };
        self.saying.insert(slot, saying);
        self.due.insert((now, slot));
    }

    fn stop(&mut self, slot: Slot) {
        if let Some(saying) = self.saying.remove(&slot) {
            self.due.remove(&(saying.next_at, slot));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = self.due.first().map(|(at, _)| *at);
        [due, self.own.soon_at().filter(|_| !self.tells_strangers)].into_iter().flatten().min()
    }

    /// Says what is due, a part of it at once.
    pub fn handle_timeout(&mut self, now: Time) {
        if !self.tells_strangers && self.own.soon_at().is_some_and(|at| at <= now) {
            self.tells_strangers = true;
            self.tell_all(now);
        }
        while self.says.len() < INTENTS_SAID_MAX
            && let Some(&(at, slot)) = self.due.first()
            && at <= now
        {
            self.due.remove(&(at, slot));
            let Some(saying) = self.saying.get_mut(&slot) else { continue };
            let pause = INTENT_AGAIN_MS.get(saying.tries).map(|ms| Duration::from_millis(*ms));
            let late = saying.what == What::Stay && saying.until.is_some_and(|until| until <= now);
            let Some(pause) = pause.filter(|_| !late) else {
                self.silent(slot);
                continue;
            };
            saying.tries += 1;
            saying.next_at = now + pause;
            let seconds = seconds(now, saying.until);
            let seconds = if slot.1 { seconds.clamp(1, crate::limits::STAY_S_MAX) } else { seconds };
            let message = Message::Say { what: saying.what, number: saying.number, seconds };
            self.due.insert((saying.next_at, slot));
            self.counters.said += 1;
            self.says.push_back((slot.0, message));
        }
    }

    fn silent(&mut self, slot: Slot) {
        self.saying.remove(&slot);
        self.counters.silent += 1;
        let key = self.talks.get(&slot.0).map(|talk| talk.key).filter(|_| slot.1);
        let known = key.and_then(|key| self.known.get_mut(&key));
        if let Some(asked) = known.and_then(|known| known.asked.as_mut()) {
            asked.said = Said::Silence;
        }
    }

    /// What is to be said now, to whom.
    pub fn poll_say(&mut self) -> Option<(PeerId, Message)> {
        self.says.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests;

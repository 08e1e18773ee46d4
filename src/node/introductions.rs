//! What friends tell each other of other nodes (docs/protocol/introductions.md): each shard hears the friends whose home it is,
//! tells the other shards, and knows what all friends told; so each tells its own friends by itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::acquaintances::Acquaintances;
use super::circuits::FIRST;
use super::command::{IntroductionRules, IntroductionSnapshot, OfferSnapshot};
use super::messages::gather;
use super::peer::{Meeting, Role};
use super::{Clock, Cross, INTRODUCE_CHANNEL, Node};
use crate::base::{PublicKey, StreamId, Time, UnixMs};
use crate::crypto::hash;
use crate::limits::{
    INTRODUCTION_S, INTRODUCTIONS_AGAIN_MS, INTRODUCTIONS_BURST, INTRODUCTIONS_MS_MAX,
    INTRODUCTIONS_PER_SECOND, INTRODUCTIONS_SIZE_MAX, INTRODUCTIONS_TELL_BURST, INTRODUCTIONS_TELL_EACH_S,
    INTRODUCTIONS_TELL_MS, INTRODUCTIONS_TOLD_MAX, OFFERS_SHOWN_MAX,
};
use crate::overlay::site::{is_global, may_call};
use crate::service::PeerId;
use crate::session::IntroduceCross;
use crate::trust::{Friend, Introduced};
use crate::wire::introduction::{Introduction, Introductions, Told};
use crate::wire::overlay::Contact;

/// What a shard has to do with introductions.
pub(super) struct Introducing {
    pub(super) core: Introduced,
    pub(super) rules: IntroductionRules,
    pub(super) acquaintances: Acquaintances,
    /// What this node says of itself, while it agrees.
    own: Option<Introduction>,
    /// Where the overlay's part of this node knows it to be reached: no single peer's word.
    seen: Vec<SocketAddr>,
    /// When friends are told of news.
    tell_at: Option<Time>,
    /// When those are told that were told too often before.
    late_at: Option<Time>,
    /// When dates are told that are no news, and shards tell each other what they may have missed.
    again_at: Option<Time>,
    /// When the first of what was told holds no more.
    expire_at: Option<Time>,
    pub(super) counters: Counters,
}

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) forged: u64,
    pub(super) lost: u64,
    pub(super) flooded: u64,
    pub(super) calls: u64,
    pub(super) calls_vain: u64,
}

/// What a friend was told last: all of it, and what there is of news in it, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WasTold {
    whole: [u8; 32],
    news: [u8; 32],
}

impl WasTold {
    fn of(told: &[Told], bytes: &[u8]) -> Self {
        Self { whole: hash::blake3(&[bytes]), news: hash::blake3(&[&Introductions::substance(told)]) }
    }

    /// As if it had been told nothing.
    fn nothing() -> Self {
        Self::of(&[], &Introductions::default().emit())
    }
}

impl Introducing {
    pub(super) fn new(own: PublicKey, place_floor: u32, only: bool) -> Self {
        Self {
            core: Introduced::new(own, place_floor),
            rules: IntroductionRules { only, ..IntroductionRules::default() },
            acquaintances: Acquaintances::default(),
            own: None,
            seen: Vec::new(),
            tell_at: None,
            late_at: None,
            again_at: None,
            expire_at: None,
            counters: Counters::default(),
        }
    }

    /// Friends are told of something soon.
    pub(super) fn news(&mut self, now: Time) {
        self.tell_at.get_or_insert(now + Duration::from_millis(INTRODUCTIONS_TELL_MS));
        self.again_at.get_or_insert(now + Duration::from_millis(INTRODUCTIONS_AGAIN_MS));
    }

    /// How far this node agrees to be introduced.
    fn hands(&self) -> u8 {
        if self.rules.only { 0 } else { self.rules.hands }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let own =
            [self.tell_at, self.late_at, self.again_at, self.expire_at, self.acquaintances.poll_timeout()];
        own.into_iter().flatten().min()
    }

    fn expire_next(&mut self, clock: Clock) {
        let left = self.core.next_expiry().map(|at| at.0.saturating_sub(clock.wall.0));
        self.expire_at = left.map(|left| clock.now + Duration::from_millis(left));
    }
}

impl Node {
    /// What the settings say of introductions, and of who is heard at all.
    pub(super) fn set_introductions(&mut self, clock: Clock, rules: IntroductionRules) {
        self.introducing.rules = rules;
        self.update_door(clock.now);
        self.introducing.news(clock.now);
        self.choose_acquaintances(clock);
        // Friends name it to theirs no more, or again.
        self.circuits.news(clock.now);
    }

    /// Who is heard, now that friends or settings are others.
    fn update_door(&mut self, now: Time) {
        let friends = || self.friends.iter().map(|(friend, _)| friend.card.key).collect();
        let door = self.introducing.rules.only.then(friends);
        self.sessions.set_door(now, door);
    }

    /// The set of friends is another.
    pub(super) fn introduce_friends(&mut self, clock: Clock) {
        self.update_door(clock.now);
        let friends = self.friends.iter();
        let friends =
            friends.map(|(one, _)| (one.card.key, Friend { trust: one.trust, introduce: one.introduce }));
        self.introducing.core.set_friends(friends.collect::<Vec<_>>());
        self.introducing.news(clock.now);
        self.choose_acquaintances(clock);
    }

    /// What is due.
    pub(super) fn settle_introductions(&mut self, clock: Clock) {
        let now = clock.now;
        let named = self.overlay.keeper.as_ref().map_or(&[][..], |keeper| keeper.named());
        if self.overlay.shard.0 == FIRST && named != self.introducing.seen {
            let named = named.to_vec();
            self.share_places(&named);
            self.seen_elsewhere(now, named);
        }
        if self.introducing.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let own = &mut self.introducing;
        if own.expire_at.take_if(|at| *at <= now).is_some() {
            if own.core.expire(clock.wall) {
                own.news(now);
            }
            own.expire_next(clock);
            own.acquaintances.choose_soon(now);
        }
        let own = &mut self.introducing;
        let again = own.again_at.take_if(|at| *at <= now).is_some();
        if again {
            own.again_at = Some(now + Duration::from_millis(INTRODUCTIONS_AGAIN_MS));
            self.share_introductions();
        }
        if again || self.introducing.acquaintances.must_choose(now) {
            self.choose_acquaintances(clock);
        }
        let own = &mut self.introducing;
        let news = own.tell_at.take_if(|at| *at <= now).is_some();
        if own.late_at.take_if(|at| *at <= now).is_some() || news || again {
            self.tell_introductions(clock, again);
        }
        self.call_acquaintances(clock);
    }

    // ---- telling ----

    /// This node's own word: signed anew when it says something else, or when half of its time is over.
    fn own_introduction(&mut self, clock: Clock) -> Option<Introduction> {
        let hands = self.introducing.hands();
        if hands == 0 {
            self.introducing.own = None;
            return None;
        }
        let contact = Contact::new(*self.sessions.identity_card(), self.own_places());
        let now_s = u32::try_from(clock.wall.0 / 1000).unwrap_or(u32::MAX);
        let holds = |own: &Introduction| {
            let left = own.expires.saturating_sub(now_s);
            own.hands == hands
                && own.contact == contact
                && (INTRODUCTION_S / 2..=INTRODUCTION_S).contains(&left)
        };
        if !self.introducing.own.as_ref().is_some_and(holds) {
            let expires = now_s.saturating_add(INTRODUCTION_S);
            let identity = &self.overlay.identity;
            self.introducing.own = Some(Introduction::sign(identity, contact, hands, expires));
        }
        self.introducing.own
    }

    /// Where others may reach this node, best first: what the operator, the host or the router says, and then what two networks
    /// agree on. It is signed, and so no single peer's word is among it; and a home's addresses are not while there is one that
    /// leads there from everywhere.
    pub(super) fn own_places(&self) -> Vec<SocketAddr> {
        let own = &self.introducing;
        let all = own.rules.addresses.iter().chain(&self.punch.mapped).chain(&own.seen);
        let mut once = BTreeSet::new();
        let mut all: Vec<SocketAddr> = all.copied().filter(|one| once.insert(*one)).collect();
        if all.iter().any(|one| is_global(*one)) {
            all.retain(|one| is_global(*one));
        }
        all
    }

    /// It is known anew where this node is reached.
    fn seen_elsewhere(&mut self, now: Time, places: Vec<SocketAddr>) {
        if places != self.introducing.seen {
            self.introducing.seen = places;
            self.introducing.news(now);
            self.introducing.acquaintances.choose_soon(now);
        }
    }

    /// Tells each friend what is news to it; with `dates`, also what holds for longer than it knows.
    fn tell_introductions(&mut self, clock: Clock, dates: bool) {
        let own = self.own_introduction(clock);
        let friends: Vec<(PeerId, PublicKey)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.trust.is_some() && peer.lane == 0 && !peer.tells_in_vain)
            .filter(|(_, peer)| {
                matches!(&peer.hello, Meeting::Met(hello) if hello.services.contains(&INTRODUCE_CHANNEL))
            })
            .map(|(id, peer)| (*id, peer.card.key))
            .collect();
        let tellings = self.introducing.core.tellings(clock.wall);
        for (id, key) in friends {
            let others = tellings.to(&key);
            let is_open = self.friends.get(&key).is_some_and(|friend| friend.introduce);
            let own = own.filter(|_| is_open);
            let own = own.map(|introduction| Told { hand: 0, trust: 0, introduction });
            let told: Vec<Told> = own.into_iter().chain(others).take(INTRODUCTIONS_TOLD_MAX).collect();
            self.tell_friend(clock.now, id, told, dates);
        }
    }

    fn tell_friend(&mut self, at: Time, id: PeerId, told: Vec<Told>, dates: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let message = Introductions(told);
        let bytes = message.emit();
        let now = WasTold::of(&message.0, &bytes);
        let before = peer.was_told.unwrap_or_else(WasTold::nothing);
        if before == now || (before.news == now.news && !dates) {
            return;
        }
        // A second is worth one, so that whoever is told at all is told once in so many of them.
        let (cost, burst) = (INTRODUCTIONS_TELL_EACH_S, INTRODUCTIONS_TELL_BURST * INTRODUCTIONS_TELL_EACH_S);
        if !peer.told_budget.take(cost, 1, burst, at) {
            let later = at + peer.told_budget.wait(cost, 1, burst);
            let late_at = &mut self.introducing.late_at;
            *late_at = Some(late_at.map_or(later, |at| at.min(later)));
            return;
        }
        // A peer that gives no stream now is told with the next news.
        if peer.say(INTRODUCE_CHANNEL, Role::Telling, &bytes).is_none() {
            return;
        }
        peer.was_told = Some(now);
        self.introducing.counters.sent += 1;
        self.queue(at, id);
    }

    /// A friend does not take what it is told: this node is none of its friends, perhaps. It is told again when it says
    /// hello again.
    pub(super) fn told_in_vain(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.was_told, peer.tells_in_vain) = (None, true);
        }
    }

    /// A friend said hello.
    pub(super) fn introduce_met(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.trust.is_some()) else { return };
        if std::mem::take(&mut peer.tells_in_vain) || peer.was_told.is_none() {
            self.introducing.news(now);
        }
    }

    // ---- hearing ----

    /// A peer begins to tell. False when that is not for it to do, or too much.
    pub(super) fn begin_telling(&mut self, clock: Clock, id: PeerId, stream: StreamId) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let is_heard = self.friends.get(&peer.card.key).is_some_and(|friend| friend.introduce);
        if !is_heard || peer.trust.is_none() || peer.lane > 0 {
            return false;
        }
        let (rate, burst) = (INTRODUCTIONS_PER_SECOND, INTRODUCTIONS_BURST);
        if peer.telling.is_some() || !peer.telling_budget.take(1, rate, burst, clock.now) {
            self.introducing.counters.flooded += 1;
            return false;
        }
        peer.telling = Some((stream, Vec::new()));
        self.expect_message(clock.now, id, stream, INTRODUCTIONS_MS_MAX, Role::Told);
        true
    }

    /// Bytes of what a friend tells.
    pub(super) fn hear_introductions(
        &mut self,
        clock: Clock,
        id: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((_, text)) = peer.telling.as_mut().filter(|(own, _)| *own == stream) else { return };
        if !gather(text, bytes, finished, INTRODUCTIONS_SIZE_MAX) {
            return;
        }
        let message = Introductions::parse(text);
        peer.telling = None;
        peer.connection.finish(stream);
        let (session, friend) = (peer.session, peer.card.key);
        self.message_ended(id, stream);
        match message {
            Ok(message) => {
                self.introducing.counters.received += 1;
                self.hear_told(clock, &friend, &message.0, false);
                self.share_told(friend);
            }
            Err(why) => self.malformed(clock.now, session, why),
        }
    }

    fn hear_told(&mut self, clock: Clock, friend: &PublicKey, told: &[Told], checked: bool) {
        let own = &mut self.introducing;
        let heard = own.core.hear(clock.wall, friend, told, checked);
        own.counters.forged += heard.forged;
        own.counters.lost += heard.lost;
        own.expire_next(clock);
        if heard.news {
            own.news(clock.now);
            own.acquaintances.choose_soon(clock.now);
        }
    }

    // ---- between shards ----

    pub(super) fn introduce_cross_all(&mut self, message: impl Fn() -> IntroduceCross) {
        self.pass_all(|| Cross::Introduce(Box::new(message())));
    }

    fn share_places(&mut self, places: &[SocketAddr]) {
        self.introduce_cross_all(|| IntroduceCross::Places(places.to_vec()));
    }

    fn share_told(&mut self, friend: PublicKey) {
        let told = self.introducing.core.told_by(&friend).to_vec();
        self.introduce_cross_all(|| IntroduceCross::Heard { friend, told: told.clone() });
    }

    /// Says again what other shards may have missed.
    fn share_introductions(&mut self) {
        if self.overlay.shard.1 < 2 {
            return;
        }
        if self.overlay.shard.0 == FIRST {
            self.share_places(&self.introducing.seen.clone());
        }
        let friends = self.introducing.core.iter().filter(|(key, _)| self.sessions.is_home(key));
        let friends: Vec<PublicKey> = friends.map(|(key, _)| *key).collect();
        friends.into_iter().for_each(|friend| self.share_told(friend));
    }

    /// Obeys another shard.
    pub(super) fn handle_introduce_cross(&mut self, clock: Clock, message: IntroduceCross) {
        match message {
            IntroduceCross::Heard { friend, told } => self.hear_told(clock, &friend, &told, true),
            IntroduceCross::Vain(key) => self.called_in_vain(clock, &key),
            IntroduceCross::Places(places) => self.seen_elsewhere(clock.now, places),
        }
    }

    // ---- showing ----

    /// What is shown of introductions, by the first shard alone.
    pub(super) fn introduction_snapshot(&self, wall: UnixMs) -> IntroductionSnapshot {
        let (own, closed) = (&self.introducing, self.is_closed());
        let all = own.core.offers(wall);
        let at = |hand: u8| all.iter().filter(|offer| offer.hand == hand).count() as u64;
        let (once, twice) = (at(1), at(2));
        let show = |offer: crate::trust::Offer| OfferSnapshot {
            is_acquaintance: own.acquaintances.get(&offer.contact.card.key).is_some(),
            card: offer.contact.card,
            addresses: offer.contact.addresses().filter(|one| may_call(*one, closed)).collect(),
            hand: offer.hand,
            trust: offer.trust,
            by: offer.by,
        };
        let offers = all.into_iter().take(OFFERS_SHOWN_MAX).map(show).collect();
        let acquaintances = own.acquaintances.len() as u64;
        IntroductionSnapshot { once, twice, acquaintances, offers }
    }
}

#[cfg(test)]
impl Node {
    /// Says anything to all friends.
    pub(crate) fn tell_raw(&mut self, clock: Clock, bytes: &[u8]) {
        let friends = self.peers.iter().filter(|(_, peer)| peer.trust.is_some() && peer.lane == 0);
        let friends: Vec<PeerId> = friends.map(|(id, _)| *id).collect();
        for id in friends {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let stream =
                peer.connection.open(INTRODUCE_CHANNEL, crate::stream::RecvMode::Ordered).expect("a stream");
            assert_eq!(peer.connection.write(stream, bytes), Ok(bytes.len()));
            peer.connection.finish(stream);
            self.queue(clock.now, id);
        }
    }

    /// A peer, which need not be one, says where it sees this node.
    pub(crate) fn seen_by(&mut self, clock: Clock, by: PublicKey, address: SocketAddr) {
        self.note_told(clock, super::punch::Teller::Peer(by), address);
    }

    /// What is known of a relay.
    pub(crate) fn relay_known(&self, key: &PublicKey) -> Option<crate::onion::path::Relay> {
        self.circuits.relays.get(key).copied()
    }

    /// Its own onion key.
    pub(crate) fn onion_key(&self) -> Option<crate::onion::OnionKey> {
        self.circuits.onion.onion_key()
    }

    /// Whether it is known as a relay, and how far trusted; and whether a circuit may begin there.
    pub(crate) fn knows_relay(&self, key: &PublicKey) -> Option<(u8, bool)> {
        self.circuits.relays.get(key).map(|relay| (relay.trust, relay.entry.is_some()))
    }
}

//! Which relays a node knows: what friends say of themselves and of theirs, and what it says itself
//! (docs/protocol/hello.md).

use super::circuits::{Circuits, link};
use super::peer::Meeting;
use super::{Clock, Node};
use crate::base::PublicKey;
use crate::crypto::IdentityCard;
use crate::limits::RELAYS_TOLD_MAX;
use crate::onion::path::{Leaving, Relay};
use crate::onion::{HopInfo, LinkId};
use crate::service::PeerId;
use crate::wire::build::NextHop;
use crate::wire::relay::RelayCard;

impl Circuits {
    /// Learns of a relay; whether that is news.
    fn learn(&mut self, relay: Relay) -> bool {
        self.relays.get(&relay.hop.hop.card.key) != Some(&relay) && self.relays.learn(relay)
    }

    /// Learns what is said now of a relay that says nothing of itself as a friend: its own word as an acquaintance, or the best
    /// of friends' words. Whether that is news; what nobody says anything of any more stays as it was known.
    fn relearn(&mut self, key: &PublicKey) -> bool {
        if self.heard.contains_key(key) {
            return false;
        }
        let told = self.words.best(key);
        // How far it is trusted is the best of what is said of it.
        let own = self.acquainted.get(key).map(|own| {
            let trust = told.map_or(own.trust, |told| told.trust.max(own.trust));
            Relay { trust, ..*own }
        });
        own.or(told).is_some_and(|relay| self.learn(relay))
    }

    /// A friend says nothing of others any more.
    pub(super) fn unsay(&mut self, friend: &PublicKey) -> bool {
        let others = self.words.replace(*friend, Vec::new());
        // Of all of them, whatever the first one says.
        others.iter().filter(|other| self.relearn(other)).count() > 0
    }

    /// An acquaintance is none any more, or relays no more. Friends may still have told of it. What was known of it.
    pub(super) fn forget_acquaintance(&mut self, key: &PublicKey) -> Option<Relay> {
        let gone = self.acquainted.remove(key)?;
        if !self.heard.contains_key(key) {
            self.relays.forget(key);
            self.relearn(key);
        }
        Some(gone)
    }
}

impl Node {
    /// What this node says of itself as a relay.
    fn own_relay(&mut self) -> Option<RelayCard> {
        let named = self.circuits.rules.named && !self.introducing.rules.only;
        let own = &mut self.circuits;
        let (onion, card) = (own.onion.onion_key()?, *self.sessions.identity_card());
        let (exit, leaving) = (own.rules.exit, own.leaving);
        own.rules.relay.then_some(RelayCard { card, onion, address: None, exit, named, leaving, trust: 0 })
    }

    /// What this node tells a friend of relays: itself, and friends that agreed. Whom friends introduced hears of this node
    /// alone, if friends may name it.
    pub(super) fn relays_to_tell(&mut self, clock: Clock, to: PeerId) -> Vec<RelayCard> {
        let Some(ours) = self.own_relay() else { return Vec::new() };
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.lane == 0) else { return Vec::new() };
        let is_friend = peer.trust.is_some();
        let is_introduced = || self.introducing.core.worth(clock.wall, &peer.card.key).is_some();
        if !(is_friend || ours.named && is_introduced()) {
            return Vec::new();
        }
        let own = &mut self.circuits;
        own.published = true;
        if !is_friend {
            return vec![ours];
        }
        let others = own.heard.values().filter(|card| card.named && card.card.key != peer.card.key);
        let others = others.filter_map(|card| {
            let friend = self.friends.get(&card.card.key)?;
            Some(RelayCard { address: friend.addresses.first().copied(), trust: friend.trust, ..*card })
        });
        std::iter::once(ours).chain(others).take(RELAYS_TOLD_MAX).collect()
    }

    /// Those that friends introduced hear what is new of this node as a relay, and those that no friend introduces any more
    /// that there is nothing more to say.
    pub(super) fn tell_introduced(&mut self, clock: Clock) {
        let ours = self.own_relay().filter(|ours| ours.named);
        let introduced = self.introducing.core.introduced(clock.wall);
        let strangers = self.peers.iter().filter(|(_, peer)| peer.trust.is_none() && peer.lane == 0);
        let missed = strangers.filter(|(_, peer)| {
            let hears = ours.filter(|_| introduced.contains(&peer.card.key));
            peer.relay_told != hears
        });
        let missed: Vec<PeerId> = missed.map(|(id, _)| *id).collect();
        for id in missed {
            self.say_hello(clock, id);
            self.queue(clock.now, id);
        }
    }

    /// Those that are no acquaintances any more are no relays by their own word.
    pub(super) fn forget_others(&mut self) {
        let known = &self.introducing.acquaintances;
        let others = self.circuits.acquainted.keys().filter(|key| known.get(key).is_none());
        for key in others.copied().collect::<Vec<_>>() {
            self.circuits.forget_acquaintance(&key);
        }
    }

    /// Learns of the relays that a friend named.
    pub(super) fn learn_relays(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (Meeting::Met(hello), 0) = (&peer.hello, peer.lane) else { return };
        if peer.trust.is_none() && self.introducing.acquaintances.get(&peer.card.key).is_none() {
            return;
        }
        let (card, relays) = (peer.card, hello.relays.clone());
        self.learn_from(clock, &card, &relays, Some(link(id)));
        self.share_relays(card, &relays);
    }

    /// Learns what a friend says, itself first; nothing means that it relays no more. `entry` is the session with it here.
    pub(super) fn learn_from(
        &mut self,
        clock: Clock,
        friend: &IdentityCard,
        relays: &[RelayCard],
        entry: Option<LinkId>,
    ) {
        let key = friend.key;
        let Some((trust, address)) =
            self.friends.get(&key).map(|friend| (friend.trust, friend.addresses.first().copied()))
        else {
            return self.learn_acquaintance(clock, friend, relays);
        };
        let own = &mut self.circuits;
        let info = |card: &RelayCard, address| HopInfo {
            hop: NextHop { card: card.card, address },
            onion: card.onion,
        };
        let mut relays = relays.iter();
        let Some(card) = relays.next().filter(|card| card.card == *friend) else {
            own.relays.forget(&key);
            if own.heard.remove(&key).is_some() {
                own.news(clock.now);
            }
            own.unsay(&key);
            return;
        };
        own.acquainted.remove(&key);
        let leaving = if card.leaving { Leaving::Said } else { Leaving::No };
        let mut is_news =
            own.learn(Relay { hop: info(card, address), trust, exit: card.exit, entry, leaving });
        if own.heard.insert(key, *card) != Some(*card) {
            own.news(clock.now);
        }
        let us = self.sessions.identity_card().key;
        let told = relays.filter(|card| card.card.key != us && card.card.key != key).map(|card| {
            // Trust at second hand is worth at most what both hands are.
            let trust = (u32::from(trust) * u32::from(card.trust) / 100) as u8;
            let leaving = if card.leaving { Leaving::Told } else { Leaving::No };
            Relay { hop: info(card, card.address), trust, exit: card.exit, entry: None, leaving }
        });
        for other in own.words.replace(key, told.collect()) {
            is_news |= own.relearn(&other);
        }
        if is_news {
            own.purposes.hurry(clock.now);
            own.purposes.part(clock.now, &own.relays);
        }
    }

    /// Learns what an acquaintance says of itself; nothing means that it relays no more. It is no first hop: those are friends.
    fn learn_acquaintance(&mut self, clock: Clock, card: &IdentityCard, relays: &[RelayCard]) {
        let one = self.introducing.acquaintances.get(&card.key);
        let said = relays.first().filter(|said| said.card == *card);
        let own = &mut self.circuits;
        let Some((one, said)) = one.zip(said) else {
            own.forget_acquaintance(&card.key);
            return;
        };
        let next = NextHop { card: *card, address: one.addresses.first().copied() };
        let leaving = if said.leaving { Leaving::Said } else { Leaving::No };
        let hop = HopInfo { hop: next, onion: said.onion };
        own.acquainted
            .insert(card.key, Relay { hop, trust: one.trust, exit: said.exit, entry: None, leaving });
        if own.relearn(&card.key) {
            own.purposes.hurry(clock.now);
            own.purposes.part(clock.now, &own.relays);
        }
    }
}

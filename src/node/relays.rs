//! Which relays a node knows: what friends say of themselves and of theirs, and what it says itself
//! (docs/protocol/hello.md).

use super::circuits::{Circuits, link};
use super::command::CircuitRules;
use super::peer::Meeting;
use super::{Clock, Node};
use crate::crypto::IdentityCard;
use crate::limits::RELAYS_TOLD_MAX;
use crate::onion::path::Relay;
use crate::onion::{HopInfo, LinkId};
use crate::service::PeerId;
use crate::wire::build::NextHop;
use crate::wire::relay::RelayCard;

impl Circuits {
    /// Learns of a relay; whether that is news.
    fn learn(&mut self, relay: Relay) -> bool {
        self.relays.get(&relay.hop.hop.card.key) != Some(&relay) && self.relays.learn(relay)
    }
}

impl Node {
    /// What this node tells a friend of relays: itself, and friends that agreed. Whom friends introduced hears of this node
    /// alone, if friends may name it.
    pub(super) fn relays_to_tell(&mut self, clock: Clock, to: PeerId) -> Vec<RelayCard> {
        let own = &mut self.circuits;
        let Some(peer) = self.peers.get(&to) else { return Vec::new() };
        let is_named = own.rules.named && !self.introducing.rules.only;
        let is_friend = peer.trust.is_some();
        let hears =
            is_friend || (is_named && self.introducing.core.worth(clock.wall, &peer.card.key).is_some());
        if !own.rules.relay || !hears || peer.lane != 0 {
            return Vec::new();
        }
        let Some(onion) = own.onion.onion_key() else { return Vec::new() };
        own.published = true;
        let rules = own.rules;
        let card = *self.sessions.identity_card();
        let CircuitRules { exit, .. } = rules;
        let ours =
            RelayCard { card, onion, address: None, exit, named: is_named, leaving: own.leaving, trust: 0 };
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
            return;
        };
        let leaving = card.leaving;
        let mut is_news =
            own.learn(Relay { hop: info(card, address), trust, exit: card.exit, entry, leaving });
        if own.heard.insert(key, *card) != Some(*card) {
            own.news(clock.now);
        }
        let us = self.sessions.identity_card().key;
        for card in relays {
            let other = card.card.key;
            if other == us || own.heard.contains_key(&other) {
                continue;
            }
            // Trust at second hand is worth at most what both hands are.
            let trust = (u32::from(trust) * u32::from(card.trust) / 100) as u8;
            let (hop, exit, leaving) = (info(card, card.address), card.exit, card.leaving);
            let relay = Relay { hop, trust, exit, entry: None, leaving };
            is_news |= own.learn(relay);
        }
        if is_news {
            own.purposes.hurry(clock.now);
            own.purposes.part(clock.now, &own.relays);
        }
    }

    /// Learns what an acquaintance says of itself. It is no first hop: those are friends.
    fn learn_acquaintance(&mut self, clock: Clock, card: &IdentityCard, relays: &[RelayCard]) {
        let Some(one) = self.introducing.acquaintances.get(&card.key) else { return };
        let Some(said) = relays.first().filter(|said| said.card == *card) else { return };
        let (trust, address) = (one.trust, one.addresses.first().copied());
        let hop = HopInfo { hop: NextHop { card: *card, address }, onion: said.onion };
        let own = &mut self.circuits;
        // A friend may have told of it, too, and the better word counts.
        let trust = own.relays.get(&card.key).map_or(trust, |known| known.trust.max(trust));
        if own.learn(Relay { hop, trust, exit: said.exit, entry: None, leaving: said.leaving }) {
            own.purposes.hurry(clock.now);
            own.purposes.part(clock.now, &own.relays);
        }
    }
}

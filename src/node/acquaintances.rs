//! Offered nodes with which this node keeps sessions, as many as the operator allows: called as friends are, and trusted as far
//! as friends' words go. They are no friends: no first hop, no tunnel, nothing that is for friends alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::command::Friend;
use super::friends::{Friends, Standing};
use super::{Clock, Node};
use crate::base::{Budget, PublicKey, Rng, Time, Way};
use crate::limits::{
    ACQUAINTANCE_CALLS_PER_SECOND, ACQUAINTANCES_MAX, INTRODUCTIONS_AGAIN_MS, INTRODUCTIONS_TELL_MS,
};
use crate::overlay::site::{is_global, may_call};
use crate::service::PeerId;
use crate::session::{CloseCode, ConnectError, IntroduceCross, SessionKey};

/// For how long others are tried instead of one that does not answer.
const VAIN: Duration = Duration::from_millis(INTRODUCTIONS_AGAIN_MS);

/// Those of this node; each shard calls those whose home it is.
pub(super) struct Acquaintances {
    chosen: Friends,
    /// Who did not answer, and when; of those that are offered.
    vain: BTreeMap<PublicKey, Time>,
    /// When they are chosen anew, because friends told news or one did not answer.
    choose_at: Option<Time>,
    /// How often any of them is called.
    calls: Budget,
}

impl Default for Acquaintances {
    fn default() -> Self {
        Self { chosen: Friends::patient(), vain: BTreeMap::new(), choose_at: None, calls: Budget::default() }
    }
}

impl Acquaintances {
    /// One by key.
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Friend> {
        self.chosen.get(key)
    }

    /// How far one is trusted.
    pub(super) fn trust(&self, key: &PublicKey) -> Option<u8> {
        self.chosen.get(key).map(|one| one.trust)
    }

    /// Whether its handshake is under way, or it is connected by this session's peer.
    pub(super) fn is_here(&self, key: &PublicKey, id: PeerId) -> bool {
        self.chosen.here(key) == Some(id)
    }

    /// How many were chosen, by all shards.
    pub(super) fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Those that are connected to this shard.
    pub(super) fn here(&self) -> impl Iterator<Item = (PublicKey, PeerId)> + '_ {
        self.chosen.iter().filter_map(|(one, standing)| match standing {
            Standing::Here(id) => Some((one.card.key, id)),
            _ => None,
        })
    }

    pub(super) fn expected(&mut self, now: Time, key: &PublicKey) {
        self.chosen.expected(now, key);
    }

    pub(super) fn gone(&mut self, now: Time, id: PeerId) {
        self.chosen.gone(now, id);
    }

    /// A handshake failed: whose, if an acquaintance's.
    fn failed(&mut self, now: Time, session: SessionKey, rng: &mut Rng) -> Option<PublicKey> {
        let key = self.chosen.called_by(session)?;
        self.chosen.failed(now, session, rng);
        Some(key)
    }

    /// Others may have to be chosen: all offers are looked at for that, so not for each message of a friend's.
    pub(super) fn choose_soon(&mut self, now: Time) {
        self.choose_at.get_or_insert(now + Duration::from_millis(INTRODUCTIONS_TELL_MS));
    }

    /// Whether they are to be chosen now.
    pub(super) fn must_choose(&self, now: Time) -> bool {
        self.choose_at.is_some_and(|at| at <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.chosen.poll_timeout().into_iter().chain(self.choose_at).min()
    }
}

impl Node {
    /// Chooses those that are worth most, of others than did not answer lately if there are any.
    pub(super) fn choose_acquaintances(&mut self, clock: Clock) {
        let closed = self.is_closed();
        let own = &mut self.introducing;
        own.acquaintances.choose_at = None;
        let most = if own.rules.only { 0 } else { own.rules.adopt.min(ACQUAINTANCES_MAX) };
        let mut offers = if most == 0 { Vec::new() } else { own.core.offers(clock.wall) };
        offers.retain(|offer| offer.trust > 0);
        let known = &mut own.acquaintances;
        let offered: BTreeSet<PublicKey> = offers.iter().map(|offer| offer.contact.card.key).collect();
        known.vain.retain(|key, at| clock.now.since(*at) < VAIN && offered.contains(key));
        // The order is by worth already.
        offers.sort_by_key(|offer| known.vain.contains_key(&offer.contact.card.key));
        let chosen = offers.into_iter().take(most).map(|offer| Friend {
            card: offer.contact.card,
            addresses: offer.contact.addresses().filter(|address| may_call(*address, closed)).collect(),
            trust: offer.trust,
            introduce: false,
            bridge: None,
        });
        let sessions = &self.sessions;
        let gone = known.chosen.replace(clock.now, chosen.collect(), |key| sessions.is_home(key));
        for standing in gone {
            match standing {
                Standing::Here(id) => self.leave_acquaintance(clock, id),
                // What others wait for as well goes on.
                Standing::Calling(_) | Standing::Away { .. } | Standing::Resting => {}
            }
        }
        self.forget_others();
        self.greet_acquaintances(clock);
        // Who was introduced, or is no more, may be another.
        self.tell_introduced(clock);
    }

    /// Whether this node has no address that leads everywhere, as far as it or anybody knows: it is in a lab, or a home that
    /// nobody sees from outside. Only there may what strangers say of themselves lead to neighbours.
    pub(super) fn is_closed(&self) -> bool {
        let seen = self.candidates(false).into_iter().map(|one| one.address());
        !self.own_places().into_iter().chain(seen).any(is_global)
    }

    /// One is none any more: its session ends unless something else needs it.
    fn leave_acquaintance(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.trust.is_none()) else { return };
        let session = peer.session;
        self.know(clock.now, id);
        if self.is_spare(id) && !self.overlay.links.is_used(id) {
            self.sessions.close(clock.now, session, CloseCode::UNWANTED, "not needed now");
        } else if !self.circuits.called.contains(&id) {
            self.sessions.set_keepalive(session, false);
        }
    }

    /// With some there may be sessions already, and what they are worth may be something else.
    fn greet_acquaintances(&mut self, clock: Clock) {
        let known = self.introducing.acquaintances.chosen.iter().map(|(one, _)| one.card.key);
        let known: Vec<PublicKey> = known.filter(|key| self.sessions.is_home(key)).collect();
        for key in known {
            if let Some(id) = self.link_with(&key) {
                self.acquainted(clock, id);
            }
        }
    }

    /// A session that both sides have may be an acquaintance's.
    pub(super) fn acquainted(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0 && peer.trust.is_none()) else {
            return;
        };
        let (key, session) = (peer.card.key, peer.session);
        if !self.sessions.is_initiator(session) && !self.sessions.is_confirmed(session) {
            return;
        }
        if self.introducing.acquaintances.chosen.connected(&key, id) {
            self.introducing.acquaintances.vain.remove(&key);
            self.sessions.set_keepalive(session, true);
            self.know(clock.now, id);
            self.learn_relays(clock, id);
        }
    }

    /// A handshake came to nothing: others may take the place.
    pub(super) fn acquaintance_failed(&mut self, clock: Clock, session: SessionKey) {
        let Some(key) = self.introducing.acquaintances.failed(clock.now, session, &mut self.rng) else {
            return;
        };
        self.introducing.counters.calls_vain += 1;
        self.introduce_cross_all(|| IntroduceCross::Vain(key));
        self.called_in_vain(clock, &key);
    }

    pub(super) fn called_in_vain(&mut self, clock: Clock, key: &PublicKey) {
        if self.introducing.acquaintances.get(key).is_some() {
            let own = &mut self.introducing.acquaintances;
            own.vain.insert(*key, clock.now);
            own.choose_soon(clock.now);
        }
    }

    /// Calls those that are due.
    pub(super) fn call_acquaintances(&mut self, clock: Clock) {
        while let Some(one) = self.introducing.acquaintances.chosen.due(clock.now) {
            let own = &mut self.introducing.acquaintances;
            let (rate, burst) = (ACQUAINTANCE_CALLS_PER_SECOND, ACQUAINTANCES_MAX as u32);
            if !own.calls.take(1, rate, burst, clock.now) {
                own.chosen.calling(clock.now, &one.card.key, None);
                continue;
            }
            // Who is reached by no address may be reached through the friend who told of it.
            let hidden = one.addresses.is_empty();
            let nowhere = [Way::NOWHERE.address()];
            let addresses = if hidden { &nowhere[..] } else { &one.addresses };
            let started = self.sessions.connect(clock.now, clock.wall, &one.card, addresses, b"");
            let session = match started {
                Ok(session) | Err(ConnectError::Connecting(session)) => Some(session),
                Err(_) => None,
            };
            self.introducing.counters.calls += u64::from(started.is_ok());
            self.introducing.acquaintances.chosen.calling(clock.now, &one.card.key, session);
            if session.is_some() {
                self.want_way(clock.now, &one.card, hidden);
            }
        }
    }
}

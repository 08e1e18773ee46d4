//! Sessions as links of circuits: which neighbours there are, who is called for a circuit, and how long a session is kept for
//! it.

use std::time::Duration;

use super::circuits::{Asking, link};
use super::peer::Peer;
use super::{Clock, Node};
use crate::base::{PublicKey, Time};
use crate::limits::{BUILD_RELAY_MS_MAX, CIRCUIT_CALLS_MAX, CIRCUIT_SWEEP_MS};
use crate::onion::CircuitKey;
use crate::service::PeerId;
use crate::session::{CircuitCross, ConnectError, SessionKey};
use crate::wire::build::{NextHop, Status};

impl Node {
    /// A session is there.
    pub(super) fn circuits_up(&mut self, clock: Clock, id: PeerId, initiator: bool) {
        self.circuits.onion.link_up(clock.now, link(id), initiator);
        if initiator {
            self.circuits_usable(clock, id);
        }
    }

    /// Both sides of a session are known to have it: circuits may go through it.
    pub(super) fn circuits_usable(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (key, session, lane) = (peer.card.key, peer.session, peer.lane);
        let is_lane = !self.sessions.is_home(&key);
        // At its home a peer's session is used, and not a lane of the peer's, which ends when the peer has no use for it.
        if is_lane || lane == 0 {
            self.circuits.by_key.insert(key, id);
        }
        let waiting = self.circuits.calling.remove(&session).unwrap_or_default();
        let shards = self.circuits.calling_for.remove(&session).unwrap_or_default();
        if !waiting.is_empty() || !shards.is_empty() || (is_lane && self.circuits.is_entry(&key)) {
            self.keep_for_circuits(clock.now, id, session);
        }
        for circuit in waiting {
            self.circuits.onion.extend(clock.now, circuit, link(id));
        }
        for (shard, peer) in shards {
            self.circuit_cross(shard, CircuitCross::Called { peer, up: true });
        }
        let own = &mut self.circuits;
        if is_lane && own.heard.contains_key(&key) && own.relays.set_entry(&key, Some(link(id))) {
            own.purposes.hurry(clock.now);
        }
    }

    /// A session with somebody who need not be a friend is kept while circuits go over it.
    pub(super) fn keep_for_circuits(&mut self, now: Time, id: PeerId, session: SessionKey) {
        self.circuits.called.insert(id);
        self.circuits.sweep_at.get_or_insert(now + Duration::from_millis(CIRCUIT_SWEEP_MS));
        self.sessions.set_keepalive(session, true);
        self.know(now, id);
    }

    /// A session is over.
    pub(super) fn circuits_down(&mut self, clock: Clock, id: PeerId, key: &PublicKey) {
        let own = &mut self.circuits;
        own.onion.link_down(link(id));
        own.called.remove(&id);
        if own.by_key.get(key) != Some(&id) {
            return;
        }
        own.by_key.remove(key);
        if !self.sessions.is_home(key) {
            own.relays.set_entry(key, None);
            return;
        }
        if let Some(gone) = own.heard.remove(key) {
            own.relays.forget(key);
            own.unsay(key);
            own.news(clock.now);
            self.share_relays(gone.card, &[]);
        } else if let Some(gone) = own.forget_acquaintance(key) {
            self.share_relays(gone.hop.hop.card, &[]);
        }
    }

    /// A session that circuits waited for will not be.
    pub(super) fn circuits_failed(&mut self, clock: Clock, session: SessionKey) {
        for circuit in self.circuits.calling.remove(&session).unwrap_or_default() {
            self.circuits.onion.refuse(clock.now, circuit, Status::Unreachable);
        }
        for (shard, peer) in self.circuits.calling_for.remove(&session).unwrap_or_default() {
            self.circuit_cross(shard, CircuitCross::Called { peer, up: false });
        }
    }

    /// Another session took the place of one that circuits waited for.
    pub(super) fn circuits_moved(&mut self, from: SessionKey, to: SessionKey) {
        if let Some(waiting) = self.circuits.calling.remove(&from) {
            self.circuits.calling.entry(to).or_default().extend(waiting);
        }
        if let Some(shards) = self.circuits.calling_for.remove(&from) {
            self.circuits.calling_for.entry(to).or_default().extend(shards);
        }
    }

    /// A session over which circuits go is kept by both sides: nobody acknowledges cells, and a circuit may be used one way
    /// alone. Friends' sessions are kept anyway, but not their lanes.
    pub(super) fn keep_link(&mut self, clock: Clock, id: PeerId) {
        let own = &mut self.circuits;
        let Some(peer) = self.peers.get(&id) else { return };
        if (peer.trust.is_some() && peer.lane == 0) || own.called.contains(&id) || !own.onion.uses(link(id)) {
            return;
        }
        let session = peer.session;
        self.keep_for_circuits(clock.now, id, session);
    }

    /// Leads a circuit on: over the session with its next hop, or a new one.
    pub(super) fn lead_on(&mut self, clock: Clock, circuit: CircuitKey, next: &NextHop) {
        let own = &mut self.circuits;
        let key = next.card.key;
        if !own.rules.relay || own.leaving {
            return own.onion.refuse(clock.now, circuit, Status::Unwilling);
        }
        if let Some(id) = own.by_key.get(&key).copied() {
            own.onion.extend(clock.now, circuit, link(id));
            return self.keep_link(clock, id);
        }
        if own.call_count() >= CIRCUIT_CALLS_MAX {
            return own.onion.refuse(clock.now, circuit, Status::Busy);
        }
        if let Some(home) = self.sessions.elsewhere(&key) {
            let fresh = || Asking { since: clock.now, card: next.card, circuits: Vec::new() };
            let asking = own.asking.entry(key).or_insert_with(fresh);
            asking.circuits.push(circuit);
            // Word of it may be lost: without a sweep nobody would call there again.
            own.sweep_at.get_or_insert(clock.now + Duration::from_millis(CIRCUIT_SWEEP_MS));
            if asking.circuits.len() == 1 {
                let call = CircuitCross::Call { card: next.card, address: next.address };
                self.circuit_cross(home, call);
            }
            return;
        }
        // The address is the origin's word; whoever is there must be the one that it named.
        let addresses: Vec<_> = next.address.into_iter().collect();
        match self.sessions.connect(clock.now, clock.wall, &next.card, &addresses, b"") {
            Ok(session) | Err(ConnectError::Connecting(session)) => {
                own.calling.entry(session).or_default().push(circuit);
            }
            Err(_) => own.onion.refuse(clock.now, circuit, Status::Unreachable),
        }
    }

    /// Sessions that were kept for circuits, and have none, need not be kept.
    pub(super) fn sweep_links(&mut self, now: Time) {
        let own = &mut self.circuits;
        if own.sweep_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let old = Duration::from_millis(BUILD_RELAY_MS_MAX);
        own.asking.retain(|_, asking| now.since(asking.since) < old);
        own.lanes.retain(|_, session| own.calling.contains_key(session));
        let is_idle = |id: &PeerId| {
            let peer = self.peers.get(id);
            let wanted = |peer: &Peer| {
                self.sessions.has_lanes(peer.session) || (peer.lane > 0 && own.is_entry(&peer.card.key))
            };
            !own.onion.uses(link(*id)) && !peer.is_some_and(wanted)
        };
        let idle: Vec<PeerId> = own.called.iter().copied().filter(is_idle).collect();
        for id in idle {
            own.called.remove(&id);
            if let Some(peer) = self.peers.get(&id)
                && (peer.trust.is_none() || peer.lane > 0)
                && !self.introducing.acquaintances.is_here(&peer.card.key, id)
            {
                self.sessions.set_keepalive(peer.session, false);
            }
        }
        own.sweep_at = (!own.called.is_empty() || !own.asking.is_empty())
            .then(|| now + Duration::from_millis(CIRCUIT_SWEEP_MS));
    }
}

//! What the shards of a node have to say to one another about circuits ([`CircuitCross`]): whoever has the onion keys opens
//! requests for all, whoever is a peer's home calls it for all, and what friends say of relays goes to all.

use std::time::Duration;

use super::circuits::{Asking, FIRST, link};
use super::peer::Meeting;
use super::{Clock, Cross, Node, World};
use crate::base::PublicKey;
use crate::crypto::IdentityCard;
use crate::limits::{CIRCUIT_CALLS_MAX, CIRCUIT_ENTRIES_MS, CIRCUIT_SHARE_MS};
use crate::onion::{Agreed, CircuitKey, DropCause};
use crate::session::{CircuitCross, ConnectError, NotOpened};
use crate::wire::build::Status;
use crate::wire::relay::RelayCard;

impl Node {
    /// Leaves a message for another shard, which may lose it.
    pub(super) fn circuit_cross(&mut self, shard: u8, message: CircuitCross) {
        self.pass(shard, Cross::Circuit(Box::new(message)));
    }

    fn circuit_cross_all(&mut self, message: impl Fn() -> CircuitCross) {
        self.pass_all(|| Cross::Circuit(Box::new(message())));
    }

    /// Tells the other shards what a friend whose home this is says of relays.
    pub(super) fn share_relays(&mut self, peer: IdentityCard, relays: &[RelayCard]) {
        self.circuit_cross_all(|| CircuitCross::Heard { peer, relays: relays.to_vec() });
    }

    /// Says again what other shards may have missed, and asks for lanes to friends that our own circuit may begin with.
    pub(super) fn share_again(&mut self, clock: Clock) {
        if self.circuits.shard.0 == FIRST
            && let Some(key) = self.circuits.onion.onion_key()
        {
            self.circuit_cross_all(|| CircuitCross::Key(key));
        }
        let acquainted = &self.circuits.acquainted;
        let is_heard = |key: &PublicKey| acquainted.contains_key(key);
        let said = self.peers.values();
        let said = said.filter(|peer| peer.lane == 0 && (peer.trust.is_some() || is_heard(&peer.card.key)));
        let said = said.filter_map(|peer| match &peer.hello {
            Meeting::Met(hello) if !hello.relays.is_empty() => Some((peer.card, hello.relays.clone())),
            _ => None,
        });
        for (card, relays) in said.collect::<Vec<_>>() {
            self.share_relays(card, &relays);
        }
        let mut wait = CIRCUIT_SHARE_MS;
        if !self.circuits.purposes.is_empty() {
            wait = CIRCUIT_ENTRIES_MS;
            let own = &self.circuits;
            let without = own.heard.iter().filter(|(key, _)| !own.by_key.contains_key(key));
            let without: Vec<IdentityCard> = without.map(|(_, heard)| heard.card).collect();
            for card in without {
                self.lane_to(clock, &card, None);
            }
        }
        self.circuits.share_at = Some(clock.now + Duration::from_millis(wait));
    }

    /// Wants a lane to a peer of another shard, for a circuit that waits or for those to come.
    fn lane_to(&mut self, clock: Clock, card: &IdentityCard, circuit: Option<CircuitKey>) -> bool {
        if self.sessions.is_home(&card.key) || self.circuits.calling.len() >= CIRCUIT_CALLS_MAX {
            return false;
        }
        // One lane for all that wait for it.
        let session = match self.circuits.lanes.get(&card.key) {
            Some(session) if self.circuits.calling.contains_key(session) => *session,
            _ => {
                let Ok(session) = self.sessions.open_lane(clock.now, card) else { return false };
                self.circuits.lanes.insert(card.key, session);
                session
            }
        };
        self.circuits.calling.entry(session).or_default().extend(circuit);
        true
    }

    /// Obeys another shard.
    pub(super) fn handle_circuit_cross(
        &mut self,
        clock: Clock,
        from: u8,
        message: CircuitCross,
        world: &mut impl World,
    ) {
        match message {
            CircuitCross::Key(key) => {
                if self.circuits.onion.learn_key(key) {
                    self.circuits.news(clock.now);
                }
            }
            CircuitCross::Open { circuit, request } => {
                let secret = match self.circuits.onion.agree(&request) {
                    Ok(Agreed { shared, onion }) => Ok((shared, onion)),
                    Err(DropCause::Duplicate) => Err(NotOpened::Seen),
                    Err(DropCause::Busy) => Err(NotOpened::Busy),
                    Err(_) => Err(NotOpened::Foreign),
                };
                self.circuit_cross(from, CircuitCross::Opened { circuit, secret });
            }
            CircuitCross::Opened { circuit, secret } => {
                let agreed = match secret {
                    Ok((shared, onion)) => Ok(Agreed { shared, onion }),
                    Err(NotOpened::Seen) => Err(DropCause::Duplicate),
                    Err(NotOpened::Busy) => Err(DropCause::Busy),
                    Err(NotOpened::Foreign) => Err(DropCause::Foreign),
                };
                self.circuits.onion.agreed(clock.now, CircuitKey::from_number(circuit), agreed);
            }
            CircuitCross::Call { card, address } => {
                let addresses: Vec<_> = address.into_iter().collect();
                if let Some(id) = self.circuits.by_key.get(&card.key).copied() {
                    if let Some(session) = self.peers.get(&id).map(|peer| peer.session) {
                        self.keep_for_circuits(clock.now, id, session);
                    }
                    return self.circuit_cross(from, CircuitCross::Called { peer: card.key, up: true });
                }
                let full = self.circuits.calling_for.len() >= CIRCUIT_CALLS_MAX;
                let call =
                    (!full).then(|| self.sessions.connect(clock.now, clock.wall, &card, &addresses, b""));
                match call {
                    Some(Ok(session) | Err(ConnectError::Connecting(session))) => {
                        self.circuits.calling_for.entry(session).or_default().insert((from, card.key));
                    }
                    _ => self.circuit_cross(from, CircuitCross::Called { peer: card.key, up: false }),
                }
            }
            CircuitCross::Called { peer, up } => self.called(clock, &peer, up),
            CircuitCross::Heard { peer, relays } => {
                let entry = self.circuits.by_key.get(&peer.key).map(|id| link(*id));
                self.learn_from(clock, &peer, &relays, entry);
                if entry.is_none() && !self.circuits.purposes.is_empty() {
                    self.circuits.share_at = Some(clock.now);
                }
            }
            CircuitCross::Packet { offload, bytes } => {
                self.with_copy(&bytes, offload, world, |node, packet, header, world| {
                    node.circuit_packet(clock, packet, header, world);
                });
            }
            CircuitCross::Return { offload, bytes } => {
                self.with_copy(&bytes, offload, world, |node, packet, header, world| {
                    node.return_packet(clock, packet, header, from == FIRST, world);
                });
            }
            CircuitCross::Lease { circuit, neighbour, resume } => {
                let addresses = self.lease_from_book(clock.now, &neighbour, &resume);
                self.circuit_cross(from, CircuitCross::Leased { circuit, addresses });
            }
            CircuitCross::Leased { circuit, addresses } => {
                self.leased(clock, CircuitKey::from_number(circuit), addresses);
            }
            CircuitCross::Claim(addresses) => self.claim(&addresses, from),
            CircuitCross::Unclaim(addresses) => self.circuits.exit.guests.unclaim(&addresses),
            CircuitCross::Release(gone) => {
                gone.iter().for_each(|addresses| self.circuits.exit.book.release(clock.now, addresses));
            }
        }
    }

    /// The home of a peer has a session with it, or will have none.
    fn called(&mut self, clock: Clock, peer: &PublicKey, up: bool) {
        let Some(Asking { card, circuits, .. }) = self.circuits.asking.remove(peer) else { return };
        for circuit in circuits {
            if let Some(id) = self.circuits.by_key.get(peer).copied() {
                self.circuits.onion.extend(clock.now, circuit, link(id));
                self.keep_link(clock, id);
            } else if !up || !self.lane_to(clock, &card, Some(circuit)) {
                self.circuits.onion.refuse(clock.now, circuit, Status::Unreachable);
            }
        }
    }
}

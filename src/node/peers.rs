//! Sessions become peers, and friends are called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use super::command::Friend;
use super::friends::Standing;
use super::peer::{Meeting, Peer, Role};
use super::streams::send_request;
use super::{Clock, Early, Node, is_liar};
use crate::base::{Budget, Path, Time};
use crate::crypto::IdentityCard;
use crate::limits::{EARLY_DATA_MAX, STREAM_UNREAD_MAX};
use crate::service::PeerId;
use crate::session::{CloseCode, ClosedWhy, ConnectError, Event as SessionEvent, FailedWhy, SessionKey};
use crate::stream::{self, Connection};

/// The path to a friend by a bridge.
pub(super) fn bridge_path(bridge: SocketAddr) -> Path {
    Path { local: (Ipv4Addr::UNSPECIFIED, 0).into(), remote: bridge }
}

impl Node {
    /// Replaces the set of friends.
    pub(super) fn set_friends(&mut self, clock: Clock, friends: Vec<Friend>) {
        let sessions = &self.sessions;
        for gone in self.friends.replace(clock.now, friends, |key| sessions.is_home(key)) {
            let session = match gone {
                Standing::Here(peer) => self.peers.get(&peer).map(|peer| peer.session),
                Standing::Calling(session) => Some(session),
                Standing::Away { .. } | Standing::Resting => None,
            };
            if let Some(session) = session {
                self.sessions.close(clock.now, session, CloseCode::UNWANTED, "no longer a friend");
            }
        }
        let friends: BTreeSet<_> = self.friends.iter().map(|(one, _)| one.card.node_id()).collect();
        self.shaping.promises.retain(|node| friends.contains(node));
        self.befriend_connected(clock);
        self.introduce_friends(clock);
        self.know_bridges(clock.now);
        self.know_promised(clock.now);
    }

    /// Sessions with friends that have a bridge go on there when they fall silent, and nowhere when they have none any more.
    fn know_bridges(&mut self, now: Time) {
        let here = self.friends.iter().filter_map(|(_, standing)| match standing {
            Standing::Here(id) => Some(id),
            _ => None,
        });
        let here: Vec<_> = here.collect();
        here.into_iter().for_each(|id| self.know_bridge(now, id));
    }

    fn know_bridge(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if let Some(friend) = self.friends.get(&peer.card.key) {
            self.sessions.set_spare(now, peer.session, friend.bridge.map(bridge_path));
        }
    }

    pub(super) fn session_events(&mut self, clock: Clock) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                SessionEvent::Established { session, initiator, card, lane } => {
                    self.peer_up(clock, session, initiator, card, lane);
                }
                SessionEvent::Wanted { peer } => self.friends.hurry_one(clock.now, &peer),
                SessionEvent::Confirmed { session } => {
                    if let Some(id) = self.by_session.get(&session).copied() {
                        self.befriend(clock, id);
                        self.circuits_usable(clock, id);
                        self.stranger_came(clock, id);
                        self.overlay_confirmed(clock, session, true);
                        self.overlay_met(clock, id);
                        self.note_path(clock, id);
                        self.touch(id);
                    }
                }
                SessionEvent::Validated { session } => {
                    if let Some(id) = self.by_session.get(&session).copied() {
                        self.touch(id);
                    }
                }
                // Packet 0 is not acknowledged then, and loss recovery sends the request for a chunk again.
                SessionEvent::EarlyRefused { session } => self.overlay_early_refused(clock, session),
                SessionEvent::Failed { session, why } => {
                    if let Some(early) = self.early.remove(&session) {
                        self.fetch.peer_down(early.peer);
                    }
                    match why {
                        FailedWhy::Superseded(other) => {
                            self.circuits_moved(session, other);
                            self.overlay_moved(clock, session, other);
                        }
                        FailedWhy::NoAnswer | FailedWhy::Cancelled => {
                            self.circuits_failed(clock, session);
                            self.overlay_call_failed(clock, session);
                            self.provider_lane(clock.now, session, None);
                            self.friends.failed(clock.now, session, &mut self.rng);
                            self.acquaintance_failed(clock, session);
                        }
                    }
                }
                SessionEvent::Silent { session } => self.call_anew(clock, session),
                SessionEvent::Closed { session, why } => self.peer_down(clock, session, &why),
                SessionEvent::Moved { session, .. } => {
                    let Some(id) = self.by_session.get(&session).copied() else { continue };
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.connection.path_changed(clock.now);
                    }
                    self.note_path(clock, id);
                    // Off a way, it is the bridge that is left, if there is one.
                    self.know_bridge(clock.now, id);
                    // Where a peer is that came by a relay shows only now.
                    self.overlay_met(clock, id);
                    self.touch(id);
                }
            }
        }
    }

    fn peer_up(&mut self, clock: Clock, session: SessionKey, initiator: bool, card: IdentityCard, lane: u16) {
        let (id, connection) = match self.early.remove(&session) {
            Some(early) => (early.peer, early.connection),
            None => (self.next_peer_id(), self.connection(clock.now, initiator)),
        };
        let node = card.node_id();
        let trust = self.friends.get(&card.key).map(|friend| friend.trust);
        let streams = BTreeMap::new();
        let Some(slot) = self.shaping.add(clock.now, id, &node, trust, lane) else {
            // There are no more sessions than places; without one, nothing could be sent.
            self.fetch.peer_down(id);
            return self.sessions.close(clock.now, session, CloseCode::UNWANTED, "no room");
        };
        let mut down = self.shaping.down_of(clock.now, &node);
        down.set_fed(clock.now, lane > 0);
        let mut peer = Peer {
            session,
            card,
            node,
            lane,
            connection,
            trust,
            hello: Meeting::Listening(Vec::new()),
            streams,
            slot,
            down,
            lent: false,
            asking: None,
            request: None,
            telling: None,
            telling_budget: Budget::default(),
            was_told: None,
            tells_in_vain: false,
            relay_told: None,
            told_budget: Budget::default(),
            timer: None,
            queue_turn: false,
            arrived: 0,
            sent_seen: 0,
            asks: false,
            given: 0,
            overlay_told: false,
            overlay_budget: Budget::default(),
            meeting_budget: Budget::default(),
            rounds_budget: Budget::default(),
            held_at: None,
            hold_asked: None,
            carried_budget: Budget::default(),
            straight_after: None,
            sent_bytes: 0,
            received_bytes: 0,
        };
        peer.streams.extend(self.fetch.streams_of(id).map(|stream| (stream, Role::Fetching)));
        self.peers.insert(id, peer);
        self.by_session.insert(session, id);
        self.know(clock.now, id);
        self.circuits_up(clock, id, initiator);
        if initiator {
            self.befriend(clock, id);
        } else if lane == 0 {
            self.friends.expected(clock.now, &card.key);
            self.introducing.acquaintances.expected(clock.now, &card.key);
        }
        if initiator {
            self.overlay_called(clock, session, id);
            self.provider_lane(clock.now, session, Some(id));
        }
        if lane == 0 {
            self.say_hello(clock, id);
            self.ask_promise(clock, id);
            self.note_path(clock, id);
            self.ask_what_waits(clock.now, id);
        }
        self.touch(id);
    }

    /// A session that both sides are known to have becomes its friend's one. Not before: a responder has a
    /// session for each first flight that reached it, of which all but one are never used.
    fn befriend(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        // A lane that the peer opened is for what the peer wants.
        if peer.lane > 0 && !self.sessions.is_initiator(peer.session) {
            return;
        }
        if self.friends.connected(&peer.card.key, id) {
            self.sessions.set_keepalive(peer.session, peer.lane == 0);
            self.tunnels.revive(&peer.card.key);
            let key = peer.card.key;
            self.know_bridge(clock.now, id);
            self.ask_where(clock.now, id);
            if !is_liar(&self.liars, clock.now, &key) {
                self.fetch.peer_up(clock.now, id);
            }
        } else {
            self.acquainted(clock, id);
        }
    }

    /// Peers that connected before they became friends can be asked from now on.
    pub(super) fn befriend_connected(&mut self, clock: Clock) {
        let (mut befriended, mut changed) = (Vec::new(), Vec::new());
        for (id, peer) in &mut self.peers {
            let trust = self.friends.get(&peer.card.key).map(|friend| friend.trust);
            let both = self.sessions.is_initiator(peer.session) || self.sessions.is_confirmed(peer.session);
            let news = both && trust.is_some() && peer.trust.is_none() && peer.lane == 0;
            if news && self.friends.connected(&peer.card.key, *id) {
                self.sessions.set_keepalive(peer.session, true);
                if !is_liar(&self.liars, clock.now, &peer.card.key) {
                    self.fetch.peer_up(clock.now, *id);
                }
            }
            if trust.is_none() && peer.trust.is_some() {
                self.fetch.peer_down(*id);
            }
            if trust.is_some() && peer.trust.is_none() {
                befriended.push(*id);
            }
            if std::mem::replace(&mut peer.trust, trust) != trust {
                changed.push(*id);
            }
        }
        for id in changed {
            self.know(clock.now, id);
            self.intents_met(clock, id);
        }
        // What they said of relays counts now, and they are told.
        for id in befriended {
            self.learn_relays(clock, id);
            self.circuits.news(clock.now);
        }
    }

    fn peer_down(&mut self, clock: Clock, session: SessionKey, why: &ClosedWhy) {
        let Some(id) = self.by_session.remove(&session) else { return };
        self.source_down(clock, id);
        self.friends.gone(clock.now, id);
        self.introducing.acquaintances.gone(clock.now, id);
        self.fetch.peer_down(id);
        self.serve.peer_down(id);
        self.keep.peer_down(id);
        self.push.peer_down(clock.now, id);
        self.meanings.core.down(id);
        let Some(peer) = self.peers.remove(&id) else { return };
        self.waiting.clear(peer.slot);
        self.shaping.remove(peer.slot);
        self.loans.forget(self.shaping.budget.shard(), id);
        self.circuits_down(clock, id, &peer.card.key);
        self.circuits_failed(clock, session);
        self.overlay_confirmed(clock, session, false);
        self.overlay_down(clock, id, &peer, why);
        self.punch.meetings.remove(&id);
        self.ways_lost(clock, id, None);
        if peer.lane == 0 && self.sessions.usable(&peer.card.key).is_none() {
            self.carry_no_more(&peer.card.key);
        }
        if let Some(at) = peer.timer {
            self.timers.remove(&(at, id));
        }
        for (stream, role) in peer.streams {
            if let Role::Meeting(until) | Role::Asked(until) | Role::Told(until) = role {
                self.meetings.remove(&(until, id, stream));
            }
        }
    }

    pub(super) fn next_peer_id(&mut self) -> PeerId {
        self.next_peer += 1;
        PeerId(self.next_peer)
    }

    pub(super) fn connection(&self, now: Time, initiator: bool) -> Connection {
        let mtu_max = self.datagram_max as u32;
        let config =
            stream::Config { unread_max: STREAM_UNREAD_MAX, mtu_max, ..stream::Config::new(initiator) };
        Connection::new(now, config)
    }

    pub(super) fn call_friends(&mut self, clock: Clock) {
        while let Some(friend) = self.friends.due(clock.now) {
            if !self.friends.is_home(&friend.card.key) {
                self.call_elsewhere(clock, &friend);
                continue;
            }
            let liar = is_liar(&self.liars, clock.now, &friend.card.key);
            let early = if liar { None } else { self.early_request(clock) };
            let bytes = early.as_ref().map_or(&[][..], |(_, bytes)| bytes);
            // With other addresses it is tried only after these: see `settle_punch`.
            let bridge = friend.bridge.filter(|_| friend.addresses.is_empty());
            let addresses = bridge.as_ref().map_or(&friend.addresses[..], std::slice::from_ref);
            let started = self.sessions.connect(clock.now, clock.wall, &friend.card, addresses, bytes);
            let session = match started {
                Ok(session) | Err(ConnectError::Connecting(session)) => Some(session),
                Err(_) => None,
            };
            match (early, started) {
                (Some((early, _)), Ok(session)) => {
                    self.early.insert(session, early);
                }
                (Some((early, _)), Err(_)) => self.fetch.peer_down(early.peer),
                (None, _) => {}
            }
            self.friends.calling(clock.now, &friend.card.key, session);
            if session.is_some() {
                self.want_way(clock.now, &friend.card, false);
            }
        }
    }

    /// A friend is called as if there were no session with it: a new one takes the old one's place if it answers.
    fn call_anew(&mut self, clock: Clock, session: SessionKey) {
        let key = self.by_session.get(&session).and_then(|id| self.peers.get(id)).map(|peer| peer.card.key);
        let Some(friend) = key.and_then(|key| self.friends.get(&key)).cloned() else { return };
        // Its bridge may have been taken away meanwhile.
        let bridge = friend.bridge.filter(|_| friend.addresses.is_empty());
        let addresses = bridge.map_or(friend.addresses, |bridge| vec![bridge]);
        if addresses.is_empty() {
            return;
        }
        if self.sessions.connect(clock.now, clock.wall, &friend.card, &addresses, b"").is_ok() {
            self.want_way(clock.now, &friend.card, false);
        }
    }

    /// A friend whose home is another shard: a lane to it is wanted while there is something to get.
    fn call_elsewhere(&mut self, clock: Clock, friend: &Friend) {
        let key = &friend.card.key;
        if self.get.is_idle() {
            self.friends.rest(key);
        } else if is_liar(&self.liars, clock.now, key) {
            self.friends.calling(clock.now, key, None);
        } else {
            let lane = self.sessions.open_lane(clock.now, &friend.card).ok();
            self.friends.calling(clock.now, key, lane);
        }
    }

    /// When content is wanted and nobody is connected, the first flight asks for it already: the request is
    /// packet number 0 of the session to be.
    fn early_request(&mut self, clock: Clock) -> Option<(Early, Vec<u8>)> {
        // With anybody else to ask, the request that comes next may be meant for that peer.
        if !self.fetch.is_waiting()
            || self.early.values().any(|early| early.fetching)
            || self.fetch.peers() > 0
        {
            return None;
        }
        let peer = self.next_peer_id();
        let mut connection = self.connection(clock.now, true);
        self.fetch.peer_up(clock.now, peer);
        let outgoing = self.fetch.poll_request(clock.now);
        let stream = outgoing.and_then(|one| send_request(&mut connection, &mut self.fetch, one));
        self.fetch.hold(peer);
        let mut room = [0; EARLY_DATA_MAX];
        let meta = stream.and_then(|_| connection.poll_payload(clock.now, 0, &mut room, &mut ()));
        let Some(meta) = meta else {
            self.fetch.peer_down(peer);
            return None;
        };
        Some((Early { peer, connection, fetching: true }, room[..meta.len].to_vec()))
    }
}

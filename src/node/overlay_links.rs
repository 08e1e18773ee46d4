//! Sessions for the overlay: those that are there anyway, and those with strangers that are opened to ask them something,
//! kept while they are used, and closed when nobody needs them or others need their room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::circuits::link;
use super::overlay::Tag;
use super::peer::{Meeting, Peer, Role};
use super::{Clock, Early, Node, OVERLAY_CHANNEL};
use crate::base::{NodeId, PublicKey, Time, Way};
use crate::crypto::IdentityCard;
use crate::limits::{
    EARLY_DATA_MAX, EXCHANGE_MS_MAX, OVERLAY_CALL_MS_MAX, OVERLAY_CALLS_MAX, OVERLAY_CALLS_OWN,
    OVERLAY_IDLE_MS, OVERLAY_QUEUED_MAX, OVERLAY_SESSIONS_MAX, OVERLAY_SWEEP_MS, STRANGERS_MAX,
};
use crate::service::PeerId;
use crate::session::{CloseCode, ClosedWhy, ConnectError, OverlayCross, SessionKey};
use crate::wire::overlay::{Body, Contact, Message};

/// A session that was used so lately may be waiting for an answer.
const IN_USE: Duration = Duration::from_millis(EXCHANGE_MS_MAX);
/// One that was looked at just now, and found to be needed.
const JUST_NOW: Duration = Duration::from_millis(1);

/// The sessions of one shard that the overlay uses.
#[derive(Default)]
pub(super) struct Links {
    /// Handshakes under way; at most [`OVERLAY_CALLS_MAX`].
    calls: BTreeMap<SessionKey, Calling>,
    by_key: BTreeMap<PublicKey, SessionKey>,
    /// Sessions of ours that their peers are not known to have yet, and the other shards that wait for that: without it
    /// there are no lanes.
    unconfirmed: BTreeMap<SessionKey, (PublicKey, BTreeSet<u8>)>,
    /// Where each was heard last: an answer goes there also before its session is confirmed.
    heard: BTreeMap<PublicKey, PeerId>,
    /// Questions that went with a first flight, until the peer is known to have taken them.
    early: BTreeMap<SessionKey, Vec<u8>>,
    /// Sessions that carried something, or strangers', and since when they did not.
    used: BTreeMap<PeerId, (Time, Kind)>,
    /// The same by time, of each kind.
    order: [BTreeSet<(Time, PeerId)>; 3],
    /// When idle ones are looked for.
    pub(super) sweep_at: Option<Time>,
}

/// Which sessions make room for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The peer came, and said something of the overlay.
    Came,
    /// It was called, to say something of the overlay.
    Called,
    /// A stranger came that has nothing to do with the overlay: not closed for being idle, but there are only so many.
    Quiet,
}

/// A handshake with somebody to whom the overlay wants to say something.
struct Calling {
    id: NodeId,
    key: PublicKey,
    since: Time,
    /// Where; at most [`crate::limits::ADDRESSES_PER_PEER_MAX`].
    tried: Vec<SocketAddr>,
    /// What waits for it; at most [`OVERLAY_QUEUED_MAX`].
    messages: Vec<Vec<u8>>,
    /// Shards that wait to hear of it.
    shards: BTreeSet<u8>,
}

impl Links {
    /// Whether a session was opened here for the overlay.
    pub(super) fn is_called(&self, id: PeerId) -> bool {
        self.used.get(&id).is_some_and(|(_, kind)| *kind == Kind::Called)
    }

    /// Whether a session carried something of the overlay lately.
    pub(super) fn is_used(&self, id: PeerId) -> bool {
        self.used.get(&id).is_some_and(|(_, kind)| *kind != Kind::Quiet)
    }

    /// A session carried something just now.
    pub(super) fn used(&mut self, now: Time, id: PeerId) {
        let kind = if self.is_called(id) { Kind::Called } else { Kind::Came };
        self.enter(now, id, kind);
    }

    /// Something came from a peer on this session.
    pub(super) fn heard(&mut self, now: Time, id: PeerId, key: PublicKey) {
        self.used(now, id);
        self.heard.insert(key, id);
    }

    fn enter(&mut self, now: Time, id: PeerId, kind: Kind) {
        self.leave(id);
        self.used.insert(id, (now, kind));
        self.order[kind as usize].insert((now, id));
        if kind != Kind::Quiet {
            self.sweep_at.get_or_insert(now + Duration::from_millis(OVERLAY_SWEEP_MS));
        }
    }

    fn leave(&mut self, id: PeerId) {
        if let Some((at, kind)) = self.used.remove(&id) {
            self.order[kind as usize].remove(&(at, id));
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.order[kind as usize].len()
    }

    /// The session of a kind that is to make room for others, and was not used for so long at least.
    fn oldest(&self, kind: Kind, now: Time, rest: Duration) -> Option<PeerId> {
        self.order[kind as usize].first().filter(|(at, _)| now.since(*at) >= rest).map(|(_, id)| *id)
    }

    /// Whether another handshake may begin, where so many sessions may be kept. What nobody waits for, `background`,
    /// leaves some to what somebody does; and whatever comes of all of them, sessions are bounded.
    fn may_call(&self, background: bool, kept: usize) -> bool {
        let own = if background { OVERLAY_CALLS_OWN } else { 0 };
        let (calls, sessions) = (self.calls.len(), self.count(Kind::Called));
        calls + own < OVERLAY_CALLS_MAX && calls + sessions < kept + OVERLAY_CALLS_MAX
    }

    /// Sessions with others that it uses, and handshakes.
    pub(super) fn len(&self) -> usize {
        self.count(Kind::Came) + self.count(Kind::Called) + self.calls.len()
    }
}

/// Whether no caller waits for the answer to a message: it looks after the table or what is published.
fn is_background(message: &[u8]) -> bool {
    match Message::parse(message).map(|message| message.body) {
        Ok(Body::Find(find)) => find.quiet,
        Ok(body) => matches!(body, Body::Probe | Body::Announce(_) | Body::Collect { .. }),
        Err(_) => true,
    }
}

/// A message behind its network's tag.
fn tagged(tag: &Tag, message: &[u8]) -> Vec<u8> {
    [&tag[..], message].concat()
}

impl Node {
    /// Says something to a peer whose home this is, on its session or on a new one.
    pub(super) fn send_overlay(&mut self, clock: Clock, to: &Contact, bytes: Vec<u8>, question: bool) {
        let key = to.card.key;
        let heard = || self.overlay.links.heard.get(&key).copied().filter(|_| !question);
        match self.link_with(&key).or_else(heard) {
            Some(id) => self.say_overlay(clock, id, &bytes),
            None if question => {
                let addresses: Vec<SocketAddr> = to.addresses().collect();
                self.call_for_overlay(clock, &to.card, &addresses, Some(bytes), None);
            }
            None => self.overlay.counters.unsent += 1,
        }
    }

    /// The peer behind a key whose home this is, if there is a session with it.
    pub(super) fn link_with(&self, key: &PublicKey) -> Option<PeerId> {
        self.sessions.usable(key).and_then(|session| self.by_session.get(&session)).copied()
    }

    /// Says something on a session.
    fn say_overlay(&mut self, clock: Clock, id: PeerId, bytes: &[u8]) {
        let (Some(on), Some(peer)) = (&self.overlay.on, self.peers.get_mut(&id)) else { return };
        if let Meeting::Met(hello) = &peer.hello
            && !hello.services.contains(&OVERLAY_CHANNEL)
        {
            let peer = peer.node;
            return self.say_to_keeper(clock, OverlayCross::Failed { peer, tried: Vec::new() });
        }
        let sent = peer.connection.datagram(OVERLAY_CHANNEL, &tagged(&on.tag, bytes)).is_ok();
        let counters = &mut self.overlay.counters;
        *(if sent { &mut counters.sent } else { &mut counters.unsent }) += 1;
        self.overlay.links.used(clock.now, id);
        self.queue(clock.now, id);
    }

    /// Opens a session with a peer whose home this is, to say something, or for a shard that waits for it.
    pub(super) fn call_for_overlay(
        &mut self,
        clock: Clock,
        card: &IdentityCard,
        addresses: &[SocketAddr],
        mut message: Option<Vec<u8>>,
        shard: Option<u8>,
    ) {
        let key = card.key;
        if let Some(id) = self.link_with(&key) {
            if let Some(message) = message {
                self.say_overlay(clock, id, &message);
            }
            return self.tell_called(clock, id, shard.into_iter().collect());
        }
        // Whose address is not to be tried may be reached through others all the same.
        let nowhere = [Way::NOWHERE.address()];
        let hidden = addresses.is_empty() && shard.is_some();
        let addresses = if hidden { &nowhere[..] } else { addresses };
        let known = self.overlay.links.by_key.get(&key).copied();
        let session = match known {
            Some(session) => Ok(session),
            None => self.begin_call(clock, card, addresses, &mut message),
        };
        let calling = session.map(|session| self.overlay.links.calls.get_mut(&session));
        let Ok(Some(calling)) = calling else {
            self.overlay.counters.unsent += u64::from(message.is_some());
            let peer = card.node_id();
            // For want of room nothing was tried: it is not the peer's fault.
            let failed = match calling {
                Err(ConnectError::Full) => OverlayCross::Untried(peer),
                _ => OverlayCross::Failed { peer, tried: Vec::new() },
            };
            self.say_to_keeper(clock, failed);
            if let Some(shard) = shard {
                self.overlay_cross(clock, shard, OverlayCross::Called { peer: key, up: false });
            }
            return;
        };
        calling.shards.extend(shard);
        if shard.is_some() {
            // Somebody waits for it: it is worth a way through others.
            self.want_way(clock.now, card, hidden);
        }
        let Some(calling) = self.overlay.links.by_key.get(&key).copied() else { return };
        let Some(calling) = self.overlay.links.calls.get_mut(&calling) else { return };
        if let Some(message) = message {
            match calling.messages.len() < OVERLAY_QUEUED_MAX {
                true => calling.messages.push(message),
                false => self.overlay.counters.unsent += 1,
            }
        }
    }

    fn begin_call(
        &mut self,
        clock: Clock,
        card: &IdentityCard,
        addresses: &[SocketAddr],
        message: &mut Option<Vec<u8>>,
    ) -> Result<SessionKey, ConnectError> {
        let kept = self.links_kept(Kind::Called);
        self.make_room_for_links(clock, Kind::Called, kept.saturating_sub(1), IN_USE);
        let background = message.as_ref().is_some_and(|message| is_background(message));
        if !self.overlay.links.may_call(background, kept) {
            return Err(ConnectError::Full);
        }
        let early = message.as_ref().and_then(|message| self.early_question(clock, message));
        let bytes = early.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let session = match self.sessions.connect(clock.now, clock.wall, card, addresses, bytes) {
            Ok(session) => {
                if let Some((early, _)) = early {
                    self.early.insert(session, early);
                    self.overlay.links.early.extend(message.take().map(|message| (session, message)));
                }
                session
            }
            Err(ConnectError::Connecting(session)) => session,
            Err(error) => return Err(error),
        };
        self.overlay.counters.calls += 1;
        let (id, key) = (card.node_id(), card.key);
        let calling = Calling {
            id,
            key,
            since: clock.now,
            tried: addresses.iter().filter(|address| Way::of(address).is_none()).copied().collect(),
            messages: Vec::new(),
            shards: BTreeSet::new(),
        };
        let links = &mut self.overlay.links;
        links.calls.insert(session, calling);
        links.by_key.insert(key, session);
        links.sweep_at.get_or_insert(clock.now + Duration::from_millis(OVERLAY_SWEEP_MS));
        Ok(session)
    }

    /// A step of a lookup may go with the first flight, as packet 0 of the session to be: it changes nothing, and may come
    /// twice. Probes may not, since the address that they are answered with must be proven; lookups for others cost too much.
    fn early_question(&mut self, clock: Clock, message: &[u8]) -> Option<(Early, Vec<u8>)> {
        let on = self.overlay.on.as_ref()?;
        let Ok(Message { body: Body::Find(_), .. }) = Message::parse(message) else { return None };
        let datagram = tagged(&on.tag, message);
        let peer = self.next_peer_id();
        let mut connection = self.connection(clock.now, true);
        connection.datagram(OVERLAY_CHANNEL, &datagram).ok()?;
        let mut room = [0; EARLY_DATA_MAX];
        let meta = connection.poll_payload(clock.now, 0, &mut room, &mut ())?;
        self.overlay.counters.sent += 1;
        Some((Early { peer, connection, fetching: false }, room[..meta.len].to_vec()))
    }

    /// The peer did not take what went with the first flight: it is said again.
    pub(super) fn overlay_early_refused(&mut self, clock: Clock, session: SessionKey) {
        let Some(message) = self.overlay.links.early.remove(&session) else { return };
        if let Some(id) = self.by_session.get(&session).copied() {
            self.say_overlay(clock, id, &message);
        }
    }

    /// A handshake of ours is done, or the peer's own was faster and `id` is that: what waited is said.
    pub(super) fn overlay_called(&mut self, clock: Clock, session: SessionKey, id: PeerId) {
        let links = &mut self.overlay.links;
        let Some(calling) = links.calls.remove(&session) else { return };
        links.by_key.remove(&calling.key);
        links.enter(clock.now, id, Kind::Called);
        self.ask_what_waits(clock.now, id);
        for message in calling.messages {
            self.say_overlay(clock, id, &message);
        }
        self.tell_called(clock, id, calling.shards);
    }

    /// Tells shards of a session: others than this when the peer has it, too, since what they want is a lane.
    fn tell_called(&mut self, clock: Clock, id: PeerId, mut shards: BTreeSet<u8>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (peer, session) = (peer.card.key, peer.session);
        let own = shards.remove(&self.overlay.shard.0).then_some(self.overlay.shard.0);
        let others = match self.sessions.is_confirmed(session) {
            true => shards,
            false => {
                if !shards.is_empty() {
                    let waiting = self.overlay.links.unconfirmed.entry(session);
                    waiting.or_insert_with(|| (peer, BTreeSet::new())).1.extend(shards);
                }
                BTreeSet::new()
            }
        };
        for shard in own.into_iter().chain(others) {
            self.overlay_cross(clock, shard, OverlayCross::Called { peer, up: true });
        }
    }

    /// The peer is known to have the session, or it is over.
    pub(super) fn overlay_confirmed(&mut self, clock: Clock, session: SessionKey, up: bool) {
        self.overlay.links.early.remove(&session);
        let Some((peer, shards)) = self.overlay.links.unconfirmed.remove(&session) else { return };
        for shard in shards {
            self.overlay_cross(clock, shard, OverlayCross::Called { peer, up });
        }
    }

    /// Another session took the place of one that the overlay waited for.
    pub(super) fn overlay_moved(&mut self, clock: Clock, from: SessionKey, to: SessionKey) {
        let early = self.overlay.links.early.remove(&from);
        match self.by_session.get(&to).copied() {
            Some(id) => {
                self.overlay_called(clock, from, id);
                early.into_iter().for_each(|message| self.say_overlay(clock, id, &message));
            }
            None => self.overlay_call_failed(clock, from),
        }
    }

    /// A handshake of ours came to nothing.
    pub(super) fn overlay_call_failed(&mut self, clock: Clock, session: SessionKey) {
        let links = &mut self.overlay.links;
        links.early.remove(&session);
        let Some(calling) = links.calls.remove(&session) else { return };
        links.by_key.remove(&calling.key);
        self.punch.asks.retain(|(relay, _), _| *relay != calling.key);
        self.overlay.counters.calls_failed += 1;
        self.say_to_keeper(clock, OverlayCross::Failed { peer: calling.id, tried: calling.tried });
        for shard in calling.shards {
            self.overlay_cross(clock, shard, OverlayCross::Called { peer: calling.key, up: false });
        }
    }

    /// A session is over, and the peer with it unless there is another. A lane that ends says nothing of its session,
    /// which is another shard's.
    pub(super) fn overlay_down(&mut self, clock: Clock, id: PeerId, peer: &Peer, why: &ClosedWhy) {
        let card = &peer.card;
        let links = &mut self.overlay.links;
        links.leave(id);
        if links.heard.get(&card.key) == Some(&id) {
            links.heard.remove(&card.key);
        }
        if !self.overlay.is_on() || peer.lane > 0 || self.sessions.usable(&card.key).is_some() {
            return;
        }
        // Silence is no fault where nobody had anything to say: who was asked something is waited for as usual.
        let peer = peer.node;
        let broke = matches!(why, ClosedWhy::Unconfirmed | ClosedWhy::Fault(_));
        let failed = OverlayCross::Failed { peer, tried: Vec::new() };
        self.say_to_keeper(clock, if broke { failed } else { OverlayCross::Down(peer) });
    }

    /// Whether nobody but the overlay needs a session.
    pub(super) fn is_spare(&self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let busy = |role: &Role| !matches!(role, Role::Introducing | Role::Meeting(_));
        peer.trust.is_none()
            && peer.lane == 0
            && !peer.streams.values().any(busy)
            && !self.circuits.called.contains(&id)
            && !self.circuits.onion.uses(link(id))
            && !self.overlay.finding.is_source(id)
            && !self.sessions.has_lanes(peer.session)
            && !self.introducing.acquaintances.is_here(&peer.card.key, id)
    }

    /// Sessions of a kind that this shard keeps at most, unless others than the overlay need them.
    fn links_kept(&self, kind: Kind) -> usize {
        let all = if kind == Kind::Quiet { STRANGERS_MAX } else { OVERLAY_SESSIONS_MAX };
        all / usize::from(self.overlay.shard.1.max(1))
    }

    /// Closes sessions of a kind, those first that were not used for longest, until there are `most`, but none that was
    /// used within `rest`, which is not zero.
    fn make_room_for_links(&mut self, clock: Clock, kind: Kind, most: usize, rest: Duration) {
        while self.overlay.links.count(kind) > most
            && let Some(id) = self.overlay.links.oldest(kind, clock.now, rest)
        {
            match self.is_spare(id) {
                true => self.close_link(clock, id, "making room"),
                // Others need it; it is looked at again when it has been the oldest again.
                false => self.overlay.links.enter(clock.now, id, kind),
            }
        }
    }

    /// A session that a peer began is known to be real: a stranger's is one of so many.
    pub(super) fn stranger_came(&mut self, clock: Clock, id: PeerId) {
        let is_stranger = |peer: &&Peer| peer.lane == 0 && peer.trust.is_none();
        let Some(peer) = self.peers.get(&id).filter(is_stranger) else { return };
        if self.sessions.is_initiator(peer.session) || self.overlay.links.used.contains_key(&id) {
            return;
        }
        let kept = self.links_kept(Kind::Quiet);
        self.overlay.links.enter(clock.now, id, Kind::Quiet);
        self.make_room_for_links(clock, Kind::Quiet, kept, JUST_NOW);
        let links = &self.overlay.links;
        let quiet = links.count(Kind::Quiet);
        if quiet > kept || quiet + links.count(Kind::Came) > kept + self.links_kept(Kind::Came) {
            // All others are busy.
            self.close_link(clock, id, "no room for strangers");
        }
    }

    fn close_link(&mut self, clock: Clock, id: PeerId, why: &str) {
        self.overlay.links.leave(id);
        if let Some(peer) = self.peers.get(&id) {
            self.overlay.counters.closed += 1;
            self.sessions.close(clock.now, peer.session, CloseCode::UNWANTED, why);
        }
    }

    /// Closes what was not used for long, and gives up calls that take too long.
    pub(super) fn sweep_overlay_links(&mut self, clock: Clock) {
        let idle = Duration::from_millis(OVERLAY_IDLE_MS);
        for kind in [Kind::Came, Kind::Called] {
            let links = &self.overlay.links.order[kind as usize];
            let old = links.iter().take_while(|(at, _)| clock.now.since(*at) >= idle);
            for id in old.map(|(_, id)| *id).collect::<Vec<_>>() {
                match self.is_spare(id) {
                    true => self.close_link(clock, id, "not needed now"),
                    // Others need it; it is looked at again.
                    false => self.overlay.links.enter(clock.now, id, kind),
                }
            }
            self.make_room_for_links(clock, kind, self.links_kept(kind), IN_USE);
        }
        // A crowd that talks without a pause is still so large and no larger.
        self.make_room_for_links(clock, Kind::Came, 2 * self.links_kept(Kind::Came), JUST_NOW);
        let late = Duration::from_millis(OVERLAY_CALL_MS_MAX);
        let calls = self.overlay.links.calls.iter();
        let late = calls.filter(|(_, calling)| clock.now.since(calling.since) >= late);
        for (session, key) in late.map(|(session, calling)| (*session, calling.key)).collect::<Vec<_>>() {
            self.overlay_call_failed(clock, session);
            // A friend's handshake goes on.
            let is_known =
                self.friends.get(&key).is_some() || self.introducing.acquaintances.get(&key).is_some();
            if !is_known && !self.circuits.calling.contains_key(&session) {
                self.sessions.close(clock.now, session, CloseCode::UNWANTED, "");
            }
        }
        if self.overlay.links.len() == 0 {
            self.overlay.links.sweep_at = None;
        }
    }

    /// The node leaves the overlay: nobody else needs these sessions.
    pub(super) fn close_links(&mut self, clock: Clock) {
        let links = std::mem::take(&mut self.overlay.links);
        for (id, (at, kind)) in links.used {
            if kind != Kind::Quiet && self.is_spare(id) {
                self.close_link(clock, id, "leaving");
            } else if kind != Kind::Called {
                self.overlay.links.enter(at, id, Kind::Quiet);
            }
        }
    }
}

#[cfg(test)]
mod tests;

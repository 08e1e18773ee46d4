//! Whoever is not reached straight is reached by a peer of both, and then both try to get off that way (docs/protocol/nat.md
//! §3): whom to ask for a way, where a session goes on that has lost its own, where this node may be reached, and when to
//! try.

use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use super::circuits::FIRST;
use super::friends::Standing;
use super::peer::Peer;
use super::peers::bridge_path;
use super::punch::{Meeting, Question, Teller, Wanted};
use super::{Clock, Node};
use crate::base::{NodeId, Path, PublicKey, Time, Way};
use crate::crypto::IdentityCard;
use crate::limits::{
    HOLD_MS, MEETING_PLACES_MAX, PUNCH_ROUNDS_MS, ROUND_COST, ROUNDS_BURST, STRANGERS_ROUNDS_BURST,
    STRANGERS_ROUNDS_PER_SECOND, TELLINGS_BURST, TELLINGS_PER_SECOND, WANTED_WAYS_MAX, WAY_AGAIN_MS,
    WAY_ASKED_MAX, WAY_ASKS_MS_MAX, WAY_PATIENCE_MS, WAY_QUESTION_MS_MAX, WAY_QUESTIONS_MAX,
};
use crate::overlay::site::{Realm, is_global, realm};
use crate::service::PeerId;
use crate::session::{MeetCross, SessionKey};
use crate::wire::overlay::{Contact, Endpoint};
use crate::wire::punch::{Message, Verdict};

/// Ways are asked for so often for one handshake.
const TRIES: u32 = 4;
/// Addresses of which peers said that they see this node there, at most.
const SEEN_MAX: usize = 16;
/// Peers whose sessions are looked at for addresses of this host, at most.
const LOOKED_MAX: usize = 64;

impl Node {
    /// A handshake began whose peer may not be reached straight, or `hidden`: certainly is not.
    pub(super) fn want_way(&mut self, now: Time, card: &IdentityCard, hidden: bool) {
        let wanted = &mut self.punch.wanted;
        if wanted.len() < WANTED_WAYS_MAX {
            let next_at = now + Duration::from_millis(if hidden { 0 } else { WAY_PATIENCE_MS });
            wanted.entry(card.key).or_insert(Wanted { card: *card, next_at, tries: 0 });
        }
    }

    /// What is due: to ask for ways, to meet, to say that this node is there.
    pub(super) fn settle_punch(&mut self, clock: Clock) {
        let now = clock.now;
        if self.punch.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let due = |(_, wanted): &(&PublicKey, &Wanted)| wanted.next_at <= now;
        let due: Vec<PublicKey> = self.punch.wanted.iter().filter(due).map(|(key, _)| *key).collect();
        for key in due {
            let lost = self.sessions.current(&key).and_then(|session| self.sessions.path(session));
            let lost = lost.is_some_and(|path| self.punch.dead.contains(&path.remote));
            let wanted = lost || self.sessions.is_connecting(&key);
            let Some(own) = self.punch.wanted.get_mut(&key).filter(|own| wanted && own.tries < TRIES) else {
                self.punch.wanted.remove(&key);
                continue;
            };
            own.next_at = now + Duration::from_millis(WAY_AGAIN_MS << own.tries);
            own.tries += 1;
            // A bridge of its own is a way that need not be asked for.
            let bridge = self.friends.get(&key).and_then(|friend| friend.bridge);
            if let Some(path) = bridge.map(bridge_path) {
                let dead = &self.punch.dead;
                self.sessions.take_way(&key, path, |of| dead.contains(&of.remote));
            }
            let Some(own) = self.punch.wanted.get(&key) else { continue };
            // A common friend carries more than strangers do: it has the first word.
            let (card, strangers) = (own.card, own.tries > 1 || self.friends.get(&key).is_none());
            self.tell_shards(clock, || MeetCross::Wanted { card, strangers });
        }
        let due = |(_, meeting): &(&PeerId, &Meeting)| meeting.next_at <= now;
        let due: Vec<PeerId> = self.punch.meetings.iter().filter(due).map(|(id, _)| *id).collect();
        for id in due {
            self.meet(clock, id, true);
        }
        self.hold(clock);
    }

    // ---- whom to ask ----

    /// Friends may have a session with it; and whoever is near to it in the network, if it keeps one with them.
    pub(super) fn look_for_way(&mut self, clock: Clock, card: &IdentityCard, strangers: bool) {
        let friends = self.friends.iter().filter_map(|(friend, standing)| match standing {
            Standing::Here(id) if friend.card.key != card.key => Some(id),
            _ => None,
        });
        let mut friends: Vec<PeerId> = friends.collect();
        while friends.len() > WAY_ASKED_MAX {
            friends.swap_remove(self.rng.below(friends.len() as u64) as usize);
        }
        friends.into_iter().for_each(|id| self.ask_way(clock.now, id, card));
        if strangers {
            let acquaintances = self.introducing.acquaintances.here().filter(|(key, _)| *key != card.key);
            let acquaintances: Vec<PeerId> = acquaintances.take(WAY_ASKED_MAX).map(|(_, id)| id).collect();
            acquaintances.into_iter().for_each(|id| self.ask_way(clock.now, id, card));
        }
        if strangers && self.overlay.shard.0 == FIRST {
            self.look_near(clock, card);
        }
    }

    /// Asks somebody with whom there may be no session yet.
    pub(super) fn ask_by_contact(&mut self, clock: Clock, relay: &Contact, target: &IdentityCard) {
        if let Some(id) = self.link_with(&relay.card.key) {
            return self.ask_way(clock.now, id, target);
        }
        // A call that was not even begun says nothing of its end.
        let late = Duration::from_millis(WAY_ASKS_MS_MAX);
        self.punch.asks.retain(|_, (_, at)| clock.now.since(*at) < late);
        if self.overlay.is_on() && self.punch.asks.len() < WAY_QUESTIONS_MAX {
            self.punch.asks.insert((relay.card.key, target.key), (*target, clock.now));
            let addresses: Vec<SocketAddr> = relay.addresses().collect();
            self.call_for_overlay(clock, &relay.card, &addresses, None, None);
        }
    }

    /// Asks a peer for a way to a node.
    fn ask_way(&mut self, now: Time, relay: PeerId, target: &IdentityCard) {
        let Some(peer) = self.peers.get(&relay).filter(|peer| peer.lane == 0) else { return };
        // A way through a way would be one too many.
        if peer.card.key == target.key || self.sessions.is_on_way(peer.session) {
            return;
        }
        // Nor is one of use by who goes in a moment.
        if self.meanings.leaves_soon(now, &peer.card.key) {
            return;
        }
        let questions = &mut self.punch.questions;
        let late = Duration::from_millis(WAY_QUESTION_MS_MAX);
        questions.retain(|_, question| now.since(question.at) < late);
        if questions.len() >= WAY_QUESTIONS_MAX {
            return;
        }
        let number = self.rng.next_u64() as u32;
        questions.insert(number, Question { relay, target: *target, at: now });
        self.punch.counters.asked += 1;
        self.say_meet(now, relay, &Message::Call { number, key: target.key });
    }

    /// A peer says whether there is one.
    pub(super) fn hear_way(
        &mut self,
        clock: Clock,
        id: PeerId,
        number: u32,
        verdict: Verdict,
        seen: Endpoint,
    ) {
        let asked = self.punch.questions.get(&number).is_some_and(|question| question.relay == id);
        let Some(question) = self.punch.questions.remove(&number).filter(|_| asked) else { return };
        self.note_seen(clock, id, seen);
        if verdict != Verdict::Carried {
            return;
        }
        self.punch.counters.found += 1;
        let target = question.target;
        if let Some(path) = self.way_by(clock.now, id, target.node_id()) {
            let home = self.home_of(&target.key);
            self.meet_cross(clock, home, MeetCross::Way { peer: target.key, way: path.remote });
        }
    }

    /// A session with somebody came about whom this node wanted to ask.
    pub(super) fn ask_what_waits(&mut self, now: Time, id: PeerId) {
        let Some(key) = self.peers.get(&id).map(|peer| peer.card.key) else { return };
        let of = (key, PublicKey([0; 32]))..=(key, PublicKey([0xff; 32]));
        let targets: Vec<IdentityCard> = self.punch.asks.range(of).map(|(_, (target, _))| *target).collect();
        for target in targets {
            self.punch.asks.remove(&(key, target.key));
            self.ask_way(now, id, &target);
        }
    }

    /// There is a way to a peer whose home this is.
    pub(super) fn take_way(&mut self, peer: &PublicKey, way: SocketAddr) {
        let Some(path) = Way::of(&way).map(Way::path) else { return };
        let dead = &self.punch.dead;
        self.sessions.take_way(peer, path, |of| dead.contains(&of.remote));
    }

    /// Ways lead nowhere any more: whoever is on one needs another.
    pub(super) fn leave_ways(&mut self, clock: Clock, ways: &[SocketAddr]) {
        let on = |session: SessionKey| self.sessions.path(session).map(|path| path.remote);
        let stuck = self.punch.meetings.keys().filter_map(|id| self.peers.get(id));
        let stuck = stuck.filter(|peer| on(peer.session).is_some_and(|remote| ways.contains(&remote)));
        let stuck: Vec<IdentityCard> = stuck.map(|peer| peer.card).collect();
        // Of those that nobody is on, nothing need be known.
        let in_use: Vec<Option<SocketAddr>> = self
            .punch
            .meetings
            .keys()
            .filter_map(|id| self.peers.get(id))
            .map(|peer| on(peer.session))
            .collect();
        self.punch.dead.retain(|way| in_use.contains(&Some(*way)));
        self.punch.dead.extend(ways.iter().filter(|way| in_use.contains(&Some(**way))));
        for card in stuck {
            self.want_way(clock.now, &card, true);
            if let Some(own) = self.punch.wanted.get_mut(&card.key) {
                (own.next_at, own.tries) = (clock.now, 0);
            }
        }
    }

    // ---- meeting ----

    /// A session begins, or goes on, on another path.
    pub(super) fn note_path(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0) else { return };
        if !self.sessions.is_relayed(peer.session) {
            let meeting = self.punch.meetings.remove(&id);
            let took = meeting.map(|meeting| clock.now.since(meeting.since));
            if let (Some(took), Some(peer)) = (took, self.peers.get_mut(&id)) {
                peer.straight_after = Some(took);
            }
            return;
        }
        let (is_initiator, is_near) = (self.sessions.is_initiator(peer.session), peer.trust.is_some());
        let meeting = Meeting { next_at: clock.now, rounds: 0, since: clock.now, is_near };
        if !is_initiator && !self.sessions.is_confirmed(peer.session) {
            // Of several of one handshake all but one are never used. But who is called says where it is, too, without
            // being asked; and so both begin at once.
            let candidates = self.candidates(is_near);
            self.say_meet(clock.now, id, &Message::Meet { ask: false, candidates });
            return;
        }
        if let Entry::Vacant(vacant) = self.punch.meetings.entry(id) {
            vacant.insert(meeting);
            self.meet(clock, id, is_initiator);
        }
    }

    /// Begins a round: says where this node may be.
    fn meet(&mut self, clock: Clock, id: PeerId, ask: bool) {
        let Some(meeting) = self.punch.meetings.get_mut(&id) else { return };
        let pause = PUNCH_ROUNDS_MS[meeting.rounds.min(PUNCH_ROUNDS_MS.len() - 1)];
        meeting.next_at = clock.now + Duration::from_millis(pause);
        meeting.rounds += 1;
        let is_near = meeting.is_near;
        let candidates = self.candidates(is_near);
        self.punch.counters.rounds += 1;
        self.say_meet(clock.now, id, &Message::Meet { ask, candidates });
        if ask {
            self.ask_again_where(clock.now, id);
        }
    }

    /// A peer says where it may be.
    pub(super) fn hear_meet(&mut self, clock: Clock, id: PeerId, ask: bool, told: &[Endpoint]) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.lane == 0) else { return };
        let (session, key, is_friend) = (peer.session, peer.card.key, peer.trust.is_some());
        // Each costs whoever is named some packets: nobody has this node send many.
        let own = &mut self.punch.strangers_rounds;
        let may = peer.rounds_budget.take(ROUND_COST, 1, ROUNDS_BURST * ROUND_COST, clock.now)
            && (is_friend || own.take(1, STRANGERS_ROUNDS_PER_SECOND, STRANGERS_ROUNDS_BURST, clock.now));
        if !may {
            self.punch.counters.flooded += 1;
            return;
        }
        let friend = self.friends.get(&key).map(|friend| friend.addresses.clone());
        let own: Vec<Endpoint> = self.candidates(true);
        let global = |one: &Endpoint| is_global(one.address());
        // Behind one translator, or in a network that has no others.
        let shares = told
            .iter()
            .filter(|one| global(one))
            .any(|one| own.iter().any(|own| own.address().ip() == one.address().ip()));
        let is_near = is_friend || shares || !told.iter().chain(&own).any(global);
        let usable = |one: &SocketAddr| match realm(one.ip()) {
            Some(Realm::Global) => true,
            Some(Realm::Local) => is_near,
            Some(Realm::Machine) | None => false,
        };
        let mut places: Vec<SocketAddr> = told.iter().map(Endpoint::address).filter(usable).collect();
        // Who cannot say where it is may be where its invitation said. (Beside what it says, another port of it would have
        // the session go back and forth between two.)
        if places.is_empty() {
            places.extend(friend.into_iter().flatten());
        }
        self.sessions.punch(clock.now, session, &places);
        let meeting = self.punch.meetings.get_mut(&id);
        let news = meeting.is_some_and(|own| is_near && !std::mem::replace(&mut own.is_near, is_near));
        if ask || news {
            let candidates = self.candidates(is_near);
            self.say_meet(clock.now, id, &Message::Meet { ask: false, candidates });
        }
    }

    /// Where this shard may be reached, best first: IPv6 before IPv4, and what is global before what is not, which only
    /// those hear of that are near.
    pub(super) fn candidates(&self, is_near: bool) -> Vec<Endpoint> {
        let punch = &self.punch;
        let sessions = self.peers.values().filter(|peer| peer.lane == 0).take(LOOKED_MAX);
        let local = sessions.filter_map(|peer| self.sessions.path(peer.session)).map(|path| path.local);
        let seen = punch.seen.values().map(|(address, _)| *address);
        let all = punch.mapped.iter().copied().chain(seen).chain(punch.own.iter().copied()).chain(local);
        let mut all: Vec<Endpoint> = all.filter_map(Endpoint::new).collect();
        let closed = !all.iter().any(|one| is_global(one.address()));
        all.retain(|one| match realm(one.address().ip()) {
            Some(Realm::Global) => true,
            Some(Realm::Local) => is_near || closed,
            Some(Realm::Machine) | None => false,
        });
        all.sort_by_key(|one| (!is_global(one.address()), one.address().is_ipv4(), *one));
        all.dedup();
        all.truncate(MEETING_PLACES_MAX);
        all
    }

    /// A peer says where it sees this shard. What is new is told at once to those that this node tries to meet.
    pub(super) fn note_seen(&mut self, clock: Clock, by: PeerId, seen: Endpoint) {
        // Whoever is reached by a bridge sees this machine, or nothing.
        let straight = |peer: &&Peer| !self.sessions.is_relayed(peer.session);
        let Some(peer) = self.peers.get(&by).filter(straight) else { return };
        self.note_told(clock, Teller::Peer(peer.card.key), seen.address());
    }

    /// Somebody says where it sees this shard.
    pub(super) fn note_told(&mut self, clock: Clock, by: Teller, address: SocketAddr) {
        let own = &mut self.punch.seen;
        let news = !own.values().any(|(known, _)| *known == address);
        if own.len() >= SEEN_MAX && !own.contains_key(&by) {
            let oldest = own.iter().min_by_key(|(_, (_, at))| *at).map(|(by, _)| *by);
            oldest.map(|oldest| own.remove(&oldest));
        }
        own.insert(by, (address, clock.now));
        if news {
            self.tell_mapped(clock);
        }
    }

    /// What is new of where this node is reached is told at once to those that it tries to meet.
    pub(super) fn tell_mapped(&mut self, clock: Clock) {
        if !self.punch.telling.take(1, TELLINGS_PER_SECOND, TELLINGS_BURST, clock.now) {
            return;
        }
        let all: Vec<(PeerId, bool)> =
            self.punch.meetings.iter().map(|(id, meeting)| (*id, meeting.is_near)).collect();
        for (id, is_near) in all {
            let candidates = self.candidates(is_near);
            self.say_meet(clock.now, id, &Message::Meet { ask: false, candidates });
        }
    }

    /// Whether the translator before this node gives one port to all remote ends: `None` without two peers that say where
    /// they see it.
    pub(super) fn is_mapping_endpoint_independent(&self) -> Option<bool> {
        let v4 = |address: &&SocketAddr| address.is_ipv4();
        let seen: Vec<SocketAddr> = self.punch.seen.values().map(|(address, _)| *address).collect();
        let first = seen.iter().find(v4).or(seen.first())?;
        let others: Vec<&SocketAddr> = seen.iter().filter(|one| one.is_ipv4() == first.is_ipv4()).collect();
        (others.len() > 1).then(|| others.iter().all(|one| *one == first))
    }

    /// Where peers see this shard, each address once.
    pub(super) fn seen_at(&self) -> Vec<SocketAddr> {
        let mut seen: Vec<SocketAddr> = self.punch.seen.values().map(|(address, _)| *address).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    /// Through which peer a path of this shard leads.
    pub(super) fn relay_on(&self, path: &Path) -> Option<NodeId> {
        let way = Way::of(&path.remote).filter(|way| way.shard == self.overlay.shard.0)?;
        let relay = self.punch.relay_of(way)?;
        self.peers.get(&relay).map(|peer| peer.node)
    }

    /// How many sessions are on relayed paths.
    pub fn relayed(&self) -> usize {
        self.punch.meetings.len()
    }

    /// How many ways through peers are known.
    pub fn ways(&self) -> usize {
        self.punch.len()
    }

    // ---- being found ----

    /// Somebody who is a friend came, or comes again: where does it see this node?
    pub(super) fn ask_where(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0) else { return };
        if self.punch.seen.len() < SEEN_MAX && !self.sessions.is_relayed(peer.session) {
            self.say_hold(now, id);
        }
    }

    /// Before a peer is met anew: a translator may have forgotten this node, and given it another port.
    fn ask_again_where(&mut self, now: Time, id: PeerId) {
        let path = self.peers.get(&id).and_then(|peer| self.sessions.path(peer.session));
        let way = path.and_then(|path| Way::of(&path.remote)).filter(|way| way.shard == self.overlay.shard.0);
        if let Some(relay) = way.and_then(|way| self.punch.relay_of(way)) {
            self.say_hold(now, relay);
        }
    }

    /// A node that others do not reach has some that are near to it keep sessions, by which it is found.
    fn hold(&mut self, clock: Clock) {
        if self.punch.hold_at.is_none_or(|at| at > clock.now) {
            return;
        }
        let pause = Duration::from_millis(HOLD_MS);
        self.punch.hold_at = self.overlay.keeper.is_some().then_some(clock.now + pause);
        let holders = self.overlay.keeper.as_ref().map_or(Vec::new(), |keeper| keeper.holders(clock.now));
        for holder in holders {
            let home = self.home_of(&holder.card.key);
            self.meet_cross(clock, home, MeetCross::Hold(holder));
        }
    }

    /// On a holder's home.
    pub(super) fn hold_with(&mut self, clock: Clock, holder: &Contact) {
        match self.link_with(&holder.card.key) {
            Some(id) => {
                self.overlay.links.used(clock.now, id);
                self.say_hold(clock.now, id);
            }
            None => {
                let addresses: Vec<SocketAddr> = holder.addresses().collect();
                self.call_for_overlay(clock, &holder.card, &addresses, None, None);
            }
        }
    }

    /// What the operator or the host says of this host's addresses, as this shard's socket has them.
    pub(super) fn set_own_addresses(&mut self, addresses: &[SocketAddr]) {
        let port = self.sessions.own_port();
        let is_first = self.overlay.shard.0 == FIRST;
        let of = |address: &SocketAddr| match is_first || port == 0 {
            true => *address,
            false => SocketAddr::new(address.ip(), port),
        };
        self.punch.own = addresses.iter().map(of).collect();
    }
}

//! What this node does for two of its peers that do not reach each other: it says whether one is here, and carries what they
//! say until they need it no more, within bounds (docs/protocol/nat.md §4). It can read nothing of it.

use std::time::Duration;

use super::peer::Peer;
use super::{Clock, Node};
use crate::base::{Budget, NodeId, PublicKey, Time};
use crate::crypto::IdentityCard;
use crate::limits::{
    CARRY_FRIEND_BURST, CARRY_FRIEND_PER_SECOND, CARRY_MEETING_BURST, CARRY_MEETING_PER_SECOND,
    CARRY_STRANGER_BURST, CARRY_STRANGER_PER_SECOND, CARRY_STRANGERS_BURST, CARRY_STRANGERS_PER_SECOND,
    HOLD_MS, PAIR_IDLE_MS, PAIRS_MAX, PAIRS_PER_PEER_MAX,
};
use crate::service::PeerId;
use crate::session::MeetCross;
use crate::wire::overlay::Endpoint;
use crate::wire::punch::{Carry, Message, Verdict};

/// For so long a peer that said *hold* is one that wants to be found.
const HELD_FOR: Duration = Duration::from_millis(2 * HOLD_MS);

/// What may be carried from one peer to another.
pub(super) struct Pair {
    to: PublicKey,
    kind: Kind,
    budget: Budget,
    used: Time,
}

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One of both is a friend.
    Friend,
    /// Neither is.
    Stranger,
    /// This node is no relay: enough to meet by.
    Meeting,
}

impl Kind {
    /// Bytes a second, and at once.
    fn rate(self) -> (u32, u32) {
        match self {
            Self::Friend => (CARRY_FRIEND_PER_SECOND, CARRY_FRIEND_BURST),
            Self::Stranger => (CARRY_STRANGER_PER_SECOND, CARRY_STRANGER_BURST),
            Self::Meeting => (CARRY_MEETING_PER_SECOND, CARRY_MEETING_BURST),
        }
    }
}

impl Node {
    /// A peer asks for a way to another.
    pub(super) fn hear_call(
        &mut self,
        clock: Clock,
        id: PeerId,
        number: u32,
        target: PublicKey,
        seen: Endpoint,
    ) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (asker, is_friend) = (peer.card, peer.trust.is_some());
        if target == asker.key || target == self.sessions.identity_card().key {
            let verdict = Verdict::Refused;
            self.say_meet(clock.now, id, &Message::Answer { number, verdict, seen });
            return;
        }
        let home = self.home_of(&target);
        self.meet_cross(clock, home, MeetCross::Call { asker, is_friend, number, target });
    }

    /// On the home of whom is asked for.
    pub(super) fn judge_call(
        &mut self,
        clock: Clock,
        asker: &IdentityCard,
        is_friend: bool,
        number: u32,
        target: &PublicKey,
    ) {
        let there = self.sessions.current(target).filter(|session| !self.sessions.is_on_way(*session));
        let peer = there.and_then(|session| self.by_session.get(&session)).and_then(|id| self.peers.get(id));
        // Of others than those that want to be found by strangers, strangers do not learn who is here.
        let held = |peer: &Peer| peer.held_at.is_some_and(|at| clock.now.since(at) < HELD_FOR);
        let found = peer.filter(|peer| is_friend || held(peer)).map(|peer| peer.card);
        let (verdict, target) = match found {
            None => (Verdict::Away, None),
            Some(_) if !is_friend && !self.overlay.is_on() => (Verdict::Away, None),
            Some(_) if self.circuits.leaving => (Verdict::Refused, None),
            Some(card) => match self.join_pair(clock.now, card.key, asker, is_friend) {
                true => (Verdict::Carried, Some((card, is_friend))),
                false => (Verdict::Refused, None),
            },
        };
        let home = self.home_of(&asker.key);
        self.meet_cross(clock, home, MeetCross::Answer { asker: asker.key, number, verdict, target });
    }

    /// On the asker's home.
    pub(super) fn answer_call(
        &mut self,
        clock: Clock,
        asker: &PublicKey,
        number: u32,
        mut verdict: Verdict,
        target: Option<(IdentityCard, bool)>,
    ) {
        let Some(id) = self.link_with(asker) else { return };
        if let Some((card, friends)) = target
            && !self.join_pair(clock.now, *asker, &card, friends)
        {
            verdict = Verdict::Refused;
        }
        let path = self.peers.get(&id).and_then(|peer| self.sessions.path(peer.session));
        if let Some(seen) = path.and_then(|path| Endpoint::new(path.remote)) {
            self.say_meet(clock.now, id, &Message::Answer { number, verdict, seen });
        }
    }

    /// Enters that what one peer says to another is carried; false for want of room.
    fn join_pair(&mut self, now: Time, from: PublicKey, to: &IdentityCard, friends: bool) -> bool {
        let kind = match (self.circuits.rules.relay, friends) {
            (false, _) => Kind::Meeting,
            (true, true) => Kind::Friend,
            (true, false) => Kind::Stranger,
        };
        let (pairs, key) = (&mut self.punch.pairs, (from, to.node_id()));
        if let Some(pair) = pairs.get_mut(&key) {
            (pair.kind, pair.used) = (kind, now);
            return true;
        }
        if pairs.len() >= PAIRS_MAX {
            pairs.retain(|_, pair| now.since(pair.used) < Duration::from_millis(PAIR_IDLE_MS));
        }
        let of = |pairs: &std::collections::BTreeMap<_, Pair>| {
            pairs.range((from, NodeId([0; 20]))..=(from, NodeId([0xff; 20]))).count()
        };
        // Strangers leave half of the places to friends, and make room for them.
        let most = if kind == Kind::Friend { PAIRS_PER_PEER_MAX } else { PAIRS_PER_PEER_MAX / 2 };
        if of(pairs) >= most {
            let idle = Duration::from_millis(PAIR_IDLE_MS);
            pairs.retain(|(of, _), pair| *of != from || now.since(pair.used) < idle);
        }
        if of(pairs) >= most && kind == Kind::Friend {
            let own = pairs.range((from, NodeId([0; 20]))..=(from, NodeId([0xff; 20])));
            let strangers = own.filter(|(_, pair)| pair.kind != Kind::Friend);
            let oldest = strangers.min_by_key(|(_, pair)| pair.used).map(|(key, _)| *key);
            oldest.map(|oldest| pairs.remove(&oldest));
        }
        let room = pairs.len() < PAIRS_MAX && of(pairs) < most;
        if room {
            pairs.insert(key, Pair { to: to.key, kind, budget: Budget::default(), used: now });
        }
        room
    }

    /// A peer has something for another.
    pub(super) fn hear_carry(&mut self, clock: Clock, id: PeerId, carry: Carry<'_>) {
        let (now, size) = (clock.now, carry.bytes.len() as u32);
        let Some(peer) = self.peers.get(&id) else { return };
        let card = peer.card;
        let Some(pair) = self.punch.pairs.get_mut(&(card.key, carry.node)) else {
            self.say_meet(now, id, &Message::Gone(carry.node));
            return;
        };
        let (per_second, burst) = pair.kind.rate();
        let shared =
            |all: &mut Budget| all.take(size, CARRY_STRANGERS_PER_SECOND, CARRY_STRANGERS_BURST, now);
        let may = pair.budget.take(size, per_second, burst, now)
            && (pair.kind == Kind::Friend || shared(&mut self.punch.strangers));
        if !may {
            self.punch.counters.carried_lost += 1;
            return;
        }
        pair.used = now;
        let (to, node) = (pair.to, carry.node);
        let home = self.home_of(&to);
        if home == self.overlay.shard.0 {
            self.deliver(clock, (&to, node), &card, Carry { node: card.node_id(), ..carry });
        } else {
            let Carry { part, id, bytes, .. } = carry;
            self.meet_cross(
                clock,
                home,
                MeetCross::Carry { to, node, from: card, part, id, bytes: bytes.into() },
            );
        }
    }

    /// On the home of whom it is for.
    pub(super) fn deliver(
        &mut self,
        clock: Clock,
        (to, node): (&PublicKey, NodeId),
        from: &IdentityCard,
        carry: Carry<'_>,
    ) {
        let session = self.sessions.current(to).filter(|session| !self.sessions.is_on_way(*session));
        let Some(id) = session.and_then(|session| self.by_session.get(&session)).copied() else {
            let home = self.home_of(&from.key);
            return self.meet_cross(clock, home, MeetCross::Gone { peer: from.key, node });
        };
        // What it would say in return is carried, too.
        if let Some(back) = self.punch.pairs.get_mut(&(*to, from.node_id())) {
            back.used = clock.now;
        }
        let size = carry.bytes.len() as u64;
        let sent = self.say_carry(clock.now, id, carry, true);
        let counters = &mut self.punch.counters;
        (counters.carried, counters.carried_bytes) =
            (counters.carried + u64::from(sent), counters.carried_bytes + if sent { size } else { 0 });
        counters.carried_lost += u64::from(!sent);
    }

    /// Nothing is carried any more from a peer to a node, which is gone; the peer is told.
    pub(super) fn tell_carry_gone(&mut self, clock: Clock, peer: &PublicKey, node: NodeId) {
        let known = self.punch.pairs.remove(&(*peer, node)).is_some();
        if let Some(id) = self.link_with(peer).filter(|_| known) {
            self.say_meet(clock.now, id, &Message::Gone(node));
        }
    }

    /// A peer is gone, and with it what was carried from it.
    pub(super) fn carry_no_more(&mut self, peer: &PublicKey) {
        self.punch.pairs.retain(|(from, _), _| from != peer);
    }
}

//! What peers mean to do, and what this node does about it (docs/protocol/intents.md §4): gets that need a friend ask it to stay,
//! whoever is reached by way of a peer that goes is reached by another before, and nobody is led to it any more. What this
//! node says of itself is in [`super::leaving`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::circuits::FIRST;
use super::command::{AskedToStay, IntentRules, IntentSnapshot, SaidToStay};
use super::leaving::Handover;
use super::overlay::moment;
use super::peer::Meeting;
use super::{Clock, Cross, INTENT_CHANNEL, Node};
use crate::base::{PublicKey, Time};
use crate::crypto::IdentityCard;
use crate::limits::{INTENT_TURN_MS, LEAVING_SOON_MS, PARTED_MS, STAY_S_MAX, STAY_SPARE_MS};
use crate::service::PeerId;
use crate::service::intents::{Event, Intents, Rules, Said};
use crate::session::{IntentCross, MeetCross};

const SOON: Duration = Duration::from_millis(LEAVING_SOON_MS);
const PARTED: Duration = Duration::from_millis(PARTED_MS);
const TURN: Duration = Duration::from_millis(INTENT_TURN_MS);

/// What a shard knows of intents.
#[derive(Default)]
pub(super) struct Meanings {
    pub(super) core: Intents,
    /// How much longer than it means to a friend is asked to stay for a `get`.
    ask_max: Duration,
    /// Friends that leave, whichever shard is their home.
    leavers: BTreeMap<PublicKey, Time>,
    /// Those of them that were asked to stay by this shard's gets.
    asked: BTreeSet<PublicKey>,
    /// Peers that leave soon and whose ways were given up, and when.
    parted: BTreeMap<PublicKey, Time>,
    /// When it is looked again at what those that leave are needed for.
    look_at: Option<Time>,
    /// When the other shards hear again of what was granted.
    pub(super) share_at: Option<Time>,
    /// Gets that asked a friend to stay.
    pub(super) asks: u64,
    /// What this node gives away when it leaves.
    pub(super) handover: Handover,
}

impl Meanings {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        [self.core.poll_timeout(), self.look_at, self.share_at, self.handover.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a peer leaves soon, as far as this shard knows.
    pub(super) fn leaves_soon(&self, now: Time, key: &PublicKey) -> bool {
        let at = self.leavers.get(key).copied().or_else(|| self.core.leaves_at(now, key));
        at.is_some_and(|at| at <= now + SOON)
    }

    /// To be shown.
    pub(super) fn snapshot(&self, now: Time, key: &PublicKey) -> IntentSnapshot {
        let Some(known) = self.core.known(key) else { return IntentSnapshot::default() };
        let left = |at: Option<Time>| at.filter(|at| *at > now).map(|at| at.since(now).as_secs());
        let asked = known.asked.map(|asked| AskedToStay {
            left_s: asked.until.since(now).as_secs(),
            said: match asked.said {
                Said::Nothing => SaidToStay::Nothing,
                Said::Silence => SaidToStay::Silence,
                Said::Granted(_) => SaidToStay::Granted,
                Said::Less(_) => SaidToStay::Less,
                Said::Refused => SaidToStay::Refused,
            },
            stays_s: match asked.said {
                Said::Granted(at) => left(at),
                Said::Less(at) => left(Some(at)),
                _ => None,
            },
        });
        IntentSnapshot { leaves_in_s: left(known.leaves_at), stays_s: left(known.stays_until), asked }
    }
}

impl Node {
    /// What friends may have this node do, and what it asks of them by itself.
    pub(super) fn set_intents(&mut self, rules: IntentRules) {
        self.meanings.ask_max = Duration::from_secs(rules.ask_max_s.into());
        let grant_max = Duration::from_secs(rules.grant_max_s.into());
        self.meanings.core.set_rules(Rules { grant_max, grant_trust: rules.grant_trust });
    }

    /// The operator says for how long this node is meant to stay.
    pub(super) fn set_online(&mut self, clock: Clock, for_s: Option<u32>) {
        let until = for_s.map(|seconds| clock.now + Duration::from_secs(seconds.into()));
        self.meanings.core.online(clock.now, until);
    }

    /// The operator has a friend asked to be there for so much longer than it means to.
    pub(super) fn ask_to_stay(&mut self, clock: Clock, key: &PublicKey, more_s: u32) {
        let known = self.meanings.core.known(key);
        let means = known.and_then(|known| known.leaves_at.or(known.stays_until));
        let from = means.unwrap_or(clock.now).max(clock.now);
        let most = clock.now + Duration::from_secs(STAY_S_MAX.into());
        let until = (from + Duration::from_secs(more_s.into())).min(most);
        self.meanings.core.ask(clock.now, key, until);
    }

    /// A peer has introduced itself, or is trusted otherwise than before.
    pub(super) fn intents_met(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0) else { return };
        let Meeting::Met(hello) = &peer.hello else { return };
        let offers = hello.services.contains(&INTENT_CHANNEL);
        self.meanings.core.met(clock.now, id, peer.card.key, peer.trust, offers);
    }

    /// A message of channel 7 came.
    pub(super) fn intent_datagram(&mut self, clock: Clock, id: PeerId, bytes: &[u8]) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0) else { return };
        let session = peer.session;
        // A first flight that somebody recorded says nothing of now.
        if !self.sessions.is_initiator(session) && !self.sessions.is_confirmed(session) {
            return;
        }
        let heard = self.meanings.core.hear(clock.now, id, peer.card.key, peer.trust, bytes);
        if let Err(why) = heard {
            self.malformed(clock.now, session, why);
        }
    }

    /// Says what is to be said, and does what follows from what was heard.
    pub(super) fn settle_intents(&mut self, clock: Clock) {
        let now = clock.now;
        let own = &mut self.meanings;
        if own.core.poll_timeout().is_some_and(|at| at <= now) {
            own.core.handle_timeout(now);
        }
        while let Some(event) = self.meanings.core.poll_event() {
            match event {
                Event::Leaves { peer, key, at } => {
                    let card = self.peers.get(&peer).map(|peer| peer.card).filter(|card| card.key == key);
                    if let Some(card) = card {
                        self.intent_cross_all(|| IntentCross::Leaves { peer: card, at });
                        self.peer_leaves(clock, &card, at);
                    }
                }
                Event::Moved(at) => {
                    self.meanings.share_at = Some(now + TURN);
                    self.intent_cross_all(|| IntentCross::Moved(at));
                    self.leaving_moved(clock);
                }
            }
        }
        if self.meanings.share_at.take_if(|at| *at <= now).is_some()
            && let Some(at) = self.meanings.core.own().leaves_at()
        {
            // Losing it would have the node go too early.
            self.intent_cross_all(|| IntentCross::Moved(at));
            self.meanings.share_at = (at > now).then_some(now + 10 * TURN);
        }
        if self.meanings.look_at.is_none() && !self.meanings.leavers.is_empty() && !self.get.is_idle() {
            self.meanings.look_at = Some(now);
        }
        if self.meanings.look_at.take_if(|at| *at <= now).is_some() {
            self.part_from_leavers(clock);
            self.ask_sources_to_stay(clock);
            self.meanings.look_at = self.look_again(now);
        }
        while let Some((id, message)) = self.meanings.core.poll_say() {
            if let Some(peer) = self.peers.get_mut(&id) {
                // What finds no room is said again.
                let _ = peer.connection.datagram(INTENT_CHANNEL, &message.emit());
                self.queue(now, id);
            }
        }
    }

    /// When something may follow from somebody's leaving although nothing happened.
    fn look_again(&self, now: Time) -> Option<Time> {
        let own = &self.meanings;
        let soon = own.core.leavers().map(|(_, at)| at - SOON).filter(|at| *at > now).min();
        let gets = (!self.get.is_idle() && !own.leavers.is_empty()).then_some(now + TURN);
        soon.into_iter().chain(gets).min()
    }

    fn intent_cross_all(&mut self, message: impl Fn() -> IntentCross) {
        self.pass_all(|| Cross::Intent(Box::new(message())));
    }

    /// Obeys another shard.
    pub(super) fn handle_intent_cross(&mut self, clock: Clock, message: IntentCross) {
        match message {
            IntentCross::Leaves { peer, at } => self.peer_leaves(clock, &peer, at),
            IntentCross::Moved(at) => {
                if self.meanings.core.moved(clock.now, at) {
                    self.leaving_moved(clock);
                }
            }
            IntentCross::Ask { peer, until } => _ = self.meanings.core.ask(clock.now, &peer, until),
        }
    }

    /// A peer leaves then, or does not leave.
    fn peer_leaves(&mut self, clock: Clock, card: &IdentityCard, at: Option<Time>) {
        let key = card.key;
        match at {
            Some(at) if self.friends.get(&key).is_some() => _ = self.meanings.leavers.insert(key, at),
            _ => {
                self.meanings.leavers.remove(&key);
                self.meanings.asked.remove(&key);
            }
        }
        if self.overlay.shard.0 == FIRST
            && let Some(keeper) = &mut self.overlay.keeper
        {
            keeper.core.set_leaving(moment(clock), &card.node_id(), at);
        }
        self.meanings.look_at = Some(clock.now);
    }

    /// Whoever is reached by way of a peer that leaves soon is reached by another before it goes. Until there is one, the old way
    /// is used.
    fn part_from_leavers(&mut self, clock: Clock) {
        let now = clock.now;
        let own = &mut self.meanings;
        own.leavers.retain(|_, at| now.since(*at) < SOON);
        // Whoever changes its mind again and again has this node ask for other ways once in a while, and not each time.
        own.parted.retain(|_, at| now.since(*at) < PARTED);
        let soon = own.core.leavers().filter(|(key, at)| *at <= now + SOON && !own.parted.contains_key(*key));
        for key in soon.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(id) = self.link_with(&key) else { continue };
            let ways = self.punch.ways_by(self.overlay.shard.0, id);
            if !ways.is_empty() {
                self.meanings.parted.insert(key, now);
                self.tell_shards(clock, || MeetCross::Lost(ways.clone()));
            }
        }
    }

    /// A `get` that will not have finished when a friend that it gets from leaves asks it to stay, once.
    fn ask_sources_to_stay(&mut self, clock: Clock) {
        let (now, own) = (clock.now, &self.meanings);
        if own.leavers.is_empty() || self.get.is_idle() || own.ask_max.is_zero() {
            return;
        }
        let rate = self.fetch.rate();
        let left =
            self.get.progress().map(|(_, job)| job.bytes_total.saturating_sub(job.bytes_done)).sum::<u64>();
        if rate < 1.0 || left == 0 {
            // Nothing was measured yet.
            return;
        }
        let need = Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
        let until = now + need.saturating_mul(3) / 2 + Duration::from_millis(STAY_SPARE_MS);
        let is_source = |key: &PublicKey| self.friends.here(key).is_some_and(|id| self.fetch.is_asked(id));
        let short = own.leavers.iter().filter(|(key, at)| {
            **at > now && now + need > **at && !own.asked.contains(*key) && is_source(key)
        });
        let short: Vec<(PublicKey, Time)> = short.map(|(key, at)| (*key, *at)).collect();
        for (key, at) in short {
            let until = until.min(at + self.meanings.ask_max);
            self.meanings.asked.insert(key);
            self.meanings.asks += 1;
            let home = self.home_of(&key);
            let ask = IntentCross::Ask { peer: key, until };
            match home == self.overlay.shard.0 {
                true => self.handle_intent_cross(clock, ask),
                false => self.pass(home, Cross::Intent(Box::new(ask))),
            }
        }
    }
}

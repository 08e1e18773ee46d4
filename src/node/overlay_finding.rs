//! A `get` and the network: what no connected peer has is looked up, and whoever says that it has it is called, as a further
//! source of the fetch. A shard does that for its own gets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Clock, Node, is_liar};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, PublicKey, Time};
use crate::crypto::IdentityCard;
use crate::limits::{
    FIND_AGAIN_MS, FIND_MS_MAX, FINDS_MAX, FINDS_PER_CHUNK_MAX, FINDS_REMEMBERED_MAX, GET_OTHERS_MS_MAX,
    PROVIDER_AGAIN_MS, PROVIDER_CALL_MS_MAX, PROVIDER_CALLS_MAX, PROVIDER_CALLS_OPEN_MAX, PROVIDER_IDLE_MS,
    PROVIDER_SILENT_MS, PROVIDERS_MAX, PROVIDERS_WAITING_MAX,
};
use crate::overlay::site::crowd;
use crate::service::PeerId;
use crate::session::{OverlayCross, SessionKey};
use crate::wire::overlay::Contact;

/// Verified bytes of a peer after which the keeper hears of them.
const GIVEN_TOLD: u64 = 1 << 20;

/// What a shard looks for, and where it stands.
#[derive(Default)]
pub(super) struct Finding {
    /// Lookups under way; at most [`FINDS_MAX`].
    under_way: BTreeMap<ChunkId, UnderWay>,
    /// Chunks that were looked up; at most [`FINDS_REMEMBERED_MAX`].
    looked: BTreeMap<ChunkId, Looked>,
    /// Providers to be called, the lowest turn first; at most [`PROVIDERS_WAITING_MAX`].
    waiting: Vec<Waiting>,
    /// Providers whose homes are asked for a session, or from whom a lane is on its way; at most
    /// [`PROVIDER_CALLS_OPEN_MAX`], of which [`PROVIDER_CALLS_MAX`] were called just now.
    calls: BTreeMap<PublicKey, Call>,
    lanes: BTreeMap<SessionKey, PublicKey>,
    /// Providers that are asked for chunks; at most [`PROVIDERS_MAX`].
    sources: BTreeMap<PeerId, Source>,
    /// Providers that were called, and when; at most [`FINDS_REMEMBERED_MAX`].
    tried: BTreeMap<PublicKey, Time>,
    /// When it is looked at again what friends did not have the time to bring.
    wake_at: Option<Time>,
    /// When the next of those that wait may be called although nobody has answered.
    call_at: Option<Time>,
}

/// A provider that waits to be called.
struct Waiting {
    chunk: ChunkId,
    contact: Contact,
    /// For which jobs it was found.
    jobs: BTreeSet<JobId>,
    /// How many of its teller's, or of its network, come before it: one who names many has one in each round.
    turn: usize,
}

/// A provider that is asked for chunks.
#[derive(Debug, Clone, Copy)]
struct Source {
    /// When it gave something last, or came.
    at: Time,
    gave: bool,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    /// When it is over at the latest.
    until: Time,
    /// Whether it named anybody.
    named: bool,
}

/// What came of looking for a chunk.
#[derive(Debug, Clone, Copy)]
struct Looked {
    /// How often in a row nobody who has it was found.
    vain: u8,
    /// When that was so first.
    since: Time,
    again_at: Time,
}

struct Call {
    chunk: ChunkId,
    card: IdentityCard,
    since: Time,
    jobs: BTreeSet<JobId>,
}

impl Finding {
    /// Whether a session is with a provider.
    pub(super) fn is_source(&self, id: PeerId) -> bool {
        self.sources.contains_key(&id)
    }

    /// Whether something may still come of it.
    pub(super) fn is_busy(&self) -> bool {
        !(self.under_way.is_empty() && self.waiting.is_empty() && self.calls.is_empty())
    }

    /// Whether there is nothing to forget.
    fn is_idle(&self) -> bool {
        !self.is_busy() && self.looked.is_empty() && self.sources.is_empty() && self.tried.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let lookups = self.under_way.values().map(|lookup| lookup.until);
        let again = self.looked.values().map(|looked| looked.again_at);
        let calls = self.calls.values().map(|call| call.since + Duration::from_millis(PROVIDER_CALL_MS_MAX));
        lookups.chain(again).chain(calls).chain(self.wake_at).chain(self.call_at).min()
    }

    /// Whether another may be called: a few at once, and one more for each that is silent.
    fn has_room(&self, now: Time) -> bool {
        let fresh = self.fresh_calls(now).count();
        fresh < PROVIDER_CALLS_MAX
            && self.calls.len() < PROVIDER_CALLS_OPEN_MAX
            && fresh + self.sources.len() < PROVIDERS_MAX
    }

    /// When those that were called just now will have been silent for too long.
    fn fresh_calls(&self, now: Time) -> impl Iterator<Item = Time> {
        let silent = Duration::from_millis(PROVIDER_SILENT_MS);
        self.calls.values().map(move |call| call.since + silent).filter(move |at| *at > now)
    }

    /// Has a provider wait for its turn; whether there was room.
    fn wait(&mut self, new: Waiting) -> bool {
        if self.waiting.len() >= PROVIDERS_WAITING_MAX {
            let last = self.waiting.iter().enumerate().max_by_key(|(at, one)| (one.turn, *at));
            let last = last.filter(|(_, one)| one.turn > new.turn).map(|(at, _)| at);
            let Some(last) = last else { return false };
            self.waiting.remove(last);
        }
        self.waiting.push(new);
        true
    }

    /// Who is called next.
    fn take_next(&mut self) -> Option<Waiting> {
        let next = self.waiting.iter().enumerate().min_by_key(|(at, one)| (one.turn, *at))?.0;
        Some(self.waiting.remove(next))
    }

    /// How many of a provider's network wait.
    fn neighbours(&self, contact: &Contact) -> usize {
        crowd(contact, self.waiting.iter().map(|one| &one.contact), true).1
    }

    /// A provider that is called, or waits to be, was found for other jobs, too.
    fn found_again(&mut self, key: &PublicKey, jobs: &BTreeSet<JobId>) {
        if let Some(call) = self.calls.get_mut(key) {
            call.jobs.extend(jobs);
        }
        if let Some(one) = self.waiting.iter_mut().find(|one| one.contact.card.key == *key) {
            one.jobs.extend(jobs);
        }
    }

    /// Whether a chunk's providers are still being called, or looked for.
    fn is_open(&self, chunk: &ChunkId) -> bool {
        self.under_way.contains_key(chunk)
            || self.waiting.iter().any(|one| one.chunk == *chunk)
            || self.calls.values().any(|call| call.chunk == *chunk)
    }

    /// A lookup is over; whether it named anybody.
    fn note_end(&mut self, now: Time, chunk: ChunkId) -> Option<bool> {
        let named = self.under_way.remove(&chunk)?.named;
        if self.looked.len() >= FINDS_REMEMBERED_MAX && !self.looked.contains_key(&chunk) {
            self.looked.pop_first();
        }
        let again_at = now + Duration::from_millis(FIND_AGAIN_MS);
        let looked = self.looked.entry(chunk).or_insert(Looked { vain: 0, since: now, again_at });
        *looked = Looked { vain: looked.vain.saturating_add(1), again_at, ..*looked };
        Some(named)
    }
}

impl Node {
    /// Looks up what nobody here has, calls providers, gives up what nobody has.
    pub(super) fn go_on_finding(&mut self, clock: Clock) {
        if self.get.is_idle() {
            return self.end_finding(clock);
        }
        let now = clock.now;
        self.end_overdue_finding(clock);
        // Friends that are being called may have it, and are asked first.
        let friends_come = self.fetch.peers() == 0 && self.friends.len() > 0 && !self.is_lonely(now);
        let lacking = self.fetch.lacking(8 * FINDS_MAX);
        let under_way = self.overlay.finding.under_way.keys().copied();
        for chunk in under_way.filter(|chunk| !self.fetch.wants(chunk)).collect::<Vec<_>>() {
            let lookup = self.overlay.finding.under_way.remove(&chunk);
            self.overlay.counters.lookups_found += u64::from(lookup.is_some_and(|lookup| lookup.named));
            self.say_to_keeper(clock, OverlayCross::Stop(chunk));
        }
        for chunk in lacking {
            let own = &self.overlay.finding;
            if own.is_open(&chunk) {
                continue;
            }
            let looked = own.looked.get(&chunk).copied();
            if let Some(Looked { since, .. }) = looked.filter(|looked| looked.vain >= FINDS_PER_CHUNK_MAX) {
                // Friends that are away are waited for as long as without the network.
                let waited = now.since(since) >= Duration::from_millis(GET_OTHERS_MS_MAX);
                if waited || self.friends_away(now) == 0 {
                    self.overlay.finding.looked.remove(&chunk);
                    self.fetch.give_up_lacking(&chunk);
                }
            } else if own.under_way.len() < FINDS_MAX
                && looked.is_none_or(|looked| looked.again_at <= now)
                && !friends_come
            {
                self.begin_finding(clock, chunk);
            }
        }
        let later = now + Duration::from_millis(FIND_AGAIN_MS);
        let own = &mut self.overlay.finding;
        // What has come due and was not wanted now is looked at again.
        own.looked.values_mut().filter(|one| one.again_at <= now).for_each(|one| one.again_at = later);
        own.wake_at = friends_come.then_some(now + Duration::from_millis(FIND_AGAIN_MS / 6));
        self.call_providers(clock);
    }

    fn begin_finding(&mut self, clock: Clock, chunk: ChunkId) {
        let until = clock.now + Duration::from_millis(FIND_MS_MAX);
        self.overlay.finding.under_way.insert(chunk, UnderWay { until, named: false });
        self.overlay.counters.lookups += 1;
        self.say_to_keeper(clock, OverlayCross::Find(chunk));
    }

    /// Whether friends have had time to come.
    fn is_lonely(&self, now: Time) -> bool {
        self.lonely_since.is_some_and(|since| now.since(since) >= Duration::from_millis(FIND_AGAIN_MS / 3))
    }

    fn end_overdue_finding(&mut self, clock: Clock) {
        let now = clock.now;
        let own = &mut self.overlay.finding;
        let over = own.under_way.iter().filter(|(_, lookup)| lookup.until <= now);
        for chunk in over.map(|(chunk, _)| *chunk).collect::<Vec<_>>() {
            own.note_end(now, chunk);
            self.overlay.counters.lookups_vain += 1;
        }
        let patience = Duration::from_millis(PROVIDER_CALL_MS_MAX);
        own.calls.retain(|_, call| now.since(call.since) < patience);
        let again = Duration::from_millis(PROVIDER_AGAIN_MS);
        own.tried.retain(|_, at| now.since(*at) < again);
    }

    /// The keeper found somebody who says that it has a chunk.
    pub(super) fn providers_found(&mut self, clock: Clock, chunk: ChunkId, providers: &[Contact]) {
        let Some(lookup) = self.overlay.finding.under_way.get_mut(&chunk) else { return };
        lookup.named = true;
        let own_key = self.sessions.identity_card().key;
        let jobs = self.fetch.jobs_of(&chunk);
        // They are of one answer.
        for (place, provider) in providers.iter().enumerate() {
            let key = provider.card.key;
            if key == own_key || is_liar(&self.liars, clock.now, &key) {
                continue;
            }
            let source = |id: &&PeerId| self.peers.get(id).is_some_and(|peer| peer.card.key == key);
            if let Some(id) = self.overlay.finding.sources.keys().find(source).copied() {
                self.fetch.source_up(clock.now, id, &jobs);
                continue;
            }
            let own = &mut self.overlay.finding;
            own.found_again(&key, &jobs);
            if own.tried.contains_key(&key) || own.waiting.iter().any(|one| one.contact.card.key == key) {
                continue;
            }
            let turn = place.max(own.neighbours(provider));
            let new = Waiting { chunk, contact: *provider, jobs: jobs.clone(), turn };
            self.overlay.counters.providers += u64::from(own.wait(new));
        }
        self.call_providers(clock);
    }

    /// The keeper's lookup is over.
    pub(super) fn finding_ended(&mut self, clock: Clock, chunk: ChunkId) {
        if let Some(named) = self.overlay.finding.note_end(clock.now, chunk) {
            let counters = &mut self.overlay.counters;
            *(if named { &mut counters.lookups_found } else { &mut counters.lookups_vain }) += 1;
        }
    }

    fn call_providers(&mut self, clock: Clock) {
        self.make_room_for_source(clock.now);
        let now = clock.now;
        while self.overlay.finding.has_room(now)
            && let Some(Waiting { chunk, contact: provider, jobs, .. }) = self.overlay.finding.take_next()
        {
            let card = provider.card;
            if self.friends.here(&card.key).is_some() || !self.fetch.wants(&chunk) {
                continue;
            }
            let own = &mut self.overlay.finding;
            if own.tried.len() >= FINDS_REMEMBERED_MAX {
                own.tried.pop_first();
            }
            own.tried.insert(card.key, now);
            own.calls.insert(card.key, Call { chunk, card, since: now, jobs });
            let home = self.sessions.elsewhere(&card.key).unwrap_or(self.overlay.shard.0);
            let addresses = provider.addresses().collect();
            self.overlay_cross(clock, home, OverlayCross::Call { card, addresses, answer: true });
        }
        let own = &mut self.overlay.finding;
        own.call_at = own.fresh_calls(now).min().filter(|_| !own.waiting.is_empty());
    }

    /// A source that gives nothing does not keep others out.
    fn make_room_for_source(&mut self, now: Time) {
        let own = &mut self.overlay.finding;
        if own.waiting.is_empty() || own.sources.len() < PROVIDERS_MAX {
            return;
        }
        let idlest = own.sources.iter().min_by_key(|(_, one)| one.at).map(|(id, one)| (*id, one.at));
        if let Some((id, at)) = idlest
            && now.since(at) >= Duration::from_millis(PROVIDER_IDLE_MS)
        {
            own.sources.remove(&id);
            self.fetch.peer_down(id);
        }
    }

    /// A provider's home has a session with it, or will have none.
    pub(super) fn provider_called(&mut self, clock: Clock, peer: &PublicKey, up: bool) {
        let Some(call) = self.overlay.finding.calls.get(peer) else { return };
        let card = call.card;
        if !up {
            self.overlay.finding.calls.remove(peer);
            return;
        }
        if self.sessions.is_home(peer) {
            let Some(Call { jobs, .. }) = self.overlay.finding.calls.remove(peer) else { return };
            return self.link_with(peer).into_iter().for_each(|id| self.add_source(clock.now, id, &jobs));
        }
        match self.sessions.open_lane(clock.now, &card) {
            Ok(session) => _ = self.overlay.finding.lanes.insert(session, *peer),
            Err(_) => _ = self.overlay.finding.calls.remove(peer),
        }
    }

    /// A lane to a provider is there, or will not be.
    pub(super) fn provider_lane(&mut self, now: Time, session: SessionKey, id: Option<PeerId>) {
        let Some(key) = self.overlay.finding.lanes.remove(&session) else { return };
        if let Some(call) = self.overlay.finding.calls.remove(&key)
            && let Some(id) = id
        {
            self.add_source(now, id, &call.jobs);
        }
    }

    /// A provider is asked for chunks from now on, for those of the jobs for which it was found: what else is got is
    /// nothing that it need know.
    fn add_source(&mut self, now: Time, id: PeerId, jobs: &BTreeSet<JobId>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let own = &self.overlay.finding;
        if own.sources.len() >= PROVIDERS_MAX && !own.is_source(id) {
            return;
        }
        // Friends are asked anyway.
        if self.get.is_idle() || is_liar(&self.liars, now, &peer.card.key) || peer.trust.is_some() {
            return;
        }
        self.overlay.finding.sources.insert(id, Source { at: now, gave: false });
        self.fetch.source_up(now, id, jobs);
        self.touch(id);
    }

    /// A verified slice of a chunk came.
    pub(super) fn source_gave(&mut self, clock: Clock, chunk: &ChunkId, len: usize, from: PeerId) {
        if self.overlay.is_on()
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.given += len as u64;
            if peer.given >= GIVEN_TOLD {
                self.tell_given(clock, from);
            }
        }
        let own = &mut self.overlay.finding;
        if let Some(source) = own.sources.get_mut(&from) {
            *source = Source { at: clock.now, gave: true };
        }
        own.looked.remove(chunk);
        if own.under_way.remove(chunk).is_some() {
            self.overlay.counters.lookups_found += 1;
            self.say_to_keeper(clock, OverlayCross::Stop(*chunk));
        }
    }

    /// Tells the keeper what a peer gave.
    fn tell_given(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (peer, bytes) = (peer.node, std::mem::take(&mut peer.given));
        if bytes > 0 {
            self.say_to_keeper(clock, OverlayCross::Gave { peer, bytes });
        }
    }

    /// A session is over.
    pub(super) fn source_down(&mut self, clock: Clock, id: PeerId) {
        self.tell_given(clock, id);
        if self.overlay.finding.sources.remove(&id).is_some_and(|source| source.gave)
            && let Some(peer) = self.peers.get(&id)
        {
            // It may be there again, and is called if it is named again. Who gave nothing has to wait for that.
            self.overlay.finding.tried.remove(&peer.card.key);
        }
    }

    /// Nothing is wanted any more.
    pub(super) fn end_finding(&mut self, clock: Clock) {
        if self.overlay.finding.is_idle() {
            return;
        }
        let own = std::mem::take(&mut self.overlay.finding);
        let friends: BTreeSet<PeerId> =
            self.peers.iter().filter(|(_, peer)| peer.trust.is_some()).map(|(id, _)| *id).collect();
        for id in own.sources.into_keys().filter(|id| !friends.contains(id)) {
            self.fetch.peer_down(id);
        }
        for chunk in own.under_way.into_keys() {
            self.say_to_keeper(clock, OverlayCross::Stop(chunk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(n: u8, network: u8, turn: usize, own: &Finding) -> Waiting {
        let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
        let contact = Contact::new(card, [([20, network, n, 1], 4600).into()]);
        let turn = turn.max(own.neighbours(&contact));
        Waiting { chunk: ChunkId([7; 20]), contact, jobs: BTreeSet::from([JobId(1)]), turn }
    }

    fn call(own: &mut Finding, now: Time) -> Option<PublicKey> {
        let Waiting { chunk, contact: Contact { card, .. }, jobs, .. } = own.take_next()?;
        own.calls.insert(card.key, Call { chunk, card, since: now, jobs });
        Some(card.key)
    }

    /// Found by review: a few lying keepers, who named many that never answer, stalled every get.
    #[test]
    fn providers_of_few_tellers_or_networks_do_not_keep_others_from_being_called() {
        let mut own = Finding::default();
        // Five liars name twelve each, and then one who is honest names one.
        for n in 0..60 {
            let new = waiting(n, 1 + n % 30, usize::from(n % 12), &own);
            assert!(own.wait(new));
        }
        for n in 100..104 {
            let new = waiting(n, 77, 11, &own);
            assert!(own.wait(new));
        }
        let honest = waiting(200, 200, 0, &own);
        assert!(own.wait(honest) && own.waiting.len() == PROVIDERS_WAITING_MAX, "there is room for it");
        let last = waiting(201, 77, 20, &own);
        assert!(!own.wait(last), "and for nobody who would be last");
        let mut now = Time::ZERO;
        let mut rounds = 0;
        while !own.calls.contains_key(&PublicKey([200; 32])) {
            while own.has_room(now) && call(&mut own, now).is_some() {}
            assert!(own.fresh_calls(now).count() <= PROVIDER_CALLS_MAX);
            now = own.fresh_calls(now).min().expect("it goes on when they are silent");
            rounds += 1;
        }
        assert!(rounds <= 2, "{rounds}");
        while own.has_room(now) && call(&mut own, now).is_some() {
            now = own
                .fresh_calls(now)
                .min()
                .unwrap_or(now)
                .max(now + Duration::from_millis(PROVIDER_SILENT_MS));
        }
        assert!(own.calls.len() <= PROVIDER_CALLS_OPEN_MAX);
    }
}

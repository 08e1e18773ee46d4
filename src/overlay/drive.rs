//! Questions that this node asks: lookups, announcements, probes, and what becomes of each.

use std::net::SocketAddr;

use super::density;
use super::exchange::{ENDS, Open, Purpose};
use super::lookup::{Lookup, Style};
use super::place::{Key, leading};
use super::types::{Effect, Goal, LookupId, Manner, Moment, Peer, Wanted, ms};
use super::{For, Overlay, Running};
use crate::base::{ChunkId, NodeId};
use crate::limits::{LOOKUP_MS_MAX, REFUSED_RETRY_MS, REGION_NODES, REGION_NODES_MAX};
use crate::wire::overlay::{Answer, Body, Contact, Message, Record, Verdict};

/// Peers from which a lookup starts.
const START: usize = 12;
/// Nearest nodes of a finished lookup that the density is judged by: those that every lookup asks.
const SAMPLED: usize = 8;
/// Peers of each distance from which a far-first lookup starts.
const START_PER_LEVEL: usize = 3;

impl Overlay {
    /// Asks a peer something.
    pub(super) fn ask(&mut self, at: Moment, to: Peer, purpose: Purpose, body: Body) {
        let entry = self.table.get(&to.id);
        let mut patience = entry.map(|entry| entry.rtt).unwrap_or_default().patience(&self.rtt);
        if !self.linked.contains_key(&to.id) {
            // A question may go as early data, but not to everybody, and a first flight is worked on longer.
            patience = patience * 3 / 2;
        }
        let ends = match purpose {
            Purpose::Delegated(_) => ms(LOOKUP_MS_MAX),
            _ => ENDS,
        };
        let patience = if matches!(purpose, Purpose::Lookup(_)) { patience } else { ends };
        let number = self.exchanges.begin(at.now, to, purpose, patience, ends);
        let bytes = Message { number, body }.emit();
        self.emit(Effect::Send { to, bytes, question: true });
    }

    /// Sees whether a peer is there.
    pub(super) fn probe(&mut self, at: Moment, peer: Peer) {
        self.ask(at, peer, Purpose::Probe, Body::Probe);
    }

    pub(super) fn begin(&mut self, at: Moment, wanted: Wanted, purpose: For) -> Option<LookupId> {
        if !self.has_room_for_lookup() {
            return None;
        }
        let nearest = self.table.nearest(&wanted.key, START).into_iter().map(|entry| entry.peer);
        let mut start: Vec<Peer> = nearest.collect();
        let mut style = Style {
            parallel: self.config.parallel,
            paths: self.config.paths,
            region: density::region(self.network_size()),
        };
        if let Manner::Far { .. } = wanted.manner {
            // One by one, and another beside when an answer is late: cheap is what this is for.
            style.parallel = 1;
            let turn = self.turns;
            let far = self.table.farthest(&wanted.key, 0, START_PER_LEVEL, usize::MAX, turn);
            start = far.into_iter().map(|entry| entry.peer).chain(start).collect();
        }
        let lookup = Lookup::new(wanted, style, start);
        Some(self.run(at, lookup, purpose))
    }

    fn run(&mut self, at: Moment, lookup: Lookup, purpose: For) -> LookupId {
        self.turns = self.turns.wrapping_add(1);
        let id = self.enter(at, lookup, purpose);
        self.pump(at, id);
        id
    }

    /// Makes a lookup one of those under way.
    fn enter(&mut self, at: Moment, lookup: Lookup, purpose: For) -> LookupId {
        let id = LookupId(self.next_lookup);
        self.next_lookup += 1;
        let ends = at.now + ms(LOOKUP_MS_MAX);
        self.lookups.insert(id, Running { lookup, purpose, ends });
        self.lookup_ends.insert((ends, id));
        id
    }

    pub(super) fn begin_delegated(
        &mut self,
        at: Moment,
        chunk: ChunkId,
        far: bool,
        to: Peer,
    ) -> Option<LookupId> {
        if !self.has_room_for_lookup() {
            return None;
        }
        let wanted = Wanted { key: chunk.0, goal: Goal::Providers(1), manner: Manner::Near, quiet: false };
        let style = Style { parallel: 1, paths: 1, region: 0 };
        let mut lookup = Lookup::new(wanted, style, [to]);
        // The peer counts as asked; what it is asked is the whole lookup.
        lookup.poll()?;
        let id = self.enter(at, lookup, For::Caller);
        self.ask(at, to, Purpose::Delegated(id), Body::Delegate { key: chunk.0, far });
        Some(id)
    }

    /// Asks whomever a lookup wants asked; ends it when it is done.
    pub(super) fn pump(&mut self, at: Moment, id: LookupId) {
        loop {
            if !self.exchanges.has_room() {
                break;
            }
            let Some(running) = self.lookups.get_mut(&id) else { return };
            let Some((peer, find)) = running.lookup.poll() else { break };
            if peer.id == self.own.id {
                running.lookup.failed(&peer.id);
                continue;
            }
            self.ask(at, peer, Purpose::Lookup(id), Body::Find(find));
        }
        if self.lookups.get(&id).is_some_and(|running| running.lookup.is_done()) {
            self.end_lookup(at, id);
        }
    }

    /// Ends what has run too long.
    pub(super) fn end_late_lookups(&mut self, at: Moment) {
        while let Some((ends, id)) = self.lookup_ends.first().copied()
            && ends <= at.now
        {
            match self.lookups.get_mut(&id) {
                Some(running) => running.lookup.stop(),
                None => drop(self.lookup_ends.remove(&(ends, id))),
            }
            self.end_lookup(at, id);
        }
    }

    fn end_lookup(&mut self, at: Moment, id: LookupId) {
        let Some(running) = self.lookups.remove(&id) else { return };
        self.lookup_ends.remove(&(running.ends, id));
        let wanted = *running.lookup.wanted();
        let spread = running.lookup.spread();
        let outcome = running.lookup.finish();
        if !outcome.cut_short {
            let places = outcome.nearest.iter().take(SAMPLED).map(|peer| peer.id.0);
            self.density.learn(density::sample(&wanted.key, places));
        }
        if let (Some(to), Some(record)) = (spread, outcome.records.first().copied()) {
            // Coral's way: the next who comes along finds it one step earlier.
            let chunk = ChunkId(wanted.key);
            self.ask(at, to, Purpose::Spread, Body::Announce { chunk, record });
        }
        match running.purpose {
            For::Caller => self.emit(Effect::Done { lookup: id, outcome }),
            For::Table => {}
            For::Check(chunk) => self.announce(at, chunk, &outcome),
            For::Peer(to, number) => {
                let answer = Answer {
                    refused: false,
                    not_found: outcome.not_found,
                    queries: outcome.queries,
                    records: outcome.records,
                    contacts: Vec::new(),
                };
                self.answer(to, number, Body::Answer(answer));
            }
        }
    }

    /// A check found who is around a published chunk: they are given this node's record.
    fn announce(&mut self, at: Moment, chunk: ChunkId, outcome: &super::Outcome) {
        let own = self.own.contact.card.key;
        let hosts = outcome.records.iter().filter(|record| record.provider.card.key != own).count();
        let region = density::region(self.network_size());
        let inside = |peer: &&Peer| leading(&super::place::distance(&chunk.0, &peer.id.0)) <= region;
        let inside = outcome.nearest.iter().filter(inside).count();
        let count = inside.clamp(REGION_NODES / 2, REGION_NODES_MAX);
        let record = self.own_record(at, &chunk);
        // This node is of the region itself, if it is.
        if region >= leading(&super::place::distance(&chunk.0, &self.own.id.0)) {
            self.keep(at, chunk, &record);
        }
        let Some(health) = self.published.health_mut(&chunk) else { return };
        let to: Vec<Peer> = outcome.nearest.iter().take(count).copied().collect();
        health.hosts = u8::try_from(hosts).unwrap_or(u8::MAX);
        health.queries = outcome.queries;
        (health.kept, health.waiting) = (0, to.len() as u8);
        if to.is_empty() {
            // Nobody is known yet.
            self.published.again(&chunk, at.now + ms(crate::limits::REPUBLISH_RETRY_MS));
        }
        for peer in to {
            self.ask(at, peer, Purpose::Announce(chunk), Body::Announce { chunk, record });
        }
    }

    /// What became of one announcement.
    fn announced(&mut self, at: Moment, chunk: ChunkId, kept: bool) {
        let Some(health) = self.published.health_mut(&chunk) else { return };
        health.kept += u8::from(kept);
        health.waiting = health.waiting.saturating_sub(1);
        let health = *health;
        if health.waiting == 0 {
            if health.kept == 0 {
                self.published.again(&chunk, at.now + ms(REFUSED_RETRY_MS));
            }
            let (hosts, kept, queries) = (health.hosts, health.kept, health.queries);
            self.emit(Effect::Checked { chunk, hosts, kept, queries });
        }
    }

    /// Looks after published chunks that are due.
    pub(super) fn check_published(&mut self, at: Moment) {
        let is_check = |running: &&Running| matches!(running.purpose, For::Check(_));
        let mut under_way = self.lookups.values().filter(is_check).count();
        while under_way < crate::limits::CHECKS_MAX
            && self.has_room_for_lookup()
            && let Some(chunk) = self.published.take_due(at.now, &mut self.rng)
        {
            let goal = Goal::Providers(u8::MAX);
            let wanted = Wanted { key: chunk.0, goal, manner: Manner::Near, quiet: true };
            self.begin(at, wanted, For::Check(chunk));
            under_way += 1;
        }
    }

    /// A peer answered: the only way into the table.
    pub(super) fn met(&mut self, at: Moment, open: &Open, peer: Peer) {
        let sample = at.now.since(open.asked);
        let timed = !matches!(open.purpose, Purpose::Delegated(_));
        // Of a peer that opened its session itself, only what it said of itself is known to lead to it.
        let peer = if peer.contact.endpoints().next().is_none() { open.to } else { peer };
        let lost_long = self.peers.get(&peer.id).is_some_and(|known| known.errors_since >= 2);
        self.table.admit(peer, at.now);
        if timed {
            self.rtt.update(sample);
            self.table.sample(&peer.id, sample);
        }
        self.peers.met(&peer, at.unix_s(), timed.then_some(sample), &mut self.rng);
        if lost_long {
            self.regained(at, peer);
        }
    }

    /// Somebody who was lost is there again, and perhaps with it a part of the network: it is asked who is near here.
    fn regained(&mut self, at: Moment, peer: Peer) {
        if at.now < self.regained_at || !self.has_room_for_lookup() {
            return;
        }
        self.regained_at = at.now + ms(crate::limits::REGAINED_MS);
        self.hasty_until = self.hasty_until.max(at.now + ms(crate::limits::HASTE_MS));
        let region = density::region(self.network_size());
        let style = Style { parallel: self.config.parallel, paths: 1, region };
        let wanted = Wanted { key: self.own.id.0, goal: Goal::Nodes, manner: Manner::Near, quiet: true };
        self.run(at, Lookup::new(wanted, style, [peer]), For::Table);
    }

    /// The answer to a question of this node.
    pub(super) fn answered(&mut self, at: Moment, open: &Open, body: Body) {
        let id = open.to.id;
        match (open.purpose, body) {
            (Purpose::Lookup(lookup) | Purpose::Delegated(lookup), Body::Answer(answer)) => {
                self.lookup_answered(at, lookup, &id, &answer);
            }
            (Purpose::Probe, Body::Here(Some(seen))) => {
                self.emit(Effect::Seen { by: id, address: seen.address() });
            }
            (Purpose::Announce(chunk), Body::Verdict(verdict)) => {
                self.announced(at, chunk, verdict == Verdict::Kept);
            }
            (Purpose::Announce(chunk), _) => self.announced(at, chunk, false),
            (Purpose::Lookup(lookup) | Purpose::Delegated(lookup), _) => {
                self.with(lookup, |lookup| lookup.failed(&id));
                self.pump(at, lookup);
            }
            (Purpose::Probe | Purpose::Spread, _) => {}
        }
    }

    fn lookup_answered(&mut self, at: Moment, id: LookupId, from: &NodeId, answer: &Answer) {
        let Some(running) = self.lookups.get(&id) else { return };
        let key: Key = running.lookup.wanted().key;
        if answer.refused {
            self.with(id, |lookup| lookup.failed(from));
            return self.pump(at, id);
        }
        let chunk = ChunkId(key);
        let now_s = at.unix_s();
        let good = |record: &&Record| record.expires > now_s && record.verify(&chunk);
        let records: Vec<Record> = answer.records.iter().filter(good).copied().collect();
        self.counters.unfit += (answer.records.len() - records.len()) as u64;
        let floor = self.config.place_floor;
        let contacts = answer.contacts.iter().map(|contact| Peer::of(*contact));
        let contacts: Vec<Peer> =
            contacts.filter(|peer| peer.id != self.own.id && peer.shows(floor)).collect();
        for peer in &contacts {
            if self.table.wants(peer) {
                self.candidates.offer(*peer, *from, &mut self.rng);
            }
        }
        let Some(running) = self.lookups.get_mut(&id) else { return };
        let new = running.lookup.answered(from, answer, records, contacts);
        if !new.is_empty() && running.purpose == For::Caller {
            self.emit(Effect::Found { lookup: id, records: new });
        }
        self.pump(at, id);
    }

    fn with(&mut self, id: LookupId, what: impl FnOnce(&mut Lookup)) {
        if let Some(running) = self.lookups.get_mut(&id) {
            what(&mut running.lookup);
        }
    }

    /// An answer is late: lookups ask another beside.
    pub(super) fn late(&mut self, at: Moment, open: &Open) {
        if let Purpose::Lookup(lookup) = open.purpose {
            self.with(lookup, |lookup| lookup.late(&open.to.id));
            self.pump(at, lookup);
        }
    }

    /// A question will not be answered.
    pub(super) fn failed(&mut self, at: Moment, open: &Open) {
        let tried: Vec<SocketAddr> = open.to.contact.addresses().collect();
        self.lose(at, &open.to.id, &tried);
        match open.purpose {
            Purpose::Lookup(lookup) | Purpose::Delegated(lookup) => {
                self.with(lookup, |lookup| lookup.failed(&open.to.id));
                self.pump(at, lookup);
            }
            Purpose::Announce(chunk) => self.announced(at, chunk, false),
            Purpose::Probe | Purpose::Spread => {}
        }
    }

    /// A peer is not there.
    pub(super) fn lose(&mut self, at: Moment, id: &NodeId, tried: &[SocketAddr]) {
        let was_there = |contact: Contact| contact.addresses().any(|address| tried.contains(&address));
        if self.contact_of(id).is_some_and(was_there) {
            self.table.fail(id, at.now);
            self.peers.missed(id);
        }
    }
}

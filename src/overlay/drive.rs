//! Questions that this node asks: lookups, announcements, probes, and what becomes of each.

use std::net::SocketAddr;

use super::exchange::{ENDS, Open, Purpose};
use super::lookup::{Lookup, Style};
use super::place::Key;
use super::records::Bringer;
use super::types::{Effect, Goal, LookupId, Manner, Moment, Outcome, Peer, Wanted, ms};
use super::{For, Overlay, Running, density};
use crate::base::{ChunkId, NodeId};
use crate::limits::{DELEGATED_ASKED_MAX, EXCHANGES_MAX, EXCHANGES_OWN, LOOKUP_MS_MAX};
use crate::wire::overlay::{Announcement, Answer, Body, Contact, Message, Record};

/// Peers from which a lookup starts.
const START: usize = 12;
/// Lookups that go on at once when there is room for questions again.
const STARVED_FED: usize = 4;
/// Nearest nodes of a finished lookup that the density is judged by: those that every lookup asks.
const SAMPLED: usize = 8;
/// Peers of each distance from which a far-first lookup starts.
const START_PER_LEVEL: usize = 3;

impl Overlay {
    /// Where to ask a peer: on its session, or where it answered before, or where somebody says that it is, as far as
    /// that word goes (`aims`). `None`: not at all.
    fn where_to(&mut self, at: Moment, to: Peer, teller: Option<NodeId>) -> Option<Peer> {
        if let Some(path) = self.linked.get(&to.id) {
            return Some(to.reached_at(*path));
        }
        let known = self.contact_of(&to.id).map(|contact| Peer { id: to.id, contact });
        let in_table = self.table.get(&to.id).is_some_and(|entry| entry.failures == 0);
        let is_there = in_table || self.peers.get(&to.id).is_some_and(|known| known.errors_since == 0);
        let Some(teller) = teller else { return known.or(Some(to)) };
        if is_there && known.is_some() {
            return known;
        }
        let was_there = |address| known.is_some_and(|peer| peer.contact.addresses().any(|at| at == address));
        let addresses: Vec<SocketAddr> = to.contact.addresses().collect();
        let may = addresses
            .into_iter()
            .filter(|address| was_there(*address) || self.aims.take(&teller, *address, at.now));
        let contact = Contact::new(to.contact.card, may);
        let told = contact.endpoints().next().is_some();
        if told { Some(Peer { id: to.id, contact }) } else { known }
    }

    /// Asks a peer something; `teller` is whose word it is that it is there, if it is anybody's. Whether it was asked.
    pub(super) fn ask(
        &mut self,
        at: Moment,
        to: Peer,
        teller: Option<NodeId>,
        purpose: Purpose,
        body: Body,
    ) -> bool {
        let Some(to) = self.where_to(at, to, teller) else { return false };
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
        true
    }

    /// Sees whether a peer is there.
    pub(super) fn probe(&mut self, at: Moment, peer: Peer, teller: Option<NodeId>) -> bool {
        self.ask(at, peer, teller, Purpose::Probe, Body::Probe)
    }

    /// How lookups are led whose region reaches so far.
    pub(super) fn style(&self, region: u64) -> Style {
        let Self { config, table, .. } = self;
        Style { open: table.is_open(), ..Style::new(config.parallel, config.paths, region) }
    }

    /// Begins a lookup as lookups are led here.
    pub(super) fn begin_usual(&mut self, at: Moment, wanted: Wanted, purpose: For) -> Option<LookupId> {
        let style = self.style(density::region(self.network_size()));
        self.begin(at, wanted, purpose, style)
    }

    pub(super) fn begin(
        &mut self,
        at: Moment,
        wanted: Wanted,
        purpose: For,
        mut style: Style,
    ) -> Option<LookupId> {
        if !self.has_room_for_lookup() {
            return None;
        }
        let nearest = self.table.nearest(&wanted.key, START).into_iter().map(|entry| entry.peer);
        let mut start: Vec<Peer> = nearest.collect();
        if let Manner::Far { .. } = wanted.manner {
            // One by one, and another beside when an answer is late: cheap is what this is for.
            style.parallel = 1;
            let turn = self.turns;
            let far = self.table.farthest(&wanted.key, 0, START_PER_LEVEL, usize::MAX, turn);
            start = far.into_iter().map(|entry| entry.peer).chain(start).collect();
        }
        if let For::Peer(..) = purpose {
            style.asked = DELEGATED_ASKED_MAX;
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
        self.lookups.insert(id, Running { lookup, purpose, told: Vec::new(), ends });
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
        let style = Style::new(1, 1, 0);
        let mut lookup = Lookup::new(wanted, style, [to]);
        // The peer counts as asked; what it is asked is the whole lookup.
        lookup.poll()?;
        let id = self.enter(at, lookup, For::Caller);
        if !self.ask(at, to, None, Purpose::Delegated(id), Body::Delegate { key: chunk.0, far }) {
            self.with(id, Lookup::stop);
            self.pump(at, id);
        }
        Some(id)
    }

    /// Whether a lookup may ask somebody now. Those of others leave room for the node's own.
    fn may_ask(&self, purpose: For) -> bool {
        let own = if matches!(purpose, For::Peer(..)) { EXCHANGES_OWN } else { 0 };
        self.exchanges.len() + own < EXCHANGES_MAX
    }

    /// Asks whomever a lookup wants asked; ends it when it is done.
    pub(super) fn pump(&mut self, at: Moment, id: LookupId) {
        loop {
            let Some(running) = self.lookups.get(&id) else { return };
            if !self.may_ask(running.purpose) {
                self.starved.insert(id);
                break;
            }
            let Some(running) = self.lookups.get_mut(&id) else { return };
            let Some((peer, find)) = running.lookup.poll() else { break };
            let teller = running.lookup.teller_of(&peer.id);
            if peer.id == self.own.id {
                running.lookup.failed(&peer.id);
                continue;
            }
            if !self.ask(at, peer, teller, Purpose::Lookup(id), Body::Find(find)) {
                self.with(id, |lookup| lookup.unasked(&peer.id));
            }
        }
        if self.lookups.get(&id).is_some_and(|running| running.lookup.is_done()) {
            self.end_lookup(at, id);
        }
    }

    /// Goes on with lookups that found no room for their questions.
    pub(super) fn feed(&mut self, at: Moment) {
        for _ in 0..STARVED_FED {
            if !self.exchanges.has_room() {
                return;
            }
            let Some(id) = self.starved.pop_first() else { return };
            self.pump(at, id);
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
        let spread_by = spread.and_then(|to| running.lookup.teller_of(&to.id));
        let outcome = running.lookup.finish();
        self.starved.remove(&id);
        if running.purpose == For::Survey && !outcome.cut_short {
            let places = outcome.nearest.iter().take(SAMPLED).map(|peer| peer.id.0);
            self.density.learn(density::sample(&wanted.key, places));
        }
        if let (Some(to), Some(record)) = (spread, outcome.records.first().copied()) {
            // Coral's way: the next who comes along finds it one step earlier.
            let chunk = ChunkId(wanted.key);
            let teller = spread_by;
            self.ask(at, to, teller, Purpose::Spread, Body::Announce(Announcement::one(chunk, &record)));
        }
        let outcome = self.without_leavers(at.now, outcome);
        match running.purpose {
            For::Caller => {
                let outcome = Outcome { records: running.told, ..outcome };
                self.emit(Effect::Done { lookup: id, outcome });
            }
            For::Table if wanted.key == self.own.id.0 => self.begin_collecting(at),
            For::Table | For::Survey => {}
            For::Check(job) => self.checked(at, job, outcome.nearest),
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

    /// A peer answered a question as it should, on a session that leads to `peer`'s address: the only way into the
    /// table.
    pub(super) fn met(&mut self, at: Moment, open: &Open, peer: Peer) {
        let sample = at.now.since(open.asked);
        let timed = !matches!(open.purpose, Purpose::Delegated(_));
        if timed {
            self.rtt.update(sample);
        }
        // Who is reached through others alone can be told to nobody.
        let Some(seen) = peer.contact.addresses().next() else { return };
        self.aims.answered(seen);
        let lost_long = self.peers.get(&peer.id).is_some_and(|known| known.errors_since >= 2);
        let before = self.contact_of(&peer.id);
        let peer = before.map_or(peer, |before| peer.also_at(&before));
        let is_news = self.table.get(&peer.id).is_none();
        self.table.admit(peer, at.now);
        if is_news {
            self.perhaps_anew(at, &peer.id, true);
        }
        if timed {
            self.table.sample(&peer.id, sample);
        }
        self.peers.met(&peer, at.unix_s(), timed.then_some(sample), &mut self.rng);
        for (chunk, record, bringer) in self.unproven.proven(&peer) {
            let site = self.site_of(&peer);
            self.keep_by(at, chunk, &record, Bringer { site, ..bringer });
        }
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
        let style = Style { paths: 1, ..self.style(region) };
        let wanted = Wanted { key: self.own.id.0, goal: Goal::Nodes, manner: Manner::Near, quiet: true };
        self.run(at, Lookup::new(wanted, style, [peer]), For::Table);
    }

    /// The answer to a question of this node, from `peer`, where its session leads. One that is no answer to it is worth
    /// less than none; one that refuses says that somebody is there, and no more.
    pub(super) fn answered(&mut self, at: Moment, open: &Open, peer: Peer, body: Body) {
        let id = open.to.id;
        match (open.purpose, body) {
            (Purpose::Lookup(lookup) | Purpose::Delegated(lookup), Body::Answer(answer)) => {
                if answer.refused {
                    self.with(lookup, |lookup| lookup.failed(&id));
                    return self.pump(at, lookup);
                }
                self.met(at, open, peer);
                self.lookup_answered(at, lookup, &peer, &answer);
            }
            (Purpose::Probe, Body::Here(seen)) => {
                self.met(at, open, peer);
                if let Some(seen) = seen {
                    self.emit(Effect::Seen { by: id, address: seen.address() });
                }
            }
            (Purpose::Announce { group, chunks }, Body::Verdicts(said)) => {
                self.met(at, open, peer);
                self.announced(at, &id, group, chunks, Some(&said));
            }
            (Purpose::Spread, Body::Verdicts(_)) => self.met(at, open, peer),
            (Purpose::Collect, Body::Handed(handed)) => {
                self.met(at, open, peer);
                match peer.contact.endpoints().next() {
                    Some(_) => self.collected(at, &peer, &handed),
                    // Who hands on records is somewhere, as who has them kept is: they count where it is.
                    None => self.not_collected(at, &id, false),
                }
            }
            _ => self.failed(at, open),
        }
    }

    fn lookup_answered(&mut self, at: Moment, id: LookupId, from: &Peer, answer: &Answer) {
        let Some(running) = self.lookups.get(&id) else { return };
        let key: Key = running.lookup.wanted().key;
        let records = self.good_records(at, &ChunkId(key), answer);
        let contacts = self.believed(from, answer);
        for peer in &contacts {
            if self.table.wants(peer) {
                self.candidates.offer(*peer, from.id, &mut self.rng);
            }
        }
        let Some(running) = self.lookups.get_mut(&id) else { return };
        let new = running.lookup.answered(&from.id, &from.contact, answer, records, contacts);
        if !new.is_empty() && running.purpose == For::Caller {
            let records: Vec<_> = new.iter().map(|record| self.worth_trying(at, record, from)).collect();
            self.with_told(id, &records);
            self.emit(Effect::Found { lookup: id, records });
        }
        self.pump(at, id);
    }

    fn with_told(&mut self, id: LookupId, records: &[Record]) {
        if let Some(running) = self.lookups.get_mut(&id) {
            running.told.extend_from_slice(records);
        }
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
        if !open.untried {
            let tried: Vec<SocketAddr> = open.to.contact.addresses().collect();
            self.lose(at, &open.to.id, &tried);
        }
        match open.purpose {
            Purpose::Lookup(lookup) | Purpose::Delegated(lookup) => {
                self.with(lookup, |lookup| lookup.failed(&open.to.id));
                self.pump(at, lookup);
            }
            Purpose::Announce { group, .. } if open.untried => self.unannounced(at, group),
            Purpose::Announce { group, chunks } => self.announced(at, &open.to.id, group, chunks, None),
            Purpose::Probe => self.unproven.failed(&open.to.id),
            Purpose::Spread => {}
            Purpose::Collect => self.not_collected(at, &open.to.id, open.untried),
        }
    }

    /// A peer is not where it was tried. Where others said that it is says nothing of where it is.
    pub(super) fn lose(&mut self, at: Moment, id: &NodeId, tried: &[SocketAddr]) {
        let was_there = |contact: Contact| contact.addresses().any(|address| tried.contains(&address));
        if self.contact_of(id).is_some_and(was_there) {
            self.table.fail(id, at.now);
            self.peers.missed(id);
        }
    }
}

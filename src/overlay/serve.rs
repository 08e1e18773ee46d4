//! Messages of peers: what they ask, and what they answer.

use std::net::SocketAddr;

use super::accounts::Price;
use super::density;
use super::place::{Key, distance, leading};
use super::quota::Asker;
use super::records::{Bringer, Records};
use super::site::{Site, may_tell};
use super::table::Table;
use super::types::{Effect, Goal, Manner, Moment, Peer, Wanted};
use super::unproven::is_proven;
use super::{For, Overlay};
use crate::base::{ChunkId, NodeId, Rng};
use crate::limits::{
    ANNOUNCED_CHUNKS_MAX, ANSWER_CONTACTS_MAX, CLOCK_GRACE_S, COLLECT_PRICE, DELEGATED_FREE_MAX,
    DELEGATED_MAX, DELEGATED_PER_PEER_MAX, RECORD_S_MAX, REFUSALS_BURST, REFUSALS_PER_SECOND, VERIFIED_BURST,
    VERIFIED_PER_SECOND,
};
use crate::wire::Malformed;
use crate::wire::overlay::{
    Announcement, Answer, Body, Contact, Endpoint, Find, Keeping, Message, Record, Verdict,
};

/// Contacts of one number of bits in an answer to a far-first question.
const PER_LEVEL: usize = 3;
/// Contacts of an answer that are not the nearest.
const OTHERS: usize = 2;
/// A record is kept for so long at least where it is far from its place, seconds.
const KEEP_FAR_S_MIN: u32 = 300;

/// Whether an address may be told.
pub type MayTell<'a> = &'a dyn Fn(SocketAddr) -> bool;
/// Whether a node may be named: it does not leave soon.
pub type Stays<'a> = &'a dyn Fn(&NodeId) -> bool;

/// Whom an answer names to `from`: the nearest and a few of those behind them, or whoever is far enough. `turn` differs
/// from answer to answer.
///
/// Addresses are told as far as `may` says, and nobody of whom none may be told, or of whom `stays` says no.
pub fn contacts(
    table: &Table,
    from: &NodeId,
    find: &Find,
    turn: usize,
    rng: &mut Rng,
    (may, stays): (MayTell<'_>, Stays<'_>),
) -> Vec<Contact> {
    let mut known = if find.far {
        table.farthest(&find.key, u32::from(find.reach), PER_LEVEL, ANSWER_CONTACTS_MAX + 1, turn)
    } else {
        table.nearest(&find.key, 4 * ANSWER_CONTACTS_MAX)
    };
    let is_told = |contact: &Contact| contact.endpoints().next().is_none() || contact.addresses().any(may);
    known.retain(|entry| entry.peer.id != *from && stays(&entry.peer.id) && is_told(&entry.peer.contact));
    if !find.far {
        // Where somebody has crowded in around a key, the nearest are its; those a little farther know others.
        for at in ANSWER_CONTACTS_MAX - OTHERS..ANSWER_CONTACTS_MAX.min(known.len()) {
            let other = at + rng.below((known.len() - at) as u64) as usize;
            known.swap(at, other);
        }
    }
    let told = |contact: Contact| Contact::new(contact.card, contact.addresses().filter(|at| may(*at)));
    known.into_iter().take(ANSWER_CONTACTS_MAX).map(|entry| told(entry.peer.contact)).collect()
}

impl Overlay {
    /// A message of a peer whose identity its session vouches for; `seen` is where that session's path leads (see
    /// [`Self::handle_up`]), and of `from` only the card counts. A malformed one closes the session.
    pub fn handle_message(
        &mut self,
        at: Moment,
        from: &Peer,
        seen: Option<SocketAddr>,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let Message { number, body } = Message::parse(bytes)?;
        let from = &from.reached_at(seen);
        self.note_path(at, from);
        self.leaving.is_here(&from.id, at.now);
        if let Some(path) = self.linked.get_mut(&from.id) {
            *path = seen;
        }
        if !body.is_question() {
            match self.exchanges.answer(number, &from.id) {
                Some(open) => self.answered(at, &open, *from, body),
                // Late, or never asked for.
                None => self.counters.stray += 1,
            }
            self.feed(at);
            return Ok(());
        }
        // Whoever wants records kept, or keeps them, is somewhere.
        let is_nowhere = seen.is_none() && matches!(body, Body::Announce(_) | Body::Collect { .. });
        if is_nowhere || !self.may_be_asked(at, from, &body) {
            self.counters.refused += 1;
            let refused = Answer { refused: true, ..Answer::default() };
            // A probe or an announcement is not answered at all: that is answer enough. Nor is a flood.
            if matches!(body, Body::Find(_) | Body::Delegate { .. })
                && self.refusals.take(1, REFUSALS_PER_SECOND, REFUSALS_BURST, at.now)
            {
                self.answer(*from, number, Body::Answer(refused));
            }
            return Ok(());
        }
        self.counters.served += 1;
        // Who asks is there; whether it answers will be seen.
        if seen.is_some() && self.table.wants(from) {
            self.candidates.offer(*from, from.id, &mut self.rng);
        }
        let answer = match body {
            Body::Find(find) => Body::Answer(self.look(at, from, &find)),
            Body::Probe if self.config.client => return Ok(()),
            Body::Probe => Body::Here(seen.and_then(Endpoint::new)),
            Body::Announce(announcement) => Body::Verdicts(self.hear_announcement(at, from, &announcement)),
            Body::Delegate { key, far } => match self.take_delegated(at, *from, number, key, far) {
                true => return Ok(()),
                false => Body::Answer(Answer { refused: true, ..Answer::default() }),
            },
            Body::Collect { bits, from: first } => Body::Handed(self.hand_on(at, &from.id, bits, first)),
            Body::Answer(_) | Body::Here(_) | Body::Verdicts(_) | Body::Handed(_) => return Ok(()),
        };
        self.answer(*from, number, answer);
        Ok(())
    }

    /// Whether a peer has not asked too much.
    fn may_be_asked(&mut self, at: Moment, from: &Peer, body: &Body) -> bool {
        let is_known = self.is_known(&from.id);
        let asker = match self.site_of(from) {
            _ if is_known => Asker::Known(from.id),
            Some(site) => Asker::Site(site),
            None => Asker::Stranger(from.id),
        };
        // Signatures are dear; of strangers, the more.
        let signatures = match body {
            Body::Announce(announcement) => {
                announcement.count() / if is_known { ANNOUNCED_CHUNKS_MAX } else { 4 }
            }
            _ => 0,
        };
        let price = if matches!(body, Body::Collect { .. }) { COLLECT_PRICE } else { 1 + signatures as u32 };
        self.quota.take(asker, price, at.now)
    }

    /// Whether a peer answered this node, or has an account.
    fn is_known(&self, id: &NodeId) -> bool {
        self.table.get(id).is_some() || self.accounts.has(id)
    }

    /// Whether a signature that a peer brings may be verified now. Strangers leave half to those who are known.
    fn may_verify(&mut self, at: Moment, from: &NodeId) -> bool {
        let burst = if self.is_known(from) { VERIFIED_BURST } else { VERIFIED_BURST / 2 };
        self.verifications.take(1, VERIFIED_PER_SECOND, burst, at.now)
    }

    /// The site that a session's path leads to, where sites are counted.
    pub(super) fn site_of(&self, peer: &Peer) -> Option<Site> {
        peer.contact.endpoints().next().and_then(|endpoint| Site::of(endpoint, self.table.is_open()))
    }

    pub(super) fn answer(&mut self, to: Peer, number: u32, body: Body) {
        let bytes = Message { number, body }.emit();
        self.emit(Effect::Send { to, bytes, question: false });
    }

    /// Looks for what a peer asks for among what is here.
    fn look(&mut self, at: Moment, from: &Peer, find: &Find) -> Answer {
        let now_s = at.unix_s();
        let key = find.key;
        let records = match find.records {
            true => {
                let left = |id: &NodeId| self.leaving.has_left(id, at.now);
                self.records.of(&ChunkId(key), now_s, &mut self.rng, left)
            }
            false => Vec::new(),
        };
        let (queries, vain) = self.demand.of(&key, now_s);
        // Counts of throw-away identities would be worth nothing (the seeds' "known reputation").
        if find.records && !find.quiet && from.contact.card.rank() >= self.config.rank_floor {
            self.demand.count(&key, !records.is_empty(), now_s, &mut self.rng);
        }
        self.turns = self.turns.wrapping_add(1);
        // Who is at home here is nobody's business from afar. Where a first flight came from is not known yet; only in a
        // network that is open does that make a difference.
        let asker = from.contact.addresses().next();
        let anywhere = asker.is_none() && !self.table.is_open();
        let may = |told| anywhere || may_tell(asker, told);
        let stays = |id: &NodeId| !self.leaving.is_soon(id, at.now);
        let contacts = contacts(&self.table, &from.id, find, self.turns, &mut self.rng, (&may, &stays));
        Answer { refused: false, not_found: vain, queries, records, contacts }
    }

    /// Somebody wants records kept: their provider, or whoever found one and had none from here.
    fn hear_announcement(&mut self, at: Moment, from: &Peer, announcement: &Announcement) -> Vec<Keeping> {
        let mut said = Vec::with_capacity(announcement.count());
        for (chunk, record) in announcement.records() {
            let verdict = self.hear_record(at, from, chunk, &record);
            self.counters.unfit += u64::from(verdict == Verdict::Unfit);
            let provider = record.provider.node_id();
            let queries = self.demand.of(&chunk.0, at.unix_s()).0;
            let leaves = |id: &NodeId| self.leaving.is_soon(id, at.now);
            said.push(Keeping { verdict, hosts: self.records.others(&chunk, &provider, leaves), queries });
        }
        said
    }

    pub(super) fn hear_record(
        &mut self,
        at: Moment,
        from: &Peer,
        chunk: ChunkId,
        record: &Record,
    ) -> Verdict {
        if !Records::is_timely(record, at.unix_s()) || !self.is_fit(record) {
            return Verdict::Unfit;
        }
        if !self.may_verify(at, &from.id) {
            return Verdict::Full;
        }
        if !record.verify(&chunk) {
            return Verdict::Unfit;
        }
        let provider = record.provider.node_id();
        if provider == from.id && is_proven(record, &from.contact) {
            return self.keep(at, chunk, record, from, true);
        }
        if let Some(known) = self.contact_of(&provider).filter(|known| is_proven(record, known)) {
            // It counts where its provider is, whoever brings it.
            return self.keep(at, chunk, record, &Peer::of(known), false);
        }
        if provider != from.id && record.provider.endpoints().next().is_none() {
            // Who names no machine sends nobody anywhere: it is reached by those near to it. Nor does it cost whoever brings it
            // a session, and so it takes nobody's place.
            let has_room = self.records.has_room(&chunk) || self.records.holds(&chunk, record);
            return if has_room { self.keep(at, chunk, record, from, false) } else { Verdict::Full };
        }
        // A provider that says it is somewhere else than it is, or somebody's word that a third is somewhere: it must
        // answer there before anybody is told.
        let teller = from.contact.addresses().next();
        let told = record.provider.addresses().filter(|address| may_tell(teller, *address));
        let told = Peer::of(Contact::new(record.provider.card, told));
        if provider == from.id || told.contact.endpoints().next().is_none() || !self.exchanges.has_room() {
            return Verdict::Unfit;
        }
        let bringer = Bringer { site: self.site_of(from), is_provider: false };
        let waits = self.unproven.has(&provider);
        if !waits && !self.probe(at, told, Some(from.id)) {
            return Verdict::Full;
        }
        self.unproven.add(chunk, *record, bringer);
        Verdict::Kept
    }

    /// Keeps a record that is known to be good, as somebody brought it.
    pub(super) fn keep(
        &mut self,
        at: Moment,
        chunk: ChunkId,
        record: &Record,
        from: &Peer,
        is_provider: bool,
    ) -> Verdict {
        // What this node has itself takes nobody's place.
        let site = if from.id == self.own.id { None } else { self.site_of(from) };
        self.keep_by(at, chunk, record, Bringer { site, is_provider })
    }

    /// The same, the shorter the farther its place is.
    pub(super) fn keep_by(
        &mut self,
        at: Moment,
        chunk: ChunkId,
        record: &Record,
        bringer: Bringer,
    ) -> Verdict {
        let region = density::region(self.network_size());
        let apart = leading(&distance(&chunk.0, &self.own.id.0));
        // Halved with every bit beyond the region (Kademlia §2.5: caching over and over must not stay).
        let beyond = region.leading_zeros().saturating_sub(apart.leading_zeros());
        let keep_s = (RECORD_S_MAX + CLOCK_GRACE_S).checked_shr(beyond).unwrap_or(0).max(KEEP_FAR_S_MIN);
        self.records.keep(chunk, record, bringer, keep_s, at.unix_s(), &mut self.rng)
    }

    /// Takes on a peer's lookup, unless there are too many, or its standing does not pay.
    fn take_delegated(&mut self, at: Moment, from: Peer, number: u32, key: Key, far: bool) -> bool {
        let delegated = self.lookups.values().filter_map(|running| match running.purpose {
            For::Peer(peer, _) => Some(peer.id),
            _ => None,
        });
        let (mut all, mut own) = (0, 0);
        for id in delegated {
            all += 1;
            own += usize::from(id == from.id);
        }
        let Some(price) = self.accounts.price(&from.id, at.now) else { return false };
        let max = if price == Price::Paid { DELEGATED_MAX } else { DELEGATED_FREE_MAX };
        if all >= max || own >= DELEGATED_PER_PEER_MAX {
            return false;
        }
        let manner = if far { Manner::Far { stride: 1 } } else { Manner::Near };
        let wanted = Wanted { key, goal: Goal::Providers(1), manner, quiet: false };
        let begun = self.begin_usual(at, wanted, For::Peer(from, number)).is_some();
        if begun {
            self.accounts.charge(&from.id, price, at.now);
        }
        begun
    }

    /// What is due.
    pub fn handle_timeout(&mut self, at: Moment) {
        self.overdue(at);
        self.end_late_lookups(at);
        if at.now >= self.turn_at {
            self.turn(at);
        }
        self.publish(at);
        self.collect(at);
        self.feed(at);
    }
}

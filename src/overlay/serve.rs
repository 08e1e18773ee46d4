//! Messages of peers: what they ask, and what they answer.

use std::net::SocketAddr;

use super::density;
use super::place::{Key, distance, leading};
use super::table::Table;
use super::types::{Effect, Goal, Manner, Moment, Peer, Wanted};
use super::{For, Overlay};
use crate::base::{ChunkId, NodeId, Rng};
use crate::limits::{ANSWER_CONTACTS_MAX, DELEGATED_MAX, DELEGATED_PER_PEER_MAX, RECORD_S_MAX};
use crate::wire::Malformed;
use crate::wire::overlay::{Answer, Body, Contact, Endpoint, Find, Message, Record, Verdict};

/// Contacts of one number of bits in an answer to a far-first question.
const PER_LEVEL: usize = 3;
/// Contacts of an answer that are not the nearest.
const OTHERS: usize = 2;
/// A record is kept for so long at least where it is far from its place, seconds.
const KEEP_FAR_S_MIN: u32 = 300;

/// Whom an answer names to `from`: the nearest and a few of those behind them, or whoever is far enough. `turn` differs
/// from answer to answer.
pub fn contacts(table: &Table, from: &NodeId, find: &Find, turn: usize, rng: &mut Rng) -> Vec<Contact> {
    let mut known = if find.far {
        table.farthest(&find.key, u32::from(find.reach), PER_LEVEL, ANSWER_CONTACTS_MAX + 1, turn)
    } else {
        table.nearest(&find.key, 4 * ANSWER_CONTACTS_MAX)
    };
    known.retain(|entry| entry.peer.id != *from);
    if !find.far {
        // Where somebody has crowded in around a key, the nearest are its; those a little farther know others.
        for at in ANSWER_CONTACTS_MAX - OTHERS..ANSWER_CONTACTS_MAX.min(known.len()) {
            let other = at + rng.below((known.len() - at) as u64) as usize;
            known.swap(at, other);
        }
    }
    known.into_iter().take(ANSWER_CONTACTS_MAX).map(|entry| entry.peer.contact).collect()
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
        if let Some(path) = self.linked.get_mut(&from.id) {
            *path = seen;
        }
        if !body.is_question() {
            match self.exchanges.answer(number, &from.id) {
                Some(open) => {
                    self.met(at, &open, *from);
                    self.answered(at, &open, body);
                }
                // Late, or never asked for.
                None => self.counters.stray += 1,
            }
            return Ok(());
        }
        if !self.quota.take(&from.id, at.now) {
            self.counters.refused += 1;
            let refused = Answer { refused: true, ..Answer::default() };
            // A probe or an announcement is not answered at all: that is answer enough.
            if matches!(body, Body::Find(_) | Body::Delegate { .. }) {
                self.answer(*from, number, Body::Answer(refused));
            }
            return Ok(());
        }
        self.counters.served += 1;
        // Who asks is there; whether it answers will be seen.
        if self.table.wants(from) {
            self.candidates.offer(*from, from.id, &mut self.rng);
        }
        let answer = match body {
            Body::Find(find) => Body::Answer(self.look(at, from, &find)),
            Body::Probe if self.config.client => return Ok(()),
            Body::Probe => Body::Here(seen.and_then(Endpoint::new)),
            Body::Announce { chunk, record } => Body::Verdict(self.hear_announcement(at, chunk, &record)),
            Body::Delegate { key, far } => match self.take_delegated(at, *from, number, key, far) {
                true => return Ok(()),
                false => Body::Answer(Answer { refused: true, ..Answer::default() }),
            },
            Body::Answer(_) | Body::Here(_) | Body::Verdict(_) => return Ok(()),
        };
        self.answer(*from, number, answer);
        Ok(())
    }

    pub(super) fn answer(&mut self, to: Peer, number: u32, body: Body) {
        let bytes = Message { number, body }.emit();
        self.emit(Effect::Send { to, bytes, question: false });
    }

    /// Looks for what a peer asks for among what is here.
    fn look(&mut self, at: Moment, from: &Peer, find: &Find) -> Answer {
        let now_s = at.unix_s();
        let key = find.key;
        let records =
            if find.records { self.records.of(&ChunkId(key), now_s, &mut self.rng) } else { Vec::new() };
        let (queries, vain) = self.demand.of(&key, now_s);
        // Counts of throw-away identities would be worth nothing (the seeds' "known reputation").
        if find.records && !find.quiet && from.contact.card.rank() >= self.config.rank_floor {
            self.demand.count(&key, !records.is_empty(), now_s, &mut self.rng);
        }
        self.turns = self.turns.wrapping_add(1);
        let contacts = contacts(&self.table, &from.id, find, self.turns, &mut self.rng);
        Answer { refused: false, not_found: vain, queries, records, contacts }
    }

    /// Somebody wants a record kept: its provider, or whoever found it and had none from here.
    fn hear_announcement(&mut self, at: Moment, chunk: ChunkId, record: &Record) -> Verdict {
        let provider = Peer::of(record.provider);
        let rank = record.provider.card.rank();
        if rank < self.config.rank_floor || !provider.shows(self.config.place_floor) || !record.verify(&chunk)
        {
            self.counters.unfit += 1;
            return Verdict::Unfit;
        }
        self.keep(at, chunk, record)
    }

    /// Keeps a record that is known to be good, the shorter the farther its place is.
    pub(super) fn keep(&mut self, at: Moment, chunk: ChunkId, record: &Record) -> Verdict {
        let region = density::region(self.network_size());
        let apart = leading(&distance(&chunk.0, &self.own.id.0));
        // Halved with every bit beyond the region (Kademlia §2.5: caching over and over must not stay).
        let beyond = region.leading_zeros().saturating_sub(apart.leading_zeros());
        let keep_s = RECORD_S_MAX.checked_shr(beyond).unwrap_or(0).max(KEEP_FAR_S_MIN);
        self.records.keep(chunk, record, keep_s, at.unix_s(), &mut self.rng)
    }

    /// Takes on a peer's lookup, unless there are too many.
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
        if all >= DELEGATED_MAX || own >= DELEGATED_PER_PEER_MAX {
            return false;
        }
        let manner = if far { Manner::Far { stride: 1 } } else { Manner::Near };
        let wanted = Wanted { key, goal: Goal::Providers(1), manner, quiet: false };
        self.begin(at, wanted, For::Peer(from, number)).is_some()
    }

    /// What is due.
    pub fn handle_timeout(&mut self, at: Moment) {
        self.overdue(at);
        self.end_late_lookups(at);
        if at.now >= self.turn_at {
            self.turn(at);
        }
    }
}

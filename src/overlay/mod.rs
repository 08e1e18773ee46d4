//! The overlay: how nodes find each other and who has which chunk (docs/protocol/overlay.md).
//!
//! [`Overlay`] is a node's part in it, without sockets, sessions, clock or threads. Its caller says what happened and
//! then drains [`Overlay::poll_effect`]:
//!
//! ```text
//! a message of a peer, on an authenticated session   handle_message   →  Effect::Send (the answer), Found, Done …
//! a session came up; a peer could not be reached     handle_up, handle_failed
//! the time of poll_timeout has come                  handle_timeout
//! somebody here wants something                      find, delegate, stop, provide, withdraw
//! ```
//!
//! [`table`] knows peers by distance, [`candidates`] waits for proof that others exist, [`lookup`] walks, [`records`]
//! and [`demand`] are what is kept for others, [`publish`] what is published, [`peers`] who was met.

pub mod accounts;
pub mod aims;
mod announce;
mod belief;
pub mod bucket;
pub mod candidates;
mod collect;
pub mod demand;
pub mod density;
mod drive;
pub mod exchange;
pub mod gathered;
pub mod leaving;
pub mod lookup;
pub mod path;
pub mod peers;
pub mod place;
pub mod publish;
pub mod quota;
pub mod records;
pub mod rtt;
pub mod serve;
pub mod site;
pub mod table;
pub mod types;
pub mod unproven;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::{Bounded, Budget, ChunkId, NodeId, Rng, Time};
use crate::crypto::Identity;
use crate::limits::{LOOKUPS_MAX, OVERLAY_EFFECTS_MAX};
use crate::wire::overlay::{Contact, Record};

use accounts::Accounts;
use aims::Aims;
use announce::Publishing;
use candidates::Candidates;
use collect::Collecting;
use demand::Demand;
use density::Density;
use exchange::Exchanges;
use leaving::Leaving;
use lookup::Lookup;
use peers::Peers;
use publish::{Health, Publications};
use quota::Quota;
use records::Records;
use rtt::Rtt;
use site::is_global;
use table::Table;
pub use types::{Config, Effect, Goal, LookupId, Manner, Moment, Outcome, Peer, Standing, Wanted};
use unproven::Unproven;

/// Why a lookup is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// The caller wants it.
    Caller,
    /// To know the neighbours, or who is at some distance.
    Table,
    /// To count those around a place that this node drew.
    Survey,
    /// To look after the published chunks of a region.
    Check(u32),
    /// A peer delegated it, with this number of its own.
    Peer(Peer, u32),
}

struct Running {
    lookup: Lookup,
    purpose: For,
    /// What the caller was told of.
    told: Vec<Record>,
    ends: Time,
}

/// Counters, for metrics: since the node began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions answered.
    pub served: u64,
    /// Questions refused, their askers having asked too much.
    pub refused: u64,
    /// Answers that belonged to no question.
    pub stray: u64,
    /// Records whose signature or time was wrong.
    pub unfit: u64,
    /// Effects that found no room.
    pub dropped: u64,
}

/// A node's part in the overlay.
pub struct Overlay {
    config: Config,
    identity: Arc<Identity>,
    own: Peer,
    rng: Rng,
    table: Table,
    candidates: Candidates,
    peers: Peers,
    records: Records,
    demand: Demand,
    density: Density,
    published: Publications,
    publishing: Publishing,
    aims: Aims,
    accounts: Accounts,
    unproven: Unproven,
    collecting: Collecting,
    leaving: Leaving,
    /// When this node leaves, seconds since the Unix epoch.
    leaves_s: Option<u32>,
    exchanges: Exchanges,
    quota: Quota,
    /// Refusals that are said, of all peers together.
    refusals: Budget,
    /// Signatures that are verified for all peers together.
    verifications: Budget,
    /// Of all peers together.
    rtt: Rtt,
    /// Peers with which there is a session, and where it leads.
    linked: BTreeMap<NodeId, Option<SocketAddr>>,
    lookups: BTreeMap<LookupId, Running>,
    lookup_ends: BTreeSet<(Time, LookupId)>,
    /// Lookups that found no room for their questions.
    starved: BTreeSet<LookupId>,
    next_lookup: u64,
    effects: Bounded<Effect>,
    turn_at: Time,
    neighbours_at: Time,
    survey_at: Time,
    lost_at: Time,
    regained_at: Time,
    /// Until then everything that a newcomer does is done more often.
    hasty_until: Time,
    /// Pause before the neighbours are looked for again.
    neighbours_pause_ms: u64,
    turns: usize,
    /// What happened, in numbers.
    pub counters: Counters,
}

impl Overlay {
    /// A node that knows nobody. `addresses` are where others reach it, best first; they go into its records.
    pub fn new(
        config: Config,
        identity: Arc<Identity>,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Time,
        mut rng: Rng,
    ) -> Self {
        let own = Peer::of(Contact::new(*identity.card(), addresses));
        // Nodes that begin together do not go on in step.
        let turn_at = now + types::ms(rng.below(crate::limits::PROBE_TURN_MS));
        let mut table = Table::new(own.id, config.place_floor, config.rank_floor);
        if own.contact.addresses().any(is_global) {
            table.open(now);
        }
        Self {
            config,
            own,
            table,
            candidates: Candidates::default(),
            peers: Peers::new(config.remembered),
            records: Records::default(),
            demand: Demand::default(),
            density: Density::default(),
            published: Publications::default(),
            publishing: Publishing::default(),
            aims: Aims::default(),
            accounts: Accounts::default(),
            unproven: Unproven::default(),
            collecting: Collecting::default(),
            leaving: Leaving::default(),
            leaves_s: None,
            exchanges: Exchanges::default(),
            quota: Quota::default(),
            refusals: Budget::default(),
            verifications: Budget::default(),
            rtt: Rtt::default(),
            linked: BTreeMap::new(),
            lookups: BTreeMap::new(),
            lookup_ends: BTreeSet::new(),
            starved: BTreeSet::new(),
            next_lookup: 0,
            effects: Bounded::new(OVERLAY_EFFECTS_MAX),
            turn_at,
            neighbours_at: now,
            survey_at: now,
            lost_at: now,
            regained_at: now,
            hasty_until: now + types::ms(crate::limits::HASTE_MS),
            neighbours_pause_ms: crate::limits::ENTERED_MS,
            turns: 0,
            counters: Counters::default(),
            identity,
            rng,
        }
    }

    /// This node as others are told of it.
    pub fn own(&self) -> &Peer {
        &self.own
    }

    /// Where others reach it from now on.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.own.contact = Contact::new(self.own.contact.card, addresses);
        if self.own.contact.addresses().any(is_global) {
            self.table.open(self.turn_at);
        }
    }

    /// Whom it knows.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whom it met.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// What others provide, as far as it is kept here.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// How many nodes there are, as far as can be told.
    pub fn network_size(&self) -> u64 {
        self.density.nodes(self.table.len())
    }

    /// Queries of a key lately, and those in vain: what `market` may cache by.
    pub fn demand(&self, at: Moment, key: &place::Key) -> (u16, u16) {
        self.demand.of(key, at.unix_s())
    }

    /// What the accounts say of a peer, whether it is in the table or not: its order there, and what it may have this
    /// node look up for it.
    pub fn set_standing(&mut self, id: &NodeId, standing: Standing) {
        self.accounts.set(id, standing);
        self.table.set_standing(id, standing);
        self.peers.set_bandwidth(id, standing.bandwidth);
    }

    /// Brings back peers that were stored: they are tried again, one after another.
    pub fn restore(&mut self, known: impl IntoIterator<Item = peers::Known>) {
        self.peers.restore(known);
    }

    /// A session with a peer came up, whoever began it; its handshake shows the key. `seen` is where it is reached on
    /// that session's path: an address from which its handshake was answered or confirmed. `None` where packets come
    /// by a relay: such a peer is asked, but stands in no table. Addresses in `peer` are what it or others claim, and
    /// are not believed. The first sessions are how a node enters the network: friends, saved peers, or a list in the
    /// configuration.
    pub fn handle_up(&mut self, at: Moment, peer: &Peer, seen: Option<SocketAddr>) {
        let peer = peer.reached_at(seen);
        let replaced = self.linked.insert(peer.id, seen).is_some();
        if self.table.get(&peer.id).is_some() {
            self.perhaps_anew(at, &peer.id, replaced);
        }
        self.leaving.came(&peer.id, at.now);
        self.leaving.is_here(&peer.id, at.now);
        self.note_path(at, &peer);
        if seen.is_none() || !self.table.wants(&peer) {
            return;
        }
        // Whoever says so again and again is not asked again and again.
        let may_probe = self.table.len() < crate::limits::BUCKET_CONTACTS_MAX
            && self.exchanges.has_room()
            && self.exchanges.probes() < crate::limits::PROBES_MAX
            && !self.exchanges.is_asked(&peer.id);
        if may_probe {
            self.probe(at, peer, None);
        } else {
            self.candidates.offer(peer, peer.id, &mut self.rng);
        }
    }

    /// A session with a peer ended in good order.
    pub fn handle_down(&mut self, id: &NodeId) {
        self.linked.remove(id);
    }

    /// A session with a peer did not come about at the addresses that were `tried`, or broke: then its path's address
    /// is what failed. A peer is only taken for lost where it was known to be.
    pub fn handle_failed(&mut self, at: Moment, id: &NodeId, tried: &[SocketAddr]) {
        self.linked.remove(id);
        if self.table.get(id).is_some() {
            self.collecting.broke(id);
        }
        let open = self.exchanges.fail_all(id);
        if open.is_empty() {
            self.lose(at, id, tried);
        }
        open.into_iter().for_each(|open| self.failed(at, &open));
    }

    /// A question to a peer was not sent, for want of room here: nobody is taken for lost. A lookup goes on when the
    /// answer is late, as if it were slow, so that it does not use up whom it could ask in one moment.
    pub fn handle_untried(&mut self, id: &NodeId) {
        self.exchanges.untried(id);
    }

    /// Where a peer is reached: only addresses from which it answered.
    pub fn contact_of(&self, id: &NodeId) -> Option<Contact> {
        let in_table = self.table.get(id).map(|entry| entry.peer.contact);
        in_table.or_else(|| self.peers.get(id).map(|known| known.contact))
    }

    /// Begins a lookup. `None` when there are too many.
    pub fn find(&mut self, at: Moment, wanted: Wanted) -> Option<LookupId> {
        self.begin_usual(at, wanted, For::Caller)
    }

    /// Has a better-placed peer look for a chunk: the given one, or the one of the table that has the shortest round
    /// trip. It learns what is looked for, and the others do not learn who does. Ends like [`Self::find`].
    pub fn delegate(&mut self, at: Moment, chunk: ChunkId, far: bool, to: Option<Peer>) -> Option<LookupId> {
        let quickest = || {
            let known = self.table.entries().filter(|entry| entry.failures == 0);
            known
                .min_by_key(|entry| entry.rtt.smoothed().unwrap_or(std::time::Duration::MAX))
                .map(|entry| entry.peer)
        };
        let to = to.or_else(quickest)?;
        self.begin_delegated(at, chunk, far, to)
    }

    /// Ends a lookup whose caller has what it wanted.
    pub fn stop(&mut self, at: Moment, id: LookupId) {
        if let Some(running) = self.lookups.get_mut(&id) {
            running.lookup.stop();
            self.pump(at, id);
        }
    }

    /// Provides a chunk from now on. False when there are too many.
    pub fn provide(&mut self, at: Moment, chunk: ChunkId) -> bool {
        self.published.add(chunk, at.now)
    }

    /// Where the session of a peer leads, as far as that is proven.
    pub fn path_of(&self, id: &NodeId) -> Option<SocketAddr> {
        self.linked.get(id).copied().flatten()
    }

    /// Provides nothing any more; what others keep of it ends within two hours.
    pub fn withdraw_all(&mut self) {
        self.published = Publications::default();
    }

    /// Provides it no more; what others keep of it ends within two hours.
    pub fn withdraw(&mut self, chunk: &ChunkId) {
        self.published.remove(chunk);
    }

    /// Chunks that are provided.
    pub fn provided(&self) -> usize {
        self.published.len()
    }

    /// How a published chunk fares.
    pub fn health(&self, chunk: &ChunkId) -> Option<Health> {
        self.published.health(chunk)
    }

    /// What is to be done next; call until there is nothing.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Time {
        let lookup = self.lookup_ends.first().map(|(at, _)| *at);
        let publishing = self.publishing.next(self.published.next_due());
        let others = [self.exchanges.next_due(), lookup, publishing, self.collecting.next()];
        others.into_iter().flatten().fold(self.turn_at, Time::min)
    }

    /// Lookups under way.
    pub fn lookups(&self) -> usize {
        self.lookups.len()
    }

    /// Somebody is at a global address: so is the network.
    fn note_path(&mut self, at: Moment, peer: &Peer) {
        if peer.contact.addresses().any(is_global) {
            self.table.open(at.now);
        }
    }

    fn emit(&mut self, effect: Effect) {
        if self.effects.push(effect).is_err() {
            self.counters.dropped += 1;
        }
    }

    fn has_room_for_lookup(&self) -> bool {
        self.lookups.len() < LOOKUPS_MAX && self.exchanges.has_room()
    }

    /// This node's word that it has a chunk. Where there are nodes at global addresses, a private one is nobody's business, and would
    /// have others take the record for one that names a third: it is found by those near to it.
    fn own_record(&self, at: Moment, chunk: &ChunkId) -> Record {
        let expires = at.unix_s().saturating_add(crate::limits::RECORD_S_MAX);
        let expires = self.leaves_s.map_or(expires, |leaves_s| expires.min(leaves_s));
        let told =
            self.own.contact.addresses().filter(|address| !self.table.is_open() || is_global(*address));
        Record::sign(&self.identity, chunk, Contact::new(self.own.contact.card, told), expires)
    }
}

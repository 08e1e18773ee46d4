//! The overlay's core on the shard that has it: whose lookup is whose, by whom the network is entered, what is provided.

mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::command::{Known, OverlayRules, OverlaySnapshot, Report};
use super::overlay::moment;
use super::overlay_seen::Seen;
use super::{Clock, Node, World};
use crate::base::{ChunkId, NodeId, Rng, Time};
use crate::crypto::{Identity, IdentityCard};
use crate::limits::{
    FINDS_MAX, GIVERS_MAX, HOLDERS, OVERLAY_ENTER_MS_MAX, OVERLAY_ENTER_MS_MIN, OVERLAY_ENTER_SAVED,
    OVERLAY_ENTERED_MIN, PEERS_BATCH, PUSH_LOOKUPS_OPEN_MAX, SHARDS_MAX, WAY_NEAR_MAX,
};
use crate::overlay::site::is_global;
use crate::overlay::{Config, Effect, Goal, LookupId, Manner, Moment, Overlay, Peer, Standing, Wanted};
use crate::session::{MeetCross, OverlayCross};
use crate::wire::overlay::{Contact, Record};

/// The first shard's part.
pub(super) struct Keeper {
    pub(super) core: Overlay,
    rules: OverlayRules,
    /// Whether it names no address.
    hidden: bool,
    rng: Rng,
    /// Lookups of this node's gets: for which shard, and what; at most [`FINDS_MAX`] for each shard.
    finds: BTreeMap<LookupId, (u8, ChunkId)>,
    /// Lookups of nodes that may keep a chunk, likewise; at most [`PUSH_LOOKUPS_OPEN_MAX`] for each shard.
    nears: BTreeMap<LookupId, (u8, ChunkId)>,
    /// Lookups of nodes to which a way is wanted; at most [`FINDS_MAX`].
    near_targets: BTreeMap<LookupId, IdentityCard>,
    /// What is for shards, in order.
    pub(super) answers: Vec<(u8, OverlayCross)>,
    /// When it is looked whether the network must be entered (again), and the pause after that.
    enter_at: Time,
    pause: Duration,
    /// Where peers see this node.
    seen: Seen,
    /// Where it says that it is reached.
    named: Vec<SocketAddr>,
    /// Verified bytes that peers gave; at most [`GIVERS_MAX`], those that gave most.
    gave: BTreeMap<NodeId, u64>,
    /// Provided chunks of which nobody keeps a record.
    unannounced: BTreeSet<ChunkId>,
    /// Keys that it asked somebody about, or announced something under.
    #[cfg(test)]
    said_of: BTreeSet<[u8; 20]>,
}

impl Keeper {
    pub(super) fn new(
        identity: Arc<Identity>,
        place_floor: u32,
        hidden: bool,
        rules: OverlayRules,
        now: Time,
        mut rng: Rng,
    ) -> Self {
        let config = Config { place_floor, client: hidden, ..Config::default() };
        let seen = Seen::default();
        let named = if hidden { Vec::new() } else { seen.addresses(now, &rules.addresses) };
        let core = Overlay::new(config, identity, named.iter().copied(), now, rng.fork());
        Self {
            core,
            rules,
            hidden,
            rng,
            finds: BTreeMap::new(),
            nears: BTreeMap::new(),
            near_targets: BTreeMap::new(),
            answers: Vec::new(),
            enter_at: now,
            pause: Duration::from_millis(OVERLAY_ENTER_MS_MIN),
            seen,
            named,
            gave: BTreeMap::new(),
            unannounced: BTreeSet::new(),
            #[cfg(test)]
            said_of: BTreeSet::new(),
        }
    }

    /// Other rules hold from now on, of the same network.
    pub(super) fn change(&mut self, now: Time, rules: OverlayRules) {
        self.rules = rules;
        if !self.rules.serve_strangers {
            // Nobody shall be told to come here for what only friends are given.
            self.core.withdraw_all();
            self.unannounced.clear();
        }
        self.enter_soon(now);
        self.tell_addresses(now);
    }

    fn enter_soon(&mut self, now: Time) {
        self.pause = Duration::from_millis(OVERLAY_ENTER_MS_MIN);
        self.enter_at = now;
    }

    /// Of where others reach this node: what the operator or the host says, then what peers see.
    fn tell_addresses(&mut self, now: Time) {
        if self.hidden {
            return;
        }
        let all = self.seen.addresses(now, &self.rules.addresses);
        if all != self.named {
            self.core.set_addresses(all.iter().copied());
            self.named = all;
        }
    }

    /// Where this node is reached, as it tells the overlay.
    pub(super) fn named(&self) -> &[SocketAddr] {
        &self.named
    }

    pub(super) fn poll_timeout(&self) -> Time {
        self.core.poll_timeout().min(self.enter_at)
    }

    pub(super) fn snapshot(&self) -> OverlaySnapshot {
        let provided = self.core.provided();
        OverlaySnapshot {
            contacts: self.core.table().len() as u64,
            nodes: self.core.network_size(),
            peers: self.core.peers().len() as u64,
            lookups: self.core.lookups() as u64,
            records: self.core.records().len() as u64,
            provided: provided as u64,
            announced: provided.saturating_sub(self.unannounced.len()) as u64,
        }
    }

    /// Hears what a shard has to say.
    pub(super) fn hear(&mut self, at: Moment, from: u8, far: bool, message: OverlayCross) {
        match message {
            OverlayCross::Message { from, seen, bytes } => {
                // The session's shard has parsed it, and closed the session if it was none.
                let _ = self.core.handle_message(at, &peer_of(from), seen, &bytes);
            }
            OverlayCross::Up { peer, at: address } => self.core.handle_up(at, &peer_of(peer), Some(address)),
            OverlayCross::Down(peer) => self.core.handle_down(&peer),
            OverlayCross::Failed { peer, tried } => self.core.handle_failed(at, &peer, &tried),
            OverlayCross::Untried(peer) => self.core.handle_untried(&peer),
            OverlayCross::Gave { peer, bytes } => self.gave(peer, bytes),
            OverlayCross::Find(chunk) => self.find(at, from, far, chunk),
            OverlayCross::Kept(chunk) => self.provide(at, vec![chunk]),
            OverlayCross::Near(chunk) => self.find_near(at, from, chunk),
            OverlayCross::Stop(chunk) => {
                let of = |(_, one): &(&LookupId, &(u8, ChunkId))| **one == (from, chunk);
                let lookup = self.finds.iter().find(of).map(|(lookup, _)| *lookup);
                if let Some(lookup) = lookup {
                    self.core.stop(at, lookup);
                }
            }
            _ => {}
        }
    }

    /// What a peer gave is what it stands for, as long as nobody pays.
    fn gave(&mut self, peer: NodeId, bytes: u64) {
        if !self.gave.contains_key(&peer) && self.gave.len() >= GIVERS_MAX {
            let least = self.gave.iter().min_by_key(|(_, bytes)| **bytes).map(|(peer, _)| *peer);
            if let Some(least) = least {
                self.gave.remove(&least);
                self.core.set_standing(&least, Standing::default());
            }
        }
        let sum = self.gave.entry(peer).or_insert(0);
        *sum = sum.saturating_add(bytes);
        self.core.set_standing(&peer, Standing { contributed: *sum, ..Standing::default() });
    }

    fn find(&mut self, at: Moment, shard: u8, far: bool, chunk: ChunkId) {
        let manner = if far { Manner::Far { stride: 1 } } else { Manner::Near };
        // This node sees for itself whether a provider has it, and ends the lookup then.
        let wanted = Wanted { key: chunk.0, goal: Goal::Providers(u8::MAX), manner, quiet: false };
        let full = self.finds.len() >= FINDS_MAX * usize::from(SHARDS_MAX);
        let lookup = if full { None } else { self.core.find(at, wanted) };
        match lookup {
            Some(lookup) => _ = self.finds.insert(lookup, (shard, chunk)),
            None => self.answers.push((shard, OverlayCross::Ended(chunk))),
        }
    }

    /// Looks up the nodes near a chunk, of which some shall keep it. That is no wish for the chunk.
    fn find_near(&mut self, at: Moment, shard: u8, chunk: ChunkId) {
        let wanted = Wanted { key: chunk.0, goal: Goal::Nodes, manner: Manner::Near, quiet: true };
        let full = self.nears.len() >= PUSH_LOOKUPS_OPEN_MAX * usize::from(SHARDS_MAX);
        match if full { None } else { self.core.find(at, wanted) } {
            Some(lookup) => _ = self.nears.insert(lookup, (shard, chunk)),
            None => self.answers.push((shard, OverlayCross::Nearest { chunk, nodes: Vec::new() })),
        }
    }

    fn found(&mut self, lookup: LookupId, records: &[Record]) {
        if let Some((shard, chunk)) = self.finds.get(&lookup).copied() {
            // Where a record's address may not be believed, the provider may have been met.
            let known = |provider: Contact| match provider.endpoints().next() {
                Some(_) => provider,
                None => self.core.contact_of(&provider.node_id()).unwrap_or(provider),
            };
            let providers = records.iter().map(|record| known(record.provider)).collect();
            self.answers.push((shard, OverlayCross::Found { chunk, providers }));
        }
    }

    /// A server of STUN says where it sees this node.
    pub(super) fn seen_by_server(&mut self, now: Time, by: NodeId, server: SocketAddr, address: SocketAddr) {
        self.seen.note(now, by, server, address);
        self.tell_addresses(now);
    }

    fn seen(&mut self, now: Time, by: NodeId, address: SocketAddr) {
        if let Some(path) = self.core.path_of(&by) {
            self.seen.note(now, by, path, address);
            self.tell_addresses(now);
        }
    }

    /// Looks for those that are near to a node, who may have a session with it. Those that are known already.
    fn near(&mut self, at: Moment, card: &IdentityCard) -> Vec<Contact> {
        let key = card.node_id().0;
        let under_way = self.near_targets.values().any(|other| other.key == card.key);
        if !under_way && self.near_targets.len() < FINDS_MAX {
            let wanted = Wanted { key, goal: Goal::Nodes, manner: Manner::Near, quiet: true };
            self.near_targets.extend(self.core.find(at, wanted).map(|lookup| (lookup, *card)));
        }
        let nearest = self.core.nearest_staying(&key, WAY_NEAR_MAX + 1, at.now);
        let nearest = nearest.into_iter().map(|peer| peer.contact);
        nearest.filter(|contact| contact.card.key != card.key).take(WAY_NEAR_MAX).collect()
    }

    /// Those by whom this node is found, if others do not reach it: peers see it where it has no address of its own.
    pub(super) fn holders(&self, now: Time) -> Vec<Contact> {
        let is_private = self.core.table().is_open() && !self.named.iter().any(|named| is_global(*named));
        let is_translated = self.named.iter().any(|named| !self.rules.addresses.contains(named));
        if !is_translated && !is_private {
            return Vec::new();
        }
        let own = self.core.own().id.0;
        self.core.nearest_staying(&own, HOLDERS, now).into_iter().map(|peer| peer.contact).collect()
    }

    /// Whom to call to enter the network, if that is due and it knows too few.
    fn whom_to_call(&mut self, now: Time) -> Vec<(IdentityCard, Vec<SocketAddr>)> {
        if now < self.enter_at {
            return Vec::new();
        }
        // What nobody has said lately is named no more.
        self.tell_addresses(now);
        self.enter_at = now + self.pause + Duration::from_millis(self.rng.below(OVERLAY_ENTER_MS_MIN));
        self.pause = (2 * self.pause).min(Duration::from_millis(OVERLAY_ENTER_MS_MAX));
        if self.core.table().len() >= OVERLAY_ENTERED_MIN {
            return Vec::new();
        }
        let mut saved: Vec<&Known> = self.core.peers().iter().map(|(_, known)| known).collect();
        saved.retain(|known| self.core.table().get(&known.contact.node_id()).is_none());
        saved.sort_by_key(|known| (known.errors_since, u32::MAX - known.last_s));
        // Of the best, some drawn: not all of a network's nodes shall begin with the same ones.
        saved.truncate(4 * OVERLAY_ENTER_SAVED);
        let mut calls = self.rules.bootstrap.clone();
        for _ in 0..OVERLAY_ENTER_SAVED.min(saved.len()) {
            let known = saved.swap_remove(self.rng.below(saved.len() as u64) as usize);
            calls.push((known.contact.card, known.contact.addresses().collect()));
        }
        calls.retain(|(_, addresses)| !addresses.is_empty());
        calls
    }

    pub(super) fn handle_timeout(&mut self, at: Moment) {
        if self.core.poll_timeout() <= at.now {
            self.core.handle_timeout(at);
        }
    }

    pub(super) fn provide(&mut self, at: Moment, chunks: Vec<ChunkId>) {
        for chunk in chunks.into_iter().filter(|_| self.rules.serve_strangers) {
            if self.core.health(&chunk).is_none() && self.core.provide(at, chunk) {
                self.unannounced.insert(chunk);
            }
        }
    }

    pub(super) fn withdraw(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.core.withdraw(chunk);
            self.unannounced.remove(chunk);
        }
    }

    pub(super) fn restore(&mut self, now: Time, known: Vec<Known>) {
        self.core.restore(known);
        self.enter_soon(now);
    }

    /// The peers behind a place, in order.
    pub(super) fn peers(&self, after: Option<NodeId>) -> Vec<Known> {
        self.core.peers().behind(after).take(PEERS_BATCH).cloned().collect()
    }
}

#[cfg(test)]
impl Keeper {
    fn note_said(&mut self, bytes: &[u8]) {
        use crate::wire::overlay::{Body, Message};
        match Message::parse(bytes).map(|message| message.body) {
            Ok(Body::Find(find)) => _ = self.said_of.insert(find.key),
            Ok(Body::Delegate { key, .. }) => _ = self.said_of.insert(key),
            Ok(Body::Announce(announced)) => {
                self.said_of.extend(announced.records().map(|(chunk, _)| chunk.0));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
impl Node {
    /// Whether the overlay said anything of a chunk under this identity.
    pub(crate) fn said_of(&self, chunk: &ChunkId) -> bool {
        self.overlay.keeper.as_ref().is_some_and(|keeper| keeper.said_of.contains(&chunk.0))
    }
}

/// A peer with a session, which says where it is reached.
fn peer_of(card: IdentityCard) -> Peer {
    Peer::of(Contact::new(card, []))
}

impl Node {
    /// Does what the core wants, until it wants nothing.
    pub(super) fn keeper_effects(&mut self, clock: Clock, world: &mut impl World) {
        let Some(keeper) = &mut self.overlay.keeper else { return };
        for (card, addresses) in keeper.whom_to_call(clock.now) {
            let home = self.sessions.elsewhere(&card.key).unwrap_or(self.overlay.shard.0);
            self.overlay_cross(clock, home, OverlayCross::Call { card, addresses, answer: false });
        }
        while let Some(effect) = self.overlay.keeper.as_mut().and_then(|keeper| keeper.core.poll_effect()) {
            self.keeper_effect(clock, effect, world);
            self.keeper_answers(clock);
        }
        self.keeper_answers(clock);
    }

    fn keeper_answers(&mut self, clock: Clock) {
        let Some(keeper) = &mut self.overlay.keeper else { return };
        for (shard, answer) in std::mem::take(&mut keeper.answers) {
            self.overlay_cross(clock, shard, answer);
        }
    }

    fn keeper_effect(&mut self, clock: Clock, effect: Effect, world: &mut impl World) {
        let Some(keeper) = &mut self.overlay.keeper else { return };
        match effect {
            Effect::Send { to, bytes, question } => {
                #[cfg(test)]
                keeper.note_said(&bytes);
                let to = to.contact;
                let home = self.sessions.elsewhere(&to.card.key).unwrap_or(self.overlay.shard.0);
                self.overlay_cross(clock, home, OverlayCross::Send { to, bytes, question });
            }
            Effect::Found { lookup, records } => keeper.found(lookup, &records),
            Effect::Done { lookup, outcome } => {
                if let Some((shard, chunk)) = keeper.nears.remove(&lookup) {
                    let nodes = outcome.nearest.iter().map(|peer| peer.contact).collect();
                    keeper.answers.push((shard, OverlayCross::Nearest { chunk, nodes }));
                }
                if let Some(target) = keeper.near_targets.remove(&lookup) {
                    let near = outcome.nearest.iter().map(|peer| peer.contact);
                    let near = near.filter(|contact| contact.card.key != target.key).take(WAY_NEAR_MAX);
                    return self.ask_near(clock, near.collect(), &target);
                }
                if let Some((shard, chunk)) = keeper.finds.remove(&lookup) {
                    keeper.answers.push((shard, OverlayCross::Ended(chunk)));
                }
            }
            Effect::Checked { chunk, kept, .. } => {
                // A chunk that the disk broke, or that made room for others, is provided no more.
                if world.peek(&chunk).is_none() {
                    keeper.withdraw(&[chunk]);
                } else if kept > 0 {
                    keeper.unannounced.remove(&chunk);
                }
            }
            Effect::Seen { by, address } => keeper.seen(clock.now, by, address),
        }
    }

    /// Has those asked that are near to a node to which a way is wanted.
    pub(super) fn look_near(&mut self, clock: Clock, card: &IdentityCard) {
        let Some((keeper, at)) = self.overlay.core(clock) else { return };
        let near = keeper.near(at, card);
        self.ask_near(clock, near, card);
    }

    fn ask_near(&mut self, clock: Clock, near: Vec<Contact>, target: &IdentityCard) {
        for relay in near {
            let home = self.home_of(&relay.card.key);
            self.meet_cross(clock, home, MeetCross::Ask { relay, target: *target });
        }
    }

    /// The control thread asks something of the overlay.
    pub(super) fn tell_keeper(&mut self, clock: Clock, what: impl FnOnce(&mut Keeper, Moment)) {
        if let Some(keeper) = self.overlay.keeper.as_deref_mut() {
            what(keeper, moment(clock));
        }
    }

    /// Tells the control thread of peers that were met.
    pub(super) fn tell_peers(&mut self, after: Option<NodeId>) {
        if self.overlay.shard.0 == super::circuits::FIRST {
            let known = self.overlay.keeper.as_ref().map_or(Vec::new(), |keeper| keeper.peers(after));
            self.reports.push_back(Report::Peers(known));
        }
    }
}

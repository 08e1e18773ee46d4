//! The node's part in the overlay (docs/architecture.md, docs/protocol/overlay.md): messages of peers go to the core, and
//! what the core wants is done.
//!
//! The core is control plane and lives once, on the first shard, the *keeper* ([`super::overlay_keeper`]). Sessions live on
//! their peers' homes ([`super::overlay_links`]), and whoever runs a `get` looks for providers
//! ([`super::overlay_finding`]). What they say to each other is an [`OverlayCross`], obeyed at once when it is for this shard.

use std::sync::Arc;

use super::circuits::FIRST;
use super::command::{OverlayRules, OverlaySnapshot};
use super::overlay_finding::Finding;
use super::overlay_keeper::Keeper;
use super::overlay_links::Links;
use super::peer::Meeting;
use super::{
    CHUNK_CHANNEL, Clock, Cross, HELLO_CHANNEL, INTENT_CHANNEL, INTRODUCE_CHANNEL, KEEP_CHANNEL,
    MEET_CHANNEL, Node, OVERLAY_CHANNEL, RESERVE_CHANNEL, World,
};
use crate::base::{ChannelId, Time};
use crate::crypto::{Identity, hash};
use crate::limits::{
    OVERLAY_MESSAGES_BURST, OVERLAY_MESSAGES_PER_SECOND, OVERLAY_SWEEP_MS, OVERLAY_TAG_SIZE,
};
use crate::overlay::Moment;
use crate::service::PeerId;
use crate::session::{CloseCode, OverlayCross};
use crate::wire::overlay::Message;

/// What messages of this network begin with: a hash of its name, so that nobody else understands them.
pub(super) type Tag = [u8; OVERLAY_TAG_SIZE];

/// What a shard has to do with the overlay.
pub(super) struct Overlays {
    /// Which shard this is, of how many.
    pub(super) shard: (u8, u8),
    pub(super) identity: Arc<Identity>,
    pub(super) place_floor: u32,
    /// Whether nobody is to hear of this node: it names no address, and is in no table.
    pub(super) hidden: bool,
    /// While the node takes part.
    pub(super) on: Option<On>,
    /// On the first shard, while the node takes part.
    pub(super) keeper: Option<Box<Keeper>>,
    pub(super) links: Links,
    pub(super) finding: Finding,
    pub(super) counters: Counters,
}

/// A node that takes part.
pub(super) struct On {
    pub(super) tag: Tag,
    pub(super) far: bool,
}

/// What happened, beside what the core counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Of other networks.
    pub(super) foreign: u64,
    /// Of peers that say too much.
    pub(super) flooded: u64,
    /// For want of a session, an address or room.
    pub(super) unsent: u64,
    pub(super) calls: u64,
    pub(super) calls_failed: u64,
    /// Sessions closed because nobody needed them, or to make room.
    pub(super) closed: u64,
    /// For the gets of this node.
    pub(super) lookups: u64,
    pub(super) lookups_found: u64,
    pub(super) lookups_vain: u64,
    pub(super) providers: u64,
}

impl Overlays {
    pub(super) fn new(shard: (u8, u8), identity: Arc<Identity>, place_floor: u32) -> Self {
        Self {
            shard,
            identity,
            place_floor,
            hidden: false,
            on: None,
            keeper: None,
            links: Links::default(),
            finding: Finding::default(),
            counters: Counters::default(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// The keeper, and what the clocks say to its core.
    pub(super) fn core(&mut self, clock: Clock) -> Option<(&mut Keeper, Moment)> {
        Some((self.keeper.as_deref_mut()?, moment(clock)))
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let keeper = self.keeper.as_ref().map(|keeper| keeper.poll_timeout());
        [keeper, self.links.sweep_at, self.finding.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn core_counters(&self) -> crate::overlay::Counters {
        self.keeper.as_ref().map(|keeper| keeper.core.counters).unwrap_or_default()
    }

    pub(super) fn snapshot(&self) -> Option<OverlaySnapshot> {
        self.keeper.as_ref().map(|keeper| keeper.snapshot())
    }
}

/// Both clocks, as the core knows them.
pub(super) fn moment(clock: Clock) -> Moment {
    Moment { now: clock.now, wall: clock.wall }
}

/// What stands before each message of a network (docs/protocol/overlay.md §2).
pub fn tag(network: &str) -> [u8; OVERLAY_TAG_SIZE] {
    let name = hash::blake3(&[b"tornet overlay network v1", network.as_bytes()]);
    std::array::from_fn(|index| name[index])
}

impl Node {
    /// What this node offers to peers.
    pub(super) fn services(&self) -> Vec<ChannelId> {
        let overlay = self.overlay.is_on().then_some(OVERLAY_CHANNEL);
        let keep = self.keep.is_on().then_some(KEEP_CHANNEL);
        let always = [CHUNK_CHANNEL, HELLO_CHANNEL, RESERVE_CHANNEL];
        always
            .into_iter()
            .chain(overlay)
            .chain(keep)
            .chain([MEET_CHANNEL, INTENT_CHANNEL, INTRODUCE_CHANNEL])
            .collect()
    }

    /// What the node does in the overlay from now on.
    pub(super) fn set_overlay(&mut self, clock: Clock, rules: OverlayRules) {
        // Outside of the overlay there are no strangers that anything is for.
        let serves = rules.enabled && rules.serve_strangers;
        self.serve.serve_strangers(serves);
        let kept = self.keep.is_on();
        self.keep.allow(rules.keep.filter(|_| serves), self.overlay.shard.1);
        self.set_own_addresses(&rules.addresses);
        // Who serves no strangers need not be found by them.
        self.punch.hold_at = (serves && self.overlay.shard.0 == FIRST).then_some(clock.now);
        let was = self.overlay.on.as_ref().map(|on| on.tag);
        let tag = rules.enabled.then(|| tag(&rules.network));
        if was.is_some() && was != tag {
            self.leave_overlay(clock);
        }
        self.overlay.on = tag.map(|tag| On { tag, far: rules.far });
        if tag.is_some() && self.overlay.shard.0 == FIRST {
            match &mut self.overlay.keeper {
                Some(keeper) => keeper.change(clock.now, rules),
                None => {
                    let own = &self.overlay;
                    let identity = Arc::clone(&own.identity);
                    let (floor, rng) = (own.place_floor, self.rng.fork());
                    let keeper = Keeper::new(identity, floor, own.hidden, rules, clock.now, rng);
                    self.overlay.keeper = Some(Box::new(keeper));
                }
            }
        }
        if was != tag || kept != self.keep.is_on() {
            let all: Vec<PeerId> =
                self.peers.iter().filter(|(_, peer)| peer.lane == 0).map(|(id, _)| *id).collect();
            for id in all {
                // What is offered has changed; and those who offer the overlay are of it now.
                self.say_hello(clock, id);
                self.peers.get_mut(&id).into_iter().for_each(|peer| peer.overlay_told = false);
                self.overlay_met(clock, id);
                self.touch(id);
            }
        }
    }

    fn leave_overlay(&mut self, clock: Clock) {
        self.overlay.on = None;
        self.overlay.keeper = None;
        self.end_finding(clock);
        self.close_links(clock);
    }

    /// A message of the overlay came, behind the tag of its network.
    pub(super) fn overlay_datagram(&mut self, clock: Clock, id: PeerId, bytes: &[u8]) {
        let (Some(on), Some(peer)) = (&self.overlay.on, self.peers.get_mut(&id)) else { return };
        // Before anything is done with it, and before it takes others' room on its way to the first shard.
        let (rate, burst) = (OVERLAY_MESSAGES_PER_SECOND, OVERLAY_MESSAGES_BURST);
        if !peer.overlay_budget.take(1, rate, burst, clock.now) {
            self.overlay.counters.flooded += 1;
            return;
        }
        let (session, card, lane) = (peer.session, peer.card, peer.lane);
        if !bytes.starts_with(&on.tag) {
            // A friend may be of another network. With a stranger there is nothing to talk about.
            self.overlay.counters.foreign += 1;
            if self.overlay.links.is_called(id) && self.is_spare(id) {
                self.sessions.close(clock.now, session, CloseCode::UNWANTED, "another network");
            }
            return;
        }
        let bytes = &bytes[OVERLAY_TAG_SIZE..];
        if let Err(why) = Message::parse(bytes) {
            return self.malformed(clock.now, session, why);
        }
        let proven = self.sessions.is_confirmed(session);
        // Where a relay brings it from says nothing of where it is.
        let seen = self.sessions.path(session).filter(|path| proven && !path.is_relayed());
        let seen = seen.map(|path| path.remote);
        self.overlay.counters.received += 1;
        if lane == 0 {
            self.overlay.links.heard(clock.now, id, card.key);
        }
        self.say_to_keeper(clock, OverlayCross::Message { from: card, seen, bytes: bytes.to_vec() });
    }

    /// A peer said what it offers. The keeper hears of it once, and not before a packet of the session came from there:
    /// anybody can send a first flight, and what goes with it, in another's name.
    pub(super) fn overlay_met(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.lane == 0) else { return };
        let Meeting::Met(hello) = &peer.hello else { return };
        if !self.overlay.is_on() || !hello.services.contains(&OVERLAY_CHANNEL) {
            return;
        }
        if peer.overlay_told || !self.sessions.is_confirmed(peer.session) {
            return;
        }
        let card = peer.card;
        if let Some(path) = self.sessions.path(peer.session).filter(|path| !path.is_relayed()) {
            self.peers.get_mut(&id).into_iter().for_each(|peer| peer.overlay_told = true);
            self.say_to_keeper(clock, OverlayCross::Up { peer: card, at: path.remote });
        }
    }

    /// Says something to the keeper.
    pub(super) fn say_to_keeper(&mut self, clock: Clock, message: OverlayCross) {
        self.overlay_cross(clock, FIRST, message);
    }

    /// Says something to a shard, which may be this one.
    pub(super) fn overlay_cross(&mut self, clock: Clock, shard: u8, message: OverlayCross) {
        if shard == self.overlay.shard.0 {
            self.handle_overlay_cross(clock, shard, message);
        } else {
            self.pass(shard, Cross::Overlay(Box::new(message)));
        }
    }

    /// Obeys a shard.
    pub(super) fn handle_overlay_cross(&mut self, clock: Clock, from: u8, message: OverlayCross) {
        if !self.overlay.is_on() {
            return;
        }
        match message {
            OverlayCross::Send { to, bytes, question } => self.send_overlay(clock, &to, bytes, question),
            OverlayCross::Call { card, addresses, answer } => {
                self.call_for_overlay(clock, &card, &addresses, None, answer.then_some(from));
            }
            OverlayCross::Called { peer, up } => {
                self.provider_called(clock, &peer, up);
                self.keeper_called(clock, &peer, up);
            }
            OverlayCross::Nearest { chunk, nodes } => self.keepers_found(clock, &chunk, &nodes),
            OverlayCross::Found { chunk, providers } => self.providers_found(clock, chunk, &providers),
            OverlayCross::Ended(chunk) => self.finding_ended(clock, chunk),
            OverlayCross::Message { .. }
            | OverlayCross::Up { .. }
            | OverlayCross::Down(_)
            | OverlayCross::Failed { .. }
            | OverlayCross::Untried(_)
            | OverlayCross::Gave { .. }
            | OverlayCross::Find(_)
            | OverlayCross::Kept(_)
            | OverlayCross::Near(_)
            | OverlayCross::Stop(_) => {
                let far = self.overlay.on.as_ref().is_some_and(|on| on.far);
                let Some((keeper, at)) = self.overlay.core(clock) else { return };
                keeper.hear(at, from, far, message);
            }
        }
    }

    /// What is due, and what the core wants done.
    pub(super) fn settle_overlay(&mut self, clock: Clock, world: &mut impl World) {
        if !self.overlay.is_on() {
            return;
        }
        if let Some((keeper, at)) = self.overlay.core(clock) {
            keeper.handle_timeout(at);
        }
        self.go_on_finding(clock);
        self.keeper_effects(clock, world);
        if self.overlay.links.sweep_at.is_some_and(|at| at <= clock.now) {
            self.overlay.links.sweep_at =
                Some(clock.now + std::time::Duration::from_millis(OVERLAY_SWEEP_MS));
            self.sweep_overlay_links(clock);
        }
    }
}

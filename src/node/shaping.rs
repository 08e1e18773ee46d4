//! The node's side of the shaper: which peer is behind which of its places, and what the operator allows each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::Budget;
use super::circuits::link;
use super::command::{NodeLimits, PeerLimits, ShapedSnapshot};
use super::line::Measured;
use super::peer::Peer;
use super::promises::Promises;
use super::{Clock, Node};
use crate::base::budget::{Loan, Short, Tokens};
use crate::base::{NodeId, Time};
use crate::limits::{
    CHUNK_SLICES_MAX, DOWN_REQUEST_US, SHAPE_QUANTUM_US, SLICE_SIZE, WEIGHT_MAX, WEIGHT_USUAL,
    WIRE_PACKET_MAX,
};
use crate::service::PeerId;
use crate::shape::{Bucket, Class, ClassStats, Grant, Limits, Shaper, Slot};
use crate::wire::reserve::{Answer, Wanted};

/// Trust that a friend has unless told otherwise: it counts as much as a stranger in its class.
const TRUST_USUAL: u16 = 50;

/// The shaper, and what its places stand for.
pub(super) struct Shaping {
    shaper: Shaper,
    /// The peer at each place.
    peers: Vec<PeerId>,
    limits: BTreeMap<NodeId, PeerLimits>,
    /// What the operator lets it send; the line may carry less.
    allowed: Option<u64>,
    /// The line's rate, where it is measured.
    pub(super) line: Option<Measured>,
    burst: Option<u64>,
    /// What friends asked for and have.
    pub(super) promises: Promises,
    /// A packet of the sessions' own may wait for the node's rate.
    held: bool,
    /// What may be asked for. A request is a debt of its answer.
    down: Bucket,
    /// Something may be wanted, and wait for that.
    down_held: bool,
    /// The rates that the shards of the node share.
    pub(super) budget: Budget,
}

impl Shaping {
    pub(super) fn new(shard: (u8, u8), now: Time) -> Self {
        Self {
            shaper: Shaper::new(now),
            peers: Vec::new(),
            limits: BTreeMap::new(),
            allowed: None,
            line: None,
            burst: None,
            promises: Promises::of_shards(shard.1),
            held: false,
            down: Bucket::UNLIMITED,
            down_held: false,
            budget: Budget::new(shard, now),
        }
    }

    /// Enters a peer; `None` when there is no room.
    pub(super) fn add(
        &mut self,
        now: Time,
        id: PeerId,
        node: &NodeId,
        trust: Option<u8>,
        lane: u16,
    ) -> Option<Slot> {
        let slot = self.shaper.add(now, self.limits_of(node, trust, None))?;
        self.shaper.set_borrowing(now, slot, lane > 0);
        if self.peers.len() <= slot.index() {
            self.peers.resize(slot.index() + 1, id);
        }
        self.peers[slot.index()] = id;
        Some(slot)
    }

    /// What a new peer may be asked for.
    pub(super) fn down_of(&self, now: Time, node: &NodeId) -> Bucket {
        let rate = self.limits.get(node).and_then(|own| own.down);
        rate.map_or(Bucket::UNLIMITED, |rate| Bucket::new(now, rate, None, SHAPE_QUANTUM_US))
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.shaper.remove(slot);
    }

    /// What is known of a peer may have changed.
    fn know(
        &mut self,
        now: Time,
        slot: Slot,
        node: &NodeId,
        (trust, introduced): (Option<u8>, Option<u8>),
        last: bool,
    ) {
        let mut limits = self.limits_of(node, trust, introduced);
        if last && trust.is_none() {
            limits.base = Class::Background;
        }
        if limits != self.shaper.limits(slot) {
            self.shaper.limit(now, slot, limits);
        }
        let (own, asked) =
            (self.limits.get(node).and_then(|own| own.reserved), trust.and_then(|_| self.promises.of(node)));
        // What the operator promises and what the peer asked for are no sum.
        let promised = own.into_iter().chain(asked).max_by_key(|promise| promise.rate);
        let before = self.shaper.reservation(slot);
        if promised != before {
            self.shaper.reserve(now, slot, promised);
            // What a peer asked for begins without its burst: else whoever gives it back and asks again had one each time.
            if let (None, Some(asked)) = (before, asked.filter(|asked| promised == Some(*asked))) {
                self.shaper.spend_burst(now, slot, asked.burst);
            }
        }
    }

    /// What the operator said of a peer.
    pub(super) fn limits_for(&self, node: &NodeId) -> PeerLimits {
        self.limits.get(node).copied().unwrap_or_default()
    }

    /// Looks at what a friend asks to be promised.
    pub(super) fn decide(&mut self, now: Time, node: NodeId, wanted: &Wanted) -> Answer {
        self.promises.decide(now, node, wanted, &self.limits)
    }

    /// Takes back what was promised to those to whom nothing is any more.
    pub(super) fn revoke(&mut self) -> Vec<NodeId> {
        self.promises.revoke(&self.limits)
    }

    fn limits_of(&self, node: &NodeId, trust: Option<u8>, introduced: Option<u8>) -> Limits {
        let own = self.limits.get(node).copied().unwrap_or_default();
        // Whom friends introduced is no friend, but more than anybody: up to twice as much.
        let others = WEIGHT_USUAL + u16::from(introduced.unwrap_or(0)) * WEIGHT_USUAL / 100;
        let standing = trust.map_or(others, |trust| u16::from(trust) * WEIGHT_USUAL / TRUST_USUAL);
        let base = match trust {
            _ if own.background => Class::Background,
            Some(_) => Class::Friend,
            None => Class::Market,
        };
        Limits {
            cap: own.up,
            floor: own.floor,
            burst: own.burst,
            weight: own.weight.unwrap_or(standing).clamp(1, WEIGHT_MAX),
            base,
        }
    }

    /// Who may send, and how much.
    #[inline]
    pub(super) fn next(&mut self, now: Time) -> Option<(Grant, PeerId)> {
        let grant = self.shaper.next(now)?;
        Some((grant, self.peers[grant.peer.index()]))
    }

    #[inline]
    pub(super) fn settle(&mut self, now: Time, grant: Grant, bytes: u64, more: bool) {
        self.shaper.settle(now, grant, bytes, more);
    }

    #[inline]
    pub(super) fn ready_data(&mut self, now: Time, slot: Slot) {
        // What was promised to a peer is for whatever it gets.
        let promised = self.shaper.reservation(slot).is_some();
        let class = if promised { Class::Realtime } else { self.shaper.base(slot) };
        self.shaper.ready(now, slot, class);
    }

    #[inline]
    pub(super) fn ready_control(&mut self, now: Time, slot: Slot) {
        self.shaper.ready(now, slot, Class::Control);
    }

    /// Whether a peer has a cap, a floor or a promise of its own.
    fn is_limited(&self, slot: Slot) -> bool {
        let limits = self.shaper.limits(slot);
        limits.cap.is_some() || limits.floor.is_some() || self.shaper.reservation(slot).is_some()
    }

    #[inline]
    pub(super) fn is_free(&self, slot: Slot) -> bool {
        self.shaper.is_free(slot)
    }

    /// The next lane that has run out of what it borrows.
    #[inline]
    pub(super) fn poll_short(&mut self) -> Option<(PeerId, Short)> {
        let (slot, short) = self.shaper.poll_short()?;
        Some((self.peers[slot.index()], short))
    }

    /// Lends another lane of what a peer may be sent and is owed.
    pub(super) fn lend(&mut self, now: Time, slot: Slot, short: Short) -> Option<Loan> {
        self.shaper.lend(now, slot, short)
    }

    /// When there is something to lend.
    pub(super) fn lend_at(&mut self, now: Time, slot: Slot, short: Short) -> Option<Time> {
        self.shaper.lend_at(now, slot, short)
    }

    /// A lane was lent something.
    pub(super) fn feed(&mut self, now: Time, slot: Slot, loan: Loan) {
        self.shaper.feed(now, slot, loan);
    }

    /// Whether a packet of the sessions' own may leave now; if not, it is asked again in time.
    pub(super) fn may_control(&mut self, now: Time) -> bool {
        self.held = !self.shaper.may_control(now);
        !self.held
    }

    /// Packets of tunnels and circuits left without having waited: they count.
    pub(super) fn charge_unasked(&mut self, now: Time, slot: Slot, bytes: u64) {
        let class = self.shaper.base(slot);
        self.shaper.charge(now, Some(slot), class, bytes);
    }

    /// What became of a peer's packets where they waited.
    pub(super) fn note_queue(&mut self, slot: Slot, dropped: u64, marked: u64) {
        self.shaper.note_queue(slot, dropped, marked);
    }

    /// How long a full packet takes at a peer's cap.
    pub(super) fn packet_time(&self, slot: Slot) -> Duration {
        let cap = self.shaper.limits(slot).cap.or(self.rate());
        cap.map_or(Duration::ZERO, |cap| Duration::from_nanos(WIRE_PACKET_MAX * 8_000_000_000 / cap.max(1)))
    }

    /// When the line is looked at again.
    pub(super) fn line_at(&self) -> Option<Time> {
        self.line.as_ref().map(Measured::poll_timeout)
    }

    /// What the line carries, as far as is known; configured or measured.
    pub(super) fn rate(&self) -> Option<u64> {
        self.promises.up
    }

    /// Bytes on the wire that left so far.
    pub(super) fn sent(&self) -> u64 {
        Class::ALL.iter().map(|class| self.shaper.class_stats(*class).sent_bytes).sum()
    }

    /// The node may send so much from now on.
    /// What may be sent: what is allowed, and no more than the line carries.
    pub(super) fn up_with(&self, line: Option<u64>) -> Option<u64> {
        [self.allowed, line].into_iter().flatten().min()
    }

    pub(super) fn set_up(&mut self, now: Time, up: Option<u64>) {
        self.promises.up = up;
        self.budget.set_up(now, &mut self.shaper, up, self.burst);
    }

    pub(super) fn charge_control(&mut self, now: Time, bytes: u64) {
        self.shaper.charge(now, None, Class::Control, bytes);
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let held = if self.held { self.shaper.may_control_at() } else { None };
        let down = if self.down_held { self.down.holds_at(1) } else { None };
        let shared = self.budget.poll_timeout(&self.shaper);
        let promises = self.promises.poll_timeout();
        [self.shaper.poll_timeout(), held, down, shared, promises, self.line_at()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.budget.handle_timeout(now, &mut self.shaper);
    }

    /// The owner of the node's rates gave something.
    pub(super) fn got(&mut self, up: Tokens, down: Tokens) {
        self.budget.got(&mut self.shaper, up, down);
    }

    /// Whether something that is `wanted` may be asked of others now; if not, it is asked again in time.
    pub(super) fn may_ask(&mut self, now: Time, wanted: bool) -> bool {
        self.down_held = false;
        if !wanted {
            return false;
        }
        if self.budget.shares_down() {
            return self.budget.may_ask();
        }
        self.down.fill(now);
        self.down_held = !self.down.holds(1);
        !self.down_held
    }

    /// An answer of so many bytes was asked for: they are on their way from now on.
    pub(super) fn asked(&mut self, now: Time, bytes: u64) {
        if self.budget.shares_down() {
            self.budget.asked(bytes);
        }
        self.down.take(now, bytes);
    }

    /// `wire` bytes came, of which `asked` had been asked for and counted then.
    #[inline]
    pub(super) fn came(&mut self, now: Time, wire: u64, asked: u64) {
        if !self.down.is_unlimited() || self.budget.shares_down() {
            self.asked(now, wire.saturating_sub(asked));
        }
    }

    /// One peer, to be shown.
    pub(super) fn snapshot(&self, now: Time, peer: &Peer) -> ShapedSnapshot {
        let slot = peer.slot;
        let (limits, stats) = (self.shaper.limits(slot), self.shaper.peer_stats(now, slot));
        ShapedSnapshot {
            wire_sent_bytes: stats.sent_bytes,
            waiting: stats.waiting,
            queued_bytes: 0,
            delay_us: stats.delay.as_micros() as u64,
            queue_dropped: 0,
            queue_marked: 0,
            class: Some(limits.base),
            weight: limits.weight,
            cap: limits.cap,
            floor: limits.floor,
            reserved: self.shaper.reservation(slot).map(|promise| promise.rate),
            reserved_left_s: self.asked_left(now, peer).map(|left| left.as_secs()),
            asked: peer.asking.as_ref().map(|asking| asking.snapshot(now)),
            overuse_bytes: stats.overuse_bytes,
        }
    }

    /// For how long a peer has what it has, when it has that by asking.
    fn asked_left(&self, now: Time, peer: &Peer) -> Option<Duration> {
        let node = peer.node;
        let asked = self.promises.of(&node)?;
        (self.shaper.reservation(peer.slot) == Some(asked)).then(|| self.promises.left(now, &node)).flatten()
    }

    /// All classes, to be shown.
    pub(super) fn classes(&self) -> Vec<(Class, ClassStats)> {
        Class::ALL.map(|class| (class, self.shaper.class_stats(class).clone())).to_vec()
    }
}

/// As many slices as a rate brings in [`DOWN_REQUEST_US`]: one request asks for no more, so that an answer is no burst.
fn slices_for(rate: Option<u64>) -> usize {
    let bytes =
        rate.map_or(u64::MAX, |rate| (u128::from(rate) * u128::from(DOWN_REQUEST_US) / 8_000_000) as u64);
    (bytes / SLICE_SIZE as u64).clamp(1, CHUNK_SLICES_MAX as u64) as usize
}

impl Node {
    /// Other limits hold from now on; what is under way goes on.
    pub(super) fn set_limits(&mut self, clock: Clock, limits: NodeLimits) {
        let now = clock.now;
        let least = limits.peers.iter().filter_map(|(_, own)| own.down).chain(limits.down).min();
        self.shaping.limits = limits.peers.into_iter().collect();
        self.shaping.promises.share_milli = limits.asked_share_milli;
        self.revoke_promises();
        let shaping = &mut self.shaping;
        let (sent, begins) = (shaping.sent(), limits.measure && shaping.line.is_none());
        shaping.line =
            limits.measure.then(|| shaping.line.take().unwrap_or_else(|| Measured::new(now, sent)));
        shaping.allowed = limits.up;
        let up = shaping.up_with(shaping.line.as_ref().and_then(Measured::rate));
        (shaping.promises.up, shaping.burst) = (up, limits.burst);
        shaping.budget.set(now, &mut shaping.shaper, up, limits.down, limits.burst);
        let own = if shaping.budget.shares_down() { None } else { limits.down };
        shaping.down.change(now, own, None, SHAPE_QUANTUM_US);
        self.fetch.set_slices_per_request(slices_for(least));
        if begins {
            self.begin_line();
        }
        for (id, peer) in &mut self.peers {
            let node = peer.node;
            let own = self.shaping.limits.get(&node).copied().unwrap_or_default();
            if own.down != peer.down.rate() {
                peer.down.change(now, own.down, None, SHAPE_QUANTUM_US);
                peer.down.set_fed(now, peer.lane > 0);
                self.fetch.pause(*id, None);
            }
            self.touched.push(*id);
        }
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in all {
            self.know(now, id);
            self.ask_promise(clock, id);
        }
    }

    /// What is known of a peer may have changed: what it may and is owed, and where its lanes are.
    pub(super) fn know(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        // Chunks for strangers are what can wait; circuits of theirs are not.
        let last = peer.asks && !self.circuits.called.contains(&id) && !self.circuits.onion.uses(link(id));
        let introduced = self.introducing.acquaintances.trust(&peer.card.key);
        self.shaping.know(now, peer.slot, &peer.node, (peer.trust, introduced), last);
        if peer.lane == 0 {
            // What has a limit is best kept to in one place.
            let limited = self.shaping.is_limited(peer.slot);
            self.sessions.keep_lanes_here(now, peer.session, limited);
        }
    }
}

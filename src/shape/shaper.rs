//! The scheduler: who may send how much now, and when to ask again.
//!
//! Each peer is in at most one place of each kind, and every step between places is O(1):
//!
//! ```text
//!              ready ─▶ cap empty? ──yes──▶ wheel ─┐ (the peer's one node)
//!                          │no          ◀──────────┘
//!        ┌─────────────────┼──────────────────┬───────────────┐
//!     control          calendar            floors           rings          what next() looks at,
//!  (policed, FIFO)  (reserved, by       (owed their      (friend, market,   in this order
//!                     deadline)           floor, FIFO)    background: DRR)
//! ```
//!
//! A peer whose floor or reservation has run dry for the moment stays in its ring, and its node on the wheel says when it
//! is owed again. A floor that nobody uses costs nothing: it is an order among those who wait, not a rate kept free.

use std::time::Duration;

use super::bucket::Bucket;
use super::calendar::Calendar;
use super::lease::Lease;
use super::links::{Links, Ring};
use super::peer::{ALIVE, DATA, Extra, FLOOR_DRY, LENT, Peer, RESERVE_DRY, RINGS, SPECIAL};
use super::place::class_of;
use super::types::{By, CLASSES, Class, ClassStats, Grant, Limits, PeerStats, Reservation, Slot};
use super::wheel::Wheel;
use crate::base::Time;
use crate::limits::{
    CONTROL_SHARE_MILLI_MAX, CONTROL_WIRE_MIN, SHAPE_NODE_QUANTUM_US, SHAPE_QUANTUM_US, SHAPED_PEERS_MAX,
    URGENT_SHARE_MILLI_MAX, WEIGHT_MAX, WEIGHT_USUAL, WIRE_PACKET_MAX, WIRE_TRAIN_MAX,
};

/// The scheduler of one shard.
#[derive(Debug)]
pub struct Shaper {
    pub(super) peers: Vec<Peer>,
    pub(super) extra: Vec<Extra>,
    pub(super) free: Vec<u32>,
    pub(super) live: usize,
    pub(super) wheel: Wheel,
    pub(super) calendar: Calendar,
    /// Links of the calendar's slots and of `floors`: a peer is in one of them at most.
    pub(super) urgent: Links,
    pub(super) floors: Ring,
    pub(super) share: Links,
    pub(super) rings: [Ring; RINGS.len()],
    pub(super) ring_deficits: [i64; RINGS.len()],
    pub(super) turn: usize,
    pub(super) controls: Links,
    pub(super) control: Ring,
    pub(super) node: Bucket,
    pub(super) node_dry: bool,
    /// Polices control: what exceeds it waits with the rest.
    pub(super) control_share: Bucket,
    /// Polices reservations and floors together.
    pub(super) urgent_share: Bucket,
    /// What a peer of the usual weight may send per turn, bytes.
    pub(super) quantum: i64,
    pub(super) stats: [ClassStats; CLASSES],
    /// Weights of those in each ring.
    pub(super) ring_weights: [u32; RINGS.len()],
    /// The node's rate is another shard's to hand out.
    pub(super) lease: Option<Lease>,
    /// Places that have run out of what they borrow.
    pub(super) short: Vec<Slot>,
}

impl Shaper {
    /// No peers, and no limit of the node.
    pub fn new(now: Time) -> Self {
        Self {
            peers: Vec::new(),
            extra: Vec::new(),
            free: Vec::new(),
            live: 0,
            wheel: Wheel::new(now),
            calendar: Calendar::new(now),
            urgent: Links::default(),
            floors: Ring::EMPTY,
            share: Links::default(),
            rings: [Ring::EMPTY; RINGS.len()],
            ring_deficits: [0; RINGS.len()],
            turn: 0,
            controls: Links::default(),
            control: Ring::EMPTY,
            node: Bucket::UNLIMITED,
            node_dry: false,
            control_share: Bucket::UNLIMITED,
            urgent_share: Bucket::UNLIMITED,
            quantum: WIRE_TRAIN_MAX as i64,
            stats: Default::default(),
            ring_weights: [0; RINGS.len()],
            lease: None,
            short: Vec::new(),
        }
    }

    /// Bytes of memory per peer, links included.
    pub const BYTES_PER_PEER: usize = size_of::<Peer>() + size_of::<Extra>() + 3 * 8 + (8 + 8) + 2 + 4;

    /// Sets the node's rate, bits per second, and its burst, bytes. At once: what is queued stays where it is.
    pub fn set_node(&mut self, now: Time, rate: Option<u64>, burst: Option<u64>) {
        self.node.change_node(now, rate, burst);
        let part = |milli: u64| rate.map(|rate| (u128::from(rate) * u128::from(milli) / 1000) as u64);
        self.control_share.change(now, part(CONTROL_SHARE_MILLI_MAX), None, SHAPE_QUANTUM_US);
        self.urgent_share.change(now, part(URGENT_SHARE_MILLI_MAX), None, SHAPE_QUANTUM_US);
        let given = rate.map_or(WIRE_TRAIN_MAX, |rate| rate / 8 * SHAPE_NODE_QUANTUM_US / 1_000_000);
        self.quantum = given.clamp(WIRE_PACKET_MAX, WIRE_TRAIN_MAX) as i64;
    }

    /// The node's rate, bits per second.
    pub fn node_rate(&self) -> Option<u64> {
        self.node.rate()
    }

    /// Adds a peer with nothing to send; `None` when the table is full.
    pub fn add(&mut self, now: Time, limits: Limits) -> Option<Slot> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.peers.len() < SHAPED_PEERS_MAX => {
                let index = self.peers.len() as u32;
                self.peers.push(Peer::new());
                self.extra.push(Extra::new());
                let len = self.peers.len();
                self.wheel.grow(len);
                self.calendar.grow(len);
                self.urgent.grow(len);
                self.share.grow(len);
                self.controls.grow(len);
                index
            }
            None => return None,
        };
        self.live += 1;
        self.peers[index as usize] = Peer { flags: ALIVE, ..Peer::new() };
        self.extra[index as usize] = Extra::new();
        // Its cap begins empty: else whoever connects over and over had a burst each time.
        if let Some(rate) = limits.floor {
            self.extra[index as usize].floor = Bucket::new(now, rate, None, SHAPE_QUANTUM_US);
        }
        self.limit(now, Slot(index), limits);
        Some(Slot(index))
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: Slot) {
        let index = peer.0 as usize;
        assert!(self.peers[index].flags & ALIVE != 0, "a peer is removed once");
        self.peers[index].waiting = 0;
        self.leave_all(peer.0);
        self.peers[index].flags = 0;
        self.free.push(peer.0);
        self.live -= 1;
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Changes what a peer may and is owed, at once: it keeps its place, and what it has saved up as far as the new limits
    /// hold it.
    pub fn limit(&mut self, now: Time, peer: Slot, limits: Limits) {
        // Its weight counts in the ring that it is in.
        self.leave_ring(peer.0);
        let (hot, extra) = (&mut self.peers[peer.index()], &mut self.extra[peer.index()]);
        hot.cap.change_cap(now, limits.cap, limits.burst);
        hot.weight = limits.weight.clamp(1, WEIGHT_MAX);
        let before = Class::ALL[usize::from(hot.base)];
        let base = match limits.base {
            Class::Control | Class::Realtime => Class::Market,
            base => base,
        };
        hot.base = base as u8;
        for bits in [&mut hot.waiting, &mut hot.fresh] {
            // What waits as what the peer was waits as what it is.
            if *bits & before.bit() != 0 {
                *bits = *bits & !before.bit() | base.bit();
            }
        }
        owe(&mut extra.floor, now, limits.floor, None);
        extra.limits = limits;
        self.feed_if_borrowed(now, peer);
        self.note_special(peer);
        self.place(now, peer.0);
    }

    /// Gives a peer a reservation, or takes it back. Admission is [`super::Admission`]'s.
    pub fn reserve(&mut self, now: Time, peer: Slot, reservation: Option<Reservation>) {
        let extra = &mut self.extra[peer.index()];
        owe(&mut extra.reserve, now, reservation.map(|r| r.rate), reservation.map(|r| r.burst));
        extra.reservation = reservation;
        self.feed_if_borrowed(now, peer);
        self.note_special(peer);
        self.place(now, peer.0);
    }

    /// Takes a burst from what a peer's reservation has saved up.
    pub fn spend_burst(&mut self, now: Time, peer: Slot, bytes: u64) {
        let extra = &mut self.extra[peer.index()];
        extra.reserve.take_what_is_there(now, bytes.max(2 * WIRE_TRAIN_MAX));
        self.note_special(peer);
        self.place(now, peer.0);
    }

    pub(super) fn note_special(&mut self, peer: Slot) {
        let (hot, extra) = (&mut self.peers[peer.index()], &self.extra[peer.index()]);
        hot.flags &= !(SPECIAL | FLOOR_DRY | RESERVE_DRY);
        if !extra.floor.is_nothing() || !extra.reserve.is_nothing() {
            hot.flags |= SPECIAL;
        }
    }

    /// A peer's limits.
    pub fn limits(&self, peer: Slot) -> Limits {
        self.extra[peer.index()].limits
    }

    /// What was promised to a peer.
    pub fn reservation(&self, peer: Slot) -> Option<Reservation> {
        self.extra[peer.index()].reservation
    }

    /// The class of what is none of the others.
    #[inline]
    pub fn base(&self, peer: Slot) -> Class {
        Class::ALL[usize::from(self.peers[peer.index()].base)]
    }

    /// Whether neither the node nor the peer has a limit: what is ready leaves at once.
    #[inline]
    pub fn is_free(&self, peer: Slot) -> bool {
        self.lease.is_none() && self.node.is_unlimited() && self.peers[peer.index()].cap.is_unlimited()
    }

    /// A peer's figures.
    pub fn peer_stats(&self, now: Time, peer: Slot) -> PeerStats {
        let hot = &self.peers[peer.index()];
        let waits = hot.waiting & hot.fresh & DATA != 0;
        PeerStats {
            sent_bytes: hot.sent,
            waiting: hot.waiting != 0,
            delay: if waits { now.since(hot.since) } else { Duration::ZERO },
            overuse_bytes: self.extra[peer.index()].overuse,
        }
    }

    /// Packets of a peer's usual class were dropped or marked where they waited: counted, no more.
    pub fn note_queue(&mut self, peer: Slot, dropped: u64, marked: u64) {
        let stats = &mut self.stats[usize::from(self.peers[peer.index()].base)];
        stats.dropped += dropped;
        stats.marked += marked;
    }

    /// The figures of a class.
    pub fn class_stats(&self, class: Class) -> &ClassStats {
        &self.stats[class as usize]
    }

    /// A peer has something to send in a class. [`Class::Friend`] to [`Class::Background`] are kept as they are said;
    /// see [`Limits::base`] for what is the usual one.
    #[inline]
    pub fn ready(&mut self, now: Time, peer: Slot, class: Class) {
        let hot = &mut self.peers[peer.index()];
        debug_assert!(hot.flags & ALIVE != 0, "it was removed");
        if hot.waiting & class.bit() != 0 {
            return;
        }
        if class == Class::Control {
            hot.control_since = micros(now);
            hot.fresh |= class.bit();
        } else if hot.waiting & DATA == 0 {
            hot.since = now;
            hot.fresh |= class.bit();
        }
        // Beside other data nobody knows since when: how long it waits is not measured then.
        hot.waiting |= class.bit();
        self.place(now, peer.0);
    }

    /// A peer has nothing to send in a class any more.
    pub fn idle(&mut self, now: Time, peer: Slot, class: Class) {
        let hot = &mut self.peers[peer.index()];
        if hot.waiting & class.bit() != 0 {
            hot.waiting &= !class.bit();
            hot.fresh &= !class.bit();
            self.place(now, peer.0);
        }
    }

    /// What may leave now; [`Self::settle`] it before the next call.
    #[inline]
    pub fn next(&mut self, now: Time) -> Option<Grant> {
        while let Some(peer) = self.wheel.pop(now) {
            self.place(now, peer);
        }
        if self.lease.is_some() {
            return self.next_leased(now);
        }
        self.node.fill(now);
        if !self.control.is_empty() && self.node.holds(CONTROL_WIRE_MIN) {
            self.control_share.fill(now);
            if self.control_share.holds(CONTROL_WIRE_MIN) {
                let allowed = self.node.available().min(self.control_share.available());
                return Some(self.next_control(now, allowed));
            }
        }
        if !self.node.is_ready(self.node_dry) {
            self.node_dry = true;
            return None;
        }
        self.node_dry = false;
        if (!self.calendar.is_empty() || !self.floors.is_empty()) && self.may_urgent(now) {
            return Some(self.next_urgent(now, self.node.available()));
        }
        let ring = self.ring_in_turn()?;
        Some(self.next_share(ring, self.node.available()))
    }

    pub(super) fn next_control(&mut self, now: Time, allowed: u64) -> Grant {
        let peer = self.control.first();
        let hot = &mut self.peers[peer as usize];
        hot.cap.fill(now);
        let bytes = hot.cap.available().min(allowed).min(WIRE_PACKET_MAX);
        Grant { peer: Slot(peer), class: Class::Control, bytes, by: By::Control }
    }

    /// Whether reservations and floors leave something to the others. With nobody else waiting there is nothing to leave.
    fn may_urgent(&mut self, now: Time) -> bool {
        self.urgent_share.fill(now);
        let alone = self.rings.iter().all(|ring| ring.is_empty());
        alone || self.urgent_share.holds(WIRE_PACKET_MAX)
    }

    /// By deadline, then those who are owed their floor.
    pub(super) fn next_urgent(&mut self, now: Time, allowed: u64) -> Grant {
        let (peer, by) = match self.calendar.first(now) {
            Some(peer) => (peer, By::Reservation),
            None => (self.floors.first(), By::Floor),
        };
        let hot = &mut self.peers[peer as usize];
        let extra = &mut self.extra[peer as usize];
        hot.cap.fill(now);
        let own = if by == By::Reservation { &mut extra.reserve } else { &mut extra.floor };
        own.fill(now);
        let bytes = own.available().min(hot.cap.available()).min(allowed).min(WIRE_TRAIN_MAX);
        let class = if by == By::Reservation { Class::Realtime } else { class_of(hot.waiting) };
        Grant { peer: Slot(peer), class, bytes, by }
    }

    /// Deficit round robin among the peers of a ring, by weight.
    #[inline]
    pub(super) fn next_share(&mut self, ring: usize, allowed: u64) -> Grant {
        self.turn = ring;
        let alone = self.share.is_single(self.rings[ring]);
        loop {
            let peer = self.rings[ring].first();
            let hot = &mut self.peers[peer as usize];
            if !alone && hot.deficit <= 0 {
                let turn = self.quantum * i64::from(hot.weight) / i64::from(WEIGHT_USUAL);
                hot.deficit += turn as i32;
                self.share.rotate(&mut self.rings[ring]);
                continue;
            }
            let turn = if alone { WIRE_TRAIN_MAX } else { (hot.deficit.max(0) as u64).max(WIRE_PACKET_MAX) };
            let bytes = turn.min(hot.cap.available()).min(allowed).min(WIRE_TRAIN_MAX);
            let class = class_of(hot.waiting);
            return Grant { peer: Slot(peer), class, bytes, by: By::Share };
        }
    }

    #[inline]
    fn ring_in_turn(&mut self) -> Option<usize> {
        let used = |rings: &[Ring; RINGS.len()]| rings.iter().filter(|ring| !ring.is_empty()).count();
        match used(&self.rings) {
            0 => None,
            1 => {
                self.turn = self.rings.iter().position(|ring| !ring.is_empty())?;
                // Nothing is saved up or owed while nobody else waits.
                self.ring_deficits = [0; RINGS.len()];
                Some(self.turn)
            }
            _ => loop {
                let turn = self.turn;
                if self.rings[turn].is_empty() {
                    self.ring_deficits[turn] = 0;
                } else if self.ring_deficits[turn] > 0 {
                    return Some(turn);
                } else {
                    self.ring_deficits[turn] += RINGS[turn].1 * self.quantum;
                }
                self.turn = (turn + 1) % RINGS.len();
            },
        }
    }

    /// `bytes` left on a grant, and whether the peer has `more` in its class.
    #[inline]
    pub fn settle(&mut self, now: Time, grant: Grant, bytes: u64, more: bool) {
        let index = grant.peer.index();
        match &mut self.lease {
            Some(lease) => lease.spend(bytes),
            None => self.node.take(now, bytes),
        }
        let hot = &mut self.peers[index];
        hot.cap.take(now, bytes);
        let bit = grant.class.bit();
        if bytes > 0 {
            hot.flags &= !LENT;
            // What exceeds a reservation is the peer's other traffic.
            let beyond = grant.class == Class::Realtime && grant.by != By::Reservation;
            let stats = &mut self.stats[if beyond { usize::from(hot.base) } else { grant.class as usize }];
            stats.sent_bytes += bytes;
            stats.grants += 1;
            if hot.fresh & bit != 0 {
                hot.fresh &= !bit;
                let control = u64::from(micros(now).wrapping_sub(hot.control_since));
                let waited = now.since(hot.since);
                let is_control = grant.class == Class::Control;
                stats.delay.add(if is_control { Duration::from_micros(control) } else { waited });
            }
            hot.sent += bytes;
        }
        match grant.by {
            By::Control => {
                self.control_share.take(now, bytes);
                self.controls.rotate(&mut self.control);
            }
            By::Reservation | By::Floor => self.urgent_share.take(now, bytes),
            By::Share => {
                // While nobody else waits nothing is saved up or owed: what was sent then is no debt to who comes later.
                hot.deficit = if self.share.is_single(self.rings[self.turn]) {
                    0
                } else {
                    hot.deficit.saturating_sub(bytes as i32).max(-(WIRE_TRAIN_MAX as i32))
                };
                // While another shard hands the rate out, it decides whose turn it is.
                if self.lease.is_none() {
                    self.ring_deficits[self.turn] -= bytes as i64;
                }
            }
        }
        if hot.flags & SPECIAL != 0 {
            self.charge_special(now, grant, bytes);
        }
        let hot = &mut self.peers[index];
        if !more {
            hot.waiting &= !bit;
            hot.fresh &= !bit;
            if hot.waiting == 0 {
                hot.deficit = hot.deficit.min(0);
            }
        } else if grant.class != Class::Control && bytes == 0 {
            // It could not use what it got, and would be asked again at once for ever.
            debug_assert!(false, "a grant that is not used and not given up");
            hot.waiting &= !bit;
        }
        if grant.by == By::Share && hot.deficit <= 0 && self.rings[self.turn].first() == grant.peer.0 {
            self.share.rotate(&mut self.rings[self.turn]);
        }
        self.place(now, grant.peer.0);
    }

    /// A floor is what a peer gets by whatever right; a reservation is for its own class.
    fn charge_special(&mut self, now: Time, grant: Grant, bytes: u64) {
        let extra = &mut self.extra[grant.peer.index()];
        match grant.by {
            By::Floor => extra.floor.take(now, bytes),
            _ => extra.floor.take_what_is_there(now, bytes),
        }
        if grant.by == By::Reservation {
            extra.reserve.take(now, bytes);
        } else if grant.class == Class::Realtime {
            extra.overuse += bytes;
        }
    }

    /// Bytes that left without a grant, such as handshakes: they count, and others wait for them.
    pub fn charge(&mut self, now: Time, peer: Option<Slot>, class: Class, bytes: u64) {
        match &mut self.lease {
            Some(lease) => lease.spend_on(Class::Control, bytes),
            None => self.node.take(now, bytes),
        }
        if class == Class::Control {
            self.control_share.take(now, bytes);
        }
        let stats = &mut self.stats[class as usize];
        stats.sent_bytes += bytes;
        stats.grants += 1;
        if let Some(peer) = peer {
            self.peers[peer.index()].cap.take(now, bytes);
            self.peers[peer.index()].sent += bytes;
        }
    }

    /// Whether a control packet without a peer may leave now; else [`Self::may_control_at`].
    pub fn may_control(&mut self, now: Time) -> bool {
        if let Some(lease) = &self.lease {
            return lease.holds(Class::Control, WIRE_PACKET_MAX);
        }
        self.node.fill(now);
        self.control_share.fill(now);
        let others = self.is_anybody_served();
        self.node.holds(WIRE_PACKET_MAX) && (!others || self.control_share.holds(WIRE_PACKET_MAX))
    }

    /// When such a packet may leave.
    pub fn may_control_at(&self) -> Option<Time> {
        // Tokens come when they come.
        let node = self.lease.is_none().then(|| self.node.holds_at(WIRE_PACKET_MAX))??;
        let share =
            if self.is_anybody_served() { self.control_share.holds_at(WIRE_PACKET_MAX)? } else { node };
        Some(node.max(share))
    }

    pub(super) fn is_anybody_served(&self) -> bool {
        !self.control.is_empty()
            || !self.calendar.is_empty()
            || !self.floors.is_empty()
            || self.rings.iter().any(|ring| !ring.is_empty())
    }

    /// When [`Self::next`] should be asked again; `None` when only new traffic or new limits can change its answer.
    pub fn poll_timeout(&self) -> Option<Time> {
        let node = (self.lease.is_none() && self.is_anybody_served()).then(|| self.node_ready_at()).flatten();
        [node, self.wheel.next()].into_iter().flatten().min()
    }

    /// When the node's rate lets something leave that it does not let now.
    fn node_ready_at(&self) -> Option<Time> {
        let data = if self.node.is_ready(self.node_dry) { None } else { self.node.ready_at() };
        // Control waits for less; what is policed waits with the data.
        let holds = self.node.holds(CONTROL_WIRE_MIN) && self.control_share.holds(CONTROL_WIRE_MIN);
        let control = if self.control.is_empty() || holds {
            None
        } else {
            let share = self.control_share.holds_at(CONTROL_WIRE_MIN);
            share.and_then(|share| Some(self.node.holds_at(CONTROL_WIRE_MIN)?.max(share)))
        };
        [data, control].into_iter().flatten().min()
    }
}

/// Truncated: differences below an hour are right.
#[inline]
fn micros(now: Time) -> u32 {
    (now.0 / 1000) as u32
}

/// Sets what a peer is owed; a new promise begins with its burst.
fn owe(bucket: &mut Bucket, now: Time, rate: Option<u64>, burst: Option<u64>) {
    match rate {
        None => *bucket = Bucket::NOTHING,
        Some(rate) if bucket.is_nothing() => {
            *bucket = Bucket::new(now, rate, burst, SHAPE_QUANTUM_US);
        }
        Some(rate) => bucket.change(now, Some(rate), burst, SHAPE_QUANTUM_US),
    }
}

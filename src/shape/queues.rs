//! Queues for what cannot wait anywhere else: packets of tunnels, cells of circuits. One bounded pool for all of a
//! shard, a chain of slots per queue, CoDel at each queue's head; and when the pool is full, the longest queue pays.
//!
//! The longest is found without looking at the others: queues stand in rings by the octave of their bytes, with a bitmap
//! of the octaves in use, so that what is dropped comes from a queue within a factor of two of the longest.

use std::time::Duration;

use super::codel::Codel;
use super::links::{Links, NONE, Ring};
use super::types::Slot;
use crate::base::Time;
use crate::limits::{SHAPED_PACKETS_MAX, SHAPED_PACKETS_PER_QUEUE_MAX};

const OCTAVES: usize = 32;
/// Marks have not helped when a packet waited for so many times what it should: two of CoDel's intervals.
const CODEL_HOPELESS: u32 = 40;
/// Nor when so many were not enough to end one episode: by then there are 60 in a second.
const CODEL_MARKS_MAX: u32 = 32;

#[derive(Debug)]
struct Place<T> {
    item: Option<T>,
    bytes: u32,
    next: u32,
    came: Time,
}

#[derive(Debug, Clone)]
struct Queue {
    head: u32,
    tail: u32,
    bytes: u32,
    packets: u16,
    /// The ring that it stands in.
    octave: u8,
    codel: Codel,
    stats: QueueStats,
}

/// Figures of one queue, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets taken in.
    pub packets: u64,
    /// Dropped by CoDel.
    pub late: u64,
    /// Marked by CoDel, which would have dropped them otherwise.
    pub marked: u64,
    /// Dropped for want of room.
    pub full: u64,
}

/// One queue per peer of a shaper, over one pool. `T` names what waits: a slot of memory, or bytes.
#[derive(Debug)]
pub struct Queues<T> {
    places: Vec<Place<T>>,
    free: u32,
    queues: Vec<Queue>,
    links: Links,
    rings: [Ring; OCTAVES],
    used: u32,
    bound: usize,
    stats: QueueStats,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self::new(SHAPED_PACKETS_MAX)
    }
}

impl<T> Queues<T> {
    /// Empty queues that hold at most `bound` packets together.
    pub fn new(bound: usize) -> Self {
        Self {
            places: Vec::new(),
            free: NONE,
            queues: Vec::new(),
            links: Links::default(),
            rings: [Ring::EMPTY; OCTAVES],
            used: 0,
            bound: bound.max(1),
            stats: QueueStats::default(),
        }
    }

    /// Bytes of memory per peer and per packet that waits, without the packet.
    pub const BYTES: (usize, usize) = (size_of::<Queue>() + 8, size_of::<Place<T>>());

    fn queue(&mut self, peer: Slot) -> usize {
        let index = peer.index();
        if index >= self.queues.len() {
            self.queues.resize(
                index + 1,
                Queue {
                    head: NONE,
                    tail: NONE,
                    bytes: 0,
                    packets: 0,
                    octave: 0,
                    codel: Codel::default(),
                    stats: QueueStats::default(),
                },
            );
            self.links.grow(index + 1);
        }
        index
    }

    /// Adds a packet of `bytes` on the wire. What had to make room for it comes back: the head of the longest queue, or
    /// the packet itself when its own queue is full.
    pub fn push(&mut self, now: Time, peer: Slot, item: T, bytes: u32) -> Option<(Slot, T)> {
        let queue = self.queue(peer);
        if self.queues[queue].packets >= SHAPED_PACKETS_PER_QUEUE_MAX {
            self.stats.full += 1;
            self.queues[queue].stats.full += 1;
            return Some((peer, item));
        }
        let mut victim = None;
        if self.free == NONE && self.places.len() >= self.bound {
            let octave = 31 - self.used.leading_zeros() as usize;
            let longest = self.rings[octave].first();
            self.stats.full += 1;
            self.queues[longest as usize].stats.full += 1;
            victim = self.take(longest as usize).map(|(item, ..)| (Slot(longest), item));
        }
        let place = if self.free == NONE {
            self.places.push(Place { item: None, bytes: 0, next: NONE, came: now });
            self.places.len() as u32 - 1
        } else {
            let place = self.free;
            self.free = self.places[place as usize].next;
            place
        };
        self.places[place as usize] = Place { item: Some(item), bytes, next: NONE, came: now };
        let own = &mut self.queues[queue];
        let last = std::mem::replace(&mut own.tail, place);
        if last == NONE {
            own.head = place;
        } else {
            self.places[last as usize].next = place;
        }
        let own = &mut self.queues[queue];
        own.packets += 1;
        own.bytes = own.bytes.saturating_add(bytes);
        own.stats.packets += 1;
        self.stats.packets += 1;
        self.rank(queue);
        victim
    }

    /// Takes the next packet that is not late, with its bytes. One that is late is given to `mark`, and goes on when that
    /// could tell its receiver of the congestion (RFC 3168); else it is dropped, as it is too where marks have not helped:
    /// who says that it listens to marks and does not would have the queue to itself (RFC 7567 §4.2). `packet_time` is how
    /// long a packet takes at the peer's rate.
    pub fn pop(
        &mut self,
        now: Time,
        peer: Slot,
        packet_time: Duration,
        mut mark: impl FnMut(&mut T) -> bool,
    ) -> Option<(T, u32)> {
        let queue = self.queue(peer);
        loop {
            let (mut item, bytes, came) = self.take(queue)?;
            let own = &mut self.queues[queue];
            if !own.codel.drops(now, now.since(came), packet_time, own.packets == 0) {
                return Some((item, bytes));
            }
            let waited = now.since(came) >= CODEL_HOPELESS * Codel::target(packet_time);
            let hopeless = waited || own.codel.episode() > CODEL_MARKS_MAX;
            if !hopeless && mark(&mut item) {
                own.stats.marked += 1;
                self.stats.marked += 1;
                return Some((item, bytes));
            }
            own.stats.late += 1;
            self.stats.late += 1;
        }
    }

    /// Bytes on the wire of the next packet.
    pub fn front(&self, peer: Slot) -> Option<u32> {
        let head = self.queues.get(peer.index())?.head;
        self.places.get(head as usize).map(|place| place.bytes)
    }

    /// Packets and bytes that wait.
    pub fn backlog(&self, peer: Slot) -> (u16, u32) {
        self.queues.get(peer.index()).map_or((0, 0), |queue| (queue.packets, queue.bytes))
    }

    /// When the packet came that has waited the longest.
    pub fn oldest(&self, peer: Slot) -> Option<Time> {
        let head = self.queues.get(peer.index())?.head;
        self.places.get(head as usize).map(|place| place.came)
    }

    /// Figures of one queue since it was last cleared.
    pub fn stats_of(&self, peer: Slot) -> QueueStats {
        self.queues.get(peer.index()).map_or(QueueStats::default(), |queue| queue.stats)
    }

    /// Empties a queue, for a peer that goes.
    pub fn clear(&mut self, peer: Slot, mut dropped: impl FnMut(T)) {
        let queue = self.queue(peer);
        while let Some((item, ..)) = self.take(queue) {
            dropped(item);
        }
        (self.queues[queue].codel, self.queues[queue].stats) = Default::default();
    }

    /// Figures of all queues.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    fn take(&mut self, queue: usize) -> Option<(T, u32, Time)> {
        let own = &mut self.queues[queue];
        let head = own.head;
        let place = self.places.get_mut(head as usize)?;
        let (item, bytes, came) = (place.item.take()?, place.bytes, place.came);
        own.head = std::mem::replace(&mut place.next, self.free);
        self.free = head;
        if own.head == NONE {
            own.tail = NONE;
        }
        own.packets -= 1;
        own.bytes = own.bytes.saturating_sub(bytes);
        self.rank(queue);
        Some((item, bytes, came))
    }

    /// Moves a queue to the ring of its length.
    #[inline]
    fn rank(&mut self, queue: usize) {
        let own = &mut self.queues[queue];
        let octave = 31 - (own.bytes | 1).leading_zeros() as usize;
        let (linked, wanted) = (self.links.linked(queue as u32), own.packets > 0);
        if linked && wanted && usize::from(own.octave) == octave {
            return;
        }
        if linked {
            let old = usize::from(own.octave);
            self.links.remove(&mut self.rings[old], queue as u32);
            if self.rings[old].is_empty() {
                self.used &= !(1 << old);
            }
        }
        if wanted {
            own.octave = octave as u8;
            self.links.push(&mut self.rings[octave], queue as u32);
            self.used |= 1 << octave;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Order within a queue, nothing lost or made, and whoever pays for room is among the longest.
        #[test]
        fn queues_keep_their_order(
            bound in 1usize..40,
            steps in prop::collection::vec((any::<bool>(), 0u32..6, 40u32..1500), 1..300),
        ) {
            let mut queues = Queues::new(bound);
            let mut model: Vec<VecDeque<(usize, u32)>> = vec![VecDeque::new(); 6];
            for (number, (push, peer, bytes)) in steps.into_iter().enumerate() {
                if push {
                    let total: usize = model.iter().map(VecDeque::len).sum();
                    let victim = queues.push(Time::ZERO, Slot(peer), number, bytes);
                    prop_assert_eq!(victim.is_some(), total == bound);
                    if let Some((slot, item)) = victim {
                        let len = |queue: &VecDeque<(usize, u32)>| queue.iter().map(|(_, bytes)| *bytes).sum::<u32>();
                        let longest = model.iter().map(len).max().unwrap_or(0);
                        prop_assert!(2 * len(&model[slot.index()]) > longest);
                        prop_assert_eq!(model[slot.index()].pop_front().map(|(number, _)| number), Some(item));
                    }
                    model[peer as usize].push_back((number, bytes));
                } else {
                    let front = queues.front(Slot(peer));
                    let popped = queues.pop(Time::ZERO, Slot(peer), Duration::ZERO, |_| unreachable!());
                    prop_assert_eq!(popped.map(|(_, bytes)| bytes), front);
                    prop_assert_eq!(popped, model[peer as usize].pop_front());
                }
                for peer in 0..6 {
                    let bytes = model[peer as usize].iter().map(|(_, bytes)| *bytes).sum::<u32>();
                    prop_assert_eq!(queues.backlog(Slot(peer)), (model[peer as usize].len() as u16, bytes));
                }
            }
        }
    }

    /// What can carry a mark is never dropped for being late, and marked as often as the rest is dropped.
    #[test]
    fn a_standing_queue_is_marked_where_that_is_understood() {
        let mut figures = [QueueStats::default(); 2];
        for (capable, stats) in [true, false].into_iter().zip(&mut figures) {
            let (mut queues, mut sent) = (Queues::new(4096), 0);
            for ms in 0..900u64 {
                let now = Time::from_millis(ms);
                // Ten come for each that leaves, until there is a twentieth of a second's worth.
                if queues.backlog(Slot(0)).0 < 50 {
                    (0..10).for_each(|n| _ = queues.push(now, Slot(0), n, 1000));
                }
                sent +=
                    usize::from(queues.pop(now, Slot(0), Duration::from_millis(1), |_| capable).is_some());
            }
            *stats = queues.stats_of(Slot(0));
            assert_eq!((sent, *stats), (900, queues.stats()));
            queues.clear(Slot(0), drop);
            assert_eq!(queues.stats_of(Slot(0)), QueueStats::default());
        }
        let [capable, other] = figures;
        assert!(capable.late == 0 && other.marked == 0 && capable.marked > 10, "{figures:?}");
        assert!(other.late.abs_diff(capable.marked) < 5, "{figures:?}");
    }

    /// Found by reading: a flow that says that it listens to marks and does not was never dropped, and those beside it were.
    #[test]
    fn who_does_not_listen_to_marks_is_dropped() {
        let (mut queues, mut lost) = (Queues::new(4096), [0u32; 2]);
        for ms in 0..20_000u64 {
            let now = Time::from_millis(ms);
            // Two come for each that leaves: one of them says that it listens.
            for capable in [true, false] {
                queues.push(now, Slot(0), capable, 1000);
            }
            let before = queues.stats_of(Slot(0));
            let mut seen = Vec::new();
            queues.pop(now, Slot(0), Duration::from_millis(1), |capable| {
                seen.push(*capable);
                *capable
            });
            let late = queues.stats_of(Slot(0)).late - before.late;
            // Those that were given to be marked and were dropped are known by their kind; hopeless ones are not given.
            lost[1] += seen.iter().filter(|capable| !**capable).count() as u32;
            lost[0] += late as u32 - seen.iter().filter(|capable| !**capable).count() as u32;
        }
        let stats = queues.stats_of(Slot(0));
        assert!(stats.marked > 0 && stats.marked < 100, "{stats:?}: marks end where they do not help");
        assert!(lost[0] > 1000, "{lost:?}: dropped without being asked, whatever they say");
    }

    /// Found by measuring: an episode that followed another began as one in which marks had not helped.
    #[test]
    fn episodes_that_end_are_marked_for_ever() {
        let (mut queues, mut gone_until) = (Queues::new(4096), 0);
        for ms in 0..20_000u64 {
            let now = Time::from_millis(ms);
            // The queue stands, until five marks have made its senders pause.
            while queues.backlog(Slot(0)).0 < 30 && ms >= gone_until {
                queues.push(now, Slot(0), ms, 1000);
            }
            let before = queues.stats_of(Slot(0)).marked;
            queues.pop(now, Slot(0), Duration::from_millis(1), |_| true);
            let after = queues.stats_of(Slot(0)).marked;
            if after > before && after.is_multiple_of(5) {
                gone_until = ms + 100;
            }
        }
        let stats = queues.stats_of(Slot(0));
        assert!(stats.late == 0 && stats.marked > 100, "{stats:?}");
    }

    #[test]
    fn one_flood_does_not_push_out_the_others() {
        let mut queues = Queues::new(64);
        for n in 0..10_000u32 {
            queues.push(Time::ZERO, Slot(0), n, 1000);
            if n % 1000 == 0 {
                queues.push(Time::ZERO, Slot(1), n, 100);
            }
        }
        assert_eq!(queues.backlog(Slot(1)).0, 10, "all that the quiet one sent is there");
        assert!(queues.stats().full > 9_000);
    }
}

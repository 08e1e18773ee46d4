//! Queues for what cannot wait anywhere else: packets of tunnels, cells of circuits. One bounded pool for all of a
//! shard, a queue per peer, and in it a chain of packets per flow with CoDel at its head; flows take turns
//! ([`super::flows`]). When there is no room, the fattest flow of the longest queue pays.
//!
//! Both are found without looking at the others: they stand in rings by the octave of their bytes, with a bitmap
//! of the octaves in use, so that what is dropped comes from one within a factor of two of the longest.

use std::time::Duration;

use super::codel::Codel;
use super::flows::{Flow, Flows, Turns};
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

#[derive(Debug, Clone, Default)]
struct Queue {
    bytes: u32,
    packets: u16,
    /// The ring that it stands in.
    octave: u8,
    flows: Turns,
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
    flows: Flows,
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
        let bound = bound.max(1);
        Self {
            places: Vec::new(),
            free: NONE,
            queues: Vec::new(),
            flows: Flows::new(bound),
            links: Links::default(),
            rings: [Ring::EMPTY; OCTAVES],
            used: 0,
            bound,
            stats: QueueStats::default(),
        }
    }

    /// Bytes of memory per peer, per flow and per packet that waits, without the packet.
    pub const BYTES: (usize, usize, usize) =
        (size_of::<Queue>() + 8, size_of::<Flow>() + 24, size_of::<Place<T>>());

    fn queue(&mut self, peer: Slot) -> usize {
        let index = peer.index();
        if index >= self.queues.len() {
            self.queues.resize(index + 1, Queue::default());
            self.links.grow(index + 1);
        }
        index
    }

    /// Adds a packet of `bytes` on the wire to a flow of a peer; flows are told apart by a number that whoever sends them
    /// cannot foresee. What had to make room for it comes back: the head of the fattest flow, of this peer when its own
    /// queue is full, else of the longest queue.
    pub fn push(&mut self, now: Time, peer: Slot, flow: u32, item: T, bytes: u32) -> Option<(Slot, T)> {
        let queue = self.queue(peer);
        let victim = if self.queues[queue].packets >= SHAPED_PACKETS_PER_QUEUE_MAX {
            Some(queue)
        } else if self.free == NONE && self.places.len() >= self.bound {
            let octave = 31 - self.used.leading_zeros() as usize;
            Some(self.rings[octave].first() as usize)
        } else {
            None
        };
        let victim = victim.and_then(|longest| {
            self.stats.full += 1;
            self.queues[longest].stats.full += 1;
            let fattest = self.queues[longest].flows.fattest()?;
            self.take(longest, fattest).map(|(item, ..)| (Slot(longest as u32), item))
        });
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
        let number = self.flows.enter(&mut own.flows, peer.0, flow);
        let flow = self.flows.get_mut(number);
        let last = std::mem::replace(&mut flow.tail, place);
        if last == NONE {
            flow.head = place;
        } else {
            self.places[last as usize].next = place;
        }
        flow.packets += 1;
        flow.bytes = flow.bytes.saturating_add(bytes);
        self.flows.rank(&mut own.flows, number);
        own.packets += 1;
        own.bytes = own.bytes.saturating_add(bytes);
        own.stats.packets += 1;
        self.stats.packets += 1;
        self.rank(queue);
        victim
    }

    /// Takes the next packet that is not late, of the flow whose turn it is, with its bytes. One that is late is given to
    /// `mark`, and goes on when that could tell its receiver of the congestion (RFC 3168); else it is dropped, as it is too
    /// where marks have not helped: who says that it listens to marks and does not would have the queue to itself (RFC 7567
    /// §4.2). `packet_time` is how long a packet takes at the peer's rate.
    pub fn pop(
        &mut self,
        now: Time,
        peer: Slot,
        packet_time: Duration,
        mut mark: impl FnMut(&mut T) -> bool,
    ) -> Option<(T, u32)> {
        let queue = self.queue(peer);
        loop {
            let own = &mut self.queues[queue];
            let number = self.flows.next(&mut own.flows)?;
            // A flow's packets leave at its part of the rate: what others send between two of them is no standing queue.
            let round = packet_time * u32::from(own.flows.active);
            let round = round.min(Codel::ROUND_MAX).max(packet_time);
            let flow = self.flows.get_mut(number);
            flow.deficit -= self.places[flow.head as usize].bytes as i32;
            let (mut item, bytes, came) = self.take(queue, number)?;
            let (own, flow) = (&mut self.queues[queue], self.flows.get_mut(number));
            let waited = now.since(came);
            let sent = if flow.codel.drops(now, waited, round, flow.packets == 0) {
                let late = waited >= CODEL_HOPELESS * Codel::target(round);
                let hopeless = late || flow.codel.episode() > CODEL_MARKS_MAX;
                let marked = !hopeless && mark(&mut item);
                let (marks, drops) = (u64::from(marked), u64::from(!marked));
                (own.stats.marked, own.stats.late) = (own.stats.marked + marks, own.stats.late + drops);
                (self.stats.marked, self.stats.late) = (self.stats.marked + marks, self.stats.late + drops);
                marked
            } else {
                true
            };
            if sent {
                return Some((item, bytes));
            }
            // It did not leave; and it was not the flow's last, so the flow is still there.
            flow.deficit += bytes as i32;
        }
    }

    /// Packets and bytes that wait.
    pub fn backlog(&self, peer: Slot) -> (u16, u32) {
        self.queues.get(peer.index()).map_or((0, 0), |queue| (queue.packets, queue.bytes))
    }

    /// When the packet came that has waited the longest. Looks at each flow.
    pub fn oldest(&self, peer: Slot) -> Option<Time> {
        let queue = self.queues.get(peer.index())?;
        let came = |flow: &Flow| self.places.get(flow.head as usize).map(|place| place.came);
        self.flows.active(&queue.flows).filter_map(came).min()
    }

    /// How many flows have packets that wait.
    pub fn flows(&self, peer: Slot) -> u16 {
        self.queues.get(peer.index()).map_or(0, |queue| queue.flows.active)
    }

    /// Figures of one queue since it was last cleared.
    pub fn stats_of(&self, peer: Slot) -> QueueStats {
        self.queues.get(peer.index()).map_or(QueueStats::default(), |queue| queue.stats)
    }

    /// Empties a queue, for a peer that goes.
    pub fn clear(&mut self, peer: Slot, mut dropped: impl FnMut(T)) {
        let queue = self.queue(peer);
        while let Some(flow) = self.queues[queue].flows.fattest() {
            while let Some((item, ..)) = self.take(queue, flow) {
                dropped(item);
            }
        }
        self.queues[queue].flows.begin();
        self.queues[queue].stats = QueueStats::default();
    }

    /// Figures of all queues.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Takes the first packet of a flow.
    fn take(&mut self, queue: usize, number: u32) -> Option<(T, u32, Time)> {
        let own = &mut self.queues[queue];
        let flow = self.flows.get_mut(number);
        let head = flow.head;
        let place = self.places.get_mut(head as usize)?;
        let (item, bytes, came) = (place.item.take()?, place.bytes, place.came);
        flow.head = std::mem::replace(&mut place.next, self.free);
        self.free = head;
        flow.packets -= 1;
        flow.bytes = flow.bytes.saturating_sub(bytes);
        let empty = flow.head == NONE;
        if empty {
            flow.tail = NONE;
        }
        self.flows.rank(&mut own.flows, number);
        if empty {
            self.flows.leave(&mut own.flows, number);
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
mod tests;

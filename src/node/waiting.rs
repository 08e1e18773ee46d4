//! Packets of tunnels and cells of circuits that wait for leave, sealed: a queue for each peer, with CoDel at its head, and
//! one bound for all of them, at which the longest queue pays (docs/shaping.md §3). Where nothing is limited they do not
//! wait, and are not copied.

use std::collections::BTreeMap;
use std::time::Duration;

use super::send::wire_bytes;
use super::tunnel::MARKED;
use super::{Clock, Node, Train, World};
use crate::base::{BufId, Place, Time};
use crate::limits::{TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use crate::service::PeerId;
use crate::shape::{Grant, QueueStats, Queues, Slot};

/// A sealed datagram.
#[derive(Debug)]
struct Datagram {
    bytes: Box<[u8]>,
    ecn: u8,
    came: Time,
}

impl Datagram {
    /// Marks it as having met congestion, if whoever sent what is in it listens to that: the other end of the tunnel takes
    /// the mark over into the packet (RFC 6040).
    fn mark(&mut self) -> bool {
        let capable = self.ecn != 0;
        if capable {
            self.ecn = MARKED;
        }
        capable
    }
}

/// What waits on one shard.
#[derive(Default)]
pub(super) struct Waiting {
    queues: Queues<Datagram>,
    /// The head of a queue that did not fit into the train before.
    heads: BTreeMap<Slot, Datagram>,
}

impl Waiting {
    /// Whether something waits for a peer.
    pub fn has(&self, slot: Slot) -> bool {
        self.queues.backlog(slot).0 > 0 || (!self.heads.is_empty() && self.heads.contains_key(&slot))
    }

    /// Bytes on the wire that wait for it, how long the first has waited, and what became of those before.
    pub fn figures(&self, now: Time, slot: Slot) -> (u64, Duration, QueueStats) {
        let head = self.heads.get(&slot);
        let first = head.map(|datagram| datagram.came).or(self.queues.oldest(slot));
        let waited = first.map_or(Duration::ZERO, |came| now.since(came));
        let bytes = head.map_or(0, |datagram| datagram.bytes.len() as u64);
        (bytes + u64::from(self.queues.backlog(slot).1), waited, self.queues.stats_of(slot))
    }

    /// Forgets a peer.
    pub fn clear(&mut self, slot: Slot) {
        self.heads.remove(&slot);
        self.queues.clear(slot, drop);
    }

    /// Of all queues.
    pub fn stats(&self) -> QueueStats {
        self.queues.stats()
    }

    fn take(&mut self, now: Time, slot: Slot, packet_time: Duration) -> Option<Datagram> {
        let head = if self.heads.is_empty() { None } else { self.heads.remove(&slot) };
        head.or_else(|| self.queues.pop(now, slot, packet_time, Datagram::mark).map(|(datagram, _)| datagram))
    }
}

impl Node {
    /// The next train of tunnels and circuits that need not wait; the others enter their peers' queues.
    pub(super) fn poll_unasked(&mut self, clock: Clock, world: &mut impl World) -> Option<Train> {
        while let Some((session, train)) = self.tunnels.poll_train(world) {
            let peer = self.by_session.get(&session).and_then(|id| self.peers.get(id));
            let Some(slot) = peer.map(|peer| peer.slot) else {
                world.free(train.place.buf);
                continue;
            };
            if self.shaping.is_free(slot) && !self.waiting.has(slot) {
                self.shaping.charge_unasked(clock.now, slot, wire_bytes(&train));
                return Some(train);
            }
            let header = train.path.header() as u32;
            for bytes in world.bytes(train.place).chunks((train.segment as usize).max(1)) {
                let datagram = Datagram { bytes: Box::from(bytes), ecn: train.ecn, came: clock.now };
                let size = bytes.len() as u32 + header;
                if let Some((who, _)) = self.waiting.queues.push(clock.now, slot, datagram, size) {
                    self.shaping.note_queue(who, 1, 0);
                }
            }
            world.free(train.place.buf);
            self.shaping.ready_data(clock.now, slot);
        }
        None
    }

    /// Whether packets wait that need no more than leave.
    pub(super) fn waits(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| self.waiting.has(peer.slot))
    }

    /// As many of one peer's packets as the grant allows and one train carries.
    pub(super) fn poll_waiting_train(
        &mut self,
        clock: Clock,
        id: PeerId,
        grant: &Grant,
        buf: BufId,
        world: &mut impl World,
    ) -> Option<Train> {
        let (slot, session) = self.peers.get(&id).map(|peer| (peer.slot, peer.session))?;
        let path = self.sessions.path(session)?;
        let (room, header) = (Place::room(buf), path.header());
        let packet_time = self.shaping.packet_time(slot);
        let (mut left, mut len, mut segment, mut ecn) = (grant.bytes, 0usize, 0usize, 0);
        let before = self.waiting.queues.stats_of(slot);
        for _ in 0..TRAIN_SEGMENTS_MAX {
            let Some(datagram) = self.waiting.take(clock.now, slot, packet_time) else { break };
            let size = datagram.bytes.len();
            let (wire, alike) = (size as u64 + header, size <= segment && datagram.ecn == ecn);
            if wire > left || len > 0 && !alike || len + size > TRAIN_SIZE_MAX {
                self.waiting.heads.insert(slot, datagram);
                break;
            }
            if len == 0 {
                (segment, ecn) = (size, datagram.ecn);
            }
            let place = room.part(len as u32, size as u32)?;
            world.bytes_mut(place).copy_from_slice(&datagram.bytes);
            len += size;
            left -= wire;
            if size < segment {
                break;
            }
        }
        let after = self.waiting.queues.stats_of(slot);
        self.shaping.note_queue(slot, after.late - before.late, after.marked - before.marked);
        let place = Place { len: len as u32, ..room };
        (len > 0).then_some(Train { path, place, segment: segment as u32, ecn })
    }
}

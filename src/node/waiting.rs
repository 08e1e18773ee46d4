//! Packets of tunnels and cells of circuits that wait for leave: a queue for each peer, in which flows take turns, with CoDel
//! at the head of each, and one bound for all of them, at which the longest queue pays (docs/shaping.md §3). Where nothing is
//! limited they do not wait, and are not copied.

use std::collections::BTreeMap;
use std::time::Duration;

use super::send::wire_bytes;
use super::shaping::Shaping;
use super::tunnel::MARKED;
use super::{Clock, Node, Train, World};
use crate::base::{BufId, Place, Rng, Time};
use crate::limits::{HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use crate::service::PeerId;
use crate::session::PacketKind;
use crate::shape::{Grant, QueueStats, Queues, Slot};
use crate::tunnel::flow::Flows;
use crate::wire::ip::Ip;

/// A datagram that is not sealed yet: those that leave before it may have numbers after those that came after it
/// (docs/decisions/0024-sealed-when-they-leave.md).
#[derive(Debug)]
pub(super) struct Datagram {
    pub kind: PacketKind,
    /// What is to be sealed.
    pub payload: Box<[u8]>,
    pub ecn: u8,
    pub came: Time,
}

impl Datagram {
    fn size(&self) -> usize {
        self.payload.len() + PACKET_OVERHEAD
    }

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
pub(super) struct Waiting {
    queues: Queues<Datagram>,
    flows: Flows,
    /// Odd. Times a circuit's number, it is a flow.
    legs: u64,
    /// The head of a queue that did not fit into the train before.
    heads: BTreeMap<Slot, Datagram>,
}

impl Waiting {
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            queues: Queues::default(),
            flows: Flows::new(rng),
            legs: rng.next_u64() | 1,
            heads: BTreeMap::new(),
        }
    }

    /// The flow of a packet in a tunnel.
    pub fn flow_of_packet(&self, packet: &[u8], header: &Ip) -> u32 {
        self.flows.of(packet, header) as u32
    }

    /// The flow of a cell: its leg. Neighbours choose the numbers of legs, and shall not choose where they stand here.
    pub fn flow_of_cell(&self, cell: &[u8]) -> u32 {
        let leg = cell.first_chunk().map_or(0, |leg| u32::from_le_bytes(*leg));
        (u64::from(leg).wrapping_mul(self.legs) >> 32) as u32
    }

    /// Whether something waits for a peer.
    pub fn has(&self, slot: Slot) -> bool {
        self.queues.backlog(slot).0 > 0 || (!self.heads.is_empty() && self.heads.contains_key(&slot))
    }

    /// Bytes on the wire that wait for it, how long the first has waited, and what became of those before.
    pub fn figures(&self, now: Time, slot: Slot) -> (u64, Duration, QueueStats) {
        let head = self.heads.get(&slot);
        let first = head.map(|datagram| datagram.came).or(self.queues.oldest(slot));
        let waited = first.map_or(Duration::ZERO, |came| now.since(came));
        let bytes = head.map_or(0, |datagram| datagram.size() as u64);
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

/// Whether what is for a peer has to wait, where it is known how much may leave.
pub(super) fn must_wait(shaping: &Shaping, waiting: &Waiting, slot: Slot) -> bool {
    !shaping.is_free(slot) || waiting.has(slot)
}

/// Has a datagram wait for leave, on a way that adds `header` bytes to each.
pub(super) fn wait(
    shaping: &mut Shaping,
    waiting: &mut Waiting,
    slot: Slot,
    flow: u32,
    datagram: Datagram,
    header: u64,
) {
    let (now, size) = (datagram.came, datagram.size() as u64 + header);
    if let Some((who, _)) = waiting.queues.push(now, slot, flow, datagram, size as u32) {
        shaping.note_queue(who, 1, 0);
    }
    shaping.ready_data(now, slot);
}

impl Node {
    /// The next train of tunnels and circuits that need not wait.
    pub(super) fn poll_unasked(&mut self, clock: Clock, world: &mut impl World) -> Option<Train> {
        while let Some((session, train)) = self.tunnels.poll_train(world) {
            let peer = self.by_session.get(&session).and_then(|id| self.peers.get(id));
            let Some(slot) = peer.map(|peer| peer.slot) else {
                world.free(train.place.buf);
                continue;
            };
            self.shaping.charge_unasked(clock.now, slot, wire_bytes(&train));
            return Some(train);
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
        let (mut left, mut len, mut segment, mut ecn, mut count) = (grant.bytes, 0usize, 0usize, 0, 0);
        let before = self.waiting.queues.stats_of(slot);
        while count < TRAIN_SEGMENTS_MAX {
            let Some(datagram) = self.waiting.take(clock.now, slot, packet_time) else { break };
            let size = datagram.size();
            let (wire, alike) = (size as u64 + header, size <= segment && datagram.ecn == ecn);
            if wire > left || len > 0 && !alike || len + size > TRAIN_SIZE_MAX {
                self.waiting.heads.insert(slot, datagram);
                break;
            }
            let place = room.part(len as u32, size as u32)?;
            let packet = world.bytes_mut(place);
            packet[HEADER_SIZE + 1..size - TAG_SIZE].copy_from_slice(&datagram.payload);
            if self.sessions.seal(clock.now, session, datagram.kind, packet).is_err() {
                self.tunnels.counters.no_budget += 1;
                continue;
            }
            if len == 0 {
                (segment, ecn) = (size, datagram.ecn);
            }
            len += size;
            count += 1;
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

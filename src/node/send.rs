//! What to do next: reports, file operations, handshakes, and trains of packets, peer by peer.

use std::time::Duration;

use super::peer::FromStore;
use super::{Clock, Cross, ECT0, Node, Output, Train, World};
use crate::base::{BufId, Place, Time, Way};
use crate::limits::{
    ACK_DELAY_US_MAX, DATAGRAM_MAX, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE, TRAIN_SEGMENTS_MAX,
    TRAIN_SIZE_MAX,
};
use crate::service::PeerId;
use crate::session::PacketKind;
use crate::shape::{Class, Grant};
use crate::stream::Wants;

/// What a train takes on the wire: the IP length of each of its datagrams, bytes.
pub(super) fn wire_bytes(train: &Train) -> u64 {
    let datagrams = train.place.len.div_ceil(train.segment.max(1));
    u64::from(train.place.len) + u64::from(datagrams) * train.path.header()
}

impl Node {
    /// The next thing to do.
    pub fn poll(&mut self, clock: Clock, world: &mut impl World) -> Option<Output> {
        loop {
            let output = self.poll_next(clock, world)?;
            // What goes by a relay is a datagram to that, and leaves with its session's.
            let Output::Train(train) = output else { return Some(output) };
            let Some(way) = Way::of(&train.path.remote) else { return Some(Output::Train(train)) };
            if let Some(crossing) = self.send_by_way(clock, train, way, world) {
                return Some(crossing);
            }
        }
    }

    fn poll_next(&mut self, clock: Clock, world: &mut impl World) -> Option<Output> {
        if let Some(report) = self.reports.pop_front() {
            return Some(Output::Report(report));
        }
        if let Some(output) = self.poll_anonymous(clock, world) {
            return Some(output);
        }
        if let Some(op) = self.get.poll_op() {
            return Some(Output::File(op));
        }
        if let Some((number, chunk)) = self.keep.poll_store() {
            return Some(Output::Keep(number, chunk));
        }
        if let Some((shard, cross)) = self.sessions.poll_cross().or_else(|| self.passing.pop_message()) {
            self.counters.crossings_out += 1;
            return Some(Output::Cross(shard, cross));
        }
        if let Some(packet) = self.tunnels.poll_packet(world) {
            return Some(Output::Tun(packet));
        }
        if let Some(packet) = self.tunnels.proxied.poll(world) {
            return Some(Output::Proxied(packet));
        }
        self.ask_loans(clock);
        if let Some((shard, cross)) = self.shaping.budget.poll_message() {
            self.counters.crossings_out += 1;
            return Some(Output::Cross(shard, cross));
        }
        // What is passed between other shards and their peers takes turns with what is our own.
        self.passed = !self.passed;
        if self.passed
            && let Some(output) = self.poll_passing(world)
        {
            return Some(output);
        }
        let own = self.poll_own(clock, world);
        own.or_else(|| self.poll_passing(world))
    }

    fn poll_passing(&mut self, world: &mut impl World) -> Option<Output> {
        if let Some(train) = self.poll_foreign(world) {
            return Some(Output::Train(train));
        }
        let (shard, cross) = self.passing.pop_packet()?;
        self.counters.crossings_out += 1;
        Some(Output::Cross(shard, cross))
    }

    fn poll_own(&mut self, clock: Clock, world: &mut impl World) -> Option<Output> {
        if self.shaping.may_control(clock.now)
            && let Some(train) = self.poll_session_train(clock, world)
        {
            self.shaping.charge_control(clock.now, wire_bytes(&train));
            return Some(self.leave(train, world));
        }
        if let Some(train) = self.poll_unasked(clock, world) {
            return Some(self.leave(train, world));
        }
        while let Some((grant, id)) = self.shaping.next(clock.now) {
            // A grant that is not settled was none: the peer keeps its place.
            let buf = world.alloc()?;
            let train = self.poll_granted(clock, id, &grant, buf, world);
            let (more, bytes) = (
                train.is_some() && self.has_more(clock.now, id, &grant),
                train.as_ref().map_or(0, wire_bytes),
            );
            self.shaping.settle(clock.now, grant, bytes, more);
            if !more {
                self.rest(clock.now, id, train.is_none());
            }
            match train {
                Some(train) => return Some(self.leave(train, world)),
                None => world.free(buf),
            }
        }
        None
    }

    /// What a peer sends on a grant: what waits in its queue and what its streams have take turns.
    fn poll_granted(
        &mut self,
        clock: Clock,
        id: PeerId,
        grant: &Grant,
        buf: BufId,
        world: &mut impl World,
    ) -> Option<Train> {
        if grant.class == Class::Control || !self.waits(id) {
            return self.poll_peer_train(clock, id, grant, buf, world);
        }
        let peer = self.peers.get_mut(&id)?;
        peer.queue_turn = !peer.queue_turn;
        if !peer.queue_turn
            && let Some(train) = self.poll_peer_train(clock, id, grant, buf, world)
        {
            return Some(train);
        }
        self.poll_waiting_train(clock, id, grant, buf, world)
    }

    /// Whether a peer that was just served has more to send in the class.
    fn has_more(&mut self, now: Time, id: PeerId, grant: &Grant) -> bool {
        let waits = self.waits(id);
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        grant.class != Class::Control && (waits || peer.connection.wants(now) == Wants::Data)
    }

    /// Has the shaper know what a peer, to which something happened, would send.
    pub(super) fn queue(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let free = self.shaping.is_free(peer.slot);
        match peer.connection.wants(now) {
            Wants::Data => {
                self.shaping.ready_data(now, peer.slot);
                if !free {
                    // Its acknowledgements need not wait for its data to be let.
                    self.shaping.ready_control(now, peer.slot);
                }
            }
            Wants::Acknowledgement => self.shaping.ready_control(now, peer.slot),
            Wants::Nothing => return self.rest(now, id, false),
        }
        if !free {
            self.rest(now, id, true);
        }
    }

    /// A train leaves from our socket, or from that of the one shard whose port its receiver reaches.
    fn leave(&mut self, train: Train, world: &mut impl World) -> Output {
        let Some(shard) = self.sessions.via(&train.path) else {
            self.count_out(&train);
            return Output::Train(train);
        };
        let Train { path, place, segment, ecn } = train;
        let bytes = Box::from(world.bytes(place));
        world.free(place.buf);
        self.counters.crossings_out += 1;
        Output::Cross(shard, Cross::Send { path, segment, ecn, bytes })
    }

    /// Another shard's datagrams.
    fn poll_foreign(&mut self, world: &mut impl World) -> Option<Train> {
        let foreign = self.foreign.front()?;
        let len = foreign.bytes.len().min(TRAIN_SIZE_MAX) as u32;
        let place = Place { len, ..Place::room(world.alloc()?) };
        world.bytes_mut(place).copy_from_slice(&foreign.bytes[..len as usize]);
        let train = Train { path: foreign.path, place, segment: foreign.segment, ecn: foreign.ecn };
        self.foreign.pop_front();
        self.count_out(&train);
        Some(train)
    }

    /// Handshakes, cookies and control packets, one datagram each.
    fn poll_session_train(&mut self, clock: Clock, world: &mut impl World) -> Option<Train> {
        let buf = world.alloc()?;
        let place = Place { len: DATAGRAM_MAX as u32, ..Place::room(buf) };
        let Some((path, len)) = self.sessions.poll_transmit(clock.now, clock.wall, world.bytes_mut(place))
        else {
            world.free(buf);
            return None;
        };
        Some(Train { path, place: Place { len: len as u32, ..place }, segment: len as u32, ecn: 0 })
    }

    fn count_out(&mut self, train: &Train) {
        self.counters.trains_out += 1;
        self.counters.datagrams_out += u64::from(train.place.len.div_ceil(train.segment.max(1)));
        self.counters.bytes_out += u64::from(train.place.len);
    }

    /// As many packets of one peer as one train carries and the grant allows, sealed where they lie.
    fn poll_peer_train(
        &mut self,
        clock: Clock,
        id: PeerId,
        grant: &Grant,
        buf: BufId,
        world: &mut impl World,
    ) -> Option<Train> {
        let peer = self.peers.get_mut(&id)?;
        let path = self.sessions.path(peer.session)?;
        let mut budget = self.sessions.budget(peer.session);
        let (mut allowed, header) = (grant.bytes, path.header());
        let acknowledging = grant.class == Class::Control;
        let room = Place::room(buf);
        let mut segment = peer.connection.packet_size();
        let mut len = 0usize;
        for index in 0..TRAIN_SEGMENTS_MAX {
            // Only the first packet may be an MTU probe, larger than the others; it travels alone.
            let size_max = if index == 0 { DATAGRAM_MAX } else { segment };
            let least = budget.min(allowed.saturating_sub(header));
            let size_max =
                size_max.min(TRAIN_SIZE_MAX - len).min(usize::try_from(least).unwrap_or(usize::MAX));
            if size_max < if acknowledging { PACKET_OVERHEAD + 1 } else { segment } {
                break;
            }
            if let Some(skipped) = self.sessions.take_skipped(peer.session) {
                peer.connection.on_number_skipped(skipped);
            }
            let Some(number) = self.sessions.next_number(peer.session) else { break };
            let Some(place) = room.part(len as u32, size_max as u32) else { break };
            let (packet, store) = world.split(place);
            let payload = &mut packet[HEADER_SIZE + 1..size_max - TAG_SIZE];
            let written = if acknowledging {
                peer.connection.poll_acknowledgement(clock.now, number, payload)
            } else {
                peer.connection.poll_payload(clock.now, number, payload, &mut FromStore(store, &self.push))
            };
            let Some(meta) = written else { break };
            let size = meta.len + PACKET_OVERHEAD;
            if self.sessions.seal(clock.now, peer.session, PacketKind::Stream, &mut packet[..size]).is_err() {
                // The session ended under way; loss recovery does not matter any more.
                break;
            }
            peer.sent_bytes += size as u64;
            budget = budget.saturating_sub(size as u64);
            allowed = allowed.saturating_sub(size as u64 + header);
            len += size;
            if size > segment {
                segment = size;
                break;
            }
            if size < segment {
                break;
            }
        }
        if len == 0 {
            return None;
        }
        let place = Place { len: len as u32, ..room };
        let ecn = if peer.connection.is_ecn_capable() { ECT0 } else { 0 };
        Some(Train { path, place, segment: segment.min(len) as u32, ecn })
    }

    /// A peer has nothing to send for now: its timer says when to look again. What is `held` may be due and wait for the
    /// shaper.
    fn rest(&mut self, now: Time, id: PeerId, held: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut wanted = peer.connection.poll_timeout();
        let waits = self.sessions.budget(peer.session) < peer.connection.packet_size() as u64;
        if waits || (held && !self.shaping.is_free(peer.slot)) {
            // What is due may wait for the path's budget or the shaper, not for the time.
            wanted = wanted.map(|at| at.max(now + Duration::from_micros(ACK_DELAY_US_MAX)));
        }
        if wanted != peer.timer {
            if let Some(old) = peer.timer {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = wanted {
                self.timers.insert((new, id));
            }
            peer.timer = wanted;
        }
    }
}

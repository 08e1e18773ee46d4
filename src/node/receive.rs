//! Datagrams in: a train is opened datagram by datagram, where it lies, and each packet goes to its peer.

use super::peer::ToServices;
use super::send::wire_bytes;
use super::tunnel::Arrived;
use super::{Clock, Cross, Foreign, Node, Train, World};
use crate::base::Path;
use crate::limits::{DATAGRAM_MAX, IP_HEADER_MAX, PACKET_OVERHEAD, PASSING_MAX};
use crate::service::PeerId;
use crate::session::{CloseCode, DropCause, PacketKind, Received, SessionKey};
use crate::wire::stun;

impl Node {
    /// Opens what came; false when nothing of it was acceptable, so that nothing follows from it.
    /// Has the processor fetch what opening these datagrams will need ([`crate::session::Sessions::expect`]).
    pub fn expect<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.sessions.expect(datagrams);
    }

    pub(super) fn handle_train(&mut self, clock: Clock, train: Train, world: &mut impl World) -> bool {
        self.counters.trains_in += 1;
        self.counters.bytes_in += u64::from(train.place.len);
        if train.path.is_way() {
            // What stands for a way is nobody's address.
            return false;
        }
        let segment = (train.segment as usize).max(1);
        let before = self.answered;
        let datagrams = world.bytes_mut(train.place).chunks_mut(segment);
        let (news, carried) = self.handle_datagrams(clock, train.path, train.ecn, datagrams);
        if news {
            // What anybody can send makes nobody ask for less.
            self.shaping.came(clock.now, wire_bytes(&train), self.answered - before);
        } else if carried > 0 {
            self.shaping.came(clock.now, carried, 0);
        }
        if self.tunnels.has_arrived() {
            self.take_arrived(train.place, world);
        }
        if self.circuits.has_arrived() {
            self.take_cells(clock, train.place, world);
        }
        news
    }

    /// Whether something follows from them, and the bytes on the wire of those that carry packets of tunnels and cells.
    fn handle_datagrams<'a>(
        &mut self,
        clock: Clock,
        path: Path,
        ecn: u8,
        datagrams: impl Iterator<Item = &'a mut [u8]>,
    ) -> (bool, u64) {
        let (mut touched, mut news): (Option<PeerId>, bool) = (None, false);
        let mut carried = 0;
        let mut next = 0;
        for datagram in datagrams {
            let start = next;
            next += datagram.len();
            self.counters.datagrams_in += 1;
            if stun::is_message(datagram) && !path.is_relayed() {
                news |= self.handle_stun(clock, path, datagram);
                continue;
            }
            let received = self.sessions.handle_datagram(clock.now, clock.wall, path, datagram);
            news |= !is_noise(&received);
            match received {
                Received::Packet { session, number, kind, payload } => {
                    let Some(id) = self.peer_of(clock, session) else { continue };
                    if kind != PacketKind::Stream {
                        let range = start + payload.start..start + payload.end;
                        if let Some(peer) = self.peers.get_mut(&id) {
                            peer.received_bytes += datagram.len() as u64;
                        }
                        carried += datagram.len() as u64 + path.header();
                        if kind == PacketKind::Cell {
                            self.circuits.note(id, range);
                            continue;
                        }
                        let is_open = kind == PacketKind::Unsummed;
                        self.tunnels.note(Arrived { peer: id, range, is_open, ecn });
                        continue;
                    }
                    if touched != Some(id)
                        && let Some(previous) = touched.replace(id)
                    {
                        self.end_of_batch(clock, previous);
                    }
                    self.handle_packet(clock, id, number, ecn, &datagram[payload]);
                }
                Received::Early { session, payload } => {
                    self.handle_early(clock, session, ecn, &datagram[payload]);
                }
                Received::Control { session, number } => {
                    if let Some(id) = self.peer_of(clock, session)
                        && let Some(peer) = self.peers.get_mut(&id)
                    {
                        peer.connection.on_other_packet_received(clock.now, number);
                    }
                }
                Received::Foreign { shard } if datagram.len() <= DATAGRAM_MAX => {
                    let cross = Cross::Datagram { path, ecn, bytes: Box::from(&*datagram) };
                    self.pass(shard, cross);
                }
                Received::Foreign { .. } | Received::Handled | Received::Dropped(_) => {}
            }
        }
        if let Some(id) = touched {
            self.end_of_batch(clock, id);
        }
        (news || self.sessions.has_events(), carried)
    }

    /// The first flight's request is packet number 0 of the session.
    fn handle_early(&mut self, clock: Clock, session: SessionKey, ecn: u8, request: &[u8]) {
        let Some(id) = self.peer_of(clock, session) else { return };
        self.handle_packet(clock, id, 0, ecn, request);
        self.end_of_batch(clock, id);
    }

    /// A datagram that came by a relay.
    pub(super) fn handle_relayed(
        &mut self,
        clock: Clock,
        path: Path,
        bytes: &mut [u8],
        world: &mut impl World,
    ) {
        let (_, carried) = self.handle_datagrams(clock, path, 0, std::iter::once(&mut *bytes));
        if carried > 0 {
            self.shaping.came(clock.now, carried, 0);
        }
        if self.tunnels.has_arrived() {
            self.take_crossed(bytes, world);
        }
        if self.circuits.has_arrived() {
            self.take_crossed_cells(clock, bytes, world);
        }
        self.session_events(clock);
    }

    /// Obeys another shard; false when nothing follows from it.
    pub(super) fn handle_cross(
        &mut self,
        clock: Clock,
        from: u8,
        cross: Cross,
        world: &mut impl World,
    ) -> bool {
        self.counters.crossings_in += 1;
        match cross {
            Cross::Datagram { path, ecn, mut bytes } => {
                self.sessions.learn_port(from, path.local.port());
                let (news, carried) = self.handle_datagrams(clock, path, ecn, std::iter::once(&mut *bytes));
                if carried > 0 {
                    self.shaping.came(clock.now, carried, 0);
                }
                if self.tunnels.has_arrived() {
                    self.take_crossed(&bytes, world);
                }
                if self.circuits.has_arrived() {
                    self.take_crossed_cells(clock, &bytes, world);
                }
                return news;
            }
            Cross::Packet { peer, offload, bytes } => {
                self.handle_crossed_packet(clock, &peer, offload, &bytes, world);
                return false;
            }
            Cross::Circuit(message) => {
                self.handle_circuit_cross(clock, from, *message, world);
                return true;
            }
            Cross::Overlay(message) => {
                self.handle_overlay_cross(clock, from, *message);
                return true;
            }
            Cross::Meet(message) => {
                self.handle_meet_cross(clock, *message);
                return true;
            }
            Cross::Introduce(message) => {
                self.handle_introduce_cross(clock, *message);
            }
            Cross::Intent(message) => {
                self.handle_intent_cross(clock, *message);
                return true;
            }
            Cross::Send { path, segment, ecn, bytes } => {
                if self.foreign.len() < PASSING_MAX {
                    self.foreign.push_back(Foreign { path, segment, ecn, bytes });
                } else {
                    self.counters.crossings_lost += 1;
                }
                return false;
            }
            Cross::Demand { up, down } => {
                self.shaping.budget.heard(clock.now, from, up, down);
                self.shaping.handle_timeout(clock.now);
                return false;
            }
            Cross::Tokens { up, down } => {
                self.shaping.got(up, down);
                // What waited for them may be asked for now.
                return down.iter().any(|bytes| *bytes > 0);
            }
            Cross::Line(round) => {
                self.line_heard(clock.now, from, round);
                return false;
            }
            Cross::LineRate(rate) => {
                self.follow_line(clock.now, rate);
                return true;
            }
            Cross::Borrow { peer, lane, short, down } => {
                self.borrow(clock, from, peer, lane, short, down);
                // A lane of this shard may have been lent something on the way.
                return true;
            }
            Cross::Lent { lane, loan, down } => {
                self.lent(clock, lane, loan, down);
                // What waited for it may be asked for now.
                return down > 0;
            }
            other => {
                if let Some((session, request)) =
                    self.sessions.handle_cross(clock.now, clock.wall, from, other)
                {
                    self.handle_early(clock, session, 0, &request);
                }
            }
        }
        true
    }

    /// Leaves something for another shard.
    pub(super) fn pass(&mut self, shard: u8, cross: Cross) {
        if !self.passing.push(shard, cross) {
            self.counters.crossings_lost += 1;
        }
    }

    /// Leaves something for each other shard.
    pub(super) fn pass_all(&mut self, message: impl Fn() -> Cross) {
        let (own, count) = self.overlay.shard;
        (0..count).filter(|shard| *shard != own).for_each(|shard| self.pass(shard, message()));
    }

    fn handle_packet(&mut self, clock: Clock, id: PeerId, number: u64, ecn: u8, payload: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.received_bytes += (payload.len() + PACKET_OVERHEAD) as u64;
        let (fetch, keep, taken) = (&mut self.fetch, &mut self.keep, &mut self.taken);
        let mut sink = ToServices { fetch, keep, peer: id, now: clock.now, taken, unasked: 0 };
        let handled = peer.connection.handle_payload(clock.now, number, ecn, payload, &mut sink);
        let unasked = sink.unasked;
        let wire = (payload.len() + PACKET_OVERHEAD) as u64 + IP_HEADER_MAX;
        let answered = self.taken.iter().map(|(_, bytes)| *bytes).sum::<u64>() - unasked;
        // A lane that borrows pays for what comes with what it asks for, and not for what came long before.
        if !peer.down.is_unlimited() && (peer.lane == 0 || peer.down.debt() > 1) {
            peer.down.take(clock.now, wire.saturating_sub(answered));
        }
        self.answered += answered;
        for (stream, bytes) in self.taken.drain(..) {
            peer.connection.consumed(stream, bytes);
        }
        if let Err(violation) = handled {
            self.counters.violations += 1;
            let session = peer.session;
            self.sessions.close(clock.now, session, CloseCode::VIOLATION, violation.text);
        }
    }

    fn end_of_batch(&mut self, clock: Clock, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connection.end_of_batch(clock.now);
            self.round_trip = peer.connection.take_round_trip().or(self.round_trip);
        }
        self.touch(id);
    }

    /// The peer of a session. Sessions become peers with their `Established` event, which is queued before
    /// the first packet of the session is handed out.
    fn peer_of(&mut self, clock: Clock, session: SessionKey) -> Option<PeerId> {
        if let Some(id) = self.by_session.get(&session) {
            return Some(*id);
        }
        self.session_events(clock);
        self.by_session.get(&session).copied()
    }
}

/// Whether a datagram left everything as it was. The other causes may have closed a session or hurried a
/// handshake.
fn is_noise(received: &Received) -> bool {
    let cause = match received {
        Received::Dropped(cause) => cause,
        // Passed on, whoever sent it.
        Received::Foreign { .. } => return true,
        // For a tunnel: nothing else follows.
        Received::Packet { kind, .. } => return *kind != PacketKind::Stream,
        _ => return false,
    };
    match cause {
        DropCause::Stranger
        | DropCause::Forged
        | DropCause::Replayed
        | DropCause::Skewed
        | DropCause::Refused
        | DropCause::Uninvited
        | DropCause::RateLimited
        | DropCause::Full => true,
        DropCause::Malformed | DropCause::Late => false,
    }
}

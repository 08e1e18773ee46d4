//! Datagrams in: a train is opened datagram by datagram, where it lies, and each packet goes to its peer.

use super::peer::ToFetch;
use super::{Clock, Node, Train, World};
use crate::limits::PACKET_OVERHEAD;
use crate::service::PeerId;
use crate::session::{CloseCode, DropCause, PacketKind, Received, SessionKey};

impl Node {
    /// Opens what came; false when nothing of it was acceptable, so that nothing follows from it.
    pub(super) fn handle_train(&mut self, clock: Clock, train: Train, world: &mut impl World) -> bool {
        self.counters.trains_in += 1;
        self.counters.bytes_in += u64::from(train.place.len);
        let segment = (train.segment as usize).max(1);
        let (mut touched, mut news): (Option<PeerId>, bool) = (None, false);
        for datagram in world.bytes_mut(train.place).chunks_mut(segment) {
            self.counters.datagrams_in += 1;
            let received = self.sessions.handle_datagram(clock.now, clock.wall, train.path, datagram);
            news |= !is_noise(&received);
            match received {
                Received::Packet { session, number, kind, payload } => {
                    let Some(id) = self.peer_of(clock, session) else { continue };
                    if touched != Some(id)
                        && let Some(previous) = touched.replace(id)
                    {
                        self.end_of_batch(clock, previous);
                    }
                    self.handle_packet(clock, id, number, kind, train.ecn, &datagram[payload]);
                }
                Received::Early { session, payload } => {
                    let Some(id) = self.peer_of(clock, session) else { continue };
                    // The first flight's request is packet number 0 of the session.
                    self.handle_packet(clock, id, 0, PacketKind::Stream, train.ecn, &datagram[payload]);
                    self.end_of_batch(clock, id);
                }
                Received::Control { session, number } => {
                    if let Some(id) = self.peer_of(clock, session)
                        && let Some(peer) = self.peers.get_mut(&id)
                    {
                        peer.connection.on_other_packet_received(clock.now, number);
                    }
                }
                Received::Handled | Received::Dropped(_) => {}
            }
        }
        if let Some(id) = touched {
            self.end_of_batch(clock, id);
        }
        news
    }

    fn handle_packet(
        &mut self,
        clock: Clock,
        id: PeerId,
        number: u64,
        kind: PacketKind,
        ecn: u8,
        payload: &[u8],
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.received_bytes += (payload.len() + PACKET_OVERHEAD) as u64;
        if kind != PacketKind::Stream {
            peer.connection.on_other_packet_received(clock.now, number);
            return;
        }
        let mut sink = ToFetch { fetch: &mut self.fetch, peer: id, now: clock.now, taken: &mut self.taken };
        let handled = peer.connection.handle_payload(clock.now, number, ecn, payload, &mut sink);
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
    let Received::Dropped(cause) = received else { return false };
    match cause {
        DropCause::Stranger
        | DropCause::Forged
        | DropCause::Replayed
        | DropCause::Skewed
        | DropCause::Refused
        | DropCause::RateLimited
        | DropCause::Full => true,
        DropCause::Malformed | DropCause::Late => false,
    }
}

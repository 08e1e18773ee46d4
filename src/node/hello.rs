//! Introductions: each side of a session says once what it is and which services it offers.

use super::peer::{Meeting, Role};
use super::{CHUNK_CHANNEL, Clock, HELLO_CHANNEL, Node, TOO_SLOW};
use crate::base::{StreamId, Time};
use crate::limits::HELLO_SIZE_MAX;
use crate::service::PeerId;
use crate::session::CloseCode;
use crate::stream::RecvMode;
use crate::wire::hello::Hello;

impl Node {
    /// Introduces this node to a peer that just connected.
    pub(super) fn say_hello(&mut self, clock: Clock, id: PeerId) {
        let (relays, services) = (self.relays_to_tell(clock, id), self.services());
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // A peer that gives no stream at all is not told; nothing depends on it.
        let Ok(stream) = peer.connection.open(HELLO_CHANNEL, RecvMode::Ordered) else { return };
        peer.relay_told = relays.first().copied();
        let bytes = Hello { relays, ..Hello::ours(&services) }.emit();
        let written = peer.connection.write(stream, &bytes);
        debug_assert!(written == Ok(bytes.len()), "a new stream takes an introduction");
        peer.connection.finish(stream);
        peer.streams.insert(stream, Role::Introducing);
    }

    /// Gives up introductions and requests for promises that did not come in time: each holds a stream.
    pub(super) fn end_slow_meetings(&mut self, now: Time) {
        while let Some(&(until, id, stream)) = self.meetings.first()
            && until <= now
        {
            self.meetings.pop_first();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.streams.remove(&stream);
            peer.connection.stop(stream, TOO_SLOW);
            peer.connection.reset(stream, TOO_SLOW);
            if peer.request.take_if(|(own, _)| *own == stream).is_none()
                && peer.telling.take_if(|(own, _)| *own == stream).is_none()
                && let Meeting::Listening(text) = &mut peer.hello
            {
                text.clear();
            }
            self.touch(id);
        }
    }

    /// Bytes of a peer's introduction.
    pub(super) fn hear_hello(
        &mut self,
        clock: Clock,
        id: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Meeting::Met(_) = peer.hello {
            peer.hello = Meeting::Listening(Vec::new());
        }
        let Meeting::Listening(text) = &mut peer.hello else { return };
        if !gather(text, bytes, finished, HELLO_SIZE_MAX) {
            return;
        }
        peer.connection.finish(stream);
        if let Some(Role::Meeting(until)) = peer.streams.remove(&stream) {
            self.meetings.remove(&(until, id, stream));
        }
        match Hello::parse(text) {
            Ok(hello) => {
                let serves = hello.services.contains(&CHUNK_CHANNEL);
                peer.hello = Meeting::Met(hello);
                if !serves {
                    self.fetch.peer_down(id);
                }
                self.learn_relays(clock, id);
                self.overlay_met(clock, id);
                self.introduce_met(clock.now, id);
                self.intents_met(clock, id);
            }
            Err(malformed) => {
                self.counters.violations += 1;
                let session = peer.session;
                self.sessions.close(clock.now, session, CloseCode::MALFORMED, malformed.0);
            }
        }
    }
}

/// Adds bytes to a message of at most `most`; whether it is whole, or too long to become one.
pub(super) fn gather(text: &mut Vec<u8>, bytes: &[u8], finished: bool, most: usize) -> bool {
    let room = (most + 1).saturating_sub(text.len());
    text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    finished || text.len() > most
}

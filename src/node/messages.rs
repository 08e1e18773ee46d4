//! Messages that have a stream each: written whole by one side, and to be whole in time at the other; and what ends a session
//! that sent one that is none.

use std::time::Duration;

use super::peer::{Meeting, Peer, Role};
use super::{Node, TOO_SLOW};
use crate::base::{ChannelId, StreamId, Time};
use crate::service::PeerId;
use crate::session::{CloseCode, SessionKey};
use crate::stream::RecvMode;
use crate::wire::Malformed;

impl Role {
    /// By when the peer's message must be whole.
    fn until(self) -> Option<Time> {
        match self {
            Self::Meeting(until) | Self::Told(until) | Self::Asked(until) => Some(until),
            _ => None,
        }
    }
}

impl Peer {
    /// Says a whole message on a stream of its own; `None` when the peer gives no stream now.
    pub(super) fn say(&mut self, channel: ChannelId, role: Role, message: &[u8]) -> Option<StreamId> {
        let stream = self.connection.open(channel, RecvMode::Ordered).ok()?;
        let written = self.connection.write(stream, message);
        debug_assert!(written == Ok(message.len()), "a new stream takes a message");
        self.connection.finish(stream);
        self.streams.insert(stream, role);
        Some(stream)
    }

    /// Takes nothing on a stream, and says nothing there.
    pub(super) fn refuse(&mut self, stream: StreamId, code: u64) {
        self.connection.stop(stream, code);
        self.connection.reset(stream, code);
    }

    /// Forgets what came of a request, or of what is told, on this stream; whether it was that.
    pub(super) fn forget_message(&mut self, stream: StreamId) -> bool {
        let of = |message: &mut (StreamId, Vec<u8>)| message.0 == stream;
        self.request.take_if(of).is_some() || self.telling.take_if(of).is_some()
    }
}

impl Node {
    /// A peer opened a stream for a message, which must be whole within this time.
    pub(super) fn expect_message(
        &mut self,
        now: Time,
        id: PeerId,
        stream: StreamId,
        within_ms: u64,
        role: fn(Time) -> Role,
    ) {
        let until = now + Duration::from_millis(within_ms);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.streams.insert(stream, role(until));
            self.meetings.insert((until, id, stream));
        }
    }

    /// A message of a peer's is whole, or taken back: nobody waits for it.
    pub(super) fn message_ended(&mut self, id: PeerId, stream: StreamId) {
        let role = self.peers.get_mut(&id).and_then(|peer| peer.streams.remove(&stream));
        if let Some(until) = role.and_then(Role::until) {
            self.meetings.remove(&(until, id, stream));
        }
    }

    /// Gives up messages that did not come in time: each holds a stream.
    pub(super) fn end_slow_meetings(&mut self, now: Time) {
        while let Some(&(until, id, stream)) = self.meetings.first()
            && until <= now
        {
            self.meetings.pop_first();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.streams.remove(&stream);
            peer.refuse(stream, TOO_SLOW);
            if !peer.forget_message(stream)
                && let Meeting::Listening(text) = &mut peer.hello
            {
                text.clear();
            }
            self.touch(id);
        }
    }

    /// A peer's message is none: its session ends.
    pub(super) fn malformed(&mut self, now: Time, session: SessionKey, why: Malformed) {
        self.counters.violations += 1;
        self.sessions.close(now, session, CloseCode::MALFORMED, why.0);
    }
}

/// Adds bytes to a message of at most `most`; whether it is whole, or too long to become one.
pub(super) fn gather(text: &mut Vec<u8>, bytes: &[u8], finished: bool, most: usize) -> bool {
    let room = (most + 1).saturating_sub(text.len());
    text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    finished || text.len() > most
}

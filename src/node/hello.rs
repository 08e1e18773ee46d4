//! Introductions: each side of a session says once what it is and which services it offers.

use super::messages::gather;
use super::peer::{Meeting, Role};
use super::{CHUNK_CHANNEL, Clock, HELLO_CHANNEL, Node};
use crate::base::StreamId;
use crate::limits::HELLO_SIZE_MAX;
use crate::service::PeerId;
use crate::wire::hello::Hello;

impl Node {
    /// Introduces this node to a peer that just connected.
    pub(super) fn say_hello(&mut self, clock: Clock, id: PeerId) {
        let (relays, services) = (self.relays_to_tell(clock, id), self.services());
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let told = relays.first().copied();
        let bytes = Hello { relays, ..Hello::ours(&services) }.emit();
        // A peer that gives no stream at all is not told; nothing depends on it.
        if peer.say(HELLO_CHANNEL, Role::Introducing, &bytes).is_some() {
            peer.relay_told = told;
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
        let (session, hello) = (peer.session, Hello::parse(text));
        peer.connection.finish(stream);
        self.message_ended(id, stream);
        match hello {
            Ok(hello) => {
                let serves = hello.services.contains(&CHUNK_CHANNEL);
                let Some(peer) = self.peers.get_mut(&id) else { return };
                peer.hello = Meeting::Met(hello);
                if !serves {
                    self.fetch.peer_down(id);
                }
                self.learn_relays(clock, id);
                self.overlay_met(clock, id);
                self.introduce_met(clock.now, id);
                self.intents_met(clock, id);
            }
            Err(why) => self.malformed(clock.now, session, why),
        }
    }
}

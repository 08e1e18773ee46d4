//! Keeping chunks for others: offers of peers, what is done on their streams, and who hears of what is kept.

use super::peer::{Role, ToServices};
use super::streams::{NOT_WANTED, TOO_SLOW};
use super::{Clock, Node};
use std::net::Ipv6Addr;

use crate::base::bridge::GUESTS;
use crate::base::{StreamId, Way};
use crate::service::PeerId;
use crate::service::keep::Act;
use crate::service::keep::guests::Guest;
use crate::session::OverlayCross;
use crate::stream::RecvMode;

impl Node {
    /// A peer opened a stream to have a chunk kept.
    pub(super) fn keep_opened(&mut self, clock: Clock, id: PeerId, stream: StreamId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.streams.insert(stream, Role::Keeping);
        if peer.trust.is_none() && !std::mem::replace(&mut peer.asks, true) {
            self.know(clock.now, id);
        }
        let guest = self.guest(id);
        self.keep.opened(clock.now, id, stream, guest, &mut self.keep_acts);
    }

    /// On whose account a peer has chunks kept. Nobody's while anybody could have sent what came in another's name.
    fn guest(&self, id: PeerId) -> Option<Guest> {
        let peer = self.peers.get(&id)?;
        let path = self.sessions.path(peer.session).filter(|_| self.sessions.is_confirmed(peer.session))?;
        // Whoever comes by way of another is on the account of that one's network.
        let relay = Way::of(&path.remote).and_then(|way| self.punch.relay_of(way));
        let relay =
            relay.and_then(|relay| self.peers.get(&relay)).and_then(|peer| self.sessions.path(peer.session));
        let remote = match (path.is_relayed(), relay) {
            (false, _) => path.remote,
            // Whoever has many networks has a bridge from each: all who come by one have a single account.
            _ if path.is_bridged() || relay.is_some_and(|relay| relay.is_bridged()) => GUESTS,
            (true, Some(relay)) => relay.remote,
            (true, None) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Some(Guest::of(peer.trust.map(|_| peer.card.key), remote))
    }

    /// Judges what came, does what keeping wants, and has what is kept provided.
    pub(super) fn settle_keeping(&mut self, clock: Clock) {
        self.keep.look(&mut self.keep_acts);
        for act in std::mem::take(&mut self.keep_acts) {
            self.keep_act(clock, act);
        }
        while let Some(chunk) = self.keep.poll_kept() {
            self.say_to_keeper(clock, OverlayCross::Kept(chunk));
        }
    }

    fn keep_act(&mut self, clock: Clock, act: Act) {
        let (Act::Answer(id, stream, _)
        | Act::Accept(id, stream, _)
        | Act::End(id, stream)
        | Act::Abandon(id, stream)) = act;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let connection = &mut peer.connection;
        let said = match act {
            Act::Answer(.., answer) => connection.write(stream, &answer.emit()).is_ok(),
            Act::Accept(_, _, total) => {
                let said = connection.write(stream, &crate::wire::keep::Answer::GoOn.emit()).is_ok();
                let (fetch, keep, taken) = (&mut self.fetch, &mut self.keep, &mut self.taken);
                let mut sink = ToServices { fetch, keep, peer: id, now: clock.now, taken, unasked: 0 };
                connection.accept(stream, RecvMode::Sink, &mut sink);
                connection.set_window(stream, total);
                // What had come already.
                for (stream, bytes) in self.taken.drain(..) {
                    connection.consumed(stream, bytes);
                }
                said
            }
            Act::End(..) => {
                connection.finish(stream);
                true
            }
            Act::Abandon(..) => {
                connection.stop(stream, TOO_SLOW);
                connection.reset(stream, TOO_SLOW);
                peer.streams.remove(&stream);
                true
            }
        };
        if !said {
            // The peer gave the stream up meanwhile.
            peer.connection.stop(stream, NOT_WANTED);
            self.keep.ended(id, stream);
        }
        self.touch(id);
    }
}

//! Giving chunks to keepers: lookups, calls and streams for `service::push`.

use super::command::Report;
use super::leaving::HANDOVER;
use super::peer::Role;
use super::streams::NOT_WANTED;
use super::{Clock, KEEP_CHANNEL, Node};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, NewChunk, PublicKey, StreamId};
use crate::service::PeerId;
use crate::service::push::{Action, Placed};
use crate::session::OverlayCross;
use crate::stream::{RecvMode, SourceId};
use crate::wire::keep::Offer;
use crate::wire::overlay::Contact;

impl Node {
    /// Takes a chunk to give it to others: by a node of the job's own, or by nobody, where it is an anonymous one's. A node that takes no
    /// part in the overlay knows nobody who could keep it.
    pub(super) fn give_away(&mut self, clock: Clock, job: JobId, chunk: Box<NewChunk>, anonymous: bool) {
        let id = chunk.id;
        let taken = match anonymous {
            // What comes when the job is over goes no other way.
            true => self.give_anonymous(job, chunk).is_none(),
            false => self.overlay.is_on() && self.push.push(clock.now, job, *chunk).is_ok(),
        };
        if !taken {
            self.reports.push_back(Report::Placed(Placed { job, chunk: id, keepers: 0 }));
        }
    }

    /// Does what giving wants, until it wants nothing; whether it wanted anything.
    pub(super) fn go_on_pushing(&mut self, clock: Clock) -> bool {
        let mut moved = false;
        while let Some(action) = self.push.poll_action(clock.now) {
            moved = true;
            match action {
                Action::Find(chunk) => self.say_to_keeper(clock, OverlayCross::Near(chunk)),
                Action::Call(contact) => {
                    let card = contact.card;
                    let home = self.sessions.elsewhere(&card.key).unwrap_or(self.overlay.shard.0);
                    let addresses = contact.addresses().collect();
                    self.overlay_cross(clock, home, OverlayCross::Call { card, addresses, answer: true });
                }
                Action::Offer { peer, number, offer } => {
                    let stream = self.make_offer(peer, &offer);
                    self.push.offered(clock.now, peer, number, stream);
                }
                Action::Send(peer, stream, source, len) => {
                    let Some(to) = self.peers.get_mut(&peer) else { continue };
                    // A stream that was given up says so itself.
                    let _ = to.connection.attach(stream, SourceId(source), len);
                    to.connection.finish(stream);
                    self.touch(peer);
                }
                Action::Withdraw(peer, stream) => {
                    let Some(to) = self.peers.get_mut(&peer) else { continue };
                    to.streams.remove(&stream);
                    to.connection.reset(stream, NOT_WANTED);
                    to.connection.stop(stream, NOT_WANTED);
                    self.touch(peer);
                }
            }
        }
        while let Some(placed) = self.push.poll_placed() {
            if placed.job == HANDOVER {
                self.meanings.handover.placed(&placed);
                self.meanings.handover.go_on(clock.now);
                continue;
            }
            self.reports.push_back(Report::Placed(placed));
        }
        moved
    }

    fn make_offer(&mut self, id: PeerId, offer: &Offer) -> Option<StreamId> {
        let peer = self.peers.get_mut(&id)?;
        let stream = peer.connection.open(KEEP_CHANNEL, RecvMode::Ordered).ok()?;
        let written = peer.connection.write(stream, &offer.emit());
        debug_assert!(written == Ok(Offer::LEN), "a new stream takes an offer");
        peer.streams.insert(stream, Role::Giving);
        self.touch(id);
        Some(stream)
    }

    /// Bytes of the answer to an offer.
    pub(super) fn hear_answer(
        &mut self,
        clock: Clock,
        id: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
    ) {
        self.push.answer(clock.now, id, stream, bytes, finished);
        if !self.push.has(id, stream)
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.streams.remove(&stream);
            // What is sent is sent; a stream whose offer was not taken ends here.
            peer.connection.finish(stream);
            self.touch(id);
        }
    }

    /// The keeper of the table knows who is near a chunk.
    pub(super) fn keepers_found(&mut self, clock: Clock, chunk: &ChunkId, nodes: &[Contact]) {
        let own = self.sessions.identity_card().key;
        self.push.found(clock.now, chunk, nodes, &own);
    }

    /// A node that was called has a session with this shard, or there will be none. What is given away is so by nodes of one
    /// shard: one whose home is another is as good as not there.
    pub(super) fn keeper_called(&mut self, clock: Clock, peer: &PublicKey, up: bool) {
        let id = if up { self.link_with(peer) } else { None };
        self.push.called(clock.now, peer, id);
    }
}

//! Gets, and the slices that are asked of peers for them: whom to ask, and what comes of it.

use std::time::Duration;

use super::command::Report;
use super::peer::Role;
use super::streams::{NOT_WANTED, send_request};
use super::{Clock, LIAR_TIME, Node, is_liar};
use crate::base::Time;
use crate::base::fileop::JobId;
use crate::limits::PROGRESS_MS;
use crate::service::fetch;
use crate::service::get::GetRequest;
use crate::session::CloseCode;

impl Node {
    /// Begins a get.
    pub(super) fn start_get(&mut self, clock: Clock, request: GetRequest) {
        let job = request.job;
        if self.friends.len() == 0 && !self.overlay.is_on() {
            let why = "this node has no friends to get it from, and overlay.enabled is false; add one: tornet friend add tornet:node:…";
            return self.fail_get(job, why.to_string());
        }
        if self.get.is_idle() {
            // Nothing may have woken this shard since its last one.
            self.fed = (self.fetch.counters().slices, clock.now);
        }
        if let Err(why) = self.get.start(request) {
            return self.fail_get(job, why);
        }
        self.friends.hurry(clock.now);
        self.lonely_since.get_or_insert(clock.now);
        self.next_progress.get_or_insert(clock.now + Duration::from_millis(PROGRESS_MS));
    }

    /// A get came to nothing.
    pub(super) fn fail_get(&mut self, job: JobId, why: String) {
        self.counters.gets_failed += 1;
        self.reports.push_back(Report::Failed(job, why));
    }

    /// Friends that are not connected and would be asked if they were.
    pub(super) fn friends_away(&self, now: Time) -> usize {
        let away = self.friends.len() - self.friends.connected_len();
        let liars = self.liars.keys().filter(|key| is_liar(&self.liars, now, key));
        away - liars.filter(|key| self.friends.is_away(key)).count()
    }

    pub(super) fn fetch_event(&mut self, clock: Clock, event: fetch::Event) {
        match event {
            fetch::Event::Slice { target, index, data, len, from } => {
                // The peer may have closed behind its last slice, which is verified and comes only once.
                let node = self.peers.get(&from).map(|peer| peer.node);
                self.source_gave(clock, &target.id, len, from);
                self.get.slice(target, index, data, len, node);
            }
            fetch::Event::Unavailable { target } => {
                let away = self.friends_away(clock.now);
                self.get.unavailable(&target, away, self.overlay.is_on());
            }
            fetch::Event::Liar { peer, chunk } => {
                let Some(liar) = self.peers.get(&peer) else { return };
                let (session, node, key) = (liar.session, liar.node, liar.card.key);
                self.liars.retain(|_, since| clock.now.since(*since) < LIAR_TIME);
                self.liars.insert(key, clock.now);
                let warning = format!("node {node} sent wrong bytes for chunk {chunk} and was dropped");
                self.reports.push_back(Report::Warning(warning));
                self.sessions.close(clock.now, session, CloseCode::UNWANTED, "wrong bytes for a chunk");
            }
            fetch::Event::Stop { peer, stream } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.streams.remove(&stream);
                    peer.connection.stop(stream, NOT_WANTED);
                }
                self.queue(clock.now, peer);
            }
        }
    }

    pub(super) fn send_requests(&mut self, clock: Clock) {
        while self.shaping.may_ask(clock.now, self.fetch.is_waiting())
            && let Some(outgoing) = self.fetch.poll_request(clock.now)
        {
            let (id, reply_len) = (outgoing.peer, outgoing.reply_len);
            let Some(peer) = self.peers.get_mut(&id) else {
                self.fetch.no_stream(outgoing);
                self.fetch.peer_down(id);
                continue;
            };
            // Without a stream this peer is asked again when one closes; the others are asked meanwhile.
            if let Some(stream) = send_request(&mut peer.connection, &mut self.fetch, outgoing) {
                peer.streams.insert(stream, Role::Fetching);
                self.shaping.asked(clock.now, reply_len);
                peer.down.take(clock.now, reply_len);
                peer.lent = false;
                self.pause_asking(clock, id);
            }
            self.queue(clock.now, id);
        }
    }
}

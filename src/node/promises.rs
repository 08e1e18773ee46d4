//! Bandwidth that peers ask each other to promise (docs/protocol/reserve.md): what friends asked this node for, within a
//! share of its rate, and what this node asks its friends for, again with each session until it has an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::command::{AskedSnapshot, PeerLimits};
use super::messages::gather;
use super::peer::Role;
use super::{Clock, NOT_WANTED, Node, RESERVE_CHANNEL};
use crate::base::{NodeId, StreamId, Time};
use crate::limits::{ASKED_SHARE_MILLI_USUAL, PROMISES_MAX, RESERVE_MS_MAX, RESERVED_S_MAX};
use crate::service::PeerId;
use crate::shape::{Admission, Asked, Refused, Reservation};
use crate::wire::reserve::{Answer, Request, Verdict, Wanted};

/// What friends had promised to them by asking.
#[derive(Default)]
pub(super) struct Promises {
    granted: BTreeMap<NodeId, (Reservation, Time)>,
    ends: BTreeSet<(Time, NodeId)>,
    /// The node's rate.
    pub up: Option<u64>,
    /// What of it may be promised here, thousandths; `None` is the usual share.
    pub share_milli: Option<u64>,
    /// Among how many shards the share is divided.
    pub shards: u8,
}

impl Promises {
    /// None yet, on one of so many shards.
    pub fn of_shards(shards: u8) -> Self {
        Self { shards, ..Self::default() }
    }

    /// What a node asked for and has.
    pub fn of(&self, node: &NodeId) -> Option<Reservation> {
        let (promise, _) = self.granted.get(node)?;
        let share = self.share()?;
        let all: u64 = self.granted.values().map(|(own, _)| own.rate).sum();
        if all <= share {
            return Some(*promise);
        }
        // Where the node's rate has fallen since, those with the largest have less, and as much as one another.
        let rate = promise.rate.min(self.level(share)).max(1);
        let burst = u128::from(promise.burst) * u128::from(rate) / u128::from(promise.rate.max(1));
        Some(Reservation { rate, burst: burst as u64, ..*promise })
    }

    /// The most that each may have of `share`, so that all of it is used: max-min fairness.
    fn level(&self, share: u64) -> u64 {
        let mut rates: Vec<u64> = self.granted.values().map(|(own, _)| own.rate).collect();
        rates.sort_unstable();
        let (mut left, mut count) = (share, rates.len() as u64);
        for rate in rates {
            if rate > left / count {
                break;
            }
            left -= rate;
            count -= 1;
        }
        left / count.max(1)
    }

    /// What may be promised here by asking, bits per second; `None` while the node's rate is not known.
    fn share(&self) -> Option<u64> {
        let milli = self.share_milli.unwrap_or(ASKED_SHARE_MILLI_USUAL);
        Some((u128::from(self.up?) * u128::from(milli) / 1000) as u64 / u64::from(self.shards.max(1)))
    }

    /// Whether a node asked for something and has it.
    pub fn has(&self, node: &NodeId) -> bool {
        self.granted.contains_key(node)
    }

    /// Forgets what was promised to nodes of which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        let gone: Vec<NodeId> = self.granted.keys().filter(|node| !keep(node)).copied().collect();
        gone.iter().for_each(|node| self.release(node));
    }

    /// Whether anything is promised to a node that asks.
    fn is_willing(&self, node: &NodeId, limits: &BTreeMap<NodeId, PeerLimits>) -> bool {
        self.share_milli != Some(0) && !limits.get(node).is_some_and(|own| own.refuses)
    }

    /// Takes back what was promised to those to whom nothing is any more.
    pub fn revoke(&mut self, limits: &BTreeMap<NodeId, PeerLimits>) -> Vec<NodeId> {
        let gone = self.granted.keys().filter(|node| !self.is_willing(node, limits));
        let gone: Vec<NodeId> = gone.copied().collect();
        gone.iter().for_each(|node| self.release(node));
        gone
    }

    /// For how long it has it.
    pub fn left(&self, now: Time, node: &NodeId) -> Option<Duration> {
        self.granted.get(node).map(|(_, until)| until.since(now))
    }

    fn release(&mut self, node: &NodeId) {
        if let Some((_, until)) = self.granted.remove(node) {
            self.ends.remove(&(until, *node));
        }
    }

    /// When the next one ends.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// The next one that has ended.
    fn expire(&mut self, now: Time) -> Option<NodeId> {
        let (at, node) = *self.ends.first()?;
        (at <= now).then(|| self.release(&node))?;
        Some(node)
    }

    /// Looks at what a friend asks for. What is refused changes nothing.
    pub fn decide(
        &mut self,
        now: Time,
        node: NodeId,
        wanted: &Wanted,
        limits: &BTreeMap<NodeId, PeerLimits>,
    ) -> Answer {
        let refused = |verdict, most| Answer { verdict, duration_s: 0, most };
        if !self.is_willing(&node, limits) {
            return refused(Verdict::Unwilling, 0);
        }
        if self.granted.len() >= PROMISES_MAX && !self.granted.contains_key(&node) {
            return refused(Verdict::Full, 0);
        }
        let others = || self.granted.iter().filter(|(other, _)| **other != node).map(|(_, (own, _))| *own);
        let mut admission = Admission::default();
        // Of a rate that nobody knows nothing can be promised.
        let (Some(up), Some(own)) = (self.up, self.share()) else { return refused(Verdict::Rate, 0) };
        let left = own.saturating_sub(others().map(|one| one.rate).sum());
        if wanted.rate > left {
            return refused(Verdict::Rate, left);
        }
        // What other shards may promise counts as promised.
        let floors: u64 = limits.values().filter_map(|own| own.floor).sum();
        admission.set_line(Some(up), floors + own * u64::from(self.shards.saturating_sub(1)));
        others().chain(limits.values().filter_map(|own| own.reserved)).for_each(|one| admission.keep(one));
        let reservation =
            Reservation { rate: wanted.rate, burst: u64::from(wanted.burst), delay: wanted.delay() };
        let cap = limits.get(&node).and_then(|own| own.up);
        match admission.admit(reservation, cap) {
            Err(Refused::Cap(most)) => refused(Verdict::Cap, most),
            Err(Refused::Burst(most)) => refused(Verdict::Burst, most),
            // The bounds were checked where the request was read.
            Err(other) => refused(Verdict::Rate, other.most()),
            Ok(()) => {
                self.release(&node);
                let until = now + Duration::from_secs(u64::from(wanted.duration_s));
                self.granted.insert(node, (reservation, until));
                self.ends.insert((until, node));
                Answer { verdict: Verdict::Promised, duration_s: wanted.duration_s, most: 0 }
            }
        }
    }
}

/// What this node asked a peer for.
pub(super) struct Asking {
    asked: Asked,
    /// Where the answer comes, and its bytes so far.
    stream: Option<StreamId>,
    text: Vec<u8>,
    /// It was taken back before the answer was here: streams have no order among one another.
    revoked: bool,
    answer: Option<(Answer, Time)>,
}

impl Asking {
    /// It is promised no longer.
    fn revoke(&mut self, now: Time) {
        self.revoked = self.stream.is_some();
        if self.answer.as_ref().is_some_and(|(answer, _)| answer.verdict == Verdict::Promised) {
            self.answer = Some((Answer { verdict: Verdict::Unwilling, duration_s: 0, most: 0 }, now));
        }
    }

    /// To be shown.
    pub fn snapshot(&self, now: Time) -> AskedSnapshot {
        let left = |(answer, at): &(Answer, Time)| {
            let until = *at + Duration::from_secs(u64::from(answer.duration_s));
            until.since(now).as_secs()
        };
        AskedSnapshot {
            reservation: self.asked.reservation,
            verdict: self.answer.as_ref().map(|(answer, _)| answer.verdict),
            left_s: self.answer.as_ref().map_or(0, left),
            most: self.answer.as_ref().map_or(0, |(answer, _)| answer.most),
        }
    }
}

impl Node {
    /// Asks a peer for what it is to promise, unless it was asked already; takes back what is not wanted any more.
    pub(super) fn ask_promise(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.lane == 0) else { return };
        let limits = self.shaping.limits_for(&peer.node);
        let asked = limits.asked.filter(|asked| asked.until_s.saturating_mul(1000) > clock.wall.0);
        if peer.asking.as_ref().map(|asking| asking.asked) == asked {
            return;
        }
        let before = peer.asking.take();
        if let Some(stream) = before.and_then(|asking| asking.stream) {
            // Its answer is of no interest any more.
            peer.streams.remove(&stream);
            peer.connection.stop(stream, NOT_WANTED);
        }
        let request = match asked {
            None => Request::Release,
            Some(asked) => {
                let left = asked.until_s - clock.wall.0 / 1000;
                let wanted = Wanted {
                    rate: asked.reservation.rate,
                    burst: u32::try_from(asked.reservation.burst).unwrap_or(u32::MAX),
                    delay_us: asked.reservation.delay.as_micros() as u32,
                    duration_s: left.clamp(1, u64::from(RESERVED_S_MAX)) as u32,
                };
                if !wanted.is_sound() {
                    return;
                }
                Request::Ask(wanted)
            }
        };
        // A peer that gives no stream at all is asked with its next session.
        let Some(stream) = self.say_request(id, request) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.asking = asked.map(|asked| Asking {
            asked,
            stream: Some(stream),
            text: Vec::new(),
            revoked: false,
            answer: None,
        });
    }

    /// Sends a request on a stream of its own.
    fn say_request(&mut self, id: PeerId, request: Request) -> Option<StreamId> {
        let peer = self.peers.get_mut(&id)?;
        let stream = peer.say(RESERVE_CHANNEL, Role::Asking, &request.emit())?;
        self.touch(id);
        Some(stream)
    }

    /// Takes back what was promised to those who may not have it by asking any more, and tells them. Who is not told, for
    /// want of a session or a stream, hears it when it asks again.
    pub(super) fn revoke_promises(&mut self) {
        for node in self.shaping.revoke() {
            let those = self.peers.iter().filter(|(_, peer)| peer.lane == 0 && peer.node == node);
            let those: Vec<PeerId> = those.map(|(id, _)| *id).collect();
            for id in those {
                self.say_request(id, Request::Revoke);
            }
        }
    }

    /// A peer begins to ask. False when it is asking already.
    pub(super) fn begin_request(&mut self, clock: Clock, id: PeerId, stream: StreamId) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.request.is_none()) else { return false };
        peer.request = Some((stream, Vec::new()));
        self.expect_message(clock.now, id, stream, RESERVE_MS_MAX, Role::Asked);
        true
    }

    /// Bytes of what a peer asks for.
    pub(super) fn hear_request(
        &mut self,
        clock: Clock,
        id: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((_, text)) = peer.request.as_mut().filter(|(own, _)| *own == stream) else { return };
        if !gather(text, bytes, finished, Request::LEN) {
            return;
        }
        let request = Request::parse(text);
        peer.request = None;
        let (session, node, trust) = (peer.session, peer.node, peer.trust);
        self.message_ended(id, stream);
        let most_s = self.promised_at_most(clock.now, u32::MAX);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let shaping = &mut self.shaping;
        let mut had = false;
        let answer = match request {
            Err(why) => return self.malformed(clock.now, session, why),
            Ok(Request::Ask(_)) if trust.is_none() => {
                Answer { verdict: Verdict::Unwilling, duration_s: 0, most: 0 }
            }
            // Nothing is promised beyond the time at which this node means to leave.
            Ok(Request::Ask(_)) if most_s == 0 => {
                Answer { verdict: Verdict::Unwilling, duration_s: 0, most: 0 }
            }
            Ok(Request::Ask(wanted)) => {
                let duration_s = wanted.duration_s.min(most_s);
                shaping.decide(clock.now, node, &Wanted { duration_s, ..wanted })
            }
            Ok(Request::Release) => {
                had = shaping.promises.has(&node);
                shaping.promises.release(&node);
                Answer { verdict: Verdict::Promised, duration_s: 0, most: 0 }
            }
            Ok(Request::Revoke) => {
                if let Some(asking) = &mut peer.asking {
                    asking.revoke(clock.now);
                }
                Answer { verdict: Verdict::Promised, duration_s: 0, most: 0 }
            }
        };
        let changed = match request {
            Ok(Request::Ask(_)) => answer.verdict == Verdict::Promised,
            Ok(Request::Release) => had,
            _ => false,
        };
        if changed {
            self.know_node(clock.now, &node);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let _ = peer.connection.write(stream, &answer.emit());
        peer.connection.finish(stream);
        self.touch(id);
    }

    /// Bytes of a peer's answer.
    pub(super) fn hear_promise(
        &mut self,
        clock: Clock,
        id: PeerId,
        stream: StreamId,
        bytes: &[u8],
        finished: bool,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(asking) = peer.asking.as_mut().filter(|asking| asking.stream == Some(stream)) else {
            // The answer to a release says nothing.
            if finished {
                peer.streams.remove(&stream);
            }
            return;
        };
        if !gather(&mut asking.text, bytes, finished, Answer::LEN) {
            return;
        }
        asking.stream = None;
        peer.streams.remove(&stream);
        match Answer::parse(&std::mem::take(&mut asking.text)) {
            Ok(answer) => {
                asking.answer = Some((answer, clock.now));
                if asking.revoked {
                    asking.revoke(clock.now);
                }
            }
            Err(why) => {
                let session = peer.session;
                self.malformed(clock.now, session, why);
            }
        }
    }

    /// Ends promises whose time is over.
    pub(super) fn end_promises(&mut self, now: Time) {
        while let Some(node) = self.shaping.promises.expire(now) {
            self.know_node(now, &node);
        }
    }

    /// What may be promised is another amount: who has something has as much of it as fits.
    pub(super) fn know_promised(&mut self, now: Time) {
        if !self.shaping.promises.granted.is_empty() {
            self.know_those(now, Promises::has);
        }
    }

    /// What is known of a node may have changed; all its lanes here hear of it.
    fn know_node(&mut self, now: Time, node: &NodeId) {
        self.know_those(now, |_, other| other == node);
    }

    fn know_those(&mut self, now: Time, of: impl Fn(&Promises, &NodeId) -> bool) {
        let promises = &self.shaping.promises;
        let those = self.peers.iter().filter(|(_, peer)| of(promises, &peer.node));
        let those: Vec<PeerId> = those.map(|(id, _)| *id).collect();
        those.into_iter().for_each(|id| self.know(now, id));
    }
}

//! The way of a datagram: out of a node, through its translator, over a link, through the other's translator.

use std::net::SocketAddr;

use super::Net;
use super::node::{end_of_span, up_to};
use super::queue::{Event, Flight};
use crate::base::bridge::is_bridged;
use crate::base::{Memory, Path, Place};
use crate::limits::{BUFFER_HEAD_ROOM, TRAIN_SIZE_MAX};
use crate::node::{Input, Train};
use crate::sim::buffers::RECEIVE_BUFFER;
use crate::sim::nat::Blocked;
use crate::sim::trace::{Event as Traced, Fate, Gone};

/// "Congestion experienced", the ECN code point.
const CE: u8 = 3;

/// A route through the network as it is when something is sent.
pub(super) struct Route {
    pub to: usize,
    /// Where it seems to come from.
    pub source: SocketAddr,
}

impl Net {
    /// Datagrams from outside arrive at a node, past all links and translators.
    pub fn inject(&mut self, node: usize, from: SocketAddr, datagram: &[u8]) {
        if self.nodes[node].is_up() {
            let path = Path { local: self.nodes[node].address, remote: from };
            self.trace.note(self.now, Traced::Injected { to: node, source: from, bytes: datagram });
            self.deliver(node, path, datagram, datagram.len(), 0);
        }
    }

    /// A node sends: each datagram of the train goes its own way.
    pub(super) fn send(&mut self, from: usize, shard: u8, train: Train) {
        let now = self.now;
        let sim = &mut self.nodes[from];
        let place = train.place;
        // The device takes one after another.
        let begin = sim.world.buffers.sent_at().unwrap_or(now).max(now);
        let until = begin + up_to(&mut self.rng, sim.delays.send);
        let memory = sim.world.buffers.send(place.buf, until);
        let bytes = &memory[place.offset as usize..(place.offset + place.len) as usize];
        let (target, segment, ecn) = (train.path.remote, train.segment, train.ecn);
        self.trace.note(now, Traced::Train { from, target, bytes, segment, ecn });
        let route = self.route(from, shard, target);
        // What a bridge hands over comes to the other's own port.
        let target = match &route {
            Ok(route) if is_bridged(&target) => self.nodes[route.to].address,
            _ => target,
        };
        for datagram in bytes.chunks(segment.max(1) as usize) {
            self.nodes[from].datagrams_sent += 1;
            if let Ok(Route { to, .. }) = route {
                self.nonces.sent(from, self.nodes[to].card().key, datagram);
            }
            let (fate, to) = match &route {
                Ok(route) => (self.pass(from, route, target, datagram, ecn), Some(route.to)),
                Err(why) => (Fate::Lost(*why), None),
            };
            self.trace.note(now, Traced::Sent { from, to, len: datagram.len(), fate });
        }
        self.buffers.give(memory);
    }

    pub(super) fn pass(
        &mut self,
        from: usize,
        route: &Route,
        target: SocketAddr,
        datagram: &[u8],
        ecn: u8,
    ) -> Fate {
        let (to, now) = (route.to, self.now);
        if let Some(wire) = &mut self.wire {
            *wire.entry((route.source, target)).or_default() += datagram.len() as u64;
        }
        let mut passage = match self.link_mut(from, to).pass(now, datagram.len()) {
            Ok(passage) => passage,
            Err(why) => return Fate::Lost(Gone::Link(why)),
        };
        if let Some(span) = self.nodes[to].coalesce {
            let arrivals = [Some(&mut passage.arrival), passage.copy.as_mut()];
            arrivals.into_iter().flatten().for_each(|arrival| arrival.at = end_of_span(arrival.at, span));
        }
        let marked = passage.marked && ecn != 0;
        for arrival in [Some(passage.arrival), passage.copy].into_iter().flatten() {
            let mut bytes = datagram.to_vec();
            arrival.damage(&mut bytes);
            let ecn = if marked { CE } else { ecn };
            let flight =
                Flight { from: from as u32, to: to as u32, source: route.source, target, ecn, bytes };
            self.queue.push(arrival.at, Event::Arrival(Box::new(flight)));
        }
        let arrival = passage.arrival;
        Fate::Arrives { at: arrival.at, flip: arrival.flip, copy: passage.copy.map(|copy| copy.at), marked }
    }

    /// Who gets what a node sends to an address now, and where it seems to come from. Its own translator maps it.
    fn route(&mut self, from: usize, shard: u8, target: SocketAddr) -> Result<Route, Gone> {
        let now = self.now;
        if is_bridged(&target) {
            let bridge = self.bridges.get(&(from, target)).ok_or(Gone::NoRoute)?;
            return Ok(Route { to: bridge.0, source: bridge.1 });
        }
        let (address, behind) = (self.nodes[from].address_of(shard), self.nodes[from].nat);
        let host = self.hosts.get(&target).map(|(to, _)| *to);
        if self.blocked.contains(&from) || host.is_some_and(|to| self.blocked.contains(&to)) {
            return Err(Gone::NoRoute);
        }
        if let Some(&(to, _)) = self.hosts.get(&target)
            && (self.nodes[to].nat.is_none() || self.nodes[to].nat == behind)
        {
            // Either it is on the public network or they are neighbours.
            let source = match behind {
                Some(nat) if self.nodes[to].nat.is_none() => {
                    self.nats[nat].outbound(now, address, target).map_err(Gone::Nat)?
                }
                _ => address,
            };
            return Ok(Route { to, source });
        }
        if let (Some(to), None) = (self.exit_of(target.ip()), behind) {
            return Ok(Route { to, source: address });
        }
        let before = *self.nat_of.get(&target.ip()).ok_or(Gone::NoRoute)?;
        if behind == Some(before) && !self.nats[before].config().hairpins {
            return Err(Gone::Nat(Blocked::Hairpin));
        }
        let source = match behind {
            Some(nat) => self.nats[nat].outbound(now, address, target).map_err(Gone::Nat)?,
            None => address,
        };
        let internal = self.nats[before].owner(now, target.port()).ok_or(Gone::Nat(Blocked::Unmapped))?;
        let (to, _) = *self.hosts.get(&internal).ok_or(Gone::NoRoute)?;
        Ok(Route { to, source })
    }

    /// A datagram is at the end of its link. What stands there now decides.
    pub(super) fn arrive(&mut self, flight: Flight) {
        let Flight { from, to, source, target, ecn, mut bytes } = flight;
        let segment = bytes.len();
        while self.nodes[to as usize].coalesce.is_some()
            && bytes.len().is_multiple_of(segment)
            && bytes.len() + segment <= TRAIN_SIZE_MAX
            && let Some((at, Event::Arrival(next))) = self.queue.peek()
            && at == self.now
            && (next.to, next.source, next.target, next.ecn) == (to, source, target, ecn)
            && next.bytes.len() <= segment
            && let Some((_, Event::Arrival(next))) = self.queue.pop(self.now)
        {
            bytes.extend(next.bytes);
        }
        let (from, to) = (from as usize, to as usize);
        if self.exit_of(target.ip()) == Some(to) {
            bytes.chunks(segment.max(1)).for_each(|one| self.enter_exit(to, source, target, one));
            return;
        }
        match self.admit(to, source, target) {
            Ok(local) => {
                let path = Path { local, remote: source };
                let (datagrams, len) = (bytes.len().div_ceil(segment.max(1)), bytes.len());
                self.trace.note(self.now, Traced::Arrived { from, to, source, datagrams, len, ecn });
                self.deliver(to, path, &bytes, segment, ecn);
            }
            Err(why) => self.trace.note(self.now, Traced::Vanished { from, to, len: bytes.len(), why }),
        }
    }

    /// The address of the node at which a datagram reaches it.
    fn admit(&mut self, to: usize, source: SocketAddr, target: SocketAddr) -> Result<SocketAddr, Gone> {
        let local = match self.nodes[to].nat.filter(|nat| self.nats[*nat].external() == target.ip()) {
            Some(nat) => self.nats[nat].inbound(self.now, target.port(), source).map_err(Gone::Nat)?,
            None => target,
        };
        match self.hosts.get(&local) {
            Some((host, _)) if *host != to => Err(Gone::NoRoute),
            None => Err(Gone::NoRoute),
            Some(_) if self.nodes[to].is_up() => Ok(local),
            Some(_) => Err(Gone::Down),
        }
    }

    fn deliver(&mut self, to: usize, path: Path, bytes: &[u8], segment: usize, ecn: u8) {
        if bytes.is_empty() {
            return;
        }
        let sim = &mut self.nodes[to];
        sim.bytes_received += bytes.len() as u64;
        let place = Place { buf: RECEIVE_BUFFER, offset: BUFFER_HEAD_ROOM as u32, len: bytes.len() as u32 };
        sim.world.buffers.begin_receive();
        sim.world.bytes_mut(place).copy_from_slice(bytes);
        let clock = sim.clock(self.now);
        let shard = self.hosts.get(&path.local).map_or(0, |(_, shard)| *shard);
        if let Some(running) = sim.shards.get_mut(usize::from(shard)) {
            let train = Train { path, place, segment: segment as u32, ecn };
            running.core.handle(clock, Input::Train(train), &mut sim.world);
        }
        sim.world.buffers.end_receive();
        self.drain(to, shard);
    }
}

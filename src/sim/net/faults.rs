//! What goes wrong, at the caller's word: links change, translators forget, nodes crash and come back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Net, Traced};
use crate::base::bridge::{OWN, guests_of};
use crate::base::{Rng, UnixMs};
use crate::crypto::hash;
use crate::limits::CLOCK_SKEW_MS_MAX;
use crate::node::{Command, Input};
use crate::sim::Crash;
use crate::sim::effects::Effect;
use crate::sim::link::{Link, LinkConfig};
use crate::sim::nat::{Nat, NatConfig};

impl Net {
    /// The link from one node to another. Its losses and delays are its own: looking at it changes nothing.
    pub(super) fn link_mut(&mut self, from: usize, to: usize) -> &mut Link {
        let (seed, default) = (self.seed, &self.default);
        self.links.entry((from, to)).or_insert_with(|| {
            let ends = [seed, from as u64, to as u64].map(u64::to_le_bytes);
            let seed = hash::blake3(&[b"link", ends.as_flattened()]);
            Link::new(default.clone(), Rng::from_seed(seed))
        })
    }

    /// What the link from one node to another is like.
    pub fn link(&mut self, from: usize, to: usize) -> &LinkConfig {
        &self.link_mut(from, to).config
    }

    /// Changes the link from one node to another. What is on its way stays so.
    pub fn change_link(&mut self, from: usize, to: usize, change: impl FnOnce(&mut LinkConfig)) {
        let config = &mut self.link_mut(from, to).config;
        change(config);
        let what = format!("{config:?}");
        self.trace.note(self.now, Traced::Link(from, to, &what));
    }

    /// Bytes that wait in front of the link between two nodes.
    pub fn link_waiting(&mut self, from: usize, to: usize) -> usize {
        let now = self.now;
        self.link_mut(from, to).waiting(now)
    }

    /// Changes the links between two nodes alike.
    pub fn change_both(&mut self, a: usize, b: usize, change: impl Fn(&mut LinkConfig)) {
        self.change_link(a, b, &change);
        self.change_link(b, a, &change);
    }

    /// Changes every link, those too that nothing was sent over yet.
    pub fn change_all(&mut self, change: impl Fn(&mut LinkConfig)) {
        change(&mut self.default);
        let known: Vec<(usize, usize)> = self.links.keys().copied().collect();
        known.into_iter().for_each(|(from, to)| self.change_link(from, to, &change));
        let what = format!("every other link: {:?}", self.default);
        self.note(None, &what);
    }

    /// Nothing passes from one node to another any more. The other direction is not touched.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.change_link(from, to, |config| config.up = false);
    }

    /// Datagrams pass from one node to another again.
    pub fn heal(&mut self, from: usize, to: usize) {
        self.change_link(from, to, |config| config.up = true);
    }

    /// Datagrams pass everywhere again.
    pub fn heal_all(&mut self) {
        self.change_all(|config| config.up = true);
    }

    /// Nothing passes between the two sides, in either direction.
    pub fn part(&mut self, one: &[usize], other: &[usize]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    /// Gives a node another address, which nobody else has. What is on its way to those that it had is lost.
    pub fn move_to(&mut self, node: usize, address: SocketAddr) {
        self.hosts.retain(|_, (host, _)| *host != node);
        self.roam_to(node, address);
    }

    /// What a node sends comes from another address from now on, which nobody else has. It is still reached at
    /// those that it had.
    pub fn roam_to(&mut self, node: usize, address: SocketAddr) {
        self.nodes[node].address = address;
        self.enter_addresses(node);
        self.trace.note(self.now, Traced::Moved(node, address));
    }

    /// A node has so many shards from its next start on, at ports in a row.
    pub fn set_shards(&mut self, node: usize, count: u8) {
        self.nodes[node].shard_count = count;
        self.hosts.retain(|_, (host, _)| *host != node);
        self.enter_addresses(node);
    }

    /// A firewall lets nothing through to a node but what goes to its first shard's port.
    pub fn close_ports(&mut self, node: usize) {
        self.hosts.retain(|_, (host, shard)| *host != node || *shard == 0);
        self.note(Some(node), "all ports but the first are closed");
    }

    pub(super) fn enter_addresses(&mut self, node: usize) {
        for shard in 0..self.nodes[node].shard_count {
            let address = self.nodes[node].address_of(shard);
            let taken = self.hosts.insert(address, (node, shard));
            assert!(taken.is_none(), "seed {}: {address} is node {taken:?}'s", self.seed);
        }
    }

    /// Puts nodes behind a translator of their own. Their addresses mean nothing to others from then on.
    pub fn put_behind_nat(&mut self, nodes: &[usize], config: NatConfig) {
        let number = self.nats.len();
        let [high, low] = (number as u16).to_be_bytes();
        let external = IpAddr::from([198, 18, high, low]);
        self.nats.push(Nat::new(external, config, self.rng.fork()));
        self.nat_of.insert(external, number);
        for &node in nodes {
            self.nodes[node].nat = Some(number);
            self.trace.note(self.now, Traced::Nat(node, config));
        }
    }

    /// Lets a node reach another by a bridge: where it takes datagrams. Its connection number `number` with that bridge, from
    /// an address of its own; those before it are gone.
    pub fn bridge(&mut self, from: usize, to: usize, number: u16) -> SocketAddr {
        self.bridge_at(from, to, number, 1000 + to as u16)
    }

    /// The same at such a port of loopback.
    pub fn bridge_at(&mut self, from: usize, to: usize, number: u16, port: u16) -> SocketAddr {
        let address = SocketAddr::from((OWN, port));
        let guest = SocketAddr::from((guests_of(from as u64), number));
        self.bridges.retain(|_, (other, source)| (*other, *source) != (from, address));
        self.bridges.insert((from, address), (to, guest));
        self.bridges.insert((to, guest), (from, address));
        address
    }

    /// What a node sends to a bridge leads nowhere from then on.
    pub fn end_bridge(&mut self, node: usize, address: SocketAddr) {
        self.bridges.remove(&(node, address));
        self.bridges.retain(|_, end| *end != (node, address));
    }

    /// A node's network drops all UDP, or no more.
    pub fn block(&mut self, node: usize, blocked: bool) {
        if blocked {
            self.blocked.insert(node);
        } else {
            self.blocked.remove(&node);
        }
        self.note(Some(node), if blocked { "UDP is blocked" } else { "UDP is not blocked" });
    }

    /// The translator before a node forgets its mappings, of all nodes behind it. What is sent from then on comes
    /// from other ports.
    pub fn rebind(&mut self, node: usize) {
        if let Some(nat) = self.nodes[node].nat {
            let forgotten = self.nats[nat].rebind();
            self.trace.note(self.now, Traced::Rebound(node, forgotten));
        }
    }

    /// The translator before a node.
    pub fn nat(&self, node: usize) -> Option<&Nat> {
        self.nodes[node].nat.map(|nat| &self.nats[nat])
    }

    /// Sets a node's wall clock so many milliseconds ahead (or, negative, behind).
    pub fn set_clock(&mut self, node: usize, skew_ms: i64) {
        self.nodes[node].skew_ms = skew_ms;
        self.trace.note(self.now, Traced::Clock(node, skew_ms));
    }

    /// A node ends at once. Datagrams to it vanish; what its threads were doing or had done without telling is
    /// forgotten; files and store keep what they keep.
    pub fn crash(&mut self, node: usize, how: Crash) {
        self.trace.note(self.now, Traced::Crash(node, how));
        let sim = &mut self.nodes[node];
        sim.shards.clear();
        sim.life += 1;
        sim.world.buffers = super::Buffers::new(self.buffers.clone());
        sim.world.store.crash(how);
        sim.files.crash(how, &mut self.rng);
    }

    /// A node that is down starts again: the same identity, what its disk kept, and its friends. As a daemon that
    /// does not know how the last run ended, it refuses early requests for as long as a first flight that was
    /// answered before could be fresh. Jobs are not started again: that is the user's to do.
    pub fn start(&mut self, node: usize) {
        let rng = self.rng.fork();
        self.start_with(node, rng);
    }

    /// The same, with this randomness.
    pub(in crate::sim) fn start_with(&mut self, node: usize, rng: Rng) {
        let sim = &mut self.nodes[node];
        assert!(!sim.is_up(), "seed {}: node {node} runs already", self.seed);
        self.trace.note(self.now, Traced::Start(node));
        let wall = sim.clock(self.now).wall;
        sim.boot(self.now, rng, UnixMs(wall.0 + CLOCK_SKEW_MS_MAX));
        let (friends, tunnels) = (sim.friends.clone(), sim.tunnels.clone());
        let (overlay, introductions) = (sim.overlay.clone(), sim.introductions.clone());
        let provided = sim.world.store.ids();
        for shard in 0..sim.shard_count {
            if let Some(rules) = &overlay {
                self.input(node, shard, Input::Command(Command::Overlay(rules.clone())));
            }
            if let Some(rules) = &introductions {
                self.input(node, shard, Input::Command(Command::Introductions(rules.clone())));
            }
            self.input(node, shard, Input::Command(Command::Friends(friends.clone())));
            self.input(node, shard, Input::Command(Command::Tunnels(tunnels.clone())));
        }
        // As the control thread, which looks through the store.
        if overlay.is_some() {
            self.input(node, 0, Input::Command(Command::Provide(provided)));
        }
    }

    /// The process of a node dies and starts again: sessions and jobs are gone, the disk stays.
    pub fn restart(&mut self, node: usize) {
        self.crash(node, Crash::Process);
        self.start(node);
    }

    /// A node is told to stop: it says goodbye to its peers and ends.
    pub fn stop(&mut self, node: usize) {
        self.command(node, Command::Shutdown);
        self.trace.observer.effects.add(Effect::Stopped, 1);
        self.crash(node, Crash::Process);
    }

    /// Takes the power from a node for a time.
    pub fn power_cycle(&mut self, node: usize, off: Duration) {
        self.crash(node, Crash::Power);
        self.run_for(off);
        self.start(node);
    }

    /// Somebody says where it sees a node.
    #[cfg(test)]
    pub(in crate::sim) fn seen_by(&mut self, node: usize, by: crate::base::PublicKey, address: SocketAddr) {
        let clock = self.nodes[node].clock(self.now);
        for shard in &mut self.nodes[node].shards {
            shard.core.seen_by(clock, by, address);
        }
    }

    /// A node says anything to its friends on the channel of introductions.
    #[cfg(test)]
    pub(in crate::sim) fn tell_raw(&mut self, node: usize, bytes: &[u8]) {
        let clock = self.nodes[node].clock(self.now);
        for shard in 0..self.nodes[node].shard_count {
            if let Some(running) = self.nodes[node].shards.get_mut(usize::from(shard)) {
                running.core.tell_raw(clock, bytes);
            }
            self.drain(node, shard);
        }
    }
}

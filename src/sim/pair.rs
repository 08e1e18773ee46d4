//! A few nodes on one link model under a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::files::{Crash, SimFiles};
use super::link::{Link, LinkConfig};
use super::world::{RECEIVE_BUFFER, SimWorld};
use crate::base::fileop::{FileDone, JobId};
use crate::base::{Path, Place, Rng, Time, UnixMs};
use crate::crypto::{Identity, Secret, Suite};
use crate::limits::{BUFFER_HEAD_ROOM, TRAIN_SIZE_MAX};
use crate::node::command::Friend;
use crate::node::{Clock, Command, Config, Input, Node, Output, Report, Train};
use crate::service::get::GetProgress;

/// A node and its surroundings.
pub struct SimNode {
    /// The node: the same code as in a daemon.
    pub node: Node,
    /// Its buffers and chunks.
    pub world: SimWorld,
    /// Its files.
    pub files: SimFiles,
    /// Where it is.
    pub address: SocketAddr,
    identity: Arc<Identity>,
    /// File operations executed and not yet answered.
    done: Vec<FileDone>,
    /// Everything it reported, but for progress.
    pub reports: Vec<Report>,
    /// The last progress of each job.
    pub progress: BTreeMap<JobId, GetProgress>,
    /// UDP payload bytes that reached it.
    pub bytes_received: u64,
    /// Datagrams that it sent.
    pub datagrams_sent: u64,
}

/// Nodes joined by links of one kind.
pub struct Net {
    /// What everything random comes from: failures print it.
    pub seed: u64,
    /// The time.
    pub now: Time,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// Whether datagrams that arrive together are handed in as one train, as a kernel does.
    pub coalesce: bool,
    links: BTreeMap<(usize, usize), Link>,
    default: LinkConfig,
    flight: BTreeMap<(Time, u64), (usize, Path, Vec<u8>)>,
    next: u64,
    rng: Rng,
}

/// Wall-clock time at the virtual clock's origin.
const EPOCH: UnixMs = UnixMs(1_800_000_000_000);
/// The network's name in simulations.
pub const NETWORK: &[u8] = b"sim";

impl Net {
    /// `count` nodes that do not know one another.
    pub fn new(seed: u64, count: usize, link: LinkConfig) -> Self {
        let mut rng = Rng::from_number(seed);
        let mut net = Self {
            seed,
            now: Time::from_millis(60_000),
            nodes: Vec::new(),
            coalesce: false,
            links: BTreeMap::new(),
            default: link,
            flight: BTreeMap::new(),
            next: 0,
            rng: rng.fork(),
        };
        for index in 0..count {
            let identity = Arc::new(Identity::new(Secret::from_bytes(rng.bytes()), 0, 0));
            let address = SocketAddr::from(([10, 0, 0, index as u8 + 1], 4600));
            let node = make_node(&identity, rng.fork(), net.now);
            net.nodes.push(SimNode {
                node,
                world: SimWorld::new(),
                files: SimFiles::default(),
                address,
                identity,
                done: Vec::new(),
                reports: Vec::new(),
                progress: BTreeMap::new(),
                bytes_received: 0,
                datagrams_sent: 0,
            });
        }
        net
    }

    fn clock(&self) -> Clock {
        Clock { now: self.now, wall: UnixMs(EPOCH.0 + self.now.0 / 1_000_000) }
    }

    /// The link from one node to another, to change.
    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let (default, rng) = (&self.default, &mut self.rng);
        self.links.entry((from, to)).or_insert_with(|| Link::new(default.clone(), rng.fork()))
    }

    /// Makes `friends` the friends of a node.
    pub fn befriend(&mut self, node: usize, friends: &[usize]) {
        let friends = friends
            .iter()
            .map(|&index| {
                let friend = &self.nodes[index];
                Friend { card: *friend.identity.card(), addresses: vec![friend.address], trust: 50 }
            })
            .collect();
        self.command(node, Command::Friends(friends));
    }

    /// The public half of a node's identity.
    pub fn card(&self, node: usize) -> crate::crypto::IdentityCard {
        *self.nodes[node].identity.card()
    }

    /// Hands a command to a node.
    pub fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
    }

    /// The process of a node dies and starts again: sessions and jobs are gone, the disk stays.
    pub fn restart(&mut self, node: usize) {
        let rng = self.rng.fork();
        let sim = &mut self.nodes[node];
        sim.node = make_node(&sim.identity, rng, self.now);
        sim.files.crash(Crash::Process, &mut self.rng);
        sim.done.clear();
        let store = std::mem::take(&mut sim.world.store);
        sim.world = SimWorld::new();
        sim.world.store = store;
    }

    /// Datagrams from outside arrive at a node.
    pub fn inject(&mut self, node: usize, from: SocketAddr, datagram: &[u8]) {
        let path = Path { local: self.nodes[node].address, remote: from };
        self.deliver(node, path, datagram);
    }

    fn deliver(&mut self, node: usize, path: Path, datagram: &[u8]) {
        self.deliver_train(node, path, datagram, datagram.len());
    }

    fn deliver_train(&mut self, node: usize, path: Path, datagram: &[u8], segment: usize) {
        if datagram.is_empty() {
            return;
        }
        let sim = &mut self.nodes[node];
        sim.bytes_received += datagram.len() as u64;
        let len = datagram.len() as u32;
        let segment = segment as u32;
        let place = Place { buf: RECEIVE_BUFFER, offset: BUFFER_HEAD_ROOM as u32, len };
        crate::base::Memory::bytes_mut(&mut sim.world, place).copy_from_slice(datagram);
        self.input(node, Input::Train(Train { path, place, segment, ecn: 0 }));
    }

    fn input(&mut self, index: usize, input: Input) {
        let clock = self.clock();
        let sim = &mut self.nodes[index];
        sim.node.handle(clock, input, &mut sim.world);
        self.drain(index);
    }

    fn drain(&mut self, index: usize) {
        let clock = self.clock();
        loop {
            let sim = &mut self.nodes[index];
            let Some(output) = sim.node.poll(clock, &mut sim.world) else { break };
            match output {
                Output::Train(train) => self.send(index, train),
                Output::File(op) => {
                    let done = sim.files.execute(op);
                    sim.done.push(done);
                }
                Output::Report(Report::Progress(job, progress)) => {
                    sim.progress.insert(job, progress);
                }
                Output::Report(report) => sim.reports.push(report),
            }
        }
    }

    fn send(&mut self, from: usize, train: Train) {
        use crate::base::Memory;
        let bytes = self.nodes[from].world.bytes(train.place).to_vec();
        self.nodes[from].world.free(train.place.buf);
        let Some(to) = self.nodes.iter().position(|node| node.address == train.path.remote) else { return };
        let path = Path { local: train.path.remote, remote: self.nodes[from].address };
        let now = self.now;
        for datagram in bytes.chunks(train.segment as usize) {
            self.nodes[from].datagrams_sent += 1;
            let Ok(passage) = self.link(from, to).pass(now, datagram.len()) else { continue };
            for arrival in [Some(passage.arrival), passage.copy].into_iter().flatten() {
                let mut bytes = datagram.to_vec();
                arrival.damage(&mut bytes);
                self.next += 1;
                self.flight.insert((arrival.at, self.next), (to, path, bytes));
            }
        }
    }

    /// Lets one thing happen; false when nothing ever will.
    fn step(&mut self, deadline: Time) -> bool {
        for index in 0..self.nodes.len() {
            let done = std::mem::take(&mut self.nodes[index].done);
            let faulted = self.nodes[index].world.store.take_faulted();
            if done.is_empty() && faulted.is_empty() {
                continue;
            }
            done.into_iter().for_each(|done| self.input(index, Input::FileDone(done)));
            for (handle, slice) in faulted.into_iter().collect::<BTreeSet<_>>() {
                self.input(index, Input::Warmed { handle, slice });
            }
            return true;
        }
        let arrival = self.flight.first_key_value().map(|((at, _), _)| *at);
        let timer = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, sim)| sim.node.poll_timeout().map(|at| (at, index)))
            .min();
        let next = arrival.into_iter().chain(timer.map(|(at, _)| at)).min();
        let Some(next) = next.filter(|at| *at <= deadline) else {
            self.now = self.now.max(deadline);
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next)
            && let Some((_, (to, path, bytes))) = self.flight.pop_first()
        {
            let (segment, mut bytes) = (bytes.len(), bytes);
            while self.coalesce
                && bytes.len().is_multiple_of(segment)
                && bytes.len() + segment <= TRAIN_SIZE_MAX
                && let Some(entry) = self.flight.first_entry()
                && entry.key().0 == next
                && (entry.get().0, entry.get().1) == (to, path)
                && entry.get().2.len() <= segment
            {
                bytes.extend(entry.remove().2);
            }
            self.deliver_train(to, path, &bytes, segment);
        } else if let Some((_, index)) = timer {
            self.input(index, Input::Tick);
        }
        true
    }

    /// Runs until `done` says so (true) or `limit` of virtual time has passed (false).
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Net) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(deadline) {
                return done(self);
            }
        }
    }

    /// Runs for a time.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }
}

fn make_node(identity: &Arc<Identity>, rng: Rng, now: Time) -> Node {
    let config = Config {
        identity: Arc::clone(identity),
        network: NETWORK.to_vec(),
        place_floor_bits: 0,
        suite: Suite::preferred(),
        home_port: 0,
        refuse_early_until: UnixMs(0),
    };
    Node::new(config, rng, now)
}

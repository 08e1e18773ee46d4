//! Nodes on a network under a virtual clock: links between every two, address translators, crashes.
//!
//! A [`Net`] is driven from outside: change it, ask its nodes, then [`Net::run_until`] something is so, or
//! [`Net::run`] from one [`Notice`] to the next. Whatever happens in between comes from one queue of events and
//! from one seed.

mod faults;
mod node;
mod outside;
mod path;
mod queue;
mod run;
mod tun;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::buffers::{Buffers, Pool};
use super::link::{Link, LinkConfig};
use super::nat::Nat;
use super::nonces::Nonces;
use super::trace::{Event as Traced, Seconds, Trace};
use super::world::SimWorld;
use crate::base::{Rng, Time, UnixMs};
use crate::crypto::{Identity, IdentityCard, Secret};
use crate::node::command::Friend;
use crate::node::{Command, Input};
use node::up_to;
use queue::{Event, Queue};

pub use node::{Delays, EPOCH, NETWORK, SimNode};

/// What ends [`Net::run`] before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A time has come that was asked for with [`Net::call_at`].
    Call {
        /// For which node.
        node: Option<usize>,
        /// The caller's own number.
        token: u64,
    },
    /// A node reported something (but for progress): the `index`-th of its `reports`.
    Report {
        /// Which node.
        node: usize,
        /// Which report.
        index: usize,
    },
}

/// Nodes and the network between them.
pub struct Net {
    /// What everything random comes from: failures print it.
    pub seed: u64,
    /// The time.
    pub now: Time,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// The share of messages between shards that find no room.
    pub lose_crossings: f64,
    /// A mistake to make: the share of due timers that nodes are not told of.
    pub drop_timers: f64,
    /// What happened.
    pub trace: Trace,
    /// Whether the nodes use each nonce once.
    pub nonces: Nonces,
    queue: Queue,
    notices: VecDeque<Notice>,
    /// Which node, and which of its shards, has which address.
    hosts: BTreeMap<SocketAddr, (usize, u8)>,
    nats: Vec<Nat>,
    nat_of: BTreeMap<IpAddr, usize>,
    /// Where what a node sends to an address of a bridge comes out, and from which address it seems to come there.
    bridges: BTreeMap<(usize, SocketAddr), (usize, SocketAddr)>,
    /// Nodes in networks that block UDP.
    blocked: BTreeSet<usize>,
    /// What is behind exits, by node, and by the address that they share.
    outside: BTreeMap<usize, Nat>,
    outside_of: BTreeMap<IpAddr, usize>,
    /// Bytes that were sent from one address to another, as the wire shows them to everybody. Kept when asked for.
    pub wire: Option<BTreeMap<(SocketAddr, SocketAddr), u64>>,
    links: BTreeMap<(usize, usize), Link>,
    default: LinkConfig,
    buffers: Pool,
    rng: Rng,
    /// When `turns` were last counted from zero.
    instant: Time,
    /// Things that happened at that instant.
    turns: usize,
    /// The most that happened at any.
    busiest: usize,
}

/// So many things may happen at one virtual instant, and so many more for each node: what a livelock needs only a
/// blink for. A thousand nodes that begin together come to 24 each, scenarios of the first 250 seeds to 200 in all.
const TURNS_MAX: usize = 20_000;
const TURNS_PER_NODE_MAX: usize = 200;

impl Net {
    /// `count` nodes that do not know one another. They have been running for longer than any first flight is
    /// fresh, so they take early requests at once.
    pub fn new(seed: u64, count: usize, link: LinkConfig) -> Self {
        Self::with_shards(seed, &vec![1; count], link)
    }

    /// As [`Self::new`], each node with so many shards.
    pub fn with_shards(seed: u64, shards: &[u8], link: LinkConfig) -> Self {
        let mut net = Self {
            seed,
            now: Time::from_millis(60_000),
            nodes: Vec::new(),
            lose_crossings: 0.0,
            drop_timers: 0.0,
            trace: Trace::default(),
            nonces: Nonces::default(),
            queue: Queue::default(),
            notices: VecDeque::new(),
            hosts: BTreeMap::new(),
            nats: Vec::new(),
            nat_of: BTreeMap::new(),
            bridges: BTreeMap::new(),
            blocked: BTreeSet::new(),
            outside: BTreeMap::new(),
            outside_of: BTreeMap::new(),
            wire: None,
            links: BTreeMap::new(),
            default: link,
            buffers: Pool::default(),
            rng: Rng::from_number(seed),
            instant: Time::ZERO,
            turns: 0,
            busiest: 0,
        };
        for count in shards {
            let index = net.add_node();
            net.set_shards(index, *count);
            let (now, rng) = (net.now, net.rng.fork());
            net.nodes[index].boot(now, rng, UnixMs(0));
        }
        net
    }

    /// A further node, which is down.
    pub fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        let identity = Arc::new(Identity::new(Secret::from_bytes(self.rng.bytes()), 0, 0));
        let [_, high, middle, low] = (index as u32 + 1).to_be_bytes();
        let address = SocketAddr::from(([10, high, middle, low], 4600));
        let buffers = Buffers::new(self.buffers.clone());
        self.nodes.push(SimNode::new(identity, address, SimWorld { buffers, ..SimWorld::default() }));
        self.enter_addresses(index);
        index
    }

    /// Makes `friends` the friends of a node, each at the address that it has now.
    pub fn befriend(&mut self, node: usize, friends: &[usize]) {
        let friends = friends.iter().map(|&index| {
            let friend = &self.nodes[index];
            Friend {
                card: *friend.card(),
                addresses: vec![friend.address],
                bridge: None,
                trust: 50,
                introduce: true,
            }
        });
        let friends = friends.collect();
        self.command(node, Command::Friends(friends));
    }

    /// The public half of a node's identity.
    pub fn card(&self, node: usize) -> IdentityCard {
        *self.nodes[node].card()
    }

    /// Hands a command to a node; false when it is down. Friends are remembered also then, and given again
    /// after every start, as the daemon's control thread does.
    pub fn command(&mut self, node: usize, command: Command) -> bool {
        if let Command::Friends(friends) = &command {
            self.nodes[node].friends.clone_from(friends);
        }
        if let Command::Tunnels(tunnels) = &command {
            self.nodes[node].tunnels.clone_from(tunnels);
        }
        if let Command::Overlay(rules) = &command {
            self.nodes[node].overlay = Some(rules.clone());
        }
        if let Command::Introductions(rules) = &command {
            self.nodes[node].introductions = Some(rules.clone());
        }
        let what = match &command {
            Command::Friends(friends) => format!("{} friends", friends.len()),
            Command::Introductions(rules) => format!("introductions: {} hands", rules.hands),
            Command::Tunnels(tunnels) => format!("{} tunnels", tunnels.len()),
            Command::Relay(rules) => format!("relay: {}", rules.relay),
            Command::Exit(rules) => format!("exit: {} rules", rules.policy.0.len()),
            Command::Circuit(want) => format!("circuit: {} hops", want.as_ref().map_or(0, |want| want.hops)),
            Command::Get(request) => format!("get, job {}", request.job.0),
            Command::Anonymous(one) => format!("over {} hops, job {}", one.hops, one.job().0),
            Command::Push { job, chunk, .. } => format!("push {}, job {}", chunk.id, job.0),
            Command::Cancel(job) => format!("cancel job {}", job.0),
            Command::Nat(rules) => format!("{} servers of STUN", rules.stun.len()),
            Command::Intents(rules) => format!("grants {} s", rules.grant_max_s),
            Command::Leave(in_ms) => format!("leave in {in_ms:?} ms"),
            Command::Online(for_s) => format!("online for {for_s:?} s"),
            Command::AskStay { more_s, .. } => format!("ask for {more_s} s more"),
            Command::Overlay(rules) => format!("overlay: {}", rules.enabled),
            Command::Provide(chunks) => format!("provide {} chunks", chunks.len()),
            Command::Restore(known) => format!("restore {} peers", known.len()),
            Command::Peers { .. } => "peers".to_owned(),
            Command::Limits(limits) => format!("limits up {:?} down {:?}", limits.up, limits.down),
            Command::Status { token } => format!("status {token}"),
            Command::Shutdown => "shutdown".to_owned(),
        };
        if !self.nodes[node].is_up() {
            return false;
        }
        self.trace.note(self.now, Traced::Command(node, &what));
        let shards = self.nodes[node].shards_for(&command);
        for shard in shards.start + 1..shards.end {
            let same = match &command {
                Command::Friends(friends) => Command::Friends(friends.clone()),
                Command::Introductions(rules) => Command::Introductions(rules.clone()),
                Command::Tunnels(tunnels) => Command::Tunnels(tunnels.clone()),
                Command::Relay(rules) => Command::Relay(*rules),
                Command::Status { token } => Command::Status { token: *token },
                Command::Limits(limits) => Command::Limits(limits.clone()),
                Command::Exit(rules) => Command::Exit(rules.clone()),
                Command::Circuit(want) => Command::Circuit(want.clone()),
                Command::Overlay(rules) => Command::Overlay(rules.clone()),
                Command::Nat(rules) => Command::Nat(rules.clone()),
                Command::Intents(rules) => Command::Intents(*rules),
                Command::Leave(in_ms) => Command::Leave(*in_ms),
                Command::Online(for_s) => Command::Online(*for_s),
                // Nothing but its home has a session to ask on.
                Command::AskStay { peer, more_s } => Command::AskStay { peer: *peer, more_s: *more_s },
                Command::Get(_)
                | Command::Anonymous(_)
                | Command::Cancel(_)
                | Command::Provide(_)
                | Command::Push { .. }
                | Command::Restore(_)
                | Command::Peers { .. }
                | Command::Shutdown => Command::Shutdown,
            };
            self.input(node, shard, Input::Command(same));
        }
        self.input(node, shards.start, Input::Command(command));
        true
    }

    /// Asks for a [`Notice::Call`] at a time. One for a node is forgotten when that node crashes.
    pub fn call_at(&mut self, at: Time, node: Option<usize>, token: u64) {
        let host = node.map(|node| self.nodes[node].host(node, 0));
        self.queue.push(at.max(self.now), Event::Call(host, token));
    }

    /// A time between nothing and `most`, from the seed.
    pub fn draw(&mut self, most: Duration) -> Duration {
        up_to(&mut self.rng, most)
    }

    /// Enters something of the caller's own into the trace.
    pub fn note(&mut self, node: Option<usize>, what: &str) {
        self.trace.note(self.now, Traced::Note(node, what));
    }

    /// Runs until there is something to tell, or until `deadline` (`None`).
    pub fn run(&mut self, deadline: Time) -> Option<Notice> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Some(notice);
            }
            if !self.step(deadline) {
                return None;
            }
        }
    }

    /// The most things that happened at one virtual instant.
    pub fn busiest(&self) -> usize {
        self.busiest
    }

    /// Counts what happens while no time goes by: it must have an end.
    fn turn(&mut self) {
        if self.instant != self.now {
            (self.instant, self.turns) = (self.now, 0);
        }
        self.turns += 1;
        self.busiest = self.busiest.max(self.turns);
        let most = TURNS_MAX + TURNS_PER_NODE_MAX * self.nodes.len();
        if self.turns > most {
            self.trace.keep_tail();
        }
        assert!(
            self.turns <= most + most / 10,
            "seed {}: no end of what happens at {}; at last:{}",
            self.seed,
            Seconds(self.now),
            self.trace.tail()
        );
    }

    /// Runs until `done` says so (true) or `limit` of virtual time has passed (false).
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Net) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            self.notices.clear();
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

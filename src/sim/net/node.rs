//! A node and its surroundings: what a daemon's process, its disk and its host are in the simulation.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Host;
use crate::base::fileop::{FileDone, FileOp, JobId};
use crate::base::{Offload, Rng, Time, UnixMs};
use crate::crypto::{Identity, IdentityCard, Suite};
use crate::node::command::{Friend, GetProgress, GetRequest, IntroductionRules, OverlayRules, TunnelPeer};
use crate::node::{Clock, Command, Config, Node, Report};
use crate::sim::files::SimFiles;
use crate::sim::world::SimWorld;

/// Wall-clock time at the virtual clock's origin.
pub const EPOCH: UnixMs = UnixMs(1_800_000_000_000);
/// The network's name in simulations.
pub const NETWORK: &[u8] = b"sim";

/// How long what a shard waits for takes at most; each time is drawn from the seed, evenly from nothing to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// One operation of the files thread. It does one after another.
    pub file: Duration,
    /// An answer of the files thread, from its queue to the shard.
    pub answer: Duration,
    /// Faulting one cold slice in. Several go on at once and end in any order.
    pub warm: Duration,
    /// A message from one shard to another.
    pub cross: Duration,
    /// The device, from being given a train to giving its buffer back.
    pub send: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            file: Duration::from_micros(100),
            answer: Duration::from_micros(50),
            warm: Duration::from_micros(500),
            cross: Duration::from_micros(20),
            send: Duration::from_micros(20),
        }
    }
}

/// A running shard, with its files thread. All shards of a node share its buffers and its store, which are views of
/// the same in the daemon.
pub(super) struct Shard {
    pub core: Node,
    pub thread: FilesThread,
    /// Of the events in the queue that stand for its deadline, the one that counts.
    pub armed: Option<Time>,
    /// The deadline that was reported last.
    pub ticked: Option<Time>,
}

/// The files thread and its two queues.
#[derive(Default)]
pub(super) struct FilesThread {
    /// Operations given to it and not carried out.
    pub waiting: VecDeque<FileOp>,
    /// Answers that the shard has not heard.
    pub answers: VecDeque<FileDone>,
    /// The operation that had no room; nothing is polled while there is one.
    pub held: Option<FileOp>,
}

impl FilesThread {
    /// Operations without an answer.
    pub fn out(&self) -> usize {
        self.waiting.len() + self.answers.len()
    }
}

/// A node and its surroundings.
pub struct SimNode {
    /// Empty while the node is down.
    pub(super) shards: Vec<Shard>,
    /// How often it was taken down or up.
    pub(super) life: u32,
    /// How many shards it has when it runs.
    pub(super) shard_count: u8,
    pub(super) address: SocketAddr,
    /// The translator that it is behind.
    pub(super) nat: Option<usize>,
    pub(super) identity: Arc<Identity>,
    /// What its configuration says, and the control thread tells it after a start.
    pub(super) friends: Vec<Friend>,
    /// And of tunnels.
    pub(super) tunnels: Vec<TunnelPeer>,
    /// And of the overlay.
    pub(super) overlay: Option<Box<OverlayRules>>,
    /// And of introductions.
    pub(super) introductions: Option<Box<IntroductionRules>>,
    /// How far its wall clock is ahead, milliseconds.
    pub(super) skew_ms: i64,
    /// Its buffers and chunks.
    pub world: SimWorld,
    /// Its files.
    pub files: SimFiles,
    /// Whether datagrams that arrive together are handed in as one train, as a kernel with GRO does; those
    /// count as together that arrive in the same span of this length, at the end of which the device tells of them.
    pub coalesce: Option<Duration>,
    /// How long its threads and devices take.
    pub delays: Delays,
    /// Everything it reported, but for progress.
    pub reports: Vec<Report>,
    /// The last progress of each job.
    pub progress: BTreeMap<JobId, GetProgress>,
    /// Packets and superpackets that it wrote to its TUN device.
    pub tun_written: Vec<(Vec<u8>, Offload)>,
    /// What its SOCKS proxy got.
    pub proxied: Vec<(Vec<u8>, Offload)>,
    /// UDP payload bytes that reached it.
    pub bytes_received: u64,
    /// Datagrams that it sent.
    pub datagrams_sent: u64,
}

impl SimNode {
    pub(super) fn new(identity: Arc<Identity>, address: SocketAddr, world: SimWorld) -> Self {
        Self {
            shards: Vec::new(),
            life: 0,
            shard_count: 1,
            address,
            nat: None,
            identity,
            friends: Vec::new(),
            tunnels: Vec::new(),
            overlay: None,
            introductions: None,
            skew_ms: 0,
            world,
            files: SimFiles::default(),
            coalesce: None,
            delays: Delays::default(),
            reports: Vec::new(),
            progress: BTreeMap::new(),
            tun_written: Vec::new(),
            proxied: Vec::new(),
            bytes_received: 0,
            datagrams_sent: 0,
        }
    }

    /// The first of its shards, the same code as in a daemon; `None` while it is down.
    pub fn node(&self) -> Option<&Node> {
        self.nodes().next()
    }

    /// All of its shards; none while it is down.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().map(|shard| &shard.core)
    }

    /// The address of one of its shards.
    pub(super) fn address_of(&self, shard: u8) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.address.port() + u16::from(shard))
    }

    /// Where a command goes to: a `get` to a shard by its number, everything else but its end to all.
    pub(super) fn shards_for(&self, command: &Command) -> Range<u8> {
        match command {
            Command::Get(GetRequest { job, .. }) | Command::Cancel(job) => {
                let shard = (job.0 % u64::from(self.shard_count)) as u8;
                shard..shard + 1
            }
            // What there is once is on the first.
            Command::Provide(_)
            | Command::Restore(_)
            | Command::Peers { .. }
            | Command::Anonymous(_)
            | Command::Push { .. } => 0..1,
            Command::Friends(_)
            | Command::Introductions(_)
            | Command::Overlay(_)
            | Command::Nat(_)
            | Command::Intents(_)
            | Command::Leave(_)
            | Command::Online(_)
            | Command::AskStay { .. }
            | Command::Tunnels(_)
            | Command::Relay(_)
            | Command::Exit(_)
            | Command::Circuit(_)
            | Command::Limits(_)
            | Command::Status { .. }
            | Command::Shutdown => 0..self.shard_count,
        }
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Where it is, as it knows itself.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The public half of its identity.
    pub fn card(&self) -> &IdentityCard {
        self.identity.card()
    }

    /// Its clocks. The monotonic one is the world's.
    pub(in crate::sim) fn clock(&self, now: Time) -> Clock {
        Clock { now, wall: UnixMs((EPOCH.0 + now.0 / 1_000_000).saturating_add_signed(self.skew_ms)) }
    }

    pub(super) fn host(&self, index: usize, shard: u8) -> Host {
        Host { node: index as u32, life: self.life, shard }
    }

    /// A process begins.
    pub(super) fn boot(&mut self, now: Time, mut rng: Rng, refuse_early_until: UnixMs) {
        self.life += 1;
        let others: Vec<Rng> = (1..self.shard_count).map(|_| rng.fork()).collect();
        for (shard, rng) in (0..).zip(std::iter::once(rng).chain(others)) {
            let config = Config {
                identity: Arc::clone(&self.identity),
                network: NETWORK.to_vec(),
                place_floor_bits: 0,
                // Not the one that this host is fast at: a seed means the same on every host.
                suite: Suite::Aes256Gcm,
                home_port: self.address_of(shard).port(),
                refuse_early_until,
                only_friends: self.introductions.as_ref().is_some_and(|rules| rules.only),
                shard: (shard, self.shard_count),
            };
            let core = Node::new(config, rng, now);
            self.shards.push(Shard { core, thread: FilesThread::default(), armed: None, ticked: None });
        }
    }
}

/// The end of the span of this length that a time lies in.
pub(super) fn end_of_span(at: Time, span: Duration) -> Time {
    Time(at.0.next_multiple_of((span.as_nanos() as u64).max(1)))
}

/// A time between nothing and `most`.
pub(super) fn up_to(rng: &mut Rng, most: Duration) -> Duration {
    Duration::from_nanos(rng.below(most.as_nanos() as u64 + 1))
}

//! What the control thread asks of a node, and what it hears.

mod intents;
mod introductions;
mod overlay;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::fileop::JobId;
use crate::base::{ChunkId, NewChunk, NodeId, Prefix, PublicKey};
use crate::crypto::{Identity, IdentityCard};
use crate::onion::policy::Policy;

pub use self::intents::{
    AskedToStay, HandoverSnapshot, IntentRules, IntentSnapshot, LeavingSnapshot, SaidToStay,
};
pub use self::overlay::{NatRules, OverlayRules, OverlaySnapshot};
pub use crate::overlay::peers::Known;
pub use crate::service::get::{GetProgress, GetRequest};
pub use crate::service::push::Placed;
use crate::shape::Reservation;
pub use crate::shape::{Asked, NodeLimits, PeerLimits};
use crate::shape::{Class, ClassStats};
pub use crate::wire::reserve::Verdict;
pub use introductions::{IntroductionRules, IntroductionSnapshot, OfferSnapshot};

/// A request from the control thread. Each `Get` and `Status` is answered by reports with its number.
#[derive(Debug)]
pub enum Command {
    /// Replaces the set of friends: new ones are connected, missing ones closed.
    Friends(Vec<Friend>),
    /// Who hears of whom through friends from now on, and whether anybody but friends is heard.
    Introductions(Box<IntroductionRules>),
    /// Replaces the set of tunnels. Packets for friends alone are carried.
    Tunnels(Vec<TunnelPeer>),
    /// Fetches content into files.
    Get(GetRequest),
    /// Fetches content into files, or gives chunks to others, through circuits of the job's own.
    Anonymous(Box<Anonymous>),
    /// Has others keep a chunk. At most [`crate::limits::PUSH_CHUNKS_MAX`] and [`crate::limits::PUSH_BYTES_MAX`] bytes wait
    /// for their [`Report::Placed`]; beyond that nobody keeps it.
    Push {
        /// Whose it is.
        job: JobId,
        /// The chunk.
        chunk: Box<NewChunk>,
        /// By the job's own node and its circuits, or not at all.
        anonymous: bool,
    },
    /// What this node does for circuits of others from now on.
    Relay(CircuitRules),
    /// What leaves through this node for others from now on, when it is an exit.
    Exit(Box<ExitRules>),
    /// Keeps a circuit open from now on, or none any more.
    Circuit(Option<CircuitWant>),
    /// Gives a job up; its journal stays, so that the same `get` resumes.
    Cancel(JobId),
    /// What may be sent and asked for from now on.
    Limits(Box<NodeLimits>),
    /// What the node does for and in the overlay from now on.
    Overlay(Box<OverlayRules>),
    /// What is known and wanted of whatever translates this node's addresses.
    Nat(NatRules),
    /// What friends may have this node do, and what it asks of them by itself.
    Intents(IntentRules),
    /// This node leaves in so many milliseconds, or does not leave: its peers hear it, and what it provides is handed over.
    Leave(Option<u64>),
    /// This node means to stay for so many seconds, or says nothing of it.
    Online(Option<u32>),
    /// Asks a friend to be there for so many seconds longer than it means to.
    AskStay {
        /// Whom.
        peer: PublicKey,
        /// How much longer.
        more_s: u32,
    },
    /// Chunks of the store, to be provided to the network; at most [`crate::limits::PROVIDE_BATCH`].
    Provide(Vec<ChunkId>),
    /// Peers that an earlier run met; at most [`crate::limits::PEERS_BATCH`].
    Restore(Vec<Known>),
    /// Asks for the peers that were met: those behind this place, as many as [`Report::Peers`] holds.
    Peers {
        /// `None`: from the first.
        after: Option<NodeId>,
    },
    /// Asks for a snapshot.
    Status {
        /// Handed back in the report.
        token: u64,
    },
    /// Says goodbye to every peer; the daemon is about to end.
    Shutdown,
}

/// What a node does for circuits of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitRules {
    /// Whether it relays.
    pub relay: bool,
    /// Whether circuits may end here.
    pub exit: bool,
    /// Whether friends may name it to theirs.
    pub named: bool,
}

impl Default for CircuitRules {
    /// A relay that its friends' friends may use, and no exit.
    fn default() -> Self {
        Self { relay: true, exit: false, named: true }
    }
}

/// What an exit lets out, and under which addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitRules {
    /// What may be reached.
    pub policy: Policy,
    /// Where circuits get their addresses from, behind the node's device.
    pub pools: Vec<Prefix>,
    /// Bytes per second of all circuits together, both ways; `None`: no limit.
    pub rate: Option<u64>,
}

/// A job of which nobody shall learn whose it is (docs/protocol/onion.md §12).
pub struct Anonymous {
    /// What it is to do.
    pub work: Work,
    /// Made for it alone, and shown to nobody before.
    pub identity: Arc<Identity>,
    /// Hops of its circuits, the exit among them.
    pub hops: u8,
    /// The exit, if it must be this one.
    pub exit: Option<PublicKey>,
    /// Whether one possible first hop will do.
    pub force: bool,
}

/// What an anonymous job does.
#[derive(Debug)]
pub enum Work {
    /// Fetches content into files.
    Get(GetRequest),
    /// Gives chunks to keepers, those that come with [`Command::Push`], until it is cancelled.
    Give(JobId),
}

impl Anonymous {
    /// Which job it is.
    pub fn job(&self) -> JobId {
        match &self.work {
            Work::Get(request) => request.job,
            Work::Give(job) => *job,
        }
    }
}

impl std::fmt::Debug for Anonymous {
    /// Without its identity.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Anonymous")
            .field("work", &self.work)
            .field("hops", &self.hops)
            .finish_non_exhaustive()
    }
}

/// What circuit is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CircuitWant {
    /// Hops, the exit among them.
    pub hops: u8,
    /// The exit, if it must be this one.
    pub exit: Option<PublicKey>,
    /// Whether one possible first hop will do.
    pub force: bool,
    /// What of the device's packets goes through it, as far as no tunnel to a friend takes it.
    pub routes: Vec<Prefix>,
    /// Whether a SOCKS proxy uses it, too: some local ports are the proxy's then.
    pub proxied: bool,
    /// How many circuits there are to be at once, that share nothing but the exit: 1 to [`crate::limits::PATHS_MAX`].
    pub paths: u8,
    /// Whether packets are spread over them one by one, instead of flow by flow.
    pub spread_packets: bool,
}

/// A peer trusted by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Friend {
    /// Who.
    pub card: IdentityCard,
    /// Where it may be reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// Where a bridge of this host takes datagrams for it, if it has one.
    pub bridge: Option<SocketAddr>,
    /// 0 to 100.
    pub trust: u8,
    /// Whether it is told of others and others of it, as far as they agree.
    pub introduce: bool,
}

/// A tunnel to a friend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Who.
    pub peer: PublicKey,
    /// Its addresses: what goes to them goes to it, and what it sends is believed from them alone.
    pub allowed: Vec<Prefix>,
}

/// What the node tells the control thread.
#[derive(Debug)]
pub enum Report {
    /// A job's progress, at most a few times per second, and once at each end.
    Progress(JobId, GetProgress),
    /// A job is complete.
    Done(JobId, GetProgress),
    /// What came of a chunk that others were to keep.
    Placed(Placed),
    /// A job failed; one clear line.
    Failed(JobId, String),
    /// Something that the operator should know; one clear line for the log.
    Warning(String),
    /// The snapshot that was asked for.
    Status(u64, Box<Snapshot>),
    /// Peers that were met, in the order of their places; at most [`crate::limits::PEERS_BATCH`], fewer when these are the
    /// last.
    Peers(Vec<Known>),
}

/// A node's state for `status`, the status page and metrics.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Peers with a session, and friends without.
    pub peers: Vec<PeerSnapshot>,
    /// Monotonic counters: (name without the `tornet_` prefix and `_total` suffix, help, value).
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Gauges: (name, help, value).
    pub gauges: Vec<(&'static str, &'static str, f64)>,
    /// Running `get` jobs.
    pub jobs: Vec<(JobId, GetProgress)>,
    /// Tunnels, in the order in which they were given.
    pub tunnels: Vec<TunnelSnapshot>,
    /// The circuit of our own, if one is wanted.
    pub circuit: Option<CircuitSnapshot>,
    /// Those of jobs that have their own.
    pub job_circuits: Vec<(JobId, CircuitSnapshot)>,
    /// The overlay, if the node takes part.
    pub overlay: Option<OverlaySnapshot>,
    /// What friends told of other nodes.
    pub introductions: Option<IntroductionSnapshot>,
    /// That this node leaves, if it does.
    pub leaving: Option<LeavingSnapshot>,
    /// For how long it means to stay, seconds.
    pub online_s: Option<u64>,
    /// Where peers see the first shard's socket, each address once.
    pub seen_at: Vec<SocketAddr>,
    /// Whether whatever translates this node's addresses gives one port to all remote ends; `None` before two peers have
    /// said where they see it.
    pub one_port_for_all: Option<bool>,
    /// What each class of traffic sent, and how long it waited.
    pub classes: Vec<(Class, ClassStats)>,
}

impl Snapshot {
    /// Adds what another shard of the node says of itself.
    pub fn add(&mut self, other: Self) {
        self.peers.extend(other.peers);
        self.jobs.extend(other.jobs);
        self.circuit = self.circuit.take().or(other.circuit);
        self.job_circuits.extend(other.job_circuits);
        self.overlay = self.overlay.take().or(other.overlay);
        self.introductions = self.introductions.take().or(other.introductions);
        self.one_port_for_all = self.one_port_for_all.or(other.one_port_for_all);
        self.online_s = self.online_s.max(other.online_s);
        self.leaving = match (self.leaving, other.leaving) {
            (Some(own), Some(other)) => Some(own.add(&other)),
            (own, other) => own.or(other),
        };
        if self.seen_at.is_empty() {
            self.seen_at = other.seen_at;
        }
        if self.classes.is_empty() {
            self.classes = other.classes;
        } else {
            self.classes.iter_mut().zip(&other.classes).for_each(|(sum, one)| sum.1.merge(&one.1));
        }
        for tunnel in other.tunnels {
            match self.tunnels.iter_mut().find(|known| known.peer == tunnel.peer) {
                Some(known) => known.add(&tunnel),
                None => self.tunnels.push(tunnel),
            }
        }
        if self.counters.is_empty() && self.gauges.is_empty() {
            (self.counters, self.gauges) = (other.counters, other.gauges);
            return;
        }
        self.counters.iter_mut().zip(other.counters).for_each(|(sum, one)| sum.2 += one.2);
        self.gauges.iter_mut().zip(other.gauges).for_each(|(sum, one)| sum.2 += one.2);
    }

    /// One entry for each peer: that of the session, with the traffic of its further lanes.
    pub fn join_lanes(&mut self) {
        self.peers.sort_by_key(|peer| (peer.key, peer.lane));
        self.peers.dedup_by(|lane, session| {
            let same = lane.key == session.key;
            if same {
                session.sent_bytes += lane.sent_bytes;
                session.received_bytes += lane.received_bytes;
                session.lost_packets += lane.lost_packets;
                session.shaped.wire_sent_bytes += lane.shaped.wire_sent_bytes;
                session.shaped.overuse_bytes += lane.shaped.overuse_bytes;
                session.shaped.waiting |= lane.shaped.waiting;
                session.shaped.queued_bytes += lane.shaped.queued_bytes;
                session.shaped.queue_dropped += lane.shaped.queue_dropped;
                session.shaped.queue_marked += lane.shaped.queue_marked;
                session.shaped.delay_us = session.shaped.delay_us.max(lane.shaped.delay_us);
                session.connected |= lane.connected;
            }
            same
        });
    }
}

/// What passed one tunnel: IP packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSnapshot {
    /// The friend's key.
    pub peer: PublicKey,
    /// Packets sent to it.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that came from it.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

impl TunnelSnapshot {
    /// Adds what another shard says of the same tunnel.
    fn add(&mut self, other: &Self) {
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
    }
}

/// The node's own circuit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CircuitSnapshot {
    /// How many hops it is to have.
    pub hops: u8,
    /// Those of the one that is open, the exit last; none when none is.
    pub path: Vec<PublicKey>,
    /// Why none is, if that is known.
    pub why: Option<String>,
    /// All that there are to be at once.
    pub paths: Vec<PathSnapshot>,
    /// The last round trip over it that was measured, microseconds.
    pub rtt_us: u64,
    /// Circuits that were opened so far.
    pub opened: u64,
    /// IP packets sent through circuits, and their bytes.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// IP packets that came.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// One of the circuits that a tunnel has at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathSnapshot {
    /// Its hops, the exit last; none when it is not open.
    pub path: Vec<PublicKey>,
    /// Why it is not, if that is known.
    pub why: Option<String>,
    /// The last round trip over it that was measured, microseconds.
    pub rtt_us: u64,
    /// IP packets sent, and their bytes.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// IP packets that came.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// One peer.
#[derive(Debug, Clone)]
pub struct PeerSnapshot {
    /// Its place.
    pub node: NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Which lane of the session with it; 0 is the session itself.
    pub lane: u16,
    /// Its rank.
    pub rank: u32,
    /// Trust, when a friend.
    pub trust: Option<u8>,
    /// Trust by friends' words, when sessions with it are kept for these.
    pub introduced: Option<u8>,
    /// Where it was last heard from, when connected and not through another peer.
    pub address: Option<SocketAddr>,
    /// Whether its packets go through another peer.
    pub relayed: bool,
    /// Whether by a bridge.
    pub bridged: bool,
    /// Through whom, as far as this shard knows.
    pub relayed_by: Option<NodeId>,
    /// How long it took to get off such a path, the last time, microseconds.
    pub straight_after_us: Option<u64>,
    /// Whether a session is established.
    pub connected: bool,
    /// Smoothed round trip, microseconds.
    pub rtt_us: u64,
    /// Bytes sent and received, UDP payload.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Congestion window, bytes.
    pub window: u64,
    /// Path MTU, UDP payload bytes.
    pub mtu: u32,
    /// The program that it says it runs; empty until it has.
    pub agent: String,
    /// What the shaper does with it.
    pub shaped: ShapedSnapshot,
    /// What it means to do.
    pub intent: IntentSnapshot,
}

/// What a peer was asked to promise, and what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedSnapshot {
    /// What.
    pub reservation: Reservation,
    /// What it said; `None` until it has.
    pub verdict: Option<Verdict>,
    /// For how long it is promised, seconds from now.
    pub left_s: u64,
    /// What would fit: bits per second, or bytes for [`Verdict::Burst`].
    pub most: u64,
}

/// One peer as the shaper sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShapedSnapshot {
    /// Bytes sent to it, on the wire.
    pub wire_sent_bytes: u64,
    /// Whether it has something to get and must wait.
    pub waiting: bool,
    /// The class of its traffic; `None` without a session.
    pub class: Option<Class>,
    /// Its share among its like.
    pub weight: u16,
    /// Bits per second at most.
    pub cap: Option<u64>,
    /// Bits per second at least.
    pub floor: Option<u64>,
    /// Bits per second promised.
    pub reserved: Option<u64>,
    /// For how long, seconds, when the peer asked for it itself.
    pub reserved_left_s: Option<u64>,
    /// What it was asked to promise, and said.
    pub asked: Option<AskedSnapshot>,
    /// Bytes of tunnels and circuits that wait for leave.
    pub queued_bytes: u64,
    /// How long what waits the longest has waited, microseconds.
    pub delay_us: u64,
    /// Packets of tunnels and circuits that were dropped where they waited.
    pub queue_dropped: u64,
    /// Of those that waited, packets that were marked as having met congestion.
    pub queue_marked: u64,
    /// Bytes sent above the promise.
    pub overuse_bytes: u64,
}

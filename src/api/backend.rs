//! What the API needs of the daemon behind it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::base::fileop::JobId;
use crate::base::{ChunkId, Prefix};
use crate::io::latency::Latencies;
use crate::node::command::{Anonymous, Command};
use crate::wire::bridge::BridgeUrl;

/// The node's inbox (or the number of jobs) is at its bound; later there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is busy: try again in a moment")]
pub struct Busy;

/// The running node as the control thread sees it. No call blocks but [`Backend::join`] and
/// [`Backend::tunnel`].
pub trait Backend: Send + Sync + 'static {
    /// Hands a command to the node. Answers arrive through [`super::Reports`].
    fn command(&self, command: Command) -> Result<(), Busy>;

    /// Begins to publish; `progress` is called from another thread, at last with
    /// [`PutEvent::Done`] or [`PutEvent::Failed`]. Dropping the handle gives the job up if it still
    /// runs; chunks that are stored by then stay, so that the next run finds them.
    fn put(&self, request: PutRequest, progress: Box<dyn FnMut(PutEvent) + Send>) -> Result<PutHandle, Busy>;

    /// Monotonic counters of everything outside the node's core (shard, store, imports): name without
    /// the `tornet_` prefix and `_total` suffix, help, value.
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)>;

    /// How long things took, shard by shard.
    fn latencies(&self) -> Vec<Latencies>;

    /// Chunks published here from a place in their order on, at most `most`, each with its place. Waits for the disk.
    fn local_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String>;

    /// Chunks kept here for others, likewise.
    fn kept_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String>;

    /// How full the store is.
    fn store_stats(&self) -> StoreStats;

    /// Makes the host's tunnel device and what leads to it as the plan says; none takes it away. Blocks for as long as
    /// the kernel takes. An error is one clear line, and leaves no device behind.
    fn tunnel(&self, plan: Option<TunnelPlan>) -> Result<(), String>;

    /// Has a SOCKS proxy as the plan says, or none any more. Blocks until one that there was has ended. An error is one
    /// clear line, and leaves none.
    fn socks(&self, plan: Option<SocksPlan>) -> Result<(), String>;

    /// Has the bridges to friends that are named, and no others; where each takes datagrams for its friend. None where there is
    /// none, or where it could not be made, of which the log has a line.
    fn bridges(&self, wanted: &[Option<BridgeUrl>]) -> Vec<Option<SocketAddr>> {
        vec![None; wanted.len()]
    }

    /// What this node's bridges do, if there are any.
    fn bridge_state(&self) -> Option<BridgeState> {
        None
    }

    /// What the SOCKS proxy does, if there is one.
    fn socks_state(&self) -> Option<SocksState>;

    /// Waits until the threads have ended after [`Command::Shutdown`], and everything acknowledged is
    /// on disk.
    fn join(&self);
}

/// What the tunnels want of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlan {
    /// The device's name.
    pub device: String,
    /// Its MTU, bytes.
    pub mtu: u16,
    /// Its addresses, with their networks.
    pub addresses: Vec<Prefix>,
    /// What else goes into it.
    pub routes: Vec<Prefix>,
    /// Who answers for names; none leaves that as it is.
    pub dns: Vec<IpAddr>,
    /// The node's own UDP ports.
    pub ports: Vec<u16>,
    /// Whether what `routes` names may leave through nothing else.
    pub kill_switch: bool,
    /// From which address of the device leaves what takes a route; of two for one route the first counts.
    pub sources: Vec<(Prefix, IpAddr)>,
    /// Addresses of the device at which nobody behind it begins anything: circuits end at strangers, who must not reach
    /// what listens on this host.
    pub quiet: Vec<IpAddr>,
    /// Networks of the circuits that end here, whose packets the host lets out; none when none may.
    pub exit: Vec<Prefix>,
}

/// What SOCKS proxy is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksPlan {
    /// Where applications find it.
    pub listen: SocketAddr,
    /// Who is asked for names, through the circuit.
    pub resolvers: Vec<IpAddr>,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocksState {
    /// Where applications find it.
    pub listen: SocketAddr,
    /// Applications connected now.
    pub clients: u64,
    /// Those among them that send datagrams.
    pub associations: u64,
    /// Connections that were made.
    pub connected: u64,
    /// Bytes of connections to the far side.
    pub sent_bytes: u64,
    /// Bytes of connections from there.
    pub received_bytes: u64,
}

/// What the bridges do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeState {
    /// Where guests of this node's own bridge come, if it has one.
    pub listen: Option<SocketAddr>,
    /// Guests that are connected.
    pub guests: u64,
    /// Bridges to friends that are connected.
    pub lines: u64,
    /// Datagrams to the far side of any, and from there.
    pub datagrams: (u64, u64),
    /// Their bytes.
    pub bytes: (u64, u64),
    /// Datagrams that found no room, or waited too long for it.
    pub dropped: u64,
}

/// What to publish.
#[derive(Debug)]
pub struct PutRequest {
    /// Absolute paths of files and directories.
    pub paths: Vec<PathBuf>,
    /// Whether content keys are salted with the node's private secret.
    pub salt: bool,
    /// Whether unreadable files are left out (and counted) rather than an error.
    pub skip_unreadable: bool,
    /// How it is put without being served here, if it is.
    pub anonymous: Option<AnonymousPut>,
}

/// A put whose chunks others keep, given to them through circuits.
#[derive(Debug)]
pub struct AnonymousPut {
    /// The job, among all of the daemon's.
    pub job: JobId,
    /// What begins its circuits.
    pub begin: Anonymous,
    /// Whether the reference is told although some chunks have too few keepers.
    pub force: bool,
}

/// How far a `put` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutProgress {
    /// Whether the walk is complete, so that the totals are final.
    pub planned: bool,
    /// Files found.
    pub files_total: u64,
    /// Files read.
    pub files_done: u64,
    /// Bytes found.
    pub bytes_total: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Of those, bytes that already lay in chunks.
    pub bytes_reused: u64,
    /// New chunks.
    pub chunks_new: u64,
    /// Ciphertext of the new chunks, bytes.
    pub chunk_bytes_new: u64,
    /// Earlier chunks that the reference uses.
    pub chunks_reused: u64,
    /// Entries left out because they could not be read or are no file, directory or symlink.
    pub skipped: u64,
    /// Of an anonymous put: chunks that were given to keepers.
    pub chunks_given: u64,
    /// The fewest keepers that any of those has.
    pub keepers_min: u8,
    /// Those with fewer than are enough.
    pub chunks_short: u64,
}

/// News of a `put`.
#[derive(Debug, Clone)]
pub enum PutEvent {
    /// How far it is.
    Progress(PutProgress),
    /// Everything is durable.
    Done {
        /// `tornet:…`.
        reference: String,
        /// The totals.
        stats: PutProgress,
    },
    /// It failed; one clear line.
    Failed(String),
}

/// A running `put`; dropping it cancels.
pub struct PutHandle(Option<Box<dyn FnOnce() + Send>>);

impl PutHandle {
    /// `cancel` runs once, when the handle is dropped; it does nothing when the job has ended by then.
    pub fn new(cancel: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(cancel)))
    }
}

impl Drop for PutHandle {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel();
        }
    }
}

/// How full the store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Chunks published here.
    pub local_chunks: u64,
    /// Their ciphertext, bytes.
    pub local_bytes: u64,
    /// Room for them, bytes.
    pub local_bytes_max: u64,
    /// Chunks cached for others.
    pub cache_chunks: u64,
    /// Their ciphertext, bytes.
    pub cache_bytes: u64,
    /// Room for them, bytes.
    pub cache_bytes_max: u64,
}

//! Starts a shard on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::sync_channel;
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use crossbeam::channel::Sender;

use super::device::Device;
use super::driver::Reports;
use super::warm::Warmer;
use super::{ChunkStoreDriver, Core, Fault, Handle, LoopCounters, Shard};
use crate::base::Rng;
use crate::base::fileop::FileOp;
use crate::io::clock::Clocks;
use crate::io::entropy::{self, NoEntropy};
use crate::io::latency::Recorder;
use crate::io::udp::Udp;
use crate::limits::{BIND_PAUSE_MS, BIND_TRIES, EXPECTED_MAX, SOCKET_RECEIVE_BUFFER};
use crate::node::Clock;
use crate::sys::affinity;
use crate::sys::kernel::KernelError;
use crate::sys::ring::Ring;
use crate::sys::socket::SocketError;

/// What a shard is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which shard: names the thread.
    pub index: usize,
    /// The core to run on; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// Where to listen, one UDP socket each: at most [`crate::limits::SHARD_SOCKETS_MAX`]. IPv6 sockets
    /// take IPv6 only; list `0.0.0.0` beside `[::]`.
    pub addresses: Vec<SocketAddr>,
    /// On wildcard addresses, learn which of the host's addresses each train came to, and answer from it.
    /// For hosts with several addresses of one family.
    pub report_local: bool,
    /// For how long the loop goes on looking when there is nothing left to do, before it sleeps: a core's whole time
    /// for some microseconds of every round trip. The kernel is asked to poll the devices as long, where it can.
    pub busy_poll: Duration,
    /// The daemon's clocks.
    pub clocks: Clocks,
    /// The handles of all shards of the node, this one's among them at its index; empty when it is alone.
    pub shards: Vec<Handle>,
}

/// What a core may know when it is made.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The addresses that were bound, ports included.
    pub addresses: &'a [SocketAddr],
    /// Both clocks, now.
    pub clock: Clock,
}

/// Why a shard could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel cannot do what shards need.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An address could not be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// No seed.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The core to run on is not to be had.
    #[error(
        "shard {index} cannot run on core {core} ({source}); the daemon may use {allowed:?}: change `cores`"
    )]
    Core {
        /// Which shard.
        index: usize,
        /// Which core.
        core: usize,
        /// The cores that it may use.
        allowed: Vec<usize>,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread, or no descriptor.
    #[error("starting a shard: {0}")]
    Os(#[from] io::Error),
}

/// A shard that runs.
pub struct Running<C> {
    /// Speaks to it.
    pub handle: Handle,
    /// The addresses that it bound.
    pub addresses: Vec<SocketAddr>,
    /// Its thread; ends after [`Handle::stop`] or with a [`Fault`].
    pub thread: JoinHandle<Result<C, Fault>>,
}

/// Starts a shard: pins its thread, binds its sockets, sets its ring up, and runs what `make` makes. All
/// of that has happened, or failed, when this returns. `files` should hold [`crate::limits::FILE_OPS_MAX`].
pub fn start<C, S>(
    settings: Settings,
    files: Sender<FileOp>,
    reports: Reports,
    make: impl FnOnce(Surroundings<'_>, Rng) -> (C, S) + Send + 'static,
) -> Result<Running<C>, StartError>
where
    C: Core + Send + 'static,
    S: ChunkStoreDriver + 'static,
{
    let handle = match settings.shards.get(settings.index) {
        Some(handle) => handle.clone(),
        None => Handle::new()?,
    };
    let (tell, told) = sync_channel(1);
    let for_thread = handle.clone();
    let thread = Builder::new().name(format!("shard-{}", settings.index)).spawn(move || {
        let shard = match open(&settings, for_thread, files, reports, make) {
            Ok(shard) => shard,
            Err(error) => {
                let _ = tell.send(Err(error));
                return Err(Fault::from(io::Error::other("the shard did not start")));
            }
        };
        let _ = tell.send(Ok(shard.udp.addresses()));
        // The store's reader belongs to this thread.
        shard.run().map(|(core, _)| core)
    })?;
    let addresses = told.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended").into()))?;
    Ok(Running { handle, addresses, thread })
}

/// On the shard's own thread: the ring belongs to the thread that makes it.
fn open<C, S>(
    settings: &Settings,
    handle: Handle,
    files: Sender<FileOp>,
    reports: Reports,
    make: impl FnOnce(Surroundings<'_>, Rng) -> (C, S),
) -> Result<Shard<C, S>, StartError> {
    if let Some(core) = settings.core {
        affinity::pin_to(core).map_err(|source| StartError::Core {
            index: settings.index,
            core,
            allowed: affinity::allowed().unwrap_or_default(),
            source,
        })?;
    }
    let mut ring = Ring::new()?;
    if !settings.busy_poll.is_zero() && !ring.poll_devices(settings.busy_poll) {
        tracing::info!(
            "this kernel does not poll network devices for a ring (NAPI); the shard polls its ring alone"
        );
    }
    let udp = patiently(
        || Udp::bind(&settings.addresses, settings.report_local),
        || thread::sleep(Duration::from_millis(BIND_PAUSE_MS)),
    )?;
    if udp.receive_buffer() < 2 * SOCKET_RECEIVE_BUFFER && !settings.addresses.is_empty() {
        tracing::warn!(
            bytes = udp.receive_buffer() / 2,
            "the kernel limits UDP receive buffers, so bursts may be lost; as root: \
             sysctl -w net.core.rmem_max={SOCKET_RECEIVE_BUFFER} (or give the daemon CAP_NET_ADMIN)"
        );
    }
    let rng = entropy::rng()?;
    let clock = Clock { now: settings.clocks.now(), wall: settings.clocks.wall() };
    let (core, store) = make(Surroundings { addresses: &udp.addresses(), clock }, rng);
    Ok(Shard {
        ring,
        udp,
        core,
        store,
        clocks: settings.clocks,
        handle,
        index: u8::try_from(settings.index).unwrap_or(u8::MAX),
        shards: settings.shards.clone(),
        files,
        reports,
        warmer: Warmer::new(),
        device: Device::default(),
        pipe: None,
        counters: LoopCounters::default(),
        latencies: Recorder::new(),
        busy_poll: settings.busy_poll,
        trains: Vec::with_capacity(EXPECTED_MAX),
        busy_until: clock.now,
        left: false,
        fresh_at: clock.now,
        shown_at: clock.now,
        files_out: 0,
        held: None,
        ticked: None,
    })
}

/// Binds; a busy port is tried again for a while, since it may be our own predecessor's ([`BIND_TRIES`]).
fn patiently<T>(
    mut bind: impl FnMut() -> Result<T, SocketError>,
    mut pause: impl FnMut(),
) -> Result<T, SocketError> {
    for attempt in 1..BIND_TRIES {
        match bind() {
            Err(SocketError::Busy { address }) => {
                if attempt == 1 {
                    tracing::info!(%address, "the port is still taken; waiting for it");
                }
                pause();
            }
            other => return other,
        }
    }
    bind()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon started right after a `kill -9` of its predecessor found the port taken.
    #[test]
    fn a_port_that_the_predecessor_has_not_let_go_of_is_waited_for() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4001));
        let (mut tries, mut pauses) = (0, 0);
        let bound = patiently(
            || {
                tries += 1;
                if tries < 4 { Err(SocketError::Busy { address }) } else { Ok(tries) }
            },
            || pauses += 1,
        );
        assert!(matches!(bound, Ok(4)) && pauses == 3);
        let mut pauses = 0;
        let refused = patiently(|| Err::<(), _>(SocketError::Busy { address }), || pauses += 1);
        assert!(matches!(refused, Err(SocketError::Busy { .. })));
        assert_eq!(pauses, BIND_TRIES - 1, "it is given up at last");
        let denied = patiently(|| Err::<(), _>(SocketError::NotPermitted { address }), || unreachable!());
        assert!(denied.is_err(), "only a busy port is waited for");
    }
}

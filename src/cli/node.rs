//! Starts the node behind the API and speaks to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::{
    AnonymousPut, Backend, BridgeState, Busy, PutEvent, PutHandle, PutProgress, PutRequest, Reports,
    SocksPlan, SocksState, StoreStats, TunnelPlan,
};
use crate::base::ChunkId;
use crate::bridge::{Bridges, Host, Serving};
use crate::config::{Config, NodeDir};
use crate::crypto::rank::PLACE_FLOOR_BITS;
use crate::crypto::{Identity, Secret};
use crate::io::entropy;
use crate::io::latency::Latencies;
use crate::io::netconf;
use crate::io::store::StoreConfig;
use crate::io::tree::Unreadable;
use crate::limits::SHARDS_MAX;
use crate::node::command::Command;
use crate::shard::daemon::{Daemon, DaemonConfig, ImportEvent};
use crate::shard::give::Given;
use crate::shard::import::{ImportProgress, ImportRequest};
use crate::socks::stats::Stats;
use crate::socks::{self, Plan, Proxy};
use crate::wire::bridge::BridgeUrl;

/// Starts store, files thread and shard. Every report goes to `reports`.
pub(super) fn start(
    config: &Config,
    identity: Arc<Identity>,
    dir: &NodeDir,
    reports: Reports,
) -> Result<Arc<dyn Backend>, String> {
    let daemon_config = DaemonConfig {
        dir: dir.path().to_owned(),
        identity,
        network: config.network.clone(),
        place_floor_bits: PLACE_FLOOR_BITS,
        only_friends: config.friends_only,
        listen: config.listen.iter().map(|ip| SocketAddr::new(*ip, config.port)).collect(),
        shards: config.shards_count.min(SHARDS_MAX.into()) as u8,
        pin: config.shards_pin,
        busy_poll: Duration::from_micros(config.shards_busy_poll_us.into()),
        store: StoreConfig { local_limit: config.store_local_max, cache_limit: config.store_cache_max },
    };
    // Of a daemon that was killed. Where tunnels come up again they make the host what it shall be without a gap.
    if config.tunnels.is_empty()
        && (config.onion_hops == 0 || config.onion_routes.is_empty())
        && let Err(error) = netconf::clean_abandoned(&config.tunnel_device)
    {
        tracing::debug!("what an earlier tunnel left on this host may still be there: {error}");
    }
    let serving = config.bridge.listen.map(|listen| Serving {
        listen,
        path: config.bridge.path.clone(),
        tls: config.bridge.certificate.clone().zip(config.bridge.key.clone()),
    });
    let host = Host { listen: config.listen.clone(), port: config.port, shards: config.shards_count };
    // Before the node, so that what is wrong with it is found before anything is started.
    let bridges = serving.map(|serving| bridges(host.clone(), Some(serving))).transpose()?;
    let deliver = reports.clone();
    let fatal = Arc::new(move |why: &str| reports.fatal(why));
    let daemon = Daemon::start(daemon_config, Arc::new(move |report| deliver.deliver(report)), fatal)?;
    Ok(Arc::new(Linked {
        daemon,
        dir: dir.clone(),
        socks: Mutex::default(),
        socks_stats: Arc::default(),
        host,
        bridges: Mutex::new(bridges),
    }))
}

fn bridges(host: Host, serving: Option<Serving>) -> Result<Bridges, String> {
    Bridges::start(host, serving, entropy::rng().map_err(|error| error.to_string())?)
}

struct Linked {
    daemon: Daemon,
    dir: NodeDir,
    socks: Mutex<Option<Proxy>>,
    /// Also of those before it.
    socks_stats: Arc<Stats>,
    host: Host,
    /// From when this node has one, or is to use one.
    bridges: Mutex<Option<Bridges>>,
}

impl Linked {
    fn salt(&self) -> Result<Secret, String> {
        let mut rng = entropy::rng().map_err(|error| error.to_string())?;
        self.dir.load_salt(|| Secret::from_bytes(rng.bytes())).map_err(|error| error.to_string())
    }
}

impl Backend for Linked {
    fn command(&self, command: Command) -> Result<(), Busy> {
        self.daemon.command(command).map_err(|_| Busy)
    }

    fn put(
        &self,
        request: PutRequest,
        mut progress: Box<dyn FnMut(PutEvent) + Send>,
    ) -> Result<PutHandle, Busy> {
        let salt = match request.salt.then(|| self.salt()).transpose() {
            Ok(salt) => salt,
            Err(why) => {
                progress(PutEvent::Failed(why));
                return Ok(PutHandle::new(|| {}));
            }
        };
        let unreadable = if request.skip_unreadable { Unreadable::Skip } else { Unreadable::Fail };
        let import = ImportRequest { paths: request.paths, salt, unreadable };
        let tell = move |event| {
            progress(match event {
                ImportEvent::Progress(now) => PutEvent::Progress(shown(&now)),
                ImportEvent::Done(reference, now) => {
                    PutEvent::Done { reference: reference.to_string(), stats: shown(&now) }
                }
                ImportEvent::Giving(now, given) => PutEvent::Progress(shown_given(&now, &given)),
                ImportEvent::Given(reference, now, given) => {
                    PutEvent::Done { reference: reference.to_string(), stats: shown_given(&now, &given) }
                }
                ImportEvent::Failed(why) => PutEvent::Failed(why),
            });
        };
        let cancel = match request.anonymous {
            None => self.daemon.import(import, Box::new(tell)),
            Some(AnonymousPut { job, begin, force }) => {
                let begin = Command::Anonymous(Box::new(begin));
                self.daemon.give(job, import, begin, force, Box::new(tell))
            }
        };
        let cancel = cancel.map_err(|_| Busy)?;
        Ok(PutHandle::new(move || cancel.store(true, Ordering::Relaxed)))
    }

    fn latencies(&self) -> Vec<Latencies> {
        self.daemon.latencies()
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let stats = self.daemon.store_stats();
        let mut counters = self.daemon.counters();
        counters.extend([
            ("store_local_commits", "Transactions committed to local", stats.local.commits),
            ("store_cache_commits", "Transactions committed to cache", stats.cache.commits),
            ("store_slices_resident", "Slices that were resident when asked for", stats.resident),
            ("store_slices_cold", "Slices that had to be faulted in", stats.cold),
            ("store_slices_checked", "Slices whose hash was checked", stats.checked),
            ("store_chunks_damaged", "Stored chunks that were found damaged", stats.damaged),
        ]);
        counters.extend(self.socks_stats.counters());
        if let Some(bridges) = lock(&self.bridges).as_ref() {
            counters.extend(bridges.stats().counters());
        }
        counters
    }

    fn store_stats(&self) -> StoreStats {
        let stats = self.daemon.store_stats();
        StoreStats {
            local_chunks: stats.local.chunks,
            local_bytes: stats.local.bytes,
            local_bytes_max: stats.local.limit,
            cache_chunks: stats.cache.chunks,
            cache_bytes: stats.cache.bytes,
            cache_bytes_max: stats.cache.limit,
        }
    }

    fn local_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        self.daemon.local_chunks(from, most)
    }

    fn kept_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        self.daemon.kept_chunks(from, most)
    }

    fn tunnel(&self, plan: Option<TunnelPlan>) -> Result<(), String> {
        let plan = plan.map(|plan| netconf::Plan {
            device: plan.device,
            mtu: plan.mtu,
            addresses: plan.addresses,
            routes: plan.routes,
            dns: plan.dns,
            ports: plan.ports,
            kill_switch: plan.kill_switch,
            exit: plan.exit,
            sources: plan.sources,
            quiet: plan.quiet,
        });
        self.daemon.tunnel(plan.as_ref())
    }

    fn socks(&self, plan: Option<SocksPlan>) -> Result<(), String> {
        let plan = plan.map(|plan| Plan { listen: plan.listen, resolvers: plan.resolvers });
        let mut running = lock(&self.socks);
        let same = running.as_ref().filter(|proxy| proxy.runs()).map(Proxy::plan) == plan.as_ref();
        if same && (plan.is_some() || running.is_none()) {
            return Ok(());
        }
        if running.take().is_some() {
            self.daemon.close_pipe();
        }
        let Some(plan) = plan else { return Ok(()) };
        let listener = socks::bind(plan.listen)?;
        let rng = entropy::rng().map_err(|error| error.to_string())?;
        let (pipe, clocks) = (self.daemon.pipe()?, self.daemon.clocks());
        *running = Some(Proxy::start(plan, listener, pipe, clocks, rng, &self.socks_stats)?);
        Ok(())
    }

    fn socks_state(&self) -> Option<SocksState> {
        let running = lock(&self.socks);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &self.socks_stats;
        running.as_ref().filter(|proxy| proxy.runs()).map(|proxy| SocksState {
            listen: proxy.plan().listen,
            clients: of(&stats.clients),
            associations: of(&stats.associations),
            connected: of(&stats.connected),
            sent_bytes: of(&stats.sent_bytes),
            received_bytes: of(&stats.received_bytes),
        })
    }

    fn bridges(&self, wanted: &[Option<BridgeUrl>]) -> Vec<Option<SocketAddr>> {
        let mut running = lock(&self.bridges);
        if running.is_none() && wanted.iter().any(Option::is_some) {
            match bridges(self.host.clone(), None) {
                Ok(bridges) => *running = Some(bridges),
                Err(why) => tracing::warn!("{why}"),
            }
        }
        running.as_ref().map_or(vec![None; wanted.len()], |bridges| bridges.set(wanted))
    }

    fn bridge_state(&self) -> Option<BridgeState> {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        lock(&self.bridges).as_ref().map(|bridges| {
            let stats = bridges.stats();
            BridgeState {
                listen: bridges.listen(),
                guests: of(&stats.guests),
                lines: of(&stats.lines),
                datagrams: (of(&stats.sent_datagrams), of(&stats.received_datagrams)),
                bytes: (of(&stats.sent_bytes), of(&stats.received_bytes)),
                dropped: of(&stats.dropped_datagrams),
            }
        })
    }

    fn join(&self) {
        self.daemon.join();
        // Afterwards: the node's goodbyes leave by bridges, too.
        *lock(&self.bridges) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shown(progress: &ImportProgress) -> PutProgress {
    let stats = &progress.stats;
    PutProgress {
        planned: progress.walked,
        files_total: stats.files,
        files_done: stats.files,
        bytes_total: stats.bytes,
        bytes_done: stats.bytes,
        bytes_reused: progress.bytes_reused,
        chunks_new: stats.chunks_new - progress.chunks_there,
        chunk_bytes_new: stats.bytes_new - progress.bytes_there,
        chunks_reused: progress.chunks_reused + progress.chunks_there,
        skipped: progress.skipped,
        ..PutProgress::default()
    }
}

fn shown_given(progress: &ImportProgress, given: &Given) -> PutProgress {
    PutProgress {
        chunks_given: given.chunks,
        keepers_min: given.keepers_min,
        chunks_short: given.short,
        ..shown(progress)
    }
}

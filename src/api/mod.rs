//! The control thread's HTTP API: JSON for the command line, metrics for Prometheus, a page for people
//! (docs/protocol/api.md).
//!
//! It is written against [`Backend`] and hears [`Reports`]; what runs behind them, a daemon's shards or
//! a test's fake, it does not know. Two doors lead to it ([`Door`]): the unix socket, which only the
//! node's user can open and which does everything, and an optional TCP address, which only shows.

// The edge: uptime needs the clock.
#![allow(clippy::disallowed_methods)]

pub mod backend;
pub mod circuits;
pub mod error;
pub mod friends;
mod host;
mod intents;
mod introductions;
mod jobs;
mod metrics;
pub mod nat;
mod overlay;
pub mod reports;
pub mod routes;
pub mod server;
pub mod settings;
mod status;
pub mod tunnels;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use backend::{
    AnonymousPut, Backend, BridgeState, Busy, PutEvent, PutHandle, PutProgress, PutRequest, SocksPlan,
    SocksState, StoreStats, TunnelPlan,
};
use error::ApiError;
pub use reports::Reports;
pub use routes::{Door, router};
pub use server::serve;

use crate::base::NodeId;
use crate::config::limits::until_review;
use crate::config::{Config, ConfigError, ConfigFile, FriendEntry, Usage};
use crate::crypto::IdentityCard;
use crate::io::clock::wall;
use crate::limits::API_ANSWER_MS_MAX;
use crate::node::command::{Asked, Command, Friend, IntroductionRules, NodeLimits, PeerLimits, Snapshot};
use crate::wire::bridge::BridgeUrl;

/// What the handlers share.
pub struct Api {
    backend: Arc<dyn Backend>,
    reports: Reports,
    card: IdentityCard,
    node: NodeId,
    config_path: PathBuf,
    config: Mutex<Config>,
    /// Held while the settings file is read, changed and written.
    editing: Mutex<()>,
    /// Held while a tunnel is brought up or taken down.
    tunnelling: tokio::sync::Mutex<()>,
    /// Whether the host has what an exit needs.
    exits: AtomicBool,
    /// The limits that the node was told last.
    told_limits: Mutex<NodeLimits>,
    told_overlay: Mutex<overlay::Told>,
    told_introductions: Mutex<Option<IntroductionRules>>,
    /// That this node leaves, if the operator said so.
    leave: Mutex<Option<intents::Leave>>,
    leave_changed: tokio::sync::Notify,
    /// Ports that the router maps.
    mapped: tokio::sync::Mutex<nat::Mapped>,
    /// The first shard's, where others reach it.
    mapped_address: Mutex<Option<std::net::SocketAddr>>,
    /// One at a time tells the node what it does in the overlay.
    telling: tokio::sync::Mutex<()>,
    usage: Mutex<Usage>,
    /// Held while it is written.
    saving: Mutex<()>,
    started: Instant,
    jobs_begun: AtomicU64,
    puts: Mutex<BTreeMap<u64, PutProgress>>,
    requests: AtomicU64,
    requests_refused: AtomicU64,
    stopping: watch::Sender<bool>,
    log_changed: Box<dyn Fn(&str) + Send + Sync>,
}

impl Api {
    /// Ready to be served. `log_changed` is told of a new log filter.
    pub fn new(
        backend: Arc<dyn Backend>,
        reports: Reports,
        card: IdentityCard,
        config: &ConfigFile,
        usage: Usage,
        log_changed: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            backend,
            reports,
            card,
            node: card.node_id(),
            config_path: config.path().to_owned(),
            config: Mutex::new(config.config().clone()),
            editing: Mutex::new(()),
            tunnelling: tokio::sync::Mutex::new(()),
            exits: AtomicBool::new(false),
            told_limits: Mutex::default(),
            told_overlay: Mutex::default(),
            told_introductions: Mutex::default(),
            leave: Mutex::default(),
            leave_changed: tokio::sync::Notify::new(),
            mapped: tokio::sync::Mutex::default(),
            mapped_address: Mutex::default(),
            telling: tokio::sync::Mutex::new(()),
            usage: Mutex::new(usage),
            saving: Mutex::new(()),
            started: Instant::now(),
            jobs_begun: AtomicU64::new(0),
            puts: Mutex::new(BTreeMap::new()),
            requests: AtomicU64::new(0),
            requests_refused: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
            log_changed,
        })
    }

    /// Ends every job and connection; [`serve`] returns soon after.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Tells the node to say goodbye to its peers and to end.
    pub async fn shut_down(&self) -> Result<(), ApiError> {
        self.command(|| Command::Shutdown).await
    }

    /// Becomes true when the daemon is to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Tells the node who its friends are.
    pub async fn tell_friends(&self) -> Result<(), ApiError> {
        let entries = self.config().friends.clone();
        let bridges: Vec<Option<BridgeUrl>> = entries.iter().map(|entry| entry.bridge.clone()).collect();
        let bridges = self.backend.bridges(&bridges);
        let friend = |(entry, bridge): (&FriendEntry, Option<SocketAddr>)| Friend {
            card: entry.card,
            addresses: entry.addresses.clone(),
            bridge,
            trust: entry.trust,
            introduce: entry.introduce,
        };
        let friends: Vec<Friend> = entries.iter().zip(bridges).map(friend).collect();
        self.command(|| Command::Friends(friends.clone())).await
    }

    /// Tells the node what it may use now, unless it knows.
    pub async fn tell_limits(&self) -> Result<(), ApiError> {
        let limits = {
            let config = self.config();
            let now = wall();
            let spent = lock(&self.usage).at(now);
            let (up, down) = config.limits.at(now, Some(spent));
            let mut peers: BTreeMap<NodeId, PeerLimits> = config.limits_peers.iter().copied().collect();
            for promise in config.limits_reserved.iter().filter(|promise| promise.holds(now)) {
                peers.entry(promise.node).or_default().reserved = Some(promise.reservation);
            }
            for wanted in config.limits_asked.iter().filter(|wanted| wanted.holds(now)) {
                let asked = Asked { reservation: wanted.reservation, until_s: wanted.until_s };
                peers.entry(wanted.node).or_default().asked = Some(asked);
            }
            NodeLimits {
                up,
                down,
                burst: config.limits_burst,
                measure: config.limits_measure && config.limits.up.is_none(),
                peers: peers.into_iter().collect(),
                asked_share_milli: Some(u64::from(config.limits_askable) * 10),
            }
        };
        if *lock(&self.told_limits) == limits {
            return Ok(());
        }
        self.command(|| Command::Limits(Box::new(limits.clone()))).await?;
        *lock(&self.told_limits) = limits;
        Ok(())
    }

    /// Follows the schedule and the quota, for as long as it is polled.
    pub async fn follow_limits(self: &Arc<Self>) {
        loop {
            let wait = until_review(&self.config(), wall());
            tokio::time::sleep(wait).await;
            self.count_usage(false).await;
            if let Err(error) = self.tell_limits().await {
                tracing::warn!("limits: {}", error.line);
            }
        }
    }

    /// What the node was told that it may send and ask for now, bits per second.
    pub fn told_rates(&self) -> (Option<u64>, Option<u64>) {
        let told = lock(&self.told_limits);
        (told.up, told.down)
    }

    /// Bytes that were sent this month (UTC), as it was last looked at.
    pub fn sent_this_month(&self) -> u64 {
        lock(&self.usage).at(wall())
    }

    /// Adds what was sent since the last time to the month's count, and saves that when there is much that is not saved, or
    /// when these are the `last` words. The shards are not asked: they count for everybody to see.
    pub async fn count_usage(self: &Arc<Self>, last: bool) {
        let counters = self.backend.counters();
        let Some((_, _, total)) = counters.iter().find(|(name, ..)| *name == "udp_sent_wire_bytes") else {
            return;
        };
        lock(&self.usage).note(wall(), *total);
        if lock(&self.usage).to_save(last).is_none() {
            return;
        }
        let api = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Also when whoever waits for this is gone meanwhile.
            let _one = lock(&api.saving);
            let Some(save) = lock(&api.usage).to_save(last) else { return Ok(()) };
            save.write()?;
            lock(&api.usage).saved(&save);
            Ok::<_, std::io::Error>(())
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!("what was sent this month is not saved: {error}; it is tried again");
        }
    }

    /// Asks the node for a snapshot; an error when it does not answer in time.
    pub async fn snapshot(&self) -> Result<Snapshot, ApiError> {
        let question = self.reports.question().ok_or_else(ApiError::busy)?;
        let token = question.token();
        self.command(|| Command::Status { token }).await?;
        let patience = Duration::from_millis(API_ANSWER_MS_MAX);
        match tokio::time::timeout(patience, question.answer()).await {
            Ok(Some(snapshot)) => Ok(*snapshot),
            _ => Err(ApiError::unavailable("the node does not answer: see the daemon's log")),
        }
    }

    /// Hands a command over, waiting a little for room in the node's inbox.
    async fn command(&self, command: impl Fn() -> Command) -> Result<(), ApiError> {
        let pause = Duration::from_millis(20);
        for _ in 0..API_ANSWER_MS_MAX / 20 {
            if self.backend.command(command()).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
        Err(ApiError::busy())
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        lock(&self.config)
    }

    /// Changes the settings file as it is on disk now, so that what the operator edited by hand since
    /// the daemon's start is kept. Off this thread, since it waits for the disk.
    async fn edit<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut ConfigFile) -> Result<T, ConfigError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let api = self.clone();
        let edited = tokio::task::spawn_blocking(move || {
            let _editing = lock(&api.editing);
            let mut file = ConfigFile::load(&api.config_path)?;
            let result = change(&mut file)?;
            *api.config() = file.config().clone();
            Ok::<T, ConfigError>(result)
        });
        let result = edited.await.map_err(|_| ApiError::internal("the settings could not be changed"))?;
        Ok(result?)
    }

    fn next_job(&self) -> u64 {
        1 + self.jobs_begun.fetch_add(1, Ordering::Relaxed)
    }
}

/// Returns when the daemon is to end.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say so.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// A panic elsewhere while the lock was held leaves nothing half-done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! The overlay, as the control thread sees to it: what the settings say, what the store has to provide, and the peers that
//! are kept for the next start.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ApiError;
use super::friends::make_invite;
use super::{Api, lock};
use crate::base::{ChunkId, NodeId};
use crate::config::{Config, peers};
use crate::limits::{
    API_ANSWER_MS_MAX, OWN_ADDRESSES_MS, PEERS_BATCH, PEERS_REMEMBERED_MAX, PEERS_SAVE_MS,
    PEERS_SAVE_MS_FIRST, PROVIDE_BATCH, PROVIDE_MS, PROVIDE_MS_MAX,
};
use crate::node::command::{Command, Known, OverlayRules, Snapshot};
use crate::overlay::site::is_global;

/// What the node was told, and how far the store was looked through.
#[derive(Debug, Default)]
pub(super) struct Told {
    rules: Option<OverlayRules>,
    /// The place in the store's order from which on chunks are not provided yet.
    next: u64,
    /// The same place among what is kept for others; `None` when that was looked through to its end. What is kept since is
    /// provided by whoever keeps it.
    kept: Option<u64>,
    /// Chunks that the store had when it was looked through to its end, and when that was.
    seen: Option<(u64, Instant)>,
}

impl Told {
    /// Whether what the store has is for everybody.
    fn provides(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.enabled && rules.serve_strangers)
    }

    /// In which network it takes part.
    fn network(&self) -> Option<String> {
        self.rules.as_ref().filter(|rules| rules.enabled).map(|rules| rules.network.clone())
    }
}

/// The peers of earlier runs in a network. A file that cannot be used is put aside, and said so; one that cannot be read
/// now is left.
fn load_peers(path: &Path, network: &str) -> Vec<Known> {
    peers::load(path, network).unwrap_or_else(|error| {
        let aside = path.with_extension("bad");
        let damaged = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::FileTooLarge);
        let kept = damaged && std::fs::rename(path, &aside).is_ok();
        let kept = if kept { format!("; it is {} now", aside.display()) } else { String::new() };
        tracing::warn!("the peers of earlier runs are forgotten: {}: {error}{kept}", path.display());
        Vec::new()
    })
}

impl Api {
    /// Where others reach this node: by what the router maps, then what the settings or the host say.
    pub(super) fn own_addresses(&self, config: &Config) -> Vec<SocketAddr> {
        let mapped = *lock(&self.mapped_address);
        let own = make_invite(config, &self.card).map_or(Vec::new(), |invite| invite.addresses);
        mapped.into_iter().filter(|one| is_global(*one)).chain(own).collect()
    }

    /// Tells the node what it does in the overlay, unless it knows.
    pub async fn tell_overlay(&self) -> Result<(), ApiError> {
        // One after another, or an older word could be the last.
        let _one = self.telling.lock().await;
        let rules = {
            let config = self.config();
            // Friends that are reached by others, or by bridges, are told in any case.
            let own = self.own_addresses(&config);
            rules(&config, own)
        };
        if lock(&self.told_overlay).rules.as_ref() == Some(&rules) {
            return Ok(());
        }
        self.command(|| Command::Overlay(Box::new(rules.clone()))).await?;
        let mut told = lock(&self.told_overlay);
        let same = told.rules.as_ref().is_some_and(|before| {
            (before.enabled, before.serve_strangers, &before.network)
                == (rules.enabled, rules.serve_strangers, &rules.network)
        });
        if !same {
            // Whoever begins anew has nothing provided.
            (told.next, told.seen, told.kept) = (0, None, Some(0));
        }
        told.rules = Some(rules);
        Ok(())
    }

    /// Whom earlier runs met in the network that the settings name.
    pub fn load_peers(&self, path: &Path) -> Vec<Known> {
        load_peers(path, &self.config().overlay_network)
    }

    /// Tells the node whom earlier runs met.
    pub async fn restore_peers(&self, known: &[Known]) -> Result<(), ApiError> {
        for batch in known.chunks(PEERS_BATCH) {
            self.command(|| Command::Restore(batch.to_vec())).await?;
        }
        Ok(())
    }

    /// Has the node provide what the store has, and saves the peers that it met, for as long as it is polled.
    pub async fn follow_overlay(self: &Arc<Self>, path: PathBuf) {
        let mut save_at = Instant::now() + Duration::from_millis(PEERS_SAVE_MS_FIRST);
        let mut look_at = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(PROVIDE_MS)).await;
            if Instant::now() >= look_at {
                look_at = Instant::now() + Duration::from_millis(OWN_ADDRESSES_MS);
                // The host may have other addresses than a while ago.
                if let Err(error) = self.tell_overlay().await {
                    tracing::warn!("telling the overlay of this host's addresses: {}", error.line);
                }
                if let Err(error) = self.tell_introductions().await {
                    tracing::warn!("telling the node of this host's addresses: {}", error.line);
                }
            }
            if let Err(error) = self.provide_more().await {
                tracing::warn!("providing: {}", error.line);
            }
            if let Err(error) = self.provide_kept().await {
                tracing::warn!("providing what is kept for others: {}", error.line);
            }
            if Instant::now() >= save_at {
                save_at = Instant::now() + Duration::from_millis(PEERS_SAVE_MS);
                self.save_peers(&path).await;
            }
        }
    }

    /// Looks for chunks that are not provided yet, a batch at a time.
    pub(super) async fn provide_more(self: &Arc<Self>) -> Result<(), ApiError> {
        let count = self.backend.store_stats().local_chunks;
        let mut from = {
            let told = lock(&self.told_overlay);
            let age = Duration::from_millis(PROVIDE_MS_MAX);
            let unchanged = told.seen.is_some_and(|(seen, at)| seen == count && at.elapsed() < age);
            if !told.provides() || unchanged {
                return Ok(());
            }
            told.next
        };
        // A store that is large is looked through in several turns.
        for _ in 0..BATCHES_PER_TURN {
            let backend = Arc::clone(&self.backend);
            let found = tokio::task::spawn_blocking(move || backend.local_chunks(from, PROVIDE_BATCH)).await;
            let found = found.map_err(|_| ApiError::internal("the store could not be looked through"))?;
            let found = found.map_err(ApiError::internal)?;
            let Some((last, _)) = found.last() else {
                lock(&self.told_overlay).seen = Some((count, Instant::now()));
                return Ok(());
            };
            let next = last + 1;
            if from == 0 {
                let network = lock(&self.told_overlay).network();
                tracing::info!(
                    "what was put on this node ({count} chunks) is announced in the overlay network {}: strangers find and get it; \
                     `tornet config set serve.strangers false` keeps it for friends",
                    network.unwrap_or_default()
                );
            }
            let chunks: Vec<ChunkId> = found.iter().map(|(_, chunk)| *chunk).collect();
            self.command(|| Command::Provide(chunks.clone())).await?;
            let mut told = lock(&self.told_overlay);
            if told.next != from {
                // It began anew meanwhile.
                return Ok(());
            }
            (told.next, from) = (next, next);
        }
        Ok(())
    }

    /// Looks for chunks that earlier runs kept for others, a batch at a time: they are provided as before.
    pub(super) async fn provide_kept(self: &Arc<Self>) -> Result<(), ApiError> {
        for _ in 0..BATCHES_PER_TURN {
            let from = {
                let told = lock(&self.told_overlay);
                told.kept.filter(|_| told.provides())
            };
            let Some(from) = from else { return Ok(()) };
            let backend = Arc::clone(&self.backend);
            let found = tokio::task::spawn_blocking(move || backend.kept_chunks(from, PROVIDE_BATCH)).await;
            let found = found.map_err(|_| ApiError::internal("the cache could not be looked through"))?;
            let found = found.map_err(ApiError::internal)?;
            let next = found.last().map(|(last, _)| last + 1);
            let chunks: Vec<ChunkId> = found.into_iter().map(|(_, chunk)| chunk).collect();
            if !chunks.is_empty() {
                self.command(|| Command::Provide(chunks.clone())).await?;
            }
            let mut told = lock(&self.told_overlay);
            if told.kept == Some(from) {
                told.kept = next;
            }
        }
        Ok(())
    }

    /// Writes the peers that the node met into the file.
    pub async fn save_peers(&self, path: &Path) {
        let Some(network) = lock(&self.told_overlay).network() else { return };
        let Some(known) = self.all_peers().await else { return };
        // Nobody was met: what earlier runs met is worth more. And those of another network are not this one's.
        if known.is_empty() || lock(&self.told_overlay).network().as_ref() != Some(&network) {
            return;
        }
        let target = path.to_owned();
        let written = tokio::task::spawn_blocking(move || peers::save(&target, &network, &known)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(
                "the peers that were met are not saved in {}: {error}; it is tried again",
                path.display()
            );
        }
    }

    async fn all_peers(&self) -> Option<Vec<Known>> {
        let mut all: Vec<Known> = Vec::new();
        let mut after: Option<NodeId> = None;
        while all.len() < PEERS_REMEMBERED_MAX {
            let answer = self.reports.peers();
            self.command(|| Command::Peers { after }).await.ok()?;
            let patience = Duration::from_millis(API_ANSWER_MS_MAX);
            let batch = tokio::time::timeout(patience, answer).await.ok()?.ok()?;
            let full = batch.len() >= PEERS_BATCH;
            after = batch.last().map(|known| known.contact.node_id());
            all.extend(batch);
            if !full {
                break;
            }
        }
        Some(all)
    }
}

/// Batches that one turn looks at: a million chunks are provided within an hour.
const BATCHES_PER_TURN: usize = 4;

fn rules(config: &Config, addresses: Vec<SocketAddr>) -> OverlayRules {
    // One of each family, a global one if there is any: contacts have room for no more.
    let of = |v4: bool| {
        let mut family = addresses.iter().filter(|address| address.is_ipv4() == v4);
        family.clone().find(|address| is_global(**address)).or(family.next()).copied()
    };
    let first_v4 = addresses.first().is_none_or(SocketAddr::is_ipv4);
    OverlayRules {
        enabled: config.overlay_enabled && !config.friends_only,
        network: config.overlay_network.clone(),
        addresses: [of(first_v4), of(!first_v4)].into_iter().flatten().collect(),
        bootstrap: config
            .overlay_bootstrap
            .iter()
            .map(|invite| (invite.card, invite.addresses.clone()))
            .collect(),
        far: config.overlay_far,
        serve_strangers: config.serve_strangers,
        keep: (config.serve_strangers && config.serve_keep).then_some(config.store_cache_max),
    }
}

/// The node's part in the overlay, as it is shown; null when it has none.
pub(super) fn overlay_json(snapshot: &Snapshot, config: &Config, counter: impl Fn(&str) -> u64) -> Value {
    let Some(overlay) = &snapshot.overlay else { return Value::Null };
    json!({
        "network": config.overlay_network,
        "contacts": overlay.contacts,
        "nodes_estimated": overlay.nodes,
        "peers_known": overlay.peers,
        "lookups_running": overlay.lookups,
        "lookups": counter("overlay_lookups"),
        "lookups_found": counter("overlay_lookups_found"),
        "lookups_vain": counter("overlay_lookups_vain"),
        "records_kept": overlay.records,
        "chunks_provided": overlay.provided,
        "chunks_announced": overlay.announced,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_name_one_address_of_each_family_the_best_first() {
        let addresses = ["203.0.113.5:1", "10.0.0.1:1", "[2001:db8::1]:1", "[fd00::2]:1"];
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|text| text.parse().expect("address")).collect();
        assert_eq!(rules(&Config::default(), addresses.clone()).addresses, [addresses[0], addresses[2]]);
        let later: Vec<SocketAddr> = addresses.iter().rev().copied().collect();
        assert_eq!(rules(&Config::default(), later).addresses, [addresses[2], addresses[0]]);
        assert_eq!(rules(&Config::default(), Vec::new()).addresses, []);
    }
}

//! The node's state as JSON.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::circuits::{circuit_json, job_circuit_json};
use super::error::ApiError;
use super::intents::{intent_json, leaving_json};
use super::introductions::introductions_json;
use super::overlay::overlay_json;
use super::routes::answer;
use super::tunnels::{socks_json, tunnels_json};
use super::{Api, BridgeState, PutProgress, StoreStats, lock};
use crate::base::fileop::JobId;
use crate::config::Config;
use crate::io::latency::Latencies;
use crate::node::command::{AskedSnapshot, GetProgress, PeerSnapshot, Snapshot, Verdict};
use crate::shape::{Class, ClassStats};

/// One consistent look at everything that is shown.
#[derive(Debug)]
pub(super) struct View {
    pub snapshot: Snapshot,
    pub store: StoreStats,
    /// Name without prefix and suffix, help, value; sorted, each name once.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    pub puts: Vec<(u64, PutProgress)>,
    /// Of each shard.
    pub latencies: Vec<Latencies>,
    pub uptime_s: u64,
    /// Bytes that count for this month's quota.
    pub month_bytes: u64,
    /// What the node may send and ask for now, bits per second.
    pub rates: (Option<u64>, Option<u64>),
    /// What it may send in a calendar month, bytes.
    pub quota: Option<u64>,
}

impl View {
    pub(super) async fn take(api: &Api) -> Result<Self, ApiError> {
        let mut snapshot = api.snapshot().await?;
        let mut counters = std::mem::take(&mut snapshot.counters);
        counters.extend(api.backend.counters());
        counters.push(("api_requests", "Requests to the HTTP API", api.requests.load(Ordering::Relaxed)));
        let refused = api.requests_refused.load(Ordering::Relaxed);
        counters.push(("api_requests_refused", "Requests to the HTTP API answered with an error", refused));
        counters.push(("jobs_begun", "Jobs (put and get) begun", api.jobs_begun.load(Ordering::Relaxed)));
        // Shards count under the same names; a name that comes twice is a sum.
        counters.sort_by_key(|(name, ..)| *name);
        counters.dedup_by(|next, first| {
            let same = next.0 == first.0;
            if same {
                first.2 = first.2.saturating_add(next.2);
            }
            same
        });
        if let Some(socks) = api.backend.socks_state() {
            let clients = "Applications connected to the SOCKS proxy";
            snapshot.gauges.push(("socks_clients", clients, socks.clients as f64));
            let associations = "Applications among them that send datagrams";
            snapshot.gauges.push(("socks_associations", associations, socks.associations as f64));
        }
        if let Some(bridge) = api.backend.bridge_state() {
            snapshot.gauges.push((
                "bridge_guests",
                "Guests connected to this node's bridge",
                bridge.guests as f64,
            ));
            snapshot.gauges.push((
                "bridge_lines",
                "Bridges to friends that are connected",
                bridge.lines as f64,
            ));
        }
        snapshot.gauges.sort_by_key(|(name, ..)| *name);
        snapshot.gauges.dedup_by_key(|(name, ..)| *name);
        let puts = lock(&api.puts).iter().map(|(id, progress)| (*id, *progress)).collect();
        let uptime_s = api.started.elapsed().as_secs();
        let (store, latencies) = (api.backend.store_stats(), api.backend.latencies());
        let (month_bytes, rates, quota) =
            (api.sent_this_month(), api.told_rates(), api.config().limits.quota);
        Ok(Self { snapshot, store, counters, puts, latencies, uptime_s, month_bytes, rates, quota })
    }
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let view = View::take(&api).await?;
    let config = api.config().clone();
    let gets = view.snapshot.jobs.iter().map(|(JobId(id), progress)| {
        let mut job = get_json(progress);
        job["id"] = json!(id);
        job["kind"] = json!("get");
        let circuits = &view.snapshot.job_circuits;
        let circuit = circuits.iter().find(|(of, _)| of.0 == *id);
        job["circuit"] = json!(circuit.map(|(_, seen)| job_circuit_json(&config, seen)));
        job
    });
    let puts = view.puts.iter().map(|(id, progress)| {
        let mut job = put_json(progress);
        job["id"] = json!(id);
        job["kind"] = json!("put");
        job
    });
    let jobs: Vec<Value> = gets.chain(puts).collect();
    let peers: Vec<Value> = view.snapshot.peers.iter().map(|peer| peer_json(peer, &config)).collect();
    let counters: Map<String, Value> =
        view.counters.iter().map(|(n, _, v)| ((*n).to_owned(), json!(v))).collect();
    let gauges: Map<String, Value> =
        view.snapshot.gauges.iter().map(|(n, _, v)| ((*n).to_owned(), json!(v))).collect();
    let connected = |key: &crate::base::PublicKey| {
        view.snapshot.peers.iter().any(|peer| peer.key == *key && peer.connected)
    };
    let tunnels = tunnels_json(&config, &view.snapshot.tunnels, connected);
    let socks = api.backend.socks_state().map(|state| socks_json(&state));
    let latency: Vec<Value> = (0..).zip(&view.latencies).map(|(n, one)| latency_json(n, one)).collect();
    let classes: Map<String, Value> = view
        .snapshot
        .classes
        .iter()
        .map(|(class, stats)| (class.name().to_owned(), class_json(stats, queued(&view.snapshot, *class))))
        .collect();
    let counter =
        |name: &str| view.counters.iter().find(|(one, ..)| *one == name).map_or(0, |(.., value)| *value);
    let overlay = overlay_json(&view.snapshot, &config, counter);
    let mapped = *lock(&api.mapped_address);
    let store = view.store;
    let (up, down) = view.rates;
    Ok(answer(&json!({
        "node_id": api.node.to_string(),
        "key": api.card.key.to_string(),
        "rank": api.card.rank(),
        "version": env!("CARGO_PKG_VERSION"),
        "network": config.network,
        "port": config.port,
        "pid": std::process::id(),
        "uptime_s": view.uptime_s,
        "sent_this_month_bytes": view.month_bytes,
        "up_bits": up,
        "down_bits": down,
        "leaving": view.snapshot.leaving.map(|leaving| leaving_json(&leaving, api.leaves_early())),
        "online_s": view.snapshot.online_s,
        "peers": peers,
        "socks": socks,
        "bridge": api.backend.bridge_state().map(|state| bridge_json(&state)),
        "store": {
            "local_chunks": store.local_chunks,
            "local_bytes": store.local_bytes,
            "local_bytes_max": store.local_bytes_max,
            "cache_chunks": store.cache_chunks,
            "cache_bytes": store.cache_bytes,
            "cache_bytes_max": store.cache_bytes_max,
        },
        "overlay": overlay,
        "introductions": introductions_json(&view.snapshot, &config),
        "nat": nat_json(&view.snapshot, mapped),
        "tunnels": tunnels,
        "circuit": circuit_json(&config, view.snapshot.circuit.as_ref()),
        "jobs": jobs,
        "classes": classes,
        "counters": counters,
        "gauges": gauges,
        "latency": latency,
    })))
}

fn peer_json(peer: &PeerSnapshot, config: &Config) -> Value {
    let name = config.friends.iter().find(|friend| friend.card.key == peer.key).and_then(|f| f.name.clone());
    json!({
        "node_id": peer.node.to_string(),
        "key": peer.key.to_string(),
        "name": name,
        "rank": peer.rank,
        "trust": peer.trust,
        "introduced": peer.introduced,
        "connected": peer.connected,
        "address": peer.address,
        "relayed": peer.relayed,
        "bridged": peer.bridged,
        "relayed_by": peer.relayed_by.map(|node| node.to_string()),
        "straight_after_us": peer.straight_after_us,
        "intent": intent_json(&peer.intent),
        "rtt_us": peer.rtt_us,
        "sent_bytes": peer.sent_bytes,
        "received_bytes": peer.received_bytes,
        "lost_packets": peer.lost_packets,
        "window_bytes": peer.window,
        "mtu_bytes": peer.mtu,
        "agent": peer.agent,
        "wire_sent_bytes": peer.shaped.wire_sent_bytes,
        "waiting": peer.shaped.waiting,
        "class": peer.shaped.class.map(Class::name),
        "weight": peer.shaped.weight,
        "cap_bits": peer.shaped.cap,
        "floor_bits": peer.shaped.floor,
        "reserved_bits": peer.shaped.reserved,
        "reserved_left_s": peer.shaped.reserved_left_s,
        "asked": peer.shaped.asked.map(|asked| asked_json(&asked)),
        "queued_bytes": peer.shaped.queued_bytes,
        "queue_delay_us": peer.shaped.delay_us,
        "queue_dropped": peer.shaped.queue_dropped,
        "queue_marked": peer.shaped.queue_marked,
        "overuse_bytes": peer.shaped.overuse_bytes,
    })
}

fn bridge_json(state: &BridgeState) -> Value {
    json!({
        "listen": state.listen,
        "guests": state.guests,
        "lines": state.lines,
        "sent_datagrams": state.datagrams.0,
        "received_datagrams": state.datagrams.1,
        "sent_bytes": state.bytes.0,
        "received_bytes": state.bytes.1,
        "dropped_datagrams": state.dropped,
    })
}

/// What translates this node's addresses, as far as peers say.
fn nat_json(snapshot: &Snapshot, mapped: Option<SocketAddr>) -> Value {
    let kind = match snapshot.one_port_for_all {
        None => "unknown",
        Some(true) => "endpoint-independent",
        Some(false) => "endpoint-dependent",
    };
    json!({ "seen_at": snapshot.seen_at, "mapping": kind, "mapped": mapped })
}

/// What the peer was asked to promise.
fn asked_json(asked: &AskedSnapshot) -> Value {
    let said = asked.verdict.map(|verdict| match verdict {
        Verdict::Promised => "promised",
        Verdict::Unwilling => "unwilling",
        Verdict::Rate => "rate",
        Verdict::Cap => "cap",
        Verdict::Burst => "burst",
        Verdict::Full => "full",
    });
    json!({
        "rate_bits": asked.reservation.rate,
        "said": said,
        "left_s": asked.left_s,
        "most": asked.most,
    })
}

/// Bytes that wait in the queues of those whose usual class this is.
pub(super) fn queued(snapshot: &Snapshot, class: Class) -> u64 {
    let of = snapshot.peers.iter().filter(|peer| peer.shaped.class == Some(class));
    of.map(|peer| peer.shaped.queued_bytes).sum()
}

/// What a class sent, how long it waited for leave, and what waits.
fn class_json(stats: &ClassStats, queued: u64) -> Value {
    let us = |share: f64| stats.delay.quantile(share).as_micros() as u64;
    json!({
        "sent_bytes": stats.sent_bytes,
        "grants": stats.grants,
        "delay_p50_us": us(0.5),
        "delay_p99_us": us(0.99),
        "delay_max_us": stats.delay.max().as_micros() as u64,
        "queued_bytes": queued,
        "queue_dropped": stats.dropped,
        "queue_marked": stats.marked,
    })
}

/// What a shard measured: microseconds at some shares.
fn latency_json(shard: usize, latencies: &Latencies) -> Value {
    let mut json = json!({ "shard": shard });
    for ((name, _), one) in Latencies::ABOUT.iter().zip(latencies.all()) {
        json[*name] = json!({
            "count": one.count(),
            "p50_us": one.quantile_us(0.5),
            "p90_us": one.quantile_us(0.9),
            "p99_us": one.quantile_us(0.99),
            "p999_us": one.quantile_us(0.999),
            "max_us": one.quantile_us(1.0),
        });
    }
    json
}

/// A `get`'s progress.
pub(super) fn get_json(progress: &GetProgress) -> Value {
    let sources: Vec<String> = progress.sources.iter().map(ToString::to_string).collect();
    json!({
        "planned": progress.planned,
        "files_total": progress.files_total,
        "files_done": progress.files_done,
        "bytes_total": progress.bytes_total,
        "bytes_done": progress.bytes_done,
        "bytes_resumed": progress.bytes_resumed,
        "bytes_fetched": progress.bytes_fetched,
        "name": String::from_utf8_lossy(&progress.name),
        "sources": sources,
        "waits_for": progress.waits_for,
    })
}

/// A `put`'s progress.
pub(super) fn put_json(progress: &PutProgress) -> Value {
    json!({
        "planned": progress.planned,
        "files_total": progress.files_total,
        "files_done": progress.files_done,
        "bytes_total": progress.bytes_total,
        "bytes_done": progress.bytes_done,
        "bytes_reused": progress.bytes_reused,
        "chunks_new": progress.chunks_new,
        "chunk_bytes_new": progress.chunk_bytes_new,
        "chunks_reused": progress.chunks_reused,
        "skipped": progress.skipped,
        "chunks_given": progress.chunks_given,
        "keepers_min": progress.keepers_min,
        "chunks_short": progress.chunks_short,
    })
}

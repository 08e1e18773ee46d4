//! `GET /metrics`: the same view as `status`, as OpenMetrics text for Prometheus.
//!
//! Values are read once per scrape and encoded through a registry of prometheus-client, which owns the
//! format: names, escaping, types. Nothing is kept between scrapes.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Api;
use super::error::ApiError;
use super::status::{View, queued};
use crate::io::latency::{Latencies, Latency};
use crate::limits::METRICS_PEERS_MAX;
use crate::node::command::PeerSnapshot;
use crate::shape::ClassStats;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let view = View::take(&api).await?;
    let text = encode(view, api.node.to_string(), api.card.rank())
        .map_err(|_| ApiError::internal("the metrics could not be written"))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The whole text. Labels come from this program and from ids, never from peers' texts.
pub(super) fn encode(view: View, node: String, rank: u32) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tornet");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node_id", node)]);
    registry.register("build", "The running program and node", build);
    registry.register_collector(Box::new(Scrape { view, rank }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Scrape {
    view: View,
    rank: u32,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in &self.view.counters {
            plain(&mut encoder, name, help, &ConstCounter::new(*value))?;
        }
        for (name, help, value) in &self.view.snapshot.gauges {
            plain(&mut encoder, name, help, &ConstGauge::new(*value))?;
        }
        let peers = &self.view.snapshot.peers;
        let store = &self.view.store;
        let count = |n: usize| n as f64;
        let gauges = [
            ("uptime_seconds", "Time since the daemon started", self.view.uptime_s as f64),
            ("rank", "Work in this node's rank nonce", f64::from(self.rank)),
            (
                "friends",
                "Peers trusted by the operator",
                count(peers.iter().filter(|p| p.trust.is_some()).count()),
            ),
            ("peers_connected", "Peers with a session", count(peers.iter().filter(|p| p.connected).count())),
            (
                "jobs_running",
                "Running put and get jobs",
                count(self.view.snapshot.jobs.len() + self.view.puts.len()),
            ),
            (
                "month_sent_bytes",
                "Bytes sent this month (UTC), as they count for the quota",
                self.view.month_bytes as f64,
            ),
            ("store_local_chunks", "Chunks published here", store.local_chunks as f64),
            ("store_local_bytes", "Ciphertext published here", store.local_bytes as f64),
            ("store_local_max_bytes", "Room for chunks published here", store.local_bytes_max as f64),
            ("store_cache_chunks", "Chunks cached for others", store.cache_chunks as f64),
            ("store_cache_bytes", "Ciphertext cached for others", store.cache_bytes as f64),
            ("store_cache_max_bytes", "Room for chunks cached for others", store.cache_bytes_max as f64),
        ];
        for (name, help, value) in gauges {
            // What the node reports under the same name has been written already.
            if self.view.snapshot.gauges.iter().all(|(known, ..)| *known != name) {
                plain(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        // Absent where there is none, as a limit of nothing would be one.
        let (up, down) = self.view.rates;
        let limits = [
            ("limit_up_bits_per_second", "What this node may send now", up),
            ("limit_down_bits_per_second", "What this node may ask for now", down),
            ("limit_quota_bytes", "What it may send in a calendar month", self.view.quota),
        ];
        for (name, help, value) in limits {
            if let Some(value) = value {
                plain(&mut encoder, name, help, &ConstGauge::new(value as f64))?;
            }
        }
        self.per_shard(&mut encoder)?;
        self.per_class(&mut encoder)?;
        self.per_peer(&mut encoder)
    }
}

/// A latency as a Prometheus histogram.
struct Shown<'a>(&'a Latency);

impl EncodeMetric for Shown<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Self(latency) = self;
        encoder.encode_histogram::<NoLabelSet>(latency.sum(), latency.count(), &latency.buckets(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Scrape {
    fn per_shard(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (at, (name, help)) in Latencies::ABOUT.iter().enumerate() {
            let name = format!("shard_{name}_seconds");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
            for (shard, latencies) in self.view.latencies.iter().enumerate() {
                let label = [("shard", shard.to_string())];
                Shown(latencies.all()[at]).encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }

    fn per_class(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Read = fn(&ClassStats) -> u64;
        let counters: [(&str, &str, Read); 5] = [
            ("class_sent_bytes", "Bytes sent in this class, IP headers included", |c| c.sent_bytes),
            ("class_grants", "Times that something of this class was let", |c| c.grants),
            ("class_delayed", "Of those, grants whose wait was measured", |c| c.delay.count()),
            ("class_queue_dropped", "Packets of tunnels and circuits dropped where they waited", |c| {
                c.dropped
            }),
            ("class_queue_marked", "Packets of tunnels marked where they waited", |c| c.marked),
        ];
        let classes = &self.view.snapshot.classes;
        for (name, help, read) in counters {
            let metric = |stats: &ClassStats| ConstCounter::new(read(stats));
            let Some((_, first)) = classes.first() else { return Ok(()) };
            let mut family = encoder.encode_descriptor(name, help, None, metric(first).metric_type())?;
            for (class, stats) in classes {
                metric(stats).encode(family.encode_family(&[("class", class.name())])?)?;
            }
        }
        let kind = ConstGauge::new(0.0).metric_type();
        let help = "Bytes of tunnels and circuits that wait for leave";
        let mut family = encoder.encode_descriptor("class_queued_bytes", help, None, kind)?;
        for (class, _) in classes {
            let value = ConstGauge::new(queued(&self.view.snapshot, *class) as f64);
            value.encode(family.encode_family(&[("class", class.name())])?)?;
        }
        let shares = [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)];
        let help = "Wait for leave to send, by quantile since the start";
        let mut family = encoder.encode_descriptor("class_delay_seconds", help, None, kind)?;
        for (class, stats) in classes {
            for (label, share) in shares {
                let value = ConstGauge::new(stats.delay.quantile(share).as_secs_f64());
                value.encode(family.encode_family(&[("class", class.name()), ("quantile", label)])?)?;
            }
        }
        Ok(())
    }

    fn per_peer(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Read<T> = fn(&PeerSnapshot) -> T;
        let gauges: [(&str, &str, Read<f64>); 7] = [
            ("peer_connected", "Whether a session with this peer is established", |p| {
                f64::from(u8::from(p.connected))
            }),
            ("peer_rtt_seconds", "Smoothed round trip", |p| p.rtt_us as f64 / 1e6),
            ("peer_window_bytes", "Congestion window", |p| p.window as f64),
            ("peer_mtu_bytes", "UDP payload that the path carries", |p| f64::from(p.mtu)),
            ("peer_queued_bytes", "Bytes of tunnels and circuits that wait for leave", |p| {
                p.shaped.queued_bytes as f64
            }),
            (
                "peer_queue_delay_seconds",
                "How long the first packet in its queue has waited, or what else there is for its first leave",
                |p| p.shaped.delay_us as f64 / 1e6,
            ),
            ("peer_weight", "Share among its like", |p| f64::from(p.shaped.weight)),
        ];
        let counters: [(&str, &str, Read<u64>); 7] = [
            ("peer_wire_sent_bytes", "Bytes sent to this peer, IP headers included", |p| {
                p.shaped.wire_sent_bytes
            }),
            ("peer_sent_bytes", "UDP payload sent to this peer", |p| p.sent_bytes),
            ("peer_received_bytes", "UDP payload received from this peer", |p| p.received_bytes),
            ("peer_lost_packets", "Packets to this peer declared lost", |p| p.lost_packets),
            ("peer_queue_dropped", "Packets of tunnels and circuits dropped where they waited", |p| {
                p.shaped.queue_dropped
            }),
            ("peer_queue_marked", "Packets of tunnels marked where they waited", |p| p.shaped.queue_marked),
            ("peer_overuse_bytes", "Bytes sent above what was promised", |p| p.shaped.overuse_bytes),
        ];
        // Absent where there is none, as a cap of nothing would be one.
        let limits: [(&str, &str, Read<Option<u64>>); 3] = [
            ("peer_cap_bits_per_second", "What it is sent at most", |p| p.shaped.cap),
            ("peer_floor_bits_per_second", "What it is sent at least", |p| p.shaped.floor),
            ("peer_reserved_bits_per_second", "What was promised to it", |p| p.shaped.reserved),
        ];
        let peers = &self.view.snapshot.peers[..self.view.snapshot.peers.len().min(METRICS_PEERS_MAX)];
        for (name, help, read) in gauges {
            per_peer(encoder, name, help, peers, |peer| Some(ConstGauge::new(read(peer))))?;
        }
        for (name, help, read) in counters {
            per_peer(encoder, name, help, peers, |peer| Some(ConstCounter::new(read(peer))))?;
        }
        for (name, help, read) in limits {
            per_peer(encoder, name, help, peers, |peer| Some(ConstGauge::new(read(peer)? as f64)))?;
        }
        Ok(())
    }
}

fn plain(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn per_peer<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    peers: &[PeerSnapshot],
    metric: impl Fn(&PeerSnapshot) -> Option<M>,
) -> fmt::Result {
    let mut those = peers.iter().filter_map(|peer| Some((peer, metric(peer)?))).peekable();
    let Some((_, first)) = those.peek() else { return Ok(()) };
    let mut family = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (peer, metric) in those {
        let label = [("peer", peer.node.to_string())];
        metric.encode(family.encode_family(&label)?)?;
    }
    Ok(())
}

//! Tunnels to friends: brought up, taken down, listed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::circuits::circuit_json;
use super::error::ApiError;
use super::routes::{answer, body};
use super::{Api, SocksState, TunnelPlan};
use crate::base::Prefix;
use crate::config::{Config, ConfigError, FriendEntry, TunnelEntry, friends};
use crate::limits::{CELL_INNER_LARGE, SPREAD_INNER_MAX, TUNNEL_LISTED_MAX};
use crate::node::command::{Command, TunnelPeer, TunnelSnapshot};
use crate::onion::exit::CLIENT;

/// `POST /v1/tunnels`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Up {
    /// The friend's name, or the beginning of its node id or key.
    peer: String,
    addr: Vec<String>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    route: Vec<String>,
}

/// The tunnel that the texts of a person mean, to one of these friends.
pub fn entry(
    config: &Config,
    peer: &str,
    addr: &[String],
    allow: &[String],
    route: &[String],
) -> Result<TunnelEntry, ConfigError> {
    let friend = &config.friends[friends::find(&config.friends, peer)?];
    let networks = |name: &str, list: &[String]| -> Result<Vec<Prefix>, ConfigError> {
        if list.len() > TUNNEL_LISTED_MAX {
            return Err(ConfigError::Invalid(format!("at most {TUNNEL_LISTED_MAX} of --{name}")));
        }
        let parse = |text: &String| {
            let shown: String = text.chars().take(60).collect();
            text.parse().map_err(|why| ConfigError::Invalid(format!("--{name} {shown:?}: {why}")))
        };
        list.iter().map(parse).collect()
    };
    let entry = TunnelEntry {
        peer: friend.card.key,
        addresses: networks("addr", addr)?,
        allow: networks("allow", allow)?,
        routes: networks("route", route)?,
    };
    if entry.addresses.is_empty() {
        return Err(ConfigError::Invalid(
            "a tunnel needs this host's address in it: --addr 10.9.0.1/24".into(),
        ));
    }
    Ok(entry)
}

pub(super) async fn up(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let up: Up = body(request).await?;
    let wanted = entry(&api.config(), &up.peer, &up.addr, &up.allow, &up.route)?;
    let _one = api.tunnelling.lock().await;
    let before = api.config().tunnels.iter().find(|tunnel| tunnel.peer == wanted.peer).cloned();
    let peer = wanted.peer;
    let new = api.edit(move |file| file.add_tunnel(&wanted)).await?;
    if let Err(error) = api.apply_tunnels().await {
        // As it was: what cannot be brought up is not remembered.
        let undone = match before {
            Some(before) => api.edit(move |file| file.add_tunnel(&before).map(drop)).await,
            None => api.edit(move |file| file.remove_tunnels(Some(&peer)).map(drop)).await,
        };
        if undone.is_ok() {
            let _ = api.apply_tunnels().await;
        }
        return Err(error);
    }
    let config = api.config().clone();
    let tunnel = config.tunnels.iter().find(|tunnel| tunnel.peer == peer);
    Ok(answer(&json!({
        "tunnel": tunnel.map(|tunnel| tunnel_json(tunnel, &config)),
        "device": config.tunnel_device,
        "new": new,
    })))
}

pub(super) async fn down(
    State(api): State<Arc<Api>>,
    who: Option<Path<String>>,
) -> Result<Response, ApiError> {
    let peer = who.map(|Path(who)| named(&api.config(), &who)).transpose()?;
    let _one = api.tunnelling.lock().await;
    let removed = api.edit(move |file| file.remove_tunnels(peer.as_ref())).await?;
    // All of them: the circuit, too.
    let circuit = peer.is_none() && api.take_circuit_down().await?;
    api.apply_tunnels().await?;
    let config = api.config().clone();
    let removed: Vec<Value> = removed.iter().map(|tunnel| tunnel_json(tunnel, &config)).collect();
    Ok(answer(&json!({ "removed": removed, "circuit": circuit })))
}

/// The peer of the tunnel that a person means.
pub fn named(config: &Config, who: &str) -> Result<crate::base::PublicKey, ConfigError> {
    // Also of a tunnel whose friend is gone.
    let by_key = config.tunnels.iter().find(|tunnel| tunnel.peer.to_string() == who).map(|t| t.peer);
    let key = match by_key {
        Some(key) => key,
        None => config.friends[friends::find(&config.friends, who)?].card.key,
    };
    if config.tunnels.iter().all(|tunnel| tunnel.peer != key) {
        let shown: String = who.chars().take(80).collect();
        let line = format!("there is no tunnel to {shown}: `tornet tunnel list` shows those that there are");
        return Err(ConfigError::Missing(line));
    }
    Ok(key)
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let snapshot = api.snapshot().await?;
    let config = api.config().clone();
    Ok(answer(&json!({
        "device": config.tunnel_device,
        "circuit": circuit_json(&config, snapshot.circuit.as_ref()),
        "socks": api.backend.socks_state().map(|state| socks_json(&state)),
        "tunnels": tunnels_json(&config, &snapshot.tunnels, |key| {
            snapshot.peers.iter().any(|peer| peer.key == *key && peer.connected)
        }),
    })))
}

/// A tunnel as it is configured.
pub fn tunnel_json(tunnel: &TunnelEntry, config: &Config) -> Value {
    let texts = |list: &[Prefix]| list.iter().map(Prefix::to_string).collect::<Vec<_>>();
    let friend = config.friends.iter().find(|friend| friend.card.key == tunnel.peer);
    json!({
        "peer": friend.map(FriendEntry::title),
        "node_id": friend.map(|friend| friend.card.node_id().to_string()),
        "key": tunnel.peer.to_string(),
        "addr": texts(&tunnel.addresses),
        "allow": texts(&tunnel.allowed()),
        "route": texts(&tunnel.routes),
    })
}

/// The SOCKS proxy, and what passed it.
pub(super) fn socks_json(state: &SocksState) -> Value {
    json!({
        "listen": state.listen.to_string(),
        "clients": state.clients,
        "associations": state.associations,
        "connected": state.connected,
        "sent_bytes": state.sent_bytes,
        "received_bytes": state.received_bytes,
    })
}

/// Every tunnel with what passed it.
pub(super) fn tunnels_json(
    config: &Config,
    counts: &[TunnelSnapshot],
    connected: impl Fn(&crate::base::PublicKey) -> bool,
) -> Vec<Value> {
    let one = |tunnel: &TunnelEntry| {
        let mut json = tunnel_json(tunnel, config);
        let counted = counts.iter().find(|counted| counted.peer == tunnel.peer);
        let count = |of: fn(&TunnelSnapshot) -> u64| json!(counted.map_or(0, of));
        json["connected"] = json!(connected(&tunnel.peer));
        json["sent_packets"] = count(|t| t.sent_packets);
        json["sent_bytes"] = count(|t| t.sent_bytes);
        json["received_packets"] = count(|t| t.received_packets);
        json["received_bytes"] = count(|t| t.received_bytes);
        json
    };
    config.tunnels.iter().map(one).collect()
}

impl Api {
    /// Brings up what the configuration says of tunnels at the daemon's start. A host that does not let us leaves the
    /// rest of the node as useful as it is.
    pub async fn start_tunnels(self: &Arc<Self>) {
        if let Err(error) = self.tell_circuit().await {
            tracing::error!("the circuit is down: {}", error.line);
        }
        if let Err(error) = self.apply_tunnels().await {
            tracing::error!("the tunnels are down: {}", error.line);
        }
        if let Err(error) = self.apply_socks().await {
            tracing::error!("{}", error.line);
        }
    }

    /// Makes host and node what the configuration says of tunnels.
    pub async fn apply_tunnels(self: &Arc<Self>) -> Result<(), ApiError> {
        let config = self.config().clone();
        let peers: Vec<TunnelPeer> = config
            .tunnels
            .iter()
            .map(|tunnel| TunnelPeer { peer: tunnel.peer, allowed: tunnel.allowed() })
            .collect();
        self.command(|| Command::Tunnels(peers.clone())).await?;
        let (api, plan) = (self.clone(), plan(&config));
        let applied = tokio::task::spawn_blocking(move || api.backend.tunnel(plan)).await;
        let applied = applied.map_err(|_| ApiError::internal("the tunnel could not be set up"))?;
        // Without its device an exit lets nothing out.
        self.exits.store(applied.is_ok(), Ordering::Relaxed);
        self.tell_relay().await?;
        applied.map_err(|line| ApiError::new(StatusCode::CONFLICT, line))
    }
}

/// What the host needs for the tunnels of a configuration, its circuit, and those that end here; nothing when there are
/// none.
fn plan(config: &Config) -> Option<TunnelPlan> {
    // A circuit that the SOCKS proxy alone uses needs nothing of the host.
    let has_circuit = config.onion_hops > 0 && !config.onion_routes.is_empty();
    let is_exit = !config.exit_allow.is_empty();
    if config.tunnels.is_empty() && !has_circuit && !is_exit {
        return None;
    }
    let all = |of: fn(&TunnelEntry) -> &[Prefix]| -> Vec<Prefix> {
        config.tunnels.iter().flat_map(of).copied().collect()
    };
    let mut routes: Vec<Prefix> =
        all(|tunnel| &tunnel.routes).iter().map(|prefix| prefix.network()).collect();
    let mut addresses = all(|tunnel| &tunnel.addresses);
    // A friend takes what comes from its friend's address in their tunnel, and an exit what comes from everybody's.
    let sources_of = |routes: &[Prefix], own: &[IpAddr]| -> Vec<(Prefix, IpAddr)> {
        let like = |route: &Prefix| own.iter().copied().find(|own| own.is_ipv4() == route.is_ipv4());
        routes.iter().filter_map(|route| Some((route.network(), like(route)?))).collect()
    };
    let mut sources: Vec<(Prefix, IpAddr)> = Vec::new();
    for tunnel in &config.tunnels {
        let own: Vec<IpAddr> = tunnel.addresses.iter().map(|prefix| prefix.address()).collect();
        sources.extend(sources_of(&tunnel.routes, &own));
    }
    let mut mtu = config.tunnel_mtu;
    if has_circuit {
        routes.extend(&config.onion_routes);
        addresses.extend(CLIENT.iter().map(Prefix::host));
        sources.extend(sources_of(&config.onion_routes, &CLIENT.iter().collect::<Vec<_>>()));
    }
    let exit = if is_exit { config.exit_pool.clone() } else { Vec::new() };
    // The device has the first address of each pool.
    addresses.extend(exit.iter().filter_map(|pool| Prefix::new(next(pool.network().address()), pool.len())));
    if has_circuit || is_exit {
        let packets = config.onion_spread_packets && config.onion_paths > 1;
        mtu = mtu.min(if packets { SPREAD_INNER_MAX } else { CELL_INNER_LARGE } as u16);
    }
    for list in [&mut routes, &mut addresses] {
        list.sort();
        list.dedup();
    }
    let shards = config.shards_count.max(1);
    Some(TunnelPlan {
        sources,
        quiet: if has_circuit { CLIENT.iter().collect() } else { Vec::new() },
        device: config.tunnel_device.clone(),
        mtu,
        addresses,
        dns: config.tunnel_dns.clone(),
        ports: (0..shards).map(|shard| config.port.saturating_add(shard)).collect(),
        // Who sends everything through a friend wants nothing to go another way when the tunnel is down.
        kill_switch: config.tunnel_kill_switch || routes.iter().any(|route| route.is_default()),
        routes,
        exit,
    })
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + 1).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;

    #[test]
    fn a_default_route_brings_the_kill_switch() {
        let of = |route: &str| {
            let tunnel = TunnelEntry {
                peer: PublicKey([1; 32]),
                addresses: vec!["10.9.0.1/24".parse().expect("a prefix")],
                allow: Vec::new(),
                routes: vec![route.parse().expect("a prefix")],
            };
            plan(&Config { tunnels: vec![tunnel], ..Config::default() }).expect("there is a tunnel")
        };
        assert!(of("0.0.0.0/0").kill_switch && of("::/0").kill_switch);
        assert!(!of("10.20.0.1/16").kill_switch);
        assert_eq!(of("10.20.0.1/16").routes, ["10.20.0.0/16".parse().expect("a prefix")], "a network");
        assert!(plan(&Config::default()).is_none());
    }

    #[test]
    fn a_circuit_takes_everything_and_an_exit_has_an_address_in_its_pool() {
        let with = plan(&Config { onion_hops: 3, ..Config::default() }).expect("a circuit");
        assert!(with.kill_switch && with.routes.len() == 2 && usize::from(with.mtu) == CELL_INNER_LARGE);
        assert_eq!(with.addresses.len(), 2);
        let rule = "0.0.0.0/0 443".parse().expect("a rule");
        let exit = plan(&Config { exit_allow: vec![rule], ..Config::default() }).expect("an exit");
        assert_eq!(exit.addresses, ["10.117.0.1/16".parse().expect("a prefix")]);
        assert!(exit.routes.is_empty() && !exit.kill_switch && exit.exit.len() == 1);
    }

    #[test]
    fn what_is_a_friends_leaves_from_the_tunnels_address_and_the_rest_from_everybodys() {
        let tunnel = |n, address: &str, route: &str| TunnelEntry {
            peer: PublicKey([n; 32]),
            addresses: vec![address.parse().expect("a prefix")],
            allow: Vec::new(),
            routes: vec![route.parse().expect("a prefix")],
        };
        let tunnels = vec![tunnel(1, "10.9.0.1/24", "10.20.0.1/24"), tunnel(2, "10.8.0.1/24", "0.0.0.0/0")];
        let plan = plan(&Config { tunnels, onion_hops: 3, ..Config::default() }).expect("both");
        let source = |route: &str| {
            let route = route.parse::<Prefix>().expect("a prefix");
            plan.sources.iter().find(|(of, _)| *of == route).map(|(_, source)| source.to_string())
        };
        assert_eq!(source("10.20.0.0/24").as_deref(), Some("10.9.0.1"));
        assert_eq!(source("0.0.0.0/0").as_deref(), Some("10.8.0.1"), "no circuit takes what a tunnel takes");
        assert_eq!(source("::/0").as_deref(), Some("fd74:6f72:6e65:7400::1"));
    }
}

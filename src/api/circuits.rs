//! The node's own circuit, brought up and taken down, and what it does for circuits of others as an exit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::routes::{answer, body};
use super::{Api, SocksPlan};
use crate::base::PublicKey;
use crate::config::keys::Key;
use crate::config::{Config, ConfigError, FriendEntry, friends};
use crate::limits::{CIRCUIT_WAIT_MS_MAX, LAYERS_MAX, ONION_ROUTES_MAX, PATHS_MAX};
use crate::node::command::{CircuitRules, CircuitSnapshot, CircuitWant, Command, ExitRules, PathSnapshot};
use crate::onion::policy::Policy;

/// `POST /v1/circuit`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Up {
    hops: u8,
    /// Circuits at once.
    #[serde(default = "one")]
    paths: u8,
    /// Whether packets are spread over them one by one.
    #[serde(default)]
    spread_packets: bool,
    #[serde(default)]
    route: Vec<String>,
    /// A friend's name, the beginning of its node id or key, or any exit's key.
    exit: Option<String>,
    #[serde(default)]
    force: bool,
    /// Where applications find the SOCKS proxy.
    socks: Option<String>,
}

fn one() -> u8 {
    1
}

/// The settings that a circuit is made of.
const SETTINGS: [&str; 7] = [
    "onion.hops",
    "onion.paths",
    "onion.spread",
    "onion.routes",
    "onion.exit",
    "onion.force",
    "socks.listen",
];
/// How long a reason must stand before it is believed: a daemon that just started has yet to meet its friends.
const BELIEVED_MS: u64 = 3_000;
const LOOK_MS: u64 = 100;

/// A number of hops that a person says.
pub(super) fn check_hops(hops: u8) -> Result<(), ConfigError> {
    match hops == 0 || usize::from(hops) > LAYERS_MAX {
        true => Err(ConfigError::Invalid(format!("--hops is a number from 1 to {LAYERS_MAX}"))),
        false => Ok(()),
    }
}

/// The exit that a person means: any node's key, or a friend.
pub(super) fn exit_key(config: &Config, text: &str) -> Result<PublicKey, ConfigError> {
    match text.parse::<PublicKey>() {
        Ok(key) => Ok(key),
        Err(_) => Ok(config.friends[friends::find(&config.friends, text)?].card.key),
    }
}

/// The settings of the circuit that the texts of a person mean.
pub fn settings(
    config: &Config,
    (hops, paths, packets): (u8, u8, bool),
    route: &[String],
    exit: Option<&str>,
    force: bool,
    socks: Option<&str>,
) -> Result<Vec<(&'static str, String)>, ConfigError> {
    check_hops(hops)?;
    if paths == 0 || usize::from(paths) > PATHS_MAX {
        return Err(ConfigError::Invalid(format!("--paths is a number from 1 to {PATHS_MAX}")));
    }
    if hops == 1 && paths > 1 {
        return Err(ConfigError::Invalid(
            "circuits of one hop share it: --paths wants --hops 2 or more".into(),
        ));
    }
    if packets && socks.is_some() {
        return Err(ConfigError::Invalid("--spread packet is for the device: not with --socks".into()));
    }
    let spread = if packets { "packet" } else { "flow" };
    if route.len() > ONION_ROUTES_MAX {
        return Err(ConfigError::Invalid(format!("at most {ONION_ROUTES_MAX} of --route")));
    }
    let exit = match exit {
        None => String::new(),
        Some(text) => exit_key(config, text)?.to_string(),
    };
    let routes = match (route.is_empty(), socks) {
        // A proxy alone needs no device, and so no rights.
        (true, Some(_)) => String::new(),
        (true, None) => Key::find("onion.routes")?.show(&Config::default()),
        (false, _) => route.join(","),
    };
    let socks = socks.unwrap_or_default().to_owned();
    Ok(SETTINGS
        .into_iter()
        .zip([hops.to_string(), paths.to_string(), spread.to_owned(), routes, exit, force.to_string(), socks])
        .collect())
}

pub(super) async fn up(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let up: Up = body(request).await?;
    let wanted = settings(
        &api.config(),
        (up.hops, up.paths, up.spread_packets),
        &up.route,
        up.exit.as_deref(),
        up.force,
        up.socks.as_deref(),
    )?;
    let _one = api.tunnelling.lock().await;
    let before = current(&api.config());
    api.set_circuit(wanted).await?;
    let opened = async {
        api.tell_circuit().await?;
        let opened = api.await_circuit().await?;
        api.apply_tunnels().await?;
        api.apply_socks().await.map(|()| opened)
    };
    match opened.await {
        Ok(opened) => {
            let config = api.config().clone();
            Ok(answer(&json!({
                "circuit": circuit_json(&config, Some(&opened)),
                "device": (!config.onion_routes.is_empty()).then_some(config.tunnel_device),
            })))
        }
        Err(error) => {
            // As it was: what cannot be brought up is not remembered.
            if api.set_circuit(before).await.is_ok() {
                let _ = api.tell_circuit().await;
                let _ = api.apply_tunnels().await;
                let _ = api.apply_socks().await;
            }
            Err(error)
        }
    }
}

pub(super) async fn down(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let _one = api.tunnelling.lock().await;
    let removed = api.take_circuit_down().await?;
    api.apply_tunnels().await?;
    Ok(answer(&json!({ "removed": removed })))
}

fn current(config: &Config) -> Vec<(&'static str, String)> {
    let keys = SETTINGS.iter().filter_map(|name| Key::find(name).ok());
    keys.map(|key| (key.name, key.show(config))).collect()
}

/// The circuit as it is configured, and as it is. Null when none is wanted.
pub fn circuit_json(config: &Config, seen: Option<&CircuitSnapshot>) -> Value {
    if config.onion_hops == 0 {
        return Value::Null;
    }
    let mut json = json!({
        "hops": config.onion_hops,
        "paths_wanted": config.onion_paths,
        "spread": if config.onion_spread_packets { "packet" } else { "flow" },
        "route": config.onion_routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "exit": config.onion_exit.as_ref().map(|key| title(config, key)),
        "socks": config.socks_listen.map(|at| at.to_string()),
    });
    if let Some(seen) = seen {
        add_seen(&mut json, config, seen);
    }
    json
}

fn title(config: &Config, key: &PublicKey) -> String {
    let friend = config.friends.iter().find(|friend| friend.card.key == *key);
    friend.map_or_else(|| key.to_string(), FriendEntry::title)
}

fn add_seen(json: &mut Value, config: &Config, seen: &CircuitSnapshot) {
    json["open"] = json!(!seen.path.is_empty());
    json["path"] = json!(seen.path.iter().map(|key| title(config, key)).collect::<Vec<_>>());
    json["why"] = json!(seen.why);
    let path = |path: &PathSnapshot| {
        json!({
            "open": !path.path.is_empty(),
            "path": path.path.iter().map(|key| title(config, key)).collect::<Vec<_>>(),
            "why": path.why,
            "rtt_us": path.rtt_us,
            "sent_packets": path.sent_packets,
            "sent_bytes": path.sent_bytes,
            "received_packets": path.received_packets,
            "received_bytes": path.received_bytes,
        })
    };
    json["paths"] = seen.paths.iter().map(path).collect();
    json["rtt_us"] = json!(seen.rtt_us);
    json["circuits_opened"] = json!(seen.opened);
    json["sent_packets"] = json!(seen.sent_packets);
    json["sent_bytes"] = json!(seen.sent_bytes);
    json["received_packets"] = json!(seen.received_packets);
    json["received_bytes"] = json!(seen.received_bytes);
}

/// A circuit of a job's own, as it is.
pub(super) fn job_circuit_json(config: &Config, seen: &CircuitSnapshot) -> Value {
    let mut json = json!({ "hops": seen.hops });
    add_seen(&mut json, config, seen);
    json
}

impl Api {
    async fn set_circuit(self: &Arc<Self>, settings: Vec<(&'static str, String)>) -> Result<(), ApiError> {
        self.edit(move |file| {
            let changes: Vec<_> = settings.iter().map(|(name, text)| (*name, Some(text.as_str()))).collect();
            file.set(&changes).map(drop)
        })
        .await
    }

    /// Wants no circuit any more; whether one was.
    pub(super) async fn take_circuit_down(self: &Arc<Self>) -> Result<bool, ApiError> {
        if self.config().onion_hops == 0 {
            return Ok(false);
        }
        self.set_circuit(vec![("onion.hops", "0".to_owned())]).await?;
        self.apply_socks().await?;
        self.tell_circuit().await?;
        Ok(true)
    }

    /// Has a SOCKS proxy as the configuration says, while there is to be a circuit.
    pub(super) async fn apply_socks(self: &Arc<Self>) -> Result<(), ApiError> {
        let plan = {
            let config = self.config();
            let listen = config.socks_listen.filter(|_| config.onion_hops > 0);
            let dns = if config.socks_dns.is_empty() { &config.tunnel_dns } else { &config.socks_dns };
            listen.map(|listen| SocksPlan { listen, resolvers: dns.clone() })
        };
        let api = self.clone();
        let applied = tokio::task::spawn_blocking(move || api.backend.socks(plan)).await;
        let applied = applied.map_err(|_| ApiError::internal("the SOCKS proxy could not be started"))?;
        applied.map_err(|line| ApiError::new(StatusCode::CONFLICT, line))
    }

    /// Tells the node what circuit to keep.
    pub(super) async fn tell_circuit(&self) -> Result<(), ApiError> {
        let want = {
            let config = self.config();
            (config.onion_hops > 0).then(|| CircuitWant {
                hops: config.onion_hops,
                paths: config.onion_paths,
                spread_packets: config.onion_spread_packets,
                exit: config.onion_exit,
                force: config.onion_force,
                routes: config.onion_routes.clone(),
                proxied: config.socks_listen.is_some(),
            })
        };
        self.command(|| Command::Circuit(want.clone())).await
    }

    /// Waits until the circuit is open, or why it is not is known.
    async fn await_circuit(&self) -> Result<CircuitSnapshot, ApiError> {
        let mut stuck_ms = 0;
        let mut why = None;
        for _ in 0..CIRCUIT_WAIT_MS_MAX / LOOK_MS {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            let seen = self.snapshot().await?.circuit.unwrap_or_default();
            if !seen.path.is_empty() {
                return Ok(seen);
            }
            stuck_ms = if seen.why.is_some() { stuck_ms + LOOK_MS } else { 0 };
            why = seen.why.or(why);
            if stuck_ms >= BELIEVED_MS {
                break;
            }
        }
        let why = why.unwrap_or_else(|| "the relays do not answer; try again, or see the log".into());
        Err(ApiError::new(StatusCode::CONFLICT, format!("no circuit: {why}")))
    }

    /// Tells the node what it does for circuits of others: relays them, and lets them out when the host does.
    pub async fn tell_relay(&self) -> Result<(), ApiError> {
        // One look at the settings: a second one in the same statement would wait for the first for ever.
        let (rules, exit) = {
            let config = self.config();
            let exit = self.exits.load(Ordering::Relaxed) && !config.exit_allow.is_empty();
            let rules = CircuitRules { relay: config.relay_enabled, named: config.relay_named, exit };
            let open = || ExitRules {
                policy: Policy(config.exit_allow.clone()),
                pools: config.exit_pool.clone(),
                rate: config.exit_rate.map(|bits| bits / 8),
            };
            (rules, if exit { open() } else { ExitRules::default() })
        };
        self.command(|| Command::Exit(Box::new(exit.clone()))).await?;
        self.command(|| Command::Relay(rules)).await
    }
}

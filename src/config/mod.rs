//! What the operator decides: `tornet.toml`, the key files and the node's folder.
//!
//! `tornet.toml` belongs to the operator: every edit made here keeps comments and order
//! ([`ConfigFile`]). Unknown keys are errors, so that a misspelt one never passes silently. Key files
//! are private to their owner or refused ([`keyfile`]).

// The edge: files are its purpose.
#![allow(clippy::disallowed_methods)]

pub mod atomic;
pub mod bridge;
pub mod dir;
pub mod document;
pub mod friends;
mod intents;
pub mod keyfile;
pub mod keys;
pub mod limits;
pub mod overlay;
pub mod peers;
pub mod tunnels;
pub mod usage;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::base::{NodeId, Prefix, PublicKey};
use crate::limits::{ASKED_SHARE_MILLI_USUAL, TUNNEL_MTU};
use crate::onion::policy::Rule;
use crate::shape::{PeerLimits, Plan};
use crate::wire::invite::Invite;

pub use crate::base::units::plain;
pub use dir::NodeDir;
pub use document::ConfigFile;
pub use friends::{FriendChange, FriendEntry};
pub use limits::Promise;
pub use tunnels::TunnelEntry;
pub use usage::Usage;

/// The UDP port of shard 0 unless the operator chooses another.
pub const DEFAULT_PORT: u16 = 4600;
/// The tunnels' network device.
pub const DEFAULT_DEVICE: &str = "tornet0";
/// Addresses of circuits that end here: private ones, which the host's NAT hides.
const POOL: [&str; 1] = ["10.117.0.0/16"];
/// What goes through a circuit unless the operator says otherwise.
const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/0"];
/// The network that nodes join unless told otherwise.
pub const DEFAULT_NETWORK: &str = "tornet";

/// Why configuration or a key cannot be used. Every message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What the operator wrote is wrong.
    #[error("{0}")]
    Invalid(String),
    /// What was named does not exist.
    #[error("{0}")]
    Missing(String),
    /// What was asked for would destroy or contradict what is there.
    #[error("{0}")]
    Conflict(String),
    /// The operating system refused.
    #[error("{what}: {}", plain(.source))]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl ConfigError {
    pub(crate) fn io(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("cannot {verb} {}", path.display()), source }
    }
}

/// The checked contents of `tornet.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Nodes talk only to nodes of the same network.
    pub network: String,
    /// UDP port of shard 0; shard i uses `port + i`.
    pub port: u16,
    /// Local addresses, one UDP socket each per shard.
    pub listen: Vec<IpAddr>,
    /// Addresses that invitations name instead of the host's own; port 0 stands for `port`.
    pub advertise: Vec<SocketAddr>,
    /// TCP address of the read-only HTTP API (status, metrics), if any.
    pub api: Option<SocketAddr>,
    /// Whether `api` may be other than a loopback address.
    pub api_public: bool,
    /// Log filter in `tracing` syntax.
    pub log: String,
    /// Shards: threads with a core, a UDP port and an io_uring each.
    pub shards_count: u16,
    /// Whether each shard is pinned to a core.
    pub shards_pin: bool,
    /// Microseconds for which a shard without work looks for some before it sleeps.
    pub shards_busy_poll_us: u32,
    /// Whether circuits of others go through this node.
    pub relay_enabled: bool,
    /// Whether friends may tell theirs that it relays.
    pub relay_named: bool,
    /// What circuits that end here may reach; nothing: none may end here.
    pub exit_allow: Vec<Rule>,
    /// Where they get their addresses from, at most one network of each family.
    pub exit_pool: Vec<Prefix>,
    /// Bits per second of all of them together, both ways.
    pub exit_rate: Option<u64>,
    /// Hops of the circuit that the tunnels' device leads into; 0: there is none.
    pub onion_hops: u8,
    /// How many such circuits there are at once.
    pub onion_paths: u8,
    /// Whether packets are spread over them one by one, instead of flow by flow.
    pub onion_spread_packets: bool,
    /// What goes through it.
    pub onion_routes: Vec<Prefix>,
    /// Its exit's key, if it must be this one.
    pub onion_exit: Option<PublicKey>,
    /// Whether one possible first hop will do.
    pub onion_force: bool,
    /// Whether nobody but friends is heard, called, served or told of this node.
    pub friends_only: bool,
    /// How many hands farther than to its friends this node agrees to be introduced.
    pub friends_introduce: u8,
    /// With how many offered nodes to keep sessions.
    pub friends_adopt: u8,
    /// Whether the node takes part in the overlay.
    pub overlay_enabled: bool,
    /// The overlay's name: those of another are not understood.
    pub overlay_network: String,
    /// Invitations of nodes by which the network is entered.
    pub overlay_bootstrap: Vec<Invite>,
    /// Whether chunks are looked for from far, which is cheap, instead of near, which is fast.
    pub overlay_far: bool,
    /// Whether those who are no friends are served chunks.
    pub serve_strangers: bool,
    /// Whether chunks of others are kept for them, in the cache.
    pub serve_keep: bool,
    /// How much longer than it means to friends may have this node stay, seconds.
    pub intents_grant_max_s: u32,
    /// The least trust of who may.
    pub intents_grant_trust: u8,
    /// How much longer than it means to a friend is asked to stay for a `get`, seconds.
    pub intents_ask_max_s: u32,
    /// Whether the router is asked to let others in.
    pub nat_mapping: bool,
    /// Servers of STUN, `host:port`.
    pub nat_stun: Vec<String>,
    /// Whether anybody's question of STUN is answered.
    pub nat_answers: bool,
    /// The bridge that leads to this node.
    pub bridge: bridge::Serving,
    /// Where applications find the SOCKS proxy into the circuit, if there is one.
    pub socks_listen: Option<SocketAddr>,
    /// Whether that may be other than a loopback address.
    pub socks_public: bool,
    /// Who is asked for names, through the circuit.
    pub socks_dns: Vec<IpAddr>,
    /// Bytes that published chunks may take.
    pub store_local_max: u64,
    /// Bytes that cached chunks may take.
    pub store_cache_max: u64,
    /// Name of the tunnels' network device.
    pub tunnel_device: String,
    /// Its MTU, bytes.
    pub tunnel_mtu: u16,
    /// Who answers for names while a tunnel is up; none leaves that as it is.
    pub tunnel_dns: Vec<IpAddr>,
    /// Whether what tunnels route may leave through nothing else, also when they do not route everything.
    pub tunnel_kill_switch: bool,
    /// Tunnels to friends, in the file's order.
    pub tunnels: Vec<TunnelEntry>,
    /// What may leave and be asked for, at which time.
    pub limits: Plan,
    /// Bytes that may leave at once after a pause; `None` is the usual.
    pub limits_burst: Option<u64>,
    /// Whether what this node may send is measured where it is not said.
    pub limits_measure: bool,
    /// Peers with limits of their own.
    pub limits_peers: Vec<(NodeId, PeerLimits)>,
    /// What was promised to peers, and until when.
    pub limits_reserved: Vec<Promise>,
    /// What peers are asked to promise, and until when.
    pub limits_asked: Vec<Promise>,
    /// What friends may have promised to them by asking, percent of what this node may send.
    pub limits_askable: u8,
    /// Peers trusted by the operator, in the file's order.
    pub friends: Vec<FriendEntry>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: DEFAULT_NETWORK.to_owned(),
            port: DEFAULT_PORT,
            listen: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            advertise: Vec::new(),
            api: None,
            api_public: false,
            log: "info".to_owned(),
            shards_count: 1,
            shards_pin: true,
            shards_busy_poll_us: 0,
            relay_enabled: true,
            relay_named: true,
            exit_allow: Vec::new(),
            exit_pool: POOL.iter().filter_map(|text| text.parse().ok()).collect(),
            exit_rate: None,
            onion_hops: 0,
            onion_paths: 1,
            onion_spread_packets: false,
            onion_routes: EVERYTHING.iter().filter_map(|text| text.parse().ok()).collect(),
            onion_exit: None,
            onion_force: false,
            friends_only: false,
            friends_introduce: 1,
            friends_adopt: 0,
            overlay_enabled: true,
            overlay_network: DEFAULT_NETWORK.to_owned(),
            overlay_bootstrap: Vec::new(),
            overlay_far: false,
            intents_grant_max_s: 600,
            intents_grant_trust: 50,
            intents_ask_max_s: 600,
            serve_strangers: true,
            serve_keep: true,
            nat_mapping: true,
            nat_stun: Vec::new(),
            nat_answers: false,
            bridge: bridge::Serving::default(),
            socks_listen: None,
            socks_public: false,
            socks_dns: Vec::new(),
            store_local_max: 64 << 30,
            store_cache_max: 16 << 30,
            tunnel_device: DEFAULT_DEVICE.to_owned(),
            tunnel_mtu: TUNNEL_MTU as u16,
            tunnel_dns: Vec::new(),
            tunnel_kill_switch: false,
            tunnels: Vec::new(),
            limits: Plan::default(),
            limits_burst: None,
            limits_measure: false,
            limits_peers: Vec::new(),
            limits_reserved: Vec::new(),
            limits_asked: Vec::new(),
            limits_askable: (ASKED_SHARE_MILLI_USUAL / 10) as u8,
            friends: Vec::new(),
        }
    }
}

impl Config {
    /// What no single key can say: keys that contradict each other.
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(api) = self.api
            && !api.ip().is_loopback()
            && !self.api_public
        {
            return Err(ConfigError::Invalid(format!(
                "api = \"{api}\" is reachable by others: use 127.0.0.1, or set api_public = true if that is meant"
            )));
        }
        if u32::from(self.port) + u32::from(self.shards_count) > 65_536 {
            return Err(ConfigError::Invalid(format!(
                "port {} leaves no room below 65536 for {} shards: choose a lower port",
                self.port, self.shards_count
            )));
        }
        if let Some(socks) = self.socks_listen
            && !socks.ip().is_loopback()
            && !self.socks_public
        {
            return Err(ConfigError::Invalid(format!(
                "socks.listen = \"{socks}\" lets others use the circuit: use 127.0.0.1, or set socks.public = true if \
                 that is meant"
            )));
        }
        if self.onion_hops > 0 && self.onion_routes.is_empty() && self.socks_listen.is_none() {
            return Err(ConfigError::Invalid(
                "the circuit would carry nothing: name what goes through it with onion.routes, or where applications \
                 find the SOCKS proxy with socks.listen"
                    .into(),
            ));
        }
        if self.onion_hops > 0 && !self.exit_allow.is_empty() {
            return Err(ConfigError::Conflict(
                "an exit has no circuit of its own, or what it lets out would go round in circles: \
                 `tornet tunnel down`, or `tornet config set exit.allow \"\"`"
                    .into(),
            ));
        }
        if !self.exit_allow.is_empty() {
            // Who can send from an address of the pool passes for a circuit, without its policy.
            let overlaps =
                |one: &Prefix| self.exit_pool.iter().any(|pool| pool.covers(*one) || one.covers(*pool));
            if let Some(prefix) = self.tunnels.iter().flat_map(TunnelEntry::allowed).find(overlaps) {
                return Err(ConfigError::Conflict(format!(
                    "{prefix} is allowed for a tunnel and is, or holds, addresses of exit.pool: give exit.pool other ones"
                )));
            }
        }
        bridge::check(self)?;
        overlay::check(self)?;
        tunnels::check(&self.tunnels, &self.friends)
    }
}

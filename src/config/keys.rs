//! The table of settings: name, kind, meaning, how it is read from text and shown as text.
//!
//! One row per key, so that the parser, `config get`, `config set`, the API and the error for a
//! misspelt key cannot disagree about what exists.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Config, ConfigError, intents, limits};
use crate::base::Prefix;
use crate::base::units::{parse_size, show_size};
use crate::limits::{
    ACQUAINTANCES_MAX, ADDRESSES_PER_PEER_MAX, BOOTSTRAP_MAX, BUSY_POLL_US_MAX, DEVICE_NAME_MAX,
    EXIT_RULES_MAX, INTRODUCTION_HANDS_MAX, LABEL_MAX, LAYERS_MAX, LIMIT_WINDOWS_MAX, LIMITED_PEERS_MAX,
    LISTEN_ADDRESSES_MAX, ONION_ROUTES_MAX, PATHS_MAX, RESERVED_SHARE_MILLI_MAX, SHARDS_MAX,
    SOCKS_RESOLVERS_MAX, STUN_SERVERS_MAX, TUNNEL_DNS_MAX, TUNNEL_MTU_MAX, TUNNEL_MTU_MIN,
};
use crate::wire::bridge::{BadBridge, check_path};

/// How a value is written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// An array of strings; on the command line separated by commas.
    List,
}

/// One setting.
pub struct Key {
    /// Dotted name, as in `store.local_max`.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Whether a running daemon follows a change at once.
    pub live: bool,
    /// One line for people.
    pub what: &'static str,
    read: fn(&mut Config, &[String]) -> Result<(), String>,
    show: fn(&Config) -> Vec<String>,
}

/// What `friends.introduce` may be, by the number of hands.
const HANDS: [&str; 1 + INTRODUCTION_HANDS_MAX as usize] = ["nobody", "once", "twice"];

/// How far a node agrees to be introduced, in a word.
pub fn show_hands(hands: u8) -> &'static str {
    HANDS.get(usize::from(hands)).copied().unwrap_or(HANDS[0])
}

/// Every setting but the friends, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "network",
        kind: Kind::Text,
        live: false,
        what: "nodes talk only to nodes of the same network",
        read: |c, v| label(one(v)?).map(|text| c.network = text),
        show: |c| vec![c.network.clone()],
    },
    Key {
        name: "port",
        kind: Kind::Number,
        live: false,
        what: "UDP port of the first shard; shard i uses port + i",
        read: |c, v| match one(v)?.parse() {
            Ok(port) if port > 0 => {
                c.port = port;
                Ok(())
            }
            _ => Err("a port from 1 to 65535".into()),
        },
        show: |c| vec![c.port.to_string()],
    },
    Key {
        name: "listen",
        kind: Kind::List,
        live: false,
        what: "local IP addresses, one socket each",
        read: |c, v| {
            let list = list::<IpAddr>(v, LISTEN_ADDRESSES_MAX, "IP addresses such as 0.0.0.0")?;
            if list.is_empty() {
                return Err("at least one IP address".into());
            }
            c.listen = list;
            Ok(())
        },
        show: |c| texts(&c.listen),
    },
    Key {
        name: "advertise",
        kind: Kind::List,
        live: true,
        what: "addresses that invitations name instead of the host's own (IP or IP:port)",
        read: |c, v| {
            list::<Advertised>(v, ADDRESSES_PER_PEER_MAX, "addresses such as 192.0.2.1 or 192.0.2.1:4600")
                .map(|list| c.advertise = list.into_iter().map(|a| a.0).collect())
        },
        show: |c| {
            let show = |a: &SocketAddr| if a.port() == 0 { a.ip().to_string() } else { a.to_string() };
            c.advertise.iter().map(show).collect()
        },
    },
    Key {
        name: "api",
        kind: Kind::Text,
        live: false,
        what: "TCP address of the status page, metrics and read-only API",
        read: |c, v| {
            c.api = match one(v)? {
                "" => None,
                text => Some(parse(text, "an address such as 127.0.0.1:4680")?),
            };
            Ok(())
        },
        show: |c| c.api.iter().map(SocketAddr::to_string).collect(),
    },
    Key {
        name: "api_public",
        kind: Kind::Switch,
        live: false,
        what: "whether api may be an address that others reach",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.api_public = on),
        show: |c| vec![c.api_public.to_string()],
    },
    Key {
        name: "log",
        kind: Kind::Text,
        live: true,
        what: "log filter: error, warn, info, debug, trace, or per module as in info,tornet::session=debug",
        read: |c, v| {
            let text = one(v)?;
            if text.is_empty() || text.len() > 1024 || text.parse::<LogFilter>().is_err() {
                return Err("a log filter such as info or info,tornet::session=debug".into());
            }
            c.log = text.to_owned();
            Ok(())
        },
        show: |c| vec![c.log.clone()],
    },
    Key {
        name: "shards.count",
        kind: Kind::Number,
        live: false,
        what: "threads with a core, a UDP port and an io_uring each",
        read: |c, v| match one(v)?.parse() {
            Ok(count @ 1..=SHARDS_MAX) => {
                c.shards_count = count.into();
                Ok(())
            }
            _ => Err(format!("a number from 1 to {SHARDS_MAX}")),
        },
        show: |c| vec![c.shards_count.to_string()],
    },
    Key {
        name: "shards.pin",
        kind: Kind::Switch,
        live: false,
        what: "whether each shard stays on one core",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.shards_pin = on),
        show: |c| vec![c.shards_pin.to_string()],
    },
    Key {
        name: "shards.busy_poll_us",
        kind: Kind::Number,
        live: false,
        what: "microseconds for which a shard without work keeps looking before it sleeps, at a whole core's cost",
        read: |c, v| match one(v)?.parse() {
            Ok(us @ 0..=BUSY_POLL_US_MAX) => {
                c.shards_busy_poll_us = us;
                Ok(())
            }
            _ => Err(format!("microseconds, 0 to {BUSY_POLL_US_MAX}; 0 sleeps at once")),
        },
        show: |c| vec![c.shards_busy_poll_us.to_string()],
    },
    Key {
        name: "relay.enabled",
        kind: Kind::Switch,
        live: true,
        what: "whether circuits of others go through this node",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.relay_enabled = on),
        show: |c| vec![c.relay_enabled.to_string()],
    },
    Key {
        name: "relay.named",
        kind: Kind::Switch,
        live: true,
        what: "whether friends may tell their friends that this node relays",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.relay_named = on),
        show: |c| vec![c.relay_named.to_string()],
    },
    Key {
        name: "exit.allow",
        kind: Kind::List,
        live: true,
        what: "what circuits of others may reach through this node, such as 0.0.0.0/0 443: networks with ports or \
               without; local networks only by their own names; empty: none ends here",
        read: |c, v| {
            let wanted = "networks with ports or without, such as 0.0.0.0/0 443 or 2000::/3";
            list(v, EXIT_RULES_MAX, wanted).map(|list| c.exit_allow = list)
        },
        show: |c| texts(&c.exit_allow),
    },
    Key {
        name: "exit.pool",
        kind: Kind::List,
        live: true,
        what: "private networks that give those circuits their addresses, one of each family at most",
        read: |c, v| {
            let wanted = "one network of IPv4 (/8 to /29), one of IPv6 (/48 to /120) or one of each";
            let pools = list::<Prefix>(v, 2, wanted)?;
            let fits = |p: &Prefix| {
                if p.is_ipv4() { (8..=29).contains(&p.len()) } else { (48..=120).contains(&p.len()) }
            };
            let same = pools.len() == 2 && pools[0].is_ipv4() == pools[1].is_ipv4();
            if pools.is_empty() || same || !pools.iter().all(fits) {
                return Err(wanted.into());
            }
            c.exit_pool = pools.iter().map(|pool| pool.network()).collect();
            Ok(())
        },
        show: |c| texts(&c.exit_pool),
    },
    Key {
        name: "exit.rate",
        kind: Kind::Text,
        live: true,
        what: "what all of them use at most, both ways together, such as 50mbit; empty: no limit",
        read: |c, v| limits::rate(one(v)?).map(|rate| c.exit_rate = rate),
        show: |c| c.exit_rate.map(limits::exact_rate).into_iter().collect(),
    },
    Key {
        name: "onion.hops",
        kind: Kind::Number,
        live: false,
        what: "hops of the circuit that device and SOCKS proxy lead into, 0 for none; see `tornet tunnel up --hops`",
        read: |c, v| match one(v)?.parse() {
            Ok(hops) if usize::from(hops) <= LAYERS_MAX => {
                c.onion_hops = hops;
                Ok(())
            }
            _ => Err(format!("a number from 0 to {LAYERS_MAX}")),
        },
        show: |c| vec![c.onion_hops.to_string()],
    },
    Key {
        name: "onion.paths",
        kind: Kind::Number,
        live: false,
        what: "circuits at once, that share no relay but the exit; flows are spread over them",
        read: |c, v| match one(v)?.parse() {
            Ok(paths) if (1..=PATHS_MAX).contains(&usize::from(paths)) => {
                c.onion_paths = paths;
                Ok(())
            }
            _ => Err(format!("a number from 1 to {PATHS_MAX}")),
        },
        show: |c| vec![c.onion_paths.to_string()],
    },
    Key {
        name: "onion.spread",
        kind: Kind::Text,
        live: false,
        what: "what is spread over several circuits: flow (each connection by one), or packet (each packet where it is there soonest)",
        read: |c, v| {
            c.onion_spread_packets = match one(v)? {
                "flow" => false,
                "packet" => true,
                _ => return Err("flow or packet".into()),
            };
            Ok(())
        },
        show: |c| vec![if c.onion_spread_packets { "packet" } else { "flow" }.to_owned()],
    },
    Key {
        name: "onion.routes",
        kind: Kind::List,
        live: false,
        what: "what goes through it, as far as no tunnel to a friend takes it; empty: the SOCKS proxy alone, no device",
        read: |c, v| {
            let routes = list::<Prefix>(v, ONION_ROUTES_MAX, "networks such as 0.0.0.0/0")?;
            c.onion_routes = routes.iter().map(|route| route.network()).collect();
            Ok(())
        },
        show: |c| texts(&c.onion_routes),
    },
    Key {
        name: "onion.exit",
        kind: Kind::Text,
        live: false,
        what: "its exit's key, if it must be this one",
        read: |c, v| {
            c.onion_exit = match one(v)? {
                "" => None,
                text => Some(parse(text, "the exit's key, 64 hexadecimal digits")?),
            };
            Ok(())
        },
        show: |c| c.onion_exit.iter().map(ToString::to_string).collect(),
    },
    Key {
        name: "onion.force",
        kind: Kind::Switch,
        live: false,
        what: "whether one connected friend that relays is enough to begin with",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.onion_force = on),
        show: |c| vec![c.onion_force.to_string()],
    },
    Key {
        name: "friends.only",
        kind: Kind::Switch,
        live: true,
        what: "whether nobody but friends is answered, called, served or told of this node; the overlay is off then",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.friends_only = on),
        show: |c| vec![c.friends_only.to_string()],
    },
    Key {
        name: "friends.introduce",
        kind: Kind::Text,
        live: true,
        what: "to whom friends may introduce this node: nobody, once (to their friends) or twice (to the friends of these)",
        read: |c, v| {
            let text = one(v)?;
            let hands = HANDS.iter().position(|name| *name == text);
            c.friends_introduce = hands.ok_or("nobody, once or twice")? as u8;
            Ok(())
        },
        show: |c| vec![show_hands(c.friends_introduce).to_owned()],
    },
    Key {
        name: "friends.adopt",
        kind: Kind::Number,
        live: true,
        what: "with how many nodes that friends introduced to keep sessions",
        read: |c, v| match one(v)?.parse() {
            Ok(count) if usize::from(count) <= ACQUAINTANCES_MAX => {
                c.friends_adopt = count;
                Ok(())
            }
            _ => Err(format!("0 to {ACQUAINTANCES_MAX}")),
        },
        show: |c| vec![c.friends_adopt.to_string()],
    },
    Key {
        name: "overlay.enabled",
        kind: Kind::Switch,
        live: true,
        what: "whether this node takes part in the overlay: finds and is found, beyond its friends",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.overlay_enabled = on),
        show: |c| vec![c.overlay_enabled.to_string()],
    },
    Key {
        name: "overlay.network",
        kind: Kind::Text,
        live: true,
        what: "name of the overlay: nodes of another stay friends, and find nothing through each other",
        read: |c, v| label(one(v)?).map(|text| c.overlay_network = text),
        show: |c| vec![c.overlay_network.clone()],
    },
    Key {
        name: "overlay.bootstrap",
        kind: Kind::List,
        live: true,
        what: "invitations (tornet:node:…) of nodes by which the network is entered, beside friends and peers met before",
        read: |c, v| {
            list(v, BOOTSTRAP_MAX, "invitations, as `tornet invite` prints them")
                .map(|list| c.overlay_bootstrap = list)
        },
        show: |c| texts(&c.overlay_bootstrap),
    },
    Key {
        name: "overlay.far",
        kind: Kind::Switch,
        live: true,
        what: "whether chunks are looked for from far (cheap, copies spread) instead of near (fast)",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.overlay_far = on),
        show: |c| vec![c.overlay_far.to_string()],
    },
    Key {
        name: "intents.grant_max",
        kind: Kind::Text,
        live: true,
        what: "how much longer than it means to friends may have this node stay, all together, such as 10min; 0: never",
        read: |c, v| intents::read(one(v)?).map(|seconds| c.intents_grant_max_s = seconds),
        show: |c| vec![intents::show(c.intents_grant_max_s)],
    },
    Key {
        name: "intents.grant_trust",
        kind: Kind::Number,
        live: true,
        what: "the least trust of a friend that may have this node stay longer, 0 to 100",
        read: |c, v| match one(v)?.parse() {
            Ok(trust) if trust <= 100 => {
                c.intents_grant_trust = trust;
                Ok(())
            }
            _ => Err("a number from 0 to 100".into()),
        },
        show: |c| vec![c.intents_grant_trust.to_string()],
    },
    Key {
        name: "intents.ask_max",
        kind: Kind::Text,
        live: true,
        what: "how much longer than it means to a friend is asked to stay for a get that needs it, such as 10min; 0: never",
        read: |c, v| intents::read(one(v)?).map(|seconds| c.intents_ask_max_s = seconds),
        show: |c| vec![intents::show(c.intents_ask_max_s)],
    },
    Key {
        name: "nat.mapping",
        kind: Kind::Switch,
        live: true,
        what: "whether the router is asked to let others in (PCP, NAT-PMP, UPnP), where this host has no global address",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.nat_mapping = on),
        show: |c| vec![c.nat_mapping.to_string()],
    },
    Key {
        name: "nat.stun",
        kind: Kind::List,
        live: true,
        what: "servers of STUN (host:port) that are asked where this node is seen",
        read: |c, v| {
            list(v, STUN_SERVERS_MAX, "host:port").and_then(|all: Vec<String>| {
                let port = |one: &String| {
                    one.rsplit_once(':').and_then(|(host, port)| {
                        (!host.is_empty()).then_some(port)?.parse::<u16>().ok().filter(|port| *port != 0)
                    })
                };
                if !all.iter().all(|one| port(one).is_some()) {
                    return Err("servers as host:port, such as stun.example.org:3478".to_owned());
                }
                c.nat_stun = all;
                Ok(())
            })
        },
        show: |c| c.nat_stun.clone(),
    },
    Key {
        name: "nat.answers",
        kind: Kind::Switch,
        live: true,
        what: "whether anybody's question of STUN is answered: it shows that something is there",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.nat_answers = on),
        show: |c| vec![c.nat_answers.to_string()],
    },
    Key {
        name: "serve.strangers",
        kind: Kind::Switch,
        live: true,
        what: "whether those who are no friends are served chunks, in what friends leave",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.serve_strangers = on),
        show: |c| vec![c.serve_strangers.to_string()],
    },
    Key {
        name: "serve.keep",
        kind: Kind::Switch,
        live: true,
        what: "whether chunks of others are kept for them in the cache (store.cache_max), and served and announced",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.serve_keep = on),
        show: |c| vec![c.serve_keep.to_string()],
    },
    Key {
        name: "bridge.listen",
        kind: Kind::Text,
        live: false,
        what: "TCP address of a bridge to this node, for friends in networks that block UDP",
        read: |c, v| optional(one(v)?, "an address such as 0.0.0.0:443").map(|at| c.bridge.listen = at),
        show: |c| c.bridge.listen.iter().map(SocketAddr::to_string).collect(),
    },
    Key {
        name: "bridge.path",
        kind: Kind::Text,
        live: false,
        what: "what its guests ask for, such as /something-that-nobody-guesses: a secret",
        read: |c, v| {
            let text = one(v)?;
            if !text.is_empty() {
                check_path(text).map_err(|bad| bad.to_string())?;
            }
            c.bridge.path = text.to_owned();
            Ok(())
        },
        show: |c| vec![c.bridge.path.clone()],
    },
    Key {
        name: "bridge.certificate",
        kind: Kind::Text,
        live: false,
        what: "file with its certificates (PEM); without one it speaks no TLS, for use behind a web server",
        read: |c, v| file(one(v)?).map(|path| c.bridge.certificate = path),
        show: |c| c.bridge.certificate.iter().map(|path| path.display().to_string()).collect(),
    },
    Key {
        name: "bridge.key",
        kind: Kind::Text,
        live: false,
        what: "file with the certificate's private key (PEM)",
        read: |c, v| file(one(v)?).map(|path| c.bridge.key = path),
        show: |c| c.bridge.key.iter().map(|path| path.display().to_string()).collect(),
    },
    Key {
        name: "bridge.url",
        kind: Kind::Text,
        live: true,
        what: "where others find it, wss://host/path, for `tornet invite --bridge`",
        read: |c, v| match one(v)? {
            "" => {
                c.bridge.url = None;
                Ok(())
            }
            text => text
                .parse()
                .map_err(|bad: BadBridge| format!("a URL: {bad}"))
                .map(|url| c.bridge.url = Some(url)),
        },
        show: |c| c.bridge.url.iter().map(ToString::to_string).collect(),
    },
    Key {
        name: "bridge.public",
        kind: Kind::Switch,
        live: false,
        what: "whether a bridge without TLS may be where others reach it",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.bridge.public = on),
        show: |c| vec![c.bridge.public.to_string()],
    },
    Key {
        name: "socks.listen",
        kind: Kind::Text,
        live: false,
        what: "where applications find a SOCKS5 proxy into the circuit, such as 127.0.0.1:1080; empty: nowhere",
        read: |c, v| optional(one(v)?, "an address such as 127.0.0.1:1080").map(|at| c.socks_listen = at),
        show: |c| c.socks_listen.iter().map(SocketAddr::to_string).collect(),
    },
    Key {
        name: "socks.public",
        kind: Kind::Switch,
        live: false,
        what: "whether socks.listen may be an address that others reach: they use the circuit, too",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.socks_public = on),
        show: |c| vec![c.socks_public.to_string()],
    },
    Key {
        name: "socks.dns",
        kind: Kind::List,
        live: false,
        what: "whom the SOCKS proxy asks for names, through the circuit; empty: tunnel.dns",
        read: |c, v| {
            list::<IpAddr>(v, SOCKS_RESOLVERS_MAX, "IP addresses such as 9.9.9.9")
                .map(|list| c.socks_dns = list)
        },
        show: |c| texts(&c.socks_dns),
    },
    Key {
        name: "store.local_max",
        kind: Kind::Text,
        live: false,
        what: "disk space for what this node publishes",
        read: |c, v| size(one(v)?, 64 << 20).map(|bytes| c.store_local_max = bytes),
        show: |c| vec![exact_size(c.store_local_max)],
    },
    Key {
        name: "store.cache_max",
        kind: Kind::Text,
        live: false,
        what: "disk space for chunks cached for others",
        read: |c, v| size(one(v)?, 0).map(|bytes| c.store_cache_max = bytes),
        show: |c| vec![exact_size(c.store_cache_max)],
    },
    Key {
        name: "tunnel.device",
        kind: Kind::Text,
        live: false,
        what: "name of the tunnels' network device",
        read: |c, v| {
            let text = one(v)?;
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if text.is_empty()
                || text.len() > DEVICE_NAME_MAX
                || !text.bytes().all(fits)
                || text.starts_with('.')
            {
                return Err(format!(
                    "a device name of at most {DEVICE_NAME_MAX} letters, digits, dots, dashes"
                ));
            }
            c.tunnel_device = text.to_owned();
            Ok(())
        },
        show: |c| vec![c.tunnel_device.clone()],
    },
    Key {
        name: "tunnel.mtu",
        kind: Kind::Number,
        live: false,
        what: "its MTU, bytes",
        read: |c, v| match one(v)?.parse() {
            Ok(mtu) if (TUNNEL_MTU_MIN as u16..=TUNNEL_MTU_MAX as u16).contains(&mtu) => {
                c.tunnel_mtu = mtu;
                Ok(())
            }
            _ => Err(format!("a number from {TUNNEL_MTU_MIN} to {TUNNEL_MTU_MAX}")),
        },
        show: |c| vec![c.tunnel_mtu.to_string()],
    },
    Key {
        name: "tunnel.dns",
        kind: Kind::List,
        live: false,
        what: "who answers for names while a tunnel is up; none leaves that as it is",
        read: |c, v| list(v, TUNNEL_DNS_MAX, "IP addresses such as 10.9.0.2").map(|list| c.tunnel_dns = list),
        show: |c| texts(&c.tunnel_dns),
    },
    Key {
        name: "tunnel.kill_switch",
        kind: Kind::Switch,
        live: false,
        what: "whether what tunnels route may leave through nothing else, also while they are down; always when they \
               route everything (0.0.0.0/0 or ::/0)",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.tunnel_kill_switch = on),
        show: |c| vec![c.tunnel_kill_switch.to_string()],
    },
    Key {
        name: "limits.up",
        kind: Kind::Text,
        live: true,
        what: "what this node sends at most, such as 50mbit, in bytes on the wire; empty: no limit",
        read: |c, v| limits::rate(one(v)?).map(|rate| c.limits.up = rate),
        show: |c| c.limits.up.map(limits::exact_rate).into_iter().collect(),
    },
    Key {
        name: "limits.down",
        kind: Kind::Text,
        live: true,
        what: "what this node asks others for at most, such as 200mbit; empty: no limit",
        read: |c, v| limits::rate(one(v)?).map(|rate| c.limits.down = rate),
        show: |c| c.limits.down.map(limits::exact_rate).into_iter().collect(),
    },
    Key {
        name: "limits.burst",
        kind: Kind::Text,
        live: true,
        what: "bytes that may leave at once after a pause, such as 64KiB; empty: what 4 ms of limits.up give",
        read: |c, v| limits::burst_or_none(one(v)?).map(|burst| c.limits_burst = burst),
        show: |c| c.limits_burst.map(exact_size).into_iter().collect(),
    },
    Key {
        name: "limits.measure",
        kind: Kind::Switch,
        live: true,
        what: "whether limits.up is measured while it is empty, and followed as the line changes",
        read: |c, v| parse(one(v)?, "true or false").map(|on| c.limits_measure = on),
        show: |c| vec![c.limits_measure.to_string()],
    },
    Key {
        name: "limits.quota",
        kind: Kind::Text,
        live: true,
        what: "bytes that may leave in a calendar month, spent evenly, such as 500GB; empty: no limit",
        read: |c, v| match one(v)? {
            "" => {
                c.limits.quota = None;
                Ok(())
            }
            text => size(text, 1 << 20).map(|bytes| c.limits.quota = Some(bytes)),
        },
        show: |c| c.limits.quota.map(exact_size).into_iter().collect(),
    },
    Key {
        name: "limits.schedule",
        kind: Kind::List,
        live: true,
        what: "times of the day (UTC) with rates of their own, such as 08:00-18:00 up=5mbit down=20mbit",
        read: |c, v| {
            if v.len() > LIMIT_WINDOWS_MAX {
                return Err(format!("at most {LIMIT_WINDOWS_MAX} times"));
            }
            c.limits.windows = v.iter().map(|text| limits::parse_window(text)).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| c.limits.windows.iter().map(limits::show_window).collect(),
    },
    Key {
        name: "limits.peers",
        kind: Kind::List,
        live: true,
        what: "peers with limits of their own; see `tornet limit set NODE`",
        read: |c, v| {
            if v.len() > LIMITED_PEERS_MAX {
                return Err(format!("at most {LIMITED_PEERS_MAX} peers"));
            }
            let mut peers: Vec<_> =
                v.iter().map(|text| limits::parse_peer(text)).collect::<Result<_, _>>()?;
            peers.sort_by_key(|(node, _)| *node);
            if peers.windows(2).any(|two| two[0].0 == two[1].0) {
                return Err("one entry for each peer".into());
            }
            c.limits_peers = peers;
            Ok(())
        },
        show: |c| c.limits_peers.iter().map(|(node, own)| limits::show_peer(node, own)).collect(),
    },
    Key {
        name: "limits.reserved",
        kind: Kind::List,
        live: true,
        what: "bandwidth promised to peers; see `tornet limit reserve`",
        read: |c, v| {
            if v.len() > LIMITED_PEERS_MAX {
                return Err(format!("at most {LIMITED_PEERS_MAX} promises"));
            }
            c.limits_reserved = v.iter().map(|text| limits::parse_promise(text)).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| c.limits_reserved.iter().map(limits::show_promise).collect(),
    },
    Key {
        name: "limits.asked",
        kind: Kind::List,
        live: true,
        what: "bandwidth that peers are asked to promise; see `tornet limit reserve --from`",
        read: |c, v| {
            if v.len() > LIMITED_PEERS_MAX {
                return Err(format!("at most {LIMITED_PEERS_MAX} requests"));
            }
            c.limits_asked = v.iter().map(|text| limits::parse_promise(text)).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| c.limits_asked.iter().map(limits::show_promise).collect(),
    },
    Key {
        name: "limits.askable",
        kind: Kind::Number,
        live: true,
        what: "what friends may have promised to them by asking, percent of limits.up; 0: nothing",
        read: |c, v| {
            let most = RESERVED_SHARE_MILLI_MAX / 10;
            match one(v)?.parse() {
                Ok(percent) if u64::from(percent) <= most => c.limits_askable = percent,
                _ => return Err(format!("a number from 0 to {most}")),
            }
            Ok(())
        },
        show: |c| vec![c.limits_askable.to_string()],
    },
];

impl Key {
    /// The row with this name, or an error that names the nearest one.
    pub fn find(name: &str) -> Result<&'static Key, ConfigError> {
        KEYS.iter().find(|key| key.name == name).ok_or_else(|| unknown(name))
    }

    /// Puts values into `config`; `values` are the texts of the TOML value (a list has several).
    pub fn read(&self, config: &mut Config, values: &[String]) -> Result<(), ConfigError> {
        (self.read)(config, values).map_err(|wanted| {
            let got: String = values.join(",").chars().take(80).collect();
            ConfigError::Invalid(format!("{}: {got:?} will not do, it must be {wanted}", self.name))
        })
    }

    /// The value in `config` as the command line shows and takes it; empty when there is none.
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config).join(",")
    }
}

/// The error for a key that does not exist.
pub fn unknown(name: &str) -> ConfigError {
    let name: String = name.chars().take(80).collect();
    let friends =
        ["key", "place_nonce", "rank_nonce", "addresses", "trust", "name"].map(|k| format!("friend.{k}"));
    let tunnels = ["key", "addr", "allow", "route"].map(|k| format!("tunnel.peer.{k}"));
    let friends: Vec<String> = friends.into_iter().chain(tunnels).collect();
    let names = KEYS.iter().map(|key| key.name).chain(friends.iter().map(String::as_str)).chain(["friend"]);
    let distance = |known: &str| {
        // A forgotten table name ("local_max") is as near as can be.
        let last = known.rsplit('.').next().unwrap_or(known);
        if last == name { 0 } else { 1 + edits(known, &name) }
    };
    let nearest = names.map(|known| (distance(known), known)).min().filter(|(distance, _)| *distance <= 4);
    ConfigError::Missing(match nearest {
        Some((_, nearest)) => format!("unknown setting {name:?}; the nearest one is {nearest:?}"),
        None => format!("unknown setting {name:?}; `tornet config get` lists them"),
    })
}

/// Levenshtein distance; both texts are short.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] => Ok(value),
        _ => Err("a single value".into()),
    }
}

fn parse<T: FromStr>(text: &str, wanted: &str) -> Result<T, String> {
    text.parse().map_err(|_| wanted.to_owned())
}

/// An address with a port, or none.
fn optional(text: &str, wanted: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let at: SocketAddr = parse(text, wanted)?;
    if at.port() == 0 { Err(format!("{wanted}, with a port")) } else { Ok(Some(at)) }
}

/// A file's path, or none.
fn file(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Ok(None),
        text if text.starts_with('/') => Ok(Some(text.into())),
        _ => Err("a path that begins with /".into()),
    }
}

fn list<T: FromStr>(values: &[String], at_most: usize, wanted: &str) -> Result<Vec<T>, String> {
    if values.len() > at_most {
        return Err(format!("at most {at_most} values"));
    }
    let which = |at: usize| match values.len() {
        1 => wanted.to_owned(),
        _ => format!("{wanted}; value {} is none", at + 1),
    };
    values.iter().enumerate().map(|(at, text)| text.parse().map_err(|_| which(at))).collect()
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

/// A name of the network or of a friend.
pub(super) fn label(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > LABEL_MAX || !text.chars().all(fits) {
        return Err(format!("1 to {LABEL_MAX} letters, digits, dots, dashes or underscores"));
    }
    Ok(text.to_owned())
}

fn size(text: &str, at_least: u64) -> Result<u64, String> {
    let bytes = parse_size(text).map_err(|_| "a size such as 512MiB, 20GiB or 1TB".to_owned())?;
    // LMDB maps the whole file: 2^46 bytes leaves room in a 47-bit address space.
    match bytes {
        b if b < at_least => Err(format!("at least {}", show_size(at_least))),
        b if b > 1 << 46 => Err(format!("at most {}", show_size(1 << 46))),
        b => Ok(b),
    }
}

/// A size that reads back as exactly the same number of bytes.
fn exact_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

struct Advertised(SocketAddr);

impl FromStr for Advertised {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let address: SocketAddr =
            text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, 0).into())).map_err(|_| ())?;
        if address.ip().is_unspecified() { Err(()) } else { Ok(Self(address)) }
    }
}

/// Checks a log filter's syntax where it is written, not when the daemon starts.
struct LogFilter;

impl FromStr for LogFilter {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        // Its parser counts from behind leading spaces and cuts the text with them: in the middle of a character, and
        // panics. Module names are ASCII.
        if !text.is_ascii() {
            return Err(());
        }
        // A bare word that is no level names a module, whose other messages, and everybody else's, are off then: a
        // mistyped level would silence the daemon.
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
        if text.split(',').map(str::trim).any(|word| !word.contains(['=', '[']) && !is_level(word)) {
            return Err(());
        }
        tracing_subscriber::EnvFilter::try_new(text).map(|_| Self).map_err(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_reads_back_as_itself() {
        for key in KEYS {
            let config = Config::default();
            let shown = (key.show)(&config);
            let values = if shown.is_empty() && key.kind == Kind::Text { vec![String::new()] } else { shown };
            let mut again = Config::default();
            assert!(key.read(&mut again, &values).is_ok(), "{}", key.name);
            assert_eq!(again, config, "{}", key.name);
        }
    }

    #[test]
    fn a_misspelt_key_is_answered_with_the_nearest() {
        for (wrong, right) in [
            ("prot", "port"),
            ("store.local-max", "store.local_max"),
            ("cache_max", "store.cache_max"),
            ("friend.turst", "friend.trust"),
        ] {
            assert!(
                unknown(wrong).to_string().ends_with(&format!("{right:?}")),
                "{wrong}: {}",
                unknown(wrong)
            );
        }
    }

    #[test]
    fn sizes_are_shown_exactly() {
        for bytes in [0, 1, 1023, 1 << 10, 3 << 30, (1 << 40) + 1] {
            assert_eq!(parse_size(&exact_size(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let wrong = [
            ("port", "0"),
            ("port", "65536"),
            ("listen", "localhost"),
            ("advertise", "0.0.0.0:1"),
            ("api", "localhost:1"),
            ("log", "tornet=loud"),
            ("log", "inof"),
            ("log", " __\u{624}=Q'III[}4"),
            ("shards.count", "0"),
            ("shards.count", "65"),
            ("shards.busy_poll_us", "-1"),
            ("shards.busy_poll_us", "1000001"),
            ("store.local_max", "1KiB"),
            ("store.cache_max", "1000TiB"),
            ("network", "two words"),
            ("limits.up", "fast"),
            ("limits.down", "1bit"),
            ("limits.burst", "1TiB"),
            ("limits.quota", "1KiB"),
            ("limits.schedule", "always up=1mbit"),
            ("limits.peers", "bob up=1mbit"),
            ("limits.reserved", "bob rate=1mbit until=1"),
            ("limits.asked", "bob rate=1mbit until=1"),
            ("limits.askable", "81"),
        ];
        for (name, value) in wrong {
            let key = Key::find(name).expect("exists");
            let error = key.read(&mut Config::default(), &[value.to_owned()]).expect_err(name);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}

//! What the control thread does about address translators: servers of STUN are looked up, ports are mapped by request (PCP,
//! NAT-PMP, UPnP), renewed, and given back at the end (docs/protocol/nat.md §6).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};
use tokio::time::Instant;

use super::error::ApiError;
use super::{Api, lock};
use crate::limits::{
    MAPPING_AGAIN_MS, MAPPING_ALL_MS, MAPPING_LIFETIME_S, MAPPING_WAIT_MS, OWN_ADDRESSES_MS, STUN_LOOKUP_MS,
    STUN_SERVERS_MAX,
};
use crate::node::command::{Command, NatRules};
use crate::overlay::site::is_global;

/// Where the kernel says by which router packets leave.
const ROUTES: &str = "/proc/net/route";
/// What the router's list of mappings says of ours.
const NAME: &str = "tornet";

/// One port, mapped.
enum Mapping {
    /// By PCP or NAT-PMP.
    Asked { mapping: PortMapping, address: SocketAddr },
    /// By UPnP.
    Igd { gateway: Gateway<Tokio>, local: SocketAddr, address: SocketAddr },
}

impl Mapping {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Asked { address, .. } | Self::Igd { address, .. } => *address,
        }
    }

    fn by(&self) -> &'static str {
        match self {
            Self::Asked { mapping, .. } => match mapping.mapping_type() {
                PortMappingType::NatPmp => "NAT-PMP",
                PortMappingType::Pcp { .. } => "PCP",
            },
            Self::Igd { .. } => "UPnP",
        }
    }

    /// Asks the router to keep it.
    async fn renew(&mut self) -> Result<(), String> {
        match self {
            Self::Asked { mapping, address } => {
                mapping.renew().await.map_err(|error| error.to_string())?;
                address.set_port(mapping.external_port().get());
                Ok(())
            }
            Self::Igd { gateway, local, address } => {
                let port = address.port();
                let added =
                    gateway.add_port(PortMappingProtocol::UDP, port, *local, MAPPING_LIFETIME_S, NAME);
                added.await.map_err(|error| error.to_string())
            }
        }
    }

    /// Gives it back.
    async fn end(self) -> Result<(), String> {
        match self {
            Self::Asked { mapping, .. } => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
            Self::Igd { gateway, address, .. } => {
                let removed = gateway.remove_port(PortMappingProtocol::UDP, address.port());
                removed.await.map_err(|error| error.to_string())
            }
        }
    }
}

/// What is mapped, one for each shard's port, and what was said last.
#[derive(Default)]
pub(super) struct Mapped {
    mappings: Vec<Mapping>,
    told: Option<NatRules>,
    /// The last line of the log about it: each is written once.
    line: String,
}

/// The router by which packets to everywhere leave, and this host's address that it sees.
fn gateway() -> Option<(Ipv4Addr, Ipv4Addr)> {
    let routes = std::fs::read_to_string(ROUTES).ok()?;
    let router = router_of(&routes)?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: the kernel chooses an address.
    socket.connect((router, crab_nat::GATEWAY_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) => Some((router, own)),
        IpAddr::V6(_) => None,
    }
}

/// Of the kernel's table of routes, the default one's router.
fn router_of(routes: &str) -> Option<Ipv4Addr> {
    let mut routers = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, router) = (fields.next()?, fields.next()?);
        let address = u32::from_str_radix(router, 16).ok().filter(|router| *router != 0)?;
        (destination == "00000000").then_some(Ipv4Addr::from(address.to_le_bytes()))
    });
    routers.next()
}

async fn map(port: u16) -> Result<Mapping, String> {
    let (router, own) = gateway().ok_or("there is no router before this host")?;
    if is_global((own, port).into()) {
        return Err("this host has a global address of its own".into());
    }
    let internal = NonZeroU16::new(port).ok_or("the port is not known")?;
    let timeout_config = Some(TimeoutConfig {
        initial_timeout: Duration::from_millis(250),
        max_retries: 3,
        max_retry_timeout: None,
    });
    let lifetime_seconds = Some(MAPPING_LIFETIME_S);
    let options = PortMappingOptions { external_port: Some(internal), lifetime_seconds, timeout_config };
    let asked = PortMapping::new(router.into(), own.into(), InternetProtocol::Udp, internal, options).await;
    let why = match asked {
        Ok(mapping) => {
            let external = match mapping.mapping_type() {
                PortMappingType::Pcp { external_ip, .. } => Ok(external_ip),
                PortMappingType::NatPmp => {
                    let told = crab_nat::natpmp::external_address(router.into(), timeout_config).await;
                    told.map(IpAddr::V4).map_err(|error| error.to_string())
                }
            };
            let address = SocketAddr::new(external?.to_canonical(), mapping.external_port().get());
            return Ok(Mapping::Asked { mapping, address });
        }
        Err(error) => error.to_string(),
    };
    let wait = Some(Duration::from_millis(MAPPING_WAIT_MS));
    let mut options = SearchOptions::default();
    (options.timeout, options.single_search_timeout) = (wait, wait);
    options.bind_addr = SocketAddr::new(own.into(), 0);
    let igd = search_gateway(options).await;
    let gateway = igd.map_err(|error| format!("PCP and NAT-PMP: {why}; UPnP: {error}"))?;
    let local = SocketAddr::new(own.into(), port);
    let failed = |error: &dyn std::fmt::Display| format!("UPnP: {error}");
    let external = gateway.get_external_ip().await.map_err(|error| failed(&error))?;
    let added = gateway.add_port(PortMappingProtocol::UDP, port, local, MAPPING_LIFETIME_S, NAME).await;
    let port = match added {
        Ok(()) => port,
        Err(_) => gateway
            .add_any_port(PortMappingProtocol::UDP, local, MAPPING_LIFETIME_S, NAME)
            .await
            .map_err(|error| failed(&error))?,
    };
    Ok(Mapping::Igd { gateway, local, address: SocketAddr::new(external, port) })
}

impl Api {
    /// Looks after servers of STUN and mapped ports, for as long as it is polled.
    pub async fn follow_nat(self: &Arc<Self>) {
        let (mut map_at, mut look_at) = (Instant::now(), Instant::now());
        let mut servers = Vec::new();
        loop {
            let (wanted, mapping) = {
                let config = self.config();
                (config.nat_stun.clone(), config.nat_mapping)
            };
            if Instant::now() >= look_at {
                look_at = Instant::now() + Duration::from_millis(STUN_LOOKUP_MS);
                servers = look_up(&wanted).await;
            }
            let mut mapped = self.mapped.lock().await;
            if !mapping {
                end(&mut mapped).await;
                map_at = Instant::now();
            } else if Instant::now() >= map_at {
                map_at = Instant::now() + Duration::from_millis(MAPPING_AGAIN_MS);
                self.map_ports(&mut mapped).await;
            }
            if let Err(error) = self.tell_nat(&mut mapped, &servers).await {
                tracing::warn!("telling the node of translators: {}", error.line);
            }
            drop(mapped);
            tokio::time::sleep(Duration::from_millis(OWN_ADDRESSES_MS / 5)).await;
            if self.config().nat_stun != wanted {
                look_at = Instant::now();
            }
        }
    }

    async fn tell_nat(&self, mapped: &mut Mapped, servers: &[SocketAddr]) -> Result<(), ApiError> {
        let rules = NatRules {
            stun: servers.to_vec(),
            answers: self.config().nat_answers,
            mapped: mapped.mappings.iter().map(Mapping::address).collect(),
        };
        if mapped.told.as_ref() != Some(&rules) {
            self.command(|| Command::Nat(rules.clone())).await?;
            let external = mapped.mappings.first().map(Mapping::address);
            *lock(&self.mapped_address) = external;
            mapped.told = Some(rules);
            // What is mapped is where others are told that this node is.
            self.tell_overlay().await?;
        }
        Ok(())
    }

    /// Has the router map the port of each shard, or keep what it maps.
    async fn map_ports(&self, mapped: &mut Mapped) {
        let (port, shards) = {
            let config = self.config();
            (config.port, config.shards_count.max(1))
        };
        let mut line = String::new();
        for shard in 0..shards {
            let at = usize::from(shard);
            let kept = match mapped.mappings.get_mut(at) {
                Some(mapping) => within(mapping.renew()).await,
                None => Err(String::new()),
            };
            if kept.is_ok() {
                continue;
            }
            // What was there is not there any more, and so those behind it are made anew, too.
            mapped.mappings.truncate(at);
            match within(map(port.saturating_add(shard))).await {
                Ok(mapping) => mapped.mappings.push(mapping),
                Err(why) => {
                    line = format!(
                        "no port is mapped by the router, which does no harm where others reach this node: {why}"
                    );
                    break;
                }
            }
        }
        if let (true, Some(first)) = (line.is_empty(), mapped.mappings.first()) {
            line = format!("the router lets others in at {} (by {})", first.address(), first.by());
        }
        if line != mapped.line {
            tracing::info!("{line}");
            mapped.line = line;
        }
    }

    /// Gives mapped ports back; within a time, since the daemon ends.
    pub async fn end_mappings(&self) {
        let wait = Duration::from_millis(MAPPING_WAIT_MS);
        if tokio::time::timeout(wait, async { end(&mut *self.mapped.lock().await).await }).await.is_err() {
            tracing::warn!("the router did not say that it has ended what it mapped; that ends by itself");
        }
    }
}

/// What is asked of the router, given up after [`MAPPING_ALL_MS`].
async fn within<T>(asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = tokio::time::timeout(Duration::from_millis(MAPPING_ALL_MS), asked).await;
    done.unwrap_or_else(|_| Err("the router takes too long to answer".into()))
}

async fn end(mapped: &mut Mapped) {
    for mapping in std::mem::take(&mut mapped.mappings) {
        if let Err(why) = within(mapping.end()).await {
            tracing::warn!("the router keeps a mapped port until its time is over: {why}");
        }
    }
    mapped.line.clear();
}

/// Addresses of servers that are named, at most [`STUN_SERVERS_MAX`].
async fn look_up(names: &[String]) -> Vec<SocketAddr> {
    let mut all = BTreeSet::new();
    for name in names {
        match tokio::net::lookup_host(name.as_str()).await {
            Ok(found) => all.extend(found),
            Err(error) => tracing::warn!("nat.stun: {name}: {error}"),
        }
    }
    all.into_iter().take(STUN_SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_names_the_router() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                      eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(router_of(routes), Some(Ipv4Addr::new(192, 168, 0, 1)));
        assert_eq!(router_of("Iface\n"), None);
        assert_eq!(router_of("Iface\ntun0\t00000000\t00000000\n"), None, "a route without a router");
    }
}

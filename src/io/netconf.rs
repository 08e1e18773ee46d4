//! What a tunnel changes on its host: the device's addresses, MTU and state, routes and the rules that lead to them, who
//! answers for names, and the kill switch. It needs CAP_NET_ADMIN, or finds done by somebody else what it would do.
//!
//! Everything that can outlive the process carries a number or a name that the next one knows: rules and routes our
//! protocol number and tables numbered by the device's name, the nftables table the device's name, `resolv.conf` our
//! first line. [`apply`] makes the host what the plan says whatever it finds, in an order in which nothing leaks on the
//! way; [`clean`] takes away whatever is left. `docs/decisions/0013-host-network.md` has the reasons.

mod device;
mod dns;
mod exit;
#[cfg(test)]
pub(in crate::io) mod namespace;
mod netlink;
mod routes;
mod switch;

use std::io;
use std::net::IpAddr;

use crate::base::Prefix;
use crate::limits::{HOST_PREFIXES_MAX, TUNNEL_MTU_MIN};
pub(super) use device::find;
pub(super) use netlink::Netlink;

/// What our own UDP packets carry (`SO_MARK`), so that no tunnel takes them: "torn".
pub const MARK: u32 = crate::sys::socket::MARK;
/// Our number among those that add routes, rules and addresses (`rtm_protocol`); /etc/iproute2/rt_protos has the others.
const PROTOCOL: u8 = 116;

/// What one tunnel wants of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The TUN device, which must be there.
    pub device: String,
    /// What one packet carries at most, bytes.
    pub mtu: u16,
    /// The device's addresses, each with its network's length.
    pub addresses: Vec<Prefix>,
    /// What else than those networks goes into the tunnel.
    pub routes: Vec<Prefix>,
    /// From which of them leaves what takes a route; of two for one route the first counts. The kernel would take the one
    /// that the device had first, whoever's it is.
    pub sources: Vec<(Prefix, IpAddr)>,
    /// Addresses of the device at which nobody behind it begins anything: circuits end at strangers, who must not reach
    /// what listens on this host.
    pub quiet: Vec<IpAddr>,
    /// Who answers for names; none leaves that as it is.
    pub dns: Vec<IpAddr>,
    /// The daemon's own UDP ports, for answers to them where reverse paths are checked.
    pub ports: Vec<u16>,
    /// Whether what `routes` names may leave through nothing else, also while the tunnel is down.
    pub kill_switch: bool,
    /// Networks of an exit's circuits, whose packets are forwarded; none when the node is no exit.
    pub exit: Vec<Prefix>,
}

/// Why the host was not changed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// There is no such device.
    #[error("there is no network device {0}: it was removed, or never made")]
    NoDevice(String),
    /// We may not.
    #[error(
        "{what} is not permitted to this user: run the daemon with CAP_NET_ADMIN, or have systemd-networkd set \
         the device up as the tunnel needs it (docs/operating.md)"
    )]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// More than the bound.
    #[error("a tunnel has at most {HOST_PREFIXES_MAX} addresses and as many routes; summarize them")]
    TooMany,
    /// Too small to be of use.
    #[error("a tunnel's MTU is at least {TUNNEL_MTU_MIN} bytes, which IPv6 asks for")]
    Mtu,
    /// No nft.
    #[error("the kill switch and exits need the program nft: install the package nftables")]
    NoNft,
    /// It did not like it.
    #[error("nft: {0}")]
    Nft(String),
    /// systemd-resolved did not like it.
    #[error("systemd-resolved: {0}")]
    Resolver(String),
    /// Anything else.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetError {
    fn os(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what },
            _ => Self::Os { what, source },
        }
    }
}

/// A plan that was carried out.
#[derive(Debug)]
#[must_use = "what was changed is to be undone"]
pub struct Applied {
    device: String,
    index: u32,
    /// Whether it was down before.
    was_down: bool,
}

impl Applied {
    /// Makes the host what it was. Dropping does nothing: a process that ends without this leaves the kill switch.
    pub fn undo(self) -> Result<(), NetError> {
        let cleaned = clean(&self.device);
        if self.was_down {
            let down = Netlink::open().and_then(|mut netlink| device::take_down(&mut netlink, self.index));
            down.map_err(|e| NetError::os("taking the tunnel's device down", e))?;
        }
        cleaned.map(drop)
    }
}

/// Makes the host what the plan says, from whatever it is. When it fails half way, what blocks stays in place: call
/// [`clean`] to give up.
pub fn apply(plan: &Plan) -> Result<Applied, NetError> {
    if plan.addresses.len() > HOST_PREFIXES_MAX || plan.routes.len() > HOST_PREFIXES_MAX {
        return Err(NetError::TooMany);
    }
    if usize::from(plan.mtu) < TUNNEL_MTU_MIN {
        return Err(NetError::Mtu);
    }
    let os = |what| move |source| NetError::os(what, source);
    let mut netlink = Netlink::open().map_err(os("opening a netlink socket"))?;
    let device = find(&mut netlink, &plan.device)
        .map_err(os("looking for the tunnel's device"))?
        .ok_or_else(|| NetError::NoDevice(plan.device.clone()))?;
    let switched = plan.kill_switch && !plan.routes.is_empty();
    let connected = match switched || !plan.exit.is_empty() {
        true => routes::connected(&mut netlink, device.index).map_err(os("listing routes"))?,
        false => Vec::new(),
    };
    if switched {
        switch::install(plan, &connected)?;
        if plan.routes.iter().any(|route| route.is_default()) {
            answer_by_mark();
        }
    }
    if plan.quiet.is_empty() {
        switch::unguard(&plan.device)?;
    } else {
        switch::guard(&plan.device, &plan.quiet)?;
    }
    device::set_addresses(&mut netlink, device.index, &plan.addresses)
        .map_err(os("giving the tunnel's device its addresses"))?;
    device::bring_up(&mut netlink, &device, plan.mtu).map_err(os("bringing the tunnel's device up"))?;
    routes::set(&mut netlink, &plan.device, device.index, &plan.routes, plan.kill_switch, &plan.sources)
        .map_err(os("routing into the tunnel"))?;
    if plan.dns.is_empty() {
        dns::unset(&plan.device)?;
    } else {
        dns::set(&plan.device, &plan.dns, plan.routes.iter().any(|route| route.is_default()))?;
    }
    if !switched {
        switch::remove(&plan.device)?;
    }
    if plan.exit.is_empty() {
        exit::remove(&plan.device)?;
    } else {
        exit::install(&plan.device, &plan.exit, &connected)?;
    }
    Ok(Applied { device: plan.device.clone(), index: device.index, was_down: !device.up })
}

/// Takes away everything that [`apply`] did for a device of this name, in this process or one that was killed; true when
/// something was left. What vanishes with the device is not looked for when the device is gone.
pub fn clean(name: &str) -> Result<bool, NetError> {
    let os = |what| move |source| NetError::os(what, source);
    let mut netlink = Netlink::open().map_err(os("opening a netlink socket"))?;
    let mut left = dns::unset(name)?;
    left |=
        routes::set(&mut netlink, name, 0, &[], false, &[]).map_err(os("removing the tunnel's routes"))?;
    if let Some(device) = find(&mut netlink, name).map_err(os("looking for the tunnel's device"))? {
        device::set_addresses(&mut netlink, device.index, &[])
            .map_err(os("taking the tunnel's addresses from its device"))?;
    }
    left |= exit::remove(name)?;
    left |= switch::unguard(name)?;
    left |= switch::remove(name)?;
    Ok(left)
}

/// The same, at a daemon's start: only when no program that runs has the device, whose settings they are then.
pub fn clean_abandoned(name: &str) -> Result<bool, NetError> {
    let os = |what| move |source| NetError::os(what, source);
    let mut netlink = Netlink::open().map_err(os("opening a netlink socket"))?;
    let device = find(&mut netlink, name).map_err(os("looking for the tunnel's device"))?;
    if device.is_some_and(|device| device.queues.is_some_and(|open| open > 0)) {
        return Ok(false);
    }
    clean(name)
}

/// Where reverse paths are checked strictly, answers to our marked packets must be looked up with their mark, or they
/// would be expected from the tunnel. The switch marks them; this makes the kernel look. It harms nobody, and stays.
fn answer_by_mark() {
    let strict = |of: &str| {
        let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
        value.is_ok_and(|value| value.trim() == "1")
    };
    let names = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    if names.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| strict(&name))
        && let Err(error) = std::fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "1")
    {
        tracing::warn!(
            "the kernel checks reverse paths strictly (rp_filter = 1) and may drop what peers send us while a tunnel \
             takes all routes; as root: sysctl -w net.ipv4.conf.all.src_valid_mark=1 ({error})"
        );
    }
}

#[cfg(test)]
mod tests;

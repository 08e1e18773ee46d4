//! Routes into the tunnel, in tables of their own, and the rules that lead there.
//!
//! What the tunnel carries must not be what carries the tunnel: our UDP sockets are marked ([`super::MARK`]), and
//! marked packets skip the tunnel's tables. Among all others the longest prefix wins, as if all routes lay in the main
//! table. For every length L that the tunnel's routes have, longest first, there are two rules, and a table of the
//! routes of that length:
//!
//! ```text
//! P      lookup main suppress_prefixlength L      what the host routes more exactly stays where it was
//! P + 1  not fwmark MARK lookup TABLE(device, L)  everything else of these prefixes enters the tunnel
//! ```
//!
//! For a default route alone that is what wg-quick(8) does. With the kill switch each route has a twin of the lowest
//! preference that says *unreachable*: it names no device, so it is still there when the tunnel is not.
//!
//! Rules and routes carry our protocol number, and tables are numbered by the device's name: a daemon that was killed
//! left them where the next one looks.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Netlink, allow};
use super::{MARK, PROTOCOL};
use crate::base::Prefix;

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// The first rule's preference: before the main table's (32766), behind what an administrator puts first.
const PREFERENCE: u32 = 0x7400;
/// Tables lie above this, away from those that people number by hand.
const TABLES: u32 = 0x7400_0000;
/// Metric of a route into the tunnel.
const METRIC: u32 = 64;
/// Metric of its twin, which says unreachable.
const LAST_METRIC: u32 = 0xffff_fff0;

/// The number of the table of a device's routes of one length.
fn table(device: &str, len: u8) -> u32 {
    // FNV-1a, folded to 16 bits: the same in every build, unlike the standard library's hashes.
    let hash =
        device.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    TABLES | ((hash >> 16) ^ (hash & 0xffff)) << 8 | u32::from(len)
}

/// What a rule of ours does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Answers from the main table what is longer than the length.
    Exact,
    /// Sends what is not marked to the table of this number.
    Enter(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    ipv4: bool,
    preference: u32,
    /// Which lengths of routes it is for.
    len: u8,
    does: Does,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    prefix: Prefix,
    table: u32,
    /// The device that it leads to; `None` says unreachable.
    index: Option<u32>,
    /// The source of what takes it, where that must be another than the kernel would choose.
    source: Option<IpAddr>,
}

/// What one device is to have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    rules: Vec<Rule>,
    routes: Vec<Route>,
}

fn wanted(device: &str, index: u32, prefixes: &[Prefix], kill_switch: bool) -> Wanted {
    let mut wanted = Wanted::default();
    for prefix in prefixes {
        let (prefix, table) = (prefix.network(), table(device, prefix.len()));
        wanted.routes.push(Route { prefix, table, index: Some(index), source: None });
        if kill_switch {
            wanted.routes.push(Route { prefix, table, index: None, source: None });
        }
    }
    if kill_switch {
        // A tunnel that takes all of one family and none of the other would leak the other.
        for other in both_defaults() {
            let none = !prefixes.iter().any(|p| p.is_default() && p.is_ipv4() == other.is_ipv4());
            if none && prefixes.iter().any(|p| p.is_default()) {
                wanted.routes.push(Route {
                    prefix: other,
                    table: table(device, 0),
                    index: None,
                    source: None,
                });
            }
        }
    }
    for ipv4 in [true, false] {
        let of_family = wanted.routes.iter().filter(|route| route.prefix.is_ipv4() == ipv4);
        let mut lens: Vec<u8> = of_family.map(|route| route.prefix.len()).collect();
        lens.sort_unstable();
        lens.dedup();
        for (i, len) in lens.into_iter().rev().enumerate() {
            let preference = PREFERENCE + 2 * i as u32;
            wanted.rules.push(Rule { ipv4, preference, len, does: Does::Exact });
            let does = Does::Enter(table(device, len));
            wanted.rules.push(Rule { ipv4, preference: preference + 1, len, does });
        }
    }
    wanted
}

fn both_defaults() -> [Prefix; 2] {
    let any = [std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
    any.map(|address| Prefix::new(address, 0).expect("zero bits are there"))
}

/// Makes the device's routes and rules these, whatever they are now; what takes one of `sources` leaves from its address. With no prefix nothing of ours stays. True when
/// something had to go.
pub(super) fn set(
    netlink: &mut Netlink,
    device: &str,
    index: u32,
    prefixes: &[Prefix],
    kill_switch: bool,
    sources: &[(Prefix, IpAddr)],
) -> io::Result<bool> {
    let mut wanted = wanted(device, index, prefixes, kill_switch);
    for route in wanted.routes.iter_mut().filter(|route| route.index.is_some()) {
        let found = sources.iter().find(|(prefix, _)| prefix.network() == route.prefix);
        route.source = found.map(|(_, source)| *source);
    }
    // What blocks comes before what leads elsewhere, and rules last, when their tables are complete.
    for route in wanted.routes.iter().rev() {
        netlink.change(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_REPLACE)?;
    }
    let present = rules(netlink, device)?;
    for rule in wanted.rules.iter().filter(|rule| !present.contains(rule)) {
        let result = netlink.change(RouteNetlinkMessage::NewRule(rule_message(rule, device)), NLM_F_CREATE);
        allow(result, &[libc::EEXIST])?;
    }
    let mut gone = false;
    let mut lens: Vec<(bool, u8)> =
        wanted.routes.iter().map(|r| (r.prefix.is_ipv4(), r.prefix.len())).collect();
    lens.extend(present.iter().map(|rule| (rule.ipv4, rule.len)));
    lens.sort_unstable();
    lens.dedup();
    for (ipv4, len) in lens {
        for message in routes(netlink, table(device, len), ipv4)? {
            if !wanted.routes.iter().any(|route| is_same(route, &message)) {
                gone |= allow(netlink.change(RouteNetlinkMessage::DelRoute(message), 0), &[libc::ESRCH])?;
            }
        }
    }
    for rule in present.iter().filter(|rule| !wanted.rules.contains(rule)) {
        let result = netlink.change(RouteNetlinkMessage::DelRule(rule_message(rule, device)), 0);
        gone |= allow(result, &[libc::ENOENT])?;
    }
    Ok(gone)
}

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.prefix.is_ipv4()),
        destination_prefix_length: route.prefix.len(),
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: if route.index.is_some() && route.prefix.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        },
        kind: if route.index.is_some() { RouteType::Unicast } else { RouteType::Unreachable },
        ..RouteHeader::default()
    };
    let metric = if route.index.is_some() { METRIC } else { LAST_METRIC };
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Priority(metric));
    if !route.prefix.is_default() {
        message.attributes.push(RouteAttribute::Destination(route.prefix.address().into()));
    }
    if let Some(index) = route.index {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// Whether a route that the kernel has is this one. IPv6 shows a device for unreachable ones, too.
fn is_same(route: &Route, message: &RouteMessage) -> bool {
    let of = |wanted: fn(&RouteAttribute) -> bool| message.attributes.iter().find(|a| wanted(a));
    let destination = of(|a| matches!(a, RouteAttribute::Destination(_)));
    let oif = match of(|a| matches!(a, RouteAttribute::Oif(_))) {
        Some(RouteAttribute::Oif(index)) => Some(*index),
        _ => None,
    };
    let own = RouteAttribute::Destination(route.prefix.address().into());
    let unreachable = message.header.kind == RouteType::Unreachable;
    message.header.destination_prefix_length == route.prefix.len()
        && destination.map_or(route.prefix.is_default(), |there| *there == own)
        && unreachable == route.index.is_none()
        && (unreachable || oif == route.index)
}

/// Our routes of one table, as the kernel has them.
fn routes(netlink: &mut Netlink, table: u32, ipv4: bool) -> io::Result<Vec<RouteMessage>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv4);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes.push(RouteAttribute::Table(table));
    // A table that never was is no error to us.
    let answers = match netlink.ask(RouteNetlinkMessage::GetRoute(message), true) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let ours = |answer| match answer {
        RouteNetlinkMessage::NewRoute(route)
            if route.header.protocol == RouteProtocol::Other(PROTOCOL)
                && route.attributes.contains(&RouteAttribute::Table(table)) =>
        {
            Some(route)
        }
        _ => None,
    };
    Ok(answers.into_iter().filter_map(ours).collect())
}

/// The networks that this host reaches without a router, from the main table, other than through `except`.
pub(super) fn connected(netlink: &mut Netlink, except: u32) -> io::Result<Vec<Prefix>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::Kernel;
        message.attributes.push(RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
        for answer in netlink.ask(RouteNetlinkMessage::GetRoute(message), true)? {
            let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
            let routed = |a: &RouteAttribute| match a {
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => true,
                RouteAttribute::Oif(index) => *index == except,
                _ => false,
            };
            if route.header.kind != RouteType::Unicast || route.attributes.iter().any(routed) {
                continue;
            }
            let address = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet(v4)) => {
                    Some((*v4).into())
                }
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet6(v6)) => {
                    Some((*v6).into())
                }
                _ => None,
            });
            all.extend(address.and_then(|a| Prefix::new(a, route.header.destination_prefix_length)));
        }
    }
    Ok(all)
}

fn rule_message(rule: &Rule, device: &str) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.ipv4);
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(rule.preference));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    match rule.does {
        Does::Exact => {
            message.attributes.push(RuleAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
            message.attributes.push(RuleAttribute::SuppressPrefixLen(rule.len.into()));
            // Says whose it is: two tunnels may have the same lengths. It matches every packet.
            message.attributes.push(RuleAttribute::FwMark(table(device, rule.len)));
            message.attributes.push(RuleAttribute::FwMask(0));
        }
        Does::Enter(table) => {
            message.header.flags = RuleFlags::Invert;
            message.attributes.push(RuleAttribute::Table(table));
            message.attributes.push(RuleAttribute::FwMark(MARK));
            message.attributes.push(RuleAttribute::FwMask(u32::MAX));
        }
    }
    message
}

/// The rules of one device, as the kernel has them.
fn rules(netlink: &mut Netlink, device: &str) -> io::Result<Vec<Rule>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let answers = match netlink.ask(RouteNetlinkMessage::GetRule(message), true) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
            other => other?,
        };
        all.extend(answers.iter().filter_map(|answer| read_rule(answer, device)));
    }
    Ok(all)
}

fn read_rule(answer: &RouteNetlinkMessage, device: &str) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(rule) = answer else { return None };
    let (mut preference, mut own, mut entered, mut suppressed, mut mark) = (0, false, 0, None, 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => preference = *priority,
            RuleAttribute::Protocol(protocol) => own = *protocol == RouteProtocol::Other(PROTOCOL),
            RuleAttribute::Table(number) => entered = *number,
            RuleAttribute::SuppressPrefixLen(len) => suppressed = Some(*len),
            RuleAttribute::FwMark(value) => mark = *value,
            _ => {}
        }
    }
    let ipv4 = rule.header.family == AddressFamily::Inet;
    if !own {
        return None;
    }
    if entered == u32::from(RouteHeader::RT_TABLE_MAIN) {
        let len = u8::try_from(suppressed?).ok()?;
        return (mark == table(device, len)).then_some(Rule { ipv4, preference, len, does: Does::Exact });
    }
    let len = entered as u8;
    (entered == table(device, len)).then_some(Rule { ipv4, preference, len, does: Does::Enter(entered) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    #[test]
    fn longer_prefixes_come_first_and_families_are_apart() {
        let wanted = wanted("tornet0", 7, &prefixes(&["10.0.0.0/8", "10.9.1.0/24", "fd00::/8"]), false);
        let seen: Vec<_> = wanted.rules.iter().map(|r| (r.ipv4, r.preference - PREFERENCE, r.len)).collect();
        assert_eq!(
            seen,
            [(true, 0, 24), (true, 1, 24), (true, 2, 8), (true, 3, 8), (false, 0, 8), (false, 1, 8)]
        );
        assert_eq!(wanted.routes.len(), 3);
        assert_eq!(wanted.rules[1].does, Does::Enter(wanted.routes[1].table));
    }

    #[test]
    fn the_kill_switch_blocks_the_family_that_the_tunnel_does_not_take() {
        let wanted = wanted("tornet0", 7, &prefixes(&["0.0.0.0/0"]), true);
        let blocks: Vec<_> = wanted.routes.iter().filter(|r| r.index.is_none()).map(|r| r.prefix).collect();
        assert_eq!(blocks, prefixes(&["0.0.0.0/0", "::/0"]));
        assert!(wanted.rules.iter().any(|rule| !rule.ipv4));
        let part = super::wanted("tornet0", 7, &prefixes(&["10.0.0.0/8"]), true);
        assert!(
            part.routes.iter().all(|r| r.prefix.is_ipv4()),
            "a part of one family says nothing of the other"
        );
    }

    #[test]
    fn tables_are_told_apart_by_device_and_length() {
        assert_ne!(table("tornet0", 0), table("tornet1", 0));
        assert_ne!(table("tornet0", 0), table("tornet0", 8));
        assert_eq!(table("tornet0", 128) & 0xff, 128);
    }
}

//! The device itself: what it is, its MTU and addresses, and whether it is up.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Nla};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::PROTOCOL;
use super::netlink::{Netlink, allow};
use crate::base::Prefix;
use crate::limits::TUN_QUEUE_PACKETS;

/// `IFLA_TUN_NUM_QUEUES`: queues of a multi-queue TUN device that a descriptor is open for.
const IFLA_TUN_NUM_QUEUES: u16 = 8;

/// A device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::io) struct Device {
    /// Its number.
    pub index: u32,
    /// What it carries at most, bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is a TUN device.
    pub tun: bool,
    /// Queues that a program has open, if it is one of several queues.
    pub queues: Option<u32>,
}

/// Looks a device up by name.
pub(in crate::io) fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Device>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answers = match netlink.ask(RouteNetlinkMessage::GetLink(message), false) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(read(&link)),
        _ => None,
    }))
}

fn read(link: &LinkMessage) -> Device {
    let mut device = Device {
        index: link.header.index,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        tun: false,
        queues: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => device.tun = *kind == InfoKind::Tun,
                        LinkInfo::Data(InfoData::Tun(data)) => {
                            device.queues = data.iter().find_map(open_queues);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    device
}

fn open_queues(info: &InfoTun) -> Option<u32> {
    let mut value = [0; 4];
    if info.kind() != IFLA_TUN_NUM_QUEUES || info.value_len() != value.len() {
        return None;
    }
    info.emit_value(&mut value);
    Some(u32::from_ne_bytes(value))
}

fn change(netlink: &mut Netlink, index: u32, up: bool, attributes: Vec<LinkAttribute>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes = attributes;
    netlink.change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives the device its MTU and brings it up. One that is so already needs no privilege.
pub(super) fn bring_up(netlink: &mut Netlink, device: &Device, mtu: u16) -> io::Result<()> {
    if device.up && device.mtu == u32::from(mtu) {
        return Ok(());
    }
    // The kernel would give it a link-local address and look for routers through the tunnel. A kernel without IPv6 says
    // that it does not know this.
    let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let result = change(netlink, device.index, false, vec![LinkAttribute::AfSpecUnspec(vec![quiet])]);
    allow(result, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP])?;
    let attributes = vec![LinkAttribute::Mtu(mtu.into()), LinkAttribute::TxQueueLen(TUN_QUEUE_PACKETS)];
    change(netlink, device.index, true, attributes)
}

/// Takes the device down, which takes its routes.
pub(super) fn take_down(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    allow(netlink.change(RouteNetlinkMessage::SetLink(message), 0), &[libc::ENODEV]).map(drop)
}

/// The device's addresses, and whether each is of ours.
fn addresses(netlink: &mut Netlink, index: u32) -> io::Result<Vec<(Prefix, bool)>> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let answers = netlink.ask(RouteNetlinkMessage::GetAddress(message), true)?;
    Ok(answers.iter().filter_map(read_address).collect())
}

fn read_address(answer: &RouteNetlinkMessage) -> Option<(Prefix, bool)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let (mut local, mut address, mut own) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Protocol(protocol) => own = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    Some((Prefix::new(local.or(address)?, message.header.prefix_len)?, own))
}

fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(prefix);
    message.header.prefix_len = prefix.len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(prefix.address()));
    message.attributes.push(AddressAttribute::Address(prefix.address()));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    message
}

/// Gives the device these addresses and takes others of ours away. Those that it has already need no privilege.
pub(super) fn set_addresses(netlink: &mut Netlink, index: u32, wanted: &[Prefix]) -> io::Result<()> {
    let present = addresses(netlink, index)?;
    for prefix in wanted.iter().filter(|prefix| !present.iter().any(|(there, _)| there == *prefix)) {
        let mut message = address_message(index, *prefix);
        if matches!(prefix.address(), IpAddr::V6(_)) {
            // Nobody else can have it: no waiting for duplicates.
            message
                .attributes
                .push(AddressAttribute::Flags(netlink_packet_route::address::AddressFlags::Nodad));
        }
        netlink.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)?;
    }
    for (prefix, own) in present {
        if own && !wanted.contains(&prefix) {
            let message = address_message(index, prefix);
            let result = netlink.change(RouteNetlinkMessage::DelAddress(message), 0);
            allow(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])?;
        }
    }
    Ok(())
}

/// The family of a prefix.
pub(super) fn family(prefix: Prefix) -> AddressFamily {
    if prefix.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

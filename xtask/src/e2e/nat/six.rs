//! IPv6 beside translators: the two never meet by IPv4, and have global addresses of IPv6 behind firewalls that let in only
//! what answers something.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Kind, Reach, on, passes, seen, settles, start, translate, world};
use crate::lab::Lab;

/// Addresses of IPv6, of the devices between two hosts: the first host's, then the second's, each a /64 of its own.
const NETWORKS: [(&str, &str, &str); 4] = [
    ("a", "na", "2600:db8:1"),
    ("na", "c", "2600:db8:2"),
    ("c", "nb", "2600:db8:3"),
    ("nb", "b", "2600:db8:4"),
];

/// Gives the lab its second family, with routes, and a firewall before each of the two.
fn dress(lab: &Lab) -> Result<()> {
    for (one, other, network) in NETWORKS {
        for (host, peer, last) in [(one, other, 1), (other, one, 2)] {
            let (address, device) = (format!("{network}::{last}/64"), format!("to-{peer}"));
            on(lab, host, &["ip", "-6", "address", "add", &address, "dev", &device, "nodad"])?;
        }
    }
    for host in ["na", "c", "nb"] {
        on(lab, host, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
    }
    let route = |host, to: &str, by: &str, device: &str| {
        on(lab, host, &["ip", "-6", "route", "add", to, "via", by, "dev", device]).map(drop)
    };
    route("a", "default", "2600:db8:1::2", "to-na")?;
    route("na", "default", "2600:db8:2::2", "to-c")?;
    route("nb", "default", "2600:db8:3::1", "to-c")?;
    route("b", "default", "2600:db8:4::1", "to-nb")?;
    route("c", "2600:db8:1::/64", "2600:db8:2::1", "to-na")?;
    route("c", "2600:db8:4::/64", "2600:db8:3::2", "to-nb")?;
    let wall = "add table ip6 wall;
        add chain ip6 wall forward { type filter hook forward priority 0; };
        add rule ip6 wall forward ct state established,related accept;
        add rule ip6 wall forward iifname to-c drop;";
    for host in ["na", "nb"] {
        on(lab, host, &["nft", wall])?;
    }
    Ok(())
}

pub fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = world(&[])?;
    translate(&lab, "na", Kind::Symmetric)?;
    translate(&lab, "nb", Kind::Symmetric)?;
    dress(&lab)?;
    let world = start(lab, binary)?;
    let got = settles(&world.a, &world.b, Reach::Straight)?;
    ensure!(got == Reach::Straight, "{got:?}, with IPv6 on both sides");
    let address = seen(&world.a, &world.b)?["address"].clone();
    ensure!(address.as_str().is_some_and(|one| one.starts_with("[2600:db8:4:")), "straight at {address}");
    passes(&world.lab, &world.b, &world.a, "six")?;
    println!("        symmetric before both, and IPv6 behind two firewalls: {got:?}, at {address}");
    // The firewalls forget, as at a restart: whoever speaks first opens them again.
    for host in ["na", "nb"] {
        on(&world.lab, host, &["conntrack", "-F"])?;
    }
    passes(&world.lab, &world.a, &world.b, "six-again")?;
    println!("        and after both firewalls forgot");
    Ok(())
}

//! Where the attacker sits: a namespace behind a link of its own, on which nothing else is heard.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::sh;

const DEVICE: &str = "outside0";
/// The victim's address on that link.
pub const HERE: &str = "10.79.0.1";

/// The attacker's namespace and its link to the victim's; gone when dropped.
pub struct Outside {
    name: String,
}

impl Outside {
    /// Makes both.
    pub fn new(lab: &Lab) -> Result<Outside> {
        let victim = lab.a().namespace().to_string();
        let outside = Outside { name: format!("{victim}-outside") };
        let name = outside.name.as_str();
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        let pair = ["type", "veth", "peer", "name", DEVICE, "netns", name];
        ip(&[&["link", "add", "name", DEVICE, "netns", &victim], &pair[..]].concat())?;
        // Nothing but what is asked for crosses the link: no IPv6, and neighbours that are known.
        for (namespace, address, mac, other, other_mac) in [
            (victim.as_str(), HERE, "02:00:00:00:79:01", "10.79.0.2", "02:00:00:00:79:02"),
            (name, "10.79.0.2", "02:00:00:00:79:02", HERE, "02:00:00:00:79:01"),
        ] {
            let quiet = format!("echo 1 > /proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6");
            ip(&["netns", "exec", namespace, "sh", "-c", &quiet])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "address", mac])?;
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", DEVICE])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "up"])?;
            let neighbour = ["neigh", "replace", other, "lladdr", other_mac, "nud", "permanent"];
            ip(&[&["-n", namespace], &neighbour[..], &["dev", DEVICE]].concat())?;
        }
        // A whole /16 that the attacker may speak from, and to which answers find their way.
        ip(&["-n", name, "route", "add", "local", "10.80.0.0/16", "dev", "lo"])?;
        ip(&["-n", &victim, "route", "add", "10.80.0.0/16", "via", "10.79.0.2"])?;
        Ok(outside)
    }

    /// A command that runs there.
    pub fn command(&self, program: &Path) -> Command {
        crate::lab::process::tied(&["ip", "netns", "exec", &self.name], program)
    }

    /// Packets that came out of the victim's namespace to the attacker's.
    pub fn heard(&self) -> Result<u64> {
        received_packets(&self.name)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        crate::lab::remove_namespace(&self.name);
    }
}

/// Packets that the link between the two has brought to one end.
pub fn received_packets(namespace: &str) -> Result<u64> {
    let shown = sh::words("ip", &["-j", "-s", "-n", namespace, "link", "show", "dev", DEVICE])?;
    let shown: Value = serde_json::from_str(&shown)?;
    shown[0]["stats64"]["rx"]["packets"].as_u64().context("`ip -s link` without rx packets")
}

fn ip(words: &[&str]) -> Result<()> {
    sh::words("ip", words).map(drop)
}

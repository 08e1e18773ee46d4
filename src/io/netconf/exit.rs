//! What an exit changes on its host: packets of circuits are forwarded between the device and the others, under the host's
//! own addresses; nobody outside begins anything with a circuit, and the host itself is not reached from one.
//!
//! One nftables table says all of it, named by the device, so that the next process finds it. A host that did not forward
//! before forwards nothing but circuits: the table drops the rest, and its comments say what is to be switched off again.

use std::fmt::Write as _;
use std::fs;

use super::NetError;
use super::switch::{self, plain};
use crate::base::Prefix;

/// Written where a family was not forwarded before.
const GUARD: [(&str, &str, &str); 2] = [
    ("guard4", "ipv4", "/proc/sys/net/ipv4/ip_forward"),
    ("guard6", "ipv6", "/proc/sys/net/ipv6/conf/all/forwarding"),
];

fn table(device: &str) -> String {
    format!("tornet_exit_{}", plain(device))
}

/// Puts the table in place and has the kernel forward, for circuits with addresses of these networks behind the device.
/// `connected` are the networks that the host is in; of those with public addresses circuits reach nothing.
pub(super) fn install(device: &str, pools: &[Prefix], connected: &[Prefix]) -> Result<(), NetError> {
    let before = switch::list(&table(device))?.unwrap_or_default();
    let wanted = GUARD.map(|(guard, family, switch)| {
        let used = pools.iter().any(|pool| pool.is_ipv4() == (family == "ipv4"));
        let off = fs::read_to_string(switch).is_ok_and(|value| value.trim() == "0");
        (used, used && (off || before.contains(guard)))
    });
    switch::run(&script(device, pools, connected, wanted.map(|(_, guarded)| guarded)))?;
    for ((_, family, switch), (used, _)) in GUARD.iter().zip(wanted) {
        if used {
            if *family == "ipv6" {
                keep_routers();
            }
            turn(switch, "1")?;
        }
    }
    Ok(())
}

/// Takes away what [`install`] did, in this process or another; true when something was there.
pub(super) fn remove(device: &str) -> Result<bool, NetError> {
    let name = table(device);
    let Some(listed) = switch::list(&name)? else { return Ok(false) };
    for (guard, _, switch) in GUARD {
        if listed.contains(guard) {
            turn(switch, "0")?;
        }
    }
    switch::run(&format!("delete table inet {name}\n")).map(|()| true)
}

fn turn(switch: &str, value: &str) -> Result<(), NetError> {
    if fs::read_to_string(switch).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(switch, value).map_err(|source| NetError::os("forwarding packets", source))
}

/// A host that forwards IPv6 hears no routers any more, unless it is told to: it would lose its own way out.
fn keep_routers() {
    let Ok(devices) = fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    for device in devices.flatten() {
        let switch = device.path().join("accept_ra");
        if fs::read_to_string(&switch).is_ok_and(|value| value.trim() == "1") {
            let _ = fs::write(&switch, "2");
        }
    }
}

/// The table, in nft's language.
pub(super) fn script(device: &str, pools: &[Prefix], connected: &[Prefix], guarded: [bool; 2]) -> String {
    let name = table(device);
    let (mut forward, mut input, mut nat) = (String::new(), String::new(), String::new());
    let mut own = String::new();
    // A packet of a circuit starts inside the router's firewall. Networks of private addresses are the policy's, which lets
    // into those alone that it names; it cannot know which public ones lie here.
    for net in
        connected.iter().map(|net| net.network()).filter(|net| !net.is_default() && !switch::is_local(*net))
    {
        let ip = if net.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(forward, "    iifname \"{device}\" {ip} daddr {net} drop");
    }
    // Whatever port the operator leads elsewhere, and for whom: the policy looked at another address.
    let _ = writeln!(forward, "    iifname \"{device}\" ct status dnat drop");
    for pool in pools.iter().map(|pool| pool.network()) {
        let ip = if pool.is_ipv4() { "ip" } else { "ip6" };
        let _ = write!(
            forward,
            "    iifname \"{device}\" oifname != \"{device}\" {ip} saddr {pool} accept\n    \
             oifname \"{device}\" iifname != \"{device}\" {ip} daddr {pool} ct state {{ established, related }} accept\n    \
             {ip} daddr {pool} drop\n    {ip} saddr {pool} drop\n"
        );
        let _ = writeln!(input, "    iifname \"{device}\" {ip} saddr {pool} drop");
        // Before a port of this host's is led elsewhere, as to a container: that is forwarded, and not input any more.
        let _ = writeln!(
            own,
            "    iifname \"{device}\" {ip} saddr {pool} fib daddr type {{ local, broadcast, multicast }} drop"
        );
        let _ = writeln!(nat, "    oifname != \"{device}\" {ip} saddr {pool} masquerade");
    }
    for ((guard, family, _), _) in GUARD.iter().zip(guarded).filter(|(_, guarded)| *guarded) {
        let _ = writeln!(forward, "    meta nfproto {family} drop comment \"{guard}\"");
    }
    format!(
        "add table inet {name}\n\
         delete table inet {name}\n\
         table inet {name} {{\n\
         \x20 comment \"tornet: lets circuits out of {device}\"\n\
         \x20 chain forward {{\n\
         \x20   type filter hook forward priority filter - 10; policy accept;\n\
         {forward}\
         \x20 }}\n\
         \x20 chain input {{\n\
         \x20   type filter hook input priority filter - 10; policy accept;\n\
         {input}\
         \x20 }}\n\
         \x20 chain own {{\n\
         \x20   type filter hook prerouting priority mangle; policy accept;\n\
         {own}\
         \x20 }}\n\
         \x20 chain nat {{\n\
         \x20   type nat hook postrouting priority srcnat; policy accept;\n\
         {nat}\
         \x20 }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_circuits_are_forwarded_where_nothing_was() {
        let pools = ["10.117.0.1/16".parse().expect("a prefix"), "fd75::/64".parse().expect("a prefix")];
        let near =
            ["192.168.1.0/24", "203.0.113.0/24", "0.0.0.0/0"].map(|text| text.parse().expect("a prefix"));
        let text = script("tornet-0", &pools, &near, [true, false]);
        let dropped = text
            .find("iifname \"tornet-0\" ip daddr 203.0.113.0/24 drop")
            .expect("a public one that is near");
        let led = text.find("iifname \"tornet-0\" ct status dnat drop").expect("what is led elsewhere");
        let first = text.find("accept\n").expect("something is let out");
        assert!(dropped < first && led < first && !text.contains("192.168"));
        assert!(text.contains("ip saddr 10.117.0.0/16 fib daddr type { local, broadcast, multicast } drop"));
        assert!(text.starts_with("add table inet tornet_exit_tornet_0\n"));
        assert!(
            text.contains("ip saddr 10.117.0.0/16 masquerade")
                && text.contains("ip6 saddr fd75::/64 masquerade")
        );
        let guard = text.find("meta nfproto ipv4 drop").expect("guarded");
        assert!(text.rfind("accept\n").is_some_and(|last| last < guard) && !text.contains("guard6"));
    }
}

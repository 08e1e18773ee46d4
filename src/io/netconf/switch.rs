//! The kill switch's second half: an nftables table that drops what the tunnel should carry and does not.
//!
//! Routing alone ([`super::routes`]) stops what has no device to go to. This table also stops what is bound to a device
//! (`SO_BINDTODEVICE`), a name looked up at the local network's resolver, and a local network that claims public
//! addresses. It belongs to nobody's process: it stays after `kill -9`, until [`remove`].
//!
//! It is written by the `nft` program: the table's format in netlink is nft's own affair, and the crates for it are
//! bindings to a C library, under the GPL, or call the program, too.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use super::{MARK, NetError, Plan};
use crate::base::Prefix;

/// Where Debian has it; a user's PATH may not.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// Networks that nobody reaches through the Internet. Only such ones stay reachable beside the tunnel when the host is
/// connected to them: a hostile access point can call any public address its local network.
const LOCAL: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"];

/// Puts the table in place, instead of the one that is there, in one transaction.
pub(super) fn install(plan: &Plan, connected: &[Prefix]) -> Result<(), NetError> {
    run(&script(plan, connected))
}

/// Takes the table away; true when there was one.
pub(super) fn remove(device: &str) -> Result<bool, NetError> {
    delete(&table(device))
}

/// Nobody behind the device begins anything at these addresses of it, whatever listens there; answers pass. Before a port
/// is led on to a container or another host: that is forwarded, and not input any more. A table of its own, since it holds
/// with and without the kill switch.
pub(super) fn guard(device: &str, quiet: &[IpAddr]) -> Result<(), NetError> {
    run(&guard_script(device, quiet))
}

/// Takes that table away; true when there was one.
pub(super) fn unguard(device: &str) -> Result<bool, NetError> {
    delete(&guard_table(device))
}

fn delete(name: &str) -> Result<bool, NetError> {
    match list(name)? {
        None => Ok(false),
        Some(_) => run(&format!("delete table inet {name}\n")).map(|()| true),
    }
}

fn guard_table(device: &str) -> String {
    format!("tornet_guard_{}", plain(device))
}

fn guard_script(device: &str, quiet: &[IpAddr]) -> String {
    let name = guard_table(device);
    let drops: String = quiet
        .iter()
        .map(|own| {
            format!(
                "    iifname \"{device}\" {} daddr {own} drop\n",
                if own.is_ipv4() { "ip" } else { "ip6" }
            )
        })
        .collect();
    format!(
        "add table inet {name}\n\
         delete table inet {name}\n\
         table inet {name} {{\n\
         \x20 comment \"tornet: what comes through circuits of {device} reaches nothing that listens here\"\n\
         \x20 chain in {{\n\
         \x20   type filter hook prerouting priority mangle; policy accept;\n\
         \x20   iifname \"{device}\" ct state {{ established, related }} accept\n\
         {drops}\
         \x20 }}\n\
         }}\n"
    )
}

/// What a table says; `None` when there is none of this name.
pub(super) fn list(name: &str) -> Result<Option<String>, NetError> {
    let listed = match start(&["list", "table", "inet", name], "") {
        // Without the program no table of ours can be there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| NetError::os("running nft", e))?,
    };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(listed.status.success().then_some(text))
}

fn table(device: &str) -> String {
    format!("tornet_{}", plain(device))
}

/// Names of devices may hold dots and dashes, names of tables may not begin with some.
pub(super) fn plain(device: &str) -> String {
    device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn start(words: &[&str], script: &str) -> io::Result<Output> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(mut child) => {
                // A script is far shorter than a pipe's buffer; nft may end without reading it.
                let _ = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
                return child.wait_with_output();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Has nft carry out a script, all of it or nothing.
pub(super) fn run(script: &str) -> Result<(), NetError> {
    match start(&["-f", "-"], script) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or("no reason given").to_owned();
            if first.contains("Operation not permitted") {
                return Err(NetError::NotPermitted { what: "changing nftables" });
            }
            Err(NetError::Nft(first))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NetError::NoNft),
        Err(error) => Err(NetError::os("running nft", error)),
    }
}

/// The table, in nft's language.
fn script(plan: &Plan, connected: &[Prefix]) -> String {
    let (name, device) = (table(&plan.device), &plan.device);
    let full = plan.routes.iter().any(|route| route.is_default());
    let mut verdicts = String::new();
    if !plan.dns.is_empty() {
        // Names are asked for through the tunnel only.
        verdicts += "    meta l4proto { tcp, udp } th dport { 53, 853 } reject\n";
    }
    let mut order: Vec<(Prefix, bool)> = plan.routes.iter().map(|route| (route.network(), true)).collect();
    order.extend(connected.iter().filter(|net| is_local(**net)).map(|net| (net.network(), false)));
    // As routing has it: the longest prefix wins; of two that are equal, the tunnel's.
    order.sort_by_key(|(prefix, covered)| (std::cmp::Reverse(prefix.len()), !covered));
    for (prefix, covered) in order {
        let family = if prefix.is_ipv4() { "ip" } else { "ip6" };
        let verdict = if covered { "reject with icmpx admin-prohibited" } else { "accept" };
        // A prefix of length 0 is no match in nft's language: the rest is said below.
        if !prefix.is_default() {
            let _ = writeln!(verdicts, "    {family} daddr {prefix} {verdict}");
        }
    }
    if full {
        verdicts += "    udp dport { 67, 547 } accept\n";
        verdicts += "    icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept\n";
        verdicts += "    meta nfproto { ipv4, ipv6 } reject with icmpx admin-prohibited\n";
    }
    let mut spoofed = String::new();
    for address in &plan.addresses {
        // Whoever shares a link with us must not reach the tunnel's address by it (CVE-2019-14899).
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let address: IpAddr = address.address();
        let _ = writeln!(
            spoofed,
            "    iifname != {{ \"lo\", \"{device}\" }} {family} daddr {address} fib saddr type != local drop"
        );
    }
    let mut marked = String::new();
    if !plan.ports.is_empty() {
        // Answers to us are looked up as our own packets are, where reverse paths are checked (src_valid_mark). Bridges' TCP
        // has no port of its own: it is known by its connections.
        let ports: Vec<String> = plan.ports.iter().map(u16::to_string).collect();
        let _ = writeln!(marked, "    udp dport {{ {} }} meta mark set {MARK:#x}", ports.join(", "));
    }
    format!(
        "add table inet {name}\n\
         delete table inet {name}\n\
         table inet {name} {{\n\
         \x20 comment \"tornet: keeps traffic of {device} out of other devices\"\n\
         \x20 chain out {{\n\
         \x20   type filter hook output priority filter - 10; policy accept;\n\
         \x20   oifname {{ \"lo\", \"{device}\" }} accept\n\
         \x20   meta mark {MARK:#x} meta l4proto tcp ct mark set {MARK:#x}\n\
         \x20   meta mark {MARK:#x} meta l4proto {{ tcp, udp }} accept\n\
         \x20   fib daddr type {{ local, multicast }} accept\n\
         {verdicts}\
         \x20 }}\n\
         \x20 chain spoofed {{\n\
         \x20   type filter hook prerouting priority raw; policy accept;\n\
         {spoofed}\
         \x20 }}\n\
         \x20 chain marked {{\n\
         \x20   type filter hook prerouting priority mangle; policy accept;\n\
         \x20   ct mark {MARK:#x} meta mark set {MARK:#x}\n\
         {marked}\
         \x20 }}\n\
         }}\n"
    )
}

/// Whether a network is one that nobody reaches through the Internet.
pub(super) fn is_local(net: Prefix) -> bool {
    LOCAL.iter().any(|local| local.parse::<Prefix>().is_ok_and(|local| local.covers(net)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(routes: &[&str]) -> Plan {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
        Plan {
            device: "tornet-0.1".to_owned(),
            mtu: 1400,
            addresses: parse(&["10.9.0.1/24"]),
            routes: parse(routes),
            dns: Vec::new(),
            ports: vec![4001],
            kill_switch: true,
            exit: Vec::new(),
            sources: Vec::new(),
            quiet: Vec::new(),
        }
    }

    fn verdicts(plan: &Plan, connected: &[&str]) -> Vec<String> {
        let connected: Vec<Prefix> = connected.iter().map(|text| text.parse().expect("a prefix")).collect();
        let script = script(plan, &connected);
        script
            .lines()
            .map(str::trim)
            .filter(|l| l.contains(" daddr ") && !l.contains("fib"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_longest_prefix_wins_and_of_equals_the_tunnel() {
        let seen = verdicts(
            &plan(&["10.0.0.0/8", "192.168.1.0/24", "172.16.1.0/28"]),
            &["192.168.1.0/24", "10.1.0.0/16", "172.16.1.0/24"],
        );
        let reject = "reject with icmpx admin-prohibited";
        assert_eq!(
            seen,
            [
                format!("ip daddr 172.16.1.0/28 {reject}"),
                format!("ip daddr 192.168.1.0/24 {reject}"),
                "ip daddr 192.168.1.0/24 accept".to_owned(),
                "ip daddr 172.16.1.0/24 accept".to_owned(),
                "ip daddr 10.1.0.0/16 accept".to_owned(),
                format!("ip daddr 10.0.0.0/8 {reject}"),
            ]
        );
    }

    #[test]
    fn a_local_network_of_public_addresses_is_not_let_through() {
        assert_eq!(verdicts(&plan(&["0.0.0.0/0"]), &["8.8.0.0/16", "0.0.0.0/1"]), [""; 0]);
        assert!(script(&plan(&["0.0.0.0/0"]), &[]).contains("meta nfproto { ipv4, ipv6 } reject"));
        assert!(!script(&plan(&["10.0.0.0/8"]), &[]).contains("nfproto"));
    }

    #[test]
    fn what_is_begun_from_behind_a_circuit_is_dropped_and_answers_are_not() {
        let text = guard_script("tornet0", &["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let at = |wanted: &str| lines.iter().position(|line| *line == wanted).expect("there");
        let answers = at("iifname \"tornet0\" ct state { established, related } accept");
        assert!(answers < at("iifname \"tornet0\" ip daddr 10.1.2.3 drop"));
        assert!(answers < at("iifname \"tornet0\" ip6 daddr fd00::3 drop"));
    }

    #[test]
    fn names_of_devices_become_names_of_tables() {
        assert!(script(&plan(&[]), &[]).starts_with("add table inet tornet_tornet_0_1\n"));
    }
}

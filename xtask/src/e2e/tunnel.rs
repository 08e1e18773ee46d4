//! Tunnels between two hosts: applications that know nothing of them, and what is left when a daemon dies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Case, one_line};
use crate::lab::{Host, Lab, Node, Process, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "tunnel",
        about: "ping and TCP both ways through a tunnel, IPv4 and IPv6; `down` undoes it",
        run,
    },
    Case {
        name: "tunnel-loss",
        about: "TCP through a tunnel over a line that loses and reorders",
        run: loss,
    },
    Case {
        name: "tunnel-restart",
        about: "a tunnel comes back after kill -9 of either side, and leaves nothing",
        run: restart,
    },
    Case { name: "tunnel-roam", about: "a TCP flow in a tunnel survives its host's new address", run: roam },
    Case {
        name: "tunnel-errors",
        about: "what cannot be is refused in one line and changes nothing",
        run: errors,
    },
];

pub(super) const DEVICE: &str = "tornet0";
pub(super) const A: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
pub(super) const B: [&str; 2] = ["10.9.0.2", "fd00:9::2"];

/// Two friends with a tunnel of both families between them.
pub(super) fn joined(lab: &Lab, binary: &Path) -> Result<(Node, Node)> {
    let (a, b) = node::pair(lab, binary)?;
    up(&a, &b, A)?;
    up(&b, &a, B)?;
    reaches(&a, B[0])?;
    Ok((a, b))
}

pub(super) fn up(node: &Node, friend: &Node, addresses: [&str; 2]) -> Result<()> {
    let [v4, v6] = [format!("{}/24", addresses[0]), format!("{}/64", addresses[1])];
    let id = id_of(friend)?;
    node.run(&["tunnel", "up", "--peer", &id, "--addr", &v4, "--addr", &v6], node::PROMPT).map(drop)
}

pub fn id_of(node: &Node) -> Result<String> {
    let status = node.status()?;
    Ok(status["node_id"].as_str().context("status --json has no node_id")?.to_owned())
}

/// Runs a program on a host to its end, which must be good.
pub(super) fn on(lab: &Lab, host: &Host, words: &[&str]) -> Result<String> {
    let mut command = host.command(words[0]);
    command.args(&words[1..]);
    let label = format!("{}-{}", host.name, words[0]);
    let done = Process::finish(&label, lab.dir(), &mut command, node::PATIENT)?;
    ensure!(done.status.success(), "{}: {}\n{}{}", words.join(" "), done.status, done.stdout, done.stderr);
    Ok(done.stdout)
}

fn ping(host: &Host, lab: &Lab, to: &str) -> Result<()> {
    on(lab, host, &["ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", to]).map(drop)
}

/// Waits until a ping comes back: the daemons may be looking for each other.
pub(super) fn reaches(node: &Node, to: &str) -> Result<()> {
    let reached = stop::until(node::PROMPT, || {
        let mut command = node.host.command("ping");
        command.args(["-n", "-q", "-c", "1", "-W", "1", to]);
        Ok(crate::sh::read(&mut command).is_ok())
    })?;
    ensure!(reached, "{} cannot ping {to} through the tunnel", node.name);
    Ok(())
}

pub(super) fn has_device(lab: &Lab, host: &Host) -> Result<bool> {
    Ok(on(lab, host, &["ip", "-o", "link"])?.contains(DEVICE))
}

/// Nothing is left of a tunnel: no device, no address, no rule or route of ours.
fn assert_clean(lab: &Lab, host: &Host) -> Result<()> {
    ensure!(!has_device(lab, host)?, "{}: the device is still there", host.name);
    for words in [&["ip", "route", "show", "table", "all"][..], &["ip", "rule"], &["ip", "address"]] {
        let shown = on(lab, host, words)?;
        ensure!(!shown.contains("10.9.0."), "{}: left behind:\n{shown}", words.join(" "));
    }
    Ok(())
}

/// A TCP flow of some seconds, measured by iperf3 in its own words; Mbit/s.
fn iperf(lab: &Lab, from: &Node, to: &Node, address: &str, more: &[&str]) -> Result<f64> {
    let mut server = to.host.command("iperf3");
    server.args(["-s", "-1", "--forceflush"]);
    let mut server = Process::start("iperf3-server", lab.dir(), &mut server)?;
    ensure!(
        stop::until(node::PROMPT, || Ok(server.stdout().contains("listening")))?,
        "iperf3 does not listen: {}",
        server.stderr()
    );
    let words = [&["iperf3", "-J", "-c", address, "-t", "3"], more].concat();
    let report: Value = serde_json::from_str(&on(lab, &from.host, &words)?).context("iperf3's report")?;
    let end = &report["end"];
    let sum = if end["sum"].is_object() { &end["sum"] } else { &end["sum_received"] };
    server.wait(node::PROMPT)?;
    let rate = sum["bits_per_second"].as_f64().context("iperf3's report has no rate")? / 1e6;
    ensure!(rate > 0.1, "{} to {address}: {rate} Mbit/s", words.join(" "));
    Ok(rate)
}

fn counter(node: &Node, name: &str) -> Result<u64> {
    node.status()?["counters"][name].as_u64().with_context(|| format!("status --json has no counter {name}"))
}

fn run(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, mut b) = joined(lab, binary)?;
    for (node, other) in [(&a, B), (&b, A)] {
        other.iter().try_for_each(|address| ping(&node.host, lab, address))?;
        // What needs several packets to arrive whole, and one that just fits.
        on(lab, &node.host, &["ping", "-n", "-c", "2", "-s", "8000", other[0]])?;
        on(lab, &node.host, &["ping", "-n", "-c", "2", "-M", "do", "-s", "1392", other[0]])?;
    }
    for (from, to, addresses) in [(&a, &b, B), (&b, &a, A)] {
        for address in addresses {
            iperf(lab, from, to, address, &[])?;
            iperf(lab, from, to, address, &["-R"])?;
        }
    }
    iperf(lab, &a, &b, B[0], &["-u", "-b", "50M"])?;
    iperf(lab, &a, &b, B[1], &["-P", "4"])?;
    ensure!(counter(&b, "tunnel_superpackets")? > 0, "nothing was joined into superpackets");
    ensure!(counter(&b, "tun_write_refused")? == 0, "the kernel refused headers that were written");
    for name in ["malformed", "not_allowed", "unfit"] {
        ensure!(counter(&b, &format!("tunnel_dropped_{name}"))? == 0, "honest packets were {name}");
    }
    let listed = a.run(&["tunnel", "list", "--json"], node::PROMPT)?.stdout;
    let listed: Value = serde_json::from_str(&listed).context("tunnel list --json")?;
    ensure!(listed["tunnels"][0]["connected"] == true && listed["device"] == DEVICE, "{listed}");
    ensure!(a.status()?["tunnels"][0]["sent_bytes"].as_u64() > Some(1 << 20), "{}", a.status()?["tunnels"]);

    a.run(&["tunnel", "down"], node::PROMPT)?;
    assert_clean(lab, &a.host)?;
    ensure!(a.status()?["tunnels"].as_array().is_some_and(Vec::is_empty), "status still lists a tunnel");
    up(&a, &b, A)?;
    reaches(&a, B[0])?;
    a.stop(Signal::SIGTERM)?;
    assert_clean(lab, &a.host)?;
    a.start()?;
    reaches(&a, B[0])?;
    b.stop(Signal::SIGTERM)?;
    assert_clean(lab, &b.host)
}

fn loss(lab: &mut Lab, binary: &Path) -> Result<()> {
    lab.emulate("delay=10ms,loss=0.5%,reorder=1%/2ms")?;
    let (a, b) = joined(lab, binary)?;
    iperf(lab, &a, &b, B[0], &[])?;
    iperf(lab, &a, &b, B[1], &["-R"])?;
    ensure!(counter(&b, "tun_write_refused")? == 0, "the kernel refused headers that were written");
    Ok(())
}

fn restart(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, mut b) = joined(lab, binary)?;
    for _ in 0..2 {
        a.kill();
        let gone = stop::until(node::PROMPT, || Ok(!has_device(lab, lab.a())?))?;
        ensure!(gone, "the device outlived its daemon");
        assert_clean(lab, lab.a())?;
        a.start()?;
        reaches(&a, B[0])?;
        reaches(&b, A[0])?;
    }
    b.kill();
    b.start()?;
    reaches(&b, A[0])?;
    reaches(&a, B[1])
}

fn roam(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = joined(lab, binary)?;
    let mut server = b.host.command("iperf3");
    server.args(["-s", "-1", "--forceflush"]);
    let mut server = Process::start("iperf3-server", lab.dir(), &mut server)?;
    ensure!(
        stop::until(node::PROMPT, || Ok(server.stdout().contains("listening")))?,
        "iperf3 does not listen"
    );
    let mut client = a.host.command("iperf3");
    client.args(["-J", "-c", B[0], "-t", "8", "-b", "20M"]);
    let mut client = Process::start("iperf3-client", lab.dir(), &mut client)?;
    let before = counter(&b, "tunnel_received_bytes")?;
    ensure!(
        stop::until(node::PROMPT, || Ok(counter(&b, "tunnel_received_bytes")? > before + (1 << 20)))?,
        "nothing flows before the move"
    );
    // The address that its packets left from is gone: the friends meet again once their session has been silent for
    // too long, which TCP outlasts.
    lab.readdress(lab.a(), "10.77.0.99")?;
    let status = client.wait(node::PATIENT)?;
    ensure!(status.success(), "the flow did not survive: {}{}", client.stdout(), client.stderr());
    server.wait(Duration::from_secs(20))?;
    reaches(&b, A[0])
}

fn errors(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let id = id_of(&b)?;
    for words in [
        &["tunnel", "up", "--peer", "nobody", "--addr", "10.9.0.1/24"][..],
        &["tunnel", "up", "--peer", &id, "--addr", "10.9.0.1/33"],
        &["tunnel", "up", "--peer", &id, "--addr", "10.9.0.1/24", "--allow", "everything"],
        &["tunnel", "down", "--peer", &id],
    ] {
        one_line(&a.attempt(words, node::PROMPT)?).with_context(|| words.join(" "))?;
        assert_clean(lab, &a.host)?;
        ensure!(a.status()?["tunnels"].as_array().is_some_and(Vec::is_empty), "{}", words.join(" "));
    }
    // A daemon that may not make devices says so, and goes on.
    let mut c = Node::new(lab, lab.a(), "c", binary, 4003, lab.dir().join("node-c"));
    c.init()?;
    c.start_through(
        &["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"].map(String::from),
    )?;
    c.befriend(&b)?;
    let refused = c.attempt(&["tunnel", "up", "--peer", &id, "--addr", "10.9.0.1/24"], node::PROMPT)?;
    let line = one_line(&refused)?;
    ensure!(line.contains("CAP_NET_ADMIN"), "{line}");
    ensure!(c.status()?["tunnels"].as_array().is_some_and(Vec::is_empty), "what failed is remembered");
    assert_clean(lab, &a.host)
}

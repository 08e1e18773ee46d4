//! A network that blocks UDP: friends reach each other by a bridge, strangers learn nothing of it, and UDP is used again as
//! soon as it gets through.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Case, tunnel};
use crate::lab::node::{PATIENT, PROMPT, text};
use crate::lab::{Host, Lab, Node, files};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "bridge",
        about: "UDP is blocked: a bridge with TLS carries, and UDP when it is not",
        run: tls,
    },
    Case {
        name: "bridge-plain",
        about: "a bridge without TLS; who does not know its path hears of nothing",
        run: plain,
    },
    Case {
        name: "bridge-tunnel",
        about: "a tunnel that takes its friend's address, with a kill switch, does not take in the bridge that carries it",
        run: tunnelled,
    },
];

const SECRET: &str = "/a-path-that-nobody-guesses";
const PORT: u16 = 8443;
/// What a session may take to find a better path, or the one that is left.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(90);

/// A certificate that nobody vouches for, made for these tests, and its SHA-256.
const CERTIFICATE: &str = include_str!("../../../src/bridge/tests/certificate.pem");
const KEY: &str = include_str!("../../../src/bridge/tests/key.pem");
const PIN: &str = include_str!("../../../src/bridge/tests/pin");

/// Nothing of UDP leaves or enters a host, but within itself.
fn block(host: &Host) -> Result<()> {
    let rules = "add table inet blocked;
        add chain inet blocked in { type filter hook input priority 0; };
        add rule inet blocked in iifname != lo meta l4proto udp drop;
        add chain inet blocked out { type filter hook output priority 0; };
        add rule inet blocked out oifname != lo meta l4proto udp drop;";
    crate::sh::read(host.command("nft").arg(rules)).map(drop)
}

fn unblock(host: &Host) -> Result<()> {
    crate::sh::read(host.command("nft").args(["delete", "table", "inet", "blocked"])).map(drop)
}

/// A node alone with its friends: nobody else is to help.
fn node(lab: &Lab, host: &Host, name: &str, binary: &Path, port: u16) -> Result<Node> {
    let node = Node::new(lab, host, name, binary, port, lab.dir().join(name));
    node.init()?;
    node.run(&["config", "set", "overlay.enabled", "false"], PROMPT)?;
    Ok(node)
}

fn set(node: &Node, settings: &[(&str, &str)]) -> Result<()> {
    settings.iter().try_for_each(|(key, value)| node.run(&["config", "set", key, value], PROMPT).map(drop))
}

/// What a node says of its one peer.
fn peer(node: &Node) -> Result<Value> {
    Ok(node.status()?["peers"][0].clone())
}

/// Waits until both have a session with each other, by a bridge or straight.
fn settle(one: &Node, other: &Node, bridged: bool) -> Result<()> {
    let mut last = [Value::Null, Value::Null];
    let settled = stop::until(LIMIT, || {
        last = [peer(one)?, peer(other)?];
        Ok(last.iter().all(|peer| peer["connected"] == true && peer["bridged"] == bridged))
    })?;
    ensure!(settled, "bridged is not {bridged}: {last:?}");
    Ok(())
}

/// Files of several sizes in folders.
fn tree(lab: &Lab, name: &str) -> Result<PathBuf> {
    let top = lab.make_dir(name)?;
    std::fs::create_dir_all(top.join("below/and below"))?;
    for (file, size) in [("one", 3 << 20), ("below/two", 70_000), ("below/and below/three", 1), ("none", 0)] {
        files::random(&top.join(file), size)?;
    }
    Ok(top)
}

fn passes(lab: &Lab, from: &Node, to: &Node, name: &str) -> Result<()> {
    let tree = tree(lab, name)?;
    let (_, reference) = from.put(&tree)?;
    let out = lab.dir().join(format!("{name}.out"));
    to.get(&reference, &out)?;
    files::same(&tree, &out).map(drop)
}

/// Two friends, of whom the first has a bridge with TLS that its invitation names.
pub struct Pair {
    pub a: Node,
    pub b: Node,
}

impl Pair {
    /// Both run, and are friends.
    pub fn start(lab: &Lab, binary: &Path) -> Result<Pair> {
        let (mut a, mut b) = (with_bridge(lab, binary)?, node(lab, lab.b(), "b", binary, 4002)?);
        a.start()?;
        b.start()?;
        a.befriend(&b)?;
        b.run(&["friend", "add", a.run(&["invite", "--bridge"], PROMPT)?.stdout.trim()], PROMPT)?;
        Ok(Pair { a, b })
    }

    /// Has them speak by the bridge, or by UDP alone, from now on.
    pub fn go_by(&self, bridge: bool) -> Result<()> {
        if bridge {
            [&self.a.host, &self.b.host].into_iter().try_for_each(block)?;
        }
        settle(&self.a, &self.b, bridge)
    }
}

/// A node with a bridge, which does not run yet.
fn with_bridge(lab: &Lab, binary: &Path) -> Result<Node> {
    let here = lab.a().clone();
    let a = node(lab, &here, "a", binary, 4001)?;
    let (certificate, key) = (lab.dir().join("certificate.pem"), lab.dir().join("key.pem"));
    std::fs::write(&certificate, CERTIFICATE)?;
    std::fs::write(&key, KEY)?;
    set(
        &a,
        &[
            ("bridge.path", SECRET),
            ("bridge.certificate", text(&certificate)?),
            ("bridge.key", text(&key)?),
            ("bridge.listen", &format!("0.0.0.0:{PORT}")),
            ("bridge.url", &format!("wss://{}:{PORT}{SECRET}#sha256={}", here.address, PIN.trim())),
        ],
    )?;
    Ok(a)
}

fn tls(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (here, there) = (lab.a().clone(), lab.b().clone());
    let (mut a, mut b) = (with_bridge(lab, binary)?, node(lab, &there, "b", binary, 4002)?);
    [&here, &there].into_iter().try_for_each(block)?;
    a.start()?;
    b.start()?;
    a.befriend(&b)?;

    // Another certificate than the one that was told.
    let wrong = format!("wss://{}:{PORT}{SECRET}#sha256={}", here.address, "0".repeat(64));
    b.run(&["friend", "add", &a.invite()?, "--name", "a", "--bridge", &wrong], PROMPT)?;
    let said = |node: &mut Node, words: &str| -> Result<bool> {
        stop::until(PROMPT, || Ok(node.daemon()?.stderr().contains(words)))
    };
    ensure!(said(&mut b, "another certificate than the URL pins")?, "nothing is said of a wrong pin");
    ensure!(peer(&b)?["connected"] == false, "connected in spite of a wrong pin");

    // The invitation names the bridge: nothing else is needed.
    let invitation = a.run(&["invite", "--bridge"], PROMPT)?.stdout;
    b.run(&["friend", "add", invitation.trim()], PROMPT)?;
    settle(&a, &b, true)?;
    passes(lab, &a, &b, "tree").context("by the bridge")?;
    passes(lab, &b, &a, "back").context("by the bridge, the other way")?;
    let seen = b.status()?;
    ensure!(seen["bridge"]["lines"] == 1 && a.status()?["bridge"]["guests"] == 1, "{}", seen["bridge"]);
    ensure!(seen["peers"][0]["address"].is_null(), "an address of loopback is shown: {}", seen["peers"][0]);
    ensure!(seen["nat"]["seen_at"] == serde_json::json!([]), "seen somewhere: {}", seen["nat"]);
    println!("        wrong pin refused; trees pass both ways by the bridge");

    killed(lab, &mut a, &b)?;
    println!("        kill -9 of who has the bridge, in the middle of `get`: it goes on");

    // UDP gets through again, and is blocked again: one session.
    [&here, &there].into_iter().try_for_each(unblock)?;
    settle(&a, &b, false)?;
    println!("        UDP gets through: off the bridge");
    [&here, &there].into_iter().try_for_each(block)?;
    settle(&a, &b, true)?;
    passes(lab, &a, &b, "again").context("by the bridge again")?;
    println!("        UDP is blocked in mid-life: on the bridge again");
    Ok(())
}

/// The sender is killed and comes back; the `get` completes.
fn killed(lab: &Lab, a: &mut Node, b: &Node) -> Result<()> {
    let input = lab.dir().join("large");
    files::random(&input, 24 << 20)?;
    let (_, reference) = a.put(&input)?;
    lab.limit("40mbit")?;
    let (out, before) = (lab.dir().join("large.out"), b.host.received_bytes()?);
    let mut get = b.launch(&["get", &reference, "-o", text(&out)?])?;
    let middle = stop::until(PATIENT, || {
        ensure!(!get.ended()?, "`get` ended before its middle:\n{}", get.stderr().trim_end());
        Ok(b.host.received_bytes()? - before >= 8 << 20)
    })?;
    ensure!(middle, "the transfer never reached its middle");
    a.kill();
    a.start()?;
    let status = get.wait(PATIENT)?;
    ensure!(status.success(), "`get` failed: {}", get.stderr().trim_end());
    lab.unlimit()?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

fn tunnelled(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut pair = Pair::start(lab, binary)?;
    pair.go_by(true)?;
    let (id_a, id_b) = (tunnel::id_of(&pair.a)?, tunnel::id_of(&pair.b)?);
    pair.a.run(&["tunnel", "up", "--peer", &id_b, "--addr", "10.9.0.1/24"], PROMPT)?;
    // The friend's own address, so that nothing of this network is an exception.
    set(&pair.b, &[("tunnel.kill_switch", "true")])?;
    let route = format!("{}/32", pair.a.host.address);
    pair.b.run(&["tunnel", "up", "--peer", &id_a, "--addr", "10.9.0.2/24", "--route", &route], PROMPT)?;
    tunnel::reaches(&pair.b, "10.9.0.1")?;
    let table =
        crate::sh::read(pair.b.host.command("nft").args(["list", "table", "inet", "tornet_tornet0"]))?;
    ensure!(table.contains("admin-prohibited"), "there is no kill switch: {table}");
    // A new connection is made while its far end is routed into the tunnel, and answers are looked for there.
    let strict = ["-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.all.src_valid_mark=1"];
    crate::sh::read(pair.b.host.command("sysctl").args(strict))?;
    pair.a.kill();
    pair.a.start()?;
    settle(&pair.a, &pair.b, true)?;
    tunnel::reaches(&pair.b, "10.9.0.1")?;
    println!("        the line was made anew beside a tunnel that takes its far end");
    Ok(())
}

/// What a web server answers to a question.
fn ask(node: &Node, question: &str) -> Result<String> {
    // Through the namespace: this process is in none.
    let script = format!("exec 3<>/dev/tcp/{}/{PORT}; cat >&3; timeout 5 cat <&3", node.host.address);
    let mut child = node
        .host
        .command("bash")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no stdin")?.write_all(question.as_bytes())?;
    let mut said = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
    child.wait()?;
    Ok(said)
}

fn plain(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (here, there) = (lab.a().clone(), lab.b().clone());
    let mut a = node(lab, &here, "a", binary, 4001)?;
    let mut b = node(lab, &there, "b", binary, 4002)?;
    set(&a, &[("bridge.path", SECRET)])?;
    let refused = a.attempt(&["config", "set", "bridge.listen", &format!("0.0.0.0:{PORT}")], PROMPT)?;
    ensure!(!refused.status.success() && refused.stderr.contains("bridge.public"), "{}", refused.stderr);
    // Of several shards each has a connection of its own.
    [&a, &b].into_iter().try_for_each(|node| set(node, &[("shards.count", "2")]))?;
    set(&a, &[("bridge.public", "true"), ("bridge.listen", &format!("0.0.0.0:{PORT}"))])?;
    [&here, &there].into_iter().try_for_each(block)?;
    a.start()?;
    b.start()?;

    let get =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {more}\r\n\r\n");
    let upgrade = "Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
    let undated = |answer: String| -> String {
        let lines = answer.lines().filter(|line| !line.starts_with("date:"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let nothing = undated(ask(&a, &get("/", "close"))?);
    ensure!(nothing.starts_with("HTTP/1.1 404 "), "{nothing:?}");
    ensure!(!nothing.to_ascii_lowercase().contains("tornet"), "{nothing:?}");
    for (what, question) in [
        ("its own path, without WebSocket", get(SECRET, "close")),
        ("another path, with WebSocket", get("/another-path-that-nobody-guesses", upgrade)),
        ("the path and more", get(&format!("{SECRET}/"), upgrade)),
    ] {
        let answer = undated(ask(&a, &question)?);
        // But for what the connection becomes, which whoever asks has chosen.
        let without = |text: &str| text.replace("connection: close\n", "");
        ensure!(without(&answer) == without(&nothing), "{what}: {answer:?}, not {nothing:?}");
    }
    println!("        whoever does not know the path, or asks as a browser for a page, hears the same 404");

    a.befriend(&b)?;
    let url = format!("ws://{}:{PORT}{SECRET}", here.address);
    b.run(&["friend", "add", &a.invite()?, "--name", "a", "--bridge", &url], PROMPT)?;
    settle(&a, &b, true)?;
    passes(lab, &a, &b, "tree")?;
    b.run(&["friend", "bridge", "a", "none"], PROMPT)?;
    ensure!(!b.run(&["friend", "list"], PROMPT)?.stdout.contains(SECRET), "the bridge is still there");
    Ok(())
}

//! Friends' friends: offered, adopted, called; and a node that hears friends alone.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::Value;

use super::{Case, one_line};
use crate::lab::node::PROMPT;
use crate::lab::{Description, Host, Lab, Node, files, scratch};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "offers",
        about: "friends' friends are offered, adopted and called, and stay without their introducer",
        run: offers,
    },
    Case {
        name: "only-friends",
        about: "a stranger with the invitation gets not a packet where only friends are wanted",
        run: only_friends,
    },
];

/// Daemons on hosts that are all joined.
fn daemons(lab: &Lab, binary: &Path, count: usize) -> Result<Vec<Node>> {
    let node = |number: usize| -> Result<Node> {
        let host = &lab.hosts()[number];
        let node = Node::new(lab, host, &host.name, binary, 4001, lab.dir().join(&host.name));
        node.init()?;
        // Else the overlay would bring together whoever is to meet by friends' words.
        node.run(&["config", "set", "overlay.enabled", "false"], PROMPT)?;
        Ok(node)
    };
    (0..count).map(node).collect()
}

fn id_of(node: &Node) -> Result<String> {
    Ok(node.status()?["node_id"].as_str().context("no node id")?.to_string())
}

fn befriend(one: &Node, other: &Node) -> Result<()> {
    one.befriend(other)?;
    other.befriend(one)?;
    one.meets(other)
}

fn offer(node: &Node, id: &str) -> Result<Option<Value>> {
    let done = node.run(&["friend", "offers", "--json"], PROMPT)?;
    let all: Value = serde_json::from_str(&done.stdout)?;
    let offers = all["offers"].as_array().context("no offers")?;
    Ok(offers.iter().find(|offer| offer["node_id"] == id).cloned())
}

/// Waits until a node is offered, and says so.
fn offered(node: &Node, id: &str) -> Result<Value> {
    let mut last = None;
    let there = stop::until(PROMPT, || {
        last = offer(node, id)?;
        Ok(last.is_some())
    })?;
    ensure!(there, "{} is offered nobody of id {id}", node.name);
    last.context("it was there")
}

fn connected(node: &Node, id: &str) -> Result<bool> {
    let status = node.status()?;
    let peers = status["peers"].as_array().context("no peers")?;
    Ok(peers.iter().any(|peer| peer["node_id"] == id && peer["connected"] == true))
}

fn offers(_: &mut Lab, binary: &Path) -> Result<()> {
    let text = "hosts a b c d\nveth a-b\nveth a-c\nveth a-d\nveth b-c\nveth b-d\nveth c-d\n";
    let lab = Lab::described(Description::parse(text)?, &scratch())?;
    let mut nodes = daemons(&lab, binary, 4)?;
    nodes[3].run(&["config", "set", "friends.introduce", "twice"], PROMPT)?;
    nodes[2].run(&["config", "set", "shards.count", "2"], PROMPT)?;
    nodes.iter_mut().try_for_each(Node::start)?;
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        befriend(&nodes[one], &nodes[other])?;
    }
    let ids = nodes.iter().map(id_of).collect::<Result<Vec<_>>>()?;

    let c = offered(&nodes[0], &ids[2])?;
    ensure!(c["hand"] == 1 && c["trust"] == 18 && c["acquaintance"] == false, "{c}");
    ensure!(
        c["by"].as_array().is_some_and(|by| by.len() == 1 && by[0] == Value::String(ids[1].clone())),
        "{c}"
    );
    let d = offered(&nodes[0], &ids[3])?;
    ensure!(d["hand"] == 2 && d["trust"].as_u64() < c["trust"].as_u64(), "{d}");
    // The last one hears of the second, one hand off, and not of the first, which agreed to one alone.
    offered(&nodes[3], &ids[1])?;
    ensure!(offer(&nodes[3], &ids[0])?.is_none(), "one hand was agreed to");
    ensure!(!connected(&nodes[0], &ids[2])?, "nobody is called unasked");
    let shown = nodes[0].run(&["friend", "offers"], PROMPT)?.stdout;
    ensure!(shown.contains(&ids[2]) && shown.contains(&ids[3]), "{shown}");
    println!("        offered: one hand at {}, two at {}", c["trust"], d["trust"]);

    // As many as the operator says are called, the best first.
    nodes[0].run(&["config", "set", "friends.adopt", "1"], PROMPT)?;
    ensure!(stop::until(PROMPT, || connected(&nodes[0], &ids[2]))?, "the best is not called");
    let status = nodes[0].status()?;
    ensure!(status["introductions"]["acquaintances_connected"] == 1, "{}", status["introductions"]);
    ensure!(!connected(&nodes[0], &ids[3])?, "more than one is called");

    // More trust than friends' words give is refused unless it is meant.
    let refused = nodes[0].attempt(&["friend", "adopt", &ids[3], "--trust", "90"], PROMPT)?;
    one_line(&refused).context("more trust than its introducers give")?;
    nodes[0].run(&["friend", "adopt", &ids[3], "--name", "dora"], PROMPT)?;
    let met = stop::until(PROMPT, || {
        let status = nodes[0].status()?;
        let peers = status["peers"].as_array().context("no peers")?;
        let dora = peers.iter().find(|peer| peer["name"] == "dora");
        Ok(dora.is_some_and(|dora| dora["connected"] == true && dora["trust"] == d["trust"]))
    })?;
    ensure!(met, "an adopted friend is not met");
    ensure!(offer(&nodes[0], &ids[3])?.is_none(), "a friend is offered");

    // It is a friend on both sides once both operators said so.
    nodes[3].befriend(&nodes[0])?;
    nodes[0].meets(&nodes[3])?;

    // Without their introducer both are still reached.
    nodes[1].stop(nix::sys::signal::Signal::SIGTERM)?;
    let input = lab.dir().join("input");
    files::random(&input, 1 << 20)?;
    let gone = stop::until(PROMPT, || Ok(!connected(&nodes[0], &ids[1])?))?;
    ensure!(gone, "the one that went is still there");
    ensure!(
        connected(&nodes[0], &ids[2])? && connected(&nodes[0], &ids[3])?,
        "they went with their introducer"
    );
    let (_, reference) = nodes[3].put(&input)?;
    let out = lab.dir().join("out");
    nodes[0].get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

/// IP packets that a host sees from and to an address.
struct Watch {
    from: Arc<AtomicU64>,
    to: Arc<AtomicU64>,
}

impl Watch {
    fn start(host: &Host, other: Ipv4Addr) -> Result<Watch> {
        let tap: OwnedFd = host.within(|| {
            Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?)
        })?;
        let watch = Watch { from: Arc::default(), to: Arc::default() };
        let (from, to) = (Arc::clone(&watch.from), Arc::clone(&watch.to));
        std::thread::spawn(move || {
            let (mut file, mut frame) = (File::from(tap), vec![0; 1 << 16]);
            while let Ok(len) = file.read(&mut frame) {
                // Ethernet, then IPv4: whatever it is, an error of ICMP, too.
                let Some(head) = frame[..len].first_chunk::<34>().filter(|head| head[12..14] == [8, 0])
                else {
                    continue;
                };
                from.fetch_add(u64::from(head[26..30] == other.octets()), Ordering::Relaxed);
                to.fetch_add(u64::from(head[30..34] == other.octets()), Ordering::Relaxed);
            }
        });
        Ok(watch)
    }

    fn counts(&self) -> (u64, u64) {
        (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed))
    }
}

/// Datagrams that a stranger sends before it is believed that nothing comes: some calls with their retries.
const ASKED: u64 = 6;

fn only_friends(_: &mut Lab, binary: &Path) -> Result<()> {
    let text = "hosts x friend stranger\nveth x-friend\nveth x-stranger\nveth friend-stranger\n";
    let lab = Lab::described(Description::parse(text)?, &scratch())?;
    let mut nodes = daemons(&lab, binary, 3)?;
    nodes.iter_mut().try_for_each(Node::start)?;
    befriend(&nodes[0], &nodes[1])?;
    befriend(&nodes[1], &nodes[2])?;
    let ids = nodes.iter().map(id_of).collect::<Result<Vec<_>>>()?;
    offered(&nodes[2], &ids[0])?;

    // A stranger that has the invitation has a session, until the door is closed.
    nodes[2].befriend(&nodes[0])?;
    ensure!(stop::until(PROMPT, || connected(&nodes[2], &ids[0]))?, "anybody may come at first");
    nodes[0].run(&["config", "set", "friends.only", "true"], PROMPT)?;
    ensure!(stop::until(PROMPT, || Ok(!connected(&nodes[2], &ids[0])?))?, "the stranger's session stays");
    ensure!(connected(&nodes[0], &ids[1])?, "the friend's is closed, too");
    nodes[2].run(&["friend", "remove", &ids[0]], PROMPT)?;
    let forgotten = stop::until(PROMPT, || Ok(offer(&nodes[2], &ids[0])?.is_none()))?;
    ensure!(forgotten, "friends tell of it on");

    // From now on not a packet, also of a daemon that starts.
    for round in 0..2 {
        if round == 1 {
            nodes[0].stop(nix::sys::signal::Signal::SIGTERM)?;
            nodes[2].stop(nix::sys::signal::Signal::SIGTERM)?;
        }
        let x = lab.hosts()[0].address;
        let watch = Watch::start(&lab.hosts()[2], x)?;
        if round == 1 {
            // While nobody listens the kernel says so: not a matter of the daemon's.
            nodes[0].start()?;
            nodes[2].start()?;
        } else {
            nodes[2].befriend(&nodes[0])?;
        }
        let asked = stop::until(PROMPT * 5, || Ok(watch.counts().1 >= ASKED))?;
        let (from, to) = watch.counts();
        ensure!(asked, "the stranger asked {to} times only");
        ensure!(from == 0, "round {round}: {from} packets for the stranger's {to}");
        let status = nodes[0].status()?;
        ensure!(status["counters"]["session_uninvited"].as_u64() > Some(0), "it heard nobody");
        println!("        {to} datagrams of a stranger, and none for it");
    }
    nodes[0].meets(&nodes[1])?;
    let input = lab.dir().join("input");
    files::random(&input, 1 << 20)?;
    let (_, reference) = nodes[0].put(&input)?;
    let out = lab.dir().join("out");
    nodes[1].get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

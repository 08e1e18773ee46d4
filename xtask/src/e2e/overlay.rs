//! A network of strangers: what is put on one daemon is got on every other, while half of them are killed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::lab::node::PROMPT;
use crate::lab::{Description, Lab, Node, files, scratch};
use crate::stop;

pub const CASES: &[Case] = &[Case {
    name: "overlay",
    about: "30 strangers: put on one, get on every other, half of them killed meanwhile",
    run: overlay,
}];

/// Namespaces, each joined to each other one; three daemons on each.
const HOSTS: usize = 10;
const DAEMONS: usize = 30;
/// One in so many has three shards.
const SHARDED: usize = 5;
const BYTES: u64 = 3 << 20;
/// How long the network may take to know of what was put.
const ANNOUNCED: Duration = Duration::from_secs(60);
/// What one `get` may take: a lookup or three, and calls to nodes that were killed.
const GOT: Duration = Duration::from_secs(60);
/// Of those that were killed, so many come again with nothing but the peers that they had met.
const AGAIN: usize = 2;

fn overlay(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = Lab::described(everybody_joined()?, &scratch())?;
    let began = Instant::now();
    let mut nodes = Vec::new();
    for number in 0..DAEMONS {
        let (name, port) = (format!("n{number}"), 4001 + 10 * number as u16);
        let node = Node::new(&lab, &lab.hosts()[number % HOSTS], &name, binary, port, lab.dir().join(&name));
        node.init()?;
        if number % SHARDED == SHARDED - 1 {
            node.run(&["config", "set", "shards.count", "3"], PROMPT)?;
        }
        nodes.push(node);
    }
    start_all(&mut nodes)?;
    println!("        {DAEMONS} daemons run after {:.1} s", began.elapsed().as_secs_f64());

    let mut random = Random(File::open("/dev/urandom")?);
    let giver = random.below(DAEMONS)?;
    let input = lab.dir().join("input");
    files::random(&input, BYTES)?;
    let wanted = files::sha256(&input)?;
    let (_, reference) = nodes[giver].put(&input)?;
    let giver_status = announced(&nodes[giver])?;
    println!("        announced after {:.1} s: {}", began.elapsed().as_secs_f64(), giver_status["overlay"]);

    let mut order: Vec<usize> = (0..DAEMONS).filter(|number| *number != giver).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1)?);
    }
    // Those of the first half get, and are gone; the others get from what is left.
    let doomed = DAEMONS / 2;
    for (turn, &number) in order.iter().enumerate() {
        stop::check()?;
        let node = &mut nodes[number];
        let friends = node.status()?["gauges"]["friends"].as_f64();
        ensure!(friends == Some(0.0), "{} has friends: {friends:?}", node.name);
        got(&lab, node, &reference, &wanted, "out")?;
        if turn < AGAIN {
            let peers = node.dir.join("peers");
            ensure!(stop::until(PROMPT, || Ok(peers.exists()))?, "{} saves no peers", node.name);
        }
        if turn < doomed {
            node.kill();
        }
    }
    println!("        got everywhere after {:.1} s", began.elapsed().as_secs_f64());

    for &number in order.iter().take(AGAIN) {
        let node = &mut nodes[number];
        node.run(&["config", "set", "overlay.bootstrap", ""], PROMPT)?;
        node.start()?;
        got(&lab, node, &reference, &wanted, "again").context("with the peers that it had met alone")?;
    }
    println!(
        "        {AGAIN} came again by the peers that they had met, after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    damaged(&lab, &mut nodes, order[0], giver, &reference, &wanted)
}

/// A file of peers that is damaged is put aside, and the node enters otherwise.
fn damaged(
    lab: &Lab,
    nodes: &mut [Node],
    number: usize,
    giver: usize,
    reference: &str,
    wanted: &str,
) -> Result<()> {
    let invite = nodes[giver].invite()?;
    let node = &mut nodes[number];
    node.kill();
    let peers = node.dir.join("peers");
    std::fs::write(&peers, "tnpr, but nothing else")?;
    node.run(&["config", "set", "overlay.bootstrap", &invite], PROMPT)?;
    node.start()?;
    ensure!(peers.with_extension("bad").exists(), "the damaged file was not put aside");
    got(lab, node, reference, wanted, "anew").context("after its peers were damaged")
}

fn everybody_joined() -> Result<Description> {
    let name = |number: usize| format!("h{number}");
    let mut text = format!("hosts {}\n", (0..HOSTS).map(name).collect::<Vec<_>>().join(" "));
    for one in 0..HOSTS {
        (one + 1..HOSTS).for_each(|other| text.push_str(&format!("veth h{one}-h{other}\n")));
    }
    Description::parse(&text)
}

/// Starts them one after another: each knows one or two that came before it.
fn start_all(nodes: &mut [Node]) -> Result<()> {
    for number in 0..nodes.len() {
        stop::check()?;
        let mut entries: Vec<usize> = vec![number / 2, number / 3];
        entries.dedup();
        entries.retain(|entry| *entry < number);
        let invites = entries.iter().map(|entry| nodes[*entry].invite()).collect::<Result<Vec<_>>>()?;
        if !invites.is_empty() {
            nodes[number].run(&["config", "set", "overlay.bootstrap", &invites.join(",")], PROMPT)?;
        }
        nodes[number].start()?;
    }
    Ok(())
}

/// Waits until others keep records of all that a node provides.
fn announced(node: &Node) -> Result<serde_json::Value> {
    let mut last = serde_json::Value::Null;
    let done = stop::until(ANNOUNCED, || {
        last = node.status()?;
        let overlay = &last["overlay"];
        Ok(overlay["chunks_provided"].as_u64() > Some(0)
            && overlay["chunks_announced"] == overlay["chunks_provided"])
    })?;
    ensure!(done, "not announced within {ANNOUNCED:?}: {}", last["overlay"]);
    Ok(last)
}

fn got(lab: &Lab, node: &Node, reference: &str, wanted: &str, name: &str) -> Result<()> {
    let out = lab.dir().join(format!("{name}-{}", node.name));
    let words = ["get", reference, "-o", crate::lab::node::text(&out)?];
    node.run(&words, GOT).with_context(|| {
        let overlay = node.status().map(|status| status["overlay"].to_string());
        format!("{}: {}", node.name, overlay.unwrap_or_else(|error| error.to_string()))
    })?;
    ensure!(files::sha256(&out)? == wanted, "{}: the file differs", node.name);
    Ok(std::fs::remove_file(&out)?)
}

struct Random(File);

impl Random {
    fn below(&mut self, most: usize) -> Result<usize> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok((u64::from_le_bytes(bytes) % most as u64) as usize)
    }
}

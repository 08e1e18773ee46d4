//! Daemons of several shards.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::lab::{Lab, Node, files, node};

pub const CASES: &[Case] = &[Case {
    name: "shards",
    about: "daemons of three shards: gets on each of them at once, and after kill -9",
    run,
}];

const GETS: usize = 4;
const SIZE: u64 = 48 << 20;

fn run(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut a = Node::new(lab, lab.a(), "a", binary, 4001, lab.dir().join("node-a"));
    let mut b = Node::new(lab, lab.b(), "b", binary, 4011, lab.dir().join("node-b"));
    for node in [&mut a, &mut b] {
        node.init()?;
        node.run(&["config", "set", "shards.count", "3"], node::PROMPT)?;
        node.start()?;
    }
    a.befriend(&b)?;
    b.befriend(&a)?;
    a.meets(&b)?;
    let input = lab.dir().join("input");
    files::random(&input, SIZE)?;
    let (_, reference) = a.put(&input)?;
    let sum = files::sha256(&input)?;
    let outputs: Vec<_> = (0..GETS).map(|number| lab.dir().join(format!("out-{number}"))).collect();
    let mut gets = Vec::new();
    for output in &outputs {
        gets.push(b.launch(&["get", &reference, "-o", node::text(output)?])?);
    }
    for (get, output) in gets.iter_mut().zip(&outputs) {
        let status = get.wait(node::PATIENT)?;
        ensure!(status.success(), "a get failed: {}", get.stderr());
        ensure!(files::sha256(output)? == sum, "{} differs", output.display());
    }
    // The shards with the fewest gets took them, so each but the friend's home has opened a lane.
    let opened = counter(&b, "session_lanes_opened")?;
    ensure!(opened >= 1, "four gets at once on three shards opened {opened} lanes");
    ensure!(counter(&b, "shard_crossings_lost")? == 0, "messages between idle shards were lost");

    a.kill();
    a.start()?;
    b.meets(&a)?;
    let again = lab.dir().join("again");
    b.get(&reference, &again)?;
    ensure!(files::sha256(&again)? == sum, "{} differs", again.display());
    a.stop(Signal::SIGTERM)?;
    b.stop(Signal::SIGTERM)
}

fn counter(node: &Node, name: &str) -> Result<u64> {
    node.status()?["counters"][name].as_u64().with_context(|| format!("status --json has no counter {name}"))
}

//! Daemons that leave: what they publish is handed over, and friends have them stay.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Case, one_line};
use crate::lab::node::{PATIENT, PROMPT, pair, text};
use crate::lab::{Description, Lab, Node, files, scratch};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "leave",
        about: "what a node publishes is got from others after it left; it ends with status 0",
        run: leave,
    },
    Case {
        name: "leave-asked",
        about: "friends hear when a node leaves, and have it stay as far as it grants; taking it back",
        run: asked,
    },
];

const BYTES: u64 = 5 << 20;
/// What waiting for something of the overlay may take.
const KNOWN: Duration = Duration::from_secs(90);

/// Six strangers on two hosts; one puts and leaves, and another gets what is nowhere but with those that keep it.
fn leave(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = Lab::described(Description::parse("hosts h0 h1\nveth h0-h1\n")?, &scratch())?;
    let mut nodes = Vec::new();
    for number in 0..6u16 {
        let (name, host) = (format!("n{number}"), &lab.hosts()[usize::from(number) % 2]);
        let mut node = Node::new(&lab, host, &name, binary, 4001 + 10 * number, lab.dir().join(&name));
        node.init()?;
        if let Some(first) = nodes.first() {
            let first: &Node = first;
            node.run(&["config", "set", "overlay.bootstrap", &first.invite()?], PROMPT)?;
        }
        node.start()?;
        nodes.push(node);
    }
    let input = lab.dir().join("input");
    files::random(&input, BYTES)?;
    let wanted = files::sha256(&input)?;
    let (_, reference) = nodes[1].put(&input)?;
    until("the others keep records of what was put", || {
        let overlay = nodes[1].status()?["overlay"].take();
        Ok(overlay["chunks_provided"].as_u64() > Some(4)
            && overlay["chunks_announced"] == overlay["chunks_provided"])
    })?;
    let left = nodes[1].run(&["leave", "--in", "2m", "--early", "--wait"], PATIENT)?;
    println!("        {}", left.stderr.trim_end().lines().rev().take(2).collect::<Vec<_>>().join("; "));
    let mut daemon = nodes[1].take_daemon()?;
    let status = daemon.wait(PROMPT)?;
    ensure!(status.success(), "it left with {status}");
    let log = daemon.stderr();
    let line = log
        .lines()
        .find(|line| line.contains("leaving: handed over"))
        .context("its log does not say what it handed over")?;
    ensure!(!line.contains("were not"), "{line}");
    std::fs::remove_dir_all(&nodes[1].dir)?;
    let out = lab.dir().join("out");
    nodes[4].run(&["get", &reference, "-o", text(&out)?], PATIENT)?;
    ensure!(files::sha256(&out)? == wanted, "the file differs");
    Ok(())
}

/// What a node's status says of its only peer's intents.
fn intent(node: &Node) -> Result<Value> {
    let mut status = node.status()?;
    Ok(status["peers"][0]["intent"].take())
}

fn asked(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = pair(lab, binary)?;
    let (key, name) = (a.status()?["key"].clone(), "other");
    let invite = a.invite()?;
    b.run(&["friend", "add", &invite, "--name", name], PROMPT)?;
    a.run(&["online", "--for", "8h"], PROMPT)?;
    until("the friend hears how long it stays", || {
        Ok(intent(&b)?["stays_s"].as_u64().is_some_and(|left| (28_000..=28_800).contains(&left)))
    })?;
    a.run(&["leave", "--in", "5m"], PROMPT)?;
    until("the friend hears that it leaves", || {
        Ok(intent(&b)?["leaves_in_s"].as_u64().is_some_and(|left| (200..=300).contains(&left)))
    })?;
    let shown = b.run(&["status"], PROMPT)?.stdout;
    ensure!(shown.contains("leaves in"), "status does not say so of {key}:\n{shown}");
    // Nothing long begins any more.
    let input = lab.dir().join("input");
    files::random(&input, 1000)?;
    let line = one_line(&a.attempt(&["put", text(&input)?], PROMPT)?)?;
    ensure!(line.contains("leave --cancel"), "{line}");
    let granted = b.run(&["friend", "ask", name, "--stay", "8m"], PROMPT)?;
    ensure!(granted.stderr.contains("stays for"), "{}", granted.stderr);
    let left = a.status()?["leaving"]["in_s"].as_u64().context("it does not leave")?;
    ensure!((600..=780).contains(&left), "it leaves in {left} s");
    let line = one_line(&b.attempt(&["friend", "ask", name, "--stay", "8m"], PROMPT)?)?;
    ensure!(line.contains("at most"), "{line}");
    a.run(&["config", "set", "intents.grant_trust", "90"], PROMPT)?;
    let line = one_line(&b.attempt(&["friend", "ask", name, "--stay", "8m"], PROMPT)?)?;
    ensure!(line.ends_with("says no"), "{line}");
    a.run(&["leave", "--cancel"], PROMPT)?;
    until("the friend hears that it stays", || Ok(intent(&b)?["leaves_in_s"].is_null()))?;
    a.put(&input)?;
    // At its time it goes, and hands over nothing, since nobody keeps for it.
    a.run(&["leave", "--in", "2s", "--wait"], PATIENT)?;
    let status = a.take_daemon()?.wait(PROMPT)?;
    ensure!(status.success(), "it left with {status}");
    Ok(())
}

fn until(what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    ensure!(stop::until(KNOWN, is_so)?, "not within {KNOWN:?}: {what}");
    Ok(())
}

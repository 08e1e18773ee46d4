//! `cargo xtask bench soak`: applications of every kind through a circuit of three hops and through a tunnel to a friend, at
//! once and for long: what failed, how long the worst answer took, and whether the daemons grew.
//!
//! ```text
//! o ─┬─ r1 ─┐         o: all applications; r1: the friend at the tunnel's other end, and a relay
//!    ├─ r2 ─┼─ x ─ w  w: servers that only the exit reaches
//!    └─ r3 ─┘
//! ```

mod flows;
mod servers;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::flows::{Flow, Kind, Tally};
use super::machine;
use crate::args::Args;
use crate::e2e::onion::Scene;
use crate::e2e::tunnel::id_of;
use crate::lab::{Host, node};
use crate::{setup, sh, stop};

/// The friend's address in the tunnel.
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// By how much a daemon may grow after its first tenth of the time, bytes.
const GROWTH_MAX: u64 = 8 << 20;
/// Of datagrams, pings and questions, how many may be lost: circuits change under them.
const LOST_MAX: f64 = 0.001;
/// The longest that a connection may wait for an answer.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let seconds = match args.number("--seconds", 0)? {
        0 => 60 * args.number("--minutes", 60)?,
        seconds => seconds,
    };
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    let judge = !args.flag("--no-judge");
    args.finish()?;
    ensure!(seconds >= 10, "--minutes or --seconds: at least 10 s");
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    servers::nginx()?;
    stop::listen();
    let about = machine::describe();
    println!("{}", machine::line(&about));
    let mut scene = scene(&binary)?;
    let length = Duration::from_secs(seconds);
    let origin = scene.lab.hosts()[0].clone();
    let mut flows = Vec::new();
    for (way, address) in [("circuit", scene.lab.hosts()[5].address), ("tunnel", FRIEND)] {
        for kind in Kind::ALL {
            flows.push(Flow::start(kind, way, &origin, address, scene.lab.dir(), length)?);
        }
    }
    let memory = |scene: &mut Scene| {
        let each = |one: &mut crate::lab::Node| one.daemon()?.anonymous_memory();
        scene.nodes.iter_mut().map(each).collect::<Result<Vec<u64>>>()
    };
    let began = Instant::now();
    wait(began, length / 10)?;
    let before = memory(&mut scene)?;
    wait(began, length)?;
    let after = memory(&mut scene)?;
    let tallies = flows.into_iter().map(Flow::end).collect::<Result<Vec<Tally>>>()?;
    let opened =
        scene.nodes[0].status()?["counters"]["circuits_opened"].as_u64().context("circuits_opened")?;
    let names = scene.nodes.iter().map(|node| node.name.clone());
    let grown: Vec<(String, u64, u64)> =
        names.zip(before.iter().zip(&after)).map(|(name, (a, b))| (name, *a, *b)).collect();
    show(&tallies, &grown, opened, length);
    if let Some(file) = json {
        let rows: Vec<Value> = tallies.iter().map(Tally::json).collect();
        let text = json!({
            "machine": about, "seconds": seconds, "flows": rows, "circuits_opened": opened, "memory": grown,
        });
        std::fs::write(&file, text.to_string()).with_context(|| file.display().to_string())?;
    }
    let faults = faults(&tallies, &grown);
    ensure!(!judge || faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn wait(began: Instant, until: Duration) -> Result<()> {
    // Somebody who asks to end hears how it went until then.
    while began.elapsed() < until && !stop::requested() {
        std::thread::sleep(Duration::from_millis(200));
    }
    stop::check()
}

/// Relays, an exit, a circuit, and a tunnel to one of the relays; servers behind both.
fn scene(binary: &std::path::Path) -> Result<Scene> {
    let scene = Scene::new(binary, 1)?;
    let (origin, friend) = (&scene.nodes[0], &scene.nodes[1]);
    let web: Host = scene.lab.hosts()[5].clone();
    scene.open(&format!("{}/32", scene.web))?;
    scene.up("3")?;
    let [own, other] = [id_of(origin)?, id_of(friend)?];
    origin.run(&["tunnel", "up", "--peer", &other, "--addr", "10.9.0.1/24"], node::PROMPT)?;
    friend.run(&["tunnel", "up", "--peer", &own, "--addr", &format!("{FRIEND}/24")], node::PROMPT)?;
    let (near, dir) = (friend.host.clone(), scene.lab.dir());
    servers::start(&web, web.address, dir)?;
    servers::start(&near, FRIEND, dir)?;
    Ok(scene)
}

fn show(tallies: &[Tally], grown: &[(String, u64, u64)], opened: u64, length: Duration) {
    println!("\n{} s, {opened} circuits one after the other\n", length.as_secs());
    println!(
        "| by | application | tries | failed or lost | p50 ms | p99 ms | worst ms | MB |\n|---|---|--:|--:|--:|--:|--:|--:|"
    );
    for tally in tallies {
        println!("{tally}");
    }
    println!("\n| daemon | MiB of its own memory after a tenth of the time | at the end |\n|---|--:|--:|");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, before, after) in grown {
        println!("| {name} | {:.1} | {:.1} |", mib(*before), mib(*after));
    }
}

fn faults(tallies: &[Tally], grown: &[(String, u64, u64)]) -> Vec<String> {
    let mut faults: Vec<String> =
        tallies.iter().filter_map(|tally| tally.fault(LOST_MAX, WAIT_MAX)).collect();
    let too_much = grown.iter().filter(|(_, before, after)| *after > before + GROWTH_MAX);
    faults.extend(too_much.map(|(name, before, after)| format!("{name} grew by {} bytes", after - before)));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_grows_is_a_fault() {
        let grown = |after| faults(&[], &[("o".into(), 10 << 20, after)]);
        assert_eq!(grown(17 << 20), [""; 0]);
        assert_eq!(grown(19 << 20).len(), 1);
        assert_eq!(grown(1 << 20), [""; 0]);
    }
}

//! `cargo xtask bench relay`: what a relay's daemon costs per Gbit that it passes on, beside the sum of what no relay can leave
//! out, measured in the same run (docs/benchmarks.md).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::onion::{self, Path};
use super::plane::{self, Tools, Two};
use super::report::median;
use super::{floor, machine, ratio};
use crate::args::Args;
use crate::lab::{Description, Lab, Node, Wiring, scratch};
use crate::{able, setup, sh, stop};

/// UDP payload of a large cell, bytes (docs/protocol/onion.md), and what of it is an IP packet.
const CELL: u64 = 1452;
const INNER: f64 = 1296.0;
/// Sealing and opening that a relay cannot leave out: the neighbour's packet, its own layer, the next neighbour's packet.
const OPENED: f64 = 2.0;
const SEALED: f64 = 1.0;
/// Gbit of what the download had, to Gbit of UDP payload: TCP and IP headers are the circuit's load too.
const TCP_PAYLOAD: f64 = INNER - 52.0;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let runs = args.number("--runs", 5)?.max(1);
    let seconds = args.number("--seconds", 4)?.clamp(1, 60);
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let tools = Tools::build(tool, false)?;
    let binary = sh::binary_or_build(binary)?;
    stop::listen();
    let about = machine::describe();
    println!("{}", machine::line(&about));
    let length = Duration::from_secs(seconds);

    let pair = Lab::new(Wiring::Namespaces, &scratch())?;
    let lab = Lab::described(Description::parse(onion::HOSTS)?, &scratch())?;
    onion::serve(&lab.hosts()[4])?;
    let (mut path, nodes) = onion::tornet(&lab, &binary)?;
    onion::download(&lab, &path, 1, Duration::from_secs(2))?;
    let mut all = Vec::new();
    for run in 1..=runs {
        stop::check()?;
        let aead = plane::aead(&pair, &tools, CELL)?;
        let raw = plane::pair(&pair, &tools, "raw", 2, CELL)?;
        let one = Run { aead, raw, relay: relay(&lab, &mut path, &nodes, length)? };
        eprintln!(
            "  run {run}: {:.3} Gbit/s, {:.4} CPU s/Gbit, floor {:.4}",
            one.relay.gbit / one.relay.seconds,
            one.relay.cost(),
            one.floor()
        );
        all.push(one);
    }
    show(&all);
    if let Some(path) = json {
        let runs: Vec<Value> = all.iter().map(Run::json).collect();
        floor::write(&path, &json!({ "machine": about, "seconds": seconds, "runs": runs }))?;
    }
    Ok(())
}

/// What the middle relay did in one download.
struct Relay {
    /// Of UDP payload that it passed on.
    gbit: f64,
    seconds: f64,
    cpu: f64,
    /// Counters of its daemon: what changed.
    packets: f64,
    enters: f64,
    crossings: f64,
}

impl Relay {
    fn cost(&self) -> f64 {
        self.cpu / self.gbit
    }
}

struct Run {
    /// Sealing and opening, CPU seconds per Gbit.
    aead: [f64; 2],
    raw: Two,
    relay: Relay,
}

impl Run {
    /// Of the sockets: each datagram comes in, and goes out.
    fn sockets(&self) -> f64 {
        self.raw.cost()
    }

    fn crypto(&self) -> f64 {
        SEALED * self.aead[0] + OPENED * self.aead[1]
    }

    fn floor(&self) -> f64 {
        self.sockets() + self.crypto()
    }

    fn json(&self) -> Value {
        let Relay { gbit, seconds, cpu, packets, enters, crossings } = &self.relay;
        json!({
            "sockets": self.sockets(), "aead": self.crypto(), "floor": self.floor(),
            "gbit": gbit, "seconds": seconds, "cpu_seconds": cpu, "packets": packets, "system_calls": enters,
            "crossings": crossings,
        })
    }
}

/// One download through the circuit, and what it was to the middle relay.
fn relay(lab: &Lab, path: &mut Path, nodes: &[Node], length: Duration) -> Result<Relay> {
    let counters = || -> Result<[f64; 3]> {
        let status = nodes[2].status()?;
        let of = |name: &str| status["counters"][name].as_f64().with_context(|| format!("no counter {name}"));
        Ok([of("node_datagrams_received")?, of("shard_enters")?, of("node_crossings_sent")?])
    };
    let cpu = |path: &Path| path.processes[2].cpu_seconds();
    let (counted, before, began) = (counters()?, cpu(path)?, Instant::now());
    let bytes = onion::download(lab, path, 1, length)?;
    let (after, seconds, now) = (cpu(path)?, began.elapsed().as_secs_f64(), counters()?);
    ensure!(bytes > 0.0, "nothing came");
    let new = |at: usize| now[at] - counted[at];
    Ok(Relay {
        gbit: bytes * 8.0 / 1e9 * CELL as f64 / TCP_PAYLOAD,
        seconds,
        cpu: after - before,
        packets: new(0),
        enters: new(1),
        crossings: new(2),
    })
}

fn show(all: &[Run]) {
    let of = |what: &dyn Fn(&Run) -> f64| median(all.iter().map(what));
    let (sockets, crypto, floor) = (of(&Run::sockets), of(&Run::crypto), of(&Run::floor));
    let cost = of(&|run| run.relay.cost());
    println!("\nthe middle one of three relays, per Gbit of UDP payload that it passes on\n");
    println!("| | CPU s/Gbit | ÷ floor |\n|---|--:|--:|");
    println!("| sockets, in and out | {sockets:.4} | {} |", ratio(sockets, Some(floor)));
    println!("| AEAD: open, open a layer, seal | {crypto:.4} | {} |", ratio(crypto, Some(floor)));
    println!("| floor | {floor:.4} | 1.00 |");
    println!("| relay | {cost:.4} | {:.2} |", of(&|run| run.relay.cost() / run.floor()));
    let per = |what: fn(&Relay) -> f64| of(&|run| what(&run.relay) * 1e6 / run.relay.packets);
    println!(
        "\n{:.2} Gbit/s; per million datagrams that came: {:.0} system calls, {:.0} messages to other shards",
        of(&|run| run.relay.gbit / run.relay.seconds),
        per(|relay| relay.enters),
        per(|relay| relay.crossings)
    );
    println!(
        "All five hosts of the path share this machine's cores, so a relay has its turn with small batches and cold caches."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_a_datagram_in_and_out_and_three_passes_of_the_cipher() {
        let relay = Relay { gbit: 2.0, seconds: 1.0, cpu: 0.2, packets: 10.0, enters: 1.0, crossings: 0.0 };
        let run = Run { aead: [0.02, 0.03], raw: Two::example(10.0, 0.01, 0.005), relay };
        assert!((run.floor() - (0.015 + 0.02 + 2.0 * 0.03)).abs() < 1e-9);
        assert!((run.relay.cost() - 0.1).abs() < 1e-9);
    }
}

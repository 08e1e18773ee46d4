//! `cargo xtask bench scale`: what a second shard costs. The same load, given by caps, is served by a daemon of one shard and by one of
//! two, in turn (docs/benchmarks.md).

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::limits::run::{Bench, Load};
use super::report::median;
use super::{floor, machine};
use crate::args::Args;
use crate::{able, setup, sh};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let runs = args.number("--runs", 5)?.max(1);
    let seconds = args.number("--seconds", 5)?.max(2);
    let sessions = args.number("--sessions", 64)?.clamp(2, 1000) as usize;
    let mbit = args.number("--mbit", 800)?.clamp(1, 100_000);
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let tool = tool.map_or_else(|| sh::build_example("shaped"), Ok)?;
    let binary = sh::binary_or_build(binary)?;
    let about = machine::describe();
    println!("{}", machine::line(&about));
    let mut all: Vec<[One; 2]> = Vec::new();
    for run in 1..=runs {
        let measure = |shards: usize| -> Result<One> {
            let mut bench = Bench::new(&binary, &tool, sessions, &[("shards.count", &shards.to_string())])?;
            bench.limit(|_| format!("up={}bit", mbit * 1_000_000 / sessions as u64))?;
            bench.start()?;
            let before = crossings(&bench.status()?);
            let took = bench.run(&Load { seconds, probes: 0, alternate: false })?;
            let bits = took.log.iter().map(|came| came.bytes as f64).sum::<f64>() * 8.0;
            let first = took.ports.first().copied().unwrap_or(0);
            let elsewhere = took.ports.iter().filter(|port| **port != first).count();
            ensure!((shards == 1) == (elsewhere == 0), "{shards} shards, and {elsewhere} sessions elsewhere");
            Ok(One {
                gbit: bits / 1e9 / (took.length_ns as f64 / 1e9),
                cores: took.daemon,
                crossings: (crossings(&bench.status()?) - before) / took.log.len() as f64,
            })
        };
        let both = [measure(1)?, measure(2)?];
        eprintln!("  run {run}: {:.4} and {:.4} CPU s/Gbit", both[0].cost(), both[1].cost());
        all.push(both);
    }
    println!(
        "\n{sessions} sessions that are served {mbit} Mbit/s together, caps apart, by one shard and by two\n"
    );
    println!(
        "| shards | Gbit/s | CPU s/Gbit | ÷ one | messages between shards per datagram |\n|--:|--:|--:|--:|--:|"
    );
    let of = |at: usize, what: fn(&One) -> f64| median(all.iter().map(|both| what(&both[at])));
    for at in [0, 1] {
        let (gbit, cost, crossings) =
            (of(at, |one| one.gbit), of(at, One::cost), of(at, |one| one.crossings));
        let ratio = median(all.iter().map(|both| both[at].cost() / both[0].cost()));
        println!("| {} | {gbit:.3} | {cost:.4} | {ratio:.2} | {crossings:.4} |", at + 1);
    }
    println!(
        "\nThe load shares the second shard's core, so how much more two shards can carry is not seen here."
    );
    if let Some(path) = json {
        let runs: Vec<Value> = all.iter().map(|both| json!(both.each_ref().map(One::json))).collect();
        floor::write(&path, &json!({ "machine": about, "sessions": sessions, "mbit": mbit, "runs": runs }))?;
    }
    Ok(())
}

/// A daemon under the load.
struct One {
    /// Gbit/s on the wire.
    gbit: f64,
    /// Cores that the daemon used.
    cores: f64,
    /// Messages between shards per datagram on the wire, those of meeting included.
    crossings: f64,
}

impl One {
    /// CPU seconds per Gbit.
    fn cost(&self) -> f64 {
        self.cores / self.gbit
    }

    fn json(&self) -> Value {
        json!({ "gbit_per_second": self.gbit, "cpu_seconds_per_gbit": self.cost(), "crossings": self.crossings })
    }
}

fn crossings(status: &Value) -> f64 {
    status["counters"]["node_crossings_sent"].as_f64().unwrap_or(0.0)
}

//! The overlay's runs of docs/overlay.md: prints a table, and with `--json` the same for programs.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock")]

mod plot;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use tornet::overlay::Manner;
use tornet::sim::overlay::scenarios::{self, Report};
use tornet::sim::overlay::{Settings, attacks, million};

/// Thousands of overlay cores under a virtual clock, or the lookup alone among a million places.
#[derive(Parser)]
struct Flags {
    /// What to run.
    run: Run,
    /// Nodes.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Lookups (of each kind).
    #[arg(long, default_value_t = 4_000)]
    lookups: usize,
    /// Virtual minutes with churn.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of hostile nodes, percent.
    #[arg(long, default_value_t = 20.0)]
    hostile: f64,
    /// Times the honest hash power that the attacker of one key has; several by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 1.0, 3.0, 10.0, 30.0, 100.0])]
    power: Vec<f64>,
    /// The part of the key's region into which the attacker goes, at most 1: nearer costs more.
    #[arg(long, default_value_t = 1.0)]
    part: f64,
    /// Of hostile nodes, only this kind.
    #[arg(long)]
    role: Option<String>,
    /// Addresses of a flood; several by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 24, 100])]
    sites: Vec<usize>,
    /// Chunks of one publisher.
    #[arg(long, default_value_t = 100_000)]
    chunks: usize,
    /// Wall clocks are wrong by so many seconds at most.
    #[arg(long, default_value_t = 0)]
    skew: u64,
    /// Without early data: a handshake is a round trip of its own.
    #[arg(long)]
    no_early: bool,
    /// What `hops` or `popularity` printed with `--json`, to be drawn.
    #[arg(long, required_if_eq("run", "plot"))]
    from: Option<PathBuf>,
    /// The picture.
    #[arg(long, required_if_eq("run", "plot"))]
    svg: Option<PathBuf>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Run {
    /// Half of the network replaced per hour.
    Steady,
    /// A fifth of the nodes silent, lying, steering, misleading, forging, aiming.
    Hostile,
    /// An attacker around one key.
    Eclipse,
    /// Throw-away identities that announce one key.
    Flood,
    /// A node that enters among attackers.
    Join,
    /// One publisher of many chunks.
    Publish,
    /// Everybody wants one chunk.
    Flash,
    /// An hour apart, then together.
    Partition,
    /// All at once from two friends.
    Bootstrap,
    /// The lookup alone: hops by size.
    Hops,
    /// The lookup alone: hops by popularity.
    Popularity,
    /// A picture of one of the last two.
    Plot,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = Flags::parse();
    if let (Run::Plot, Some(from), Some(svg)) = (flags.run, &flags.from, &flags.svg) {
        return plot::draw(from, svg);
    }
    let skew = Duration::from_secs(flags.skew);
    let settings = Settings { early: !flags.no_early, skew, ..Settings::new(flags.seed) };
    let nodes = u32::try_from(flags.nodes).unwrap_or(u32::MAX);
    let begun = Instant::now();
    let reports = match flags.run {
        Run::Steady => {
            let time = Duration::from_secs(60 * flags.minutes);
            vec![scenarios::steady(flags.nodes, flags.lookups, time, settings)]
        }
        Run::Hostile => {
            let is_wanted = |name: &str| flags.role.as_ref().is_none_or(|role| role == name);
            let roles: Vec<_> = attacks::ROLES.iter().copied().filter(|(name, _)| is_wanted(name)).collect();
            let share = flags.hostile / 100.0;
            vec![attacks::hostile(flags.nodes, flags.lookups, share, &roles, settings)]
        }
        Run::Eclipse => {
            vec![attacks::eclipse(flags.nodes, flags.lookups, &flags.power, flags.part, settings)]
        }
        Run::Flood => vec![attacks::flood(flags.nodes, flags.lookups, &flags.sites, settings)],
        Run::Join => vec![attacks::join(flags.nodes, flags.lookups, &flags.power, settings)],
        Run::Publish => vec![scenarios::publishing(flags.nodes, flags.chunks, settings)],
        Run::Flash => [Manner::Far { stride: 1 }, Manner::Near]
            .map(|manner| scenarios::flash_crowd(flags.nodes, manner, settings))
            .into(),
        Run::Partition => vec![scenarios::partition(flags.nodes, settings)],
        Run::Bootstrap => vec![scenarios::bootstrap(flags.nodes, settings)],
        Run::Hops => {
            let sizes = [1_000, 10_000, 100_000, 1_000_000].map(|size: u32| size.min(nodes));
            let mut sizes = sizes.to_vec();
            sizes.dedup();
            vec![million::sizes(&sizes, flags.lookups, flags.seed)]
        }
        Run::Plot => Vec::new(),
        Run::Popularity => vec![
            million::copies(nodes, flags.lookups, flags.seed),
            million::popularity(nodes, 10, 12, flags.seed),
        ],
    };
    let print = if flags.json { json } else { table };
    reports.iter().for_each(print);
    eprintln!("{:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn table(report: &Report) {
    println!(
        "{}\n\n| | {} |\n|---|{}",
        report.title,
        report.columns.join(" | "),
        "--:|".repeat(report.columns.len())
    );
    for (name, values) in &report.rows {
        let values: Vec<String> = values.iter().map(|value| shown(*value)).collect();
        println!("| {name} | {} |", values.join(" | "));
    }
    println!();
}

fn shown(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".to_owned(),
        value if value.abs() >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn json(report: &Report) {
    let row = |(name, values): &(String, Vec<f64>)| {
        let values: Map<String, Value> = report
            .columns
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        json!({ "name": name, "values": values })
    };
    println!("{}", json!({ "title": report.title, "rows": report.rows.iter().map(row).collect::<Vec<_>>() }));
}

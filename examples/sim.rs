//! Runs seeds of the simulator on all cores and prints what came of them: `cargo xtask sim` builds and starts it.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and keeps threads")]

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Parser;
use tornet::sim::effects::Effect;
use tornet::sim::scenario::{Canary, Excuse, Options, Outcome, Statistics, light, run};

/// Random networks with everything that can go wrong, under a virtual clock.
#[derive(Parser)]
struct Flags {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; alone, the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes in each run, 2 to 12 by default, as the seed says.
    #[arg(long, value_parser = nodes)]
    nodes: Option<usize>,
    /// Print what happens, a line each. With --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant a mistake: ack-before-sync, rename-before-sync, drop-timers, skip-verify, finish-after-failure.
    #[arg(long)]
    canary: Option<String>,
    /// All nodes take part in the overlay (docs/testing/simulator.md).
    #[arg(long)]
    overlay: bool,
    /// Begin no seed after so many minutes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Run each seed twice and compare the hashes.
    #[arg(long)]
    twice: bool,
    /// A thousand nodes (or --nodes) with little to do, to see how fast virtual time goes by.
    #[arg(long)]
    light: bool,
    /// Do not judge how fast --light goes.
    #[arg(long)]
    no_judge: bool,
}

/// A thousand nodes with little to do go so many times as fast as real time, at least.
const LIGHT_RATIO_MIN: f64 = 10.0;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let canary = match flags.canary.as_deref().map(canary) {
        None => None,
        Some(Some(canary)) => Some(canary),
        Some(None) => {
            eprintln!(
                "sim: no canary of that name; there are: {}",
                Canary::ALL.map(|(name, _)| name).join(", ")
            );
            return ExitCode::FAILURE;
        }
    };
    if flags.seed.unwrap_or(0).checked_add(flags.seeds).is_none() {
        eprintln!("sim: there are no so many seeds above --seed");
        return ExitCode::FAILURE;
    }
    if flags.light {
        return run_light(&flags);
    }
    let options = Options { nodes: flags.nodes, canary, overlay: flags.overlay };
    // A lone --seed is a replay of it.
    let is_replay = flags.seed.is_some() && !std::env::args().any(|word| word.starts_with("--seeds"));
    let first = flags.seed.unwrap_or(0);
    let count = if is_replay { 1 } else { flags.seeds };
    if flags.trace {
        return report(&flags, 1, Duration::ZERO, [traced(first, options)]);
    }
    let begun = Instant::now();
    let deadline = flags.minutes.map(|minutes| begun + Duration::from_secs(60 * minutes));
    let (next, outcomes) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let worker = || {
            while let seed = next.fetch_add(1, Relaxed)
                && seed < first + count
                && deadline.is_none_or(|deadline| Instant::now() < deadline)
            {
                let outcome = outcome(seed, options, flags.twice);
                if !outcome.failures.is_empty() {
                    eprintln!("seed {seed}: {}", outcome.failures[0]);
                }
                outcomes.lock().expect("nobody panics with it").push(outcome);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
        (0..threads).for_each(|_| {
            scope.spawn(worker);
        });
    });
    let outcomes = outcomes.into_inner().expect("nobody panics with it");
    report(&flags, count, begun.elapsed(), outcomes)
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 2..=100_000) => Ok(count),
        _ => Err("a number from 2 to 100000".into()),
    }
}

fn canary(name: &str) -> Option<Canary> {
    Canary::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, canary)| canary)
}

/// One seed. A panic in it is a failure like any other.
fn outcome(seed: u64, options: Options, twice: bool) -> Outcome {
    let once = || {
        catch_unwind(AssertUnwindSafe(|| run(seed, options, None))).unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| (*what).to_owned()));
            let failures = vec![format!("panicked: {}", what.unwrap_or_default())];
            Outcome { seed, failures, ..Outcome::default() }
        })
    };
    let mut outcome = once();
    if twice && outcome.failures.is_empty() && once().hash != outcome.hash {
        outcome.failures.push("the second run of it went another way".into());
    }
    outcome
}

fn traced(seed: u64, options: Options) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    run(
        seed,
        options,
        // A reader that has seen enough ends the pipe; the run goes on to its verdict.
        Some(Box::new(move |line| drop(writeln!(out, "{line}")))),
    )
}

fn report(
    flags: &Flags,
    wanted: u64,
    wall: Duration,
    outcomes: impl IntoIterator<Item = Outcome>,
) -> ExitCode {
    let mut all = Statistics::default();
    outcomes.into_iter().for_each(|outcome| all.add(&outcome));
    all.failed.sort();
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let cut = if all.seeds < wanted { format!("   of {wanted}: the time was over") } else { String::new() };
    println!("seeds            {:>12}{cut}", all.seeds);
    println!("  failed         {:>12}", all.failed.len());
    println!("gets             {:>12}", all.attempted);
    println!("  complete       {:>12}", all.complete);
    for (excuse, what) in Excuse::ALL {
        println!("  excused        {:>12}   {what}", all.excused.get(&excuse).unwrap_or(&0));
    }
    println!("  unfinished     {:>12}", all.unfinished);
    println!("  not run again  {:>12}   complete before; no path leads there any more", all.kept);
    let starts: Vec<_> = all.starts.iter().map(|(starts, gets)| format!("{gets}×{starts}")).collect();
    println!("  starts         {:>12}   after the healing: gets × starts", starts.join(" "));
    println!("  failed late    {:>12}   after the healing, the last start that failed", seconds(all.late));
    println!("lures            {:>12}   damaged references, hostile trees", all.lures);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        println!("get time {name}     {:>12}   faults included", seconds(all.get_time(share)));
    }
    println!("events           {:>12}   {} at the busiest instant", all.events, all.busiest);
    println!("virtual time     {:>12}", seconds(all.time));
    if !wall.is_zero() {
        let ratio = all.time.as_secs_f64() / wall.as_secs_f64();
        println!("wall time        {:>12}   virtual time goes {ratio:.0} times as fast", seconds(wall));
    }
    println!("hash of all      {}", all.hash());
    println!("what faults did");
    for (effect, what) in Effect::ALL {
        println!("  {:>13}   {what}", all.effects.of(*effect));
    }
    let hollow = if flags.canary.is_none() { all.hollow() } else { Vec::new() };
    hollow.iter().for_each(|what| println!("these seeds say little: {what}"));
    for (seed, failures) in &all.failed {
        println!("\nseed {seed} failed; see it again: cargo xtask sim --seed {seed}{} --trace", again(flags));
        failures.iter().for_each(|what| println!("  {what}"));
    }
    if all.failed.is_empty() && hollow.is_empty() && all.seeds > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The flags that change what a seed means.
fn again(flags: &Flags) -> String {
    let nodes = flags.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
    let canary = flags.canary.as_ref().map(|name| format!(" --canary {name}")).unwrap_or_default();
    nodes + &canary + if flags.overlay { " --overlay" } else { "" }
}

fn run_light(flags: &Flags) -> ExitCode {
    let begun = Instant::now();
    let count = flags.nodes.unwrap_or(1000);
    let done = light(flags.seed.unwrap_or(0), count, Duration::from_secs(120));
    let wall = begun.elapsed();
    let ratio = done.time.as_secs_f64() / wall.as_secs_f64();
    let (gets, complete) = done.gets;
    println!("{count} nodes, {gets} gets of which {complete} are complete, {} events", done.events);
    println!("{} things happened at the busiest instant", done.busiest);
    println!(
        "{:.0} s of virtual time in {:.1} s: {ratio:.1} times real time",
        done.time.as_secs_f64(),
        wall.as_secs_f64()
    );
    println!("hash of all      {}", done.hash);
    let slow = ratio < LIGHT_RATIO_MIN && !flags.no_judge;
    if slow {
        println!(
            "too slow: at least {LIGHT_RATIO_MIN} times real time is wanted (--no-judge on a busy machine)"
        );
    }
    if gets == complete && gets > 0 && !slow { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

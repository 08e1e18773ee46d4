//! `cargo xtask crash`: real daemons that die at bad moments, and what must be left of them
//! (docs/testing/crash.md).
//!
//! `kill`: kill -9 at random moments. `points`: death before each system call. `power`: a disk that kept only
//! what was synced, and any part of the rest.

mod content;
mod disk;
mod journal;
mod kill;
mod player;
mod points;
mod power;
mod record;
mod rng;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::able::{self, NAMESPACES, TRACING};
use crate::args::Args;
use crate::lab::{Lab, Wiring, scratch};
use crate::{setup, sh, stop};

/// The seed of CI and of whoever names none.
const SEED: u64 = 1;

/// What to run.
pub struct Options {
    binary: PathBuf,
    parts: Vec<String>,
    rounds: u64,
    seed: u64,
    keep: bool,
    /// One round, point or cut alone.
    at: Option<String>,
    quick: bool,
}

impl Options {
    /// A few rounds of everything, for CI.
    pub fn quick(binary: PathBuf) -> Options {
        Options { binary, parts: Vec::new(), rounds: 4, seed: SEED, keep: false, at: None, quick: true }
    }
}

/// A part: its name, what it does, and how.
type Part = (&'static str, &'static str, fn(&mut Run<'_>) -> Result<String>);

const PARTS: &[Part] = &[
    ("kill-put", "kill -9 of the daemon or the command line during `put`", kill::put),
    ("kill-get", "kill -9 of either daemon or the command line during `get`", kill::get),
    ("points-put", "death before each system call of a daemon that puts", points::put),
    ("points-get", "death before each system call of a daemon that gets", points::get),
    ("points-start", "death before each system call of a first start", points::start),
    ("power-put", "power loss of the node that puts", power::publisher),
    ("power-get", "power loss of the node that gets", power::getter),
];

/// One part as it runs.
pub struct Run<'a> {
    lab: Lab,
    binary: &'a Path,
    rounds: u64,
    seed: u64,
    at: Option<String>,
    /// A sample of what can be enumerated.
    quick: bool,
}

impl Run<'_> {
    /// Randomness of one round of one purpose.
    fn rng(&self, what: &str, round: u64) -> rng::Rng {
        rng::Rng::new(self.seed, what, round)
    }

    /// What runs a failed round, point or moment again.
    fn again(&self, part: &str, at: Option<&str>, rounds: u64) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        let at = at.map(|at| format!(" --at {at}")).unwrap_or_default();
        format!("again: cargo xtask crash {part} --seed {} --rounds {rounds}{quick}{at} --keep", self.seed)
    }
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let keep = args.flag("--keep");
    let binary = args.value("--binary")?.map(PathBuf::from);
    let rounds = args.number("--rounds", 50)?;
    let seed = args.number("--seed", SEED)?;
    let at = args.value("--at")?;
    let quick = args.flag("--quick");
    let parts: Vec<String> = std::iter::from_fn(|| args.word()).collect();
    args.finish()?;
    setup::ensure()?;
    run(&Options { binary: sh::binary_or_build(binary)?, parts, rounds, seed, keep, at, quick })
}

/// Runs the parts that were asked for; all of them, also after one fails.
pub fn run(options: &Options) -> Result<()> {
    able::ensure(&[NAMESPACES, TRACING])?;
    ensure!(options.rounds > 0, "--rounds 0 shows nothing");
    stop::listen();
    let asked = |name: &str| {
        options.parts.is_empty()
            || options.parts.iter().any(|part| part == name || name.starts_with(&format!("{part}-")))
    };
    let chosen: Vec<&Part> = PARTS.iter().filter(|(name, ..)| asked(name)).collect();
    let names = || PARTS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    ensure!(!chosen.is_empty(), "no such part; there are {}", names());
    if let Some(at) = &options.at {
        let [(name, ..)] = chosen[..] else { bail!("--at {at} belongs to one part; there are {}", names()) };
        ensure!(!name.starts_with("kill"), "--at: a round of {name} stands on those before it; see --rounds");
    }
    let mut failed = Vec::new();
    for (name, about, act) in chosen {
        stop::check()?;
        let start = Instant::now();
        let mut run = Run {
            lab: Lab::new(Wiring::Namespaces, &scratch())?,
            binary: &options.binary,
            rounds: options.rounds,
            seed: options.seed,
            at: options.at.clone(),
            quick: options.quick,
        };
        let result = act(&mut run);
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(figures) => println!("ok      {name:<12} {took:>6.1} s  {about}: {figures}"),
            Err(error) => {
                println!("FAILED  {name:<12} {took:>6.1} s  {about}: {error:#}");
                crate::e2e::show_logs(&run.lab);
                failed.push(*name);
                if options.keep {
                    println!("its lab stays in {} until Ctrl-C", run.lab.dir().display());
                    let _ = stop::until(std::time::Duration::MAX, || Ok(false));
                }
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// A failed round with what runs it again.
fn again<T>(result: Result<T>, part: &str, run: &Run<'_>, upto: u64) -> Result<T> {
    result.with_context(|| format!("round {upto}; {}", run.again(part, None, upto)))
}

//! `cargo xtask e2e`: real daemons in network namespaces, and what happens to them: files that arrive,
//! processes that are killed, disks that fill, strangers that knock. Each case has a lab of its own.

pub mod bridge;
mod devices;
mod faults;
mod hostile;
mod introductions;
mod leaving;
mod limits;
mod links;
mod moving;
mod nat;
pub mod onion;
mod overlay;
mod resume;
mod shards;
mod store;
mod stranger;
mod syncs;
pub mod tunnel;
mod wire;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::able::{self, NAMESPACES, TRACING, TUN};
use crate::args::Args;
use crate::lab::{Finished, Lab, Wiring, scratch};
use crate::{setup, sh, stop};

/// One case.
pub struct Case {
    name: &'static str,
    /// What must hold.
    about: &'static str,
    run: fn(&mut Lab, &Path) -> Result<()>,
}

/// Every case, in order.
fn cases() -> impl Iterator<Item = &'static Case> {
    let all = [
        moving::CASES,
        resume::CASES,
        shards::CASES,
        faults::CASES,
        store::CASES,
        syncs::CASES,
        limits::CASES,
        links::CASES,
        devices::CASES,
        stranger::CASES,
        tunnel::CASES,
        wire::CASES,
        onion::CASES,
        onion::walls::CASES,
        onion::beside::CASES,
        onion::multipath::CASES,
        onion::socks::CASES,
        onion::hidden::CASES,
        onion::giving::CASES,
        introductions::CASES,
        overlay::CASES,
        leaving::CASES,
        nat::CASES,
        bridge::CASES,
        hostile::CASES,
    ];
    all.into_iter().flatten()
}

/// Cases that mostly wait, for silence to be noticed or for what a slow line brings: where all are run these are run beside the
/// others, one after another too, which saves minutes.
const BESIDE: &[&str] = &[
    "link-cut",
    "missing-peer",
    "damaged-at-rest",
    "damaged-running",
    "tunnel-roam",
    "onion-hostile-exit",
    "onion-exit-walls",
    "onion-beside-tunnel",
    "multipath",
    "only-friends",
    "nat-moves",
    "onion-exit-rules",
    "bridge-tunnel",
];

/// What to run.
pub struct Options {
    binary: PathBuf,
    names: Vec<String>,
    keep: bool,
}

impl Options {
    /// All of it.
    pub fn all(binary: PathBuf) -> Options {
        Options { binary, names: Vec::new(), keep: false }
    }
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let list = args.flag("--list");
    let keep = args.flag("--keep");
    let binary = args.value("--binary")?.map(PathBuf::from);
    let names: Vec<String> = std::iter::from_fn(|| args.word()).collect();
    args.finish()?;
    if list {
        for case in cases() {
            // Whoever reads may have read enough.
            let _ = writeln!(std::io::stdout(), "{:<24} {}", case.name, case.about);
        }
        return Ok(());
    }
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    run(&Options { binary, names, keep })
}

/// What the machine must let us do for them.
pub const NEEDS: &[able::Ability] = &[NAMESPACES, TUN, TRACING];

/// Runs the cases that were asked for; all of them, also after one fails.
pub fn run(options: &Options) -> Result<()> {
    able::ensure(NEEDS)?;
    stop::listen();
    for name in &options.names {
        ensure!(cases().any(|case| case.name == name), "no case {name}; `cargo xtask e2e --list`");
    }
    let chosen =
        cases().filter(|case| options.names.is_empty() || options.names.iter().any(|n| n == case.name));
    if !options.names.is_empty() {
        return tell(one_by_one(options, chosen)?);
    }
    // Beforehand, so that no case pays for it; alone, those build it that need it.
    crate::lab::emulator::build()?;
    let (beside, others): (Vec<_>, Vec<_>) = chosen.partition(|case| BESIDE.contains(&case.name));
    let (failed, slow) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| one_by_one(options, beside));
        (one_by_one(options, others), slow.join())
    });
    let mut failed = failed?;
    failed.extend(slow.map_err(|_| anyhow::anyhow!("a case panicked"))??);
    tell(failed)
}

fn tell(failed: Vec<&'static str>) -> Result<()> {
    ensure!(failed.is_empty(), "failed: {}; one alone: `cargo xtask e2e {}`", failed.join(", "), failed[0]);
    Ok(())
}

/// Runs cases, all of them, also after one fails; the names of those that did.
fn one_by_one(
    options: &Options,
    cases: impl IntoIterator<Item = &'static Case>,
) -> Result<Vec<&'static str>> {
    let mut failed = Vec::new();
    for case in cases {
        stop::check()?;
        let start = Instant::now();
        let mut lab = Lab::new(Wiring::Namespaces, &scratch())?;
        let result = (case.run)(&mut lab, &options.binary);
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("ok      {:<24} {took:>6.1} s  {}", case.name, case.about),
            Err(error) => {
                println!("FAILED  {:<24} {took:>6.1} s  {error:#}", case.name);
                show_logs(&lab);
                failed.push(case.name);
                if options.keep {
                    println!("its lab stays in {} until Ctrl-C", lab.dir().display());
                    let _ = stop::until(std::time::Duration::MAX, || Ok(false));
                }
            }
        }
    }
    Ok(failed)
}

/// The ends of what the daemons said.
pub fn show_logs(lab: &Lab) {
    const LINES: usize = 15;
    let Ok(entries) = std::fs::read_dir(lab.dir()) else { return };
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("err".as_ref()))
    {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            println!("        {}: {line}", path.file_name().unwrap_or_default().display());
        }
    }
}

/// A command failed as it should: not by a panic, and with exactly one line for people.
pub fn one_line(done: &Finished) -> Result<String> {
    complains(&done.stderr).with_context(|| format!("{}", done.status)).and_then(|line| {
        ensure!(!done.status.success(), "succeeded, and said {line:?}");
        ensure!(done.status.code().is_some(), "ended by a signal: {}", done.status);
        Ok(line)
    })
}

/// The one line in what a failed command said.
pub fn complains(stderr: &str) -> Result<String> {
    let shown = || stderr.trim_end().to_string();
    ensure!(!stderr.contains("panicked"), "a panic:\n{}", shown());
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("tornet: ")).collect();
    ensure!(lines.len() == 1, "{} lines begin with `tornet: `, not one:\n{}", lines.len(), shown());
    ensure!(lines[0].len() > "tornet: ".len() + 10, "that says nothing: {:?}", lines[0]);
    Ok(lines[0].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = cases().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn those_that_run_beside_the_others_are_cases() {
        assert!(BESIDE.iter().all(|name| cases().any(|case| case.name == *name)));
    }

    #[test]
    fn one_line_is_neither_none_nor_two() {
        let line = "tornet: port 4001 is busy: choose another";
        assert_eq!(complains(&format!("INFO starting\n{line}\n")).unwrap(), line);
        for bad in ["", "something broke\n", "tornet: \n", &format!("{line}\n{line}\n")] {
            assert!(complains(bad).is_err(), "{bad:?}");
        }
        assert!(complains(&format!("thread 'main' panicked at x\n{line}\n")).is_err());
    }
}

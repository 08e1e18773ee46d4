//! `cargo xtask bench transfer`: one file of random bytes from one namespace to another, by tornet and by
//! its peers in turn, so that what disturbs the machine disturbs all of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::peer::{Contestant, Entry, Job, Settings};
use super::report::{self, Row};
use super::{bittorrent, curl, machine, tornet, udt};
use crate::args::{Args, show_size};
use crate::lab::{Lab, Wiring, files, scratch};
use crate::{setup, sh};

const ENTRIES: &[Entry] = &[
    tornet::ENTRY,
    curl::PLAIN,
    curl::TLS,
    udt::ENTRY,
    bittorrent::TCP,
    bittorrent::ENCRYPTED,
    bittorrent::UTP,
    bittorrent::RQBIT,
];

/// Where labs of this benchmark lie if there is room: memory, since the disk is not what is compared.
const MEMORY: &str = "/dev/shm";

struct Options {
    size: u64,
    runs: u64,
    peers: Vec<&'static Entry>,
    scratch: PathBuf,
    json: Option<PathBuf>,
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let size = args.size("--size", 1 << 30)?;
    let runs = args.number("--runs", 3)?.max(1);
    let peers = choose(args.value("--peers")?.as_deref())?;
    let scratch = args.value("--scratch")?.map_or_else(|| default_scratch(size), PathBuf::from);
    let offloads = match args.value("--offloads")?.as_deref() {
        None | Some("on") => vec![true],
        Some("off") => vec![false],
        Some("both") => vec![true, false],
        Some(other) => bail!("--offloads {other}: on, off or both"),
    };
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    args.finish()?;
    crate::able::ensure(&[crate::able::NAMESPACES])?;
    setup::ensure()?;
    // Without tornet among the peers there is nothing to build.
    let measured = peers.iter().any(|entry| entry.name == "tornet");
    let binary = if measured { sh::binary_or_build(binary)? } else { PathBuf::new() };
    let settings = Settings { binary };
    let options = Options { size, runs, peers, scratch, json };

    let machine = machine::describe();
    println!("{}", machine::line(&machine));
    let mut variants = Vec::new();
    for on in offloads {
        variants.push(variant(&settings, &options, on)?);
    }
    if let Some(path) = &options.json {
        let all = json!({ "machine": machine, "size": size, "runs": runs, "variants": variants });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

fn choose(names: Option<&str>) -> Result<Vec<&'static Entry>> {
    super::choose("peer", ENTRIES, names, |entry| entry.name)
}

/// Memory if it takes the file some times over (input, store, outputs), else the project's disk.
pub fn default_scratch(size: u64) -> PathBuf {
    let free = sh::words("df", &["--output=avail", "--block-size=1", MEMORY]).unwrap_or_default();
    let free = free.lines().last().and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
    if free > 6 * size { PathBuf::from(MEMORY) } else { scratch() }
}

fn variant(settings: &Settings, options: &Options, offloads: bool) -> Result<Value> {
    let lab = Lab::new(Wiring::Namespaces, &options.scratch)?;
    if !offloads {
        lab.offloads(false)?;
    }
    let input_dir = lab.make_dir("input")?;
    let job = Job { lab: &lab, input: input_dir.join("random.bin"), size: options.size };
    files::random(&job.input, options.size)?;
    let sum = files::sha256(&job.input)?;
    let setting = if offloads { "on" } else { "off" };
    println!(
        "\n{} of random bytes between two namespaces, MTU 1500, offloads {setting}, files in {}",
        show_size(options.size),
        options.scratch.display()
    );

    let mut ready: Vec<(Row, Box<dyn Contestant>)> = Vec::new();
    for entry in &options.peers {
        match (entry.prepare)(settings, &job) {
            Ok(contestant) => {
                let version = (entry.version)(settings)?;
                println!("  {:<15} {version}", entry.name);
                let row =
                    Row { name: entry.name, protection: entry.protection, version, samples: Vec::new() };
                ready.push((row, contestant));
            }
            Err(error) => {
                crate::stop::check()?;
                println!("  {:<15} SKIPPED: {error:#}", entry.name);
            }
        }
    }
    // Once unmeasured, so that nobody pays for being first.
    for run in 0..=options.runs {
        for (row, contestant) in &mut ready {
            let sample = once(contestant.as_mut(), &job, &sum).with_context(|| row.name)?;
            if run > 0 {
                row.samples.push(sample);
                eprintln!(
                    "  run {run} {:<15} {:.2} s, {:.2} CPU s",
                    row.name, sample.seconds, sample.cpu_seconds
                );
            }
        }
    }
    let rows: Vec<Row> = ready.into_iter().map(|(row, _)| row).collect();
    println!("\n{}", report::table(&rows, options.size));
    Ok(json!({ "offloads": offloads, "peers": report::json(&rows, options.size) }))
}

/// One transfer, which must have crossed the link and brought the right bytes.
fn once(contestant: &mut dyn Contestant, job: &Job, sum: &str) -> Result<super::peer::Sample> {
    let out = job.lab.dir().join("output");
    let before = job.lab.b().received_bytes()?;
    let sample = contestant.run(job, &out)?;
    let crossed = job.lab.b().received_bytes()? - before;
    ensure!(crossed >= job.size, "only {} crossed the link", show_size(crossed));
    verify(&out, job.size, sum)?;
    std::fs::remove_file(&out)?;
    Ok(sample)
}

fn verify(out: &Path, size: u64, sum: &str) -> Result<()> {
    let got = std::fs::metadata(out).context("no output")?.len();
    ensure!(got == size, "{got} of {size} bytes arrived");
    ensure!(files::sha256(out)? == sum, "the bytes that arrived are others");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_chosen_by_name() {
        assert_eq!(choose(None).unwrap().len(), ENTRIES.len());
        let names: Vec<&str> = choose(Some("udt,tornet")).unwrap().iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["udt", "tornet"]);
        assert!(choose(Some("udt,none")).is_err());
    }
}

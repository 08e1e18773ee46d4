//! `cargo xtask fuzz`: runs the fuzz targets of the library under libFuzzer (docs/testing/fuzzing.md).
//!
//! Without a sanitizer: the targets forbid `unsafe` and what they would crash by is a panic, so a sanitizer finds
//! nothing more and halves the speed. Overflow and debug assertions are on.

mod pack;
mod report;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::sh;
use report::Run;

const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// libFuzzer's default target triple as cargo-fuzz names folders.
const TRIPLE: &str = concat!("x86_64", "-unknown-linux-gnu");
/// Beyond these a pack is cut: `pack.rs` says which inputs stay.
const KEPT_INPUTS_MAX: usize = 300;
const KEPT_BYTES_MAX: usize = 64 << 10;
/// One input that takes so long is a finding, seconds.
const INPUT_SECONDS_MAX: u64 = 20;
/// Memory of one fuzzer beyond which it is a finding, MiB.
const MEMORY_MIB_MAX: u64 = 2048;
/// Inputs are not made longer than this, bytes.
const INPUT_BYTES_MAX: usize = 4096;

/// What was asked for.
struct Options {
    targets: Vec<String>,
    seconds: u64,
    jobs: usize,
    cmin: bool,
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let list = args.flag("--list");
    let cmin = args.flag("--cmin");
    let input = args.value("--input")?.map(PathBuf::from);
    // libFuzzer takes 0 for no end.
    let seconds = args.number("--seconds", 60)?.max(1);
    let jobs = args.number("--jobs", 1)?.clamp(1, 64) as usize;
    let mut wanted = Vec::new();
    while let Some(word) = args.word() {
        wanted.push(word);
    }
    args.finish()?;
    let known = targets()?;
    if list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(name) = wanted.iter().find(|name| !known.contains(name)) {
        bail!("no target {name:?}; `cargo xtask fuzz --list` names them");
    }
    let targets = if wanted.is_empty() { known } else { wanted };
    if let Some(input) = input {
        let [target] = &targets[..] else { bail!("--input belongs to one target") };
        return replay(target, &std::path::absolute(input)?);
    }
    run(&Options { targets, seconds, jobs, cmin })
}

/// The names in a table of targets: rows `("name", module::function),` of `const TARGETS`.
pub fn names(file: &str) -> Vec<String> {
    let table = file.split_once("const TARGETS").and_then(|(_, table)| table.split_once("\n];"));
    let rows = table
        .map_or("", |(table, _)| table)
        .lines()
        .map(str::trim)
        .filter_map(|line| line.strip_prefix("(\""));
    rows.filter_map(|row| row.split_once("\", ")).map(|(name, _)| name.to_string()).collect()
}

/// Where the tables lie.
pub const TABLES: &[&str] = &["src/sim/fuzzing/mod.rs", "src/io/fuzzing.rs"];

fn targets() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for table in TABLES {
        all.extend(names(&std::fs::read_to_string(sh::root().join(table)).context(*table)?));
    }
    Ok(all)
}

/// One input through one target, in the debug build: the backtrace has every line.
fn replay(target: &str, input: &Path) -> Result<()> {
    let replay = ["run", "--quiet", "--features", "sim", "--example", "fuzz_replay", "--", target];
    sh::run(sh::cargo().args(replay).arg(input).env("RUST_BACKTRACE", "1"))
}

fn run(options: &Options) -> Result<()> {
    let binary = build()?;
    seeds()?;
    let mut waiting: VecDeque<&String> = options.targets.iter().collect();
    let mut running: Vec<(Run, Child)> = Vec::new();
    let mut findings = Vec::new();
    println!("{}", report::HEAD);
    crate::stop::listen();
    while !waiting.is_empty() || !running.is_empty() {
        if let Err(stopped) = crate::stop::check() {
            running.iter_mut().for_each(|(_, child)| _ = child.kill());
            return Err(stopped);
        }
        while running.len() < options.jobs
            && let Some(target) = waiting.pop_front()
        {
            running.push(begin(target, &binary, options.seconds)?);
        }
        let Some(at) = running.iter_mut().position(|(_, child)| !matches!(child.try_wait(), Ok(None))) else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let (run, mut child) = running.remove(at);
        let status = child.wait()?;
        println!("{}", run.line(status.success())?);
        if !status.success() {
            println!("{}", run.finding()?);
            findings.push(run.target.clone());
        }
        // What a run that found something has seen is worth keeping, too, but it would not merge.
        if options.cmin && status.success() {
            merge(&run, &binary)?;
        }
    }
    ensure!(findings.is_empty(), "{} findings: {}", findings.len(), findings.join(", "));
    Ok(())
}

/// Starts libFuzzer on one target, with what was kept and the seeds in its corpus.
fn begin(target: &str, binary: &Path, seconds: u64) -> Result<(Run, Child)> {
    let run = Run::new(target, &work());
    std::fs::create_dir_all(&run.corpus)?;
    std::fs::create_dir_all(&run.artifacts)?;
    pack::unpack(&kept(target), &run.corpus)?;
    // A seed that is gone, or a target that has none, is no error: libFuzzer begins with nothing then.
    let log = std::fs::File::create(&run.log)?;
    let mut command = Command::new(binary);
    command.env("TORNET_FUZZ", target).env("RUST_BACKTRACE", "1");
    command.arg(&run.corpus).arg(work().join("seeds").join(target));
    command.arg(format!("-max_total_time={seconds}"));
    command.args([
        format!("-max_len={INPUT_BYTES_MAX}"),
        "-len_control=20".into(),
        "-use_value_profile=0".into(),
    ]);
    command.args([format!("-timeout={INPUT_SECONDS_MAX}"), format!("-rss_limit_mb={MEMORY_MIB_MAX}")]);
    command.arg(format!("-artifact_prefix={}/", run.artifacts.display()));
    command.arg("-print_final_stats=1");
    std::fs::create_dir_all(work().join("seeds").join(target))?;
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("the fuzzer")?;
    Ok((run, child))
}

/// Keeps a smallest corpus with the same coverage: merged by libFuzzer, packed, small.
fn merge(run: &Run, binary: &Path) -> Result<()> {
    let merged = work().join("merged").join(&run.target);
    if merged.exists() {
        std::fs::remove_dir_all(&merged)?;
    }
    std::fs::create_dir_all(&merged)?;
    let mut command = Command::new(binary);
    command.env("TORNET_FUZZ", &run.target).arg("-merge=1").arg(&merged).arg(&run.corpus);
    command.arg(work().join("seeds").join(&run.target));
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "merging {}: {}", run.target, String::from_utf8_lossy(&output.stderr));
    let (inputs, bytes) = pack::pack(&merged, &kept(&run.target), KEPT_INPUTS_MAX, KEPT_BYTES_MAX)?;
    println!("{:<18} kept {inputs} inputs, {bytes} bytes", run.target);
    Ok(())
}

fn kept(target: &str) -> PathBuf {
    sh::root().join("fuzz/corpus").join(format!("{target}.pack"))
}

/// Where everything lies that is not kept.
fn work() -> PathBuf {
    sh::root().join("fuzz/target/work")
}

/// Writes the seeds anew: they follow the formats.
fn seeds() -> Result<()> {
    let place = work().join("seeds");
    std::fs::create_dir_all(&place)?;
    sh::run(
        sh::cargo().args(["run", "--quiet", "--features", "sim", "--example", "fuzz_seeds", "--"]).arg(place),
    )
}

/// Builds the fuzzer and says where it lies.
fn build() -> Result<PathBuf> {
    let tools = tool()?.parent().context("a folder")?.to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)))?;
    // cargo-fuzz builds as for nightly only where a sanitizer asks for it; the variable lets stable try.
    let build = ["fuzz", "build", "--sanitizer", "none", "--fuzz-dir", "fuzz", "tornet"];
    let target = sh::root().join("fuzz/target");
    let mut command = sh::cargo();
    // Its own folder, whatever the caller's is: an older binary there would be fuzzed instead.
    command.args(build).env("PATH", path).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &target);
    sh::run(&mut command)?;
    Ok(target.join(TRIPLE).join("release/tornet"))
}

/// cargo-fuzz, from PATH or built into target/tools.
fn tool() -> Result<PathBuf> {
    if let Some(found) = sh::which("cargo-fuzz") {
        return Ok(found);
    }
    let place = sh::root().join("target/tools");
    let tool = place.join("bin/cargo-fuzz");
    if !tool.exists() {
        println!("building cargo-fuzz into target/tools, once");
        let mut install = sh::cargo();
        install.args([
            "install",
            "cargo-fuzz",
            "--locked",
            "--quiet",
            "--version",
            CARGO_FUZZ_VERSION,
            "--root",
        ]);
        sh::run(install.arg(&place).env("CARGO_TARGET_DIR", place.join("build")))?;
        std::fs::remove_dir_all(place.join("build")).ok();
    }
    Ok(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read() {
        let table =
            "pub const TARGETS: &[Target] = &[\n    // Decoders.\n    (\"frame\", frames::frame),\n];";
        let seeds = "\nfn seeds() {\n    vec![\n        (\"frame\", seeds()),\n    ]\n}";
        assert_eq!(names(&format!("{table}{seeds}")), ["frame"]);
        assert_eq!(names(seeds), [""; 0]);
        let all = targets().unwrap();
        for name in ["frame", "session_pair", "journal"] {
            assert!(all.iter().any(|known| known == name), "{name}");
        }
    }
}

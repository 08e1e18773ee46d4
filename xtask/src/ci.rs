//! `cargo xtask ci`: what must hold before a merge; cheap things first, the first failure being the last.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::args::Args;
use crate::steps::{self, Outcome, Step};
use crate::{alltests, demo, sh, tidy};

/// docs/decisions/0008: built here once, two minutes, rather than left out.
const DENY_VERSION: &str = "0.20.2";
const DEMO_SIZE: u64 = 32 << 20;

/// Before the tests.
const CHECKS: &[Step] = &[
    Step { name: "fmt", minutes: 2, run: || passed(sh::run(sh::cargo().args(["fmt", "--all", "--check"]))) },
    Step { name: "tidy", minutes: 2, run: || passed(tidy::run()) },
    Step { name: "clippy", minutes: 12, run: clippy },
    Step { name: "doc", minutes: 8, run: doc },
    Step { name: "deny", minutes: 15, run: deny },
    Step { name: "fuzz", minutes: 8, run: fuzz },
];
/// After them.
const PRODUCT: &[Step] = &[
    Step { name: "systemd", minutes: 10, run: units },
    Step {
        name: "demo",
        minutes: 10,
        run: || passed(sh::build_release().and_then(|binary| demo::run(&binary, DEMO_SIZE, true))),
    },
];

/// The command.
pub fn command(args: Args) -> Result<()> {
    let setup = std::iter::once(&alltests::SETUP);
    let all: Vec<&Step> = setup.chain(CHECKS).chain(alltests::STEPS).chain(PRODUCT).collect();
    steps::command("ci", args, &all)
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    let all = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--quiet"];
    passed(sh::run(sh::cargo().args(all).args(["--", "--deny", "warnings"])))
}

fn doc() -> Result<Outcome> {
    let all = [
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--document-private-items",
        "--locked",
        "--quiet",
    ];
    passed(sh::run(sh::cargo().args(all).env("RUSTDOCFLAGS", "--deny warnings")))
}

/// That the fuzzer compiles, which is a workspace of its own. What it would run is replayed by `tests/corpus.rs`.
fn fuzz() -> Result<Outcome> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| sh::root().join("target"), PathBuf::from);
    let check = ["check", "--locked", "--quiet", "--manifest-path", "fuzz/Cargo.toml"];
    passed(sh::run(sh::cargo().args(check).env("CARGO_TARGET_DIR", target)))
}

/// Licences, sources and doubled crates by what lies here; advisories by a database from the network.
fn deny() -> Result<Outcome> {
    let tool = deny_tool()?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&tool);
        command.current_dir(sh::root()).args([
            "--all-features",
            "--locked",
            "check",
            "--hide-inclusion-graph",
        ]);
        command.args(what);
        command
    };
    sh::run(&mut check(&["licenses", "bans", "sources"]))?;
    let output = check(&["advisories"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains("failed to fetch advisory database") {
        return Ok(Outcome::Skipped("advisories alone: their database cannot be reached from here".into()));
    }
    ensure!(output.status.success(), "advisories:\n{said}");
    Ok(Outcome::Passed)
}

/// The tool, from PATH or built into target/tools.
fn deny_tool() -> Result<PathBuf> {
    if let Some(found) = sh::which("cargo-deny") {
        return Ok(found);
    }
    let place = sh::root().join("target/tools");
    let tool = place.join("bin/cargo-deny");
    if !tool.exists() {
        println!("building cargo-deny into target/tools, once");
        let mut install = sh::cargo();
        install.args(["install", "cargo-deny", "--locked", "--quiet", "--version", DENY_VERSION, "--root"]);
        sh::run(install.arg(&place).env("CARGO_TARGET_DIR", place.join("build")))?;
        std::fs::remove_dir_all(place.join("build")).ok();
    }
    Ok(tool)
}

/// systemd's own opinion of our units, with the binary where it was built.
fn units() -> Result<Outcome> {
    let Some(analyze) = sh::which("systemd-analyze") else {
        return Ok(Outcome::Skipped("no systemd-analyze here".into()));
    };
    let binary = sh::build_release()?;
    let place = sh::root().join("target/units");
    std::fs::create_dir_all(&place)?;
    let mut checked = 0;
    for entry in std::fs::read_dir(sh::root().join("systemd")).context("systemd/")? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "service") {
            continue;
        }
        let copy = place.join(path.file_name().context("a unit's name")?);
        std::fs::write(&copy, with_binary(&std::fs::read_to_string(&path)?, &binary))?;
        sh::run(Command::new(&analyze).args(["verify", "--man=no"]).arg(&copy))?;
        checked += 1;
    }
    ensure!(checked > 0, "no unit in systemd/");
    Ok(Outcome::Passed)
}

/// The unit with the first word of each `Exec…=` replaced.
fn with_binary(unit: &str, binary: &Path) -> String {
    let replaced = unit.lines().map(|line| match line.split_once('=') {
        Some((key, value)) if key.starts_with("Exec") && value.starts_with('/') => {
            let rest = value.split_once(' ').map(|(_, rest)| format!(" {rest}")).unwrap_or_default();
            format!("{key}={}{rest}\n", binary.display())
        }
        _ => format!("{line}\n"),
    });
    replaced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_runs_what_was_built() {
        let unit = "[Service]\nExecStart=/usr/bin/tornet run\nExecReload=/usr/bin/tornet\nUser=x\n";
        let expected = "[Service]\nExecStart=/b/tornet run\nExecReload=/b/tornet\nUser=x\n";
        assert_eq!(with_binary(unit, Path::new("/b/tornet")), expected);
    }
}

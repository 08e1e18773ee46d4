//! `cargo xtask test`: every test there is.

use std::path::Path;

use anyhow::Result;

use crate::able::{self, NAMESPACES, TRACING};
use crate::args::Args;
use crate::steps::{self, Outcome, Step};
use crate::{crash, e2e, setup, sh, sim};

/// The tests' part of CI.
pub const STEPS: &[Step] = &[
    Step { name: "test", minutes: 20, run: tests },
    Step { name: "sim", minutes: 15, run: sim::quick },
    Step { name: "e2e", minutes: 25, run: real_daemons },
    Step { name: "crash", minutes: 15, run: crashes },
];

/// Before anything is built.
pub const SETUP: Step = Step {
    name: "setup",
    minutes: 10,
    run: || setup::ensure().and_then(|()| setup::ensure_components()).map(|()| Outcome::Passed),
};

/// The command.
pub fn command(args: Args) -> Result<()> {
    let all: Vec<&Step> = std::iter::once(&SETUP).chain(STEPS).collect();
    steps::command("test", args, &all)
}

fn tests() -> Result<Outcome> {
    sh::run(sh::cargo().args(["test", "--workspace", "--all-features", "--locked", "--quiet"]))?;
    Ok(Outcome::Passed)
}

fn real_daemons() -> Result<Outcome> {
    if let Some(why) = able::skip(e2e::NEEDS)? {
        return Ok(Outcome::Skipped(why));
    }
    with_uring(|binary| e2e::run(&e2e::Options::all(binary.to_path_buf())))
}

fn crashes() -> Result<Outcome> {
    if let Some(why) = able::skip(&[NAMESPACES, TRACING])? {
        return Ok(Outcome::Skipped(why));
    }
    with_uring(|binary| crash::run(&crash::Options::quick(binary.to_path_buf())))
}

fn with_uring(act: impl FnOnce(&Path) -> Result<()>) -> Result<Outcome> {
    let binary = sh::build_release()?;
    if let Some(why) = able::skip_uring(&binary)? {
        return Ok(Outcome::Skipped(why));
    }
    act(&binary).map(|()| Outcome::Passed)
}

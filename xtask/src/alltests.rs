//! `cargo xtask test`: every test there is.

use anyhow::Result;

use crate::args::Args;
use crate::sh::{self, Outcome, Steps};
use crate::{crash, e2e, setup, stop};

/// The command.
pub fn command(args: Args) -> Result<()> {
    args.finish()?;
    stop::listen();
    let mut steps = Steps::new();
    steps.step("setup", || setup::ensure().map(|()| Outcome::Passed))?;
    run(&mut steps)?;
    steps.summary();
    Ok(())
}

/// The tests' part of CI.
pub fn run(steps: &mut Steps) -> Result<()> {
    steps.step("test", || {
        sh::run(sh::cargo().args(["test", "--workspace", "--all-features", "--locked", "--quiet"]))?;
        Ok(Outcome::Passed)
    })?;
    steps.step("e2e", || {
        if !sh::is_root() {
            return Ok(Outcome::Skipped("network namespaces need root".into()));
        }
        e2e::run(&e2e::Options::all(sh::build_release()?)).map(|()| Outcome::Passed)
    })?;
    steps.step("crash", || {
        if !sh::is_root() {
            return Ok(Outcome::Skipped("network namespaces need root".into()));
        }
        crash::run(&crash::Options::quick(sh::build_release()?)).map(|()| Outcome::Passed)
    })
}

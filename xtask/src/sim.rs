//! `cargo xtask sim`: builds the simulator's runner in release and starts it (docs/testing/simulator.md).

use std::process::Command;

use anyhow::{Result, ensure};

use crate::args::Args;
use crate::sh;
use crate::steps::Outcome;

/// Seeds of the quick set: about a minute on two cores.
const QUICK_SEEDS: &str = "250";
/// The same with the overlay: half a minute.
const OVERLAY_SEEDS: &str = "200";

/// The command: every flag is the runner's.
pub fn command(args: Args) -> Result<()> {
    start(&args.rest())
}

/// CI's part: the same seeds every time, each twice, so that a run means the same everywhere.
pub fn quick() -> Result<Outcome> {
    start(&["--seeds", QUICK_SEEDS, "--twice"].map(String::from))?;
    start(&["--overlay", "--seeds", OVERLAY_SEEDS, "--twice"].map(String::from))?;
    Ok(Outcome::Passed)
}

fn start(flags: &[String]) -> Result<()> {
    let build = ["build", "--release", "--locked", "--quiet", "--features", "sim", "--example", "sim"];
    sh::run(sh::cargo().args(build))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| sh::root().join("target"), Into::into);
    let status = Command::new(target.join("release/examples/sim")).args(flags).status()?;
    ensure!(status.success(), "seeds failed; each line above says how to see one again");
    Ok(())
}

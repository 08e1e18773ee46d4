//! `cargo xtask bench shaper`: what a packet costs in the scheduler (benches/shaper.rs), with ten peers and with a
//! hundred thousand, beside a heap of packets and a timer per flow. Needs no network and no root.

use anyhow::Result;

use super::machine;
use crate::args::Args;
use crate::sh;

/// The command.
pub fn command(args: Args) -> Result<()> {
    args.finish()?;
    println!("{}\n", machine::line(&machine::describe()));
    sh::run(sh::cargo().args(["bench", "--quiet", "--bench", "shaper"]))
}

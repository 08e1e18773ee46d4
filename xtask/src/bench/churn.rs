//! `cargo xtask bench churn`: the store's own benchmark (benches/store.rs), which needs no network and no root.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::machine;
use crate::args::{Args, show_size};
use crate::sh;

/// What a benchmark may leave free on a disk at least, bytes.
const SPARE: u64 = 4 << 30;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let capacity = args.size("--capacity", 1 << 30)?;
    let factor = args.number("--factor", 10)?.max(1);
    let dir = args.value("--scratch")?.map_or_else(|| sh::root().join("target"), PathBuf::from);
    let json = args.value("--json")?;
    let judge = !args.flag("--no-judge");
    args.finish()?;
    let free = sh::words("df", &["--output=avail", "--block-size=1", &dir.to_string_lossy()])?;
    let free: u64 = free.lines().last().unwrap_or_default().trim().parse()?;
    let need = capacity + capacity / 4 + SPARE;
    ensure!(free >= need, "{}: {} are free, {} needed", dir.display(), show_size(free), show_size(need));
    println!("{}\n", machine::line(&machine::describe()));
    let mut command = sh::cargo();
    command.args(["bench", "--quiet", "--bench", "store", "--", "--dir"]).arg(&dir);
    command.args(["--capacity", &(capacity >> 20).to_string(), "--factor", &factor.to_string()]);
    if !judge {
        command.arg("--no-judge");
    }
    if let Some(json) = json {
        command.args(["--json", &json]);
    }
    sh::run(&mut command)
}

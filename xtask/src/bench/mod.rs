//! `cargo xtask bench`: tornet beside others, in one run on one machine; and under attack.

mod bittorrent;
mod churn;
mod curl;
mod floor;
pub mod hostile;
mod latency;
mod machine;
mod peer;
mod plane;
mod report;
mod sessions;
mod shaper;
mod tornet;
mod transfer;
mod tunnel;
mod udt;

use anyhow::{Result, bail};

use crate::args::Args;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    match args.word().as_deref() {
        Some("transfer") => transfer::command(args),
        Some("tunnel") => tunnel::command(args),
        Some("churn") => churn::command(args),
        Some("hostile") => hostile::command(args),
        Some("floor") => floor::command(args),
        Some("latency") => latency::command(args),
        Some("sessions") => sessions::command(args),
        Some("shaper") => shaper::command(args),
        _ => bail!("`cargo xtask help` lists the benchmarks and their flags"),
    }
}

/// How one figure stands to another, for a table.
fn ratio(own: f64, theirs: Option<f64>) -> String {
    theirs.map_or("–".into(), |it| format!("{:.2}", own / it))
}

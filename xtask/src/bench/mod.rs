//! `cargo xtask bench`: tornet beside others, in one run on one machine; and under attack.

mod bittorrent;
mod churn;
mod curl;
pub mod hostile;
mod machine;
mod peer;
mod report;
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
        _ => {
            bail!(
                "`bench transfer`, `bench tunnel`, `bench churn` or `bench hostile`; `cargo xtask help` lists their flags"
            )
        }
    }
}

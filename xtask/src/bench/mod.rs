//! `cargo xtask bench`: tornet beside others, in one run on one machine; and under attack.

mod bittorrent;
mod bridge;
mod churn;
mod circuits;
mod curl;
mod floor;
pub mod hostile;
mod latency;
mod limits;
mod machine;
mod onion;
mod peer;
mod plane;
mod relay;
mod report;
mod scale;
mod serve;
mod sessions;
mod shaper;
mod soak;
mod tornet;
mod transfer;
mod tunnel;
mod udt;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::{setup, sh};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    match args.word().as_deref() {
        Some("transfer") => transfer::command(args),
        Some("bridge") => bridge::command(args),
        Some("tunnel") => tunnel::command(args),
        Some("onion") => onion::command(args),
        Some("churn") => churn::command(args),
        Some("circuits") => circuits::command(args),
        Some("hostile") => hostile::command(args),
        Some("floor") => floor::command(args),
        Some("latency") => latency::command(args),
        Some("limits") => limits::command(args),
        Some("sessions") => sessions::command(args),
        Some("relay") => relay::command(args),
        Some("scale") => scale::command(args),
        Some("serve") => serve::command(args),
        Some("shaper") => shaper::command(args),
        Some("soak") => soak::command(args),
        _ => bail!("`cargo xtask help` lists the benchmarks and their flags"),
    }
}

/// How one figure stands to another, for a table.
fn ratio(own: f64, theirs: Option<f64>) -> String {
    theirs.map_or("–".into(), |it| format!("{:.2}", own / it))
}

/// What a comma-separated list names of `all`; all of it without a list. `what` one of them is stands in the error.
fn choose<T>(
    what: &str,
    all: &'static [T],
    names: Option<&str>,
    name: fn(&T) -> &str,
) -> Result<Vec<&'static T>> {
    let Some(names) = names else { return Ok(all.iter().collect()) };
    let known = || all.iter().map(name).collect::<Vec<_>>().join(", ");
    let find = |wanted: &str| all.iter().find(|item| name(item) == wanted);
    names
        .split(',')
        .map(|wanted| find(wanted).with_context(|| format!("no {what} {wanted}: {}", known())))
        .collect()
}

/// A program that a Debian package brings, or that is there already.
fn program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = sh::which(name) {
        return Ok(found);
    }
    ensure!(sh::is_root(), "no {name}: apt-get install {package}");
    setup::install(&[package])?;
    sh::which(name).with_context(|| format!("{package} brought no {name}"))
}

//! `cargo xtask lab`: a lab to play in.

use anyhow::{Result, bail};

use super::{Lab, Wiring, clean, scratch};
use crate::args::Args;
use crate::{setup, stop};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    match args.word().as_deref() {
        Some("clean") => {
            args.finish()?;
            clean()
        }
        Some("up") => {
            let rate = args.value("--rate")?;
            args.finish()?;
            setup::ensure()?;
            let lab = Lab::new(Wiring::Namespaces, &scratch())?;
            if let Some(rate) = &rate {
                lab.limit(rate)?;
            }
            for host in lab.hosts() {
                println!("{}  ip netns exec {} bash", host.address, host.namespace());
            }
            println!("both are gone after Ctrl-C");
            let _ = stop::until(std::time::Duration::MAX, || Ok(false));
            Ok(())
        }
        _ => bail!("`lab up` or `lab clean`"),
    }
}

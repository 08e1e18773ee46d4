//! `cargo xtask bench bridge`: a file by UDP and by a bridge, between the same two daemons (docs/benchmarks.md).

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::machine;
use super::report::median;
use super::transfer::default_scratch;
use crate::args::Args;
use crate::e2e::bridge::Pair;
use crate::lab::{Lab, Wiring, files};
use crate::{able, setup, sh};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let size = args.size("--size", 100 << 20)?;
    let runs = args.number("--runs", 3)?.max(1);
    let scratch = args.value("--scratch")?.map_or_else(|| default_scratch(size), PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    println!("{}", machine::line(&machine::describe()));

    let lab = Lab::new(Wiring::Namespaces, &scratch)?;
    let mut pair = Pair::start(&lab, &binary)?;
    println!("\n| {size} bytes | Mbit/s | CPU s/Gbit, sender | receiver |\n|---|--:|--:|--:|");
    for (by, bridged) in [("UDP", false), ("a bridge, TLS", true)] {
        pair.go_by(bridged)?;
        let (mut rates, mut spent) = (Vec::new(), [Vec::new(), Vec::new()]);
        for run in 0..=runs {
            let (input, out) = (lab.dir().join("input"), lab.dir().join("out"));
            files::random(&input, size)?;
            let (_, reference) = pair.a.put(&input)?;
            let cpu = |pair: &mut Pair| -> Result<[f64; 2]> {
                Ok([pair.a.daemon()?.cpu_seconds()?, pair.b.daemon()?.cpu_seconds()?])
            };
            let (before, began) = (cpu(&mut pair)?, Instant::now());
            pair.b.get(&reference, &out)?;
            let (seconds, after) = (began.elapsed().as_secs_f64(), cpu(&mut pair)?);
            anyhow::ensure!(files::sha256(&input)? == files::sha256(&out)?, "the file differs");
            let gbit = size as f64 * 8.0 / 1e9;
            eprintln!("  {by}, run {run}: {:.0} Mbit/s", gbit * 1e3 / seconds);
            // The first is not counted: windows and buffers are made.
            if run > 0 {
                rates.push(gbit * 1e3 / seconds);
                (0..2).for_each(|side| spent[side].push((after[side] - before[side]) / gbit));
            }
        }
        let of = |all: &[f64]| median(all.iter().copied());
        println!("| {by} | {:.0} | {:.2} | {:.2} |", of(&rates), of(&spent[0]), of(&spent[1]));
    }
    Ok(())
}

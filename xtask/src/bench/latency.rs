//! `cargo xtask bench latency`: round trips when nothing else goes on, and what waiting costs.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::plane::{self, Tools};
use super::report::median;
use super::{floor, machine, ratio};
use crate::args::Args;
use crate::lab::{Lab, Wiring, scratch};
use crate::{able, setup};

const PARTS: &[&str] = &["echo-bare", "echo", "echo-polling"];

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let runs = args.number("--runs", 5)?.max(1);
    let seconds = args.number("--seconds", 2)?.max(1);
    let size = args.number("--size", 100)?.clamp(64, 1472);
    let json = args.value("--json")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let tools = Tools::build(tool, false)?;
    let machine = machine::describe();
    println!("{}", machine::line(&machine));
    let lab = Lab::new(Wiring::Namespaces, &scratch())?;
    let mut rows: Vec<(&str, Vec<plane::Echo>)> = PARTS.iter().map(|part| (*part, Vec::new())).collect();
    for run in 1..=runs {
        for (part, echoes) in &mut rows {
            let echo = plane::echo(&lab, &tools, part, seconds, size)?;
            eprintln!("  run {run} {part:<12} p50 {:.1} µs, p99 {:.1} µs", echo.p50_us, echo.p99_us);
            echoes.push(echo);
        }
    }
    println!(
        "\n{size}-byte datagrams, one at a time, between two namespaces, a core each\n\n{}",
        table(&rows)
    );
    if let Some(path) = json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(part, echoes)| json!({ "part": part, "runs": echoes.iter().map(plane::Echo::json).collect::<Vec<_>>() }))
            .collect();
        floor::write(&path, &json!({ "machine": machine, "size": size, "parts": rows }))?;
    }
    Ok(())
}

fn table(rows: &[(&str, Vec<plane::Echo>)]) -> String {
    let of = |echoes: &[plane::Echo], read: fn(&plane::Echo) -> f64| median(echoes.iter().map(read));
    let bare = rows.iter().find(|(part, _)| *part == "echo-bare").map(|(_, echoes)| echoes.as_slice());
    let mut text = String::from(
        "| part | p50 µs | ÷ bare | p99 µs | ÷ bare | CPU while idle |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for (part, echoes) in rows {
        let (p50, p99) = (of(echoes, |echo| echo.p50_us), of(echoes, |echo| echo.p99_us));
        text += &format!(
            "| {part} | {p50:.1} | {} | {p99:.1} | {} | {:.2} % |\n",
            ratio(p50, bare.map(|bare| of(bare, |echo| echo.p50_us))),
            ratio(p99, bare.map(|bare| of(bare, |echo| echo.p99_us))),
            100.0 * of(echoes, |echo| echo.idle),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_bare_echo() {
        let echo = |p50_us, p99_us| plane::Echo { p50_us, p99_us, idle: 0.001 };
        let rows = [
            ("echo-bare", vec![echo(10.0, 20.0)]),
            ("echo", vec![echo(9.0, 99.0), echo(15.0, 30.0), echo(16.0, 20.0)]),
        ];
        let table = table(&rows);
        assert!(table.contains("| echo | 15.0 | 1.50 | 30.0 | 1.50 | 0.10 % |"), "{table}");
    }
}

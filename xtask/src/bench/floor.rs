//! `cargo xtask bench floor`: what session datagrams and streams cost beside the sum of what nobody can leave out,
//! and beside quinn (docs/benchmarks.md).

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::plane::{self, Tools, Two};
use super::report::median;
use super::{machine, ratio};
use crate::args::Args;
use crate::lab::{Lab, Wiring, scratch};
use crate::{able, setup};

/// The floor of this job on the machine that docs/benchmarks.md has its figures from, CPU seconds per Gbit of
/// 1350-byte datagrams. A run whose own floor is dearer by [`VOID`] there was disturbed.
const FLOOR_KNOWN: f64 = 0.077;
const VOID: f64 = 1.15;
/// The parts, in the order in which they take turns.
const PARTS: &[&str] = &["raw", "loop", "datagrams", "stream", "quinn", "quinn-tuned"];

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let runs = args.number("--runs", 5)?.max(1);
    let seconds = args.number("--seconds", 3)?.max(1);
    let size = args.number("--size", 1350)?.clamp(100, 1472);
    let offloads = match args.value("--offloads")?.as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => anyhow::bail!("--offloads {other}: on or off"),
    };
    let parts = choose(args.value("--parts")?.as_deref())?;
    let json = args.value("--json")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let tools = Tools::build(tool, parts.iter().any(|part| part.starts_with("quinn")))?;
    let machine = machine::describe();
    println!("{}", machine::line(&machine));
    let lab = Lab::new(Wiring::Namespaces, &scratch())?;
    if !offloads {
        lab.offloads(false)?;
    }
    let mut aead = Vec::new();
    let mut rows: Vec<Row> = parts.iter().map(|part| Row { part, runs: Vec::new() }).collect();
    for run in 1..=runs {
        aead.push(plane::aead(&lab, &tools, size)?);
        for row in &mut rows {
            let two = plane::pair(&lab, &tools, row.part, seconds, size)?;
            eprintln!("  run {run} {:<12} {:.2} Gbit/s, {:.4} CPU s/Gbit", row.part, two.rate(), two.cost());
            row.runs.push(two);
        }
    }
    let floor = Floor::new(&aead, &rows);
    println!(
        "\n{size}-byte datagrams between two namespaces, a core each, offloads {}\n",
        if offloads { "on" } else { "off" }
    );
    println!("{}", table(&floor, &rows));
    if let Some(floor) = &floor {
        floor.say(offloads && size == 1350);
    }
    if let Some(path) = json {
        write(
            &path,
            &json!({
                "machine": machine, "size": size, "offloads": offloads,
                "floor": floor.as_ref().map(Floor::json), "parts": rows.iter().map(Row::json).collect::<Vec<_>>(),
            }),
        )?;
    }
    Ok(())
}

fn choose(named: Option<&str>) -> Result<Vec<&'static str>> {
    Ok(super::choose("part", PARTS, named, |part| *part)?.into_iter().copied().collect())
}

/// Writes a benchmark's JSON.
pub fn write(path: &Path, value: &Value) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}

struct Row {
    part: &'static str,
    runs: Vec<Two>,
}

impl Row {
    fn median(&self, of: impl Fn(&Two) -> f64) -> f64 {
        median(self.runs.iter().map(of))
    }

    fn json(&self) -> Value {
        json!({
            "part": self.part,
            "gbit_per_second": self.median(Two::rate),
            "cpu_seconds_per_gbit": self.median(Two::cost),
            "sender": self.median(Two::sender), "receiver": self.median(Two::receiver),
            "runs": self.runs.iter().map(Two::json).collect::<Vec<_>>(),
        })
    }
}

/// What each end cannot do without, CPU seconds per Gbit.
struct Floor {
    sender: f64,
    receiver: f64,
    raw: f64,
    aead: f64,
}

impl Floor {
    /// `None` when the bare sockets were not measured.
    fn new(aead: &[[f64; 2]], rows: &[Row]) -> Option<Self> {
        let raw = rows.iter().find(|row| row.part == "raw")?;
        let [seal, open] = [0, 1].map(|side| median(aead.iter().map(|both| both[side])));
        Some(Self {
            sender: raw.median(Two::sender) + seal,
            receiver: raw.median(Two::receiver) + open,
            raw: raw.median(Two::cost),
            aead: seal + open,
        })
    }

    fn cost(&self) -> f64 {
        self.raw + self.aead
    }

    /// With a core for each end, Gbit/s.
    fn allows(&self) -> f64 {
        1.0 / self.sender.max(self.receiver)
    }

    fn say(&self, known: bool) {
        println!(
            "The floor of a sealed datagram: sockets {:.4} + AEAD {:.4} = {:.4} CPU s/Gbit; it allows {:.1} Gbit/s.",
            self.raw,
            self.aead,
            self.cost(),
            self.allows()
        );
        if known && self.cost() > VOID * FLOOR_KNOWN {
            println!(
                "Void, on the machine of docs/benchmarks.md: there it is {FLOOR_KNOWN}, so this run was disturbed."
            );
        }
    }

    fn json(&self) -> Value {
        json!({ "sockets": self.raw, "aead": self.aead, "sum": self.cost(), "allows_gbit_per_second": self.allows() })
    }
}

fn table(floor: &Option<Floor>, rows: &[Row]) -> String {
    let quinn = ["quinn", "quinn-tuned"].map(|name| rows.iter().find(|row| row.part == name));
    // The better of quinn's two.
    let quinn =
        quinn.into_iter().flatten().max_by(|a, b| a.median(Two::rate).total_cmp(&b.median(Two::rate)));
    let mut text = String::from(
        "| part | Gbit/s | ÷ allowed | CPU s/Gbit | sender | receiver | ÷ floor | Gbit/s ÷ quinn | CPU ÷ quinn | calls per 10⁶ packets | allocations per 10⁶ |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (rate, cost) = (row.median(Two::rate), row.median(Two::cost));
        let (allowed, bottom) = match floor {
            Some(floor) if row.part != "raw" => {
                (ratio(rate, Some(floor.allows())), ratio(cost, Some(floor.cost())))
            }
            _ => ("–".into(), "–".into()),
        };
        let per_million = |of: fn(&Two) -> Option<f64>| match row.runs.first().and_then(of) {
            Some(_) => format!("{:.0}", row.median(|two| of(two).unwrap_or(f64::NAN))),
            None => "–".into(),
        };
        text += &format!(
            "| {} | {rate:.2} | {allowed} | {cost:.4} | {:.4} | {:.4} | {bottom} | {} | {} | {} | {} |\n",
            row.part,
            row.median(Two::sender),
            row.median(Two::receiver),
            ratio(rate, quinn.map(|row| row.median(Two::rate))),
            ratio(cost, quinn.map(|row| row.median(Two::cost))),
            per_million(Two::calls),
            per_million(Two::allocations),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_sum_of_its_parts_and_the_slower_end_limits() {
        let two = |rate, sender, receiver| Two::example(rate, sender, receiver);
        let rows = [
            Row { part: "raw", runs: vec![two(50.0, 0.010, 0.014)] },
            Row {
                part: "datagrams",
                runs: vec![two(20.0, 0.05, 0.05), two(10.0, 0.06, 0.04), two(30.0, 0.1, 0.1)],
            },
            Row { part: "quinn", runs: vec![two(10.0, 0.1, 0.1)] },
        ];
        let floor = Floor::new(&[[0.026, 0.027], [0.026, 0.027], [0.9, 0.9]], &rows);
        let known = floor.as_ref().unwrap();
        assert!((known.cost() - 0.077).abs() < 1e-9);
        assert!((known.allows() - 1.0 / 0.041).abs() < 1e-9);
        let table = table(&floor, &rows);
        assert!(table.contains("| datagrams | 20.00 | 0.82 | 0.1000 |"), "{table}");
        assert!(table.contains("| 1.30 | 2.00 | 0.50 |"), "{table}");
        assert!(Floor::new(&[], &rows[1..]).is_none());
    }
}

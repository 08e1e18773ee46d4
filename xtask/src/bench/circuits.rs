//! `cargo xtask bench circuits`: very many circuits through one relay's daemon, and an honest one among them beside a neighbour that
//! sends what nobody should (examples/circuits).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{floor, machine};
use crate::args::Args;
use crate::lab::{Lab, Node, Wiring, node, scratch};
use crate::{able, setup, sh, stop};

/// What the neighbour does, if not told otherwise.
const KINDS: &str = "replayed,unknown,foreign,builds,flipped,cut";
/// An idle circuit's memory at a relay at most, bytes.
const EACH_MAX: f64 = 3072.0;
/// What honest cells keep of what they have alone, at least.
const KEPT_MIN: f64 = 0.9;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let count = args.number("--circuits", 10_000)?.clamp(500, 16_000);
    let rate = args.number("--rate", 20_000)?.clamp(100, 200_000);
    let seconds = args.number("--seconds", 5)?.clamp(1, 60);
    let kinds = args.value("--kinds")?.unwrap_or_else(|| KINDS.to_owned());
    let json = args.value("--json")?.map(PathBuf::from);
    let judge = !args.flag("--no-judge");
    let binary = args.value("--binary")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    let tool = tool.map_or_else(|| sh::build_example("circuits"), Ok)?;
    stop::listen();
    let about = machine::describe();
    println!("{}", machine::line(&about));
    let lab = Lab::new(Wiring::Namespaces, &scratch())?;
    let mut relay = Node::new(&lab, lab.a(), "relay", &binary, 4001, lab.dir().join("relay"));
    relay.init()?;
    relay.start()?;
    let network = network(&relay)?;
    let ms = Duration::from_secs(seconds).as_millis().to_string();
    let mut command = lab.b().command(tool);
    command.args([&relay.invite()?, &network, &count.to_string(), &rate.to_string(), &ms]);
    command.args(kinds.split(','));
    let mut crowd = Crowd::start(&mut command)?;
    let invite = crowd.hear()?;
    relay.run(&["friend", "add", invite.trim()], node::PROMPT)?;
    // Tables, buffers and the allocator are there before anybody comes; sessions come with the circuits.
    let before = relay.daemon()?.anonymous_memory()?;
    let built: Value = serde_json::from_str(&crowd.ask()?)?;
    let grown = relay.daemon()?.anonymous_memory()?.saturating_sub(before);
    let open = built["circuits"].as_f64().unwrap_or(0.0);
    ensure!(open >= count as f64, "only {open} of {count} circuits were built");
    let each = grown as f64 / open;
    let took = built["seconds"].as_f64().unwrap_or(f64::NAN);
    println!(
        "{open} circuits through one relay within {took:.0} s: {each:.0} bytes of its memory each, sessions among them"
    );
    let mut rows = Vec::new();
    for kind in std::iter::once("nothing").chain(kinds.split(',')) {
        let cpu = relay.daemon()?.cpu_seconds()?;
        let told: Value = serde_json::from_str(&crowd.ask()?)?;
        rows.push(Row::new(kind, &told, relay.daemon()?.cpu_seconds()? - cpu));
    }
    show(&rows);
    if let Some(path) = json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        floor::write(
            &path,
            &json!({
                "machine": about, "circuits": open, "bytes_each": each, "build_seconds": took, "rate": rate, "rows": rows,
            }),
        )?;
    }
    let faults = faults(each, &rows);
    ensure!(!judge || faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn network(node: &Node) -> Result<String> {
    let name = node.run(&["config", "get", "network"], node::PROMPT)?.stdout;
    Ok(name.trim().to_owned())
}

/// The tool, which does the next thing when it is asked.
struct Crowd {
    child: Child,
    ask: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Crowd {
    fn start(command: &mut std::process::Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("examples/circuits")?;
        let ask = child.stdin.take().context("its stdin")?;
        let told = BufReader::new(child.stdout.take().context("its stdout")?);
        Ok(Self { child, ask, told })
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.told.read_line(&mut line)? > 0, "examples/circuits ended: {:?}", self.child.wait()?);
        Ok(line)
    }

    fn ask(&mut self) -> Result<String> {
        stop::check()?;
        writeln!(self.ask, "go")?;
        self.hear()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Honest cells beside one kind of others.
struct Row {
    kind: String,
    sent: f64,
    came: f64,
    hostile: f64,
    /// What of the hostile ones came out at the circuit's end.
    passed: f64,
    /// Circuits that are left.
    circuits: f64,
    /// Of the relay, seconds.
    cpu: f64,
}

impl Row {
    fn new(kind: &str, told: &Value, cpu: f64) -> Self {
        let number = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
        Self {
            kind: kind.to_owned(),
            sent: number("sent"),
            came: number("came"),
            hostile: number("hostile"),
            passed: number("passed"),
            circuits: number("circuits"),
            cpu,
        }
    }

    fn share(&self) -> f64 {
        self.came / self.sent
    }

    fn json(&self) -> Value {
        json!({
            "kind": self.kind, "sent": self.sent, "came": self.came, "hostile": self.hostile,
            "passed": self.passed, "circuits": self.circuits, "cpu_seconds": self.cpu,
        })
    }
}

fn show(rows: &[Row]) {
    println!(
        "\n| beside | honest cells sent | came, % | hostile sent | passed on to the end | circuits left | relay's CPU, s |\n\
         |---|--:|--:|--:|--:|--:|--:|"
    );
    for row in rows {
        println!(
            "| {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} |",
            row.kind,
            row.sent,
            100.0 * row.share(),
            row.hostile,
            row.passed,
            row.circuits,
            row.cpu
        );
    }
}

fn faults(each: f64, rows: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    if each > EACH_MAX {
        faults.push(format!("a circuit takes {each:.0} bytes"));
    }
    let alone = rows.first().map_or(1.0, Row::share);
    for row in rows {
        if row.share() < KEPT_MIN * alone {
            faults.push(format!("beside {} {:.1} % of the honest cells came", row.kind, 100.0 * row.share()));
        }
        // What was replayed had been sent once.
        if row.passed > if row.kind == "replayed" { 1.0 } else { 0.0 } {
            faults.push(format!("{} cells passed the relay {} times", row.kind, row.passed));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, came: f64, passed: f64) -> Row {
        let told = json!({ "sent": 1000, "came": came, "hostile": 1000, "passed": passed, "circuits": 9 });
        Row::new(kind, &told, 1.0)
    }

    #[test]
    fn memory_speed_and_what_passes_are_judged() {
        let alone = row("nothing", 1000.0, 0.0);
        assert_eq!(faults(3000.0, &[alone, row("replayed", 950.0, 1.0)]), [""; 0]);
        assert_eq!(faults(3100.0, &[]).len(), 1);
        let alone = row("nothing", 1000.0, 0.0);
        assert_eq!(faults(1.0, &[alone, row("replayed", 899.0, 2.0), row("cut", 1000.0, 1.0)]).len(), 3);
    }
}

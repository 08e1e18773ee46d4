//! One daemon, its load, and what both did.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::measure::{self, Came};
use crate::lab::{Lab, Node, Process, Wiring, node, scratch};
use crate::sh;

const NETWORK: &str = "tornet";
/// The daemon's port, or its first shard's: an even one has the first core, and the load the second.
const PORT: u16 = 4002;
/// The load's first port (examples/shaped.rs).
pub const FIRST_PORT: u16 = 20_000;
/// Sessions begin at 40 per second; beyond that: starting, settling, ending.
const PATIENCE: Duration = Duration::from_secs(90);

/// A daemon that publishes something, and those who will ask it.
pub struct Bench {
    pub lab: Lab,
    pub daemon: Node,
    tool: PathBuf,
    /// Node ids of the sessions to be.
    pub nodes: Vec<String>,
}

/// What is asked for.
pub struct Load {
    pub seconds: u64,
    /// Further sessions begun per second.
    pub probes: u64,
    pub alternate: bool,
}

/// What was measured.
pub struct Took {
    pub log: Vec<Came>,
    pub length_ns: u64,
    /// How long each further handshake took, microseconds; infinite for those that were never answered.
    pub probes: Vec<f64>,
    /// The daemon's port for each session.
    pub ports: Vec<u16>,
    /// The daemon's processor time while it was measured, cores.
    pub daemon: f64,
    /// The whole machine's without the load's, cores: what the kernel does for the daemon included.
    pub machine: f64,
}

impl Bench {
    /// A node with its content and its settings, not started.
    pub fn new(binary: &Path, tool: &Path, sessions: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new(Wiring::Namespaces, &scratch())?;
        let daemon = Node::new(&lab, lab.a(), "shaping", binary, PORT, lab.dir().join("node"));
        daemon.init()?;
        for (key, value) in settings {
            daemon.run(&["config", "set", key, value], node::PROMPT)?;
        }
        let nodes = sh::read(Command::new(tool).args(["nodes", &sessions.to_string()]))?;
        let nodes = nodes.lines().map(str::to_owned).collect();
        Ok(Self { lab, daemon, tool: tool.to_path_buf(), nodes })
    }

    /// The first sessions become friends, whom the daemon cannot call.
    pub fn befriend(&self, count: usize) -> Result<()> {
        let words = ["invitations", NETWORK, &count.to_string()];
        for invitation in sh::read(Command::new(&self.tool).args(words))?.lines() {
            self.daemon.run(&["friend", "add", invitation], node::PROMPT)?;
        }
        Ok(())
    }

    /// Limits of single sessions, as `limits.peers` has them behind the node's id.
    pub fn limit(&self, of: impl Fn(usize) -> String) -> Result<()> {
        let all: Vec<String> =
            self.nodes.iter().enumerate().map(|(number, node)| format!("{node} {}", of(number))).collect();
        self.daemon.run(&["config", "set", "limits.peers", &all.join(",")], node::PROMPT).map(drop)
    }

    /// `tc` on the daemon's host, line by line; `DEV` stands for its device.
    pub fn tc(&self, lines: &str) -> Result<()> {
        let file = self.lab.dir().join("tc");
        std::fs::write(&file, lines.replace("DEV", "to-b"))?;
        let mut tc = Command::new("tc");
        sh::read(tc.args(["-n", self.lab.a().namespace(), "-batch"]).arg(&file)).map(drop)
    }

    /// Starts the daemon.
    pub fn start(&mut self) -> Result<()> {
        let content = self.lab.dir().join("content");
        sh::read(Command::new(&self.tool).arg("content").arg(&content))?;
        self.daemon.start()?;
        self.daemon.put(&content).map(drop)
    }

    /// Loads the daemon, and measures.
    pub fn run(&mut self, load: &Load) -> Result<Took> {
        let log = self.lab.dir().join("log");
        let (count, seconds) = (self.nodes.len().to_string(), load.seconds.to_string());
        // The daemon's only shard is on the first core; several have all of them, and the load is small then.
        let words: &[&str] = if load.alternate { &[] } else { &["-c", "1"] };
        let mut command =
            self.lab.b().command(if words.is_empty() { self.tool.as_os_str() } else { "taskset".as_ref() });
        command.args(words);
        if !words.is_empty() {
            command.arg(&self.tool);
        }
        let alternate = if load.alternate { "alternate" } else { "all" };
        command.args(["load", &self.daemon.invite()?, NETWORK, &count, &seconds]);
        command.args([&load.probes.to_string(), alternate]).arg(&log);
        let limit = PATIENCE
            + Duration::from_secs(load.seconds)
            + Duration::from_millis(25 * self.nodes.len() as u64);
        let mut tool = Process::start("load", self.lab.dir(), &mut command)?;
        tool.wait_line("begin", limit)?;
        let before = (self.daemon.daemon()?.cpu_seconds()?, machine()?, tool.cpu_seconds()?);
        std::thread::sleep(Duration::from_secs(load.seconds).saturating_sub(Duration::from_millis(200)));
        let after = (self.daemon.daemon()?.cpu_seconds()?, machine()?, tool.cpu_seconds()?);
        let status = tool.wait(limit)?;
        ensure!(status.success(), "the load: {status}\n{}", tool.stderr());
        let took = load.seconds as f64 - 0.2;
        let said = tool.stdout();
        let line = |name: &str| -> Result<Vec<String>> {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            Ok(line
                .with_context(|| format!("no {name} in {said:?}"))?
                .split_whitespace()
                .map(str::to_owned)
                .collect())
        };
        let log = measure::parse(&std::fs::read(&log)?)?;
        ensure!(!log.is_empty(), "nothing came");
        Ok(Took {
            log,
            length_ns: load.seconds * 1_000_000_000,
            probes: line("probes")?.iter().map(|word| word.parse().unwrap_or(f64::INFINITY)).collect(),
            ports: line("ports")?.iter().map(|word| word.parse()).collect::<Result<_, _>>()?,
            daemon: (after.0 - before.0) / took,
            machine: (after.1 - before.1 - (after.2 - before.2)) / took,
        })
    }

    /// `status --json`.
    pub fn status(&self) -> Result<Value> {
        self.daemon.status()
    }
}

/// Processor time that the machine spent on anything, seconds.
fn machine() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    ensure!(ticks.len() >= 8, "/proc/stat: {line}");
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    Ok((ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0)
}

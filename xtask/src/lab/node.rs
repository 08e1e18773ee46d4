//! A tornet node of a lab, driven by its command line alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Finished, Host, Lab, Process};
use crate::stop;

/// What a daemon may take to be ready, and any command that moves no data.
pub const PROMPT: Duration = Duration::from_secs(20);
/// What moving data may take at most, however slow the machine.
pub const PATIENT: Duration = Duration::from_secs(600);

/// One node: its folder, and its daemon while that runs.
pub struct Node {
    /// Where it runs.
    pub host: Host,
    /// Its `--dir`.
    pub dir: PathBuf,
    /// Its name in this lab; names its logs.
    pub name: String,
    port: String,
    binary: PathBuf,
    logs: PathBuf,
    daemon: Option<Process>,
}

impl Node {
    /// A node that does not exist yet; its folder will be `dir`.
    pub fn new(lab: &Lab, host: &Host, name: &str, binary: &Path, port: u16, dir: PathBuf) -> Node {
        let logs = lab.dir().to_path_buf();
        let (host, name, binary) = (host.clone(), name.to_string(), binary.to_path_buf());
        Node { host, dir, name, port: port.to_string(), binary, logs, daemon: None }
    }

    /// `tornet --dir DIR WORDS…` on its host.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command(&self.binary);
        command.arg("--dir").arg(&self.dir).args(words);
        command
    }

    /// The same through another program, such as strace, which replaces itself by what it is given.
    pub fn command_through(&self, through: &[String], words: &[&str]) -> Command {
        let mut command = self.host.command(&through[0]);
        command.args(&through[1..]).arg(&self.binary).arg("--dir").arg(&self.dir).args(words);
        command
    }

    /// Its port, as a word.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Runs a command to its end, whatever that is.
    pub fn attempt(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        let label = format!("{}-{}", self.name, words[0]);
        Process::finish(&label, &self.logs, &mut self.command(words), limit)
    }

    /// Runs a command that must succeed; its stdout.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        let done = self.attempt(words, limit)?;
        if !done.status.success() {
            bail!("tornet {}: {}\n{}", words.join(" "), done.status, done.stderr.trim_end());
        }
        Ok(done)
    }

    /// Starts a command and does not wait for it.
    pub fn launch(&self, words: &[&str]) -> Result<Process> {
        let label = format!("{}-{}", self.name, words[0]);
        Process::start(&label, &self.logs, &mut self.command(words))
    }

    /// `init`.
    pub fn init(&self) -> Result<Finished> {
        self.run(&["init", "--port", &self.port], PROMPT)
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "{} runs already", self.name);
        let daemon = self.launch(&["run"])?;
        self.ready(daemon)
    }

    /// The same through another program.
    pub fn start_through(&mut self, through: &[String]) -> Result<()> {
        ensure!(self.daemon.is_none(), "{} runs already", self.name);
        let label = format!("{}-run", self.name);
        let daemon = Process::start(&label, &self.logs, &mut self.command_through(through, &["run"]))?;
        self.ready(daemon)
    }

    fn ready(&mut self, mut daemon: Process) -> Result<()> {
        daemon.wait_line("ready", PROMPT)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Whether its daemon was started and has not ended, by itself or killed by others.
    pub fn runs(&mut self) -> Result<bool> {
        match &mut self.daemon {
            Some(daemon) => Ok(!daemon.ended()?),
            None => Ok(false),
        }
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().with_context(|| format!("{} does not run", self.name))
    }

    /// Gives the running daemon away, to whoever keeps it from here on.
    pub fn take_daemon(&mut self) -> Result<Process> {
        self.daemon.take().with_context(|| format!("{} does not run", self.name))
    }

    /// `kill -9` of the daemon.
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Ends the daemon as systemd or Ctrl-C would; it must end well.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        let mut daemon = self.daemon.take().with_context(|| format!("{} does not run", self.name))?;
        daemon.signal(signal)?;
        let status = daemon.wait(PROMPT)?;
        ensure!(status.success(), "{} ended with {status}:\n{}", self.name, daemon.stderr().trim_end());
        Ok(())
    }

    /// `invite`: where others find it.
    pub fn invite(&self) -> Result<String> {
        let printed = self.run(&["invite"], PROMPT)?.stdout;
        let token = printed.lines().rev().find(|line| line.starts_with("tornet:node:"));
        Ok(token.with_context(|| format!("no invitation in {printed:?}"))?.to_string())
    }

    /// `friend add`.
    pub fn befriend(&self, other: &Node) -> Result<()> {
        self.run(&["friend", "add", &other.invite()?], PROMPT).map(drop)
    }

    /// `put` of one path; what it said and the reference.
    pub fn put(&self, path: &Path) -> Result<(Finished, String)> {
        let done = self.run(&["put", text(path)?], PATIENT)?;
        let reference = done.stdout.lines().last().unwrap_or_default().to_string();
        ensure!(reference.starts_with("tornet:"), "put's last line is no reference: {reference:?}");
        Ok((done, reference))
    }

    /// `get`, which must succeed.
    pub fn get(&self, reference: &str, to: &Path) -> Result<Finished> {
        self.run(&["get", reference, "-o", text(to)?], PATIENT)
    }

    /// `status --json`.
    pub fn status(&self) -> Result<Value> {
        let done = self.run(&["status", "--json"], PROMPT)?;
        serde_json::from_str(&done.stdout).with_context(|| format!("status --json: {:?}", done.stdout))
    }

    /// Waits until both daemons say that the other is a friend of theirs and that they have a session. A daemon that
    /// was just started can say so only of a session of its own; whom it does not know it lets in as a stranger.
    pub fn meets(&self, other: &Node) -> Result<()> {
        let (own, others) = (self.status()?, other.status()?);
        for (node, peer, key) in [(self, other, &others["key"]), (other, self, &own["key"])] {
            let mut last = Value::Null;
            let met = stop::until(PROMPT, || {
                let status = node.status()?;
                let peers = status["peers"].as_array().context("status --json has no peers")?;
                last = peers.iter().find(|entry| entry["key"] == *key).cloned().unwrap_or_default();
                Ok(last["connected"] == true && last["trust"].is_number())
            })?;
            ensure!(met, "{} did not meet {} as its friend within {PROMPT:?}: {last}", node.name, peer.name);
        }
        Ok(())
    }
}

/// Two nodes that are friends, `a` and `b`, one on each host, running.
pub fn pair(lab: &Lab, binary: &Path) -> Result<(Node, Node)> {
    pair_in(lab, binary, lab.dir())
}

/// The same, the first one's folder in `place`: on a disk of its own, perhaps.
pub fn pair_in(lab: &Lab, binary: &Path, place: &Path) -> Result<(Node, Node)> {
    // Ports differ, since both hosts may be this machine's loopback.
    let mut a = Node::new(lab, lab.a(), "a", binary, 4001, place.join("node-a"));
    let mut b = Node::new(lab, lab.b(), "b", binary, 4002, lab.dir().join("node-b"));
    for node in [&mut a, &mut b] {
        node.init()?;
        node.start()?;
    }
    a.befriend(&b)?;
    b.befriend(&a)?;
    a.meets(&b)?;
    Ok((a, b))
}

/// A path as a word of a command line.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

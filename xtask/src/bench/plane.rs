//! The processes of examples/plane and benches/quinn, one at each end of a lab.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, Lab, Process};
use crate::sh;

/// Each pair has a port of its own: the kernel lets go of a ring's sockets some time after its process is gone.
static PORT: AtomicU16 = AtomicU16::new(4700);
/// Beyond what is measured: starting, settling, ending.
const PATIENCE: Duration = Duration::from_secs(60);

/// What runs.
pub struct Tools {
    /// `examples/plane`.
    pub plane: PathBuf,
    quinn: PathBuf,
}

impl Tools {
    /// Builds what is needed, unless it was.
    pub fn build(plane: Option<PathBuf>, quinn: bool) -> Result<Self> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| sh::root().join("target"), PathBuf::from);
        let target = sh::root().join(target);
        let plane = match plane {
            Some(path) => path,
            None => sh::build_example("plane")?,
        };
        if quinn {
            let manifest = ["build", "--release", "--locked", "--manifest-path", "benches/quinn/Cargo.toml"];
            sh::run(sh::cargo().args(manifest).arg("--target-dir").arg(target.join("quinn")))?;
        }
        Ok(Self { plane, quinn: target.join("quinn/release/quinn-stream") })
    }
}

/// What one end did.
#[derive(Debug, Clone)]
pub struct One(Value);

impl One {
    fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap_or(0.0)
    }

    /// Of a shard's counters.
    fn counter(&self, name: &str) -> f64 {
        self.0["counters"][name].as_f64().unwrap_or(0.0)
    }

    /// Cores that it kept busy.
    fn cores(&self) -> f64 {
        (self.number("user") + self.number("system")) / self.number("seconds")
    }

    fn rate(&self) -> f64 {
        self.number("bytes") * 8.0 / 1e9 / self.number("seconds")
    }
}

/// What both ends did, by what the receiver took.
#[derive(Debug, Clone)]
pub struct Two {
    sender: One,
    receiver: One,
}

impl Two {
    /// Gbit/s that came.
    pub fn rate(&self) -> f64 {
        self.receiver.rate()
    }

    /// CPU seconds per Gbit, both ends.
    pub fn cost(&self) -> f64 {
        self.sender() + self.receiver()
    }

    /// CPU seconds per Gbit of the sender.
    pub fn sender(&self) -> f64 {
        self.sender.cores() / self.rate()
    }

    /// CPU seconds per Gbit of the receiver.
    pub fn receiver(&self) -> f64 {
        self.receiver.cores() / self.rate()
    }

    /// What the shards' counters say, per million datagrams that came.
    fn per_million(&self, of: impl Fn(&One) -> f64) -> Option<f64> {
        let packets = self.receiver.counter("udp_received_segments");
        (packets > 0.0).then(|| (of(&self.sender) + of(&self.receiver)) * 1e6 / packets)
    }

    /// System calls of both shards per million datagrams.
    pub fn calls(&self) -> Option<f64> {
        self.per_million(|one| one.counter("shard_enters"))
    }

    /// Allocations of both processes per million datagrams.
    pub fn allocations(&self) -> Option<f64> {
        self.per_million(|one| one.number("allocations"))
    }

    /// Everything.
    pub fn json(&self) -> Value {
        serde_json::json!({ "sender": self.sender.0, "receiver": self.receiver.0 })
    }

    #[cfg(test)]
    pub fn example(rate: f64, sender: f64, receiver: f64) -> Self {
        let one = |cost: f64| {
            let bytes = rate * 1e9 / 8.0;
            One(serde_json::json!({ "seconds": 1.0, "bytes": bytes, "user": cost * rate, "system": 0.0 }))
        };
        Self { sender: one(sender), receiver: one(receiver) }
    }
}

/// Sealing and opening alone, CPU seconds per Gbit each.
pub fn aead(lab: &Lab, tools: &Tools, size: u64) -> Result<[f64; 2]> {
    alone(lab, tools, "aead", size, ["seal", "open"])
}

/// Reading memory that no cache holds, CPU seconds per Gbit.
pub fn read(lab: &Lab, tools: &Tools, size: u64) -> Result<f64> {
    alone(lab, tools, "read", size, ["read"]).map(|[read]| read)
}

fn alone<const N: usize>(
    lab: &Lab,
    tools: &Tools,
    part: &str,
    size: u64,
    names: [&str; N],
) -> Result<[f64; N]> {
    let mut command = lab.a().command(&tools.plane);
    command.args([part, "0", "1", &size.to_string()]);
    let done = Process::finish(part, lab.dir(), &mut command, PATIENCE)?;
    ensure!(done.status.success(), "{part}: {}\n{}", done.status, done.stderr);
    let one = One(serde_json::from_str(done.stdout.trim())?);
    let gbit = one.number("bytes") * 8.0 / 1e9;
    ensure!(gbit > 0.0, "{part}: nothing was measured");
    Ok(names.map(|name| one.number(name) / gbit))
}

/// One part from host A to host B, measured for so many seconds.
pub fn pair(lab: &Lab, tools: &Tools, part: &str, seconds: u64, size: u64) -> Result<Two> {
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let address = format!("{}:{port}", lab.b().address);
    let (seconds, size) = (seconds.to_string(), size.to_string());
    let certificate = lab.dir().join("quinn.der");
    let command = |host: &Host, end: &str, core: &str| -> Command {
        if let Some(how) = part.strip_prefix("quinn") {
            let mut command = host.command(&tools.quinn);
            command.args([end, &address, core, &seconds]).arg(&certificate).arg(how.trim_start_matches('-'));
            return command;
        }
        let mut command = host.command(&tools.plane);
        command.args([part, end, &address, core, &seconds, &size]);
        command
    };
    let mut receiver = Process::start("receiver", lab.dir(), &mut command(lab.b(), "at", "1"))?;
    receiver.wait_line("ready", PATIENCE)?;
    let mut sender = Process::start("sender", lab.dir(), &mut command(lab.a(), "to", "0"))?;
    // Which of the two ends first is chance; the other may then fail, after it has said its line.
    let said = |process: &mut Process, name: &str| -> Result<One> {
        let status = process.wait(PATIENCE)?;
        let out = process.stdout();
        let line = out.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{part}, {name}: {status}\n{}", process.stderr()))?;
        Ok(One(serde_json::from_str(line)?))
    };
    let two = Two { receiver: said(&mut receiver, "receiver")?, sender: said(&mut sender, "sender")? };
    ensure!(two.rate() > 0.0, "{part}: nothing came");
    Ok(two)
}

/// Round trips of one part.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// Half of them took no longer.
    pub p50_us: f64,
    /// All but one in a hundred.
    pub p99_us: f64,
    /// Of a core, what the answering process used while nobody asked.
    pub idle: f64,
}

impl Echo {
    /// Everything.
    pub fn json(&self) -> Value {
        serde_json::json!({ "p50_us": self.p50_us, "p99_us": self.p99_us, "idle": self.idle })
    }
}

/// One part that answers host A from host B.
pub fn echo(lab: &Lab, tools: &Tools, part: &str, seconds: u64, size: u64) -> Result<Echo> {
    let address = format!("{}:{}", lab.b().address, PORT.fetch_add(1, Ordering::Relaxed));
    let (seconds, size) = (seconds.to_string(), size.to_string());
    let command = |host: &Host, end: &str, core: &str| -> Command {
        let mut command = host.command(&tools.plane);
        command.args([part, end, &address, core, &seconds, &size]);
        command
    };
    let mut there = Process::start("echo-there", lab.dir(), &mut command(lab.b(), "at", "1"))?;
    there.wait_line("ready", PATIENCE)?;
    let out = there.stdout();
    let idle = out.lines().find(|line| line.starts_with('{')).context("no word of idling")?;
    let idle = One(serde_json::from_str(idle)?);
    let done = Process::finish("echo-here", lab.dir(), &mut command(lab.a(), "to", "0"), PATIENCE)?;
    ensure!(done.status.success(), "{part}: {}\n{}", done.status, done.stderr);
    let told = One(serde_json::from_str(done.stdout.trim())?);
    ensure!(told.number("count") > 10.0, "{part}: hardly an answer came: {}", told.0);
    let idle = idle.number("cpu") / idle.number("seconds");
    Ok(Echo { p50_us: told.number("p50_us"), p99_us: told.number("p99_us"), idle })
}

//! BitTorrent: libtorrent by its Python binding (scripts/bench/libtorrent_peer.py), and rqbit.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::peer::{Contestant, Entry, Job, Sample, Settings, fetch};
use crate::lab::{Lab, Process, node};
use crate::{setup, sh};

/// libtorrent over TCP.
pub const TCP: Entry =
    Entry { name: "libtorrent", protection: "SHA-1 only", version, prepare: |_, job| prepare(job, "tcp") };
/// The same with the protocol's stream cipher.
pub const ENCRYPTED: Entry = Entry {
    name: "libtorrent-rc4",
    protection: "RC4, SHA-1",
    version,
    prepare: |_, job| prepare(job, "encrypted"),
};
/// libtorrent over uTP.
pub const UTP: Entry = Entry {
    name: "libtorrent-utp",
    protection: "SHA-1 only",
    version,
    prepare: |_, job| prepare(job, "utp"),
};
/// rqbit over TCP.
pub const RQBIT: Entry = Entry {
    name: "rqbit",
    protection: "SHA-1 only",
    version: |_| Ok(sh::read(Command::new(rqbit()?).arg("--version"))?.trim().to_string()),
    prepare: prepare_rqbit,
};

/// Debian's own Python: others have no libtorrent.
const PYTHON: &str = "/usr/bin/python3";
const RQBIT_VERSION: &str = "9.1.0";

struct Libtorrent {
    mode: &'static str,
    torrent: PathBuf,
    server: Process,
}

fn script() -> PathBuf {
    sh::root().join("scripts/bench/libtorrent_peer.py")
}

fn version(_: &Settings) -> Result<String> {
    Ok(format!("libtorrent {}", sh::read(Command::new(PYTHON).arg(script()).arg("version"))?.trim()))
}

/// A torrent of the input, made once per lab.
fn torrent(job: &Job) -> Result<PathBuf> {
    // Whether it is there depends on Python's version, so ask Python.
    let there = Command::new(PYTHON).args(["-c", "import libtorrent"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        setup::install(&["python3-libtorrent"])?;
    }
    let torrent = job.lab.dir().join("input.torrent");
    if !torrent.exists() {
        sh::read(Command::new(PYTHON).arg(script()).arg("make").arg(&job.input).arg(&torrent))?;
    }
    Ok(torrent)
}

fn prepare(job: &Job, mode: &'static str) -> Result<Box<dyn Contestant>> {
    let torrent = torrent(job)?;
    let mut command = job.lab.a().command(PYTHON);
    command.arg(script()).arg("seed").arg(&torrent).arg(folder(&job.input)?).args([port(mode), mode]);
    let mut server = Process::start(&format!("seed-{mode}"), job.lab.dir(), &mut command)?;
    server.wait_line("ready", node::PROMPT)?;
    Ok(Box::new(Libtorrent { mode, torrent, server }))
}

fn port(mode: &str) -> &'static str {
    match mode {
        "tcp" => "4301",
        "encrypted" => "4302",
        _ => "4303",
    }
}

impl Contestant for Libtorrent {
    fn run(&mut self, job: &Job, out: &Path) -> Result<Sample> {
        let label = format!("leech-{}", self.mode);
        let folder = job.lab.make_dir(&label)?;
        let mut command = job.lab.b().command(PYTHON);
        command.arg(script()).arg("leech").arg(&self.torrent).arg(&folder).args(["4310", self.mode]);
        command.args([&job.lab.a().address.to_string(), port(self.mode)]);
        let mut leech = Process::start(&label, job.lab.dir(), &mut command)?;
        // Python and its session are up before the clock starts, as tornet's daemons are.
        leech.wait_line("ready", node::PROMPT)?;
        let before = leech.cpu_seconds()? + self.server.cpu_seconds()?;
        let start = Instant::now();
        leech.signal(Signal::SIGUSR1)?;
        leech.wait_line("done", node::PATIENT)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = leech.cpu_seconds()? + self.server.cpu_seconds()? - before;
        leech.wait_line("flushed", node::PROMPT)?;
        leech.kill();
        take(job, &folder, out)?;
        Ok(Sample { seconds, cpu_seconds })
    }
}

struct Rqbit {
    program: PathBuf,
    torrent: PathBuf,
    server: Process,
}

/// rqbit, built into target/tools the first time.
fn rqbit() -> Result<PathBuf> {
    if let Some(found) = sh::which("rqbit") {
        return Ok(found);
    }
    let place = sh::root().join("target/tools");
    let program = place.join("bin/rqbit");
    if !program.exists() {
        println!("building rqbit into target/tools (some minutes, once)");
        let mut install = sh::cargo();
        install.args(["install", "rqbit", "--locked", "--quiet", "--version", RQBIT_VERSION, "--root"]);
        sh::run(install.arg(&place).env("CARGO_TARGET_DIR", place.join("build")))?;
        std::fs::remove_dir_all(place.join("build")).ok();
    }
    Ok(program)
}

/// No overlay, no trackers, no port mapping: only the two of them.
fn alone(lab: &Lab, on_a: bool, program: &Path, port: &str) -> Command {
    let host = if on_a { lab.a() } else { lab.b() };
    let mut command = host.command(program);
    // Its state goes into the lab.
    command.env("HOME", lab.dir());
    command.args(["--disable-dht", "--disable-dht-persistence", "--disable-lsd", "--disable-trackers"]);
    command.args([
        "--disable-upnp-port-forward",
        "--ipv4-only",
        "-v",
        "error",
        "--listen-port",
        port,
        "download",
    ]);
    command.arg("--disable-http-api");
    command
}

fn prepare_rqbit(_: &Settings, job: &Job) -> Result<Box<dyn Contestant>> {
    let program = rqbit()?;
    let torrent = torrent(job)?;
    let mut command = alone(job.lab, true, &program, "4400");
    command.arg("--overwrite").arg("-o").arg(folder(&job.input)?).arg(&torrent);
    let mut server = Process::start("rqbit-seed", job.lab.dir(), &mut command)?;
    // It says nothing when it has checked its file; it has when it stops using the processor.
    let mut last = -1.0;
    let mut still = Instant::now();
    let idle = crate::stop::until(node::PATIENT, || {
        anyhow::ensure!(!server.ended()?, "rqbit: {}", server.stderr());
        let now = server.cpu_seconds()?;
        if now - last > 0.02 {
            (last, still) = (now, Instant::now());
        }
        Ok(now > 0.1 && still.elapsed().as_secs() >= 2)
    })?;
    anyhow::ensure!(idle, "rqbit never finished checking its file");
    Ok(Box::new(Rqbit { program, torrent, server }))
}

impl Contestant for Rqbit {
    fn run(&mut self, job: &Job, out: &Path) -> Result<Sample> {
        let folder = job.lab.make_dir("rqbit-leech")?;
        let mut command = alone(job.lab, false, &self.program, "4401");
        command.arg("--exit-on-finish").arg("-o").arg(&folder).arg(&self.torrent);
        command.arg("--initial-peers").arg(format!("{}:4400", job.lab.a().address));
        let sample = fetch(job, "rqbit-leech-run", &self.server, &mut command)?;
        take(job, &folder, out)?;
        Ok(sample)
    }
}

/// Brings what was fetched into `folder` to where it is looked for.
fn take(job: &Job, folder: &Path, out: &Path) -> Result<()> {
    let name = job.input.file_name().context("the input's name")?;
    std::fs::rename(folder.join(name), out).context("nothing was fetched")?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn folder(input: &Path) -> Result<&Path> {
    input.parent().context("the input's folder")
}

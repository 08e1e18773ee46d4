//! What every contestant is: something that is prepared once and then moves one file from host A to host B,
//! again and again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::lab::{Finished, Lab, Process};
use crate::setup;

/// What is moved, and where.
pub struct Job<'l> {
    /// The hosts.
    pub lab: &'l Lab,
    /// The file, on A.
    pub input: PathBuf,
    /// Its size, bytes.
    pub size: u64,
}

/// One measured transfer.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From asking for the file until all of it is verified (where the peer verifies) and written.
    pub seconds: f64,
    /// User and system time of every process of it at both ends.
    pub cpu_seconds: f64,
}

/// A contestant, ready to run.
pub trait Contestant {
    /// Moves the file to `out` once.
    fn run(&mut self, job: &Job, out: &Path) -> Result<Sample>;
}

/// A contestant, not yet ready.
pub struct Entry {
    /// Its name in `--peers` and in the table.
    pub name: &'static str,
    /// What protects the bytes on their way.
    pub protection: &'static str,
    /// Where it comes from and its version.
    pub version: fn(&Settings) -> Result<String>,
    /// Makes it ready. An error means that it cannot run here, which is said aloud.
    pub prepare: fn(&Settings, &Job) -> Result<Box<dyn Contestant>>,
}

/// What the contestants may need to know.
pub struct Settings {
    /// The `tornet` to measure.
    pub binary: PathBuf,
}

/// Installs a Debian package if the file that it brings is missing.
pub fn needs_file(file: &str, packages: &[&str]) -> Result<()> {
    if Path::new(file).exists() { Ok(()) } else { setup::install(packages) }
}

/// Runs the fetching side to its end beside a serving process, and counts both.
pub fn fetch(job: &Job, label: &str, server: &Process, command: &mut Command) -> Result<Sample> {
    let before = server.cpu_seconds()?;
    let done = Process::finish(label, job.lab.dir(), command, crate::lab::node::PATIENT)?;
    succeeded(label, &done)?;
    Ok(Sample {
        seconds: done.took.as_secs_f64(),
        cpu_seconds: done.cpu_seconds + server.cpu_seconds()? - before,
    })
}

/// The process must have succeeded.
pub fn succeeded(label: &str, done: &Finished) -> Result<()> {
    anyhow::ensure!(done.status.success(), "{label}: {}\n{}{}", done.status, done.stderr, done.stdout);
    Ok(())
}

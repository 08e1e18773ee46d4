//! The link emulator (`emulator/` in the project) as a process of a lab.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail, ensure};

use super::Host;
use super::process::{self, tied};
use crate::sh;

/// The emulator as it was built by this process.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Builds the emulator, once, and says where it lies.
pub fn build() -> Result<&'static Path> {
    if let Some(built) = BINARY.get() {
        return Ok(built);
    }
    let built = sh::build("emulator", "emulator")?;
    Ok(BINARY.get_or_init(|| built))
}

/// One end of a link.
pub struct End<'a> {
    /// What control lines call it.
    pub host: &'a str,
    /// Where its device is to be.
    pub namespace: &'a str,
    /// The device's name.
    pub device: &'a str,
}

impl<'a> End<'a> {
    /// A host's device of that name.
    pub fn new((host, device): &'a (&Host, String)) -> End<'a> {
        End { host: &host.name, namespace: host.namespace(), device }
    }
}

/// A running emulator; killed and reaped when dropped, and its devices with it.
pub struct Emulator {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    stderr: PathBuf,
}

/// What the emulator counted in one direction, by name.
pub struct Stats(Vec<(String, f64)>);

impl Stats {
    /// One of the counts; its names are in docs/testing/lab.md.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value).with_context(|| format!("the emulator counts no {name:?}"))
    }
}

impl Emulator {
    /// Starts it with these links; its devices are there when this returns.
    pub fn start(dir: &Path, links: &[[End; 2]]) -> Result<Emulator> {
        // A cable waits for nobody: before the daemons, where there are fewer cores than work.
        let mut command = tied(&["nice", "-n", "-15"], build()?);
        for ends in links {
            let [a, b] = ends.each_ref().map(|end| format!("{}@{}/{}", end.host, end.namespace, end.device));
            command.arg(format!("{a},{b}"));
        }
        let stderr = dir.join("emulator.err");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&stderr)?);
        let mut child = command.spawn().with_context(|| sh::show(&command))?;
        let pipes = child.stdin.take().zip(child.stdout.take()).context("pipes were asked for")?;
        let emulator = Emulator { child, pipes: Mutex::new((pipes.0, BufReader::new(pipes.1))), stderr };
        emulator.exchange("", "ready")?;
        Ok(emulator)
    }

    /// Says a control line; what was answered.
    pub fn say(&self, line: &str) -> Result<Vec<String>> {
        ensure!(!line.contains('\n'), "one line at a time: {line:?}");
        self.exchange(&format!("{line}\n"), "ok")
    }

    /// What was counted between two hosts so far.
    pub fn stats(&self, from: &str, to: &str) -> Result<Stats> {
        let lines = self.say("stats")?;
        let prefix = format!("{from}>{to} ");
        let line = lines.iter().find_map(|line| line.strip_prefix(&prefix)).context("no such direction")?;
        let pair = |word: &str| -> Result<(String, f64)> {
            let (name, value) = word.split_once('=').with_context(|| line.to_string())?;
            Ok((name.to_string(), value.parse()?))
        };
        Ok(Stats(line.split_whitespace().map(pair).collect::<Result<_>>()?))
    }

    /// User and system time of it so far, seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.child.id())
    }

    /// Writes `text` and reads until the line `last`.
    fn exchange(&self, text: &str, last: &str) -> Result<Vec<String>> {
        let mut pipes = self.pipes.lock().map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))?;
        let (stdin, stdout) = &mut *pipes;
        let mut lines = Vec::new();
        let gone =
            || format!("the emulator ended: {}", std::fs::read_to_string(&self.stderr).unwrap_or_default());
        stdin.write_all(text.as_bytes()).with_context(gone)?;
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line)? == 0 {
                bail!(gone());
            }
            let line = line.trim_end();
            if line == last {
                return Ok(lines);
            }
            if let Some(why) = line.strip_prefix("error: ") {
                bail!("{why}");
            }
            lines.push(line.to_string());
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

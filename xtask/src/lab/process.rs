//! Processes of a lab: each has its output in files, its own process group (so that Ctrl-C reaches us
//! alone), and dies with its guard and with us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;

use crate::{sh, stop};

/// Ticks per second of the times in /proc, which Linux fixes for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// A command that the kernel kills when our thread ends, run through `words` (such as `ip netns exec`).
pub fn tied(words: &[&str], program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(words).arg(program);
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// A running process; killed and reaped when dropped.
pub struct Process {
    label: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A process that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
    /// Its user and system time, with that of its children, seconds.
    pub cpu_seconds: f64,
}

impl Process {
    /// Starts `command`; its output goes to `dir/LABEL.out` and `.err`, replacing what an earlier one of
    /// this label left.
    pub fn start(label: &str, dir: &Path, command: &mut Command) -> Result<Process> {
        stop::check()?;
        let (stdout, stderr) = (dir.join(format!("{label}.out")), dir.join(format!("{label}.err")));
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let shown = sh::show(command);
        let child = command.spawn().with_context(|| format!("{shown}: is `cargo xtask setup` needed?"))?;
        Ok(Process { label: label.to_string(), child, stdout, stderr })
    }

    /// Runs `command` to its end, at most `limit`.
    pub fn finish(label: &str, dir: &Path, command: &mut Command, limit: Duration) -> Result<Finished> {
        let cpu = children_cpu()?;
        let start = Instant::now();
        let mut process = Process::start(label, dir, command)?;
        let status = process.wait(limit)?;
        let took = start.elapsed();
        let cpu_seconds = children_cpu()? - cpu;
        Ok(Finished { status, stdout: process.stdout(), stderr: process.stderr(), took, cpu_seconds })
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Its number; of the program itself, since everything before it replaced itself with `exec`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time of all its threads so far, seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid()).with_context(|| self.label.clone())
    }

    /// Its anonymous memory, bytes: what it allocated, without the store's mapping.
    pub fn anonymous_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()? << 10)
    }

    /// Waits until it has printed `line` on stdout.
    pub fn wait_line(&mut self, line: &str, limit: Duration) -> Result<()> {
        let found = stop::until(limit, || {
            if read_lossy(&self.stdout).lines().any(|printed| printed == line) {
                return Ok(true);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before {line:?}:\n{}", self.label, self.stderr().trim_end());
            }
            Ok(false)
        })?;
        if !found {
            bail!("{}: no {line:?} within {limit:?}:\n{}", self.label, self.stderr().trim_end());
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let ended = stop::until(limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) if ended => Ok(status),
            _ => bail!("{}: still running after {limit:?}:\n{}", self.label, self.stderr().trim_end()),
        }
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).with_context(|| self.label.clone())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// User and system time of all children that ended and were waited for, seconds.
pub fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// User and system time of a process so far, seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_cpu(&stat).with_context(|| format!("/proc stat of {pid}: {stat}"))
}

/// Fields 14 and 15 (user, system time in ticks) of /proc/PID/stat; the name in field 2 may hold anything.
fn parse_cpu(stat: &str) -> Option<f64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 0 0 0 250 150 7 7 20 0 1 0 1 1 1";
        assert_eq!(parse_cpu(stat), Some(4.0));
        assert_eq!(parse_cpu("42 (x) S 1"), None);
        assert_eq!(parse_cpu(""), None);
    }

    #[test]
    fn output_status_and_times_of_a_process() {
        let dir = std::env::temp_dir().join(format!("xtask-process-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = tied(&[], Path::new("sh"));
        command.args(["-c", "echo out; echo err >&2; exit 7"]);
        let done = Process::finish("t", &dir, &mut command, Duration::from_secs(20)).unwrap();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(done.status.code(), Some(7));

        let mut command = tied(&[], Path::new("sh"));
        command.args(["-c", "echo ready; exec sleep 1000"]);
        let mut process = Process::start("u", &dir, &mut command).unwrap();
        process.wait_line("ready", Duration::from_secs(20)).unwrap();
        assert!(process.cpu_seconds().unwrap() < 5.0);
        assert!(!process.ended().unwrap());
        let pid = process.pid();
        process.kill();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let mut command = tied(&[], Path::new("sh"));
        let mut process = Process::start("v", &dir, command.args(["-c", "echo broken >&2; exit 1"])).unwrap();
        let error = process.wait_line("ready", Duration::from_secs(20)).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

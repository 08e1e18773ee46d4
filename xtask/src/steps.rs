//! Steps of `cargo xtask ci` and `cargo xtask test`: one after the other, the first failure being the last.
//!
//! Each runs in a process of its own, this program again with `--step NAME`, in a process group of its own and
//! with a limit: a step that hangs is ended with all that it started, and its last words are shown.

use std::io::{PipeReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::args::Args;
use crate::stop;

/// How a step ended.
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not done here, and why; said aloud in the summary.
    Skipped(String),
}

/// A step.
pub struct Step {
    /// What it is called.
    pub name: &'static str,
    /// Longer than this it takes on no machine, cold and busy as it may be, minutes.
    pub minutes: u64,
    /// What it does.
    pub run: fn() -> Result<Outcome>,
}

/// The exit status of a step that was skipped: what automake and others use.
const SKIPPED: i32 = 77;
/// Time to tear down namespaces and the like, once a step is asked to end.
const GRACE: Duration = Duration::from_secs(20);
/// What is kept of a step's output, bytes.
const LAST_WORDS: usize = 4096;
/// What the whole is meant to take at most, minutes.
const WHOLE_MINUTES: u64 = 35;

/// Runs the steps of `cargo xtask COMMAND`, or with `--step` one of them, here.
pub fn command(command: &str, mut args: Args, steps: &[&Step]) -> Result<()> {
    let only = args.value("--step")?;
    args.finish()?;
    stop::listen();
    let Some(only) = only else { return all(command, steps) };
    let step = steps.iter().find(|step| step.name == only);
    let names = || steps.iter().map(|step| step.name).collect::<Vec<_>>().join(", ");
    let step = step.with_context(|| format!("no step {only}; there are {}", names()))?;
    if let Outcome::Skipped(why) = (step.run)()? {
        println!("skipped: {why}");
        std::io::stdout().flush()?;
        std::process::exit(SKIPPED);
    }
    Ok(())
}

fn all(command: &str, steps: &[&Step]) -> Result<()> {
    let (began, mut done, mut failure) = (Instant::now(), Vec::new(), None);
    for step in steps {
        println!("\n── {}", step.name);
        let start = Instant::now();
        // Whatever is built meanwhile: this very program, and not what lies where it was.
        let mut again = Command::new("/proc/self/exe");
        again.args([command, "--step", step.name]);
        let result = stop::check().and_then(|()| limited(&mut again, Duration::from_secs(60 * step.minutes)));
        let note = match &result {
            Ok(Outcome::Passed) => "ok".to_string(),
            Ok(Outcome::Skipped(why)) => format!("SKIPPED: {why}"),
            Err(_) => "FAILED".to_string(),
        };
        done.push((step.name, start.elapsed(), note));
        if let Err(error) = result {
            failure = Some(error.context(format!("{}; alone: cargo xtask {command} --step {0}", step.name)));
            break;
        }
    }
    println!("\n{:<10} {:>8}  result", "step", "seconds");
    for (name, took, note) in &done {
        println!("{name:<10} {:>8.1}  {note}", took.as_secs_f64());
    }
    let took = began.elapsed();
    let long = if took.as_secs() > 60 * WHOLE_MINUTES { "  more than it is meant to take" } else { "" };
    println!("{:<10} {:>8.1}{long}", "all", took.as_secs_f64());
    failure.map_or(Ok(()), Err)
}

/// Runs a step's process to its end, or to `limit`.
fn limited(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn()?;
    // The pipe ends when all who write into it have.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut output = Output::of(reader);
    let mut status = None;
    let ended = stop::until(limit, || {
        output.pass_on(Duration::from_millis(50));
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    if !matches!(ended, Ok(true)) {
        end(&mut child, &mut output)?;
    }
    // Whoever outlives the step may hold its pipe open: no reason to wait.
    output.pass_on(Duration::from_millis(200));
    let (Some(status), true) = (status, ended?) else {
        bail!("still running after {limit:?}, and ended; its last output was:\n{}", output.last_words());
    };
    verdict(status, &output.last_words())
}

fn verdict(status: ExitStatus, said: &str) -> Result<Outcome> {
    if status.code() == Some(SKIPPED) {
        let why = said.lines().rev().find_map(|line| line.strip_prefix("skipped: "));
        return Ok(Outcome::Skipped(why.context("skipped without a reason")?.to_string()));
    }
    ensure!(status.signal().is_none(), "{status}; its last output was:\n{said}");
    ensure!(status.success(), "failed");
    Ok(Outcome::Passed)
}

/// Ends a step and all that is in its group: first as Ctrl-C would, so that it can clean up.
fn end(child: &mut Child, output: &mut Output) -> Result<()> {
    let group = Pid::from_raw(child.id().cast_signed());
    // It is not reaped yet, so that the number is still its own.
    let _ = killpg(group, Signal::SIGTERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE && child.try_wait()?.is_none() {
        output.pass_on(Duration::from_millis(50));
    }
    // Others in the group may be left, whatever became of its leader.
    let _ = killpg(group, Signal::SIGKILL);
    child.wait()?;
    Ok(())
}

/// What a step says: passed on at once, and its end remembered.
struct Output {
    parts: Receiver<Vec<u8>>,
    last: Vec<u8>,
}

impl Output {
    fn of(mut reader: PipeReader) -> Output {
        let (sender, parts) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Output { parts, last: Vec::new() }
    }

    /// Passes on what comes within `time`.
    fn pass_on(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut stdout = std::io::stdout().lock();
        while let Ok(part) = self.parts.recv_timeout(until.saturating_duration_since(Instant::now())) {
            // Nobody listens any more: the step goes on.
            let _ = stdout.write_all(&part).and_then(|()| stdout.flush());
            self.last.extend(part);
            let surplus = self.last.len().saturating_sub(LAST_WORDS);
            self.last.drain(..surplus);
        }
    }

    fn last_words(&self) -> String {
        const LINES: usize = 20;
        let text = String::from_utf8_lossy(&self.last);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Result<Outcome> {
        limited(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn a_step_passes_fails_or_is_skipped() {
        assert!(matches!(shell("echo fine", LONG).unwrap(), Outcome::Passed));
        assert_eq!(shell("exit 3", LONG).err().unwrap().to_string(), "failed");
        let skipped = shell("echo skipped: no reason; exit 77", LONG).unwrap();
        assert!(matches!(skipped, Outcome::Skipped(why) if why == "no reason"));
        assert!(shell("exit 77", LONG).is_err(), "skipped without a reason");
        let killed = shell("echo last words; kill -9 $$", LONG).err().unwrap().to_string();
        assert!(killed.contains("last words"), "{killed}");
    }

    #[test]
    fn a_step_that_hangs_is_ended_with_all_that_it_started() {
        // The first child ignores the request to end.
        let script = "(trap '' TERM; echo child $(sh -c 'echo $PPID'); exec sleep 1000) & wait";
        let error = shell(script, Duration::from_millis(500)).err().unwrap().to_string();
        assert!(error.contains("still running"), "{error}");
        let child = error.lines().find_map(|line| line.strip_prefix("child ")).expect("its number");
        let child = std::path::PathBuf::from(format!("/proc/{child}/stat"));
        // Gone, or dead and not yet reaped by whoever inherited it.
        let gone = || Ok(std::fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z ")));
        assert!(stop::until(LONG, gone).unwrap());
    }

    #[test]
    fn a_program_that_outlives_its_step_is_not_waited_for() {
        let start = Instant::now();
        let lives = "setsid sleep 30 & exit 0";
        assert!(matches!(shell(lives, LONG).unwrap(), Outcome::Passed));
        assert!(start.elapsed() < Duration::from_secs(25));
    }
}

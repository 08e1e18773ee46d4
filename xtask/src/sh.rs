//! Running commands: where the project is, who we are, and steps with times.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project").to_path_buf()
}

/// Whether we may make namespaces and install packages.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where `program` would be found.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An ordinary user's PATH on Debian lacks the directories where ip, tc and ethtool live.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // `cargo run` sets these for xtask; build scripts that watch them would be built anew each time that a
    // build from here follows one from the shell.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as one would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

/// Runs, with our stdout and stderr; not succeeding is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Runs and gives back stdout; not succeeding is an error that says what was on stderr.
pub fn read(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| shown.clone())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}\n{}", output.status, stderr.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `read` for a program and words.
pub fn words(program: &str, args: &[&str]) -> Result<String> {
    read(Command::new(program).args(args))
}

/// Builds the `tornet` binary as it is shipped and says where it lies.
pub fn build_release() -> Result<PathBuf> {
    build("tornet", "tornet")
}

/// Builds a binary of one of the project's packages, optimized, and says where it lies.
pub fn build(package: &str, binary: &str) -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--locked", "--package", package, "--bin", binary]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release").join(binary))
}

/// The binary that was asked for, else the release build.
pub fn binary_or_build(given: Option<PathBuf>) -> Result<PathBuf> {
    match given {
        Some(path) => std::fs::canonicalize(&path).with_context(|| path.display().to_string()),
        None => build_release(),
    }
}

/// How a step ended.
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not done here, and why; said aloud in the summary.
    Skipped(String),
}

/// Steps in order, the first failure being the last; with a summary.
pub struct Steps {
    done: Vec<(&'static str, Duration, String)>,
    began: Instant,
}

impl Steps {
    pub fn new() -> Steps {
        Steps { done: Vec::new(), began: Instant::now() }
    }

    /// Runs one step; on failure prints the summary and gives the error back.
    pub fn step(&mut self, name: &'static str, act: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        println!("\n── {name}");
        let start = Instant::now();
        let result = crate::stop::check().and_then(|()| act());
        let note = match &result {
            Ok(Outcome::Passed) => "ok".to_string(),
            Ok(Outcome::Skipped(why)) => format!("SKIPPED: {why}"),
            Err(_) => "FAILED".to_string(),
        };
        if let Ok(Outcome::Skipped(why)) = &result {
            println!("skipped: {why}");
        }
        self.done.push((name, start.elapsed(), note));
        if result.is_err() {
            self.summary();
        }
        result.map(drop).with_context(|| name.to_string())
    }

    /// Says what happened and how long it took.
    pub fn summary(&self) {
        println!("\n{:<10} {:>8}  result", "step", "seconds");
        for (name, took, note) in &self.done {
            println!("{name:<10} {:>8.1}  {note}", took.as_secs_f64());
        }
        println!("{:<10} {:>8.1}", "all", self.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_is_an_error_that_names_it() {
        let mut steps = Steps::new();
        steps.step("first", || Ok(Outcome::Passed)).unwrap();
        steps.step("second", || Ok(Outcome::Skipped("no reason".into()))).unwrap();
        let error = steps.step("third", || anyhow::bail!("broken")).unwrap_err();
        assert_eq!(format!("{error:#}"), "third: broken");
        assert_eq!(steps.done.len(), 3);
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_stderr() {
        let error = words("sh", &["-c", "echo broken >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert!(words("/no/such/program", &[]).is_err());
        assert_eq!(words("echo", &["a b"]).unwrap(), "a b\n");
    }
}

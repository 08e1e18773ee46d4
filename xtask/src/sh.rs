//! Running commands: where the project is and who we are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project").to_path_buf()
}

/// Whether we may install packages. What else is allowed is tried (`able`).
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

/// Builds one of the examples, optimized, and says where it lies.
pub fn build_example(name: &str) -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--locked", "--quiet", "--example", name]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release/examples").join(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_an_error_with_its_stderr() {
        let error = words("sh", &["-c", "echo broken >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert!(words("/no/such/program", &[]).is_err());
        assert_eq!(words("echo", &["a b"]).unwrap(), "a b\n");
    }
}

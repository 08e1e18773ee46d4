//! What dead runs left: found by name, removed only when its process is gone.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PREFIX;
use crate::sh;

/// Removes namespaces, mounts and folders of runs that are dead.
pub fn clean() -> Result<()> {
    if sh::is_root() && sh::which("ip").is_some() {
        for line in sh::words("ip", &["netns", "list"])?.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if owner(name).is_some_and(is_dead) {
                remove_namespace(name);
            }
        }
    }
    for scratch in remembered() {
        for entry in std::fs::read_dir(&scratch).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().and_then(owner).is_some_and(is_dead) {
                continue;
            }
            for mount in mounts_below(&entry.path()) {
                unmount(&mount);
            }
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Notes that labs may lie in `scratch`, so that a later run looks there.
pub fn remember(scratch: &Path) -> Result<()> {
    let scratch = std::fs::canonicalize(scratch)?;
    let mut known = remembered();
    if !known.contains(&scratch) {
        known.push(scratch);
        std::fs::create_dir_all(super::scratch())?;
        let lines: Vec<String> = known.iter().map(|path| path.display().to_string()).collect();
        std::fs::write(list(), lines.join("\n"))?;
    }
    Ok(())
}

fn list() -> PathBuf {
    super::scratch().join("places")
}

fn remembered() -> Vec<PathBuf> {
    std::fs::read_to_string(list()).unwrap_or_default().lines().map(PathBuf::from).collect()
}

/// Ends what runs in a namespace and removes it. Best effort: this is the way out.
pub fn remove_namespace(name: &str) {
    let pids = sh::words("ip", &["netns", "pids", name]).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = sh::words("ip", &["netns", "delete", name]);
}

/// Takes a mount away, even while something still has a file open there.
pub fn unmount(path: &Path) {
    let _ = sh::read(std::process::Command::new("umount").arg("--lazy").arg(path));
}

/// `tornet-lab-123-0` and `tornet-lab-123-0-a` → 123.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether no xtask runs under that number (another program may have got it since). Tests of this crate run from
/// a file whose name starts alike. The name of the process alone would not do: a step of CI is called `exe`.
fn is_dead(pid: u32) -> bool {
    let starts = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b"xtask");
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(file) => !file.file_name().is_some_and(starts),
        // Somebody else's, if it is there at all.
        Err(_) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            !starts(name.as_ref()) && name.trim_end() != "exe"
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    paths.filter(|path| path.starts_with(dir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("tornet-lab-123-0-a"), Some(123));
        assert_eq!(owner("tornet-lab-123-0"), Some(123));
        for other in ["tornet", "tornet-lab-", "tornet-lab-a-1", "tornet-123-a", "xtornet-lab-1-a"] {
            assert_eq!(owner(other), None, "{other}");
        }
        assert!(!is_dead(std::process::id()));
        assert!(is_dead(u32::MAX));
        assert!(is_dead(1), "init is not an xtask");
    }
}

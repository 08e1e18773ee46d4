//! Looking for a mistake: commands of this project that are run in the copy, and what in their output says that
//! they found something. A command that merely fails has found nothing.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{sh, stop};

/// A way to look for mistakes.
pub struct Search {
    /// Also that of its log.
    pub name: &'static str,
    /// Builds, outside the time that counts.
    pub build: &'static [&'static str],
    /// Looks.
    pub run: &'static [&'static str],
    /// The same, shorter: what must find nothing where nothing is.
    pub brief: &'static [&'static str],
    /// What a line of its output begins with, and contains, once something is found.
    pub found: (&'static str, &'static str),
    /// After so long it hangs, which is a finding, too.
    pub limit: Duration,
}

/// Cheap ones first; together ten minutes on two cores.
pub const SEARCHES: &[Search] = &[
    Search {
        name: "corpus",
        build: &["test", "--quiet", "--locked", "--features", "sim", "--test", "corpus", "--no-run"],
        run: &["test", "--quiet", "--locked", "--features", "sim", "--test", "corpus"],
        brief: &["test", "--quiet", "--locked", "--features", "sim", "--test", "corpus"],
        found: ("cargo xtask fuzz ", " --input "),
        limit: Duration::from_secs(300),
    },
    Search {
        name: "sim",
        build: &["build", "--release", "--locked", "--quiet", "--features", "sim", "--example", "sim"],
        run: &["xtask", "sim", "--seeds", "1000000", "--minutes", "5"],
        // As long as the search: a seed that fails by itself would otherwise count for every mistake.
        brief: &["xtask", "sim", "--seeds", "1000000", "--minutes", "5"],
        found: ("seed ", ": "),
        limit: Duration::from_secs(420),
    },
    Search {
        name: "fuzz",
        build: &["xtask", "fuzz", "--seconds", "1", "varint"],
        run: &[
            "xtask",
            "fuzz",
            "--jobs",
            "2",
            "--seconds",
            "40",
            "session_pair",
            "session_peer",
            "session_stranger",
            "stream_peer",
            "stream_pair",
            "serve",
            "fetch",
            "get",
            "node_peer",
            "directory",
        ],
        brief: &["xtask", "fuzz", "--jobs", "2", "--seconds", "2", "session_pair", "get", "directory"],
        found: ("", "   FINDING"),
        limit: Duration::from_secs(420),
    },
];

/// For mistakes that neither the simulator nor a fuzzer can meet, since it lies where they have a model instead.
pub const CRASH: &[Search] = &[Search {
    name: "crash",
    build: &["build", "--release", "--locked", "--quiet", "--package", "tornet", "--bin", "tornet"],
    run: &["xtask", "crash", "power", "--rounds", "20"],
    brief: &["xtask", "crash", "power", "--quick", "--rounds", "2"],
    found: ("FAILED  power", " cut "),
    limit: Duration::from_secs(900),
}];

impl Search {
    /// The line of its output that says what was found.
    fn evidence(&self, log: &str) -> Option<String> {
        let (begin, inside) = self.found;
        let line = log.lines().find(|line| line.starts_with(begin) && line.contains(inside))?;
        Some(line.trim().chars().take(200).collect())
    }

    /// Builds what it runs. `cargo` begins a command in the copy.
    pub fn prepare(&self, cargo: &impl Fn() -> Command, log: &Path) -> Result<()> {
        let mut command = cargo();
        command.args(self.build);
        let file = std::fs::File::create(log)?;
        let status = command.stdout(file.try_clone()?).stderr(file).status()?;
        stop::check()?;
        if !status.success() {
            bail!("{}: {status}: see {}", sh::show(&command), log.display());
        }
        Ok(())
    }

    /// Runs it until it has found something, or has ended; how long it took, and what it found.
    pub fn run(
        &self,
        cargo: &impl Fn() -> Command,
        log: &Path,
        brief: bool,
    ) -> Result<(Duration, Option<String>)> {
        stop::check()?;
        let mut command = cargo();
        command.args(if brief { self.brief } else { self.run }).process_group(0);
        let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        let (start, mut status, mut evidence) = (Instant::now(), None, None);
        let ended = stop::until(self.limit, || {
            // The simulator and the fuzzers go on after a finding: only the first counts.
            evidence = self.evidence(&String::from_utf8_lossy(&std::fs::read(log)?));
            status = child.try_wait()?;
            std::thread::sleep(Duration::from_millis(100));
            Ok(evidence.is_some() || status.is_some())
        });
        let took = start.elapsed();
        // With all that it started; it is not reaped before, so that the number is its own.
        if status.is_none() {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait()?;
        }
        if !ended? {
            return Ok((took, Some(format!("hangs: no end after {} s", self.limit.as_secs()))));
        }
        if evidence.is_none() {
            // Written between the last look and the end.
            evidence = self.evidence(&String::from_utf8_lossy(&std::fs::read(log)?));
        }
        match (evidence, status) {
            (Some(evidence), _) => Ok((took, Some(evidence))),
            (None, Some(status)) if status.success() => Ok((took, None)),
            _ => bail!("{} failed and found nothing: see {}", sh::show(&command), log.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_from_a_mere_failure() {
        let search = |name: &str| {
            let found = SEARCHES.iter().chain(CRASH).find(|search| search.name == name);
            found.expect("a search of that name")
        };
        let finding = "target  executions\nsession_pair   12  3  4   FINDING\n";
        assert_eq!(search("fuzz").evidence(finding).unwrap(), "session_pair   12  3  4   FINDING");
        assert!(search("sim").evidence("seed 17: node 2 lost what it had acknowledged\n").is_some());
        assert!(search("sim").evidence("seeds  100\n  failed  0\n").is_none());
        let panic =
            "1 kept inputs fail; each again:\ncargo xtask fuzz get --input target/corpus-failures/get-3\n";
        assert!(search("corpus").evidence(panic).is_some());
        for search in SEARCHES.iter().chain(CRASH) {
            assert_eq!(search.evidence("error: could not compile `tornet`\n"), None, "{}", search.name);
        }
        let lab = "FAILED  power-put     1.0 s  power loss of the node that puts: no network namespaces\n";
        assert_eq!(search("crash").evidence(lab), None);
        let cut =
            "FAILED  power-put     1.0 s  power loss: power-put cut 7 (line 9 of the recording, Lose)\n";
        assert!(search("crash").evidence(cut).is_some());
    }

    #[test]
    fn a_search_ends_at_its_first_finding() {
        let log = std::env::temp_dir().join(format!("xtask-search-{}", std::process::id()));
        let search = |script: &'static [&'static str]| Search {
            name: "t",
            build: &["-c", "true"],
            run: script,
            brief: script,
            found: ("seed ", ": "),
            limit: Duration::from_secs(60),
        };
        let cargo = || Command::new("sh");
        let goes_on = search(&["-c", "echo seed 1: wrong; sleep 1000"]).run(&cargo, &log, false).unwrap();
        assert_eq!(goes_on.1.as_deref(), Some("seed 1: wrong"));
        assert_eq!(search(&["-c", "echo fine"]).run(&cargo, &log, false).unwrap().1, None);
        assert!(search(&["-c", "exit 1"]).run(&cargo, &log, false).is_err());
        let mut hangs = search(&["-c", "sleep 1000"]);
        hangs.limit = Duration::from_millis(300);
        assert!(hangs.run(&cargo, &log, false).unwrap().1.unwrap().starts_with("hangs"));
        std::fs::remove_file(&log).unwrap();
    }
}

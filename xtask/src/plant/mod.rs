//! `cargo xtask plant`: are the tests any good? Plants one mistake at a time in a copy of the project and
//! looks how long the simulator and the fuzzers take to find it (docs/testing/planted.md).

mod list;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::{sh, stop};
use list::{MISTAKES, Mistake};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let listed = args.flag("--list");
    let mut chosen = Vec::new();
    while let Some(name) = args.word() {
        let known = MISTAKES.iter().find(|mistake| mistake.name == name);
        chosen.push(known.with_context(|| format!("no mistake {name:?}; `cargo xtask plant --list`"))?);
    }
    args.finish()?;
    if listed {
        MISTAKES.iter().for_each(|mistake| println!("{:<22} {}", mistake.name, mistake.about));
        return Ok(());
    }
    if chosen.is_empty() {
        chosen = MISTAKES.iter().collect();
    }
    stop::listen();
    let copy = Copy::make()?;
    if let Some((_, by)) = copy.search(true)? {
        bail!("{by} fails without any mistake: see {}", copy.log(by).display());
    }
    let mut missed = Vec::new();
    println!("\n{:<22} {:>9}  found by", "mistake", "seconds");
    for mistake in chosen {
        copy.refresh()?;
        copy.plant(mistake)?;
        match copy.search(false)? {
            Some((took, by)) => println!("{:<22} {:>9.1}  {by}", mistake.name, took.as_secs_f64()),
            None => {
                println!("{:<22} {:>9}  NOT FOUND: {}", mistake.name, "-", mistake.about);
                missed.push(mistake.name);
            }
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

/// A way to look for mistakes: a command of this project, run in the copy.
struct Search {
    name: &'static str,
    /// Builds, outside the time that counts.
    build: &'static [&'static str],
    run: &'static [&'static str],
}

/// Cheap ones first; together ten minutes on two cores, builds left out.
const SEARCHES: &[Search] = &[
    Search {
        name: "corpus",
        build: &["test", "--quiet", "--features", "sim", "--test", "corpus", "--no-run"],
        run: &["test", "--quiet", "--features", "sim", "--test", "corpus"],
    },
    Search {
        name: "sim",
        build: &["build", "--quiet", "--release", "--features", "sim", "--example", "sim"],
        run: &["xtask", "sim", "--seeds", "100000", "--minutes", "6"],
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
    },
];

/// The copy: `target/planted/tree`, with a target folder of its own beside it.
struct Copy {
    tree: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy> {
        let copy = Copy { tree: sh::root().join("target/planted/tree") };
        copy.refresh()?;
        Ok(copy)
    }

    /// Makes the copy what the project is, leaving files alone that are the same, lest everything be built anew.
    fn refresh(&self) -> Result<()> {
        let root = sh::root();
        let listed = sh::read(Command::new("git").current_dir(&root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        for name in listed.lines() {
            let (from, to) = (root.join(name), self.tree.join(name));
            let Ok(wanted) = std::fs::read(&from) else { continue };
            if std::fs::read(&to).is_ok_and(|have| have == wanted) {
                continue;
            }
            std::fs::create_dir_all(to.parent().context("a folder")?)?;
            std::fs::write(&to, wanted).with_context(|| to.display().to_string())?;
        }
        Ok(())
    }

    fn plant(&self, mistake: &Mistake) -> Result<()> {
        let path = self.tree.join(mistake.file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        std::fs::write(&path, mistake.applied(&text)?).with_context(|| path.display().to_string())
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let mut command = sh::cargo();
        command
            .current_dir(&self.tree)
            .args(words)
            .env("CARGO_TARGET_DIR", self.tree.with_file_name("build"));
        command.stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.tree.with_file_name(format!("{name}.log"))
    }

    /// How long it took, builds left out, and what found it.
    /// `brief`: the simulator's first seeds and a moment of fuzzing, which must find nothing where nothing is.
    fn search(&self, brief: bool) -> Result<Option<(Duration, &'static str)>> {
        let mut spent = Duration::ZERO;
        for search in SEARCHES {
            sh::run(self.cargo(search.build).stdout(Stdio::null()).stderr(Stdio::null()))?;
            let start = Instant::now();
            let words: Vec<&str> =
                search.run.iter().map(|word| if brief { shortened(word) } else { word }).collect();
            let log = self.log(search.name);
            let passed = run(&mut self.cargo(&words), &log)?;
            spent += start.elapsed();
            if !passed {
                // What a finding leaves would be found again.
                let work = self.tree.join("fuzz/target/work");
                std::fs::remove_dir_all(&work).or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error).with_context(|| work.display().to_string()),
                })?;
                return Ok(Some((spent, search.name)));
            }
        }
        Ok(None)
    }
}

/// Seeds and seconds of a search that must find nothing.
fn shortened(word: &str) -> &str {
    match word {
        "100000" => "100",
        "40" => "4",
        other => other,
    }
}

/// Runs with its output in `log`; whether it succeeded.
fn run(command: &mut Command, log: &Path) -> Result<bool> {
    stop::check()?;
    let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let status = command.stdout(file.try_clone()?).stderr(file).status()?;
    stop::check()?;
    match status.code() {
        Some(code) => Ok(code == 0),
        None => bail!("{}: {status}", sh::show(command)),
    }
}

//! `cargo xtask plant`: are the tests any good? Plants one mistake at a time in a copy of the project and
//! looks how long the simulator and the fuzzers take to find it (docs/testing/planted.md).

mod list;
mod report;
mod search;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::{sh, stop};
use list::{MISTAKES, Mistake, Ring};
use report::Found;
use search::{CRASH, SEARCHES, Search};

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let (listed, write) = (args.flag("--list"), args.flag("--write"));
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
    if chosen.is_empty() && write {
        // What earlier runs came to.
        return report::write();
    }
    if chosen.is_empty() {
        chosen = MISTAKES.iter().collect();
    }
    stop::listen();
    let copy = Copy::make()?;
    let mut missed = Vec::new();
    for (ring, searches) in [(Ring::Inner, SEARCHES), (Ring::Crash, CRASH)] {
        let mistakes = chosen.iter().copied().filter(|mistake| mistake.ring == ring);
        missed.extend(search_all(&copy, mistakes.collect(), searches)?);
    }
    copy.refresh()?;
    if write {
        report::write()?;
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

/// One search after the other, each for all that those before it have not found: what none of them needs is not even
/// built. Returns the names of what was not found in time.
fn search_all(copy: &Copy, mistakes: Vec<&Mistake>, searches: &[Search]) -> Result<Vec<&'static str>> {
    let mut missing: Vec<(&Mistake, Duration)> =
        mistakes.into_iter().map(|mistake| (mistake, Duration::ZERO)).collect();
    let mut missed = Vec::new();
    for search in searches {
        if missing.is_empty() {
            break;
        }
        copy.refresh()?;
        copy.baseline(search)?;
        report::head();
        let mut left = Vec::new();
        for (mistake, before) in missing {
            copy.refresh()?;
            copy.plant(mistake)?;
            let (took, evidence) = copy.search(mistake, search)?;
            let spent = before + took;
            let Some(evidence) = evidence else {
                println!(
                    "{:<22} {:>9.1}  not by the {} search",
                    mistake.name,
                    spent.as_secs_f64(),
                    search.name
                );
                left.push((mistake, spent));
                continue;
            };
            let found = Found { by: Some(search.name), seconds: spent.as_secs_f64(), evidence };
            report::line(mistake, &found);
            report::keep(mistake, &found)?;
            if !found.counts() {
                missed.push(mistake.name);
            }
        }
        missing = left;
    }
    for (mistake, spent) in missing {
        let nothing = Found { by: None, seconds: spent.as_secs_f64(), evidence: mistake.about.to_string() };
        report::line(mistake, &nothing);
        report::keep(mistake, &nothing)?;
        missed.push(mistake.name);
    }
    Ok(missed)
}

/// The copy: `target/planted/tree`, with a target folder of its own beside it, in which all mistakes are built, one
/// after another.
struct Copy {
    tree: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy> {
        let copy = Copy { tree: sh::root().join("target/planted/tree") };
        copy.refresh()?;
        // No mistake lies in it; and its build is nobody's time.
        sh::run(copy.cargo().args(["build", "--quiet", "--locked", "--package", "xtask"]))?;
        Ok(copy)
    }

    /// Makes the copy what the project is, leaving files alone that are the same, lest everything be built anew.
    fn refresh(&self) -> Result<()> {
        let root = sh::root();
        let listed = sh::read(Command::new("git").current_dir(&root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let names: BTreeSet<PathBuf> = listed.split_terminator('\0').map(PathBuf::from).collect();
        for name in &names {
            let (from, to) = (root.join(name), self.tree.join(name));
            // Listed, and removed since.
            let Ok(wanted) = std::fs::read(&from) else { continue };
            if std::fs::read(&to).is_ok_and(|have| have == wanted) {
                continue;
            }
            std::fs::create_dir_all(to.parent().context("a folder")?)?;
            // With its permissions: the linker's script is run.
            std::fs::copy(&from, &to).with_context(|| to.display().to_string())?;
            // And a new time: what cargo builds anew follows from it.
            std::fs::File::options().append(true).open(&to)?.set_modified(std::time::SystemTime::now())?;
        }
        self.remove_others(Path::new(""), &root, &names)?;
        // What fuzzing one mistake has found would be found at once in the next.
        let work = self.tree.join("fuzz/target/work");
        if work.exists() {
            std::fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
        }
        Ok(())
    }

    /// Removes what the project no longer has.
    fn remove_others(&self, below: &Path, root: &Path, names: &BTreeSet<PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(self.tree.join(below))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    self.remove_others(&name, root, names)?;
                }
            } else if !names.contains(&name) || !root.join(&name).exists() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn plant(&self, mistake: &Mistake) -> Result<()> {
        let path = self.tree.join(mistake.file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        std::fs::write(&path, mistake.applied(&text)?).with_context(|| path.display().to_string())
    }

    /// The beginning of a cargo command in the copy.
    fn cargo(&self) -> Command {
        let mut command = sh::cargo();
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", self.tree.with_file_name("build"));
        command.stdin(Stdio::null());
        // A dozen builds that differ in a line: what the release build gains by linking all at once is not worth it.
        for (key, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("INCREMENTAL", "true")] {
            command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
        }
        // The project's own cargo-fuzz, if it has built one: the copy need not build another.
        let tools = sh::root().join("target/tools/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path))) {
            command.env("PATH", path);
        }
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.tree.with_file_name(format!("{name}.log"))
    }

    /// A search must find nothing where nothing is.
    fn baseline(&self, search: &Search) -> Result<()> {
        let log = self.log(search.name);
        search.prepare(&|| self.cargo(), &self.log("build"))?;
        let (took, found) = search.run(&|| self.cargo(), &log, true)?;
        if let Some(evidence) = found {
            let name = search.name;
            bail!("{name} finds something without any mistake: {evidence}: see {}", log.display());
        }
        println!("\nwithout a mistake: {} finds nothing in {:.1} s", search.name, took.as_secs_f64());
        Ok(())
    }

    /// How long it took, builds left out, and what was found.
    fn search(&self, mistake: &Mistake, search: &Search) -> Result<(Duration, Option<String>)> {
        search.prepare(&|| self.cargo(), &self.log("build")).context(mistake.name)?;
        let log = self.log(&format!("{}-{}", mistake.name, search.name));
        search.run(&|| self.cargo(), &log, false).context(mistake.name)
    }
}

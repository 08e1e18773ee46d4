//! `cargo xtask tidy`: the project's rules that the compiler does not know. Each rule is a function from
//! the tree's text to findings, shown by its tests to fail on a bad sample.

mod bans;
mod decisions;
mod fuzzed;
mod large_files;
mod layers;
mod links;
mod paths;
mod source;
mod text;
mod unsafety;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::sh;

/// The files that the rules read, by path from the root.
pub type Tree = BTreeMap<String, String>;

/// A rule that does not hold.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
    /// What, and what to do.
    pub message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: path.to_string(), line, message: message.into() }
    }
}

/// The rules.
const RULES: &[fn(&Tree) -> Vec<Finding>] = &[
    layers::check,
    layers::check_map,
    bans::check,
    unsafety::check,
    large_files::check,
    links::check,
    links::check_citations,
    decisions::check,
    fuzzed::check,
    text::check,
];

/// Never read: what tools make.
const SKIPPED_DIRS: &[&str] = &["target", ".git", "corpus", "artifacts"];
const READ_ENDINGS: &[&str] = &["rs", "md", "toml", "sh", "py", "cc", "service", "proto", "run"];

/// The command.
pub fn command(args: Args) -> Result<()> {
    args.finish()?;
    run()
}

/// Applies every rule to the project.
pub fn run() -> Result<()> {
    let mut tree = Tree::new();
    read(&sh::root(), "", &mut tree)?;
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.sort();
    for finding in &findings {
        eprintln!("{}:{}: {}", finding.path, finding.line, finding.message);
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: {} files, nothing to say", tree.len());
    Ok(())
}

fn read(dir: &Path, prefix: &str, tree: &mut Tree) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED_DIRS.contains(&name.as_str()) {
            read(&entry.path(), &path, tree)?;
        } else if kind.is_file() {
            // Every path counts as a link's target; the text only where there is a rule for it.
            let ending = name.rsplit_once('.').map_or(name.as_str(), |(_, ending)| ending);
            let text = if READ_ENDINGS.contains(&ending) {
                std::fs::read_to_string(entry.path())?
            } else {
                String::new()
            };
            tree.insert(path, text);
        }
    }
    Ok(())
}

/// The Rust files below `dir` (which ends in `/`).
fn rust<'t>(tree: &'t Tree, dir: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
    tree.iter()
        .filter(move |(path, _)| path.starts_with(dir) && path.ends_with(".rs"))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// For the rules' tests.
#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_project_is_read_whole_and_nothing_that_tools_make() {
        let mut tree = Tree::new();
        read(&sh::root(), "", &mut tree).unwrap();
        for path in ["src/lib.rs", "docs/architecture.md", "xtask/src/tidy/mod.rs", "Cargo.toml"] {
            assert!(!tree[path].is_empty(), "{path}");
        }
        assert!(!tree.keys().any(|path| path.starts_with("target/")));
    }
}

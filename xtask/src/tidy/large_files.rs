//! A file is 150 to 350 lines by habit. One over the limit needs a reason here, and loses its entry when
//! it shrinks.

use super::{Finding, Tree, rust};

/// Lines above which a file is a design question.
const LINES_MAX: usize = 500;

/// Files over the limit, and why they are one.
const ALLOWED: &[(&str, &str)] = &[
    ("src/config/keys.rs", "a table of settings, a row for each"),
    (
        "src/shape/shaper.rs",
        "one decision; what it keeps, where peers wait and leases are in files of their own",
    ),
    ("src/shape/tests.rs", "tests alone: one bench of sources, and a case for each promise"),
    ("src/limits.rs", "every bound in one file, so that they can be checked against one another"),
    (
        "src/io/store/tests/disk.rs",
        "tests alone: what becomes of stored bytes, each case on the same few helpers",
    ),
    ("src/api/tests.rs", "tests alone: one scene (a real socket, a fake backend) and a case per endpoint"),
    ("src/wire/frame.rs", "one frame format: reading and writing stay side by side, a third of it is tests"),
];

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    check_against(tree, ALLOWED)
}

fn check_against(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in rust(tree, "") {
        let lines = text.lines().count();
        let entry = allowed.iter().find(|(file, _)| *file == path);
        if lines > LINES_MAX && entry.is_none_or(|(_, reason)| reason.is_empty()) {
            let message = format!("{lines} lines: split it, or give the reason in xtask's large_files.rs");
            findings.push(Finding::new(path, LINES_MAX, message));
        }
        if lines <= LINES_MAX && entry.is_some() {
            findings.push(Finding::new(path, 1, "no longer large: take its entry out of large_files.rs"));
        }
    }
    for (file, _) in allowed.iter().filter(|(file, _)| !tree.contains_key(*file)) {
        findings.push(Finding::new(file, 1, "is gone: take its entry out of large_files.rs"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn large_files_need_a_reason_and_small_ones_none() {
        let large = "\n".repeat(LINES_MAX + 1);
        let files = tree(&[("src/a.rs", large.as_str()), ("src/b.rs", "")]);
        assert_eq!(check_against(&files, &[]).len(), 1);
        assert_eq!(check_against(&files, &[("src/a.rs", "")]).len(), 1);
        assert_eq!(check_against(&files, &[("src/a.rs", "one table")]), []);
        assert_eq!(check_against(&files, &[("src/a.rs", "one table"), ("src/b.rs", "x")]).len(), 1);
        assert_eq!(check_against(&files, &[("src/a.rs", "one table"), ("src/c.rs", "x")]).len(), 1);
    }
}

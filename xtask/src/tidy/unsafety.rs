//! `unsafe` lives in `src/sys`, and each of its blocks says why it is sound.

use super::{Finding, Tree, line_of, rust, source};

const HOME: &str = "src/sys/";
/// The one place that may allow it.
const DOOR: &str = "src/lib.rs";

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in rust(tree, "") {
        let code = source::strip(text);
        let lines: Vec<&str> = text.lines().collect();
        for at in source::word_positions(&code, "unsafe") {
            let line = line_of(&code, at);
            if !path.starts_with(HOME) {
                findings.push(Finding::new(path, line, "`unsafe` lives in src/sys only"));
            } else if !explained(&code[at..], &lines, line) {
                let message = "`unsafe` without a SAFETY comment: who owns what, and for how long";
                findings.push(Finding::new(path, line, message));
            }
        }
        for at in source::word_positions(&code, "unsafe_code") {
            let before = code[..at].trim_end_matches(|c: char| c.is_whitespace() || c == '(');
            if path != DOOR && (before.ends_with("allow") || before.ends_with("expect")) {
                findings.push(Finding::new(
                    path,
                    line_of(&code, at),
                    "unsafe code is allowed in src/lib.rs only",
                ));
            }
        }
    }
    findings
}

/// Whether the `unsafe` that `code` starts with, on `line` (from 1), is explained right above it.
fn explained(code: &str, lines: &[&str], line: usize) -> bool {
    let rest = code["unsafe".len()..].trim_start();
    // A signature promises (`# Safety`, which clippy asks for); a block or an impl must argue.
    if rest.starts_with("fn") || rest.starts_with("extern") {
        return true;
    }
    let own = lines[line - 1];
    if own.contains("SAFETY:") {
        return true;
    }
    // Up over the statement that the block is part of, to the comment above it.
    let above = lines[..line - 1].iter().rev().take(12);
    let mut seen_comment = false;
    for text in above.map(|text| text.trim()) {
        if text.starts_with("//") {
            if text.contains("SAFETY:") {
                return true;
            }
            seen_comment = true;
        } else if seen_comment || text.is_empty() || text.ends_with(';') || text.ends_with('}') {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn unsafe_has_one_home() {
        let block = "// SAFETY: we own it\nunsafe { f() }";
        assert_eq!(check(&tree(&[("src/sys/a.rs", block)])), []);
        assert_eq!(check(&tree(&[("src/io/a.rs", block)])).len(), 1);
        assert_eq!(check(&tree(&[("src/io/a.rs", "// unsafe\nlet unsafely = \"unsafe\";")])), []);
        assert_eq!(check(&tree(&[("src/io/mod.rs", "#![allow(unsafe_code)]")])).len(), 1);
        assert_eq!(check(&tree(&[("src/lib.rs", "#[allow(unsafe_code)] mod sys;")])), []);
        assert_eq!(check(&tree(&[("src/io/mod.rs", "#![forbid(unsafe_code)]")])), []);
    }

    #[test]
    fn each_block_is_explained() {
        for good in [
            "// SAFETY: a\n// b\nlet x = unsafe { f() };",
            "// SAFETY: a\nlet x =\n    unsafe { f() };",
            "let x = unsafe { f() }; // SAFETY: a",
            "/// # Safety\npub unsafe fn f() {}",
            "// SAFETY: a\nunsafe impl Send for X {}",
        ] {
            assert_eq!(check(&tree(&[("src/sys/a.rs", good)])), [], "{good}");
        }
        for bad in [
            "let x = unsafe { f() };",
            "// SAFETY: a\nlet y = 1;\nlet x = unsafe { f() };",
            "// why not\nunsafe impl Send for X {}",
            "// SAFETY: a\n\nunsafe { f() }",
        ] {
            assert_eq!(check(&tree(&[("src/sys/a.rs", bad)])).len(), 1, "{bad}");
        }
    }
}

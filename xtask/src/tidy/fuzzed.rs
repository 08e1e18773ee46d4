//! Every decoder of `src/wire` has a fuzz target of its name, and docs/testing/fuzzing.md names every target.

use super::{Finding, Tree, rust};
use crate::fuzz::{TABLES, names};

const PAGE: &str = "docs/testing/fuzzing.md";

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let table = TABLES[0];
    let targets: Vec<(&str, String)> = TABLES
        .iter()
        .filter_map(|path| Some((*path, tree.get(*path)?)))
        .flat_map(|(path, text)| names(text).into_iter().map(move |name| (path, name)))
        .collect();
    let mut findings = Vec::new();
    for (path, _) in rust(tree, "src/wire/") {
        let stem = path.trim_start_matches("src/wire/").trim_end_matches(".rs");
        let decoder = !stem.contains('/') && stem != "mod";
        if decoder && !targets.iter().any(|(_, name)| name == stem) {
            findings.push(Finding::new(path, 1, format!("no fuzz target {stem:?} in {table}")));
        }
    }
    let page = tree.get(PAGE).map(String::as_str).unwrap_or_default();
    for (path, name) in &targets {
        if !page.contains(&format!("`{name}`")) {
            findings.push(Finding::new(path, 1, format!("{PAGE} does not say what {name:?} does")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn a_decoder_without_a_target_is_found() {
        let table =
            ("src/sim/fuzzing/mod.rs", "const TARGETS: &[Target] = &[\n    (\"frame\", frames::frame),\n];");
        let page = (PAGE, "| `frame` | frames |");
        let wire = |name| (name, "pub fn parse() {}");
        let good = [
            table,
            page,
            wire("src/wire/frame.rs"),
            wire("src/wire/mod.rs"),
            wire("src/wire/frame/tests.rs"),
        ];
        assert_eq!(check(&tree(&good)), []);
        assert_eq!(check(&tree(&[table, page, wire("src/wire/ack.rs")])).len(), 1);
        assert_eq!(check(&tree(&[table, wire("src/wire/frame.rs")])).len(), 1, "the page is silent");
    }
}

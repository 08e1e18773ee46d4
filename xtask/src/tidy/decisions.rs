//! `docs/decisions/NNNN-title.md`: one number each, and the title in its first line.

use std::collections::BTreeMap;

use super::{Finding, Tree};

const DIR: &str = "docs/decisions/";

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, text) in tree.range(DIR.to_string()..).take_while(|(path, _)| path.starts_with(DIR)) {
        let name = &path[DIR.len()..];
        if name == "README.md" {
            continue;
        }
        let Some((number, _)) = name.split_once('-').filter(|(number, rest)| {
            let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
            digits && rest.ends_with(".md") && rest.len() > 3
        }) else {
            findings.push(Finding::new(path, 1, "a decision is called NNNN-title.md"));
            continue;
        };
        if let Some(other) = numbers.insert(number, path) {
            findings.push(Finding::new(path, 1, format!("has the number of {other}")));
        }
        if !text.starts_with("# ") {
            findings.push(Finding::new(path, 1, "the first line is the title (`# …`)"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn decisions_are_numbered_once() {
        let good = [("docs/decisions/0001-a.md", "# A\n"), ("docs/decisions/0002-b.md", "# B\n")];
        assert_eq!(check(&tree(&good)), []);
        for bad in ["0001-c.md", "1-c.md", "00a1-c.md", "0003.md", "0003-.md", "0003-c.txt", "notes.md"] {
            let path = format!("{DIR}{bad}");
            assert_eq!(check(&tree(&[good[0], good[1], (&path, "# C\n")])).len(), 1, "{bad}");
        }
        assert_eq!(check(&tree(&[("docs/decisions/0001-a.md", "A\n")])).len(), 1);
    }
}

//! Plain text: no trailing spaces, tabs or carriage returns, one newline at the end, no marks of work
//! that is not done, no word from the list.

use super::{Finding, Tree};

/// Words that may not stand anywhere, each with the one to use instead.
const FORBIDDEN: &[(&str, &str)] = &[];

/// Marks of unfinished work, spelled so that this file holds none.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.iter().flat_map(|(path, text)| check_file(path, text, FORBIDDEN)).collect()
}

fn check_file(path: &str, text: &str, forbidden: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let mut say = |message: String| findings.push(Finding::new(path, index + 1, message));
        if line.ends_with([' ', '\t', '\r']) {
            say("trailing white space".into());
        }
        if line.contains('\t') {
            say("a tab".into());
        }
        for mark in MARKS.iter().filter(|mark| line.contains(**mark)) {
            say(format!("{mark}: do it, or write an issue"));
        }
        let lower = line.to_lowercase();
        for (word, instead) in forbidden.iter().filter(|(word, _)| lower.contains(*word)) {
            say(format!("{word:?}: say {instead:?}"));
        }
    }
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(Finding::new(path, text.lines().count(), "ends in one newline"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_found() {
        assert_eq!(check_file("a.md", "a\n\nb\n", &[]), []);
        assert_eq!(check_file("a.md", "", &[]), []);
        for bad in
            ["a \n", "a\r\n", "\tb\n", "a", "a\n\n", concat!("// FIX", "ME\n"), concat!("TO", "DO x\n")]
        {
            assert_eq!(check_file("a.md", bad, &[]).len(), 1, "{bad:?}");
        }
        let words = [("chunky", "chunk")];
        assert_eq!(check_file("a.md", "A Chunky thing\n", &words).len(), 1);
        assert_eq!(check_file("a.md", "a chunk\n", &words), []);
    }
}

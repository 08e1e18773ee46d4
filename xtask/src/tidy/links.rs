//! Links in Markdown lead somewhere: relative paths to a file or folder, anchors to a heading. So do the
//! documents that Rust comments cite.

use super::{Finding, Tree};

/// The rule for Markdown.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (line, link) in links(text) {
            if let Some(wrong) = broken(tree, path, &link) {
                findings.push(Finding::new(path, line, wrong));
            }
        }
    }
    findings
}

/// The rule for what sources cite: `docs/….md`, and `docs/decisions/NNNN` by number alone.
pub fn check_citations(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs") && path.starts_with("src/")) {
        for (index, line) in text.lines().enumerate() {
            let Some((_, comment)) = line.split_once("//") else { continue };
            for (at, _) in comment.match_indices("docs/") {
                let cited: String = comment[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || "/-_.".contains(*c))
                    .collect();
                let cited = cited.trim_end_matches(['.', '/']);
                let decision = cited.strip_prefix("docs/decisions/").filter(|name| name.len() == 4);
                let found = match decision {
                    Some(number) => {
                        let prefix = format!("docs/decisions/{number}-");
                        tree.keys().any(|file| file.starts_with(&prefix))
                    }
                    None => exists(tree, cited),
                };
                if !found {
                    findings.push(Finding::new(
                        path,
                        index + 1,
                        format!("cites {cited}, which is not there"),
                    ));
                }
            }
        }
    }
    findings
}

fn broken(tree: &Tree, from: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    if link.starts_with('/') {
        return Some(format!("link to {link}: say it relative to this file"));
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() { Some(from.to_string()) } else { resolve(from, file) };
    let Some(target) = target.filter(|target| exists(tree, target)) else {
        return Some(format!("link to {link}: no such file"));
    };
    let anchor = anchor?;
    if target.ends_with(".md") && !anchors(&tree[&target]).iter().any(|known| known == anchor) {
        return Some(format!("link to {link}: no such heading"));
    }
    None
}

fn exists(tree: &Tree, path: &str) -> bool {
    let dir = format!("{path}/");
    path.is_empty() || tree.contains_key(path) || tree.keys().any(|file| file.starts_with(&dir))
}

/// `link` as seen from the file `from`; `None` when it climbs out of the project.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Lines that are prose: outside of code fences, with inline code blanked.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let parts: Vec<&str> = line.split('`').collect();
            // What stands between two backticks is code; an unpaired last one is just a character.
            let is_code = |at: usize| at % 2 == 1 && at + 1 < parts.len();
            let kept =
                |(at, part): (usize, &&str)| if is_code(at) { "code".to_string() } else { part.to_string() };
            lines.push((index + 1, parts.iter().enumerate().map(kept).collect()));
        }
    }
    lines
}

/// Targets of `[text](target)` and `[name]: target`, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        for (at, _) in text.match_indices("](") {
            let inside = text[at + 2..].split(')').next().unwrap_or_default();
            let target = inside.split_whitespace().next().unwrap_or_default();
            found.push((line, target.trim_matches(['<', '>']).to_string()));
        }
        if let Some((_, target)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push((line, target.trim().to_string()));
        }
    }
    found
}

/// The anchors of a document's headings, made as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if fenced || level == 0 || level > 6 || !line[level..].starts_with(' ') {
            continue;
        }
        let kept = line[level..].trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug: String =
            kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = found.iter().filter(|known| **known == slug).count();
        found.push(slug.clone());
        if again > 0 {
            found.push(format!("{slug}-{again}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    const MAP: &str = "# The map\n## 1 · Where `things` are\n```\n# not a heading\n```\n## Twice\n## Twice\n";

    fn findings(text: &str) -> usize {
        check(&tree(&[("docs/a/x.md", text), ("docs/map.md", MAP), ("src/io/udp.rs", "")])).len()
    }

    #[test]
    fn links_lead_somewhere() {
        for good in [
            "[m](../map.md) [d](../../src/io) [s](../../src/io/udp.rs) [w](https://example.org/x) [.](.)",
            "[m](../map.md#the-map) [m](../map.md#1--where-things-are) [t](../map.md#twice-1)",
            "# Here\n[h](#here)\n```\n[x](nowhere)\n```\n`[y](nowhere)` and [a `b` c](../map.md)",
            "[m]: ../map.md",
        ] {
            assert_eq!(findings(good), 0, "{good}");
        }
        for bad in [
            "[m](map.md)",
            "[m](../map.md#nothing)",
            "[m](../map.md#not-a-heading)",
            "[m](/docs/map.md)",
            "[m](../../../outside.md)",
            "[h](#here)",
            "[m]: ../mop.md",
        ] {
            assert_eq!(findings(bad), 1, "{bad}");
        }
    }

    #[test]
    fn citations_lead_somewhere() {
        let cited = |comment: &str| {
            check_citations(&tree(&[
                ("src/a.rs", comment),
                ("docs/map.md", MAP),
                ("docs/decisions/0002-x.md", ""),
            ]))
            .len()
        };
        assert_eq!(cited("// docs/map.md §3.\n//! (`docs/decisions/0002`)\nlet x = \"docs/none\";"), 0);
        assert_eq!(cited("/// see docs/mop.md."), 1);
        assert_eq!(cited("//! `docs/decisions/0003`"), 1);
    }
}

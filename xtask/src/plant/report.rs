//! What came of the mistakes: a table as they are tried, a file that keeps the last result of each, and the table
//! in docs/testing/planted.md that is made from it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::list::{MISTAKES, Mistake, Ring};
use crate::sh;

const PAGE: &str = "docs/testing/planted.md";
const BEGIN: &str = "<!-- cargo xtask plant --write -->\n";
const END: &str = "<!-- end -->\n";
/// A finding after longer than this does not count, seconds.
pub const SECONDS_MAX: f64 = 600.0;

/// What came of one mistake.
pub struct Found {
    /// Which search, or nothing.
    pub by: Option<&'static str>,
    /// How long it took, with the searches before it, builds left out.
    pub seconds: f64,
    /// The line that says so.
    pub evidence: String,
}

impl Found {
    /// Whether it was found in time.
    pub fn counts(&self) -> bool {
        self.by.is_some() && self.seconds <= SECONDS_MAX
    }
}

/// Above the lines of [`line()`].
pub fn head() {
    println!("\n{:<22} {:>9}  {:<7} what was said", "mistake", "seconds", "found by");
}

/// A line of the table.
pub fn line(mistake: &Mistake, found: &Found) {
    let by = found.by.unwrap_or("NOTHING");
    println!("{:<22} {:>9.1}  {by:<7} {}", mistake.name, found.seconds, found.evidence);
}

fn file() -> PathBuf {
    sh::root().join("target/planted/result.json")
}

fn known() -> Result<Map<String, Value>> {
    match std::fs::read_to_string(file()) {
        Ok(text) => serde_json::from_str(&text).with_context(|| file().display().to_string()),
        Err(_) => Ok(Map::new()),
    }
}

/// Keeps a result, in the place of an earlier one.
pub fn keep(mistake: &Mistake, found: &Found) -> Result<()> {
    let mut all = known()?;
    let result = json!({
        "found_by": found.by,
        "seconds": found.seconds,
        "evidence": found.evidence,
        "counted": mistake.ring == Ring::Inner,
    });
    all.insert(mistake.name.to_string(), result);
    std::fs::write(file(), serde_json::to_string_pretty(&all)? + "\n").context("the result")
}

/// Writes the table of all that is known into the page.
pub fn write() -> Result<()> {
    let path = sh::root().join(PAGE);
    let page = std::fs::read_to_string(&path)?;
    std::fs::write(&path, with_table(&page, &table(&known()?))?).context(PAGE)
}

fn table(known: &Map<String, Value>) -> String {
    let mut text = String::from("| mistake | what is wrong | found by | after |\n|---|---|---|--:|\n");
    let (mut tried, mut found, mut all) = (0, 0, 0);
    for Mistake { name, about, ring, .. } in MISTAKES {
        all += u64::from(*ring == Ring::Inner);
        let Some(result) = known.get(*name) else {
            text += &format!("| {name} | {about} | not tried yet | |\n");
            continue;
        };
        let (by, seconds) = (result["found_by"].as_str(), result["seconds"].as_f64().unwrap_or(0.0));
        let by_whom = by.unwrap_or("nothing");
        let remark = if *ring == Ring::Crash { ", not counted" } else { "" };
        text += &format!("| {name} | {about} | {by_whom}{remark} | {seconds:.1} s |\n");
        if *ring == Ring::Inner {
            tried += 1;
            found += u64::from(by.is_some() && seconds <= SECONDS_MAX);
        }
    }
    let untried = all - tried;
    let untried = if untried == 0 { String::new() } else { format!(" {untried} were not tried yet.") };
    let minutes = SECONDS_MAX / 60.0;
    text += &format!("\n{found} of the {all} that count were found within {minutes:.0} minutes.{untried}\n");
    text
}

fn with_table(page: &str, table: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| format!("{PAGE} has no place for the table"))?;
    ensure!(!table.contains(END), "a table that ends its own place");
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_place_for_the_table() {
        let page = std::fs::read_to_string(sh::root().join(PAGE)).unwrap();
        let once = with_table(&page, "a\n").unwrap();
        let twice = with_table(&once, "b\n").unwrap();
        assert!(once.contains("a\n<!--") && twice.contains("b\n<!--"));
        assert_eq!(once.len(), twice.len());
        assert!(with_table("nothing", "a").is_err());
    }

    #[test]
    fn what_was_found_late_or_by_another_ring_does_not_count() {
        let mut known = Map::new();
        let name = |ring| MISTAKES.iter().filter(move |mistake| mistake.ring == ring).map(|m| m.name);
        let mut inner = name(Ring::Inner);
        for (name, by, seconds) in [
            (inner.next().unwrap(), Some("sim"), 3.0),
            (inner.next().unwrap(), Some("fuzz"), 601.0),
            (inner.next().unwrap(), None, 500.0),
            (name(Ring::Crash).next().unwrap(), Some("crash"), 9.0),
        ] {
            known.insert(name.to_string(), json!({ "found_by": by, "seconds": seconds }));
        }
        let text = table(&known);
        assert!(text.contains("1 of the 12 that count") && text.contains(" 9 were not tried"), "{text}");
        assert!(text.contains("| crash, not counted | 9.0 s |") && text.contains("not tried yet"));
    }
}

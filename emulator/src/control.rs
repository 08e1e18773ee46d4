//! Control lines: what may be said to a running emulator, and what it answers.
//!
//! ```text
//! a>b loss=5%,delay=20ms     change one direction
//! a-b down                   change both
//! stats                      what happened so far, a line per direction
//! ```
//!
//! The answer to a line is any number of lines and then `ok`, or `error: ` and why; after an error nothing
//! has changed.

use tornet::sim::emulator::Emulator;

use crate::report::Report;

/// A direction's ends, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Where packets come from.
    pub from: String,
    /// Where they go.
    pub to: String,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}>{}", self.from, self.to)
    }
}

/// Carries out one line.
pub fn answer(line: &str, emulator: &mut Emulator, ways: &[Way], report: &Report) -> String {
    match obey(line.trim(), emulator, ways, report) {
        Ok(said) => said + "ok\n",
        Err(why) => format!("error: {}\n", why.replace('\n', " ")),
    }
}

fn obey(line: &str, emulator: &mut Emulator, ways: &[Way], report: &Report) -> Result<String, String> {
    if line.is_empty() {
        return Ok(String::new());
    }
    if line == "stats" {
        return Ok(report.show(emulator, ways));
    }
    let (which, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let chosen = choose(which, ways)?;
    for &direction in &chosen {
        // The same text for each: if one takes it, so do the others.
        emulator.link_mut(direction).change(text).map_err(|error| error.to_string())?;
    }
    let shown = |&direction: &usize| format!("{} {}\n", ways[direction], emulator.link(direction));
    Ok(chosen.iter().map(shown).collect())
}

fn choose(which: &str, ways: &[Way]) -> Result<Vec<usize>, String> {
    let is = |way: &Way, from: &str, to: &str| way.from == from && way.to == to;
    let fits = |way: &Way| match (which.split_once('>'), which.split_once('-')) {
        (Some((from, to)), _) => is(way, from, to),
        (None, Some((a, b))) => is(way, a, b) || is(way, b, a),
        (None, None) => false,
    };
    let chosen: Vec<usize> = (0..ways.len()).filter(|&direction| fits(&ways[direction])).collect();
    if chosen.is_empty() {
        let all: Vec<String> = ways.iter().map(Way::to_string).collect();
        return Err(format!(
            "{which:?}: not a direction; there are {}, or a-b for both, or `stats`",
            all.join(", ")
        ));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use tornet::base::Rng;

    use super::*;

    #[test]
    fn a_line_changes_one_direction_or_both_and_says_how_they_are() {
        let way = |from: &str, to: &str| Way { from: from.into(), to: to.into() };
        let ways = [way("a", "b"), way("b", "a"), way("b", "c"), way("c", "b")];
        let clean = || "clean".parse().unwrap();
        let mut emulator = Emulator::new([clean(), clean(), clean(), clean()], Rng::from_number(1));
        let report = Report::new(ways.len());
        let mut say = |line: &str| answer(line, &mut emulator, &ways, &report);
        assert_eq!(say("a>b loss=5%"), "a>b loss=5%\nok\n");
        assert_eq!(say("b-a delay=20ms"), "a>b delay=20ms,loss=5%\nb>a delay=20ms\nok\n");
        assert_eq!(say("c>b"), "c>b clean\nok\n");
        assert_eq!(say(" "), "ok\n");
        for (line, part) in [
            ("a>c loss=5%", "there are a>b, b>a, b>c, c>b"),
            ("a loss=5%", "not a direction"),
            ("a-b loss=5", "say 5%"),
            ("quit", "not a direction"),
        ] {
            let said = say(line);
            assert!(said.starts_with("error: ") && said.contains(part), "{line}: {said}");
        }
        assert_eq!(say("a-b "), "a>b delay=20ms,loss=5%\nb>a delay=20ms\nok\n");
        let stats = say("stats");
        assert_eq!(stats.lines().count(), 5);
        assert!(stats.starts_with("a>b received=0 "), "{stats}");
    }
}

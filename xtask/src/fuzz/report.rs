//! What a run of libFuzzer came to, read from its own output.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// Above the lines of [`Run::line`].
pub const HEAD: &str =
    "target             executions   per second   coverage   features   corpus  new   result";

/// One target's run: where its things are.
pub struct Run {
    /// The target.
    pub target: String,
    /// The working corpus.
    pub corpus: PathBuf,
    /// Where findings go.
    pub artifacts: PathBuf,
    /// What libFuzzer says.
    pub log: PathBuf,
    began_with: usize,
}

/// Figures of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    per_second: u64,
    coverage: u64,
    features: u64,
}

impl Run {
    pub fn new(target: &str, work: &Path) -> Self {
        let corpus = work.join("corpus").join(target);
        let artifacts = work.join("artifacts").join(target);
        let log = work.join(format!("{target}.log"));
        let began_with = count(&corpus);
        Self { target: target.to_string(), corpus, artifacts, log, began_with }
    }

    /// One line of the table.
    pub fn line(&self, passed: bool) -> Result<String> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned();
        let Figures { executions, per_second, coverage, features } = figures(&text);
        let now = count(&self.corpus);
        let new = now.saturating_sub(self.began_with);
        let result = if passed { "nothing found" } else { "FINDING" };
        let target = &self.target;
        Ok(format!(
            "{target:<18} {executions:>10} {per_second:>12} {coverage:>10} {features:>10} {now:>8} {new:>4}   {result}"
        ))
    }

    /// What was found, and how to see it again.
    pub fn finding(&self) -> Result<String> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned();
        let said: Vec<&str> = text
            .lines()
            .skip_while(|line| !(line.contains("panicked at") || line.contains("ERROR: libFuzzer")))
            .take(3)
            .collect();
        let input = text.lines().find_map(|line| line.split("Test unit written to ").nth(1)).unwrap_or("?");
        Ok(format!(
            "  {}\n  input:     {input}\n  reproduce: cargo xtask fuzz {} --input {input}\n  log:       {}",
            said.join("\n  "),
            self.target,
            self.log.display()
        ))
    }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The last figures that libFuzzer gave.
fn figures(text: &str) -> Figures {
    let mut figures = Figures::default();
    for line in text.lines().filter(|line| line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        figures.executions = words[0][1..].parse().unwrap_or(figures.executions);
        figures.coverage = after("cov:").unwrap_or(figures.coverage);
        figures.features = after("ft:").unwrap_or(figures.features);
        figures.per_second = after("exec/s:").unwrap_or(figures.per_second);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_last_ones() {
        let log = "INFO: x\n#2\tINITED cov: 20 ft: 21 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #1727930\tDONE   cov: 66 ft: 154 corp: 64/5710b lim: 4096 exec/s: 132917 rss: 31Mb\n";
        let wanted = Figures { executions: 1_727_930, per_second: 132_917, coverage: 66, features: 154 };
        assert_eq!(figures(log), wanted);
        assert_eq!(figures("nothing"), Figures::default());
    }
}

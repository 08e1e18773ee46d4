//! Flags, taken out of the command line one by one; what is left over is an error.

use anyhow::{Context, Result, bail, ensure};

/// The words after the command.
pub struct Args {
    words: Vec<String>,
}

impl Args {
    pub fn new(words: Vec<String>) -> Args {
        Args { words }
    }

    /// Takes `--name` out; whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.words.iter().position(|word| word == name);
        found.map(|at| self.words.remove(at)).is_some()
    }

    /// Takes `--name VALUE` or `--name=VALUE` out.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        if let Some(at) = self.words.iter().position(|word| word == name) {
            ensure!(at + 1 < self.words.len(), "{name} needs a value");
            self.words.remove(at);
            return Ok(Some(self.words.remove(at)));
        }
        let prefix = format!("{name}=");
        let Some(at) = self.words.iter().position(|word| word.starts_with(&prefix)) else { return Ok(None) };
        Ok(Some(self.words.remove(at)[prefix.len()..].to_string()))
    }

    /// Takes `--name SIZE` out, bytes.
    pub fn size(&mut self, name: &str, default: u64) -> Result<u64> {
        self.value(name)?.map_or(Ok(default), |text| parse_size(&text).with_context(|| name.to_string()))
    }

    /// Takes `--name N` out.
    pub fn number(&mut self, name: &str, default: u64) -> Result<u64> {
        self.value(name)?
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}: not a number: {text}")))
    }

    /// Takes the next word that is not a flag.
    pub fn word(&mut self) -> Option<String> {
        let at = self.words.iter().position(|word| !word.starts_with('-'))?;
        Some(self.words.remove(at))
    }

    /// All words that are left, for a command that has flags of its own.
    pub fn rest(self) -> Vec<String> {
        self.words
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<()> {
        if let Some(word) = self.words.first() {
            bail!("don't know what to do with {word:?}; `cargo xtask help` lists the flags");
        }
        Ok(())
    }
}

/// `1GiB`, `64MiB`, `4096` → bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("not a size: {text}"))?;
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => bail!("not a unit of size: {unit} (KiB, MiB, GiB)"),
    };
    number.checked_mul(scale).with_context(|| format!("too large: {text}"))
}

/// Bytes for people: `1.0 GiB`.
pub fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(scale, _)| bytes >= *scale) {
        Some((scale, unit)) => format!("{:.1} {unit}", bytes as f64 / *scale as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        Args::new(text.split_whitespace().map(str::to_string).collect())
    }

    #[test]
    fn takes_flags_in_any_order_and_refuses_the_rest() {
        let mut given = args("transfer --runs=5 --size 2GiB --once");
        assert!(given.flag("--once"));
        assert!(!given.flag("--once"));
        assert_eq!(given.size("--size", 7).unwrap(), 2 << 30);
        assert_eq!(given.number("--runs", 3).unwrap(), 5);
        assert_eq!(given.number("--other", 3).unwrap(), 3);
        assert_eq!(given.word().as_deref(), Some("transfer"));
        given.finish().unwrap();
        assert!(args("--unknown").finish().is_err());
        assert!(args("--size").value("--size").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_size("64M").unwrap(), 64 << 20);
        assert_eq!(parse_size("17").unwrap(), 17);
        for bad in ["", "GiB", "1 GiB", "1XB", "99999999999GiB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(show_size(1 << 30), "1.0 GiB");
        assert_eq!(show_size(1023), "1023 B");
    }
}

//! Links as text, for command lines, descriptions of labs and traces:
//!
//! ```text
//! rate=100mbit,delay=20ms,jitter=2ms,loss=1%,reorder=5%/3ms,duplicate=1%,corrupt=0.1%,mtu=1400,queue=256k,mark=64k
//! delay=50ms,bursts=1%/20%/0/80%
//! down
//! ```
//!
//! Words are joined by commas; each changes one thing of a clean link without delay, or, with
//! [`LinkConfig::change`], of a link as it is. Units are those of `tc`. What is printed is read back as the same
//! link, and leaves out what is as in a clean one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::link::{LinkConfig, Noise, UDP_OVERHEAD};
use crate::base::units::{parse_rate, parse_size};

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?}: {why}")]
pub struct BadLink {
    word: String,
    why: String,
}

/// The words, for people who mistyped one.
const WORDS: &str = "rate=100mbit, queue=256k, overhead=28, delay=20ms, jitter=2ms, loss=1%, \
                     bursts=ENTER/LEAVE/GOOD/BAD, reorder=5%/3ms, duplicate=1%, corrupt=0.1%, mtu=1500, mark=64k, up, \
                     down, clean";

impl LinkConfig {
    /// Changes what the words of `text` name and nothing else. An error changes nothing.
    pub fn change(&mut self, text: &str) -> Result<(), BadLink> {
        let mut changed = self.clone();
        let mut seen: Vec<&str> = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let bad = |why: String| BadLink { word: word.chars().take(64).collect(), why };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if seen.contains(&topic(key)) {
                return Err(bad("said twice, or beside another word for the same".into()));
            }
            seen.push(topic(key));
            changed.apply(key, value).map_err(bad)?;
        }
        *self = changed;
        Ok(())
    }

    fn apply(&mut self, key: &str, value: &str) -> Result<(), String> {
        if matches!(key, "up" | "down" | "clean") && !value.is_empty() {
            return Err(format!("`{key}` takes no value"));
        }
        match key {
            "up" | "down" => self.up = key == "up",
            "clean" => *self = Self::clean(Duration::ZERO),
            "rate" => self.rate = rate(value)?,
            "queue" => self.queue = size(value)?,
            "overhead" => self.overhead = size(value)?,
            "delay" => self.delay = duration(value)?,
            "jitter" => self.jitter = duration(value)?,
            "loss" => self.noise = Noise::Independent(probability(value)?),
            "bursts" => self.noise = bursts(value)?,
            "reorder" => (self.reorder, self.reorder_by) = reorder(value)?,
            "duplicate" => self.duplicate = probability(value)?,
            "corrupt" => self.corrupt = probability(value)?,
            "mtu" => {
                let least = format!("a packet's length, at least {UDP_OVERHEAD} bytes of headers");
                self.mtu = size(value)?.checked_sub(UDP_OVERHEAD).ok_or(least)?;
            }
            "mark" => self.mark_above = if value == "never" { None } else { Some(size(value)?) },
            _ => return Err(format!("no such word; there are {WORDS}")),
        }
        Ok(())
    }
}

/// Words that exclude each other.
fn topic(key: &str) -> &str {
    match key {
        "down" => "up",
        "bursts" => "loss",
        other => other,
    }
}

impl FromStr for LinkConfig {
    type Err = BadLink;

    fn from_str(text: &str) -> Result<Self, BadLink> {
        let mut link = Self::clean(Duration::ZERO);
        link.change(text)?;
        Ok(link)
    }
}

fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    match parse_rate(text).map_err(|error| error.to_string())? {
        0 => Err("nothing passes at that rate: say `down`".into()),
        rate => Ok(Some(rate)),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    usize::try_from(bytes).map_err(|_| "too large".into())
}

/// A time with its unit: `20ms`, `1.5s`, `250us`.
fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "a time is wanted, with its unit: 20ms, 1.5s, 250us, 100ns".to_string();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale: u64 = match unit {
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ if number == "0" && unit.is_empty() => 1,
        _ => return Err(wanted()),
    };
    let nanos = if number.contains('.') {
        let nanos = number.parse::<f64>().map_err(|_| wanted())? * scale as f64;
        // Larger ones have no exact nanoseconds here, and no use.
        (nanos < (1u64 << 53) as f64).then_some(nanos.round() as u64)
    } else {
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale))
    };
    nanos.map(Duration::from_nanos).ok_or_else(wanted)
}

/// `1%`, `0.25%`; or a fraction below 1.
fn probability(text: &str) -> Result<f64, String> {
    let wanted = || "a probability is wanted: 1%, 0.5%, or a fraction such as 0.01".to_string();
    let (number, end) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wanted());
    }
    let value: f64 = number.parse().map_err(|_| wanted())?;
    if end == 1.0 && value >= 1.0 {
        return Err(format!("{number} of what? say {number}%, or a fraction below 1"));
    }
    if value > end {
        return Err("more than 100%".into());
    }
    // By the decimal text and not by a division, which would not always give the nearest number.
    if end == 1.0 { Ok(value) } else { format!("{number}e-2").parse().map_err(|_| wanted()) }
}

fn bursts(text: &str) -> Result<Noise, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [enter, leave, good, bad] = parts[..] else {
        return Err(
            "four probabilities are wanted: entering and leaving a burst, losses outside and inside".into()
        );
    };
    let [enter, leave, good, bad] =
        [probability(enter)?, probability(leave)?, probability(good)?, probability(bad)?];
    Ok(Noise::Bursts { enter, leave, good, bad })
}

fn reorder(text: &str) -> Result<(f64, Duration), String> {
    if text == "0" {
        return Ok((0.0, Duration::ZERO));
    }
    let (share, by) = text.split_once('/').ok_or("how many, and held back by how much at most: 5%/3ms")?;
    Ok((probability(share)?, duration(by)?))
}

impl fmt::Display for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clean = Self::clean(Duration::ZERO);
        let mut words = Vec::new();
        if let Some(rate) = self.rate {
            words.push(format!(
                "rate={}",
                scaled(rate, &[(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1000, "kbit")], "bit")
            ));
        }
        if self.queue != clean.queue {
            words.push(format!("queue={}", show_size(self.queue)));
        }
        if self.overhead != clean.overhead {
            words.push(format!("overhead={}", show_size(self.overhead)));
        }
        for (name, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !time.is_zero() {
                words.push(format!("{name}={}", show_time(time)));
            }
        }
        match self.noise {
            Noise::Independent(0.0) => {}
            Noise::Independent(loss) => words.push(format!("loss={}", show_share(loss))),
            Noise::Bursts { enter, leave, good, bad } => {
                words.push(format!("bursts={}", [enter, leave, good, bad].map(show_share).join("/")));
            }
        }
        if self.reorder != 0.0 || !self.reorder_by.is_zero() {
            words.push(format!("reorder={}/{}", show_share(self.reorder), show_time(self.reorder_by)));
        }
        for (name, share) in [("duplicate", self.duplicate), ("corrupt", self.corrupt)] {
            if share != 0.0 {
                words.push(format!("{name}={}", show_share(share)));
            }
        }
        if self.mtu != clean.mtu {
            words.push(format!("mtu={}", self.mtu.saturating_add(UDP_OVERHEAD)));
        }
        if let Some(bytes) = self.mark_above {
            words.push(format!("mark={}", show_size(bytes)));
        }
        if !self.up {
            words.push("down".into());
        }
        if words.is_empty() {
            words.push("clean".into());
        }
        f.write_str(&words.join(","))
    }
}

/// In the largest unit that leaves no rest.
fn scaled(value: u64, units: &[(u64, &str)], smallest: &str) -> String {
    match units.iter().find(|(scale, _)| value >= *scale && value.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", value / scale),
        None => format!("{value}{smallest}"),
    }
}

fn show_size(bytes: usize) -> String {
    scaled(bytes as u64, &[(1 << 20, "m"), (1 << 10, "k")], "")
}

fn show_time(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    scaled(nanos, &[(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")], "ns")
}

/// As percent, by moving the point in the shortest decimal that means this number.
fn show_share(share: f64) -> String {
    let text = share.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = format!("{whole}{fraction:0<2}");
    let (percent, rest) = digits.split_at(whole.len() + 2);
    let percent = percent.trim_start_matches('0');
    let percent = if percent.is_empty() { "0" } else { percent };
    if rest.is_empty() { format!("{percent}%") } else { format!("{percent}.{rest}%") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64, (0..1000u32).prop_map(|n| f64::from(n) / 1000.0)]
    }

    fn time() -> impl Strategy<Value = Duration> {
        let scale = prop_oneof![Just(1u64), Just(1000), Just(1_000_000), Just(1_000_000_000)];
        (0..5000u64, scale).prop_map(|(number, scale)| Duration::from_nanos(number * scale))
    }

    fn noise() -> impl Strategy<Value = Noise> {
        prop_oneof![
            share().prop_map(Noise::Independent),
            (share(), share(), share(), share()).prop_map(|(enter, leave, good, bad)| Noise::Bursts {
                enter,
                leave,
                good,
                bad
            }),
        ]
    }

    fn link() -> impl Strategy<Value = LinkConfig> {
        let wire =
            (any::<bool>(), prop::option::of(1..1u64 << 50), 0..1usize << 40, 0..100usize, 0..1usize << 20);
        let mark = prop::option::of(0..1usize << 30);
        let times = (time(), time(), share(), time());
        (wire, times, noise(), share(), share(), mark).prop_map(
            |(
                (up, rate, queue, overhead, mtu),
                (delay, jitter, reorder, reorder_by),
                noise,
                duplicate,
                corrupt,
                mark_above,
            )| {
                LinkConfig {
                    up,
                    rate,
                    queue,
                    overhead,
                    delay,
                    jitter,
                    reorder,
                    reorder_by,
                    noise,
                    duplicate,
                    corrupt,
                    mtu,
                    mark_above,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(link in link()) {
            let text = link.to_string();
            prop_assert_eq!(text.parse::<LinkConfig>().map_err(|error| format!("{text}: {error}")), Ok(link));
        }

        #[test]
        fn no_text_panics(text in "[a-z]{0,6}=?[-0-9.%/a-zµ,]{0,12}(,[a-z]+=[0-9.e%/]*[a-z]*)?") {
            if let Ok(link) = text.parse::<LinkConfig>() {
                prop_assert_eq!(link.to_string().parse(), Ok(link));
            }
        }
    }

    #[test]
    fn every_word_is_read_and_printed_as_people_write_it() {
        let text = "rate=100mbit,queue=256k,delay=20ms,jitter=2ms,bursts=1%/20%/0%/80%,reorder=5%/3ms,\
                    duplicate=1%,corrupt=0.1%,mtu=1400,mark=64k,down";
        let link: LinkConfig = text.parse().unwrap();
        assert_eq!(link.to_string(), text);
        assert_eq!((link.rate, link.queue, link.up), (Some(100_000_000), 262_144, false));
        assert_eq!((link.delay, link.mtu), (Duration::from_millis(20), 1372));
        assert_eq!(link.noise, Noise::Bursts { enter: 0.01, leave: 0.2, good: 0.0, bad: 0.8 });
        assert_eq!("clean".parse(), Ok(LinkConfig::clean(Duration::ZERO)));
        assert_eq!("".parse(), Ok(LinkConfig::clean(Duration::ZERO)));
        let loose: LinkConfig = " delay=1.5ms, loss=0.07 ".parse().unwrap();
        assert_eq!(loose.to_string(), "delay=1500us,loss=7%");
    }

    #[test]
    fn a_change_leaves_the_rest_alone_and_an_error_everything() {
        let mut link: LinkConfig = "rate=1mbit,bursts=1%/20%/0/80%".parse().unwrap();
        link.change("loss=5%,down").unwrap();
        assert_eq!(link.to_string(), "rate=1mbit,loss=5%,down");
        assert!(link.change("up,delay=5").is_err());
        assert!(!link.up);
        link.change("up,rate=unlimited,loss=0").unwrap();
        assert_eq!(link, LinkConfig::clean(Duration::ZERO));
        link.change("delay=3s").unwrap();
        link.change("clean,mtu=1280").unwrap();
        assert_eq!(link.to_string(), "mtu=1280");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("dealy=20ms", "no such word"),
            ("delay=20", "with its unit"),
            ("delay=-1ms", "with its unit"),
            ("delay=1.2.3ms", "with its unit"),
            ("delay=99999999999999999999s", "with its unit"),
            ("loss=5", "say 5%"),
            ("loss=1", "say 1%"),
            ("loss=101%", "more than 100%"),
            ("loss=NaN", "probability"),
            ("loss=1e-2", "probability"),
            ("loss=", "probability"),
            ("rate=0", "say `down`"),
            ("rate=fast", "rate such as"),
            ("queue=-1", "size such as"),
            ("mtu=27", "at least 28"),
            ("bursts=1%/2%", "four probabilities"),
            ("reorder=5%", "held back"),
            ("up=1", "takes no value"),
            ("delay=1ms,delay=2ms", "said twice"),
            ("loss=1%,bursts=1%/1%/1%/1%", "beside another"),
            ("up,down", "beside another"),
        ] {
            let error = text.parse::<LinkConfig>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

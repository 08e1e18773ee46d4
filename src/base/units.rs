//! Quantities as people write and read them: rates as in `tc` (`50mbit`), sizes (`1.5GiB`), durations.

use std::time::Duration;

/// A text that is no quantity of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct BadQuantity {
    text: String,
    wanted: &'static str,
}

fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    number.is_finite().then(|| (number, unit.trim().to_ascii_lowercase()))
}

fn bad(text: &str, wanted: &'static str) -> BadQuantity {
    BadQuantity { text: text.chars().take(64).collect(), wanted }
}

/// A rate in bits per second, as `tc` reads it: `50mbit`, `1gbit`, `8kbit`, `64bit`; also in bytes,
/// `10kbps`, and IEC `1mibit`, `1mibps`. A bare number is bits per second.
pub fn parse_rate(text: &str) -> Result<u64, BadQuantity> {
    const WANTED: &str = "a rate such as 50mbit, 1gbit or 8kbit";
    let (number, unit) = split(text).ok_or_else(|| bad(text, WANTED))?;
    let factor = match unit.as_str() {
        "" | "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        "tbit" => 1e12,
        "kibit" => 1024.0,
        "mibit" => 1_048_576.0,
        "gibit" => 1_073_741_824.0,
        "tibit" => 1_099_511_627_776.0,
        "bps" => 8.0,
        "kbps" => 8e3,
        "mbps" => 8e6,
        "gbps" => 8e9,
        "tbps" => 8e12,
        "kibps" => 8.0 * 1024.0,
        "mibps" => 8.0 * 1_048_576.0,
        "gibps" => 8.0 * 1_073_741_824.0,
        "tibps" => 8.0 * 1_099_511_627_776.0,
        _ => return Err(bad(text, WANTED)),
    };
    to_u64(number * factor).ok_or_else(|| bad(text, WANTED))
}

/// A size in bytes: `4096`, `64KiB`, `1.5G` (IEC with or without the `iB`, SI as `KB`, `MB`, …).
pub fn parse_size(text: &str) -> Result<u64, BadQuantity> {
    const WANTED: &str = "a size such as 512MiB, 20GiB or 1TB";
    let (number, unit) = split(text).ok_or_else(|| bad(text, WANTED))?;
    let factor = match unit.as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(bad(text, WANTED)),
    };
    to_u64(number * factor).ok_or_else(|| bad(text, WANTED))
}

/// A duration: `90s`, `15min`, `2.5h`, `3d`, `20ms`. A bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, BadQuantity> {
    const WANTED: &str = "a duration such as 90s, 15min, 2.5h or 3d";
    let (number, unit) = split(text).ok_or_else(|| bad(text, WANTED))?;
    let factor = match unit.as_str() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad(text, WANTED)),
    };
    let seconds = number * factor;
    // A thousand years are enough, and far from what a Duration holds.
    if !(0.0..3.2e10).contains(&seconds) {
        return Err(bad(text, WANTED));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn to_u64(value: f64) -> Option<u64> {
    (value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

/// An OS error without Rust's "(os error N)".
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// A size for people: three or four significant digits with an IEC unit.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A rate for people, in decimal bits per second: `9.6 Gbit/s`.
pub fn show_rate(bits_per_second: f64) -> String {
    match bits_per_second {
        r if r >= 1e9 => format!("{:.2} Gbit/s", r / 1e9),
        r if r >= 1e6 => format!("{:.1} Mbit/s", r / 1e6),
        r if r >= 1e3 => format!("{:.1} kbit/s", r / 1e3),
        r => format!("{r:.0} bit/s"),
    }
}

/// A duration for people: `3 d 4 h`, `2 min 5 s`, `1.5 s`, `20 ms`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tc_reads() {
        assert_eq!(parse_rate("50mbit"), Ok(50_000_000));
        assert_eq!(parse_rate("1.5Gbit"), Ok(1_500_000_000));
        assert_eq!(parse_rate("10kbps"), Ok(80_000));
        assert_eq!(parse_rate("2KiBps"), Ok(16_384));
        assert_eq!(parse_rate("1tibit"), Ok(1 << 40));
        assert_eq!(parse_size("1.5GiB"), Ok(1_610_612_736));
        assert_eq!(parse_size("20 MB"), Ok(20_000_000));
        for wrong in ["", "mbit", "-1mbit", "1 parsec", "9e99", "1e400gbit", "٣mbit"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
            assert!(parse_size(wrong).is_err() || wrong.is_empty(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("2.5h"), Ok(Duration::from_secs(9000)));
        assert_eq!(parse_duration("15 min"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        for wrong in ["", "h", "-1s", "9e9d", "1 fortnight"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn writes_what_people_read() {
        assert_eq!(show_size(512), "512 B");
        assert_eq!(show_size(1_610_612_736), "1.5 GiB");
        assert_eq!(show_rate(9.6e9), "9.60 Gbit/s");
        assert_eq!(show_duration(Duration::from_secs(125)), "2 min 5 s");
    }
}

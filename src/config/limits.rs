//! What `tornet.toml` says of bandwidth, as text and as numbers.

use std::fmt::Write;
use std::time::Duration;

use super::Config;
use crate::base::units::{parse_rate, parse_size};
use crate::base::{NodeId, UnixMs};
use crate::limits::{
    BURST_BYTES_MAX, LIMITS_REVIEW_MS, RATE_BITS_MAX, RATE_BITS_MIN, RESERVED_DELAY_US_MAX,
    RESERVED_DELAY_US_MIN, RESERVED_DELAY_US_USUAL, WEIGHT_MAX, WIRE_PACKET_MAX,
};
use crate::shape::{Admission, PeerLimits, Reservation, Window};

/// A rate within what can be kept; empty is none.
pub(super) fn rate(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wanted = || {
        format!("a rate such as 50mbit, from {} to {}", exact_rate(RATE_BITS_MIN), exact_rate(RATE_BITS_MAX))
    };
    let rate = parse_rate(text).map_err(|_| wanted())?;
    if (RATE_BITS_MIN..=RATE_BITS_MAX).contains(&rate) { Ok(Some(rate)) } else { Err(wanted()) }
}

/// A rate that reads back as exactly the same number.
pub fn exact_rate(bits: u64) -> String {
    let units = [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")];
    match units.iter().find(|(unit, _)| bits > 0 && bits.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bits / unit),
        None => format!("{bits}bit"),
    }
}

fn burst(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(bytes) if bytes <= BURST_BYTES_MAX => Ok(bytes),
        _ => Err(format!("a size of at most {BURST_BYTES_MAX} bytes")),
    }
}

/// A burst; empty is the usual one.
pub(super) fn burst_or_none(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() { Ok(None) } else { burst(text).map(Some) }
}

/// `NODEID up=10mbit down=10mbit floor=1mbit burst=64KiB weight=20 background refuses`: what one peer may, and is owed.
pub fn parse_peer(text: &str) -> Result<(NodeId, PeerLimits), String> {
    const WANTED: &str = "a node id, then up=, down=, floor=, burst=, weight=, background or refuses";
    let mut words = text.split_whitespace();
    let node: NodeId = words.next().and_then(|word| word.parse().ok()).ok_or(WANTED)?;
    let mut limits = PeerLimits::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "up" => limits.up = rate(value)?,
            "down" => limits.down = rate(value)?,
            "floor" => limits.floor = rate(value)?,
            "burst" => limits.burst = burst_or_none(value)?,
            "weight" => match value.parse() {
                Ok(weight @ 1..=WEIGHT_MAX) => limits.weight = Some(weight),
                _ => return Err(format!("a weight from 1 to {WEIGHT_MAX}")),
            },
            "background" if value.is_empty() => limits.background = true,
            "refuses" if value.is_empty() => limits.refuses = true,
            _ => return Err(WANTED.into()),
        }
    }
    if let (Some(floor), Some(up)) = (limits.floor, limits.up)
        && floor > up
    {
        return Err("a floor that is not above up".into());
    }
    Ok((node, limits))
}

/// As [`parse_peer`] reads it.
pub fn show_peer(node: &NodeId, limits: &PeerLimits) -> String {
    let mut text = node.to_string();
    let rates = [("up", limits.up), ("down", limits.down), ("floor", limits.floor)];
    for (name, rate) in rates.into_iter().filter_map(|(name, rate)| Some((name, rate?))) {
        let _ = write!(text, " {name}={}", exact_rate(rate));
    }
    if let Some(burst) = limits.burst {
        let _ = write!(text, " burst={burst}");
    }
    if let Some(weight) = limits.weight {
        let _ = write!(text, " weight={weight}");
    }
    if limits.background {
        text.push_str(" background");
    }
    if limits.refuses {
        text.push_str(" refuses");
    }
    text
}

/// Bandwidth that was promised to a peer, for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// To whom.
    pub node: NodeId,
    /// What.
    pub reservation: Reservation,
    /// Until when, seconds since 1970.
    pub until_s: u64,
}

impl Promise {
    /// Whether it still holds.
    pub fn holds(&self, now: UnixMs) -> bool {
        self.until_s.saturating_mul(1000) > now.0
    }
}

/// How long limits stay as they are, at most [`LIMITS_REVIEW_MS`]: until the next minute, with which a time of the schedule
/// may begin, or the end of a promise. What is left of a quota is looked at then too.
pub fn until_review(config: &Config, now: UnixMs) -> Duration {
    const MINUTE_MS: u64 = 60_000;
    let minute = MINUTE_MS - now.0 % MINUTE_MS;
    let promises = config.limits_reserved.iter().chain(&config.limits_asked);
    let ends =
        promises.filter(|promise| promise.holds(now)).map(|one| one.until_s.saturating_mul(1000) - now.0);
    // A millisecond at least: a clock that is set back is no reason to look at once for ever.
    Duration::from_millis(ends.chain([minute, LIMITS_REVIEW_MS]).min().unwrap_or(LIMITS_REVIEW_MS).max(1))
}

/// `NODEID rate=80kbit burst=3040 delay_us=20000 until=1795000000`.
pub(super) fn parse_promise(text: &str) -> Result<Promise, String> {
    const WANTED: &str = "a node id, then rate=, burst=, delay_us= and until=";
    let mut words = text.split_whitespace();
    let node: NodeId = words.next().and_then(|word| word.parse().ok()).ok_or(WANTED)?;
    let (mut rate_bits, mut bytes, mut delay_us, mut until_s) =
        (None, 2 * WIRE_PACKET_MAX, RESERVED_DELAY_US_USUAL, None);
    for word in words {
        match word.split_once('=') {
            Some(("rate", value)) => rate_bits = rate(value)?,
            Some(("burst", value)) => bytes = burst(value)?,
            Some(("delay_us", value)) => delay_us = value.parse().map_err(|_| WANTED)?,
            Some(("until", value)) => until_s = Some(value.parse().map_err(|_| WANTED)?),
            _ => return Err(WANTED.into()),
        }
    }
    if !(RESERVED_DELAY_US_MIN..=RESERVED_DELAY_US_MAX).contains(&delay_us) {
        return Err(format!("a delay_us from {RESERVED_DELAY_US_MIN} to {RESERVED_DELAY_US_MAX}"));
    }
    let delay = Duration::from_micros(delay_us);
    let reservation = Reservation { rate: rate_bits.ok_or(WANTED)?, burst: bytes, delay };
    Ok(Promise { node, reservation, until_s: until_s.ok_or(WANTED)? })
}

/// As [`parse_promise`] reads it.
pub fn show_promise(promise: &Promise) -> String {
    let Promise { node, reservation: Reservation { rate, burst, delay }, until_s } = promise;
    format!("{node} rate={} burst={burst} delay_us={} until={until_s}", exact_rate(*rate), delay.as_micros())
}

/// Adds a promise to those that still hold, in the place of an earlier one to the same peer; or says in one line why not,
/// and what would fit.
pub fn promise(config: &Config, now: UnixMs, wanted: Promise) -> Result<Vec<Promise>, String> {
    let mut others: Vec<Promise> = config
        .limits_reserved
        .iter()
        .filter(|one| one.holds(now) && one.node != wanted.node)
        .copied()
        .collect();
    let mut admission = Admission::default();
    let floors: u64 = config.limits_peers.iter().filter_map(|(_, own)| own.floor).sum();
    let up = config.limits.at(now, None).0;
    // What friends may have by asking is theirs.
    let askable = up.unwrap_or(0) / 100 * u64::from(config.limits_askable);
    admission.set_line(up, floors + askable);
    for one in &others {
        // What was promised when there was more stays promised.
        admission.keep(one.reservation);
    }
    let cap = config.limits_peers.iter().find(|(node, _)| *node == wanted.node).and_then(|(_, own)| own.up);
    admission.admit(wanted.reservation, cap).map_err(|why| match why.most() {
        0 => why.to_string(),
        most => format!("{why}: {} would fit", exact_rate(most)),
    })?;
    others.push(wanted);
    Ok(others)
}

/// `08:00-18:00 up=5mbit down=20mbit`: a time of every day (UTC) with rates of its own.
pub(super) fn parse_window(text: &str) -> Result<Window, String> {
    const WANTED: &str = "a time such as 08:00-18:00, then up= or down= with a rate, or both, each once";
    let mut words = text.split_whitespace();
    let (from, until) = words.next().and_then(|word| word.split_once('-')).ok_or(WANTED)?;
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60 || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
    };
    let (from, until) = (minute(from).ok_or(WANTED)?, minute(until).ok_or(WANTED)?);
    let mut window = Window { from, until, up: None, down: None };
    for word in words {
        let (own, value) = match word.split_once('=') {
            Some(("up", value)) => (&mut window.up, value),
            Some(("down", value)) => (&mut window.down, value),
            _ => return Err(WANTED.into()),
        };
        if own.is_some() {
            return Err(WANTED.into());
        }
        *own = Some(rate(value)?.ok_or(WANTED)?);
    }
    if (window.up, window.down) == (None, None) {
        return Err(WANTED.into());
    }
    Ok(window)
}

pub(super) fn show_window(window: &Window) -> String {
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let mut text = format!("{}-{}", clock(window.from), clock(window.until));
    for (name, rate) in [("up", window.up), ("down", window.down)] {
        if let Some(rate) = rate {
            let _ = write!(text, " {name}={}", exact_rate(rate));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        let node = NodeId([0xab; 20]);
        for text in [
            "",
            " up=10mbit",
            " up=1000001bit down=3gbit floor=8kbit burst=65536 weight=20 background refuses",
        ] {
            let text = format!("{node}{text}");
            let (read, limits) = parse_peer(&text).expect("reads");
            assert_eq!((read, show_peer(&read, &limits)), (node, text));
        }
        for text in ["08:00-18:00 up=5mbit", "22:30-24:00 up=1gbit down=100kbit", "23:00-01:00 down=8kbit"] {
            assert_eq!(show_window(&parse_window(text).expect("reads")), text);
        }
    }

    #[test]
    fn promises_are_admitted_replaced_and_refused_with_what_would_fit() {
        let (now, mut config) = (UnixMs(1_000_000_000), Config::default());
        config.limits.up = Some(10_000_000);
        let wanted = |node: u8, rate: u64| Promise {
            node: NodeId([node; 20]),
            reservation: Reservation { rate, burst: 3040, delay: Duration::from_millis(20) },
            until_s: 1_000_600,
        };
        config.limits_reserved = promise(&config, now, wanted(1, 5_000_000)).expect("fits");
        let why = promise(&config, now, wanted(2, 5_000_000)).expect_err("too much");
        assert!(why.ends_with("3mbit would fit"), "{why}");
        assert_eq!(
            promise(&config, now, wanted(1, 8_000_000)).map(|all| all.len()),
            Ok(1),
            "extended, not doubled"
        );
        assert!(
            promise(&config, UnixMs(1_000_600_000), wanted(2, 8_000_000)).is_ok(),
            "the other has expired"
        );
        let shown = show_promise(&wanted(1, 5_000_000));
        assert_eq!(parse_promise(&shown), Ok(wanted(1, 5_000_000)));
        for text in
            ["", "bob rate=1mbit until=5", &shown.replace("rate=5mbit ", ""), &shown.replace("20000", "1")]
        {
            assert!(parse_promise(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let node = NodeId([0xab; 20]);
        for text in [
            " up=1",
            " up=fast",
            " weight=0",
            " weight=101",
            " burst=1TiB",
            " sideways",
            " background=1",
            " up=1mbit floor=2mbit",
        ] {
            assert!(parse_peer(&format!("{node}{text}")).is_err(), "{text}");
        }
        assert!(parse_peer("bob up=1mbit").is_err() && parse_peer("").is_err());
        for text in ["", "08:00", "8-18", "25:00-26:00 up=1mbit", "08:00-18:00 floor=1mbit", "08:60-09:00"] {
            assert!(parse_window(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_looked_at_when_they_change() {
        let mut config = Config::default();
        let at = |config: &Config, ms: u64| until_review(config, UnixMs(ms)).as_millis() as u64;
        assert_eq!(at(&config, 1_000_000_000), 15_000);
        assert_eq!(at(&config, 60_000 * 7 - 2_500), 2_500, "the next minute");
        assert_eq!(at(&config, 60_000 * 7), 15_000);
        let reservation = Reservation { rate: 80_000, burst: 3040, delay: Duration::from_millis(50) };
        config.limits_asked = vec![Promise { node: NodeId([1; 20]), reservation, until_s: 60 * 7 + 4 }];
        assert_eq!(at(&config, 60_000 * 7), 4_000, "the end of a promise");
        assert_eq!(at(&config, 60_000 * 7 + 4_000), 15_000, "which is over then");
    }
}

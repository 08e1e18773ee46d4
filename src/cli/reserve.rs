//! `limit reserve` and `limit release`: promises of bandwidth, to a peer or from it.

use std::time::{Duration, Instant};

use hyper::Method;

use super::client::ask;
use super::limit::{apply, find};
use super::{Failure, args, tell};
use crate::base::NodeId;
use crate::base::units::{parse_duration, parse_rate, parse_size, show_duration, show_rate};
use crate::config::limits::{Promise, exact_rate, promise, show_promise};
use crate::config::{Config, NodeDir};
use crate::io::clock::wall;
use crate::limits::{
    BURST_BYTES_MAX, RATE_BITS_MAX, RATE_BITS_MIN, RESERVED_DELAY_US_MAX, RESERVED_DELAY_US_MIN,
    RESERVED_S_MAX, WIRE_PACKET_MAX,
};
use crate::shape::Reservation;

/// For how long a peer's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn reserve(dir: &NodeDir, words: &args::LimitReserve) -> Result<(), Failure> {
    let file = dir.load_config()?;
    let config = file.config();
    let node = find(config, &words.node)?;
    let rate = parse_rate(&words.rate).map_err(Failure::new)?;
    let duration = parse_duration(&words.duration).map_err(Failure::new)?;
    if duration.is_zero() {
        return Err(Failure::new("a promise for no time is none: give a duration such as 2.5h"));
    }
    let delay = parse_duration(&words.delay).map_err(Failure::new)?;
    let burst = words.burst.as_deref().map(parse_size).transpose().map_err(Failure::new)?;
    let burst = burst.unwrap_or(2 * WIRE_PACKET_MAX);
    let until_s = (wall().0 / 1000).saturating_add(duration.as_secs().max(1));
    let wanted = Promise { node, reservation: Reservation { rate, burst, delay }, until_s };
    if words.from {
        return reserve_from(dir, config, wanted, duration, &words.node);
    }
    let all = promise(config, wall(), wanted).map_err(|why| Failure::new(format!("refused: {why}")))?;
    apply_promises(dir, "limits.reserved", &all)
}

/// What holds, with one in the place of an earlier one of the same peer, or without it.
fn asked(config: &Config, node: &NodeId, new: Option<Promise>) -> Vec<Promise> {
    let others = config.limits_asked.iter().filter(|one| one.node != *node && one.holds(wall()));
    others.copied().chain(new).collect()
}

fn reserve_from(
    dir: &NodeDir,
    config: &Config,
    wanted: Promise,
    duration: Duration,
    name: &str,
) -> Result<(), Failure> {
    let Reservation { rate, burst, delay } = wanted.reservation;
    let delays = Duration::from_micros(RESERVED_DELAY_US_MIN)..=Duration::from_micros(RESERVED_DELAY_US_MAX);
    if !(RATE_BITS_MIN..=RATE_BITS_MAX).contains(&rate)
        || burst > BURST_BYTES_MAX
        || !delays.contains(&delay)
        || duration > Duration::from_secs(u64::from(RESERVED_S_MAX))
    {
        return Err(Failure::new(format!(
            "nobody can be asked for that: a rate from {} to {}, a burst of at most {BURST_BYTES_MAX} bytes, a delay \
             from {} to {} ms and a duration of at most {} days can be promised",
            exact_rate(RATE_BITS_MIN),
            exact_rate(RATE_BITS_MAX),
            RESERVED_DELAY_US_MIN / 1000,
            RESERVED_DELAY_US_MAX / 1000,
            RESERVED_S_MAX / 86_400,
        )));
    }
    let before = config.limits_asked.iter().find(|one| one.node == wanted.node && one.holds(wall())).copied();
    apply_promises(dir, "limits.asked", &asked(config, &wanted.node, Some(wanted)))?;
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let Some(status) = ask(dir, Method::GET, "/v1/status", None)? else {
            tell("the daemon does not run: it asks once it does");
            return Ok(());
        };
        let id = wanted.node.to_string();
        let peer = status["peers"].as_array().and_then(|all| all.iter().find(|peer| peer["node_id"] == *id));
        if peer.is_none_or(|peer| peer["connected"] != true) {
            tell(format!("{name} is not connected: it is asked once it is"));
            return Ok(());
        }
        let answer = peer.map(|peer| &peer["asked"]).filter(|asked| asked["rate_bits"] == rate);
        if let Some(said) = answer.and_then(|asked| asked["said"].as_str()) {
            let left = answer.and_then(|asked| asked["left_s"].as_u64()).unwrap_or(0);
            if said == "promised" {
                let (rate, left) = (show_rate(rate as f64), show_duration(Duration::from_secs(left)));
                tell(format!("{name} promises {rate} for {left}"));
                return Ok(());
            }
            // It would be asked again with each session. What was promised before still is, and stays wanted.
            let kept = asked(dir.load_config()?.config(), &wanted.node, before);
            apply_promises(dir, "limits.asked", &kept)?;
            let most = answer.and_then(|asked| asked["most"].as_u64()).unwrap_or(0);
            return Err(Failure::new(format!("{name} refuses: {}", why(said, most))));
        }
        std::thread::sleep(PAUSE);
    }
    tell(format!("{name} has not answered yet: see `tornet status --json`"));
    Ok(())
}

/// Why it was refused, and what would fit.
fn why(said: &str, most: u64) -> String {
    match (said, most) {
        ("rate", 0) => "it has no more to promise".into(),
        ("rate", most) => format!("that is more than it has left; {} would fit", exact_rate(most)),
        ("cap", most) => format!("its limit for this node is {}", exact_rate(most)),
        ("burst", most) => format!("that burst would make others late; {most} bytes would fit"),
        ("full", _) => "it has promised something to as many as it can".into(),
        _ => "it promises nothing to this node: only friends may ask, and not those whom it refuses".into(),
    }
}

pub(super) fn release(dir: &NodeDir, who: &str, from: bool) -> Result<(), Failure> {
    let file = dir.load_config()?;
    let (config, now) = (file.config(), wall());
    let node = find(config, who)?;
    let (key, all) = if from {
        ("limits.asked", &config.limits_asked)
    } else {
        ("limits.reserved", &config.limits_reserved)
    };
    if all.iter().all(|promise| promise.node != node) {
        let what = if from {
            format!("{who} was asked for nothing")
        } else {
            format!("nothing was promised to {who}")
        };
        return Err(Failure::new(format!("{what}: see `tornet limit show`")));
    }
    let kept: Vec<Promise> =
        all.iter().filter(|promise| promise.node != node && promise.holds(now)).copied().collect();
    apply_promises(dir, key, &kept)
}

fn apply_promises(dir: &NodeDir, key: &str, promises: &[Promise]) -> Result<(), Failure> {
    let all: Vec<String> = promises.iter().map(show_promise).collect();
    apply(dir, &[(key, all.join(","))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_would_fit() {
        assert!(why("rate", 3_000_000).ends_with("3mbit would fit"));
        assert!(why("burst", 700).ends_with("700 bytes would fit"));
        assert!(why("unwilling", 0).contains("friends"));
    }
}

//! `leave` and `online`: what this node means to do; and `friend ask`: what others are asked to.

use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::client::{ask, not_running, segment};
use super::show::{count, number};
use super::{Failure, args, tell};
use crate::base::units::{parse_duration, show_duration, show_size};
use crate::config::NodeDir;
use crate::io::clock::wall;
use crate::limits::{INTENT_S_MAX, STAY_S_MAX};

const PAUSE: Duration = Duration::from_millis(500);
const DAY_S: u64 = 86_400;

/// A duration of the command line in whole seconds.
fn seconds(text: &str, most: u32) -> Result<u32, Failure> {
    // Whoever means minutes and says none would lose the node within seconds.
    if text != "0" && text.ends_with(|last: char| last.is_ascii_digit()) {
        return Err(Failure::new(format!("{text:?} has no unit: say {text}s, {text}min or {text}h")));
    }
    let duration = parse_duration(text).map_err(Failure::new)?;
    let seconds = u32::try_from(duration.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
    match seconds <= most {
        true => Ok(seconds),
        false => {
            let most = show_duration(Duration::from_secs(most.into()));
            Err(Failure::new(format!("{text} is too long: at most {most}")))
        }
    }
}

fn show(seconds: u64) -> String {
    show_duration(Duration::from_secs(seconds))
}

pub(super) fn leave(dir: &NodeDir, words: &args::Leave) -> Result<(), Failure> {
    if words.cancel {
        let told = ask(dir, Method::DELETE, "/v1/leave", None)?.ok_or_else(|| not_running(dir))?;
        tell(if told["was"] == true { "this node stays" } else { "this node was not leaving" });
        return Ok(());
    }
    let text = words.within.as_deref().unwrap_or_default();
    let body = json!({ "in_s": seconds(text, INTENT_S_MAX)?, "early": words.early });
    let told = ask(dir, Method::POST, "/v1/leave", Some(&body))?.ok_or_else(|| not_running(dir))?;
    tell(match number(&told["leaving"], "in_s") {
        0 => "leaving now".to_owned(),
        left => format!("leaving in {}", show(left)),
    });
    if !words.wait {
        return Ok(());
    }
    let mut last = String::new();
    loop {
        thread::sleep(PAUSE);
        // A daemon that is about to end may leave a question without an answer.
        let Some(status) = ask(dir, Method::GET, "/v1/status", None).ok().flatten() else { break };
        if status["leaving"].is_null() {
            return Err(Failure::new("this node does not leave any more: somebody cancelled that"));
        }
        let line = handover(&status["leaving"]["handover"]);
        if line != last {
            tell(&line);
            last = line;
        }
    }
    // Its lock is free once everything is on the disk.
    while dir.lock().is_err() {
        thread::sleep(PAUSE / 5);
    }
    tell("it has left");
    Ok(())
}

/// How far handing over is.
pub(super) fn handover(handover: &Value) -> String {
    let n = |field: &str| number(handover, field);
    let short = match n("short") {
        0 => String::new(),
        short => format!(", too few keepers for {short}"),
    };
    format!(
        "handed over {} ({}), {} to go{short}",
        count(n("given"), "chunk"),
        show_size(n("given_bytes")),
        n("left")
    )
}

pub(super) fn online(dir: &NodeDir, words: &args::Online) -> Result<(), Failure> {
    let (method, body) = match (&words.duration, &words.until) {
        (Some(text), _) => (Method::POST, Some(json!({ "for_s": seconds(text, INTENT_S_MAX)?.max(1) }))),
        (None, Some(text)) => {
            let until = time_of_day(text)?;
            (Method::POST, Some(json!({ "for_s": until_then(wall().0 / 1000, until) })))
        }
        (None, None) => (Method::DELETE, None),
    };
    let told = ask(dir, method, "/v1/online", body.as_ref())?.ok_or_else(|| not_running(dir))?;
    let status = ask(dir, Method::GET, "/v1/status", None)?.unwrap_or_default();
    if status["leaving"].is_object() {
        tell(
            "this node is leaving: that is what friends hear, and the other once `tornet leave --cancel` took it back",
        );
        return Ok(());
    }
    tell(match told["online_s"].as_u64() {
        Some(left) => format!("friends hear that this node means to stay for {}", show(left)),
        None => "nothing is said of how long this node stays".to_owned(),
    });
    Ok(())
}

/// Seconds into the day of `HH:MM`.
fn time_of_day(text: &str) -> Result<u64, Failure> {
    let bad =
        || Failure::new(format!("{text:?} will not do: --until takes a time of the day (UTC) such as 23:30"));
    let (hours, minutes) = text.split_once(':').ok_or_else(bad)?;
    let number = |text: &str, below: u64| match text.len() {
        1 | 2 if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse::<u64>().ok().filter(|number| *number < below)
        }
        _ => None,
    };
    Ok(number(hours, 24).ok_or_else(bad)? * 3600 + number(minutes, 60).ok_or_else(bad)? * 60)
}

/// Seconds until it is that time the next time, 1 to a day.
fn until_then(now_s: u64, time: u64) -> u64 {
    (time + DAY_S - now_s % DAY_S - 1) % DAY_S + 1
}

pub(super) fn ask_friend(dir: &NodeDir, who: &str, text: &str) -> Result<(), Failure> {
    let body = json!({ "more_s": seconds(text, STAY_S_MAX)?.max(1) });
    let path = format!("/v1/friends/{}/stay", segment(who));
    let told = ask(dir, Method::POST, &path, Some(&body))?.ok_or_else(|| not_running(dir))?;
    let asked = &told["intent"]["asked"];
    let stays = asked["stays_s"].as_u64();
    match (asked["said"].as_str(), stays) {
        (Some("granted"), Some(left)) => tell(format!("{who} stays for {}", show(left))),
        (Some("granted"), None) => tell(format!("{who} does not mean to leave")),
        (Some("less"), left) => {
            let left = show(left.unwrap_or(0));
            return Err(Failure::new(format!("{who} says no: it would stay for {left} from now at most")));
        }
        (Some("refused"), _) => return Err(Failure::new(format!("{who} says no"))),
        _ => return Err(Failure::new(format!("{who} does not answer"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_day_is_the_next_one() {
        assert_eq!(time_of_day("23:30"), Ok(84_600));
        assert_eq!(time_of_day("7:05"), Ok(25_500));
        for wrong in ["24:00", "12:60", "noon", "12", "", "-1:00", "+1:00", "012:00"] {
            assert!(time_of_day(wrong).is_err(), "{wrong}");
        }
        let midnight = 20_000 * DAY_S;
        assert_eq!(until_then(midnight, 3600), 3600);
        assert_eq!(until_then(midnight + 7200, 3600), DAY_S - 3600);
        assert_eq!(until_then(midnight + 3600, 3600), DAY_S, "now is tomorrow");
    }

    #[test]
    fn progress_is_one_line() {
        let shown = handover(&json!({ "given": 1, "given_bytes": 1048576, "short": 0, "left": 3 }));
        assert_eq!(shown, "handed over 1 chunk (1.0 MiB), 3 to go");
        let shown = handover(&json!({ "given": 2, "given_bytes": 0, "short": 1, "left": 0 }));
        assert!(shown.ends_with("too few keepers for 1"), "{shown}");
    }

    #[test]
    fn durations_are_whole_seconds_within_bounds() {
        assert_eq!((seconds("10m", 86_400), seconds("1.2s", 10)), (Ok(600), Ok(2)));
        assert!(seconds("2d", STAY_S_MAX).is_err() && seconds("soon", 10).is_err());
    }
}

//! `limit`: bandwidth of the node and of single peers. What is set is a setting like others (docs/operating.md), so that
//! it is kept in `tornet.toml` and followed at once.

use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::ask;
use super::friend::offline;
use super::show::{count, table};
use super::{Failure, args, print, reserve, tell};
use crate::base::units::{show_duration, show_rate, show_size};
use crate::base::{NodeId, UnixMs};
use crate::config::limits::{Promise, parse_peer, show_peer, show_promise};
use crate::config::{self, Config, NodeDir, Usage, friends};
use crate::io::clock::wall;
use crate::limits::URGENT_SHARE_MILLI_MAX;
use crate::shape::PeerLimits;

pub(super) fn limit(dir: &NodeDir, command: args::Limit) -> Result<(), Failure> {
    match command {
        args::Limit::Set(set) => match set.node.clone() {
            Some(node) => set_peer(dir, &node, set),
            None => set_node(dir, set),
        },
        args::Limit::Reserve(wanted) => reserve::reserve(dir, &wanted),
        args::Limit::Release { node, from } => reserve::release(dir, &node, from),
        args::Limit::Remove { node } => remove(dir, &node),
        args::Limit::Show { json } => show(dir, json),
    }
}

/// A value as the settings have it: `none` is an empty one. An empty one is a mistake, such as a script's unset variable.
fn text<'a>(name: &str, value: &'a str) -> Result<&'a str, Failure> {
    match value {
        "" => {
            Err(Failure::new(format!("--{name} is empty: give a value, or \"none\" to take the limit away")))
        }
        none if none.eq_ignore_ascii_case("none") => Ok(""),
        value => Ok(value),
    }
}

fn set_node(dir: &NodeDir, set: args::LimitSet) -> Result<(), Failure> {
    let wanted = [
        ("limits.up", "up", set.up),
        ("limits.down", "down", set.down),
        ("limits.burst", "burst", set.burst),
        ("limits.quota", "quota", set.quota),
        ("limits.schedule", "schedule", set.schedule),
    ];
    let mut changes: Vec<(&str, String)> = Vec::new();
    for (key, name, value) in wanted {
        if let Some(value) = value {
            changes.push((key, text(name, &value)?.to_owned()));
        }
    }
    if changes.is_empty() {
        return Err(Failure::new("nothing to set: give --up, --down, --burst, --quota or --schedule"));
    }
    apply(dir, &changes)?;
    let file = dir.load_config()?;
    let config = file.config();
    let own = PeerLimits {
        up: config.limits.up,
        down: config.limits.down,
        burst: config.limits_burst,
        ..PeerLimits::default()
    };
    tell(format!("this node: {}{}", understood(&own), planned(config, Usage::load(&dir.usage()).ok())));
    Ok(())
}

/// Quota and schedule in words, and what they make of the rates now; nothing without them.
fn planned(config: &Config, usage: Option<Usage>) -> String {
    let plan = &config.limits;
    let mut text = String::new();
    if let Some(quota) = plan.quota {
        text.push_str(&format!(", {} per month", show_size(quota)));
    }
    if !plan.windows.is_empty() {
        text.push_str(&format!(
            ", {} of the day with rates of their own",
            count(plan.windows.len() as u64, "time")
        ));
    }
    if !text.is_empty() {
        let now = wall();
        let (up, down) = plan.at(now, usage.map(|usage| usage.at(now)));
        let rate = |bits: Option<u64>| bits.map_or("no limit".into(), |bits| show_rate(bits as f64));
        text.push_str(&format!("; now {} up, {} down", rate(up), rate(down)));
    }
    text
}

/// Limits in words, in the units that everything is shown in: `20mbps` is 160 Mbit/s to tc, and so it is here.
fn understood(own: &PeerLimits) -> String {
    let rate = |bits: u64| show_rate(bits as f64);
    let mut words: Vec<String> = Vec::new();
    words.push(own.up.map_or("no limit up".into(), |up| format!("{} up", rate(up))));
    words.push(own.down.map_or("no limit down".into(), |down| format!("{} down", rate(down))));
    words.extend(own.floor.map(|floor| format!("at least {}", rate(floor))));
    words.extend(own.burst.map(|burst| format!("bursts of {burst} bytes")));
    words.extend(own.weight.map(|weight| format!("weight {weight}")));
    words.extend(own.background.then(|| "after everything else".into()));
    words.extend(own.refuses.then(|| "nothing by asking".into()));
    words.join(", ")
}

fn set_peer(dir: &NodeDir, who: &str, set: args::LimitSet) -> Result<(), Failure> {
    let file = dir.load_config()?;
    let node = find(file.config(), who)?;
    let mut entry = own(file.config(), &node);
    let mut words: Vec<String> = show_peer(&node, &entry).split_whitespace().map(str::to_owned).collect();
    let given = [
        ("up", set.up),
        ("down", set.down),
        ("floor", set.floor),
        ("burst", set.burst),
        ("weight", set.weight),
    ];
    let mut changed = false;
    for (name, value) in given {
        let Some(value) = value else { continue };
        changed = true;
        words.retain(|word| word.split('=').next() != Some(name));
        let value = text(name, &value)?;
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    }
    if let Some(on) = set.background {
        changed = true;
        words.retain(|word| word != "background");
        words.extend(on.then(|| "background".to_owned()));
    }
    if let Some(askable) = set.askable {
        changed = true;
        words.retain(|word| word != "refuses");
        words.extend((!askable).then(|| "refuses".to_owned()));
    }
    if !changed {
        return Err(Failure::new(
            "nothing to set: give --up, --down, --floor, --burst, --weight, --background or --askable",
        ));
    }
    (_, entry) = parse_peer(&words.join(" "))
        .map_err(|wanted| Failure::new(format!("the limits of {who} will not do, they must be {wanted}")))?;
    let mut peers = file.config().limits_peers.clone();
    peers.retain(|(other, _)| *other != node);
    if entry != PeerLimits::default() {
        peers.push((node, entry));
    }
    apply_peers(dir, &peers)?;
    tell(format!("{who}: {}", understood(&entry)));
    Ok(())
}

fn remove(dir: &NodeDir, who: &str) -> Result<(), Failure> {
    let file = dir.load_config()?;
    let config = file.config();
    let node = find(config, who)?;
    let changes = without(config, &node);
    if changes.is_empty() {
        return Err(Failure::new(format!("{who} has no limits and no promise: see `tornet limit show`")));
    }
    apply(dir, &changes)
}

/// The settings that name a node, as they are without it: its limits, what was promised to it and what it was asked for.
fn without(config: &Config, node: &NodeId) -> Vec<(&'static str, String)> {
    let mut changes = Vec::new();
    if config.limits_peers.iter().any(|(other, _)| other == node) {
        let others = config.limits_peers.iter().filter(|(other, _)| other != node);
        changes.push(("limits.peers", others.map(|(other, own)| show_peer(other, own)).collect::<Vec<_>>()));
    }
    for (key, all) in [("limits.reserved", &config.limits_reserved), ("limits.asked", &config.limits_asked)] {
        if all.iter().any(|promise| promise.node == *node) {
            let others = all.iter().filter(|promise| promise.node != *node);
            changes.push((key, others.map(show_promise).collect()));
        }
    }
    changes.into_iter().map(|(key, all)| (key, all.join(","))).collect()
}

fn apply_peers(dir: &NodeDir, peers: &[(NodeId, PeerLimits)]) -> Result<(), Failure> {
    let all: Vec<String> = peers.iter().map(|(node, own)| show_peer(node, own)).collect();
    apply(dir, &[("limits.peers", all.join(","))])
}

/// What cannot be kept of what was promised, one line each: it holds as far as there is something to keep it with.
fn too_much(config: &Config, at: UnixMs) -> Vec<String> {
    let mut lines = Vec::new();
    let promises = || config.limits_reserved.iter().filter(|promise| promise.holds(at));
    for promise in promises() {
        let (rate, own) = (promise.reservation.rate, own(config, &promise.node));
        if let Some(cap) = own.up.filter(|cap| *cap < rate) {
            let (rate, cap) = (show_rate(rate as f64), show_rate(cap as f64));
            lines.push(format!("{} was promised {rate} and may be sent {cap}", promise.node));
        }
    }
    let floors: u64 = config.limits_peers.iter().filter_map(|(_, own)| own.floor).sum();
    let promised: u64 = promises().map(|promise| promise.reservation.rate).sum();
    if let Some(up) = config.limits.at(at, None).0 {
        let most = (u128::from(up) * u128::from(URGENT_SHARE_MILLI_MAX) / 1000) as u64;
        if floors.saturating_add(promised) > most {
            let [floors, promised, most] = [floors, promised, most].map(|rate| show_rate(rate as f64));
            lines.push(format!("floors of {floors} and promises of {promised} are more than the {most} that are there for them"));
        }
    }
    lines
}

/// Saves settings, and has a running daemon follow them.
pub(super) fn apply(dir: &NodeDir, changes: &[(&str, String)]) -> Result<(), Failure> {
    save(dir, changes)?;
    for line in too_much(dir.load_config()?.config(), wall()) {
        tell(format!("warning: {line}"));
    }
    Ok(())
}

fn save(dir: &NodeDir, changes: &[(&str, String)]) -> Result<(), Failure> {
    let body: Map<String, Value> =
        changes.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    match ask(dir, Method::PATCH, "/v1/config", Some(&Value::Object(body)))? {
        Some(_) => tell("the limits are saved and in use"),
        None => {
            let changes: Vec<(&str, Option<&str>)> =
                changes.iter().map(|(key, value)| (*key, Some(value.as_str()))).collect();
            offline(dir, |file| file.set(&changes))?;
            tell("the limits are saved");
        }
    }
    Ok(())
}

/// The node that is meant: a friend, or any by its whole id.
pub(super) fn find(config: &Config, who: &str) -> Result<NodeId, Failure> {
    if let Ok(node) = who.parse::<NodeId>() {
        return Ok(node);
    }
    let index = friends::find(&config.friends, who)?;
    Ok(config.friends[index].card.node_id())
}

fn own(config: &Config, node: &NodeId) -> PeerLimits {
    config.limits_peers.iter().find(|(other, _)| other == node).map(|(_, own)| *own).unwrap_or_default()
}

fn show(dir: &NodeDir, as_json: bool) -> Result<(), Failure> {
    let file = dir.load_config()?;
    let config = file.config();
    // What holds is what a running daemon says; without one, what would hold.
    let status = ask(dir, Method::GET, "/v1/status", None).ok().flatten();
    let spent = match &status {
        Some(status) => status["sent_this_month_bytes"].as_u64(),
        None => Usage::load(&dir.usage()).ok().map(|usage| usage.at(wall())),
    };
    let (up_now, down_now) = match &status {
        Some(status) => (status["up_bits"].as_u64(), status["down_bits"].as_u64()),
        None => config.limits.at(wall(), spent),
    };
    let name_of = |node: &NodeId| {
        let friend = config.friends.iter().find(|friend| friend.card.node_id() == *node);
        friend.and_then(|friend| friend.name.clone())
    };
    if as_json {
        let peer = |(node, own): &(NodeId, PeerLimits)| {
            json!({
                "node_id": node.to_string(),
                "name": name_of(node),
                "up": own.up,
                "down": own.down,
                "floor": own.floor,
                "burst_bytes": own.burst,
                "weight": own.weight,
                "background": own.background,
                "askable": !own.refuses,
            })
        };
        let peers: Vec<Value> = config.limits_peers.iter().map(peer).collect();
        let promised = |promise: &Promise| {
            json!({
                "node_id": promise.node.to_string(),
                "name": name_of(&promise.node),
                "rate": promise.reservation.rate,
                "burst_bytes": promise.reservation.burst,
                "delay_us": promise.reservation.delay.as_micros() as u64,
                "until_s": promise.until_s,
            })
        };
        let reserved: Vec<Value> =
            config.limits_reserved.iter().filter(|promise| promise.holds(wall())).map(promised).collect();
        let asked: Vec<Value> =
            config.limits_asked.iter().filter(|one| one.holds(wall())).map(promised).collect();
        let plan = &config.limits;
        return print(json!({
            "up_now": up_now,
            "down_now": down_now,
            "sent_this_month_bytes": spent,
            "schedule": config::keys::Key::find("limits.schedule")?.show(config),
            "measure": config.limits_measure,
            "askable_percent": config.limits_askable,
            "up": plan.up,
            "down": plan.down,
            "burst_bytes": config.limits_burst,
            "quota_bytes": plan.quota,
            "peers": peers,
            "reserved": reserved,
            "asked": asked,
        }));
    }
    let rate = |rate: Option<u64>| rate.map_or("-".into(), |rate| show_rate(rate as f64));
    let row = |name: String, own: &PeerLimits| {
        vec![
            name,
            rate(own.up),
            rate(own.down),
            rate(own.floor),
            own.burst.map_or("-".into(), |burst| burst.to_string()),
            own.weight.map_or("-".into(), |weight| weight.to_string()),
            match (own.background, own.refuses) {
                (false, false) => "-".into(),
                (true, false) => "background".into(),
                (false, true) => "refuses".into(),
                (true, true) => "background, refuses".into(),
            },
        ]
    };
    let plan = &config.limits;
    let whole =
        PeerLimits { up: plan.up, down: plan.down, burst: config.limits_burst, ..PeerLimits::default() };
    let mut rows = vec![row("this node".into(), &whole)];
    for (node, own) in &config.limits_peers {
        rows.push(row(name_of(node).unwrap_or_else(|| node.to_string()), own));
    }
    let mut page =
        table(&["WHO", "UP", "DOWN", "FLOOR", "BURST", "WEIGHT", "CLASS"], &[1, 2, 3, 4, 5], &rows);
    if let Some(quota) = plan.quota {
        let spent = spent.map_or("an unknown part".into(), show_size);
        page.push_str(&format!("\n{} per month, spent evenly; {spent} of it so far\n", show_size(quota)));
    }
    for window in
        config::keys::Key::find("limits.schedule")?.show(config).split(',').filter(|w| !w.is_empty())
    {
        page.push_str(&format!("\ndaily (UTC): {window}"));
    }
    let peers = status.as_ref().and_then(|status| status["peers"].as_array()).map_or(&[][..], Vec::as_slice);
    if (up_now, down_now) != (plan.up, plan.down) {
        page.push_str(&format!("\nnow: {} up, {} down\n", rate(up_now), rate(down_now)));
    }
    if config.limits_measure && up_now.is_none() {
        let line = status.as_ref().and_then(|status| status["gauges"]["line_bits_per_second"].as_f64());
        let line = line.filter(|line| *line > 0.0).map_or("not known yet".into(), show_rate);
        page.push_str(&format!("\nmeasured: {line} up\n"));
    }
    for (head, promises) in [("PROMISED TO", &config.limits_reserved), ("ASKED OF", &config.limits_asked)] {
        let rows: Vec<Vec<String>> = promises
            .iter()
            .filter(|promise| promise.holds(wall()))
            .map(|promise| {
                let left = Duration::from_secs(promise.until_s.saturating_sub(wall().0 / 1000));
                let mut row = vec![
                    name_of(&promise.node).unwrap_or_else(|| promise.node.to_string()),
                    show_rate(promise.reservation.rate as f64),
                    format!("{} ms", promise.reservation.delay.as_millis()),
                    show_duration(left),
                ];
                if head == "ASKED OF" {
                    row.push(said(peers, &promise.node));
                }
                row
            })
            .collect();
        if !rows.is_empty() {
            let mut heads = vec![head, "RATE", "DELAY", "LEFT"];
            heads.extend((head == "ASKED OF").then_some("ANSWER"));
            page.push_str(&format!("\n{}", table(&heads, &[1, 2, 3], &rows)));
        }
    }
    let rows: Vec<Vec<String>> = peers.iter().filter_map(asked_here).collect();
    if !rows.is_empty() {
        page.push_str(&format!("\n{}", table(&["HAS ASKED FOR", "RATE", "LEFT"], &[1, 2], &rows)));
    }
    print(page.trim_end())
}

/// What a peer answered, of those that `status` names.
fn said(peers: &[Value], node: &NodeId) -> String {
    let id = node.to_string();
    let peer = peers.iter().find(|peer| peer["node_id"] == *id && peer["connected"] == true);
    match peer.map(|peer| peer["asked"]["said"].as_str()) {
        Some(Some("promised")) => "promised".into(),
        Some(Some(why)) => format!("refused ({why})"),
        Some(None) => "none yet".into(),
        None => "not connected".into(),
    }
}

/// What a peer has by asking, to be shown.
fn asked_here(peer: &Value) -> Option<Vec<String>> {
    let (rate, left) = (peer["reserved_bits"].as_u64()?, peer["reserved_left_s"].as_u64()?);
    let name = peer["name"].as_str().or(peer["node_id"].as_str())?;
    Some(vec![name.into(), show_rate(rate as f64), show_duration(Duration::from_secs(left))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Reservation;

    #[test]
    fn what_is_taken_away_from_one_stays_with_the_others() {
        let mut config = Config::default();
        let [bob, eve] = [1, 2].map(|n| NodeId([n; 20]));
        assert!(without(&config, &bob).is_empty());
        let limits = PeerLimits { up: Some(8_000_000), ..PeerLimits::default() };
        let reservation = Reservation { rate: 80_000, burst: 3040, delay: Duration::from_millis(50) };
        let promise = |node| Promise { node, reservation, until_s: 1_000 };
        config.limits_peers = vec![(eve, limits), (bob, limits)];
        config.limits_reserved = vec![promise(bob)];
        config.limits_asked = vec![promise(bob), promise(eve)];
        let expected = [
            ("limits.peers", show_peer(&eve, &limits)),
            ("limits.reserved", String::new()),
            ("limits.asked", show_promise(&promise(eve))),
        ];
        assert_eq!(without(&config, &bob), expected);
        config.limits_peers.clear();
        assert_eq!(without(&config, &eve), [("limits.asked", show_promise(&promise(bob)))]);
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let mut config = Config::default();
        let bob = NodeId([1; 20]);
        let limits = PeerLimits { floor: Some(6_000_000), up: Some(7_000_000), ..PeerLimits::default() };
        config.limits_peers = vec![(bob, limits)];
        assert!(too_much(&config, UnixMs(0)).is_empty(), "without a rate nothing is scarce");
        config.limits.up = Some(10_000_000);
        assert!(too_much(&config, UnixMs(0)).is_empty());
        let reservation = Reservation { rate: 8_000_000, burst: 3040, delay: Duration::from_millis(50) };
        config.limits_reserved = vec![Promise { node: bob, reservation, until_s: 1_000 }];
        let lines = too_much(&config, UnixMs(0));
        assert!(
            lines.len() == 2 && lines[0].contains("may be sent") && lines[1].contains("more than"),
            "{lines:?}"
        );
        assert!(too_much(&config, UnixMs(2_000_000)).is_empty(), "its time is over");
    }

    #[test]
    fn what_was_understood_is_said() {
        let own = PeerLimits {
            up: Some(160_000_000),
            floor: Some(1_000_000),
            refuses: true,
            ..PeerLimits::default()
        };
        let words = "160.0 Mbit/s up, no limit down, at least 1.0 Mbit/s, nothing by asking";
        assert_eq!(understood(&own), words);
    }

    #[test]
    fn an_empty_value_is_no_limit_taken_away() {
        assert_eq!(text("up", "None").ok(), Some(""));
        assert_eq!(text("up", "5mbit").ok(), Some("5mbit"));
        assert!(text("up", "").is_err());
    }

    #[test]
    fn answers_and_what_others_asked_for_are_read_from_the_status() {
        let node = NodeId([1; 20]);
        let peer = |asked: Value| json!({ "node_id": node.to_string(), "connected": true, "asked": asked });
        for (asked, shown) in [
            (json!({ "said": "promised" }), "promised"),
            (json!({ "said": "rate" }), "refused (rate)"),
            (Value::Null, "none yet"),
        ] {
            assert_eq!(said(&[peer(asked)], &node), shown);
        }
        assert_eq!(said(&[], &node), "not connected");
        let has = json!({ "name": "bob", "reserved_bits": 8_000_000, "reserved_left_s": 60 });
        assert_eq!(asked_here(&has).map(|row| row[0].clone()), Some("bob".into()));
        assert_eq!(asked_here(&json!({ "name": "bob", "reserved_bits": 8_000_000 })), None);
    }
}

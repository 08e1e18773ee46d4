//! `status`: one look, or one every second.

use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Map, Value};

use super::client::{ask, not_running};
use super::leave::handover;
use super::show::{count, number, table};
use super::{Failure, print};
use crate::base::units::{show_duration, show_rate, show_size};
use crate::config::NodeDir;
use crate::shape::Class;

const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn status(dir: &NodeDir, as_json: bool, watch: bool) -> Result<(), Failure> {
    let mut before: Option<(Instant, Value)> = None;
    loop {
        let now = Instant::now();
        let status = ask(dir, Method::GET, "/v1/status", None)?.ok_or_else(|| not_running(dir))?;
        if as_json {
            print(&status)?;
        } else {
            let earlier = before.as_ref().map(|(then, status)| (now - *then, status));
            let clear = if watch && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
                "\x1b[H\x1b[2J"
            } else {
                ""
            };
            print(format!("{clear}{}", page(&status, earlier).trim_end()))?;
        }
        if !watch {
            return Ok(());
        }
        before = Some((now, status));
        thread::park_timeout(INTERVAL);
    }
}

/// The page; with an `earlier` look, rates since then.
fn page(status: &Value, earlier: Option<(Duration, &Value)>) -> String {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("-").to_owned();
    let mut out = format!(
        "node {}  rank {}  network {}  port {}  version {}  up {}\n",
        text(status, "node_id"),
        status["rank"],
        text(status, "network"),
        status["port"],
        text(status, "version"),
        show_duration(Duration::from_secs(number(status, "uptime_s"))),
    );
    let store = &status["store"];
    let full = |kind: &str| {
        let n = |field: &str| number(store, &format!("{kind}_{field}"));
        format!(
            "{kind} {} of {} in {}",
            show_size(n("bytes")),
            show_size(n("bytes_max")),
            count(n("chunks"), "chunk")
        )
    };
    out.push_str(&format!("store: {}; {}\n", full("local"), full("cache")));

    let leaving = &status["leaving"];
    if leaving.is_object() {
        let left = show_duration(Duration::from_secs(number(leaving, "in_s")));
        let early = if leaving["early"] == true { ", or earlier" } else { "" };
        out.push_str(&format!("leaving in {left}{early}: {}\n", handover(&leaving["handover"])));
    } else if let Some(left) = status["online_s"].as_u64() {
        out.push_str(&format!("means to stay for {}\n", show_duration(Duration::from_secs(left))));
    }
    let overlay = &status["overlay"];
    if overlay.is_object() {
        let n = |field: &str| number(overlay, field);
        out.push_str(&format!(
            "overlay {}: {} of about {}; lookups: {} found, {} vain, {} running; {} kept, {} of {} provided announced\n",
            overlay["network"].as_str().unwrap_or("-"),
            count(n("contacts"), "contact"),
            count(n("nodes_estimated"), "node"),
            n("lookups_found"),
            n("lookups_vain"),
            n("lookups_running"),
            count(n("records_kept"), "record"),
            n("chunks_announced"),
            count(n("chunks_provided"), "chunk"),
        ));
    } else if overlay.is_null() {
        out.push_str("overlay: off (overlay.enabled, or friends.only); only friends are known and served\n");
    }

    out.push_str(&circuit_line(&status["circuit"]));
    out.push_str(&relay_line(&status["counters"]));
    let introduced = &status["introductions"];
    if introduced["only_friends"] == true {
        out.push_str("only friends are answered, and nobody else hears of this node (friends.only)\n");
    }
    if number(introduced, "once") + number(introduced, "twice") > 0 {
        out.push_str(&format!(
            "introduced by friends: {} of theirs, {} one hand farther; {} of {} connected (tornet friend offers)\n",
            number(introduced, "once"),
            number(introduced, "twice"),
            number(introduced, "acquaintances_connected"),
            number(introduced, "acquaintances"),
        ));
    }

    if let Some(socks) = status["socks"].as_object().map(|_| &status["socks"]) {
        out.push_str(&socks_line(socks));
    }
    if let Some(bridge) = status["bridge"].as_object().map(|_| &status["bridge"]) {
        out.push_str(&bridge_line(bridge));
    }
    let list = |field: &str| status[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let peers = list("peers");
    let connected = peers.iter().filter(|peer| peer["connected"] == true).count();
    out.push_str(&format!("\n{}, {connected} connected\n", count(peers.len() as u64, "peer")));
    if !peers.is_empty() {
        let rows: Vec<Vec<String>> = peers.iter().map(|peer| peer_row(peer, earlier)).collect();
        let head = ["PEER", "RANK", "TRUST", "ADDRESS", "RTT", "SENT", "RECEIVED", "LOST", "UP", "DOWN"];
        out.push_str(&table(&head, &[1, 2, 4, 5, 6, 7, 8, 9], &rows));
    }
    peers.iter().filter_map(intent_line).for_each(|line| out.push_str(&line));
    let limited: Vec<Vec<String>> = peers.iter().filter_map(limits_row).collect();
    if !limited.is_empty() {
        let head = ["LIMITED", "CLASS", "CAP", "FLOOR", "PROMISED", "QUEUED", "DELAY", "DROPPED", "MARKED"];
        out.push_str(&format!("\n{}", table(&head, &[2, 3, 4, 5, 6, 7, 8], &limited)));
    }
    if let Some(classes) = status["classes"].as_object() {
        out.push_str(&class_table(classes, earlier));
    }
    let jobs = list("jobs");
    if !jobs.is_empty() {
        out.push_str(&format!("\n{}\n", count(jobs.len() as u64, "job")));
        let row = |job: &Value| {
            let total =
                if job["planned"] == true { show_size(number(job, "bytes_total")) } else { "?".into() };
            vec![
                job["id"].to_string(),
                text(job, "kind"),
                format!("{} of {}", number(job, "files_done"), number(job, "files_total")),
                format!("{} of {total}", show_size(number(job, "bytes_done"))),
                circuit_of(job),
            ]
        };
        let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
        out.push_str(&table(&["JOB", "KIND", "FILES", "DONE", "CIRCUIT"], &[0], &rows));
    }
    out
}

/// By way of whom a job gets things, where it has a circuit of its own.
fn circuit_of(job: &Value) -> String {
    let path: Vec<&str> =
        job["circuit"]["path"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match (&job["circuit"]["hops"], path.is_empty()) {
        (Value::Null, _) => String::new(),
        (hops, true) => format!("{hops} hops, being built"),
        (_, false) => path.join(" > "),
    }
}

/// The node's own circuit; nothing where none is wanted.
fn circuit_line(circuit: &Value) -> String {
    if !circuit.is_object() {
        return String::new();
    }
    let path: Vec<&str> =
        circuit["path"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let state = match (path.is_empty(), circuit["why"].as_str()) {
        (false, _) => format!("{}  {:.1} ms", path.join(" > "), number(circuit, "rtt_us") as f64 / 1000.0),
        (true, Some(why)) => format!("none is open: {why}"),
        (true, None) => "being built".to_owned(),
    };
    format!(
        "circuit of {}: {state}; {} opened, {} sent, {} received\n",
        count(number(circuit, "hops"), "hop"),
        number(circuit, "circuits_opened"),
        show_size(number(circuit, "sent_bytes")),
        show_size(number(circuit, "received_bytes")),
    )
}

/// What is done for circuits of others; nothing as long as nobody asked.
fn relay_line(counters: &Value) -> String {
    let n = |name: &str| number(counters, name);
    let (led, ended) = (n("circuits_relayed"), n("circuits_accepted"));
    if led + ended == 0 {
        return String::new();
    }
    format!(
        "relay: {} led on and {ended} ended here since the start; {} out for them, {} back\n",
        count(led, "circuit"),
        count(n("exit_out_packets"), "packet"),
        n("exit_back_packets"),
    )
}

/// What bridges do, this node's own and those of friends.
fn bridge_line(bridge: &Value) -> String {
    let own = bridge["listen"]
        .as_str()
        .map(|listen| format!("{listen} with {}; ", count(number(bridge, "guests"), "guest")));
    format!(
        "bridges: {}{} to friends; {} sent, {} received, {} dropped\n",
        own.unwrap_or_default(),
        number(bridge, "lines"),
        show_size(number(bridge, "sent_bytes")),
        show_size(number(bridge, "received_bytes")),
        count(number(bridge, "dropped_datagrams"), "datagram"),
    )
}

/// What the SOCKS proxy does.
fn socks_line(socks: &Value) -> String {
    let associations = match number(socks, "associations") {
        0 => String::new(),
        some => format!(" ({some} for datagrams)"),
    };
    format!(
        "socks: {} with {}{associations}; {} made, {} sent, {} received\n",
        socks["listen"].as_str().unwrap_or("-"),
        count(number(socks, "clients"), "application connection"),
        number(socks, "connected"),
        show_size(number(socks, "sent_bytes")),
        show_size(number(socks, "received_bytes")),
    )
}

/// What each class sent; nothing while none did.
fn class_table(classes: &Map<String, Value>, earlier: Option<(Duration, &Value)>) -> String {
    let ms = |stats: &Value, field: &str| format!("{:.1} ms", number(stats, field) as f64 / 1000.0);
    let row = |name: &str| {
        let stats = classes.get(name)?;
        let sent = number(stats, "sent_bytes");
        let rate = match earlier {
            Some((elapsed, old)) if !elapsed.is_zero() => {
                let bytes = sent.saturating_sub(number(&old["classes"][name], "sent_bytes"));
                show_rate(bytes as f64 * 8.0 / elapsed.as_secs_f64())
            }
            _ => "-".to_owned(),
        };
        let delays = ["delay_p50_us", "delay_p99_us", "delay_max_us"].map(|field| ms(stats, field));
        let queue = ["queue_dropped", "queue_marked"].map(|field| number(stats, field).to_string());
        let queued = vec![show_size(number(stats, "queued_bytes"))];
        let cells = [vec![name.to_owned(), show_size(sent), rate], delays.to_vec(), queued, queue.to_vec()];
        let cells = cells.concat();
        (sent > 0).then_some(cells)
    };
    let rows: Vec<Vec<String>> = Class::ALL.iter().filter_map(|class| row(class.name())).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["CLASS", "SENT", "UP", "WAIT P50", "P99", "MAX", "QUEUED", "DROPPED", "MARKED"];
    format!("\n{}", table(&head, &[1, 2, 3, 4, 5, 6, 7, 8], &rows))
}

/// What a peer means to do, if it said anything of it.
fn intent_line(peer: &Value) -> Option<String> {
    let name = peer["name"].as_str().or(peer["node_id"].as_str())?;
    let time = |field: &str| peer["intent"][field].as_u64().map(|s| show_duration(Duration::from_secs(s)));
    match (time("leaves_in_s"), time("stays_s")) {
        (Some(left), _) => Some(format!("{name} leaves in {left}\n")),
        (None, Some(left)) => Some(format!("{name} means to stay for {left}\n")),
        (None, None) => None,
    }
}

/// What limits a peer and what that did; nothing for one that has no limit, no promise and no queue.
fn limits_row(peer: &Value) -> Option<Vec<String>> {
    let rate = |field: &str| peer[field].as_u64().map(|bits| show_rate(bits as f64));
    let limits = ["cap_bits", "floor_bits", "reserved_bits"].map(rate);
    let figures = ["queued_bytes", "queue_dropped", "queue_marked"].map(|field| number(peer, field));
    if limits.iter().all(Option::is_none) && figures == [0; 3] {
        return None;
    }
    let name = peer["name"].as_str().or(peer["node_id"].as_str()).unwrap_or_default();
    let mut row = vec![name.to_owned(), peer["class"].as_str().unwrap_or("-").to_owned()];
    row.extend(limits.map(|limit| limit.unwrap_or_else(|| "-".into())));
    let [queued, dropped, marked] = figures;
    let delay = number(peer, "queue_delay_us") as f64 / 1000.0;
    row.extend([show_size(queued), format!("{delay:.1} ms"), dropped.to_string(), marked.to_string()]);
    Some(row)
}

fn peer_row(peer: &Value, earlier: Option<(Duration, &Value)>) -> Vec<String> {
    let text = |field: &str| peer[field].as_str().map(str::to_owned);
    let node = text("node_id").unwrap_or_default();
    let on = peer["connected"] == true;
    let before = earlier.and_then(|(elapsed, status)| {
        let peers = status["peers"].as_array()?;
        Some((elapsed, peers.iter().find(|old| old["node_id"] == peer["node_id"])?))
    });
    let rate = |field: &str| match before {
        // A new session counts from zero again.
        Some((elapsed, old)) if !elapsed.is_zero() => {
            let bytes = number(peer, field).saturating_sub(number(old, field));
            show_rate(bytes as f64 * 8.0 / elapsed.as_secs_f64())
        }
        _ => "-".to_owned(),
    };
    vec![
        text("name").unwrap_or(node),
        peer["rank"].to_string(),
        peer["trust"].as_u64().map_or("-".into(), |trust| trust.to_string()),
        match (on, peer["bridged"] == true, peer["relayed"] == true) {
            (false, ..) => "not connected".into(),
            (_, true, _) => "by a bridge".into(),
            (_, _, true) => "by a peer".into(),
            _ => text("address").unwrap_or_default(),
        },
        if on { format!("{:.1} ms", number(peer, "rtt_us") as f64 / 1000.0) } else { "-".into() },
        show_size(number(peer, "sent_bytes")),
        show_size(number(peer, "received_bytes")),
        number(peer, "lost_packets").to_string(),
        rate("sent_bytes"),
        rate("received_bytes"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_rates_between_two_looks() {
        let look = |sent: u64| {
            json!({
                "node_id": "aa", "rank": 18, "network": "tornet", "port": 4600, "version": "1", "uptime_s": 5,
                "store": {}, "jobs": [{ "id": 1, "kind": "get", "planned": false, "bytes_done": 1024 }],
                "peers": [
                    { "node_id": "bb", "name": "bob", "connected": true, "address": "192.0.2.1:1", "rank": 18,
                      "trust": 50, "rtt_us": 1500, "sent_bytes": sent },
                    { "node_id": "cc", "connected": false, "rank": 3, "trust": null },
                ],
            })
        };
        let (first, second) = (look(0), look(1_250_000));
        let text = page(&second, Some((Duration::from_secs(1), &first)));
        assert!(text.contains("2 peers, 1 connected") && text.contains("10.0 Mbit/s"), "{text}");
        assert!(text.contains("bob") && text.contains("1.5 ms") && text.contains("not connected"), "{text}");
        assert!(text.contains("1.0 KiB of ?"), "{text}");
        assert!(!page(&second, None).contains("Mbit/s"));
    }

    #[test]
    fn circuits_are_shown_where_there_are_some() {
        assert_eq!(circuit_line(&json!(null)), "");
        let open = json!({ "hops": 2, "path": ["bob", "aa"], "rtt_us": 12_300, "circuits_opened": 4, "sent_bytes": 2048 });
        assert_eq!(
            circuit_line(&open),
            "circuit of 2 hops: bob > aa  12.3 ms; 4 opened, 2.0 KiB sent, 0 B received\n"
        );
        let none = json!({ "hops": 1, "path": [], "why": "no friend relays" });
        assert!(circuit_line(&none).starts_with("circuit of 1 hop: none is open: no friend relays;"));
        assert_eq!(relay_line(&json!({})), "");
        let busy = json!({ "circuits_relayed": 3, "circuits_accepted": 1, "exit_out_packets": 9, "exit_back_packets": 7 });
        let text =
            "relay: 3 circuits led on and 1 ended here since the start; 9 packets out for them, 7 back\n";
        assert_eq!(relay_line(&busy), text);
    }

    #[test]
    fn what_limits_a_peer_is_shown_where_something_does() {
        let free = json!({ "name": "bob", "cap_bits": null, "queued_bytes": 0 });
        assert_eq!(limits_row(&free), None);
        let capped = json!({
            "name": "bob", "class": "friend", "cap_bits": 8_000_000, "queued_bytes": 3000, "queue_delay_us": 1500,
            "queue_dropped": 2, "queue_marked": 7,
        });
        let row = limits_row(&capped).expect("it has a cap").join(" ");
        assert_eq!(row, "bob friend 8.0 Mbit/s - - 2.9 KiB 1.5 ms 2 7");
    }
}

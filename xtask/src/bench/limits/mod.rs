//! `cargo xtask bench limits`: how exact limits are on real sockets, beside the kernel's HTB, and what those who share a
//! node's rate get of it.

mod measure;
pub mod run;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{floor, machine, ratio};
use crate::args::Args;
use crate::{able, setup, sh};
use measure::{errors, excess, jain, late, quantile, totals};
use run::{Bench, FIRST_PORT, Load, Took};

const PARTS: &[&str] = &["caps", "htb", "overload", "shards"];
/// The node's rate in `overload` and `shards`, bits per second, and what it may send at once, bytes.
const LINE: u64 = 100_000_000;
const BURST: f64 = 50_000.0;
const SECOND: u64 = 1_000_000_000;
const HUNDREDTH: u64 = 10_000_000;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let parts = args.value("--parts")?;
    let peers = args.number("--peers", 1000)?.clamp(10, 4000) as usize;
    let seconds = args.number("--seconds", 10)?.max(2);
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    let parts: Vec<String> = match parts {
        Some(given) => given.split(',').map(str::to_owned).collect(),
        None => PARTS.iter().map(|part| (*part).to_owned()).collect(),
    };
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let tool = tool.map_or_else(|| sh::build_example("shaped"), Ok)?;
    let binary = sh::binary_or_build(binary)?;
    let machine = machine::describe();
    println!("{}\n", machine::line(&machine));
    let mut told = serde_json::Map::new();
    let at = |part: &str| parts.iter().any(|one| one == part);
    ensure!(parts.iter().all(|part| PARTS.contains(&&**part)), "the parts are {}", PARTS.join(", "));
    if at("caps") || at("htb") {
        println!(
            "| who limits | window | out of bounds | worst ÷ allowed | mean error | daemon, cores | ÷ tornet | machine, cores | ÷ tornet |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
        );
        let mut own = None;
        for part in ["caps", "htb"].into_iter().filter(|part| at(part)) {
            let took = caps(&binary, &tool, peers, seconds, part == "htb")?;
            let name = if part == "htb" { "HTB" } else { "tornet" };
            told.insert(part.into(), caps_table(name, &took, peers, own));
            own = own.or(Some((took.daemon, took.machine)).filter(|_| part == "caps"));
        }
    }
    if at("overload") {
        told.insert("overload".into(), overload(&binary, &tool, seconds)?);
    }
    if at("shards") {
        told.insert("shards".into(), shards(&binary, &tool, seconds)?);
    }
    if let Some(path) = json {
        floor::write(&path, &json!({ "machine": machine, "seconds": seconds, "parts": told }))?;
    }
    Ok(())
}

/// Log-uniform between 8 kbit/s and 10 Mbit/s.
fn rate_of(session: usize, of: usize) -> u64 {
    (8_000.0 * 1250f64.powf(session as f64 / (of - 1) as f64)) as u64
}

fn caps(binary: &Path, tool: &Path, peers: usize, seconds: u64, htb: bool) -> Result<Took> {
    let mut bench = Bench::new(binary, tool, peers, &[("shards.count", "1")])?;
    if htb {
        bench.tc(&htb_lines(peers))?;
    } else {
        bench.limit(|number| format!("up={}bit", rate_of(number, peers)))?;
    }
    bench.start()?;
    bench.run(&Load { seconds, probes: 0, alternate: false })
}

/// A class for each session, found by its port through a hash table, with a queue of two trains: longer ones of slow classes
/// take up the send buffer of the daemon's one socket, and then all wait for the slowest.
fn htb_lines(peers: usize) -> String {
    let mut text = String::from("qdisc add dev DEV root handle 1: htb\n");
    text += "filter add dev DEV parent 1: protocol ip prio 1 handle 2: u32 divisor 256\n";
    text += "filter add dev DEV parent 1: protocol ip prio 1 u32 ht 800:: match ip protocol 17 0xff \
             hashkey mask 0x000000ff at 20 link 2:\n";
    for session in 0..peers {
        let (class, rate, port) = (session + 1, rate_of(session, peers), FIRST_PORT as usize + session);
        text += &format!(
            "class add dev DEV parent 1: classid 1:{class:x} htb rate {rate}bit ceil {rate}bit quantum 1514\n"
        );
        text += &format!("qdisc add dev DEV parent 1:{class:x} pfifo limit 2\n");
        text += &format!(
            "filter add dev DEV parent 1: protocol ip prio 1 u32 ht 2:{:x}: match ip dport {port} 0xffff flowid 1:{class:x}\n",
            port & 0xff
        );
    }
    text
}

fn caps_table(name: &str, took: &Took, peers: usize, own: Option<(f64, f64)>) -> Value {
    let rates: Vec<u64> = (0..peers).map(|session| rate_of(session, peers)).collect();
    let mut told = json!({ "daemon_cores": took.daemon, "machine_cores": took.machine });
    for (label, window, share) in [("1 s", SECOND, 0.01), ("100 ms", SECOND / 10, 0.05)] {
        let found = errors(&took.log, &rates, took.length_ns, window, share);
        println!(
            "| {name} | {label} | {} of {} windows, {} of {peers} peers | {:.2} | {:.2} % | {:.2} | {} | {:.2} | {} |",
            found.bad,
            found.windows,
            found.bad_sessions,
            found.worst,
            100.0 * found.mean,
            took.daemon,
            ratio(took.daemon, own.map(|own| own.0)),
            took.machine,
            ratio(took.machine, own.map(|own| own.1)),
        );
        told[label] = json!({
            "windows": found.windows, "bad": found.bad, "bad_peers": found.bad_sessions,
            "worst_of_allowed": found.worst, "mean": found.mean,
        });
    }
    told
}

/// 100 sessions that would each take what they get, at 100 Mbit/s: ten friends with floors, five reservations, the rest
/// by weight.
const FRIENDS: usize = 10;
const FLOOR: u64 = 6_000_000;
const RESERVED: usize = 5;
const PROMISED: u64 = 1_000_000;
const SHARING: usize = 85;

fn weight_of(session: usize) -> u64 {
    let nth = session - FRIENDS - RESERVED;
    100f64.powf(nth as f64 / (SHARING - 1) as f64).round() as u64
}

fn overload(binary: &Path, tool: &Path, seconds: u64) -> Result<Value> {
    let sessions = FRIENDS + RESERVED + SHARING;
    let line = format!("{LINE}bit");
    let settings = [("shards.count", "1"), ("limits.up", &*line)];
    let mut bench = Bench::new(binary, tool, sessions, &settings)?;
    bench.befriend(FRIENDS)?;
    bench.limit(|session| match session {
        0..FRIENDS => format!("floor={FLOOR}bit weight=1"),
        FRIENDS..15 => "weight=1".into(),
        _ => format!("weight={}", weight_of(session)),
    })?;
    for node in &bench.nodes[FRIENDS..FRIENDS + RESERVED] {
        let words = ["limit", "reserve", node, &format!("{PROMISED}bit"), "1h", "--delay", "20ms"];
        bench.daemon.run(&words, crate::lab::node::PROMPT)?;
    }
    bench.start()?;
    let took = bench.run(&Load { seconds, probes: 40, alternate: false })?;
    let status = bench.status()?;
    let length = took.length_ns as f64 / 1e9;
    let rates: Vec<f64> =
        totals(&took.log, sessions).iter().map(|bytes| *bytes as f64 * 8.0 / length).collect();
    let all: f64 = took.log.iter().map(|came| came.bytes as f64).sum::<f64>() * 8.0 / length / LINE as f64;
    let floors = rates[..FRIENDS].iter().fold(f64::MAX, |least, rate| least.min(rate / FLOOR as f64));
    let promises = FRIENDS..FRIENDS + RESERVED;
    let promised =
        rates[promises.clone()].iter().fold(f64::MAX, |least, rate| least.min(rate / PROMISED as f64));
    let late = promises.map(|session| late(&took.log, session, PROMISED)).fold(0.0, f64::max) * 1e3;
    let shares: Vec<f64> =
        (FRIENDS + RESERVED..sessions).map(|session| rates[session] / weight_of(session) as f64).collect();
    let over = excess(&took.log, LINE, HUNDREDTH) / BURST;
    let mut probes = took.probes.clone();
    let (p50, p99) = (quantile(&mut probes, 0.5) / 1e3, quantile(&mut probes, 0.99) / 1e3);
    let control = |name: &str| status["classes"]["control"][name].as_f64().unwrap_or(f64::NAN) / 1e3;
    let shared = jain(&shares);
    println!(
        "\n{sessions} sessions that take what they get share {} Mbit/s, and {} strangers knock\n\n\
         | | measured | wanted |\n|---|--:|--:|\n\
         | all, ÷ the node's rate | {all:.4} | ≥ 0.995 |\n\
         | the most above the rate in any 10 ms, bursts | {over:.2} | ≤ 1 |\n\
         | a handshake's round trip at the stranger, p50 | {p50:.2} ms | |\n\
         | the same, p99 | {p99:.2} ms | |\n\
         | control in the shaper, p99 | {:.3} ms | ≤ 2 ms |\n\
         | control in the shaper, longest | {:.3} ms | |\n\
         | the friend that got least, ÷ its floor | {floors:.4} | ≥ 0.99 |\n\
         | the reservation that got least, ÷ its rate | {promised:.4} | ≥ 0.99 |\n\
         | the latest packet of a reservation | {late:.1} ms | ≤ 20 ms |\n\
         | Jain's index of rate ÷ weight, {SHARING} peers | {shared:.4} | ≥ 0.98 |\n\
         | daemon | {:.2} cores | |",
        LINE / 1_000_000,
        took.probes.len(),
        control("delay_p99_us"),
        control("delay_max_us"),
        took.daemon,
    );
    Ok(json!({
        "used": all, "excess_bursts": over, "handshake_p50_ms": p50, "handshake_p99_ms": p99,
        "control_p99_ms": control("delay_p99_us"), "control_max_ms": control("delay_max_us"),
        "floor": floors, "reserved": promised, "late_ms": late, "jain": shared, "daemon_cores": took.daemon,
    }))
}

/// Sessions of two shards, of which those of one ask in one tenth of a second, those of the other in the next.
fn shards(binary: &Path, tool: &Path, seconds: u64) -> Result<Value> {
    const SESSIONS: usize = 8;
    let line = format!("{LINE}bit");
    let settings = [("shards.count", "2"), ("limits.up", &*line)];
    let mut bench = Bench::new(binary, tool, SESSIONS, &settings)?;
    bench.start()?;
    let took = bench.run(&Load { seconds, probes: 0, alternate: true })?;
    let odd: Vec<bool> = took.ports.iter().map(|port| port % 2 == 1).collect();
    if odd.iter().all(|own| *own == odd[0]) {
        bail!("all sessions have their home on one shard: {:?}", took.ports);
    }
    let windows = |length: u64, session: Option<bool>| -> Vec<f64> {
        let mut bytes = vec![0u64; (took.length_ns / length) as usize];
        for came in
            took.log.iter().filter(|came| session.is_none_or(|own| odd.get(came.session) == Some(&own)))
        {
            bytes[(came.at / length) as usize] += came.bytes;
        }
        bytes.iter().map(|bytes| *bytes as f64 * 8e9 / length as f64 / LINE as f64).collect()
    };
    let worst = |windows: &[f64]| windows.iter().map(|part| (part - 1.0).abs()).fold(0.0, f64::max);
    let all = windows(took.length_ns, None)[0];
    let (seconds, tenths) = (worst(&windows(SECOND, None)), worst(&windows(SECOND / 10, None)));
    let first = windows(SECOND / 10, Some(true));
    let (low, high) =
        first.iter().fold((f64::MAX, 0f64), |(low, high), part| (low.min(*part), high.max(*part)));
    let over = excess(&took.log, LINE, HUNDREDTH) / BURST;
    println!(
        "\ntwo shards under {} Mbit/s, of which one has the demand in one tenth of a second, the other in the next\n\n\
         | | measured | wanted |\n|---|--:|--:|\n\
         | all, ÷ the node's rate | {all:.4} | 0.99 to 1.01 |\n\
         | the same, worst second | off by {:.2} % | ≤ 1 % |\n\
         | the same, worst tenth | off by {:.2} % | |\n\
         | the second shard's part, tenths | {low:.2} to {high:.2} | |\n\
         | the most above the rate in any 10 ms, bursts | {over:.2} | ≤ 1 |",
        LINE / 1_000_000,
        100.0 * seconds,
        100.0 * tenths,
    );
    Ok(json!({
        "used": all, "worst_second": seconds, "worst_tenth": tenths, "part_low": low, "part_high": high,
        "excess_bursts": over,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_weights_span_what_they_should() {
        assert_eq!((rate_of(0, 1000), rate_of(999, 1000)), (8_000, 10_000_000));
        assert_eq!((weight_of(FRIENDS + RESERVED), weight_of(99)), (1, 100));
        let lines = htb_lines(1000);
        assert!(lines.contains("classid 1:3e8 htb rate 10000000bit ceil 10000000bit"), "{lines}");
        assert_eq!(lines.matches("filter add").count(), 1002);
    }
}

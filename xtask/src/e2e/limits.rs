//! Daemons with limits, as an operator sets them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::lab::{Lab, files, node};

pub const CASES: &[Case] = &[Case {
    name: "limits",
    about: "a `get` under a limit never exceeds it; a friend asks for a promise, is refused, promised, lets go and loses it; \
            the month's count outlives a daemon",
    run,
}];

const RATE: f64 = 40_000_000.0;
const SIZE: u64 = 12 << 20;

fn run(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, mut b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, SIZE)?;
    let (_, reference) = a.put(&input)?;
    a.run(&["limit", "set", "--up", "40mbit"], node::PROMPT)?;
    let (before, begin) = (lab.b().received_bytes()?, Instant::now());
    let out = lab.dir().join("out");
    b.get(&reference, &out)?;
    let (bytes, took) = (lab.b().received_bytes()? - before, begin.elapsed().as_secs_f64());
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "what was got differs");
    ensure!(bytes > SIZE, "{bytes} bytes came, for {SIZE}");
    // However slow the machine is: no more than the rate, its burst, and the device's own 14 bytes per datagram.
    let most = RATE / 8.0 * took * 1.02 + 300_000.0;
    ensure!(bytes as f64 <= most, "{bytes} bytes in {took:.2} s, {most:.0} are allowed");

    let name = a.status()?["node_id"].as_str().context("status --json has no node_id")?.to_string();
    let reserve = |rate: &'static str| ["limit", "reserve", &name, rate, "1h", "--from"].map(str::to_owned);
    let words = |words: &[String]| -> Result<_> {
        b.attempt(&words.iter().map(String::as_str).collect::<Vec<_>>(), node::PROMPT)
    };
    let refused = words(&reserve("30mbit"))?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("6mbit would fit"),
        "30 of 40 Mbit/s, of which friends may have 15 %: {}",
        refused.stderr
    );
    let promised = words(&reserve("2mbit"))?;
    ensure!(promised.status.success() && promised.stderr.contains("promises"), "{}", promised.stderr);
    let shown = || -> Result<Option<u64>> {
        let key = b.status()?["key"].clone();
        let status = a.status()?;
        let peers = status["peers"].as_array().context("status --json has no peers")?;
        Ok(peers.iter().find(|peer| peer["key"] == key).and_then(|peer| peer["reserved_bits"].as_u64()))
    };
    ensure!(shown()? == Some(2_000_000), "{:?}", shown()?);
    b.run(&["limit", "release", &name, "--from"], node::PROMPT)?;
    let gone = crate::stop::until(node::PROMPT, || Ok(shown()?.is_none()))?;
    ensure!(gone, "it was given back, and is promised still");

    // Taken back by the one who gave it, and both sides say so.
    ensure!(words(&reserve("2mbit"))?.status.success() && shown()? == Some(2_000_000), "{:?}", shown()?);
    let other = b.status()?["node_id"].as_str().context("status --json has no node_id")?.to_string();
    a.run(&["limit", "set", &other, "--askable", "false"], node::PROMPT)?;
    let gone = crate::stop::until(node::PROMPT, || {
        let told = b.run(&["limit", "show"], node::PROMPT)?.stdout.contains("refused (unwilling)");
        Ok(told && shown()?.is_none())
    })?;
    ensure!(gone, "it was taken back: {}", b.run(&["limit", "show"], node::PROMPT)?.stdout);

    // What was sent counts for the month, also after another start; and then there is a quota.
    a.stop(Signal::SIGTERM)?;
    a.start()?;
    let sent = a.status()?["sent_this_month_bytes"].as_u64().context("no sent_this_month_bytes")?;
    ensure!(sent > SIZE && sent < 2 * SIZE, "{sent} bytes were sent this month, after {SIZE}");
    a.run(&["limit", "set", "--up", "none", "--quota", "1MiB"], node::PROMPT)?;
    let shown: serde_json::Value =
        serde_json::from_str(&a.run(&["limit", "show", "--json"], node::PROMPT)?.stdout)?;
    ensure!(shown["up_now"] == 1000, "a quota that is spent leaves a trickle: {shown}");
    a.stop(Signal::SIGTERM)?;
    b.stop(Signal::SIGTERM)
}

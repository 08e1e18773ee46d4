//! Real daemons over links that are slow, lossy, lying or cut: the emulator between their hosts.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::args::show_size;
use crate::lab::{Lab, Node, check, files, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case { name: "link-model", about: "the emulator delays, loses and limits as asked", run: model },
    Case {
        name: "bad-link",
        about: "`get` over delay, loss, reordering, copies, flips and a black hole",
        run: bad,
    },
    Case { name: "link-cut", about: "a link cut for 20 s in the middle of `get`, and healed", run: cut },
];

/// Datagrams of which some are lost; as many as a device holds.
const PROBES: u64 = 6000;
/// Datagrams until a queue is full, at most.
const FLOOD_MAX: u64 = 200_000;
const PROBE_PORT: u16 = 7777;
/// Of each datagram, bytes; and with its headers.
const PAYLOAD: usize = 1400;
const PACKET: f64 = 1428.0;
/// Everything at once; tornet tries 1500 bytes, and more than 1280 vanish.
const BAD: &str = "delay=25ms,jitter=2ms,loss=1%,reorder=2%/5ms,duplicate=1%,corrupt=0.5%,mtu=1280";
const BAD_SIZE: u64 = 4 << 20;
const CUT: &str = "rate=20mbit,delay=10ms";
const CUT_SIZE: u64 = 12 << 20;
/// Bytes on the wire at which it is cut.
const CUT_AT: u64 = 4 << 20;
const CUT_FOR: Duration = Duration::from_secs(20);

/// By the emulator's own accounts and the kernel's counts, which are the same on a busy machine; how well it keeps
/// time is measured by `cargo xtask lab check`.
fn model(lab: &mut Lab, _: &Path) -> Result<()> {
    // Each with an emulator of its own, since accounts begin with it.
    lab.emulate("delay=20ms")?;
    delay(lab).context("delay=20ms")?;
    lab.emulate("clean")?;
    loss(lab).context("loss=5%")?;
    lab.emulate("clean")?;
    rate(lab).context("rate=50mbit")
}

fn delay(lab: &Lab) -> Result<()> {
    let trips = check::ping(lab, 20, "0.005")?;
    ensure!(!trips.is_empty(), "no ping was answered");
    for (from, to) in [("a", "b"), ("b", "a")] {
        settled(lab, from, to)?;
        let stats = lab.link(from, to)?.stats()?;
        let delays = [stats.get("delay_min_us")?, stats.get("delay_max_us")?];
        ensure!(
            delays == [20_000.0; 2],
            "{from}>{to}: between {} and {} µs on the way",
            delays[0],
            delays[1]
        );
    }
    // Late they may be, by what else the machine does; early never.
    let early = trips.iter().find(|trip| **trip < 39.9);
    ensure!(early.is_none(), "a round trip of {} ms", early.unwrap_or(&0.0));
    Ok(())
}

fn loss(lab: &Lab) -> Result<()> {
    lab.link("a", "b")?.set_one_way("loss=5%")?;
    send(lab, PROBES, || Ok(false))?;
    let arrived = || Ok(lab.link("a", "b")?.stats()?.get("received")? >= PROBES as f64);
    ensure!(stop::until(node::PROMPT, arrived)?, "not all came to the emulator");
    settled(lab, "a", "b")?;
    let stats = lab.link("a", "b")?.stats()?;
    let (lost, all) = (stats.get("noise")?, stats.get("received")?);
    let row = check::share("loss", "loss=5%", 0.05, lost as u64, all as u64, 1.0);
    ensure!(row.holds(), "{}", row.show());
    Ok(())
}

/// The queue fills, so that a packet waits for as long as a full queue takes at this rate.
fn rate(lab: &Lab) -> Result<()> {
    lab.link("a", "b")?.set_one_way("rate=50mbit,queue=500k")?;
    let full = send(lab, FLOOD_MAX, || Ok(lab.link("a", "b")?.stats()?.get("queue")? > 0.0))?;
    ensure!(full, "the queue never filled");
    settled(lab, "a", "b")?;
    let stats = lab.link("a", "b")?.stats()?;
    let longest = stats.get("delay_max_us")?;
    // 500 KiB but for what no further packet fits into.
    let full = |bytes: f64| bytes * 8.0 / 50.0;
    let (least, most) = (full(500.0 * 1024.0 - PACKET), full(500.0 * 1024.0) + 1.0);
    ensure!((least..=most).contains(&longest), "a packet waited {longest} µs, not {least} to {most}");
    Ok(())
}

/// Sends `most` datagrams from `a` to `b` without a pause; whether `enough` said so before, which is asked now and
/// then.
fn send(lab: &Lab, most: u64, enough: impl Fn() -> Result<bool>) -> Result<bool> {
    let there = (lab.b().address, PROBE_PORT);
    // Somebody listens, so that no ICMP comes back.
    let _receiver = lab.b().within(move || Ok(UdpSocket::bind(there)?))?;
    let socket = lab.a().within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    for number in 1..=most {
        socket.send_to(&[0; PAYLOAD], there)?;
        if number % 100 == 0 && enough()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until all that came in has left or is lost, and the kernel at the far end has it.
fn settled(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let host = lab.hosts().iter().find(|host| host.name == to).context("no such host")?;
    let mut last = String::new();
    let done = stop::until(node::PROMPT, || {
        let (stats, device) = (lab.link(from, to)?.stats()?, host.received_bytes()?);
        let count = |name: &str| stats.get(name);
        let lost = count("noise")? + count("queue")?;
        ensure!(count("full")? == 0.0 && count("refused")? == 0.0, "the emulator had no room");
        last = format!("{} in, {} out, {lost} lost, {device} bytes", count("received")?, count("passed")?);
        Ok(count("received")? == count("passed")? + lost && count("passed_bytes")? == device as f64)
    })?;
    ensure!(done, "{from}>{to}: what came in did not come out: {last}");
    Ok(())
}

/// A file that `a` has put, and where `b` is to get it.
fn prepare(
    lab: &mut Lab,
    binary: &Path,
    link: &str,
    size: u64,
) -> Result<(Node, Node, PathBuf, String, PathBuf)> {
    lab.emulate(link)?;
    let (a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, size)?;
    let (_, reference) = a.put(&input)?;
    let out = lab.dir().join("out");
    Ok((a, b, input, reference, out))
}

fn bad(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (_a, b, input, reference, out) = prepare(lab, binary, BAD, BAD_SIZE)?;
    b.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    let stats = lab.link("a", "b")?.stats()?;
    for fault in ["noise", "duplicated", "flipped", "mtu"] {
        ensure!(stats.get(fault)? > 0.0, "the link did nothing of the kind {fault:?}");
    }
    Ok(())
}

fn cut(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (_a, b, input, reference, out) = prepare(lab, binary, CUT, CUT_SIZE)?;
    let before = b.host.received_bytes()?;
    let mut get = b.launch(&["get", &reference, "-o", node::text(&out)?])?;
    let there = stop::until(node::PATIENT, || {
        ensure!(!get.ended()?, "`get` ended before the link was cut:\n{}", get.stderr().trim_end());
        Ok(b.host.received_bytes()? - before >= CUT_AT)
    })?;
    ensure!(there, "the transfer never reached its middle");
    lab.link("a", "b")?.set("down")?;
    // The time is the fault here: nothing is waited for but its end.
    stop::until(CUT_FOR, || {
        ensure!(!get.ended()?, "`get` ended while the link was cut:\n{}", get.stderr().trim_end());
        Ok(false)
    })?;
    let crossed = b.host.received_bytes()? - before;
    lab.link("a", "b")?.set("up")?;
    let status = get.wait(node::PATIENT)?;
    ensure!(status.success(), "`get` ended with {status}:\n{}", get.stderr().trim_end());
    ensure!(crossed < CUT_SIZE, "all {} were there before the link healed", show_size(crossed));
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

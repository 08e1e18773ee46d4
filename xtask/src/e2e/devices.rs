//! Network devices that vanish, come back and change under a running daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Case, tunnel};
use crate::lab::{Lab, Node, Process, files, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "device-vanishes",
        about: "both hosts lose their device in the middle of `get`, and get another",
        run: vanish,
    },
    Case { name: "mtu-changes", about: "the device's MTU falls and rises in the middle of `get`", run: mtu },
    Case {
        name: "tunnel-device-deleted",
        about: "somebody deletes the tunnels' device: the daemon says so and makes another when asked",
        run: deleted,
    },
];

const SIZE: u64 = 16 << 20;
/// So that a `get` has a middle.
const RATE: &str = "40mbit";
/// Without a device: several probes' time.
const AWAY: Duration = Duration::from_secs(5);

/// Two friends, a file on the first, and a `get` of it on the second that is under way.
fn begin(lab: &mut Lab, binary: &Path) -> Result<(Node, Node, Process, PathBuf, PathBuf)> {
    let (a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, SIZE)?;
    let (_, reference) = a.put(&input)?;
    lab.limit(RATE)?;
    let out = lab.dir().join("out");
    let mut get = b.launch(&["get", &reference, "-o", node::text(&out)?])?;
    arrives(&b, &mut get, SIZE / 4)?;
    Ok((a, b, get, input, out))
}

/// Waits until so much more has come.
fn arrives(b: &Node, get: &mut Process, bytes: u64) -> Result<()> {
    let before = b.host.received_bytes()?;
    let there = stop::until(node::PATIENT, || {
        ensure!(!get.ended()?, "`get` ended too early:\n{}", get.stderr().trim_end());
        Ok(b.host.received_bytes()? - before >= bytes)
    })?;
    ensure!(there, "the transfer stands still");
    Ok(())
}

fn ends_well(get: &mut Process, input: &Path, out: &Path) -> Result<()> {
    let status = get.wait(node::PATIENT)?;
    ensure!(status.success(), "`get` ended with {status}:\n{}", get.stderr().trim_end());
    ensure!(files::sha256(out)? == files::sha256(input)?, "the file differs");
    Ok(())
}

fn vanish(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, mut b, mut get, input, out) = begin(lab, binary)?;
    lab.unplug()?;
    // The time is the fault here: nothing is waited for but its end.
    stop::until(AWAY, || {
        ensure!(!get.ended()?, "`get` ended without a device:\n{}", get.stderr().trim_end());
        Ok(false)
    })?;
    lab.plug()?;
    ends_well(&mut get, &input, &out)?;
    ensure!(a.runs()? && b.runs()?, "a daemon ended");
    Ok(())
}

fn mtu(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b, mut get, input, out) = begin(lab, binary)?;
    let name = b.status()?["node_id"].as_str().context("no node_id")?.to_owned();
    let of_path = || -> Result<u64> {
        let status = a.status()?;
        let peers = status["peers"].as_array().context("no peers")?;
        let peer = peers.iter().find(|peer| peer["node_id"] == *name).context("no such peer")?;
        peer["mtu_bytes"].as_u64().context("no mtu_bytes")
    };
    let before = of_path()?;
    ensure!(before > 1400, "a path of 1500 bytes has an MTU of {before}");
    lab.mtu(1300)?;
    arrives(&b, &mut get, SIZE / 4)?;
    let narrow = of_path()?;
    ensure!(narrow <= 1300 - 28, "{narrow} bytes, by way of a device of 1300");
    lab.mtu(1500)?;
    ends_well(&mut get, &input, &out)
}

fn deleted(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = tunnel::joined(lab, binary)?;
    tunnel::on(lab, &a.host, &["ip", "link", "delete", tunnel::DEVICE])?;
    let said = stop::until(node::PROMPT, || Ok(a.daemon()?.stderr().contains("device was deleted")))?;
    ensure!(said, "the daemon says nothing of it: {}", a.daemon()?.stderr());
    ensure!(a.runs()?, "the daemon ended: {}", a.daemon()?.stderr());
    tunnel::up(&a, &b, tunnel::A)?;
    ensure!(tunnel::has_device(lab, &a.host)?, "no device");
    tunnel::reaches(&a, tunnel::B[0])?;
    tunnel::reaches(&b, tunnel::A[0])
}

//! Real daemons over links that are slow, lossy, lying or cut: the emulator between their hosts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

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

/// Everything at once; tornet tries 1500 bytes, and more than 1280 vanish.
const BAD: &str = "delay=25ms,jitter=2ms,loss=1%,reorder=2%/5ms,duplicate=1%,corrupt=0.5%,mtu=1280";
const BAD_SIZE: u64 = 4 << 20;
const CUT: &str = "rate=20mbit,delay=10ms";
const CUT_SIZE: u64 = 12 << 20;
/// Bytes on the wire at which it is cut.
const CUT_AT: u64 = 4 << 20;
const CUT_FOR: Duration = Duration::from_secs(20);

fn model(lab: &mut Lab, _: &Path) -> Result<()> {
    lab.emulate("clean")?;
    for row in check::model(lab, check::ESSENTIAL, |_| ())? {
        ensure!(row.holds, "{}", row.show());
    }
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

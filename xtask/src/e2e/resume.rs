//! A `get` that is cut off, by whatever, goes on where it was: what was verified is not fetched twice.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, complains, one_line};
use crate::args::show_size;
use crate::lab::{Finished, Lab, Node, Process, files, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case { name: "receiver-killed", about: "kill -9 of the receiver; `get` resumes", run: receiver_killed },
    Case {
        name: "sender-killed",
        about: "kill -9 of the sender; `get` goes on or resumes",
        run: sender_killed,
    },
    Case {
        name: "get-interrupted",
        about: "Ctrl-C of `get`; the same command resumes",
        run: get_interrupted,
    },
    Case { name: "tree-resumed", about: "a tree cut off in the middle resumes", run: tree_resumed },
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;
/// Where it is cut off: bytes on the wire.
const CUT: u64 = 160 * MIB;
/// What may be on its way, unverified or not yet written, when it is cut off.
const IN_FLIGHT: u64 = 48 * MIB;
/// Slow enough to be cut off in the middle, whatever the machine.
const RATE: &str = "500mbit";

/// Bytes on the wire for `bytes` of a file at most: headers, tags, proofs, acknowledgements.
const fn wire(bytes: u64) -> u64 {
    bytes + bytes / 12
}

struct Cut {
    a: Node,
    b: Node,
    input: PathBuf,
    reference: String,
    out: PathBuf,
    /// The `get` that runs when `CUT` bytes have arrived.
    get: Process,
    before: u64,
}

/// A transfer in the middle.
fn begin(lab: &Lab, binary: &Path, input: PathBuf) -> Result<Cut> {
    let (a, b) = node::pair(lab, binary)?;
    let (_, reference) = a.put(&input)?;
    lab.limit(RATE)?;
    let out = lab.dir().join("out");
    let before = b.host.received_bytes()?;
    let mut get = b.launch(&["get", &reference, "-o", node::text(&out)?])?;
    let there = stop::until(node::PATIENT, || {
        ensure!(!get.ended()?, "`get` ended before it was cut off:\n{}", get.stderr().trim_end());
        Ok(b.host.received_bytes()? - before >= CUT)
    })?;
    ensure!(there, "the transfer never reached its middle");
    Ok(Cut { a, b, input, reference, out, get, before })
}

fn one_large_file(lab: &Lab) -> Result<PathBuf> {
    let input = lab.dir().join("input");
    files::random(&input, SIZE)?;
    Ok(input)
}

impl Cut {
    /// The cut-off `get` fails with one line.
    fn failed(&mut self) -> Result<()> {
        let status = self.get.wait(node::PATIENT)?;
        ensure!(!status.success(), "the cut-off `get` says that it succeeded");
        complains(&self.get.stderr()).map(drop)
    }

    fn crossed(&self) -> Result<u64> {
        Ok(self.b.host.received_bytes()? - self.before)
    }

    /// The same `get` again: complete, resumed, and without fetching twice what was verified.
    fn again(&self, lab: &Lab) -> Result<Finished> {
        lab.unlimit()?;
        self.b.meets(&self.a)?;
        let first = self.crossed()?;
        let done = self.b.get(&self.reference, &self.out)?;
        let second = self.crossed()? - first;
        let most = wire(SIZE) - first + IN_FLIGHT;
        ensure!(
            second <= most,
            "{} crossed the wire before and {} after it was cut off: slices were fetched twice",
            show_size(first),
            show_size(second)
        );
        ensure!(done.stderr.contains("were here already"), "no word of resuming: {}", done.stderr.trim_end());
        Ok(done)
    }

    fn right(&self) -> Result<()> {
        ensure!(files::sha256(&self.out)? == files::sha256(&self.input)?, "the file differs");
        Ok(())
    }
}

fn receiver_killed(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut cut = begin(lab, binary, one_large_file(lab)?)?;
    cut.b.kill();
    cut.failed()?;
    cut.b.start()?;
    cut.again(lab)?;
    cut.right()
}

fn sender_killed(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut cut = begin(lab, binary, one_large_file(lab)?)?;
    cut.a.kill();
    cut.a.start()?;
    lab.unlimit()?;
    // It may go on by itself once the sender is back, or give up with one line and be started again.
    if !cut.get.wait(node::PATIENT)?.success() {
        complains(&cut.get.stderr())?;
        cut.b.meets(&cut.a)?;
        cut.b.get(&cut.reference, &cut.out)?;
    }
    let crossed = cut.crossed()?;
    ensure!(crossed <= wire(SIZE) + IN_FLIGHT, "{} crossed the wire in all", show_size(crossed));
    cut.right()
}

fn get_interrupted(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut cut = begin(lab, binary, one_large_file(lab)?)?;
    cut.get.signal(Signal::SIGINT)?;
    let status = cut.get.wait(node::PROMPT)?;
    one_line(&Finished {
        status,
        stdout: cut.get.stdout(),
        stderr: cut.get.stderr(),
        took: std::time::Duration::ZERO,
        cpu_seconds: 0.0,
    })?;
    ensure!(!cut.out.exists(), "a file that is not complete bears its final name");
    cut.again(lab)?;
    cut.right()
}

fn tree_resumed(lab: &mut Lab, binary: &Path) -> Result<()> {
    let tree = lab.make_dir("tree")?;
    for dir in 0..8 {
        let sub = tree.join(format!("dir {dir}"));
        std::fs::create_dir(&sub)?;
        for file in 0..8 {
            files::random(&sub.join(file.to_string()), SIZE / 64)?;
        }
    }
    let mut cut = begin(lab, binary, tree.clone())?;
    cut.b.kill();
    cut.failed()?;
    cut.b.start()?;
    cut.again(lab)?;
    files::same(&tree, &cut.out).map(drop)
}

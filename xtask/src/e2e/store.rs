//! What happens to the store itself: bits that flip on its disk, tables that are damaged, disks and limits that are
//! reached and raised.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, one_line};
use crate::lab::{Lab, Node, files, node};

pub const CASES: &[Case] = &[
    Case {
        name: "damaged-at-rest",
        about: "every stored slice damaged: another friend brings it, one line says so, put repairs",
        run: |lab, binary| damaged(lab, binary, true),
    },
    Case {
        name: "damaged-running",
        about: "the same under a running daemon",
        run: |lab, binary| damaged(lab, binary, false),
    },
    Case {
        name: "damaged-tables",
        about: "a damaged cache is put aside, a damaged local store refused and restored",
        run: damaged_tables,
    },
    Case { name: "room-again", about: "a full disk gets room: put works without a restart", run: room_again },
    Case { name: "store-limit", about: "the store's own limit is reached, then raised", run: store_limit },
];

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

fn data(node: &Node, side: &str) -> PathBuf {
    node.dir.join("store").join(side).join("data.mdb")
}

/// Flips a bit in every run of pages that holds a slice's bytes; how many there were. A run begins with its page's
/// number, the mark of a large value (4), and its length in pages.
fn flip_all_bodies(path: &Path) -> Result<u64> {
    const STEP: usize = 16;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata()?) * 512;
    let (mut page, mut flipped) = (2usize, 0);
    let mut head = [0; 16];
    // Pages are used from the file's beginning on; the rest is a hole.
    while (page * PAGE) as u64 <= blocks + MIB && file.read_at(&mut head, (page * PAGE) as u64)? == head.len()
    {
        let run = head[..8] == (page as u64).to_le_bytes() && head[10..] == [4, 0, STEP as u8, 0, 0, 0];
        if !run {
            page += 1;
            continue;
        }
        let (mut byte, at) = ([0], (page * PAGE + 5000 + flipped % 50_000) as u64);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 0x10], at)?;
        flipped += 1;
        page += STEP;
    }
    Ok(flipped as u64)
}

fn damaged(lab: &mut Lab, binary: &Path, rest: bool) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    let mut c = Node::new(lab, lab.a(), "c", binary, 4003, lab.dir().join("node-c"));
    c.init()?;
    c.start()?;
    c.befriend(&b)?;
    b.befriend(&c)?;
    let input = lab.dir().join("input");
    files::random(&input, 24 * MIB)?;
    let (_, reference) = a.put(&input)?;
    ensure!(c.put(&input)?.1 == reference, "the same content has another reference");
    if rest {
        a.stop(Signal::SIGTERM)?;
    }
    let slices = flip_all_bodies(&data(&a, "local"))?;
    ensure!(slices >= 24 * 16, "only {slices} slices were found in the store");
    if rest {
        a.start()?;
    }
    b.meets(&a)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out).context("a friend has it undamaged")?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");

    c.stop(Signal::SIGTERM)?;
    b.meets(&a)?;
    let alone = lab.dir().join("alone");
    let line = one_line(&b.attempt(&["get", &reference, "-o", node::text(&alone)?], node::PATIENT)?)?;
    ensure!(line.contains("chunk"), "the line does not say what is missing: {line}");
    ensure!(!alone.exists(), "a file that is not complete bears its final name");
    let log = a.daemon()?.stderr();
    ensure!(log.contains("is damaged"), "the damage is not in the log:\n{}", log.trim_end());

    // Chunks that nobody has asked for are not known to be damaged; each failed `get` shows one or more.
    for _ in 0..40 {
        ensure!(a.put(&input)?.1 == reference, "the repaired content has another reference");
        let done = b.attempt(&["get", &reference, "-o", node::text(&alone)?], node::PATIENT)?;
        if done.status.success() {
            ensure!(files::sha256(&alone)? == files::sha256(&input)?, "the file differs");
            return Ok(());
        }
        one_line(&done)?;
    }
    anyhow::bail!("putting it again did not repair it")
}

fn damaged_tables(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, 8 * MIB)?;
    let (_, reference) = a.put(&input)?;
    a.stop(Signal::SIGTERM)?;
    let paths = (data(&a, "cache"), data(&a, "local"));
    let spoil = |path: &Path| -> Result<()> {
        // The newest transaction's tables are somewhere in the first pages; the kind of each becomes impossible.
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut head = [0; 12];
        for page in 2..64u64 {
            file.read_exact_at(&mut head, page * PAGE as u64)?;
            if head[..8] == page.to_le_bytes() && matches!(head[10], 1 | 2) {
                file.write_all_at(&[0x77], page * PAGE as u64 + 10)?;
            }
        }
        Ok(())
    };
    let saved = lab.dir().join("saved");
    files::copy(&data(&a, "local"), &saved)?;
    spoil(&paths.0)?;
    a.start().context("with a damaged cache")?;
    let log = a.daemon()?.stderr();
    ensure!(log.contains("cache.damaged"), "nothing is said of the cache:\n{}", log.trim_end());
    b.meets(&a)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out).context("local is as it was")?;
    a.stop(Signal::SIGTERM)?;

    spoil(&paths.1)?;
    let line = one_line(&a.attempt(&["run"], node::PROMPT)?)?;
    ensure!(line.contains("damaged") && line.contains("restore"), "what is to be done? {line}");
    files::copy(&saved, &data(&a, "local"))?;
    a.start().context("restored from a copy")?;
    b.meets(&a)?;
    std::fs::remove_file(&out)?;
    b.get(&reference, &out).map(drop)
}

fn room_again(lab: &mut Lab, binary: &Path) -> Result<()> {
    let disk = lab.make_disk("disk", 128 * MIB)?;
    let (mut a, b) = node::pair_in(lab, binary, &disk)?;
    let (small, large, filler) = (lab.dir().join("small"), lab.dir().join("large"), disk.join("filler"));
    files::random(&small, 8 * MIB)?;
    files::random(&large, 64 * MIB)?;
    let (_, first) = a.put(&small)?;
    files::random(&filler, 90 * MIB)?;
    for _ in 0..3 {
        let line = one_line(&a.attempt(&["put", node::text(&large)?], node::PATIENT)?)?;
        ensure!(line.contains("full"), "the line does not say that the disk is full: {line}");
    }
    let out = lab.dir().join("out");
    b.get(&first, &out).context("what was put before, from the full disk")?;
    ensure!(files::sha256(&out)? == files::sha256(&small)?, "the file differs");
    std::fs::remove_file(&filler)?;
    let (_, second) = a.put(&large).context("with room again")?;
    a.kill();
    a.start()?;
    b.meets(&a)?;
    for (reference, input) in [(first, small), (second, large)] {
        std::fs::remove_file(&out)?;
        b.get(&reference, &out).context("after kill -9")?;
        ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    }
    Ok(())
}

fn store_limit(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    let (small, large) = (lab.dir().join("small"), lab.dir().join("large"));
    files::random(&small, 8 * MIB)?;
    files::random(&large, 128 * MIB)?;
    a.run(&["config", "set", "store.local_max", "64MiB"], node::PROMPT)?;
    a.stop(Signal::SIGTERM)?;
    a.start()?;
    let (_, first) = a.put(&small)?;
    let line = one_line(&a.attempt(&["put", node::text(&large)?], node::PATIENT)?)?;
    ensure!(line.contains("limit"), "the line does not name the limit: {line}");
    b.meets(&a)?;
    let out = lab.dir().join("out");
    b.get(&first, &out).context("what was put before")?;
    a.run(&["config", "set", "store.local_max", "512MiB"], node::PROMPT)?;
    a.kill();
    a.start()?;
    let (_, second) = a.put(&large).context("with a larger limit")?;
    b.meets(&a)?;
    std::fs::remove_file(&out)?;
    b.get(&second, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&large)?, "the file differs");
    Ok(())
}

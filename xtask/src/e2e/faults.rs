//! What goes wrong around a node: it says so in one line, fails, and loses nothing.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, one_line};
use crate::lab::{Lab, Node, files, node};

pub const CASES: &[Case] = &[
    Case {
        name: "wrong-reference",
        about: "no reference, a damaged one, one that nobody has",
        run: wrong_reference,
    },
    Case { name: "missing-peer", about: "the only friend is away", run: missing_peer },
    Case {
        name: "busy-port",
        about: "the port belongs to another, or the folder to another daemon",
        run: busy_port,
    },
    Case { name: "foreign-folder", about: "no node's folder, or a store that is none", run: foreign_folder },
    Case { name: "readable-key", about: "a key that others may read", run: readable_key },
    Case { name: "no-daemon", about: "commands without a daemon, a daemon without a node", run: no_daemon },
    Case { name: "full-output", about: "the disk that `get` writes to is full", run: full_output },
    Case { name: "full-store", about: "the disk of the store is full", run: full_store },
    Case { name: "ctrl-c", about: "Ctrl-C and SIGTERM end a daemon well, and it starts again", run: ctrl_c },
];

const MIB: u64 = 1 << 20;

fn third(lab: &Lab, binary: &Path, port: u16) -> Node {
    Node::new(lab, lab.a(), "c", binary, port, lab.dir().join("node-c"))
}

fn wrong_reference(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, MIB)?;
    let (_, known) = a.put(&input)?;
    let mut c = third(lab, binary, 4003);
    c.init()?;
    c.start()?;
    files::random(&input, 2 * MIB)?;
    let (_, unknown) = c.put(&input)?;
    c.stop(Signal::SIGTERM)?;
    // One character in the middle, another letter.
    let middle = known.len() / 2;
    let other = if known.as_bytes()[middle] == b'a' { "b" } else { "a" };
    let damaged = format!("{}{other}{}", &known[..middle], &known[middle + 1..]);
    let out = lab.dir().join("out");
    let shortened = &known[..known.len() - 4];
    let missing_path = format!("{known}/no such file");
    for reference in ["nonsense", "tornet:", "tornet:AAAA", shortened, &damaged, &unknown, &missing_path] {
        let done = b.attempt(&["get", reference, "-o", node::text(&out)?], node::PATIENT)?;
        one_line(&done).with_context(|| reference.to_string())?;
        ensure!(!out.exists(), "{reference} made a file");
    }
    b.get(&known, &out).map(drop)
}

fn missing_peer(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, MIB)?;
    let (_, reference) = a.put(&input)?;
    a.stop(Signal::SIGTERM)?;
    let out = lab.dir().join("out");
    let done = b.attempt(&["get", &reference, "-o", node::text(&out)?], node::PATIENT)?;
    one_line(&done)?;
    a.start()?;
    b.meets(&a)?;
    b.get(&reference, &out).map(drop)
}

fn busy_port(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, _b) = node::pair(lab, binary)?;
    let c = third(lab, binary, 4001);
    c.init()?;
    let line = one_line(&c.attempt(&["run"], node::PROMPT)?)?;
    ensure!(line.contains("4001"), "the line does not name the port: {line}");
    one_line(&a.attempt(&["run"], node::PROMPT)?).context("a second daemon in one folder")?;
    a.status().map(drop)
}

fn foreign_folder(lab: &mut Lab, binary: &Path) -> Result<()> {
    let foreign = third(lab, binary, 4003);
    std::fs::create_dir(&foreign.dir)?;
    let notes = foreign.dir.join("notes.txt");
    std::fs::write(&notes, "somebody's notes")?;
    one_line(&foreign.attempt(&["run"], node::PROMPT)?)?;
    one_line(&foreign.attempt(&["init", "--port", "4003"], node::PROMPT)?)?;
    let left: Vec<_> = std::fs::read_dir(&foreign.dir)?.collect::<std::io::Result<_>>()?;
    ensure!(
        left.len() == 1 && std::fs::read_to_string(&notes)? == "somebody's notes",
        "the folder was touched"
    );

    // A node whose store is something else: other bytes of any length, or a part of itself.
    let (mut a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, 20 * MIB)?;
    a.put(&input)?;
    a.stop(Signal::SIGTERM)?;
    let data = largest(&a.dir)?;
    let saved = lab.dir().join("saved");
    files::copy(&data, &saved)?;
    for bytes in [&b"not a store\n"[..], &[0x5a; 100_000]] {
        std::fs::write(&data, bytes)?;
        one_line(&a.attempt(&["run"], node::PROMPT)?)?;
        ensure!(std::fs::read(&data)? == bytes, "the foreign file was changed");
    }
    files::copy(&saved, &data)?;
    std::fs::OpenOptions::new().write(true).open(&data)?.set_len(10 * MIB)?;
    one_line(&a.attempt(&["run"], node::PROMPT)?).context("cut in half")?;
    // Put back, it works again.
    files::copy(&saved, &data)?;
    a.start()?;
    b.meets(&a)
}

/// The file in a node's store that holds the bodies.
fn largest(dir: &Path) -> Result<std::path::PathBuf> {
    let find = ["-type", "f", "-printf", "%b %p\\n"];
    let found = crate::sh::read(std::process::Command::new("find").arg(dir.join("store")).args(find))?;
    let sized = found.lines().filter_map(|line| line.split_once(' '));
    let largest = sized.max_by_key(|(blocks, _)| blocks.parse::<u64>().unwrap_or(0));
    Ok(largest.context("the store has no files")?.1.into())
}

fn readable_key(lab: &mut Lab, binary: &Path) -> Result<()> {
    let mut c = third(lab, binary, 4003);
    c.init()?;
    let mut keys = 0;
    for entry in std::fs::read_dir(&c.dir)? {
        let path = entry?.path();
        if path.extension() != Some("key".as_ref()) {
            continue;
        }
        keys += 1;
        let mode =
            |path: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&path)? == 0o600, "{} has mode {:o}", path.display(), mode(&path)?);
        for bad in [0o644, 0o640, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad))?;
            one_line(&c.attempt(&["run"], node::PROMPT)?).with_context(|| format!("mode {bad:o}"))?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    ensure!(keys > 0, "no key in the folder");
    c.start()
}

fn no_daemon(lab: &mut Lab, binary: &Path) -> Result<()> {
    let c = third(lab, binary, 4003);
    one_line(&c.attempt(&["run"], node::PROMPT)?).context("no node yet")?;
    c.init()?;
    one_line(&c.attempt(&["init", "--port", "4003"], node::PROMPT)?).context("init twice")?;
    for words in [&["status", "--json"][..], &["put", "/etc/hostname"], &["get", "tornet:x"], &["frobnicate"]]
    {
        one_line(&c.attempt(words, node::PROMPT)?).with_context(|| words.join(" "))?;
    }
    Ok(())
}

fn full_output(lab: &mut Lab, binary: &Path) -> Result<()> {
    let disk = lab.make_disk("disk", 16 * MIB)?;
    let (a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, 64 * MIB)?;
    let (_, reference) = a.put(&input)?;
    let full = disk.join("out");
    one_line(&b.attempt(&["get", &reference, "-o", node::text(&full)?], node::PATIENT)?)?;
    ensure!(!full.exists(), "a file that is not complete bears its final name");
    let out = lab.dir().join("out");
    b.get(&reference, &out).context("elsewhere, afterwards")?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

fn full_store(lab: &mut Lab, binary: &Path) -> Result<()> {
    let disk = lab.make_disk("disk", 128 * MIB)?;
    let (mut a, b) = node::pair_in(lab, binary, &disk)?;
    let (small, large) = (lab.dir().join("small"), lab.dir().join("large"));
    files::random(&small, 8 * MIB)?;
    files::random(&large, 256 * MIB)?;
    let (_, reference) = a.put(&small)?;
    one_line(&a.attempt(&["put", node::text(&large)?], node::PATIENT)?)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out).context("what was put before")?;
    ensure!(files::sha256(&out)? == files::sha256(&small)?, "the file differs");
    // And after a restart with the disk still full.
    a.kill();
    a.start()?;
    b.meets(&a)?;
    std::fs::remove_file(&out)?;
    b.get(&reference, &out).context("after a restart").map(drop)
}

fn ctrl_c(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        a.stop(signal).with_context(|| signal.to_string())?;
        a.start()?;
        b.meets(&a)?;
    }
    // `get | head` and the like: a reader that goes away is no reason to panic.
    let mut put = a.command(&["invite"]);
    put.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = put.spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!said.contains("panicked"), "a closed pipe made it panic");
    std::io::stdout().flush()?;
    Ok(())
}

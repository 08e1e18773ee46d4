//! Files that move: all of a tree, what changed of it, one file of it, from several peers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::args::show_size;
use crate::lab::{Lab, Node, files, node};

pub const CASES: &[Case] = &[
    Case { name: "tree", about: "a tree with everything odd arrives as it was", run: tree },
    Case { name: "edited", about: "one edited file makes its own new chunks only", run: edited },
    Case { name: "one-file", about: "one file of a large tree is fetched alone", run: one_file },
    Case { name: "two-peers", about: "slices come from both friends that have them", run: two_peers },
    Case { name: "restart", about: "what `put` acknowledged is there after kill -9", run: restart },
    Case { name: "salted", about: "`put --salt` makes another reference, and it works", run: salted },
];

const MIB: u64 = 1 << 20;

/// Files at the borders of records and pieces, odd names, modes, links, empty folders.
fn odd_tree(lab: &Lab) -> Result<PathBuf> {
    let tree = lab.make_dir("tree")?;
    for size in [0, 1, 65_519, 65_520, 65_521, 1_048_319, 1_048_320, 1_048_321, 5 * MIB + 17] {
        files::random(&tree.join(format!("size-{size}")), size)?;
    }
    let names: [&[u8]; 6] =
        [b"with space", b"-rf", b"line\nbreak", b"\xff\xfe not UTF-8", "ö→".as_bytes(), b"..."];
    for name in names {
        std::fs::write(tree.join(OsStr::from_bytes(name)), name)?;
    }
    let long = "n".repeat(255);
    std::fs::write(tree.join(&long), "the longest name")?;
    for mode in [0o400, 0o444, 0o600, 0o755] {
        let path = tree.join(format!("mode-{mode:o}"));
        std::fs::write(&path, format!("{mode}"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    std::fs::create_dir_all(tree.join("empty/also empty"))?;
    let deep = (0..60).fold(tree.clone(), |path, level| path.join(format!("level {level}")));
    std::fs::create_dir_all(&deep)?;
    std::fs::write(deep.join("bottom"), "deep")?;
    symlink("size-1", tree.join("link"))?;
    symlink("/nowhere/at all", tree.join("dangling"))?;
    symlink("../../../../../../etc", tree.join("climbing"))?;
    let many = tree.join("many");
    std::fs::create_dir(&many)?;
    for number in 0..3000u32 {
        std::fs::write(many.join(format!("{number}.txt")), number.to_string().repeat(number as usize % 200))?;
    }
    // A time with nanoseconds, before 1970 and after 2038.
    for (name, time) in [("size-1", "1965-03-01 12:00:00.123456789"), ("size-0", "2100-01-01 00:00:00.5")] {
        crate::sh::read(std::process::Command::new("touch").args(["-d", time]).arg(tree.join(name)))?;
    }
    Ok(tree)
}

fn tree(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let tree = odd_tree(lab)?;
    let (_, reference) = a.put(&tree)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out)?;
    files::same(&tree, &out)?;
    // Again over what is there, and into a folder that exists.
    b.get(&reference, &out)?;
    files::same(&tree, &out).context("the second time")?;
    // The same content on another node has the same name.
    ensure!(b.put(&tree)?.1 == reference, "the other node made another reference");
    Ok(())
}

fn edited(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let tree = odd_tree(lab)?;
    files::random(&tree.join("large"), 64 * MIB)?;
    let (first, _) = a.put(&tree)?;
    let all = new_chunks(&first.stderr)?;
    ensure!(all > 64, "only {all} new chunks for 64 MiB");
    let (again, _) = a.put(&tree)?;
    ensure!(new_chunks(&again.stderr)? == 0, "put again, unchanged: {}", again.stderr.trim_end());
    std::fs::write(tree.join("many/17.txt"), "edited")?;
    let (second, reference) = a.put(&tree)?;
    let new = new_chunks(&second.stderr)?;
    ensure!((1..=4).contains(&new), "one edited file made {new} new chunks");
    let out = lab.dir().join("out");
    b.get(&reference, &out)?;
    files::same(&tree, &out).map(drop)
}

/// "… 3 new chunks (…" → 3
fn new_chunks(said: &str) -> Result<u64> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.windows(2).position(|pair| pair[0] == "new" && pair[1].starts_with("chunk"));
    let number = at.and_then(|at| at.checked_sub(1)).and_then(|at| words[at].replace(',', "").parse().ok());
    number.with_context(|| format!("put does not say how many new chunks: {said:?}"))
}

fn one_file(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let tree = odd_tree(lab)?;
    files::random(&tree.join("large"), 96 * MIB)?;
    let (_, reference) = a.put(&tree)?;
    for (inside, limit) in [("many/2999.txt", 2 * MIB), ("size-5242897", 8 * MIB)] {
        let out = lab.dir().join("one");
        let before = b.host.received_bytes()?;
        b.get(&format!("{reference}/tree/{inside}"), &out)?;
        let wire = b.host.received_bytes()? - before;
        ensure!(files::sha256(&out)? == files::sha256(&tree.join(inside))?, "{inside} differs");
        let size = std::fs::metadata(&out)?.len();
        ensure!((size..limit).contains(&wire), "{} crossed the wire for {inside}", show_size(wire));
        std::fs::remove_file(&out)?;
    }
    Ok(())
}

fn two_peers(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let mut c = Node::new(lab, lab.a(), "c", binary, 4003, lab.dir().join("node-c"));
    c.init()?;
    c.start()?;
    let input = lab.dir().join("input");
    files::random(&input, 128 * MIB)?;
    let (_, reference) = a.put(&input)?;
    ensure!(c.put(&input)?.1 == reference, "the same file has two references");
    c.befriend(&b)?;
    b.befriend(&c)?;
    c.meets(&b)?;
    let out = lab.dir().join("out");
    let done = b.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    ensure!(done.stderr.contains("from 2 peers"), "not from both: {}", done.stderr.trim_end());
    Ok(())
}

fn restart(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, mut b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, 32 * MIB)?;
    let (_, reference) = a.put(&input)?;
    a.kill();
    a.start()?;
    // Killed in the middle of the next one.
    let more = lab.dir().join("more");
    files::random(&more, 512 * MIB)?;
    let stored = |node: &Node| -> Result<u64> {
        node.status()?["store"]["local_chunks"].as_u64().context("status --json has no store.local_chunks")
    };
    let before = stored(&a)?;
    let mut put = a.launch(&["put", node::text(&more)?])?;
    crate::stop::until(node::PATIENT, || Ok(put.ended()? || stored(&a)? > before + 8))?;
    a.kill();
    put.wait(node::PROMPT)?;
    a.start()?;
    // The friend finds it again by itself.
    b.meets(&a)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    let (_, reference) = a.put(&more)?;
    b.get(&reference, &lab.dir().join("out-more"))?;
    ensure!(files::sha256(&lab.dir().join("out-more"))? == files::sha256(&more)?, "the second file differs");
    a.stop(Signal::SIGTERM)?;
    b.stop(Signal::SIGINT)
}

fn salted(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let input = lab.dir().join("input");
    files::random(&input, 3 * MIB)?;
    let (_, open) = a.put(&input)?;
    let done = a.run(&["put", "--salt", node::text(&input)?], node::PATIENT)?;
    let salted = done.stdout.lines().last().unwrap_or_default();
    ensure!(salted.starts_with("tornet:") && salted != open, "the salt changes nothing: {salted}");
    let out = lab.dir().join("out");
    b.get(salted, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn put_says_how_many_chunks_are_new() {
        assert_eq!(new_chunks("put 1 file: 2 KiB in 1.0 s; 2 new chunks (1.0 MiB); 0 B").unwrap(), 2);
        assert_eq!(new_chunks("1 new chunk (1.0 MiB)").unwrap(), 1);
        assert_eq!(new_chunks("put: 1,024 new chunks").unwrap(), 1024);
        for bad in ["", "new chunks", "some new chunks", "two chunks"] {
            assert!(new_chunks(bad).is_err(), "{bad}");
        }
    }
}

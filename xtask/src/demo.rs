//! `cargo xtask demo`: what tornet does, on this machine, with real daemons and real files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::args::{Args, show_size};
use crate::lab::{Lab, Node, Wiring, files, node};
use crate::{setup, sh, stop};

/// Files of this system that make a real tree.
const DOCS: &str = "/usr/share/doc";
/// Slow enough to be interrupted.
const SLOW: &str = "1gbit";

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let once = args.flag("--once");
    let size = args.size("--size", 256 << 20)?;
    let binary = args.value("--binary")?.map(PathBuf::from);
    args.finish()?;
    stop::listen();
    setup::ensure()?;
    if binary.is_none() {
        say("building tornet (a few minutes, the first time)");
    }
    run(&sh::binary_or_build(binary)?, size, once)
}

/// The demo, with a random file of `size` bytes.
pub fn run(binary: &Path, size: u64, once: bool) -> Result<()> {
    let lab = Lab::here()?;
    match lab.wiring {
        Wiring::Namespaces => say("two hosts: network namespaces, joined by a virtual cable"),
        Wiring::Loopback => say("two nodes on loopback (as root they get a network namespace each)"),
    }
    let (a, mut b) = node::pair(&lab, binary)?;
    println!("   two daemons run, each with its own identity; their invitations are exchanged:");
    println!("   they are friends, and their session is encrypted");

    let tree = lab.dir().join("tree");
    make_tree(&tree, size)?;
    say(&format!("`tornet put` on A: {} files, {}", count(&tree)?, show_size(files::size(&tree)?)));
    let reference = put(&a, &tree)?;

    say("`tornet get` on B");
    let (out, took, wire) = get(&lab, &b, &reference, "copy")?;
    let same = files::same(&tree, &out)?;
    let bytes = files::size(&out)?;
    println!("   {} over the wire in {:.1} s, {}", show_size(wire), took.as_secs_f64(), rate(bytes, took));
    println!("   {same} files, each with the SHA-256, mode and time that it has on A");

    say("one file edited on A, and the tree put again");
    let edited = tree.join("project/architecture.md");
    let mut text = std::fs::read_to_string(&edited)?;
    text.push_str("\nEdited by the demo.\n");
    std::fs::write(&edited, text)?;
    let second = put(&a, &tree)?;

    say("only that file, out of the whole tree, on B");
    let inside = format!("{second}/tree/project/architecture.md");
    let (out, _, wire) = get(&lab, &b, &inside, "architecture.md")?;
    ensure!(files::sha256(&out)? == files::sha256(&edited)?, "the file differs");
    let edited_size = std::fs::metadata(&edited)?.len();
    println!("   {} of it, {} over the wire, the same SHA-256", show_size(edited_size), show_size(wire));

    resume(&lab, (&a, &mut b), &tree, &second)?;

    if !once {
        stay(binary, &a, &b, &second);
    }
    say("taken down: daemons, namespaces, files");
    Ok(())
}

fn make_tree(tree: &Path, size: u64) -> Result<()> {
    std::fs::create_dir(tree)?;
    files::copy(&sh::root().join("docs"), &tree.join("project"))?;
    if Path::new(DOCS).is_dir() {
        files::copy(Path::new(DOCS), &tree.join("doc"))?;
    }
    files::random(&tree.join("random.bin"), size)
}

fn put(node: &Node, tree: &Path) -> Result<String> {
    let (done, reference) = node.put(tree)?;
    show(&done.stderr);
    show(&done.stdout);
    Ok(reference)
}

fn get(lab: &Lab, node: &Node, reference: &str, name: &str) -> Result<(PathBuf, Duration, u64)> {
    let out = lab.dir().join(format!("got-{name}"));
    let before = node.host.received_bytes()?;
    let start = Instant::now();
    let done = node.get(reference, &out)?;
    let took = start.elapsed();
    show(&done.stderr);
    Ok((out, took, node.host.received_bytes()? - before))
}

/// A second copy, cut off in the middle by kill -9, and the same command again.
fn resume(lab: &Lab, (a, b): (&Node, &mut Node), tree: &Path, reference: &str) -> Result<()> {
    match lab.wiring {
        Wiring::Namespaces => {
            say(&format!("a second copy, over a link of {SLOW}; in its middle B's daemon is killed (-9)"));
            lab.limit(SLOW)?;
        }
        Wiring::Loopback => say("a second copy; in its middle B's daemon is killed (-9)"),
    }
    let out = lab.dir().join("got-second");
    let half = files::size(tree)? / 2;
    let before = b.host.received_bytes()?;
    let mut get = b.launch(&["get", reference, "-o", node::text(&out)?])?;
    stop::until(node::PATIENT, || Ok(get.ended()? || b.host.received_bytes()? - before >= half))?;
    if get.ended()? {
        println!("   it was complete before it could be killed: try a larger --size");
    }
    b.kill();
    get.wait(node::PATIENT)?;
    show(&get.stderr());
    println!("   started again, and the same command once more:");
    b.start()?;
    b.meets(a)?;
    let before = b.host.received_bytes()?;
    show(&b.get(reference, &out)?.stderr);
    files::same(tree, &out)?;
    println!("   {} over the wire this time, and all is there", show_size(b.host.received_bytes()? - before));
    if lab.wiring == Wiring::Namespaces {
        lab.unlimit()?;
    }
    Ok(())
}

fn stay(binary: &Path, a: &Node, b: &Node, reference: &str) {
    let sudo = |node: &Node| format!("{} --dir {}", binary.display(), node.dir.display());
    say("the nodes stay up until Ctrl-C; in another terminal, try");
    println!("   {} status", sudo(a));
    println!("   {} put /etc/hostname", sudo(a));
    println!("   {} get {reference} -o /tmp/tornet-demo", sudo(b));
    // Being asked to end is how this ends.
    let _ = stop::until(Duration::MAX, || Ok(false));
}

fn count(dir: &Path) -> Result<usize> {
    Ok(sh::read(std::process::Command::new("find").arg(dir).args(["-type", "f"]))?.lines().count())
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.2} Gbit/s", bytes as f64 * 8.0 / 1e9 / took.as_secs_f64())
}

fn say(text: &str) {
    println!("\n● {text}");
}

fn show(text: &str) {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        println!("   │ {line}");
    }
}

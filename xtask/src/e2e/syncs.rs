//! A disk that takes bytes and then fails to keep them: strace makes syncs of a running daemon fail (EIO), one of them
//! or all, while it puts and while it gets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, one_line};
use crate::lab::{Finished, Lab, Node, Process, files, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "put-failed-sync",
        about: "syncs of the store fail: put says so in a line or is done again; nothing acknowledged is lost",
        run: put_failed,
    },
    Case {
        name: "get-failed-sync",
        about: "syncs of the output fail: nothing incomplete bears its name, and the next get is right",
        run: get_failed,
    },
];

/// Which of a thread's syncs fail, as strace's `when=` counts them: one, or all from there on.
const WHEN: &[&str] = &["1", "2", "3", "1+"];
const SIZE: u64 = 3 << 20;

/// strace on all threads of a daemon, failing its syncs.
struct Failing {
    strace: Process,
    log: PathBuf,
}

impl Failing {
    fn attach(lab: &Lab, node: &mut Node, when: &str) -> Result<Self> {
        let log = lab.dir().join("failing.strace");
        let mut command = lab.a().command("strace");
        let syncs = "fsync,fdatasync,syncfs,sync,msync";
        command.args(["-f", "-p", &node.daemon()?.pid().to_string(), "-e", &format!("trace={syncs}")]);
        command.args(["-e", &format!("inject={syncs}:error=EIO:when={when}"), "-o"]).arg(&log);
        let mut strace = Process::start("strace", lab.dir(), &mut command)?;
        let attached = stop::until(node::PROMPT, || {
            ensure!(!strace.ended()?, "strace ended: {}", strace.stderr().trim_end());
            Ok(strace.stderr().contains("attached"))
        })?;
        ensure!(attached, "strace did not attach");
        Ok(Self { strace, log })
    }

    /// Lets go; how many syncs failed.
    fn detach(mut self) -> Result<usize> {
        self.strace.signal(Signal::SIGINT)?;
        self.strace.wait(node::PROMPT)?;
        let log = std::fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.contains("EIO") && line.contains("(INJECTED)")).count())
    }
}

/// A command under failing syncs: it succeeded, or said why not in one line. How many syncs failed.
fn under(lab: &Lab, node: &mut Node, when: &str, words: &[&str]) -> Result<(Finished, usize)> {
    let failing = Failing::attach(lab, node, when)?;
    let done = node.attempt(words, node::PATIENT);
    let failed = failing.detach()?;
    let done = done?;
    if !done.status.success() {
        let line = one_line(&done)?;
        let says_why =
            ["the disk failed", "Input/output error", "os error 5"].iter().any(|why| line.contains(why));
        ensure!(says_why, "that does not say why: {line}");
        ensure!(failed > 0, "it failed, and no sync did: {line}");
    }
    let log = node.daemon()?.stderr();
    ensure!(node.runs()?, "{} ended:\n{}", node.name, log.trim_end());
    Ok((done, failed))
}

fn put_failed(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (mut a, b) = node::pair(lab, binary)?;
    let (mut kept, mut all) = (Vec::new(), 0);
    for (number, when) in WHEN.iter().enumerate() {
        let input = lab.dir().join(format!("input-{number}"));
        files::random(&input, SIZE)?;
        let (done, failed) = under(lab, &mut a, when, &["put", node::text(&input)?])?;
        all += failed;
        if *when == "1+" {
            ensure!(!done.status.success(), "put was acknowledged while every sync failed");
        }
        // What was refused can be put as soon as the disk works; what was not, is there.
        let (_, reference) = a.put(&input).with_context(|| format!("after failed syncs (when={when})"))?;
        if done.status.success() {
            let said = done.stdout.lines().last().unwrap_or_default();
            ensure!(said == reference, "the same content has another reference: {said}");
        }
        kept.push((input, reference));
    }
    ensure!(all > 0, "void: no sync failed");
    a.kill();
    a.start()?;
    b.meets(&a)?;
    for (input, reference) in kept {
        let out = lab.dir().join("out");
        b.get(&reference, &out)?;
        ensure!(files::sha256(&out)? == files::sha256(&input)?, "{} differs", input.display());
        std::fs::remove_file(&out)?;
    }
    Ok(())
}

fn get_failed(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, mut b) = node::pair(lab, binary)?;
    let input = lab.make_dir("input")?;
    for number in 0..12 {
        files::random(&input.join(number.to_string()), SIZE / (1 + number))?;
    }
    let (_, reference) = a.put(&input)?;
    let manifest = files::manifest(&input)?;
    let mut all = 0;
    for when in WHEN {
        let out = lab.dir().join("out");
        let words = ["get", &reference, "-o", node::text(&out)?];
        let (done, failed) = under(lab, &mut b, when, &words)?;
        all += failed;
        if done.status.success() {
            ensure!(*when != "1+" || failed == 0, "get was complete while every sync failed");
            ensure!(files::manifest(&out)? == manifest, "what is said to be complete differs");
        } else if out.exists() {
            // Under their names lie whole files, or none.
            for line in files::manifest(&out)?.lines().filter(|line| line.contains("  ./")) {
                ensure!(manifest.lines().any(|right| right == line), "wrong under its final name: {line}");
            }
        }
        b.get(&reference, &out).with_context(|| format!("after failed syncs (when={when})"))?;
        ensure!(files::manifest(&out)? == manifest, "the tree differs");
        std::fs::remove_dir_all(&out)?;
    }
    ensure!(all > 0, "void: no sync failed");
    Ok(())
}

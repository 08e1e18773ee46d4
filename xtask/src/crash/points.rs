//! Enumerated deaths: the daemon dies on entering the N-th system call of one of its threads, for every N that a
//! dry run counted (or every k-th, in CI). strace attaches to that thread alone and kills on entry, so that call
//! has not been made and all before it have: no code in the product, every boundary between effects, and a name
//! for each (`put/store-local/7`). strace counts the calls of each kind for itself, so the seventh call of the dry
//! run becomes, say, the second `fdatasync`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::Run;
use super::content::{self, Content, Shape};
use super::kill::{Acknowledged, outcome, up};
use super::trace;
use crate::e2e::complains;
use crate::lab::{Lab, Node, Process, node};
use crate::stop;

/// Small: what matters are the boundaries, and a large file has no more kinds of them.
const SHAPE: Shape = Shape { large: 300_000, small: 6, small_max: 4 << 10 };
/// Points of one thread in CI.
const QUICK: usize = 4;

/// strace on one thread of a daemon.
struct Tracer {
    process: Process,
    trace: PathBuf,
}

impl Tracer {
    /// Attaches; with a point, the daemon dies there.
    fn attach(lab: &Lab, daemon: u32, thread: &str, when: Option<&str>) -> Result<Tracer> {
        let thread = if thread == "main" { daemon } else { thread_of(daemon, thread)? };
        let trace = lab.dir().join("points.trace");
        let mut command = lab.a().command("strace");
        command.args(["-y", "-xx", "-s", "64", "-p", &thread.to_string(), "-o"]).arg(&trace);
        if let Some(when) = when {
            command.args(["-e", when]);
        }
        let mut process = Process::start("strace", lab.dir(), &mut command)?;
        let attached = stop::until(node::PROMPT, || {
            ensure!(!process.ended()?, "strace ended: {}", process.stderr().trim_end());
            Ok(process.stderr().contains("attached"))
        })?;
        ensure!(attached, "strace did not attach");
        Ok(Tracer { process, trace })
    }

    /// Lets go; whether the daemon died by it, and is gone.
    fn killed(self, node: &mut Node) -> Result<bool> {
        // A thread may reach its point while nobody looks any more: only now is it certain which it was.
        let trace = self.trace.clone();
        self.detach()?;
        let killed = std::fs::read_to_string(&trace)?.contains("+++ killed by SIGKILL +++");
        if killed {
            ensure!(stop::until(node::PROMPT, || Ok(!node.runs()?))?, "{} was killed and lives", node.name);
        }
        Ok(killed)
    }

    /// Lets go; the names of the calls that the thread entered.
    fn detach(mut self) -> Result<Vec<String>> {
        if !self.process.ended()? {
            self.process.signal(nix::sys::signal::Signal::SIGINT)?;
        }
        self.process.wait(node::PROMPT)?;
        let text = std::fs::read_to_string(&self.trace)?;
        // Without -f there is no thread's number before a call.
        let numbered: String = text.lines().map(|line| format!("1 {line}\n")).collect();
        let calls = trace::parse(&numbered.replace("strace: Process", "--- Process"), 0)?;
        Ok(calls.into_iter().map(|call| call.name).collect())
    }
}

/// The thread of that name.
fn thread_of(daemon: u32, name: &str) -> Result<u32> {
    for entry in std::fs::read_dir(format!("/proc/{daemon}/task"))? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return entry
                .file_name()
                .to_str()
                .and_then(|number| number.parse().ok())
                .context("a thread's number");
        }
    }
    bail!("the daemon has no thread {name}")
}

/// One call of a dry run.
struct Point {
    /// Its number, from one; with `what`, the point's name.
    number: usize,
    /// Which call, and the how manyth of its kind.
    call: String,
    /// For strace.
    inject: String,
}

/// The calls of a dry run to die at.
fn points(run: &Run<'_>, what: &str, names: &[String]) -> Vec<Point> {
    let step = if run.quick { names.len().div_ceil(QUICK).max(1) } else { 1 };
    let first = run.rng(what, 0).below(step as u64) as usize;
    let chosen = |number: usize| match &run.at {
        Some(at) => *at == format!("{what}/{number}"),
        None => (number - 1) % step == first,
    };
    let mut counts = std::collections::BTreeMap::new();
    let mut points = Vec::new();
    for (name, number) in names.iter().zip(1..) {
        let count: &mut u64 = counts.entry(name).or_default();
        *count += 1;
        if chosen(number) {
            let (call, inject) =
                (format!("{name} {count}"), format!("inject={name}:signal=KILL:when={count}"));
            points.push(Point { number, call, inject });
        }
    }
    points
}

/// Counts what was tried.
#[derive(Default)]
struct Tried {
    died: u64,
    survived: u64,
}

impl Tried {
    /// Threads do not make the same calls each time: some points are not reached.
    fn count(&mut self, died: bool) {
        if died {
            self.died += 1;
        } else {
            self.survived += 1;
        }
    }

    fn figures(&self) -> String {
        format!("{} deaths, {} points not reached", self.died, self.survived)
    }
}

fn at<T>(result: Result<T>, run: &Run<'_>, what: &str, point: &Point) -> Result<T> {
    result.with_context(|| {
        let (number, call, seed) = (point.number, &point.call, run.seed);
        let part = what.split('/').next().unwrap_or_default();
        format!(
            "{what}/{number} (before {call}); again: \
             cargo xtask crash points-{part} --seed {seed} --at {what}/{number} --keep"
        )
    })
}

/// The part: deaths of the daemon that puts.
pub fn put(run: &mut Run<'_>) -> Result<String> {
    let (mut a, mut b) = node::pair(&run.lab, run.binary)?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 2))?;
    let (mut tried, mut edits) = (Tried::default(), 0);
    let mut edit = |content: &Content, run: &Run<'_>| {
        edits += 1;
        content.edit(&mut run.rng("points-edit", edits))
    };
    let mut acknowledged = Vec::new();
    // The main thread speaks with the command line: its calls lie before and after the acknowledgement.
    for thread in ["store-local", "main"] {
        let what = format!("put/{thread}");
        edit(&content, run)?;
        let tracer = Tracer::attach(&run.lab, a.daemon()?.pid(), thread, None)?;
        let (_, reference) = a.put(&content.dir)?;
        acknowledged.push(Acknowledged { reference, manifest: content.manifest()? });
        let names = tracer.detach()?;
        ensure!(
            names.iter().any(|name| name == "fdatasync") || thread != "store-local",
            "no sync in {names:?}"
        );
        for point in points(run, &what, &names) {
            stop::check()?;
            edit(&content, run)?;
            let manifest = content.manifest()?;
            let mut attempt = || {
                let tracer = Tracer::attach(&run.lab, a.daemon()?.pid(), thread, Some(&point.inject))?;
                let mut put = a.launch(&["put", node::text(&content.dir)?])?;
                acknowledged.extend(outcome(&mut put, &manifest)?);
                tried.count(tracer.killed(&mut a)?);
                up(&mut a, &mut b)?;
                acknowledged.last().context("nothing was acknowledged")?.check(&b, &run.lab)?;
                let (_, reference) = a.put(&content.dir)?;
                let again = Acknowledged { reference, manifest: manifest.clone() };
                again.check(&b, &run.lab)?;
                acknowledged.push(again);
                Ok(())
            };
            at(attempt(), run, &what, &point)?;
        }
    }
    for one in &acknowledged {
        one.check(&b, &run.lab).context("at the end")?;
    }
    Ok(format!("{}; {} references got whole", tried.figures(), acknowledged.len()))
}

/// The part: deaths of the daemon that gets.
pub fn get(run: &mut Run<'_>) -> Result<String> {
    let (mut a, mut b) = node::pair(&run.lab, run.binary)?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 2))?;
    let (_, reference) = a.put(&content.dir)?;
    let manifest = content.manifest()?;
    let out = run.lab.dir().join("out");
    let words = ["get", &reference, "-o", node::text(&out)?];
    let mut tried = Tried::default();
    for thread in ["files", "main"] {
        let what = format!("get/{thread}");
        let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, None)?;
        b.get(&reference, &out)?;
        let names = tracer.detach()?;
        ensure!(
            names.iter().any(|name| name.starts_with("rename")) || thread != "files",
            "no rename in {names:?}"
        );
        std::fs::remove_dir_all(&out)?;
        for point in points(run, &what, &names) {
            stop::check()?;
            let mut attempt = || {
                let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, Some(&point.inject))?;
                let mut get = b.launch(&words)?;
                let complete = get.wait(node::PATIENT)?.success();
                if !complete {
                    complains(&get.stderr())?;
                }
                tried.count(tracer.killed(&mut b)?);
                let finals = content::finals(&out, &manifest)?;
                ensure!(finals.wrong.is_empty(), "wrong under its final name: {}", finals.wrong.join("; "));
                if complete {
                    content::is(&out, &manifest).context("it had said that it was complete")?;
                }
                up(&mut a, &mut b)?;
                b.get(&reference, &out)?;
                content::is(&out, &manifest).context("resumed")?;
                std::fs::remove_dir_all(&out).map_err(Into::into)
            };
            at(attempt(), run, &what, &point)?;
        }
    }
    Ok(tried.figures())
}

/// The part: deaths during a daemon's very first start, and during its second.
pub fn start(run: &mut Run<'_>) -> Result<String> {
    // What changes files; a program's start makes hundreds of other calls.
    const CALLS: &str = "open,openat,mkdir,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat2,unlink,\
        unlinkat,rmdir,bind";
    let dir = run.lab.dir().join("node-c");
    let new = |run: &Run<'_>| -> Result<Node> {
        let node = Node::new(&run.lab, run.lab.a(), "c", run.binary, 4003, dir.clone());
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        node.init()?;
        Ok(node)
    };
    let trace = run.lab.dir().join("start.trace");
    let through = |extra: &str| -> Result<Vec<String>> {
        let words = ["strace", "-D", "-f", "-y", "-xx", "-s", "64", "-o", node::text(&trace)?, "-e", extra];
        Ok(words.iter().map(|word| word.to_string()).collect())
    };
    let mut node = new(run)?;
    node.start_through(&through(&format!("trace={CALLS}"))?)?;
    let main = node.daemon()?.pid();
    node.stop(nix::sys::signal::Signal::SIGTERM)?;
    let text = std::fs::read_to_string(&trace)?;
    let calls = trace::parse(&text, 0)?;
    let mine: Vec<trace::Call> = calls.into_iter().filter(|call| call.thread == main).collect();
    let ready = mine.iter().position(|call| call.bytes(1).is_ok_and(|said| said == b"ready\n"));
    let ready = ready.context("the daemon never said that it is ready")?;
    let names: Vec<String> = mine.into_iter().take(ready + 1).map(|call| call.name).collect();
    let mut tried = Tried::default();
    for point in points(run, "start", &names) {
        stop::check()?;
        let mut attempt = || {
            let mut node = new(run)?;
            let through = through(&point.inject)?;
            tried.count(node.start_through(&through).is_err());
            node.kill();
            node.start().context("the start after")?;
            node.put(&run.lab.dir().join("start.trace")).context("a put after")?;
            node.stop(nix::sys::signal::Signal::SIGTERM)
        };
        at(attempt(), run, "start", &point)?;
    }
    Ok(tried.figures())
}

//! Enumerated deaths: the daemon dies on entering the N-th system call of one of its threads, for every N that a
//! dry run counted (or every k-th, in CI). strace attaches to that thread alone and kills on entry, so that call
//! has not been made and all before it have: no code in the product, every boundary between effects, and a name
//! for each (`put/store-local/7`).

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
const QUICK: u64 = 4;

/// strace on one thread of a daemon.
struct Tracer {
    process: Process,
    trace: PathBuf,
}

impl Tracer {
    /// Attaches; with `when`, the daemon dies on entering the thread's `when`-th call from now on.
    fn attach(lab: &Lab, daemon: u32, thread: &str, when: Option<u64>) -> Result<Tracer> {
        let thread = thread_of(daemon, thread)?;
        let trace = lab.dir().join("points.trace");
        let mut command = lab.a().command("strace");
        command.args(["-y", "-xx", "-s", "64", "-p", &thread.to_string(), "-o"]).arg(&trace);
        if let Some(when) = when {
            command.args(["-e", &format!("inject=all:signal=KILL:when={when}")]);
        }
        let mut process = Process::start("strace", lab.dir(), &mut command)?;
        let attached = stop::until(node::PROMPT, || {
            ensure!(!process.ended()?, "strace ended: {}", process.stderr().trim_end());
            Ok(process.stderr().contains("attached"))
        })?;
        ensure!(attached, "strace did not attach");
        Ok(Tracer { process, trace })
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

/// The thread of that name; the main thread has the program's.
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

/// Counts what was tried.
#[derive(Default)]
struct Tried {
    died: u64,
    survived: u64,
}

impl Tried {
    /// The numbers to try of `count` calls.
    fn points(run: &Run<'_>, what: &str, count: u64) -> Vec<u64> {
        if let Some(at) = &run.at {
            let number = at.strip_prefix(what).and_then(|rest| rest.strip_prefix('/')?.parse().ok());
            return number.into_iter().collect();
        }
        let step = if run.quick { count.div_ceil(QUICK).max(1) } else { 1 };
        // Threads do not make the same number of calls each time: a little beyond.
        let last = if run.quick { count } else { count + count / 10 + 1 };
        let first = if run.quick { 1 + run.rng(what, 0).below(step) } else { 1 };
        (first..=last).step_by(step as usize).collect()
    }

    fn count(&mut self, node: &mut Node) -> Result<()> {
        // Killed by the kernel a moment after strace asked for it.
        if node.runs()? {
            self.survived += 1
        } else {
            self.died += 1
        }
        Ok(())
    }

    fn figures(&self) -> String {
        format!("{} deaths, {} calls not reached", self.died, self.survived)
    }
}

fn at<T>(result: Result<T>, run: &Run<'_>, what: &str, number: u64, names: &[String]) -> Result<T> {
    result.with_context(|| {
        let name = names.get(number as usize - 1).map_or("beyond the dry run", String::as_str);
        let seed = run.seed;
        format!(
            "{what}/{number} (before {name}, by the dry run); again: \
             cargo xtask crash points --seed {seed} --at {what}/{number} --keep"
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
    for thread in ["store-local", "tornet"] {
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
        for number in Tried::points(run, &what, names.len() as u64) {
            stop::check()?;
            edit(&content, run)?;
            let manifest = content.manifest()?;
            let mut attempt = || {
                let tracer = Tracer::attach(&run.lab, a.daemon()?.pid(), thread, Some(number))?;
                let mut put = a.launch(&["put", node::text(&content.dir)?])?;
                acknowledged.extend(outcome(&mut put, &manifest)?);
                tried.count(&mut a)?;
                tracer.detach()?;
                up(&mut a, &mut b)?;
                acknowledged.last().context("nothing was acknowledged")?.check(&b, &run.lab)?;
                let (_, reference) = a.put(&content.dir)?;
                let again = Acknowledged { reference, manifest: manifest.clone() };
                again.check(&b, &run.lab)?;
                acknowledged.push(again);
                Ok(())
            };
            at(attempt(), run, &what, number, &names)?;
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
    for thread in ["files", "tornet"] {
        let what = format!("get/{thread}");
        let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, None)?;
        b.get(&reference, &out)?;
        let names = tracer.detach()?;
        ensure!(names.iter().any(|name| name == "renameat2") || thread != "files", "no rename in {names:?}");
        std::fs::remove_dir_all(&out)?;
        for number in Tried::points(run, &what, names.len() as u64) {
            stop::check()?;
            let mut attempt = || {
                let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, Some(number))?;
                let mut get = b.launch(&words)?;
                let complete = get.wait(node::PATIENT)?.success();
                if !complete {
                    complains(&get.stderr())?;
                }
                tried.count(&mut b)?;
                let finals = content::finals(&out, &manifest)?;
                ensure!(finals.wrong.is_empty(), "wrong under its final name: {}", finals.wrong.join("; "));
                if complete {
                    content::is(&out, &manifest).context("it had said that it was complete")?;
                }
                tracer.detach()?;
                up(&mut a, &mut b)?;
                b.get(&reference, &out)?;
                content::is(&out, &manifest).context("resumed")?;
                std::fs::remove_dir_all(&out).map_err(Into::into)
            };
            at(attempt(), run, &what, number, &names)?;
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
    let names: Vec<String> =
        calls.into_iter().filter(|call| call.thread == main).map(|call| call.name).collect();
    let mut tried = Tried::default();
    for number in Tried::points(run, "start", names.len() as u64) {
        stop::check()?;
        let mut attempt = || {
            let mut node = new(run)?;
            let through = through(&format!("inject={CALLS}:signal=KILL:when={number}"))?;
            if node.start_through(&through).is_ok() {
                tried.survived += 1;
                node.kill();
            } else {
                tried.died += 1;
            }
            node.start().context("the start after")?;
            node.put(&run.lab.dir().join("start.trace")).context("a put after")?;
            node.stop(nix::sys::signal::Signal::SIGTERM)
        };
        at(attempt(), run, "start", number, &names)?;
    }
    Ok(tried.figures())
}

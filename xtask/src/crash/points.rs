//! Enumerated deaths: the daemon dies on entering the N-th system call of one of its threads, for every N that a
//! dry run counted (or every k-th, in CI). strace attaches to that thread alone and kills on entry, so that call
//! has not been made and all before it have: no code in the product, every boundary between effects, and a name
//! for each: strace counts the calls of each kind, so the seventh call of the dry run may be
//! `put/store-local/fdatasync-2`.

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
/// How often a point is tried that is not reached: threads wake each other otherwise each time.
const TRIES: u64 = 4;

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
    fn killed(self, node: &mut Node, point: &Point) -> Result<Fate> {
        // A thread may reach its point while nobody looks any more: only now is it certain which it was.
        let trace = self.trace.clone();
        let names = self.detach()?;
        let killed = std::fs::read_to_string(&trace)?.contains("+++ killed by SIGKILL +++");
        if killed {
            ensure!(stop::until(node::PROMPT, || Ok(!node.runs()?))?, "{} was killed and lives", node.name);
        }
        point.fate(killed, &names)
    }

    /// Lets go; the names of the calls that came back.
    fn detach(mut self) -> Result<Vec<String>> {
        if !self.process.ended()? {
            self.process.signal(nix::sys::signal::Signal::SIGINT)?;
        }
        self.process.wait(node::PROMPT)?;
        let text = std::fs::read_to_string(&self.trace)?;
        // Without -f there is no thread's number before a call.
        let numbered: String = text.lines().map(|line| format!("1 {line}\n")).collect();
        let calls = trace::parse(&numbered.replace("strace: Process", "--- Process"), 0)?;
        // Where it was when we let go it may have been before the kill took effect.
        Ok(calls.into_iter().filter(|call| call.result.is_some()).map(|call| call.name).collect())
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
    /// Which call.
    call: String,
    /// The how manyth of its kind.
    count: usize,
}

/// Such as `fdatasync-2`: what strace counts. A number among all calls would name another one each time.
impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.call, self.count)
    }
}

/// What became of a daemon that was to die at a point.
enum Fate {
    Died,
    /// It made only so many calls of that kind.
    Survived(usize),
}

impl Point {
    /// For strace.
    fn inject(&self) -> String {
        format!("inject={}:signal=KILL:when={}", self.call, self.count)
    }

    /// By what was seen. A point that was passed kills: else it is strace that does not work. The call that the
    /// thread was in when strace attached is shown, and not counted by it.
    fn fate(&self, killed: bool, names: &[String]) -> Result<Fate> {
        let calls = names.iter().filter(|name| **name == self.call).count();
        ensure!(killed || calls <= self.count, "{calls} calls of {} and no death", self.call);
        Ok(if killed { Fate::Died } else { Fate::Survived(calls) })
    }
}

/// The calls of a dry run to die at, or the one that was asked for.
///
/// Calls that say nothing to the disk or a peer are left out: how many the allocator and the scheduler make differs
/// from run to run, and what is between two of them is between the others, too.
fn points(run: &Run<'_>, what: &str, names: &[String]) -> Vec<Point> {
    const SILENT: &[&str] =
        &["brk", "madvise", "mmap", "mprotect", "mremap", "munmap", "futex", "sched_yield", "getrandom"];
    let names: Vec<&String> = names.iter().filter(|name| !SILENT.contains(&name.as_str())).collect();
    if let Some(at) = &run.at {
        let point = at.strip_prefix(what).and_then(|rest| rest.strip_prefix('/')?.rsplit_once('-'));
        let point =
            point.and_then(|(call, count)| Some(Point { call: call.into(), count: count.parse().ok()? }));
        return point.into_iter().collect();
    }
    let step = if run.quick { names.len().div_ceil(QUICK).max(1) } else { 1 };
    let first = run.rng(what, 0).below(step as u64) as usize;
    let mut counts = std::collections::BTreeMap::new();
    let mut points = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let count: &mut usize = counts.entry(name).or_default();
        *count += 1;
        if number % step == first {
            points.push(Point { call: (*name).clone(), count: *count });
        }
    }
    points
}

/// Counts what was tried.
#[derive(Default)]
struct Tried {
    points: u64,
    deaths: u64,
    /// Points that no try reached, and why.
    missed: Vec<String>,
}

impl Tried {
    /// Tries a point until it is reached; `attempt` is told the how manyth point and try it is.
    fn point(
        &mut self,
        run: &Run<'_>,
        what: &str,
        point: &Point,
        mut attempt: impl FnMut(&str) -> Result<Fate>,
    ) -> Result<()> {
        self.points += 1;
        let mut most = 0;
        for number in 0..TRIES {
            stop::check()?;
            match at(attempt(&format!("{point}/{number}")), run, what, point)? {
                Fate::Died => {
                    self.deaths += 1;
                    return Ok(());
                }
                Fate::Survived(calls) => most = most.max(calls),
            }
        }
        self.missed.push(format!("{what}/{point}: no try of {TRIES} made more than {most} such calls"));
        Ok(())
    }

    /// All of it. Nothing was shown if nothing died, and little if most points were missed.
    fn figures(&self, run: &Run<'_>) -> Result<String> {
        if let Some(at) = &run.at {
            ensure!(self.points > 0, "no point {at}");
        }
        let missed = self.missed.len();
        self.missed.iter().for_each(|line| println!("        not reached: {line}"));
        ensure!(self.deaths > 0, "nothing died at any of {} points", self.points);
        ensure!(self.deaths >= missed as u64, "only {} of {} points were reached", self.deaths, self.points);
        Ok(format!("{} deaths, {missed} points not reached", self.deaths))
    }
}

fn at<T>(result: Result<T>, run: &Run<'_>, what: &str, point: &Point) -> Result<T> {
    result.with_context(|| {
        let part = format!("points-{}", what.split('/').next().unwrap_or_default());
        let again = run.again(&part, Some(&format!("{what}/{point}")), run.rounds);
        format!("death before {what}/{point}; {again}")
    })
}

/// The part: deaths of the daemon that puts.
pub fn put(run: &mut Run<'_>) -> Result<String> {
    let (mut a, mut b) = node::pair(&run.lab, run.binary)?;
    let tree = run.lab.dir().join("tree");
    // Made anew for each point and try, so that a point that is tried alone has the same content.
    let make = |run: &Run<'_>, what: &str| -> Result<Content> {
        if tree.exists() {
            std::fs::remove_dir_all(&tree)?;
        }
        let content = Content::make(tree.clone(), SHAPE, &mut run.rng("tree", 2))?;
        content.edit(&mut run.rng(what, 0))?;
        Ok(content)
    };
    let mut tried = Tried::default();
    let mut acknowledged = Vec::new();
    // The main thread speaks with the command line: its calls lie before and after the acknowledgement.
    for thread in ["store-local", "main"] {
        let what = format!("put/{thread}");
        let content = make(run, &what)?;
        let tracer = Tracer::attach(&run.lab, a.daemon()?.pid(), thread, None)?;
        let (_, reference) = a.put(&content.dir)?;
        acknowledged.push(Acknowledged { reference, manifest: content.manifest()? });
        let names = tracer.detach()?;
        ensure!(
            names.iter().any(|name| name == "fdatasync") || thread != "store-local",
            "no sync in {names:?}"
        );
        for point in points(run, &what, &names) {
            tried.point(run, &what, &point, |name| {
                let content = make(run, &format!("{what}/{name}"))?;
                let manifest = content.manifest()?;
                let tracer = Tracer::attach(&run.lab, a.daemon()?.pid(), thread, Some(&point.inject()))?;
                let mut put = a.launch(&["put", node::text(&content.dir)?])?;
                acknowledged.extend(outcome(&mut put, &manifest)?);
                let fate = tracer.killed(&mut a, &point)?;
                up(&mut a, &mut b)?;
                acknowledged.last().context("nothing was acknowledged")?.check(&b, &run.lab)?;
                let (_, reference) = a.put(&content.dir)?;
                let again = Acknowledged { reference, manifest };
                again.check(&b, &run.lab)?;
                acknowledged.push(again);
                Ok(fate)
            })?;
        }
    }
    let figures = tried.figures(run)?;
    for one in &acknowledged {
        one.check(&b, &run.lab).context("at the end")?;
    }
    Ok(format!("{figures}; {} references got whole", acknowledged.len()))
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
    for thread in ["files-0", "main"] {
        let what = format!("get/{thread}");
        let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, None)?;
        b.get(&reference, &out)?;
        let names = tracer.detach()?;
        ensure!(
            names.iter().any(|name| name.starts_with("rename")) || thread != "files-0",
            "no rename in {names:?}"
        );
        std::fs::remove_dir_all(&out)?;
        for point in points(run, &what, &names) {
            tried.point(run, &what, &point, |_| {
                let tracer = Tracer::attach(&run.lab, b.daemon()?.pid(), thread, Some(&point.inject()))?;
                let mut get = b.launch(&words)?;
                let complete = get.wait(node::PATIENT)?.success();
                if !complete {
                    complains(&get.stderr())?;
                }
                let fate = tracer.killed(&mut b, &point)?;
                let finals = content::finals(&out, &manifest)?;
                ensure!(finals.wrong.is_empty(), "wrong under its final name: {}", finals.wrong.join("; "));
                if complete {
                    content::is(&out, &manifest).context("it had said that it was complete")?;
                }
                up(&mut a, &mut b)?;
                b.get(&reference, &out)?;
                content::is(&out, &manifest).context("resumed")?;
                std::fs::remove_dir_all(&out)?;
                Ok(fate)
            })?;
        }
    }
    tried.figures(run)
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
    // What its main thread, which has ended, did until it was ready, or died.
    let calls = || -> Result<(Vec<String>, bool)> {
        let mut text = String::new();
        let whole = stop::until(node::PROMPT, || {
            text = std::fs::read_to_string(&trace)?;
            let main = text.split(' ').next().unwrap_or_default();
            let ended = |line: &str| {
                line.split_once(' ')
                    .is_some_and(|(thread, rest)| thread == main && rest.trim_start().starts_with("+++ "))
            };
            Ok(text.ends_with('\n') && text.lines().any(ended))
        })?;
        ensure!(whole, "strace never ended its record");
        let main: Option<u32> = text.split(' ').next().and_then(|word| word.parse().ok());
        let main = main.context("nothing was recorded")?;
        let mine = trace::parse(&text, 0)?.into_iter().filter(|call| call.thread == main);
        let (mut names, mut ready) = (Vec::new(), false);
        for call in mine {
            if !ready {
                ready = call.result.is_some() && call.bytes(1).is_ok_and(|said| said == b"ready\n");
                names.push(call.name);
            }
        }
        Ok((names, ready))
    };
    let mut node = new(run)?;
    node.start_through(&through(&format!("trace={CALLS}"))?)?;
    node.stop(nix::sys::signal::Signal::SIGTERM)?;
    let (names, ready) = calls()?;
    ensure!(ready, "the daemon never said that it is ready");
    let mut tried = Tried::default();
    for point in points(run, "start", &names) {
        tried.point(run, "start", &point, |_| {
            let mut node = new(run)?;
            let died = node.start_through(&through(&point.inject())?).is_err();
            node.kill();
            let (names, ready) = calls()?;
            ensure!(died != ready, "strace and the daemon do not agree on whether it was ready");
            let fate = point.fate(died, &names)?;
            node.start().context("the start after")?;
            // Anything will do.
            node.put(&trace).context("a put after")?;
            node.stop(nix::sys::signal::Signal::SIGTERM)?;
            Ok(fate)
        })?;
    }
    tried.figures(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_was_reached_kills() {
        let point = Point { call: "write".into(), count: 2 };
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert!(matches!(point.fate(true, &names(&["write", "write"])).unwrap(), Fate::Died));
        assert!(matches!(point.fate(false, &names(&["write", "fsync"])).unwrap(), Fate::Survived(1)));
        assert!(point.fate(false, &names(&["write"; 3])).is_err(), "strace does not work");
        assert_eq!(
            (point.to_string(), point.inject()),
            ("write-2".into(), "inject=write:signal=KILL:when=2".into())
        );
    }
}

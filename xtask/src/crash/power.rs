//! Power loss: one node is recorded (strace, every call that can change a file), then for many moments its
//! folder is made as a disk would have it (`disk`), the real daemon is started in it, and must have everything
//! that it had acknowledged by then.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Whence, lseek64};

use super::content::{self, Content, Shape};
use super::disk::{self, Body, Policy};
use super::kill::{Acknowledged, received};
use super::player::Player;
use super::record::{CALLS, Effect, Recorder, Step};
use super::{Run, rng::Rng, trace};
use crate::e2e::one_line;
use crate::lab::{Host, Lab, Node, Process, node};
use crate::stop;

const SHAPE: Shape = Shape { large: 3 << 20, small: 150, small_max: 6 << 10 };
/// For the getter: slow enough to be interrupted in the middle.
const RATE: &str = "50mbit";
/// Moments around syncs in CI.
const QUICK_SYNCS: usize = 12;
/// What a cache's `running` says on another boot.
const OTHER_BOOT: &str = "00000000-0000-0000-0000-000000000000\n";

/// A node whose calls are recorded.
struct Recorded {
    node: Node,
    /// The folder that stands for its disk.
    disk: PathBuf,
    traces: Vec<PathBuf>,
}

impl Recorded {
    fn new(run: &Run<'_>, host: &Host, name: &str, port: u16) -> Result<Recorded> {
        let disk = run.lab.make_dir(&format!("disk-{name}"))?;
        let node = Node::new(&run.lab, host, name, run.binary, port, disk.join("node"));
        Ok(Recorded { node, disk, traces: Vec::new() })
    }

    /// strace and its words, for one more process.
    fn strace(&mut self, lab: &Lab) -> Result<Vec<String>> {
        let path = lab.dir().join(format!("{}-{}.trace", self.node.name, self.traces.len()));
        let calls = format!("trace={CALLS}");
        let words =
            ["strace", "-D", "-f", "-y", "-xx", "-s", "16777216", "--seccomp-bpf", "-e", &calls, "-o"];
        let mut words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        words.push(node::text(&path)?.to_string());
        self.traces.push(path);
        Ok(words)
    }

    fn init(&mut self, lab: &Lab) -> Result<()> {
        let through = self.strace(lab)?;
        let mut command = self.node.command_through(&through, &["init", "--port", self.node.port()]);
        let done = Process::finish("init", lab.dir(), &mut command, node::PROMPT)?;
        ensure!(done.status.success(), "init under strace: {}", done.stderr.trim_end());
        self.traced()
    }

    fn start(&mut self, lab: &Lab) -> Result<()> {
        let through = self.strace(lab)?;
        self.node.start_through(&through)
    }

    fn stop(&mut self) -> Result<()> {
        self.node.stop(Signal::SIGTERM)?;
        self.traced()
    }

    /// Waits until strace, which outlives what it traces, has written the last line.
    fn traced(&self) -> Result<()> {
        let path = self.traces.last().context("nothing was recorded")?;
        let whole = stop::until(node::PROMPT, || {
            let text = tail(path)?;
            // Other threads may be heard to end after the first one, which is the last to have done anything.
            let first = first_pid(path)?;
            let ended = |line: &str| {
                line.split_once(' ')
                    .is_some_and(|(pid, rest)| pid == first && rest.trim() == "+++ exited with 0 +++")
            };
            Ok(text.lines().any(ended))
        })?;
        ensure!(whole, "{}: strace never ended it", path.display());
        Ok(())
    }

    /// What was done, and the line after each process's last.
    fn steps(&self) -> Result<(Recorder, Vec<usize>)> {
        let (mut recorder, mut first, mut ends) = (Recorder::new(&self.disk, umask()?), 1, Vec::new());
        for path in &self.traces {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let calls = trace::parse(&text, first).with_context(|| path.display().to_string())?;
            recorder.process(&calls).with_context(|| path.display().to_string())?;
            first += text.lines().count();
            ends.push(first);
        }
        Ok((recorder, ends))
    }
}

/// The permissions that what we start takes away from what it makes.
fn umask() -> Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).context("no Umask")?;
    Ok(u32::from_str_radix(line.trim(), 8)?)
}

fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(4096)))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn first_pid(path: &Path) -> Result<String> {
    let mut head = [0; 16];
    let count = File::open(path)?.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..count]).split(' ').next().unwrap_or_default().to_string())
}

// ---- folders from disks ---------------------------------------------------------------------------

/// Makes `dir` as a disk has it.
fn materialize(nodes: &[disk::Node], dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    place(nodes, 0, dir)
}

fn place(nodes: &[disk::Node], inode: usize, path: &Path) -> Result<()> {
    let node = &nodes[inode];
    let permissions = fs::Permissions::from_mode(node.mode);
    match &node.body {
        Body::Link(target) => {
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path)?;
            return Ok(());
        }
        Body::Directory(names) => {
            fs::create_dir(path)?;
            for (name, inode) in names {
                place(nodes, *inode, &path.join(std::ffi::OsStr::from_bytes(name)))?;
            }
            fs::set_permissions(path, permissions)?;
        }
        Body::File(len, pages) => {
            let file = File::create(path)?;
            file.set_len(*len)?;
            for (page, data) in pages {
                let at = page * data.len() as u64;
                file.write_all_at(&data[..(len - at).min(data.len() as u64) as usize], at)?;
            }
            // The machine starts anew; here it only seems to.
            if path.ends_with("cache/running") && *len > 0 {
                fs::write(path, OTHER_BOOT)?;
            }
            file.set_permissions(permissions)?;
        }
    }
    if let Some((seconds, nanos)) = node.time
        && seconds >= 0
    {
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds as u64, nanos as u32);
        File::open(path)?.set_times(fs::FileTimes::new().set_modified(time))?;
    }
    Ok(())
}

/// Whether the recording is complete: all of it replayed is what lies in the real folder.
fn compare(nodes: &[disk::Node], inode: usize, path: &Path) -> Result<()> {
    let wrong = || format!("the recording is not complete: {}", path.display());
    let real = fs::symlink_metadata(path).with_context(wrong)?;
    let link = matches!(nodes[inode].body, Body::Link(_));
    let (mode, wanted) = (real.permissions().mode() & 0o7777, nodes[inode].mode);
    // The root was made before the recording began; a link's permissions are its system's.
    ensure!(link || inode == 0 || mode == wanted, "{}: mode {mode:o}, not {wanted:o}", wrong());
    if let (false, Some(wanted)) = (link, nodes[inode].time) {
        let time = (real.mtime(), real.mtime_nsec());
        ensure!(time == wanted, "{}: time {time:?}, not {wanted:?}", wrong());
    }
    match &nodes[inode].body {
        Body::Link(target) => {
            ensure!(fs::read_link(path)?.as_os_str().as_bytes() == target, wrong());
        }
        Body::Directory(names) => {
            let there = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
            let known = there.iter().all(|entry| names.contains_key(entry.file_name().as_bytes()));
            ensure!(known && there.len() == names.len(), wrong());
            for (name, inode) in names {
                compare(nodes, *inode, &path.join(std::ffi::OsStr::from_bytes(name)))?;
            }
        }
        // Written through its map; made anew at each start.
        Body::File(..) if path.ends_with("lock.mdb") => {}
        Body::File(len, pages) => {
            ensure!(real.len() == *len, wrong());
            let file = File::open(path)?;
            let mut buffer = [0; 4096];
            for (page, data) in pages {
                let at = page * 4096;
                let count = (len - at).min(4096) as usize;
                file.read_exact_at(&mut buffer[..count], at)?;
                ensure!(buffer[..count] == data[..count], "{} at {at}", wrong());
            }
            // And nothing is there that was not recorded.
            let mut at = 0;
            while let Ok(data) = lseek64(&file, at, Whence::SeekData) {
                let hole = lseek64(&file, data, Whence::SeekHole)?;
                for page in data as u64 / 4096..(hole as u64).div_ceil(4096) {
                    if !pages.contains_key(&page) {
                        let count = file.read_at(&mut buffer, page * 4096)?;
                        ensure!(buffer[..count].iter().all(|byte| *byte == 0), "{} page {page}", wrong());
                    }
                }
                at = hole;
            }
        }
    }
    Ok(())
}

// ---- moments --------------------------------------------------------------------------------------

/// When power is lost, and what becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    line: usize,
    policy: Policy,
}

/// The moments of a run: every acknowledgement and both sides of every sync, and `rounds` more at any line.
/// With fewer rounds than that, a sample of the former.
fn cuts(steps: &[Step], rounds: u64, most: usize, rng: &mut Rng) -> Vec<Cut> {
    let (mut said, mut synced) = (Vec::new(), Vec::new());
    for step in steps {
        match &step.effect {
            Effect::Said(_) if acknowledged(step) => {
                said.push(Cut { line: step.begin, policy: Policy::Lose })
            }
            _ if step.is_sync() => {
                let before = [Policy::Lose, Policy::Some, Policy::Tear, Policy::Names];
                synced.extend(before.map(|policy| Cut { line: step.end - 1, policy }));
                synced.push(Cut { line: step.end, policy: Policy::Lose });
            }
            _ => {}
        }
    }
    // Shares, not counts: a recording that is a little longer than another has nearly the same moments.
    while synced.len() > most {
        synced.remove((rng.fraction() * synced.len() as f64) as usize);
    }
    let (first, last) = match (steps.first(), steps.last()) {
        (Some(first), Some(last)) => (first.begin, last.begin),
        _ => return said,
    };
    let any = (0..rounds).map(|_| {
        let policy = [
            Policy::Lose,
            Policy::Some,
            Policy::Some,
            Policy::Tear,
            Policy::Tear,
            Policy::Names,
            Policy::Keep,
        ][rng.below(7) as usize];
        Cut { line: first + (rng.fraction() * (last - first + 1) as f64) as usize, policy }
    });
    let mut all: Vec<Cut> = said.into_iter().chain(synced).chain(any).collect();
    all.sort_by_key(|cut| cut.line);
    all
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The answer to a put, a get or a new friend.
fn acknowledged(step: &Step) -> bool {
    matches!(&step.effect, Effect::Said(bytes) if has(bytes, "{\"done\":") || has(bytes, "\"new\":true"))
}

/// What the daemon had told anybody by a line.
fn told_by(steps: &[Step], line: usize) -> impl Iterator<Item = &[u8]> {
    steps.iter().take_while(move |step| step.begin <= line).filter_map(|step| match &step.effect {
        Effect::Said(bytes) => Some(&bytes[..]),
        _ => None,
    })
}

/// Plays a recording to each cut and has it checked.
fn each_cut(
    run: &Run<'_>,
    recorded: &mut Recorded,
    part: &str,
    mut check: impl FnMut(&mut Recorded, &[Step], usize, &[usize]) -> Result<()>,
) -> Result<String> {
    let (recorder, ends) = recorded.steps()?;
    let steps = recorder.steps().to_vec();
    let mut player = Player::new(&steps);
    player.play(usize::MAX - 1);
    let whole = player.disk.cut(Policy::Keep, &mut run.rng("none", 0));
    compare(&whole, 0, &recorded.disk)?;
    let most = if run.quick { QUICK_SYNCS } else { usize::MAX };
    ensure!(steps.iter().any(acknowledged), "nothing that was said was recorded");
    let cuts = cuts(&steps, run.rounds, most, &mut run.rng(part, 0));
    let mut player = Player::new(&steps);
    let mut done = 0;
    for (number, cut) in cuts.iter().enumerate() {
        stop::check()?;
        player.play(cut.line);
        if run.at.as_ref().is_some_and(|at| *at != number.to_string()) {
            continue;
        }
        let found = player.disk.cut(cut.policy, &mut run.rng(part, 1 + number as u64));
        recorded.node.kill();
        materialize(&found, &recorded.disk)?;
        check(recorded, &steps, cut.line, &ends).with_context(|| {
            let again = run.again(part, Some(&number.to_string()), run.rounds);
            format!("{part} cut {number} (line {} of the recording, {:?}); {again}", cut.line, cut.policy)
        })?;
        done += 1;
    }
    ensure!(done > 0, "no moment {:?}: there are {}", run.at.as_deref().unwrap_or_default(), cuts.len());
    let count = |kind: fn(&Effect) -> bool| steps.iter().filter(|step| kind(&step.effect)).count();
    let syncs = steps.iter().filter(|step| step.is_sync()).count();
    let whole = count(|effect| matches!(effect, Effect::SyncAll));
    Ok(format!("{done} moments of {} steps with {syncs} syncs, {whole} of them of all files", steps.len()))
}

/// Whether a new friend had been acknowledged by a line.
fn has_friend(steps: &[Step], line: usize) -> bool {
    told_by(steps, line).any(|told| has(told, "\"new\":true"))
}

/// Whether the daemon still has the friend that it had acknowledged; makes it one where it had not yet.
fn befriended(node: &Node, peer: &Node, acknowledged: bool) -> Result<()> {
    if !acknowledged {
        node.befriend(peer)?;
    }
    // The peer was told nothing anew, and whoever calls may be a stranger: what counts is what the daemon says.
    node.meets(peer).context(if acknowledged {
        "the friend that was acknowledged is not one any more"
    } else {
        "the new friend is not met"
    })
}

/// Starts a node in what was left of its folder. `false`: it had not been made yet, and says so.
fn revive(node: &mut Node, made: bool, identity: &str) -> Result<bool> {
    if !made {
        let attempt = node.start();
        if attempt.is_ok() {
            return Ok(true);
        }
        node.kill();
        one_line(&node.attempt(&["run"], node::PROMPT)?).context("a folder half made")?;
        return Ok(false);
    }
    node.start().context("the daemon does not start after the power loss")?;
    let now = node.status()?["key"].to_string();
    ensure!(now == identity, "it is another node now: {now}, not {identity}");
    Ok(true)
}

// ---- the publisher --------------------------------------------------------------------------------

/// The part: power loss of a publisher.
pub fn publisher(run: &mut Run<'_>) -> Result<String> {
    let mut a = Recorded::new(run, run.lab.a(), "a", 4001)?;
    let mut b = Node::new(&run.lab, run.lab.b(), "b", run.binary, 4002, run.lab.dir().join("node-b"));
    b.init()?;
    b.start()?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 1))?;
    a.init(&run.lab)?;
    a.start(&run.lab)?;
    let identity = a.node.status()?["key"].to_string();
    a.node.befriend(&b)?;
    b.befriend(&a.node)?;
    let mut puts = Vec::new();
    for number in 0..4 {
        if number == 2 {
            a.stop()?;
            a.start(&run.lab)?;
        }
        if number > 0 {
            content.edit(&mut run.rng("edit", number))?;
        }
        let (_, reference) = a.node.put(&content.dir)?;
        puts.push(Acknowledged { reference, manifest: content.manifest()? });
    }
    a.stop()?;
    let lab = &run.lab;
    let (mut friends, mut references) = (0, 0);
    let done = each_cut(run, &mut a, "power-put", |a, steps, line, ends| {
        let node = &mut a.node;
        if !revive(node, line >= ends[0], &identity)? {
            return Ok(());
        }
        let known = has_friend(steps, line);
        befriended(node, &b, known)?;
        friends += u64::from(known);
        for put in &puts {
            if told_by(steps, line).any(|told| has(told, &put.reference)) {
                put.check(&b, lab)?;
                references += 1;
            }
        }
        // And what lies there can be built upon.
        let (_, reference) = node.put(&content.dir).context("the next put")?;
        Acknowledged { reference, manifest: content.manifest()? }.check(&b, lab).context("the next put")
    })?;
    let one = run.at.is_some();
    ensure!(one || friends > 0 && references > 0, "nothing had been acknowledged at any moment");
    Ok(format!("{done}; {references} references got whole, the friend was known {friends} times"))
}

// ---- the getter -----------------------------------------------------------------------------------

/// The part: power loss of a getter.
pub fn getter(run: &mut Run<'_>) -> Result<String> {
    let mut a = Node::new(&run.lab, run.lab.a(), "a", run.binary, 4001, run.lab.dir().join("node-a"));
    let mut b = Recorded::new(run, run.lab.b(), "b", 4002)?;
    a.init()?;
    a.start()?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 1))?;
    let (_, reference) = a.put(&content.dir)?;
    let manifest = content.manifest()?;
    b.init(&run.lab)?;
    b.start(&run.lab)?;
    let identity = b.node.status()?["key"].to_string();
    b.node.befriend(&a)?;
    a.befriend(&b.node)?;
    b.node.meets(&a)?;
    let out = b.disk.join("out");
    let words = ["get", &reference, "-o", node::text(&out)?];
    run.lab.limit(RATE)?;
    let before = received(&b.node.host)?;
    let mut get = b.node.launch(&words)?;
    let half = before + content.bytes()? / 2;
    let reached = stop::until(node::PATIENT, || Ok(received(&b.node.host)? >= half || get.ended()?))?;
    ensure!(reached, "the get neither went on nor ended");
    get.signal(Signal::SIGINT)?;
    ensure!(!get.wait(node::PROMPT)?.success(), "the get was over before it was interrupted");
    run.lab.unlimit()?;
    b.node.get(&reference, &out)?;
    content::is(&out, &manifest)?;
    b.stop()?;
    let (mut friends, mut part, mut whole) = (0, 0, 0);
    let done = each_cut(run, &mut b, "power-get", |b, steps, line, ends| {
        let finals = content::finals(&out, &manifest)?;
        ensure!(finals.wrong.is_empty(), "wrong under its final name: {}", finals.wrong.join("; "));
        if told_by(steps, line).any(|told| has(told, "{\"done\":")) {
            content::is(&out, &manifest).context("it had said that it was complete")?;
            whole += 1;
        } else {
            part += u64::from(finals.right > 0);
        }
        if !revive(&mut b.node, line >= ends[0], &identity)? {
            return Ok(());
        }
        let known = has_friend(steps, line);
        befriended(&b.node, &a, known)?;
        friends += u64::from(known);
        b.node.get(&reference, &out).context("the same get again")?;
        content::is(&out, &manifest).context("after the same get again")
    })?;
    ensure!(run.at.is_some() || friends > 0 && whole > 0, "nothing had been acknowledged at any moment");
    Ok(format!(
        "{done}; {whole} complete outputs and {part} in the making were right, the friend was known {friends} times"
    ))
}

//! kill -9 at seeded moments of `put` and of `get`. A moment is a share of the bytes that the put reads and
//! writes, or that the get receives, so that it means the same on any machine.
//!
//! Slack, by the bounds in `src/limits.rs`. What a killed life of a `get` may have received in vain: what one
//! peer is asked for ahead (256 slices), and as much again that waits for the file thread (256 operations):
//! [`LOST`]. What the last life may receive besides what the journal did not vouch for: [`AGAIN`].

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::content::{self, Content, Shape};
use super::{Run, again, journal, rng::Rng};
use crate::args::show_size;
use crate::e2e::complains;
use crate::lab::{Host, Lab, Node, Process, node};
use crate::stop;

const MIB: u64 = 1 << 20;
/// From so many rounds on each kind of outcome has to occur.
const ROUNDS_TELLING: u64 = 4;
const SHAPE: Shape = Shape { large: 24 * MIB, small: 2000, small_max: 8 << 10 };
/// Slow enough to hit any part of a `get`, whatever the machine.
const RATE: &str = "400mbit";
/// Bytes that one killed life may have received in vain: 2 × 256 slices of 64 KiB.
const LOST: u64 = 32 * MIB;
/// Bytes that a last life may receive for nothing new: the tree's directories and extent lists, handshakes,
/// and slices of small files of which the journal had a part.
const AGAIN: u64 = 3 * MIB;

/// Bytes that a host received on its links; quick enough to be asked a thousand times per second.
pub(super) fn received(host: &Host) -> Result<u64> {
    let table = host.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
    // Behind two lines of titles, a line per device: its name, then bytes first.
    let devices = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    let links: Vec<&str> =
        devices.filter(|(name, _)| name.trim() != "lo").map(|(_, counts)| counts).collect();
    ensure!(!links.is_empty(), "no link in {table:?}");
    let bytes = |counts: &&str| counts.split_whitespace().next()?.parse::<u64>().ok();
    links.iter().map(bytes).sum::<Option<u64>>().with_context(|| format!("no counts in {table:?}"))
}

/// Bytes that a process has read and written so far, by whatever call; the last known once it is gone.
fn moved(pid: u32, last: u64) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = |name| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    field("rchar:").zip(field("wchar:")).map_or(last, |(read, written)| read + written)
}

/// Starts whichever daemon is down, and waits until the two have met.
pub(super) fn up(a: &mut Node, b: &mut Node) -> Result<()> {
    for node in [&mut *a, &mut *b] {
        if !node.runs()? {
            node.kill();
            node.start().with_context(|| format!("{} after its death", node.name))?;
        }
    }
    b.meets(a)
}

/// Something that was acknowledged.
pub(super) struct Acknowledged {
    /// What `put` printed.
    pub reference: String,
    /// What had been put.
    pub manifest: String,
}

impl Acknowledged {
    /// A peer gets all of it, into a new place that is removed.
    pub fn check(&self, peer: &Node, lab: &Lab) -> Result<()> {
        let out = lab.dir().join("check");
        let got = peer.get(&self.reference, &out).and_then(|_| content::is(&out, &self.manifest));
        got.with_context(|| format!("what was acknowledged as {} is lost", &self.reference[..24]))?;
        std::fs::remove_dir_all(&out).map_err(Into::into)
    }
}

/// A `put` that is over: what it acknowledged, if it did.
pub(super) fn outcome(put: &mut Process, manifest: &str) -> Result<Option<Acknowledged>> {
    if !put.wait(node::PATIENT)?.success() {
        complains(&put.stderr())?;
        return Ok(None);
    }
    let reference = put.stdout().lines().last().unwrap_or_default().to_string();
    ensure!(reference.starts_with("tornet:"), "put succeeded and printed {reference:?}");
    Ok(Some(Acknowledged { reference, manifest: manifest.to_string() }))
}

// ---- put ------------------------------------------------------------------------------------------

/// The part: kills during `put`.
pub fn put(run: &mut Run<'_>) -> Result<String> {
    let (mut a, mut b) = node::pair(&run.lab, run.binary)?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 0))?;
    let mut acknowledged = Vec::new();
    let (mut deaths, mut cut, mut printed) = (0, 0, 0);
    for round in 1..=run.rounds {
        stop::check()?;
        let before = acknowledged.len();
        let mut rng = run.rng("kill-put", round);
        // However few the rounds: a daemon dies in the first.
        let daemon = round == 1;
        let done = put_round(&run.lab, (&mut a, &mut b), &content, &mut acknowledged, (&mut rng, daemon));
        let done = again(done, "kill-put", run, round)?;
        deaths += done.deaths;
        match done.printed {
            true => printed += 1,
            false => cut += 1,
        }
        ensure!(acknowledged.len() > before, "a round that acknowledged nothing");
    }
    for (number, one) in acknowledged.iter().enumerate() {
        let checked = one.check(&b, &run.lab).with_context(|| format!("at the end, reference {number}"));
        again(checked, "kill-put", run, run.rounds)?;
    }
    let references = acknowledged.len();
    ensure!(deaths > 0, "nothing died in {} rounds", run.rounds);
    ensure!(cut > 0 || run.rounds < ROUNDS_TELLING, "every put had been acknowledged before the kill");
    Ok(format!(
        "{deaths} deaths; {cut} puts cut off, {printed} killed once acknowledged; {references} references got whole"
    ))
}

/// What a killed put came to.
struct Put {
    deaths: u64,
    /// It had been acknowledged.
    printed: bool,
}

/// One put that is killed, a restart, the check of what was acknowledged, and the same put again.
fn put_round(
    lab: &Lab,
    (a, b): (&mut Node, &mut Node),
    content: &Content,
    acknowledged: &mut Vec<Acknowledged>,
    (rng, daemon): (&mut Rng, bool),
) -> Result<Put> {
    content.edit(rng)?;
    let manifest = content.manifest()?;
    // All is read; what is new is written. Beyond the end, so that the acknowledgement is met too.
    let moment = (rng.fraction() * 1.25 * content.bytes()? as f64) as u64;
    let pid = a.daemon()?.pid();
    let base = moved(pid, 0);
    let mut put = a.launch(&["put", node::text(&content.dir)?])?;
    let mut last = base;
    let reached = stop::until(node::PATIENT, || {
        last = moved(pid, last);
        Ok(last - base >= moment || put.ended()?)
    })?;
    ensure!(reached, "put neither went on nor ended");
    let who = match rng.below(10) {
        _ if daemon => "the daemon",
        0..=5 => "the daemon",
        6..=8 => "put",
        _ => "both",
    };
    let mut deaths = 0;
    if who != "put" {
        deaths += u64::from(a.runs()?);
        a.kill();
    }
    if who != "the daemon" && !put.ended()? {
        put.signal(nix::sys::signal::Signal::SIGKILL)?;
        deaths += 1;
    }
    // A command line that was killed itself has nothing to say.
    let killed = who != "the daemon" && !put.wait(node::PROMPT)?.success();
    let known = if killed { None } else { outcome(&mut put, &manifest)? };
    let printed = known.is_some();
    acknowledged.extend(known);
    drop(put);
    up(a, b)?;
    let context = || format!("{who} killed after {} of the put", show_size(last - base));
    if let Some(latest) = acknowledged.last() {
        latest.check(b, lab).with_context(context)?;
        acknowledged[rng.below(acknowledged.len() as u64) as usize].check(b, lab).with_context(context)?;
    }
    let (_, reference) = a.put(&content.dir).with_context(context)?;
    acknowledged.push(Acknowledged { reference, manifest });
    if rng.chance(30) {
        acknowledged.last().expect("just pushed").check(b, lab).with_context(context)?;
    }
    Ok(Put { deaths, printed })
}

// ---- get ------------------------------------------------------------------------------------------

/// What a killed and resumed `get` came to.
struct Got {
    deaths: u64,
    /// Bytes received in all, over what an uninterrupted get costs.
    over: u64,
    /// Bytes that the last life received beyond what its journal left to fetch, if that can be told.
    last_over: Option<u64>,
    resumed: u64,
}

/// The part: kills during `get`.
pub fn get(run: &mut Run<'_>) -> Result<String> {
    let (mut a, mut b) = node::pair(&run.lab, run.binary)?;
    let content = Content::make(run.lab.dir().join("tree"), SHAPE, &mut run.rng("tree", 0))?;
    let (mut deaths, mut over, mut last_over, mut resumed) = (0, 0, None, 0);
    for round in 1..=run.rounds {
        stop::check()?;
        let mut rng = run.rng("kill-get", round);
        if round > 1 {
            content.edit(&mut rng)?;
        }
        let (_, reference) = a.put(&content.dir)?;
        let one = Get { out: run.lab.dir().join("out"), manifest: content.manifest()?, reference };
        let whole = again(one.uninterrupted((&a, &b), &run.lab), "kill-get", run, round)?;
        run.lab.limit(RATE)?;
        let got = one.round((&mut a, &mut b), whole, (&mut rng, round == 1));
        let got = again(got, "kill-get", run, round)?;
        run.lab.unlimit()?;
        deaths += got.deaths;
        over = over.max(got.over);
        last_over = last_over.max(got.last_over);
        resumed += u64::from(got.resumed > 0);
        std::fs::remove_dir_all(&one.out)?;
    }
    ensure!(deaths > 0, "nothing died in {} rounds", run.rounds);
    let told = resumed > 0 && last_over.is_some();
    ensure!(told || run.rounds < ROUNDS_TELLING, "no get was resumed, so that nothing was shown of it");
    Ok(format!(
        "{deaths} deaths in {} gets, {resumed} resumed; most received above an uninterrupted get: {} in all, {} in a last life",
        run.rounds,
        show_size(over),
        last_over.map_or("none measured".into(), show_size),
    ))
}

struct Get {
    out: PathBuf,
    manifest: String,
    reference: String,
}

impl Get {
    fn launch(&self, b: &Node) -> Result<Process> {
        b.launch(&["get", &self.reference, "-o", node::text(&self.out)?])
    }

    /// Nothing under a final name is wrong; the bytes of what is right.
    fn finals(&self) -> Result<u64> {
        let finals = content::finals(&self.out, &self.manifest)?;
        ensure!(finals.wrong.is_empty(), "wrong under its final name: {}", finals.wrong.join("; "));
        Ok(finals.bytes)
    }

    /// Bytes on the wire of the same get, elsewhere and left alone: slices come whole, and in those of a tree that
    /// was edited often lie files that nobody wants any more.
    fn uninterrupted(&self, (a, b): (&Node, &Node), lab: &Lab) -> Result<u64> {
        b.meets(a)?;
        let (before, out) = (received(&b.host)?, lab.dir().join("whole"));
        b.get(&self.reference, &out)?;
        std::fs::remove_dir_all(&out)?;
        Ok(received(&b.host)? - before)
    }

    /// One to three kills, then to the end; `whole` is what the get costs when it is left alone. `daemon`: the first
    /// to die is the daemon that gets.
    fn round(
        &self,
        (a, b): (&mut Node, &mut Node),
        whole: u64,
        (rng, daemon): (&mut Rng, bool),
    ) -> Result<Got> {
        b.meets(a)?;
        let start = received(&b.host)?;
        let kills = 1 + rng.below(3);
        let mut get = self.launch(b)?;
        // What the journal vouched for when the last life began, and what had been received by then.
        let (mut last, mut story, mut deaths) = (None, Vec::new(), 0);
        for kill in 1..=kills {
            let begin = received(&b.host)? - start;
            let moment = begin + (rng.fraction() * 1.02 * whole.saturating_sub(begin) as f64) as u64;
            let reached =
                stop::until(node::PATIENT, || Ok(received(&b.host)? - start >= moment || get.ended()?))?;
            ensure!(reached, "the get before kill {kill} neither went on nor ended");
            let who = ["b", "b", "b", "a", "a", "get", "get", "both"][rng.below(8) as usize];
            let who = if daemon && kill == 1 { "b" } else { who };
            let context = format!("kill {kill} of {kills}: {who}, {} received", show_size(moment));
            story.push(context.clone());
            deaths += self.kill(who, (a, b), &mut get).with_context(|| context.clone())?;
            let finals = self.finals().with_context(|| context.clone())?;
            up(a, b).with_context(|| context.clone())?;
            if get.ended()? {
                let vouched = finals + journal::unfinished_bytes(&b.dir.join("gets"))?;
                last = Some((vouched, received(&b.host)?));
                get = self.launch(b)?;
            } else {
                last = None;
            }
        }
        let resumed = self.finish(b, get)?;
        content::is(&self.out, &self.manifest)?;
        let total = received(&b.host)? - start;
        let most = whole + kills * LOST + AGAIN;
        ensure!(total <= most, "{} received for {}", show_size(total), show_size(whole));
        let last_over = match last {
            None => None,
            Some((vouched, at)) => {
                let (fetched, left) = (received(&b.host)? - at, whole.saturating_sub(vouched));
                let over = fetched.saturating_sub(left);
                let (got, there) = (show_size(fetched), show_size(vouched));
                ensure!(
                    over <= AGAIN,
                    "{got} received after the last of {story:?}, with {there} of {} there",
                    show_size(whole)
                );
                Some(over)
            }
        };
        Ok(Got { deaths, over: total.saturating_sub(whole), last_over, resumed })
    }

    /// How many died by it.
    fn kill(&self, who: &str, (a, b): (&mut Node, &mut Node), get: &mut Process) -> Result<u64> {
        let mut deaths = 0;
        let mut end = |node: &mut Node| -> Result<()> {
            deaths += u64::from(node.runs()?);
            node.kill();
            Ok(())
        };
        match who {
            // It goes on by itself once the sender is back.
            "a" => end(a)?,
            "get" => {
                if !get.ended()? {
                    get.signal(nix::sys::signal::Signal::SIGKILL)?;
                    deaths += 1;
                }
                get.wait(node::PROMPT)?;
            }
            _ => {
                end(b)?;
                if who == "both" {
                    end(a)?;
                }
                if !get.wait(node::PROMPT)?.success() {
                    complains(&get.stderr())?;
                }
            }
        }
        Ok(deaths)
    }

    /// To the end; started again while the daemon has not noticed yet that its asker is gone. Bytes resumed, or
    /// at least one if any.
    fn finish(&self, b: &Node, mut get: Process) -> Result<u64> {
        for _ in 0..100 {
            if get.wait(node::PATIENT)?.success() {
                return Ok(u64::from(get.stderr().contains("were here already")));
            }
            let line = complains(&get.stderr())?;
            if !line.contains("already running") {
                bail!("get after a kill: {line}");
            }
            get = self.launch(b)?;
        }
        bail!("the daemon never noticed that the killed get is gone");
    }
}

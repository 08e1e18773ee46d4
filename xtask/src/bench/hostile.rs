//! `cargo xtask bench hostile`: a node that is pelted with datagrams that mean harm, beside a receiver that
//! throws the same datagrams away (docs/testing/hostile.md).
//!
//! The victim is host A of a lab and its friend is host B. The attacker sits in a third namespace behind a
//! link of its own, so that whatever arrives there is something that the victim said to a stranger.

mod measure;
mod outside;
mod row;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::measure::{Cpu, parse_snmp};
use self::outside::{HERE, Outside, received_packets};
use self::row::{Cost, Row};
use crate::able::{self, NAMESPACES};
use crate::args::Args;
use crate::lab::node::{PROMPT, text};
use crate::lab::{Lab, Node, Process, Wiring, files, node, scratch};
use crate::{setup, sh, stop};

/// What strangers can send.
const STRANGERS: &[&str] =
    &["random", "truncated", "replayed", "empty", "flipped", "shaped", "replayed-init"];
/// Of those, what has a handshake's shape.
const SHAPED: &[&str] = &["flipped", "shaped", "replayed-init"];
/// What takes knowledge of the victim's identity: an entrance that is right and opens nothing, and
/// handshakes without a fault.
const KNOWING: &[&str] = &["sealed", "genuine"];

/// Growth of the victim's anonymous memory under the flood, after a first one, bytes.
const GROWTH_MAX: u64 = 8 << 20;
/// The same with a transfer, which touches packet buffers for the first time: 256 to receive, 64 to send, 68 KiB
/// each, allocated once for the daemon's life.
const TRANSFER_GROWTH_MAX: u64 = GROWTH_MAX + (256 + 64) * (68 << 10);
/// What the victim counts when it refuses a datagram (`tornet status --json`).
const REFUSALS: &[&str] = &[
    "session_strangers",
    "session_forged",
    "session_replayed",
    "session_malformed",
    "session_skewed",
    "session_refused",
    "session_rate_limited",
    "session_full",
    "session_late",
];
/// And when it takes a first flight for what it is.
const HANDSHAKES: &str = "session_handshakes_in";
const VICTIM_PORT: u16 = 4001;
const BARE_PORT: u16 = 4999;
const SOURCES_FEW: u32 = 4;
const SOURCES_MANY: u32 = 512;

/// How long and how hard.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Datagrams per second.
    pub rate: u64,
    /// Of flood at the victim and at the bare receiver, each, per mixture.
    pub flood: Duration,
    /// Times that victim and bare receiver take turns in it.
    pub rounds: u32,
    /// The file that the friend fetches meanwhile, bytes.
    pub file: u64,
    /// Whether figures above the bounds are an error; on a busy machine they mean nothing.
    pub judge: bool,
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let rate = args.number("--rate", 100_000)?;
    let seconds = args.number("--seconds", 30)?;
    let rounds = args.number("--rounds", 3)?.clamp(1, 10) as u32;
    let judge = !args.flag("--no-judge");
    let only = args.value("--kinds")?;
    let binary = args.value("--binary")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    ensure!(rate > 0 && seconds > 0, "--rate and --seconds: at least 1");
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    let machine = super::machine::describe();
    println!("{}", super::machine::line(&machine));
    let plan = Plan { rate, flood: Duration::from_secs(seconds), rounds, file: 256 << 20, judge };
    let mut lab = Lab::new(Wiring::Namespaces, &scratch())?;
    let tool = tool.map_or_else(|| sh::build_example("hostile"), Ok)?;
    compete(&mut lab, &binary, &tool, &plan, only.as_deref())
}

/// All of it, in a lab.
pub fn run(lab: &mut Lab, binary: &Path, plan: &Plan) -> Result<()> {
    compete(lab, binary, &sh::build_example("hostile")?, plan, None)
}

fn compete(lab: &mut Lab, binary: &Path, tool: &Path, plan: &Plan, only: Option<&str>) -> Result<()> {
    able::ensure(&[NAMESPACES])?;
    let mut scene = Scene::new(lab, binary, tool, plan)?;
    println!(
        "{} datagrams per second; CPU time of the process per datagram that it took from its socket\n",
        plan.rate
    );
    println!(
        "{:<28} {:>8} {:>8} {:>6} {:>9} {:>9} {:>6} {:>9} {:>8} {:>8} {:>10}",
        "kinds, sources",
        "sent/s",
        "taken/s",
        "share",
        "bare ns",
        "victim ns",
        "ratio",
        "lost bare",
        "lost",
        "answers",
        "handshakes"
    );
    let mut faults = Vec::new();
    if let Some(only) = only {
        let kinds: Vec<&str> = only.split(',').collect();
        for sources in [SOURCES_FEW, SOURCES_MANY] {
            let row = scene.compare(&kinds, sources)?;
            row.print();
            // These need not be of a mixture that is answered: how many answers are bounded, and what each costs.
            let shaped = kinds.iter().any(|kind| SHAPED.contains(kind) || KNOWING.contains(kind));
            row.void(plan)?;
            row.costs(shaped, plan, &mut faults);
            ensure!(row.answers as f64 <= row.answers_max(plan), "{}: {} answers", row.name, row.answers);
        }
        scene.victim_is_well()?;
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        return Ok(());
    }
    // Strangers first: to those who know the identity the victim speaks, and goes on for a while.
    let strangers: &[(&[&str], u32)] =
        &[(STRANGERS, SOURCES_FEW), (STRANGERS, SOURCES_MANY), (SHAPED, SOURCES_MANY)];
    let knowing: &[(&[&str], u32)] = &[(KNOWING, SOURCES_FEW), (KNOWING, SOURCES_MANY)];
    for floods in [strangers, knowing] {
        // Once unmeasured: buffers, tables and the allocator reach their size.
        scene.flood_victim(floods[0].0, SOURCES_MANY, Duration::from_secs(2))?;
        let before = scene.victim_memory()?;
        for (kinds, sources) in floods {
            let row = scene.compare(kinds, *sources)?;
            row.print();
            row.judge(*kinds != STRANGERS, *kinds == KNOWING, plan, &mut faults)?;
        }
        scene.has_not_grown(before, GROWTH_MAX)?;
    }
    scene.transfer_beside(&[STRANGERS, KNOWING].concat(), plan)?;
    scene.victim_is_well()?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

struct Scene<'a> {
    plan: &'a Plan,
    lab: &'a Lab,
    tool: &'a Path,
    outside: Outside,
    victim: Node,
    friend: Node,
    invite: String,
    captured: PathBuf,
    cores: usize,
    /// Floods so far: each has randomness of its own, lest its handshakes be known from the one before.
    floods: Cell<u64>,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, binary: &Path, tool: &'a Path, plan: &'a Plan) -> Result<Scene<'a>> {
        let outside = Outside::new(lab)?;
        // Segmented by the kernel before the device, so that what is captured is what a wire carries.
        lab.offloads(false)?;
        let captured = lab.dir().join("captured");
        let mut command = lab.a().command(tool);
        command.args(["capture", text(&captured)?, &VICTIM_PORT.to_string()]);
        let mut tap = Process::start("capture", lab.dir(), &mut command)?;
        tap.wait_line("ready", PROMPT)?;
        let (victim, mut friend) = node::pair(lab, binary)?;
        // A handshake of the friend's, and then, in that session, which lives on: requests, acknowledgements
        // and data, since files go both ways.
        friend.stop(nix::sys::signal::Signal::SIGTERM)?;
        friend.start()?;
        friend.meets(&victim)?;
        let input = lab.dir().join("small");
        files::random(&input, 2 << 20)?;
        for (from, to) in [(&victim, &friend), (&friend, &victim)] {
            let (_, reference) = from.put(&input)?;
            to.get(&reference, &lab.dir().join(format!("small-at-{}", to.name)))?;
        }
        tap.kill();
        lab.offloads(true)?;
        let invite = victim.invite()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let floods = Cell::new(0);
        Ok(Scene { plan, lab, tool, outside, victim, friend, invite, captured, cores, floods })
    }

    /// Where the victim's shard runs (its port says), and where the attacker must not.
    fn victim_core(&self) -> usize {
        usize::from(VICTIM_PORT) % self.cores
    }

    fn sender(&self, port: u16, kinds: &[&str], sources: u32, length: Duration) -> Result<Process> {
        let core = (self.victim_core() + 1) % self.cores;
        let mut command = self.outside.command(self.tool);
        command.args(["send", &format!("{HERE}:{port}"), &core.to_string(), &self.plan.rate.to_string()]);
        command.args([&length.as_millis().to_string(), &sources.to_string(), text(&self.captured)?]);
        self.floods.set(self.floods.get() + 1);
        command.args([&self.floods.get().to_string(), &self.invite, "tornet"]).args(kinds);
        Process::start("attacker", self.lab.dir(), &mut command)
    }

    /// Sends one flood to its end, measuring what `pid` uses meanwhile.
    fn flood(&self, port: u16, pid: u32, kinds: &[&str], sources: u32, length: Duration) -> Result<Cost> {
        let mut sender = self.sender(port, kinds, sources, length)?;
        let (udp, cpu) = (self.udp()?, Cpu::of(pid)?);
        let status = sender.wait(length + PROMPT)?;
        ensure!(status.success(), "the attacker: {status}\n{}", sender.stderr());
        let (ns, after) = (Cpu::of(pid)?.since(&cpu), self.udp()?);
        let sent = sender.stdout().trim().parse().context("how much the attacker sent")?;
        Ok(Cost { sent, taken: after.0 - udp.0, lost: after.1 - udp.1, ns: ns as f64 })
    }

    fn flood_victim(&mut self, kinds: &[&str], sources: u32, length: Duration) -> Result<Cost> {
        let pid = self.victim.daemon()?.pid();
        // What it does anyway, for as long as a flood takes with making its datagrams.
        let (began, cpu) = (Instant::now(), Cpu::of(pid)?);
        pause(Duration::from_secs(1).min(length))?;
        let idle = Cpu::of(pid)?.since(&cpu) as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        let cost = self.flood(VICTIM_PORT, pid, kinds, sources, length)?;
        let idle = idle * began.elapsed().as_secs_f64();
        Ok(Cost { ns: (cost.ns - idle).max(0.0), ..cost })
    }

    fn flood_bare(&self, kinds: &[&str], sources: u32, length: Duration) -> Result<Cost> {
        let mut command = self.lab.a().command(self.tool);
        command.args(["receive", &format!("{HERE}:{BARE_PORT}"), &self.victim_core().to_string()]);
        let mut bare = Process::start("bare", self.lab.dir(), &mut command)?;
        bare.wait_line("ready", PROMPT)?;
        // Its buffers are touched for the first time, as the victim's were.
        self.flood(BARE_PORT, bare.pid(), kinds, sources, Duration::from_millis(300))?;
        self.flood(BARE_PORT, bare.pid(), kinds, sources, length)
    }

    /// The same flood at a bare receiver and at the victim, in turns.
    fn compare(&mut self, kinds: &[&str], sources: u32) -> Result<Row> {
        let each = self.plan.flood / self.plan.rounds;
        let (mut bare, mut victim) = (Cost::default(), Cost::default());
        let (heard, taken) = (self.outside.heard()?, self.counted(&[HANDSHAKES])?);
        for _ in 0..self.plan.rounds {
            for (total, cost) in [
                (&mut bare, self.flood_bare(kinds, sources, each)?),
                (&mut victim, self.flood_victim(kinds, sources, each)?),
            ] {
                total.sent += cost.sent;
                total.taken += cost.taken;
                total.lost += cost.lost;
                total.ns += cost.ns;
            }
        }
        let answers = self.outside.heard()? - heard;
        let handshakes = self.counted(&[HANDSHAKES])? - taken;
        let seconds = (each * self.plan.rounds).as_secs_f64();
        let names = match kinds {
            STRANGERS => "all of strangers".to_string(),
            SHAPED => "handshakes of strangers".to_string(),
            KNOWING => "identity known".to_string(),
            _ => kinds.join(","),
        };
        Ok(Row { name: format!("{names}, {sources}"), seconds, bare, victim, answers, handshakes })
    }

    /// A friend fetches a file while the flood goes on, from its beginning to its end.
    fn transfer_beside(&mut self, kinds: &[&str], plan: &Plan) -> Result<()> {
        let input = self.lab.dir().join("input");
        files::random(&input, plan.file)?;
        let (_, reference) = self.victim.put(&input)?;
        // After the put, whose workers leave tens of MiB to the allocator: that is no memory of the flood's.
        let memory = self.victim_memory()?;
        // What the friend sends comes over another link: these are the attacker's alone.
        let arrived = || received_packets(self.lab.a().namespace());
        let heard = arrived()?;
        // Longer than the transfer takes; ended when that is done.
        let mut sender = self.sender(VICTIM_PORT, kinds, SOURCES_MANY, node::PATIENT)?;
        let flooding = stop::until(PROMPT, || Ok(arrived()? > heard + plan.rate / 10))?;
        ensure!(flooding, "the flood did not begin: {}", sender.stderr());
        let out = self.lab.dir().join("output");
        let before = (arrived()?, self.counted(REFUSALS)?);
        let done = self.friend.get(&reference, &out)?;
        let (crossed, refused) = (arrived()? - before.0, self.counted(REFUSALS)? - before.1);
        ensure!(!sender.ended()?, "void: the flood ended before the transfer: {}", sender.stderr());
        ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file that came is another");
        let seconds = done.took.as_secs_f64();
        println!(
            "beside a flood: {} in {seconds:.2} s, and right; {crossed} hostile datagrams came meanwhile, {refused} of \
             which the victim looked at",
            crate::args::show_size(plan.file)
        );
        ensure!(crossed > 0 && refused > 0, "void: no flood beside the transfer");
        sender.kill();
        self.has_not_grown(memory, TRANSFER_GROWTH_MAX)
    }

    /// The sum of some of the victim's own counts.
    fn counted(&self, names: &[&str]) -> Result<u64> {
        let status = self.victim.status()?;
        let count = |name: &&str| {
            status["counters"][*name].as_u64().with_context(|| format!("status --json has no counter {name}"))
        };
        names.iter().map(count).sum()
    }

    /// Datagrams that sockets of the victim's host gave to programs, and that found no room.
    fn udp(&self) -> Result<(u64, u64)> {
        let words = ["netns", "exec", self.lab.a().namespace(), "cat", "/proc/net/snmp"];
        parse_snmp(&sh::words("ip", &words)?)
    }

    fn victim_memory(&mut self) -> Result<u64> {
        self.victim.daemon()?.anonymous_memory()
    }

    fn has_not_grown(&mut self, before: u64, most: u64) -> Result<()> {
        let after = self.victim_memory()?;
        println!("anonymous memory: {} KiB, then {} KiB", before >> 10, after >> 10);
        ensure!(
            after.saturating_sub(before) <= most,
            "the victim's memory grew from {before} to {after} bytes"
        );
        Ok(())
    }

    fn victim_is_well(&mut self) -> Result<()> {
        let daemon = self.victim.daemon()?;
        ensure!(!daemon.ended()?, "the victim is gone:\n{}", daemon.stderr());
        ensure!(!daemon.stderr().contains("panicked"), "the victim panicked:\n{}", daemon.stderr());
        self.victim.status().map(drop)
    }
}

/// Lets time pass; an error when asked to end.
fn pause(length: Duration) -> Result<()> {
    stop::until(length, || Ok(false)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_that_are_answered_and_dear_datagrams_are_faults() {
        let plan = Plan { rate: 1000, flood: Duration::from_secs(1), rounds: 1, file: 0, judge: true };
        let cost = |ns| Cost { sent: 1000, taken: 1000, lost: 0, ns };
        let row = |victim, answers| Row {
            name: "x".into(),
            seconds: 1.0,
            bare: cost(1e6),
            victim: cost(victim),
            answers,
            handshakes: answers,
        };
        let judged = |row: Row, shaped, knowing| {
            let mut faults = Vec::new();
            row.judge(shaped, knowing, &plan, &mut faults).map(|()| faults.len())
        };
        assert_eq!(judged(row(1.4e6, 0), false, false).unwrap(), 0);
        assert_eq!(judged(row(1.6e6, 0), false, false).unwrap(), 1);
        assert_eq!(judged(row(2.4e6, 0), true, false).unwrap(), 0);
        assert_eq!(judged(row(2.6e6, 0), true, false).unwrap(), 1);
        assert!(judged(row(1e6, 1), false, false).is_err());
        assert_eq!(judged(row(1e6, 1000), true, true).unwrap(), 0);
        assert!(judged(row(1e6, 40_000), true, true).is_err());
    }

    #[test]
    fn a_row_in_which_little_happened_is_void() {
        let busy = Plan { rate: 1000, flood: Duration::from_secs(1), rounds: 1, file: 0, judge: false };
        let judged = |sent, taken, answers, handshakes, plan: &Plan| {
            let cost = Cost { sent, taken, lost: 0, ns: 1e6 };
            let row = Row { name: "x".into(), seconds: 1.0, bare: cost, victim: cost, answers, handshakes };
            row.judge(true, true, plan, &mut Vec::new())
        };
        assert!(judged(1000, 1000, 5, 5, &busy).is_ok() && judged(300, 100, 5, 5, &busy).is_ok());
        assert!(judged(300, 100, 5, 5, &Plan { judge: true, ..busy }).is_err());
        for (sent, taken, answers, handshakes) in
            [(50, 50, 5, 5), (1000, 100, 5, 5), (1000, 1000, 0, 0), (1000, 1000, 5, 0)]
        {
            assert!(judged(sent, taken, answers, handshakes, &busy).is_err());
        }
    }
}

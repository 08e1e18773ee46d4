//! Random runs of a few nodes with everything that can go wrong, checked against a model of what must be
//! (docs/testing/simulator.md).
//!
//! For half a minute of virtual time faults come and go; then everything heals. At every crash, at every end of a
//! job and at the end of all: no acknowledged chunk is missing, no entry under its final name is wrong, what was
//! reported complete is complete. After the healing every put is acknowledged, every get to which a path leads
//! is complete, and every other one ends with a clear line.

mod check;
mod faults;
mod light;
mod lures;
mod model;
mod needs;
mod overlay;
mod plan;
mod statistics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::effects::{Effect, Effects};
use super::import::{Import, Imported};
use super::net::{Net, Notice};
use super::trace::Sink;
use super::trees::Tree;
use crate::base::fileop::JobId;
use crate::base::{Rng, Time};
use crate::node::{Command, Report};
use crate::service::get::GetRequest;
use crate::sim::Crash;
use lures::{LURES, Luring};
use needs::Pristine;
use plan::{Fault, Plan, TROUBLE};

pub use check::Excuse;
pub use light::{Light, light};
pub use statistics::Statistics;

/// After the healing everything is over within so much virtual time.
pub const PATIENCE: Duration = Duration::from_secs(1800);

/// A mistake planted in the world around the nodes, which the checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// The store acknowledges before it commits.
    AckBeforeSync,
    /// Files get their names before anything is synced.
    RenameBeforeSync,
    /// Three of ten due timers are not told to the node.
    DropTimers,
    /// The files thread changes a byte of what it writes.
    SkipVerify,
    /// A file with a record that could not be written is finished all the same: what the first thousand seeds
    /// found in the daemon.
    FinishAfterFailure,
}

impl Canary {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("ack-before-sync", Self::AckBeforeSync),
        ("rename-before-sync", Self::RenameBeforeSync),
        ("drop-timers", Self::DropTimers),
        ("skip-verify", Self::SkipVerify),
        ("finish-after-failure", Self::FinishAfterFailure),
    ];
}

/// What to run beside the seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How many nodes; `None`: 2 to 12, as the seed says.
    pub nodes: Option<usize>,
    /// A mistake to plant.
    pub canary: Option<Canary>,
    /// Whether all nodes take part in the overlay.
    pub overlay: bool,
}

/// What came of one seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Gets that somebody asked for.
    pub attempted: u64,
    /// Of those, complete and right.
    pub complete: u64,
    /// Gets to which no path led in the end, and that said so: how many for which reason.
    pub excused: BTreeMap<Excuse, u64>,
    /// Gets that ended neither way.
    pub failed: u64,
    /// Complete ones whose users wanted to run them again and could not, because no path led there any more.
    pub kept: u64,
    /// How often each get was started after the healing.
    pub starts: Vec<u64>,
    /// Of gets that failed after the healing though a path led there: how long after it they were started last,
    /// milliseconds.
    pub late_ms: Vec<u64>,
    /// Damaged references and hostile trees that were asked for.
    pub lures: u64,
    /// What faults did.
    pub effects: Effects,
    /// From the first asking to the end of each complete get, milliseconds.
    pub get_ms: Vec<u64>,
    /// The most things that happened at one virtual instant.
    pub busiest: u64,
    /// Events.
    pub events: u64,
    /// Virtual time.
    pub time: Duration,
    /// Hash of everything that happened.
    pub hash: String,
    /// What was wrong.
    pub failures: Vec<String>,
}

/// Runs one seed; each line of its trace goes to `sink`.
pub fn run(seed: u64, options: Options, sink: Option<Sink>) -> Outcome {
    let mut world = World::new(seed, options);
    if let Some(sink) = sink {
        world.net.trace.show([], sink);
    }
    world.run();
    world.outcome()
}

/// What is to be done at some time.
enum Action {
    Put(usize),
    Step(usize, u64),
    Commit(usize),
    Get(usize),
    Lure(usize),
    Cancel(usize, JobId),
    Fault(Fault),
    Undo(Fault),
    Start(usize),
    Heal,
}

#[derive(Default)]
struct Putting {
    import: Option<Import>,
    attempts: u64,
    done: Option<Imported>,
}

#[derive(Default)]
struct Getting {
    wanted: Tree,
    begun: Option<Time>,
    job: Option<JobId>,
    ends: u64,
    /// Starts after the healing.
    starts_healed: u64,
    /// The last start.
    started: Time,
    /// The last of the starts after the healing that failed though a path led there: how long after it.
    failed_late: Option<Duration>,
    done: Option<Time>,
    /// A complete one is being run again.
    again: bool,
    /// Running it again was given up.
    is_kept: bool,
    excused: Option<Excuse>,
}

impl Getting {
    /// Whether nothing is left to be asked for. Regression: one that was complete before counted as over while its
    /// second run had failed and waited to be started again.
    fn is_over(&self) -> bool {
        self.excused.is_some() || self.is_kept || (self.done.is_some() && !self.again)
    }
}

struct World {
    net: Net,
    rng: Rng,
    plan: Plan,
    begin: Time,
    todo: BTreeMap<u64, Action>,
    next: u64,
    puts: Vec<Putting>,
    gets: Vec<Getting>,
    lures: Vec<Luring>,
    /// Every chunk as it was made.
    pristine: Pristine,
    /// What faults did, beside what the network and the disks count.
    effects: Effects,
    liars: Vec<bool>,
    /// When everything healed.
    healed: Option<Time>,
    failures: Vec<String>,
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::from_number(seed);
        let plan = Plan { overlay: options.overlay, ..Plan::new(&mut rng, options.nodes) };
        let count = plan.friends.len();
        let mut net = Net::with_shards(seed, &plan.shards, plan.link.clone());
        for (a, b, link) in &plan.links {
            net.change_link(*a, *b, |config| *config = link.clone());
        }
        for (node, sim) in net.nodes.iter_mut().enumerate() {
            sim.world.store.cold = plan.cold[node];
            sim.coalesce = plan.coalesce[node];
            sim.world.store.acknowledges_early = options.canary == Some(Canary::AckBeforeSync);
            sim.files.slips.rename_before_sync = options.canary == Some(Canary::RenameBeforeSync);
            sim.files.slips.finish_after_failure = options.canary == Some(Canary::FinishAfterFailure);
            sim.files.slips.change_a_byte = options.canary == Some(Canary::SkipVerify);
        }
        net.drop_timers = if options.canary == Some(Canary::DropTimers) { 0.3 } else { 0.0 };
        for (node, nat) in plan.nats.iter().enumerate() {
            match nat {
                Some(nat) => net.put_behind_nat(&[node], *nat),
                // As a host of the Internet: nobody is told a stranger's private address.
                None if plan.overlay => net.move_to(node, ([20 + node as u8, node as u8, 0, 1], 4600).into()),
                None => {}
            }
        }
        for (node, friends) in plan.friends.iter().enumerate() {
            net.befriend(node, friends);
        }
        let puts = plan.puts.iter().map(|_| Putting::default()).collect();
        let wanted = |get| model::wanted(get, &plan.puts[get.put].tree);
        let gets = plan.gets.iter().map(|get| Getting { wanted: wanted(get), ..Getting::default() });
        let gets = gets.collect();
        let begin = net.now;
        let mut world = Self {
            net,
            rng,
            begin,
            todo: BTreeMap::new(),
            next: 0,
            puts,
            gets,
            lures: plan.lures.iter().map(|_| Luring::default()).collect(),
            pristine: Pristine::new(),
            effects: Effects::default(),
            liars: vec![false; count],
            healed: None,
            failures: Vec::new(),
            plan,
        };
        let puts: Vec<_> = world.plan.puts.iter().map(|put| put.at).collect();
        puts.into_iter().enumerate().for_each(|(put, at)| world.later(at, Action::Put(put)));
        let gets: Vec<_> = world.plan.gets.iter().map(|get| get.at).collect();
        gets.into_iter().enumerate().for_each(|(get, at)| world.later(at, Action::Get(get)));
        let lures: Vec<_> = world.plan.lures.iter().map(|lure| lure.at).collect();
        lures.into_iter().enumerate().for_each(|(lure, at)| world.later(at, Action::Lure(lure)));
        let faults = std::mem::take(&mut world.plan.faults);
        faults.into_iter().for_each(|(at, fault)| world.later(at, Action::Fault(fault)));
        world.later(TROUBLE, Action::Heal);
        world.join();
        world
    }

    fn later(&mut self, after: Duration, action: Action) {
        self.next += 1;
        self.todo.insert(self.next, action);
        self.net.call_at(self.net.now + after, None, self.next);
    }

    /// Up to `most` milliseconds from now.
    fn soon(&mut self, most: u64, action: Action) {
        let after = Duration::from_micros(self.rng.below(most * 1000 + 1));
        self.later(after, action);
    }

    fn fail(&mut self, what: String) {
        self.net.note(None, &format!("FAILURE: {what}"));
        // The first ones tell; a broken run would tell the same thousands of times.
        if self.failures.len() < 20 {
            self.failures.push(what);
        }
    }

    fn run(&mut self) {
        self.plan.about().enumerate().for_each(|(node, about)| self.net.note(Some(node), &about));
        let deadline = self.net.now + TROUBLE + PATIENCE;
        while !self.is_over() && self.failures.is_empty() {
            if let Some(what) = self.net.nonces.take_reused() {
                self.fail(what);
            }
            let Some(notice) = self.net.run(deadline) else { break };
            match notice {
                Notice::Call { token, .. } => {
                    if let Some(action) = self.todo.remove(&token) {
                        self.act(action);
                    }
                }
                Notice::Report { node, index } => self.reported(node, index),
            }
        }
        if let Some(what) = self.net.nonces.take_reused() {
            self.fail(what);
        }
        if self.failures.is_empty() {
            self.unfinished();
            (0..self.net.nodes.len()).for_each(|node| self.check(node));
        }
    }

    fn is_over(&self) -> bool {
        self.healed.is_some()
            && self.puts.iter().all(|put| put.done.is_some())
            && self.gets.iter().all(|get| get.job.is_none() && get.is_over())
            && self.lures.iter().all(|lure| lure.is_over)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Put(put) => self.put(put),
            Action::Step(put, attempt) => self.step(put, attempt),
            Action::Commit(node) => {
                let now = self.net.now;
                self.net.nodes[node].world.store.handle_timeout(now);
                self.acknowledge(node);
            }
            Action::Get(get) => self.get(get),
            Action::Lure(lure) => self.lure(lure),
            Action::Cancel(get, job) if self.gets[get].job == Some(job) => {
                self.net.command(self.plan.gets[get].node, Command::Cancel(job));
            }
            Action::Cancel(..) => {}
            Action::Fault(fault) if self.healed.is_none() => self.fault(fault),
            Action::Fault(_) => {}
            Action::Undo(fault) => self.undo(fault),
            Action::Start(node) => self.start(node),
            Action::Heal => self.heal(),
        }
    }

    // ---- put ------------------------------------------------------------------------------------

    fn put(&mut self, number: usize) {
        let planned = &self.plan.puts[number];
        let put = &mut self.puts[number];
        if put.done.is_some() || put.import.is_some() {
            return;
        }
        if !self.net.nodes[planned.node].is_up() {
            return self.soon(3000, Action::Put(number));
        }
        put.attempts += 1;
        let attempt = put.attempts;
        let first = (number as u64) << 48 | attempt << 32;
        put.import = Some(Import::new(&planned.tree, planned.salt.as_ref(), first));
        self.net.note(Some(planned.node), &format!("put {number} begins"));
        self.soon(3, Action::Step(number, attempt));
    }

    fn step(&mut self, number: usize, attempt: u64) {
        let node = self.plan.puts[number].node;
        let put = &mut self.puts[number];
        let Some(import) = put.import.as_mut().filter(|_| put.attempts == attempt) else { return };
        let store = &mut self.net.nodes[node].world.store;
        let ended = import.step(self.net.now, store, &mut self.rng);
        self.pristine.extend(import.take_made());
        if let Some(at) = store.poll_timeout() {
            self.later(at.since(self.net.now), Action::Commit(node));
        }
        self.acknowledge(node);
        match ended {
            None => self.soon(3, Action::Step(number, attempt)),
            Some(Ok(imported)) => {
                self.net.note(Some(node), &format!("put {number} is acknowledged"));
                self.puts[number].import = None;
                self.provide(node, &imported.chunks);
                self.puts[number].done = Some(imported);
                self.check(node);
                if self.healed.is_none() && self.rng.chance(0.25) {
                    let crash = if self.rng.chance(0.5) { Crash::Power } else { Crash::Process };
                    self.soon(20, Action::Fault(Fault::Crash(node, crash, Duration::from_secs(1))));
                }
            }
            Some(Err(why)) => {
                self.net.note(Some(node), &format!("put {number} failed: {why}"));
                self.puts[number].import = None;
                if !model::is_clear(&why) {
                    self.fail(format!("put {number} ended with {why:?}"));
                }
                self.soon(3000, Action::Put(number));
            }
        }
    }

    fn acknowledge(&mut self, node: usize) {
        for (write, result) in self.net.nodes[node].world.store.take_acknowledged() {
            let put = &mut self.puts[(write >> 48) as usize];
            if put.attempts == write >> 32 & 0xffff
                && let Some(import) = &mut put.import
            {
                import.acknowledged(result);
            }
        }
    }

    // ---- get ------------------------------------------------------------------------------------

    fn get(&mut self, number: usize) {
        let planned = &self.plan.gets[number];
        let get = &mut self.gets[number];
        if get.job.is_some() || (get.done.is_some() && !get.again) {
            return;
        }
        let put = self.puts[planned.put].done.as_ref().filter(|_| self.net.nodes[planned.node].is_up());
        let Some(imported) = put else { return self.soon(2000, Action::Get(number)) };
        let components = planned.inside.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
        let job = JobId((number as u64) << 32 | (get.ends + 1));
        let request = GetRequest {
            job,
            reference: imported.reference.clone(),
            inside: if planned.inside.is_empty() { Vec::new() } else { components.collect() },
            root: root(number),
            rename: None,
            merge: false,
            overwrite: get.again,
        };
        get.job = Some(job);
        get.starts_healed += u64::from(self.healed.is_some());
        get.started = self.net.now;
        get.begun.get_or_insert(self.net.now);
        let (node, cancel) = (planned.node, planned.cancel_after.filter(|_| get.ends == 0));
        if let Some(after) = cancel {
            self.later(after, Action::Cancel(number, job));
        }
        self.net.command(node, Command::Get(request));
        if self.healed.is_none() && self.rng.chance(0.2) {
            let room = self.rng.below(600_000);
            self.soon(2000, Action::Fault(Fault::Full(node, room, Duration::from_secs(2))));
        }
    }

    fn reported(&mut self, node: usize, index: usize) {
        let (job, result) = match &self.net.nodes[node].reports[index] {
            Report::Done(job, _) => (*job, Ok(())),
            Report::Failed(job, why) => (*job, Err(why.clone())),
            Report::Warning(what) => {
                let what = what.clone();
                return self.warned(node, &what);
            }
            _ => return,
        };
        if job.0 & LURES != 0 {
            return self.lured((job.0 >> 32) as usize & 0x7fff_ffff, job, result);
        }
        let number = (job.0 >> 32) as usize;
        if self.gets[number].job != Some(job) {
            return;
        }
        self.gets[number].job = None;
        self.gets[number].ends += 1;
        match result {
            Ok(()) => self.got(number),
            Err(why) => {
                if !model::is_clear(&why) {
                    self.fail(format!("get {number} ended with {why:?}"));
                }
                if why.starts_with("cancelled") {
                    self.effects.add(Effect::Cancelled, 1);
                }
                match self.excuse(number).filter(|_| self.healed.is_some()) {
                    Some(excuse) => {
                        // One that was complete before keeps that; only running it again is given up.
                        let get = &mut self.gets[number];
                        get.is_kept = get.done.is_some();
                        get.excused = get.done.is_none().then_some(excuse);
                    }
                    None => self.start_over(number, &why),
                }
            }
        }
    }

    fn got(&mut self, number: usize) {
        let (node, repeat) = (self.plan.gets[number].node, self.plan.gets[number].repeat);
        let get = &mut self.gets[number];
        let first = get.done.is_none();
        get.done.get_or_insert(self.net.now);
        get.again = false;
        self.check(node);
        if self.healed.is_none() && self.rng.chance(0.3) {
            self.soon(50, Action::Fault(Fault::Crash(node, Crash::Power, Duration::from_millis(500))));
        } else if first && repeat && self.healed.is_none() {
            self.gets[number].again = true;
            self.soon(1000, Action::Get(number));
        }
    }
}

fn root(get: usize) -> String {
    format!("/get-{get}")
}

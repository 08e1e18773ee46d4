//! Looking at the world while it runs, and what is said of it in the end.

use std::time::Duration;

use super::{Action, Getting, Outcome, PATIENCE, World, lures, model, needs, root};
use crate::base::ChunkId;
use crate::limits::{FRIEND_RETRY_MS_MAX, SESSION_IDLE_MS_MAX};
use crate::node::{Command, Report};
use crate::sim::effects::Effect;
use crate::sim::files::SimFiles;
use crate::sim::import::Imported;

/// A get that is started so long after the healing and to which a path leads does not fail. Until then a node may
/// believe in a session whose other side has forgotten it (`SESSION_IDLE_MS_MAX`), and may wait before it calls a
/// friend again (`FRIEND_RETRY_MS_MAX`); the friends that it does reach need not have what is wanted.
const SETTLED: Duration = Duration::from_millis(SESSION_IDLE_MS_MAX + FRIEND_RETRY_MS_MAX);

/// A user waits so long before the first time that a get is started again, and twice as long each further time.
const FIRST_WAIT_MS: u64 = 3000;

/// So often a get to which a path leads is started after the healing at most: until the waits, of which each is at
/// least half as long as it may be, come to [`SETTLED`], and once more.
pub const STARTS_MAX: u64 = {
    let (mut starts, mut waited) = (1, 0);
    while waited < SETTLED.as_millis() as u64 {
        waited += (FIRST_WAIT_MS << (starts - 1)) / 2;
        starts += 1;
    }
    starts
};

/// Why a get need not be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excuse {
    /// Nobody who may be asked has a chunk of it: friends, and in the overlay everybody.
    Nobody,
    /// Those that have it are behind translators, and so is its node, and nobody outside knows both.
    Apart,
    /// Those that have it have it damaged.
    Damaged,
    /// Those that have it serve wrong bytes.
    Liars,
}

impl Excuse {
    /// All of them, with what a person calls them.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Nobody, "nobody has it"),
        (Self::Apart, "both behind translators, and nobody between"),
        (Self::Damaged, "damaged on the disk"),
        (Self::Liars, "those who lie"),
    ];

    /// The share of all gets that may be excused so: half as many again as in the worse of seeds 0 to 249 and 1000 to
    /// 1999 (0.050, 0.074, 0.030 and 0.030), and then rounded up. A model that excuses more than plans give it reason
    /// to is found by this.
    pub fn share_max(self) -> f64 {
        match self {
            Self::Nobody => 0.08,
            Self::Apart => 0.12,
            Self::Damaged => 0.05,
            Self::Liars => 0.05,
        }
    }
}

impl World {
    /// Whether a node can be asked by another and says the truth.
    pub(super) fn serves(&self, server: usize, by: usize) -> bool {
        !(self.liars[server] || self.is_apart(server, by))
    }

    /// Whether two are behind translators and nobody can be a way from one to the other: in the overlay anybody outside can.
    /// Friends of both can, too, but need not have the time for all of it.
    fn is_apart(&self, one: usize, other: usize) -> bool {
        let is_behind = |node: usize| self.plan.nats[node].is_some();
        let has_way = self.plan.overlay && (0..self.plan.nats.len()).any(|relay| !is_behind(relay));
        is_behind(one) && is_behind(other) && !has_way
    }

    /// What excuses a get: `None` when each chunk that it needs lies undamaged at somebody who may be asked, can be
    /// reached and does not lie.
    pub(super) fn excuse(&self, number: usize) -> Option<Excuse> {
        let asked = self.asked(self.plan.gets[number].node);
        let planned = &self.plan.gets[number];
        let Some(imported) = &self.puts[planned.put].done else { return Some(Excuse::Nobody) };
        let needed = needs::chunks(&imported.reference, &planned.inside, &self.pristine);
        needed.iter().find_map(|chunk| self.excuse_for(planned.node, chunk, &asked))
    }

    /// Who would serve what a get needs, for whoever reads of its failure.
    fn servers(&self, number: usize) -> String {
        let planned = &self.plan.gets[number];
        let Some(imported) = &self.puts[planned.put].done else { return String::new() };
        let needed = needs::chunks(&imported.reference, &planned.inside, &self.pristine);
        let mut said: Vec<_> = needed
            .iter()
            .map(|chunk| {
                let serves = |other: &usize| self.excuse_for(planned.node, chunk, &[*other]).is_none();
                (self.asked(planned.node).into_iter().filter(serves).collect::<Vec<_>>(), chunk)
            })
            .collect();
        said.sort_by_key(|(by, _)| by.len());
        let said = said.iter().take(4).map(|(by, chunk)| format!("{chunk} of {by:?}"));
        format!(
            "put {} by {}; {}",
            planned.put,
            self.plan.puts[planned.put].node,
            said.collect::<Vec<_>>().join(", ")
        )
    }

    fn excuse_for(&self, node: usize, chunk: &ChunkId, asked: &[usize]) -> Option<Excuse> {
        // The nearest that any of them comes to serving it.
        let of = |other: usize| {
            let store = &self.net.nodes[other].world.store;
            match () {
                () if store.get(chunk).is_none() => Some(Excuse::Nobody),
                () if self.is_apart(other, node) => Some(Excuse::Apart),
                () if self.liars[other] => Some(Excuse::Liars),
                () if !store.is_sound(chunk) => Some(Excuse::Damaged),
                () => None,
            }
        };
        let mut excuses: Vec<_> = asked.iter().map(|&other| of(other)).collect();
        excuses.push(Some(Excuse::Nobody));
        if excuses.contains(&None) { None } else { excuses.into_iter().flatten().max() }
    }

    /// A node is told that another sent wrong bytes: that must be one that did.
    pub(super) fn warned(&mut self, node: usize, what: &str) {
        let Some(rest) = what.strip_prefix("node ") else { return };
        let Some((name, _)) = rest.split_once(" sent wrong bytes") else { return };
        let Some(blamed) = self.net.nodes.iter().position(|sim| sim.card().node_id().to_string() == name)
        else {
            return self.fail(format!("node {node} blames one that there is not: {what}"));
        };
        self.effects.add(Effect::Blamed, 1);
        if !self.liars[blamed] {
            self.fail(format!("node {node} blames node {blamed}, which tells the truth: {what}"));
        }
    }

    /// The user of a get that failed starts it again, and has less and less patience. After the healing that has an
    /// end: no start but the early ones may fail.
    pub(super) fn start_over(&mut self, number: usize, why: &str) {
        let Some(healed) = self.healed else { return self.soon(FIRST_WAIT_MS, Action::Get(number)) };
        let get = &mut self.gets[number];
        let late = get.started.since(healed);
        let (starts, node) = (get.starts_healed, self.plan.gets[number].node);
        get.failed_late = get.failed_late.max(Some(late).filter(|_| get.starts_healed > 0));
        if starts > 0 && late > SETTLED || starts >= STARTS_MAX {
            let by = self.servers(number);
            return self.fail(format!(
                "node {node}: get {number} failed that was started {late:?} after everything healed, for the \
                 {starts}th time since, though a path leads to it ({by}): {why}"
            ));
        }
        let most = FIRST_WAIT_MS << starts.saturating_sub(1);
        let wait = Duration::from_millis(most / 2 + self.rng.below(most / 2));
        self.later(wait, Action::Get(number));
    }

    /// Counts what a node refused because of a wrong clock, before it is forgotten.
    pub(super) fn count_skewed(&mut self, node: usize) {
        const TOKEN: u64 = u64::MAX;
        let before = self.net.nodes[node].reports.len();
        if !self.net.command(node, Command::Status { token: TOKEN }) {
            return;
        }
        // Each of its shards answers.
        for report in &self.net.nodes[node].reports[before..] {
            if let Report::Status(TOKEN, snapshot) = report {
                let count = snapshot.counters.iter().find(|c| c.0 == "session_skewed");
                self.effects.add(Effect::Skewed, count.expect("it is counted").2);
            }
        }
    }

    /// What must be true of a node's disk at any time.
    pub(super) fn check(&mut self, node: usize) {
        let mut found = Vec::new();
        let sim = &self.net.nodes[node];
        for (number, put) in self.puts.iter().enumerate().filter(|(n, _)| self.plan.puts[*n].node == node) {
            let lost = |imported: &&Imported| {
                imported.chunks.iter().any(|chunk| sim.world.store.get(chunk).is_none())
            };
            if put.done.as_ref().filter(lost).is_some() {
                found.push(format!("node {node}: put {number} was acknowledged and is lost"));
            }
        }
        let mut roots = Vec::new();
        for (number, get) in self.gets.iter().enumerate().filter(|(n, _)| self.plan.gets[*n].node == node) {
            found.extend(check_get(&sim.files, number, get).map(|what| format!("node {node}: {what}")));
            roots.push(root(number));
        }
        for number in (0..self.lures.len()).filter(|n| self.plan.lures[*n].node == node) {
            found.extend(self.check_lure(number).map(|what| format!("node {node}: {what}")));
            roots.push(lures::root(number));
        }
        found.extend(model::astray(&sim.files, &roots).map(|what| format!("node {node}: {what}")));
        if sim.files.rewritten > 0 {
            found
                .push(format!("node {node}: {} records were fetched and written twice", sim.files.rewritten));
        }
        found.into_iter().for_each(|what| self.fail(what));
    }

    pub(super) fn unfinished(&mut self) {
        for number in 0..self.puts.len() {
            if self.puts[number].done.is_none() {
                self.fail(format!("put {number} is not acknowledged {PATIENCE:?} after everything healed"));
            }
        }
        for number in 0..self.gets.len() {
            let get = &self.gets[number];
            if get.job.is_some() || !get.is_over() {
                let node = self.plan.gets[number].node;
                let progress = get.job.and_then(|job| self.net.nodes[node].progress.get(&job));
                let (excuse, ends) = (self.excuse(number), get.ends);
                self.fail(format!(
                    "node {node}: get {number} is not over {PATIENCE:?} after everything healed (excuse: \
                     {excuse:?}; it ended {ends} times before): {progress:?}"
                ));
            }
        }
        for number in 0..self.lures.len() {
            let lure = self.plan.lures[number].lure;
            if self.lures[number].is_over {
                continue;
            }
            self.fail(format!("lure {number}, {lure:?}, is not over {PATIENCE:?} after everything healed"));
        }
    }

    pub(super) fn outcome(mut self) -> Outcome {
        (0..self.net.nodes.len()).for_each(|node| self.count_skewed(node));
        let ms = |get: &Getting| Some(get.done?.since(get.begun?).as_millis() as u64);
        let mut outcome =
            Outcome { seed: self.net.seed, attempted: self.gets.len() as u64, ..Outcome::default() };
        for get in &self.gets {
            match (get.done, get.excused) {
                (Some(_), _) => outcome.complete += 1,
                (None, Some(excuse)) => *outcome.excused.entry(excuse).or_default() += 1,
                (None, None) => outcome.failed += 1,
            }
            outcome.get_ms.extend(ms(get));
            outcome.kept += u64::from(get.is_kept);
            outcome.starts.push(get.starts_healed);
            outcome.late_ms.extend(get.failed_late.map(|late| late.as_millis() as u64));
        }
        outcome.lures = self.lures.len() as u64;
        outcome.effects = std::mem::take(&mut self.effects);
        outcome.effects.add_all(&self.net.trace.observer.effects);
        for sim in &self.net.nodes {
            outcome.effects.add_all(&sim.files.disk.effects);
            outcome.effects.add_all(&sim.world.store.effects);
        }
        outcome.busiest = self.net.busiest() as u64;
        outcome.events = self.net.trace.events();
        outcome.time = self.net.now.since(self.begin);
        outcome.hash = self.net.trace.hash();
        outcome.failures = std::mem::take(&mut self.failures);
        outcome
    }
}

fn check_get(files: &SimFiles, number: usize, get: &Getting) -> Option<String> {
    let root = root(number);
    if let Some(wrong) = model::wrong(files, &root, &get.wanted) {
        return Some(format!("get {number}: a wrong entry is in place: {wrong}"));
    }
    let is_settled = get.done.is_some() && !get.again && get.job.is_none();
    let incomplete = is_settled.then(|| model::incomplete(files, &root, &get.wanted)).flatten();
    incomplete.map(|what| format!("get {number} was reported complete: {what}"))
}

//! Looking at the world while it runs, and what is said of it in the end.

use super::{Getting, Outcome, PATIENCE, World, model, root};
use crate::sim::files::SimFiles;
use crate::sim::import::Imported;

impl World {
    /// Whether a friend that can be reached has each chunk, sound, and does not lie.
    pub(super) fn is_live(&self, number: usize) -> bool {
        let planned = &self.plan.gets[number];
        let Some(imported) = &self.puts[planned.put].done else { return false };
        let hidden = |node: usize| self.plan.nats[node].is_some();
        let is_apart = |friend: usize| hidden(friend) && hidden(planned.node);
        let serves = |friend: usize| !(self.liars[friend] || is_apart(friend));
        imported.chunks.iter().all(|chunk| {
            let mut friends = self.plan.friends[planned.node].iter();
            friends.any(|&friend| serves(friend) && self.net.nodes[friend].world.store.is_sound(chunk))
        })
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
        for (number, get) in self.gets.iter().enumerate().filter(|(n, _)| self.plan.gets[*n].node == node) {
            found.extend(check_get(&sim.files, number, get).map(|what| format!("node {node}: {what}")));
        }
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
            if get.job.is_some() || (get.done.is_none() && get.refused.is_none()) {
                let node = self.plan.gets[number].node;
                let progress = get.job.and_then(|job| self.net.nodes[node].progress.get(&job));
                let (live, ends) = (self.is_live(number), get.ends);
                self.fail(format!(
                    "node {node}: get {number} is not over {PATIENCE:?} after everything healed (a path leads \
                     to it: {live}; it ended {ends} times before): {progress:?}"
                ));
            }
        }
    }

    pub(super) fn outcome(mut self) -> Outcome {
        let complete: Vec<_> = self.gets.iter().filter(|get| get.done.is_some()).collect();
        let ms = |get: &&Getting| Some(get.done?.since(get.begun?).as_millis() as u64);
        let get_ms: Vec<u64> = complete.iter().filter_map(ms).collect();
        let refused = self.gets.iter().filter(|get| get.refused.is_some()).count() as u64;
        Outcome {
            seed: self.net.seed,
            wanted: self.gets.len() as u64 - refused,
            complete: get_ms.len() as u64,
            refused,
            get_ms,
            events: self.net.trace.events(),
            time: self.net.now.since(self.begin),
            hash: self.net.trace.hash(),
            failures: std::mem::take(&mut self.failures),
        }
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

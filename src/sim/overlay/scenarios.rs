//! The runs of docs/overlay.md. Each returns what it measured; whoever calls judges and prints.

use std::time::Duration;

use super::hostile::Role;
use super::measure::Summary;
use super::{Settings, World};
use crate::base::{ChunkId, NodeId, Time};
use crate::limits::REGION_NODES;
use crate::overlay::Manner;
use crate::overlay::place::{distance, leading};

/// A table to print.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was run.
    pub title: String,
    /// What the numbers are.
    pub columns: Vec<&'static str>,
    /// Name and numbers of each row.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl Report {
    pub(super) fn new(title: String, columns: &[&'static str]) -> Self {
        Self { title, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// A number of it.
    pub fn get(&self, row: &str, column: &str) -> Option<f64> {
        let at = self.columns.iter().position(|name| *name == column)?;
        self.rows.iter().find(|(name, _)| name == row).and_then(|(_, values)| values.get(at).copied())
    }
}

pub(super) const LOOKUPS: &[&str] =
    &["lookups", "success %", "hops", "asked", "p50 ms", "p90 ms", "p99 ms", "bytes", "tried in vain"];

pub(super) fn numbers(summary: &Summary) -> Vec<f64> {
    let Summary { lookups, success_percent, hops, asked, p50_ms, p90_ms, p99_ms, bytes, vain, .. } = *summary;
    vec![lookups as f64, success_percent, hops, asked, p50_ms, p90_ms, p99_ms, bytes, vain]
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

impl World {
    /// So many nodes, each of which enters through two that are there; hostile ones among them by chance.
    pub fn grow(&mut self, nodes: usize, over: Duration, hostile: f64, role: Role) {
        let step = over / u32::try_from(nodes.max(1)).unwrap_or(u32::MAX);
        for _ in 0..nodes {
            let is_hostile = self.rng.chance(hostile);
            self.arrive(if is_hostile { role } else { Role::Honest });
            self.run_for(step);
        }
    }

    fn arrive(&mut self, role: Role) -> u32 {
        let friends: Vec<u32> =
            if self.alive.is_empty() { Vec::new() } else { vec![self.any_honest(), self.any_honest()] };
        self.join(&friends, role, |_| true)
    }

    /// So many new chunks at honest nodes, all looked after once.
    pub fn publish(&mut self, chunks: usize) -> Vec<ChunkId> {
        let chunks: Vec<ChunkId> = (0..chunks)
            .map(|_| {
                self.run_for(MINUTE / 1000);
                self.provide_any()
            })
            .collect();
        self.run_for(2 * MINUTE);
        chunks
    }

    /// Time with arrivals, departures and lookups, each evenly spread: `half` of the nodes are replaced per hour.
    pub fn live(
        &mut self,
        chunks: &mut [ChunkId],
        time: Duration,
        lookups: usize,
        churn: f64,
        manner: Manner,
    ) {
        let count = self.alive.len();
        let replaced = count as f64 * churn * time.as_secs_f64() / 3600.0;
        let (begun, mut gone, mut looked) = (self.now, 0.0, 0usize);
        let until = begun + time;
        let mut fresh: Vec<(Time, usize)> = Vec::new();
        while self.now < until {
            self.run_for(SECOND / 10);
            let share = self.now.since(begun).as_secs_f64() / time.as_secs_f64();
            while gone < replaced * share {
                gone += 1.0;
                let leaving = self.any();
                let role = self.nodes[leaving as usize].role;
                self.kill(leaving);
                self.arrive(role);
            }
            while (looked as f64) < lookups as f64 * share {
                looked += 1;
                let at = self.rng.below(chunks.len() as u64) as usize;
                let is_new =
                    fresh.iter().any(|(since, index)| *index == at && self.now < *since + 2 * MINUTE);
                if !self.is_held(&chunks[at]) {
                    // Its only host left: somebody brings another.
                    chunks[at] = self.provide_any();
                    fresh.retain(|(_, index)| *index != at);
                    fresh.push((self.now, at));
                    looked -= 1;
                } else if is_new {
                    looked -= 1;
                    self.run_for(SECOND / 100);
                } else {
                    let node = self.any_honest();
                    self.look(node, chunks[at], manner, looked.is_multiple_of(2));
                }
            }
        }
        self.run_for(10 * SECOND);
    }

    fn table_sizes(&self) -> f64 {
        let sizes = self.alive.iter().filter_map(|node| self.core(*node)).map(|core| core.table().len());
        sizes.sum::<usize>() as f64 / self.alive.len().max(1) as f64
    }
}

/// Lookups in a network of which half is replaced per hour.
pub fn steady(nodes: usize, lookups: usize, time: Duration, settings: Settings) -> Report {
    let mut world = World::new(settings);
    world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
    world.run_for(5 * MINUTE);
    let mut chunks = world.publish((nodes / 20).clamp(20, 500));
    let mut report = Report::new(
        format!(
            "{nodes} nodes, half replaced per hour, {lookups} lookups in {} minutes",
            time.as_secs() / 60
        ),
        LOOKUPS,
    );
    for (name, manner) in [("near-first", Manner::Near), ("far-first", Manner::Far { stride: 1 })] {
        let before = world.tally;
        world.live(&mut chunks, time / 2, lookups / 2, 0.5, manner);
        let (cold, warm) = world.take_probes();
        report.rows.push((format!("{name}, cold"), numbers(&cold)));
        report.rows.push((format!("{name}, warm"), numbers(&warm)));
        let bytes = (world.tally.bytes - before.bytes) as f64 / (time / 2).as_secs_f64() / nodes as f64;
        report.title += &format!("; {name}: {bytes:.0} bytes/s per node for everything");
    }
    let estimate = world.core(world.alive()[0]).map_or(0, |core| core.network_size());
    report.title += &format!(
        "; tables {:.0} contacts, size estimated as {estimate}, {:.1} nodes keep a record",
        world.table_sizes(),
        world.tally.kept as f64 / world.tally.checks.max(1) as f64,
    );
    report
}

/// Everybody wants one chunk within a minute, and provides it once it is found.
pub fn flash_crowd(nodes: usize, manner: Manner, settings: Settings) -> Report {
    let mut world = World::new(settings);
    world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
    world.run_for(5 * MINUTE);
    let chunk = world.publish(1)[0];
    world.take_loads();
    let mut everybody = world.alive().to_vec();
    let step = MINUTE / u32::try_from(nodes).unwrap_or(1);
    while !everybody.is_empty() {
        let at = world.rng.below(everybody.len() as u64) as usize;
        let node = everybody.swap_remove(at);
        world.look(node, chunk, manner, true);
        world.run_for(step);
    }
    world.run_for(30 * SECOND);
    let (_, warm) = world.take_probes();
    let loads = world.take_loads();
    let mut by_distance: Vec<(u64, u64)> =
        loads.iter().map(|(load, id)| (leading(&distance(&chunk.0, &id.0)), *load)).collect();
    by_distance.sort_unstable();
    let near = by_distance.iter().take(REGION_NODES).map(|(_, load)| *load);
    let columns = [
        "success %",
        "p50 ms",
        "p99 ms",
        "asked",
        "most asked",
        "nearest, mean",
        "nearest, most",
        "mean of all",
    ];
    let mut report = Report::new(format!("flash crowd of {nodes} in a minute: questions per node"), &columns);
    let mean = loads.iter().map(|(load, _)| *load).sum::<u64>() as f64 / loads.len() as f64;
    let values = vec![
        warm.success_percent,
        warm.p50_ms,
        warm.p99_ms,
        warm.asked,
        loads[0].0 as f64,
        near.clone().sum::<u64>() as f64 / REGION_NODES as f64,
        near.max().unwrap_or(0) as f64,
        mean,
    ];
    report.rows.push((format!("{manner:?}"), values));
    report
}

/// The network is parted for an hour, and made whole. Each side's new chunks are looked for from the other.
pub fn partition(nodes: usize, settings: Settings) -> Report {
    let mut world = World::new(settings);
    world.grow(nodes, 5 * MINUTE, 0.0, Role::Honest);
    world.run_for(15 * MINUTE);
    world.part();
    let columns = ["across, % of contacts", "nearest 8 known, %", "found from the other side, %", "p50 ms"];
    let mut report = Report::new(format!("{nodes} nodes, parted for an hour"), &columns);
    let measure = |world: &mut World, name: &str, chunks: &[ChunkId], report: &mut Report| {
        for _ in 0..200 {
            let at = world.rng.below(chunks.len() as u64) as usize;
            let holder = world.holders[&chunks[at]][0];
            let other = loop {
                let node = world.any();
                if world.nodes[node as usize].side != world.nodes[holder as usize].side {
                    break node;
                }
            };
            world.look(other, chunks[at], Manner::Near, true);
            world.run_for(SECOND / 20);
        }
        world.run_for(10 * SECOND);
        let (_, warm) = world.take_probes();
        let values =
            vec![100.0 * world.across(), 100.0 * world.neighbours(8), warm.success_percent, warm.p50_ms];
        report.rows.push((name.to_owned(), values));
    };
    let before = world.publish(100);
    measure(&mut world, "before", &before, &mut report);
    world.is_parted = true;
    world.run_for(50 * MINUTE);
    let chunks = world.publish(100);
    world.run_for(8 * MINUTE);
    measure(&mut world, "after an hour apart", &chunks, &mut report);
    world.is_parted = false;
    for minute in 1..=5 {
        world.run_for(MINUTE - 20 * SECOND);
        measure(&mut world, &format!("minute {minute} together"), &chunks, &mut report);
    }
    report
}

impl World {
    /// How many of the living nodes nearest to each are in its table.
    fn neighbours(&self, count: usize) -> f64 {
        let (mut known, mut all) = (0usize, 0usize);
        for node in self.alive.iter().step_by(1 + self.alive.len() / 1000) {
            let own = self.nodes[*node as usize].peer.id;
            let Some(core) = self.core(*node) else { continue };
            let others = self.alive.iter().filter(|other| *other != node);
            let mut nearest: Vec<NodeId> = others.map(|other| self.nodes[*other as usize].peer.id).collect();
            nearest.sort_unstable_by_key(|other| distance(&own.0, &other.0));
            all += count;
            known += nearest.iter().take(count).filter(|id| core.table().get(id).is_some()).count();
        }
        known as f64 / all.max(1) as f64
    }

    /// The share of contacts that lie on the other side.
    fn across(&self) -> f64 {
        let (mut all, mut across) = (0usize, 0usize);
        for node in &self.alive {
            let side = self.nodes[*node as usize].side;
            let Some(core) = self.core(*node) else { continue };
            for entry in core.table().entries() {
                all += 1;
                let other = self.by_id.get(&entry.peer.id).map(|other| self.nodes[*other as usize].side);
                across += usize::from(other.is_some_and(|other| other != side));
            }
        }
        across as f64 / all.max(1) as f64
    }
}

/// Many nodes that know the same two friends, all at once: seconds until each finds what another provides.
pub fn bootstrap(nodes: usize, settings: Settings) -> Report {
    let mut world = World::new(settings);
    let first = world.join(&[], Role::Honest, |_| true);
    let second = world.join(&[first], Role::Honest, |_| true);
    world.run_for(10 * SECOND);
    let begun = world.now;
    for _ in 0..nodes {
        world.join(&[first, second], Role::Honest, |_| true);
    }
    let columns = ["contacts, mean", "least", "nearest 8 known, %", "reached, %"];
    let mut report = Report::new(format!("{nodes} nodes at once from two friends"), &columns);
    for seconds in [10u64, 20, 30, 45, 60] {
        world.run_until(begun + Duration::from_secs(seconds));
        let sizes = world.alive.iter().filter_map(|node| world.core(*node)).map(|core| core.table().len());
        let least = sizes.min().unwrap_or(0);
        // Each lookup is for a node's own place: who is nearest to it must find itself named by others.
        let (mut found, mut tried) = (0u32, 0u32);
        for _ in 0..200 {
            let (a, b) = (world.any(), world.any());
            tried += 1;
            found += u32::from(world.reaches(a, b));
        }
        let neighbours = 100.0 * world.neighbours(8);
        let reached = 100.0 * f64::from(found) / f64::from(tried);
        let values = vec![world.table_sizes(), least as f64, neighbours, reached];
        report.rows.push((format!("{seconds} s"), values));
    }
    report.title += &format!(", {} bytes per node", world.tally.bytes / nodes as u64);
    report
}

impl World {
    /// Whether one node comes to another by asking for its place, as tables are now: greedily, without time.
    fn reaches(&self, from: u32, to: u32) -> bool {
        let target = self.nodes[to as usize].peer.id;
        let mut known: Vec<(crate::overlay::place::Key, u32, bool)> = vec![([0xff; 20], from, false)];
        for _ in 0..64 {
            known.sort_unstable();
            let Some(next) = known.iter_mut().take(8).find(|(.., asked)| !asked) else { break };
            next.2 = true;
            let Some(core) = self.core(next.1) else { continue };
            for entry in core.table().nearest(&target.0, 8) {
                if entry.peer.id == target {
                    return true;
                }
                let Some(node) = self.by_id.get(&entry.peer.id) else { continue };
                if known.iter().all(|(_, other, _)| other != node) {
                    known.push((distance(&target.0, &entry.peer.id.0), *node, false));
                }
            }
        }
        false
    }
}

/// A publisher of many chunks: how many it looks after in an hour.
pub fn publishing(nodes: usize, chunks: usize, settings: Settings) -> Report {
    let mut world = World::new(settings);
    world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
    world.run_for(5 * MINUTE);
    let columns =
        ["minutes", "chunks an hour", "messages/s", "bytes/s", "nodes that keep each", "kept by nobody"];
    let mut report = Report::new(format!("{chunks} chunks of one publisher among {nodes} nodes"), &columns);
    let publisher = world.any_honest();
    let before = world.tally;
    let begun = world.now;
    for _ in 0..chunks {
        let chunk = ChunkId(world.rng.bytes());
        world.provide(publisher, chunk);
    }
    let all = |world: &World| (world.tally.checks - before.checks) as usize;
    while all(&world) < chunks && world.now < begun + 50 * MINUTE {
        world.run_for(SECOND / 10);
    }
    let time = world.now.since(begun).as_secs_f64();
    let checks = all(&world) as f64;
    let each = |now: u64, before: u64| (now - before) as f64 / time;
    let values = vec![
        time / 60.0,
        checks / time * 3600.0,
        each(world.tally.messages, before.messages),
        each(world.tally.bytes, before.bytes),
        (world.tally.kept - before.kept) as f64 / checks,
        (world.tally.checks_lost - before.checks_lost) as f64,
    ];
    report.rows.push(("first time".to_owned(), values));
    report
}

//! What lookups came to: success, hops, time, bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::{ChunkId, Time};
use crate::overlay::LookupId;

/// A lookup that is measured.
#[derive(Debug, Clone)]
pub struct Probe {
    /// By which node.
    pub node: u32,
    /// Its number there.
    pub id: LookupId,
    /// What for.
    pub chunk: ChunkId,
    /// Whether all sessions were there before.
    pub warm: bool,
    /// When it began.
    pub begun: Time,
    /// When it told of a provider that has it.
    pub found: Option<Duration>,
    /// Steps to who told.
    pub hops: u32,
    /// Peers asked.
    pub asked: u32,
    /// On the wire, both directions.
    pub bytes: u64,
    /// Providers that were tried in vain: dead, not there, or without the chunk.
    pub vain: u32,
    /// Whether it ended.
    pub done: bool,
    /// Open questions of it: to whom, and their numbers.
    pub numbers: BTreeSet<(u32, u32)>,
}

/// Sums of a world.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Messages sent.
    pub messages: u64,
    /// Sessions made.
    pub handshakes: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Checks of published chunks that ended.
    pub checks: u64,
    /// Checks after which nobody kept the record.
    pub checks_lost: u64,
    /// First flights to where their target is not.
    pub misled: u64,
    /// Of those, to the attackers' victim.
    pub aimed: u64,
    /// Times that attackers named it.
    pub named: u64,
    /// False announcements.
    pub floods: u64,
    /// Nodes that kept a record, all checks together.
    pub kept: u64,
    /// Other hosts found, all checks together.
    pub hosts: u64,
}

impl Tally {
    /// A published chunk was looked after.
    pub fn note_check(&mut self, hosts: u8, kept: u8) {
        self.checks += 1;
        self.checks_lost += u64::from(kept == 0);
        self.kept += u64::from(kept);
        self.hosts += u64::from(hosts);
    }
}

/// A set of lookups, summed up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Lookups begun.
    pub lookups: usize,
    /// Of those, the ones that found a provider that has it.
    pub found: usize,
    /// Found in a hundred.
    pub success_percent: f64,
    /// Mean steps to who told.
    pub hops: f64,
    /// Mean peers asked.
    pub asked: f64,
    /// Half found it within so many milliseconds.
    pub p50_ms: f64,
    /// 90 in 100.
    pub p90_ms: f64,
    /// 99 in 100.
    pub p99_ms: f64,
    /// Mean providers tried in vain.
    pub vain: f64,
    /// Mean bytes on the wire of those that found it, until they had it.
    pub bytes: f64,
}

impl Summary {
    /// Of some probes.
    pub fn of<'a>(probes: impl Iterator<Item = &'a Probe>) -> Self {
        let all: Vec<&Probe> = probes.collect();
        let mut times: Vec<f64> =
            all.iter().filter_map(|probe| probe.found).map(|found| found.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (times.len() as f64 * share).ceil() as usize;
            times.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        let found: Vec<&&Probe> = all.iter().filter(|probe| probe.found.is_some()).collect();
        let mean = |of: fn(&Probe) -> f64| {
            found.iter().map(|probe| of(probe)).sum::<f64>() / found.len().max(1) as f64
        };
        Self {
            lookups: all.len(),
            found: found.len(),
            success_percent: 100.0 * found.len() as f64 / all.len().max(1) as f64,
            hops: mean(|probe| f64::from(probe.hops)),
            asked: mean(|probe| f64::from(probe.asked)),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            vain: mean(|probe| f64::from(probe.vain)),
            bytes: mean(|probe| probe.bytes as f64),
        }
    }
}

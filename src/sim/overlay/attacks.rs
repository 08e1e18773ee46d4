//! Runs of docs/overlay.md with attackers.

use std::net::Ipv4Addr;

use super::hostile::Role;
use super::scenarios::{LOOKUPS, MINUTE, Report, SECOND, numbers};
use super::{Settings, World};
use crate::base::{ChunkId, NodeId};
use crate::crypto::rank::PLACE_FLOOR_BITS;
use crate::limits::REGION_NODES;
use crate::overlay::Manner;
use crate::overlay::place::{distance, leading};

/// What a fifth of the network may be.
pub const ROLES: &[(&str, Role)] = &[
    ("silent", Role::Silent),
    ("lying", Role::Liar),
    ("steering", Role::Steering),
    ("misleading", Role::Misleading),
    ("forging", Role::Forging),
    ("aiming", Role::Aiming),
];

/// A fifth (or so) of the nodes is hostile, in one of several ways. Lookups from near, cold and warm, and from far.
pub fn hostile(
    nodes: usize,
    lookups: usize,
    share: f64,
    roles: &[(&str, Role)],
    settings: Settings,
) -> Report {
    let title = format!("{nodes} nodes, {:.0} % hostile, {lookups} lookups each", 100.0 * share);
    let mut report = Report::new(title, LOOKUPS);
    for (name, role) in roles {
        let mut world = World::new(settings);
        world.victim = Some((Ipv4Addr::new(198, 18, 7, 7), 4600).into());
        world.grow(nodes, 10 * MINUTE, share, *role);
        world.run_for(5 * MINUTE);
        let mut chunks = world.publish((nodes / 20).clamp(20, 500));
        let before = world.tally;
        world.live(&mut chunks, 10 * MINUTE, lookups, 0.5, Manner::Near);
        let (cold, warm) = world.take_probes();
        report.rows.push((format!("{name}, cold"), numbers(&cold)));
        report.rows.push((format!("{name}, warm"), numbers(&warm)));
        world.live(&mut chunks, 10 * MINUTE, lookups, 0.5, Manner::Far { stride: 1 });
        report.rows.push((format!("{name}, far-first"), numbers(&world.take_all())));
        let after = world.tally;
        if *role == Role::Aiming {
            report.title += &format!(
                "; aiming: the victim was named {} times and had {} first flights in 20 minutes",
                after.named - before.named,
                after.aimed - before.aimed
            );
        }
        if *role == Role::Misleading {
            report.title +=
                &format!("; misleading: {} first flights led astray", after.misled - before.misled);
        }
    }
    report
}

/// Nodes of an attacker in the region of one key, as many as so many times the hash power that made all honest nodes
/// buys in this `part` of it; they steer. The key is published, and looked for by nodes drawn by chance.
pub fn eclipse(nodes: usize, lookups: usize, powers: &[f64], part: f64, settings: Settings) -> Report {
    let columns = ["attackers", "success %", "asked", "p50 ms", "p99 ms", "bytes", "log2 hashes", "kept by"];
    let mut report =
        Report::new(format!("an attacker in {part} of one key's region among {nodes} nodes"), &columns);
    for power in powers {
        let mut world = World::new(settings);
        world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
        world.run_for(5 * MINUTE);
        let chunk = ChunkId(world.rng.bytes());
        let attackers = world.crowd_around(&chunk.0, nodes, *power, part);
        // They have all the time to get into tables.
        world.run_for(20 * MINUTE);
        let publisher = world.any_honest();
        world.provide(publisher, chunk);
        world.run_for(2 * MINUTE);
        let near = world.honest_near(&chunk.0, nodes);
        let keeps = |node: &&u32| world.core(**node).is_some_and(|core| core.records().has(&chunk));
        let kept = near.iter().filter(keeps).count();
        for turn in 0..lookups {
            let node = world.any_honest();
            world.look(node, chunk, Manner::Near, turn.is_multiple_of(2));
            world.run_for(2 * SECOND);
        }
        world.run_for(30 * SECOND);
        let all = world.take_all();
        let values = vec![
            attackers as f64,
            all.success_percent,
            all.asked,
            all.p50_ms,
            all.p99_ms,
            all.bytes,
            places_cost(attackers, nodes, part),
            kept as f64,
        ];
        report.rows.push((format!("{power} times the honest power"), values));
    }
    report
}

/// Hashes, log2, that so many places in a part of a region take.
fn places_cost(attackers: usize, nodes: usize, part: f64) -> f64 {
    let each = nodes as f64 / part / REGION_NODES as f64 * 2f64.powi(PLACE_FLOOR_BITS as i32);
    if attackers == 0 { 0.0 } else { (attackers as f64 * each).log2() }
}

impl World {
    /// Steering nodes in a part of a key's region, as many as so many times the honest hash power buys there.
    fn crowd_around(
        &mut self,
        key: &crate::overlay::place::Key,
        nodes: usize,
        power: f64,
        part: f64,
    ) -> usize {
        let key = *key;
        let region = (crate::overlay::density::region(nodes as u64) as f64 * part) as u64;
        // The region holds REGION_NODES of the honest; so much work makes so many times as many there, and none elsewhere.
        let attackers = (power * part * REGION_NODES as f64) as usize;
        let inside = move |place: &NodeId| leading(&distance(&key, &place.0)) <= region;
        for _ in 0..attackers {
            let friends = [self.any(), self.any()];
            self.join(&friends, Role::Steering, inside);
            self.run_for(SECOND / 2);
        }
        attackers
    }

    fn look_often(&mut self, chunk: ChunkId, lookups: usize) -> super::measure::Summary {
        for turn in 0..lookups {
            let node = self.any_honest();
            self.look(node, chunk, Manner::Near, turn.is_multiple_of(2));
            self.run_for(SECOND / 2);
        }
        self.run_for(30 * SECOND);
        self.take_all()
    }

    /// An attacker with so many addresses, each of a /16 of its own or all of one, gives all keepers of a key new false
    /// providers for so many minutes. How many identities that took.
    fn flood_for(&mut self, chunk: ChunkId, sites: usize, one_network: bool, minutes: u64) -> usize {
        let mut identities = 0;
        for _ in 0..minutes {
            for site in 0..sites {
                let [b, c] = (site as u16).to_be_bytes();
                let ip = if one_network { [198, 19, c, 1] } else { [50 + b, c, 7, 1] };
                // A few identities a minute from each: what a keeper would take of it at once.
                let records: Vec<_> =
                    (0..2).map(|_| self.made_up(&chunk.0, Some((ip, 4600).into()))).collect();
                identities += records.len();
                self.announce_all(&records, &chunk.0);
            }
            self.run_for(MINUTE);
        }
        identities
    }
}

/// Throw-away identities announce a key that they do not have, before its provider comes and after it. The provider looks
/// after it once an hour.
pub fn flood(nodes: usize, lookups: usize, sites: &[usize], settings: Settings) -> Report {
    let columns =
        ["identities", "log2 hashes", "success %", "asked", "tried in vain", "p50 ms", "p99 ms", "kept by"];
    let mut report =
        Report::new(format!("floods of false providers of one key among {nodes} nodes"), &columns);
    for (one_network, first) in [(true, false), (false, false), (false, true)] {
        for count in sites {
            let mut world = World::new(settings);
            world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
            world.run_for(5 * MINUTE);
            let chunk = ChunkId(world.rng.bytes());
            let mut identities = 0;
            if first {
                identities += world.flood_for(chunk, *count, one_network, 10);
            }
            let publisher = world.any_honest();
            world.provide(publisher, chunk);
            world.run_for(MINUTE);
            if !first {
                // Its provider has renewed it.
                world.run_for(61 * MINUTE);
            }
            identities += world.flood_for(chunk, *count, one_network, 10);
            let kept =
                world.core(publisher).and_then(|core| core.health(&chunk)).map_or(0, |health| health.kept);
            let all = world.look_often(chunk, lookups);
            let hashes = (identities as f64).log2() + f64::from(PLACE_FLOOR_BITS);
            let values = vec![
                identities as f64,
                hashes,
                all.success_percent,
                all.asked,
                all.vain,
                all.p50_ms,
                all.p99_ms,
                f64::from(kept),
            ];
            let networks = if one_network { "of one /16" } else { "of as many /16" };
            let when =
                if first { "before and after it is published" } else { "once it is published and renewed" };
            report.rows.push((format!("{count} addresses {networks}, {when}"), values));
        }
    }
    report
}

/// An attacker has so many times the honest hash power around the place of a node that enters, by one friend that is
/// honest and one that is not. What it finds, and whom it knows, after so many minutes.
pub fn join(nodes: usize, lookups: usize, powers: &[f64], settings: Settings) -> Report {
    let columns =
        ["attackers", "log2 hashes", "minutes", "hostile in its table, %", "success %", "p50 ms", "p99 ms"];
    let mut report = Report::new(format!("a node that enters among attackers and {nodes} nodes"), &columns);
    for power in powers {
        let mut world = World::new(settings);
        world.grow(nodes, 10 * MINUTE, 0.0, Role::Honest);
        world.run_for(5 * MINUTE);
        let chunks = world.publish(50);
        let place: [u8; 20] = world.rng.bytes();
        let attackers = world.crowd_around(&place, nodes, *power, 1.0);
        world.run_for(5 * MINUTE);
        let region = crate::overlay::density::region(nodes as u64);
        let friend = world.any_honest();
        let hostile =
            world.alive.iter().copied().find(|node| world.nodes[*node as usize].role != Role::Honest);
        let friends: Vec<u32> = hostile.into_iter().chain([friend]).collect();
        let newcomer =
            world.join(&friends, Role::Honest, |id| leading(&distance(&place, &id.0)) <= region / 2);
        for minutes in [1u32, 5] {
            world.run_for(minutes * MINUTE);
            for turn in 0..lookups {
                let chunk = chunks[turn % chunks.len()];
                world.look(newcomer, chunk, Manner::Near, true);
                world.run_for(2 * SECOND);
            }
            world.run_for(20 * SECOND);
            let all = world.take_all();
            let known = world.core(newcomer).map(|core| core.table().entries().map(|entry| entry.peer.id));
            let (mut hostile, mut of) = (0u32, 0u32);
            for id in known.into_iter().flatten() {
                of += 1;
                let node = world.by_id.get(&id).map(|node| world.nodes[*node as usize].role);
                hostile += u32::from(node.is_some_and(|role| role != Role::Honest));
            }
            let values = vec![
                attackers as f64,
                places_cost(attackers, nodes, 1.0),
                f64::from(minutes),
                100.0 * f64::from(hostile) / f64::from(of.max(1)),
                all.success_percent,
                all.p50_ms,
                all.p99_ms,
            ];
            report.rows.push((format!("{power} times the honest power, minute {minutes}"), values));
        }
    }
    report
}

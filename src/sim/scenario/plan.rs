//! What a seed says before anything runs: who is there and who knows whom, what is put and got, what goes wrong
//! and when.

use std::time::Duration;

use crate::base::Rng;
use crate::crypto::Secret;
use crate::limits::DATAGRAM_MIN;
use crate::sim::Crash;
use crate::sim::link::{ETHERNET_PAYLOAD, LinkConfig, Noise};
use crate::sim::nat::NatConfig;
use crate::sim::traps::Lie;
use crate::sim::trees::Tree;

/// Faults come within so much virtual time; then everything heals.
pub const TROUBLE: Duration = Duration::from_secs(25);

/// Everything that a run consists of.
pub struct Plan {
    /// What links are like unless `links` says otherwise.
    pub link: LinkConfig,
    /// Links of their own.
    pub links: Vec<(usize, usize, LinkConfig)>,
    /// The friends of each node; friendship is mutual.
    pub friends: Vec<Vec<usize>>,
    /// Who is behind a translator.
    pub nats: Vec<Option<NatConfig>>,
    /// Whether all take part in the overlay, and so may get from each other beyond friends.
    pub overlay: bool,
    /// How many shards each node has.
    pub shards: Vec<u8>,
    /// Whose slices must be faulted in before they are read.
    pub cold: Vec<bool>,
    /// Trees that are put.
    pub puts: Vec<PlannedPut>,
    /// Gets.
    pub gets: Vec<PlannedGet>,
    /// Damaged references and hostile trees that somebody is given.
    pub lures: Vec<PlannedLure>,
    /// Whose device and kernel gather what arrives, and for how long.
    pub coalesce: Vec<Option<Duration>>,
    /// Faults: when, and which.
    pub faults: Vec<(Duration, Fault)>,
}

/// One tree on one node.
pub struct PlannedPut {
    /// Where.
    pub node: usize,
    /// What.
    pub tree: Tree,
    /// In which domain.
    pub salt: Option<Secret>,
    /// When.
    pub at: Duration,
}

/// One get of what a put made.
pub struct PlannedGet {
    /// Where.
    pub node: usize,
    /// Which put.
    pub put: usize,
    /// A path inside it; empty: all of it.
    pub inside: Vec<u8>,
    /// When, at the earliest.
    pub at: Duration,
    /// Given up after so long, once.
    pub cancel_after: Option<Duration>,
    /// Run again after it was complete, replacing what is there.
    pub repeat: bool,
}

/// Something that is given to a person as a reference and is none, or an evil one.
#[derive(Debug, Clone, Copy)]
pub enum Lure {
    /// A reference's text with a bit flipped.
    Text(u64),
    /// A reference with a bit flipped below a checksum that is right.
    Forged(u64),
    /// A hostile tree.
    Tree(Lie),
}

/// One lure.
pub struct PlannedLure {
    /// Who is given it.
    pub node: usize,
    /// The put that it is made from, and whose node serves it.
    pub put: usize,
    /// What it is.
    pub lure: Lure,
    /// When, at the earliest.
    pub at: Duration,
}

/// Something that goes wrong, and for how long.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing passes between these nodes and the others.
    Part(Vec<usize>, Duration),
    /// Nothing passes from one to another.
    Cut(usize, usize, Duration),
    /// The translator before a node forgets.
    Rebind(usize),
    /// A node ends and comes back.
    Crash(usize, Crash, Duration),
    /// A node is told to stop, ends and comes back.
    Stop(usize, Duration),
    /// One message in ten between shards finds no room.
    Crossings(Duration),
    /// A node's disk has room for so many bytes more.
    Full(usize, u64, Duration),
    /// A node's store reaches its limit.
    Limit(usize, u64, Duration),
    /// A bit of a stored chunk flips: which chunk and byte, from random numbers.
    Rot(usize, u64, u64),
    /// A node serves wrong bytes of all chunks that it has.
    Lie(usize, u64),
    /// So many reads of a node's store fail.
    Unreadable(usize, u32),
    /// A node's wall clock is wrong by so many milliseconds.
    Skew(usize, i64, Duration),
    /// Datagrams that nobody asked for.
    Hostile(usize, u64),
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + rng.below(to - from + 1))
}

fn link(rng: &mut Rng) -> LinkConfig {
    let mut link = LinkConfig::clean(millis(rng, 1, 150));
    if rng.chance(0.7) {
        link.rate = Some([1, 3, 10, 50, 300][rng.below(5) as usize] * 1_000_000);
        link.queue = (32 << 10) << rng.below(5);
        link.mark_above = rng.chance(0.3).then_some(link.queue / 3);
    }
    if rng.chance(0.5) {
        link.jitter = millis(rng, 0, 20);
    }
    if rng.chance(0.4) {
        (link.reorder, link.reorder_by) = (0.1 * rng.below(5) as f64 / 4.0, millis(rng, 1, 20));
    }
    link.noise = match rng.below(6) {
        0 => Noise::Independent(0.05),
        1 => Noise::Independent(0.01),
        2 => Noise::Bursts { enter: 0.002, leave: 0.1, good: 0.0005, bad: 0.5 },
        _ => Noise::Independent(0.0),
    };
    if rng.chance(0.4) {
        link.duplicate = 0.02;
    }
    if rng.chance(0.4) {
        link.corrupt = 0.005;
    }
    if rng.chance(0.3) {
        link.mtu = DATAGRAM_MIN + rng.below((ETHERNET_PAYLOAD - DATAGRAM_MIN) as u64) as usize;
    }
    link
}

impl Plan {
    /// The plan of a seed, for as many nodes as told or as the seed likes.
    pub fn new(rng: &mut Rng, nodes: Option<usize>) -> Self {
        let count = nodes.unwrap_or(2 + rng.below(11) as usize).max(2);
        let mut friends = vec![Vec::new(); count];
        for a in 0..count {
            for _ in 0..1 + rng.below(3) {
                let b = rng.below(count as u64) as usize;
                if a != b && !friends[a].contains(&b) {
                    friends[a].push(b);
                    friends[b].push(a);
                }
            }
        }
        let nats = (0..count).map(|_| match rng.below(10) {
            0 | 1 => Some(NatConfig::cone()),
            2 => Some(NatConfig::symmetric()),
            _ => None,
        });
        let nats = nats.collect();
        let mut links = Vec::new();
        for _ in 0..rng.below(count as u64) {
            let pick = |rng: &mut Rng| rng.below(count as u64) as usize;
            links.push((pick(rng), pick(rng), link(rng)));
        }
        let cold = (0..count).map(|_| rng.chance(0.3)).collect();
        let mut plan = Self {
            link: link(rng),
            links,
            friends,
            nats,
            cold,
            shards: (0..count).map(|_| if rng.chance(0.4) { 1 } else { 2 + rng.below(3) as u8 }).collect(),
            coalesce: (0..count)
                .map(|_| rng.chance(0.4).then(|| Duration::from_micros(rng.below(300))))
                .collect(),
            overlay: false,
            lures: Vec::new(),
            puts: Vec::new(),
            gets: Vec::new(),
            faults: Vec::new(),
        };
        plan.traffic(rng);
        plan.bait(rng);
        plan.trouble(rng);
        plan
    }

    /// What there is to say of each node.
    pub fn about(&self) -> impl Iterator<Item = String> {
        let Self { friends, nats, shards, overlay, .. } = self;
        friends.iter().enumerate().map(move |(node, friends)| {
            let behind = nats[node].map(|nat| format!(", behind {nat:?}")).unwrap_or_default();
            format!("friends {friends:?}, {} shards, overlay {overlay}{behind}", shards[node])
        })
    }

    fn traffic(&mut self, rng: &mut Rng) {
        let count = self.friends.len();
        for _ in 0..1 + rng.below(4) {
            // The slowest link takes a minute for so much.
            let mut tree = Tree::random(rng);
            while tree.bytes() > 4 << 20 {
                tree = Tree::random(rng);
            }
            let salt = rng.chance(0.2).then(|| Secret::from_bytes(rng.bytes()));
            let first = rng.below(count as u64) as usize;
            for copy in 0..1 + rng.below(3) as usize {
                let (node, tree, salt) = ((first + copy) % count, tree.clone(), salt.clone());
                self.puts.push(PlannedPut { node, tree, salt, at: millis(rng, 0, 3000) });
            }
            if rng.chance(0.3) {
                // Once more in the midst of it.
                self.puts.push(PlannedPut { node: first, tree, salt, at: millis(rng, 8000, 20_000) });
            }
        }
        for _ in 0..2 + rng.below(8) {
            let put = rng.below(self.puts.len() as u64) as usize;
            let holder = &self.friends[self.puts[put].node];
            // Mostly by somebody who can have it.
            let node = match holder.get(rng.below(holder.len() as u64) as usize) {
                Some(&friend) if rng.chance(0.9) => friend,
                _ => rng.below(count as u64) as usize,
            };
            let paths: Vec<_> = self.puts[put].tree.entries.keys().collect();
            let inside = match rng.chance(0.3) {
                true => paths[rng.below(paths.len() as u64) as usize].clone(),
                false => Vec::new(),
            };
            self.gets.push(PlannedGet {
                node,
                put,
                inside,
                at: millis(rng, 0, 18_000),
                cancel_after: rng.chance(0.15).then(|| millis(rng, 1, 2000)),
                repeat: rng.chance(0.1),
            });
        }
    }

    fn bait(&mut self, rng: &mut Rng) {
        for _ in 0..rng.below(3) {
            let put = rng.below(self.puts.len() as u64) as usize;
            let friends = &self.friends[self.puts[put].node];
            let Some(&node) = friends.get(rng.below(friends.len().max(1) as u64) as usize) else { continue };
            let lure = match rng.below(5) {
                0 => Lure::Text(rng.next_u64()),
                1 | 2 => Lure::Forged(rng.next_u64()),
                _ => Lure::Tree(Lie::ALL[rng.below(Lie::ALL.len() as u64) as usize]),
            };
            self.lures.push(PlannedLure { node, put, lure, at: millis(rng, 0, 18_000) });
        }
    }

    fn trouble(&mut self, rng: &mut Rng) {
        let count = self.friends.len() as u64;
        for _ in 0..rng.below(3 + 2 * count) {
            let at = millis(rng, 0, 22_000);
            let node = rng.below(count) as usize;
            let long = millis(rng, 50, 8000);
            let fault = match rng.below(21) {
                0 | 1 => Fault::Part((0..count as usize).filter(|_| rng.chance(0.4)).collect(), long),
                2 => Fault::Cut(node, rng.below(count) as usize, long),
                3 => Fault::Rebind(node),
                4..=6 => Fault::Crash(node, Crash::Process, long),
                7..=9 => Fault::Crash(node, Crash::Power, long),
                10 => Fault::Full(node, rng.below(2 << 20), long),
                11 => Fault::Limit(node, rng.below(2 << 20), long),
                12 | 13 => Fault::Rot(node, rng.next_u64(), rng.next_u64()),
                14 => Fault::Lie(node, rng.next_u64()),
                15 => Fault::Unreadable(node, 1 + rng.below(40) as u32),
                16 => Fault::Skew(node, rng.below(240_000) as i64 - 120_000, long),
                17 => Fault::Stop(node, long),
                18 => Fault::Crossings(long),
                19 => Fault::Rot(node, rng.next_u64(), rng.next_u64()),
                _ => Fault::Hostile(node, 1 + rng.below(200)),
            };
            // Puts are early.
            let at = if matches!(fault, Fault::Limit(..)) { at / 6 } else { at };
            self.faults.push((at, fault));
        }
    }
}

//! The routing and the lookup alone, at sizes at which nodes cannot all be there at once: the table of a node that is
//! asked is made when it is asked, from the sorted places of all nodes and the node's own seed, full as it would be after
//! a long time; then the same code answers, and the same lookup asks, in rounds without time or loss.

use std::collections::BTreeSet;

use super::scenarios::Report;
use crate::base::{NodeId, PublicKey, Rng, Time};
use crate::crypto::{IdentityCard, rank};
use crate::limits::BUCKET_CONTACTS_MAX;
use crate::overlay::density;
use crate::overlay::lookup::{Lookup, Style};
use crate::overlay::place::{Key, distance};
use crate::overlay::serve;
use crate::overlay::table::Table;
use crate::overlay::{Goal, Manner, Peer, Wanted};
use crate::wire::overlay::{Answer, Body, Contact, Message, Record};

/// Bytes of a contact's IPv4 address, which these contacts have not.
const ADDRESS: u64 = 7;

/// All places, 24 bytes each.
pub struct Map {
    seed: u64,
    places: Vec<(Key, u32)>,
    record: Record,
}

/// What a lookup came to.
#[derive(Debug, Clone, Copy, Default)]
struct Walk {
    found: bool,
    rounds: u32,
    hops: u32,
    asked: u32,
    bytes: u64,
}

fn card(number: u32) -> IdentityCard {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    IdentityCard { key: PublicKey(key), place_nonce: 0, rank_nonce: 0 }
}

impl Map {
    /// So many nodes.
    pub fn new(nodes: u32, seed: u64) -> Self {
        let place = |number| (rank::place(&card(number).key, 0).0, number);
        let mut places: Vec<(Key, u32)> = (0..nodes).map(place).collect();
        places.sort_unstable();
        let identity = crate::crypto::Identity::new(crate::crypto::kdf::Secret::from_bytes([1; 32]), 0, 0);
        let chunk = crate::base::ChunkId([0; 20]);
        let record = Record::sign(&identity, &chunk, Contact::new(*identity.card(), []), 1);
        Self { seed, places, record }
    }

    fn peer(&self, at: usize) -> Peer {
        let (place, number) = self.places[at];
        Peer { id: NodeId(place), contact: Contact::new(card(number), []) }
    }

    /// Those that share exactly so many bits with a place, as a range.
    fn sharing(&self, place: &Key, bits: u32) -> std::ops::Range<usize> {
        let mut first = crate::overlay::place::sharing(place, bits, [0; 20]);
        // `sharing` keeps what comes after the bits as drawn: nothing, for the first, and everything, for the last.
        let from = self.places.partition_point(|(other, _)| *other < first);
        first = crate::overlay::place::sharing(place, bits, [0xff; 20]);
        let to = self.places.partition_point(|(other, _)| *other <= first);
        from..to
    }

    /// A node's table: a full bucket, or all there are, of every distance; drawn anew the same each time.
    fn table(&self, own: &NodeId) -> Table {
        let mut table = Table::new(*own, 0, 0);
        let mut rng =
            Rng::from_number(self.seed ^ u64::from_le_bytes(*own.0.first_chunk().expect("20 bytes")));
        for bits in 0..160 {
            let range = self.sharing(&own.0, bits);
            let mut left = BUCKET_CONTACTS_MAX.min(range.len());
            let mut drawn = BTreeSet::new();
            while left > 0 {
                let at = range.start + rng.below(range.len() as u64) as usize;
                if drawn.insert(at) {
                    table.admit(self.peer(at), Time::ZERO);
                    left -= 1;
                }
            }
            // Nobody shares more than the nearest does.
            if range.is_empty() && bits > 8 && self.sharing(&own.0, bits + 1).is_empty() {
                break;
            }
        }
        table
    }

    /// The nodes nearest to a place.
    fn nearest(&self, key: &Key, count: usize) -> Vec<NodeId> {
        // They share the most bits with it: widen until there are enough.
        let mut bits = 159;
        let inside = loop {
            let mask = |fill: u8| -> Key {
                std::array::from_fn(|at| {
                    let kept = (bits as usize).saturating_sub(8 * at).min(8);
                    let keep = if kept == 8 { 0xff } else { !(0xff_u8 >> kept) };
                    key[at] & keep | fill & !keep
                })
            };
            let from = self.places.partition_point(|(other, _)| *other < mask(0));
            let to = self.places.partition_point(|(other, _)| *other <= mask(0xff));
            if to - from >= count || bits == 0 {
                break from..to;
            }
            bits -= 1;
        };
        let mut all: Vec<NodeId> = self.places[inside].iter().map(|(place, _)| NodeId(*place)).collect();
        all.sort_unstable_by_key(|id| distance(key, &id.0));
        all.truncate(count);
        all
    }

    /// One lookup from a node, until a holder told. Whom a record should be spread to, too.
    fn walk(
        &self,
        from: usize,
        key: Key,
        manner: Manner,
        holders: &BTreeSet<NodeId>,
        rng: &mut Rng,
    ) -> (Walk, Option<NodeId>) {
        let own = self.peer(from).id;
        let table = self.table(&own);
        let region = density::region(self.places.len() as u64);
        let (parallel, paths) = if manner == Manner::Near { (3, 3) } else { (1, 1) };
        let far = if manner == Manner::Near {
            Vec::new()
        } else {
            table.farthest(&key, 0, 3, usize::MAX, rng.below(16) as usize)
        };
        let start = far.into_iter().chain(table.nearest(&key, 12)).map(|entry| entry.peer);
        let wanted = Wanted { key, goal: Goal::Providers(u8::MAX), manner, quiet: false };
        let mut lookup = Lookup::new(wanted, Style::new(parallel, paths, region), start);
        let mut walk = Walk::default();
        while !walk.found {
            let questions: Vec<_> = std::iter::from_fn(|| lookup.poll()).collect();
            if questions.is_empty() {
                break;
            }
            walk.rounds += 1;
            for (peer, find) in questions {
                walk.asked += 1;
                let asked = self.table(&peer.id);
                let contacts = serve::contacts(
                    &asked,
                    &own,
                    &find,
                    rng.below(1 << 20) as usize,
                    rng,
                    (&|_| true, &|_| true),
                );
                let has = holders.contains(&peer.id);
                let records = if has { vec![self.record] } else { Vec::new() };
                let answer = Answer { contacts, records: records.clone(), ..Answer::default() };
                let peers: Vec<Peer> = answer.contacts.iter().map(|contact| Peer::of(*contact)).collect();
                let contacts = answer.contacts.len() as u64;
                lookup.answered(
                    &peer.id,
                    &peer.contact,
                    &answer,
                    records,
                    peers.into_iter().filter(|peer| peer.id != own),
                );
                let question = Message { number: 0, body: Body::Find(find) }.emit().len() as u64;
                let answer = Message { number: 0, body: Body::Answer(answer) }.emit().len() as u64;
                walk.bytes += question + answer + ADDRESS * contacts;
                walk.found |= has;
            }
        }
        let spread = lookup.spread().map(|peer| peer.id);
        let outcome = lookup.finish();
        walk.hops = outcome.hops;
        (walk, spread)
    }

    fn any(&self, rng: &mut Rng) -> usize {
        rng.below(self.places.len() as u64) as usize
    }
}

const COLUMNS: &[&str] = &["found %", "hops", "rounds", "most rounds", "asked", "message bytes"];

fn numbers(walks: &[Walk]) -> Vec<f64> {
    let mean = |of: fn(&Walk) -> f64| walks.iter().map(of).sum::<f64>() / walks.len().max(1) as f64;
    vec![
        mean(|walk| f64::from(u8::from(walk.found)) * 100.0),
        mean(|walk| f64::from(walk.hops)),
        mean(|walk| f64::from(walk.rounds)),
        walks.iter().map(|walk| walk.rounds).max().unwrap_or(0).into(),
        mean(|walk| f64::from(walk.asked)),
        mean(|walk| walk.bytes as f64),
    ]
}

/// Lookups of chunks of which `copies` nodes know, those nearest to it: hops by manner and by size.
pub fn sizes(sizes: &[u32], lookups: usize, seed: u64) -> Report {
    let mut report = Report {
        title: format!(
            "lookup alone, {lookups} lookups each; one node knows, or the {} of a region",
            crate::limits::REGION_NODES
        ),
        columns: COLUMNS.to_vec(),
        rows: Vec::new(),
    };
    for nodes in sizes {
        let map = Map::new(*nodes, seed);
        let mut rng = Rng::from_number(seed);
        let runs = [
            ("far-first, one copy", Manner::Far { stride: 1 }, 1),
            ("far-first, region", Manner::Far { stride: 1 }, crate::limits::REGION_NODES),
            ("far-first by 4 bits, region", Manner::Far { stride: 4 }, crate::limits::REGION_NODES),
            ("near-first, one copy", Manner::Near, 1),
            ("near-first, region", Manner::Near, crate::limits::REGION_NODES),
        ];
        for (name, manner, copies) in runs {
            let walks: Vec<Walk> = (0..lookups)
                .map(|_| {
                    let key: Key = rng.bytes();
                    let holders = map.nearest(&key, copies).into_iter().collect();
                    map.walk(map.any(&mut rng), key, manner, &holders, &mut rng).0
                })
                .collect();
            report.rows.push((
                format!("{nodes} nodes (2^{:.1}), {name}", f64::from(*nodes).log2()),
                numbers(&walks),
            ));
        }
    }
    report
}

/// Far-first lookups of one chunk after another, each of which leaves a record one step farther out: hops by how often
/// it was looked for before. Means over some chunks.
pub fn popularity(nodes: u32, chunks: usize, doublings: u32, seed: u64) -> Report {
    let map = Map::new(nodes, seed);
    let mut rng = Rng::from_number(seed);
    let mut report = Report {
        title: format!(
            "far-first among {nodes} nodes: hops of lookups 2^n to 2^(n+1) of a chunk, {chunks} chunks"
        ),
        columns: COLUMNS.to_vec(),
        rows: Vec::new(),
    };
    let mut walks: Vec<Vec<Walk>> = vec![Vec::new(); doublings as usize];
    for _ in 0..chunks {
        let key: Key = rng.bytes();
        let mut holders: BTreeSet<NodeId> =
            map.nearest(&key, crate::limits::REGION_NODES).into_iter().collect();
        for number in 1..1u32 << doublings {
            let (walk, spread) =
                map.walk(map.any(&mut rng), key, Manner::Far { stride: 1 }, &holders, &mut rng);
            walks[number.ilog2() as usize].push(walk);
            holders.extend(spread);
        }
    }
    for (doubling, walks) in walks.iter().enumerate() {
        report.rows.push((format!("2^{doubling}"), numbers(walks)));
    }
    report
}

/// Far-first lookups of chunks that all nodes around them have, as many as popularity pays for: hops by copies.
pub fn copies(nodes: u32, lookups: usize, seed: u64) -> Report {
    let map = Map::new(nodes, seed);
    let mut rng = Rng::from_number(seed);
    let mut report = Report {
        title: format!("far-first among {nodes} nodes: hops by how many of the nearest nodes have it"),
        columns: COLUMNS.to_vec(),
        rows: Vec::new(),
    };
    for doubling in (0..=14).step_by(2) {
        let walks: Vec<Walk> = (0..lookups)
            .map(|_| {
                let key: Key = rng.bytes();
                let holders = map.nearest(&key, 1 << doubling).into_iter().collect();
                map.walk(map.any(&mut rng), key, Manner::Far { stride: 1 }, &holders, &mut rng).0
            })
            .collect();
        report.rows.push((format!("2^{doubling} copies"), numbers(&walks)));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::place::shared_bits;

    #[test]
    fn tables_by_construction_are_what_they_should_be() {
        let map = Map::new(3000, 1);
        let own = map.peer(7).id;
        let table = map.table(&own);
        for (bits, bucket) in table.buckets().iter().enumerate() {
            let range = map.sharing(&own.0, bits as u32);
            assert_eq!(bucket.entries().len(), range.len().min(BUCKET_CONTACTS_MAX));
            assert!(
                bucket.entries().iter().all(|entry| shared_bits(&own.0, &entry.peer.id.0) == bits as u32)
            );
        }
        let key = [0x5a; 20];
        let mut all: Vec<NodeId> = map.places.iter().map(|(place, _)| NodeId(*place)).collect();
        all.sort_by_key(|id| distance(&key, &id.0));
        assert_eq!(map.nearest(&key, 20), all[..20]);
    }

    #[test]
    fn hops_grow_with_the_logarithm_and_shrink_with_popularity() {
        let report = sizes(&[1 << 8, 1 << 12], 40, 1);
        let get = |row: &str, column| report.get(row, column).expect("a row");
        let far = |size: &str| get(&format!("{size}, far-first, one copy"), "hops");
        let (small, large) = (far("256 nodes (2^8.0)"), far("4096 nodes (2^12.0)"));
        assert!(large > small + 2.0 && large < 13.0, "four doublings: {small} and {large}");
        for (row, values) in &report.rows {
            assert!(values[0] > 99.0, "{row}: all are found");
        }
        assert!(get("4096 nodes (2^12.0), near-first, region", "most rounds") <= 5.0);
        let report = popularity(1 << 10, 4, 6, 1);
        assert!(report.get("2^5", "hops") < report.get("2^0", "hops"), "what is wanted comes nearer");
    }
}

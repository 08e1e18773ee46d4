//! Chunks that are given to keepers: the giver goes, and what it gave is got from them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::overlay::{counter, join, network, rest, rules, status};
use super::{Tree, assert_restored, finish, get, lossy, millis, put, tree};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, NewChunk};
use crate::chunk::SliceList;
use crate::limits::PUSH_COPIES_MIN;
use crate::node::Command;
use crate::node::command::{OverlayRules, Report};
use crate::sim::Crash;
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;
use crate::sim::store::MapStore;
use crate::wire::reference::Reference;

const JOB: JobId = JobId(77);

/// What a tree becomes, apart from every node's store.
pub(super) fn chunks(number: u64) -> (Tree, Reference, Vec<NewChunk>) {
    let mut elsewhere = Net::new(1, 1, LinkConfig::clean(millis(1)));
    let tree = tree(number);
    let reference = put(&mut elsewhere, &[0], &tree);
    let store = &elsewhere.nodes[0].world.store;
    let new = |id: ChunkId| {
        let bytes = store.get(&id).expect("stored").to_vec();
        let list = SliceList::from_chunk(&bytes);
        NewChunk { id, root: *list.root(), list: list.as_bytes().to_vec(), bytes }
    };
    (tree, reference, store.ids().into_iter().map(new).collect())
}

fn placed(net: &Net, node: usize) -> BTreeMap<ChunkId, u8> {
    let reports = net.nodes[node].reports.iter();
    let placed = reports.filter_map(|report| match report {
        Report::Placed(placed) if placed.job == JOB => Some((placed.chunk, placed.keepers)),
        _ => None,
    });
    placed.collect()
}

/// Has a node give chunks away, as many at once as it takes; which have how many keepers.
fn give(net: &mut Net, node: usize, chunks: &[NewChunk]) -> BTreeMap<ChunkId, u8> {
    let before = placed(net, node).len();
    for (at, chunk) in chunks.iter().enumerate() {
        // Four of a mebibyte are what waits at once.
        let done = before + at.saturating_sub(3);
        assert!(
            net.run_until(Duration::from_secs(300), |net| placed(net, node).len() >= done),
            "seed {}: {at} given, {} placed",
            net.seed,
            placed(net, node).len()
        );
        net.command(node, Command::Push { job: JOB, chunk: Box::new(chunk.clone()), anonymous: false });
    }
    net.run_until(Duration::from_secs(300), |net| placed(net, node).len() == before + chunks.len());
    placed(net, node)
}

fn has(store: &MapStore, chunk: &ChunkId) -> bool {
    store.is_sound(chunk)
}

#[test]
fn what_is_given_to_keepers_is_got_when_its_giver_has_gone() {
    for seed in 90..93 {
        let mut net = network(seed, &[1; 16], lossy(0.01));
        let (tree, reference, chunks) = chunks(seed);
        let keepers = give(&mut net, 3, &chunks);
        assert_eq!(keepers.len(), chunks.len(), "seed {seed}");
        assert!(
            keepers.values().all(|count| usize::from(*count) >= PUSH_COPIES_MIN),
            "seed {seed}: {keepers:?}"
        );
        for (chunk, count) in &keepers {
            let there = (0..16).filter(|node| has(&net.nodes[*node].world.store, chunk)).count();
            assert!(there >= usize::from(*count), "seed {seed}: {there} have it, {count} said so");
            assert!(!has(&net.nodes[3].world.store, chunk), "seed {seed}: the giver serves it");
        }
        assert_eq!(status(&mut net, 3, 9).overlay.expect("on").provided, 0, "and does not provide it");
        rest(&mut net, Duration::from_secs(20));
        net.crash(3, Crash::Process);
        for node in [0, 7, 15] {
            get(&mut net, node, 1, &reference, &[]);
            assert_eq!(finish(&mut net, node, 1, 180), Ok(()), "seed {seed}, node {node}");
            assert_restored(&net, node, &tree);
        }
    }
}

/// Found by review: what an anonymous job had left to give when it failed was given by the node's own name.
#[test]
fn an_anonymous_jobs_chunk_goes_no_other_way_when_there_is_no_job() {
    let (_, _, chunks) = chunks(9);
    let mut net = network(9, &[1; 8], LinkConfig::clean(millis(10)));
    for chunk in &chunks {
        let chunk = Box::new(chunk.clone());
        net.command(0, Command::Push { job: JOB, chunk, anonymous: true });
    }
    net.run_for(Duration::from_secs(20));
    assert_eq!(placed(&net, 0).values().max(), Some(&0), "each is said to be kept by nobody");
    assert_eq!(placed(&net, 0).len(), chunks.len());
    let offers = super::overlay::counter(&status(&mut net, 0, 9), "push_offers");
    assert_eq!(offers, 0, "and nobody was asked");
}

#[test]
fn keepers_that_die_meanwhile_are_replaced_by_others() {
    for seed in [94, 95] {
        let mut net = network(seed, &[1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1], lossy(0.005));
        let (tree, reference, chunks) = chunks(seed);
        let half = chunks.len() / 2;
        give(&mut net, 0, &chunks[..half]);
        for node in [2, 5, 9, 13] {
            net.crash(node, Crash::Process);
        }
        let keepers = give(&mut net, 0, &chunks[half..]);
        // Those that died may have been among the first's keepers.
        let late = chunks[half..].iter().map(|chunk| keepers.get(&chunk.id).copied().unwrap_or(0));
        assert!(late.clone().all(|count| usize::from(count) >= PUSH_COPIES_MIN), "seed {seed}: {keepers:?}");
        rest(&mut net, Duration::from_secs(20));
        net.crash(0, Crash::Process);
        get(&mut net, 15, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 15, 1, 240), Ok(()), "seed {seed}");
        assert_restored(&net, 15, &tree);
    }
}

#[test]
fn what_is_kept_is_provided_again_after_a_restart_and_withdrawn_when_it_made_room() {
    let mut net = network(96, &[1; 5], LinkConfig::clean(millis(5)));
    let (tree, reference, chunks) = chunks(96);
    let keepers = give(&mut net, 0, &chunks);
    assert!(keepers.values().all(|count| *count == 4), "four others: {keepers:?}");
    rest(&mut net, Duration::from_secs(10));
    let shown = status(&mut net, 2, 9).overlay.expect("on");
    assert_eq!((shown.provided, shown.announced), (chunks.len() as u64, chunks.len() as u64));
    for node in 0..5 {
        net.crash(node, Crash::Process);
    }
    net.nodes[4].world.store = MapStore::default();
    // What its disk has is named to it then, as the control thread does.
    net.start(2);
    net.start(4);
    assert_eq!(status(&mut net, 4, 8).overlay.expect("on").provided, 0);
    assert_eq!(status(&mut net, 2, 8).overlay.expect("on").provided, chunks.len() as u64);
    rest(&mut net, Duration::from_secs(60));
    get(&mut net, 4, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 4, 1, 120), Ok(()));
    assert_restored(&net, 4, &tree);
    // Its cache loses all of it: withdrawn when each is looked after.
    net.nodes[2].world.store = MapStore::default();
    rest(&mut net, Duration::from_secs(2 * 3600));
    assert_eq!(status(&mut net, 2, 7).overlay.expect("on").provided, 0);
}

#[test]
fn who_does_not_keep_is_not_asked_twice_and_nobody_is_told_so() {
    let mut net = network(97, &[1; 6], LinkConfig::clean(millis(5)));
    for node in 1..6 {
        let closed = OverlayRules { keep: None, ..rules(&net, node, &[0]) };
        net.command(node, Command::Overlay(Box::new(closed)));
    }
    let (.., chunks) = chunks(97);
    let keepers = give(&mut net, 0, &chunks[..2]);
    assert_eq!(keepers.values().copied().collect::<Vec<_>>(), [0, 0]);
    assert!((1..6).all(|node| net.nodes[node].world.store.ids().is_empty()));
    // And one that keeps again says so at once.
    join(&mut net, 4, &[0]);
    rest(&mut net, Duration::from_secs(60));
    let keepers = give(&mut net, 0, &chunks[2..3]);
    assert_eq!(keepers[&chunks[2].id], 1);
    assert_eq!(counter(&status(&mut net, 4, 9), "keep_chunks"), 1);
}

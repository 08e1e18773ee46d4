//! Many nodes with little to do: how fast the simulator is when most of what happens is keeping sessions.

use std::time::Duration;

use crate::base::Rng;
use crate::base::fileop::JobId;
use crate::node::{Command, Report};
use crate::service::get::GetRequest;
use crate::sim::import::{Import, Imported};
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;
use crate::sim::trees::Tree;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Light {
    /// Virtual time.
    pub time: Duration,
    /// Events.
    pub events: u64,
    /// The most things that happened at one virtual instant.
    pub busiest: u64,
    /// Gets that were asked for, and that are complete.
    pub gets: (u64, u64),
    /// Hash of everything that happened.
    pub hash: String,
}

/// `count` nodes with three friends each; one in ten gets a small tree from a friend.
pub fn light(seed: u64, count: usize, time: Duration) -> Light {
    let mut net = Net::new(seed, count, LinkConfig::clean(Duration::from_millis(20)));
    let mut rng = Rng::from_number(seed);
    let begin = net.now;
    for node in 0..count {
        let friends: Vec<usize> = [1, 7, 31].map(|step| (node + step) % count).to_vec();
        net.befriend(node, &friends);
    }
    net.run_for(Duration::from_secs(2));
    let mut gets = 0;
    for node in (0..count).step_by(10) {
        let mut tree = Tree::default();
        while tree.entries.is_empty() || tree.bytes() > 300_000 {
            tree = Tree::random(&mut rng);
        }
        let imported = put(&mut net, (node + 1) % count, &tree, &mut rng);
        gets += 1;
        let request = GetRequest {
            job: JobId(1),
            reference: imported.reference,
            inside: Vec::new(),
            root: "/out".into(),
            rename: None,
            merge: false,
            overwrite: false,
        };
        net.command(node, Command::Get(request));
    }
    net.run_for(time.saturating_sub(net.now.since(begin)));
    let done = |report: &Report| matches!(report, Report::Done(..));
    let complete =
        net.nodes.iter().flat_map(|node| &node.reports).filter(|report| done(report)).count() as u64;
    let time = net.now.since(begin);
    Light {
        time,
        busiest: net.busiest() as u64,
        events: net.trace.events(),
        gets: (gets, complete),
        hash: net.trace.hash(),
    }
}

fn put(net: &mut Net, node: usize, tree: &Tree, rng: &mut Rng) -> Imported {
    let mut import = Import::new(tree, None, 0);
    let (now, store) = (net.now, &mut net.nodes[node].world.store);
    loop {
        if let Some(ended) = import.step(now, store, rng) {
            return ended.expect("nothing is in its way");
        }
        if let Some(at) = store.poll_timeout() {
            store.handle_timeout(at);
        }
        store.take_acknowledged().into_iter().for_each(|(_, result)| import.acknowledged(result));
    }
}

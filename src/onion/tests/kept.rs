//! A keeper over a line of hops that fail it.

use super::super::keep::{Keeper, Kept, StuckWhy};
use super::super::path::{Leaving, NoPath, Relay, Relays, Want};
use super::super::*;
use super::net::{Net, key};
use crate::limits::{CIRCUIT_REBUILD_MS_JITTER, CIRCUIT_REBUILD_MS_MIN, PATH_ATTEMPTS_MAX};
use crate::wire::build::Status;
use std::time::Duration;

/// The origin's keeper, hearing what node 0 tells.
struct Scene {
    net: Net,
    keeper: Keeper,
    relays: Relays,
    heard: usize,
    kept: Vec<Kept>,
}

impl Scene {
    /// Nodes 1 and 2 are friends of node 0, node 3 the exit; each has a session with each.
    fn new(force: bool, friends: usize) -> Self {
        let mut net = Net::new(11, 3);
        net.connect(0, 2);
        net.connect(1, 3);
        let mut relays = Relays::default();
        for (n, hop) in net.route(0).hops.into_iter().enumerate() {
            let entry = (n < friends).then_some(LinkId(n as u64 + 1));
            relays.learn(Relay { hop, trust: 50, exit: n == 2, entry, leaving: Leaving::No });
        }
        let want = Want { hops: 2, exit: None, force, resume: [7; 32], several: false };
        let keeper = Keeper::new(net.now, want);
        Self { net, keeper, relays, heard: 0, kept: Vec::new() }
    }

    fn run_for(&mut self, ms: u64) {
        let until = self.net.now + Duration::from_millis(ms);
        while self.net.now < until {
            let mut rng = self.net.rng.fork();
            self.keeper.handle_timeout(self.net.now, &mut self.net.nodes[0], &mut self.relays, &mut rng);
            self.net.settle(0);
            let own: Vec<Event> = self.net.events[self.heard..]
                .iter()
                .filter(|(n, _)| *n == 0)
                .map(|(_, e)| e.clone())
                .collect();
            self.heard = self.net.events.len();
            for event in own {
                self.keeper.handle_event(self.net.now, &event, &mut self.net.nodes[0], &mut self.relays);
            }
            self.net.settle(0);
            self.kept.extend(std::iter::from_fn(|| self.keeper.poll_event()));
            let next = (self.net.now + Duration::from_millis(50)).min(until);
            self.net.run_until(next);
        }
    }
}

#[test]
fn a_hop_that_refuses_is_gone_around() {
    let mut scene = Scene::new(false, 2);
    scene.net.refusing.insert(1, Status::Busy);
    scene.run_for(10_000);
    let circuit = scene.keeper.circuit().expect("by way of the other friend");
    assert_eq!(scene.kept, [Kept::Ready(circuit)]);
    assert_eq!(scene.keeper.hops(), [key(2), key(3)]);
}

#[test]
fn a_circuit_that_dies_is_replaced_at_once_and_the_next_avoids_the_dead() {
    let mut scene = Scene::new(false, 2);
    scene.run_for(2_000);
    let first = scene.keeper.circuit().unwrap();
    let entry = scene.keeper.hops()[0];
    let node = (1..3).find(|n| key(*n) == entry).unwrap();
    scene.net.disconnect(0, node);
    scene.relays.forget(&entry);
    scene.run_for(10_000);
    assert_eq!(scene.kept[1], Kept::Down(EndedWhy::Lost));
    // One friend is too few to hide among.
    assert_eq!(scene.kept[2], Kept::Stuck(NoPath::Entries(1).into()));
    assert_eq!((scene.kept.len(), scene.keeper.circuit()), (3, None));
    let mut scene = Scene::new(true, 2);
    scene.run_for(2_000);
    let entry = scene.keeper.hops()[0];
    let node = (1..3).find(|n| key(*n) == entry).unwrap();
    scene.net.disconnect(0, node);
    scene.relays.forget(&entry);
    scene.run_for(1_000);
    assert_ne!(scene.keeper.circuit(), Some(first));
    assert_ne!(scene.keeper.hops()[0], entry, "{:?}", scene.kept);
}

#[test]
fn a_circuit_is_replaced_before_its_time() {
    let mut scene = Scene::new(false, 2);
    scene.run_for(2_000);
    let first = scene.keeper.circuit().unwrap();
    scene.run_for(CIRCUIT_REBUILD_MS_MIN + CIRCUIT_REBUILD_MS_JITTER + 10_000);
    let second = scene.keeper.circuit().unwrap();
    assert_ne!(first, second);
    assert!(
        !scene.kept.iter().any(|kept| matches!(kept, Kept::Down(_))),
        "never without one: {:?}",
        scene.kept
    );
    assert_eq!(scene.net.nodes[0].len(), (0, 1), "the old one is gone");
}

#[test]
fn a_relay_that_leaves_is_led_around_before_it_goes() {
    let mut scene = Scene::new(true, 2);
    scene.run_for(2_000);
    let entry = scene.keeper.hops()[0];
    let leave = |scene: &mut Scene, key: PublicKey| {
        let relay = *scene.relays.get(&key).expect("known");
        scene.relays.learn(Relay { leaving: Leaving::Said, ..relay });
        scene.keeper.part(scene.net.now, &scene.relays);
    };
    leave(&mut scene, entry);
    scene.run_for(2_000);
    assert_ne!(scene.keeper.hops()[0], entry);
    let second = scene.keeper.hops()[0];
    assert!(!scene.kept.iter().any(|kept| matches!(kept, Kept::Down(_))), "{:?}", scene.kept);
    // Where there is no other, it is used until it goes, and nobody is told that there is none.
    leave(&mut scene, second);
    scene.run_for(10_000);
    assert_eq!(scene.keeper.hops()[0], second);
    assert!(scene.kept.iter().all(|kept| matches!(kept, Kept::Ready(_))), "{:?}", scene.kept);
}

/// Found by review: a friend that says of all relays that they leave moved circuits, and took their exits.
#[test]
fn what_others_say_of_leaving_moves_no_circuit() {
    let mut scene = Scene::new(true, 2);
    scene.run_for(2_000);
    let (circuit, hops) = (scene.keeper.circuit(), scene.keeper.hops().to_vec());
    for key in &hops {
        let relay = *scene.relays.get(key).expect("known");
        scene.relays.learn(Relay { leaving: Leaving::Told, ..relay });
    }
    scene.keeper.part(scene.net.now, &scene.relays);
    scene.run_for(10_000);
    assert_eq!((scene.keeper.circuit(), scene.keeper.hops()), (circuit, &hops[..]));
    // The next one has the same exit.
    scene.run_for(CIRCUIT_REBUILD_MS_MIN + CIRCUIT_REBUILD_MS_JITTER + 10_000);
    assert_ne!(scene.keeper.circuit(), circuit);
    assert_eq!(scene.keeper.exit(), hops.last().copied());
}

#[test]
fn a_keeper_that_fails_says_so_once_and_slows_down() {
    let mut scene = Scene::new(false, 2);
    scene.net.refusing.insert(3, Status::Unwilling);
    scene.run_for(300_000);
    let why = EndedWhy::Refused { hop: 1, status: Status::Unwilling };
    assert_eq!(scene.kept, [Kept::Stuck(StuckWhy::Failed(why))]);
    let begun = scene.net.nodes[0].counters().begun;
    assert!((u64::from(PATH_ATTEMPTS_MAX)..30).contains(&begun), "{begun} paths in five minutes");
    scene.net.refusing.clear();
    scene.keeper.hurry(scene.net.now);
    scene.run_for(1_000);
    assert!(scene.keeper.circuit().is_some());
    scene.keeper.close(&mut scene.net.nodes[0]);
    scene.net.settle(0);
    scene.net.run();
    scene.net.assert_empty();
}

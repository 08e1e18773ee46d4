//! Gets over circuits of their own: what a stranger put is got, and nobody but the first hop sees who gets it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::circuits::exit;
use super::overlay::{join, provide, rest};
use super::*;
use crate::base::NewChunk;
use crate::crypto::{Identity, Secret};
use crate::node::command::{Anonymous, Work};
use crate::wire::reference::Reference;

/// Node 0 gets; 1 to 4 relay, 4 is an exit, and 0's friends are 1, 2 and 3. 5 to 9 are the network, in which all are; 9
/// provides.
const PROVIDER: usize = 9;

fn world(seed: u64, link: LinkConfig) -> (Net, Tree, Reference) {
    world_of(seed, link, &[1; 10], &["0.0.0.0/0", "10.0.0.0/8"])
}

fn world_of(seed: u64, link: LinkConfig, shards: &[u8], rules: &[&str]) -> (Net, Tree, Reference) {
    let mut net = Net::with_shards(seed, shards, link);
    let friends: [&[usize]; 5] = [&[1, 2, 3], &[0, 2, 3, 4], &[0, 1, 3, 4], &[0, 1, 2, 4], &[1, 2, 3]];
    exit(&mut net, 4, rules);
    net.open_outside(4);
    for (node, friends) in friends.iter().enumerate() {
        net.befriend(node, friends);
    }
    for node in 0..net.nodes.len() {
        join(&mut net, node, if node > 5 { &[5] } else { &[] });
    }
    join(&mut net, 0, &[5]);
    join(&mut net, 4, &[5]);
    rest(&mut net, Duration::from_secs(20));
    let (tree, reference) = provide(&mut net, PROVIDER, seed);
    rest(&mut net, Duration::from_secs(20));
    (net, tree, reference)
}

fn passing(seed: u64) -> Arc<Identity> {
    Arc::new(Identity::passing(Secret::from_bytes([seed as u8 ^ 0x55; 32]), seed, 0))
}

fn request(job: u64, reference: &Reference) -> GetRequest {
    GetRequest {
        job: JobId(job),
        reference: reference.clone(),
        inside: Vec::new(),
        root: "/out".into(),
        rename: None,
        merge: false,
        overwrite: true,
    }
}

fn get_hidden(net: &mut Net, job: u64, reference: &Reference, exit: Option<usize>, force: bool) {
    let exit = exit.map(|node| net.card(node).key);
    let one = Anonymous {
        work: Work::Get(request(job, reference)),
        identity: passing(net.seed + job),
        hops: 3,
        exit,
        force,
    };
    net.command(0, Command::Anonymous(Box::new(one)));
}

/// Bytes that went between two hosts, either way, since the wire was watched.
fn passed(net: &Net, one: IpAddr, other: IpAddr) -> u64 {
    let wire = net.wire.as_ref().expect("watched");
    let between =
        |(from, to): &(SocketAddr, SocketAddr)| [(one, other), (other, one)].contains(&(from.ip(), to.ip()));
    wire.iter().filter(|(ends, _)| between(ends)).map(|(_, bytes)| bytes).sum()
}

#[test]
fn a_get_over_three_hops_brings_what_a_stranger_put_and_the_two_never_meet() {
    for seed in 0..6 {
        let link = if seed % 2 == 0 { LinkConfig::clean(millis(10)) } else { lossy(0.01) };
        let (mut net, tree, reference) = world(seed, link);
        // Not even by accident: nothing that one of them sends to the other arrives.
        net.part(&[0], &[PROVIDER]);
        net.wire = Some(BTreeMap::new());
        let lookups = counter(&mut net, 0, "overlay_lookups");
        get_hidden(&mut net, 1, &reference, None, false);
        assert_eq!(finish(&mut net, 0, 1, 120), Ok(()), "seed {seed}");
        assert_restored(&net, 0, &tree);
        rest(&mut net, Duration::from_secs(10));
        let [origin, provider] = [0, PROVIDER].map(|node| net.nodes[node].address().ip());
        let exit = IpAddr::from([100, 96, 0, 4]);
        let bytes = tree.values().map(|bytes| bytes.len() as u64).sum::<u64>();
        assert!(passed(&net, exit, provider) > bytes, "seed {seed}: not by the exit");
        // They know each other as nodes of the network, and see now and then whether the other is there.
        assert!(passed(&net, origin, provider) < 40_000, "seed {seed}: {}", passed(&net, origin, provider));
        let chunks = net.nodes[PROVIDER].world.store.ids();
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| !net.said_of(0, chunk)), "seed {seed}");
        assert!(chunks.iter().any(|chunk| net.said_of(PROVIDER, chunk)), "what is said is noted");
        assert_eq!(counter(&mut net, 0, "overlay_lookups"), lookups, "it asked nobody by its own name");
        assert_eq!(counter(&mut net, 0, "gets_done"), 1);
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), crate::limits::SEND_BUFFERS, "seed {seed}");
        }
    }
}

/// The relays between the first hop and the exit that the job's circuit has now.
fn middle(net: &mut Net) -> Option<usize> {
    let snapshot = super::overlay::status(net, 0, 77);
    let path = &snapshot.job_circuits.first()?.1.path;
    let key = *path.get(1)?;
    (0..net.nodes.len()).find(|node| net.card(*node).key == key)
}

#[test]
fn a_relay_dies_in_the_middle_and_the_get_goes_on() {
    for seed in 10..14 {
        let slow = LinkConfig { rate: Some(8_000_000), ..LinkConfig::clean(millis(10)) };
        let (mut net, tree, reference) = world(seed, slow);
        get_hidden(&mut net, 1, &reference, None, false);
        let begun =
            |net: &Net| net.nodes[0].progress.values().any(|progress| progress.bytes_fetched > 400_000);
        assert!(net.run_until(Duration::from_secs(60), begun), "seed {seed}: it never begins");
        let victim = middle(&mut net).expect("there is a circuit");
        assert!(outcome(&net, 0, 1).is_none(), "seed {seed}: too quick for the test");
        net.crash(victim, crate::sim::Crash::Process);
        assert_eq!(finish(&mut net, 0, 1, 180), Ok(()), "seed {seed}, without {victim}");
        assert_restored(&net, 0, &tree);
        assert!(counter(&mut net, 0, "circuit_silent") > 0, "seed {seed}");
    }
}

/// Gives chunks over three hops, as many at once as there may be; how many keepers each has.
fn give_hidden(net: &mut Net, job: u64, chunks: &[NewChunk]) -> Vec<u8> {
    let work = Work::Give(JobId(job));
    let one = Anonymous { work, identity: passing(net.seed + job), hops: 3, exit: None, force: false };
    net.command(0, Command::Anonymous(Box::new(one)));
    let placed = |net: &Net| -> Vec<u8> {
        let reports = net.nodes[0].reports.iter();
        let placed = reports.filter_map(|report| match report {
            Report::Placed(placed) if placed.job == JobId(job) => Some(placed.keepers),
            _ => None,
        });
        placed.collect()
    };
    for (at, chunk) in chunks.iter().enumerate() {
        let there = net.run_until(Duration::from_secs(300), |net| placed(net).len() + 3 >= at);
        assert!(there, "seed {}: {:?}, {:?}", net.seed, placed(net), outcome(net, 0, job));
        net.command(0, Command::Push { job: JobId(job), chunk: Box::new(chunk.clone()), anonymous: true });
    }
    net.run_until(Duration::from_secs(300), |net| placed(net).len() == chunks.len());
    net.command(0, Command::Cancel(JobId(job)));
    rest(net, Duration::from_secs(10));
    placed(net)
}

#[test]
fn what_is_given_over_three_hops_is_kept_by_nodes_that_never_see_whose_it_is() {
    for seed in 50..53 {
        let link = if seed % 2 == 0 { LinkConfig::clean(millis(10)) } else { lossy(0.01) };
        let (mut net, ..) = world(seed, link);
        let (tree, reference, chunks) = super::keeping::chunks(seed + 100);
        // Of the network's nodes that are no friends none hears anything from the giver itself.
        net.wire = Some(BTreeMap::new());
        let keepers = give_hidden(&mut net, 1, &chunks);
        assert!(
            keepers.len() == chunks.len() && keepers.iter().all(|count| *count >= 2),
            "seed {seed}: {keepers:?}"
        );
        let origin = net.nodes[0].address().ip();
        for node in 5..10 {
            let keeper = net.nodes[node].address().ip();
            let bytes = passed(&net, origin, keeper);
            assert!(bytes < 30_000, "seed {seed}: {bytes} bytes with {node}");
        }
        for chunk in &chunks {
            assert!(!net.said_of(0, &chunk.id), "seed {seed}: by its own name");
            assert!(net.nodes[0].world.store.get(&chunk.id).is_none(), "seed {seed}: it has it");
        }
        let shown = super::overlay::status(&mut net, 0, 78);
        assert!(shown.job_circuits.is_empty() && shown.overlay.expect("on").provided == 0, "seed {seed}");
        rest(&mut net, Duration::from_secs(20));
        net.crash(0, crate::sim::Crash::Process);
        get(&mut net, PROVIDER, 2, &reference, &[]);
        assert_eq!(finish(&mut net, PROVIDER, 2, 180), Ok(()), "seed {seed}");
        assert_restored(&net, PROVIDER, &tree);
        for node in net.nodes.iter().filter(|node| node.is_up()) {
            assert_eq!(node.world.free_buffers(), crate::limits::SEND_BUFFERS, "seed {seed}");
        }
    }
}

#[test]
fn nodes_with_several_shards_do_it_too() {
    let shards = [3, 2, 2, 1, 2, 1, 2, 1, 1, 2];
    let (mut net, tree, reference) = world_of(20, lossy(0.005), &shards, &["10.0.0.0/8"]);
    get_hidden(&mut net, 3, &reference, Some(4), false);
    assert_eq!(finish(&mut net, 0, 3, 120), Ok(()));
    assert_restored(&net, 0, &tree);
}

#[test]
fn an_exit_that_lets_nothing_out_is_said_and_another_is_tried() {
    let (mut net, tree, reference) = world_of(30, LinkConfig::clean(millis(10)), &[1; 10], &["9.9.9.9/32"]);
    for (job, exit) in [(1, None), (2, Some(4))] {
        get_hidden(&mut net, job, &reference, exit, false);
        let why = finish(&mut net, 0, job, 60).unwrap_err();
        let named = net.card(4).key.to_string();
        assert!(why.contains("exit.allow") && why.contains("--exit NODE") && why.contains(&named), "{why}");
    }
    // Nobody answers, and nothing is said.
    exit(&mut net, 4, &["10.0.0.0/8"]);
    for node in 4..10 {
        net.cut(4, node);
    }
    get_hidden(&mut net, 3, &reference, Some(4), false);
    let why = finish(&mut net, 0, 3, 60).unwrap_err();
    assert!(why.contains("brings no answer") && why.contains("--exit NODE"), "{why}");
    // Another lets them out.
    exit(&mut net, 3, &["10.0.0.0/8"]);
    net.open_outside(3);
    rest(&mut net, Duration::from_secs(10));
    for job in 4..8 {
        get_hidden(&mut net, job, &reference, None, false);
        assert_eq!(finish(&mut net, 0, job, 120), Ok(()), "job {job}");
    }
    assert_restored(&net, 0, &tree);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let (mut net, _, reference) = world(40, LinkConfig::clean(millis(10)));
    let refused = |net: &mut Net, job: u64, exit: Option<usize>, wanted: &str| {
        get_hidden(net, job, &reference, exit, false);
        let why = finish(net, 0, job, 60).unwrap_err();
        assert!(why.contains(wanted) && !why.contains('\n'), "{why}");
    };
    refused(&mut net, 1, Some(7), "no circuit: no known relay may be the exit");
    // Too many.
    net.cut(4, 5);
    for job in 10..10 + crate::limits::JOBS_ANONYMOUS_MAX as u64 {
        get_hidden(&mut net, job, &reference, None, false);
    }
    refused(&mut net, 2, None, "jobs with circuits of their own are running: wait for one");
    for job in 10..10 + crate::limits::JOBS_ANONYMOUS_MAX as u64 {
        net.command(0, Command::Cancel(JobId(job)));
        assert!(finish(&mut net, 0, job, 30).is_err_and(|why| why.contains("cancelled")));
    }
    assert_eq!(super::overlay::status(&mut net, 0, 5).job_circuits, []);
    // One friend that relays.
    net.befriend(0, &[1]);
    rest(&mut net, Duration::from_secs(5));
    refused(&mut net, 3, None, "or add --one-friend");
    // No network.
    let off = crate::node::command::OverlayRules { enabled: false, ..super::overlay::rules(&net, 0, &[]) };
    net.command(0, Command::Overlay(Box::new(off)));
    refused(&mut net, 4, None, "overlay.enabled is false");
    net.command(0, Command::Overlay(Box::new(super::overlay::rules(&net, 0, &[]))));
    refused(&mut net, 5, None, "knows nobody of the network yet");
}

#[test]
fn what_was_cut_off_resumes_under_another_identity() {
    let slow = LinkConfig { rate: Some(8_000_000), ..LinkConfig::clean(millis(10)) };
    let (mut net, tree, reference) = world(50, slow);
    get_hidden(&mut net, 1, &reference, None, false);
    let begun = |net: &Net| net.nodes[0].progress.values().any(|progress| progress.bytes_done > 1_000_000);
    assert!(net.run_until(Duration::from_secs(60), begun), "it never begins");
    net.command(0, Command::Cancel(JobId(1)));
    assert!(finish(&mut net, 0, 1, 30).is_err_and(|why| why.contains("cancelled")));
    get_hidden(&mut net, 2, &reference, None, false);
    assert_eq!(finish(&mut net, 0, 2, 120), Ok(()));
    assert_restored(&net, 0, &tree);
    let done = net.nodes[0].reports.iter().find_map(|report| match report {
        Report::Done(job, progress) if job.0 == 2 => Some(progress.clone()),
        _ => None,
    });
    assert!(done.is_some_and(|progress| progress.bytes_resumed > 0), "it began anew");
}

#[test]
fn a_hostile_exit_cannot_speak_for_the_network() {
    let (mut net, tree, reference) = world(60, LinkConfig::clean(millis(10)));
    get_hidden(&mut net, 1, &reference, None, false);
    let mut rng = Rng::from_number(60);
    let client = crate::onion::exit::CLIENT.v4.expect("it has one");
    for _ in 0..400 {
        let from = SocketAddr::from(([10, 0, 0, 1 + rng.below(10) as u8], 4600));
        let to = SocketAddr::from((client, rng.below(65_536) as u16));
        let payload: Vec<u8> = (0..rng.below(1200)).map(|_| rng.below(256) as u8).collect();
        let mut packet = vec![0; crate::tunnel::datagrams::headers(to)];
        packet.extend(&payload);
        let wrapped = crate::tunnel::datagrams::wrap(&mut packet, payload.len(), from, to);
        let (header, _) = wrapped.expect("it fits");
        crate::tunnel::readdress::complete(&mut packet, &header);
        net.inject_as_exit(4, 0, &packet);
        net.run_for(millis(10));
    }
    assert_eq!(finish(&mut net, 0, 1, 120), Ok(()));
    assert_restored(&net, 0, &tree);
}

//! Nodes around one another: content put on one is got on another, whatever the link does.

mod anonymous;
mod circuits;
mod exits;
mod faults;
mod introductions;
mod keeping;
mod leaving;
mod limits;
mod line;
mod loans;
mod nat;
mod overlay;
mod promises;
mod shards;
mod trace;
mod tunnel;

use std::collections::BTreeMap;
use std::time::Duration;

use super::files::Node as Entry;
use super::link::{LinkConfig, Noise};
use super::net::Net;
use crate::base::Rng;
use crate::base::fileop::{FileTime, JobId};
use crate::limits::PIECE_PLAIN_MAX;
use crate::node::{Command, Node, Report, command::Snapshot};
use crate::service::get::GetRequest;
use crate::service::put::Put;
use crate::wire::locator::Locator;
use crate::wire::reference::Reference;

/// Paths and contents; a path that ends in `/` is an empty directory.
type Tree = BTreeMap<String, Vec<u8>>;

struct Nothing;
impl crate::service::put::Known for Nothing {
    fn find(&mut self, _: &crate::chunk::PieceHash) -> Option<Locator> {
        None
    }
}

fn put(net: &mut Net, nodes: &[usize], tree: &Tree) -> Reference {
    let mut put = Put::new(None);
    put.begin_directory(b"top", 0o755, FileTime { seconds: 1, nanos: 2 }).unwrap();
    for (path, bytes) in tree {
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let (name, dirs) = parts.split_last().unwrap();
        assert!(dirs.len() <= 1, "the tests' trees are two levels deep, one file per directory");
        for dir in dirs {
            put.begin_directory(dir.as_bytes(), 0o700, FileTime::default()).unwrap();
        }
        put.begin_file(name.as_bytes(), 0o640, FileTime { seconds: 5, nanos: 6 }).unwrap();
        for piece in bytes.chunks(PIECE_PLAIN_MAX) {
            put.piece(piece, &mut Nothing).unwrap();
        }
        put.end_file().unwrap();
        for _ in dirs {
            put.end_directory();
        }
    }
    put.end_directory();
    loop {
        let done = put.finish(&mut Nothing).unwrap();
        while let Some(chunk) = put.poll_chunk() {
            for &node in nodes {
                net.nodes[node].world.store.insert(chunk.id, chunk.bytes.clone());
            }
        }
        while put.poll_publication().is_some() {}
        if let Some(reference) = done {
            return reference;
        }
    }
}

fn tree(number: u64) -> Tree {
    let mut rng = Rng::from_number(number);
    let mut bytes = |len: usize| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes
    };
    let mut tree = Tree::new();
    for index in 0..40 {
        tree.insert(format!("small-{index:02}"), bytes(index * 997));
    }
    tree.insert("d1/inside".into(), bytes(70_000));
    tree.insert("d2/empty".into(), Vec::new());
    tree.insert("large".into(), bytes(3 * PIECE_PLAIN_MAX + 123_456));
    tree
}

fn get(net: &mut Net, node: usize, job: u64, reference: &Reference, inside: &[&str]) {
    get_into(net, node, job, reference, inside, "/out".into());
}

/// A `get` of node 1 into a place of its own: several of them go on at once.
fn get_apart(net: &mut Net, job: u64, reference: &Reference) {
    get_into(net, 1, job, reference, &[], format!("/out{job}"));
}

fn get_into(net: &mut Net, node: usize, job: u64, reference: &Reference, inside: &[&str], root: String) {
    let request = GetRequest {
        job: JobId(job),
        reference: reference.clone(),
        inside: inside.iter().map(|part| part.as_bytes().to_vec()).collect(),
        root,
        rename: None,
        merge: false,
        overwrite: true,
    };
    net.command(node, Command::Get(request));
}

fn outcome(net: &Net, node: usize, wanted: u64) -> Option<Result<(), String>> {
    net.nodes[node].reports.iter().find_map(|report| match report {
        Report::Done(job, _) if job.0 == wanted => Some(Ok(())),
        Report::Failed(job, why) if job.0 == wanted => Some(Err(why.clone())),
        _ => None,
    })
}

fn finish(net: &mut Net, node: usize, job: u64, seconds: u64) -> Result<(), String> {
    let ended = net.run_until(Duration::from_secs(seconds), |net| outcome(net, node, job).is_some());
    let progress = &net.nodes[node].progress;
    assert!(ended, "seed {}: not finished after {seconds} s of virtual time: {progress:?}", net.seed);
    outcome(net, node, job).unwrap()
}

fn assert_restored(net: &Net, node: usize, tree: &Tree) {
    let files = &net.nodes[node].files;
    for (path, bytes) in tree {
        match files.entry(&format!("/out/top/{path}")) {
            Some(Entry::File(got, mode, mtime)) => {
                assert!(got == *bytes, "seed {}: {path} differs", net.seed);
                assert_eq!((mode, mtime), (0o640, FileTime { seconds: 5, nanos: 6 }));
            }
            other => panic!("seed {}: {path}: {other:?}", net.seed),
        }
    }
    assert_eq!(files.entry("/out/top"), Some(Entry::Dir(0o755, FileTime { seconds: 1, nanos: 2 })));
    assert!(files.leftovers() == 0, "nothing is left behind");
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lossy(loss: f64) -> LinkConfig {
    LinkConfig {
        rate: Some(200_000_000),
        queue: 256 << 10,
        jitter: millis(1),
        reorder: 0.05,
        reorder_by: millis(3),
        noise: Noise::Independent(loss),
        duplicate: 0.01,
        corrupt: 0.002,
        ..LinkConfig::clean(millis(10))
    }
}

#[test]
fn a_tree_put_on_one_node_is_got_on_another() {
    let mut net = Net::new(1, 2, LinkConfig::clean(millis(5)));
    let tree = tree(1);
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    assert_eq!(net.nodes[0].world.free_buffers(), crate::limits::SEND_BUFFERS, "no buffer leaks");
}

#[test]
fn loss_reordering_duplication_and_flipped_bits_change_nothing() {
    for (default, loss) in [(2, 0.01), (3, 0.05)] {
        let mut net = Net::new(default, 2, lossy(loss));
        let tree = tree(default);
        let reference = put(&mut net, &[0], &tree);
        net.nodes[0].world.store.cold = true;
        net.befriend(1, &[0]);
        get(&mut net, 1, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 1, 1, 600), Ok(()), "loss {loss}");
        assert_restored(&net, 1, &tree);
    }
}

#[test]
fn one_file_of_a_tree_costs_its_own_slices_and_the_way_there() {
    let mut net = Net::new(4, 2, LinkConfig::clean(millis(5)));
    let tree = tree(4);
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &["top", "d1", "inside"]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    let Some(Entry::File(bytes, ..)) = net.nodes[1].files.entry("/out/inside") else { panic!("not there") };
    assert_eq!(bytes, tree["d1/inside"]);
    // 70,000 bytes in at most three slices; three directories in one slice each.
    let received = net.nodes[1].bytes_received;
    assert!(received < 7 * 65_536, "{received} bytes for one file");
    get(&mut net, 1, 2, &reference, &["top", "d1", "absent"]);
    let why = finish(&mut net, 1, 2, 60).unwrap_err();
    assert!(why.contains("top/d1/absent"), "{why}");
}

#[test]
fn a_restarted_get_resumes_and_fetches_no_verified_record_twice() {
    let mut net = Net::new(5, 2, lossy(0.0));
    let tree = tree(5);
    let total: u64 = tree.values().map(|bytes| bytes.len() as u64).sum();
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    net.run_until(Duration::from_secs(30), |net| net.nodes[1].files.bytes_written > total / 2);
    net.restart(1);
    let before = net.nodes[1].files.bytes_written;
    net.befriend(1, &[0]);
    get(&mut net, 1, 2, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 2, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    assert!(before > total / 2 && net.nodes[1].files.bytes_written == total, "every record is written once");
}

#[test]
fn the_server_restarting_in_between_only_delays() {
    let mut net = Net::new(6, 2, lossy(0.0));
    let tree = tree(6);
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    net.run_until(Duration::from_secs(30), |net| net.nodes[1].files.bytes_written > 1_000_000);
    net.restart(0);
    assert_eq!(finish(&mut net, 1, 1, 300), Ok(()));
    assert_restored(&net, 1, &tree);
}

#[test]
fn several_friends_serve_one_get_and_a_liar_among_them_is_dropped() {
    let mut net = Net::new(7, 4, lossy(0.001));
    let tree = tree(7);
    let reference = put(&mut net, &[0, 1, 2], &tree);
    for id in net.nodes[2].world.store.ids() {
        net.nodes[2].world.store.damage(&id, 70_000);
    }
    net.befriend(3, &[0, 1, 2]);
    get(&mut net, 3, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 3, 1, 120), Ok(()));
    assert_restored(&net, 3, &tree);
    let served = |node: usize| net.nodes[node].world.store.bytes_read;
    assert!(served(0) > 500_000 && served(1) > 500_000, "{} and {}", served(0), served(1));
    let named = net.card(2).node_id().to_string();
    let warned = |report: &Report| matches!(report, Report::Warning(text) if text.contains(&named));
    assert!(net.nodes[3].reports.iter().any(warned), "the liar is named");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let mut net = Net::new(8, 2, LinkConfig::clean(millis(5)));
    let tree = tree(8);
    let reference = put(&mut net, &[0], &tree);
    get(&mut net, 1, 1, &reference, &[]);
    let why = finish(&mut net, 1, 1, 60).unwrap_err();
    assert!(why.contains("friend add"), "{why}");

    net.befriend(1, &[0]);
    net.cut(1, 0);
    get(&mut net, 1, 2, &reference, &[]);
    let why = finish(&mut net, 1, 2, 120).unwrap_err();
    assert!(why.contains("answers"), "{why}");
    net.heal(1, 0);

    net.nodes[0].world.store = Default::default();
    get(&mut net, 1, 3, &reference, &[]);
    let why = finish(&mut net, 1, 3, 120).unwrap_err();
    assert!(why.contains("none of the connected peers has chunk"), "{why}");
}

#[test]
fn a_full_disk_ends_the_get_and_room_lets_it_resume() {
    let mut net = Net::new(9, 2, LinkConfig::clean(millis(5)));
    let tree = tree(9);
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    net.nodes[1].files.disk.room = Some(1_500_000);
    get(&mut net, 1, 1, &reference, &[]);
    let why = finish(&mut net, 1, 1, 60).unwrap_err();
    assert!(why.contains("the disk is full"), "{why}");
    net.nodes[1].files.disk.room = None;
    get(&mut net, 1, 2, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 2, 60), Ok(()));
    assert_restored(&net, 1, &tree);
}

#[test]
fn strangers_get_no_answer() {
    let mut net = Net::new(10, 1, LinkConfig::clean(millis(5)));
    let mut rng = Rng::from_number(11);
    for _ in 0..2000 {
        let mut datagram = vec![0; rng.below(1473) as usize];
        rng.fill(&mut datagram);
        net.inject(0, "10.9.9.9:9".parse().unwrap(), &datagram);
    }
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.nodes[0].datagrams_sent, 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut net = Net::new(12, 2, lossy(0.02));
        let tree = tree(12);
        let reference = put(&mut net, &[0], &tree);
        net.befriend(1, &[0]);
        get(&mut net, 1, 1, &reference, &[]);
        assert_eq!(finish(&mut net, 1, 1, 300), Ok(()));
        (net.now, net.nodes[0].datagrams_sent, net.nodes[1].datagrams_sent, net.nodes[1].bytes_received)
    };
    assert_eq!(run(), run());
}

/// What all shards of a node say of themselves, as the daemon adds it up. Its other reports stay.
fn status(net: &mut Net, node: usize) -> Snapshot {
    net.command(node, Command::Status { token: 1 });
    let mut all = Snapshot::default();
    for report in std::mem::take(&mut net.nodes[node].reports) {
        match report {
            Report::Status(1, snapshot) => all.add(*snapshot),
            other => net.nodes[node].reports.push(other),
        }
    }
    all.join_lanes();
    all
}

fn counter(net: &mut Net, node: usize, name: &str) -> u64 {
    counted(&status(net, node), name)
}

fn counted(snapshot: &Snapshot, name: &str) -> u64 {
    let found = snapshot.counters.iter().find(|counter| counter.0 == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).2
}

#[test]
fn a_first_flight_that_asks_is_answered_in_one_round_trip() {
    let round_trip = millis(200);
    let mut net = Net::new(13, 2, LinkConfig::clean(round_trip / 2));
    let tree = Tree::from([("f".to_string(), vec![7; 500])]);
    let reference = put(&mut net, &[0], &tree);
    // Nobody answers at first, so that the friend is away when content is wanted.
    net.cut(1, 0);
    net.befriend(1, &[0]);
    net.run_until(Duration::from_secs(60), |net| {
        // Between two calls: the next one goes out when the get begins.
        net.nodes[1].node().is_some_and(Node::is_calling_nobody)
    });
    net.heal(1, 0);
    let begun = net.now;
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
    assert_eq!(counter(&mut net, 0, "session_early_accepted"), 1);
    // The root directory comes with the handshake's answer; then the directory in it, then the file.
    let round_trips = net.now.since(begun).as_secs_f64() / round_trip.as_secs_f64();
    assert!(round_trips < 3.5, "{round_trips} round trips from nothing to the file");
}

#[test]
fn nodes_introduce_themselves() {
    let mut net = Net::new(14, 2, lossy(0.05));
    net.befriend(1, &[0]);
    net.run_for(Duration::from_secs(10));
    for node in [0, 1] {
        net.command(node, Command::Status { token: 9 });
        let snapshot = net.nodes[node].reports.iter().find_map(|report| match report {
            Report::Status(9, snapshot) => Some(snapshot),
            _ => None,
        });
        let agents: Vec<_> =
            snapshot.expect("answered").peers.iter().map(|peer| peer.agent.clone()).collect();
        assert_eq!(agents, [concat!("tornet ", env!("CARGO_PKG_VERSION"))]);
    }
}

#[test]
fn a_friend_that_is_away_holds_no_slices_while_another_is_here() {
    let link = LinkConfig { rate: Some(2_000_000), queue: 64 << 10, ..LinkConfig::clean(millis(5)) };
    let mut net = Net::new(14, 3, link);
    let tree = tree(14);
    let reference = put(&mut net, &[0], &tree);
    net.cut(1, 2);
    net.befriend(2, &[0, 1]);
    net.run_for(Duration::from_secs(1));
    for job in 1..=6 {
        get(&mut net, 2, job, &reference, &[]);
        assert_eq!(finish(&mut net, 2, job, 60), Ok(()), "job {job}");
        assert_eq!(counter(&mut net, 2, "fetch_stalled"), 0, "job {job}");
    }
}

#[test]
fn a_session_that_nobody_confirmed_is_no_friend() {
    // A round trip longer than the first retry: the responder answers two first flights, and one of its
    // sessions is never used.
    let mut net = Net::new(15, 2, LinkConfig::clean(millis(400)));
    net.befriend(1, &[0]);
    net.run_for(Duration::from_secs(3));
    net.befriend(0, &[1]);
    net.run_for(Duration::from_secs(30));
    assert_eq!(counter(&mut net, 0, "session_handshakes_started"), 0, "the session that is there is enough");
}

#[test]
fn a_friend_that_lies_does_not_keep_a_get_busy_for_ever() {
    let mut net = Net::new(16, 2, LinkConfig::clean(millis(5)));
    let tree = tree(16);
    let reference = put(&mut net, &[0], &tree);
    for id in net.nodes[0].world.store.ids() {
        net.nodes[0].world.store.damage(&id, 0);
    }
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    assert!(finish(&mut net, 1, 1, 60).is_err());
    let warnings = net.nodes[1].reports.iter().filter(|report| matches!(report, Report::Warning(_)));
    assert_eq!(warnings.count(), 1, "it is asked once");
}

#[test]
fn a_move_to_another_address_does_not_wait_for_a_timeout() {
    let link = LinkConfig { rate: Some(50_000_000), queue: 256 << 10, ..LinkConfig::clean(millis(5)) };
    let mut net = Net::new(17, 2, link);
    let tree = tree(17);
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    assert!(net.run_until(Duration::from_secs(30), |net| net.nodes[1].bytes_received > 1_000_000));
    net.roam_to(1, "10.0.0.99:4600".parse().unwrap());
    let before = net.nodes[1].bytes_received;
    net.run_for(millis(150));
    let received = net.nodes[1].bytes_received - before;
    assert!(received > 150_000, "{received} bytes after the move");
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
}

#[test]
fn a_slice_that_comes_in_one_train_with_a_goodbye_is_not_lost() {
    for moment in 1..40 {
        let mut net = Net::new(14, 2, LinkConfig::clean(millis(5)));
        net.nodes[1].coalesce = Some(Duration::ZERO);
        let tree = tree(14);
        let reference = put(&mut net, &[0], &tree);
        net.befriend(1, &[0]);
        get(&mut net, 1, 1, &reference, &[]);
        // Between sending a train and the next thing that happens.
        net.run_until(Duration::from_secs(30), |net| net.nodes[0].world.store.bytes_read > moment * 65_536);
        net.command(0, Command::Shutdown);
        net.run_for(millis(50));
        net.restart(0);
        assert_eq!(finish(&mut net, 1, 1, 300), Ok(()), "moment {moment}");
        assert_restored(&net, 1, &tree);
    }
}

#[test]
fn a_get_ends_when_the_only_friend_lies() {
    let mut net = Net::new(15, 2, LinkConfig::clean(millis(5)));
    let tree = tree(15);
    let reference = put(&mut net, &[0], &tree);
    for id in net.nodes[0].world.store.ids() {
        net.nodes[0].world.store.damage(&id, 0);
    }
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    let why = finish(&mut net, 1, 1, 120).unwrap_err();
    assert!(why.contains("wrong bytes"), "{why}");
}

/// Among them files of a few records, of which one slice completes two at once: those were once never finished.
#[test]
fn thousands_of_files_packed_together_are_restored() {
    let mut net = Net::new(15, 2, LinkConfig::clean(millis(1)));
    let mut rng = Rng::from_number(15);
    let file = |index| {
        let len = if index % 20 == 0 { 60_000 + rng.below(90_000) } else { rng.below(9000) };
        let mut bytes = vec![0; len as usize];
        rng.fill(&mut bytes);
        (format!("file-{index:04}"), bytes)
    };
    let tree: Tree = (0..2000).map(file).collect();
    let reference = put(&mut net, &[0], &tree);
    net.befriend(1, &[0]);
    get(&mut net, 1, 1, &reference, &[]);
    assert_eq!(finish(&mut net, 1, 1, 60), Ok(()));
    assert_restored(&net, 1, &tree);
}

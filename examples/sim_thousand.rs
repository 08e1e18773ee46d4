//! How fast the simulator runs many nodes with light traffic: each has four friends, keeps its sessions alive, and
//! gets a small file from one of them now and then.
//!
//! ```text
//! cargo run --release --features sim --example sim_thousand [nodes] [virtual seconds] [seconds between gets] [seed]
//! ```
//! The last line says how many virtual seconds one second of one core runs, gets included, after everybody is
//! connected.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tornet::base::Rng;
use tornet::base::fileop::{FileTime, JobId};
use tornet::chunk::PieceHash;
use tornet::node::{Command, Report};
use tornet::service::get::GetRequest;
use tornet::service::put::{Known, Put};
use tornet::sim::link::{LinkConfig, Noise};
use tornet::sim::net::{Net, Notice};
use tornet::wire::locator::Locator;
use tornet::wire::reference::Reference;

/// Size of the file that each node has, bytes.
const FILE_SIZE: usize = 20_000;
/// Distances in the ring of nodes between friends.
const FRIENDS: [usize; 2] = [1, 7];

struct Nothing;

impl Known for Nothing {
    fn find(&mut self, _: &PieceHash) -> Option<Locator> {
        None
    }
}

fn put(net: &mut Net, node: usize, rng: &mut Rng) -> Reference {
    let mut bytes = vec![0; FILE_SIZE];
    rng.fill(&mut bytes);
    let mut put = Put::new(None);
    put.begin_directory(b"top", 0o755, FileTime::default()).expect("a directory");
    put.begin_file(b"file", 0o640, FileTime::default()).expect("a file");
    put.piece(&bytes, &mut Nothing).expect("a piece");
    put.end_file().expect("an end");
    put.end_directory();
    loop {
        let done = put.finish(&mut Nothing).expect("an end");
        while let Some(chunk) = put.poll_chunk() {
            net.nodes[node].world.store.insert(chunk.id, chunk.bytes);
        }
        while put.poll_publication().is_some() {}
        if let Some(reference) = done {
            return reference;
        }
    }
}

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let mut argument = |default| arguments.next().unwrap_or(default);
    let (count, seconds, pause, seed) = (argument(1000) as usize, argument(60), argument(30), argument(1));
    let link = LinkConfig {
        rate: Some(50_000_000),
        queue: 256 << 10,
        jitter: Duration::from_millis(2),
        noise: Noise::Independent(0.001),
        ..LinkConfig::clean(Duration::from_millis(15))
    };
    let begun = cpu_seconds();
    let mut rng = Rng::from_number(seed);
    let mut net = Net::new(seed, count, link);
    let references: Vec<Reference> = (0..count).map(|node| put(&mut net, node, &mut rng)).collect();
    for node in 0..count {
        let friends: Vec<usize> =
            FRIENDS.iter().flat_map(|d| [(node + d) % count, (node + count - d) % count]).collect();
        net.befriend(node, &friends);
    }
    println!("{count} nodes made and called in {:.2} s", cpu_seconds() - begun);
    let begun = cpu_seconds();
    net.run_for(Duration::from_secs(5));
    println!("5 virtual seconds of handshakes in {:.2} s", cpu_seconds() - begun);

    let pause = Duration::from_secs(pause);
    for node in 0..count {
        let at = net.now + net.draw(2 * pause);
        net.call_at(at, Some(node), 1);
    }
    let (begun, events, from) = (cpu_seconds(), net.trace.events(), net.now);
    let deadline = net.now + Duration::from_secs(seconds);
    let (mut done, mut failed) = (0, 0);
    while let Some(notice) = net.run(deadline) {
        match notice {
            Notice::Call { node: Some(node), token } => {
                let reference = references[(node + FRIENDS[token as usize % FRIENDS.len()]) % count].clone();
                let request = GetRequest {
                    job: JobId(token),
                    reference,
                    inside: Vec::new(),
                    root: format!("/out-{token}"),
                    rename: None,
                    merge: false,
                    overwrite: true,
                };
                net.command(node, Command::Get(request));
                let at = net.now + net.draw(2 * pause);
                net.call_at(at, Some(node), token + 1);
            }
            Notice::Call { node: None, .. } => {}
            Notice::Report { node, index } => match &net.nodes[node].reports[index] {
                Report::Done(..) => done += 1,
                Report::Failed(_, why) => {
                    failed += 1;
                    println!("node {node}: {why}");
                }
                _ => {}
            },
        }
    }
    let (took, simulated) = (cpu_seconds() - begun, net.now.since(from).as_secs_f64());
    let events = net.trace.events() - events;
    println!("{done} gets done, {failed} failed; {events} events, {:.1} µs each", took * 1e6 / events as f64);
    println!("trace {}", net.trace.hash());
    println!("{simulated:.0} virtual seconds in {took:.2} s: {:.1} × real time", simulated / took);
}

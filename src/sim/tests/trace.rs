//! The trace: what tells two runs apart, and what a person reads.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{finish, get, lossy, millis, put, tree};
use crate::sim::link::LinkConfig;
use crate::sim::net::Net;

/// A transfer with a crash in it; its lines, if any are wanted, and its hash.
fn run(seed: u64, show: Option<&[usize]>) -> (Vec<String>, String) {
    let mut net = Net::new(seed, 3, lossy(0.02));
    let lines = Rc::new(RefCell::new(Vec::new()));
    if let Some(only) = show {
        let lines = lines.clone();
        let sink = Box::new(move |line: &str| lines.borrow_mut().push(line.to_owned()));
        net.trace.show(only.iter().copied(), sink);
    }
    let tree = tree(12);
    let reference = put(&mut net, &[0], &tree);
    net.nodes[0].world.store.cold = true;
    net.befriend(1, &[0, 2]);
    get(&mut net, 1, 1, &reference, &[]);
    net.run_until(Duration::from_secs(30), |net| net.nodes[1].bytes_received > 1_000_000);
    net.restart(0);
    assert_eq!(finish(&mut net, 1, 1, 300), Ok(()));
    let hash = net.trace.hash();
    (lines.take(), hash)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let (lines, hash) = run(1, Some(&[]));
    assert_eq!(run(1, None), (Vec::new(), hash.clone()), "seed 1, and showing it changes nothing");
    assert_ne!(run(2, None).1, hash);
    let (filtered, again) = run(1, Some(&[2]));
    assert_eq!(again, hash);
    assert!(filtered.iter().all(|line| line.contains("n2")) && !filtered.is_empty());
    assert!(filtered.iter().all(|line| lines.contains(line)) && filtered.len() < lines.len());
}

#[test]
fn a_single_bit_on_the_way_is_another_trace() {
    let run = |byte| {
        let mut net = Net::new(1, 1, LinkConfig::clean(millis(5)));
        net.inject(0, "10.9.9.9:9".parse().unwrap(), &[byte; 100]);
        net.note(None, "done");
        net.trace.hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(3));
}

#[test]
fn lines_say_when_who_and_what() {
    let (lines, _) = run(1, Some(&[]));
    let has = |wanted: &[&str]| lines.iter().any(|line| wanted.iter().all(|part| line.contains(part)));
    for wanted in [
        &["n0→n1 1472 B arrives 60."][..],
        &["n0→n1 ", " B lost: noise"],
        &[" bit ", " flipped"],
        &[", again 60."],
        &["n1 command: get, job 1"],
        &["n1 command: 2 friends"],
        &["n1 report: job 1 done"],
        &["n1 file: job 1: begin /out"],
        &["n1 file done: job 1"],
        &["n0 chunk ", " is cold"],
        &["n0 chunk ", " is resident"],
        &["n0 process dies"],
        &["n0 starts"],
        &["n0 timer"],
        &["n1→n0 ", " arrived from 10.0.0.2:4600"],
        &["n0 sends ", " × 1472 B", " to 10.0.0.2:4600, ECT(0)"],
    ] {
        assert!(has(wanted), "{wanted:?} in none of {} lines", lines.len());
    }
    let time = |line: &String| line.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    let times: Vec<f64> = lines.iter().map(|line| time(line).expect("a time")).collect();
    assert!(times.is_sorted() && lines.iter().all(|line| !line.contains('\n')));
}

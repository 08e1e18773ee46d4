//! Megabytes over bad links: they arrive whole, at the rate that the link gives, without storms.

use std::time::Duration;

use super::pair::{Link, Pair};
use crate::limits::SENT_PACKETS_MAX;

const SECOND: Duration = Duration::from_secs(1);
const MBIT: f64 = 1e6;

/// Bytes on the wire for each byte of content.
fn cost(pair: &Pair, len: u64) -> f64 {
    pair.ends[0].conn.stats().sent_bytes as f64 / len as f64
}

#[test]
fn a_clean_link_is_filled() {
    let len = 25_000_000;
    let mut pair = Pair::new(Link::new(100, 20), 1);
    let rate = pair.transfer(len, 10 * SECOND);
    let stats = pair.ends[0].conn.stats();
    assert!(rate > 85.0 * MBIT, "{rate} {stats:?}");
    assert!(cost(&pair, len) < 1.06, "{stats:?}");
    let acks = pair.ends[1].conn.stats().sent_packets;
    assert!(acks * 8 < stats.sent_packets, "{acks} acknowledgements for {} packets", stats.sent_packets);
}

#[test]
fn every_delay_and_queue_is_filled_somewhat() {
    for (rtt, queue, least) in [(5, 1.0, 85.0), (50, 0.25, 60.0), (50, 4.0, 80.0), (150, 1.0, 55.0)] {
        let mut link = Link::new(50, rtt);
        link.queue = (link.queue as f64 * queue) as u64;
        let mut pair = Pair::new(link, rtt);
        let rate = pair.transfer(30_000_000, 60 * SECOND) / (50.0 * MBIT) * 100.0;
        assert!(rate > least, "{rate} % at {rtt} ms, queue {queue}: {:?}", pair.ends[0].conn.stats());
    }
}

#[test]
fn loss_slows_but_never_breaks() {
    for (loss, len, least) in [(0.01, 8_000_000, 5.0), (0.05, 2_000_000, 1.5), (0.2, 400_000, 0.1)] {
        for seed in 0..3 {
            let mut pair = Pair::new(Link::new(100, 20).loss(loss), seed);
            let rate = pair.transfer(len, 120 * SECOND) / MBIT;
            let stats = pair.ends[0].conn.stats();
            assert!(rate > least, "{rate} Mbit/s at {loss}: {stats:?}");
            assert!(cost(&pair, len) < 1.12 + 3.0 * loss, "{rate} {stats:?}");
        }
    }
}

#[test]
fn more_packets_than_are_remembered_pass_under_loss_with_numbers_left_out() {
    let len = 100_000_000;
    let mut pair = Pair::new(Link::new(1_000, 2).loss(0.01), 1);
    pair.transfer(len, 600 * SECOND);
    let end = &pair.ends[0];
    assert!(end.number > SENT_PACKETS_MAX as u64, "{} packets are too few to tell", end.number);
    assert!(end.remembered < 4096, "{} packets remembered of {}", end.remembered, end.number);
}

#[test]
fn reordering_and_duplication_are_no_congestion() {
    for seed in 0..3 {
        let mut link = Link::new(50, 20);
        (link.reorder, link.duplicate) = (0.02, 0.02);
        let mut pair = Pair::new(link, seed);
        let rate = pair.transfer(12_000_000, 60 * SECOND) / MBIT;
        let stats = pair.ends[0].conn.stats();
        assert!(rate > 30.0, "{rate}: {stats:?}");
        assert!(stats.spurious_losses > 0, "the test reorders");
        assert!(cost(&pair, 12_000_000) < 1.1, "{stats:?}");
    }
}

#[test]
fn everything_at_once() {
    for seed in 0..4 {
        let mut link = Link::new(20, 60).loss(0.02);
        (link.reorder, link.duplicate, link.mtu) = (0.05, 0.05, 1400);
        let mut pair = Pair::new(link, seed);
        (pair.ends[0].skip, pair.ends[1].skip) = (17, 5);
        let rate = pair.transfer(1_500_000, 120 * SECOND) / MBIT;
        assert!(rate > 0.5, "{rate}: {:?}", pair.ends[0].conn.stats());
    }
}

#[test]
fn a_small_round_trip_with_a_small_queue_does_not_collapse() {
    let mut link = Link::new(5_000, 1);
    (link.delay, link.queue) = (Duration::from_micros(50), 212_992);
    let mut pair = Pair::new(link, 1);
    pair.tick = Duration::from_micros(5);
    let rate = pair.transfer(60_000_000, 10 * SECOND) / MBIT;
    assert!(rate > 4_000.0, "{rate}: {:?}", pair.ends[0].conn.stats());
}

#[test]
fn marks_slow_without_loss() {
    let mut link = Link::new(50, 20);
    (link.queue, link.mark) = (1_000_000, Some(60_000));
    let mut pair = Pair::new(link, 1);
    let rate = pair.transfer(15_000_000, 20 * SECOND) / MBIT;
    let stats = pair.ends[0].conn.stats();
    assert!(rate > 35.0 && stats.lost_packets == 0 && stats.congestion_events > 0, "{rate} {stats:?}");
}

#[test]
fn a_pause_of_the_link_is_survived() {
    let mut pair = Pair::new(Link::new(20, 30), 3);
    let stream = pair.offer(7, 4_000_000);
    pair.run_until(SECOND / 2, |pair| {
        pair.accept_all();
        false
    });
    let before = pair.got(stream);
    assert!(before > 0 && before < 4_000_000);
    pair.ends.iter_mut().for_each(|end| end.link.loss = 1.0);
    pair.run(3 * SECOND);
    let probes = pair.ends[0].conn.stats();
    assert!(probes.timeouts >= 3 && probes.timeouts < 12, "{probes:?}");
    pair.ends.iter_mut().for_each(|end| end.link.loss = 0.0);
    let took = pair.run_until(20 * SECOND, |pair| pair.got(stream) == 4_000_000).expect("goes on");
    assert!(took < 10 * SECOND, "{took:?}");
    assert!(cost(&pair, 4_000_000) < 1.4, "{:?}", pair.ends[0].conn.stats());
}

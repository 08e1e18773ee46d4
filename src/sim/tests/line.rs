//! A node whose line has a long queue in front of it and changes its rate: measured, the queue stays in the node's own
//! shaper, and control is not late under full load.

use super::limits::{limit, wire};
use super::tunnel::{datagram, tunnels};
use super::*;
use crate::node::command::NodeLimits;

const DELAY: Duration = Duration::from_millis(10);
/// What a modem may hold.
const QUEUE: usize = 600_000;

/// What a tunnel carries beside it, bits per second: an eighth of the slowest line.
const TUNNEL: u64 = 375_000;

/// For each rate of the line (kbit/s) and time (s): how long the queue in front of it was at worst in the second half, and what left of
/// what could.
fn run(seed: u64, shards: [u8; 2], measure: bool, phases: &[(u64, u64)]) -> Vec<(Duration, f64)> {
    let mut net = tunnels(seed, &shards, LinkConfig::clean(DELAY));
    let reference = put(&mut net, &[0], &tree(seed));
    limit(&mut net, 0, NodeLimits { measure, ..NodeLimits::default() });
    let mut job = 0;
    let mut told = Vec::new();
    for (kbit, seconds) in phases {
        net.change_link(0, 1, |link| (link.rate, link.queue) = (Some(kbit * 1000), QUEUE));
        let (mut worst, mut before) = (Duration::ZERO, 0);
        for tenth in 0..seconds * 10 {
            // There is always something to send.
            while (0..job).filter(|job| outcome(&net, 1, *job).is_none()).count() < 3 {
                get_apart(&mut net, job, &reference);
                job += 1;
            }
            for n in 0..TUNNEL / 80 / 1_000 {
                let (bytes, offload) = datagram(0, 1, 1_000);
                net.tun_read(0, (n % u64::from(shards[0])) as u8, &bytes, offload);
            }
            for _ in 0..10 {
                net.run_for(millis(10));
                if tenth > seconds * 5 {
                    let waiting = net.link_waiting(0, 1) as f64 * 8.0 / (*kbit as f64 * 1000.0);
                    worst = worst.max(Duration::from_secs_f64(waiting));
                }
            }
            if tenth == seconds * 5 {
                before = wire(&mut net, 0, "sent");
            }
        }
        let time = (seconds * 10 - seconds * 5 - 1) as f64 / 10.0;
        let left = (wire(&mut net, 0, "sent") - before) as f64 * 8.0 / time;
        told.push((worst, left / (*kbit as f64 * 1000.0)));
    }
    told
}

fn assert_followed(seed: u64, shards: [u8; 2], most: Duration) {
    let phases = [(10_000, 12), (3_000, 16), (20_000, 14)];
    for (number, (wait, used)) in run(seed, shards, true, &phases).into_iter().enumerate() {
        assert!(wait < most, "{wait:?} at {} kbit/s, shards {shards:?}", phases[number].0);
        assert!((0.8..1.02).contains(&used), "{used} of {} kbit/s, shards {shards:?}", phases[number].0);
    }
}

/// Gets, and beside them packets of a tunnel, which nobody acknowledges.
#[test]
fn the_queue_stays_here_as_the_line_changes() {
    assert_followed(601, [1, 1], millis(25));
    // What it would be otherwise: the modem is full.
    let (wait, _) = run(601, [1, 1], false, &[(3_000, 12)])[0];
    assert!(wait > millis(300), "{wait:?}");
}

#[test]
fn several_shards_measure_the_line_together() {
    // What the others say is a round old: it swings further.
    assert_followed(602, [3, 2], millis(80));
    assert_followed(603, [2, 3], millis(80));
}

/// One shard carries a tunnel and no more, another gets: what nobody acknowledges is not taken for what arrived many times over.
#[test]
fn a_shard_with_nothing_but_a_tunnel_says_nothing_wild() {
    let mut net = tunnels(604, &[2, 2], LinkConfig::clean(DELAY));
    let reference = put(&mut net, &[0], &tree(604));
    limit(&mut net, 0, NodeLimits { measure: true, ..NodeLimits::default() });
    net.change_link(0, 1, |link| (link.rate, link.queue) = (Some(10_000_000), QUEUE));
    get_apart(&mut net, 0, &reference);
    let mut job = 1;
    for _ in 0..80 {
        for shard in [0, 1, 0, 1, 0, 1] {
            let (bytes, offload) = datagram(0, 1, 1_200);
            net.tun_read(0, shard, &bytes, offload);
        }
        net.run_for(millis(100));
        if outcome(&net, 1, job - 1).is_some() {
            get_apart(&mut net, job, &reference);
            job += 1;
        }
    }
    let line = status(&mut net, 0)
        .gauges
        .iter()
        .find(|gauge| gauge.0 == "line_bits_per_second")
        .map(|gauge| gauge.2);
    assert!(line.is_some_and(|line| (5e6..13e6).contains(&line)), "{line:?} of 10 Mbit/s");
}

/// Found by reading: the first round counted all that had been sent since the sessions began.
#[test]
fn what_was_sent_before_it_is_measured_is_not_counted() {
    let mut net = tunnels(605, &[1, 1], LinkConfig::clean(DELAY));
    let reference = put(&mut net, &[0], &tree(605));
    net.change_link(0, 1, |link| (link.rate, link.queue) = (Some(10_000_000), QUEUE));
    (0..8).for_each(|job| get_apart(&mut net, job, &reference));
    net.run_for(Duration::from_secs(1));
    limit(&mut net, 0, NodeLimits { measure: true, ..NodeLimits::default() });
    let mut last = 0.0;
    for tenth in 0..20 {
        net.run_for(millis(100));
        let gauges = status(&mut net, 0).gauges;
        let line = gauges.iter().find(|gauge| gauge.0 == "line_bits_per_second").map_or(0.0, |gauge| gauge.2);
        assert!(line < 13e6, "{line} of 10 Mbit/s after {tenth} tenths");
        last = line;
    }
    assert!(last > 5e6, "{last} of 10 Mbit/s: it was measured");
    // What is allowed bounds what is measured, and the other way round.
    for (allowed, most, least) in [(3_000_000, 3.1e6, 2.9e6), (100_000_000, 13e6, 5e6)] {
        limit(&mut net, 0, NodeLimits { measure: true, up: Some(allowed), ..NodeLimits::default() });
        net.run_for(millis(500));
        let gauges = status(&mut net, 0).gauges;
        let line = gauges.iter().find(|gauge| gauge.0 == "line_bits_per_second").map_or(0.0, |gauge| gauge.2);
        assert!((least..most).contains(&line), "{line} with {allowed} allowed");
    }
}

//! A node whose line has a long queue in front of it and changes its rate: measured, the queue stays in the node's own
//! shaper, and control is not late under full load.

use super::limits::{limit, wire};
use super::*;
use crate::node::command::NodeLimits;

const DELAY: Duration = Duration::from_millis(10);
/// What a modem may hold.
const QUEUE: usize = 600_000;

/// For each rate of the line (kbit/s) and time (s): the worst round trip in the second half, and what left of what could.
fn run(seed: u64, measure: bool, phases: &[(u64, u64)]) -> Vec<(Duration, f64)> {
    let mut net = Net::new(seed, 2, LinkConfig::clean(DELAY));
    let reference = put(&mut net, &[0], &tree(seed));
    limit(&mut net, 0, NodeLimits { measure, ..NodeLimits::default() });
    net.befriend(1, &[0]);
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
            net.run_for(millis(100));
            if tenth == seconds * 5 {
                before = wire(&mut net, 0, "sent");
            }
            if tenth > seconds * 5 {
                let rtt = status(&mut net, 0).peers.iter().map(|peer| peer.rtt_us).max().unwrap_or(0);
                worst = worst.max(Duration::from_micros(rtt));
            }
        }
        let time = (seconds * 10 - seconds * 5 - 1) as f64 / 10.0;
        let left = (wire(&mut net, 0, "sent") - before) as f64 * 8.0 / time;
        told.push((worst, left / (*kbit as f64 * 1000.0)));
    }
    told
}

#[test]
fn the_queue_stays_here_as_the_line_changes() {
    let phases = [(10_000, 12), (3_000, 16), (20_000, 14)];
    for (number, (rtt, used)) in run(601, true, &phases).into_iter().enumerate() {
        assert!(rtt < 2 * DELAY + millis(30), "{rtt:?} at {} kbit/s", phases[number].0);
        assert!((0.8..1.02).contains(&used), "{used} of {} kbit/s", phases[number].0);
    }
    // What it would be otherwise: the modem is full.
    let (rtt, _) = run(601, false, &[(3_000, 12)])[0];
    assert!(rtt > millis(300), "{rtt:?}");
}

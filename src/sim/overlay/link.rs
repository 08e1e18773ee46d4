//! What the network below does to messages: latency, loss, and the bytes that sessions add.

use std::time::Duration;

use crate::base::Rng;
use crate::limits::{HANDSHAKE_INIT_MIN, HANDSHAKE_RETRY_MS, PACKET_OVERHEAD};

/// IPv4 and UDP.
const IP_UDP: u64 = 28;
/// A packet without its message: headers, tag, stream frame, an acknowledgement that rides along.
const PACKET: u64 = IP_UDP + PACKET_OVERHEAD as u64 + 12;
/// What a handshake adds to an exchange: the first flight (the question goes with it as early data), the reply, and the
/// packet that confirms it.
pub const HANDSHAKE_BYTES: u64 = (IP_UDP + HANDSHAKE_INIT_MIN as u64) + (IP_UDP + 220) + PACKET;
/// Values of the distribution that pairs draw from.
const QUANTILES: usize = 4096;

/// Latencies and loss between every two nodes.
#[derive(Debug, Clone)]
pub struct Links {
    one_way_us: Vec<u32>,
    seed: u64,
    /// Share of packets lost.
    pub loss: f64,
}

impl Links {
    /// Round trips of a log-normal distribution with this median and this σ: 0.6 gives the spread of measured paths
    /// between hosts of the Internet (90 % below 2.2 medians, 99 % below 4).
    pub fn new(median_rtt: Duration, sigma: f64, loss: f64, rng: &mut Rng) -> Self {
        let uniform = |rng: &mut Rng| (rng.below(1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
        let half_us = median_rtt.as_micros() as f64 / 2.0;
        let one_way_us = (0..QUANTILES)
            .map(|_| {
                // Box and Muller.
                let normal = (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos();
                (half_us * (sigma * normal).exp()) as u32
            })
            .collect();
        Self { one_way_us, seed: rng.next_u64(), loss }
    }

    /// One way between two nodes, the same each time and in both directions.
    pub fn one_way(&self, a: u32, b: u32) -> Duration {
        let pair = (u64::from(a.min(b)) << 32) | u64::from(a.max(b));
        let mut hash = pair ^ self.seed;
        // SplitMix64.
        for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
            hash = (hash ^ (hash >> 29)).wrapping_mul(factor);
        }
        let at = (hash ^ (hash >> 32)) as usize % self.one_way_us.len();
        Duration::from_micros(self.one_way_us[at].into())
    }

    /// How long a message takes, losses and their repair included. A session repeats what was lost after about two
    /// round trips, a handshake after half a second.
    pub fn delivery(&self, a: u32, b: u32, handshake: bool, rng: &mut Rng) -> Duration {
        let one_way = self.one_way(a, b);
        let jitter = one_way * (rng.below(100) as u32) / 1000;
        let mut time = one_way + jitter;
        let again = if handshake {
            Duration::from_millis(HANDSHAKE_RETRY_MS)
        } else {
            4 * one_way + Duration::from_millis(25)
        };
        while rng.chance(self.loss) {
            time += again;
        }
        time
    }

    /// Bytes of an exchange's half on the wire.
    pub fn bytes(&self, message: usize, is_answer: bool) -> u64 {
        // The asker acknowledges an answer by a packet of its own.
        PACKET + message as u64 + if is_answer { PACKET } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_what_was_asked_for() {
        let mut rng = Rng::from_number(1);
        let links = Links::new(Duration::from_millis(80), 0.6, 0.0, &mut rng);
        let mut all: Vec<Duration> = (0..2001).map(|n| 2 * links.one_way(n, n + 7)).collect();
        all.sort();
        let near = |at: usize, ms: u64| all[at].as_millis().abs_diff(ms.into()) < u128::from(ms / 8);
        assert!(near(1000, 80) && near(1800, 173), "{:?} {:?}", all[1000], all[1800]);
        assert_eq!(links.one_way(3, 9), links.one_way(9, 3));
    }
}

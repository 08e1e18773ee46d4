//! A link that delays, loses, reorders, duplicates, corrupts and refuses what is too large.

use std::time::Duration;

use crate::base::{Rng, Time};

/// What a link does to datagrams in one direction.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bytes that wait for the wire at most; what does not fit is lost.
    pub queue: usize,
    /// Time on the wire.
    pub delay: Duration,
    /// Up to so much more, at random: reorders.
    pub jitter: Duration,
    /// Probability of losing a datagram.
    pub loss: f64,
    /// Probability of delivering it twice.
    pub duplicate: f64,
    /// Probability of flipping one bit.
    pub corrupt: f64,
    /// Largest UDP payload that passes.
    pub mtu: usize,
}

impl LinkConfig {
    /// A clean link with a delay.
    pub fn clean(delay: Duration) -> Self {
        Self {
            rate: None,
            queue: 4 << 20,
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1472,
        }
    }
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    /// May be changed at any time.
    pub config: LinkConfig,
    busy_until: Time,
    rng: Rng,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}

impl Link {
    /// An idle link.
    pub fn new(config: LinkConfig, rng: Rng) -> Self {
        Self { config, busy_until: Time::ZERO, rng }
    }

    /// Sends a datagram: when it arrives and as what; none, one or two times.
    pub fn send(&mut self, now: Time, datagram: &[u8]) -> Vec<(Time, Vec<u8>)> {
        if datagram.len() > self.config.mtu || self.rng.chance(self.config.loss) {
            return Vec::new();
        }
        let mut sent = now;
        if let Some(rate) = self.config.rate {
            let start = self.busy_until.max(now);
            let waiting = start.since(now).as_secs_f64() * rate as f64 / 8.0;
            if waiting + datagram.len() as f64 > self.config.queue as f64 {
                return Vec::new();
            }
            let time = Duration::from_secs_f64((datagram.len() + 28) as f64 * 8.0 / rate as f64);
            self.busy_until = start + time;
            sent = self.busy_until;
        }
        let copies = if self.rng.chance(self.config.duplicate) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let jitter = self.rng.below(self.config.jitter.as_nanos() as u64 + 1);
                let mut bytes = datagram.to_vec();
                if self.rng.chance(self.config.corrupt) {
                    let bit = self.rng.below(8 * bytes.len() as u64) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                (sent + self.config.delay + Duration::from_nanos(jitter), bytes)
            })
            .collect()
    }
}

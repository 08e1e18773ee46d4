//! CoDel (RFC 8289): drops from the front of a queue that has stood too long, more often the longer it does.

use std::time::Duration;

use crate::base::Time;
use crate::limits::{CODEL_INTERVAL_US, CODEL_TARGET_US};

const INTERVAL: Duration = Duration::from_micros(CODEL_INTERVAL_US);
const TARGET: Duration = Duration::from_micros(CODEL_TARGET_US);

/// The state of one queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Codel {
    /// When the wait will have been above the target for an interval; `None` while it is below.
    above_until: Option<Time>,
    /// Drops of this episode; 0 outside of one.
    drops: u32,
    /// With how many this episode began: one that follows closely goes on where the last one was.
    began: u32,
    /// Drops of the episode before, if that ended just now.
    before: u32,
    next: Time,
}

/// 1/√n of the interval.
fn spaced(drops: u32) -> Duration {
    Duration::from_nanos((INTERVAL.as_nanos() as f64 / f64::from(drops.max(1)).sqrt()) as u64)
}

impl Codel {
    /// No flow is taken to need longer than this for its turn: [`Self::target`] stays within CoDel's interval.
    pub(super) const ROUND_MAX: Duration = Duration::from_micros(CODEL_INTERVAL_US * 2 / 3);

    /// How long a packet may wait, for a while, in a queue whose packets take so long each.
    pub(super) fn target(packet_time: Duration) -> Duration {
        TARGET.max(packet_time + packet_time / 2)
    }

    /// Drops, or marks, of this episode.
    pub(super) fn episode(&self) -> u32 {
        self.drops.saturating_sub(self.began)
    }

    /// Whether a packet that waited for `wait` shall be dropped instead of sent. `packet_time` is how long one packet of
    /// the queue takes at its rate: a queue whose every packet takes longer than the target cannot be shorter than one.
    /// `last` says that nothing waits behind it: the only packet is never dropped.
    pub fn drops(&mut self, now: Time, wait: Duration, packet_time: Duration, last: bool) -> bool {
        let target = Self::target(packet_time);
        if wait < target || last {
            self.above_until = None;
            self.leave(now);
            return false;
        }
        let Some(until) = self.above_until else {
            self.above_until = Some(now + INTERVAL.max(target));
            return false;
        };
        if now < until {
            return false;
        }
        if self.drops == 0 {
            // An episode that follows closely goes on where the last one was.
            self.drops =
                if self.before > 2 && now.since(self.next) < 16 * INTERVAL { self.before - 2 } else { 1 };
            self.began = self.drops;
            self.next = now + spaced(self.drops);
            return true;
        }
        if now < self.next {
            return false;
        }
        self.drops += 1;
        self.next += spaced(self.drops);
        true
    }

    fn leave(&mut self, now: Time) {
        if self.drops > 0 {
            (self.before, self.drops, self.next) = (self.drops, 0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue that is drained at `rate` packets per second and fed at `fed`: drops, and the last wait.
    fn run(rate: u64, fed: impl Fn(u32) -> u64, seconds: u64) -> (u32, Duration) {
        let mut codel = Codel::default();
        let mut queue = std::collections::VecDeque::new();
        let (mut drops, mut wait) = (0, Duration::ZERO);
        let packet_time = Duration::from_nanos(1_000_000_000 / rate);
        let (mut now, mut next) = (Time::ZERO, Time::ZERO);
        while now < Time::from_millis(seconds * 1000) {
            now += packet_time;
            while next <= now {
                queue.push_back(next);
                next += Duration::from_nanos(1_000_000_000 / fed(drops).max(1));
            }
            while let Some(came) = queue.pop_front() {
                wait = now.since(came);
                if !codel.drops(now, wait, packet_time, queue.is_empty()) {
                    break;
                }
                drops += 1;
            }
        }
        (drops, wait)
    }

    #[test]
    fn a_queue_that_drains_is_left_alone() {
        assert_eq!(run(1000, |_| 900, 5).0, 0);
    }

    #[test]
    fn a_standing_queue_is_brought_down() {
        // A sender that halves what it has above the rate with each ten drops.
        let (drops, wait) = run(1000, |drops| 950 + 550 / (1 + u64::from(drops) / 10), 30);
        assert!(drops > 10 && wait < Duration::from_millis(60), "{drops} {wait:?}");
    }

    #[test]
    fn a_slow_line_keeps_its_packets() {
        // Each packet takes half a second: three waiting are one and a half.
        let mut codel = Codel::default();
        let packet_time = Duration::from_millis(500);
        for second in 0..60 {
            let now = Time::from_millis(second * 1000);
            assert!(!codel.drops(now, Duration::from_millis(600), packet_time, false));
        }
    }
}

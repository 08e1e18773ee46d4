//! What the line carries, when nobody says: measured by what arrives and by how long it waits on the way, and followed as it
//! changes, so that what waits does so here, where it has an order, and not in somebody's modem.
//!
//! While nothing waits on the way the rate is raised, by more the longer that goes well; a wait that begins sets it a little
//! below what arrives, and one that has grown, further below, so that the queue drains. What arrives while something waits
//! *is* what the line carries; that is why the rate follows what arrives and no model of the line.

use std::time::Duration;

use crate::base::Time;
use crate::base::budget::Round;
use crate::limits::{LINE_HIGH_US, LINE_LOW_US, LINE_RATE_MIN, LINE_ROUND_MS, LINE_STEP_MAX, RATE_BITS_MAX};

/// Rounds of which the best counts as what the line carried just now.
const RECENT: usize = 3;

/// The estimate.
#[derive(Debug)]
pub struct Line {
    rate: Option<u64>,
    /// What arrived in the last rounds, bits per second.
    arrived: [u64; RECENT],
    /// Rounds in a row with a long wait.
    long: u32,
    /// Raises in a row.
    raises: u32,
    since: Time,
}

impl Line {
    /// Nothing is known yet.
    pub fn new(now: Time) -> Self {
        Self { rate: None, arrived: [0; RECENT], long: 0, raises: 0, since: now }
    }

    /// What may be sent, bits per second; `None` while nothing ever waited.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// When the next round is over.
    pub fn poll_timeout(&self) -> Time {
        self.since + Duration::from_millis(LINE_ROUND_MS)
    }

    /// A round is over.
    pub fn round(&mut self, now: Time, round: Round) {
        let elapsed = now.since(std::mem::replace(&mut self.since, now)).as_secs_f64().max(1e-3);
        let per_second = |bytes: u64| (bytes as f64 * 8.0 / elapsed) as u64;
        // Who waits for an acknowledgement tells nothing.
        let Some(wait) = round.wait else { return };
        self.arrived.rotate_right(1);
        self.arrived[0] = per_second(round.arrived);
        let carried = self.arrived.iter().copied().max().unwrap_or(0);
        let below = |milli: u64| (u128::from(carried) * u128::from(milli) / 1000) as u64;
        self.long = if wait > Duration::from_micros(LINE_HIGH_US) { self.long + 1 } else { 0 };
        if self.long >= 2 {
            // The queue must drain. What arrives just now, and not what did before the line became slower.
            let rate = below(850).max(LINE_RATE_MIN);
            self.rate = Some(self.rate.map_or(rate, |own| own.min(rate)));
            self.raises = 0;
            return;
        }
        let Some(rate) = self.rate else { return };
        if wait > Duration::from_micros(LINE_LOW_US) {
            self.rate = Some(rate.min(below(970)).max(LINE_RATE_MIN));
            self.raises = 0;
        } else if per_second(round.sent) >= rate / 10 * 8 {
            let step = (32u64 >> (self.raises / 4).min(5)).max(LINE_STEP_MAX);
            self.raises += 1;
            self.rate = Some((rate + rate / step).min(RATE_BITS_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line with a long queue in front of it, and a sender that always has more: the worst wait of the last part and
    /// what the line carried of what it could.
    fn run(line: &mut Line, now: &mut Time, queue: &mut f64, capacity: f64, seconds: u64) -> (Duration, f64) {
        let (mut worst, mut carried) = (Duration::ZERO, 0.0);
        let rounds = seconds * 1000 / LINE_ROUND_MS;
        for round in 0..rounds {
            let step = LINE_ROUND_MS as f64 / 1e3;
            *now += Duration::from_millis(LINE_ROUND_MS);
            let sent = line.rate().map_or(2.0 * capacity, |rate| rate as f64 / 8.0) * step;
            let arrived = (*queue + sent).min(capacity * step);
            *queue += sent - arrived;
            let wait = Duration::from_secs_f64(*queue / capacity);
            line.round(
                *now,
                Round { sent: sent as u64, arrived: arrived as u64, wait: Some(wait), ..Round::default() },
            );
            if round >= rounds / 2 {
                worst = worst.max(wait);
                carried += arrived / (capacity * step) / (rounds - rounds / 2) as f64;
            }
        }
        (worst, carried)
    }

    #[test]
    fn follows_a_line_that_becomes_slower_and_faster() {
        let (mut line, mut now, mut queue) = (Line::new(Time::ZERO), Time::ZERO, 0.0);
        for (mbit, seconds) in [(10.0, 20), (3.0, 30), (40.0, 20), (8.0, 40)] {
            let (worst, carried) = run(&mut line, &mut now, &mut queue, mbit * 125_000.0, seconds);
            assert!(worst < Duration::from_millis(30), "{worst:?} at {mbit} Mbit/s");
            assert!(carried > 0.9, "{carried} of {mbit} Mbit/s");
        }
    }

    #[test]
    fn what_is_not_used_is_not_raised_and_what_is_not_heard_of_changes_nothing() {
        let mut line = Line::new(Time::ZERO);
        let long = Round {
            sent: 200_000,
            arrived: 125_000,
            wait: Some(Duration::from_millis(200)),
            ..Round::default()
        };
        line.round(Time::from_millis(100), long);
        assert_eq!(line.rate(), None, "one round may be chance");
        line.round(Time::from_millis(200), long);
        assert_eq!(line.rate(), Some(8_500_000));
        line.round(
            Time::from_millis(300),
            Round { sent: 10, arrived: 10, wait: Some(Duration::ZERO), ..Round::default() },
        );
        line.round(Time::from_millis(400), Round::default());
        assert_eq!(line.rate(), Some(8_500_000));
        line.round(
            Time::from_millis(500),
            Round { sent: 106_000, arrived: 106_000, wait: Some(Duration::ZERO), ..Round::default() },
        );
        assert!(line.rate() > Some(8_500_000));
    }
}

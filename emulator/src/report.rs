//! What the emulator did, a line per direction: counts from the model, and how late packets left.

use std::fmt::Write;

use hdrhistogram::Histogram;
use tornet::base::Time;
use tornet::sim::emulator::Emulator;

use crate::control::Way;

/// Lateness beyond this is counted as this, nanoseconds.
const LATE_MAX_NS: u64 = 60_000_000_000;

/// What the model cannot know.
pub struct Report {
    directions: Vec<Direction>,
}

struct Direction {
    /// Nanoseconds from the time at which a packet should have left to the time at which it did.
    late: Histogram<u64>,
    /// Packets that the kernel would not have at the far end.
    refused: u64,
}

impl Report {
    /// Nothing so far.
    pub fn new(directions: usize) -> Self {
        let late = || Histogram::new_with_bounds(1, LATE_MAX_NS, 3).expect("the bounds are in order");
        Self { directions: (0..directions).map(|_| Direction { late: late(), refused: 0 }).collect() }
    }

    /// A packet left.
    pub fn left(&mut self, direction: usize, should: Time, did: Time, accepted: bool) {
        let direction = &mut self.directions[direction];
        direction.late.saturating_record(did.since(should).as_nanos() as u64);
        direction.refused += u64::from(!accepted);
    }

    /// A line per direction, `name=value` joined by spaces.
    pub fn show(&self, emulator: &Emulator, ways: &[Way]) -> String {
        let mut text = String::new();
        for (number, (way, own)) in ways.iter().zip(&self.directions).enumerate() {
            let counts = emulator.counts(number);
            let _ = write!(text, "{way}");
            for (name, value) in [
                ("received", counts.received),
                ("received_bytes", counts.received_bytes),
                ("passed", counts.passed),
                ("passed_bytes", counts.passed_bytes),
                ("down", counts.down),
                ("mtu", counts.mtu),
                ("queue", counts.queue),
                ("noise", counts.noise),
                ("full", counts.full),
                ("refused", own.refused),
                ("duplicated", counts.duplicated),
                ("flipped", counts.flipped),
                ("marked", counts.marked),
                ("spared", counts.spared),
            ] {
                let _ = write!(text, " {name}={value}");
            }
            let micros = |delay: std::time::Duration| delay.as_nanos() as f64 / 1e3;
            let least = micros(counts.delay_min.unwrap_or_default());
            let _ = write!(text, " delay_min_us={least:.1} delay_max_us={:.1}", micros(counts.delay_max));
            for (name, nanos) in [
                ("late_p50_us", own.late.value_at_quantile(0.5)),
                ("late_p99_us", own.late.value_at_quantile(0.99)),
                ("late_max_us", own.late.max()),
            ] {
                let _ = write!(text, " {name}={:.1}", nanos as f64 / 1e3);
            }
            text.push('\n');
        }
        text
    }
}

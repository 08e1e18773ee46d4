//! The only reader of the clocks.

use std::time::{Duration, Instant, SystemTime};

use crate::base::{Time, UnixMs};

/// Counts from an origin. Made once per daemon and copied to every thread, so that their times compare.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    origin: Instant,
}

impl Clocks {
    /// Starts counting.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Monotonic time since the start. One second in, so that a core may subtract from it.
    pub fn now(&self) -> Time {
        Time::from_millis(1000) + self.origin.elapsed()
    }

    /// Wall time; zero before 1970.
    pub fn wall(&self) -> UnixMs {
        wall()
    }
}

/// Wall time; zero before 1970.
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let clocks = Clocks::start();
        let first = clocks.now();
        assert!(clocks.now() >= first && first >= Time::from_millis(1000));
        assert!(clocks.wall() > UnixMs(1_700_000_000_000));
    }
}

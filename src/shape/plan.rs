//! What a node may use at which time: its rates, windows of the day with rates of their own, and a monthly amount that is
//! spent evenly.

use super::types::Reservation;
use crate::base::{NodeId, UnixMs};
use crate::limits::RATE_BITS_MIN;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 1440;

/// A time of every day, in UTC, with rates of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first minute of the day in it.
    pub from: u16,
    /// The first minute behind it; at or before `from`, it is one of the next day.
    pub until: u16,
    /// Bits per second; `None` for what holds otherwise.
    pub up: Option<u64>,
    /// Bits per second; `None` for what holds otherwise.
    pub down: Option<u64>,
}

impl Window {
    fn holds(&self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

/// The whole plan. Rates are bits per second on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What may leave.
    pub up: Option<u64>,
    /// What may be asked for.
    pub down: Option<u64>,
    /// Bytes that may leave in a calendar month, spent evenly: 1 KiB/s is 84 MiB a day.
    pub quota: Option<u64>,
    /// The first that holds counts.
    pub windows: Vec<Window>,
}

impl Plan {
    /// The rates now: up and down.
    pub fn at(&self, wall: UnixMs) -> (Option<u64>, Option<u64>) {
        let minutes = wall.0 / MINUTE_MS;
        let minute = (minutes % DAY_MINUTES) as u16;
        let window = self.windows.iter().find(|window| window.holds(minute));
        let up = window.and_then(|window| window.up).or(self.up);
        let down = window.and_then(|window| window.down).or(self.down);
        let seconds = days_in_month(minutes / DAY_MINUTES) * 86_400;
        let even =
            self.quota.map(|bytes| ((u128::from(bytes) * 8 / u128::from(seconds)) as u64).max(RATE_BITS_MIN));
        ([up, even].into_iter().flatten().min(), down)
    }
}

/// What the operator allows. Rates are bits per second on the wire: the IP length of every datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// What all shards together may send.
    pub up: Option<u64>,
    /// What all shards together may receive, as far as they ask for it.
    pub down: Option<u64>,
    /// Bytes that may leave at once after a pause; `None` is some milliseconds of the rate.
    pub burst: Option<u64>,
    /// Whether `up` is measured while it is `None`.
    pub measure: bool,
    /// Peers with limits of their own.
    pub peers: Vec<(NodeId, PeerLimits)>,
    /// What friends may have promised to them by asking, thousandths of `up`; `None` is the usual share.
    pub asked_share_milli: Option<u64>,
}

/// What one peer may, and is owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerLimits {
    /// What is sent to it at most.
    pub up: Option<u64>,
    /// What it is asked for at most.
    pub down: Option<u64>,
    /// What it gets at least.
    pub floor: Option<u64>,
    /// Bytes that may leave at once after a pause.
    pub burst: Option<u64>,
    /// Its share among its like: 1 to [`crate::limits::WEIGHT_MAX`].
    pub weight: Option<u16>,
    /// Whether all that it gets can wait for the others.
    pub background: bool,
    /// What was promised to it.
    pub reserved: Option<Reservation>,
    /// What it is asked to promise.
    pub asked: Option<Asked>,
}

/// A promise that a peer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub reservation: Reservation,
    /// Until when, seconds since 1970.
    pub until_s: u64,
}

/// How many days the month has in which a day since 1970 lies (the proleptic Gregorian calendar).
fn days_in_month(day: u64) -> u64 {
    // Years that begin in March: the leap day is their last.
    let day = day + 719_468;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let year = year_of_era + 1;
    match month {
        11 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        11 => 28,
        1 | 3 | 6 | 8 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = DAY_MINUTES * MINUTE_MS;

    #[test]
    fn months_have_their_days() {
        // Days since 1970 of the first of each month of 2024, and of February in 2023 and 2100.
        let days =
            [19_723, 19_754, 19_783, 19_814, 19_844, 19_875, 19_905, 19_936, 19_967, 19_997, 20_028, 20_058];
        let lengths = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (first, length) in days.into_iter().zip(lengths) {
            assert_eq!(
                (days_in_month(first), days_in_month(first + length - 1)),
                (length, length),
                "{first}"
            );
        }
        assert_eq!((days_in_month(19_389), days_in_month(47_513)), (28, 28));
    }

    #[test]
    fn windows_and_quota_count() {
        let day = Window { from: 480, until: 1080, up: Some(5_000_000), down: None };
        let night = Window { from: 1380, until: 300, up: None, down: Some(1_000_000) };
        let mut plan = Plan { up: Some(20_000_000), down: None, quota: None, windows: vec![day, night] };
        let at = |plan: &Plan, minute: u64| plan.at(UnixMs(19_723 * DAY_MS + minute * MINUTE_MS));
        assert_eq!(at(&plan, 479), (Some(20_000_000), None));
        assert_eq!(at(&plan, 480), (Some(5_000_000), None));
        assert_eq!(at(&plan, 1080), (Some(20_000_000), None));
        assert_eq!(at(&plan, 1380), (Some(20_000_000), Some(1_000_000)));
        assert_eq!(at(&plan, 299), (Some(20_000_000), Some(1_000_000)));
        // 1 KiB/s for a month of 31 days.
        plan.quota = Some(1024 * 86_400 * 31);
        assert_eq!(at(&plan, 600), (Some(8192), None));
    }
}

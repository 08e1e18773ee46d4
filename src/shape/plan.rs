//! What a node may use at which time: its rates, windows of the day with rates of their own, and a monthly amount that is
//! spent evenly.

use std::fmt;
use std::str::FromStr;

use super::types::Reservation;
use crate::base::{NodeId, UnixMs};
use crate::limits::{RATE_BITS_MAX, RATE_BITS_MIN};

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
    /// Bytes that may leave in a calendar month (UTC), spent evenly: 1 KiB/s is 84 MiB a day.
    pub quota: Option<u64>,
    /// The first that holds counts.
    pub windows: Vec<Window>,
}

impl Plan {
    /// The rates now: up and down. `spent` is how many bytes left this month; `None` stands for an even share of the quota.
    /// What is left of the quota is spent evenly over what is left of the month; a trickle stays when nothing is.
    pub fn at(&self, wall: UnixMs, spent: Option<u64>) -> (Option<u64>, Option<u64>) {
        let minutes = wall.0 / MINUTE_MS;
        let minute = (minutes % DAY_MINUTES) as u16;
        let window = self.windows.iter().find(|window| window.holds(minute));
        let up = window.and_then(|window| window.up).or(self.up);
        let down = window.and_then(|window| window.down).or(self.down);
        let month = Month::of(wall);
        let even = self.quota.map(|quota| {
            let (bytes, seconds) = match spent {
                None => (quota, month.seconds),
                Some(spent) => (quota.saturating_sub(spent), month.left_s),
            };
            let rate = u128::from(bytes) * 8 / u128::from(seconds.max(1));
            let rate = u64::try_from(rate).unwrap_or(u64::MAX).clamp(RATE_BITS_MIN, RATE_BITS_MAX);
            // Eight bits of it, so that it is not another one each time that somebody looks.
            let fine = rate.ilog2().saturating_sub(7);
            rate >> fine << fine
        });
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
    /// Whether what the line carries is measured; no more than that is sent then, whatever `up` says.
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
    /// Whether nothing is promised to it when it asks, and what was is taken back.
    pub refuses: bool,
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

/// A month of the proleptic Gregorian calendar, UTC, and where in it we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Month {
    /// Months since March of year 0.
    number: u32,
    seconds: u64,
    left_s: u64,
}

impl Month {
    fn of(wall: UnixMs) -> Self {
        // Years that begin in March: the leap day is their last.
        let day = wall.0 / (DAY_MINUTES * MINUTE_MS) + 719_468;
        let (era, of_era) = (day / 146_097, day % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let ends_in = year_of_era + 1;
        let days = match month {
            11 if ends_in.is_multiple_of(4)
                && (!ends_in.is_multiple_of(100) || ends_in.is_multiple_of(400)) =>
            {
                29
            }
            11 => 28,
            1 | 3 | 6 | 8 => 30,
            _ => 31,
        };
        let (seconds, before) = (days * 86_400, of_year - (153 * month + 2) / 5);
        let passed = before * 86_400 + wall.0 % (DAY_MINUTES * MINUTE_MS) / 1000;
        Self { number: ((era * 400 + year_of_era) * 12 + month) as u32, seconds, left_s: seconds - passed }
    }
}

/// What was sent in this month, for its quota, and in the one before: a clock may be wrong for a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Months and their bytes, the later one last; month 0 is none.
    months: [(u32, u64); 2],
}

impl Spent {
    /// The count that a month goes by. A month after all that are known begins with nothing. One before them all counts with the
    /// earliest, since a clock that has not been set yet is years behind; and one between the two shows that the later
    /// was no month yet.
    fn find(&self, month: u32) -> Found {
        let [first, last] = self.months.map(|(month, _)| month);
        if month == last || (month < last && first == 0) {
            Found::At(1)
        } else if month <= first {
            Found::At(0)
        } else if month > last {
            Found::After
        } else {
            Found::Between
        }
    }

    /// So many bytes left since the last time. What came with the turn of a month counts for the new one.
    pub fn add(&mut self, wall: UnixMs, bytes: u64) {
        let month = Month::of(wall).number;
        let at = match self.find(month) {
            Found::At(at) => at,
            Found::After => {
                self.months = [self.months[1], (month, 0)];
                1
            }
            Found::Between => {
                self.months[1] = (month, 0);
                1
            }
        };
        self.months[at].1 = self.months[at].1.saturating_add(bytes);
    }

    /// Bytes that left in the month in which this is.
    pub fn at(&self, wall: UnixMs) -> u64 {
        match self.find(Month::of(wall).number) {
            Found::At(at) => self.months[at].1,
            Found::After | Found::Between => 0,
        }
    }
}

/// Where a month is counted.
enum Found {
    At(usize),
    After,
    Between,
}

impl fmt::Display for Spent {
    /// A line for each month: `2026-11 12345`, and the bytes in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (month, bytes) in self.months.iter().filter(|(month, _)| *month > 0) {
            let number = month + 2;
            writeln!(f, "{:04}-{:02} {bytes}", number / 12, number % 12 + 1)?;
        }
        Ok(())
    }
}

impl FromStr for Spent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "one line or two: a month as 2026-11, a space, and the bytes sent in it";
        let line = |line: &str| {
            let (month, bytes) = line.split_once(' ')?;
            let (year, month) = month.split_once('-')?;
            let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
            let valid = (1..=9999).contains(&year) && (1..=12).contains(&month);
            valid.then(|| Some((year * 12 + month - 3, bytes.parse().ok()?)))?
        };
        let lines: Option<Vec<(u32, u64)>> = text.lines().map(line).collect();
        match lines.as_deref() {
            Some([last]) => Ok(Self { months: [(0, 0), *last] }),
            Some([first, last]) if first.0 < last.0 => Ok(Self { months: [*first, *last] }),
            _ => Err(WANTED),
        }
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
            let [begin, last] =
                [first * DAY_MS, (first + length) * DAY_MS - 1000].map(|ms| Month::of(UnixMs(ms)));
            assert_eq!((begin.seconds, begin.left_s), (length * 86_400, length * 86_400), "{first}");
            assert_eq!((last.number, last.seconds, last.left_s), (begin.number, begin.seconds, 1), "{first}");
            assert_eq!(Month::of(UnixMs((first + length) * DAY_MS)).number, begin.number + 1);
        }
        assert!([19_389, 47_513].iter().all(|day| Month::of(UnixMs(day * DAY_MS)).seconds == 28 * 86_400));
    }

    #[test]
    fn what_is_left_of_a_quota_is_spent_over_what_is_left_of_the_month() {
        let noon_of_16th = UnixMs(19_738 * DAY_MS + DAY_MS / 2);
        let plan = Plan { quota: Some(1024 * 86_400 * 31), ..Plan::default() };
        let at = |spent: u64| plan.at(noon_of_16th, Some(spent)).0;
        let half = 1024 * 86_400 * 31 / 2;
        assert_eq!(at(half), Some(8192), "as if it had been even");
        assert_eq!(at(0), Some(16_384), "nothing was used so far");
        assert_eq!(at(half * 2), Some(RATE_BITS_MIN), "all is gone");
        assert_eq!(at(u64::MAX), Some(RATE_BITS_MIN));
    }

    #[test]
    fn a_month_begins_with_nothing_spent() {
        let (mut spent, last) = (Spent::default(), UnixMs(19_754 * DAY_MS - 1));
        assert_eq!(spent.at(last), 0);
        spent.add(last, 100);
        spent.add(last, 20);
        assert_eq!((spent.at(last), spent.to_string().as_str()), (120, "2024-01 120\n"));
        assert_eq!("2024-01 120\n".parse(), Ok(spent));
        let next = UnixMs(19_754 * DAY_MS);
        assert_eq!(spent.at(next), 0);
        spent.add(next, 5);
        assert_eq!((spent.at(next), spent.to_string().as_str()), (5, "2024-01 120\n2024-02 5\n"));
        assert_eq!(spent.to_string().parse(), Ok(spent));
        for text in [
            "",
            "2024-13 1",
            "2024-00 1",
            "0000-00 1",
            "0000-05 1",
            "4294967295-01 1",
            "2024-02",
            "x-02 5",
            "2024-02 -1",
            "2024-2 5 6",
            "2024-02 1\n2024-01 1",
            "2024-01 1\n2024-02 1\n2024-03 1",
        ] {
            assert!(text.parse::<Spent>().is_err(), "{text}");
        }
    }

    /// Found by reading: a clock at 1970, or a month ahead for a while, gave the whole quota again.
    #[test]
    fn a_wrong_clock_forgets_no_month() {
        let at = |day: u64| UnixMs(day * DAY_MS);
        let (november, december, january) = (20_400, 20_440, 20_470);
        let mut spent = Spent::default();
        spent.add(at(november), 480);
        // It has not been set yet.
        spent.add(at(0), 7);
        assert_eq!((spent.at(at(0)), spent.at(at(november))), (487, 487));
        // It is years ahead, and comes back.
        assert_eq!(spent.at(at(47_482)), 0);
        spent.add(at(47_482), 1);
        assert_eq!(spent.at(at(november)), 487);
        spent.add(at(november), 1);
        assert_eq!(spent.at(at(november)), 488);
        // A month comes that lies before the wrong one, and those after it.
        spent.add(at(december), 9);
        assert_eq!((spent.at(at(december)), spent.at(at(november))), (9, 488));
        spent.add(at(january), 2);
        assert_eq!((spent.at(at(january)), spent.at(at(december))), (2, 9));
        // Back over midnight of the first.
        spent.add(at(december), 1);
        assert_eq!((spent.at(at(december)), spent.at(at(january))), (10, 2));
    }

    /// Found by reading: a rate that is another one at each look has every shard look at every peer.
    #[test]
    fn a_quota_that_nobody_uses_makes_few_rates() {
        let plan = Plan { quota: Some(5_000_000_000_000), ..Plan::default() };
        let rates = (0..5760).map(|look| plan.at(UnixMs(19_738 * DAY_MS + look * 15_000), Some(0)).0);
        let mut rates: Vec<_> = rates.collect();
        rates.dedup();
        assert!(rates.len() < 30, "{} rates in a day", rates.len());
    }

    #[test]
    fn windows_and_quota_count() {
        let day = Window { from: 480, until: 1080, up: Some(5_000_000), down: None };
        let night = Window { from: 1380, until: 300, up: None, down: Some(1_000_000) };
        let mut plan = Plan { up: Some(20_000_000), down: None, quota: None, windows: vec![day, night] };
        let at = |plan: &Plan, minute: u64| plan.at(UnixMs(19_723 * DAY_MS + minute * MINUTE_MS), None);
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

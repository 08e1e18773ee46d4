//! What the load wrote down, and what follows from it.

use anyhow::{Context, Result, ensure};

/// One datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Came {
    /// Nanoseconds from the begin, by the kernel's clock at the device.
    pub at: u64,
    /// Which session.
    pub session: usize,
    /// On the wire.
    pub bytes: u64,
}

/// Reads what `examples/shaped.rs` writes, in the order of time.
pub fn parse(bytes: &[u8]) -> Result<Vec<Came>> {
    ensure!(bytes.len().is_multiple_of(16), "a log of {} bytes", bytes.len());
    let record = |record: &[u8]| -> Option<Came> {
        let (at, rest) = record.split_first_chunk::<8>()?;
        let (session, bytes) = rest.split_first_chunk::<4>()?;
        Some(Came {
            at: u64::from_le_bytes(*at),
            session: u32::from_le_bytes(*session) as usize,
            bytes: u64::from(u32::from_le_bytes(*bytes.first_chunk()?)),
        })
    };
    let mut all: Vec<Came> =
        bytes.chunks_exact(16).map(record).collect::<Option<_>>().context("a log of another kind")?;
    all.sort_by_key(|came| came.at);
    Ok(all)
}

/// Bytes of each session below `count`.
pub fn totals(log: &[Came], count: usize) -> Vec<u64> {
    let mut totals = vec![0; count];
    log.iter().filter(|came| came.session < count).for_each(|came| totals[came.session] += came.bytes);
    totals
}

/// How far windows are from their rates.
#[derive(Debug, Clone, Default)]
pub struct Errors {
    /// Windows that were looked at, and of those the ones that are out of bounds.
    pub windows: u64,
    pub bad: u64,
    /// Sessions with such windows.
    pub bad_sessions: u64,
    /// The largest error, in parts of what is allowed.
    pub worst: f64,
    /// The mean error of all windows, in parts of what is due; windows that hold ten packets and more alone, since a
    /// packet cannot be divided.
    pub mean: f64,
}

/// Each session in each window against its rate: allowed is `share` of what is due, or one packet.
pub fn errors(log: &[Came], rates: &[u64], length_ns: u64, window_ns: u64, share: f64) -> Errors {
    let windows = (length_ns / window_ns) as usize;
    let mut bytes = vec![0u64; windows * rates.len()];
    let mut packet = vec![0u64; rates.len()];
    for came in log.iter().filter(|came| came.session < rates.len()) {
        let window = (came.at / window_ns) as usize;
        if window < windows {
            bytes[came.session * windows + window] += came.bytes;
        }
        packet[came.session] = packet[came.session].max(came.bytes);
    }
    let (mut errors, mut sum, mut long) = (Errors::default(), 0.0, 0u64);
    for (session, rate) in rates.iter().enumerate() {
        let due = *rate as f64 / 8.0 * window_ns as f64 / 1e9;
        let allowed = (share * due).max(packet[session] as f64);
        let mut bad = 0;
        for window in &bytes[session * windows..][..windows] {
            let error = (*window as f64 - due).abs();
            errors.worst = errors.worst.max(error / allowed.max(1.0));
            bad += u64::from(error > allowed);
            if due >= 10.0 * packet[session] as f64 {
                sum += error / due;
                long += 1;
            }
        }
        errors.windows += windows as u64;
        errors.bad += bad;
        errors.bad_sessions += u64::from(bad > 0);
    }
    errors.mean = sum / long.max(1) as f64;
    errors
}

/// The most that any window of this length holds above the rate, bytes, wherever it begins.
pub fn excess(log: &[Came], rate: u64, window_ns: u64) -> f64 {
    let due = rate as f64 / 8.0 * window_ns as f64 / 1e9;
    let (mut first, mut sum, mut most) = (0, 0u64, 0u64);
    for came in log {
        sum += came.bytes;
        while came.at - log[first].at >= window_ns {
            sum -= log[first].bytes;
            first += 1;
        }
        most = most.max(sum);
    }
    most as f64 - due
}

/// How late a session that always had something to get was at worst: from whatever moment one counts, each packet against
/// the time at which its rate had it due, seconds.
pub fn late(log: &[Came], session: usize, rate: u64) -> f64 {
    let (mut got, mut least, mut late) = (0u64, f64::MAX, 0f64);
    for came in log.iter().filter(|came| came.session == session) {
        got += came.bytes;
        let behind = came.at as f64 / 1e9 - got as f64 * 8.0 / rate as f64;
        least = least.min(behind);
        late = late.max(behind - least);
    }
    late
}

/// Jain's index: one when all are equal.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

/// The value that so many of all do not exceed.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// 1000 bytes each `every`, for two seconds.
    fn steady(session: usize, every: u64) -> Vec<Came> {
        (0..2000 * MS / every).map(|n| Came { at: n * every, session, bytes: 1000 }).collect()
    }

    #[test]
    fn errors_are_counted_against_the_larger_allowance() {
        // 1 Mbit/s: 125 packets a second.
        let log = steady(0, 8 * MS);
        let exact = errors(&log, &[1_000_000], 2000 * MS, 1000 * MS, 0.01);
        assert_eq!((exact.windows, exact.bad), (2, 0));
        assert!(exact.worst < 1e-9 && exact.mean < 1e-9);
        // A packet in the hundred too few is allowed at both ends of a window, 3 % are not.
        let fast = errors(&log, &[1_030_000], 2000 * MS, 1000 * MS, 0.01);
        assert_eq!((fast.bad, fast.bad_sessions), (2, 1));
        assert!((fast.mean - 0.03 / 1.03).abs() < 1e-6);
        // A slow one sends a packet or none.
        let slow = [Came { at: 900 * MS, session: 0, bytes: 1400 }];
        assert_eq!(errors(&slow, &[8_000], 2000 * MS, 1000 * MS, 0.01).bad, 0);
        assert_eq!(errors(&[], &[80_000], 2000 * MS, 1000 * MS, 0.01).bad, 2, "nothing came");
    }

    #[test]
    fn excess_is_found_wherever_it_begins() {
        let mut log = steady(0, 8 * MS);
        assert!(excess(&log, 1_000_000, 10 * MS) <= 1000.0);
        log.extend((0..5).map(|n| Came { at: 777 * MS + n, session: 1, bytes: 1000 }));
        log.sort_by_key(|came| came.at);
        assert!((excess(&log, 1_000_000, 10 * MS) - (7000.0 - 1250.0)).abs() < 1.0);
    }

    #[test]
    fn lateness_is_what_a_pause_was() {
        let mut log = steady(3, 8 * MS);
        assert!(late(&log, 3, 1_000_000) < 1e-9);
        log.retain(|came| !(500 * MS..540 * MS).contains(&came.at));
        assert!((late(&log, 3, 1_000_000) - 0.040).abs() < 0.009, "{}", late(&log, 3, 1_000_000));
        assert!(late(&log, 3, 900_000) < 0.040);
    }

    #[test]
    fn logs_quantiles_and_shares() {
        let mut bytes = Vec::new();
        for (at, session, len) in [(5u64, 1u32, 100u32), (2, 0, 60)] {
            bytes.extend(at.to_le_bytes());
            bytes.extend(session.to_le_bytes());
            bytes.extend(len.to_le_bytes());
        }
        let log = parse(&bytes).unwrap();
        assert_eq!(log[0], Came { at: 2, session: 0, bytes: 60 });
        assert_eq!(totals(&log, 2), [60, 100]);
        assert!(parse(&bytes[1..]).is_err());
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0], 0.99), 3.0);
        assert!((jain(&[2.0, 2.0]) - 1.0).abs() < 1e-9 && jain(&[4.0, 0.0]) < 0.51);
    }
}

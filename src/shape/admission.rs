//! What may be promised: reservations and floors against the node's rate.

use std::time::Duration;

use super::types::Reservation;
use crate::limits::{
    RATE_BITS_MIN, RESERVED_DELAY_US_MAX, RESERVED_DELAY_US_MIN, RESERVED_SHARE_MILLI_MAX,
    URGENT_SHARE_MILLI_MAX, WIRE_PACKET_MAX,
};

/// Why a reservation was refused, and the most that would have fit, bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Below what can be kept.
    #[error("a rate of at least {RATE_BITS_MIN} bit/s is needed")]
    TooSlow,
    /// The delay is too short, or beyond what deadlines are kept for.
    #[error("a delay from {RESERVED_DELAY_US_MIN} to {RESERVED_DELAY_US_MAX} µs can be kept")]
    Delay,
    /// Others were promised the rest.
    #[error("only {0} bit/s are left to promise")]
    Rate(u64),
    /// It would be late behind the bursts of others.
    #[error("with that delay, bursts of {0} bytes at most fit")]
    Burst(u64),
    /// The peer's own cap is lower.
    #[error("the peer's own limit is {0} bit/s")]
    Cap(u64),
}

impl Refused {
    /// The most that would have been admitted, bits per second; zero when the rate was not what was wrong.
    pub fn most(&self) -> u64 {
        match self {
            Self::Rate(most) | Self::Cap(most) => *most,
            Self::TooSlow | Self::Delay | Self::Burst(_) => 0,
        }
    }
}

/// The sum of what was promised. With earliest deadline first, promises (r, b, d) are kept on a line of rate C when
/// Σ rᵢ ≤ C and, for each deadline d, what all those with deadlines up to d may demand by then fits: Σ (bᵢ + rᵢ·(d − dᵢ)) and
/// one packet that had begun ≤ C·d.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Bits per second; `None` for a node without a limit, which promises what it is asked for.
    line: Option<u64>,
    floors: u64,
    promised: Vec<Reservation>,
}

impl Admission {
    /// Sets the node's rate and the sum of the floors, bits per second. What was promised stays.
    pub fn set_line(&mut self, line: Option<u64>, floors: u64) {
        (self.line, self.floors) = (line, floors);
    }

    /// Bits per second promised.
    pub fn promised(&self) -> u64 {
        self.promised.iter().map(|one| one.rate).sum()
    }

    /// The highest rate that could still be promised; `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        let line = self.line?;
        let part = |milli: u64| (u128::from(line) * u128::from(milli) / 1000) as u64;
        let own = part(RESERVED_SHARE_MILLI_MAX).saturating_sub(self.promised());
        let with_floors = part(URGENT_SHARE_MILLI_MAX).saturating_sub(self.promised() + self.floors);
        Some(own.min(with_floors))
    }

    /// Promises, or says why not.
    pub fn admit(&mut self, wanted: Reservation, cap: Option<u64>) -> Result<(), Refused> {
        self.check(wanted, cap)?;
        self.promised.push(wanted);
        Ok(())
    }

    /// Counts a promise that was made before, whether it would fit now or not.
    pub fn keep(&mut self, reservation: Reservation) {
        self.promised.push(reservation);
    }

    /// Takes a promise back.
    pub fn release(&mut self, reservation: Reservation) {
        if let Some(at) = self.promised.iter().position(|one| *one == reservation) {
            self.promised.swap_remove(at);
        }
    }

    fn check(&self, wanted: Reservation, cap: Option<u64>) -> Result<(), Refused> {
        if wanted.rate < RATE_BITS_MIN {
            return Err(Refused::TooSlow);
        }
        let delays =
            Duration::from_micros(RESERVED_DELAY_US_MIN)..=Duration::from_micros(RESERVED_DELAY_US_MAX);
        if !delays.contains(&wanted.delay) {
            return Err(Refused::Delay);
        }
        if let Some(cap) = cap.filter(|cap| *cap < wanted.rate) {
            return Err(Refused::Cap(cap));
        }
        let (Some(line), Some(left)) = (self.line, self.left()) else { return Ok(()) };
        if wanted.rate > left {
            return Err(Refused::Rate(left));
        }
        let demand_by = |deadline: Duration| -> f64 {
            let of = |one: &Reservation| {
                let over = deadline.saturating_sub(one.delay).as_secs_f64();
                if one.delay > deadline { 0.0 } else { one.burst as f64 * 8.0 + one.rate as f64 * over }
            };
            self.promised.iter().map(of).sum::<f64>() + of(&wanted)
        };
        let later = self.promised.iter().map(|one| one.delay).filter(|delay| *delay > wanted.delay);
        for deadline in later.chain([wanted.delay]) {
            let room = line as f64 * deadline.as_secs_f64() - WIRE_PACKET_MAX as f64 * 8.0;
            let short = demand_by(deadline) - room;
            if short > 0.0 {
                return Err(Refused::Burst((wanted.burst as f64 - short / 8.0).max(0.0) as u64));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn wanted(rate: u64, burst: u64, delay_ms: u64) -> Reservation {
        Reservation { rate, burst, delay: Duration::from_millis(delay_ms) }
    }

    #[test]
    fn promises_what_fits_and_says_what_would() {
        let mut admission = Admission::default();
        admission.set_line(Some(10_000_000), 0);
        assert_eq!(admission.admit(wanted(5_000_000, 3040, 20), None), Ok(()));
        assert_eq!(admission.admit(wanted(5_000_000, 3040, 20), None), Err(Refused::Rate(3_000_000)));
        assert_eq!(admission.admit(wanted(3_000_000, 3040, 20), None), Ok(()));
        assert_eq!(admission.left(), Some(0));
        admission.release(wanted(5_000_000, 3040, 20));
        assert_eq!(admission.left(), Some(5_000_000));
        admission.set_line(Some(10_000_000), 6_000_000);
        assert_eq!(admission.left(), Some(500_000), "floors are promises too");
    }

    #[test]
    fn a_burst_that_makes_others_late_is_refused() {
        let mut admission = Admission::default();
        admission.set_line(Some(10_000_000), 0);
        // 10 ms of the line are 12,500 bytes.
        admission.admit(wanted(1_000_000, 8_000, 10), None).expect("fits");
        let Err(Refused::Burst(most)) = admission.admit(wanted(1_000_000, 8_000, 10), None) else {
            panic!("20 ms of bursts in 10 ms")
        };
        assert!((2_000..4_000).contains(&most), "{most}");
        assert_eq!(admission.admit(wanted(1_000_000, most, 10), None), Ok(()));
        assert!(
            matches!(admission.admit(wanted(100_000, 8_000, 1), None), Err(Refused::Burst(_))),
            "earlier than all"
        );
        assert_eq!(admission.admit(wanted(100_000, 3_000, 100), None), Ok(()));
    }

    #[test]
    fn nonsense_is_refused_whatever_the_line() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(wanted(1, 0, 10), None), Err(Refused::TooSlow));
        assert_eq!(admission.admit(wanted(8_000, 0, 0), None), Err(Refused::Delay));
        assert_eq!(admission.admit(wanted(8_000, 0, 1_000), None), Err(Refused::Delay));
        assert_eq!(admission.admit(wanted(8_000, 0, 10), Some(4_000)), Err(Refused::Cap(4_000)));
        assert_eq!(
            admission.admit(wanted(1 << 40, 0, 10), None),
            Ok(()),
            "without a limit nothing is scarce"
        );
    }
}

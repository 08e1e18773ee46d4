//! What a peer asks to be promised, on a stream of channel 3, and the answer (docs/protocol/reserve.md). One request per
//! stream.
//!
//! ```text
//! request | kind 1 | zero 3 | duration 4, s | rate 8, bit/s | burst 4, bytes | delay 4, µs |      little-endian
//! answer  | verdict 1 | zero 3 | duration 4, s | most 8 |
//! ```

use std::time::Duration;

use super::Malformed;
use crate::limits::{
    BURST_BYTES_MAX, RATE_BITS_MAX, RATE_BITS_MIN, RESERVED_DELAY_US_MAX, RESERVED_DELAY_US_MIN,
    RESERVED_S_MAX,
};

const KIND_ASK: u8 = 1;
const KIND_RELEASE: u8 = 2;
const KIND_REVOKE: u8 = 3;

/// What a peer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A promise, in the place of an earlier one.
    Ask(Wanted),
    /// None any more.
    Release,
    /// From the one who promised: it is not kept any longer.
    Revoke,
}

/// A promise that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Bits per second on the wire, from [`RATE_BITS_MIN`] to [`RATE_BITS_MAX`].
    pub rate: u64,
    /// Bytes, at most [`BURST_BYTES_MAX`].
    pub burst: u32,
    /// What each packet waits at most, from [`RESERVED_DELAY_US_MIN`] to [`RESERVED_DELAY_US_MAX`] microseconds.
    pub delay_us: u32,
    /// For how long, seconds: from 1 to [`RESERVED_S_MAX`].
    pub duration_s: u32,
}

impl Wanted {
    /// The delay.
    pub fn delay(&self) -> Duration {
        Duration::from_micros(u64::from(self.delay_us))
    }

    /// Whether it may be sent.
    pub fn is_sound(&self) -> bool {
        let delays = RESERVED_DELAY_US_MIN..=RESERVED_DELAY_US_MAX;
        (RATE_BITS_MIN..=RATE_BITS_MAX).contains(&self.rate)
            && u64::from(self.burst) <= BURST_BYTES_MAX
            && delays.contains(&u64::from(self.delay_us))
            && (1..=RESERVED_S_MAX).contains(&self.duration_s)
    }
}

impl Request {
    /// Encoded length, bytes.
    pub const LEN: usize = 24;

    /// Writes the request.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        match self {
            Self::Release => out[0] = KIND_RELEASE,
            Self::Revoke => out[0] = KIND_REVOKE,
            Self::Ask(wanted) => {
                out[0] = KIND_ASK;
                out[4..8].copy_from_slice(&wanted.duration_s.to_le_bytes());
                out[8..16].copy_from_slice(&wanted.rate.to_le_bytes());
                out[16..20].copy_from_slice(&wanted.burst.to_le_bytes());
                out[20..24].copy_from_slice(&wanted.delay_us.to_le_bytes());
            }
        }
        out
    }

    /// Reads a whole request.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| Malformed("reservation: length"))?;
        let wanted = Wanted {
            duration_s: word(bytes, 4),
            rate: u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")),
            burst: word(bytes, 16),
            delay_us: word(bytes, 20),
        };
        let request = match bytes[0] {
            KIND_ASK if wanted.is_sound() => Self::Ask(wanted),
            KIND_ASK => return Err(Malformed("reservation: bounds")),
            KIND_RELEASE => Self::Release,
            KIND_REVOKE => Self::Revoke,
            _ => return Err(Malformed("reservation: kind")),
        };
        // What has no meaning is zero, so that one request has one form.
        if request.emit() == *bytes { Ok(request) } else { Err(Malformed("reservation: filling")) }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It is promised (or, after a release, no more).
    Promised = 0,
    /// This node promises nothing to this peer.
    Unwilling = 1,
    /// The rate is more than is left; [`Answer::most`] bits per second would fit.
    Rate = 2,
    /// The rate is more than this peer's cap, [`Answer::most`] bits per second.
    Cap = 3,
    /// The burst would make others late; [`Answer::most`] bytes would fit.
    Burst = 4,
    /// This node has promised something to as many as it can remember.
    Full = 5,
}

impl Verdict {
    fn from_byte(byte: u8) -> Option<Self> {
        use Verdict::{Burst, Cap, Full, Promised, Rate, Unwilling};
        [Promised, Unwilling, Rate, Cap, Burst, Full].into_iter().find(|one| *one as u8 == byte)
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of it.
    pub verdict: Verdict,
    /// For how long it is promised, seconds: what was asked for or less; 0 unless it is.
    pub duration_s: u32,
    /// What would have fitted; 0 when nothing would, or when it is no matter of size.
    pub most: u64,
}

impl Answer {
    /// Encoded length, bytes.
    pub const LEN: usize = 16;

    /// Writes the answer.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.verdict as u8;
        out[4..8].copy_from_slice(&self.duration_s.to_le_bytes());
        out[8..16].copy_from_slice(&self.most.to_le_bytes());
        out
    }

    /// Reads a whole answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| Malformed("promise: length"))?;
        let verdict = Verdict::from_byte(bytes[0]).ok_or(Malformed("promise: verdict"))?;
        let (duration_s, most) =
            (word(bytes, 4), u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")));
        let promised = verdict == Verdict::Promised;
        if bytes[1..4] != [0; 3] || promised && most > 0 || !promised && duration_s > 0 {
            return Err(Malformed("promise"));
        }
        if duration_s > RESERVED_S_MAX {
            return Err(Malformed("promise: duration"));
        }
        Ok(Self { verdict, duration_s, most })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_round_trip(
            rate in RATE_BITS_MIN..=RATE_BITS_MAX,
            burst in 0..=BURST_BYTES_MAX as u32,
            delay_us in RESERVED_DELAY_US_MIN as u32..=RESERVED_DELAY_US_MAX as u32,
            duration_s in 1..=RESERVED_S_MAX,
        ) {
            let request = Request::Ask(Wanted { rate, burst, delay_us, duration_s });
            for request in [request, Request::Release, Request::Revoke] {
                prop_assert_eq!(Request::parse(&request.emit()), Ok(request));
            }
        }

        #[test]
        fn answers_round_trip(verdict in 0u8..6, duration_s in 1..=RESERVED_S_MAX, most in any::<u64>()) {
            let verdict = Verdict::from_byte(verdict).expect("one of six");
            let answer = match verdict {
                Verdict::Promised => Answer { verdict, duration_s, most: 0 },
                _ => Answer { verdict, duration_s: 0, most },
            };
            prop_assert_eq!(Answer::parse(&answer.emit()), Ok(answer));
        }

        #[test]
        fn whatever_reads_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert_eq!(&request.emit()[..], &bytes[..]);
            }
            if let Ok(answer) = Answer::parse(&bytes) {
                prop_assert_eq!(&answer.emit()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn what_breaks_the_bounds_is_malformed() {
        let sound = Wanted { rate: 80_000, burst: 3_040, delay_us: 20_000, duration_s: 9_000 };
        assert!(Request::parse(&Request::Ask(sound).emit()).is_ok());
        assert_eq!(Request::parse(&Request::Release.emit()), Ok(Request::Release));
        for wrong in [
            Wanted { rate: 1, ..sound },
            Wanted { burst: u32::MAX, ..sound },
            Wanted { delay_us: 0, ..sound },
            Wanted { delay_us: 1_000_000, ..sound },
            Wanted { duration_s: 0, ..sound },
            Wanted { duration_s: RESERVED_S_MAX + 1, ..sound },
        ] {
            assert!(Request::parse(&Request::Ask(wrong).emit()).is_err(), "{wrong:?}");
        }
        let mut bytes = Request::Release.emit();
        bytes[23] = 1;
        assert!(Request::parse(&bytes).is_err() && Request::parse(&bytes[..23]).is_err());
    }
}

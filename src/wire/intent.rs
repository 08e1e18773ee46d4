//! Messages of channel 7: what a node means to do, and what it asks of one that leaves (docs/protocol/intents.md §2). One
//! message per datagram.
//!
//! ```text
//! online  | 1 | number 4 | seconds 4 |                                      little-endian
//! leaving | 2 | number 4 | seconds 4 |
//! stay    | 3 | number 4 | seconds 4 |
//! answer  | 4 | number 4 | verdict 1 | seconds 4 |
//! ```

use super::Malformed;
use crate::limits::{INTENT_S_MAX, STAY_S_MAX};

const ANSWER: u8 = 4;

/// What is said. All but its answer are repeated until that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// I mean to stay for so long; 0: I say nothing of it any more. Either way I do not leave, whatever I said before.
    Online = 1,
    /// I leave in so long.
    Leaving = 2,
    /// Please be there for so long from now.
    Stay = 3,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To *online* and *leaving*: it was heard.
    Heard = 0,
    /// To *stay*: so it will be; it means to go after so many seconds, or, with 0, has no such time.
    Granted = 1,
    /// Not for so long; for so many seconds it would be.
    Less = 2,
    /// Not for you.
    Refused = 3,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Something that is answered.
    Say {
        /// What.
        what: What,
        /// Larger than that of whatever the sender said before on this session; the same when it is said again.
        number: u32,
        /// For how long, or in how long.
        seconds: u32,
    },
    /// An answer.
    Answer {
        /// That of what is answered.
        number: u32,
        /// Which.
        verdict: Verdict,
        /// As the verdict says.
        seconds: u32,
    },
}

impl Message {
    /// Encoded length at most, bytes.
    pub const LEN_MAX: usize = 10;

    /// Parses a whole message. Anything else is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let wrong = Malformed("intent");
        let (kind, rest) = bytes.split_first().ok_or(Malformed("intent"))?;
        let (number, rest) = rest.split_first_chunk().ok_or(Malformed("intent"))?;
        let number = u32::from_le_bytes(*number);
        let seconds =
            |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).map_err(|_| Malformed("intent"));
        let what = match kind {
            1 => What::Online,
            2 => What::Leaving,
            3 => What::Stay,
            &ANSWER => {
                let (verdict, rest) = rest.split_first().ok_or(Malformed("intent"))?;
                let (verdict, most) = match verdict {
                    0 => (Verdict::Heard, 0),
                    1 => (Verdict::Granted, INTENT_S_MAX),
                    2 => (Verdict::Less, INTENT_S_MAX),
                    3 => (Verdict::Refused, 0),
                    _ => return Err(Malformed("answer to an intent")),
                };
                let seconds = seconds(rest)?;
                return match seconds <= most {
                    true => Ok(Self::Answer { number, verdict, seconds }),
                    false => Err(wrong),
                };
            }
            _ => return Err(wrong),
        };
        let seconds = seconds(rest)?;
        let fits = match what {
            What::Online | What::Leaving => seconds <= INTENT_S_MAX,
            What::Stay => (1..=STAY_S_MAX).contains(&seconds),
        };
        if fits { Ok(Self::Say { what, number, seconds }) } else { Err(wrong) }
    }

    /// Writes the message.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN_MAX);
        match *self {
            Self::Say { what, number, seconds } => {
                out.push(what as u8);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&seconds.to_le_bytes());
            }
            Self::Answer { number, verdict, seconds } => {
                out.push(ANSWER);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(verdict as u8);
                out.extend_from_slice(&seconds.to_le_bytes());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_message_comes_back(number: u32, seconds in 0..=INTENT_S_MAX, stay in 1..=STAY_S_MAX) {
            let say = |what, seconds| Message::Say { what, number, seconds };
            let answer = |verdict, seconds| Message::Answer { number, verdict, seconds };
            for message in [
                say(What::Online, seconds),
                say(What::Leaving, seconds),
                say(What::Stay, stay),
                answer(Verdict::Heard, 0),
                answer(Verdict::Granted, seconds),
                answer(Verdict::Less, seconds),
                answer(Verdict::Refused, 0),
            ] {
                let bytes = message.emit();
                prop_assert!(bytes.len() <= Message::LEN_MAX);
                prop_assert_eq!(Message::parse(&bytes), Ok(message));
                prop_assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err());
                prop_assert!(Message::parse(&[&bytes[..], &[0]].concat()).is_err());
            }
        }

        #[test]
        fn no_bytes_are_two_messages(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.emit(), bytes);
            }
        }
    }

    #[test]
    fn what_breaks_the_bounds_is_malformed() {
        let say = |what, seconds| Message::parse(&Message::Say { what, number: 1, seconds }.emit());
        assert!(say(What::Leaving, 0).is_ok(), "at once");
        assert!(say(What::Leaving, INTENT_S_MAX + 1).is_err() && say(What::Online, u32::MAX).is_err());
        assert!(say(What::Stay, 0).is_err() && say(What::Stay, STAY_S_MAX + 1).is_err());
        let answer =
            |verdict, seconds| Message::parse(&Message::Answer { number: 1, verdict, seconds }.emit());
        assert!(answer(Verdict::Heard, 1).is_err() && answer(Verdict::Refused, 1).is_err());
        assert!(answer(Verdict::Granted, INTENT_S_MAX + 1).is_err());
    }
}

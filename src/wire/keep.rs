//! Asking a node to keep a chunk, on a stream of channel 5 (docs/protocol/keep.md). One chunk per stream.
//!
//! ```text
//! offer   | kind 1 | zero 3 | length 4 | chunk id 20 | root 32 |      little-endian; behind *go on*, the chunk
//! answer  | status 1 | zero 3 | retry 4, ms |                         one, or *go on* and then one
//! ```

use super::Malformed;
use crate::base::ChunkId;
use crate::limits::CHUNK_SIZE_MAX;

const KIND_OFFER: u8 = 1;

/// A chunk that somebody is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Its address: SHA-1 of its bytes.
    pub chunk: ChunkId,
    /// Its length, bytes: 1 to [`CHUNK_SIZE_MAX`].
    pub len: u32,
    /// BLAKE3 of its bytes.
    pub root: [u8; 32],
}

impl Offer {
    /// Encoded length, bytes.
    pub const LEN: usize = 8 + ChunkId::LEN + 32;

    /// Writes the offer.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = KIND_OFFER;
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..28].copy_from_slice(&self.chunk.0);
        out[28..].copy_from_slice(&self.root);
        out
    }

    /// Reads an offer from the start of a stream; `Ok(None)` while there are too few bytes. Bytes behind it are malformed:
    /// nobody has said *go on*.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        if bytes.first().is_some_and(|kind| *kind != KIND_OFFER) {
            return Err(Malformed("keep: kind"));
        }
        if bytes.len() > Self::LEN {
            return Err(Malformed("keep: length"));
        }
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else { return Ok(None) };
        let offer = Self {
            chunk: ChunkId::from_slice(&bytes[8..28]).expect("20 bytes"),
            len: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            root: *bytes[28..].first_chunk().expect("32 bytes"),
        };
        let is_sound = (1..=CHUNK_SIZE_MAX as u32).contains(&offer.len) && bytes[1..4] == [0; 3];
        if is_sound { Ok(Some(offer)) } else { Err(Malformed("keep: offer")) }
    }

    /// Length of a whole request, the chunk included, bytes.
    pub fn total(&self) -> u64 {
        Self::LEN as u64 + u64::from(self.len)
    }
}

/// What becomes of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send it.
    GoOn,
    /// It is here already.
    Here,
    /// Not now: ask again after so many milliseconds.
    Busy(u32),
    /// Not from this peer, or not here.
    Refused,
    /// What came was no offer.
    Bad,
    /// It came, and is kept from now on, for as long as there is room.
    Kept,
    /// What came is not what was offered.
    Wrong,
}

impl Answer {
    /// Encoded length, bytes.
    pub const LEN: usize = 8;

    /// Writes the answer.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let (status, retry) = match *self {
            Self::GoOn => (0, 0),
            Self::Here => (1, 0),
            Self::Busy(retry) => (2, retry),
            Self::Refused => (3, 0),
            Self::Bad => (4, 0),
            Self::Kept => (5, 0),
            Self::Wrong => (6, 0),
        };
        let mut out = [0; Self::LEN];
        out[0] = status;
        out[4..].copy_from_slice(&u32::to_le_bytes(retry));
        out
    }

    /// Reads one answer of [`Self::LEN`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| Malformed("keep: answer length"))?;
        let retry = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let answer = match bytes[0] {
            0 => Self::GoOn,
            1 => Self::Here,
            2 => Self::Busy(retry),
            3 => Self::Refused,
            4 => Self::Bad,
            5 => Self::Kept,
            6 => Self::Wrong,
            _ => return Err(Malformed("keep: status")),
        };
        // What has no meaning is zero, so that one answer has one form.
        if answer.emit() == *bytes { Ok(answer) } else { Err(Malformed("keep: filling")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn offers_round_trip(chunk in any::<[u8; 20]>(), root in any::<[u8; 32]>(), len in 1..=CHUNK_SIZE_MAX as u32, cut in 0..Offer::LEN) {
            let offer = Offer { chunk: ChunkId(chunk), len, root };
            let bytes = offer.emit();
            prop_assert_eq!(Offer::parse(&bytes), Ok(Some(offer)));
            prop_assert_eq!(Offer::parse(&bytes[..cut]), Ok(None));
            prop_assert!(Offer::parse(&[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn what_parses_has_one_form(bytes in prop::collection::vec(0u8..8, 0..70), kind in 0u8..3) {
            let offer = [&[kind, 0, 0, 0][..], &bytes[..]].concat();
            if let Ok(Some(read)) = Offer::parse(&offer) {
                prop_assert_eq!(&read.emit()[..], &offer[..]);
            }
            for bytes in [&bytes[..], &offer[..offer.len().min(Answer::LEN)]] {
                if let Ok(answer) = Answer::parse(bytes) {
                    prop_assert_eq!(&answer.emit()[..], bytes);
                }
            }
        }
    }

    #[test]
    fn offers_of_nothing_and_of_too_much_are_none() {
        let offer = Offer { chunk: ChunkId([1; 20]), len: 1, root: [2; 32] };
        assert!(Offer::parse(&Offer { len: 0, ..offer }.emit()).is_err());
        assert!(Offer::parse(&Offer { len: CHUNK_SIZE_MAX as u32 + 1, ..offer }.emit()).is_err());
        assert!(Offer::parse(&[2]).is_err() && Offer::parse(&[]) == Ok(None));
        let answers = [Answer::GoOn, Answer::Here, Answer::Busy(250), Answer::Refused, Answer::Bad];
        for answer in answers.into_iter().chain([Answer::Kept, Answer::Wrong]) {
            assert_eq!(Answer::parse(&answer.emit()), Ok(answer));
        }
        assert!(Answer::parse(&[3, 0, 0, 0, 1, 0, 0, 0]).is_err() && Answer::parse(&[7; 8]).is_err());
    }
}

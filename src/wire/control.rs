//! Messages of the session itself (docs/protocol/session.md §6). A control packet's payload is a run
//! of them; unknown types are skipped, so that later versions may add some.
//!
//! ```text
//! 0      1        3
//! | type | length | value … |          type 0: padding to the end, without a length
//! ```

use std::fmt;

use super::Malformed;
use crate::limits::{ADDRESS_TOKEN_SIZE_MAX, CLOSE_REASON_MAX};

const PADDING: u8 = 0;
const PING: u8 = 1;
const PONG: u8 = 2;
const CHALLENGE: u8 = 3;
const RESPONSE: u8 = 4;
const CLOSE: u8 = 5;
const TOKEN: u8 = 6;
const LANE_OPEN: u8 = 7;
const LANE_READY: u8 = 8;
const LANE_REFUSED: u8 = 9;
const HEAD: usize = 3;

/// Why a session was closed, as the peer is told (docs/protocol/session.md §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// Nothing more to say.
    pub const GOODBYE: Self = Self(0);
    /// The daemon ends.
    pub const SHUTDOWN: Self = Self(1);
    /// Bytes that are not the message that they should be.
    pub const MALFORMED: Self = Self(2);
    /// A well-formed message that is not allowed here.
    pub const VIOLATION: Self = Self(3);
    /// A limit of ours was exceeded.
    pub const LIMIT: Self = Self(4);
    /// The peer is not wanted here.
    pub const UNWANTED: Self = Self(5);
    /// A fault of ours.
    pub const INTERNAL: Self = Self(6);
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::GOODBYE => f.write_str("goodbye"),
            Self::SHUTDOWN => f.write_str("shutdown"),
            Self::MALFORMED => f.write_str("malformed"),
            Self::VIOLATION => f.write_str("violation"),
            Self::LIMIT => f.write_str("limit"),
            Self::UNWANTED => f.write_str("unwanted"),
            Self::INTERNAL => f.write_str("internal"),
            Self(other) => write!(f, "code {other}"),
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// Are you there? Answered by [`Control::Pong`]. Keeps the session alive at both ends.
    Ping,
    /// I am here.
    Pong,
    /// Proves that a path works: whoever receives it answers on the same path.
    Challenge([u8; 8]),
    /// The answer, with the challenge's bytes.
    Response([u8; 8]),
    /// The session is over.
    Close {
        /// Why.
        code: CloseCode,
        /// Why, for people; at most [`CLOSE_REASON_MAX`] bytes.
        reason: &'a str,
    },
    /// Proves the receiver's address in a later first flight to the sender.
    Token(&'a [u8]),
    /// Asks for a further lane of the session (docs/protocol/session.md §8). Repeated until it is answered.
    LaneOpen {
        /// Its number: even when the session's initiator asks, odd when the responder does; never 0 or 1.
        lane: u16,
        /// The asker's connection id on that lane.
        cid: u64,
        /// The asker's UDP port for it.
        port: u16,
    },
    /// The lane is there.
    LaneReady {
        /// Which.
        lane: u16,
        /// The answerer's connection id on it.
        cid: u64,
        /// The answerer's UDP port for it.
        port: u16,
    },
    /// The lane is not to be had.
    LaneRefused {
        /// Which.
        lane: u16,
    },
}

impl<'a> Control<'a> {
    /// Encoded length, bytes.
    pub fn size(&self) -> usize {
        HEAD + match self {
            Self::Ping | Self::Pong => 0,
            Self::Challenge(_) | Self::Response(_) => 8,
            Self::Close { reason, .. } => 2 + reason.len(),
            Self::Token(token) => token.len(),
            Self::LaneOpen { .. } | Self::LaneReady { .. } => 12,
            Self::LaneRefused { .. } => 2,
        }
    }

    /// Writes the message at the start of `into`; returns the bytes used, or `None` when it does not fit
    /// or is longer than allowed.
    pub fn put(&self, into: &mut [u8]) -> Option<usize> {
        let size = self.size();
        let (head, value) = into.get_mut(..size)?.split_at_mut(HEAD);
        head[0] = match self {
            Self::Ping => PING,
            Self::Pong => PONG,
            Self::Challenge(_) => CHALLENGE,
            Self::Response(_) => RESPONSE,
            Self::Close { .. } => CLOSE,
            Self::Token(_) => TOKEN,
            Self::LaneOpen { .. } => LANE_OPEN,
            Self::LaneReady { .. } => LANE_READY,
            Self::LaneRefused { .. } => LANE_REFUSED,
        };
        head[1..].copy_from_slice(&((size - HEAD) as u16).to_le_bytes());
        match self {
            Self::Ping | Self::Pong => {}
            Self::Challenge(data) | Self::Response(data) => value.copy_from_slice(data),
            Self::Close { code, reason } if reason.len() <= CLOSE_REASON_MAX => {
                value[..2].copy_from_slice(&code.0.to_le_bytes());
                value[2..].copy_from_slice(reason.as_bytes());
            }
            Self::Token(token) if token.len() <= ADDRESS_TOKEN_SIZE_MAX => value.copy_from_slice(token),
            Self::Close { .. } | Self::Token(_) => return None,
            Self::LaneOpen { lane, cid, port } | Self::LaneReady { lane, cid, port } => {
                value[..2].copy_from_slice(&lane.to_le_bytes());
                value[2..10].copy_from_slice(&cid.to_le_bytes());
                value[10..].copy_from_slice(&port.to_le_bytes());
            }
            Self::LaneRefused { lane } => value.copy_from_slice(&lane.to_le_bytes()),
        }
        Some(size)
    }

    fn parse(kind: u8, value: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let eight = || value.try_into().map_err(|_| Malformed("control: challenge length"));
        let empty = || if value.is_empty() { Ok(()) } else { Err(Malformed("control: ping length")) };
        Ok(Some(match kind {
            PING => empty().map(|()| Self::Ping)?,
            PONG => empty().map(|()| Self::Pong)?,
            CHALLENGE => Self::Challenge(eight()?),
            RESPONSE => Self::Response(eight()?),
            CLOSE => {
                let (code, reason) = value.split_first_chunk().ok_or(Malformed("control: close length"))?;
                if reason.len() > CLOSE_REASON_MAX {
                    return Err(Malformed("control: close reason length"));
                }
                let reason = str::from_utf8(reason).map_err(|_| Malformed("control: close reason"))?;
                Self::Close { code: CloseCode(u16::from_le_bytes(*code)), reason }
            }
            TOKEN if value.len() > ADDRESS_TOKEN_SIZE_MAX => return Err(Malformed("control: token length")),
            TOKEN => Self::Token(value),
            LANE_OPEN | LANE_READY => {
                let (lane, rest) = value.split_first_chunk().ok_or(Malformed("control: lane length"))?;
                let (cid, port) = rest.split_first_chunk().ok_or(Malformed("control: lane length"))?;
                let port = port.try_into().map_err(|_| Malformed("control: lane length"))?;
                let (lane, cid) = (u16::from_le_bytes(*lane), u64::from_le_bytes(*cid));
                let port = u16::from_le_bytes(port);
                if kind == LANE_OPEN {
                    Self::LaneOpen { lane, cid, port }
                } else {
                    Self::LaneReady { lane, cid, port }
                }
            }
            LANE_REFUSED => {
                let lane = value.try_into().map_err(|_| Malformed("control: lane length"))?;
                Self::LaneRefused { lane: u16::from_le_bytes(lane) }
            }
            _ => return Ok(None),
        }))
    }
}

/// The messages of one control packet, in order; ends at padding and after the first malformed one.
#[derive(Debug, Clone)]
pub struct Controls<'a>(&'a [u8]);

impl<'a> Controls<'a> {
    /// Of a control packet's payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    fn take(&mut self) -> Result<Option<Control<'a>>, Malformed> {
        while let Some(&kind) = self.0.first() {
            if kind == PADDING {
                break;
            }
            let (head, rest) = self.0.split_first_chunk::<HEAD>().ok_or(Malformed("control: length"))?;
            let len = usize::from(u16::from_le_bytes([head[1], head[2]]));
            let (value, rest) = rest.split_at_checked(len).ok_or(Malformed("control: value"))?;
            self.0 = rest;
            if let Some(control) = Control::parse(kind, value)? {
                return Ok(Some(control));
            }
        }
        self.0 = &[];
        Ok(None)
    }
}

impl<'a> Iterator for Controls<'a> {
    type Item = Result<Control<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let taken = self.take();
        if taken.is_err() {
            self.0 = &[];
        }
        taken.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Owned {
        Bare(bool),
        Eight(bool, [u8; 8]),
        Close(u16, String),
        Token(Vec<u8>),
        Lane(u8, u16, u64, u16),
    }

    impl Owned {
        fn as_control(&self) -> Control<'_> {
            match self {
                Owned::Bare(true) => Control::Ping,
                Owned::Bare(false) => Control::Pong,
                Owned::Eight(true, data) => Control::Challenge(*data),
                Owned::Eight(false, data) => Control::Response(*data),
                Owned::Close(code, reason) => Control::Close { code: CloseCode(*code), reason },
                Owned::Token(token) => Control::Token(token),
                Owned::Lane(0, lane, cid, port) => Control::LaneOpen { lane: *lane, cid: *cid, port: *port },
                Owned::Lane(1, lane, cid, port) => Control::LaneReady { lane: *lane, cid: *cid, port: *port },
                Owned::Lane(_, lane, ..) => Control::LaneRefused { lane: *lane },
            }
        }
    }

    fn control() -> impl Strategy<Value = Owned> {
        prop_oneof![
            any::<bool>().prop_map(Owned::Bare),
            any::<(bool, [u8; 8])>().prop_map(|(a, b)| Owned::Eight(a, b)),
            (any::<u16>(), "\\PC{0,60}").prop_map(|(a, b)| Owned::Close(a, b)),
            prop::collection::vec(any::<u8>(), 0..=ADDRESS_TOKEN_SIZE_MAX).prop_map(Owned::Token),
            (0u8..3, any::<(u16, u64, u16)>()).prop_map(|(a, (b, c, d))| Owned::Lane(a, b, c, d)),
        ]
    }

    proptest! {
        #[test]
        fn a_run_of_messages_round_trips(list in prop::collection::vec(control(), 0..6), padding in 0usize..20, unknown: bool) {
            let mut bytes = vec![0; 2048];
            let mut at = 0;
            if unknown {
                bytes[..5].copy_from_slice(&[200, 2, 0, 9, 9]);
                at = 5;
            }
            for control in &list {
                at += control.as_control().put(&mut bytes[at..]).unwrap();
            }
            let parsed: Result<Vec<_>, _> = Controls::new(&bytes[..at + padding]).collect();
            prop_assert_eq!(parsed, Ok(list.iter().map(Owned::as_control).collect::<Vec<_>>()));
        }

        #[test]
        fn never_panics_and_ends(bytes in prop::collection::vec(0u8..9, 0..200)) {
            let items: Vec<_> = Controls::new(&bytes).collect();
            prop_assert!(items.len() <= bytes.len());
            prop_assert!(items.iter().rev().skip(1).all(Result::is_ok));
        }
    }

    #[test]
    fn refuses_what_is_too_long_or_cut() {
        let reason = "x".repeat(CLOSE_REASON_MAX + 1);
        assert_eq!(Control::Close { code: CloseCode::GOODBYE, reason: &reason }.put(&mut [0; 600]), None);
        assert_eq!(Control::Ping.put(&mut [0; 2]), None);
        for bad in [
            &[PING, 1, 0, 7][..],
            &[CHALLENGE, 2, 0, 1, 1],
            &[CLOSE, 1, 0, 0],
            &[CLOSE, 3, 0, 0, 0, 0xff],
            &[TOKEN, 9],
            &[LANE_OPEN, 10, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[LANE_READY, 2, 0, 1, 1],
            &[LANE_READY, 11, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[LANE_REFUSED, 3, 0, 1, 1, 1],
        ] {
            assert!(matches!(Controls::new(bad).next(), Some(Err(_))), "{bad:?}");
        }
    }
}

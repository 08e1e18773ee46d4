//! Messages of channel 6: how two nodes behind translators meet, and what is carried for them until they have
//! (docs/protocol/nat.md §2). One message per datagram.
//!
//! ```text
//! call   | 1 | number 4 | key 32 |                                          little-endian
//! answer | 2 | number 4 | verdict 1 | endpoint |
//! carry  | 3 | part 1 | id 2 | node 20 | bytes … |
//! bring  | 8 | part 1 | id 2 | node 20 | bytes … |
//! gone   | 4 | node 20 |
//! meet   | 5 | flags 1 | count 1 | endpoint … |
//! hold   | 6 | number 4 |
//! here   | 7 | number 4 | endpoint |
//! endpoint | family 1 | address 4 or 16 | port 2 |
//! ```

use std::net::IpAddr;

use super::Malformed;
use super::overlay::Endpoint;
use crate::base::{NodeId, PublicKey};
use crate::limits::{CARRIED_MAX, MEETING_PLACES_MAX};

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const CARRY: u8 = 3;
const GONE: u8 = 4;
const MEET: u8 = 5;
const HOLD: u8 = 6;
const HERE: u8 = 7;
const BRING: u8 = 8;

const ASK: u8 = 1;

/// What somebody who was asked for a way says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The node is there, and what is sent to it is carried.
    Carried = 0,
    /// It is not there.
    Away = 1,
    /// Not for you, or not now.
    Refused = 2,
}

/// Which part of a datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first half.
    First = 1,
    /// The second.
    Second = 2,
}

/// A datagram, or half of one, that is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carry<'a> {
    /// Which part of it.
    pub part: Part,
    /// Says which halves belong together; 0 of what is whole.
    pub id: u16,
    /// To the relay: for whom. From the relay: whose.
    pub node: NodeId,
    /// What is carried, at least a byte; sealed, and nothing to the relay.
    pub bytes: &'a [u8],
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Is the node with this key with you, and would you carry what we say to each other?
    Call {
        /// The asker's.
        number: u32,
        /// Whose.
        key: PublicKey,
    },
    /// The answer.
    Answer {
        /// The question's.
        number: u32,
        /// Whether.
        verdict: Verdict,
        /// Where the asker's packets come from.
        seen: Endpoint,
    },
    /// To the relay: something to be carried.
    Carry(Carry<'a>),
    /// From the relay: something that was carried.
    Bring(Carry<'a>),
    /// From the relay: nothing is carried to this node any more.
    Gone(NodeId),
    /// End to end: here I may be reached; try these at once, as I try yours.
    Meet {
        /// Whether the other's are asked for.
        ask: bool,
        /// Where, best first; at most [`MEETING_PLACES_MAX`].
        candidates: Vec<Endpoint>,
    },
    /// Keep this session: others find me by it. And where am I seen?
    Hold {
        /// The asker's.
        number: u32,
    },
    /// Where a peer's packets come from.
    Here {
        /// The question's.
        number: u32,
        /// The address.
        seen: Endpoint,
    },
}

impl Carry<'_> {
    /// Bytes beside those that are carried.
    pub const OVERHEAD: usize = 24;
}

impl<'a> Message<'a> {
    /// Parses a whole message. Anything else is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Reader(bytes);
        let message = match input.byte()? {
            CALL => Self::Call { number: input.number()?, key: PublicKey(input.take()?) },
            ANSWER => {
                let number = input.number()?;
                let verdict = match input.byte()? {
                    0 => Verdict::Carried,
                    1 => Verdict::Away,
                    2 => Verdict::Refused,
                    _ => return Err(Malformed("verdict on a way")),
                };
                Self::Answer { number, verdict, seen: input.endpoint()? }
            }
            kind @ (CARRY | BRING) => {
                let part = match input.byte()? {
                    0 => Part::Whole,
                    1 => Part::First,
                    2 => Part::Second,
                    _ => return Err(Malformed("part of a datagram")),
                };
                let id = u16::from_le_bytes(input.take()?);
                let node = NodeId(input.take()?);
                let bytes = std::mem::take(&mut input.0);
                if bytes.is_empty() || bytes.len() > CARRIED_MAX || (part == Part::Whole) != (id == 0) {
                    return Err(Malformed("carried datagram"));
                }
                let carry = Carry { part, id, node, bytes };
                if kind == CARRY { Self::Carry(carry) } else { Self::Bring(carry) }
            }
            GONE => Self::Gone(NodeId(input.take()?)),
            MEET => {
                let flags = input.byte()?;
                let count = usize::from(input.byte()?);
                if flags > ASK || count > MEETING_PLACES_MAX {
                    return Err(Malformed("candidates"));
                }
                let candidates = (0..count).map(|_| input.endpoint()).collect::<Result<_, _>>()?;
                Self::Meet { ask: flags == ASK, candidates }
            }
            HOLD => Self::Hold { number: input.number()? },
            HERE => Self::Here { number: input.number()?, seen: input.endpoint()? },
            _ => return Err(Malformed("message of meeting")),
        };
        if input.0.is_empty() { Ok(message) } else { Err(Malformed("message of meeting")) }
    }

    /// Writes the message.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Call { number, key } => {
                out.push(CALL);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&key.0);
            }
            Self::Answer { number, verdict, seen } => {
                out.push(ANSWER);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(*verdict as u8);
                seen.put(&mut out);
            }
            Self::Carry(carry) | Self::Bring(carry) => {
                let kind = if matches!(self, Self::Carry(_)) { CARRY } else { BRING };
                out.reserve(Carry::OVERHEAD + carry.bytes.len());
                out.extend_from_slice(&[kind, carry.part as u8]);
                out.extend_from_slice(&carry.id.to_le_bytes());
                out.extend_from_slice(&carry.node.0);
                out.extend_from_slice(carry.bytes);
            }
            Self::Gone(node) => {
                out.push(GONE);
                out.extend_from_slice(&node.0);
            }
            Self::Meet { ask, candidates } => {
                let count = candidates.len().min(MEETING_PLACES_MAX);
                out.extend_from_slice(&[MEET, u8::from(*ask) * ASK, count as u8]);
                candidates[..count].iter().for_each(|one| one.put(&mut out));
            }
            Self::Hold { number } => {
                out.push(HOLD);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Here { number, seen } => {
                out.push(HERE);
                out.extend_from_slice(&number.to_le_bytes());
                seen.put(&mut out);
            }
        }
        out
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed("message of meeting"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn endpoint(&mut self) -> Result<Endpoint, Malformed> {
        let ip: IpAddr = match self.byte()? {
            4 => self.take::<4>()?.into(),
            6 => self.take::<16>()?.into(),
            _ => return Err(Malformed("address family")),
        };
        Endpoint::read(ip, u16::from_le_bytes(self.take()?)).ok_or(Malformed("address of nobody"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use proptest::prelude::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        (any::<bool>(), any::<[u8; 16]>(), 1u16..).prop_filter_map("somebody's", |(v4, ip, port)| {
            let ip: IpAddr = if v4 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
            Endpoint::new(SocketAddr::new(ip, port))
        })
    }

    proptest! {
        #[test]
        fn every_message_comes_back(
            number: u32, key: [u8; 32], node: [u8; 20], seen in endpoint(), verdict in 0u8..3, id in 1u16..,
            candidates in prop::collection::vec(endpoint(), 0..=MEETING_PLACES_MAX), ask: bool, part in 0u8..3,
            bytes in prop::collection::vec(any::<u8>(), 1..200),
        ) {
            let verdict = [Verdict::Carried, Verdict::Away, Verdict::Refused][usize::from(verdict)];
            let part = [Part::Whole, Part::First, Part::Second][usize::from(part)];
            let (id, node) = (if part == Part::Whole { 0 } else { id }, NodeId(node));
            let all = [
                Message::Call { number, key: PublicKey(key) },
                Message::Answer { number, verdict, seen },
                Message::Carry(Carry { part, id, node, bytes: &bytes }),
                Message::Bring(Carry { part, id, node, bytes: &bytes }),
                Message::Gone(node),
                Message::Meet { ask, candidates },
                Message::Hold { number },
                Message::Here { number, seen },
            ];
            for message in all {
                let bytes = message.emit();
                prop_assert_eq!(Message::parse(&bytes), Ok(message.clone()));
                let open = matches!(message, Message::Carry(_) | Message::Bring(_));
                if !open {
                    let longer = [&bytes[..], &[0]].concat();
                    prop_assert!(Message::parse(&longer).is_err());
                }
                prop_assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err() || open);
            }
        }

        #[test]
        fn no_bytes_are_two_messages(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.emit(), bytes);
            }
        }
    }

    #[test]
    fn nobody_names_a_way_of_ours() {
        let way = crate::base::Way { relay: 1, shard: 0, number: 7 }.address();
        assert_eq!(Endpoint::new(way), None);
    }
}

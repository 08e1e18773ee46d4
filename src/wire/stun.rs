//! The one question of STUN (RFC 8489) that matters here, *Binding*: where do my packets come from? And its answer. On the
//! sockets of nodes these lie beside masked packets, of which one in 2⁵⁰ looks like one (docs/protocol/nat.md §6).
//!
//! ```text
//! 0      2        4                8             20                                            big-endian
//! | type | length | 0x2112a442     | id 12       | attribute: type 2, length 2, value, to 4 …
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;

const COOKIE: u32 = 0x2112_a442;
const REQUEST: u16 = 0x0001;
const RESPONSE: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes from here on may be skipped by whoever does not know them.
const OPTIONAL: u16 = 0x8000;
const HEADER: usize = 20;
const V4: u8 = 1;
const V6: u8 = 2;

/// Of a question, which its answer repeats.
pub type TransactionId = [u8; 12];

/// A question, bytes.
pub const REQUEST_SIZE: usize = HEADER;
/// An answer at most, bytes.
pub const RESPONSE_SIZE_MAX: usize = HEADER + 4 + 20;

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Where do my packets come from?
    Request(TransactionId),
    /// From there.
    Response(TransactionId, SocketAddr),
}

/// Whether a datagram is a message of STUN and none of ours.
pub fn is_message(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER
        && datagram[4..8] == COOKIE.to_be_bytes()
        && datagram[0] & 0xc0 == 0
        && usize::from(u16::from_be_bytes([datagram[2], datagram[3]])) == datagram.len() - HEADER
        && datagram.len().is_multiple_of(4)
}

impl Message {
    /// Parses a whole message. A question that wants more than is understood here is malformed, as is any other method.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed("message of STUN");
        if !is_message(datagram) {
            return Err(malformed);
        }
        let (head, mut rest) = datagram.split_at(HEADER);
        let id: TransactionId = *head.last_chunk().ok_or(malformed)?;
        let mut mapped = None;
        while let Some((attribute, tail)) = rest.split_first_chunk::<4>() {
            let [a, b, c, d] = *attribute;
            let (kind, len) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
            let value = tail.get(..len).ok_or(malformed)?;
            rest = tail.get(len.next_multiple_of(4)..).ok_or(malformed)?;
            match kind {
                XOR_MAPPED_ADDRESS if mapped.is_none() => {
                    mapped = Some(address(value, &id).ok_or(malformed)?)
                }
                // Of an answer the others say nothing new; of a question they are conditions.
                kind if kind < OPTIONAL && head[..2] == REQUEST.to_be_bytes() => return Err(malformed),
                _ => {}
            }
        }
        match (u16::from_be_bytes([head[0], head[1]]), mapped) {
            (REQUEST, None) => Ok(Self::Request(id)),
            (RESPONSE, Some(mapped)) => Ok(Self::Response(id, mapped)),
            _ => Err(malformed),
        }
    }

    /// Writes the message; its length.
    pub fn emit(&self, out: &mut [u8; RESPONSE_SIZE_MAX]) -> usize {
        let (kind, id) = match self {
            Self::Request(id) => (REQUEST, id),
            Self::Response(id, _) => (RESPONSE, id),
        };
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            out[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        put(&kind.to_be_bytes());
        match self {
            Self::Request(_) => {
                put(&0u16.to_be_bytes());
                put(&COOKIE.to_be_bytes());
                put(id);
            }
            Self::Response(_, mapped) => {
                let ip = mapped.ip().to_canonical();
                let size: u16 = if ip.is_ipv4() { 8 } else { 20 };
                put(&(4 + size).to_be_bytes());
                put(&COOKIE.to_be_bytes());
                put(id);
                put(&XOR_MAPPED_ADDRESS.to_be_bytes());
                put(&size.to_be_bytes());
                put(&[0, if ip.is_ipv4() { V4 } else { V6 }]);
                put(&(mapped.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
                match ip {
                    IpAddr::V4(ip) => put(&(ip.to_bits() ^ COOKIE).to_be_bytes()),
                    IpAddr::V6(ip) => put(&(ip.to_bits() ^ pad(id)).to_be_bytes()),
                }
            }
        }
        len
    }
}

/// What IPv6 addresses are hidden with.
fn pad(id: &TransactionId) -> u128 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&COOKIE.to_be_bytes());
    bytes[4..].copy_from_slice(id);
    u128::from_be_bytes(bytes)
}

fn address(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let ip: IpAddr = match head[1] {
        V4 => Ipv4Addr::from_bits(u32::from_be_bytes(ip.try_into().ok()?) ^ COOKIE).into(),
        V6 => Ipv6Addr::from_bits(u128::from_be_bytes(ip.try_into().ok()?) ^ pad(id)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([head[2], head[3]]) ^ (COOKIE >> 16) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn questions_and_answers_come_back(id: [u8; 12], v4: bool, ip: [u8; 16], port: u16) {
            let ip: IpAddr = if v4 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
            prop_assume!(ip == ip.to_canonical());
            let mut out = [0; RESPONSE_SIZE_MAX];
            for message in [Message::Request(id), Message::Response(id, SocketAddr::new(ip, port))] {
                let len = message.emit(&mut out);
                prop_assert_eq!(Message::parse(&out[..len]), Ok(message));
                prop_assert!(Message::parse(&out[..len - 4]).is_err());
            }
        }

        #[test]
        fn nothing_else_is_taken_for_one(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!is_message(&bytes) && Message::parse(&bytes).is_err());
        }
    }

    /// RFC 5769 §2.2 and §2.3, of which the attributes that are not looked at are part.
    #[test]
    fn answers_of_the_test_vectors_are_read() {
        let id = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let answer = |attribute: &[u8]| {
            let software = b"\x80\x22\x00\x0btest vector ";
            let len = (software.len() + attribute.len()) as u16;
            [&[1, 1][..], &len.to_be_bytes(), b"\x21\x12\xa4\x42", &id, software, attribute].concat()
        };
        let v4 = answer(b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43");
        assert_eq!(Message::parse(&v4), Ok(Message::Response(id, "192.0.2.1:32853".parse().unwrap())));
        let v6 = answer(
            b"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9",
        );
        let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(Message::parse(&v6), Ok(Message::Response(id, address)));
    }

    #[test]
    fn a_question_with_conditions_is_not_answered() {
        let mut out = [0; RESPONSE_SIZE_MAX];
        let len = Message::Request([7; 12]).emit(&mut out);
        let with = |attribute: &[u8]| {
            let mut bytes = [&out[..len], attribute].concat();
            bytes[3] = attribute.len() as u8;
            Message::parse(&bytes)
        };
        assert_eq!(with(b"\x80\x28\x00\x04abcd"), Ok(Message::Request([7; 12])), "a fingerprint");
        assert!(with(b"\x00\x06\x00\x03bob ").is_err(), "a user name");
        assert!(with(b"\x80\x22\x00\x09bob ").is_err(), "longer than all");
    }
}

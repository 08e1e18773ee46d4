//! Questions to a resolver for a name's addresses, and its answers (RFC 1035), as the proxy asks them through a circuit. The
//! messages are laid out by `smoltcp`; here is what of them is believed.

use std::net::IpAddr;

use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord};
use smoltcp::wire::{DnsRecordData, DnsRepr};

use crate::limits::{SOCKS_LABEL_MAX, SOCKS_NAME_ADDRESSES_MAX, SOCKS_NAME_MAX, SOCKS_NAME_S_MAX};

/// Of which family an address is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a resolver says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It exists: its addresses of that family, at most [`SOCKS_NAME_ADDRESSES_MAX`] and perhaps none, and for how many
    /// seconds that is so, at most [`SOCKS_NAME_S_MAX`].
    Is(Vec<IpAddr>, u32),
    /// Nobody has that name.
    NoName,
    /// The resolver could not, or would not, say.
    Failed,
}

impl Family {
    fn kind(self) -> DnsQueryType {
        match self {
            Self::V4 => DnsQueryType::A,
            Self::V6 => DnsQueryType::Aaaa,
        }
    }
}

/// A question for a name ([`super::socks::Host::Name`]); none when it is no name.
pub fn question(id: u16, name: &str, family: Family) -> Option<Vec<u8>> {
    let name = encoded(name)?;
    let question = DnsQuestion { name: &name, type_: family.kind() };
    let flags = DnsFlags::RECURSION_DESIRED;
    let repr = DnsRepr { transaction_id: id, opcode: DnsOpcode::Query, flags, question };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut DnsPacket::new_unchecked(&mut bytes));
    Some(bytes)
}

fn encoded(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        if label.is_empty() || label.len() > SOCKS_LABEL_MAX {
            return None;
        }
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    (name.len() <= SOCKS_NAME_MAX).then_some(out)
}

/// What an answer says; none when it is not one to this question.
pub fn answer(bytes: &[u8], id: u16, name: &str, family: Family) -> Option<Answer> {
    let kind = family.kind();
    let packet = DnsPacket::new_checked(bytes).ok()?;
    let flags = packet.flags();
    if packet.transaction_id() != id
        || !flags.contains(DnsFlags::RESPONSE)
        || packet.opcode() != DnsOpcode::Query
        || packet.question_count() != 1
    {
        return None;
    }
    let (mut rest, asked) = DnsQuestion::parse(packet.payload()).ok()?;
    if asked.type_ != kind || !asked.name.eq_ignore_ascii_case(&encoded(name)?) {
        return None;
    }
    match packet.rcode() {
        DnsRcode::NoError => {}
        DnsRcode::NXDomain => return Some(Answer::NoName),
        _ => return Some(Answer::Failed),
    }
    let (mut addresses, mut least) = (Vec::new(), SOCKS_NAME_S_MAX);
    // Aliases stand before what they lead to; the resolver has followed them, and is believed.
    for _ in 0..packet.answer_record_count() {
        let Ok((behind, record)) = DnsRecord::parse(rest) else { break };
        rest = behind;
        let address: IpAddr = match record.data {
            DnsRecordData::A(v4) if kind == DnsQueryType::A => v4.into(),
            DnsRecordData::Aaaa(v6) if kind == DnsQueryType::Aaaa => v6.into(),
            _ => continue,
        };
        least = least.min(record.ttl);
        if addresses.len() < SOCKS_NAME_ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    // What was cut off is of use as far as it goes.
    let cut = flags.contains(DnsFlags::TRUNCATED) && addresses.is_empty();
    Some(if cut { Answer::Failed } else { Answer::Is(addresses, least) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A resolver's answer: the question, and records that point back to its name.
    pub(crate) fn reply(question: &[u8], rcode: u8, records: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        (bytes[2], bytes[3]) = (0x81, 0x80 | rcode);
        bytes[7] = records.len() as u8;
        for (kind, ttl, data) in records {
            bytes.extend([0xc0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    fn asked() -> Vec<u8> {
        question(7, "a.b", Family::V4).expect("a name")
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let said =
            reply(&asked(), 0, &[(5, 60, b"\x01a\xc0\x0c"), (1, 30, &[192, 0, 2, 1]), (28, 1, &[1; 16])]);
        let one = Answer::Is(vec!["192.0.2.1".parse().expect("an address")], 30);
        assert_eq!(answer(&said, 7, "a.b", Family::V4), Some(one));
        assert_eq!(answer(&said, 8, "a.b", Family::V4), None);
        assert_eq!(answer(&said, 7, "a.c", Family::V4), None);
        assert_eq!(answer(&said, 7, "a.b", Family::V6), None);
        assert_eq!(answer(&asked(), 7, "a.b", Family::V4), None, "the question itself");
        assert_eq!(answer(&reply(&asked(), 3, &[]), 7, "a.b", Family::V4), Some(Answer::NoName));
        assert_eq!(answer(&reply(&asked(), 2, &[]), 7, "a.b", Family::V4), Some(Answer::Failed));
        let mut cut = reply(&asked(), 0, &[]);
        assert_eq!(answer(&cut, 7, "a.b", Family::V4), Some(Answer::Is(Vec::new(), SOCKS_NAME_S_MAX)));
        cut[2] |= 2;
        assert_eq!(answer(&cut, 7, "a.b", Family::V4), Some(Answer::Failed));
        for wrong in ["", "a..b", &"a".repeat(64), &"abcd.".repeat(60)] {
            assert_eq!(question(7, wrong, Family::V4), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 12usize..40, byte: u8) {
            let _ = answer(&bytes, 7, "a.b", Family::V4);
            let mut whole = reply(&asked(), 0, &[(5, 60, b"\x01a\xc0\x0c"), (1, 30, &[192, 0, 2, 1])]);
            whole.extend(bytes);
            whole[at] = byte;
            let _ = answer(&whole, 7, "a.b", Family::V4);
        }
    }
}

//! Messages of the overlay: one question or answer each (docs/protocol/overlay.md §2). Never longer than
//! [`OVERLAY_MESSAGE_MAX`], so that each is one packet with its frame.
//!
//! ```text
//! message  | kind 1 | number 4 | …                                                          little-endian
//! find     | 1 | number 4 | flags 1 | reach 1 | key 20 |
//! probe    | 2 | number 4 |
//! announce | 3 | number 4 | expires 4, s | contact … | count 1 | chunk 20, signature 64 … |
//! delegate | 4 | number 4 | flags 1 | zero 1 | key 20 |
//! answer   | 5 | number 4 | flags 1 | not found 2 | queries 2 | records 1 | contacts 1 | record … | contact … |
//! here     | 6 | number 4 | family 1 | address 0, 4 or 16 | port 0 or 2 |
//! verdicts | 7 | number 4 | count 1 | verdict 1, hosts 1, queries 2 … |
//! collect  | 8 | number 4 | bits 1 | from 20 |
//! handed   | 9 | number 4 | more 1 | count 1 | chunk 20, record … |
//! contact  | card 48 | count 1 | addresses: family 1, address 4 or 16, port 2 … |
//! record   | expires 4, s | contact … | signature 64 |
//! ```

mod announcement;
mod handed;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;
use crate::base::bridge::is_bridged;
use crate::base::{ChunkId, NodeId, Way};
use crate::crypto::{Identity, IdentityCard};
use crate::limits::{
    ANNOUNCED_CHUNKS_MAX, ANSWER_CONTACTS_MAX, ANSWER_RECORDS_MAX, CONTACT_ADDRESSES_MAX, OVERLAY_MESSAGE_MAX,
};

pub use announcement::{Announcement, Keeping};
pub use handed::Handed;

/// What a record's signature is for.
const CONTEXT: &str = "tornet provider v1";
const SIGNATURE_SIZE: usize = 64;

const FIND: u8 = 1;
const PROBE: u8 = 2;
const ANNOUNCE: u8 = 3;
const DELEGATE: u8 = 4;
const ANSWER: u8 = 5;
const HERE: u8 = 6;
const VERDICTS: u8 = 7;
const COLLECT: u8 = 8;
const HANDED: u8 = 9;

const RECORDS: u8 = 1;
const FAR: u8 = 2;
const QUIET: u8 = 4;
const REFUSED: u8 = 1;

/// An address and a port in 18 bytes. IPv4 lies in it as `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    ip: [u8; 16],
    port: u16,
}

impl Endpoint {
    /// What is said where there is nothing to say, and believed by nobody: 0.0.0.1:1.
    pub const NOWHERE: Self = Self { ip: Ipv4Addr::new(0, 0, 0, 1).to_ipv6_mapped().octets(), port: 1 };

    /// `None` for what can be nobody's: port 0, unspecified, multicast, and what stands for a way through a peer, or for a
    /// bridge, in the node that says so.
    pub fn new(address: SocketAddr) -> Option<Self> {
        let ip = address.ip().to_canonical();
        let nobodys = Way::of(&address).is_some() || is_bridged(&address);
        let usable = address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !nobodys;
        let mapped = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        usable.then(|| Self { ip: mapped.octets(), port: address.port() })
    }

    /// As the sockets know it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }

    /// As it was read. One form for each: an IPv4 address is never written as one of IPv6.
    pub(super) fn read(ip: IpAddr, port: u16) -> Option<Self> {
        let address = SocketAddr::new(ip, port);
        Self::new(address).filter(|endpoint| endpoint.address() == address)
    }

    /// Writes it: `family 1 | address 4 or 16 | port 2`.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self.address().ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.port.to_le_bytes());
    }
}

/// Who a node is and where it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Who. Says nothing about validity: the reader checks the place's work.
    pub card: IdentityCard,
    addresses: [Option<Endpoint>; CONTACT_ADDRESSES_MAX],
}

impl Contact {
    /// Encoded length at most, bytes: two addresses of IPv6.
    pub const LEN_MAX: usize = IdentityCard::LEN + 1 + CONTACT_ADDRESSES_MAX * 19;

    /// Takes the first usable addresses, best first.
    pub fn new(card: IdentityCard, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut usable = addresses.into_iter().filter_map(Endpoint::new);
        Self { card, addresses: std::array::from_fn(|_| usable.next()) }
    }

    /// Where it is reached, best first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.addresses.iter().flatten()
    }

    /// As the sockets know them, best first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.endpoints().map(Endpoint::address)
    }

    /// Its place.
    pub fn node_id(&self) -> NodeId {
        self.card.node_id()
    }

    /// Encoded length, bytes.
    pub fn size(&self) -> usize {
        let address = |endpoint: &Endpoint| if endpoint.address().is_ipv4() { 7 } else { 19 };
        IdentityCard::LEN + 1 + self.endpoints().map(address).sum::<usize>()
    }

    /// Writes it: `card 48 | count 1 | addresses`.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.card.to_bytes());
        out.push(self.endpoints().count() as u8);
        self.endpoints().for_each(|endpoint| endpoint.put(out));
    }
}

/// A provider's word that it has a chunk, signed: whoever carries it cannot change it, and nobody can name
/// another as provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Until when it holds, seconds since the Unix epoch.
    pub expires: u32,
    /// The provider.
    pub provider: Contact,
    signature: [u8; SIGNATURE_SIZE],
}

impl Record {
    /// Encoded length at most, bytes.
    pub const LEN_MAX: usize = 4 + Contact::LEN_MAX + SIGNATURE_SIZE;

    /// A node's own.
    pub fn sign(identity: &Identity, chunk: &ChunkId, provider: Contact, expires: u32) -> Self {
        let signature = identity.sign(CONTEXT, &signed(chunk, expires, &provider));
        Self { expires, provider, signature }
    }

    /// Whether its provider said so of this chunk. Costs a signature's verification, about 40 µs.
    pub fn verify(&self, chunk: &ChunkId) -> bool {
        let message = signed(chunk, self.expires, &self.provider);
        self.provider.card.verify(CONTEXT, &message, &self.signature)
    }

    /// The same with other addresses, for whoever wants to reach the provider. It is nobody's signed word any more.
    pub fn to_be_reached_at(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { provider: Contact::new(self.provider.card, addresses), ..*self }
    }

    /// Encoded length, bytes.
    pub fn size(&self) -> usize {
        4 + self.provider.size() + SIGNATURE_SIZE
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.expires.to_le_bytes());
        self.provider.put(out);
        out.extend_from_slice(&self.signature);
    }
}

fn signed(chunk: &ChunkId, expires: u32, provider: &Contact) -> Vec<u8> {
    let mut out = [&chunk.0[..], &expires.to_le_bytes()].concat();
    provider.put(&mut out);
    out
}

/// A question about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Find {
    /// The place in question: a node's or a chunk's.
    pub key: [u8; 20],
    /// Whether records are wanted beside contacts.
    pub records: bool,
    /// Whether the farthest contacts are wanted that share at least [`Self::reach`] bits with the key,
    /// instead of the nearest.
    pub far: bool,
    /// Bits, 0 to 160. Zero unless `far`.
    pub reach: u8,
    /// Not to be counted as demand: a check, not a wish.
    pub quiet: bool,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The question is not looked into (a delegated one, or too many).
    pub refused: bool,
    /// How often this key was asked for in vain here lately.
    pub not_found: u16,
    /// How often this key was asked for here lately.
    pub queries: u16,
    /// Who has the chunk; at most [`ANSWER_RECORDS_MAX`].
    pub records: Vec<Record>,
    /// Who may know more; at most [`ANSWER_CONTACTS_MAX`], best first.
    pub contacts: Vec<Contact>,
}

/// What becomes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It is kept.
    Kept = 0,
    /// Enough records of this chunk are here: one step farther from it is the place for more.
    Full = 1,
    /// Not kept: its signature, its time or its provider's rank do not do.
    Unfit = 2,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Who is near, and who has it? Answered by [`Body::Answer`].
    Find(Find),
    /// Are you there, and where do you see me? Answered by [`Body::Here`].
    Probe,
    /// Keep this. Answered by [`Body::Verdicts`].
    Announce(Announcement),
    /// Find it for me: [`Find`] without its reach. Answered by [`Body::Answer`] when that is done.
    Delegate {
        /// The key.
        key: [u8; 20],
        /// From far, the cheap way, instead of from near.
        far: bool,
    },
    /// I am new here: hand me what you keep of chunks that share so many first bits with my place, from this one on.
    /// Answered by [`Body::Handed`].
    Collect {
        /// Bits, 0 to 160.
        bits: u8,
        /// The first chunk.
        from: ChunkId,
    },
    /// To [`Body::Find`] and [`Body::Delegate`].
    Answer(Answer),
    /// To [`Body::Probe`]: where the asker's packets come from.
    Here(Option<Endpoint>),
    /// To [`Body::Announce`]: of each of its chunks, in its order.
    Verdicts(Vec<Keeping>),
    /// To [`Body::Collect`].
    Handed(Handed),
}

impl Body {
    /// Whether it wants an answer.
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Find(_) | Self::Probe | Self::Announce(_) | Self::Delegate { .. } | Self::Collect { .. }
        )
    }
}

/// A message and the number that its sender gave the question; the answer has the question's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique among the asker's open questions.
    pub number: u32,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Writes the message. Of an answer, what does not fit is left out: contacts first, from the end.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let kind = match &self.body {
            Body::Find(_) => FIND,
            Body::Probe => PROBE,
            Body::Announce(_) => ANNOUNCE,
            Body::Delegate { .. } => DELEGATE,
            Body::Answer(_) => ANSWER,
            Body::Here(_) => HERE,
            Body::Verdicts(_) => VERDICTS,
            Body::Collect { .. } => COLLECT,
            Body::Handed(_) => HANDED,
        };
        out.push(kind);
        out.extend_from_slice(&self.number.to_le_bytes());
        match &self.body {
            Body::Find(find) => {
                let flag = |on: bool, bit: u8| if on { bit } else { 0 };
                out.push(flag(find.records, RECORDS) | flag(find.far, FAR) | flag(find.quiet, QUIET));
                out.push(if find.far { find.reach.min(160) } else { 0 });
                out.extend_from_slice(&find.key);
            }
            Body::Probe => {}
            Body::Announce(announcement) => announcement.put(&mut out),
            Body::Delegate { key, far } => {
                out.extend_from_slice(&[if *far { FAR } else { 0 }, 0]);
                out.extend_from_slice(key);
            }
            Body::Answer(answer) => answer.put(&mut out),
            Body::Collect { bits, from } => {
                out.push((*bits).min(160));
                out.extend_from_slice(&from.0);
            }
            Body::Handed(handed) => handed.put(&mut out),
            Body::Here(None) => out.push(0),
            Body::Here(Some(endpoint)) => endpoint.put(&mut out),
            Body::Verdicts(all) => {
                let all = &all[..all.len().min(ANNOUNCED_CHUNKS_MAX)];
                out.push(all.len() as u8);
                for one in all {
                    out.extend_from_slice(&[one.verdict as u8, one.hosts]);
                    out.extend_from_slice(&one.queries.to_le_bytes());
                }
            }
        }
        debug_assert!(out.len() <= OVERLAY_MESSAGE_MAX);
        out
    }

    /// Reads a whole message. Whatever reads has one form.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > OVERLAY_MESSAGE_MAX {
            return Err(Malformed("overlay: length"));
        }
        let mut reader = Reader(bytes);
        let kind = reader.byte()?;
        let number = u32::from_le_bytes(reader.take()?);
        let body = match kind {
            FIND => {
                let [flags, reach] = reader.take()?;
                let far = flags & FAR != 0;
                if flags & !(RECORDS | FAR | QUIET) != 0 || reach > 160 || (!far && reach != 0) {
                    return Err(Malformed("overlay: find"));
                }
                let (records, quiet) = (flags & RECORDS != 0, flags & QUIET != 0);
                Body::Find(Find { key: reader.take()?, records, far, reach, quiet })
            }
            PROBE => Body::Probe,
            ANNOUNCE => Body::Announce(reader.announcement()?),
            DELEGATE => {
                let [flags, zero] = reader.take()?;
                if flags & !FAR != 0 || zero != 0 {
                    return Err(Malformed("overlay: delegate"));
                }
                Body::Delegate { key: reader.take()?, far: flags & FAR != 0 }
            }
            ANSWER => Body::Answer(reader.answer()?),
            HERE => Body::Here(reader.endpoint()?),
            VERDICTS => {
                let count = reader.count()?;
                Body::Verdicts((0..count).map(|_| reader.keeping()).collect::<Result<_, _>>()?)
            }
            COLLECT => {
                let bits = reader.byte()?;
                if bits > 160 {
                    return Err(Malformed("overlay: bits"));
                }
                Body::Collect { bits, from: ChunkId(reader.take()?) }
            }
            HANDED => Body::Handed(reader.handed()?),
            _ => return Err(Malformed("overlay: kind")),
        };
        if reader.0.is_empty() { Ok(Self { number, body }) } else { Err(Malformed("overlay: rest")) }
    }
}

impl Answer {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(if self.refused { REFUSED } else { 0 });
        out.extend_from_slice(&self.not_found.to_le_bytes());
        out.extend_from_slice(&self.queries.to_le_bytes());
        let counts = out.len();
        out.extend_from_slice(&[0, 0]);
        for record in self.records.iter().take(ANSWER_RECORDS_MAX) {
            record.put(out);
            out[counts] += 1;
        }
        for contact in self.contacts.iter().take(ANSWER_CONTACTS_MAX) {
            if out.len() + contact.size() > OVERLAY_MESSAGE_MAX {
                break;
            }
            contact.put(out);
            out[counts + 1] += 1;
        }
    }
}

/// What is left to be read of a message.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("overlay: cut"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn endpoint(&mut self) -> Result<Option<Endpoint>, Malformed> {
        let ip = match self.byte()? {
            0 => return Ok(None),
            4 => IpAddr::from(self.take::<4>()?),
            6 => IpAddr::from(self.take::<16>()?),
            _ => return Err(Malformed("overlay: address family")),
        };
        let endpoint = Endpoint::read(ip, u16::from_le_bytes(self.take()?));
        endpoint.map(Some).ok_or(Malformed("overlay: address"))
    }

    pub(super) fn contact(&mut self) -> Result<Contact, Malformed> {
        let card = IdentityCard::from_bytes(&self.take()?);
        let count = usize::from(self.byte()?);
        let mut addresses = [None; CONTACT_ADDRESSES_MAX];
        for address in addresses.get_mut(..count).ok_or(Malformed("overlay: addresses"))? {
            *address = Some(self.endpoint()?.ok_or(Malformed("overlay: address"))?);
        }
        Ok(Contact { card, addresses })
    }

    fn record(&mut self) -> Result<Record, Malformed> {
        let expires = u32::from_le_bytes(self.take()?);
        Ok(Record { expires, provider: self.contact()?, signature: self.take()? })
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::from(self.byte()?);
        let fits = (1..=ANNOUNCED_CHUNKS_MAX).contains(&count);
        fits.then_some(count).ok_or(Malformed("overlay: chunks"))
    }

    fn announcement(&mut self) -> Result<Announcement, Malformed> {
        let expires = u32::from_le_bytes(self.take()?);
        let provider = self.contact()?;
        let count = self.count()?;
        let signed = (0..count).map(|_| Ok((ChunkId(self.take()?), self.take()?)));
        Ok(Announcement { expires, provider, signed: signed.collect::<Result<_, Malformed>>()? })
    }

    fn keeping(&mut self) -> Result<Keeping, Malformed> {
        let [verdict, hosts] = self.take()?;
        let verdict = match verdict {
            0 => Verdict::Kept,
            1 => Verdict::Full,
            2 => Verdict::Unfit,
            _ => return Err(Malformed("overlay: verdict")),
        };
        Ok(Keeping { verdict, hosts, queries: u16::from_le_bytes(self.take()?) })
    }

    fn answer(&mut self) -> Result<Answer, Malformed> {
        let flags = self.byte()?;
        let not_found = u16::from_le_bytes(self.take()?);
        let queries = u16::from_le_bytes(self.take()?);
        let [records, contacts] = self.take()?.map(usize::from);
        if flags & !REFUSED != 0 || records > ANSWER_RECORDS_MAX || contacts > ANSWER_CONTACTS_MAX {
            return Err(Malformed("overlay: answer"));
        }
        let records = (0..records).map(|_| self.record()).collect::<Result<_, _>>()?;
        let contacts = (0..contacts).map(|_| self.contact()).collect::<Result<_, _>>()?;
        Ok(Answer { refused: flags & REFUSED != 0, not_found, queries, records, contacts })
    }
}

#[cfg(test)]
mod tests;

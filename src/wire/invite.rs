//! `tornet:node:…`: how one operator tells another where a node is and who it is
//! (docs/protocol/reference.md §3).
//!
//! ```text
//! 0         1         9      57      58                                              little-endian
//! | version | network | card | count | addresses … | checksum 4 |       in base32 without padding
//!                                      each: 4 | IPv4 4 | port 2   or   6 | IPv6 16 | port 2
//! version 2, which names a bridge, has  | length 1 | URL |  before the checksum
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::base32::{self, NotBase32};
use super::bridge::BridgeUrl;
use super::reference::{self, strip_prefix};
use crate::crypto::IdentityCard;
use crate::crypto::hash::blake3;
use crate::limits::{ADDRESSES_PER_PEER_MAX, BRIDGE_URL_MAX};

/// What every invitation begins with.
pub const PREFIX: &str = "tornet:node:";
/// Version of the layout without a bridge, which every program reads.
pub const VERSION: u8 = 1;
/// Version of the layout with one: the newest.
pub const VERSION_BRIDGED: u8 = 2;
/// Bytes of the network's hash.
pub const NETWORK_LEN: usize = 8;
const CHECKSUM_LEN: usize = 4;
const FIXED_LEN: usize = 1 + NETWORK_LEN + IdentityCard::LEN + 1;
const ADDRESS_LEN_MAX: usize = 1 + 16 + 2;
const LEN_MAX: usize =
    FIXED_LEN + ADDRESSES_PER_PEER_MAX * ADDRESS_LEN_MAX + 1 + BRIDGE_URL_MAX + CHECKSUM_LEN;

/// Which network a node belongs to: nodes of different networks do not talk.
pub fn network_hash(name: &str) -> [u8; NETWORK_LEN] {
    let hash = blake3(&[b"tornet network v1\0", name.as_bytes()]);
    std::array::from_fn(|index| hash[index])
}

/// A node's invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Hash of the network's name ([`network_hash`]).
    pub network: [u8; NETWORK_LEN],
    /// Who.
    pub card: IdentityCard,
    /// Where it may be reached, best first; at most [`ADDRESSES_PER_PEER_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// The bridge that leads to it, if it has one and says so: with TLS, or it is not written.
    pub bridge: Option<BridgeUrl>,
}

/// Why a text is no invitation: one line for the person who gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadInvite {
    /// It names a bridge in a network of whoever reads it.
    #[error(
        "this invitation names a bridge without TLS (ws://), and no invitation may: ask for one without a bridge, and say the URL \
         yourself, `friend add --bridge URL`"
    )]
    Plain,
    /// It does not begin with `tornet:node:`.
    #[error("not an invitation: invitations begin with \"tornet:node:\", as `invite` prints them")]
    NotAnInvitation,
    /// It is a reference to content.
    #[error("this is a reference to content, not a node's invitation; give it to `get`")]
    Reference,
    /// A character that no invitation has.
    #[error("the invitation has a {0:?} in it, which no invitation has; copy it again")]
    Character(char),
    /// It ends too early, or a character is wrong, missing or too many.
    #[error("the invitation is cut short or has a typing error in it; copy all of it again")]
    Checksum,
    /// Made by a newer program.
    #[error(
        "the invitation has version {0}, this program knows version {VERSION_BRIDGED}; use a newer tornet"
    )]
    Version(u8),
    /// Its checksum is right, its content is not.
    #[error("the invitation is damaged: malformed {0}")]
    Malformed(&'static str),
}

/// Whether an address can be somebody's.
fn is_usable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3(&[b"tornet invitation checksum v1\0", body]);
    std::array::from_fn(|index| hash[index])
}

impl fmt::Display for Invite {
    /// Leaves out addresses that cannot be anybody's, and those beyond the limit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> =
            self.addresses.iter().filter(|a| is_usable(a)).take(ADDRESSES_PER_PEER_MAX).collect();
        // One without TLS nobody would read.
        let bridge = self.bridge.as_ref().filter(|bridge| bridge.is_tls());
        let mut bytes = vec![if bridge.is_some() { VERSION_BRIDGED } else { VERSION }];
        bytes.extend_from_slice(&self.network);
        bytes.extend_from_slice(&self.card.to_bytes());
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
        if let Some(bridge) = bridge.map(BridgeUrl::to_string) {
            // It has at most that many, or it would not be one.
            bytes.push(bridge.len() as u8);
            bytes.extend_from_slice(bridge.as_bytes());
        }
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", base32::encode(&bytes))
    }
}

impl FromStr for Invite {
    type Err = BadInvite;

    fn from_str(text: &str) -> Result<Self, BadInvite> {
        let text = text.trim();
        let Some(digits) = strip_prefix(text, PREFIX) else {
            let reference = strip_prefix(text, reference::PREFIX).is_some();
            return Err(if reference { BadInvite::Reference } else { BadInvite::NotAnInvitation });
        };
        if digits.len() > 4 * LEN_MAX {
            return Err(BadInvite::Checksum);
        }
        let bytes = base32::decode(digits).map_err(|e| match e {
            NotBase32::Character(c) => BadInvite::Character(c),
            NotBase32::Length => BadInvite::Checksum,
        })?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(BadInvite::Checksum)?;
        if *sum != checksum(body) {
            return Err(BadInvite::Checksum);
        }
        match body.first() {
            Some(&version @ (VERSION | VERSION_BRIDGED)) => parse(&body[1..], version == VERSION_BRIDGED),
            Some(&version) => Err(BadInvite::Version(version)),
            None => Err(BadInvite::Malformed("length")),
        }
    }
}

fn parse(body: &[u8], bridged: bool) -> Result<Invite, BadInvite> {
    let (mut invite, rest) = parse_plain(body).ok_or(BadInvite::Malformed("addresses"))?;
    if bridged {
        let url = rest.split_first().filter(|(len, url)| usize::from(**len) == url.len());
        let text = url.and_then(|(_, url)| std::str::from_utf8(url).ok());
        let parsed =
            text.and_then(|text| text.parse::<BridgeUrl>().ok().filter(|url| url.to_string() == text));
        let bridge = parsed.ok_or(BadInvite::Malformed("bridge"))?;
        // Such a bridge is in a network of whoever uses it: an invitation is not to say what is asked for there.
        invite.bridge = Some(bridge).filter(BridgeUrl::is_tls);
        return if invite.bridge.is_some() { Ok(invite) } else { Err(BadInvite::Plain) };
    }
    if rest.is_empty() { Ok(invite) } else { Err(BadInvite::Malformed("addresses")) }
}

/// What every version has, and what follows it.
fn parse_plain(body: &[u8]) -> Option<(Invite, &[u8])> {
    let (&network, rest) = body.split_first_chunk::<NETWORK_LEN>()?;
    let (card, rest) = rest.split_first_chunk::<{ IdentityCard::LEN }>()?;
    let (&count, mut rest) = rest.split_first()?;
    if usize::from(count) > ADDRESSES_PER_PEER_MAX {
        return None;
    }
    let mut addresses = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (&family, tail) = rest.split_first()?;
        let (ip, tail) = match family {
            4 => tail.split_first_chunk::<4>().map(|(ip, tail)| (IpAddr::V4(Ipv4Addr::from(*ip)), tail))?,
            6 => tail.split_first_chunk::<16>().map(|(ip, tail)| (IpAddr::V6(Ipv6Addr::from(*ip)), tail))?,
            _ => return None,
        };
        let (port, tail) = tail.split_first_chunk::<2>()?;
        let address = SocketAddr::new(ip, u16::from_le_bytes(*port));
        addresses.push(is_usable(&address).then_some(address)?);
        rest = tail;
    }
    Some((Invite { network, card: IdentityCard::from_bytes(card), addresses, bridge: None }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = Vec<SocketAddr>> {
        let one = (any::<IpAddr>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port));
        prop::collection::vec(one.prop_filter("usable", is_usable), 0..=ADDRESSES_PER_PEER_MAX)
    }

    fn invites() -> impl Strategy<Value = Invite> {
        let bridge = prop::option::of(crate::wire::bridge::tests::urls());
        let parts = (any::<[u8; 32]>(), any::<u64>(), any::<u64>(), addresses(), bridge);
        parts.prop_map(|(key, a, b, addresses, bridge)| Invite {
            network: network_hash("main"),
            card: IdentityCard { key: PublicKey(key), place_nonce: a, rank_nonce: b },
            addresses,
            bridge,
        })
    }

    proptest! {
        #[test]
        fn round_trips(invite in invites()) {
            prop_assert_eq!(invite.to_string().parse(), Ok(invite));
        }

        #[test]
        fn every_typing_error_is_told(invite in invites(), at in any::<prop::sample::Index>(), digit in "[a-z2-7]") {
            let text = invite.to_string();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &digit);
            if wrong != text {
                prop_assert_eq!(wrong.parse::<Invite>(), Err(BadInvite::Checksum));
            }
            prop_assert_eq!(text[..at].parse::<Invite>(), Err(BadInvite::Checksum));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), first in 0u8..4) {
            let mut bytes = [vec![first], bytes].concat();
            bytes.extend_from_slice(&checksum(&bytes));
            let text = format!("{PREFIX}{}", base32::encode(&bytes));
            if let Ok(invite) = text.parse::<Invite>() {
                prop_assert_eq!(invite.to_string(), text);
            }
        }
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        let fail = |text: &str| text.parse::<Invite>().unwrap_err();
        assert_eq!(fail("1.2.3.4:5"), BadInvite::NotAnInvitation);
        assert_eq!(fail("tornet:abcdef"), BadInvite::Reference);
        assert_eq!(fail("tornet:node:"), BadInvite::Checksum);
        assert_eq!(fail("tornet:node:a!"), BadInvite::Character('!'));
    }

    #[test]
    fn useless_addresses_are_neither_written_nor_read() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let good = address("[2001:db8::1]:7");
        let addresses = vec![address("0.0.0.0:5"), good, address("10.0.0.1:0"), address("224.0.0.1:9")];
        let invite = Invite { network: [0; 8], card, addresses, bridge: None };
        assert_eq!(invite.to_string().parse::<Invite>().map(|read| read.addresses), Ok(vec![good]));
        let many = Invite { addresses: vec![good; 20], ..invite };
        assert_eq!(many.to_string().parse::<Invite>().map(|read| read.addresses.len()), Ok(8));
    }

    /// What programs before bridges print is read, and what is printed without one they read.
    #[test]
    fn an_invitation_without_a_bridge_is_as_it_was() {
        let old = "tornet:node:aeaaaaaaaaaaaaabaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaaaaaaaaaaaaaaaaaaaaaaaaaac\
                   bgaaabad6argfyx3sy";
        let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let addresses = vec!["192.0.2.1:4600".parse().expect("an address")];
        let invite = Invite { network: [0; 8], card, addresses, bridge: None };
        assert_eq!(invite.to_string(), old);
        assert_eq!(old.parse(), Ok(invite.clone()));
        let bridge = "wss://b.example/a-secret-path".parse().expect("a bridge");
        let bridged = Invite { bridge: Some(bridge), ..invite };
        assert_eq!(bridged.to_string().parse(), Ok(bridged));
    }

    /// It had the node ask for any page of its own network.
    #[test]
    fn an_invitation_names_no_bridge_in_the_readers_own_network() {
        let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let bridge: Option<BridgeUrl> = "ws://192.168.1.1/admin/reboot".parse().ok();
        assert!(bridge.is_some());
        let invite = Invite { network: [0; 8], card, addresses: vec![], bridge };
        let url = invite.bridge.as_ref().expect("a bridge").to_string();
        assert_eq!(invite.to_string().parse::<Invite>().map(|read| read.bridge), Ok(None), "not written");
        let plain = Invite { bridge: None, ..invite }.to_string();
        let mut bytes = base32::decode(&plain[PREFIX.len()..]).expect("just written");
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        bytes[0] = VERSION_BRIDGED;
        bytes.push(url.len() as u8);
        bytes.extend_from_slice(url.as_bytes());
        bytes.extend_from_slice(&checksum(&bytes));
        assert_eq!(format!("{PREFIX}{}", base32::encode(&bytes)).parse::<Invite>(), Err(BadInvite::Plain));
    }
}

//! What builds a circuit: a request over the whole path, and the answer that gathers what each hop says to it
//! (docs/protocol/onion.md §3). Both have a fixed number of slots, of which a hop reads the first alone.
//!
//! ```text
//! request slot   0     1            33                     129     145
//!                | key | ephemeral  | sealed body          | tag   |
//! answer slot    0            32                64     80
//!                | ephemeral  | sealed body     | tag   |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;
use super::cell::{Class, MESSAGE_AT};
use crate::crypto::IdentityCard;
use crate::limits::{LAYERS_MAX, TAG_SIZE};

/// Slots of a request and of an answer: one per hop that a path may have.
pub const SLOTS: usize = LAYERS_MAX;
/// What a hop is told, bytes.
pub const REQUEST_BODY: usize = 96;
/// Where the ephemeral lies in a request's slot.
pub const REQUEST_EPHEMERAL_AT: usize = 1;
/// Where the sealed body begins in a request's slot.
pub const REQUEST_BODY_AT: usize = REQUEST_EPHEMERAL_AT + 32;
/// One slot of a request, bytes.
pub const REQUEST_SLOT: usize = REQUEST_BODY_AT + REQUEST_BODY + TAG_SIZE;
/// A whole request, bytes.
pub const REQUEST_SIZE: usize = SLOTS * REQUEST_SLOT;
/// What a hop answers, bytes.
pub const ANSWER_BODY: usize = 32;
/// Where the sealed body begins in an answer's slot, behind the ephemeral.
pub const ANSWER_BODY_AT: usize = 32;
/// One slot of an answer, bytes.
pub const ANSWER_SLOT: usize = ANSWER_BODY_AT + ANSWER_BODY + TAG_SIZE;
/// A whole answer, bytes.
pub const ANSWER_SIZE: usize = SLOTS * ANSWER_SLOT;

/// An address, or none: family, address, port.
pub(super) const ADDRESS_SIZE: usize = 1 + 16 + 2;

const RELAY: u8 = 0;
const END: u8 = 1;
const AES: u8 = 1;
/// Behind role, layers, flags, a zero and the lifetime.
const ROLE_AT: usize = 8;
const FAMILY_AT: usize = ROLE_AT + IdentityCard::LEN;
const PORT_AT: usize = FAMILY_AT + 1 + 16;

/// A relay's onion key, as others know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnionKey {
    /// Tells a relay's keys apart; each has the number after the one before, modulo 256.
    pub number: u8,
    /// X25519 public key.
    pub key: [u8; 32],
}

/// The next hop, as the origin knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Who.
    pub card: IdentityCard,
    /// Where, for a relay that does not know it.
    pub address: Option<SocketAddr>,
}

/// What a hop shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Passes cells between its neighbours.
    Relay(NextHop),
    /// The last hop. The secret is the same for all circuits that shall keep the address of an earlier one.
    End {
        /// Random; so a stranger's is not guessed.
        resume: [u8; 32],
    },
}

/// What one hop is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Layers of what this hop is sent, its own among them: 1 to [`LAYERS_MAX`]. Both record lengths follow from it.
    pub layers: u8,
    /// Whether the origin's CPU prefers AES-256-GCM.
    pub aes: bool,
    /// How long the origin means to keep the circuit at most, seconds.
    pub lifetime_s: u16,
    /// What the hop shall be.
    pub role: Role,
}

impl Request {
    /// Reads an opened body. What it does not name is ignored, for later versions.
    pub fn parse(body: &[u8; REQUEST_BODY]) -> Result<Self, Malformed> {
        let layers = body[1];
        let role = match body[0] {
            RELAY => Role::Relay(NextHop {
                card: IdentityCard::from_bytes(body[ROLE_AT..FAMILY_AT].try_into().expect("a card's bytes")),
                address: parse_address(body[FAMILY_AT..PORT_AT + 2].try_into().expect("an address's bytes"))?,
            }),
            END => Role::End { resume: body[ROLE_AT..ROLE_AT + 32].try_into().expect("32 bytes") },
            _ => return Err(Malformed("build: role")),
        };
        // A relay without a layer for the hop behind it leads nowhere.
        let least = if matches!(role, Role::Relay(_)) { 2 } else { 1 };
        if !(least..=LAYERS_MAX as u8).contains(&layers) {
            return Err(Malformed("build: layers"));
        }
        let lifetime_s = u16::from_le_bytes([body[4], body[5]]);
        Ok(Self { layers, aes: body[2] & AES != 0, lifetime_s, role })
    }

    /// Writes the body.
    pub fn emit(&self) -> [u8; REQUEST_BODY] {
        let mut body = [0; REQUEST_BODY];
        body[1] = self.layers;
        body[2] = if self.aes { AES } else { 0 };
        body[4..6].copy_from_slice(&self.lifetime_s.to_le_bytes());
        match &self.role {
            Role::Relay(next) => {
                body[0] = RELAY;
                body[ROLE_AT..FAMILY_AT].copy_from_slice(&next.card.to_bytes());
                body[FAMILY_AT..PORT_AT + 2].copy_from_slice(&emit_address(next.address));
            }
            Role::End { resume } => {
                body[0] = END;
                body[ROLE_AT..ROLE_AT + 32].copy_from_slice(resume);
            }
        }
        body
    }
}

/// Reads `family 1 | address 16 | port 2`.
pub(super) fn parse_address(bytes: &[u8; ADDRESS_SIZE]) -> Result<Option<SocketAddr>, Malformed> {
    let ip: [u8; 16] = bytes[1..17].try_into().expect("16 bytes");
    let ip = match bytes[0] {
        0 => return Ok(None),
        4 => IpAddr::V4(Ipv4Addr::from(*ip.first_chunk::<4>().expect("four of 16"))),
        6 => IpAddr::V6(Ipv6Addr::from(ip)),
        _ => return Err(Malformed("build: address")),
    };
    Ok(Some(SocketAddr::new(ip, u16::from_le_bytes([bytes[17], bytes[18]]))))
}

/// Writes what [`parse_address`] reads.
pub(super) fn emit_address(address: Option<SocketAddr>) -> [u8; ADDRESS_SIZE] {
    let mut out = [0; ADDRESS_SIZE];
    let Some(address) = address else { return out };
    match address.ip() {
        IpAddr::V4(ip) => {
            out[0] = 4;
            out[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out[0] = 6;
            out[1..17].copy_from_slice(&ip.octets());
        }
    }
    out[17..].copy_from_slice(&address.port().to_le_bytes());
    out
}

/// Whether a hop does what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// It does.
    Built = 0,
    /// It relays for nobody, or is no exit.
    Unwilling = 1,
    /// A table or a rate is at its bound.
    Busy = 2,
    /// The next hop does not answer it.
    Unreachable = 3,
}

/// What one hop says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether there is a circuit; if not, this is the last hop that says anything.
    pub status: Status,
    /// Whether the circuit's layer here is AES-256-GCM (both prefer it), not ChaCha20-Poly1305.
    pub aes: bool,
}

impl Answer {
    /// Reads an opened body. What it does not name is ignored, for later versions.
    pub fn parse(body: &[u8; ANSWER_BODY]) -> Result<Self, Malformed> {
        let all = [Status::Built, Status::Unwilling, Status::Busy, Status::Unreachable];
        let status = *all.get(usize::from(body[0])).ok_or(Malformed("build: status"))?;
        Ok(Self { status, aes: body[1] & AES != 0 })
    }

    /// Writes the body.
    pub fn emit(&self) -> [u8; ANSWER_BODY] {
        let mut body = [0; ANSWER_BODY];
        body[0] = self.status as u8;
        body[1] = if self.aes { AES } else { 0 };
        body
    }
}

const _: () = {
    assert!(MESSAGE_AT + REQUEST_SIZE <= Class::Large.size());
    assert!(MESSAGE_AT + ANSWER_SIZE <= Class::Large.size());
    assert!(PORT_AT + 2 - FAMILY_AT == ADDRESS_SIZE);
    assert!(PORT_AT + 2 <= REQUEST_BODY && ROLE_AT + 32 <= REQUEST_BODY);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use proptest::prelude::*;

    fn role() -> impl Strategy<Value = Role> {
        let address = prop_oneof![
            Just(None),
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| Some(SocketAddr::from((ip, port)))),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| Some(SocketAddr::from((ip, port)))),
        ];
        let relay = (any::<[u8; 32]>(), any::<u64>(), any::<u64>(), address).prop_map(
            |(key, place_nonce, rank_nonce, address)| {
                let card = IdentityCard { key: PublicKey(key), place_nonce, rank_nonce };
                Role::Relay(NextHop { card, address })
            },
        );
        prop_oneof![relay, any::<[u8; 32]>().prop_map(|resume| Role::End { resume })]
    }

    proptest! {
        #[test]
        fn requests_round_trip(role in role(), layers in 2u8..=5, aes: bool, lifetime_s: u16) {
            let request = Request { layers, aes, lifetime_s, role };
            prop_assert_eq!(Request::parse(&request.emit()), Ok(request));
        }

        #[test]
        fn any_body_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), REQUEST_BODY)) {
            if let Ok(request) = Request::parse(bytes.first_chunk().unwrap()) {
                prop_assert_eq!(Request::parse(&request.emit()), Ok(request));
            }
            if let Ok(answer) = Answer::parse(bytes.first_chunk().unwrap()) {
                prop_assert_eq!(Answer::parse(&answer.emit()), Ok(answer));
            }
        }
    }

    #[test]
    fn a_relay_needs_a_layer_behind_its_own() {
        let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let relay = Role::Relay(NextHop { card, address: None });
        let request = |layers, role| Request { layers, aes: true, lifetime_s: 1, role }.emit();
        assert!(Request::parse(&request(1, relay)).is_err());
        assert!(Request::parse(&request(2, relay)).is_ok());
        assert!(Request::parse(&request(1, Role::End { resume: [0; 32] })).is_ok());
        for layers in [0, 6, 255] {
            assert!(Request::parse(&request(layers, Role::End { resume: [0; 32] })).is_err());
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        assert!(Answer::parse(&[4; ANSWER_BODY]).is_err());
        let mut body =
            Request { layers: 1, aes: false, lifetime_s: 0, role: Role::End { resume: [0; 32] } }.emit();
        body[0] = 2;
        assert!(Request::parse(&body).is_err());
    }
}

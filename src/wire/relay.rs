//! A relay as an introduction names it (docs/protocol/hello.md): the sender itself, or a friend of its that agreed.
//!
//! ```text
//! card 48 | flags 1 | trust 1 | key number 1 | onion key 32 | family 1 | address 16 | port 2
//! ```

use std::net::SocketAddr;

use super::Malformed;
use super::build::{ADDRESS_SIZE, OnionKey, emit_address, parse_address};
use crate::crypto::IdentityCard;

const EXIT: u8 = 1;
const NAMED: u8 = 2;
const LEAVING: u8 = 4;
const FLAGS_AT: usize = IdentityCard::LEN;
const KEY_AT: usize = FLAGS_AT + 3;
const ADDRESS_AT: usize = KEY_AT + 32;

/// One relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayCard {
    /// Who.
    pub card: IdentityCard,
    /// Its onion key.
    pub onion: OnionKey,
    /// Where the sender reaches it; of the sender itself, nothing.
    pub address: Option<SocketAddr>,
    /// Whether circuits may end there.
    pub exit: bool,
    /// Whether it may be named to others: what the sender says of itself.
    pub named: bool,
    /// Whether it leaves soon: nothing new is to go through it.
    pub leaving: bool,
    /// How far the sender trusts it, 0 to 100.
    pub trust: u8,
}

impl RelayCard {
    /// Encoded length, bytes.
    pub const LEN: usize = ADDRESS_AT + ADDRESS_SIZE;

    /// Reads one. Flags that are not known are of later versions.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| Malformed("relay: length"))?;
        let [flags, trust, number] = [bytes[FLAGS_AT], bytes[FLAGS_AT + 1], bytes[FLAGS_AT + 2]];
        if trust > 100 {
            return Err(Malformed("relay: trust"));
        }
        Ok(Self {
            card: IdentityCard::from_bytes(bytes[..FLAGS_AT].try_into().expect("a card's bytes")),
            onion: OnionKey { number, key: bytes[KEY_AT..ADDRESS_AT].try_into().expect("32 bytes") },
            address: parse_address(bytes[ADDRESS_AT..].try_into().expect("an address's bytes"))?,
            exit: flags & EXIT != 0,
            named: flags & NAMED != 0,
            leaving: flags & LEAVING != 0,
            trust,
        })
    }

    /// Writes one; trust beyond 100 is cut.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..FLAGS_AT].copy_from_slice(&self.card.to_bytes());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out[FLAGS_AT] = flag(self.exit, EXIT) | flag(self.named, NAMED) | flag(self.leaving, LEAVING);
        out[FLAGS_AT + 1] = self.trust.min(100);
        out[FLAGS_AT + 2] = self.onion.number;
        out[KEY_AT..ADDRESS_AT].copy_from_slice(&self.onion.key);
        out[ADDRESS_AT..].copy_from_slice(&emit_address(self.address));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(key: [u8; 32], onion: [u8; 32], nonce: u64, number: u8, exit: bool, named: bool, leaving: bool, trust in 0u8..=100, ip: Option<[u8; 16]>, port: u16) {
            let relay = RelayCard {
                card: IdentityCard { key: PublicKey(key), place_nonce: nonce, rank_nonce: !nonce },
                onion: OnionKey { number, key: onion },
                address: ip.map(|ip| SocketAddr::from((ip, port))),
                exit,
                named,
                leaving,
                trust,
            };
            prop_assert_eq!(RelayCard::parse(&relay.emit()), Ok(relay));
        }

        #[test]
        fn what_is_read_is_written_again(bytes in prop::collection::vec(any::<u8>(), RelayCard::LEN)) {
            if let Ok(relay) = RelayCard::parse(&bytes) {
                prop_assert_eq!(RelayCard::parse(&relay.emit()), Ok(relay));
            }
            prop_assert!(RelayCard::parse(&bytes[1..]).is_err());
        }
    }
}

//! What the two handshake messages say inside Noise (docs/protocol/session.md §2).
//!
//! ```text
//! INIT   0         1       2           10     58    66          67          69      69+t    69+t+e
//!        | version | flags | timestamp | card | cid | token len | early len | token | early | padding … |
//!
//! REPLY  0         1       2     10          12          13      13+t
//!        | version | flags | cid | home port | token len | token | padding … |
//! ```

use super::Malformed;
use crate::base::UnixMs;
use crate::crypto::IdentityCard;
use crate::limits::{ADDRESS_TOKEN_SIZE_MAX, EARLY_DATA_MAX};

/// The version of the handshake and of all that follows.
pub const VERSION: u8 = 1;
/// In the place of a connection id: a first flight.
pub const INIT: u64 = u64::from_le_bytes(*b"tor:init");
/// In the place of a connection id: the answer to a first flight.
pub const REPLY: u64 = u64::from_le_bytes(*b"tor:rply");

const FLAG_AES: u8 = 1;
const FLAG_EARLY: u8 = 2;
const INIT_FIXED: usize = 69;
const REPLY_FIXED: usize = 13;

/// The payload of a first flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init<'a> {
    /// The initiator's wall clock.
    pub timestamp: UnixMs,
    /// Who the initiator is.
    pub card: IdentityCard,
    /// The connection id that the initiator receives under.
    pub cid: u64,
    /// Whether the initiator takes AES-256-GCM.
    pub aes: bool,
    /// What the responder gave for this address earlier; may be empty.
    pub token: &'a [u8],
    /// An idempotent request; may be empty.
    pub early: &'a [u8],
}

impl<'a> Init<'a> {
    /// Reads and checks.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes.split_first_chunk::<INIT_FIXED>().ok_or(Malformed("init: length"))?;
        if fixed[0] != VERSION {
            return Err(Malformed("init: version"));
        }
        let word = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let token_len = usize::from(fixed[66]);
        let early_len = usize::from(u16::from_le_bytes([fixed[67], fixed[68]]));
        if token_len > ADDRESS_TOKEN_SIZE_MAX || early_len > EARLY_DATA_MAX {
            return Err(Malformed("init: token or early data too long"));
        }
        let (token, rest) = rest.split_at_checked(token_len).ok_or(Malformed("init: token"))?;
        let early = rest.get(..early_len).ok_or(Malformed("init: early data"))?;
        Ok(Self {
            timestamp: UnixMs(word(2)),
            card: IdentityCard::from_bytes(fixed[10..58].try_into().expect("48 bytes")),
            cid: word(58),
            aes: fixed[1] & FLAG_AES != 0,
            token,
            early,
        })
    }

    /// Encoded length without padding, bytes.
    pub fn size(&self) -> usize {
        INIT_FIXED + self.token.len() + self.early.len()
    }

    /// Writes into the start of `out` and fills the rest with padding. `None` when there is no room or
    /// a part is longer than allowed.
    pub fn emit(&self, out: &mut [u8]) -> Option<()> {
        if self.token.len() > ADDRESS_TOKEN_SIZE_MAX || self.early.len() > EARLY_DATA_MAX {
            return None;
        }
        let (body, padding) = out.split_at_mut_checked(self.size())?;
        body[0] = VERSION;
        body[1] = if self.aes { FLAG_AES } else { 0 };
        body[2..10].copy_from_slice(&self.timestamp.0.to_le_bytes());
        body[10..58].copy_from_slice(&self.card.to_bytes());
        body[58..66].copy_from_slice(&self.cid.to_le_bytes());
        body[66] = self.token.len() as u8;
        body[67..69].copy_from_slice(&(self.early.len() as u16).to_le_bytes());
        body[INIT_FIXED..][..self.token.len()].copy_from_slice(self.token);
        body[INIT_FIXED + self.token.len()..].copy_from_slice(self.early);
        padding.fill(0);
        Some(())
    }
}

/// The payload of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The connection id that the responder receives under.
    pub cid: u64,
    /// Whether the session uses AES-256-GCM.
    pub aes: bool,
    /// Whether the early data was taken.
    pub early_accepted: bool,
    /// The UDP port of the session's home lane; 0 is the one that the first flight went to.
    pub home_port: u16,
    /// Proves the initiator's address next time; may be empty.
    pub token: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Reads and checks.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes.split_first_chunk::<REPLY_FIXED>().ok_or(Malformed("reply: length"))?;
        if fixed[0] != VERSION {
            return Err(Malformed("reply: version"));
        }
        let token_len = usize::from(fixed[12]);
        if token_len > ADDRESS_TOKEN_SIZE_MAX {
            return Err(Malformed("reply: token too long"));
        }
        Ok(Self {
            cid: u64::from_le_bytes(fixed[2..10].try_into().expect("eight bytes")),
            aes: fixed[1] & FLAG_AES != 0,
            early_accepted: fixed[1] & FLAG_EARLY != 0,
            home_port: u16::from_le_bytes([fixed[10], fixed[11]]),
            token: rest.get(..token_len).ok_or(Malformed("reply: token"))?,
        })
    }

    /// Encoded length without padding, bytes.
    pub fn size(&self) -> usize {
        REPLY_FIXED + self.token.len()
    }

    /// As [`Init::emit`].
    pub fn emit(&self, out: &mut [u8]) -> Option<()> {
        if self.token.len() > ADDRESS_TOKEN_SIZE_MAX {
            return None;
        }
        let (body, padding) = out.split_at_mut_checked(self.size())?;
        body[0] = VERSION;
        body[1] = if self.aes { FLAG_AES } else { 0 } | if self.early_accepted { FLAG_EARLY } else { 0 };
        body[2..10].copy_from_slice(&self.cid.to_le_bytes());
        body[10..12].copy_from_slice(&self.home_port.to_le_bytes());
        body[12] = self.token.len() as u8;
        body[REPLY_FIXED..].copy_from_slice(self.token);
        padding.fill(0);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn init_round_trips(stamp: u64, key: [u8; 32], nonces: (u64, u64), cid: u64, aes: bool,
                            token in prop::collection::vec(any::<u8>(), 0..=ADDRESS_TOKEN_SIZE_MAX),
                            early in prop::collection::vec(any::<u8>(), 0..=EARLY_DATA_MAX), pad in 0usize..300) {
            let card = IdentityCard { key: PublicKey(key), place_nonce: nonces.0, rank_nonce: nonces.1 };
            let init = Init { timestamp: UnixMs(stamp), card, cid, aes, token: &token, early: &early };
            let mut bytes = vec![0xff; init.size() + pad];
            prop_assert!(init.emit(&mut bytes).is_some());
            prop_assert_eq!(Init::parse(&bytes), Ok(init));
            prop_assert!(Init::parse(&bytes[..init.size() - 1]).is_err());
            prop_assert!(init.emit(&mut bytes[..init.size() - 1]).is_none());
        }

        #[test]
        fn reply_round_trips(cid: u64, aes: bool, early_accepted: bool, home_port: u16,
                             token in prop::collection::vec(any::<u8>(), 0..=ADDRESS_TOKEN_SIZE_MAX), pad in 0usize..300) {
            let reply = Reply { cid, aes, early_accepted, home_port, token: &token };
            let mut bytes = vec![0xff; reply.size() + pad];
            prop_assert!(reply.emit(&mut bytes).is_some());
            prop_assert_eq!(Reply::parse(&bytes), Ok(reply));
            prop_assert!(Reply::parse(&bytes[..reply.size() - 1]).is_err());
        }

        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..1300), versioned: bool) {
            if let Some(first) = bytes.first_mut().filter(|_| versioned) {
                *first = VERSION;
            }
            if let Ok(init) = Init::parse(&bytes) {
                prop_assert!(init.size() <= bytes.len());
            }
            if let Ok(reply) = Reply::parse(&bytes) {
                prop_assert!(reply.size() <= bytes.len());
            }
        }
    }

    #[test]
    fn parts_that_are_too_long_are_not_written() {
        let long = [0; EARLY_DATA_MAX + 1];
        let card = IdentityCard { key: PublicKey([0; 32]), place_nonce: 0, rank_nonce: 0 };
        let init = Init { timestamp: UnixMs(0), card, cid: 0, aes: true, token: &[], early: &long };
        assert!(init.emit(&mut [0; 2000]).is_none());
    }
}

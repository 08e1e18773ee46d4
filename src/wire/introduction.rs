//! What friends tell each other of other nodes, on a stream of channel 8 (docs/protocol/introductions.md). Each message is
//! all that its sender has to tell; it ends with its stream.
//!
//! ```text
//! message      | version 1 | count 1 | told … |                                   little-endian
//! told         | hand 1 | trust 1 | introduction |
//! introduction | expires 4, s | hands 1 | contact | signature 64 |
//! contact      | card 48 | count 1 | addresses: family 1, address 4 or 16, port 2 … |
//! ```

use super::Malformed;
use super::overlay::{Contact, Reader};
use crate::base::UnixMs;
use crate::crypto::Identity;
use crate::limits::{INTRODUCTION_HANDS_MAX, INTRODUCTIONS_SIZE_MAX, INTRODUCTIONS_TOLD_MAX};

/// What an introduction's signature is for.
const CONTEXT: &str = "tornet introduction v1";
const SIGNATURE_SIZE: usize = 64;
const VERSION: u8 = 1;

/// A node's word that it may be introduced, signed: nobody is introduced who did not agree, and nobody's addresses are
/// hearsay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Until when it holds, seconds since the Unix epoch.
    pub expires: u32,
    /// How many hands farther it may go from the node's friends: 1 to [`INTRODUCTION_HANDS_MAX`].
    pub hands: u8,
    /// Who, and where it is reached.
    pub contact: Contact,
    signature: [u8; SIGNATURE_SIZE],
}

impl Introduction {
    /// Encoded length at most, bytes.
    pub const LEN_MAX: usize = 5 + Contact::LEN_MAX + SIGNATURE_SIZE;

    /// A node's own.
    pub fn sign(identity: &Identity, contact: Contact, hands: u8, expires: u32) -> Self {
        let signature = identity.sign(CONTEXT, &signed(expires, hands, &contact));
        Self { expires, hands, contact, signature }
    }

    /// Whether the node said so. Costs a signature's verification, about 40 µs.
    pub fn verify(&self) -> bool {
        let message = signed(self.expires, self.hands, &self.contact);
        self.contact.card.verify(CONTEXT, &message, &self.signature)
    }

    /// The same with another contact and reach: nobody's word any more. For tests of who is believed.
    #[cfg(any(test, feature = "sim"))]
    pub fn altered(&self, contact: Contact, hands: u8) -> Self {
        Self { contact, hands, ..*self }
    }

    /// Whether it holds no more.
    pub fn is_over(&self, wall: UnixMs) -> bool {
        u64::from(self.expires) * 1000 <= wall.0
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&signed(self.expires, self.hands, &self.contact));
        out.extend_from_slice(&self.signature);
    }
}

fn signed(expires: u32, hands: u8, contact: &Contact) -> Vec<u8> {
    let mut out = expires.to_le_bytes().to_vec();
    out.push(hands);
    contact.put(&mut out);
    out
}

/// One node of which a friend tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Between its friend and whoever hears this: 0 the sender itself, 1 a friend of the sender's, 2 a friend's friend.
    pub hand: u8,
    /// How far the sender trusts it, 0 to 100; of itself, 0.
    pub trust: u8,
    /// Its own word.
    pub introduction: Introduction,
}

/// All that a node tells a friend; at most [`INTRODUCTIONS_TOLD_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Introductions(pub Vec<Told>);

impl Introductions {
    /// The message's bytes.
    pub fn emit(&self) -> Vec<u8> {
        let told = &self.0[..self.0.len().min(INTRODUCTIONS_TOLD_MAX)];
        let mut out = vec![VERSION, told.len() as u8];
        for one in told {
            out.extend_from_slice(&[one.hand, one.trust]);
            one.introduction.put(&mut out);
        }
        out
    }

    /// What there is of news in it: everything but dates.
    pub fn substance(told: &[Told]) -> Vec<u8> {
        let mut out = Vec::new();
        for one in told {
            out.extend_from_slice(&[one.hand, one.trust]);
            out.extend_from_slice(&signed(0, one.introduction.hands, &one.introduction.contact));
        }
        out
    }

    /// Reads a whole message. Says nothing of signatures and times.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > INTRODUCTIONS_SIZE_MAX {
            return Err(Malformed("introductions: too long"));
        }
        let mut reader = Reader(bytes);
        let [version, count] = reader.take()?;
        if version != VERSION || usize::from(count) > INTRODUCTIONS_TOLD_MAX {
            return Err(Malformed("introductions: version or count"));
        }
        let told = (0..count).map(|_| told(&mut reader)).collect::<Result<_, _>>()?;
        if reader.0.is_empty() { Ok(Self(told)) } else { Err(Malformed("introductions: rest")) }
    }
}

fn told(reader: &mut Reader<'_>) -> Result<Told, Malformed> {
    let [hand, trust] = reader.take()?;
    let expires = u32::from_le_bytes(reader.take()?);
    let hands = reader.byte()?;
    let introduction = Introduction { expires, hands, contact: reader.contact()?, signature: reader.take()? };
    let is_sound = (1..=INTRODUCTION_HANDS_MAX).contains(&hands) && hand <= hands && trust <= 100;
    let is_sound = is_sound && (hand > 0 || trust == 0);
    if is_sound { Ok(Told { hand, trust, introduction }) } else { Err(Malformed("introductions: told")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use proptest::prelude::*;

    fn introduction(seed: u8, hands: u8, addresses: usize) -> (Identity, Introduction) {
        let identity = Identity::new(Secret::from_bytes([seed; 32]), 0, 0);
        let all = [([192, 0, 2, seed], 4600).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4600).into()];
        let contact = Contact::new(*identity.card(), all.into_iter().take(addresses));
        let introduction = Introduction::sign(&identity, contact, hands, 1_800_000_000);
        (identity, introduction)
    }

    proptest! {
        #[test]
        fn round_trips(all in prop::collection::vec((any::<u8>(), 1u8..=2, 0u8..=2, 0u8..=100, 0usize..3), 0..=8)) {
            let told = all.into_iter().map(|(seed, hands, hand, trust, addresses)| {
                let hand = hand.min(hands);
                let trust = if hand == 0 { 0 } else { trust };
                Told { hand, trust, introduction: introduction(seed, hands, addresses).1 }
            });
            let message = Introductions(told.collect());
            let bytes = message.emit();
            prop_assert_eq!(Introductions::parse(&bytes), Ok(message));
            prop_assert!(Introductions::parse(&bytes[..bytes.len() - 1]).is_err());
            prop_assert!(Introductions::parse(&[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn nothing_of_it_can_be_changed(at in 0usize..200, flip in 1u8..) {
            let (_, introduction) = introduction(3, 2, 2);
            let mut bytes = Introductions(vec![Told { hand: 1, trust: 50, introduction }]).emit();
            // Behind what the sender says itself.
            let at = 4 + at % (bytes.len() - 4);
            bytes[at] ^= flip;
            if let Ok(read) = Introductions::parse(&bytes) {
                prop_assert!(!read.0[0].introduction.verify());
            }
        }

        #[test]
        fn never_panics_and_has_one_form(bytes in prop::collection::vec(0u8..8, 0..300)) {
            if let Ok(message) = Introductions::parse(&bytes) {
                prop_assert_eq!(message.emit(), bytes);
            }
        }
    }

    #[test]
    fn it_goes_no_farther_than_it_may_and_the_longest_fits() {
        let (_, introduction) = introduction(3, 1, 2);
        assert!(introduction.verify() && !introduction.is_over(UnixMs(1_799_999_999_999)));
        assert!(introduction.is_over(UnixMs(1_800_000_000_000)));
        let told = |hand, trust| Told { hand, trust, introduction };
        for bad in [told(2, 1), told(0, 1), told(1, 101)] {
            assert!(Introductions::parse(&Introductions(vec![bad]).emit()).is_err(), "{bad:?}");
        }
        let full = Introductions(vec![told(1, 9); INTRODUCTIONS_TOLD_MAX]);
        assert_eq!(Introductions::parse(&full.emit()), Ok(full.clone()));
        assert!(full.emit().len() <= INTRODUCTIONS_SIZE_MAX);
        let more = Introductions(vec![told(1, 9); INTRODUCTIONS_TOLD_MAX + 9]);
        assert_eq!(more.emit(), full.emit());
    }
}

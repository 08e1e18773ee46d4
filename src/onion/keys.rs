//! The key schedule (docs/protocol/onion.md §4): what an origin and one hop derive from their two secrets, of which the
//! second is forgotten by both, so that the relay's onion key alone opens nothing later.

use crate::base::{PublicKey, Rng};
use crate::crypto::dh::DhSecret;
use crate::crypto::{AeadKey, Secret, Suite, kdf};
use zeroize::Zeroizing;

/// A nonce for keys that seal once.
pub(super) const ONCE: [u8; 12] = [0; 12];

pub use crate::wire::build::OnionKey;

/// From the ephemeral-static secret: what a request's slot is opened with.
pub(super) struct RequestKeys {
    chain: Secret,
    /// Seals the slot's body, once.
    pub body: AeadKey,
    /// Makes the stream over the slots behind it.
    pub stream: AeadKey,
    /// Names the request in the memory of those that were built.
    pub replay: [u8; 16],
}

impl RequestKeys {
    /// `shared` is X25519 of the request's `ephemeral` and the relay's onion key.
    pub(super) fn derive(
        shared: &[u8; 32],
        ephemeral: &[u8; 32],
        onion: &[u8; 32],
        relay: &PublicKey,
    ) -> Self {
        let mut material = Zeroizing::new([0; 128]);
        material[..32].copy_from_slice(shared);
        material[32..64].copy_from_slice(ephemeral);
        material[64..96].copy_from_slice(onion);
        material[96..].copy_from_slice(&relay.0);
        let chain = kdf::extract(b"tornet onion v1", &*material);
        let mut replay = [0; 16];
        kdf::expand_into(&chain, "tornet onion replay", b"", &mut replay);
        let key = |label| AeadKey::new(Suite::ChaCha20Poly1305, &kdf::expand(&chain, label, b""));
        Self { body: key("tornet onion request"), stream: key("tornet onion request stream"), replay, chain }
    }

    /// With `shared` of both ephemerals; `answered` is the relay's, which the answer names.
    pub(super) fn circuit(&self, shared: &[u8; 32], answered: &[u8; 32]) -> CircuitSecret {
        let mut material = Zeroizing::new([0; 64]);
        material[..32].copy_from_slice(shared);
        material[32..].copy_from_slice(answered);
        CircuitSecret(kdf::extract(self.chain.as_bytes(), &*material))
    }
}

/// From both secrets: everything else of one hop of one circuit.
pub(super) struct CircuitSecret(Secret);

impl CircuitSecret {
    /// What the hop's answer is sealed with, and the stream over the answers behind it.
    pub(super) fn answer(&self) -> AnswerKeys {
        let key = |label| AeadKey::new(Suite::ChaCha20Poly1305, &kdf::expand(&self.0, label, b""));
        AnswerKeys { body: key("tornet onion answer"), stream: key("tornet onion answer stream") }
    }

    /// The first epoch's secret of cells from the origin.
    pub(super) fn forward(&self) -> EpochSecret {
        EpochSecret(kdf::expand(&self.0, "tornet onion forward", b""))
    }

    /// The first epoch's secret of cells to the origin.
    pub(super) fn backward(&self) -> EpochSecret {
        EpochSecret(kdf::expand(&self.0, "tornet onion backward", b""))
    }
}

/// The keys of one hop's answer.
pub(super) struct AnswerKeys {
    pub body: AeadKey,
    pub stream: AeadKey,
}

/// The secret of one epoch of one direction of one hop.
pub(super) struct EpochSecret(Secret);

impl EpochSecret {
    /// The key of this epoch's layer, raw.
    pub(super) fn key(&self) -> Secret {
        kdf::expand(&self.0, "tornet onion key", b"")
    }

    /// The first sequence number, below 2⁵⁵, so that no two hops' numbers can be compared; and 64 bits from which the
    /// sealing side draws when the epoch ends.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let mut bytes = [0; 16];
        kdf::expand_into(&self.0, "tornet onion numbers", b"", &mut bytes);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        (word(0) >> 9, word(8))
    }

    /// The secret of the epoch after this; this one cannot be found from it.
    pub(super) fn next(&self) -> Self {
        Self(kdf::expand(&self.0, "tornet onion next epoch", b""))
    }
}

/// XORs the key's stream over `bytes`: ChaCha20-Poly1305 without its tag. For keys that do this once.
pub(super) fn apply_stream(key: &AeadKey, bytes: &mut [u8]) {
    key.seal(ONCE, b"", bytes);
}

/// A new ephemeral and its public key.
pub(super) fn ephemeral(rng: &mut Rng) -> (DhSecret, [u8; 32]) {
    let secret = DhSecret::generate(rng);
    let public = secret.public();
    (secret, public)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::parse_hex;
    use std::fmt::Write;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut all, byte| {
            write!(all, "{byte:02x}").expect("a string");
            all
        })
    }

    /// The vectors of docs/protocol/onion.md §4, read from the page itself.
    fn vector<const N: usize>(name: &str) -> [u8; N] {
        let page = include_str!("../../docs/protocol/onion.md");
        let line = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let text = line.filter(|words| words.len() == 2 && words[0] == name).map(|words| words[1]).next();
        let text = text.unwrap_or_else(|| panic!("the page has no vector {name}"));
        parse_hex(text).unwrap_or_else(|why| panic!("{name}: {why}"))
    }

    /// Origin's ephemeral, onion key and relay's ephemeral: bytes 1, 2 and 3, 32 times each.
    #[test]
    fn the_schedule_gives_the_vectors_of_the_page() {
        let [origin, onion, relay] = [1, 2, 3].map(|byte| DhSecret::from_bytes([byte; 32]));
        let identity = PublicKey([4; 32]);
        let shared = origin.agree(&onion.public()).unwrap();
        assert_eq!(shared, onion.agree(&origin.public()).unwrap());
        assert_eq!(hex(&*shared), hex(&vector::<32>("ephemeral-static")));
        let request = RequestKeys::derive(&shared, &origin.public(), &onion.public(), &identity);
        assert_eq!(hex(request.chain.as_bytes()), hex(&vector::<32>("chain")));
        assert_eq!(hex(&request.replay), hex(&vector::<16>("replay")));
        let mut stream = [0; 32];
        apply_stream(&request.stream, &mut stream);
        assert_eq!(hex(&stream), hex(&vector::<32>("request-stream")));
        assert_eq!(hex(&request.body.seal(ONCE, b"", &mut [])), hex(&vector::<16>("request-tag")));
        let both = relay.agree(&origin.public()).unwrap();
        let circuit = request.circuit(&both, &relay.public());
        assert_eq!(hex(circuit.0.as_bytes()), hex(&vector::<32>("circuit")));
        let mut stream = [0; 32];
        apply_stream(&circuit.answer().stream, &mut stream);
        assert_eq!(hex(&stream), hex(&vector::<32>("answer-stream")));
        assert_eq!(hex(&circuit.answer().body.seal(ONCE, b"", &mut [])), hex(&vector::<16>("answer-tag")));
        for (name, secret) in [("forward", circuit.forward()), ("backward", circuit.backward())] {
            assert_eq!(hex(secret.key().as_bytes()), hex(&vector::<32>(&format!("{name}-key-0"))));
            let (first, _) = secret.numbers();
            assert_eq!(hex(&first.to_le_bytes()), hex(&vector::<8>(&format!("{name}-first-0"))));
            assert_eq!(hex(secret.next().key().as_bytes()), hex(&vector::<32>(&format!("{name}-key-1"))));
        }
    }

    #[test]
    fn a_record_is_that_of_the_page() {
        use super::super::layer::{Direction, Sealing};
        let [origin, onion, relay] = [1, 2, 3].map(|byte| DhSecret::from_bytes([byte; 32]));
        let shared = origin.agree(&onion.public()).unwrap();
        let request = RequestKeys::derive(&shared, &origin.public(), &onion.public(), &PublicKey([4; 32]));
        let circuit = request.circuit(&relay.agree(&origin.public()).unwrap(), &relay.public());
        let now = crate::base::Time::ZERO;
        let mut sealing = Sealing::new(now, Direction::Forward, Suite::ChaCha20Poly1305, circuit.forward());
        let mut record = [0; 32];
        record[..8].copy_from_slice(b"8 bytes.");
        sealing.seal(now, crate::wire::cell::Class::Large, &mut record);
        assert_eq!(hex(&record), hex(&vector::<32>("forward-record")));
    }

    #[test]
    fn every_input_changes_every_key() {
        let shared = [7; 32];
        let relay = PublicKey([3; 32]);
        let base = RequestKeys::derive(&shared, &[1; 32], &[2; 32], &relay);
        let others = [
            RequestKeys::derive(&[8; 32], &[1; 32], &[2; 32], &relay),
            RequestKeys::derive(&shared, &[9; 32], &[2; 32], &relay),
            RequestKeys::derive(&shared, &[1; 32], &[9; 32], &relay),
            RequestKeys::derive(&shared, &[1; 32], &[2; 32], &PublicKey([9; 32])),
        ];
        for other in &others {
            assert_ne!(base.replay, other.replay);
            assert_ne!(base.chain.as_bytes(), other.chain.as_bytes());
        }
        let circuit = base.circuit(&[5; 32], &[6; 32]);
        for (both, answered) in [([4; 32], [6; 32]), ([5; 32], [4; 32])] {
            assert_ne!(circuit.0.as_bytes(), base.circuit(&both, &answered).0.as_bytes());
        }
        assert_ne!(circuit.forward().key().as_bytes(), circuit.backward().key().as_bytes());
    }
}

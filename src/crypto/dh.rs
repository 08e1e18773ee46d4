//! X25519, seedable, and its bridge into the Noise framework (`snow` drives the handshake only).

use curve25519_dalek::edwards::CompressedEdwardsY;
use snow::Error as NoiseError;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey as MontgomeryKey, StaticSecret};
use zeroize::Zeroizing;

use crate::base::{PublicKey, Rng};

/// The X25519 key of an Ed25519 identity: the same point in Montgomery form. `None` when the bytes are
/// no point of the curve, or one of small order.
pub fn montgomery(key: &PublicKey) -> Option<[u8; 32]> {
    let point = CompressedEdwardsY(key.0).decompress()?;
    (!point.is_small_order()).then(|| point.to_montgomery().to_bytes())
}

/// The X25519 public key of a private one.
pub fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    MontgomeryKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// A private X25519 key: erased when dropped, never printed.
pub struct DhSecret(StaticSecret);

impl DhSecret {
    /// From 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// A new one.
    pub fn generate(rng: &mut Rng) -> Self {
        Self::from_bytes(rng.bytes())
    }

    /// Its public key.
    pub fn public(&self) -> [u8; 32] {
        MontgomeryKey::from(&self.0).to_bytes()
    }

    /// What both sides share; `None` when the other side's key is a point of small order, which would share the same
    /// with everybody (RFC 7748 §6.1). It is no uniform secret: extract one from it.
    pub fn agree(&self, theirs: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.0.diffie_hellman(&MontgomeryKey::from(*theirs));
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }
}

/// Resolves Noise's primitives: hashes and ciphers from `ring`, X25519 from `x25519-dalek`, randomness
/// from the seeded generator that the caller gives.
pub struct Resolver {
    seed: [u8; 32],
    static_public: Option<[u8; 32]>,
}

impl Resolver {
    /// For one handshake: takes a seed from `rng`. `static_public` is the public key of the private key that the
    /// handshake will be given, if it is at hand: to compute it costs about a third of a Diffie-Hellman.
    pub fn new(rng: &mut Rng, static_public: Option<[u8; 32]>) -> Self {
        Self { seed: rng.bytes(), static_public }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(Rng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let key = X25519 { known_public: self.static_public, ..X25519::default() };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(key) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), NoiseError> {
        self.0.fill(dest);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    secret: Option<StaticSecret>,
    secret_bytes: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    /// The public key of the private key that `set` will be given.
    known_public: Option<[u8; 32]>,
}

impl X25519 {
    fn assign(&mut self, bytes: Zeroizing<[u8; 32]>, public: Option<[u8; 32]>) {
        let secret = StaticSecret::from(*bytes);
        self.public = public.unwrap_or_else(|| MontgomeryKey::from(&secret).to_bytes());
        self.secret_bytes = bytes;
        self.secret = Some(secret);
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(&privkey[..32]);
        self.assign(bytes, self.known_public);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), NoiseError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *bytes)?;
        self.assign(bytes, None);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret_bytes
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), NoiseError> {
        let secret = self.secret.as_ref().ok_or(NoiseError::Dh)?;
        let theirs: [u8; 32] = pubkey.get(..32).and_then(|b| b.try_into().ok()).ok_or(NoiseError::Dh)?;
        let shared = secret.diffie_hellman(&MontgomeryKey::from(theirs));
        if !shared.was_contributory() {
            return Err(NoiseError::Dh);
        }
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_small_points_are_refused() {
        let mut rng = Rng::from_number(3);
        let [a, b] = [DhSecret::generate(&mut rng), DhSecret::generate(&mut rng)];
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert_ne!(a.agree(&b.public()), a.agree(&a.public()));
        assert!(a.agree(&[0; 32]).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(a.agree(&one).is_none());
    }
}

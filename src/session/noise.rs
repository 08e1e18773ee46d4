//! Noise IK over X25519, ChaCha20-Poly1305 and SHA-256, one type per state (docs/protocol/session.md §2).

use snow::{Builder, HandshakeState};

use crate::base::{PublicKey, Rng};
use crate::crypto::dh::{Resolver, montgomery};
use crate::crypto::{Identity, Secret, kdf};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_SHA256";

/// What the first message adds to its payload: ephemeral key, sealed static key, tag.
pub(super) const FIRST_OVERHEAD: usize = 32 + 48 + 16;
/// What the second adds: ephemeral key, tag.
pub(super) const SECOND_OVERHEAD: usize = 32 + 16;

/// A message that this handshake does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rejected;

/// We wrote the first message and wait for the second.
pub(super) struct Initiated(HandshakeState);

/// We read a first message and may answer it.
pub(super) struct Offered(HandshakeState);

fn builder<'a>(network: &'a [u8], identity: &'a Identity, rng: &mut Rng) -> Result<Builder<'a>, snow::Error> {
    let resolver = Resolver::new(rng, Some(*identity.dh_public()));
    Builder::with_resolver(PATTERN.parse()?, Box::new(resolver))
        .prologue(network)?
        .local_private_key(identity.dh_secret())
}

/// Writes the first message to `peer` into `message`, which has exactly the room for it.
pub(super) fn initiate(
    identity: &Identity,
    peer: &PublicKey,
    network: &[u8],
    rng: &mut Rng,
    payload: &[u8],
    message: &mut [u8],
) -> Result<Initiated, Rejected> {
    let remote = montgomery(peer).ok_or(Rejected)?;
    let mut state = builder(network, identity, rng)
        .and_then(|builder| builder.remote_public_key(&remote)?.build_initiator())
        .map_err(|_| Rejected)?;
    let len = state.write_message(payload, message).map_err(|_| Rejected)?;
    debug_assert_eq!(len, message.len());
    Ok(Initiated(state))
}

impl Initiated {
    /// Reads the second message: its payload goes into `payload`, which has room for the whole message.
    /// A rejected one changes nothing.
    pub(super) fn finish(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(usize, Secret), Rejected> {
        let len = self.0.read_message(message, payload).map_err(|_| Rejected)?;
        Ok((len, session_secret(&mut self.0)))
    }
}

/// Reads a first message: the sender's static X25519 key, and the payload into `payload`, which has
/// room for the whole message.
pub(super) fn receive(
    identity: &Identity,
    network: &[u8],
    rng: &mut Rng,
    message: &[u8],
    payload: &mut [u8],
) -> Result<(Offered, [u8; 32], usize), Rejected> {
    let mut state =
        builder(network, identity, rng).and_then(Builder::build_responder).map_err(|_| Rejected)?;
    let len = state.read_message(message, payload).map_err(|_| Rejected)?;
    let remote = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Rejected)?;
    Ok((Offered(state), remote, len))
}

impl Offered {
    /// Writes the second message into `message`, which has exactly the room for it.
    pub(super) fn answer(mut self, payload: &[u8], message: &mut [u8]) -> Result<Secret, Rejected> {
        let len = self.0.write_message(payload, message).map_err(|_| Rejected)?;
        debug_assert_eq!(len, message.len());
        Ok(session_secret(&mut self.0))
    }
}

/// The secret that lanes are derived from; both of Noise's keys go into it, neither is used itself.
fn session_secret(state: &mut HandshakeState) -> Secret {
    let (to_responder, to_initiator) = state.dangerously_get_raw_split();
    let both = zeroize::Zeroizing::new([to_responder, to_initiator].concat());
    kdf::extract(b"tornet session v1", &both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::new(Secret::from_bytes([seed; 32]), 0, 0)
    }

    #[test]
    fn both_sides_get_one_secret_and_know_each_other() {
        let (a, b, mut rng) = (identity(1), identity(2), Rng::from_number(1));
        let mut first = [0; FIRST_OVERHEAD + 5];
        let mut waiting = initiate(&a, &b.card().key, b"net", &mut rng, b"hello", &mut first).ok().unwrap();
        let mut payload = [0; 200];
        assert!(receive(&b, b"other net", &mut rng, &first, &mut payload).is_err());
        let (offered, remote, len) = receive(&b, b"net", &mut rng, &first, &mut payload).ok().unwrap();
        assert_eq!((&payload[..len], Some(remote)), (&b"hello"[..], montgomery(&a.card().key)));
        let mut second = [0; SECOND_OVERHEAD + 2];
        let ours = offered.answer(b"hi", &mut second).ok().unwrap();
        let mut forged = second;
        forged[40] ^= 1;
        assert!(waiting.finish(&forged, &mut payload).is_err());
        let (len, theirs) = waiting.finish(&second, &mut payload).ok().unwrap();
        assert_eq!((&payload[..len], ours.as_bytes()), (&b"hi"[..], theirs.as_bytes()));
    }
}

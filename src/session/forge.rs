//! Handshakes that say whatever the caller likes inside: what a hostile node can send that has a key of its own
//! and knows ours. For tests and fuzzing only.

use super::disguise::{BODY_AT, COOKIE_SIZE, Disguise, OVERHEAD};
use super::noise::{self, FIRST_OVERHEAD, SECOND_OVERHEAD};
use crate::base::{PublicKey, Rng};
use crate::crypto::Identity;
use crate::limits::{CID_SIZE, DATAGRAM_MIN, TAG_SIZE};
use crate::wire::handshake::{INIT, Init, REPLY};

/// A first flight to `peer` with this payload, padding included. `None` for a key that is none.
pub fn first_flight(
    identity: &Identity,
    network: &[u8],
    peer: &PublicKey,
    cookie: &[u8; COOKIE_SIZE],
    payload: &[u8],
    rng: &mut Rng,
) -> Option<Vec<u8>> {
    let mut datagram = vec![0; OVERHEAD + COOKIE_SIZE + FIRST_OVERHEAD + payload.len()];
    let end = datagram.len() - TAG_SIZE;
    let (slot, message) = datagram[BODY_AT..end].split_at_mut(COOKIE_SIZE);
    slot.copy_from_slice(cookie);
    noise::initiate(identity, peer, network, rng, payload, message).ok()?;
    Disguise::of(peer).seal(INIT, rng, &mut datagram);
    Some(datagram)
}

/// The answer of `identity` to somebody's first flight, with this payload. `None` when the flight is not one to
/// `identity`.
pub fn answer(
    identity: &Identity,
    network: &[u8],
    first: &[u8],
    payload: &[u8],
    rng: &mut Rng,
) -> Option<Vec<u8>> {
    let ours = Disguise::of(&identity.card().key);
    let mut first = first.to_vec();
    let header = ours.header(&first)?;
    let (_, body) = ours.open(&header, &mut first)?;
    let message = first[body].get(COOKIE_SIZE..)?;
    let mut inside = [0; DATAGRAM_MIN];
    let (offered, _, len) = noise::receive(identity, network, rng, message, &mut inside).ok()?;
    let init = Init::parse(&inside[..len]).ok()?;
    let mut datagram = vec![0; OVERHEAD + CID_SIZE + SECOND_OVERHEAD + payload.len()];
    let end = datagram.len() - TAG_SIZE;
    let (to, message) = datagram[BODY_AT..end].split_at_mut(CID_SIZE);
    to.copy_from_slice(&init.cid.to_le_bytes());
    offered.answer(payload, message).ok()?;
    Disguise::of(&init.card.key).seal(REPLY, rng, &mut datagram);
    Some(datagram)
}

//! Building a circuit, the cryptography alone: what an origin writes, what each hop makes of it, and how the answer comes
//! together (docs/protocol/onion.md §3).
//!
//! A request keeps its length: a hop reads the first slot, shifts the others to the front, and XORs a stream of its own
//! over all of them, which fills the last slot with what only the origin can foretell. So no hop learns how many come
//! before or behind it, each authenticates the whole of what it passes on, and no two see the same bytes.

use super::keys::{AnswerKeys, CircuitSecret, ONCE, OnionKey, RequestKeys, apply_stream, ephemeral};
use crate::base::{PublicKey, Rng};
use crate::crypto::Secret;
use crate::crypto::dh::DhSecret;
use crate::wire::build::{
    ANSWER_BODY, ANSWER_BODY_AT, ANSWER_SIZE, ANSWER_SLOT, Answer, REQUEST_BODY, REQUEST_BODY_AT,
    REQUEST_EPHEMERAL_AT, REQUEST_SIZE, REQUEST_SLOT, Request, SLOTS, Status,
};

/// A hop as the origin means it to be.
pub(super) struct Planned {
    pub relay: PublicKey,
    pub onion: OnionKey,
    pub request: Request,
}

/// What the origin keeps of one hop until the answer comes.
pub(super) struct AwaitedHop {
    ephemeral: DhSecret,
    keys: RequestKeys,
    layers: u8,
}

/// One hop as it answered.
pub(super) struct Answered {
    pub answer: Answer,
    pub secret: CircuitSecret,
}

/// Why an answer is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadAnswer {
    /// The hop, from 0, whose slot did not open.
    pub hop: usize,
}

/// Writes the request of a path of 1 to [`SLOTS`] hops. `None` when a hop's onion key is no key.
pub(super) fn request(rng: &mut Rng, path: &[Planned]) -> Option<([u8; REQUEST_SIZE], Vec<AwaitedHop>)> {
    assert!((1..=SLOTS).contains(&path.len()), "a path has hops, and each has a slot");
    let mut hops = Vec::with_capacity(path.len());
    let mut publics = Vec::with_capacity(path.len());
    for hop in path {
        let (secret, public) = ephemeral(rng);
        let shared = secret.agree(&hop.onion.key)?;
        let keys = RequestKeys::derive(&shared, &public, &hop.onion.key, &hop.relay);
        hops.push(AwaitedHop { ephemeral: secret, keys, layers: hop.request.layers });
        publics.push(public);
    }
    let streams: Vec<[u8; REQUEST_SIZE]> = hops.iter().map(|hop| stream(&hop.keys)).collect();
    let mut bytes = [0; REQUEST_SIZE];
    rng.fill(&mut bytes);
    fillers(&streams[..path.len() - 1], &mut bytes);
    for index in (0..path.len()).rev() {
        if index + 1 < path.len() {
            // What the next hop shall see, before this one's stream and shift.
            xor(&mut bytes, &streams[index]);
            bytes.copy_within(..REQUEST_SIZE - REQUEST_SLOT, REQUEST_SLOT);
        }
        let (slot, rest) = bytes.split_at_mut(REQUEST_SLOT);
        slot[0] = path[index].onion.number;
        slot[REQUEST_EPHEMERAL_AT..REQUEST_BODY_AT].copy_from_slice(&publics[index]);
        slot[REQUEST_BODY_AT..REQUEST_BODY_AT + REQUEST_BODY].copy_from_slice(&path[index].request.emit());
        let associated = request_associated(slot, rest);
        let (_, sealed) = slot.split_at_mut(REQUEST_BODY_AT);
        let (body, tag) = sealed.split_at_mut(REQUEST_BODY);
        tag.copy_from_slice(&hops[index].keys.body.seal(ONCE, &associated, body));
    }
    Some((bytes, hops))
}

/// The last slots as the last hop finds them: each hop before it pushed one in, and each hop behind that one XORed its
/// stream over it.
fn fillers(streams: &[[u8; REQUEST_SIZE]], bytes: &mut [u8; REQUEST_SIZE]) {
    for (index, stream) in streams.iter().enumerate() {
        let start = REQUEST_SIZE - (index + 1) * REQUEST_SLOT;
        bytes.copy_within(start + REQUEST_SLOT.., start);
        bytes[REQUEST_SIZE - REQUEST_SLOT..].fill(0);
        xor(&mut bytes[start..], &stream[start..]);
    }
}

fn stream(keys: &RequestKeys) -> [u8; REQUEST_SIZE] {
    let mut out = [0; REQUEST_SIZE];
    apply_stream(&keys.stream, &mut out);
    out
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
}

/// Everything but the body: key number, ephemeral, and what is passed on.
fn request_associated(slot: &[u8], rest: &[u8]) -> Vec<u8> {
    [&slot[..REQUEST_BODY_AT], rest].concat()
}

/// What a relay read of a request.
pub(super) struct Opened {
    pub request: Request,
    pub keys: RequestKeys,
    pub ephemeral: [u8; 32],
}

/// Opens the first slot with the onion key that it names. `None` for what was not made for that key.
pub(super) fn open_request(
    bytes: &mut [u8; REQUEST_SIZE],
    relay: &PublicKey,
    secret: &DhSecret,
    public: &[u8; 32],
) -> Option<Opened> {
    let shared = secret.agree(ephemeral_of(bytes)?)?;
    open_agreed(bytes, relay, &shared, public)
}

/// What opens one request: X25519 of its ephemeral and the onion key, and that key's public half.
pub struct Agreed {
    /// The shared secret.
    pub shared: Secret,
    /// The public onion key.
    pub onion: [u8; 32],
}

/// The ephemeral of the first slot.
pub(super) fn ephemeral_of(bytes: &[u8; REQUEST_SIZE]) -> Option<&[u8; 32]> {
    bytes[REQUEST_EPHEMERAL_AT..].first_chunk()
}

/// As [`open_request`], with what was agreed already.
pub(super) fn open_agreed(
    bytes: &mut [u8; REQUEST_SIZE],
    relay: &PublicKey,
    shared: &[u8; 32],
    public: &[u8; 32],
) -> Option<Opened> {
    let ephemeral = *ephemeral_of(bytes)?;
    let (slot, rest) = bytes.split_at_mut(REQUEST_SLOT);
    let keys = RequestKeys::derive(shared, &ephemeral, public, relay);
    let associated = request_associated(slot, rest);
    let body = keys.body.open(ONCE, &associated, &mut slot[REQUEST_BODY_AT..]).ok()?;
    let request = Request::parse((&*body).try_into().expect("a body's bytes")).ok()?;
    Some(Opened { request, keys, ephemeral })
}

/// Makes of an opened request what the next hop is sent.
pub(super) fn pass_on(bytes: &mut [u8; REQUEST_SIZE], keys: &RequestKeys) {
    bytes.copy_within(REQUEST_SLOT.., 0);
    bytes[REQUEST_SIZE - REQUEST_SLOT..].fill(0);
    apply_stream(&keys.stream, bytes);
}

/// What a relay answers with, and what its layers come from.
pub(super) struct Reply {
    pub secret: CircuitSecret,
    keys: AnswerKeys,
    ephemeral: [u8; 32],
    layers: u8,
}

/// Draws the relay's ephemeral, which is forgotten with the return. `None` when the origin's is no key.
pub(super) fn reply(rng: &mut Rng, opened: &Opened) -> Option<Reply> {
    let (secret, public) = ephemeral(rng);
    let shared = secret.agree(&opened.ephemeral)?;
    let circuit = opened.keys.circuit(&shared, &public);
    let layers = opened.request.layers;
    Some(Reply { keys: circuit.answer(), secret: circuit, ephemeral: public, layers })
}

impl Reply {
    /// The answer of the last hop, or of one that refuses.
    pub(super) fn first(self, rng: &mut Rng, answer: Answer) -> [u8; ANSWER_SIZE] {
        let mut bytes = [0; ANSWER_SIZE];
        rng.fill(&mut bytes);
        self.seal(answer, &mut bytes);
        bytes
    }

    /// Puts this hop's answer before those of the hops behind it, and redraws every byte behind theirs.
    pub(super) fn gather(self, rng: &mut Rng, answer: Answer, bytes: &mut [u8; ANSWER_SIZE]) {
        bytes.copy_within(..ANSWER_SIZE - ANSWER_SLOT, ANSWER_SLOT);
        let end = usize::from(self.layers) * ANSWER_SLOT;
        apply_stream(&self.keys.stream, &mut bytes[ANSWER_SLOT..end]);
        rng.fill(&mut bytes[end..]);
        self.seal(answer, bytes);
    }

    fn seal(&self, answer: Answer, bytes: &mut [u8; ANSWER_SIZE]) {
        let (slot, rest) = bytes.split_at_mut(ANSWER_SLOT);
        slot[..ANSWER_BODY_AT].copy_from_slice(&self.ephemeral);
        slot[ANSWER_BODY_AT..ANSWER_BODY_AT + ANSWER_BODY].copy_from_slice(&answer.emit());
        let (body, tag) = slot[ANSWER_BODY_AT..].split_at_mut(ANSWER_BODY);
        tag.copy_from_slice(&self.keys.body.seal(ONCE, behind(rest, self.layers), body));
    }
}

/// The answers behind a hop's own: the hops before it push others out at the end, but never one of these.
fn behind(rest: &[u8], layers: u8) -> &[u8] {
    &rest[..(usize::from(layers) - 1) * ANSWER_SLOT]
}

/// Opens what came back, hop by hop, up to the one that refused or the last.
pub(super) fn open_answer(
    hops: Vec<AwaitedHop>,
    bytes: &mut [u8; ANSWER_SIZE],
) -> Result<Vec<Answered>, BadAnswer> {
    let mut answered = Vec::with_capacity(hops.len());
    for (index, hop) in hops.into_iter().enumerate() {
        let one = open_slot(hop, bytes).ok_or(BadAnswer { hop: index })?;
        let refused = one.answer.status != Status::Built;
        answered.push(one);
        if refused {
            break;
        }
    }
    Ok(answered)
}

fn open_slot(hop: AwaitedHop, bytes: &mut [u8; ANSWER_SIZE]) -> Option<Answered> {
    let (slot, rest) = bytes.split_at_mut(ANSWER_SLOT);
    let theirs: [u8; 32] = slot[..ANSWER_BODY_AT].try_into().expect("32 bytes");
    let shared = hop.ephemeral.agree(&theirs)?;
    let secret = hop.keys.circuit(&shared, &theirs);
    let keys = secret.answer();
    let body = keys.body.open(ONCE, behind(rest, hop.layers), &mut slot[ANSWER_BODY_AT..]).ok()?;
    let answer = Answer::parse((&*body).try_into().expect("a body's bytes")).ok()?;
    apply_stream(&keys.stream, rest);
    bytes.copy_within(ANSWER_SLOT.., 0);
    Some(Answered { answer, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::crypto::IdentityCard;
    use crate::wire::build::{NextHop, Role};
    use proptest::prelude::*;

    struct Host {
        name: PublicKey,
        secret: DhSecret,
        public: [u8; 32],
    }

    fn hosts(rng: &mut Rng, count: usize) -> Vec<Host> {
        (0..count)
            .map(|n| {
                let (secret, public) = ephemeral(rng);
                Host { name: PublicKey([n as u8; 32]), secret, public }
            })
            .collect()
    }

    fn plan(hosts: &[Host]) -> Vec<Planned> {
        let role = |at: usize| match hosts.get(at + 1) {
            Some(next) => {
                let card = IdentityCard { key: next.name, place_nonce: 1, rank_nonce: 2 };
                Role::Relay(NextHop { card, address: None })
            }
            None => Role::End { resume: [9; 32] },
        };
        let layers = |at: usize| (hosts.len() - at) as u8;
        hosts
            .iter()
            .enumerate()
            .map(|(at, host)| Planned {
                relay: host.name,
                onion: OnionKey { number: at as u8, key: host.public },
                request: Request { layers: layers(at), aes: true, lifetime_s: 600, role: role(at) },
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_hop_reads_its_slot_and_the_origin_every_answer(seed: u64, count in 1usize..=SLOTS, refusing in 0usize..8) {
            let mut rng = Rng::from_number(seed);
            let hosts = hosts(&mut rng, count);
            let path = plan(&hosts);
            let (mut bytes, awaited) = request(&mut rng, &path).unwrap();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            let mut replies = Vec::new();
            for (host, planned) in hosts.iter().zip(&path) {
                // No run of bytes that one hop sees is seen by another, nor at another place.
                for slot in bytes.chunks(16) {
                    prop_assert!(!seen.iter().any(|before| before.as_slice() == slot));
                }
                seen.extend(bytes.chunks(16).map(<[u8]>::to_vec));
                let opened = open_request(&mut bytes, &host.name, &host.secret, &host.public).unwrap();
                prop_assert_eq!(opened.request, planned.request);
                replies.push(reply(&mut rng, &opened).unwrap());
                pass_on(&mut bytes, &opened.keys);
            }
            let last = refusing.min(count - 1);
            replies.truncate(last + 1);
            let secrets: Vec<_> = replies.iter().map(|reply| reply.secret.forward().key()).collect();
            let status = if refusing < count { Status::Busy } else { Status::Built };
            let mut answer = replies.pop().unwrap().first(&mut rng, Answer { status, aes: false });
            for reply in replies.into_iter().rev() {
                reply.gather(&mut rng, Answer { status: Status::Built, aes: true }, &mut answer);
            }
            let answered = open_answer(awaited, &mut answer).map_err(|bad| bad.hop).unwrap();
            prop_assert_eq!(answered.len(), last + 1);
            prop_assert_eq!(answered[last].answer, Answer { status, aes: false });
            for (one, secret) in answered.iter().zip(&secrets) {
                prop_assert!(one.secret.forward().key().as_bytes() == secret.as_bytes());
            }
        }

        #[test]
        fn a_flip_anywhere_stops_at_the_next_hop(seed: u64, count in 1usize..=SLOTS, at in 0usize..REQUEST_SIZE, bit in 0u8..8) {
            let mut rng = Rng::from_number(seed);
            let hosts = hosts(&mut rng, count);
            let (mut bytes, awaited) = request(&mut rng, &plan(&hosts)).unwrap();
            let clean = bytes;
            bytes[at] ^= 1 << bit;
            prop_assert!(open_request(&mut bytes, &hosts[0].name, &hosts[0].secret, &hosts[0].public).is_none());
            // The same of the answer: the origin names the hop whose slot does not open.
            let mut bytes = clean;
            let mut replies = Vec::new();
            for host in &hosts {
                let opened = open_request(&mut bytes, &host.name, &host.secret, &host.public).unwrap();
                replies.push(reply(&mut rng, &opened).unwrap());
                pass_on(&mut bytes, &opened.keys);
            }
            let built = Answer { status: Status::Built, aes: true };
            let mut answer = replies.pop().unwrap().first(&mut rng, built);
            let altered = usize::from(bit) % count;
            if altered == count - 1 {
                answer[at % ANSWER_SIZE] ^= 1;
            }
            for (index, reply) in replies.into_iter().enumerate().rev() {
                reply.gather(&mut rng, built, &mut answer);
                if index == altered {
                    answer[at % ANSWER_SIZE] ^= 1;
                }
            }
            // What lies behind the answers is redrawn, or of no use to anybody.
            let of_use = at % ANSWER_SIZE < (count - altered) * ANSWER_SLOT;
            prop_assert_eq!(open_answer(awaited, &mut answer).err(), of_use.then_some(BadAnswer { hop: altered }));
        }
    }

    #[test]
    fn a_request_for_another_relay_or_key_does_not_open() {
        let mut rng = Rng::from_number(1);
        let hosts = hosts(&mut rng, 2);
        let (bytes, _) = request(&mut rng, &plan(&hosts)).unwrap();
        let open = |host: &Host, name| open_request(&mut bytes.clone(), name, &host.secret, &host.public);
        assert!(open(&hosts[0], &hosts[0].name).is_some());
        assert!(open(&hosts[1], &hosts[1].name).is_none());
        assert!(open(&hosts[0], &hosts[1].name).is_none());
        let mut bad = plan(&hosts);
        bad[1].onion.key = [0; 32];
        assert!(request(&mut rng, &bad).is_none(), "a small point is no onion key");
    }
}

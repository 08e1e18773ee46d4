//! Keeping for others and being kept: what peers offer, send and answer, whatever it is.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Input;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, Kept, NewChunk, NoChunks, PublicKey, StreamId, Time};
use crate::chunk::SliceList;
use crate::crypto::IdentityCard;
use crate::crypto::hash::sha1;
use crate::limits::{KEEP_BODIES_MAX, PUSH_COPIES};
use crate::service::PeerId;
use crate::service::keep::guests::Guest;
use crate::service::keep::{Act, Keep};
use crate::service::push::{Action, Push};
use crate::wire::keep::{Answer, Offer};
use crate::wire::overlay::Contact;

/// An offer and its answer have one form.
pub fn message(bytes: &[u8]) {
    if let Ok(Some(offer)) = Offer::parse(bytes) {
        assert_eq!(offer.emit()[..], *bytes);
    }
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(answer.emit()[..], *bytes);
    }
}

/// The chunks that honest peers have.
fn chunk(n: u8) -> (Offer, Vec<u8>) {
    let bytes = vec![n; 1 + usize::from(n) * 30_000];
    let root = *SliceList::from_chunk(&bytes).root();
    (Offer { chunk: ChunkId(sha1(&[&bytes])), len: bytes.len() as u32, root }, bytes)
}

/// A keeper: nothing is stored but what was offered by its address and its root; every stream that is answered for good is
/// answered once; memory is bounded.
pub fn keeper(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut keep, mut acts, mut now) = (Keep::default(), Vec::new(), Time::from_millis(1_000));
    keep.allow(Some(1 << 30), 1 + input.byte() % 4);
    let chunks: Vec<_> = (0..4).map(chunk).collect();
    let (mut ended, mut out) = (BTreeSet::new(), Vec::new());
    while !input.is_empty() {
        let at = (PeerId(u64::from(input.byte() % 4)), StreamId(2 * u64::from(input.byte() % 8)));
        let (offer, body) = &chunks[input.below(chunks.len())];
        match input.below(10) {
            0 | 1 => {
                let address = ([20, input.byte() % 4, 1, 1], 1).into();
                let friend = input.flag().then_some(PublicKey([at.0.0 as u8; 32]));
                ended.remove(&at);
                keep.ended(at.0, at.1);
                keep.opened(now, at.0, at.1, input.flag().then(|| Guest::of(friend, address)), &mut acts);
            }
            2 | 3 => {
                let whole = offer.emit();
                let text = if input.flag() { &whole[..] } else { input.bytes(70) };
                let finished = input.byte() == 0;
                keep.offer(now, at, text, finished, &mut NoChunks, &mut acts);
            }
            4..=6 => {
                let start = input.below(body.len() + 1);
                let end = (start + usize::from(input.half()) * 2).min(body.len());
                let offset = (Offer::LEN + start) as u64;
                match input.below(8) {
                    0 => keep.body(at.0, at.1, u64::from(input.half()), input.bytes(90)),
                    1 => keep.body(at.0, at.1, Offer::LEN as u64, body),
                    _ => keep.body(at.0, at.1, offset, &body[start..end]),
                }
            }
            7 => keep.finished(at.0, at.1),
            8 => match input.below(3) {
                0 => keep.ended(at.0, at.1),
                1 => keep.peer_down(at.0),
                _ => {
                    now += Duration::from_millis(u64::from(input.half()));
                    keep.handle_timeout(now, &mut acts);
                }
            },
            _ if !out.is_empty() => {
                let number = out.swap_remove(input.below(out.len()));
                let kept = [Kept::Done, Kept::Busy, Kept::Failed][input.below(3)];
                keep.stored(now, number, kept, &mut acts);
            }
            _ => {}
        }
        keep.look(&mut acts);
        while let Some((number, new)) = keep.poll_store() {
            let offered = chunks.iter().find(|(offer, _)| offer.chunk == new.id).expect("what was offered");
            assert!(new.root == offered.0.root && new.bytes == offered.1);
            out.push(number);
        }
        while keep.poll_kept().is_some() {}
        for act in acts.drain(..) {
            match act {
                Act::Answer(peer, stream, answer) => {
                    assert!(answer != Answer::GoOn && !ended.contains(&(peer, stream)), "one last word");
                }
                Act::End(peer, stream) | Act::Abandon(peer, stream) => _ = ended.insert((peer, stream)),
                Act::Accept(peer, stream, total) => {
                    assert!(keep.takes(peer, stream) && total > Offer::LEN as u64);
                }
            }
        }
        assert!(keep.bodies() <= KEEP_BODIES_MAX && out.len() <= KEEP_BODIES_MAX);
    }
}

/// A giver: whatever keepers answer, each chunk ends, once, with as many keepers as said so.
pub fn giver(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut push, mut now, mut streams) = (Push::default(), Time::from_millis(1_000), 0);
    let node = |n: u8| {
        let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
        Contact::new(card, [([20, n % 5, n, 1], 1).into()])
    };
    let (mut open, mut given, mut placed) = (Vec::new(), 0, 0);
    let mut steps = 0;
    loop {
        let over = input.is_empty();
        if !over {
            match input.below(8) {
                0 | 1 => {
                    let n = input.byte();
                    let new = NewChunk {
                        id: ChunkId([n; 20]),
                        root: [n; 32],
                        bytes: vec![n; 9],
                        list: vec![n; 32],
                    };
                    given += usize::from(push.push(now, JobId(1), new).is_ok());
                }
                2..=4 if !open.is_empty() => {
                    let (peer, stream) = open[input.below(open.len())];
                    let answers = [
                        Answer::GoOn,
                        Answer::Here,
                        Answer::Busy(50),
                        Answer::Refused,
                        Answer::Kept,
                        Answer::Wrong,
                    ];
                    let whole = answers[input.below(answers.len())].emit();
                    let text = if input.flag() { &whole[..] } else { input.bytes(20) };
                    push.answer(now, peer, stream, text, input.flag());
                }
                5 => push.peer_down(now, PeerId(u64::from(input.byte() % 16))),
                6 if !open.is_empty() => {
                    let (peer, stream) = open.swap_remove(input.below(open.len()));
                    push.ended(now, peer, stream);
                }
                _ => now += Duration::from_millis(u64::from(input.half())),
            }
        }
        while let Some(action) = push.poll_action(now) {
            match action {
                Action::Find(chunk) => {
                    let count = input.byte() % 12;
                    let nodes: Vec<Contact> =
                        (0..count).map(|n| node(n.wrapping_add(chunk.0[0]) % 16)).collect();
                    push.found(now, &chunk, &nodes, &PublicKey([99; 32]));
                }
                Action::Call(contact) => {
                    let up = input.flag().then_some(PeerId(contact.card.key.0[0].into()));
                    push.called(now, &contact.card.key, up);
                }
                Action::Offer { peer, number, .. } => {
                    streams += 2;
                    let stream = (input.byte() != 1).then_some(StreamId(streams));
                    push.offered(now, peer, number, stream);
                    open.extend(stream.map(|stream| (peer, stream)));
                }
                Action::Send(_, _, source, len) => {
                    let mut into = vec![0; len as usize];
                    push.read(source, 0, &mut into).expect("it is there while it is sent");
                }
                Action::Withdraw(peer, stream) => open.retain(|one| *one != (peer, stream)),
            }
        }
        while let Some(one) = push.poll_placed() {
            placed += 1;
            assert!(usize::from(one.keepers) <= PUSH_COPIES);
        }
        if over {
            let Some(next) = push.poll_timeout() else { break };
            assert!(next > now, "nobody is woken for nothing");
            now = next;
            steps += 1;
            assert!(steps < 100_000, "every chunk ends");
        }
    }
    assert!(push.is_idle() && placed == given);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn scripts_drawn_at_random_break_nothing() {
        for seed in 0..300 {
            let mut script = vec![0; 20 << (seed % 8)];
            Rng::from_number(seed).fill(&mut script);
            keeper(&script);
            giver(&script);
        }
    }
}

//! An overlay core among peers that say anything.

use std::net::SocketAddr;

use super::Input;
use super::endpoint::identity;
use crate::base::{ChunkId, PublicKey, Rng, Time, UnixMs};
use crate::crypto::IdentityCard;
use crate::limits::{BUCKET_CONTACTS_MAX, LOOKUPS_MAX, OVERLAY_MESSAGE_MAX, RECORDS_PER_KEY_MAX};
use crate::overlay::{Config, Effect, Goal, Manner, Moment, Overlay, Peer, Wanted};
use crate::wire::overlay::{
    Announcement, Answer, Body, Contact, Find, Handed, Keeping, Message, Record, Verdict,
};

fn peer(number: u8) -> Peer {
    let card = IdentityCard { key: PublicKey([number; 32]), place_nonce: 0, rank_nonce: 0 };
    Peer::of(Contact::new(card, [SocketAddr::from(([100, number, 0, 1], 4600))]))
}

fn keeping(byte: u8) -> Keeping {
    let verdict = if byte & 1 == 0 { Verdict::Kept } else { Verdict::Full };
    Keeping { verdict, hosts: byte, queries: byte.into() }
}

/// Whatever comes in whatever order: messages fit, tables are bounded, what is left alone comes to rest, nobody is in
/// the table who answered nothing, and no record is kept that its provider did not sign for that chunk.
pub fn peer_of_overlay(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let config = Config { place_floor: 0, remembered: 16, ..Config::default() };
    let address = SocketAddr::from(([99, 0, 0, 1], 4600));
    let own = identity(1);
    let mut node = Overlay::new(config, own, [address], Time::ZERO, Rng::from_number(1));
    let (mut millis, mut asked, mut answered) = (0u64, Vec::new(), Vec::new());
    let at = |millis| Moment { now: Time::from_millis(millis), wall: UnixMs(1_800_000_000_000 + millis) };
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let (what, detail) = (input.byte(), input.byte());
        let from = peer(detail % 32);
        let chunk = ChunkId([detail % 8; 20]);
        match what % 8 {
            0 => node.handle_up(at(millis), &from, from.contact.addresses().next()),
            1 => node.handle_failed(at(millis), &from.id, &from.contact.addresses().collect::<Vec<_>>()),
            2 => millis += 1 << (detail % 20),
            3 => {
                let manner = if what & 8 == 0 { Manner::Near } else { Manner::Far { stride: detail % 9 } };
                let wanted = Wanted { key: chunk.0, goal: Goal::Providers(detail), manner, quiet: false };
                node.find(at(millis), wanted);
            }
            4 => drop(node.provide(at(millis), chunk)),
            5 => {
                let contacts = (0..detail % 9).map(|n| peer(n.wrapping_mul(what)).contact).collect();
                let signer = identity(detail % 4);
                let provider = Contact::new(*signer.card(), []);
                let record =
                    Record::sign(&signer, &chunk, provider, at(millis).unix_s() + u32::from(what) * 60);
                let said = match what >> 4 {
                    0..=3 => Body::Answer(Answer { contacts, records: vec![record], ..Answer::default() }),
                    4..=7 => Body::Verdicts(vec![keeping(what); 1 + usize::from(detail % 12)]),
                    8..=11 => {
                        let of = |n: u8| (ChunkId([n; 20]), vec![record; usize::from(detail % 5)]);
                        Body::Handed(Handed::first((0..what).step_by(1 + usize::from(detail)).map(of)))
                    }
                    _ => Body::Here(None),
                };
                if let Some((to, number)) = asked.pop() {
                    let bytes = Message { number, body: said }.emit();
                    let to: Peer = to;
                    // Some answer on a path that nobody knows, as behind a relay.
                    let seen = to.contact.addresses().next().filter(|_| what & 8 == 0);
                    node.handle_message(at(millis), &to, seen, &bytes).expect("what was written reads");
                    if seen.is_some() {
                        answered.push(to.id);
                    }
                }
            }
            6 => {
                let signer = identity(detail % 4);
                let signed_for = if what & 8 == 0 { chunk } else { ChunkId([0xee; 20]) };
                let claimed = Some(SocketAddr::from(([100, detail % 64, 0, 1], 4600)));
                let provider = Contact::new(*signer.card(), claimed.filter(|_| detail & 32 == 0));
                let record = Record::sign(&signer, &signed_for, provider, at(millis).unix_s() + 600);
                let body = match what >> 4 {
                    0..=7 => {
                        let all = vec![(chunk, record); 1 + usize::from(detail % 12)];
                        Body::Announce(Announcement::of(&all).expect("not too many"))
                    }
                    8..=11 => Body::Delegate { key: chunk.0, far: what & 8 == 0 },
                    12 | 13 => Body::Collect { bits: detail % 161, from: chunk },
                    _ => Body::Find(Find {
                        key: chunk.0,
                        records: true,
                        far: true,
                        reach: detail % 161,
                        quiet: false,
                    }),
                };
                let bytes = Message { number: 7, body }.emit();
                node.handle_message(at(millis), &from, Some(address), &bytes)
                    .expect("what was written reads");
            }
            _ => {
                let len = usize::from(detail);
                let bytes: Vec<u8> = (0..len).map(|_| input.byte()).collect();
                let _ = node.handle_message(at(millis), &from, Some(address), &bytes);
            }
        }
        node.handle_timeout(at(millis));
        while let Some(effect) = node.poll_effect() {
            match effect {
                Effect::Send { to, bytes, question } => {
                    assert!(bytes.len() <= OVERLAY_MESSAGE_MAX);
                    let message = Message::parse(&bytes).expect("what is sent reads");
                    if question {
                        assert!(asked.len() < 1 << 16);
                        asked.push((to, message.number));
                    } else if let Body::Answer(answer) = message.body {
                        // Of a delegated lookup, the key is not told again; records are of one of eight chunks.
                        let is_signed = |record: &Record| (0..8).any(|n| record.verify(&ChunkId([n; 20])));
                        assert!(answer.records.iter().all(is_signed));
                    }
                }
                Effect::Found { records, .. } => assert!(!records.is_empty()),
                _ => {}
            }
        }
        assert!(node.table().entries().all(|entry| answered.contains(&entry.peer.id) || what % 8 == 7));
        assert!(node.table().buckets().iter().all(|bucket| bucket.entries().len() <= BUCKET_CONTACTS_MAX));
        assert!(
            node.table().entries().all(|entry| entry.peer.contact.endpoints().next().is_some()),
            "who is in the table is somewhere"
        );
        assert!(node.lookups() <= LOOKUPS_MAX && node.peers().len() <= 16);
        assert!(node.records().len() <= 8 * RECORDS_PER_KEY_MAX);
        if what % 8 == 7 {
            // Random bytes may be an answer, though none was ever seen.
            answered.extend(node.table().entries().map(|entry| entry.peer.id));
        }
    }
    for _ in 0..100 {
        millis += 1_000;
        node.handle_timeout(at(millis));
        while node.poll_effect().is_some() {}
        assert!(node.poll_timeout() > Time::from_millis(millis), "time goes on");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn random_scripts_hold(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            super::peer_of_overlay(&bytes);
        }
    }
}

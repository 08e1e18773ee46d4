//! Nodes that mean ill. They speak the protocol, keep their tables and answer probes, so that they are in the tables of
//! others; what they do about questions differs.

use super::World;
use crate::base::ChunkId;
use crate::overlay::place::{Key, distance};
use crate::wire::overlay::{Answer, Body, Contact, Message, Record, Verdict};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Does what the protocol says.
    Honest,
    /// Answers nothing about chunks.
    Silent,
    /// Answers that there is nothing, that others looked in vain, and names nodes that do not exist.
    Liar,
    /// Names its accomplices nearest to the key, and a record that somebody signed for another chunk.
    Steering,
}

impl World {
    /// Whether a hostile node dealt with a message in its own way.
    pub(super) fn deceive(&mut self, node: u32, from: u32, bytes: &[u8]) -> bool {
        let Ok(Message { number, body }) = Message::parse(bytes) else { return false };
        let role = self.nodes[node as usize].role;
        let answer = match body {
            // What concerns nodes is answered well, by most: only who is known can do harm.
            Body::Find(find) if !find.records && role != Role::Steering => return false,
            Body::Find(_) if role == Role::Silent => return true,
            Body::Find(find) => Body::Answer(Answer {
                not_found: if role == Role::Liar { u16::MAX } else { 0 },
                contacts: match role {
                    Role::Liar => (0..8).map(|_| self.nobody()).collect(),
                    _ => self.accomplices(&find.key, 8),
                },
                records: match role {
                    Role::Steering if find.records => self.forged(node, &find.key).into_iter().collect(),
                    _ => Vec::new(),
                },
                ..Answer::default()
            }),
            Body::Announce { .. } => Body::Verdict(Verdict::Kept),
            _ => return false,
        };
        let peer = self.nodes[from as usize].peer;
        self.send(node, &peer, Self::emit(Message { number, body: answer }));
        true
    }

    /// A contact that nobody has.
    fn nobody(&mut self) -> Contact {
        let card = crate::crypto::IdentityCard {
            key: crate::base::PublicKey(self.rng.bytes()),
            place_nonce: 0,
            rank_nonce: 0,
        };
        let ip = std::net::Ipv4Addr::from_bits(0x0100_0000 | (self.rng.next_u64() as u32) >> 2);
        Contact::new(card, [std::net::SocketAddr::from((ip, 4600))])
    }

    fn accomplices(&self, key: &Key, count: usize) -> Vec<Contact> {
        let mut all: Vec<(Key, Contact)> =
            self.hostile.iter().map(|(place, contact)| (distance(key, place), *contact)).collect();
        let count = count.min(all.len());
        if count > 0 {
            all.select_nth_unstable_by_key(count - 1, |(distance, _)| *distance);
        }
        all.truncate(count);
        all.into_iter().map(|(_, contact)| contact).collect()
    }

    /// A record that its node signed for the chunk, which it has not; or, half of the time, for another.
    fn forged(&mut self, node: u32, key: &Key) -> Option<Record> {
        let identity =
            crate::crypto::Identity::new(crate::crypto::kdf::Secret::from_bytes(self.rng.bytes()), 0, 0);
        let contact = Contact::new(*identity.card(), self.nodes[node as usize].peer.contact.addresses());
        let chunk = if self.rng.chance(0.5) { ChunkId(*key) } else { ChunkId(self.rng.bytes()) };
        Some(Record::sign(&identity, &chunk, contact, self.moment().unix_s() + 3600))
    }
}

//! Nodes that mean ill. They speak the protocol, keep their tables and answer probes, so that they are in the tables of
//! others; what they do about questions differs.

use std::net::{Ipv4Addr, SocketAddr};

use super::World;
use crate::base::ChunkId;
use crate::overlay::place::{Key, distance};
use crate::wire::overlay::{Answer, Body, Contact, Keeping, Message, Record, Verdict};

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
    /// Names the honest nodes nearest to the key, at addresses where they are not.
    Misleading,
    /// Answers well, with records of four providers that it made up; and gives such to the keepers of the key.
    Forging,
    /// Names nodes and providers that nobody knows, all at the victim's address.
    Aiming,
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
            Body::Find(find) => Body::Answer(self.lie(node, role, &find.key)),
            Body::Announce(announcement) => {
                let kept = Keeping { verdict: Verdict::Kept, hosts: 0, queries: 0 };
                Body::Verdicts(vec![kept; announcement.count()])
            }
            _ => return false,
        };
        let peer = self.nodes[from as usize].peer;
        self.send(node, &peer, Self::emit(Message { number, body: answer }));
        true
    }

    fn lie(&mut self, node: u32, role: Role, key: &Key) -> Answer {
        let contacts = match role {
            Role::Liar => (0..8).map(|_| self.nobody(None)).collect(),
            Role::Aiming => {
                self.tally.named += 12;
                (0..8).map(|_| self.nobody(self.victim)).collect()
            }
            Role::Misleading => {
                let near = self.honest_near(key, 8);
                near.into_iter().map(|near| self.elsewhere(near)).collect()
            }
            Role::Forging => {
                let near = self.honest_near(key, 8);
                near.into_iter().map(|near| self.nodes[near as usize].peer.contact).collect()
            }
            _ => self.accomplices(key, 8),
        };
        let own = self.nodes[node as usize].peer.contact.addresses().next();
        let records = match role {
            Role::Steering => self.forged(node, key).into_iter().collect(),
            Role::Forging => {
                self.flood(node, key, 2);
                (0..4).map(|_| self.made_up(key, own)).collect()
            }
            Role::Aiming => (0..4).map(|_| self.made_up(key, self.victim)).collect(),
            _ => Vec::new(),
        };
        let not_found = if role == Role::Liar { u16::MAX } else { 0 };
        Answer { not_found, contacts, records, ..Answer::default() }
    }

    /// The honest nodes nearest to a place.
    pub(super) fn honest_near(&self, key: &Key, count: usize) -> Vec<u32> {
        let honest = |node: &&u32| self.nodes[**node as usize].role == Role::Honest;
        let mut all: Vec<(Key, u32)> = self
            .alive
            .iter()
            .filter(honest)
            .map(|node| (distance(key, &self.nodes[*node as usize].peer.id.0), *node))
            .collect();
        let count = count.min(all.len());
        if count > 0 {
            all.select_nth_unstable(count - 1);
        }
        all.truncate(count);
        all.into_iter().map(|(_, node)| node).collect()
    }

    /// A true node, where it is not: in its own network, half of the time, so that caps by claimed sites would hit it.
    fn elsewhere(&mut self, node: u32) -> Contact {
        let contact = self.nodes[node as usize].peer.contact;
        let ip = match contact.addresses().next() {
            Some(SocketAddr::V4(own)) if self.rng.chance(0.5) => {
                let [a, b, c, d] = own.ip().octets();
                Ipv4Addr::new(a, b, c, d.wrapping_add(1 + self.rng.below(250) as u8))
            }
            _ => self.any_address(),
        };
        Contact::new(contact.card, [SocketAddr::from((ip, 4600))])
    }

    /// A contact that nobody has.
    fn nobody(&mut self, at: Option<SocketAddr>) -> Contact {
        let key = crate::base::PublicKey(self.rng.bytes());
        let card = crate::crypto::IdentityCard { key, place_nonce: 0, rank_nonce: 0 };
        let ip = self.any_address();
        Contact::new(card, [at.unwrap_or_else(|| SocketAddr::from((ip, 4600)))])
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
        Some(Record::sign(&identity, &chunk, contact, self.moment(node).unix_s() + 3600))
    }
}

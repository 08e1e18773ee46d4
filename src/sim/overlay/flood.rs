//! Floods of throw-away identities: false records of a key, given to those that keep it.

use std::net::SocketAddr;

use super::World;
use crate::base::ChunkId;
use crate::crypto::Identity;
use crate::crypto::kdf::Secret;
use crate::limits::REGION_NODES;
use crate::overlay::Peer;
use crate::overlay::place::Key;
use crate::wire::overlay::{Announcement, Body, Contact, Message, Record};

impl World {
    /// A provider that nobody knows, and its record.
    pub(super) fn made_up(&mut self, key: &Key, at: Option<SocketAddr>) -> Record {
        let identity = Identity::new(Secret::from_bytes(self.rng.bytes()), 0, 0);
        let expires = self.moment(u32::MAX).unix_s() + 7000;
        Record::sign(&identity, &ChunkId(*key), Contact::new(*identity.card(), at), expires)
    }

    /// A hostile node gives each keeper of a key records of so many identities made for it, over a session of each.
    pub(super) fn flood(&mut self, node: u32, key: &Key, identities: usize) {
        let own = self.nodes[node as usize].peer.contact.addresses().next();
        let records: Vec<Record> = (0..identities).map(|_| self.made_up(key, own)).collect();
        self.announce_all(&records, key);
    }

    /// Everybody who keeps a key is given some records, each by its provider.
    pub(super) fn announce_all(&mut self, records: &[Record], key: &Key) {
        for keeper in self.honest_near(key, REGION_NODES + REGION_NODES / 2) {
            let at = self.moment(keeper);
            for record in records {
                let announcement = Announcement::one(ChunkId(*key), record);
                let bytes = Message { number: 1, body: Body::Announce(announcement) }.emit();
                let provider = Peer::of(record.provider);
                let seen = record.provider.addresses().next();
                self.tally.floods += 1;
                if let Some(core) = &mut self.nodes[keeper as usize].core {
                    let heard = core.handle_message(at, &provider, seen, &bytes);
                    debug_assert_eq!(heard, Ok(()), "a flood is well-formed");
                }
            }
            self.drain(keeper);
        }
    }
}

//! Records that others than their providers brought: told to nobody before the provider has answered at an address of
//! its record, lest whoever spreads records names third parties.

use std::collections::VecDeque;

use super::records::Bringer;
use super::types::Peer;
use crate::base::{ChunkId, NodeId};
use crate::limits::UNPROVEN_RECORDS_MAX;
use crate::wire::overlay::{Contact, Record};

/// Those that wait, oldest first; about 300 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Unproven {
    list: VecDeque<(NodeId, ChunkId, Record, Bringer)>,
}

/// Whether a record names a machine at which its provider is known to be, or none at all. Ports are left out: behind
/// translators they change from peer to peer.
pub fn is_proven(record: &Record, known: &Contact) -> bool {
    let mut told = record.provider.addresses().peekable();
    let is_known = |ip| known.addresses().any(|known| known.ip() == ip);
    told.peek().is_none() || told.any(|address| is_known(address.ip()))
}

impl Unproven {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether something of a provider waits.
    pub fn has(&self, provider: &NodeId) -> bool {
        self.list.iter().any(|(other, ..)| other == provider)
    }

    /// One more; the oldest makes room.
    pub fn add(&mut self, chunk: ChunkId, record: Record, bringer: Bringer) {
        let provider = record.provider.node_id();
        let is_same = |of: &ChunkId, other: &Record| *of == chunk && other.provider == record.provider;
        self.list.retain(|(_, of, other, _)| !is_same(of, other));
        if self.list.len() >= UNPROVEN_RECORDS_MAX {
            self.list.pop_front();
        }
        self.list.push_back((provider, chunk, record, bringer));
    }

    /// A provider answered: those of its records that name where it is.
    pub fn proven(&mut self, peer: &Peer) -> Vec<(ChunkId, Record, Bringer)> {
        let mut out = Vec::new();
        self.list.retain(|(provider, chunk, record, bringer)| {
            let is_its = *provider == peer.id;
            if is_its && is_proven(record, &peer.contact) {
                out.push((*chunk, *record, *bringer));
            }
            !is_its
        });
        out
    }

    /// It did not.
    pub fn failed(&mut self, id: &NodeId) {
        self.list.retain(|(provider, ..)| provider != id);
    }
}

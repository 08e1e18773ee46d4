//! What users of the simulated nodes do: provide chunks, look for them, see what comes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::World;
use super::measure::{Probe, Summary};
use crate::base::{ChunkId, NodeId};
use crate::overlay::{Goal, LookupId, Manner, Outcome, Wanted};
use crate::wire::overlay::Record;

impl World {
    /// A node has a chunk and says so.
    pub fn provide(&mut self, node: u32, chunk: ChunkId) {
        let at = self.moment(node);
        self.holders.entry(chunk).or_default().push(node);
        if let Some(core) = &mut self.nodes[node as usize].core {
            core.provide(at, chunk);
        }
        self.drain(node);
    }

    /// A new chunk at some honest node.
    pub fn provide_any(&mut self) -> ChunkId {
        let chunk = ChunkId(self.rng.bytes());
        let node = self.any_honest();
        self.provide(node, chunk);
        chunk
    }

    /// Whether some living node has it.
    pub fn is_held(&self, chunk: &ChunkId) -> bool {
        let holders = self.holders.get(chunk).map(Vec::as_slice).unwrap_or_default();
        holders.iter().any(|node| self.nodes[*node as usize].core.is_some())
    }

    /// A node looks for a chunk, with all sessions there or with none.
    pub fn look(&mut self, node: u32, chunk: ChunkId, manner: Manner, warm: bool) {
        let at = self.moment(node);
        let wanted = Wanted { key: chunk.0, goal: Goal::Providers(u8::MAX), manner, quiet: false };
        if !warm {
            // Both ends forget.
            let peers = std::mem::take(&mut self.nodes[node as usize].sessions);
            for peer in peers.into_keys() {
                self.nodes[peer as usize].sessions.remove(&node);
            }
        }
        let probe = Probe {
            node,
            id: LookupId(u64::MAX),
            chunk,
            warm,
            begun: self.now,
            found: None,
            hops: 0,
            asked: 0,
            bytes: 0,
            vain: 0,
            done: false,
            numbers: BTreeSet::new(),
        };
        let index = self.probes.len();
        self.probes.push(probe);
        self.nodes[node as usize].probes.push(index);
        let Some(core) = &mut self.nodes[node as usize].core else { return };
        match core.find(at, wanted) {
            Some(id) => self.probes[index].id = id,
            None => self.end(node, index),
        }
        self.drain(node);
    }

    /// Lookups since the last call, summed up: cold, then warm.
    pub fn take_probes(&mut self) -> (Summary, Summary) {
        let done = std::mem::take(&mut self.probes);
        self.nodes.iter_mut().for_each(|node| node.probes.clear());
        (
            Summary::of(done.iter().filter(|probe| !probe.warm)),
            Summary::of(done.iter().filter(|probe| probe.warm)),
        )
    }

    /// All of them together.
    pub fn take_all(&mut self) -> Summary {
        let done = std::mem::take(&mut self.probes);
        self.nodes.iter_mut().for_each(|node| node.probes.clear());
        Summary::of(done.iter())
    }

    /// Questions for records that nodes were asked since the last call, the most first.
    pub fn take_loads(&mut self) -> Vec<(u64, NodeId)> {
        let mut loads: Vec<(u64, NodeId)> =
            self.nodes.iter_mut().map(|node| (std::mem::take(&mut node.asked), node.peer.id)).collect();
        loads.sort_unstable_by(|a, b| b.cmp(a));
        loads
    }

    fn probe_of(&self, node: u32, wanted: impl Fn(&Probe) -> bool) -> Option<usize> {
        self.nodes[node as usize].probes.iter().copied().find(|index| wanted(&self.probes[*index]))
    }

    /// A question of a measured lookup leaves. Whether its session is taken to be there.
    pub(super) fn note_question(&mut self, from: u32, to: u32, bytes: &[u8], mut size: u64) -> bool {
        if bytes.first() != Some(&1) || self.nodes[from as usize].probes.is_empty() {
            return false;
        }
        let (Some(number), Some(key)) = (number_of(bytes), bytes.get(7..27)) else { return false };
        if let Some(index) = self.probe_of(from, |probe| !probe.done && probe.chunk.0 == *key) {
            let probe = &mut self.probes[index];
            if probe.warm {
                // Whatever the world's sessions are, this one was there.
                size = self.links.bytes(bytes.len(), false);
            }
            probe.bytes += size;
            probe.numbers.insert((to, number));
            return probe.warm;
        }
        false
    }

    /// The answer to one comes in.
    pub(super) fn note_answer(&mut self, node: u32, from: u32, bytes: &[u8]) {
        if bytes.first() != Some(&5) || self.nodes[node as usize].probes.is_empty() {
            return;
        }
        let Some(number) = number_of(bytes) else { return };
        if let Some(index) = self.probe_of(node, |probe| probe.numbers.contains(&(from, number))) {
            self.probes[index].bytes += self.links.bytes(bytes.len(), true);
        }
    }

    pub(super) fn note_found(&mut self, node: u32, id: LookupId, records: &[Record]) {
        let Some(index) = self.probe_of(node, |probe| probe.id == id || probe.id.0 == u64::MAX) else {
            return;
        };
        let chunk = self.probes[index].chunk;
        for record in records {
            self.try_provider(node, index, id, chunk, record);
        }
    }

    /// The user goes where a record says that the chunk is.
    fn try_provider(&mut self, node: u32, index: usize, id: LookupId, chunk: ChunkId, record: &Record) {
        let at = self.moment(node);
        let tried: Vec<SocketAddr> = record.provider.addresses().collect();
        let provider = self.by_id.get(&record.provider.node_id()).copied();
        let there = provider.map(|provider| self.nodes[provider as usize].peer);
        let seen = there.and_then(|peer| peer.contact.addresses().next()).filter(|seen| tried.contains(seen));
        let holders = self.holders.get(&chunk).map(Vec::as_slice).unwrap_or_default();
        let has_it = seen.is_some() && provider.is_some_and(|provider| holders.contains(&provider));
        if seen.is_none() {
            self.note_aimed(tried.iter().copied());
        }
        let (core, probe) = (&mut self.nodes[node as usize].core, &mut self.probes[index]);
        let Some(core) = core else { return };
        match there.filter(|_| seen.is_some()) {
            Some(peer) => {
                core.handle_up(at, &peer, seen);
                core.handle_down(&peer.id);
            }
            None => core.handle_failed(at, &record.provider.node_id(), &tried),
        }
        if has_it && probe.found.is_none() {
            probe.found = Some(self.now.since(probe.begun));
            // Its provider has been reached and its content verified: that is how a user knows.
            core.stop(at, id);
        } else if !has_it && probe.found.is_none() {
            probe.vain += 1;
        }
    }

    pub(super) fn note_done(&mut self, node: u32, id: LookupId, outcome: &Outcome) {
        let Some(index) = self.probe_of(node, |probe| probe.id == id || probe.id.0 == u64::MAX) else {
            return;
        };
        self.probes[index].hops = outcome.hops;
        self.probes[index].asked = outcome.asked;
        self.end(node, index);
    }

    fn end(&mut self, node: u32, index: usize) {
        self.probes[index].done = true;
        self.probes[index].numbers.clear();
        self.nodes[node as usize].probes.retain(|other| *other != index);
    }
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    bytes.get(1..5).map(|number| u32::from_le_bytes(number.try_into().expect("four bytes")))
}

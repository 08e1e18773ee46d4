//! What goes wrong in a run, and how it is mended.

use std::net::SocketAddr;
use std::time::Duration;

use super::plan::Fault;
use super::{Action, World};
use crate::sim::net::Net;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.net.note(None, &format!("fault: {fault:?}"));
        let undo = fault.clone();
        let lasts = match fault {
            Fault::Part(side, lasts) => {
                let others: Vec<_> = (0..self.net.nodes.len()).filter(|node| !side.contains(node)).collect();
                self.net.part(&side, &others);
                lasts
            }
            Fault::Cut(from, to, lasts) => {
                self.net.cut(from, to);
                lasts
            }
            Fault::Rebind(node) => return self.net.rebind(node),
            Fault::Crash(node, how, lasts) => return self.end(node, lasts, |net| net.crash(node, how)),
            Fault::Stop(node, lasts) => return self.end(node, lasts, |net| net.stop(node)),
            Fault::Crossings(lasts) => {
                self.net.lose_crossings = 0.1;
                lasts
            }
            Fault::Full(node, room, lasts) => {
                let sim = &mut self.net.nodes[node];
                (sim.files.disk.room, sim.world.store.room) = (Some(room), Some(room));
                lasts
            }
            Fault::Limit(node, limit, lasts) => {
                self.net.nodes[node].world.store.limit = Some(limit);
                lasts
            }
            Fault::Rot(node, chunk, byte) => {
                let store = &mut self.net.nodes[node].world.store;
                let ids = store.ids();
                if let Some(id) = ids.get((chunk % ids.len().max(1) as u64) as usize) {
                    store.rot(id, (byte >> 1) as usize);
                }
                return;
            }
            Fault::Lie(node, byte) => {
                let store = &mut self.net.nodes[node].world.store;
                let ids = store.ids();
                // Who has nothing yet may still come to have something: then it does not lie.
                self.liars[node] |= !ids.is_empty();
                ids.iter().for_each(|id| store.damage(id, (byte >> 1) as usize));
                return;
            }
            Fault::Unreadable(node, reads) => {
                self.net.nodes[node].world.store.failing_reads = reads;
                return;
            }
            Fault::Skew(node, skew_ms, lasts) => {
                self.net.set_clock(node, skew_ms);
                lasts
            }
            Fault::Hostile(node, count) => return self.hostile(node, count),
        };
        self.later(lasts, Action::Undo(undo));
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Part(side, _) => {
                let others: Vec<_> = (0..self.net.nodes.len()).filter(|node| !side.contains(node)).collect();
                for &a in &side {
                    for &b in &others {
                        self.net.heal(a, b);
                        self.net.heal(b, a);
                    }
                }
            }
            Fault::Cut(from, to, _) => self.net.heal(from, to),
            Fault::Crossings(_) => self.net.lose_crossings = 0.0,
            Fault::Full(node, ..) => {
                let sim = &mut self.net.nodes[node];
                (sim.files.disk.room, sim.world.store.room) = (None, None);
            }
            Fault::Limit(node, ..) => self.net.nodes[node].world.store.limit = None,
            Fault::Skew(node, ..) => self.net.set_clock(node, 0),
            _ => {}
        }
    }

    /// A node ends, one way or another, and is started again after a time, with what its user had asked for.
    fn end(&mut self, node: usize, lasts: Duration, how: impl FnOnce(&mut Net)) {
        if !self.net.nodes[node].is_up() {
            return;
        }
        self.count_skewed(node);
        how(&mut self.net);
        for (number, put) in self.puts.iter_mut().enumerate() {
            if self.plan.puts[number].node == node && put.import.take().is_some() {
                self.next += 1;
                self.todo.insert(self.next, Action::Put(number));
                self.net.call_at(self.net.now + lasts, None, self.next);
            }
        }
        for (number, get) in self.gets.iter_mut().enumerate() {
            if self.plan.gets[number].node == node && get.job.take().is_some() {
                get.ends += 1;
                self.next += 1;
                self.todo.insert(self.next, Action::Get(number));
                self.net.call_at(self.net.now + lasts, None, self.next);
            }
        }
        self.lures_crashed(node, lasts);
        self.check(node);
        self.later(lasts, Action::Start(node));
    }

    pub(super) fn start(&mut self, node: usize) {
        if !self.net.nodes[node].is_up() {
            self.net.start(node);
        }
    }

    /// Random bytes of all lengths, from addresses that are nobody's.
    fn hostile(&mut self, node: usize, count: u64) {
        for _ in 0..count {
            let mut datagram = vec![0; self.rng.below(1473) as usize];
            self.rng.fill(&mut datagram);
            let from = SocketAddr::from(([198, 51, 100, self.rng.below(256) as u8], 1 + node as u16));
            self.net.inject(node, from, &datagram);
        }
    }

    /// Everything works again but what is damaged for good: chunks on disks, and liars.
    pub(super) fn heal(&mut self) {
        self.net.note(None, "everything heals");
        self.healed = Some(self.net.now);
        self.net.heal_all();
        self.net.lose_crossings = 0.0;
        for node in 0..self.net.nodes.len() {
            let sim = &mut self.net.nodes[node];
            (sim.files.disk.room, sim.world.store.room, sim.world.store.limit) = (None, None, None);
            sim.world.store.failing_reads = 0;
            self.net.set_clock(node, 0);
            self.start(node);
        }
        self.mend();
    }

    /// Most of those whose daemon told them of damage put the same content again, as it advised.
    fn mend(&mut self) {
        for number in 0..self.puts.len() {
            let store = &self.net.nodes[self.plan.puts[number].node].world.store;
            let is_marked = |id| store.is_marked(id);
            let done = self.puts[number].done.as_ref();
            if done.is_some_and(|done| done.chunks.iter().any(is_marked)) && self.rng.chance(0.8) {
                self.puts[number].done = None;
                self.soon(1000, Action::Put(number));
            }
        }
    }
}

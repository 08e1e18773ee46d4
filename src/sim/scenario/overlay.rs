//! The overlay in random runs: where it is asked for everybody takes part, and then a path leads from everybody who has
//! something to everybody who wants it, friends or not.

use super::World;
use crate::base::ChunkId;
use crate::limits::PROVIDE_BATCH;
use crate::node::Command;
use crate::node::command::OverlayRules;

/// What a node may keep for others, bytes.
const KEPT_MAX: u64 = 1 << 24;

/// Nodes by whom everybody may enter.
const ENTRIES: usize = 2;

impl World {
    /// All nodes enter the network, if there is one: by their friends, and by
    /// those that their operators were told of, which anybody reaches.
    pub(super) fn join(&mut self) {
        if !self.plan.overlay {
            return;
        }
        let open = (0..self.net.nodes.len()).filter(|node| self.plan.nats[*node].is_none());
        let entries: Vec<usize> = open.take(ENTRIES).collect();
        for node in 0..self.net.nodes.len() {
            let entry = |&entry: &usize| (self.net.card(entry), vec![self.net.nodes[entry].address()]);
            let rules = OverlayRules {
                enabled: true,
                network: "sim".into(),
                addresses: vec![self.net.nodes[node].address()],
                bootstrap: entries.iter().filter(|entry| **entry != node).map(entry).collect(),
                far: node % 3 == 0,
                serve_strangers: true,
                keep: Some(KEPT_MAX),
            };
            self.net.command(node, Command::Overlay(Box::new(rules)));
        }
    }

    /// What was put is provided, as the control thread says when it finds it in the store.
    pub(super) fn provide(&mut self, node: usize, chunks: &[ChunkId]) {
        if self.plan.overlay {
            for batch in chunks.chunks(PROVIDE_BATCH) {
                self.net.command(node, Command::Provide(batch.to_vec()));
            }
        }
    }

    /// Who may be asked by a node: its friends, and in the overlay everybody.
    pub(super) fn asked(&self, node: usize) -> Vec<usize> {
        match self.plan.overlay {
            true => (0..self.net.nodes.len()).filter(|other| *other != node).collect(),
            false => self.plan.friends[node].clone(),
        }
    }
}

//! One budget for several shards: whoever has something to send says so, and once per millisecond the owner of the budget
//! hands out what the node's rate gave, top down by class. What is handed out is tokens, not rates: whatever moves when,
//! the shards together never send more than the node's rate and its burst. What a shard does not need it gives back.
//!
//! ```text
//! shard i:  Shaper (leased) ── demand(i, …) ─▶ Exchange ── tokens for i, by class ─▶ Shaper::lease
//! ```
//!
//! Control is handed out first, up to its share; then what reservations and floors used and want; the rest goes to the
//! rings by the weights of those who wait there, in whole trains where the rate is high, in packets where it is low.

use super::bucket::Bucket;
use super::peer::RINGS;
use super::types::Class;
use crate::base::Time;
pub use crate::base::budget::{Demand, Tokens};
use crate::limits::{
    CONTROL_SHARE_MILLI_MAX, CONTROL_WIRE_MIN, EXCHANGE_US, SHAPE_QUANTUM_US, SHARDS_MAX,
    URGENT_SHARE_MILLI_MAX, WIRE_PACKET_MAX, WIRE_TRAIN_MAX,
};

#[derive(Debug, Clone, Copy, Default)]
struct Client {
    demand: Demand,
    /// What each ring is owed and was too little to hand out, bytes; below zero after a whole train.
    credit: [i64; RINGS.len()],
    /// Bytes that it was given since it said last what it wants.
    unheard: u64,
}

/// The owner of a node's budget.
#[derive(Debug)]
pub struct Exchange {
    node: Bucket,
    control: Bucket,
    urgent: Bucket,
    clients: Vec<Client>,
    /// What is handed out at once, bytes.
    chunk: u64,
    next: Time,
    /// Whose turn it is to be first.
    turn: usize,
}

impl Exchange {
    /// For so many shards. The rate is bits per second, the burst bytes.
    pub fn new(now: Time, shards: u8, rate: u64, burst: Option<u64>) -> Self {
        let mut exchange = Self {
            node: Bucket::UNLIMITED,
            control: Bucket::UNLIMITED,
            urgent: Bucket::UNLIMITED,
            clients: vec![Client::default(); usize::from(shards.clamp(1, SHARDS_MAX))],
            chunk: 0,
            next: now,
            turn: 0,
        };
        exchange.set(now, rate, burst);
        exchange
    }

    /// Changes the rate at once; tokens that are out stay good.
    pub fn set(&mut self, now: Time, rate: u64, burst: Option<u64>) {
        let part = |milli: u64| Some((u128::from(rate) * u128::from(milli) / 1000) as u64);
        self.node.change_node(now, Some(rate), burst);
        self.control.change(now, part(CONTROL_SHARE_MILLI_MAX), None, SHAPE_QUANTUM_US);
        self.urgent.change(now, part(URGENT_SHARE_MILLI_MAX), None, SHAPE_QUANTUM_US);
        let given = (u128::from(rate) * u128::from(EXCHANGE_US) / 16_000_000) as u64;
        self.chunk = given.clamp(WIRE_PACKET_MAX, WIRE_TRAIN_MAX);
    }

    /// What a shard wants from now on, in the place of what it wanted before.
    pub fn demand(&mut self, now: Time, shard: u8, demand: Demand) {
        let Some(client) = self.clients.get_mut(usize::from(shard)) else { return };
        self.node.fill(now);
        self.node.give_back(demand.returned);
        client.demand = Demand { returned: 0, ..demand };
        client.unheard = 0;
        for (credit, weight) in client.credit.iter_mut().zip(demand.weights) {
            if weight == 0 {
                *credit = (*credit).min(0);
            }
        }
    }

    /// When [`Self::grant`] should be called; `None` while nobody wants anything.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.clients.iter().all(|client| client.demand.is_nothing()) {
            return None;
        }
        Some(self.next.max(self.node.holds_at(WIRE_PACKET_MAX)?))
    }

    /// Hands out what there is, if it is time: `give` hears of each shard that gets something.
    pub fn grant(&mut self, now: Time, mut give: impl FnMut(u8, Tokens)) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        self.next = Time(now.0 + EXCHANGE_US * 1000);
        self.node.fill(now);
        self.control.fill(now);
        self.urgent.fill(now);
        let count = self.clients.len();
        let mut tokens = vec![Tokens::default(); count];
        let first = self.turn;
        let order = (0..count).map(|step| (first + step) % count);
        self.turn = (first + 1) % count;
        for shard in order.clone() {
            let want = self.clients[shard].demand.control.min(self.control.available());
            let given = want.min(self.node.available());
            if given >= CONTROL_WIRE_MIN {
                self.control.take(now, given);
                self.give(now, &mut tokens[shard], Class::Control, given);
                self.clients[shard].demand.control -= given;
            }
        }
        let urgent: u64 = self.clients.iter().map(|client| client.demand.urgent).sum();
        let room = urgent.min(self.urgent.available()).min(self.node.available());
        for shard in order.clone() {
            let want = self.clients[shard].demand.urgent;
            let part =
                (u128::from(room) * u128::from(want)).checked_div(u128::from(urgent)).unwrap_or(0) as u64;
            let given = part.max(WIRE_PACKET_MAX).min(want).min(self.node.available());
            if given >= WIRE_PACKET_MAX {
                self.urgent.take(now, given);
                self.give(now, &mut tokens[shard], Class::Realtime, given);
                self.clients[shard].demand.urgent -= given;
            }
        }
        for client in self.clients.iter_mut().filter(|client| client.unheard >= self.node.burst()) {
            // It does not say what it does with them: it may stand still, and would send them all when it goes on.
            client.demand.weights = Default::default();
        }
        self.share(now, &mut tokens, order);
        for Client { demand, .. } in &mut self.clients {
            // Less than can be handed out is not worth another round.
            demand.control = if demand.control < CONTROL_WIRE_MIN { 0 } else { demand.control };
            demand.urgent = if demand.urgent < WIRE_PACKET_MAX { 0 } else { demand.urgent };
        }
        for (shard, tokens) in tokens.into_iter().enumerate() {
            if tokens.iter().any(|bytes| *bytes > 0) {
                self.clients[shard].unheard += tokens.iter().sum::<u64>();
                give(shard as u8, tokens);
            }
        }
    }

    /// What is left, to the rings of all shards by weight.
    fn share(&mut self, now: Time, tokens: &mut [Tokens], order: impl Iterator<Item = usize> + Clone) {
        let total = |ring: usize, clients: &[Client]| -> u64 {
            clients.iter().map(|client| u64::from(client.demand.weights[ring])).sum()
        };
        let parts: Vec<(usize, i64, u64)> = (0..RINGS.len())
            .map(|ring| (ring, RINGS[ring].1, total(ring, &self.clients)))
            .filter(|(.., weights)| *weights > 0)
            .collect();
        let sum: i64 = parts.iter().map(|(_, part, _)| part).sum();
        if sum == 0 || self.node.available() < WIRE_PACKET_MAX {
            return;
        }
        // What somebody is owed already lies in the bucket for him.
        let owed: i64 =
            self.clients.iter().flat_map(|client| client.credit).filter(|credit| *credit > 0).sum();
        let fresh = self.node.available().saturating_sub(owed.max(0) as u64);
        for (ring, part, weights) in &parts {
            for client in &mut self.clients {
                let own = i128::from(client.demand.weights[*ring]) * i128::from(*part);
                let due = i128::from(fresh) * own / (i128::from(*weights) * i128::from(sum));
                client.credit[*ring] += due as i64;
            }
        }
        let mut handed = false;
        for (ring, ..) in &parts {
            let class = RINGS[*ring].0;
            for shard in order.clone() {
                let owed = self.clients[shard].credit[*ring];
                let given = (owed.max(0) as u64).min(self.node.available());
                if given >= self.chunk {
                    self.clients[shard].credit[*ring] -= given as i64;
                    self.give(now, &mut tokens[shard], class, given);
                    handed = true;
                }
            }
        }
        if !handed {
            // Nobody is owed a whole chunk: whoever is owed most gets one ahead.
            let best = parts
                .iter()
                .flat_map(|(ring, ..)| order.clone().map(move |shard| (shard, *ring)))
                .filter(|(shard, ring)| self.clients[*shard].demand.weights[*ring] > 0)
                .max_by_key(|(shard, ring)| self.clients[*shard].credit[*ring]);
            let given = self.chunk.min(self.node.available());
            if let Some((shard, ring)) = best
                && given >= WIRE_PACKET_MAX
            {
                self.clients[shard].credit[ring] -= given as i64;
                self.give(now, &mut tokens[shard], RINGS[ring].0, given);
            }
        }
    }

    fn give(&mut self, now: Time, tokens: &mut Tokens, class: Class, bytes: u64) {
        self.node.take(now, bytes);
        tokens[class as usize] += bytes;
    }
}

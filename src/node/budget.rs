//! The node's rates across its shards: one of them owns the budget, all say what they want of it once per millisecond, and
//! send on the tokens that they get (docs/shaping.md §5). A node of one shard needs none of this.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Time;
use crate::base::budget::{Demand, Tokens};
use crate::limits::{EXCHANGE_US, SHARDS_MAX, SLICE_SIZE};
use crate::session::Cross;
use crate::shape::{Class, Exchange, Shaper};

/// The shard that owns the budget.
pub(super) const OWNER: u8 = 0;
const ROUND: Duration = Duration::from_micros(EXCHANGE_US);

/// One shard's part in it.
pub(super) struct Budget {
    shard: u8,
    shards: u8,
    /// The rates that are shared.
    up: Option<u64>,
    down: Option<u64>,
    /// The owner's.
    up_exchange: Option<Exchange>,
    down_exchange: Option<Exchange>,
    /// Bytes that may be asked for; below zero for answers on their way.
    down_tokens: i64,
    /// Something is wanted of others, and waits for tokens.
    down_wanted: bool,
    /// When this shard says again what it wants.
    next: Time,
    /// Whether it said last that it wants something.
    asked: bool,
    messages: VecDeque<(u8, Cross)>,
}

impl Budget {
    pub(super) fn new(shard: (u8, u8), now: Time) -> Self {
        Self {
            shard: shard.0,
            shards: shard.1.clamp(1, SHARDS_MAX),
            up: None,
            down: None,
            up_exchange: None,
            down_exchange: None,
            down_tokens: 0,
            down_wanted: false,
            next: now,
            asked: false,
            messages: VecDeque::new(),
        }
    }

    /// Leaves something for another shard.
    pub(super) fn tell(&mut self, shard: u8, cross: Cross) {
        self.messages.push_back((shard, cross));
    }

    /// Which shard this is.
    pub(super) fn shard(&self) -> u8 {
        self.shard
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u8 {
        self.shards
    }

    /// Whether what is asked for is shared with other shards.
    pub(super) fn shares_down(&self) -> bool {
        self.down.is_some() && self.shards > 1
    }

    /// Other rates hold.
    pub(super) fn set(
        &mut self,
        now: Time,
        shaper: &mut Shaper,
        up: Option<u64>,
        down: Option<u64>,
        burst: Option<u64>,
    ) {
        if self.shards == 1 {
            shaper.set_node(now, up, burst);
            return;
        }
        (self.up, self.down) = (up, down);
        shaper.set_leased(now, up);
        if self.shard == OWNER {
            let shards = self.shards;
            set_exchange(&mut self.up_exchange, now, shards, up, burst);
            set_exchange(&mut self.down_exchange, now, shards, down, None);
        }
        self.next = now;
    }

    /// As [`Self::set`], of what may be sent alone.
    pub(super) fn set_up(&mut self, now: Time, shaper: &mut Shaper, up: Option<u64>, burst: Option<u64>) {
        self.set(now, shaper, up, self.down, burst);
    }

    /// Whether something may be asked of others.
    pub(super) fn may_ask(&mut self) -> bool {
        self.down_wanted = self.down_tokens <= 0;
        !self.down_wanted
    }

    /// Bytes were asked for, or came unasked.
    pub(super) fn asked(&mut self, bytes: u64) {
        self.down_tokens = self.down_tokens.saturating_sub(bytes as i64);
    }

    /// Another shard says what it wants.
    pub(super) fn heard(&mut self, now: Time, from: u8, up: Demand, down: Demand) {
        if let Some(exchange) = &mut self.up_exchange {
            exchange.demand(now, from, up);
        }
        if let Some(exchange) = &mut self.down_exchange {
            exchange.demand(now, from, down);
        }
    }

    /// The owner gave something.
    pub(super) fn got(&mut self, shaper: &mut Shaper, up: Tokens, down: Tokens) {
        shaper.lease(up);
        self.down_tokens = self.down_tokens.saturating_add(down.iter().sum::<u64>() as i64);
    }

    /// What other shards are to hear.
    pub(super) fn poll_message(&mut self) -> Option<(u8, Cross)> {
        self.messages.pop_front()
    }

    pub(super) fn poll_timeout(&self, shaper: &Shaper) -> Option<Time> {
        if self.up.is_none() && self.down.is_none() {
            return None;
        }
        let own = (self.asked || self.down_wanted || self.down_tokens < 0 || shaper.wants_tokens())
            .then_some(self.next);
        let owner = [&self.up_exchange, &self.down_exchange];
        let owner = owner.into_iter().flatten().filter_map(Exchange::poll_timeout);
        owner.chain(own).min()
    }

    /// Says what is wanted, and hands out what there is.
    pub(super) fn handle_timeout(&mut self, now: Time, shaper: &mut Shaper) {
        if self.poll_timeout(shaper).is_none_or(|at| at > now) {
            return;
        }
        if self.next <= now {
            self.next = now + ROUND;
            let (up, down) = (shaper.demand(), self.down_demand());
            let wants = !up.is_nothing() || !down.is_nothing();
            let news = wants || self.asked || up.returned + down.returned > 0;
            self.asked = wants;
            match self.shard {
                OWNER => self.heard(now, OWNER, up, down),
                _ if news => self.messages.push_back((OWNER, Cross::Demand { up, down })),
                _ => {}
            }
        }
        let mut tokens = [(Tokens::default(), Tokens::default()); SHARDS_MAX as usize];
        if let Some(exchange) = &mut self.up_exchange {
            exchange.grant(now, |shard, new| tokens[usize::from(shard)].0 = new);
        }
        if let Some(exchange) = &mut self.down_exchange {
            exchange.grant(now, |shard, new| tokens[usize::from(shard)].1 = new);
        }
        for (shard, (up, down)) in tokens.into_iter().enumerate().take(usize::from(self.shards)) {
            if up == Tokens::default() && down == Tokens::default() {
                continue;
            }
            match shard as u8 {
                own if own == self.shard => self.got(shaper, up, down),
                other => self.messages.push_back((other, Cross::Tokens { up, down })),
            }
        }
    }

    fn down_demand(&mut self) -> Demand {
        let mut demand = Demand::default();
        // Answers on their way are a debt, which is paid before more is asked for.
        if self.down_wanted || self.down_tokens < 0 {
            demand.weights[Class::Market as usize - Class::Friend as usize] = 1;
        } else if self.down_tokens > SLICE_SIZE as i64 {
            demand.returned = (self.down_tokens - SLICE_SIZE as i64) as u64;
            self.down_tokens = SLICE_SIZE as i64;
        }
        self.down_wanted = false;
        demand
    }
}

fn set_exchange(
    exchange: &mut Option<Exchange>,
    now: Time,
    shards: u8,
    rate: Option<u64>,
    burst: Option<u64>,
) {
    match (rate, exchange.as_mut()) {
        (None, _) => *exchange = None,
        (Some(rate), None) => *exchange = Some(Exchange::new(now, shards, rate, burst)),
        (Some(rate), Some(exchange)) => exchange.set(now, rate, burst),
    }
}

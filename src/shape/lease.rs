//! A shaper whose node's rate is another shard's to hand out: it sends on tokens that it was given by class, says what it
//! wants, and gives back what nobody waits for.

use super::exchange::{Demand, Tokens};
use super::peer::RINGS;
use super::shaper::Shaper;
use super::types::{CLASSES, Class, Grant};
use crate::base::Time;
use crate::limits::{
    CONTROL_WIRE_MIN, LEASE_CONTROL_KEPT, SHAPE_NODE_QUANTUM_US, WIRE_PACKET_MAX, WIRE_TRAIN_MAX,
};

/// Tokens, bytes by class.
#[derive(Debug, Clone, Default)]
pub(super) struct Lease {
    /// Below zero for handshakes that left without.
    tokens: [i64; CLASSES],
    /// Spent since the last demand: what is wanted next is guessed from it.
    spent: [u64; CLASSES],
    /// Which of them the grant that is out is on.
    paid_by: usize,
}

impl Lease {
    pub(super) fn spend(&mut self, bytes: u64) {
        self.tokens[self.paid_by] -= bytes as i64;
        self.spent[self.paid_by] += bytes;
    }

    pub(super) fn spend_on(&mut self, class: Class, bytes: u64) {
        self.paid_by = class as usize;
        self.spend(bytes);
    }

    pub(super) fn holds(&self, class: Class, bytes: u64) -> bool {
        self.tokens[class as usize] >= bytes as i64
    }

    fn of(&self, class: Class) -> u64 {
        self.tokens[class as usize].max(0) as u64
    }
}

impl Shaper {
    /// From now on the node's rate is handed out by an [`super::Exchange`]; `rate` says how long a peer's turn is. Or it is
    /// no longer.
    pub fn set_leased(&mut self, now: Time, rate: Option<u64>) {
        self.set_node(now, None, None);
        match rate {
            Some(rate) => {
                let given = rate / 8 * SHAPE_NODE_QUANTUM_US / 1_000_000;
                self.quantum = given.clamp(WIRE_PACKET_MAX, WIRE_TRAIN_MAX) as i64;
                self.lease.get_or_insert_default();
            }
            None => self.lease = None,
        }
    }

    /// Takes tokens.
    pub fn lease(&mut self, tokens: Tokens) {
        if let Some(lease) = &mut self.lease {
            lease.tokens.iter_mut().zip(tokens).for_each(|(own, new)| *own += new as i64);
        }
    }

    /// Whether an exchange of tokens would change anything.
    pub fn wants_tokens(&self) -> bool {
        let Some(lease) = &self.lease else { return false };
        let kept =
            |class: usize| if class == Class::Control as usize { LEASE_CONTROL_KEPT as i64 } else { 0 };
        self.is_anybody_served() || lease.tokens.iter().enumerate().any(|(class, own)| *own > kept(class))
    }

    /// What is wanted until the next time, and what is given back.
    pub fn demand(&mut self) -> Demand {
        let urgent = !self.calendar.is_empty() || !self.floors.is_empty();
        let control = !self.control.is_empty();
        let weights = self.ring_weights;
        let Some(lease) = &mut self.lease else { return Demand::default() };
        let spent = std::mem::take(&mut lease.spent);
        // Twice what was spent, so that what grows is followed; a little more, so that it begins.
        let want = |class: Class, more: u64| {
            let wanted = (2 * spent[class as usize] + more) as i64 - lease.tokens[class as usize];
            wanted.max(0) as u64
        };
        let mut demand = Demand { weights, ..Demand::default() };
        demand.control = want(Class::Control, LEASE_CONTROL_KEPT);
        if demand.control < CONTROL_WIRE_MIN {
            // Too little to be handed out: what is kept is enough.
            demand.control = 0;
        }
        if urgent {
            demand.urgent = want(Class::Realtime, 4 * WIRE_PACKET_MAX);
        }
        let waits = |class: Class| match class {
            Class::Control => control,
            Class::Realtime => urgent,
            _ => RINGS.iter().zip(weights).any(|((ring, _), weight)| *ring == class && weight > 0),
        };
        for class in Class::ALL {
            let kept = if class == Class::Control { LEASE_CONTROL_KEPT as i64 } else { 0 };
            let own = &mut lease.tokens[class as usize];
            if !waits(class) && *own > kept {
                demand.returned += (*own - kept) as u64;
                *own = kept;
            }
        }
        demand
    }

    /// As [`Shaper::next`], on tokens.
    pub(super) fn next_leased(&mut self, now: Time) -> Option<Grant> {
        let lease = self.lease.as_ref()?;
        let of = |class: Class| lease.of(class);
        if !self.control.is_empty() && of(Class::Control) >= CONTROL_WIRE_MIN {
            let allowed = of(Class::Control);
            return Some(self.pay(Class::Control, |shaper| shaper.next_control(now, allowed)));
        }
        let owed = of(Class::Realtime);
        let urgent = !self.calendar.is_empty() || !self.floors.is_empty();
        if urgent && owed >= WIRE_PACKET_MAX {
            return Some(self.pay(Class::Realtime, |shaper| shaper.next_urgent(now, owed)));
        }
        let turn = self.turn;
        for step in 0..RINGS.len() {
            let ring = (turn + step) % RINGS.len();
            let class = RINGS[ring].0;
            if self.rings[ring].is_empty() {
                continue;
            }
            let own = of(class);
            if own >= WIRE_PACKET_MAX {
                return Some(self.pay(class, |shaper| shaper.next_share(ring, own)));
            }
            // What was meant for those who are owed, and is not wanted, flows down at once.
            if !urgent && owed >= WIRE_PACKET_MAX {
                return Some(self.pay(Class::Realtime, |shaper| shaper.next_share(ring, owed)));
            }
        }
        None
    }

    fn pay(&mut self, class: Class, grant: impl FnOnce(&mut Self) -> Grant) -> Grant {
        if let Some(lease) = &mut self.lease {
            lease.paid_by = class as usize;
        }
        grant(self)
    }
}

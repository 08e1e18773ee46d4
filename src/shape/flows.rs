//! The flows within the queues of peers, and whose turn it is (RFC 8290): deficit round robin, who has not been there lately
//! first, a CoDel for each.
//!
//! A flow that has nothing to send is remembered while there is room: CoDel goes on where it was when the flow is back soon.

use super::codel::Codel;
use super::links::{Links, NONE, Ring};
use crate::limits::WIRE_PACKET_MAX;

/// Bytes that a flow sends per turn: a packet, so that nobody waits for more than one of each other.
const QUANTUM: i32 = WIRE_PACKET_MAX as i32;
/// Flows of one peer stand in rings by the octave of their bytes, the first 64 in one.
const OCTAVES: usize = 16;
const OCTAVE_SHIFT: u32 = 6;
const CHAINS_MIN: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to send.
    Idle,
    /// It began just now, and goes first, for a quantum.
    Fresh,
    /// It takes turns.
    Old,
}

/// Packets of one peer that shall keep their order, and wait for one another.
#[derive(Debug)]
pub(super) struct Flow {
    pub peer: u32,
    tag: u32,
    /// The next one in the chain of its hash.
    chain: u32,
    /// Its packets, in the pool.
    pub head: u32,
    pub tail: u32,
    pub bytes: u32,
    pub packets: u16,
    octave: u8,
    state: State,
    /// What it may send yet in this turn, bytes.
    pub deficit: i32,
    /// From which turn of its peer on it may be fresh again.
    again: u64,
    /// Of which life of its peer's queue it is.
    life: u32,
    pub codel: Codel,
}

/// One peer's flows that have something to send.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    fresh: Ring,
    old: Ring,
    fat: [Ring; OCTAVES],
    used: u16,
    /// How many have something, and how many of them are old.
    pub active: u16,
    olds: u16,
    life: u32,
    /// Turns that old flows had.
    turns: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            fresh: Ring::EMPTY,
            old: Ring::EMPTY,
            fat: [Ring::EMPTY; OCTAVES],
            used: 0,
            active: 0,
            olds: 0,
            life: 0,
            turns: 0,
        }
    }
}

impl Turns {
    /// The flow with the most bytes, within a factor of two.
    pub fn fattest(&self) -> Option<u32> {
        let octave = (u16::BITS - 1).checked_sub(self.used.leading_zeros())?;
        Some(self.fat[octave as usize].first())
    }

    /// The peer is another: nothing of what is remembered is its.
    pub fn begin(&mut self) {
        debug_assert!(self.active == 0, "its queue is empty");
        self.life = self.life.wrapping_add(1);
    }
}

/// All flows of a shard.
#[derive(Debug)]
pub(super) struct Flows {
    list: Vec<Flow>,
    /// The first flow of each hash; a power of two of them.
    chains: Vec<u32>,
    /// Those without packets, who was last there last.
    idle: Ring,
    turns: Links,
    fat: Links,
    bound: usize,
}

impl Flows {
    pub fn new(bound: usize) -> Self {
        Self {
            list: Vec::new(),
            chains: vec![NONE; CHAINS_MIN],
            idle: Ring::EMPTY,
            turns: Links::default(),
            fat: Links::default(),
            bound,
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn get(&self, flow: u32) -> &Flow {
        &self.list[flow as usize]
    }

    pub fn get_mut(&mut self, flow: u32) -> &mut Flow {
        &mut self.list[flow as usize]
    }

    /// Tags are random, so that any mixing will do.
    fn chain(&self, peer: u32, tag: u32) -> usize {
        (tag ^ peer.wrapping_mul(0x9e37_79b1)) as usize & (self.chains.len() - 1)
    }

    /// The flow of a peer with this tag, which has a packet from now on. There are never more with packets than the
    /// bound, of which the caller takes care.
    pub fn enter(&mut self, turns: &mut Turns, peer: u32, tag: u32) -> u32 {
        let mut flow = self.chains[self.chain(peer, tag)];
        while flow != NONE {
            let own = &self.list[flow as usize];
            if (own.peer, own.tag) == (peer, tag) {
                break;
            }
            flow = own.chain;
        }
        if flow == NONE {
            flow = self.create(peer, tag, turns.life);
        }
        let own = &mut self.list[flow as usize];
        if own.state != State::Idle {
            return flow;
        }
        if self.turns.linked(flow) {
            self.turns.remove(&mut self.idle, flow);
        }
        if own.life != turns.life {
            (own.life, own.again, own.codel) = (turns.life, 0, Codel::default());
        }
        turns.active += 1;
        if turns.turns >= own.again {
            (own.state, own.deficit) = (State::Fresh, QUANTUM);
            self.turns.push(&mut turns.fresh, flow);
        } else {
            own.state = State::Old;
            turns.olds += 1;
            self.turns.push(&mut turns.old, flow);
        }
        flow
    }

    fn create(&mut self, peer: u32, tag: u32, life: u32) -> u32 {
        let fresh = Flow {
            peer,
            tag,
            chain: NONE,
            head: NONE,
            tail: NONE,
            bytes: 0,
            packets: 0,
            octave: 0,
            state: State::Idle,
            deficit: 0,
            again: 0,
            life,
            codel: Codel::default(),
        };
        let reused = if self.list.len() < self.bound { None } else { self.turns.pop(&mut self.idle) };
        let flow = if let Some(flow) = reused {
            self.unchain(flow);
            self.list[flow as usize] = fresh;
            flow
        } else {
            self.list.push(fresh);
            self.turns.grow(self.list.len());
            self.fat.grow(self.list.len());
            if self.list.len() > self.chains.len() {
                self.chains = vec![NONE; 2 * self.chains.len()];
                (0..self.list.len() as u32 - 1).for_each(|flow| self.enchain(flow));
            }
            self.list.len() as u32 - 1
        };
        self.enchain(flow);
        flow
    }

    fn enchain(&mut self, flow: u32) {
        let own = &self.list[flow as usize];
        let chain = self.chain(own.peer, own.tag);
        self.list[flow as usize].chain = std::mem::replace(&mut self.chains[chain], flow);
    }

    fn unchain(&mut self, flow: u32) {
        let own = &self.list[flow as usize];
        let (chain, next) = (self.chain(own.peer, own.tag), own.chain);
        let mut at = self.chains[chain];
        if at == flow {
            self.chains[chain] = next;
            return;
        }
        while self.list[at as usize].chain != flow {
            at = self.list[at as usize].chain;
        }
        self.list[at as usize].chain = next;
    }

    /// Whose turn it is.
    pub fn next(&mut self, turns: &mut Turns) -> Option<u32> {
        loop {
            let fresh = !turns.fresh.is_empty();
            let flow = if fresh { turns.fresh.first() } else { turns.old.first() };
            if flow == NONE {
                return None;
            }
            let own = &mut self.list[flow as usize];
            if own.deficit > 0 {
                return Some(flow);
            }
            own.deficit += QUANTUM;
            if fresh {
                own.state = State::Old;
                turns.olds += 1;
                self.turns.remove(&mut turns.fresh, flow);
                self.turns.push(&mut turns.old, flow);
            } else {
                turns.turns += 1;
                self.turns.rotate(&mut turns.old);
            }
        }
    }

    /// A flow's packets are others: it stands in the ring of its bytes, or takes no more turns.
    pub fn rank(&mut self, turns: &mut Turns, flow: u32) {
        let own = &mut self.list[flow as usize];
        let octave = ((own.bytes >> OCTAVE_SHIFT | 1).ilog2() as usize).min(OCTAVES - 1);
        let (linked, wanted) = (self.fat.linked(flow), own.packets > 0);
        if linked && wanted && usize::from(own.octave) == octave {
            return;
        }
        if linked {
            let old = usize::from(own.octave);
            self.fat.remove(&mut turns.fat[old], flow);
            if turns.fat[old].is_empty() {
                turns.used &= !(1 << old);
            }
        }
        if wanted {
            own.octave = octave as u8;
            self.fat.push(&mut turns.fat[octave], flow);
            turns.used |= 1 << octave;
        }
    }

    /// A flow has nothing more. One that had its turn is fresh again once all others that wait had theirs: who sends a
    /// packet whenever the last one left would else be first always.
    pub fn leave(&mut self, turns: &mut Turns, flow: u32) {
        let own = &mut self.list[flow as usize];
        let fresh = own.state == State::Fresh;
        if fresh {
            self.turns.remove(&mut turns.fresh, flow);
        } else {
            self.turns.remove(&mut turns.old, flow);
            turns.olds -= 1;
        }
        let waits = fresh || own.deficit <= 0;
        own.again = turns.turns + if waits { u64::from(turns.olds) } else { 0 };
        own.state = State::Idle;
        self.turns.push(&mut self.idle, flow);
        turns.active -= 1;
        if turns.active == 0 {
            // Nobody is left whom it could be unfair to.
            turns.turns += u64::from(u16::MAX);
        }
    }

    /// All flows of a peer that have packets.
    pub fn active(&self, turns: &Turns) -> impl Iterator<Item = &Flow> {
        [turns.fresh, turns.old].into_iter().flat_map(|ring| self.turns.iter(ring)).map(|flow| self.get(flow))
    }
}

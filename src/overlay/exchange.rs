//! Questions that wait for their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::types::{LookupId, Peer, ms};
use crate::base::{NodeId, Time};
use crate::limits::{EXCHANGE_MS_MAX, EXCHANGES_MAX};

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A step of a lookup.
    Lookup(LookupId),
    /// A whole lookup, by another node.
    Delegated(LookupId),
    /// To see whether somebody is there.
    Probe,
    /// To have this node's records kept: of which group, and which chunks of it.
    Announce {
        /// Its number.
        group: u32,
        /// A bit for each.
        chunks: u16,
    },
    /// To have another's record kept on the way to it.
    Spread,
    /// To be handed what a neighbour keeps.
    Collect,
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    /// To whom.
    pub to: Peer,
    /// What for.
    pub purpose: Purpose,
    /// When it was asked.
    pub asked: Time,
    /// Whether its answer is late.
    pub late: bool,
    /// Whether it found no room here to be sent: then its end says nothing of the peer.
    pub untried: bool,
    ends: Time,
    due: Time,
}

/// What became of a question whose time has come.
#[derive(Debug, Clone, Copy)]
pub enum Overdue {
    /// It may still be answered.
    Late(Open),
    /// It will not be.
    Failed(Open),
}

/// All of them, bounded.
#[derive(Debug, Clone, Default)]
pub struct Exchanges {
    open: BTreeMap<u32, Open>,
    due: BTreeSet<(Time, u32)>,
    next: u32,
}

impl Exchanges {
    /// Whether another question may be asked.
    pub fn has_room(&self) -> bool {
        self.open.len() < EXCHANGES_MAX
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Probes under way.
    pub fn probes(&self) -> usize {
        self.open.values().filter(|open| open.purpose == Purpose::Probe).count()
    }

    /// Begins one; its number.
    pub fn begin(
        &mut self,
        now: Time,
        to: Peer,
        purpose: Purpose,
        patience: Duration,
        ends: Duration,
    ) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let due = now + patience;
        self.due.insert((due, number));
        let open = Open { to, purpose, asked: now, late: false, untried: false, ends: now + ends, due };
        self.open.insert(number, open);
        number
    }

    /// Takes the one that an answer of this peer belongs to.
    pub fn answer(&mut self, number: u32, from: &NodeId) -> Option<Open> {
        let open = self.open.get(&number).filter(|open| open.to.id == *from).copied()?;
        self.end(number);
        Some(open)
    }

    fn end(&mut self, number: u32) {
        if let Some(open) = self.open.remove(&number) {
            self.due.remove(&(open.due, number));
        }
    }

    /// Whether a peer has been asked something, and has not answered yet.
    pub fn is_asked(&self, id: &NodeId) -> bool {
        self.open.values().any(|open| open.to.id == *id)
    }

    /// What was to be asked of a peer was not sent: it waits its time, and counts against nobody.
    pub fn untried(&mut self, to: &NodeId) {
        let those = self.open.values_mut().filter(|open| open.to.id == *to);
        those.for_each(|open| open.untried = true);
    }

    /// Takes all that were asked of a peer that cannot be reached.
    pub fn fail_all(&mut self, to: &NodeId) -> Vec<Open> {
        let those: Vec<u32> =
            self.open.iter().filter(|(_, open)| open.to.id == *to).map(|(number, _)| *number).collect();
        those
            .into_iter()
            .filter_map(|number| {
                let open = self.open.get(&number).copied();
                self.end(number);
                open
            })
            .collect()
    }

    /// When the next one is overdue.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is overdue. Each is late once and fails once.
    pub fn overdue(&mut self, now: Time) -> Option<Overdue> {
        let (at, number) = *self.due.first().filter(|(at, _)| *at <= now)?;
        let open = self.open.get_mut(&number)?;
        if open.late || at >= open.ends {
            let open = *open;
            self.end(number);
            return Some(Overdue::Failed(open));
        }
        open.late = true;
        open.due = open.ends;
        let open = *open;
        self.due.remove(&(at, number));
        self.due.insert((open.due, number));
        Some(Overdue::Late(open))
    }
}

/// An answer that comes later is none.
pub(super) const ENDS: Duration = ms(EXCHANGE_MS_MAX);

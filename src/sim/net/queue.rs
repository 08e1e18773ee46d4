//! What is going to happen, in order: by time, then by the order in which it was said.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use crate::base::{NewChunk, Time};
use crate::node::Cross;

/// A shard of a node in one of its lives. Whatever was meant for an earlier life is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    pub node: u32,
    pub life: u32,
    pub shard: u8,
}

/// One thing that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A datagram reaches the end of its link.
    Arrival(Box<Flight>),
    /// A shard's deadline may have come.
    Timer(Host),
    /// The files thread carries out the next operation.
    FileTurn(Host),
    /// The next answer of the files thread reaches its shard.
    FileAnswer(Host),
    /// A slice is resident.
    Warmed(Host, u64, u32),
    /// The store has a chunk that is kept for others.
    Kept(Host, u64, Box<NewChunk>),
    /// The device gives a send buffer back that somebody waits for.
    BufferBack(Host),
    /// What one shard (the number) said reaches another.
    Cross(Host, u8, Box<Cross>),
    /// What the caller asked to be told; forgotten with the life, if there is one.
    Call(Option<Host>, u64),
}

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub from: u32,
    pub to: u32,
    /// Where it seems to come from.
    pub source: SocketAddr,
    /// Where it was sent.
    pub target: SocketAddr,
    pub ecn: u8,
    pub bytes: Vec<u8>,
}

struct Entry {
    at: Time,
    /// Between entries of one time; zero comes first.
    order: u32,
    number: u64,
    event: Event,
}

impl Entry {
    fn key(&self) -> (Time, u32, u64) {
        (self.at, self.order, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The heap.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    next: u64,
}

impl Queue {
    /// Something will happen.
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.push_ordered(at, 0, event);
    }

    /// Something will happen, at its turn among others of the same time.
    pub(super) fn push_ordered(&mut self, at: Time, order: u32, event: Event) {
        self.next += 1;
        self.heap.push(Reverse(Entry { at, order, number: self.next, event }));
    }

    /// When the next thing happens, and what it is.
    pub(super) fn peek(&self) -> Option<(Time, &Event)> {
        self.heap.peek().map(|Reverse(entry)| (entry.at, &entry.event))
    }

    /// The next thing, if it happens by then.
    pub(super) fn pop(&mut self, deadline: Time) -> Option<(Time, Event)> {
        if self.heap.peek()?.0.at > deadline {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_order_then_as_they_came() {
        let mut queue = Queue::default();
        for (at, order, token) in [(2, 0, 5), (1, 7, 3), (1, 0, 1), (1, 0, 2), (1, 9, 4), (3, 0, 6)] {
            queue.push_ordered(Time(at), order, Event::Call(None, token));
        }
        let mut tokens = Vec::new();
        while let Some((_, Event::Call(_, token))) = queue.pop(Time(2)) {
            tokens.push(token);
        }
        assert_eq!(tokens, [1, 2, 3, 4, 5]);
        assert_eq!(queue.peek().map(|(at, _)| at), Some(Time(3)));
    }
}

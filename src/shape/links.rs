//! Doubly linked rings over the numbers of peers. The links of one purpose lie side by side in an array of their own:
//! 8 bytes per peer, so that walking a ring of 100,000 touches 800 KB and not the peers themselves.

/// Stands for "no peer".
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
}

/// The links of one purpose: each peer is in one ring at most.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Link>);

/// A ring, by its first member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ring(u32);

impl Ring {
    pub(super) const EMPTY: Self = Self(NONE);

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == NONE
    }

    /// Its first member; [`NONE`] when there is none.
    #[inline]
    pub(super) fn first(self) -> u32 {
        self.0
    }
}

impl Links {
    /// Room for so many peers.
    pub(super) fn grow(&mut self, peers: usize) {
        self.0.resize(peers, Link { next: NONE, prev: NONE });
    }

    /// Whether a peer is in a ring.
    #[inline]
    pub(super) fn linked(&self, peer: u32) -> bool {
        self.0[peer as usize].next != NONE
    }

    /// Whether a ring has exactly one member.
    #[inline]
    pub(super) fn is_single(&self, ring: Ring) -> bool {
        !ring.is_empty() && self.0[ring.0 as usize].next == ring.0
    }

    /// Adds a peer that is in no ring behind the others.
    #[inline]
    pub(super) fn push(&mut self, ring: &mut Ring, peer: u32) {
        debug_assert!(!self.linked(peer), "a peer is in one ring of a kind at most");
        if ring.is_empty() {
            ring.0 = peer;
            self.0[peer as usize] = Link { next: peer, prev: peer };
            return;
        }
        let first = ring.0;
        let last = self.0[first as usize].prev;
        self.0[peer as usize] = Link { next: first, prev: last };
        self.0[last as usize].next = peer;
        self.0[first as usize].prev = peer;
    }

    /// Takes a peer out of the ring that it is in.
    #[inline]
    pub(super) fn remove(&mut self, ring: &mut Ring, peer: u32) {
        let Link { next, prev } = self.0[peer as usize];
        debug_assert!(next != NONE, "it is in a ring");
        if next == peer {
            ring.0 = NONE;
        } else {
            self.0[prev as usize].next = next;
            self.0[next as usize].prev = prev;
            if ring.0 == peer {
                ring.0 = next;
            }
        }
        self.0[peer as usize] = Link { next: NONE, prev: NONE };
    }

    /// Takes the first member.
    #[inline]
    pub(super) fn pop(&mut self, ring: &mut Ring) -> Option<u32> {
        let first = ring.0;
        (first != NONE).then(|| {
            self.remove(ring, first);
            first
        })
    }

    /// The members of a ring, in order.
    pub(super) fn iter(&self, ring: Ring) -> impl Iterator<Item = u32> {
        let first = (ring.0 != NONE).then_some(ring.0);
        std::iter::successors(first, move |at| Some(self.0[*at as usize].next).filter(|next| *next != ring.0))
    }

    /// The first member becomes the last.
    #[inline]
    pub(super) fn rotate(&self, ring: &mut Ring) {
        if !ring.is_empty() {
            ring.0 = self.0[ring.0 as usize].next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn rings_are_queues(steps in prop::collection::vec((0u8..4, 0u32..8), 0..200)) {
            let (mut links, mut ring, mut model) = (Links::default(), Ring::EMPTY, VecDeque::new());
            links.grow(8);
            for (what, peer) in steps {
                match what {
                    0 if !model.contains(&peer) => {
                        links.push(&mut ring, peer);
                        model.push_back(peer);
                    }
                    1 if model.contains(&peer) => {
                        links.remove(&mut ring, peer);
                        model.retain(|other| *other != peer);
                    }
                    2 => prop_assert_eq!(links.pop(&mut ring), model.pop_front()),
                    3 if !model.is_empty() => {
                        links.rotate(&mut ring);
                        model.rotate_left(1);
                    }
                    _ => {}
                }
                prop_assert_eq!(ring.is_empty(), model.is_empty());
                prop_assert_eq!(links.is_single(ring), model.len() == 1);
                prop_assert_eq!(links.iter(ring).collect::<VecDeque<_>>(), model.clone());
                prop_assert!(model.front().is_none_or(|first| *first == ring.first()));
                prop_assert!((0..8).all(|peer| links.linked(peer) == model.contains(&peer)));
            }
        }
    }
}

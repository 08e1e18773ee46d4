//! Numbered places with generations, so that a key of the past finds nothing.

use std::collections::VecDeque;

use super::types::SessionKey;
use crate::limits::SESSIONS_MAX;
use crate::sys::hint;

const INDEX_BITS: u32 = SESSIONS_MAX.trailing_zeros();
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// At most [`SESSIONS_MAX`] items. Places are reused oldest first, which makes generations last.
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: VecDeque<u32>,
}

struct Place<T> {
    generation: u32,
    item: Option<T>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= SESSIONS_MAX
    }

    /// `None` when full.
    pub(super) fn insert(&mut self, item: T) -> Option<SessionKey> {
        if self.is_full() {
            return None;
        }
        let index = self.free.pop_front().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, item: None });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.item = Some(item);
        Some(SessionKey(place.generation << INDEX_BITS | index))
    }

    fn place(&self, key: SessionKey) -> Option<&Place<T>> {
        let place = self.places.get((key.0 & INDEX_MASK) as usize)?;
        (place.generation == key.0 >> INDEX_BITS).then_some(place)
    }

    /// Has the processor fetch a place.
    pub(super) fn expect(&self, key: SessionKey) {
        if let Some(place) = self.places.get((key.0 & INDEX_MASK) as usize) {
            hint::prefetch(place);
        }
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&T> {
        self.place(key)?.item.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut T> {
        let place = self.places.get_mut((key.0 & INDEX_MASK) as usize)?;
        if place.generation != key.0 >> INDEX_BITS {
            return None;
        }
        place.item.as_mut()
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<T> {
        let index = key.0 & INDEX_MASK;
        let place = self.places.get_mut(index as usize)?;
        if place.generation != key.0 >> INDEX_BITS {
            return None;
        }
        let item = place.item.take()?;
        place.generation = (place.generation + 1) & (u32::MAX >> INDEX_BITS);
        self.free.push_back(index);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.get(first), Some(&'a'));
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b').unwrap();
        assert_ne!(first, second);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!((slab.get(second), slab.len()), (Some(&'b'), 1));
        assert_eq!(slab.get(SessionKey(u32::MAX)), None);
    }

    #[test]
    fn generations_wrap_without_harm() {
        let mut slab = Slab::new();
        for round in 0..40_000u32 {
            let key = slab.insert(round).unwrap();
            assert_eq!(slab.remove(key), Some(round));
        }
        assert_eq!(slab.len(), 0);
    }
}

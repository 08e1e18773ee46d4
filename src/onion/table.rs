//! Circuits by number, with generations, so that a key of the past finds nothing.

use std::collections::VecDeque;

/// Names a circuit of one shard: one that it began, or one that goes through it. Dead once the circuit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitKey {
    own: bool,
    generation: u32,
    index: u32,
}

impl CircuitKey {
    /// Whether this shard is the circuit's origin.
    pub fn is_own(self) -> bool {
        self.own
    }

    pub(super) fn index(self) -> u32 {
        self.index
    }

    /// A circuit of others as a number, for other shards to hand back.
    pub fn to_number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// What [`Self::to_number`] made a number of.
    pub fn from_number(number: u64) -> Self {
        Self { own: false, generation: (number >> 32) as u32, index: number as u32 }
    }
}

/// At most so many boxed items. Places are reused oldest first, which makes generations last.
pub(super) struct Table<T> {
    own: bool,
    places: Vec<Place<T>>,
    free: VecDeque<u32>,
    most: usize,
}

struct Place<T> {
    generation: u32,
    item: Option<Box<T>>,
}

impl<T> Table<T> {
    pub(super) fn new(own: bool, most: usize) -> Self {
        Self { own, places: Vec::new(), free: VecDeque::new(), most }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// The key that the next item will have; `None` when full.
    pub(super) fn vacant(&self) -> Option<CircuitKey> {
        if self.is_full() {
            return None;
        }
        let index = self.free.front().copied().unwrap_or(self.places.len() as u32);
        let generation = self.places.get(index as usize).map_or(0, |place| place.generation);
        Some(CircuitKey { own: self.own, generation, index })
    }

    /// Puts an item where [`Self::vacant`] said; no other was put there since.
    pub(super) fn insert(&mut self, key: CircuitKey, item: T) {
        assert_eq!(self.vacant(), Some(key), "the vacant place is given away once");
        if self.free.pop_front().is_none() {
            self.places.push(Place { generation: 0, item: None });
        }
        self.places[key.index as usize].item = Some(Box::new(item));
    }

    pub(super) fn get_mut(&mut self, key: CircuitKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation || key.own != self.own {
            return None;
        }
        place.item.as_deref_mut()
    }

    pub(super) fn get(&self, key: CircuitKey) -> Option<&T> {
        let place = self.places.get(key.index as usize)?;
        if place.generation != key.generation || key.own != self.own {
            return None;
        }
        place.item.as_deref()
    }

    /// By index alone, from a table that forgets with the item.
    pub(super) fn at(&mut self, index: u32) -> Option<(CircuitKey, &mut T)> {
        let place = self.places.get_mut(index as usize)?;
        let key = CircuitKey { own: self.own, generation: place.generation, index };
        Some((key, place.item.as_deref_mut()?))
    }

    pub(super) fn remove(&mut self, key: CircuitKey) -> Option<Box<T>> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let item = place.item.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push_back(key.index);
        Some(item)
    }

    /// All that there are, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (CircuitKey, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = CircuitKey { own: self.own, generation: place.generation, index: index as u32 };
            place.item.as_deref().map(|item| (key, item))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_key_finds_nothing_and_the_bound_holds() {
        let mut table = Table::new(true, 2);
        let first = table.vacant().unwrap();
        table.insert(first, 'a');
        let second = table.vacant().unwrap();
        table.insert(second, 'b');
        assert_eq!((table.vacant(), table.len(), table.is_full()), (None, 2, true));
        assert_eq!(table.remove(first).as_deref(), Some(&'a'));
        let third = table.vacant().unwrap();
        assert_eq!((third.index(), third == first), (first.index(), false));
        table.insert(third, 'c');
        assert!(
            table.get(first).is_none() && table.get_mut(first).is_none() && table.remove(first).is_none()
        );
        assert_eq!(table.iter().map(|(_, item)| *item).collect::<Vec<_>>(), ['c', 'b']);
        assert_eq!(table.at(first.index()).map(|(key, item)| (key, *item)), Some((third, 'c')));
    }

    #[test]
    fn one_tables_key_means_nothing_in_the_other() {
        let (mut own, mut other) = (Table::new(true, 1), Table::new(false, 1));
        let key = own.vacant().unwrap();
        own.insert(key, 1);
        let theirs = other.vacant().unwrap();
        other.insert(theirs, 2);
        assert_eq!((other.get(key), own.get(theirs), own.get(key)), (None, None, Some(&1)));
    }
}

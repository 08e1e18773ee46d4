//! A hierarchical timing wheel: what is due when, in exact order, for as many entries as a fast link holds.
//!
//! Time is cut into ticks of 2¹⁴ ns. Nine levels of 64 slots cover all of [`Time`]; an entry lies on the level
//! of the highest group of six bits in which its tick differs from the wheel's, so that inserting is a shift,
//! a bit scan and a list push, and each entry moves down at most once per level. Entries of the tick that has
//! come lie in a small heap, which gives them their exact order: by time, then as they were inserted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::Time;

/// Nanoseconds of one tick, as a power of two.
const TICK_BITS: u32 = 14;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = (64 - TICK_BITS).div_ceil(SLOT_BITS) as usize;
/// The end of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry<T> {
    at: Time,
    /// How many were inserted before it.
    number: u64,
    bytes: usize,
    next: u32,
    value: Option<T>,
}

#[derive(Debug, Clone)]
struct Level {
    /// Which slots have entries.
    occupied: u64,
    /// The first entry of each slot's list.
    first: [u32; SLOTS],
}

/// Values that wait for their time; bounded in number and in bytes.
#[derive(Debug)]
pub struct Wheel<T> {
    levels: Vec<Level>,
    /// Entries up to the current tick, the first on top.
    due: BinaryHeap<Reverse<(Time, u64, u32)>>,
    /// Everything up to this tick lies in `due`, everything later in a slot.
    tick: u64,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    bytes: usize,
    inserted: u64,
    entries_max: usize,
    bytes_max: usize,
}

fn tick_of(at: Time) -> u64 {
    at.0 >> TICK_BITS
}

impl<T> Wheel<T> {
    /// An empty wheel for so many entries and bytes at most.
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        assert!(entries_max < NONE as usize, "entries are numbered by 32 bits");
        Self {
            levels: vec![Level { occupied: 0, first: [NONE; SLOTS] }; LEVELS],
            due: BinaryHeap::new(),
            tick: 0,
            entries: Vec::new(),
            free: NONE,
            len: 0,
            bytes: 0,
            inserted: 0,
            entries_max,
            bytes_max,
        }
    }

    /// Entries that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the entries that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps `value`, which counts for so many bytes, until `at`; gives it back when the wheel is full.
    /// What should have happened before now is due at once.
    pub fn insert(&mut self, at: Time, bytes: usize, value: T) -> Result<(), T> {
        if self.len == self.entries_max || bytes > self.bytes_max - self.bytes {
            return Err(value);
        }
        let entry = Entry { at, number: self.inserted, bytes, next: NONE, value: Some(value) };
        let index = self.free;
        let index = if index == NONE {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.inserted += 1;
        self.len += 1;
        self.bytes += bytes;
        self.place(index);
        Ok(())
    }

    /// When to call [`Wheel::pop`] next: the first entry's time if that is near, else some time before it.
    pub fn next(&self) -> Option<Time> {
        if let Some(Reverse((at, ..))) = self.due.peek() {
            return Some(*at);
        }
        let (level, slot, start) = self.first_slot()?;
        if level > 0 {
            return Some(Time(start << TICK_BITS));
        }
        self.list(self.levels[level].first[slot]).map(|entry| entry.at).min()
    }

    /// The first entry, if its time has come.
    pub fn pop(&mut self, now: Time) -> Option<(Time, T)> {
        self.turn(tick_of(now));
        let Reverse((at, _, index)) = *self.due.peek()?;
        if at > now {
            return None;
        }
        self.due.pop();
        let free = self.free;
        let entry = &mut self.entries[index as usize];
        let value = entry.value.take().expect("an entry in the heap has its value");
        entry.next = free;
        self.free = index;
        self.len -= 1;
        self.bytes -= entry.bytes;
        Some((at, value))
    }

    /// Where the earliest entries outside of the heap lie, and the first tick of that slot.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        // A level's entries share all higher bits of the current tick: the lowest level is the earliest.
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let above = self.tick >> shift >> SLOT_BITS << SLOT_BITS;
        Some((level, slot, (above | slot as u64) << shift))
    }

    fn turn(&mut self, to: u64) {
        while let Some((level, slot, start)) = self.first_slot() {
            if start > to {
                break;
            }
            self.tick = start;
            self.levels[level].occupied &= !(1 << slot);
            let mut index = std::mem::replace(&mut self.levels[level].first[slot], NONE);
            while index != NONE {
                let next = self.entries[index as usize].next;
                self.place(index);
                index = next;
            }
        }
        // What is left begins later than `to`, so it lies right with respect to `to` as well.
        self.tick = self.tick.max(to);
    }

    fn place(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let tick = tick_of(entry.at);
        if tick <= self.tick {
            self.due.push(Reverse((entry.at, entry.number, index)));
            return;
        }
        let level = (tick ^ self.tick).ilog2() / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        entry.next = level.first[slot];
        level.first[slot] = index;
        level.occupied |= 1 << slot;
    }

    fn list(&self, first: u32) -> impl Iterator<Item = &Entry<T>> {
        let at = |index: u32| self.entries.get(index as usize);
        std::iter::successors(at(first), move |entry| at(entry.next))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// After so many nanoseconds from now.
        Insert(u64),
        /// Before now.
        Overdue,
        /// So many nanoseconds pass.
        Pass(u64),
        /// Until the wheel says.
        PassToNext,
    }

    /// Delays of every size, and often the same tick.
    fn delay() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..100u64,
            0..(1u64 << TICK_BITS),
            0..200_000_000u64,
            (0..50u32, 0..4096u64).prop_map(|(bits, more)| (1u64 << bits) + more),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => delay().prop_map(Step::Insert),
            1 => Just(Step::Overdue),
            2 => delay().prop_map(Step::Pass),
            2 => Just(Step::PassToNext),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map(start in delay(), steps in prop::collection::vec(step(), 1..400)) {
            let mut wheel = Wheel::new(1000, 1 << 20);
            let mut model = BTreeMap::new();
            let mut now = Time(start);
            for (number, step) in steps.into_iter().enumerate() {
                let earliest = model.first_key_value().map(|(&(at, _), _): (&(Time, usize), _)| at);
                match step {
                    Step::Insert(after) => {
                        let at = Time(now.0 + after);
                        prop_assert!(wheel.insert(at, 7, number).is_ok());
                        model.insert((at, number), number);
                    }
                    Step::Overdue => {
                        let at = Time(now.0 / 2);
                        prop_assert!(wheel.insert(at, 7, number).is_ok());
                        model.insert((at, number), number);
                    }
                    Step::Pass(after) => now = Time(now.0 + after),
                    Step::PassToNext => {
                        // Not later than the first entry, and not without end before it.
                        let mut calls = 0;
                        while let Some(at) = wheel.next() {
                            prop_assert!(at <= earliest.unwrap());
                            now = now.max(at);
                            let popped = wheel.pop(now);
                            if popped.is_some() {
                                prop_assert_eq!(popped, model.pop_first().map(|((at, _), value)| (at, value)));
                                break;
                            }
                            calls += 1;
                            prop_assert!(calls <= LEVELS, "still nothing after {} calls", calls);
                        }
                    }
                }
                while model.first_key_value().is_some_and(|(&(at, _), _)| at <= now) {
                    let expected = model.pop_first().map(|((at, _), value)| (at, value));
                    prop_assert_eq!(wheel.pop(now), expected);
                }
                prop_assert_eq!(wheel.pop(now), None);
                prop_assert_eq!((wheel.len(), wheel.bytes()), (model.len(), 7 * model.len()));
                prop_assert_eq!(wheel.next().is_none(), model.is_empty());
            }
        }
    }

    #[test]
    fn both_bounds_hold_and_room_comes_back() {
        let mut wheel = Wheel::new(2, 100);
        assert_eq!(wheel.insert(Time(5), 60, 'a'), Ok(()));
        assert_eq!(wheel.insert(Time(5), 41, 'b'), Err('b'));
        assert_eq!(wheel.insert(Time(1 << 40), 40, 'c'), Ok(()));
        assert_eq!(wheel.insert(Time(5), 0, 'd'), Err('d'));
        assert_eq!(wheel.pop(Time(5)), Some((Time(5), 'a')));
        assert_eq!(wheel.insert(Time(6), 60, 'e'), Ok(()));
        assert_eq!((wheel.len(), wheel.bytes(), wheel.entries.len()), (2, 100, 2));
    }

    #[test]
    fn the_end_of_time_has_a_slot() {
        let mut wheel = Wheel::new(2, 0);
        wheel.insert(Time(u64::MAX), 0, 1).unwrap();
        wheel.insert(Time(u64::MAX - 1), 0, 0).unwrap();
        assert_eq!(wheel.pop(Time(u64::MAX - 2)), None);
        assert_eq!(wheel.pop(Time(u64::MAX)), Some((Time(u64::MAX - 1), 0)));
        assert_eq!(wheel.pop(Time(u64::MAX)), Some((Time(u64::MAX), 1)));
        assert_eq!(wheel.next(), None);
    }
}

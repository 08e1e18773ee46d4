//! Cells that have to wait for one link: a queue per circuit, served in turn, each kept short by CoDel (RFC 8289).
//!
//! The cells lie with the caller; what is kept here is the name of each one's place.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::base::Time;
use crate::limits::{CIRCUIT_QUEUE_MAX, CODEL_INTERVAL_US, CODEL_TARGET_US};

const TARGET: Duration = Duration::from_micros(CODEL_TARGET_US);
const INTERVAL: Duration = Duration::from_micros(CODEL_INTERVAL_US);

/// Cells of several circuits (`K`), each at a place (`S`) of the caller's.
pub struct Waiting<K, S> {
    queues: BTreeMap<K, Queue<S>>,
    /// Circuits with something to send, in turn.
    turns: VecDeque<K>,
    len: usize,
    most: usize,
}

struct Queue<S> {
    cells: VecDeque<(Time, S)>,
    codel: CoDel,
}

/// RFC 8289 §5.3's variables.
#[derive(Debug, Clone, Copy, Default)]
struct CoDel {
    /// When the wait will have been too long for a whole interval.
    first_above: Option<Time>,
    /// When the next cell is dropped, while cells are.
    drop_next: Option<Time>,
    count: u32,
    last_count: u32,
}

impl CoDel {
    /// Whether a cell that waited so long may be dropped; `last` says that none waits behind it.
    fn is_above(&mut self, now: Time, waited: Duration, last: bool) -> bool {
        if waited < TARGET || last {
            self.first_above = None;
            return false;
        }
        *self.first_above.get_or_insert(now + INTERVAL) <= now
    }

    fn control_law(&self, from: Time) -> Time {
        from + INTERVAL.div_f64(f64::from(self.count).sqrt())
    }

    /// Whether this cell is dropped.
    fn drops(&mut self, now: Time, waited: Duration, last: bool) -> bool {
        let above = self.is_above(now, waited, last);
        match self.drop_next {
            Some(_) if !above => {
                self.drop_next = None;
                false
            }
            Some(at) if now >= at => {
                self.count += 1;
                self.drop_next = Some(self.control_law(at));
                true
            }
            Some(_) => false,
            None if above => {
                // Where dropping ended a short while ago it goes on at about the rate that helped then.
                let recent = self.count.saturating_sub(self.last_count);
                self.count = if recent > 1 { recent } else { 1 };
                self.last_count = self.count;
                self.drop_next = Some(self.control_law(now));
                true
            }
            None => false,
        }
    }
}

impl<K: Ord + Copy, S> Waiting<K, S> {
    /// At most so many cells, all circuits together.
    pub fn new(most: usize) -> Self {
        Self { queues: BTreeMap::new(), turns: VecDeque::new(), len: 0, most }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a cell at the end of its circuit's queue, or gives its place back when there is no room.
    pub fn push(&mut self, now: Time, circuit: K, place: S) -> Result<(), S> {
        if self.len >= self.most {
            return Err(place);
        }
        let queue = self
            .queues
            .entry(circuit)
            .or_insert_with(|| Queue { cells: VecDeque::new(), codel: CoDel::default() });
        if queue.cells.len() >= CIRCUIT_QUEUE_MAX {
            return Err(place);
        }
        if queue.cells.is_empty() {
            self.turns.push_back(circuit);
        }
        queue.cells.push_back((now, place));
        self.len += 1;
        Ok(())
    }

    /// The next cell, of the circuit whose turn it is. What waited too long goes to `dropped`.
    pub fn pop(&mut self, now: Time, dropped: &mut Vec<S>) -> Option<(K, S)> {
        let circuit = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&circuit).expect("a circuit whose turn it is has a queue");
        // The last one is never dropped, so there is one to give.
        let place = loop {
            let (since, place) = queue.cells.pop_front().expect("a queue whose turn it is has a cell");
            self.len -= 1;
            if !queue.codel.drops(now, now.since(since), queue.cells.is_empty()) {
                break place;
            }
            dropped.push(place);
        };
        if !queue.cells.is_empty() {
            self.turns.push_back(circuit);
        } else if queue.codel.drop_next.is_none() {
            self.queues.remove(&circuit);
        }
        Some((circuit, place))
    }

    /// Forgets a circuit; its cells' places go to `dropped`.
    pub fn forget(&mut self, circuit: K, dropped: &mut Vec<S>) {
        let Some(queue) = self.queues.remove(&circuit) else { return };
        self.turns.retain(|turn| *turn != circuit);
        self.len -= queue.cells.len();
        dropped.extend(queue.cells.into_iter().map(|(_, place)| place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn circuits_take_turns_whatever_they_queue() {
        let mut waiting = Waiting::new(1000);
        (0..200).for_each(|n| waiting.push(ms(0), 'a', n).unwrap());
        (0..3).for_each(|n| waiting.push(ms(0), 'b', n).unwrap());
        let mut dropped = Vec::new();
        let order: String =
            std::iter::from_fn(|| waiting.pop(ms(1), &mut dropped)).map(|(c, _)| c).take(8).collect();
        assert_eq!((order.as_str(), dropped.len()), ("abababaa", 0));
    }

    #[test]
    fn a_full_queue_gives_the_place_back() {
        let mut waiting = Waiting::new(CIRCUIT_QUEUE_MAX + 1);
        (0..CIRCUIT_QUEUE_MAX).for_each(|n| waiting.push(ms(0), 1, n).unwrap());
        assert_eq!(waiting.push(ms(0), 1, 777), Err(777), "its own bound");
        assert_eq!(waiting.push(ms(0), 2, 778), Ok(()));
        assert_eq!(waiting.push(ms(0), 3, 779), Err(779), "the bound of all");
        let mut dropped = Vec::new();
        waiting.forget(1, &mut dropped);
        assert_eq!((dropped.len(), waiting.len()), (CIRCUIT_QUEUE_MAX, 1));
        assert_eq!(waiting.pop(ms(0), &mut dropped), Some((2, 778)));
    }

    /// A sender that brings two cells for each that leaves, and one that brings one.
    fn standing(waiting: &mut Waiting<u8, Time>, brings: usize, ms_long: u64) -> (usize, Duration) {
        let (mut dropped, mut worst) = (Vec::new(), Duration::ZERO);
        for t in 0..ms_long {
            (0..brings).for_each(|_| _ = waiting.push(ms(t), 1, ms(t)));
            if let Some((_, since)) = waiting.pop(ms(t), &mut dropped)
                && t > ms_long / 2
            {
                worst = worst.max(ms(t).since(since));
            }
        }
        (dropped.len(), worst)
    }

    #[test]
    fn a_standing_queue_is_cut_and_a_burst_is_not() {
        let mut waiting = Waiting::new(10_000);
        (0..50).for_each(|n| waiting.push(ms(0), 1, ms(n)).unwrap());
        let (lost, _) = standing(&mut waiting, 0, 90);
        assert_eq!((lost, waiting.len()), (0, 0), "a burst that drains within an interval");
        (0..100).for_each(|_| waiting.push(ms(0), 1, ms(0)).unwrap());
        let (lost, worst) = standing(&mut waiting, 1, 4000);
        assert!(lost >= 90, "{lost} of a queue that never drains");
        assert!(worst <= Duration::from_millis(20), "{worst:?}");
    }

    proptest! {
        #[test]
        fn every_place_comes_back_once(steps in prop::collection::vec((0u8..6, 0u8..4, 0u64..30), 1..300)) {
            let (mut waiting, mut now, mut out, mut next) = (Waiting::new(64), ms(0), Vec::new(), 0usize);
            for (what, circuit, time) in steps {
                now += Duration::from_millis(time);
                match what {
                    0..=2 => {
                        if let Err(place) = waiting.push(now, circuit, next) {
                            out.push(place);
                        }
                        next += 1;
                    }
                    3..=4 => {
                        let mut dropped = Vec::new();
                        let popped = waiting.pop(now, &mut dropped);
                        out.extend(dropped);
                        out.extend(popped.map(|(_, place)| place));
                    }
                    _ => waiting.forget(circuit, &mut out),
                }
                prop_assert_eq!(waiting.len() + out.len(), next);
            }
            while let Some((_, place)) = { let mut d = Vec::new(); let p = waiting.pop(now, &mut d); out.extend(d); p } {
                out.push(place);
            }
            out.sort_unstable();
            prop_assert_eq!(out, (0..next).collect::<Vec<_>>());
        }
    }
}

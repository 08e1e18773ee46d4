//! A set of 64-bit numbers kept as few disjoint ranges: acknowledged packets, received stream bytes.

use std::ops::Range;

/// Disjoint, non-adjacent, ascending half-open ranges. Operations near the highest range, where almost
/// all of them happen, cost O(1); others O(log n) to find and O(n) to shift.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `range`; returns how many numbers were new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        if let Some(last) = self.ranges.last_mut() {
            if range.start >= last.start && range.start <= last.end {
                let new = range.end.saturating_sub(last.end);
                last.end = last.end.max(range.end);
                return new;
            }
            if range.start > last.end {
                let new = range.end - range.start;
                self.ranges.push(range);
                return new;
            }
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        let covered: u64 = self.ranges[first..last]
            .iter()
            .map(|r| r.end.min(range.end).saturating_sub(r.start.max(range.start)))
            .sum();
        let new = (range.end - range.start) - covered;
        if first == last {
            self.ranges.insert(first, range);
        } else {
            let merged = self.ranges[first].start.min(range.start)..self.ranges[last - 1].end.max(range.end);
            self.ranges.splice(first..last, [merged]);
        }
        new
    }

    /// Takes `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let last = self.ranges.partition_point(|r| r.start < range.end);
        if first >= last {
            return;
        }
        let left = self.ranges[first].start..range.start;
        let right = range.end..self.ranges[last - 1].end;
        self.ranges.splice(first..last, [left, right].into_iter().filter(|r| r.start < r.end));
    }

    /// Whether every number of `range` is in the set.
    pub fn covers(&self, range: Range<u64>) -> bool {
        if range.start >= range.end {
            return true;
        }
        let at = self.ranges.partition_point(|r| r.end <= range.start);
        self.ranges.get(at).is_some_and(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.covers(number..number.saturating_add(1))
    }

    /// The parts of `range` that are not in the set, ascending.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let mut at = range.start;
        let mut rest = self.ranges[first..].iter();
        let mut done = range.start >= range.end;
        std::iter::from_fn(move || {
            while !done {
                match rest.next() {
                    Some(r) if r.start < range.end => {
                        let gap = at..r.start;
                        at = at.max(r.end);
                        if gap.start < gap.end {
                            return Some(gap);
                        }
                        if at >= range.end {
                            done = true;
                        }
                    }
                    _ => {
                        done = true;
                        if at < range.end {
                            return Some(at..range.end);
                        }
                    }
                }
            }
            None
        })
    }

    /// Drops the lowest range and returns it.
    pub fn pop_first(&mut self) -> Option<Range<u64>> {
        (!self.ranges.is_empty()).then(|| self.ranges.remove(0))
    }

    /// The ranges, ascending; use `.rev()` for the newest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> + ExactSizeIterator {
        self.ranges.iter()
    }

    /// The highest number, if any.
    pub fn max(&self) -> Option<u64> {
        self.ranges.last().map(|r| r.end - 1)
    }

    /// Number of ranges (not of numbers).
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(ops in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60), from in 0u64..60, len in 0u64..30) {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            for (add, start, len) in ops {
                if add {
                    let new = (start..start + len).filter(|n| model.insert(*n)).count() as u64;
                    prop_assert_eq!(set.insert(start..start + len), new);
                } else {
                    (start..start + len).for_each(|n| { model.remove(&n); });
                    set.remove(start..start + len);
                }
                for pair in set.ranges.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
            }
            let flat: Vec<u64> = set.iter().cloned().flatten().collect();
            prop_assert_eq!(&flat, &model.iter().copied().collect::<Vec<_>>());
            let gaps: Vec<u64> = set.gaps(from..from + len).flatten().collect();
            prop_assert_eq!(gaps, (from..from + len).filter(|n| !model.contains(n)).collect::<Vec<_>>());
            prop_assert_eq!(set.covers(from..from + len), (from..from + len).all(|n| model.contains(&n)));
        }
    }
}

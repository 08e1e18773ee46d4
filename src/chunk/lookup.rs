//! Finds one entry of a directory that lies elsewhere, by reading as little of it as possible
//! (docs/protocol/directory.md §3).
//!
//! The header says how many entries there are; their hashes are spread evenly, so the place of one among them
//! can be guessed to within about the square root of their number, and then better from what was read there.
//! After [`LOOKUP_GUESSES_MAX`] guesses the search bisects, so a directory made to mislead costs a few steps
//! more and no more than that.

use std::ops::Range;

use crate::limits::LOOKUP_GUESSES_MAX;
use crate::wire::Malformed;
use crate::wire::directory::{
    ENTRY_LEN, Entry, HEADER_LEN, Header, NameHash, RawEntry, guess, leading, name_hash,
};

/// Entries that one probe reads at least, where there are so many.
const PROBE: u32 = 16;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hand in at least these bytes of the directory.
    Need(Range<u64>),
    /// Here it is.
    Found(Entry<'static>),
    /// The directory has no such name.
    Absent,
    /// What was handed in is no part of a directory.
    Malformed(Malformed),
}

/// One search. Poll; hand in what is needed, and gladly more (a whole record, since that is what comes over
/// the wire); poll again.
pub struct Lookup {
    name: Vec<u8>,
    hash: NameHash,
    size: u64,
    state: State,
}

enum State {
    Header,
    Search(Search),
    Name(Header, Box<RawEntry>),
    Done(Box<Step>),
}

/// The entry is in `low..high` if anywhere; the hashes there are between the two bounds.
struct Search {
    header: Header,
    low: u32,
    high: u32,
    low_hash: u64,
    high_hash: u64,
    guesses: u32,
}

impl Search {
    /// The entries to read next.
    fn probe(&self, hash: &NameHash) -> Range<u32> {
        let count = self.high - self.low;
        let offset = if self.guesses < LOOKUP_GUESSES_MAX {
            guess(hash, self.low_hash, self.high_hash, count)
        } else {
            count / 2
        };
        let start = (self.low + offset).saturating_sub(PROBE / 2).min(self.high.saturating_sub(PROBE));
        start.max(self.low)..(start.max(self.low) + PROBE).min(self.high)
    }

    fn bytes(&self, entries: &Range<u32>) -> Range<u64> {
        self.header.entry_range(entries.start).start..self.header.entry_range(entries.end).start
    }

    /// Searches the entries that lie wholly in `bytes`, which begin at `start` of the directory. Narrows the
    /// range by at least the probe.
    fn narrow(&mut self, hash: &NameHash, start: u64, bytes: &[u8]) -> Result<Option<RawEntry>, Malformed> {
        let first = start.saturating_sub(HEADER_LEN as u64).div_ceil(ENTRY_LEN as u64);
        let end = (start + bytes.len() as u64).saturating_sub(HEADER_LEN as u64) / ENTRY_LEN as u64;
        let (mut low, mut high) = (first.max(self.low.into()) as u32, end.min(self.high.into()) as u32);
        let (window_low, window_high) = (low, high);
        let at = |index: u32| {
            let range = self.header.entry_range(index);
            let offset = (range.start - start) as usize;
            bytes.get(offset..offset + ENTRY_LEN).ok_or(Malformed("directory: entry"))
        };
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = at(middle)?;
            match entry[..16].cmp(&hash[..]) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return RawEntry::parse(entry, &self.header).map(Some),
            }
        }
        // The place is at `low`: at an end of the window it may lie beyond, else the name is absent.
        let bound = |entry: &[u8]| entry[..16].try_into().map(|hash| leading(&hash)).unwrap_or_default();
        if low == window_high {
            self.low_hash = bound(at(window_high - 1)?);
            self.low = window_high;
        } else if low == window_low {
            self.high_hash = bound(at(window_low)?);
            self.high = window_low;
        } else {
            self.high = self.low;
        }
        self.guesses += 1;
        Ok(None)
    }
}

impl Lookup {
    /// Searches `name` in a directory of `size` bytes.
    pub fn new(name: &[u8], size: u64) -> Self {
        Self { name: name.to_vec(), hash: name_hash(name), size, state: State::Header }
    }

    /// What is needed, or how it ended.
    pub fn poll(&self) -> Step {
        match &self.state {
            State::Header => Step::Need(0..HEADER_LEN as u64),
            State::Search(search) => Step::Need(search.bytes(&search.probe(&self.hash))),
            State::Name(header, entry) => Step::Need(header.name_range(entry)),
            State::Done(step) => (**step).clone(),
        }
    }

    /// Takes bytes of the directory that begin at `start`, and searches as far as they reach. Bytes that do
    /// not contain what [`Self::poll`] asked for change nothing.
    pub fn feed(&mut self, start: u64, bytes: &[u8]) {
        while let Step::Need(range) = self.poll() {
            let inside = range.start.checked_sub(start).and_then(|from| {
                let from = usize::try_from(from).ok()?;
                bytes.get(from..from.checked_add(usize::try_from(range.end - range.start).ok()?)?)
            });
            let Some(needed) = inside else { return };
            self.state = self.advance(needed, start, bytes).unwrap_or_else(|e| done(Step::Malformed(e)));
        }
    }

    fn advance(&mut self, needed: &[u8], start: u64, bytes: &[u8]) -> Result<State, Malformed> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => {
                let header = Header::parse(needed, self.size)?;
                let (low, high) = (0, header.count);
                let search = Search { header, low, high, low_hash: 0, high_hash: u64::MAX, guesses: 0 };
                Ok(search.state())
            }
            State::Search(mut search) => Ok(match search.narrow(&self.hash, start, bytes)? {
                Some(entry) => State::Name(search.header, Box::new(entry)),
                None => search.state(),
            }),
            State::Name(_, entry) => {
                let entry = entry.with_name(needed)?;
                let found = *entry.name == *self.name;
                Ok(done(if found { Step::Found(entry.into_owned()) } else { Step::Absent }))
            }
            State::Done(step) => Ok(State::Done(step)),
        }
    }
}

impl Search {
    fn state(self) -> State {
        if self.low >= self.high { done(Step::Absent) } else { State::Search(self) }
    }
}

fn done(step: Step) -> State {
    State::Done(Box::new(step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::base::fileop::FileTime;
    use crate::limits::RECORD_PLAIN;
    use crate::wire::directory::{DirectoryWriter, Node};
    use crate::wire::reference::Blob;
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::collections::BTreeSet;

    fn name(index: usize) -> Vec<u8> {
        format!("file-{index}.txt").into_bytes()
    }

    fn directory(count: usize) -> Vec<u8> {
        let mut writer = DirectoryWriter::new();
        for index in 0..count {
            let mtime = FileTime { seconds: index as i64, nanos: 0 };
            let node = match index % 7 {
                3 => Node::Symlink(Cow::Owned(name(index + 1))),
                _ => Node::File(Blob::EMPTY),
            };
            writer.push(&Entry { name: Cow::Owned(name(index)), mode: 0, mtime, node }).expect("valid");
        }
        writer.finish().expect("valid")
    }

    /// Runs a search, handing in exactly what is asked for: the end, the steps, the bytes read.
    fn exact(bytes: &[u8], name: &[u8]) -> (Step, usize, usize) {
        let mut lookup = Lookup::new(name, bytes.len() as u64);
        let (mut steps, mut read) = (0, 0);
        while let Step::Need(range) = lookup.poll() {
            let part = &bytes[range.start as usize..range.end as usize];
            (steps, read) = (steps + 1, read + part.len());
            assert!(steps < 60, "the search does not end");
            lookup.feed(range.start, part);
        }
        (lookup.poll(), steps, read)
    }

    /// The same, handing in the whole records that hold what is asked for, as they come over the wire: the
    /// end, and how many different records were read.
    fn by_record(bytes: &[u8], name: &[u8]) -> (Step, usize) {
        let mut lookup = Lookup::new(name, bytes.len() as u64);
        let mut records = BTreeSet::new();
        while let Step::Need(range) = lookup.poll() {
            let first = range.start as usize / RECORD_PLAIN;
            let last = (range.end as usize).div_ceil(RECORD_PLAIN);
            records.extend(first..last);
            let (start, end) = (first * RECORD_PLAIN, (last * RECORD_PLAIN).min(bytes.len()));
            lookup.feed(start as u64, &bytes[start..end]);
        }
        (lookup.poll(), records.len())
    }

    fn found(step: &Step, index: usize) -> bool {
        matches!(step, Step::Found(entry) if *entry.name == *name(index) && entry.mtime.seconds == index as i64)
    }

    #[test]
    fn every_name_of_every_size_is_found_in_few_bytes() {
        for count in [1, 2, 7, 8, 9, 100, 454, 455, 1000, 5000] {
            let bytes = directory(count);
            let (mut steps, mut read, mut records) = (0, 0, 0);
            for index in 0..count {
                let (end, s, r) = exact(&bytes, &name(index));
                assert!(found(&end, index), "{index} of {count}");
                let (end, n) = by_record(&bytes, &name(index));
                assert!(found(&end, index), "{index} of {count}");
                (steps, read, records) = (steps + s, read + r, records + n);
            }
            let mean = |sum: usize| sum as f64 / count as f64;
            // Header, one or two probes, the name.
            assert!(mean(steps) < 4.3, "{count}: {} steps", mean(steps));
            assert!(mean(read) < 5500.0, "{count}: {} bytes", mean(read));
            assert!(mean(records) < 3.1, "{count}: {} records", mean(records));
            for index in count..count + 50 {
                assert!(exact(&bytes, &name(index)).0 == Step::Absent);
                assert!(by_record(&bytes, &name(index)).0 == Step::Absent);
            }
        }
    }

    #[test]
    fn an_empty_directory_has_nothing() {
        let (end, steps, _) = exact(&directory(0), b"a");
        assert!(end == Step::Absent && steps == 1);
    }

    #[test]
    fn bytes_that_were_not_asked_for_change_nothing() {
        let bytes = directory(100);
        let mut lookup = Lookup::new(&name(5), bytes.len() as u64);
        for (start, part) in [(1, &bytes[1..]), (0, &bytes[..3]), (u64::MAX, &bytes[..])] {
            lookup.feed(start, part);
            assert!(lookup.poll() == Step::Need(0..16));
        }
        lookup.feed(0, &bytes);
        assert!(found(&lookup.poll(), 5));
    }

    /// Hashes crowded where the searched one is make every guess miss by much: it still ends soon.
    #[test]
    fn a_misleading_directory_costs_a_few_steps_more() {
        let mut bytes = directory(5000);
        let target = leading(&name_hash(&name(77)));
        for index in 0..5000usize {
            let at = HEADER_LEN + index * ENTRY_LEN;
            let crowded = target.wrapping_sub(1).saturating_sub(5000 - index as u64);
            bytes[at..at + 8].copy_from_slice(&crowded.to_be_bytes());
        }
        let (end, steps, _) = exact(&bytes, &name(77));
        assert!(end == Step::Absent && steps <= 2 + LOOKUP_GUESSES_MAX as usize + 13, "{steps}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn hostile_directories_end_the_search(count in 0usize..700, seed in any::<[u8; 32]>(), flips in 0usize..4000) {
            let mut bytes = directory(count);
            let mut rng = Rng::from_seed(seed);
            for _ in 0..flips {
                let at = rng.bytes::<4>();
                let at = u32::from_le_bytes(at) as usize % bytes.len();
                if at >= HEADER_LEN {
                    bytes[at] = rng.bytes::<1>()[0];
                }
            }
            for index in [0, count / 2, count] {
                let (_, steps, _) = exact(&bytes, &name(index));
                prop_assert!(steps <= 3 + LOOKUP_GUESSES_MAX as usize + 10);
                by_record(&bytes, &name(index));
            }
        }
    }
}

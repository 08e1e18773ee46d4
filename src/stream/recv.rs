//! The receiving half of a stream: which bytes came, and where they go. Ordered streams keep bytes here
//! until they are read; sink streams hand every new run on at once, in whatever order it comes.

use super::{ReadState, RecvMode, Sink, Violation};
use crate::base::{RangeSet, StreamId};
use crate::limits::{SESSION_WINDOW, STREAM_RANGES_MAX, STREAM_WINDOW};

/// Why the bytes of a frame were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The peer broke a rule.
    Violation(Violation),
    /// A bound is reached: the packet must not be acknowledged, so that it comes again.
    Later,
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Refusal::Violation(violation)
    }
}

/// What a frame changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Bytes that count against the session's window from now on.
    pub counted: u64,
    /// Bytes that count no more.
    pub credited: u64,
    /// Ordered bytes can be read that could not before.
    pub readable: bool,
    /// Everything up to the final size is here.
    pub finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Receiving,
    /// Everything came; ordered bytes may wait to be read.
    Complete,
    /// We asked the peer to stop: bytes are counted and dropped.
    Stopped,
    /// The peer gave up, with this code. Nothing is left to do.
    Reset(u64),
    /// Nothing is left to do.
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct RecvHalf {
    mode: RecvMode,
    state: State,
    received: RangeSet,
    /// Distinct bytes that came.
    got: u64,
    highest: u64,
    final_size: Option<u64>,
    window: u64,
    /// Limit that the peer was told.
    max: u64,
    /// Bytes that the application is done with.
    consumed: u64,
    /// Ordered bytes from `consumed` on, behind `head` bytes that were read.
    buffer: Vec<u8>,
    head: usize,
    /// How far ahead of `consumed` ordered bytes may lie.
    unread_max: u64,
}

impl RecvHalf {
    /// Nothing came yet.
    pub fn new(mode: RecvMode) -> Self {
        Self {
            mode,
            state: State::Receiving,
            received: RangeSet::new(),
            got: 0,
            highest: 0,
            final_size: None,
            window: STREAM_WINDOW,
            max: STREAM_WINDOW,
            consumed: 0,
            buffer: Vec::new(),
            head: 0,
            unread_max: SESSION_WINDOW,
        }
    }

    /// Puts ordered bytes off that lie further ahead of the reader than this.
    pub fn keep_at_most(&mut self, bytes: u64) {
        self.unread_max = bytes;
    }

    /// Memory that ordered bytes take.
    #[cfg(test)]
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Reset(_))
    }

    /// Whether the peer may still send new bytes.
    pub fn is_receiving(&self) -> bool {
        self.state == State::Receiving
    }

    fn check_final(&mut self, end: u64, fin: bool) -> Result<(), Violation> {
        let wrong = match self.final_size {
            Some(size) => end > size || (fin && end != size),
            None => fin && end < self.highest,
        };
        if wrong {
            return Err(Violation::FINAL_SIZE);
        }
        if fin {
            self.final_size = Some(end);
        }
        Ok(())
    }

    /// Counts bytes up to `end`, of which the session has room for `room` new ones.
    fn count(&mut self, end: u64, room: u64) -> Result<u64, Violation> {
        let new = end.saturating_sub(self.highest);
        if new > 0 {
            if end > self.max {
                return Err(Violation::STREAM_LIMIT);
            }
            if new > room {
                return Err(Violation::SESSION_LIMIT);
            }
            self.highest = end;
        }
        Ok(new)
    }

    /// Takes the bytes of a frame. `room` is what the session's window still allows.
    ///
    /// Inlined for the sake of what it returns: small fields that are written one by one and read together cannot be
    /// forwarded between the two, so that the reader waited until the bytes that the sink had just copied had left
    /// the store buffer: 15 % of a receiver's time (docs/benchmarks.md).
    #[inline(always)]
    pub fn on_data(
        &mut self,
        id: StreamId,
        offset: u64,
        bytes: &[u8],
        fin: bool,
        room: u64,
        sink: &mut impl Sink,
    ) -> Result<Change, Refusal> {
        let end = offset + bytes.len() as u64;
        if self.received.len() >= STREAM_RANGES_MAX && self.is_receiving() && !self.joins(offset, end) {
            return Err(Refusal::Later);
        }
        let keeps = self.mode == RecvMode::Ordered && self.is_receiving() && end <= self.max;
        if keeps && end > self.consumed.saturating_add(self.unread_max) {
            return Err(Refusal::Later);
        }
        self.check_final(end, fin)?;
        let counted = self.count(end, room)?;
        match self.state {
            State::Receiving => {}
            State::Stopped => return Ok(self.drop_rest(counted)),
            State::Complete | State::Reset(_) | State::Done => return Ok(Change::default()),
        }
        let was_ready = self.ready();
        match self.mode {
            RecvMode::Sink => {
                for new in self.received.gaps(offset..end) {
                    let run = &bytes[(new.start - offset) as usize..(new.end - offset) as usize];
                    sink.data(id, new.start, run);
                }
            }
            RecvMode::Ordered => self.keep(offset, bytes),
        }
        self.got += self.received.insert(offset..end);
        let mut change = Change { counted, readable: self.ready() > was_ready, ..Change::default() };
        if self.final_size == Some(self.got) {
            change.finished = true;
            change.readable |= self.mode == RecvMode::Ordered;
            self.complete(&mut change);
        }
        Ok(change)
    }

    /// Whether a range costs no new entry in the set.
    fn joins(&self, start: u64, end: u64) -> bool {
        start == 0 || start == end || self.received.contains(start - 1) || self.received.contains(end)
    }

    fn complete(&mut self, change: &mut Change) {
        match self.mode {
            RecvMode::Sink => {
                change.credited += self.highest - self.consumed;
                self.consumed = self.highest;
                self.state = State::Done;
            }
            RecvMode::Ordered => self.state = State::Complete,
        }
    }

    /// Stopped: everything counted is credited, and a known final size ends it.
    fn drop_rest(&mut self, counted: u64) -> Change {
        if self.final_size.is_some() {
            self.state = State::Done;
        }
        let rest = self.final_size.unwrap_or(self.highest).max(self.highest);
        let counted = counted + (rest - self.highest);
        self.highest = rest;
        let credited = self.highest - self.consumed;
        self.consumed = self.highest;
        Change { counted, credited, ..Change::default() }
    }

    fn keep(&mut self, offset: u64, bytes: &[u8]) {
        let skip = self.consumed.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let bytes = &bytes[skip..];
        if bytes.is_empty() {
            return;
        }
        let at = self.head + (offset + skip as u64 - self.consumed) as usize;
        if at == self.buffer.len() {
            self.buffer.extend_from_slice(bytes);
            return;
        }
        if self.buffer.len() < at + bytes.len() {
            self.buffer.resize(at + bytes.len(), 0);
        }
        self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Ordered bytes that can be read.
    fn ready(&self) -> u64 {
        match (self.mode, self.received.iter().next()) {
            (RecvMode::Ordered, Some(first)) if first.start == 0 => first.end.saturating_sub(self.consumed),
            _ => 0,
        }
    }

    /// Appends up to `max` ordered bytes to `into`; the change tells what the session gets back.
    pub fn read(&mut self, into: &mut Vec<u8>, max: usize) -> (ReadState, Change) {
        let mut change = Change::default();
        match self.state {
            State::Receiving | State::Complete if self.mode == RecvMode::Ordered => {}
            State::Done if self.final_size == Some(self.got) => return (ReadState::Finished, change),
            State::Reset(code) => return (ReadState::Reset(code), change),
            _ => return (ReadState::Gone, change),
        }
        let take = usize::try_from(self.ready()).unwrap_or(usize::MAX).min(max);
        into.extend_from_slice(&self.buffer[self.head..self.head + take]);
        self.head += take;
        self.consumed += take as u64;
        change.credited = take as u64;
        if self.head >= self.buffer.len() {
            self.buffer.clear();
            self.head = 0;
        } else if self.head >= self.buffer.len() / 2 {
            self.buffer.drain(..self.head);
            self.head = 0;
        }
        if self.final_size == Some(self.consumed) {
            self.state = State::Done;
            self.buffer = Vec::new();
            return (ReadState::Finished, change);
        }
        (if self.ready() > 0 { ReadState::More } else { ReadState::Blocked }, change)
    }

    /// Sink mode: the application is done with so many bytes more. Returns what the session gets back.
    pub fn consume(&mut self, bytes: u64) -> u64 {
        if self.mode == RecvMode::Ordered || self.state != State::Receiving {
            return 0;
        }
        let bytes = bytes.min(self.highest - self.consumed);
        self.consumed += bytes;
        bytes
    }

    /// Chooses the mode before anything was read; a sink gets at once what came so far.
    pub fn accept(&mut self, id: StreamId, mode: RecvMode, sink: &mut impl Sink) -> Change {
        let mut change = Change::default();
        if self.mode == mode || !matches!(self.state, State::Receiving | State::Complete) {
            return change;
        }
        if mode == RecvMode::Sink {
            for range in self.received.iter().filter(|range| range.end > self.consumed) {
                let start = range.start.max(self.consumed);
                let from = self.head + (start - self.consumed) as usize;
                sink.data(id, start, &self.buffer[from..from + (range.end - start) as usize]);
            }
            self.mode = mode;
            (self.buffer, self.head) = (Vec::new(), 0);
            if self.state == State::Complete {
                self.complete(&mut change);
            }
        }
        change
    }

    /// The peer gave up at `final_size`. The second value says whether that is news to the application.
    pub fn on_reset(&mut self, code: u64, final_size: u64, room: u64) -> Result<(Change, bool), Violation> {
        self.check_final(final_size, true)?;
        let counted = self.count(final_size, room)?;
        match self.state {
            State::Receiving => {
                let credited = self.highest - self.consumed;
                self.consumed = self.highest;
                self.buffer = Vec::new();
                self.head = 0;
                self.state = State::Reset(code);
                Ok((Change { counted, credited, readable: false, finished: false }, true))
            }
            State::Stopped => Ok((self.drop_rest(counted), false)),
            State::Complete | State::Reset(_) | State::Done => Ok((Change::default(), false)),
        }
    }

    /// The application wants no more. The second value says whether the peer must be told.
    pub fn stop(&mut self) -> (Change, bool) {
        let asked = self.state == State::Receiving && self.final_size.is_none();
        match self.state {
            State::Receiving | State::Complete => {
                self.state = State::Stopped;
                self.buffer = Vec::new();
                self.head = 0;
                (self.drop_rest(0), asked)
            }
            State::Stopped | State::Reset(_) | State::Done => (Change::default(), false),
        }
    }

    /// Whether STOP is still worth sending.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Grows the window to `bytes`, at most the session's.
    pub fn grow_window(&mut self, bytes: u64) {
        self.window = self.window.max(bytes.min(SESSION_WINDOW));
    }

    /// Bytes of the whole stream, once known.
    pub fn final_size(&self) -> Option<u64> {
        self.final_size
    }

    /// A higher limit worth telling the peer.
    pub fn better_limit(&self) -> Option<u64> {
        let limit = self.consumed + self.window;
        let useful = self.state == State::Receiving && self.final_size.is_none();
        (useful && limit >= self.max + self.window / 4).then_some(limit)
    }

    /// The limit that goes into a frame now; from now on the peer may know it.
    pub fn announce(&mut self) -> Option<u64> {
        let useful = self.state == State::Receiving && self.final_size.is_none();
        useful.then(|| {
            self.max = self.max.max(self.consumed + self.window);
            self.max
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: StreamId = StreamId(0);

    #[derive(Default)]
    struct Collect(Vec<Option<u8>>);
    impl Sink for Collect {
        fn data(&mut self, _: StreamId, offset: u64, bytes: &[u8]) {
            let end = offset as usize + bytes.len();
            self.0.resize(self.0.len().max(end), None);
            for (at, byte) in (offset as usize..).zip(bytes) {
                assert!(self.0[at].replace(*byte).is_none(), "byte {at} twice");
            }
        }
    }

    proptest! {
        /// Overlapping frames in any order: each mode, and a change of mode on the way, delivers the same.
        #[test]
        fn delivers_each_byte_once(
            cuts in prop::collection::vec((0usize..3000, 1usize..700), 1..40), order in any::<u64>(),
            accept_after in prop::option::of(0usize..40), read_max in 1usize..900,
        ) {
            let bytes: Vec<u8> = (0..3000u32).map(|i| ((i * 31) >> 3) as u8).collect();
            let mut frames: Vec<(usize, usize)> = cuts.iter().map(|(at, len)| (*at, (at + len).min(3000))).collect();
            frames.extend((0..3000).step_by(500).map(|at| (at, at + 500)));
            let mut rng = crate::base::Rng::from_number(order);
            for i in (1..frames.len()).rev() {
                frames.swap(i, rng.below(i as u64 + 1) as usize);
            }
            let mut half = RecvHalf::new(RecvMode::Ordered);
            let (mut sink, mut read) = (Collect::default(), Vec::new());
            let (mut counted, mut credited, mut finished) = (0, 0, 0);
            let mut add = |change: Change| {
                counted += change.counted;
                credited += change.credited;
                finished += u32::from(change.finished);
            };
            for (turn, (start, end)) in frames.iter().enumerate() {
                let fin = *end == 3000;
                add(half.on_data(ID, *start as u64, &bytes[*start..*end], fin, u64::MAX, &mut sink).unwrap());
                match accept_after {
                    Some(after) if turn == after => add(half.accept(ID, RecvMode::Sink, &mut sink)),
                    None => add(half.read(&mut read, read_max).1),
                    _ => {}
                }
            }
            if accept_after.is_some() {
                add(half.accept(ID, RecvMode::Sink, &mut sink));
                let got: Vec<u8> = sink.0.into_iter().map(Option::unwrap).collect();
                prop_assert_eq!(&got, &bytes);
            } else {
                while !half.is_done() {
                    add(half.read(&mut read, read_max).1);
                }
                prop_assert_eq!(&read, &bytes);
            }
            prop_assert!(half.is_done());
            prop_assert_eq!((counted, credited, finished), (3000, 3000, 1));
        }
    }

    #[test]
    fn finds_every_violation() {
        let refuse = |violation| Err(Refusal::Violation(violation));
        let mut half = RecvHalf::new(RecvMode::Ordered);
        assert_eq!(
            half.on_data(ID, STREAM_WINDOW, &[1], false, 1 << 40, &mut ()),
            refuse(Violation::STREAM_LIMIT)
        );
        assert_eq!(half.on_data(ID, 0, &[0; 11], false, 10, &mut ()), refuse(Violation::SESSION_LIMIT));
        half.on_data(ID, 10, &[0; 10], false, 1000, &mut ()).unwrap();
        assert_eq!(half.on_data(ID, 0, &[0; 10], true, 1000, &mut ()), refuse(Violation::FINAL_SIZE));
        half.on_data(ID, 20, &[0; 10], true, 1000, &mut ()).unwrap();
        assert_eq!(half.on_data(ID, 25, &[0; 6], false, 1000, &mut ()), refuse(Violation::FINAL_SIZE));
        assert_eq!(half.on_reset(7, 29, 1000), Err(Violation::FINAL_SIZE));
        let (change, told) = half.on_reset(7, 30, 1000).unwrap();
        assert_eq!((change.credited, told), (30, true));
        assert_eq!(half.read(&mut Vec::new(), 100).0, ReadState::Reset(7));
        assert!(half.is_done());
    }

    #[test]
    fn too_many_holes_are_put_off_not_punished() {
        let mut half = RecvHalf::new(RecvMode::Sink);
        for index in 0..STREAM_RANGES_MAX as u64 {
            half.on_data(ID, 10 + 10 * index, &[1], false, 1 << 30, &mut ()).unwrap();
        }
        let later = half.on_data(ID, 5, &[1], false, 1 << 30, &mut ());
        assert_eq!(later, Err(Refusal::Later));
        half.on_data(ID, 11, &[1; 9], false, 1 << 30, &mut ()).unwrap();
        half.on_data(ID, 5, &[1], false, 1 << 30, &mut ()).unwrap();
        assert_eq!(half.received.len(), STREAM_RANGES_MAX);
    }

    #[test]
    fn a_stopped_stream_gives_its_credit_back() {
        let mut half = RecvHalf::new(RecvMode::Sink);
        let mut total = half.on_data(ID, 0, &[0; 100], false, 1000, &mut ()).unwrap().counted;
        assert_eq!(half.consume(30), 30);
        let (change, tell) = half.stop();
        assert!(tell && change.credited == 70);
        let change = half.on_data(ID, 200, &[0; 10], false, 1000, &mut ()).unwrap();
        total += change.counted;
        assert_eq!((total, change.credited), (210, 110));
        let (change, told) = half.on_reset(1, 220, 1000).unwrap();
        assert_eq!((change.counted, change.credited, told), (10, 10, false));
        assert!(half.is_done());
    }

    #[test]
    fn limits_are_told_when_a_quarter_is_free() {
        let mut half = RecvHalf::new(RecvMode::Sink);
        half.on_data(ID, 0, &vec![0; STREAM_WINDOW as usize], false, 1 << 30, &mut ()).unwrap();
        half.consume(STREAM_WINDOW / 4 - 1);
        assert_eq!(half.better_limit(), None);
        half.consume(1);
        assert_eq!(half.better_limit(), Some(STREAM_WINDOW + STREAM_WINDOW / 4));
        assert_eq!(half.announce(), half.better_limit().or(Some(STREAM_WINDOW + STREAM_WINDOW / 4)));
        assert_eq!(half.better_limit(), None);
        half.grow_window(u64::MAX);
        assert_eq!(half.announce(), Some(STREAM_WINDOW / 4 + SESSION_WINDOW));
    }
}

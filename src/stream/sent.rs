//! What left and was not settled yet: a ring indexed by packet number, and beside it a ring of references
//! to what the packets carried. Retransmission sends those ranges and settings anew, never old bytes.
//!
//! Both rings grow to the largest flight and stay, so sending allocates nothing in steady state.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use crate::base::{RangeSet, Time};

/// Settled packets that elicit no acknowledgement leave the ring when so many newer ones exist.
const QUIET_KEPT: u64 = 128;

/// What a packet carried that matters when it arrives or is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameRef {
    /// Bytes of a stream; `open` when the frame named the channel.
    Stream { id: u64, start: u64, len: u32, fin: bool, open: bool },
    /// An acknowledgement of everything up to `largest`.
    Ack { largest: u64 },
    /// RESET of a stream.
    Reset { id: u64 },
    /// STOP of a stream.
    Stop { id: u64 },
    /// MAX_STREAM_DATA of a stream.
    StreamWindow { id: u64 },
    /// MAX_DATA.
    SessionWindow,
    /// MAX_STREAMS.
    StreamCredit,
}

/// How it stands with a packet number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not one of ours: another kind of packet has this number.
    Foreign,
    /// No packet has this number: who acknowledges it lies.
    Skipped,
    /// Elicits an acknowledgement that did not come yet.
    InFlight,
    /// Elicits none.
    Quiet,
    /// Arrived.
    Acked,
    /// Presumed lost; kept a while, since it may only be late.
    Lost,
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When it left.
    pub time: Time,
    /// UDP payload, bytes; 0 when it does not count in flight (any more).
    pub size: u32,
    /// How it stands.
    pub state: State,
    /// Whether it probes the path MTU.
    pub probe: bool,
    count: u16,
    first: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SentPackets {
    base: u64,
    packets: VecDeque<Sent>,
    refs_base: u64,
    refs: VecDeque<FrameRef>,
    staged: u16,
    /// No packet below this number is in flight.
    flight: u64,
    acked: RangeSet,
    in_flight: u64,
    eliciting: usize,
    quiet: usize,
    /// A number that no packet will have.
    skipped: Option<u64>,
    /// Those that are remembered, ascending.
    skips: VecDeque<u64>,
}

impl SentPackets {
    /// The number behind the last packet.
    pub fn next(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    /// Packets remembered.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Bytes in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Packets whose acknowledgement is awaited.
    pub fn eliciting(&self) -> usize {
        self.eliciting
    }

    /// Packets that elicit nothing and of which nothing was heard.
    pub fn quiet(&self) -> usize {
        self.quiet
    }

    /// No packet will have this number, which is behind all that left and before the next that leaves.
    pub fn skip(&mut self, number: u64) {
        self.skipped = Some(number);
    }

    /// Whether a range has a number in it that was left out.
    pub fn has_skipped(&self, range: &Range<u64>) -> bool {
        let at = self.skips.partition_point(|number| *number < range.start);
        self.skips.get(at).is_some_and(|number| *number < range.end)
    }

    /// The packet that is remembered longest.
    pub fn oldest(&self) -> Option<(u64, Sent)> {
        self.packets.front().map(|packet| (self.base, *packet))
    }

    /// Looks a packet up.
    pub fn get(&self, number: u64) -> Option<&Sent> {
        self.packets.get(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Sent> {
        self.packets.get_mut(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    /// Notes what the packet being written carries.
    pub fn stage(&mut self, frame: FrameRef) {
        self.refs.push_back(frame);
        self.staged += 1;
    }

    /// The packet being written does not leave.
    pub fn unstage(&mut self) {
        self.refs.truncate(self.refs.len() - usize::from(self.staged));
        self.staged = 0;
    }

    /// The packet being written leaves as `number`, which is larger than every number before.
    pub fn commit(&mut self, now: Time, number: u64, size: u32, eliciting: bool, probe: bool) {
        let first = self.refs_base + (self.refs.len() - usize::from(self.staged)) as u64;
        let skipped = self.skipped.take().filter(|skipped| *skipped < number);
        if self.packets.is_empty() {
            let start = skipped.unwrap_or(number);
            (self.base, self.flight) = (start, start);
        }
        assert!(number >= self.next(), "packet numbers ascend");
        let foreign = Sent { time: now, size: 0, state: State::Foreign, probe: false, count: 0, first };
        while self.next() < number {
            let skip = skipped == Some(self.next());
            if skip {
                self.skips.push_back(self.next());
            }
            let state = if skip { State::Skipped } else { State::Foreign };
            self.packets.push_back(Sent { state, ..foreign });
        }
        let state = if eliciting { State::InFlight } else { State::Quiet };
        let count = std::mem::take(&mut self.staged);
        self.packets.push_back(Sent { time: now, size, state, probe, count, first });
        if eliciting {
            self.in_flight += u64::from(size);
            self.eliciting += 1;
        } else {
            self.quiet += 1;
        }
    }

    /// One reference of a packet (which is still remembered); `None` past the last.
    pub fn frame(&self, packet: &Sent, index: u16) -> Option<FrameRef> {
        let at = packet.first.checked_sub(self.refs_base)? + u64::from(index);
        (index < packet.count).then(|| self.refs.get(at as usize).copied()).flatten()
    }

    /// Appends to `fresh` the parts of acknowledged `ranges` (highest first) that are news, highest range
    /// first.
    pub fn fresh(&mut self, ranges: impl Iterator<Item = Range<u64>>, fresh: &mut Vec<Range<u64>>) {
        let (base, next) = (self.base, self.next());
        for range in ranges {
            if range.end <= base {
                break;
            }
            let range = range.start.max(base)..range.end.min(next);
            let before = fresh.len();
            fresh.extend(self.acked.gaps(range.clone()));
            fresh[before..].reverse();
            self.acked.insert(range);
        }
    }

    /// A packet arrived; returns how it was before.
    pub fn acknowledge(&mut self, number: u64) -> Option<Sent> {
        let packet = self.get_mut(number)?;
        let before = *packet;
        if !matches!(before.state, State::Foreign | State::Skipped) {
            packet.state = State::Acked;
        }
        self.settle(&before);
        Some(before)
    }

    /// A packet in flight is presumed lost; returns how it was before.
    pub fn lose(&mut self, number: u64) -> Option<Sent> {
        let packet = self.get_mut(number)?;
        let before = *packet;
        packet.state = State::Lost;
        self.settle(&before);
        Some(before)
    }

    fn settle(&mut self, before: &Sent) {
        match before.state {
            State::InFlight => {
                self.in_flight -= u64::from(before.size);
                self.eliciting -= 1;
            }
            State::Quiet => self.quiet -= 1,
            State::Foreign | State::Skipped | State::Acked | State::Lost => {}
        }
    }

    /// The oldest packet in flight.
    pub fn first_in_flight(&mut self) -> Option<u64> {
        self.flight = self.flight.max(self.base);
        while self.flight < self.next() {
            if self.packets[(self.flight - self.base) as usize].state == State::InFlight {
                return Some(self.flight);
            }
            self.flight += 1;
        }
        None
    }

    /// Packets in flight from the oldest on.
    pub fn in_flight_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let from = self.flight.max(self.base);
        let packets = self.packets.range((from - self.base) as usize..);
        (from..).zip(packets).filter(|(_, packet)| packet.state == State::InFlight).map(|(number, _)| number)
    }

    /// Whether none of the packets in a range arrived.
    pub fn none_arrived(&self, range: Range<u64>) -> bool {
        self.acked.gaps(range.clone()).eq((!range.is_empty()).then_some(range))
    }

    /// Nothing that left so far counts in flight any more: the path changed.
    pub fn discount(&mut self) {
        self.packets.iter_mut().for_each(|packet| packet.size = 0);
        self.in_flight = 0;
    }

    /// Forgets settled packets at the front; lost ones after `late`.
    pub fn trim(&mut self, now: Time, late: Duration) {
        let base = self.base;
        while !self.packets.is_empty() && self.is_settled(now, late) {
            self.pop();
        }
        if self.base > base {
            self.acked.remove(0..self.base);
        }
    }

    /// Forgets the oldest packet, which is not in flight, whether or not it was heard of.
    pub fn forget_oldest(&mut self) {
        debug_assert!(self.oldest().is_none_or(|(_, packet)| packet.state != State::InFlight));
        self.pop();
        self.acked.remove(0..self.base);
    }

    fn pop(&mut self) {
        let Some(front) = self.packets.pop_front() else { return };
        self.quiet -= usize::from(front.state == State::Quiet);
        if front.state == State::Skipped {
            self.skips.pop_front();
        }
        self.refs.drain(..usize::from(front.count));
        self.refs_base += u64::from(front.count);
        self.base += 1;
    }

    /// Whether the front may be forgotten. A number that was left out stays for as long as the packet behind
    /// it: until then an acknowledgement may name both.
    fn is_settled(&self, now: Time, late: Duration) -> bool {
        let is_skipped = matches!(self.packets.front(), Some(front) if front.state == State::Skipped);
        let no_packet = |packet: &Sent| matches!(packet.state, State::Foreign | State::Skipped);
        let mut packets = (self.base..).zip(&self.packets);
        let decides = if is_skipped { packets.find(|(_, it)| !no_packet(it)) } else { packets.next() };
        decides.is_some_and(|(number, packet)| match packet.state {
            State::Foreign | State::Acked => true,
            State::Lost => packet.time + late <= now,
            State::Quiet => number + QUIET_KEPT < self.next(),
            State::InFlight | State::Skipped => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn settles_each_packet_once_across_gaps() {
        let mut sent = SentPackets::default();
        for number in [5u64, 6, 9, 10] {
            sent.stage(FrameRef::Ack { largest: number });
            sent.commit(Time(number), number, 100, true, false);
        }
        sent.stage(FrameRef::SessionWindow);
        sent.unstage();
        assert_eq!((sent.in_flight(), sent.next(), sent.first_in_flight()), (400, 11, Some(5)));
        let mut fresh = Vec::new();
        sent.fresh([9..1000, 2..6].into_iter(), &mut fresh);
        assert_eq!(fresh, [9..11, 5..6]);
        for number in fresh.drain(..).flatten() {
            let before = sent.acknowledge(number).unwrap();
            assert_eq!(sent.frame(&before, 0), Some(FrameRef::Ack { largest: number }));
            assert_eq!(sent.frame(&before, 1), None);
        }
        assert_eq!((sent.in_flight(), sent.first_in_flight()), (100, Some(6)));
        sent.fresh([2..10].into_iter(), &mut fresh);
        assert_eq!(fresh, [6..9], "7 and 8 are foreign, 9 is known");
        sent.lose(6);
        sent.trim(Time(6), Duration::from_nanos(10));
        assert_eq!((sent.len(), sent.in_flight()), (5, 0), "a lost packet is kept a while");
        sent.trim(Time(16), Duration::from_nanos(10));
        assert_eq!((sent.len(), sent.next(), sent.refs.len()), (0, 11, 0));
        sent.commit(Time(20), 20, 10, true, false);
        assert_eq!((sent.len(), sent.first_in_flight()), (1, Some(20)));
    }

    #[test]
    fn a_skipped_number_leaves_with_the_packet_behind_it_whatever_became_of_that() {
        let late = Duration::from_nanos(10);
        for fate in [State::Acked, State::Lost, State::Quiet] {
            let mut sent = SentPackets::default();
            sent.skip(0);
            sent.stage(FrameRef::SessionWindow);
            sent.commit(Time(0), 2, 100, fate != State::Quiet, false);
            sent.trim(Time(100), late);
            assert_eq!((sent.len(), sent.skips.len()), (3, 1), "may yet be acknowledged");
            match fate {
                State::Acked => _ = sent.acknowledge(2),
                State::Lost => {
                    sent.lose(2);
                    sent.trim(Time(9), late);
                    assert!(sent.has_skipped(&(0..1)), "the packet may only be late");
                }
                _ => {
                    for number in 3..2 + QUIET_KEPT {
                        sent.commit(Time(1), number, 100, false, false);
                        sent.trim(Time(100), late);
                        assert!(sent.has_skipped(&(0..1)), "the packet is kept up to {number}");
                    }
                    sent.commit(Time(1), 2 + QUIET_KEPT, 100, false, false);
                }
            }
            sent.trim(Time(100), late);
            let left = if fate == State::Quiet { QUIET_KEPT as usize } else { 0 };
            assert_eq!(sent.len(), left, "{fate:?}");
            assert_eq!((sent.skips.len(), sent.refs.len()), (0, 0), "{fate:?}");
        }
    }
}

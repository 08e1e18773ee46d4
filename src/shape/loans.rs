//! Lanes of one peer share what it may and what it is owed: the place of its first lane has the buckets, those of the others
//! hold what it lends them (docs/shaping.md §5).
//!
//! ```text
//! first lane: Shaper ── lend ─▶ Loan ─▶ feed ── another lane's: Shaper, on whichever shard
//!                         ▲                            │
//!                         └────── Short ◀── poll_short ┘
//! ```

use std::time::Duration;

use super::peer::LENT;
use super::shaper::Shaper;
use super::types::Slot;
use crate::base::Time;
use crate::base::budget::{Loan, Short};
use crate::limits::{LOAN_PAUSE_US, WIRE_PACKET_MAX, WIRE_TRAIN_MAX};

impl Shaper {
    /// Whether a place has what its peer may and is owed itself, or borrows it.
    pub fn set_borrowing(&mut self, now: Time, peer: Slot, borrows: bool) {
        let extra = &mut self.extra[peer.index()];
        if std::mem::replace(&mut extra.borrows, borrows) != borrows {
            self.feed_if_borrowed(now, peer);
            self.note_special(peer);
            self.place(now, peer.0);
        }
    }

    pub(super) fn feed_if_borrowed(&mut self, now: Time, peer: Slot) {
        let (hot, extra) = (&mut self.peers[peer.index()], &mut self.extra[peer.index()]);
        for bucket in [&mut hot.cap, &mut extra.floor, &mut extra.reserve] {
            bucket.set_fed(now, extra.borrows);
        }
    }

    pub(super) fn note_short(&mut self, index: u32, short: Short) {
        let extra = &mut self.extra[index as usize];
        if extra.borrows {
            if !extra.short.is_any() {
                self.short.push(Slot(index));
            }
            extra.short = short;
        }
    }

    /// The next place that has run out of what it borrows, and of what. It is told once, until [`Self::feed`] answers;
    /// with nothing where nobody does.
    pub fn poll_short(&mut self) -> Option<(Slot, Short)> {
        while let Some(peer) = self.short.pop() {
            let short = self.extra[peer.index()].short;
            if short.is_any() && self.peers[peer.index()].waiting != 0 {
                return Some((peer, short));
            }
            self.extra[peer.index()].short = Short::default();
        }
        None
    }

    /// Something was lent to a place.
    pub fn feed(&mut self, now: Time, peer: Slot, loan: Loan) {
        let (hot, extra) = (&mut self.peers[peer.index()], &mut self.extra[peer.index()]);
        if !extra.borrows {
            return;
        }
        extra.short = Short::default();
        hot.cap.give_back(loan.cap);
        extra.floor.give_back(loan.floor);
        extra.reserve.give_back(loan.reserve);
        self.place(now, peer.0);
    }

    /// Lends what is there of what somebody is short of, a turn's worth at most. The lender and those who borrow take
    /// turns.
    pub fn lend(&mut self, now: Time, peer: Slot, short: Short) -> Option<Loan> {
        if self.lend_at(now, peer, short)? > now {
            return None;
        }
        let (hot, extra) = (&mut self.peers[peer.index()], &mut self.extra[peer.index()]);
        // Who asks has less than a turn's worth and has room for another.
        let turn = if hot.cap.is_unlimited() { WIRE_TRAIN_MAX } else { hot.cap.quantum() };
        let whole = hot.cap.available().min(turn);
        let mut loan = Loan::default();
        if short.cap && !hot.cap.is_unlimited() {
            loan.cap = whole;
            hot.cap.take(now, whole);
        }
        if short.floor {
            // Its cap was lent for itself: what is left of it here says nothing.
            loan.floor = extra.floor.available().min(turn);
            extra.floor.take(now, loan.floor);
        }
        if short.reserve {
            loan.reserve = extra.reserve.available().min(turn);
            extra.reserve.take(now, loan.reserve);
        }
        if loan == Loan::default() {
            return None;
        }
        hot.flags |= LENT;
        self.place(now, peer.0);
        Some(loan)
    }

    /// When [`Self::lend`] may have something to lend, to look again then; `None` when it never has.
    pub fn lend_at(&mut self, now: Time, peer: Slot, short: Short) -> Option<Time> {
        let (hot, extra) = (&mut self.peers[peer.index()], &mut self.extra[peer.index()]);
        let buckets =
            [(short.cap, &mut hot.cap), (short.floor, &mut extra.floor), (short.reserve, &mut extra.reserve)];
        // Who waits here needs a whole turn's worth after having run dry: those who borrow come before it with half of one,
        // and when they have, not before it has sent something or has all that it can hold.
        let (waits, lent) = (hot.waiting != 0, hot.flags & LENT != 0);
        let part = |quantum: u64| match (waits, lent) {
            (true, false) => quantum / 2,
            (true, true) => u64::MAX,
            (false, _) => quantum,
        };
        let of = buckets
            .into_iter()
            .filter(|(short, bucket)| *short && bucket.rate().is_some_and(|rate| rate > 0));
        let first = of.filter_map(|(_, bucket)| {
            bucket.fill(now);
            let at = bucket.holds_at(part(bucket.quantum()).max(WIRE_PACKET_MAX))?;
            // It may send in the time of a turn, and then it is a borrower's.
            let turn = now + bucket.turn_time().max(Duration::from_micros(LOAN_PAUSE_US));
            Some(if waits && lent && at > now { at.min(turn) } else { at })
        });
        first.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Class, Limits};

    const CAP: u64 = 4_000_000;

    fn limits(cap: Option<u64>, floor: Option<u64>) -> Limits {
        Limits { cap, floor, ..Limits::default() }
    }

    /// Runs two shapers, the first lane's place in one and another's in the other, both always ready, for so long: bytes
    /// of each.
    fn run(owner_waits: bool, limits: Limits, time: Duration) -> [u64; 2] {
        let mut shapers = [Shaper::new(Time::ZERO), Shaper::new(Time::ZERO)];
        let slots = [0, 1].map(|n: usize| shapers[n].add(Time::ZERO, limits).expect("room"));
        shapers[1].set_borrowing(Time::ZERO, slots[1], true);
        let (mut sent, mut wanted) = ([0, 0], None);
        let mut now = Time::ZERO;
        while now < Time::ZERO + time {
            for n in [0, 1] {
                if n == 1 || owner_waits {
                    shapers[n].ready(now, slots[n], Class::Market);
                }
                while let Some(grant) = shapers[n].next(now) {
                    let bytes = grant.bytes.min(1400);
                    sent[n] += bytes;
                    shapers[n].settle(now, grant, bytes, true);
                    if limits.cap.is_none() {
                        break;
                    }
                }
            }
            wanted = shapers[1].poll_short().map(|(_, short)| short).or(wanted);
            if let Some(loan) = wanted.and_then(|short| shapers[0].lend(now, slots[0], short)) {
                wanted = None;
                shapers[1].feed(now, slots[1], loan);
            }
            now += Duration::from_micros(100);
        }
        sent
    }

    #[test]
    fn lanes_of_a_peer_have_its_cap_together_and_take_turns() {
        let sent = run(true, limits(Some(CAP), None), Duration::from_secs(4));
        let all = (sent[0] + sent[1]) as f64 * 8.0 / 4.0 / CAP as f64;
        assert!((0.99..1.01).contains(&all), "{all}");
        assert!(2 * sent[0].min(sent[1]) > sent[0].max(sent[1]), "{sent:?}");
    }

    #[test]
    fn one_lane_alone_has_all_of_it_whichever_it_is() {
        let sent = run(false, limits(Some(CAP), None), Duration::from_secs(4));
        assert!((0.99..1.01).contains(&(sent[1] as f64 * 2.0 / CAP as f64)), "{sent:?}");
    }

    /// Found by a reader: a floor or a promise was lent out of what was left of the cap, which was nothing, again and again
    /// without end.
    #[test]
    fn a_lane_that_borrows_a_cap_and_a_floor_gets_both() {
        for owner_waits in [false, true] {
            let sent = run(owner_waits, limits(Some(CAP), Some(CAP / 2)), Duration::from_secs(4));
            let all = (sent[0] + sent[1]) as f64 * 2.0 / CAP as f64;
            assert!((0.99..1.01).contains(&all), "{all}");
        }
        let mut shaper = Shaper::new(Time::ZERO);
        let slot = shaper.add(Time::ZERO, limits(Some(CAP), Some(CAP / 2))).expect("room");
        let of = |cap, floor| Short { cap, floor, ..Short::default() };
        let mut now = Time::ZERO;
        let mut lent = Loan::default();
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            for short in [of(true, false), of(false, true)] {
                if let Some(loan) = shaper.lend(now, slot, short) {
                    assert!(loan != Loan::default(), "nothing is no loan");
                    (lent.cap, lent.floor) = (lent.cap + loan.cap, lent.floor + loan.floor);
                }
            }
        }
        assert!(lent.cap > 490_000 && lent.floor > 240_000, "{lent:?}");
    }

    /// With a large burst the lender would hold all that it can much later: a borrower's turn comes when it has sent.
    #[test]
    fn a_large_burst_makes_nobody_wait_for_all_of_it() {
        let burst = Limits { burst: Some(10 << 20), ..limits(Some(CAP), None) };
        let sent = run(true, burst, Duration::from_secs(4));
        assert!(sent[1] * 4 > sent[0], "{sent:?}");
    }

    #[test]
    fn a_floor_is_lent_and_is_no_limit() {
        let mut shaper = Shaper::new(Time::ZERO);
        let slot = shaper.add(Time::ZERO, limits(None, Some(CAP))).expect("room");
        let short = Short { floor: true, ..Short::default() };
        let mut lent = 0;
        for ms in 0..1000 {
            lent += shaper.lend(Time::from_millis(ms), slot, short).map_or(0, |loan| loan.floor);
        }
        assert!((490_000..520_000).contains(&lent), "{lent}");
        assert_eq!(shaper.lend(Time::from_millis(1000), slot, Short { cap: true, ..Short::default() }), None);
    }

    #[test]
    fn what_nobody_answers_is_asked_again_and_what_is_over_is_not() {
        let mut shaper = Shaper::new(Time::ZERO);
        let slot = shaper.add(Time::ZERO, limits(Some(CAP), None)).expect("room");
        shaper.set_borrowing(Time::ZERO, slot, true);
        shaper.ready(Time::ZERO, slot, Class::Market);
        assert_eq!(shaper.next(Time::ZERO), None);
        assert_eq!(shaper.poll_short(), Some((slot, Short { cap: true, ..Short::default() })));
        assert_eq!(shaper.poll_short(), None);
        shaper.feed(Time::from_millis(100), slot, Loan::default());
        assert!(shaper.poll_short().is_some());
        shaper.feed(Time::from_millis(200), slot, Loan::default());
        shaper.remove(slot);
        assert_eq!(shaper.poll_short(), None);
        let other = shaper.add(Time::from_millis(300), limits(Some(CAP), None)).expect("room");
        shaper.ready(Time::from_millis(300), other, Class::Market);
        assert!(shaper.next(Time::from_millis(310)).is_some(), "the next one has its own");
    }
}

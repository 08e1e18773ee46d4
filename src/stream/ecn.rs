//! Whether the path treats ECN as it should (RFC 9000 §13.4.2). Our ACK has one count, of packets that met
//! congestion, so what can be seen is: a path that eats marked packets, one that marks all of them, and a
//! peer that counts more than there were. A path that takes the code points off does no harm: congestion
//! shows as loss there. What fails is not tried again before the session moves.

/// Packets that decide about a path.
const TESTED: u64 = 10;
/// Probe timeouts in a row, with nothing ever arrived, after which packets leave unmarked.
const TIMEOUTS: u32 = 2;

/// One path, as far as ECN is concerned.
#[derive(Debug)]
pub(super) struct Ecn {
    /// Whether packets leave as ECN-capable.
    capable: bool,
    /// The peer's count so far, and where it was when the path began.
    ce: u64,
    ce_before: u64,
    /// Packets of this path that arrived, and that did not.
    arrived: u64,
    lost: u64,
}

impl Ecn {
    pub(super) fn new() -> Self {
        Self { capable: true, ce: 0, ce_before: 0, arrived: 0, lost: 0 }
    }

    /// Another path: its packets are marked until that turns out not to work.
    pub(super) fn fresh(&self) -> Self {
        Self { ce: self.ce, ce_before: self.ce, ..Self::new() }
    }

    pub(super) fn is_capable(&self) -> bool {
        self.capable
    }

    /// An acknowledgement said that `count` packets more have arrived, and that `ce` of all the `sent` ones
    /// met congestion. True when that is news to be believed.
    pub(super) fn on_acked(&mut self, count: u64, ce: u64, sent: u64) -> bool {
        self.arrived += count;
        // A late acknowledgement counts fewer.
        if !self.capable || ce <= self.ce {
            return false;
        }
        self.ce = ce;
        let marked = ce - self.ce_before;
        self.capable = ce <= sent && !(self.arrived >= TESTED && marked >= self.arrived);
        self.capable
    }

    /// An acknowledgement of nothing but packets of an earlier path said that `ce` met congestion: none of
    /// that was on this one.
    pub(super) fn on_earlier_acked(&mut self, ce: u64) {
        let news = ce.saturating_sub(self.ce);
        self.ce += news;
        self.ce_before += news;
    }

    /// A packet counts as lost.
    pub(super) fn on_lost(&mut self) {
        self.lost += 1;
        if self.arrived == 0 && self.lost >= TESTED {
            self.capable = false;
        }
    }

    /// Nothing was heard for so many probe timeouts in a row.
    pub(super) fn on_timeout(&mut self, timeouts: u32) {
        if self.arrived == 0 && timeouts >= TIMEOUTS {
            self.capable = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_count_is_believed_once() {
        let mut ecn = Ecn::new();
        assert!(!ecn.on_acked(10, 0, 20));
        assert!(ecn.on_acked(5, 3, 20));
        assert!(!ecn.on_acked(1, 3, 20) && !ecn.on_acked(1, 2, 20), "no news, and late");
        assert!(ecn.on_acked(1, 4, 20) && ecn.is_capable());
    }

    #[test]
    fn a_path_that_eats_marked_packets_gets_unmarked_ones() {
        let mut ecn = Ecn::new();
        (0..TESTED).for_each(|_| ecn.on_lost());
        assert!(!ecn.is_capable());
        assert!(ecn.fresh().is_capable(), "another path is another matter");
        let mut ecn = Ecn::new();
        ecn.on_timeout(1);
        assert!(ecn.is_capable());
        ecn.on_timeout(2);
        assert!(!ecn.is_capable());
        let mut ecn = Ecn::new();
        ecn.on_acked(1, 0, 1);
        (0..100).for_each(|n| (ecn.on_lost(), ecn.on_timeout(n)).0);
        assert!(ecn.is_capable(), "what once arrived can arrive");
    }

    #[test]
    fn marks_of_an_earlier_path_do_not_count_against_this_one() {
        let mut ecn = Ecn::new();
        assert!(ecn.on_acked(50, 5, 100));
        let mut ecn = ecn.fresh();
        ecn.on_earlier_acked(25);
        ecn.on_earlier_acked(24);
        assert_eq!((ecn.ce, ecn.ce_before), (25, 25), "a late one counts fewer");
        assert!(!ecn.on_acked(10, 25, 100), "no news");
        assert!(ecn.on_acked(1, 26, 100) && ecn.is_capable(), "one of eleven, not 21");
        ecn.on_earlier_acked(u64::MAX);
        assert!(!ecn.on_acked(1, u64::MAX, 100));
    }

    #[test]
    fn marks_on_everything_and_marks_that_cannot_be_are_not_believed() {
        let mut ecn = Ecn::new();
        assert!(ecn.on_acked(9, 9, 20), "too few to tell");
        assert!(!ecn.on_acked(1, 10, 20) && !ecn.is_capable());
        let moved = ecn.fresh();
        assert_eq!((moved.ce, moved.ce_before), (10, 10));
        let mut ecn = Ecn::new();
        assert!(!ecn.on_acked(100, 21, 20) && !ecn.is_capable());
    }
}

//! Whether a socket's trains are sent without a copy. The kernel can read them where they lie until the device has
//! sent them, and says afterwards whether it did, or had to copy after all, as loopback, veth and TUN devices always
//! have to: there the pinning of pages and a second completion are all that it gives.

use crate::limits::{ZERO_COPY_COPIED_MIN, ZERO_COPY_COPIED_SHARE, ZERO_COPY_SIZE_MIN};

/// What the reports of one socket's trains have shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Judge {
    copied: u32,
    avoided: u32,
    off: bool,
}

impl Judge {
    /// Whether a train of so many bytes should be sent without a copy.
    pub(super) fn wants(&self, len: u32) -> bool {
        !self.off && len as usize >= ZERO_COPY_SIZE_MIN
    }

    /// Takes a report; true when it ends the attempt, for good.
    pub(super) fn report(&mut self, copied: bool) -> bool {
        *(if copied { &mut self.copied } else { &mut self.avoided }) += 1;
        if self.copied + self.avoided == u32::MAX / 2 {
            (self.copied, self.avoided) = (self.copied / 2, self.avoided / 2);
        }
        // Of a socket with several ways out a few may go over one that copies.
        let too_many = self.copied >= ZERO_COPY_COPIED_MIN
            && self.copied > (self.copied + self.avoided) / ZERO_COPY_COPIED_SHARE;
        let ends = too_many && !self.off;
        self.off |= too_many;
        ends
    }

    /// The kernel cannot do it at all.
    pub(super) fn refuse(&mut self) {
        self.off = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_where_the_kernel_copies_and_goes_on_where_it_seldom_does() {
        let mut judge = Judge::default();
        assert!(judge.wants(ZERO_COPY_SIZE_MIN as u32) && !judge.wants(ZERO_COPY_SIZE_MIN as u32 - 1));
        let ends = (1..=ZERO_COPY_COPIED_MIN).map(|_| judge.report(true)).filter(|end| *end).count();
        assert_eq!(ends, 1, "said once");
        assert!(!judge.wants(60_000));
        judge.report(false);
        assert!(!judge.wants(60_000), "it stays");
        let mut judge = Judge::default();
        for round in 0..10_000 {
            assert!(!judge.report(round % (2 * ZERO_COPY_COPIED_SHARE) == 0), "{round}");
        }
        assert!(judge.wants(60_000));
    }
}

//! Where a session's packets go: following a peer that moves, without becoming a weapon
//! (docs/protocol/session.md §6).

use std::time::Duration;

use crate::base::{Path, Rng, Time};
use crate::limits::{AMPLIFICATION_MAX, PATH_TRIES_MAX, PATH_TRY_MS};

/// The active path of a session, whether it is proven, and where to go back to.
#[derive(Debug)]
pub(super) struct Paths {
    active: Path,
    /// While the active path is not validated; apart, as that is rare and sessions are many.
    unproven: Option<Box<Unproven>>,
}

#[derive(Debug)]
struct Unproven {
    /// Bytes received from and sent to the active path.
    received: u64,
    sent: u64,
    /// Bytes that may be sent besides: an address token's.
    credit: u64,
    /// The last validated path.
    fallback: Option<Path>,
    challenge: Option<Challenge>,
    /// The peer asked for the active path; its packets may still come from the fallback.
    preferred: bool,
}

#[derive(Debug)]
struct Challenge {
    data: [u8; 8],
    tries: u8,
    again_at: Time,
}

/// What a packet's address means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Nothing new.
    Same,
    /// Nothing new, and the path should be challenged (again).
    Challenge,
    /// The peer is at a new address; challenge it there, and where it was.
    Roamed,
    /// The peer is back at the address that was validated before.
    Returned,
}

/// What a challenge's deadline means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// Nothing is due.
    Wait,
    /// Send the challenge again.
    Challenge,
    /// No answer: back to the validated path.
    FellBack,
    /// No answer, and nothing to go back to: stays as it is, within its budget.
    GaveUp,
}

impl Paths {
    pub(super) fn validated(active: Path) -> Self {
        Self { active, unproven: None }
    }

    /// A path that `received` bytes came from so far, which anybody could have sent in its name.
    pub(super) fn unproven(active: Path, received: usize) -> Self {
        let state = Unproven {
            received: received as u64,
            sent: 0,
            credit: 0,
            fallback: None,
            challenge: None,
            preferred: false,
        };
        Self { active, unproven: Some(Box::new(state)) }
    }

    /// Lets so many bytes more be sent before the path is validated.
    pub(super) fn credited(mut self, bytes: u64) -> Self {
        if let Some(state) = &mut self.unproven {
            state.credit = bytes;
        }
        self
    }

    pub(super) fn active(&self) -> Path {
        self.active
    }

    pub(super) fn fallback(&self) -> Option<Path> {
        self.unproven.as_ref()?.fallback
    }

    pub(super) fn is_validated(&self) -> bool {
        self.unproven.is_none()
    }

    /// Bytes that may be sent now.
    pub(super) fn budget(&self) -> u64 {
        self.unproven.as_ref().map_or(u64::MAX, |state| {
            let earned = state.received.saturating_mul(AMPLIFICATION_MAX);
            earned.saturating_add(state.credit).saturating_sub(state.sent)
        })
    }

    /// Counts what was sent to the active path.
    pub(super) fn sent(&mut self, len: usize) {
        if let Some(state) = &mut self.unproven {
            state.sent += len as u64;
        }
    }

    /// Whether a packet from here needs no [`Self::arrived`]; the per-packet test.
    pub(super) fn is_settled(&self, path: &Path) -> bool {
        self.unproven.is_none() && self.active == *path
    }

    /// An authentic packet came; `highest` when none had a higher number.
    pub(super) fn arrived(
        &mut self,
        path: Path,
        len: usize,
        highest: bool,
        now: Time,
        rng: &mut Rng,
    ) -> Arrival {
        if path.remote == self.active.remote {
            self.active.local = path.local;
            let Some(state) = &mut self.unproven else { return Arrival::Same };
            state.received = state.received.saturating_add(len as u64);
            if state.challenge.is_some() {
                return Arrival::Same;
            }
            state.challenge = Some(Challenge::new(now, rng));
            return Arrival::Challenge;
        }
        let preferred = self.unproven.as_ref().is_some_and(|state| state.preferred);
        let from_fallback = self.fallback().is_some_and(|fallback| fallback.remote == path.remote);
        if !highest || (from_fallback && preferred) {
            return Arrival::Same;
        }
        if from_fallback {
            *self = Self::validated(path);
            return Arrival::Returned;
        }
        self.leave_for(path, len, false, now, rng);
        Arrival::Roamed
    }

    /// Tries another address because the peer asked for it; `credit` bytes count as received from it.
    pub(super) fn prefer(&mut self, path: Path, credit: usize, now: Time, rng: &mut Rng) {
        self.leave_for(path, credit, true, now, rng);
    }

    fn leave_for(&mut self, path: Path, received: usize, preferred: bool, now: Time, rng: &mut Rng) {
        let fallback = if self.is_validated() { Some(self.active) } else { self.fallback() };
        *self = Self::unproven(path, received);
        if let Some(state) = &mut self.unproven {
            state.fallback = fallback;
            state.challenge = Some(Challenge::new(now, rng));
            state.preferred = preferred;
        }
    }

    fn open_challenge(&self) -> Option<&Challenge> {
        self.unproven.as_ref()?.challenge.as_ref()
    }

    /// The challenge that is open for the active path.
    pub(super) fn challenge(&self) -> Option<[u8; 8]> {
        self.open_challenge().map(|challenge| challenge.data)
    }

    /// A response came; true when it validates the active path.
    pub(super) fn answered(&mut self, data: &[u8; 8]) -> bool {
        let fits = self.challenge().is_some_and(|challenge| challenge == *data);
        if fits {
            self.validate();
        }
        fits
    }

    /// The peer proved by other means that it receives at the active path.
    pub(super) fn validate(&mut self) {
        self.unproven = None;
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.open_challenge().map(|challenge| challenge.again_at)
    }

    pub(super) fn tick(&mut self, now: Time) -> Tick {
        let Some(state) = &mut self.unproven else { return Tick::Wait };
        let Some(challenge) = state.challenge.as_mut().filter(|challenge| challenge.again_at <= now) else {
            return Tick::Wait;
        };
        if challenge.tries < PATH_TRIES_MAX {
            challenge.again_at = now + Duration::from_millis(PATH_TRY_MS << challenge.tries);
            challenge.tries += 1;
            return Tick::Challenge;
        }
        state.challenge = None;
        match state.fallback {
            Some(fallback) => {
                *self = Self::validated(fallback);
                Tick::FellBack
            }
            None => Tick::GaveUp,
        }
    }
}

impl Challenge {
    fn new(now: Time, rng: &mut Rng) -> Self {
        Self { data: rng.bytes(), tries: 1, again_at: now + Duration::from_millis(PATH_TRY_MS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use proptest::prelude::*;

    fn path(port: u16) -> Path {
        Path { local: ([127, 0, 0, 1], 1).into(), remote: ([127, 0, 0, 1], port).into() }
    }

    fn moved() -> (Paths, Rng) {
        let (mut paths, mut rng) = (Paths::validated(path(1)), Rng::from_number(1));
        assert_eq!(paths.arrived(path(2), 100, true, Time::ZERO, &mut rng), Arrival::Roamed);
        (paths, rng)
    }

    #[test]
    fn a_new_address_has_three_times_what_it_sent() {
        let (mut paths, mut rng) = moved();
        assert_eq!((paths.active(), paths.budget()), (path(2), 300));
        paths.sent(250);
        assert_eq!(paths.arrived(path(2), 10, true, Time::ZERO, &mut rng), Arrival::Same);
        assert_eq!(paths.budget(), 80);
        let data = paths.challenge().unwrap();
        assert!(!paths.answered(&[0; 8]));
        assert!(paths.answered(&data));
        assert_eq!((paths.budget(), paths.fallback(), paths.deadline()), (u64::MAX, None, None));
        assert!(!paths.answered(&data));
    }

    #[test]
    fn late_packets_move_nothing() {
        let (mut paths, mut rng) = (Paths::validated(path(1)), Rng::from_number(1));
        assert_eq!(paths.arrived(path(2), 100, false, Time::ZERO, &mut rng), Arrival::Same);
        assert_eq!(paths.active(), path(1));
    }

    #[test]
    fn silence_at_the_new_address_leads_back() {
        let (mut paths, _) = moved();
        let mut challenges = 1;
        loop {
            let now = paths.deadline().unwrap();
            assert_eq!(paths.tick(Time(now.0 - 1)), Tick::Wait);
            match paths.tick(now) {
                Tick::Challenge => challenges += 1,
                other => break assert_eq!(other, Tick::FellBack),
            }
        }
        assert_eq!((challenges, paths.active(), paths.budget()), (PATH_TRIES_MAX, path(1), u64::MAX));
    }

    #[test]
    fn an_attacker_that_races_a_copy_loses_to_the_next_real_packet() {
        let (mut paths, mut rng) = moved();
        assert_eq!(paths.arrived(path(1), 50, true, Time::ZERO, &mut rng), Arrival::Returned);
        assert_eq!((paths.active(), paths.budget(), paths.challenge()), (path(1), u64::MAX, None));
    }

    #[test]
    fn a_preferred_port_is_not_undone_by_packets_under_way() {
        let (mut paths, mut rng) = (Paths::validated(path(1)), Rng::from_number(1));
        paths.prefer(path(9), 100, Time::ZERO, &mut rng);
        assert_eq!(paths.arrived(path(1), 50, true, Time::ZERO, &mut rng), Arrival::Same);
        assert_eq!((paths.active(), paths.budget()), (path(9), 300));
    }

    proptest! {
        /// Whatever happens, an unvalidated path never gets more than its multiple of what came from it.
        #[test]
        fn never_amplifies(steps in prop::collection::vec((0u8..4, 1u16..4, 1usize..1500), 1..120)) {
            let (mut paths, mut rng, mut now) = (Paths::validated(path(1)), Rng::from_number(1), Time::ZERO);
            let mut unproven: std::collections::BTreeMap<u16, (u64, u64)> = Default::default();
            for (what, port, len) in steps {
                match what {
                    0 => {
                        paths.arrived(path(port), len, true, now, &mut rng);
                        if !paths.is_validated() {
                            unproven.entry(port).or_default().0 += len as u64;
                        }
                    }
                    1 if paths.budget() >= len as u64 => {
                        paths.sent(len);
                        if !paths.is_validated() {
                            unproven.entry(paths.active().remote.port()).or_default().1 += len as u64;
                        }
                    }
                    2 => if let Some(at) = paths.deadline() {
                        now = at;
                        paths.tick(now);
                    },
                    3 if len < 200 => if let Some(data) = paths.challenge() {
                        prop_assert!(paths.answered(&data));
                    },
                    _ => {}
                }
                for (received, sent) in unproven.values() {
                    prop_assert!(*sent <= AMPLIFICATION_MAX * received);
                }
            }
        }
    }
}

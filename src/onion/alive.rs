//! Whether a circuit of ours still carries anything (docs/protocol/onion.md §10): while it is in use and nothing comes, its
//! other end is asked, and a silence ends it. A relay that died says nothing, and a download's receiver would wait.

use std::time::Duration;

use crate::base::Time;
use crate::limits::{ALIVE_MS_MAX, ALIVE_PING_MS, ALIVE_PING_MS_MAX, ALIVE_USED_MS, PATH_DOUBT_MS};

/// One circuit's life as its origin sees it.
#[derive(Debug, Clone, Copy)]
pub struct Alive {
    /// When content last went or came.
    used: Time,
    /// Since when nothing answers.
    silent: Option<Time>,
    ping_at: Time,
    pause: Duration,
    rtt: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask the other end.
    Ping,
    /// Nothing comes through any more.
    Dead,
}

const PAUSE: Duration = Duration::from_millis(ALIVE_PING_MS);

impl Alive {
    /// A circuit that just opened, in use.
    pub fn new(now: Time) -> Self {
        Self { used: now, silent: None, ping_at: now + PAUSE, pause: PAUSE, rtt: Duration::ZERO }
    }

    /// A packet goes out on it.
    pub fn sent(&mut self, now: Time) {
        if self.pause > PAUSE || !self.is_used(now) {
            (self.pause, self.ping_at) = (PAUSE, now + PAUSE);
        }
        self.used = now;
    }

    /// Something authentic came; `packet`: of an application's.
    pub fn heard(&mut self, now: Time, packet: bool) {
        self.silent = None;
        if packet {
            (self.used, self.pause) = (now, PAUSE);
            self.ping_at = now + PAUSE;
        }
    }

    /// A ping came back.
    pub fn measured(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Whether something was asked that is not answered.
    pub fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// When it has been silent for so long that another had better be used, if there is one.
    pub fn doubt_at(&self) -> Option<Time> {
        Some(self.silent? + Duration::from_millis(PATH_DOUBT_MS).max(2 * self.rtt))
    }

    /// The last round trip that was measured.
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    fn is_used(&self, now: Time) -> bool {
        now.since(self.used) < Duration::from_millis(ALIVE_USED_MS)
    }

    fn dead_at(&self) -> Option<Time> {
        Some(self.silent? + Duration::from_millis(ALIVE_MS_MAX).max(4 * self.rtt))
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let waits = self.silent.is_some() || self.ping_at <= self.used + Duration::from_millis(ALIVE_USED_MS);
        waits.then(|| self.dead_at().map_or(self.ping_at, |dead| dead.min(self.ping_at)))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) -> Option<Act> {
        if self.dead_at().is_some_and(|dead| dead <= now) {
            return Some(Act::Dead);
        }
        if self.ping_at > now {
            return None;
        }
        if !self.is_used(now) && self.silent.is_none() {
            // Until it is used again.
            self.ping_at = now + 2 * Duration::from_millis(ALIVE_USED_MS);
            return None;
        }
        // With every answer the next question takes longer, until there is traffic again.
        self.pause = if self.silent.is_some() {
            PAUSE
        } else {
            (self.pause * 2).min(Duration::from_millis(ALIVE_PING_MS_MAX))
        };
        self.silent.get_or_insert(now);
        self.ping_at = now + if self.silent == Some(now) { PAUSE } else { self.pause };
        Some(Act::Ping)
    }

    /// After an answer: when the next question is due.
    pub fn answered(&mut self, now: Time) {
        self.ping_at = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a circuit whose pings come back after `rtt` until `dead`; when pings went, and when it was given up.
    fn run(rtt: u64, dead: u64, until: u64) -> (Vec<u64>, Option<u64>) {
        let mut alive = Alive::new(Time::ZERO);
        let (mut pings, mut answers) = (Vec::new(), std::collections::VecDeque::new());
        for ms in 0..until {
            let now = Time::from_millis(ms);
            if answers.front() == Some(&ms) {
                answers.pop_front();
                alive.heard(now, false);
                alive.measured(Duration::from_millis(rtt));
                alive.answered(now);
            }
            if alive.poll_timeout().is_none_or(|at| at > now) {
                continue;
            }
            match alive.handle_timeout(now) {
                Some(Act::Ping) => {
                    pings.push(ms);
                    if ms < dead {
                        answers.push_back(ms + rtt);
                    }
                }
                Some(Act::Dead) => return (pings, Some(ms)),
                None => {}
            }
        }
        (pings, None)
    }

    #[test]
    fn a_dead_circuit_is_found_out_within_a_second_and_one_that_lives_is_left() {
        let (pings, dead) = run(50, 0, 10_000);
        assert!(dead.is_some_and(|ms| ms <= ALIVE_PING_MS + ALIVE_MS_MAX), "{dead:?} {pings:?}");
        for rtt in [1, 50, 190, 400, 700] {
            let (pings, dead) = run(rtt, u64::MAX, 120_000);
            assert_eq!(dead, None, "{rtt} ms");
            assert!(
                pings.len() < 60 && pings.iter().all(|ms| *ms < ALIVE_USED_MS + 2_000),
                "{rtt} ms: {pings:?}"
            );
        }
        // A long way is given more time, once it is known to be long.
        let (_, dead) = run(500, 5_000, 20_000);
        assert!(dead.is_some_and(|ms| (5_000 + 2_000..9_000).contains(&ms)), "{dead:?}");
    }

    #[test]
    fn what_was_left_alone_is_asked_once_it_is_used_again() {
        let mut alive = Alive::new(Time::ZERO);
        alive.heard(Time::ZERO, true);
        let later = Time::from_millis(60_000);
        assert_eq!(alive.handle_timeout(later), None);
        alive.sent(later);
        let at = alive.poll_timeout().expect("in use");
        assert!(at <= later + PAUSE);
        assert_eq!(alive.handle_timeout(later + PAUSE), Some(Act::Ping));
    }
}

//! Keeps one circuit open for one purpose: builds it, tries other paths when one comes to nothing, and has the next one
//! ready before the last grows old.

use std::collections::VecDeque;
use std::time::Duration;

use super::path::{NoPath, Relays, Want};
use super::{CircuitKey, EndedWhy, Event, Onion};
use crate::base::{PublicKey, Rng, Time};
use crate::limits::{PATH_ATTEMPTS_MAX, PATH_RETRY_MS};
use crate::wire::build::Status;

/// What a keeper has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Send on this circuit from now on.
    Ready(CircuitKey),
    /// The circuit ended before another was there; one is being built.
    Down(EndedWhy),
    /// No path, or none of the last [`PATH_ATTEMPTS_MAX`] paths came to anything. It tries on, at long intervals.
    Stuck(StuckWhy),
}

/// Why a keeper is stuck.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StuckWhy {
    /// The rules allow no path.
    #[error(transparent)]
    NoPath(#[from] NoPath),
    /// The last of several.
    #[error("{PATH_ATTEMPTS_MAX} paths came to nothing, the last because: {0}")]
    Failed(EndedWhy),
    /// Nothing could be begun.
    #[error(transparent)]
    Build(#[from] super::BuildError),
}

/// One purpose's circuits.
pub struct Keeper {
    want: Want,
    current: Option<Circuit>,
    /// Being built.
    next: Option<Circuit>,
    attempts: u32,
    /// When the next path is tried.
    try_at: Option<Time>,
    events: VecDeque<Kept>,
}

struct Circuit {
    key: CircuitKey,
    hops: Vec<PublicKey>,
}

impl Keeper {
    /// Wants a circuit from now on.
    pub fn new(now: Time, want: Want) -> Self {
        Self { want, current: None, next: None, attempts: 0, try_at: Some(now), events: VecDeque::new() }
    }

    /// The circuit to send on.
    pub fn circuit(&self) -> Option<CircuitKey> {
        self.current.as_ref().map(|current| current.key)
    }

    /// The hops of that circuit.
    pub fn hops(&self) -> &[PublicKey] {
        self.current.as_ref().map_or(&[], |current| &current.hops)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.try_at
    }

    /// What it has to say.
    pub fn poll_event(&mut self) -> Option<Kept> {
        self.events.pop_front()
    }

    /// Begins a circuit if it is time.
    pub fn handle_timeout(&mut self, now: Time, onion: &mut Onion, relays: &Relays, rng: &mut Rng) {
        if self.next.is_some() || self.try_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let begun = relays.choose(now, rng, &self.want).map_err(StuckWhy::from).and_then(|route| {
            let key = onion.build(now, &route)?;
            Ok(Circuit { key, hops: route.keys().collect() })
        });
        match begun {
            Ok(circuit) => self.next = Some(circuit),
            Err(why) => {
                // To ask again soon would change nothing.
                self.attempts = PATH_ATTEMPTS_MAX;
                self.events.push_back(Kept::Stuck(why));
                self.pause(now);
            }
        }
    }

    /// News of relays came: what found no path may find one now.
    pub fn hurry(&mut self, now: Time) {
        if let Some(at) = &mut self.try_at {
            *at = now;
        }
    }

    /// Hears what happened to a circuit; false when it is none of its own.
    pub fn handle_event(&mut self, now: Time, event: &Event, onion: &mut Onion, relays: &mut Relays) -> bool {
        let is =
            |circuit: &Option<Circuit>, key: &CircuitKey| circuit.as_ref().is_some_and(|c| c.key == *key);
        match event {
            Event::Opened { circuit } if is(&self.next, circuit) => {
                let opened = self.next.take().expect("it is that one");
                opened.hops.iter().for_each(|hop| relays.praise(now, hop));
                if let Some(before) = self.current.replace(opened) {
                    onion.retire(now, before.key);
                }
                (self.attempts, self.try_at) = (0, None);
                self.events.push_back(Kept::Ready(*circuit));
            }
            Event::Aging { circuit } if is(&self.current, circuit) => self.try_at = Some(now),
            Event::Ended { circuit, why } if is(&self.next, circuit) => {
                let failed = self.next.take().expect("it is that one");
                hold_against(relays, now, &failed.hops, why);
                self.attempts += 1;
                if self.attempts == PATH_ATTEMPTS_MAX {
                    self.events.push_back(Kept::Stuck(StuckWhy::Failed(why.clone())));
                }
                self.pause(now);
            }
            Event::Ended { circuit, why } if is(&self.current, circuit) => {
                let ended = self.current.take().expect("it is that one");
                hold_against(relays, now, &ended.hops, why);
                self.events.push_back(Kept::Down(why.clone()));
                if self.next.is_none() {
                    self.try_at = Some(now);
                }
            }
            _ => return false,
        }
        true
    }

    fn pause(&mut self, now: Time) {
        let doubled = self.attempts.saturating_sub(1).min(PATH_ATTEMPTS_MAX - 1);
        self.try_at = Some(now + Duration::from_millis(PATH_RETRY_MS << doubled));
    }

    /// Wants none any more.
    pub fn close(self, onion: &mut Onion) {
        let all = [self.current, self.next].into_iter().flatten();
        all.for_each(|circuit| onion.close(circuit.key));
    }
}

/// Whom a failure points at: a hop that refused, the two ends of a layer that was damaged, or all a little.
fn hold_against(relays: &mut Relays, now: Time, hops: &[PublicKey], why: &EndedWhy) {
    let mut blame = |hop: usize, score: f64| {
        if let Some(key) = hops.get(hop) {
            relays.blame(now, *key, score);
        }
    };
    match why {
        EndedWhy::Refused { hop, status: Status::Unreachable } => {
            blame(*hop, 0.5);
            blame(hop + 1, 0.5);
        }
        EndedWhy::Refused { hop, .. } => blame(*hop, 1.0),
        // What hop n sealed was not what came: it, or the hop before it that passed it on.
        EndedWhy::Forged { hop } => {
            blame(*hop, 2.0);
            if let Some(before) = hop.checked_sub(1) {
                blame(before, 2.0);
            }
        }
        EndedWhy::Lost => blame(0, 0.5),
        EndedWhy::Neighbour(_) | EndedWhy::NoAnswer | EndedWhy::Malformed => {
            (0..hops.len()).for_each(|hop| blame(hop, 1.0 / hops.len() as f64));
        }
        EndedWhy::Local | EndedWhy::Expired => {}
    }
}

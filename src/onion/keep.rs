//! Keeps one circuit open for one purpose: builds it, tries other paths when one comes to nothing, and has the next one
//! ready before the last grows old.

use std::collections::VecDeque;
use std::time::Duration;

use super::path::{Leaving, NoPath, Relays, Want};
use super::{CircuitKey, EndedWhy, Event, Onion};
use crate::base::{PublicKey, Rng, Time};
use crate::crypto::{Secret, kdf};
use crate::limits::{
    BUILD_PATIENCE_MS, CIRCUITS_BEFORE_MAX, CIRCUITS_BESIDE_MAX, PATH_ATTEMPTS_MAX, PATH_RETRY_MS,
    PINNED_ATTEMPTS_MAX,
};
use crate::wire::build::Status;

/// What is held against each relay of a circuit that fell silent, but the exit: one of them may be dead.
const DEAD_BLAME: f64 = 4.0;
/// What is held against each relay of a path that was not built in time for the next to be tried.
const SLOW_BLAME: f64 = 2.0;

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

/// What is beside a circuit that shall share nothing with others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// The exit that they share.
    pub exit: Option<PublicKey>,
    /// Relays that are theirs.
    pub avoid: Vec<PublicKey>,
}

/// One purpose's circuits, one after the other.
pub struct Keeper {
    want: Want,
    beside: Beside,
    /// The exit that the last circuit had: flows live as long as it is kept.
    pinned: Option<PublicKey>,
    current: Option<Circuit>,
    /// Those before it, which may still bring what was on its way; the latest [`CIRCUITS_BEFORE_MAX`].
    before: VecDeque<CircuitKey>,
    /// Being built, oldest first: another is begun beside one that takes long.
    next: Vec<Circuit>,
    attempts: u32,
    /// When the next path is tried.
    try_at: Option<Time>,
    /// What was said last of why there is no circuit.
    stuck: Option<StuckWhy>,
    events: VecDeque<Kept>,
}

struct Circuit {
    key: CircuitKey,
    hops: Vec<PublicKey>,
}

impl Circuit {
    fn is(&self, key: &CircuitKey) -> bool {
        self.key == *key
    }
}

impl Keeper {
    /// Wants a circuit from now on.
    pub fn new(now: Time, want: Want) -> Self {
        Self {
            want,
            beside: Beside::default(),
            pinned: None,
            current: None,
            before: VecDeque::new(),
            next: Vec::new(),
            attempts: 0,
            try_at: Some(now),
            stuck: None,
            events: VecDeque::new(),
        }
    }

    /// The circuit to send on.
    pub fn circuit(&self) -> Option<CircuitKey> {
        self.current.as_ref().map(|current| current.key)
    }

    /// Whether a circuit is one of its own: in use, before that, or being built.
    pub fn has(&self, circuit: CircuitKey) -> bool {
        let known = self.current.iter().chain(&self.next).any(|one| one.is(&circuit));
        known || self.before.contains(&circuit)
    }

    /// The hops of the one in use.
    pub fn hops(&self) -> &[PublicKey] {
        self.current.as_ref().map_or(&[], |current| &current.hops)
    }

    /// The exit of the one in use.
    pub fn exit(&self) -> Option<PublicKey> {
        self.hops().last().copied()
    }

    /// The relays, but for exits, of those in use and being built.
    pub fn relays(&self) -> impl Iterator<Item = PublicKey> {
        let all = self.current.iter().chain(&self.next);
        all.flat_map(|circuit| circuit.hops.split_last().map_or(&[][..], |(_, before)| before)).copied()
    }

    /// What is beside its circuits, from the next one that it begins on.
    pub fn set_beside(&mut self, beside: Beside) {
        self.beside = beside;
    }

    /// Wants another circuit than the one in use: it does not fit to those beside it.
    pub fn leave(&mut self, now: Time, onion: &mut Onion) {
        if let Some(current) = self.current.take() {
            onion.close(current.key);
            self.pinned = None;
            self.try_at = Some(now);
        }
    }

    /// How many hops it is to have.
    pub fn wanted(&self) -> u8 {
        self.want.hops
    }

    /// Why there is no circuit, if it is known.
    pub fn stuck(&self) -> Option<&StuckWhy> {
        self.stuck.as_ref().filter(|_| self.current.is_none())
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
    pub fn handle_timeout(&mut self, now: Time, onion: &mut Onion, relays: &mut Relays, rng: &mut Rng) {
        if self.try_at.take_if(|at| *at <= now).is_none() || self.next.len() >= CIRCUITS_BESIDE_MAX {
            return;
        }
        if let Some(slow) = self.next.last() {
            // One of them may be dead; the next path had better be another.
            let (_, before) = slow.hops.split_last().expect("a path has hops");
            before.iter().for_each(|hop| relays.blame(now, *hop, SLOW_BLAME));
        }
        match self.begin(now, onion, relays, rng) {
            Ok(circuit) => {
                self.next.push(circuit);
                // Who answers first wins; a hop that is dead costs no more than this.
                let doubled = self.next.len().saturating_sub(2);
                self.try_at = Some(now + Duration::from_millis(BUILD_PATIENCE_MS << doubled));
            }
            // Others are on their way.
            Err(_) if !self.next.is_empty() => {}
            Err(why) => {
                // To ask again soon would change nothing.
                self.attempts = PATH_ATTEMPTS_MAX;
                self.stuck = Some(why.clone());
                // While the one before is there, nobody is without.
                if self.current.is_none() {
                    self.events.push_back(Kept::Stuck(why));
                }
                self.pause(now);
            }
        }
    }

    fn begin(
        &mut self,
        now: Time,
        onion: &mut Onion,
        relays: &Relays,
        rng: &mut Rng,
    ) -> Result<Circuit, StuckWhy> {
        self.pinned = self.pinned.filter(|key| relays.get(key).is_some_and(|relay| relay.exit));
        let given = self.want.exit.or(self.beside.exit);
        let exit = given.or(self.pinned);
        let avoid = &self.beside.avoid;
        let chosen = match relays.choose_beside(now, rng, &Want { exit, ..self.want }, avoid) {
            // Better another exit than none.
            Err(NoPath::Exit | NoPath::Relays(_) | NoPath::Disjoint)
                if given.is_none() && self.pinned.is_some() =>
            {
                self.pinned = None;
                relays.choose_beside(now, rng, &self.want, avoid)
            }
            other => other,
        };
        let mut route = chosen?;
        if let Some(exit) = route.hops.last() {
            // So that two exits cannot tell that they serve the same.
            let secret = Secret::from_bytes(self.want.resume);
            let own = kdf::expand(&secret, "tornet onion resume", &exit.hop.card.key.0);
            route.resume = *own.as_bytes();
        }
        let key = onion.build(now, &route)?;
        Ok(Circuit { key, hops: route.keys().collect() })
    }

    /// One of the relays of the circuit in use says that it leaves soon: another is built, and takes its place once it is
    /// open. What others say of it is no reason: whoever wants this node's circuits elsewhere could say so of all.
    pub fn part(&mut self, now: Time, relays: &Relays) {
        let leaves = |key: &PublicKey| relays.get(key).is_some_and(|relay| relay.leaving == Leaving::Said);
        if self.next.is_empty() && self.try_at.is_none() && self.hops().iter().any(leaves) {
            self.try_at = Some(now);
        }
    }

    /// News of relays came: what found no path may find one now.
    pub fn hurry(&mut self, now: Time) {
        if self.next.is_empty()
            && let Some(at) = &mut self.try_at
        {
            *at = now;
        }
    }

    /// Nothing comes through the circuit any more: another is built at once, and not over the same relays if others will do.
    pub fn dead(&mut self, now: Time, onion: &mut Onion, relays: &mut Relays) {
        let Some(dead) = self.current.take() else { return };
        onion.close(dead.key);
        let (exit, before) = dead.hops.split_last().expect("a path has hops");
        before.iter().for_each(|hop| relays.blame(now, *hop, DEAD_BLAME));
        relays.blame(now, *exit, 1.0 / dead.hops.len() as f64);
        self.events.push_back(Kept::Down(EndedWhy::Expired));
        if self.next.is_empty() {
            (self.attempts, self.try_at) = (0, Some(now));
        }
    }

    /// Hears what happened to a circuit; false when it is none of its own.
    pub fn handle_event(&mut self, now: Time, event: &Event, onion: &mut Onion, relays: &mut Relays) -> bool {
        let is_current = |key: &CircuitKey| self.current.as_ref().is_some_and(|current| current.is(key));
        let place = |key: &CircuitKey| self.next.iter().position(|next| next.is(key));
        match event {
            Event::Opened { circuit } => {
                let Some(at) = place(circuit) else { return false };
                let opened = self.next.swap_remove(at);
                self.next.drain(..).for_each(|other| onion.close(other.key));
                opened.hops.iter().for_each(|hop| relays.praise(now, hop));
                self.pinned = opened.hops.last().copied();
                if let Some(before) = self.current.replace(opened) {
                    onion.retire(now, before.key);
                    self.before.truncate(CIRCUITS_BEFORE_MAX - 1);
                    self.before.push_front(before.key);
                }
                (self.attempts, self.try_at, self.stuck) = (0, None, None);
                self.events.push_back(Kept::Ready(*circuit));
            }
            Event::Aging { circuit } if is_current(circuit) => self.try_at = Some(now),
            Event::Ended { circuit, why } if is_current(circuit) => {
                let ended = self.current.take().expect("it is that one");
                hold_against(relays, now, &ended.hops, why);
                self.events.push_back(Kept::Down(why.clone()));
                if self.next.is_empty() {
                    self.try_at = Some(now);
                }
            }
            Event::Ended { circuit, why } => {
                let Some(at) = place(circuit) else { return false };
                let failed = self.next.remove(at);
                hold_against(relays, now, &failed.hops, why);
                self.attempts += 1;
                if self.attempts >= PINNED_ATTEMPTS_MAX {
                    self.pinned = None;
                }
                if self.attempts == PATH_ATTEMPTS_MAX {
                    self.stuck = Some(StuckWhy::Failed(why.clone()));
                    self.events.push_back(Kept::Stuck(StuckWhy::Failed(why.clone())));
                }
                if self.next.is_empty() {
                    self.pause(now);
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
        let keys = self.current.into_iter().chain(self.next).map(|circuit| circuit.key);
        keys.chain(self.before).for_each(|key| onion.close(key));
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

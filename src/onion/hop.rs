//! One circuit of others, as one of its hops has it: its states, and what each does with a cell.
//!
//! ```text
//! (Opening ──►) Asked ── extend ──► Extending ── answer ──► Relaying
//!                 └───── accept ──► Ending
//! ```

use std::time::Duration;

use super::LinkId;
use super::build::{Opened, Reply};
use super::layer::{Direction, OpenFault, Opening, Sealing};
use super::links::Leg;
use crate::base::{Rng, Time};
use crate::limits::{CIRCUIT_IDLE_MS_MAX, CIRCUIT_MEMORY_MAX, SETUP_PADDING_MAX, SETUP_PADDING_MS};
use crate::wire::build::REQUEST_SIZE;
use crate::wire::cell::{self, AREA_AT, Class, Inner};

/// One circuit.
pub(super) struct Hop {
    /// Where it comes from.
    pub from: Leg,
    /// When it ends at the latest.
    pub expires: Time,
    /// When something authentic last came from the origin.
    pub heard: Time,
    /// Under which time it stands among the timers.
    pub armed: Option<Time>,
    pub state: State,
}

pub(super) enum State {
    /// Another shard opens the request; `None` once it has.
    Opening(Option<Box<[u8; REQUEST_SIZE]>>),
    /// `None` once the caller's answer was heard.
    Asked(Option<Box<Asked>>),
    /// `None` once the next hop's answer was heard.
    Extending(Leg, Option<Box<Extending>>),
    Relaying(Relaying),
    Ending(Ending),
}

/// A request was opened; the caller says what becomes of it.
pub(super) struct Asked {
    pub opened: Opened,
    /// What came, to be passed on.
    pub request: Box<[u8; REQUEST_SIZE]>,
}

/// The request went to the next hop.
pub(super) struct Extending {
    pub reply: Reply,
    pub aes: bool,
    pub layers: u8,
    pub lifetime: Duration,
}

/// Cells pass.
pub(super) struct Relaying {
    pub to: Leg,
    pub ends: Layers,
}

/// Cells end here.
pub(super) struct Ending {
    pub ends: Layers,
    pub padding: Padding,
}

/// Both directions of the hop's layer.
pub(super) struct Layers {
    pub forward: Opening,
    pub backward: Sealing,
    pub layers: u8,
}

/// Cells that say nothing, when a circuit begins: so that its first second looks like any other's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Padding {
    left: u8,
    at: Time,
}

impl Padding {
    /// A few, spread over the first part of a second.
    pub(super) fn new(now: Time, rng: &mut Rng) -> Self {
        let mut padding = Self { left: 1 + rng.below(SETUP_PADDING_MAX) as u8, at: now };
        padding.step(now, rng);
        padding
    }

    fn step(&mut self, now: Time, rng: &mut Rng) {
        self.at = now + Duration::from_micros(rng.below(1000 * SETUP_PADDING_MS / SETUP_PADDING_MAX));
    }

    pub(super) fn next(&self) -> Option<Time> {
        (self.left > 0).then_some(self.at)
    }

    /// Whether one is due; it counts as sent then.
    pub(super) fn take(&mut self, now: Time, rng: &mut Rng) -> bool {
        let due = self.next().is_some_and(|at| at <= now);
        if due {
            self.left -= 1;
            self.step(now, rng);
        }
        due
    }
}

impl Layers {
    /// Opens this hop's record of a cell from the origin.
    pub(super) fn open(&mut self, now: Time, class: Class, cell: &mut [u8]) -> Result<(), OpenFault> {
        let end = AREA_AT + class.record(self.layers);
        self.forward.open(now, class, &mut cell[AREA_AT..end])
    }
}

impl Relaying {
    /// A cell from the origin becomes one for the next hop.
    pub(super) fn forward(
        &mut self,
        now: Time,
        class: Class,
        cell: &mut [u8],
        rng: &mut Rng,
    ) -> Result<LinkId, OpenFault> {
        self.ends.open(now, class, cell)?;
        // Every byte behind the shorter record: nothing passes an honest hop but what the origin sealed.
        let end = AREA_AT + class.record(self.ends.layers - 1);
        rng.fill(&mut cell[end..]);
        cell::set_circuit(cell, self.to.1);
        Ok(self.to.0)
    }

    /// A cell from the next hop becomes one for the neighbour nearer to the origin.
    pub(super) fn backward(&mut self, now: Time, from: Leg, class: Class, cell: &mut [u8], rng: &mut Rng) {
        let end = AREA_AT + class.record(self.ends.layers);
        self.ends.backward.seal(now, class, &mut cell[AREA_AT..end]);
        rng.fill(&mut cell[end..]);
        cell::set_circuit(cell, from.1);
    }
}

impl Hop {
    pub(super) fn new(now: Time, from: Leg, expires: Time, state: State) -> Self {
        Self { from, expires, heard: now, armed: None, state }
    }

    /// The next hop's leg, once there is one.
    pub(super) fn to(&self) -> Option<Leg> {
        match &self.state {
            State::Extending(to, _) => Some(*to),
            State::Relaying(relaying) => Some(relaying.to),
            State::Opening(_) | State::Asked(_) | State::Ending(_) => None,
        }
    }

    pub(super) fn touches(&self, link: LinkId) -> bool {
        self.from.0 == link || self.to().is_some_and(|to| to.0 == link)
    }

    /// Whether the circuit ends here.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::Ending(_))
    }

    pub(super) fn is_building(&self) -> bool {
        matches!(self.state, State::Opening(_) | State::Asked(_) | State::Extending(..))
    }

    /// Seals content for the origin, where the circuit ends here.
    pub(super) fn seal(
        &mut self,
        now: Time,
        kind: Inner,
        content_len: usize,
        class: Class,
        cell: &mut [u8],
        rng: &mut Rng,
    ) -> Option<LinkId> {
        let State::Ending(ending) = &mut self.state else { return None };
        let end = AREA_AT + class.record(ending.ends.layers);
        kind.emit(&mut cell[AREA_AT..AREA_AT + class.record(ending.ends.layers - 1)], content_len);
        ending.ends.backward.seal(now, class, &mut cell[AREA_AT..end]);
        rng.fill(&mut cell[end..]);
        cell::set_circuit(cell, self.from.1);
        Some(self.from.0)
    }

    #[cfg(test)]
    pub(super) fn end_epoch(&mut self) {
        match &mut self.state {
            State::Opening(_) | State::Asked(_) | State::Extending(..) => {}
            State::Relaying(relaying) => relaying.ends.backward.end_epoch(),
            State::Ending(ending) => ending.ends.backward.end_epoch(),
        }
    }

    /// Whether its time is over, or nothing was heard for too long.
    pub(super) fn is_over(&self, now: Time) -> bool {
        let idle = self.heard + Duration::from_millis(CIRCUIT_IDLE_MS_MAX);
        self.expires <= now || (!self.is_building() && idle <= now)
    }

    /// When there is something to do for it. Asks again after each of these.
    pub(super) fn next(&mut self, now: Time) -> Time {
        let idle = self.heard + Duration::from_millis(CIRCUIT_IDLE_MS_MAX);
        let own = match &mut self.state {
            // Nothing is heard while it is being built, and its time is shorter.
            State::Opening(_) | State::Asked(_) | State::Extending(..) => return self.expires,
            State::Relaying(relaying) => relaying.ends.forward.forget(now),
            State::Ending(ending) => {
                ending.ends.forward.forget(now).into_iter().chain(ending.padding.next()).min()
            }
        };
        own.into_iter().chain([idle, self.expires]).min().expect("at least two")
    }
}

/// What a table's entries and two legs take beside it, generously.
const BESIDE: usize = 400;

const _: () = {
    assert!(size_of::<Hop>() + BESIDE <= CIRCUIT_MEMORY_MAX);
    assert!(Direction::Forward as u8 != Direction::Backward as u8);
};

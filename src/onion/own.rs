//! One circuit of our own: its states, and what each does with a cell.
//!
//! ```text
//! Building ── answer ──► Open ── replaced ──► Closing
//! ```

use std::time::Duration;

use super::LinkId;
use super::build::{Answered, AwaitedHop};
use super::hop::Padding;
use super::layer::{Direction, OpenFault, Opening, Sealing};
use super::links::Leg;
use super::relay::suite;
use crate::base::{Rng, Time};
use crate::limits::{
    CIRCUIT_PADDING_MS_JITTER, CIRCUIT_PADDING_MS_MIN, CIRCUIT_REBUILD_MS_JITTER, CIRCUIT_REBUILD_MS_MIN,
};
use crate::wire::cell::{self, AREA_AT, Class, Inner};

/// One circuit.
pub(super) struct Own {
    /// The first hop, and the circuit's number there.
    pub entry: Leg,
    /// Under which time it stands among the timers.
    pub armed: Option<Time>,
    pub state: State,
}

pub(super) enum State {
    /// The request is on its way.
    Building(Building),
    /// Cells pass both ways.
    Open(Open),
    /// Another one took its place; what is on its way still arrives.
    Closing(Closing),
}

pub(super) struct Building {
    /// `None` once the answer was heard.
    pub awaited: Option<Vec<AwaitedHop>>,
    /// Layers of the first hop's record.
    pub layers: u8,
    pub until: Time,
}

pub(super) struct Open {
    layers: Layers,
    padding: Padding,
    /// When a cell of padding goes out, unless one of content goes before.
    quiet_at: Time,
    /// When another should be built in its place; `None` once that was said.
    aging_at: Option<Time>,
}

pub(super) struct Closing {
    layers: Layers,
    pub until: Time,
}

/// The layers of all hops, the first hop's first.
pub(super) struct Layers {
    each: Vec<(Sealing, Opening)>,
    /// Of the first hop's record.
    count: u8,
}

/// A layer that did not open, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerFault {
    pub hop: usize,
    pub why: OpenFault,
}

impl Layers {
    pub(super) fn new(now: Time, answered: Vec<Answered>, count: u8) -> Self {
        let each = answered.into_iter().map(|hop| {
            let suite = suite(hop.answer.aes);
            (
                Sealing::new(now, Direction::Forward, suite, hop.secret.forward()),
                Opening::new(Direction::Backward, suite, hop.secret.backward()),
            )
        });
        Self { each: each.collect(), count }
    }

    /// Bytes of the innermost body.
    fn body(&self, class: Class) -> usize {
        class.record(self.count - self.each.len() as u8)
    }

    /// Seals the innermost body that lies in the cell, for the last hop first.
    fn seal(&mut self, now: Time, class: Class, cell: &mut [u8], rng: &mut Rng) {
        for (index, (sealing, _)) in self.each.iter_mut().enumerate().rev() {
            let end = AREA_AT + class.record(self.count - index as u8);
            sealing.seal(now, class, &mut cell[AREA_AT..end]);
        }
        rng.fill(&mut cell[AREA_AT + class.record(self.count)..]);
    }

    /// Opens every layer where it lies; returns how long the innermost body is.
    pub(super) fn open(&mut self, now: Time, class: Class, cell: &mut [u8]) -> Result<usize, LayerFault> {
        for (hop, (_, opening)) in self.each.iter_mut().enumerate() {
            let end = AREA_AT + class.record(self.count - hop as u8);
            opening.open(now, class, &mut cell[AREA_AT..end]).map_err(|why| LayerFault { hop, why })?;
        }
        Ok(self.body(class))
    }

    #[cfg(test)]
    pub(super) fn end_epochs(&mut self) {
        self.each.iter_mut().for_each(|(sealing, _)| sealing.end_epoch());
    }

    /// Erases keys whose grace is over; when to ask again.
    fn forget(&mut self, now: Time) -> Option<Time> {
        self.each.iter_mut().filter_map(|(_, opening)| opening.forget(now)).min()
    }
}

impl Open {
    pub(super) fn new(now: Time, layers: Layers, rng: &mut Rng) -> Self {
        let ms = CIRCUIT_REBUILD_MS_MIN + rng.below(CIRCUIT_REBUILD_MS_JITTER);
        Self {
            layers,
            padding: Padding::new(now, rng),
            quiet_at: quiet(now, rng),
            aging_at: Some(now + Duration::from_millis(ms)),
        }
    }

    pub(super) fn close(self, until: Time) -> Closing {
        Closing { layers: self.layers, until }
    }

    /// Whether it grew old, said once.
    pub(super) fn take_aging(&mut self, now: Time) -> bool {
        self.aging_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether a cell of padding is due.
    pub(super) fn take_padding(&mut self, now: Time, rng: &mut Rng) -> bool {
        self.padding.take(now, rng) || self.quiet_at <= now
    }
}

fn quiet(now: Time, rng: &mut Rng) -> Time {
    now + Duration::from_millis(CIRCUIT_PADDING_MS_MIN + rng.below(CIRCUIT_PADDING_MS_JITTER))
}

impl Own {
    pub(super) fn seal(
        &mut self,
        now: Time,
        kind: Inner,
        content_len: usize,
        class: Class,
        cell: &mut [u8],
        rng: &mut Rng,
    ) -> Option<LinkId> {
        let State::Open(open) = &mut self.state else { return None };
        let body = open.layers.body(class);
        kind.emit(&mut cell[AREA_AT..AREA_AT + body], content_len);
        open.layers.seal(now, class, cell, rng);
        open.quiet_at = quiet(now, rng);
        cell::set_circuit(cell, self.entry.1);
        Some(self.entry.0)
    }

    /// Whether content can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The layers, where cells come back.
    pub(super) fn layers(&mut self) -> Option<&mut Layers> {
        match &mut self.state {
            State::Building(_) => None,
            State::Open(open) => Some(&mut open.layers),
            State::Closing(closing) => Some(&mut closing.layers),
        }
    }

    /// When there is something to do for it.
    pub(super) fn next(&mut self, now: Time) -> Time {
        match &mut self.state {
            State::Building(building) => building.until,
            State::Closing(closing) => closing.until,
            State::Open(open) => {
                let others = [open.layers.forget(now), open.padding.next(), open.aging_at];
                others.into_iter().flatten().fold(open.quiet_at, Time::min)
            }
        }
    }
}

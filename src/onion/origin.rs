//! Circuits of our own: building, opening what comes back, replacing.

use std::time::Duration;

use super::build::{Planned, open_answer, request};
use super::layer::OpenFault;
use super::links::Use;
use super::own::{Building, Layers, Open, Own, State};
use super::{BuildError, CircuitKey, DropCause, EndedWhy, Event, Onion, Route, Verdict};
use crate::base::Time;
use crate::limits::{BUILD_MS_MAX, CIRCUIT_DRAIN_MS, CIRCUIT_MS_MAX, IMAGINARY_LAYERS_MAX, LAYERS_MAX};
use crate::wire::build::{ANSWER_SIZE, NextHop, REQUEST_SIZE, Request, Role, Status};
use crate::wire::cell::{AREA_AT, Class, EndWhy, Head, Inner, MESSAGE_AT};

impl Onion {
    /// Begins a circuit. It ends with exactly one [`Event::Ended`], unless [`Self::close`] ends it.
    pub fn build(&mut self, now: Time, route: &Route) -> Result<CircuitKey, BuildError> {
        let layers = route.hops.len() + usize::from(route.imaginary);
        let imaginary = usize::from(route.imaginary) <= IMAGINARY_LAYERS_MAX;
        if route.hops.is_empty() || layers > LAYERS_MAX || !imaginary {
            return Err(BuildError::Length);
        }
        if !self.links.is_up(route.link) {
            return Err(BuildError::NoLink);
        }
        let plan = plan(route, layers as u8, self.aes);
        let (bytes, awaited) = request(&mut self.rng, &plan).ok_or(BuildError::BadKey)?;
        let key = self.own.vacant().ok_or(BuildError::Full)?;
        let number = self.links.choose(&mut self.rng, route.link, Use::Own(key.index()));
        let entry = (route.link, number.ok_or(BuildError::NoLink)?);
        let until = now + Duration::from_millis(BUILD_MS_MAX);
        let building = Building { awaited: Some(awaited), layers: layers as u8, until };
        self.own.insert(key, Own { entry, armed: None, state: State::Building(building) });
        self.links.send(&mut self.rng, entry.0, Head::Build { circuit: entry.1 }, |cell| {
            cell[MESSAGE_AT..MESSAGE_AT + REQUEST_SIZE].copy_from_slice(&bytes);
        });
        self.counters.begun += 1;
        self.arm_own(now, key);
        Ok(key)
    }

    /// Another circuit took this one's place: nothing more is sent on it, and it ends a little later, without an event.
    pub fn retire(&mut self, now: Time, circuit: CircuitKey) {
        let Some(own) = self.own.get_mut(circuit) else { return };
        let until = now + Duration::from_millis(CIRCUIT_DRAIN_MS);
        let building = Building { awaited: None, layers: 0, until };
        own.state = match std::mem::replace(&mut own.state, State::Building(building)) {
            State::Open(open) => State::Closing(open.close(until)),
            State::Closing(closing) => State::Closing(closing),
            State::Building(_) => return self.close(circuit),
        };
        self.arm_own(now, circuit);
    }

    /// Whether content can be sent on it.
    pub fn is_open(&self, circuit: CircuitKey) -> bool {
        self.own.get(circuit).is_some_and(Own::is_open)
    }

    pub(super) fn answered(&mut self, now: Time, index: u32, cell: &[u8]) -> Verdict {
        let Some((key, own)) = self.own.at(index) else { return Verdict::Dropped(DropCause::Unknown) };
        let State::Building(building) = &mut own.state else { return Verdict::Dropped(DropCause::Late) };
        let Some(awaited) = building.awaited.take() else { return Verdict::Dropped(DropCause::Late) };
        let message = &cell[MESSAGE_AT..MESSAGE_AT + ANSWER_SIZE];
        let mut bytes: [u8; ANSWER_SIZE] = message.try_into().expect("an answer's bytes");
        let answered = match open_answer(awaited, &mut bytes) {
            Ok(answered) => answered,
            Err(bad) => {
                self.end_own(key, Some(EndWhy::Forged), EndedWhy::Forged { hop: bad.hop });
                return Verdict::Dropped(DropCause::Forged);
            }
        };
        let last = answered.last().map_or(Status::Built, |last| last.answer.status);
        if last != Status::Built {
            let why = EndedWhy::Refused { hop: answered.len() - 1, status: last };
            self.end_own(key, Some(EndWhy::Done), why);
            return Verdict::Handled;
        }
        let layers = Layers::new(now, answered, building.layers);
        own.state = State::Open(Open::new(now, layers, &mut self.rng));
        self.counters.opened += 1;
        self.arm_own(now, key);
        self.tell(Event::Opened { circuit: key });
        Verdict::Handled
    }

    pub(super) fn arrive(&mut self, now: Time, index: u32, class: Class, cell: &mut [u8]) -> Verdict {
        let Some((key, own)) = self.own.at(index) else { return Verdict::Dropped(DropCause::Unknown) };
        let Some(layers) = own.layers() else { return Verdict::Dropped(DropCause::Late) };
        match layers.open(now, class, cell) {
            Ok(body) => self.content(key, &cell[AREA_AT..AREA_AT + body]),
            Err(fault) => match fault.why {
                OpenFault::Duplicate => Verdict::Dropped(DropCause::Duplicate),
                OpenFault::Late => Verdict::Dropped(DropCause::Late),
                OpenFault::Forged => {
                    self.end_own(key, Some(EndWhy::Forged), EndedWhy::Forged { hop: fault.hop });
                    Verdict::Dropped(DropCause::Forged)
                }
            },
        }
    }

    /// Ends a circuit of ours; `tell_hop` is for the first hop, if it is to hear of it.
    pub(super) fn end_own(&mut self, circuit: CircuitKey, tell_hop: Option<EndWhy>, why: EndedWhy) {
        let Some(own) = self.own.remove(circuit) else { return };
        if let Some(at) = own.armed {
            self.timers.remove(&(at, circuit));
        }
        if let Some(end) = tell_hop {
            self.links.end(&mut self.rng, own.entry, end);
        }
        self.links.leave(own.entry);
        self.counters.ended += 1;
        // What was replaced is of no interest any more.
        if why != EndedWhy::Local && !matches!(own.state, State::Closing(_)) {
            self.tell(Event::Ended { circuit, why });
        }
    }

    pub(super) fn own_timeout(&mut self, now: Time, circuit: CircuitKey) {
        let Some(own) = self.own.get_mut(circuit) else { return };
        own.armed = None;
        match &mut own.state {
            State::Building(building) if building.until <= now => {
                return self.end_own(circuit, Some(EndWhy::Done), EndedWhy::NoAnswer);
            }
            State::Closing(closing) if closing.until <= now => {
                return self.end_own(circuit, Some(EndWhy::Done), EndedWhy::Expired);
            }
            State::Building(_) | State::Closing(_) => {}
            State::Open(open) => {
                let aging = open.take_aging(now);
                if open.take_padding(now, &mut self.rng) {
                    let class = if self.rng.chance(0.5) { Class::Small } else { Class::Large };
                    let mut cell = vec![0; class.size()].into_boxed_slice();
                    if let Some(link) = own.seal(now, Inner::Padding, 0, class, &mut cell, &mut self.rng) {
                        self.links.send_cell(link, cell);
                    }
                }
                if aging {
                    self.tell(Event::Aging { circuit });
                }
            }
        }
        self.arm_own(now, circuit);
    }

    fn arm_own(&mut self, now: Time, circuit: CircuitKey) {
        let Some(own) = self.own.get_mut(circuit) else { return };
        let at = own.next(now);
        if let Some(before) = own.armed.replace(at) {
            self.timers.remove(&(before, circuit));
        }
        self.timers.insert((at, circuit));
    }
}

/// What each hop is told.
fn plan(route: &Route, layers: u8, aes: bool) -> Vec<Planned> {
    let lifetime_s = (CIRCUIT_MS_MAX / 1000) as u16;
    let role = |at: usize| match route.hops.get(at + 1) {
        Some(next) => Role::Relay(NextHop { card: next.hop.card, address: next.hop.address }),
        None => Role::End { resume: route.resume },
    };
    let hops = route.hops.iter().enumerate();
    hops.map(|(at, hop)| Planned {
        relay: hop.hop.card.key,
        onion: hop.onion,
        request: Request { layers: layers - at as u8, aes, lifetime_s, role: role(at) },
    })
    .collect()
}

const _: () = assert!(CIRCUIT_MS_MAX / 1000 <= u16::MAX as u64);

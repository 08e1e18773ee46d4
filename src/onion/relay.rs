//! Circuits of others through this node: taking requests, leading them on, passing cells, ending.

use std::time::Duration;

use super::build::{Agreed, Opened, Reply, ephemeral_of, open_agreed, open_request, pass_on, reply};
use super::hop::{Asked, Ending, Extending, Hop, Layers, Padding, Relaying, State};
use super::layer::{Direction, OpenFault, Opening, Sealing};
use super::links::{Leg, Use};
use super::onionkeys::NotNew;
use super::{CircuitKey, DropCause, EndedWhy, Event, LinkId, Onion, Verdict};
use crate::base::{Rng, Time};
use crate::crypto::{Secret, Suite};
use crate::limits::{BUILD_RELAY_MS_MAX, BUILDS_BURST, BUILDS_OPEN_MAX, BUILDS_PER_SECOND, CIRCUIT_MS_MAX};
use crate::wire::Malformed;
use crate::wire::build::{ANSWER_SIZE, Answer, REQUEST_SIZE, Role, Status};
use crate::wire::cell::{AREA_AT, Class, EndWhy, Head, Inner, MESSAGE_AT};

impl Onion {
    pub(super) fn on_build(&mut self, now: Time, leg: Leg, cell: &mut [u8]) -> Result<Verdict, Malformed> {
        if let Err(cause) = self.links.admit(now, leg)? {
            return Ok(self.turn_away(now, leg, cause));
        }
        let full = self.building >= BUILDS_OPEN_MAX || self.is_behind();
        let Some(key) = self.hops.vacant().filter(|_| !full) else {
            return Ok(self.turn_away(now, leg, DropCause::Busy));
        };
        if !self.builds.take(now, BUILDS_PER_SECOND, BUILDS_BURST) {
            return Ok(self.turn_away(now, leg, DropCause::Busy));
        }
        let message = &cell[MESSAGE_AT..MESSAGE_AT + REQUEST_SIZE];
        let mut request: Box<[u8; REQUEST_SIZE]> = Box::new(message.try_into().expect("a request's bytes"));
        let expires = now + Duration::from_millis(BUILD_RELAY_MS_MAX);
        let (state, event) = if self.keys.is_some() {
            match self.open_new(&mut request) {
                Ok(opened) => {
                    let event = asks(key, &opened);
                    (State::Asked(Some(Box::new(Asked { opened, request }))), event)
                }
                Err(cause) => return Ok(self.turn_away(now, leg, cause)),
            }
        } else {
            (State::Opening(Some(request.clone())), Event::Open { circuit: key, request })
        };
        self.counters.asked += 1;
        self.building += 1;
        self.hops.insert(key, Hop::new(now, leg, expires, state));
        self.links.enter(leg, key.index());
        self.arm_hop(now, key);
        self.tell(event);
        Ok(Verdict::Handled)
    }

    /// Opens a request that was never here before.
    fn open_new(&mut self, request: &mut [u8; REQUEST_SIZE]) -> Result<Opened, DropCause> {
        let keys = self.keys.as_mut().ok_or(DropCause::Foreign)?;
        let owned = keys.find(request[0]).ok_or(DropCause::Foreign)?;
        let opened = open_request(request, &self.identity, &owned.secret, &owned.public.key);
        let opened = opened.ok_or(DropCause::Foreign)?;
        owned.remember(opened.keys.replay).map_err(|why| match why {
            NotNew::Replayed => DropCause::Duplicate,
            NotNew::Full => DropCause::Busy,
        })?;
        Ok(opened)
    }

    /// Another shard got a request: whether it is good and was on none of the node's shards before, and the secrets that
    /// open it there, too.
    pub fn agree(&mut self, request: &[u8; REQUEST_SIZE]) -> Result<Agreed, DropCause> {
        self.open_new(&mut request.clone())?;
        let owned = self.keys.as_mut().and_then(|keys| keys.find(request[0])).ok_or(DropCause::Foreign)?;
        let shared = ephemeral_of(request).and_then(|theirs| owned.secret.agree(theirs));
        let shared = Secret::from_bytes(*shared.ok_or(DropCause::Foreign)?);
        Ok(Agreed { shared, onion: owned.public.key })
    }

    /// What the shard with the onion keys said to [`Event::Open`]. A key that is dead by now does nothing.
    pub fn agreed(&mut self, now: Time, circuit: CircuitKey, agreed: Result<Agreed, DropCause>) {
        let Some(hop) = self.hops.get_mut(circuit) else { return };
        let State::Opening(request) = &mut hop.state else { return };
        let (Some(mut request), from) = (request.take(), hop.from) else { return };
        let opened = agreed.and_then(|agreed| {
            let Agreed { shared, onion } = agreed;
            open_agreed(&mut request, &self.identity, shared.as_bytes(), &onion).ok_or(DropCause::Foreign)
        });
        match opened {
            Ok(opened) => {
                let event = asks(circuit, &opened);
                hop.state = State::Asked(Some(Box::new(Asked { opened, request })));
                self.tell(event);
            }
            Err(cause) => {
                self.building -= 1;
                self.end_hop_quietly(circuit);
                self.counters.drop(cause);
                self.turn_away(now, from, cause);
            }
        }
    }

    /// What was here before is dropped in silence; of everything else the neighbour hears, that the origin need not wait.
    fn turn_away(&mut self, now: Time, leg: Leg, cause: DropCause) -> Verdict {
        if cause != DropCause::Duplicate {
            self.links.deny(now, &mut self.rng, leg, EndWhy::Refused);
        }
        Verdict::Dropped(cause)
    }

    /// Leads a circuit that [`Event::Relay`] named on to the session with its next hop. A key that is dead by now does
    /// nothing.
    pub fn extend(&mut self, now: Time, circuit: CircuitKey, link: LinkId) {
        let Some((opened, mut request)) = self.asked(circuit) else { return };
        let hop = self.hops.get(circuit).expect("it was asked");
        // Back to where it came from is no path, and a link that is gone is none either.
        let number = if hop.from.0 == link { None } else { self.choose(link, circuit) };
        let Some(number) = number else {
            return self.answer_first(now, circuit, &opened, Status::Unreachable);
        };
        let Some(reply) = reply(&mut self.rng, &opened) else {
            self.links.leave((link, number));
            return self.end_hop(circuit, None, EndWhy::Refused, EndedWhy::Local);
        };
        pass_on(&mut request, &opened.keys);
        let (aes, layers) = (self.aes && opened.request.aes, opened.request.layers);
        let lifetime = lifetime(opened.request.lifetime_s);
        self.links.send(&mut self.rng, link, Head::Build { circuit: number }, |cell| {
            cell[MESSAGE_AT..MESSAGE_AT + REQUEST_SIZE].copy_from_slice(&request[..]);
        });
        if let Some(hop) = self.hops.get_mut(circuit) {
            let extending = Extending { reply, aes, layers, lifetime };
            hop.state = State::Extending((link, number), Some(Box::new(extending)));
        }
    }

    fn choose(&mut self, link: LinkId, circuit: CircuitKey) -> Option<u32> {
        self.links.choose(&mut self.rng, link, Use::To(circuit.index()))
    }

    /// Takes what a request brought, once.
    fn asked(&mut self, circuit: CircuitKey) -> Option<(Opened, Box<[u8; REQUEST_SIZE]>)> {
        let hop = self.hops.get_mut(circuit)?;
        let State::Asked(asked) = &mut hop.state else { return None };
        let asked = asked.take()?;
        Some((asked.opened, asked.request))
    }

    /// Lets a circuit end here that [`Event::End`] named.
    pub fn accept(&mut self, now: Time, circuit: CircuitKey) {
        let Some((opened, _)) = self.asked(circuit) else { return };
        self.answer_first(now, circuit, &opened, Status::Built);
    }

    /// Refuses a circuit that [`Event::Relay`] or [`Event::End`] named. Its origin hears from which hop this comes.
    pub fn refuse(&mut self, now: Time, circuit: CircuitKey, status: Status) {
        let Some((opened, _)) = self.asked(circuit) else { return };
        self.answer_first(now, circuit, &opened, status);
    }

    /// The answer of a last hop, or of one that refuses.
    fn answer_first(&mut self, now: Time, circuit: CircuitKey, opened: &Opened, status: Status) {
        let Some(reply) = reply(&mut self.rng, opened) else {
            return self.end_hop(circuit, None, EndWhy::Refused, EndedWhy::Local);
        };
        let aes = self.aes && opened.request.aes;
        let ends = (status == Status::Built).then(|| layers(now, &reply, aes, opened.request.layers));
        let bytes = reply.first(&mut self.rng, Answer { status, aes });
        let Some(hop) = self.hops.get_mut(circuit) else { return };
        send_answer(&mut self.links, &mut self.rng, hop.from, &bytes);
        self.building -= 1;
        let Some(ends) = ends else {
            self.counters.refused += 1;
            return self.end_hop_quietly(circuit);
        };
        self.counters.accepted += 1;
        hop.state = State::Ending(Ending { ends, padding: Padding::new(now, &mut self.rng) });
        hop.heard = now;
        hop.expires = now + lifetime(opened.request.lifetime_s);
        self.arm_hop(now, circuit);
    }

    pub(super) fn pass_answer(&mut self, now: Time, index: u32, cell: &mut [u8]) -> Verdict {
        let Some((key, hop)) = self.hops.at(index) else { return Verdict::Dropped(DropCause::Unknown) };
        let State::Extending(to, extending) = &mut hop.state else {
            return Verdict::Dropped(DropCause::Late);
        };
        let (to, extending) = (*to, extending.take().expect("it is taken with the state"));
        let Extending { reply, aes, layers: count, lifetime } = *extending;
        let message = &cell[MESSAGE_AT..MESSAGE_AT + ANSWER_SIZE];
        let mut bytes: [u8; ANSWER_SIZE] = message.try_into().expect("an answer's bytes");
        let ends = layers(now, &reply, aes, count);
        reply.gather(&mut self.rng, Answer { status: Status::Built, aes }, &mut bytes);
        hop.state = State::Relaying(Relaying { to, ends });
        hop.heard = now;
        hop.expires = now + lifetime;
        send_answer(&mut self.links, &mut self.rng, hop.from, &bytes);
        self.building -= 1;
        self.counters.relayed += 1;
        self.arm_hop(now, key);
        Verdict::Handled
    }

    pub(super) fn forward(&mut self, now: Time, index: u32, class: Class, cell: &mut [u8]) -> Verdict {
        let Some((key, hop)) = self.hops.at(index) else { return Verdict::Dropped(DropCause::Unknown) };
        let fault = match &mut hop.state {
            State::Relaying(relaying) => match relaying.forward(now, class, cell, &mut self.rng) {
                Ok(link) => {
                    hop.heard = now;
                    self.counters.forward += 1;
                    return Verdict::Forward { link };
                }
                Err(fault) => fault,
            },
            State::Ending(ending) => match ending.ends.open(now, class, cell) {
                Ok(()) => {
                    hop.heard = now;
                    let body = class.record(ending.ends.layers - 1);
                    return self.content(key, &cell[AREA_AT..AREA_AT + body]);
                }
                Err(fault) => fault,
            },
            State::Opening(_) | State::Asked(_) | State::Extending(..) => OpenFault::Late,
        };
        match fault {
            OpenFault::Duplicate => Verdict::Dropped(DropCause::Duplicate),
            OpenFault::Late => Verdict::Dropped(DropCause::Late),
            OpenFault::Forged => {
                self.end_hop(key, None, EndWhy::Forged, EndedWhy::Forged { hop: 0 });
                Verdict::Dropped(DropCause::Forged)
            }
        }
    }

    /// What a circuit brought to this end.
    pub(super) fn content(&mut self, circuit: CircuitKey, body: &[u8]) -> Verdict {
        match Inner::parse(body) {
            Ok((Inner::Padding, _)) => {
                self.counters.padding += 1;
                Verdict::Handled
            }
            Ok((kind, content)) => {
                self.counters.delivered += 1;
                let content = content.start + AREA_AT..content.end + AREA_AT;
                Verdict::Content { circuit, kind, content }
            }
            Err(_) => {
                if circuit.is_own() {
                    self.end_own(circuit, Some(EndWhy::Done), EndedWhy::Malformed);
                } else {
                    self.end_hop(circuit, None, EndWhy::Done, EndedWhy::Malformed);
                }
                Verdict::Dropped(DropCause::Malformed)
            }
        }
    }

    pub(super) fn backward(&mut self, now: Time, index: u32, class: Class, cell: &mut [u8]) -> Verdict {
        let Some((_, hop)) = self.hops.at(index) else { return Verdict::Dropped(DropCause::Unknown) };
        let from = hop.from;
        let State::Relaying(relaying) = &mut hop.state else { return Verdict::Dropped(DropCause::Late) };
        relaying.backward(now, from, class, cell, &mut self.rng);
        self.counters.backward += 1;
        Verdict::Forward { link: from.0 }
    }

    /// Ends a circuit of others and tells its neighbours, but the one that ended it.
    pub(super) fn end_hop(
        &mut self,
        circuit: CircuitKey,
        told_by: Option<LinkId>,
        why: EndWhy,
        ended: EndedWhy,
    ) {
        let Some(hop) = self.hops.get(circuit) else { return };
        let (from, to) = (hop.from, hop.to());
        let legs = [Some(from), to].into_iter().flatten();
        for leg in legs.filter(|leg| Some(leg.0) != told_by) {
            self.links.end(&mut self.rng, leg, why);
        }
        let known_above = matches!(hop.state, State::Ending(_)) && ended != EndedWhy::Local;
        if hop.is_building() {
            self.building -= 1;
        }
        self.end_hop_quietly(circuit);
        if known_above {
            self.tell(Event::Ended { circuit, why: ended });
        }
    }

    fn end_hop_quietly(&mut self, circuit: CircuitKey) {
        let Some(hop) = self.hops.remove(circuit) else { return };
        if let Some(at) = hop.armed {
            self.timers.remove(&(at, circuit));
        }
        self.links.leave(hop.from);
        if let Some(to) = hop.to() {
            self.links.leave(to);
        }
        self.counters.ended += 1;
    }

    pub(super) fn hop_timeout(&mut self, now: Time, circuit: CircuitKey) {
        let Some(hop) = self.hops.get_mut(circuit) else { return };
        hop.armed = None;
        if hop.is_over(now) {
            let why = if hop.is_building() { EndWhy::Refused } else { EndWhy::Done };
            return self.end_hop(circuit, None, why, EndedWhy::Expired);
        }
        if let State::Ending(ending) = &mut hop.state
            && ending.padding.take(now, &mut self.rng)
        {
            let class = if self.rng.chance(0.5) { Class::Small } else { Class::Large };
            let mut cell = vec![0; class.size()].into_boxed_slice();
            if let Some(link) = hop.seal(now, Inner::Padding, 0, class, &mut cell, &mut self.rng) {
                self.links.send_cell(link, cell);
            }
        }
        self.arm_hop(now, circuit);
    }

    /// Puts a circuit among the timers. A cell that comes moves nothing: the timer looks when it is due.
    fn arm_hop(&mut self, now: Time, circuit: CircuitKey) {
        let Some(hop) = self.hops.get_mut(circuit) else { return };
        let at = hop.next(now);
        if let Some(before) = hop.armed.replace(at) {
            self.timers.remove(&(before, circuit));
        }
        self.timers.insert((at, circuit));
    }
}

/// What the caller is asked about an opened request.
fn asks(circuit: CircuitKey, opened: &Opened) -> Event {
    match opened.request.role {
        Role::Relay(next) => Event::Relay { circuit, next },
        Role::End { resume } => Event::End { circuit, resume },
    }
}

fn send_answer(links: &mut super::Links, rng: &mut Rng, (link, circuit): Leg, bytes: &[u8; ANSWER_SIZE]) {
    links.send(rng, link, Head::Answer { circuit }, |cell| {
        cell[MESSAGE_AT..MESSAGE_AT + ANSWER_SIZE].copy_from_slice(bytes);
    });
}

fn layers(now: Time, reply: &Reply, aes: bool, layers: u8) -> Layers {
    let suite = suite(aes);
    Layers {
        forward: Opening::new(Direction::Forward, suite, reply.secret.forward()),
        backward: Sealing::new(now, Direction::Backward, suite, reply.secret.backward()),
        layers,
    }
}

/// What both sides prefer.
pub(super) fn suite(aes: bool) -> Suite {
    if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
}

fn lifetime(seconds: u16) -> Duration {
    Duration::from_secs(u64::from(seconds)).min(Duration::from_millis(CIRCUIT_MS_MAX))
}

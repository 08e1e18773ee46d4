//! Onion circuits (docs/protocol/onion.md): paths through relays that know only their neighbours.
//!
//! [`Onion`] is one shard's part in them: hop of others' circuits ([`relay`](self)), end of some, origin of its own. It
//! is pure, and owns no cells: it is shown each where it lies and changes it there.
//!
//! A cell's way: a packet of type 3 is opened by its session → [`Onion::handle_cell`] finds the circuit by session and
//! number and opens (from the origin) or seals (to the origin) one layer in place → [`Verdict::Forward`] names the session
//! on which the same bytes go on, sealed where they lie.
//!
//! After each call that takes `&mut self` and `now`, the caller drains [`Onion::poll_event`], answering each, then
//! [`Onion::poll_transmit`], and waits for [`Onion::poll_timeout`].

pub mod alive;
pub mod book;
mod build;
pub mod exit;
pub mod held;
mod hop;
pub mod keep;
mod keys;
mod layer;
mod links;
mod onionkeys;
mod origin;
mod own;
pub mod path;
pub mod policy;
mod relay;
pub mod reorder;
mod search;
pub mod set;
pub mod several;
pub mod spread;
mod table;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

pub use build::Agreed;
pub use keys::OnionKey;
pub use layer::{Direction, OpenFault};
pub use table::CircuitKey;
pub use types::{
    BuildError, Counters, DropCause, EndedWhy, Event, HopInfo, LinkId, Route, SealError, Verdict,
};

use crate::base::{PublicKey, Rng, Time};
use crate::crypto::Suite;
use crate::limits::{CIRCUIT_EVENTS_MAX, CIRCUITS_MAX, CIRCUITS_OWN_MAX};
use crate::wire::Malformed;
use crate::wire::cell::{Class, EndWhy, Head, Inner};
use hop::Hop;
use links::{Bucket, Leg, Links, Use};
use onionkeys::OnionKeys;
use own::Own;
use table::Table;

/// One shard's circuits.
pub struct Onion {
    identity: PublicKey,
    /// Whether this CPU prefers AES-256-GCM.
    aes: bool,
    rng: Rng,
    /// `None` where another shard has them, which opens requests for this one.
    keys: Option<OnionKeys>,
    /// The key to publish.
    public: Option<OnionKey>,
    links: Links,
    hops: Table<Hop>,
    own: Table<Own>,
    /// Requests of which nobody knows yet what becomes of them.
    building: usize,
    builds: Bucket,
    timers: BTreeSet<(Time, CircuitKey)>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Onion {
    /// No circuits yet. `suite` is what this CPU prefers.
    pub fn new(identity: PublicKey, suite: Suite, mut rng: Rng, now: Time) -> Self {
        let keys = OnionKeys::new(&mut rng, now);
        Self {
            identity,
            aes: suite == Suite::Aes256Gcm,
            public: Some(keys.public()),
            keys: Some(keys),
            rng,
            links: Links::default(),
            hops: Table::new(false, CIRCUITS_MAX),
            own: Table::new(true, CIRCUITS_OWN_MAX),
            building: 0,
            builds: Bucket::new(now),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Leaves the onion keys to another shard of the node: [`Event::Open`] has it open requests.
    pub fn leave_keys(&mut self) {
        (self.keys, self.public) = (None, None);
    }

    /// The onion key to publish, if it is known here. It changes every [`crate::limits::ONION_KEY_MS`]; the one before
    /// stays good as long.
    pub fn onion_key(&self) -> Option<OnionKey> {
        self.public
    }

    /// What the shard with the onion keys publishes; whether that is news.
    pub fn learn_key(&mut self, key: OnionKey) -> bool {
        self.keys.is_none() && self.public.replace(key) != Some(key)
    }

    /// There is a session with a neighbour; `initiator` says whether we began it.
    pub fn link_up(&mut self, now: Time, link: LinkId, initiator: bool) {
        self.links.up(now, link, initiator);
    }

    /// A session with a neighbour is over, and with it every circuit that went through it.
    pub fn link_down(&mut self, link: LinkId) {
        self.links.down(link);
        let hit: Vec<CircuitKey> =
            self.hops.iter().filter(|(_, hop)| hop.touches(link)).map(|(key, _)| key).collect();
        for key in hit {
            self.end_hop(key, Some(link), EndWhy::Lost, EndedWhy::Lost);
        }
        let own: Vec<CircuitKey> =
            self.own.iter().filter(|(_, own)| own.entry.0 == link).map(|(key, _)| key).collect();
        for key in own {
            self.end_own(key, None, EndedWhy::Lost);
        }
    }

    /// A cell came from a neighbour, opened by its session. Whatever the bytes, other circuits are not affected. An
    /// error is the neighbour's fault: its session is to be closed.
    pub fn handle_cell(&mut self, now: Time, link: LinkId, cell: &mut [u8]) -> Result<Verdict, Malformed> {
        let verdict = match Head::parse(cell)? {
            Head::Data { circuit, class } => self.on_data(now, (link, circuit), class, cell),
            Head::Build { circuit } => self.on_build(now, (link, circuit), cell)?,
            Head::Answer { circuit } => self.on_answer(now, (link, circuit), cell),
            Head::End { circuit, why } => self.on_end((link, circuit), why),
        };
        if let Verdict::Dropped(cause) = verdict {
            self.counters.drop(cause);
        }
        Ok(verdict)
    }

    fn on_data(&mut self, now: Time, leg: Leg, class: Class, cell: &mut [u8]) -> Verdict {
        match self.links.find(leg) {
            Some(Use::From(index)) => self.forward(now, index, class, cell),
            Some(Use::To(index)) => self.backward(now, index, class, cell),
            Some(Use::Own(index)) => self.arrive(now, index, class, cell),
            None => {
                // Its end was lost, or is on its way.
                self.links.deny(now, &mut self.rng, leg, EndWhy::Done);
                Verdict::Dropped(DropCause::Unknown)
            }
        }
    }

    fn on_end(&mut self, leg: Leg, why: EndWhy) -> Verdict {
        let ended = EndedWhy::Neighbour(why);
        match self.links.find(leg) {
            Some(Use::From(index) | Use::To(index)) => {
                if let Some((key, _)) = self.hops.at(index) {
                    self.end_hop(key, Some(leg.0), why, ended);
                }
            }
            Some(Use::Own(index)) => {
                if let Some((key, _)) = self.own.at(index) {
                    self.end_own(key, None, ended);
                }
            }
            None => return Verdict::Dropped(DropCause::Unknown),
        }
        Verdict::Handled
    }

    fn on_answer(&mut self, now: Time, leg: Leg, cell: &mut [u8]) -> Verdict {
        match self.links.find(leg) {
            Some(Use::To(index)) => self.pass_answer(now, index, cell),
            Some(Use::Own(index)) => self.answered(now, index, cell),
            Some(Use::From(_)) | None => Verdict::Dropped(DropCause::Unknown),
        }
    }

    /// Seals `content_len` bytes that lie at [`crate::wire::cell::CONTENT_AT`] of `cell`, which is as long as a class, for
    /// the other end of a circuit. Returns the neighbour to which the cell goes.
    pub fn seal(
        &mut self,
        now: Time,
        circuit: CircuitKey,
        kind: Inner,
        content_len: usize,
        cell: &mut [u8],
    ) -> Result<LinkId, SealError> {
        let class = Class::of_size(cell.len()).ok_or(SealError::Length)?;
        if content_len > class.content_max() {
            return Err(SealError::Length);
        }
        let sealed = if circuit.is_own() {
            let own = self.own.get_mut(circuit).ok_or(SealError::Unknown)?;
            own.seal(now, kind, content_len, class, cell, &mut self.rng)
        } else {
            let hop = self.hops.get_mut(circuit).ok_or(SealError::Unknown)?;
            hop.seal(now, kind, content_len, class, cell, &mut self.rng)
        };
        self.counters.sealed += u64::from(sealed.is_some());
        sealed.ok_or(SealError::Unknown)
    }

    /// The session with the neighbour to which what is sealed for a circuit's other end goes; `None` for no open one.
    pub fn link_of(&self, circuit: CircuitKey) -> Option<LinkId> {
        if circuit.is_own() {
            let own = self.own.get(circuit)?;
            own.is_open().then_some(own.entry.0)
        } else {
            let hop = self.hops.get(circuit)?;
            hop.is_end().then_some(hop.from.0)
        }
    }

    /// The session with the neighbour that asked for a circuit of others'.
    pub fn asker(&self, circuit: CircuitKey) -> Option<LinkId> {
        Some(self.hops.get(circuit)?.from.0)
    }

    /// Whether a circuit goes over a session with a neighbour.
    pub fn uses(&self, link: LinkId) -> bool {
        self.hops.iter().any(|(_, hop)| hop.touches(link))
            || self.own.iter().any(|(_, own)| own.entry.0 == link)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes the next message for a neighbour to `into`, which has room for [`Class::Large`]'s size: for whom, and how
    /// long it is. It goes out as the payload of a packet of type 3, like any cell.
    pub fn poll_transmit(&mut self, into: &mut [u8]) -> Option<(LinkId, usize)> {
        self.links.poll(into)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        let first = self.timers.first().map(|(at, _)| *at);
        first.into_iter().chain(self.keys.as_ref().map(OnionKeys::rotate_at)).min()
    }

    /// Time has passed. Returns whether the onion key changed, and wants to be published.
    pub fn handle_timeout(&mut self, now: Time) -> bool {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, key));
            if key.is_own() {
                self.own_timeout(now, key);
            } else {
                self.hop_timeout(now, key);
            }
        }
        let Some(keys) = &mut self.keys else { return false };
        let rotated = keys.rotate(&mut self.rng, now);
        self.public = Some(keys.public());
        rotated
    }

    /// Ends a circuit of ours, or one that ends here. No event follows.
    pub fn close(&mut self, circuit: CircuitKey) {
        if circuit.is_own() {
            self.end_own(circuit, Some(EndWhy::Done), EndedWhy::Local);
        } else {
            self.end_hop(circuit, None, EndWhy::Done, EndedWhy::Local);
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Messages that found no room.
    pub fn messages_lost(&self) -> u64 {
        self.links.lost
    }

    /// Circuits through this shard and ending at it; and of its own.
    pub fn len(&self) -> (usize, usize) {
        (self.hops.len(), self.own.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Every layer that this node seals begins a new epoch with its next cell.
    #[cfg(test)]
    fn end_epochs(&mut self) {
        (0..CIRCUITS_OWN_MAX as u32).for_each(|n| {
            if let Some((_, own)) = self.own.at(n)
                && let Some(layers) = own.layers()
            {
                layers.end_epochs();
            }
        });
        (0..64).for_each(|n| {
            if let Some((_, hop)) = self.hops.at(n) {
                hop.end_epoch();
            }
        });
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Whether the caller is behind with answering: then nothing new is begun for others.
    fn is_behind(&self) -> bool {
        self.events.len() >= CIRCUIT_EVENTS_MAX
    }
}

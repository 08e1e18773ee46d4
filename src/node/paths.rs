//! One of the circuits that a purpose has at once (docs/protocol/onion.md §13): its keeper, whether it carries anything, and
//! what it may not have carried.

use std::collections::VecDeque;
use std::time::Duration;

use super::command::PathSnapshot;
use super::purposes::Traffic;
use crate::base::{PublicKey, Time};
use crate::limits::PATH_SAYS_MS;
use crate::onion::CircuitKey;
use crate::onion::alive::Alive;
use crate::onion::held::Held;
use crate::onion::keep::{Beside, Keeper};
use crate::onion::path::Want;

/// Pings whose answers are told from one another.
const PINGS_MAX: usize = 8;

/// A circuit, and the one that follows it.
pub(super) struct OnePath {
    pub keeper: Keeper,
    /// Whether the circuit in use carries anything.
    pub alive: Option<(CircuitKey, Alive)>,
    /// Packets that it may not have carried.
    pub held: Held,
    /// Pings that may come back, oldest first; at most [`PINGS_MAX`].
    pinged: VecDeque<([u8; 8], Time)>,
    /// Its silence was seen, and others took over.
    pub doubted: bool,
    /// When a packet came last, and when something was sent last.
    came: Time,
    said: Time,
    pub traffic: Traffic,
}

impl OnePath {
    pub fn new(now: Time, want: Want) -> Self {
        Self {
            keeper: Keeper::new(now, want),
            alive: None,
            held: Held::default(),
            pinged: VecDeque::new(),
            doubted: false,
            came: now,
            said: now,
            traffic: Traffic::default(),
        }
    }

    pub fn alive_of(&mut self, circuit: CircuitKey) -> Option<&mut Alive> {
        self.alive.as_mut().filter(|(key, _)| *key == circuit).map(|(_, alive)| alive)
    }

    /// Whether it is open, and not silent for longer than it should be.
    pub fn is_good(&self, now: Time) -> bool {
        let doubt = self.alive.as_ref().and_then(|(_, alive)| alive.doubt_at());
        self.keeper.circuit().is_some() && doubt.is_none_or(|at| at > now)
    }

    /// Whether what is sent now may not arrive.
    pub fn is_silent(&self) -> bool {
        self.alive.as_ref().is_none_or(|(_, alive)| alive.is_silent())
    }

    /// A packet goes out.
    pub fn sent(&mut self, now: Time) {
        self.said = now;
        if let Some((_, alive)) = &mut self.alive {
            alive.sent(now);
        }
    }

    /// Something authentic came; `packet`: an IP packet.
    pub fn heard(&mut self, now: Time, circuit: CircuitKey, packet: bool) {
        if let Some(alive) = self.alive_of(circuit) {
            alive.heard(now, packet);
            self.doubted = false;
            if packet {
                self.came = now;
            }
        }
    }

    /// When silence is a reason to doubt, and when the exit is to hear from here though there is nothing to say: it takes
    /// no circuit of several that is silent.
    pub fn beside_at(&self) -> Option<Time> {
        let (_, alive) = self.alive.as_ref()?;
        let doubt = alive.doubt_at().filter(|_| !self.doubted);
        doubt.into_iter().chain(self.says_at()).min()
    }

    fn says_at(&self) -> Option<Time> {
        (self.came > self.said).then(|| self.said + Duration::from_millis(PATH_SAYS_MS))
    }

    /// Whether the exit is to hear something.
    pub fn is_to_say(&self, now: Time) -> bool {
        self.alive.is_some() && self.says_at().is_some_and(|at| at <= now)
    }

    /// Whether it has been silent for too long, for the first time.
    pub fn begins_doubt(&mut self, now: Time) -> bool {
        let begins = self.keeper.circuit().is_some() && !self.is_good(now) && !self.doubted;
        self.doubted |= begins;
        begins
    }

    /// A ping goes out.
    pub fn pings(&mut self, now: Time, token: [u8; 8]) {
        if self.pinged.len() >= PINGS_MAX {
            self.pinged.pop_front();
        }
        self.pinged.push_back((token, now));
        self.said = now;
    }

    /// A ping came back; false when it is none that was sent.
    pub fn pong_came(&mut self, now: Time, circuit: CircuitKey, token: [u8; 8]) -> bool {
        let Some(at) = self.pinged.iter().position(|(sent, _)| *sent == token) else { return false };
        let (_, since) = self.pinged.drain(..=at).next_back().expect("it is there");
        let rtt = now.since(since);
        self.traffic.rtt_us = rtt.as_micros() as u64;
        if let Some(alive) = self.alive_of(circuit) {
            alive.measured(rtt);
            alive.answered(now);
        }
        true
    }

    /// For people.
    pub fn snapshot(&self) -> PathSnapshot {
        PathSnapshot {
            path: self.keeper.hops().to_vec(),
            why: self.keeper.stuck().map(ToString::to_string),
            rtt_us: self.traffic.rtt_us,
            sent_packets: self.traffic.sent_packets,
            sent_bytes: self.traffic.sent_bytes,
            received_packets: self.traffic.received_packets,
            received_bytes: self.traffic.received_bytes,
        }
    }
}

/// What is beside one of several: an exit that they share, relays that are not to be shared.
pub(super) fn beside(paths: &[OnePath], at: usize) -> Beside {
    let others = || paths.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, path)| path);
    let avoid: Vec<PublicKey> = others().flat_map(|path| path.keeper.relays()).collect();
    Beside { exit: others().find_map(|path| path.keeper.exit()), avoid }
}

/// Whether one of several may begin a circuit: the first chooses the exit for all, the others follow once it is known.
pub(super) fn may_begin(paths: &[OnePath], at: usize) -> bool {
    at == 0 || paths.iter().any(|path| path.keeper.circuit().is_some())
}

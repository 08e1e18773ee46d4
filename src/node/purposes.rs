//! What the node's own circuits are for (docs/protocol/onion.md §7): the tunnel with its device and proxy, and jobs. Each
//! purpose has circuits of its own, that share no path and no address at an exit with another's.

use std::collections::{BTreeMap, VecDeque};

use super::circuits::Circuits;
use super::command::{CircuitSnapshot, CircuitWant};
use super::{Clock, Node, Report, World};
use crate::base::fileop::JobId;
use crate::base::{Memory, Rng, Time, TunPacket};
use crate::limits::JOBS_ANONYMOUS_MAX;
use crate::onion::alive::{Act, Alive};
use crate::onion::held::Held;
use crate::onion::keep::{Keeper, Kept};
use crate::onion::path::{Relays, Want};
use crate::onion::{CircuitKey, Event, Onion};
use crate::wire::ip::Ip;

/// Pings whose answers are told from one another.
const PINGS_MAX: usize = 8;

/// Which purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PurposeId {
    /// Packets of the device and of the SOCKS proxy.
    Tunnel,
    /// One job's.
    Job(JobId),
}

/// What passed through a purpose's circuits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    /// Circuits that opened.
    pub opened: u64,
    /// IP packets, and their bytes.
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// The last round trip to the end of a circuit, microseconds.
    pub rtt_us: u64,
}

/// One purpose's circuits.
pub(super) struct Purpose {
    pub(super) keeper: Keeper,
    /// Whether the circuit in use carries anything.
    alive: Option<(CircuitKey, Alive)>,
    /// Packets that it may not have carried.
    held: Held,
    /// Pings that may come back, oldest first; at most [`PINGS_MAX`].
    pinged: VecDeque<([u8; 8], Time)>,
    pub(super) traffic: Traffic,
}

impl Purpose {
    fn new(now: Time, want: &CircuitWant, rng: &mut Rng) -> Self {
        let resume = rng.bytes();
        let want = Want { hops: want.hops, exit: want.exit, force: want.force, resume };
        Self {
            keeper: Keeper::new(now, want),
            alive: None,
            held: Held::default(),
            pinged: VecDeque::new(),
            traffic: Traffic::default(),
        }
    }

    /// Whether a circuit is one of this purpose's.
    fn has(&self, circuit: CircuitKey) -> bool {
        self.keeper.has(circuit)
    }

    fn alive_of(&mut self, circuit: CircuitKey) -> Option<&mut Alive> {
        self.alive.as_mut().filter(|(key, _)| *key == circuit).map(|(_, alive)| alive)
    }

    /// For people.
    pub(super) fn snapshot(&self) -> CircuitSnapshot {
        CircuitSnapshot {
            hops: self.keeper.wanted(),
            path: self.keeper.hops().to_vec(),
            why: self.keeper.stuck().map(ToString::to_string),
            rtt_us: self.traffic.rtt_us,
            opened: self.traffic.opened,
            sent_packets: self.traffic.sent_packets,
            sent_bytes: self.traffic.sent_bytes,
            received_packets: self.traffic.received_packets,
            received_bytes: self.traffic.received_bytes,
        }
    }
}

/// All purposes of a node, on the first shard; none on others.
#[derive(Default)]
pub(super) struct Purposes {
    all: BTreeMap<PurposeId, Purpose>,
}

impl Purposes {
    pub(super) fn get(&self, id: PurposeId) -> Option<&Purpose> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PurposeId) -> Option<&mut Purpose> {
        self.all.get_mut(&id)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Jobs with circuits of their own.
    pub(super) fn jobs(&self) -> usize {
        self.all.keys().filter(|id| **id != PurposeId::Tunnel).count()
    }

    /// Whose a circuit is; `None` for one that nobody wants any more.
    pub(super) fn of(&self, circuit: CircuitKey) -> Option<PurposeId> {
        self.all.iter().find(|(_, purpose)| purpose.has(circuit)).map(|(id, _)| *id)
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let each = self.all.values().flat_map(|purpose| {
            let alive = purpose.alive.as_ref().and_then(|(_, alive)| alive.poll_timeout());
            [purpose.keeper.poll_timeout(), alive]
        });
        each.flatten().min()
    }

    /// News of relays came: what found no path may find one now.
    pub(super) fn hurry(&mut self, now: Time) {
        self.all.values_mut().for_each(|purpose| purpose.keeper.hurry(now));
    }

    /// Begins the circuits that are due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Time,
        onion: &mut Onion,
        relays: &mut Relays,
        rng: &mut Rng,
    ) {
        self.all.values_mut().for_each(|purpose| purpose.keeper.handle_timeout(now, onion, relays, rng));
    }

    /// Hears what happened to a circuit of ours.
    pub(super) fn handle_event(&mut self, now: Time, event: &Event, onion: &mut Onion, relays: &mut Relays) {
        for purpose in self.all.values_mut() {
            if purpose.keeper.handle_event(now, event, onion, relays) {
                purpose.traffic.opened += u64::from(matches!(event, Event::Opened { .. }));
                return;
            }
        }
    }

    /// The circuit on which a purpose's packet goes. What goes into silence is kept, too.
    pub(super) fn to_send(
        &mut self,
        now: Time,
        id: PurposeId,
        packet: TunPacket,
        header: &Ip,
        memory: &impl Memory,
    ) -> Option<CircuitKey> {
        let purpose = self.all.get_mut(&id)?;
        if purpose.alive.as_ref().is_none_or(|(_, alive)| alive.is_silent()) {
            purpose.held.keep(now, header, packet.offload, memory.bytes(packet.place));
        }
        let circuit = purpose.keeper.circuit()?;
        if let Some(alive) = purpose.alive_of(circuit) {
            alive.sent(now);
        }
        Some(circuit)
    }

    /// The circuits of jobs, for people.
    pub(super) fn job_snapshots(&self) -> Vec<(JobId, CircuitSnapshot)> {
        let of = |(id, purpose): (&PurposeId, &Purpose)| match id {
            PurposeId::Job(job) => Some((*job, purpose.snapshot())),
            PurposeId::Tunnel => None,
        };
        self.all.iter().filter_map(of).collect()
    }

    fn poll_event(&mut self) -> Option<(PurposeId, Kept)> {
        self.all.iter_mut().find_map(|(id, purpose)| Some((*id, purpose.keeper.poll_event()?)))
    }
}

impl Circuits {
    /// Has circuits for a purpose from now on, or none any more; false when there are as many purposes as there may be.
    pub(super) fn set_purpose(&mut self, now: Time, id: PurposeId, want: Option<&CircuitWant>) -> bool {
        let before = self.purposes.all.remove(&id);
        let traffic = before.map(|before| {
            before.keeper.close(&mut self.onion);
            before.traffic
        });
        let Some(want) = want else { return true };
        if id != PurposeId::Tunnel && self.purposes.jobs() >= JOBS_ANONYMOUS_MAX {
            return false;
        }
        let mut purpose = Purpose::new(now, want, &mut self.rng);
        // What is shown of a purpose goes on when it wants another circuit.
        purpose.traffic = traffic.unwrap_or_default();
        self.purposes.all.insert(id, purpose);
        if self.share_at.is_some() {
            self.share_at = Some(now);
        }
        true
    }

    /// Something authentic came through a circuit of ours; `packet`: an IP packet.
    pub(super) fn own_heard(&mut self, now: Time, circuit: CircuitKey, packet: bool) {
        let purpose = self.purposes.all.values_mut().find(|purpose| purpose.has(circuit));
        if let Some(alive) = purpose.and_then(|purpose| purpose.alive_of(circuit)) {
            alive.heard(now, packet);
        }
    }

    /// A ping came back.
    pub(super) fn pong_came(&mut self, now: Time, circuit: CircuitKey, token: [u8; 8]) {
        let purpose = self.purposes.all.values_mut().find(|purpose| purpose.has(circuit));
        let Some(purpose) = purpose else { return };
        let Some(at) = purpose.pinged.iter().position(|(sent, _)| *sent == token) else { return };
        let (_, since) = purpose.pinged.drain(..=at).next_back().expect("it is there");
        let rtt = now.since(since);
        purpose.traffic.rtt_us = rtt.as_micros() as u64;
        if let Some(alive) = purpose.alive_of(circuit) {
            alive.measured(rtt);
            alive.answered(now);
        }
        self.counters.pongs += 1;
    }
}

impl Node {
    /// What keepers have to say.
    pub(super) fn settle_purposes(&mut self, clock: Clock, world: &mut impl World) {
        while let Some((id, kept)) = self.circuits.purposes.poll_event() {
            let Some(purpose) = self.circuits.purposes.get_mut(id) else { continue };
            match kept {
                Kept::Ready(circuit) => {
                    purpose.alive = Some((circuit, Alive::new(clock.now)));
                    self.ping(clock, id, circuit, world);
                    self.send_held(clock, id, world);
                    if let PurposeId::Job(job) = id {
                        self.anonymous_ready(clock, job);
                    }
                }
                Kept::Down(why) => {
                    purpose.alive = None;
                    self.warn_of(id, format!("the circuit ended: {why}"));
                }
                Kept::Stuck(why) => self.warn_of(id, format!("no circuit: {why}")),
            }
        }
    }

    /// Of a job's circuits its own progress tells.
    fn warn_of(&mut self, id: PurposeId, what: String) {
        if id == PurposeId::Tunnel {
            self.reports.push_back(Report::Warning(what));
        }
    }

    /// Asks the other end of a circuit of ours whether it is there.
    fn ping(&mut self, clock: Clock, id: PurposeId, circuit: CircuitKey, world: &mut impl World) {
        let token = self.circuits.rng.bytes();
        let Some(purpose) = self.circuits.purposes.get_mut(id) else { return };
        if purpose.pinged.len() >= PINGS_MAX {
            purpose.pinged.pop_front();
        }
        purpose.pinged.push_back((token, clock.now));
        self.send_ping(clock, circuit, &token, world);
    }

    /// Asks silent circuits, and gives up those that do not answer.
    pub(super) fn watch_purposes(&mut self, clock: Clock, world: &mut impl World) {
        let mut pings = Vec::new();
        let own = &mut self.circuits;
        for (id, purpose) in &mut own.purposes.all {
            let Some((circuit, alive)) = &mut purpose.alive else { continue };
            match alive.handle_timeout(clock.now) {
                Some(Act::Ping) => pings.push((*id, *circuit)),
                Some(Act::Dead) => {
                    own.counters.dead += 1;
                    purpose.alive = None;
                    purpose.keeper.dead(clock.now, &mut own.onion, &mut own.relays);
                }
                None => {}
            }
        }
        pings.into_iter().for_each(|(id, circuit)| self.ping(clock, id, circuit, world));
    }

    /// A circuit is there again: what the one before may not have carried goes through it.
    fn send_held(&mut self, clock: Clock, id: PurposeId, world: &mut impl World) {
        let Some(purpose) = self.circuits.purposes.get_mut(id) else { return };
        for (offload, bytes) in purpose.held.take(clock.now, |_| true) {
            self.with_copy(&bytes, offload, world, |node, packet, header, world| {
                node.purpose_packet(clock, id, packet, header, world);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use crate::crypto::Suite;

    #[test]
    fn jobs_have_so_many_purposes_and_no_more_and_the_tunnel_its_own() {
        let now = Time::ZERO;
        let mut circuits =
            Circuits::new(PublicKey([1; 32]), Suite::ChaCha20Poly1305, (0, 1), Rng::from_number(1), now);
        let want = CircuitWant { hops: 3, exit: None, force: false, routes: Vec::new(), proxied: false };
        let job = |n: usize| PurposeId::Job(JobId(n as u64));
        for n in 0..JOBS_ANONYMOUS_MAX {
            assert!(circuits.set_purpose(now, job(n), Some(&want)));
        }
        assert!(!circuits.set_purpose(now, job(JOBS_ANONYMOUS_MAX), Some(&want)));
        assert!(circuits.set_purpose(now, job(0), Some(&want)), "one that is there may want another");
        assert!(circuits.set_purpose(now, PurposeId::Tunnel, Some(&want)));
        assert_eq!(circuits.purposes.jobs(), JOBS_ANONYMOUS_MAX);
        assert!(circuits.set_purpose(now, job(0), None) && circuits.set_purpose(now, job(9), None));
        assert!(circuits.set_purpose(now, job(JOBS_ANONYMOUS_MAX), Some(&want)));
    }
}

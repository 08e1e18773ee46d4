//! What the node's own circuits are for (docs/protocol/onion.md §7): the tunnel with its device and proxy, and jobs. Each
//! purpose has circuits of its own, that share no path and no address at an exit with another's.

use std::collections::BTreeMap;

use super::circuits::Circuits;
use super::command::{CircuitSnapshot, CircuitWant};
use super::paths::{OnePath, beside, may_begin};
use super::{Clock, Node, Report, World};
use crate::base::fileop::JobId;
use crate::base::{Memory, Rng, Time, TunPacket};
use crate::limits::{JOBS_ANONYMOUS_MAX, PATHS_MAX};
use crate::onion::alive::{Act, Alive};
use crate::onion::keep::{Keeper, Kept};
use crate::onion::path::{Relays, Want};
use crate::onion::several::Several;
use crate::onion::spread::by_flow;
use crate::onion::{CircuitKey, Event, Onion};
use crate::tunnel::flow::Flows;
use crate::wire::ip::Ip;

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

/// One purpose's circuits: one, or several at once to one exit.
pub(super) struct Purpose {
    paths: Vec<OnePath>,
    flows: Flows,
    /// While packets are spread over the paths one by one.
    pub(super) several: Option<Several>,
    pub(super) traffic: Traffic,
}

impl Purpose {
    fn new(now: Time, want: &CircuitWant, rng: &mut Rng) -> Self {
        let resume = rng.bytes();
        // What is one hop long shares it.
        let paths = if want.hops > 1 { usize::from(want.paths).clamp(1, PATHS_MAX) } else { 1 };
        let want_packets = want.spread_packets;
        let several = paths > 1;
        let want = Want { hops: want.hops, exit: want.exit, force: want.force, resume, several };
        Self {
            paths: (0..paths).map(|_| OnePath::new(now, want)).collect(),
            flows: Flows::new(rng),
            several: (want_packets && paths > 1).then(|| Several::new(rng)),
            traffic: Traffic::default(),
        }
    }

    /// Which of its paths a circuit is one of.
    fn path_of(&self, circuit: CircuitKey) -> Option<usize> {
        self.paths.iter().position(|path| path.keeper.has(circuit))
    }

    /// Who keeps its first circuit: the only one that a job has.
    pub(super) fn keeper(&self) -> &Keeper {
        &self.paths[0].keeper
    }

    fn is_several(&self) -> bool {
        self.paths.len() > 1
    }

    /// The path on which a packet goes: where its flow is, while that is there.
    fn choose(&self, now: Time, packet: &[u8], header: &Ip) -> Option<usize> {
        if !self.is_several() {
            return self.paths[0].keeper.circuit().map(|_| 0);
        }
        let open = self.paths.iter().enumerate().filter(|(_, path)| path.keeper.circuit().is_some());
        let flow = self.flows.of(packet, header);
        by_flow(flow, open.map(|(at, path)| (at, at as u64, path.is_good(now))))
    }

    /// Whether its packets are spread one by one.
    pub(super) fn spreads(&self) -> bool {
        self.several.is_some()
    }

    /// The circuit by which the next of them goes, and its sequence.
    pub(super) fn next_spread(&mut self, now: Time, bytes: usize) -> Option<(CircuitKey, u32)> {
        let several = self.several.as_mut()?;
        let any_good = self.paths.iter().any(|path| path.is_good(now));
        let usable = self.paths.iter().filter(|path| !any_good || path.is_good(now));
        let circuit = several.choose(now, usable.filter_map(|path| path.keeper.circuit()), bytes)?;
        let at = self.path_of(circuit)?;
        self.paths[at].sent(now);
        Some((circuit, self.several.as_mut()?.sent(now, circuit, bytes)))
    }

    /// What passed on a circuit of its own.
    fn count(&mut self, circuit: CircuitKey, add: impl Fn(&mut Traffic)) {
        add(&mut self.traffic);
        if let Some(at) = self.path_of(circuit) {
            add(&mut self.paths[at].traffic);
        }
    }

    /// So many packets and bytes went out on a circuit.
    pub(super) fn count_sent(&mut self, circuit: CircuitKey, packets: u64, bytes: u64) {
        self.count(circuit, |traffic| {
            traffic.sent_packets += packets;
            traffic.sent_bytes += bytes;
        });
    }

    /// A packet came on a circuit.
    pub(super) fn count_received(&mut self, circuit: CircuitKey, bytes: u64) {
        self.count(circuit, |traffic| {
            traffic.received_packets += 1;
            traffic.received_bytes += bytes;
        });
    }

    /// For people.
    pub(super) fn snapshot(&self) -> CircuitSnapshot {
        let first = self.paths.iter().find(|path| path.keeper.circuit().is_some());
        let first = first.unwrap_or(&self.paths[0]);
        CircuitSnapshot {
            hops: first.keeper.wanted(),
            path: first.keeper.hops().to_vec(),
            why: first.keeper.stuck().map(ToString::to_string),
            paths: self.paths.iter().map(OnePath::snapshot).collect(),
            rtt_us: first.traffic.rtt_us,
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
        self.all.iter().find(|(_, purpose)| purpose.path_of(circuit).is_some()).map(|(id, _)| *id)
    }

    /// One of a purpose's paths, by a circuit of it.
    fn path_mut(&mut self, circuit: CircuitKey) -> Option<&mut OnePath> {
        let find = |purpose: &mut Purpose| purpose.path_of(circuit);
        self.all.values_mut().find_map(|purpose| find(purpose).map(|at| &mut purpose.paths[at]))
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let each = self.all.values().flat_map(|purpose| {
            purpose.paths.iter().enumerate().flat_map(|(at, path)| {
                let begins = path.keeper.poll_timeout().filter(|_| may_begin(&purpose.paths, at));
                let alive = path.alive.as_ref().and_then(|(_, alive)| alive.poll_timeout());
                let beside = path.beside_at().filter(|_| purpose.is_several());
                [begins, alive, beside]
            })
        });
        each.flatten().min()
    }

    /// News of relays came: what found no path may find one now.
    pub(super) fn hurry(&mut self, now: Time) {
        let paths = self.all.values_mut().flat_map(|purpose| &mut purpose.paths);
        paths.for_each(|path| path.keeper.hurry(now));
    }

    /// Some relays leave soon: circuits through them are replaced before that.
    pub(super) fn part(&mut self, now: Time, relays: &Relays) {
        let paths = self.all.values_mut().flat_map(|purpose| &mut purpose.paths);
        paths.for_each(|path| path.keeper.part(now, relays));
    }

    /// Begins the circuits that are due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Time,
        onion: &mut Onion,
        relays: &mut Relays,
        rng: &mut Rng,
    ) {
        for purpose in self.all.values_mut() {
            for at in 0..purpose.paths.len() {
                let due = purpose.paths[at].keeper.poll_timeout().is_some_and(|at| at <= now);
                if !due || !may_begin(&purpose.paths, at) {
                    continue;
                }
                let beside = beside(&purpose.paths, at);
                let keeper = &mut purpose.paths[at].keeper;
                keeper.set_beside(beside);
                keeper.handle_timeout(now, onion, relays, rng);
            }
        }
    }

    /// Hears what happened to a circuit of ours.
    pub(super) fn handle_event(&mut self, now: Time, event: &Event, onion: &mut Onion, relays: &mut Relays) {
        for purpose in self.all.values_mut() {
            if purpose.paths.iter_mut().any(|path| path.keeper.handle_event(now, event, onion, relays)) {
                purpose.traffic.opened += u64::from(matches!(event, Event::Opened { .. }));
                return;
            }
        }
    }

    /// The circuit on which a purpose's packet goes. What goes into silence is kept, too.
    pub(super) fn circuit_for(
        &mut self,
        now: Time,
        id: PurposeId,
        packet: TunPacket,
        header: &Ip,
        memory: &impl Memory,
    ) -> Option<CircuitKey> {
        let purpose = self.all.get_mut(&id)?;
        let bytes = memory.bytes(packet.place);
        let at = purpose.choose(now, bytes, header);
        let path = &mut purpose.paths[at.unwrap_or(0)];
        if path.is_silent() {
            path.held.keep(now, header, packet.offload, bytes);
        }
        let circuit = path.keeper.circuit().filter(|_| at.is_some())?;
        path.sent(now);
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

    /// When packets that wait for others have waited long enough.
    pub(super) fn early_at(&self) -> Option<Time> {
        self.all.values().filter_map(|purpose| purpose.several.as_ref()?.poll_timeout()).min()
    }

    /// How many wait so.
    pub(super) fn early(&self) -> usize {
        self.all.values().filter_map(|purpose| purpose.several.as_ref()).map(Several::waiting).sum()
    }

    /// The purposes whose packets are spread one by one.
    pub(super) fn spread_ids(&self) -> Vec<PurposeId> {
        self.all.iter().filter(|(_, purpose)| purpose.spreads()).map(|(id, _)| *id).collect()
    }

    /// Whether a purpose has an open circuit.
    fn is_open(&self, id: PurposeId) -> bool {
        self.get(id).is_some_and(|purpose| purpose.paths.iter().any(|path| path.keeper.circuit().is_some()))
    }

    /// Whether it has one that answers.
    fn is_good(&self, now: Time, id: PurposeId) -> bool {
        self.get(id).is_some_and(|purpose| purpose.paths.iter().any(|path| path.is_good(now)))
    }

    fn poll_event(&mut self) -> Option<(PurposeId, usize, Kept)> {
        self.all.iter_mut().find_map(|(id, purpose)| {
            let mut paths = purpose.paths.iter_mut().enumerate();
            paths.find_map(|(at, path)| Some((*id, at, path.keeper.poll_event()?)))
        })
    }
}

impl Circuits {
    /// Has circuits for a purpose from now on, or none any more; false when there are as many purposes as there may be.
    pub(super) fn set_purpose(&mut self, now: Time, id: PurposeId, want: Option<&CircuitWant>) -> bool {
        let before = self.purposes.all.remove(&id);
        let traffic = before.map(|before| {
            before.paths.into_iter().for_each(|path| path.keeper.close(&mut self.onion));
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
        if let Some(path) = self.purposes.path_mut(circuit) {
            path.heard(now, circuit, packet);
        }
    }

    /// A ping came back.
    pub(super) fn pong_came(&mut self, now: Time, circuit: CircuitKey, token: [u8; 8]) {
        let path = self.purposes.path_mut(circuit);
        if path.is_some_and(|path| path.pong_came(now, circuit, token)) {
            self.counters.pongs += 1;
        }
    }
}

impl Node {
    /// What keepers have to say.
    pub(super) fn settle_purposes(&mut self, clock: Clock, world: &mut impl World) {
        while let Some((id, at, kept)) = self.circuits.purposes.poll_event() {
            let own = &mut self.circuits;
            let Some(purpose) = own.purposes.get_mut(id) else { continue };
            match kept {
                Kept::Ready(circuit) => {
                    let exit = beside(&purpose.paths, at).exit;
                    let path = &mut purpose.paths[at];
                    if exit.is_some() && path.keeper.exit() != exit {
                        // The others found another exit meanwhile: a set has one.
                        path.keeper.leave(clock.now, &mut own.onion);
                        continue;
                    }
                    path.alive = Some((circuit, Alive::new(clock.now)));
                    path.doubted = false;
                    self.ping(clock, circuit, world);
                    self.send_held(clock, id, at, world);
                    if let PurposeId::Job(job) = id {
                        self.anonymous_ready(clock, job);
                    }
                }
                Kept::Down(why) => {
                    purpose.paths[at].alive = None;
                    self.warn_of(id, format!("the circuit ended: {why}"));
                    if self.circuits.purposes.is_open(id) {
                        self.send_held(clock, id, at, world);
                    }
                }
                // That there are fewer than wanted is shown, and no reason to warn again and again.
                Kept::Stuck(_) if at > 0 => {}
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
    fn ping(&mut self, clock: Clock, circuit: CircuitKey, world: &mut impl World) {
        let token = self.circuits.rng.bytes();
        let Some(path) = self.circuits.purposes.path_mut(circuit) else { return };
        path.pings(clock.now, token);
        self.send_ping(clock, circuit, &token, world);
    }

    /// Asks silent circuits, and gives up those that do not answer. Of several, what one may not have carried goes by the
    /// others as soon as it is silent for longer than it should be.
    pub(super) fn watch_purposes(&mut self, clock: Clock, world: &mut impl World) {
        let (mut pings, mut doubted) = (Vec::new(), Vec::new());
        let own = &mut self.circuits;
        for (id, purpose) in &mut own.purposes.all {
            let (several, mut doubts) = (purpose.is_several(), false);
            for (at, path) in purpose.paths.iter_mut().enumerate() {
                let Some((circuit, alive)) = &mut path.alive else { continue };
                let circuit = *circuit;
                match alive.handle_timeout(clock.now) {
                    Some(Act::Ping) => pings.push(circuit),
                    Some(Act::Dead) => {
                        own.counters.dead += 1;
                        path.alive = None;
                        path.keeper.dead(clock.now, &mut own.onion, &mut own.relays);
                        continue;
                    }
                    None if several && path.is_to_say(clock.now) => pings.push(circuit),
                    None => {}
                }
                if several && path.begins_doubt(clock.now) {
                    doubted.push((*id, at));
                    doubts = true;
                }
            }
            if doubts {
                // The exit sends what comes back by those that it hears.
                let good = purpose.paths.iter().filter(|path| path.is_good(clock.now));
                pings.extend(good.filter_map(|path| path.keeper.circuit()));
            }
        }
        pings.into_iter().for_each(|circuit| self.ping(clock, circuit, world));
        for (id, at) in doubted {
            if self.circuits.purposes.is_good(clock.now, id) {
                self.send_held(clock, id, at, world);
            }
        }
    }

    /// What one path may not have carried goes where its flows go now.
    fn send_held(&mut self, clock: Clock, id: PurposeId, at: usize, world: &mut impl World) {
        let Some(purpose) = self.circuits.purposes.get_mut(id) else { return };
        for (offload, bytes) in purpose.paths[at].held.take(clock.now, |_| true) {
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
        let want = CircuitWant { hops: 3, ..CircuitWant::default() };
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

//! Gets, and giving of chunks, of which nobody learns whose they are (docs/protocol/onion.md §12): each has circuits of its own, a purpose, and an
//! inner node that asks the network and its providers through them. Here they are brought to an end: a circuit first, then
//! the network, then the content; another exit where one lets nothing out.

mod look;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::circuits::FIRST;
use super::command::{Anonymous, CircuitWant, GetProgress, GetRequest, OverlayRules, Report, Work};
use super::inner::{Came, Inner};
use super::purposes::PurposeId;
use super::{Clock, Command, Input, Node, Output, World};
use crate::base::fileop::{FileDone, JobId};
use crate::base::{NewChunk, Place, PublicKey, Time};
use crate::crypto::Identity;
use crate::limits::{
    ANONYMOUS_ENTER_MS, ANONYMOUS_EXITS_MAX, ANONYMOUS_PROHIBITED_MS, ANONYMOUS_SILENT_MS,
    ANONYMOUS_STUCK_LANES_MS, ANONYMOUS_STUCK_MS, ANONYMOUS_TRAINS_MAX, CIRCUIT_WAIT_MS_MAX,
    JOBS_ANONYMOUS_MAX, PUSH_CHUNKS_MAX,
};
use crate::wire::ip::Ip;

/// The anonymous jobs of a node, on the first shard.
#[derive(Default)]
pub(super) struct Inners {
    jobs: BTreeMap<JobId, Job>,
}

/// One job.
struct Job {
    phase: Phase,
    want: CircuitWant,
    /// Whether the exit is the operator's choice.
    pinned: bool,
    /// Exits that let nothing out to the network.
    refused: Vec<PublicKey>,
    identity: Arc<Identity>,
    /// How far its clock is from ours.
    skew_ms: i64,
    request: Option<GetRequest>,
    /// Of a job that gives: chunks that its inner node has not taken yet; at most [`PUSH_CHUNKS_MAX`].
    gives: Option<VecDeque<Box<NewChunk>>>,
    /// It has done what it was for.
    is_over: bool,
    rules: OverlayRules,
    inner: Inner,
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Its circuit is being built, since then; and since when there is a reason why there is none.
    Building { since: Time, stuck: Option<Time>, patience: Duration },
    /// It knows nobody of the network yet: since the circuit opened, and since somebody answered.
    Entering { since: Time, met: Option<Time> },
    /// The inner node gets it, or gives it away.
    Getting,
}

/// What is to be done about a job that comes to nothing.
enum Verdict {
    Wait,
    Begin,
    /// It is over.
    End,
    /// Its exit lets nothing out; whether it said so.
    OtherExit {
        prohibited: bool,
    },
    Fail(String),
}

impl Job {
    fn is_building(&self) -> bool {
        matches!(self.phase, Phase::Building { .. })
    }

    /// When it must be looked at, whatever happens.
    fn watch_at(&self) -> Option<Time> {
        let after = |since: Time, ms: u64| since + Duration::from_millis(ms);
        match self.phase {
            Phase::Building { since, stuck, patience } => {
                let stuck = stuck.map(|stuck| stuck + patience);
                stuck.into_iter().chain([after(since, CIRCUIT_WAIT_MS_MAX)]).min()
            }
            Phase::Entering { met: Some(met), .. } => Some(after(met, ANONYMOUS_ENTER_MS)),
            Phase::Entering { since, met: None } if self.inner.is_shut_in(&self.rules.bootstrap) => {
                Some(after(since, ANONYMOUS_PROHIBITED_MS))
            }
            Phase::Entering { since, met: None } => Some(after(since, ANONYMOUS_SILENT_MS)),
            Phase::Getting => None,
        }
    }

    /// What an operator sees of it.
    fn progress(&self) -> GetProgress {
        let waits_for = match self.phase {
            Phase::Building { .. } => Some("a circuit"),
            Phase::Entering { .. } => Some("the network, through the circuit"),
            Phase::Getting => None,
        };
        let known = self.inner.node().get.progress().next().map(|(_, progress)| progress.clone());
        GetProgress { waits_for, ..known.unwrap_or_default() }
    }
}

impl Inners {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn progress(&self) -> impl Iterator<Item = (JobId, GetProgress)> + '_ {
        let gets = self.jobs.iter().filter(|(_, job)| job.gives.is_none());
        gets.map(|(id, job)| (*id, job.progress()))
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let each = self.jobs.values().flat_map(|job| {
            // Without a circuit it would speak to nobody.
            let inner = (!job.is_building()).then(|| job.inner.poll_timeout()).flatten();
            [inner, job.watch_at(), job.is_over.then_some(Time::ZERO)]
        });
        each.flatten().min()
    }
}

fn another_exit(prohibited: bool) -> &'static str {
    match prohibited {
        true => {
            "lets nothing out to the network's nodes: its operator has to allow it (exit.allow, UDP to any port; networks that are not global by their own names)"
        }
        false => "brings no answer of the network's nodes: it may not let UDP out to them (its exit.allow)",
    }
}

impl Node {
    /// Begins a job with circuits of its own.
    pub(super) fn start_anonymous(&mut self, clock: Clock, anonymous: Anonymous) {
        let job = anonymous.job();
        let Anonymous { work, identity, hops, exit, force } = anonymous;
        let friends = &self.friends;
        let entry =
            self.overlay.keeper.as_mut().map(|keeper| keeper.entries(|key| friends.get(key).is_some()));
        let Some((network, bootstrap)) = entry else {
            let why = "an anonymous job asks the network, and overlay.enabled is false: \
                       tornet config set overlay.enabled true";
            return self.fail_get(job, why.to_owned());
        };
        if bootstrap.is_empty() {
            let why = "this node knows nobody of the network yet by whom an anonymous job could enter it: \
                       wait until tornet status shows contacts, then run the same command again";
            return self.fail_get(job, why.to_owned());
        }
        let want = CircuitWant {
            hops,
            exit,
            force,
            routes: Vec::new(),
            proxied: false,
            paths: 1,
            spread_packets: false,
        };
        if self.circuits.shard.0 != FIRST
            || !self.circuits.set_purpose(clock.now, PurposeId::Job(job), Some(&want))
        {
            let why =
                format!("{JOBS_ANONYMOUS_MAX} jobs with circuits of their own are running: wait for one");
            return self.fail_get(job, why);
        }
        let far = self.overlay.on.as_ref().is_some_and(|on| on.far);
        let rules = OverlayRules {
            enabled: true,
            network,
            addresses: Vec::new(),
            bootstrap,
            far,
            serve_strangers: false,
            keep: None,
        };
        let skew_ms = Inner::draw_skew(&mut self.rng);
        let inner = self.inner(clock, &identity, &rules, skew_ms);
        let phase = self.building(clock.now);
        let pinned = exit.is_some();
        let (request, gives) = match work {
            Work::Get(request) => (Some(request), None),
            Work::Give(_) => (None, Some(VecDeque::new())),
        };
        let (refused, is_over) = (Vec::new(), false);
        let entry =
            Job { phase, want, pinned, refused, identity, skew_ms, request, gives, is_over, rules, inner };
        self.reports.push_back(Report::Progress(job, entry.progress()));
        self.inners.jobs.insert(job, entry);
    }

    /// A circuit is to be built from now on.
    fn building(&self, now: Time) -> Phase {
        let alone = self.circuits.shard.1 == 1;
        let patience = if alone { ANONYMOUS_STUCK_MS } else { ANONYMOUS_STUCK_LANES_MS };
        Phase::Building { since: now, stuck: None, patience: Duration::from_millis(patience) }
    }

    fn inner(&mut self, clock: Clock, identity: &Arc<Identity>, rules: &OverlayRules, skew_ms: i64) -> Inner {
        let (template, rng) = (&self.template, &mut self.rng);
        let mut inner = Inner::new(template, Arc::clone(identity), rules.clone(), skew_ms, clock, rng);
        // What it gives away shall be found anywhere but here.
        inner.avoid(self.sessions.identity_card().key);
        inner
    }

    /// Its circuit is open: the network is entered through it.
    pub(super) fn anonymous_ready(&mut self, clock: Clock, id: JobId) {
        let Some(Job { phase: Phase::Building { .. }, identity, rules, skew_ms, .. }) =
            self.inners.jobs.get(&id)
        else {
            return;
        };
        let (identity, rules, skew_ms) = (Arc::clone(identity), rules.clone(), *skew_ms);
        // What it had to say while there was no circuit is lost, and would be said again late.
        let inner = self.inner(clock, &identity, &rules, skew_ms);
        let Some(job) = self.inners.jobs.get_mut(&id) else { return };
        job.inner = inner;
        job.phase = Phase::Entering { since: clock.now, met: None };
        self.reports.push_back(Report::Progress(id, job.progress()));
    }

    /// What came through a job's circuit.
    pub(super) fn anonymous_came(
        &mut self,
        clock: Clock,
        job: JobId,
        place: Place,
        ip: &Ip,
        world: &mut impl World,
    ) {
        let job = self.inners.jobs.get_mut(&job);
        let came = job.map_or(Came::Unwanted, |job| job.inner.came(clock, place, ip, world));
        self.circuits.counters.unwanted += u64::from(came == Came::Unwanted);
    }

    /// A file operation of a job is done; `Some` when it is not one of an anonymous job.
    pub(super) fn anonymous_file_done(
        &mut self,
        clock: Clock,
        done: FileDone,
        world: &mut impl World,
    ) -> Option<FileDone> {
        let Some(job) = self.inners.jobs.get_mut(&done.job) else { return Some(done) };
        job.inner.handle(clock, Input::FileDone(done), world);
        None
    }

    /// Gives a job up; false when it is none of these.
    pub(super) fn cancel_anonymous(&mut self, clock: Clock, id: JobId) -> bool {
        let Some(job) = self.inners.jobs.get_mut(&id) else { return false };
        const WHY: &str = "cancelled; the same get resumes";
        if job.gives.is_some() {
            // Whatever it has given by now is given.
            job.is_over = true;
            return true;
        }
        match job.phase {
            Phase::Getting => job.inner.cancel(id, WHY),
            _ => self.fail_anonymous(clock, id, WHY.to_owned()),
        }
        true
    }

    /// Takes a chunk for a job that gives; gives it back when there is none.
    pub(super) fn give_anonymous(&mut self, id: JobId, chunk: Box<NewChunk>) -> Option<Box<NewChunk>> {
        let gives = self.inners.jobs.get_mut(&id).and_then(|job| job.gives.as_mut());
        match gives.filter(|gives| gives.len() < PUSH_CHUNKS_MAX) {
            Some(gives) => {
                gives.push_back(chunk);
                None
            }
            None => Some(chunk),
        }
    }

    /// Lets jobs react to what came and to the time.
    pub(super) fn settle_anonymous(&mut self, clock: Clock, world: &mut impl World) {
        if self.inners.jobs.is_empty() {
            return;
        }
        let mut verdicts = Vec::new();
        for (id, job) in &mut self.inners.jobs {
            if !job.is_building() {
                job.inner.settle(clock, world);
            }
            if matches!(job.phase, Phase::Getting) {
                for chunk in job.gives.iter_mut().flat_map(|gives| gives.drain(..)) {
                    job.inner.handle(
                        clock,
                        Input::Command(Command::Push { job: *id, chunk, anonymous: false }),
                        world,
                    );
                }
            }
            let purpose = self.circuits.purposes.get(PurposeId::Job(*id));
            let stuck = purpose.and_then(|purpose| purpose.keeper().stuck()).map(ToString::to_string);
            match job.look(clock.now, stuck) {
                Verdict::Wait => {}
                other => verdicts.push((*id, other)),
            }
        }
        for (id, verdict) in verdicts {
            match verdict {
                Verdict::Wait => {}
                Verdict::Begin => self.begin_anonymous(clock, id, world),
                Verdict::End => self.say_goodbye(clock, id, world),
                Verdict::OtherExit { prohibited } => self.change_exit(clock, id, prohibited),
                Verdict::Fail(why) => self.fail_anonymous(clock, id, why),
            }
        }
    }

    /// The network is entered: its inner node gets it.
    fn begin_anonymous(&mut self, clock: Clock, id: JobId, world: &mut impl World) {
        let Some(job) = self.inners.jobs.get_mut(&id) else { return };
        job.phase = Phase::Getting;
        if let Some(request) = job.request.take() {
            job.inner.handle(clock, Input::Command(Command::Get(request)), world);
        }
    }

    /// Its exit lets nothing out to the network: another is tried, as long as the operator did not name it.
    fn change_exit(&mut self, clock: Clock, id: JobId, prohibited: bool) {
        let building = self.building(clock.now);
        let own = &mut self.circuits;
        let Some(job) = self.inners.jobs.get_mut(&id) else { return };
        let purpose = own.purposes.get(PurposeId::Job(id));
        let exit = purpose.and_then(|purpose| purpose.keeper().hops().last().copied());
        job.refused.extend(exit);
        let next = match job.pinned || job.refused.len() >= ANONYMOUS_EXITS_MAX {
            true => None,
            false => own.relays.another_exit(clock.now, &mut own.rng, &job.refused),
        };
        let Some(next) = next else {
            let what = another_exit(prohibited);
            let exit = exit.or(job.want.exit).map_or_else(String::new, |key| format!(" {key}"));
            let before = match job.refused.len() {
                0 | 1 => String::new(),
                count => format!(" ({} others before it were no better)", count - 1),
            };
            let why = format!(
                "the exit{exit} {what}{before}; choose another with --exit NODE, and run the same get again"
            );
            return self.fail_anonymous(clock, id, why);
        };
        job.want.exit = Some(next);
        job.phase = building;
        own.set_purpose(clock.now, PurposeId::Job(id), Some(&job.want));
        self.reports.push_back(Report::Progress(id, job.progress()));
    }

    fn fail_anonymous(&mut self, clock: Clock, id: JobId, why: String) {
        let gives = self.inners.jobs.get(&id).is_some_and(|job| job.gives.is_some());
        let why = if gives { why.replace("the same get", "the same put") } else { why };
        self.end_anonymous(clock, id);
        self.fail_get(id, why);
    }

    /// A job is over: its circuits close, and its identity is forgotten.
    fn end_anonymous(&mut self, clock: Clock, id: JobId) {
        self.inners.jobs.remove(&id);
        self.circuits.set_purpose(clock.now, PurposeId::Job(id), None);
    }

    /// What inner nodes want done: their trains go into circuits, the rest is handed on.
    pub(super) fn poll_anonymous(&mut self, clock: Clock, world: &mut impl World) -> Option<Output> {
        if self.inners.jobs.is_empty() {
            return None;
        }
        for id in self.inners.jobs.keys().copied().collect::<Vec<_>>() {
            while self.tunnels.trains.len() < ANONYMOUS_TRAINS_MAX
                && let Some(job) = self.inners.jobs.get_mut(&id)
                && !job.is_building()
                && let Some(output) = job.inner.poll(clock, world)
            {
                match output {
                    Output::Train(train) => {
                        if let Some((packet, ip)) = job.inner.packet(&train, world) {
                            self.purpose_packet(clock, PurposeId::Job(id), packet, &ip, world);
                        }
                        world.free(train.place.buf);
                    }
                    Output::File(operation) => return Some(Output::File(operation)),
                    Output::Report(report) => self.anonymous_report(clock, id, report, world),
                    Output::Tun(packet) | Output::Proxied(packet) => world.free(packet.place.buf),
                    // It keeps nothing for anybody.
                    Output::Keep(..) | Output::Cross(..) => {}
                }
            }
        }
        self.reports.pop_front().map(Output::Report)
    }

    fn anonymous_report(&mut self, clock: Clock, id: JobId, report: Report, world: &mut impl World) {
        match report {
            Report::Progress(_, progress) => self.reports.push_back(Report::Progress(id, progress)),
            Report::Done(_, progress) => {
                self.say_goodbye(clock, id, world);
                self.counters.gets_done += 1;
                self.reports.push_back(Report::Done(id, progress));
            }
            Report::Failed(_, why) => {
                let hint = self.hint(id);
                self.say_goodbye(clock, id, world);
                self.fail_get(id, why + &hint);
            }
            Report::Warning(what) => self.reports.push_back(Report::Warning(what)),
            Report::Placed(placed) => self.reports.push_back(Report::Placed(placed)),
            Report::Status(..) | Report::Peers(_) => {}
        }
    }

    /// What may be the matter with a job that came to nothing, beside what its inner node knows.
    fn hint(&self, id: JobId) -> String {
        let purpose = self.circuits.purposes.get(PurposeId::Job(id));
        if let Some(keeper) =
            purpose.map(|purpose| purpose.keeper()).filter(|keeper| keeper.circuit().is_none())
        {
            let why = keeper.stuck().map_or_else(String::new, |why| format!(" ({why})"));
            return format!("; its circuit is down{why}");
        }
        match self.inners.jobs.get(&id).map_or(0, |job| job.inner.prohibited()) {
            0 => String::new(),
            count => format!(
                "; the exit let nothing out to {count} addresses of the network (its exit.allow), another may: \
                 --exit NODE"
            ),
        }
    }

    /// Those whom it met hear that it is gone; then it is.
    fn say_goodbye(&mut self, clock: Clock, id: JobId, world: &mut impl World) {
        if let Some(mut job) = self.inners.jobs.remove(&id) {
            job.inner.handle(clock, Input::Command(Command::Shutdown), world);
            while let Some(output) = job.inner.poll(clock, world) {
                match output {
                    Output::Train(train) => {
                        if let Some((packet, ip)) = job.inner.packet(&train, world) {
                            self.purpose_packet(clock, PurposeId::Job(id), packet, &ip, world);
                        }
                        world.free(train.place.buf);
                    }
                    Output::Tun(packet) | Output::Proxied(packet) => world.free(packet.place.buf),
                    Output::File(_) | Output::Report(_) | Output::Keep(..) | Output::Cross(..) => {}
                }
            }
        }
        self.end_anonymous(clock, id);
        self.settle_circuits(clock, world);
    }
}

//! One lookup: far-first steps if wanted, then disjoint paths towards the key, then a sweep of its region
//! (docs/protocol/overlay.md §5). A state machine without time: its owner asks whom it names and tells it what came.

mod sweep;

use std::collections::BTreeMap;

use super::gathered::Gathered;
use super::path::{Candidate, Path, State};
use super::place::{Key, distance, leading, shared_bits};
use super::site::Site;
use super::types::{Goal, Manner, Outcome, Peer, Wanted};
use crate::base::NodeId;
use crate::limits::{LOOKUP_ASKED_MAX, LOOKUP_PATHS_MAX, REGION_NODES_MAX};
use crate::wire::overlay::{Answer, Contact, Find, Record};

/// Nearest nodes that must have answered, however narrow the region.
const NEAREST_MIN: usize = 8;
/// Nearest nodes of one path that must have answered before the paths are joined.
const ARRIVED: usize = 2;
/// Far candidates kept at most.
const FAR_MAX: usize = 96;
/// Peers of one site that answer a lookup at most; those that were only said to be there do not count.
const SITE_MAX: u8 = 3;
/// Addresses at which one node is tried at most.
const TRIES_MAX: u8 = 3;
/// The answers that a known bad place may look like: providers must come by so many paths, where there are more.
const WITNESSES: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Whoever shares at least so many bits is next.
    Far(u32),
    Walk,
    Sweep,
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    path: usize,
    hop: u32,
    peer: Peer,
    state: State,
    teller: Option<NodeId>,
    tries: u8,
}

impl Asked {
    /// Whether the same node may be tried where another says that it is.
    fn may_try(&self, peer: &Peer) -> bool {
        let tried = |at| self.peer.contact.endpoints().any(|tried| tried == at);
        self.state == State::Gone && self.tries < TRIES_MAX && !peer.contact.endpoints().any(tried)
    }
}

/// How a lookup is led.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Questions in good time at once.
    pub parallel: usize,
    /// Disjoint paths.
    pub paths: usize,
    /// The leading distance that the key's region reaches to.
    pub region: u64,
    /// Peers asked at most.
    pub asked: usize,
    /// Whether all of the region is asked, not only the nearest, where no providers are wanted.
    pub whole: bool,
    /// Whether addresses that are not global are of one site ([`Site::of`]).
    pub open: bool,
}

impl Style {
    /// The usual one.
    pub fn new(parallel: usize, paths: usize, region: u64) -> Self {
        Self { parallel, paths, region, asked: LOOKUP_ASKED_MAX, whole: false, open: true }
    }
}

/// A lookup under way.
#[derive(Debug, Clone)]
pub struct Lookup {
    wanted: Wanted,
    style: Style,
    phase: Phase,
    paths: Vec<Path>,
    far: Vec<Candidate>,
    asked: BTreeMap<NodeId, Asked>,
    sites: BTreeMap<Site, u8>,
    /// Asked one after another by the far-first steps.
    steps: u32,
    gathered: Gathered,
    turn: usize,
    /// Who answered last without a record, and the bits that it shares with the key.
    missed: Option<(u32, Peer)>,
    outcome: Outcome,
}

impl Lookup {
    /// Starts from the peers that are known: the nearest ones, and for [`Manner::Far`] some of every distance.
    pub fn new(wanted: Wanted, style: Style, start: impl IntoIterator<Item = Peer>) -> Self {
        let style = Style { paths: style.paths.clamp(1, LOOKUP_PATHS_MAX), ..style };
        let outcome = Outcome {
            records: Vec::new(),
            nearest: Vec::new(),
            asked: 0,
            failed: 0,
            hops: 0,
            not_found: 0,
            queries: 0,
            cut_short: false,
        };
        let is_far = matches!(wanted.manner, Manner::Far { .. });
        let mut lookup = Self {
            wanted,
            style,
            phase: if is_far { Phase::Far(0) } else { Phase::Walk },
            paths: vec![Path::default(); style.paths],
            far: Vec::new(),
            asked: BTreeMap::new(),
            sites: BTreeMap::new(),
            steps: 0,
            gathered: Gathered::new(style.paths),
            turn: 0,
            missed: None,
            outcome,
        };
        for (at, peer) in start.into_iter().enumerate() {
            lookup.hear(at % style.paths, peer, 1, None);
        }
        lookup
    }

    /// What it is for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether nothing more comes of it.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whom it has asked, and hears no answer of yet.
    pub fn open(&self) -> impl Iterator<Item = &NodeId> {
        let open = |asked: &Asked| matches!(asked.state, State::Asked | State::Late);
        self.asked.iter().filter(move |(_, asked)| open(asked)).map(|(id, _)| id)
    }

    /// Where a record that was found should go, too: to who was asked last and had none, one step farther from the
    /// key than who had it. Whoever comes next by that node need not go on to the key, whose neighbours a crowd would all ask.
    pub fn spread(&self) -> Option<Peer> {
        let missed = self.missed.filter(|_| !self.wanted.quiet && !self.gathered.records().is_empty());
        missed.map(|(_, peer)| peer)
    }

    /// By whose word a peer was asked.
    pub fn teller_of(&self, id: &NodeId) -> Option<NodeId> {
        self.asked.get(id)?.teller
    }

    /// Ends it as it stands.
    pub fn stop(&mut self) {
        self.outcome.cut_short |= self.phase != Phase::Done;
        self.phase = Phase::Done;
    }

    /// What it came to. The nearest nodes are those of its region, and [`NEAREST_MIN`] at least where it was asked.
    pub fn finish(mut self) -> Outcome {
        let key = self.wanted.key;
        let answered = self.asked.values().filter(|asked| asked.state == State::Answered);
        let mut nearest: Vec<(Key, Peer, u32)> =
            answered.map(|asked| (distance(&key, &asked.peer.id.0), asked.peer, asked.hop)).collect();
        nearest.sort_unstable_by_key(|(distance, ..)| *distance);
        let inside =
            nearest.iter().take_while(|(distance, ..)| leading(distance) <= self.style.region).count();
        nearest.truncate(inside.clamp(NEAREST_MIN, REGION_NODES_MAX));
        if self.gathered.records().is_empty() {
            self.outcome.hops = nearest.first().map_or(0, |(.., hop)| *hop).max(self.steps);
        }
        (self.outcome.not_found, self.outcome.queries) = self.gathered.counts();
        self.outcome.records = self.gathered.into_records();
        self.outcome.nearest = nearest.into_iter().map(|(_, peer, _)| peer).collect();
        self.outcome
    }

    fn hear(&mut self, path: usize, peer: Peer, hop: u32, teller: Option<NodeId>) {
        let distance = distance(&self.wanted.key, &peer.id.0);
        let candidate = Candidate { distance, peer, teller, hop, state: State::Waiting };
        if let Phase::Far(level) = self.phase
            && candidate.distance_bits() >= level
            && self.far.iter().all(|other| other.distance != candidate.distance)
        {
            if self.far.len() >= FAR_MAX {
                // Those that were passed by are not needed any more.
                self.far.retain(|other| other.distance_bits() >= level || other.state == State::Asked);
            }
            if self.far.len() < FAR_MAX {
                self.far.push(candidate);
            }
        }
        self.paths[path].hear(candidate);
    }

    /// Whom to ask next, and what; `None` until something comes.
    pub fn poll(&mut self) -> Option<(Peer, Find)> {
        loop {
            if self.phase == Phase::Done {
                return None;
            }
            if self.asked.len() >= self.style.asked {
                self.settle();
                return None;
            }
            let next = match self.phase {
                Phase::Far(level) => self.next_far(level),
                Phase::Walk => self.next_on_paths(),
                Phase::Sweep => self.next_in_region(),
                Phase::Done => None,
            };
            match next {
                Some((path, candidate)) => match self.ask(path, candidate) {
                    Some(question) => return Some(question),
                    None => continue,
                },
                None if self.advance() => {}
                None => return None,
            }
        }
    }

    /// Marks a candidate as asked, unless another path did, or its site had enough.
    fn ask(&mut self, path: usize, candidate: Candidate) -> Option<(Peer, Find)> {
        let peer = candidate.peer;
        let before = self.asked.get(&peer.id).copied();
        let known = before.filter(|before| !before.may_try(&peer)).map(|asked| asked.state);
        let is_full = |site| self.sites.get(&site).is_some_and(|n| *n >= SITE_MAX);
        let crowded = known.is_none() && Site::all(&peer.contact, self.style.open).any(is_full);
        let state = known.unwrap_or(if crowded { State::Gone } else { State::Asked });
        // What another path asked is not asked again, and belongs to that path.
        let own = if known.is_some() && self.phase == Phase::Walk { State::Gone } else { state };
        self.far
            .iter_mut()
            .filter(|one| one.distance == candidate.distance)
            .for_each(|one| one.state = state);
        if let Some(one) = self.paths[path].get_mut(&candidate.distance) {
            one.state = own;
        }
        if known.is_some() || crowded {
            return None;
        }
        let (far, reach) = match (self.phase, self.wanted.manner) {
            (Phase::Far(_), Manner::Far { stride }) => {
                (true, (shared_bits(&self.wanted.key, &peer.id.0) + u32::from(stride.max(1))).min(160) as u8)
            }
            _ => (false, 0),
        };
        let hop = if far { self.steps + 1 } else { candidate.hop };
        let (tries, teller) = (before.map_or(1, |before| before.tries + 1), candidate.teller);
        self.asked.insert(peer.id, Asked { path, hop, peer, state: State::Asked, teller, tries });
        self.outcome.asked += 1;
        let records = matches!(self.wanted.goal, Goal::Providers(_));
        Some((peer, Find { key: self.wanted.key, records, far, reach, quiet: self.wanted.quiet }))
    }

    fn next_far(&self, level: u32) -> Option<(usize, Candidate)> {
        let in_flight = self.far.iter().filter(|one| one.state == State::Asked).count();
        if in_flight >= self.style.parallel.max(1) {
            return None;
        }
        let bits = |one: &Candidate| one.distance_bits();
        let waiting = self.far.iter().filter(|one| one.state == State::Waiting && bits(one) >= level);
        let nearest_level = waiting.clone().map(bits).min()?;
        if u64::MAX.checked_shr(nearest_level).unwrap_or(0) <= self.style.region {
            return None;
        }
        // While somebody of this step is in good time, only its neighbours are asked beside.
        let begun = self.far.iter().filter(|one| one.state == State::Asked).map(bits).max();
        if begun.is_some_and(|begun| begun < nearest_level && level <= begun) {
            return None;
        }
        waiting.clone().find(|one| bits(one) == nearest_level).map(|one| (0, *one))
    }

    fn next_on_paths(&mut self) -> Option<(usize, Candidate)> {
        let per_path = (self.style.parallel / self.style.paths).max(1);
        for step in 0..self.paths.len() {
            let at = (self.turn + step) % self.paths.len();
            let path = &self.paths[at];
            if path.in_flight() >= per_path || path.has_arrived(ARRIVED) {
                continue;
            }
            if let Some(next) = path.list().iter().find(|one| one.state == State::Waiting) {
                self.turn = at + 1;
                return Some((at, *next));
            }
        }
        None
    }

    /// Whether the next phase begins, now that this one has nobody to ask.
    fn advance(&mut self) -> bool {
        let in_good_time = self.asked.values().any(|asked| asked.state == State::Asked);
        match self.phase {
            Phase::Far(_) if !in_good_time => {
                // Whoever was asked on the way is not asked again.
                self.phase = Phase::Walk;
                true
            }
            Phase::Walk => {
                let done = |path: &Path| {
                    path.has_arrived(ARRIVED) || path.in_flight() == 0 && !path.list().iter().any(waits)
                };
                let all = self.paths.iter().all(done);
                if all {
                    self.phase = Phase::Sweep;
                }
                all
            }
            // Late answers of the region are waited for: they may have what others have not.
            Phase::Sweep if self.open().next().is_none() => {
                self.phase = Phase::Done;
                false
            }
            _ => false,
        }
    }

    /// Ends it once nothing is open, asking nobody else.
    fn settle(&mut self) {
        if self.open().next().is_none() {
            self.outcome.cut_short = true;
            self.phase = Phase::Done;
        }
    }

    fn mark(&mut self, id: &NodeId, state: State) -> Option<Asked> {
        let asked = self.asked.get_mut(id)?;
        let before = *asked;
        if !matches!(before.state, State::Asked | State::Late) || state == before.state {
            return None;
        }
        asked.state = state;
        let distance = distance(&self.wanted.key, &id.0);
        if let Some(one) = self.paths[before.path].get_mut(&distance) {
            one.state = state;
        }
        self.far.iter_mut().filter(|one| one.distance == distance).for_each(|one| one.state = state);
        Some(before)
    }

    /// A peer takes longer than usual; another is asked beside.
    pub fn late(&mut self, id: &NodeId) {
        self.mark(id, State::Late);
    }

    /// A peer did not answer, or refused to.
    pub fn failed(&mut self, id: &NodeId) {
        if self.mark(id, State::Gone).is_some() {
            self.outcome.failed += 1;
            self.revive(id);
        }
    }

    /// Where else others say that a peer is, it may be asked yet.
    fn revive(&mut self, id: &NodeId) {
        let distance = distance(&self.wanted.key, &id.0);
        let asked = self.asked.get(id);
        let may = |one: &Candidate| asked.is_none_or(|asked| asked.may_try(&one.peer));
        let others = self.paths.iter_mut().filter_map(|path| path.get_mut(&distance));
        for one in others.filter(|one| one.state == State::Gone && may(one)) {
            one.state = State::Waiting;
        }
    }

    /// A peer may not be asked by that word; another's may do.
    pub fn unasked(&mut self, id: &NodeId) {
        let Some(asked) = self.mark(id, State::Gone) else { return };
        if asked.tries == 1 {
            self.asked.remove(id);
        }
        self.outcome.asked = self.outcome.asked.saturating_sub(1);
    }

    /// A peer answered, where its session's path leads. `records` are verified and timely; `contacts` are those of the
    /// answer that may be believed and whose places show their work. Returns the records that are new.
    pub fn answered(
        &mut self,
        id: &NodeId,
        reached: &Contact,
        answer: &Answer,
        records: Vec<Record>,
        contacts: impl IntoIterator<Item = Peer>,
    ) -> Vec<Record> {
        let Some(asked) = self.mark(id, State::Answered) else { return Vec::new() };
        for site in Site::all(reached, self.style.open) {
            let count = self.sites.entry(site).or_default();
            *count = count.saturating_add(1);
        }
        let level = shared_bits(&self.wanted.key, &id.0);
        for peer in contacts {
            self.hear(asked.path, peer, asked.hop + 1, Some(*id));
        }
        if let (Phase::Far(next), Manner::Far { stride }) = (self.phase, self.wanted.manner)
            && level + u32::from(stride.max(1)) > next
        {
            self.phase = Phase::Far(level + u32::from(stride.max(1)));
            self.steps = self.steps.max(asked.hop);
        }
        let is_inside = leading(&distance(&self.wanted.key, &id.0)) <= self.style.region;
        self.gathered.count(answer, is_inside);
        let is_first = self.gathered.records().is_empty();
        if records.is_empty() {
            if is_first && self.missed.is_none_or(|(bits, _)| bits <= level) {
                self.missed = Some((level, asked.peer));
            }
            self.give_up();
            return Vec::new();
        }
        if is_first {
            self.outcome.hops = asked.hop;
        }
        let new = self.gathered.take(asked.path, records);
        let Goal::Providers(count) = self.wanted.goal else { return new };
        let witnesses = WITNESSES.min(self.style.paths);
        if count < u8::MAX && self.gathered.suffices(usize::from(count), witnesses) {
            self.phase = Phase::Done;
        }
        new
    }

    /// Believes the region that a key is nowhere.
    fn give_up(&mut self) {
        if self.phase == Phase::Sweep && !self.wanted.quiet && self.gathered.is_vain() {
            self.stop();
        }
    }
}

fn waits(one: &Candidate) -> bool {
    one.state == State::Waiting
}

impl Candidate {
    fn distance_bits(&self) -> u32 {
        shared_bits(&self.distance, &[0; 20])
    }
}

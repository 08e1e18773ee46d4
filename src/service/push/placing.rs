//! One chunk that is given away: who may keep it, who was asked, and who does.

use std::time::Duration;

use super::CHUNK_TIME;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, PublicKey, Time};
use crate::limits::{
    PUSH_AGAIN_MS, PUSH_CANDIDATES_MAX, PUSH_COPIES_MIN, PUSH_LOOKUPS_MAX, PUSH_OFFERS_MAX, PUSH_TRIES_MAX,
};
use crate::overlay::site::Site;
use crate::service::PeerId;
use crate::wire::keep::Answer;
use crate::wire::overlay::Contact;

/// Whoever is busy is asked again after this at the earliest, and at the latest.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(15_000)];

/// How a node stands to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may be asked from then on.
    Waits(Time),
    /// A session with it is on its way.
    Called,
    /// It was made an offer.
    Asked,
    /// It keeps the chunk, it says.
    Keeps,
    /// Nothing comes of it.
    Gone,
}

struct Candidate {
    contact: Contact,
    standing: Standing,
    tries: u8,
}

/// What is next for a chunk.
pub(super) enum Next {
    /// Nodes are to be looked up.
    Find,
    /// A node is to be asked, if it can be.
    Try(Contact),
    /// A node was called.
    Called(PublicKey),
    /// A peer is made an offer.
    Offer(PeerId),
    /// It has what it can have.
    Over,
    /// Something comes.
    Wait,
}

/// What is given away.
pub(super) struct Given {
    pub(super) id: ChunkId,
    pub(super) len: u32,
    pub(super) root: [u8; 32],
    pub(super) body: Body,
}

/// Where its bytes are.
pub(super) enum Body {
    /// Here.
    Here(Vec<u8>),
    /// In the store, under this handle.
    Stored(u64),
}

impl Given {
    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Here(bytes) => bytes.len(),
            Body::Stored(_) => 0,
        }
    }
}

/// A chunk.
pub(super) struct Placing {
    pub(super) job: JobId,
    pub(super) chunk: Given,
    /// Nodes that are to keep it.
    copies: usize,
    since: Time,
    candidates: Vec<Candidate>,
    lookups: u8,
    looking: bool,
    /// When it may be looked up again.
    look_at: Time,
}

impl Placing {
    pub(super) fn new(now: Time, job: JobId, chunk: Given, copies: usize) -> Self {
        let candidates = Vec::new();
        Self { job, chunk, copies, since: now, candidates, lookups: 0, looking: false, look_at: now }
    }

    pub(super) fn is_looking(&self) -> bool {
        self.looking
    }

    pub(super) fn until(&self) -> Time {
        self.since + CHUNK_TIME
    }

    fn count(&self, of: impl Fn(Standing) -> bool) -> usize {
        self.candidates.iter().filter(|one| of(one.standing)).count()
    }

    pub(super) fn keepers(&self) -> u8 {
        self.count(|standing| standing == Standing::Keeps).try_into().unwrap_or(u8::MAX)
    }

    /// When it is to be looked at although nothing happened.
    pub(super) fn due(&self) -> Time {
        let waits = self.candidates.iter().filter_map(|one| match one.standing {
            Standing::Waits(at) if at > self.since => Some(at),
            _ => None,
        });
        let look = Some(self.look_at).filter(|at| *at > self.since && !self.looking);
        waits.chain(look).fold(self.until(), Time::min)
    }

    pub(super) fn found<'a>(&mut self, now: Time, nodes: impl Iterator<Item = &'a Contact>) {
        self.looking = false;
        self.look_at = now + Duration::from_millis(PUSH_AGAIN_MS);
        for node in nodes {
            if self.candidates.len() >= PUSH_CANDIDATES_MAX {
                return;
            }
            if self.candidates.iter().all(|one| one.contact.card.key != node.card.key) {
                let standing = Standing::Waits(self.since);
                self.candidates.push(Candidate { contact: *node, standing, tries: 0 });
            }
        }
    }

    pub(super) fn stands(&mut self, key: &PublicKey, standing: Standing) {
        let one = self.candidates.iter_mut().find(|one| one.contact.card.key == *key);
        one.into_iter().for_each(|one| one.standing = standing);
    }

    /// What a node that was asked said.
    pub(super) fn answered(&mut self, now: Time, key: &PublicKey, answer: Answer) {
        let one = self.candidates.iter_mut().find(|one| one.contact.card.key == *key);
        let Some(one) = one.filter(|one| one.standing == Standing::Asked) else { return };
        one.standing = match answer {
            Answer::Kept | Answer::Here => Standing::Keeps,
            Answer::Busy(retry) if one.tries < PUSH_TRIES_MAX => {
                // Twice as long each time: whoever is busy says so to many.
                let pause = Duration::from_millis(retry.into()).max(RETRY[0]) * (1 << one.tries);
                one.tries += 1;
                Standing::Waits(now + pause.min(RETRY[1]))
            }
            _ => Standing::Gone,
        };
    }

    pub(super) fn next(&mut self, now: Time, may_look: bool) -> Next {
        self.wake(now);
        let keepers = usize::from(self.keepers());
        if keepers >= self.copies || now >= self.until() {
            return Next::Over;
        }
        if let Some(called) = self.candidates.iter().find(|one| one.standing == Standing::Called) {
            // One call at a time, beside the offers.
            return Next::Called(called.contact.card.key);
        }
        let asked = self.count(|standing| standing == Standing::Asked);
        if asked >= PUSH_OFFERS_MAX || keepers + asked >= self.copies {
            return Next::Wait;
        }
        if let Some(next) = self.choose(now) {
            return Next::Try(next);
        }
        let may_come = asked > 0 || self.count(|standing| matches!(standing, Standing::Waits(_))) > 0;
        match () {
            () if self.looking || may_come => Next::Wait,
            () if self.lookups >= PUSH_LOOKUPS_MAX || keepers >= PUSH_COPIES_MIN => Next::Over,
            () if now >= self.look_at && may_look => {
                self.looking = true;
                self.lookups += 1;
                Next::Find
            }
            () => Next::Wait,
        }
    }

    /// What has come due is due no more: nobody is woken for it again.
    fn wake(&mut self, now: Time) {
        if self.look_at <= now {
            self.look_at = self.since;
        }
        for one in &mut self.candidates {
            if matches!(one.standing, Standing::Waits(at) if at <= now) {
                one.standing = Standing::Waits(self.since);
            }
        }
    }

    /// The nearest that may be asked now, of a network that has no part in it yet if there is one.
    fn choose(&self, now: Time) -> Option<Contact> {
        let waits = |one: &&Candidate| matches!(one.standing, Standing::Waits(at) if at <= now);
        let has_part = |one: &Candidate| matches!(one.standing, Standing::Keeps | Standing::Asked);
        let is_new = |one: &&Candidate| {
            let others = self.candidates.iter().filter(|other| has_part(other));
            let mut theirs = others.flat_map(|other| Site::all(&other.contact, false));
            !theirs.any(|site| Site::all(&one.contact, false).any(|own| own.same_network(site)))
        };
        let waiting = || self.candidates.iter().filter(waits);
        waiting().find(is_new).or_else(|| waiting().next()).map(|one| one.contact)
    }
}

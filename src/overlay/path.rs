//! One of a lookup's disjoint paths: candidates by distance, of which it asks the nearest.

use super::place::Key;
use super::types::Peer;
use crate::base::NodeId;
use crate::limits::PATH_CANDIDATES_MAX;

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not asked.
    Waiting,
    /// Asked, and still in good time.
    Asked,
    /// Asked, and late.
    Late,
    /// It answered.
    Answered,
    /// It did not, or another path asked it.
    Gone,
}

/// Somebody to ask.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// From the key.
    pub distance: Key,
    /// Who.
    pub peer: Peer,
    /// Who told of it; `None` of whom this node knows itself.
    pub teller: Option<NodeId>,
    /// Steps from this node.
    pub hop: u32,
    /// How far it got.
    pub state: State,
}

/// Candidates, nearest first; bounded, and so the farthest that were not asked go first.
#[derive(Debug, Clone, Default)]
pub struct Path {
    list: Vec<Candidate>,
}

impl Path {
    /// Hears of somebody; whether it is new here. One that was not where the first who told of it said may be where the
    /// next says.
    pub fn hear(&mut self, candidate: Candidate) -> bool {
        let at = match self.list.binary_search_by_key(&candidate.distance, |other| other.distance) {
            Err(at) => at,
            Ok(at) => {
                let known = &mut self.list[at];
                if known.state == State::Gone && known.peer.contact != candidate.peer.contact {
                    *known = candidate;
                }
                return false;
            }
        };
        self.list.insert(at, candidate);
        if self.list.len() > PATH_CANDIDATES_MAX {
            let unasked =
                self.list.iter().rposition(|other| matches!(other.state, State::Waiting | State::Gone));
            self.list.remove(unasked.unwrap_or(self.list.len() - 1));
        }
        true
    }

    /// All of them, nearest first.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// One of them.
    pub fn get_mut(&mut self, distance: &Key) -> Option<&mut Candidate> {
        let at = self.list.binary_search_by_key(distance, |other| other.distance).ok()?;
        Some(&mut self.list[at])
    }

    /// Questions that are in good time.
    pub fn in_flight(&self) -> usize {
        self.list.iter().filter(|one| one.state == State::Asked).count()
    }

    /// Whether its nearest `count` who are there have answered: what is farther cannot bring it nearer.
    pub fn has_arrived(&self, count: usize) -> bool {
        let there = self.list.iter().filter(|one| one.state != State::Gone);
        there.take(count).all(|one| matches!(one.state, State::Answered | State::Late))
    }
}

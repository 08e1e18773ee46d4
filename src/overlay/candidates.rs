//! Peers that were only heard of, until a probe shows that they are there. Whoever floods it with inventions fills
//! its own few places.

use super::site::Site;
use super::types::Peer;
use crate::base::{NodeId, Rng};
use crate::limits::{CANDIDATES_MAX, CANDIDATES_PER_SITE_MAX, CANDIDATES_PER_SOURCE_MAX};

/// Who waits to be probed; 132 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    list: Vec<(Peer, NodeId)>,
}

impl Candidates {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Hears of a peer from another. Where all is full, chance decides whether it takes another's place.
    pub fn offer(&mut self, peer: Peer, source: NodeId, rng: &mut Rng) -> bool {
        let (mut told, mut near) = (0, 0);
        for (other, by) in &self.list {
            if other.id == peer.id {
                return false;
            }
            if *by != source {
                continue;
            }
            told += 1;
            // What others claim of a site is no reason not to look there.
            let is_near = |site| Site::all(&other.contact, false).any(|own| own == site);
            near += usize::from(Site::all(&peer.contact, false).any(is_near));
        }
        if told >= CANDIDATES_PER_SOURCE_MAX || near >= CANDIDATES_PER_SITE_MAX {
            return false;
        }
        if self.list.len() < CANDIDATES_MAX {
            self.list.push((peer, source));
            return true;
        }
        let at = rng.below(4 * CANDIDATES_MAX as u64) as usize;
        self.list.get_mut(at).is_some_and(|place| {
            *place = (peer, source);
            true
        })
    }

    /// Takes one by chance, and who told of it.
    pub fn take(&mut self, rng: &mut Rng) -> Option<(Peer, NodeId)> {
        let at = rng.below(self.list.len() as u64) as usize;
        (!self.list.is_empty()).then(|| self.list.swap_remove(at))
    }
}

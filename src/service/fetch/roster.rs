//! The peers of a fetch, and which of them is to be asked next: kept in order, so that the answer costs the same
//! with one peer and with thousands.

use std::collections::{BTreeMap, BTreeSet};

use super::peer::{MISSES_COUNTED_MAX, Peer};
use crate::base::Time;
use crate::service::PeerId;

/// All peers, with indexes. A peer changes in [`Roster::update`] only.
#[derive(Default)]
pub(super) struct Roster {
    peers: BTreeMap<PeerId, Peer>,
    /// Exactly those that have room for a slice, the one to be asked first in front: misses, slices outstanding.
    ready: BTreeSet<(u32, usize, PeerId)>,
    /// Exactly those that said they are busy, by the time at which they may be asked again.
    busy: BTreeSet<(Time, PeerId)>,
    /// How many have not lied.
    honest: usize,
    /// How many of those are connected.
    askable: usize,
}

/// Where a peer stands in the indexes.
#[derive(PartialEq, Eq)]
struct Place {
    ready: Option<(u32, usize, PeerId)>,
    busy: Option<(Time, PeerId)>,
    honest: bool,
    askable: bool,
}

impl Place {
    fn of(id: PeerId, peer: &Peer) -> Self {
        let rank = (peer.misses.min(MISSES_COUNTED_MAX), peer.outstanding, id);
        Self {
            ready: peer.can_take(1).then_some(rank),
            busy: peer.busy_until.map(|until| (until, id)),
            honest: !peer.lied,
            askable: !peer.lied && !peer.held,
        }
    }
}

impl Roster {
    fn enter(&mut self, place: Place) {
        self.ready.extend(place.ready);
        self.busy.extend(place.busy);
        self.honest += usize::from(place.honest);
        self.askable += usize::from(place.askable);
    }

    fn leave(&mut self, place: &Place) {
        if let Some(rank) = &place.ready {
            self.ready.remove(rank);
        }
        if let Some(at) = &place.busy {
            self.busy.remove(at);
        }
        self.honest -= usize::from(place.honest);
        self.askable -= usize::from(place.askable);
    }

    /// Adds a peer, if it is none yet.
    pub(super) fn add(&mut self, id: PeerId) {
        if !self.peers.contains_key(&id) {
            let peer = Peer::default();
            self.enter(Place::of(id, &peer));
            self.peers.insert(id, peer);
        }
    }

    /// Removes a peer.
    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.remove(&id) {
            self.leave(&Place::of(id, &peer));
        }
    }

    /// Changes a peer, if it is one.
    pub(super) fn update(&mut self, id: PeerId, change: impl FnOnce(&mut Peer)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let before = Place::of(id, peer);
        change(peer);
        let after = Place::of(id, peer);
        if before != after {
            self.leave(&before);
            self.enter(after);
        }
    }

    /// Bytes came from a peer. Only when its rate is measured anew can that change its place.
    pub(super) fn took(&mut self, id: PeerId, now: Time, bytes: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.is_measured_at(now) {
            self.update(id, |peer| peer.took(now, bytes));
        } else {
            peer.took(now, bytes);
        }
    }

    /// Whether it is a peer.
    pub(super) fn is_known(&self, id: PeerId) -> bool {
        self.peers.contains_key(&id)
    }

    /// Whether something that it was asked for has not come.
    pub(super) fn is_asked(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.outstanding > 0)
    }

    /// What comes from all that were asked for something, bytes per second.
    pub(super) fn rate(&self) -> f64 {
        self.peers.values().filter(|peer| peer.outstanding > 0).map(Peer::rate).sum()
    }

    /// Whether it is a peer that has not lied.
    pub(super) fn is_honest(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| !peer.lied)
    }

    /// How many have not lied.
    pub(super) fn honest(&self) -> usize {
        self.honest
    }

    /// How many of those are connected.
    pub(super) fn askable(&self) -> usize {
        self.askable
    }

    /// Those that were busy until now can be asked again.
    pub(super) fn wake(&mut self, now: Time) {
        while let Some(&(until, id)) = self.busy.first()
            && until <= now
        {
            self.update(id, |peer| peer.busy_until = None);
        }
    }

    /// When the next one that is busy can be asked again.
    pub(super) fn wakes_at(&self) -> Option<Time> {
        self.busy.first().map(|(until, _)| *until)
    }

    /// Whether any peer has room for a slice.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The most slices that any peer has room for.
    pub(super) fn most_room(&self) -> usize {
        self.ready.iter().filter_map(|(.., id)| self.peers.get(id)).map(Peer::room).max().unwrap_or(0)
    }

    /// Whom to ask for `slices` of something that those in `without` do not have.
    pub(super) fn pick(&self, slices: usize, without: &BTreeSet<PeerId>) -> Option<PeerId> {
        let can_take = |id: &PeerId| self.peers.get(id).is_some_and(|peer| peer.can_take(slices));
        let able = |id: &PeerId| !without.contains(id) && can_take(id);
        self.ready.iter().map(|(.., id)| *id).find(able)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;

    /// What the indexes must be, from the peers alone.
    fn check(roster: &Roster) {
        let mut anew = Roster::default();
        for (id, peer) in &roster.peers {
            anew.enter(Place::of(*id, peer));
        }
        assert_eq!((&anew.ready, &anew.busy), (&roster.ready, &roster.busy));
        assert_eq!((anew.honest, anew.askable), (roster.honest, roster.askable));
    }

    proptest! {
        #[test]
        fn the_indexes_are_what_the_peers_say(
            steps in prop::collection::vec((0u8..10, 0u64..6, 0usize..300), 1..100),
        ) {
            let (mut roster, mut now) = (Roster::default(), Time::ZERO);
            for (what, id, n) in steps {
                let id = PeerId(id);
                match what {
                    0 => roster.add(id),
                    1 => roster.remove(id),
                    2 => roster.update(id, |peer| peer.outstanding = n),
                    3 => roster.update(id, |peer| peer.streams = n),
                    4 => roster.update(id, |peer| peer.misses = n as u32),
                    5 => roster.update(id, |peer| peer.busy_until = Some(Time::from_millis(n as u64))),
                    6 => roster.update(id, |peer| peer.stuck = n % 2 == 0),
                    7 if n % 3 == 0 => roster.took(id, now + Duration::from_millis(n as u64), n as u64 * 1_000_000),
                    7 => roster.update(id, |peer| peer.held = n % 2 == 0),
                    8 => roster.update(id, |peer| (peer.lied, peer.held) = (n % 5 == 0, false)),
                    _ => {
                        now = now.max(Time::from_millis(n as u64));
                        roster.wake(now);
                        prop_assert!(roster.wakes_at().is_none_or(|at| at > now));
                    }
                }
                check(&roster);
                let without = BTreeSet::from([PeerId(0), PeerId(3)]);
                let slices = 1 + n % 40;
                let busy = |id: &PeerId| {
                    let peer = &roster.peers[id];
                    (peer.misses.min(MISSES_COUNTED_MAX), peer.outstanding)
                };
                let able = roster.peers.iter().filter(|(id, peer)| peer.can_take(slices) && !without.contains(id));
                let expected = able.map(|(id, _)| *id).min_by_key(busy);
                prop_assert_eq!(roster.pick(slices, &without), expected);
                prop_assert!(expected.is_none() || roster.most_room() >= slices);
            }
        }
    }
}

//! Which sessions belong to which peer: at most one that counts, one handshake of ours, and a few that the
//! peer has begun and not confirmed.

use std::collections::{BTreeMap, BTreeSet};

use super::types::SessionKey;
use crate::base::PublicKey;
use crate::limits::{UNCONFIRMED_MAX, UNCONFIRMED_PER_PEER_MAX};

#[derive(Debug, Default)]
struct Peer {
    current: Option<SessionKey>,
    pending: Option<SessionKey>,
    /// Oldest first.
    unconfirmed: Vec<SessionKey>,
}

/// By public key, not by hash of it: strangers choose keys.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<PublicKey, Peer>,
    unconfirmed: usize,
    pending: usize,
}

impl Peers {
    /// The session that counts.
    pub(super) fn current(&self, peer: &PublicKey) -> Option<SessionKey> {
        self.peers.get(peer)?.current
    }

    /// Makes a session the one that counts; returns the one that did.
    pub(super) fn set_current(&mut self, peer: PublicKey, key: SessionKey) -> Option<SessionKey> {
        self.peers.entry(peer).or_default().current.replace(key)
    }

    /// Our handshake to the peer, or what came of it until that is confirmed.
    pub(super) fn pending(&self, peer: &PublicKey) -> Option<SessionKey> {
        self.peers.get(peer)?.pending
    }

    /// Handshakes of ours in all.
    pub(super) fn pending_len(&self) -> usize {
        self.pending
    }

    pub(super) fn set_pending(&mut self, peer: PublicKey, key: SessionKey) {
        let before = self.peers.entry(peer).or_default().pending.replace(key);
        debug_assert_eq!(before, None);
        self.pending += 1;
    }

    /// Whether another unconfirmed session may be begun.
    pub(super) fn has_room(&self) -> bool {
        self.unconfirmed < UNCONFIRMED_MAX
    }

    /// Enters an unconfirmed session; returns one that has to go for it.
    pub(super) fn add_unconfirmed(&mut self, peer: PublicKey, key: SessionKey) -> Option<SessionKey> {
        let list = &mut self.peers.entry(peer).or_default().unconfirmed;
        list.push(key);
        self.unconfirmed += 1;
        (list.len() > UNCONFIRMED_PER_PEER_MAX).then(|| list[0])
    }

    /// The peer's unconfirmed sessions, oldest first.
    pub(super) fn unconfirmed(&self, peer: &PublicKey) -> &[SessionKey] {
        self.peers.get(peer).map_or(&[], |peer| &peer.unconfirmed)
    }

    /// Forgets a session in whatever part it has.
    pub(super) fn forget(&mut self, peer: &PublicKey, key: SessionKey) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        entry.current.take_if(|current| *current == key);
        if entry.pending.take_if(|pending| *pending == key).is_some() {
            self.pending -= 1;
        }
        let before = entry.unconfirmed.len();
        entry.unconfirmed.retain(|other| *other != key);
        self.unconfirmed -= before - entry.unconfirmed.len();
        if entry.current.is_none() && entry.pending.is_none() && entry.unconfirmed.is_empty() {
            self.peers.remove(peer);
        }
    }

    /// The sessions and handshakes of all peers but these.
    pub(super) fn of_others(&self, admitted: &BTreeSet<PublicKey>) -> Vec<SessionKey> {
        let others = self.peers.iter().filter(|(key, _)| !admitted.contains(*key)).map(|(_, peer)| peer);
        let own = |peer: &Peer| {
            let all = peer.current.into_iter().chain(peer.pending).chain(peer.unconfirmed.iter().copied());
            all.collect::<Vec<_>>()
        };
        others.flat_map(own).collect()
    }

    /// Number of peers with any session; for tests of growth.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_true_and_nothing_is_left_behind() {
        let (mut peers, peer) = (Peers::default(), PublicKey([1; 32]));
        peers.set_pending(peer, SessionKey(1));
        for n in 10..10 + UNCONFIRMED_PER_PEER_MAX as u32 {
            assert_eq!(peers.add_unconfirmed(peer, SessionKey(n)), None);
        }
        assert_eq!(peers.add_unconfirmed(peer, SessionKey(99)), Some(SessionKey(10)));
        peers.forget(&peer, SessionKey(10));
        assert_eq!(peers.unconfirmed, UNCONFIRMED_PER_PEER_MAX);
        assert_eq!(peers.set_current(peer, SessionKey(2)), None);
        assert_eq!(peers.set_current(peer, SessionKey(3)), Some(SessionKey(2)));
        peers.forget(&peer, SessionKey(2));
        assert_eq!((peers.current(&peer), peers.pending(&peer)), (Some(SessionKey(3)), Some(SessionKey(1))));
        for n in 0..100 {
            peers.forget(&peer, SessionKey(n));
        }
        assert_eq!((peers.len(), peers.unconfirmed, peers.pending_len()), (0, 0, 0));
    }
}

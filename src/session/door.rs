//! With whom sessions are had at all (docs/protocol/introductions.md §5).

use std::collections::BTreeSet;

use super::sessions::Sessions;
use crate::base::{PublicKey, Time};
use crate::wire::control::CloseCode;

impl Sessions {
    /// From now on sessions are had with these peers alone, or with everybody (`None`). Those with others are closed. Whoever
    /// else sends a first flight gets no answer, not even a cookie.
    pub fn set_door(&mut self, now: Time, door: Option<BTreeSet<PublicKey>>) {
        let others = door.as_ref().map_or(Vec::new(), |admitted| self.peers.of_others(admitted));
        self.door = door;
        for key in others {
            self.close(now, key, CloseCode::UNWANTED, "only friends");
        }
    }

    /// Whether sessions are had with a peer.
    pub(super) fn is_admitted(&self, peer: &PublicKey) -> bool {
        self.door.as_ref().is_none_or(|admitted| admitted.contains(peer))
    }
}

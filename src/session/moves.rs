//! When a session stays where it is, although packets of its peer come from elsewhere: both paths work, and nobody is to follow
//! the other from one to the other and back for ever (docs/protocol/session.md §6).

use std::time::Duration;

use super::association::Session;
use super::path::Arrival;
use super::shards::is_own;
use crate::base::{Path, Rng, Time};
use crate::limits::{MOVES_DETOUR_MS, MOVES_MAX, MOVES_MS};

/// What comes by another path than a session's, and whether nothing else does any more.
#[derive(Debug, Default)]
pub(super) struct Detour(Option<Measured>);

#[derive(Debug)]
struct Measured {
    since: Time,
    /// Bytes received in all before.
    before: u64,
    /// Bytes that came by the other path since.
    detoured: u64,
}

impl Detour {
    /// A packet of `len` bytes came by the other path, the last of `received` bytes in all. Once that has gone on for `ms` milliseconds, bytes by it and in all, and it
    /// begins anew.
    fn measure(&mut self, now: Time, len: usize, received: u64, ms: u64) -> Option<(u64, u64)> {
        let len = len as u64;
        let it = self.0.get_or_insert(Measured { since: now, before: received - len, detoured: 0 });
        it.detoured += len;
        if now.since(it.since) < Duration::from_millis(ms) {
            return None;
        }
        let measured = (it.detoured, received - it.before);
        self.0 = None;
        Some(measured)
    }

    /// Whether nothing came by the session's own path in a time that is over with this packet.
    pub(super) fn is_all(&mut self, now: Time, len: usize, received: u64, ms: u64) -> bool {
        self.measure(now, len, received, ms).is_some_and(|(detoured, all)| detoured == all)
    }

    /// Whether hardly anything did: one packet in a while, which anybody may have copied, holds no session.
    fn is_most(&mut self, now: Time, len: usize, received: u64, ms: u64) -> bool {
        self.measure(now, len, received, ms).is_some_and(|(detoured, all)| 8 * (all - detoured) < all)
    }
}

/// How often a session has moved of late: one that goes back and forth stays where it is proven, as long as it is heard there.
#[derive(Debug, Default)]
pub(super) struct Moves {
    count: u8,
    /// When it last moved, or would have.
    last: Time,
    detour: Detour,
}

impl Moves {
    fn has_rested(&self, now: Time) -> bool {
        now.since(self.last) >= Duration::from_millis(MOVES_MS)
    }

    /// A packet came by another path than the session's, which is validated: whether that changes nothing.
    fn stays(&mut self, now: Time, len: usize, received: u64) -> bool {
        if self.count < MOVES_MAX || self.has_rested(now) {
            return false;
        }
        self.last = now;
        !self.detour.is_most(now, len, received, MOVES_DETOUR_MS)
    }

    fn count(&mut self, now: Time) {
        self.count = if self.has_rested(now) { 1 } else { self.count.saturating_add(1) };
        (self.last, self.detour) = (now, Detour::default());
    }
}

impl Session {
    /// An authentic packet came, whose path is to be followed; `highest` when none had a higher number. Each side sends to where the
    /// other's last packet came from, and from the socket where it came in: with two sockets of one node, or two addresses
    /// at a translator, packets under way keep both moving, a round trip each time. So who has moved too often waits.
    pub(super) fn follow(
        &mut self,
        now: Time,
        path: Path,
        len: usize,
        highest: bool,
        own_port: u16,
        rng: &mut Rng,
    ) -> Arrival {
        let active = self.paths.active();
        // Between a straight path and a relay, or a lane's home, other rules have measured, and let few packets come here.
        let is_alike = path.is_relayed() == active.is_relayed()
            && (self.belongs.is_none() || is_own(&path, own_port) == is_own(&active, own_port));
        let is_elsewhere = path.remote != active.remote && is_alike && self.paths.is_validated();
        let received = self.received_bytes;
        if is_elsewhere
            && let Some(Some(moves)) = self.moves()
            && moves.stays(now, len, received)
        {
            return Arrival::Same;
        }
        let arrival = self.paths.arrived(path, len, highest, now, rng);
        if matches!(arrival, Arrival::Roamed | Arrival::Returned)
            && let Some(moves) = self.moves()
        {
            moves.get_or_insert_default().count(now);
        }
        arrival
    }

    /// Beside what is rarely looked at, as sessions are many and few ever move.
    fn moves(&mut self) -> Option<&mut Option<Box<Moves>>> {
        let of_lane = self.belongs.as_mut().map(|belongs| &mut belongs.moves);
        of_lane.or(self.lanes.as_mut().map(|lanes| &mut lanes.moves))
    }
}

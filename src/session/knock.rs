//! A lane's way from shard to shard: it begins by way of both homes, and goes straight as soon as a packet comes
//! through (docs/protocol/session.md §8). One side behind a translator, a port that is closed: then it stays as it is.

use std::time::Duration;

use super::association::Session;
use super::moves::{Detour, Moves};
use super::shards::is_own;
use super::types::SessionKey;
use crate::base::{Path, Time};
use crate::limits::{LANE_DETOUR_MS, LANE_KNOCK_MS, LANE_KNOCKS_MAX};

/// Where a lane belongs.
pub(super) struct Belongs {
    pub(super) home: u8,
    pub(super) session: SessionKey,
    pub(super) number: u16,
    /// While the lane goes by way of its home.
    knocking: Option<Knocking>,
    /// What comes by way of the home while the lane is off it.
    detour: Detour,
    /// None before the lane first moved.
    pub(super) moves: Option<Box<Moves>>,
}

struct Knocking {
    straight: Path,
    again_at: Time,
    tries: u8,
}

impl Belongs {
    /// Of a lane that begins at `path`; `straight` is where the peer's shard says that it is, unless that is there.
    pub(super) fn new(home: u8, session: SessionKey, number: u16, straight: Option<Path>, now: Time) -> Self {
        let knocking = straight.map(|straight| Knocking { straight, again_at: now, tries: 0 });
        Self { home, session, number, knocking, detour: Detour::default(), moves: None }
    }

    /// When the next knock is due.
    pub(super) fn knock_at(&self) -> Option<Time> {
        self.knocking.as_ref().map(|knocking| knocking.again_at)
    }

    /// Where to.
    pub(super) fn knocks_at(&self) -> Option<Path> {
        self.knocking.as_ref().map(|knocking| knocking.straight)
    }
}

impl Session {
    /// Knocks at the peer's shard when that is due, until packets come straight from there.
    pub(super) fn knock(&mut self, now: Time, own_port: u16) {
        let active = self.paths.active();
        let Some(belongs) = &mut self.belongs else { return };
        let Some(knocking) = belongs.knocking.as_mut().filter(|knocking| knocking.again_at <= now) else {
            return;
        };
        let is_straight = is_own(&active, own_port) && active.remote == knocking.straight.remote;
        if is_straight || knocking.tries == LANE_KNOCKS_MAX {
            belongs.knocking = None;
            return;
        }
        knocking.again_at = now + Duration::from_millis(LANE_KNOCK_MS << knocking.tries);
        knocking.tries += 1;
        self.wants.knock = true;
    }

    /// Whether a lane's packet came by way of the home to a lane that goes straight, and changes nothing: both ways
    /// work, so that each side would follow the other from one to the other and back for ever. It does when for a
    /// time nothing has come straight.
    pub(super) fn is_detour(&mut self, now: Time, path: &Path, len: usize, own_port: u16) -> bool {
        let Some(belongs) = &mut self.belongs else { return false };
        if is_own(path, own_port) || !is_own(&self.paths.active(), own_port) {
            return false;
        }
        !belongs.detour.is_all(now, len, self.received_bytes, LANE_DETOUR_MS)
    }
}

//! Keeping a session to every friend: when to try, when to try again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::Friend;
use crate::base::{PublicKey, Rng, Time};
use crate::limits::{FRIEND_RETRY_MS_MAX, FRIEND_RETRY_MS_MIN, HANDSHAKE_RETRY_MS};
use crate::service::PeerId;
use crate::session::SessionKey;

/// How it stands with one friend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No session; try at this time.
    Away { retry_at: Time },
    /// A handshake is under way.
    Calling(SessionKey),
    /// Connected.
    Here(PeerId),
}

struct Entry {
    friend: Friend,
    standing: Standing,
    backoff: Duration,
}

/// All friends of the node.
#[derive(Default)]
pub(super) struct Friends {
    entries: BTreeMap<PublicKey, Entry>,
}

impl Friends {
    /// Replaces the set; returns the friends that are gone.
    pub(super) fn replace(&mut self, now: Time, friends: Vec<Friend>) -> Vec<Standing> {
        let mut old = std::mem::take(&mut self.entries);
        for friend in friends {
            let key = friend.card.key;
            let entry = match old.remove(&key) {
                Some(entry) if entry.friend.addresses == friend.addresses => Entry { friend, ..entry },
                Some(entry) => Entry { friend, backoff: retry_min(), ..entry },
                None => {
                    let standing = Standing::Away { retry_at: now };
                    Entry { friend, standing, backoff: retry_min() }
                }
            };
            self.entries.insert(key, entry);
        }
        old.into_values().map(|entry| entry.standing).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A friend by key.
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Friend> {
        self.entries.get(key).map(|entry| &entry.friend)
    }

    /// All friends and how it stands with them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Friend, Standing)> {
        self.entries.values().map(|entry| (&entry.friend, entry.standing))
    }

    /// A session with this key is established: true when it is a friend's.
    pub(super) fn connected(&mut self, key: &PublicKey, peer: PeerId) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.standing = Standing::Here(peer);
        entry.backoff = retry_min();
        true
    }

    /// A friend began a session and has not confirmed it: it is given the time to.
    pub(super) fn expected(&mut self, now: Time, key: &PublicKey) {
        if let Some(Entry { standing: Standing::Away { retry_at }, .. }) = self.entries.get_mut(key) {
            *retry_at = (*retry_at).max(now + Duration::from_millis(2 * HANDSHAKE_RETRY_MS));
        }
    }

    /// A handshake that we started failed.
    pub(super) fn failed(&mut self, now: Time, session: SessionKey, rng: &mut Rng) {
        let calling = Standing::Calling(session);
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.standing == calling) {
            let jitter = Duration::from_millis(rng.below(1 + entry.backoff.as_millis() as u64 / 2));
            entry.standing = Standing::Away { retry_at: now + entry.backoff + jitter };
            entry.backoff = (entry.backoff * 2).min(Duration::from_millis(FRIEND_RETRY_MS_MAX));
        }
    }

    /// A connected peer is gone.
    pub(super) fn gone(&mut self, now: Time, peer: PeerId) {
        let here = Standing::Here(peer);
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.standing == here) {
            entry.standing = Standing::Away { retry_at: now + entry.backoff };
        }
    }

    /// Somebody waits for content: try friends that are away at once.
    pub(super) fn hurry(&mut self, now: Time) {
        for entry in self.entries.values_mut() {
            if matches!(entry.standing, Standing::Away { .. }) {
                entry.standing = Standing::Away { retry_at: now };
            }
        }
    }

    /// A friend to call now.
    pub(super) fn due(&self, now: Time) -> Option<Friend> {
        let due = |entry: &&Entry| matches!(entry.standing, Standing::Away { retry_at } if retry_at <= now);
        self.entries.values().find(due).map(|entry| entry.friend.clone())
    }

    /// The call began (or could not: `None`, and it is tried again later).
    pub(super) fn calling(&mut self, now: Time, key: &PublicKey, session: Option<SessionKey>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.standing = match session {
                Some(session) => Standing::Calling(session),
                None => Standing::Away { retry_at: now + Duration::from_millis(FRIEND_RETRY_MS_MAX) },
            };
        }
    }

    /// When [`Self::due`] next has something.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.entries
            .values()
            .filter_map(|entry| match entry.standing {
                Standing::Away { retry_at } => Some(retry_at),
                _ => None,
            })
            .min()
    }
}

fn retry_min() -> Duration {
    Duration::from_millis(FRIEND_RETRY_MS_MIN)
}

//! Keeping a session to every friend: when to try, when to try again.

use std::collections::{BTreeMap, BTreeSet};
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

/// All friends of the node. What is asked after every input costs no more with thousands of them.
#[derive(Default)]
pub(super) struct Friends {
    entries: BTreeMap<PublicKey, Entry>,
    /// Those that are away, by when they are called.
    calls: BTreeSet<(Time, PublicKey)>,
}

impl Friends {
    /// Replaces the set; returns the friends that are gone.
    pub(super) fn replace(&mut self, now: Time, friends: Vec<Friend>) -> Vec<Standing> {
        let mut old = std::mem::take(&mut self.entries);
        self.calls.clear();
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
            if let Standing::Away { retry_at } = entry.standing {
                self.calls.insert((retry_at, key));
            }
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
        entry.backoff = retry_min();
        self.stand(key, Standing::Here(peer));
        true
    }

    /// A friend began a session and has not confirmed it: it is given the time to.
    pub(super) fn expected(&mut self, now: Time, key: &PublicKey) {
        if let Some(Entry { standing: Standing::Away { retry_at }, .. }) = self.entries.get(key) {
            let retry_at = (*retry_at).max(now + Duration::from_millis(2 * HANDSHAKE_RETRY_MS));
            self.stand(key, Standing::Away { retry_at });
        }
    }

    /// A handshake that we started failed.
    pub(super) fn failed(&mut self, now: Time, session: SessionKey, rng: &mut Rng) {
        let Some((key, entry)) = self.find(Standing::Calling(session)) else { return };
        let jitter = Duration::from_millis(rng.below(1 + entry.backoff.as_millis() as u64 / 2));
        let retry_at = now + entry.backoff + jitter;
        entry.backoff = (entry.backoff * 2).min(Duration::from_millis(FRIEND_RETRY_MS_MAX));
        self.stand(&key, Standing::Away { retry_at });
    }

    /// A connected peer is gone.
    pub(super) fn gone(&mut self, now: Time, peer: PeerId) {
        let Some((key, entry)) = self.find(Standing::Here(peer)) else { return };
        let retry_at = now + entry.backoff;
        self.stand(&key, Standing::Away { retry_at });
    }

    /// Somebody waits for content: try friends that are away at once.
    pub(super) fn hurry(&mut self, now: Time) {
        for (_, key) in std::mem::take(&mut self.calls) {
            self.stand(&key, Standing::Away { retry_at: now });
        }
    }

    /// A friend to call now, the longest due first.
    pub(super) fn due(&self, now: Time) -> Option<Friend> {
        let (_, key) = self.calls.first().filter(|(at, _)| *at <= now)?;
        self.get(key).cloned()
    }

    /// The call began (or could not: `None`, and it is tried again later).
    pub(super) fn calling(&mut self, now: Time, key: &PublicKey, session: Option<SessionKey>) {
        let later = now + Duration::from_millis(FRIEND_RETRY_MS_MAX);
        self.stand(key, session.map_or(Standing::Away { retry_at: later }, Standing::Calling));
    }

    fn find(&mut self, standing: Standing) -> Option<(PublicKey, &mut Entry)> {
        self.entries
            .iter_mut()
            .find(|(_, entry)| entry.standing == standing)
            .map(|(key, entry)| (*key, entry))
    }

    /// The only place where it changes how it stands with a friend.
    fn stand(&mut self, key: &PublicKey, standing: Standing) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Standing::Away { retry_at } = std::mem::replace(&mut entry.standing, standing) {
            self.calls.remove(&(retry_at, *key));
        }
        if let Standing::Away { retry_at } = standing {
            self.calls.insert((retry_at, *key));
        }
    }

    /// When [`Self::due`] next has something.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.calls.first().map(|(at, _)| *at)
    }
}

fn retry_min() -> Duration {
    Duration::from_millis(FRIEND_RETRY_MS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Identity, Secret};

    /// Whatever happens to friends, the next call is the earliest of those that are away.
    #[test]
    fn the_next_call_is_the_earliest() {
        let mut rng = Rng::from_number(5);
        let cards: Vec<_> =
            (0..6u8).map(|n| *Identity::new(Secret::from_bytes([n; 32]), 0, 0).card()).collect();
        let mut friends = Friends::default();
        for step in 0..3000u64 {
            let now = Time::from_millis(100 * step);
            let key = cards[rng.below(6) as usize].key;
            let standing = friends.entries.get(&key).map(|entry| entry.standing);
            match rng.below(7) {
                0 => {
                    let chosen = cards.iter().filter(|_| rng.chance(0.8));
                    let chosen = chosen.map(|card| Friend { card: *card, addresses: Vec::new(), trust: 1 });
                    let chosen = chosen.collect();
                    friends.replace(now, chosen);
                }
                1 => friends.expected(now, &key),
                2 => friends.calling(now, &key, rng.chance(0.7).then_some(SessionKey(step as u32))),
                3 if rng.chance(0.1) => friends.hurry(now),
                4 => {
                    friends.connected(&key, PeerId(step));
                }
                _ => match standing {
                    Some(Standing::Calling(session)) => friends.failed(now, session, &mut rng),
                    Some(Standing::Here(peer)) => friends.gone(now, peer),
                    _ => {}
                },
            }
            let away = friends.entries.values().filter_map(|entry| match entry.standing {
                Standing::Away { retry_at } => Some(retry_at),
                _ => None,
            });
            let first = away.min();
            assert_eq!(friends.poll_timeout(), first, "seed 5, step {step}");
            assert_eq!(friends.due(now).is_some(), first.is_some_and(|at| at <= now), "seed 5, step {step}");
        }
    }
}

//! Keeping a session to every friend: when to try, when to try again. What happens to one friend touches no
//! other: those that are away stand in a queue by time, the others in indexes by session and by peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::command::Friend;
use crate::base::{PublicKey, Rng, Time};
use crate::limits::{FRIEND_RETRY_MS_MAX, FRIEND_RETRY_MS_MIN, HANDSHAKE_RETRY_MS, HURRY_MS};
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
    /// Its home is another shard, and nothing is wanted of it on this one.
    Resting,
}

struct Entry {
    friend: Friend,
    standing: Standing,
    backoff: Duration,
    /// Whether this shard keeps the session with it.
    home: bool,
    /// When another shard's wish last made it be called at once.
    hurried: Option<Time>,
}

impl Friend {
    /// Where it may be reached.
    fn places(&self) -> (&[SocketAddr], Option<SocketAddr>) {
        (&self.addresses, self.bridge)
    }
}

/// All friends of the node.
#[derive(Default)]
pub(super) struct Friends {
    entries: BTreeMap<PublicKey, Entry>,
    /// Exactly those that are [`Standing::Away`], by the time of the next try.
    away: BTreeSet<(Time, PublicKey)>,
    /// Exactly those that are [`Standing::Calling`].
    calling: BTreeMap<SessionKey, PublicKey>,
    /// Exactly those that are [`Standing::Here`].
    here: BTreeMap<PeerId, PublicKey>,
    /// Other addresses are no reason to call sooner: they are others' word, and not the operator's.
    patient: bool,
}

impl Friends {
    /// Those whose addresses others name.
    pub(super) fn patient() -> Self {
        Self { patient: true, ..Self::default() }
    }

    /// Replaces the set; returns the friends that are gone. `is_home` says whose session this shard keeps.
    pub(super) fn replace(
        &mut self,
        now: Time,
        friends: Vec<Friend>,
        is_home: impl Fn(&PublicKey) -> bool,
    ) -> Vec<Standing> {
        let patient = self.patient;
        let mut old = std::mem::replace(self, Self { patient, ..Self::default() }).entries;
        for friend in friends {
            let key = friend.card.key;
            let entry = match old.remove(&key) {
                Some(entry) if patient || entry.friend.places() == friend.places() => {
                    Entry { friend, ..entry }
                }
                Some(entry) => Entry { friend, backoff: retry_min(), ..entry },
                None => {
                    let home = is_home(&key);
                    let standing = if home { Standing::Away { retry_at: now } } else { Standing::Resting };
                    Entry { friend, standing, backoff: retry_min(), home, hurried: None }
                }
            };
            self.enter(key, entry.standing);
            // The same friend twice: the last word counts.
            if let Some(before) = self.entries.insert(key, entry) {
                self.leave(key, before.standing);
                let standing = self.entries[&key].standing;
                self.enter(key, standing);
            }
        }
        old.into_values().map(|entry| entry.standing).collect()
    }

    fn enter(&mut self, key: PublicKey, standing: Standing) {
        match standing {
            Standing::Away { retry_at } => {
                self.away.insert((retry_at, key));
            }
            Standing::Calling(session) => {
                self.calling.insert(session, key);
            }
            Standing::Here(peer) => {
                self.here.insert(peer, key);
            }
            Standing::Resting => {}
        }
    }

    fn leave(&mut self, key: PublicKey, standing: Standing) {
        match standing {
            Standing::Away { retry_at } => {
                self.away.remove(&(retry_at, key));
            }
            Standing::Calling(session) => {
                self.calling.remove(&session);
            }
            Standing::Here(peer) => {
                self.here.remove(&peer);
            }
            Standing::Resting => {}
        }
    }

    /// Changes how it stands with a friend; false when it is none.
    fn set(&mut self, key: &PublicKey, standing: Standing) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let before = std::mem::replace(&mut entry.standing, standing);
        self.leave(*key, before);
        self.enter(*key, standing);
        true
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many are connected.
    pub(super) fn connected_len(&self) -> usize {
        self.here.len()
    }

    /// Whether this is a friend that is not connected.
    pub(super) fn is_away(&self, key: &PublicKey) -> bool {
        self.entries.get(key).is_some_and(|entry| !matches!(entry.standing, Standing::Here(_)))
    }

    /// Whose handshake this is.
    pub(super) fn called_by(&self, session: SessionKey) -> Option<PublicKey> {
        self.calling.get(&session).copied()
    }

    /// The peer that a friend is, when it is connected.
    pub(super) fn here(&self, key: &PublicKey) -> Option<PeerId> {
        match self.entries.get(key)?.standing {
            Standing::Here(peer) => Some(peer),
            _ => None,
        }
    }

    /// Whether none is connected or called.
    pub(super) fn all_away(&self) -> bool {
        self.calling.is_empty() && self.here.is_empty()
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
        if let Some(entry) = self.entries.get_mut(key) {
            entry.backoff = retry_min();
        }
        self.set(key, Standing::Here(peer))
    }

    /// A friend began a session and has not confirmed it: it is given the time to.
    pub(super) fn expected(&mut self, now: Time, key: &PublicKey) {
        if let Some(Entry { standing: Standing::Away { retry_at }, .. }) = self.entries.get(key) {
            let retry_at = (*retry_at).max(now + Duration::from_millis(2 * HANDSHAKE_RETRY_MS));
            self.set(key, Standing::Away { retry_at });
        }
    }

    /// A handshake that we started failed.
    pub(super) fn failed(&mut self, now: Time, session: SessionKey, rng: &mut Rng) {
        let Some(key) = self.calling.get(&session).copied() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let jitter = Duration::from_millis(rng.below(1 + entry.backoff.as_millis() as u64 / 2));
        let retry_at = now + entry.backoff + jitter;
        // Where another shard of ours was asked, its calls to the friend wait ever longer, not our questions.
        if entry.home {
            entry.backoff = (entry.backoff * 2).min(Duration::from_millis(FRIEND_RETRY_MS_MAX));
        }
        self.set(&key, Standing::Away { retry_at });
    }

    /// A connected peer is gone.
    pub(super) fn gone(&mut self, now: Time, peer: PeerId) {
        let Some(key) = self.here.get(&peer).copied() else { return };
        let Some(backoff) = self.entries.get(&key).map(|entry| entry.backoff) else { return };
        self.set(&key, Standing::Away { retry_at: now + backoff });
    }

    /// Somebody waits for content: try friends that are away at once.
    pub(super) fn hurry(&mut self, now: Time) {
        let resting = self.entries.iter().filter(|(_, entry)| entry.standing == Standing::Resting);
        let resting: Vec<PublicKey> = resting.map(|(key, _)| *key).collect();
        for key in std::mem::take(&mut self.away).into_iter().map(|(_, key)| key).chain(resting) {
            self.set(&key, Standing::Away { retry_at: now });
        }
    }

    /// Another shard waits for this friend: try it at once, but not for as long as that goes on.
    pub(super) fn hurry_one(&mut self, now: Time, key: &PublicKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let recently = entry.hurried.is_some_and(|at| now.since(at) < Duration::from_millis(HURRY_MS));
        if matches!(entry.standing, Standing::Away { retry_at } if retry_at > now) && !recently {
            entry.hurried = Some(now);
            self.set(key, Standing::Away { retry_at: now });
        }
    }

    /// Whether this shard keeps the session with a friend.
    pub(super) fn is_home(&self, key: &PublicKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.home)
    }

    /// How many sessions this shard keeps.
    pub(super) fn home_len(&self) -> usize {
        self.entries.values().filter(|entry| entry.home).count()
    }

    /// Nothing is wanted of a friend whose home is another shard.
    pub(super) fn rest(&mut self, key: &PublicKey) {
        self.set(key, Standing::Resting);
    }

    /// A friend to call now.
    pub(super) fn due(&self, now: Time) -> Option<Friend> {
        let (at, key) = self.away.first()?;
        if *at <= now { self.get(key).cloned() } else { None }
    }

    /// The call began (or could not: `None`, and it is tried again later).
    pub(super) fn calling(&mut self, now: Time, key: &PublicKey, session: Option<SessionKey>) {
        let later = Standing::Away { retry_at: now + Duration::from_millis(FRIEND_RETRY_MS_MAX) };
        self.set(key, session.map_or(later, Standing::Calling));
    }

    /// When [`Self::due`] next has something.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.away.first().map(|(at, _)| *at)
    }
}

fn retry_min() -> Duration {
    Duration::from_millis(FRIEND_RETRY_MS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::crypto::IdentityCard;
    use proptest::prelude::*;

    fn friend(n: u16) -> Friend {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        let card = IdentityCard { key: PublicKey(key), place_nonce: 0, rank_nonce: 0 };
        Friend { card, addresses: vec![([10, 0, 0, 1], n).into()], bridge: None, trust: 50, introduce: true }
    }

    /// What the queue and the indexes must be, from the entries alone.
    fn check(friends: &Friends) {
        let standings = || friends.entries.iter().map(|(key, entry)| (*key, entry.standing));
        let away = standings().filter_map(|(key, standing)| match standing {
            Standing::Away { retry_at } => Some((retry_at, key)),
            _ => None,
        });
        assert_eq!(friends.away, away.collect::<BTreeSet<_>>());
        let calling = standings().filter_map(|(key, standing)| match standing {
            Standing::Calling(session) => Some((session, key)),
            _ => None,
        });
        assert_eq!(friends.calling, calling.collect::<BTreeMap<_, _>>());
        let here = standings().filter_map(|(key, standing)| match standing {
            Standing::Here(peer) => Some((peer, key)),
            _ => None,
        });
        assert_eq!(friends.here, here.collect::<BTreeMap<_, _>>());
    }

    proptest! {
        #[test]
        fn the_queue_is_what_the_entries_say(steps in prop::collection::vec((0u8..8, 0u16..6, 0u64..5000), 1..80)) {
            let (mut friends, mut rng, mut now) = (Friends::default(), Rng::from_number(1), Time::ZERO);
            friends.replace(now, (0..6).map(friend).collect(), |key| key.0[0] % 3 > 0);
            // As the node does: a session and a peer have one friend each.
            let mut fresh = 0;
            for (what, who, ms) in steps {
                let key = friend(who).card.key;
                let standing = friends.entries.get(&key).map(|entry| entry.standing);
                fresh += 1;
                match (what, standing) {
                    (0, _) => now += Duration::from_millis(ms),
                    (1, _) => {
                        friends.connected(&key, PeerId(fresh));
                    }
                    (2, Some(Standing::Here(peer))) => friends.gone(now, peer),
                    (3, Some(Standing::Calling(session))) => friends.failed(now, session, &mut rng),
                    (4, _) => friends.expected(now, &key),
                    (5, _) => friends.hurry(now),
                    (6, _) => {
                        let some = (0..who + 1).chain(0..1).map(friend).collect();
                        friends.replace(now, some, |key| key.0[0] % 3 > 0);
                    }
                    _ => while let Some(due) = friends.due(now) {
                        fresh += 1;
                        let session = (ms % 3 > 0).then_some(SessionKey(fresh as u32));
                        friends.calling(now, &due.card.key, session);
                    },
                }
                check(&friends);
                prop_assert!(friends.poll_timeout().is_none_or(|at| at > now) == friends.due(now).is_none());
            }
        }
    }

    /// Found by review: with each change of its addresses a stranger had itself, or a victim, called again at once.
    #[test]
    fn other_addresses_of_acquaintances_are_no_reason_to_call_sooner() {
        let tried = |mut friends: Friends| {
            let (mut rng, mut calls) = (Rng::from_number(1), 0);
            for second in 0..600u16 {
                let now = Time::from_millis(u64::from(second) * 1000);
                let mut one = friend(1);
                one.addresses[0].set_port(second + 1);
                friends.replace(now, vec![one], |_| true);
                while let Some(due) = friends.due(now) {
                    calls += 1;
                    friends.calling(now, &due.card.key, Some(SessionKey(calls)));
                    friends.failed(now, SessionKey(calls), &mut rng);
                }
            }
            calls
        };
        let (friend, acquaintance) = (tried(Friends::default()), tried(Friends::patient()));
        assert!(acquaintance < 30 && friend > 4 * acquaintance, "{acquaintance} calls, and {friend}");
    }

    #[test]
    fn the_first_that_is_due_is_called_first() {
        let mut friends = Friends::default();
        friends.replace(Time::ZERO, vec![friend(1), friend(2)], |_| true);
        friends.expected(Time::ZERO, &friend(1).card.key);
        assert_eq!(friends.due(Time::ZERO).map(|due| due.card.key), Some(friend(2).card.key));
        assert!(friends.all_away());
        friends.connected(&friend(2).card.key, PeerId(1));
        assert_eq!((friends.due(Time::ZERO).is_none(), friends.here.len()), (true, 1));
        assert_eq!(friends.poll_timeout(), Some(Time::from_millis(2 * HANDSHAKE_RETRY_MS)));
    }
}

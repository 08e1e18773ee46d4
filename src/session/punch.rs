//! Off a relayed path: both sides send challenges to where the other says that it may be, at once, until an answer comes
//! straight from there (docs/protocol/nat.md §3). And back to the relayed path, when the other falls silent.
//!
//! A session on a relayed path never leaves it for one that is not proven in both directions, so that trying disturbs
//! nothing. And where both sides are off it, what still comes that way brings nobody back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::association::Session;
use super::initiate::unspecified;
use super::moves::Detour;
use super::path::Paths;
use super::sessions::{Sessions, Slot};
use super::types::{Event, SessionKey};
use crate::base::bridge::OWN;
use crate::base::{Path, PublicKey, Rng, Time};
use crate::limits::{DIRECT_SILENT_MS, PUNCH_AGAIN_MS, PUNCH_AT_MS, PUNCHED_MAX, RELAYED_DETOUR_MS};

/// What a session knows that is on a relayed path, or was.
pub(super) struct Relayed {
    /// The relayed path that worked last.
    spare: Path,
    /// At most [`PUNCHED_MAX`].
    candidates: Vec<Candidate>,
    /// The round under way: when it began, and how often all of them have been tried in it.
    round: Option<(Time, usize)>,
    /// When it is looked whether the peer is still heard, while the session is off the relayed path, or by a bridge.
    look_at: Time,
    /// When the peer was asked whether it is there, since something was said and nothing heard.
    asked: Option<Time>,
    /// What comes by the relay while the session is off it.
    detour: Detour,
}

/// Where the peer may be.
struct Candidate {
    path: Path,
    data: [u8; 8],
    /// A challenge is due.
    due: bool,
    tried: Option<Time>,
}

/// What a look at a session says whose peer may have fallen silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing.
    Well,
    /// The session is on its relayed path again.
    Back,
    /// Nothing is heard by a bridge: perhaps its end has forgotten this session.
    Silent,
}

/// What a packet's path means to a session that knows a relayed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// Nothing: it is to be judged as in any other session.
    None,
    /// Its path changes nothing.
    Ignored,
    /// The peer is heard straight: challenge it there.
    Punch,
}

impl Relayed {
    fn new(spare: Path, now: Time) -> Box<Self> {
        let look_at = now + Duration::from_millis(DIRECT_SILENT_MS);
        Box::new(Self {
            spare,
            candidates: Vec::new(),
            round: None,
            look_at,
            asked: None,
            detour: Detour::default(),
        })
    }

    /// When the next challenges of the round are due, and it is looked after the peer.
    pub(super) fn deadline(&self, path: &Path) -> Option<Time> {
        let look_at = Some(self.look_at).filter(|_| !path.is_way());
        let round_at = self.round_at().filter(|_| path.is_relayed());
        look_at.into_iter().chain(round_at).min()
    }

    fn round_at(&self) -> Option<Time> {
        let (began, tries) = self.round?;
        PUNCH_AT_MS.get(tries).map(|ms| began + Duration::from_millis(*ms))
    }

    fn add(&mut self, path: Path, rng: &mut Rng) -> Option<&mut Candidate> {
        let known = self.candidates.iter().position(|one| one.path.remote == path.remote);
        let at = match known {
            Some(at) => at,
            None if self.candidates.len() >= PUNCHED_MAX => return None,
            None => {
                self.candidates.push(Candidate { path, data: rng.bytes(), due: false, tried: None });
                self.candidates.len() - 1
            }
        };
        self.candidates.get_mut(at)
    }

    /// The next challenge that is due.
    pub(super) fn next(&mut self, now: Time) -> Option<(Path, [u8; 8])> {
        let one = self.candidates.iter_mut().find(|one| one.due)?;
        (one.due, one.tried) = (false, Some(now));
        Some((one.path, one.data))
    }
}

impl Session {
    /// What it knows of a relayed path.
    pub(super) fn relayed(&mut self) -> Option<&mut Relayed> {
        self.lanes.as_mut()?.relayed.as_deref_mut()
    }

    /// A session begins, or continues, on this path.
    pub(super) fn note_relayed(&mut self, now: Time) {
        let active = self.paths.active();
        if let Some(lanes) = self.lanes.as_mut().filter(|_| active.is_relayed()) {
            lanes.relayed.get_or_insert_with(|| Relayed::new(active, now)).spare = active;
        }
    }

    /// What the path of an authentic packet means, where one of both is relayed and the other is not.
    pub(super) fn cross_over(&mut self, now: Time, path: &Path, len: usize, rng: &mut Rng) -> Crossing {
        let Some(lanes) = &mut self.lanes else { return Crossing::None };
        match (self.paths.active().is_relayed(), path.is_relayed()) {
            (true, false) => {
                let Some(relayed) = &mut lanes.relayed else { return Crossing::None };
                let again = Duration::from_millis(PUNCH_AGAIN_MS);
                // Heard where nobody said it was: behind a translator that differs by peer.
                match relayed.add(*path, rng) {
                    Some(one) if one.tried.is_none_or(|tried| now.since(tried) >= again) => {
                        (one.path, one.due) = (*path, true);
                        Crossing::Punch
                    }
                    _ => Crossing::Ignored,
                }
            }
            (false, true) => {
                let relayed = lanes.relayed.get_or_insert_with(|| Relayed::new(*path, now));
                let is_all = relayed.detour.is_all(now, len, self.received_bytes, RELAYED_DETOUR_MS);
                if is_all { Crossing::None } else { Crossing::Ignored }
            }
            _ => Crossing::None,
        }
    }

    /// What is due of a round.
    pub(super) fn punch_due(&mut self, now: Time) {
        let is_relayed = self.paths.active().is_relayed();
        let Some(relayed) = self.relayed() else { return };
        if !is_relayed || relayed.round_at().is_none_or(|at| at > now) {
            return;
        }
        relayed.candidates.iter_mut().for_each(|one| one.due = true);
        relayed.round = relayed.round.map(|(began, tries)| (began, tries + 1));
        self.wants.punch = true;
    }

    /// An answer to a challenge came straight: the path that it proves, if it was one of a round.
    pub(super) fn punched(&mut self, path: &Path, data: &[u8; 8]) -> Option<Path> {
        if path.is_relayed() || !self.paths.active().is_relayed() {
            return None;
        }
        let relayed = self.relayed()?;
        let proven = relayed.candidates.iter().find(|one| one.data == *data)?.path;
        relayed.candidates.clear();
        relayed.round = None;
        self.wants.punch = false;
        self.paths = Paths::validated(proven);
        Some(proven)
    }

    /// Whether nothing is heard any more of a peer that was talked to: off a relayed path, it is tried there. By a bridge there
    /// is nowhere else to try, but the peer may have begun anew, and not be able to call.
    pub(super) fn look_after(&mut self, now: Time) -> Look {
        let active = self.paths.active();
        let (unanswered, heard) = (self.unanswered, self.heard);
        let silence = Duration::from_millis(DIRECT_SILENT_MS);
        let Some(relayed) = self.relayed().filter(|relayed| !active.is_way() && relayed.look_at <= now)
        else {
            return Look::Well;
        };
        relayed.look_at = now + silence / 2;
        let asked = relayed.asked.filter(|asked| *asked > heard && unanswered);
        if asked.is_none() && unanswered && now.since(heard) >= silence / 2 {
            // What was said may have wanted no answer, as an acknowledgement wants none: this does.
            relayed.asked = Some(now);
            self.wants.ping = true;
            return Look::Well;
        }
        if asked.is_none_or(|asked| now.since(asked) < silence / 2) || now.since(heard) < silence {
            return Look::Well;
        }
        if active.is_bridged() {
            relayed.look_at = now + silence;
            return Look::Silent;
        }
        relayed.detour = Detour::default();
        self.paths = Paths::validated(relayed.spare);
        self.wants.ping = true;
        Look::Back
    }
}

impl Sessions {
    /// Begins a round of challenges to where a peer may be, if the session with it is on a relayed path.
    pub fn punch(&mut self, now: Time, key: SessionKey, candidates: &[SocketAddr]) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        if session.closing.is_some() || session.belongs.is_some() || !session.paths.active().is_relayed() {
            return;
        }
        session.note_relayed(now);
        if let Some(relayed) = session.lanes.as_mut().and_then(|lanes| lanes.relayed.as_mut()) {
            // Those that it was heard at stay.
            relayed.candidates.retain(|one| one.path.local.port() != 0);
            for remote in candidates {
                relayed.add(Path { local: unspecified(*remote), remote: *remote }, &mut self.rng);
            }
            relayed.round = Some((now, 0));
        }
        session.punch_due(now);
        self.arm(key);
        self.talk(key);
    }

    /// There is a (better) way to a peer through another: its handshake is tried there at once, or its session, if it has no
    /// other path than one that `is_dead`, continues there. Whether anything came of it.
    pub fn take_way(&mut self, peer: &PublicKey, way: Path, is_dead: impl Fn(&Path) -> bool) -> bool {
        if let Some(key) = self.peers.pending(peer)
            && let Some(Slot::Pending(pending)) = self.slab.get_mut(key)
        {
            let taken = pending.also_at(way.remote);
            if taken {
                self.queue_init(key);
            }
            return taken;
        }
        let Some(key) = self.peers.current(peer) else { return false };
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return false };
        let active = session.paths.active();
        match session.relayed() {
            Some(relayed) if is_dead(&relayed.spare) => relayed.spare = way,
            Some(_) if !active.is_relayed() => return false,
            _ => {}
        }
        if !active.is_relayed() || !is_dead(&active) {
            return false;
        }
        session.paths = Paths::validated(way);
        session.wants.ping = true;
        self.events.push_back(Event::Moved { session: key, path: way });
        self.talk(key);
        true
    }

    /// A peer is reached by a bridge of its own, too, or by none any more: a session with it goes on there when it falls silent, and
    /// at once if it is on another bridge, which is not the peer's any more.
    pub fn set_spare(&mut self, now: Time, key: SessionKey, spare: Option<Path>) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        if session.closing.is_some() || session.belongs.is_some() {
            return;
        }
        let active = session.paths.active();
        // Guests are there as long as they say.
        let over = |path: &Path| {
            path.remote.ip() == IpAddr::V4(OWN) && spare.is_none_or(|spare| spare.remote != path.remote)
        };
        let Some(lanes) = &mut session.lanes else { return };
        let Some(spare) = spare else {
            lanes.relayed.take_if(|relayed| !active.is_relayed() && over(&relayed.spare));
            return self.arm(key);
        };
        let relayed = lanes.relayed.get_or_insert_with(|| Relayed::new(spare, now));
        // A way that the session has left may be gone unseen.
        if !active.is_relayed() || over(&relayed.spare) {
            relayed.spare = spare;
        }
        if over(&active) {
            session.paths = Paths::validated(spare);
            session.wants.ping = true;
            self.events.push_back(Event::Moved { session: key, path: spare });
            self.talk(key);
        }
        self.arm(key);
    }

    /// Whether the session's packets go through another peer.
    pub fn is_on_way(&self, key: SessionKey) -> bool {
        self.path(key).is_some_and(|path| path.is_way())
    }

    /// Whether the session's packets go through another peer, or by a bridge.
    pub fn is_relayed(&self, key: SessionKey) -> bool {
        self.path(key).is_some_and(|path| path.is_relayed())
    }

    /// The handshake with a peer that is not answered yet.
    pub fn is_connecting(&self, peer: &PublicKey) -> bool {
        self.peers.pending(peer).is_some_and(|key| matches!(self.slab.get(key), Some(Slot::Pending(_))))
    }
}

//! Further lanes of a session (docs/protocol/session.md §8): one for each shard that has something to say to the
//! peer, so that no two shards share keys, packet numbers or a replay window.
//!
//! ```text
//! shard s          home (first lane)             peer's home            peer's shard t
//!   │ LaneWanted ──▶ │ ── LaneOpen (lane 0) ───────▶ │ LaneSeat ──────────▶ │
//!   │                │                              │ ◀─────── LaneSeated  │
//!   │ ◀── LaneSeat   │ ◀────── LaneReady (lane 0) ── │                      │
//!   │ ◀══════════════════════ packets of the lane ═══════════════════════▶ │
//! ```
//!
//! A lane begins by way of both homes, on the path of the session, which is known to work. Both shards knock at
//! each other's own port at once; the first packet that comes through moves the lane there, as roaming does. So
//! translators and firewalls cost a lane its speed and not its life.

use std::net::SocketAddr;
use std::time::Duration;

use super::association::{Birth, Session};
use super::home::{Entry, State, Wanted};
use super::initiate::unspecified;
use super::knock::Belongs;
use super::lane::Lane;
use super::path::Paths;
use super::sessions::{Sessions, Slot};
use super::shards::Cross;
use super::types::{ClosedWhy, ConnectError, DropCause, Event, FailedWhy, SessionKey};
use crate::base::{Path, PublicKey, Time};
use crate::crypto::IdentityCard;
use crate::limits::{
    LANE_ASK_MS, LANE_RETRY_MS, LANE_WAIT_MS, LANES_PER_SESSION_MAX, LANES_UNASKED_MAX, SESSIONS_MAX,
};
use crate::wire::control::CloseCode;

/// A lane on its way to its shard.
pub struct Seat {
    home: u8,
    home_session: SessionKey,
    number: u16,
    lane: Lane,
    card: IdentityCard,
    remote_cid: u64,
    /// What the shard knows it by, when it was the shard that wanted it.
    awaited: Option<SessionKey>,
    /// The session's path, which is validated, and the shard from whose socket it leaves.
    path: Path,
    via: u8,
    /// Where the peer's shard says that it is.
    straight: SocketAddr,
}

/// What the peer said of its end.
struct Peer {
    cid: u64,
    port: u16,
}

/// A lane that home is agreeing on.
pub(super) struct Awaited {
    peer: PublicKey,
    pub(super) cid: u64,
    again_at: Time,
    until: Time,
    pub(super) armed: Option<Time>,
}

impl Awaited {
    /// When it has something to do.
    pub(super) fn deadline(&self) -> Time {
        self.again_at.min(self.until)
    }
}

impl Sessions {
    /// Asks the peer's home for a lane to be used here. The key names the lane as soon as `Established` says so;
    /// `Failed` says that it came to nothing.
    pub fn open_lane(&mut self, now: Time, card: &IdentityCard) -> Result<SessionKey, ConnectError> {
        let cid = self.fresh_cid();
        let until = now + Duration::from_millis(LANE_WAIT_MS);
        let again_at = now + Duration::from_millis(LANE_ASK_MS);
        let awaited = Awaited { peer: card.key, cid, again_at, until, armed: None };
        let awaited = Slot::Awaited(Box::new(awaited));
        let key = self.slab.insert(awaited).ok_or(ConnectError::Full)?;
        self.cids.insert(cid, key);
        self.arm(key);
        self.ask_home(now, card.key, key, cid);
        Ok(key)
    }

    fn ask_home(&mut self, now: Time, peer: PublicKey, awaited: SessionKey, cid: u64) {
        let wanted = Cross::LaneWanted { peer, awaited, cid, port: self.config.home_port };
        self.cross(now, self.shards.home(&peer), wanted);
    }

    /// A lane that was wanted comes to nothing.
    pub(super) fn lane_away(&mut self, awaited: SessionKey) {
        self.forget_awaited(awaited, FailedWhy::NoAnswer);
    }

    pub(super) fn forget_awaited(&mut self, key: SessionKey, why: FailedWhy) {
        let Some(Slot::Awaited(awaited)) = self.slab.get(key) else { return };
        let (cid, armed) = (awaited.cid, awaited.armed);
        self.cids.remove(&cid);
        self.disarm(key, armed);
        self.slab.remove(key);
        self.events.push_back(Event::Failed { session: key, why });
    }

    /// At home: a shard wants a lane to a peer.
    pub(super) fn lane_wanted(&mut self, now: Time, shard: u8, peer: PublicKey, wanted: Wanted) {
        let awaited = wanted.awaited;
        let current = self.peers.current(&peer);
        let session = current.and_then(|key| match self.slab.get_mut(key) {
            Some(Slot::Live(session)) if session.closing.is_none() => Some((key, session)),
            _ => None,
        });
        let Some((key, session)) = session else {
            self.events.push_back(Event::Wanted { peer });
            return self.cross(now, shard, Cross::LaneAway { awaited });
        };
        let initiator = session.initiator;
        let is_asked = session.lanes.as_ref().is_some_and(|lanes| lanes.is_asked(shard, awaited));
        if is_asked {
            // Told again; the peer is being asked.
            return;
        }
        // A shard has one lane to a peer: of older ones the end was not heard.
        let older = session.lanes.as_mut().map_or(Vec::new(), |lanes| lanes.take_ours(initiator, shard));
        let number = session.lanes.as_mut().and_then(|lanes| lanes.next_number(initiator));
        let (Some(number), Some(lanes)) = (number, session.lanes.as_mut()) else {
            // Every number has had its keys: a new session has new ones.
            self.cross(now, shard, Cross::LaneAway { awaited });
            return self.close(now, key, CloseCode::GOODBYE, "all lanes are used up");
        };
        let again_at = now + Duration::from_millis(LANE_RETRY_MS);
        let state = State::Asked { wanted, since: now, again_at, tries: 0 };
        lanes.list.push(Entry { number, shard, state, say: true });
        session.wants.lanes = true;
        self.talk(key);
        self.arm(key);
        for entry in older {
            self.end_lane(now, entry);
        }
    }

    /// At home: the peer asks for a lane.
    pub(super) fn on_lane_open(
        &mut self,
        now: Time,
        key: SessionKey,
        number: u16,
        cid: u64,
        port: u16,
    ) -> Result<(), DropCause> {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return Ok(()) };
        let (initiator, is_proven) = (session.initiator, session.paths.is_validated());
        let lanes_max = if session.keepalive { LANES_PER_SESSION_MAX } else { LANES_UNASKED_MAX };
        let fits = number >= 2 && number.is_multiple_of(2) != initiator;
        let Some(lanes) = session.lanes.as_mut().filter(|_| fits) else {
            self.fault(now, key, CloseCode::VIOLATION, "a lane that is not the peer's to open");
            return Err(DropCause::Malformed);
        };
        if !is_proven {
            // The lane would take a path on that nobody is known to be at. It is asked for again.
            return Ok(());
        }
        if let Some(entry) = lanes.find(number) {
            // Its answer was lost.
            entry.say = matches!(entry.state, State::Seated { .. });
            session.wants.lanes |= entry.say;
            return Ok(());
        }
        // A lower number may have been in use already, and would have its keys again.
        if number <= lanes.highest_theirs || lanes.count(initiator, false) >= lanes_max {
            lanes.refuse(number);
            session.wants.lanes = true;
            return Ok(());
        }
        lanes.highest_theirs = number;
        let further = if lanes.stay { 0 } else { number / 2 };
        let shard = ((u16::from(self.shards.index) + further) % u16::from(self.shards.count)) as u8;
        lanes.list.push(Entry { number, shard, state: State::Seating { since: now }, say: false });
        let lane = Lane::new(&lanes.secret, number.into(), false, lanes.suite, now);
        self.seat(now, key, shard, number, lane, Peer { cid, port }, None);
        Ok(())
    }

    /// Sends a lane to its shard.
    #[expect(clippy::too_many_arguments, reason = "the last step of two functions")]
    fn seat(
        &mut self,
        now: Time,
        key: SessionKey,
        shard: u8,
        number: u16,
        lane: Lane,
        peer: Peer,
        awaited: Option<SessionKey>,
    ) {
        let Some(Slot::Live(session)) = self.slab.get(key) else { return };
        let mut path = session.paths.active();
        let via = self.shards.via(&path, self.config.home_port).unwrap_or(self.shards.index);
        if via == self.shards.index {
            path.local.set_port(self.config.home_port);
        }
        let port = if peer.port == 0 { path.remote.port() } else { peer.port };
        let seat = Seat {
            home: self.shards.index,
            home_session: key,
            number,
            lane,
            card: session.card,
            remote_cid: peer.cid,
            awaited,
            path,
            via,
            straight: SocketAddr::new(path.remote.ip(), port),
        };
        self.cross(now, shard, Cross::LaneSeat(Box::new(seat)));
    }

    /// On the lane's shard: it begins.
    pub(super) fn lane_seat(&mut self, now: Time, seat: Seat) {
        let Seat { home, home_session, number, lane, card, remote_cid, awaited, path, via, straight } = seat;
        if via != self.shards.index {
            self.shards.learn(via, path.local.port());
        }
        let paths = Paths::validated(path);
        let straight = Path { local: unspecified(straight), remote: straight };
        let is_there = via == self.shards.index && path.remote == straight.remote;
        // Through a relay there is no other way to the peer's shard.
        let straight = Some(straight).filter(|straight| !is_there && !straight.is_relayed());
        let belongs = Belongs::new(home, home_session, number, straight, now);
        let opened = awaited.is_some();
        let over = Cross::LaneOver { home: home_session, lane: number };
        let (key, cid) = match awaited {
            Some(key) => {
                let Some(Slot::Awaited(awaited)) = self.slab.get(key) else {
                    return self.cross(now, home, over);
                };
                let (cid, armed) = (awaited.cid, awaited.armed);
                self.disarm(key, armed);
                (Some(key), cid)
            }
            None => (None, self.fresh_cid()),
        };
        let birth = self.next_birth();
        let parts = Birth { card, lane, paths, cid, remote_cid, initiator: opened, birth };
        let mut session = Session::new(parts, now);
        session.belongs = Some(Box::new(belongs));
        session.knock(now, self.config.home_port);
        if opened {
            session.start_confirming(now);
        }
        let slot = Slot::Live(Box::new(session));
        let key = match key {
            Some(key) => {
                if let Some(place) = self.slab.get_mut(key) {
                    *place = slot;
                }
                key
            }
            // Half of the places are for sessions.
            None => match (self.slab.len() < SESSIONS_MAX / 2).then(|| self.slab.insert(slot)).flatten() {
                Some(key) => key,
                None => {
                    let none = Cross::LaneSeated { home: home_session, lane: number, seat: None };
                    return self.cross(now, home, none);
                }
            },
        };
        self.cids.insert(cid, key);
        self.arm(key);
        self.talk(key);
        if opened {
            self.counters.lanes_opened += 1;
        } else {
            self.counters.lanes_accepted += 1;
            let seat = Some((key, cid, self.config.home_port));
            self.cross(now, home, Cross::LaneSeated { home: home_session, lane: number, seat });
        }
        self.events.push_back(Event::Established { session: key, initiator: opened, card, lane: number });
    }

    /// At home: the lane that the peer asked for is there, or is not to be had.
    pub(super) fn lane_seated(
        &mut self,
        now: Time,
        shard: u8,
        home: SessionKey,
        number: u16,
        seat: Option<(SessionKey, u64, u16)>,
    ) {
        let entry = match self.slab.get_mut(home) {
            Some(Slot::Live(session)) if session.closing.is_none() => session.lanes.as_mut(),
            _ => None,
        };
        let Some(lanes) = entry.filter(|lanes| lanes.list.iter().any(|entry| entry.number == number)) else {
            if let Some((session, ..)) = seat {
                self.cross(now, shard, Cross::LaneClose { session });
            }
            return;
        };
        match (lanes.find(number), seat) {
            (Some(entry), Some((key, cid, port))) => {
                entry.state = State::Seated { key, cid, port };
                entry.say = true;
            }
            _ => {
                lanes.take(number);
                lanes.refuse(number);
            }
        }
        if let Some(Slot::Live(session)) = self.slab.get_mut(home) {
            session.wants.lanes = true;
        }
        self.talk(home);
    }

    /// At home: the peer has the lane that we asked for.
    pub(super) fn on_lane_ready(&mut self, now: Time, key: SessionKey, number: u16, cid: u64, port: u16) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        if !session.paths.is_validated() {
            // As with LANE_OPEN: what is not answered is asked again, and so this is said again.
            return;
        }
        let Some(lanes) = session.lanes.as_mut() else { return };
        let Some(entry) = lanes.list.iter_mut().find(|entry| entry.number == number) else { return };
        let State::Asked { wanted: Wanted { awaited, cid: ours, .. }, .. } = entry.state else { return };
        entry.state = State::Seated { key: awaited, cid: ours, port: 0 };
        entry.say = false;
        let shard = entry.shard;
        let lane = Lane::new(&lanes.secret, number.into(), true, lanes.suite, now);
        self.seat(now, key, shard, number, lane, Peer { cid, port }, Some(awaited));
    }

    /// At home: the peer has no lane for us.
    pub(super) fn on_lane_refused(&mut self, now: Time, key: SessionKey, number: u16) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        let Some(lanes) = session.lanes.as_mut() else { return };
        if !matches!(lanes.find(number), Some(Entry { state: State::Asked { .. }, .. })) {
            return;
        }
        if let Some(Entry { shard, state: State::Asked { wanted, .. }, .. }) = lanes.take(number) {
            self.cross(now, shard, Cross::LaneAway { awaited: wanted.awaited });
        }
    }

    /// At home: whether a session has further lanes, whoever opened them.
    pub fn has_lanes(&self, key: SessionKey) -> bool {
        matches!(self.slab.get(key), Some(Slot::Live(session))
            if session.lanes.as_ref().is_some_and(|lanes| !lanes.list.is_empty()))
    }

    /// At home: whether lanes that the peer opens are used on this shard alone. Those that another shard has by then end, and
    /// the peer opens others if it needs them.
    pub fn keep_lanes_here(&mut self, now: Time, key: SessionKey, here: bool) {
        let index = self.shards.index;
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        let initiator = session.initiator;
        let Some(lanes) = session.lanes.as_mut() else { return };
        let moved = match std::mem::replace(&mut lanes.stay, here) {
            false if here => lanes.take_theirs(initiator, index),
            _ => Vec::new(),
        };
        for entry in moved {
            self.end_lane(now, entry);
        }
    }

    /// At home: a lane has ended on its shard.
    pub(super) fn lane_over(&mut self, home: SessionKey, number: u16) {
        if let Some(Slot::Live(session)) = self.slab.get_mut(home)
            && let Some(lanes) = session.lanes.as_mut()
        {
            lanes.take(number);
        }
    }

    /// On the lane's shard: its session is over.
    pub(super) fn lane_close(&mut self, now: Time, key: SessionKey) {
        if matches!(self.slab.get(key), Some(Slot::Live(session)) if session.belongs.is_some()) {
            self.close(now, key, CloseCode::GOODBYE, "the session ended");
        }
    }

    /// At home: what was asked of the peer for too long.
    pub(super) fn lanes_due(&mut self, now: Time, key: SessionKey) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        let Some(lanes) = session.lanes.as_mut() else { return };
        let over = lanes.due(now);
        let news = lanes.has_news();
        session.wants.lanes |= news;
        // Answered by whoever has the session, whether there is a lane or not.
        session.wants.ping |= news;
        // Asked so often, and not a word of any kind: the peer has lost the session.
        let is_dead = over.iter().any(|(.., since)| session.heard < *since);
        for (shard, awaited, _) in over {
            self.cross(now, shard, Cross::LaneAway { awaited });
        }
        if is_dead {
            self.end(now, key, ClosedWhy::Idle);
        }
    }

    /// A session ends: so do its lanes. A lane ends: its home hears of it.
    pub(super) fn leave_lanes(&mut self, now: Time, key: SessionKey) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        let (belongs, lanes) = (session.belongs.take(), session.lanes.take());
        if let Some(Belongs { home, session, number, .. }) = belongs.map(|belongs| *belongs) {
            self.cross(now, home, Cross::LaneOver { home: session, lane: number });
        }
        for entry in lanes.into_iter().flat_map(|lanes| lanes.list) {
            self.end_lane(now, entry);
        }
    }

    /// At home: tells a lane's shard that it is over.
    fn end_lane(&mut self, now: Time, entry: Entry) {
        match entry.state {
            State::Asked { wanted, .. } => {
                self.cross(now, entry.shard, Cross::LaneAway { awaited: wanted.awaited });
            }
            State::Seated { key, .. } => self.cross(now, entry.shard, Cross::LaneClose { session: key }),
            // Its shard's answer will find nobody, and be told so.
            State::Seating { .. } => {}
        }
    }

    /// Tells the home again, or ends an awaited lane whose time is over.
    pub(super) fn awaited_due(&mut self, now: Time, key: SessionKey) {
        let Some(Slot::Awaited(awaited)) = self.slab.get_mut(key) else { return };
        if awaited.until <= now {
            return self.forget_awaited(key, FailedWhy::NoAnswer);
        }
        if awaited.again_at <= now {
            awaited.again_at = now + Duration::from_millis(LANE_ASK_MS);
            let (peer, cid) = (awaited.peer, awaited.cid);
            self.ask_home(now, peer, key, cid);
        }
    }
}

//! What sessions do as time passes. One entry per session in an ordered set; packets never touch it.

use super::path::Tick;
use super::punch::Look;
use super::sessions::{Sessions, Slot};
use super::types::{ClosedWhy, Event, SessionKey};
use crate::base::{Time, UnixMs};
use crate::limits::{TIMEOUTS_PER_CALL_MAX, UNCONFIRMED_MS_MAX};

impl Sessions {
    /// When [`Self::handle_timeout`] wants to be called, if ever.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due, for a bounded number of sessions at a time.
    pub fn handle_timeout(&mut self, now: Time, _wall: UnixMs) {
        for _ in 0..TIMEOUTS_PER_CALL_MAX {
            let Some(&(at, key)) = self.timers.first() else { return };
            if at > now {
                return;
            }
            self.timers.pop_first();
            match self.slab.get_mut(key) {
                Some(Slot::Pending(pending)) => {
                    pending.armed = None;
                    self.pending_due(now, key);
                }
                Some(Slot::Live(session)) => {
                    session.armed = None;
                    self.session_due(now, key);
                }
                Some(Slot::Awaited(awaited)) => {
                    awaited.armed = None;
                    self.awaited_due(now, key);
                }
                None => {}
            }
            self.arm(key);
        }
    }

    fn session_due(&mut self, now: Time, key: SessionKey) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        if let Some(closing) = &session.closing {
            if closing.until <= now {
                self.end(now, key, ClosedWhy::Local);
            }
            return;
        }
        let silent_ms = now.since(session.heard).as_millis() as u64;
        if silent_ms >= session.idle_ms_max() {
            return self.end(now, key, ClosedWhy::Idle);
        }
        let age_ms = now.since(session.began).as_millis() as u64;
        if !session.confirmed && age_ms >= UNCONFIRMED_MS_MAX {
            return self.end(now, key, ClosedWhy::Unconfirmed);
        }
        session.lane.erase(now);
        if session.keepalive && session.keepalive_at() <= now {
            session.wants.ping = true;
            // It counts as said, so that a path without budget is not asked again and again.
            session.spoke = now;
        }
        session.confirm_again(now);
        match session.paths.tick(now) {
            Tick::Wait => {}
            Tick::Challenge => session.wants.challenge = true,
            Tick::GaveUp => self.counters.paths_failed += 1,
            Tick::FellBack => {
                session.wants.challenge = false;
                self.counters.paths_failed += 1;
                let path = session.paths.active();
                self.events.push_back(Event::Moved { session: key, path });
            }
        }
        match session.look_after(now) {
            Look::Well => {}
            Look::Silent => self.events.push_back(Event::Silent { session: key }),
            Look::Back => {
                self.counters.relayed_again += 1;
                let path = session.paths.active();
                self.events.push_back(Event::Moved { session: key, path });
            }
        }
        session.punch_due(now);
        session.knock(now, self.config.home_port);
        self.lanes_due(now, key);
        if matches!(self.slab.get(key), Some(Slot::Live(session)) if session.wants.any()) {
            self.talk(key);
        }
    }

    /// Makes sure that the timer set wakes this session (or handshake) in time. Never moves a timer to
    /// later: it fires once for nothing and is set anew then.
    pub(super) fn arm(&mut self, key: SessionKey) {
        let at = match self.slab.get(key) {
            Some(Slot::Pending(pending)) => pending.deadline(),
            Some(Slot::Live(session)) => session.deadline(),
            Some(Slot::Awaited(awaited)) => awaited.deadline(),
            None => return,
        };
        let armed = match self.slab.get_mut(key) {
            Some(Slot::Pending(pending)) => &mut pending.armed,
            Some(Slot::Live(session)) => &mut session.armed,
            Some(Slot::Awaited(awaited)) => &mut awaited.armed,
            None => return,
        };
        if armed.is_some_and(|armed| armed <= at) {
            return;
        }
        let before = armed.replace(at);
        self.disarm(key, before);
        self.timers.insert((at, key));
    }

    pub(super) fn disarm(&mut self, key: SessionKey, armed: Option<Time>) {
        if let Some(at) = armed {
            self.timers.remove(&(at, key));
        }
    }
}

//! Control packets in, and everything that the session itself sends out.

use std::time::Duration;

use super::association::Session;
use super::sessions::{Sessions, Slot};
use super::types::{ClosedWhy, DropCause, Event, SessionKey};
use crate::base::{Path, Time, UnixMs};
use crate::limits::{CONFIRM_MS, PATH_RESPONSES_MAX};
use crate::wire::control::{CloseCode, Control, Controls};

impl Sessions {
    /// Obeys an authentic control packet.
    pub(super) fn on_control(
        &mut self,
        now: Time,
        key: SessionKey,
        path: Path,
        payload: &[u8],
    ) -> Result<(), DropCause> {
        let mut challenge = None;
        for control in Controls::new(payload) {
            let Some(Slot::Live(session)) = self.slab.get_mut(key) else { break };
            match control {
                Ok(Control::Ping) => session.wants.pong = true,
                Ok(Control::Pong) => {}
                Ok(Control::Challenge(data)) => challenge = Some(data),
                Ok(Control::Response(data)) => {
                    if session.paths.answered(&data) {
                        session.wants.challenge = false;
                        session.wants.probe = false;
                        session.wants.token = true;
                        self.counters.paths_validated += 1;
                        self.events.push_back(Event::Validated { session: key });
                    } else if let Some(path) = session.punched(&path, &data) {
                        session.wants.token = true;
                        self.counters.punched += 1;
                        self.counters.paths_validated += 1;
                        self.events.push_back(Event::Moved { session: key, path });
                        self.events.push_back(Event::Validated { session: key });
                        self.arm(key);
                    }
                }
                Ok(Control::Token(token)) => self.tokens.keep(session.card.key, token),
                Ok(Control::Close { code, reason }) => {
                    self.end(now, key, ClosedWhy::Peer { code, reason: reason.to_owned() });
                    return Ok(());
                }
                Ok(Control::LaneOpen { lane, cid, port }) => self.on_lane_open(now, key, lane, cid, port)?,
                Ok(Control::LaneReady { lane, cid, port }) => self.on_lane_ready(now, key, lane, cid, port),
                Ok(Control::LaneRefused { lane }) => self.on_lane_refused(now, key, lane),
                Err(malformed) => {
                    self.fault(now, key, CloseCode::MALFORMED, malformed.0);
                    return Err(DropCause::Malformed);
                }
            }
        }
        // One answer per packet, so that answers are never more bytes than challenges.
        if let Some(data) = challenge {
            if self.responses.len() < PATH_RESPONSES_MAX {
                self.responses.push_back((key, path, data));
            } else {
                self.counters.full += 1;
            }
        }
        if matches!(self.slab.get(key), Some(Slot::Live(session)) if session.wants.any()) {
            self.talk(key);
        }
        Ok(())
    }

    /// Puts a session in line for sending what it wants to say.
    pub(super) fn talk(&mut self, key: SessionKey) {
        if let Some(Slot::Live(session)) = self.slab.get_mut(key)
            && !session.queued
        {
            session.queued = true;
            self.talkers.push_back(key);
        }
    }

    /// Writes one datagram of the session layer into `buf` (at least [`crate::limits::DATAGRAM_MAX`]
    /// bytes): handshakes, cookies, control packets. Says where it goes and how long it is.
    pub fn poll_transmit(&mut self, now: Time, wall: UnixMs, buf: &mut [u8]) -> Option<(Path, usize)> {
        if let Some((path, datagram)) = self.replies.pop_front() {
            buf[..datagram.len()].copy_from_slice(&datagram);
            return Some((path, datagram.len()));
        }
        while let Some(key) = self.inits.pop_front() {
            if let Some(sent) = self.write_init(now, wall, key, buf) {
                return Some(sent);
            }
        }
        while let Some((key, path, data)) = self.responses.pop_front() {
            if let Some(Slot::Live(session)) = self.slab.get_mut(key)
                && session.closing.is_none()
            {
                let (len, rekeyed) = session.write_response(now, path, data, buf);
                self.counters.rekeys_sent += u64::from(rekeyed);
                return Some((path, len));
            }
        }
        while let Some(&key) = self.talkers.front() {
            if let Some(Slot::Live(session)) = self.slab.get_mut(key) {
                let address = session.paths.active().remote.ip();
                let token = self.tokens.issue(&session.card.key, address, wall);
                if let Some((path, len, rekeyed)) = session.write_control(now, &token, &mut self.rng, buf) {
                    self.counters.rekeys_sent += u64::from(rekeyed);
                    return Some((path, len));
                }
                // What is still wanted waits for the path's budget; the next packet brings it back.
                session.queued = false;
            }
            self.talkers.pop_front();
        }
        None
    }
}

impl Session {
    /// The initiator's first packet, and its repetitions until the responder is heard: without one the
    /// responder's session would end.
    pub(super) fn start_confirming(&mut self, now: Time) {
        self.wants.ping = true;
        self.wants.token = true;
        self.confirming = Some(now + Duration::from_millis(CONFIRM_MS));
    }

    /// Repeats it when that is due.
    pub(super) fn confirm_again(&mut self, now: Time) {
        if self.confirming.take_if(|at| *at <= now).is_some() {
            self.wants.ping = true;
            self.confirming = Some(now + Duration::from_millis(CONFIRM_MS));
        }
    }
}

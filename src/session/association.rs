//! The state of one established session, and the sealing of its packets.

use std::time::Duration;

use super::home::Lanes;
use super::knock::Belongs;
use super::lane::Lane;
use super::path::Paths;
use crate::base::{Path, Rng, Time};
use crate::crypto::identity::header_mask;
use crate::crypto::{IdentityCard, MaskKey};
use crate::limits::{
    CLOSE_LINGER_MS, CLOSE_REPEATS_MAX, CONTROL_PADDING_MAX, DATAGRAM_MIN, HEADER_SIZE, KEEPALIVE_MS,
    LANE_IDLE_MS_MAX, PACKET_OVERHEAD, SESSION_IDLE_MS_MAX, UNCONFIRMED_MS_MAX,
};
use crate::sys::hint;
use crate::wire::control::{CloseCode, Control};
use crate::wire::packet::{KIND_AT, PAYLOAD_AT, PacketKind, split_sample, toggle_mask};

/// What the session itself wants to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) ping: bool,
    pub(super) pong: bool,
    /// The open challenge, on the active path.
    pub(super) challenge: bool,
    /// Any challenge, on the fallback: whoever is there answers, and so comes back.
    pub(super) probe: bool,
    /// An address token for the peer.
    pub(super) token: bool,
    /// What there is to say of lanes.
    pub(super) lanes: bool,
    /// A packet straight to the peer's shard, past the homes.
    pub(super) knock: bool,
    /// Challenges to where the peer may be, past a relay.
    pub(super) punch: bool,
    pub(super) close: bool,
}

impl Wants {
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// A session that was closed here and still answers packets with its close.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) code: CloseCode,
    pub(super) reason: String,
    pub(super) until: Time,
    pub(super) repeats: u8,
}

/// 2 KiB at most, all told (tested): the expanded keys are most of it.
pub(super) struct Session {
    pub(super) card: IdentityCard,
    pub(super) lane: Lane,
    pub(super) paths: Paths,
    pub(super) cid: u64,
    pub(super) initiator: bool,
    /// Whether the peer is known to have the session too.
    pub(super) confirmed: bool,
    /// Counts up over the sessions of a shard: which of two is younger.
    pub(super) birth: u64,
    pub(super) keepalive: bool,
    pub(super) wants: Wants,
    /// Whether it is in line for sending control packets.
    pub(super) queued: bool,
    /// Where the timer set holds this session.
    pub(super) armed: Option<Time>,
    pub(super) began: Time,
    pub(super) heard: Time,
    pub(super) spoke: Time,
    /// Whether something was said since the peer was heard, answers and questions to where perhaps nobody is left out.
    pub(super) unanswered: bool,
    /// The next confirming ping.
    pub(super) confirming: Option<Time>,
    pub(super) closing: Option<Box<Closing>>,
    /// Its further lanes; none where this is a further lane itself.
    pub(super) lanes: Option<Box<Lanes>>,
    /// Whose further lane this is.
    pub(super) belongs: Option<Box<Belongs>>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    mask: MaskKey,
    remote_cid: u64,
}

/// What a new session starts from.
pub(super) struct Birth {
    pub(super) card: IdentityCard,
    pub(super) lane: Lane,
    pub(super) paths: Paths,
    pub(super) cid: u64,
    pub(super) remote_cid: u64,
    pub(super) initiator: bool,
    pub(super) birth: u64,
}

impl Session {
    pub(super) fn new(birth: Birth, now: Time) -> Self {
        Self {
            mask: header_mask(&birth.card.key),
            card: birth.card,
            lane: birth.lane,
            paths: birth.paths,
            cid: birth.cid,
            remote_cid: birth.remote_cid,
            initiator: birth.initiator,
            confirmed: false,
            birth: birth.birth,
            keepalive: false,
            wants: Wants::default(),
            queued: false,
            armed: None,
            began: now,
            heard: now,
            spoke: now,
            unanswered: false,
            confirming: None,
            closing: None,
            lanes: None,
            belongs: None,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Has the processor fetch what opening a packet needs, in two steps: the second follows pointers that the first fetches.
    pub(super) fn expect_opening(&self, step: usize) {
        self.lane.expect_opening(step);
        if step == 0 {
            hint::prefetch(&self.paths);
            hint::prefetch(&self.heard);
            hint::prefetch(&self.confirmed);
        }
    }

    /// Has the processor fetch what sealing a packet needs, all at once instead of line by line.
    pub(super) fn expect_sealing(&self) {
        self.lane.expect_sealing();
        hint::prefetch(&self.mask);
        hint::prefetch(&self.paths);
    }

    /// When [`super::Sessions::handle_timeout`] has something to do here, as far as is known now. Sending
    /// and receiving only ever make it later, so that packets need not touch the timer set.
    pub(super) fn deadline(&self) -> Time {
        if let Some(closing) = &self.closing {
            return closing.until;
        }
        let mut at = self.heard + Duration::from_millis(self.idle_ms_max());
        if !self.confirmed {
            at = at.min(self.began + Duration::from_millis(UNCONFIRMED_MS_MAX));
        }
        if self.keepalive {
            at = at.min(self.keepalive_at());
        }
        let lanes = self.lanes.as_ref().and_then(|lanes| lanes.deadline());
        let knock = self.belongs.as_ref().and_then(|belongs| belongs.knock_at());
        let relayed = self.lanes.as_ref().and_then(|lanes| lanes.relayed.as_ref());
        let punch = relayed.and_then(|relayed| relayed.deadline(&self.paths.active()));
        let others = [self.lane.erase_at(), self.paths.deadline(), self.confirming, lanes, knock, punch];
        others.into_iter().flatten().fold(at, Time::min)
    }

    /// The silence that ends it, milliseconds.
    pub(super) fn idle_ms_max(&self) -> u64 {
        if self.belongs.is_some() { LANE_IDLE_MS_MAX } else { SESSION_IDLE_MS_MAX }
    }

    pub(super) fn keepalive_at(&self) -> Time {
        self.spoke + Duration::from_millis(KEEPALIVE_MS)
    }

    /// Seals a packet of at least [`PACKET_OVERHEAD`] bytes where it lies. Returns its number and whether
    /// it began an epoch.
    pub(super) fn seal(&mut self, now: Time, kind: PacketKind, packet: &mut [u8]) -> (u64, bool) {
        packet[KIND_AT] = kind as u8;
        let sealed = self.lane.seal(now, self.remote_cid, kind.series(), packet);
        let (mut header, sample) = split_sample(packet).expect("the caller checked the length");
        toggle_mask(&mut header, &self.mask.mask(sample));
        packet[..HEADER_SIZE].copy_from_slice(&header);
        (self.spoke, self.unanswered) = (now, true);
        self.sent_bytes += packet.len() as u64;
        sealed
    }

    /// Writes one control packet with as many of the wanted messages as fit into the path's budget;
    /// what was written is wanted no longer. Returns the path, the length, and whether it began an epoch.
    pub(super) fn write_control(
        &mut self,
        now: Time,
        token: &[u8],
        rng: &mut Rng,
        buf: &mut [u8],
    ) -> Option<(Path, usize, bool)> {
        if std::mem::take(&mut self.wants.probe)
            && let Some(fallback) = self.paths.fallback()
        {
            let end = PAYLOAD_AT + Control::Challenge(rng.bytes()).put(&mut buf[PAYLOAD_AT..])?;
            let (len, rekeyed) = self.aside(|own| own.finish_control(now, end, buf.len(), rng, buf));
            return Some((fallback, len, rekeyed));
        }
        if std::mem::take(&mut self.wants.knock)
            && let Some(straight) = self.belongs.as_ref().and_then(|belongs| belongs.knocks_at())
        {
            let end = PAYLOAD_AT + Control::Ping.put(&mut buf[PAYLOAD_AT..])?;
            let (len, rekeyed) = self.aside(|own| own.finish_control(now, end, buf.len(), rng, buf));
            return Some((straight, len, rekeyed));
        }
        if self.wants.punch {
            if let Some((path, data)) = self.relayed().and_then(|relayed| relayed.next(now)) {
                let end = PAYLOAD_AT + Control::Challenge(data).put(&mut buf[PAYLOAD_AT..])?;
                let (len, rekeyed) = self.aside(|own| own.finish_control(now, end, buf.len(), rng, buf));
                return Some((path, len, rekeyed));
            }
            self.wants.punch = false;
        }
        let budget = usize::try_from(self.paths.budget()).unwrap_or(usize::MAX);
        let limit = buf.len().min(DATAGRAM_MIN).min(budget);
        if limit < PACKET_OVERHEAD {
            return None;
        }
        let mut pong = 0;
        let mut body = Body { buf: &mut buf[..limit - (PACKET_OVERHEAD - PAYLOAD_AT)], at: PAYLOAD_AT };
        if let Some(closing) = self.closing.as_deref().filter(|_| self.wants.close) {
            body.put(&mut self.wants.close, &Control::Close { code: closing.code, reason: &closing.reason });
        } else if self.closing.is_none() {
            match self.paths.challenge() {
                Some(data) => body.put(&mut self.wants.challenge, &Control::Challenge(data)),
                None => self.wants.challenge = false,
            }
            pong = body.at;
            body.put(&mut self.wants.pong, &Control::Pong);
            pong = body.at - pong;
            body.put(&mut self.wants.ping, &Control::Ping);
            if self.paths.is_validated() {
                body.put(&mut self.wants.token, &Control::Token(token));
            }
            if self.wants.lanes
                && let Some(lanes) = &mut self.lanes
            {
                self.wants.lanes = !lanes.say(|control| {
                    let mut wanted = true;
                    body.put(&mut wanted, control);
                    !wanted
                });
            } else {
                self.wants.lanes = false;
            }
        }
        let end = body.at;
        if end == PAYLOAD_AT {
            return None;
        }
        let (len, rekeyed) = match end == PAYLOAD_AT + pong {
            true => self.aside(|own| own.finish_control(now, end, limit, rng, buf)),
            false => self.finish_control(now, end, limit, rng, buf),
        };
        self.paths.sent(len);
        Some((self.paths.active(), len, rekeyed))
    }

    /// Sends what nothing need be heard after: an answer, or a question to where perhaps nobody is.
    fn aside<T>(&mut self, send: impl FnOnce(&mut Self) -> T) -> T {
        let unanswered = self.unanswered;
        let sent = send(self);
        self.unanswered = unanswered;
        sent
    }

    /// Writes the answer to a challenge. Not padded: it must not be longer than the challenge was.
    pub(super) fn write_response(
        &mut self,
        now: Time,
        path: Path,
        data: [u8; 8],
        buf: &mut [u8],
    ) -> (usize, bool) {
        let size = Control::Response(data).put(&mut buf[PAYLOAD_AT..]).expect("buffers hold a datagram");
        let len = PACKET_OVERHEAD + size;
        let (_, rekeyed) = self.aside(|own| own.seal(now, PacketKind::Control, &mut buf[..len]));
        if path.remote == self.paths.active().remote {
            self.paths.sent(len);
        }
        (len, rekeyed)
    }

    /// Pads the payload that ends at `end`, within `limit` bytes in all, and seals.
    fn finish_control(
        &mut self,
        now: Time,
        end: usize,
        limit: usize,
        rng: &mut Rng,
        buf: &mut [u8],
    ) -> (usize, bool) {
        let len = end + (PACKET_OVERHEAD - PAYLOAD_AT);
        let room = (limit - len).min(CONTROL_PADDING_MAX);
        let padding = rng.below(room as u64 + 1) as usize;
        buf[end..end + padding].fill(0);
        let (_, rekeyed) = self.seal(now, PacketKind::Control, &mut buf[..len + padding]);
        (len + padding, rekeyed)
    }
}

struct Body<'a> {
    buf: &'a mut [u8],
    at: usize,
}

impl Body<'_> {
    /// Writes a wanted message when it fits; it stays wanted otherwise.
    fn put(&mut self, wanted: &mut bool, control: &Control<'_>) {
        if *wanted && let Some(size) = control.put(&mut self.buf[self.at..]) {
            self.at += size;
            *wanted = false;
        }
    }
}

impl Closing {
    pub(super) fn new(code: CloseCode, reason: String, now: Time) -> Self {
        let until = now + Duration::from_millis(CLOSE_LINGER_MS);
        Self { code, reason, until, repeats: CLOSE_REPEATS_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_small() {
        let size = size_of::<Session>();
        assert!(
            size <= 2048,
            "{size} bytes; keys {}, mask {}",
            size_of::<crate::crypto::AeadKey>(),
            size_of::<MaskKey>()
        );
    }
}

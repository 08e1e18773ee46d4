//! The responder's side of the handshake (docs/protocol/session.md §2, §4, §5). Costs rise step by step,
//! and each step is taken only after the one before: one AES block, one AEAD, a lookup, one MAC, and then
//! Diffie-Hellman. What an observer recorded of a handshake that came about ends before the MAC: it takes nothing
//! from those who may come, and is not answered. A first flight that was not accepted is as good as new for 30 s.

use std::time::Duration;

use super::association::{Birth, Session};
use super::disguise::{self, BODY_AT, COOKIE_SIZE, Disguise, OVERHEAD, OuterNonce, STAMP_SIZE};
use super::gate::Admission;
use super::home::Lanes;
use super::lane::Lane;
use super::noise::{self, SECOND_OVERHEAD};
use super::path::Paths;
use super::sessions::{Sessions, Slot};
use super::shards::{Cross, Flight, Offer};
use super::token::TOKEN_SIZE;
use super::types::{ClosedWhy, DropCause, Event, Received, SessionKey};
use crate::base::{Path, Time, UnixMs};
use crate::crypto::{Secret, Suite, dh};
use crate::limits::{
    CID_SIZE, CLOCK_SKEW_MS_MAX, DATAGRAM_MIN, HANDSHAKE_INIT_MIN, HANDSHAKE_QUEUE_MAX, HEADER_SIZE,
    TAG_SIZE, UNCONFIRMED_MS_MAX,
};
use crate::wire::handshake::{INIT, Init, REPLY, Reply};

/// Random padding of a REPLY at most, bytes: enough to blur it, and most of the budget is left for the
/// answer to early data.
const REPLY_PADDING_MAX: usize = 255;
const REPLY_MAX: usize = OVERHEAD + CID_SIZE + SECOND_OVERHEAD + 13 + TOKEN_SIZE + REPLY_PADDING_MAX;
const _: () = assert!(REPLY_MAX < HANDSHAKE_INIT_MIN, "answers are smaller than questions");
const _: () = assert!(disguise::COOKIE_DATAGRAM_MAX < HANDSHAKE_INIT_MIN);

impl Sessions {
    /// A datagram that bears our disguise's INIT marker.
    pub(super) fn on_init(
        &mut self,
        now: Time,
        wall: UnixMs,
        path: Path,
        header: &[u8; HEADER_SIZE],
        bytes: &mut [u8],
    ) -> Result<Received, DropCause> {
        if !(HANDSHAKE_INIT_MIN..=DATAGRAM_MIN).contains(&bytes.len()) {
            return Err(DropCause::Malformed);
        }
        let (nonce, body) = self.disguise.open(header, bytes).ok_or(DropCause::Forged)?;
        let (stamp, rest) = bytes[body].split_first_chunk::<STAMP_SIZE>().ok_or(DropCause::Malformed)?;
        let (cookie, message) = rest.split_first_chunk::<COOKIE_SIZE>().ok_or(DropCause::Malformed)?;
        if !is_fresh(UnixMs(u64::from_le_bytes(*stamp)), wall) {
            return Err(DropCause::Skewed);
        }
        let ephemeral = *message.first_chunk().ok_or(DropCause::Malformed)?;
        if self.seen.contains(&ephemeral) {
            return Err(DropCause::Replayed);
        }
        let proven = match self.gate.admit(now, path.remote, cookie, &mut self.rng) {
            Admission::Admit { proven } => proven,
            Admission::Refuse => return Err(DropCause::RateLimited),
            // It would show that somebody is here to whoever has our identity.
            Admission::Cookie(_) if self.door.is_some() => return Err(DropCause::RateLimited),
            Admission::Cookie(cookie) => return self.send_cookie(path, &nonce, &cookie),
        };
        if self.replies.len() >= HANDSHAKE_QUEUE_MAX || self.slab.is_full() || !self.peers.has_room() {
            return Err(DropCause::Full);
        }
        let mut payload = [0; DATAGRAM_MIN];
        let config = &self.config;
        let (offered, remote_static, len) =
            noise::receive(&config.identity, &config.network, &mut self.rng, message, &mut payload)
                .map_err(|_| DropCause::Forged)?;
        let init = Init::parse(&payload[..len]).map_err(|_| DropCause::Malformed)?;
        self.judge(wall, &init, &remote_static)?;
        // Here too when another shard answers it, so that recorded ones cost no Diffie-Hellman again.
        if !self.seen.insert(now, ephemeral) {
            return Err(DropCause::Full);
        }
        let flight = Flight { path, from: self.shards.index, proven, ephemeral, len: bytes.len() };
        let home = self.shards.home(&init.card.key);
        if home != self.shards.index {
            let offer = Offer { flight, offered, payload: payload[..len].into() };
            self.cross(now, home, Cross::Offer(Box::new(offer)));
            return Ok(Received::Handled);
        }
        let early = init.early;
        let Some(session) = self.on_flight(now, wall, flight, init, offered)? else {
            return Ok(Received::Handled);
        };
        bytes[..early.len()].copy_from_slice(early);
        Ok(Received::Early { session, payload: 0..early.len() })
    }

    /// A first flight that came to another shard's port, whose sender's home this is. The session and the request,
    /// when that was taken.
    pub(super) fn on_offer(
        &mut self,
        now: Time,
        wall: UnixMs,
        offer: Offer,
    ) -> Result<Option<(SessionKey, Vec<u8>)>, DropCause> {
        let Offer { flight, offered, payload } = offer;
        if !self.gate.admit_offer(now, flight.proven) {
            return Err(DropCause::RateLimited);
        }
        if self.slab.is_full() || !self.peers.has_room() || !self.seen.insert(now, flight.ephemeral) {
            return Err(DropCause::Full);
        }
        let init = Init::parse(&payload).map_err(|_| DropCause::Malformed)?;
        let early = init.early.to_vec();
        let session = self.on_flight(now, wall, flight, init, offered)?;
        Ok(session.map(|session| (session, early)))
    }

    /// A first flight that is new and acceptable. The session, when its request was taken.
    fn on_flight(
        &mut self,
        now: Time,
        wall: UnixMs,
        flight: Flight,
        init: Init<'_>,
        offered: noise::Offered,
    ) -> Result<Option<SessionKey>, DropCause> {
        let Flight { path, from, proven, len, .. } = flight;
        // The shard that it came to may have heard later than this one.
        if !self.is_admitted(&init.card.key) {
            return Err(DropCause::Uninvited);
        }
        self.yield_or_insist(now, path, &init)?;
        let ip = path.remote.ip();
        let paths = if proven {
            Paths::validated(path)
        } else if self.tokens.verify(&init.card.key, ip, wall, init.token) {
            Paths::unproven(path, len).credited(self.tokens.credit(ip, now))
        } else {
            Paths::unproven(path, len)
        };
        self.accept(now, wall, from, paths, init, offered)
    }

    /// Whether an authentic first flight is acceptable.
    fn judge(&self, wall: UnixMs, init: &Init<'_>, remote_static: &[u8; 32]) -> Result<(), DropCause> {
        if !is_fresh(init.timestamp, wall) {
            return Err(DropCause::Skewed);
        }
        let ourselves = init.card.key == self.config.identity.card().key;
        let same_key = dh::montgomery(&init.card.key).is_some_and(|key| key == *remote_static);
        if ourselves || !same_key || init.card.check(self.config.place_floor_bits).is_err() {
            return Err(DropCause::Refused);
        }
        if self.is_admitted(&init.card.key) { Ok(()) } else { Err(DropCause::Uninvited) }
    }

    /// Simultaneous open: of two handshakes at once between the same peers, that of the lower public key
    /// goes on. The other side's first flight at least shows where it can be reached.
    fn yield_or_insist(&mut self, now: Time, path: Path, init: &Init<'_>) -> Result<(), DropCause> {
        let Some(key) = self.peers.pending(&init.card.key) else { return Ok(()) };
        let Some(Slot::Pending(pending)) = self.slab.get_mut(key) else { return Ok(()) };
        if self.config.identity.card().key < init.card.key {
            if pending.hurry(path) {
                self.queue_init(key);
            }
            return Err(DropCause::Late);
        }
        // Ours rests until theirs is confirmed, or turns out not to be.
        for cid in pending.pause(now + Duration::from_millis(UNCONFIRMED_MS_MAX)) {
            self.cids.remove(&cid);
        }
        Ok(())
    }

    fn send_cookie(
        &mut self,
        path: Path,
        nonce: &OuterNonce,
        cookie: &[u8; COOKIE_SIZE],
    ) -> Result<Received, DropCause> {
        // Half of the queue is for those who need no cookie any more.
        if self.replies.len() >= HANDSHAKE_QUEUE_MAX / 2 {
            return Err(DropCause::Full);
        }
        let key = self.disguise.cookie_key(nonce);
        let datagram = disguise::write_cookie(&key, cookie, &mut self.rng);
        self.replies.push_back((path, datagram));
        self.counters.cookies_sent += 1;
        Ok(Received::Handled)
    }

    fn accept(
        &mut self,
        now: Time,
        wall: UnixMs,
        from: u8,
        mut paths: Paths,
        init: Init<'_>,
        offered: noise::Offered,
    ) -> Result<Option<SessionKey>, DropCause> {
        let (peer, path) = (init.card.key, paths.active());
        let suite = match (init.aes, self.config.suite) {
            (true, Suite::Aes256Gcm) => Suite::Aes256Gcm,
            _ => Suite::ChaCha20Poly1305,
        };
        let fresh = init.timestamp.min(wall) >= self.config.refuse_early_until;
        let early_accepted = !init.early.is_empty() && fresh;
        let cid = self.fresh_cid();
        let home_port = self.config.home_port;
        let token: [u8; TOKEN_SIZE] = self.tokens.issue(&peer, path.remote.ip(), wall);
        let reply = Reply {
            cid,
            aes: suite == Suite::Aes256Gcm,
            early_accepted,
            home_port: if home_port == path.local.port() { 0 } else { home_port },
            token: &token,
        };
        let (secret, datagram) = self.write_reply(&init, offered, &reply)?;

        paths.sent(datagram.len());
        let birth = self.next_birth();
        let lane = Lane::new(&secret, 0, false, suite, now);
        let parts =
            Birth { card: init.card, lane, paths, cid, remote_cid: init.cid, initiator: false, birth };
        let mut session = Session::new(parts, now);
        session.lanes = Some(Box::new(Lanes::new(secret, suite)));
        session.note_relayed(now);
        let key = self.slab.insert(Slot::Live(Box::new(session))).ok_or(DropCause::Full)?;
        self.cids.insert(cid, key);
        if let Some(oldest) = self.peers.add_unconfirmed(peer, key) {
            self.end(now, oldest, ClosedWhy::Unconfirmed);
        }
        self.arm(key);
        // From the socket that the question came to: no translator or firewall lets another's answer in.
        if from == self.shards.index {
            self.replies.push_back((path, datagram));
        } else {
            self.cross(now, from, Cross::Reply { path, datagram });
        }
        self.counters.handshakes_in += 1;
        self.events.push_back(Event::Established {
            session: key,
            initiator: false,
            card: init.card,
            lane: 0,
        });
        if early_accepted {
            self.counters.early_accepted += 1;
            return Ok(Some(key));
        }
        self.counters.early_refused += u64::from(!init.early.is_empty());
        Ok(None)
    }

    fn write_reply(
        &mut self,
        init: &Init<'_>,
        offered: noise::Offered,
        reply: &Reply<'_>,
    ) -> Result<(Secret, Vec<u8>), DropCause> {
        let mut payload = [0; DATAGRAM_MIN];
        let padding = self.rng.below(REPLY_PADDING_MAX as u64 + 1) as usize;
        let payload = &mut payload[..reply.size() + padding];
        reply.emit(payload).ok_or(DropCause::Malformed)?;
        let mut datagram = vec![0; OVERHEAD + CID_SIZE + SECOND_OVERHEAD + payload.len()];
        let end = datagram.len() - TAG_SIZE;
        let (to, message) = datagram[BODY_AT..end].split_at_mut(CID_SIZE);
        to.copy_from_slice(&init.cid.to_le_bytes());
        let secret = offered.answer(payload, message).map_err(|_| DropCause::Forged)?;
        Disguise::of(&init.card.key).seal(REPLY, &mut self.rng, &mut datagram);
        Ok((secret, datagram))
    }

    /// A connection id that names nothing yet.
    pub(super) fn fresh_cid(&mut self) -> u64 {
        loop {
            let cid = self.shards.cid(self.rng.next_u64());
            if cid != INIT && cid != REPLY && !self.cids.contains_key(&cid) {
                return cid;
            }
        }
    }

    pub(super) fn next_birth(&mut self) -> u64 {
        self.births += 1;
        self.births
    }
}

fn is_fresh(stamp: UnixMs, wall: UnixMs) -> bool {
    stamp.distance(wall) <= Duration::from_millis(CLOCK_SKEW_MS_MAX)
}

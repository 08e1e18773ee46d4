//! The initiator's side of the handshake (docs/protocol/session.md §2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::association::{Birth, Session};
use super::disguise::{self, BODY_AT, COOKIE_SIZE, OVERHEAD, STAMP_SIZE};
use super::home::Lanes;
use super::lane::Lane;
use super::noise::{self, FIRST_OVERHEAD};
use super::path::Paths;
use super::pending::{Attempt, Pending};
use super::sessions::{Sessions, Slot};
use super::types::{ConnectError, DropCause, Event, FailedWhy, Received, SessionKey};
use crate::base::{Path, Time, UnixMs};
use crate::crypto::{IdentityCard, Secret, Suite, dh};
use crate::limits::{
    ADDRESS_TOKEN_SIZE_MAX, CID_SIZE, COOKIE_TRIALS_MAX, DATAGRAM_MIN, EARLY_DATA_MAX, HANDSHAKE_INIT_MIN,
    HANDSHAKES_OUT_MAX, HEADER_SIZE, TAG_SIZE,
};
use crate::wire::handshake::{INIT, Init, Reply};

/// What a first flight holds beside its payload.
const INIT_OVERHEAD: usize = OVERHEAD + STAMP_SIZE + COOKIE_SIZE + FIRST_OVERHEAD;
const _: () = assert!(INIT_OVERHEAD + 69 + ADDRESS_TOKEN_SIZE_MAX + EARLY_DATA_MAX <= DATAGRAM_MIN);

impl Sessions {
    /// Starts a handshake with the peer that `card` names, at any of `addresses` (best first; the first
    /// answer wins). `early` is an idempotent request for the first flight, may be empty, and may reach
    /// the peer more than once. The key names the session as soon as `Established` says so.
    ///
    /// With a session to the peer already, the new one takes its place once it is confirmed.
    pub fn connect(
        &mut self,
        now: Time,
        _wall: UnixMs,
        card: &IdentityCard,
        addresses: &[SocketAddr],
        early: &[u8],
    ) -> Result<SessionKey, ConnectError> {
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        if early.len() > EARLY_DATA_MAX {
            return Err(ConnectError::EarlyTooLong);
        }
        if card.key == self.config.identity.card().key || dh::montgomery(&card.key).is_none() {
            return Err(ConnectError::BadKey);
        }
        if !self.is_admitted(&card.key) {
            return Err(ConnectError::Uninvited);
        }
        if let Some(pending) = self.peers.pending(&card.key) {
            return Err(ConnectError::Connecting(pending));
        }
        if self.peers.pending_len() >= HANDSHAKES_OUT_MAX {
            return Err(ConnectError::Full);
        }
        let pending = Pending::new(*card, addresses, early, now);
        let key = self.slab.insert(Slot::Pending(Box::new(pending))).ok_or(ConnectError::Full)?;
        self.peers.set_pending(card.key, key);
        self.counters.handshakes_started += 1;
        self.queue_init(key);
        self.arm(key);
        Ok(key)
    }

    /// Puts a handshake in line for sending a first flight.
    pub(super) fn queue_init(&mut self, key: SessionKey) {
        if let Some(Slot::Pending(pending)) = self.slab.get_mut(key)
            && !pending.queued
        {
            pending.queued = true;
            self.inits.push_back(key);
        }
    }

    /// A handshake's timer fired.
    pub(super) fn pending_due(&mut self, now: Time, key: SessionKey) {
        let Some(Slot::Pending(pending)) = self.slab.get(key) else { return };
        if pending.is_over(now) {
            self.fail(key, FailedWhy::NoAnswer);
        } else if pending.is_due(now) {
            self.queue_init(key);
        }
    }

    /// Ends a handshake of ours without a session.
    pub(super) fn fail(&mut self, key: SessionKey, why: FailedWhy) {
        let Some(Slot::Pending(pending)) = self.slab.get(key) else { return };
        let (peer, armed) = (pending.card.key, pending.armed);
        self.drop_attempts(key);
        self.disarm(key, armed);
        self.peers.forget(&peer, key);
        self.slab.remove(key);
        self.counters.handshakes_failed += 1;
        self.events.push_back(Event::Failed { session: key, why });
    }

    /// Takes what is in the tables for a handshake out of them.
    fn drop_attempts(&mut self, key: SessionKey) {
        let Some(Slot::Pending(pending)) = self.slab.get_mut(key) else { return };
        for attempt in &pending.attempts {
            self.cids.remove(&attempt.cid);
        }
        for host in pending.hosts() {
            self.hosts.remove(&(host, key));
        }
    }

    /// Writes the next first flight, each with an ephemeral key, time stamp and connection id of its own.
    pub(super) fn write_init(
        &mut self,
        now: Time,
        wall: UnixMs,
        key: SessionKey,
        buf: &mut [u8],
    ) -> Option<(Path, usize)> {
        let cid = self.fresh_cid();
        let Some(Slot::Pending(pending)) = self.slab.get_mut(key) else { return None };
        pending.queued = false;
        if !pending.is_due(now) {
            return None;
        }
        let (remote, cookie) = pending.next_address(now, &mut self.rng);
        let config = &self.config;
        let init = Init {
            timestamp: wall,
            card: *config.identity.card(),
            cid,
            aes: config.suite == Suite::Aes256Gcm,
            token: self.tokens.of(&pending.card.key),
            early: &pending.early,
        };
        let least = (INIT_OVERHEAD + init.size()).max(HANDSHAKE_INIT_MIN);
        let len = least + self.rng.below((DATAGRAM_MIN - least) as u64 + 1) as usize;
        let mut payload = [0; DATAGRAM_MIN];
        let payload = &mut payload[..len - INIT_OVERHEAD];
        init.emit(payload)?;
        let datagram = &mut buf[..len];
        let (stamp, body) = datagram[BODY_AT..len - TAG_SIZE].split_at_mut(STAMP_SIZE);
        stamp.copy_from_slice(&wall.0.to_le_bytes());
        let (slot, message) = body.split_at_mut(COOKIE_SIZE);
        slot.copy_from_slice(&cookie.unwrap_or_default());
        let peer = &pending.card.key;
        // Cannot be rejected: `connect` checked the key and the sizes are ours.
        let noise =
            noise::initiate(&config.identity, peer, &config.network, &mut self.rng, payload, message).ok()?;
        let nonce = pending.disguise.seal(INIT, &mut self.rng, datagram);
        let path = pending.path_to(remote);
        let attempt = Attempt { cid, nonce, noise, remote, proven: cookie.is_some() };
        if let Some(old) = pending.sent(attempt) {
            self.cids.remove(&old);
        }
        self.cids.insert(cid, key);
        self.hosts.insert((remote.ip().to_canonical(), key));
        self.counters.inits_sent += 1;
        self.arm(key);
        Some((path, len))
    }

    /// A datagram that bears our disguise's REPLY marker.
    pub(super) fn on_reply(
        &mut self,
        now: Time,
        path: Path,
        header: &[u8; HEADER_SIZE],
        bytes: &mut [u8],
    ) -> Result<Received, DropCause> {
        if bytes.len() > DATAGRAM_MIN {
            return Err(DropCause::Malformed);
        }
        let mut sealed = [0; DATAGRAM_MIN];
        let sealed = &mut sealed[..bytes.len()];
        sealed.copy_from_slice(bytes);
        let (_, body) = self.disguise.open(header, bytes).ok_or(DropCause::Forged)?;
        let (to, message) = bytes[body].split_first_chunk::<CID_SIZE>().ok_or(DropCause::Malformed)?;
        let cid = u64::from_le_bytes(*to);
        if let Some(shard) = self.shards.owner(cid) {
            // Another shard's first flight went out here, where its peer had been heard.
            bytes.copy_from_slice(sealed);
            return Ok(Received::Foreign { shard });
        }
        let key = *self.cids.get(&cid).ok_or(DropCause::Late)?;
        let Some(Slot::Pending(pending)) = self.slab.get_mut(key) else { return Err(DropCause::Late) };
        let attempt = pending.attempts.iter_mut().find(|one| one.cid == cid).ok_or(DropCause::Late)?;
        let mut payload = vec![0; message.len()];
        let (len, secret) = attempt.noise.finish(message, &mut payload).map_err(|_| DropCause::Forged)?;
        let reply = Reply::parse(&payload[..len]).map_err(|_| DropCause::Malformed)?;
        if reply.aes && self.config.suite != Suite::Aes256Gcm {
            return Err(DropCause::Malformed);
        }
        // The address that we wrote to is proven; the one in the answer's header is anybody's claim.
        let proven = Path { local: path.local, remote: attempt.remote };
        self.establish(now, key, cid, proven, &secret, reply, bytes.len());
        Ok(Received::Handled)
    }

    #[expect(clippy::too_many_arguments, reason = "the last step of one function, cut for reading")]
    fn establish(
        &mut self,
        now: Time,
        key: SessionKey,
        cid: u64,
        path: Path,
        secret: &Secret,
        reply: Reply<'_>,
        reply_len: usize,
    ) {
        let Some(Slot::Pending(pending)) = self.slab.get(key) else { return };
        let (card, armed, early) = (pending.card, pending.armed, !pending.early.is_empty());
        self.drop_attempts(key);
        self.disarm(key, armed);
        self.tokens.keep(card.key, reply.token);

        let mut paths = Paths::validated(path);
        if reply.home_port != 0 && reply.home_port != path.remote.port() && !path.is_relayed() {
            let remote = SocketAddr::new(path.remote.ip(), reply.home_port);
            paths.prefer(Path { remote, ..path }, reply_len, now, &mut self.rng);
        }
        let suite = if reply.aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        let lane = Lane::new(secret, 0, true, suite, now);
        let lanes = Lanes::new(secret.clone(), suite);
        let birth = self.next_birth();
        let parts = Birth { card, lane, paths, cid, remote_cid: reply.cid, initiator: true, birth };
        let mut session = Session::new(parts, now);
        session.wants.challenge = session.paths.challenge().is_some();
        session.lanes = Some(Box::new(lanes));
        session.note_relayed(now);
        session.start_confirming(now);
        if let Some(slot) = self.slab.get_mut(key) {
            *slot = Slot::Live(Box::new(session));
        }
        self.cids.insert(cid, key);
        self.arm(key);
        self.talk(key);
        self.counters.handshakes_out += 1;
        self.events.push_back(Event::Established { session: key, initiator: true, card, lane: 0 });
        if early && !reply.early_accepted {
            self.events.push_back(Event::EarlyRefused { session: key });
        }
    }

    /// A datagram that names nothing: perhaps a cookie from a host that we write to.
    pub(super) fn on_cookie(&mut self, now: Time, path: Path, bytes: &[u8]) -> Result<Received, DropCause> {
        if self.hosts.is_empty() || !disguise::may_be_cookie(bytes) {
            return Err(DropCause::Stranger);
        }
        let host = path.remote.ip().to_canonical();
        let range = (host, SessionKey(0))..=(host, SessionKey(u32::MAX));
        let mut trials = COOKIE_TRIALS_MAX;
        let mut found = None;
        'search: for (_, key) in self.hosts.range(range) {
            let Some(Slot::Pending(pending)) = self.slab.get(*key) else { continue };
            // The newest attempts first: one of them is what the cookie answers.
            for attempt in pending.attempts.iter().rev().filter(|one| one.remote.ip().to_canonical() == host)
            {
                if trials == 0 {
                    break 'search;
                }
                trials -= 1;
                let disguise = pending.disguise.cookie_key(&attempt.nonce);
                if let Some(cookie) = disguise::read_cookie(&disguise, bytes) {
                    found = Some((*key, attempt.remote, attempt.proven, cookie));
                    break 'search;
                }
            }
        }
        let (key, remote, proven, cookie) = found.ok_or(DropCause::Stranger)?;
        self.counters.cookies_received += 1;
        if let Some(Slot::Pending(pending)) = self.slab.get_mut(key) {
            pending.got_cookie(remote, proven, cookie);
            if pending.is_due(now) {
                self.queue_init(key);
            }
        }
        Ok(Received::Handled)
    }
}

pub(super) fn unspecified(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

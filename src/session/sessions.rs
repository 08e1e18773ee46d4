//! All sessions of one shard: demultiplexing, the per-packet path, time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use super::association::{Closing, Session};
use super::disguise::Disguise;
use super::gate::Gate;
use super::lane::Opened;
use super::lanes::Awaited;
use super::path::Arrival;
use super::peers::Peers;
use super::pending::Pending;
use super::punch::Crossing;
use super::seen::Seen;
use super::shards::{Cross, Shards};
use super::slab::Slab;
use super::token::Tokens;
use super::types::{
    ClosedWhy, Config, Counters, DropCause, Event, FailedWhy, Received, SealError, SessionKey,
};
use crate::base::{Path, PublicKey, Rng, Time, UnixMs};
use crate::crypto::IdentityCard;
use crate::limits::{
    CLOSE_REASON_MAX, EXPECTED_MAX, EXPECTED_SESSIONS_MIN, HEADER_SIZE, PACKET_OVERHEAD, TAG_SIZE,
};
use crate::wire::control::CloseCode;
use crate::wire::handshake::{INIT, REPLY};
use crate::wire::packet::{Header, KIND_AT, PAYLOAD_AT, PacketKind, Series};

/// All sessions of one shard.
///
/// Feed it with [`Self::handle_datagram`] and [`Self::handle_timeout`]. After each call (and after
/// [`Self::connect`] and [`Self::close`]) drain, in this order: [`Self::poll_event`] until `None`,
/// [`Self::poll_transmit`] until `None`, then ask [`Self::poll_timeout`] when to come back.
pub struct Sessions {
    pub(super) config: Config,
    pub(super) rng: Rng,
    /// What is sent to us is disguised like this.
    pub(super) disguise: Disguise,
    /// Our connection ids: of sessions, and of attempts of handshakes.
    pub(super) cids: HashMap<u64, SessionKey, BuildHasherDefault<CidHasher>>,
    pub(super) slab: Slab<Slot>,
    pub(super) peers: Peers,
    /// Handshakes by the hosts that their attempts went to: what a cookie is tried against.
    pub(super) hosts: BTreeSet<(IpAddr, SessionKey)>,
    /// One entry per session: a time at which, or before which, something is due.
    pub(super) timers: BTreeSet<(Time, SessionKey)>,
    pub(super) gate: Gate,
    pub(super) seen: Seen,
    pub(super) tokens: Tokens,
    /// Answers to first flights, ready to send.
    pub(super) replies: VecDeque<(Path, Vec<u8>)>,
    pub(super) responses: VecDeque<(SessionKey, Path, [u8; 8])>,
    /// Handshakes whose first flight is due.
    pub(super) inits: VecDeque<SessionKey>,
    /// Sessions that want to send control packets.
    pub(super) talkers: VecDeque<SessionKey>,
    pub(super) events: VecDeque<Event>,
    pub(super) shards: Shards,
    /// Messages to other shards; at most [`crate::limits::CROSSINGS_MAX`].
    pub(super) crossings: VecDeque<(u8, Cross)>,
    pub(super) counters: Counters,
    pub(super) births: u64,
    /// Who alone is heard and called, if not everybody is.
    pub(super) door: Option<BTreeSet<PublicKey>>,
}

/// What a key names.
pub(super) enum Slot {
    Pending(Box<Pending>),
    Live(Box<Session>),
    Awaited(Box<Awaited>),
}

/// Connection ids are ours: their own bits are the hash, and nobody else can make them collide. The low ones name the
/// shard, so the others come first.
#[derive(Default)]
pub(super) struct CidHasher(u64);

impl Hasher for CidHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, cid: u64) {
        self.0 = cid.rotate_left(32);
    }
}

impl Sessions {
    /// No sessions yet. `rng` is this shard's own.
    pub fn new(config: Config, mut rng: Rng, now: Time) -> Self {
        Self {
            disguise: Disguise::of(&config.identity.card().key),
            tokens: Tokens::new(&config.identity, now),
            gate: Gate::new(now, &mut rng),
            seen: Seen::new(now),
            shards: Shards::new(config.shard.0, config.shard.1, &config.identity),
            door: config.only_friends.then(BTreeSet::new),
            config,
            rng,
            cids: HashMap::default(),
            slab: Slab::new(),
            peers: Peers::default(),
            hosts: BTreeSet::new(),
            timers: BTreeSet::new(),
            replies: VecDeque::new(),
            responses: VecDeque::new(),
            inits: VecDeque::new(),
            talkers: VecDeque::new(),
            events: VecDeque::new(),
            crossings: VecDeque::new(),
            counters: Counters::default(),
            births: 0,
        }
    }

    /// Has the processor fetch what opening these datagrams will need, of all of them at once, while nothing waits for
    /// it. With very many sessions each datagram would otherwise wait for a dozen lines of memory, one after the other. At most
    /// [`EXPECTED_MAX`] are looked at.
    pub fn expect<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        if self.slab.len() < EXPECTED_SESSIONS_MIN {
            return;
        }
        let mut headers = datagrams.map(|bytes| self.disguise.header(bytes));
        let cids: [_; EXPECTED_MAX] =
            std::array::from_fn(|_| headers.next().flatten().map(|raw| Header::parse(&raw).cid));
        // Each step follows what the step before has fetched.
        let keys = cids.map(|cid| cid.and_then(|cid| self.cids.get(&cid).copied()));
        let keys = || keys.iter().flatten();
        keys().for_each(|key| self.slab.expect(*key));
        for step in 0..2 {
            keys().filter_map(|key| self.live(*key)).for_each(|session| session.expect_opening(step));
        }
    }

    /// Opens a datagram where it lies. Whatever the bytes, the next datagram is not affected.
    pub fn handle_datagram(&mut self, now: Time, wall: UnixMs, path: Path, bytes: &mut [u8]) -> Received {
        let outcome = self.demultiplex(now, wall, path, bytes);
        outcome.unwrap_or_else(|cause| {
            self.counters.drop(cause);
            Received::Dropped(cause)
        })
    }

    fn demultiplex(
        &mut self,
        now: Time,
        wall: UnixMs,
        path: Path,
        bytes: &mut [u8],
    ) -> Result<Received, DropCause> {
        let raw = self.disguise.header(bytes).ok_or(DropCause::Stranger)?;
        let header = Header::parse(&raw);
        if let Some(&key) = self.cids.get(&header.cid) {
            return self.on_packet(now, key, header, &raw, path, bytes);
        }
        match header.cid {
            INIT => self.on_init(now, wall, path, &raw, bytes),
            REPLY => self.on_reply(now, path, &raw, bytes),
            cid if let Some(shard) = self.shards.owner(cid) => Ok(Received::Foreign { shard }),
            _ => self.on_cookie(now, path, bytes),
        }
    }

    fn on_packet(
        &mut self,
        now: Time,
        key: SessionKey,
        header: Header,
        raw: &[u8; HEADER_SIZE],
        path: Path,
        bytes: &mut [u8],
    ) -> Result<Received, DropCause> {
        // A packet that overtook the REPLY cannot be opened yet; its sender will send it again.
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return Err(DropCause::Late) };
        session.expect_opening(0);
        let opened = session.lane.open(now, header, raw, bytes)?;
        (session.heard, session.unanswered) = (now, false);
        session.received_bytes += bytes.len() as u64;
        let usual = session.confirmed
            && !opened.rekeyed
            && session.closing.is_none()
            && session.paths.is_settled(&path);
        if !usual && !self.on_unusual(now, key, opened, path, bytes.len()) {
            return Ok(Received::Handled);
        }
        let payload = PAYLOAD_AT..bytes.len() - TAG_SIZE;
        match PacketKind::from_byte(bytes[KIND_AT]) {
            Some(PacketKind::Control) if header.series == Series::Stream => {
                self.on_control(now, key, path, &bytes[payload])?;
                Ok(Received::Control { session: key, number: opened.number })
            }
            Some(kind) if kind.series() == header.series => {
                Ok(Received::Packet { session: key, number: opened.number, kind, payload })
            }
            Some(_) | None => {
                self.fault(now, key, CloseCode::MALFORMED, "unknown packet type");
                Err(DropCause::Malformed)
            }
        }
    }

    /// What few packets need: the first of a session, of an epoch, from an address, after a close. False
    /// when the packet's content is of no use.
    #[cold]
    fn on_unusual(&mut self, now: Time, key: SessionKey, opened: Opened, path: Path, len: usize) -> bool {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return false };
        if let Some(closing) = session.closing.as_mut() {
            if closing.repeats > 0 {
                closing.repeats -= 1;
                session.wants.close = true;
                self.talk(key);
            }
            return false;
        }
        if !session.confirmed && !self.confirm(now, key, path) {
            return false;
        }
        self.arrived(now, key, path, len, opened.highest);
        self.counters.rekeys_received += u64::from(opened.rekeyed);
        self.arm(key);
        true
    }

    /// The first authentic packet of a session. False when the session lost to a younger one and is gone.
    fn confirm(&mut self, now: Time, key: SessionKey, path: Path) -> bool {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return false };
        session.confirmed = true;
        session.confirming = None;
        if session.belongs.is_some() {
            // A further lane. Its first packet proves nothing of its address: the peer has had all keys before it
            // received anything there.
            self.events.push_back(Event::Confirmed { session: key });
            return true;
        }
        let (card, birth) = (session.card, session.birth);
        if session.paths.active().remote == path.remote {
            session.paths.validate();
        }
        // Both sides see the sessions between them begin in the same order (docs/protocol/session.md §2), so
        // both keep the same one.
        if let Some(current) = self.peers.current(&card.key)
            && let Some(Slot::Live(other)) = self.slab.get(current)
            && other.birth > birth
        {
            self.end(now, key, ClosedWhy::Replaced);
            return false;
        }
        self.counters.confirmed += 1;
        self.peers.forget(&card.key, key);
        if let Some(before) = self.peers.set_current(card.key, key) {
            self.end(now, before, ClosedWhy::Replaced);
        }
        // Its initiator chose this one; older ones of the same handshake are of no use.
        for other in self.peers.unconfirmed(&card.key).to_vec() {
            if matches!(self.slab.get(other), Some(Slot::Live(other)) if other.birth < birth) {
                self.end(now, other, ClosedWhy::Replaced);
            }
        }
        if let Some(pending) = self.peers.pending(&card.key) {
            self.fail(pending, FailedWhy::Superseded(key));
        }
        self.events.push_back(Event::Confirmed { session: key });
        true
    }

    fn arrived(&mut self, now: Time, key: SessionKey, path: Path, len: usize, highest: bool) {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return };
        if session.is_detour(now, &path, len, self.config.home_port) {
            return;
        }
        match session.cross_over(now, &path, len, &mut self.rng) {
            Crossing::None => {}
            Crossing::Ignored => return,
            Crossing::Punch => {
                session.wants.punch = true;
                return self.talk(key);
            }
        }
        match session.follow(now, path, len, highest, self.config.home_port, &mut self.rng) {
            Arrival::Same => {}
            Arrival::Challenge => session.wants.challenge = true,
            Arrival::Roamed => {
                session.wants.challenge = true;
                // A lane that leaves the detour knows that the homes are there.
                session.wants.probe = session.paths.fallback().is_some() && session.belongs.is_none();
                self.counters.roams += 1;
                self.events.push_back(Event::Moved { session: key, path });
            }
            Arrival::Returned => {
                self.counters.roams += 1;
                self.events.push_back(Event::Moved { session: key, path });
            }
        }
        session.note_relayed(now);
        // Also when only the budget grew: something may have waited for it.
        if session.wants.any() {
            self.talk(key);
        }
    }

    /// The number that the next sealed packet of streams (or control packet) will have.
    pub fn next_number(&self, key: SessionKey) -> Option<u64> {
        self.live(key).map(|session| session.lane.next_number())
    }

    /// Seals `packet` where it lies, with the next number, for the session's current [`Self::path`]. Its
    /// payload lies at `HEADER_SIZE + 1` and leaves [`TAG_SIZE`] bytes behind it; everything around the
    /// payload is written here. Returns the number.
    pub fn seal(
        &mut self,
        now: Time,
        key: SessionKey,
        kind: PacketKind,
        packet: &mut [u8],
    ) -> Result<u64, SealError> {
        let Some(Slot::Live(session)) = self.slab.get_mut(key) else { return Err(SealError::Unknown) };
        session.expect_sealing();
        if session.closing.is_some() {
            return Err(SealError::Unknown);
        }
        if packet.len() < PACKET_OVERHEAD {
            return Err(SealError::Short);
        }
        if session.paths.budget() < packet.len() as u64 {
            return Err(SealError::Budget);
        }
        let (number, rekeyed) = session.seal(now, kind, packet);
        session.paths.sent(packet.len());
        if kind.series() == Series::Stream {
            session.lane.skip_numbers(&mut self.rng);
        }
        self.counters.rekeys_sent += u64::from(rekeyed);
        Ok(number)
    }

    /// A packet number that was left out on purpose after the last [`Self::seal`]: no packet has it, so nobody
    /// can have received it. Ask before each [`Self::next_number`].
    pub fn take_skipped(&mut self, key: SessionKey) -> Option<u64> {
        match self.slab.get_mut(key) {
            Some(Slot::Live(session)) => session.lane.take_skipped(),
            _ => None,
        }
    }

    fn live(&self, key: SessionKey) -> Option<&Session> {
        match self.slab.get(key) {
            Some(Slot::Live(session)) if session.closing.is_none() => Some(session),
            _ => None,
        }
    }

    /// Where the session's packets go.
    pub fn path(&self, key: SessionKey) -> Option<Path> {
        self.live(key).map(|session| session.paths.active())
    }

    /// Bytes of datagrams that may be sent to the session's path now: no limit (`u64::MAX`) once the
    /// path is validated, zero for what is no session.
    pub fn budget(&self, key: SessionKey) -> u64 {
        self.live(key).map_or(0, |session| session.paths.budget())
    }

    /// Who we are.
    pub fn identity_card(&self) -> &IdentityCard {
        self.config.identity.card()
    }

    /// Who the peer is.
    pub fn card(&self, key: SessionKey) -> Option<&IdentityCard> {
        self.live(key).map(|session| &session.card)
    }

    /// Whether packets can be sealed: the handshake is over and the session is not closed.
    pub fn is_established(&self, key: SessionKey) -> bool {
        self.live(key).is_some()
    }

    /// Whether the peer is known to have the session too: a packet of its came.
    pub fn is_confirmed(&self, key: SessionKey) -> bool {
        self.live(key).is_some_and(|session| session.confirmed)
    }

    /// The session with a peer whose home this is.
    pub fn current(&self, peer: &PublicKey) -> Option<SessionKey> {
        self.peers.current(peer).filter(|key| self.is_established(*key))
    }

    /// The session to use with a peer whose home this is: the one that counts, or ours while the peer is not known to have
    /// it yet.
    pub fn usable(&self, peer: &PublicKey) -> Option<SessionKey> {
        let ours = || self.peers.pending(peer).filter(|key| self.is_established(*key));
        self.current(peer).or_else(ours)
    }

    /// Whether we started the session.
    pub fn is_initiator(&self, key: SessionKey) -> bool {
        self.live(key).is_some_and(|session| session.initiator)
    }

    /// Bytes of datagrams sealed and opened so far: (sent, received).
    pub fn traffic(&self, key: SessionKey) -> Option<(u64, u64)> {
        self.live(key).map(|session| (session.sent_bytes, session.received_bytes))
    }

    /// Whether silence shall be filled with pings, so that neither this session nor a NAT's memory of it
    /// ends.
    pub fn set_keepalive(&mut self, key: SessionKey, wanted: bool) {
        if let Some(Slot::Live(session)) = self.slab.get_mut(key) {
            session.keepalive = wanted;
            self.arm(key);
        }
    }

    /// Ends a session and tells the peer (`reason` is cut to [`CLOSE_REASON_MAX`] bytes), or gives a
    /// handshake up.
    pub fn close(&mut self, now: Time, key: SessionKey, code: CloseCode, reason: &str) {
        self.close_because(now, key, code, reason, ClosedWhy::Local);
    }

    /// The peer broke the protocol.
    pub(super) fn fault(&mut self, now: Time, key: SessionKey, code: CloseCode, reason: &str) {
        self.close_because(now, key, code, reason, ClosedWhy::Fault(code));
    }

    fn close_because(&mut self, now: Time, key: SessionKey, code: CloseCode, reason: &str, why: ClosedWhy) {
        let session = match self.slab.get_mut(key) {
            Some(Slot::Pending(_)) => return self.fail(key, FailedWhy::Cancelled),
            Some(Slot::Awaited(_)) => return self.forget_awaited(key, FailedWhy::Cancelled),
            Some(Slot::Live(session)) if session.closing.is_none() => session,
            _ => return,
        };
        let cut = (0..=reason.len().min(CLOSE_REASON_MAX)).rev().find(|at| reason.is_char_boundary(*at));
        let reason = reason[..cut.unwrap_or(0)].to_owned();
        session.closing = Some(Box::new(Closing::new(code, reason, now)));
        session.wants = Default::default();
        session.wants.close = true;
        let peer = session.card.key;
        self.peers.forget(&peer, key);
        self.counters.closed += 1;
        self.events.push_back(Event::Closed { session: key, why });
        self.leave_lanes(now, key);
        self.arm(key);
        self.talk(key);
    }

    /// Forgets a session; the caller hears of it unless it was closed before.
    pub(super) fn end(&mut self, now: Time, key: SessionKey, why: ClosedWhy) {
        self.leave_lanes(now, key);
        let Some(Slot::Live(session)) = self.slab.get(key) else { return };
        let (peer, cid, armed, told) =
            (session.card.key, session.cid, session.armed, session.closing.is_some());
        self.cids.remove(&cid);
        self.disarm(key, armed);
        self.peers.forget(&peer, key);
        self.slab.remove(key);
        if !told {
            self.counters.closed += 1;
            self.events.push_back(Event::Closed { session: key, why });
        }
    }

    /// Whether [`Self::poll_event`] has something to tell.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Keys in use: sessions (closed ones for a few seconds more) and handshakes of ours.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

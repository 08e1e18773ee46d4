//! One side of sessions, driven as the node drives it, with what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Path, Rng, Time, UnixMs};
use crate::crypto::{Identity, Secret, Suite};
use crate::limits::{AMPLIFICATION_MAX, DATAGRAM_MAX, DATAGRAM_MIN, PACKET_OVERHEAD};
use crate::session::{Config, Event, PacketKind, Received, SealError, SessionKey, Sessions};
use crate::wire::introduction::{Introduction, Introductions, Told};
use crate::wire::overlay::Contact;
use crate::wire::packet::{PAYLOAD_AT, Series};

pub(super) const NETWORK: &[u8] = b"fuzz";
/// Wall-clock time at the origin of the virtual clock.
const EPOCH: u64 = 1_800_000_000_000;
/// Datagrams that the session layer has to send after one thing happened, at most.
const SENT_MAX: usize = 64;

pub(super) fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::new(Secret::from_bytes([seed; 32]), 0, 0))
}

pub(super) fn wall(now: Time) -> UnixMs {
    UnixMs(EPOCH + now.0 / 1_000_000)
}

pub(super) fn address(host: u8) -> SocketAddr {
    ([10, 0, host, 1], 4600).into()
}

/// What a friend tells of a few others.
pub(super) fn introductions(now: Time, count: u8) -> Vec<u8> {
    let expires = (wall(now).0 / 1000) as u32 + 60;
    let told = (0..count).map(|n| {
        let identity = identity(2 + n);
        let contact = Contact::new(*identity.card(), [address(20 + n)]);
        let hand = n.min(2);
        let introduction = Introduction::sign(&identity, contact, 2, expires);
        Told { hand, trust: if hand == 0 { 0 } else { 40 }, introduction }
    });
    Introductions(told.collect()).emit()
}

/// What was received from and sent to one address, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    received: u64,
    sent: u64,
}

pub(super) struct Endpoint {
    pub(super) identity: Arc<Identity>,
    pub(super) sessions: Sessions,
    pub(super) address: SocketAddr,
    /// Keys that were given out and not ended.
    pub(super) alive: BTreeSet<SessionKey>,
    /// Those of them that can send, in the order of their beginning.
    pub(super) established: Vec<SessionKey>,
    /// What it sent and nobody took yet: to whom, and the datagram.
    pub(super) sent: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) traffic: BTreeMap<SocketAddr, Traffic>,
    /// Payload bytes opened: the datagram as it is after [`Self::receive`].
    pub(super) opened: Vec<u8>,
}

impl Endpoint {
    pub(super) fn new(seed: u8, host: u8, suite: Suite, home_port: u16, mut rng: Rng, now: Time) -> Self {
        let identity = identity(seed);
        let config = Config {
            identity: Arc::clone(&identity),
            network: NETWORK.to_vec(),
            place_floor_bits: 0,
            suite,
            home_port,
            only_friends: false,
            refuse_early_until: UnixMs(0),
            shard: (0, 1),
        };
        Self {
            identity,
            sessions: Sessions::new(config, rng.fork(), now),
            address: address(host),
            alive: BTreeSet::new(),
            established: Vec::new(),
            sent: Vec::new(),
            traffic: BTreeMap::new(),
            opened: Vec::new(),
        }
    }

    pub(super) fn connect(
        &mut self,
        now: Time,
        to: &Identity,
        at: &[SocketAddr],
        early: &[u8],
    ) -> Option<SessionKey> {
        let key = self.sessions.connect(now, wall(now), to.card(), at, early).ok();
        if let Some(key) = key {
            assert!(self.alive.insert(key), "a key of its own");
        }
        self.flush(now);
        key
    }

    /// Hands a datagram in. The payload's range is within [`Self::opened`].
    pub(super) fn receive(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) -> Received {
        self.opened.clear();
        self.opened.extend_from_slice(datagram);
        let path = Path { local: self.address, remote: from };
        let before = self.sent.len();
        let received = self.sessions.handle_datagram(now, wall(now), path, &mut self.opened);
        self.traffic.entry(from).or_default().received += datagram.len() as u64;
        self.flush(now);
        match &received {
            Received::Packet { payload, .. } | Received::Early { payload, .. } => {
                assert!(payload.start <= payload.end && payload.end <= datagram.len());
            }
            Received::Dropped(_) => {
                let answers = self.sent[before..].iter().filter(|(to, _)| *to == from);
                // What else was due to that address may go out now; an answer to this would be small.
                assert!(answers.count() <= 1);
            }
            Received::Foreign { .. } => panic!("there is one shard"),
            Received::Control { .. } | Received::Handled => {}
        }
        received
    }

    /// Drains, in the documented order.
    pub(super) fn flush(&mut self, now: Time) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                Event::Established { session, initiator, .. } => {
                    assert_eq!(self.alive.insert(session), !initiator, "connect gave the initiator's key");
                    self.established.push(session);
                }
                Event::Wanted { .. } => panic!("there is one shard"),
                Event::Failed { session, .. } | Event::Closed { session, .. } => {
                    assert!(self.alive.remove(&session), "each key ends once");
                    self.established.retain(|key| *key != session);
                }
                Event::Confirmed { session }
                | Event::Validated { session }
                | Event::EarlyRefused { session }
                | Event::Silent { session }
                | Event::Moved { session, .. } => {
                    // The end may be queued behind it.
                    let _ = self.sessions.is_established(session);
                }
            }
        }
        assert!(self.sessions.len() >= self.alive.len());
        let mut buf = [0; DATAGRAM_MAX];
        let mut count = 0;
        while let Some((path, len)) = self.sessions.poll_transmit(now, wall(now), &mut buf) {
            assert!((1..=DATAGRAM_MIN).contains(&len), "handshake and control fit every path");
            count += 1;
            assert!(count <= SENT_MAX, "it talks without end");
            self.send(path.remote, buf[..len].to_vec());
        }
    }

    fn send(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.traffic.entry(to).or_default().sent += datagram.len() as u64;
        self.sent.push((to, datagram));
    }

    /// Lets its timers fire, and checks that they do not fire for ever.
    pub(super) fn tick(&mut self, now: Time) {
        for _ in 0..8 {
            if self.sessions.poll_timeout().is_none_or(|at| at > now) {
                return;
            }
            self.sessions.handle_timeout(now, wall(now));
            self.flush(now);
        }
        panic!("a timer that does not move: {:?} at {now:?}", self.sessions.poll_timeout());
    }

    /// Seals `payload` on a session and sends it; what the budget forbids is not sent.
    pub(super) fn seal(
        &mut self,
        now: Time,
        key: SessionKey,
        kind: PacketKind,
        payload: &[u8],
    ) -> Option<u64> {
        let (number, packet) = self.sealed(now, key, kind, payload)?;
        let to = self.sessions.path(key)?.remote;
        self.send(to, packet);
        Some(number)
    }

    /// The same without sending.
    pub(super) fn sealed(
        &mut self,
        now: Time,
        key: SessionKey,
        kind: PacketKind,
        payload: &[u8],
    ) -> Option<(u64, Vec<u8>)> {
        let mut packet = vec![0; PACKET_OVERHEAD + payload.len()];
        packet[PAYLOAD_AT..][..payload.len()].copy_from_slice(payload);
        let expected = self.sessions.next_number(key);
        let budget = self.sessions.budget(key);
        match self.sessions.seal(now, key, kind, &mut packet) {
            Ok(number) => {
                let said = kind.series() == Series::Datagram || expected == Some(number);
                assert!(said && budget >= packet.len() as u64);
                Some((number, packet))
            }
            Err(SealError::Budget) => {
                assert!(budget < packet.len() as u64);
                None
            }
            Err(SealError::Unknown) => None,
            Err(SealError::Short) => panic!("long enough"),
        }
    }

    /// Nobody at `address` ever proved that he receives there: he gets little.
    pub(super) fn assert_no_amplification(&self, address: SocketAddr) {
        let Traffic { received, sent } = self.traffic.get(&address).copied().unwrap_or_default();
        assert!(sent <= AMPLIFICATION_MAX * received, "{sent} bytes for {received}");
    }

    /// After a time in which nobody said anything all is forgotten.
    pub(super) fn assert_forgets(&mut self, mut now: Time) {
        self.established.clone().into_iter().for_each(|key| self.sessions.set_keepalive(key, false));
        for _ in 0..10_000 {
            let Some(at) = self.sessions.poll_timeout() else { break };
            now = now.max(at);
            self.tick(now);
        }
        assert!(self.sessions.is_empty() && self.alive.is_empty(), "{:?} are left", self.alive);
    }
}

/// So much time passes: until the next timer, or as much as the script says.
pub(super) fn later(now: Time, choice: u8, amount: u16, timer: Option<Time>) -> Time {
    match choice % 4 {
        0 => timer.map_or(now, |at| now.max(at)),
        1 => now + Duration::from_micros(amount.into()),
        2 => now + Duration::from_millis(amount.into()),
        _ => now + Duration::from_millis(20 * u64::from(amount)),
    }
}

//! Nodes, a network between them that loses, delays, reorders and duplicates, and a clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Path, Rng, Time, UnixMs};
use crate::crypto::{Identity, Secret, Suite};
use crate::limits::{DATAGRAM_MAX, PACKET_OVERHEAD};
use crate::session::{Config, Event, PacketKind, Received, SealError, SessionKey, Sessions};
use crate::wire::packet::PAYLOAD_AT;

/// The wall clock at virtual time zero.
pub(super) const EPOCH: u64 = 1_700_000_000_000;

pub(super) struct Node {
    pub(super) sessions: Sessions,
    pub(super) identity: Arc<Identity>,
    pub(super) address: SocketAddr,
    /// Further sockets of it: what answers what came in there goes out from there.
    pub(super) also: Vec<SocketAddr>,
    /// Wall clock error, milliseconds.
    pub(super) skew_ms: i64,
    pub(super) events: Vec<Event>,
    pub(super) payloads: Vec<(SessionKey, Vec<u8>)>,
    pub(super) early: Vec<(SessionKey, Vec<u8>)>,
}

pub(super) struct Flying {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Pair {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) rng: Rng,
    pub(super) loss: f64,
    pub(super) duplicate: f64,
    pub(super) delay_ms: std::ops::Range<u64>,
    /// Every datagram that was sent, lost or not.
    pub(super) log: Vec<Flying>,
    flying: BTreeMap<(Time, u64), Flying>,
    count: u64,
}

pub(super) fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::new(Secret::from_bytes([seed; 32]), 0, 0))
}

pub(super) fn config(identity: &Arc<Identity>) -> Config {
    Config {
        place_floor_bits: 0,
        suite: Suite::Aes256Gcm,
        refuse_early_until: UnixMs(0),
        ..Config::new(Arc::clone(identity), b"test network", UnixMs(EPOCH))
    }
}

impl Pair {
    /// Nodes 0 and 1 at `10.0.0.1:1000` and `10.0.0.2:1000`; node 0 has the lower public key.
    pub(super) fn new(seed: u64) -> Self {
        let mut identities = [identity(1), identity(2)];
        identities.sort_by_key(|identity| identity.card().key);
        let mut pair = Self {
            now: Time::ZERO,
            nodes: Vec::new(),
            rng: Rng::from_number(seed),
            loss: 0.0,
            duplicate: 0.0,
            delay_ms: 10..11,
            log: Vec::new(),
            flying: BTreeMap::new(),
            count: 0,
        };
        for identity in identities {
            pair.add(config(&identity));
        }
        pair
    }

    pub(super) fn add(&mut self, config: Config) -> usize {
        let index = self.nodes.len();
        let identity = Arc::clone(&config.identity);
        self.nodes.push(Node {
            sessions: Sessions::new(config, self.rng.fork(), self.now),
            identity,
            address: SocketAddr::from(([10, 0, 0, index as u8 + 1], 1000)),
            also: Vec::new(),
            skew_ms: 0,
            events: Vec::new(),
            payloads: Vec::new(),
            early: Vec::new(),
        });
        index
    }

    /// The node's process ends and another begins with the same identity.
    pub(super) fn restart(&mut self, node: usize, config: Config) {
        self.nodes[node].sessions = Sessions::new(config, self.rng.fork(), self.now);
        self.nodes[node].events.clear();
    }

    pub(super) fn wall(&self, node: usize) -> UnixMs {
        UnixMs((EPOCH + self.now.0 / 1_000_000).saturating_add_signed(self.nodes[node].skew_ms))
    }

    pub(super) fn connect(&mut self, from: usize, to: usize, early: &[u8]) -> SessionKey {
        let address = self.nodes[to].address;
        self.connect_at(from, to, &[address], early)
    }

    pub(super) fn connect_at(
        &mut self,
        from: usize,
        to: usize,
        addresses: &[SocketAddr],
        early: &[u8],
    ) -> SessionKey {
        let (card, wall) = (*self.nodes[to].identity.card(), self.wall(from));
        let key = self.nodes[from].sessions.connect(self.now, wall, &card, addresses, early).unwrap();
        self.flush(from);
        key
    }

    /// Connects 0 to 1 on a perfect network; returns both keys.
    pub(super) fn connected(&mut self) -> (SessionKey, SessionKey) {
        let ours = self.connect(0, 1, b"");
        self.run_ms(200);
        let theirs = self.nodes[1].established().expect("a perfect network connects");
        assert!(self.nodes[0].sessions.is_confirmed(ours) && self.nodes[1].sessions.is_confirmed(theirs));
        (ours, theirs)
    }

    pub(super) fn seal(
        &mut self,
        node: usize,
        key: SessionKey,
        payload: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; PACKET_OVERHEAD + payload.len()];
        packet[PAYLOAD_AT..][..payload.len()].copy_from_slice(payload);
        self.nodes[node].sessions.seal(self.now, key, PacketKind::Stream, &mut packet)?;
        Ok(packet)
    }

    pub(super) fn send(&mut self, node: usize, key: SessionKey, payload: &[u8]) -> Result<(), SealError> {
        let path = self.nodes[node].sessions.path(key).ok_or(SealError::Unknown)?;
        let packet = self.seal(node, key, payload)?;
        self.launch(self.nodes[node].socket(path), path.remote, packet);
        Ok(())
    }

    pub(super) fn close(
        &mut self,
        node: usize,
        key: SessionKey,
        code: crate::session::CloseCode,
        reason: &str,
    ) {
        self.nodes[node].sessions.close(self.now, key, code, reason);
        self.flush(node);
    }

    pub(super) fn launch(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let copies = 1 + usize::from(self.rng.chance(self.duplicate));
        for _ in 0..copies {
            let spread = self.delay_ms.end - self.delay_ms.start;
            let delay = self.delay_ms.start + self.rng.below(spread);
            let lost = self.rng.chance(self.loss);
            if !lost {
                self.count += 1;
                let at = self.now + Duration::from_millis(delay);
                self.flying.insert((at, self.count), Flying { from, to, bytes: bytes.clone() });
            }
        }
        self.log.push(Flying { from, to, bytes });
    }

    /// Hands bytes to a node, as if they came from `from`; what it answers flies.
    pub(super) fn deliver(&mut self, node: usize, from: SocketAddr, bytes: &[u8]) -> Received {
        self.deliver_to(node, Path { local: self.nodes[node].address, remote: from }, bytes)
    }

    fn deliver_to(&mut self, node: usize, path: Path, bytes: &[u8]) -> Received {
        let wall = self.wall(node);
        let mut bytes = bytes.to_vec();
        let it = &mut self.nodes[node];
        let received = it.sessions.handle_datagram(self.now, wall, path, &mut bytes);
        match &received {
            Received::Packet { session, payload, .. } => {
                it.payloads.push((*session, bytes[payload.clone()].to_vec()));
            }
            Received::Early { session, payload } => {
                it.early.push((*session, bytes[payload.clone()].to_vec()))
            }
            _ => {}
        }
        self.flush(node);
        received
    }

    /// Drains a node in the documented order.
    pub(super) fn flush(&mut self, node: usize) {
        let wall = self.wall(node);
        let mut sent = VecDeque::new();
        let it = &mut self.nodes[node];
        while let Some(event) = it.sessions.poll_event() {
            it.events.push(event);
        }
        let mut buf = [0; DATAGRAM_MAX];
        while let Some((path, len)) = it.sessions.poll_transmit(self.now, wall, &mut buf) {
            assert!(len <= crate::limits::DATAGRAM_MIN, "handshake and control fit every path");
            sent.push_back((path, buf[..len].to_vec()));
        }
        for (path, bytes) in sent {
            self.launch(self.nodes[node].socket(path), path.remote, bytes);
        }
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let timer = self.nodes.iter().filter_map(|node| node.sessions.poll_timeout()).min();
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timer.into_iter().chain(arrival).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, it) = self.flying.pop_first().expect("just seen");
                let has = |node: &Node| node.address == it.to || node.also.contains(&it.to);
                if let Some(node) = self.nodes.iter().position(has) {
                    self.deliver_to(node, Path { local: it.to, remote: it.from }, &it.bytes);
                }
            } else {
                for node in 0..self.nodes.len() {
                    let wall = self.wall(node);
                    self.nodes[node].sessions.handle_timeout(self.now, wall);
                    self.flush(node);
                }
            }
        }
        self.now = end;
    }

    /// Bytes that went from one address to another so far.
    pub(super) fn bytes(&self, from: SocketAddr, to: SocketAddr) -> usize {
        self.log.iter().filter(|one| one.from == from && one.to == to).map(|one| one.bytes.len()).sum()
    }
}

impl Node {
    /// Where a packet for this path goes out.
    fn socket(&self, path: Path) -> SocketAddr {
        if self.also.contains(&path.local) { path.local } else { self.address }
    }

    /// The last session that was established and is not over.
    pub(super) fn established(&self) -> Option<SessionKey> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Established { session, .. } if self.sessions.is_established(*session) => Some(*session),
            _ => None,
        })
    }

    /// All sessions that can send.
    pub(super) fn alive(&self) -> Vec<SessionKey> {
        let mut keys: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Established { session, .. } => Some(*session),
                _ => None,
            })
            .filter(|key| self.sessions.is_established(*key))
            .collect();
        keys.dedup();
        keys
    }

    pub(super) fn received(&self) -> Vec<Vec<u8>> {
        self.payloads.iter().map(|(_, payload)| payload.clone()).collect()
    }
}

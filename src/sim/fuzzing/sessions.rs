//! Two nodes and what is between them: an authenticated peer that says anything, and an honest one behind a
//! network that does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Input;
use super::endpoint::{Endpoint, address, later};
use crate::base::Time;
use crate::crypto::Suite;
use crate::limits::{ADDRESS_TOKEN_SIZE_MAX, HANDSHAKE_MS_MAX, UNCONFIRMED_MS_MAX};
use crate::session::{CloseCode, PacketKind, Received, SessionKey};
use crate::wire::control::Control;

const STEPS_MAX: usize = 64;

fn endpoints(input: &mut Input<'_>, now: Time) -> [Endpoint; 2] {
    let mut rng = input.rng();
    let suite = |on: bool| if on { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
    let port = if input.one_in(4) { 4601 } else { 0 };
    let first = Endpoint::new(1, 1, suite(input.flag()), 0, rng.fork(), now);
    let second = Endpoint::new(2, 2, suite(input.flag()), port, rng.fork(), now);
    [first, second]
}

/// Everything that was sent arrives, until nothing more is said.
fn settle(ends: &mut [Endpoint; 2], now: Time) {
    for _ in 0..64 {
        let mut quiet = true;
        for from in 0..2 {
            for (to, datagram) in std::mem::take(&mut ends[from].sent) {
                // Both ports of a node are the same node's.
                if to.ip() == ends[1 - from].address.ip() {
                    quiet = false;
                    let source = ends[from].address;
                    ends[1 - from].receive(now, source, &datagram);
                }
            }
        }
        if quiet {
            return;
        }
    }
    panic!("two nodes talk without end");
}

fn connected(input: &mut Input<'_>, now: Time) -> Option<([Endpoint; 2], SessionKey)> {
    let mut ends = endpoints(input, now);
    let (to, at) = (std::sync::Arc::clone(&ends[1].identity), [ends[1].address]);
    let key = ends[0].connect(now, &to, &at, b"")?;
    settle(&mut ends, now);
    assert!(ends[0].sessions.is_confirmed(key) && ends[1].established.len() == 1);
    Some((ends, key))
}

fn control_payload(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = vec![0; 1300];
    let mut at = 0;
    for _ in 0..input.below(5) {
        let text = String::from_utf8_lossy(input.bytes(80)).into_owned();
        let control = match input.below(7) {
            0 => Control::Ping,
            1 => Control::Pong,
            2 => Control::Challenge(input.array()),
            3 => Control::Response(input.array()),
            4 => Control::Token(input.bytes(ADDRESS_TOKEN_SIZE_MAX)),
            5 if input.one_in(8) => Control::Close { code: CloseCode(input.half()), reason: &text },
            _ => {
                let raw = input.bytes(24);
                out[at..at + raw.len()].copy_from_slice(raw);
                at += raw.len();
                continue;
            }
        };
        at += control.put(&mut out[at..]).unwrap_or(0);
    }
    out.truncate(at);
    out
}

/// A peer that shook hands and then sends anything, from anywhere. Hosts 50 and 51 are not his: nothing that is
/// sent there ever reaches him.
pub fn peer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = Time::from_millis(1000);
    let Some((mut ends, key)) = connected(&mut input, now) else { return };
    let [hostile, node] = &mut ends;
    let theirs = node.established[0];
    let mut log: Vec<Vec<u8>> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let own = [hostile.address, address(3)];
        let from = match input.byte() % 4 {
            0 => address(50 + input.byte() % 2),
            host => own[usize::from(host) % 2],
        };
        match input.below(8) {
            0..=2 => {
                let kind = *input.pick(&[
                    PacketKind::Control,
                    PacketKind::Control,
                    PacketKind::Stream,
                    PacketKind::Datagram,
                ]);
                let payload = if kind == PacketKind::Control {
                    control_payload(&mut input)
                } else {
                    input.bytes(300).to_vec()
                };
                let Some((number, packet)) = hostile.sealed(now, key, kind, &payload) else { continue };
                match node.receive(now, from, &packet) {
                    Received::Packet { session, number: got, kind: got_kind, payload: range } => {
                        assert_eq!((session, got, got_kind), (theirs, number, kind));
                        assert_eq!(node.opened[range], payload);
                    }
                    Received::Early { .. } | Received::Foreign { .. } => panic!("no first flight, one shard"),
                    Received::Control { session, number: got } => {
                        assert_eq!((session, got, kind), (theirs, number, PacketKind::Control));
                    }
                    Received::Handled | Received::Dropped(_) => {}
                }
                log.push(packet);
            }
            3 if !log.is_empty() => {
                let mut again = log[input.below(log.len())].clone();
                if input.flag() {
                    input.mutate(&mut again);
                }
                let received = node.receive(now, from, &again);
                assert!(!matches!(received, Received::Packet { .. }), "a packet twice");
            }
            4 => {
                // What was sent to where he really is.
                for (to, datagram) in std::mem::take(&mut node.sent) {
                    if own.contains(&to) {
                        hostile.receive(now, node.address, &datagram);
                    }
                }
                hostile.sent.clear();
            }
            5 => _ = node.seal(now, theirs, PacketKind::Stream, input.bytes(600)),
            6 => match input.byte() % 8 {
                0 => {
                    node.sessions.close(now, theirs, CloseCode::LIMIT, "enough");
                    node.flush(now);
                }
                choice => node.sessions.set_keepalive(theirs, choice % 2 == 0),
            },
            _ => {
                now = later(now, input.byte(), input.half(), node.sessions.poll_timeout());
                node.tick(now);
                hostile.tick(now);
            }
        }
        node.assert_no_amplification(address(50));
        node.assert_no_amplification(address(51));
        assert!(node.sessions.len() <= 1);
    }
    node.assert_forgets(now);
}

/// What two honest nodes said and heard.
#[derive(Default)]
struct Said {
    /// Payloads sealed and not yet received, by sender.
    waiting: [BTreeSet<u64>; 2],
    /// Requests in first flights.
    early: BTreeSet<Vec<u8>>,
    next: u64,
    /// Numbers of packets received, by receiver and session.
    numbers: BTreeMap<(usize, SessionKey), BTreeSet<u64>>,
}

/// A network in the script's hands.
struct Between {
    ends: [Endpoint; 2],
    said: Said,
    now: Time,
    /// Under way: from whom, and the datagram.
    flying: Vec<(usize, Vec<u8>)>,
    log: Vec<(usize, Vec<u8>)>,
}

impl Between {
    fn take(&mut self) {
        for from in 0..2 {
            for (_, datagram) in std::mem::take(&mut self.ends[from].sent) {
                self.log.push((from, datagram.clone()));
                self.flying.push((from, datagram));
            }
        }
    }

    fn deliver(&mut self, from: usize, source: std::net::SocketAddr, datagram: &[u8]) {
        let to = 1 - from;
        match self.ends[to].receive(self.now, source, datagram) {
            Received::Packet { session, number, kind, payload } => {
                assert_eq!(kind, PacketKind::Stream);
                let payload = self.ends[to].opened[payload].try_into().expect("eight bytes were sent");
                let payload = u64::from_le_bytes(payload);
                assert!(self.said.waiting[from].remove(&payload), "{payload} is heard once, and was said");
                assert!(self.said.numbers.entry((to, session)).or_default().insert(number));
            }
            Received::Early { payload, .. } => {
                let request = &self.ends[to].opened[payload];
                assert!(self.said.early.contains(request), "a request that was made");
            }
            Received::Control { session, number } => {
                assert!(self.said.numbers.entry((to, session)).or_default().insert(number));
            }
            Received::Foreign { .. } => panic!("there is one shard"),
            Received::Handled | Received::Dropped(_) => {}
        }
        self.take();
    }

    fn connect(&mut self, from: usize, early: &[u8]) {
        let to = std::sync::Arc::clone(&self.ends[1 - from].identity);
        let at = [self.ends[1 - from].address, address(77)];
        if !early.is_empty() {
            self.said.early.insert(early.to_vec());
        }
        self.ends[from].connect(self.now, &to, &at[..1 + early.len() % 2], early);
        self.take();
    }

    /// Says something new; whether the session let it.
    fn say(&mut self, from: usize, key: SessionKey) -> bool {
        let payload = self.said.next;
        let sealed =
            self.ends[from].seal(self.now, key, PacketKind::Stream, &payload.to_le_bytes()).is_some();
        if sealed {
            self.said.next += 1;
            self.said.waiting[from].insert(payload);
        }
        self.take();
        sealed
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let side = usize::from(input.flag());
        let at = input.below(self.flying.len().max(1));
        match input.below(12) {
            0 => {
                let early = input.bytes(20);
                self.connect(side, early);
            }
            1..=4 if !self.flying.is_empty() => {
                let (from, datagram) = self.flying.remove(at);
                self.deliver(from, self.ends[from].address, &datagram);
            }
            5 if !self.flying.is_empty() => _ = self.flying.remove(at),
            6 if !self.log.is_empty() => {
                let (from, mut datagram) = self.log[input.below(self.log.len())].clone();
                let source = match input.byte() % 4 {
                    0 => address(60 + input.byte() % 2),
                    _ => self.ends[from].address,
                };
                if input.flag() {
                    input.mutate(&mut datagram);
                }
                // Mirrored, too.
                let from = if input.one_in(8) { 1 - from } else { from };
                self.deliver(from, source, &datagram);
            }
            7 | 8 => {
                let keys = &self.ends[side].established;
                if let Some(key) = keys.get(input.below(keys.len().max(1))).copied() {
                    _ = self.say(side, key);
                }
            }
            9 => {
                let keys: Vec<_> = self.ends[side].alive.iter().copied().collect();
                if let Some(key) = keys.get(input.below(keys.len().max(1))) {
                    if input.one_in(4) {
                        self.ends[side].sessions.close(self.now, *key, CloseCode::GOODBYE, "bye");
                    } else {
                        self.ends[side].sessions.set_keepalive(*key, input.flag());
                    }
                    self.ends[side].flush(self.now);
                    self.take();
                }
            }
            _ => {
                let timer = self.ends.iter().filter_map(|end| end.sessions.poll_timeout()).min();
                self.now = later(self.now, input.byte(), input.half(), timer);
                self.ends.iter_mut().for_each(|end| end.tick(self.now));
                self.take();
            }
        }
        // Addresses at which nobody ever answers.
        for end in &self.ends {
            end.assert_no_amplification(address(60));
            end.assert_no_amplification(address(61));
        }
    }

    /// Runs on a perfect network for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..20_000 {
            while !self.flying.is_empty() {
                for (from, datagram) in std::mem::take(&mut self.flying) {
                    self.deliver(from, self.ends[from].address, &datagram);
                }
                self.now += Duration::from_millis(5);
                self.ends.iter_mut().for_each(|end| end.tick(self.now));
                self.take();
            }
            let timer = self.ends.iter().filter_map(|end| end.sessions.poll_timeout()).min();
            let Some(timer) = timer.filter(|at| *at <= end) else { return };
            self.now = self.now.max(timer);
            self.ends.iter_mut().for_each(|end| end.tick(self.now));
            self.take();
        }
        panic!("two nodes talk without end");
    }
}

/// Two honest nodes, and a network that loses, repeats, changes and turns datagrams around as the script says:
/// nothing is heard that was not said, nothing twice; and once the network behaves, they find each other.
pub fn pair(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = Time::from_millis(1000);
    let ends = endpoints(&mut input, now);
    let mut between = Between { ends, said: Said::default(), now, flying: Vec::new(), log: Vec::new() };
    between.connect(0, b"");
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        between.step(&mut input);
    }
    // Whatever half-done handshakes are left, they end, and then a new one does not fail.
    between.flying.clear();
    between.run(Duration::from_millis(HANDSHAKE_MS_MAX + UNCONFIRMED_MS_MAX));
    between.connect(1, b"");
    between.run(Duration::from_millis(HANDSHAKE_MS_MAX));
    for side in 0..2 {
        let heard = |key: &&SessionKey| between.ends[side].sessions.is_confirmed(**key);
        let count = between.ends[side].established.iter().filter(heard).count();
        assert_eq!(count, 1, "side {side} has one session");
    }
    for side in 0..2 {
        let sessions = &between.ends[side].sessions;
        let key = between.ends[side].established.iter().copied().find(|key| sessions.is_confirmed(*key));
        let said = between.said.next;
        assert!(between.say(side, key.expect("counted")), "a confirmed session takes what is said");
        assert!(between.said.waiting[side].contains(&said));
        between.run(Duration::from_millis(100));
        assert!(!between.said.waiting[side].contains(&said), "what is said now is heard");
    }
    for side in 0..2 {
        between.ends[side].assert_forgets(between.now);
    }
}
